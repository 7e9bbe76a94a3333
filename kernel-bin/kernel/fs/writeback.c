// SPDX-License-Identifier: Apache-2.0
//
// Write-back. Inodes with dirty pages are on one list, oldest first, each with a reference of the list's; dirty_lock
// (spin, RANK_OBJECT2, inside memobj.lock) guards it. The flusher thread writes what is older than 5 s, or everything
// when too much is dirty. inode->wb_busy lets one thread at a time write an inode back: whoever has it knows that nothing
// of the inode is on its way, so fsync needs only to have it and to write what is dirty.
#include "fs/internal.h"

#define AGE_NS (5 * NS_PER_SEC)
static struct spinlock dirty_lock = SPINLOCK_INIT(RANK_OBJECT2);
static struct list dirty_inodes = LIST_INIT(dirty_inodes);
static struct waitq flusher_wait = WAITQ_INIT(flusher_wait), busy_wait = WAITQ_INIT(busy_wait);
static bool kicked;

int fsize_check(struct file *f, u64 pos, u64 *len) {
  u64 limit = fs_fsize_limit();
  if (likely(limit == ~0ull)) return 0;
  if (pos >= limit) {
    fs_fsize_signal();
    return -EFBIG;
  }
  *len = MIN(*len, limit - pos);
  return 0;
}

static u64 dirty_limit(void) { return MIN(page_total_count() / 8, 65536ull); }

void writeback_note_dirty(struct inode *i) {
  bool first = false;
  spin_lock(&dirty_lock);
  if (list_empty(&i->dirty_link) && ref_get_unless_zero(&i->refs)) {
    i->dirtied_ns = time_ns();
    first = list_empty(&dirty_inodes);
    list_push_back(&dirty_inodes, &i->dirty_link);
  }
  spin_unlock(&dirty_lock);
  if (first) waitq_wake_all(&flusher_wait); // it sleeps without a deadline when there is nothing
}

void writeback_kick(void) {
  WRITE_ONCE(kicked, true);
  waitq_wake_all(&flusher_wait);
}

// The next run of dirty pages at or after *index: locked, referenced, consecutive, marks cleared, write access taken away
// from mappings. 0: none left.
static unsigned take_run(struct inode *i, u64 *index, u64 last, struct page **pages) {
  unsigned n = 0, keep = 0;
  spin_lock(&i->mem.lock);
  u64 at = *index;
  struct page *p = radix_next(&i->mem.pages, &at, DIRTY_MARK);
  *index = at;
  while (p && at <= last && n < RA_MAX) {
    pages[n++] = page_get(p);
    p = radix_marked(&i->mem.pages, ++at, DIRTY_MARK) ? radix_get(&i->mem.pages, at) : NULL;
  }
  spin_unlock(&i->mem.lock);
  for (unsigned k = 0; k < n; k++) page_lock(pages[k]); // ascending, and nobody else holds two: no deadlock
  bool mapped = false;
  spin_lock(&i->mem.lock);
  while (keep < n && pages[keep]->cache.obj == &i->mem && radix_marked(&i->mem.pages, *index + keep, DIRTY_MARK)) {
    // The mark goes before write access does, and the data is read after both. A store through a mapping after that
    // comes with a fault, which marks the page again; a write() marks it after its copy.
    radix_unmark(&i->mem.pages, *index + keep, DIRTY_MARK);
    page_set_flag(pages[keep], PG_WRITEBACK);
    page_clear_flag(pages[keep], PG_DIRTY);
    keep++;
  }
  i->nr_dirty -= keep;
  __atomic_sub_fetch(&dirty_pages, keep, __ATOMIC_RELAXED);
  mapped = !list_empty(&i->mem.areas);
  spin_unlock(&i->mem.lock);
  for (unsigned k = keep; k < n; k++) {
    page_unlock(pages[k]);
    page_put(pages[k]);
  }
  if (keep && mapped) memobj_unmap(&i->mem, *index, keep, true);
  for (unsigned k = 0; k < keep; k++) page_clear_flag(pages[k], PG_WRITEBACK);
  return n && !keep ? ~0u : keep; // ~0: they went while we waited; look again
}

static bool busy_take(struct inode *i) { return __atomic_exchange_n(&i->wb_busy, 1, __ATOMIC_ACQUIRE) == 0; }

static int write_range(struct inode *i, u64 first, u64 last, int mode) {
  if (!i->ops->write_pages) return 0;
  struct page **pages = kmalloc(RA_MAX * sizeof *pages, 0);
  if (!pages) return -ENOMEM;
  int r = wait_event_deadline_mode(&busy_wait, busy_take(i), WAIT_FOREVER, mode);
  if (r) {
    kfree(pages);
    return r;
  }
  u64 index = first;
  unsigned n;
  while (index <= last && (n = take_run(i, &index, last, pages)) != 0) {
    if (n == ~0u) continue;
    r = i->ops->write_pages(i, pages, n, index);
    if (r == -ERESTARTSYS || r == -EINTR)
      for (unsigned k = 0; k < n; k++) pagecache_set_dirty(i, pages[k]);
    else if (r) i->wb_err = r; // the data is lost; fsync says so, once
    for (unsigned k = 0; k < n; k++) {
      page_unlock(pages[k]);
      page_put(pages[k]);
    }
    if (r == -ERESTARTSYS || r == -EINTR) break;
    r = 0;
    index += n;
  }
  __atomic_store_n(&i->wb_busy, 0, __ATOMIC_RELEASE);
  waitq_wake_all(&busy_wait);
  kfree(pages);
  return r;
}

int pagecache_writeback(struct inode *i, u64 first, u64 last) {
  int r = write_range(i, first, last, WAIT_INTERRUPTIBLE);
  int err = READ_ONCE(i->wb_err) ? __atomic_exchange_n(&i->wb_err, 0, __ATOMIC_ACQ_REL) : 0;
  return r ? r : err;
}

int pagecache_fsync(struct file *f, u64 start, u64 len, bool data_only) {
  struct inode *i = f->inode;
  u64 last = len && len < ~0ull - start ? (start + len - 1) >> PAGE_SHIFT : ~0ull;
  return pagecache_writeback(i, start >> PAGE_SHIFT, last);
}

void writeback_throttle(struct inode *i) {
  u64 d = READ_ONCE(dirty_pages), limit = dirty_limit();
  if (likely(d < limit / 2)) return;
  if (d < limit) writeback_kick();
  else if (write_range(i, 0, ~0ull, WAIT_INTERRUPTIBLE)) {} // a signal ends the throttling, not the write
}

// The oldest dirty inode that was dirtied before `before`, off the list, with the list's reference.
static struct inode *take_inode(u64 before) {
  struct inode *i = NULL;
  spin_lock(&dirty_lock);
  if (!list_empty(&dirty_inodes)) {
    struct inode *first = list_first_entry(&dirty_inodes, struct inode, dirty_link);
    if (first->dirtied_ns <= before) {
      list_remove(&first->dirty_link);
      i = first;
    }
  }
  spin_unlock(&dirty_lock);
  return i;
}

static void flush_before(u64 before) {
  struct inode *i;
  while ((i = take_inode(before)) != NULL) {
    // The list's reference is the last one and no name leads here: nobody will ever read it.
    if (!i->nlink && ref_read(&i->refs) == 1 && ref_read(&i->mem.refs) == 1) pagecache_remove_range(i, 0, ~0ull);
    else if (write_range(i, 0, ~0ull, WAIT_UNINTERRUPTIBLE) == -ENOMEM) {
      spin_lock(&i->mem.lock);
      if (i->nr_dirty) writeback_note_dirty(i); // later
      spin_unlock(&i->mem.lock);
      inode_put(i);
      return;
    }
    inode_put(i);
  }
}

static bool work_due(u64 *deadline) {
  bool kick = READ_ONCE(kicked);
  spin_lock(&dirty_lock);
  *deadline = list_empty(&dirty_inodes) ? WAIT_FOREVER : list_first_entry(&dirty_inodes, struct inode, dirty_link)->dirtied_ns + AGE_NS;
  spin_unlock(&dirty_lock);
  return kick || (*deadline != WAIT_FOREVER && time_ns() >= *deadline);
}

static void flusher(void *arg) {
  for (;;) {
    u64 deadline;
    struct waiter w = { .thread = thread_current() };
    list_init(&w.link);
    while (!work_due(&deadline)) {
      wait_prepare(&flusher_wait, &w, WAIT_UNINTERRUPTIBLE);
      if (!work_due(&deadline)) (void)!wait_sleep(deadline, WAIT_UNINTERRUPTIBLE);
      wait_finish(&flusher_wait, &w);
    }
    bool all = __atomic_exchange_n(&kicked, false, __ATOMIC_ACQ_REL);
    u64 now = time_ns();
    flush_before(all ? now : now - MIN(now, AGE_NS));
  }
}

void fs_sync_all(void) {
  struct mount *m;
  flush_before(time_ns());
  list_for_each(m, &mounts, link) // only ever added to
    if (m->super->sync && m->super->sync(m->super)) {}
}

void writeback_init(void) {
  struct thread *t = kthread_run("flusher", flusher, NULL);
  if (t) thread_put(t);
}

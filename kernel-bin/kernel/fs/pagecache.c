// SPDX-License-Identifier: Apache-2.0
//
// The page cache: file data in pages, one radix tree per inode (memobj.pages). Rules:
// - memobj.lock (spin, RANK_PAGE) guards the tree, its dirty marks, nr_pages and nr_dirty; a lookup takes its reference
//   under it, so refs == 1 seen under it means that only the cache has the page.
// - PG_LOCKED is held while a page is being read, written back or removed. Pages leave the tree only by whoever holds it,
//   with cache.obj set to NULL under memobj.lock: holding the lock of a page whose obj is set pins the object.
// - Data of uptodate pages is read and written without the page lock. Writers and truncation hold inode->lock.
// - lru_lock (spin, RANK_OBJECT2, inside memobj.lock) guards the list of pages that reclaim may take. Pages of storage
//   file systems (tmpfs) are not on it.
// User memory is copied with inode->lock held at most: no fault ever takes that one (get_page does not).
#include "fs/internal.h"

static struct waitq page_waits[64];
static struct spinlock lru_lock = SPINLOCK_INIT(RANK_OBJECT2);
static struct list lru_pages = LIST_INIT(lru_pages);
u64 cached_pages, dirty_pages;

// --- page lock
static struct waitq *waits_of(const struct page *p) { return &page_waits[((uintptr_t)p >> 6) % ARRAY_SIZE(page_waits)]; }
bool page_trylock(struct page *p) { return !page_set_flag(p, PG_LOCKED); }
void page_lock(struct page *p) {
  while (!page_trylock(p)) wait_event(waits_of(p), !page_test(p, PG_LOCKED));
}
void page_unlock(struct page *p) {
  struct waitq *q = waits_of(p); // after the flag is clear, the page may go
  page_clear_flag(p, PG_LOCKED);
  if (waitq_active(q)) waitq_wake_all(q);
}

void pagecache_init(void) {
  for (size_t i = 0; i < ARRAY_SIZE(page_waits); i++) waitq_init(&page_waits[i]);
  page_set_reclaim(pagecache_reclaim);
}

static inline struct inode *inode_of(struct memobj *o) { return container_of(o, struct inode, mem); }
static inline bool storage(const struct inode *i) { return (i->super->flags & SUPER_STORAGE) != 0; }
static inline u64 pages_of(u64 size) { return (size >> PAGE_SHIFT) + ((size & (PAGE_SIZE - 1)) != 0); }

// --- the tree
static int charge(struct inode *i, u64 n) {
  struct super *s = i->super;
  if (!s->page_limit) return 0;
  if (__atomic_add_fetch(&s->pages_used, n, __ATOMIC_RELAXED) <= s->page_limit) return 0;
  __atomic_sub_fetch(&s->pages_used, n, __ATOMIC_RELAXED);
  return -ENOSPC;
}
static void uncharge(struct inode *i, u64 n) {
  if (i->super->page_limit) __atomic_sub_fetch(&i->super->pages_used, n, __ATOMIC_RELAXED);
}

static int insert_locked(struct inode *i, u64 index, struct page *p) {
  p->cache.obj = &i->mem;
  p->cache.index = index;
  p->cache.mapcount = 0;
  int r = radix_insert(&i->mem.pages, index, p);
  if (r) {
    p->cache.obj = NULL;
    return r;
  }
  page_get(p);
  i->nr_pages++;
  __atomic_add_fetch(&cached_pages, 1, __ATOMIC_RELAXED);
  return 0;
}

static void lru_add(struct page *p) { // lru_lock held
  list_push_back(&lru_pages, &p->link);
  page_set_flag(p, PG_LRU);
}

int pagecache_insert(struct inode *i, u64 index, struct page *p) {
  int r = charge(i, 1);
  if (r) return r;
  for (unsigned tries = 0;; tries++) {
    spin_lock(&i->mem.lock);
    r = insert_locked(i, index, p);
    if (!r && !storage(i)) {
      spin_lock(&lru_lock);
      lru_add(p);
      spin_unlock(&lru_lock);
    }
    spin_unlock(&i->mem.lock);
    if (r != -ENOMEM || tries == 2 || !pagecache_reclaim(64)) break;
  }
  if (r) uncharge(i, 1);
  return r;
}

unsigned pagecache_insert_run(struct inode *i, u64 index, struct page **pages, unsigned n) {
  unsigned k = 0;
  spin_lock(&i->mem.lock);
  while (k < n && !insert_locked(i, index + k, pages[k])) k++;
  spin_lock(&lru_lock);
  for (unsigned j = 0; j < k; j++) lru_add(pages[j]);
  spin_unlock(&lru_lock);
  spin_unlock(&i->mem.lock);
  return k;
}

static void clear_dirty_locked(struct inode *i, struct page *p) {
  page_clear_flag(p, PG_DIRTY);
  if (!radix_marked(&i->mem.pages, p->cache.index, DIRTY_MARK)) return;
  radix_unmark(&i->mem.pages, p->cache.index, DIRTY_MARK);
  i->nr_dirty--;
  __atomic_sub_fetch(&dirty_pages, 1, __ATOMIC_RELAXED);
}

// memobj.lock and the page's lock are held. The caller drops the cache's reference after both.
static void remove_locked(struct inode *i, struct page *p) {
  if (!storage(i)) {
    clear_dirty_locked(i, p);
    spin_lock(&lru_lock);
    list_remove(&p->link);
    page_clear_flag(p, PG_LRU);
    spin_unlock(&lru_lock);
  }
  radix_remove(&i->mem.pages, p->cache.index);
  p->cache.obj = NULL;
  i->nr_pages--;
  __atomic_sub_fetch(&cached_pages, 1, __ATOMIC_RELAXED);
}

static struct page *find(struct inode *i, u64 index) {
  spin_lock(&i->mem.lock);
  struct page *p = radix_get(&i->mem.pages, index);
  if (p) page_get(p);
  spin_unlock(&i->mem.lock);
  return p;
}

bool pagecache_has(struct inode *i, u64 index) {
  spin_lock(&i->mem.lock);
  bool r = radix_get(&i->mem.pages, index) != NULL;
  spin_unlock(&i->mem.lock);
  return r;
}

static unsigned find_uptodate(struct inode *i, u64 index, unsigned n, struct page **out) {
  unsigned k = 0;
  spin_lock(&i->mem.lock);
  for (; k < n; k++) {
    struct page *p = radix_get(&i->mem.pages, index + k);
    if (!p || !page_test(p, PG_UPTODATE)) break;
    out[k] = page_get(p);
  }
  spin_unlock(&i->mem.lock);
  return k;
}

// Removes the pages of [first, last], only clean ones when clean_only; mappings of what went are cut afterwards, so that
// a fault that found a page before has mapped it by then or sees that obj is NULL.
static void remove_range(struct inode *i, u64 first, u64 last, bool clean_only) {
  struct page *gone[16];
  bool any = false;
  u64 index = first;
  for (;;) {
    unsigned n = 0;
    struct page *busy = NULL;
    spin_lock(&i->mem.lock);
    while (n < ARRAY_SIZE(gone)) {
      struct page *p = radix_next(&i->mem.pages, &index, -1);
      if (!p || index > last) break;
      bool skip = clean_only && radix_marked(&i->mem.pages, index, DIRTY_MARK);
      if (!skip && !page_trylock(p)) {
        busy = page_get(p);
        break;
      }
      if (!skip) {
        remove_locked(i, p);
        gone[n++] = p;
      }
      if (index++ == ~0ull) break;
    }
    spin_unlock(&i->mem.lock);
    for (unsigned k = 0; k < n; k++) {
      page_unlock(gone[k]);
      page_put(gone[k]);
    }
    uncharge(i, n);
    any |= n > 0;
    if (busy) { // being read or written: wait, then look at this place again
      wait_event(waits_of(busy), !page_test(busy, PG_LOCKED));
      page_put(busy);
    } else if (n < ARRAY_SIZE(gone)) {
      break;
    }
  }
  // The object's last reference has no mappings; else the list may be read without its lock: a new area faults later.
  if (any && !list_empty(&i->mem.areas)) memobj_unmap(&i->mem, first, MIN(last, BIT(52)) - first + 1, false);
}

void pagecache_remove_range(struct inode *i, u64 first, u64 last) { remove_range(i, first, last, false); }
void pagecache_invalidate(struct inode *i) { remove_range(i, 0, ~0ull, true); }
// Advice from anybody who has the file open: not while a write() copies into a page that it has not marked dirty yet.
void pagecache_discard(struct inode *i, u64 first, u64 last) {
  if (storage(i) || !mutex_trylock(&i->lock)) return;
  remove_range(i, first, last, true);
  mutex_unlock(&i->lock);
}

void pagecache_zero_range(struct inode *i, u64 from, u64 to) {
  if (from >= to) return;
  struct page *p = find(i, from >> PAGE_SHIFT);
  if (!p) return;
  page_lock(p); // not while it is being read
  if (p->cache.obj == &i->mem && page_test(p, PG_UPTODATE))
    memset((u8 *)page_virt(p) + (from & (PAGE_SIZE - 1)), 0, to - from);
  page_unlock(p);
  page_put(p);
}

void pagecache_truncate(struct inode *i, u64 size) {
  u64 old = i->size;
  WRITE_ONCE(i->size, size);
  if (size < old) {
    remove_range(i, pages_of(size), ~0ull, false);
    if (size & (PAGE_SIZE - 1)) pagecache_zero_range(i, size, ALIGN_UP(size, PAGE_SIZE));
  } else if (old & (PAGE_SIZE - 1)) {
    pagecache_zero_range(i, old, MIN(size, ALIGN_UP(old, PAGE_SIZE))); // what a mapping left behind the end
  }
}

// --- reclaim: clean pages, oldest first, with a second chance for those used meanwhile. A page that only mappings hold
// besides the cache is taken out of them, together with its neighbours, and goes the next time if nobody came back for it.
#define UNMAP_AROUND 16u

// The next candidate, locked; NULL when the list was looked at in vain.
static struct page *lru_take(u64 *budget) {
  struct page *p = NULL;
  spin_lock(&lru_lock);
  for (unsigned scan = 0; scan < 64 && *budget && !p && !list_empty(&lru_pages); scan++, --*budget) {
    struct page *q = list_first_entry(&lru_pages, struct page, link);
    list_remove(&q->link);
    list_push_back(&lru_pages, &q->link);
    if (!page_clear_flag(q, PG_ACCESSED) && !page_test(q, PG_DIRTY) && page_trylock(q)) p = q;
  }
  if (list_empty(&lru_pages)) *budget = 0;
  spin_unlock(&lru_lock);
  return p;
}

u64 pagecache_reclaim(u64 npages) {
  u64 freed = 0, budget = READ_ONCE(cached_pages) * 3 + 64;
  // The allocator asks a few times at most, and each time what it got must clear its reserve (page/buddy.c: 1/64, up to
  // 4096 pages): four times this does.
  npages = MAX(npages, MIN(page_total_count() / 64, 1024ull) + 64);
  while (freed < npages && budget) {
    struct page *p = lru_take(&budget);
    if (!p) continue;
    struct memobj *o = p->cache.obj; // pinned by the page's lock: on the LRU and locked, so it is still in the tree
    u64 index = p->cache.index;
    spin_lock(&o->lock);
    bool ok = ref_read(&p->refs) == 1 && !radix_marked(&o->pages, index, DIRTY_MARK);
    bool mapped = !ok && !list_empty(&o->areas);
    if (ok) remove_locked(inode_of(o), p);
    spin_unlock(&o->lock);
    if (mapped) memobj_unmap(o, ALIGN_DOWN(index, UNMAP_AROUND), UNMAP_AROUND, false);
    page_unlock(p);
    if (ok) page_put(p);
    freed += ok;
  }
  if (freed < npages && READ_ONCE(dirty_pages)) writeback_kick();
  return freed;
}

void pagecache_counts(u64 *cached, u64 *dirty) {
  *cached = READ_ONCE(cached_pages);
  *dirty = READ_ONCE(dirty_pages);
}

// --- bringing pages in
void pagecache_end_read(struct page **pages, unsigned n, int err) {
  for (unsigned k = 0; k < n; k++) {
    if (!err) page_set_flag(pages[k], PG_UPTODATE);
    page_unlock(pages[k]);
  }
}

// Reads one page that is there but not uptodate (its first read failed, or is still going on). Consumes nothing.
static int reread(struct inode *i, struct page *p) {
  while (!page_trylock(p)) {
    int r = wait_event_interruptible(waits_of(p), !page_test(p, PG_LOCKED));
    if (r) return r;
    if (page_test(p, PG_UPTODATE)) return 0;
  }
  if (p->cache.obj != &i->mem || page_test(p, PG_UPTODATE)) {
    page_unlock(p);
    return 0;
  }
  int r = i->ops->read_pages(i, &p, 1, p->cache.index);
  if (r) return r;
  r = wait_event_interruptible(waits_of(p), !page_test(p, PG_LOCKED));
  if (r) return r;
  return page_test(p, PG_UPTODATE) ? 0 : -EIO;
}

int pagecache_get(struct inode *i, u64 index, u64 want, bool alloc, struct readahead ra, struct page **out) {
  for (;;) {
    struct page *p = find(i, index);
    int r;
    if (!p) {
      if (i->ops->read_pages && index < pages_of(READ_ONCE(i->size))) {
        if ((r = readahead_miss(i, ra, index, want))) return r;
        continue;
      }
      *out = NULL;
      if (!alloc) return 0;
      p = page_alloc(0, ALLOC_ZERO | ALLOC_USER);
      if (!p) return -ENOMEM;
      page_set_flag(p, PG_UPTODATE);
      r = pagecache_insert(i, index, p);
      if (r) {
        page_put(p);
        if (r == -EEXIST) continue;
        return r;
      }
      *out = p;
      return 0;
    }
    if (!page_test(p, PG_UPTODATE)) {
      r = reread(i, p);
      if (r || !page_test(p, PG_UPTODATE)) { // failed, or truncated meanwhile
        page_put(p);
        if (r) return r;
        continue;
      }
    }
    *out = p;
    return 0;
  }
}

void pagecache_set_dirty(struct inode *i, struct page *p) {
  if (storage(i) || !i->ops->write_pages) return;
  // A full barrier between the data's stores and this look: if the flag is still set, whoever clears it reads the data later.
  if (page_set_flag(p, PG_DIRTY)) return;
  spin_lock(&i->mem.lock);
  if (p->cache.obj == &i->mem) {
    page_set_flag(p, PG_DIRTY);
    if (!radix_marked(&i->mem.pages, p->cache.index, DIRTY_MARK)) {
      radix_mark(&i->mem.pages, p->cache.index, DIRTY_MARK);
      i->nr_dirty++;
      __atomic_add_fetch(&dirty_pages, 1, __ATOMIC_RELAXED);
    }
    if (list_empty(&i->dirty_link)) writeback_note_dirty(i);
  }
  spin_unlock(&i->mem.lock);
}

// --- read
long pagecache_read(struct file *f, struct iter *it, u64 *pos) {
  struct inode *i = f->inode;
  struct readahead ra = { &f->ra_next, &f->ra_window };
  struct page *batch[16];
  long total = 0;
  int r = 0;
  if (S_ISDIR(i->mode)) return -EISDIR;
  while (it->left) {
    u64 size = READ_ONCE(i->size);
    if (*pos >= size) break;
    u64 n = MIN(it->left, size - *pos);
    u64 want = pages_of((*pos & (PAGE_SIZE - 1)) + n);
    unsigned got = find_uptodate(i, *pos >> PAGE_SHIFT, (unsigned)MIN(want, ARRAY_SIZE(batch)), batch);
    if (!got) {
      if ((r = pagecache_get(i, *pos >> PAGE_SHIFT, want, false, ra, &batch[0]))) break;
      if (!batch[0]) { // a hole
        u64 chunk = MIN(n, PAGE_SIZE - (*pos & (PAGE_SIZE - 1)));
        size_t done = iter_zero(it, chunk);
        *pos += done;
        total += (long)done;
        if (done < chunk) {
          r = -EFAULT;
          break;
        }
        continue;
      }
      got = 1;
    }
    for (unsigned k = 0; k < got; k++) {
      struct page *p = batch[k];
      u64 off = *pos & (PAGE_SIZE - 1), chunk = MIN(n, PAGE_SIZE - off);
      size_t done = 0;
      if (!r) {
        if (unlikely(page_test(p, PG_READAHEAD))) readahead_hit(i, ra, p);
        if (!page_test(p, PG_ACCESSED)) page_set_flag(p, PG_ACCESSED);
        done = iter_to(it, (u8 *)page_virt(p) + off, chunk);
        if (done < chunk) r = -EFAULT;
      }
      page_put(p);
      *pos += done;
      n -= done;
      total += (long)done;
    }
    if (r) break;
    sched_yield_if_needed();
  }
  if (total && !(f->flags & O_NOATIME)) inode_touch_atime(i);
  return total ? total : r;
}

// --- write
// One page's worth. The page is copied into without its lock (see the top); a page that is not there yet is filled
// privately first, so that nobody ever sees it half made.
static long write_page(struct inode *i, struct iter *it, u64 pos, u64 chunk, struct readahead ra) {
  u64 index = pos >> PAGE_SHIFT, off = pos & (PAGE_SIZE - 1);
  struct page *p = find(i, index), *fresh = NULL;
  size_t done = 0;
  bool backed = i->ops->read_pages && index < pages_of(i->size); // its other bytes are on the host
  int r = 0;
  if (!p && (!backed || chunk == PAGE_SIZE || (!off && pos + chunk >= i->size))) {
    fresh = page_alloc(0, ALLOC_USER | (chunk == PAGE_SIZE ? 0 : ALLOC_ZERO));
    if (!fresh) return -ENOMEM;
    done = iter_from(it, (u8 *)page_virt(fresh) + off, chunk);
    if (chunk == PAGE_SIZE && done < chunk) memset((u8 *)page_virt(fresh) + done, 0, PAGE_SIZE - done);
    if (!done) r = -EFAULT;
    else if (done == chunk || !backed) {
      page_set_flag(fresh, PG_UPTODATE);
      r = pagecache_insert(i, index, fresh);
      if (!r) {
        pagecache_set_dirty(i, fresh);
        page_put(fresh);
        return (long)done;
      }
      if (r == -EEXIST) r = 0;
    }
    if (r) goto out;
  } else if (p && !page_test(p, PG_UPTODATE)) {
    page_put(p);
    p = NULL;
  }
  if (!p && (r = pagecache_get(i, index, 1, true, ra, &p))) goto out;
  if (fresh) memcpy((u8 *)page_virt(p) + off, (u8 *)page_virt(fresh) + off, done);
  else done = iter_from(it, (u8 *)page_virt(p) + off, chunk);
  if (done) pagecache_set_dirty(i, p);
  else r = -EFAULT;
  if (!page_test(p, PG_ACCESSED)) page_set_flag(p, PG_ACCESSED);
  page_put(p);
out:
  if (fresh) page_put(fresh);
  return r ? r : (long)done;
}

long pagecache_write(struct file *f, struct iter *it, u64 *pos) {
  struct inode *i = f->inode;
  struct readahead ra = { &f->ra_next, &f->ra_window };
  long total = 0;
  u64 left = it->left;
  if (!left) return 0;
  int r = mutex_lock_interruptible(&i->lock);
  if (r) return r;
  if (f->flags & O_APPEND) *pos = i->size;
  if (*pos > INT64_MAX - PAGE_SIZE) r = -EFBIG;
  else left = MIN(left, INT64_MAX - PAGE_SIZE - *pos);
  if (!r) r = fsize_check(f, *pos, &left);
  if (!r && i->seals && ((i->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) || ((i->seals & F_SEAL_GROW) && *pos + left > i->size))) r = -EPERM;
  if (r) goto out;
  if (unlikely(i->mode & (S_ISUID | S_ISGID)) && fs_cred()->fsuid)
    i->mode &= ~(u32)(S_ISUID | (i->mode & S_IXGRP ? S_ISGID : 0));
  if (*pos > i->size && (i->size & (PAGE_SIZE - 1)) && !list_empty(&i->mem.areas))
    pagecache_zero_range(i, i->size, MIN(*pos, ALIGN_UP(i->size, PAGE_SIZE)));
  while (left) {
    u64 chunk = MIN(left, PAGE_SIZE - (*pos & (PAGE_SIZE - 1)));
    long n = write_page(i, it, *pos, chunk, ra);
    if (n < 0) {
      r = (int)n;
      break;
    }
    *pos += (u64)n;
    left -= (u64)n;
    total += n;
    if (*pos > i->size) WRITE_ONCE(i->size, *pos); // after the data: a reader that sees the size sees the bytes
    if ((u64)n < chunk) break;
    sched_yield_if_needed();
  }
  if (total) i->mtime = i->ctime = time_now_ts();
out:
  mutex_unlock(&i->lock);
  if (!total) return r;
  writeback_throttle(i);
  return total;
}

// --- mappings
static int cache_get_page(struct memobj *o, u64 index, bool write, struct page **out) {
  struct inode *i = inode_of(o);
  struct readahead ra = { &i->ra_next, &i->ra_window };
  if (index >= pages_of(READ_ONCE(i->size))) return -EFAULT;
  int r = pagecache_get(i, index, 32, true, ra, out);
  if (r) return r == -ENOSPC ? -EFAULT : r;
  if (!page_test(*out, PG_ACCESSED)) page_set_flag(*out, PG_ACCESSED);
  if (write) {
    writeback_throttle(i);
    pagecache_set_dirty(i, *out);
    i->mtime = i->ctime = time_now_ts();
  }
  return 0;
}

static void cache_peek_pages(struct memobj *o, u64 index, unsigned n, struct page **out) {
  u64 end = pages_of(READ_ONCE(inode_of(o)->size));
  spin_lock(&o->lock);
  for (unsigned k = 0; k < n; k++) {
    struct page *p = index + k < end ? radix_get(&o->pages, index + k) : NULL;
    out[k] = p && page_test(p, PG_UPTODATE) ? page_get(p) : NULL;
  }
  spin_unlock(&o->lock);
}

// An entry became writable, or the kernel wrote for a program. While write-back is taking write access away, what was
// stored so far is about to be copied: marking the page again would only write it twice.
static void cache_set_dirty(struct memobj *o, struct page *p) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // the stores that this stands for, then the look
  if (!page_test(p, PG_WRITEBACK)) pagecache_set_dirty(inode_of(o), p);
}

static void cache_release(struct memobj *o) {
  remove_range(inode_of(o), 0, ~0ull, false); // takes o->lock even when nothing is left: reclaim is out of it by then
  inode_destroy(inode_of(o));
}

const struct memobj_ops pagecache_memobj_ops = { cache_get_page, cache_peek_pages, cache_set_dirty, cache_release };
// Nothing is ever written back: entries may be writable from the start.
const struct memobj_ops pagecache_storage_memobj_ops = { cache_get_page, cache_peek_pages, NULL, cache_release };

int pagecache_mmap(struct file *f, struct mmap_request *rq) {
  struct inode *i = f->inode;
  bool shared_write = (rq->flags & 1) /* MAP_SHARED or _VALIDATE */ && (f->flags & O_ACCMODE) != O_RDONLY;
  if (i->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE) && shared_write) {
    if (rq->prot & 2 /* PROT_WRITE */) return -EPERM;
    rq->file_writable = false; // mprotect must not make it writable later
  }
  rq->obj = &i->mem;
  inode_touch_atime(i);
  return 0;
}

// --- files
long file_seek_generic(struct file *f, s64 off, int whence) {
  struct inode *i = f->inode;
  u64 size = READ_ONCE(i->size);
  s64 base;
  switch (whence) {
  case 0: base = 0; break;
  case 1: base = (s64)f->pos; break;
  case 2: base = (s64)size; break;
  case 3:   // SEEK_DATA
  case 4: { // SEEK_HOLE
    if (off < 0 || (u64)off >= size) return -ENXIO;
    if (i->ops->read_pages) { // the host's holes are not known: all data
      f->pos = whence == 3 ? (u64)off : size;
      return (long)f->pos;
    }
    u64 index = (u64)off >> PAGE_SHIFT;
    spin_lock(&i->mem.lock);
    if (whence == 3) {
      if (!radix_next(&i->mem.pages, &index, -1)) index = pages_of(size);
    } else {
      while (radix_get(&i->mem.pages, index)) index++;
    }
    spin_unlock(&i->mem.lock);
    u64 at = MAX(index << PAGE_SHIFT, (u64)off);
    if (whence == 3 && at >= size) return -ENXIO;
    f->pos = MIN(at, size);
    return (long)f->pos;
  }
  default: return -EINVAL;
  }
  s64 to;
  if (__builtin_add_overflow(base, off, &to)) return -EOVERFLOW;
  if (to < 0) return -EINVAL;
  f->pos = (u64)to;
  return to;
}

static int regular_truncate(struct file *f, u64 size) { return fs_truncate(f->dentry, size, f); }

const struct file_ops pagecache_file_ops = { .read = pagecache_read, .write = pagecache_write, .seek = file_seek_generic,
  .mmap = pagecache_mmap, .fsync = pagecache_fsync, .truncate = regular_truncate };

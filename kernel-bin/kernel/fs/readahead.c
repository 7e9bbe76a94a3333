// SPDX-License-Identifier: Apache-2.0
//
// Read-ahead. A miss reads what was asked for (rounded to 16 KiB, the verification leaf) and, when the reader is
// sequential, opens a window behind it: its first page carries PG_READAHEAD, and touching that page starts the next
// window, twice as large up to 1 MiB, while this one is consumed. Windows are read by a few kernel threads, or by the
// file system itself when it is asynchronous, so a reader waits only for pages that it asked for.
// Pages of a request are locked and in the cache before the request exists: nobody reads them twice.
#include "fs/internal.h"

#define LEAF_PAGES 4u
#define WINDOW_MIN 32u
#define WORKERS 4
struct request { struct list link; struct inode *inode; u64 index; unsigned n; struct page *pages[]; };
static struct spinlock queue_lock = SPINLOCK_INIT(RANK_OBJECT);
static struct list queue = LIST_INIT(queue);
static struct waitq queue_wait = WAITQ_INIT(queue_wait);
static bool workers_run;

static u64 file_pages(struct inode *i) { return DIV_ROUND_UP(READ_ONCE(i->size), PAGE_SIZE); }

// Puts new locked pages into the cache from `index` on, until n, the file's end or a page that is already there.
// NULL: no memory. A request with n == 0 means that the first page is there.
static struct request *collect(struct inode *i, u64 index, u64 n) {
  u64 end = file_pages(i);
  n = index >= end ? 0 : MIN(MIN(n, end - index), (u64)RA_MAX);
  struct request *rq = kmalloc(sizeof *rq + MAX(n, 1ull) * sizeof rq->pages[0], 0);
  if (!rq) return NULL;
  list_init(&rq->link);
  rq->inode = i;
  rq->index = index;
  unsigned have = 0;
  while (have < n && (rq->pages[have] = page_alloc(0, ALLOC_USER)) != NULL) page_set_flag(rq->pages[have++], PG_LOCKED);
  if (n && !have) {
    kfree(rq);
    return NULL;
  }
  rq->n = pagecache_insert_run(i, index, rq->pages, have);
  for (unsigned k = 0; k < have; k++) { // the cache's reference keeps a locked page; the others are not needed
    if (k >= rq->n) page_clear_flag(rq->pages[k], PG_LOCKED);
    page_put(rq->pages[k]);
  }
  return rq;
}

static void worker(void *arg) {
  for (;;) {
    struct request *rq = NULL;
    wait_event(&queue_wait, !list_empty(&queue));
    spin_lock(&queue_lock);
    if (!list_empty(&queue)) {
      rq = list_first_entry(&queue, struct request, link);
      list_remove(&rq->link);
    }
    spin_unlock(&queue_lock);
    if (!rq) continue;
    if (rq->inode->ops->read_pages(rq->inode, rq->pages, rq->n, rq->index)) {} // who needs the pages asks again and hears why
    inode_put(rq->inode);
    kfree(rq);
  }
}

void readahead_init(void) {
  for (int k = 0; k < WORKERS; k++) {
    struct thread *t = kthread_run("readahead", worker, NULL);
    if (!t) continue;
    thread_put(t);
    workers_run = true;
  }
}

// Starts reading [index, index + n) and does not wait. Returns where the request ends.
static u64 start(struct inode *i, u64 index, u64 n) {
  bool queued = !(i->super->flags & SUPER_ASYNC) && workers_run;
  // A fault holds the object alone: its area and file may be gone, and a deleted inode's last reference with them.
  if (queued && !ref_get_unless_zero(&i->refs)) return index;
  struct request *rq = collect(i, index, n);
  if (!rq || !rq->n) {
    if (queued) inode_put(i);
    kfree(rq);
    return index;
  }
  u64 end = index + rq->n;
  page_set_flag(rq->pages[0], PG_READAHEAD); // locked by us: it is still there
  if (!queued) {
    if (i->ops->read_pages(i, rq->pages, rq->n, index)) {}
    kfree(rq);
    return end;
  }
  spin_lock(&queue_lock);
  list_push_back(&queue, &rq->link);
  spin_unlock(&queue_lock);
  waitq_wake_all(&queue_wait);
  return end;
}

int readahead_miss(struct inode *i, struct readahead ra, u64 index, u64 want) {
  bool sequential = index == *ra.next || index == 0;
  u64 window = sequential ? MIN(MAX(*ra.window * 2u, WINDOW_MIN), RA_MAX) : 0;
  u64 first = ALIGN_DOWN(index, LEAF_PAGES);
  if (first < index && !sequential && pagecache_has(i, first)) first = index;
  if (sequential) first = index;
  u64 n = ALIGN_UP(MIN(MAX(want, MIN(window, (u64)WINDOW_MIN)), (u64)RA_MAX) + (index - first), LEAF_PAGES);
  struct request *rq = collect(i, first, MIN(n, (u64)RA_MAX));
  if (rq && !rq->n && first < index) { // the page before it came meanwhile
    kfree(rq);
    rq = collect(i, index, MIN(want, (u64)RA_MAX));
  }
  if (!rq) return -ENOMEM;
  if (!rq->n) { // somebody else brings it, or the file became shorter
    kfree(rq);
    return 0;
  }
  u64 end = rq->index + rq->n;
  u64 next = end;
  struct page *target = index < end ? page_get(rq->pages[index - rq->index]) : NULL;
  bool more = sequential && window && end < file_pages(i);
  if (more && want < WINDOW_MIN && rq->n > WINDOW_MIN / 2) {
    page_set_flag(rq->pages[rq->n / 2], PG_READAHEAD); // a small reader: go on when it has come half way
    more = false;
  }
  int r;
  if (more) { // get the window going first: the two travel together
    if (i->super->flags & SUPER_ASYNC) {
      r = i->ops->read_pages(i, rq->pages, rq->n, rq->index);
      next = start(i, end, window);
    } else {
      next = start(i, end, window);
      r = i->ops->read_pages(i, rq->pages, rq->n, rq->index);
    }
  } else {
    r = i->ops->read_pages(i, rq->pages, rq->n, rq->index);
  }
  kfree(rq);
  *ra.next = next;
  *ra.window = (u32)window;
  if (target) {
    if (r && page_test(target, PG_UPTODATE)) r = 0; // the failure was further on
    page_put(target);
  }
  return r;
}

void readahead_hit(struct inode *i, struct readahead ra, struct page *p) {
  u64 index = p->cache.index;
  if (!page_clear_flag(p, PG_READAHEAD)) return; // somebody was faster
  u64 from = *ra.next > index && *ra.next - index <= 2 * RA_MAX ? *ra.next : index + 1;
  u64 window = MIN(MAX(*ra.window * 2u, WINDOW_MIN), RA_MAX);
  *ra.window = (u32)window;
  if (from < file_pages(i)) *ra.next = start(i, from, window);
}

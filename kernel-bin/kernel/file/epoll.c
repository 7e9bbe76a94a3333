// SPDX-License-Identifier: Apache-2.0
//
// epoll. An epoll_wait costs what is ready, not what is watched.
//
// Objects: an item per watched (file, descriptor); it is in its epoll's tree, in its file's list, and has a waiter on
// each wait queue that the file's poll named. It holds no reference on the file: the file's last file_put calls
// epoll_file_closed, which takes the items away before ops->release.
//
// Locks, outermost first:
//   nest_lock   adding an epoll to an epoll: cycles and depth
//   ep->lock    mutex: the tree, the items' life, one harvest at a time. Outer epoll before inner one
//   file->lock  the file's list of items
//   queue lock  of a watched queue (RANK_WAITQ), held around item_wake
//   ep->wq.lock (RANK_READY) the ready list, item->queued/requeue, and the threads that sleep in epoll_wait. Taken by
//               item_wake in irq context. One lock for both, so an event costs one lock: mark ready and wake a sleeper.
//
// No lost event: item_wake puts the item on the ready list under wq.lock, and a sleeper queues itself, then looks at the
// list, then sleeps. While a harvest polls an item that it took off the list, item_wake sets `requeue` instead, and the
// harvest puts the item back: an edge that comes after the harvest's poll is seen by the next one. A sleeper that a
// wake-up was spent on always harvests before it returns, and what it leaves on the list wakes the next sleeper.
// No use after free: removing an item takes its waiters off their queues under the queues' locks (so no item_wake runs
// any more), then unlinks it from the ready list; harvests hold ep->lock, and so does every removal.
#include "file/internal.h"

struct epoll;
struct epwait { struct waiter w; struct waitq *q; struct epitem *item; struct epwait *next; };
struct epitem {
  struct rb_node node;       // ep->items, by file and descriptor
  struct list ready;         // ep->ready, or a harvest's list
  struct list in_file;       // file->epoll_items, under file->lock
  struct epoll *ep;
  struct file *file;
  u64 data;
  int fd;
  u32 events;                // what is asked, with EPOLLERR|EPOLLHUP; only flags left: one-shot, spent. Read in irq
  bool queued, requeue;      // under wq.lock
  bool nomem;
  struct epwait *waits;      // all of them; the first one is `wait`
  struct epwait wait;
};
struct epoll {
  struct refcount refs;      // the file; epoll_file_closed while it works; poll_work while queued
  struct mutex lock;
  struct rb_root items;
  struct waitq wq;           // lock: see above; waiters: threads in epoll_wait
  struct list ready;         // wq.lock
  bool harvesting;           // wq.lock
  bool poll_queued;          // wq.lock: poll_work is on its way
  struct waitq pollers;      // who polls the epoll itself: other epolls, poll()
  struct work poll_work;
  u32 above;                 // nest_lock: how many epolls can be above this one (never decreases)
  u32 walk, walk_depth;      // nest_lock: visited in walk number `walk` at this depth
};
#define FLAG_BITS (EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP)
#define MAX_NESTING 5 // epolls in a chain, as Linux
static struct kmem_cache *item_cache;
static struct mutex nest_lock;
static const struct file_ops epoll_file_ops;

static struct epoll *epoll_from_file(struct file *f) { return f->ops == &epoll_file_ops ? f->priv : NULL; }
static void epoll_put(struct epoll *ep) {
  if (ref_put(&ep->refs)) kfree(ep);
}

// --- events arrive
static void poll_work_run(struct work *w) {
  struct epoll *ep = container_of(w, struct epoll, poll_work);
  u64 flags = spin_lock_irqsave(&ep->wq.lock);
  ep->poll_queued = false;
  spin_unlock_irqrestore(&ep->wq.lock, flags);
  waitq_wake(&ep->pollers, 1, EPOLLIN | EPOLLRDNORM);
  epoll_put(ep);
}

// wq.lock held. One sleeper per call; it takes itself off, so the next call wakes another.
static bool wake_sleeper(struct epoll *ep) {
  if (list_empty(&ep->wq.waiters)) return false;
  struct waiter *w = list_first_entry(&ep->wq.waiters, struct waiter, link);
  list_remove(&w->link);
  thread_wake(w->thread);
  return true;
}

// The item may be ready: puts it on the list and wakes who waits for that. Pollers of the epoll are woken by a thread:
// their callbacks take the locks of other epolls, which rank no higher than those held here. True: a sleeper was woken.
// Interrupts are off.
static bool item_mark_ready_irq(struct epoll *ep, struct epitem *item) {
  spin_lock(&ep->wq.lock);
  if (!item->queued) {
    item->queued = true;
    list_push_back(&ep->ready, &item->ready);
  } else if (ep->harvesting) {
    item->requeue = true;
  }
  bool woke = wake_sleeper(ep);
  bool nested = unlikely(!list_empty(&ep->pollers.waiters)) && !ep->poll_queued;
  if (nested) {
    ep->poll_queued = true;
    ref_get(&ep->refs);
  }
  spin_unlock(&ep->wq.lock);
  if (nested) work_queue(&ep->poll_work);
  return woke;
}

static void item_mark_ready(struct epoll *ep, struct epitem *item) {
  u64 flags = irq_save();
  item_mark_ready_irq(ep, item);
  irq_restore(flags);
}

// A watched queue's wake: under that queue's lock, interrupts off. The item and its epoll live: see the top.
static bool item_wake(struct waiter *w, u32 key) {
  struct epitem *item = container_of(w, struct epwait, w)->item;
  struct epoll *ep = item->ep;
  u32 events = READ_ONCE(item->events);
  if (!(events & ~FLAG_BITS) || (key && !(key & events))) return false;
  bool woke = item_mark_ready_irq(ep, item);
  return woke || !(events & EPOLLEXCLUSIVE);
}

// --- items
static void item_add_wait(struct epitem *item, struct waitq *q) {
  struct epwait *w = &item->wait;
  if (item->waits && !(w = kmalloc(sizeof *w, 0))) {
    item->nomem = true;
    return;
  }
  *w = (struct epwait){ .w = { .wake = item_wake, .exclusive = item->events & EPOLLEXCLUSIVE }, .q = q, .item = item, .next = item->waits };
  list_init(&w->w.link);
  item->waits = w;
  waitq_add(q, &w->w);
}

struct add_table { struct poll_table t; struct epitem *item; };
static void table_add(struct poll_table *t, struct waitq *q, struct file *f) {
  item_add_wait(container_of(t, struct add_table, t)->item, q);
}

static int item_compare(const struct epitem *item, const struct file *f, int fd) {
  if (item->file != f) return item->file < f ? -1 : 1;
  return item->fd < fd ? -1 : item->fd > fd;
}

static struct epitem *item_find(struct epoll *ep, struct file *f, int fd) {
  for (struct rb_node *n = ep->items.node; n;) {
    struct epitem *item = rb_entry(n, struct epitem, node);
    int c = item_compare(item, f, fd);
    if (!c) return item;
    n = c < 0 ? n->right : n->left;
  }
  return NULL;
}

static void item_link(struct epoll *ep, struct epitem *item) {
  struct rb_node **link = &ep->items.node, *parent = NULL;
  while (*link) {
    parent = *link;
    link = item_compare(rb_entry(parent, struct epitem, node), item->file, item->fd) < 0 ? &parent->right : &parent->left;
  }
  rb_insert(&ep->items, &item->node, parent, link);
}

static void item_remove(struct epitem *item) { // ep->lock held
  struct epoll *ep = item->ep;
  for (struct epwait *w = item->waits; w;) {
    struct epwait *next = w->next;
    waitq_remove(w->q, &w->w);
    if (w != &item->wait) kfree(w);
    w = next;
  }
  u64 flags = spin_lock_irqsave(&ep->wq.lock);
  list_remove(&item->ready);
  spin_unlock_irqrestore(&ep->wq.lock, flags);
  rb_erase(&ep->items, &item->node);
  spin_lock(&item->file->lock);
  list_remove(&item->in_file);
  spin_unlock(&item->file->lock);
  kmem_cache_free(item_cache, item);
}

// The events of an item that are true now. Nested epolls look into themselves: at most MAX_NESTING deep.
static inline u32 item_poll(const struct epitem *item) { return file_poll(item->file, NULL) & item->events; }

static int item_add(struct epoll *ep, struct file *target, int fd, const struct epoll_event_k *ev) {
  struct epitem *item = kmem_cache_alloc(item_cache);
  if (!item) return -ENOMEM;
  *item = (struct epitem){ .ep = ep, .file = target, .fd = fd, .events = ev->events, .data = ev->data };
  list_init(&item->ready);
  item_link(ep, item);
  target->epoll_watched = true;
  spin_lock(&target->lock);
  list_push_back(&target->epoll_items, &item->in_file);
  spin_unlock(&target->lock);
  struct add_table t = { .t = { .add = table_add }, .item = item };
  u32 now = file_poll(target, &t.t) & item->events;
  if (item->nomem) {
    item_remove(item);
    return -ENOMEM;
  }
  if (now) item_mark_ready(ep, item);
  return 0;
}

static void item_modify(struct epoll *ep, struct epitem *item, const struct epoll_event_k *ev) {
  WRITE_ONCE(item->events, ev->events);
  item->data = ev->data;
  // An event that item_wake dropped because it was not asked for yet is seen by this poll: the store comes first.
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (item_poll(item)) item_mark_ready(ep, item);
}

// --- nesting. nest_lock held.
// Walks the epolls below `ep`: -ELOOP when one of them is `avoid` or the chain gets longer than allowed. With `avoid`
// NULL: notes how deep they may lie now.
static u32 walk_number;
static int nest_walk(struct epoll *ep, const struct epoll *avoid, u32 above) {
  if (ep == avoid || above >= MAX_NESTING) return -ELOOP;
  if (ep->walk == walk_number && ep->walk_depth >= above) return 0; // been here at least as deep
  ep->walk = walk_number;
  ep->walk_depth = above;
  if (!avoid) ep->above = MAX(ep->above, above);
  int err = 0;
  mutex_lock(&ep->lock);
  for (struct rb_node *n = rb_first(&ep->items); n && !err; n = rb_next(n)) {
    struct epoll *below = epoll_from_file(rb_entry(n, struct epitem, node)->file);
    if (below) err = nest_walk(below, avoid, above + 1);
  }
  mutex_unlock(&ep->lock);
  return err;
}

static int nest_check(struct epoll *ep, struct epoll *target) {
  walk_number++;
  int err = nest_walk(target, ep, ep->above + 1);
  if (err) return err;
  walk_number++;
  return nest_walk(target, NULL, ep->above + 1);
}

int epoll_control(struct file *epf, int op, struct file *target, int fd, struct epoll_event_k *ev) {
  struct epoll *ep = epoll_from_file(epf);
  if (!ep || target == epf) return -EINVAL;
  if (!target->ops->poll) return -EPERM;
  struct epoll *inner = epoll_from_file(target);
  if (op != EPOLL_CTL_DEL) {
    if (ev->events & EPOLLEXCLUSIVE) {
      if (op != EPOLL_CTL_ADD || inner) return -EINVAL;
      if (ev->events & ~(EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE)) return -EINVAL;
    }
    ev->events |= EPOLLERR | EPOLLHUP;
  }
  bool nested = op == EPOLL_CTL_ADD && inner;
  int err = 0;
  if (nested) {
    mutex_lock(&nest_lock);
    if ((err = nest_check(ep, inner))) goto out;
  }
  mutex_lock(&ep->lock);
  struct epitem *item = item_find(ep, target, fd);
  if (op == EPOLL_CTL_ADD) {
    err = item ? -EEXIST : item_add(ep, target, fd, ev);
  } else if (!item) {
    err = -ENOENT;
  } else if (op == EPOLL_CTL_DEL) {
    item_remove(item);
  } else if (op != EPOLL_CTL_MOD || item->events & EPOLLEXCLUSIVE) {
    err = -EINVAL;
  } else {
    item_modify(ep, item, ev);
  }
  mutex_unlock(&ep->lock);
out:
  if (nested) mutex_unlock(&nest_lock);
  return err;
}

void epoll_file_closed(struct file *f) {
  for (;;) {
    struct epoll *ep = NULL;
    spin_lock(&f->lock);
    if (!list_empty(&f->epoll_items)) {
      ep = list_first_entry(&f->epoll_items, struct epitem, in_file)->ep;
      ref_get(&ep->refs); // an epoll that is being released still has its own until its items are gone
    }
    spin_unlock(&f->lock);
    if (!ep) return;
    mutex_lock(&ep->lock);
    // All of this file's items in this epoll; they lie together in the tree, but the list is as short.
    for (struct epitem *victim;;) {
      victim = NULL;
      struct epitem *it;
      spin_lock(&f->lock);
      list_for_each(it, &f->epoll_items, in_file) {
        if (it->ep == ep) {
          victim = it;
          break;
        }
      }
      spin_unlock(&f->lock);
      if (!victim) break;
      item_remove(victim); // only we could: ep->lock is held
    }
    mutex_unlock(&ep->lock);
    epoll_put(ep);
  }
}

// --- harvesting
#define BATCH 16
// Up to `max` events into the program's array, or with max 0: 1 if there is one, without spending it. ep->lock held.
static long harvest_locked(struct epoll *ep, uptr out, int max) {
  struct epoll_event_k batch[BATCH];
  struct list taken, spent, kept; // still to look at; done with; to be on the ready list again
  list_init(&taken);
  list_init(&spent);
  list_init(&kept);
  u64 flags = spin_lock_irqsave(&ep->wq.lock);
  list_splice_back(&taken, &ep->ready);
  ep->harvesting = true;
  spin_unlock_irqrestore(&ep->wq.lock, flags);

  long done = 0;
  unsigned n = 0; // in the batch
  bool fault = false;
  while (!list_empty(&taken) && (max ? done + n < max : !done)) {
    struct epitem *item = list_first_entry(&taken, struct epitem, ready);
    list_remove(&item->ready);
    u32 ev = item_poll(item);
    if (!ev) {
      list_push_back(&spent, &item->ready);
      continue;
    }
    if (!max) {
      done = 1;
      list_push_back(&kept, &item->ready);
      continue;
    }
    batch[n++] = (struct epoll_event_k){ .events = ev, .data = item->data };
    bool again = !(item->events & (EPOLLET | EPOLLONESHOT));
    if (item->events & EPOLLONESHOT) WRITE_ONCE(item->events, item->events & FLAG_BITS);
    list_push_back(again ? &kept : &spent, &item->ready);
    if (n == BATCH) {
      if ((fault = copy_to_user(out + (u64)done * sizeof batch[0], batch, n * sizeof batch[0]))) break;
      done += n;
      n = 0;
    }
  }
  if (n && !fault && !(fault = copy_to_user(out + (u64)done * sizeof batch[0], batch, n * sizeof batch[0]))) done += n;

  flags = spin_lock_irqsave(&ep->wq.lock);
  ep->harvesting = false;
  // In front: what was not looked at. Then what came meanwhile, then level-triggered ones, so that others get a turn.
  list_splice_back(&taken, &ep->ready);
  list_splice_back(&ep->ready, &taken);
  while (!list_empty(&spent)) {
    struct epitem *item = list_first_entry(&spent, struct epitem, ready);
    list_remove(&item->ready);
    item->queued = item->requeue || fault; // what could not be delivered is looked at again
    if (item->queued) list_push_back(&ep->ready, &item->ready);
    item->requeue = false;
  }
  struct epitem *item;
  list_for_each(item, &kept, ready) item->requeue = false;
  list_splice_back(&ep->ready, &kept);
  if (!list_empty(&ep->ready)) wake_sleeper(ep);
  spin_unlock_irqrestore(&ep->wq.lock, flags);
  return done ? done : fault ? -EFAULT : 0;
}

static inline bool maybe_ready(struct epoll *ep) { return READ_ONCE(ep->ready.next) != &ep->ready; }

static long harvest(struct epoll *ep, uptr out, int max) {
  if (!maybe_ready(ep)) return 0;
  mutex_lock(&ep->lock);
  long r = harvest_locked(ep, out, max);
  mutex_unlock(&ep->lock);
  return r;
}

long epoll_wait(struct file *epf, uptr out, int max, u64 deadline_ns) {
  struct epoll *ep = epoll_from_file(epf);
  if (!ep || max <= 0 || (u64)max > 0x7fffffff / sizeof(struct epoll_event_k)) return -EINVAL;
  struct waiter w = { .thread = thread_current() };
  list_init(&w.link);
  int end = 0;
  for (;;) {
    long r = harvest(ep, out, max);
    if (r) return r;
    if (end || !deadline_ns) return end == -ETIMEDOUT || !end ? 0 : -EINTR;
    wait_prepare(&ep->wq, &w, WAIT_INTERRUPTIBLE);
    // While another thread harvests, the ready list may look empty and be filled again at its end, which wakes us.
    if (!maybe_ready(ep)) end = wait_sleep(deadline_ns, WAIT_INTERRUPTIBLE);
    wait_finish(&ep->wq, &w);
  }
}

// --- the epoll as a file
static u32 epoll_poll(struct file *f, struct poll_table *t) {
  struct epoll *ep = f->priv;
  poll_wait(t, &ep->pollers, f);
  // item_mark_ready fills the list and looks for pollers under wq.lock: after passing through it, either we see the
  // list or it sees us.
  spin_unlock_irqrestore(&ep->wq.lock, spin_lock_irqsave(&ep->wq.lock));
  return harvest(ep, 0, 0) > 0 ? EPOLLIN | EPOLLRDNORM : 0;
}

static void epoll_release(struct file *f) {
  struct epoll *ep = f->priv;
  mutex_lock(&ep->lock);
  for (struct rb_node *n; (n = ep->items.node);) item_remove(rb_entry(n, struct epitem, node));
  mutex_unlock(&ep->lock);
  epoll_put(ep);
}

static void epoll_describe(struct file *f, char *buf, size_t n) { snprintf(buf, n, "anon_inode:[eventpoll]"); }

static const struct file_ops epoll_file_ops = {
  .poll = epoll_poll,
  .release = epoll_release,
  .describe = epoll_describe,
};

struct file *epoll_create(u32 flags) {
  struct epoll *ep = kzalloc(sizeof *ep);
  if (!ep) return NULL;
  ref_init(&ep->refs);
  mutex_init(&ep->lock, RANK_OBJECT);
  waitq_init(&ep->wq);
  spin_init(&ep->wq.lock, RANK_READY);
  waitq_init(&ep->pollers);
  list_init(&ep->ready);
  work_init(&ep->poll_work, poll_work_run);
  struct file *f = file_create(&epoll_file_ops, ep, O_RDWR);
  if (!f) kfree(ep);
  return f;
}

void epoll_init(void) {
  mutex_init(&nest_lock, RANK_OBJECT);
  item_cache = kmem_cache_create("epitem", sizeof(struct epitem), 8);
  if (!item_cache) panic("epoll: no memory at boot");
}

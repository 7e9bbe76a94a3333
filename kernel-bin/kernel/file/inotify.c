// SPDX-License-Identifier: Apache-2.0
//
// inotify: queues of events about watched inodes. A watch is in two lists, its inode's and its inotify's, and keeps the
// inode. One lock (watch_lock, RANK_FDTABLE) guards all watches and queues: changes of names are rare beside reads and
// writes, and the fs room asks inotify_active before it calls.
#include "file/internal.h"
#include <asm/ioctls.h>
#include <linux/inotify.h>
#include <linux/limits.h>

#define QUEUE_MAX 16384u
#define WATCHES_MAX 65536u

struct event { struct list link; struct inotify_event e; char name[]; }; // name padded to a multiple of 16, or empty
struct inotify {
  struct list watches, events;
  u32 nwatches, nevents;
  int last_wd;
  bool overflowed;  // an IN_Q_OVERFLOW is the last event
  struct waitq wait;
};
struct watch { struct list in_inode, in_inotify; struct inotify *owner; struct inode *inode; int wd; u32 mask; };

u32 inotify_active;
static struct spinlock watch_lock = SPINLOCK_INIT(RANK_FDTABLE);
static const struct file_ops inotify_file_ops;

static struct event *event_new(int wd, u32 mask, u32 cookie, const char *name, size_t len) {
  size_t padded = name ? ALIGN_UP(len + 1, sizeof(struct inotify_event)) : 0;
  struct event *ev = kmalloc(sizeof *ev + padded, ALLOC_NORECLAIM);
  if (!ev) return NULL;
  ev->e = (struct inotify_event){ .wd = wd, .mask = mask, .cookie = cookie, .len = (u32)padded };
  if (name) {
    memset(ev->name, 0, padded);
    memcpy(ev->name, name, len);
  }
  return ev;
}

// watch_lock held. Out of memory or of room becomes one IN_Q_OVERFLOW.
static void queue_event(struct inotify *n, int wd, u32 mask, u32 cookie, const char *name, size_t len) {
  struct event *ev = n->nevents < QUEUE_MAX ? event_new(wd, mask, cookie, name, len) : NULL;
  if (!ev) {
    if (n->overflowed || !(ev = event_new(-1, IN_Q_OVERFLOW, 0, NULL, 0))) return;
    n->overflowed = true;
  } else if (!list_empty(&n->events)) { // the same again right after: one is enough
    struct event *last = list_entry(n->events.prev, struct event, link);
    if (!memcmp(&last->e, &ev->e, sizeof ev->e) && !memcmp(last->name, ev->name, ev->e.len)) {
      kfree(ev);
      return;
    }
  }
  list_push_back(&n->events, &ev->link);
  n->nevents++;
  waitq_wake(&n->wait, 1, EPOLLIN | EPOLLRDNORM);
}

// watch_lock held: the watch leaves its lists and goes to `dead`, whose inodes are put without the lock.
static void watch_detach(struct watch *w, struct list *dead) {
  list_remove(&w->in_inode);
  list_remove(&w->in_inotify);
  w->owner->nwatches--;
  WRITE_ONCE(inotify_active, inotify_active - 1);
  list_push_back(dead, &w->in_inotify);
}

static void watches_free(struct list *dead) {
  while (!list_empty(dead)) {
    struct watch *w = list_first_entry(dead, struct watch, in_inotify);
    list_remove(&w->in_inotify);
    file_hooks.inode_put(w->inode);
    kfree(w);
  }
}

void inotify_event(struct list *watches, u32 mask, u32 cookie, const char *name, size_t len) {
  struct list dead;
  list_init(&dead);
  struct watch *w, *next;
  bool ends = mask & (IN_DELETE_SELF | IN_UNMOUNT) && !name;
  spin_lock(&watch_lock);
  list_for_each_safe(w, next, watches, in_inode) {
    bool once = w->mask & IN_ONESHOT;
    bool hit = w->mask & mask & IN_ALL_EVENTS || mask & IN_UNMOUNT;
    if (hit) queue_event(w->owner, w->wd, mask & (IN_ALL_EVENTS | IN_ISDIR | IN_UNMOUNT), cookie, name, len);
    if (!ends && !(hit && once)) continue;
    queue_event(w->owner, w->wd, IN_IGNORED, 0, NULL, 0);
    watch_detach(w, &dead);
  }
  spin_unlock(&watch_lock);
  watches_free(&dead);
}

static long inotify_read(struct file *f, struct iter *it, u64 *pos) {
  struct inotify *n = f->priv;
  long done = 0;
  for (;;) {
    spin_lock(&watch_lock);
    struct event *ev = list_empty(&n->events) ? NULL : list_first_entry(&n->events, struct event, link);
    bool fits = ev && sizeof ev->e + ev->e.len <= it->left;
    if (fits) {
      list_remove(&ev->link);
      n->nevents--;
      if (ev->e.mask & IN_Q_OVERFLOW) n->overflowed = false;
    }
    spin_unlock(&watch_lock);
    if (ev && !fits) return done ? done : -EINVAL;
    if (ev) {
      size_t len = sizeof ev->e + ev->e.len;
      size_t got = iter_to(it, &ev->e, len); // e and name are adjacent
      kfree(ev);
      if (got < len) return done ? done : -EFAULT;
      done += (long)len;
      continue;
    }
    if (done) return done;
    if (f->flags & O_NONBLOCK) return -EAGAIN;
    int err = wait_event_interruptible(&n->wait, READ_ONCE(n->nevents));
    if (err) return err;
  }
}

static u32 inotify_poll(struct file *f, struct poll_table *t) {
  struct inotify *n = f->priv;
  poll_wait(t, &n->wait, f);
  return READ_ONCE(n->nevents) ? EPOLLIN | EPOLLRDNORM : 0;
}

static long inotify_ioctl(struct file *f, u32 cmd, uptr arg) {
  struct inotify *n = f->priv;
  if (cmd != FIONREAD) return -ENOTTY;
  int bytes = 0;
  struct event *ev;
  spin_lock(&watch_lock);
  list_for_each(ev, &n->events, link) bytes += (int)(sizeof ev->e + ev->e.len);
  spin_unlock(&watch_lock);
  return copy_to_user(arg, &bytes, sizeof bytes);
}

static void inotify_release(struct file *f) {
  struct inotify *n = f->priv;
  struct list dead;
  list_init(&dead);
  struct watch *w, *next;
  spin_lock(&watch_lock);
  list_for_each_safe(w, next, &n->watches, in_inotify) watch_detach(w, &dead);
  spin_unlock(&watch_lock);
  watches_free(&dead);
  while (!list_empty(&n->events)) {
    struct event *ev = list_first_entry(&n->events, struct event, link);
    list_remove(&ev->link);
    kfree(ev);
  }
  kfree(n);
}

static void inotify_describe(struct file *f, char *buf, size_t n) { snprintf(buf, n, "anon_inode:inotify"); }

static const struct file_ops inotify_file_ops = {
  .read = inotify_read,
  .poll = inotify_poll,
  .ioctl = inotify_ioctl,
  .release = inotify_release,
  .describe = inotify_describe,
};

struct file *inotify_create(u32 flags) {
  struct inotify *n = kzalloc(sizeof *n);
  if (!n) return NULL;
  list_init(&n->watches);
  list_init(&n->events);
  waitq_init(&n->wait);
  struct file *f = file_create(&inotify_file_ops, n, O_RDONLY | (flags & O_NONBLOCK));
  if (!f) kfree(n);
  return f;
}

int inotify_add_watch(struct file *f, struct inode *i, struct list *watches, u32 mask) {
  if (f->ops != &inotify_file_ops || !(mask & IN_ALL_EVENTS)) return -EINVAL;
  if (mask & IN_MASK_ADD && mask & IN_MASK_CREATE) return -EINVAL;
  if (!file_hooks.inode_get) return -ENOSYS;
  struct inotify *n = f->priv;
  struct watch *fresh = kzalloc(sizeof *fresh), *w;
  if (!fresh) return -ENOMEM;
  int r = 0;
  spin_lock(&watch_lock);
  list_for_each(w, watches, in_inode) {
    if (w->owner != n) continue;
    u32 keep = IN_ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK;
    if (mask & IN_MASK_CREATE) r = -EEXIST;
    else w->mask = (mask & IN_MASK_ADD ? w->mask : 0) | (mask & keep);
    if (!r) r = w->wd;
    break;
  }
  if (!r && n->nwatches >= WATCHES_MAX) r = -ENOSPC;
  if (!r) {
    r = ++n->last_wd;
    *fresh = (struct watch){ .owner = n, .inode = i, .wd = r, .mask = mask };
    list_init(&fresh->in_inode);
    list_init(&fresh->in_inotify);
    file_hooks.inode_get(i); // one atomic
    list_push_back(watches, &fresh->in_inode);
    list_push_back(&n->watches, &fresh->in_inotify);
    n->nwatches++;
    WRITE_ONCE(inotify_active, inotify_active + 1);
    fresh = NULL;
  }
  spin_unlock(&watch_lock);
  kfree(fresh);
  return r;
}

int inotify_remove_watch(struct file *f, int wd) {
  if (f->ops != &inotify_file_ops) return -EINVAL;
  struct inotify *n = f->priv;
  struct list dead;
  list_init(&dead);
  struct watch *w, *next;
  spin_lock(&watch_lock);
  list_for_each_safe(w, next, &n->watches, in_inotify) {
    if (w->wd != wd) continue;
    queue_event(n, wd, IN_IGNORED, 0, NULL, 0);
    watch_detach(w, &dead);
    break;
  }
  spin_unlock(&watch_lock);
  int r = list_empty(&dead) ? -EINVAL : 0;
  watches_free(&dead);
  return r;
}

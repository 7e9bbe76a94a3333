// SPDX-License-Identifier: Apache-2.0
//
// eventfd: a 64-bit counter that a read takes (whole, or one in semaphore mode) and a write adds to. Its largest value is
// 2^64 - 2. The lock (RANK_OBJECT) is never held while user memory is touched.
#include "file/internal.h"

struct eventfd { struct spinlock lock; u64 count; bool semaphore; struct waitq wait; };
#define EFD_SEMAPHORE 1
#define EVENTFD_MAX (~0ull - 1)

// One attempt: 0 or -EAGAIN.
static int take(struct eventfd *e, u64 *out) {
  if (!READ_ONCE(e->count)) return -EAGAIN;
  int err = -EAGAIN;
  spin_lock(&e->lock);
  if (e->count) {
    *out = e->semaphore ? 1 : e->count;
    WRITE_ONCE(e->count, e->count - *out);
    err = 0;
  }
  spin_unlock(&e->lock);
  return err;
}

static int add(struct eventfd *e, u64 n) {
  int err = -EAGAIN;
  spin_lock(&e->lock);
  if (n <= EVENTFD_MAX - e->count) {
    WRITE_ONCE(e->count, e->count + n);
    err = 0;
  }
  spin_unlock(&e->lock);
  return err;
}

static long eventfd_read(struct file *f, struct iter *it, u64 *pos) {
  struct eventfd *e = f->priv;
  u64 v;
  if (it->left < sizeof v) return -EINVAL;
  while (take(e, &v)) {
    if (f->flags & O_NONBLOCK) return -EAGAIN;
    int err = wait_event_interruptible(&e->wait, READ_ONCE(e->count));
    if (err) return err;
  }
  waitq_wake(&e->wait, 1, EPOLLOUT | EPOLLWRNORM);
  return iter_to(it, &v, sizeof v) == sizeof v ? (long)sizeof v : -EFAULT;
}

static long eventfd_write(struct file *f, struct iter *it, u64 *pos) {
  struct eventfd *e = f->priv;
  u64 v;
  if (it->left < sizeof v) return -EINVAL;
  if (iter_from(it, &v, sizeof v) != sizeof v) return -EFAULT;
  if (v > EVENTFD_MAX) return -EINVAL;
  while (add(e, v)) {
    if (f->flags & O_NONBLOCK) return -EAGAIN;
    int err = wait_event_interruptible(&e->wait, v <= EVENTFD_MAX - READ_ONCE(e->count));
    if (err) return err;
  }
  waitq_wake(&e->wait, 1, EPOLLIN | EPOLLRDNORM);
  return sizeof v;
}

static u32 eventfd_poll(struct file *f, struct poll_table *t) {
  struct eventfd *e = f->priv;
  poll_wait(t, &e->wait, f);
  u64 n = READ_ONCE(e->count);
  return (n ? EPOLLIN | EPOLLRDNORM : 0) | (n < EVENTFD_MAX ? EPOLLOUT | EPOLLWRNORM : 0);
}

static void eventfd_release(struct file *f) { kfree(f->priv); }
static void eventfd_describe(struct file *f, char *buf, size_t n) { snprintf(buf, n, "anon_inode:[eventfd]"); }

static const struct file_ops eventfd_file_ops = {
  .read = eventfd_read,
  .write = eventfd_write,
  .poll = eventfd_poll,
  .release = eventfd_release,
  .describe = eventfd_describe,
};

struct file *eventfd_create(u64 initial, u32 flags) {
  struct eventfd *e = kzalloc(sizeof *e);
  if (!e) return NULL;
  spin_init(&e->lock, RANK_OBJECT);
  waitq_init(&e->wait);
  e->count = initial;
  e->semaphore = flags & EFD_SEMAPHORE;
  struct file *f = file_create(&eventfd_file_ops, e, O_RDWR | (flags & O_NONBLOCK));
  if (!f) kfree(e);
  return f;
}

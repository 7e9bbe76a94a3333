// SPDX-License-Identifier: Apache-2.0
//
// signalfd: pending signals of the reading thread as records. The pending queues are proc's: signalfd_hooks. Every
// signalfd waits on one queue, which signalfd_notify wakes when any signal is queued anywhere: a signalfd shared with
// another process, or watched by an epoll of a process that died, then needs no reference on anybody.
#include "file/internal.h"
#include <linux/signalfd.h>

static struct waitq signalfd_wait = WAITQ_INIT(signalfd_wait);

void signalfd_notify(void) {
  waitq_wake(&signalfd_wait, 1 << 30, EPOLLIN | EPOLLRDNORM);
}

static bool pending(u64 mask) { return signalfd_hooks.pending && signalfd_hooks.pending(mask); }

static const struct file_ops signalfd_file_ops;
struct signalfd { u64 mask; };

static long signalfd_read(struct file *f, struct iter *it, u64 *pos) {
  struct signalfd *s = f->priv;
  struct signalfd_siginfo info;
  if (it->left < sizeof info) return -EINVAL;
  if (!signalfd_hooks.take) return -EAGAIN;
  long done = 0;
  while (it->left >= sizeof info) {
    memset(&info, 0, sizeof info);
    if (!signalfd_hooks.take(READ_ONCE(s->mask), &info)) {
      if (done) break;
      if (f->flags & O_NONBLOCK) return -EAGAIN;
      int err = wait_event_interruptible(&signalfd_wait, pending(READ_ONCE(s->mask)));
      if (err) return err;
      continue;
    }
    if (iter_to(it, &info, sizeof info) != sizeof info) return done ? done : -EFAULT;
    done += (long)sizeof info;
  }
  return done;
}

static u32 signalfd_poll(struct file *f, struct poll_table *t) {
  struct signalfd *s = f->priv;
  poll_wait(t, &signalfd_wait, f);
  return pending(READ_ONCE(s->mask)) ? EPOLLIN | EPOLLRDNORM : 0;
}

static void signalfd_release(struct file *f) { kfree(f->priv); }
static void signalfd_describe(struct file *f, char *buf, size_t n) { snprintf(buf, n, "anon_inode:[signalfd]"); }

static const struct file_ops signalfd_file_ops = {
  .read = signalfd_read,
  .poll = signalfd_poll,
  .release = signalfd_release,
  .describe = signalfd_describe,
};

struct file *signalfd_create(u64 mask, u32 flags) {
  struct signalfd *s = kzalloc(sizeof *s);
  if (!s) return NULL;
  s->mask = mask;
  struct file *f = file_create(&signalfd_file_ops, s, O_RDWR | (flags & O_NONBLOCK));
  if (!f) kfree(s);
  return f;
}

int signalfd_set_mask(struct file *f, u64 mask) {
  if (f->ops != &signalfd_file_ops) return -EINVAL;
  WRITE_ONCE(((struct signalfd *)f->priv)->mask, mask);
  signalfd_notify();
  return 0;
}

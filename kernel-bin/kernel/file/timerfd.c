// SPDX-License-Identifier: Apache-2.0
//
// timerfd. The kernel timer fires once per arming; a periodic one is not started again by its handler but by the next
// read (which counts the periods that went by), so a tiny interval cannot occupy a CPU. The handler only wakes: whether
// the deadline has passed is for the woken to see, so t->lock can be a mutex, and poll reads the fields without it.
// CLOCK_REALTIME deadlines are turned into boot time when set: the wall clock never jumps here (no clock_settime), so
// TFD_TIMER_CANCEL_ON_SET has nothing to cancel.
#include "file/internal.h"
#include <linux/timerfd.h>
#include <linux/time.h>

struct timerfd {
  struct mutex lock;
  struct timer timer;
  u64 deadline_ns;   // of the next expiry not yet counted; 0: disarmed
  u64 interval_ns;
  u64 ticks;         // counted, not yet read
  struct waitq wait;
  int clockid;
};

// Under the lock: counts what is due at `now`. True when the periodic timer must be started for deadline_ns.
static bool timerfd_forward(struct timerfd *t, u64 now) {
  if (!t->deadline_ns || now < t->deadline_ns) return false;
  if (!t->interval_ns) {
    t->ticks++;
    WRITE_ONCE(t->deadline_ns, 0);
    return false;
  }
  u64 n = (now - t->deadline_ns) / t->interval_ns + 1;
  t->ticks += n;
  WRITE_ONCE(t->deadline_ns, t->deadline_ns + n * t->interval_ns);
  return true;
}

static bool timerfd_due(struct timerfd *t) {
  u64 d = READ_ONCE(t->deadline_ns);
  return READ_ONCE(t->ticks) || (d && time_ns() >= d);
}

static void timerfd_fire(struct timer *timer) { // irq context
  struct timerfd *t = container_of(timer, struct timerfd, timer);
  waitq_wake(&t->wait, 1, EPOLLIN | EPOLLRDNORM); // whoever looks finds deadline_ns passed
}

static long timerfd_read(struct file *f, struct iter *it, u64 *pos) {
  struct timerfd *t = f->priv;
  u64 ticks;
  if (it->left < sizeof ticks) return -EINVAL;
  for (;;) {
    mutex_lock(&t->lock);
    if (timerfd_forward(t, time_ns())) timer_start(&t->timer, t->deadline_ns);
    ticks = t->ticks;
    WRITE_ONCE(t->ticks, 0);
    mutex_unlock(&t->lock);
    if (ticks) break;
    if (f->flags & O_NONBLOCK) return -EAGAIN;
    int err = wait_event_interruptible(&t->wait, timerfd_due(t));
    if (err) return err;
  }
  return iter_to(it, &ticks, sizeof ticks) == sizeof ticks ? (long)sizeof ticks : -EFAULT;
}

static u32 timerfd_poll(struct file *f, struct poll_table *pt) {
  struct timerfd *t = f->priv;
  poll_wait(pt, &t->wait, f);
  return timerfd_due(t) ? EPOLLIN | EPOLLRDNORM : 0;
}

static void timerfd_release(struct file *f) {
  struct timerfd *t = f->priv;
  timer_cancel(&t->timer);
  kfree(t);
}

static void timerfd_describe(struct file *f, char *buf, size_t n) { snprintf(buf, n, "anon_inode:[timerfd]"); }

static const struct file_ops timerfd_file_ops = {
  .read = timerfd_read,
  .poll = timerfd_poll,
  .release = timerfd_release,
  .describe = timerfd_describe,
};

struct file *timerfd_create(int clockid, u32 flags) {
  struct timerfd *t = kzalloc(sizeof *t);
  if (!t) return NULL;
  mutex_init(&t->lock, RANK_OBJECT);
  timer_init(&t->timer, timerfd_fire);
  waitq_init(&t->wait);
  t->clockid = clockid;
  struct file *f = file_create(&timerfd_file_ops, t, O_RDWR | (flags & O_NONBLOCK));
  if (!f) kfree(t);
  return f;
}

static void timerfd_current(const struct timerfd *t, u64 now, struct itimer_ns *out) {
  *out = (struct itimer_ns){ .interval_ns = t->interval_ns };
  if (t->deadline_ns > now) out->value_ns = t->deadline_ns - now;
  else if (t->deadline_ns && t->interval_ns) out->value_ns = t->interval_ns - (now - t->deadline_ns) % t->interval_ns;
}

int timerfd_set(struct file *f, int tfd_flags, const struct itimer_ns *n, struct itimer_ns *old) {
  if (f->ops != &timerfd_file_ops) return -EINVAL;
  struct timerfd *t = f->priv;
  u64 now = time_ns(), deadline = 0;
  if (n->value_ns) {
    deadline = n->value_ns;
    if (tfd_flags & TFD_TIMER_ABSTIME) {
      bool wall = t->clockid == CLOCK_REALTIME || t->clockid == CLOCK_REALTIME_ALARM;
      u64 offset = wall ? time_realtime_ns() - now : 0;
      deadline = deadline > offset ? deadline - offset : 1;
    } else {
      deadline = deadline > ~0ull - 1 - now ? ~0ull - 1 : now + deadline;
    }
  }
  mutex_lock(&t->lock);
  timer_cancel(&t->timer);
  if (old) timerfd_current(t, now, old);
  WRITE_ONCE(t->ticks, 0);
  t->interval_ns = n->value_ns ? n->interval_ns : 0;
  WRITE_ONCE(t->deadline_ns, deadline);
  if (deadline) timer_start(&t->timer, deadline);
  mutex_unlock(&t->lock);
  return 0;
}

int timerfd_get(struct file *f, struct itimer_ns *cur) {
  if (f->ops != &timerfd_file_ops) return -EINVAL;
  struct timerfd *t = f->priv;
  mutex_lock(&t->lock);
  timerfd_current(t, time_ns(), cur);
  mutex_unlock(&t->lock);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// System calls that make descriptors which are no files of a file system: pipes, eventfd, timerfd, signalfd, inotify.
#include "sys/file.h"
#include <asm/fcntl.h>
#include <linux/inotify.h>
#include <linux/stat.h>
#include <linux/time.h>
#include <linux/timerfd.h>

long sys_pipe2(u64 user, u64 flags) {
  if (flags & ~(u64)(O_CLOEXEC | O_NONBLOCK | O_DIRECT)) return -EINVAL;
  struct file *ends[2];
  int fds[2], err = pipe_create(ends, (u32)flags);
  if (err) return err;
  long a = fd_install_new(ends[0], (u32)flags);
  if (a < 0) {
    file_put(ends[1]);
    return a;
  }
  long b = fd_install_new(ends[1], (u32)flags);
  if (b < 0) {
    (void)!fd_close((int)a);
    return b;
  }
  fds[0] = (int)a;
  fds[1] = (int)b;
  if (!copy_to_user(user, fds, sizeof fds)) return 0;
  (void)!fd_close(fds[0]);
  (void)!fd_close(fds[1]);
  return -EFAULT;
}

long sys_pipe(u64 user) { return sys_pipe2(user, 0); }

long sys_eventfd2(u64 initial, u64 flags) {
  if (flags & ~(u64)(O_CLOEXEC | O_NONBLOCK | 1 /* EFD_SEMAPHORE */)) return -EINVAL;
  return fd_install_new(eventfd_create((u32)initial, (u32)flags), (u32)flags);
}

long sys_eventfd(u64 initial) { return sys_eventfd2(initial, 0); }

// --- timerfd
long sys_timerfd_create(u64 clockid, u64 flags) {
  int c = (int)clockid;
  if (flags & ~(u64)(TFD_CLOEXEC | TFD_NONBLOCK)) return -EINVAL;
  if (c != CLOCK_REALTIME && c != CLOCK_MONOTONIC && c != CLOCK_BOOTTIME && c != CLOCK_REALTIME_ALARM && c != CLOCK_BOOTTIME_ALARM)
    return -EINVAL;
  return fd_install_new(timerfd_create(c, (u32)flags), (u32)flags);
}

struct user_itimerspec { struct user_timespec interval, value; };

static struct user_timespec ts_of(u64 ns) { return (struct user_timespec){ (s64)(ns / NS_PER_SEC), (s64)(ns % NS_PER_SEC) }; }

static int itimer_out(uptr user, const struct itimer_ns *t) {
  struct user_itimerspec s = { ts_of(t->interval_ns), ts_of(t->value_ns) };
  return copy_to_user(user, &s, sizeof s);
}

long sys_timerfd_settime(u64 fd, u64 flags, u64 new_value, u64 old_value) {
  struct user_itimerspec s;
  struct itimer_ns t, old;
  if (copy_from_user(&s, new_value, sizeof s)) return -EFAULT;
  if (flags & ~(u64)(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)) return -EINVAL;
  if (timespec_ns(&s.interval, &t.interval_ns) || timespec_ns(&s.value, &t.value_ns)) return -EINVAL;
  struct fdref r = fdref_get((int)fd);
  if (!r.file) return -EBADF;
  long ret = timerfd_set(r.file, (int)flags, &t, &old);
  fdref_put(r);
  return ret || !old_value ? ret : itimer_out(old_value, &old);
}

long sys_timerfd_gettime(u64 fd, u64 value) {
  struct itimer_ns t;
  struct fdref r = fdref_get((int)fd);
  if (!r.file) return -EBADF;
  long ret = timerfd_get(r.file, &t);
  fdref_put(r);
  return ret ? ret : itimer_out(value, &t);
}

// --- signalfd
long sys_signalfd4(u64 fd, u64 mask, u64 size, u64 flags) {
  sigset m;
  if (flags & ~(u64)(O_CLOEXEC | O_NONBLOCK) || size != sizeof m) return -EINVAL;
  if (copy_from_user(&m, mask, sizeof m)) return -EFAULT;
  m &= ~(BIT(9 - 1) | BIT(19 - 1)); // SIGKILL and SIGSTOP are never taken
  if ((int)fd == -1) return fd_install_new(signalfd_create(m, (u32)flags), (u32)flags);
  struct fdref r = fdref_get((int)fd);
  if (!r.file) return -EBADF;
  long ret = signalfd_set_mask(r.file, m);
  fdref_put(r);
  return ret ? ret : (int)fd;
}

long sys_signalfd(u64 fd, u64 mask, u64 size) { return sys_signalfd4(fd, mask, size, 0); }

// --- inotify
long sys_inotify_init1(u64 flags) {
  if (flags & ~(u64)(IN_CLOEXEC | IN_NONBLOCK)) return -EINVAL;
  return fd_install_new(inotify_create((u32)flags), (u32)flags);
}

long sys_inotify_init(void) { return sys_inotify_init1(0); }

long sys_inotify_add_watch(u64 fd, u64 name, u64 mask) {
  struct fdref r = fdref_get((int)fd);
  if (!r.file) return -EBADF;
  struct path p;
  unsigned how = (mask & IN_DONT_FOLLOW ? 0 : LOOKUP_FOLLOW) | (mask & IN_ONLYDIR ? LOOKUP_DIRECTORY : 0);
  long ret = path_lookup_user(AT_FDCWD, name, how, &p);
  if (!ret) {
    struct inode *i = p.dentry->inode;
    ret = inode_permission(i, MAY_READ);
    if (!ret) ret = inotify_add_watch(r.file, i, &i->watches, (u32)mask);
    path_put(&p);
  }
  fdref_put(r);
  return ret;
}

long sys_inotify_rm_watch(u64 fd, u64 wd) {
  struct fdref r = fdref_get((int)fd);
  if (!r.file) return -EBADF;
  long ret = inotify_remove_watch(r.file, (int)wd);
  fdref_put(r);
  return ret;
}

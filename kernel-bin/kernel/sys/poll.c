// SPDX-License-Identifier: Apache-2.0
//
// poll, ppoll, select, pselect6 and the epoll calls. A signal that ends a wait under a temporary mask leaves the mask to
// signal_deliver (it restores the old one after the handler's frame was made); every other end restores it here.
#include "sys/file.h"
#include <asm/fcntl.h>
#include <asm/poll.h>
#include <linux/eventpoll.h>

// --- temporary signal masks
static int mask_begin(uptr mask, u64 size) {
  sigset m;
  if (!mask) return 0;
  if (size != sizeof m) return -EINVAL;
  if (copy_from_user(&m, mask, sizeof m)) return -EFAULT;
  signal_mask_temporary(m);
  return 0;
}

static inline bool interrupted(long r) { return r == -EINTR || r == -ERESTARTNOHAND || r == -ERESTART_RESTARTBLOCK; }
static void mask_end(uptr mask, long r) {
  if (mask && !interrupted(r)) signal_mask_restore();
}

// --- timeouts
static u64 deadline_ms(s32 ms) { return ms < 0 ? WAIT_FOREVER : deadline_after((u64)ms * NS_PER_MS); }

static int deadline_ts(uptr user, u64 *deadline) { // NULL: for ever
  struct user_timespec ts;
  u64 ns;
  *deadline = WAIT_FOREVER;
  if (!user) return 0;
  if (copy_from_user(&ts, user, sizeof ts)) return -EFAULT;
  int err = timespec_ns(&ts, &ns);
  if (!err) *deadline = deadline_after(ns);
  return err;
}

// What is left goes back to the program, as Linux's own calls do. A bad page there changes nothing else.
static void left_ns(u64 deadline, u64 *sec, u64 *ns) {
  u64 now = deadline ? time_ns() : 0, left = deadline > now ? deadline - now : 0;
  *sec = left / NS_PER_SEC;
  *ns = left % NS_PER_SEC;
}

static void left_store(uptr user, u64 deadline, bool timeval) {
  if (!user) return;
  u64 v[2];
  left_ns(deadline, &v[0], &v[1]);
  if (timeval) v[1] /= NS_PER_US;
  (void)!copy_to_user(user, v, sizeof v);
}

// --- poll
struct pollfd_user { int fd; s16 events, revents; };
#define FAST_POLL 16u
#define MAX_POLL (1u << 17) // what one kmalloc holds of each array

static long do_poll(uptr user, u64 n, u64 deadline) {
  struct pollfd_user fast_fds[FAST_POLL], *fds = fast_fds;
  struct poll_item fast_items[FAST_POLL], *items = fast_items;
  if (n > fd_limit()) return -EINVAL;
  if (n > FAST_POLL) {
    if (n > MAX_POLL) return -ENOMEM;
    fds = kmalloc(n * sizeof *fds, 0);
    items = kmalloc(n * sizeof *items, 0);
  }
  long r = -ENOMEM;
  unsigned got = 0;
  if (!fds || !items) goto out;
  r = -EFAULT;
  if (copy_from_user(fds, user, n * sizeof *fds)) goto out;
  for (; got < n; got++) {
    struct pollfd_user *p = &fds[got];
    struct fdref f = p->fd < 0 ? (struct fdref){ NULL, false } : fdref_get(p->fd);
    items[got] = (struct poll_item){ .file = f.file, .owned = f.owned, .events = (u32)(u16)p->events | EPOLLERR | EPOLLHUP,
                                     .revents = f.file || p->fd < 0 ? 0 : POLLNVAL };
  }
  r = poll_files(items, got, deadline);
  if (r < 0) goto out;
  for (u64 i = 0; i < n; i++) fds[i].revents = (s16)items[i].revents;
  if (copy_to_user(user, fds, n * sizeof *fds)) r = -EFAULT;
out:
  for (unsigned i = 0; i < got; i++)
    if (items[i].file && items[i].owned) file_put(items[i].file);
  if (fds != fast_fds) kfree(fds);
  if (items != fast_items) kfree(items);
  return r;
}

static long poll_restart(struct lwp *l) {
  long r = do_poll(l->restart.arg[0], l->restart.arg[1], l->restart.arg[2]);
  return r == -EINTR ? -ERESTART_RESTARTBLOCK : r; // restart is still as it was
}

long sys_poll(u64 fds, u64 n, u64 ms) {
  u64 deadline = deadline_ms((s32)ms);
  long r = do_poll(fds, (u32)n, deadline);
  if (r != -EINTR) return r;
  struct lwp *l = lwp_current();
  l->restart.fn = poll_restart;
  l->restart.arg[0] = fds;
  l->restart.arg[1] = (u32)n;
  l->restart.arg[2] = deadline;
  return -ERESTART_RESTARTBLOCK;
}

long sys_ppoll(u64 fds, u64 n, u64 timeout, u64 mask, u64 size) {
  u64 deadline;
  int err = deadline_ts(timeout, &deadline);
  if (!err) err = mask_begin(mask, size);
  if (err) return err;
  long r = do_poll(fds, (u32)n, deadline);
  if (r == -EINTR) r = -ERESTARTNOHAND;
  mask_end(mask, r);
  left_store(timeout, deadline, false);
  return r;
}

// --- select. Three bitmaps in, three out; items only for the descriptors that are named.
#define SELECT_IN (EPOLLRDNORM | EPOLLRDBAND | EPOLLIN | EPOLLHUP | EPOLLERR)
#define SELECT_OUT (EPOLLWRBAND | EPOLLWRNORM | EPOLLOUT | EPOLLERR)
#define SELECT_EX EPOLLPRI
#define FAST_SELECT_WORDS 4u // 256 descriptors

struct select_sets { u64 *in, *out, *ex; };
static int sets_read(struct select_sets *s, uptr in, uptr out, uptr ex, u64 n) {
  u64 bytes = DIV_ROUND_UP(n, 64) * 8;
  if (in && copy_from_user(s->in, in, bytes)) return -EFAULT;
  if (out && copy_from_user(s->out, out, bytes)) return -EFAULT;
  if (ex && copy_from_user(s->ex, ex, bytes)) return -EFAULT;
  return 0;
}

static u32 sets_events(const struct select_sets *s, u64 fd) {
  return (bit_test(s->in, fd) ? SELECT_IN : 0) | (bit_test(s->out, fd) ? SELECT_OUT : 0) | (bit_test(s->ex, fd) ? SELECT_EX : 0);
}

static long do_select(u64 n, uptr in, uptr out, uptr ex, u64 deadline) {
  u64 fast[3 * FAST_SELECT_WORDS] = { 0 }, *words = fast;
  struct poll_item fast_items[FAST_POLL], *items = fast_items;
  if ((s32)n < 0) return -EINVAL;
  n = MIN((u64)(u32)n, (u64)fdtable_capacity(fdtable_current())); // what is above cannot be open
  u64 nwords = MAX(DIV_ROUND_UP(n, 64), 1ull);
  if (nwords > FAST_SELECT_WORDS && !(words = kzalloc(3 * nwords * 8))) return -ENOMEM;
  struct select_sets s = { words, words + nwords, words + 2 * nwords };
  unsigned count = 0, got = 0;
  long r = sets_read(&s, in, out, ex, n);
  if (r) goto out;
  for (u64 fd = 0; fd < n; fd++) count += sets_events(&s, fd) != 0;
  r = -ENOMEM;
  if (count > FAST_POLL && (count > MAX_POLL || !(items = kmalloc(count * sizeof *items, 0)))) {
    items = fast_items;
    goto out;
  }
  for (u64 fd = 0; fd < n; fd++) {
    u32 events = sets_events(&s, fd);
    if (!events) continue;
    struct fdref f = fdref_get((int)fd);
    r = -EBADF;
    if (!f.file) goto out;
    items[got++] = (struct poll_item){ .file = f.file, .owned = f.owned, .events = events };
  }
  r = poll_files(items, got, deadline);
  if (r < 0) goto out;
  r = 0;
  unsigned i = 0;
  for (u64 fd = 0; fd < n; fd++) {
    if (!sets_events(&s, fd)) continue;
    u32 ev = items[i++].revents;
    u64 *map[3] = { s.in, s.out, s.ex };
    const u32 mean[3] = { SELECT_IN, SELECT_OUT, SELECT_EX };
    for (int k = 0; k < 3; k++) {
      if (!bit_test(map[k], fd)) continue;
      if (ev & mean[k]) r++;
      else bit_clear(map[k], fd);
    }
  }
  u64 bytes = DIV_ROUND_UP(n, 64) * 8;
  if ((in && copy_to_user(in, s.in, bytes)) || (out && copy_to_user(out, s.out, bytes)) || (ex && copy_to_user(ex, s.ex, bytes)))
    r = -EFAULT;
out:
  for (unsigned k = 0; k < got; k++)
    if (items[k].owned) file_put(items[k].file);
  if (items != fast_items) kfree(items);
  if (words != fast) kfree(words);
  return r;
}

long sys_select(u64 n, u64 in, u64 out, u64 ex, u64 timeout) {
  u64 deadline = WAIT_FOREVER;
  if (timeout) {
    s64 tv[2];
    if (copy_from_user(tv, timeout, sizeof tv)) return -EFAULT;
    if (tv[0] < 0 || tv[1] < 0) return -EINVAL;
    struct user_timespec ts = { tv[0] > (1ll << 40) ? 1ll << 40 : tv[0] + tv[1] / 1000000, tv[1] % 1000000 * 1000 };
    u64 ns;
    int err = timespec_ns(&ts, &ns);
    if (err) return err;
    deadline = deadline_after(ns);
  }
  long r = do_select(n, in, out, ex, deadline);
  left_store(timeout, deadline, true);
  return r == -EINTR ? -ERESTARTNOHAND : r;
}

long sys_pselect6(u64 n, u64 in, u64 out, u64 ex, u64 timeout, u64 mask_arg) {
  struct { uptr mask; u64 size; } m = { 0, 0 };
  if (mask_arg && copy_from_user(&m, mask_arg, sizeof m)) return -EFAULT;
  u64 deadline;
  int err = deadline_ts(timeout, &deadline);
  if (!err) err = mask_begin(m.mask, m.size);
  if (err) return err;
  long r = do_select(n, in, out, ex, deadline);
  if (r == -EINTR) r = -ERESTARTNOHAND;
  mask_end(m.mask, r);
  left_store(timeout, deadline, false);
  return r;
}

// --- epoll
long sys_epoll_create1(u64 flags) {
  if (flags & ~(u64)EPOLL_CLOEXEC) return -EINVAL;
  return fd_install_new(epoll_create(0), (u32)flags);
}

long sys_epoll_create(u64 size) { return (s32)size <= 0 ? -EINVAL : sys_epoll_create1(0); }

long sys_epoll_ctl(u64 epfd, u64 op, u64 fd, u64 event) {
  struct epoll_event_k ev = { 0 };
  if ((int)op != EPOLL_CTL_DEL && copy_from_user(&ev, event, sizeof ev)) return -EFAULT;
  struct file *ep = file_from_fd((int)epfd), *f = file_from_fd((int)fd);
  long r = ep && f && !f->path_only ? epoll_control(ep, (int)op, f, (int)fd, &ev) : -EBADF;
  if (ep) file_put(ep);
  if (f) file_put(f);
  return r;
}

static long do_epoll_wait(u64 epfd, u64 events, u64 max, u64 deadline) {
  if ((s32)max <= 0 || (s32)max > (s32)(0x7fffffff / sizeof(struct epoll_event_k))) return -EINVAL;
  if (!user_range_ok(events, max * sizeof(struct epoll_event_k))) return -EFAULT;
  struct fdref r = fdref_get((int)epfd);
  if (!r.file) return -EBADF;
  long n = epoll_wait(r.file, events, (int)max, deadline);
  fdref_put(r);
  return n;
}

long sys_epoll_wait(u64 epfd, u64 events, u64 max, u64 ms) { return do_epoll_wait(epfd, events, max, deadline_ms((s32)ms)); }

static long epoll_masked(u64 epfd, u64 events, u64 max, u64 deadline, u64 mask, u64 size) {
  int err = mask_begin(mask, size);
  if (err) return err;
  long r = do_epoll_wait(epfd, events, max, deadline);
  mask_end(mask, r);
  return r;
}

long sys_epoll_pwait(u64 epfd, u64 events, u64 max, u64 ms, u64 mask, u64 size) {
  return epoll_masked(epfd, events, max, deadline_ms((s32)ms), mask, size);
}

long sys_epoll_pwait2(u64 epfd, u64 events, u64 max, u64 timeout, u64 mask, u64 size) {
  u64 deadline;
  int err = deadline_ts(timeout, &deadline);
  return err ? err : epoll_masked(epfd, events, max, deadline, mask, size);
}

// SPDX-License-Identifier: Apache-2.0
// eventfd, timerfd, signalfd, inotify.
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long ms_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
static int readable(int fd) {
  struct pollfd f = { fd, POLLIN, 0 };
  return poll(&f, 1, 0) == 1 && f.revents == POLLIN;
}

static int ev_fd;
static void *adder(void *arg) {
  for (int i = 0; i < 5000; i++) {
    uint64_t v = 3;
    if (write(ev_fd, &v, 8) != 8) __atomic_fetch_add(&check_failed, 1, __ATOMIC_SEQ_CST);
  }
  return NULL;
}
static void eventfds(void) {
  uint64_t v = 5;
  int e = eventfd(3, EFD_NONBLOCK), s = eventfd(2, EFD_NONBLOCK | EFD_SEMAPHORE);
  CHECK(readable(e) && read(e, &v, 8) == 8 && v == 3 && read(e, &v, 8) == -1 && errno == EAGAIN && !readable(e));
  CHECK(read(e, &v, 7) == -1 && errno == EINVAL && write(e, &v, 7) == -1 && errno == EINVAL);
  v = UINT64_MAX;
  CHECK(write(e, &v, 8) == -1 && errno == EINVAL);
  v = UINT64_MAX - 1;
  CHECK(write(e, &v, 8) == 8);
  struct pollfd f = { e, POLLIN | POLLOUT, 0 };
  CHECK(poll(&f, 1, 0) == 1 && f.revents == POLLIN);
  v = 1;
  CHECK(write(e, &v, 8) == -1 && errno == EAGAIN);
  CHECK(read(s, &v, 8) == 8 && v == 1 && read(s, &v, 8) == 8 && v == 1 && read(s, &v, 8) == -1 && errno == EAGAIN);
  CHECK(eventfd(0, 0x10) == -1 && errno == EINVAL);
  close(e), close(s);
  pthread_t t[3];
  ev_fd = eventfd(0, 0);
  for (int i = 0; i < 3; i++) pthread_create(&t[i], NULL, adder, NULL);
  uint64_t sum = 0;
  while (sum < 45000) {
    CHECK(read(ev_fd, &v, 8) == 8);
    sum += v;
  }
  for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
  CHECK(sum == 45000);
  close(ev_fd);
}

static void timerfds(void) {
  uint64_t n;
  int t = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  struct itimerspec its = { { 0, 0 }, { 0, 30000000 } }, cur;
  CHECK(t >= 0 && read(t, &n, 8) == -1 && errno == EAGAIN && timerfd_gettime(t, &cur) == 0 && !cur.it_value.tv_sec && !cur.it_value.tv_nsec);
  long start = ms_now();
  CHECK(timerfd_settime(t, 0, &its, &cur) == 0 && timerfd_gettime(t, &cur) == 0 && cur.it_value.tv_nsec <= 30000000);
  struct pollfd f = { t, POLLIN, 0 };
  CHECK(poll(&f, 1, 5000) == 1 && ms_now() - start >= 29 && read(t, &n, 8) == 8 && n == 1 && read(t, &n, 8) == -1);
  its = (struct itimerspec){ { 0, 10000000 }, { 0, 10000000 } };
  CHECK(timerfd_settime(t, 0, &its, NULL) == 0);
  usleep(105000);
  CHECK(read(t, &n, 8) == 8 && n >= 10 && n < 100);
  CHECK(fcntl(t, F_SETFL, 0) == 0 && read(t, &n, 8) == 8 && n >= 1); // blocks for the next one
  its = (struct itimerspec){ { 0, 0 }, { 0, 0 } };
  CHECK(timerfd_settime(t, 0, &its, &cur) == 0 && cur.it_interval.tv_nsec == 10000000 && !readable(t));
  close(t);
  for (int clock = 0; clock < 2; clock++) { // absolute, of both clocks
    int id = clock ? CLOCK_REALTIME : CLOCK_MONOTONIC;
    t = timerfd_create(id, 0);
    clock_gettime(id, &its.it_value);
    its.it_value.tv_nsec += 20000000;
    if (its.it_value.tv_nsec >= 1000000000) its.it_value.tv_sec++, its.it_value.tv_nsec -= 1000000000;
    start = ms_now();
    CHECK(timerfd_settime(t, TFD_TIMER_ABSTIME, &its, NULL) == 0 && read(t, &n, 8) == 8 && n == 1 && ms_now() - start >= 19);
    its.it_value.tv_sec = 0; // long ago
    its.it_value.tv_nsec = 1;
    CHECK(timerfd_settime(t, TFD_TIMER_ABSTIME, &its, NULL) == 0 && read(t, &n, 8) == 8 && n == 1);
    close(t);
  }
  its.it_value = (struct timespec){ 0, 1000000000 };
  t = timerfd_create(CLOCK_MONOTONIC, 0);
  CHECK(timerfd_settime(t, 0, &its, NULL) == -1 && errno == EINVAL && timerfd_settime(t, 77, &its, NULL) == -1 && errno == EINVAL);
  CHECK(timerfd_create(99, 0) == -1 && errno == EINVAL && timerfd_gettime(0x7000, &cur) == -1 && errno == EBADF);
  close(t);
}

static void signalfds(void) {
  sigset_t m, old;
  struct signalfd_siginfo si[3];
  sigemptyset(&m);
  sigaddset(&m, SIGUSR1);
  sigaddset(&m, SIGUSR2);
  sigaddset(&m, SIGCHLD);
  sigprocmask(SIG_BLOCK, &m, &old);
  int s = signalfd(-1, &m, SFD_NONBLOCK | SFD_CLOEXEC);
  CHECK(s >= 0 && read(s, si, sizeof si) == -1 && errno == EAGAIN && !readable(s));
  CHECK(kill(getpid(), SIGUSR2) == 0 && raise(SIGUSR1) == 0 && readable(s));
  CHECK(read(s, si, 100) == -1 && errno == EINVAL && read(s, si, sizeof si) == 2 * sizeof si[0]);
  CHECK(si[0].ssi_signo == SIGUSR1 && si[1].ssi_signo == SIGUSR2 && si[1].ssi_pid == (uint32_t)getpid() && si[1].ssi_code == SI_USER);
  pid_t pid = fork();
  if (!pid) _exit(7);
  CHECK(fcntl(s, F_SETFL, 0) == 0 && read(s, si, sizeof si[0]) == sizeof si[0] && si[0].ssi_signo == SIGCHLD && si[0].ssi_pid == (uint32_t)pid && si[0].ssi_status == 7);
  CHECK(waitpid(pid, NULL, 0) == pid);
  union sigval sv = { .sival_int = 42 };
  CHECK(sigqueue(getpid(), SIGUSR1, sv) == 0 && read(s, si, sizeof si[0]) == sizeof si[0] && si[0].ssi_int == 42 && si[0].ssi_code == SI_QUEUE);
  sigdelset(&m, SIGUSR1);
  CHECK(signalfd(s, &m, 0) == s && raise(SIGUSR1) == 0 && !readable(s));
  int other = eventfd(0, 0);
  CHECK(signalfd(other, &m, 0) == -1 && errno == EINVAL && signalfd(-1, &m, 0x1) == -1 && errno == EINVAL);
  close(s), close(other);
  signal(SIGUSR1, SIG_IGN); // drops the pending one
  sigprocmask(SIG_SETMASK, &old, NULL);
}

static void next_event(char **at, char *end, struct inotify_event **e) {
  *e = (struct inotify_event *)*at;
  if (*at >= end) {
    static struct inotify_event none;
    *e = &none;
    return;
  }
  *at += sizeof **e + (*e)->len;
}
static void inotifies(void) {
  char dir[] = "/tmp/inotifyXXXXXX", buf[4096] __attribute__((aligned(8))), *at = buf;
  struct inotify_event *e;
  int i = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), n;
  CHECK(mkdtemp(dir) && chdir(dir) == 0 && read(i, buf, sizeof buf) == -1 && errno == EAGAIN);
  int w = inotify_add_watch(i, ".", IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MODIFY | IN_CLOSE_WRITE);
  CHECK(w == 1 && inotify_add_watch(i, "none", IN_CREATE) == -1 && errno == ENOENT && inotify_add_watch(i, ".", 0) == -1 && errno == EINVAL);
  int fd = open("a", O_CREAT | O_WRONLY, 0600);
  CHECK(write(fd, "x", 1) == 1 && write(fd, "y", 1) == 1 && close(fd) == 0 && readable(i) && ioctl(i, FIONREAD, &n) == 0);
  long got = read(i, buf, sizeof buf);
  CHECK(got == n);
  next_event(&at, buf + got, &e);
  CHECK(e->wd == 1 && e->mask == IN_CREATE && !strcmp(e->name, "a") && e->len % 16 == 0);
  next_event(&at, buf + got, &e);
  CHECK(e->mask == IN_MODIFY && !strcmp(e->name, "a")); // two writes, one event
  next_event(&at, buf + got, &e);
  CHECK(e->mask == IN_CLOSE_WRITE && at == buf + got);
  CHECK(rename("a", "b") == 0 && mkdir("d", 0700) == 0 && unlink("b") == 0 && rmdir("d") == 0);
  got = read(i, buf, sizeof buf);
  at = buf;
  next_event(&at, buf + got, &e);
  uint32_t cookie = e->cookie;
  CHECK(e->mask == IN_MOVED_FROM && !strcmp(e->name, "a") && cookie);
  next_event(&at, buf + got, &e);
  CHECK(e->mask == IN_MOVED_TO && !strcmp(e->name, "b") && e->cookie == cookie);
  next_event(&at, buf + got, &e);
  CHECK(e->mask == (IN_CREATE | IN_ISDIR) && !strcmp(e->name, "d"));
  next_event(&at, buf + got, &e);
  CHECK(e->mask == IN_DELETE && !strcmp(e->name, "b"));
  next_event(&at, buf + got, &e);
  CHECK(e->mask == (IN_DELETE | IN_ISDIR) && at == buf + got);
  CHECK(inotify_rm_watch(i, w) == 0 && inotify_rm_watch(i, w) == -1 && errno == EINVAL && read(i, buf, 8) == -1 && errno == EINVAL);
  got = read(i, buf, sizeof buf);
  at = buf;
  next_event(&at, buf + got, &e);
  CHECK(e->mask == IN_IGNORED && e->wd == 1 && e->len == 0);
  fd = open("f", O_CREAT | O_WRONLY, 0600); // a watch on the file itself
  w = inotify_add_watch(i, "f", IN_ALL_EVENTS);
  CHECK(w == 2 && inotify_add_watch(i, "f", IN_MODIFY | IN_DELETE_SELF | IN_ATTRIB) == 2 && write(fd, "z", 1) == 1 && fchmod(fd, 0644) == 0);
  got = read(i, buf, sizeof buf);
  at = buf;
  next_event(&at, buf + got, &e);
  CHECK(e->mask == IN_MODIFY && e->wd == 2 && e->len == 0);
  next_event(&at, buf + got, &e);
  CHECK(e->mask == IN_ATTRIB);
  close(fd);
  CHECK(unlink("f") == 0);
  got = read(i, buf, sizeof buf);
  at = buf;
  int self = 0, ignored = 0;
  while (at < buf + got) {
    next_event(&at, buf + got, &e);
    self += e->mask == IN_DELETE_SELF;
    ignored += e->mask == IN_IGNORED;
  }
  CHECK(self == 1 && ignored == 1);
  close(i);
  CHECK(chdir("/") == 0 && rmdir(dir) == 0);
}

int main(void) {
  RUN(eventfds);
  RUN(timerfds);
  RUN(signalfds);
  RUN(inotifies);
  FINISH();
}

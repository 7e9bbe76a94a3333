// SPDX-License-Identifier: Apache-2.0
// epoll: level, edge, one-shot, exclusive, nested, closing, masks; then many threads on one edge-triggered instance.
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void *volatile bad_pointer = (void *)8; // the compiler must not know
static long ms_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
static int ctl(int ep, int op, int fd, unsigned events, long data) {
  struct epoll_event e = { .events = events, .data.u64 = (unsigned long)data };
  return epoll_ctl(ep, op, fd, &e);
}

static void basics(void) {
  struct epoll_event ev[8];
  int ep = epoll_create1(EPOLL_CLOEXEC), p[2], file = open("/proc/self/exe", O_RDONLY);
  CHECK(ep >= 0 && fcntl(ep, F_GETFD) == FD_CLOEXEC && pipe(p) == 0);
  CHECK(epoll_create(0) == -1 && errno == EINVAL && epoll_create1(1) == -1 && errno == EINVAL);
  CHECK(ctl(ep, EPOLL_CTL_ADD, file, EPOLLIN, 0) == -1 && errno == EPERM && ctl(ep, EPOLL_CTL_ADD, 99, EPOLLIN, 0) == -1 && errno == EBADF);
  CHECK(ctl(ep, EPOLL_CTL_ADD, ep, EPOLLIN, 0) == -1 && errno == EINVAL && ctl(p[0], EPOLL_CTL_ADD, p[1], EPOLLIN, 0) == -1 && errno == EINVAL);
  CHECK(ctl(ep, EPOLL_CTL_ADD, p[0], EPOLLIN, 7) == 0 && ctl(ep, EPOLL_CTL_ADD, p[0], EPOLLIN, 7) == -1 && errno == EEXIST);
  CHECK(ctl(ep, EPOLL_CTL_MOD, p[1], EPOLLIN, 0) == -1 && errno == ENOENT && ctl(ep, 9, p[0], EPOLLIN, 0) == -1 && errno == EINVAL);
  CHECK(epoll_wait(ep, ev, 0, 0) == -1 && errno == EINVAL && epoll_wait(ep, ev, 8, 0) == 0 && epoll_wait(p[0], ev, 8, 0) == -1 && errno == EINVAL);
  long t = ms_now();
  CHECK(epoll_wait(ep, ev, 8, 40) == 0 && ms_now() - t >= 39);
  CHECK(write(p[1], "ab", 2) == 2 && epoll_wait(ep, ev, 8, -1) == 1 && ev[0].events == EPOLLIN && ev[0].data.u64 == 7);
  CHECK(epoll_wait(ep, ev, 8, -1) == 1 && epoll_wait(ep, bad_pointer, 8, 0) == -1 && errno == EFAULT);
  CHECK(ctl(ep, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET, 8) == 0 && epoll_wait(ep, ev, 8, 0) == 1 && ev[0].data.u64 == 8 && epoll_wait(ep, ev, 8, 0) == 0);
  CHECK(write(p[1], "c", 1) == 1 && epoll_wait(ep, ev, 8, 0) == 1 && epoll_wait(ep, ev, 8, 0) == 0); // a new edge although not drained
  CHECK(ctl(ep, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 9) == 0 && epoll_wait(ep, ev, 8, 0) == 1 && epoll_wait(ep, ev, 8, 0) == 0);
  CHECK(write(p[1], "d", 1) == 1 && epoll_wait(ep, ev, 8, 0) == 0 && ctl(ep, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 10) == 0 && epoll_wait(ep, ev, 8, 0) == 1);
  CHECK(ctl(ep, EPOLL_CTL_MOD, p[0], EPOLLIN, 11) == 0 && ctl(ep, EPOLL_CTL_ADD, p[1], EPOLLOUT, 12) == 0 && epoll_wait(ep, ev, 8, 0) == 2);
  CHECK(epoll_wait(ep, ev, 1, 0) == 1);
  unsigned long first = ev[0].data.u64;
  CHECK(epoll_wait(ep, ev, 1, 0) == 1 && ev[0].data.u64 != first);
  CHECK(ctl(ep, EPOLL_CTL_DEL, p[1], 0, 0) == 0 && ctl(ep, EPOLL_CTL_DEL, p[1], 0, 0) == -1 && errno == ENOENT);
  close(p[1]);
  CHECK(epoll_wait(ep, ev, 8, 0) == 1 && ev[0].events == (EPOLLIN | EPOLLHUP));
  int dup_end = dup(p[0]);
  close(p[0]); // the description lives on: so does the item
  CHECK(epoll_wait(ep, ev, 8, 0) == 1);
  close(dup_end);
  CHECK(epoll_wait(ep, ev, 8, 0) == 0);
  close(ep), close(file);
}

static void exclusive(void) {
  int ep = epoll_create1(0), e = eventfd(0, 0);
  CHECK(ctl(ep, EPOLL_CTL_ADD, e, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 0) == -1 && errno == EINVAL);
  CHECK(ctl(ep, EPOLL_CTL_ADD, e, EPOLLIN | EPOLLEXCLUSIVE, 0) == 0 && ctl(ep, EPOLL_CTL_MOD, e, EPOLLIN, 0) == -1 && errno == EINVAL);
  CHECK(ctl(ep, EPOLL_CTL_DEL, e, 0, 0) == 0);
  close(ep), close(e);
}

static void nested(void) {
  int a = epoll_create1(0), b = epoll_create1(0), c = epoll_create1(0), e = eventfd(0, EFD_NONBLOCK);
  struct epoll_event ev[2];
  unsigned long long v = 1;
  CHECK(ctl(a, EPOLL_CTL_ADD, e, EPOLLIN | EPOLLET, 1) == 0 && ctl(b, EPOLL_CTL_ADD, a, EPOLLIN, 2) == 0 && ctl(c, EPOLL_CTL_ADD, b, EPOLLIN, 3) == 0);
  CHECK(ctl(a, EPOLL_CTL_ADD, c, EPOLLIN, 0) == -1 && errno == ELOOP);
  CHECK(epoll_wait(c, ev, 2, 0) == 0);
  pid_t pid = fork();
  if (!pid) {
    usleep(30000);
    _exit(write(e, &v, 8) != 8);
  }
  CHECK(epoll_wait(c, ev, 2, 5000) == 1 && ev[0].data.u64 == 3);
  waitpid(pid, NULL, 0);
  struct pollfd pf = { b, POLLIN, 0 };
  CHECK(poll(&pf, 1, 0) == 1 && epoll_wait(a, ev, 2, 0) == 1 && ev[0].data.u64 == 1 && epoll_wait(c, ev, 2, 0) == 0);
  close(b);
  CHECK(write(e, &v, 8) == 8 && epoll_wait(c, ev, 2, 0) == 0 && epoll_wait(a, ev, 2, 0) == 1);
  close(a), close(c), close(e);
}

static volatile int got;
static void on_signal(int s) { got++; }
static void masks(void) {
  sigset_t block, old, empty;
  struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
  struct epoll_event ev;
  int ep = epoll_create1(0);
  sigaction(SIGUSR2, &sa, NULL);
  sigemptyset(&empty);
  sigemptyset(&block);
  sigaddset(&block, SIGUSR2);
  sigprocmask(SIG_BLOCK, &block, &old);
  raise(SIGUSR2);
  CHECK(epoll_pwait(ep, &ev, 1, 10, NULL) == 0 && got == 0);
  CHECK(epoll_pwait(ep, &ev, 1, 5000, &empty) == -1 && errno == EINTR && got == 1);
  struct timespec ts = { 0, 20000000 };
  long t = ms_now();
  CHECK(syscall(SYS_epoll_pwait2, ep, &ev, 1, &ts, NULL, 8) == 0 && ms_now() - t >= 19);
  raise(SIGUSR2);
  CHECK(got == 1);
  sigprocmask(SIG_SETMASK, &old, NULL);
  CHECK(got == 2);
  close(ep);
}

// Edge-triggered, several waiting threads, several writing ones, over socket pairs: every byte is read.
enum { PAIRS = 16, WRITERS = 4, WAITERS = 3, ROUNDS = 3000 };
static int ep, quit, pairs[PAIRS][2];
static long bytes_read, bytes_written;
static void *writer(void *arg) {
  unsigned x = (unsigned)(long)arg * 2654435761u + 1;
  char buf[64] = { 0 };
  for (int i = 0; i < ROUNDS; i++) {
    x = x * 1664525 + 1013904223;
    long n = 1 + (x >> 8) % 64, w = send(pairs[(x >> 20) % PAIRS][1], buf, (size_t)n, MSG_DONTWAIT);
    if (w > 0) __atomic_fetch_add(&bytes_written, w, __ATOMIC_SEQ_CST);
    else if (errno != EAGAIN) __atomic_fetch_add(&check_failed, 1, __ATOMIC_SEQ_CST);
  }
  return NULL;
}
static void *waiter(void *arg) {
  for (;;) {
    struct epoll_event ev[4];
    int n = epoll_wait(ep, ev, 4, -1);
    for (int i = 0; i < n; i++) {
      if (ev[i].data.u64 == PAIRS) return NULL;
      char buf[200];
      long r;
      while ((r = recv(pairs[ev[i].data.u64][0], buf, sizeof buf, MSG_DONTWAIT)) > 0) __atomic_fetch_add(&bytes_read, r, __ATOMIC_SEQ_CST);
    }
  }
}
static void edge_stress(void) {
  pthread_t w[WRITERS], r[WAITERS];
  unsigned long long one = 1;
  ep = epoll_create1(0);
  quit = eventfd(0, 0);
  CHECK(ctl(ep, EPOLL_CTL_ADD, quit, EPOLLIN, PAIRS) == 0);
  for (int i = 0; i < PAIRS; i++) CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]) == 0 && ctl(ep, EPOLL_CTL_ADD, pairs[i][0], EPOLLIN | EPOLLET, i) == 0);
  for (long i = 0; i < WAITERS; i++) pthread_create(&r[i], NULL, waiter, NULL);
  for (long i = 0; i < WRITERS; i++) pthread_create(&w[i], NULL, writer, (void *)i);
  for (int i = 0; i < WRITERS; i++) pthread_join(w[i], NULL);
  long end = ms_now() + 10000;
  while (__atomic_load_n(&bytes_read, __ATOMIC_SEQ_CST) != bytes_written && ms_now() < end) usleep(1000);
  CHECK(bytes_read == bytes_written && bytes_written > 0);
  CHECK(write(quit, &one, 8) == 8);
  for (int i = 0; i < WAITERS; i++) pthread_join(r[i], NULL);
  for (int i = 0; i < PAIRS; i++) close(pairs[i][0]), close(pairs[i][1]);
  close(ep), close(quit);
}

// Descriptors come and go under a waiting thread.
static int stop_churn;
static void *churn_waiter(void *arg) {
  while (!__atomic_load_n(&stop_churn, __ATOMIC_SEQ_CST)) {
    struct epoll_event ev[8];
    if (epoll_wait(ep, ev, 8, 5) < 0) __atomic_fetch_add(&check_failed, 1, __ATOMIC_SEQ_CST);
  }
  return NULL;
}
static void churn(void) {
  pthread_t t[2];
  ep = epoll_create1(0);
  for (int i = 0; i < 2; i++) pthread_create(&t[i], NULL, churn_waiter, NULL);
  for (int i = 0; i < 2000; i++) {
    int e = eventfd(i & 1, EFD_NONBLOCK), p[2];
    CHECK(e >= 0 && pipe(p) == 0 && ctl(ep, EPOLL_CTL_ADD, e, EPOLLIN | (i & 2 ? EPOLLET : 0), i) == 0 && ctl(ep, EPOLL_CTL_ADD, p[0], EPOLLIN, i) == 0);
    CHECK(write(p[1], "x", 1) == 1);
    if (i & 4) CHECK(ctl(ep, EPOLL_CTL_DEL, e, 0, 0) == 0);
    close(e), close(p[0]), close(p[1]);
  }
  __atomic_store_n(&stop_churn, 1, __ATOMIC_SEQ_CST);
  for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
  struct epoll_event ev;
  CHECK(epoll_wait(ep, &ev, 1, 0) == 0);
  close(ep);
}

int main(void) {
  RUN(basics);
  RUN(exclusive);
  RUN(nested);
  RUN(masks);
  RUN(edge_stress);
  RUN(churn);
  FINISH();
}

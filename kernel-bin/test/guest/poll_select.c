// SPDX-License-Identifier: Apache-2.0
// poll, ppoll, select, pselect: readiness, time, large sets, bad descriptors, signal masks.
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void *volatile bad_pointer = (void *)8; // the compiler must not know
static long ms_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void polling(void) {
  int p[2];
  CHECK(pipe(p) == 0);
  struct pollfd f[4] = { { p[0], POLLIN, 0 }, { p[1], POLLOUT, 0 }, { -1, POLLIN, 7 }, { 999, POLLIN, 0 } };
  CHECK(poll(f, 4, 0) == 2 && f[0].revents == 0 && f[1].revents == POLLOUT && f[2].revents == 0 && f[3].revents == POLLNVAL);
  CHECK(poll(f, 1, 0) == 0 && poll(NULL, 0, 10) == 0 && poll(bad_pointer, 1, 0) == -1 && errno == EFAULT);
  long t = ms_now();
  CHECK(poll(f, 1, 50) == 0 && ms_now() - t >= 50 && ms_now() - t < 1000);
  CHECK(write(p[1], "x", 1) == 1 && poll(f, 1, -1) == 1 && f[0].revents == POLLIN);
  f[0].events = 0;
  CHECK(poll(f, 1, 0) == 0 && close(p[1]) == 0 && poll(f, 1, 0) == 1 && f[0].revents == POLLHUP);
  int file = open("/proc/self/exe", O_RDONLY);
  struct pollfd g = { file, POLLIN | POLLOUT, 0 };
  CHECK(file >= 0 && poll(&g, 1, -1) == 1 && g.revents == (POLLIN | POLLOUT));
  close(file), close(p[0]);
}

static int evs[300];
static void *late_writer(void *arg) {
  usleep(50000);
  unsigned long long one = 1;
  if (write(evs[(long)arg], &one, 8) != 8) check_failed++;
  return NULL;
}
static void large(void) {
  struct pollfd f[300];
  pthread_t t;
  for (int i = 0; i < 300; i++) {
    evs[i] = eventfd(0, EFD_NONBLOCK);
    f[i] = (struct pollfd){ evs[i], POLLIN, 0 };
  }
  CHECK(poll(f, 300, 0) == 0);
  pthread_create(&t, NULL, late_writer, (void *)280);
  CHECK(poll(f, 300, 5000) == 1 && f[280].revents == POLLIN);
  pthread_join(t, NULL);
  fd_set r, w, e;
  FD_ZERO(&r);
  FD_ZERO(&w);
  FD_ZERO(&e);
  for (int i = 0; i < 300; i++) FD_SET(evs[i], &r);
  FD_SET(evs[3], &w);
  FD_SET(evs[4], &e);
  struct timeval tv = { 2, 500000 };
  CHECK(select(evs[299] + 1, &r, &w, &e, &tv) == 2 && FD_ISSET(evs[280], &r) && !FD_ISSET(evs[281], &r) && FD_ISSET(evs[3], &w) && !FD_ISSET(evs[4], &e));
  CHECK(tv.tv_sec == 2 || tv.tv_sec == 1);
  for (int i = 0; i < 300; i++) close(evs[i]);
}

static void selecting(void) {
  int p[2];
  fd_set r;
  CHECK(pipe(p) == 0);
  FD_ZERO(&r);
  FD_SET(p[0], &r);
  struct timeval tv = { 0, 30000 };
  long t = ms_now();
  CHECK(select(p[0] + 1, &r, NULL, NULL, &tv) == 0 && !FD_ISSET(p[0], &r) && ms_now() - t >= 29 && tv.tv_sec == 0 && tv.tv_usec == 0);
  tv = (struct timeval){ 0, 20000 };
  CHECK(select(0, NULL, NULL, NULL, &tv) == 0);
  FD_SET(p[0], &r);
  close(p[1]);
  CHECK(select(p[0] + 1, &r, NULL, NULL, NULL) == 1 && FD_ISSET(p[0], &r)); // the end is readable
  int bad = dup(p[0]);
  FD_ZERO(&r);
  FD_SET(bad, &r);
  close(bad);
  CHECK(select(bad + 1, &r, NULL, NULL, NULL) == -1 && errno == EBADF && select(-1, NULL, NULL, NULL, NULL) == -1 && errno == EINVAL);
  struct timespec bad_ts = { 0, 1000000000 };
  CHECK(pselect(0, NULL, NULL, NULL, &bad_ts, NULL) == -1 && errno == EINVAL);
  close(p[0]);
}

static volatile int usr1;
static void on_usr1(int s) { usr1++; }
static void masks(void) {
  sigset_t block, old, empty, now;
  struct sigaction sa = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
  sigaction(SIGUSR1, &sa, NULL);
  sigemptyset(&empty);
  sigemptyset(&block);
  sigaddset(&block, SIGUSR1);
  sigprocmask(SIG_BLOCK, &block, &old);
  raise(SIGUSR1);
  int p[2];
  CHECK(pipe(p) == 0);
  struct pollfd f = { p[0], POLLIN, 0 };
  struct timespec ts = { 5, 0 };
  long t = ms_now();
  CHECK(ppoll(&f, 1, &ts, &empty) == -1 && errno == EINTR && usr1 == 1 && ms_now() - t < 3000);
  sigprocmask(SIG_BLOCK, NULL, &now);
  CHECK(sigismember(&now, SIGUSR1) == 1);
  raise(SIGUSR1);
  CHECK(pselect(0, NULL, NULL, NULL, &ts, &empty) == -1 && errno == EINTR && usr1 == 2);
  sigprocmask(SIG_BLOCK, NULL, &now);
  CHECK(sigismember(&now, SIGUSR1) == 1);
  ts = (struct timespec){ 0, 0 };
  CHECK(write(p[1], "x", 1) == 1 && ppoll(&f, 1, &ts, &empty) == 1);
  sigprocmask(SIG_BLOCK, NULL, &now);
  CHECK(sigismember(&now, SIGUSR1) == 1);
  sigprocmask(SIG_SETMASK, &old, NULL);
  close(p[0]), close(p[1]);
}

static void sockets(void) {
  int s[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
  struct pollfd f = { s[0], POLLIN | POLLOUT | POLLRDHUP, 0 };
  CHECK(poll(&f, 1, 0) == 1 && f.revents == POLLOUT);
  shutdown(s[1], SHUT_WR);
  CHECK(poll(&f, 1, 0) == 1 && f.revents == (POLLIN | POLLOUT | POLLRDHUP));
  close(s[1]);
  CHECK(poll(&f, 1, 0) == 1 && f.revents == (POLLIN | POLLOUT | POLLRDHUP | POLLHUP));
  close(s[0]);
}

int main(void) {
  struct rlimit rl = { 1024, 1024 };
  setrlimit(RLIMIT_NOFILE, &rl);
  RUN(polling);
  RUN(large);
  RUN(selecting);
  RUN(masks);
  RUN(sockets);
  FINISH();
}

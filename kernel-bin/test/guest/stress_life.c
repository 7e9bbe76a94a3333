// SPDX-License-Identifier: Apache-2.0
// Many processes and threads come and go while signals, stops and kills hit them at any moment. What counts is that
// nothing is lost, nothing hangs and every status is one that could be.
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static unsigned seed = 1;
static unsigned rnd(void) {
  seed = seed * 1103515245u + 12345u;
  return seed >> 16;
}

static int wait_for(pid_t p) {
  int st;
  while (waitpid(p, &st, 0) < 0)
    if (errno != EINTR) return -1;
  return st;
}

// Children in all kinds of sleep are killed.
static void victim(unsigned kind) {
  int fd[2];
  struct timespec ts = { 1000, 0 };
  sigset_t s;
  sigfillset(&s);
  switch (kind % 6) {
  case 0: for (;;) pause();
  case 1: nanosleep(&ts, NULL); break;
  case 2: (void)!(pipe(fd) || read(fd[0], &ts, 1)); break;
  case 3: for (volatile int i = 0;; i++) {}
  case 4: sigprocmask(SIG_BLOCK, &s, NULL); for (;;) pause();
  case 5: if (!vfork()) for (;;) pause(); break;
  }
  _exit(99);
}
static void kill_sleepers(void) {
  for (int round = 0; round < 15; round++) {
    pid_t p[12];
    for (int i = 0; i < 12; i++) {
      p[i] = fork();
      if (!p[i]) {
        setpgid(0, 0);
        victim((unsigned)i);
      }
      setpgid(p[i], p[i]);
    }
    usleep(rnd() % 3000);
    for (int i = 0; i < 12; i++) kill(-p[i], rnd() % 2 ? SIGSTOP : SIGCONT);
    for (int i = 0; i < 12; i++) CHECK(kill(-p[i], SIGKILL) == 0);
    for (int i = 0; i < 12; i++) {
      int st = wait_for(p[i]);
      CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
    }
  }
}

static void *nap(void *arg) {
  struct timespec ts = { 0, (long)(rnd() % 300000) };
  nanosleep(&ts, NULL);
  return arg;
}
static void *churn(void *arg) {
  for (int i = 0; i < 40; i++) {
    pthread_t t[4];
    for (long k = 0; k < 4; k++)
      if (pthread_create(&t[k], NULL, nap, (void *)k)) return (void *)1;
    for (long k = 0; k < 4; k++) {
      void *r;
      if (pthread_join(t[k], &r) || r != (void *)k) return (void *)1;
    }
  }
  return NULL;
}
static void thread_churn(void) {
  pthread_t t[4];
  for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, churn, NULL);
  for (int i = 0; i < 4; i++) {
    void *r = (void *)1;
    pthread_join(t[i], &r);
    CHECK(r == NULL);
  }
}

// exit_group and fatal signals with many threads, in all phases of their life.
static void group_ends(void) {
  for (int round = 0; round < 30; round++) {
    pid_t p = fork();
    if (!p) {
      pthread_t t;
      for (int i = 0; i < 3; i++) pthread_create(&t, NULL, churn, NULL);
      usleep((unsigned)(round * 100));
      if (round % 3 == 0) _exit(17);
      if (round % 3 == 1) raise(SIGKILL);
      execl("/no/such", "x", NULL);
      *(volatile int *)8 = 1;
    }
    int st = wait_for(p);
    CHECK(round % 3 == 0 ? WIFEXITED(st) && WEXITSTATUS(st) == 17 : WIFSIGNALED(st) && WTERMSIG(st) == (round % 3 == 1 ? SIGKILL : SIGSEGV));
  }
}

// A storm of queued signals: none may be lost.
static volatile int got;
static void count_rt(int s) { __atomic_fetch_add(&got, 1, __ATOMIC_SEQ_CST); }
static void *sender(void *arg) {
  union sigval v = { .sival_int = 1 };
  for (int i = 0; i < 500; i++)
    while (sigqueue(getpid(), SIGRTMIN + 4, v)) usleep(100);
  return NULL;
}
static volatile int storm_over;
static void *receiver(void *arg) {
  while (!storm_over) usleep(500);
  return NULL;
}
static void signal_storm(void) {
  struct sigaction a = { .sa_handler = count_rt, .sa_flags = SA_RESTART };
  sigaction(SIGRTMIN + 4, &a, NULL);
  pthread_t s[3], r[3];
  for (int i = 0; i < 3; i++) pthread_create(&r[i], NULL, receiver, NULL);
  for (int i = 0; i < 3; i++) pthread_create(&s[i], NULL, sender, NULL);
  for (int i = 0; i < 3; i++) pthread_join(s[i], NULL);
  for (int i = 0; i < 3000 && got < 1500; i++) usleep(1000);
  CHECK(got == 1500);
  storm_over = 1;
  for (int i = 0; i < 3; i++) pthread_join(r[i], NULL);
}

// An interval timer interrupts system calls everywhere; pipes must still carry every byte.
static void tick(int s) {}
static void pipe_under_fire(void) {
  int fd[2];
  CHECK(pipe(fd) == 0);
  pid_t p = fork();
  struct sigaction a = { .sa_handler = tick, .sa_flags = SA_RESTART };
  sigaction(SIGALRM, &a, NULL);
  struct itimerval t = { { 0, 700 }, { 0, 700 } };
  setitimer(ITIMER_REAL, &t, NULL);
  unsigned char buf[5000];
  if (!p) {
    close(fd[0]);
    unsigned n = 0;
    while (n < 300000) {
      size_t len = 1 + rnd() % sizeof buf;
      if (len > 300000 - n) len = 300000 - n;
      for (size_t i = 0; i < len; i++) buf[i] = (unsigned char)((n + i) * 7);
      ssize_t w = write(fd[1], buf, len);
      if (w < 0) _exit(1);
      n += (unsigned)w;
    }
    _exit(0);
  }
  close(fd[1]);
  unsigned n = 0;
  ssize_t r;
  int wrong = 0;
  while ((r = read(fd[0], buf, 1 + rnd() % sizeof buf)) > 0) {
    for (ssize_t i = 0; i < r; i++) wrong += buf[i] != (unsigned char)((n + (unsigned)i) * 7);
    n += (unsigned)r;
  }
  CHECK(r == 0 && n == 300000 && !wrong);
  t = (struct itimerval){ 0 };
  setitimer(ITIMER_REAL, &t, NULL);
  CHECK(wait_for(p) == 0);
  close(fd[0]);
}

// FPU registers survive switches and signals.
static void *fpu_worker(void *arg) {
  double x = (double)(long)arg + 0.5, sum = 0;
  for (int i = 0; i < 300000; i++) sum += x;
  return sum == x * 300000 ? NULL : (void *)1;
}
static void fpu_switching(void) {
  struct itimerval t = { { 0, 500 }, { 0, 500 } };
  setitimer(ITIMER_REAL, &t, NULL);
  pthread_t th[8];
  for (long i = 0; i < 8; i++) pthread_create(&th[i], NULL, fpu_worker, (void *)i);
  for (int i = 0; i < 8; i++) {
    void *r = (void *)1;
    pthread_join(th[i], &r);
    CHECK(r == NULL);
  }
  t = (struct itimerval){ 0 };
  setitimer(ITIMER_REAL, &t, NULL);
}

// fork while other threads map, unmap and write.
static volatile int mapping;
static void *mapper(void *arg) {
  while (mapping) {
    char *m = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) return (void *)1;
    memset(m, 1, 1 << 16);
    munmap(m, 1 << 16);
  }
  return NULL;
}
static void fork_and_map(void) {
  mapping = 1;
  pthread_t t[2];
  for (int i = 0; i < 2; i++) pthread_create(&t[i], NULL, mapper, NULL);
  for (int i = 0; i < 40; i++) {
    pid_t p = fork();
    if (!p) _exit(i);
    int st = wait_for(p);
    CHECK(WIFEXITED(st) && WEXITSTATUS(st) == i);
  }
  mapping = 0;
  for (int i = 0; i < 2; i++) {
    void *r = (void *)1;
    pthread_join(t[i], &r);
    CHECK(r == NULL);
  }
}

// exit_group while another thread makes threads: the one that is born just then must end as well.
static char born_stack[4][16384];
static int born(void *arg) {
  for (;;) __asm__ volatile("pause");
  return 0;
}
static int maker(void *arg) {
  *(volatile int *)arg = 1;
  for (int i = 1; i < 4; i++)
    clone(born, born_stack[i] + sizeof born_stack[i], CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, NULL);
  for (;;) pause();
  return 0;
}
static void ends_while_threads_are_made(void) {
  for (unsigned round = 0; round < 300; round++) {
    pid_t p = fork();
    if (!p) {
      volatile int begun = 0;
      clone(maker, born_stack[0] + sizeof born_stack[0], CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM, (void *)&begun);
      while (!begun) {}
      unsigned wait = round * 7919 % 400;
      for (volatile unsigned i = 0; i < wait * wait / 8; i++) {}
      syscall(SYS_exit_group, 3);
    }
    int st = wait_for(p);
    CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 3);
  }
}

int main(void) {
  RUN(kill_sleepers);
  RUN(thread_churn);
  RUN(group_ends);
  RUN(ends_while_threads_are_made);
  RUN(signal_storm);
  RUN(pipe_under_fire);
  RUN(fpu_switching);
  RUN(fork_and_map);
  FINISH();
}

// SPDX-License-Identifier: Apache-2.0
// pthreads, futexes and the scheduler. Sleep accuracy goes to stderr as a figure, it is not judged.
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static long counter;
static int turn;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *add(void *arg) {
  for (int i = 0; i < 20000; i++) {
    pthread_mutex_lock(&lock);
    counter++;
    pthread_mutex_unlock(&lock);
  }
  return arg;
}
static void mutexes(void) {
  pthread_t t[8];
  counter = 0;
  for (long i = 0; i < 8; i++) CHECK(pthread_create(&t[i], NULL, add, (void *)i) == 0);
  for (long i = 0; i < 8; i++) {
    void *r;
    CHECK(pthread_join(t[i], &r) == 0 && (long)r == i);
  }
  CHECK(counter == 160000);
}

static void *ping(void *arg) {
  int me = (int)(long)arg;
  for (int i = 0; i < 2000; i++) {
    pthread_mutex_lock(&lock);
    while (turn != me) pthread_cond_wait(&cond, &lock);
    turn = !me;
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&lock);
  }
  return NULL;
}
static void conditions(void) {
  pthread_t a, b;
  double t = now();
  pthread_create(&a, NULL, ping, (void *)0);
  pthread_create(&b, NULL, ping, (void *)1);
  pthread_join(a, NULL);
  pthread_join(b, NULL);
  CHECK(turn == 0);
  fprintf(stderr, "condition variable hand-over: %.1f us\n", (now() - t) / 4000 * 1e6);
}

static __thread int mine = 7;
static void *tls(void *arg) {
  CHECK(mine == 7);
  mine = (int)(long)arg;
  sched_yield();
  CHECK(mine == (int)(long)arg);
  return NULL;
}
static void thread_local_storage(void) {
  pthread_t t[16];
  for (long i = 0; i < 16; i++) pthread_create(&t[i], NULL, tls, (void *)i);
  for (int i = 0; i < 16; i++) pthread_join(t[i], NULL);
  CHECK(mine == 7);
}

static void timeouts(void) {
  struct timespec t;
  pthread_mutex_lock(&lock);
  clock_gettime(CLOCK_REALTIME, &t);
  t.tv_nsec += 20000000;
  if (t.tv_nsec >= 1000000000) t.tv_sec++, t.tv_nsec -= 1000000000;
  CHECK(pthread_cond_timedwait(&cond, &lock, &t) == ETIMEDOUT);
  pthread_mutex_unlock(&lock);
  sem_t s;
  sem_init(&s, 0, 0);
  CHECK(sem_timedwait(&s, &t) == -1 && errno == ETIMEDOUT);
  sem_post(&s);
  CHECK(sem_wait(&s) == 0);
}

static pthread_mutex_t robust;
static void *die_holding(void *arg) {
  pthread_mutex_lock(&robust);
  return NULL;
}
static void robust_mutex(void) {
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&robust, &a);
  pthread_t t;
  pthread_create(&t, NULL, die_holding, NULL);
  pthread_join(t, NULL);
  CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD);
  CHECK(pthread_mutex_consistent(&robust) == 0 && pthread_mutex_unlock(&robust) == 0);
}

static volatile int go;
static void *spin(void *arg) {
  while (!go) {}
  return arg;
}
static double cpu_of(pthread_t t) {
  clockid_t c;
  struct timespec ts = { 0 };
  CHECK(pthread_getcpuclockid(t, &c) == 0 && clock_gettime(c, &ts) == 0);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}
// Six spinning threads on one CPU: each gets its share, also the one that had the CPU for itself before the others came.
static void fairness(void) {
  pthread_t t[6];
  double had[6], sum = 0, least = 1e9, most = 0;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(0, &one);
  go = 0;
  for (int i = 0; i < 6; i++) {
    CHECK(pthread_create(&t[i], NULL, spin, NULL) == 0);
    CHECK(pthread_setaffinity_np(t[i], sizeof one, &one) == 0);
    while (i == 0 && cpu_of(t[0]) < 0.3) usleep(10000);
  }
  for (int i = 0; i < 6; i++) had[i] = cpu_of(t[i]);
  while (sum < 0.6) { // seconds of that CPU
    usleep(20000);
    sum = 0;
    for (int i = 0; i < 6; i++) sum += cpu_of(t[i]) - had[i];
  }
  for (int i = 0; i < 6; i++) {
    double got = cpu_of(t[i]) - had[i];
    if (got < least) least = got;
    if (got > most) most = got;
  }
  go = 1;
  for (int i = 0; i < 6; i++) pthread_join(t[i], NULL);
  CHECK(least > 0.02);
  fprintf(stderr, "fairness: least/most %.2f\n", least / most);
}

static void sleep_accuracy(void) {
  double worst = 0, sum = 0;
  for (int i = 0; i < 50; i++) {
    struct timespec ts = { 0, 1000000 };
    double t = now();
    CHECK(nanosleep(&ts, NULL) == 0);
    t = now() - t - 0.001;
    CHECK(t >= 0);
    sum += t;
    if (t > worst) worst = t;
  }
  fprintf(stderr, "nanosleep(1 ms): late by %.0f us on average, %.0f us at worst\n", sum / 50 * 1e6, worst * 1e6);
}

static void cpu_time(void) {
  struct timespec a, b, c;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
  for (volatile int i = 0; i < 3000000; i++) {}
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
  usleep(50000);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &c);
  double worked = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
  double slept = (double)(c.tv_sec - b.tv_sec) + (double)(c.tv_nsec - b.tv_nsec) / 1e9;
  CHECK(worked > 0 && slept < 0.04);
}

static void *detached(void *arg) { return NULL; }
static void many_threads(void) {
  for (int i = 0; i < 200; i++) {
    pthread_t t;
    CHECK(pthread_create(&t, NULL, detached, NULL) == 0);
    if (i % 2) pthread_join(t, NULL);
    else pthread_detach(t);
  }
}

static void *forker(void *arg) {
  for (int i = 0; i < 10; i++) {
    pid_t p = fork();
    if (!p) _exit(i);
    int st;
    CHECK(waitpid(p, &st, 0) == p && WEXITSTATUS(st) == i);
  }
  return NULL;
}
static void fork_from_threads(void) {
  pthread_t t[4];
  for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, forker, NULL);
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
}

static void *last_leaves(void *arg) {
  usleep(20000);
  exit(11);
}
static void leader_leaves_first(void) {
  pid_t p = fork();
  if (!p) {
    pthread_t t;
    pthread_create(&t, NULL, last_leaves, NULL);
    pthread_exit(NULL);
  }
  int st;
  CHECK(waitpid(p, &st, 0) == p && WIFEXITED(st) && WEXITSTATUS(st) == 11);
}

int main(void) {
  RUN(mutexes);
  RUN(conditions);
  RUN(thread_local_storage);
  RUN(timeouts);
  RUN(robust_mutex);
  RUN(fairness);
  RUN(sleep_accuracy);
  RUN(cpu_time);
  RUN(many_threads);
  RUN(fork_from_threads);
  RUN(leader_leaves_first);
  FINISH();
}

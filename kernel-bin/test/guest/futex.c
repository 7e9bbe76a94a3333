// SPDX-License-Identifier: Apache-2.0
// Futexes, alone and under pthreads: waits, requeues, time-outs, interruption, robust and PI mutexes, between processes.
#include "check.h"
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long futex(void *addr, int op, unsigned val, const void *timeout, void *addr2, unsigned val3) {
  return syscall(SYS_futex, addr, op, val, timeout, addr2, val3);
}
static long val2(int n) { return n; }
static long ms_since(const struct timespec *t) {
  struct timespec n;
  clock_gettime(CLOCK_MONOTONIC, &n);
  return (n.tv_sec - t->tv_sec) * 1000 + (n.tv_nsec - t->tv_nsec) / 1000000;
}

static unsigned word, word2;
static void *waiter(void *arg) {
  long r = futex(&word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
  return (void *)(r ? (long)errno : 0);
}

static int woken_after(unsigned *w, int n) { // wakes until n were woken
  int woken = 0;
  for (int i = 0; i < 20000 && woken < n; i++) {
    woken += (int)futex(w, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    usleep(100);
  }
  return woken;
}

static void basics(void) {
  struct timespec t0, ts = { 0, 20000000 };
  unsigned w = 5;
  CHECK(futex(&w, FUTEX_WAIT_PRIVATE, 4, NULL, NULL, 0) == -1 && errno == EAGAIN);
  clock_gettime(CLOCK_MONOTONIC, &t0);
  CHECK(futex(&w, FUTEX_WAIT_PRIVATE, 5, &ts, NULL, 0) == -1 && errno == ETIMEDOUT && ms_since(&t0) >= 19);
  clock_gettime(CLOCK_REALTIME, &ts);
  ts.tv_nsec += 20000000;
  if (ts.tv_nsec >= 1000000000) ts.tv_sec++, ts.tv_nsec -= 1000000000;
  clock_gettime(CLOCK_MONOTONIC, &t0);
  CHECK(futex(&w, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 5, &ts, NULL, ~0u) == -1 && errno == ETIMEDOUT && ms_since(&t0) >= 18);
  CHECK(futex(&w, FUTEX_WAIT_BITSET_PRIVATE, 5, &t0, NULL, ~0u) == -1 && errno == ETIMEDOUT);
  CHECK(futex(&w, FUTEX_WAIT_BITSET_PRIVATE, 5, NULL, NULL, 0) == -1 && errno == EINVAL);
  CHECK(futex((char *)&w + 1, FUTEX_WAIT_PRIVATE, 5, NULL, NULL, 0) == -1 && errno == EINVAL);
  CHECK(futex((void *)8, FUTEX_WAIT_PRIVATE, 5, NULL, NULL, 0) == -1 && errno == EFAULT);
  ts.tv_nsec = 2000000000;
  CHECK(futex(&w, FUTEX_WAIT_PRIVATE, 5, &ts, NULL, 0) == -1 && errno == EINVAL);
  CHECK(futex(&w, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0) == 0);
  CHECK(futex(&w, 99, 10, NULL, NULL, 0) == -1 && errno == ENOSYS);
}

static void requeue(void) {
  pthread_t t[4];
  void *r;
  word = word2 = 0;
  for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, waiter, NULL);
  CHECK(futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)val2(4), &word2, 1) == -1 && errno == EAGAIN);
  long moved = 0;
  for (int i = 0; i < 20000 && moved < 4; i++) {
    moved += futex(&word, FUTEX_CMP_REQUEUE_PRIVATE, 0, (void *)val2(4), &word2, 0);
    usleep(100);
  }
  CHECK(moved == 4 && futex(&word, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0) == 0);
  CHECK(futex(&word2, FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0) == 4);
  for (int i = 0; i < 4; i++) CHECK(pthread_join(t[i], &r) == 0 && r == NULL);
  for (int i = 0; i < 2; i++) pthread_create(&t[i], NULL, waiter, NULL);
  CHECK(woken_after(&word, 2) == 2);
  for (int i = 0; i < 2; i++) pthread_join(t[i], &r);
  word2 = 5;
  CHECK(futex(&word, FUTEX_WAKE_OP_PRIVATE, 1, (void *)val2(1), &word2, FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 5)) == 0 && word2 == 8);
}

static volatile int handled;
static void on_usr1(int s) { handled++; }
static void *interrupted(void *arg) {
  unsigned w = 0;
  struct timespec ts = { 30, 0 };
  return (void *)(futex(&w, FUTEX_WAIT_PRIVATE, 0, arg ? &ts : NULL, NULL, 0) ? (long)errno : 0);
}
static void signals(void) {
  struct sigaction sa = { .sa_handler = on_usr1 };
  sigaction(SIGUSR1, &sa, NULL);
  for (long timed = 0; timed < 2; timed++) {
    pthread_t t;
    void *r;
    pthread_create(&t, NULL, interrupted, (void *)timed);
    handled = 0;
    for (int i = 0; i < 100 && !handled; i++) {
      usleep(20000);
      pthread_kill(t, SIGUSR1);
    }
    CHECK(pthread_join(t, &r) == 0 && (long)r == EINTR);
  }
}

#define THREADS 8
#define ROUNDS 3000
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static sem_t sem;
static long counter, turns, readers_saw;
static void *hammer(void *arg) {
  for (int i = 0; i < ROUNDS; i++) {
    pthread_mutex_lock(&mutex);
    counter++;
    pthread_mutex_unlock(&mutex);
    if (i % 500 == 0) pthread_barrier_wait(&barrier);
    if (i % 16 == 0) {
      pthread_rwlock_wrlock(&rwlock);
      readers_saw++;
      pthread_rwlock_unlock(&rwlock);
    } else {
      pthread_rwlock_rdlock(&rwlock);
      long v = readers_saw;
      if (v < 0) abort();
      pthread_rwlock_unlock(&rwlock);
    }
  }
  for (int i = 0; i < 200; i++) { // everybody takes turns
    pthread_mutex_lock(&mutex);
    while (turns % THREADS != (long)arg) pthread_cond_wait(&cond, &mutex);
    turns++;
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mutex);
  }
  sem_post(&sem);
  return NULL;
}
static void pthreads(void) {
  pthread_t t[THREADS];
  pthread_barrier_init(&barrier, NULL, THREADS);
  sem_init(&sem, 0, 0);
  for (long i = 0; i < THREADS; i++) CHECK(pthread_create(&t[i], NULL, hammer, (void *)i) == 0);
  for (int i = 0; i < THREADS; i++) sem_wait(&sem);
  for (int i = 0; i < THREADS; i++) CHECK(pthread_join(t[i], NULL) == 0);
  CHECK(counter == THREADS * ROUNDS && turns == THREADS * 200);
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  pthread_mutex_lock(&mutex);
  CHECK(pthread_cond_timedwait(&cond, &mutex, &ts) == ETIMEDOUT && sem_timedwait(&sem, &ts) == -1 && errno == ETIMEDOUT);
  pthread_mutex_unlock(&mutex);
}

struct shared { pthread_mutex_t m; pthread_cond_t c; sem_t s; int state; long count; };
static struct shared *sh;
static void *die_with_lock(void *arg) {
  pthread_mutex_lock(arg);
  return NULL;
}
static void shared_and_robust(void) {
  sh = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutexattr_t a;
  pthread_condattr_t ca;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&sh->m, &a);
  pthread_condattr_init(&ca);
  pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
  pthread_cond_init(&sh->c, &ca);
  sem_init(&sh->s, 1, 0);
  pid_t pid = fork();
  if (!pid) {
    for (int i = 0; i < 2000; i++) {
      pthread_mutex_lock(&sh->m);
      sh->count++;
      pthread_mutex_unlock(&sh->m);
    }
    sem_post(&sh->s);
    pthread_mutex_lock(&sh->m);
    while (sh->state != 1) pthread_cond_wait(&sh->c, &sh->m);
    sh->state = 2;
    pthread_cond_signal(&sh->c);
    _exit(0); // with the mutex held
  }
  for (int i = 0; i < 2000; i++) {
    pthread_mutex_lock(&sh->m);
    sh->count++;
    pthread_mutex_unlock(&sh->m);
  }
  sem_wait(&sh->s);
  CHECK(sh->count == 4000);
  pthread_mutex_lock(&sh->m);
  sh->state = 1;
  pthread_cond_signal(&sh->c);
  pthread_mutex_unlock(&sh->m);
  while (__atomic_load_n(&sh->state, __ATOMIC_SEQ_CST) != 2) usleep(100);
  CHECK(pthread_mutex_lock(&sh->m) == EOWNERDEAD && pthread_mutex_consistent(&sh->m) == 0);
  CHECK(pthread_mutex_unlock(&sh->m) == 0 && pthread_mutex_lock(&sh->m) == 0 && pthread_mutex_unlock(&sh->m) == 0);
  int st = -1;
  CHECK(waitpid(pid, &st, 0) == pid && st == 0);
  pthread_mutex_t own;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&own, &a);
  pthread_t t;
  pthread_create(&t, NULL, die_with_lock, &own);
  pthread_join(t, NULL);
  CHECK(pthread_mutex_lock(&own) == EOWNERDEAD && pthread_mutex_consistent(&own) == 0 && pthread_mutex_unlock(&own) == 0);
}

static pthread_mutex_t pi;
static long pi_count;
static void *pi_hammer(void *arg) {
  for (int i = 0; i < 1000; i++) {
    pthread_mutex_lock(&pi);
    pi_count++;
    if (i % 100 == 0) usleep(50);
    pthread_mutex_unlock(&pi);
  }
  return NULL;
}
static void pi_mutex(void) {
  pthread_mutexattr_t a;
  pthread_mutexattr_init(&a);
  pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
  CHECK(pthread_mutex_init(&pi, &a) == 0);
  pthread_t t[4];
  for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, pi_hammer, NULL);
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  CHECK(pi_count == 4000);
  pthread_mutex_lock(&pi);
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  CHECK(pthread_mutex_unlock(&pi) == 0 && pthread_mutex_trylock(&pi) == 0 && pthread_mutex_unlock(&pi) == 0);
  unsigned w = 0;
  CHECK(futex(&w, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == -1 && errno == EPERM);
  CHECK(futex(&w, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0 && w == (unsigned)gettid());
  CHECK(futex(&w, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0) == -1 && errno == EDEADLK);
  CHECK(futex(&w, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0) == 0 && w == 0);
}

int main(void) {
  RUN(basics);
  RUN(requeue);
  RUN(signals);
  RUN(pthreads);
  RUN(shared_and_robust);
  RUN(pi_mutex);
  FINISH();
}

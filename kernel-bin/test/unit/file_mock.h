// SPDX-License-Identifier: Apache-2.0
// What lies below the file room, natively and with real concurrency: kernel threads are POSIX threads, spinlocks spin,
// sleeping and waking keep the kernel's protocol (state, then condition). User memory is the process's own; addresses
// below 64 KiB are bad pages.
#ifndef FILE_MOCK_H
#define FILE_MOCK_H
#define thread_current real_thread_current
#define this_cpu real_this_cpu
#define irq_save real_irq_save
#define irq_restore real_irq_restore
#define sched_yield_if_needed real_sched_yield_if_needed
#define sched_yield real_sched_yield
#include "unit.h"
#include "task/task.h"
#undef thread_current
#undef this_cpu
#undef irq_save
#undef irq_restore
#undef sched_yield_if_needed
#undef sched_yield
#define timer_create posix_timer_create
#define timerfd_create glibc_timerfd_create
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>
#undef timer_create
#undef timerfd_create
struct mock_thread { struct thread t; pthread_mutex_t m; pthread_cond_t c; struct mock_thread *next; };
static struct mock_thread *mock_threads; // all, for ever: a waker may look at one late
static __thread struct mock_thread *mock_self;
static inline struct thread *thread_current(void) {
  if (!mock_self) {
    mock_self = calloc(1, sizeof *mock_self);
    mock_self->next = __atomic_exchange_n(&mock_threads, mock_self, __ATOMIC_SEQ_CST);
    pthread_mutex_init(&mock_self->m, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&mock_self->c, &a);
  }
  return &mock_self->t;
}
static inline void sched_yield_if_needed(void) {}
static inline u64 irq_save(void) { return 0; }
static inline void irq_restore(u64 flags) {}
#include "file/file.h"

// --- arch, page
u64 time_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}
u64 time_realtime_ns(void) { return time_ns() + 1700000000ull * NS_PER_SEC; }
static __thread unsigned mock_spins; // held by this thread: sleeping or touching user memory with one is a bug
void spin_lock(struct spinlock *l) {
  while (__atomic_exchange_n(&l->locked, 1, __ATOMIC_ACQUIRE)) sched_yield();
  mock_spins++;
}
void spin_unlock(struct spinlock *l) {
  ASSERT(l->locked && mock_spins);
  mock_spins--;
  __atomic_store_n(&l->locked, 0, __ATOMIC_RELEASE);
}
u64 spin_lock_irqsave(struct spinlock *l) { spin_lock(l); return 0; }
void spin_unlock_irqrestore(struct spinlock *l, u64 flags) { spin_unlock(l); }
static bool mock_bad(uptr p) { return p < 0x10000; }
size_t copy_from_user_partial(void *d, uptr s, size_t n) { ASSERT(!mock_spins); if (mock_bad(s)) return n; memcpy(d, (void *)s, n); return 0; }
size_t copy_to_user_partial(uptr d, const void *s, size_t n) { ASSERT(!mock_spins); if (mock_bad(d)) return n; memcpy((void *)d, s, n); return 0; }
int copy_from_user(void *d, uptr s, size_t n) { return copy_from_user_partial(d, s, n) ? -EFAULT : 0; }
int copy_to_user(uptr d, const void *s, size_t n) { return copy_to_user_partial(d, s, n) ? -EFAULT : 0; }
int clear_user(uptr d, size_t n) { ASSERT(!mock_spins); if (mock_bad(d)) return -EFAULT; memset((void *)d, 0, n); return 0; }
void *kmalloc(size_t n, unsigned flags) { return flags & ALLOC_ZERO ? calloc(1, n) : malloc(n); }
void *kzalloc(size_t n) { return calloc(1, n); }
void kfree(void *p) { free(p); }
struct kmem_cache { size_t size; };
struct kmem_cache *kmem_cache_create(const char *name, size_t size, size_t align) {
  static struct kmem_cache caches[8];
  static unsigned n;
  caches[n].size = ALIGN_UP(size, 64);
  return &caches[n++];
}
void *kmem_cache_alloc(struct kmem_cache *c) { return aligned_alloc(64, c->size); }
void kmem_cache_free(struct kmem_cache *c, void *p) { free(p); }
size_t bit_find_zero(const u64 *map, size_t n, size_t from) {
  for (size_t i = from; i < n; i++) if (!bit_test(map, i)) return i;
  return n;
}

// --- task
void thread_wake(struct thread *t) {
  struct mock_thread *m = container_of(t, struct mock_thread, t);
  pthread_mutex_lock(&m->m);
  if (t->state == THREAD_SLEEPING) t->state = THREAD_RUNNING;
  pthread_cond_signal(&m->c);
  pthread_mutex_unlock(&m->m);
}
static void mock_interrupt(struct thread *t) {
  __atomic_store_n(&t->interrupt_pending, true, __ATOMIC_SEQ_CST);
  thread_wake(t);
}
void waitq_init(struct waitq *q) { spin_init(&q->lock, RANK_WAITQ); list_init(&q->waiters); }
static void mock_add(struct waitq *q, struct waiter *w) {
  if (!list_empty(&w->link)) return;
  if (w->exclusive) list_push_back(&q->waiters, &w->link);
  else list_push_front(&q->waiters, &w->link);
}
void waitq_add(struct waitq *q, struct waiter *w) { spin_lock(&q->lock); mock_add(q, w); spin_unlock(&q->lock); }
void waitq_remove(struct waitq *q, struct waiter *w) { spin_lock(&q->lock); list_remove(&w->link); spin_unlock(&q->lock); }
bool waitq_active(struct waitq *q) { __atomic_thread_fence(__ATOMIC_SEQ_CST); return READ_ONCE(q->waiters.next) != &q->waiters; }
void waitq_wake(struct waitq *q, int nr, u32 key) {
  struct waiter *w, *next;
  if (!waitq_active(q)) return;
  spin_lock(&q->lock);
  list_for_each_safe(w, next, &q->waiters, link) {
    bool exclusive = w->exclusive, counts = true;
    if (exclusive && nr <= 0) break;
    if (w->wake) counts = w->wake(w, key);
    else { list_remove(&w->link); thread_wake(w->thread); }
    if (exclusive && counts) nr--;
  }
  spin_unlock(&q->lock);
}
void wait_prepare(struct waitq *q, struct waiter *w, int mode) { // in the kernel's order: SLEEPING, then the queue
  __atomic_store_n(&thread_current()->state, THREAD_SLEEPING, __ATOMIC_SEQ_CST);
  spin_lock(&q->lock);
  mock_add(q, w);
  spin_unlock(&q->lock);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static u64 mock_stuck_ns = 20 * NS_PER_SEC; // an endless sleep longer than this is a lost wake-up
int wait_sleep(u64 deadline, int mode) {
  struct thread *t = thread_current();
  ASSERT(!mock_spins);
  u64 end = MIN(deadline, time_ns() + mock_stuck_ns);
  struct timespec ts = { (time_t)(end / NS_PER_SEC), (long)(end % NS_PER_SEC) };
  pthread_mutex_lock(&mock_self->m);
  while (t->state == THREAD_SLEEPING && !t->interrupt_pending && time_ns() < end)
    pthread_cond_timedwait(&mock_self->c, &mock_self->m, &ts);
  t->state = THREAD_RUNNING;
  pthread_mutex_unlock(&mock_self->m);
  if (t->interrupt_pending) return -ERESTARTSYS;
  if (time_ns() >= end && end != deadline) panic("a wake-up was lost\n");
  return time_ns() >= deadline ? -ETIMEDOUT : 0;
}
void wait_finish(struct waitq *q, struct waiter *w) { thread_current()->state = THREAD_RUNNING; waitq_remove(q, w); }
void mutex_init(struct mutex *m, enum lock_rank rank) { m->owner = NULL; }
void mutex_lock(struct mutex *m) {
  struct thread *me = thread_current(), *none = NULL;
  ASSERT(!mock_spins && READ_ONCE(m->owner) != me);
  while (!__atomic_compare_exchange_n(&m->owner, &none, me, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) { none = NULL; sched_yield(); }
}
void mutex_unlock(struct mutex *m) { ASSERT(m->owner == thread_current()); __atomic_store_n(&m->owner, NULL, __ATOMIC_RELEASE); }
// Work runs in one thread, in order.
static struct spinlock mock_work_lock;
static struct list mock_works = LIST_INIT(mock_works);
static u32 mock_work_busy, mock_work_started;
static void *mock_worker(void *arg) {
  for (;;) {
    spin_lock(&mock_work_lock);
    struct work *w = list_empty(&mock_works) ? NULL : list_first_entry(&mock_works, struct work, link);
    if (w) { list_remove(&w->link); w->queued = false; }
    __atomic_store_n(&mock_work_busy, w != NULL, __ATOMIC_SEQ_CST);
    spin_unlock(&mock_work_lock);
    if (w) w->fn(w);
    else usleep(200);
  }
  return NULL;
}
void work_queue(struct work *w) {
  pthread_t id;
  if (!__atomic_exchange_n(&mock_work_started, 1, __ATOMIC_SEQ_CST)) { pthread_create(&id, NULL, mock_worker, NULL); pthread_detach(id); }
  spin_lock(&mock_work_lock);
  if (!w->queued) { w->queued = true; list_push_back(&mock_works, &w->link); }
  spin_unlock(&mock_work_lock);
}
static __unused void mock_work_flush(void) {
  for (;;) {
    spin_lock(&mock_work_lock);
    bool idle = list_empty(&mock_works) && !mock_work_busy;
    spin_unlock(&mock_work_lock);
    if (idle) return;
    usleep(500);
  }
}
static __unused pthread_t mock_run(void *(*fn)(void *), void *arg) {
  pthread_t id;
  ASSERT(pthread_create(&id, NULL, fn, arg) == 0);
  return id;
}
#endif

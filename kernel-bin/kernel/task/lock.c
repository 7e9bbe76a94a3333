// SPDX-License-Identifier: Apache-2.0
//
// Sleeping locks. The guard spinlock is held for a few instructions; nobody takes these locks in an interrupt, so it
// needs no irqsave. A mutex may be taken over by whoever comes first (barging keeps it hot), except that a waiter which
// was woken in vain gets it handed over.
#include "task/internal.h"

struct lock_waiter { struct list link; struct thread *thread; bool granted, starving, writer; };

#define SPIN_LIMIT_NS (10 * NS_PER_US)

// Sleeps until *granted or a wake-up; the guard is held at entry and exit.
static void sleep_unlocked(struct spinlock *guard, bool interruptible) {
  struct thread *t = thread_current();
  t->interruptible = interruptible;
  t->killable = false;
  // Set under the guard, which wakers hold: a waker sees SLEEPING or comes before this look at the list.
  WRITE_ONCE(t->state, THREAD_SLEEPING);
  spin_unlock(guard);
  schedule();
  spin_lock(guard);
  WRITE_ONCE(t->state, THREAD_RUNNING);
}

void mutex_init(struct mutex *m, enum lock_rank rank) {
  spin_init(&m->guard, RANK_WAITQ);
  m->owner = NULL;
  list_init(&m->waiters);
  m->rank = (u8)rank;
}

bool mutex_trylock(struct mutex *m) {
  spin_lock(&m->guard);
  bool got = !m->owner && list_empty(&m->waiters);
  if (got) m->owner = thread_current();
  spin_unlock(&m->guard);
  return got;
}

// While the owner runs on another CPU it will be done soon: cheaper than two switches. Only pointers are compared, the
// owner may be gone at any time.
static void spin_on_owner(struct mutex *m, struct thread *owner, u32 cpu) {
  u64 end = time_ns() + SPIN_LIMIT_NS;
  while (READ_ONCE(m->owner) == owner && READ_ONCE(cpus[cpu]->current) == owner && !this_cpu()->need_resched && time_ns() < end)
    for (int i = 0; i < 8; i++) cpu_relax();
}

static int mutex_lock_mode(struct mutex *m, bool interruptible) {
  struct thread *me = thread_current();
  spin_lock(&m->guard);
  if (likely(!m->owner)) {
    m->owner = me;
    spin_unlock(&m->guard);
    return 0;
  }
  ASSERT(m->owner != me);
  if (cpu_count > 1 && list_empty(&m->waiters)) {
    struct thread *owner = m->owner;
    u32 cpu = owner->cpu; // it holds the mutex, so it lives while we hold the guard
    spin_unlock(&m->guard);
    spin_on_owner(m, owner, cpu);
    spin_lock(&m->guard);
  }
  struct lock_waiter w = { .thread = me };
  int r = 0;
  list_init(&w.link);
  if (m->owner) list_push_back(&m->waiters, &w.link);
  while (m->owner && !w.granted) {
    if (interruptible && READ_ONCE(me->interrupt_pending)) {
      r = -ERESTARTSYS;
      break;
    }
    sleep_unlocked(&m->guard, interruptible);
    w.starving = true;
  }
  list_remove(&w.link);
  if (w.granted) r = 0;
  else if (!r) m->owner = me;
  spin_unlock(&m->guard);
  return r;
}

void mutex_lock(struct mutex *m) { (void)mutex_lock_mode(m, false); }
int mutex_lock_interruptible(struct mutex *m) { return mutex_lock_mode(m, true); }

void mutex_unlock(struct mutex *m) {
  spin_lock(&m->guard);
  ASSERT(m->owner == thread_current());
  m->owner = NULL;
  if (!list_empty(&m->waiters)) {
    struct lock_waiter *w = list_first_entry(&m->waiters, struct lock_waiter, link);
    if (w->starving) {
      w->granted = true;
      m->owner = w->thread;
      list_remove(&w->link);
    }
    thread_wake(w->thread); // it cannot leave before we release the guard
  }
  spin_unlock(&m->guard);
}

// --- readers and writers. `count` changes atomically: uncontended readers touch nothing else. Whoever must wait queues
// under the guard; writers_waiting (of any waiter) closes the readers' fast path, so a writer is not starved.
void rwsem_init(struct rwsem *s, enum lock_rank rank) {
  spin_init(&s->guard, RANK_WAITQ);
  s->count = 0;
  list_init(&s->waiters);
  s->writers_waiting = 0;
  s->rank = (u8)rank;
}

static bool count_change(struct rwsem *s, s32 from, s32 to) {
  return __atomic_compare_exchange_n(&s->count, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

static bool read_take(struct rwsem *s) {
  for (s32 c = READ_ONCE(s->count); c >= 0; c = READ_ONCE(s->count))
    if (count_change(s, c, c + 1)) return true;
  return false;
}

bool rwsem_read_trylock(struct rwsem *s) { return !READ_ONCE(s->writers_waiting) && read_take(s); }

// Gives the lock to those at the head of the queue who may have it. Guard held.
static void grant(struct rwsem *s) {
  while (!list_empty(&s->waiters)) {
    struct lock_waiter *w = list_first_entry(&s->waiters, struct lock_waiter, link);
    if (w->writer ? !count_change(s, 0, -1) : !read_take(s)) return;
    list_remove(&w->link);
    __atomic_fetch_sub(&s->writers_waiting, 1, __ATOMIC_SEQ_CST);
    w->granted = true;
    thread_wake(w->thread);
    if (w->writer) return;
  }
}

static void rwsem_wait(struct rwsem *s, bool writer) {
  struct lock_waiter w = { .thread = thread_current(), .writer = writer };
  spin_lock(&s->guard);
  list_push_back(&s->waiters, &w.link);
  // Published before grant looks at count: one who releases meanwhile sees it, or grant sees the release.
  __atomic_fetch_add(&s->writers_waiting, 1, __ATOMIC_SEQ_CST);
  grant(s);
  while (!w.granted) sleep_unlocked(&s->guard, false);
  WRITE_ONCE(w.thread->state, THREAD_RUNNING);
  spin_unlock(&s->guard);
}

static void rwsem_release(struct rwsem *s) {
  if (likely(!__atomic_load_n(&s->writers_waiting, __ATOMIC_SEQ_CST))) return;
  spin_lock(&s->guard);
  grant(s);
  spin_unlock(&s->guard);
}

void rwsem_read_lock(struct rwsem *s) {
  if (!rwsem_read_trylock(s)) rwsem_wait(s, false);
}

void rwsem_read_unlock(struct rwsem *s) {
  s32 now = __atomic_sub_fetch(&s->count, 1, __ATOMIC_SEQ_CST);
  ASSERT(now >= 0);
  if (now == 0) rwsem_release(s);
}

void rwsem_write_lock(struct rwsem *s) {
  if (READ_ONCE(s->writers_waiting) || !count_change(s, 0, -1)) rwsem_wait(s, true);
}

void rwsem_write_unlock(struct rwsem *s) {
  s32 was = __atomic_exchange_n(&s->count, 0, __ATOMIC_SEQ_CST);
  ASSERT(was == -1);
  rwsem_release(s);
}

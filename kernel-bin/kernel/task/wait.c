// SPDX-License-Identifier: Apache-2.0
//
// Wait queues and timed sleep. See sched.c for why no wake-up is lost. A waker takes a thread off the queue before it
// wakes it, both under the queue's lock; wait_finish takes that lock too, so neither the waiter (on the thread's stack)
// nor the thread itself is gone while a waker still looks at it.
#include "task/internal.h"

void waitq_init(struct waitq *q) {
  spin_init(&q->lock, RANK_WAITQ);
  list_init(&q->waiters);
}

static void add_locked(struct waitq *q, struct waiter *w) {
  if (!list_empty(&w->link)) return;
  // Ordinary waiters in front: a wake that is limited to one exclusive waiter still reaches all of them.
  if (w->exclusive) list_push_back(&q->waiters, &w->link);
  else list_push_front(&q->waiters, &w->link);
}

void waitq_add(struct waitq *q, struct waiter *w) {
  u64 flags = spin_lock_irqsave(&q->lock);
  add_locked(q, w);
  spin_unlock_irqrestore(&q->lock, flags);
}

void waitq_remove(struct waitq *q, struct waiter *w) {
  u64 flags = spin_lock_irqsave(&q->lock);
  list_remove(&w->link);
  spin_unlock_irqrestore(&q->lock, flags);
}

bool waitq_active(struct waitq *q) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // the caller's change before the look, as in wait_prepare
  return READ_ONCE(q->waiters.next) != &q->waiters;
}

void waitq_wake(struct waitq *q, int nr_exclusive, u32 key) {
  if (!waitq_active(q)) return;
  struct waiter *w, *next;
  u64 flags = spin_lock_irqsave(&q->lock);
  list_for_each_safe(w, next, &q->waiters, link) {
    bool exclusive = w->exclusive, counts = true;
    if (exclusive && nr_exclusive <= 0) break;
    if (w->wake) {
      counts = w->wake(w, key);
    } else {
      list_remove(&w->link);
      thread_wake(w->thread);
    }
    if (exclusive && counts) nr_exclusive--;
  }
  spin_unlock_irqrestore(&q->lock, flags);
}

static void sleep_mark(int mode) {
  struct thread *t = thread_current();
  t->interruptible = mode == WAIT_INTERRUPTIBLE;
  t->killable = mode == WAIT_KILLABLE;
  WRITE_ONCE(t->state, THREAD_SLEEPING);
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // before anybody looks at a condition
}

// SLEEPING comes before the queue: a waker takes a waiter off the queue and then wakes it once, so one that it found there
// while still RUNNING would sleep on no queue if its condition was false again by then (a lock that a third took).
void wait_prepare(struct waitq *q, struct waiter *w, int mode) {
  sleep_mark(mode);
  u64 flags = spin_lock_irqsave(&q->lock);
  add_locked(q, w);
  spin_unlock_irqrestore(&q->lock, flags);
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // before the caller looks at its condition, as in waitq_active
}

struct sleep_timer { struct timer timer; struct thread *thread; };
static void sleep_timer_fn(struct timer *t) { thread_wake(container_of(t, struct sleep_timer, timer)->thread); }

int wait_sleep(u64 deadline_ns, int mode) {
  struct thread *t = thread_current();
  if (deadline_ns == WAIT_FOREVER) {
    schedule();
  } else {
    struct sleep_timer st = { .thread = t };
    timer_init(&st.timer, sleep_timer_fn);
    if (time_ns() < deadline_ns) {
      timer_start(&st.timer, deadline_ns);
      schedule();
      timer_cancel(&st.timer); // also waits for sleep_timer_fn, which looks at this stack
    }
  }
  WRITE_ONCE(t->state, THREAD_RUNNING);
  if (mode == WAIT_INTERRUPTIBLE ? READ_ONCE(t->interrupt_pending) : mode == WAIT_KILLABLE && READ_ONCE(t->kill_pending))
    return -ERESTARTSYS;
  return deadline_ns != WAIT_FOREVER && time_ns() >= deadline_ns ? -ETIMEDOUT : 0;
}

void wait_finish(struct waitq *q, struct waiter *w) {
  WRITE_ONCE(thread_current()->state, THREAD_RUNNING);
  waitq_remove(q, w);
}

int thread_sleep_until(u64 deadline_ns, int mode) {
  for (;;) {
    sleep_mark(mode);
    int r = wait_sleep(deadline_ns, mode);
    if (r == -ETIMEDOUT) return 0;
    if (r) return r;
  }
}

// SPDX-License-Identifier: Apache-2.0
//
// Deferred work: a few kernel threads serve one list, so that an item that waits for the host does not hold up others.
#include "task/internal.h"

#define WORKERS 3

static struct spinlock work_lock = SPINLOCK_INIT(RANK_READY); // irqsave; guards all below and `queued` of the items
static struct list work_list = LIST_INIT(work_list);
static struct thread *idle_workers[WORKERS]; // a stack: the one that ran last runs next
static unsigned idle_count;
static struct { struct work *item; bool again; } running[WORKERS]; // item: only compared, its fn may free it

void work_queue(struct work *w) {
  u64 flags = spin_lock_irqsave(&work_lock);
  if (w->queued) goto out;
  w->queued = true;
  for (unsigned i = 0; i < WORKERS; i++) {
    if (running[i].item != w) continue;
    running[i].again = true;
    goto out;
  }
  list_push_back(&work_list, &w->link);
  if (idle_count) thread_wake(idle_workers[--idle_count]);
out:
  spin_unlock_irqrestore(&work_lock, flags);
}

static void worker(void *arg) {
  unsigned slot = (unsigned)(uintptr_t)arg;
  struct thread *me = thread_current();
  u64 flags = spin_lock_irqsave(&work_lock);
  for (;;) {
    while (list_empty(&work_list)) {
      // SLEEPING is set under work_lock, and wakers hold it.
      WRITE_ONCE(me->state, THREAD_SLEEPING);
      idle_workers[idle_count++] = me;
      spin_unlock_irqrestore(&work_lock, flags);
      schedule();
      flags = spin_lock_irqsave(&work_lock);
      for (unsigned i = 0; i < idle_count; i++) // woken by something else: take our entry back
        if (idle_workers[i] == me) idle_workers[i] = idle_workers[--idle_count];
    }
    struct work *w = list_first_entry(&work_list, struct work, link);
    list_remove(&w->link);
    w->queued = false;
    running[slot].item = w;
    spin_unlock_irqrestore(&work_lock, flags);
    w->fn(w);
    sched_yield_if_needed();
    flags = spin_lock_irqsave(&work_lock);
    running[slot].item = NULL;
    if (running[slot].again) list_push_back(&work_list, &w->link); // queued again, so it is still there
    running[slot].again = false;
  }
}

void work_init_threads(void) {
  for (unsigned i = 0; i < WORKERS; i++)
    if (!kthread_run("work", worker, (void *)(uintptr_t)i)) panic("no memory for the work threads");
}

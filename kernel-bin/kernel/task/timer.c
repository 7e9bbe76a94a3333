// SPDX-License-Identifier: Apache-2.0
//
// Timers: a tree per CPU by deadline, served by that CPU's one-shot interrupt. The hardware timer is armed lazily: only
// when something is due before what it is armed for. A timer that is cancelled leaves it armed; the interrupt then finds
// nothing to do and arms the next. Arming is an exit in a virtual machine, an interrupt too much is rare.
#include "task/internal.h"

void timer_init(struct timer *t, void (*fn)(struct timer *t)) {
  *t = (struct timer){ .fn = fn };
}

void timer_init_cpu(struct runq *rq) {
  spin_init(&rq->timer_lock, RANK_TIMER);
  rq->first_ns = NEVER_NS;
  rq->armed_ns = NEVER_NS;
  rq->handoff_ns = NEVER_NS;
}

static void update_first(struct runq *rq) {
  struct rb_node *n = rb_first(&rq->timers);
  WRITE_ONCE(rq->first_ns, n ? rb_entry(n, struct timer, node)->deadline_ns : NEVER_NS);
}

// Locks the queue that t belongs to. t->cpu changes only under the lock of the queue it leaves.
static struct runq *timer_lock_home(struct timer *t) {
  for (;;) {
    struct runq *rq = runqs[READ_ONCE(t->cpu)];
    spin_lock(&rq->timer_lock);
    if (rq->cpu == t->cpu) return rq;
    spin_unlock(&rq->timer_lock);
  }
}

static void timer_remove_locked(struct runq *rq, struct timer *t) {
  rb_erase(&rq->timers, &t->node);
  t->queued = false;
  update_first(rq);
}

void timer_start(struct timer *t, u64 deadline_ns) {
  u64 flags = irq_save();
  struct runq *rq = timer_lock_home(t);
  if (t->queued) timer_remove_locked(rq, t);
  struct runq *here = this_cpu()->rq;
  // While fn runs on another CPU the timer stays there, or timer_cancel would not see it run; that CPU's handler looks
  // at its tree again afterwards.
  if (here != rq && rq->running != t) {
    t->cpu = here->cpu;
    spin_unlock(&rq->timer_lock);
    rq = here;
    spin_lock(&rq->timer_lock);
  }
  t->deadline_ns = deadline_ns;
  struct rb_node *parent = NULL, **link = &rq->timers.node;
  while (*link) {
    parent = *link;
    link = deadline_ns < rb_entry(parent, struct timer, node)->deadline_ns ? &parent->left : &parent->right;
  }
  rb_insert(&rq->timers, &t->node, parent, link);
  t->queued = true;
  update_first(rq);
  spin_unlock(&rq->timer_lock);
  if (rq == here) sched_arm_timer(rq);
  irq_restore(flags);
}

bool timer_cancel(struct timer *t) {
  for (bool cancelled = false;;) {
    u64 flags = irq_save();
    struct runq *rq = timer_lock_home(t);
    if (t->queued) {
      timer_remove_locked(rq, t);
      cancelled = true;
    }
    // fn may free or restart its own timer, so only another CPU has to wait for it: also when the timer was queued again,
    // by fn or beside it, since the caller may free it now.
    bool busy = rq->running == t && rq != this_cpu()->rq;
    spin_unlock(&rq->timer_lock);
    irq_restore(flags);
    if (!busy) return cancelled;
    cpu_relax();
  }
}

// The timer interrupt of this CPU.
static void timer_interrupt(void) {
  struct runq *rq = this_cpu()->rq;
  rq->armed_ns = NEVER_NS;
  u64 now = time_ns();
  spin_lock(&rq->timer_lock);
  for (;;) {
    struct rb_node *n = rb_first(&rq->timers);
    if (!n) break;
    struct timer *t = rb_entry(n, struct timer, node);
    if (t->deadline_ns > now) break;
    timer_remove_locked(rq, t);
    rq->running = t;
    spin_unlock(&rq->timer_lock);
    t->fn(t); // may wake threads (RANK_RUNQ), so no timer lock is held; t may be gone afterwards
    spin_lock(&rq->timer_lock);
    rq->running = NULL;
  }
  spin_unlock(&rq->timer_lock);
  sched_slice_check(rq, now);
  sched_arm_timer(rq);
}

void timer_install_hook(void) { arch_hooks.timer = timer_interrupt; }

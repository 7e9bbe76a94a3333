// SPDX-License-Identifier: Apache-2.0
//
// The scheduler: a queue of ready threads per CPU, ordered by weighted run time (vruntime). The one with the least runs.
// Tickless: a CPU's timer is armed for the end of a slice only while somebody else waits there. Nothing preempts the
// kernel: need_resched is looked at on the way to ring 3 and by the idle loop.
//
// Why no wake-up is lost. A thread sets its own state to SLEEPING, passes a full barrier, then looks at its condition.
// A waker makes the condition true, then takes the lock of the thread's queue (a full barrier), then looks at the state.
// So either the thread sees the condition or the waker sees SLEEPING. schedule() holds the queue's lock from its look at
// the state until the thread's registers are saved (the next thread releases it), so a waker that finds a SLEEPING
// thread which is not `curr` may let it run elsewhere at once.
#include "task/internal.h"

struct runq *runqs[MAX_CPUS];
static u64 idle_mask; // CPUs whose idle thread runs and that no waker has claimed
static void (*aspace_switch)(struct aspace *next);
static u32 nice_weight[40];

#define POLL_MIN_NS (2 * NS_PER_US)
#define POLL_MAX_NS (50 * NS_PER_US)

void task_set_aspace_switch(void (*fn)(struct aspace *next)) { aspace_switch = fn; }

static struct runq *lock_home(struct thread *t) { // interrupts off
  for (;;) {
    struct runq *rq = runqs[READ_ONCE(t->cpu)];
    spin_lock(&rq->lock);
    if (t->cpu == rq->cpu) return rq;
    spin_unlock(&rq->lock);
  }
}

static bool runs_before(const struct thread *a, const struct thread *b) {
  return (s64)(a->vruntime_ns - b->vruntime_ns) < 0;
}

static struct thread *first_ready(struct runq *rq) {
  struct rb_node *n = rb_first(&rq->ready);
  return n ? rb_entry(n, struct thread, rq_node) : NULL;
}

static void enqueue(struct runq *rq, struct thread *t) {
  struct rb_node *parent = NULL, **link = &rq->ready.node;
  while (*link) {
    parent = *link;
    link = runs_before(t, rb_entry(parent, struct thread, rq_node)) ? &parent->left : &parent->right;
  }
  rb_insert(&rq->ready, &t->rq_node, parent, link);
  t->on_rq = true;
  WRITE_ONCE(rq->nr_ready, rq->nr_ready + 1);
}

static void dequeue(struct runq *rq, struct thread *t) {
  rb_erase(&rq->ready, &t->rq_node);
  t->on_rq = false;
  WRITE_ONCE(rq->nr_ready, rq->nr_ready - 1);
}

static u64 weighted(const struct thread *t, u64 ns) {
  int i = t->nice + 20 - (t->realtime ? 15 : 0); // real-time threads: a large share, but never all
  return ns * 1024 / nice_weight[i < 0 ? 0 : i];
}

// Charges the running thread for its time.
static void charge(struct runq *rq, u64 now) {
  struct thread *t = rq->curr;
  if (now <= t->exec_start_ns) return; // read on another CPU, shortly before
  u64 delta = now - t->exec_start_ns;
  t->exec_start_ns = now;
  if (t == rq->idle) {
    rq->idle_ns += delta;
    return;
  }
  t->runtime_ns += delta;
  t->vruntime_ns += weighted(t, delta);
}

static void advance_min(struct runq *rq) {
  struct thread *f = first_ready(rq), *c = rq->curr;
  if (c == rq->idle) c = NULL;
  if (!f || (c && c->state == THREAD_RUNNING && runs_before(c, f))) f = c;
  if (f && (s64)(f->vruntime_ns - rq->min_vruntime_ns) > 0) rq->min_vruntime_ns = f->vruntime_ns;
}

// A thread that comes to a queue: from a sleep it starts at most a little ahead of the others, never far behind them.
static void place(struct runq *rq, struct thread *t) {
  u64 floor = rq->min_vruntime_ns - (t->realtime ? 4 : 1) * WAKE_CREDIT_NS;
  if ((s64)(t->vruntime_ns - floor) < 0) t->vruntime_ns = floor;
}

static u64 allowed_cpus(const struct thread *t) {
  u64 online = cpu_count >= 64 ? ~0ull : BIT(cpu_count) - 1;
  u64 m = t->affinity[0] & online;
  return m ? m : online;
}

static u32 load_of(u32 cpu) {
  struct runq *rq = runqs[cpu];
  return READ_ONCE(rq->nr_ready) + (READ_ONCE(rq->curr) != rq->idle);
}

// Where a thread that becomes ready shall run. Waking a halted CPU costs an IPI, two exits and the host's own scheduling,
// so a waker that is about to sleep itself (it usually does, soon) keeps the thread on its own CPU: a pipe or a lock that
// goes to and fro then never leaves it. When it does not sleep after all, HANDOFF_NS later an idle CPU is called; until
// then nobody steals it. `fresh`: a new thread, whose maker counts as one that sleeps soon.
static u32 choose_cpu(const struct thread *t, bool fresh) {
  u64 allowed = allowed_cpus(t), idle = __atomic_load_n(&idle_mask, __ATOMIC_RELAXED) & allowed;
  struct cpu *c = this_cpu();
  u32 here = c->id, last = t->cpu;
  if (idle) {
    if (idle & BIT(here)) return here; // an interrupt of an idle CPU: no IPI needed
    struct runq *rq = c->rq;
    bool soon = !c->irq_depth && c->current != rq->idle && (fresh || c->current->burst_ns < SHORT_BURST_NS);
    if (soon && (allowed & BIT(here)) && !READ_ONCE(rq->nr_ready)) return here;
    if ((idle & BIT(last)) && READ_ONCE(runqs[last]->idle_state) == IDLE_POLLING) return last;
    for (u64 m = idle; m; m &= m - 1) {
      u32 i = (u32)__builtin_ctzll(m);
      if (READ_ONCE(runqs[i]->idle_state) == IDLE_POLLING) return i;
    }
    return idle & BIT(last) ? last : (u32)__builtin_ctzll(idle);
  }
  bool here_ok = allowed & BIT(here), last_ok = allowed & BIT(last);
  if (here_ok && last_ok) return load_of(here) < load_of(last) ? here : last;
  if (here_ok || last_ok) return here_ok ? here : last;
  u32 best = (u32)__builtin_ctzll(allowed);
  for (u64 m = allowed; m; m &= m - 1) {
    u32 i = (u32)__builtin_ctzll(m);
    if (load_of(i) < load_of(best)) best = i;
  }
  return best;
}

// Claims an idle CPU and makes it look for work: it steals.
static void call_idle_cpu(void) {
  u64 idle = __atomic_load_n(&idle_mask, __ATOMIC_RELAXED) & ~BIT(this_cpu()->id);
  if (!idle) return;
  u32 i = (u32)__builtin_ctzll(idle);
  __atomic_fetch_and(&idle_mask, ~BIT(i), __ATOMIC_RELAXED);
  __atomic_store_n(&cpus[i]->need_resched, true, __ATOMIC_SEQ_CST);
  if (__atomic_load_n(&runqs[i]->idle_state, __ATOMIC_SEQ_CST) == IDLE_HALTED) ipi_resched(i);
}

// Before a thread comes to rq (locked) or goes: the minimum must count what the running thread has had so far. Alone it may
// have run for long without a look at the queue, and would now wait until everybody who came later has had as much.
static void settle(struct runq *rq, u64 now) {
  charge(rq, now);
  advance_min(rq);
}

// Between two queues a thread's vruntime is relative to the minimum of the one that it left (settled).
static void leave(struct runq *rq, struct thread *t) { t->vruntime_ns -= rq->min_vruntime_ns; }

static void join(struct runq *rq, struct thread *t, u64 now) {
  settle(rq, now);
  t->vruntime_ns += rq->min_vruntime_ns;
  place(rq, t);
  enqueue(rq, t);
}

// After t was queued on rq (locked): makes that CPU notice, with as little as it takes.
static void notify_cpu(struct runq *rq, struct thread *t, u64 now) {
  struct cpu *c = cpus[rq->cpu];
  bool here = c == this_cpu();
  struct thread *curr = rq->curr;
  if (curr == rq->idle) {
    __atomic_fetch_and(&idle_mask, ~BIT(rq->cpu), __ATOMIC_RELAXED); // claimed: the next waker looks elsewhere
    // The idle loop publishes HALTED, then looks at need_resched; here the order is the reverse.
    __atomic_store_n(&c->need_resched, true, __ATOMIC_SEQ_CST);
    if (!here && __atomic_load_n(&rq->idle_state, __ATOMIC_SEQ_CST) == IDLE_HALTED) ipi_resched(rq->cpu);
    return;
  }
  if ((s64)(curr->vruntime_ns - t->vruntime_ns) > (s64)WAKE_GRANULARITY_NS) {
    WRITE_ONCE(c->need_resched, true);
    if (!here) ipi_resched(rq->cpu);
  } else if (here) {
    if (rq->handoff_ns == NEVER_NS && __atomic_load_n(&idle_mask, __ATOMIC_RELAXED)) rq->handoff_ns = now + HANDOFF_NS;
    sched_arm_timer(rq);
  } else if (rq->nr_ready == 1) { // that CPU has not armed the end of a slice: it does so in schedule()
    WRITE_ONCE(c->need_resched, true);
    ipi_resched(rq->cpu);
  }
}

// Queues a READY thread that is on no queue, on `cpu`. Interrupts off.
static void queue_on(struct thread *t, u32 cpu) {
  struct runq *rq = runqs[cpu];
  u64 now = time_ns();
  spin_lock(&rq->lock);
  join(rq, t, now);
  notify_cpu(rq, t, now);
  spin_unlock(&rq->lock);
}

void thread_wake(struct thread *t) {
  u64 flags = irq_save();
  struct runq *rq = lock_home(t);
  if (t->state != THREAD_SLEEPING) goto out;
  if (rq->curr == t) { // on its way into schedule(), which will see this
    t->state = THREAD_RUNNING;
    goto out;
  }
  t->state = THREAD_READY;
  u64 now = time_ns();
  settle(rq, now);
  u32 cpu = choose_cpu(t, false);
  if (cpu == rq->cpu) {
    place(rq, t);
    enqueue(rq, t);
    notify_cpu(rq, t, now);
    goto out;
  }
  // Between the two queues it is READY and on none: other wakers leave it alone.
  leave(rq, t);
  WRITE_ONCE(t->cpu, cpu);
  spin_unlock(&rq->lock);
  queue_on(t, cpu);
  irq_restore(flags);
  return;
out:
  spin_unlock(&rq->lock);
  irq_restore(flags);
}

void thread_start(struct thread *t) {
  u64 flags = irq_save();
  thread_get(t); // the scheduler's, until it is dead
  t->state = THREAD_READY;
  t->cpu = this_cpu()->id;
  u32 cpu = choose_cpu(t, true); // who makes a process mostly waits for it next
  WRITE_ONCE(t->cpu, cpu);
  // A new thread starts level with the others: a fork storm earns no credit.
  t->vruntime_ns = WAKE_CREDIT_NS / 4;
  queue_on(t, cpu);
  irq_restore(flags);
}

static bool must_not_sleep(const struct thread *t) {
  return (t->interruptible && READ_ONCE(t->interrupt_pending)) || (t->killable && READ_ONCE(t->kill_pending));
}

void thread_interrupt(struct thread *t) {
  u64 flags = irq_save();
  struct runq *rq = lock_home(t);
  bool wake = t->state == THREAD_SLEEPING && must_not_sleep(t);
  // In ring 3 elsewhere? We cannot see, so an IPI for each thread that runs on another CPU.
  if (!wake && rq->curr == t && rq->cpu != this_cpu()->id) ipi_resched(rq->cpu);
  spin_unlock(&rq->lock);
  irq_restore(flags);
  if (wake) thread_wake(t); // when it went on meanwhile, it has seen interrupt_pending or will
}

// Has `o` a thread that another CPU may take? Not the one that waits for an idle CPU to come out of its loop, nor the
// one whose waker is expected to sleep at once.
static bool has_spare(const struct runq *o, u64 now) {
  u32 n = READ_ONCE(o->nr_ready);
  if (n != 1) return n > 1;
  if (READ_ONCE(o->curr) == o->idle) return false;
  u64 handoff = READ_ONCE(o->handoff_ns);
  return handoff == NEVER_NS || now >= handoff;
}

// Takes one thread from a CPU that has more than it can run now. Interrupts off, no queue locked. False: nobody has one
// that may run here, as far as was seen without waiting for a lock (*missed: one was not looked at).
static bool steal(struct runq *rq, bool *missed) {
  u64 now = time_ns();
  *missed = false;
  for (u32 i = 1; i < cpu_count; i++) {
    struct runq *from = runqs[(rq->cpu + i) % cpu_count];
    if (!has_spare(from, now)) continue;
    if (!spin_trylock(&from->lock)) {
      *missed = true;
      continue;
    }
    struct thread *found = NULL;
    unsigned look = 4;
    for (struct rb_node *n = has_spare(from, now) ? rb_first(&from->ready) : NULL; n && look; n = rb_next(n), look--) {
      struct thread *t = rb_entry(n, struct thread, rq_node);
      if (!(allowed_cpus(t) & BIT(rq->cpu))) continue;
      found = t;
      break;
    }
    if (found) {
      dequeue(from, found);
      settle(from, now);
      leave(from, found);
      WRITE_ONCE(found->cpu, rq->cpu);
    }
    spin_unlock(&from->lock);
    if (!found) continue;
    spin_lock(&rq->lock);
    join(rq, found, now);
    spin_unlock(&rq->lock);
    return true;
  }
  return false;
}

void sched_arm_timer(struct runq *rq) {
  u64 want = READ_ONCE(rq->first_ns);
  struct thread *c = rq->curr;
  if (READ_ONCE(rq->nr_ready) && c != rq->idle) {
    want = MIN(want, rq->handoff_ns);
    // A slice that is over has set need_resched already: a timer in the past would fire again and again until the
    // kernel code that runs now gets there.
    if (!this_cpu()->need_resched) want = MIN(want, c->slice_start_ns + SLICE_NS);
  }
  if (want < rq->armed_ns) {
    rq->armed_ns = want;
    timer_arm(want ? want : 1);
  }
}

void sched_slice_check(struct runq *rq, u64 now) {
  struct thread *c = rq->curr;
  bool waits = c != rq->idle && READ_ONCE(rq->nr_ready);
  if (waits && now >= c->slice_start_ns + SLICE_NS) this_cpu()->need_resched = true;
  if (now < rq->handoff_ns) return;
  rq->handoff_ns = NEVER_NS;
  if (waits) call_idle_cpu();
}

// The part of a switch that the next thread does on its own stack.
static void finish_switch(void) {
  struct runq *rq = this_cpu()->rq;
  struct thread *prev = rq->prev;
  bool dead = prev->state == THREAD_DEAD, migrates = rq->prev_migrates;
  rq->prev_migrates = false;
  if (migrates) { // READY and on no queue, its registers now saved
    settle(rq, rq->curr->exec_start_ns);
    leave(rq, prev);
    WRITE_ONCE(prev->cpu, choose_cpu(prev, false));
  }
  sched_arm_timer(rq);
  spin_unlock(&rq->lock);
  if (migrates) queue_on(prev, prev->cpu);
  if (dead) thread_put(prev);
}

static void switch_to(struct runq *rq, struct thread *prev, struct thread *next) {
  struct cpu *c = this_cpu();
  if (prev->fpu && prev->state != THREAD_DEAD) {
    fpu_save(prev->fpu);
    prev->fs_base = arch_get_fs_base();
    prev->gs_base = arch_get_user_gs_base();
    rq->fpu_owner = prev;
    prev->fpu_cpu = rq->cpu;
  }
  arch_set_kernel_stack(next->stack_top);
  if (next->aspace && next->aspace != c->aspace && aspace_switch) aspace_switch(next->aspace);
  if (next->fpu) {
    if (rq->fpu_owner != next || next->fpu_cpu != rq->cpu) fpu_restore(next->fpu); // the kernel never uses the registers
    rq->fpu_owner = next;
    arch_set_fs_base(next->fs_base);
    // Hardly any program has one, and writing the MSR is dear where it is emulated.
    if (arch_get_user_gs_base() != next->gs_base) arch_set_user_gs_base(next->gs_base);
  }
  rq->prev = prev;
  c->current = next;
  arch_switch(&prev->sp, next->sp);
  finish_switch(); // possibly on another CPU than above
}

void schedule(void) {
  u64 flags = irq_save(), now = time_ns();
  struct cpu *c = this_cpu();
  struct runq *rq = c->rq;
  struct thread *prev = c->current, *next;
  bool missed;
  if (unlikely(c->preempt_off)) panic("schedule with a spinlock held (%s, rank depth %u)", prev->name, c->lock_depth);
  load_sample(now);
  if (prev->state != THREAD_RUNNING && !READ_ONCE(rq->nr_ready)) steal(rq, &missed);
  spin_lock(&rq->lock);
  c->need_resched = false;
  charge(rq, now);
  if (prev->state == THREAD_SLEEPING && must_not_sleep(prev)) prev->state = THREAD_RUNNING;
  advance_min(rq);
  next = first_ready(rq);
  bool stays = prev->state == THREAD_RUNNING && prev != rq->idle, allowed = allowed_cpus(prev) & BIT(rq->cpu);
  if (stays && allowed && (!next || !runs_before(next, prev))) next = prev;
  if (next == prev || (!next && prev == rq->idle)) {
    if (now >= prev->slice_start_ns + SLICE_NS) prev->slice_start_ns = now;
    sched_arm_timer(rq);
    spin_unlock_irqrestore(&rq->lock, flags);
    return;
  }
  if (stays) {
    prev->state = THREAD_READY;
    prev->switches_involuntary++;
    if (allowed) enqueue(rq, prev);
    else rq->prev_migrates = true;
  } else {
    prev->switches_voluntary++;
    // The host may have taken the CPU away meanwhile, which looks like a long burst: short ones count at once, long ones
    // only when they repeat.
    u64 burst = now - prev->slice_start_ns;
    if (burst <= prev->burst_ns) prev->burst_ns = burst;
    else prev->burst_ns += (MIN(burst, NS_PER_MS) - MIN(prev->burst_ns, NS_PER_MS)) / 16;
  }
  if (next) dequeue(rq, next);
  else next = rq->idle;
  if (!rq->nr_ready) rq->handoff_ns = NEVER_NS;
  next->state = THREAD_RUNNING;
  next->exec_start_ns = next->slice_start_ns = now;
  rq->curr = next;
  switch_to(rq, prev, next);
  irq_restore(flags);
}

void sched_yield(void) {
  u64 flags = irq_save();
  struct runq *rq = this_cpu()->rq;
  spin_lock(&rq->lock);
  charge(rq, time_ns());
  struct rb_node *n = rb_last(&rq->ready);
  if (n) { // behind everybody who waits now
    struct thread *last = rb_entry(n, struct thread, rq_node), *t = rq->curr;
    if (!runs_before(last, t)) t->vruntime_ns = last->vruntime_ns + 1;
  }
  spin_unlock(&rq->lock);
  irq_restore(flags);
  if (n) schedule();
}

int thread_set_affinity(struct thread *t, const u64 mask[1]) {
  u64 online = cpu_count >= 64 ? ~0ull : BIT(cpu_count) - 1;
  if (!(mask[0] & online)) return -EINVAL;
  u64 flags = irq_save();
  struct runq *rq = lock_home(t);
  t->affinity[0] = mask[0];
  bool moved = false;
  if (!(mask[0] & BIT(rq->cpu))) {
    if (t->on_rq) {
      dequeue(rq, t);
      settle(rq, time_ns());
      leave(rq, t);
      WRITE_ONCE(t->cpu, choose_cpu(t, false));
      moved = true;
    } else if (rq->curr == t) { // schedule() moves it
      WRITE_ONCE(cpus[rq->cpu]->need_resched, true);
      if (rq->cpu != this_cpu()->id) ipi_resched(rq->cpu);
    }
  }
  spin_unlock(&rq->lock);
  if (moved) queue_on(t, t->cpu);
  irq_restore(flags);
  return 0;
}

u64 thread_cputime_ns(struct thread *t) {
  u64 flags = irq_save();
  struct runq *rq = lock_home(t);
  u64 ns = t->runtime_ns;
  if (rq->curr == t) {
    u64 now = time_ns();
    if (now > t->exec_start_ns) ns += now - t->exec_start_ns;
  }
  spin_unlock(&rq->lock);
  irq_restore(flags);
  return ns;
}

u64 cpu_idle_ns(u32 cpu) {
  struct runq *rq = runqs[cpu];
  u64 flags = spin_lock_irqsave(&rq->lock);
  u64 ns = rq->idle_ns;
  if (rq->curr == rq->idle) {
    u64 now = time_ns();
    if (now > rq->idle->exec_start_ns) ns += now - rq->idle->exec_start_ns;
  }
  spin_unlock_irqrestore(&rq->lock, flags);
  return ns;
}

static bool others_have_spare(const struct runq *rq, u64 now) {
  for (u32 i = 0; i < cpu_count; i++)
    if (runqs[i] != rq && has_spare(runqs[i], now)) return true;
  return false;
}

// The idle thread of each CPU. It polls shortly before it halts, as long as that pays: then a waker needs no IPI, which
// in a virtual machine costs both sides an exit.
void sched_idle_loop(void) {
  struct cpu *c = this_cpu();
  struct runq *rq = c->rq;
  rq->poll_ns = POLL_MAX_NS / 4;
  bool look_around = true; // false: what waits elsewhere may not run here, as the last try showed
  for (;;) {
    __atomic_store_n(&rq->idle_state, IDLE_POLLING, __ATOMIC_SEQ_CST);
    // From here on wakers may choose this CPU. One that looked before queued elsewhere: others_have_spare sees that.
    __atomic_fetch_or(&idle_mask, BIT(rq->cpu), __ATOMIC_SEQ_CST);
    irq_enable();
    u64 start = time_ns(), now = start;
    bool work = false, missed = false;
    do {
      work = READ_ONCE(c->need_resched) || READ_ONCE(rq->nr_ready) || (look_around && others_have_spare(rq, now));
      for (int i = 0; !work && i < 16; i++) cpu_relax();
    } while (!work && (now = time_ns()) - start < rq->poll_ns);
    irq_disable();
    if (!work) {
      // An IPI or an interrupt that comes between this check and the halt is pending and ends the halt.
      __atomic_store_n(&rq->idle_state, IDLE_HALTED, __ATOMIC_SEQ_CST);
      if (!__atomic_load_n(&c->need_resched, __ATOMIC_SEQ_CST) && !READ_ONCE(rq->nr_ready)) cpu_halt_until_irq();
      now = time_ns();
    }
    __atomic_store_n(&rq->idle_state, IDLE_NO, __ATOMIC_SEQ_CST);
    __atomic_fetch_and(&idle_mask, ~BIT(rq->cpu), __ATOMIC_SEQ_CST);
    // Polling pays when the wake-up comes soon; grow quickly, shrink when it would have been in vain.
    if (now - start < 2 * POLL_MAX_NS) rq->poll_ns = MIN(rq->poll_ns * 2, POLL_MAX_NS);
    else rq->poll_ns = MAX(rq->poll_ns / 2, POLL_MIN_NS);
    if (!READ_ONCE(rq->nr_ready)) look_around = steal(rq, &missed) || missed || !work || c->need_resched;
    if (READ_ONCE(rq->nr_ready) || c->need_resched) schedule();
  }
}

// --- load average: sampled every 5 s of time as threads switch; samples missed while idle count as no load
#define LOAD_PERIOD_NS (5 * NS_PER_SEC)
static u64 load_next_ns = LOAD_PERIOD_NS;
static u32 load_avg[3];
static const u32 load_decay[3] = { 1884, 2014, 2037 }; // 2048 / e^(5/60), e^(5/300), e^(5/900)

static void load_decay_by(u32 active, u64 periods) {
  for (unsigned i = 0; i < 3; i++) {
    u64 v = load_avg[i];
    for (u64 n = MIN(periods, 1024ull); n; n--) v = (v * load_decay[i] + active * 2048ull * (2048 - load_decay[i])) / 2048;
    WRITE_ONCE(load_avg[i], (u32)v);
  }
}

void load_sample(u64 now) {
  u64 due = __atomic_load_n(&load_next_ns, __ATOMIC_RELAXED);
  if (likely(now < due)) return;
  u64 periods = (now - due) / LOAD_PERIOD_NS + 1;
  if (!__atomic_compare_exchange_n(&load_next_ns, &due, due + periods * LOAD_PERIOD_NS, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) return;
  u32 active = 0;
  for (u32 i = 0; i < cpu_count; i++) active += load_of(i);
  if (periods > 1) load_decay_by(active > 1 ? active : 0, periods - 1);
  load_decay_by(active, 1);
}

u32 sched_load_avg(unsigned which) {
  load_sample(time_ns());
  return which < 3 ? READ_ONCE(load_avg[which]) : 0;
}

// --- start
static void thread_entry(void *arg) { // interrupts off, the queue's lock handed over
  struct thread *t = arg;
  finish_switch();
  irq_enable();
  t->entry(t->arg);
  thread_exit();
}

void thread_prepare_stack(struct thread *t, void *top) { t->sp = arch_thread_init(top, thread_entry, t); }

static struct runq *runq_create(u32 cpu) {
  struct runq *rq = kzalloc(sizeof *rq);
  if (!rq) panic("no memory for run queue %u", cpu);
  spin_init(&rq->lock, RANK_RUNQ);
  rq->cpu = cpu;
  timer_init_cpu(rq);
  return rq;
}

// The thread object of a context that runs already.
static struct thread *adopt(const char *name, struct runq *rq) {
  struct thread *t = thread_alloc(name);
  if (!t) panic("no memory for thread %s", name);
  t->state = THREAD_RUNNING;
  t->cpu = rq->cpu;
  t->exec_start_ns = t->slice_start_ns = time_ns();
  rq->curr = t;
  struct cpu *c = this_cpu();
  c->current = t;
  c->rq = rq;
  return t;
}

static void resched_if_needed(void) {
  if (this_cpu()->need_resched && !this_cpu()->preempt_off) schedule();
}

static void become_idle(void) {
  struct cpu *c = this_cpu();
  struct runq *rq = runqs[c->id];
  rq->idle = c->idle = adopt("idle", rq);
  rq->idle->affinity[0] = BIT(c->id);
}

void task_init(void (*first)(void *)) {
  u32 w = 1024;
  for (int i = 20; i >= 0; i--) nice_weight[i] = w, w = w * 5 / 4;
  w = 1024;
  for (int i = 20; i < 40; i++) nice_weight[i] = w, w = w * 4 / 5;
  for (u32 i = 0; i < cpu_count; i++) runqs[i] = runq_create(i);
  irq_disable();
  become_idle();
  timer_install_hook();
  arch_hooks.resched = resched_if_needed;
  work_init_threads();
  struct thread *t = kthread_run("kernel", first, NULL);
  if (!t) panic("no memory for the first thread");
  thread_put(t);
  sched_idle_loop();
}

void task_run_ap(void) {
  irq_disable();
  become_idle();
  sched_idle_loop();
}

// SPDX-License-Identifier: Apache-2.0
// The task room's own: the per-CPU run queue with its timers.
#ifndef TASK_INTERNAL_H
#define TASK_INTERNAL_H
#include "task/task.h"

#define SLICE_NS (2 * NS_PER_MS)           // how long a thread runs while others wait; Linux takes 1.4 to 2.8
#define WAKE_CREDIT_NS (3 * NS_PER_MS)     // what a sleeper may be ahead of the queue when it wakes
#define WAKE_GRANULARITY_NS NS_PER_MS      // how far ahead it must be to take the CPU from the one that runs
#define SHORT_BURST_NS (150 * NS_PER_US)   // who usually sleeps again this soon gives its CPU to the thread that it wakes
#define HANDOFF_NS (250 * NS_PER_US)       // ... and when it did not, an idle CPU is called
#define NEVER_NS (~0ull)

// idle_state: what a waker must do after it set need_resched of an idle CPU.
enum { IDLE_NO, IDLE_POLLING /* it will see the flag */, IDLE_HALTED /* it needs an IPI */ };

struct runq {
  struct spinlock lock;      // RANK_RUNQ, taken with interrupts off; schedule() hands it over across a switch
  // under lock
  struct rb_root ready;      // READY threads by vruntime
  struct thread *curr, *idle;
  struct thread *prev;       // whom the switch in progress leaves
  bool prev_migrates;        // prev may not run here any more: queue it elsewhere once its state is saved
  u64 min_vruntime_ns;       // never goes back
  // read without the lock as hints
  u32 nr_ready;
  u32 cpu;
  // written by its own CPU
  u32 idle_state;            // IDLE_*: sequentially consistent against need_resched
  u64 idle_ns, idle_start_ns;
  u64 poll_ns;               // how long idle polls before it halts: adapts
  struct thread *fpu_owner;  // whose FPU state the registers hold
  u64 armed_ns;              // what the one-shot timer is armed for, NEVER_NS: not armed; interrupts off

  struct spinlock timer_lock; // RANK_TIMER, irqsave
  struct rb_root timers;
  struct timer *running;     // whose fn runs now
  u64 first_ns;              // deadline of the first timer; a hint for its own CPU
  u64 handoff_ns;            // when an idle CPU shall take what waits here; NEVER_NS: nothing promised
};
extern struct runq *runqs[MAX_CPUS];

void sched_arm_timer(struct runq *rq);  // this CPU's queue, interrupts off: arm for what comes first, if that is sooner
void timer_init_cpu(struct runq *rq);
void timer_install_hook(void);
void sched_slice_check(struct runq *rq, u64 now);
void sched_idle_loop(void) __noreturn;
void thread_prepare_stack(struct thread *t, void *top);
struct thread *thread_alloc(const char *name);
void load_sample(u64 now);
void work_init_threads(void);
#endif

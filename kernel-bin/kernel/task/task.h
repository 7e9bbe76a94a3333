// SPDX-License-Identifier: Apache-2.0
//
// task: kernel threads, the per-CPU scheduler, sleeping (wait queues, mutexes, timed waits) and timers. The kernel is
// not preemptive: a thread gives up its CPU only by sleeping, by sched_yield_if_needed(), or on the way to ring 3.
#ifndef TASK_TASK_H
#define TASK_TASK_H
#include "page/page.h"

struct lwp;    // proc room: the user side of a thread (signals, ids, process)
struct aspace; // mm room

enum thread_state { THREAD_READY, THREAD_RUNNING, THREAD_SLEEPING, THREAD_DEAD };
struct thread {
  struct refcount refs;
  u64 sp;                 // saved kernel stack pointer while not running
  void *stack_top;
  enum thread_state state; // under the lock of the run queue it is on or last was on
  bool interruptible;      // sleeping in a wait that thread_interrupt ends
  bool interrupt_pending;  // set by proc when a signal must be seen; interruptible waits return -ERESTARTSYS at once
  bool killable, kill_pending; // the same for WAIT_KILLABLE: only the end of the thread ends it
  u32 cpu;                 // where it runs or last ran
  u64 affinity[1];         // bitmap of MAX_CPUS
  int nice;                // -20..19
  bool realtime;           // SCHED_FIFO/RR asked: runs before others (no starvation: still time-sliced)
  u64 vruntime_ns, runtime_ns, slice_start_ns, exec_start_ns; // vruntime: relative to no queue while on_rq is false
  u64 burst_ns;            // how long it usually runs between waking and sleeping again
  bool on_rq;              // queued in a run queue; under its lock
  u64 switches_voluntary, switches_involuntary;
  struct rb_node rq_node;
  void *fpu;               // XSAVE image, NULL for kernel threads
  u32 fpu_cpu;             // where it was last saved
  u64 fs_base, gs_base;    // ring 3's, saved at switch
  struct aspace *aspace;   // NULL: kernel thread, keeps whatever is loaded
  struct lwp *lwp;         // NULL: kernel thread
  struct regs *user_regs;  // at the top of the stack, for user threads
  char name[16];
  void (*entry)(void *);
  void *arg;
  void (*on_release)(struct thread *t); // last reference gone (kernel stack already freed); the struct goes after it
};

// --- threads
// A new thread that is not yet runnable. refs = 1, the caller's; the scheduler keeps its own while it lives. NULL: no memory.
struct thread *thread_create(const char *name, void (*entry)(void *), void *arg);
void thread_start(struct thread *t);
struct thread *kthread_run(const char *name, void (*entry)(void *), void *arg); // create + start; NULL. Reference is the caller's
void thread_get(struct thread *t);
void thread_put(struct thread *t);
__noreturn void thread_exit(void); // of the current one
// Makes a user thread out of a created one: allocates FPU state (a copy of the current thread's when `copy_fpu`), and
// reserves struct regs at the top of its stack, which the caller fills. -ENOMEM.
int __must_check thread_make_user(struct thread *t, struct aspace *as, bool copy_fpu);
void task_set_aspace_switch(void (*fn)(struct aspace *next)); // installed by mm; called with interrupts off at a switch

// --- scheduling
void schedule(void);                    // give up the CPU; state must have been set if sleeping is meant
void sched_yield(void);
static inline void sched_yield_if_needed(void) { if (unlikely(this_cpu()->need_resched)) schedule(); } // no locks held
void thread_wake(struct thread *t);     // from SLEEPING to READY; any context
// Ends an interruptible sleep (it returns -EINTR) and makes the next one return at once while interrupt_pending is set.
// Also sends an IPI when t runs in ring 3 on another CPU, so that it comes into the kernel. Any context.
void thread_interrupt(struct thread *t);
int __must_check thread_set_affinity(struct thread *t, const u64 mask[1]); // -EINVAL: no online CPU in it
u64 thread_cputime_ns(struct thread *t);
u32 sched_load_avg(unsigned which);     // 0,1,2: 1/5/15 min, fixed point 1/2048
u64 cpu_idle_ns(u32 cpu);

// --- wait queues. Waiters are woken in order; exclusive ones (epoll exclusive, accept) one per wake.
struct waitq { struct spinlock lock; struct list waiters; };
struct waiter {
  struct list link;
  struct thread *thread;
  // NULL: thread_wake(thread). Else called under wq->lock with interrupts off: poll and epoll. Returns true when it
  // counts as "an exclusive waiter was woken".
  bool (*wake)(struct waiter *w, u32 key);
  bool exclusive;
};
#define WAITQ_INIT(name) { SPINLOCK_INIT(RANK_WAITQ), LIST_INIT((name).waiters) }
void waitq_init(struct waitq *q);
void waitq_add(struct waitq *q, struct waiter *w);
void waitq_remove(struct waitq *q, struct waiter *w); // fine when it is not queued
bool waitq_active(struct waitq *q);                   // hint without the lock (full barrier first)
// key: poll events that became true (0: unknown). Wakes all ordinary waiters and `nr_exclusive` exclusive ones. Any context.
void waitq_wake(struct waitq *q, int nr_exclusive, u32 key);
static inline void waitq_wake_all(struct waitq *q) { waitq_wake(q, 1 << 30, 0); }

// wait_event(q, cond): sleeps until cond is true; cond is evaluated with no lock held, many times.
// _interruptible: 0 or -ERESTARTSYS. _timeout: deadline in time_ns() (WAIT_FOREVER): 0, -ETIMEDOUT or -ERESTARTSYS.
#define WAIT_FOREVER (~0ull)
#define WAIT_UNINTERRUPTIBLE 0
#define WAIT_INTERRUPTIBLE 1
#define WAIT_KILLABLE 2 // ends early only when the thread is about to be killed
void wait_prepare(struct waitq *q, struct waiter *w, int mode); // queue and set SLEEPING
int wait_sleep(u64 deadline_ns, int mode); // schedule until woken: 0, -ETIMEDOUT, -ERESTARTSYS
void wait_finish(struct waitq *q, struct waiter *w);
#define wait_event_deadline_mode(q, cond, deadline, mode) ({ \
    int _r = 0; \
    if (!(cond)) { \
      struct waiter _w = { .thread = thread_current() }; \
      list_init(&_w.link); \
      for (;;) { \
        wait_prepare((q), &_w, (mode)); \
        if (cond) { _r = 0; break; } \
        if (_r) break; \
        _r = wait_sleep((deadline), (mode)); \
      } \
      wait_finish((q), &_w); \
    } \
    _r; })
#define wait_event(q, cond) ((void)wait_event_deadline_mode(q, cond, WAIT_FOREVER, WAIT_UNINTERRUPTIBLE))
#define wait_event_killable(q, cond) wait_event_deadline_mode(q, cond, WAIT_FOREVER, WAIT_KILLABLE)
#define wait_event_interruptible(q, cond) wait_event_deadline_mode(q, cond, WAIT_FOREVER, WAIT_INTERRUPTIBLE)
#define wait_event_timeout(q, cond, deadline) wait_event_deadline_mode(q, cond, deadline, WAIT_INTERRUPTIBLE)
// Sleeps until the deadline: 0, or -ERESTARTSYS when interrupted before it.
int thread_sleep_until(u64 deadline_ns, int mode);

// --- sleeping locks. `rank` as for spinlocks; no spinlock may be held when one is taken.
struct mutex { struct spinlock guard; struct thread *owner; struct list waiters; u8 rank; };
void mutex_init(struct mutex *m, enum lock_rank rank);
void mutex_lock(struct mutex *m);
int __must_check mutex_lock_interruptible(struct mutex *m); // 0, -ERESTARTSYS
bool mutex_trylock(struct mutex *m);
void mutex_unlock(struct mutex *m);
struct rwsem { struct spinlock guard; s32 count; /* readers, or -1 */ struct list waiters; u32 writers_waiting; u8 rank; };
void rwsem_init(struct rwsem *s, enum lock_rank rank);
void rwsem_read_lock(struct rwsem *s);
void rwsem_read_unlock(struct rwsem *s);
void rwsem_write_lock(struct rwsem *s);
void rwsem_write_unlock(struct rwsem *s);
bool rwsem_read_trylock(struct rwsem *s);

// --- timers: fn runs in irq context on the CPU where the timer was started; it may restart or free its own timer.
// Starts of one timer are the caller's to serialise.
struct timer { struct rb_node node; u64 deadline_ns; void (*fn)(struct timer *t); u32 cpu; bool queued; };
void timer_init(struct timer *t, void (*fn)(struct timer *t));
void timer_start(struct timer *t, u64 deadline_ns); // restarts if queued
bool timer_cancel(struct timer *t);                 // true: it will not run. Also waits while fn runs on another CPU

// --- work that an interrupt handler leaves to a thread: at most once queued; runs in a kernel thread (sleepable).
// Never runs twice at once: queued again while it runs, it runs once more afterwards. fn may free the item.
struct work { struct list link; void (*fn)(struct work *w); bool queued; };
static inline void work_init(struct work *w, void (*fn)(struct work *w)) { list_init(&w->link); w->fn = fn; w->queued = false; }
void work_queue(struct work *w);

// First CPU, after arch and page, with cpu_count final: makes every CPU's run queue, turns this flow of control into the
// first CPU's idle thread, and runs `first` in a thread.
__noreturn void task_init(void (*first)(void *));
// An AP's last call: its flow becomes the idle thread of that CPU. Only after task_init made the run queues.
__noreturn void task_run_ap(void);
#endif

// SPDX-License-Identifier: Apache-2.0
//
// proc: processes and what POSIX says of them: exec, fork, exit and wait, signals, futexes, ids, limits, /proc.
// Locks: process_lock (spin, RANK_PROCESS_TREE): the tree, pids, groups, sessions, zombies. sigstate.lock (RANK_SIGNAL):
// pending signals and actions of one process.
#ifndef PROC_PROC_H
#define PROC_PROC_H
#include "net/net.h"

typedef u64 sigset; // bit N-1 is signal N
#define NSIG 64
struct ksiginfo { int signo, code, err; s32 pid; u32 uid; u64 value; uptr addr; int status; int fd; u64 band; s32 timerid; s32 overrun; u32 trapno; };
struct sigaction_k { uptr handler; u64 flags; uptr restorer; sigset mask; };
struct sigqueue { struct list entries; sigset set; };     // struct sigentry.link
// One per process (CLONE_SIGHAND without CLONE_THREAD copies the actions). Its lock (irqsave) guards the process's and its
// threads' pending signals, masks, stop state and timers.
struct sighand { struct spinlock lock; struct sigaction_k action[NSIG]; };
struct rlimit64_k { u64 cur, max; };
#define RLIM_COUNT 16

struct process { // a thread group
  struct refcount refs;
  struct list all;              // process_list
  int pid;                      // = tid of the first thread; kept until reaped
  int pgid, sid;
  struct process *parent;
  struct list children, sibling; // process_lock
  struct list threads;           // struct lwp.in_process; changed under process_lock and sighand->lock: read under either
  u32 thread_count, live;       // listed; not yet in lwp_exit (atomic)
  bool exiting;                 // exit_group began
  struct lwp *exec_lwp;         // this thread is in exec: all others must end
  struct waitq thread_wait;     // exec waits here for the others to end
  struct waitq stop_wait;       // stopped threads
  bool notify_continued, notify_stopped; // the parent still has to be told
  int exit_status;              // wait status word
  bool zombie, stopped, continued, stop_reported;
  int stop_signal;
  int exit_signal;              // SIGCHLD for fork
  bool did_exec, is_subreaper;
  struct waitq child_wait;      // parents wait here for children
  struct sighand *sighand;
  struct sigqueue pending;      // process-directed; under sighand->lock
  struct rlimit64_k rlimits[RLIM_COUNT];
  struct cred cred;             // one per process here; setuid changes all threads as POSIX wants
  struct list posix_timers; struct timer itimer_real; u64 itimer_real_interval_ns, itimer_real_expires_ns;
  struct { struct timer timer; u64 interval_ns, value_ns; /* CPU time at which it fires, 0: off */ } itimer_cpu[2]; // VIRTUAL, PROF
  u32 sigqueue_count;           // entries queued, against RLIMIT_SIGPENDING
  u64 start_ns, utime_ns, stime_ns, cutime_ns, cstime_ns; // of exited threads / reaped children
  u64 cminflt, cmajflt, nvcsw, nivcsw, cnvcsw, cnivcsw, maxrss_pages, cmaxrss_pages;
  u64 minflt, majflt;
  char comm[16];
  int oom_score_adj; int dumpable; bool no_new_privs; u64 caps_bounding; u32 personality; u32 timer_next_id;
  bool membarrier_registered, shares_files; // CLONE_FILES with another process: exec must copy the table
};
struct lwp { // the user side of a thread
  struct thread *thread;
  struct process *process;
  struct list in_process;
  int tid;
  struct aspace *as; struct fdtable *fds; struct fscontext *fs; // may be shared with other lwps (CLONE_VM/FILES/FS)
  sigset blocked, saved_mask; bool restore_mask; // changed by the thread itself, under sighand->lock
  sigset sigwait;               // sigtimedwait accepts these although blocked
  int restart_code;             // the syscall returned -ERESTART*: what signal_deliver makes of it
  u32 trapno, trap_error; u64 trap_addr; // of the last fault, for the signal frame
  int sched_policy, sched_priority; bool sched_reset_on_fork; u32 timer_slack_ns;
  u32 syscall_count; u64 syscall_start_ns; // one syscall in 16 is timed, for stime_ns
  struct sigqueue pending;      // thread-directed
  uptr altstack_sp; u64 altstack_size; u32 altstack_flags;
  uptr clear_child_tid, set_child_tid, robust_list; u64 robust_list_len;
  uptr rseq; u32 rseq_len, rseq_sig;
  bool exiting;
  int pdeath_signal;
  u64 utime_ns, stime_ns, minflt, majflt;
  struct completion *vfork_done;
  struct { long (*fn)(struct lwp *l); u64 arg[6]; } restart; // ERESTART_RESTARTBLOCK
};
static inline struct lwp *lwp_current(void) { return thread_current()->lwp; }
static inline struct process *process_current(void) { return lwp_current()->process; }
extern struct spinlock process_lock; // irqsave: the console signals groups from an interrupt
extern struct process *init_process; // process 1
extern struct list process_list;     // struct process.all, under process_lock: for /proc


// --- life
struct clone_request { u64 flags; uptr stack, stack_size, parent_tid, child_tid, tls; int exit_signal; };
long process_clone(const struct clone_request *rq, struct regs *r);  // tid of the child
long process_exec(const char *path, struct file *file, char **argv, char **envp); // kernel strings (kmalloc'ed arrays)
__noreturn void process_exit(int status, bool group);                // status word as wait sees it
long process_wait(int which, int id, uptr status, int options, uptr rusage, uptr siginfo);
struct process *process_find(int pid);                               // referenced; NULL
static inline struct process *process_get(struct process *p) { ref_get(&p->refs); return p; }
void process_put(struct process *p);
long process_unshare(u64 flags);                                     // CLONE_FILES, CLONE_FS
struct lwp *lwp_find_locked(int tid);                                // process_lock held; NULL
void process_times(struct process *p, u64 *utime_ns, u64 *stime_ns); // of all its threads, past and present
void lwp_times(struct lwp *l, u64 *utime_ns, u64 *stime_ns);         // l is alive (current, or process_lock held)
u64 process_rlimit(unsigned which);                                  // the current process's soft limit, RLIM_INFINITY is ~0
struct aspace *process_aspace(struct process *p);                    // referenced; NULL: it has none any more
// Job control for the tty: pgid's session, or -ESRCH; may the group be stopped from the terminal?
int process_group_session(int pgid);
bool process_group_orphaned(int pgid);
void process_kill_oom(void);                                         // out of memory in a fault: ends the current one

// --- signals
int signal_send_process(struct process *p, const struct ksiginfo *si); // any context that may take RANK_PROCESS_TREE
int signal_send_thread(struct lwp *l, const struct ksiginfo *si);
int signal_send_group(int pgid, const struct ksiginfo *si);
void signal_force(int signo, int code, uptr addr);                    // of the current thread: unblockable if blocked
bool signal_pending(void);                                            // of the current thread
void signal_deliver(struct regs *r);                                  // on the way to ring 3
// (sys/poll.c asks for these two) ppoll, pselect6, epoll_pwait: blocks exactly `m` (never KILL, STOP) and remembers the
// old mask in saved_mask with restore_mask set; signal_mask_restore puts it back at once. A wait that ends with -EINTR
// leaves it to signal_deliver, which restores after the handler's frame has saved saved_mask.
void signal_mask_temporary(sigset m);
void signal_mask_restore(void);
void signal_console(int signo);                                       // Ctrl-C, the launcher's SIGTERM: to the foreground group
bool signal_fatal_pending(void);                                      // the current thread is about to end: give up waiting
void signal_set_blocked(sigset mask);                                 // of the current thread
bool signal_dequeue(sigset mask, struct ksiginfo *out);               // of the current thread or process: signalfd
sigset signal_pending_set(void);                                      // pending for the current thread, blocked or not
void siginfo_encode(const struct ksiginfo *si, u8 out[128]);          // Linux's siginfo_t
int signal_kill(int pid, const struct ksiginfo *si);                  // as kill(2) chooses: >0, 0, -1, < -1
#define SIGBIT(n) BIT((n) - 1)

// --- clocks and timers of a program (clock.c, ptimer.c). Clock ids are Linux's, CPU clocks of other processes included.
int __must_check clock_read(int clock, u64 *ns);                      // -EINVAL
bool clock_is_cpu(int clock);
// time_ns() at which a wall-like clock shows `ns`: for absolute deadlines. Realtime moves with time_ns() alone.
u64 clock_deadline(int clock, u64 ns);
struct itimer_k { u64 interval_ns, value_ns; };
int __must_check itimer_get(int which, struct itimer_k *out);
int __must_check itimer_set(int which, const struct itimer_k *in, struct itimer_k *old);
struct sigevent_k { u64 value; int signo, notify, tid; };
long __must_check ptimer_create(int clock, const struct sigevent_k *ev); // timer id
int __must_check ptimer_settime(int id, bool absolute, const struct itimer_k *in, struct itimer_k *old);
int __must_check ptimer_gettime(int id, struct itimer_k *out);
long __must_check ptimer_overrun(int id);
int __must_check ptimer_delete(int id);

// --- futex, rseq, vdso
long futex_syscall(uptr addr, int op, u32 val, uptr timeout_or_val2, uptr addr2, u32 val3);
void futex_exit_robust(struct lwp *l);
int __must_check vdso_map(struct aspace *as);                         // sets as->vdso
void vdso_update(void);                                               // after time_set_realtime
#define KERNEL_RELEASE "6.1.0-gramine-tdx"
#define KERNEL_VERSION "#1 SMP gramine-tdx"
extern char proc_nodename[65];  // sethostname's; empty: host_hints.hostname or "localhost"
void proc_memory_init(void);  // proc/memory.c: what mm needs, futexes, vdso, /proc and /sys; proc_init calls it

// The foreground group of the console, when the tty room knows one: returns 0 for none (then process 1's group).
extern int (*console_foreground_group)(void);

void proc_init(void);
void proc_start_init(void); // builds process 1 from the policy and runs it; its end is the machine's
#endif

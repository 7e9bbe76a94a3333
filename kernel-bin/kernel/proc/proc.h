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
struct sighand { struct refcount refs; struct spinlock lock; struct sigaction_k action[NSIG]; }; // CLONE_SIGHAND
struct rlimit64_k { u64 cur, max; };
#define RLIM_COUNT 16

struct process { // a thread group
  struct refcount refs;
  int pid;                      // = tid of the first thread; kept until reaped
  int pgid, sid;
  struct process *parent;
  struct list children, sibling; // process_lock
  struct list threads;           // struct lwp.in_process, process_lock
  u32 thread_count;
  bool exiting;                 // exit_group began
  int exit_status;              // wait status word
  bool zombie, stopped, continued, stop_reported;
  int stop_signal;
  int exit_signal;              // SIGCHLD for fork
  bool did_exec, is_subreaper;
  struct waitq child_wait;      // parents wait here for children
  struct sighand *sighand;
  struct sigqueue pending;      // process-directed; under sighand->lock
  struct waitq signalfd_wait;
  struct rlimit64_k rlimits[RLIM_COUNT];
  struct cred cred;             // one per process here; setuid changes all threads as POSIX wants
  struct list posix_timers; struct timer itimer_real; u64 itimer_real_interval_ns;
  u64 start_ns, utime_ns, stime_ns, cutime_ns, cstime_ns; // of exited threads / reaped children
  u64 minflt, majflt;
  struct file *tty;             // controlling terminal, NULL
  char comm[16];
  int oom_score_adj; int dumpable; int pdeath_signal_of_parent;
};
struct lwp { // the user side of a thread
  struct thread *thread;
  struct process *process;
  struct list in_process;
  int tid;
  struct aspace *as; struct fdtable *fds; struct fscontext *fs; // may be shared with other lwps (CLONE_VM/FILES/FS)
  sigset blocked, saved_mask; bool restore_mask;
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

// --- life
struct clone_request { u64 flags; uptr stack, stack_size, parent_tid, child_tid, tls; int exit_signal; };
long process_clone(const struct clone_request *rq, struct regs *r);  // tid of the child
long process_exec(const char *path, struct file *file, char **argv, char **envp); // kernel strings (kmalloc'ed arrays)
__noreturn void process_exit(int status, bool group);                // status word as wait sees it
long process_wait(int which, int id, uptr status, int options, uptr rusage, uptr siginfo);
struct process *process_find(int pid);                               // referenced; NULL
void process_put(struct process *p);
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

// --- futex, rseq, vdso
long futex_syscall(uptr addr, int op, u32 val, uptr timeout_or_val2, uptr addr2, u32 val3);
void futex_exit_robust(struct lwp *l);
int __must_check vdso_map(struct aspace *as);                         // sets as->vdso

void proc_init(void);
void proc_start_init(void); // builds process 1 from the policy and runs it; its end is the machine's
#endif

// SPDX-License-Identifier: Apache-2.0
// What the files of process life and signals share.
#ifndef PROC_INTERNAL_H
#define PROC_INTERNAL_H
#include "proc/proc.h"

enum { // Linux's numbers; <signal.h>'s types would clash with ours
  SIGHUP = 1, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGUSR1, SIGSEGV, SIGUSR2, SIGPIPE,
  SIGALRM, SIGTERM, SIGSTKFLT, SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGXCPU, SIGXFSZ, SIGVTALRM,
  SIGPROF, SIGWINCH, SIGIO, SIGPWR, SIGSYS, SIGRTMIN,
};
#define SIG_DFL 0ul
#define SIG_IGN 1ul
enum { SA_NOCLDSTOP = 1, SA_NOCLDWAIT = 2, SA_SIGINFO = 4, SA_RESTORER = 0x04000000, SA_ONSTACK = 0x08000000,
       SA_RESTART = 0x10000000, SA_NODEFER = 0x40000000 };
#define SA_RESETHAND 0x80000000u
enum { SI_USER = 0, SI_QUEUE = -1, SI_TIMER = -2, SI_MESGQ = -3, SI_ASYNCIO = -4, SI_SIGIO = -5, SI_TKILL = -6, SI_KERNEL = 0x80 };
enum { CLD_EXITED = 1, CLD_KILLED, CLD_DUMPED, CLD_TRAPPED, CLD_STOPPED, CLD_CONTINUED };
#define SIGSET_UNBLOCKABLE (SIGBIT(SIGKILL) | SIGBIT(SIGSTOP))
#define SIGSET_STOP (SIGBIT(SIGSTOP) | SIGBIT(SIGTSTP) | SIGBIT(SIGTTIN) | SIGBIT(SIGTTOU))
#define SIGSET_IGNORED (SIGBIT(SIGCHLD) | SIGBIT(SIGURG) | SIGBIT(SIGWINCH) | SIGBIT(SIGCONT))
#define SIGSET_FAULT (SIGBIT(SIGSEGV) | SIGBIT(SIGBUS) | SIGBIT(SIGFPE) | SIGBIT(SIGILL) | SIGBIT(SIGTRAP) | SIGBIT(SIGSYS))

enum { CLONE_VM = 0x100, CLONE_FS = 0x200, CLONE_FILES = 0x400, CLONE_SIGHAND = 0x800, CLONE_PIDFD = 0x1000,
       CLONE_PTRACE = 0x2000, CLONE_VFORK = 0x4000, CLONE_PARENT = 0x8000, CLONE_THREAD = 0x10000, CLONE_NEWNS = 0x20000,
       CLONE_SYSVSEM = 0x40000, CLONE_SETTLS = 0x80000, CLONE_PARENT_SETTID = 0x100000, CLONE_CHILD_CLEARTID = 0x200000,
       CLONE_DETACHED = 0x400000, CLONE_UNTRACED = 0x800000, CLONE_CHILD_SETTID = 0x1000000, CLONE_NEWCGROUP = 0x2000000,
       CLONE_NEWUTS = 0x4000000, CLONE_NEWIPC = 0x8000000, CLONE_NEWUSER = 0x10000000, CLONE_NEWPID = 0x20000000,
       CLONE_NEWNET = 0x40000000 };
#define CLONE_CLEAR_SIGHAND 0x100000000ull
#define CLONE_INTO_CGROUP 0x200000000ull
#define CLONE_NEWTIME 0x80u

enum { RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_DATA, RLIMIT_STACK, RLIMIT_CORE, RLIMIT_RSS, RLIMIT_NPROC, RLIMIT_NOFILE,
       RLIMIT_MEMLOCK, RLIMIT_AS, RLIMIT_LOCKS, RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE, RLIMIT_NICE, RLIMIT_RTPRIO, RLIMIT_RTTIME };

struct sigentry { struct list link; struct ksiginfo si; bool embedded; /* in a timer: not freed */ bool queued; };
struct completion { struct refcount refs; bool done; struct waitq wait; };

// --- process.c
struct process *process_create(struct process *parent, int pid);   // refs 1; in no list yet. NULL
struct lwp *lwp_create(struct process *p, int tid);                // NULL
void lwp_free(struct lwp *l);
int pid_alloc_locked(void);                                        // -EAGAIN
int __must_check pid_publish_locked(struct process *p, struct lwp *l); // p: NULL for a further thread
void pid_forget_lwp_locked(struct lwp *l);
void pid_forget_process_locked(struct process *p);
struct process *process_find_locked(int pid);
extern u32 process_count, lwp_count;                               // process_lock
void lwp_take_pid(struct lwp *l);
extern struct fscontext *boot_fs; extern struct fdtable *boot_fds;  // of kernel threads (init.c)
void user_thread_start(void *lwp);                                 // first kernel code of a user thread
void init_host_signal(int signo);                                   // init.c
void completion_put(struct completion *c);
void completion_finish(struct completion *c);

// --- signal.c, all under sighand->lock
void signal_recalc_locked(struct lwp *l);
void signal_kick_all_locked(struct process *p);
void sigqueue_init(struct sigqueue *q);
void sigqueue_flush(struct process *p, struct sigqueue *q, sigset which);
void sigqueue_recount(struct sigqueue *q, int signo);               // an entry left the list: is another there?
// Sends to the process, or to l of it. `entry`: the timer's own, or NULL to allocate one.
int signal_send_locked(struct process *p, struct lwp *l, const struct ksiginfo *si, struct sigentry *entry);
void signal_user_return(struct regs *r);                           // hook
bool signalfd_pending(sigset mask);                                 // hooks of the file room
bool signalfd_take(sigset mask, struct signalfd_siginfo *out);
// --- sigframe.c
int __must_check sigframe_push(struct lwp *l, struct regs *r, const struct ksiginfo *si, const struct sigaction_k *a, sigset mask);
u32 altstack_state(const struct lwp *l, uptr sp);
int __must_check altstack_set(struct lwp *l, uptr sp, u64 size, u32 flags);
long sigframe_pop(struct regs *r);
void trap_init(void);
// --- ptimer.c
void ptimers_delete(struct process *p);                            // exec and exit: timer_create's
void itimers_init(struct process *p);
void itimers_cancel(struct process *p);                            // exit
void ptimer_requeue_locked(struct process *p, struct sigentry *e, struct ksiginfo *si); // its signal was taken
// --- exit.c
void process_notify_stop(struct process *p, bool stopped);
__noreturn void lwp_exit(int status);                              // this thread only
void process_reap_locked(struct process *parent, struct process *child);
void terminal_init(void); // terminal.c
#endif

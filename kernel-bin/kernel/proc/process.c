// SPDX-License-Identifier: Apache-2.0
//
// The table of processes and threads: numbers, creation, lookup, sessions and groups.
//
// A process lives while it is referenced: by the table until it is reaped, and by whoever looks at it. An lwp belongs to
// its running thread; others may look at it only under process_lock (or its process's sighand->lock), while it is listed.
#include "proc/internal.h"

struct spinlock process_lock = SPINLOCK_INIT(RANK_PROCESS_TREE);
struct process *init_process;
struct list process_list = LIST_INIT(process_list);
u32 process_count, lwp_count;
int (*console_foreground_group)(void);
static struct radix by_pid, by_tid;
static int last_pid;
#define PID_MAX 4194304

struct process *process_create(struct process *parent, int pid) {
  struct process *p = kzalloc(sizeof *p);
  if (!p) return NULL;
  p->sighand = kzalloc(sizeof *p->sighand);
  if (!p->sighand) {
    kfree(p);
    return NULL;
  }
  ref_init(&p->refs);
  spin_init(&p->sighand->lock, RANK_SIGNAL);
  p->pid = pid;
  p->parent = parent;
  list_init(&p->all);
  list_init(&p->children);
  list_init(&p->sibling);
  list_init(&p->threads);
  list_init(&p->posix_timers);
  waitq_init(&p->child_wait);
  waitq_init(&p->thread_wait);
  waitq_init(&p->stop_wait);
  sigqueue_init(&p->pending);
  p->exit_signal = SIGCHLD;
  itimers_init(p);
  p->dumpable = 1;
  p->caps_bounding = BIT(41) - 1;
  p->start_ns = time_ns();
  return p;
}

void process_put(struct process *p) {
  if (!p || !ref_put(&p->refs)) return;
  sigqueue_flush(p, &p->pending, ~0ull);
  kfree(p->sighand);
  kfree(p);
}

struct lwp *lwp_create(struct process *p, int tid) {
  struct lwp *l = kzalloc(sizeof *l);
  if (!l) return NULL;
  l->process = p;
  l->tid = tid;
  l->timer_slack_ns = 50000;
  list_init(&l->in_process);
  sigqueue_init(&l->pending);
  l->altstack_flags = 2; // SS_DISABLE
  return l;
}

void lwp_free(struct lwp *l) {
  sigqueue_flush(l->process, &l->pending, ~0ull);
  kfree(l);
}

static bool pid_used(int pid) {
  if (radix_get(&by_pid, (u64)pid) || radix_get(&by_tid, (u64)pid)) return true;
  struct process *p;
  list_for_each(p, &process_list, all)
    if (p->pgid == pid || p->sid == pid) return true;
  return false;
}

int pid_alloc_locked(void) {
  static bool reused; // numbers rise until the first wrap: only since then can one be in use as a group or session alone
  bool wrapped = false;
  for (int pid = last_pid + 1;; pid++) {
    if (pid >= PID_MAX) {
      if (wrapped) return -EAGAIN;
      wrapped = reused = true;
      pid = 300;
    }
    if (!radix_get(&by_pid, (u64)pid) && !radix_get(&by_tid, (u64)pid) && (!reused || !pid_used(pid))) {
      last_pid = pid;
      return pid;
    }
  }
}

int pid_publish_locked(struct process *p, struct lwp *l) {
  int r = radix_insert(&by_tid, (u64)l->tid, l);
  if (r) return r;
  if (p) {
    r = radix_insert(&by_pid, (u64)p->pid, p);
    if (r) {
      radix_remove(&by_tid, (u64)l->tid);
      return r;
    }
    list_push_back(&process_list, &p->all);
    process_count++;
    if (p->parent) list_push_back(&p->parent->children, &p->sibling);
  }
  struct process *home = l->process;
  spin_lock(&home->sighand->lock);
  list_push_back(&home->threads, &l->in_process);
  home->thread_count++;
  atomic_inc(&home->live);
  signal_recalc_locked(l); // exit_group, exec or a stop that told all threads just before did not tell this one
  spin_unlock(&home->sighand->lock);
  lwp_count++;
  return 0;
}

void pid_forget_lwp_locked(struct lwp *l) { // sighand->lock held too
  radix_remove(&by_tid, (u64)l->tid);
  list_remove(&l->in_process);
  l->process->thread_count--;
  lwp_count--;
}

// exec by another thread than the first: it takes the process's number.
void lwp_take_pid(struct lwp *l) {
  u64 flags = spin_lock_irqsave(&process_lock);
  if (l->tid != l->process->pid) {
    radix_remove(&by_tid, (u64)l->tid);
    l->tid = l->process->pid;
    // The first thread is gone, so the slot is free and its nodes mostly exist; without memory the thread stays
    // findable through its process only.
    (void)!radix_insert(&by_tid, (u64)l->tid, l);
  }
  spin_unlock_irqrestore(&process_lock, flags);
}

void pid_forget_process_locked(struct process *p) {
  radix_remove(&by_pid, (u64)p->pid);
  list_remove(&p->all);
  list_remove(&p->sibling);
  p->parent = NULL; // no longer its child: nobody would tell p when that one goes, and /proc may keep p for long
  process_count--;
}

struct process *process_find_locked(int pid) { return pid > 0 ? radix_get(&by_pid, (u64)pid) : NULL; }
struct lwp *lwp_find_locked(int tid) { return tid > 0 ? radix_get(&by_tid, (u64)tid) : NULL; }

struct process *process_find(int pid) {
  u64 flags = spin_lock_irqsave(&process_lock);
  struct process *p = process_find_locked(pid);
  if (p) process_get(p);
  spin_unlock_irqrestore(&process_lock, flags);
  return p;
}

struct aspace *process_aspace(struct process *p) {
  struct aspace *as = NULL;
  struct lwp *l;
  u64 flags = spin_lock_irqsave(&process_lock);
  list_for_each(l, &p->threads, in_process) {
    if (!l->as) continue;
    as = aspace_get(l->as);
    break;
  }
  spin_unlock_irqrestore(&process_lock, flags);
  return as;
}

// --- time
void lwp_times(struct lwp *l, u64 *utime_ns, u64 *stime_ns) {
  u64 total = thread_cputime_ns(l->thread), sys = MIN(READ_ONCE(l->stime_ns), total);
  *stime_ns = sys;
  *utime_ns = total - sys;
}

void process_times(struct process *p, u64 *utime_ns, u64 *stime_ns) {
  u64 flags = spin_lock_irqsave(&p->sighand->lock), u, s;
  struct lwp *l;
  *utime_ns = p->utime_ns;
  *stime_ns = p->stime_ns;
  list_for_each(l, &p->threads, in_process) {
    lwp_times(l, &u, &s);
    *utime_ns += u;
    *stime_ns += s;
  }
  spin_unlock_irqrestore(&p->sighand->lock, flags);
}

u64 process_rlimit(unsigned which) {
  struct lwp *l = lwp_current();
  return l ? READ_ONCE(l->process->rlimits[which].cur) : ~0ull;
}

// --- groups and sessions
int process_group_session(int pgid) {
  u64 flags = spin_lock_irqsave(&process_lock);
  int sid = -ESRCH;
  struct process *p;
  list_for_each(p, &process_list, all) {
    if (p->pgid != pgid) continue;
    sid = p->sid;
    break;
  }
  spin_unlock_irqrestore(&process_lock, flags);
  return sid;
}

// POSIX: no member has a parent in another group of the same session, so nobody would continue it.
bool process_group_orphaned(int pgid) {
  u64 flags = spin_lock_irqsave(&process_lock);
  bool orphaned = true;
  struct process *p;
  list_for_each(p, &process_list, all)
    if (p->pgid == pgid && !p->zombie && p->parent && p->parent->sid == p->sid && p->parent->pgid != pgid) orphaned = false;
  spin_unlock_irqrestore(&process_lock, flags);
  return orphaned;
}

// --- vfork
void completion_put(struct completion *c) {
  if (ref_put(&c->refs)) kfree(c);
}

void completion_finish(struct completion *c) {
  WRITE_ONCE(c->done, true);
  waitq_wake_all(&c->wait);
  completion_put(c);
}

// --- what lower rooms ask about the current process
static struct fscontext *current_fs(void) {
  struct lwp *l = lwp_current();
  return l ? l->fs : boot_fs;
}
static struct fdtable *current_fds(void) {
  struct lwp *l = lwp_current();
  return l ? l->fds : boot_fds;
}
static const struct cred *current_cred(void) {
  static const struct cred root;
  struct lwp *l = lwp_current();
  return l ? &l->process->cred : &root;
}
static u64 current_fd_limit(void) { return process_rlimit(RLIMIT_NOFILE); }

void proc_init(void) {
  fscontext_current = current_fs;
  fdtable_current = current_fds;
  cred_current = current_cred;
  fd_set_limit_source(current_fd_limit);
  control_on_signal = init_host_signal;
  terminal_init();
  arch_hooks.user_return = signal_user_return;
  signalfd_hooks.pending = signalfd_pending;
  signalfd_hooks.take = signalfd_take;
  trap_init();
  proc_memory_init();
}

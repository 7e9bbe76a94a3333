// SPDX-License-Identifier: Apache-2.0
//
// The end of threads and processes, and waiting for it. A thread gives back what it shares first, and only then leaves
// the table, so whoever waited for a process finds its files closed and its memory freed.
#include "proc/internal.h"

enum { WNOHANG = 1, WUNTRACED = 2 /* = WSTOPPED */, WEXITED = 4, WCONTINUED = 8, WNOWAIT = 0x01000000 };
#define WNOTHREAD 0x20000000u
#define WALL 0x40000000u
#define WCLONE 0x80000000u
enum { P_ALL, P_PID, P_PGID };

static void child_siginfo(struct process *child, struct ksiginfo *si) {
  int st = child->exit_status;
  bool killed = (st & 0x7f) != 0;
  *si = (struct ksiginfo){ .signo = SIGCHLD, .code = killed ? CLD_KILLED : CLD_EXITED, .pid = child->pid, .uid = child->cred.uid,
    .status = killed ? st & 0x7f : (st >> 8) & 0xff, .value = child->stime_ns / 10000000, .band = child->utime_ns / 10000000 };
}

void process_reap_locked(struct process *parent, struct process *child) {
  if (parent) {
    parent->cutime_ns += child->utime_ns + child->cutime_ns;
    parent->cstime_ns += child->stime_ns + child->cstime_ns;
    parent->cminflt += child->minflt + child->cminflt;
    parent->cmajflt += child->majflt + child->cmajflt;
    parent->cnvcsw += child->nvcsw + child->cnvcsw;
    parent->cnivcsw += child->nivcsw + child->cnivcsw;
    parent->cmaxrss_pages = MAX(parent->cmaxrss_pages, MAX(child->maxrss_pages, child->cmaxrss_pages));
  }
  pid_forget_process_locked(child);
}

// Tells the parent that `p` is a zombie. True: nobody will wait for it, it was reaped here (drop the table's reference).
static bool notify_parent_locked(struct process *p) {
  struct process *parent = p->parent;
  if (!parent) return false; // process 1
  bool reaped = false;
  spin_lock(&parent->sighand->lock);
  const struct sigaction_k *a = &parent->sighand->action[SIGCHLD - 1];
  if (p->exit_signal == SIGCHLD && (a->handler == SIG_IGN || (a->flags & SA_NOCLDWAIT))) reaped = true;
  if (p->exit_signal && !(reaped && a->handler == SIG_IGN)) {
    struct ksiginfo si;
    child_siginfo(p, &si);
    si.signo = p->exit_signal;
    signal_send_locked(parent, NULL, &si, NULL);
  }
  spin_unlock(&parent->sighand->lock);
  if (reaped) process_reap_locked(NULL, p);
  waitq_wake_all(&parent->child_wait);
  return reaped;
}

static void signal_parent_death(struct process *child) {
  struct lwp *l;
  spin_lock(&child->sighand->lock);
  list_for_each(l, &child->threads, in_process) {
    if (!l->pdeath_signal) continue;
    struct ksiginfo si = { .signo = l->pdeath_signal, .code = SI_USER, .pid = child->parent->pid, .uid = child->parent->cred.uid };
    signal_send_locked(child, NULL, &si, NULL);
  }
  spin_unlock(&child->sighand->lock);
}

// Children of the dying p go to its nearest living subreaper, else to process 1.
static void reparent_children_locked(struct process *p, struct list *dead) {
  struct process *reaper = p->parent, *c, *next;
  while (reaper && (!reaper->is_subreaper || reaper->zombie || reaper->exiting)) reaper = reaper->parent;
  if (!reaper) reaper = init_process;
  list_for_each_safe(c, next, &p->children, sibling) {
    signal_parent_death(c);
    list_remove(&c->sibling);
    if (reaper == p) { // process 1 itself ends: the machine is about to
      c->parent = NULL;
      continue;
    }
    c->parent = reaper;
    c->exit_signal = SIGCHLD;
    list_push_back(&reaper->children, &c->sibling);
    if (c->zombie && notify_parent_locked(c)) list_push_back(dead, &c->sibling);
  }
}

// The last thread of p left.
static void process_end_locked(struct process *p, struct list *dead) {
  reparent_children_locked(p, dead);
  p->zombie = true;
  if (notify_parent_locked(p)) list_push_back(dead, &p->sibling);
  if (p == init_process) waitq_wake_all(&p->thread_wait);
}

void lwp_exit(int status) {
  struct lwp *l = lwp_current();
  struct process *p = l->process;
  struct thread *t = l->thread;
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  l->exiting = true; // no more signals to this one; those for the process go to others
  t->interrupt_pending = t->kill_pending = false;
  struct lwp *other;
  if (p->pending.set)
    list_for_each(other, &p->threads, in_process)
      if (other != l) signal_recalc_locked(other);
  spin_unlock_irqrestore(&p->sighand->lock, flags);

  if (atomic_dec(&p->live) == 0) {
    ptimers_delete(p);
    itimers_cancel(p);
  }
  futex_exit_robust(l);
  if (l->clear_child_tid && ref_read(&l->as->refs) > 1) {
    u32 zero = 0;
    if (!copy_to_user(l->clear_child_tid, &zero, sizeof zero)) futex_syscall(l->clear_child_tid, 1 /* FUTEX_WAKE */, 1, 0, 0, 0);
  }
  p->maxrss_pages = MAX(p->maxrss_pages, l->as->rss_peak_pages);

  flags = spin_lock_irqsave(&process_lock); // /proc takes references of these under it
  struct aspace *as = l->as;
  struct fdtable *fds = l->fds;
  struct fscontext *fs = l->fs;
  l->as = NULL;
  l->fds = NULL;
  spin_unlock_irqrestore(&process_lock, flags);
  fdtable_put(fds);
  aspace_activate(NULL);
  aspace_put(as);
  if (l->vfork_done) completion_finish(l->vfork_done);

  struct list dead = LIST_INIT(dead);
  flags = spin_lock_irqsave(&process_lock);
  l->fs = NULL;
  if (!p->exiting && l->tid == p->pid) p->exit_status = status;
  spin_lock(&p->sighand->lock);
  u64 utime, stime; // what it used moves to the process as it leaves the list: the sum of both never goes back
  lwp_times(l, &utime, &stime);
  pid_forget_lwp_locked(l);
  p->utime_ns += utime;
  p->stime_ns += stime;
  p->minflt += l->minflt;
  p->majflt += l->majflt;
  p->nvcsw += t->switches_voluntary;
  p->nivcsw += t->switches_involuntary;
  sigqueue_flush(p, &l->pending, ~0ull);
  spin_unlock(&p->sighand->lock);
  if (p->thread_count == 0) process_end_locked(p, &dead);
  else if (p->exec_lwp) waitq_wake_all(&p->thread_wait);
  spin_unlock_irqrestore(&process_lock, flags);

  // From here on p may be reaped and gone.
  fscontext_put(fs);
  while (!list_empty(&dead)) {
    struct process *d = list_first_entry(&dead, struct process, sibling);
    list_remove(&d->sibling);
    process_put(d);
  }
  t->lwp = NULL;
  kfree(l);
  thread_put(t);
  thread_exit();
}

void process_exit(int status, bool group) {
  struct lwp *l = lwp_current();
  struct process *p = l->process;
  if (group) {
    u64 flags = spin_lock_irqsave(&p->sighand->lock);
    if (!p->exiting) {
      p->exiting = true;
      p->exit_status = status;
      signal_kick_all_locked(p);
    }
    spin_unlock_irqrestore(&p->sighand->lock, flags);
  }
  lwp_exit(p->exiting ? p->exit_status : status);
}

void process_kill_oom(void) {
  struct process *p = process_current();
  printk(LOG_ERROR, "out of memory: killing process %d (%s)", p->pid, p->comm);
  signal_force(SIGKILL, SI_KERNEL, 0);
}

// --- stop and continue, told by the stopped threads themselves
void process_notify_stop(struct process *p, bool stopped) {
  u64 flags = spin_lock_irqsave(&process_lock);
  struct process *parent = p->parent;
  if (parent) {
    spin_lock(&parent->sighand->lock);
    if (!(parent->sighand->action[SIGCHLD - 1].flags & SA_NOCLDSTOP)) {
      struct ksiginfo si = { .signo = SIGCHLD, .code = stopped ? CLD_STOPPED : CLD_CONTINUED, .pid = p->pid, .uid = p->cred.uid,
        .status = stopped ? p->stop_signal : SIGCONT };
      signal_send_locked(parent, NULL, &si, NULL);
    }
    spin_unlock(&parent->sighand->lock);
    waitq_wake_all(&parent->child_wait);
  }
  spin_unlock_irqrestore(&process_lock, flags);
}

// --- wait
struct wait_query { int which, id; u32 options; };
struct wait_result { int pid; int status; struct ksiginfo si; u64 utime_ns, stime_ns, minflt, majflt, nvcsw, nivcsw, maxrss_pages; struct process *reaped; };

static bool matches(const struct wait_query *q, const struct process *me, const struct process *c) {
  if (q->which == P_PID && c->pid != q->id) return false;
  if (q->which == P_PGID && c->pgid != (q->id ? q->id : me->pgid)) return false;
  return (q->options & WALL) || (c->exit_signal != SIGCHLD) == ((q->options & WCLONE) != 0);
}

static bool look_at_child(const struct wait_query *q, struct process *me, struct process *c, struct wait_result *out) {
  bool keep = (q->options & WNOWAIT) != 0;
  if (c->zombie) {
    if (!(q->options & WEXITED)) return false;
    out->status = c->exit_status;
    child_siginfo(c, &out->si);
    if (!keep) {
      process_reap_locked(me, c);
      out->reaped = c;
    }
  } else if ((q->options & WUNTRACED) && c->stopped && !c->stop_reported) {
    out->status = c->stop_signal << 8 | 0x7f;
    out->si = (struct ksiginfo){ .signo = SIGCHLD, .code = CLD_STOPPED, .status = c->stop_signal };
    if (!keep) c->stop_reported = true;
  } else if ((q->options & WCONTINUED) && c->continued) {
    out->status = 0xffff;
    out->si = (struct ksiginfo){ .signo = SIGCHLD, .code = CLD_CONTINUED, .status = SIGCONT };
    if (!keep) c->continued = false;
  } else {
    return false;
  }
  out->pid = out->si.pid = c->pid;
  out->si.uid = c->cred.uid;
  out->utime_ns = c->utime_ns + c->cutime_ns;
  out->stime_ns = c->stime_ns + c->cstime_ns;
  out->minflt = c->minflt + c->cminflt;
  out->majflt = c->majflt + c->cmajflt;
  out->nvcsw = c->nvcsw + c->cnvcsw;
  out->nivcsw = c->nivcsw + c->cnivcsw;
  out->maxrss_pages = MAX(c->maxrss_pages, c->cmaxrss_pages);
  return true;
}

// 1: a result; 0: children, but nothing to report; -ECHILD.
static int scan_children(const struct wait_query *q, struct process *me, struct wait_result *out) {
  int r = -ECHILD;
  struct process *c;
  u64 flags = spin_lock_irqsave(&process_lock);
  list_for_each(c, &me->children, sibling) {
    if (!matches(q, me, c)) continue;
    r = look_at_child(q, me, c, out) ? 1 : 0;
    if (r) break;
  }
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

static int put_rusage(uptr to, const struct wait_result *w) {
  u64 ru[18] = { w->utime_ns / NS_PER_SEC, w->utime_ns % NS_PER_SEC / 1000, w->stime_ns / NS_PER_SEC, w->stime_ns % NS_PER_SEC / 1000,
    w->maxrss_pages * 4, [8] = w->minflt, [9] = w->majflt, [16] = w->nvcsw, [17] = w->nivcsw };
  return copy_to_user(to, ru, sizeof ru);
}

// `which` as waitid's idtype. The pid, 0 (WNOHANG and nothing yet), or -errno. wait4 passes WEXITED itself.
long process_wait(int which, int id, uptr status, int options, uptr rusage, uptr siginfo) {
  struct process *me = process_current();
  struct wait_query q = { which, id, (u32)options };
  struct wait_result w = { 0 };
  int r = 0;
  if (options & WNOHANG) {
    r = scan_children(&q, me, &w);
  } else {
    int e = wait_event_interruptible(&me->child_wait, (r = scan_children(&q, me, &w)) != 0);
    if (e) return e;
  }
  if (r <= 0) return r;
  process_put(w.reaped);
  if (status && copy_to_user(status, &w.status, sizeof w.status)) return -EFAULT;
  if (rusage && put_rusage(rusage, &w)) return -EFAULT;
  if (siginfo) {
    u8 info[128];
    siginfo_encode(&w.si, info);
    if (copy_to_user(siginfo, info, sizeof info)) return -EFAULT;
  }
  return w.pid;
}

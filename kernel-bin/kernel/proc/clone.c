// SPDX-License-Identifier: Apache-2.0
//
// fork, vfork, clone: a new thread, in this process or as the first of a new one.
#include "proc/internal.h"
#include "attest/attest.h"

static int check_flags(u64 f, int exit_signal) {
  if ((f & CLONE_THREAD) && !(f & CLONE_SIGHAND)) return -EINVAL;
  if ((f & CLONE_SIGHAND) && (!(f & CLONE_VM) || (f & CLONE_CLEAR_SIGHAND))) return -EINVAL;
  if (f & (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)) return -EPERM;
  if (f & (CLONE_PIDFD | CLONE_INTO_CGROUP)) return -EINVAL;
  if (exit_signal < 0 || exit_signal > NSIG) return -EINVAL;
  // The end of process 1 is the machine's, so nobody may be its sibling.
  if ((f & CLONE_PARENT) && !(f & CLONE_THREAD) && process_current() == init_process) return -EINVAL;
  return 0;
}

// The process's part of a fork: everything that is not per thread. `p` is not yet visible.
static void inherit(struct process *p, struct process *from, u64 flags, int exit_signal) {
  p->exit_signal = exit_signal;
  p->cred = from->cred;
  p->dumpable = from->dumpable;
  p->no_new_privs = from->no_new_privs;
  p->caps_bounding = from->caps_bounding;
  p->personality = from->personality;
  p->oom_score_adj = from->oom_score_adj;
  if (flags & CLONE_FILES) p->shares_files = from->shares_files = true;
  p->membarrier_registered = from->membarrier_registered && (flags & CLONE_VM);
  strlcpy(p->comm, from->comm, sizeof p->comm);
  u64 irq = spin_lock_irqsave(&from->sighand->lock);
  memcpy(p->rlimits, from->rlimits, sizeof p->rlimits);
  memcpy(p->sighand->action, from->sighand->action, sizeof p->sighand->action);
  spin_unlock_irqrestore(&from->sighand->lock, irq);
  if (flags & CLONE_CLEAR_SIGHAND)
    for (int i = 0; i < NSIG; i++)
      if (p->sighand->action[i].handler != SIG_IGN) p->sighand->action[i] = (struct sigaction_k){ 0 };
}

static int share_memory(struct lwp *child, struct lwp *me, u64 flags) {
  int r = 0;
  if (flags & CLONE_VM) child->as = aspace_get(me->as);
  else r = aspace_fork(me->as, &child->as);
  if (r) return r;
  child->fds = flags & CLONE_FILES ? fdtable_get(me->fds) : fdtable_copy(me->fds);
  child->fs = flags & CLONE_FS ? fscontext_get(me->fs) : fscontext_copy(me->fs);
  return child->fds && child->fs ? 0 : -ENOMEM;
}

static void unshare_memory(struct lwp *l) {
  if (l->fds) fdtable_put(l->fds);
  if (l->fs) fscontext_put(l->fs);
  if (l->as) aspace_put(l->as);
}

static void inherit_thread(struct lwp *child, struct lwp *me, const struct clone_request *rq) {
  struct thread *t = child->thread, *mine = me->thread;
  t->affinity[0] = mine->affinity[0];
  t->nice = mine->nice;
  t->realtime = mine->realtime;
  child->sched_policy = me->sched_policy;
  child->sched_priority = me->sched_priority;
  if (me->sched_reset_on_fork) {
    t->realtime = false;
    child->sched_policy = child->sched_priority = 0;
    if (t->nice < 0) t->nice = 0;
  }
  child->blocked = me->blocked;
  child->timer_slack_ns = me->timer_slack_ns;
  if (!(rq->flags & CLONE_VM) || (rq->flags & CLONE_VFORK)) {
    child->altstack_sp = me->altstack_sp;
    child->altstack_size = me->altstack_size;
    child->altstack_flags = me->altstack_flags;
  }
  if (!(rq->flags & CLONE_VM)) child->rseq = me->rseq, child->rseq_len = me->rseq_len, child->rseq_sig = me->rseq_sig;
  if (rq->flags & CLONE_CHILD_SETTID) child->set_child_tid = rq->child_tid;
  if (rq->flags & CLONE_CHILD_CLEARTID) child->clear_child_tid = rq->child_tid;
}

// Numbers the new thread (and process) and makes it visible.
static long publish(struct process *me, struct process *p, struct lwp *l, u64 flags) {
  u64 irq = spin_lock_irqsave(&process_lock);
  long tid;
  if (!p && (me->exiting || me->exec_lwp)) tid = -EAGAIN; // we are about to end ourselves
  else if (me->cred.uid && lwp_count >= me->rlimits[RLIMIT_NPROC].cur) tid = -EAGAIN;
  else tid = pid_alloc_locked();
  if (tid > 0) {
    l->tid = (int)tid;
    if (p) {
      p->pid = (int)tid;
      p->parent = flags & CLONE_PARENT ? me->parent : me;
      p->pgid = me->pgid;
      p->sid = me->sid;
    }
    int r = pid_publish_locked(p, l);
    if (r) tid = r;
  }
  spin_unlock_irqrestore(&process_lock, irq);
  return tid;
}

long process_clone(const struct clone_request *rq, struct regs *r) {
  u64 flags = rq->flags;
  struct lwp *me = lwp_current(), *l = NULL;
  struct process *p = NULL;
  struct completion *vfork = NULL;
  long err = check_flags(flags, rq->exit_signal);
  if (err) return err;
  if (!(flags & CLONE_THREAD) && !policy.subprocesses) return -EPERM;

  err = -ENOMEM;
  if (!(flags & CLONE_THREAD)) {
    p = process_create(NULL, 0);
    if (!p) goto out;
    inherit(p, me->process, flags, flags & CLONE_PARENT ? me->process->exit_signal : rq->exit_signal);
  }
  l = lwp_create(p ? p : me->process, 0);
  if (!l) goto out;
  if (flags & CLONE_VFORK) {
    vfork = kzalloc(sizeof *vfork);
    if (!vfork) goto out;
    ref_init(&vfork->refs);
    ref_get(&vfork->refs);
    waitq_init(&vfork->wait);
    l->vfork_done = vfork;
  }
  l->thread = thread_create(me->thread->name, user_thread_start, l);
  if (!l->thread) goto out;
  err = share_memory(l, me, flags);
  if (err) goto out;
  err = thread_make_user(l->thread, l->as, true);
  if (err) goto out;
  l->thread->lwp = l;
  inherit_thread(l, me, rq);
  struct regs *cr = l->thread->user_regs;
  *cr = *r;
  cr->rax = 0;
  if (rq->stack) cr->rsp = rq->stack + rq->stack_size;
  if (flags & CLONE_SETTLS) {
    if (rq->tls >= USER_END) {
      err = -EPERM;
      goto out;
    }
    l->thread->fs_base = rq->tls;
  }

  long tid = publish(me->process, p, l, flags);
  if (tid < 0) {
    err = tid;
    goto out;
  }
  u32 tid32 = (u32)tid;
  if (flags & CLONE_PARENT_SETTID) (void)!copy_to_user(rq->parent_tid, &tid32, sizeof tid32); // Linux does not report it either
  thread_start(l->thread); // from here on l and p may be gone
  if (vfork) {
    (void)!wait_event_killable(&vfork->wait, READ_ONCE(vfork->done));
    completion_put(vfork);
  }
  return tid;

out:
  if (l) {
    unshare_memory(l);
    if (l->thread) thread_put(l->thread);
    lwp_free(l);
  }
  kfree(vfork);
  process_put(p);
  return err;
}

// The first code of a new user thread. fork's child sees its own number before any other instruction of its runs.
void user_thread_start(void *arg) {
  struct lwp *l = arg;
  if (l->set_child_tid) {
    u32 tid = (u32)l->tid;
    (void)!copy_to_user(l->set_child_tid, &tid, sizeof tid);
  }
  arch_enter_user(l->thread->user_regs);
}

// unshare(CLONE_FILES | CLONE_FS): copies of one's own.
long process_unshare(u64 flags) {
  struct lwp *l = lwp_current();
  if (!fdtable_shared(l->fds)) flags &= ~(u64)CLONE_FILES; // POSIX locks are the table's: they would go with it
  struct fdtable *fds = flags & CLONE_FILES ? fdtable_copy(l->fds) : NULL;
  struct fscontext *fs = flags & CLONE_FS ? fscontext_copy(l->fs) : NULL;
  if (((flags & CLONE_FILES) && !fds) || ((flags & CLONE_FS) && !fs)) {
    if (fds) fdtable_put(fds);
    if (fs) fscontext_put(fs);
    return -ENOMEM;
  }
  u64 irq = spin_lock_irqsave(&process_lock);
  struct fdtable *old_fds = l->fds;
  struct fscontext *old_fs = l->fs;
  if (fds) l->fds = fds;
  if (fs) l->fs = fs;
  spin_unlock_irqrestore(&process_lock, irq);
  if (fds) fdtable_put(old_fds);
  if (fs) fscontext_put(old_fs);
  return 0;
}

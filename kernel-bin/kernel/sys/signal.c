// SPDX-License-Identifier: Apache-2.0
//
// Signals: actions, masks, sending, waiting, the alternate stack, the way back from a handler.
#include "proc/internal.h"
#include "sys/file.h"

static long valid(u64 signo) { return signo >= 1 && signo <= NSIG; }

long sys_rt_sigaction(u64 signo, u64 act, u64 old, u64 size) {
  struct sigaction_k in, out;
  struct process *p = process_current();
  if (size != sizeof(sigset) || !valid(signo)) return -EINVAL;
  if (act && copy_from_user(&in, act, sizeof in)) return -EFAULT;
  if (act && (SIGSET_UNBLOCKABLE & SIGBIT(signo))) return -EINVAL;
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  struct sigaction_k *a = &p->sighand->action[signo - 1];
  out = *a;
  if (act) {
    in.mask &= ~SIGSET_UNBLOCKABLE;
    *a = in;
    // POSIX: what is pending and now ignored is dropped.
    if (in.handler == SIG_IGN || (in.handler == SIG_DFL && (SIGSET_IGNORED & SIGBIT(signo)))) {
      struct lwp *l;
      sigqueue_flush(p, &p->pending, SIGBIT(signo));
      list_for_each(l, &p->threads, in_process) sigqueue_flush(p, &l->pending, SIGBIT(signo));
    }
  }
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  return old && copy_to_user(old, &out, sizeof out) ? -EFAULT : 0;
}

long sys_rt_sigprocmask(u64 how, u64 set, u64 old, u64 size) {
  sigset in, was = lwp_current()->blocked;
  if (size != sizeof in) return -EINVAL;
  if (set) {
    if (copy_from_user(&in, set, sizeof in)) return -EFAULT;
    if (how > 2) return -EINVAL;
    signal_set_blocked(how == 0 ? was | in : how == 1 ? was & ~in : in);
  }
  return old && copy_to_user(old, &was, sizeof was) ? -EFAULT : 0;
}

long sys_rt_sigpending(u64 set, u64 size) {
  sigset s = signal_pending_set() & lwp_current()->blocked;
  if (size > sizeof s) return -EINVAL;
  return copy_to_user(set, &s, size) ? -EFAULT : 0;
}

long sys_rt_sigreturn(void) { return sigframe_pop(thread_current()->user_regs); }

// --- sending
static struct ksiginfo from_me(u64 signo, int code) {
  return (struct ksiginfo){ .signo = (int)signo, .code = code, .pid = process_current()->pid, .uid = process_current()->cred.uid };
}

long sys_kill(u64 pid, u64 signo) {
  if (signo > NSIG) return -EINVAL;
  struct ksiginfo si = from_me(signo, SI_USER);
  return signal_kill((int)pid, &si);
}

static long send_thread(int tgid, int tid, const struct ksiginfo *si) { // tgid 0: any
  const struct cred *c = &process_current()->cred;
  if (tid <= 0) return -EINVAL;
  long r = -ESRCH;
  u64 flags = spin_lock_irqsave(&process_lock);
  struct lwp *l = lwp_find_locked(tid);
  if (l && (!tgid || l->process->pid == tgid)) {
    const struct cred *t = &l->process->cred;
    bool may = c->euid == 0 || l->process == process_current() || c->euid == t->uid || c->euid == t->suid || c->uid == t->uid || c->uid == t->suid;
    r = may ? signal_send_thread(l, si) : -EPERM;
  }
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

long sys_tgkill(u64 tgid, u64 tid, u64 signo) {
  if (signo > NSIG || (int)tgid <= 0) return -EINVAL;
  struct ksiginfo si = from_me(signo, SI_TKILL);
  return send_thread((int)tgid, (int)tid, &si);
}

long sys_tkill(u64 tid, u64 signo) {
  if (signo > NSIG) return -EINVAL;
  struct ksiginfo si = from_me(signo, SI_TKILL);
  return send_thread(0, (int)tid, &si);
}

// A program may queue what it likes, but not pretend to be kill or the kernel towards others.
static int read_siginfo(u64 signo, u64 info, int target, struct ksiginfo *si) {
  u8 raw[128];
  s32 w[6];
  u64 value;
  if (signo > NSIG) return -EINVAL;
  if (copy_from_user(raw, info, sizeof raw)) return -EFAULT;
  memcpy(w, raw, sizeof w);
  memcpy(&value, raw + 24, sizeof value);
  *si = (struct ksiginfo){ .signo = (int)signo, .err = w[1], .code = w[2], .pid = w[4], .uid = (u32)w[5], .value = value };
  if ((si->code >= 0 || si->code == SI_TKILL) && target != process_current()->pid) return -EPERM;
  if (si->code == SI_TIMER) si->timerid = w[4], si->overrun = w[5];
  return 0;
}

long sys_rt_sigqueueinfo(u64 pid, u64 signo, u64 info) {
  struct ksiginfo si;
  int r = read_siginfo(signo, info, (int)pid, &si);
  if (r) return r;
  return (int)pid > 0 ? signal_kill((int)pid, &si) : -EINVAL;
}

long sys_rt_tgsigqueueinfo(u64 tgid, u64 tid, u64 signo, u64 info) {
  struct ksiginfo si;
  int r = read_siginfo(signo, info, (int)tgid, &si);
  if (r) return r;
  return (int)tgid > 0 ? send_thread((int)tgid, (int)tid, &si) : -EINVAL;
}

// --- waiting
long sys_pause(void) {
  (void)!thread_sleep_until(WAIT_FOREVER, WAIT_INTERRUPTIBLE);
  return -ERESTARTNOHAND;
}

long sys_rt_sigsuspend(u64 mask, u64 size) {
  sigset m;
  if (size != sizeof m) return -EINVAL;
  if (copy_from_user(&m, mask, sizeof m)) return -EFAULT;
  signal_mask_temporary(m);
  (void)!thread_sleep_until(WAIT_FOREVER, WAIT_INTERRUPTIBLE);
  return -ERESTARTNOHAND; // signal_deliver restores the mask
}

long sys_rt_sigtimedwait(u64 set, u64 info, u64 timeout, u64 size) {
  struct lwp *l = lwp_current();
  struct sighand *h = l->process->sighand;
  struct user_timespec ts;
  struct ksiginfo si;
  sigset want;
  u64 ns, deadline = WAIT_FOREVER;
  if (size != sizeof want) return -EINVAL;
  if (copy_from_user(&want, set, sizeof want)) return -EFAULT;
  if (timeout) {
    if (copy_from_user(&ts, timeout, sizeof ts)) return -EFAULT;
    int r = timespec_ns(&ts, &ns);
    if (r) return r;
    deadline = ns >= WAIT_FOREVER - time_ns() ? WAIT_FOREVER : time_ns() + ns;
  }
  want &= ~SIGSET_UNBLOCKABLE;
  long r = -EAGAIN;
  bool got = signal_dequeue(want, &si);
  if (!got && !(timeout && ns == 0)) {
    u64 flags = spin_lock_irqsave(&h->lock);
    l->sigwait = want; // from now on a blocked signal of the set wakes us
    signal_recalc_locked(l);
    spin_unlock_irqrestore(&h->lock, flags);
    int e = thread_sleep_until(deadline, WAIT_INTERRUPTIBLE);
    got = signal_dequeue(want, &si);
    flags = spin_lock_irqsave(&h->lock);
    l->sigwait = 0;
    signal_recalc_locked(l);
    spin_unlock_irqrestore(&h->lock, flags);
    if (!got && e) r = -EINTR;
  }
  if (!got) return r;
  if (info) {
    u8 raw[128];
    siginfo_encode(&si, raw);
    if (copy_to_user(info, raw, sizeof raw)) return -EFAULT;
  }
  return si.signo;
}

long sys_sigaltstack(u64 set, u64 old) {
  struct { u64 sp; u32 flags, pad; u64 size; } in, out = { 0 };
  struct lwp *l = lwp_current();
  uptr sp = thread_current()->user_regs->rsp;
  u32 state = altstack_state(l, sp);
  out.sp = l->altstack_sp;
  out.flags = state | (l->altstack_flags & 0x80000000u);
  out.size = l->altstack_size;
  if (set) {
    if (copy_from_user(&in, set, sizeof in)) return -EFAULT;
    if (state & 1 /* SS_ONSTACK */) return -EPERM;
    int r = altstack_set(l, in.sp, in.size, in.flags);
    if (r) return r;
  }
  return old && copy_to_user(old, &out, sizeof out) ? -EFAULT : 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// Signals: queues, masks, who gets one, and what happens on the way to ring 3.
//
// sighand->lock of the process guards pending sets, masks and stop state. A thread must look when its interrupt_pending
// is set; it is set under the lock by whoever makes a signal deliverable, before thread_interrupt, and recomputed under
// the lock whenever something is taken or masks change. So a thread that finds it clear with interrupts off on its way
// to ring 3 has nothing to do, and one that sleeps interruptibly is woken.
#include "proc/internal.h"
#include <linux/signalfd.h>

void sigqueue_init(struct sigqueue *q) {
  list_init(&q->entries);
  q->set = 0;
}

static void entry_release(struct process *p, struct sigentry *e) {
  list_remove(&e->link);
  e->queued = false;
  if (e->embedded) return;
  p->sigqueue_count--;
  kfree(e);
}

void sigqueue_flush(struct process *p, struct sigqueue *q, sigset which) {
  struct sigentry *e, *next;
  q->set &= ~which;
  list_for_each_safe(e, next, &q->entries, link)
    if (which & SIGBIT(e->si.signo)) entry_release(p, e);
}

void sigqueue_recount(struct sigqueue *q, int signo) {
  struct sigentry *e;
  q->set &= ~SIGBIT(signo);
  list_for_each(e, &q->entries, link)
    if (e->si.signo == signo) q->set |= SIGBIT(signo);
}

static void flush_everywhere(struct process *p, sigset which) {
  struct lwp *l;
  if (p->pending.set & which) sigqueue_flush(p, &p->pending, which);
  list_for_each(l, &p->threads, in_process)
    if (l->pending.set & which) sigqueue_flush(p, &l->pending, which);
}

static bool wants(const struct lwp *l, int signo) {
  return !l->exiting && (!(l->blocked & SIGBIT(signo)) || (l->sigwait & SIGBIT(signo)));
}

static void kick(struct lwp *l) {
  WRITE_ONCE(l->thread->interrupt_pending, true);
  thread_interrupt(l->thread);
}

static bool must_end(const struct lwp *l) {
  const struct process *p = l->process;
  return p->exiting || (p->exec_lwp && p->exec_lwp != l) || ((l->pending.set | p->pending.set) & SIGBIT(SIGKILL));
}

void signal_recalc_locked(struct lwp *l) {
  struct process *p = l->process;
  if (l->exiting) return;
  bool end = must_end(l);
  sigset ready = (l->pending.set | p->pending.set) & (~l->blocked | l->sigwait);
  bool look = end || ready || p->stopped || p->notify_continued;
  WRITE_ONCE(l->thread->kill_pending, end);
  if (look && !l->thread->interrupt_pending) kick(l);
  else if (look && end) thread_interrupt(l->thread);
  else WRITE_ONCE(l->thread->interrupt_pending, look);
}

// Everybody must look: the process ends, stops, or is taken over by exec.
void signal_kick_all_locked(struct process *p) {
  struct lwp *l;
  list_for_each(l, &p->threads, in_process) {
    if (l->exiting) continue;
    WRITE_ONCE(l->thread->kill_pending, must_end(l));
    kick(l);
  }
  waitq_wake_all(&p->stop_wait);
}

static bool ignored(const struct process *p, int signo) {
  uptr h = p->sighand->action[signo - 1].handler;
  return h == SIG_IGN || (h == SIG_DFL && (SIGSET_IGNORED & SIGBIT(signo)));
}

// Stop and continue cancel each other whatever becomes of the signal itself.
static void stop_continue_effects(struct process *p, int signo) {
  if (SIGSET_STOP & SIGBIT(signo)) flush_everywhere(p, SIGBIT(SIGCONT));
  if (signo != SIGCONT && signo != SIGKILL) return;
  if (signo == SIGCONT) flush_everywhere(p, SIGSET_STOP);
  if (!p->stopped) return;
  p->stopped = p->notify_stopped = false;
  if (signo == SIGCONT) p->continued = p->notify_continued = true;
  waitq_wake_all(&p->stop_wait);
}

int signal_send_locked(struct process *p, struct lwp *l, const struct ksiginfo *si, struct sigentry *entry) {
  int signo = si->signo;
  sigset bit = SIGBIT(signo);
  if (p->zombie || list_empty(&p->threads)) return 0;
  stop_continue_effects(p, signo);
  struct lwp *first = l ? l : list_first_entry(&p->threads, struct lwp, in_process);
  if (ignored(p, signo) && !(first->blocked & bit) && !(first->sigwait & bit)) return 0;

  struct sigqueue *q = l ? &l->pending : &p->pending;
  if (signo < SIGRTMIN && (q->set & bit)) goto notify; // one of each is enough
  if (!entry) {
    bool room = p->sigqueue_count < p->rlimits[RLIMIT_SIGPENDING].cur;
    // Of the others one is enough; kill's real-time ones would queue without end.
    if (room || (signo < SIGRTMIN && si->code >= 0)) entry = kmalloc(sizeof *entry, ALLOC_NORECLAIM);
    if (entry) {
      *entry = (struct sigentry){ 0 };
      p->sigqueue_count++;
    } else if (signo >= SIGRTMIN && si->code < 0) {
      return -EAGAIN; // a queued signal must not lose its value silently
    }
  }
  if (entry) {
    entry->si = *si;
    entry->queued = true;
    list_push_back(&q->entries, &entry->link);
  }
  q->set |= bit;
notify:
  signalfd_notify();
  if (signo == SIGKILL) {
    signal_kick_all_locked(p);
  } else if (l) {
    if (wants(l, signo)) kick(l);
  } else {
    struct lwp *to = NULL, *it;
    list_for_each(it, &p->threads, in_process) {
      if (!wants(it, signo)) continue;
      if (!to || (to->thread->interrupt_pending && !it->thread->interrupt_pending)) to = it;
      if (!to->thread->interrupt_pending) break; // the first that is not busy with another signal
    }
    if (to) kick(to);
  }
  return 0;
}

int signal_send_process(struct process *p, const struct ksiginfo *si) {
  if (!si->signo) return 0;
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  int r = signal_send_locked(p, NULL, si, NULL);
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  return r;
}

// l is the caller itself, or found under process_lock which is still held.
int signal_send_thread(struct lwp *l, const struct ksiginfo *si) {
  if (!si->signo) return 0;
  struct process *p = l->process;
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  int r = signal_send_locked(p, l, si, NULL);
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  return r;
}

static bool may_signal(const struct process *p, const struct ksiginfo *si) {
  struct lwp *me = lwp_current();
  if (!me || si->code > 0) return true; // the kernel
  const struct cred *c = &me->process->cred, *t = &p->cred;
  if (c->euid == 0 || c->euid == t->suid || c->euid == t->uid || c->uid == t->suid || c->uid == t->uid) return true;
  return si->signo == SIGCONT && p->sid == me->process->sid;
}

// pgid 0: everybody but process 1 and the caller.
static int send_many(int pgid, const struct ksiginfo *si) {
  int found = 0, sent = 0, r = 0;
  struct process *p, *me = lwp_current() ? process_current() : NULL;
  u64 flags = spin_lock_irqsave(&process_lock);
  list_for_each(p, &process_list, all) {
    if (pgid ? p->pgid != pgid : p == init_process || p == me) continue;
    if (p->zombie && !pgid) continue;
    found++;
    if (!may_signal(p, si)) continue;
    int e = signal_send_process(p, si);
    if (e) r = e;
    else sent++;
  }
  spin_unlock_irqrestore(&process_lock, flags);
  return sent ? 0 : r ? r : found ? -EPERM : -ESRCH;
}

int signal_send_group(int pgid, const struct ksiginfo *si) { return send_many(pgid, si); }

int signal_kill(int pid, const struct ksiginfo *si) {
  if (pid == 0) return send_many(process_current()->pgid, si);
  if (pid == -1) return send_many(0, si);
  if (pid < 0) return pid == INT32_MIN ? -ESRCH : send_many(-pid, si);
  u64 flags = spin_lock_irqsave(&process_lock);
  struct process *p = process_find_locked(pid);
  if (!p) { // any thread's number names its process
    struct lwp *l = lwp_find_locked(pid);
    if (l) p = l->process;
  }
  int r = !p ? -ESRCH : !may_signal(p, si) ? -EPERM : signal_send_process(p, si);
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

void signal_console(int signo) {
  int pgid = console_foreground_group ? console_foreground_group() : 0;
  struct process *init = init_process;
  if (!init || signo < 1 || signo > NSIG) return;
  struct ksiginfo si = { .signo = signo, .code = SI_KERNEL };
  if (signal_send_group(pgid ? pgid : init->pgid, &si) == -ESRCH) signal_send_process(init, &si);
}

// --- of the current thread
void signal_force(int signo, int code, uptr addr) {
  struct lwp *l = lwp_current();
  struct process *p = l->process;
  struct ksiginfo si = { .signo = signo, .code = code, .addr = addr, .trapno = l->trapno };
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  struct sigaction_k *a = &p->sighand->action[signo - 1];
  if ((l->blocked & SIGBIT(signo)) || a->handler == SIG_IGN) {
    a->handler = SIG_DFL; // POSIX leaves it undefined; it must not loop
    l->blocked &= ~SIGBIT(signo);
  }
  signal_send_locked(p, l, &si, NULL);
  signal_recalc_locked(l);
  spin_unlock_irqrestore(&p->sighand->lock, flags);
}

bool signal_pending(void) { return READ_ONCE(thread_current()->interrupt_pending); }
bool signal_fatal_pending(void) { return READ_ONCE(thread_current()->kill_pending); }

static void set_blocked_locked(struct lwp *l, sigset mask) {
  struct process *p = l->process;
  mask &= ~SIGSET_UNBLOCKABLE;
  sigset moved = p->pending.set & mask & ~l->blocked;
  l->blocked = mask;
  signal_recalc_locked(l);
  if (!moved) return;
  struct lwp *o; // this thread may have been the one that was told
  list_for_each(o, &p->threads, in_process)
    if (o != l) signal_recalc_locked(o);
}

void signal_set_blocked(sigset mask) {
  struct lwp *l = lwp_current();
  u64 flags = spin_lock_irqsave(&l->process->sighand->lock);
  set_blocked_locked(l, mask);
  spin_unlock_irqrestore(&l->process->sighand->lock, flags);
}

void signal_mask_temporary(sigset m) {
  struct lwp *l = lwp_current();
  l->saved_mask = l->blocked;
  l->restore_mask = true;
  signal_set_blocked(m);
}

void signal_mask_restore(void) {
  struct lwp *l = lwp_current();
  l->restore_mask = false;
  signal_set_blocked(l->saved_mask);
}

sigset signal_pending_set(void) {
  struct lwp *l = lwp_current();
  return READ_ONCE(l->pending.set) | READ_ONCE(l->process->pending.set);
}

// Takes the next signal of `allowed`: faults first, then by number; per number in order.
static int take_locked(struct lwp *l, sigset allowed, struct ksiginfo *out) {
  struct process *p = l->process;
  for (int pass = 0; pass < 2; pass++) {
    struct sigqueue *q = pass ? &p->pending : &l->pending;
    sigset s = q->set & allowed;
    if (!s) continue;
    if (s & SIGSET_FAULT) s &= SIGSET_FAULT;
    if (q->set & allowed & SIGBIT(SIGKILL)) s = SIGBIT(SIGKILL);
    int signo = __builtin_ctzll(s) + 1;
    struct sigentry *e, *found = NULL;
    bool more = false;
    list_for_each(e, &q->entries, link) {
      if (e->si.signo != signo) continue;
      if (found) {
        more = true;
        break;
      }
      found = e;
    }
    if (!more) q->set &= ~SIGBIT(signo);
    *out = found ? found->si : (struct ksiginfo){ .signo = signo, .code = SI_USER };
    if (found) {
      bool timer = found->embedded;
      entry_release(p, found);
      if (timer) ptimer_requeue_locked(p, found, out);
    }
    return signo;
  }
  return 0;
}

bool signal_dequeue(sigset mask, struct ksiginfo *out) {
  struct lwp *l = lwp_current();
  u64 flags = spin_lock_irqsave(&l->process->sighand->lock);
  bool got = take_locked(l, mask & ~SIGSET_UNBLOCKABLE, out) != 0;
  if (got) signal_recalc_locked(l);
  spin_unlock_irqrestore(&l->process->sighand->lock, flags);
  return got;
}

bool signalfd_pending(sigset mask) { return (signal_pending_set() & mask & ~SIGSET_UNBLOCKABLE) != 0; }

bool signalfd_take(sigset mask, struct signalfd_siginfo *out) {
  struct ksiginfo si;
  if (!signal_dequeue(mask, &si)) return false;
  *out = (struct signalfd_siginfo){ .ssi_signo = (u32)si.signo, .ssi_errno = si.err, .ssi_code = si.code, .ssi_pid = (u32)si.pid,
    .ssi_uid = si.uid, .ssi_fd = si.fd, .ssi_tid = (u32)si.timerid, .ssi_band = (u32)si.band, .ssi_overrun = (u32)si.overrun,
    .ssi_trapno = si.trapno, .ssi_status = si.status, .ssi_int = (s32)si.value, .ssi_ptr = si.value, .ssi_addr = si.addr };
  return true;
}

// --- the way to ring 3
// Sleeps while the process is stopped. Lock held at entry and exit.
static u64 wait_stopped(struct process *p, u64 flags) {
  bool told = p->notify_stopped;
  p->notify_stopped = false;
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  if (told) process_notify_stop(p, true);
  (void)!wait_event_killable(&p->stop_wait, !READ_ONCE(p->stopped));
  return spin_lock_irqsave(&p->sighand->lock);
}

static void begin_stop(struct process *p, int signo) {
  p->stopped = p->notify_stopped = true;
  p->continued = p->stop_reported = false;
  p->stop_signal = signo;
  signal_kick_all_locked(p);
}

static void restart_syscall(struct regs *r, int code, const struct sigaction_k *handler) {
  bool again = code == ERESTARTNOINTR || !handler || (code == ERESTARTSYS && (handler->flags & SA_RESTART));
  if (!again) {
    r->rax = (u64)-EINTR;
    return;
  }
  r->rax = !handler && code == ERESTART_RESTARTBLOCK ? 219 /* restart_syscall */ : r->orig_rax;
  r->rip -= 2; // the syscall instruction
}

static void log_death(const struct lwp *l, const struct regs *r, const struct ksiginfo *si) {
  if (si->code <= 0 || !(SIGSET_FAULT & SIGBIT(si->signo))) return; // sent by a program: its own affair
  printk(LOG_WARN, "%s (%d): killed by signal %d, code %d, address %#lx, rip %#lx, rsp %#lx, error %#x", l->process->comm, l->tid,
    si->signo, si->code, (unsigned long)si->addr, (unsigned long)r->rip, (unsigned long)r->rsp, l->trap_error);
}

void signal_deliver(struct regs *r) {
  struct lwp *l = lwp_current();
  struct process *p = l->process;
  struct ksiginfo si;
  struct sigaction_k a;
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  for (;;) {
    if (p->exiting || (p->exec_lwp && p->exec_lwp != l)) {
      int status = p->exiting ? p->exit_status : 0;
      spin_unlock_irqrestore(&p->sighand->lock, flags);
      lwp_exit(status);
    }
    if (p->notify_continued) {
      p->notify_continued = false;
      spin_unlock_irqrestore(&p->sighand->lock, flags);
      process_notify_stop(p, false);
      flags = spin_lock_irqsave(&p->sighand->lock);
      continue;
    }
    bool killed = (l->pending.set | p->pending.set) & SIGBIT(SIGKILL);
    if (p->stopped && !killed) {
      flags = wait_stopped(p, flags);
      signal_recalc_locked(l);
      continue;
    }
    int signo = take_locked(l, ~l->blocked, &si);
    if (!signo) break;
    struct sigaction_k *act = &p->sighand->action[signo - 1];
    a = *act;
    if (a.handler == SIG_IGN && signo != SIGKILL && signo != SIGSTOP) continue;
    if (a.handler == SIG_DFL || signo == SIGKILL || signo == SIGSTOP) {
      if (SIGSET_IGNORED & SIGBIT(signo)) continue;
      if (SIGSET_STOP & SIGBIT(signo)) {
        if (signo != SIGSTOP) { // POSIX: an orphaned group is not stopped from the terminal
          spin_unlock_irqrestore(&p->sighand->lock, flags);
          bool orphaned = process_group_orphaned(p->pgid);
          flags = spin_lock_irqsave(&p->sighand->lock);
          if (orphaned || (p->pending.set & SIGBIT(SIGCONT))) continue;
        }
        begin_stop(p, signo);
        continue;
      }
      spin_unlock_irqrestore(&p->sighand->lock, flags);
      log_death(l, r, &si);
      process_exit(signo, true);
    }
    // A handler.
    sigset frame_mask = l->restore_mask ? l->saved_mask : l->blocked;
    l->restore_mask = false;
    sigset during = l->blocked | a.mask;
    if (!(a.flags & SA_NODEFER)) during |= SIGBIT(signo);
    if (a.flags & SA_RESETHAND) act->handler = SIG_DFL;
    set_blocked_locked(l, during);
    spin_unlock_irqrestore(&p->sighand->lock, flags);
    if (l->restart_code) restart_syscall(r, l->restart_code, &a);
    l->restart_code = 0;
    if (sigframe_push(l, r, &si, &a, frame_mask)) {
      printk(LOG_WARN, "%s (%d): no stack for the handler of signal %d at %#lx", p->comm, l->tid, signo, (unsigned long)r->rsp);
      flags = spin_lock_irqsave(&p->sighand->lock);
      if (signo == SIGSEGV) p->sighand->action[SIGSEGV - 1].handler = SIG_DFL;
      spin_unlock_irqrestore(&p->sighand->lock, flags);
      signal_force(SIGSEGV, SI_KERNEL, 0);
    }
    flags = spin_lock_irqsave(&p->sighand->lock);
  }
  if (l->restore_mask) {
    l->restore_mask = false;
    set_blocked_locked(l, l->saved_mask);
  }
  signal_recalc_locked(l);
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  if (l->restart_code) restart_syscall(r, l->restart_code, NULL);
  l->restart_code = 0;
}

// Hook: interrupts off at entry and exit.
void signal_user_return(struct regs *r) {
  struct thread *t = thread_current();
  struct lwp *l = t->lwp;
  while (unlikely(READ_ONCE(t->interrupt_pending) || l->restart_code || l->restore_mask)) {
    irq_enable();
    signal_deliver(r);
    irq_disable();
  }
}

void siginfo_encode(const struct ksiginfo *si, u8 out[128]) {
  memset(out, 0, 128);
  s32 *w = (s32 *)(void *)out;
  u64 *d = (u64 *)(void *)(out + 16);
  w[0] = si->signo;
  w[1] = si->err;
  w[2] = si->code;
  bool kernel = si->code > 0 && si->code != SI_KERNEL;
  if (si->code == SI_TIMER) {
    w[4] = si->timerid;
    w[5] = si->overrun;
    d[1] = si->value;
  } else if (si->code == SI_SIGIO || (kernel && si->signo == SIGIO)) {
    d[0] = si->band;
    w[6] = si->fd;
  } else if (kernel && si->signo == SIGCHLD) {
    w[4] = si->pid;
    w[5] = (s32)si->uid;
    w[6] = si->status;
    d[2] = si->band;  // user time, ticks
    d[3] = si->value; // system time
  } else if (si->code > 0 && (SIGSET_FAULT & SIGBIT(si->signo))) {
    d[0] = si->addr;
  } else {
    w[4] = si->pid;
    w[5] = (s32)si->uid;
    d[1] = si->value;
  }
}

// SPDX-License-Identifier: Apache-2.0
//
// setitimer, alarm, timer_create: timers that end in a signal. All state is under the process's sighand->lock, which the
// interrupt takes too; a timer that fires looks there whether it is still wanted, so only freeing must cancel and wait.
//
// An interval timer of timer_create is re-armed when its signal is taken, not when it fires: a program that does not
// look cannot keep the CPU busy with interrupts, and the overruns are counted by arithmetic. Timers on CPU clocks are
// asked again at the earliest moment at which all threads together could have used the time that is left.
#include "proc/internal.h"
#include <linux/time.h>

#define REARM_MIN_NS (100 * NS_PER_US)
enum { SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID = 4 };

struct ptimer {
  struct list link;
  struct process *process;
  int id, clock, signo, notify, tid;
  bool armed;
  u64 expires_ns;  // time_ns() for wall clocks, CPU time for CPU clocks
  u64 interval_ns;
  s32 overrun;     // of the signal taken last
  u64 value;
  struct timer timer;
  struct sigentry entry;
};

// --- CPU time under the lock
static u64 cpu_used_locked(struct process *p, bool user_only) {
  u64 total = p->utime_ns + (user_only ? 0 : p->stime_ns), u, s;
  struct lwp *l;
  list_for_each(l, &p->threads, in_process) {
    lwp_times(l, &u, &s);
    total += u + (user_only ? 0 : s);
  }
  return total;
}

static u64 cpu_poll_deadline(struct process *p, u64 left_ns) {
  return time_ns() + MAX(left_ns / MAX(p->thread_count, 1u), REARM_MIN_NS);
}

// The next expiry after now, and how many were missed.
static u64 forward(u64 expires, u64 interval, u64 now, u64 *missed) {
  *missed = 0;
  if (expires > now) return expires;
  *missed = (now - expires) / interval;
  return expires + (*missed + 1) * interval;
}

// --- ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
static void real_fire(struct timer *t) {
  struct process *p = container_of(t, struct process, itimer_real);
  struct ksiginfo si = { .signo = SIGALRM, .code = SI_KERNEL };
  u64 flags = spin_lock_irqsave(&p->sighand->lock), now = time_ns(), missed;
  if (p->itimer_real_expires_ns && p->itimer_real_expires_ns <= now) {
    signal_send_locked(p, NULL, &si, NULL);
    if (p->itimer_real_interval_ns) {
      p->itimer_real_expires_ns = MAX(forward(p->itimer_real_expires_ns, p->itimer_real_interval_ns, now, &missed), now + REARM_MIN_NS);
      timer_start(t, p->itimer_real_expires_ns);
    } else {
      p->itimer_real_expires_ns = 0;
    }
  }
  spin_unlock_irqrestore(&p->sighand->lock, flags);
}

static void cpu_fire(struct process *p, unsigned which) {
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  u64 *value = &p->itimer_cpu[which].value_ns, used = cpu_used_locked(p, which == 0), missed;
  if (*value && *value <= used) {
    struct ksiginfo si = { .signo = which ? SIGPROF : SIGVTALRM, .code = SI_KERNEL };
    signal_send_locked(p, NULL, &si, NULL);
    *value = p->itimer_cpu[which].interval_ns ? forward(*value, p->itimer_cpu[which].interval_ns, used, &missed) : 0;
  }
  if (*value) timer_start(&p->itimer_cpu[which].timer, cpu_poll_deadline(p, *value - used));
  spin_unlock_irqrestore(&p->sighand->lock, flags);
}
static void virtual_fire(struct timer *t) { cpu_fire(container_of(t, struct process, itimer_cpu[0].timer), 0); }
static void prof_fire(struct timer *t) { cpu_fire(container_of(t, struct process, itimer_cpu[1].timer), 1); }

void itimers_init(struct process *p) {
  timer_init(&p->itimer_real, real_fire);
  timer_init(&p->itimer_cpu[0].timer, virtual_fire);
  timer_init(&p->itimer_cpu[1].timer, prof_fire);
}

void itimers_cancel(struct process *p) {
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  p->itimer_real_expires_ns = p->itimer_cpu[0].value_ns = p->itimer_cpu[1].value_ns = 0;
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  timer_cancel(&p->itimer_real);
  timer_cancel(&p->itimer_cpu[0].timer);
  timer_cancel(&p->itimer_cpu[1].timer);
}

static void itimer_get_locked(struct process *p, int which, struct itimer_k *out) {
  u64 at = which ? p->itimer_cpu[which - 1].value_ns : p->itimer_real_expires_ns;
  u64 now = which ? cpu_used_locked(p, which == 1) : time_ns();
  out->interval_ns = which ? p->itimer_cpu[which - 1].interval_ns : p->itimer_real_interval_ns;
  out->value_ns = !at ? 0 : at > now ? at - now : NS_PER_US; // armed and due: not zero, that would mean off
}

int itimer_get(int which, struct itimer_k *out) {
  struct process *p = process_current();
  if (which < 0 || which > 2) return -EINVAL;
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  itimer_get_locked(p, which, out);
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  return 0;
}

int itimer_set(int which, const struct itimer_k *in, struct itimer_k *old) {
  struct process *p = process_current();
  if (which < 0 || which > 2) return -EINVAL;
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  itimer_get_locked(p, which, old);
  if (which == 0) {
    p->itimer_real_interval_ns = in->interval_ns;
    p->itimer_real_expires_ns = in->value_ns ? time_ns() + in->value_ns : 0;
    if (in->value_ns) timer_start(&p->itimer_real, p->itimer_real_expires_ns);
  } else {
    p->itimer_cpu[which - 1].interval_ns = in->interval_ns;
    p->itimer_cpu[which - 1].value_ns = in->value_ns ? cpu_used_locked(p, which == 1) + in->value_ns : 0;
    if (in->value_ns) timer_start(&p->itimer_cpu[which - 1].timer, cpu_poll_deadline(p, in->value_ns));
  }
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  return 0;
}

// --- timer_create
static u64 ptimer_now(const struct ptimer *t) {
  if (!clock_is_cpu(t->clock)) return time_ns();
  struct lwp *l;
  if (t->clock == CLOCK_THREAD_CPUTIME_ID) {
    list_for_each(l, &t->process->threads, in_process)
      if (l->tid == t->tid) return thread_cputime_ns(l->thread);
    return 0;
  }
  return cpu_used_locked(t->process, false);
}

static void ptimer_arm_locked(struct ptimer *t) {
  t->armed = true;
  if (t->notify == SIGEV_NONE) return; // only asked for its time
  u64 now = ptimer_now(t);
  if (!clock_is_cpu(t->clock)) timer_start(&t->timer, t->expires_ns);
  else timer_start(&t->timer, cpu_poll_deadline(t->process, t->expires_ns > now ? t->expires_ns - now : 0));
}

static void ptimer_fire(struct timer *timer) {
  struct ptimer *t = container_of(timer, struct ptimer, timer);
  struct process *p = t->process;
  u64 flags = spin_lock_irqsave(&p->sighand->lock), now = ptimer_now(t), missed;
  if (!t->armed || t->entry.queued) goto out;
  if (t->expires_ns > now) {
    if (!t->timer.queued) ptimer_arm_locked(t); // a CPU clock that is not there yet
    goto out;
  }
  t->armed = false;
  struct lwp *to = NULL, *l;
  if (t->notify == SIGEV_THREAD_ID) {
    list_for_each(l, &p->threads, in_process)
      if (l->tid == t->tid) to = l;
    if (!to) goto out;
  }
  struct ksiginfo si = { .signo = t->signo, .code = SI_TIMER, .timerid = t->id, .value = t->value };
  signal_send_locked(p, to, &si, &t->entry);
  if (!t->entry.queued && t->interval_ns) { // ignored, or one is pending already: go on without it
    t->expires_ns = MAX(forward(t->expires_ns, t->interval_ns, now, &missed), now + REARM_MIN_NS);
    ptimer_arm_locked(t);
  }
out:
  spin_unlock_irqrestore(&p->sighand->lock, flags);
}

// Its signal was taken from the queue: count what was missed and go on.
void ptimer_requeue_locked(struct process *p, struct sigentry *e, struct ksiginfo *si) {
  struct ptimer *t = container_of(e, struct ptimer, entry);
  u64 missed = 0;
  if (t->interval_ns) {
    t->expires_ns = forward(t->expires_ns, t->interval_ns, ptimer_now(t), &missed);
    ptimer_arm_locked(t);
  }
  si->overrun = t->overrun = (s32)MIN(missed, (u64)INT32_MAX);
}

static struct ptimer *ptimer_find_locked(struct process *p, int id) {
  struct ptimer *t;
  list_for_each(t, &p->posix_timers, link)
    if (t->id == id) return t;
  return NULL;
}

long ptimer_create(int clock, const struct sigevent_k *ev) {
  struct process *p = process_current();
  u64 ns;
  int r = clock_read(clock, &ns);
  if (r) return r;
  if (ev->notify != SIGEV_SIGNAL && ev->notify != SIGEV_NONE && ev->notify != SIGEV_THREAD && ev->notify != SIGEV_THREAD_ID) return -EINVAL;
  if (ev->notify != SIGEV_NONE && (ev->signo < 1 || ev->signo > NSIG)) return -EINVAL;
  struct ptimer *t = kzalloc(sizeof *t);
  if (!t) return -EAGAIN;
  *t = (struct ptimer){ .process = p, .clock = clock, .signo = ev->signo, .notify = ev->notify, .tid = ev->tid, .value = ev->value };
  if (clock == CLOCK_THREAD_CPUTIME_ID && ev->notify != SIGEV_THREAD_ID) t->tid = lwp_current()->tid;
  t->entry.embedded = true;
  list_init(&t->entry.link);
  timer_init(&t->timer, ptimer_fire);
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  if (ev->notify == SIGEV_THREAD_ID) {
    struct lwp *l;
    r = -EINVAL;
    list_for_each(l, &p->threads, in_process)
      if (l->tid == ev->tid) r = 0;
  }
  u32 count = 0;
  struct ptimer *o;
  list_for_each(o, &p->posix_timers, link) count++;
  if (count >= p->rlimits[RLIMIT_SIGPENDING].cur || count >= 4096) r = -EAGAIN;
  if (!r) {
    do t->id = (int)(p->timer_next_id++ & INT32_MAX);
    while (ptimer_find_locked(p, t->id));
    list_push_back(&p->posix_timers, &t->link);
  }
  long id = t->id;
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  if (r) kfree(t);
  return r ? r : id;
}

static void ptimer_get_locked(struct ptimer *t, struct itimer_k *out) {
  u64 now = ptimer_now(t), missed, at = t->expires_ns;
  out->interval_ns = t->interval_ns;
  out->value_ns = 0;
  if (!t->armed && !(t->entry.queued && t->interval_ns)) return;
  if (t->interval_ns) at = forward(at, t->interval_ns, now, &missed);
  if (at > now) out->value_ns = at - now;
  else if (t->notify != SIGEV_NONE) out->value_ns = 1; // about to fire: not zero, that would mean off
}

int ptimer_settime(int id, bool absolute, const struct itimer_k *in, struct itimer_k *old) {
  struct process *p = process_current();
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  struct ptimer *t = ptimer_find_locked(p, id);
  if (t) {
    ptimer_get_locked(t, old);
    t->armed = false;
    t->overrun = 0;
    if (t->entry.queued) { // a signal of the old setting
      struct sigqueue *q = &p->pending;
      struct lwp *l;
      if (t->notify == SIGEV_THREAD_ID)
        list_for_each(l, &p->threads, in_process)
          if (l->tid == t->tid) q = &l->pending;
      list_remove(&t->entry.link);
      t->entry.queued = false;
      sigqueue_recount(q, t->signo);
    }
    t->interval_ns = in->interval_ns;
    if (in->value_ns) {
      if (!absolute) t->expires_ns = ptimer_now(t) + in->value_ns;
      else t->expires_ns = clock_is_cpu(t->clock) ? in->value_ns : clock_deadline(t->clock, in->value_ns);
      ptimer_arm_locked(t);
    }
  }
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  return t ? 0 : -EINVAL;
}

int ptimer_gettime(int id, struct itimer_k *out) {
  struct process *p = process_current();
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  struct ptimer *t = ptimer_find_locked(p, id);
  if (t) ptimer_get_locked(t, out);
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  return t ? 0 : -EINVAL;
}

long ptimer_overrun(int id) {
  struct process *p = process_current();
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  struct ptimer *t = ptimer_find_locked(p, id);
  long r = t ? t->overrun : -EINVAL;
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  return r;
}

// Unlinked by the caller under the lock, so that nobody finds it; the interrupt may still be on its way.
static void ptimer_free(struct ptimer *t) {
  timer_cancel(&t->timer);
  kfree(t);
}

static void ptimer_unlink_locked(struct process *p, struct ptimer *t) {
  list_remove(&t->link);
  t->armed = false;
  if (!t->entry.queued) return;
  list_remove(&t->entry.link);
  t->entry.queued = false;
  struct lwp *l;
  sigqueue_recount(&p->pending, t->signo);
  list_for_each(l, &p->threads, in_process) sigqueue_recount(&l->pending, t->signo);
}

int ptimer_delete(int id) {
  struct process *p = process_current();
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  struct ptimer *t = ptimer_find_locked(p, id);
  if (t) ptimer_unlink_locked(p, t);
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  if (!t) return -EINVAL;
  ptimer_free(t);
  return 0;
}

void ptimers_delete(struct process *p) {
  for (;;) {
    u64 flags = spin_lock_irqsave(&p->sighand->lock);
    struct ptimer *t = list_empty(&p->posix_timers) ? NULL : list_first_entry(&p->posix_timers, struct ptimer, link);
    if (t) ptimer_unlink_locked(p, t);
    spin_unlock_irqrestore(&p->sighand->lock, flags);
    if (!t) return;
    ptimer_free(t);
  }
}

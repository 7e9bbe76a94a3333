// SPDX-License-Identifier: Apache-2.0
//
// Clocks, sleeping, interval timers. The wall clock is the host's hint: readable, not settable.
#include "proc/internal.h"
#include "sys/file.h"
#include <linux/time.h>
#include <linux/timex.h>

static struct user_timespec ts_of(u64 ns) { return (struct user_timespec){ (s64)(ns / NS_PER_SEC), (s64)(ns % NS_PER_SEC) }; }

static long put_ts(u64 to, u64 ns) {
  struct user_timespec ts = ts_of(ns);
  return copy_to_user(to, &ts, sizeof ts) ? -EFAULT : 0;
}

long sys_clock_gettime(u64 clock, u64 ts) {
  u64 ns;
  int r = clock_read((int)clock, &ns);
  return r ? r : put_ts(ts, ns);
}

long sys_clock_getres(u64 clock, u64 ts) {
  u64 ns;
  int r = clock_read((int)clock, &ns);
  if (r || !ts) return r;
  return put_ts(ts, clock == CLOCK_REALTIME_COARSE || clock == CLOCK_MONOTONIC_COARSE ? 4 * NS_PER_MS : 1);
}

long sys_clock_settime(u64 clock, u64 ts) {
  u64 ns;
  int r = clock_read((int)clock, &ns);
  return r ? r : clock == CLOCK_REALTIME ? -EPERM : -EINVAL;
}

long sys_gettimeofday(u64 tv, u64 tz) {
  u64 ns = time_realtime_ns(), out[2] = { ns / NS_PER_SEC, ns % NS_PER_SEC / 1000 }, utc = 0;
  if (tv && copy_to_user(tv, out, sizeof out)) return -EFAULT;
  return tz && copy_to_user(tz, &utc, sizeof utc) ? -EFAULT : 0;
}
long sys_settimeofday(u64 tv, u64 tz) { return -EPERM; }

long sys_time(u64 to) {
  s64 s = (s64)(time_realtime_ns() / NS_PER_SEC);
  return to && copy_to_user(to, &s, sizeof s) ? -EFAULT : s;
}

static long adjtimex(u64 user) {
  struct __kernel_timex t;
  if (copy_from_user(&t, user, sizeof t)) return -EFAULT;
  if (t.modes && t.modes != ADJ_OFFSET_SS_READ) return -EPERM;
  u64 ns = time_realtime_ns();
  memset(&t, 0, sizeof t);
  t.status = STA_UNSYNC;
  t.maxerror = t.esterror = 16000000;
  t.constant = 2;
  t.precision = 1;
  t.tolerance = 32768000;
  t.tick = 10000;
  t.time.tv_sec = (s64)(ns / NS_PER_SEC);
  t.time.tv_usec = (s64)(ns % NS_PER_SEC / 1000);
  return copy_to_user(user, &t, sizeof t) ? -EFAULT : TIME_ERROR;
}
long sys_adjtimex(u64 user) { return adjtimex(user); }
long sys_clock_adjtime(u64 clock, u64 user) { return clock == CLOCK_REALTIME ? adjtimex(user) : -EINVAL; }

// --- sleeping. An interrupted relative sleep goes on to the same deadline (restart_syscall) and tells what is left.
static int sleep_on_clock(int clock, u64 deadline) { // deadline: time_ns(), or CPU time of a CPU clock
  if (!clock_is_cpu(clock)) return thread_sleep_until(deadline, WAIT_INTERRUPTIBLE);
  for (;;) {
    u64 now;
    int r = clock_read(clock, &now);
    if (r) return r;
    if (now >= deadline) return 0;
    u32 threads = MAX(READ_ONCE(process_current()->thread_count), 1u); // no sooner than if all of them ran
    r = thread_sleep_until(time_ns() + MAX((deadline - now) / threads, 100 * NS_PER_US), WAIT_INTERRUPTIBLE);
    if (r) return r;
  }
}

static long sleep_tell_rest(int clock, u64 deadline, uptr rest, int r) {
  struct lwp *l = lwp_current();
  if (r != -ERESTARTSYS) return r; // over, or the clock is gone with its process
  u64 now;
  if (rest && !clock_read(clock_is_cpu(clock) ? clock : CLOCK_MONOTONIC, &now) && put_ts(rest, deadline > now ? deadline - now : 0)) return -EFAULT;
  l->restart.arg[0] = (u64)clock;
  l->restart.arg[1] = deadline;
  l->restart.arg[2] = rest;
  return -ERESTART_RESTARTBLOCK;
}

static long sleep_again(struct lwp *l) {
  int clock = (int)l->restart.arg[0];
  u64 deadline = l->restart.arg[1];
  return sleep_tell_rest(clock, deadline, l->restart.arg[2], sleep_on_clock(clock, deadline));
}

long sys_restart_syscall(void) {
  struct lwp *l = lwp_current();
  long (*fn)(struct lwp *) = l->restart.fn;
  return fn ? fn(l) : -EINTR;
}

long sys_clock_nanosleep(u64 clock, u64 flags, u64 request, u64 rest) {
  struct user_timespec ts;
  u64 ns, now;
  if (copy_from_user(&ts, request, sizeof ts)) return -EFAULT;
  int r = timespec_ns(&ts, &ns);
  if (r) return r;
  if ((int)clock == CLOCK_THREAD_CPUTIME_ID || (flags & ~1ull)) return -EINVAL;
  r = clock_read((int)clock, &now);
  if (r) return r;
  bool cpu = clock_is_cpu((int)clock);
  if (flags & TIMER_ABSTIME) {
    r = sleep_on_clock((int)clock, cpu ? ns : clock_deadline((int)clock, ns));
    return r == -ERESTARTSYS ? -ERESTARTNOHAND : r;
  }
  u64 base = cpu ? now : time_ns(), deadline = ns >= WAIT_FOREVER - base ? WAIT_FOREVER : base + ns;
  r = sleep_on_clock((int)clock, deadline);
  lwp_current()->restart.fn = sleep_again;
  return sleep_tell_rest((int)clock, deadline, rest, r);
}

long sys_nanosleep(u64 request, u64 rest) { return sys_clock_nanosleep(CLOCK_MONOTONIC, 0, request, rest); }

// --- interval timers
static int timeval_ns(const u64 tv[2], u64 *ns) {
  if ((s64)tv[0] < 0 || tv[1] >= 1000000) return -EINVAL;
  *ns = tv[0] > 1ull << 33 ? WAIT_FOREVER / 4 : tv[0] * NS_PER_SEC + tv[1] * 1000;
  return 0;
}

static long put_itimerval(u64 to, const struct itimer_k *t) {
  u64 v = t->value_ns, i = t->interval_ns;
  u64 out[4] = { i / NS_PER_SEC, i % NS_PER_SEC / 1000, v / NS_PER_SEC, v % NS_PER_SEC / 1000 };
  return copy_to_user(to, out, sizeof out) ? -EFAULT : 0;
}

long sys_getitimer(u64 which, u64 to) {
  struct itimer_k t;
  int r = itimer_get((int)which, &t);
  return r ? r : put_itimerval(to, &t);
}

long sys_setitimer(u64 which, u64 from, u64 to) {
  struct itimer_k set = { 0, 0 }, old;
  u64 in[4];
  if (from) {
    if (copy_from_user(in, from, sizeof in)) return -EFAULT;
    if (timeval_ns(in, &set.interval_ns) || timeval_ns(in + 2, &set.value_ns)) return -EINVAL;
  }
  int r = itimer_set((int)which, &set, &old);
  return r || !to ? r : put_itimerval(to, &old);
}

long sys_alarm(u64 seconds) {
  struct itimer_k set = { 0, (u32)seconds * NS_PER_SEC }, old;
  int r = itimer_set(0, &set, &old);
  if (r) return r;
  u64 s = old.value_ns / NS_PER_SEC, part = old.value_ns % NS_PER_SEC;
  return (long)(s + (part >= NS_PER_SEC / 2 || (!s && part))); // rounded, but an armed timer is never 0
}

static long put_itimerspec(u64 to, const struct itimer_k *t) {
  struct user_timespec out[2] = { ts_of(t->interval_ns), ts_of(t->value_ns) };
  return copy_to_user(to, out, sizeof out) ? -EFAULT : 0;
}

long sys_timer_create(u64 clock, u64 event, u64 id_to) {
  struct { u64 value; s32 signo, notify, tid; } e;
  struct sigevent_k ev = { .signo = SIGALRM, .notify = 0 };
  if (event) {
    if (copy_from_user(&e, event, sizeof e)) return -EFAULT;
    ev = (struct sigevent_k){ .value = e.value, .signo = e.signo, .notify = e.notify, .tid = e.tid };
  }
  long id = ptimer_create((int)clock, &ev);
  if (id < 0) return id;
  int out = (int)id;
  if (copy_to_user(id_to, &out, sizeof out)) {
    (void)!ptimer_delete(out);
    return -EFAULT;
  }
  return 0;
}

long sys_timer_settime(u64 id, u64 flags, u64 from, u64 to) {
  struct user_timespec in[2];
  struct itimer_k set, old;
  if (!from) return -EINVAL;
  if (copy_from_user(in, from, sizeof in)) return -EFAULT;
  if (timespec_ns(&in[0], &set.interval_ns) || timespec_ns(&in[1], &set.value_ns)) return -EINVAL;
  set.interval_ns = MIN(set.interval_ns, WAIT_FOREVER / 4);
  set.value_ns = MIN(set.value_ns, WAIT_FOREVER / 4);
  int r = ptimer_settime((int)id, flags & TIMER_ABSTIME, &set, &old);
  return r || !to ? r : put_itimerspec(to, &old);
}

long sys_timer_gettime(u64 id, u64 to) {
  struct itimer_k t;
  int r = ptimer_gettime((int)id, &t);
  return r ? r : put_itimerspec(to, &t);
}

long sys_timer_getoverrun(u64 id) { return ptimer_overrun((int)id); }
long sys_timer_delete(u64 id) { return ptimer_delete((int)id); }

long sys_times(u64 to) {
  struct process *p = process_current();
  u64 u, s, tick = NS_PER_SEC / 100;
  process_times(p, &u, &s);
  u64 out[4] = { u / tick, s / tick, READ_ONCE(p->cutime_ns) / tick, READ_ONCE(p->cstime_ns) / tick };
  if (to && copy_to_user(to, out, sizeof out)) return -EFAULT;
  return (long)(time_ns() / tick);
}

long sys_getrusage(u64 who, u64 to) {
  struct lwp *l = lwp_current(), *o;
  struct process *p = l->process;
  u64 u, s, ru[18] = { 0 };
  if ((int)who < -1 || (int)who > 1) return -EINVAL;
  if ((int)who == 1) { // RUSAGE_THREAD
    lwp_times(l, &u, &s);
    ru[4] = l->as->rss_peak_pages * 4;
    ru[8] = l->minflt, ru[9] = l->majflt, ru[16] = l->thread->switches_voluntary, ru[17] = l->thread->switches_involuntary;
  } else if ((int)who == -1) { // RUSAGE_CHILDREN
    u = p->cutime_ns, s = p->cstime_ns;
    ru[4] = p->cmaxrss_pages * 4;
    ru[8] = p->cminflt, ru[9] = p->cmajflt, ru[16] = p->cnvcsw, ru[17] = p->cnivcsw;
  } else {
    process_times(p, &u, &s);
    u64 flags = spin_lock_irqsave(&p->sighand->lock);
    ru[4] = MAX(p->maxrss_pages, l->as->rss_peak_pages) * 4;
    ru[8] = p->minflt, ru[9] = p->majflt, ru[16] = p->nvcsw, ru[17] = p->nivcsw;
    list_for_each(o, &p->threads, in_process) {
      ru[8] += o->minflt, ru[9] += o->majflt;
      ru[16] += o->thread->switches_voluntary, ru[17] += o->thread->switches_involuntary;
    }
    spin_unlock_irqrestore(&p->sighand->lock, flags);
  }
  ru[0] = u / NS_PER_SEC, ru[1] = u % NS_PER_SEC / 1000, ru[2] = s / NS_PER_SEC, ru[3] = s % NS_PER_SEC / 1000;
  return copy_to_user(to, ru, sizeof ru) ? -EFAULT : 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// The clocks of clock_gettime and of timers.
#include "proc/internal.h"
#include <linux/time.h>

enum { CPU_PROF, CPU_VIRT, CPU_SCHED, CPU_PER_THREAD = 4 };

static u64 of_kind(int kind, u64 utime, u64 stime) { return kind == CPU_VIRT ? utime : utime + stime; }

// ~pid << 3 | kind, as pthread_getcpuclockid and clock_getcpuclockid make them.
static int read_other_cpu(int clock, u64 *ns) {
  int id = ~(clock >> 3), kind = clock & 3, r = -EINVAL;
  u64 u, s;
  if (kind == 3) return -EINVAL;
  u64 flags = spin_lock_irqsave(&process_lock);
  if (clock & CPU_PER_THREAD) {
    struct lwp *l = id ? lwp_find_locked(id) : lwp_current();
    if (l && l->process == process_current()) {
      lwp_times(l, &u, &s);
      *ns = of_kind(kind, u, s);
      r = 0;
    }
  } else {
    struct process *p = id ? process_find_locked(id) : process_current();
    if (p && !p->zombie) {
      process_times(p, &u, &s);
      *ns = of_kind(kind, u, s);
      r = 0;
    }
  }
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

bool clock_is_cpu(int clock) { return clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID || clock < 0; }

int clock_read(int clock, u64 *ns) {
  u64 u, s;
  switch (clock) {
  case CLOCK_REALTIME: case CLOCK_REALTIME_COARSE: case CLOCK_REALTIME_ALARM: case CLOCK_TAI:
    *ns = time_realtime_ns();
    return 0;
  case CLOCK_MONOTONIC: case CLOCK_MONOTONIC_RAW: case CLOCK_MONOTONIC_COARSE: case CLOCK_BOOTTIME: case CLOCK_BOOTTIME_ALARM:
    *ns = time_ns();
    return 0;
  case CLOCK_PROCESS_CPUTIME_ID:
    process_times(process_current(), &u, &s);
    *ns = u + s;
    return 0;
  case CLOCK_THREAD_CPUTIME_ID:
    *ns = thread_cputime_ns(thread_current());
    return 0;
  default:
    return clock < 0 ? read_other_cpu(clock, ns) : -EINVAL;
  }
}

u64 clock_deadline(int clock, u64 ns) {
  bool wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE || clock == CLOCK_REALTIME_ALARM || clock == CLOCK_TAI;
  if (!wall) return ns;
  u64 mono = time_ns(), real = time_realtime_ns();
  u64 base = real - mono;
  return ns > base ? ns - base : 0;
}

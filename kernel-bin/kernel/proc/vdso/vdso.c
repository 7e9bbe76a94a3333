// SPDX-License-Identifier: Apache-2.0
//
// The vdso: clock calls that need no entry into the kernel. Compiled for ring 3, linked as a shared object of its own
// and embedded in the kernel (vdso_image.S). Reads only the data page and the TSC.
#include "vdso.h"

extern const struct vdso_data vdso_data __attribute__((visibility("hidden")));
struct timespec { long sec, nsec; };
struct timeval { long sec, usec; };
enum { REALTIME, MONOTONIC, MONOTONIC_RAW = 4, REALTIME_COARSE, MONOTONIC_COARSE, BOOTTIME, TAI = 11 };
enum { SYS_CLOCK_GETTIME = 228, SYS_CLOCK_GETRES = 229, SYS_GETCPU = 309 };

static long syscall3(long nr, long a, long b, long c) {
  long r;
  __asm__ volatile("syscall" : "=a"(r) : "0"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
  return r;
}

static unsigned long now(int realtime) {
  const volatile struct vdso_data *d = &vdso_data;
  for (;;) {
    unsigned seq = __atomic_load_n(&d->seq, __ATOMIC_ACQUIRE), lo, hi;
    __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    unsigned long delta = ((unsigned long)hi << 32 | lo) - d->base_tsc;
    unsigned long ns = d->base_ns + (unsigned long)(((unsigned __int128)delta * d->mult) >> d->shift);
    if (realtime) ns += (unsigned long)d->realtime_offset;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (!(seq & 1) && d->seq == seq) return ns;
    __asm__ volatile("pause");
  }
}

static int is_realtime(int clock) { return clock == REALTIME || clock == REALTIME_COARSE || clock == TAI; }
static int is_ours(int clock) {
  return is_realtime(clock) || clock == MONOTONIC || clock == MONOTONIC_RAW || clock == MONOTONIC_COARSE || clock == BOOTTIME;
}

int __vdso_clock_gettime(int clock, struct timespec *ts) {
  if (!is_ours(clock)) return (int)syscall3(SYS_CLOCK_GETTIME, clock, (long)ts, 0);
  unsigned long ns = now(is_realtime(clock));
  ts->sec = (long)(ns / 1000000000);
  ts->nsec = (long)(ns % 1000000000);
  return 0;
}

int __vdso_clock_getres(int clock, struct timespec *ts) {
  if (!is_ours(clock)) return (int)syscall3(SYS_CLOCK_GETRES, clock, (long)ts, 0);
  if (ts) ts->sec = 0, ts->nsec = 1;
  return 0;
}

int __vdso_gettimeofday(struct timeval *tv, void *tz) {
  if (tv) {
    unsigned long ns = now(1);
    tv->sec = (long)(ns / 1000000000);
    tv->usec = (long)(ns % 1000000000 / 1000);
  }
  if (tz) ((int *)tz)[0] = ((int *)tz)[1] = 0;
  return 0;
}

long __vdso_time(long *t) {
  long s = (long)(now(1) / 1000000000);
  if (t) *t = s;
  return s;
}

long __vdso_getcpu(unsigned *cpu, unsigned *node, void *unused) {
  if (!vdso_data.cpu_from_tsc_aux) return syscall3(SYS_GETCPU, (long)cpu, (long)node, 0);
  unsigned lo, hi, aux;
  __asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(aux));
  if (cpu) *cpu = aux & 0xfff;
  if (node) *node = 0;
  return 0;
}

#define ALIAS(name) extern __typeof__(__vdso_##name) name __attribute__((weak, alias("__vdso_" #name)))
ALIAS(clock_gettime);
ALIAS(clock_getres);
ALIAS(gettimeofday);
ALIAS(time);
ALIAS(getcpu);

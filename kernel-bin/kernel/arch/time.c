// SPDX-License-Identifier: Apache-2.0
//
// Time from the TSC. Its frequency comes from CPUID where the CPU or hypervisor says it, else it is measured against
// the HPET (an ordinary VM; nothing in a TD trusts that device). All CPUs share one TSC: a TD guarantees it, and so do
// KVM and TCG for vCPUs that start together.
#include "arch/internal.h"

u64 tsc_hz;
struct tsc_scale tsc_scale;
static u64 ns_to_tsc_mult; // tsc = ns * mult >> 32
static s64 realtime_offset;

u64 time_ns(void) {
  u64 delta = rdtsc() - tsc_scale.base_tsc;
  return tsc_scale.base_ns + (u64)(((unsigned __int128)delta * tsc_scale.mult) >> tsc_scale.shift);
}

u64 time_realtime_ns(void) { return time_ns() + (u64)READ_ONCE(realtime_offset); }
s64 time_realtime_offset(void) { return READ_ONCE(realtime_offset); }
void time_set_realtime(u64 ns) { WRITE_ONCE(realtime_offset, (s64)(ns - time_ns())); }

#define ARM_MAX_NS (3600 * NS_PER_SEC)

void timer_arm(u64 deadline_ns) {
  if (!deadline_ns) {
    apic_timer_set(0, 0);
    return;
  }
  u64 now = time_ns();
  // A deadline of some centuries has no TSC: wrapped, it could be one that is past, fire at once and be armed again for
  // ever. An interrupt too early is harmless.
  deadline_ns = MIN(deadline_ns, now + ARM_MAX_NS);
  u64 wait = deadline_ns > now ? deadline_ns - now : 0;
  u64 tsc = tsc_scale.base_tsc + (u64)(((unsigned __int128)(deadline_ns - tsc_scale.base_ns) * ns_to_tsc_mult) >> 32);
  apic_timer_set(wait, tsc | 1); // 0 would disarm; a deadline in the past fires at once
}

static u32 hpet_read(volatile void *hpet, u32 reg) { return *(volatile u32 *)((volatile u8 *)hpet + reg); }

struct sample { u64 tsc; u32 hpet, apic; u64 error_tsc; };

// Reads the clocks together; of several tries the one with the smallest gap: the host may take the CPU away in between.
static struct sample sample_clocks(volatile void *hpet) {
  struct sample best = { .error_tsc = ~0ul };
  for (unsigned i = 0; i < 5; i++) {
    struct sample s;
    u64 t0 = rdtsc();
    s.hpet = hpet ? hpet_read(hpet, 0xf0) : 0;
    s.apic = apic_timer_count();
    u64 t1 = rdtsc();
    s.tsc = t0 + (t1 - t0) / 2;
    s.error_tsc = t1 - t0;
    if (s.error_tsc < best.error_tsc) best = s;
  }
  return best;
}

static u64 tsc_hz_from_cpuid(void) {
  if (cpu_features.max_leaf >= 0x15) {
    struct cpuid c = cpuid(0x15, 0);
    if (c.eax && c.ebx && c.ecx) return (u64)c.ecx * c.ebx / c.eax;
  }
  if ((cpu_features.ecx1 & BIT(31)) && !in_td) {
    u32 max = cpuid(0x40000000, 0).eax;
    if (max >= 0x40000010 && max < 0x40010000) {
      u64 khz = cpuid(0x40000010, 0).eax; // VMware's timing leaf, which KVM's users pass on
      if (khz > 100000) return khz * 1000;
    }
  }
  return 0;
}

void time_init(volatile void *hpet) {
  u64 hz = tsc_hz_from_cpuid();
  bool need_apic = !cpu_features.tsc_deadline;
  if (!hz && !hpet) panic("no clock to measure the TSC with");
  if (!hz || need_apic) {
    u64 hpet_fs = 0;
    if (hpet) {
      hpet_fs = hpet_read(hpet, 4); // femtoseconds per tick
      if (hpet_fs < 1000 || hpet_fs > 100000000) panic("HPET period of %lu fs", hpet_fs);
      *(volatile u32 *)((volatile u8 *)hpet + 0x10) = 1; // run
    }
    u64 flags = irq_save();
    apic_timer_count_start();
    struct sample a = sample_clocks(hpet), b;
    // The wait looks at the TSC only: each read of a device is an exit, and under QEMU takes the lock that the other
    // CPUs need to start. 4 million ticks are 0.7 to 2.7 ms on anything between 1.5 and 6 GHz.
    do {
      for (u64 from = rdtsc(); rdtsc() - from < 4000000;) cpu_relax();
      b = sample_clocks(hpet);
    } while (hpet_fs && (u64)(b.hpet - a.hpet) * hpet_fs < 600 * NS_PER_US * 1000000); // a slow TSC: once more
    apic_timer_set(0, 0);
    irq_restore(flags);
    if (!hz) hz = mul_div_u64(b.tsc - a.tsc, 1000000000000000ul, (u64)(b.hpet - a.hpet) * hpet_fs);
    apic_timer_set_hz((u64)(a.apic - b.apic) * hz / (b.tsc - a.tsc));
  }
  tsc_hz = hz;
  u32 shift = 32;
  while (shift && (NS_PER_SEC << shift) / hz > 0xfffffffful) shift--;
  tsc_scale.base_tsc = rdtsc();
  tsc_scale.base_ns = 1; // never 0: deadlines use 0 for none
  tsc_scale.mult = (u32)((NS_PER_SEC << shift) / hz);
  tsc_scale.shift = shift;
  ns_to_tsc_mult = mul_div_u64(hz, 1ul << 32, NS_PER_SEC);
}

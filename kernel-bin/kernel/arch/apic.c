// SPDX-License-Identifier: Apache-2.0
//
// The local APIC: x2APIC where the CPU has it, else xAPIC through its page (mapped by boot). Timer: TSC deadline, or
// one-shot counting at a frequency that time.c measures. SDM 3, chapter 11. In a TD the module has EOI and the task
// priority; everything else is a request to the host, so what its reset state gives already is not written.
#include "arch/internal.h"

enum { APIC_ID = 0x20, APIC_TPR = 0x80, APIC_EOI = 0xb0, APIC_SPURIOUS = 0xf0, APIC_ISR = 0x100, APIC_ICR = 0x300, APIC_ICR_HIGH = 0x310,
  APIC_LVT_TIMER = 0x320, APIC_LVT_LINT0 = 0x350, APIC_LVT_LINT1 = 0x360, APIC_LVT_ERROR = 0x370, APIC_TIMER_INITIAL = 0x380,
  APIC_TIMER_CURRENT = 0x390, APIC_TIMER_DIVIDE = 0x3e0 };
#define TPR_NO_EXCEPTIONS 0x10 // vectors 16 to 31 are exceptions', but the APIC takes them, and a TD's host may send 31
#define LVT_MASKED BIT(16)
#define LVT_TSC_DEADLINE (2u << 17)
#define ICR_PENDING BIT(12)
#define ICR_ASSERT 0x4000u
#define ICR_NMI 0x400u
#define ICR_INIT 0x500u
#define ICR_STARTUP 0x600u
#define ICR_OTHERS 0xc0000u
#define DIVIDE_BY_16 3u

static volatile u8 *xapic;
static bool x2;
static u64 timer_hz; // after division

static u32 apic_read(u32 reg) {
  if (in_td) return (u32)tdx_msr_read(0x800 + reg / 16);
  if (x2) return (u32)rdmsr(0x800 + reg / 16);
  return *(volatile u32 *)(xapic + reg);
}
static void apic_write(u32 reg, u32 v) {
  if (in_td && reg != APIC_EOI && reg != APIC_TPR) tdx_msr_write(0x800 + reg / 16, v);
  else if (x2) wrmsr(0x800 + reg / 16, v);
  else *(volatile u32 *)(xapic + reg) = v;
}

static void icr_write(u32 apic_id, u32 command) {
  if (in_td) { // a TDVMCALL is serialising
    tdx_msr_write(0x800 + APIC_ICR / 16, (u64)apic_id << 32 | command);
    return;
  }
  if (x2) {
    __asm__ volatile("mfence; lfence" ::: "memory"); // WRMSR to x2APIC does not order earlier stores
    wrmsr(0x800 + APIC_ICR / 16, (u64)apic_id << 32 | command);
    return;
  }
  u64 flags = irq_save(); // the two halves belong together
  for (unsigned i = 0; i < 100000 && (apic_read(APIC_ICR) & ICR_PENDING); i++) cpu_relax();
  apic_write(APIC_ICR_HIGH, apic_id << 24);
  apic_write(APIC_ICR, command);
  irq_restore(flags);
}

void apic_init(volatile void *xapic_page) {
  x2 = cpu_features.x2apic;
  xapic = xapic_page;
  apic_init_this();
}

bool apic_is_x2(void) { return cpu_features.x2apic; }

void apic_init_this(void) {
  if (in_td) {
    // The host's answer, needed where its topology leaves gaps. The module knows the lowest byte at least of the vCPU's
    // number or, with topology enumeration, of the id itself: another one would send interrupts astray.
    u32 id = apic_read(APIC_ID), known = cpuid(1, 0).ebx >> 24;
    if ((id & 0xff) != known) panic("vCPU %u: the host gives it APIC id %#x, the TDX module %#x", this_cpu()->id, id, known);
    this_cpu()->apic_id = id;
    apic_write(APIC_TPR, TPR_NO_EXCEPTIONS); // the module's: no exit
    apic_write(APIC_SPURIOUS, 0x100 | VECTOR_SPURIOUS);
    apic_write(APIC_LVT_TIMER, VECTOR_TIMER | LVT_TSC_DEADLINE);
    return;
  }
  u64 base = rdmsr(MSR_APIC_BASE) | BIT(11);
  wrmsr(MSR_APIC_BASE, x2 ? base | BIT(10) : base);
  this_cpu()->apic_id = x2 ? apic_read(APIC_ID) : apic_read(APIC_ID) >> 24;
  apic_write(APIC_TPR, TPR_NO_EXCEPTIONS);
  apic_write(APIC_LVT_LINT0, LVT_MASKED);
  apic_write(APIC_LVT_LINT1, LVT_MASKED);
  apic_write(APIC_LVT_ERROR, LVT_MASKED);
  apic_write(APIC_SPURIOUS, 0x100 | VECTOR_SPURIOUS);
  apic_write(APIC_TIMER_DIVIDE, DIVIDE_BY_16);
  apic_write(APIC_LVT_TIMER, VECTOR_TIMER | (cpu_features.tsc_deadline ? LVT_TSC_DEADLINE : 0));
  __asm__ volatile("mfence" ::: "memory"); // SDM 3, 11.5.4.1: the mode is set before the first deadline
}

// Whether the vector was delivered as an interrupt and waits for its EOI. In a TD the module answers.
bool apic_in_service(u32 vector) {
  u32 reg = APIC_ISR + vector / 32 * 16;
  u32 bits = x2 ? (u32)rdmsr(0x800 + reg / 16) : *(volatile u32 *)(xapic + reg);
  return bits >> vector % 32 & 1;
}
void apic_eoi(void) { apic_write(APIC_EOI, 0); }
void apic_send_ipi(u32 apic_id, u32 vector) { icr_write(apic_id, ICR_ASSERT | vector); }
void apic_send_ipi_others(u32 vector) { icr_write(0, ICR_OTHERS | ICR_ASSERT | vector); }
void apic_send_nmi_others(void) { icr_write(0, ICR_OTHERS | ICR_ASSERT | ICR_NMI); }
void apic_start_others(u32 page) {
  icr_write(0, ICR_OTHERS | ICR_ASSERT | ICR_INIT);
  apic_resend_startup(page);
}
void apic_resend_startup(u32 page) { icr_write(0, ICR_OTHERS | ICR_ASSERT | ICR_STARTUP | page >> 12); }

void apic_timer_set_hz(u64 hz) { timer_hz = hz; }
u32 apic_timer_count_start(void) {
  apic_write(APIC_TIMER_INITIAL, ~0u);
  return ~0u;
}
u32 apic_timer_count(void) { return apic_read(APIC_TIMER_CURRENT); }

// deadline_tsc 0 disarms.
void apic_timer_set(u64 ns_from_now, u64 deadline_tsc) {
  if (cpu_features.tsc_deadline) {
    if (in_td) tdx_msr_write(MSR_TSC_DEADLINE, deadline_tsc);
    else wrmsr(MSR_TSC_DEADLINE, deadline_tsc);
    return;
  }
  u64 count = 0;
  if (deadline_tsc) {
    u64 ns = MIN(ns_from_now, 10 * NS_PER_SEC); // fires early after that; who armed it looks at the clock anyway
    count = ns * (timer_hz / 1000) / 1000000 + 1;
    count = MIN(count, 0xfffffffful);
  }
  apic_write(APIC_TIMER_INITIAL, (u32)count);
}

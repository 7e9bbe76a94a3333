// SPDX-License-Identifier: Apache-2.0
//
// MSRs: those that the TDX module leaves to the CPU, those it answers itself, those that are a #VE or a #GP (tables of
// module 1.5), and what KVM answers to TDVMCALL<RDMSR/WRMSR>. The local APIC is QEMU's xAPIC under an x2APIC's MSRs,
// with a timer of 25 MHz and a TSC deadline as a TD has them.
#include "sim/sim.h"

enum { APIC_ID = 0x02, APIC_VERSION = 0x03, APIC_TPR = 0x08, APIC_EOI = 0x0b, APIC_LDR = 0x0d, APIC_SPURIOUS = 0x0f, APIC_ESR = 0x28,
  APIC_ICR = 0x30, APIC_LVT_TIMER = 0x32, APIC_LVT_LAST = 0x37, APIC_TIMER_INITIAL = 0x38, APIC_TIMER_CURRENT = 0x39,
  APIC_TIMER_DIVIDE = 0x3e, APIC_SELF_IPI = 0x3f };
#define MSR_TSC_DEADLINE 0x6e0
#define TIMER_DEADLINE BIT(18)
#define TIMER_PERIODIC BIT(17)
#define NS_PER_TICK 40ul // 25 MHz

static u32 xapic_read(u32 reg) { return local_apic_read(reg * 16); }
static void xapic_write(u32 reg, u32 v) { local_apic_write(reg * 16, v); }

static u32 divisor(u32 dcr) { u32 n = (dcr & 3) | (dcr >> 1 & 4); return n == 7 ? 1 : 2u << n; }

// QEMU's timer counts nanoseconds divided by 1..128 in 32 bits: the smallest divisor that fits.
static void arm_ns(u64 ns) {
  static const u8 code[8] = { 0xb, 0x0, 0x1, 0x2, 0x3, 0x8, 0x9, 0xa };
  u32 i = 0;
  while (i < 7 && ns >> i > 0xfffffffful) i++;
  xapic_write(APIC_TIMER_DIVIDE, code[i]);
  xapic_write(APIC_TIMER_INITIAL, (u32)MIN(ns >> i, 0xfffffffful));
}

static void set_deadline(struct vcpu *v, u64 tsc) {
  v->tsc_deadline = tsc;
  if (!(v->lvt_timer & TIMER_DEADLINE) || !tsc) {
    arm_ns(0);
    return;
  }
  u64 now = rdtsc();
  if (lie(v, LIE_DELAY)) now -= MIN(now, hostile_random(v) % (tsc_hz / 50)); // up to 20 ms late
  arm_ns(tsc > now ? MIN(mul_div_u64(MIN(tsc - now, 1ul << 44), NS_PER_SEC, tsc_hz), 1ul << 38) + 1 : 1);
}

static void start_count(struct vcpu *v, u64 initial) {
  if (v->lvt_timer & TIMER_DEADLINE) return;
  u64 ns = initial * divisor(v->timer_divide) * NS_PER_TICK;
  v->timer_initial = initial;
  v->timer_end_tsc = rdtsc() + mul_div_u64(ns, tsc_hz, NS_PER_SEC);
  arm_ns(ns);
}

// INIT, SIPI, SMI and ExtINT do nothing to a TD's vCPU; an NMI is the simulator's own signal, so it is handed over.
static void send_ipi(struct vcpu *v, u64 icr) {
  u32 mode = (u32)(icr >> 8 & 7), shorthand = (u32)(icr >> 18 & 3), dest = (u32)(icr >> 32);
  if (mode != 0 && mode != 1 && mode != 4) return;
  if (lie(v, LIE_DELAY)) hostile_delay(v, 20000);
  for (u32 i = 0; i < td.num_vcpus; i++) {
    bool hit = shorthand == 1 ? i == v->index : shorthand == 2 ? true : shorthand == 3 ? i != v->index
      : dest == ~0u ? true : icr & BIT(11) ? dest >> 16 == i >> 4 && (dest >> (i & 15) & 1) : dest == i;
    if (!hit) continue;
    if (mode == 4) {
      __atomic_store_n(&vcpus[i].nmi_pending, 1, __ATOMIC_SEQ_CST);
      if (i != v->index) host_send_nmi(i);
    } else {
      host_send_vector(i, icr & 0xff);
    }
  }
}

static bool x2apic_read(struct vcpu *v, u32 reg, u64 *value) {
  switch (reg) {
  case APIC_ID: *value = v->index; return true;
  case APIC_LDR: *value = (v->index >> 4) << 16 | 1u << (v->index & 15); return true;
  case APIC_LVT_TIMER: *value = v->lvt_timer; return true;
  case APIC_TIMER_INITIAL: *value = v->timer_initial; return true;
  case APIC_TIMER_DIVIDE: *value = v->timer_divide; return true;
  case APIC_TIMER_CURRENT: {
    u64 now = rdtsc();
    *value = v->timer_initial && v->timer_end_tsc > now
      ? mul_div_u64(v->timer_end_tsc - now, NS_PER_SEC, tsc_hz) / NS_PER_TICK / divisor(v->timer_divide) : 0;
    return true;
  }
  case APIC_VERSION: case APIC_TPR: case 0x0a: case APIC_SPURIOUS: case 0x10 ... 0x27: case APIC_ESR: case 0x33 ... APIC_LVT_LAST:
    *value = xapic_read(reg);
    return true;
  case APIC_ICR: *value = 0; return true;
  default: return false;
  }
}

static bool x2apic_write(struct vcpu *v, u32 reg, u64 value) {
  switch (reg) {
  case APIC_EOI:
    count(v, MODULE_EOI);
    xapic_write(APIC_EOI, 0);
    return true;
  case APIC_TPR: case APIC_SPURIOUS: case APIC_ESR: case 0x33 ... APIC_LVT_LAST: xapic_write(reg, (u32)value); return true;
  case APIC_ICR: send_ipi(v, value); return true;
  case APIC_SELF_IPI: host_send_vector(v->index, value & 0xff); return true;
  case APIC_LVT_TIMER:
    if ((value ^ v->lvt_timer) & (TIMER_DEADLINE | TIMER_PERIODIC)) arm_ns(0);
    v->lvt_timer = (u32)value;
    xapic_write(reg, (u32)(value & ~TIMER_DEADLINE));
    return true;
  case APIC_TIMER_INITIAL: start_count(v, (u32)value); return true;
  case APIC_TIMER_DIVIDE: v->timer_divide = (u32)value & 0xb; return true;
  default: return false;
  }
}

bool vmm_rdmsr(struct vcpu *v, u32 msr, u64 *value) {
  if (msr >= 0x800 && msr < 0x840) return x2apic_read(v, msr - 0x800, value);
  switch (msr) {
  case 0x1b: *value = 0xfee00c00 | (v->index == 0 ? BIT(8) : 0); return true; // x2APIC on
  case MSR_TSC_DEADLINE: *value = v->tsc_deadline; return true;
  case 0x3a: *value = 1; return true; // feature control: locked
  case 0xfe: case 0x17: case 0x179: case 0x17a: case 0x198: case 0x199: case 0x2ff: case 0x8b: *value = 0; return true;
  default: return false;
  }
}

bool vmm_wrmsr(struct vcpu *v, u32 msr, u64 value) {
  if (msr >= 0x800 && msr < 0x840) return x2apic_write(v, msr - 0x800, value);
  switch (msr) {
  case MSR_TSC_DEADLINE: set_deadline(v, value); return true;
  case 0x1b: return value == (0xfee00c00 | (v->index == 0 ? BIT(8) : 0));
  case 0x8b: case 0x2ff: case 0x17a: return true;
  default: return false;
  }
}

// --- the module's side
enum action { NATIVE, VE, GP, MODULE };
static const struct { u32 first, last; u8 read, write; } table[] = {
  { 0x10, 0x10, NATIVE, VE }, { 0x48, 0x49, NATIVE, NATIVE }, { 0x8c, 0x8f, GP, GP }, { 0x98, 0x9b, GP, GP }, { 0x9e, 0x9e, GP, GP },
  { 0xc1, 0xc8, GP, GP }, { 0xe1, 0xe1, GP, GP }, { 0x10a, 0x10a, MODULE, GP }, { 0x10b, 0x10b, NATIVE, NATIVE }, { 0x122, 0x122, GP, GP },
  { 0x174, 0x176, NATIVE, NATIVE }, { 0x186, 0x18d, GP, GP }, { 0x195, 0x195, GP, GP }, { 0x1a0, 0x1a0, MODULE, VE }, { 0x1a6, 0x1a7, GP, GP },
  { 0x1c4, 0x1c5, GP, GP }, { 0x1d9, 0x1d9, MODULE, MODULE }, { 0x276, 0x276, GP, GP }, { 0x277, 0x277, NATIVE, NATIVE },
  { 0x309, 0x310, GP, GP }, { 0x329, 0x329, GP, GP }, { 0x345, 0x345, GP, GP }, { 0x38d, 0x392, GP, GP }, { 0x3f1, 0x3f2, GP, GP },
  { 0x3f6, 0x3f7, GP, GP }, { 0x480, 0x491, GP, GP }, { 0x570, 0x587, GP, GP }, { 0x600, 0x600, NATIVE, NATIVE }, { 0x6a0, 0x6a8, GP, GP },
  { 0x6e1, 0x6e1, GP, GP }, { 0x800, 0x801, GP, GP }, { 0x804, 0x807, GP, GP }, { 0x808, 0x80c, MODULE, MODULE }, { 0x80e, 0x80e, MODULE, MODULE },
  { 0x810, 0x827, MODULE, MODULE }, { 0x829, 0x82e, GP, GP }, { 0x831, 0x831, GP, GP }, { 0x83f, 0x83f, MODULE, MODULE }, { 0x840, 0x8ff, GP, GP },
  { 0x985, 0x98a, GP, GP }, { 0xc80, 0xc80, MODULE, VE }, { 0xd90, 0xd90, GP, GP }, { 0xd93, 0xd93, GP, GP }, { 0xda0, 0xda0, MODULE, MODULE },
  { 0x1200, 0x12ff, GP, GP }, { 0x14ce, 0x14cf, GP, GP }, { 0x1500, 0x16ff, GP, GP },
  { 0xc0000080, 0xc0000080, MODULE, GP }, { 0xc0000081, 0xc0000082, NATIVE, NATIVE }, { 0xc0000084, 0xc0000084, NATIVE, NATIVE },
  { 0xc0000100, 0xc0000103, NATIVE, NATIVE },
};

static enum action action_of(u32 msr, bool write) {
  for (u32 i = 0; i < ARRAY_SIZE(table); i++)
    if (msr >= table[i].first && msr <= table[i].last) return write ? table[i].write : table[i].read;
  return VE;
}

// Two bits for each MSR of 0..0x1fff and 0xc0000000..0xc0001fff: read, write.
void msr_init(u8 *bitmap) {
  memset(bitmap, 0xff, 8192);
  for (u32 i = 0; i < ARRAY_SIZE(table); i++)
    for (u32 msr = table[i].first; msr <= table[i].last; msr++) {
      u32 bit = (msr & 0x1fff) * 2 + (msr >= 0xc0000000 ? 0x4000 : 0);
      if (table[i].read == NATIVE) bitmap[bit / 8] &= (u8)~(1u << bit % 8);
      if (table[i].write == NATIVE) bitmap[bit / 8] &= (u8)~(2u << bit % 8);
    }
}

static bool module_rdmsr(struct vcpu *v, u32 msr, u64 *value) {
  switch (msr) {
  case 0x10a: *value = 0x2b; return true; // RDCL_NO IBRS_ALL SKIP_L1DFL MDS_NO
  case 0x1a0: *value = 0x1801; return true;
  case 0x1d9: case 0xc80: case 0xda0: *value = 0; return true;
  case 0xc0000080: *value = v->vmcb->efer & ~BIT(12); return true;
  case 0x80b: case 0x83f: return false; // write only
  default: return x2apic_read(v, msr - 0x800, value);
  }
}

static bool module_wrmsr(struct vcpu *v, u32 msr, u64 value) {
  switch (msr) {
  case 0x1d9: return value == 0;
  case 0xda0: return (value & ~td.xfam) == 0 && value == 0;
  case 0x808: return value <= 0xff && x2apic_write(v, APIC_TPR, value);
  case 0x80b: return value == 0 && x2apic_write(v, APIC_EOI, value);
  case 0x83f: return value <= 0xff && x2apic_write(v, APIC_SELF_IPI, value);
  default: return false;
  }
}

void msr_exit(struct vcpu *v) {
  bool write = v->vmcb->exit_info1 & 1;
  u32 msr = (u32)v->g[RCX];
  u64 value = (u32)v->g[RAX] | v->g[RDX] << 32;
  switch (action_of(msr, write)) {
  case VE:
    count(v, VE_MSR);
    inject_ve(v, write ? 32 : 31, 0, 0, 0, 2, 0);
    return;
  case NATIVE: case GP: inject_gp(v); return;
  case MODULE: break;
  }
  count(v, MODULE_MSR);
  if (!(write ? module_wrmsr(v, msr, value) : module_rdmsr(v, msr, &value))) {
    inject_gp(v);
    return;
  }
  if (!write) {
    v->g[RAX] = (u32)value;
    v->g[RDX] = value >> 32;
  }
  v->vmcb->rip += 2;
}

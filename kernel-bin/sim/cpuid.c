// SPDX-License-Identifier: Apache-2.0
//
// CPUID as the TDX module virtualises it (module 1.5.01): listed leaves are answered from the CPU's own values with the
// fixed bits; every other leaf is a #VE, and the VMM answers as it likes.
#include "sim/sim.h"

static struct cpuid timing;

static const u32 native_leaves[] = { 0, 1, 3, 4, 5, 7, 8, 0xa, 0xd, 0xe, 0x11, 0x12, 0x13, 0x14, 0x15, 0x19, 0x1c, 0x1d, 0x1e, 0x21,
  0x22, 0x23, 0x80000000, 0x80000001, 0x80000008 };

// Leaf 0x15 says the TSC as a multiple of 25 MHz, as TDX does where that is within 20 ppm; else in thousandths of it.
void cpuid_init(void) {
  u64 multiple = (tsc_hz + 12500000) / 25000000, error = multiple * 25000000 > tsc_hz ? multiple * 25000000 - tsc_hz : tsc_hz - multiple * 25000000;
  timing = (struct cpuid){ 1, (u32)multiple, 25000000, 0 };
  if (error * 50000 > tsc_hz) {
    timing.eax = 1000;
    timing.ebx = (u32)((tsc_hz + 12500) / 25000);
  }
}

// Values of the CPU; QEMU answers leaves above its highest with that one's data.
static struct cpuid hardware(u32 leaf, u32 sub) {
  u32 base = leaf & 0x80000000;
  if (leaf > cpuid(base, 0).eax) return (struct cpuid){ 0 };
  return cpuid(leaf, sub);
}

static struct cpuid module_cpuid(struct vcpu *v, u32 leaf, u32 sub) {
  struct cpuid c = hardware(leaf, sub);
  switch (leaf) {
  case 0: c.eax = 0x23; break;
  case 1:
    c.ebx = (c.ebx & 0x0000ffff) | v->index << 24 | td.num_vcpus << 16;
    c.ecx &= ~(u32)(BIT(3) | BIT(5) | BIT(6) | BIT(27)); // MONITOR VMX SMX OSXSAVE
    c.ecx |= (u32)(BIT(31) | BIT(24) | BIT(21));         // hypervisor, TSC deadline, x2APIC
    if (v->cr4 & BIT(18)) c.ecx |= (u32)BIT(27);
    c.edx |= (u32)BIT(9);
    break;
  case 4: c.eax &= ~0xffffc000u; break;
  case 7:
    if (sub != 0) break;
    c.ebx &= ~(u32)BIT(2); // SGX
    c.ecx &= ~(u32)BIT(4); // OSPKE
    if (v->vmcb->cr4 & BIT(22)) c.ecx |= (u32)BIT(4);
    break;
  case 0xd:
    if (sub == 0) {
      c.eax &= (u32)td.xfam;
      c.edx = 0;
    } else if (sub > 1 && !(sub < 64 && td.xfam >> sub & 1)) {
      c = (struct cpuid){ 0 };
    }
    break;
  case 0x12: case 0x13: case 0x14: case 0x19: case 0x1c: case 0x1d: case 0x1e: case 0x22: case 0x23: case 0xa: case 8: case 3: case 0xe: case 0x11:
    c = (struct cpuid){ 0 };
    break;
  case 0x15: c = timing; break;
  case 0x21: c = (struct cpuid){ 0, 0x65746e49, 0x20202020, 0x5844546c }; break; // "IntelTDX    "
  case 0x80000000: c.eax = 0x80000008; break;
  case 0x80000001: c.ecx &= 0x121; c.edx &= 0x2c100800; break; // LAHF ABM PREFETCHW; SYSCALL NX 1GB RDTSCP LM
  case 0x80000008: c.ebx = 0; c.ecx = 0; c.edx = 0; break;
  }
  return c;
}

// What KVM and QEMU would say for the leaves that the module leaves to them.
struct cpuid vmm_cpuid(struct vcpu *v, u32 leaf, u32 sub) {
  switch (leaf) {
  case 0x40000000: return (struct cpuid){ 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d }; // "KVMKVMKVM"
  case 0x40000001: return (struct cpuid){ 0 };
  case 0xb: case 0x1f:
    return (struct cpuid){ sub == 0 ? 0 : sub == 1 ? 8 : 0, sub == 0 ? 1 : sub == 1 ? td.num_vcpus : 0, sub | (sub < 2 ? sub + 1 : 0) << 8, v->index };
  case 0x80000007: return (struct cpuid){ 0, 0, 0, 0x100 };
  default: return hardware(leaf, sub);
  }
}

static u32 length_with_prefixes(struct vcpu *v) {
  u32 n = 2;
  u8 b[2];
  while (n < 15 && td_fetch(v, v->vmcb->rip + n - 2, b, 2) && (b[0] != 0x0f || b[1] != 0xa2)) n++;
  return n;
}

void cpuid_exit(struct vcpu *v) {
  u32 leaf = (u32)v->g[RAX], sub = (u32)v->g[RCX], length = length_with_prefixes(v);
  bool listed = false;
  if (td.take && leaf == LEAF_TAKE && v->vmcb->cpl == 3) memory_take(v, v->g[RDI]);
  for (u32 i = 0; i < ARRAY_SIZE(native_leaves); i++) listed |= native_leaves[i] == leaf;
  if (!listed || (v->cpuid_ve & (v->vmcb->cpl == 0 ? 1 : 2))) {
    count(v, VE_CPUID);
    inject_ve(v, 10, 0, 0, 0, length, 0);
    return;
  }
  count(v, MODULE_CPUID);
  struct cpuid c = module_cpuid(v, leaf, sub);
  v->g[RAX] = c.eax;
  v->g[RBX] = c.ebx;
  v->g[RCX] = c.ecx;
  v->g[RDX] = c.edx;
  v->vmcb->rip += length;
}

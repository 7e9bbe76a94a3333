// SPDX-License-Identifier: Apache-2.0
//
// CPUID in a TD. The kernel itself executes only leaves that the TDX module answers (never a #VE); programs get every
// answer from a table that is made of those at boot, so no answer is the host's, and what needs ring 0, another setting
// of the kernel or the host's help is not there. AVX-512 and AMX stay as XFAM allows, which the module has put into its
// answers. Leaves that the module would leave to the host are made up where programs need them, else zero.
#include "arch/internal.h"
#include "arch/tdx.h"

#define MAX_ENTRIES 48
#define CACHE_LEAVES 5 // sub-leaves of leaf 4 that the module knows
#define ANY ~0u
struct entry { u32 leaf, sub; struct cpuid v; };
static struct entry table[MAX_ENTRIES];
static u32 entries;
static u32 max_basic;

static struct cpuid *add(u32 leaf, u32 sub, struct cpuid v) {
  ASSERT(entries < MAX_ENTRIES);
  table[entries] = (struct entry){ leaf, sub, v };
  return &table[entries++].v;
}
static struct cpuid *copy(u32 leaf, u32 sub) { return add(leaf, sub, cpuid(leaf, sub == ANY ? 0 : sub)); }

// Bits that a program could only misunderstand here: ring 0's, or settings that this kernel does not make.
static void filter(void) {
  struct cpuid *c = copy(1, ANY);
  // DTES64 MONITOR DS-CPL VMX SMX EST TM2 SDBG xTPR PDCM PCID DCA x2APIC TSC-deadline
  c->ecx &= ~(u32)(BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(11) | BIT(14) | BIT(15) | BIT(17) |
    BIT(18) | BIT(21) | BIT(24));
  c->edx &= ~(u32)(BIT(12) | BIT(18) | BIT(21) | BIT(22) | BIT(29) | BIT(31)); // MTRR PSN DS ACPI TM PBE
  c->ebx &= 0xffff; // brand, CLFLUSH size; vCPU count and number: cpuid_user
  if (cpu_features.max_leaf < 7) return;
  c = copy(7, 0);
  c->eax = MIN(c->eax, 2u);
  c->ebx &= ~(u32)(BIT(1) | BIT(2) | BIT(4) | BIT(10) | BIT(11) | BIT(12) | BIT(15) | BIT(25)); // TSC_ADJUST SGX HLE INVPCID RTM PQM PQE PT
  c->ecx &= ~(u32)(BIT(3) | BIT(4) | BIT(5) | BIT(7) | BIT(13) | BIT(16) | BIT(23) | BIT(29) | BIT(30) | BIT(31)); // PKU OSPKE WAITPKG CET-SS TME LA57 KL ENQCMD SGX_LC PKS
  c->edx &= ~(u32)(BIT(5) | BIT(11) | BIT(13) | BIT(18) | BIT(19) | BIT(20) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(30) | BIT(31)); // UINTR RTM PCONFIG LBR CET-IBT, speculation MSRs
  if ((fpu_xcr0 & 0xe0) != 0xe0) { // not in XFAM: so is the module's answer, and this kernel's
    c->ebx &= ~(u32)(BIT(16) | BIT(17) | BIT(21) | BIT(28) | BIT(30) | BIT(31));
    c->ecx &= ~(u32)(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
    c->edx &= ~(u32)(BIT(2) | BIT(3) | BIT(8) | BIT(23));
  }
  bool amx = (fpu_xcr0 & FPU_AMX) == FPU_AMX;
  if (!amx) c->edx &= ~(u32)(BIT(22) | BIT(24) | BIT(25));
  u32 sub = c->eax;
  if (sub >= 1) {
    c = copy(7, 1);
    c->eax &= (u32)(BIT(4) | BIT(5) | BIT(10) | BIT(11) | BIT(12) | BIT(23)) | (amx ? (u32)BIT(21) : 0); // AVX-VNNI AVX512-BF16 FZRM FSRS FSRC AVX-IFMA, AMX-FP16
    c->ebx = 0;
    c->ecx = 0;
    c->edx &= (u32)(BIT(4) | BIT(5)) | (amx ? (u32)BIT(8) : 0); // AVX-VNNI-INT8 AVX-NE-CONVERT, AMX-COMPLEX
  }
  if (sub >= 2) copy(7, 2);
  if (amx && max_basic >= 0x1e) {
    copy(0x1d, 0);
    copy(0x1d, 1);
    copy(0x1e, 0);
  }
}

static void save_areas(void) {
  if (!cpu_features.xsave || cpu_features.max_leaf < 0xd) return;
  struct cpuid *c = copy(0xd, 0);
  c->eax = (u32)fpu_xcr0;
  c->edx = (u32)(fpu_xcr0 >> 32);
  c->ecx = 512 + 64;
  for (u32 i = 2; i < 32; i++) {
    if (!(fpu_xcr0 & BIT(i))) continue;
    struct cpuid *part = copy(0xd, i);
    c->ecx = MAX(c->ecx, part->ebx + part->eax); // for all that this table offers
  }
  c = copy(0xd, 1);
  c->eax &= 7; // XSAVEOPT XSAVEC XGETBV1; XSAVES is ring 0's, XFD is not used
  c->ecx = c->edx = 0;
}

void cpuid_init(void) {
  struct cpuid *c = copy(0, ANY);
  max_basic = c->eax = MIN(c->eax, 0x1fu);
  filter();
  add(2, ANY, (struct cpuid){ 0x00feff01, 0, 0, 0xf0 }); // caches: see leaf 4; TLBs: see leaf 18H
  for (u32 i = 0; i < CACHE_LEAVES && max_basic >= 4; i++) {
    c = copy(4, i);
    if (!(c->eax & 0x1f)) break;
  }
  save_areas();
  if (max_basic >= 0x15) copy(0x15, ANY);
  c = copy(0x80000000, ANY);
  c->eax = 0x80000008;
  c = copy(0x80000001, ANY);
  c->ecx &= (u32)(BIT(0) | BIT(5) | BIT(8));
  char name[48] = "Intel(R) processor in a TDX trust domain";
  for (u32 i = 0; i < 3; i++) memcpy(add(0x80000002 + i, ANY, (struct cpuid){ 0 }), name + 16 * i, 16);
  memcpy(cpu_info.model, name, sizeof(name));
  add(0x80000007, ANY, (struct cpuid){ .edx = BIT(8) }); // the TSC of a TD never stops and never changes its rate
  copy(0x80000008, ANY)->ebx &= BIT(9);                  // WBNOINVD is no use, but its bit says nothing else
}

// Threads of one package, a core each: what the host says of its processors is not asked.
static struct cpuid topology(u32 sub) {
  u32 bits = 0;
  while (1u << bits < cpu_count) bits++;
  struct cpuid c = { .ecx = sub & 0xff, .edx = this_cpu()->id };
  if (sub == 0) c = (struct cpuid){ 0, 1, 0x100, this_cpu()->id };
  if (sub == 1) c = (struct cpuid){ bits, cpu_count, 0x201, this_cpu()->id };
  return c;
}

void cpuid_user(u32 leaf, u32 sub, struct cpuid *out) {
  *out = (struct cpuid){ 0 };
  if (leaf >= 0x40000000 && leaf < 0x50000000) return; // no hypervisor that a program could talk to
  if (leaf > 0x80000008 || (leaf > max_basic && leaf < 0x80000000)) leaf = max_basic; // as the CPU does
  if (leaf == 0xb || leaf == 0x1f) {
    *out = topology(sub);
    return;
  }
  for (u32 i = 0; i < entries; i++) {
    if (table[i].leaf != leaf || (table[i].sub != ANY && table[i].sub != sub)) continue;
    *out = table[i].v;
    if (leaf == 1) out->ebx |= this_cpu()->id << 24 | (cpu_count & 0xff) << 16;
    if (leaf == 0xd && sub == 0) out->ebx = fpu_state_bytes;
    return;
  }
}

// SPDX-License-Identifier: Apache-2.0
//
// What this CPU can do, its descriptor tables and control registers. W^X and the supervisor protections are switched on
// here for every CPU before it runs anything else.
#include "arch/internal.h"

struct cpu_features cpu_features;
struct cpu_info cpu_info;
u8 cpu_has_smap;
bool in_td;
u64 pte_shared_bit;
u32 cpu_count = 1;
struct cpu *cpus[MAX_CPUS];

static struct cpu boot_cpu;
static struct arch_cpu boot_arch_cpu;

struct idt_gate { u16 offset0, selector; u8 ist, type; u16 offset1; u32 offset2, reserved; };
static struct idt_gate idt[256] __aligned(16);
struct table_pointer { u16 limit; u64 base; } __packed;

static void read_features(void) {
  struct cpu_features *f = &cpu_features;
  struct cpuid c = cpuid(0, 0);
  f->max_leaf = c.eax;
  memcpy(cpu_info.vendor, &c.ebx, 4);
  memcpy(cpu_info.vendor + 4, &c.edx, 4);
  memcpy(cpu_info.vendor + 8, &c.ecx, 4);
  c = cpuid(1, 0);
  f->ecx1 = c.ecx;
  f->edx1 = c.edx;
  u32 family = (c.eax >> 8) & 15, model = (c.eax >> 4) & 15;
  cpu_info.stepping = c.eax & 15;
  if (family == 6 || family == 15) model |= ((c.eax >> 16) & 15) << 4;
  if (family == 15) family += (c.eax >> 20) & 255;
  cpu_info.family = family;
  cpu_info.model_no = model;
  cpu_info.hwcap = c.edx;
  if (f->max_leaf >= 7) {
    c = cpuid(7, 0);
    f->ebx7 = c.ebx;
    f->ecx7 = c.ecx;
    f->edx7 = c.edx;
    if (c.eax >= 1) f->eax71 = cpuid(7, 1).eax;
  }
  f->max_ext_leaf = cpuid(0x80000000, 0).eax;
  if (f->max_ext_leaf >= 0x80000001) {
    c = cpuid(0x80000001, 0);
    f->ecx_ext1 = c.ecx;
    f->edx_ext1 = c.edx;
  }
  if (f->max_ext_leaf >= 0x80000004 && !in_td) { // in a TD: a #VE
    for (u32 i = 0; i < 3; i++) {
      c = cpuid(0x80000002 + i, 0);
      memcpy(cpu_info.model + i * 16, &c, 16);
    }
  }
  f->fsgsbase = f->ebx7 & BIT(0);
  f->smep = f->ebx7 & BIT(7);
  f->erms = f->ebx7 & BIT(9);
  f->smap = f->ebx7 & BIT(20);
  f->rdseed = f->ebx7 & BIT(18);
  f->umip = f->ecx7 & BIT(2);
  f->xsave = f->ecx1 & BIT(26);
  f->x2apic = in_td || (f->ecx1 & BIT(21)); // a TD has both, whatever the host lets the bits say
  f->tsc_deadline = in_td || (f->ecx1 & BIT(24));
  f->rdrand = f->ecx1 & BIT(30);
  f->page_1g = f->edx_ext1 & BIT(26);
  if (f->xsave && f->max_leaf >= 0xd) {
    f->eax_d1 = cpuid(0xd, 1).eax;
    f->xsaveopt = f->eax_d1 & BIT(0);
  }
  // SHA needs SSSE3 and SSE4.1 beside it, which every CPU that has it has; a hypervisor may say otherwise.
  sha2_use(f->ebx7 & BIT(8), (f->ebx7 & BIT(29)) && (f->ecx1 & BIT(9)) && (f->ecx1 & BIT(19)));
  if (f->fsgsbase) cpu_info.hwcap2 |= BIT(1); // HWCAP2_FSGSBASE
}

static void make_idt(void) {
  extern const u8 trap_stubs[];
  for (u32 v = 0; v < 256; v++) {
    u64 at = (u64)trap_stubs + 16 * v;
    u8 ist = v == VECTOR_DF ? 1 : v == VECTOR_NMI ? 2 : v == VECTOR_MC ? 3 : 0;
    u8 dpl = v == 3 || v == 4 ? 3 : 0;
    idt[v] = (struct idt_gate){ (u16)at, KERNEL_CS, ist, (u8)(0x8e | dpl << 5), (u16)(at >> 16), (u32)(at >> 32), 0 };
  }
}

static void load_segments(struct cpu *c, struct arch_cpu *a) {
  a->gdt[2] = 0x00af9b000000ffff; // 0x10 kernel code
  a->gdt[3] = 0x00cf93000000ffff; // 0x18 kernel data
  a->gdt[4] = 0;                  // 0x20 would be 32-bit user code: there is none
  a->gdt[5] = 0x00cff3000000ffff; // 0x28 user data
  a->gdt[6] = 0x00affb000000ffff; // 0x30 user code
  u64 tss = (u64)&a->tss;
  a->gdt[8] = (sizeof(struct tss) - 1) | (tss & 0xffffff) << 16 | 0x89ul << 40 | (tss >> 24 & 0xff) << 56;
  a->gdt[9] = tss >> 32;
  a->tss.io_map = sizeof(struct tss);
  for (u32 i = 0; i < 3; i++) {
    u64 top = (u64)a->ist_stack[i] + IST_BYTES;
    ((u64 *)top)[-1] = (u64)c;
    a->tss.ist[i] = top - 16;
  }
  struct table_pointer gdt = { sizeof(a->gdt) - 1, (u64)a->gdt }, idtp = { sizeof(idt) - 1, (u64)idt };
  __asm__ volatile(
    "lgdt %0\n\t"
    "lidt %1\n\t"
    "pushq %2\n\t"
    "leaq 1f(%%rip), %%rax\n\t"
    "pushq %%rax\n\t"
    "lretq\n"
    "1: movl %3, %%eax\n\t"
    "movl %%eax, %%ss\n\t"
    "xorl %%eax, %%eax\n\t"
    "movl %%eax, %%ds\n\t"
    "movl %%eax, %%es\n\t"
    "movl %%eax, %%fs\n\t"
    "movl %%eax, %%gs\n\t"
    "lldt %%ax\n\t"
    "movl %4, %%eax\n\t"
    "ltr %%ax"
    ::"m"(gdt), "m"(idtp), "i"(KERNEL_CS), "i"(KERNEL_SS), "i"(TSS_SELECTOR) : "rax", "memory");
}

__attribute__((no_stack_protector)) void cpu_init_this(struct cpu *c, struct arch_cpu *a) {
  extern const u8 syscall_entry[];
  const struct cpu_features *f = &cpu_features;
  load_segments(c, a);
  c->self = c;
  c->arch = a;
  wrmsr(MSR_GS_BASE, (u64)c);
  wrmsr(MSR_KERNEL_GS_BASE, 0);
  wrmsr(MSR_FS_BASE, 0);
  write_cr0((read_cr0() | CR0_WP | CR0_NE | CR0_MP) & ~(CR0_EM | CR0_TS | CR0_AM));
  u64 cr4 = read_cr4() | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_MCE | CR4_DE;
  if (f->smep) cr4 |= CR4_SMEP;
  if (f->smap) cr4 |= CR4_SMAP;
  if (f->umip) cr4 |= CR4_UMIP;
  if (f->fsgsbase) cr4 |= CR4_FSGSBASE;
  if (f->xsave) cr4 |= CR4_OSXSAVE;
  write_cr4(cr4);
  __asm__ volatile("mov %0, %%dr7" ::"r"(0x400ul));
  // SYSCALL loads CS 0x10 and SS 0x18; SYSRET loads CS 0x23 + 16 and SS 0x23 + 8.
  wrmsr(MSR_STAR, 0x23ul << 48 | (u64)KERNEL_CS << 32);
  wrmsr(MSR_LSTAR, (u64)syscall_entry);
  wrmsr(MSR_SFMASK, RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID);
  fpu_init_this();
}

__attribute__((no_stack_protector)) void arch_early_init(bool td) {
  in_td = td;
  read_features();
  cpu_has_smap = cpu_features.smap;
  make_idt();
  boot_cpu.online = true;
  boot_cpu.apic_id = cpuid(1, 0).ebx >> 24;
  cpus[0] = &boot_cpu;
  cpu_init_this(&boot_cpu, &boot_arch_cpu);
  if (!td) return;
  tdx_init();
  tdx_init_this();
  cpuid_init();
}

void arch_set_kernel_stack(void *top) {
  struct cpu *c = this_cpu();
  c->kernel_rsp = (u64)top;
  c->arch->tss.rsp0 = (u64)top;
}

// With FSGSBASE the kernel may read and write the program's bases without MSRs. The program's GS base is in the other
// half of swapgs; NMIs between the two are fine (entry.S).
void arch_set_fs_base(u64 base) {
  if (cpu_features.fsgsbase) __asm__ volatile("wrfsbase %0" ::"r"(base));
  else wrmsr(MSR_FS_BASE, base);
}
u64 arch_get_fs_base(void) {
  u64 v;
  if (!cpu_features.fsgsbase) return rdmsr(MSR_FS_BASE);
  __asm__ volatile("rdfsbase %0" : "=r"(v));
  return v;
}
void arch_set_user_gs_base(u64 base) {
  if (!cpu_features.fsgsbase) {
    wrmsr(MSR_KERNEL_GS_BASE, base);
    return;
  }
  u64 flags = irq_save();
  __asm__ volatile("swapgs; wrgsbase %0; swapgs" ::"r"(base) : "memory");
  irq_restore(flags);
}
u64 arch_get_user_gs_base(void) {
  if (!cpu_features.fsgsbase) return rdmsr(MSR_KERNEL_GS_BASE);
  u64 v, flags = irq_save();
  __asm__ volatile("swapgs; rdgsbase %0; swapgs" : "=r"(v)::"memory");
  irq_restore(flags);
  return v;
}

void cpu_flags_string(char *buf, size_t size) {
  static const struct { u8 word, bit; const char *name; } flags[] = { // word: 0 1.edx 1 ext1.edx 2 1.ecx 3 ext1.ecx 4 7.ebx 5 7.ecx 6 7.edx 7 d1.eax
    { 0, 0, "fpu" }, { 0, 1, "vme" }, { 0, 2, "de" }, { 0, 3, "pse" }, { 0, 4, "tsc" }, { 0, 5, "msr" }, { 0, 6, "pae" },
    { 0, 7, "mce" }, { 0, 8, "cx8" }, { 0, 9, "apic" }, { 0, 11, "sep" }, { 0, 12, "mtrr" }, { 0, 13, "pge" }, { 0, 14, "mca" },
    { 0, 15, "cmov" }, { 0, 16, "pat" }, { 0, 17, "pse36" }, { 0, 19, "clflush" }, { 0, 23, "mmx" }, { 0, 24, "fxsr" },
    { 0, 25, "sse" }, { 0, 26, "sse2" }, { 0, 27, "ss" }, { 0, 28, "ht" }, { 1, 11, "syscall" }, { 1, 20, "nx" },
    { 1, 22, "mmxext" }, { 1, 25, "fxsr_opt" }, { 1, 26, "pdpe1gb" }, { 1, 27, "rdtscp" }, { 1, 29, "lm" },
    { 1, 31, "3dnow" }, { 1, 30, "3dnowext" }, { 2, 0, "pni" }, { 2, 1, "pclmulqdq" }, { 2, 9, "ssse3" }, { 2, 12, "fma" },
    { 2, 13, "cx16" }, { 2, 19, "sse4_1" }, { 2, 20, "sse4_2" }, { 2, 21, "x2apic" }, { 2, 22, "movbe" }, { 2, 23, "popcnt" },
    { 2, 24, "tsc_deadline_timer" }, { 2, 25, "aes" }, { 2, 26, "xsave" }, { 2, 28, "avx" }, { 2, 29, "f16c" },
    { 2, 30, "rdrand" }, { 2, 31, "hypervisor" }, { 3, 0, "lahf_lm" }, { 3, 5, "abm" }, { 3, 6, "sse4a" }, { 3, 8, "3dnowprefetch" },
    { 4, 0, "fsgsbase" }, { 4, 3, "bmi1" }, { 4, 5, "avx2" }, { 4, 7, "smep" }, { 4, 8, "bmi2" }, { 4, 9, "erms" },
    { 4, 16, "avx512f" }, { 4, 17, "avx512dq" }, { 4, 18, "rdseed" }, { 4, 19, "adx" }, { 4, 20, "smap" }, { 4, 21, "avx512ifma" },
    { 4, 23, "clflushopt" }, { 4, 24, "clwb" }, { 4, 28, "avx512cd" }, { 4, 29, "sha_ni" }, { 4, 30, "avx512bw" }, { 4, 31, "avx512vl" },
    { 7, 0, "xsaveopt" }, { 7, 1, "xsavec" }, { 5, 1, "avx512vbmi" }, { 5, 2, "umip" }, { 5, 6, "avx512_vbmi2" }, { 5, 8, "gfni" },
    { 5, 9, "vaes" }, { 5, 10, "vpclmulqdq" }, { 5, 11, "avx512_vnni" }, { 5, 12, "avx512_bitalg" }, { 5, 14, "avx512_vpopcntdq" },
    { 5, 22, "rdpid" }, { 6, 4, "fsrm" }, { 6, 14, "serialize" },
  };
  const struct cpu_features *f = &cpu_features;
  const u32 words[] = { f->edx1, f->edx_ext1, f->ecx1, f->ecx_ext1, f->ebx7, f->ecx7, f->edx7, f->eax_d1 };
  size_t n = 0;
  if (size) buf[0] = 0;
  for (size_t i = 0; i < ARRAY_SIZE(flags) && n + 1 < size; i++)
    if (words[flags[i].word] & BIT(flags[i].bit))
      n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? " " : "", flags[i].name);
}

// SPDX-License-Identifier: Apache-2.0
//
// arch, shared inside the room and with boot/: MSRs, control bits, descriptor tables, per-CPU machine state, vectors.
#ifndef ARCH_INTERNAL_H
#define ARCH_INTERNAL_H
#include "arch/arch.h"

#define MSR_APIC_BASE 0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u

#define EFER_SCE BIT(0)
#define EFER_NXE BIT(11)

#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR4_DE BIT(3)
#define CR4_MCE BIT(6)
#define CR4_PGE BIT(7)
#define CR4_OSFXSR BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP BIT(11)
#define CR4_FSGSBASE BIT(16)
#define CR4_OSXSAVE BIT(18)
#define CR4_SMEP BIT(20)
#define CR4_SMAP BIT(21)

#define RFLAGS_TF BIT(8)
#define RFLAGS_DF BIT(10)
#define RFLAGS_IOPL (BIT(12) | BIT(13))
#define RFLAGS_NT BIT(14)
#define RFLAGS_RF BIT(16)
#define RFLAGS_VM BIT(17)
#define RFLAGS_AC BIT(18)
#define RFLAGS_ID BIT(21)
// What a program may choose: CF PF AF ZF SF TF DF OF NT RF AC ID.
#define RFLAGS_USER (0xcd5ul | RFLAGS_TF | RFLAGS_DF | RFLAGS_RF | RFLAGS_AC | RFLAGS_ID)

#define KERNEL_CS 0x10
#define KERNEL_SS 0x18
#define TSS_SELECTOR 0x40

enum { // vectors
  VECTOR_DEBUG = 1, VECTOR_NMI = 2, VECTOR_DF = 8, VECTOR_GP = 13, VECTOR_PF = 14, VECTOR_MC = 18, VECTOR_VE = 20,
  VECTOR_FIRST_DEVICE = 0x30, VECTOR_LAST_DEVICE = 0xdf,
  VECTOR_TIMER = 0xec, VECTOR_RESCHED = 0xfc, VECTOR_CALL = 0xfd, VECTOR_SPURIOUS = 0xff,
};

struct tss {
  u32 reserved0;
  u64 rsp0, rsp1, rsp2;
  u64 reserved1;
  u64 ist[7]; // 1 #DF, 2 NMI, 3 #MC
  u64 reserved2;
  u16 reserved3, io_map;
} __packed;

// The last 16 bytes of each IST stack hold the CPU's address: entry.S finds it there, whatever GS is.
#define IST_BYTES 8192
struct arch_cpu {
  u8 ist_stack[3][IST_BYTES];
  u64 gdt[10];
  struct tss tss;
  u32 random_key[8];
  u64 random_used;
} __aligned(IST_BYTES);

struct cpuid { u32 eax, ebx, ecx, edx; };
static inline struct cpuid cpuid(u32 leaf, u32 sub) {
  struct cpuid c;
  __asm__ volatile("cpuid" : "=a"(c.eax), "=b"(c.ebx), "=c"(c.ecx), "=d"(c.edx) : "a"(leaf), "c"(sub));
  return c;
}
static inline u64 rdmsr(u32 msr) {
  u32 lo, hi;
  __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr));
  return ((u64)hi << 32) | lo;
}
static inline void wrmsr(u32 msr, u64 v) {
  __asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}
static inline u64 read_cr0(void) { u64 v; __asm__ volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline void write_cr0(u64 v) { __asm__ volatile("mov %0, %%cr0" ::"r"(v) : "memory"); }
static inline u64 read_cr4(void) { u64 v; __asm__ volatile("mov %%cr4, %0" : "=r"(v)); return v; }
static inline void write_cr4(u64 v) { __asm__ volatile("mov %0, %%cr4" ::"r"(v) : "memory"); }

// What this CPU has, read once on the first CPU (arch/cpu.c).
struct cpu_features {
  u32 max_leaf, max_ext_leaf;
  u32 ecx1, edx1, ebx7, ecx7, edx7, eax71, ecx_ext1, edx_ext1, eax_d1;
  bool fsgsbase, smap, smep, umip, xsave, xsaveopt, x2apic, tsc_deadline, page_1g, rdrand, rdseed, erms;
};
extern struct cpu_features cpu_features;
extern u8 cpu_has_smap; // for uaccess.S

// --- boot, in this order on the first CPU; the APs run cpu_init_this and apic_init_this only
void arch_early_init(bool td);                      // features, descriptor tables, control registers; GS is valid after it
void cpu_init_this(struct cpu *c, struct arch_cpu *a); // this CPU's tables and registers
void random_init(void);                             // stops when RDRAND fails
void apic_init(volatile void *xapic);               // xapic: its mapped page, NULL in x2APIC mode
void apic_init_this(void);
bool apic_is_x2(void);
void time_init(volatile void *hpet);                // calibrates TSC and APIC timer
void apic_start_others(u32 trampoline_page);        // INIT, SIPI to all but this CPU
void apic_resend_startup(u32 trampoline_page);
void fpu_init_this(void);
void random_init_this(struct arch_cpu *a);

// --- inside the room
void apic_eoi(void);
bool apic_in_service(u32 vector);
void apic_send_ipi(u32 apic_id, u32 vector);
void apic_send_ipi_others(u32 vector); // every CPU but this one
void apic_send_nmi_others(void);
void apic_timer_set(u64 ns_from_now, u64 deadline_tsc);
u32 apic_timer_count_start(void); // for calibration: starts counting down from the maximum
u32 apic_timer_count(void);
void apic_timer_set_hz(u64 hz);
void irq_dispatch(u32 vector);
void ipi_call_irq(void);
void arch_trap(struct regs *r, u32 vector);
void arch_trap_ist(struct regs *r, u32 vector);
u32 arch_syscall(struct regs *r);
void arch_exit_to_user(struct regs *r);
void dump_regs(const struct regs *r);
void backtrace(const u64 *sp);
extern u32 panicking;
void arch_stop_others(void);
#define KSTACK_ALIGN (16 * KIB)

// --- TD (arch/tdx.c)
struct tdx_ve { u32 reason, insn_len; u64 qualification, gpa; };
void tdx_init(void);                                // asks the module; sets pte_shared_bit
void tdx_share(phys_t pa, u64 len_bytes);           // MapGPA to shared; the host's refusal ends the machine
void tdx_set_fatal_page(u8 *va, phys_t phys);       // shared, for tdx_fatal
bool __must_check tdx_ve_info(struct tdx_ve *ve);   // clears it; first thing after a #VE
void tdx_init_this(void);                           // on every CPU, after cpu_init_this
void cpuid_init(void);                              // arch/cpuid.c: the table
void cpuid_user(u32 leaf, u32 sub, struct cpuid *out);
void tdx_halt(void);                                // interrupts off; returns with them off
void tdx_halt_blocked(void);                        // and no interrupt ends it
u64 tdx_msr_read(u32 msr);                          // the host's answer, 0 when it has none
void tdx_msr_write(u32 msr, u64 v);
__noreturn void arch_stop_this(void);               // this CPU, for good
#define FPU_AMX (BIT(17) | BIT(18))

extern const u8 kernel_start[], kernel_text_end[], kernel_rodata_end[], kernel_file_end[], kernel_end[], boot_stack_guard[];

#endif

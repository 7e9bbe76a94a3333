// SPDX-License-Identifier: Apache-2.0
//
// tdxsim: what a TD meets below it, in one small hypervisor on AMD SVM: the TDX module (module.c, memory.c, report.c,
// cpuid.c, msr.c) and the host's VMM (vmm.c, build.c, quote.c, hostile.c), on the machine's own devices (host.c). README.md
// has the interfaces. One simulator CPU for each vCPU of the TD; a CPU runs its vCPU or works for it, and nothing else.
//
// Locks, in order: memory_lock (page states, nested page tables), quote_lock (GetQuote requests), text_lock (the text
// channel). No interrupts are taken in the simulator, so plain spinlocks do.
#ifndef SIM_SIM_H
#define SIM_SIM_H
#include "lib/lib.h"
#include "sim/layout.h"

#define PAGE 4096ul
#define PAGE2M (2 * MIB)
#define PHYS(p) ((void *)(uptr)(p)) // all of RAM and device memory is mapped one to one

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

// --- what is counted: exits of the TD to its VMM (name "exits."), and what the module handled itself
#define COUNTERS(X) \
  X(EXIT_CPUID, "exits.cpuid") X(EXIT_HLT, "exits.hlt") X(EXIT_IO, "exits.io") X(EXIT_RDMSR, "exits.rdmsr") \
  X(EXIT_WRMSR_ICR, "exits.wrmsr_icr") X(EXIT_WRMSR_TIMER, "exits.wrmsr_timer") X(EXIT_WRMSR, "exits.wrmsr") \
  X(EXIT_MMIO_READ, "exits.mmio_read") X(EXIT_MMIO_WRITE, "exits.mmio_write") X(EXIT_MAPGPA, "exits.mapgpa") \
  X(EXIT_QUOTE, "exits.getquote") X(EXIT_OTHER, "exits.vmcall_other") X(EXIT_EPT, "exits.ept_violation") \
  X(VE_CPUID, "ve.cpuid") X(VE_IO, "ve.io") X(VE_MSR, "ve.msr") X(VE_HLT, "ve.hlt") X(VE_EPT, "ve.ept_violation") \
  X(VE_OTHER, "ve.other") \
  X(MODULE_CALL, "module.tdcall") X(MODULE_ACCEPT_4K, "module.accept_4k") X(MODULE_ACCEPT_2M, "module.accept_2m") \
  X(MODULE_CPUID, "module.cpuid") X(MODULE_EOI, "module.eoi") X(MODULE_MSR, "module.msr") X(MODULE_CR, "module.cr") \
  X(MODULE_KICK, "module.kick") X(SVM_EXITS, "svm.exits")
#define COUNTER_ID(id, name) id,
enum counter { COUNTERS(COUNTER_ID) COUNTER_COUNT };
#define EXIT_LAST EXIT_EPT // the exits come first

// --- AMD SVM (AMD APM volume 2, appendix B)
struct vmcb_seg { u16 selector, attributes; u32 limit; u64 base; } __packed;
struct vmcb {
  u16 cr_read, cr_write, dr_read, dr_write;
  u32 exceptions, misc1, misc2;
  u8 pad0[0x40 - 0x14];
  u64 iopm, msrpm, tsc_offset;
  u32 asid, tlb_control;
  u32 int_control, int_vector;
  u64 int_state, exit_code, exit_info1, exit_info2, exit_int_info, np_enable;
  u8 pad1[0xa8 - 0x98];
  u64 event_injection, nested_cr3;
  u8 pad2[0x400 - 0xb8];
  struct vmcb_seg es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
  u8 pad3[0xcb - 0xa0];
  u8 cpl;
  u32 pad4;
  u64 efer;
  u8 pad5[0x148 - 0xd8];
  u64 cr4, cr3, cr0, dr7, dr6, rflags, rip;
  u8 pad6[0x1d8 - 0x180];
  u64 rsp;
  u8 pad7[0x1f8 - 0x1e0];
  u64 rax, star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip, cr2;
  u8 pad8[0x268 - 0x248];
  u64 pat;
  u8 pad9[0x1000 - 0x400 - 0x270];
};
_Static_assert(sizeof(struct vmcb) == 4096, "VMCB");
_Static_assert(offsetof(struct vmcb, event_injection) == 0xa8 && offsetof(struct vmcb, rip) == 0x578, "VMCB");

struct ve_info { bool valid; u32 reason, length, info; u64 qualification, gla, gpa; };

struct vcpu {
  struct vmcb *vmcb;
  u64 g[16];         // in ModRM order; RAX and RSP are copied from and to the VMCB around a run
  u32 index;
  u32 in_guest;      // between the last look at the page tables and the exit: who changes them waits for this to end
  u32 nmi_pending;   // an NMI of another vCPU
  u64 event;         // to be injected at the next entry (EVENTINJ format)
  u64 cr4;           // as the TD sees it: QEMU's #VMEXIT needs PAE in the real one
  u8 cpuid_ve;       // TDG.VP.CPUIDVE.SET: bit 0 supervisor, bit 1 user
  struct ve_info ve;
  u32 lvt_timer, timer_divide; // the local APIC's timer as the TD set it
  u64 timer_initial, timer_end_tsc, tsc_deadline;
  u32 io_apic_index, cmos_index;
  u64 rng, last_answer; // hostile.c
  u64 counters[COUNTER_COUNT];
};

struct td {
  u32 gpaw, num_vcpus;
  u64 shared_bit, attributes, xfam;
  u64 memory_bytes, low_end, high_end; // RAM: [0, low_end) and [4 GiB, high_end)
  u64 image_base;                      // private memory too: [image_base, 4 GiB)
  u64 offset;                          // private GPA X is at X + offset
  u64 hob;                             // GPA of the TD HOB
  u8 mrtd[48], mrconfigid[48], mrowner[48], mrownerconfig[48], rtmr[4][48];
  u64 notify_enables;
  u32 notify_vector, notify_vcpu;      // SetupEventNotifyInterrupt
  bool fwcfg;                          // the TD may use fw_cfg: for foreign firmware
  bool take;                           // CPUID leaf LEAF_TAKE in ring 3 asks the host to take the page at RDI away
  u32 aug_level;                       // 1: the VMM gives memory in 2 MiB pages where it can, 0: in 4 KiB pages
};

#define LEAF_TAKE 0x656b6174

extern struct td td;
extern struct vcpu vcpus[MAX_CPUS];
extern u64 tsc_hz, sim_phys;
extern u64 npt_root;
extern bool la57;

static inline u64 count(struct vcpu *v, enum counter c) { return ++v->counters[c]; }

// --- instructions
static inline u64 rdtsc(void) { u32 lo, hi; __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)); return (u64)hi << 32 | lo; }
static inline u64 rdmsr(u32 msr) { u32 lo, hi; __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr)); return (u64)hi << 32 | lo; }
static inline void wrmsr(u32 msr, u64 v) { __asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32)) : "memory"); }
static inline u64 xgetbv(void) { u32 lo, hi; __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0)); return (u64)hi << 32 | lo; }
static inline void cpu_relax(void) { __asm__ volatile("pause" ::: "memory"); }
static inline u8 in8(u16 port) { u8 v; __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u16 in16(u16 port) { u16 v; __asm__ volatile("inw %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline u32 in32(u16 port) { u32 v; __asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port)); return v; }
static inline void out8(u16 port, u8 v) { __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port)); }
static inline void out16(u16 port, u16 v) { __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port)); }
static inline void out32(u16 port, u32 v) { __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory"); }
struct cpuid { u32 eax, ebx, ecx, edx; };
static inline struct cpuid cpuid(u32 leaf, u32 sub) {
  struct cpuid c;
  __asm__ volatile("cpuid" : "=a"(c.eax), "=b"(c.ebx), "=c"(c.ecx), "=d"(c.edx) : "a"(leaf), "c"(sub));
  return c;
}
static inline u64 virt_to_phys(const void *p) { return (u64)(uptr)p - 0xffffffff80000000ull + sim_phys; }

struct spinlock { u32 taken; };
static inline void spin_lock(struct spinlock *l) { while (__atomic_exchange_n(&l->taken, 1, __ATOMIC_ACQUIRE)) cpu_relax(); }
static inline void spin_unlock(struct spinlock *l) { __atomic_store_n(&l->taken, 0, __ATOMIC_RELEASE); }

// --- host.c: the machine under the simulator
void say(const char *fmt, ...) __printf(1, 2);      // one line on the text channel (COM1 when there is none)
void host_init(void);
bool fwcfg_find(const char *name, u32 *select, u32 *size);
void fwcfg_read(u32 select, u64 phys, u32 offset, u32 size);
bool fwcfg_number(const char *name, u64 *value);    // decimal or 0x text
bool fwcfg_hex48(const char *name, u8 out[48]);     // 48 raw bytes, or their hexadecimal digits
u32 host_cpu_count(void);
u32 local_apic_read(u32 reg);
void local_apic_write(u32 reg, u32 v);
void host_send_nmi(u32 index);
void host_send_vector(u32 index, u32 vector);
void host_start_cpus(void);
void host_setup_idt(void);
void host_take_nmi(void);                            // after an NMI exit: lets the CPU take it
void tsc_calibrate_begin(void);
void tsc_calibrate_end(void);
void *pages_alloc(u32 n);                            // zeroed
bool quote_port_present(void);
__noreturn void machine_stop(u32 status);            // prints the counters, ends QEMU
__noreturn void td_stop(const char *fmt, ...) __printf(1, 2); // the TD is dead: says why
void counters_print(void);
void serial_poll(void);

// --- build.c: the TD's birth
void td_build(void);
void say_digest(const char *name, const u8 digest[48]);

// --- memory.c: page states and nested page tables
enum page_state { PAGE_FREE, PAGE_PENDING, PAGE_MAPPED, PAGE_BLOCKED, PAGE_TABLE };
bool gpa_is_ram(u64 gpa, u64 size);
bool gpa_is_private_memory(u64 gpa);
enum page_state sept_get(u64 gpa, u32 *level);
void sept_add_4k(u64 gpa);                           // before the TD runs: mapped at once
u64 private_hpa(u64 gpa);
int memory_map_gpa(struct vcpu *v, u64 gpa, u64 size, bool shared);
u64 memory_accept(struct vcpu *v, u64 gpa, u32 level);
bool memory_private_ready(struct vcpu *v, u64 gpa);  // a module access to a TD page: true when it is mapped
bool shared_is_mapped(u64 gpa);
void memory_violation(struct vcpu *v);
void *td_memory(u64 gpa, bool allow_shared);         // of one page's content; NULL when it is not mapped
bool td_translate(struct vcpu *v, u64 linear, u64 *gpa); // by the TD's page tables
u64 decode_linear(struct vcpu *v, u64 gpa);          // decode.c: the address that made an EPT violation; 0: unknown
bool td_fetch(struct vcpu *v, u64 linear, void *buf, u32 n);
void memory_block(struct vcpu *v, bool remove);      // a random page of the TD's: blocked, or taken away
void memory_take(struct vcpu *v, u64 linear);        // the page there is taken away
u64 memory_random_shared(struct vcpu *v);            // a page that is shared now; 0: none
u64 memory_next_shared(u64 gpa);                     // at or after gpa; 0: none

// --- vcpu.c: running
__noreturn void vcpu_run(struct vcpu *v);
void vcpu_init(struct vcpu *v);
void vcpu_wait(struct vcpu *v);                      // for an interrupt, which stays pending
void inject_exception(struct vcpu *v, u32 vector, bool has_error, u32 error);
static inline void inject_gp(struct vcpu *v) { inject_exception(v, 13, true, 0); }
void inject_ve(struct vcpu *v, u32 reason, u64 qualification, u64 gla, u64 gpa, u32 length, u32 info);
void svm_run(u64 vmcb_phys, u64 *g);

// --- cpuid.c, msr.c
void cpuid_init(void);
void cpuid_exit(struct vcpu *v);
struct cpuid vmm_cpuid(struct vcpu *v, u32 leaf, u32 sub);
void msr_init(u8 *bitmap);
void msr_exit(struct vcpu *v);
bool vmm_rdmsr(struct vcpu *v, u32 msr, u64 *value);
bool vmm_wrmsr(struct vcpu *v, u32 msr, u64 value);

// --- module.c, report.c: TDCALL
void tdcall(struct vcpu *v);
u64 status_operand(u64 status, u32 operand);
u64 tdcall_report(struct vcpu *v);
u64 tdcall_verify_report(struct vcpu *v);
u64 tdcall_rtmr_extend(struct vcpu *v);
void report_init(void);
#define TDX_SUCCESS 0ull
#define TDX_OPERAND_INVALID 0xc000010000000000ull
#define TDX_OPERAND_BUSY 0x8000020000000000ull
#define TDX_INVALID_CPUSVN 0xc000100000000000ull
#define TDX_INVALID_REPORTMACSTRUCT 0xc000100100000000ull
#define TDX_NO_VALID_VE_INFO 0xc000070400000000ull
#define TDX_PAGE_ALREADY_ACCEPTED 0x00000b0a00000000ull
#define TDX_PAGE_SIZE_MISMATCH 0xc0000b0b00000000ull
#define TDX_FIELD_ID_INCORRECT 0xc0000c0000000000ull
#define TDX_FIELD_NOT_WRITABLE 0xc0000c0100000000ull
#define TDX_RETRY_LATER (~0ull) // not a status: the instruction runs again

// --- vmm.c, quote.c: what the host's VMM does for TDG.VP.VMCALL
void vmm_call(struct vcpu *v);
u64 quote_request(struct vcpu *v, u64 gpa, u64 size);
void quote_poll(void);
enum { VMCALL_SUCCESS = 0, VMCALL_RETRY = 1 };
#define VMCALL_INVALID_OPERAND 0x8000000000000000ull
#define VMCALL_GPA_INUSE 0x8000000000000001ull
#define VMCALL_ALIGN_ERROR 0x8000000000000002ull
#define VMCALL_UNSUPPORTED 0x8000000000000003ull

// --- hostile.c: decisions of a host that lies, from a seed; none without one
#define LIES(X) \
  X(LIE_HOB, "hob") X(LIE_STATUS, "status") X(LIE_VALUE, "value") X(LIE_STALE, "stale") X(LIE_CPUID, "cpuid") \
  X(LIE_MAPGPA_REFUSED, "mapgpa_refused") X(LIE_MAPGPA_RETRY, "mapgpa_retry") X(LIE_MAPGPA_WILD, "mapgpa_wild") \
  X(LIE_MAPGPA_IGNORED, "mapgpa_ignored") X(LIE_SMALL_PAGES, "small_pages") X(LIE_BLOCK, "block") X(LIE_REMOVE, "remove") \
  X(LIE_SCRIBBLE, "scribble") X(LIE_INTERRUPT, "interrupt") X(LIE_DELAY, "delay") X(LIE_WAKE, "wake") X(LIE_QUOTE, "quote") X(LIE_BUSY, "busy") \
  X(LIE_DOORBELL, "doorbell")
#define LIE_ID(id, name) id,
enum lie { LIES(LIE_ID) LIE_COUNT };
void hostile_init(void);
bool lie(struct vcpu *v, enum lie kind);
void lie_was(enum lie kind); // counts a lie that is a special case of another one
u64 hostile_random(struct vcpu *v);
u64 hostile_value(struct vcpu *v);
void hostile_delay(struct vcpu *v, u64 max_us);
void hostile_hob(u8 *hob, u32 n);
void hostile_exit(struct vcpu *v);
void hostile_print(void);
void secret_check_registers(const u64 *r);
void secret_scan(void);
#endif

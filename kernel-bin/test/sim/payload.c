// SPDX-License-Identifier: Apache-2.0
//
// A TD that knows nothing but the TDX ABI, and checks the simulator from inside. Prints `ok NAME` or `FAIL NAME` lines on
// COM1 through TDVMCALLs, and powers off; run.sh gives each run its parameters and reads the lines.
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64;
enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };
#define BIT(n) (1ul << (n))
#define ALIAS 0x8000000000ul // the shared alias of GPA x is mapped at ALIAS + x

u64 tdcall_raw(u64 *g);
void *memset(void *p, int c, size_t n) { u8 *b = p; while (n--) *b++ = (u8)c; return p; }
void *memcpy(void *d, const void *s, size_t n) { u8 *a = d; const u8 *b = s; while (n--) *a++ = *b++; return d; }
static bool same(const void *a, const void *b, size_t n) { const u8 *x = a, *y = b; while (n--) if (*x++ != *y++) return false; return true; }

static u32 gpaw;
static u64 shared_bit;

// --- TDCALL and TDVMCALL
static u64 g[16];
static u64 td_call(u64 leaf, u64 rcx, u64 rdx, u64 r8, u64 r9) {
  memset(g, 0, sizeof(g));
  g[RAX] = leaf; g[RCX] = rcx; g[RDX] = rdx; g[R8] = r8; g[R9] = r9;
  return tdcall_raw(g);
}
static u64 vm_call_g(u64 *r, u64 fn, u64 r12, u64 r13, u64 r14, u64 r15) {
  memset(r, 0, 16 * 8);
  r[RCX] = 0xfc00;
  r[R11] = fn; r[R12] = r12; r[R13] = r13; r[R14] = r14; r[R15] = r15;
  return tdcall_raw(r) ? ~0ul : r[R10];
}
static u64 vm_call(u64 fn, u64 r12, u64 r13, u64 r14, u64 r15) { return vm_call_g(g, fn, r12, r13, r14, r15); }
static void out(u16 port, u32 size, u32 v) { u64 r[16]; vm_call_g(r, 0x1e, size, 1, port, v); }
static u8 in8(u16 port) { u64 r[16]; vm_call_g(r, 0x1e, 1, 0, port, 0); return (u8)r[R11]; }

// --- printing
static void put(const char *s) {
  for (; *s; s++) {
    while (!(in8(0x3fd) & 0x20)) {} // QEMU drops what is written while the one that reads the port is busy
    out(0x3f8, 1, (u8)*s);
  }
}
static void put_hex(u64 v) {
  char t[19] = "0x";
  for (int i = 0; i < 16; i++) t[2 + i] = "0123456789abcdef"[v >> (60 - 4 * i) & 15];
  t[18] = 0;
  put(t);
}
static u32 failed;
static void check(const char *name, bool good) {
  put(good ? "ok " : "FAIL ");
  put(name);
  put("\n");
  if (!good) failed++;
}
static void equal(const char *name, u64 got, u64 want) {
  check(name, got == want);
  if (got == want) return;
  put("  got "); put_hex(got); put(", expected "); put_hex(want); put("\n");
}

// --- traps: recorded; a fault goes on `skip` bytes further
static volatile struct { u32 count, last; u64 error, ve_reason, ve_qualification, ve_gpa, ve_gla, ve_length, ve_status; } traps;
static volatile u32 skip, interrupts[256];
static bool keep_ve; // leave the #VE information where it is
static void (*on_ve)(void);

void ring3(void (*code)(void), u64 stack);
extern char ring3_back[];
static void eoi(void) { __asm__ volatile("wrmsr" ::"c"(0x80b), "a"(0), "d"(0)); }

void trap(u64 vector, u64 *frame) {
  if (vector >= 32) {
    __atomic_add_fetch(&interrupts[vector], 1, __ATOMIC_SEQ_CST);
    eoi();
    return;
  }
  traps.count++;
  traps.last = (u32)vector;
  traps.error = frame[0];
  if (vector == 20 && !keep_ve) {
    u64 r[16] = { 3 };
    traps.ve_status = tdcall_raw(r);
    traps.ve_reason = r[RCX];
    traps.ve_qualification = r[RDX];
    traps.ve_gpa = r[R9];
    traps.ve_gla = r[R8];
    traps.ve_length = r[R10];
  }
  if (frame[2] & 3) { // ring 3: back to who called it
    frame[1] = (u64)ring3_back;
    frame[2] = 8;
    frame[3] = 2;
    frame[4] = frame[4] & ~15ul;
    frame[5] = 0x10;
    return;
  }
  if (vector == 20 && on_ve) on_ve();
  else frame[1] += skip;
  if (traps.count > 100000) for (;;) {}
}

static struct { u16 offset0, selector; u8 ist, type; u16 offset1; u32 offset2, zero; } idt[256] __attribute__((aligned(16)));
static void traps_init(bool fill) {
  extern char trap_stubs[];
  for (u32 i = 0; fill && i < 256; i++) {
    u64 at = (u64)(trap_stubs + 16 * i);
    idt[i].offset0 = (u16)at; idt[i].selector = 8; idt[i].type = 0x8e; idt[i].offset1 = (u16)(at >> 16);
  }
  struct { u16 limit; u64 base; } __attribute__((packed)) p = { sizeof(idt) - 1, (u64)idt };
  __asm__ volatile("lidt %0" ::"m"(p));
}
// Runs one faulting instruction of `length` bytes: `code`; true when it raised `vector`.
#define FAULTS(vector, length, code) ({ skip = (length); traps.count = 0; code; traps.count == 1 && traps.last == (vector); })


// --- statuses and constants of the ABI
#define INVALID(operand) (0xc000010000000000ul | (operand))
enum { OP_RAX = 0, OP_RCX = 1, OP_RDX = 2, OP_R8 = 8 };
#define VMCALL_INVALID 0x8000000000000000ul
#define VMCALL_ALIGN 0x8000000000000002ul
#define VMCALL_UNSUPPORTED 0x8000000000000003ul
enum { CPUID = 0xa, HLT = 0xc, IO = 0x1e, RDMSR = 0x1f, WRMSR = 0x20, MMIO = 0x30, INFO = 0x10000, MAP_GPA = 0x10001, GET_QUOTE = 0x10002,
  FATAL = 0x10003, NOTIFY = 0x10004 };
#define MIB 0x100000ul
#define FIELD_MRTD 0x1310000300000000ul
#define FIELD_RTMR0 0x1310000300000040ul
#define FIELD_NOTIFY 0x9110000300000010ul

static u64 attributes;
static u32 cpus;
static bool pending_is_fatal(void) { return attributes & BIT(28); }
static volatile u64 *at(u64 gpa) { return (volatile u64 *)gpa; }
static volatile u64 *shared_at(u64 gpa) { return (volatile u64 *)(ALIAS + gpa); }
static u64 accept(u64 gpa, u32 level) { return td_call(6, gpa | level, 0, 0, 0); }
static u64 field(u64 id) { td_call(7, 0, id, 0, 0); return g[R8]; }
struct cpuid { u32 eax, ebx, ecx, edx; };
static struct cpuid cpuid(u32 leaf, u32 sub) {
  struct cpuid c;
  __asm__ volatile("cpuid" : "=a"(c.eax), "=b"(c.ebx), "=c"(c.ecx), "=d"(c.edx) : "a"(leaf), "c"(sub));
  return c;
}
static u64 rdmsr(u32 msr) { u32 lo, hi; __asm__ volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(msr)); return (u64)hi << 32 | lo; }
static void wrmsr(u32 msr, u64 v) { __asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)v), "d"((u32)(v >> 32))); }
static u64 rdtsc(void) { u32 lo, hi; __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi)); return (u64)hi << 32 | lo; }

static void test_info(u32 index) {
  equal("VP.INFO succeeds", td_call(1, 0, 0, 0, 0), 0);
  equal("VP.INFO gives GPAW as RBX did", g[RCX], gpaw);
  attributes = g[RDX];
  cpus = (u32)g[R8];
  equal("VP.INFO counts vCPUs", g[R8], cpus | (u64)cpus << 32);
  equal("VP.INFO index", g[R9], index);
}

static void in_ring3_tdcall(void) { __asm__ volatile("movl $1, %%eax; .byte 0x66, 0x0f, 0x01, 0xcc; 1: jmp 1b" ::: "rax"); }

static void test_tdcall(void) {
  equal("TDCALL refuses an unknown leaf", td_call(99, 0, 0, 0, 0), INVALID(OP_RAX));
  equal("TDCALL refuses a version", td_call(1 | 1 << 16, 0, 0, 0, 0), INVALID(OP_RAX));
  equal("TDCALL refuses reserved bits of RAX", td_call(1 | BIT(40), 0, 0, 0, 0), INVALID(OP_RAX));
  static u64 tss[13] __attribute__((aligned(16)));
  extern u64 *gdt_at;
  u64 *gdt = gdt_at;
  u64 base = (u64)tss;
  *(u64 *)((u8 *)tss + 4) = 0x1f8000; // RSP0
  gdt[5] = (base & 0xffffff) << 16 | (base >> 24 & 0xff) << 56 | 0x890000000000ul | 103;
  gdt[6] = base >> 32;
  __asm__ volatile("ltr %w0" ::"r"(0x28));
  check("TDCALL in ring 3 is #GP", FAULTS(13, 0, ring3(in_ring3_tdcall, 0x1f0000)));
  check("VMCALL instruction is #VE 18", FAULTS(20, 3, __asm__ volatile(".byte 0x0f, 0x01, 0xc1")) && traps.ve_reason == 18);
  for (u32 bit = 0; bit < 64; bit++) {
    if (bit != 0 && bit != 1 && bit != 4 && bit < 32) continue;
    if (td_call(0, 0xfc00 | BIT(bit), 0, 0, 0) != INVALID(OP_RCX)) { equal("VP.VMCALL refuses a mask bit", bit, ~0ul); return; }
  }
  check("VP.VMCALL refuses mask bits 0, 1, 4 and 63:32", true);
  equal("VP.VMCALL with R10 not 0 is unsupported", (memset(g, 0, sizeof(g)), g[RCX] = 0xfc00, g[R10] = 1, tdcall_raw(g), g[R10]), VMCALL_UNSUPPORTED);
  equal("VP.VMCALL unknown function", vm_call(0x77777, 0, 0, 0, 0), VMCALL_UNSUPPORTED);
  memset(g, 0, sizeof(g));
  g[RCX] = 0x0c00; g[R11] = INFO; g[R12] = 5; // R12 is not exposed: the VMM sees 0
  tdcall_raw(g);
  check("VP.VMCALL hides registers that the mask leaves out", g[R10] == 0 && g[R12] == 5);
  equal("GetTdVmCallInfo", vm_call(INFO, 0, 0, 0, 0) | g[R11], 0);
  equal("SetupEventNotifyInterrupt refuses vector 31", vm_call(NOTIFY, 31, 0, 0, 0), VMCALL_INVALID);
  equal("SetupEventNotifyInterrupt refuses vector 256", vm_call(NOTIFY, 256, 0, 0, 0), VMCALL_INVALID);
  equal("CPUIDVE.SET refuses other bits", td_call(5, 4, 0, 0, 0), INVALID(OP_RCX));
  td_call(5, 1, 0, 0, 0);
  check("CPUIDVE.SET makes every CPUID a #VE", FAULTS(20, 2, cpuid(1, 0)) && traps.ve_reason == 10);
  td_call(5, 0, 0, 0, 0);
  check("CPUIDVE.SET off again", FAULTS(20, 2, cpuid(1, 0)) == false);
}

static void xsetbv(u64 v) { __asm__ volatile("xsetbv" ::"c"(0), "a"((u32)v), "d"((u32)(v >> 32))); }
static u64 xgetbv(void) { u32 lo, hi; __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0)); return (u64)hi << 32 | lo; }
static void osxsave_on(void) { __asm__ volatile("movq %%cr4, %%rax; orq $0x40000, %%rax; movq %%rax, %%cr4" ::: "rax"); }

static void test_xcr0(void) {
  u64 xfam = field(0x1110000300000001ul);
  check("XSETBV without CR4.OSXSAVE is #UD", FAULTS(6, 3, xsetbv(3)));
  osxsave_on();
  check("CPUID 1 shows OSXSAVE", cpuid(1, 0).ecx & BIT(27));
  check("XSETBV beyond XFAM is #GP", FAULTS(13, 3, xsetbv(3 | (xfam & 4 ? BIT(17) : 4))));
  check("XSETBV without x87 is #GP", FAULTS(13, 3, xsetbv(2)));
  check("XSETBV within XFAM", !FAULTS(13, 3, xsetbv(3)));
  equal("XCR0 is what was set", xgetbv(), 3);
}

static void test_registers(void) {
  static u8 data[64] __attribute__((aligned(64)));
  static const u8 after[8] = { 0xf5, 0x7b, 0xb7, 0xed, 0x82, 0xc6, 0xae, 0x4a }; // SHA-384 of 96 zero bytes
  u64 gpa = (u64)data;
  equal("RTMR.EXTEND refuses a misaligned buffer", td_call(2, gpa + 8, 9, 0, 0), INVALID(OP_RCX));
  equal("RTMR.EXTEND refuses a shared buffer", td_call(2, gpa | shared_bit, 0, 0, 0), INVALID(OP_RCX));
  equal("RTMR.EXTEND refuses register 4", td_call(2, gpa, 4, 0, 0), INVALID(OP_RDX));
  equal("RTMR.EXTEND", td_call(2, gpa, 3, 0, 0), 0);
  u64 value = field(FIELD_RTMR0 + 18);
  check("RTMR3 = SHA384(RTMR3 || data)", same(&value, after, 8));
  equal("RTMR2 is untouched", field(FIELD_RTMR0 + 12), 0);
  equal("VM.RD refuses an unknown field", td_call(7, 0, 0x1234, 0, 0), 0xc0000c0000000002ul);
  equal("VM.RD refuses another TD", td_call(7, 1, FIELD_MRTD, 0, 0), INVALID(OP_RCX));
  equal("VM.RD attributes", field(0x1110000300000000ul), attributes);
  equal("VM.WR refuses MRTD", td_call(8, 0, FIELD_MRTD, 1, ~0ul), 0xc0000c0100000002ul);
  equal("VM.WR notify enables", td_call(8, 0, FIELD_NOTIFY, 1, 1), 0);
  equal("VM.RD reads what was written", field(FIELD_NOTIFY), 1);
  td_call(8, 0, FIELD_NOTIFY, 0, 1);
}

static void test_report(void) {
  static u8 report[1024] __attribute__((aligned(1024))), data[64] __attribute__((aligned(64)));
  u64 out = (u64)report, in = (u64)data;
  for (u32 i = 0; i < 64; i++) data[i] = (u8)(i * 3 + 1);
  equal("REPORT refuses a misaligned report", td_call(4, out + 512, in + 1, 1, 0), INVALID(OP_RCX));
  equal("REPORT refuses misaligned data", td_call(4, out, in + 32, 0, 0), INVALID(OP_RDX));
  equal("REPORT refuses a subtype", td_call(4, out, in, 1, 0), INVALID(OP_R8));
  equal("REPORT refuses shared memory", td_call(4, out | shared_bit, in, 0, 0), INVALID(OP_RCX));
  equal("REPORT", td_call(4, out, in, 0, 0), 0);
  u64 mrtd = field(FIELD_MRTD), rtmr3 = field(FIELD_RTMR0 + 18);
  check("report: type, data, attributes, MRTD, RTMR3", report[0] == 0x81 && same(report + 128, data, 64) && same(report + 512, &attributes, 8)
    && same(report + 528, &mrtd, 8) && same(report + 512 + 352, &rtmr3, 8));
  equal("VERIFYREPORT", td_call(22, out, 0, 0, 0), 0);
  equal("VERIFYREPORT refuses a misaligned structure", td_call(22, out + 64, 0, 0, 0), INVALID(OP_RCX));
  equal("VERIFYREPORT refuses shared memory", td_call(22, out | shared_bit, 0, 0, 0), INVALID(OP_RCX));
  report[130] ^= 1;
  equal("VERIFYREPORT sees a changed byte", td_call(22, out, 0, 0, 0), 0xc000100100000000ul);
  report[130] ^= 1;
  report[16] ^= 1;
  equal("VERIFYREPORT sees another CPUSVN", td_call(22, out, 0, 0, 0), 0xc000100000000000ul);
}

static void test_cpuid(void) {
  struct cpuid c = cpuid(0x21, 0);
  check("CPUID 0x21 says IntelTDX", c.ebx == 0x65746e49 && c.ecx == 0x20202020 && c.edx == 0x5844546c);
  c = cpuid(0x15, 0);
  check("CPUID 0x15 gives the TSC's frequency", c.eax && c.ebx && c.ecx == 25000000);
  c = cpuid(1, 0);
  check("CPUID 1 has x2APIC, TSC deadline, hypervisor, not VMX", (c.ecx & (BIT(21) | BIT(24) | BIT(31) | BIT(5))) == (BIT(21) | BIT(24) | BIT(31)));
  check("CPUID 0x80000001 hides SVM", !(cpuid(0x80000001, 0).ecx & 4));
  static const u32 unlisted[] = { 2, 6, 0xb, 0x1f, 0x40000000, 0x80000006, 0x80000002 };
  bool all = true;
  for (u32 i = 0; i < 7; i++) all = all && FAULTS(20, 2, cpuid(unlisted[i], 0)) && traps.ve_reason == 10 && (u32)traps.ve_length == 2;
  check("CPUID of unlisted leaves is #VE 10", all);
  check("CPUID by TDVMCALL", vm_call(CPUID, 0x40000000, 0, 0, 0) == 0 && (u32)g[R12] >= 0x40000000);
}

static void test_ve(void) {
  check("RDMSR 0x1b is #VE 31", FAULTS(20, 2, rdmsr(0x1b)) && traps.ve_reason == 31);
  check("WRMSR TSC is #VE 32", FAULTS(20, 2, wrmsr(0x10, 0)) && traps.ve_reason == 32);
  check("RDMSR x2APIC ICR is #VE 31", FAULTS(20, 2, rdmsr(0x830)) && traps.ve_reason == 31);
  check("RDMSR of SGX is #GP", FAULTS(13, 2, rdmsr(0x8c)));
  check("RDMSR PKRS is #GP", FAULTS(13, 2, rdmsr(0x6e1)));
  check("WRMSR EFER is #GP", FAULTS(13, 2, wrmsr(0xc0000080, 0xd01)));
  equal("RDMSR EFER", rdmsr(0xc0000080), 0xd01);
  check("IN is #VE 30", FAULTS(20, 1, __asm__ volatile("inb %%dx, %%al" ::"d"(0x3fd) : "rax")) && traps.ve_reason == 30
    && traps.ve_qualification == (8 | 0x3fdul << 16) && (u32)traps.ve_length == 1);
  check("OUT of 4 bytes is #VE 30", FAULTS(20, 2, __asm__ volatile("outl %%eax, $0x80" ::"a"(0))) && traps.ve_reason == 30
    && traps.ve_qualification == (3 | 0x80ul << 16) && (u32)traps.ve_length == 2);
  check("HLT is #VE 12", FAULTS(20, 1, __asm__ volatile("hlt")) && traps.ve_reason == 12);
  check("INVD is #VE 13", FAULTS(20, 2, __asm__ volatile("invd")) && traps.ve_reason == 13);
  check("WBINVD is #VE 54", FAULTS(20, 2, __asm__ volatile("wbinvd")) && traps.ve_reason == 54);
  check("MONITOR is #VE 39", FAULTS(20, 3, __asm__ volatile("monitor" ::"a"(&traps), "c"(0), "d"(0))) && traps.ve_reason == 39);
  check("VMMCALL is #UD", FAULTS(6, 3, __asm__ volatile(".byte 0x0f, 0x01, 0xd9")));
  check("VMLOAD is #UD", FAULTS(6, 3, __asm__ volatile(".byte 0x0f, 0x01, 0xda")));
  check("device memory is #VE 48", FAULTS(20, 2, __asm__ volatile("movl (%0), %%eax" ::"d"(shared_at(0xfec00000)) : "rax")));
  check("its qualification and GPA", traps.ve_reason == 48 && traps.ve_gpa == (0xfec00000 | shared_bit) && (traps.ve_qualification & 0x183) == 0x181);
  equal("its guest-linear address", traps.ve_gla, ALIAS + 0xfec00000);
  check("of a base, an index and an offset", FAULTS(20, 6, __asm__ volatile("movl %%eax, -0x70(%0,%1,4); nop; nop" ::"r"(shared_at(0xfec00000)), "r"(0x20ul) : "rax"))
    && traps.ve_gla == ALIAS + 0xfec00010 && (traps.ve_qualification & 3) == 2);
  equal("VEINFO.GET without a #VE", td_call(3, 1, 1, 1, 1), 0xc000070400000000ul);
  equal("VEINFO.GET then gives zeroes", g[RCX] | g[RDX] | g[R8] | g[R9] | g[R10], 0);
  keep_ve = true;
  check("#VE once", FAULTS(20, 2, cpuid(2, 0)));
  check("a second #VE is #DF", FAULTS(8, 2, cpuid(2, 0)));
  keep_ve = false;
  td_call(3, 0, 0, 0, 0);
  u64 cr4, cr0;
  __asm__("movq %%cr4, %0" : "=r"(cr4));
  __asm__("movq %%cr0, %0" : "=r"(cr0));
  equal("CR4 shows MCE, not VMXE", cr4 & (BIT(6) | BIT(13)), BIT(6));
  check("clearing CR4.MCE is #VE 28", FAULTS(20, 3, __asm__ volatile("movq %0, %%cr4" ::"a"(cr4 & ~BIT(6)))) && traps.ve_reason == 28);
  check("setting CR4.VMXE is #VE 28", FAULTS(20, 3, __asm__ volatile("movq %0, %%cr4" ::"a"(cr4 | BIT(13)))) && traps.ve_reason == 28);
  check("setting CR4.PKS without the attribute is #GP", FAULTS(13, 3, __asm__ volatile("movq %0, %%cr4" ::"a"(cr4 | BIT(24)))));
  check("setting a reserved CR4 bit is #GP", FAULTS(13, 3, __asm__ volatile("movq %0, %%cr4" ::"a"(cr4 | BIT(30)))));
  check("clearing CR0.NE is #GP", FAULTS(13, 3, __asm__ volatile("movq %0, %%cr0" ::"a"(cr0 & ~BIT(5)))));
}

static u64 test_gpa = 16 * MIB; // 2 MiB units that no test has used yet
static u64 fresh(void) { u64 a = test_gpa; test_gpa += 2 * MIB; return a; }
static u32 accept_result;
static void accept_in_ve(void) { accept_result = (u32)(accept(traps.ve_gpa & ~4095ul, 0) != 0); }

static void test_accept(void) {
  u64 a = fresh();
  equal("ACCEPT refuses level 2", accept(a, 2), INVALID(OP_RCX));
  equal("ACCEPT refuses a misaligned 2 MiB page", accept(a + 4096, 1), INVALID(OP_RCX));
  equal("ACCEPT refuses reserved bits", td_call(6, a | 8, 0, 0, 0), INVALID(OP_RCX));
  equal("ACCEPT refuses a shared GPA", accept(a | shared_bit, 0), INVALID(OP_RCX));
  u64 status = accept(a, 1);
  bool small_pages = status == 0xc0000b0b00000001ul;
  if (!small_pages) {
    equal("ACCEPT of 2 MiB", status, 0);
    equal("ACCEPT of 2 MiB again", accept(a, 1), 0x00000b0a00000001ul);
    equal("ACCEPT of 4 KiB in it", accept(a + 4096, 0), 0x00000b0a00000001ul);
    u64 sum = 0;
    for (u64 i = 0; i < 2 * MIB; i += 4096) sum |= *at(a + i);
    equal("accepted memory is zero", sum, 0);
    *at(a) = 1;
  } else {
    check("ACCEPT of 2 MiB where pages are small says so", true);
    equal("ACCEPT of its first 4 KiB", accept(a, 0), 0);
  }
  a = fresh();
  equal("ACCEPT of 4 KiB", accept(a, 0), 0);
  equal("ACCEPT of 4 KiB again", accept(a, 0), 0x00000b0a00000000ul);
  equal("ACCEPT of 2 MiB around it", accept(a, 1), 0xc0000b0b00000001ul);
  *at(a + 8) = 5;
  equal("accepted memory holds what is written", *at(a + 8), 5);
  if (pending_is_fatal()) return;
  a = fresh();
  check("a pending page is #VE 48 with its GPA", FAULTS(20, 2, __asm__ volatile("movb (%0), %%al" ::"d"(a + 0x5008) : "rax")) && traps.ve_reason == 48
    && traps.ve_gpa == a + 0x5008);
  equal("ACCEPT of 4 KiB of a pending page", accept(a + 0x5000, 0), 0);
  equal("then it reads as zero", *at(a + 0x5008), 0);
  on_ve = accept_in_ve;
  traps.count = 0;
  *at(a + 0x9000) = 7;
  check("lazy acceptance in the #VE handler", *at(a + 0x9000) == 7 && traps.count == 1 && accept_result == 0);
  on_ve = 0;
}

static void test_sharing(void) {
  u64 a = fresh();
  if (accept(a, 1)) for (u32 i = 0; i < 512; i++) accept(a + i * 4096, 0);
  *at(a) = 0x1111;
  *at(a + 8192) = 0x2222;
  equal("MapGPA refuses a misaligned GPA", vm_call(MAP_GPA, (a + 8) | shared_bit, 4096, 0, 0), VMCALL_ALIGN);
  equal("MapGPA refuses a misaligned size", vm_call(MAP_GPA, a | shared_bit, 100, 0, 0), VMCALL_ALIGN);
  equal("MapGPA refuses nothing", vm_call(MAP_GPA, a | shared_bit, 0, 0, 0), VMCALL_INVALID);
  equal("MapGPA refuses what is not RAM", vm_call(MAP_GPA, 0xc0000000 | shared_bit, 4096, 0, 0), VMCALL_INVALID);
  equal("MapGPA to shared", vm_call(MAP_GPA, a | shared_bit, 4096, 0, 0), 0);
  check("shared memory does not show the private page", *shared_at(a) != 0x1111);
  *shared_at(a) = 0x3333;
  equal("shared memory holds what is written", *shared_at(a), 0x3333);
  equal("the private page beside it is untouched", *at(a + 8192), 0x2222);
  equal("MapGPA back to private", vm_call(MAP_GPA, a, 4096, 0, 0), 0);
  equal("ACCEPT after it", accept(a, 0), 0);
  equal("then it is zero", *at(a), 0);
  *at(a) = 0x4444;
  equal("MapGPA of 2 MiB", vm_call(MAP_GPA, a | shared_bit, 2 * MIB, 0, 0), 0);
  equal("what was shared before is still there", *shared_at(a), 0x3333);
  u64 b = fresh();
  accept(b, 0);
  *at(b) = 0x5555;
  *shared_at(a) = 0x6666;
  check("shared and private GPAs do not alias", *at(b) == 0x5555 && *shared_at(a) == 0x6666);
}

static void test_devices(void) {
  equal("I/O APIC version by MMIO", vm_call(MMIO, 4, 1, 0xfec00000 | shared_bit, 1) | vm_call(MMIO, 4, 0, 0xfec00010 | shared_bit, 0), 0);
  equal("it has 24 inputs", g[R11] >> 16 & 0xff, 23);
  vm_call(MMIO, 4, 1, 0xfec00000 | shared_bit, 0x16);
  vm_call(MMIO, 4, 1, 0xfec00010 | shared_bit, 0x20);
  vm_call(MMIO, 4, 0, 0xfec00010 | shared_bit, 0);
  equal("the simulator's interrupt looks masked", g[R11], BIT(16));
  vm_call(MMIO, 4, 0, 0xfee00030 | shared_bit, 0);
  equal("no xAPIC page", g[R11], 0xffffffff);
  equal("MMIO refuses a private GPA", vm_call(MMIO, 4, 0, 0xfec00000, 0), VMCALL_INVALID);
  equal("MMIO refuses 3 bytes", vm_call(MMIO, 3, 0, 0xfec00000 | shared_bit, 0), VMCALL_INVALID);
  equal("MMIO refuses RAM", vm_call(MMIO, 4, 0, 0x1000 | shared_bit, 0), VMCALL_INVALID);
  vm_call(IO, 1, 0, 0x2fd, 0);
  equal("the quote port is not there", g[R11], 0xff);
  vm_call(IO, 1, 0, 0x3ed, 0);
  equal("the text port is not there", g[R11], 0xff);
  vm_call(IO, 2, 1, 0x510, 0);
  vm_call(IO, 1, 0, 0x511, 0);
  equal("fw_cfg is not there", g[R11], 0xff);
  equal("IO refuses 8 bytes", vm_call(IO, 8, 0, 0x3fd, 0), VMCALL_INVALID);
  equal("RDMSR of an unknown register", vm_call(RDMSR, 0x12345, 0, 0, 0), VMCALL_INVALID);
  check("APIC base: x2APIC on", vm_call(RDMSR, 0x1b, 0, 0, 0) == 0 && (g[R11] & 0xc00) == 0xc00);
}

static void apic_on(void) { u64 r[16]; vm_call_g(r, WRMSR, 0x80f, 0x1ff, 0, 0); vm_call_g(r, WRMSR, 0x832, BIT(18) | 0x50, 0, 0); }
static void halt(void) { u64 r[16]; vm_call_g(r, HLT, 0, 0, 0, 0); }
#define STI __asm__ volatile("sti; nop; nop" ::: "memory")
#define CLI __asm__ volatile("cli" ::: "memory")

static void test_interrupts(void) {
  apic_on();
  wrmsr(0x83f, 0x40);
  STI;
  CLI;
  equal("self-IPI", interrupts[0x40], 1);
  u64 start = rdtsc();
  vm_call(WRMSR, 0x6e0, start + 1000000, 0, 0);
  while (!interrupts[0x50]) {
    halt();
    STI;
    CLI;
  }
  check("TSC deadline wakes HLT, not early", interrupts[0x50] == 1 && rdtsc() - start >= 1000000);
  vm_call(WRMSR, 0x832, 0x51, 0, 0);
  vm_call(WRMSR, 0x83e, 3, 0, 0); // by 16 of 25 MHz
  start = rdtsc();
  vm_call(WRMSR, 0x838, 1000, 0, 0);
  while (!interrupts[0x51]) {
    halt();
    STI;
    CLI;
  }
  struct cpuid c = cpuid(0x15, 0);
  u64 hz = (u64)c.ecx * c.ebx / c.eax;
  check("the one-shot timer runs at 25 MHz", rdtsc() - start >= hz / 1000000 * 620);
  vm_call(WRMSR, 0x832, BIT(18) | 0x50, 0, 0);
  CLI;
  wrmsr(0x83f, 0x41);
  wrmsr(0x83f, 0x62);
  halt(); // both are pending: it returns at once
  STI;
  CLI;
  check("two interrupts while halted with IF 0", interrupts[0x41] == 1 && interrupts[0x62] == 1);
}

// --- other vCPUs wait for work
static volatile struct { void (*work)(u32 index); u32 done; } jobs[16];
static void run_on(u32 index, void (*work)(u32)) { __atomic_store_n(&jobs[index].work, work, __ATOMIC_SEQ_CST); }
static void join(u32 index) { while (!__atomic_load_n(&jobs[index].done, __ATOMIC_SEQ_CST)) __asm__ volatile("pause"); jobs[index].done = 0; }
static volatile u32 ap_index[16], ap_halting[16], ap_woken[16];
static volatile u64 shootdown_gpa, stop_reading, readers;

static void work_info(u32 index) {
  u64 r[16] = { 1 };
  tdcall_raw(r);
  ap_index[index] = (u32)r[R9];
}
static void work_halt(u32 index) {
  apic_on();
  __atomic_store_n(&ap_halting[index], 1, __ATOMIC_SEQ_CST);
  while (!interrupts[0x70 + index]) {
    halt();
    STI;
    CLI;
  }
  ap_woken[index] = 1;
}
static void work_read(u32 index) {
  __atomic_add_fetch(&readers, 1, __ATOMIC_SEQ_CST);
  while (!stop_reading) (void)*at(shootdown_gpa);
}

static void test_smp(void) {
  bool good = true;
  for (u32 i = 1; i < cpus; i++) run_on(i, work_info);
  for (u32 i = 1; i < cpus; i++) join(i), good = good && ap_index[i] == i;
  check("every vCPU has its index", good);
  for (u32 i = 1; i < cpus; i++) run_on(i, work_halt);
  for (u32 i = 1; i < cpus; i++) {
    while (!ap_halting[i]) __asm__ volatile("pause");
    vm_call(WRMSR, 0x830, (u64)i << 32 | 0x4000 | (0x70 + i), 0, 0);
    join(i);
    good = good && ap_woken[i] == 1 && interrupts[0x70 + i] == 1;
  }
  check("an IPI wakes each vCPU from HLT", good);
  if (cpus == 1) return;
  // Reading vCPUs must see 2 MiB split and neighbours taken away under their feet.
  u64 a = fresh();
  if (accept(a, 1)) for (u32 i = 0; i < 512; i++) accept(a + i * 4096, 0);
  shootdown_gpa = a;
  for (u32 i = 1; i < cpus; i++) run_on(i, work_read);
  while (readers != cpus - 1) __asm__ volatile("pause");
  good = true;
  for (u32 i = 1; i < 20; i++) good = good && vm_call(MAP_GPA, (a + i * 4096) | shared_bit, 4096, 0, 0) == 0;
  stop_reading = 1;
  for (u32 i = 1; i < cpus; i++) join(i);
  check("pages taken away while other vCPUs run", good);
}

static void test_hob(u64 hob) {
  const u16 *p = (const u16 *)hob;
  check("HOB list starts with PHIT", p[0] == 1 && p[1] == 56);
  u64 total = 0, end = *(u64 *)(hob + 48);
  u64 h = hob + 56;
  for (; *(u16 *)h == 3; h += *(u16 *)(h + 2)) total += *(u64 *)(h + 40);
  check("HOB list ends where PHIT says", *(u16 *)h == 0xffff && h + 8 == end);
  check("HOB resources are all of memory", total >= 64 * MIB && total % (MIB) == 0);
}

static void test_quote(void) {
  static u8 report[1024] __attribute__((aligned(1024))), data[64] __attribute__((aligned(64)));
  u64 a = fresh(), size = 16384;
  vm_call(MAP_GPA, a | shared_bit, 2 * MIB, 0, 0);
  td_call(4, (u64)report, (u64)data, 0, 0);
  u8 *b = (u8 *)shared_at(a);
  memset(b, 0, size);
  equal("GetQuote refuses a private buffer", vm_call(GET_QUOTE, a, size, 0, 0), VMCALL_INVALID);
  equal("GetQuote refuses a misaligned buffer", vm_call(GET_QUOTE, (a + 8) | shared_bit, size, 0, 0), VMCALL_INVALID);
  equal("GetQuote refuses a wrong version", vm_call(GET_QUOTE, a | shared_bit, size, 0, 0), VMCALL_INVALID);
  *(u64 *)b = 1;
  *(u32 *)(b + 16) = 1024;
  memcpy(b + 24, report, 1024);
  vm_call(NOTIFY, 0x60, 0, 0, 0);
  equal("GetQuote", vm_call(GET_QUOTE, a | shared_bit, size, 0, 0), 0);
  while (!interrupts[0x60]) {
    halt();
    STI;
    CLI;
  }
  u64 status = *(volatile u64 *)(b + 8);
  check("the notification comes when the buffer is done", status != ~0ul);
  if (status == 0x8000000000000001ul) {
    check("no quote service: unavailable", *(u32 *)(b + 20) == 0);
    return;
  }
  equal("a quote came", status, 0);
  check("the quote is what the service sent", *(u32 *)(b + 20) > 48 && b[24] == 4);
}

// --- what a TD dies of: each ends the run, and the runner looks at what the simulator said
static void work_stale(u32 index) { work_read(index); }
static void die(u32 mode) {
  u64 a = fresh(), r[16];
  switch (mode) {
  case 2: (void)*at(a); break;                                  // not accepted
  case 3: (void)*shared_at(a); break;                           // not converted
  case 4: (void)*at(0xc0000000); break;                         // private device memory
  case 5: memset(idt, 0, sizeof(idt)); __asm__ volatile("ud2"); break;
  case 6:
    memset(r, 0, sizeof(r));
    r[RCX] = 0xffcc; r[R11] = FATAL; r[R12] = 0x42;
    memcpy(&r[R14], "fatal er", 8); memcpy(&r[R15], "ror test", 8);
    tdcall_raw(r);
    break;
  case 7:                                                       // a stale translation must not survive on another vCPU
    accept(a, 0);
    shootdown_gpa = a;
    run_on(1, work_stale);
    while (readers != 1) __asm__ volatile("pause");
    vm_call(MAP_GPA, a | shared_bit, 4096, 0, 0);
    stop_reading = 0;
    join(1);
    break;
  case 8: accept(0xc0000000, 0); break;
  case 12:                                                      // the second XSETBV is seen at the next exit
    osxsave_on();
    xsetbv(3);
    xsetbv(7);
    break;
  }
  put("FAIL survived\n");
}

// Gives the secret of the runner away, so that it can see that the scanner sees.
static void leak(u32 mode) {
  static const char secret[] = "a secret that must not get out!!";
  u64 a = fresh(), r[16];
  accept(a, 0);
  memcpy((void *)(a + 100), secret, 32);
  if (mode == 9) {
    vm_call(MAP_GPA, (a + 4096) | shared_bit, 4096, 0, 0);
    memcpy((void *)shared_at(a + 4096 + 77), (void *)(a + 100), 32);
  } else if (mode == 10) {
    u64 part;
    memcpy(&part, secret + 3, 8);
    vm_call_g(r, INFO, 0, 0, 0, part);
  }
}

void payload(u32 index, u32 width, u64 hob) {
  gpaw = width;
  shared_bit = BIT(width - 1);
  traps_init(index == 0);
  if (index) {
    for (;;) {
      void (*work)(u32) = __atomic_load_n(&jobs[index].work, __ATOMIC_SEQ_CST);
      if (!work) { __asm__ volatile("pause"); continue; }
      jobs[index].work = 0;
      work(index);
      __atomic_store_n(&jobs[index].done, 1, __ATOMIC_SEQ_CST);
    }
  }
  u32 mode = *(volatile u32 *)0xfffffff8;
  test_info(index);
  if (mode >= 9 && mode < 12) leak(mode);
  else if (mode >= 2) die(mode);
  if (mode == 0) {
    test_hob(hob);
    test_tdcall();
    test_xcr0();
    test_registers();
    test_report();
    test_cpuid();
    test_ve();
    test_accept();
    test_sharing();
    test_devices();
    test_interrupts();
    test_smp();
  }
  if (mode == 1) {
    apic_on();
    test_quote();
  }
  put(failed ? "FAIL some\n" : "done\n");
  out(0x604, 2, 0x2000);
}

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

// --- printing
static void put(const char *s) { for (; *s; s++) out(0x3f8, 1, (u8)*s); }
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
static volatile struct { u32 count, last; u64 error, ve_reason, ve_qualification, ve_gpa, ve_length, ve_status; } traps;
static volatile u32 skip, interrupts[256];
static bool keep_ve; // leave the #VE information where it is
static void (*on_ve)(void);

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
    traps.ve_length = r[R10];
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

static void test_info(u32 index, u32 cpus) {
  equal("VP.INFO succeeds", td_call(1, 0, 0, 0, 0), 0);
  equal("VP.INFO gives GPAW as RBX did", g[RCX], gpaw);
  check("VP.INFO attributes have SEPT_VE_DISABLE or DEBUG", g[RDX] & (BIT(28) | 1));
  equal("VP.INFO counts vCPUs", g[R8], cpus | (u64)cpus << 32);
  equal("VP.INFO index", g[R9], index);
}

void payload(u32 index, u32 width, u64 hob) {
  gpaw = width;
  shared_bit = BIT(width - 1);
  traps_init(index == 0);
  if (index) for (;;) __asm__ volatile("pause");
  put("payload\n");
  td_call(1, 0, 0, 0, 0);
  test_info(index, (u32)g[R8]);
  put(failed ? "done with failures\n" : "done\n");
  out(0x604, 2, 0x2000);
}

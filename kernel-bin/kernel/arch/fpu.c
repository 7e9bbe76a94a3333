// SPDX-License-Identifier: Apache-2.0
//
// x87, SSE, AVX and AVX-512 state of programs. The kernel itself never uses these registers, so they stay loaded until
// another program's thread runs. PKRU stays off: XCR0 has only what is listed here.
#include "arch/internal.h"

#define XCR0_WANTED 0xe7ul // x87 SSE AVX, opmask ZMM_Hi256 Hi16_ZMM
#define LEGACY_BYTES 512
#define HEADER_BYTES 64
#define MXCSR_DEFAULT 0x1f80u

u32 fpu_state_bytes = LEGACY_BYTES;
u64 fpu_xcr0;
static u32 mxcsr_mask = 0xffbf;

struct fxsave { u16 fcw, fsw; u8 ftw, zero; u16 fop; u64 fip, fdp; u32 mxcsr, mxcsr_mask; u8 regs[480]; };
_Static_assert(sizeof(struct fxsave) == LEGACY_BYTES, "SDM 1, table 10-2");
struct xheader { u64 xstate_bv, xcomp_bv, reserved[6]; };

void fpu_init_this(void) {
  __asm__ volatile("fninit");
  u32 mxcsr = MXCSR_DEFAULT;
  __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
  if (cpu_features.xsave) {
    struct cpuid c = cpuid(0xd, 0);
    u64 xcr0 = ((u64)c.edx << 32 | c.eax) & XCR0_WANTED;
    if ((xcr0 & 0xe0) != 0xe0) xcr0 &= ~0xe0ul; // AVX-512's three come together
    if (!(xcr0 & 4)) xcr0 &= 3;
    __asm__ volatile("xsetbv" ::"c"(0), "a"((u32)xcr0), "d"((u32)(xcr0 >> 32)));
    fpu_xcr0 = xcr0;
    fpu_state_bytes = cpuid(0xd, 0).ebx; // for the features just enabled
  }
  static struct fxsave probe __aligned(64);
  __asm__ volatile("fxsave64 %0" : "=m"(probe));
  if (probe.mxcsr_mask) mxcsr_mask = probe.mxcsr_mask;
}

void fpu_init_state(void *state) {
  memset(state, 0, fpu_state_bytes);
  struct fxsave *f = state;
  f->fcw = 0x37f;
  f->mxcsr = MXCSR_DEFAULT;
}

void fpu_save(void *state) {
  u32 lo = (u32)fpu_xcr0, hi = (u32)(fpu_xcr0 >> 32);
  if (cpu_features.xsaveopt) __asm__ volatile("xsaveopt64 (%0)" ::"r"(state), "a"(lo), "d"(hi) : "memory");
  else if (cpu_features.xsave) __asm__ volatile("xsave64 (%0)" ::"r"(state), "a"(lo), "d"(hi) : "memory");
  else __asm__ volatile("fxsave64 (%0)" ::"r"(state) : "memory");
}

void fpu_restore(const void *state) {
  u32 lo = (u32)fpu_xcr0, hi = (u32)(fpu_xcr0 >> 32);
  if (cpu_features.xsave) __asm__ volatile("xrstor64 (%0)" ::"r"(state), "a"(lo), "d"(hi) : "memory");
  else __asm__ volatile("fxrstor64 (%0)" ::"r"(state) : "memory");
}

// Makes an image harmless: XRSTOR faults on reserved MXCSR bits, unknown features, a compacted format and a header that
// is not zero. The buffer is fpu_state_bytes long; the program gave the first `len` bytes, at least the legacy area.
int fpu_check_state(void *state, size_t len) {
  struct fxsave *f = state;
  if (len < LEGACY_BYTES || len > fpu_state_bytes) return -EINVAL;
  f->mxcsr &= mxcsr_mask;
  if (!cpu_features.xsave) return 0;
  struct xheader *h = (void *)((u8 *)state + LEGACY_BYTES);
  if (len < LEGACY_BYTES + HEADER_BYTES) {
    memset(h, 0, fpu_state_bytes - LEGACY_BYTES);
    h->xstate_bv = 3;
    return 0;
  }
  memset((u8 *)state + len, 0, fpu_state_bytes - len);
  h->xstate_bv &= fpu_xcr0;
  h->xcomp_bv = 0;
  memset(h->reserved, 0, sizeof(h->reserved));
  return 0;
}

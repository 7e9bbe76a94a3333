// SPDX-License-Identifier: Apache-2.0
//
// The guest-linear address of an EPT violation, which SVM does not tell: the instruction's memory operand is worked out
// from its bytes (SDM 2, 2.1), or is where string and stack instructions look; of these guesses the one counts that the
// TD's page tables translate to the violating GPA.
#include "sim/sim.h"

#define FS_BASE 0xc0000100
#define GS_BASE 0xc0000101

static u64 reg(struct vcpu *v, u32 n) { return n == RSP ? v->vmcb->rsp : v->g[n]; }
static bool hits(struct vcpu *v, u64 linear, u64 gpa) {
  u64 to;
  return td_translate(v, linear, &to) && to == gpa;
}

u64 decode_linear(struct vcpu *v, u64 gpa) {
  static const u8 immediates[] = { 0, 1, 2, 4 }; // an address relative to RIP counts from the instruction's end
  u64 guesses[] = { v->g[RSI], v->g[RDI], v->vmcb->rsp, v->vmcb->rsp - 8 };
  u8 b[24] = { 0 };
  u32 i = 0, rex = 0;
  u64 base = 0;
  for (u32 n = 15; n && !td_fetch(v, v->vmcb->rip, b, n);) n--;
  for (;; i++) {
    u8 p = b[i];
    if (p == 0x64) base = rdmsr(FS_BASE);
    else if (p == 0x65) base = rdmsr(GS_BASE);
    else if (p != 0x66 && p != 0x67 && p != 0xf0 && p != 0xf2 && p != 0xf3 && p != 0x2e && p != 0x36 && p != 0x3e && p != 0x26) break;
    if (i == 14) return 0;
  }
  if ((b[i] & 0xf0) == 0x40) rex = b[i++];
  u8 opcode = b[i++];
  if (opcode == 0x0f && ((opcode = b[i++]) == 0x38 || opcode == 0x3a)) i++;
  if (opcode >= 0xa0 && opcode <= 0xa3) { // MOV with a whole address in it
    u64 at;
    memcpy(&at, b + i, 8);
    if (hits(v, base + at, gpa)) return base + at;
  }
  u32 mod = b[i] >> 6, rm = b[i] & 7;
  bool relative = mod == 0 && rm == 5;
  u64 at = 0;
  i++;
  if (mod != 3 && rm == 4) {
    u32 index = (b[i] >> 3 & 7) | (rex & 2) << 2, low = b[i] & 7;
    if (index != 4) at = reg(v, index) << (b[i] >> 6);
    if (low == 5 && mod == 0) mod = 2;
    else at += reg(v, low | (rex & 1) << 3);
    i++;
  } else if (mod != 3 && !relative) {
    at = reg(v, rm | (rex & 1) << 3);
  }
  s32 wide;
  memcpy(&wide, b + i, 4);
  if (mod == 1) at += (u64)(s64)(s8)b[i];
  if (mod == 2 || relative) at += (u64)(s64)wide;
  for (u32 k = 0; k < (relative ? ARRAY_SIZE(immediates) : 1); k++) {
    u64 linear = base + at + (relative ? v->vmcb->rip + i + 4 + immediates[k] : 0);
    if (hits(v, linear, gpa)) return linear;
  }
  for (u32 k = 0; k < ARRAY_SIZE(guesses); k++)
    if (hits(v, guesses[k], gpa)) return guesses[k];
  return 0;
}

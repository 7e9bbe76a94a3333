// SPDX-License-Identifier: Apache-2.0
//
// TDCALL: the leaves of the TDX module that a TD's kernel meets (module 1.5.01; leaves 0-8 and 22), with its operand
// checks in its order. Status in RAX; the low 32 bits name the operand.
#include "sim/sim.h"

enum { OPERAND_RAX = 0, OPERAND_RCX = 1, OPERAND_RDX = 2, OPERAND_R8 = 8, OPERAND_R9 = 9 };
u64 status_operand(u64 status, u32 operand) { return status | operand; }
static u64 invalid(u32 operand) { return status_operand(TDX_OPERAND_INVALID, operand); }

static u64 vp_info(struct vcpu *v) {
  v->g[RCX] = td.gpaw;
  v->g[RDX] = td.attributes;
  v->g[R8] = td.num_vcpus | (u64)td.num_vcpus << 32;
  v->g[R9] = v->index;
  v->g[R10] = 1; // SYS_RD is there on real modules; here its leaves are refused
  v->g[R11] = 0;
  return TDX_SUCCESS;
}

static u64 veinfo_get(struct vcpu *v) {
  struct ve_info i = v->ve;
  if (!i.valid) i = (struct ve_info){ 0 };
  v->g[RCX] = i.reason;
  v->g[RDX] = i.qualification;
  v->g[R8] = i.gla;
  v->g[R9] = i.gpa;
  v->g[R10] = i.length | (u64)i.info << 32;
  v->ve.valid = false;
  return i.valid ? TDX_SUCCESS : TDX_NO_VALID_VE_INFO;
}

static u64 cpuidve_set(struct vcpu *v) {
  if (v->g[RCX] & ~3ul) return invalid(OPERAND_RCX);
  v->cpuid_ve = (u8)v->g[RCX];
  return TDX_SUCCESS;
}

// RCX: GPA in bits 51:12, level in 2:0; everything else 0, the GPA private and aligned to its size.
static u64 page_accept(struct vcpu *v) {
  u64 rcx = v->g[RCX], gpa = rcx & 0x000ffffffffff000ul;
  u32 level = rcx & 7;
  if ((rcx & ~0x000ffffffffff007ul) || level > 1 || gpa >= td.shared_bit || !IS_ALIGNED(gpa, level ? PAGE2M : PAGE)) return invalid(OPERAND_RCX);
  return memory_accept(v, gpa, level);
}

// --- metadata fields: TDG.VM.RD and .WR. A field of several elements has consecutive codes.
static bool field_find(u64 id, u64 *value, bool *writable) {
  static const struct { u64 id; const void *data; u32 elements; } arrays[] = {
    { 0x1310000300000000, td.mrtd, 6 }, { 0x1310000300000010, td.mrconfigid, 6 }, { 0x1310000300000018, td.mrowner, 6 },
    { 0x1310000300000020, td.mrownerconfig, 6 }, { 0x1310000300000040, td.rtmr, 24 },
  };
  *writable = false;
  switch (id) {
  case 0x1110000300000000: *value = td.attributes; return true;
  case 0x1110000300000001: *value = td.xfam; return true;
  case 0x1110000000000003: *value = td.gpaw == 52; return true;
  case 0x1110000300000016: *value = td.gpaw == 52; return true; // CONFIG_FLAGS: bit 0 GPAW
  case 0x1110000300000017: *value = td.attributes >> 28 & 1; return true; // TD_CTLS: PENDING_VE_DISABLE
  case 0x9010000200000001: case 0x1110000200000002: *value = td.num_vcpus; return true;
  case 0x111000010000000c: *value = tsc_hz / 25000000; return true;
  case 0x9110000300000010: *value = td.notify_enables; *writable = true; return true;
  default: break;
  }
  if (id >= 0x9910000300000000 && id < 0x9910000300000006) { // SERVTD_HASH: no service TD is bound
    *value = 0;
    return true;
  }
  for (u32 i = 0; i < ARRAY_SIZE(arrays); i++)
    if (id >= arrays[i].id && id - arrays[i].id < arrays[i].elements) {
      memcpy(value, (const u8 *)arrays[i].data + 8 * (id - arrays[i].id), 8);
      return true;
    }
  return false;
}

static u64 vm_rd(struct vcpu *v) {
  u64 value = 0;
  bool writable;
  if (v->g[RCX]) return invalid(OPERAND_RCX);
  bool found = field_find(v->g[RDX], &value, &writable);
  v->g[R8] = found ? value : 0;
  return found ? TDX_SUCCESS : status_operand(TDX_FIELD_ID_INCORRECT, OPERAND_RDX);
}

static u64 vm_wr(struct vcpu *v) {
  u64 old, mask = v->g[R9];
  bool writable;
  if (v->g[RCX]) return invalid(OPERAND_RCX);
  if (!field_find(v->g[RDX], &old, &writable)) return status_operand(TDX_FIELD_ID_INCORRECT, OPERAND_RDX);
  if (!writable) return status_operand(TDX_FIELD_NOT_WRITABLE, OPERAND_RDX);
  td.notify_enables = ((old & ~mask) | (v->g[R8] & mask)) & 1;
  v->g[R8] = old;
  return TDX_SUCCESS;
}

void tdcall(struct vcpu *v) {
  u64 rax = v->g[RAX], status;
  u32 leaf = rax & 0xffff, version = rax >> 16 & 0xff;
  count(v, MODULE_CALL);
  if (rax >> 24 || (version && !(leaf == 7 && version == 1))) {
    status = invalid(OPERAND_RAX);
  } else if ((leaf == 2 || leaf == 4 || leaf == 6) && lie(v, LIE_BUSY)) { // the host is in the module with the same page or TD
    status = status_operand(TDX_OPERAND_BUSY, OPERAND_RCX);
  } else switch (leaf) {
  case 0:
    if ((v->g[RCX] & (BIT(0) | BIT(1) | BIT(4))) || v->g[RCX] >> 32) {
      status = invalid(OPERAND_RCX);
      break;
    }
    vmm_call(v);
    status = TDX_SUCCESS;
    break;
  case 1: status = vp_info(v); break;
  case 2: status = tdcall_rtmr_extend(v); break;
  case 3: status = veinfo_get(v); break;
  case 4: status = tdcall_report(v); break;
  case 5: status = cpuidve_set(v); break;
  case 6: status = page_accept(v); break;
  case 7: status = vm_rd(v); break;
  case 8: status = vm_wr(v); break;
  case 22: status = tdcall_verify_report(v); break;
  default: status = invalid(OPERAND_RAX);
  }
  if (status == TDX_RETRY_LATER) return;
  v->g[RAX] = status;
  v->vmcb->rip += 4;
}

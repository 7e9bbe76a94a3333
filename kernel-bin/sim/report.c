// SPDX-License-Identifier: Apache-2.0
//
// TDG.MR.REPORT, .VERIFYREPORT and .RTMR.EXTEND. The MAC is HMAC-SHA256 under the key that the launcher gave, so that the
// stand-in quote service can check it as the SGX quoting enclave would.
#include "sim/sim.h"

enum { OPERAND_RCX = 1, OPERAND_RDX = 2, OPERAND_R8 = 8 };
struct report {
  u8 type, subtype, version, reserved, reserved12[12];
  u8 cpusvn[16], tcb_info_hash[48], td_info_hash[48], report_data[64], reserved32[32], mac[32];
  u8 tcb_info[239], reserved17[17];
  u64 attributes, xfam;
  u8 mrtd[48], mrconfigid[48], mrowner[48], mrownerconfig[48], rtmr[4][48], servtd_hash[48], reserved64[64];
} __packed;
_Static_assert(sizeof(struct report) == 1024 && offsetof(struct report, mac) == 224 && offsetof(struct report, attributes) == 512, "TDREPORT");

static u8 mac_key[32], tcb_info[239];
static const u8 cpusvn[16] = { 1, 1, 2, 2, 3, 1, 0, 3 };
static struct spinlock rtmr_lock;

static void hmac_sha256(const u8 key[32], const void *data, size_t n, u8 out[32]) {
  struct sha256 s;
  u8 pad[64];
  for (u32 i = 0; i < 64; i++) pad[i] = (u8)(0x36 ^ (i < 32 ? key[i] : 0));
  sha256_init(&s);
  sha256_update(&s, pad, 64);
  sha256_update(&s, data, n);
  sha256_final(&s, out);
  for (u32 i = 0; i < 64; i++) pad[i] ^= 0x36 ^ 0x5c;
  sha256_init(&s);
  sha256_update(&s, pad, 64);
  sha256_update(&s, out, 32);
  sha256_final(&s, out);
}

void report_init(void) {
  static const char name[] = "gramine-tdx simulated TDX module";
  u32 select, size;
  if (fwcfg_find("opt/gramine/sim-mac-key", &select, &size)) {
    if (size != sizeof(mac_key)) panic("opt/gramine/sim-mac-key: %u bytes, 32 expected", size);
    fwcfg_read(select, virt_to_phys(mac_key), 0, size);
  }
  static const u8 valid[8] = { 0xff, 0x01, 0x03 }, svn[16] = { 5, 1, 2 };
  memcpy(tcb_info, valid, 8);
  memcpy(tcb_info + 8, svn, 16);
  sha384_hash(name, sizeof(name) - 1, tcb_info + 24); // MRSEAM; MRSIGNERSEAM and the attributes are 0
  memcpy(tcb_info + 128, svn, 16);
}

// The module's access to `n` bytes of a TD's private page. NULL: `*status` is to be returned.
static void *operand(struct vcpu *v, u64 gpa, u64 align, u32 id, u64 *status) {
  if (!IS_ALIGNED(gpa, align) || gpa >= td.shared_bit) {
    *status = status_operand(TDX_OPERAND_INVALID, id);
    return NULL;
  }
  if (!memory_private_ready(v, gpa)) {
    *status = TDX_RETRY_LATER;
    return NULL;
  }
  return (u8 *)td_memory(ALIGN_DOWN(gpa, PAGE), false) + (gpa & (PAGE - 1));
}

u64 tdcall_report(struct vcpu *v) {
  u64 out = v->g[RCX], status;
  struct report r = { .type = 0x81 };
  if (!IS_ALIGNED(out, sizeof(r))) return status_operand(TDX_OPERAND_INVALID, OPERAND_RCX);
  void *data = operand(v, v->g[RDX], 64, OPERAND_RDX, &status);
  if (!data) return status;
  if (v->g[R8]) return status_operand(TDX_OPERAND_INVALID, OPERAND_R8);
  memcpy(r.report_data, data, 64);
  void *to = operand(v, out, sizeof(r), OPERAND_RCX, &status);
  if (!to) return status;
  memcpy(r.cpusvn, cpusvn, 16);
  memcpy(r.tcb_info, tcb_info, sizeof(tcb_info));
  r.attributes = td.attributes;
  r.xfam = td.xfam;
  memcpy(r.mrtd, td.mrtd, 48);
  memcpy(r.mrconfigid, td.mrconfigid, 48);
  memcpy(r.mrowner, td.mrowner, 48);
  memcpy(r.mrownerconfig, td.mrownerconfig, 48);
  spin_lock(&rtmr_lock);
  memcpy(r.rtmr, td.rtmr, sizeof(td.rtmr));
  spin_unlock(&rtmr_lock);
  sha384_hash(r.tcb_info, sizeof(r.tcb_info), r.tcb_info_hash);
  sha384_hash(&r.attributes, 512, r.td_info_hash);
  hmac_sha256(mac_key, &r, offsetof(struct report, mac), r.mac);
  memcpy(to, &r, sizeof(r));
  return TDX_SUCCESS;
}

u64 tdcall_verify_report(struct vcpu *v) {
  u64 status;
  u8 mac[32];
  const struct report *r = operand(v, v->g[RCX], 256, OPERAND_RCX, &status);
  if (!r) return status;
  if (memcmp(r->cpusvn, cpusvn, 16) != 0) return TDX_INVALID_CPUSVN;
  hmac_sha256(mac_key, r, offsetof(struct report, mac), mac);
  bool known = r->type == 0x81 && mem_equal_const_time(mac, r->mac, 32);
  return known ? TDX_SUCCESS : TDX_INVALID_REPORTMACSTRUCT;
}

u64 tdcall_rtmr_extend(struct vcpu *v) {
  u64 status, index = v->g[RDX];
  void *data = operand(v, v->g[RCX], 64, OPERAND_RCX, &status);
  if (!data) return status;
  if (index > 3) return status_operand(TDX_OPERAND_INVALID, OPERAND_RDX);
  u8 both[96];
  spin_lock(&rtmr_lock);
  memcpy(both, td.rtmr[index], 48);
  memcpy(both + 48, data, 48);
  sha384_hash(both, 96, td.rtmr[index]);
  spin_unlock(&rtmr_lock);
  return TDX_SUCCESS;
}

// SPDX-License-Identifier: Apache-2.0
//
// Measurement registers and the event log, a TCG2 crypto-agile log of SHA-384 events (TCG PC Client firmware profile 10.2;
// CC_EVENT numbering: register index + 1). In a TD the registers are the TDX module's; elsewhere they are these 48-byte
// arrays and prove nothing. Not from interrupts; the lock keeps log order and register order the same.

#include "attest/internal.h"
#include "arch/tdx.h"

#define RTMR_COUNT 4
#define ALG_SHA384 0x000c
#define EV_NO_ACTION 3
#define RUNTIME_BYTES (256 * KIB) // for what the program extends
#define EVENT_FIXED_BYTES (4 + 4 + 4 + 2 + 48 + 4)

static struct spinlock lock = SPINLOCK_INIT(RANK_OBJECT);
static u8 registers[RTMR_COUNT][48]; // outside a TD
static u8 *td_page;                  // in a TD: operands of the module, under the lock
#define TD_DIGEST_AT 1024            // behind a report
#define REPORT_RTMR_AT (512 + 208)   // TDREPORT: TDINFO, RTMR0
static u8 *event_buf;
static size_t log_len, log_cap;      // log_len: read without the lock, acquire

static u8 *put16(u8 *p, u16 v) { memcpy(p, &v, 2); return p + 2; }
static u8 *put32(u8 *p, u32 v) { memcpy(p, &v, 4); return p + 4; }

void measure_init(size_t boot_bytes) {
  log_cap = boot_bytes + 4096 + RUNTIME_BYTES;
  event_buf = arena_alloc(log_cap);
  if (!event_buf) host_fatal("no memory for the event log");
  if (in_td) {
    struct page *page = page_alloc(0, ALLOC_ZERO);
    if (!page) host_fatal("no memory for measuring");
    td_page = page_virt(page);
  }
  // The first record tells the format: Spec ID Event03, one algorithm. It is never extended.
  u8 *p = put32(put32(event_buf, 1), EV_NO_ACTION);
  memset(p, 0, 20);
  p = put32(p + 20, 16 + 4 + 4 + 4 + 4 + 1);
  memcpy(p, "Spec ID Event03", 16);
  p = put32(p + 16, 0);                      // platform class: client
  *p++ = 0, *p++ = 2, *p++ = 0, *p++ = 2;    // minor, major, errata, UINTN size in 32-bit units
  p = put16(put16(put32(p, 1), ALG_SHA384), 48);
  *p++ = 0;                                  // no vendor data
  __atomic_store_n(&log_len, (size_t)(p - event_buf), __ATOMIC_RELEASE);
}

static int extend_locked(unsigned index, const u8 digest[48]) {
  if (in_td) {
    memcpy(td_page + TD_DIGEST_AT, digest, 48);
    return tdx_mr_rtmr_extend(virt_phys(td_page + TD_DIGEST_AT), index) == TDX_SUCCESS ? 0 : -EIO;
  }
  struct sha512 s;
  sha384_init(&s);
  sha384_update(&s, registers[index], 48);
  sha384_update(&s, digest, 48);
  sha384_final(&s, registers[index]);
  return 0;
}

void rtmr_read(unsigned index, u8 out[48]) {
  ASSERT(index < RTMR_COUNT);
  spin_lock(&lock);
  if (!in_td) memcpy(out, registers[index], 48);
  else if (tdx_mr_report(virt_phys(td_page), virt_phys(td_page + TD_DIGEST_AT))) host_fatal("a measurement register cannot be read");
  else memcpy(out, td_page + REPORT_RTMR_AT + 48 * index, 48);
  spin_unlock(&lock);
}

int measure_event(unsigned rtmr, u32 type, const char *what, const void *data, size_t len) {
  ASSERT(rtmr < RTMR_COUNT && event_buf);
  u8 digest[48];
  sha384_hash(data, len, digest);
  spin_lock(&lock);
  int err = -ENOSPC;
  if (log_cap - log_len < EVENT_FIXED_BYTES || log_cap - log_len - EVENT_FIXED_BYTES < len) goto out;
  err = extend_locked(rtmr, digest);
  if (err) goto out;
  u8 *p = put32(put32(put32(event_buf + log_len, rtmr + 1), type), 1);
  p = put16(p, ALG_SHA384);
  memcpy(p, digest, 48);
  p = put32(p + 48, (u32)len);
  memcpy(p, data, len);
  __atomic_store_n(&log_len, (size_t)(p + len - event_buf), __ATOMIC_RELEASE);
  printk(LOG_DEBUG, "measured %s into RTMR%u: %zu bytes\n", what, rtmr, len);
out:
  spin_unlock(&lock);
  return err;
}

const u8 *event_log(size_t *len) {
  *len = __atomic_load_n(&log_len, __ATOMIC_ACQUIRE);
  return event_buf;
}

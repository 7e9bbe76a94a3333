// SPDX-License-Identifier: Apache-2.0
// A TDX module for the attest room, natively: four registers, reports with the fields that the kernel looks at. A host's
// quoting service is the test's own (tdx_vmcall_get_quote). Include after dev_mock.h and lib/sha2.c.
#ifndef TD_MOCK_H
#define TD_MOCK_H
#include "arch/tdx.h"

static u8 td_rtmr[4][48];
static u8 td_mrseam[48];
static u64 td_status = TDX_SUCCESS; // of every call
static u8 *td_mem(phys_t pa) { return (u8 *)(uintptr_t)(pa + DIRECT_BASE); } // the inverse of virt_phys

// Pages whose bytes are page-aligned, which mock_page's are not.
struct page *page_alloc(unsigned order, unsigned flags) {
  u8 *base = mock_alloc_fails() ? NULL : aligned_alloc(4096, 8192);
  if (!base) return NULL;
  memset(base, 0, 8192);
  return (struct page *)(void *)(base + 4096 - sizeof(struct page));
}
static inline void *page_virt(const struct page *p) { return (u8 *)(uintptr_t)p + sizeof(struct page); }
void page_put(struct page *p) { free((u8 *)p + sizeof(struct page) - 4096); }

u64 tdx_mr_rtmr_extend(phys_t digest, unsigned index) {
  if (td_status) return td_status;
  ASSERT(IS_ALIGNED(digest, 64) && index < 4);
  u8 both[96];
  memcpy(both, td_rtmr[index], 48);
  memcpy(both + 48, td_mem(digest), 48);
  sha384_hash(both, 96, td_rtmr[index]);
  return TDX_SUCCESS;
}
u64 tdx_mr_report(phys_t report, phys_t data) {
  if (td_status) return td_status;
  ASSERT(IS_ALIGNED(report, 1024) && IS_ALIGNED(data, 64));
  u8 *r = td_mem(report);
  memset(r, 0, 1024);
  r[0] = 0x81;
  memcpy(r + 128, td_mem(data), 64);
  memcpy(r + 256 + 24, td_mrseam, 48);
  memset(r + 512, 0x5a, 208); // attributes to MROWNERCONFIG
  memcpy(r + 512 + 208, td_rtmr, sizeof(td_rtmr));
  return TDX_SUCCESS;
}
#endif

// SPDX-License-Identifier: Apache-2.0
//
// What a TD checks before it goes on. The TDX module's answers are trusted; the TD HOB is the host's.
#include "boot/internal.h"
#include "boot/hob.h"
#include "boot/layout.h"
#include "arch/internal.h"
#include "arch/tdx.h"
#include "host/internal.h"
#include "page/internal.h"

// Without SEPT_VE_DISABLE the host can take a page away and make the next access a #VE anywhere in the kernel, system
// call entry included (threat-model T16).
void td_check_attributes(void) {
  if (!(tdx_info.attributes & (TDX_ATTR_SEPT_VE_DISABLE | TDX_ATTR_DEBUG)))
    host_fatal("this TD lets the host inject #VE: start it with SEPT_VE_DISABLE (attributes bit 28)");
}

// The layout of memory is a function of its measured size (page/early.c); the host's list must say the same.
void td_check_resources(u64 memory_bytes, u32 count) {
  static char why[160];
  u64 low = page_low_bytes(memory_bytes);
  const struct hob_range expected[] = { { 0, low }, { 4 * GIB, 4 * GIB + memory_bytes - low } };
  if (tdx_info.vcpus != count) {
    snprintf(why, sizeof(why), "%u vCPUs are measured, the TD has %u", count, tdx_info.vcpus);
    host_fatal(why);
  }
  if (hob_check(phys_virt(TD_HOB), TD_HOB_BYTES, expected, ARRAY_SIZE(expected), cfv_phys, why, sizeof(why))) host_fatal(why);
}

// SPDX-License-Identifier: Apache-2.0
//
// boot: the reset vector, the order of initialisation, and the doors that it opens in each room.
#ifndef BOOT_INTERNAL_H
#define BOOT_INTERNAL_H
#include "arch/arch.h"

extern const phys_t cfv_phys, ap_release_phys; // in the flash volume (entry.S)

// TD: what must hold before anything of the host's is believed; each refusal is a message to the host and the end.
void td_check_attributes(void);
void td_check_resources(u64 memory_bytes, u32 count); // against TD HOB and TDX module

void smp_start(u32 count);
void smp_finish(u32 count);
void smp_release(void);

#endif

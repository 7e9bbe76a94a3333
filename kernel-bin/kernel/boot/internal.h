// SPDX-License-Identifier: Apache-2.0
//
// boot: the reset vector, the order of initialisation, and the doors that it opens in each room.
#ifndef BOOT_INTERNAL_H
#define BOOT_INTERNAL_H
#include "arch/arch.h"

void smp_start(u32 count);
void smp_finish(u32 count);
void smp_release(void);

#endif

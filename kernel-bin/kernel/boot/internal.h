// SPDX-License-Identifier: Apache-2.0
//
// boot: the reset vector, the order of initialisation, and the doors that it opens in each room. What is weak may be
// missing while rooms are being written.
#ifndef BOOT_INTERNAL_H
#define BOOT_INTERNAL_H
#include "arch/arch.h"

void smp_start(u32 count);
void smp_finish(u32 count);
void smp_release(void);

// Rooms that do not exist yet are missing from the boot, not from the link.
__weak void mm_init(void);
__weak void drv_init(void);
__weak void file_init(void);
__weak void fs_init(void);
__weak void net_init(void);
__weak void control_send_last_words(const char *text);
__weak void proc_init(void);
__weak void sys_init(void);
__weak void proc_start_init(void);
#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Where boot keeps things in low memory, for assembly and C. In a TD the host fills these pages as the image's metadata
 * says (reset.S), with what it likes: boot overwrites or checks everything in them. */
#ifndef BOOT_LAYOUT_H
#define BOOT_LAYOUT_H

#define TRAMPOLINE 0x8000     /* ordinary VM: where the other CPUs start */
#define BOOT_TABLES 0x10000   /* 8 pages of page tables, until the kernel has its own; APs pass through them */
#define BOOT_TABLES_BYTES 0x8000
#define TD_HOB 0x18000
#define TD_HOB_BYTES 0x1000
#define CFV_BYTES 0x400000
#define KERNEL_PHYS 0x200000  /* kernel.lds */

#endif

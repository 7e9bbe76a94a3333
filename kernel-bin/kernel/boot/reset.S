// SPDX-License-Identifier: Apache-2.0
//
// The last page of the flash volume, which ends at 4 GiB. The CPU starts at 0xfffffff0: in real mode in an ordinary VM,
// in flat 32-bit protected mode in a TD (TDX module 1.5: every vCPU; RBX = GPAW, RCX = TD HOB, RSI = vCPU index). Both
// join at start32: boot page tables, long mode, the kernel copied from flash to RAM, a jump to the higher half.
//
// Registers from start32 on: EBP 1 in a TD, 0 in a VM; EBX GPAW or 0; EDX address of the TD HOB or 0.
//
// Boot page tables (8 pages at BOOT_TABLES): the first 4 GiB, at 0 and at DIRECT_BASE, in 2 MiB pages, and 4 MiB of
// kernel in the higher half. boot/smp.c lends them to the APs; they are never used after boot.
#define BOOT_TABLES 0x10000
#define PML4 BOOT_TABLES
#define PDPT (BOOT_TABLES + 0x1000)
#define PD0 (BOOT_TABLES + 0x2000)
#define PDPT_HIGH (BOOT_TABLES + 0x6000)
#define PD_HIGH (BOOT_TABLES + 0x7000)
#define MSR_EFER 0xc0000080
#define EFER_SCE_LME_NXE 0x901

  .section .reset, "ax"
  .code32
reset_page:
start32:
  lgdt gdt_pointer
  movl $0x18, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss

  cld
  movl %ecx, %edx
  xorl %eax, %eax
  movl $BOOT_TABLES, %edi
  movl $(8 * 1024), %ecx
  rep stosl

  movl $(PDPT + 3), PML4
  movl $(PDPT + 3), PML4 + 273 * 8        // DIRECT_BASE: physical memory where the kernel will have it
  movl $(PDPT_HIGH + 3), PML4 + 511 * 8
  movl $(PD_HIGH + 3), PDPT_HIGH + 510 * 8
  movl $0x200083, PD_HIGH + 1 * 8
  movl $0x400083, PD_HIGH + 2 * 8
  movl $(PD0 + 3), PDPT
  movl $(PD0 + 0x1003), PDPT + 8
  movl $(PD0 + 0x2003), PDPT + 16
  movl $(PD0 + 0x3003), PDPT + 24
  movl $PD0, %edi
  movl $0x83, %eax
1: movl %eax, (%edi)
  addl $8, %edi
  addl $0x200000, %eax
  jnc 1b

  movl %cr4, %eax
  orl $0x20, %eax                       // PAE
  movl %eax, %cr4
  movl $PML4, %eax
  movl %eax, %cr3
  movl %edx, %edi                       // rdmsr takes EDX
  movl $MSR_EFER, %ecx
  rdmsr
  testl $0x100, %eax                    // a TD starts with LME, and a write would be a #VE
  jnz 2f
  orl $EFER_SCE_LME_NXE, %eax
  wrmsr
2: movl %edi, %edx
  movl %cr0, %eax
  orl $0x80010021, %eax                 // PG, WP, NE, PE
  andl $0x9fffffff, %eax                // the cache on: a VM starts with CD and NW
  movl %eax, %cr0
  ljmpl $0x08, $start64

  .code64
start64:
  movl $bfv_base, %esi
  movl $KERNEL_PHYS, %edi
  movl $kernel_file_bytes, %ecx
  shrl $3, %ecx
  rep movsq
  movl $kernel_bss_bytes, %ecx
  shrl $3, %ecx
  xorl %eax, %eax
  rep stosq
  movl %ebp, %edi                       // first argument: in a TD
  movl %ebx, %esi                       // second: GPAW; third, the HOB, is in EDX
  movq $kernel_entry, %rax
  jmp *%rax

  .code32
entry32:                                // a TD
  movl $1, %ebp
  testl %esi, %esi
  jz start32
1: pause                                // its other vCPUs wait for a later stage
  jmp 1b

  .code16
entry16:                                // a VM; CS base is 0xffff0000
  cli
  xorl %ebp, %ebp
  xorl %ebx, %ebx
  xorl %ecx, %ecx
  lgdtl %cs:(gdt_pointer - 0xffff0000)
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  ljmpl $0x10, $start32

  .balign 16
gdt:
  .quad 0
  .quad 0x00af9b000000ffff              // 0x08 code, 64-bit
  .quad 0x00cf9b000000ffff              // 0x10 code, 32-bit
  .quad 0x00cf93000000ffff              // 0x18 data
gdt_pointer:
  .word gdt_pointer - gdt - 1
  .long gdt

  // The end is laid out from 4 GiB backwards. TDVF metadata's GUIDed table ends at -32 (its footer is at -48..-32) and
  // grows down; nothing else may use the bytes from -512 to -32.
  .org 0xe00
  .org 0xfe0
  .code32
either:                                 // -32: the same bytes are good in both modes
  .byte 0x0f, 0x20, 0xc0                // mov %cr0, %eax
  .byte 0xa8, 0x01                      // test $1, %al
  .byte 0x74, 0x05                      // jz 1f
  .byte 0xe9                            // 32-bit: jmp entry32
  .long entry32 - (. + 4)
  .byte 0xe9                            // 1: 16-bit: jmp entry16
  .word entry16 - (. + 2)
  .org 0xff0
  .byte 0xeb, either - (. + 1)          // -16: jmp either
  .org 0x1000

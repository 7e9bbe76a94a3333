// SPDX-License-Identifier: Apache-2.0
//
// The last page of the flash volume, which ends at 4 GiB. The CPU starts at 0xfffffff0: in real mode in an ordinary VM,
// in flat 32-bit protected mode in a TD (TDX module 1.5: every vCPU at once; RBX = GPAW, RSI = vCPU index). Both join at
// start32: boot page tables, long mode, the kernel copied from flash to RAM, a jump to the higher half.
//
// Registers from start32 on: EBP 1 in a TD, 0 in a VM; EBX GPAW or 0; ESI the vCPU's index, 0 for the one that boots.
//
// A TD's other vCPUs wait here, in this page, for ap_release: its first value is measured (the BFV is extended into
// MRTD), while whatever lies in RAM now is the host's choice.
//
// Boot page tables (8 pages at BOOT_TABLES): the first 4 GiB, at 0 and at DIRECT_BASE, in 2 MiB pages, and 4 MiB of
// kernel in the higher half. boot/smp.c lends them to the APs; they are never used after boot.
#include "boot/layout.h"
#define PML4 BOOT_TABLES
#define PDPT (BOOT_TABLES + 0x1000)
#define PD0 (BOOT_TABLES + 0x2000)
#define PDPT_HIGH (BOOT_TABLES + 0x6000)
#define PD_HIGH (BOOT_TABLES + 0x7000)
#define MSR_EFER 0xc0000080
#define EFER_SCE_LME_NXE 0x901
#define TDG_MEM_PAGE_ACCEPT 6
#define ACCEPT_BUSY_RETRIES 10000        // the host, or another vCPU, is in the module with the same page
#define STATUS_BUSY 0x80000200           // the upper halves of the module's status codes
#define STATUS_ALREADY_ACCEPTED 0x00000b0a
#define STATUS_SIZE_MISMATCH 0xc0000b0b

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
  testl %esi, %esi
  jnz enter_long                        // the tables are there
  xorl %eax, %eax
  movl $BOOT_TABLES, %edi
  movl $(BOOT_TABLES_BYTES / 4), %ecx
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

enter_long:
  movl %cr4, %eax
  orl $0x20, %eax                       // PAE
  movl %eax, %cr4
  movl $PML4, %eax
  movl %eax, %cr3
  movl $MSR_EFER, %ecx
  rdmsr
  testl $0x100, %eax                    // a TD starts with LME, and a write would be a #VE
  jnz 2f
  orl $EFER_SCE_LME_NXE, %eax
  wrmsr
2: movl %cr0, %eax
  orl $0x80010021, %eax                 // PG, WP, NE, PE
  andl $0x9fffffff, %eax                // the cache on: a VM starts with CD and NW
  movl %eax, %cr0
  ljmpl $0x08, $start64

  .code64
start64:
  testl %esi, %esi
  jz 1f
  movl %esi, %edi
  movq $ap_entry_td, %rax
  jmp *%rax
1: testl %ebp, %ebp
  jz copy_kernel

  // RAM for the kernel: 2 MiB at a time, or single pages where the host maps so. Accepted already is fine, because every
  // byte is written below. EDI: address.
  movl $KERNEL_PHYS, %edi
accept_next:
  movl $1, %r8d                         // level: 2 MiB
  movl $0x200000, %r9d
  leal -1(%r9), %eax
  testl %eax, %edi
  jz accept
accept_small:
  xorl %r8d, %r8d
  movl $0x1000, %r9d
accept:
  movl $ACCEPT_BUSY_RETRIES, %r10d
accept_again:
  movl %edi, %ecx
  orl %r8d, %ecx
  movl $TDG_MEM_PAGE_ACCEPT, %eax
  .byte 0x66, 0x0f, 0x01, 0xcc          // TDCALL
  shrq $32, %rax
  cmpl $STATUS_BUSY, %eax
  jne 2f
  decl %r10d
  jnz accept_again
  jmp no_memory
2:
  cmpl $STATUS_ALREADY_ACCEPTED, %eax
  je 1f
  testl %eax, %eax
  jz 1f
  cmpl $STATUS_SIZE_MISMATCH, %eax
  jne no_memory
  testl %r8d, %r8d
  jnz accept_small
  jmp no_memory
1: addl %r9d, %edi
  cmpl $kernel_ram_end, %edi
  jb accept_next

copy_kernel:
  movl $bfv_base, %esi
  movl $KERNEL_PHYS, %edi
  movl $kernel_file_bytes, %ecx
  shrl $3, %ecx
  rep movsq
  movl $kernel_bss_bytes, %ecx
  shrl $3, %ecx
  xorl %eax, %eax
  rep stosq
  movl %ebp, %edi                       // argument: in a TD
  movq $kernel_entry, %rax
  jmp *%rax

// TDVMCALL ReportFatalError: 64 bytes of text in R14 R15 RBX RDI RSI R8 R9 RDX.
no_memory:
  movq no_memory_text(%rip), %r14
  movq no_memory_text + 8(%rip), %r15
  movq no_memory_text + 16(%rip), %rbx
  movq no_memory_text + 24(%rip), %rdi
  movq no_memory_text + 32(%rip), %rsi
  movq no_memory_text + 40(%rip), %r8
  movq no_memory_text + 48(%rip), %r9
  movq no_memory_text + 56(%rip), %rdx
  xorl %eax, %eax
  movl $0xffcc, %ecx
  xorl %r10d, %r10d
  movl $0x10003, %r11d
  xorl %r12d, %r12d
  .byte 0x66, 0x0f, 0x01, 0xcc          // TDCALL
1: pause
  jmp 1b
no_memory_text:
  .ascii "the host gave no memory for the kernel (TDG.MEM.PAGE.ACCEPT)"
  .org no_memory_text + 64

  .code32
entry32:                                // a TD
  movl $1, %ebp
  testl %esi, %esi
  jz start32
1: pause
  cmpl $0, ap_release
  je 1b
  jmp start32

  .code16
entry16:                                // a VM; CS base is 0xffff0000
  cli
  xorl %ebp, %ebp
  xorl %ebx, %ebx
  xorl %esi, %esi
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

  .balign 4
  .globl ap_release
ap_release:                             // boot/smp.c sets it when there is something to do for the other vCPUs
  .long 0

  // TDVF metadata (docs/measurement.md): the whole image is [CFV][BFV]. Only the BFV is extended into MRTD.
  .macro SECTION offset, raw, address, size, type, attributes
  .long \offset, \raw
  .quad \address, \size
  .long \type, \attributes
  .endm
  .org 0xe00
  .byte 0xf3, 0xf9, 0xea, 0xe9, 0x8e, 0x16, 0xd5, 0x44, 0xa8, 0xeb, 0x7f, 0x4d, 0x87, 0x38, 0xf6, 0xae
tdvf:
  .ascii "TDVF"
  .long tdvf_end - tdvf, 1, (tdvf_end - tdvf - 16) / 32
  SECTION CFV_BYTES, bfv_bytes, bfv_base, bfv_bytes, 0, 1        // BFV, MR.EXTEND
  SECTION 0, CFV_BYTES, cfv_base, CFV_BYTES, 1, 0                // CFV
  SECTION 0, 0, BOOT_TABLES, BOOT_TABLES_BYTES, 3, 0             // TempMem
  SECTION 0, 0, TD_HOB, TD_HOB_BYTES, 2, 0                       // TD_HOB
tdvf_end:

  // The GUIDed table is read backwards from -32: its footer, then the entry with the descriptor's distance from the end.
  .org 0x1000 - 72
  .long 0x1000 - (tdvf - reset_page)
  .word 22
  .byte 0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2
  .word 40
  .byte 0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d

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

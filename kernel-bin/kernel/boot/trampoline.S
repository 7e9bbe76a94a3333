// SPDX-License-Identifier: Apache-2.0
//
// Where the other CPUs of an ordinary VM start: copied to physical 0x8000, real mode at 0800:0000. All come at once;
// each takes a number and with it a stack. They use the boot page tables (reset.S) until they are in the higher half.
#include "boot/layout.h"
#define BASE TRAMPOLINE

  .section .rodata.trampoline, "a"
  .globl trampoline_start, trampoline_end
  .balign 16
trampoline_start:
  .code16
  cli
  cld
  movw %cs, %ax
  movw %ax, %ds
  lgdtl (t_gdt_pointer - trampoline_start)
  movl %cr0, %eax
  orb $1, %al
  movl %eax, %cr0
  ljmpl $0x10, $(BASE + t32 - trampoline_start)

  .code32
t32:
  movl $0x18, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  movl %cr4, %eax
  orl $0x20, %eax                       // PAE
  movl %eax, %cr4
  movl $BOOT_TABLES, %eax
  movl %eax, %cr3
  movl $0xc0000080, %ecx
  rdmsr
  orl $0x901, %eax                      // EFER: NXE, LME, SCE
  wrmsr
  movl %cr0, %eax
  orl $0x80010021, %eax                 // PG, WP, NE, PE
  andl $0x9fffffff, %eax
  movl %eax, %cr0
  ljmpl $0x08, $(BASE + t64 - trampoline_start)

  .code64
t64:
  movq $ap_entry, %rax
  jmp *%rax

  .balign 16
t_gdt:
  .quad 0
  .quad 0x00af9b000000ffff              // 0x08 code, 64-bit
  .quad 0x00cf9b000000ffff              // 0x10 code, 32-bit
  .quad 0x00cf93000000ffff              // 0x18 data
t_gdt_pointer:
  .word t_gdt_pointer - t_gdt - 1
  .long BASE + t_gdt - trampoline_start
trampoline_end:

  .text
ap_entry:
  movl $1, %edi
  lock xaddl %edi, ap_next(%rip)        // my number, from 1
  .globl ap_entry_td
ap_entry_td:                            // EDI: the TDX module gave the number
  movq ap_cr3(%rip), %rax
  movq %rax, %cr3
  cmpl ap_limit(%rip), %edi
  jae 1f                                // more CPUs than were announced: in a TD boot has refused that
  leaq ap_stacks(%rip), %rax
  movq (%rax,%rdi,8), %rsp
  xorl %ebp, %ebp
  call ap_main
1: cli
  hlt
  jmp 1b
  .section .note.GNU-stack, "", @progbits

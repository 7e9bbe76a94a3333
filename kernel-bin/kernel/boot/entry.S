// SPDX-License-Identifier: Apache-2.0
// Where the reset page jumps to, on the boot page tables: a stack, then C. EDI: in a TD.
  .section .text.entry, "ax"
  .globl kernel_entry
  .type kernel_entry, @function
kernel_entry:
  leaq boot_stack_top(%rip), %rsp
  xorl %ebp, %ebp
  call kernel_main
1: hlt
  jmp 1b

// Addresses just below 4 GiB, which C in the higher half cannot name.
  .section .rodata
  .balign 8
  .globl cfv_phys, ap_release_phys
cfv_phys: .quad cfv_base
ap_release_phys: .quad ap_release

  .section .bss.boot_stack, "aw", @nobits
  .balign 4096
  .globl boot_stack_guard               // page/early.c leaves it unmapped
boot_stack_guard:
  .skip 4096
  .skip 16384
boot_stack_top:
  .section .note.GNU-stack, "", @progbits

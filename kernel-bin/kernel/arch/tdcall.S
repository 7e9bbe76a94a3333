// SPDX-License-Identifier: Apache-2.0
//
// u64 tdx_call(u64 leaf, struct tdx_regs *r): TDCALL with every register that any leaf uses, in the order of struct
// tdx_regs, and all of them stored afterwards. RBP and RSP are never exposed to the host. A call returns in RAX what
// the module said; leaf 0's other registers are the host's. Stack: callee-saved registers and the pointer.
  .text
  .balign 16
  .globl tdx_call
  .type tdx_call, @function
tdx_call:
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  pushq %rsi
  movq %rdi, %rax
  movq 0(%rsi), %rcx
  movq 8(%rsi), %rdx
  movq 16(%rsi), %r8
  movq 24(%rsi), %r9
  movq 32(%rsi), %r10
  movq 40(%rsi), %r11
  movq 48(%rsi), %r12
  movq 56(%rsi), %r13
  movq 64(%rsi), %r14
  movq 72(%rsi), %r15
  movq 80(%rsi), %rbx
  movq 88(%rsi), %rdi
  movq 96(%rsi), %rsi
  .byte 0x66, 0x0f, 0x01, 0xcc          // TDCALL
  pushq %rsi
  movq 8(%rsp), %rsi
  movq %rcx, 0(%rsi)
  movq %rdx, 8(%rsi)
  movq %r8, 16(%rsi)
  movq %r9, 24(%rsi)
  movq %r10, 32(%rsi)
  movq %r11, 40(%rsi)
  movq %r12, 48(%rsi)
  movq %r13, 56(%rsi)
  movq %r14, 64(%rsi)
  movq %r15, 72(%rsi)
  movq %rbx, 80(%rsi)
  movq %rdi, 88(%rsi)
  popq 96(%rsi)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  ret
  .section .note.GNU-stack, "", @progbits

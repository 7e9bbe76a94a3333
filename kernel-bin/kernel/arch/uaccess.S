// SPDX-License-Identifier: Apache-2.0
//
// The only instructions that touch a program's memory. A fault at a listed instruction goes to hooks.user_fault_ok
// (unless the entry says nofault) and then, if it could not be resolved, to its fixup. AC is set only in here.

  .macro EXTABLE insn, fixup, nofault
  .pushsection .extable, "a"
  .long \insn - .
  .long \fixup - .
  .long \nofault
  .popsection
  .endm

  .macro USER_BEGIN
  cmpb $0, cpu_has_smap(%rip)
  je 77f
  stac
77:
  .endm
  .macro USER_END
  cmpb $0, cpu_has_smap(%rip)
  je 78f
  clac
78:
  .endm

  .macro LOAD off, reg, nofault
66: movq \off(%rsi), \reg
  EXTABLE 66b, 5f, \nofault
  .endm
  .macro STORE reg, off, nofault
66: movq \reg, \off(%rdi)
  EXTABLE 66b, 5f, \nofault
  .endm

// size_t NAME(void *dst, const void *src, size_t n): bytes NOT copied. RDI, RSI, RCX always describe what is left;
// after a fault in a word the rest is tried again byte by byte, so that the count is exact.
  .macro COPY name, nofault
  .balign 16
  .globl \name
\name:
  USER_BEGIN
  movq %rdx, %rcx
  cmpq $32, %rcx
  jb 3f
2: LOAD 0, %r8, \nofault
  LOAD 8, %r9, \nofault
  LOAD 16, %r10, \nofault
  LOAD 24, %r11, \nofault
  STORE %r8, 0, \nofault
  STORE %r9, 8, \nofault
  STORE %r10, 16, \nofault
  STORE %r11, 24, \nofault
  addq $32, %rsi
  addq $32, %rdi
  subq $32, %rcx
  cmpq $32, %rcx
  jae 2b
3: cmpq $8, %rcx
  jb 5f
  LOAD 0, %r8, \nofault
  STORE %r8, 0, \nofault
  addq $8, %rsi
  addq $8, %rdi
  subq $8, %rcx
  jmp 3b
5: rep movsb
6: EXTABLE 5b, 6b, \nofault
  USER_END
  movq %rcx, %rax
  ret
  .endm

  .text
  COPY uaccess_copy, 0
  COPY uaccess_copy_nofault, 1

// size_t uaccess_clear(void *dst, size_t n): bytes NOT cleared
  .balign 16
  .globl uaccess_clear
uaccess_clear:
  USER_BEGIN
  movq %rsi, %rcx
  xorl %eax, %eax
1: cmpq $8, %rcx
  jb 2f
66: movq %rax, (%rdi)
  EXTABLE 66b, 2f, 0
  addq $8, %rdi
  subq $8, %rcx
  jmp 1b
2: rep stosb
3: EXTABLE 2b, 3b, 0
  USER_END
  movq %rcx, %rax
  ret

// int uaccess_cmpxchg32(u32 *p, u32 expected, u32 desired, u32 *old): 0, or 1 after a fault
  .balign 16
  .globl uaccess_cmpxchg32
uaccess_cmpxchg32:
  movq %rcx, %r8
  movl %esi, %eax
  USER_BEGIN
1: lock cmpxchgl %edx, (%rdi)
  EXTABLE 1b, 2f, 0
  USER_END
  movl %eax, (%r8)
  xorl %eax, %eax
  ret
2: USER_END
  movl $1, %eax
  ret
  .section .note.GNU-stack, "", @progbits

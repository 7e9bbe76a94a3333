// SPDX-License-Identifier: Apache-2.0
//
// Every way into the kernel and out of it. A frame is always struct regs; for an entry from ring 3 it lies right below
// cpu->kernel_rsp. GS is the program's in ring 3 and the CPU's in the kernel, changed by swapgs with interrupts off.
//
// IST entries (NMI, #DF, #MC) may hit between an entry and its swapgs, and a program may set any GS base (FSGSBASE),
// so they do not guess: they save MSR_GS_BASE, load the CPU's address from the top of their stack, and put it back.
#define CPU_KERNEL_RSP 16
#define CPU_USER_RSP 24
#define R_CS 136
#define R_RIP 128
#define REGS_BYTES 168
#define USER_CS 0x33
#define USER_SS 0x2b
#define MSR_GS_BASE 0xc0000101
#define IST_BYTES 8192

  .macro PUSH_REST                      // after orig_rax and rdi
  pushq %rsi
  pushq %rdx
  pushq %rcx
  pushq %rax
  pushq %r8
  pushq %r9
  pushq %r10
  pushq %r11
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  .endm

  .macro POP_REGS                      // up to and without orig_rax
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  popq %r11
  popq %r10
  popq %r9
  popq %r8
  popq %rax
  popq %rcx
  popq %rdx
  popq %rsi
  popq %rdi
  .endm

  .macro POP_ALL                        // up to and without rip
  POP_REGS
  addq $8, %rsp
  .endm

  .macro CLEAR_REGS                     // nothing of the program's is left for mis-speculation
  xorl %edx, %edx
  xorl %ecx, %ecx
  xorl %eax, %eax
  xorl %r8d, %r8d
  xorl %r9d, %r9d
  xorl %r10d, %r10d
  xorl %r11d, %r11d
  xorl %ebx, %ebx
  xorl %ebp, %ebp
  xorl %r12d, %r12d
  xorl %r13d, %r13d
  xorl %r14d, %r14d
  xorl %r15d, %r15d
  .endm

  .macro NO_USER_ACCESS                 // an interrupt or a fault keeps AC: a program sets it with POPF, uaccess.S with STAC
  cmpb $0, cpu_has_smap(%rip)
  je 79f
  clac
79:
  .endm

  .text
// 256 stubs of 16 bytes. The error code becomes orig_rax; %rdi goes to its place and then carries the vector.
  .balign 16
  .globl trap_stubs
trap_stubs:
  vector = 0
  .rept 256
  .balign 16
  .if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
  pushq $0
  .endif
  pushq %rdi
  movl $vector, %edi
  .if (vector == 2) || (vector == 8) || (vector == 18)
  jmp trap_ist
  .else
  jmp trap_common
  .endif
  vector = vector + 1
  .endr

  .balign 16
trap_common:
  cld
  PUSH_REST
  NO_USER_ACCESS
  testb $3, R_CS(%rsp)
  jz 1f
  swapgs
1: movl %edi, %esi
  movq %rsp, %rdi
  CLEAR_REGS
  subq $8, %rsp
  call arch_trap
  addq $8, %rsp
  testb $3, R_CS(%rsp)
  jz 2f
return_to_user:
  swapgs
2: POP_ALL
  iretq

  .balign 16
trap_ist:
  cld
  PUSH_REST
  NO_USER_ACCESS
  movl %edi, %esi
  movl $MSR_GS_BASE, %ecx
  rdmsr
  movl %eax, %ebx                       // callee-saved: the interrupted code's GS base
  movl %edx, %r12d
  movq %rsp, %rax
  orq $(IST_BYTES - 1), %rax
  movq -7(%rax), %rax
  movq %rax, %rdx
  shrq $32, %rdx
  wrmsr
  movq %rsp, %rdi
  xorl %ebp, %ebp
  subq $8, %rsp
  call arch_trap_ist
  addq $8, %rsp
  movl $MSR_GS_BASE, %ecx
  movl %ebx, %eax
  movl %r12d, %edx
  wrmsr
  POP_ALL
  iretq

// SYSCALL: RCX = return address, R11 = flags, RAX = number, interrupts off (SFMASK).
  .balign 16
  .globl syscall_entry
syscall_entry:
  swapgs
  movq %rsp, %gs:CPU_USER_RSP
  movq %gs:CPU_KERNEL_RSP, %rsp
  pushq $USER_SS
  pushq %gs:CPU_USER_RSP
  pushq %r11
  pushq $USER_CS
  pushq %rcx
  pushq %rax
  pushq %rdi
  PUSH_REST
  movq %rsp, %rdi
  CLEAR_REGS
  xorl %esi, %esi
  subq $8, %rsp
  call arch_syscall
  addq $8, %rsp
  testl %eax, %eax                      // nonzero: the frame is as SYSCALL left it, and SYSRET is safe
  jz return_to_user
  POP_REGS
  movq 32(%rsp), %rsp                   // past orig_rax: rip cs rflags rsp
  swapgs
  sysretq

// void arch_enter_user(struct regs *r)
  .globl arch_enter_user
arch_enter_user:
  cli
  movq %rdi, %rsp
  subq $8, %rsp
  call arch_exit_to_user
  addq $8, %rsp
  jmp return_to_user

// void arch_switch(u64 *save_sp, u64 load_sp): callee-saved registers only
  .globl arch_switch
arch_switch:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret

// First code of a thread: RBX = entry, R12 = its argument (arch_thread_init)
  .globl arch_thread_start
arch_thread_start:
  movq %r12, %rdi
  xorl %ebp, %ebp
  call *%rbx
  ud2
  .section .note.GNU-stack, "", @progbits

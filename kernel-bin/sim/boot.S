// SPDX-License-Identifier: Apache-2.0
//
// From the machine's reset to C, twice: once in 4-level paging out of the ROM (sim_early reads the parameters), then,
// like every other CPU, through the trampoline into the paging mode that the TD's GPAW needs. The format of nested page
// tables follows the host's CR4, so 52-bit TDs want a simulator in 5-level paging. Then the interrupt stubs and VMRUN.
//
// Low memory while starting (the TD's shared alias of it is zeroed before the TD runs):
//   TRAMPOLINE  code for the APs and for the change of mode
//   LOW_TABLES  PML5, PML4, PDPT (512 GiB in 1 GiB pages), PDPT_HIGH, PD_HIGH (256 MiB of simulator)
#include "sim/layout.h"
#define PML5 LOW_TABLES
#define PML4 (LOW_TABLES + 0x1000)
#define PDPT (LOW_TABLES + 0x2000)
#define PDPT_HIGH (LOW_TABLES + 0x3000)
#define PD_HIGH (LOW_TABLES + 0x4000)
#define MSR_EFER 0xc0000080

  .section .reset, "ax"
  .code32
  .globl rom_start32
rom_start32:
  movl $0x18, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  cld
  // RAM above 4 GiB in 64 KiB units: CMOS 0x5b..0x5d. The simulator takes the last SIM_BYTES of it: EDX:ESI.
  xorl %ebx, %ebx
  movb $0x5d, %al
1: movb %al, %cl
  outb %al, $0x70
  inb $0x71, %al
  shll $8, %ebx
  movb %al, %bl
  movb %cl, %al
  decb %al
  cmpb $0x5a, %al
  jne 1b
  cmpl $(SIM_BYTES >> 16), %ebx
  jae 2f
  movl $too_small, %esi // too little memory: say so on COM1, for ever
3: lodsb
  testb %al, %al
4: jz 4b
  movw $0x3f8, %dx
  outb %al, %dx
  jmp 3b
2: movl %ebx, %esi
  shll $16, %esi
  movl %ebx, %edx
  shrl $16, %edx
  incl %edx
  subl $SIM_BYTES, %esi
  sbbl $0, %edx

  xorl %eax, %eax
  movl $LOW_TABLES, %edi
  movl $(5 * 1024), %ecx
  rep stosl
  movl $(PML4 + 3), PML5
  movl $(PML4 + 3), PML5 + 511 * 8
  movl $(PDPT + 3), PML4
  movl $(PDPT_HIGH + 3), PML4 + 511 * 8
  movl $(PD_HIGH + 3), PDPT_HIGH + 510 * 8
  movl $0x83, %eax
  xorl %ebx, %ebx
  movl $PDPT, %edi
  movl $512, %ecx
5: movl %eax, (%edi)
  movl %ebx, 4(%edi)
  addl $0x40000000, %eax
  adcl $0, %ebx
  addl $8, %edi
  loop 5b
  leal 0x83(%esi), %eax
  movl %edx, %ebx
  movl $PD_HIGH, %edi
  movl $(SIM_BYTES >> 21), %ecx
6: movl %eax, (%edi)
  movl %ebx, 4(%edi)
  addl $0x200000, %eax
  adcl $0, %ebx
  addl $8, %edi
  loop 6b
  movl %edx, %ebp
  movl $0x20, %eax
  movl %eax, %cr4
  movl $PML4, %eax
  movl %eax, %cr3
  movl $MSR_EFER, %ecx
  movl $0x900, %eax
  xorl %edx, %edx
  wrmsr
  movl $0x80010033, %eax
  movl %eax, %cr0
  ljmpl $0x08, $rom_start64
  .code64
rom_start64:
  shlq $32, %rbp
  movl %esi, %eax
  orq %rax, %rbp                        // where the simulator's memory is
  movq $sim_start, %rdi
  movl $rom_base, %esi
  movl $sim_file_bytes, %ecx
  shrl $3, %ecx
  rep movsq
  movl $sim_bss_bytes, %ecx
  shrl $3, %ecx
  xorl %eax, %eax
  rep stosq
  movq $(cpu_stacks + STACK_BYTES), %rsp
  movq %rbp, %rdi
  movq $sim_early, %rax
  call *%rax

too_small:
  .asciz "tdxsim: too little memory: -m needs 6400M for a TD of less than 2816M, else 2304M + twice the TD's (README.md)\r\n"

  .code16
rom_start16:
  cli
  lgdtl %cs:(rom_gdt_pointer - 0xffff0000)
  movl $0x11, %eax
  movl %eax, %cr0
  ljmpl $0x10, $rom_start32
  .balign 16
rom_gdt:
  .quad 0
  .quad 0x00af9b000000ffff              // 0x08 code, 64-bit
  .quad 0x00cf9b000000ffff              // 0x10 code, 32-bit
  .quad 0x00cf93000000ffff              // 0x18 data
rom_gdt_pointer:
  .word 31
  .long rom_gdt
  .org 0xff0
  .byte 0xe9                            // the CPU starts here, in real mode: jmp rom_start16
  .word rom_start16 - (. + 2)
  .org 0x1000

  .text
  .globl trampoline_start, trampoline_end, trampoline_cr3, trampoline_cr4, trampoline_final_cr3
#define AT(label) (TRAMPOLINE + label - trampoline_start)
  .balign 16
trampoline_start:
  .code16
  cli
  xorw %ax, %ax
  movw %ax, %ds
  lgdtl AT(gdt_pointer)
  movl $0x11, %eax
  movl %eax, %cr0
  ljmpl $0x10, $AT(trampoline32)
  .code32
trampoline_from64:                      // 32-bit code of a 64-bit CPU: paging off, then as the others
  movl $0x33, %eax
  movl %eax, %cr0
trampoline32:
  movl $0x18, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  movl AT(trampoline_cr4), %eax
  movl %eax, %cr4
  movl AT(trampoline_cr3), %eax
  movl %eax, %cr3
  movl $MSR_EFER, %ecx
  movl $0x900, %eax
  xorl %edx, %edx
  wrmsr
  movl $0x80010033, %eax
  movl %eax, %cr0
  ljmpl $0x08, $AT(trampoline64)
  .code64
trampoline64:
  movq AT(trampoline_final_cr3), %rax
  movq $sim_cpu, %rbx
  movq $cpu_stacks, %rsp
  movq %rax, %cr3
  lgdt gdt_pointer_high
  movl $1, %eax
  movq %rbx, %rbp
  cpuid
  shrl $24, %ebx
  movl %ebx, %edi                       // APIC id
  leal 1(%rbx), %eax
  shlq $STACK_SHIFT, %rax
  addq %rax, %rsp
  call *%rbp
  .balign 16
gdt:
  .quad 0
  .quad 0x00af9b000000ffff
  .quad 0x00cf9b000000ffff
  .quad 0x00cf93000000ffff
gdt_pointer:                            // 32-bit code reads the lower half of the base
  .word 31
  .quad AT(gdt)
trampoline_cr3: .long 0
trampoline_cr4: .long 0
trampoline_final_cr3: .quad 0
trampoline_end:
gdt_pointer_high:
  .word 31
  .quad gdt

// Into the trampoline, from 64-bit code that the low tables map too.
  .globl trampoline_enter
trampoline_enter:
  lgdt AT(gdt_pointer)
  pushq $0x10
  pushq $AT(trampoline_from64)
  lretq

// --- interrupts of the simulator itself: 256 stubs of 16 bytes, then sim_interrupt(vector, frame)
  .globl interrupt_stubs
  .balign 16
interrupt_stubs:
  vector = 0
  .rept 256
  .balign 16
  .if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 && vector != 29 && vector != 30
  pushq $0
  .endif
  pushq $vector
  jmp interrupt_common
  vector = vector + 1
  .endr
interrupt_common:
  pushq %rax
  pushq %rcx
  pushq %rdx
  pushq %rsi
  pushq %rdi
  pushq %r8
  pushq %r9
  pushq %r10
  pushq %r11
  cld
  movq 9*8(%rsp), %rdi                  // vector
  leaq 10*8(%rsp), %rsi                 // error code, RIP, CS, RFLAGS, RSP, SS
  call sim_interrupt
  popq %r11
  popq %r10
  popq %r9
  popq %r8
  popq %rdi
  popq %rsi
  popq %rdx
  popq %rcx
  popq %rax
  addq $16, %rsp
  iretq

  .globl idle_code
idle_code:
  hlt
  jmp idle_code

// void svm_run(u64 vmcb_phys, u64 g[16]): enters the TD and comes back with GIF 0. g[] in the order of the ModRM numbers;
// RAX and RSP travel in the VMCB.
  .globl svm_run
svm_run:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  pushq %rsi
  movq %rdi, %rax
  movq 1*8(%rsi), %rcx
  movq 2*8(%rsi), %rdx
  movq 3*8(%rsi), %rbx
  movq 5*8(%rsi), %rbp
  movq 7*8(%rsi), %rdi
  movq 8*8(%rsi), %r8
  movq 9*8(%rsi), %r9
  movq 10*8(%rsi), %r10
  movq 11*8(%rsi), %r11
  movq 12*8(%rsi), %r12
  movq 13*8(%rsi), %r13
  movq 14*8(%rsi), %r14
  movq 15*8(%rsi), %r15
  movq 6*8(%rsi), %rsi
  vmrun
  pushq %rsi
  movq 8(%rsp), %rsi
  movq %rcx, 1*8(%rsi)
  movq %rdx, 2*8(%rsi)
  movq %rbx, 3*8(%rsi)
  movq %rbp, 5*8(%rsi)
  movq %rdi, 7*8(%rsi)
  movq %r8, 8*8(%rsi)
  movq %r9, 9*8(%rsi)
  movq %r10, 10*8(%rsi)
  movq %r11, 11*8(%rsi)
  movq %r12, 12*8(%rsi)
  movq %r13, 13*8(%rsi)
  movq %r14, 14*8(%rsi)
  movq %r15, 15*8(%rsi)
  popq 6*8(%rsi)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret
  .section .note.GNU-stack, "", @progbits

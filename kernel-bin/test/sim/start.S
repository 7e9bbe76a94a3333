// SPDX-License-Identifier: Apache-2.0
//
// The test TD's start: TDX reset state (32-bit protected mode, EBX = GPAW, ECX = TD HOB, ESI = vCPU index) to C in long
// mode. Memory, all of it TempMem: code at 1 MiB, page tables at TABLES, stacks of 8 KiB below STACKS_END.
// Mapped: [0, 4 GiB) one to one, and its shared alias at 512 GiB.
#define IMAGE_BASE 0xffff0000
#define TABLES 0x170000          // PML4, PDPT, PDPT of the alias, 4 page directories, 4 of the alias
#define READY 0x17f000           // vCPU 0 has made them
#define STACKS 0x180000

  .section .reset, "ax"
  .code32
  .globl reset_entry
reset_entry:
  movl %ecx, %ebp
  testl %esi, %esi
  jnz 3f
  movl $(TABLES + 0x1007), TABLES
  movl $(TABLES + 0x2007), TABLES + 8
  movl $0, %ecx
  movl $(TABLES + 0x3007), %eax
1: movl %eax, TABLES + 0x1000(,%ecx,8)
  leal 0x4000(%eax), %edx
  movl %edx, TABLES + 0x2000(,%ecx,8)
  addl $0x1000, %eax
  incl %ecx
  cmpl $4, %ecx
  jne 1b
  leal -33(%ebx), %ecx           // the shared bit in the upper half of an entry
  movl $1, %edx
  shll %cl, %edx
  movl $0x87, %eax
  xorl %ecx, %ecx
2: movl %eax, TABLES + 0x3000(,%ecx,8)
  movl %eax, TABLES + 0x7000(,%ecx,8)
  movl %edx, TABLES + 0x7004(,%ecx,8)
  addl $0x200000, %eax
  incl %ecx
  cmpl $2048, %ecx
  jne 2b
  movl $0, %edx
  movl $IMAGE_BASE, %esi
  movl $0x100000, %edi
  movl $payload_bytes, %ecx
  rep movsb
  xorl %esi, %esi
  movl $1, READY
3: pause
  cmpl $1, READY
  jne 3b
  lgdt gdt_pointer
  movl %cr4, %eax
  orl $0x620, %eax               // PAE, OSFXSR, OSXMMEXCPT
  movl %eax, %cr4
  movl $TABLES, %eax
  movl %eax, %cr3
  movl %cr0, %eax
  orl $0x80010001, %eax
  movl %eax, %cr0
  ljmpl $0x08, $start64
  .balign 16
gdt:
  .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff // code, data, user code, user data
tss_descriptor:
  .quad 0, 0                     // vCPU 0's task state, filled in by C
gdt_pointer:
  .word 55
  .long gdt

  // TDVF metadata: the GUIDed table is read backwards from -50
  .org 0xe00
  .byte 0xf3, 0xf9, 0xea, 0xe9, 0x8e, 0x16, 0xd5, 0x44, 0xa8, 0xeb, 0x7f, 0x4d, 0x87, 0x38, 0xf6, 0xae
metadata:
  .ascii "TDVF"
  .long 16 + 32 * 3, 1, 3
  .long 0, 0x10000
  .quad IMAGE_BASE, 0x10000
  .long 0, 1                     // BFV, MR.EXTEND
  .long 0, 0
  .quad 0x80000, 0x2000
  .long 2, 0                     // TD_HOB
  .long 0, 0
  .quad 0x100000, 0x100000
  .long 3, 0                     // TempMem
  .org 0xfe0 - 18 - 22
  .long 0x1000 - (metadata - reset_entry)
  .word 22
  .byte 0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2
  .word 22 + 18
  .byte 0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d
  .org 0xff0
  .byte 0xe9
  .long reset_entry - (. + 4)
  .org 0xff8
  .globl payload_mode            // the runner writes here which test this is
payload_mode:
  .long 0
  .org 0x1000

  .section .text.entry, "ax"
  .code64
start64:
  movl $0x10, %eax
  movl %eax, %ds
  movl %eax, %es
  movl %eax, %ss
  leal 1(%rsi), %eax
  shll $13, %eax
  leaq STACKS(%rax), %rsp
  movl %esi, %edi                // payload(index, gpaw, hob)
  movl %ebx, %esi
  movl %ebp, %edx
  call payload
1: hlt
  jmp 1b

// u64 tdcall_raw(u64 g[16]): all registers but RSP in and out, in ModRM order.
  .text
  .globl tdcall_raw
tdcall_raw:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  pushq %rdi
  movq %rdi, %rax
  movq 8(%rax), %rcx
  movq 16(%rax), %rdx
  movq 24(%rax), %rbx
  movq 40(%rax), %rbp
  movq 48(%rax), %rsi
  movq 56(%rax), %rdi
  movq 64(%rax), %r8
  movq 72(%rax), %r9
  movq 80(%rax), %r10
  movq 88(%rax), %r11
  movq 96(%rax), %r12
  movq 104(%rax), %r13
  movq 112(%rax), %r14
  movq 120(%rax), %r15
  movq (%rax), %rax
  .byte 0x66, 0x0f, 0x01, 0xcc
  pushq %rax
  movq 8(%rsp), %rax
  popq (%rax)
  movq %rcx, 8(%rax)
  movq %rdx, 16(%rax)
  movq %rbx, 24(%rax)
  movq %rbp, 40(%rax)
  movq %rsi, 48(%rax)
  movq %rdi, 56(%rax)
  movq %r8, 64(%rax)
  movq %r9, 72(%rax)
  movq %r10, 80(%rax)
  movq %r11, 88(%rax)
  movq %r12, 96(%rax)
  movq %r13, 104(%rax)
  movq %r14, 112(%rax)
  movq %r15, 120(%rax)
  movq (%rax), %rax
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret

// u64 ring3(code, stack): runs `code` in ring 3 until its exception; trap() comes back here through ring3_back.
  .globl ring3, ring3_back
ring3:
  pushq %rbx
  pushq %rbp
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, ring3_rsp
  pushq $0x23
  pushq %rsi
  pushq $2
  pushq $0x1b
  pushq %rdi
  iretq
ring3_back:
  movq ring3_rsp, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbp
  popq %rbx
  ret
  .data
  .globl gdt_at
  .balign 8
gdt_at: .quad gdt
  .bss
  .balign 8
ring3_rsp: .quad 0
  .text

// Exceptions and interrupts: trap(vector, frame), where frame is error, RIP, CS, RFLAGS, RSP, SS, preceded by the
// saved registers rax rcx rdx rsi rdi r8 r9 r10 r11 (frame[-1]: vector, frame[-10]..frame[-2]: r11..rax).
  .globl trap_stubs
  .balign 16
trap_stubs:
  vector = 0
  .rept 256
  .balign 16
  .if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21
  pushq $0
  .endif
  pushq $vector
  jmp trap_common
  vector = vector + 1
  .endr
trap_common:
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
  movq 9*8(%rsp), %rdi
  leaq 10*8(%rsp), %rsi
  call trap
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
  .section .note.GNU-stack, "", @progbits

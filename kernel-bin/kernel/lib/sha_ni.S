/* SPDX-License-Identifier: Apache-2.0
 *
 * SHA-256 blocks with the SHA extensions (SDM 2, SHA256RNDS2, SHA256MSG1, SHA256MSG2).
 *
 *   void sha256_blocks_ni(u32 h[8], const u8 *p, size_t n, const u32 k[64])
 *
 * The registers belong to whatever program runs on this CPU: those that are used here are put back. Nothing in here
 * faults or sleeps, and a handler that hashes in between does the same. (No cpp in this file: the unit test includes it.)
 *
 *   RDI h  RSI input  RDX blocks left  RCX round constants
 *   XMM0 words + constants   XMM1 state ABEF   XMM2 state CDGH   XMM3-6 the last 16 words   XMM7 scratch
 *   XMM8 byte order   XMM9, XMM10 state before the block */

  .macro SHA_ROUNDS group, m
  movdqu (16 * \group)(%rcx), %xmm0
  paddd \m, %xmm0
  sha256rnds2 %xmm0, %xmm1, %xmm2
  pshufd $0x0e, %xmm0, %xmm0
  sha256rnds2 %xmm0, %xmm2, %xmm1
  .endm

  /* a holds words t-16.., b t-12.., c t-8.., d t-4..; a becomes words t.. */
  .macro SHA_SCHEDULE a, b, c, d
  sha256msg1 \b, \a
  movdqa \d, %xmm7
  palignr $4, \c, %xmm7
  paddd %xmm7, \a
  sha256msg2 \d, \a
  .endm

  .macro SHA_FOUR group
  SHA_SCHEDULE %xmm3, %xmm4, %xmm5, %xmm6
  SHA_ROUNDS \group, %xmm3
  SHA_SCHEDULE %xmm4, %xmm5, %xmm6, %xmm3
  SHA_ROUNDS (\group + 1), %xmm4
  SHA_SCHEDULE %xmm5, %xmm6, %xmm3, %xmm4
  SHA_ROUNDS (\group + 2), %xmm5
  SHA_SCHEDULE %xmm6, %xmm3, %xmm4, %xmm5
  SHA_ROUNDS (\group + 3), %xmm6
  .endm

  .macro SHA_LOAD off, m
  movdqu \off(%rsi), \m
  pshufb %xmm8, \m
  .endm

  .text
  .balign 16
  .globl sha256_blocks_ni
  .type sha256_blocks_ni, @function
sha256_blocks_ni:
  subq $(11 * 16), %rsp
  movdqu %xmm0, 0(%rsp)
  movdqu %xmm1, 16(%rsp)
  movdqu %xmm2, 32(%rsp)
  movdqu %xmm3, 48(%rsp)
  movdqu %xmm4, 64(%rsp)
  movdqu %xmm5, 80(%rsp)
  movdqu %xmm6, 96(%rsp)
  movdqu %xmm7, 112(%rsp)
  movdqu %xmm8, 128(%rsp)
  movdqu %xmm9, 144(%rsp)
  movdqu %xmm10, 160(%rsp)

  movdqu sha_byte_order(%rip), %xmm8
  movdqu (%rdi), %xmm7                  /* d c b a */
  movdqu 16(%rdi), %xmm2                /* h g f e */
  pshufd $0xb1, %xmm7, %xmm7            /* c d a b */
  pshufd $0x1b, %xmm2, %xmm2            /* e f g h */
  movdqa %xmm7, %xmm1
  palignr $8, %xmm2, %xmm1              /* a b e f */
  pblendw $0xf0, %xmm7, %xmm2           /* c d g h */

  testq %rdx, %rdx
  jz 2f
1: movdqa %xmm1, %xmm9
  movdqa %xmm2, %xmm10
  SHA_LOAD 0, %xmm3
  SHA_ROUNDS 0, %xmm3
  SHA_LOAD 16, %xmm4
  SHA_ROUNDS 1, %xmm4
  SHA_LOAD 32, %xmm5
  SHA_ROUNDS 2, %xmm5
  SHA_LOAD 48, %xmm6
  SHA_ROUNDS 3, %xmm6
  SHA_FOUR 4
  SHA_FOUR 8
  SHA_FOUR 12
  paddd %xmm9, %xmm1
  paddd %xmm10, %xmm2
  addq $64, %rsi
  decq %rdx
  jnz 1b

2: pshufd $0x1b, %xmm1, %xmm7           /* f e b a */
  pshufd $0xb1, %xmm2, %xmm2            /* d c h g */
  movdqa %xmm7, %xmm1
  pblendw $0xf0, %xmm2, %xmm1           /* d c b a */
  palignr $8, %xmm7, %xmm2              /* h g f e */
  movdqu %xmm1, (%rdi)
  movdqu %xmm2, 16(%rdi)

  movdqu 0(%rsp), %xmm0
  movdqu 16(%rsp), %xmm1
  movdqu 32(%rsp), %xmm2
  movdqu 48(%rsp), %xmm3
  movdqu 64(%rsp), %xmm4
  movdqu 80(%rsp), %xmm5
  movdqu 96(%rsp), %xmm6
  movdqu 112(%rsp), %xmm7
  movdqu 128(%rsp), %xmm8
  movdqu 144(%rsp), %xmm9
  movdqu 160(%rsp), %xmm10
  addq $(11 * 16), %rsp
  ret

  .section .rodata
  .balign 16
sha_byte_order:
  .byte 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12
  .section .note.GNU-stack, "", @progbits

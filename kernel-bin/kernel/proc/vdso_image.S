// SPDX-License-Identifier: Apache-2.0
// The vdso's bytes, as the Makefile links them from proc/vdso/.
  .section .rodata.vdso, "a"
  .balign 16
  .globl vdso_image_start, vdso_image_end
vdso_image_start:
  .incbin "vdso.so"
vdso_image_end:
  .section .note.GNU-stack, "", @progbits

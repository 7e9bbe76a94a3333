// SPDX-License-Identifier: Apache-2.0
//
// ELF64 programs: reading the headers, which are hostile input, into checked numbers. Pure logic, also compiled natively.
#ifndef PROC_ELF_H
#define PROC_ELF_H
#include "lib/lib.h"

#define ELF_HEADER_BYTES 64
#define ELF_PHDR_BYTES 56
#define ELF_PHDRS_MAX 72      // one page of them
#define ELF_SEGMENTS_MAX 32
#define ELF_INTERP_MAX 256
#define ELF_ADDR_MAX 0x00007ffffffff000ul
enum { ELF_X = 1, ELF_W = 2, ELF_R = 4 };

struct elf_segment { u64 vaddr, memsz, filesz, offset; u32 flags; };
struct elf_info {
  bool pie;                   // ET_DYN: may be placed anywhere
  bool exec_stack;
  u16 phnum;
  u64 phoff, entry;
  u64 phdr_vaddr;             // of the program headers in memory, 0: not mapped
  u64 interp_offset; u32 interp_len; // 0: no PT_INTERP
  u64 low, high;              // page-aligned span of the segments
  u64 align;                  // what the base must be a multiple of
  u32 segment_count;
  struct elf_segment segments[ELF_SEGMENTS_MAX]; // ascending, memsz > 0
};

// The ELF header: how many bytes of program headers to read from e->phoff. -ENOEXEC.
int __must_check elf_read_header(const u8 header[ELF_HEADER_BYTES], struct elf_info *e);
// The program headers, e->phnum * ELF_PHDR_BYTES bytes. -ENOEXEC.
int __must_check elf_read_phdrs(const u8 *phdrs, struct elf_info *e);
#endif

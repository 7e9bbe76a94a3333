// SPDX-License-Identifier: Apache-2.0
//
// Reads ELF64 headers (System V ABI, AMD64 supplement). Every number is checked before it is added to another one.
#include "proc/elf.h"

enum { ET_EXEC = 2, ET_DYN = 3, EM_X86_64 = 62, PT_LOAD = 1, PT_INTERP = 3 };
#define PT_GNU_STACK 0x6474e551u
#define ELF_PAGE 4096ul

static u16 get16(const u8 *p) { return (u16)(p[0] | p[1] << 8); }
static u32 get32(const u8 *p) { return (u32)get16(p) | (u32)get16(p + 2) << 16; }
static u64 get64(const u8 *p) { return (u64)get32(p) | (u64)get32(p + 4) << 32; }

int elf_read_header(const u8 h[ELF_HEADER_BYTES], struct elf_info *e) {
  static const u8 ident[7] = { 0x7f, 'E', 'L', 'F', 2 /* 64-bit */, 1 /* little endian */, 1 };
  memset(e, 0, sizeof *e);
  if (memcmp(h, ident, sizeof ident)) return -ENOEXEC;
  u16 type = get16(h + 16);
  if ((type != ET_EXEC && type != ET_DYN) || get16(h + 18) != EM_X86_64) return -ENOEXEC;
  e->pie = type == ET_DYN;
  e->entry = get64(h + 24);
  e->phoff = get64(h + 32);
  e->phnum = get16(h + 56);
  if (get16(h + 54) != ELF_PHDR_BYTES || !e->phnum || e->phnum > ELF_PHDRS_MAX) return -ENOEXEC;
  if (e->phoff > INT64_MAX - ELF_PHDRS_MAX * ELF_PHDR_BYTES || e->entry >= ELF_ADDR_MAX) return -ENOEXEC;
  return 0;
}

static int add_segment(const u8 *p, struct elf_info *e) {
  struct elf_segment s = { .flags = get32(p + 4) & 7, .offset = get64(p + 8), .vaddr = get64(p + 16), .filesz = get64(p + 32),
    .memsz = get64(p + 40) };
  u64 align = get64(p + 48);
  if (s.filesz > s.memsz || s.memsz > ELF_ADDR_MAX || s.vaddr > ELF_ADDR_MAX - s.memsz) return -ENOEXEC;
  if (!s.memsz) return 0;
  if (s.offset > INT64_MAX - ELF_ADDR_MAX) return -ENOEXEC; // so that offset + filesz is a file position
  if (s.filesz && s.offset % ELF_PAGE != s.vaddr % ELF_PAGE) return -ENOEXEC;
  if (e->segment_count == ELF_SEGMENTS_MAX) return -ENOEXEC;
  const struct elf_segment *last = e->segment_count ? &e->segments[e->segment_count - 1] : NULL;
  if (last && s.vaddr < last->vaddr + last->memsz) return -ENOEXEC; // ascending, says the ABI
  if (align > e->align && !(align & (align - 1)) && align <= 1ul << 30) e->align = align;
  if (e->phoff >= s.offset && e->phoff + (u64)e->phnum * ELF_PHDR_BYTES <= s.offset + s.filesz) e->phdr_vaddr = s.vaddr + (e->phoff - s.offset);
  if (!last) e->low = ALIGN_DOWN(s.vaddr, ELF_PAGE);
  e->high = ALIGN_UP(s.vaddr + s.memsz, ELF_PAGE);
  e->segments[e->segment_count++] = s;
  return 0;
}

int elf_read_phdrs(const u8 *phdrs, struct elf_info *e) {
  e->align = ELF_PAGE;
  for (unsigned i = 0; i < e->phnum; i++) {
    const u8 *p = phdrs + (size_t)i * ELF_PHDR_BYTES;
    u32 type = get32(p);
    if (type == PT_LOAD) {
      int r = add_segment(p, e);
      if (r) return r;
    } else if (type == PT_INTERP && !e->interp_len) {
      u64 len = get64(p + 32);
      e->interp_offset = get64(p + 8);
      if (len < 2 || len > ELF_INTERP_MAX || e->interp_offset > INT64_MAX - ELF_INTERP_MAX) return -ENOEXEC;
      e->interp_len = (u32)len;
    } else if (type == PT_GNU_STACK) {
      e->exec_stack = get32(p + 4) & ELF_X;
    }
  }
  return e->segment_count ? 0 : -ENOEXEC;
}

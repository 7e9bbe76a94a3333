// SPDX-License-Identifier: Apache-2.0
// ELF headers: good ones are read, bad ones refused, and whatever is accepted keeps the promises of proc/elf.h.
#include "unit.h"
#include "../../kernel/proc/elf.c"

struct image { u8 header[ELF_HEADER_BYTES]; u8 phdrs[8 * ELF_PHDR_BYTES]; };

static void put(u8 *at, u64 v, unsigned bytes) {
  for (unsigned i = 0; i < bytes; i++) at[i] = (u8)(v >> (8 * i));
}

static void put_phdr(struct image *m, unsigned i, u32 type, u32 flags, u64 offset, u64 vaddr, u64 filesz, u64 memsz, u64 align) {
  u8 *p = m->phdrs + i * ELF_PHDR_BYTES;
  put(p, type, 4), put(p + 4, flags, 4), put(p + 8, offset, 8), put(p + 16, vaddr, 8), put(p + 24, vaddr, 8);
  put(p + 32, filesz, 8), put(p + 40, memsz, 8), put(p + 48, align, 8);
}

static struct image good(void) { // what a linker makes of a dynamic PIE
  struct image m = { 0 };
  static const u8 ident[16] = { 0x7f, 'E', 'L', 'F', 2, 1, 1 };
  memcpy(m.header, ident, 16);
  put(m.header + 16, ET_DYN, 2), put(m.header + 18, EM_X86_64, 2), put(m.header + 24, 0x1040, 8), put(m.header + 32, 64, 8);
  put(m.header + 54, 56, 2), put(m.header + 56, 5, 2);
  put_phdr(&m, 0, PT_INTERP, 4, 0x318, 0x318, 28, 28, 1);
  put_phdr(&m, 1, PT_LOAD, 4, 0, 0, 0x600, 0x600, 0x1000);
  put_phdr(&m, 2, PT_LOAD, 5, 0x1000, 0x1000, 0x200, 0x200, 0x1000);
  put_phdr(&m, 3, PT_LOAD, 6, 0x2db8, 0x3db8, 0x258, 0x1260, 0x1000);
  put_phdr(&m, 4, PT_GNU_STACK, 6, 0, 0, 0, 0, 16);
  return m;
}

static int parse(const struct image *m, struct elf_info *e) {
  int r = elf_read_header(m->header, e);
  return r || e->phnum > 8 ? r ? r : -E2BIG : elf_read_phdrs(m->phdrs, e);
}

static void reads_a_program(void) {
  struct image m = good();
  struct elf_info e;
  CHECK(parse(&m, &e) == 0);
  CHECK(e.pie && e.entry == 0x1040 && e.segment_count == 3 && e.low == 0 && e.high == 0x6000 && e.align == 0x1000);
  CHECK(e.interp_offset == 0x318 && e.interp_len == 28 && e.phdr_vaddr == 64 && !e.exec_stack);
  CHECK(e.segments[2].flags == (ELF_R | ELF_W) && e.segments[2].memsz == 0x1260);
}

static void reads_a_large_alignment(void) {
  struct image m = good();
  struct elf_info e;
  put(m.phdrs + 1 * ELF_PHDR_BYTES + 48, 2 * MIB, 8);
  CHECK(parse(&m, &e) == 0 && e.align == 2 * MIB);
  put(m.phdrs + 1 * ELF_PHDR_BYTES + 48, 3 * MIB, 8); // no power of two: ignored
  CHECK(parse(&m, &e) == 0 && e.align == 0x1000);
}

static void refuses(const char *what, unsigned phdr, unsigned offset, u64 value, unsigned bytes) {
  struct image m = good();
  struct elf_info e;
  put(phdr == ~0u ? m.header + offset : m.phdrs + phdr * ELF_PHDR_BYTES + offset, value, bytes);
  int r = parse(&m, &e);
  if (r != -ENOEXEC) fprintf(stderr, "accepted %s\n", what);
  CHECK(r == -ENOEXEC);
}

static void refuses_bad_headers(void) {
  refuses("another magic", ~0u, 0, 0x7e, 1);
  refuses("a 32-bit program", ~0u, 4, 1, 1);
  refuses("a big-endian program", ~0u, 5, 2, 1);
  refuses("a relocatable object", ~0u, 16, 1, 2);
  refuses("another machine", ~0u, 18, 183, 2);
  refuses("no program headers", ~0u, 56, 0, 2);
  refuses("too many program headers", ~0u, 56, 0xffff, 2);
  refuses("another size of program header", ~0u, 54, 32, 2);
  refuses("an offset that overflows", ~0u, 32, ~0ull - 10, 8);
  refuses("an entry in the kernel", ~0u, 24, 0xffffffff80000000, 8);
  refuses("more in the file than in memory", 2, 32, 0x201, 8);
  refuses("a segment that wraps", 3, 40, ~0ull, 8);
  refuses("a segment in the kernel", 3, 16, 0xffff800000000db8, 8);
  refuses("a segment beyond the half of the programs", 3, 16, 0x00007fffffffedb8, 8);
  refuses("a misaligned segment", 3, 8, 0x2db9, 8);
  refuses("a file offset beyond any file", 3, 8, 0x7ffffffffffffdb8, 8);
  refuses("segments in disorder", 2, 16, 0x8000, 8);
  refuses("overlapping segments", 1, 40, 0x1001, 8);
  refuses("an interpreter without a name", 0, 32, 1, 8);
  refuses("an interpreter with a long name", 0, 32, 4096, 8);
  refuses("an interpreter beyond any file", 0, 8, ~0ull, 8);
}

static void keeps_its_promises(void) { // for any bytes
  unsigned accepted = 0;
  for (unsigned n = 0; n < 300000; n++) {
    struct image m = good();
    struct elf_info e;
    for (unsigned k = 0; k <= n % 4; k++) {
      u64 x = unit_random(), at = x % sizeof m;
      static const u64 words[] = { 0, ~0ull, 0x7fffffffffffffff, ELF_ADDR_MAX, ELF_ADDR_MAX - 1, 4096, 0x8000000000000000 };
      if (x & BIT(40)) put((u8 *)&m + MIN(at / 8 * 8, sizeof m - 8), words[(x >> 41) % ARRAY_SIZE(words)], 8);
      else ((u8 *)&m)[at] = (u8)(x >> 32);
    }
    if (parse(&m, &e)) continue;
    accepted++;
    u64 end = 0;
    bool ok = e.segment_count >= 1 && e.segment_count <= ELF_SEGMENTS_MAX && e.align >= 4096 && !(e.align & (e.align - 1));
    for (u32 i = 0; i < e.segment_count; i++) {
      const struct elf_segment *s = &e.segments[i];
      ok &= s->memsz > 0 && s->filesz <= s->memsz && s->vaddr >= end && s->vaddr + s->memsz > s->vaddr && s->vaddr + s->memsz <= ELF_ADDR_MAX;
      ok &= !s->filesz || s->offset % 4096 == s->vaddr % 4096;
      ok &= (s64)(s->offset + s->filesz) >= 0;
      end = s->vaddr + s->memsz;
    }
    ok &= e.low <= e.segments[0].vaddr && e.high >= end && e.high <= ELF_ADDR_MAX + 4096 && e.entry < ELF_ADDR_MAX && e.interp_len <= ELF_INTERP_MAX;
    if (!ok) CHECK(!"a promise broken");
  }
  CHECK(accepted > 1000);
}

int main(void) {
  reads_a_program();
  reads_a_large_alignment();
  refuses_bad_headers();
  keeps_its_promises();
  return UNIT_END("proc_elf");
}

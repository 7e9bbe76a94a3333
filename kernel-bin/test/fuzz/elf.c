// SPDX-License-Identifier: Apache-2.0
// libFuzzer harness: the first 64 bytes are an ELF header, the rest program headers.
#include <stdlib.h>
#include <string.h>
#include "../../kernel/proc/elf.c"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size) {
  struct elf_info e;
  if (size < ELF_HEADER_BYTES || elf_read_header(data, &e)) return 0;
  if ((size - ELF_HEADER_BYTES) / ELF_PHDR_BYTES < e.phnum || elf_read_phdrs(data + ELF_HEADER_BYTES, &e)) return 0;
  u64 end = 0;
  for (u32 i = 0; i < e.segment_count; i++) {
    const struct elf_segment *s = &e.segments[i];
    if (s->filesz > s->memsz || s->vaddr < end || s->memsz > ELF_ADDR_MAX - s->vaddr) abort();
    end = s->vaddr + s->memsz;
  }
  return 0;
}

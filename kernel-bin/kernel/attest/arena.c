// SPDX-License-Identifier: Apache-2.0
//
// A bump allocator for what lives as long as the machine: the parsed record. Boot only, one CPU.

#include "attest/internal.h"

#define CHUNK_BYTES (256 * KIB)
#define KMALLOC_MAX (4 * MIB)

static u8 *chunk;
static size_t chunk_left;

// More than kmalloc gives: single pages, mapped in a row.
static void *alloc_mapped(size_t n) {
  size_t count = DIV_ROUND_UP(n, PAGE_SIZE), got = 0;
  struct page **pages = count * sizeof(*pages) <= KMALLOC_MAX ? kmalloc(count * sizeof(*pages), 0) : NULL;
  void *va = NULL;
  if (!pages) return NULL;
  while (got < count && (pages[got] = page_alloc(0, ALLOC_ZERO)) != NULL) got++;
  if (got == count) va = kmap_pages(pages, count, PTE_W | PTE_NX);
  if (!va) while (got) page_put(pages[--got]);
  kfree(pages);
  return va;
}

void *arena_alloc(size_t n) {
  if (n > SIZE_MAX / 2) return NULL;
  n = ALIGN_UP(MAX(n, (size_t)1), (size_t)16);
  if (n > KMALLOC_MAX) return alloc_mapped(n);
  if (n > CHUNK_BYTES / 4) return kzalloc(n);
  if (n > chunk_left) {
    u8 *fresh = kzalloc(CHUNK_BYTES);
    if (!fresh) return NULL;
    chunk = fresh;
    chunk_left = CHUNK_BYTES;
  }
  void *p = chunk;
  chunk += n;
  chunk_left -= n;
  return p;
}

// SPDX-License-Identifier: Apache-2.0
//
// page, inside the room and for boot/.
#ifndef PAGE_INTERNAL_H
#define PAGE_INTERNAL_H
#include "page/page.h"

enum page_kind { PK_NONE, PK_RESERVED, PK_FREE, PK_TAIL, PK_SLAB, PK_LARGE };

struct ram_range { phys_t start, end; };
extern struct ram_range ram[2]; // below and above 4 GiB; multiples of 2 MiB

// --- boot, on the boot page tables, in this order (page/early.c)
phys_t early_alloc(u64 pages);                      // zeroed memory behind the kernel image
u64 page_low_bytes(u64 memory_bytes);                // of it, what lies below the PCI hole; the rest starts at 4 GiB
void page_early_init(u64 memory_bytes, u64 pool_bytes, phys_t *pool); // tables, W^X, switch; then the allocator
extern phys_t early_end;                            // first byte not handed out

// --- between the files
void buddy_init(u64 memory_bytes, phys_t first_free, phys_t pool_start, phys_t pool_end);
void slab_init(void);
void memmap_map(phys_t group_start, phys_t memmap_pa); // maps 2 MiB of struct page for the 128 MiB at group_start
u64 *kernel_pte(u64 va, bool create);               // the entry for a 4 KiB page in vmalloc space; NULL: no memory
u64 *kernel_pde(u64 va, bool create);
void vmap_init(void);
#endif

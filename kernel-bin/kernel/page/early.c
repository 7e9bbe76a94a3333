// SPDX-License-Identifier: Apache-2.0
//
// The kernel's page tables, made once at boot (the boot page tables have 4 GiB at
// DIRECT_BASE already) and the only ones after
// that. No mapping is both writable and executable, through any alias: the image's text and read-only data are read-only
// in the direct map too, and only the text is executable at all. The shared pool is not in the direct map.
#include "page/internal.h"
#include "arch/internal.h"
#include "arch/tdx.h"

#define PHYS_OF(va) ((u64)(va) - KERNEL_BASE) // of a symbol in the image
#define INDEX(va, level) (((va) >> (12 + 9 * (level))) & 511) // level 0: page table ... 3: PML4
#define TABLE (PTE_P | PTE_W | PTE_A)
#define DATA (PTE_P | PTE_W | PTE_A | PTE_D | PTE_G | PTE_NX)
#define GROUP_BYTES (128 * MIB) // RAM whose struct pages fill 2 MiB

struct ram_range ram[2];
phys_t early_end;
static u64 pgd[512] __aligned(4096);
u64 *kernel_pgd = pgd;
static u64 image_pdpt[512] __aligned(4096), image_pd[512] __aligned(4096), image_pt[2][512] __aligned(4096);

phys_t early_alloc(u64 pages) {
  static phys_t accepted; // TD: up to here; the reset code accepted whole 2 MiB for the kernel
  if (!early_end) {
    early_end = PHYS_OF(kernel_end);
    accepted = ALIGN_UP(early_end, HUGE_SIZE);
  }
  phys_t pa = early_end;
  early_end += pages * PAGE_SIZE;
  if (ram[0].end && early_end > ram[0].end) panic("not enough memory to boot");
  for (; in_td && accepted < early_end; accepted += HUGE_SIZE) tdx_accept(accepted, HUGE_SIZE);
  memset(phys_virt(pa), 0, pages * PAGE_SIZE);
  return pa;
}

static u64 *table(u64 *entry) {
  if (!(*entry & PTE_P)) *entry = early_alloc(1) | TABLE;
  return phys_virt(*entry & PTE_ADDR);
}

// What a page of the image may be used for. `executable`: at its own address, not through the direct map.
static u64 image_rights(phys_t pa, bool executable) {
  if (pa < PHYS_OF(kernel_start) || pa >= PHYS_OF(kernel_end)) return DATA;
  if (pa == PHYS_OF(boot_stack_guard)) return 0;
  if (pa < PHYS_OF(kernel_text_end)) return PTE_P | PTE_A | PTE_G | (executable ? 0 : PTE_NX);
  if (pa < PHYS_OF(kernel_rodata_end)) return PTE_P | PTE_A | PTE_G | PTE_NX;
  return DATA;
}

static void map_image(void) {
  pgd[511] = PHYS_OF(image_pdpt) | TABLE;
  image_pdpt[510] = PHYS_OF(image_pd) | TABLE;
  for (u64 i = 0; i < 2; i++) image_pd[1 + i] = PHYS_OF(image_pt[i]) | TABLE;
  for (phys_t pa = PHYS_OF(kernel_start); pa < PHYS_OF(kernel_end); pa += PAGE_SIZE)
    image_pt[pa / HUGE_SIZE - 1][INDEX(pa, 0)] = pa | image_rights(pa, true);
}

static void map_direct_2m(phys_t pa) {
  u64 va = DIRECT_BASE + pa;
  u64 *pd = table(&table(&pgd[INDEX(va, 3)])[INDEX(va, 2)]);
  if (pa >= ALIGN_DOWN(PHYS_OF(kernel_start), HUGE_SIZE) && pa < PHYS_OF(kernel_end)) {
    u64 *pt = table(&pd[INDEX(va, 1)]);
    for (u64 i = 0; i < 512; i++) pt[i] = (pa + i * PAGE_SIZE) | image_rights(pa + i * PAGE_SIZE, false);
  } else {
    pd[INDEX(va, 1)] = pa | DATA | PTE_PS;
  }
}

static void map_direct(struct ram_range r) {
  for (phys_t pa = r.start; pa < r.end;) {
    if (cpu_features.page_1g && pa && IS_ALIGNED(pa, GIB) && r.end - pa >= GIB) {
      u64 va = DIRECT_BASE + pa;
      table(&pgd[INDEX(va, 3)])[INDEX(va, 2)] = pa | DATA | PTE_PS;
      pa += GIB;
    } else {
      map_direct_2m(pa);
      pa += HUGE_SIZE;
    }
  }
}

u64 *kernel_pde(u64 va, bool create) {
  u64 *pdpt = phys_virt(pgd[INDEX(va, 3)] & PTE_ADDR), *e = &pdpt[INDEX(va, 2)];
  if (!(*e & PTE_P)) {
    struct page *p = create ? page_alloc(0, ALLOC_ZERO | ALLOC_NORECLAIM) : NULL;
    if (!p) return NULL;
    *e = page_phys(p) | TABLE;
  }
  return (u64 *)phys_virt(*e & PTE_ADDR) + INDEX(va, 1);
}

u64 *kernel_pte(u64 va, bool create) {
  u64 *e = kernel_pde(va, create);
  if (!e) return NULL;
  if (!(*e & PTE_P)) {
    struct page *p = create ? page_alloc(0, ALLOC_ZERO | ALLOC_NORECLAIM) : NULL;
    if (!p) return NULL;
    *e = page_phys(p) | TABLE;
  }
  return (u64 *)phys_virt(*e & PTE_ADDR) + INDEX(va, 0);
}

// The directory that holds this entry was made at boot, one per 64 GiB of RAM.
void memmap_map(phys_t group_start, phys_t memmap_pa) {
  u64 va = (u64)page_of_phys(group_start);
  u64 *pdpt = phys_virt(pgd[INDEX(va, 3)] & PTE_ADDR), *pd = phys_virt(pdpt[INDEX(va, 2)] & PTE_ADDR);
  pd[INDEX(va, 1)] = memmap_pa | DATA | PTE_PS;
}

static void map_memmap(void) {
  // Directories for all RAM; entries come when a group is taken into use. Group 0 is there from the start.
  for (unsigned i = 0; i < 2; i++)
    for (phys_t pa = ALIGN_DOWN(ram[i].start, 64 * GIB); pa < ram[i].end; pa += 64 * GIB) {
      u64 va = (u64)page_of_phys(pa);
      table(&table(&pgd[INDEX(va, 3)])[INDEX(va, 2)]);
    }
  u64 first = MIN(ram[0].end, GROUP_BYTES), n = first / PAGE_SIZE * sizeof(struct page) / PAGE_SIZE;
  u64 *pt = table(&table(&table(&pgd[INDEX(MEMMAP_BASE, 3)])[INDEX(MEMMAP_BASE, 2)])[0]);
  phys_t pa = early_alloc(n);
  for (u64 i = 0; i < n; i++) pt[i] = (pa + i * PAGE_SIZE) | DATA;
}

// q35: what does not fit below the PCI hole continues at 4 GiB.
u64 page_low_bytes(u64 memory_bytes) { return memory_bytes >= 0xb0000000ul ? 0x80000000ul : memory_bytes; }

static void accept_chunk(phys_t pa) { tdx_accept(pa, HUGE_SIZE); }

void page_early_init(u64 memory_bytes, u64 pool_bytes, phys_t *pool) {
  u64 low = page_low_bytes(memory_bytes);
  ram[0] = (struct ram_range){ 0, ALIGN_DOWN(low, HUGE_SIZE) };
  ram[1] = (struct ram_range){ 4 * GIB, 4 * GIB + ALIGN_DOWN(memory_bytes - low, HUGE_SIZE) };
  map_image();
  map_direct(ram[0]);
  map_direct(ram[1]);
  map_memmap();
  table(&pgd[INDEX(VMALLOC_BASE, 3)]);
  // Every table exists now. The pool follows, in the first GiB, and leaves the direct map.
  *pool = ALIGN_UP(early_end, HUGE_SIZE);
  if (*pool + pool_bytes > MIN(ram[0].end, GIB) || *pool + pool_bytes + 8 * MIB > ram[0].end)
    panic("%lu MiB of memory are not enough", memory_bytes / MIB);
  u64 *pd = table(&table(&pgd[INDEX(DIRECT_BASE, 3)])[0]);
  for (phys_t pa = *pool; pa < *pool + pool_bytes; pa += HUGE_SIZE) pd[pa / HUGE_SIZE] = 0;
  write_cr3(PHYS_OF(pgd));
  if (in_td) page_accept_hook = accept_chunk;
  buddy_init(memory_bytes, early_end, *pool, *pool + pool_bytes);
  slab_init();
  vmap_init();
}

// SPDX-License-Identifier: Apache-2.0
//
// Kernel stacks and mappings in vmalloc space:
//   VMALLOC_BASE + 0       kernel stacks: slots of 32 KiB, the lower half never mapped (the guard)
//                + 1 GiB   mappings in 4 KiB pages
//                + 2 GiB   mappings in 2 MiB pages, never undone (the shared pool)
// A stack that is freed keeps its pages and mapping for the next thread, so no TLB is ever flushed for stacks. A 4 KiB
// mapping that is undone keeps its addresses until the next flush of all CPUs, which happens when addresses run out.
#include "page/internal.h"

#define STACK_SLOT (2 * KSTACK_SIZE)
#define STACK_SLOTS 16384u
#define MAP_BASE (VMALLOC_BASE + GIB)
#define MAP_PAGES (GIB / PAGE_SIZE)
#define HUGE_BASE (VMALLOC_BASE + 2 * GIB)

static struct spinlock lock = SPINLOCK_INIT(RANK_PAGETABLE); // the entries, and all below
static struct { u32 n; u32 next_slot; void *tops[256]; } stacks;
static u64 *free_slots;           // bit set: mapped and free, beyond what `tops` holds
static u64 used[MAP_PAGES / 64], stale[MAP_PAGES / 64];
static u64 map_hint, huge_next = HUGE_BASE;

void vmap_init(void) {
  free_slots = kzalloc(STACK_SLOTS / 8);
  ASSERT(free_slots);
}

static void *stack_top(u32 slot) { return (void *)(VMALLOC_BASE + (u64)(slot + 1) * STACK_SLOT); }

void *kstack_alloc(void) {
  u64 flags = spin_lock_irqsave(&lock);
  void *top = stacks.n ? stacks.tops[--stacks.n] : NULL;
  u32 slot = 0;
  if (!top) {
    for (u32 w = 0; w < STACK_SLOTS / 64 && !top; w++) {
      if (!free_slots[w]) continue;
      slot = w * 64 + (u32)__builtin_ctzll(free_slots[w]);
      bit_clear(free_slots, slot);
      top = stack_top(slot);
    }
  }
  if (top || stacks.next_slot == STACK_SLOTS) {
    spin_unlock_irqrestore(&lock, flags);
    return top;
  }
  slot = stacks.next_slot++;
  u64 base = (u64)stack_top(slot) - KSTACK_SIZE;
  for (u64 va = base; va < base + KSTACK_SIZE; va += PAGE_SIZE) {
    u64 *pte = kernel_pte(va, true);
    if (pte && (*pte & PTE_P)) continue; // an earlier attempt got this far
    struct page *p = pte ? page_alloc(0, ALLOC_NORECLAIM) : NULL;
    if (!p) {
      stacks.next_slot--;
      spin_unlock_irqrestore(&lock, flags);
      return NULL;
    }
    *pte = page_phys(p) | PTE_P | PTE_W | PTE_A | PTE_D | PTE_G | PTE_NX;
  }
  spin_unlock_irqrestore(&lock, flags);
  return stack_top(slot);
}

void kstack_free(void *top) {
  u64 flags = spin_lock_irqsave(&lock);
  if (stacks.n < ARRAY_SIZE(stacks.tops)) stacks.tops[stacks.n++] = top;
  else bit_set(free_slots, ((u64)top - VMALLOC_BASE) / STACK_SLOT - 1);
  spin_unlock_irqrestore(&lock, flags);
}

static void flush_this_cpu(void *unused) {
  u64 cr4;
  __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
  __asm__ volatile("mov %0, %%cr4" ::"r"(cr4 & ~BIT(7)) : "memory"); // PGE off and on: global entries go too
  __asm__ volatile("mov %0, %%cr4" ::"r"(cr4) : "memory");
}

// n pages and one that stays unmapped behind them. Lock held; 0 when there is no room.
static u64 take_addresses_locked(u64 n) {
  u64 first = map_hint, run = 0;
  while (run <= n) {
    first = bit_find_zero(used, MAP_PAGES, first + run);
    if (first + n + 1 > MAP_PAGES) return 0;
    for (run = 1; run <= n && !bit_test(used, first + run); run++) {}
  }
  for (u64 i = 0; i <= n; i++) bit_set(used, first + i);
  map_hint = first + n + 1;
  return MAP_BASE + first * PAGE_SIZE;
}

static u64 take_addresses(u64 n) {
  for (unsigned attempt = 0; attempt < 2; attempt++) {
    u64 flags = spin_lock_irqsave(&lock);
    u64 va = take_addresses_locked(n);
    spin_unlock_irqrestore(&lock, flags);
    if (va) return va;
    u64 all = ~0ul;
    static u64 flushing[MAP_PAGES / 64]; // what is stale before the flush is free after it
    static bool busy;
    flags = spin_lock_irqsave(&lock);
    bool mine = !busy;
    if (mine) {
      busy = true;
      memcpy(flushing, stale, sizeof(stale));
    }
    spin_unlock_irqrestore(&lock, flags);
    if (!mine) return 0; // somebody is at it; this caller is told that there is no memory
    ipi_call(&all, flush_this_cpu, NULL);
    flush_this_cpu(NULL);
    flags = spin_lock_irqsave(&lock);
    for (u64 i = 0; i < MAP_PAGES / 64; i++) {
      u64 gone = flushing[i] & stale[i];
      used[i] &= ~gone;
      stale[i] &= ~gone;
    }
    map_hint = 0;
    busy = false;
    spin_unlock_irqrestore(&lock, flags);
  }
  return 0;
}

static bool set_entry(u64 va, phys_t pa, u64 prot) {
  u64 flags = spin_lock_irqsave(&lock);
  u64 *pte = kernel_pte(va, true);
  if (pte) *pte = pa | prot | PTE_P | PTE_A | PTE_D | PTE_G;
  spin_unlock_irqrestore(&lock, flags);
  return pte != NULL;
}

void *kmap_pages(struct page **pages, size_t n, u64 prot) {
  u64 va = n && n < MAP_PAGES ? take_addresses(n) : 0;
  if (!va) return NULL;
  for (size_t i = 0; i < n; i++)
    if (!set_entry(va + i * PAGE_SIZE, page_phys(pages[i]), prot)) {
      kunmap((void *)va, n * PAGE_SIZE);
      return NULL;
    }
  return (void *)va;
}

void *kmap_phys(phys_t pa, size_t len, u64 prot) {
  ASSERT(IS_ALIGNED(pa, PAGE_SIZE) && len);
  if (IS_ALIGNED(pa, HUGE_SIZE) && IS_ALIGNED(len, HUGE_SIZE)) {
    u64 flags = spin_lock_irqsave(&lock), va = huge_next;
    for (u64 off = 0; off < len; off += HUGE_SIZE) {
      u64 *pde = kernel_pde(va + off, true);
      if (!pde) {
        spin_unlock_irqrestore(&lock, flags);
        return NULL;
      }
      *pde = (pa + off) | prot | PTE_P | PTE_A | PTE_D | PTE_G | PTE_PS;
    }
    huge_next = va + len + HUGE_SIZE;
    spin_unlock_irqrestore(&lock, flags);
    return (void *)va;
  }
  u64 n = DIV_ROUND_UP(len, PAGE_SIZE), va = n < MAP_PAGES ? take_addresses(n) : 0;
  if (!va) return NULL;
  for (u64 i = 0; i < n; i++)
    if (!set_entry(va + i * PAGE_SIZE, pa + i * PAGE_SIZE, prot)) {
      kunmap((void *)va, n * PAGE_SIZE);
      return NULL;
    }
  return (void *)va;
}

void kunmap(void *va, size_t len) {
  u64 first = ((u64)va - MAP_BASE) / PAGE_SIZE, n = DIV_ROUND_UP(len, PAGE_SIZE);
  ASSERT((u64)va >= MAP_BASE && first + n < MAP_PAGES);
  u64 flags = spin_lock_irqsave(&lock);
  for (u64 i = 0; i < n; i++) {
    u64 *pte = kernel_pte((u64)va + i * PAGE_SIZE, false);
    if (pte) *pte = 0;
  }
  for (u64 i = 0; i <= n; i++) bit_set(stale, first + i);
  spin_unlock_irqrestore(&lock, flags);
}

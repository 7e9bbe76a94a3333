// SPDX-License-Identifier: Apache-2.0
//
// The buddy allocator, blocks of 4 KiB to 4 MiB, with a small stack of single pages per CPU in front.
//
// RAM is taken into use in chunks of 2 MiB, lowest first and only when the free lists have nothing: taking one
// initialises its struct pages (TD: accepts it). The struct pages of 128 MiB fill 2 MiB: the first chunk of such a group
// becomes their home. So neither boot nor an idle machine pays for memory that nobody uses.
//
// One lock (rank PAGEALLOC, interrupts off) guards the free lists; the per-CPU stacks need interrupts off only.
#include "page/internal.h"

#define GROUP_BYTES (128 * MIB)
#define CHUNK_ORDER 9
#define CACHE_MAX 64
#define CACHE_BATCH 24

static struct spinlock lock = SPINLOCK_INIT(RANK_PAGEALLOC);
static struct list free_lists[MAX_ORDER + 1];
static u64 free_pages;           // in the free lists
static u64 untaken_pages;        // of RAM that no chunk covers yet
static u64 total_pages;
static phys_t next_chunk[2];     // per range of RAM
static struct ram_range boot_hole; // the pool: never the allocator's
static struct { u32 n; struct page *pages[CACHE_MAX]; } caches[MAX_CPUS];

static u64 (*reclaim_hook)(u64 npages);
static struct thread *reclaiming[8]; // who is inside the hook: must not enter it again

// Called with the lock held before a chunk is touched; TD: accepts the 2 MiB at pa.
void (*page_accept_hook)(phys_t pa);

static bool taken(phys_t pa) {
  for (unsigned i = 0; i < 2; i++)
    if (pa >= ram[i].start && pa < next_chunk[i]) return true;
  return false;
}

static void insert_free(struct page *p, unsigned order) {
  p->kind = PK_FREE;
  p->order = (u8)order;
  list_push_front(&free_lists[order], &p->link);
}

static void free_locked(struct page *p, unsigned order) {
  free_pages += 1ul << order;
  u64 pfn = (u64)(p - MEMMAP);
  while (order < MAX_ORDER) {
    u64 other = pfn ^ (1ul << order);
    // Within a chunk the neighbour's struct page exists; beyond it, only when that chunk was taken.
    if (order >= CHUNK_ORDER && !taken(other << PAGE_SHIFT)) break;
    struct page *b = &MEMMAP[other];
    if (b->kind != PK_FREE || b->order != order) break;
    list_remove(&b->link);
    b->kind = PK_NONE;
    pfn &= ~(1ul << order);
    order++;
  }
  insert_free(&MEMMAP[pfn], order);
}

static bool take_chunk(void) {
  for (unsigned i = 0; i < 2; i++) {
    while (next_chunk[i] < ram[i].end) {
      phys_t pa = next_chunk[i];
      if (pa >= boot_hole.start && pa < boot_hole.end) {
        next_chunk[i] = boot_hole.end;
        continue;
      }
      if (page_accept_hook) page_accept_hook(pa);
      bool is_home = IS_ALIGNED(pa, GROUP_BYTES); // group 0 got its own at boot
      if (is_home) memmap_map(pa, pa);
      struct page *p = page_of_phys(pa);
      memset(p, 0, (HUGE_SIZE / PAGE_SIZE) * sizeof(struct page));
      next_chunk[i] = pa + HUGE_SIZE;
      if (is_home) {
        for (u64 k = 0; k < HUGE_SIZE / PAGE_SIZE; k++) p[k].kind = PK_RESERVED;
        continue;
      }
      untaken_pages -= HUGE_SIZE / PAGE_SIZE;
      free_locked(p, CHUNK_ORDER);
      return true;
    }
  }
  return false;
}

static struct page *take_locked(unsigned order) {
  for (;;) {
    unsigned o = order;
    while (o <= MAX_ORDER && list_empty(&free_lists[o])) o++;
    if (o > MAX_ORDER) {
      if (!take_chunk()) return NULL;
      continue;
    }
    struct page *p = list_first_entry(&free_lists[o], struct page, link);
    list_remove(&p->link);
    p->kind = PK_NONE;
    while (o > order) {
      o--;
      insert_free(p + (1ul << o), o);
    }
    free_pages -= 1ul << order;
    return p;
  }
}

static struct page *take(unsigned order) {
  u64 flags;
  struct page *p;
  if (order == 0) {
    flags = irq_save();
    u32 cpu = this_cpu()->id;
    if (caches[cpu].n == 0) {
      spin_lock(&lock);
      while (caches[cpu].n < CACHE_BATCH && (p = take_locked(0))) caches[cpu].pages[caches[cpu].n++] = p;
      spin_unlock(&lock);
    }
    p = caches[cpu].n ? caches[cpu].pages[--caches[cpu].n] : NULL;
    irq_restore(flags);
    return p;
  }
  flags = spin_lock_irqsave(&lock);
  p = take_locked(order);
  spin_unlock_irqrestore(&lock, flags);
  return p;
}

static void give(struct page *p, unsigned order) {
  u64 flags;
  if (order == 0) {
    flags = irq_save();
    u32 cpu = this_cpu()->id;
    if (caches[cpu].n == CACHE_MAX) {
      spin_lock(&lock);
      while (caches[cpu].n > CACHE_MAX - CACHE_BATCH) free_locked(caches[cpu].pages[--caches[cpu].n], 0);
      spin_unlock(&lock);
    }
    caches[cpu].pages[caches[cpu].n++] = p;
    irq_restore(flags);
    return;
  }
  flags = spin_lock_irqsave(&lock);
  free_locked(p, order);
  spin_unlock_irqrestore(&lock, flags);
}

// May this caller wait for the reclaim hook? Each thread once at a time.
static struct thread **reclaim_enter(unsigned flags) {
  struct thread *me = thread_current();
  if ((flags & ALLOC_NORECLAIM) || !reclaim_hook || !me || this_cpu()->preempt_off || !irq_enabled()) return NULL;
  struct thread **slot = NULL;
  for (unsigned i = 0; i < ARRAY_SIZE(reclaiming); i++) {
    struct thread *t = __atomic_load_n(&reclaiming[i], __ATOMIC_RELAXED);
    if (t == me) return NULL;
    if (!t && !slot) slot = &reclaiming[i];
  }
  struct thread *none = NULL;
  if (!slot || !__atomic_compare_exchange_n(slot, &none, me, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return NULL;
  return slot;
}

static u64 available(void) { return __atomic_load_n(&free_pages, __ATOMIC_RELAXED) + __atomic_load_n(&untaken_pages, __ATOMIC_RELAXED); }

struct page *page_alloc(unsigned order, unsigned flags) {
  ASSERT(order <= MAX_ORDER);
  u64 want = 1ul << order;
  u64 reserve = (flags & ALLOC_USER) ? MIN(total_pages / 64, (u64)4096) : 0; // the kernel lives on what programs leave
  struct page *p = NULL;
  for (unsigned attempt = 0; attempt < 4; attempt++) {
    if (available() >= reserve + want || !reserve) p = take(order);
    if (p) break;
    struct thread **slot = reclaim_enter(flags);
    if (!slot) break;
    u64 got = reclaim_hook(MAX(want, (u64)64));
    __atomic_store_n(slot, NULL, __ATOMIC_RELEASE);
    if (!got) break;
  }
  if (!p) return NULL;
  p->refs.n = 1;
  p->flags = 0;
  p->order = (u8)order;
  p->kind = PK_NONE;
  list_init(&p->link);
  memset(p->words, 0, sizeof(p->words));
  if (flags & ALLOC_ZERO) memset(page_virt(p), 0, PAGE_SIZE << order);
  return p;
}

void page_free_order(struct page *p, unsigned order) {
  ASSERT(p->kind == PK_NONE && p->order == order && order <= MAX_ORDER);
  p->refs.n = 0;
  p->flags = 0;
  give(p, order);
}

void page_put(struct page *p) {
  if (ref_put(&p->refs)) page_free_order(p, p->order);
}

void page_split(struct page *p) {
  unsigned n = 1u << p->order;
  for (unsigned i = 0; i < n; i++) {
    struct page *q = p + i;
    if (i) {
      *q = (struct page){ .flags = p->flags };
      list_init(&q->link);
    }
    q->order = 0;
    q->refs.n = p->refs.n;
  }
}

u64 page_total_count(void) { return total_pages; }
u64 page_free_count(void) {
  u64 n = available();
  for (u32 i = 0; i < cpu_count; i++) n += READ_ONCE(caches[i].n);
  return n;
}
void page_set_reclaim(u64 (*reclaim)(u64 npages)) { reclaim_hook = reclaim; }

// first_free: end of what boot used; the rest of its chunk is free already.
void buddy_init(u64 memory_bytes, phys_t first_free, phys_t pool_start, phys_t pool_end) {
  for (unsigned i = 0; i <= MAX_ORDER; i++) list_init(&free_lists[i]);
  boot_hole = (struct ram_range){ pool_start, pool_end };
  phys_t boot_end = ALIGN_UP(first_free, HUGE_SIZE);
  next_chunk[0] = boot_end;
  next_chunk[1] = ram[1].start;
  u64 ram_bytes = ram[0].end + (ram[1].end - ram[1].start);
  total_pages = ram_bytes / PAGE_SIZE;
  u64 homes = ALIGN_UP(ram[0].end, GROUP_BYTES) / GROUP_BYTES - 1; // chunks that will hold struct pages
  homes += DIV_ROUND_UP(ram[1].end - ram[1].start, GROUP_BYTES);
  untaken_pages = (ram_bytes - boot_end - (pool_end - pool_start) - homes * HUGE_SIZE) / PAGE_SIZE;
  for (phys_t pa = 0; pa < boot_end; pa += PAGE_SIZE) page_of_phys(pa)->kind = PK_RESERVED;
  for (phys_t pa = pool_start; pa < MIN(pool_end, GROUP_BYTES); pa += PAGE_SIZE) page_of_phys(pa)->kind = PK_RESERVED;
  // From 1 MiB to the kernel image, and behind boot's memory. (Below 1 MiB: the APs' trampoline and boot page tables.)
  // Not in a TD: it could not be accepted as one 2 MiB page, and 256 calls cost more than the memory is worth.
  for (phys_t pa = MIB; pa < 2 * MIB && !in_td; pa += PAGE_SIZE) {
    page_of_phys(pa)->kind = PK_NONE;
    free_locked(page_of_phys(pa), 0);
  }
  for (phys_t pa = first_free; pa < boot_end; pa += PAGE_SIZE) {
    page_of_phys(pa)->kind = PK_NONE;
    free_locked(page_of_phys(pa), 0);
  }
}

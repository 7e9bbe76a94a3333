// SPDX-License-Identifier: Apache-2.0
//
// page: physical memory. struct page, the buddy allocator with per-CPU caches, the slab, kernel stacks and mappings.
// Memory enters the allocator lazily in 2 MiB steps (TD: accepted then), so boot does not depend on its size.
// Any context unless said otherwise; lock rank PAGEALLOC (innermost but console). Nothing here sleeps: allocation
// fails with NULL when memory and the reclaim hook give nothing.
#ifndef PAGE_PAGE_H
#define PAGE_PAGE_H
#include "arch/arch.h"

struct memobj;
struct slab;
struct page { // 64 bytes
  struct refcount refs; // free pages: 0
  u16 flags;            // PG_*, changed atomically with page_set_flag / page_clear_flag
  u8 order;             // of the block this page heads
  u8 kind;
  struct list link;     // free list; LRU of page-cache pages; owner's list
  union {
    struct { struct memobj *obj; u64 index; u32 mapcount; } cache; // page cache and shared anonymous memory
    struct { struct slab *slab; void *free; u32 used; } slab;
    struct { u32 mapcount; } anon;
    u64 words[4];
  };
} __aligned(64);
enum { // flags
  PG_UPTODATE = 1, PG_DIRTY = 2, PG_LOCKED = 4, PG_WRITEBACK = 8, PG_ERROR = 16, PG_LRU = 32, PG_ACCESSED = 64,
  PG_VERIFIED = 128, PG_ANON = 256, PG_READAHEAD = 512,
};
static inline bool page_test(const struct page *p, u16 f) { return (__atomic_load_n(&p->flags, __ATOMIC_ACQUIRE) & f) != 0; }
static inline bool page_set_flag(struct page *p, u16 f) { return (__atomic_fetch_or(&p->flags, f, __ATOMIC_ACQ_REL) & f) != 0; } // old
static inline bool page_clear_flag(struct page *p, u16 f) { return (__atomic_fetch_and(&p->flags, (u16)~f, __ATOMIC_ACQ_REL) & f) != 0; }

#define MEMMAP ((struct page *)MEMMAP_BASE)
static inline struct page *page_of_phys(phys_t pa) { return &MEMMAP[pa >> PAGE_SHIFT]; }
static inline phys_t page_phys(const struct page *p) { return (phys_t)(p - MEMMAP) << PAGE_SHIFT; }
static inline void *phys_virt(phys_t pa) { return (void *)(DIRECT_BASE + pa); }
static inline phys_t virt_phys(const void *va) { return (u64)va - DIRECT_BASE; } // direct map only
static inline void *page_virt(const struct page *p) { return phys_virt(page_phys(p)); }
static inline struct page *page_of_virt(const void *va) { return page_of_phys(virt_phys(va)); }

enum { ALLOC_ZERO = 1, ALLOC_NORECLAIM = 2 /* atomic contexts: do not call the reclaim hook */, ALLOC_USER = 4 /* leaves a reserve for the kernel */ };
#define MAX_ORDER 10 // 4 MiB
struct page *page_alloc(unsigned order, unsigned flags); // refs 1; NULL
void page_free_order(struct page *p, unsigned order);    // caller holds the last reference
static inline struct page *page_get(struct page *p) { ref_get(&p->refs); return p; }
// Turns a block into 2^order single pages, each with the block's flags and reference count.
void page_split(struct page *p);
void page_put(struct page *p);                           // frees at zero (order from p->order)
u64 page_total_count(void), page_free_count(void);       // in 4 KiB pages, of all RAM (memory not yet taken counts as free)
// TD: accepts the 2 MiB at pa before the allocator touches them. NULL in an ordinary VM. Called under its lock.
extern void (*page_accept_hook)(phys_t pa);
// Asked when memory is short, in sleepable context with no lock held: frees up to n pages and returns how many.
void page_set_reclaim(u64 (*reclaim)(u64 npages));

void *kmalloc(size_t size, unsigned flags);  // up to 4 MiB; 16-byte aligned, 64 when size >= 64 is a multiple of 64
void *kzalloc(size_t size);
void kfree(void *p);                         // NULL is fine
struct kmem_cache;
struct kmem_cache *kmem_cache_create(const char *name, size_t size, size_t align);
void *kmem_cache_alloc(struct kmem_cache *c); // not zeroed
void kmem_cache_free(struct kmem_cache *c, void *p);
char *kstrdup(const char *s);                // NULL when out of memory

#define KSTACK_SIZE (16 * KIB)
void *kstack_alloc(void);                    // returns the top; a guard page lies below. NULL
void kstack_free(void *top);
// Maps pages or device memory into vmalloc space. prot: PTE_W, PTE_NX, PTE_PCD, pte_shared_bit.
void *kmap_pages(struct page **pages, size_t n, u64 prot);
void *kmap_phys(phys_t pa, size_t len, u64 prot);
void kunmap(void *va, size_t len);           // whole mapping as it was made; flushes every CPU lazily

// Copies len bytes at `off` of an object's page; the direct map makes this trivial, kept for readers.
static inline u8 *page_bytes(const struct page *p) { return page_virt(p); }
#endif

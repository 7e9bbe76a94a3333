// SPDX-License-Identifier: Apache-2.0
//
// Objects of equal size in blocks of 1 to 8 pages, and kmalloc on top of them. Each CPU keeps a stack of free objects
// per cache (interrupts off); behind it, blocks with free objects, under the cache's lock. Pages come and go with the
// lock released, as the page allocator's has the same rank.
#include "page/internal.h"

#define STACK_MAX 32
#define STACK_BATCH 16
#define MAX_SMALL 4096

struct kmem_cache {
  const char *name;
  u32 size_bytes, order, per_block;
  struct spinlock lock;
  struct list partial; // head pages of blocks with free objects
  u32 empty;           // blocks in `partial` with nothing in use
  struct { u32 n; void *objects[STACK_MAX]; } cpu[MAX_CPUS];
};

static const u16 kmalloc_sizes[] = { 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096 };
static struct kmem_cache kmalloc_caches[ARRAY_SIZE(kmalloc_sizes)];
static u8 kmalloc_class[MAX_SMALL / 16 + 1];

static void cache_init(struct kmem_cache *c, const char *name, size_t size, size_t align) {
  if (align < 16) align = 16;
  size = ALIGN_UP(size, align);
  ASSERT(size <= MAX_SMALL && (align & (align - 1)) == 0);
  u32 order = 0;
  while (order < 3 && (PAGE_SIZE << order) / size < 8) order++;
  c->name = name;
  c->size_bytes = (u32)size;
  c->order = order;
  c->per_block = (u32)((PAGE_SIZE << order) / size);
  spin_init(&c->lock, RANK_PAGEALLOC);
  list_init(&c->partial);
}

void slab_init(void) {
  for (size_t i = 0, size = 0; i < ARRAY_SIZE(kmalloc_sizes); i++) {
    cache_init(&kmalloc_caches[i], "kmalloc", kmalloc_sizes[i], 16);
    for (; size <= kmalloc_sizes[i]; size += 16) kmalloc_class[size / 16] = (u8)i;
  }
}

struct kmem_cache *kmem_cache_create(const char *name, size_t size, size_t align) {
  struct kmem_cache *c = kzalloc(sizeof(*c));
  if (c) cache_init(c, name, size, align);
  return c;
}

static struct page *block_head(void *p) {
  struct page *page = page_of_virt(p);
  u64 pfn = (u64)(page - MEMMAP);
  return &MEMMAP[pfn & ~((1ul << page->order) - 1)]; // every page of a block carries its order
}

static struct page *block_make(struct kmem_cache *c) {
  struct page *head = page_alloc(c->order, ALLOC_NORECLAIM);
  if (!head) return NULL;
  for (u32 i = 0; i < 1u << c->order; i++) {
    head[i].kind = PK_SLAB;
    head[i].order = (u8)c->order;
  }
  head->slab.slab = (struct slab *)c;
  u8 *base = page_virt(head);
  void *next = NULL;
  for (u32 i = c->per_block; i-- > 0;) {
    *(void **)(void *)(base + i * c->size_bytes) = next;
    next = base + i * c->size_bytes;
  }
  head->slab.free = next;
  head->slab.used = 0;
  return head;
}

static void block_release(struct page *head) {
  u32 order = head->order;
  for (u32 i = 0; i < 1u << order; i++) head[i].kind = PK_NONE;
  page_free_order(head, order);
}

// Interrupts off. Fills this CPU's stack from the blocks.
static void refill_irq(struct kmem_cache *c, u32 cpu) {
  struct page *fresh = NULL;
  spin_lock(&c->lock);
  while (c->cpu[cpu].n < STACK_BATCH) {
    if (list_empty(&c->partial)) {
      if (c->cpu[cpu].n) break;
      spin_unlock(&c->lock);
      fresh = block_make(c);
      if (!fresh) return;
      spin_lock(&c->lock);
      list_push_front(&c->partial, &fresh->link);
      c->empty++;
    }
    struct page *head = list_first_entry(&c->partial, struct page, link);
    if (head->slab.used == 0) c->empty--;
    while (head->slab.free && c->cpu[cpu].n < STACK_BATCH) {
      void *o = head->slab.free;
      head->slab.free = *(void **)o;
      head->slab.used++;
      c->cpu[cpu].objects[c->cpu[cpu].n++] = o;
    }
    if (!head->slab.free) list_remove(&head->link);
  }
  spin_unlock(&c->lock);
}

// Interrupts off. Gives half of a full stack back; blocks that become empty beyond the first return to the pages.
static void flush_irq(struct kmem_cache *c, u32 cpu) {
  struct list done;
  list_init(&done);
  spin_lock(&c->lock);
  while (c->cpu[cpu].n > STACK_MAX - STACK_BATCH) {
    void *o = c->cpu[cpu].objects[--c->cpu[cpu].n];
    struct page *head = block_head(o);
    if (!head->slab.free) list_push_back(&c->partial, &head->link);
    *(void **)o = head->slab.free;
    head->slab.free = o;
    if (--head->slab.used == 0) {
      if (c->empty) {
        list_remove(&head->link);
        list_push_back(&done, &head->link);
      } else {
        c->empty++;
      }
    }
  }
  spin_unlock(&c->lock);
  while (!list_empty(&done)) {
    struct page *head = list_first_entry(&done, struct page, link);
    list_remove(&head->link);
    block_release(head);
  }
}

void *kmem_cache_alloc(struct kmem_cache *c) {
  u64 flags = irq_save();
  u32 cpu = this_cpu()->id;
  if (!c->cpu[cpu].n) refill_irq(c, cpu);
  void *o = c->cpu[cpu].n ? c->cpu[cpu].objects[--c->cpu[cpu].n] : NULL;
  irq_restore(flags);
  return o;
}

void kmem_cache_free(struct kmem_cache *c, void *p) {
  ASSERT((struct kmem_cache *)block_head(p)->slab.slab == c);
  u64 flags = irq_save();
  u32 cpu = this_cpu()->id;
  if (c->cpu[cpu].n == STACK_MAX) flush_irq(c, cpu);
  c->cpu[cpu].objects[c->cpu[cpu].n++] = p;
  irq_restore(flags);
}

static void *large_alloc(size_t size, unsigned flags) {
  u32 order = 0;
  while (order <= MAX_ORDER && PAGE_SIZE << order < size) order++;
  struct page *p = order <= MAX_ORDER ? page_alloc(order, flags) : NULL;
  if (!p) return NULL;
  p->kind = PK_LARGE;
  return page_virt(p);
}

void *kmalloc(size_t size, unsigned flags) {
  if (size > MAX_SMALL) return large_alloc(size, flags);
  struct kmem_cache *c = &kmalloc_caches[kmalloc_class[(size + 15) / 16]];
  void *p = kmem_cache_alloc(c);
  if (!p && !(flags & ALLOC_NORECLAIM)) {
    // The block was asked for with interrupts off. One page asked for here lets the reclaim hook run.
    struct page *page = page_alloc(c->order, flags & ~(unsigned)ALLOC_ZERO);
    if (page) page_put(page);
    p = kmem_cache_alloc(c);
  }
  if (p && (flags & ALLOC_ZERO)) memset(p, 0, size);
  return p;
}

void *kzalloc(size_t size) { return kmalloc(size, ALLOC_ZERO); }

void kfree(void *p) {
  if (!p) return;
  struct page *page = page_of_virt(p);
  if (page->kind == PK_LARGE) {
    page->kind = PK_NONE;
    page_free_order(page, page->order);
    return;
  }
  ASSERT(page->kind == PK_SLAB);
  kmem_cache_free((struct kmem_cache *)block_head(p)->slab.slab, p);
}

char *kstrdup(const char *s) {
  size_t n = strlen(s) + 1;
  char *copy = kmalloc(n, 0);
  if (copy) memcpy(copy, s, n);
  return copy;
}

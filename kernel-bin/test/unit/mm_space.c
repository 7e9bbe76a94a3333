// SPDX-License-Identifier: Apache-2.0
// Address spaces as a whole, natively: areas, page tables, faults, fork, remapping, shared objects. A model says what
// every page must contain and allow. A software CPU walks the real page tables through a TLB of its own and complains when
// it would use an entry that the tables no longer hold, which is a missing shootdown. At the end no page may be left.
#include "unit.h"
#include "arch/arch.h"

#define ARENA_PAGES (16384u)
static unsigned char *arena;
static struct cpu unit_cpu_state = { .self = &unit_cpu_state };
static struct cpu *unit_cpu = &unit_cpu_state;
static _Alignas(64) unsigned char unit_thread_state[4096];
static void *unit_thread = unit_thread_state;
#undef DIRECT_BASE
#define DIRECT_BASE ((u64)arena)
static _Alignas(64) unsigned char unit_memmap[ARENA_PAGES * 64];
#undef MEMMAP_BASE
#define MEMMAP_BASE ((u64)unit_memmap)
#define this_cpu() unit_cpu
#define thread_current() ((struct thread *)unit_thread)
#define irq_save() 0ull
#define irq_restore(f) ((void)(f))
static void tlb_drop(u64 va);
static void tlb_drop_all(u64 cr3);
static u64 unit_cr3;
#define tlb_flush_page(va) tlb_drop(va)
#define read_cr3() unit_cr3
#define write_cr3(v) tlb_drop_all(v)

#include "mm/mm.h"
u64 *kernel_pgd;
u32 cpu_count = 1;
struct arch_hooks arch_hooks;
void schedule(void) {}

// --- locks: only that they are balanced and not nested against the rules of this room
static int spins;
void spin_lock(struct spinlock *l) { if (l->locked) panic("spinlock taken twice"); l->locked = 1; spins++; }
void spin_unlock(struct spinlock *l) { if (!l->locked) panic("spinlock not held"); l->locked = 0; spins--; }
void rwsem_init(struct rwsem *s, enum lock_rank rank) { s->count = 0; s->rank = (u8)rank; }
void rwsem_read_lock(struct rwsem *s) { if (s->count || spins) panic("read lock"); s->count = 1; }
void rwsem_read_unlock(struct rwsem *s) { if (s->count != 1) panic("read unlock"); s->count = 0; }
void rwsem_write_lock(struct rwsem *s) { if (s->count || spins) panic("write lock"); s->count = -1; }
void rwsem_write_unlock(struct rwsem *s) { if (s->count != -1) panic("write unlock"); s->count = 0; }
void ipi_call(const u64 mask[1], void (*fn)(void *), void *arg) {}
void task_set_aspace_switch(void (*fn)(struct aspace *next)) {}
int copy_to_user(uptr dst, const void *src, size_t n) { return -EFAULT; }

// --- memory
static u8 page_used[ARENA_PAGES];
static unsigned pages_out, fail_after = ~0u; // allocations until the next one fails
static unsigned at_hand = ~0u; // the rest is cache: who may not reclaim gets only these, who may makes one more
struct page *page_alloc(unsigned order, unsigned flags) {
  if (at_hand != ~0u) {
    if (!(flags & ALLOC_NORECLAIM)) at_hand++;
    else if (!at_hand) return NULL;
    else at_hand--;
  }
  if (fail_after != ~0u && fail_after-- == 0) return NULL;
  unsigned n = 1u << order, step = order ? n : 1;
  static unsigned hint;
  for (unsigned k = 0; k < ARENA_PAGES; k += step) {
    unsigned at = order ? ARENA_PAGES - step - k : (hint + k) % ARENA_PAGES, j = 0; // big ones from the top
    while (j < n && !page_used[at + j]) j++;
    if (j < n) continue;
    memset(page_used + at, 1, n);
    if (!order) hint = at;
    pages_out += n;
    struct page *p = &MEMMAP[at];
    memset(p, 0, sizeof *p);
    p->refs.n = 1;
    p->order = (u8)order;
    memset(page_virt(p), flags & ALLOC_ZERO ? 0 : 0xa5, PAGE_SIZE << order);
    return p;
  }
  return NULL;
}
void page_free_order(struct page *p, unsigned order) {
  for (unsigned i = 0; i < 1u << order; i++) {
    if (!page_used[p - MEMMAP + i]) panic("page freed twice");
    page_used[p - MEMMAP + i] = 0;
  }
  memset(page_virt(p), 0x5a, PAGE_SIZE << order);
  pages_out -= 1u << order;
}
void page_put(struct page *p) { if (ref_put(&p->refs)) page_free_order(p, p->order); }
void page_split(struct page *p) {
  unsigned n = 1u << p->order, refs = p->refs.n;
  for (unsigned i = 0; i < n; i++) {
    memset(&p[i], 0, sizeof p[i]);
    p[i].refs.n = refs;
  }
}
u64 page_total_count(void) { return ARENA_PAGES; }
u64 page_free_count(void) { return ARENA_PAGES - pages_out; }
void *kmalloc(size_t n, unsigned flags) { return malloc(n); }
void *kzalloc(size_t n) { return calloc(1, n); }
void kfree(void *p) { free(p); }
struct kmem_cache { size_t size; };
struct kmem_cache *kmem_cache_create(const char *name, size_t size, size_t align) {
  static struct kmem_cache c;
  c.size = size;
  return &c;
}
static int areas_out;
void *kmem_cache_alloc(struct kmem_cache *c) { areas_out++; return malloc(c->size); }
void kmem_cache_free(struct kmem_cache *c, void *p) { areas_out--; free(p); }

#include "../../kernel/lib/rbtree.c"
#undef BITS
#include "../../kernel/lib/radix.c"
#include "../../kernel/mm/vma.c"
#undef RIGHTS
#include "../../kernel/mm/tlb.c"
#include "../../kernel/mm/pt.c"
#include "../../kernel/mm/fault.c"
#include "../../kernel/mm/object.c"
#include "../../kernel/mm/aspace.c"
#include "../../kernel/mm/mmap.c"
#include "../../kernel/mm/advise.c"

// --- the software CPU
struct tlb_entry { bool valid, w, x; u64 va, pa; struct aspace *as; };
static struct tlb_entry tlb[64];
static void tlb_drop(u64 va) {
  for (int i = 0; i < 64; i++)
    if (tlb[i].va == (va & PAGE_MASK)) tlb[i].valid = false;
}
static void tlb_drop_all(u64 cr3) {
  for (int i = 0; i < 64; i++) tlb[i].valid = false;
  unit_cr3 = cr3;
}

static u64 *hw_walk(struct aspace *as, uptr va, unsigned *shift) {
  u64 *t = phys_virt(as->pgd_phys);
  for (unsigned level = 4;; level--) {
    u64 *e = &t[(va >> (12 + 9 * (level - 1))) & 511];
    if (!(*e & PTE_P)) return NULL;
    if (level == 1 || (*e & PTE_PS)) {
      *shift = 12 + 9 * (level - 1);
      return e;
    }
    t = phys_virt(*e & PTE_ADDR);
  }
}

static int stale;
// The u64 at va in as, through TLB and tables; NULL after a fault that was not resolved.
static u64 *cpu_touch(struct aspace *as, uptr va, bool write) {
  aspace_activate(as);
  for (int tries = 0; tries < 10; tries++) {
    unsigned shift = 0;
    struct tlb_entry *c = &tlb[(va >> 12) % 64];
    u64 *e = hw_walk(as, va, &shift);
    if (c->valid && c->va == (va & PAGE_MASK)) {
      u64 pa = e ? (*e & PTE_ADDR & ~(BIT(shift) - 1)) + (va & (BIT(shift) - 1) & PAGE_MASK) : 0;
      if (!e || pa != c->pa || (c->w && !(*e & PTE_W))) stale++;
      if (!write || c->w) return (u64 *)((u8 *)phys_virt(c->pa) + va % PAGE_SIZE);
      c->valid = false; // the CPU walks again before it faults
    }
    if (e && (!write || (*e & PTE_W))) {
      *e |= PTE_A | (write ? PTE_D : 0);
      u64 pa = (*e & PTE_ADDR & ~(BIT(shift) - 1)) + (va & (BIT(shift) - 1) & PAGE_MASK);
      *c = (struct tlb_entry){ true, (*e & PTE_W) != 0, false, va & PAGE_MASK, pa, as };
      return (u64 *)((u8 *)phys_virt(pa) + va % PAGE_SIZE);
    }
    struct fault_info fi;
    int err = aspace_fault(as, va, write ? FAULT_WRITE : FAULT_READ, &fi);
    if (err) return NULL;
  }
  panic("a fault that is resolved again and again at %lx", va);
}

// --- a file-like object: pages come when asked for, a mark must be set before a page is written, the end can move
#define FILE_PAGES 64
static struct memobj file_obj;
static struct page *file_pages[FILE_PAGES];
static u64 file_size = FILE_PAGES, file_value[FILE_PAGES];
static bool file_dirty[FILE_PAGES];
static unsigned file_reads;
static int file_get_page(struct memobj *o, u64 i, bool write, struct page **out) {
  if (spins) panic("get_page under a spinlock");
  if (i >= file_size) return -EFAULT;
  if (!file_pages[i]) {
    file_pages[i] = page_alloc(0, ALLOC_ZERO);
    if (!file_pages[i]) return -ENOMEM;
    file_pages[i]->cache.obj = o;
    file_pages[i]->cache.index = i;
    *(u64 *)page_virt(file_pages[i]) = file_value[i];
    file_reads++;
  }
  if (write) file_dirty[i] = true;
  *out = page_get(file_pages[i]);
  return 0;
}
static void file_peek(struct memobj *o, u64 index, unsigned n, struct page **out) {
  for (unsigned i = 0; i < n; i++) out[i] = index + i < file_size && file_pages[index + i] ? page_get(file_pages[index + i]) : NULL;
}
static void file_set_dirty(struct memobj *o, struct page *p) { if (p->cache.obj == o) file_dirty[p->cache.index] = true; }
static void file_release(struct memobj *o) { panic("file object released"); }
static const struct memobj_ops file_ops_unit = { file_get_page, file_peek, file_set_dirty, file_release };
static void file_drop(u64 i) { // reclaim or truncate: the page leaves the cache first
  struct page *p = file_pages[i];
  if (!p) return;
  file_pages[i] = NULL;
  p->cache.obj = NULL;
  memobj_unmap(&file_obj, i, 1, false);
  file_value[i] = *(u64 *)page_virt(p); // "written back"
  page_put(p);
}

static int file_refs;
static void unit_file_get(struct file *f) { file_refs++; }
static void unit_file_put(struct file *f) { if (spins) panic("file_put under a spinlock"); file_refs--; }

// --- the model
#define BASE 0x10000000ull
#define WINDOW 2560ull // pages: five times 2 MiB
#define SPACES 4
enum { NONE, PRIVATE, FILE_PRIVATE, FILE_SHARED, ANON_SHARED };
struct cell { u8 kind, rights; bool own; u64 value; u64 index; u64 *anon; }; // own: a private copy exists
struct anon_store { unsigned refs; u64 value[WINDOW]; };
static struct { struct aspace *as; struct cell cells[WINDOW]; } space[SPACES];

static u64 *cell_value(struct cell *c) {
  switch (c->kind) {
    case FILE_SHARED: return &file_value[c->index];
    case FILE_PRIVATE: return c->own ? &c->value : &file_value[c->index];
    case ANON_SHARED: return c->anon;
    default: return &c->value;
  }
}
// While a page of the file is cached, the truth is there.
static void sync_file_value(u64 i) { if (file_pages[i]) file_value[i] = *(u64 *)page_virt(file_pages[i]); }

static u64 anon_values[64][WINDOW];
static unsigned next_anon;
static int mismatches;

static void touch(int s, u64 page, bool write) {
  struct cell *c = &space[s].cells[page];
  bool past_end = (c->kind == FILE_SHARED || (c->kind == FILE_PRIVATE && !c->own)) && c->index >= file_size;
  bool may = c->kind != NONE && (write ? c->rights & VMA_WRITE : c->rights != 0) && !past_end;
  u64 *at = cpu_touch(space[s].as, BASE + page * PAGE_SIZE, write);
  if ((at != NULL) != may) {
    if (!mismatches++) fprintf(stderr, "space %d page %lu %s: kind %d rights %d index %lu, got %p\n", s, page, write ? "write" : "read", c->kind, c->rights, c->index, (void *)at);
    return;
  }
  if (!at) return;
  if (c->kind == FILE_PRIVATE || c->kind == FILE_SHARED) sync_file_value(c->index);
  if (write) {
    if (c->kind == FILE_SHARED && !file_dirty[c->index]) mismatches++, fprintf(stderr, "written without its mark\n");
    u64 v = unit_random();
    *at = v;
    if (c->kind == FILE_PRIVATE) c->own = true;
    *cell_value(c) = v;
  } else if (*at != *cell_value(c)) {
    if (!mismatches++) fprintf(stderr, "space %d page %lu: %lx, not %lx (kind %d)\n", s, page, *at, *cell_value(c), c->kind);
  }
}

static void op_map(int s, u64 page, u64 n, unsigned what) {
  struct mmap_request rq = { .addr = BASE + page * PAGE_SIZE, .len = n * PAGE_SIZE, .prot = what >> 4 & 3, .flags = MAP_FIXED };
  int kind = PRIVATE + (int)(what & 3);
  u64 index = 0;
  if (kind == FILE_PRIVATE || kind == FILE_SHARED) {
    index = what >> 8 & 31;
    if (n > FILE_PAGES - index) n = FILE_PAGES - index, rq.len = n * PAGE_SIZE;
    rq.obj = &file_obj;
    rq.file = (struct file *)&file_obj;
    rq.file_writable = true;
    rq.pgoff = index;
  } else if (kind == ANON_SHARED) {
    if (next_anon == 64) return;
  }
  rq.flags |= kind == FILE_SHARED || kind == ANON_SHARED ? MAP_SHARED : MAP_PRIVATE;
  long r = mm_mmap(space[s].as, &rq);
  CHECK(r == (long)rq.addr);
  for (u64 i = 0; i < n; i++)
    space[s].cells[page + i] = (struct cell){ (u8)kind, (u8)rq.prot, false, 0, index + i, kind == ANON_SHARED ? &anon_values[next_anon][i] : NULL };
  if (kind == ANON_SHARED) next_anon++;
}

static void op_protect(int s, u64 page, u64 n, unsigned rights) {
  struct cell *c = space[s].cells;
  u64 i = 0;
  while (i < n && c[page + i].kind != NONE) c[page + i++].rights = (u8)rights; // Linux changes what comes before the hole
  CHECK(mm_mprotect(space[s].as, BASE + page * PAGE_SIZE, n * PAGE_SIZE, (int)rights) == (i == n ? 0 : -ENOMEM));
}

static void op_remap(int s, u64 page, u64 n, u64 to, u64 n2) {
  struct cell *c = space[s].cells, moved[64];
  struct vma *v = vma_find(space[s].as, BASE + page * PAGE_SIZE);
  if (n > 64 || n2 > 64 || (to < page + n && page < to + n2)) return;
  bool one = v && v->start <= BASE + page * PAGE_SIZE && v->end >= BASE + (page + n) * PAGE_SIZE;
  if (one && (c[page].kind == FILE_SHARED || c[page].kind == FILE_PRIVATE || c[page].kind == ANON_SHARED) && n2 > n) return; // grows past the model
  long r = mm_mremap(space[s].as, BASE + page * PAGE_SIZE, n * PAGE_SIZE, n2 * PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, BASE + to * PAGE_SIZE);
  CHECK(r == (one ? (long)(BASE + to * PAGE_SIZE) : -EFAULT));
  if (!one) {
    return;
  }
  for (u64 i = 0; i < n2; i++) moved[i] = i < n ? c[page + i] : (struct cell){ PRIVATE, c[page].rights, false, 0, 0, NULL };
  for (u64 i = 0; i < n; i++) c[page + i] = (struct cell){ 0 };
  for (u64 i = 0; i < n2; i++) c[to + i] = moved[i];
}

static bool counts_ok(struct aspace *as) {
  u64 total = 0;
  u32 n = 0;
  uptr last = 0;
  for (struct vma *v = vma_first(as); v; v = vma_next(v), n++) {
    if (v->start < last || v->start >= v->end || v->as != as) return false;
    last = v->end;
    total += (v->end - v->start) >> PAGE_SHIFT;
  }
  u64 rss = 0, slots = 0;
  u64 *slot;
  for (uptr a = 0; (slot = next_slot2(as, &a, USER_END)); a = ALIGN_DOWN(a, HUGE_SIZE) + HUGE_SIZE, slots++) {
    if (pte_huge(*slot)) { rss += 512; continue; }
    u64 *t = phys_virt(*slot & PTE_ADDR);
    for (int i = 0; i < 512; i++) rss += pte_maps(t[i]) && (t[i] & PTE_ADDR) != zero_page_phys;
  }
  return n == as->area_count && total == as->total_pages && rss == as->rss_pages;
}

static void test_random(unsigned steps) {
  space[0].as = aspace_create();
  for (unsigned step = 0; step < steps && !mismatches; step++) {
    u64 r = unit_random();
    int s = (int)(r % SPACES), t = (int)(r >> 8 & 3);
    while (!space[s].as) s = (s + 1) % SPACES;
    u64 page = unit_random() % WINDOW, n = r >> 16 & 1 ? 1 + (r >> 20) % 40 : 1 + (r >> 20) % 1200;
    if (page + n > WINDOW) n = WINDOW - page;
    struct cell *c = space[s].cells;
    uptr addr = BASE + page * PAGE_SIZE;
    switch (r >> 40 & 15) {
      case 0: op_map(s, page, n, (unsigned)(r >> 44) & ~3u); break; // private: may get 2 MiB pages
      case 1: op_map(s, page, n, (unsigned)(r >> 44)); break;
      case 2:
        CHECK(mm_munmap(space[s].as, addr, n * PAGE_SIZE) == 0);
        memset(&c[page], 0, n * sizeof *c);
        break;
      case 3: op_protect(s, page, n, (unsigned)(r >> 44) & 3); break;
      case 4: op_remap(s, page, 1 + (r >> 44) % 40, unit_random() % (WINDOW - 64), 1 + (r >> 50) % 40); break;
      case 5: // fork into a free slot, or end a space
        if (t != s && !space[t].as) {
          CHECK(aspace_fork(space[s].as, &space[t].as) == 0);
          memcpy(space[t].cells, c, sizeof space[t].cells);
        } else if (t != s && (r >> 50 & 3) == 0) {
          aspace_put(space[t].as);
          space[t].as = NULL;
          memset(space[t].cells, 0, sizeof space[t].cells);
        }
        break;
      case 6: {
        int e = mm_madvise(space[s].as, addr, n * PAGE_SIZE, MADV_DONTNEED);
        bool hole = false;
        for (u64 i = 0; i < n; i++) {
          hole |= c[page + i].kind == NONE;
          c[page + i].own = false;
          if (c[page + i].kind == PRIVATE) c[page + i].value = 0;
        }
        CHECK(e == (hole ? -ENOMEM : 0));
        break;
      }
      case 7: file_drop(unit_random() % FILE_PAGES); break;
      case 8: { // write-back: the mark goes first, then the right to write
        u64 i = unit_random() % FILE_PAGES;
        file_dirty[i] = false;
        memobj_unmap(&file_obj, i, 1, true);
        break;
      }
      case 9: { // access from outside
        struct page *p;
        bool past = (c[page].kind == FILE_SHARED || (c[page].kind == FILE_PRIVATE && !c[page].own)) && c[page].index >= file_size;
        int e = mm_get_user_page(space[s].as, addr, false, &p);
        CHECK((e == 0) == (c[page].kind != NONE && c[page].rights && !past));
        if (!e) page_put(p);
        break;
      }
      default:
        for (int k = 0; k < 8; k++) touch(s, k ? unit_random() % WINDOW : page, unit_random() & 1);
        for (u64 k = 0; k < 24 && page + k < WINDOW; k++) touch(s, page + k, r >> (32 + k % 24) & 1);
    }
    if (step % 64 == 0)
      for (int k = 0; k < SPACES; k++) if (space[k].as) CHECK(counts_ok(space[k].as));
  }
  CHECK(mismatches == 0 && stale == 0);
  for (int k = 0; k < SPACES; k++) {
    for (u64 i = 0; space[k].as && i < WINDOW; i++) touch(k, i, false);
    if (space[k].as) aspace_put(space[k].as);
    space[k].as = NULL;
    memset(space[k].cells, 0, sizeof space[k].cells);
  }
  CHECK(mismatches == 0 && stale == 0);
  next_anon = 0;
  memset(anon_values, 0, sizeof anon_values);
}

// Every allocation of a long scenario fails once: no crash, nothing lost.
static void test_no_memory(void) {
  for (unsigned n = 0; n < 60; n++) {
    unsigned before = pages_out;
    struct aspace *as = aspace_create(), *child = NULL;
    struct mmap_request rq = { .addr = 0x40000000, .len = 4 * HUGE_SIZE, .prot = 3, .flags = MAP_PRIVATE | MAP_FIXED };
    CHECK(mm_mmap(as, &rq) == 0x40000000);
    CHECK(cpu_touch(as, 0x40000000, true) != NULL);
    fail_after = n;
    for (int i = 0; i < 40; i++) (void)!cpu_touch(as, 0x40000000 + (uptr)i * 0x35000, i & 1);
    (void)!mm_munmap(as, 0x40101000, 0x5000);
    int forked = aspace_fork(as, &child);
    (void)!cpu_touch(as, 0x40000000, true);
    if (!forked) (void)!cpu_touch(child, 0x40000000, true);
    (void)!mm_mremap(as, 0x40000000, 0x3000, 0x3000, MREMAP_MAYMOVE | MREMAP_FIXED, 0x50000000);
    fail_after = ~0u;
    if (!forked) aspace_put(child);
    aspace_put(as);
    CHECK(pages_out == before);
    if (pages_out != before) fprintf(stderr, "n %u: %u lost\n", n, pages_out - before);
  }
}

// Files fill the memory: fork makes room for the child's tables, which are more than there is at hand.
static void test_fork_makes_room(void) {
  unsigned before = pages_out;
  struct aspace *as = aspace_create(), *child = NULL;
  struct mmap_request rq = { .addr = 0x40000000, .len = 40 * HUGE_SIZE, .prot = 3, .flags = MAP_PRIVATE | MAP_FIXED | MAP_STACK };
  CHECK(mm_mmap(as, &rq) == 0x40000000);
  for (uptr i = 0; i < 40; i++) CHECK(cpu_touch(as, 0x40000000 + i * HUGE_SIZE, true) != NULL);
  at_hand = 3;
  CHECK(aspace_fork(as, &child) == 0);
  at_hand = ~0u;
  CHECK(child && child->rss_pages == 40);
  if (child) aspace_put(child);
  rq = (struct mmap_request){ .addr = 0x80000000, .len = 2 * HUGE_SIZE, .prot = 3, .flags = MAP_PRIVATE | MAP_FIXED };
  CHECK(mm_mmap(as, &rq) == 0x80000000 && cpu_touch(as, 0x80000000, true) && pte_huge(pt_entry(as, 0x80000000)));
  at_hand = 0;
  CHECK(mm_mprotect(as, 0x80001000, 0x1000, 1) == 0 && !pte_huge(pt_entry(as, 0x80000000))); // nor for the halves of a large page
  at_hand = ~0u;
  aspace_put(as);
  CHECK(pages_out == before);
}

static void test_layout(void) {
  struct aspace *as = aspace_create();
  struct mmap_request rq = { .len = 64 * GIB, .prot = 0, .flags = MAP_PRIVATE | MAP_NORESERVE };
  unsigned before = pages_out;
  long big = mm_mmap(as, &rq);
  CHECK(big > 0 && pages_out == before); // a reservation costs nothing
  rq = (struct mmap_request){ .addr = (uptr)big + GIB, .len = MIB, .prot = 3, .flags = MAP_PRIVATE | MAP_FIXED_NOREPLACE };
  CHECK(mm_mmap(as, &rq) == -EEXIST);
  CHECK(mm_munmap(as, (uptr)big, 64 * GIB) == 0);
  // Top down, next to each other, and into holes again.
  rq = (struct mmap_request){ .len = 0x3000, .prot = 1, .flags = MAP_PRIVATE };
  uptr a = (uptr)mm_mmap(as, &rq);
  rq.prot = 3;
  uptr b = (uptr)mm_mmap(as, &rq);
  rq.prot = 1;
  uptr c = (uptr)mm_mmap(as, &rq);
  CHECK(a + 0x3000 == as->mmap_top && b + 0x3000 == a && c + 0x3000 == b && as->area_count == 3);
  CHECK(mm_munmap(as, b, 0x3000) == 0);
  CHECK((uptr)mm_mmap(as, &rq) == b && as->area_count == 1); // merged with both neighbours
  // A stack grows, keeps its distance, and stops at its limit.
  rq = (struct mmap_request){ .addr = 0x70000000, .len = 0x2000, .prot = 3, .flags = MAP_PRIVATE | MAP_FIXED | MAP_GROWSDOWN };
  CHECK(mm_mmap(as, &rq) == 0x70000000);
  as->stack_limit_bytes = 0x100000;
  CHECK(cpu_touch(as, 0x6fff0000, true) != NULL && vma_find(as, 0x6fff0000)->start == 0x6fff0000);
  CHECK(cpu_touch(as, 0x70002000 - 0x100000, true) != NULL && cpu_touch(as, 0x70001ff8 - 0x100000, true) == NULL);
  as->stack_limit_bytes = ~0ull;
  rq = (struct mmap_request){ .addr = 0x6fd00000, .len = 0x1000, .prot = 3, .flags = MAP_PRIVATE | MAP_FIXED };
  CHECK(mm_mmap(as, &rq) == 0x6fd00000);
  CHECK(cpu_touch(as, 0x6fd01000 + STACK_GUARD_BYTES, true) != NULL && cpu_touch(as, 0x6fd01000 + STACK_GUARD_BYTES - 8, true) == NULL);
  CHECK(mm_mprotect(as, 0x6fd02000, 0x1000, PROT_READ | PROT_GROWSDOWN) == -ENOMEM); // wholly below it
  // An object that was sealed between the file's own look and the mapping
  struct memobj *o = memobj_create_anon();
  u32 areas = as->area_count;
  u64 mapped = as->total_pages;
  o->no_writers = true;
  rq = (struct mmap_request){ .addr = 0x60000000, .len = 0x1000, .prot = 3, .flags = MAP_SHARED | MAP_FIXED, .obj = o };
  CHECK(mm_mmap(as, &rq) == -EPERM && as->area_count == areas && as->total_pages == mapped && list_empty(&o->areas) && ref_read(&o->refs) == 1);
  rq.prot = 1;
  CHECK(mm_mmap(as, &rq) == 0x60000000 && mm_mprotect(as, 0x60000000, 0x1000, 3) == -EACCES);
  memobj_put(o);
  // brk
  as->brk_start = as->brk = 0x20000123;
  CHECK(mm_brk(as, 0) == 0x20000123 && mm_brk(as, 0x20005000) == 0x20005000 && cpu_touch(as, 0x20004ff8, true) != NULL);
  CHECK(mm_brk(as, 0x20002000) == 0x20002000 && cpu_touch(as, 0x20002000, false) == NULL && cpu_touch(as, 0x20001ff8, false) != NULL);
  aspace_put(as);
}

static void test_huge(void) {
  struct aspace *as = aspace_create(), *child;
  struct mmap_request rq = { .addr = 0x40000000, .len = 4 * HUGE_SIZE, .prot = 3, .flags = MAP_PRIVATE | MAP_FIXED };
  CHECK(mm_mmap(as, &rq) == 0x40000000);
  u64 *p = cpu_touch(as, 0x40000000, true);
  CHECK(p && as->rss_pages == 512);
  *p = 1;
  *cpu_touch(as, 0x40005000, true) = 5;
  unsigned before = pages_out;
  CHECK(aspace_fork(as, &child) == 0 && child->rss_pages == 512);
  CHECK(pages_out - before < 8); // shared as a whole
  *cpu_touch(as, 0x40005000, true) = 6; // only 4 KiB are copied
  CHECK(pages_out - before < 12);
  CHECK(*cpu_touch(child, 0x40005000, false) == 5 && *cpu_touch(child, 0x40000000, false) == 1);
  aspace_put(child);
  before = pages_out;
  *cpu_touch(as, 0x40000000, true) = 2; // alone again: no copy
  CHECK(pages_out == before && *cpu_touch(as, 0x40005000, false) == 6);
  CHECK(mm_munmap(as, 0x40001000, 0x1ff000) == 0 && as->rss_pages == 1);
  aspace_put(as);
}

int main(void) {
  arena = aligned_alloc(HUGE_SIZE, ARENA_PAGES * PAGE_SIZE);
  memset(page_used, 0, sizeof page_used);
  page_used[0] = 1; // physical 0: an entry of 0 means nothing
  mm_hooks = (struct mm_hooks){ .file_get = unit_file_get, .file_put = unit_file_put };
  radix_set_allocator(malloc, free);
  struct page *pgd = page_alloc(0, ALLOC_ZERO);
  kernel_pgd = page_virt(pgd);
  vma_init();
  tlb_init();
  fault_init();
  memobj_init(&file_obj, &file_ops_unit);
  unsigned start = pages_out;
  test_layout();
  CHECK(pages_out == start);
  test_huge();
  CHECK(pages_out == start);
  test_no_memory();
  test_fork_makes_room();
  CHECK(pages_out == start);
  for (int round = 0; round < 6; round++) test_random(6000);
  for (u64 i = 0; i < FILE_PAGES; i++) file_drop(i);
  CHECK(pages_out == start && areas_out == 0 && file_refs == 0 && spins == 0 && list_empty(&file_obj.areas) && file_obj.refs.n == 1);
  free(arena);
  return UNIT_END("mm_space");
}

// SPDX-License-Identifier: Apache-2.0
//
// Page tables of programs: four levels, 4 KiB and 2 MiB pages. Entries are read and changed under aspace->pt_lock;
// tables are only freed with sem held for write (or when nobody has the space), after a shootdown.
#include "mm/internal.h"

#define TABLE_BITS (PTE_P | PTE_W | PTE_U | PTE_A)
enum { ITEM_PAGE = 0, ITEM_HUGE = 1, ITEM_TABLE = 2, ITEM_KIND = 3 };

static u64 *table_of(u64 e) { return phys_virt(e & PTE_ADDR); }

static u64 *descend(struct aspace *as, u64 *slot, bool alloc) {
  if (!*slot) {
    struct page *p = alloc ? page_alloc(0, ALLOC_ZERO | ALLOC_NORECLAIM | ALLOC_USER) : NULL;
    if (!p) return NULL;
    as->pt_pages++;
    WRITE_ONCE(*slot, page_phys(p) | TABLE_BITS);
  }
  return table_of(*slot);
}

u64 *pt_slot2(struct aspace *as, uptr addr, bool alloc) {
  u64 *t = as->pgd;
  for (unsigned level = 4; level > 2; level--) {
    t = descend(as, &t[pt_index(addr, level)], alloc);
    if (!t) return NULL;
  }
  return &t[pt_index(addr, 2)];
}

u64 *pt_slot1(struct aspace *as, uptr addr, bool alloc) {
  u64 *slot = pt_slot2(as, addr, alloc);
  if (!slot || pte_huge(*slot)) return NULL;
  u64 *t = descend(as, slot, alloc);
  return t ? &t[pt_index(addr, 1)] : NULL;
}

u64 pt_entry(struct aspace *as, uptr addr) {
  u64 *slot = pt_slot2(as, addr, false);
  if (!slot || pte_huge(*slot)) return slot ? *slot : 0;
  return pte_table(*slot) ? table_of(*slot)[pt_index(addr, 1)] : 0;
}

// The next 2 MiB slot at or above *addr that holds something; *addr moves up to where it begins. NULL: none below end.
static u64 *next_slot2(struct aspace *as, uptr *addr, uptr end) {
  while (*addr < end) {
    u64 *t = as->pgd;
    unsigned level = 4;
    for (; level > 2; level--) {
      u64 e = t[pt_index(*addr, level)];
      if (!e) break;
      t = table_of(e);
    }
    u64 *slot = &t[pt_index(*addr, level)];
    if (level == 2 && *slot) return slot;
    *addr = ALIGN_DOWN(*addr, 1ull << (PAGE_SHIFT + 9 * (level - 1))) + (1ull << (PAGE_SHIFT + 9 * (level - 1)));
  }
  return NULL;
}

u64 pt_bits(u32 flags, bool writable) {
  if (!(flags & (VMA_READ | VMA_WRITE | VMA_EXEC))) return MM_NONE | PTE_U | PTE_NX;
  return PTE_P | PTE_U | PTE_A | (writable && (flags & VMA_WRITE) ? PTE_W | PTE_D : 0) | (flags & VMA_EXEC ? 0 : PTE_NX);
}

// --- 2 MiB pages. Mapped as a whole by n spaces, the head counts n and the others nothing. Once somebody needs 4 KiB of
// it, it breaks: all 512 count n each, for good, also on behalf of those who still map it with one entry. One lock for
// all of them: a mapping that goes away must see which of the two it has to undo.
static struct spinlock huge_lock = SPINLOCK_INIT(RANK_VIRTQ);
#define HUGE_ORDER 9
#define HUGE_PAGES 512

void page_huge_get(struct page *head) {
  spin_lock(&huge_lock);
  for (unsigned i = 0, n = head->anon.mapcount ? 1 : HUGE_PAGES; i < n; i++) page_get(&head[i]);
  spin_unlock(&huge_lock);
}

void page_huge_put(struct page *head) {
  spin_lock(&huge_lock);
  bool whole = head->anon.mapcount != 0, last = whole && ref_put(&head->refs);
  spin_unlock(&huge_lock);
  if (last) page_free_order(head, HUGE_ORDER);
  if (!whole)
    for (unsigned i = 0; i < HUGE_PAGES; i++) page_put(&head[i]);
}

bool page_huge_exclusive(struct page *head) {
  spin_lock(&huge_lock);
  bool r = head->anon.mapcount && ref_read(&head->refs) == 1;
  spin_unlock(&huge_lock);
  return r;
}

void page_huge_break(struct page *head) {
  spin_lock(&huge_lock);
  if (head->anon.mapcount) {
    head->anon.mapcount = 0;
    page_split(head);
  }
  spin_unlock(&huge_lock);
}

int pt_split_huge(struct aspace *as, uptr addr) {
  u64 *slot = pt_slot2(as, addr, false);
  if (!slot || !pte_huge(*slot)) return 0;
  struct page *p = page_alloc(0, ALLOC_NORECLAIM | ALLOC_USER);
  if (!p) return -ENOMEM;
  page_huge_break(pte_page(*slot));
  u64 *t = page_virt(p), e = *slot & ~PTE_PS;
  for (unsigned i = 0; i < 512; i++) t[i] = e + i * PAGE_SIZE;
  as->pt_pages++;
  // The same frames with the same rights: a CPU that still uses the large entry is wrong about nothing. Later changes
  // of an entry flush its address, which drops the large one too.
  WRITE_ONCE(*slot, page_phys(p) | TABLE_BITS);
  return 0;
}

static int split_borders_locked(struct aspace *as, uptr start, uptr end) {
  int err = start % HUGE_SIZE ? pt_split_huge(as, start) : 0;
  return !err && end % HUGE_SIZE ? pt_split_huge(as, end) : err;
}

int pt_split_borders(struct aspace *as, uptr start, uptr end) {
  spin_lock(&as->pt_lock);
  int err = split_borders_locked(as, start, end);
  spin_unlock(&as->pt_lock);
  return err;
}

// --- what leaves
void gather_begin(struct gather *g, struct aspace *as) {
  g->as = as;
  g->start = ~0ull;
  g->end = 0;
  g->n = 0;
  struct page *p = page_alloc(0, ALLOC_NORECLAIM);
  g->page = p ? page_virt(p) : NULL;
  g->items = p ? g->page : g->few;
  g->cap = p ? PAGE_SIZE / sizeof(u64) : ARRAY_SIZE(g->few);
}

static void gather_range(struct gather *g, uptr start, u64 len) {
  g->start = MIN(g->start, start);
  g->end = MAX(g->end, start + len);
}

static void gather_add(struct gather *g, phys_t pa, unsigned kind) { g->items[g->n++] = pa | kind; }

void gather_flush(struct gather *g) {
  if (g->start < g->end) tlb_flush_range(g->as, g->start, g->end);
  g->start = ~0ull;
  g->end = 0;
  for (unsigned i = 0; i < g->n; i++) {
    struct page *p = page_of_phys(g->items[i] & PTE_ADDR);
    if ((g->items[i] & ITEM_KIND) == ITEM_HUGE) page_huge_put(p);
    else page_put(p);
  }
  g->n = 0;
}

void gather_end(struct gather *g) {
  gather_flush(g);
  if (g->page) page_put(page_of_virt(g->page));
}

static void count_out(struct aspace *as, u64 e, u64 n) {
  if ((e & PTE_ADDR) == zero_page_phys) return;
  as->rss_pages -= n;
  if (!(e & MM_ANON)) as->shared_rss_pages -= n;
}

static void zap_entry(struct gather *g, u64 *slot, uptr addr, u64 len) {
  u64 e = *slot;
  WRITE_ONCE(*slot, 0);
  count_out(g->as, e, len >> PAGE_SHIFT);
  gather_range(g, addr, len);
  if ((e & PTE_ADDR) != zero_page_phys) gather_add(g, e & PTE_ADDR, len == HUGE_SIZE ? ITEM_HUGE : ITEM_PAGE);
}

// pt_lock held. Returns where it stopped: end, or lower when g is full. objects_only: private copies stay.
static uptr zap_some(struct gather *g, uptr addr, uptr end, bool objects_only) {
  u64 *slot;
  while ((slot = next_slot2(g->as, &addr, end))) {
    uptr stop = MIN(ALIGN_DOWN(addr, HUGE_SIZE) + HUGE_SIZE, end);
    if (pte_huge(*slot)) {
      if (!objects_only) {
        if (g->n == g->cap) return addr;
        ASSERT(stop - addr == HUGE_SIZE);
        zap_entry(g, slot, addr, HUGE_SIZE);
      }
      addr = stop;
      continue;
    }
    u64 *t = table_of(*slot);
    for (; addr < stop; addr += PAGE_SIZE) {
      u64 *e = &t[pt_index(addr, 1)];
      if (!*e || (objects_only && ((*e & MM_ANON) || (*e & PTE_ADDR) == zero_page_phys))) continue;
      if (g->n == g->cap) return addr;
      zap_entry(g, e, addr, PAGE_SIZE);
    }
  }
  return end;
}

// The borders are split under the lock that the entries go under: where sem is held for read only (madvise), a fault beside
// us may put a 2 MiB page there as soon as the lock is free.
int pt_zap(struct gather *g, uptr start, uptr end) {
  int err = 0;
  while (start < end && !err) {
    spin_lock(&g->as->pt_lock);
    err = split_borders_locked(g->as, start, end);
    if (!err) start = zap_some(g, start, end, false);
    spin_unlock(&g->as->pt_lock);
    if (start < end) gather_flush(g);
  }
  return err;
}

bool pt_zap_object(struct gather *g, uptr start, uptr end) {
  spin_lock(&g->as->pt_lock);
  start = zap_some(g, start, end, true);
  spin_unlock(&g->as->pt_lock);
  return start == end;
}

void pt_protect_object(struct gather *g, uptr start, uptr end) {
  u64 *slot;
  spin_lock(&g->as->pt_lock);
  while ((slot = next_slot2(g->as, &start, end))) {
    uptr stop = MIN(ALIGN_DOWN(start, HUGE_SIZE) + HUGE_SIZE, end);
    u64 *t = pte_huge(*slot) ? NULL : table_of(*slot);
    for (; t && start < stop; start += PAGE_SIZE) {
      u64 *e = &t[pt_index(start, 1)];
      if ((*e & (PTE_W | MM_ANON)) != PTE_W) continue;
      __atomic_fetch_and(e, ~(PTE_W | PTE_D), __ATOMIC_SEQ_CST); // atomic: the CPU may set A or D just now
      gather_range(g, start, PAGE_SIZE);
    }
    start = stop;
  }
  spin_unlock(&g->as->pt_lock);
}

// Rights changed. An exclusive page that had been writable stays so; others become writable by a fault.
static u64 protect_entry(u64 e, u32 flags) {
  u64 keep = PTE_ADDR | PTE_PS | MM_ANON | PTE_A | PTE_D;
  return (e & keep) | (pt_bits(flags, (e & PTE_W) != 0) & ~(PTE_A | PTE_D));
}

void pt_protect(struct aspace *as, uptr start, uptr end, u32 flags) {
  uptr first = ~0ull, last = 0;
  u64 *slot;
  spin_lock(&as->pt_lock);
  while ((slot = next_slot2(as, &start, end))) {
    uptr stop = MIN(ALIGN_DOWN(start, HUGE_SIZE) + HUGE_SIZE, end);
    bool huge = pte_huge(*slot);
    u64 *e = huge ? slot : &table_of(*slot)[pt_index(start, 1)], step = huge ? HUGE_SIZE : PAGE_SIZE;
    for (; start < stop; start += step, e++) {
      if (!*e) continue;
      u64 old = __atomic_exchange_n(e, 0, __ATOMIC_SEQ_CST); // not present while it changes: no A or D bit gets lost
      WRITE_ONCE(*e, protect_entry(old, flags));
      if (!(old & PTE_P)) continue;
      first = MIN(first, start);
      last = MAX(last, start + step);
    }
  }
  spin_unlock(&as->pt_lock);
  if (first < last) tlb_flush_range(as, first, last);
}

// --- fork. Object pages are not copied: a fault finds them in the object (and so the child's tables are not filled
// behind memobj_unmap's back). `to` is not reachable for anybody else yet.
static int copy_table(struct aspace *to, u64 *src, uptr addr, uptr stop) {
  u64 *dst = NULL;
  for (; addr < stop; addr += PAGE_SIZE) {
    u64 *s = &src[pt_index(addr, 1)], e = *s;
    if (!e) continue;
    bool zero = (e & PTE_ADDR) == zero_page_phys;
    if (!zero && !(e & MM_ANON)) continue;
    if (!dst) {
      dst = pt_slot1(to, addr, true);
      if (!dst) return -ENOMEM;
      dst -= pt_index(addr, 1);
    }
    if (!zero) {
      page_get(pte_page(e));
      to->rss_pages++;
    }
    if (e & PTE_W) e = __atomic_and_fetch(s, ~PTE_W, __ATOMIC_SEQ_CST);
    dst[pt_index(addr, 1)] = e;
  }
  return 0;
}

int pt_copy(struct aspace *to, struct aspace *from, uptr start, uptr end) {
  int err = 0;
  spin_lock(&from->pt_lock);
  u64 *slot;
  while (!err && (slot = next_slot2(from, &start, end))) {
    uptr stop = MIN(ALIGN_DOWN(start, HUGE_SIZE) + HUGE_SIZE, end);
    if (pte_huge(*slot)) {
      u64 *dst = pt_slot2(to, start, true);
      if (!dst) {
        err = -ENOMEM;
        break;
      }
      u64 e = __atomic_and_fetch(slot, ~PTE_W, __ATOMIC_SEQ_CST);
      page_huge_get(pte_page(e));
      to->rss_pages += HUGE_PAGES;
      *dst = e;
    } else {
      err = copy_table(to, table_of(*slot), start, stop);
    }
    start = stop;
  }
  spin_unlock(&from->pt_lock);
  return err;
}

int pt_move(struct aspace *as, uptr from, uptr to, u64 len) {
  int err = 0;
  u64 *slot;
  uptr end = from + len;
  spin_lock(&as->pt_lock);
  // All that can fail comes first: tables at the destination. Those that stay empty go with the area.
  for (uptr a = from; !err && (slot = next_slot2(as, &a, end)); a = ALIGN_DOWN(a, HUGE_SIZE) + HUGE_SIZE) {
    err = pt_split_huge(as, a);
    uptr first = MAX(ALIGN_DOWN(a, HUGE_SIZE), from), last = MIN(ALIGN_DOWN(a, HUGE_SIZE) + HUGE_SIZE, end) - 1;
    if (!err && (!pt_slot1(as, first - from + to, true) || !pt_slot1(as, last - from + to, true))) err = -ENOMEM;
  }
  if (!err) {
    for (uptr a = from; (slot = next_slot2(as, &a, end));) {
      uptr stop = MIN(ALIGN_DOWN(a, HUGE_SIZE) + HUGE_SIZE, end);
      u64 *t = table_of(*slot);
      for (; a < stop; a += PAGE_SIZE) {
        u64 *s = &t[pt_index(a, 1)];
        if (!(*s & MM_ANON)) continue;
        *pt_slot1(as, a - from + to, false) = __atomic_exchange_n(s, 0, __ATOMIC_SEQ_CST);
      }
    }
  }
  spin_unlock(&as->pt_lock);
  if (err) return err;
  struct gather g;
  gather_begin(&g, as);
  gather_range(&g, from, len);
  err = pt_zap(&g, from, end); // nothing is left to split
  gather_end(&g);
  return err;
}

void mm_vma_stats(struct vma *v, struct vma_stats *st) {
  struct aspace *as = v->as;
  u32 areas = 1;
  u64 *slot;
  if (v->obj) mm_count_vmas(v->obj, &areas);
  spin_lock(&as->pt_lock);
  for (uptr a = v->start; (slot = next_slot2(as, &a, v->end));) {
    uptr stop = MIN(ALIGN_DOWN(a, HUGE_SIZE) + HUGE_SIZE, v->end);
    bool huge = pte_huge(*slot);
    u64 *e = huge ? slot : &table_of(*slot)[pt_index(a, 1)], step = huge ? HUGE_SIZE : PAGE_SIZE, n = step >> PAGE_SHIFT;
    for (; a < stop; a += step, e++) {
      if (!pte_maps(*e) || (*e & PTE_ADDR) == zero_page_phys) continue;
      struct page *p = pte_page(*e);
      bool anon = (*e & MM_ANON) != 0, dirty = anon || page_test(p, PG_DIRTY);
      u32 sharers = anon ? ref_read(&p->refs) : areas;
      st->rss += n;
      if (anon) st->anon += n;
      if (huge) st->huge += n;
      if (sharers > 1) *(dirty ? &st->shared_dirty : &st->shared_clean) += n;
      else *(dirty ? &st->private_dirty : &st->private_clean) += n;
      st->pss_bytes += step / MAX(sharers, 1u);
    }
    a = stop;
  }
  spin_unlock(&as->pt_lock);
}

// --- freeing tables
// Only those that cover part of [start, end) can have become empty; [floor, ceiling) has no area in it any more. One INVLPG
// of any address drops all cached upper levels (Intel SDM 3A 4.10.4.1), so the range to flush need not grow by the span.
void pt_free_tables(struct gather *g, uptr start, uptr end, uptr floor, uptr ceiling) {
  struct aspace *as = g->as;
  for (unsigned level = 2; level <= 4; level++) { // leaf tables first: the levels above are empty then
    u64 span = 1ull << (PAGE_SHIFT + 9 * (level - 1));
    for (uptr a = ALIGN_DOWN(start, span); a < end;) {
      if (g->n == g->cap) gather_flush(g);
      spin_lock(&as->pt_lock);
      u64 *t = as->pgd;
      unsigned at = 4;
      while (at > level && t[pt_index(a, at)]) t = table_of(t[pt_index(a, at)]), at--;
      u64 *slot = &t[pt_index(a, at)];
      if (at == level && a >= floor && a + span <= ceiling && pte_table(*slot)) {
        gather_range(g, MAX(a, start), PAGE_SIZE);
        gather_add(g, *slot & PTE_ADDR, ITEM_TABLE);
        WRITE_ONCE(*slot, 0);
        as->pt_pages--;
      }
      spin_unlock(&as->pt_lock);
      u64 skip = 1ull << (PAGE_SHIFT + 9 * (at - 1));
      a = ALIGN_DOWN(a, skip) + skip;
    }
  }
}

static void destroy_level(struct aspace *as, u64 *t, unsigned level, unsigned n) { // depth: 4
  for (unsigned i = 0; i < n; i++) {
    u64 e = t[i];
    if (!e) continue;
    if (level == 1) {
      if ((e & PTE_ADDR) != zero_page_phys) page_put(pte_page(e));
    } else if (level == 2 && pte_huge(e)) {
      page_huge_put(pte_page(e));
    } else {
      destroy_level(as, table_of(e), level - 1, 512);
      page_put(page_of_phys(e & PTE_ADDR));
    }
    t[i] = 0;
  }
}

void pt_destroy(struct aspace *as) { destroy_level(as, as->pgd, 4, 256); }

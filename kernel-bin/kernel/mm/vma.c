// SPDX-License-Identifier: Apache-2.0
//
// The tree of areas of an address space: find, insert, split, merge, and free gaps. No page tables here. Callers hold
// aspace->sem for write (vma_find: read). An area that maps an object changes its borders under the object's lock too.
#include "mm/internal.h"

static struct kmem_cache *vma_cache;

void vma_init(void) {
  vma_cache = kmem_cache_create("vma", sizeof(struct vma), 8);
  if (!vma_cache) panic("no memory for areas");
}

struct vma *vma_alloc(void) {
  struct vma *v = kmem_cache_alloc(vma_cache);
  if (!v) return NULL;
  memset(v, 0, sizeof(*v));
  list_init(&v->obj_link);
  return v;
}

void vma_free(struct vma *v) { kmem_cache_free(vma_cache, v); }

struct vma *vma_find(struct aspace *as, uptr addr) {
  struct vma *best = NULL;
  for (struct rb_node *n = as->areas.node; n;) {
    struct vma *v = rb_entry(n, struct vma, node);
    if (v->end > addr) {
      best = v;
      if (v->start <= addr) break;
      n = n->left;
    } else {
      n = n->right;
    }
  }
  return best;
}

void vma_count(struct aspace *as, const struct vma *v, s64 pages) {
  as->total_pages += (u64)pages;
  if (v->flags & (VMA_GROWSDOWN | VMA_STACK)) as->stack_pages += (u64)pages;
  else if ((v->flags & (VMA_WRITE | VMA_SHARED)) == VMA_WRITE) as->data_pages += (u64)pages;
  if (v->flags & VMA_LOCKED) as->locked_pages += (u64)pages;
}

static s64 vma_pages(const struct vma *v) { return (s64)((v->end - v->start) >> PAGE_SHIFT); }

void vma_set_flags(struct vma *v, u32 flags) {
  vma_count(v->as, v, -vma_pages(v));
  v->flags = flags;
  vma_count(v->as, v, vma_pages(v));
}

static void tree_insert(struct aspace *as, struct vma *v) {
  struct rb_node **link = &as->areas.node, *parent = NULL;
  while (*link) {
    parent = *link;
    struct vma *at = rb_entry(parent, struct vma, node);
    ASSERT(v->end <= at->start || v->start >= at->end);
    link = v->start < at->start ? &parent->left : &parent->right;
  }
  rb_insert(&as->areas, &v->node, parent, link);
  as->area_count++;
}

void vma_link(struct aspace *as, struct vma *v) {
  v->as = as;
  tree_insert(as, v);
  vma_count(as, v, vma_pages(v));
  if (v->obj) {
    spin_lock(&v->obj->lock);
    list_push_back(&v->obj->areas, &v->obj_link);
    spin_unlock(&v->obj->lock);
  }
}

void vma_unlink(struct aspace *as, struct vma *v) {
  if (v->obj) {
    spin_lock(&v->obj->lock);
    list_remove(&v->obj_link);
    spin_unlock(&v->obj->lock);
  }
  rb_erase(&as->areas, &v->node);
  as->area_count--;
  vma_count(as, v, -vma_pages(v));
  if (v->end > as->gap_hint) as->gap_len = ~0ull; // a gap appears above the hint: search from the top
}

// The tree's order does not change: callers keep areas apart.
void vma_resize(struct vma *v, uptr start, uptr end) {
  vma_count(v->as, v, -vma_pages(v));
  if (v->obj) spin_lock(&v->obj->lock);
  v->pgoff += ((s64)(start - v->start)) >> PAGE_SHIFT;
  if (v->end > end && v->end > v->as->gap_hint) v->as->gap_len = ~0ull;
  if (start > v->start && start > v->as->gap_hint) v->as->gap_len = ~0ull;
  v->start = start;
  v->end = end;
  if (v->obj) spin_unlock(&v->obj->lock);
  vma_count(v->as, v, vma_pages(v));
}

int vma_split(struct vma *v, uptr addr) {
  ASSERT(addr > v->start && addr < v->end);
  struct aspace *as = v->as;
  if (as->area_count >= VMA_COUNT_MAX) return -ENOMEM;
  struct vma *upper = vma_alloc();
  if (!upper) return -ENOMEM;
  upper->start = addr;
  upper->end = v->end;
  upper->flags = v->flags;
  upper->pgoff = v->pgoff + ((addr - v->start) >> PAGE_SHIFT);
  upper->as = as;
  if (v->obj) upper->obj = memobj_get(v->obj);
  if (v->file) mm_hooks.file_get(upper->file = v->file);
  // One step for memobj_unmap: at no time is a page of the object mapped by an address that no area covers.
  if (v->obj) {
    spin_lock(&v->obj->lock);
    list_push_back(&v->obj->areas, &upper->obj_link);
  }
  v->end = addr;
  if (v->obj) spin_unlock(&v->obj->lock);
  tree_insert(as, upper); // the sum of the counts stays
  return 0;
}

static bool can_merge(const struct vma *a, const struct vma *b) {
  if (a->end != b->start || a->flags != b->flags || a->obj != b->obj || a->file != b->file) return false;
  return !a->obj || a->pgoff + ((a->end - a->start) >> PAGE_SHIFT) == b->pgoff;
}

// b's pages become a's. a holds references of its own, so none of these is the last.
static void absorb(struct vma *a, struct vma *b) {
  struct aspace *as = a->as;
  if (a->obj) spin_lock(&a->obj->lock);
  a->end = b->end;
  if (a->obj) {
    list_remove(&b->obj_link);
    spin_unlock(&a->obj->lock);
    memobj_put(b->obj);
  }
  if (b->file) mm_hooks.file_put(b->file);
  rb_erase(&as->areas, &b->node);
  as->area_count--;
  vma_free(b);
}

struct vma *vma_merge(struct vma *v) {
  struct vma *prev = vma_prev(v), *next = vma_next(v);
  if (next && can_merge(v, next)) absorb(v, next);
  if (prev && can_merge(prev, v)) {
    absorb(prev, v);
    v = prev;
  }
  return v;
}

int vma_isolate(struct aspace *as, uptr start, uptr end, struct vma **first) {
  struct vma *v = vma_find(as, start);
  if (v && v->start < start) {
    int err = vma_split(v, start);
    if (err) return err;
    v = vma_next(v);
  }
  struct vma *last = vma_find(as, end);
  if (last && last->start < end) {
    int err = vma_split(last, end);
    if (err) return err; // the split at `start` stays: harmless
  }
  *first = v && v->start < end ? v : NULL;
  return 0;
}

bool vma_range_free(struct aspace *as, uptr start, uptr end) {
  struct vma *v = vma_find(as, start);
  return !v || v->start >= end;
}

// Where the free space below v ends: an area that grows down keeps a guard gap.
static uptr space_end(const struct vma *v) {
  uptr guard = v->flags & VMA_GROWSDOWN ? STACK_GUARD_BYTES : 0;
  return v->start > guard ? v->start - guard : 0;
}

// From the top down. A search that begins at mmap_top remembers where it ended, so that mapping many areas one after the
// other does not walk all of them each time.
uptr vma_find_gap(struct aspace *as, u64 len, u64 align, uptr low, uptr high) {
  bool remember = high == as->mmap_top && align == PAGE_SIZE;
  uptr end = remember && len >= as->gap_len && as->gap_hint > low ? MIN(high, as->gap_hint) : high;
  struct vma *v = end > 0 ? vma_find(as, end - 1) : NULL;
  if (v) end = MIN(end, space_end(v));
  v = v ? vma_prev(v) : (as->areas.node ? rb_entry(rb_last(&as->areas), struct vma, node) : NULL);
  uptr result = 0;
  for (;;) {
    uptr floor = v ? MAX(v->end, low) : low;
    if (end > floor && end - floor >= len) {
      uptr at = ALIGN_DOWN(end - len, align);
      if (at >= floor) {
        result = at;
        break;
      }
    }
    if (!v || v->start <= low) break;
    end = MIN(end, space_end(v));
    v = vma_prev(v);
  }
  if (remember && result) {
    as->gap_hint = result + len;
    as->gap_len = len;
  }
  return result;
}

void vma_release_list(struct list *dead) {
  while (!list_empty(dead)) {
    struct vma *v = list_first_entry(dead, struct vma, obj_link);
    list_remove(&v->obj_link);
    if (v->obj) memobj_put(v->obj);
    if (v->file) mm_hooks.file_put(v->file);
    vma_free(v);
  }
}

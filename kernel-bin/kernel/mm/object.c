// SPDX-License-Identifier: Apache-2.0
//
// Memory objects: shared anonymous memory, and taking an object's pages out of every page table that maps them.
#include "mm/internal.h"

void memobj_init(struct memobj *o, const struct memobj_ops *ops) {
  memset(o, 0, sizeof(*o));
  ref_init(&o->refs);
  o->ops = ops;
  spin_init(&o->lock, RANK_PAGE);
  list_init(&o->areas);
}

void memobj_put(struct memobj *o) {
  if (!ref_put(&o->refs)) return;
  ASSERT(list_empty(&o->areas)); // every area holds a reference
  o->ops->release(o);
}

void memobj_unmap(struct memobj *o, u64 first, u64 n, bool protect_only) {
  u64 end = first + n < first ? ~0ull : first + n;
  struct gather g;
  struct vma *v;
  gather_begin(&g, NULL);
  // An area in the list keeps its address space and its tables alive: both go only after the area left the list, for
  // which this lock is needed.
  spin_lock(&o->lock);
  list_for_each(v, &o->areas, obj_link) {
    u64 lo = MAX(first, v->pgoff), hi = MIN(end, v->pgoff + ((v->end - v->start) >> PAGE_SHIFT));
    if (lo >= hi) continue;
    uptr from = v->start + ((lo - v->pgoff) << PAGE_SHIFT), to = v->start + ((hi - v->pgoff) << PAGE_SHIFT);
    if (g.as != v->as) {
      gather_flush(&g);
      g.as = v->as;
    }
    if (protect_only) {
      if (v->flags & VMA_SHARED) pt_protect_object(&g, from, to);
    } else {
      while (!pt_zap_object(&g, from, to)) gather_flush(&g);
    }
  }
  gather_flush(&g);
  spin_unlock(&o->lock);
  gather_end(&g);
}

void mm_count_vmas(struct memobj *o, u32 *count) {
  struct vma *v;
  *count = 0;
  spin_lock(&o->lock);
  list_for_each(v, &o->areas, obj_link) ++*count;
  spin_unlock(&o->lock);
}

// --- shared anonymous memory: pages appear when first asked for and stay until the object goes or a hole is punched
static struct page *lookup(struct memobj *o, u64 index) {
  struct page *p = radix_get(&o->pages, index);
  return p ? page_get(p) : NULL;
}

static int anon_get_page(struct memobj *o, u64 index, bool write, struct page **out) {
  spin_lock(&o->lock);
  *out = lookup(o, index);
  spin_unlock(&o->lock);
  if (*out) return 0;
  struct page *p = page_alloc(0, ALLOC_ZERO | ALLOC_USER);
  if (!p) return -ENOMEM;
  p->cache.obj = o;
  p->cache.index = index;
  spin_lock(&o->lock);
  *out = lookup(o, index);
  int err = 0;
  if (!*out) {
    err = radix_insert(&o->pages, index, p);
    if (!err) *out = page_get(p); // one reference is the tree's
  }
  spin_unlock(&o->lock);
  if (err || *out != p) page_put(p);
  return err;
}

static void anon_peek_pages(struct memobj *o, u64 index, unsigned n, struct page **out) {
  spin_lock(&o->lock);
  for (unsigned i = 0; i < n; i++) out[i] = lookup(o, index + i);
  spin_unlock(&o->lock);
}

static void anon_drop(struct memobj *o, u64 first, u64 end) {
  for (u64 at = first;;) {
    spin_lock(&o->lock);
    struct page *p = radix_next(&o->pages, &at, -1);
    if (p && at < end) {
      radix_remove(&o->pages, at);
      WRITE_ONCE(p->cache.obj, NULL); // faults that have it start over
    }
    spin_unlock(&o->lock);
    if (!p || at >= end) return;
    if (!list_empty(&o->areas)) memobj_unmap(o, at, 1, false); // empty when the object goes
    page_put(p);
    at++;
  }
}

static void anon_release(struct memobj *o) {
  anon_drop(o, 0, ~0ull);
  kfree(o);
}

static const struct memobj_ops anon_ops = { .get_page = anon_get_page, .peek_pages = anon_peek_pages, .release = anon_release };

struct memobj *memobj_create_anon(void) {
  struct memobj *o = kzalloc(sizeof(*o));
  if (o) memobj_init(o, &anon_ops);
  return o;
}

bool memobj_anon_punch(struct memobj *o, u64 first, u64 n) {
  if (o->ops != &anon_ops) return false;
  anon_drop(o, first, first + n);
  return true;
}

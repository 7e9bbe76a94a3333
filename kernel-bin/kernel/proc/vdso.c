// SPDX-License-Identifier: Apache-2.0
//
// The vdso's two pages (data, then code) as an object that every program maps.
#include "proc/procfs.h"
#include "proc/vdso/vdso.h"

extern const u8 vdso_image_start[], vdso_image_end[];
static struct page *pages[2]; // data, code
static struct memobj object;

static int get_page(struct memobj *o, u64 index, bool write, struct page **out) {
  if (index >= ARRAY_SIZE(pages)) return -EFAULT;
  *out = page_get(pages[index]);
  return 0;
}
static void peek_pages(struct memobj *o, u64 index, unsigned n, struct page **out) {
  for (unsigned i = 0; i < n; i++) out[i] = index + i < ARRAY_SIZE(pages) ? page_get(pages[index + i]) : NULL;
}
static void release(struct memobj *o) { panic("the vdso's last reference"); }
static const struct memobj_ops ops = { .get_page = get_page, .peek_pages = peek_pages, .release = release };

void vdso_update(void) {
  static struct spinlock lock = SPINLOCK_INIT(RANK_TIMER);
  struct vdso_data *d = page_virt(pages[0]);
  u64 flags = spin_lock_irqsave(&lock);
  __atomic_store_n(&d->seq, d->seq + 1, __ATOMIC_SEQ_CST);
  d->mult = tsc_scale.mult;
  d->shift = tsc_scale.shift;
  d->base_tsc = tsc_scale.base_tsc;
  d->base_ns = tsc_scale.base_ns;
  d->realtime_offset = time_realtime_offset();
  __atomic_store_n(&d->seq, d->seq + 1, __ATOMIC_SEQ_CST);
  spin_unlock_irqrestore(&lock, flags);
}

void vdso_init(void) {
  size_t n = (size_t)(vdso_image_end - vdso_image_start);
  ASSERT(n <= PAGE_SIZE);
  memobj_init(&object, &ops);
  for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
    pages[i] = page_alloc(0, ALLOC_ZERO);
    if (!pages[i]) panic("no memory for the vdso");
    pages[i]->cache.obj = &object;
    pages[i]->cache.index = i;
  }
  memcpy(page_virt(pages[1]), vdso_image_start, n);
  vdso_update();
}

int vdso_map(struct aspace *as) {
  struct mmap_request rq = { .len = 2 * PAGE_SIZE, .prot = VMA_READ, .flags = 2 /* MAP_PRIVATE */, .obj = &object, .extra_vma_flags = VMA_VDSO };
  long at = mm_mmap(as, &rq);
  if (at < 0) return (int)at;
  as->vdso = (uptr)at + PAGE_SIZE;
  return mm_mprotect(as, as->vdso, PAGE_SIZE, VMA_READ | VMA_EXEC);
}

// SPDX-License-Identifier: Apache-2.0
//
// The shared pool: the only memory that a device, and so the host, can read and write. Handed out in pages; contents
// are zeroed before the device can see them. The bookkeeping is private.
#include "host/internal.h"

#define POOL_MIN (4 * MIB)
#define POOL_MAX (64 * MIB)

static u8 *pool_va;
static phys_t pool_phys;
static u64 pool_pages;
static struct spinlock pool_lock = SPINLOCK_INIT(RANK_PAGEALLOC);
static u64 used[POOL_MAX / PAGE_SIZE / 64];

u64 shared_pool_bytes(u64 ram_bytes) {
  u64 want = ALIGN_DOWN(ram_bytes / 16, HUGE_SIZE);
  return want < POOL_MIN ? POOL_MIN : want > POOL_MAX ? POOL_MAX : want;
}

void shared_pool_init(u8 *va, phys_t phys, u64 len_bytes) {
  ASSERT(len_bytes <= POOL_MAX);
  pool_va = va;
  pool_phys = phys;
  pool_pages = len_bytes / PAGE_SIZE;
}

int shared_alloc(struct shared_buf *b, u32 len_bytes) {
  u64 n = DIV_ROUND_UP((u64)len_bytes, PAGE_SIZE), first = 0, run = 0;
  if (!n || n > pool_pages) return -ENOMEM;
  u64 flags = spin_lock_irqsave(&pool_lock);
  while (run < n) {
    first = bit_find_zero(used, pool_pages, first + run);
    if (first + n > pool_pages) break;
    for (run = 1; run < n && !bit_test(used, first + run); run++) {}
  }
  bool found = run >= n && first + n <= pool_pages;
  for (u64 i = 0; found && i < n; i++) bit_set(used, first + i);
  spin_unlock_irqrestore(&pool_lock, flags);
  if (!found) return -ENOMEM;
  *b = (struct shared_buf){ pool_va + first * PAGE_SIZE, pool_phys + first * PAGE_SIZE, len_bytes };
  memset(b->va, 0, n * PAGE_SIZE);
  return 0;
}

void shared_free(struct shared_buf *b) {
  if (!b->va) return;
  u64 first = (b->phys - pool_phys) / PAGE_SIZE, n = DIV_ROUND_UP((u64)b->len_bytes, PAGE_SIZE);
  u64 flags = spin_lock_irqsave(&pool_lock);
  for (u64 i = 0; i < n; i++) {
    ASSERT(bit_test(used, first + i));
    bit_clear(used, first + i);
  }
  spin_unlock_irqrestore(&pool_lock, flags);
  *b = (struct shared_buf){ 0 };
}

static u8 *inside(const struct shared_buf *b, u32 off, u32 n) {
  ASSERT(off <= b->len_bytes && n <= b->len_bytes - off);
  return b->va + off;
}

void shared_write(const struct shared_buf *b, u32 off, const void *src, u32 n) { memcpy(inside(b, off, n), src, n); }
void shared_read(void *dst, const struct shared_buf *b, u32 off, u32 n) {
  memcpy(dst, inside(b, off, n), n);
  barrier(); // what was copied is what is parsed: the compiler may not look again
}
host_u16 shared_load16(const struct shared_buf *b, u32 off) {
  return (host_u16){ __atomic_load_n((u16 *)(void *)inside(b, off, 2), __ATOMIC_ACQUIRE) };
}
host_u32 shared_load32(const struct shared_buf *b, u32 off) {
  return (host_u32){ __atomic_load_n((u32 *)(void *)inside(b, off, 4), __ATOMIC_ACQUIRE) };
}
void shared_store16(const struct shared_buf *b, u32 off, u16 v) { __atomic_store_n((u16 *)(void *)inside(b, off, 2), v, __ATOMIC_RELEASE); }
void shared_store32(const struct shared_buf *b, u32 off, u32 v) { __atomic_store_n((u32 *)(void *)inside(b, off, 4), v, __ATOMIC_RELEASE); }
void shared_store64(const struct shared_buf *b, u32 off, u64 v) { __atomic_store_n((u64 *)(void *)inside(b, off, 8), v, __ATOMIC_RELEASE); }

// SPDX-License-Identifier: Apache-2.0
//
// The byte ring. Counters run modulo 2^32 and the size is a power of two, so positions are a mask away. An empty ring
// starts over at its first page: a pipe that carries small messages touches one page for ever.
#include "file/bytering.h"

static u32 ring_pages(u64 bytes) { // 0: too large
  if (bytes > BYTERING_MAX_PAGES * PAGE_SIZE) return 0;
  u32 pages = 1;
  while (pages * PAGE_SIZE < bytes) pages *= 2;
  return pages;
}

int bytering_init(struct bytering *r, u64 bytes) {
  *r = (struct bytering){ .npages = ring_pages(bytes) };
  if (!r->npages) return -EINVAL;
  r->pages = kzalloc(r->npages * sizeof(u8 *));
  return r->pages ? 0 : -ENOMEM;
}

void bytering_destroy(struct bytering *r) {
  for (u32 i = 0; r->pages && i < r->npages; i++) kfree(r->pages[i]);
  kfree(r->pages);
  r->pages = NULL;
}

int bytering_resize(struct bytering *r, u64 bytes) {
  u32 used = bytering_used(r), n = ring_pages(bytes);
  if (!n) return -EINVAL;
  if (used > n * PAGE_SIZE) return -EBUSY;
  struct bytering fresh;
  int err = bytering_init(&fresh, bytes);
  if (err) return err;
  // Contents move by copying: rare, and the two rings' page boundaries differ.
  for (u32 done = 0; done < used;) {
    u32 page = done >> PAGE_SHIFT;
    u32 len = MIN(used - done, (u32)PAGE_SIZE);
    bool fault = false;
    struct iter it;
    if (!(fresh.pages[page] = kmalloc(PAGE_SIZE, 0))) {
      bytering_destroy(&fresh);
      return -ENOMEM;
    }
    iter_kernel(&it, fresh.pages[page], len);
    bytering_peek(r, done, &it, len, &fault);
    done += len;
  }
  bytering_destroy(r);
  r->pages = fresh.pages;
  WRITE_ONCE(r->npages, n);
  WRITE_ONCE(r->both, (u64)used << 32);
  return 0;
}

size_t bytering_put(struct bytering *r, struct iter *it, size_t n, bool *fault) {
  u32 tail = r->tail;
  n = MIN(n, (size_t)(bytering_size(r) - (tail - r->head)));
  n = MIN(n, it->left);
  size_t done = 0;
  while (done < n) {
    u32 pos = tail & (bytering_size(r) - 1), off = pos & (u32)(PAGE_SIZE - 1);
    u8 **page = &r->pages[pos >> PAGE_SHIFT];
    if (unlikely(!*page) && !(*page = kmalloc(PAGE_SIZE, 0))) break;
    size_t piece = MIN(n - done, (size_t)PAGE_SIZE - off);
    size_t moved = iter_from(it, *page + off, piece);
    done += moved;
    tail += (u32)moved;
    if (unlikely(moved < piece)) {
      *fault = true;
      break;
    }
  }
  WRITE_ONCE(r->tail, tail);
  return done;
}

size_t bytering_peek(struct bytering *r, size_t skip, struct iter *it, size_t n, bool *fault) {
  u32 used = r->tail - r->head;
  if (skip >= used) return 0;
  n = MIN(n, (size_t)used - skip);
  n = MIN(n, it->left);
  u32 head = r->head + (u32)skip;
  size_t done = 0;
  while (done < n) {
    u32 pos = head & (bytering_size(r) - 1), off = pos & (u32)(PAGE_SIZE - 1);
    size_t piece = MIN(n - done, (size_t)PAGE_SIZE - off);
    size_t moved = iter_to(it, r->pages[pos >> PAGE_SHIFT] + off, piece);
    done += moved;
    head += (u32)moved;
    if (unlikely(moved < piece)) {
      *fault = true;
      break;
    }
  }
  return done;
}

void bytering_skip(struct bytering *r, size_t n) {
  u32 head = r->head + (u32)n;
  WRITE_ONCE(r->both, head == r->tail ? 0 : (u64)r->tail << 32 | head);
}

size_t bytering_get(struct bytering *r, struct iter *it, size_t n, bool *fault) {
  size_t done = bytering_peek(r, 0, it, n, fault);
  bytering_skip(r, done);
  return done;
}

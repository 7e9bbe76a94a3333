// SPDX-License-Identifier: Apache-2.0
//
// A queue of bytes over pages that are taken when first written (pipes, AF_UNIX streams). It has no lock: its owner's
// mutex is held around everything but bytering_used and bytering_space, which poll reads without it: the answer may be
// old, and whoever makes it old wakes the poller.
#ifndef FILE_BYTERING_H
#define FILE_BYTERING_H
#include "file/file.h"

#define BYTERING_MAX_PAGES 256u // 1 MiB
struct bytering {
  u8 **pages;
  u32 npages;     // a power of two
  union { // one word, so that a reader without the lock sees a pair that belongs together
    struct { u32 head, tail; }; // bytes taken out and put in, modulo 2^32
    u64 both;
  };
};
int __must_check bytering_init(struct bytering *r, u64 bytes);   // rounded up to a power of two of pages; -EINVAL, -ENOMEM
void bytering_destroy(struct bytering *r);
int __must_check bytering_resize(struct bytering *r, u64 bytes); // -EBUSY: holds more; -EINVAL, -ENOMEM
static inline u32 bytering_size(const struct bytering *r) { return READ_ONCE(r->npages) << PAGE_SHIFT; }
static inline u32 bytering_used(const struct bytering *r) {
  u64 both = READ_ONCE(r->both);
  return (u32)(both >> 32) - (u32)both;
}
static inline u32 bytering_space(const struct bytering *r) { return bytering_size(r) - bytering_used(r); }
// Bytes moved: less than asked when the ring is full or empty, the iter ends, or a user page is bad (then *fault is set)
// or there is no memory for a page (then it stops as if full).
size_t bytering_put(struct bytering *r, struct iter *it, size_t n, bool *fault);
size_t bytering_get(struct bytering *r, struct iter *it, size_t n, bool *fault);
size_t bytering_peek(struct bytering *r, size_t skip, struct iter *it, size_t n, bool *fault); // leaves them there
void bytering_skip(struct bytering *r, size_t n);
#endif

// SPDX-License-Identifier: Apache-2.0
//
// Copying between kernel memory and what a program (or the kernel itself) gave as source or destination. User memory may
// fault and sleep: no spinlock is held around these. `left` never exceeds what the segments hold, so walking them while
// left > 0 stays inside the array.
#include "file/file.h"

void iter_iov(struct iter *it, const struct iovec *iov, unsigned nr) {
  u64 left = 0;
  for (unsigned i = 0; i < nr; i++) left += iov[i].len;
  *it = (struct iter){ .user = true, .iov = iov, .nr = nr, .left = left };
}

// Length of the piece of the current segment to do next, at most n > 0; steps over empty segments.
static inline size_t iter_piece(struct iter *it, size_t n) {
  while (it->off == it->iov->len) {
    it->iov++;
    it->nr--;
    it->off = 0;
  }
  return MIN(n, it->iov->len - it->off);
}

static inline void iter_advance(struct iter *it, size_t n) {
  it->off += n;
  it->left -= n;
}

size_t iter_to(struct iter *it, const void *src, size_t n) {
  n = MIN(n, it->left);
  if (unlikely(!n)) return 0;
  if (likely(it->user && it->off + n <= it->iov->len)) { // in one segment: almost always
    size_t good = n - copy_to_user_partial(it->iov->base + it->off, src, n);
    iter_advance(it, good);
    return good;
  }
  if (!it->user) {
    memcpy(it->kbuf, src, n);
    it->kbuf += n;
    it->left -= n;
    return n;
  }
  size_t done = 0;
  while (done < n) {
    size_t piece = iter_piece(it, n - done);
    size_t bad = copy_to_user_partial(it->iov->base + it->off, (const u8 *)src + done, piece);
    iter_advance(it, piece - bad);
    done += piece - bad;
    if (unlikely(bad)) break;
  }
  return done;
}

size_t iter_from(struct iter *it, void *dst, size_t n) {
  n = MIN(n, it->left);
  if (unlikely(!n)) return 0;
  if (likely(it->user && it->off + n <= it->iov->len)) {
    size_t good = n - copy_from_user_partial(dst, it->iov->base + it->off, n);
    iter_advance(it, good);
    return good;
  }
  if (!it->user) {
    memcpy(dst, it->kbuf, n);
    it->kbuf += n;
    it->left -= n;
    return n;
  }
  size_t done = 0;
  while (done < n) {
    size_t piece = iter_piece(it, n - done);
    size_t bad = copy_from_user_partial((u8 *)dst + done, it->iov->base + it->off, piece);
    iter_advance(it, piece - bad);
    done += piece - bad;
    if (unlikely(bad)) break;
  }
  return done;
}

size_t iter_zero(struct iter *it, size_t n) {
  n = MIN(n, it->left);
  if (!it->user) {
    memset(it->kbuf, 0, n);
    it->kbuf += n;
    it->left -= n;
    return n;
  }
  size_t done = 0;
  while (done < n) {
    size_t piece = iter_piece(it, n - done);
    if (clear_user(it->iov->base + it->off, piece)) break;
    iter_advance(it, piece);
    done += piece;
  }
  return done;
}

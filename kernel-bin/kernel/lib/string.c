// SPDX-License-Identifier: Apache-2.0
//
// Memory and strings. The loops move 8 bytes at a time, unrolled: under software emulation that is several times
// faster than `rep movsb`, and on real CPUs it is close to it.
#include "lib/lib.h"

// The compiler must not turn these loops back into calls of themselves.
#pragma GCC optimize("no-tree-loop-distribute-patterns")

typedef u64 __attribute__((may_alias, aligned(1))) word;

void *memcpy(void *restrict dst, const void *restrict src, size_t n) {
  u8 *d = dst;
  const u8 *s = src;
  for (; n >= 64; n -= 64, d += 64, s += 64) {
    word *dw = (word *)d;
    const word *sw = (const word *)s;
    u64 a = sw[0], b = sw[1], c = sw[2], e = sw[3];
    dw[0] = a; dw[1] = b; dw[2] = c; dw[3] = e;
    a = sw[4]; b = sw[5]; c = sw[6]; e = sw[7];
    dw[4] = a; dw[5] = b; dw[6] = c; dw[7] = e;
  }
  for (; n >= 8; n -= 8, d += 8, s += 8) *(word *)d = *(const word *)s;
  while (n--) *d++ = *s++;
  return dst;
}

void *memmove(void *dst, const void *src, size_t n) {
  u8 *d = dst;
  const u8 *s = src;
  if ((uintptr_t)d - (uintptr_t)s >= n) { // dst below src, or no overlap: forwards, each word read before it is written
    for (; n >= 8; n -= 8, d += 8, s += 8) *(word *)d = *(const word *)s;
    while (n--) *d++ = *s++;
    return dst;
  }
  for (; n >= 8; n -= 8) *(word *)(d + n - 8) = *(const word *)(s + n - 8);
  while (n--) d[n] = s[n];
  return dst;
}

void *memset(void *dst, int c, size_t n) {
  u8 *d = dst;
  u64 v = 0x0101010101010101ull * (u8)c;
  for (; n >= 64; n -= 64, d += 64) {
    word *w = (word *)d;
    w[0] = v; w[1] = v; w[2] = v; w[3] = v; w[4] = v; w[5] = v; w[6] = v; w[7] = v;
  }
  for (; n >= 8; n -= 8, d += 8) *(word *)d = v;
  while (n--) *d++ = (u8)c;
  return dst;
}

int memcmp(const void *a, const void *b, size_t n) {
  const u8 *p = a, *q = b;
  for (; n >= 8 && *(const word *)p == *(const word *)q; n -= 8) p += 8, q += 8;
  for (; n; n--, p++, q++)
    if (*p != *q) return *p - *q;
  return 0;
}

void *memchr(const void *s, int c, size_t n) {
  for (const u8 *p = s; n--; p++)
    if (*p == (u8)c) return (void *)(uintptr_t)p;
  return NULL;
}

size_t strlen(const char *s) {
  const char *p = s;
  while (*p) p++;
  return (size_t)(p - s);
}

size_t strnlen(const char *s, size_t max) {
  size_t n = 0;
  while (n < max && s[n]) n++;
  return n;
}

int strcmp(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return (u8)*a - (u8)*b;
}

int strncmp(const char *a, const char *b, size_t n) {
  for (; n && *a && *a == *b; n--) a++, b++;
  return n ? (u8)*a - (u8)*b : 0;
}

char *strchr(const char *s, int c) {
  for (;; s++) {
    if (*s == (char)c) return (char *)(uintptr_t)s;
    if (!*s) return NULL;
  }
}

char *strrchr(const char *s, int c) {
  const char *last = NULL;
  for (;; s++) {
    if (*s == (char)c) last = s;
    if (!*s) return (char *)(uintptr_t)last;
  }
}

char *strstr(const char *s, const char *t) {
  size_t n = strlen(t);
  for (;; s++) {
    if (!strncmp(s, t, n)) return (char *)(uintptr_t)s;
    if (!*s) return NULL;
  }
}

size_t strlcpy(char *dst, const char *src, size_t size) {
  size_t n = strlen(src);
  if (size) {
    size_t k = n < size - 1 ? n : size - 1;
    memcpy(dst, src, k);
    dst[k] = 0;
  }
  return n;
}

void memzero_secret(void *p, size_t n) {
  memset(p, 0, n);
  __asm__ volatile("" ::"r"(p) : "memory");
}

bool mem_equal_const_time(const void *a, const void *b, size_t n) {
  const u8 *p = a, *q = b;
  u8 diff = 0;
  while (n--) diff = (u8)(diff | (*p++ ^ *q++));
  return diff == 0;
}

size_t bit_find_zero(const u64 *map, size_t nbits, size_t from) {
  for (size_t i = from; i < nbits;) {
    u64 zeros = ~map[i / 64] >> (i % 64);
    if (zeros) {
      i += (size_t)__builtin_ctzll(zeros);
      return i < nbits ? i : nbits;
    }
    i = (i / 64 + 1) * 64;
  }
  return nbits;
}

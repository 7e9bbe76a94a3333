// SPDX-License-Identifier: Apache-2.0
//
// A reader for deterministic CBOR (RFC 8949, 4.2.1) that takes hostile input: shortest integers, definite lengths, text
// keys in ascending order of their encoding (shorter first, then bytewise), valid UTF-8, no floats, no tags, no other
// simple values than false, true and null. Every function either consumes one item completely or returns -EINVAL with
// the reader where the item began.
#include "lib/lib.h"

#define MAX_DEPTH 64 // of nested arrays and maps, for cbor_skip's recursion

enum { MAJOR_UINT, MAJOR_NINT, MAJOR_BYTES, MAJOR_TEXT, MAJOR_ARRAY, MAJOR_MAP, MAJOR_TAG, MAJOR_SIMPLE };

void cbor_init(struct cbor *c, const void *data, size_t len) { *c = (struct cbor){ data, (const u8 *)data + len, 0 }; }

static size_t left(const struct cbor *c) { return (size_t)(c->end - c->p); }

enum cbor_type cbor_peek(const struct cbor *c) {
  if (!left(c)) return CBOR_BAD;
  switch (*c->p >> 5) {
    case MAJOR_UINT: return CBOR_UINT;
    case MAJOR_NINT: return CBOR_NINT;
    case MAJOR_BYTES: return CBOR_BYTES;
    case MAJOR_TEXT: return CBOR_TEXT;
    case MAJOR_ARRAY: return CBOR_ARRAY;
    case MAJOR_MAP: return CBOR_MAP;
    case MAJOR_SIMPLE:
      if (*c->p == 0xf4 || *c->p == 0xf5) return CBOR_BOOL;
      if (*c->p == 0xf6) return CBOR_NULL;
  }
  return CBOR_BAD;
}

// Head of an item: major type and argument, in the shortest form only. Advances `c` past it.
static int head(struct cbor *c, unsigned *major, u64 *arg) {
  if (!left(c)) return -EINVAL;
  u8 first = *c->p, low = first & 31;
  *major = first >> 5;
  if (low < 24) {
    *arg = low;
    c->p++;
    return 0;
  }
  if (low > 27) return -EINVAL; // reserved, or indefinite length
  size_t n = (size_t)1 << (low - 24);
  if (left(c) < 1 + n) return -EINVAL;
  u64 v = 0;
  for (size_t i = 0; i < n; i++) v = v << 8 | c->p[1 + i];
  if (v < 24 || (n > 1 && v >> (n * 4) == 0)) return -EINVAL; // a shorter form exists
  *arg = v;
  c->p += 1 + n;
  return 0;
}

static int head_of(struct cbor *c, unsigned want, u64 *arg) {
  struct cbor at = *c;
  unsigned major;
  int err = head(&at, &major, arg);
  if (err || major != want) return -EINVAL;
  *c = at;
  return 0;
}

int cbor_uint(struct cbor *c, u64 *out) { return head_of(c, MAJOR_UINT, out); }

int cbor_int(struct cbor *c, s64 *out) {
  struct cbor at = *c;
  unsigned major;
  u64 v;
  int err = head(&at, &major, &v);
  if (err || major > MAJOR_NINT || v > INT64_MAX) return -EINVAL;
  *out = major == MAJOR_NINT ? -1 - (s64)v : (s64)v;
  *c = at;
  return 0;
}

int cbor_bool(struct cbor *c, bool *out) {
  if (cbor_peek(c) != CBOR_BOOL) return -EINVAL;
  *out = *c->p++ == 0xf5;
  return 0;
}

static int string(struct cbor *c, unsigned major, const u8 **out, size_t *len) {
  struct cbor at = *c;
  u64 n;
  if (head_of(&at, major, &n) || n > left(&at)) return -EINVAL;
  *out = at.p;
  *len = (size_t)n;
  at.p += n;
  *c = at;
  return 0;
}

int cbor_bytes(struct cbor *c, const u8 **out, size_t *len) { return string(c, MAJOR_BYTES, out, len); }

// Unicode 15, table 3-7: well-formed UTF-8 (no surrogates, nothing overlong, nothing above U+10FFFF).
static bool utf8_ok(const u8 *p, size_t n) {
  while (n) {
    u8 a = *p;
    if (a < 0x80) {
      p++, n--;
      continue;
    }
    size_t more = a >= 0xc2 && a <= 0xdf ? 1 : (a & 0xf0) == 0xe0 ? 2 : a >= 0xf0 && a <= 0xf4 ? 3 : 0;
    if (!more || n <= more) return false;
    u8 lo = a == 0xe0 ? 0xa0 : a == 0xf0 ? 0x90 : 0x80, hi = a == 0xed ? 0x9f : a == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < lo || p[1] > hi) return false;
    for (size_t i = 2; i <= more; i++)
      if ((p[i] & 0xc0) != 0x80) return false;
    p += more + 1;
    n -= more + 1;
  }
  return true;
}

int cbor_text(struct cbor *c, const char **out, size_t *len) {
  struct cbor at = *c;
  const u8 *p;
  if (string(&at, MAJOR_TEXT, &p, len) || !utf8_ok(p, *len)) return -EINVAL;
  *out = (const char *)p;
  *c = at;
  return 0;
}

// A count that cannot fit in what is left is refused here, so that callers may allocate by it.
static int container(struct cbor *c, unsigned major, unsigned bytes_per_entry, size_t *n) {
  struct cbor at = *c;
  u64 v;
  if (head_of(&at, major, &v) || v > left(&at) / bytes_per_entry) return -EINVAL;
  *n = (size_t)v;
  *c = at;
  return 0;
}

int cbor_array(struct cbor *c, size_t *n) { return container(c, MAJOR_ARRAY, 1, n); }
int cbor_map(struct cbor *c, size_t *n) { return container(c, MAJOR_MAP, 2, n); }

int cbor_key(struct cbor *c, struct cbor_key *prev, struct cbor_key *out) {
  struct cbor at = *c;
  struct cbor_key k;
  if (cbor_text(&at, &k.text, &k.len)) return -EINVAL;
  // Both encoded in shortest form: the head, and with it the length, decides first.
  if (prev->text && (k.len < prev->len || (k.len == prev->len && memcmp(k.text, prev->text, k.len) <= 0))) return -EINVAL;
  *prev = *out = k;
  *c = at;
  return 0;
}

bool cbor_key_is(const struct cbor_key *k, const char *name) { return k->len == strlen(name) && memcmp(k->text, name, k->len) == 0; }

static int skip(struct cbor *c) {
  const u8 *bytes;
  const char *text;
  size_t n, len;
  u64 v;
  bool b;
  switch (cbor_peek(c)) {
    case CBOR_UINT: return cbor_uint(c, &v);
    case CBOR_NINT: return head_of(c, MAJOR_NINT, &v);
    case CBOR_BYTES: return cbor_bytes(c, &bytes, &len);
    case CBOR_TEXT: return cbor_text(c, &text, &len);
    case CBOR_BOOL: return cbor_bool(c, &b);
    case CBOR_NULL: c->p++; return 0;
    case CBOR_ARRAY:
      if (c->depth >= MAX_DEPTH || cbor_array(c, &n)) return -EINVAL;
      c->depth++;
      while (n--)
        if (skip(c)) return -EINVAL;
      c->depth--;
      return 0;
    case CBOR_MAP: {
      struct cbor_key prev = { 0 }, key;
      if (c->depth >= MAX_DEPTH || cbor_map(c, &n)) return -EINVAL;
      c->depth++;
      while (n--)
        if (cbor_key(c, &prev, &key) || skip(c)) return -EINVAL;
      c->depth--;
      return 0;
    }
    default: return -EINVAL;
  }
}

int cbor_skip(struct cbor *c) {
  struct cbor at = *c;
  if (skip(&at)) return -EINVAL;
  *c = at;
  return 0;
}

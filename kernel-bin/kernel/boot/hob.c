// SPDX-License-Identifier: Apache-2.0
//
// The TD HOB (UEFI PI 1.8 volume 3, chapter 5; facts of two hosts in docs/measurement.md): a hand-off block with the
// version, resource descriptors, an end. The page is private memory, so it does not change while it is read, but what is
// in it is the host's choice and not measured: every byte is hostile. Nothing of it is kept: memory is laid out by the
// measured `vm`, and the list has to agree with that (threat-model T18).
#include "boot/hob.h"

#define HOB_HANDOFF 1
#define HOB_RESOURCE 3
#define HOB_END 0xffff
#define HANDOFF_BYTES 56u
#define RESOURCE_BYTES 48u
#define HEAD_BYTES 8u
#define HANDOFF_VERSION 9
#define RESOURCE_RAM 0
#define RESOURCE_UNACCEPTED 7
#define MAX_RANGES 32 // a host lists a handful: each piece of low memory, the rest, memory above 4 GiB

struct head { u16 type, length; u32 reserved; };
struct resource { struct head head; u8 owner[16]; u32 type, attributes; u64 start, length; };
_Static_assert(sizeof(struct head) == HEAD_BYTES && sizeof(struct resource) == RESOURCE_BYTES, "PI 1.8, 5.2");

struct ranges { struct hob_range r[MAX_RANGES]; unsigned n; };

// Keeps them sorted. False: no room, or an overlap.
static bool ranges_add(struct ranges *l, u64 start, u64 end) {
  if (l->n == MAX_RANGES) return false;
  unsigned at = l->n;
  while (at > 0 && l->r[at - 1].start > start) at--;
  if (at > 0 && l->r[at - 1].end > start) return false;
  if (at < l->n && l->r[at].start < end) return false;
  for (unsigned i = l->n; i > at; i--) l->r[i] = l->r[i - 1];
  l->r[at] = (struct hob_range){ start, end };
  l->n++;
  return true;
}

static void ranges_merge(struct ranges *l) {
  unsigned n = 0;
  for (unsigned i = 0; i < l->n; i++) {
    if (n && l->r[n - 1].end == l->r[i].start) l->r[n - 1].end = l->r[i].end;
    else l->r[n++] = l->r[i];
  }
  l->n = n;
}

static int compare(const struct ranges *l, const struct hob_range *expected, unsigned n, char *why, size_t size) {
  unsigned at = 0;
  for (unsigned i = 0; i < n; i++) {
    if (expected[i].start == expected[i].end) continue;
    struct hob_range got = at < l->n ? l->r[at] : (struct hob_range){ 0, 0 };
    if (got.start != expected[i].start || got.end != expected[i].end) {
      snprintf(why, size, "memory %#lx..%#lx is measured, the host gives %#lx..%#lx", expected[i].start, expected[i].end,
        got.start, got.end);
      return -EINVAL;
    }
    at++;
  }
  if (at == l->n) return 0;
  snprintf(why, size, "the host gives memory %#lx..%#lx, which is not measured", l->r[at].start, l->r[at].end);
  return -EINVAL;
}

static int fail(char *why, size_t size, size_t at, const char *what) {
  snprintf(why, size, "TD HOB at byte %zu: %s", at, what);
  return -EINVAL;
}

int hob_check(const void *hob, size_t len, const struct hob_range *expected, unsigned n, u64 image_start, char *why,
              size_t why_size) {
  struct ranges found = { .n = 0 };
  size_t at = 0;
  for (;;) {
    struct head h;
    if (len - at < sizeof(h)) return fail(why, why_size, at, "no end of the list");
    memcpy(&h, (const u8 *)hob + at, sizeof(h));
    if (h.length < sizeof(h) || h.length % 8 || h.length > len - at) return fail(why, why_size, at, "wrong length");
    if ((h.type == HOB_HANDOFF) != (at == 0)) return fail(why, why_size, at, "the hand-off block is first, once");
    if (h.type == HOB_END) break;
    if (h.type == HOB_HANDOFF) {
      u32 version;
      if (h.length != HANDOFF_BYTES) return fail(why, why_size, at, "wrong length of the hand-off block");
      memcpy(&version, (const u8 *)hob + at + HEAD_BYTES, sizeof(version));
      if (version != HANDOFF_VERSION) return fail(why, why_size, at, "unknown version");
    } else if (h.type == HOB_RESOURCE) {
      struct resource r;
      if (h.length != sizeof(r)) return fail(why, why_size, at, "wrong length of a resource");
      memcpy(&r, (const u8 *)hob + at, sizeof(r));
      if (r.length == 0 || r.start % 4096 || r.length % 4096 || r.length > ~0ul - r.start)
        return fail(why, why_size, at, "not a range of memory");
      bool memory = r.type == RESOURCE_RAM || r.type == RESOURCE_UNACCEPTED;
      bool image = r.start >= image_start && r.start + r.length <= 4 * GIB;
      if (memory && !image && !ranges_add(&found, r.start, r.start + r.length))
        return fail(why, why_size, at, "ranges that overlap, or too many");
    } // anything else says nothing about memory: device windows, vendors' tables
    at += h.length;
  }
  ranges_merge(&found);
  return compare(&found, expected, n, why, why_size);
}

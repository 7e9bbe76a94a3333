// SPDX-License-Identifier: Apache-2.0
//
// verify, private to the fs room: what a trusted file's bytes must be (threat-model T7; docs/launch-record.md, "Hash tree
// of a trusted file"). With a tree root in the policy, a leaf is checked by its digest, and the list of digests by the
// root. Without one, the file is hashed whole once; the values that SHA-256 chains from block to block are kept for every
// 16 KiB, so that a leaf can be checked again later by hashing only that leaf: from the value before it to the value
// after it. (Bytes that lead from one to the other and differ from those seen would be a second preimage.)
#ifndef FS_VERIFY_H
#define FS_VERIFY_H
#include "attest/attest.h"

#define LEAF_BYTES 16384u
#define LEAF_PAGES 4u

struct verify {
  const struct trusted_node *node;
  u64 size;
  u64 leaf_count;
  bool chained;             // digests are chaining values after each leaf but the last
  const u8 (*digests)[32];
};
// A pass over the whole file, in order.
struct verify_build {
  const struct trusted_node *node;
  struct sha256 s;          // of the file (chained) or of the current leaf
  u64 size;                 // so far
  u64 max_bytes;            // more is not this file
  u8 (*digests)[32];
  u64 count, cap;
};

// From the policy and the host's hint alone: true when v is ready, without reading the file.
bool verify_from_hint(struct verify *v, const struct trusted_node *node);
void verify_build_begin(struct verify_build *b, const struct trusted_node *node);
int __must_check verify_build_add(struct verify_build *b, const void *data, size_t n); // -EACCES: too long; -ENOMEM
// 0: the file is the policy's, and v is ready (b's memory is v's now). -EACCES: it is not. b is over in both cases.
int __must_check verify_build_end(struct verify_build *b, struct verify *v);
void verify_build_abort(struct verify_build *b);
// Bytes of leaf `leaf` that belong to the file.
static inline u32 verify_leaf_bytes(const struct verify *v, u64 leaf) {
  return (u32)MIN(v->size - leaf * LEAF_BYTES, (u64)LEAF_BYTES);
}
bool verify_leaf(const struct verify *v, u64 leaf, const u8 *const pages[LEAF_PAGES]); // in 4 KiB pieces
bool verify_tree_root(const u8 (*leaves)[32], u64 count, u64 size, u8 root[32]);       // false: no memory
#endif

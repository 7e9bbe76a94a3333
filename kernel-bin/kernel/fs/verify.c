// SPDX-License-Identifier: Apache-2.0
//
// Hash trees and chains of trusted files. Pure computing on private memory: no locks, no files. See verify.h.

#include "fs/verify.h"

#define FAN_OUT 512u
#define DIGESTS_MAX (4 * MIB / 32) // what kmalloc gives: files of 2 GiB without a usable leaf list

bool verify_tree_root(const u8 (*leaves)[32], u64 count, u64 size, u8 root[32]) {
  u8(*scratch)[32] = NULL;
  u8 top[32];
  if (count == 1) {
    memcpy(top, leaves[0], 32);
  } else {
    scratch = kmalloc(DIV_ROUND_UP(count, FAN_OUT) * 32, 0);
    if (!scratch) return false;
    // The first level reads the leaves; the others shrink the scratch in place: group i is read before slot i is written.
    const u8(*from)[32] = leaves;
    while (count > 1) {
      u64 groups = DIV_ROUND_UP(count, FAN_OUT);
      for (u64 i = 0; i < groups; i++)
        sha256_hash(from[i * FAN_OUT], MIN(count - i * FAN_OUT, (u64)FAN_OUT) * 32, scratch[i]);
      from = (const u8(*)[32])scratch;
      count = groups;
    }
    memcpy(top, scratch[0], 32);
    kfree(scratch);
  }
  u8 size_le[8];
  for (unsigned i = 0; i < 8; i++) size_le[i] = (u8)(size >> (8 * i));
  struct sha256 s;
  sha256_init(&s);
  sha256_update(&s, "gtdx-tree-v1", 12);
  sha256_update(&s, size_le, sizeof(size_le));
  sha256_update(&s, top, sizeof(top));
  sha256_final(&s, root);
  return true;
}

static u64 leaves_of(u64 size) { return size ? DIV_ROUND_UP(size, LEAF_BYTES) : 1; }

bool verify_from_hint(struct verify *v, const struct trusted_node *node) {
  u8 root[32];
  if (!node->has_meta) return false;
  const u8(*leaves)[32] = (const u8(*)[32])node->leaves;
  u8 empty[1][32];
  if (!node->size) { // the hash of nothing needs no hint
    sha256_hash("", 0, empty[0]);
    leaves = (const u8(*)[32])empty;
  } else if (!leaves || node->leaf_count != leaves_of(node->size)) {
    return false;
  }
  if (!verify_tree_root(leaves, leaves_of(node->size), node->size, root) || memcmp(root, node->root, 32) != 0) return false;
  *v = (struct verify){ .node = node, .size = node->size, .leaf_count = leaves_of(node->size), .digests = node->size ? leaves : NULL };
  return true;
}

void verify_build_begin(struct verify_build *b, const struct trusted_node *node) {
  *b = (struct verify_build){ .node = node, .max_bytes = node->has_meta ? node->size : (u64)DIGESTS_MAX * LEAF_BYTES };
  sha256_init(&b->s);
}

void verify_build_abort(struct verify_build *b) {
  kfree(b->digests);
  b->digests = NULL;
}

static int keep(struct verify_build *b) {
  if (b->count == b->cap) {
    u64 cap = b->cap ? b->cap * 2 : 32;
    u8(*more)[32] = cap <= DIGESTS_MAX ? kmalloc(cap * 32, 0) : NULL;
    if (!more) return -ENOMEM;
    if (b->count) memcpy(more, b->digests, b->count * 32);
    kfree(b->digests);
    b->digests = more;
    b->cap = cap;
  }
  if (b->node->has_meta) {
    sha256_final(&b->s, b->digests[b->count]);
    sha256_init(&b->s);
  } else {
    memcpy(b->digests[b->count], b->s.h, 32); // at a block's end the state is all that the rest depends on
  }
  b->count++;
  return 0;
}

int verify_build_add(struct verify_build *b, const void *data, size_t n) {
  const u8 *p = data;
  if (n > b->max_bytes - b->size) return -EACCES;
  while (n) {
    size_t part = MIN(n, (size_t)(LEAF_BYTES - b->size % LEAF_BYTES));
    sha256_update(&b->s, p, part);
    b->size += part;
    p += part;
    n -= part;
    int err = b->size % LEAF_BYTES == 0 ? keep(b) : 0;
    if (err) return err;
  }
  return 0;
}

int verify_build_end(struct verify_build *b, struct verify *v) {
  u8 got[32];
  int err = 0;
  if (b->node->has_meta) {
    if (b->size != b->node->size) err = -EACCES;
    else if (b->size % LEAF_BYTES || b->size == 0) err = keep(b);
    if (!err && !verify_tree_root((const u8(*)[32])b->digests, b->count, b->size, got)) err = -ENOMEM;
    if (!err && memcmp(got, b->node->root, 32) != 0) err = -EACCES;
  } else {
    sha256_final(&b->s, got);
    if (memcmp(got, b->node->sha256, 32) != 0) err = -EACCES;
  }
  if (err) {
    verify_build_abort(b);
    return err;
  }
  *v = (struct verify){ .node = b->node, .size = b->size, .leaf_count = leaves_of(b->size), .chained = !b->node->has_meta,
                        .digests = (const u8(*)[32])b->digests };
  return 0;
}

bool verify_leaf(const struct verify *v, u64 leaf, const u8 *const pages[LEAF_PAGES]) {
  struct sha256 s;
  u8 got[32];
  if (leaf >= v->leaf_count || !v->size) return false;
  sha256_init(&s);
  if (v->chained && leaf) {
    memcpy(s.h, v->digests[leaf - 1], 32);
    s.len_bytes = leaf * LEAF_BYTES;
  }
  u32 left = verify_leaf_bytes(v, leaf);
  for (unsigned i = 0; left; i++) {
    u32 part = MIN(left, (u32)PAGE_SIZE);
    sha256_update(&s, pages[i], part);
    left -= part;
  }
  if (v->chained && leaf + 1 < v->leaf_count) return memcmp(s.h, v->digests[leaf], 32) == 0;
  sha256_final(&s, got);
  return memcmp(got, v->chained ? v->node->sha256 : v->digests[leaf], 32) == 0;
}

// SPDX-License-Identifier: Apache-2.0
// Hash trees and chains of trusted files, against a model that is written down as docs/launch-record.md says it.
#include "dev_mock.h"
#include "../../kernel/lib/sha2.c"
#include "../../kernel/fs/verify.c"

static u8 (*model_leaves(const u8 *data, size_t n, u64 *count))[32] {
  *count = n ? (n + 16383) / 16384 : 1;
  u8(*leaves)[32] = malloc(*count * 32);
  for (u64 i = 0; i < *count; i++) sha256_hash(data + i * 16384, n - i * 16384 < 16384 ? n - i * 16384 : 16384, leaves[i]);
  return leaves;
}
static void model_root(const u8 *data, size_t n, u8 out[32]) {
  u64 count;
  u8(*level)[32] = model_leaves(data, n, &count);
  while (count > 1) {
    u64 above = 0;
    u8(*next)[32] = malloc(count * 32);
    for (u64 i = 0; i < count; i += 512) sha256_hash(level[i], (count - i < 512 ? count - i : 512) * 32, next[above++]);
    free(level);
    level = next;
    count = above;
  }
  u8 all[12 + 8 + 32];
  memcpy(all, "gtdx-tree-v1", 12);
  for (int i = 0; i < 8; i++) all[12 + i] = (u8)((u64)n >> (8 * i));
  memcpy(all + 20, level[0], 32);
  sha256_hash(all, sizeof(all), out);
  free(level);
}

static int build(const struct trusted_node *t, const u8 *data, size_t n, size_t piece, struct verify *v) {
  struct verify_build b;
  verify_build_begin(&b, t);
  for (size_t at = 0; at < n; at += piece) {
    int err = verify_build_add(&b, data + at, MIN(piece, n - at));
    if (err) {
      verify_build_abort(&b);
      return err;
    }
  }
  return verify_build_end(&b, v);
}

static bool leaf_ok(const struct verify *v, const u8 *data, u64 leaf) {
  u8 copy[LEAF_BYTES];
  const u8 *pages[LEAF_PAGES];
  memset(copy, 0xee, sizeof(copy)); // what lies behind the end of the file is nobody's business
  memcpy(copy, data + leaf * LEAF_BYTES, verify_leaf_bytes(v, leaf));
  for (unsigned i = 0; i < LEAF_PAGES; i++) pages[i] = copy + i * PAGE_SIZE;
  return verify_leaf(v, leaf, pages);
}

static void test_size(size_t n) {
  u8 *data = malloc(n + 1);
  for (size_t i = 0; i < n; i++) data[i] = (u8)unit_random();
  u64 count;
  u8(*leaves)[32] = model_leaves(data, n, &count);
  const bool big = n > 1 << 20; // a few leaves of those, and only the tree
  for (int meta = big; meta < 2; meta++) {
    struct trusted_node t = { .kind = TRUSTED_FILE, .has_meta = meta, .size = meta ? n : 0 };
    struct verify v;
    sha256_hash(data, n, t.sha256);
    model_root(data, n, t.root);
    if (meta) {
      t.leaves = leaves[0];
      t.leaf_count = count;
      CHECK(verify_from_hint(&v, &t) && v.size == n && v.leaf_count == count);
      for (u64 i = 0; n && !big && i < count; i++) CHECK(leaf_ok(&v, data, i));
      if (n) {
        leaves[count - 1][31] ^= 1; // a hint that is wrong, missing or too short is no hint
        CHECK(!verify_from_hint(&v, &t));
        leaves[count - 1][31] ^= 1;
        t.leaf_count--;
        CHECK(!verify_from_hint(&v, &t));
        t.leaves = NULL;
        CHECK(!verify_from_hint(&v, &t));
      }
    } else {
      CHECK(!verify_from_hint(&v, &t));
    }
    CHECK(build(&t, data, n, 4096, &v) == 0 && v.size == n && v.leaf_count == count);
    for (u64 i = 0; n && i < count; i += big ? 1 + count / 4 : 1) {
      CHECK(leaf_ok(&v, data, i));
      size_t at = i * LEAF_BYTES + unit_random() % verify_leaf_bytes(&v, i);
      data[at] ^= 4; // any changed byte in a leaf is seen, in that leaf and no other
      CHECK(!leaf_ok(&v, data, i));
      if (i + 1 < count) CHECK(leaf_ok(&v, data, i + 1));
      data[at] ^= 4;
    }
    CHECK(!leaf_ok(&(struct verify){ .size = 0, .leaf_count = 1 }, data, 0));
    kfree((void *)(uintptr_t)v.digests);
    if (n && !big) { // another file
      data[n / 2] ^= 1;
      CHECK(build(&t, data, n, 5000, &v) == -EACCES);
      data[n / 2] ^= 1;
      CHECK(build(&t, data, n - 1, 777, &v) == -EACCES);
      CHECK(build(&t, data, n, 70000, &v) == 0);
      kfree((void *)(uintptr_t)v.digests);
    }
    data[n] = 0;
    if (!big) CHECK(build(&t, data, n + 1, 4096, &v) == -EACCES); // longer
  }
  free(leaves);
  free(data);
}

int main(void) {
  static const size_t sizes[] = { 0, 1, 63, 64, 4095, 4096, 16383, 16384, 16385, 32768, 100000, 16384 * 512 + 1 };
  for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) test_size(sizes[i]);
  // One vector from elsewhere: src/manifest/hash-tree.ts, for "abc".
  u8 root[32], leaf[1][32];
  sha256_hash("abc", 3, leaf[0]);
  CHECK(verify_tree_root((const u8(*)[32])leaf, 1, 3, root));
  char hex[65];
  for (int i = 0; i < 32; i++) snprintf(hex + 2 * i, 3, "%02x", root[i]);
  CHECK(!strcmp(hex, "bc7e94ec2e6a8395e4be9618601b114075afa3aeecb1767472ee67fcde543606"));
  return UNIT_END("fs_verify");
}

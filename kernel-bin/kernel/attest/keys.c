// SPDX-License-Identifier: Apache-2.0
//
// Keys of encrypted files by name, as Gramine has them in /dev/attestation/keys: the names are those of the manifest
// (fs.insecure__keys, and mounts that name a key), the values may come later, from the program. One table for the whole
// machine, so that a process that fetches a key can set it for the others. Names never change after boot.

#include "attest/internal.h"

static struct { const char *name; u8 key[ATTEST_KEY_BYTES]; bool set; } *keys;
static u32 key_count;
static struct spinlock key_lock = SPINLOCK_INIT(RANK_OBJECT);

int attest_key_find(const char *name) {
  for (u32 i = 0; i < key_count; i++)
    if (!strcmp(keys[i].name, name)) return (int)i;
  return -ENOENT;
}

const char *attest_key_name(u32 index) { return index < key_count ? keys[index].name : NULL; }

bool attest_key_read(u32 index, u8 out[ATTEST_KEY_BYTES]) {
  ASSERT(index < key_count);
  spin_lock(&key_lock);
  bool set = keys[index].set;
  memcpy(out, keys[index].key, ATTEST_KEY_BYTES);
  spin_unlock(&key_lock);
  return set;
}

void attest_key_write(u32 index, const u8 key[ATTEST_KEY_BYTES]) {
  ASSERT(index < key_count);
  spin_lock(&key_lock);
  memcpy(keys[index].key, key, ATTEST_KEY_BYTES);
  keys[index].set = true;
  spin_unlock(&key_lock);
}

// Once, after the policy was parsed.
int keys_init(void) {
  keys = arena_array((size_t)policy.keys_n + policy.mount_count, sizeof(*keys));
  if (!keys) return -ENOMEM;
  for (; key_count < policy.keys_n; key_count++) {
    keys[key_count].name = policy.keys[key_count].name;
    memcpy(keys[key_count].key, policy.keys[key_count].key, ATTEST_KEY_BYTES);
    keys[key_count].set = true;
  }
  for (u32 i = 0; i < policy.mount_count; i++)
    if (policy.mounts[i].key && attest_key_find(policy.mounts[i].key) < 0) keys[key_count++].name = policy.mounts[i].key;
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// Random bytes: a ChaCha20 generator per CPU with fast key erasure, seeded and reseeded from RDRAND (and RDSEED).
// The host cannot influence either. RDRAND that fails at boot stops the machine (threat model: randomness).
#include "arch/internal.h"

#define RESEED_BYTES (64 * KIB)

static bool rdrand64(u64 *out) {
  for (unsigned i = 0; i < 10; i++) { // Intel's retry count; more failures mean a broken unit
    bool ok;
    __asm__ volatile("rdrand %0" : "=r"(*out), "=@ccc"(ok));
    if (ok) return true;
    cpu_relax();
  }
  return false;
}

static void rdseed_mix(u64 *v) {
  u64 s;
  bool ok;
  if (!cpu_features.rdseed) return;
  __asm__ volatile("rdseed %0" : "=r"(s), "=@ccc"(ok));
  if (ok) *v ^= s;
}

static bool reseed(struct arch_cpu *a) {
  for (u32 i = 0; i < 8; i += 2) {
    u64 v;
    if (!rdrand64(&v)) return false;
    rdseed_mix(&v);
    a->random_key[i] ^= (u32)v;
    a->random_key[i + 1] ^= (u32)(v >> 32);
  }
  a->random_used = 0;
  return true;
}

void random_init_this(struct arch_cpu *a) {
  // Real hardware has stuck at one value: two equal ones in a row are taken for that.
  u64 first, second;
  if (!cpu_features.rdrand) panic("this CPU has no RDRAND, and the host is no source of randomness");
  if (!rdrand64(&first) || !rdrand64(&second) || first == second || !reseed(a)) panic("RDRAND does not work");
}

void random_init(void) { random_init_this(this_cpu()->arch); }

void random_bytes(void *buf, size_t n) {
  static const u32 nonce[3];
  u8 *out = buf;
  u64 flags = irq_save(); // the generator is this CPU's
  struct arch_cpu *a = this_cpu()->arch;
  if (a->random_used > RESEED_BYTES) (void)!reseed(a); // a later failure keeps the old, still secret, key
  a->random_used += n + 32;
  u8 block[64];
  u32 key[8];
  memcpy(key, a->random_key, 32);
  chacha20_block(key, 0, nonce, block);
  memcpy(a->random_key, block, 32); // what was given out cannot be computed again
  size_t have = MIN(n, (size_t)32);
  memcpy(out, block + 32, have);
  irq_restore(flags); // the rest comes from this call's own copy of a key that nobody has any more
  for (u32 counter = 1; have < n; counter++) {
    chacha20_block(key, counter, nonce, block);
    size_t k = MIN(n - have, (size_t)64);
    memcpy(out + have, block, k);
    have += k;
  }
  memzero_secret(block, sizeof(block));
  memzero_secret(key, sizeof(key));
}

u64 random_u64(void) {
  u64 v;
  random_bytes(&v, sizeof(v));
  return v;
}

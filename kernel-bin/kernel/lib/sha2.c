// SPDX-License-Identifier: Apache-2.0
//
// SHA-256 and SHA-384, FIPS 180-4. The rounds are unrolled eight at a time with the variables renamed instead of moved,
// and the message schedule is computed in place in 16 words. Round constants are from section 4.2.2 and 4.2.3.
#include "lib/lib.h"

static const u32 k256[64] = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static const u64 k512[80] = {
  0x428a2f98d728ae22, 0x7137449123ef65cd, 0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc,
  0x3956c25bf348b538, 0x59f111f1b605d019, 0x923f82a4af194f9b, 0xab1c5ed5da6d8118,
  0xd807aa98a3030242, 0x12835b0145706fbe, 0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2,
  0x72be5d74f27b896f, 0x80deb1fe3b1696b1, 0x9bdc06a725c71235, 0xc19bf174cf692694,
  0xe49b69c19ef14ad2, 0xefbe4786384f25e3, 0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65,
  0x2de92c6f592b0275, 0x4a7484aa6ea6e483, 0x5cb0a9dcbd41fbd4, 0x76f988da831153b5,
  0x983e5152ee66dfab, 0xa831c66d2db43210, 0xb00327c898fb213f, 0xbf597fc7beef0ee4,
  0xc6e00bf33da88fc2, 0xd5a79147930aa725, 0x06ca6351e003826f, 0x142929670a0e6e70,
  0x27b70a8546d22ffc, 0x2e1b21385c26c926, 0x4d2c6dfc5ac42aed, 0x53380d139d95b3df,
  0x650a73548baf63de, 0x766a0abb3c77b2a8, 0x81c2c92e47edaee6, 0x92722c851482353b,
  0xa2bfe8a14cf10364, 0xa81a664bbc423001, 0xc24b8b70d0f89791, 0xc76c51a30654be30,
  0xd192e819d6ef5218, 0xd69906245565a910, 0xf40e35855771202a, 0x106aa07032bbd1b8,
  0x19a4c116b8d2d0c8, 0x1e376c085141ab53, 0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8,
  0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb, 0x5b9cca4f7763e373, 0x682e6ff3d6b2b8a3,
  0x748f82ee5defb2fc, 0x78a5636f43172f60, 0x84c87814a1f0ab72, 0x8cc702081a6439ec,
  0x90befffa23631e28, 0xa4506cebde82bde9, 0xbef9a3f7b2c67915, 0xc67178f2e372532b,
  0xca273eceea26619c, 0xd186b8c721c0c207, 0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178,
  0x06f067aa72176fba, 0x0a637dc5a2c898a6, 0x113f9804bef90dae, 0x1b710b35131c471b,
  0x28db77f523047d84, 0x32caab7b40c72493, 0x3c9ebe0a15c9bebc, 0x431d67c49c100d4c,
  0x4cc5d4becb3e42b6, 0x597f299cfc657e2a, 0x5fcb6fab3ad6faec, 0x6c44198c4a475817,
};

static inline u32 ror32(u32 v, unsigned n) { return v >> n | v << (32 - n); }
static inline u64 ror64(u64 v, unsigned n) { return v >> n | v << (64 - n); }
static inline u32 load_be32(const u8 *p) { u32 v; __builtin_memcpy(&v, p, 4); return __builtin_bswap32(v); }
static inline u64 load_be64(const u8 *p) { u64 v; __builtin_memcpy(&v, p, 8); return __builtin_bswap64(v); }
static inline void store_be32(u8 *p, u32 v) { v = __builtin_bswap32(v); __builtin_memcpy(p, &v, 4); }
static inline void store_be64(u8 *p, u64 v) { v = __builtin_bswap64(v); __builtin_memcpy(p, &v, 8); }

#define CH(x, y, z) (z ^ (x & (y ^ z)))
#define MAJ(x, y, z) ((x & y) | (z & (x | y)))

#define ROUND256(a, b, c, d, e, f, g, h, i, word) do { \
    u32 t = h + (ror32(e, 6) ^ ror32(e, 11) ^ ror32(e, 25)) + CH(e, f, g) + k256[i] + (word); \
    d += t; \
    h = t + (ror32(a, 2) ^ ror32(a, 13) ^ ror32(a, 22)) + MAJ(a, b, c); \
  } while (0)
#define SCHEDULE256(i) (w[(i) & 15] += (ror32(w[((i) + 14) & 15], 17) ^ ror32(w[((i) + 14) & 15], 19) ^ w[((i) + 14) & 15] >> 10) \
  + w[((i) + 9) & 15] + (ror32(w[((i) + 1) & 15], 7) ^ ror32(w[((i) + 1) & 15], 18) ^ w[((i) + 1) & 15] >> 3))

static inline __attribute__((always_inline)) void blocks256_body(u32 h[8], const u8 *p, size_t n) {
  for (; n; n--, p += 64) {
    u32 w[16];
    u32 a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], hh = h[7];
    for (unsigned i = 0; i < 16; i++) w[i] = load_be32(p + 4 * i);
    for (unsigned i = 0; i < 16; i += 8) {
      ROUND256(a, b, c, d, e, f, g, hh, i, w[i]);
      ROUND256(hh, a, b, c, d, e, f, g, i + 1, w[i + 1]);
      ROUND256(g, hh, a, b, c, d, e, f, i + 2, w[i + 2]);
      ROUND256(f, g, hh, a, b, c, d, e, i + 3, w[i + 3]);
      ROUND256(e, f, g, hh, a, b, c, d, i + 4, w[i + 4]);
      ROUND256(d, e, f, g, hh, a, b, c, i + 5, w[i + 5]);
      ROUND256(c, d, e, f, g, hh, a, b, i + 6, w[i + 6]);
      ROUND256(b, c, d, e, f, g, hh, a, i + 7, w[i + 7]);
    }
    for (unsigned i = 16; i < 64; i += 8) {
      ROUND256(a, b, c, d, e, f, g, hh, i, SCHEDULE256(i));
      ROUND256(hh, a, b, c, d, e, f, g, i + 1, SCHEDULE256(i + 1));
      ROUND256(g, hh, a, b, c, d, e, f, i + 2, SCHEDULE256(i + 2));
      ROUND256(f, g, hh, a, b, c, d, e, i + 3, SCHEDULE256(i + 3));
      ROUND256(e, f, g, hh, a, b, c, d, i + 4, SCHEDULE256(i + 4));
      ROUND256(d, e, f, g, hh, a, b, c, i + 5, SCHEDULE256(i + 5));
      ROUND256(c, d, e, f, g, hh, a, b, i + 6, SCHEDULE256(i + 6));
      ROUND256(b, c, d, e, f, g, hh, a, i + 7, SCHEDULE256(i + 7));
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e; h[5] += f; h[6] += g; h[7] += hh;
  }
}

static void blocks256_plain(u32 h[8], const u8 *p, size_t n) { blocks256_body(h, p, n); }
// RORX leaves the flags alone. Under QEMU's emulation that is worth a factor: ROR has to compute them each time.
__attribute__((target("bmi2"))) static void blocks256_bmi2(u32 h[8], const u8 *p, size_t n) { blocks256_body(h, p, n); }

static void (*blocks256)(u32 h[8], const u8 *p, size_t n) = blocks256_plain;
void sha256_blocks_ni(u32 h[8], const u8 *p, size_t n, const u32 k[64]); // sha_ni.S
static void blocks256_ni(u32 h[8], const u8 *p, size_t n) { sha256_blocks_ni(h, p, n, k256); }

void sha2_use(bool bmi2, bool sha_ni) { blocks256 = sha_ni ? blocks256_ni : bmi2 ? blocks256_bmi2 : blocks256_plain; }

#define SCHEDULE512(i) (w[(i) & 15] += (ror64(w[((i) + 14) & 15], 19) ^ ror64(w[((i) + 14) & 15], 61) ^ w[((i) + 14) & 15] >> 6) \
  + w[((i) + 9) & 15] + (ror64(w[((i) + 1) & 15], 1) ^ ror64(w[((i) + 1) & 15], 8) ^ w[((i) + 1) & 15] >> 7))

static void blocks512(u64 h[8], const u8 *p, size_t n) {
  for (; n; n--, p += 128) {
    u64 w[16], v[8];
    memcpy(v, h, sizeof(v));
    for (unsigned i = 0; i < 16; i++) w[i] = load_be64(p + 8 * i);
    for (unsigned i = 0; i < 80; i++) {
      u64 a = v[0], b = v[1], c = v[2], e = v[4], f = v[5], g = v[6];
      u64 word = i < 16 ? w[i] : SCHEDULE512(i);
      u64 t = v[7] + (ror64(e, 14) ^ ror64(e, 18) ^ ror64(e, 41)) + CH(e, f, g) + k512[i] + word;
      u64 s = (ror64(a, 28) ^ ror64(a, 34) ^ ror64(a, 39)) + MAJ(a, b, c);
      v[7] = g; v[6] = f; v[5] = e; v[4] = v[3] + t; v[3] = c; v[2] = b; v[1] = a; v[0] = t + s;
    }
    for (unsigned i = 0; i < 8; i++) h[i] += v[i];
  }
}

void sha256_init(struct sha256 *s) {
  static const u32 start[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
  memcpy(s->h, start, sizeof(start));
  s->len_bytes = 0;
}

void sha256_update(struct sha256 *s, const void *data, size_t n) {
  const u8 *p = data;
  size_t have = s->len_bytes % 64;
  s->len_bytes += n;
  if (have) {
    size_t k = MIN(n, 64 - have);
    memcpy(s->block + have, p, k);
    p += k;
    n -= k;
    if (have + k < 64) return;
    blocks256(s->h, s->block, 1);
  }
  blocks256(s->h, p, n / 64);
  if (n % 64) memcpy(s->block, p + n / 64 * 64, n % 64);
}

void sha256_final(struct sha256 *s, u8 out[32]) {
  size_t have = s->len_bytes % 64;
  s->block[have++] = 0x80;
  if (have > 56) {
    memset(s->block + have, 0, 64 - have);
    blocks256(s->h, s->block, 1);
    have = 0;
  }
  memset(s->block + have, 0, 56 - have);
  store_be64(s->block + 56, s->len_bytes * 8);
  blocks256(s->h, s->block, 1);
  for (unsigned i = 0; i < 8; i++) store_be32(out + 4 * i, s->h[i]);
}

void sha256_hash(const void *data, size_t n, u8 out[32]) {
  struct sha256 s;
  sha256_init(&s);
  sha256_update(&s, data, n);
  sha256_final(&s, out);
}

void sha384_init(struct sha512 *s) {
  static const u64 start[8] = { 0xcbbb9d5dc1059ed8, 0x629a292a367cd507, 0x9159015a3070dd17, 0x152fecd8f70e5939,
    0x67332667ffc00b31, 0x8eb44a8768581511, 0xdb0c2e0d64f98fa7, 0x47b5481dbefa4fa4 };
  memcpy(s->h, start, sizeof(start));
  s->len_bytes = 0;
}

void sha384_update(struct sha512 *s, const void *data, size_t n) {
  const u8 *p = data;
  size_t have = s->len_bytes % 128;
  s->len_bytes += n;
  if (have) {
    size_t k = MIN(n, 128 - have);
    memcpy(s->block + have, p, k);
    p += k;
    n -= k;
    if (have + k < 128) return;
    blocks512(s->h, s->block, 1);
  }
  blocks512(s->h, p, n / 128);
  if (n % 128) memcpy(s->block, p + n / 128 * 128, n % 128);
}

void sha384_final(struct sha512 *s, u8 out[48]) {
  size_t have = s->len_bytes % 128;
  s->block[have++] = 0x80;
  if (have > 112) {
    memset(s->block + have, 0, 128 - have);
    blocks512(s->h, s->block, 1);
    have = 0;
  }
  memset(s->block + have, 0, 120 - have); // the length's upper 64 bits too: nothing here is that long
  store_be64(s->block + 120, s->len_bytes * 8);
  blocks512(s->h, s->block, 1);
  for (unsigned i = 0; i < 6; i++) store_be64(out + 8 * i, s->h[i]);
}

void sha384_hash(const void *data, size_t n, u8 out[48]) {
  struct sha512 s;
  sha384_init(&s);
  sha384_update(&s, data, n);
  sha384_final(&s, out);
}

// SPDX-License-Identifier: Apache-2.0
// Digests and ChaCha20 against published vectors (FIPS 180-4 examples, NIST CAVP; RFC 8439 2.3.2), in one piece and in many.
#include "unit.h"
#define memzero_secret(p, n) memset(p, 0, n)
#include "../../kernel/lib/sha2.c"
#include "../../kernel/lib/chacha.c"
#include <cpuid.h>
__asm__(".pushsection .text\n.include \"kernel/lib/sha_ni.S\"\n.popsection");

static bool is_hex(const u8 *bytes, size_t n, const char *hex) {
  char text[200];
  for (size_t i = 0; i < n; i++) snprintf(text + 2 * i, 3, "%02x", bytes[i]);
  if (strcmp(text, hex)) fprintf(stderr, "  got %s\n", text);
  return !strcmp(text, hex);
}

static void vector(const void *data, size_t n, const char *h256, const char *h384) {
  u8 out[48];
  sha256_hash(data, n, out);
  CHECK(is_hex(out, 32, h256));
  sha384_hash(data, n, out);
  CHECK(is_hex(out, 48, h384));
}

static void test_sha(void) {
  vector("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b");
  vector("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7");
  vector("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
    "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    "3391fdddfc8dc7393707a65b1b4709397cf8b1d162af05abfe8f450de5f36bc6b0455a8520bc4e6f5fe95b1fe3c8452b");
  vector("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu", 112,
    "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
    "09330c33f71147e83d192fc782cd1b4753111b173b3b05d22fa08086e3b0f712fcc7c71a557e2db966c3e9fa91746039");
  char *million = malloc(1000000);
  memset(million, 'a', 1000000);
  vector(million, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
    "9d0e1809716474cb086e834e310a4a1ced149e9c00f248527972cec5704c2a5b07b8b3dc38ecc4ebae97ddd87f3d8985");
  bool ok = true;
  for (unsigned i = 0; i < 300; i++) {
    struct sha256 a;
    struct sha512 b;
    u8 x[48], y[48];
    sha256_init(&a);
    sha384_init(&b);
    for (size_t done = 0; done < i;) {
      size_t n = unit_random() % (i - done) + 1;
      sha256_update(&a, million + done, n);
      sha384_update(&b, million + done, n);
      done += n;
    }
    sha256_final(&a, x);
    sha256_hash(million, i, y);
    ok = ok && !memcmp(x, y, 32);
    sha384_final(&b, x);
    sha384_hash(million, i, y);
    ok = ok && !memcmp(x, y, 48);
  }
  CHECK(ok);
  free(million);
}

int main(void) {
  u32 a, b, c, d;
  test_sha();
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) { // the same with what this machine has
    if (b & BIT(8)) {
      sha2_use(true, false);
      test_sha();
    }
    if (b & BIT(29)) {
      sha2_use(false, true);
      test_sha();
    } else {
      printf("no SHA extensions here: their code was not run\n");
    }
  }
  u32 key[8];
  for (u32 i = 0; i < 8; i++) key[i] = 0x03020100 + i * 0x04040404;
  const u32 nonce[3] = { 0x09000000, 0x4a000000, 0 };
  u8 out[64];
  chacha20_block(key, 1, nonce, out);
  CHECK(is_hex(out, 64, "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
    "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"));
  return UNIT_END("lib_crypto");
}

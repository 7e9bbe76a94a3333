// SPDX-License-Identifier: Apache-2.0
// What CPUID promises to a program must hold: in a TD the kernel answers it from a table.
#define _GNU_SOURCE
#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include "check.h"

static uint64_t xgetbv(unsigned which) {
  uint32_t lo, hi;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(which));
  return (uint64_t)hi << 32 | lo;
}

__attribute__((target("avx2"))) static int avx2_adds(void) {
  __m256i a = _mm256_set1_epi32(20), b = _mm256_set1_epi32(22);
  int out[8];
  _mm256_storeu_si256((__m256i *)out, _mm256_add_epi32(a, b));
  return out[0] + out[7];
}
__attribute__((target("avx512f"))) static int avx512_adds(void) {
  __m512i a = _mm512_set1_epi32(20), b = _mm512_set1_epi32(22);
  int out[16];
  _mm512_storeu_si512(out, _mm512_add_epi32(a, b));
  return out[0] + out[15];
}
__attribute__((target("fsgsbase"))) static uint64_t fs_base(void) { return _readfsbase_u64(); }
__attribute__((target("rdrnd"))) static int random_works(void) {
  unsigned long long a = 0, b = 0;
  return _rdrand64_step(&a) && _rdrand64_step(&b) && a != b;
}

static void promises(void) {
  uint32_t a, b, c, d, max, max_ext;
  char vendor[13] = "";
  __cpuid(0, max, b, c, d);
  memcpy(vendor, &b, 4), memcpy(vendor + 4, &d, 4), memcpy(vendor + 8, &c, 4);
  CHECK(max >= 0xd);
  CHECK(!strcmp(vendor, "GenuineIntel") || !strcmp(vendor, "AuthenticAMD"));
  // With prefixes it is longer: what comes after it is still the next instruction.
  uint32_t b2 = 0, next = 0;
  __asm__ volatile(".byte 0x66, 0x48, 0x0f, 0xa2\n\tmovl $42, %3" : "=a"(a), "=b"(b2), "+c"(c), "=r"(next) : "a"(0) : "edx");
  CHECK(a == max && b2 == b && next == 42);
  __cpuid(1, a, b, c, d);
  CHECK(d & bit_SSE2);
  int osxsave = (c & bit_OSXSAVE) != 0;
  CHECK(osxsave == ((c & bit_XSAVE) != 0));
  if (c & bit_RDRND) CHECK(random_works());

  uint32_t leaf7;
  __cpuid_count(7, 0, a, leaf7, c, d);
  if (leaf7 & bit_AVX2) CHECK(avx2_adds() == 84);
  if (leaf7 & bit_AVX512F) CHECK(avx512_adds() == 84);
  if (getauxval(AT_HWCAP2) & 2) CHECK((leaf7 & bit_FSGSBASE) && fs_base());

  if (osxsave) {
    uint64_t xcr0 = xgetbv(0), offered;
    uint32_t now, all, end = 576;
    __cpuid_count(0xd, 0, a, now, all, d);
    offered = (uint64_t)d << 32 | a;
    CHECK((xcr0 & ~offered) == 0);
    CHECK((xcr0 & 7) == 7 || !(leaf7 & bit_AVX2));
    CHECK(now <= all && now >= 576);
    for (unsigned i = 2; i < 32; i++) {
      if (!(xcr0 >> i & 1)) continue;
      __cpuid_count(0xd, i, a, b, c, d);
      CHECK(a && b >= 576);
      if (b + a > end) end = b + a;
    }
    CHECK(now == end);
    static unsigned char area[16384] __attribute__((aligned(64)));
    memset(area, 0x5a, sizeof area);
    memset(area + 512, 0, 64);
    __asm__ volatile("xsave64 (%0)" ::"r"(area), "a"(-1), "d"(-1) : "memory");
    CHECK(area[now] == 0x5a);
  }

  __cpuid(0x80000000, max_ext, b, c, d);
  CHECK(max_ext >= 0x80000008);
  char model[49] = "";
  for (unsigned i = 0; i < 3; i++) {
    __cpuid(0x80000002 + i, a, b, c, d);
    memcpy(model + 16 * i, (uint32_t[]){ a, b, c, d }, 16);
  }
  CHECK(strlen(model) > 4);
  __cpuid(0x80000008, a, b, c, d);
  CHECK((a & 0xff) >= 36 && (a >> 8 & 0xff) >= 48);
  for (unsigned i = 0; i < 100; i++) { // leaves that nobody has: an answer, not a trap
    __cpuid_count(0x40000000 + i * 0x01000193, i, a, b, c, d);
    __cpuid_count(i, 0xffffffff, a, b, c, d);
  }
}

int main(void) {
  RUN(promises);
  FINISH();
}

// SPDX-License-Identifier: Apache-2.0
// Our strings and printf against libc's.
#include "unit.h"
#define memcpy k_memcpy
#define memmove k_memmove
#define memset k_memset
#define memcmp k_memcmp
#define memchr k_memchr
#define strlen k_strlen
#define strnlen k_strnlen
#define strcmp k_strcmp
#define strncmp k_strncmp
#define strchr k_strchr
#define strrchr k_strrchr
#define strstr k_strstr
#define strlcpy k_strlcpy
#define vsnprintf k_vsnprintf
#define snprintf k_snprintf
void *memcpy(void *restrict dst, const void *restrict src, size_t n);
void *memset(void *dst, int c, size_t n);
size_t strlen(const char *s);
size_t strnlen(const char *s, size_t max);
int strncmp(const char *a, const char *b, size_t n);
#include "../../kernel/lib/string.c"
#include "../../kernel/lib/printf.c"
#undef memcpy
#undef memmove
#undef memset
#undef memcmp
#undef memchr
#undef strlen
#undef strnlen
#undef strcmp
#undef strncmp
#undef strchr
#undef strrchr
#undef strstr
#undef strlcpy
#undef vsnprintf
#undef snprintf

static int sign(int v) { return (v > 0) - (v < 0); }

static void test_memory(void) {
  bool ok = true;
  for (unsigned step = 0; step < 20000; step++) {
    u8 a[512], b[512];
    for (unsigned i = 0; i < sizeof(a); i++) a[i] = b[i] = (u8)unit_random();
    size_t n = unit_random() % 200, from = unit_random() % 300, to = unit_random() % 300;
    memmove(a + to, a + from, n);
    k_memmove(b + to, b + from, n);
    ok = ok && !memcmp(a, b, sizeof(a));
    memset(a + from, 0x5a, n);
    k_memset(b + from, 0x5a, n);
    ok = ok && !memcmp(a, b, sizeof(a));
    u8 c[200], d[200];
    memcpy(c, a + from, n);
    k_memcpy(d, b + from, n);
    ok = ok && !memcmp(c, d, n) && sign(k_memcmp(a + from, a + to, n)) == sign(memcmp(a + from, a + to, n));
    ok = ok && k_memchr(a + from, 0x33, n) == memchr(a + from, 0x33, n);
  }
  CHECK(ok);
  CHECK(mem_equal_const_time("abc", "abc", 3) && !mem_equal_const_time("abc", "abd", 3));
}

static void test_strings(void) {
  static const char *const texts[] = { "", "a", "ab", "abc", "abcabd", "/usr/lib/x", "\xff" };
  for (unsigned i = 0; i < ARRAY_SIZE(texts); i++)
    for (unsigned j = 0; j < ARRAY_SIZE(texts); j++) {
      const char *s = texts[i], *t = texts[j];
      CHECK(sign(k_strcmp(s, t)) == sign(strcmp(s, t)));
      CHECK(sign(k_strncmp(s, t, 2)) == sign(strncmp(s, t, 2)));
      CHECK(k_strstr(s, t) == strstr(s, t));
      CHECK(k_strchr(s, t[0]) == strchr(s, t[0]) && k_strrchr(s, t[0]) == strrchr(s, t[0]));
      CHECK(k_strlen(s) == strlen(s) && k_strnlen(s, 2) == strnlen(s, 2));
    }
  char buf[4] = "xxx";
  CHECK(k_strlcpy(buf, "abcdef", 4) == 6 && !strcmp(buf, "abc"));
  CHECK(k_strlcpy(buf, "a", 0) == 1 && !strcmp(buf, "abc"));
  u64 map[3] = { ~0ul, ~0ul, 5 };
  CHECK(bit_find_zero(map, 192, 0) == 129 && bit_find_zero(map, 128, 0) == 128 && bit_find_zero(map, 192, 130) == 131);
  map[0] = ~BIT(63);
  CHECK(bit_find_zero(map, 192, 0) == 63 && bit_find_zero(map, 192, 64) == 129);
}

#define SAME(...) do { \
    char x[256], y[256]; \
    int n = k_snprintf(x, sizeof(x), __VA_ARGS__), m = snprintf(y, sizeof(y), __VA_ARGS__); \
    CHECK(n == m && !strcmp(x, y)); \
    if (strcmp(x, y)) fprintf(stderr, "  ours '%s', libc '%s'\n", x, y); \
  } while (0)

static void test_printf(void) {
  SAME("%d %i %u %x %X %o", -5, 7, 42u, 0xbeefu, 0xbeefu, 8u);
  SAME("[%5d] [%-5d] [%05d] [%+d] [% d] [%.3d] [%8.3d] [%-8.3d]", 42, 42, 42, 42, 42, 42, 42, 42);
  SAME("%#x %#X %#o %#x", 255u, 255u, 8u, 0u);
  SAME("%ld %lu %lx %lld %llx %zu %zd %jd %td", -1l, ~0ul, ~0ul, -1ll, ~0ull, (size_t)9, (ssize_t)-9, (intmax_t)3, (ptrdiff_t)4);
  SAME("%hhd %hhu %hd %hu", 300, 300, 70000, 70000);
  SAME("%c[%3c][%-3c]%%", 'a', 'b', 'c');
  SAME("%s [%10s] [%-10s] [%.2s] [%10.2s] [%*s] [%.*s]", "abc", "abc", "abc", "abc", "abc", 6, "abc", 1, "abc");
  SAME("%d %d", INT32_MIN, INT32_MAX);
  SAME("%ld", INT64_MIN);
  SAME("%p", (void *)0x1234);
  SAME("%.0d|%.0d", 0, 1);
  SAME("%016lx", 0xdeadbeeful);
  char small[5];
  CHECK(k_snprintf(small, sizeof(small), "%s", "abcdefgh") == 8 && !strcmp(small, "abcd"));
  CHECK(k_snprintf(NULL, 0, "%d", 12345) == 5);
  CHECK(k_snprintf(small, sizeof(small), "%") == 0);
}

int main(void) {
  test_memory();
  test_strings();
  test_printf();
  return UNIT_END("lib_string");
}

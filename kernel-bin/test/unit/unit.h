// SPDX-License-Identifier: Apache-2.0
// The frame of a native unit test: CHECK conditions, return UNIT_END("name") from main. A test includes the .c files
// that it tests; libc stands in for lib/string.c.
#ifndef UNIT_H
#define UNIT_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "lib/lib.h"

static unsigned unit_passed, unit_failed;
#define CHECK(cond) do { \
    if (cond) unit_passed++; \
    else { unit_failed++; fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #cond); } \
  } while (0)
#define UNIT_END(name) (printf("%s: %u passed, %u failed\n", name, unit_passed, unit_failed), unit_failed != 0)

static inline u64 unit_random(void) { // xorshift64: the same numbers in every run
  static u64 x = 0x9e3779b97f4a7c15;
  x ^= x << 13; x ^= x >> 7; x ^= x << 17;
  return x;
}

#ifndef UNIT_OWN_PANIC
__noreturn void panic(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vfprintf(stderr, fmt, ap);
  va_end(ap);
  abort();
}
#endif
#endif

// SPDX-License-Identifier: Apache-2.0
// libFuzzer harness: a TD HOB. What passes must say what was expected.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../kernel/boot/hob.c"

__noreturn void panic(const char *fmt, ...) { abort(); }

int LLVMFuzzerTestOneInput(const u8 *data, size_t size) {
  struct hob_range want[] = { { 0, 0x40000000 }, { 4 * GIB, 4 * GIB } };
  char why[128] = "";
  int r = hob_check(data, size, want, 2, 4 * GIB - 5 * MIB, why, sizeof(why));
  if ((r == 0) != (why[0] == 0) || strlen(why) >= sizeof(why)) abort();
  return 0;
}

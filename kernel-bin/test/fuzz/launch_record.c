// SPDX-License-Identifier: Apache-2.0
// Any bytes as the record behind the CFV's header. The first bytes may ask for memory to run out.
#define main attest_record_main
#include "../unit/attest_record.c"
#undef main

int LLVMFuzzerTestOneInput(const u8 *data, size_t size) {
  static bool seeded;
  if (!seeded) { // without a good record to start from, only its beginning would ever be reached
    seeded = true;
    struct options o = plain;
    o.meta = true;
    parse(write_record(&o));
  }
  if (size > 1 << 16) return 0;
  struct options o = plain;
  size_t n = write_record(&o);
  // Either the bytes alone, or laid over a good record at a place that they name.
  if (size >= 3 && data[0] & 1) {
    size_t at = 16 + (data[1] | data[2] << 8) % (n - 16), len = MIN(size - 3, n - at);
    memcpy(out + at, data + 3, len);
  } else {
    memcpy(out + 16, data, size);
    u32 len = (u32)size;
    memcpy(out + 8, &len, 4);
    n = 16 + size;
  }
  parse(n);
  return 0;
}

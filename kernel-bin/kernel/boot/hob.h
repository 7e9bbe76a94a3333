// SPDX-License-Identifier: Apache-2.0
//
// boot/hob: the TD HOB, the host's list of what memory a TD has. Pure: no allocation, no machine, any bytes.
#ifndef BOOT_HOB_H
#define BOOT_HOB_H
#include "lib/lib.h"

struct hob_range { u64 start, end; }; // bytes; end is the first one behind it; empty: start == end

// Does the list at hob (len bytes at most) describe exactly the memory `expected` (ascending, apart, empty ones are
// skipped)? Pieces of the image [image_start, 4 GiB) may be listed and do not count. -EINVAL, and in `why` what was found.
int __must_check hob_check(const void *hob, size_t len, const struct hob_range *expected, unsigned n, u64 image_start,
                           char *why, size_t why_size);
#endif

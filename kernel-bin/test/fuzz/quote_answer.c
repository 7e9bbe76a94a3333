// SPDX-License-Identifier: Apache-2.0
// Any bytes as the host's answer to GetQuote: alone behind the header, or laid over a good answer at a place that they
// name. What is taken for a quote must be about this TD and this request.
#define main attest_quote_main
#include "../unit/attest_quote.c"
#undef main

static const u8 *input;
static size_t input_len;

static void lay_over(struct shared_buf *b) {
  size_t at = 0, skip = 0;
  if (input_len >= 3 && input[0] & 1) at = (size_t)(input[1] | input[2] << 8) % 4096, skip = 3;
  memcpy(b->va + at, input + skip, MIN(input_len - skip, b->len_bytes - at));
}

int LLVMFuzzerTestOneInput(const u8 *data_in, size_t size) {
  static u8 report[ATTEST_REPORT_BYTES];
  if (!tamper) {
    struct cpu cpu = { .id = 0 };
    mock_cpu = &cpu;
    in_td = policy.dcap = true;
    if (quote_init() || attest_report(data, report)) abort();
    tamper = lay_over;
  }
  input = data_in;
  input_len = size;
  u8 *q;
  size_t len;
  if (!quote(AT_ONCE, &q, &len)) {
    size_t body = q[0] == 5 ? 54 : 48;
    if (memcmp(q + body + 120, report + 512, 400) || memcmp(q + body + 520, data, 64)) abort();
    kfree(q);
  }
  if (!in_flight(&slots[0])) slots[0].state = SLOT_FREE;
  else memset(slots[0].buf.va, 0, 16), slots[0].state = SLOT_FREE; // the next host is another one
  return 0;
}

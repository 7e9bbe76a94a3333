// SPDX-License-Identifier: Apache-2.0
// Reports, registers and quotes of a TD against a module that keeps its word and a host that need not: late answers,
// wrong sizes and states, quotes of something else, callers that give up, all slots taken; and the table of keys.
#define wait_sleep mock_wait_sleep
#include "dev_mock.h"
#undef wait_sleep
#include "../../kernel/lib/sha2.c"
#include "td_mock.h"
const char *__asan_default_options(void) { return "detect_leaks=0"; } // slots keep their buffers
static char fatal[400];
__noreturn void host_fatal(const char *text) { snprintf(fatal, sizeof(fatal), "%s", text); abort(); }
struct policy policy;
void *arena_alloc(size_t n) { return kzalloc(n); }
host_u32 shared_load32(const struct shared_buf *b, u32 off) { u32 v; memcpy(&v, mock_inside(b, off, 4), 4); return (host_u32){ v }; }
static struct cpu *mock_cpu;
static inline struct cpu *this_cpu(void) { return mock_cpu; }
#define irq_save() 0ul
#define irq_restore(f) (void)(f)
static irq_handler handler;
static u32 notified;
int irq_alloc(u32 cpu, irq_handler fn, void *arg, u64 *addr, u32 *data) { handler = fn; *data = 77; return 0; }
int tdx_vmcall_setup_event_notify(u32 vector) { notified = vector; return 0; }

// --- the host
enum how { HONEST, NEVER, FAILS, NO_SERVICE, EMPTY, TOO_LONG, BAD_VERSION, NOT_A_QUOTE, STALE_DATA, STALE_REGISTER, SHORT_SIGNATURE, V5, V5_TD10, AT_ONCE };
static enum how how;
static int refuse;             // what the call itself says
static unsigned sleeps_before; // an answer comes at this sleep
static int interrupted_after = -1;
static struct shared_buf *pending[16];
static unsigned pending_n, sleeps, retries;

static void (*tamper)(struct shared_buf *b); // the fuzzer's: after an answer at once
static size_t make_quote(u8 *q, const u8 *report) {
  size_t at = 48, body_len = how == V5 ? 648 : 584;
  memset(q, 0, 8192);
  q[0] = how == V5 || how == V5_TD10 ? 5 : 4;
  q[2] = 2;
  q[4] = how == NOT_A_QUOTE ? 0 : 0x81;
  if (q[0] == 5) {
    q[48] = how == V5 ? 3 : 2;
    q[50] = (u8)body_len, q[51] = (u8)(body_len >> 8);
    at += 6;
  }
  memcpy(q + at + 120, report + 512, 400);
  memcpy(q + at + 520, report + 128, 64);
  if (how == STALE_DATA) q[at + 520 + 63] ^= 1;
  if (how == STALE_REGISTER) q[at + 472 + 47] ^= 1;
  u32 sig = how == SHORT_SIGNATURE ? 301 : 300;
  memcpy(q + at + body_len, &sig, 4);
  return at + body_len + 4 + 300;
}
static void answer(struct shared_buf *b) {
  static u8 quote[8192];
  u64 status = how == FAILS ? 1ull << 63 : how == NO_SERVICE ? (1ull << 63) + 1 : 0, version = 1;
  u32 len = (u32)make_quote(quote, b->va + 24);
  memcpy(b->va + 24, quote, len);
  if (how == EMPTY) len = 0;
  if (how == TOO_LONG) len = b->len_bytes - 23;
  if (how == BAD_VERSION) version = 2;
  memcpy(b->va, &version, 8);
  memcpy(b->va + 20, &len, 4);
  memcpy(b->va + 8, &status, 8);
}
int tdx_vmcall_get_quote(phys_t shared, u64 len_bytes) {
  if (refuse == -EAGAIN && retries++ < 3) return -EAGAIN;
  if (refuse && refuse != -EAGAIN) return refuse;
  static struct shared_buf bufs[16];
  struct shared_buf *b = &bufs[pending_n % 16];
  *b = (struct shared_buf){ (u8 *)(uintptr_t)shared, shared, (u32)len_bytes };
  u64 version, status;
  u32 in_len, out_len;
  memcpy(&version, b->va, 8), memcpy(&status, b->va + 8, 8), memcpy(&in_len, b->va + 16, 4), memcpy(&out_len, b->va + 20, 4);
  CHECK(version == 1 && status == 0 && in_len == 1024 && out_len == 0 && len_bytes % 4096 == 0);
  memset(b->va + 8, 0xff, 8);
  pending[pending_n++ % 16] = b;
  if (how == AT_ONCE) answer(b);
  if (how == AT_ONCE && tamper) tamper(b);
  return 0;
}
int wait_sleep(u64 deadline, int mode) {
  sleeps++;
  if (interrupted_after >= 0 && sleeps > (unsigned)interrupted_after) return -ERESTARTSYS;
  if (how != NEVER && how != AT_ONCE && pending_n && sleeps >= sleeps_before) {
    answer(pending[(pending_n - 1) % 16]);
    if (sleeps == sleeps_before) return 0; // the interrupt came
  }
  mock_now_ns = deadline;
  return -ETIMEDOUT;
}
int thread_sleep_until(u64 deadline, int mode) { mock_now_ns = deadline; return 0; }

#include "../../kernel/attest/keys.c"
#include "../../kernel/attest/measure.c"
#include "../../kernel/attest/quote.c"

static u8 data[64] = "a nonce";
static int quote(enum how h, u8 **q, size_t *len) {
  how = h;
  sleeps = retries = 0;
  sleeps_before = 3;
  mock_log[0] = 0;
  return attest_quote(data, q, len);
}

static void test_outside(void) {
  u8 report[1024], *q;
  size_t len;
  in_td = false;
  policy.dcap = true;
  CHECK(!strcmp(attest_type(), "none"));
  CHECK(attest_report(data, report) == -ENODEV);
  CHECK(attest_quote(data, &q, &len) == -ENODEV);
}

static void test_registers(void) {
  u8 got[48];
  in_td = true;
  measure_init(100);
  CHECK(!measure_event(3, 0x0d, "x", "event", 5));
  CHECK(!measure_event(0, 0x0d, "x", "other", 5));
  for (unsigned i = 0; i < 4; i++) {
    rtmr_read(i, got);
    CHECK(!memcmp(got, td_rtmr[i], 48));
  }
  CHECK(td_rtmr[3][0] || td_rtmr[3][1]);
  size_t before, after;
  event_log(&before);
  td_status = TDX_OPERAND_INVALID;
  CHECK(measure_event(3, 0x0d, "x", "event", 5) == -EIO);
  event_log(&after);
  CHECK(before == after); // what was not extended is not in the log
  td_status = TDX_SUCCESS;
}

static void test_kind(void) {
  struct cpu cpu = { .id = 0 };
  mock_cpu = &cpu;
  in_td = true;
  policy.dcap = false;
  CHECK(!quote_init());
  CHECK(!strcmp(attest_type(), "none"));
  policy.dcap = true;
  CHECK(!strcmp(attest_type(), "dcap"));
  CHECK(notified == 77 && handler);
  sha384_hash("gramine-tdx simulated TDX module", 32, td_mrseam);
  CHECK(!quote_init());
  CHECK(!strcmp(attest_type(), "dcap-simulated"));
  CHECK(strstr(mock_log, "nothing is protected") != NULL);
  td_status = TDX_OPERAND_INVALID;
  CHECK(quote_init() == -EIO);
  td_status = TDX_SUCCESS;
}

static void test_honest(void) {
  static const enum how good[] = { HONEST, V5, V5_TD10, AT_ONCE };
  for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
    u8 *q;
    size_t len;
    CHECK(!quote(good[i], &q, &len));
    CHECK(len > 900 && q[4] == 0x81);
    CHECK(sleeps == (good[i] == AT_ONCE ? 0 : 3));
    kfree(q);
  }
}

static void test_lies(void) {
  static const struct { enum how how; int err; const char *says; } lies[] = {
    { FAILS, -EIO, "could not make a quote" }, { NO_SERVICE, -ENODEV, "no quoting service" }, { EMPTY, -EIO, "quote of 0 bytes" },
    { TOO_LONG, -EIO, "at most 32744 fit" }, { BAD_VERSION, -EIO, "quote of" }, { NOT_A_QUOTE, -EIO, "not a quote" },
    { STALE_DATA, -EIO, "something else" }, { STALE_REGISTER, -EIO, "something else" }, { SHORT_SIGNATURE, -EIO, "not a quote" } };
  for (unsigned i = 0; i < ARRAY_SIZE(lies); i++) {
    u8 *q;
    size_t len;
    CHECK(quote(lies[i].how, &q, &len) == lies[i].err);
    CHECK(strstr(mock_log, lies[i].says) != NULL);
  }
  u8 *q;
  size_t len;
  refuse = -EOPNOTSUPP;
  CHECK(quote(HONEST, &q, &len) == -EOPNOTSUPP);
  refuse = -EAGAIN; // three times, then it takes the request
  CHECK(!quote(HONEST, &q, &len));
  CHECK(retries == 4);
  kfree(q);
  refuse = 0;
}

static void test_giving_up(void) {
  u8 *q;
  size_t len;
  u64 start = mock_now_ns;
  CHECK(quote(NEVER, &q, &len) == -ETIMEDOUT);
  CHECK(mock_now_ns - start == QUOTE_LIMIT_NS);
  CHECK(sleeps < 500); // it looks ever less often
  CHECK(slots[0].state == SLOT_ABANDONED);
  interrupted_after = 2;
  CHECK(quote(NEVER, &q, &len) == -ERESTARTSYS);
  CHECK(slots[1].state == SLOT_ABANDONED);
  CHECK(slots[0].buf.phys != slots[1].buf.phys); // the host still owns the first
  interrupted_after = -1;
  for (unsigned i = 2; i < QUOTE_SLOTS; i++) CHECK(quote(NEVER, &q, &len) == -ETIMEDOUT);
  // All are the host's now: the next caller waits for one, in vain; then the host lets go of one and it works.
  unsigned asked = pending_n;
  CHECK(quote(NEVER, &q, &len) == -ETIMEDOUT);
  CHECK(pending_n == asked);
  how = HONEST;
  struct shared_buf third = slots[3].buf;
  answer(&third);
  CHECK(!quote(HONEST, &q, &len));
  CHECK(slots[3].state == SLOT_FREE && slots[2].state == SLOT_ABANDONED);
  kfree(q);
  for (unsigned i = 0; i < QUOTE_SLOTS; i++) answer(&slots[i].buf);
}

static void test_memory(void) {
  u8 *q;
  size_t len;
  for (long n = 0; n < 10; n++) {
    mock_allocs_left = n;
    int err = quote(HONEST, &q, &len);
    mock_allocs_left = -1;
    if (!err) { kfree(q); CHECK(n >= 3); break; }
    CHECK(err == -ENOMEM);
  }
  for (unsigned i = 0; i < QUOTE_SLOTS; i++) CHECK(slots[i].state != SLOT_BUSY);
}

// Any bytes at all: never out of bounds (each buffer has its exact length), never taken for the quote.
static void test_random(void) {
  u8 report[1024];
  memset(report, 0x77, sizeof(report));
  for (unsigned i = 0; i < 20000; i++) {
    size_t len = unit_random() % 800;
    u8 *q = malloc(len + 1);
    for (size_t k = 0; k < len; k++) q[k] = (u8)unit_random();
    if (len > 60 && i % 2) memcpy(q, i % 4 == 1 ? "\4\0\2\0\x81\0\0" : "\5\0\2\0\x81\0\0", 8), q[48] = 2 + i / 4 % 2, q[49] = 0, q[50] = i & 8 ? 0x48 : 0x88, q[51] = 2, q[52] = q[53] = 0;
    u8 *exact = malloc(len ? len : 1);
    memcpy(exact, q, len);
    CHECK(quote_check(exact, len, report) < 0);
    free(exact);
    free(q);
  }
}

static void test_keys(void) {
  static struct policy_mount mounts[] = { { .path = "/", .type = MOUNT_TMPFS }, { .path = "/e", .type = MOUNT_ENCRYPTED, .key = "later" }, { .path = "/f", .type = MOUNT_ENCRYPTED, .key = "given" } };
  policy.keys = calloc(1, sizeof(*policy.keys));
  policy.keys[0].name = "given";
  memcpy(policy.keys[0].key, "0123456789abcdef", 16);
  policy.keys_n = 1;
  policy.mounts = mounts;
  policy.mount_count = 3;
  CHECK(!keys_init());
  u8 key[16];
  CHECK(attest_key_find("given") == 0 && attest_key_find("later") == 1 && attest_key_find("none") == -ENOENT);
  CHECK(!strcmp(attest_key_name(1), "later") && !attest_key_name(2));
  CHECK(attest_key_read(0, key) && !memcmp(key, "0123456789abcdef", 16));
  CHECK(!attest_key_read(1, key));
  attest_key_write(1, (const u8 *)"fedcba9876543210");
  CHECK(attest_key_read(1, key) && !memcmp(key, "fedcba9876543210", 16));
}

int main(void) {
  test_outside();
  test_registers();
  test_kind();
  test_honest();
  test_lies();
  test_giving_up();
  test_memory();
  test_random();
  test_keys();
  return UNIT_END("attest_quote");
}

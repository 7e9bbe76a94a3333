// SPDX-License-Identifier: Apache-2.0
//
// Reports and quotes of a TD (GHCI 3.3 TDG.VP.VMCALL<GetQuote>). A report is the TDX module's; a quote is the report
// signed by a quoting service that the host reaches for us, so every byte of the answer is hostile: it is copied out of
// shared memory once, its sizes are checked, and it must be about this TD and this request, else it is an I/O error
// (threat-model T20).
//
// Several callers at once: each has a slot with a shared buffer of its own. The host answers when it likes; an interrupt
// says that it did, and because it may be withheld (threat-model T15) a waiter looks by itself now and then. A caller that
// gives up leaves its slot behind until the host has let go of the buffer: nobody else may own it before.

#include "attest/internal.h"
#include "arch/tdx.h"

#define QUOTE_SLOTS 8u
#define QUOTE_BUF_BYTES (32 * (u32)KIB)
#define QUOTE_LIMIT_NS (40 * NS_PER_SEC)  // QEMU's own limit is 30 s; its error is better than our silence
#define POLL_FIRST_NS NS_PER_MS
#define POLL_LONGEST_NS (100 * NS_PER_MS)

// The header of the shared buffer, then the data: a TDREPORT on the way out, the quote on the way back.
struct quote_header { u64 version; u64 status; u32 in_len; u32 out_len; };
#define STATUS_AT 8u
#define STATUS_OK 0ull
#define STATUS_IN_FLIGHT ~0ull
#define STATUS_UNAVAILABLE 0x8000000000000001ull

// Places in a TDREPORT, and the body of a quote (Intel TDX DCAP Quoting Library, quote formats 4 and 5).
#define REPORT_MRSEAM_AT (256 + 24)
#define REPORT_DATA_AT 128
#define REPORT_TDINFO_AT 512
#define TDINFO_COMMON_BYTES 400           // ATTRIBUTES to RTMR3: the same run of fields in a quote's body
#define BODY_COMMON_AT 120
#define BODY_DATA_AT 520
#define QUOTE_HEADER_BYTES 48
#define BODY_V4_BYTES 584
#define BODY_TD15_BYTES 648
#define TEE_TDX 0x81

static bool simulated;

static struct slot { struct shared_buf buf; enum { SLOT_FREE, SLOT_BUSY, SLOT_ABANDONED } state; } slots[QUOTE_SLOTS];
static struct spinlock slots_lock = SPINLOCK_INIT(RANK_OBJECT);
static struct waitq answers = WAITQ_INIT(answers); // an answer came, or a slot is free

static void answer_irq(void *unused) { waitq_wake_all(&answers); }

const char *attest_type(void) {
  if (!in_td || !policy.dcap) return "none";
  return simulated ? "dcap-simulated" : "dcap";
}

int attest_report(const u8 data[ATTEST_DATA_BYTES], u8 report[ATTEST_REPORT_BYTES]) {
  if (!in_td) return -ENODEV;
  // The module wants its operands aligned, inside a page: 1024 bytes for the report, 64 for the data.
  struct page *page = page_alloc(0, ALLOC_ZERO);
  if (!page) return -ENOMEM;
  u8 *p = page_virt(page);
  memcpy(p + 2048, data, ATTEST_DATA_BYTES);
  bool ok = tdx_mr_report(virt_phys(p), virt_phys(p + 2048)) == TDX_SUCCESS;
  memcpy(report, p, ATTEST_REPORT_BYTES);
  page_put(page);
  return ok ? 0 : -EIO;
}

// --- slots
static bool in_flight(const struct slot *s) { // the upper half tells: no other status has it
  return host_equals32(shared_load32(&s->buf, STATUS_AT + 4), (u32)(STATUS_IN_FLIGHT >> 32));
}

static struct slot *slot_take(void) {
  struct slot *found = NULL;
  spin_lock(&slots_lock);
  for (u32 i = 0; i < QUOTE_SLOTS && !found; i++) {
    struct slot *s = &slots[i];
    if (s->state == SLOT_ABANDONED && !in_flight(s)) s->state = SLOT_FREE;
    if (s->state == SLOT_FREE) found = s;
  }
  if (found) found->state = SLOT_BUSY;
  spin_unlock(&slots_lock);
  return found;
}

static void slot_put(struct slot *s, bool abandoned) {
  spin_lock(&slots_lock);
  s->state = abandoned ? SLOT_ABANDONED : SLOT_FREE;
  spin_unlock(&slots_lock);
  if (!abandoned) waitq_wake_all(&answers);
}

// Waits until cond(s) or the limit, looking by itself ever less often. 0, -ETIMEDOUT, -ERESTARTSYS.
static int await(bool (*cond)(struct slot **s), struct slot **s, u64 limit_ns) {
  for (u64 step = POLL_FIRST_NS;; step = MIN(step * 2, POLL_LONGEST_NS)) {
    u64 now = time_ns();
    if (now >= limit_ns) return cond(s) ? 0 : -ETIMEDOUT;
    int err = wait_event_timeout(&answers, cond(s), MIN(now + step, limit_ns));
    if (err != -ETIMEDOUT) return err;
  }
}
static bool got_slot(struct slot **s) { return *s || (*s = slot_take()) != NULL; }
static bool is_answered(struct slot **s) { return !in_flight(*s); }

// The host marks the buffer as in flight before the call returns (GHCI 3.3), or has answered by then.
static int ask(const struct slot *s, u64 limit_ns) {
  for (;;) {
    int err = tdx_vmcall_get_quote(s->buf.phys, QUOTE_BUF_BYTES);
    if (err != -EAGAIN) return err;
    if (time_ns() >= limit_ns) return -ETIMEDOUT;
    err = thread_sleep_until(time_ns() + POLL_FIRST_NS, WAIT_INTERRUPTIBLE);
    if (err) return err;
  }
}

// --- the answer
static u32 le16(const u8 *p) { return p[0] | (u32)p[1] << 8; }
static u32 le32(const u8 *p) { return le16(p) | le16(p + 2) << 16; }

// Whether `quote` is a quote of this report: well-formed as far as it goes, about this TD and its registers, and with our
// report data, not an answer to another question. The signature is the verifier's business.
int quote_check(const u8 *quote, size_t len, const u8 report[ATTEST_REPORT_BYTES]) {
  size_t body_at = QUOTE_HEADER_BYTES, body_len = BODY_V4_BYTES;
  if (len < QUOTE_HEADER_BYTES + 6 || le32(quote + 4) != TEE_TDX) return -EBADMSG;
  u32 version = le16(quote);
  if (version == 5) {
    body_at += 6;
    body_len = le32(quote + QUOTE_HEADER_BYTES + 2);
    u32 type = le16(quote + QUOTE_HEADER_BYTES);
    if (!(type == 2 && body_len == BODY_V4_BYTES) && !(type == 3 && body_len == BODY_TD15_BYTES)) return -EBADMSG;
  } else if (version != 4) return -EBADMSG;
  if (len < body_at + body_len + 4 || le32(quote + body_at + body_len) > len - (body_at + body_len + 4)) return -EBADMSG;
  const u8 *body = quote + body_at;
  if (memcmp(body + BODY_COMMON_AT, report + REPORT_TDINFO_AT, TDINFO_COMMON_BYTES) ||
      memcmp(body + BODY_DATA_AT, report + REPORT_DATA_AT, ATTEST_DATA_BYTES)) return -ESTALE;
  return 0;
}

static int take_answer(const struct slot *s, const u8 report[ATTEST_REPORT_BYTES], u8 **quote, size_t *len) {
  struct quote_header h;
  shared_read(&h, &s->buf, 0, sizeof(h));
  if (h.status != STATUS_OK) {
    printk(LOG_ERROR, "attestation: %s\n", h.status == STATUS_UNAVAILABLE ? "the host has no quoting service" : "the host could not make a quote");
    return h.status == STATUS_UNAVAILABLE ? -ENODEV : -EIO;
  }
  if (h.version != 1 || !h.out_len || h.out_len > QUOTE_BUF_BYTES - sizeof(h)) {
    printk(LOG_ERROR, "attestation: the host answered with a quote of %u bytes; at most %u fit\n", h.out_len, (u32)(QUOTE_BUF_BYTES - sizeof(h)));
    return -EIO;
  }
  u8 *copy = kmalloc(h.out_len, 0);
  if (!copy) return -ENOMEM;
  shared_read(copy, &s->buf, sizeof(h), h.out_len);
  int err = quote_check(copy, h.out_len, report);
  if (err) {
    printk(LOG_ERROR, "attestation: the host's answer is %s\n", err == -ESTALE ? "a quote of something else" : "not a quote");
    kfree(copy);
    return -EIO;
  }
  *quote = copy;
  *len = h.out_len;
  return 0;
}

int attest_quote(const u8 data[ATTEST_DATA_BYTES], u8 **quote, size_t *len) {
  struct slot *s = NULL;
  bool asked = false;
  u64 limit = time_ns() + QUOTE_LIMIT_NS;
  if (!in_td || !policy.dcap) return -ENODEV;
  u8 *report = kmalloc(ATTEST_REPORT_BYTES, 0);
  if (!report) return -ENOMEM;
  int err = await(got_slot, &s, limit);
  if (err) goto out;
  if (!s->buf.va) err = shared_alloc(&s->buf, QUOTE_BUF_BYTES);
  if (!err) err = attest_report(data, report);
  if (err) goto out;
  struct quote_header h = { .version = 1, .status = 0, .in_len = ATTEST_REPORT_BYTES };
  shared_write(&s->buf, 0, &h, sizeof(h));
  shared_write(&s->buf, sizeof(h), report, ATTEST_REPORT_BYTES);
  err = ask(s, limit);
  if (err) {
    if (err != -ERESTARTSYS) printk(LOG_ERROR, "attestation: the host refused to make a quote: error %d\n", -err);
    goto out;
  }
  asked = true;
  err = await(is_answered, &s, limit);
  if (err == -ETIMEDOUT) printk(LOG_ERROR, "attestation: no quote after %lu s\n", QUOTE_LIMIT_NS / NS_PER_SEC);
  if (!err) err = take_answer(s, report, quote, len);
out:
  if (s) slot_put(s, asked && in_flight(s));
  kfree(report);
  return err;
}

// A simulated module names itself in MRSEAM, where a real one has its own measurement: the statement is in every report
// and quote, no hint of the host is believed for it, and no host can make a real module say it.
int quote_init(void) {
  static u8 report[ATTEST_REPORT_BYTES];
  static const u8 nothing[ATTEST_DATA_BYTES];
  if (!in_td) return 0;
  int err = attest_report(nothing, report);
  if (err) return err;
  u8 digest[48];
  sha384_hash(SIMULATED_MODULE, sizeof(SIMULATED_MODULE) - 1, digest);
  simulated = !memcmp(report + REPORT_MRSEAM_AT, digest, sizeof(digest));
  if (simulated) printk(LOG_WARN, "this TD is simulated: nothing is protected, and its quotes prove nothing\n");
  u64 addr;
  u32 vector;
  u64 flags = irq_save(); // the call is about the CPU that makes it
  err = irq_alloc(this_cpu()->id, answer_irq, NULL, &addr, &vector);
  if (!err) err = tdx_vmcall_setup_event_notify(vector);
  irq_restore(flags);
  if (err) printk(LOG_DEBUG, "attestation: no interrupt for quotes (error %d), they are polled for\n", -err);
  return 0;
}

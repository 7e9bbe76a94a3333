// SPDX-License-Identifier: Apache-2.0
//
// GetQuote: requests go over the serial port at 0x2f8 in the framing that QEMU's quote-generation-socket has (u32
// big-endian length, then one message of the quote generation service), one at a time; the answer goes into the TD's
// shared buffer and the notification vector is posted. The protocol's other side is src/'s stand-in quote service, or a
// real one.
#include "sim/sim.h"

#define PORT 0x2f8
#define BUFFER_MAX (128 * 1024)
#define MAX_REQUESTS 16
enum { QUOTE_OK = 0 };
#define QUOTE_IN_FLIGHT ~0ull
#define QUOTE_ERROR 0x8000000000000000ull
#define QUOTE_UNAVAILABLE 0x8000000000000001ull
struct header { u64 version, status; u32 in_length, out_length; };
struct qgs_header { u16 major, minor; u32 type, size, error; };
enum { GET_QUOTE_REQUEST = 0, GET_QUOTE_RESPONSE = 1 };

static struct { u64 gpa, size; bool raw; } queue[MAX_REQUESTS];
static u32 n_queued;
static bool busy;
static struct spinlock quote_lock;
static u8 message[BUFFER_MAX];
static u32 received;

bool quote_port_present(void) { return in8(PORT + 5) != 0xff; }

static void port_send(const u8 *p, u32 n) {
  for (u32 i = 0; i < n; i++) {
    while (!(in8(PORT + 5) & 0x20)) cpu_relax();
    out8(PORT, p[i]);
  }
}

// The shared buffer, byte by byte through the mapping that the TD made: it may have taken pages back since.
static bool copy(u64 gpa, void *buf, u32 n, bool to_td) {
  for (u32 i = 0; i < n;) {
    u8 *page = td_memory(ALIGN_DOWN(gpa + i, PAGE), true);
    if (!page) return false;
    u32 part = (u32)MIN((u64)(n - i), PAGE - ((gpa + i) & (PAGE - 1)));
    u8 *at = page + ((gpa + i) & (PAGE - 1));
    if (to_td) memcpy(at, (u8 *)buf + i, part);
    else memcpy((u8 *)buf + i, at, part);
    i += part;
  }
  return true;
}

static void finish(u64 gpa, u64 status, const u8 *data, u32 n) {
  struct header h;
  if (copy(gpa, &h, sizeof(h), false)) {
    if (n) copy(gpa + sizeof(h), (void *)(uptr)data, n, true);
    h.status = status;
    h.out_length = n;
    copy(gpa + 16, &h.in_length, 8, true);
    copy(gpa + 8, &h.status, 8, true);
  }
  if (td.notify_vector) host_send_vector(td.notify_vcpu, td.notify_vector);
}

// Sends the first request of the queue. A bare TDREPORT becomes a message; anything else must be one already.
static void send_next(void) {
  while (n_queued && !busy) {
    struct header h;
    u64 gpa = queue[0].gpa;
    if (copy(gpa, &h, sizeof(h), false) && h.in_length <= queue[0].size - sizeof(h) && h.in_length <= sizeof(message) - 64) {
      struct { u8 be_size[4]; struct qgs_header h; u32 report_size, id_size; } __packed head = { 0 };
      queue[0].raw = h.in_length == 1024;
      u32 extra = queue[0].raw ? sizeof(head) : 0;
      if (copy(gpa + sizeof(h), message + extra, h.in_length, false)) {
        u32 total = h.in_length + extra;
        if (queue[0].raw) {
          head.h = (struct qgs_header){ 1, 0, GET_QUOTE_REQUEST, total - 4, 0 };
          head.report_size = 1024;
          u32 be = __builtin_bswap32(total - 4);
          memcpy(head.be_size, &be, 4);
          memcpy(message, &head, sizeof(head));
        }
        received = 0;
        busy = true;
        port_send(message, total);
        return;
      }
    }
    finish(gpa, QUOTE_ERROR, NULL, 0);
    for (u32 i = 1; i < n_queued; i++) queue[i - 1] = queue[i];
    n_queued--;
  }
}

u64 quote_request(struct vcpu *v, u64 gpa, u64 size) {
  struct header h;
  if (!(gpa & td.shared_bit) || !IS_ALIGNED(gpa, PAGE) || !IS_ALIGNED(size, PAGE) || size < PAGE || size > BUFFER_MAX) return VMCALL_INVALID_OPERAND;
  if (!copy(gpa, &h, sizeof(h), false) || h.version != 1) return VMCALL_INVALID_OPERAND;
  u64 status = QUOTE_IN_FLIGHT, result = VMCALL_SUCCESS;
  spin_lock(&quote_lock);
  if (!quote_port_present()) {
    finish(gpa, QUOTE_UNAVAILABLE, NULL, 0);
  } else if (n_queued == MAX_REQUESTS) {
    result = VMCALL_RETRY;
  } else {
    copy(gpa + 8, &status, 8, true);
    if (!n_queued) {
      out8(PORT + 2, 1); // FIFO
      out8(PORT + 4, 8); // OUT2
      out8(PORT + 1, 1); // receive interrupts: an NMI on CPU 0
    }
    queue[n_queued].gpa = gpa;
    queue[n_queued++].size = size;
    send_next();
  }
  spin_unlock(&quote_lock);
  return result;
}

static void answer(u32 n) {
  struct { u8 be_size[4]; struct qgs_header h; u32 id_size, quote_size; } __packed head = { 0 };
  u64 gpa = queue[0].gpa, space = queue[0].size - sizeof(struct header), status = QUOTE_ERROR;
  const u8 *data = message;
  if (queue[0].raw) { // QEMU hands over the bare quote for a bare report
    u32 quote = 0;
    if (n >= sizeof(head)) {
      memcpy(&head, message, sizeof(head));
      if (head.h.type == GET_QUOTE_RESPONSE && head.h.error == 0 && head.id_size <= n - sizeof(head) && head.quote_size <= n - sizeof(head) - head.id_size)
        quote = head.quote_size;
    }
    data = message + sizeof(head) + head.id_size;
    n = quote;
  }
  if (n && n <= space) status = QUOTE_OK;
  struct vcpu *v = &vcpus[0];
  if (lie(v, LIE_QUOTE)) {
    switch (hostile_random(v) % 5) {
    case 0: return; // never answered
    case 1: status = hostile_value(v); break;
    case 2: n = (u32)(hostile_random(v) % (n + 1)); break;
    case 3: message[hostile_random(v) % (n + 1)] ^= 1; break;
    case 4: {
      u32 length = (u32)hostile_value(v);
      finish(gpa, status, data, status == QUOTE_OK ? n : 0);
      copy(gpa + offsetof(struct header, out_length), &length, 4, true);
      return;
    }
    }
  }
  finish(gpa, status, data, status == QUOTE_OK ? n : 0);
}

void quote_poll(void) {
  if (!READ_ONCE(busy)) return;
  spin_lock(&quote_lock);
  while (busy && (in8(PORT + 5) & 1)) {
    u8 byte = in8(PORT);
    if (received < sizeof(message)) message[received] = byte;
    received++;
    if (received < 4) continue;
    u32 total;
    memcpy(&total, message, 4);
    total = __builtin_bswap32(total) + 4;
    if (total <= sizeof(message) && received < total) continue;
    answer(total <= sizeof(message) ? total : 0);
    for (u32 i = 1; i < n_queued; i++) queue[i - 1] = queue[i];
    n_queued--;
    busy = false;
    send_next();
  }
  spin_unlock(&quote_lock);
}

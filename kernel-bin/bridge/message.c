// SPDX-License-Identifier: Apache-2.0
//
// The control and the datagram stream (docs/bridge-protocol.md): cutting bytes into messages, checking every field,
// and the queues of messages for the guest. A malformed message ends its stream.
#include <stdlib.h>
#include <string.h>
#include "bridge.h"

#define CONTROL_QUEUE 262144u // bytes for the guest that it does not take: then it is not ours any more
#define DGRAM_QUEUE 262144u
#define EXIT_PATIENCE_NS 2000000000ull

// --- byte queues

static bool bytes_grow(struct bytes *b, size_t n) {
  if (b->head && (b->head >= b->len || b->head + b->len + n > b->cap)) {
    memmove(b->data, b->data + b->head, b->len);
    b->head = 0;
  }
  if (b->len + n <= b->cap) return true;
  size_t cap = b->cap ? b->cap : 1024;
  while (cap < b->len + n) cap *= 2;
  uint8_t *p = realloc(b->data, cap);
  if (!p) return false;
  b->data = p;
  b->cap = cap;
  return true;
}

bool bytes_put(struct bytes *b, const void *src, size_t n) {
  if (!n) return true;
  if (b->head + b->len + n > b->cap && !bytes_grow(b, n)) return false;
  memcpy(b->data + b->head + b->len, src, n);
  b->len += n;
  return true;
}

bool bytes_put_iov(struct bytes *b, const struct iovec *iov, unsigned n) {
  for (unsigned i = 0; i < n; i++)
    if (!bytes_put(b, iov[i].iov_base, iov[i].iov_len)) return false;
  return true;
}

void bytes_take(struct bytes *b, size_t n) {
  b->head += n;
  b->len -= n;
  if (!b->len) {
    b->head = 0;
    if (b->cap > 65536) bytes_free(b);
  }
}

void bytes_free(struct bytes *b) {
  free(b->data);
  *b = (struct bytes){ 0 };
}

bool framer_feed(struct framer *f, const struct iovec *iov, unsigned n, bool (*got)(const struct wire_head *h)) {
  size_t off = 0, total = 0;
  for (unsigned i = 0; i < n; i++) total += iov[i].iov_len;
  while (off < total) {
    struct wire_head *h = (void *)f->buf;
    size_t want = f->len < sizeof(*h) ? sizeof(*h) : h->length;
    size_t k = iov_read(iov, n, off, f->buf + f->len, min_size(want - f->len, total - off));
    f->len += k;
    off += k;
    if (f->len == sizeof(*h) && (h->length < sizeof(*h) || h->length > f->max || h->zero)) return false;
    if (f->len < sizeof(*h) || f->len < h->length) continue;
    f->len = 0;
    if (!got(h)) return false;
  }
  return true;
}

bool addr_valid(const struct wire_addr *a, bool any_ok) {
  static const uint8_t zeroes[16];
  if (a->family == 0) return any_ok && !memcmp(a, &(struct wire_addr){ 0 }, sizeof(*a));
  if (a->family == 4) return !a->scope && !memcmp(a->ip + 4, zeroes, 12);
  return a->family == 6;
}

// --- control

static struct stream control_s;
static uint8_t control_buf[WIRE_CONTROL_MAX] __attribute__((aligned(8)));
static struct framer control_in = { control_buf, 0, sizeof(control_buf) };
static struct bytes control_out;
static bool control_up, greeted;

static void control_send(const void *m, size_t n) {
  if (!control_up || (!greeted && ((const struct wire_head *)m)->type != WIRE_REFUSED)) return;
  if (control_out.len + n > CONTROL_QUEUE || !bytes_put(&control_out, m, n)) {
    stream_end(&control_s);
    return;
  }
  stream_ready(&control_s);
}

static void send_u32(uint16_t type, uint32_t id, uint32_t value) {
  struct wire_u32 m = { { sizeof(m), type, 0, id }, value };
  control_send(&m, sizeof(m));
}

// EXIT is answered when what the guest's closed connections still hold is with their clients.
static uint32_t exit_id;
static uint64_t exit_due_ns;
void message_tick(void) {
  if (!exit_due_ns || (!host_flushed() && loop_now_ns() < exit_due_ns)) return;
  exit_due_ns = 0;
  send_u32(WIRE_EXIT_OK, exit_id, 0);
}
bool message_waits(void) { return exit_due_ns != 0; }

void control_signal(unsigned signo) { send_u32(WIRE_SIGNAL, 0, signo); }
void control_connect_failed(uint32_t id, int err) { send_u32(WIRE_CONNECT_FAILED, id, (uint32_t)err); }
static struct wire_winsize last_size;
void control_winsize(unsigned rows, unsigned cols) {
  last_size = (struct wire_winsize){ { sizeof(last_size), WIRE_WINSIZE, 0, 0 }, (uint16_t)rows, (uint16_t)cols };
  control_send(&last_size, sizeof(last_size));
}

static bool hello(const struct wire_hello *m) {
  if (greeted || m->magic != WIRE_HELLO_MAGIC || m->zero || !m->lowest || m->highest < m->lowest) return false;
  if (m->lowest > WIRE_VERSION) {
    send_u32(WIRE_REFUSED, 0, 1);
    say_guest("error", "guest-version the guest's protocol is newer than this bridge");
    return true;
  }
  greeted = true;
  struct wire_hello_ok ok = { { sizeof(ok), WIRE_HELLO_OK, 0, 0 }, WIRE_VERSION, 0, 0 };
  control_send(&ok, sizeof(ok));
  if (last_size.h.length) control_send(&last_size, sizeof(last_size));
  say_guest("guest", "1");
  return true;
}

static bool control_got(const struct wire_head *h) {
  char text[WIRE_LAST_WORDS_MAX + 1];
  struct wire_hello *hm = (void *)h;
  struct wire_listen *lm = (void *)h;
  struct wire_connect *cm = (void *)h;
  struct wire_u32 *um = (void *)h;
  size_t n = h->length;
  if (!greeted && h->type != WIRE_HELLO && h->type != WIRE_LAST_WORDS) return false;
  switch (h->type) {
  case WIRE_HELLO: return n == sizeof(*hm) && hello(hm);
  case WIRE_LISTEN:
    if (n != sizeof(*lm) || !addr_valid(&lm->addr, false) || !lm->addr.port || !lm->backlog || lm->backlog > WIRE_BACKLOG_MAX) return false;
    host_listen(h->id, &lm->addr, lm->backlog);
    return true;
  case WIRE_UNLISTEN:
    if (n != sizeof(*h)) return false;
    host_unlisten(h->id);
    return true;
  case WIRE_ACCEPTED:
    if (n != sizeof(*um)) return false;
    host_accepted(h->id, um->value);
    return true;
  case WIRE_CONNECT:
    if (n != sizeof(*cm) || !addr_valid(&cm->remote, false) || !addr_valid(&cm->local, true)) return false;
    return host_connect(h->id, &cm->remote, &cm->local);
  case WIRE_CANCEL:
    if (n != sizeof(*h)) return false;
    host_cancel(h->id);
    return true;
  case WIRE_EXIT:
    if (n != sizeof(*um) || um->value > 255) return false;
    say("exit %u", um->value);
    exit_id = h->id;
    exit_due_ns = loop_now_ns() + EXIT_PATIENCE_NS;
    message_tick();
    return true;
  case WIRE_LAST_WORDS:
    n -= sizeof(*h);
    if (n > WIRE_LAST_WORDS_MAX) return false;
    memcpy(text, h + 1, n);
    text[n] = 0;
    say_guest("last", text);
    return true;
  default: return false;
  }
}

static bool control_data(struct stream *s, const struct iovec *iov, unsigned n, size_t len) {
  stream_forwarded(s, len);
  if (framer_feed(&control_in, iov, n, control_got)) return true;
  say_guest("error", "guest-protocol malformed control message");
  return false;
}

static long control_fill(struct stream *s, const struct iovec *iov, unsigned n, size_t len) {
  if (!control_out.len) return s->source_ready = false;
  size_t k = iov_write(iov, n, 0, control_out.data + control_out.head, min_size(control_out.len, len));
  bytes_take(&control_out, k);
  if (!control_out.len) s->source_ready = false;
  return (long)k;
}

static void control_gone(struct stream *s) {
  (void)s;
  control_up = greeted = false;
  control_in.len = 0;
  bytes_free(&control_out);
  host_forget_guest();
}

static void message_fin(struct stream *s, bool both) {
  (void)both;
  stream_end(s);
}

bool control_accept(struct stream **s, const struct stream_ops **ops) {
  static const struct stream_ops control_ops = { .data = control_data, .fill = control_fill, .guest_fin = message_fin, .gone = control_gone };
  control_up = true;
  *s = &control_s;
  *ops = &control_ops;
  return true;
}

// --- datagrams

static struct stream dgram_s;
static uint8_t dgram_buf[WIRE_DGRAM_MAX] __attribute__((aligned(8)));
static struct framer dgram_in = { dgram_buf, 0, sizeof(dgram_buf) };
static struct bytes dgram_out;
static bool dgram_up;

bool dgram_to_guest(const void *head, size_t head_len, const void *data, size_t len) {
  if (!dgram_up || dgram_out.len + head_len + len > DGRAM_QUEUE) return false;
  size_t before = dgram_out.len;
  if (!bytes_put(&dgram_out, head, head_len) || !bytes_put(&dgram_out, data, len)) {
    dgram_out.len = before;
    return false;
  }
  stream_ready(&dgram_s);
  return true;
}

static bool dgram_got(const struct wire_head *h) {
  struct wire_udp_open *om = (void *)h;
  struct wire_udp_send *sm = (void *)h;
  switch (h->type) {
  case WIRE_UDP_OPEN: return h->length == sizeof(*om) && om->local.family && addr_valid(&om->local, false) && udp_open(h->id, &om->local);
  case WIRE_UDP_SEND:
    if (h->length < sizeof(*sm) || h->length - sizeof(*sm) > WIRE_UDP_MAX || !addr_valid(&sm->remote, false)) return false;
    udp_send(h->id, &sm->remote, sm + 1, h->length - sizeof(*sm));
    return true;
  case WIRE_UDP_CLOSE:
    if (h->length != sizeof(*h)) return false;
    udp_close(h->id);
    return true;
  default: return false;
  }
}

static bool dgram_data(struct stream *s, const struct iovec *iov, unsigned n, size_t len) {
  stream_forwarded(s, len);
  if (framer_feed(&dgram_in, iov, n, dgram_got)) return true;
  say_guest("error", "guest-protocol malformed datagram message");
  return false;
}

static long dgram_fill(struct stream *s, const struct iovec *iov, unsigned n, size_t len) {
  if (!dgram_out.len) return s->source_ready = false;
  size_t k = iov_write(iov, n, 0, dgram_out.data + dgram_out.head, min_size(dgram_out.len, len));
  bytes_take(&dgram_out, k);
  if (!dgram_out.len) s->source_ready = false;
  return (long)k;
}

static void dgram_gone(struct stream *s) {
  (void)s;
  dgram_up = false;
  dgram_in.len = 0;
  bytes_free(&dgram_out);
  udp_forget_guest();
}

bool dgram_accept(struct stream **s, const struct stream_ops **ops) {
  static const struct stream_ops dgram_ops = { .data = dgram_data, .fill = dgram_fill, .guest_fin = message_fin, .gone = dgram_gone };
  dgram_up = true;
  *s = &dgram_s;
  *ops = &dgram_ops;
  return true;
}

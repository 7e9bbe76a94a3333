// SPDX-License-Identifier: Apache-2.0
//
// Virtio-vsock streams (virtio 1.2, 5.10.6) between the guest and the parts of the bridge that use them. Data is never
// copied here: fill() reads straight into the guest's buffers, data() gets iovecs into them. Credit saturates: a
// counter that the guest could not have reached ends the stream.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "bridge.h"

#define GUEST_CID 3u
#define MAX_STREAMS 16384u
#define MAX_STRAY 1024u
#define BATCH 16
#define FROM_GUEST_PER_TURN 512

static struct stream *table[MAX_STREAMS];
static uint32_t generation = 1, next_index;
static unsigned open_count;
static struct stream *control_stream, *dgram_stream;
static struct stream *ready_head, **ready_tail = &ready_head;
static struct { uint32_t guest_port, host_port; } rsts[MAX_STREAMS + MAX_STRAY];
static unsigned rst_head, rst_count;
static struct chain batch[BATCH];

unsigned streams_count(void) { return open_count; }
bool streams_waiting(void) { return ready_head || rst_count; }

static void enqueue(struct stream *s) {
  if (s->queued) return;
  s->queued = true;
  s->next = NULL;
  s->pprev = ready_tail;
  *ready_tail = s;
  ready_tail = &s->next;
}

static void dequeue(struct stream *s) {
  if (!s->queued) return;
  s->queued = false;
  *s->pprev = s->next;
  if (s->next) s->next->pprev = s->pprev;
  else ready_tail = s->pprev;
}

static void pend(struct stream *s, unsigned what) {
  s->pending |= (uint8_t)what;
  enqueue(s);
}

static uint32_t credit(const struct stream *s) {
  uint32_t flying = s->tx_cnt - s->guest_fwd;
  return s->guest_buf > flying ? s->guest_buf - flying : 0;
}

void stream_ready(struct stream *s) {
  s->source_ready = true;
  if (s->state == STREAM_OPEN && (credit(s) || s->prefix_due)) enqueue(s);
}

static void queue_rst(uint32_t guest_port, uint32_t host_port, bool stray) {
  if (rst_count == ARRAY_SIZE(rsts) || (stray && rst_count >= MAX_STRAY)) return;
  unsigned at = (rst_head + rst_count++) % ARRAY_SIZE(rsts);
  rsts[at].guest_port = guest_port;
  rsts[at].host_port = host_port;
}

// Takes the stream out of every table; its owner hears of it last.
static void forget(struct stream *s) {
  dequeue(s);
  if (s == control_stream) control_stream = NULL;
  else if (s == dgram_stream) dgram_stream = NULL;
  else {
    table[s->port % MAX_STREAMS] = NULL;
    open_count--;
  }
  s->state = STREAM_FREE;
  s->ops->gone(s);
}

void stream_end(struct stream *s) {
  if (s->state == STREAM_FREE) return;
  queue_rst(s->guest_port, s->port, false);
  forget(s);
}

bool stream_open(struct stream *s, const struct stream_ops *ops, void *owner, const struct wire_prefix *prefix) {
  uint32_t i = next_index;
  for (unsigned tries = 0; table[i]; tries++) {
    if (tries == MAX_STREAMS) return false;
    i = (i + 1) % MAX_STREAMS;
  }
  next_index = (i + 1) % MAX_STREAMS;
  if (!next_index) generation = generation % 65535 + 1; // ports are not used again soon
  *s = (struct stream){ .ops = ops, .owner = owner, .state = STREAM_REQUESTED, .port = generation * 65536u + i,
                        .guest_port = WIRE_PORT_DATA, .prefix_due = true };
  memcpy(s->prefix, prefix, sizeof(s->prefix));
  table[i] = s;
  open_count++;
  pend(s, PEND_REQUEST);
  return true;
}

// The guest may be running low by what it knows: tell it what was forwarded since.
void stream_forwarded(struct stream *s, size_t n) {
  s->fwd_cnt += (uint32_t)n;
  if (s->state == STREAM_OPEN && s->fwd_cnt != s->fwd_told && s->rx_cnt - s->fwd_told > STREAM_BUF / 2) pend(s, PEND_CREDIT);
}

void streams_drop_all(void) {
  for (unsigned i = 0; i < MAX_STREAMS; i++)
    if (table[i]) forget(table[i]);
  if (control_stream) forget(control_stream);
  if (dgram_stream) forget(dgram_stream);
  rst_count = 0;
}

// --- from the guest

static struct stream *find(uint32_t host_port, uint32_t guest_port) {
  struct stream *s = host_port == WIRE_PORT_CONTROL ? control_stream : host_port == WIRE_PORT_DGRAM ? dgram_stream
                     : host_port >= 65536u && host_port % 65536u < MAX_STREAMS ? table[host_port % 65536u] : NULL;
  return s && s->port == host_port && s->guest_port == guest_port ? s : NULL;
}

static void request(const struct vsock_hdr *h) {
  struct stream **slot = h->dst_port == WIRE_PORT_CONTROL ? &control_stream : &dgram_stream, *s;
  const struct stream_ops *ops;
  if (h->dst_port != WIRE_PORT_CONTROL && h->dst_port != WIRE_PORT_DGRAM) return queue_rst(h->src_port, h->dst_port, true);
  if (*slot) stream_end(*slot);
  if (!(h->dst_port == WIRE_PORT_CONTROL ? control_accept(&s, &ops) : dgram_accept(&s, &ops))) return queue_rst(h->src_port, h->dst_port, true);
  *s = (struct stream){ .ops = ops, .state = STREAM_OPEN, .port = h->dst_port, .guest_port = h->src_port,
                        .guest_buf = h->buf_alloc, .guest_fwd = 0 };
  *slot = s;
  pend(s, PEND_RESPONSE);
}

static void packet(const struct vsock_hdr *h, const struct iovec *iov, unsigned n) {
  if (h->src_cid != GUEST_CID || h->dst_cid != VSOCK_CID_HOST) return;
  if (h->type != VSOCK_TYPE_STREAM) return queue_rst(h->src_port, h->dst_port, true);
  if (h->op == VSOCK_OP_REQUEST) return request(h);
  struct stream *s = find(h->dst_port, h->src_port);
  if (!s) {
    if (h->op != VSOCK_OP_RST) queue_rst(h->src_port, h->dst_port, true);
    return;
  }
  if (h->op == VSOCK_OP_RST) return forget(s); // carries no credit
  if (h->fwd_cnt - s->guest_fwd > s->tx_cnt - s->guest_fwd) return stream_end(s); // more than we ever sent
  s->guest_buf = h->buf_alloc;
  s->guest_fwd = h->fwd_cnt;
  if (s->state == STREAM_REQUESTED) {
    if (h->op != VSOCK_OP_RESPONSE) return stream_end(s);
    s->state = STREAM_OPEN;
    enqueue(s); // the prefix
    return s->ops->opened(s);
  }
  if ((s->source_ready || s->prefix_due) && credit(s)) enqueue(s);
  switch (h->op) {
  case VSOCK_OP_RW:
    if (s->guest_shut_send || s->rx_cnt - s->fwd_cnt + h->len > STREAM_BUF) return stream_end(s); // sent without credit
    s->rx_cnt += h->len;
    if (h->len && !s->ops->data(s, iov, n, h->len)) stream_end(s);
    return;
  case VSOCK_OP_SHUTDOWN:
    s->guest_shut_send |= (h->flags & VSOCK_SHUTDOWN_SEND) != 0;
    s->guest_shut_recv |= (h->flags & VSOCK_SHUTDOWN_RCV) != 0;
    if (s->guest_shut_send || s->guest_shut_recv) s->ops->guest_fin(s, s->guest_shut_send && s->guest_shut_recv);
    return;
  case VSOCK_OP_CREDIT_UPDATE: return;
  case VSOCK_OP_CREDIT_REQUEST: return pend(s, PEND_CREDIT);
  default: return stream_end(s);
  }
}

bool streams_from_guest(void) {
  struct chain *c = &batch[0];
  struct iovec payload[CHAIN_IOVS];
  unsigned k = 0;
  for (; k < FROM_GUEST_PER_TURN && ring_peek(RING_FROM_GUEST, 0, c) > 0; k++) {
    struct vsock_hdr h; // a private copy: the guest can still write the ring's
    size_t got = iov_read(c->iov, c->niov, 0, &h, sizeof(h));
    if (got < sizeof(h) || h.len > c->len - sizeof(h) || h.len > VSOCK_MAX_PAYLOAD) {
      ring_lied(RING_FROM_GUEST, "packet shorter than its header says");
      return true;
    }
    packet(&h, payload, iov_slice(c->iov, c->niov, sizeof(h), h.len, payload, CHAIN_IOVS));
    ring_used(RING_FROM_GUEST, c, 0);
  }
  ring_publish(RING_FROM_GUEST);
  return k != 0;
}

// --- to the guest

static void put_header(const struct chain *c, struct stream *s, unsigned op, unsigned flags, size_t len) {
  struct vsock_hdr h = { VSOCK_CID_HOST, GUEST_CID, s->port, s->guest_port, (uint32_t)len, VSOCK_TYPE_STREAM, (uint16_t)op, flags, STREAM_BUF, s->fwd_cnt };
  s->fwd_told = s->fwd_cnt;
  iov_write(c->iov, c->niov, 0, &h, sizeof(h));
}

// A buffer of the guest for a packet; false: none now.
static bool next_buffer(unsigned ahead, struct chain *c) {
  if (ring_peek(RING_TO_GUEST, ahead, c) <= 0) return false;
  if (c->len > sizeof(struct vsock_hdr) + sizeof(struct wire_prefix)) return true;
  ring_lied(RING_TO_GUEST, "receive buffer too small");
  return false;
}

static bool send_plain(struct stream *s, unsigned op, unsigned flags) {
  struct chain *c = &batch[0];
  if (!next_buffer(0, c)) return false;
  put_header(c, s, op, flags, 0);
  ring_used(RING_TO_GUEST, c, sizeof(struct vsock_hdr));
  return true;
}

// Pending operations in their order. False: the guest has no buffers.
static bool send_pending(struct stream *s) {
  static const struct { uint8_t bit, op; uint8_t flags; } order[] = {
    { PEND_REQUEST, VSOCK_OP_REQUEST, 0 }, { PEND_RESPONSE, VSOCK_OP_RESPONSE, 0 },
    { PEND_FIN, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND }, { PEND_CREDIT, VSOCK_OP_CREDIT_UPDATE, 0 } };
  for (unsigned i = 0; i < ARRAY_SIZE(order); i++) {
    if (!(s->pending & order[i].bit)) continue;
    if (!send_plain(s, order[i].op, order[i].flags)) return false;
    s->pending &= (uint8_t)~order[i].bit;
  }
  return true;
}

// One turn of one stream: at most BATCH buffers of data. False: the guest has no buffers. May end the stream.
static bool send_data(struct stream *s, bool *more) {
  static struct iovec iov[CHAIN_IOVS];
  unsigned n = 0, niov = 0, want = s->bulk ? BATCH : 2;
  size_t caps[BATCH], total = 0, limit = credit(s);
  *more = false;
  if (s->prefix_due) {
    if (limit < sizeof(s->prefix)) return true;
    if (!next_buffer(0, &batch[0])) return false;
    put_header(&batch[0], s, VSOCK_OP_RW, 0, sizeof(s->prefix));
    iov_write(batch[0].iov, batch[0].niov, sizeof(struct vsock_hdr), s->prefix, sizeof(s->prefix));
    ring_used(RING_TO_GUEST, &batch[0], sizeof(struct vsock_hdr) + sizeof(s->prefix));
    s->tx_cnt += sizeof(s->prefix);
    s->prefix_due = false;
    limit -= sizeof(s->prefix);
  }
  if (!s->source_ready || s->fin_sent || !limit) return true;
  for (; n < want && total < limit && next_buffer(n, &batch[n]); n++) {
    caps[n] = min_size(min_size(batch[n].len - sizeof(struct vsock_hdr), limit - total), VSOCK_MAX_PAYLOAD);
    unsigned k = iov_slice(batch[n].iov, batch[n].niov, sizeof(struct vsock_hdr), caps[n], iov + niov, CHAIN_IOVS - niov);
    if (k + niov == CHAIN_IOVS) break; // the slice may be cut: leave this buffer for the next turn
    niov += k;
    total += caps[n];
  }
  if (!n) return !ring_up(RING_TO_GUEST); // no buffers (or, with absurdly many pieces, nothing that fits: give up on it)
  long got = s->ops->fill(s, iov, niov, total);
  if (got == -2) {
    stream_end(s);
    return true;
  }
  if (got == -1) {
    s->fin_sent = true;
    pend(s, PEND_FIN);
    *more = true;
    return true;
  }
  s->bulk = got > 0 && (size_t)got == total;
  for (unsigned i = 0; i < n && got > 0; i++) {
    size_t part = min_size(caps[i], (size_t)got);
    put_header(&batch[i], s, VSOCK_OP_RW, 0, part);
    ring_used(RING_TO_GUEST, &batch[i], sizeof(struct vsock_hdr) + part);
    s->tx_cnt += (uint32_t)part;
    got -= (long)part;
  }
  *more = s->source_ready && credit(s);
  return true;
}

bool streams_to_guest(void) {
  if (!ring_up(RING_TO_GUEST)) return false;
  while (rst_count) {
    struct stream r = { .port = rsts[rst_head].host_port, .guest_port = rsts[rst_head].guest_port };
    if (!send_plain(&r, VSOCK_OP_RST, 0)) goto out;
    rst_head = (rst_head + 1) % ARRAY_SIZE(rsts);
    rst_count--;
  }
  // Every stream that is ready now gets one turn; those with more go to the end of the line.
  unsigned turns = 0;
  for (struct stream *s = ready_head; s; s = s->next) turns++;
  while (turns-- && ready_head) {
    struct stream *s = ready_head;
    bool more = false;
    if (!send_pending(s)) break;
    dequeue(s);
    if (s->state == STREAM_OPEN && !send_data(s, &more)) {
      enqueue(s);
      break;
    }
    if (more) enqueue(s);
  }
out:
  return ring_publish(RING_TO_GUEST);
}

// SPDX-License-Identifier: Apache-2.0
//
// Virtio-vsock streams (virtio 1.2, 5.10.6): the state machine, credit, and what to send when. The host is hostile: a
// packet for an unknown connection is answered with RST, a counter that it cannot have reached or data beyond the credit
// we gave resets that connection, lengths are compared with what the device wrote (threat-model T4, T5).
//
// Packets without payload (responses, credit, shutdown, resets) are bits in st->pending until there is a page for them.
// A stream that found no page is on the tx wait list; tx_space goes through it. A stream is in the table, with a
// reference, from its first packet until RST was sent or received.
// Locks: table_lock and tx_wait_lock (RANK_CONN) are never held together with a stream's.

#include "net/stream.h"
#include <linux/eventpoll.h>

#define BUCKETS 1024u
#define MAX_EMBRYOS 1024u     // opened by the bridge, prefix not yet read
#define MAX_CLOSING 8192u     // more of them are reset at once
#define MAX_STRAY 64u
#define FIRST_LOCAL_PORT 0x10000u

enum { PEND_RST = 1, PEND_REQUEST = 2, PEND_RESPONSE = 4, PEND_FIN = 8, PEND_CLOSE = 16, PEND_CREDIT = 32 };

static struct spinlock table_lock = SPINLOCK_INIT(RANK_CONN);
static struct list table[BUCKETS];
static u32 next_local_port = FIRST_LOCAL_PORT; // under table_lock
static struct spinlock tx_wait_lock = SPINLOCK_INIT(RANK_CONN);
static struct list tx_wait = LIST_INIT(tx_wait);
static struct { u32 local, peer; } stray[MAX_STRAY]; // resets for unknown connections, under tx_wait_lock
static u32 stray_count;
static u32 closing_count, embryo_count; // atomic
static bool dead;                        // the device ended
void (*vsock_on_data_stream)(struct stream *st);

bool vsock_up(void) { return vsockdev_present() && !READ_ONCE(dead); }
void vsock_kick(void) { vsockdev_kick(); }

// --- the table

static struct list *bucket(u32 local, u32 peer) { return &table[(peer * 2654435761u + local) >> 22]; }

static bool table_add(struct stream *st) {
  struct stream *it;
  u64 flags = spin_lock_irqsave(&table_lock);
  if (!st->local_port) st->local_port = next_local_port = next_local_port < 0xfffffff0u ? next_local_port + 1 : FIRST_LOCAL_PORT;
  struct list *b = bucket(st->local_port, st->peer_port);
  bool ok = true;
  list_for_each(it, b, hash) ok = ok && (it->local_port != st->local_port || it->peer_port != st->peer_port);
  if (ok) {
    stream_get(st);
    st->hashed = true;
    list_push_back(b, &st->hash);
  }
  spin_unlock_irqrestore(&table_lock, flags);
  return ok;
}

static void table_remove(struct stream *st) {
  u64 flags = spin_lock_irqsave(&table_lock);
  bool was = st->hashed;
  st->hashed = false;
  if (was) list_remove(&st->hash);
  spin_unlock_irqrestore(&table_lock, flags);
  if (was) stream_put(st);
}

static struct stream *table_find(u32 local, u32 peer) {
  struct stream *it, *found = NULL;
  u64 flags = spin_lock_irqsave(&table_lock);
  list_for_each(it, bucket(local, peer), hash) {
    if (it->local_port != local || it->peer_port != peer) continue;
    stream_get(it);
    found = it;
    break;
  }
  spin_unlock_irqrestore(&table_lock, flags);
  return found;
}

// --- sending

u32 vsock_credit_locked(const struct stream *st) {
  u32 flying = st->tx_cnt - st->peer_fwd;
  return st->peer_buf > flying ? st->peer_buf - flying : 0;
}

static void header(const struct stream *st, struct vsock_hdr *h, u16 op, u32 flags, u32 len) {
  *h = (struct vsock_hdr){ vsockdev_guest_cid(), VSOCK_CID_HOST, st->local_port, st->peer_port, len, VSOCK_TYPE_STREAM, op, flags,
                           st->rx_limit, st->fwd_cnt };
}

static void wait_for_page(struct stream *st) {
  u64 flags = spin_lock_irqsave(&tx_wait_lock);
  if (!st->in_tx_wait) {
    st->in_tx_wait = true;
    stream_get(st);
    list_push_back(&tx_wait, &st->tx_wait);
  }
  spin_unlock_irqrestore(&tx_wait_lock, flags);
}

// Sends what is pending. No lock held. Without a page the stream waits for tx_space: it is on the list before the last
// try, so that none is missed.
static void flush(struct stream *st) {
  static const struct { u8 bit, op, flags; } order[] = {
    { PEND_RST, VSOCK_OP_RST, 0 }, { PEND_REQUEST, VSOCK_OP_REQUEST, 0 }, { PEND_RESPONSE, VSOCK_OP_RESPONSE, 0 },
    { PEND_CREDIT, VSOCK_OP_CREDIT_UPDATE, 0 }, { PEND_FIN, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND },
    { PEND_CLOSE, VSOCK_OP_SHUTDOWN, VSOCK_SHUTDOWN_SEND | VSOCK_SHUTDOWN_RCV } };
  bool gone = false;
  while (READ_ONCE(st->pending)) {
    struct vsockdev_tx t;
    if (!vsockdev_reserve_header(&t)) {
      if (!vsock_up()) return;
      wait_for_page(st);
      if (!vsockdev_reserve_header(&t)) break;
    }
    u64 flags = spin_lock_irqsave(&st->lock);
    for (u32 i = 0; i < ARRAY_SIZE(order); i++) {
      if (!(st->pending & order[i].bit)) continue;
      struct vsock_hdr h;
      header(st, &h, order[i].op, order[i].flags, 0);
      st->fwd_told = st->fwd_cnt;
      st->pending = order[i].bit == PEND_RST ? 0 : (u8)(st->pending & ~order[i].bit);
      gone = order[i].bit == PEND_RST;
      vsockdev_commit(&t, (const u8 *)&h, 0);
      break;
    }
    spin_unlock_irqrestore(&st->lock, flags);
    vsockdev_release(&t); // if another CPU was faster
  }
  if (gone) table_remove(st);
  vsockdev_kick();
}

static void flush_strays(void) {
  struct vsockdev_tx t;
  for (;;) {
    if (!READ_ONCE(stray_count) || !vsockdev_reserve_header(&t)) break; // no page: tx_space calls again
    struct vsock_hdr h = { vsockdev_guest_cid(), VSOCK_CID_HOST, 0, 0, 0, VSOCK_TYPE_STREAM, VSOCK_OP_RST, 0, 0, 0 };
    u64 flags = spin_lock_irqsave(&tx_wait_lock);
    bool any = stray_count != 0;
    if (any) {
      stray_count--;
      h.src_port = stray[stray_count].local;
      h.dst_port = stray[stray_count].peer;
    }
    spin_unlock_irqrestore(&tx_wait_lock, flags);
    if (any) vsockdev_commit(&t, (const u8 *)&h, 0);
    vsockdev_release(&t);
  }
  vsockdev_kick();
}

static void reset_unknown(u32 local, u32 peer) {
  u64 flags = spin_lock_irqsave(&tx_wait_lock);
  if (stray_count < MAX_STRAY) { // else lost: the host asked for it
    stray[stray_count].local = local;
    stray[stray_count].peer = peer;
    stray_count++;
  }
  spin_unlock_irqrestore(&tx_wait_lock, flags);
  flush_strays();
}

static void tx_space(void) {
  struct list ready = LIST_INIT(ready);
  u64 flags = spin_lock_irqsave(&tx_wait_lock);
  list_splice_back(&ready, &tx_wait);
  while (!list_empty(&ready)) {
    struct stream *st = list_first_entry(&ready, struct stream, tx_wait);
    list_remove(&st->tx_wait);
    st->in_tx_wait = false;
    // The lists are ours alone only under the lock: another tx_space may run, but what is in `ready` nobody else takes,
    // and in_tx_wait is false only for what has left it.
    spin_unlock_irqrestore(&tx_wait_lock, flags);
    flags = spin_lock_irqsave(&st->lock);
    st->tx_nospace = false;
    if (st->tx_wanted) {
      st->tx_wanted = false;
      stream_wake_locked(st, EPOLLOUT | EPOLLWRNORM);
    }
    void (*event)(struct stream *) = st->on_event;
    spin_unlock_irqrestore(&st->lock, flags);
    flush(st);
    if (event) event(st);
    stream_put(st);
    flags = spin_lock_irqsave(&tx_wait_lock);
  }
  spin_unlock_irqrestore(&tx_wait_lock, flags);
  flush_strays();
}

long vsock_send_some(struct stream *st, struct iter *it) {
  struct vsockdev_tx t;
  u64 flags = spin_lock_irqsave(&st->lock);
  u32 want = (u32)MIN(MIN((u64)vsock_credit_locked(st), it->left), (u64)VSOCK_MAX_PAYLOAD);
  spin_unlock_irqrestore(&st->lock, flags);
  if (!want) return -EAGAIN;
  if (!vsockdev_reserve(&t, want)) {
    if (!vsock_up()) return -EPIPE;
    flags = spin_lock_irqsave(&st->lock);
    st->tx_nospace = true; // tx_space takes it back; before the list, so that it cannot come too early
    spin_unlock_irqrestore(&st->lock, flags);
    wait_for_page(st);
    if (!vsockdev_reserve(&t, want)) return -EAGAIN;
    flags = spin_lock_irqsave(&st->lock);
    st->tx_nospace = false;
    spin_unlock_irqrestore(&st->lock, flags);
  }
  u32 len = 0, n, got;
  do { // straight from the program into the device's pages
    u8 *p = vsockdev_piece(&t, len, &n);
    got = (u32)iter_from(it, p, n);
    len += got;
  } while (got == n && len < t.room);
  long r = len ? (long)len : -EFAULT;
  flags = spin_lock_irqsave(&st->lock);
  if (st->state != ST_OPEN || st->tx_dead || st->tx_shut) { // data after our FIN would be a lie, and the end of the stream
    r = -EPIPE;
  } else if (len) {
    struct vsock_hdr h;
    header(st, &h, VSOCK_OP_RW, 0, len);
    st->fwd_told = st->fwd_cnt;
    st->tx_cnt += len;
    vsockdev_commit(&t, (const u8 *)&h, len);
  }
  spin_unlock_irqrestore(&st->lock, flags);
  if (t.n) vsockdev_release(&t);
  return r;
}

static void pend(struct stream *st, u8 what) {
  u64 flags = spin_lock_irqsave(&st->lock);
  if (st->state != ST_DEAD) st->pending |= what;
  spin_unlock_irqrestore(&st->lock, flags);
  flush(st);
}

// The far end sees rx_cnt - fwd_told bytes of the limit taken. Above half of it it is told what was read, when that is
// worth a packet; what we send anyway carries it for nothing.
void vsock_consumed(struct stream *st) {
  u64 flags = spin_lock_irqsave(&st->lock);
  bool tell = st->state == ST_OPEN && !st->rx_eof && st->rx_cnt - st->fwd_told > st->rx_limit / 2 &&
              st->fwd_cnt - st->fwd_told >= st->rx_limit / 8;
  if (tell) st->pending |= PEND_CREDIT;
  spin_unlock_irqrestore(&st->lock, flags);
  if (tell) flush(st);
}

void vsock_shutdown(struct stream *st) { pend(st, PEND_FIN); }

void vsock_close(struct stream *st, bool abort) {
  u64 flags = spin_lock_irqsave(&st->lock);
  if (st->state != ST_DEAD) {
    if (!abort && st->state == ST_OPEN && READ_ONCE(closing_count) < MAX_CLOSING) {
      st->state = ST_CLOSING; // the table's reference keeps it until the far end has confirmed
      atomic_inc(&closing_count);
      st->pending |= PEND_CLOSE;
    } else {
      st->state = ST_DEAD;
      st->pending = PEND_RST;
    }
  }
  spin_unlock_irqrestore(&st->lock, flags);
  flush(st);
}

// The connection is over because of what came in: err for the owner. rst: tell the far end.
static void die_locked(struct stream *st, int err, bool rst) {
  if (st->state == ST_CLOSING) atomic_dec(&closing_count);
  st->pending = rst ? PEND_RST : 0;
  stream_fail_locked(st, err);
}

// --- receiving

struct rx_source { const struct shared_buf *b; u32 off; };
static void fill_shared(void *arg, u8 *dst, u32 off, u32 len) {
  const struct rx_source *s = arg;
  shared_read(dst, s->b, s->off + off, len);
}

static void incoming(const struct vsock_hdr *h) {
  void (*event)(struct stream *) = vsock_on_data_stream;
  struct stream *st = event && h->dst_port == WIRE_PORT_DATA && READ_ONCE(embryo_count) < MAX_EMBRYOS ? stream_alloc() : NULL;
  if (!st) return reset_unknown(h->dst_port, h->src_port);
  st->local_port = h->dst_port;
  st->peer_port = h->src_port;
  st->peer_buf = h->buf_alloc;
  st->peer_fwd = h->fwd_cnt;
  st->state = ST_OPEN;
  st->on_event = event;
  atomic_inc(&embryo_count);
  // The first reference is on_event's (vsock_embryo_done). Once the stream is in the table, a device that breaks now has it
  // called from another CPU, and the table's reference dropped.
  stream_get(st);
  if (h->fwd_cnt || !table_add(st)) { // nothing can have been forwarded; or the connection exists
    vsock_embryo_done();
    reset_unknown(h->dst_port, h->src_port);
    stream_put(st);
  } else {
    pend(st, PEND_RESPONSE);
  }
  stream_put(st);
}

void vsock_embryo_done(void) { atomic_dec(&embryo_count); }

// One packet for a known stream, under its lock.
static void packet_locked(struct stream *st, const struct vsock_hdr *h, struct rx_source *src) {
  if (h->op == VSOCK_OP_RST) // carries no credit
    return die_locked(st, st->state == ST_CONNECTING ? ECONNREFUSED : st->rx_eof && st->tx_shut ? 0 : ECONNRESET, false);
  if (h->fwd_cnt - st->peer_fwd > st->tx_cnt - st->peer_fwd) return die_locked(st, ECONNRESET, true); // more than was sent
  st->peer_fwd = h->fwd_cnt;
  st->peer_buf = h->buf_alloc;
  if (st->state == ST_CONNECTING) {
    if (h->op != VSOCK_OP_RESPONSE) return die_locked(st, ECONNRESET, true);
    st->state = ST_OPEN;
    return stream_wake_locked(st, EPOLLOUT);
  }
  if (st->tx_wanted && !st->tx_nospace && vsock_credit_locked(st)) {
    st->tx_wanted = false;
    stream_wake_locked(st, EPOLLOUT | EPOLLWRNORM);
  }
  switch (h->op) {
  case VSOCK_OP_RW:
    if (!h->len) return;
    if (st->state == ST_CLOSING) return die_locked(st, 0, true); // nobody will read it: as TCP, a reset
    if (st->rx_eof || st->rx_cnt - st->fwd_cnt > st->rx_limit || h->len > st->rx_limit - (st->rx_cnt - st->fwd_cnt))
      return die_locked(st, ECONNRESET, true); // beyond the credit
    st->rx_cnt += h->len;
    if (st->rx_shut) { // shutdown(SHUT_RD): taken and dropped
      st->fwd_cnt += h->len;
      return;
    }
    if (!stream_append_locked(st, h->len, fill_shared, src)) return die_locked(st, ENOBUFS, true);
    return stream_wake_locked(st, EPOLLIN | EPOLLRDNORM);
  case VSOCK_OP_SHUTDOWN:
    if (h->flags & VSOCK_SHUTDOWN_SEND) st->rx_eof = true;
    if (h->flags & VSOCK_SHUTDOWN_RCV) st->tx_dead = true;
    if (st->rx_eof && st->tx_dead) return die_locked(st, 0, true);
    return stream_wake_locked(st, EPOLLIN | EPOLLRDHUP | (st->tx_shut ? EPOLLHUP : 0u));
  case VSOCK_OP_CREDIT_UPDATE:
    return;
  case VSOCK_OP_CREDIT_REQUEST:
    st->pending |= PEND_CREDIT;
    return;
  default:
    return die_locked(st, ECONNRESET, true);
  }
}

static void rx(const u8 hdr[44], const struct shared_buf *b, u32 off, u32 len) {
  struct vsock_hdr h;
  memcpy(&h, hdr, sizeof(h));
  // Nothing of it can be trusted to name a connection: dropped.
  if (h.src_cid != VSOCK_CID_HOST || h.dst_cid != vsockdev_guest_cid() || h.type != VSOCK_TYPE_STREAM || h.len > len) return;
  if (h.op == VSOCK_OP_REQUEST) return incoming(&h);
  struct stream *st = table_find(h.dst_port, h.src_port);
  if (!st) {
    if (h.op != VSOCK_OP_RST) reset_unknown(h.dst_port, h.src_port);
    return;
  }
  struct rx_source src = { b, off };
  u64 flags = spin_lock_irqsave(&st->lock);
  bool was_dead = st->state == ST_DEAD;
  if (!was_dead) packet_locked(st, &h, &src);
  else if (h.op == VSOCK_OP_RST) st->pending = 0; // both sides at once
  bool over = st->state == ST_DEAD && !st->pending;
  void (*event)(struct stream *) = was_dead ? NULL : st->on_event;
  spin_unlock_irqrestore(&st->lock, flags);
  if (over) table_remove(st);
  else if (READ_ONCE(st->pending)) flush(st);
  if (event) event(st);
  stream_put(st);
}

struct stream *vsock_connect(u32 host_port, void (*on_event)(struct stream *st), void *owner) {
  struct stream *st = vsock_up() ? stream_alloc() : NULL;
  if (!st) return NULL;
  st->state = ST_CONNECTING;
  st->peer_port = host_port;
  st->on_event = on_event;
  st->owner = owner;
  if (!table_add(st)) {
    stream_put(st);
    return NULL;
  }
  pend(st, PEND_REQUEST);
  return st;
}

// The device lied and is gone: every stream fails.
static void broken(void) {
  WRITE_ONCE(dead, true);
  for (u32 i = 0; i < BUCKETS; i++) {
    for (;;) {
      u64 flags = spin_lock_irqsave(&table_lock);
      struct stream *st = list_empty(&table[i]) ? NULL : list_first_entry(&table[i], struct stream, hash);
      if (st) stream_get(st);
      spin_unlock_irqrestore(&table_lock, flags);
      if (!st) break;
      flags = spin_lock_irqsave(&st->lock);
      if (st->state != ST_DEAD) die_locked(st, ECONNRESET, false);
      st->pending = 0;
      st->tx_nospace = false;
      void (*event)(struct stream *) = st->on_event;
      spin_unlock_irqrestore(&st->lock, flags);
      table_remove(st);
      if (event) event(st);
      stream_put(st);
    }
  }
  tx_space(); // empties the wait list
}

void vsock_init(void) {
  static const struct vsockdev_ops ops = { rx, tx_space, broken };
  for (u32 i = 0; i < BUCKETS; i++) list_init(&table[i]);
  vsockdev_set_ops(&ops);
}

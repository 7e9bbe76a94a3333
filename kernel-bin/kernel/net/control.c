// SPDX-License-Identifier: Apache-2.0
//
// The control stream and the datagram stream to the bridge (docs/bridge-protocol.md). What we send is queued as whole
// messages, in a bounded amount, and written as far as credit goes by whoever is there (any context, `flushing` makes it
// one at a time). What comes is read by a kernel thread. The bridge is hostile: a message that is not exactly as it
// should be ends the stream, and with it the network; nothing waits for an answer without an end.

#include "net/inet.h"

#define CONTROL_QUEUE 65536u
#define DGRAM_QUEUE 262144u
// UNLISTEN, ACCEPTED, CANCEL, EXIT, UDP_CLOSE: what gives something back has room of its own behind a full queue. Lost,
// the bridge would keep the socket or the place in the backlog for ever.
#define SMALL_MESSAGE ((u32)sizeof(struct wire_u32))
#define EXIT_WAIT_NS (30 * NS_PER_SEC)
#define ERRNO_MAX 133u

struct message { struct list link; u32 len, off; u8 data[]; };
struct channel {
  struct spinlock lock;        // RANK_OBJECT, irqsave
  struct stream *st;           // owner's reference; NULL: not there
  struct list out;
  u32 out_bytes, out_max;
  bool flushing, again, failed; // failed: over for good
  struct work work;
  u8 *in;                      // the work's
  u32 in_len, in_max;
  bool (*got)(const struct wire_head *h); // one whole message; false: malformed
};

static bool control_got(const struct wire_head *h), dgram_got(const struct wire_head *h);
static u8 control_in[WIRE_CONTROL_MAX] __aligned(8);
static struct channel control = { .lock = SPINLOCK_INIT(RANK_OBJECT), .out = LIST_INIT(control.out), .out_max = CONTROL_QUEUE,
                                  .in = control_in, .in_max = sizeof(control_in), .got = control_got };
static struct channel dgram = { .lock = SPINLOCK_INIT(RANK_OBJECT), .out = LIST_INIT(dgram.out), .out_max = DGRAM_QUEUE,
                                .in_max = WIRE_DGRAM_MAX, .got = dgram_got };
static struct waitq exit_wait = WAITQ_INIT(exit_wait);
static bool exit_seen;
void (*control_on_signal)(int signo);
void (*control_on_winsize)(u16 rows, u16 cols) = tty_set_winsize;

// --- sending

static struct stream *channel_stream(struct channel *c) {
  u64 flags = spin_lock_irqsave(&c->lock);
  struct stream *st = c->st;
  if (st) stream_get(st);
  spin_unlock_irqrestore(&c->lock, flags);
  return st;
}

static void channel_flush(struct channel *c) {
  struct stream *st = channel_stream(c);
  if (!st) return;
  u64 flags = spin_lock_irqsave(&c->lock);
  if (c->flushing) {
    c->again = true; // whoever is at it looks again before it leaves
    spin_unlock_irqrestore(&c->lock, flags);
    return stream_put(st);
  }
  c->flushing = true;
  while (!list_empty(&c->out) && READ_ONCE(st->state) == ST_OPEN) {
    struct message *m = list_first_entry(&c->out, struct message, link);
    c->again = false;
    spin_unlock_irqrestore(&c->lock, flags);
    struct iter it;
    iter_kernel(&it, m->data + m->off, m->len - m->off);
    long r = vsock_send_some(st, &it); // flushing: there is no other sender
    flags = spin_lock_irqsave(&c->lock);
    if (r > 0) m->off += (u32)r;
    if (m->off == m->len) {
      list_remove(&m->link);
      c->out_bytes -= m->len;
      kfree(m);
    }
    if (r <= 0 && !c->again) break; // credit or a page will come, and with it on_event
  }
  c->flushing = false;
  spin_unlock_irqrestore(&c->lock, flags);
  vsock_kick();
  stream_put(st);
}

// Takes the message. 0, or -ENOBUFS, -ENETUNREACH: freed.
static int channel_put(struct channel *c, struct message *m) {
  int err = 0;
  u64 flags = spin_lock_irqsave(&c->lock);
  if (c->failed) err = -ENETUNREACH;
  else if (c->out_bytes + m->len > c->out_max + (m->len <= SMALL_MESSAGE ? c->out_max / 4 : 0)) err = -ENOBUFS;
  if (!err) {
    c->out_bytes += m->len;
    list_push_back(&c->out, &m->link);
  }
  spin_unlock_irqrestore(&c->lock, flags);
  if (err) kfree(m);
  else channel_flush(c);
  return err;
}

static int control_message(const void *data, u32 len) {
  struct message *m = kmalloc(sizeof(*m) + len, ALLOC_NORECLAIM);
  if (!m) return -ENOBUFS;
  *m = (struct message){ .len = len };
  memcpy(m->data, data, len);
  return channel_put(&control, m);
}

static int control_plain(u16 type, u32 id) {
  struct wire_head h = { sizeof(h), type, 0, id };
  return control_message(&h, sizeof(h));
}

static int control_u32(u16 type, u32 id, u32 value) {
  struct wire_u32 m = { { sizeof(m), type, 0, id }, value };
  return control_message(&m, sizeof(m));
}

bool control_ready(void) { return !READ_ONCE(control.failed); }

int control_listen(u32 id, const struct wire_addr *a, u32 backlog) {
  struct wire_listen m = { { sizeof(m), WIRE_LISTEN, 0, id }, *a, backlog };
  return control_message(&m, sizeof(m));
}
void control_unlisten(u32 id) { (void)control_plain(WIRE_UNLISTEN, id); }
void control_accepted(u32 id, u32 count) { (void)control_u32(WIRE_ACCEPTED, id, count); }
void control_cancel(u32 id) { (void)control_plain(WIRE_CANCEL, id); }
int control_connect(u32 id, const struct wire_addr *remote, const struct wire_addr *local) {
  struct wire_connect m = { { sizeof(m), WIRE_CONNECT, 0, id }, *remote, *local };
  return control_message(&m, sizeof(m));
}

void control_send_exit(int status) {
  if (control_u32(WIRE_EXIT, 1, (u32)status & 255)) {
    if (vsockdev_guest_cid()) printk(LOG_ERROR, "net: exit status %d was not sent: there is no stream to the bridge", status & 255);
    return;
  }
  (void)wait_event_deadline_mode(&exit_wait, READ_ONCE(exit_seen) || READ_ONCE(control.failed), time_ns() + EXIT_WAIT_NS, WAIT_UNINTERRUPTIBLE);
}

// Panicking: the other CPUs are stopped, perhaps inside a lock. Writes one packet past every queue when that is safe.
void control_send_last_words(const char *text) {
  struct stream *st = control.st;
  if (!st || st->state != ST_OPEN || !vsockdev_usable_in_panic()) return;
  u32 n = (u32)strnlen(text, WIRE_LAST_WORDS_MAX), room;
  struct wire_head head = { (u32)sizeof(head) + n, WIRE_LAST_WORDS, 0, 0 };
  // Inside another message it would not be understood.
  if (!list_empty(&control.out) && list_first_entry(&control.out, struct message, link)->off) return;
  struct vsockdev_tx t;
  if (vsockdev_reserve(&t, head.length) < head.length) return;
  u8 *p = vsockdev_piece(&t, 0, &room); // less than a page: one piece
  memcpy(p, &head, sizeof(head));
  memcpy(p + sizeof(head), text, n);
  struct vsock_hdr h = { vsockdev_guest_cid(), VSOCK_CID_HOST, st->local_port, st->peer_port, head.length, VSOCK_TYPE_STREAM,
                         VSOCK_OP_RW, 0, st->rx_limit, st->fwd_cnt };
  vsockdev_commit(&t, (const u8 *)&h, head.length);
  vsockdev_kick();
  vsockdev_drain_in_panic();
}

// --- receiving

static u32 wire_errno(u32 v) { return v >= 1 && v <= ERRNO_MAX ? v : EIO; }

static bool control_got(const struct wire_head *h) {
  const struct wire_u32 *m = (const void *)h;
  const struct wire_hello_ok *ok = (const void *)h;
  const struct wire_winsize *ws = (const void *)h;
  switch (h->type) {
  case WIRE_HELLO_OK: return h->length == sizeof(*ok) && ok->version == WIRE_VERSION;
  case WIRE_CONNECT_FAILED:
    if (h->length != sizeof(*m)) return false;
    inet_on_connect_failed(h->id, (int)wire_errno(m->value));
    return true;
  case WIRE_SIGNAL:
    if (h->length != sizeof(*m) || m->value < 1 || m->value > 64) return false;
    if (control_on_signal) control_on_signal((int)m->value);
    return true;
  case WIRE_WINSIZE:
    if (h->length != sizeof(*ws)) return false;
    if (control_on_winsize) control_on_winsize(ws->rows, ws->cols);
    return true;
  case WIRE_EXIT_OK:
    WRITE_ONCE(exit_seen, true);
    waitq_wake_all(&exit_wait);
    return h->length == sizeof(*m);
  default: return false; // REFUSED too
  }
}

static bool dgram_got(const struct wire_head *h) {
  const struct wire_udp_recv *r = (const void *)h;
  const struct wire_udp_error *e = (const void *)h;
  if (h->type == WIRE_UDP_RECV) {
    if (h->length < sizeof(*r) || h->length - sizeof(*r) > WIRE_UDP_MAX || !inet_wire_ok(&r->remote) || !inet_wire_ok(&r->local)) return false;
  } else if (h->type != WIRE_UDP_ERROR || h->length != sizeof(*e) || !inet_wire_ok(&e->remote)) {
    return false;
  }
  udp_on_message(h);
  return true;
}

static void channel_end(struct channel *c, const char *why) {
  struct list out = LIST_INIT(out);
  u64 flags = spin_lock_irqsave(&c->lock);
  struct stream *st = c->st;
  c->st = NULL;
  c->failed = true;
  if (!c->flushing) list_splice_back(&out, &c->out); // else they stay: bounded, and nothing is added any more
  c->out_bytes = 0;
  spin_unlock_irqrestore(&c->lock, flags);
  if (!st) return;
  while (!list_empty(&out)) {
    struct message *m = list_first_entry(&out, struct message, link);
    list_remove(&m->link);
    kfree(m);
  }
  stream_close(st, true);
  printk(LOG_WARN, "net: %s stream to the bridge ended: %s", c == &control ? "control" : "datagram", why);
  waitq_wake_all(&exit_wait);
  if (c == &control) inet_network_gone();
}

static void channel_work(struct work *w) {
  struct channel *c = container_of(w, struct channel, work);
  struct stream *st = channel_stream(c);
  if (!st) return;
  channel_flush(c);
  const char *bad = NULL;
  while (!bad) {
    struct wire_head *h = (void *)c->in;
    u32 want = c->in_len < sizeof(*h) ? (u32)sizeof(*h) : h->length;
    struct iter it;
    iter_kernel(&it, c->in + c->in_len, want - c->in_len);
    long r = stream_recv(st, &it, MSG_DONTWAIT, 0);
    if (r == -EAGAIN) break;
    if (r <= 0) {
      bad = READ_ONCE(st->state) == ST_CONNECTING ? NULL : "closed";
      break;
    }
    c->in_len += (u32)r;
    if (c->in_len == sizeof(*h) && (h->length < sizeof(*h) || h->length > c->in_max || h->zero)) bad = "malformed header";
    else if (c->in_len < sizeof(*h) || c->in_len < h->length) continue;
    else if (!c->got(h)) bad = "malformed message";
    else c->in_len = 0;
  }
  if (bad) channel_end(c, bad);
  stream_put(st);
}

// Any context: data, credit, an answer or the end.
static void channel_event(struct stream *st) {
  struct channel *c = st->owner;
  if (stream_readable(st) || READ_ONCE(st->rx_eof)) work_queue(&c->work);
  else channel_flush(c);
}

static bool channel_open(struct channel *c, u32 port) {
  struct stream *st = vsock_connect(port, channel_event, c);
  u64 flags = spin_lock_irqsave(&c->lock);
  c->st = st;
  c->failed = !st;
  spin_unlock_irqrestore(&c->lock, flags);
  if (st) work_queue(&c->work); // the answer, or the end, may have come before c->st was set
  return st != NULL;
}

// --- datagrams

// Opened when first needed; messages wait in the queue until the bridge has answered.
static bool dgram_open_once(void) {
  static bool tried;
  if (!__atomic_exchange_n(&tried, true, __ATOMIC_ACQ_REL)) {
    dgram.in = kmalloc(WIRE_DGRAM_MAX, 0);
    if (!dgram.in || !control_ready() || !channel_open(&dgram, WIRE_PORT_DGRAM)) WRITE_ONCE(dgram.failed, true);
  }
  return !READ_ONCE(dgram.failed);
}

int dgram_send(const void *head, u32 head_len, struct iter *data, u32 len) {
  if (!dgram_open_once()) return -ENETUNREACH;
  struct message *m = kmalloc(sizeof(*m) + head_len + len, 0);
  if (!m) return -ENOBUFS;
  *m = (struct message){ .len = head_len + len };
  memcpy(m->data, head, head_len);
  if (len && iter_from(data, m->data + head_len, len) != len) {
    kfree(m);
    return -EFAULT;
  }
  return channel_put(&dgram, m);
}

void net_init(void) {
  unix_init();
  netlink_init();
  work_init(&control.work, channel_work);
  work_init(&dgram.work, channel_work);
  vsock_init();
  inet_tcp_init();
  inet_udp_init();
  struct wire_hello hello = { { sizeof(hello), WIRE_HELLO, 0, 0 }, WIRE_HELLO_MAGIC, WIRE_VERSION, WIRE_VERSION, 0 };
  (void)control_message(&hello, sizeof(hello)); // first in the queue; sent when the bridge answers
  if (!channel_open(&control, WIRE_PORT_CONTROL)) printk(LOG_DEBUG, "net: no vsock device, only loopback");
}

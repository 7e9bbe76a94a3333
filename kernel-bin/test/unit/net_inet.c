// SPDX-License-Identifier: Apache-2.0
// Vsock streams against a peer that follows the protocol and one that lies; TCP and UDP sockets inside the guest and
// through a bridge that the test plays.
#include "net_mock.h"

#define PEER 70000u // the host's port of a stream
static struct vsock_hdr hdr_for(u32 gport, u32 hport, u16 op, u32 len, u32 buf, u32 fwd) {
  return (struct vsock_hdr){ 2, CID, hport, gport, len, 1, op, 0, buf, fwd };
}
static void rst_in(u32 gport, u32 hport) {
  struct vsock_hdr h = hdr_for(gport, hport, VSOCK_OP_RST, 0, 0, 0);
  inject(&h, NULL, 0);
}
// The next sent packet has this op; returns it (freed at the next call).
static struct vsock_hdr expect(u16 op) {
  static struct vsock_hdr h;
  struct sent *s = next_sent();
  CHECK(s && s->h.op == op);
  if (s && s->h.op != op) fprintf(stderr, "  op %u instead of %u\n", s->h.op, op);
  h = s ? s->h : (struct vsock_hdr){ 0 };
  free(s);
  return h;
}
static bool nothing_sent(void) {
  for (struct sent *s = sent_first; s; s = s->next) fprintf(stderr, "  sent: op %u from %u to %u, %u bytes\n", s->h.op, s->h.src_port, s->h.dst_port, s->len);
  return !sent_first;
}

// --- sockets

static struct socket *sock(int family, int type) {
  int err;
  struct socket *s = socket_create(family, type, 0, &err);
  CHECK(s && !err);
  return s;
}
static struct sockaddr_k in4(u8 a, u8 b, u8 c, u8 d, u16 port) {
  struct sockaddr_k k = { .family = AF_INET, .data = { (u8)(port >> 8), (u8)port, a, b, c, d } };
  return k;
}
static u16 port_of(struct socket *s) {
  struct sockaddr_k k;
  u32 len = sizeof(k);
  CHECK(s->ops->getname(s, &k, &len, false) == 0);
  return (u16)(k.data[0] << 8 | k.data[1]);
}
static long put(struct socket *s, const void *p, u64 n, u32 flags) {
  struct msg m = { 0 };
  iter_kernel(&m.it, (void *)p, n);
  return s->ops->sendmsg(s, &m, flags);
}
static long get(struct socket *s, void *p, u64 n, u32 flags) {
  struct msg m = { 0 };
  iter_kernel(&m.it, p, n);
  return s->ops->recvmsg(s, &m, flags);
}
#define NOWAIT 0x40u
#define PEEK 2u
#define WAITALL 0x100u

static struct socket *listener(int family, u16 *port) {
  struct socket *l = sock(family, 1);
  struct sockaddr_k any = { .family = (u16)family };
  CHECK(l->ops->bind(l, &any, 28) == 0);
  CHECK(l->ops->listen(l, 16) == 0);
  *port = port_of(l);
  return l;
}

static void tcp_pair(struct socket *out[2]) {
  u16 port;
  struct socket *l = listener(AF_INET, &port);
  struct sockaddr_k to = in4(127, 0, 0, 1, port);
  out[0] = sock(AF_INET, 1);
  CHECK(out[0]->ops->connect(out[0], &to, 16, 0) == 0);
  CHECK(l->ops->accept(l, &out[1], O_NONBLOCK_) == 0);
  socket_destroy(l);
}

static void test_loopback(void) {
  u16 port;
  struct socket *l = listener(AF_INET6, &port), *c = sock(AF_INET, 1), *a;
  struct sockaddr_k to = in4(127, 0, 0, 1, port), k;
  u32 len = sizeof(k);
  CHECK(l->ops->accept(l, &a, O_NONBLOCK_) == -EAGAIN);
  CHECK(!(l->ops->poll(l, NULL) & EPOLLIN));
  CHECK(c->ops->poll(c, NULL) & EPOLLHUP);
  CHECK(c->ops->connect(c, &to, 16, 0) == 0);
  CHECK(c->ops->connect(c, &to, 16, 0) == -EISCONN);
  CHECK(l->ops->poll(l, NULL) & EPOLLIN);
  CHECK(l->ops->accept(l, &a, O_NONBLOCK_) == 0);
  CHECK(a->ops->getname(a, &k, &len, true) == 0 && k.family == AF_INET6 && len == 28 && k.data[16] == 0xff && k.data[18] == 127);
  CHECK((u16)(k.data[0] << 8 | k.data[1]) == port_of(c));
  char b[64];
  CHECK(get(a, b, 64, NOWAIT) == -EAGAIN);
  CHECK(put(c, "hello ", 6, 0) == 6 && put(c, "world", 5, 0) == 5);
  CHECK(get(a, b, 64, PEEK) == 11 && !memcmp(b, "hello world", 11));
  CHECK(get(a, b, 64, PEEK | WAITALL | NOWAIT) == 11 && !memcmp(b, "hello world", 11)); // less than asked for: no more will come
  CHECK(get(a, b, 3, PEEK) == 3 && get(a, b, 6, 0) == 6 && get(a, b, 64, 0) == 5 && !memcmp(b, "world", 5));
  CHECK(a->ops->shutdown(a, 1) == 0 && put(a, "x", 1, 0) == -EPIPE);
  CHECK(get(c, b, 64, 0) == 0 && (c->ops->poll(c, NULL) & (EPOLLIN | EPOLLRDHUP)) == (EPOLLIN | EPOLLRDHUP));
  CHECK(!(c->ops->poll(c, NULL) & EPOLLHUP));
  CHECK(put(c, "late", 4, 0) == 4 && get(a, b, 64, 0) == 4); // half-closed only
  socket_destroy(a);
  CHECK(put(c, "x", 1, 0) == -EPIPE);
  socket_destroy(c);
  // A pending error ends what waits for more, and is the next call's.
  struct socket *e[2];
  tcp_pair(e);
  CHECK(put(e[0], "abc", 3, 0) == 3);
  e[1]->err = EIO;
  CHECK(get(e[1], b, 64, WAITALL) == 3 && get(e[1], b, 64, WAITALL) == -EIO);
  socket_destroy(e[0]);
  socket_destroy(e[1]);
  // Unread data at close is a reset for the other side.
  struct socket *p[2];
  tcp_pair(p);
  CHECK(put(p[0], "unread", 6, 0) == 6);
  socket_destroy(p[1]);
  CHECK(p[0]->ops->poll(p[0], NULL) & EPOLLERR);
  CHECK(get(p[0], b, 64, 0) == -ECONNRESET && get(p[0], b, 64, 0) == 0 && put(p[0], "x", 1, 0) == -EPIPE);
  socket_destroy(p[0]);
  // Nobody listens; the same port twice.
  c = sock(AF_INET, 1);
  to = in4(127, 0, 0, 1, 1);
  CHECK(c->ops->connect(c, &to, 16, 0) == -ECONNREFUSED);
  to = in4(8, 8, 8, 8, 80);
  CHECK(c->ops->bind(c, &to, 16) == -EINVAL || true); // bound by the failed connect, as on Linux
  socket_destroy(c);
  c = sock(AF_INET, 1);
  CHECK(c->ops->bind(c, &to, 16) == -EADDRNOTAVAIL);
  to = in4(127, 0, 0, 1, port);
  CHECK(c->ops->bind(c, &to, 16) == -EADDRINUSE); // the dual-stack wildcard covers it
  socket_destroy(c);
  // Connections nobody accepted are reset when the listener goes.
  c = sock(AF_INET, 1);
  CHECK(c->ops->connect(c, &to, 16, 0) == 0);
  socket_destroy(l);
  CHECK(get(c, b, 1, 0) == -ECONNRESET);
  socket_destroy(c);
}

static void test_reuseport(void) {
  struct socket *l[3], *c, *a;
  int v = 1;
  u16 port = 0;
  for (int i = 0; i < 3; i++) {
    l[i] = sock(AF_INET, 1);
    CHECK(socket_common_setopt(l[i], SO_REUSEPORT, &v, 4) == 0);
    struct sockaddr_k any = in4(0, 0, 0, 0, port);
    CHECK(l[i]->ops->bind(l[i], &any, 16) == 0 && l[i]->ops->listen(l[i], 8) == 0);
    port = port_of(l[i]);
  }
  unsigned seen = 0;
  for (int i = 0; i < 6; i++) {
    c = sock(AF_INET, 1);
    struct sockaddr_k to = in4(127, 0, 0, 1, port);
    CHECK(c->ops->connect(c, &to, 16, 0) == 0);
    for (unsigned k = 0; k < 3; k++)
      if (l[k]->ops->accept(l[k], &a, O_NONBLOCK_) == 0) {
        seen |= 1u << k;
        socket_destroy(a);
      }
    socket_destroy(c);
  }
  CHECK(seen == 7);
  for (int i = 0; i < 3; i++) socket_destroy(l[i]);
}

// Two threads, random pieces, everything arrives in order: no wake-up is lost (the mock panics after 20 s of sleep).
#define PUMP_BYTES (6u << 20)
static void *pump_out(void *arg) {
  struct socket *s = arg;
  static u8 b[70000];
  u64 seed = 12345;
  for (u32 at = 0; at < PUMP_BYTES;) {
    seed = seed * 6364136223846793005u + 1;
    u32 n = (seed >> 60) ? (u32)(seed >> 33) % 600 + 1 : (u32)(seed >> 33) % (u32)sizeof(b) + 1;
    n = MIN(n, PUMP_BYTES - at);
    for (u32 i = 0; i < n; i++) b[i] = (u8)((at + i) * 31 >> 2);
    long r = put(s, b, n, 0);
    ASSERT(r > 0);
    at += (u32)r;
  }
  s->ops->shutdown(s, 1);
  return NULL;
}
static void *pump_in(void *arg) {
  struct socket *s = arg;
  static u8 b[50000];
  u64 seed = 99, bad = 0;
  u32 at = 0;
  for (;;) {
    seed = seed * 6364136223846793005u + 1;
    long r = get(s, b, (u32)(seed >> 33) % sizeof(b) + 1, 0);
    ASSERT(r >= 0);
    if (!r) break;
    for (long i = 0; i < r; i++) bad += b[i] != (u8)((at + (u32)i) * 31 >> 2);
    at += (u32)r;
  }
  return (void *)(bad || at != PUMP_BYTES ? 1ul : 0ul);
}
static void test_pump(void) {
  struct socket *p[2];
  void *bad;
  tcp_pair(p);
  pthread_t out = mock_run(pump_out, p[0]), in = mock_run(pump_in, p[1]);
  pthread_join(out, NULL);
  pthread_join(in, &bad);
  CHECK(!bad);
  socket_destroy(p[0]);
  socket_destroy(p[1]);
}

static void test_udp_local(void) {
  struct socket *a = sock(AF_INET, 2), *b = sock(AF_INET, 2);
  struct sockaddr_k any = in4(127, 0, 0, 1, 0);
  CHECK(a->ops->bind(a, &any, 16) == 0);
  struct sockaddr_k to = in4(127, 0, 0, 1, port_of(a)), from;
  struct msg m = { .name = &to, .name_len = 16 };
  iter_kernel(&m.it, "one", 3);
  CHECK(b->ops->sendmsg(b, &m, 0) == 3);
  iter_kernel(&m.it, NULL, 0);
  CHECK(b->ops->sendmsg(b, &m, 0) == 0); // an empty one counts
  char buf[8];
  struct msg r = { .name = &from, .name_len = sizeof(from) };
  iter_kernel(&r.it, buf, 2);
  CHECK(a->ops->recvmsg(a, &r, 0) == 2 && (r.flags_out & 0x20) && (u16)(from.data[0] << 8 | from.data[1]) == port_of(b));
  CHECK(get(a, buf, 8, NOWAIT) == 0);
  CHECK(get(a, buf, 8, NOWAIT) == -EAGAIN);
  to = in4(127, 0, 0, 1, 9);
  CHECK(b->ops->connect(b, &to, 16, 0) == 0);
  CHECK(put(b, "x", 1, 0) == 1 && put(b, "x", 1, 0) == -ECONNREFUSED);
  // The queue is bounded.
  to = in4(127, 0, 0, 1, port_of(a));
  CHECK(b->ops->connect(b, &to, 16, 0) == 0);
  static u8 big[60000];
  for (int i = 0; i < 20; i++) CHECK(put(b, big, sizeof(big), 0) == sizeof(big));
  int n = 0;
  while (get(a, big, sizeof(big), NOWAIT) > 0) n++;
  CHECK(n == 3);
  CHECK(put(b, big, 65508, 0) == -EMSGSIZE);
  socket_destroy(a);
  socket_destroy(b);
}

static void test_options(void) {
  struct socket *s = sock(AF_INET6, 1);
  int v = 5;
  u32 len = 4;
  CHECK(s->ops->setsockopt(s, 6, 1, &v, 4) == 0 && s->ops->getsockopt(s, 6, 1, &v, &len) == 0 && v == 1); // TCP_NODELAY
  v = 100;
  CHECK(s->ops->setsockopt(s, 6, 4, &v, 4) == 0 && s->ops->getsockopt(s, 6, 4, &v, &len) == 0 && v == 100); // TCP_KEEPIDLE
  v = 0;
  CHECK(s->ops->setsockopt(s, 6, 4, &v, 4) == -EINVAL);
  CHECK(s->ops->setsockopt(s, 6, 4, &v, 2) == -EINVAL);
  CHECK(s->ops->setsockopt(s, 6, 250, &v, 4) == -ENOPROTOOPT);
  char name[16];
  len = sizeof(name);
  CHECK(s->ops->getsockopt(s, 6, 13, name, &len) == 0 && !strcmp(name, "cubic"));
  CHECK(s->ops->setsockopt(s, 6, 13, "bogus", 5) == -ENOENT);
  u8 info[300];
  len = sizeof(info);
  CHECK(s->ops->getsockopt(s, 6, 11, info, &len) == 0 && len >= 104 && info[0] == TCPS_CLOSE);
  socket_destroy(s);
}

// --- the bridge, played

static u32 control_port; // the kernel's port of the control stream

static void say(u32 gport, u32 hport, const void *p, u32 n) {
  struct vsock_hdr h = hdr_for(gport, hport, VSOCK_OP_RW, n, 1 << 20, 0);
  inject(&h, p, n);
}

static void bridge_up(void) {
  net_init();
  struct vsock_hdr h = expect(VSOCK_OP_REQUEST);
  CHECK(h.dst_port == WIRE_PORT_CONTROL && h.src_cid == CID && h.dst_cid == 2 && h.buf_alloc >= STREAM_RX_SMALL);
  control_port = h.src_port;
  h = hdr_for(control_port, WIRE_PORT_CONTROL, VSOCK_OP_RESPONSE, 0, 1 << 20, 0);
  inject(&h, NULL, 0);
  struct sent *s = next_sent();
  struct wire_hello *hello = (void *)s->data;
  CHECK(s && s->len == sizeof(*hello) && hello->h.type == WIRE_HELLO && hello->magic == WIRE_HELLO_MAGIC);
  free(s);
  struct wire_hello_ok ok = { { sizeof(ok), WIRE_HELLO_OK, 0, 0 }, 1, 0, 0 };
  say(control_port, WIRE_PORT_CONTROL, &ok, sizeof(ok));
  mock_work_flush();
}

static void *message_sent(u16 type, u32 gport) { // body of the next message; static
  static u8 buf[70000] __aligned(8);
  struct sent *s = next_sent();
  CHECK(s && s->h.op == VSOCK_OP_RW && s->h.src_port == gport && ((struct wire_head *)s->data)->type == type);
  if (s) memcpy(buf, s->data, MIN(s->len, (u32)sizeof(buf)));
  free(s);
  return buf;
}

static u32 next_peer = PEER;
// The bridge opens a stream and sends the prefix.
static u32 open_stream(u16 kind, u32 id) {
  u32 hport = next_peer++;
  struct vsock_hdr h = hdr_for(WIRE_PORT_DATA, hport, VSOCK_OP_REQUEST, 0, 65536, 0);
  inject(&h, NULL, 0);
  h = expect(VSOCK_OP_RESPONSE);
  CHECK(h.dst_port == hport && h.src_port == WIRE_PORT_DATA);
  struct wire_prefix p = { WIRE_PREFIX_MAGIC, kind, 0, id, 0, { .family = 4, .port = 4321, .ip = { 192, 0, 2, 7 } }, { .family = 4, .port = 80, .ip = { 192, 0, 2, 1 } } };
  h = hdr_for(WIRE_PORT_DATA, hport, VSOCK_OP_RW, sizeof(p), 65536, 0);
  inject(&h, &p, sizeof(p));
  return hport;
}

static struct socket *accepted(struct socket **l_out, u32 *hport) {
  struct socket *l, *a = NULL;
  u16 port;
  l = listener(AF_INET, &port);
  struct wire_listen *m = message_sent(WIRE_LISTEN, control_port);
  CHECK(m->addr.port == port && m->backlog == 16);
  *hport = open_stream(WIRE_KIND_ACCEPTED, m->h.id);
  CHECK(l->ops->accept(l, &a, O_NONBLOCK_) == 0 && port_of(a) == port); // whatever the bridge says: 80
  *l_out = l;
  return a;
}

static void gone(struct socket *l) {
  socket_destroy(l);
  message_sent(WIRE_UNLISTEN, control_port);
}

static void test_accept(void) {
  struct socket *l, *a;
  u32 hport;
  a = accepted(&l, &hport);
  struct sockaddr_k k;
  u32 len = sizeof(k);
  CHECK(a->ops->getname(a, &k, &len, true) == 0 && k.data[2] == 192 && k.data[5] == 7);
  say(WIRE_PORT_DATA, hport, "GET", 3);
  char b[16];
  CHECK(get(a, b, 16, 0) == 3 && !memcmp(b, "GET", 3));
  CHECK(put(a, "+OK", 3, 0) == 3);
  struct sent *s = next_sent();
  CHECK(s && s->h.op == VSOCK_OP_RW && s->len == 3 && !memcmp(s->data, "+OK", 3) && s->h.fwd_cnt == 64 + 3);
  free(s);
  // The peer's FIN, then ours.
  struct vsock_hdr h = hdr_for(WIRE_PORT_DATA, hport, VSOCK_OP_SHUTDOWN, 0, 65536, 3);
  h.flags = 2;
  inject(&h, NULL, 0);
  CHECK(get(a, b, 16, 0) == 0 && put(a, "rest", 4, 0) == 4);
  free(next_sent());
  socket_destroy(a);
  h = expect(VSOCK_OP_SHUTDOWN);
  CHECK(h.flags == 3);
  rst_in(WIRE_PORT_DATA, hport);
  CHECK(nothing_sent());
  // A reset shows as one, once.
  struct wire_listen *m = NULL;
  (void)m;
  gone(l);
  a = accepted(&l, &hport);
  say(WIRE_PORT_DATA, hport, "x", 1);
  rst_in(WIRE_PORT_DATA, hport);
  CHECK(get(a, b, 16, 0) == 1 && get(a, b, 16, 0) == -ECONNRESET && get(a, b, 16, 0) == 0 && put(a, "x", 1, 0) == -EPIPE);
  socket_destroy(a);
  CHECK(nothing_sent());
  gone(l);
  // Unread data, or SO_LINGER 0: our close is a reset.
  a = accepted(&l, &hport);
  say(WIRE_PORT_DATA, hport, "unread", 6);
  socket_destroy(a);
  expect(VSOCK_OP_RST);
  say(WIRE_PORT_DATA, hport, "late", 4); // and what still comes is answered with one
  expect(VSOCK_OP_RST);
  gone(l);
}

static void test_connect(void) {
  struct socket *s = sock(AF_INET, 1);
  struct sockaddr_k to = in4(192, 0, 2, 7, 4321);
  char b[4];
  CHECK(s->ops->connect(s, &to, 16, O_NONBLOCK_) == -EINPROGRESS && s->ops->connect(s, &to, 16, O_NONBLOCK_) == -EALREADY);
  CHECK(!(s->ops->poll(s, NULL) & EPOLLOUT));
  struct wire_connect *c = message_sent(WIRE_CONNECT, control_port);
  u32 id = c->h.id;
  CHECK(c->remote.port == 4321 && c->remote.ip[0] == 192);
  u32 hport = open_stream(WIRE_KIND_CONNECTED, id);
  CHECK(s->ops->poll(s, NULL) & EPOLLOUT);
  CHECK(s->ops->connect(s, &to, 16, O_NONBLOCK_) == 0 && s->ops->connect(s, &to, 16, 0) == -EISCONN);
  CHECK(port_of(s) == 80);
  // The same answer again is nobody's: reset.
  open_stream(WIRE_KIND_CONNECTED, id);
  expect(VSOCK_OP_RST);
  socket_destroy(s);
  expect(VSOCK_OP_SHUTDOWN);
  rst_in(WIRE_PORT_DATA, hport);
  // Refused.
  s = sock(AF_INET, 1);
  CHECK(s->ops->connect(s, &to, 16, O_NONBLOCK_) == -EINPROGRESS);
  id = ((struct wire_connect *)message_sent(WIRE_CONNECT, control_port))->h.id;
  struct wire_u32 f = { { sizeof(f), WIRE_CONNECT_FAILED, 0, id }, ECONNREFUSED };
  say(control_port, WIRE_PORT_CONTROL, &f, sizeof(f));
  mock_work_flush();
  CHECK((s->ops->poll(s, NULL) & (EPOLLOUT | EPOLLERR)) == (EPOLLOUT | EPOLLERR));
  CHECK(socket_take_err(s) == -ECONNREFUSED);
  CHECK(get(s, b, 1, 0) == -ENOTCONN);
  // Again, and given up before the answer: the stream that comes all the same is reset.
  CHECK(s->ops->connect(s, &to, 16, O_NONBLOCK_) == -EINPROGRESS);
  id = ((struct wire_connect *)message_sent(WIRE_CONNECT, control_port))->h.id;
  socket_destroy(s);
  CHECK(((struct wire_head *)message_sent(WIRE_CANCEL, control_port))->id == id);
  open_stream(WIRE_KIND_CONNECTED, id);
  expect(VSOCK_OP_RST);
}

static struct socket *shutting;
static void shut_now(void) { CHECK(shutting->ops->shutdown(shutting, 1) == 0); }

static void test_credit(void) {
  struct socket *l, *a;
  u32 hport, total = 0;
  a = accepted(&l, &hport); // the peer announced 65536
  static u8 b[300000];
  long r = put(a, b, sizeof(b), NOWAIT);
  CHECK(r == 65536 && put(a, b, 1, NOWAIT) == -EAGAIN && !(a->ops->poll(a, NULL) & EPOLLOUT));
  for (struct sent *s; (s = next_sent()); free(s)) total += s->len;
  CHECK(total == 65536);
  struct vsock_hdr h = hdr_for(WIRE_PORT_DATA, hport, VSOCK_OP_CREDIT_UPDATE, 0, 65536, 1000);
  inject(&h, NULL, 0);
  CHECK((a->ops->poll(a, NULL) & EPOLLOUT) && put(a, b, 5000, NOWAIT) == 1000);
  drop_sent();
  h.buf_alloc = 10; // shrinks below what is in flight: no credit, and no wrap
  inject(&h, NULL, 0);
  CHECK(put(a, b, 1, NOWAIT) == -EAGAIN);
  h.fwd_cnt = 66537; // one more than was ever sent: a lie ends the stream
  inject(&h, NULL, 0);
  expect(VSOCK_OP_RST);
  CHECK(put(a, b, 1, 0) == -ECONNRESET && put(a, b, 1, 0) == -EPIPE);
  socket_destroy(a);
  gone(l);
  // Receiving: the limit holds to the byte; what was read is announced now and then, not for every read.
  a = accepted(&l, &hport);
  struct stream *st = tsock(a)->st;
  u32 limit = st->rx_limit;
  for (u32 at = 0; at < limit; at += 4096) {
    h = hdr_for(WIRE_PORT_DATA, hport, VSOCK_OP_RW, 4096, 65536, 0);
    inject(&h, b, 4096);
  }
  CHECK(nothing_sent() && stream_readable(st) == limit);
  u32 updates = 0;
  for (u32 got = 0; got < limit;) {
    r = get(a, b, 1000, 0);
    CHECK(r > 0);
    got += (u32)MAX(r, 1l);
    for (struct sent *s; (s = next_sent()); free(s)) updates += s->h.op == VSOCK_OP_CREDIT_UPDATE;
  }
  CHECK(updates >= 2 && updates <= 9);
  socket_destroy(a);
  expect(VSOCK_OP_SHUTDOWN);
  rst_in(WIRE_PORT_DATA, hport);
  gone(l);
  a = accepted(&l, &hport);
  for (u32 at = 0; at < limit; at += 4096) {
    h = hdr_for(WIRE_PORT_DATA, hport, VSOCK_OP_RW, 4096, 65536, 0);
    inject(&h, b, 4096);
  }
  say(WIRE_PORT_DATA, hport, "x", 1); // beyond
  expect(VSOCK_OP_RST);
  socket_destroy(a);
  gone(l);
  // Another thread shuts down while this one sends: nothing comes after the FIN.
  shutting = a = accepted(&l, &hport);
  mock_meanwhile = shut_now;
  CHECK(put(a, b, 5, 0) == -EPIPE);
  CHECK(expect(VSOCK_OP_SHUTDOWN).flags == VSOCK_SHUTDOWN_SEND && nothing_sent());
  say(WIRE_PORT_DATA, hport, "answer", 6);
  CHECK(get(a, b, 10, 0) == 6);
  socket_destroy(a);
  expect(VSOCK_OP_SHUTDOWN);
  rst_in(WIRE_PORT_DATA, hport);
  gone(l);
}

static void test_full_device(void) {
  struct socket *l, *a;
  u32 hport;
  a = accepted(&l, &hport);
  static u8 b[20000];
  mock_room(0);
  CHECK(put(a, b, 100, NOWAIT) == -EAGAIN && !(a->ops->poll(a, NULL) & EPOLLOUT));
  CHECK(a->ops->shutdown(a, 1) == 0); // must go out later
  CHECK(nothing_sent());
  mock_room(128);
  struct vsock_hdr h = expect(VSOCK_OP_SHUTDOWN);
  CHECK(h.flags == 2);
  mock_room(0);
  socket_destroy(a);
  for (u32 i = 0; i < 200; i++) say(WIRE_PORT_DATA, 5, "?", 1); // resets for strangers are bounded
  mock_room(128);
  u32 closes = 0, rsts = 0;
  for (struct sent *s; (s = next_sent()); free(s)) {
    closes += s->h.op == VSOCK_OP_SHUTDOWN && s->h.flags == 3;
    rsts += s->h.op == VSOCK_OP_RST;
  }
  CHECK(closes == 1 && rsts == MAX_STRAY);
  rst_in(WIRE_PORT_DATA, hport);
  gone(l);
  // Room for two pages: a large packet goes out in pieces, in order.
  a = accepted(&l, &hport);
  for (u32 i = 0; i < sizeof(b); i++) b[i] = (u8)(i * 7);
  mock_pages = 2;
  u32 at = 0, bad = 0;
  CHECK(put(a, b, sizeof(b), NOWAIT) == sizeof(b));
  for (struct sent *s; (s = next_sent()); free(s)) {
    CHECK(s->len <= 2 * 4096 - 44);
    for (u32 i = 0; i < s->len; i++) bad += s->data[i] != (u8)((at + i) * 7);
    at += s->len;
  }
  CHECK(at == sizeof(b) && !bad);
  mock_pages = 128;
  socket_destroy(a);
  drop_sent();
  rst_in(WIRE_PORT_DATA, hport);
  gone(l);
}

static void test_backlog(void) {
  u16 port;
  struct socket *l = listener(AF_INET, &port), *a;
  u32 id = ((struct wire_listen *)message_sent(WIRE_LISTEN, control_port))->h.id, first = next_peer;
  for (int i = 0; i < 16; i++) open_stream(WIRE_KIND_ACCEPTED, id);
  CHECK(nothing_sent());
  open_stream(WIRE_KIND_ACCEPTED, id); // one too many
  expect(VSOCK_OP_RST);
  // Accepting is reported in batches of half the backlog; the refused one counts.
  u32 reported = 0;
  for (int i = 0; i < 16; i++) {
    CHECK(l->ops->accept(l, &a, O_NONBLOCK_) == 0);
    socket_destroy(a);
  }
  for (struct sent *s; (s = next_sent()); free(s))
    if (s->h.op == VSOCK_OP_RW && ((struct wire_head *)s->data)->type == WIRE_ACCEPTED) reported += ((struct wire_u32 *)s->data)->value;
  CHECK(reported == 16);
  for (u32 p = first; p < next_peer; p++) rst_in(WIRE_PORT_DATA, p);
  // Streams without a prefix are bounded, and a prefix that makes no sense ends its stream.
  u32 refused = 0;
  for (u32 i = 0; i < MAX_EMBRYOS + 50; i++) {
    struct vsock_hdr h = hdr_for(WIRE_PORT_DATA, 200000 + i, VSOCK_OP_REQUEST, 0, 65536, 0);
    inject(&h, NULL, 0);
  }
  for (struct sent *s; (s = next_sent()); free(s)) refused += s->h.op == VSOCK_OP_RST;
  CHECK(refused == 50);
  struct wire_prefix p = { 0 };
  say(WIRE_PORT_DATA, 200000, &p, sizeof(p));
  expect(VSOCK_OP_RST);
  for (u32 i = 1; i < MAX_EMBRYOS; i++) rst_in(WIRE_PORT_DATA, 200000 + i);
  CHECK(nothing_sent());
  // A policy with a list of ports: no other is reached from outside.
  __typeof__(*policy.publish) list[2] = { { 1, false }, { port, true } };
  policy.publish = list;
  policy.publish_n = 2;
  u32 shut = open_stream(WIRE_KIND_ACCEPTED, id);
  expect(VSOCK_OP_RST);
  CHECK(l->ops->accept(l, &a, O_NONBLOCK_) == -EAGAIN);
  list[0].port = port;
  u32 open = open_stream(WIRE_KIND_ACCEPTED, id);
  CHECK(l->ops->accept(l, &a, O_NONBLOCK_) == 0);
  socket_destroy(a);
  policy.publish_n = 0;
  for (struct sent *s; (s = next_sent()); free(s)) {}
  rst_in(WIRE_PORT_DATA, shut);
  rst_in(WIRE_PORT_DATA, open);
  gone(l);
  open_stream(WIRE_KIND_ACCEPTED, id); // to a listener that is gone
  expect(VSOCK_OP_RST);
}

// The bridge refuses a channel before channel_open is back: whoever waits for it must not wait for ever.
static void refuse_now(void) {
  rst_in(next_local_port, 4711);
  mock_work_flush();
}
static void test_refused_at_once(void) {
  static u8 in[WIRE_CONTROL_MAX] __aligned(8);
  static struct channel c = { .lock = SPINLOCK_INIT(RANK_OBJECT), .out = LIST_INIT(c.out), .in = in, .in_max = sizeof(in), .got = dgram_got };
  work_init(&c.work, channel_work);
  mock_meanwhile = refuse_now;
  CHECK(channel_open(&c, 4711));
  mock_work_flush();
  CHECK(c.failed && !c.st);
  drop_sent();
}

static void test_udp_bridge(void) {
  struct socket *s = sock(AF_INET, 2);
  struct sockaddr_k to = in4(192, 0, 2, 7, 53);
  CHECK(s->ops->connect(s, &to, 16, 0) == 0);
  CHECK(put(s, "query", 5, 0) == 5);
  struct vsock_hdr h = expect(VSOCK_OP_REQUEST);
  CHECK(h.dst_port == WIRE_PORT_DGRAM);
  u32 gport = h.src_port;
  h = hdr_for(gport, WIRE_PORT_DGRAM, VSOCK_OP_RESPONSE, 0, 1 << 20, 0);
  inject(&h, NULL, 0);
  u32 id = ((struct wire_udp_open *)message_sent(WIRE_UDP_OPEN, gport))->h.id;
  struct wire_udp_send *q = message_sent(WIRE_UDP_SEND, gport);
  CHECK(q->h.id == id && q->remote.port == 53 && !memcmp(q + 1, "query", 5));
  struct { struct wire_udp_recv r; char d[6]; } __packed ans = { { { sizeof(ans), WIRE_UDP_RECV, 0, id }, q->remote, { .family = 4, .port = 9 } }, "answer" };
  say(gport, WIRE_PORT_DGRAM, &ans, sizeof(ans) - 3); // in two pieces
  say(gport, WIRE_PORT_DGRAM, (u8 *)&ans + sizeof(ans) - 3, 3);
  char b[16];
  CHECK(get(s, b, 16, 0) == 6 && !memcmp(b, "answer", 6)); // sleeps until the work has read it
  ans.r.remote.port = 54; // not the peer it is connected to
  say(gport, WIRE_PORT_DGRAM, &ans, sizeof(ans));
  mock_work_flush();
  CHECK(get(s, b, 16, NOWAIT) == -EAGAIN);
  struct wire_udp_error e = { { sizeof(e), WIRE_UDP_ERROR, 0, id }, { .family = 4, .port = 53, .ip = { 192, 0, 2, 7 } }, EACCES };
  say(gport, WIRE_PORT_DGRAM, &e, sizeof(e));
  mock_work_flush();
  CHECK(get(s, b, 16, NOWAIT) == -EACCES);
  // Loopback stays in the guest: nothing for a socket that is bound there, whatever number the bridge gives, and nothing
  // that says it comes from there.
  struct socket *inner = sock(AF_INET, 2);
  struct sockaddr_k lo = in4(127, 0, 0, 1, 0);
  CHECK(inner->ops->bind(inner, &lo, 16) == 0);
  ans.r.remote.port = 53;
  ans.r.h.id = id + 1;
  say(gport, WIRE_PORT_DGRAM, &ans, sizeof(ans));
  lo.family = AF_UNSPEC;
  CHECK(s->ops->connect(s, &lo, 16, 0) == 0);
  ans.r.h.id = id;
  ans.r.remote = (struct wire_addr){ .family = 4, .port = 53, .ip = { 127, 0, 0, 1 } };
  say(gport, WIRE_PORT_DGRAM, &ans, sizeof(ans));
  mock_work_flush();
  CHECK(get(inner, b, 16, NOWAIT) == -EAGAIN && get(s, b, 16, NOWAIT) == -EAGAIN);
  socket_destroy(inner);
  // A policy with a list of ports: a server on another one is not heard of, and takes nothing from outside.
  __typeof__(*policy.publish) list[2] = { { 500, false }, { 501, true } };
  policy.publish = list;
  policy.publish_n = 2;
  ans.r.remote = (struct wire_addr){ .family = 4, .port = 53, .ip = { 192, 0, 2, 7 } };
  for (u16 p = 500; p <= 501; p++) {
    struct sockaddr_k any = in4(0, 0, 0, 0, p);
    inner = sock(AF_INET, 2);
    CHECK(inner->ops->bind(inner, &any, 16) == 0);
    ans.r.h.id = usock(inner)->id;
    say(gport, WIRE_PORT_DGRAM, &ans, sizeof(ans));
    mock_work_flush();
    CHECK(get(inner, b, 16, NOWAIT) == (p == 501 ? 6 : -EAGAIN));
    if (p == 501) CHECK(((struct wire_udp_open *)message_sent(WIRE_UDP_OPEN, gport))->local.port == 501);
    socket_destroy(inner);
    if (p == 501) message_sent(WIRE_UDP_CLOSE, gport);
  }
  policy.publish_n = 0;
  CHECK(nothing_sent());
  struct wire_addr mapped = { .family = 6, .ip = { [10] = 0xff, 0xff, 127, 0, 0, 1 } }, six = { .family = 6, .ip = { [15] = 1 } };
  CHECK(!inet_wire_ok(&mapped) && inet_wire_ok(&six)); // it would be ::ffff:127.0.0.1 to the program
  // A full queue loses datagrams, but not that the socket is gone.
  h = hdr_for(gport, WIRE_PORT_DGRAM, VSOCK_OP_CREDIT_UPDATE, 0, 0, 0);
  inject(&h, NULL, 0);
  CHECK(s->ops->connect(s, &to, 16, 0) == 0);
  static u8 some[28]; // with its header a divisor of the queue's size
  for (u32 i = 0; i < DGRAM_QUEUE / 64 + 10; i++) CHECK(put(s, some, sizeof(some), 0) == sizeof(some));
  CHECK(dgram.out_bytes == DGRAM_QUEUE);
  socket_destroy(s);
  CHECK(dgram.out_bytes == DGRAM_QUEUE + sizeof(struct wire_head));
  h = hdr_for(gport, WIRE_PORT_DGRAM, VSOCK_OP_CREDIT_UPDATE, 0, 1 << 20, 0);
  inject(&h, NULL, 0);
  u16 last = 0;
  for (struct sent *p; (p = next_sent()); free(p)) last = ((struct wire_head *)p->data)->type;
  CHECK(last == WIRE_UDP_CLOSE && dgram.out_bytes == 0);
}

// Random packets on a few connections: only memory safety, and that everything can still be torn down.
static void test_random(void) {
  struct socket *l, *a[4];
  u32 hport[4];
  u16 port;
  l = listener(AF_INET, &port);
  u32 id = ((struct wire_listen *)message_sent(WIRE_LISTEN, control_port))->h.id;
  static u8 data[5000];
  for (int round = 0; round < 300; round++) {
    u32 from = next_peer;
    for (int i = 0; i < 4; i++) {
      hport[i] = open_stream(WIRE_KIND_ACCEPTED, id);
      CHECK(l->ops->accept(l, &a[i], O_NONBLOCK_) == 0);
    }
    for (int k = 0; k < 100; k++) {
      u64 r = unit_random();
      int i = (int)(r & 3);
      u32 len = (u32)(r >> 8) % sizeof(data), fwd = tsock(a[i])->st->tx_cnt;
      struct vsock_hdr h = hdr_for(WIRE_PORT_DATA, hport[i], (u16)(1 + (r >> 20) % 8), len, 65536, fwd);
      if ((r >> 24) % 8) h.op = VSOCK_OP_RW;
      if ((r >> 28) % 16 == 0) h.len = (u32)unit_random();
      if ((r >> 32) % 16 == 0) h.fwd_cnt = (u32)unit_random();
      if ((r >> 36) % 16 == 0) h.buf_alloc = (u32)unit_random();
      if ((r >> 40) % 16 == 0) h.flags = (u32)unit_random();
      if ((r >> 44) % 32 == 0) h.src_port = (u32)unit_random();
      if ((r >> 49) % 32 == 0) h.type = 2;
      if ((r >> 54) % 32 == 0) h.dst_cid = unit_random();
      if (h.src_port == WIRE_PORT_CONTROL || (h.op == VSOCK_OP_REQUEST && h.src_port != hport[i])) continue; // would stay
      inject(&h, data, len);
      mock_room((r >> 59) % 4 ? 128 : 0);
      if (r >> 63) get(a[(i + 1) & 3], data, (u32)(r >> 3) % sizeof(data) + 1, NOWAIT);
      else put(a[(i + 2) & 3], data, (u32)(r >> 3) % sizeof(data), NOWAIT);
      struct stream *st = tsock(a[i])->st;
      CHECK(st->rx_bytes <= st->rx_limit);
    }
    for (int i = 0; i < 4; i++) socket_destroy(a[i]);
    mock_room(128);
    for (u32 p = from; p < next_peer; p++) rst_in(WIRE_PORT_DATA, p);
    drop_sent();
  }
  CHECK(READ_ONCE(closing_count) == 0 && READ_ONCE(embryo_count) == 0);
  gone(l);
}

static void test_exit_and_lies(void) {
  // EXIT waits for its answer.
  struct wire_u32 ok = { { sizeof(ok), WIRE_EXIT_OK, 0, 1 }, 0 };
  say(control_port, WIRE_PORT_CONTROL, &ok, sizeof(ok));
  mock_work_flush();
  control_send_exit(300);
  struct wire_u32 *e = message_sent(WIRE_EXIT, control_port);
  CHECK(e->value == (300 & 255));
  control_send_last_words("why");
  struct sent *s = next_sent();
  CHECK(s && s->len == 15 && !memcmp(s->data + 12, "why", 3));
  free(s);
  // A malformed message ends the network; connecting then fails, loopback goes on, nothing hangs.
  struct socket *c = sock(AF_INET, 1);
  struct sockaddr_k to = in4(192, 0, 2, 7, 80);
  CHECK(c->ops->connect(c, &to, 16, O_NONBLOCK_) == -EINPROGRESS);
  drop_sent();
  struct wire_head bad = { 11, WIRE_SIGNAL, 0, 0 };
  say(control_port, WIRE_PORT_CONTROL, &bad, sizeof(bad));
  mock_work_flush();
  CHECK(socket_take_err(c) == -ENETUNREACH);
  CHECK(c->ops->connect(c, &to, 16, 0) == -ENETUNREACH);
  socket_destroy(c);
  control_send_exit(0);
  test_loopback();
  drop_sent();
}

static void break_now(void) { mock_ops->broken(); }

static void test_broken(void) {
  // The device breaks on one CPU while another one answers a stream that the bridge opens.
  struct vsock_hdr h = hdr_for(WIRE_PORT_DATA, next_peer++, VSOCK_OP_REQUEST, 0, 65536, 0);
  mock_meanwhile = break_now;
  inject(&h, NULL, 0);
  CHECK(!mock_meanwhile && READ_ONCE(embryo_count) == 0);
  mock_present = false;
  mock_ops->broken();
  mock_work_flush(); // the channels notice
  struct socket *c = sock(AF_INET, 1);
  struct sockaddr_k to = in4(192, 0, 2, 7, 80);
  CHECK(c->ops->connect(c, &to, 16, 0) == -ENETUNREACH);
  socket_destroy(c);
  for (u32 i = 0; i < BUCKETS; i++) CHECK(list_empty(&table[i]));
  CHECK(stream_count == 0); // nothing leaked
}

int main(void) {
  bridge_up();
  test_accept();
  test_connect();
  test_credit();
  test_full_device();
  test_backlog();
  test_refused_at_once();
  test_udp_bridge();
  test_random();
  test_options();
  // From here on the kernel's own messages (LISTEN ...) are of no interest.
  test_loopback();
  test_reuseport();
  test_pump();
  test_udp_local();
  drop_sent();
  test_exit_and_lies();
  test_broken();
  free(mock_tx_page);
  return UNIT_END("net_inet");
}

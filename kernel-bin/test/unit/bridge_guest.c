// SPDX-License-Identifier: Apache-2.0
//
// The bridge against a fake guest: a child process runs the bridge (with this file's sanitizers), the parent is QEMU and
// guest at once: it speaks vhost-user, owns the memory and the rings, and moves data through published and outbound
// ports; then it lies in every way that a guest can.
#define main bridge_main
#include "../../bridge/main.c"
#undef main
#undef EVENTS
#define find stream_find
#include "../../bridge/stream.c"
#undef find
#include "../../bridge/message.c"
#include "../../bridge/host.c"
#define add allow_add_one
#include "../../bridge/allow.c"
#undef add
#define find udp_find
#define drop udp_drop
#include "../../bridge/udp.c"
#undef find
#undef drop
#define listen_ready vhost_listen_ready
#define conn_ready vhost_conn_ready
#include "../../bridge/vhost.c"

#include <poll.h>
#include <sys/wait.h>

static unsigned passed, failed;
#define CHECK(c) do { if (c) passed++; else { failed++; fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #c); } } while (0)
#define MUST(c) do { if (!(c)) { fprintf(stderr, "%s:%d: cannot go on: %s (%s)\n", __FILE__, __LINE__, #c, strerror(errno)); exit(2); } } while (0)

// --- the guest's machine

#define MEM (8u << 20)
#define QN 128u
#define BUF 4096u
struct gring { volatile struct vdesc *desc; volatile uint16_t *avail, *used16; volatile struct vused *used; uint16_t next, last_used; int kick, call; bool busy[QN]; };
static uint8_t *mem;
static int mem_fd, vu = -1, ctl[2];
static pid_t child;
static char dir[64], sock_path[96];
static struct gring rxr, txr;
#define RX_BUFS 0x100000u
#define TX_BUFS 0x200000u

static uint64_t gpa_of(const void *p) { return (uint64_t)((const uint8_t *)p - mem); }

static uint64_t ms(void) { return clock_ns() / 1000000; }

static void vu_send(uint32_t req, const void *data, uint32_t n, int fd, uint32_t flags) {
  struct { uint32_t h[3]; uint8_t d[300]; } m = { { req, 1 | flags, n }, { 0 } };
  if (n) memcpy(m.d, data, n);
  struct iovec iov = { &m, 12 + n };
  union { char c[CMSG_SPACE(4)]; struct cmsghdr h; } u = { { 0 } };
  struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
  if (fd >= 0) {
    mh.msg_control = &u;
    mh.msg_controllen = sizeof(u);
    u.h = (struct cmsghdr){ CMSG_LEN(4), SOL_SOCKET, SCM_RIGHTS };
    memcpy(CMSG_DATA(&u.h), &fd, 4);
  }
  MUST(sendmsg(vu, &mh, MSG_NOSIGNAL) > 0);
}

static void vu_ask(uint32_t req, const void *data, uint32_t n, void *out, uint32_t want) {
  uint8_t b[300];
  vu_send(req, data, n, -1, 0);
  MUST(recv(vu, b, 12 + want, MSG_WAITALL) == (ssize_t)(12 + want));
  memcpy(out, b + 12, want);
}

static void ring_setup(struct gring *r, unsigned i, uint32_t at) {
  memset((void *)(mem + at), 0, 0x4000);
  *r = (struct gring){ .desc = (void *)(mem + at), .avail = (void *)(mem + at + 0x1000), .used16 = (void *)(mem + at + 0x2000),
                       .used = (void *)(mem + at + 0x2004), .kick = eventfd(0, EFD_NONBLOCK), .call = eventfd(0, EFD_NONBLOCK) };
  uint32_t st[2] = { i, QN }, zero[2] = { i, 0 }, one[2] = { i, 1 };
  struct { uint32_t index, flags; uint64_t desc, used, avail, log; } a = { i, 0, 0x7f0000000000u + at, 0x7f0000000000u + at + 0x2000, 0x7f0000000000u + at + 0x1000, 0 };
  uint64_t n = i;
  vu_send(VU_SET_VRING_NUM, st, 8, -1, 0);
  vu_send(VU_SET_VRING_BASE, zero, 8, -1, 0);
  vu_send(VU_SET_VRING_ADDR, &a, sizeof(a), -1, 0);
  vu_send(VU_SET_VRING_CALL, &n, 8, r->call, 0);
  vu_send(VU_SET_VRING_KICK, &n, 8, r->kick, 0);
  vu_send(VU_SET_VRING_ENABLE, one, 8, -1, 0);
}

static void kick(struct gring *r) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  eventfd_write(r->kick, 1);
}

static void rx_give(unsigned i) {
  rxr.desc[i].addr = RX_BUFS + i * BUF;
  rxr.desc[i].len = BUF;
  rxr.desc[i].flags = 2;
  rxr.avail[2 + rxr.next % QN] = (uint16_t)i;
  __atomic_store_n(&rxr.avail[1], ++rxr.next, __ATOMIC_RELEASE);
}

static bool lying, stuck; // lying: a ring that the bridge gave up is no failure
static void tx_raw(const void *p, size_t n) {
  uint64_t until = ms() + (lying ? 30 : 5000);
  unsigned i;
  for (;;) {
    while (txr.last_used != __atomic_load_n(&txr.used16[1], __ATOMIC_ACQUIRE)) txr.busy[txr.used[txr.last_used++ % QN].id % QN] = false;
    for (i = 0; i < QN && txr.busy[i]; i++) {}
    if (i < QN) break;
    kick(&txr);
    usleep(100);
    if (lying && ms() >= until) {
      stuck = true;
      return;
    }
    MUST(ms() < until);
  }
  txr.busy[i] = true;
  memcpy(mem + TX_BUFS + i * BUF, p, n);
  txr.desc[i].addr = TX_BUFS + i * BUF;
  txr.desc[i].len = (uint32_t)n;
  txr.desc[i].flags = 0;
  txr.avail[2 + txr.next % QN] = (uint16_t)i;
  __atomic_store_n(&txr.avail[1], ++txr.next, __ATOMIC_RELEASE);
  kick(&txr);
}

// --- the guest's vsock

enum { G_FREE, G_OPEN, G_RESET };
#define GBUF 65536u
struct gconn {
  uint32_t gport, hport, tx, pfwd, pbuf, rx, fwd;
  int state;
  bool fin, echo, hold; // echo: sends back what comes; hold: takes nothing
  uint64_t total;
  struct wire_prefix prefix;
  bool got_prefix;
  struct bytes in, out; // out: to be sent
};
static struct gconn conns[2048];
static unsigned requests; // seen so far
static bool refuse, no_response, echo_all = true;
static struct gconn *control_c, *dgram_c;

static void pkt(struct gconn *c, unsigned op, unsigned flags, const void *data, uint32_t n) {
  struct { struct vsock_hdr h; uint8_t d[BUF - 44]; } p = { { 3, 2, c->gport, c->hport, n, 1, (uint16_t)op, flags, GBUF, c->fwd }, { 0 } };
  if (n) memcpy(p.d, data, n);
  tx_raw(&p, 44 + n);
}

static void gflush(struct gconn *c) {
  while (c->out.len && c->state == G_OPEN) {
    uint32_t room = c->pbuf - (c->tx - c->pfwd), n = (uint32_t)min_size(min_size(room, c->out.len), BUF - 44);
    if (!n) return;
    c->tx += n;
    pkt(c, VSOCK_OP_RW, 0, c->out.data + c->out.head, n);
    bytes_take(&c->out, n);
  }
}

static void gsend(struct gconn *c, const void *p, size_t n) {
  bytes_put(&c->out, p, n);
  gflush(c);
}

static struct gconn *gfind(uint32_t gport, uint32_t hport) {
  for (unsigned i = 0; i < ARRAY_SIZE(conns); i++)
    if (conns[i].state != G_FREE && conns[i].gport == gport && conns[i].hport == hport) return &conns[i];
  return NULL;
}

static struct gconn *gnew(uint32_t gport, uint32_t hport) {
  for (unsigned i = 0; i < ARRAY_SIZE(conns); i++)
    if (conns[i].state == G_FREE) {
      conns[i] = (struct gconn){ .state = G_OPEN, .gport = gport, .hport = hport };
      return &conns[i];
    }
  MUST(!"connections");
  return NULL;
}

static void gfree(struct gconn *c) {
  bytes_free(&c->in);
  bytes_free(&c->out);
  c->state = G_FREE;
}

static void gpacket(const struct vsock_hdr *h, const uint8_t *data) {
  struct gconn *c = gfind(h->dst_port, h->src_port);
  CHECK(h->src_cid == 2 && h->dst_cid == 3 && h->type == 1);
  if (h->op == VSOCK_OP_REQUEST) {
    requests++;
    CHECK(!c && h->dst_port == WIRE_PORT_DATA);
    c = gnew(h->dst_port, h->src_port);
    c->pbuf = h->buf_alloc;
    c->echo = echo_all;
    if (refuse) {
      pkt(c, VSOCK_OP_RST, 0, NULL, 0);
      gfree(c);
    } else if (!no_response) {
      pkt(c, VSOCK_OP_RESPONSE, 0, NULL, 0);
    }
    return;
  }
  if (!c) return;
  c->pbuf = h->buf_alloc;
  c->pfwd = h->fwd_cnt;
  if (h->op == VSOCK_OP_RW) {
    c->rx += h->len;
    CHECK(c->rx - c->fwd <= GBUF); // the bridge keeps to our credit
    uint32_t n = h->len;
    if (!c->got_prefix && c->gport == WIRE_PORT_DATA) {
      CHECK(n == sizeof(c->prefix));
      memcpy(&c->prefix, data, sizeof(c->prefix));
      CHECK(c->prefix.magic == WIRE_PREFIX_MAGIC);
      c->got_prefix = true;
      c->fwd += n;
      return;
    }
    c->total += n;
    if (c->echo) bytes_put(&c->out, data, n);
    else bytes_put(&c->in, data, n);
    if (!c->hold) {
      c->fwd += n;
      if (c->total % (GBUF / 2) < n) pkt(c, VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
    }
  } else if (h->op == VSOCK_OP_SHUTDOWN) {
    c->fin = true;
  } else if (h->op == VSOCK_OP_RST) {
    c->state = G_RESET;
  }
  gflush(c);
  if (c->fin && c->echo && !c->out.len && c->state == G_OPEN) {
    pkt(c, VSOCK_OP_SHUTDOWN, 3, NULL, 0);
    c->echo = false;
  }
}

static void gpoll(void) {
  if (!rxr.desc) return;
  bool any = false;
  while (rxr.last_used != __atomic_load_n(&rxr.used16[1], __ATOMIC_ACQUIRE)) {
    unsigned i = rxr.used[rxr.last_used % QN].id, n = rxr.used[rxr.last_used % QN].len;
    rxr.last_used++;
    MUST(i < QN && n >= 44 && n <= BUF);
    struct vsock_hdr h;
    memcpy(&h, mem + RX_BUFS + i * BUF, 44);
    CHECK(h.len + 44 == n);
    gpacket(&h, mem + RX_BUFS + i * BUF + 44);
    rx_give(i);
    any = true;
  }
  if (any) kick(&rxr);
  rxr.avail[2 + QN] = rxr.last_used; // an interrupt for the next one
}

#define UNTIL(cond) ({ uint64_t end_ = ms() + 5000; bool ok_; while (!(ok_ = (cond)) && ms() < end_) { gpoll(); usleep(50); } CHECK(ok_); ok_; })
static void settle(unsigned t) { for (uint64_t end = ms() + t; ms() < end; usleep(100)) gpoll(); }

// --- set-up

static char lines[8192];
static bool line_seen(const char *text) {
  size_t n = strlen(lines);
  ssize_t k = recv(ctl[0], lines + n, sizeof(lines) - n - 1, MSG_DONTWAIT);
  if (k > 0) lines[n + (size_t)k] = 0;
  return strstr(lines, text) != NULL;
}
static void tell(const char *text) { MUST(write(ctl[0], text, strlen(text)) > 0); }

static unsigned tcp_port, tcp6_port, udp_port;
static void start(const char *const *extra) {
  const char *args[32] = { "gramine-bridge", "--socket", sock_path, "--control-fd", "99", "--publish", "127.0.0.1:0:80/tcp", "--publish", "[::1]:0:80/tcp", "--publish", "127.0.0.1:0:53/udp" };
  unsigned n = 11;
  while (extra && *extra) args[n++] = *extra++;
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ctl) == 0);
  lines[0] = 0;
  fflush(NULL);
  child = fork();
  if (!child) {
    dup2(ctl[1], 99);
    close(ctl[0]);
    close(ctl[1]);
    optind = 0;
    exit(bridge_main((int)n, (char **)args));
  }
  close(ctl[1]);
  UNTIL(line_seen("ready\n"));
  const char *p = strstr(lines, "published 127.0.0.1:"), *q = strstr(lines, "published [::1]:");
  MUST(p && q && sscanf(p, "published 127.0.0.1:%u 80", &tcp_port) == 1 && sscanf(q, "published [::1]:%u 80", &tcp6_port) == 1);
  p = strstr(p + 1, "published 127.0.0.1:");
  MUST(p && sscanf(p, "published 127.0.0.1:%u 53", &udp_port) == 1);
}

static void plug(void) {
  struct sockaddr_un a = { .sun_family = AF_UNIX };
  strcpy(a.sun_path, sock_path);
  vu = socket(AF_UNIX, SOCK_STREAM, 0);
  MUST(connect(vu, (void *)&a, sizeof(a)) == 0);
  uint64_t f = 0;
  vu_ask(VU_GET_FEATURES, NULL, 0, &f, 8);
  CHECK(f & F_VERSION_1 && f & F_EVENT_IDX);
  vu_send(VU_SET_OWNER, NULL, 0, -1, 0);
  uint64_t pf = 0;
  vu_ask(VU_GET_PROTOCOL_FEATURES, NULL, 0, &pf, 8);
  CHECK(pf & PF_CONFIG);
  vu_send(VU_SET_PROTOCOL_FEATURES, &pf, 8, -1, 0);
  struct { uint32_t off, size, flags; uint64_t cid; } __attribute__((packed)) cfg = { 0, 8, 0, 0 };
  vu_ask(VU_GET_CONFIG, &cfg, sizeof(cfg), &cfg, sizeof(cfg));
  CHECK(cfg.cid == 3);
  vu_send(VU_SET_FEATURES, &f, 8, -1, 0);
  struct { uint32_t n, z; struct vu_region r; } table = { 1, 0, { 0, MEM, 0x7f0000000000u, 0 } };
  vu_send(VU_SET_MEM_TABLE, &table, sizeof(table), mem_fd, VU_NEED_REPLY);
  uint8_t ack[20];
  MUST(recv(vu, ack, 20, MSG_WAITALL) == 20);
  memset(conns, 0, sizeof(conns));
  requests = 0;
  ring_setup(&rxr, 0, 0x10000);
  ring_setup(&txr, 1, 0x20000);
  for (unsigned i = 0; i < QN; i++) rx_give(i);
  kick(&rxr);
}

static void unplug(void) {
  close(vu);
  close(rxr.kick); close(rxr.call); close(txr.kick); close(txr.call);
  for (unsigned i = 0; i < ARRAY_SIZE(conns); i++)
    if (conns[i].state) gfree(&conns[i]);
}

static void say_hello(void) {
  static uint32_t gport = 70000;
  control_c = gnew(gport++, WIRE_PORT_CONTROL);
  pkt(control_c, VSOCK_OP_REQUEST, 0, NULL, 0);
  UNTIL(control_c->pbuf);
  struct wire_hello h = { { sizeof(h), WIRE_HELLO, 0, 0 }, WIRE_HELLO_MAGIC, 1, 1, 0 };
  gsend(control_c, &h, sizeof(h));
  UNTIL(control_c->in.len >= sizeof(struct wire_hello_ok));
  struct wire_hello_ok *ok = (void *)(control_c->in.data + control_c->in.head);
  CHECK(ok->h.type == WIRE_HELLO_OK && ok->version == 1);
  bytes_take(&control_c->in, sizeof(*ok));
}

static void listen_on(uint32_t id, uint16_t port, uint32_t backlog) {
  struct wire_listen l = { { sizeof(l), WIRE_LISTEN, 0, id }, { .family = 4, .port = port }, backlog };
  gsend(control_c, &l, sizeof(l));
}

static int dial(unsigned port) {
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  MUST(connect(fd, (void *)&a, sizeof(a)) == 0);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  return fd;
}

static struct gconn *newest(void) {
  struct gconn *c = NULL;
  for (unsigned i = 0; i < ARRAY_SIZE(conns); i++)
    if (conns[i].state && conns[i].got_prefix && (!c || conns[i].hport > c->hport)) c = &conns[i];
  return c;
}

// --- tests

static void test_published(void) {
  listen_on(7, 80, 128);
  int fd = dial(tcp_port);
  struct sockaddr_in me;
  socklen_t len = sizeof(me);
  getsockname(fd, (void *)&me, &len);
  struct gconn *c;
  if (!UNTIL((c = newest()) != NULL)) return;
  CHECK(c->prefix.kind == WIRE_KIND_ACCEPTED && c->prefix.id == 7 && c->prefix.peer.family == 4 && c->prefix.peer.port == ntohs(me.sin_port));
  CHECK(c->prefix.local.port == 80 && c->prefix.local.ip[0] == 127);
  char b[64] = { 0 };
  CHECK(send(fd, "hello", 5, 0) == 5);
  UNTIL(recv(fd, b, sizeof(b), MSG_DONTWAIT) == 5);
  CHECK(!memcmp(b, "hello", 5));
  shutdown(fd, SHUT_WR); // half-close: the echo closes, then we see the end
  UNTIL(recv(fd, b, sizeof(b), MSG_DONTWAIT) == 0);
  UNTIL(c->state == G_RESET); // the answer to the guest's close
  close(fd);
  gfree(c);

  struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)tcp6_port), .sin6_addr = IN6ADDR_LOOPBACK_INIT };
  fd = socket(AF_INET6, SOCK_STREAM, 0);
  if (fd >= 0 && connect(fd, (void *)&a6, sizeof(a6)) == 0) {
    UNTIL((c = newest()) != NULL);
    CHECK(c && c->prefix.peer.family == 6 && c->prefix.peer.ip[15] == 1);
  }
  close(fd);
  settle(20);
}

static void test_many(void) {
  enum { N = 300, BYTES = 150000 };
  static int fds[N];
  static uint32_t sent[N], got[N];
  listen_on(7, 80, 4096);
  for (int i = 0; i < N; i++) {
    fds[i] = dial(tcp_port);
    sent[i] = got[i] = 0;
  }
  uint64_t end = ms() + 60000;
  unsigned done = 0, wrong = 0;
  static uint8_t b[16384];
  while (done < N && ms() < end) {
    gpoll();
    for (int i = 0; i < N; i++) {
      if (got[i] == BYTES) continue;
      if (sent[i] < BYTES) {
        uint32_t n = (uint32_t)min_size(sizeof(b), BYTES - sent[i]);
        for (uint32_t k = 0; k < n; k++) b[k] = (uint8_t)((sent[i] + k) * 7 + (unsigned)i);
        ssize_t w = send(fds[i], b, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (w > 0) sent[i] += (uint32_t)w;
      }
      ssize_t r = recv(fds[i], b, sizeof(b), MSG_DONTWAIT);
      for (ssize_t k = 0; k < r; k++) wrong += b[k] != (uint8_t)((got[i] + (uint32_t)k) * 7 + (unsigned)i);
      if (r > 0) got[i] += (uint32_t)r;
      if (got[i] == BYTES) {
        done++;
        close(fds[i]);
      }
    }
  }
  CHECK(done == N);
  CHECK(wrong == 0);
  settle(50);
  for (unsigned i = 0; i < ARRAY_SIZE(conns); i++)
    if (conns[i].state == G_RESET) gfree(&conns[i]);
  struct wire_u32 acc = { { sizeof(acc), WIRE_ACCEPTED, 0, 7 }, N + 2 };
  gsend(control_c, &acc, sizeof(acc));
}

static void test_backlog(void) {
  listen_on(7, 80, 2);
  settle(20);
  unsigned before = requests;
  int a = dial(tcp_port), b = dial(tcp_port), c = dial(tcp_port);
  settle(50);
  CHECK(requests == before + 2); // the third waits in the host's backlog
  struct wire_u32 acc = { { sizeof(acc), WIRE_ACCEPTED, 0, 7 }, 1 };
  gsend(control_c, &acc, sizeof(acc));
  UNTIL(requests == before + 3);
  acc.value = 2;
  gsend(control_c, &acc, sizeof(acc));
  close(a); close(b); close(c);
  settle(20);
  // A guest that refuses a stream: the client sees a reset, and the stream does not count.
  refuse = true;
  for (int i = 0; i < 5; i++) {
    a = dial(tcp_port);
    char x;
    UNTIL(recv(a, &x, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET);
    close(a);
  }
  refuse = false;
  struct wire_head un = { sizeof(un), WIRE_UNLISTEN, 0, 7 };
  gsend(control_c, &un, sizeof(un));
  settle(20);
  before = requests;
  a = dial(tcp_port);
  settle(30);
  CHECK(requests == before); // nobody listens: it waits
  listen_on(8, 80, 16);
  UNTIL(requests == before + 1);
  close(a);
  settle(20);
}

static void test_backpressure(void) {
  echo_all = false;
  int fd = dial(tcp_port);
  struct gconn *c;
  if (!UNTIL((c = newest()) && c->prefix.id == 8 && c->state == G_OPEN && !c->fin)) return;
  c->hold = true;
  static uint8_t b[65536];
  size_t sent = 0;
  for (uint64_t end = ms() + 300; ms() < end; gpoll()) {
    ssize_t n = send(fd, b, sizeof(b), MSG_DONTWAIT);
    if (n > 0) sent += (size_t)n;
  }
  CHECK(c->total <= GBUF); // no more than our credit, the rest waits in the host's socket
  CHECK(c->total == GBUF - sizeof(struct wire_prefix) || c->total > GBUF / 2);
  c->hold = false;
  c->fwd = c->rx;
  pkt(c, VSOCK_OP_CREDIT_UPDATE, 0, NULL, 0);
  UNTIL(c->total == sent);
  // The other way: the client takes nothing, the guest may send exactly the bridge's buffer more than the kernel takes.
  while (c->in.len) bytes_take(&c->in, c->in.len);
  size_t total = 8u << 20;
  uint8_t *big = calloc(1, total);
  for (size_t i = 0; i < total; i++) big[i] = (uint8_t)(i * 13 >> 3);
  bytes_put(&c->out, big, total);
  gflush(c);
  settle(100);
  CHECK(c->out.len > 0); // credit ran out
  size_t got = 0, bad = 0;
  for (uint64_t end = ms() + 20000; got < total && ms() < end;) {
    gpoll();
    gflush(c);
    ssize_t n = recv(fd, b, sizeof(b), MSG_DONTWAIT);
    for (ssize_t i = 0; i < n; i++) bad += b[i] != big[got + (size_t)i];
    if (n > 0) got += (size_t)n;
    if (got == total) break;
  }
  CHECK(got == total && !bad);
  free(big);
  // A reset from the guest reaches the client.
  pkt(c, VSOCK_OP_RST, 0, NULL, 0);
  UNTIL(recv(fd, b, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET);
  close(fd);
  gfree(c);
  // A reset from the client reaches the guest.
  fd = dial(tcp_port);
  UNTIL((c = newest()) && c->state == G_OPEN);
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
  close(fd);
  UNTIL(c->state == G_RESET);
  gfree(c);
  // close() with data on the way: the client gets all of it.
  fd = dial(tcp_port);
  UNTIL((c = newest()) && c->state == G_OPEN);
  bytes_put(&c->out, b, sizeof(b));
  gflush(c);
  CHECK(!c->out.len);
  pkt(c, VSOCK_OP_SHUTDOWN, 3, NULL, 0);
  got = 0;
  for (uint64_t end = ms() + 5000; ms() < end;) {
    gpoll();
    ssize_t n = recv(fd, b, sizeof(b), MSG_DONTWAIT);
    if (n > 0) got += (size_t)n;
    if (n == 0) break;
  }
  CHECK(got == sizeof(b));
  UNTIL(c->state == G_RESET);
  close(fd);
  gfree(c);
  echo_all = true;
}

static uint32_t connect_result(uint32_t id, const struct wire_addr *to) { // errno, or 0 when a stream came
  struct wire_connect m = { { sizeof(m), WIRE_CONNECT, 0, id }, *to, { 0 } };
  gsend(control_c, &m, sizeof(m));
  struct gconn *c = NULL;
  UNTIL(control_c->in.len >= sizeof(struct wire_u32) || ((c = newest()) && c->prefix.kind == WIRE_KIND_CONNECTED && c->prefix.id == id));
  if (control_c->in.len < sizeof(struct wire_u32)) return 0;
  struct wire_u32 f;
  memcpy(&f, control_c->in.data + control_c->in.head, sizeof(f));
  bytes_take(&control_c->in, sizeof(f));
  CHECK(f.h.type == WIRE_CONNECT_FAILED && f.h.id == id);
  return f.value;
}

static int serve(uint16_t *port, int type) {
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  socklen_t len = sizeof(a);
  int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
  MUST(bind(fd, (void *)&a, sizeof(a)) == 0 && (type != SOCK_STREAM || listen(fd, 16) == 0) && getsockname(fd, (void *)&a, &len) == 0);
  *port = ntohs(a.sin_port);
  return fd;
}

static void test_outbound(uint16_t open_port, int open_fd, bool any) {
  struct wire_addr to = { .family = 4, .port = open_port, .ip = { 127, 0, 0, 1 } };
  if (!any) {
    CHECK(connect_result(1, &to) == ENETUNREACH);
    return;
  }
  CHECK(connect_result(2, &to) == 0);
  int fd = -1;
  UNTIL((fd = accept(open_fd, NULL, NULL)) >= 0);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  CHECK(send(fd, "ping", 4, 0) == 4);
  char b[8];
  UNTIL(recv(fd, b, 8, MSG_DONTWAIT) == 4);
  close(fd);
  settle(20);
  to.port = 1; // allowed by pattern, nobody listens
  CHECK(connect_result(3, &to) == ECONNREFUSED);
  to.port = 2;
  CHECK(connect_result(4, &to) == EACCES);
  struct wire_addr mapped = { .family = 6, .port = 2, .ip = { [10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1 } };
  CHECK(connect_result(5, &mapped) == EACCES);
  // With *:443 the host's own loopback stays closed, by every spelling.
  static const struct wire_addr own[] = { { .family = 4, .port = 443, .ip = { 127, 0, 0, 1 } }, { .family = 4, .port = 443 },
    { .family = 4, .port = 443, .ip = { 10, 0, 2, 2 } }, { .family = 6, .port = 443, .ip = { [15] = 1 } }, { .family = 6, .port = 443 },
    { .family = 6, .port = 443, .ip = { [10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1 } } };
  for (unsigned i = 0; i < ARRAY_SIZE(own); i++) CHECK(connect_result(10 + i, &own[i]) == EACCES);
  UNTIL(line_seen("error denied tcp 127.0.0.1:443"));
}

static void test_udp(uint16_t open_port, int open_fd, bool any) {
  static uint32_t gport = 90000;
  dgram_c = gnew(gport++, WIRE_PORT_DGRAM);
  pkt(dgram_c, VSOCK_OP_REQUEST, 0, NULL, 0);
  UNTIL(dgram_c->pbuf);
  struct { struct wire_udp_open o; } __attribute__((packed)) o = { { { sizeof(o.o), WIRE_UDP_OPEN, 0, 5 }, { .family = 4, .port = 53 } } };
  gsend(dgram_c, &o, sizeof(o));
  // In through the published port, and the reply out again.
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)udp_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  MUST(connect(fd, (void *)&a, sizeof(a)) == 0);
  CHECK(send(fd, "query", 5, 0) == 5);
  struct wire_udp_recv r;
  if (!UNTIL(dgram_c->in.len == sizeof(r) + 5)) return;
  memcpy(&r, dgram_c->in.data + dgram_c->in.head, sizeof(r));
  CHECK(r.h.type == WIRE_UDP_RECV && r.h.id == 5 && r.local.port == 53);
  CHECK(r.remote.family == 4 && !memcmp(r.remote.ip, (uint8_t[]){ 10, 0, 2, 2 }, 4)); // our loopback is not the guest's
  bytes_take(&dgram_c->in, dgram_c->in.len);
  struct { struct wire_udp_send s; char d[6]; } __attribute__((packed)) s = { { { sizeof(s), WIRE_UDP_SEND, 0, 5 }, r.remote }, "answer" };
  gsend(dgram_c, &s, sizeof(s));
  char b[16];
  UNTIL(recv(fd, b, 16, 0) == 6);
  close(fd);
  // To somebody who never asked.
  s.s.remote = (struct wire_addr){ .family = 4, .port = open_port, .ip = { 127, 0, 0, 1 } };
  gsend(dgram_c, &s, sizeof(s));
  if (any) {
    UNTIL(recv(open_fd, b, 16, 0) == 6);
  } else {
    struct wire_udp_error e;
    if (UNTIL(dgram_c->in.len == sizeof(e))) {
      memcpy(&e, dgram_c->in.data + dgram_c->in.head, sizeof(e));
      CHECK(e.h.type == WIRE_UDP_ERROR && e.err == ENETUNREACH);
      bytes_take(&dgram_c->in, sizeof(e));
    }
    CHECK(recv(open_fd, b, 16, 0) < 0);
  }
}

static void test_lines(void) {
  tell("signal 15\nwinsize 24 80\n");
  UNTIL(control_c->in.len >= sizeof(struct wire_u32) + sizeof(struct wire_winsize));
  struct wire_u32 s;
  memcpy(&s, control_c->in.data + control_c->in.head, sizeof(s));
  CHECK(s.h.type == WIRE_SIGNAL && s.value == 15);
  bytes_take(&control_c->in, control_c->in.len);
  struct { struct wire_head h; char t[9]; } __attribute__((packed)) last = { { sizeof(last), WIRE_LAST_WORDS, 0, 0 }, "bye\nexit1" };
  gsend(control_c, &last, sizeof(last));
  UNTIL(line_seen("last bye exit1\n")); // a guest cannot forge a line
  struct wire_u32 e = { { sizeof(e), WIRE_EXIT, 0, 77 }, 42 };
  gsend(control_c, &e, sizeof(e));
  UNTIL(line_seen("exit 42\n"));
  UNTIL(control_c->in.len >= sizeof(e));
  memcpy(&s, control_c->in.data + control_c->in.head, sizeof(s));
  CHECK(s.h.type == WIRE_EXIT_OK && s.h.id == 77);
  bytes_take(&control_c->in, control_c->in.len);
}

static bool alive(void) { return waitpid(child, NULL, WNOHANG) == 0; }
static uint64_t rnd(void) {
  static uint64_t x = 0x9e3779b97f4a7c15;
  x ^= x << 13; x ^= x >> 7; x ^= x << 17;
  return x;
}

static void fresh(void) {
  lying = stuck = false;
  unplug();
  settle(5);
  plug();
  say_hello();
  listen_on(1, 80, 64);
}

static void test_hostile(void) {
  // Rings.
  for (int k = 0; k < 12; k++) {
    fresh();
    int fd = dial(tcp_port);
    struct gring *r = k & 1 ? &rxr : &txr;
    unsigned i = 3;
    switch (k / 2) {
    case 0: r->avail[1] = (uint16_t)(r->next + 5000); break;                     // index jumps
    case 1: r->avail[2 + r->next % QN] = 60000; r->avail[1] = ++r->next; break;  // descriptor index
    case 2: r->desc[i].addr = MEM - 10; r->desc[i].len = 100; goto push;         // over the end of memory
    case 3: r->desc[i].addr = ~0ull - 3; r->desc[i].len = 0xffffffff; goto push; // wraps
    case 4: for (unsigned d = 0; d < QN; d++) { r->desc[d].flags = (uint16_t)(1 | (r == &rxr ? 2 : 0)); r->desc[d].next = (uint16_t)((d + 1) % QN); } goto push; // a loop
    case 5: r->desc[i].flags = (uint16_t)(r == &rxr ? 0 : 2); r->desc[i].len = 64; goto push; // wrong direction
    push:
      for (unsigned n = 0; n < QN; n++) r->avail[2 + n] = (uint16_t)i; // also what it took before
      r->avail[1] = ++r->next;
    }
    kick(&txr);
    kick(&rxr);
    if (send(fd, "x", 1, MSG_NOSIGNAL)) {}
    usleep(3000);
    CHECK(alive());
    close(fd);
  }
  // Packets: every field wrong, one after the other, with and without a connection.
  fresh();
  int fd = dial(tcp_port);
  struct gconn *c;
  UNTIL((c = newest()) != NULL);
  for (int k = 0; k < 3000; k++) {
    struct { struct vsock_hdr h; uint8_t d[200]; } p = { { 3, 2, WIRE_PORT_DATA, c->hport, 8, 1, VSOCK_OP_RW, 0, GBUF, c->fwd }, { 0 } };
    unsigned n = 52;
    switch (rnd() % 10) {
    case 0: p.h.len = (uint32_t)rnd(); if (k % 50) p.h.len %= 9; break;
    case 1: p.h.fwd_cnt = (uint32_t)rnd(); break;
    case 2: p.h.buf_alloc = (uint32_t)rnd(); break;
    case 3: p.h.op = (uint16_t)(rnd() % 9); break;
    case 4: p.h.op = VSOCK_OP_SHUTDOWN; p.h.flags = (uint32_t)rnd(); break;
    case 5: p.h.src_port = (uint32_t)rnd(); break;
    case 6: p.h.dst_port = rnd() % 2 ? (uint32_t)rnd() : 1024 + (uint32_t)(rnd() % 3); p.h.op = (uint16_t)(rnd() % 9); break;
    case 7: p.h.src_cid = rnd(); break;
    case 8: p.h.type = (uint16_t)rnd(); break;
    case 9: p.h.op = VSOCK_OP_REQUEST; p.h.dst_port = 1024 + (uint32_t)(rnd() % 2); break;
    }
    lying = true;
    tx_raw(&p, n);
    if (stuck || k % 200 == 0) {
      settle(2);
      close(fd);
      fresh();
      fd = dial(tcp_port);
      if (!UNTIL((c = newest()) != NULL)) break;
    }
  }
  settle(10);
  CHECK(alive());
  close(fd);
  lying = false;
  // More data than the credit.
  fresh();
  fd = dial(tcp_port);
  if (UNTIL((c = newest()) != NULL)) {
    static uint8_t big[BUF - 44];
    for (int k = 0; k < 2000 && c->state == G_OPEN; k++) {
      pkt(c, VSOCK_OP_RW, 0, big, sizeof(big));
      gpoll();
    }
    UNTIL(c->state == G_RESET);
  }
  close(fd);
  // Control and datagram streams: random bytes, and messages with wrong fields.
  for (int k = 0; k < 60; k++) {
    fresh();
    uint8_t b[600];
    for (unsigned i = 0; i < sizeof(b); i++) b[i] = (uint8_t)rnd();
    struct wire_head h = { (uint32_t)(k % 3 ? 12 + rnd() % 200 : rnd()), (uint16_t)(rnd() % 20), 0, (uint32_t)rnd() };
    if (k % 4) memcpy(b, &h, sizeof(h));
    struct gconn *to = control_c;
    lying = true;
    if (k & 1) {
      to = gnew(120000 + (uint32_t)k, WIRE_PORT_DGRAM);
      pkt(to, VSOCK_OP_REQUEST, 0, NULL, 0);
      UNTIL(to->pbuf);
    }
    gsend(to, b, sizeof(b));
    settle(3);
    CHECK(alive());
  }
  // vhost-user itself.
  for (int k = 0; k < 200; k++) {
    unplug();
    settle(1);
    plug();
    uint8_t b[64];
    for (unsigned i = 0; i < sizeof(b); i++) b[i] = (uint8_t)(rnd() % (k % 2 ? 256 : 4));
    struct { uint32_t h[3]; uint8_t d[64]; } m = { { (uint32_t)(rnd() % 30), 1 | (uint32_t)(rnd() % 2 * 8), (uint32_t)(k % 10 ? rnd() % 65 : rnd()) }, { 0 } };
    memcpy(m.d, b, 64);
    if (send(vu, &m, 12 + min_size(m.h[2], 64), MSG_NOSIGNAL)) {}
    usleep(200);
    CHECK(alive());
  }
  // And it still works.
  fresh();
  fd = dial(tcp_port);
  char x[4];
  CHECK(send(fd, "abc", 3, 0) == 3);
  UNTIL(recv(fd, x, 4, MSG_DONTWAIT) == 3);
  close(fd);
}

static void finish(bool by_eof) {
  int status = -1;
  if (by_eof) close(ctl[0]);
  else tell("stop\n");
  for (uint64_t end = ms() + 2000; waitpid(child, &status, WNOHANG) == 0 && ms() < end;) usleep(1000);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  CHECK(access(sock_path, F_OK) != 0);
  if (!by_eof) close(ctl[0]);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  strcpy(dir, "/tmp/bridge-test-XXXXXX");
  MUST(mkdtemp(dir));
  snprintf(sock_path, sizeof(sock_path), "%s/s", dir);
  mem_fd = memfd_create("guest", MFD_CLOEXEC);
  MUST(ftruncate(mem_fd, MEM) == 0);
  mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_SHARED, mem_fd, 0);
  uint16_t port, uport;
  int fd = serve(&port, SOCK_STREAM), ufd = serve(&uport, SOCK_DGRAM);

  start(NULL);
  plug();
  say_hello();
  UNTIL(line_seen("guest 1\n"));
  test_published();
  test_many();
  test_backlog();
  test_backpressure();
  test_outbound(port, fd, false);
  test_udp(uport, ufd, false);
  test_lines();
  unplug();
  test_hostile();
  unplug();
  finish(false);

  char a[64], b[64];
  snprintf(a, sizeof(a), "127.0.0.1:%u", port);
  snprintf(b, sizeof(b), "127.0.0.0/8:%u", uport);
  start((const char *const[]){ "--outbound", a, "--outbound", "localhost:1", "--outbound", "*:443", "--outbound", b, "--poll-us", "0", NULL });
  plug();
  say_hello();
  listen_on(1, 80, 64);
  test_outbound(port, fd, true);
  test_udp(uport, ufd, true);
  unplug();
  finish(true);
  rmdir(dir);
  printf("bridge_guest: %u passed, %u failed\n", passed, failed);
  return failed != 0;
}

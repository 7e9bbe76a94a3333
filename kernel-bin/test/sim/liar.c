// SPDX-License-Identifier: Apache-2.0
//
// Two devices that lie: a virtio-fs server of three small files and a vsock bridge that echoes, as vhost-user back ends:
//   liar SEED FS-SOCKET VSOCK-SOCKET          SEED 0: both are honest
// The seed picks the kinds of lies (a quarter of them), how often each is told, and after how many chances they begin.
// Answers come late or wrong, but they do come: a device that says nothing for ever only stops its guest. The exit
// status is always confirmed for the same reason. Ends when QEMU has closed both connections, and prints what it told.
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "../../kernel/net/wire.h"
#include "hostile.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

// --- lies
#define LIES(X) \
  X(USED_ID, "used_id") X(USED_LENGTH, "used_length") X(USED_INDEX, "used_index") X(USED_TWICE, "used_twice") \
  X(RING, "ring") X(AFTER, "after") X(INTERRUPT, "interrupt") X(LATE, "late") X(EVENT_INDEX, "event_index") \
  X(FUSE_HEADER, "fuse_header") X(FUSE_ERROR, "fuse_error") X(FUSE_NODE, "fuse_node") X(FUSE_ATTR, "fuse_attr") \
  X(FUSE_DATA, "fuse_data") X(FUSE_LENGTH, "fuse_length") X(FUSE_NAMES, "fuse_names") X(FUSE_OTHER, "fuse_other") \
  X(VSOCK_HEADER, "vsock_header") X(VSOCK_CREDIT, "vsock_credit") X(VSOCK_UNASKED, "vsock_unasked") \
  X(VSOCK_FLOOD, "vsock_flood") X(VSOCK_TWICE, "vsock_twice") X(MESSAGE, "message") X(PREFIX, "prefix")
#define LIE_ID(id, name) id,
#define LIE_NAME(id, name) name,
enum lie { LIES(LIE_ID) LIE_COUNT };
static const char *const lie_names[] = { LIES(LIE_NAME) };
static unsigned rates[LIE_COUNT], told[LIE_COUNT];
static uint64_t rng, chances, begin;

static uint64_t mix(uint64_t x) { // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}
static uint64_t draw(void) { return rng = mix(rng); }

static void lies_init(uint64_t seed) {
  rng = mix(seed);
  if (!seed) return;
  begin = draw() & 1 ? 0 : draw() % 400;
  for (unsigned i = 0; i < LIE_COUNT; i++)
    if ((draw() & 3) == 0) rates[i] = 1 + (unsigned)(draw() % 7); // from always to once in 64
}

static bool lie(enum lie kind) {
  if (!rates[kind] || ++chances < begin || draw() >> 20 & ((1u << (rates[kind] - 1)) - 1)) return false;
  told[kind]++;
  return true;
}

static uint64_t wild(void) {
  static const uint64_t edges[] = { 0, 1, ~0ull, 1ull << 63, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 4096, 0xfff };
  uint64_t r = draw();
  switch (r & 3) {
  case 0: return edges[(r >> 8) % ARRAY_SIZE(edges)];
  case 1: return (r >> 8) & 0xff;
  case 2: return 1ull << (r >> 8 & 63);
  default: return draw();
  }
}

static void scribble(void *p, size_t n) {
  if (n) ((uint8_t *)p)[draw() % n] = (uint8_t)wild();
}

// --- vhost-user and split rings (virtio 1.2, 2.7)
enum { GET_FEATURES = 1, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE,
  SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE,
  GET_CONFIG = 24 };
#define FEATURES (1ull << 29 | 1ull << 30 | 1ull << 32) // EVENT_IDX, protocol features, VERSION_1
#define PROTOCOL_MQ (1ull << 0)
#define PROTOCOL_CONFIG (1ull << 9)
#define RINGS 3
#define FDS 8
#define CHAIN_MAX ((1 << 20) + 65536)
struct message {
  uint32_t request, flags, size;
  union {
    uint64_t u64;
    struct { uint32_t index, num; } state;
    struct { uint32_t index, flags; uint64_t desc, used, avail, log; } addr;
    struct { uint32_t count, zero; struct { uint64_t gpa, size, uva, offset; } r[FDS]; } mem;
    struct { uint32_t offset, size, flags; uint8_t data[256]; } config;
  };
} __attribute__((packed));
struct desc { uint64_t addr; uint32_t len; uint16_t flags, next; };
struct used { uint32_t id, len; };
struct ring {
  unsigned num;
  uint64_t uva[3]; // descriptors, used, available
  volatile struct desc *desc;
  volatile uint16_t *avail, *used_head;
  volatile struct used *used;
  uint16_t next_avail, used_idx;
  int kick, call;
};
struct device {
  int fd;
  uint64_t protocol_features;
  struct { uint64_t gpa, size, uva; uint8_t *va; } region[FDS];
  unsigned regions;
  struct ring ring[RINGS];
  void (*work)(struct device *d, unsigned ring);
};
struct chain { uint16_t head; unsigned n; struct { uint8_t *p; uint32_t len; bool write; } part[64]; };

static uint8_t *guest(struct device *d, uint64_t at, uint64_t len, bool uva) {
  for (unsigned i = 0; i < d->regions; i++) {
    uint64_t base = uva ? d->region[i].uva : d->region[i].gpa;
    if (at >= base && at - base < d->region[i].size && len <= d->region[i].size - (at - base)) return d->region[i].va + (at - base);
  }
  return NULL;
}

static void die(const char *what) {
  fprintf(stderr, "liar: %s\n", what);
  exit(2);
}

// The guest is ours, so this is its bug, unless lies (or the simulator's) have changed what it wrote since.
static bool lying;
static void guest_failed(const char *what) {
  if (!lying) die(what);
}

static bool has_work(const struct ring *r) { return r->desc && r->kick >= 0 && __atomic_load_n(&r->avail[1], __ATOMIC_ACQUIRE) != r->next_avail; }

static bool chain_take(struct device *d, unsigned index, struct chain *c) {
  struct ring *r = &d->ring[index];
  if (!has_work(r)) return false;
  c->n = 0;
  uint16_t at = c->head = r->avail[2 + r->next_avail++ % r->num];
  for (;;) {
    volatile struct desc *e = &r->desc[at % r->num];
    uint32_t len = e->len;
    uint8_t *p = guest(d, e->addr, len, false);
    if (!p || c->n == ARRAY_SIZE(c->part)) {
      guest_failed("the guest gave a descriptor that is not memory");
      c->n = 0;
      return true;
    }
    c->part[c->n].p = p;
    c->part[c->n].len = len;
    c->part[c->n++].write = e->flags & 2;
    if (!(e->flags & 1)) return true;
    at = e->next;
  }
}

static uint32_t chain_room(const struct chain *c) {
  uint32_t n = 0;
  for (unsigned i = 0; i < c->n; i++) n += c->part[i].write ? c->part[i].len : 0;
  return n;
}

static uint32_t chain_read(const struct chain *c, void *to, uint32_t max) {
  uint32_t n = 0;
  for (unsigned i = 0; i < c->n && n < max; i++) {
    if (c->part[i].write) continue;
    uint32_t part = c->part[i].len < max - n ? c->part[i].len : max - n;
    memcpy((uint8_t *)to + n, c->part[i].p, part);
    n += part;
  }
  return n;
}

static void used_put(struct ring *r, uint32_t id, uint32_t len) {
  volatile struct used *u = &r->used[r->used_idx++ % r->num];
  u->id = id;
  u->len = len;
}

static void tell(struct ring *r) {
  if (r->call >= 0) eventfd_write(r->call, 1);
}

// Gives the chain back with `n` bytes of `from` in it, or says so.
static void chain_give(struct device *d, unsigned index, const struct chain *c, const void *from, uint32_t n) {
  struct ring *r = &d->ring[index];
  uint32_t done = 0;
  for (unsigned i = 0; i < c->n && done < n; i++) {
    if (!c->part[i].write) continue;
    uint32_t part = c->part[i].len < n - done ? c->part[i].len : n - done;
    memcpy(c->part[i].p, (const uint8_t *)from + done, part);
    done += part;
  }
  if (lie(LATE)) usleep((useconds_t)(draw() % 5000));
  if (lie(RING)) { // what is still the device's, so that no later request is lost
    scribble((void *)&r->desc[c->head % r->num], sizeof(struct desc));
    scribble((void *)&r->avail[2 + (uint16_t)(r->next_avail - 1) % r->num], 2);
    scribble((void *)&r->avail[2 + r->num], 2);
  }
  uint16_t before = r->used_idx;
  uint32_t id = lie(USED_ID) ? (draw() & 1 ? (uint32_t)(draw() % r->num) : (uint32_t)wild()) : c->head;
  used_put(r, id, lie(USED_LENGTH) ? (uint32_t)wild() : n);
  if (lie(USED_TWICE)) used_put(r, id, n);
  uint16_t idx = lie(USED_INDEX) ? (uint16_t)wild() : r->used_idx;
  if (idx == before) idx = r->used_idx; // as if nothing were done: silence, for ever if nothing follows
  __atomic_store_n(&r->used_head[1], idx, __ATOMIC_SEQ_CST);
  if (lie(EVENT_INDEX)) *(volatile uint16_t *)(r->used + r->num) = (uint16_t)wild();
  tell(r);
  for (unsigned i = 0; c->n && i < 8 && lie(AFTER); i++) { // what was handed over changes under the guest's eyes
    unsigned p = (unsigned)(draw() % c->n);
    scribble(c->part[p].p, c->part[p].len < 128 ? c->part[p].len : 128);
  }
}

static void ring_find(struct device *d, struct ring *r) {
  r->desc = (void *)guest(d, r->uva[0], 16ul * r->num, true);
  r->used_head = (void *)guest(d, r->uva[1], 6 + 8ul * r->num, true);
  r->avail = (void *)guest(d, r->uva[2], 6 + 2ul * r->num, true);
  if (!r->desc || !r->used_head || !r->avail) r->desc = NULL;
  else r->used = (void *)(r->used_head + 2);
}

static void reply(struct device *d, struct message *m, uint32_t size) {
  m->flags = 1 | 4;
  m->size = size;
  if (write(d->fd, m, 12 + size) != (ssize_t)(12 + size)) die("QEMU does not listen");
}

static void conversation(struct device *d) {
  struct message m;
  char control[CMSG_SPACE(FDS * sizeof(int))];
  int fds[FDS], n_fds = 0;
  struct iovec iov = { &m, 12 };
  struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
  if (recvmsg(d->fd, &h, MSG_WAITALL) != 12 || m.size > sizeof(m) - 12 || (m.size && recv(d->fd, (char *)&m + 12, m.size, MSG_WAITALL) != (ssize_t)m.size)) {
    close(d->fd);
    d->fd = -1;
    return;
  }
  struct cmsghdr *c = CMSG_FIRSTHDR(&h);
  if (c && c->cmsg_type == SCM_RIGHTS) {
    n_fds = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(c), (size_t)n_fds * sizeof(int));
  }
  struct ring *r = &d->ring[(m.size ? m.state.index & 0xff : 0) % RINGS];
  switch (m.request) {
  case GET_FEATURES: m.u64 = FEATURES; return reply(d, &m, 8);
  case GET_PROTOCOL_FEATURES: m.u64 = d->protocol_features; return reply(d, &m, 8);
  case GET_QUEUE_NUM: m.u64 = RINGS; return reply(d, &m, 8);
  case GET_CONFIG:
    memset(m.config.data, 0, sizeof(m.config.data));
    m.config.data[0] = 3; // the guest's CID
    return reply(d, &m, 12 + m.config.size);
  case SET_MEM_TABLE:
    d->regions = m.mem.count;
    for (unsigned i = 0; i < d->regions; i++) {
      uint8_t *p = mmap(NULL, m.mem.r[i].size + m.mem.r[i].offset, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fds[i], 0);
      if (p == MAP_FAILED) die("mmap");
      d->region[i].gpa = m.mem.r[i].gpa, d->region[i].size = m.mem.r[i].size, d->region[i].uva = m.mem.r[i].uva;
      d->region[i].va = p + m.mem.r[i].offset;
      close(fds[i]);
    }
    for (unsigned i = 0; i < RINGS; i++) ring_find(d, &d->ring[i]);
    return;
  case SET_VRING_NUM: r->num = m.state.num; return;
  case SET_VRING_BASE: r->next_avail = r->used_idx = (uint16_t)m.state.num; return;
  case GET_VRING_BASE:
    m.state.num = r->next_avail;
    r->desc = NULL;
    return reply(d, &m, 8);
  case SET_VRING_ADDR:
    r->uva[0] = m.addr.desc, r->uva[1] = m.addr.used, r->uva[2] = m.addr.avail;
    return ring_find(d, r);
  case SET_VRING_KICK: r->kick = n_fds ? fds[0] : -1; return;
  case SET_VRING_CALL: r->call = n_fds ? fds[0] : -1; return;
  default: return;
  }
}

// --- virtio-fs: /m1 with the files that hostile.h names
enum { NODE_ROOT = 1, NODE_DIR, NODE_FILES };
static uint8_t written[ALLOWED_MAX];
static uint32_t written_bytes;
static uint32_t file_size(uint64_t node) { return node == NODE_FILES + FILE_ALLOWED ? written_bytes : file_bytes[node - NODE_FILES]; }
static bool is_file(uint64_t node) { return node >= NODE_FILES && node < NODE_FILES + FILES; }

static void attr(uint64_t node, struct fuse_attr *a) {
  *a = (struct fuse_attr){ .ino = node, .nlink = 1, .blksize = 4096, .mode = is_file(node) ? 0100644 : 040755 };
  if (is_file(node)) a->size = file_size(node), a->blocks = (a->size + 511) / 512;
  if (lie(FUSE_ATTR)) scribble(a, sizeof(*a));
  if (lie(FUSE_ATTR)) a->size = wild();
}

static void fuse_answer(struct device *d, const struct chain *c, uint8_t *out, int error, uint32_t body) {
  struct fuse_out_header *h = (void *)out;
  uint32_t room = chain_room(c);
  if (lie(FUSE_ERROR)) error = draw() & 1 ? -(int)(draw() % 140) : (int)wild();
  if (error && !lie(FUSE_ERROR)) body = 0;
  h->len = (uint32_t)sizeof(*h) + body;
  h->error = error;
  uint32_t n = h->len;
  if (lie(FUSE_LENGTH)) h->len = draw() & 1 ? (uint32_t)wild() : (uint32_t)(draw() % (room + 1));
  if (lie(FUSE_LENGTH)) n = (uint32_t)(draw() % (room + 1));
  if (lie(FUSE_HEADER)) scribble(h, sizeof(*h));
  chain_give(d, 1, c, out, n < room ? n : room < CHAIN_MAX ? room : CHAIN_MAX);
}

static uint32_t entries(uint64_t node, uint64_t off, uint8_t *to, uint32_t room) {
  static const char *const odd[] = { "..", "a/b", "", "data", "\0x", "/etc/passwd", "init" };
  const char *names[2 + FILES] = { ".", ".." };
  unsigned n = 2;
  if (node == NODE_ROOT) names[n++] = "m1";
  else for (unsigned i = 0; i < FILES; i++) names[n++] = file_names[i];
  uint32_t done = 0;
  for (uint64_t i = off; i < n; i++) {
    const char *name = lie(FUSE_NAMES) ? odd[draw() % ARRAY_SIZE(odd)] : names[i];
    struct fuse_dirent e = { .ino = i + 10, .off = i + 1, .namelen = (uint32_t)strlen(name), .type = (uint32_t)(node == NODE_DIR && i > 1 ? 8 : 4) };
    uint32_t size = (uint32_t)FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + e.namelen);
    if (done + size > room) break;
    memset(to + done, 0, size);
    if (lie(FUSE_NAMES)) e.namelen = (uint32_t)wild();
    if (lie(FUSE_NAMES)) e.off = wild();
    memcpy(to + done, &e, FUSE_NAME_OFFSET);
    memcpy(to + done + FUSE_NAME_OFFSET, name, strlen(name));
    done += size;
  }
  return done;
}

static void fuse_request(struct device *d, unsigned ring) {
  static uint8_t in[CHAIN_MAX], out[CHAIN_MAX];
  struct chain c;
  while (chain_take(d, ring, &c)) {
    memset(in, 0, 256);
    memset(out, 0, 512);
    (void)chain_read(&c, in, sizeof(in));
    const struct fuse_in_header *h = (void *)in;
    const void *arg = in + sizeof(*h);
    ((struct fuse_out_header *)out)->unique = h->unique;
    void *body = out + sizeof(struct fuse_out_header);
    uint64_t node = h->nodeid;
    uint32_t room = chain_room(&c);
    if (room < sizeof(struct fuse_out_header) && ring) guest_failed("the guest left no room for an answer");
    if (ring == 0 || room < sizeof(struct fuse_out_header)) { // forget: no answer
      chain_give(d, ring, &c, out, 0);
      continue;
    }
    if (room > sizeof(out)) room = sizeof(out);
    room -= (uint32_t)sizeof(struct fuse_out_header);
    switch (h->opcode) {
    case FUSE_INIT: {
      struct fuse_init_out *o = body;
      *o = (struct fuse_init_out){ .major = 7, .minor = 31, .max_write = 1 << 20, .max_pages = 256, .flags = FUSE_MAX_PAGES };
      if (lie(FUSE_OTHER)) scribble(o, sizeof(*o));
      fuse_answer(d, &c, out, 0, sizeof(*o));
      break;
    }
    case FUSE_LOOKUP: {
      struct fuse_entry_out *o = body;
      const char *name = arg;
      o->nodeid = node == NODE_ROOT && !strcmp(name, "m1") ? NODE_DIR : 0;
      for (unsigned i = 0; node == NODE_DIR && i < FILES; i++)
        if (!strcmp(name, file_names[i])) o->nodeid = NODE_FILES + i;
      if (o->nodeid) attr(o->nodeid, &o->attr);
      int error = o->nodeid ? 0 : -ENOENT;
      if (lie(FUSE_NODE)) o->nodeid = draw() & 1 ? wild() : draw() % 8;
      if (lie(FUSE_OTHER)) scribble(o, sizeof(*o));
      fuse_answer(d, &c, out, error, sizeof(*o));
      break;
    }
    case FUSE_GETATTR: case FUSE_SETATTR: {
      const struct fuse_setattr_in *set = arg;
      struct fuse_attr_out *o = body;
      if (h->opcode == FUSE_SETATTR && (set->valid & FATTR_SIZE) && node == NODE_FILES + FILE_ALLOWED && set->size <= sizeof(written))
        written_bytes = (uint32_t)set->size;
      attr(node, &o->attr);
      fuse_answer(d, &c, out, 0, sizeof(*o));
      break;
    }
    case FUSE_OPEN: case FUSE_OPENDIR: {
      struct fuse_open_out *o = body;
      o->fh = lie(FUSE_OTHER) ? wild() : node;
      if (lie(FUSE_OTHER)) o->open_flags = (uint32_t)wild();
      fuse_answer(d, &c, out, 0, sizeof(*o));
      break;
    }
    case FUSE_READ: {
      const struct fuse_read_in *r = arg;
      uint32_t size = is_file(node) ? file_size(node) : 0, n = r->offset < size ? size - (uint32_t)r->offset : 0;
      n = n < r->size ? n : r->size;
      n = n < room ? n : room;
      for (uint32_t i = 0; i < n; i++)
        ((uint8_t *)body)[i] = node == NODE_FILES + FILE_ALLOWED ? written[r->offset + i] : file_byte((unsigned)(node - NODE_FILES), (uint32_t)r->offset + i);
      if (n && lie(FUSE_DATA)) ((uint8_t *)body)[draw() % n] ^= (uint8_t)(1 + draw() % 255);
      if (n && lie(FUSE_DATA)) memset(body, (int)wild(), n);
      if (r->offset < 1 << 20 && lie(FUSE_DATA)) n = (uint32_t)(draw() % (room + 1)); // too short, or behind the end; not for ever
      fuse_answer(d, &c, out, 0, n);
      break;
    }
    case FUSE_WRITE: {
      const struct fuse_write_in *w = arg;
      struct fuse_write_out *o = body;
      if (w->offset <= sizeof(written) && w->size <= sizeof(written) - w->offset) {
        memcpy(written + w->offset, w + 1, w->size);
        if (w->offset + w->size > written_bytes) written_bytes = (uint32_t)(w->offset + w->size);
      }
      o->size = lie(FUSE_OTHER) ? (uint32_t)wild() : w->size;
      fuse_answer(d, &c, out, 0, sizeof(*o));
      break;
    }
    case FUSE_READDIR: {
      const struct fuse_read_in *r = arg;
      uint32_t n = entries(node, r->offset, body, room < r->size ? room : r->size);
      if (n && lie(FUSE_NAMES)) scribble(body, n);
      fuse_answer(d, &c, out, 0, n);
      break;
    }
    case FUSE_RELEASE: case FUSE_RELEASEDIR: case FUSE_FLUSH: case FUSE_FSYNC: fuse_answer(d, &c, out, 0, 0); break;
    default: fuse_answer(d, &c, out, -ENOSYS, 0); break;
    }
  }
}

// --- vsock: the bridge's protocol (docs/bridge-protocol.md); what comes on a TCP stream goes back
#define STREAMS 64
static struct stream { uint32_t host, guest, fwd, sent, id; bool open; uint8_t in[WIRE_CONTROL_MAX]; uint32_t in_len; } streams[STREAMS];
static unsigned n_streams;
static uint32_t next_port = 5000;
static struct { struct vsock_hdr h; uint8_t data[4096 - 44]; } queue[4096];
static unsigned queue_first, queue_last;

static void packet(const struct stream *s, uint16_t op, const void *data, uint32_t len) {
  if (queue_last - queue_first == ARRAY_SIZE(queue)) return;
  struct vsock_hdr *h = &queue[queue_last % ARRAY_SIZE(queue)].h;
  *h = (struct vsock_hdr){ .src_cid = VSOCK_CID_HOST, .dst_cid = 3, .src_port = s->host, .dst_port = s->guest, .len = len,
    .type = VSOCK_TYPE_STREAM, .op = op, .flags = op == VSOCK_OP_SHUTDOWN ? 3 : 0, .buf_alloc = 256 * 1024, .fwd_cnt = s->fwd };
  memcpy(h + 1, data, len);
  queue_last++;
}

static void stream_send(struct stream *s, const void *data, uint32_t len) {
  for (uint32_t at = 0; at < len;) {
    uint32_t part = len - at < 2048 ? len - at : 2048;
    packet(s, VSOCK_OP_RW, (const uint8_t *)data + at, part);
    s->sent += part;
    at += part;
  }
}

static void message(struct stream *s, void *m, uint32_t len) {
  if (lie(MESSAGE)) scribble(m, len < 20 ? len : 20);
  if (lie(MESSAGE)) memset((uint8_t *)m + draw() % len, (int)wild(), 1);
  stream_send(s, m, len);
}

static struct stream *stream_open(uint32_t host, uint32_t to, uint32_t id) {
  if (n_streams == STREAMS) return NULL;
  struct stream *s = &streams[n_streams++];
  *s = (struct stream){ .host = host, .guest = to, .id = id };
  return s;
}

// A stream to the guest, with the prefix that names listener or request.
static void offer(uint16_t kind, uint32_t id) {
  struct stream *s = stream_open(next_port++, WIRE_PORT_DATA, id | (uint32_t)kind << 30);
  if (s) packet(s, VSOCK_OP_REQUEST, NULL, 0);
}

static void offered(struct stream *s) {
  struct wire_addr peer = { .family = 4, .port = 7, .ip = { 10, 0, 2, 2 } };
  struct wire_prefix p = { .magic = WIRE_PREFIX_MAGIC, .kind = (uint16_t)(s->id >> 30), .id = s->id & 0x3fffffff, .peer = peer, .local = peer };
  if (lie(PREFIX)) scribble(&p, sizeof(p));
  if (lie(PREFIX)) p.id = (uint32_t)wild();
  stream_send(s, &p, lie(PREFIX) ? (uint32_t)(draw() % sizeof(p)) : sizeof(p));
  if (s->id >> 30 == WIRE_KIND_ACCEPTED) stream_send(s, "hello from outside", 18);
}

static void control_message(struct stream *s, const struct wire_head *h) {
  struct wire_u32 answer = { { sizeof(answer), 0, 0, h->id }, 0 };
  struct wire_hello_ok ok = { { sizeof(ok), WIRE_HELLO_OK, 0, 0 }, WIRE_VERSION, 0, 0 };
  switch (h->type) {
  case WIRE_HELLO: return message(s, &ok, sizeof(ok));
  case WIRE_CONNECT:
    if (lie(MESSAGE)) {
      answer.h.type = WIRE_CONNECT_FAILED;
      answer.value = (uint32_t)wild();
      message(s, &answer, sizeof(answer));
    }
    return offer(WIRE_KIND_CONNECTED, h->id);
  case WIRE_LISTEN: return offer(WIRE_KIND_ACCEPTED, h->id);
  case WIRE_EXIT:
    memset(rates, 0, sizeof(rates)); // from here on honest: nothing but the wait for this answer is left
    answer.h.type = WIRE_EXIT_OK;
    stream_send(s, &answer, sizeof(answer));
    return packet(s, VSOCK_OP_RST, NULL, 0); // in case what was said before makes the guest wait for more
  case WIRE_LAST_WORDS: printf("liar.last_words=%.*s\n", (int)(h->length - sizeof(*h)), (const char *)(h + 1)); return;
  case WIRE_UDP_SEND: {
    const struct wire_udp_send *m = (const void *)h;
    uint8_t back[1024];
    struct wire_udp_recv r = { { h->length + (uint32_t)sizeof(struct wire_addr), WIRE_UDP_RECV, 0, h->id }, m->remote, m->remote };
    memcpy(back, &r, sizeof(r));
    memcpy(back + sizeof(r), m + 1, h->length - sizeof(*m));
    return message(s, back, r.h.length);
  }
  default: return;
  }
}

static void stream_data(struct stream *s, const uint8_t *data, uint32_t len) {
  s->fwd += len;
  if (s->host != WIRE_PORT_CONTROL && s->host != WIRE_PORT_DGRAM) return stream_send(s, data, len);
  for (uint32_t i = 0; i < len; i++) { // small messages: byte by byte will do
    s->in[s->in_len++] = data[i];
    const struct wire_head *h = (void *)s->in;
    if (s->in_len < sizeof(*h)) continue;
    if (h->length < sizeof(*h) || h->length > sizeof(s->in) - 64) {
      guest_failed("the guest sent a message that is none");
      return packet(s, VSOCK_OP_RST, NULL, 0);
    }
    if (s->in_len < h->length) continue;
    control_message(s, h);
    s->in_len = 0;
  }
}

static void from_guest(const struct vsock_hdr *h, const uint8_t *data) {
  struct stream *s = NULL;
  for (unsigned i = 0; i < n_streams; i++)
    if (streams[i].host == h->dst_port && streams[i].guest == h->src_port) s = &streams[i];
  if (h->op == VSOCK_OP_REQUEST && !s) s = stream_open(h->dst_port, h->src_port, 0);
  if (!s) return;
  switch (h->op) {
  case VSOCK_OP_REQUEST: s->open = true; packet(s, VSOCK_OP_RESPONSE, NULL, 0); break;
  case VSOCK_OP_RESPONSE: s->open = true; offered(s); break;
  case VSOCK_OP_RW: stream_data(s, data, h->len); break;
  case VSOCK_OP_CREDIT_REQUEST: packet(s, VSOCK_OP_CREDIT_UPDATE, NULL, 0); break;
  case VSOCK_OP_SHUTDOWN: if ((h->flags & 3) == 3) packet(s, VSOCK_OP_RST, NULL, 0); break;
  case VSOCK_OP_RST: *s = streams[--n_streams]; break;
  }
}

static void vsock_flush(struct device *d) {
  struct chain c;
  while (queue_first != queue_last && chain_take(d, 0, &c)) {
    if (chain_room(&c) < sizeof(queue[0])) guest_failed("the guest gave too small a buffer");
    struct vsock_hdr *h = &queue[queue_first % ARRAY_SIZE(queue)].h;
    uint32_t n = (uint32_t)sizeof(*h) + h->len;
    struct vsock_hdr other = *h;
    static bool repeated; // the right packet comes after a wrong one, and none more than twice
    bool again = !repeated && lie(VSOCK_TWICE), wrong = !repeated && lie(VSOCK_HEADER);
    if (wrong && draw() & 1) scribble(h, sizeof(*h));
    else if (wrong) h->len = (uint32_t)wild();
    if (lie(VSOCK_CREDIT)) *(draw() & 1 ? &h->buf_alloc : &h->fwd_cnt) = (uint32_t)wild();
    chain_give(d, 0, &c, h, n);
    *h = other;
    repeated = again || wrong;
    if (!repeated) queue_first++;
  }
}

static void vsock_work(struct device *d, unsigned ring) {
  static uint8_t in[CHAIN_MAX];
  struct chain c;
  while (ring == 1 && chain_take(d, 1, &c)) {
    uint32_t n = chain_read(&c, in, sizeof(in));
    const struct vsock_hdr *h = (void *)in;
    if (n < sizeof(*h) || h->len > n - sizeof(*h)) guest_failed("the guest sent a packet that is none");
    else from_guest(h, in + sizeof(*h));
    chain_give(d, 1, &c, NULL, 0);
  }
  if (n_streams && lie(VSOCK_UNASKED)) { // any packet for a stream that there is, or is not
    struct stream s = streams[draw() % n_streams];
    if (draw() & 1) s.guest = (uint32_t)wild();
    packet(&s, (uint16_t)(draw() % 9), in, (uint32_t)(draw() % 64));
  }
  if (n_streams && lie(VSOCK_FLOOD)) {
    struct stream s = streams[draw() % n_streams];
    bool requests = draw() & 1;
    for (unsigned i = 0; i < 300; i++) {
      if (requests) s.host = next_port++, s.guest = WIRE_PORT_DATA;
      packet(&s, requests ? VSOCK_OP_REQUEST : VSOCK_OP_RW, in, requests ? 0 : 2000);
    }
  }
  vsock_flush(d);
}

static int listen_at(const char *path) {
  struct sockaddr_un a = { .sun_family = AF_UNIX };
  int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
  if (fd < 0 || bind(fd, (void *)&a, sizeof(a)) || listen(fd, 1)) die(path);
  return fd;
}

int main(int argc, char **argv) {
  if (argc != 4) die("usage: liar SEED FS-SOCKET VSOCK-SOCKET");
  uint64_t seed = strtoull(argv[1], NULL, 10);
  lies_init(seed);
  lying = seed != 0;
  struct device devices[2] = { { .fd = -1, .protocol_features = PROTOCOL_MQ, .work = fuse_request },
                               { .fd = -1, .protocol_features = PROTOCOL_MQ | PROTOCOL_CONFIG, .work = vsock_work } };
  int listening[2] = { listen_at(argv[2]), listen_at(argv[3]) };
  printf("ready\n");
  fflush(stdout);
  for (unsigned i = 0; i < 2; i++)
    for (unsigned k = 0; k < RINGS; k++) devices[i].ring[k].kick = devices[i].ring[k].call = -1;
  for (;;) {
    struct pollfd p[2 + 2 + 2 * RINGS];
    for (unsigned i = 0; i < 2; i++) {
      p[i] = (struct pollfd){ listening[i], POLLIN, 0 };
      p[2 + i] = (struct pollfd){ devices[i].fd, POLLIN, 0 };
      for (unsigned k = 0; k < RINGS; k++) p[4 + i * RINGS + k] = (struct pollfd){ devices[i].ring[k].kick, POLLIN, 0 };
    }
    if (poll(p, ARRAY_SIZE(p), -1) < 0) die("poll");
    for (unsigned i = 0; i < 2; i++) {
      struct device *d = &devices[i];
      if (p[i].revents) {
        d->fd = accept(listening[i], NULL, NULL);
        close(listening[i]);
        listening[i] = -1;
      } else if (p[2 + i].revents) {
        conversation(d);
      }
      for (unsigned k = 0; k < RINGS && d->fd >= 0; k++) {
        eventfd_t v;
        if (!p[4 + i * RINGS + k].revents || d->ring[k].kick < 0) continue;
        if (eventfd_read(d->ring[k].kick, &v)) d->ring[k].kick = -1;
        if (lie(INTERRUPT)) tell(&d->ring[draw() % RINGS]);
        d->work(d, k);
      }
      for (unsigned k = 0; k < RINGS && d->fd >= 0; k++) {
        struct ring *r = &d->ring[k];
        bool waits = d->work == vsock_work && k == 0; // buffers for what is not there yet
        do { // the next doorbell at the next chain: EVENT_IDX, behind the used ring; then the look that makes it safe
          if (!r->desc) break;
          *(volatile uint16_t *)(r->used + r->num) = r->next_avail;
          __atomic_thread_fence(__ATOMIC_SEQ_CST);
          if (!has_work(r) || (waits && queue_first == queue_last)) break;
          d->work(d, k);
        } while (k < 2);
      }
    }
    if (listening[0] < 0 && listening[1] < 0 && devices[0].fd < 0 && devices[1].fd < 0) break;
  }
  for (unsigned i = 0; i < LIE_COUNT; i++)
    if (told[i]) printf("liar.%s=%u\n", lie_names[i], told[i]);
  return 0;
}

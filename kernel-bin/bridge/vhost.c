// SPDX-License-Identifier: Apache-2.0
//
// The vhost-user backend: QEMU connects to our unix socket, hands over the guest's memory as file descriptors and the
// two rings' addresses; we map the memory and work on the rings (virtio 1.2, 2.7, split rings, EVENT_IDX). What QEMU
// and the guest say is checked: ring addresses and buffers against the mapped regions, indices against the ring size.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "bridge.h"

#define F_EVENT_IDX (1ull << 29)
#define F_PROTOCOL (1ull << 30)
#define F_VERSION_1 (1ull << 32)
#define OUR_FEATURES (F_EVENT_IDX | F_PROTOCOL | F_VERSION_1)
#define PF_MQ (1ull << 0)
#define PF_REPLY_ACK (1ull << 3)
#define PF_CONFIG (1ull << 9)
#define OUR_PROTOCOL_FEATURES (PF_MQ | PF_REPLY_ACK | PF_CONFIG)

enum { // vhost-user requests, by number in the specification
  VU_GET_FEATURES = 1, VU_SET_FEATURES, VU_SET_OWNER, VU_RESET_OWNER, VU_SET_MEM_TABLE, VU_SET_LOG_BASE, VU_SET_LOG_FD,
  VU_SET_VRING_NUM, VU_SET_VRING_ADDR, VU_SET_VRING_BASE, VU_GET_VRING_BASE, VU_SET_VRING_KICK, VU_SET_VRING_CALL,
  VU_SET_VRING_ERR, VU_GET_PROTOCOL_FEATURES, VU_SET_PROTOCOL_FEATURES, VU_GET_QUEUE_NUM, VU_SET_VRING_ENABLE,
  VU_GET_CONFIG = 24, VU_SET_CONFIG = 25,
};
#define VU_VERSION 1u
#define VU_REPLY 4u
#define VU_NEED_REPLY 8u
#define VU_MAX_FDS 8
struct vu_head { uint32_t request, flags, size; };
struct vu_region { uint64_t gpa, size, uva, offset; };
struct vu_msg {
  struct vu_head h;
  union {
    uint64_t u64;
    struct { uint32_t index, num; } state;
    struct { uint32_t index, flags; uint64_t desc, used, avail, log; } addr;
    struct { uint32_t count, zero; struct vu_region r[VU_MAX_FDS]; } mem;
    struct { uint32_t offset, size, flags; uint8_t data[256]; } config;
    uint8_t bytes[512];
  } p;
};
_Static_assert(offsetof(struct vu_msg, p) == 16, "the payload follows the head after alignment padding");

struct region { uint64_t gpa, size, uva; uint8_t *va; void *map; size_t map_len; };
struct vdesc { uint64_t addr; uint32_t len; uint16_t flags, next; };
struct vused { uint32_t id, len; };
struct ring {
  unsigned index, num;
  bool dead, disabled;
  uint64_t desc_uva, avail_uva, used_uva;  // as QEMU names them
  volatile struct vdesc *desc;
  volatile uint16_t *avail;                // flags, idx, ring[num], used_event
  volatile uint16_t *used16;               // flags, idx
  volatile struct vused *used;
  volatile uint16_t *avail_event;
  uint16_t last_avail, used_idx, published;
  int kick_fd, call_fd;
  struct source kick;
};

static int listen_fd = -1, conn_fd = -1;
static struct source listen_source, conn_source;
static uint64_t features, protocol_features;
static struct region regions[VU_MAX_FDS];
static unsigned region_count;
static struct ring rings[RING_COUNT] = { { .kick_fd = -1, .call_fd = -1 }, { .index = 1, .kick_fd = -1, .call_fd = -1 } };
static struct vu_msg in;
static size_t in_len;
static int in_fds[VU_MAX_FDS];
static unsigned in_fd_count;

// --- guest memory

// The bytes at a guest-physical address, at most *len of them in one piece; NULL: not memory.
static uint8_t *from_gpa(uint64_t gpa, size_t *len) {
  static unsigned last;
  for (unsigned k = 0; k < region_count; k++) {
    unsigned i = (last + k) % region_count;
    const struct region *r = &regions[i];
    if (gpa < r->gpa || gpa - r->gpa >= r->size) continue;
    uint64_t left = r->size - (gpa - r->gpa);
    if (*len > left) *len = left;
    last = i;
    return r->va + (gpa - r->gpa);
  }
  return NULL;
}

static uint8_t *from_uva(uint64_t uva, size_t len) {
  for (unsigned i = 0; i < region_count; i++) {
    const struct region *r = &regions[i];
    if (uva >= r->uva && uva - r->uva < r->size && len <= r->size - (uva - r->uva)) return r->va + (uva - r->uva);
  }
  return NULL;
}

static void regions_unmap(void) {
  for (unsigned i = 0; i < region_count; i++) munmap(regions[i].map, regions[i].map_len);
  region_count = 0;
  for (unsigned i = 0; i < RING_COUNT; i++) rings[i].desc = NULL;
}

// Finds the rings' memory again: after SET_VRING_ADDR, and when the memory table changed.
static bool ring_resolve(struct ring *r) {
  r->desc = NULL;
  if (!r->num || !r->desc_uva) return false;
  uint8_t *desc = from_uva(r->desc_uva, 16ul * r->num), *avail = from_uva(r->avail_uva, 6 + 2ul * r->num);
  uint8_t *used = from_uva(r->used_uva, 6 + 8ul * r->num);
  if (!desc || !avail || !used || ((uintptr_t)desc & 15) || ((uintptr_t)avail & 1) || ((uintptr_t)used & 3)) return false;
  r->avail = (void *)avail;
  r->used16 = (void *)used;
  r->used = (void *)(used + 4);
  r->avail_event = (void *)(used + 4 + 8ul * r->num);
  r->used_idx = r->published = r->used16[1];
  r->desc = (void *)desc;
  return true;
}

bool ring_up(int i) {
  const struct ring *r = &rings[i];
  return r->desc && r->kick_fd >= 0 && !r->dead && !r->disabled && conn_fd >= 0;
}

void ring_lied(int i, const char *what) {
  rings[i].dead = true;
  bridge_guest_lied(what);
}

static int ring_lie(struct ring *r, const char *what) {
  ring_lied((int)r->index, what);
  return -1;
}

int ring_peek(int i, unsigned ahead, struct chain *c) {
  struct ring *r = &rings[i];
  if (!ring_up(i)) return 0;
  uint16_t idx = __atomic_load_n(&r->avail[1], __ATOMIC_ACQUIRE), waiting = (uint16_t)(idx - r->last_avail);
  if (waiting > r->num) return ring_lie(r, "available index out of range");
  if (ahead >= waiting) return 0;
  uint16_t at = r->avail[2 + (uint16_t)(r->last_avail + ahead) % r->num];
  c->head = at;
  c->niov = 0;
  c->len = 0;
  for (unsigned seen = 0;; seen++) {
    if (at >= r->num || seen >= r->num) return ring_lie(r, "descriptor index out of range");
    struct vdesc d = { r->desc[at].addr, r->desc[at].len, r->desc[at].flags, r->desc[at].next };
    if (d.flags & 4) return ring_lie(r, "indirect descriptors were not negotiated");
    if (((d.flags & 2) != 0) != (i == RING_TO_GUEST)) return ring_lie(r, "descriptor of the wrong direction");
    while (d.len) {
      size_t n = d.len;
      uint8_t *va = from_gpa(d.addr, &n);
      if (!va || c->niov == CHAIN_IOVS) return ring_lie(r, va ? "descriptor chain too long" : "descriptor outside of memory");
      c->iov[c->niov++] = (struct iovec){ va, n };
      c->len += n;
      d.addr += n;
      d.len -= (uint32_t)n;
    }
    if (!(d.flags & 1)) break;
    at = d.next;
  }
  return 1;
}

void ring_used(int i, const struct chain *c, size_t written) {
  struct ring *r = &rings[i];
  if (!ring_up(i)) return;
  volatile struct vused *u = &r->used[r->used_idx % r->num];
  u->id = c->head;
  u->len = (uint32_t)written;
  r->used_idx++;
  r->last_avail++;
}

bool ring_publish(int i) {
  struct ring *r = &rings[i];
  if (!ring_up(i) || r->published == r->used_idx) return false;
  uint16_t old = r->published;
  __atomic_store_n(&r->used16[1], r->used_idx, __ATOMIC_RELEASE);
  r->published = r->used_idx;
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // the index first, then the question whether the guest wants to know
  bool tell;
  if (features & F_EVENT_IDX) tell = (uint16_t)(r->used_idx - r->avail[2 + r->num] - 1) < (uint16_t)(r->used_idx - old);
  else tell = !(r->avail[0] & 1);
  if (tell && r->call_fd >= 0) eventfd_write(r->call_fd, 1);
  return true;
}

bool ring_want_kick(int i) {
  struct ring *r = &rings[i];
  if (!ring_up(i)) return false;
  if (features & F_EVENT_IDX) *r->avail_event = r->last_avail;
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // the wish first, then the look: or a doorbell is lost
  return r->avail[1] != r->last_avail;
}

static void kicked(struct source *s, uint32_t events) {
  (void)events;
  eventfd_t v;
  eventfd_read(container_of(s, struct ring, kick)->kick_fd, &v); // the loop looks at the rings every turn
}

// --- the vhost-user conversation

static void ring_stop(struct ring *r) {
  if (r->kick_fd >= 0) {
    loop_remove(r->kick_fd);
    close(r->kick_fd);
  }
  if (r->call_fd >= 0) close(r->call_fd);
  r->kick_fd = r->call_fd = -1;
}

static void disconnect(const char *why) {
  note("QEMU's connection ended: %s", why);
  streams_from_guest(); // what it said last is still in the rings
  for (unsigned i = 0; i < in_fd_count; i++) close(in_fds[i]);
  in_fd_count = 0;
  in_len = 0;
  for (unsigned i = 0; i < RING_COUNT; i++) {
    ring_stop(&rings[i]);
    rings[i].desc_uva = 0;
  }
  regions_unmap();
  if (conn_fd >= 0) {
    loop_remove(conn_fd);
    close(conn_fd);
    conn_fd = -1;
  }
  features = protocol_features = 0;
  bridge_guest_gone();
}

static bool set_mem_table(struct vu_msg *m) {
  unsigned n = m->p.mem.count;
  if (n > VU_MAX_FDS || n != in_fd_count || m->h.size < 8 + n * sizeof(struct vu_region)) return false;
  regions_unmap();
  for (unsigned i = 0; i < n; i++) {
    const struct vu_region *s = &m->p.mem.r[i];
    uint64_t len;
    struct stat st;
    if (__builtin_add_overflow(s->size, s->offset, &len) || !s->size || s->gpa + s->size < s->gpa || s->uva + s->size < s->uva) return false;
    if (fstat(in_fds[i], &st) || (uint64_t)st.st_size < len) return false;
    void *map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, in_fds[i], 0);
    if (map == MAP_FAILED) return false;
    madvise(map, len, MADV_DONTDUMP);
    regions[region_count++] = (struct region){ s->gpa, s->size, s->uva, (uint8_t *)map + s->offset, map, len };
  }
  for (unsigned i = 0; i < RING_COUNT; i++) ring_resolve(&rings[i]);
  return true;
}

static struct ring *ring_of(uint64_t index) { return index < RING_COUNT ? &rings[index] : NULL; }

// Sends what is in m->p, `size` bytes.
static void reply(struct vu_msg *m, uint32_t size) {
  m->h.flags = VU_VERSION | VU_REPLY;
  m->h.size = size;
  struct iovec iov[2] = { { &m->h, sizeof(m->h) }, { &m->p, size } };
  ssize_t n = writev(conn_fd, iov, 2); // a unix socket takes such a small message whole
  if (n != (ssize_t)(sizeof(m->h) + size)) note("reply to QEMU was cut short");
}

// Takes the descriptor that came with the message; -1: none was meant to come.
static int take_fd(void) {
  if (!in_fd_count) return -1;
  int fd = in_fds[0];
  memmove(in_fds, in_fds + 1, --in_fd_count * sizeof(int));
  return fd;
}

static bool set_vring_fd(struct vu_msg *m) {
  struct ring *r = ring_of(m->p.u64 & 0xff);
  bool none = m->p.u64 & 0x100;
  int fd = none ? -1 : take_fd();
  if (!r || (!none && fd < 0)) {
    // The third ring (events) is QEMU's own; should it hand one over, its descriptors are just dropped.
    if (fd >= 0) close(fd);
    return (m->p.u64 & 0xff) == RING_COUNT;
  }
  if (m->h.request == VU_SET_VRING_KICK) {
    if (r->kick_fd >= 0) {
      loop_remove(r->kick_fd);
      close(r->kick_fd);
    }
    r->kick_fd = fd;
    r->dead = false;
    if (fd >= 0) {
      fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
      r->kick.ready = kicked;
      if (loop_add(fd, EPOLLIN, &r->kick)) return false;
    }
    note("ring %u started, %u entries", r->index, r->num);
  } else if (m->h.request == VU_SET_VRING_CALL) {
    if (r->call_fd >= 0) close(r->call_fd);
    r->call_fd = fd;
    if (fd >= 0) {
      fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
      eventfd_write(fd, 1); // whatever was used meanwhile must be seen
    }
  } else if (fd >= 0) {
    close(fd);
  }
  return true;
}

// One whole message. False: end the connection.
static bool handle(struct vu_msg *m) {
  struct ring *r;
  switch (m->h.request) {
  case VU_GET_FEATURES: m->p.u64 = OUR_FEATURES; reply(m, 8); return true;
  case VU_SET_FEATURES:
    if (m->p.u64 & ~OUR_FEATURES) return false;
    features = m->p.u64;
    break;
  case VU_GET_PROTOCOL_FEATURES: m->p.u64 = OUR_PROTOCOL_FEATURES; reply(m, 8); return true;
  case VU_SET_PROTOCOL_FEATURES: protocol_features = m->p.u64 & OUR_PROTOCOL_FEATURES; break;
  case VU_GET_QUEUE_NUM: m->p.u64 = RING_COUNT; reply(m, 8); return true;
  case VU_SET_OWNER: case VU_RESET_OWNER: case VU_SET_LOG_FD: case VU_SET_CONFIG: break;
  case VU_SET_MEM_TABLE: if (!set_mem_table(m)) return false; break;
  case VU_SET_VRING_NUM:
    if (m->p.state.index == RING_COUNT) break;
    r = ring_of(m->p.state.index);
    if (!r || !m->p.state.num || m->p.state.num > 32768 || (m->p.state.num & (m->p.state.num - 1))) return false;
    r->desc = NULL; // until its address comes: the old one was checked for another size
    r->desc_uva = 0;
    r->num = m->p.state.num;
    break;
  case VU_SET_VRING_ADDR:
    if (m->p.addr.index == RING_COUNT) break;
    r = ring_of(m->p.addr.index);
    if (!r) return false;
    r->desc_uva = m->p.addr.desc;
    r->avail_uva = m->p.addr.avail;
    r->used_uva = m->p.addr.used;
    if (!ring_resolve(r)) return false;
    break;
  case VU_SET_VRING_BASE:
    if (m->p.state.index == RING_COUNT) break;
    r = ring_of(m->p.state.index);
    if (!r) return false;
    r->last_avail = (uint16_t)m->p.state.num;
    break;
  case VU_GET_VRING_BASE:
    r = ring_of(m->p.state.index);
    m->p.state.num = r ? r->last_avail : 0;
    if (r) {
      streams_from_guest();
      ring_stop(r); // the guest stopped the device
      r->disabled = false;
      bridge_guest_gone();
    }
    reply(m, 8);
    return true;
  case VU_SET_VRING_KICK: case VU_SET_VRING_CALL: case VU_SET_VRING_ERR: if (!set_vring_fd(m)) return false; break;
  case VU_SET_VRING_ENABLE:
    r = ring_of(m->p.state.index);
    if (r) r->disabled = m->p.state.num == 0;
    break;
  case VU_GET_CONFIG: {
    uint64_t cid = 3; // struct virtio_vsock_config
    uint32_t off = m->p.config.offset, size = m->p.config.size;
    if (m->h.size < 12 || size > sizeof(m->p.config.data) || m->h.size > 12 + sizeof(m->p.config.data)) return false;
    memset(m->p.config.data, 0, sizeof(m->p.config.data));
    if (off < 8) memcpy(m->p.config.data, (uint8_t *)&cid + off, min_size(size, 8 - off));
    reply(m, 12 + size);
    return true;
  }
  default: note("QEMU asked for %u, which we do not know", m->h.request); return false;
  }
  if ((m->h.flags & VU_NEED_REPLY) && (protocol_features & PF_REPLY_ACK)) {
    m->p.u64 = 0;
    reply(m, 8);
  }
  return true;
}

static void conn_ready(struct source *s, uint32_t events) {
  (void)s;
  (void)events;
  // The head first, then as much as it says: descriptors come with the head's first byte.
  for (;;) {
    bool body = in_len >= sizeof(struct vu_head);
    if (body && in.h.size > sizeof(in.p)) return disconnect("message too long");
    size_t want = body ? sizeof(struct vu_head) + in.h.size : sizeof(struct vu_head);
    if (in_len < want) {
      char control[CMSG_SPACE(VU_MAX_FDS * sizeof(int))];
      uint8_t *to = body ? in.p.bytes + (in_len - sizeof(struct vu_head)) : (uint8_t *)&in + in_len;
      struct iovec iov = { to, want - in_len };
      struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
      ssize_t n = recvmsg(conn_fd, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
      if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (n <= 0) return disconnect(n ? strerror(errno) : "closed");
      for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        unsigned k = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (unsigned i = 0; i < k; i++) {
          int fd;
          memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
          if (in_fd_count < VU_MAX_FDS) in_fds[in_fd_count++] = fd;
          else close(fd);
        }
      }
      in_len += (size_t)n;
      continue;
    }
    if (!body) continue;
    if ((in.h.flags & 3) != VU_VERSION) return disconnect("unknown vhost-user version");
    in_len = 0;
    bool ok = handle(&in);
    for (unsigned i = 0; i < in_fd_count; i++) close(in_fds[i]);
    in_fd_count = 0;
    if (!ok) return disconnect("a request that makes no sense");
    if (conn_fd < 0) return;
  }
}

static void listen_ready(struct source *s, uint32_t events) {
  (void)s;
  (void)events;
  int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
  if (fd < 0) return;
  if (conn_fd >= 0) { // one machine per bridge
    close(fd);
    return;
  }
  conn_fd = fd;
  conn_source.ready = conn_ready;
  loop_add(fd, EPOLLIN, &conn_source);
  note("QEMU connected");
}

void vhost_listen(const char *path) {
  struct sockaddr_un a = { .sun_family = AF_UNIX };
  if (strlen(path) >= sizeof(a.sun_path)) die("socket", "path too long: %s", path);
  strcpy(a.sun_path, path);
  unlink(path);
  listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  mode_t old = umask(0177);
  if (listen_fd < 0 || bind(listen_fd, (struct sockaddr *)&a, sizeof(a)) || listen(listen_fd, 1)) die("socket", "%s: %s", path, strerror(errno));
  umask(old);
  listen_source.ready = listen_ready;
  loop_add(listen_fd, EPOLLIN, &listen_source);
}

// --- chains

size_t iov_write(const struct iovec *iov, unsigned n, size_t off, const void *src, size_t len) {
  size_t done = 0;
  for (unsigned i = 0; i < n && done < len; i++) {
    if (off >= iov[i].iov_len) {
      off -= iov[i].iov_len;
      continue;
    }
    size_t k = min_size(iov[i].iov_len - off, len - done);
    memcpy((uint8_t *)iov[i].iov_base + off, (const uint8_t *)src + done, k);
    done += k;
    off = 0;
  }
  return done;
}

size_t iov_read(const struct iovec *iov, unsigned n, size_t off, void *dst, size_t len) {
  size_t done = 0;
  for (unsigned i = 0; i < n && done < len; i++) {
    if (off >= iov[i].iov_len) {
      off -= iov[i].iov_len;
      continue;
    }
    size_t k = min_size(iov[i].iov_len - off, len - done);
    memcpy((uint8_t *)dst + done, (uint8_t *)iov[i].iov_base + off, k);
    done += k;
    off = 0;
  }
  return done;
}

unsigned iov_slice(const struct iovec *iov, unsigned n, size_t off, size_t len, struct iovec *out, unsigned max) {
  unsigned k = 0;
  for (unsigned i = 0; i < n && len && k < max; i++) {
    if (off >= iov[i].iov_len) {
      off -= iov[i].iov_len;
      continue;
    }
    size_t part = min_size(iov[i].iov_len - off, len);
    out[k++] = (struct iovec){ (uint8_t *)iov[i].iov_base + off, part };
    len -= part;
    off = 0;
  }
  return k;
}

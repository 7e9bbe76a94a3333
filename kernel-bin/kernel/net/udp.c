// SPDX-License-Identifier: Apache-2.0
//
// UDP sockets: datagrams inside the guest are queued at the receiver; others travel as messages of the datagram stream.
// Datagrams that find a full queue are lost, as UDP allows.
// Locks: u->lock (RANK_OBJECT, irqsave) guards the queue, the peer and u->s; ids_lock (RANK_OBJECT2) the id table.

#include "net/inet.h"
#include <linux/in.h>
#include <linux/in6.h>

#define MSG_ERRQUEUE_ 0x2000u
#define ID_BUCKETS 64u
#define QUEUE_BYTES 212992u // of payload and overhead

// refs: the queue's (or its taker's), and those of readers that only look.
struct datagram { struct list link; struct refcount refs; struct wire_addr from, to; u32 len; u8 data[]; };
struct usock {
  struct refcount refs;
  struct spinlock lock;
  struct socket *s;          // NULL: released
  struct inet_bound bound;
  struct wire_addr local, peer;
  bool connected, shut_rd, shut_wr;
  bool opened;               // the bridge knows the id
  struct mutex open_lock;    // RANK_INODE: binding and opening, once
  struct list queue;
  u32 queued_bytes;
  u32 id;
  struct list id_link;       // under ids_lock
  struct inet_opts opts;
};

static struct port_space ports;
static struct spinlock ids_lock = SPINLOCK_INIT(RANK_OBJECT2);
static struct list ids[ID_BUCKETS];
static u32 next_id = 1;
static const struct socket_ops udp_ops;

static struct usock *usock(const struct socket *s) { return s->priv; }
static void usock_put(struct usock *u) {
  if (ref_put(&u->refs)) kfree(u);
}

static void datagram_put(struct datagram *d) {
  if (ref_put(&d->refs)) kfree(d);
}

static struct usock *id_find(u32 id) {
  struct usock *it, *found = NULL;
  u64 flags = spin_lock_irqsave(&ids_lock);
  list_for_each(it, &ids[id % ID_BUCKETS], id_link) {
    if (it->id != id) continue;
    ref_get(&it->refs);
    found = it;
    break;
  }
  spin_unlock_irqrestore(&ids_lock, flags);
  return found;
}

int inet_udp_create(struct socket *s) {
  struct usock *u = kzalloc(sizeof(*u));
  if (!u) return -ENOMEM;
  ref_init(&u->refs);
  spin_init(&u->lock, RANK_OBJECT);
  mutex_init(&u->open_lock, RANK_INODE);
  list_init(&u->bound.link);
  list_init(&u->queue);
  inet_opts_init(&u->opts);
  u->s = s;
  s->protocol = 17; // IPPROTO_UDP
  u->local.family = u->peer.family = inet_family(s);
  u64 flags = spin_lock_irqsave(&ids_lock);
  do u->id = next_id++;
  while (!u->id);
  list_push_back(&ids[u->id % ID_BUCKETS], &u->id_link); // holds no reference: taken out by release
  spin_unlock_irqrestore(&ids_lock, flags);
  s->priv = u;
  s->ops = &udp_ops;
  return 0;
}

// --- names

// open_lock held.
static int bind_locked(struct socket *s, const struct wire_addr *a) {
  struct usock *u = usock(s);
  if (u->bound.on) return -EINVAL;
  u->bound.addr = *a;
  u->bound.reuseaddr = (s->so_flags & SOF_REUSEADDR) != 0;
  u->bound.reuseport = (s->so_flags & SOF_REUSEPORT) != 0;
  u->bound.dual = a->family == 6 && inet_is_any(a) && !inet_opt_v6only(&u->opts);
  int err = ports_bind(&ports, &u->bound);
  if (!err) u->local = u->bound.addr;
  return err;
}

// Before it can receive anything from outside the bridge must know it.
static int open_locked(struct usock *u) {
  if (u->opened) return 0;
  struct wire_udp_open m = { { sizeof(m), WIRE_UDP_OPEN, 0, u->id }, u->local };
  struct iter none;
  iter_kernel(&none, NULL, 0);
  WRITE_ONCE(u->opened, true); // before: the first datagram may be here before we are back
  int err = dgram_send(&m, sizeof(m), &none, 0);
  if (err) WRITE_ONCE(u->opened, false);
  return err;
}

static int udp_bind(struct socket *s, const struct sockaddr_k *a, u32 len) {
  struct usock *u = usock(s);
  struct wire_addr w;
  int err = inet_addr_parse(s, a, len, &w);
  if (err) return err;
  if (w.family == 4 && s->family == AF_INET6 && inet_opt_v6only(&u->opts)) return -EINVAL;
  mutex_lock(&u->open_lock);
  bool wanted = w.port != 0 && !inet_is_local(&w) && inet_published(w.port, true); // a chosen port may be published
  err = bind_locked(s, &w);
  if (!err && wanted) (void)open_locked(u); // without a network it still serves the guest
  mutex_unlock(&u->open_lock);
  return err;
}

static int autobind(struct socket *s, u16 family) {
  struct usock *u = usock(s);
  mutex_lock(&u->open_lock);
  struct wire_addr any = { .family = s->family == AF_INET6 ? (u16)6 : family };
  int err = u->bound.on ? 0 : bind_locked(s, &any);
  mutex_unlock(&u->open_lock);
  return err;
}

static int udp_connect(struct socket *s, const struct sockaddr_k *a, u32 len, u32 fflags) {
  struct usock *u = usock(s);
  struct wire_addr to = { 0 };
  bool off = len >= 2 && a->family == 0;
  int err = off ? 0 : inet_addr_parse(s, a, len, &to);
  if (!err && !off) {
    if (inet_is_any(&to)) inet_loopback(&to, to.family);
    err = autobind(s, to.family);
  }
  if (err) return err;
  u64 flags = spin_lock_irqsave(&u->lock);
  u->connected = !off;
  if (off) to.family = inet_family(s);
  u->peer = to;
  spin_unlock_irqrestore(&u->lock, flags);
  return 0;
}

static int udp_getname(struct socket *s, struct sockaddr_k *a, u32 *len, bool peer) {
  struct usock *u = usock(s);
  u64 flags = spin_lock_irqsave(&u->lock);
  bool ok = !peer || u->connected;
  struct wire_addr w = peer ? u->peer : u->local;
  if (!peer && u->connected && inet_is_any(&w)) { // the address that it would send from
    u16 port = w.port;
    w = (struct wire_addr){ .family = u->peer.family, .port = port };
    if (inet_is_local(&u->peer)) inet_loopback(&w, u->peer.family);
  }
  spin_unlock_irqrestore(&u->lock, flags);
  if (!ok) return -ENOTCONN;
  inet_addr_format(s, &w, a, len);
  return 0;
}

// --- receiving

// Takes the datagram, or frees it.
static bool deliver(struct usock *u, struct datagram *d) {
  u32 cost = (u32)sizeof(*d) + d->len;
  u64 flags = spin_lock_irqsave(&u->lock);
  bool ok = u->s && !u->shut_rd && u->queued_bytes + cost <= QUEUE_BYTES &&
            (!u->connected || (inet_same_ip(&u->peer, &d->from) && u->peer.port == d->from.port));
  if (ok) {
    list_push_back(&u->queue, &d->link);
    u->queued_bytes += cost;
    waitq_wake(&u->s->wait, 1, EPOLLIN | EPOLLRDNORM);
  }
  spin_unlock_irqrestore(&u->lock, flags);
  if (!ok) kfree(d);
  return ok;
}

static void set_err(struct usock *u, int err, const struct wire_addr *from) {
  u64 flags = spin_lock_irqsave(&u->lock);
  bool theirs = u->connected && inet_same_ip(&u->peer, from) && u->peer.port == from->port;
  if (u->s && (theirs || inet_opt_recverr(&u->opts, u->s->family))) { // as Linux: others do not hear of it
    WRITE_ONCE(u->s->err, err);
    waitq_wake(&u->s->wait, 1, EPOLLIN | EPOLLOUT | EPOLLERR);
  }
  spin_unlock_irqrestore(&u->lock, flags);
}

// Whether the bridge may say that `from` sent to this socket. Loopback stays in the guest: nobody outside has an address
// of ours, or reaches a socket that is bound to loopback or that the bridge was never told of.
static bool from_outside(const struct usock *u, const struct wire_addr *from) {
  static const u8 loopback6[16] = { [15] = 1 };
  const struct wire_addr *to = &u->local;
  bool loopback = to->family == 4 ? to->ip[0] == 127 : memcmp(to->ip, loopback6, 16) == 0;
  return READ_ONCE(u->opened) && !loopback && !inet_is_local(from) && !inet_is_any(from);
}

void udp_on_message(const struct wire_head *h) {
  struct usock *u = id_find(h->id);
  if (!u) return;
  // The remote address comes first in both.
  if (!from_outside(u, &((const struct wire_udp_recv *)(const void *)h)->remote)) return usock_put(u);
  if (h->type == WIRE_UDP_ERROR) {
    const struct wire_udp_error *e = (const void *)h;
    set_err(u, e->err >= 1 && e->err <= 133 ? (int)e->err : EIO, &e->remote);
  } else {
    const struct wire_udp_recv *m = (const void *)h;
    u32 len = h->length - (u32)sizeof(*m);
    struct datagram *d = kmalloc(sizeof(*d) + len, 0);
    if (d) {
      // IP_PKTINFO shows it: the bridge names no address, and one that did could say 127.0.0.1.
      *d = (struct datagram){ .from = m->remote, .to = { .family = m->local.family, .port = u->local.port }, .len = len };
      ref_init(&d->refs);
      memcpy(d->data, m + 1, len);
      (void)deliver(u, d);
    }
  }
  usock_put(u);
}

// The first datagram, referenced. A peek leaves it where it is: other readers and poll go on seeing it.
static struct datagram *take(struct usock *u, bool peek) {
  struct datagram *d = NULL;
  u64 flags = spin_lock_irqsave(&u->lock);
  if (!list_empty(&u->queue)) {
    d = list_first_entry(&u->queue, struct datagram, link);
    if (peek) {
      ref_get(&d->refs);
    } else {
      list_remove(&d->link);
      u->queued_bytes -= (u32)sizeof(*d) + d->len;
    }
  }
  spin_unlock_irqrestore(&u->lock, flags);
  return d;
}

static int put_pktinfo(struct socket *s, struct msg *m, const struct wire_addr *to) {
  if (s->family == AF_INET) {
    struct in_pktinfo info = { .ipi_ifindex = 1 };
    memcpy(&info.ipi_addr, to->ip, 4);
    memcpy(&info.ipi_spec_dst, to->ip, 4);
    return msg_put_cmsg(m, 0 /* SOL_IP */, IP_PKTINFO, &info, sizeof(info));
  }
  struct { u8 addr[16]; u32 ifindex; } info = { .ifindex = 1 };
  struct sockaddr_k mapped;
  u32 len;
  inet_addr_format(s, to, &mapped, &len);
  memcpy(info.addr, (const u8 *)&mapped + offsetof(struct sockaddr_in6, sin6_addr), 16);
  return msg_put_cmsg(m, 41 /* SOL_IPV6 */, IPV6_PKTINFO, &info, sizeof(info));
}

static long udp_recvmsg(struct socket *s, struct msg *m, u32 flags) {
  struct usock *u = usock(s);
  struct datagram *d;
  bool peek = flags & MSG_PEEK;
  u64 deadline = socket_deadline(s->rcvtimeo_ns);
  m->name_len = 0; // also when nothing was received: the end of what shutdown() left
  if (flags & MSG_OOB) return -EINVAL;
  if (flags & MSG_ERRQUEUE_) return -EAGAIN;
  while (!(d = take(u, peek))) {
    int err = socket_take_err(s);
    if (err) return err;
    if (READ_ONCE(u->shut_rd)) return 0;
    if (flags & MSG_DONTWAIT) return -EAGAIN;
    err = wait_event_timeout(&s->wait, !list_empty(&u->queue) || READ_ONCE(s->err) || READ_ONCE(u->shut_rd), deadline);
    if (err) return err == -ETIMEDOUT ? -EAGAIN : err;
  }
  size_t want = (size_t)MIN((u64)d->len, m->it.left), got = iter_to(&m->it, d->data, want);
  long r = got == want ? (long)(flags & MSG_TRUNC ? d->len : want) : -EFAULT;
  if (want < d->len) m->flags_out |= MSG_TRUNC;
  if (m->name) inet_addr_format(s, &d->from, m->name, &m->name_len);
  if (r >= 0 && inet_opt_pktinfo(&u->opts, s->family) && put_pktinfo(s, m, &d->to)) r = -EFAULT;
  datagram_put(d);
  return r;
}

// --- sending

static bool get_bound(struct inet_bound *b) { return ref_get_unless_zero(&container_of(b, struct usock, bound)->refs); }

static long send_local(struct socket *s, struct msg *m, const struct wire_addr *to, u32 len) {
  struct usock *u = usock(s);
  struct datagram *d = kmalloc(sizeof(*d) + len, 0);
  if (!d) return -ENOBUFS;
  *d = (struct datagram){ .from = u->local, .to = *to, .len = len };
  ref_init(&d->refs);
  if (inet_is_any(&d->from)) inet_loopback(&d->from, to->family);
  if (len && iter_from(&m->it, d->data, len) != len) {
    kfree(d);
    return -EFAULT;
  }
  struct inet_bound *b = ports_find(&ports, to, false, get_bound);
  if (!b) {
    kfree(d);
    set_err(u, ECONNREFUSED, to);
    return len;
  }
  struct usock *r = container_of(b, struct usock, bound);
  (void)deliver(r, d);
  usock_put(r);
  return len;
}

static long udp_sendmsg(struct socket *s, struct msg *m, u32 flags) {
  struct usock *u = usock(s);
  struct wire_addr to;
  int err = socket_take_err(s);
  if (err) return err;
  if (flags & MSG_OOB) return -EOPNOTSUPP;
  if (READ_ONCE(u->shut_wr)) return -EPIPE;
  if (m->name && m->name_len) {
    err = inet_addr_parse(s, m->name, m->name_len, &to);
    if (err) return err;
    if (inet_is_any(&to)) inet_loopback(&to, to.family);
  } else {
    u64 f = spin_lock_irqsave(&u->lock);
    bool connected = u->connected;
    to = u->peer;
    spin_unlock_irqrestore(&u->lock, f);
    if (!connected) return -EDESTADDRREQ;
  }
  if (!to.port) return -EINVAL;
  if (m->it.left > WIRE_UDP_MAX) return -EMSGSIZE;
  u32 len = (u32)m->it.left;
  err = autobind(s, to.family);
  if (err) return err;
  if (inet_is_local(&to)) return send_local(s, m, &to, len);
  mutex_lock(&u->open_lock);
  err = open_locked(u);
  mutex_unlock(&u->open_lock);
  struct wire_udp_send w = { { (u32)sizeof(w) + len, WIRE_UDP_SEND, 0, u->id }, to };
  if (!err) err = dgram_send(&w, sizeof(w), &m->it, len);
  return err == -ENOBUFS ? (long)len : err ? err : (long)len; // a full queue loses it
}

// --- the rest

static int udp_shutdown(struct socket *s, int how) {
  struct usock *u = usock(s);
  u64 flags = spin_lock_irqsave(&u->lock);
  bool ok = u->connected;
  if (ok && how != 1) u->shut_rd = true;
  if (ok && how != 0) u->shut_wr = true;
  waitq_wake_all(&s->wait);
  spin_unlock_irqrestore(&u->lock, flags);
  return ok ? 0 : -ENOTCONN;
}

static u32 udp_poll(struct socket *s, struct poll_table *pt) {
  struct usock *u = usock(s);
  poll_wait(pt, &s->wait, s->file);
  u32 ev = EPOLLOUT | EPOLLWRNORM;
  u64 flags = spin_lock_irqsave(&u->lock);
  if (!list_empty(&u->queue) || u->shut_rd) ev |= EPOLLIN | EPOLLRDNORM;
  if (u->shut_rd) ev |= EPOLLRDHUP;
  if (u->shut_rd && u->shut_wr) ev |= EPOLLHUP;
  spin_unlock_irqrestore(&u->lock, flags);
  if (READ_ONCE(s->err)) ev |= EPOLLERR;
  return ev;
}

static int udp_setsockopt(struct socket *s, int level, int name, const void *val, u32 len) {
  return inet_setopt(s, &usock(s)->opts, level, name, val, len);
}
static int udp_getsockopt(struct socket *s, int level, int name, void *val, u32 *len) {
  return inet_getopt(s, &usock(s)->opts, level, name, val, len, TCPS_CLOSE);
}

#define FIONREAD_ 0x541bu
#define SIOCOUTQ_ 0x5411u
static long udp_ioctl(struct socket *s, u32 cmd, uptr arg) {
  struct usock *u = usock(s);
  s32 v = 0;
  if (cmd != FIONREAD_ && cmd != SIOCOUTQ_) return -ENOTTY;
  if (cmd == FIONREAD_) { // of the next datagram
    u64 flags = spin_lock_irqsave(&u->lock);
    if (!list_empty(&u->queue)) v = (s32)list_first_entry(&u->queue, struct datagram, link)->len;
    spin_unlock_irqrestore(&u->lock, flags);
  }
  return copy_to_user(arg, &v, sizeof(v));
}

static void udp_release(struct socket *s) {
  struct usock *u = usock(s);
  struct list queue = LIST_INIT(queue);
  u64 flags = spin_lock_irqsave(&ids_lock);
  list_remove(&u->id_link);
  spin_unlock_irqrestore(&ids_lock, flags);
  flags = spin_lock_irqsave(&u->lock);
  u->s = NULL; // nothing is delivered any more
  list_splice_back(&queue, &u->queue);
  spin_unlock_irqrestore(&u->lock, flags);
  ports_unbind(&ports, &u->bound);
  if (u->opened) {
    struct wire_head h = { sizeof(h), WIRE_UDP_CLOSE, 0, u->id };
    struct iter none;
    iter_kernel(&none, NULL, 0);
    (void)dgram_send(&h, sizeof(h), &none, 0);
  }
  while (!list_empty(&queue)) {
    struct datagram *d = list_first_entry(&queue, struct datagram, link);
    list_remove(&d->link);
    kfree(d);
  }
  usock_put(u);
}

static const struct socket_ops udp_ops = {
  .bind = udp_bind, .connect = udp_connect, .getname = udp_getname, .sendmsg = udp_sendmsg, .recvmsg = udp_recvmsg,
  .shutdown = udp_shutdown, .poll = udp_poll, .setsockopt = udp_setsockopt, .getsockopt = udp_getsockopt, .ioctl = udp_ioctl,
  .release = udp_release,
};

void inet_udp_init(void) {
  ports_init(&ports);
  for (u32 i = 0; i < ID_BUCKETS; i++) list_init(&ids[i]);
}

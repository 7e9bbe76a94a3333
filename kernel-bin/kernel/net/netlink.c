// SPDX-License-Identifier: Apache-2.0
//
// The network interfaces as programs ask for them: NETLINK_ROUTE dumps of links, addresses and routes (getifaddrs,
// getaddrinfo, ip), and SIOCGIF* ioctls. There are two interfaces and they never change: nothing is ever multicast, and a
// request that would change something is refused with EPERM.
#include "net/scm.h"
#include <asm/fcntl.h>
#include <linux/eventpoll.h>
#include <linux/sockios.h>

// --- what there is
struct netdev { const char *name; int index; u32 flags; u16 type; u32 mtu, addr, broadcast; u8 prefix, mac[6]; };
enum { IFF_UP = 1, IFF_BROADCAST = 2, IFF_LOOPBACK = 8, IFF_RUNNING = 0x40, IFF_MULTICAST = 0x1000, IFF_LOWER_UP = 0x10000 };
static const struct netdev devs[] = {
  { "lo", 1, IFF_UP | IFF_LOOPBACK | IFF_RUNNING | IFF_LOWER_UP, 772, 65536, 0x7f000001, 0x7fffffff, 8, { 0 } },
  { "eth0", 2, IFF_UP | IFF_BROADCAST | IFF_RUNNING | IFF_MULTICAST | IFF_LOWER_UP, 1, 1500, NET_ETH0_ADDR, NET_ETH0_ADDR | 0xff, 24,
    { 0x52, 0x54, 0, 0x12, 0x34, 0x56 } },
};
#define GATEWAY_ADDR ((NET_ETH0_ADDR & 0xffffff00u) | 2)
static u32 net_order(u32 v) { return __builtin_bswap32(v); }

// --- messages (rtnetlink(7), netlink(7))
enum { NLMSG_NOOP = 1, NLMSG_ERROR = 2, NLMSG_DONE = 3, NLM_F_MULTI = 2, NLM_F_ACK = 4, NLM_F_DUMP = 0x300 };
enum { RTM_NEWLINK = 16, RTM_GETLINK = 18, RTM_NEWADDR = 20, RTM_GETADDR = 22, RTM_NEWROUTE = 24, RTM_GETROUTE = 26 };
enum { IFLA_ADDRESS = 1, IFLA_BROADCAST = 2, IFLA_IFNAME = 3, IFLA_MTU = 4, IFLA_QDISC = 6, IFLA_TXQLEN = 13, IFLA_OPERSTATE = 16, IFLA_LINKMODE = 17 };
enum { IFA_ADDRESS = 1, IFA_LOCAL = 2, IFA_LABEL = 3, IFA_BROADCAST = 4, IFA_CACHEINFO = 6, IFA_FLAGS = 8 };
enum { RTA_DST = 1, RTA_OIF = 4, RTA_GATEWAY = 5, RTA_PREFSRC = 7, RTA_TABLE = 15 };
struct nlmsg { u32 len; u16 type, flags; u32 seq, pid; };
struct ifinfo { u8 family, pad; u16 type; int index; u32 flags, change; };
struct ifaddr { u8 family, prefix, flags, scope; u32 index; };
struct rtinfo { u8 family, dst_len, src_len, tos, table, protocol, scope, type; u32 flags; };
struct sockaddr_nl_k { u16 family, pad; u32 pid, groups; };

#define ANSWER_BYTES 2048u
struct answer { struct list link; u32 len; u8 data[ANSWER_BYTES]; };
#define MAX_ANSWERS 16u
struct nlsock { struct mutex lock; struct list answers; u32 count; u32 pid; };

static u32 next_pid; // port ids of sockets that did not choose one: above every process id

struct out { struct answer *a; u32 msg; u32 seq, pid; };

static void put(struct out *o, const void *data, u32 len) { // padded to 4
  ASSERT(o->a->len + ALIGN_UP(len, 4) <= ANSWER_BYTES); // our own tables: they fit
  memcpy(o->a->data + o->a->len, data, len);
  memset(o->a->data + o->a->len + len, 0, ALIGN_UP(len, 4) - len); // programs get the padding too: not what the heap held
  o->a->len += ALIGN_UP(len, 4);
}

static void msg_begin(struct out *o, u16 type, u16 flags) {
  struct nlmsg h = { .type = type, .flags = flags, .seq = o->seq, .pid = o->pid };
  o->msg = o->a->len;
  put(o, &h, sizeof h);
}

static void msg_end(struct out *o) {
  u32 len = o->a->len - o->msg;
  memcpy(o->a->data + o->msg, &len, sizeof len);
}

static void attr(struct out *o, u16 type, const void *data, u16 len) {
  struct { u16 len, type; } h = { (u16)(sizeof h + len), type };
  put(o, &h, sizeof h);
  put(o, data, len);
}
static void attr32(struct out *o, u16 type, u32 v) { attr(o, type, &v, sizeof v); }
static void attr8(struct out *o, u16 type, u8 v) { attr(o, type, &v, sizeof v); }
static void attr_name(struct out *o, u16 type, const char *s) { attr(o, type, s, (u16)(strlen(s) + 1)); }

static void put_link(struct out *o, const struct netdev *d, u16 flags) {
  static const u8 all_ones[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff }, zeroes[6];
  struct ifinfo i = { .type = d->type, .index = d->index, .flags = d->flags };
  bool loopback = d->flags & IFF_LOOPBACK;
  msg_begin(o, RTM_NEWLINK, flags);
  put(o, &i, sizeof i);
  attr_name(o, IFLA_IFNAME, d->name);
  attr32(o, IFLA_TXQLEN, 1000);
  attr8(o, IFLA_OPERSTATE, loopback ? 0 : 6); // unknown, up
  attr8(o, IFLA_LINKMODE, 0);
  attr32(o, IFLA_MTU, d->mtu);
  attr(o, IFLA_ADDRESS, d->mac, sizeof d->mac);
  attr(o, IFLA_BROADCAST, loopback ? zeroes : all_ones, 6);
  attr_name(o, IFLA_QDISC, "noqueue");
  msg_end(o);
}

static void put_addr(struct out *o, const struct netdev *d, u16 flags) {
  bool loopback = d->flags & IFF_LOOPBACK;
  struct ifaddr a = { AF_INET, d->prefix, 0x80 /* permanent */, loopback ? 254 : 0, (u32)d->index };
  u32 cache[4] = { ~0u, ~0u, 0, 0 };
  msg_begin(o, RTM_NEWADDR, flags);
  put(o, &a, sizeof a);
  attr32(o, IFA_ADDRESS, net_order(d->addr));
  attr32(o, IFA_LOCAL, net_order(d->addr));
  if (!loopback) attr32(o, IFA_BROADCAST, net_order(d->broadcast));
  attr_name(o, IFA_LABEL, d->name);
  attr32(o, IFA_FLAGS, 0x80);
  attr(o, IFA_CACHEINFO, cache, sizeof cache);
  msg_end(o);
  if (!loopback) return;
  u8 six[16] = { [15] = 1 }; // ::1
  a = (struct ifaddr){ AF_INET6, 128, 0x80, 254, (u32)d->index };
  msg_begin(o, RTM_NEWADDR, flags);
  put(o, &a, sizeof a);
  attr(o, IFA_ADDRESS, six, sizeof six);
  attr(o, IFA_CACHEINFO, cache, sizeof cache);
  attr32(o, IFA_FLAGS, 0x80);
  msg_end(o);
}

static void put_route(struct out *o, const struct netdev *d, bool by_gateway) {
  struct rtinfo r = { .family = AF_INET, .dst_len = by_gateway ? 0 : d->prefix, .table = 254, .protocol = by_gateway ? 3 : 2,
                      .scope = by_gateway ? 0 : 253, .type = 1 };
  msg_begin(o, RTM_NEWROUTE, NLM_F_MULTI);
  put(o, &r, sizeof r);
  attr32(o, RTA_TABLE, 254);
  if (by_gateway) attr32(o, RTA_GATEWAY, net_order(GATEWAY_ADDR));
  else attr32(o, RTA_DST, net_order(d->addr & (~0u << (32 - d->prefix))));
  if (!by_gateway) attr32(o, RTA_PREFSRC, net_order(d->addr));
  attr32(o, RTA_OIF, (u32)d->index);
  msg_end(o);
}

static void put_error(struct out *o, const struct nlmsg *rq, int err) {
  msg_begin(o, NLMSG_ERROR, 0);
  put(o, &err, sizeof err);
  put(o, rq, sizeof *rq);
  msg_end(o);
}

// The answer to one request; `info` holds what follows its header, `len` bytes.
static void answer_request(struct out *o, const struct nlmsg *rq, const u8 *info, u32 len) {
  u8 family = len ? info[0] : 0;
  bool dump = (rq->flags & NLM_F_DUMP) == NLM_F_DUMP;
  unsigned n = ARRAY_SIZE(devs);
  if (rq->type < 16) { // NOOP and the like: only an acknowledgement, when asked for
    if (rq->flags & NLM_F_ACK) put_error(o, rq, 0);
    return;
  }
  if (!dump && rq->type == RTM_GETLINK) {
    struct ifinfo i = { 0 };
    memcpy(&i, info, MIN(len, (u32)sizeof i));
    for (unsigned k = 0; k < n; k++) {
      if (devs[k].index != i.index) continue;
      put_link(o, &devs[k], 0);
      return;
    }
    put_error(o, rq, -ENODEV);
    return;
  }
  if (!dump) {
    bool get = rq->type >= 18 && rq->type % 4 == 2;
    put_error(o, rq, get ? -EOPNOTSUPP : -EPERM);
    return;
  }
  for (unsigned k = 0; k < n; k++) {
    if (rq->type == RTM_GETLINK) put_link(o, &devs[k], NLM_F_MULTI);
    if (rq->type == RTM_GETADDR && (!family || family == AF_INET || (family == AF_INET6 && !k))) put_addr(o, &devs[k], NLM_F_MULTI);
    if (rq->type == RTM_GETROUTE && k && (!family || family == AF_INET)) {
      put_route(o, &devs[k], true);
      put_route(o, &devs[k], false);
    }
  }
  int zero = 0;
  msg_begin(o, NLMSG_DONE, NLM_F_MULTI);
  put(o, &zero, sizeof zero);
  msg_end(o);
}

static void choose_pid(struct nlsock *n) {
  if (!n->pid) n->pid = 0x80000000u | __atomic_add_fetch(&next_pid, 1, __ATOMIC_RELAXED);
}

static void name_kernel(struct msg *m) {
  struct sockaddr_nl_k a = { .family = AF_NETLINK };
  if (!m->name) return;
  memcpy(m->name, &a, sizeof a);
  m->name_len = sizeof a;
}

static long nl_send(struct socket *s, struct msg *m, u32 flags) {
  struct nlsock *n = s->priv;
  u8 rq[256];
  size_t len = m->it.left;
  struct nlmsg h;
  if (len > sizeof rq) return -EMSGSIZE; // longer ones change things: nothing here does
  if (iter_from(&m->it, rq, len) != len) return -EFAULT;
  if (len < sizeof h) return (long)len;
  memcpy(&h, rq, sizeof h);
  if (h.len < sizeof h || h.len > len) return (long)len; // as Linux: silently dropped
  struct answer *a = kmalloc(sizeof *a, 0);
  if (!a) return -ENOBUFS;
  a->len = 0;
  choose_pid(n);
  struct out o = { .a = a, .seq = h.seq, .pid = n->pid };
  answer_request(&o, &h, rq + sizeof h, h.len - (u32)sizeof h);
  mutex_lock(&n->lock);
  bool full = n->count >= MAX_ANSWERS;
  if (a->len && !full) {
    list_push_back(&n->answers, &a->link);
    WRITE_ONCE(n->count, n->count + 1);
    a = NULL;
  }
  mutex_unlock(&n->lock);
  kfree(a);
  if (full) return -ENOBUFS;
  waitq_wake(&s->wait, 1, EPOLLIN | EPOLLRDNORM);
  return (long)len;
}

static long nl_recv(struct socket *s, struct msg *m, u32 flags) {
  struct nlsock *n = s->priv;
  u64 deadline = flags & MSG_DONTWAIT ? 0 : socket_deadline(s->rcvtimeo_ns);
  for (;;) {
    long r = -EAGAIN;
    mutex_lock(&n->lock);
    if (!list_empty(&n->answers)) {
      struct answer *a = list_first_entry(&n->answers, struct answer, link);
      size_t part = MIN(m->it.left, (u64)a->len);
      r = iter_to(&m->it, a->data, part) == part ? (long)(flags & MSG_TRUNC ? a->len : part) : -EFAULT;
      if (part < a->len) m->flags_out |= MSG_TRUNC;
      if (!(flags & MSG_PEEK)) {
        list_remove(&a->link);
        kfree(a);
        WRITE_ONCE(n->count, n->count - 1);
      }
      name_kernel(m);
    }
    mutex_unlock(&n->lock);
    if (r != -EAGAIN || !deadline) return r;
    int err = wait_event_timeout(&s->wait, READ_ONCE(n->count), deadline);
    if (err) return err == -ETIMEDOUT ? -EAGAIN : err;
  }
}

static int nl_bind(struct socket *s, const struct sockaddr_k *a, u32 len) {
  struct nlsock *n = s->priv;
  struct sockaddr_nl_k nl;
  if (len < sizeof nl) return -EINVAL;
  memcpy(&nl, a, sizeof nl);
  if (nl.family != AF_NETLINK || (n->pid && nl.pid && nl.pid != n->pid)) return -EINVAL;
  if (nl.pid) n->pid = nl.pid;
  choose_pid(n);
  return 0;
}

static int nl_connect(struct socket *s, const struct sockaddr_k *a, u32 len, u32 fflags) {
  if (len < sizeof(struct sockaddr_nl_k) || a->family != AF_NETLINK) return -EINVAL;
  choose_pid(s->priv);
  return 0;
}

static int nl_getname(struct socket *s, struct sockaddr_k *a, u32 *len, bool peer) {
  struct nlsock *n = s->priv;
  struct sockaddr_nl_k nl = { .family = AF_NETLINK, .pid = peer ? 0 : n->pid };
  memcpy(a, &nl, sizeof nl);
  *len = sizeof nl;
  return 0;
}

static u32 nl_poll(struct socket *s, struct poll_table *t) {
  struct nlsock *n = s->priv;
  poll_wait(t, &s->wait, s->file);
  return EPOLLOUT | EPOLLWRNORM | (READ_ONCE(n->count) ? EPOLLIN | EPOLLRDNORM : 0);
}

static int nl_setsockopt(struct socket *s, int level, int name, const void *val, u32 len) {
  return level == 270 /* SOL_NETLINK: memberships, strict checks: nothing to do differently */ ? 0 : -ENOPROTOOPT;
}

static void nl_release(struct socket *s) {
  struct nlsock *n = s->priv;
  while (!list_empty(&n->answers)) {
    struct answer *a = list_first_entry(&n->answers, struct answer, link);
    list_remove(&a->link);
    kfree(a);
  }
  kfree(n);
}

static const struct socket_ops nl_ops = {
  .bind = nl_bind,
  .connect = nl_connect,
  .getname = nl_getname,
  .sendmsg = nl_send,
  .recvmsg = nl_recv,
  .poll = nl_poll,
  .setsockopt = nl_setsockopt,
  .release = nl_release,
};

static int nl_create(struct socket *s, int protocol) {
  if (s->type != SOCK_RAW && s->type != SOCK_DGRAM) return -ESOCKTNOSUPPORT;
  if (protocol) return -EPROTONOSUPPORT; // NETLINK_ROUTE is 0
  struct nlsock *n = kzalloc(sizeof *n);
  if (!n) return -ENOMEM;
  mutex_init(&n->lock, RANK_OBJECT);
  list_init(&n->answers);
  s->ops = &nl_ops;
  s->priv = n;
  return 0;
}

// --- ioctls
struct ifreq_k { char name[16]; union { struct { u16 family, port; u32 addr; u64 zero; } in; s16 flags; int value; struct { u16 family; u8 mac[14]; } hw; u8 pad[24]; }; };

static void ifreq_addr(struct ifreq_k *r, u32 addr) {
  r->in.family = AF_INET;
  r->in.port = 0;
  r->in.addr = net_order(addr);
  r->in.zero = 0;
}

static const struct netdev *ifreq_dev(const struct ifreq_k *r, u32 cmd) {
  for (unsigned i = 0; i < ARRAY_SIZE(devs); i++) {
    if (cmd == SIOCGIFNAME ? devs[i].index == r->value : !strncmp(devs[i].name, r->name, sizeof r->name)) return &devs[i];
  }
  return NULL;
}

static long ifconf(uptr arg) {
  struct { int len, pad; uptr buf; } c;
  if (copy_from_user(&c, arg, sizeof c)) return -EFAULT;
  int done = 0;
  for (unsigned i = 0; i < ARRAY_SIZE(devs); i++) {
    struct ifreq_k r = { 0 };
    strlcpy(r.name, devs[i].name, sizeof r.name);
    ifreq_addr(&r, devs[i].addr);
    if (c.buf && c.len - done < (int)sizeof r) break;
    if (c.buf && copy_to_user(c.buf + (u64)done, &r, sizeof r)) return -EFAULT;
    done += (int)sizeof r;
  }
  return copy_to_user(arg, &done, sizeof done);
}

long netdev_ioctl(u32 cmd, uptr arg) {
  struct ifreq_k r;
  if (cmd == SIOCGIFCONF) return ifconf(arg);
  if (cmd < SIOCGIFNAME || cmd > SIOCGIFINDEX) return -ENOTTY;
  if (copy_from_user(&r, arg, sizeof r)) return -EFAULT;
  r.name[15] = 0;
  const struct netdev *d = ifreq_dev(&r, cmd);
  if (!d) return -ENODEV;
  switch (cmd) {
  case SIOCGIFNAME: strlcpy(r.name, d->name, sizeof r.name); break;
  case SIOCGIFFLAGS: r.flags = (s16)d->flags; break;
  case SIOCGIFADDR: ifreq_addr(&r, d->addr); break;
  case SIOCGIFBRDADDR: ifreq_addr(&r, d->broadcast); break;
  case SIOCGIFNETMASK: ifreq_addr(&r, ~0u << (32 - d->prefix)); break;
  case SIOCGIFMETRIC: r.value = 0; break;
  case SIOCGIFMTU: r.value = (int)d->mtu; break;
  case SIOCGIFINDEX: r.value = d->index; break;
  case SIOCGIFHWADDR:
    memset(&r.hw, 0, sizeof r.hw);
    r.hw.family = d->type;
    memcpy(r.hw.mac, d->mac, sizeof d->mac);
    break;
  default: return -EPERM; // the ones that set
  }
  return copy_to_user(arg, &r, sizeof r);
}

void netlink_init(void) {
  static const struct net_family family = { .family = AF_NETLINK, .create = nl_create };
  net_register_family(&family);
}

// SPDX-License-Identifier: Apache-2.0
//
// The socket layer: families, sockets as files, the options of SOL_SOCKET that every family has, control messages.
// struct socket belongs to its file from socket_file on: the file's release calls ops->release and frees it.
#include "net/net.h"
#include "net/scm.h"
#include <asm/fcntl.h>
#include <linux/eventpoll.h>

#define MAX_FAMILIES 8
static const struct net_family *families[MAX_FAMILIES];
s32 (*net_current_pid)(void);

void net_register_family(const struct net_family *f) { // boot only
  for (unsigned i = 0; i < MAX_FAMILIES; i++) {
    if (families[i]) continue;
    families[i] = f;
    return;
  }
  panic("net: too many families");
}

struct socket *socket_alloc(int family, int type, int protocol) {
  struct socket *s = kzalloc(sizeof *s);
  if (!s) return NULL;
  s->family = family;
  s->type = type;
  s->protocol = protocol;
  s->sndbuf = s->rcvbuf = SOCK_BUF_DEFAULT;
  waitq_init(&s->wait);
  return s;
}

struct socket *socket_create(int family, int type, int protocol, int *err) {
  const struct net_family *fam = NULL;
  for (unsigned i = 0; i < MAX_FAMILIES && families[i]; i++)
    if (families[i]->family == family) fam = families[i];
  *err = -EAFNOSUPPORT;
  if (!fam) return NULL;
  struct socket *s = socket_alloc(family, type, protocol);
  *err = s ? fam->create(s, protocol) : -ENOMEM;
  if (!*err) return s;
  kfree(s); // create failed: there is nothing to release
  return NULL;
}

void socket_destroy(struct socket *s) {
  if (s->ops && s->ops->release) s->ops->release(s);
  kfree(s);
}

// --- as a file
static long sock_read(struct file *f, struct iter *it, u64 *pos) {
  struct socket *s = f->priv;
  struct msg m;
  msg_init(&m);
  m.it = *it;
  long r = s->ops->recvmsg(s, &m, f->flags & O_NONBLOCK ? MSG_DONTWAIT : 0);
  if (unlikely(m.nfds)) msg_drop_fds(&m); // read(2) has no place for descriptors: they close
  return r;
}

static long sock_write(struct file *f, struct iter *it, u64 *pos) {
  struct socket *s = f->priv;
  struct msg m;
  msg_init(&m);
  m.it = *it;
  if (s->family == AF_UNIX) msg_own_cred(&m);
  return s->ops->sendmsg(s, &m, f->flags & O_NONBLOCK ? MSG_DONTWAIT : 0);
}

static u32 sock_poll(struct file *f, struct poll_table *t) {
  struct socket *s = f->priv;
  return s->ops->poll(s, t);
}

static long sock_ioctl(struct file *f, u32 cmd, uptr arg) {
  struct socket *s = f->priv;
  long r = s->ops->ioctl ? s->ops->ioctl(s, cmd, arg) : -ENOTTY;
  return r == -ENOTTY ? netdev_ioctl(cmd, arg) : r;
}

static void sock_release(struct file *f) { socket_destroy(f->priv); }

static void sock_describe(struct file *f, char *buf, size_t n) { snprintf(buf, n, "socket:[%llu]", (unsigned long long)f->id); }

static const struct file_ops socket_file_ops = {
  .read = sock_read,
  .write = sock_write,
  .poll = sock_poll,
  .ioctl = sock_ioctl,
  .release = sock_release,
  .describe = sock_describe,
};

struct file *socket_file(struct socket *s, u32 flags) {
  struct file *f = file_create(&socket_file_ops, s, O_RDWR | (flags & O_NONBLOCK));
  if (f) s->file = f;
  return f;
}

struct socket *socket_from_file(struct file *f) { return f->ops == &socket_file_ops ? f->priv : NULL; }

// --- SOL_SOCKET
static void flag_set(struct socket *s, u32 flag, bool on) {
  if (on) __atomic_fetch_or(&s->so_flags, flag, __ATOMIC_RELAXED);
  else __atomic_fetch_and(&s->so_flags, ~flag, __ATOMIC_RELAXED);
}

static u32 flag_of(int name) {
  switch (name) {
  case SO_REUSEADDR: return SOF_REUSEADDR;
  case SO_REUSEPORT: return SOF_REUSEPORT;
  case SO_KEEPALIVE: return SOF_KEEPALIVE;
  case SO_BROADCAST: return SOF_BROADCAST;
  case SO_PASSCRED: return SOF_PASSCRED;
  case SO_OOBINLINE: return SOF_OOBINLINE;
  case SO_DONTROUTE: return SOF_DONTROUTE;
  case SO_TIMESTAMP: return SOF_TIMESTAMP;
  default: return 0;
  }
}

static int timeo_set(u64 *out, const void *val, u32 len) {
  struct { s64 sec, usec; } tv;
  if (len < sizeof tv) return -EINVAL;
  memcpy(&tv, val, sizeof tv);
  if (tv.usec < 0 || tv.usec >= 1000000) return -EDOM;
  if (tv.sec < 0) tv.sec = tv.usec = 0; // as Linux: then it waits for ever
  *out = tv.sec > (s64)(WAIT_FOREVER / 2 / NS_PER_SEC) ? 0 : (u64)tv.sec * NS_PER_SEC + (u64)tv.usec * NS_PER_US;
  return 0;
}

int socket_common_setopt(struct socket *s, int name, const void *val, u32 len) {
  int v;
  if (name == SO_RCVTIMEO || name == SO_RCVTIMEO_NEW) return timeo_set(&s->rcvtimeo_ns, val, len);
  if (name == SO_SNDTIMEO || name == SO_SNDTIMEO_NEW) return timeo_set(&s->sndtimeo_ns, val, len);
  if (name == SO_BINDTODEVICE || name == SO_ATTACH_FILTER || name == SO_PEERCRED) return -ENOPROTOOPT;
  if (len < sizeof v) return -EINVAL;
  memcpy(&v, val, sizeof v);
  if (flag_of(name)) {
    flag_set(s, flag_of(name), v != 0);
    return 0;
  }
  switch (name) {
  case SO_SNDBUF: case SO_SNDBUFFORCE:
    s->sndbuf = v < 0 || (u32)v > SOCK_BUF_DEFAULT ? 2 * SOCK_BUF_DEFAULT : MAX(2 * (u32)v, 4608u);
    return 0;
  case SO_RCVBUF: case SO_RCVBUFFORCE:
    s->rcvbuf = v < 0 || (u32)v > SOCK_BUF_DEFAULT ? 2 * SOCK_BUF_DEFAULT : MAX(2 * (u32)v, 2304u);
    return 0;
  case SO_LINGER:
    if (len < 2 * sizeof v) return -EINVAL;
    flag_set(s, SOF_LINGER, v != 0);
    memcpy(&s->linger_s, (const u8 *)val + sizeof v, sizeof v);
    return 0;
  case SO_PRIORITY:
    if (v < 0 || v > 6) return -EPERM;
    s->priority = (u32)v;
    return 0;
  case SO_RCVLOWAT: case SO_NO_CHECK: case SO_MARK: case SO_BUSY_POLL: case SO_INCOMING_CPU: case SO_RXQ_OVFL: case SO_TIMESTAMPNS:
    return 0; // accepted: they change nothing that a program could see here
  case SO_TYPE: case SO_ERROR: case SO_PROTOCOL: case SO_DOMAIN: case SO_ACCEPTCONN: case SO_SNDLOWAT:
    return -ENOPROTOOPT;
  default: return -ENOPROTOOPT;
  }
}

static int opt_out(void *val, u32 *len, const void *src, u32 n) {
  *len = MIN(*len, n);
  memcpy(val, src, *len);
  return 0;
}

int socket_common_getopt(struct socket *s, int name, void *val, u32 *len) {
  int v;
  u64 ns;
  switch (name) {
  case SO_TYPE: v = s->type; break;
  case SO_ERROR: v = -socket_take_err(s); break;
  case SO_PROTOCOL: v = s->protocol; break;
  case SO_DOMAIN: v = s->family; break;
  case SO_ACCEPTCONN: v = (s->so_flags & SOF_LISTENING) != 0; break;
  case SO_SNDBUF: v = (int)s->sndbuf; break;
  case SO_RCVBUF: v = (int)s->rcvbuf; break;
  case SO_PRIORITY: v = (int)s->priority; break;
  case SO_RCVLOWAT: case SO_SNDLOWAT: v = 1; break;
  case SO_NO_CHECK: case SO_MARK: case SO_BUSY_POLL: case SO_INCOMING_CPU: case SO_INCOMING_NAPI_ID: case SO_RXQ_OVFL: case SO_TIMESTAMPNS:
    v = 0;
    break;
  case SO_LINGER: {
    int linger[2] = { (s->so_flags & SOF_LINGER) != 0, (int)s->linger_s };
    return opt_out(val, len, linger, sizeof linger);
  }
  case SO_RCVTIMEO: case SO_RCVTIMEO_NEW: case SO_SNDTIMEO: case SO_SNDTIMEO_NEW: {
    ns = name == SO_RCVTIMEO || name == SO_RCVTIMEO_NEW ? s->rcvtimeo_ns : s->sndtimeo_ns;
    u64 tv[2] = { ns / NS_PER_SEC, ns % NS_PER_SEC / NS_PER_US };
    return opt_out(val, len, tv, sizeof tv);
  }
  case SO_COOKIE:
    if (*len < sizeof ns) return -EINVAL;
    ns = s->file ? s->file->id : 0;
    return opt_out(val, len, &ns, sizeof ns);
  default:
    if (!flag_of(name)) return -ENOPROTOOPT;
    v = (s->so_flags & flag_of(name)) != 0;
  }
  return opt_out(val, len, &v, sizeof v);
}

// --- control messages
void msg_own_cred(struct msg *m) {
  const struct cred *c = cred_current();
  m->cred.pid = net_current_pid ? net_current_pid() : 0;
  m->cred.uid = c->uid;
  m->cred.gid = c->gid;
}

void msg_drop_fds(struct msg *m) {
  for (unsigned i = 0; i < m->nfds; i++) file_put(m->fds[i]);
  kfree(m->fds);
  m->fds = NULL;
  m->nfds = 0;
}

bool msg_next_cmsg(const struct msg *m, size_t *off, int *level, int *type, const u8 **data, size_t *len) {
  struct cmsg_head h;
  // No sum below can wrap: off and control_len are small, and h.len is compared against what is left.
  if (*off > m->control_len || m->control_len - *off < sizeof h) return false;
  memcpy(&h, m->control_in + *off, sizeof h);
  if (h.len < sizeof h || h.len > m->control_len - *off) return false;
  *level = h.level;
  *type = h.type;
  *data = m->control_in + *off + sizeof h;
  *len = h.len - sizeof h;
  *off += ALIGN_UP(h.len, 8);
  return true;
}

int msg_check_cmsgs(const struct msg *m) {
  size_t off = 0, len;
  int level, type;
  const u8 *data;
  while (msg_next_cmsg(m, &off, &level, &type, &data, &len)) {}
  // Stopped before the end: fewer bytes than a header are padding, anything else is a malformed length.
  return off < m->control_len && m->control_len - off >= sizeof(struct cmsg_head) ? -EINVAL : 0;
}

int msg_put_cmsg(struct msg *m, int level, int type, const void *data, size_t len) {
  struct cmsg_head h = { .len = sizeof h + len, .level = level, .type = type };
  u64 room = m->control_cap - m->control_used;
  if (!m->control || room < sizeof h) {
    m->flags_out |= MSG_CTRUNC;
    return 0;
  }
  if (h.len > room) {
    m->flags_out |= MSG_CTRUNC;
    h.len = room;
  }
  uptr at = m->control + m->control_used;
  if (copy_to_user(at, &h, sizeof h) || copy_to_user(at + sizeof h, data, h.len - sizeof h)) return -EFAULT;
  m->control_used += MIN(ALIGN_UP(h.len, 8), room);
  return 0;
}

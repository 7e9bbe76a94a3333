// SPDX-License-Identifier: Apache-2.0
//
// Socket system calls: arguments in, addresses and control messages in and out. Families do the work (net/net.h).
#include "sys/file.h"
#include "net/scm.h"
#include <asm/fcntl.h>

#define CONTROL_MAX 20480u // as Linux's optmem_max once was: more is -ENOBUFS
#define OPT_MAX 1024u
#define FAST_CONTROL 64u

static s32 current_pid(void) { return process_current()->pid; }

// The socket of a descriptor, with the reference that fdref_put gives back. *err otherwise.
static struct socket *socket_from_fd(int fd, struct fdref *r, long *err) {
  *r = fdref_get(fd);
  *err = -EBADF;
  if (!r->file) return NULL;
  struct socket *s = r->file->path_only ? NULL : socket_from_file(r->file);
  if (s) return s;
  if (!r->file->path_only) *err = -ENOTSOCK;
  fdref_put(*r);
  return NULL;
}

static inline u32 nowait(const struct file *f) { return f->flags & O_NONBLOCK ? MSG_DONTWAIT : 0; }

// --- addresses
static int address_in(struct sockaddr_k *a, uptr user, u64 len) {
  if (len > sizeof *a) return -EINVAL;
  a->family = AF_UNSPEC;
  return copy_from_user(a, user, len);
}

static int address_out(const struct sockaddr_k *a, u32 len, uptr user, uptr user_len) {
  int room;
  if (copy_from_user(&room, user_len, sizeof room)) return -EFAULT;
  if (room < 0) return -EINVAL;
  if (copy_to_user(user, a, MIN(MIN((u32)room, len), (u32)sizeof *a))) return -EFAULT;
  return copy_to_user(user_len, &len, sizeof len);
}

// --- making sockets
static long type_split(u64 type_flags, int *type, u32 *flags) {
  *type = (int)(type_flags & 0xf);
  *flags = (u32)type_flags & ~0xfu;
  if (*flags & ~(u32)(O_NONBLOCK | O_CLOEXEC)) return -EINVAL;
  return *type >= SOCK_MAX || !*type ? -EINVAL : 0;
}

static struct file *socket_file_new(int family, int type, int protocol, u32 flags, long *err) {
  int e;
  if (!net_current_pid) net_current_pid = current_pid;
  struct socket *s = socket_create(family, type, protocol, &e);
  *err = e;
  if (!s) return NULL;
  struct file *f = socket_file(s, flags);
  if (f) return f;
  socket_destroy(s);
  *err = -ENOMEM;
  return NULL;
}

long sys_socket(u64 family, u64 type_flags, u64 protocol) {
  int type;
  u32 flags;
  long err = type_split(type_flags, &type, &flags);
  if (err) return err;
  struct file *f = socket_file_new((int)family, type, (int)protocol, flags, &err);
  return f ? fd_install_new(f, flags) : err;
}

long sys_socketpair(u64 family, u64 type_flags, u64 protocol, u64 user) {
  int type, fds[2];
  u32 flags;
  long err = type_split(type_flags, &type, &flags);
  if (err) return err;
  struct file *a = socket_file_new((int)family, type, (int)protocol, flags, &err), *b = NULL;
  if (!a) return err;
  struct socket *sa = socket_from_file(a);
  if (!sa->ops->pair) err = -EOPNOTSUPP;
  else b = socket_file_new((int)family, type, (int)protocol, flags, &err);
  if (b) err = sa->ops->pair(sa, socket_from_file(b));
  if (err || !b) {
    file_put(a);
    if (b) file_put(b);
    return err;
  }
  long fd = fd_install_new(a, flags);
  if (fd < 0) {
    file_put(b);
    return fd;
  }
  fds[0] = (int)fd;
  if ((fd = fd_install_new(b, flags)) < 0) {
    (void)!fd_close(fds[0]);
    return fd;
  }
  fds[1] = (int)fd;
  if (!copy_to_user(user, fds, sizeof fds)) return 0;
  (void)!fd_close(fds[0]);
  (void)!fd_close(fds[1]);
  return -EFAULT;
}

// --- names and connections
long sys_bind(u64 fd, u64 addr, u64 len) {
  struct fdref r;
  struct sockaddr_k a;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  err = address_in(&a, addr, (u32)len);
  if (!err) err = s->ops->bind ? s->ops->bind(s, &a, (u32)len) : -EOPNOTSUPP;
  fdref_put(r);
  return err;
}

long sys_connect(u64 fd, u64 addr, u64 len) {
  struct fdref r;
  struct sockaddr_k a;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  err = address_in(&a, addr, (u32)len);
  if (!err) err = s->ops->connect ? s->ops->connect(s, &a, (u32)len, r.file->flags) : -EOPNOTSUPP;
  fdref_put(r);
  return err;
}

long sys_listen(u64 fd, u64 backlog) {
  struct fdref r;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  u32 n = MIN((u32)backlog, 4096u); // somaxconn; a negative one is large, as on Linux
  err = s->ops->listen ? s->ops->listen(s, (int)n) : -EOPNOTSUPP;
  if (!err) __atomic_fetch_or(&s->so_flags, SOF_LISTENING, __ATOMIC_RELAXED);
  fdref_put(r);
  return err;
}

long sys_accept4(u64 fd, u64 addr, u64 addr_len, u64 flags) {
  struct fdref r;
  long err;
  if (flags & ~(u64)(O_NONBLOCK | O_CLOEXEC)) return -EINVAL;
  struct socket *s = socket_from_fd((int)fd, &r, &err), *conn = NULL;
  if (!s) return err;
  // Without a place for it a connection stays in the queue, as on Linux: taken, it would be reset.
  err = !s->ops->accept ? -EOPNOTSUPP : !fd_room() ? -EMFILE : s->ops->accept(s, &conn, r.file->flags);
  fdref_put(r);
  if (err) return err;
  struct file *f = socket_file(conn, (u32)flags);
  if (!f) {
    socket_destroy(conn);
    return -ENOMEM;
  }
  if (addr) {
    struct sockaddr_k a = { 0 };
    u32 len = sizeof a;
    err = conn->ops->getname(conn, &a, &len, true);
    if (err == -ENOTCONN) err = -ECONNABORTED;
    if (!err) err = address_out(&a, len, addr, addr_len);
    if (err) {
      file_put(f);
      return err;
    }
  }
  return fd_install_new(f, (u32)flags);
}

long sys_accept(u64 fd, u64 addr, u64 addr_len) { return sys_accept4(fd, addr, addr_len, 0); }

static long name_of(u64 fd, uptr addr, uptr addr_len, bool peer) {
  struct fdref r;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  struct sockaddr_k a = { 0 };
  u32 len = sizeof a;
  err = s->ops->getname ? s->ops->getname(s, &a, &len, peer) : -EOPNOTSUPP;
  fdref_put(r);
  return err ? err : address_out(&a, len, addr, addr_len);
}

long sys_getsockname(u64 fd, u64 addr, u64 len) { return name_of(fd, addr, len, false); }
long sys_getpeername(u64 fd, u64 addr, u64 len) { return name_of(fd, addr, len, true); }

long sys_shutdown(u64 fd, u64 how) {
  struct fdref r;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  err = how > SHUT_RDWR ? -EINVAL : s->ops->shutdown ? s->ops->shutdown(s, (int)how) : -EOPNOTSUPP;
  fdref_put(r);
  return err;
}

// --- options
long sys_setsockopt(u64 fd, u64 level, u64 name, u64 val, u64 len) {
  struct fdref r;
  u64 fast[8];
  long err;
  if ((s32)len < 0) return -EINVAL;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  u32 n = MIN((u32)len, OPT_MAX); // options are small; what is longer is cut, as Linux reads only what it knows
  void *buf = n <= sizeof fast ? fast : kmalloc(n, 0);
  err = !buf ? -ENOMEM : copy_from_user(buf, val, n);
  if (!err) {
    err = (int)level == SOL_SOCKET ? socket_common_setopt(s, (int)name, buf, n) : -ENOPROTOOPT;
    if (err == -ENOPROTOOPT && s->ops->setsockopt) err = s->ops->setsockopt(s, (int)level, (int)name, buf, n);
  }
  if (buf != fast) kfree(buf);
  fdref_put(r);
  return err;
}

long sys_getsockopt(u64 fd, u64 level, u64 name, u64 val, u64 user_len) {
  struct fdref r;
  u8 buf[256] __aligned(8) = { 0 };
  int room;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  err = copy_from_user(&room, user_len, sizeof room);
  if (!err && room < 0) err = -EINVAL;
  u32 len = MIN((u32)room, (u32)sizeof buf);
  if (!err) {
    err = (int)level == SOL_SOCKET ? socket_common_getopt(s, (int)name, buf, &len) : -ENOPROTOOPT;
    if (err == -ENOPROTOOPT && s->ops->getsockopt) err = s->ops->getsockopt(s, (int)level, (int)name, buf, &len);
  }
  fdref_put(r);
  if (err) return err;
  ASSERT(len <= sizeof buf);
  if (copy_to_user(val, buf, len)) return -EFAULT;
  return copy_to_user(user_len, &len, sizeof len);
}

// --- control messages of a sender. AF_UNIX: descriptors become references, credentials are checked.
static int scm_add_fds(struct msg *m, const u8 *data, size_t len) {
  size_t n = len / sizeof(int);
  if (n > SCM_MAX_FD - m->nfds) return -EINVAL;
  if (!n) return 0;
  if (!m->fds && !(m->fds = kmalloc(SCM_MAX_FD * sizeof *m->fds, 0))) return -ENOMEM;
  for (size_t i = 0; i < n; i++) {
    int fd;
    memcpy(&fd, data + i * sizeof fd, sizeof fd);
    struct file *f = file_from_fd(fd);
    if (!f) return -EBADF;
    m->fds[m->nfds++] = f;
  }
  return 0;
}

static int scm_set_cred(struct msg *m, const u8 *data, size_t len) {
  struct ucred_user u;
  if (len != sizeof u) return -EINVAL;
  memcpy(&u, data, sizeof u);
  const struct cred *c = cred_current();
  bool root = c->euid == 0;
  if (!root && u.pid != current_pid()) return -EPERM;
  if (!root && u.uid != c->uid && u.uid != c->euid && u.uid != c->suid) return -EPERM;
  if (!root && u.gid != c->gid && u.gid != c->egid && u.gid != c->sgid) return -EPERM;
  m->cred.pid = u.pid;
  m->cred.uid = u.uid;
  m->cred.gid = u.gid;
  m->has_cred = true;
  return 0;
}

static int scm_parse(struct msg *m) {
  size_t off = 0, len;
  int level, type, err = 0;
  const u8 *data;
  while (!err && msg_next_cmsg(m, &off, &level, &type, &data, &len)) {
    if (level != SOL_SOCKET) continue;
    if (type == SCM_RIGHTS) err = scm_add_fds(m, data, len);
    else if (type == SCM_CREDENTIALS) err = scm_set_cred(m, data, len);
    else err = -EINVAL;
  }
  return err;
}

// --- sending
struct user_msghdr { uptr name; u32 name_len, pad0; uptr iov; u64 iov_len; uptr control; u64 control_len; u32 flags, pad1; };

static long send_end(struct socket *s, long r, u32 flags) {
  if (r == -EPIPE && s->type == SOCK_STREAM && !(flags & MSG_NOSIGNAL)) sigpipe_raise();
  return r;
}

static long do_sendmsg(struct socket *s, struct file *f, const struct user_msghdr *h, u32 flags) {
  struct iov_buf iov;
  struct sockaddr_k name;
  u8 fast_control[FAST_CONTROL] __aligned(8), *control = fast_control;
  struct msg m;
  msg_init(&m);
  long err;
  if (h->control_len > CONTROL_MAX) return -ENOBUFS;
  if (h->name && h->name_len) {
    if ((s32)h->name_len < 0) return -EINVAL;
    m.name_len = MIN(h->name_len, (u32)sizeof name);
    if ((err = address_in(&name, h->name, m.name_len))) return err;
    m.name = &name;
  }
  if ((err = iov_import(&iov, h->iov, h->iov_len, &m.it))) return err == -EINVAL && h->iov_len > MAX_IOV ? -EMSGSIZE : err;
  if (s->family == AF_UNIX) msg_own_cred(&m);
  if (h->control && h->control_len) {
    if (h->control_len > FAST_CONTROL && !(control = kmalloc(h->control_len, 0))) {
      err = -ENOMEM;
      goto out;
    }
    if ((err = copy_from_user(control, h->control, h->control_len))) goto out;
    m.control_in = control;
    m.control_len = h->control_len;
    if ((err = msg_check_cmsgs(&m))) goto out;
    if (s->family == AF_UNIX && (err = scm_parse(&m))) goto out;
  }
  err = send_end(s, s->ops->sendmsg(s, &m, flags | nowait(f)), flags);
out:
  msg_drop_fds(&m); // whatever the family did not take
  if (control != fast_control) kfree(control);
  iov_release(&iov);
  return err;
}

long sys_sendto(u64 fd, u64 buf, u64 n, u64 flags, u64 addr, u64 addr_len) {
  struct fdref r;
  struct iovec one;
  struct sockaddr_k name;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  struct msg m;
  msg_init(&m);
  iter_user(&m.it, &one, buf, MIN(n, MAX_RW));
  err = user_range_ok(buf, n) ? 0 : -EFAULT;
  if (!err && addr) {
    m.name = &name;
    m.name_len = (u32)addr_len;
    err = address_in(&name, addr, (u32)addr_len);
  }
  if (s->family == AF_UNIX) msg_own_cred(&m);
  if (!err) err = send_end(s, s->ops->sendmsg(s, &m, (u32)flags | nowait(r.file)), (u32)flags);
  fdref_put(r);
  return err;
}

long sys_sendmsg(u64 fd, u64 msg, u64 flags) {
  struct fdref r;
  struct user_msghdr h;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  err = copy_from_user(&h, msg, sizeof h);
  if (!err) err = do_sendmsg(s, r.file, &h, (u32)flags);
  fdref_put(r);
  return err;
}

struct user_mmsghdr { struct user_msghdr h; u32 len, pad; };

long sys_sendmmsg(u64 fd, u64 vec, u64 n, u64 flags) {
  struct fdref r;
  struct user_msghdr h;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  u32 done = 0, max = MIN((u32)n, MAX_IOV);
  for (err = 0; done < max; done++) {
    uptr at = vec + done * sizeof(struct user_mmsghdr);
    if ((err = copy_from_user(&h, at, sizeof h))) break;
    if ((err = do_sendmsg(s, r.file, &h, (u32)flags)) < 0) break;
    u32 len = (u32)err;
    if ((err = copy_to_user(at + offsetof(struct user_mmsghdr, len), &len, sizeof len))) break;
  }
  fdref_put(r);
  return done ? (long)done : err;
}

// --- receiving
// Descriptors that came: installed as far as the buffer and the table have room; the rest closes.
static int scm_put_fds(struct msg *m, bool cloexec) {
  u64 room = m->control ? m->control_cap - m->control_used : 0;
  u64 fit = room > sizeof(struct cmsg_head) ? (room - sizeof(struct cmsg_head)) / sizeof(int) : 0;
  unsigned n = 0;
  int err = 0;
  int *fds = kmalloc(SCM_MAX_FD * sizeof *fds, 0);
  while (fds && n < m->nfds && n < fit) {
    int fd = fd_install(file_get(m->fds[n]), cloexec ? O_CLOEXEC : 0);
    if (fd < 0) {
      file_put(m->fds[n]);
      break;
    }
    fds[n++] = fd;
  }
  if (n) err = msg_put_cmsg(m, SOL_SOCKET, SCM_RIGHTS, fds, n * sizeof *fds);
  if (n < m->nfds) m->flags_out |= MSG_CTRUNC;
  kfree(fds);
  msg_drop_fds(m);
  return err;
}

static int scm_out(struct socket *s, struct msg *m, u32 flags) {
  int err = 0;
  if (s->so_flags & SOF_PASSCRED && m->has_cred) {
    struct ucred_user u = { m->cred.pid, m->cred.uid, m->cred.gid };
    err = msg_put_cmsg(m, SOL_SOCKET, SCM_CREDENTIALS, &u, sizeof u);
  }
  if (m->nfds) {
    int e = scm_put_fds(m, flags & MSG_CMSG_CLOEXEC);
    if (!err) err = e;
  }
  return err;
}

static long do_recvmsg(struct socket *s, struct file *f, uptr user, u32 flags) {
  struct user_msghdr h;
  struct iov_buf iov;
  struct sockaddr_k name;
  struct msg m;
  msg_init(&m);
  long err = copy_from_user(&h, user, sizeof h);
  if (err) return err;
  if ((s32)h.name_len < 0) return -EINVAL;
  if ((err = iov_import(&iov, h.iov, h.iov_len, &m.it))) return err == -EINVAL && h.iov_len > MAX_IOV ? -EMSGSIZE : err;
  if (h.name) {
    m.name = &name;
    m.name_len = 0; // until the family sets it: what it leaves alone is our stack
  }
  m.want_cred = s->so_flags & SOF_PASSCRED;
  if (h.control && user_range_ok(h.control, h.control_len)) {
    m.control = h.control;
    m.control_cap = h.control_len;
  }
  long got = s->ops->recvmsg(s, &m, (flags & ~(u32)MSG_CMSG_CLOEXEC) | nowait(f));
  if (got >= 0) {
    err = scm_out(s, &m, flags);
    if (h.name && !err) {
      u32 len = MIN(m.name_len, (u32)sizeof name);
      if (copy_to_user(h.name, &name, MIN(h.name_len, len)) ||
          copy_to_user(user + offsetof(struct user_msghdr, name_len), &len, sizeof len)) err = -EFAULT;
    }
    if (!err && (copy_to_user(user + offsetof(struct user_msghdr, flags), &m.flags_out, sizeof m.flags_out) ||
                 copy_to_user(user + offsetof(struct user_msghdr, control_len), &m.control_used, sizeof m.control_used))) err = -EFAULT;
    if (err) got = err;
  }
  msg_drop_fds(&m);
  iov_release(&iov);
  return got;
}

long sys_recvmsg(u64 fd, u64 msg, u64 flags) {
  struct fdref r;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  err = do_recvmsg(s, r.file, msg, (u32)flags);
  fdref_put(r);
  return err;
}

long sys_recvfrom(u64 fd, u64 buf, u64 n, u64 flags, u64 addr, u64 addr_len) {
  struct fdref r;
  struct iovec one;
  struct sockaddr_k name;
  long err;
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  struct msg m;
  msg_init(&m);
  iter_user(&m.it, &one, buf, MIN(n, MAX_RW));
  if (addr) {
    m.name = &name;
    m.name_len = 0; // as above
  }
  err = user_range_ok(buf, n) ? s->ops->recvmsg(s, &m, (u32)flags | nowait(r.file)) : -EFAULT;
  if (err >= 0 && addr) {
    int e = address_out(&name, m.name_len, addr, addr_len);
    if (e) err = e;
  }
  msg_drop_fds(&m); // no place for them
  fdref_put(r);
  return err;
}

long sys_recvmmsg(u64 fd, u64 vec, u64 n, u64 flags, u64 timeout) {
  struct fdref r;
  long err = 0;
  u64 deadline = WAIT_FOREVER, ns;
  if (timeout) {
    struct user_timespec ts;
    if (copy_from_user(&ts, timeout, sizeof ts)) return -EFAULT;
    if (timespec_ns(&ts, &ns)) return -EINVAL;
    deadline = time_ns() + ns;
  }
  struct socket *s = socket_from_fd((int)fd, &r, &err);
  if (!s) return err;
  u32 done = 0, max = MIN((u32)n, MAX_IOV), how = (u32)flags & ~(u32)MSG_WAITFORONE;
  for (err = 0; done < max; done++) {
    uptr at = vec + done * sizeof(struct user_mmsghdr);
    if ((err = do_recvmsg(s, r.file, at, how)) < 0) break;
    u32 len = (u32)err;
    if ((err = copy_to_user(at + offsetof(struct user_mmsghdr, len), &len, sizeof len))) break;
    if (flags & MSG_WAITFORONE) how |= MSG_DONTWAIT;
    if (deadline != WAIT_FOREVER && time_ns() >= deadline) { // looked at between messages only, as on Linux
      done++;
      break;
    }
  }
  fdref_put(r);
  return done ? (long)done : err;
}

// SPDX-License-Identifier: Apache-2.0
// AF_UNIX and control messages: streams with descriptors and credentials, datagrams, names, ends, garbage in flight.
#include "file_mock.h"
#include <sys/stat.h> // <linux/stat.h> defines no modes beside glibc
#include "net/unix.h"
#include "../../kernel/lib/rbtree.c"
#include "../../kernel/file/iter.c"
#include "../../kernel/file/bytering.c"
#include "../../kernel/file/file.c"
#include "../../kernel/file/fdtable.c"
#include "../../kernel/file/epoll.c"
#include "../../kernel/net/socket.c"
#define wake unix_wake
#include "../../kernel/net/unix.c"
#undef wake
#include "../../kernel/net/unixgc.c"

// --- stand-ins for the fs room: one directory
u32 inotify_active;
void pipe_init(void) {}
long netdev_ioctl(u32 cmd, uptr arg) { return -ENOTTY; }
static struct cred mock_cred = { .uid = 10, .euid = 10, .gid = 20, .egid = 20 };
static const struct cred *cred_now(void) { return &mock_cred; }
const struct cred *(*cred_current)(void) = cred_now;
static s32 pid_now(void) { return 77; }
static struct node { char path[120]; struct dentry d; struct inode i; } nodes[8];
static struct node *node_find(const char *name) {
  for (unsigned i = 0; i < 8; i++) if (!strcmp(nodes[i].path, name)) return &nodes[i];
  return NULL;
}
int path_mknod(int at, const char *name, u32 mode, u64 rdev, struct path *out) {
  if (node_find(name)) return -EEXIST;
  struct node *n = node_find("");
  strcpy(n->path, name);
  n->i.mode = mode;
  n->i.sock = NULL;
  n->d.inode = &n->i;
  *out = (struct path){ NULL, &n->d };
  return 0;
}
int path_lookup(int at, const char *name, unsigned flags, struct path *out) {
  struct node *n = node_find(name);
  if (!n) return -ENOENT;
  *out = (struct path){ NULL, &n->d };
  return 0;
}
void path_put(struct path *p) {}
int inode_permission(struct inode *i, int mask) { return 0; }

// --- small calls
static struct file *sock_new(int type) {
  int err;
  struct socket *s = socket_create(AF_UNIX, type, 0, &err);
  if (!s) return NULL;
  return socket_file(s, 0);
}
static struct socket *S(struct file *f) { return f->priv; }
static void pair(struct file *f[2], int type) {
  f[0] = sock_new(type);
  f[1] = sock_new(type);
  CHECK(S(f[0])->ops->pair(S(f[0]), S(f[1])) == 0);
}
static long snd(struct file *f, const void *buf, size_t n, u32 flags) {
  struct iovec one;
  struct msg m = { 0 };
  iter_user(&m.it, &one, (uptr)buf, n);
  msg_own_cred(&m);
  return S(f)->ops->sendmsg(S(f), &m, flags);
}
static long rcv(struct file *f, void *buf, size_t n, u32 flags) {
  struct iovec one;
  struct msg m = { 0 };
  iter_user(&m.it, &one, (uptr)buf, n);
  long r = S(f)->ops->recvmsg(S(f), &m, flags);
  msg_drop_fds(&m);
  return r;
}
static long snd_fds(struct file *f, const void *buf, size_t n, struct file **fds, unsigned nfds) {
  struct iovec one;
  struct msg m = { 0 };
  iter_user(&m.it, &one, (uptr)buf, n);
  msg_own_cred(&m);
  m.fds = kmalloc(nfds * sizeof *fds, 0);
  for (; m.nfds < nfds; m.nfds++) m.fds[m.nfds] = file_get(fds[m.nfds]);
  long r = S(f)->ops->sendmsg(S(f), &m, MSG_DONTWAIT);
  msg_drop_fds(&m);
  return r;
}
static long rcv_msg(struct file *f, void *buf, size_t n, u32 flags, struct msg *m, struct iovec *one) {
  *m = (struct msg){ .want_cred = S(f)->so_flags & SOF_PASSCRED };
  iter_user(&m->it, one, (uptr)buf, n);
  return S(f)->ops->recvmsg(S(f), m, flags);
}
static u32 pl(struct file *f) { return f->ops->poll(f, NULL); }
static u32 make_addr(struct sockaddr_k *a, const char *name, size_t n) {
  memset(a, 0, sizeof *a);
  a->family = AF_UNIX;
  memcpy(a->data, name, n);
  return (u32)(2 + n);
}
static u32 released;
static void dummy_release(struct file *f) { atomic_inc(&released); }
static const struct file_ops dummy_ops = { .release = dummy_release };

static void test_cmsgs(void) {
  // Lengths that lie are refused and never read past the end (the buffer is exactly as long as said).
  for (int round = 0; round < 20000; round++) {
    size_t n = unit_random() % 80;
    u8 *buf = malloc(n ? n : 1);
    for (size_t i = 0; i < n; i++) buf[i] = (u8)unit_random();
    for (size_t off = 0; off + 16 <= n; off += 8 * (1 + unit_random() % 4)) {
      u64 len = unit_random() % 8 ? unit_random() % 60 : unit_random();
      memcpy(buf + off, &len, 8);
    }
    struct msg m = { .control_in = buf, .control_len = n };
    size_t off = 0, len, sum = 0;
    int level, type;
    const u8 *data;
    (void)!msg_check_cmsgs(&m);
    while (msg_next_cmsg(&m, &off, &level, &type, &data, &len))
      for (size_t i = 0; i < len; i++) sum += data[i];
    free(buf);
  }
  struct { struct cmsg_head h; int fd; int pad; struct cmsg_head h2; int fd2; } two = { { 20, 1, 1 }, 5, 0, { 20, 1, 1 }, 6 };
  struct msg m = { .control_in = (u8 *)&two, .control_len = sizeof two };
  CHECK(msg_check_cmsgs(&m) == 0);
  two.h2.len = 15;
  CHECK(msg_check_cmsgs(&m) == -EINVAL);
  two.h2.len = 25;
  CHECK(msg_check_cmsgs(&m) == -EINVAL);
  u8 out[40];
  m = (struct msg){ .control = (uptr)out, .control_cap = sizeof out };
  int v[2] = { 1, 2 };
  CHECK(msg_put_cmsg(&m, 1, 2, v, 4) == 0 && m.control_used == 24 && !m.flags_out);
  CHECK(msg_put_cmsg(&m, 1, 2, v, 8) == 0 && m.control_used == 40 && m.flags_out == MSG_CTRUNC); // no room for data
  CHECK(msg_put_cmsg(&m, 1, 2, v, 4) == 0 && m.control_used == 40);
}

static void test_stream(void) {
  struct file *f[2];
  static u8 big[300000], out[300000];
  for (size_t i = 0; i < sizeof big; i++) big[i] = (u8)(i * 13);
  pair(f, SOCK_STREAM);
  CHECK(rcv(f[0], out, 5, MSG_DONTWAIT) == -EAGAIN && pl(f[0]) == (EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND));
  CHECK(snd(f[0], "hello", 5, 0) == 5 && rcv(f[1], out, 2, MSG_PEEK) == 2 && rcv(f[1], out, 9, 0) == 5 && !memcmp(out, "hello", 5));
  CHECK(snd(f[0], big, 300000, MSG_DONTWAIT) == 262144 && snd(f[0], big, 1, MSG_DONTWAIT) == -EAGAIN && !(pl(f[0]) & EPOLLOUT));
  CHECK(rcv(f[1], out, 300000, 0) == 262144 && !memcmp(out, big, 262144) && (pl(f[0]) & EPOLLOUT));
  CHECK(snd(f[0], (void *)8, 5, 0) == -EFAULT && snd(f[1], "x", 1, MSG_OOB) == -EOPNOTSUPP);
  CHECK(S(f[0])->ops->shutdown(S(f[0]), SHUT_WR) == 0 && snd(f[0], "x", 1, 0) == -EPIPE);
  CHECK(pl(f[1]) == (EPOLLRDHUP | EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND) && rcv(f[1], out, 1, 0) == 0);
  CHECK(snd(f[1], "back", 4, 0) == 4);
  file_put(f[1]); // f[0] has not read "back"
  CHECK(rcv(f[0], out, 9, 0) == 4 && rcv(f[0], out, 9, 0) == 0 && snd(f[0], "x", 1, 0) == -EPIPE && (pl(f[0]) & EPOLLHUP));
  file_put(f[0]);
  pair(f, SOCK_STREAM);
  CHECK(snd(f[0], "unread", 6, 0) == 6);
  file_put(f[1]); // with bytes that it never read
  CHECK(rcv(f[0], out, 9, 0) == -ECONNRESET && rcv(f[0], out, 9, 0) == 0);
  file_put(f[0]);
  pair(f, SOCK_STREAM);
  S(f[0])->rcvtimeo_ns = 20 * NS_PER_MS;
  u64 t = time_ns();
  CHECK(rcv(f[0], out, 9, 0) == -EAGAIN && time_ns() - t >= 20 * NS_PER_MS);
  file_put(f[0]);
  file_put(f[1]);
}

static void test_rights(void) {
  struct file *f[2], *d = file_create(&dummy_ops, NULL, O_RDWR);
  struct msg m;
  struct iovec one;
  u8 out[50];
  released = 0;
  pair(f, SOCK_STREAM);
  CHECK(snd(f[0], "abc", 3, 0) == 3 && snd_fds(f[0], "defg", 4, &d, 1) == 4 && snd(f[0], "hij", 3, 0) == 3);
  CHECK(ref_read(&d->refs) == 2);
  // Bytes before and with the descriptor may come together; the read ends where its message ends.
  CHECK(rcv_msg(f[1], out, 50, MSG_PEEK, &m, &one) == 7 && m.nfds == 1 && m.fds[0] == d && ref_read(&d->refs) == 3);
  msg_drop_fds(&m);
  CHECK(rcv_msg(f[1], out, 2, 0, &m, &one) == 2 && m.nfds == 0);
  CHECK(rcv_msg(f[1], out, 3, 0, &m, &one) == 3 && m.nfds == 1 && !memcmp(out, "cde", 3));
  msg_drop_fds(&m);
  CHECK(ref_read(&d->refs) == 1 && rcv_msg(f[1], out, 50, 0, &m, &one) > 0 && m.nfds == 0);
  while (rcv(f[1], out, 50, MSG_DONTWAIT) > 0) {}
  __atomic_fetch_or(&S(f[1])->so_flags, SOF_PASSCRED, __ATOMIC_RELAXED);
  CHECK(snd(f[0], "u", 1, 0) == 1 && rcv_msg(f[1], out, 50, 0, &m, &one) == 1 && m.has_cred && m.cred.pid == 77 && m.cred.uid == 10);
  CHECK(snd(f[0], "a", 1, 0) == 1 && snd(f[0], "b", 1, 0) == 1);
  CHECK(rcv_msg(f[1], out, 50, 0, &m, &one) == 1 && m.has_cred); // two sends are not glued for who wants credentials
  // Unreceived descriptors close with the socket.
  CHECK(snd_fds(f[0], "x", 1, &d, 1) == 1);
  file_put(d);
  file_put(f[1]);
  mock_work_flush();
  CHECK(released == 1 && inflight_total == 0);
  file_put(f[0]);
}

static void test_dgram(void) {
  struct file *f[2], *a = sock_new(SOCK_DGRAM), *b = sock_new(SOCK_DGRAM), *c = sock_new(SOCK_DGRAM);
  struct sockaddr_k n1, n2, got;
  struct msg m;
  struct iovec one;
  u8 out[100];
  u32 len, l1 = make_addr(&n1, "\0abs", 4), l2 = make_addr(&n2, "/tmp/x", 7);
  pair(f, SOCK_DGRAM);
  CHECK(snd(f[0], "one", 3, 0) == 3 && snd(f[0], "", 0, 0) == 0 && snd(f[0], "three", 5, 0) == 5);
  CHECK(rcv_msg(f[1], out, 2, MSG_TRUNC, &m, &one) == 3 && (m.flags_out & MSG_TRUNC) && rcv(f[1], out, 9, 0) == 0 && rcv(f[1], out, 9, MSG_PEEK) == 5 && rcv(f[1], out, 9, 0) == 5);
  file_put(f[1]);
  CHECK(snd(f[0], "x", 1, 0) == -ECONNREFUSED && snd(f[0], "x", 1, 0) == -ENOTCONN);
  file_put(f[0]);

  CHECK(S(a)->ops->bind(S(a), &n1, l1) == 0 && S(b)->ops->bind(S(b), &n1, l1) == -EADDRINUSE && S(a)->ops->bind(S(a), &n2, l2) == -EINVAL);
  CHECK(S(b)->ops->bind(S(b), &n2, l2) == 0 && S(c)->ops->bind(S(c), &n2, l2) == -EADDRINUSE);
  m = (struct msg){ .name = &n1, .name_len = l1 };
  iter_user(&m.it, &one, (uptr)"to a", 4);
  CHECK(S(b)->ops->sendmsg(S(b), &m, 0) == 4);
  m = (struct msg){ .name = &got, .name_len = sizeof got };
  iter_user(&m.it, &one, (uptr)out, 100);
  CHECK(S(a)->ops->recvmsg(S(a), &m, 0) == 4 && m.name_len == 2 + 7 && !strcmp((char *)got.data, "/tmp/x"));
  CHECK(S(c)->ops->connect(S(c), &n2, l2, 0) == 0 && snd(c, "via c", 5, 0) == 5 && rcv(b, out, 100, 0) == 5);
  int sent = 0;
  while (snd(c, "fill", 4, MSG_DONTWAIT) == 4) sent++;
  CHECK(sent == 512 && !(pl(c) & EPOLLOUT) && rcv(b, out, 100, 0) == 4 && (pl(c) & EPOLLOUT));
  CHECK(S(c)->ops->getname(S(c), &got, &len, false) == 0 && len == 2);
  CHECK(S(c)->ops->getname(S(c), &got, &len, true) == 0 && len == 9);
  __atomic_fetch_or(&S(c)->so_flags, SOF_PASSCRED, __ATOMIC_RELAXED);
  CHECK(snd(c, "named", 5, MSG_DONTWAIT) == 5 && S(c)->ops->getname(S(c), &got, &len, false) == 0 && len == 8 && got.data[0] == 0);
  CHECK(S(a)->ops->connect(S(a), &n2, l2, 0) == 0 && S(b)->ops->connect(S(b), &n1, l1, 0) == 0);
  CHECK(snd(c, "foreign", 7, MSG_DONTWAIT) == -EPERM); // b talks to a alone now
  file_put(b);
  file_put(a);
  file_put(c);
  CHECK(list_empty(&abstract_names) && !node_find("/tmp/x")->i.sock);
  a = sock_new(SOCK_DGRAM);
  CHECK(S(a)->ops->connect(S(a), &n2, l2, 0) == -ECONNREFUSED);
  make_addr(&n1, "/nowhere", 8);
  CHECK(S(a)->ops->connect(S(a), &n1, 10, 0) == -ENOENT && S(a)->ops->connect(S(a), &n1, 1, 0) == -EINVAL);
  file_put(a);
}

static struct file *listener;
static struct sockaddr_k listen_addr;
static u32 listen_len;
#define CONNECTORS 3
#define CONNECTS 150
static void *connector(void *arg) {
  for (u32 i = 0; i < CONNECTS; i++) {
    struct file *f = sock_new(SOCK_STREAM);
    u32 v = 0;
    if (S(f)->ops->connect(S(f), &listen_addr, listen_len, 0)) CHECK(!"connect");
    if (snd(f, &i, 4, 0) != 4 || rcv(f, &v, 4, MSG_WAITALL) != 4 || v != i + 1) CHECK(!"echo");
    file_put(f);
  }
  return NULL;
}
static void test_listen(void) {
  struct file *f = sock_new(SOCK_STREAM), *g = sock_new(SOCK_SEQPACKET);
  struct socket *conn;
  listener = sock_new(SOCK_STREAM);
  listen_len = make_addr(&listen_addr, "/run/l", 6);
  CHECK(S(listener)->ops->listen(S(listener), 5) == -EINVAL && S(f)->ops->accept(S(f), &conn, O_NONBLOCK) == -EINVAL);
  CHECK(S(listener)->ops->bind(S(listener), &listen_addr, listen_len) == 0);
  CHECK(S(f)->ops->connect(S(f), &listen_addr, listen_len, 0) == -ECONNREFUSED);
  CHECK(S(listener)->ops->listen(S(listener), 1) == 0 && S(listener)->ops->accept(S(listener), &conn, O_NONBLOCK) == -EAGAIN);
  CHECK(S(g)->ops->connect(S(g), &listen_addr, listen_len, 0) == -EPROTOTYPE && snd(f, "x", 1, 0) == -ENOTCONN);
  CHECK(pl(f) == (EPOLLHUP | EPOLLOUT | EPOLLWRNORM) && pl(listener) == 0);
  CHECK(S(f)->ops->connect(S(f), &listen_addr, listen_len, O_NONBLOCK) == 0 && pl(listener) == (EPOLLIN | EPOLLRDNORM));
  CHECK(S(f)->ops->connect(S(f), &listen_addr, listen_len, O_NONBLOCK) == -EISCONN);
  struct file *h = sock_new(SOCK_STREAM), *k = sock_new(SOCK_STREAM);
  CHECK(S(h)->ops->connect(S(h), &listen_addr, listen_len, O_NONBLOCK) == 0 && S(k)->ops->connect(S(k), &listen_addr, listen_len, O_NONBLOCK) == -EAGAIN);
  CHECK(snd(f, "early", 5, 0) == 5); // before it is accepted
  CHECK(S(listener)->ops->accept(S(listener), &conn, O_NONBLOCK) == 0);
  struct file *c = socket_file(conn, 0);
  u8 out[10];
  u32 len;
  struct sockaddr_k a;
  CHECK(rcv(c, out, 10, 0) == 5 && conn->ops->getname(conn, &a, &len, false) == 0 && len == 9 && conn->ops->getname(conn, &a, &len, true) == 0 && len == 2);
  struct ucred_user u;
  len = sizeof u;
  CHECK(conn->ops->getsockopt(conn, SOL_SOCKET, SO_PEERCRED, &u, &len) == 0 && u.pid == 77 && u.uid == 10 && u.gid == 20);
  file_put(c);
  file_put(f);
  file_put(listener); // h was never accepted
  CHECK(rcv(h, out, 10, 0) == -ECONNRESET && (pl(h) & EPOLLHUP));
  file_put(h);
  file_put(k);
  file_put(g);

  listener = sock_new(SOCK_STREAM);
  listen_len = make_addr(&listen_addr, "\0echo", 5);
  CHECK(S(listener)->ops->bind(S(listener), &listen_addr, listen_len) == 0 && S(listener)->ops->listen(S(listener), 2) == 0);
  pthread_t t[CONNECTORS];
  for (int i = 0; i < CONNECTORS; i++) t[i] = mock_run(connector, NULL);
  for (int i = 0; i < CONNECTORS * CONNECTS; i++) {
    u32 v = 0;
    if (S(listener)->ops->accept(S(listener), &conn, 0)) { CHECK(!"accept"); break; }
    c = socket_file(conn, 0);
    if (rcv(c, &v, 4, MSG_WAITALL) != 4) CHECK(!"recv");
    v++;
    if (snd(c, &v, 4, 0) != 4) CHECK(!"send");
    file_put(c);
  }
  for (int i = 0; i < CONNECTORS; i++) pthread_join(t[i], NULL);
  file_put(listener);
}

// Sockets that only each other's queues refer to.
static void test_garbage(void) {
  struct file *a[2], *b[2], *d = file_create(&dummy_ops, NULL, O_RDWR), *l;
  released = 0;
  pair(a, SOCK_STREAM);
  pair(b, SOCK_DGRAM);
  CHECK(snd_fds(a[0], "x", 1, &a[1], 1) == 1); // a[1] in its own queue
  CHECK(snd_fds(a[0], "x", 1, &b[0], 1) == 1); // and b[0] behind it
  CHECK(snd_fds(b[1], "x", 1, &d, 1) == 1);    // d in b[0]'s queue
  CHECK(snd_fds(b[1], "x", 1, &a[1], 1) == 1);
  file_put(d);
  file_put(a[1]);
  file_put(b[0]);
  file_put(a[0]); // from here on nobody can get at a[1], b[0] or d
  mock_work_flush();
  CHECK(released == 1 && inflight_total == 0 && inflight_socket_count == 0);
  file_put(b[1]);

  pair(a, SOCK_STREAM); // the same with a way in: nothing may go
  pair(b, SOCK_SEQPACKET);
  d = file_create(&dummy_ops, NULL, O_RDWR);
  CHECK(snd_fds(a[0], "x", 1, &a[1], 1) == 1 && snd_fds(a[0], "x", 1, &d, 1) == 1 && snd_fds(b[0], "x", 1, &a[1], 1) == 1);
  file_put(d);
  file_put(a[1]);
  file_put(a[0]);
  mock_work_flush();
  CHECK(released == 1 && inflight_total == 3);
  struct msg m;
  struct iovec one;
  u8 out[4];
  CHECK(rcv_msg(b[1], out, 4, 0, &m, &one) == 1 && m.nfds == 1);
  struct file *again = file_get(m.fds[0]);
  msg_drop_fds(&m);
  CHECK(rcv_msg(again, out, 4, 0, &m, &one) == 1 && m.nfds == 1);
  msg_drop_fds(&m);
  CHECK(rcv_msg(again, out, 4, 0, &m, &one) == 1 && m.nfds == 1);
  msg_drop_fds(&m);
  CHECK(released == 2);
  file_put(again);
  file_put(b[0]);
  file_put(b[1]);
  mock_work_flush();
  CHECK(inflight_total == 0);

  l = sock_new(SOCK_STREAM); // in the queue of a connection that the listener never accepts, and it is the listener
  struct file *c = sock_new(SOCK_STREAM);
  u32 len = make_addr(&listen_addr, "\0gc", 3);
  CHECK(S(l)->ops->bind(S(l), &listen_addr, len) == 0 && S(l)->ops->listen(S(l), 3) == 0);
  CHECK(S(c)->ops->connect(S(c), &listen_addr, len, 0) == 0 && snd_fds(c, "x", 1, &l, 1) == 1);
  file_put(l);
  file_put(c);
  mock_work_flush();
  CHECK(inflight_total == 0 && list_empty(&abstract_names));

  struct file *chain[2000]; // each in the queue of the next: no deep recursion at the end
  for (int i = 0; i < 2000; i += 2) pair(&chain[i], SOCK_STREAM);
  for (int i = 2; i < 2000; i += 2) {
    CHECK(snd_fds(chain[i], "x", 1, &chain[i - 1], 1) == 1);
    file_put(chain[i - 1]);
  }
  file_put(chain[1999]);
  mock_work_flush();
  CHECK(inflight_total == 0);
  for (int i = 0; i < 2000; i += 2) file_put(chain[i]);
}

// Descriptors go round between threads while sockets close and collections run.
static struct file *ring[2];
static u32 passed;
static void *passer(void *arg) {
  struct msg m;
  struct iovec one;
  u8 out[4];
  for (int i = 0; i < 3000; i++) {
    struct file *p[2];
    pair(p, SOCK_STREAM);
    if (snd_fds(p[0], "x", 1, &p[1], 1) != 1) CHECK(!"self");
    if (snd_fds(ring[0], "y", 1, &p[1], 1) == 1) atomic_inc(&passed);
    file_put(p[0]);
    file_put(p[1]);
    if (rcv_msg(ring[1], out, 4, MSG_DONTWAIT, &m, &one) > 0 && m.nfds) {
      struct file *f = file_get(m.fds[0]);
      msg_drop_fds(&m);
      if (rcv_msg(f, out, 4, MSG_DONTWAIT, &m, &one) != 1 || m.nfds != 1) CHECK(!"lost what was in its queue");
      msg_drop_fds(&m);
      file_put(f);
    }
  }
  return NULL;
}
static void test_garbage_threads(void) {
  pthread_t t[3];
  pair(ring, SOCK_DGRAM);
  for (int i = 0; i < 3; i++) t[i] = mock_run(passer, NULL);
  for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
  file_put(ring[0]);
  file_put(ring[1]);
  mock_work_flush();
  struct file *p[2];
  pair(p, SOCK_STREAM); // a close when all is quiet collects what is left
  file_put(p[0]);
  file_put(p[1]);
  mock_work_flush();
  CHECK(passed > 1000 && inflight_total == 0 && inflight_socket_count == 0);
}

// A sender that looked at its end just before the peer closed finds the queue emptied: nothing may be put there any more.
static void test_send_to_closed(void) {
  struct file *f[2], *d = file_create(&dummy_ops, NULL, O_RDWR);
  pair(f, SOCK_STREAM);
  struct usock *u = S(f[0])->priv;
  u32 before = released;
  file_put(f[1]);
  u->shut = 0; // as it was when the sender looked
  CHECK(snd_fds(f[0], "x", 1, &d, 1) == -EPIPE);
  file_put(f[0]);
  file_put(d);
  CHECK(released == before + 1 && inflight_total == 0);
}

int main(void) {
  net_current_pid = pid_now;
  for (unsigned i = 0; i < 8; i++) nodes[i].path[0] = 0;
  file_init();
  unix_init();
  test_cmsgs();
  test_stream();
  test_rights();
  test_dgram();
  test_listen();
  test_send_to_closed();
  test_garbage();
  test_garbage_threads();
  return UNIT_END("net_unix");
}

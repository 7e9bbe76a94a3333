// SPDX-License-Identifier: Apache-2.0
//
// AF_UNIX: stream, datagram and seqpacket sockets, by path or abstract name.
//
// struct usock is the socket's object; others (peers, queues, waiting senders) keep it alive by reference after its
// struct socket is gone. Each usock owns what was sent to it: a byte ring (stream) or a list of messages.
// Locks: u->lock (mutex) guards its receive side and its pending connections; user memory is copied under it. Two are
// never held at once. name_lock (spin, RANK_CONN) guards names, u->sock, u->peer of datagram sockets and the lists of who
// is connected to whom; waking is allowed under it. u->shut is changed atomically and read freely.
//
// Ends: closing or shutting down A sets bits in the peer's `shut` too. The reader looks for data first and at `shut`
// second, both under its lock, and a sender puts data in under the same lock before its end can be shut: so whoever sees
// the end has seen all data.
#include "net/unix.h"
#include <asm/ioctls.h>
#include <linux/eventpoll.h>
#include <linux/limits.h>
#include <linux/stat.h>
#include <linux/sockios.h>

#define STREAM_RING_BYTES (256 * KIB)
#define DGRAM_MAX_QUEUED 512u

struct spinlock unix_name_lock = SPINLOCK_INIT(RANK_CONN);
static struct list abstract_names = LIST_INIT(abstract_names);
static u32 autobind_next;
static const struct socket_ops unix_ops;

// --- life
static struct usock *usock_new(int type) {
  struct usock *u = kzalloc(sizeof *u);
  if (!u) return NULL;
  ref_init(&u->refs);
  u->type = type;
  mutex_init(&u->lock, RANK_OBJECT);
  waitq_init(&u->wait);
  waitq_init(&u->room);
  list_init(&u->queue);
  list_init(&u->pending);
  list_init(&u->senders);
  list_init(&u->sender_link);
  list_init(&u->name_link);
  list_init(&u->inflight_link);
  u->gc_count = -1;
  return u;
}

static struct usock *usock_get(struct usock *u) {
  ref_get(&u->refs);
  return u;
}

static void usock_put(struct usock *u) {
  if (!ref_put(&u->refs)) return;
  bytering_destroy(&u->ring);
  kfree(u);
}

static inline bool is_stream(const struct usock *u) { return u->type == SOCK_STREAM; }
static inline u32 shut_of(const struct usock *u) { return __atomic_load_n(&u->shut, __ATOMIC_SEQ_CST); }
static inline void shut_add(struct usock *u, u32 bits) { __atomic_fetch_or(&u->shut, bits, __ATOMIC_SEQ_CST); }

static inline void wake(struct waitq *q, u32 key) { waitq_wake(q, 1, key); }

static void set_error(struct usock *u, int err) {
  spin_lock(&unix_name_lock);
  if (u->sock) __atomic_store_n(&u->sock->err, err, __ATOMIC_RELEASE);
  spin_unlock(&unix_name_lock);
}

static inline struct usock *of(struct socket *s) { return s->priv; }

// --- messages and records
static void umsg_free(struct umsg *m) {
  for (unsigned i = 0; i < m->nfds; i++) {
    unix_inflight_sub(m->fds[i]);
    file_put_late(m->fds[i]); // may be a socket with messages of its own: never recurse
  }
  kfree(m->fds);
  if (m->sender) usock_put(m->sender);
  kfree(m);
}

void unix_queue_free(struct list *q) {
  while (!list_empty(q)) {
    struct umsg *m = list_first_entry(q, struct umsg, link);
    list_remove(&m->link);
    umsg_free(m);
  }
}

// A message with room for `len` bytes that takes over what the sender attached. ERR_PTR; then m still has it all.
static struct umsg *umsg_new(size_t len, struct msg *m) {
  if (m->nfds && !unix_inflight_may_add(m->nfds)) return err_ptr(-ETOOMANYREFS);
  struct umsg *um = kmalloc(sizeof *um + len, 0);
  if (!um) return err_ptr(-ENOMEM);
  memset(um, 0, sizeof *um);
  list_init(&um->link);
  um->len = len;
  um->cred.pid = m->cred.pid;
  um->cred.uid = m->cred.uid;
  um->cred.gid = m->cred.gid;
  um->fds = m->fds;
  um->nfds = m->nfds;
  for (unsigned i = 0; i < um->nfds; i++) unix_inflight_add(um->fds[i]);
  m->fds = NULL;
  m->nfds = 0;
  return um;
}

// Hands the descriptors of a message to a receiver; a peek gets references of its own.
static void umsg_give_fds(struct umsg *um, struct msg *m, bool peek) {
  if (!um->nfds || m->nfds) return;
  if (!peek) {
    for (unsigned i = 0; i < um->nfds; i++) unix_inflight_sub(um->fds[i]);
    m->fds = um->fds;
    m->nfds = um->nfds;
    um->fds = NULL;
    um->nfds = 0;
    return;
  }
  if (!(m->fds = kmalloc(um->nfds * sizeof *m->fds, 0))) return;
  for (; m->nfds < um->nfds; m->nfds++) m->fds[m->nfds] = file_get(um->fds[m->nfds]);
  unix_inflight_peeked();
}

static void give_cred(const struct ucred_user *c, struct msg *m) {
  m->cred.pid = c->pid;
  m->cred.uid = c->uid;
  m->cred.gid = c->gid;
  m->has_cred = true;
}

// --- names
static int name_copy(const struct usock *u, struct sockaddr_k *a, u32 *len) {
  memset(a, 0, sizeof *a);
  a->family = AF_UNIX;
  spin_lock(&unix_name_lock);
  memcpy(a->data, u->name, u->name_len);
  *len = 2 + u->name_len;
  spin_unlock(&unix_name_lock);
  return 0;
}

static struct usock *abstract_find(const u8 *name, u32 len) { // unix_name_lock held; not referenced
  struct usock *u;
  list_for_each(u, &abstract_names, name_link)
    if (u->name_len == len && !memcmp(u->name, name, len)) return u;
  return NULL;
}

// The length of a path name in sun_path (it may lack its NUL) or of an abstract one, which starts with NUL.
static int address_check(const struct sockaddr_k *a, u32 len) {
  if (len < 2 || a->family != AF_UNIX || len > 2 + UNIX_PATH_BYTES) return -EINVAL;
  return 0;
}

static void path_of(const struct sockaddr_k *a, u32 len, char path[UNIX_PATH_BYTES + 1]) {
  memcpy(path, a->data, len - 2);
  path[len - 2] = 0;
}

static int bind_abstract(struct usock *u, const u8 *name, u32 len) {
  int err = 0;
  spin_lock(&unix_name_lock);
  if (u->name_len) err = -EINVAL;
  else if (abstract_find(name, len)) err = -EADDRINUSE;
  if (!err) {
    memcpy(u->name, name, len);
    u->name_len = len;
    list_push_back(&abstract_names, &u->name_link);
  }
  spin_unlock(&unix_name_lock);
  return err;
}

static int autobind(struct usock *u) { // five hexadecimal digits, as unix(7) says
  if (READ_ONCE(u->name_len)) return 0;
  for (u32 tries = 0; tries < 0x100000; tries++) {
    char name[7] = { 0 };
    snprintf(name + 1, 6, "%05x", __atomic_fetch_add(&autobind_next, 1, __ATOMIC_RELAXED) & 0xfffff);
    int err = bind_abstract(u, (u8 *)name, 6);
    if (err == -EINVAL) return 0; // another thread has bound it
    if (err != -EADDRINUSE) return err;
  }
  return -ENOSPC;
}

static int bind_path(struct usock *u, const struct sockaddr_k *a, u32 len) {
  char path[UNIX_PATH_BYTES + 1];
  struct path p;
  path_of(a, len, path);
  int err = path_mknod(AT_FDCWD, path, S_IFSOCK | 0777, 0, &p);
  if (err) return err == -EEXIST ? -EADDRINUSE : err;
  spin_lock(&unix_name_lock);
  if (u->name_len) {
    err = -EINVAL; // lost against another bind of this socket: the node stays, as it may on Linux
  } else {
    u->name_len = (u32)strlen(path) + 1;
    memcpy(u->name, path, u->name_len - 1);
    u->name[u->name_len - 1] = 0;
    u->bound = p;
    u->is_bound_path = true;
    p.dentry->inode->sock = u;
  }
  spin_unlock(&unix_name_lock);
  if (err) path_put(&p);
  return err;
}

static int unix_bind(struct socket *s, const struct sockaddr_k *a, u32 len) {
  struct usock *u = of(s);
  int err = address_check(a, len);
  if (err) return err;
  if (len == 2) return autobind(u);
  if (READ_ONCE(u->name_len)) return -EINVAL;
  return a->data[0] ? bind_path(u, a, len) : bind_abstract(u, a->data, len - 2);
}

// The socket that is bound to an address, referenced. ERR_PTR.
static struct usock *find_by_address(const struct sockaddr_k *a, u32 len) {
  struct usock *u;
  if (!a->data[0]) {
    spin_lock(&unix_name_lock);
    u = abstract_find(a->data, len - 2);
    if (u && !ref_get_unless_zero(&u->refs)) u = NULL;
    spin_unlock(&unix_name_lock);
    return u ? u : err_ptr(-ECONNREFUSED);
  }
  char path[UNIX_PATH_BYTES + 1];
  struct path p;
  path_of(a, len, path);
  int err = path_lookup(AT_FDCWD, path, LOOKUP_FOLLOW, &p);
  if (err) return err_ptr(err);
  struct inode *i = p.dentry->inode;
  u = err_ptr(-ECONNREFUSED);
  err = inode_permission(i, MAY_WRITE);
  if (err) {
    u = err_ptr(err);
  } else if (S_ISSOCK(i->mode)) {
    spin_lock(&unix_name_lock);
    struct usock *bound = i->sock;
    if (bound && ref_get_unless_zero(&bound->refs)) u = bound;
    spin_unlock(&unix_name_lock);
  }
  path_put(&p);
  return u;
}

// --- datagram peers
static struct usock *peer_get(struct usock *u) {
  spin_lock(&unix_name_lock);
  struct usock *p = u->peer ? usock_get(u->peer) : NULL;
  spin_unlock(&unix_name_lock);
  return p;
}

static void peer_set(struct usock *u, struct usock *p /* reference, or NULL */) {
  spin_lock(&unix_name_lock);
  struct usock *old = u->peer;
  list_remove(&u->sender_link);
  u->peer = p;
  if (p) list_push_back(&p->senders, &u->sender_link);
  spin_unlock(&unix_name_lock);
  if (old) usock_put(old);
}

static bool queue_full(const struct usock *u) {
  return READ_ONCE(u->queued) >= DGRAM_MAX_QUEUED || READ_ONCE(u->queued_bytes) >= SOCK_BUF_DEFAULT;
}

// Room appeared in u's message queue: senders that wait, and those connected to it that poll.
static void wake_senders(struct usock *u) {
  struct usock *s;
  wake(&u->room, EPOLLOUT);
  if (u->type == SOCK_SEQPACKET) wake(&u->peer->wait, EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
  if (list_empty(&u->senders)) return; // who connects later polls later
  spin_lock(&unix_name_lock);
  list_for_each(s, &u->senders, sender_link) wake(&s->wait, EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
  spin_unlock(&unix_name_lock);
}

// --- connecting
static void link_pair(struct usock *a, struct usock *b) {
  a->peer = usock_get(b);
  b->peer = usock_get(a);
  // Release: whoever sees `connected` sees the peer and the ring.
  __atomic_store_n(&a->connected, true, __ATOMIC_RELEASE);
  __atomic_store_n(&b->connected, true, __ATOMIC_RELEASE);
}

static int ring_ready(struct usock *u) {
  return is_stream(u) && !u->ring.pages ? bytering_init(&u->ring, STREAM_RING_BYTES) : 0;
}

static void own_cred(struct ucred_user *c) {
  struct msg m;
  msg_own_cred(&m);
  *c = (struct ucred_user){ m.cred.pid, m.cred.uid, m.cred.gid };
}

static int unix_pair(struct socket *sa, struct socket *sb) {
  struct usock *a = of(sa), *b = of(sb);
  int err = ring_ready(a);
  if (!err) err = ring_ready(b);
  if (err) return err;
  own_cred(&a->peercred);
  b->peercred = a->peercred;
  if (a->type == SOCK_DGRAM) {
    peer_set(a, usock_get(b));
    peer_set(b, usock_get(a));
    a->connected = b->connected = true;
  } else {
    link_pair(a, b);
  }
  return 0;
}

static bool backlog_room(struct usock *l) { return READ_ONCE(l->pending_count) <= READ_ONCE(l->backlog) || shut_of(l); }

static int connect_stream(struct usock *u, struct usock *l, u32 fflags) {
  struct usock *p = usock_new(u->type);
  int err = p ? ring_ready(p) : -ENOMEM;
  mutex_lock(&u->lock); // another thread may connect the same socket: its peer is writing by then
  if (!err) err = ring_ready(u);
  mutex_unlock(&u->lock);
  u64 deadline = fflags & O_NONBLOCK ? 0 : socket_deadline(u->sock->sndtimeo_ns);
  while (!err) {
    err = -ECONNREFUSED;
    if (l->type != u->type) {
      err = -EPROTOTYPE;
      break;
    }
    mutex_lock(&l->lock);
    if (!l->listening || shut_of(l)) {
      mutex_unlock(&l->lock);
      break;
    }
    if (backlog_room(l)) {
      // Claimed under unix_name_lock: two threads may connect the same socket.
      spin_lock(&unix_name_lock);
      err = u->connected ? -EISCONN : u->listening ? -EINVAL : 0;
      if (!err) link_pair(u, p);
      spin_unlock(&unix_name_lock);
      if (!err) {
        u->peercred = l->peercred;
        own_cred(&p->peercred);
        memcpy(p->name, l->name, l->name_len); // accept's socket has the listener's name
        p->name_len = l->name_len;
        list_push_back(&l->pending, &p->name_link);
        WRITE_ONCE(l->pending_count, l->pending_count + 1);
      }
      mutex_unlock(&l->lock);
      if (err) break;
      wake(&l->wait, EPOLLIN | EPOLLRDNORM);
      return 0;
    }
    mutex_unlock(&l->lock);
    err = !deadline ? -EAGAIN : wait_event_timeout(&l->room, backlog_room(l), deadline);
    if (err == -ETIMEDOUT) err = -EAGAIN;
  }
  if (p) usock_put(p);
  return err;
}

static int unix_connect(struct socket *s, const struct sockaddr_k *a, u32 len, u32 fflags) {
  struct usock *u = of(s);
  if (u->type == SOCK_DGRAM && len >= 2 && a->family == AF_UNSPEC) {
    peer_set(u, NULL);
    u->connected = false;
    return 0;
  }
  int err = len == 2 ? -EINVAL : address_check(a, len); // no name: bind alone chooses one
  if (err) return err;
  if (u->type != SOCK_DGRAM && __atomic_load_n(&u->connected, __ATOMIC_ACQUIRE)) return -EISCONN;
  if (s->so_flags & SOF_PASSCRED && (err = autobind(u))) return err;
  struct usock *t = find_by_address(a, len);
  if (is_err(t)) return (int)ptr_err(t);
  if (u->type != SOCK_DGRAM) {
    err = connect_stream(u, t, fflags);
    usock_put(t);
    return err;
  }
  spin_lock(&unix_name_lock);
  err = t->type != SOCK_DGRAM ? -EPROTOTYPE : !t->sock ? -ECONNREFUSED : t->peer && t->peer != u ? -EPERM : 0;
  spin_unlock(&unix_name_lock);
  if (err) {
    usock_put(t);
    return err;
  }
  peer_set(u, t);
  u->connected = true;
  return 0;
}

static int unix_listen(struct socket *s, int backlog) {
  struct usock *u = of(s);
  if (u->type == SOCK_DGRAM) return -EOPNOTSUPP;
  if (!READ_ONCE(u->name_len) || u->connected) return -EINVAL;
  mutex_lock(&u->lock);
  WRITE_ONCE(u->backlog, (u32)backlog);
  own_cred(&u->peercred);
  u->listening = true;
  mutex_unlock(&u->lock);
  waitq_wake_all(&u->room);
  return 0;
}

static int unix_accept(struct socket *s, struct socket **out, u32 fflags) {
  struct usock *u = of(s), *p = NULL;
  if (u->type == SOCK_DGRAM) return -EOPNOTSUPP;
  if (!u->listening) return -EINVAL;
  struct socket *conn = socket_alloc(AF_UNIX, s->type, 0);
  if (!conn) return -ENOMEM;
  u64 deadline = fflags & O_NONBLOCK ? 0 : socket_deadline(s->rcvtimeo_ns);
  int err = 0;
  for (;;) {
    mutex_lock(&u->lock);
    if (!list_empty(&u->pending)) {
      p = list_first_entry(&u->pending, struct usock, name_link);
      list_remove(&p->name_link);
      WRITE_ONCE(u->pending_count, u->pending_count - 1);
    }
    mutex_unlock(&u->lock);
    if (p) break;
    if (shut_of(u)) err = -EINVAL;
    else if (!deadline) err = -EAGAIN;
    else err = wait_event_timeout(&u->wait, READ_ONCE(u->pending_count) || shut_of(u), deadline);
    if (!err) continue;
    kfree(conn);
    return err == -ETIMEDOUT ? -EAGAIN : err;
  }
  wake(&u->room, EPOLLOUT);
  conn->ops = &unix_ops;
  conn->priv = p;
  spin_lock(&unix_name_lock);
  p->sock = conn;
  spin_unlock(&unix_name_lock);
  *out = conn;
  return 0;
}

static int unix_getname(struct socket *s, struct sockaddr_k *a, u32 *len, bool peer) {
  struct usock *u = of(s);
  if (!peer) return name_copy(u, a, len);
  struct usock *p = peer_get(u);
  if (!p) return -ENOTCONN;
  name_copy(p, a, len);
  usock_put(p);
  return 0;
}

// --- streams
static long stream_send(struct socket *s, struct msg *m, u32 flags) {
  struct usock *u = of(s);
  if (m->name) return u->connected ? -EISCONN : -EOPNOTSUPP;
  if (!__atomic_load_n(&u->connected, __ATOMIC_ACQUIRE)) return -ENOTCONN;
  if (flags & MSG_OOB) return -EOPNOTSUPP;
  long err = socket_take_err(s);
  if (err) return err;
  struct usock *p = u->peer; // ours until release
  u64 deadline = flags & MSG_DONTWAIT ? 0 : socket_deadline(s->sndtimeo_ns);
  struct umsg *rec = NULL;
  bool fault = false, attach = m->nfds || m->has_cred || READ_ONCE(p->want_cred);
  if (attach && m->it.left) {
    rec = umsg_new(0, m);
    if (is_err(rec)) return ptr_err(rec);
  }
  long done = 0;
  while (m->it.left) {
    if (shut_of(u) & SHUT_BIT_WR) {
      err = -EPIPE;
      break;
    }
    mutex_lock(&p->lock);
    if (p->closed) { // its queue is emptied already: a record put there would keep its descriptors for ever
      mutex_unlock(&p->lock);
      err = -EPIPE;
      break;
    }
    size_t put = bytering_put(&p->ring, &m->it, m->it.left, &fault);
    if (put && rec) {
      rec->pos = p->bytes_in;
      rec->end = p->bytes_in + put;
      list_push_back(&p->queue, &rec->link);
      rec = NULL; // what follows of this message carries nothing
    }
    p->bytes_in += put;
    bool full = !put && !fault && bytering_space(&p->ring) > 0;
    mutex_unlock(&p->lock);
    done += (long)put;
    if (put) wake(&p->wait, EPOLLIN | EPOLLRDNORM | EPOLLRDBAND);
    if (fault || full) {
      err = fault ? -EFAULT : -ENOMEM;
      break;
    }
    if (!m->it.left) break;
    if (!deadline) {
      err = -EAGAIN;
      break;
    }
    // Woken by the reader (unix_stream_recv wakes its peer) or by an end.
    err = wait_event_timeout(&u->wait, bytering_space(&p->ring) >= MIN(m->it.left, (u64)PAGE_SIZE) || shut_of(u) & SHUT_BIT_WR, deadline);
    if (err) {
      if (err == -ETIMEDOUT) err = -EAGAIN;
      break;
    }
  }
  if (rec) umsg_free(rec);
  return done ? done : err;
}

// The first record that reaches past the stream position `at`; older ones are freed. u->lock held.
static struct umsg *record_at(struct usock *u, u64 at) {
  while (!list_empty(&u->queue)) {
    struct umsg *r = list_first_entry(&u->queue, struct umsg, link);
    if (r->end > at) return r;
    list_remove(&r->link);
    umsg_free(r);
  }
  return NULL;
}

static long stream_take(struct usock *u, struct msg *m, u32 flags, bool *boundary) { // u->lock held, data is there
  u64 at = u->bytes_out;
  size_t n = MIN(m->it.left, (u64)bytering_used(&u->ring));
  struct umsg *r = record_at(u, at);
  *boundary = false;
  // Descriptors arrive with the first byte they were sent with, and a read ends where their message ends; readers that
  // want credentials never get bytes of two senders at once.
  if (r && r->pos > at && m->want_cred) n = MIN(n, r->pos - at);
  if (r && (r->pos <= at || r->nfds)) n = MIN(n, r->end - at);
  bool fault = false;
  size_t got = flags & MSG_PEEK ? bytering_peek(&u->ring, 0, &m->it, n, &fault) : bytering_get(&u->ring, &m->it, n, &fault);
  if (!got) return fault ? -EFAULT : 0;
  if (r && r->pos < at + got) {
    *boundary = r->nfds != 0 || m->want_cred;
    give_cred(&r->cred, m);
    umsg_give_fds(r, m, flags & MSG_PEEK);
  } else if (m->want_cred) {
    give_cred(&u->peercred, m);
  }
  if (!(flags & MSG_PEEK)) {
    u->bytes_out = at + got;
    (void)record_at(u, u->bytes_out);
  }
  return (long)got;
}

static long stream_recv(struct socket *s, struct msg *m, u32 flags) {
  struct usock *u = of(s);
  m->name_len = 0;
  if (!__atomic_load_n(&u->connected, __ATOMIC_ACQUIRE)) return -EINVAL;
  if (flags & MSG_OOB) return -EOPNOTSUPP;
  if (!m->it.left) return 0;
  u64 deadline = flags & MSG_DONTWAIT ? 0 : socket_deadline(s->rcvtimeo_ns);
  long done = 0, r;
  WRITE_ONCE(u->want_cred, m->want_cred);
  for (;;) {
    bool boundary = false;
    mutex_lock(&u->lock);
    if (bytering_used(&u->ring)) r = stream_take(u, m, flags, &boundary);
    else if ((r = socket_take_err(s))) {}
    else r = shut_of(u) & SHUT_BIT_RD ? 0 : -EAGAIN;
    mutex_unlock(&u->lock);
    if (r > 0) {
      done += r;
      if (!(flags & MSG_PEEK)) wake(&u->peer->wait, EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND);
      if (!(flags & MSG_WAITALL) || flags & MSG_PEEK || boundary || !m->it.left) break;
      continue;
    }
    if (r != -EAGAIN || !deadline) break;
    r = wait_event_timeout(&u->wait, bytering_used(&u->ring) || shut_of(u) & SHUT_BIT_RD || READ_ONCE(s->err), deadline);
    if (r) {
      if (r == -ETIMEDOUT) r = -EAGAIN;
      break;
    }
  }
  return done ? done : r;
}

// --- messages
static struct usock *message_target(struct usock *u, struct msg *m) { // referenced, ERR_PTR
  if (m->name && u->type == SOCK_DGRAM) {
    int err = address_check(m->name, m->name_len);
    return err ? err_ptr(err) : m->name_len == 2 ? err_ptr(-EINVAL) : find_by_address(m->name, m->name_len);
  }
  if (m->name && u->connected) return err_ptr(-EISCONN);
  struct usock *t = peer_get(u);
  return t ? t : err_ptr(-ENOTCONN);
}

static int message_queue(struct usock *u, struct usock *t, struct umsg *um) {
  if (t->type != u->type) return -EPROTOTYPE;
  if (shut_of(u) & SHUT_BIT_WR) return -EPIPE;
  spin_lock(&unix_name_lock);
  bool gone = u->type == SOCK_DGRAM && !t->sock, foreign = u->type == SOCK_DGRAM && t->peer && t->peer != u;
  spin_unlock(&unix_name_lock);
  if (gone) return -ECONNREFUSED;
  if (foreign) return -EPERM;
  int err = 0;
  mutex_lock(&t->lock);
  if (t->closed) err = u->type == SOCK_DGRAM ? -ECONNREFUSED : -EPIPE;
  else if (shut_of(t) & SHUT_BIT_RD) err = -EPIPE;
  else if (queue_full(t)) err = -EAGAIN;
  else {
    list_push_back(&t->queue, &um->link);
    WRITE_ONCE(t->queued, t->queued + 1);
    WRITE_ONCE(t->queued_bytes, t->queued_bytes + um->len);
  }
  mutex_unlock(&t->lock);
  if (!err) wake(&t->wait, EPOLLIN | EPOLLRDNORM);
  return err;
}

static long message_send(struct socket *s, struct msg *m, u32 flags) {
  struct usock *u = of(s);
  if (flags & MSG_OOB) return -EOPNOTSUPP;
  size_t len = m->it.left;
  if (len > s->sndbuf - 32) return -EMSGSIZE;
  if (s->so_flags & SOF_PASSCRED && u->type == SOCK_DGRAM) {
    int err = autobind(u);
    if (err) return err;
  }
  long err = socket_take_err(s);
  if (err) return err;
  struct usock *t = message_target(u, m);
  if (is_err(t)) return ptr_err(t);
  struct umsg *um = umsg_new(len, m);
  if (is_err(um)) {
    usock_put(t);
    return ptr_err(um);
  }
  um->sender = usock_get(u);
  u64 deadline = flags & MSG_DONTWAIT ? 0 : socket_deadline(s->sndtimeo_ns);
  err = iter_from(&m->it, um->data, len) == len ? 0 : -EFAULT;
  while (!err) {
    err = message_queue(u, t, um);
    if (err != -EAGAIN || !deadline) break;
    err = wait_event_timeout(&t->room, !queue_full(t) || READ_ONCE(t->closed) || shut_of(t) & SHUT_BIT_RD || shut_of(u) & SHUT_BIT_WR, deadline);
    if (err == -ETIMEDOUT) err = -EAGAIN;
  }
  if (err == -ECONNREFUSED && !m->name) { // a connected peer is gone: forget it
    peer_set(u, NULL);
    u->connected = false;
  }
  usock_put(t);
  if (!err) return (long)len;
  umsg_free(um);
  return err;
}

static struct umsg *message_take(struct usock *u, bool peek) { // u->lock held
  if (list_empty(&u->queue)) return NULL;
  struct umsg *um = list_first_entry(&u->queue, struct umsg, link);
  if (peek) return um;
  list_remove(&um->link);
  WRITE_ONCE(u->queued, u->queued - 1);
  WRITE_ONCE(u->queued_bytes, u->queued_bytes - um->len);
  return um;
}

static long message_deliver(struct umsg *um, struct msg *m, u32 flags) {
  size_t n = MIN(m->it.left, um->len);
  if (iter_to(&m->it, um->data, n) != n) return -EFAULT;
  if (m->name) name_copy(um->sender, m->name, &m->name_len);
  if (m->name && m->name_len == 2) m->name_len = 0; // an unbound sender has no name
  give_cred(&um->cred, m);
  umsg_give_fds(um, m, flags & MSG_PEEK);
  if (n < um->len) m->flags_out |= MSG_TRUNC;
  return (long)(flags & MSG_TRUNC ? um->len : n);
}

static long message_recv(struct socket *s, struct msg *m, u32 flags) {
  struct usock *u = of(s);
  if (flags & MSG_OOB) return -EOPNOTSUPP;
  if (u->type == SOCK_SEQPACKET && !__atomic_load_n(&u->connected, __ATOMIC_ACQUIRE)) return -ENOTCONN;
  u64 deadline = flags & MSG_DONTWAIT ? 0 : socket_deadline(s->rcvtimeo_ns);
  bool peek = flags & MSG_PEEK;
  for (;;) {
    mutex_lock(&u->lock);
    struct umsg *um = message_take(u, peek);
    long r = um ? 0 : socket_take_err(s);
    bool end = !um && !r && shut_of(u) & SHUT_BIT_RD;
    if (um && peek) r = message_deliver(um, m, flags);
    mutex_unlock(&u->lock);
    if (um && peek) return r;
    if (um) {
      r = message_deliver(um, m, flags);
      umsg_free(um);
      wake_senders(u);
      return r;
    }
    if (end) {
      m->name_len = 0;
      return 0;
    }
    if (r) return r;
    if (!deadline) return -EAGAIN;
    r = wait_event_timeout(&u->wait, READ_ONCE(u->queued) || shut_of(u) & SHUT_BIT_RD || READ_ONCE(s->err), deadline);
    if (r) return r == -ETIMEDOUT ? -EAGAIN : r;
  }
}

static long unix_sendmsg(struct socket *s, struct msg *m, u32 flags) {
  return is_stream(of(s)) ? stream_send(s, m, flags) : message_send(s, m, flags);
}

static long unix_recvmsg(struct socket *s, struct msg *m, u32 flags) {
  return is_stream(of(s)) ? stream_recv(s, m, flags) : message_recv(s, m, flags);
}

// --- ends
static void shut_and_wake(struct usock *u, u32 bits) {
  shut_add(u, bits);
  waitq_wake_all(&u->wait);
  waitq_wake_all(&u->room);
}

static int unix_shutdown(struct socket *s, int how) {
  struct usock *u = of(s);
  u32 bits = how == SHUT_RD ? SHUT_BIT_RD : how == SHUT_WR ? SHUT_BIT_WR : SHUT_BIT_RD | SHUT_BIT_WR;
  if (u->type != SOCK_DGRAM && !u->connected && !u->listening) return -ENOTCONN;
  struct usock *p = u->type == SOCK_DGRAM ? NULL : peer_get(u);
  if (p) {
    shut_and_wake(p, (bits & SHUT_BIT_RD ? SHUT_BIT_WR : 0) | (bits & SHUT_BIT_WR ? SHUT_BIT_RD : 0));
    usock_put(p);
  }
  shut_and_wake(u, bits);
  return 0;
}

// The end of a socket, or of a connection that nobody accepted.
static void usock_close(struct usock *u) {
  struct list queue, pending;
  list_init(&queue);
  list_init(&pending);
  spin_lock(&unix_name_lock);
  u->sock = NULL;
  if (!list_empty(&u->name_link)) list_remove(&u->name_link);
  if (u->is_bound_path) u->bound.dentry->inode->sock = NULL;
  spin_unlock(&unix_name_lock);

  mutex_lock(&u->lock);
  u->closed = true;
  bool unread = bytering_used(&u->ring) || !list_empty(&u->queue);
  list_splice_back(&queue, &u->queue);
  list_splice_back(&pending, &u->pending);
  u->pending_count = 0;
  shut_add(u, SHUT_BIT_RD | SHUT_BIT_WR);
  mutex_unlock(&u->lock);

  struct usock *p = peer_get(u);
  if (p && u->type != SOCK_DGRAM) {
    if (unread || u->refused) set_error(p, ECONNRESET);
    shut_and_wake(p, SHUT_BIT_RD | SHUT_BIT_WR);
  }
  if (p) usock_put(p);
  shut_and_wake(u, 0);
  // Datagram senders connected to us: they learn at their next send.
  unix_queue_free(&queue);
  while (!list_empty(&pending)) { // depth one: a pending connection has no pending ones
    struct usock *c = list_first_entry(&pending, struct usock, name_link);
    list_remove(&c->name_link);
    c->refused = true;
    usock_close(c);
  }
  peer_set(u, NULL);
  if (u->is_bound_path) path_put(&u->bound);
  usock_put(u);
}

static void unix_release(struct socket *s) {
  usock_close(of(s));
  unix_gc();
}

// --- poll, options, ioctl
static u32 unix_poll(struct socket *s, struct poll_table *t) {
  struct usock *u = of(s);
  poll_wait(t, &u->wait, s->file);
  u32 ev = READ_ONCE(s->err) ? EPOLLERR : 0, shut = shut_of(u);
  if (u->listening) return ev | (READ_ONCE(u->pending_count) ? EPOLLIN | EPOLLRDNORM : 0);
  bool connected = __atomic_load_n(&u->connected, __ATOMIC_ACQUIRE);
  if (shut & SHUT_BIT_RD) ev |= EPOLLRDHUP | EPOLLIN | EPOLLRDNORM;
  if ((shut & (SHUT_BIT_RD | SHUT_BIT_WR)) == (SHUT_BIT_RD | SHUT_BIT_WR)) ev |= EPOLLHUP;
  if (u->type != SOCK_DGRAM && !connected) return ev | EPOLLHUP | EPOLLOUT | EPOLLWRNORM;
  if (is_stream(u)) {
    if (bytering_used(&u->ring)) ev |= EPOLLIN | EPOLLRDNORM;
    // Like Linux: writable when a good part is free, so that a writer is not woken for crumbs.
    if (shut & SHUT_BIT_WR || bytering_space(&u->peer->ring) >= STREAM_RING_BYTES / 2) ev |= EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
    return ev;
  }
  if (READ_ONCE(u->queued)) ev |= EPOLLIN | EPOLLRDNORM;
  struct usock *p = peer_get(u);
  if (!p || p == u || !queue_full(p)) ev |= EPOLLOUT | EPOLLWRNORM | EPOLLWRBAND;
  if (p) usock_put(p);
  return ev;
}

static int unix_setsockopt(struct socket *s, int level, int name, const void *val, u32 len) {
  return level == SOL_SOCKET ? -ENOPROTOOPT : -EOPNOTSUPP;
}

static int unix_getsockopt(struct socket *s, int level, int name, void *val, u32 *len) {
  struct usock *u = of(s);
  if (level != SOL_SOCKET) return -EOPNOTSUPP;
  if (name != SO_PEERCRED) return -ENOPROTOOPT;
  struct ucred_user c = u->connected || u->listening ? u->peercred : (struct ucred_user){ 0, ~0u, ~0u };
  *len = MIN(*len, (u32)sizeof c);
  memcpy(val, &c, *len);
  return 0;
}

static long unix_ioctl(struct socket *s, u32 cmd, uptr arg) {
  struct usock *u = of(s);
  int n = 0;
  switch (cmd) {
  case FIONREAD:
    if (u->listening) return -EINVAL;
    mutex_lock(&u->lock);
    if (is_stream(u)) n = u->ring.pages ? (int)bytering_used(&u->ring) : 0;
    else if (!list_empty(&u->queue)) n = (int)list_first_entry(&u->queue, struct umsg, link)->len;
    mutex_unlock(&u->lock);
    break;
  case TIOCOUTQ:
    if (is_stream(u) && __atomic_load_n(&u->connected, __ATOMIC_ACQUIRE)) n = (int)bytering_used(&u->peer->ring);
    break;
  default: return -ENOTTY;
  }
  return copy_to_user(arg, &n, sizeof n);
}

static const struct socket_ops unix_ops = {
  .bind = unix_bind,
  .connect = unix_connect,
  .listen = unix_listen,
  .accept = unix_accept,
  .getname = unix_getname,
  .sendmsg = unix_sendmsg,
  .recvmsg = unix_recvmsg,
  .shutdown = unix_shutdown,
  .poll = unix_poll,
  .setsockopt = unix_setsockopt,
  .getsockopt = unix_getsockopt,
  .ioctl = unix_ioctl,
  .pair = unix_pair,
  .release = unix_release,
};

bool unix_is_socket(const struct socket *s) { return s->ops == &unix_ops; }

static int unix_create(struct socket *s, int protocol) {
  if (protocol && protocol != AF_UNIX) return -EPROTONOSUPPORT;
  if (s->type == SOCK_RAW) s->type = SOCK_DGRAM;
  if (s->type != SOCK_STREAM && s->type != SOCK_DGRAM && s->type != SOCK_SEQPACKET) return -ESOCKTNOSUPPORT;
  struct usock *u = usock_new(s->type);
  if (!u) return -ENOMEM;
  u->sock = s;
  s->ops = &unix_ops;
  s->priv = u;
  return 0;
}

void unix_init(void) {
  static const struct net_family family = { .family = AF_UNIX, .create = unix_create };
  net_register_family(&family);
}

// SPDX-License-Identifier: Apache-2.0
//
// TCP sockets. A connection is a struct stream: a pair inside the guest, or a vsock stream that the bridge opened (after
// it accepted a connection on a published port, or made one that we asked for). The bridge's streams start with a
// prefix that says what they are; it is read in irq context, so accept and connect wait for nothing else.
// Locks: t->setup lets one thread of the program at a time bind, listen, connect or shut down; t->lock (RANK_OBJECT,
// irqsave) guards a socket's state and its accept queue; ids_lock (RANK_OBJECT2) the tables from listener and request
// numbers to sockets. References: the file's, the id tables', transient ones.

#include "net/inet.h"
#include <linux/in.h>

#define MSG_ERRQUEUE_ 0x2000u
#define O_NONBLOCK_ 04000u
#define IPPROTO_TCP_ 6
#define BACKLOG_MIN 1
#define ID_BUCKETS 256u
#define PAIR_BACKLOG 4096u // connections inside the guest may exceed the backlog: their memory is the connecting program's

enum tsock_state { T_NEW, T_LISTEN, T_CONNECTING, T_CONNECTED, T_CLOSED };
struct tsock {
  struct refcount refs;
  struct mutex setup;          // RANK_INODE: two threads on one new socket would link it into ports or ids twice
  struct spinlock lock;
  struct socket *s;            // NULL: released
  enum tsock_state state;
  bool reported;               // connect() returned success once
  struct inet_bound bound;     // changed under lock and the port space's
  struct wire_addr local, peer;
  struct stream *st;           // T_CONNECTED: owner's reference
  struct list accept_queue;    // struct stream.accept_link
  u32 queued, backlog, unreported;
  u32 id;                      // listener or request, 0: none
  struct list id_link;         // under ids_lock
  struct inet_opts opts;
};

static struct port_space ports;
static struct spinlock ids_lock = SPINLOCK_INIT(RANK_OBJECT2);
static struct list ids[ID_BUCKETS];
static u32 next_id = 1;

static struct tsock *tsock(const struct socket *s) { return s->priv; }
static void tsock_put(struct tsock *t) {
  if (ref_put(&t->refs)) kfree(t);
}

// --- ids

static void id_add(struct tsock *t) {
  u64 flags = spin_lock_irqsave(&ids_lock);
  do t->id = next_id++;
  while (!t->id);
  ref_get(&t->refs);
  list_push_back(&ids[t->id % ID_BUCKETS], &t->id_link);
  spin_unlock_irqrestore(&ids_lock, flags);
}

// True for the caller that took it out: the id's reference is dropped.
static bool id_remove(struct tsock *t) {
  u64 flags = spin_lock_irqsave(&ids_lock);
  bool was = !list_empty(&t->id_link);
  if (was) list_remove(&t->id_link);
  spin_unlock_irqrestore(&ids_lock, flags);
  if (was) tsock_put(t);
  return was;
}

static struct tsock *id_find(u32 id) {
  struct tsock *it, *found = NULL;
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

// --- new streams

// The listener takes the stream (with the caller's reference), or not.
static bool enqueue(struct tsock *t, struct stream *st, u32 limit) {
  u64 flags = spin_lock_irqsave(&t->lock);
  bool ok = t->s && t->state == T_LISTEN && t->queued < limit;
  if (ok) {
    list_push_back(&t->accept_queue, &st->accept_link);
    t->queued++;
    waitq_wake(&t->s->wait, 1, EPOLLIN | EPOLLRDNORM);
  }
  spin_unlock_irqrestore(&t->lock, flags);
  return ok;
}

// So many more of a listener's streams are off the queue: the bridge may send as many again. It hears of it in batches.
static void count_accepted(struct tsock *t, u32 n) {
  u64 flags = spin_lock_irqsave(&t->lock);
  t->unreported += n;
  n = t->unreported >= MAX(t->backlog / 2, 1u) ? t->unreported : 0;
  t->unreported -= n;
  spin_unlock_irqrestore(&t->lock, flags);
  if (n) control_accepted(t->id, n);
}

// t->lock held. The state comes last: whoever sees it uses the stream, without the lock (stream_of), and may wait there.
static void become_connected(struct tsock *t, struct stream *st) {
  t->st = st;
  stream_attach(st, t->s);
  __atomic_store_n(&t->state, T_CONNECTED, __ATOMIC_RELEASE);
}

// A connect that we asked for succeeded.
static bool connected(struct tsock *t, struct stream *st) {
  u64 flags = spin_lock_irqsave(&t->lock);
  bool ok = t->s && t->state == T_CONNECTING;
  if (ok) {
    t->local = st->local_addr;
    become_connected(t, st);
    waitq_wake(&t->s->wait, 1, EPOLLOUT | EPOLLWRNORM);
  }
  spin_unlock_irqrestore(&t->lock, flags);
  return ok;
}

// A stream from the bridge has data or ended. The caller holds a reference; ours is the one that incoming() left.
static void on_data_stream(struct stream *st) {
  struct wire_prefix p;
  u64 flags = spin_lock_irqsave(&st->lock);
  bool mine = st->on_event == on_data_stream && (st->state == ST_DEAD || st->rx_eof || st->rx_bytes >= sizeof(p));
  bool ok = mine && st->rx_bytes >= sizeof(p);
  if (mine) st->on_event = NULL; // one caller goes on
  if (ok) {
    // The prefix is in the first chunk: chunks are larger and this one is the first.
    struct chunk *c = st->first;
    memcpy(&p, c->data, sizeof(p));
    c->head = sizeof(p);
    st->rx_bytes -= (u32)sizeof(p);
    st->fwd_cnt += (u32)sizeof(p);
  }
  spin_unlock_irqrestore(&st->lock, flags);
  if (!mine) return;
  vsock_embryo_done();
  ok = ok && p.magic == WIRE_PREFIX_MAGIC && !p.zero16 && !p.zero && inet_wire_ok(&p.peer) && inet_wire_ok(&p.local);
  struct tsock *t = ok ? id_find(p.id) : NULL;
  bool taken = false;
  if (t) {
    st->peer_addr = p.peer;
    st->local_addr = p.local;
    if (p.kind == WIRE_KIND_ACCEPTED) {
      st->local_addr.port = t->local.port; // ours to know: a host that said another one would be at a port that it may not reach
      taken = inet_published(t->local.port, false) && enqueue(t, st, t->backlog);
      if (!taken) count_accepted(t, 1);
    } else if (p.kind == WIRE_KIND_CONNECTED) {
      taken = connected(t, st);
      if (taken) id_remove(t);
    }
    tsock_put(t);
  }
  if (!taken) stream_close(st, true);
}

// --- making sockets

static const struct socket_ops tcp_ops;

static struct tsock *tsock_attach(struct socket *s) {
  struct tsock *t = kzalloc(sizeof(*t));
  if (!t) return NULL;
  ref_init(&t->refs);
  mutex_init(&t->setup, RANK_INODE);
  spin_init(&t->lock, RANK_OBJECT);
  list_init(&t->bound.link);
  list_init(&t->accept_queue);
  list_init(&t->id_link);
  inet_opts_init(&t->opts);
  t->s = s;
  t->local.family = t->peer.family = inet_family(s);
  s->priv = t;
  s->ops = &tcp_ops;
  return t;
}

static int inet_create(struct socket *s, int protocol) {
  if (s->type == SOCK_DGRAM && (protocol == 0 || protocol == 17)) return inet_udp_create(s);
  if (s->type == SOCK_DGRAM || (s->type == SOCK_STREAM && protocol && protocol != IPPROTO_TCP_)) return -EPROTONOSUPPORT;
  if (s->type != SOCK_STREAM) return s->type == SOCK_RAW ? -EPERM : -ESOCKTNOSUPPORT;
  s->protocol = IPPROTO_TCP_; // SO_PROTOCOL shows it
  return tsock_attach(s) ? 0 : -ENOMEM;
}

// --- bind and listen

static int bind_addr(struct socket *s, const struct wire_addr *a) { // setup held
  struct tsock *t = tsock(s);
  if (t->bound.on || t->state != T_NEW) return -EINVAL;
  struct inet_bound *b = &t->bound;
  b->addr = *a;
  b->reuseaddr = (s->so_flags & SOF_REUSEADDR) != 0;
  b->reuseport = (s->so_flags & SOF_REUSEPORT) != 0;
  b->dual = a->family == 6 && inet_is_any(a) && !inet_opt_v6only(&t->opts);
  int err = ports_bind(&ports, b);
  if (!err) t->local = b->addr;
  return err;
}

static int tcp_bind(struct socket *s, const struct sockaddr_k *a, u32 len) {
  struct wire_addr w;
  int err = inet_addr_parse(s, a, len, &w);
  if (err) return err;
  struct tsock *t = tsock(s);
  if (w.family == 4 && s->family == AF_INET6 && inet_opt_v6only(&t->opts)) return -EINVAL;
  mutex_lock(&t->setup);
  err = bind_addr(s, &w);
  mutex_unlock(&t->setup);
  return err;
}

static int listen_locked(struct socket *s, int backlog) {
  struct tsock *t = tsock(s);
  if (backlog < BACKLOG_MIN || backlog > (int)WIRE_BACKLOG_MAX) backlog = backlog < 0 || backlog > (int)WIRE_BACKLOG_MAX ? (int)WIRE_BACKLOG_MAX : BACKLOG_MIN;
  if (t->state == T_LISTEN) {
    WRITE_ONCE(t->backlog, (u32)backlog);
    (void)control_listen(t->id, &t->local, (u32)backlog);
    return 0;
  }
  if (t->state != T_NEW) return -EINVAL;
  if (!t->bound.on) {
    struct wire_addr any = { .family = inet_family(s) };
    int err = bind_addr(s, &any);
    if (err) return err;
  }
  int err = ports_listen(&ports, &t->bound);
  if (err) return err;
  u64 flags = spin_lock_irqsave(&t->lock);
  t->backlog = (u32)backlog;
  t->state = T_LISTEN;
  spin_unlock_irqrestore(&t->lock, flags);
  id_add(t);
  // No network is no error: the port still serves the guest itself.
  (void)control_listen(t->id, &t->local, t->backlog);
  return 0;
}

static int tcp_listen(struct socket *s, int backlog) {
  struct tsock *t = tsock(s);
  mutex_lock(&t->setup);
  int err = listen_locked(s, backlog);
  mutex_unlock(&t->setup);
  return err;
}

static struct stream *pop_accepted(struct tsock *t) {
  struct stream *st = NULL;
  u64 flags = spin_lock_irqsave(&t->lock);
  if (!list_empty(&t->accept_queue)) {
    st = list_first_entry(&t->accept_queue, struct stream, accept_link);
    list_remove(&st->accept_link);
    t->queued--;
  }
  spin_unlock_irqrestore(&t->lock, flags);
  return st;
}

static int tcp_accept(struct socket *s, struct socket **out, u32 fflags) {
  struct tsock *t = tsock(s), *n = NULL;
  struct stream *st;
  if (READ_ONCE(t->state) != T_LISTEN) return -EINVAL;
  // The new socket first: a connection is not lost for want of memory.
  struct socket *ns = socket_alloc(s->family, s->type, s->protocol);
  if (ns) n = tsock_attach(ns);
  int err = n ? 0 : -ENOMEM;
  u64 deadline = socket_deadline(s->rcvtimeo_ns);
  while (!err && !(st = pop_accepted(t))) {
    if (READ_ONCE(t->state) != T_LISTEN) err = -EINVAL; // shutdown()
    else if (fflags & O_NONBLOCK_) err = -EAGAIN;
    else err = wait_event_timeout(&s->wait, READ_ONCE(t->queued) || READ_ONCE(t->state) != T_LISTEN, deadline);
  }
  if (err) {
    if (ns) socket_destroy(ns);
    return err == -ETIMEDOUT ? -EAGAIN : err;
  }
  n->state = T_CONNECTED;
  n->reported = true;
  n->st = st;
  n->local = st->local_addr;
  n->peer = st->peer_addr;
  n->opts = t->opts;
  ns->so_flags = s->so_flags & ~(u32)SOF_LISTENING;
  ns->sndbuf = s->sndbuf;
  ns->rcvbuf = s->rcvbuf;
  ns->linger_s = s->linger_s;
  stream_attach(st, ns);
  if (!st->paired) count_accepted(t, 1);
  *out = ns;
  return 0;
}

// --- connect

static bool get_listener(struct inet_bound *b) {
  struct tsock *t = container_of(b, struct tsock, bound);
  return ref_get_unless_zero(&t->refs);
}

static int connect_local(struct tsock *t) {
  struct stream *pair[2];
  struct inet_bound *b = ports_find(&ports, &t->peer, true, get_listener);
  if (!b) return -ECONNREFUSED;
  struct tsock *l = container_of(b, struct tsock, bound);
  int err = stream_pair(pair);
  if (err) goto out;
  pair[1]->local_addr = t->peer;
  pair[1]->peer_addr = t->local;
  if (!enqueue(l, pair[1], PAIR_BACKLOG)) {
    stream_close(pair[1], true);
    stream_close(pair[0], true);
    err = -ECONNREFUSED;
    goto out;
  }
  u64 flags = spin_lock_irqsave(&t->lock);
  t->reported = true;
  become_connected(t, pair[0]);
  waitq_wake(&t->s->wait, 1, EPOLLOUT | EPOLLWRNORM);
  spin_unlock_irqrestore(&t->lock, flags);
out:
  tsock_put(l);
  return err;
}

// Ends an attempt: the socket is as new, with err pending unless it is 0.
static void connect_over(struct tsock *t, int err) {
  u64 flags = spin_lock_irqsave(&t->lock);
  if (t->state == T_CONNECTING) {
    t->state = T_NEW;
    if (t->s) {
      WRITE_ONCE(t->s->err, err);
      waitq_wake(&t->s->wait, 1, EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP);
    }
  }
  spin_unlock_irqrestore(&t->lock, flags);
}

void inet_on_connect_failed(u32 id, int err) {
  struct tsock *t = id_find(id);
  if (!t) return;
  if (READ_ONCE(t->state) == T_CONNECTING && id_remove(t)) connect_over(t, err);
  tsock_put(t);
}

// Begins an attempt, or looks at the one that is under way. -EINPROGRESS: there is one now. setup held.
static int connect_locked(struct socket *s, const struct sockaddr_k *a, u32 len, bool *fresh) {
  struct tsock *t = tsock(s);
  struct wire_addr to;
  int err;
  switch (READ_ONCE(t->state)) {
  case T_NEW: break;
  case T_CONNECTING: return -EINPROGRESS;
  case T_CONNECTED:
    if (t->reported) return -EISCONN;
    t->reported = true;
    return 0;
  default: return -EINVAL;
  }
  if (len >= 2 && a->family == 0) return 0; // AF_UNSPEC on one that is not connected
  err = inet_addr_parse(s, a, len, &to);
  if (err) return err;
  if (inet_is_any(&to)) inet_loopback(&to, to.family);
  if (!to.port) return -ECONNREFUSED;
  socket_take_err(s);
  t->peer = to;
  if (inet_is_local(&to)) {
    struct wire_addr from = { .family = to.family };
    inet_loopback(&from, to.family);
    err = t->bound.on ? 0 : bind_addr(s, &from);
    if (err) return err == -EADDRINUSE ? -EADDRNOTAVAIL : err;
    u16 port = t->local.port;
    t->local = inet_is_any(&t->local) ? from : t->local;
    t->local.port = port;
    return connect_local(t);
  }
  t->state = T_CONNECTING;
  id_add(t);
  err = control_connect(t->id, &to, &(struct wire_addr){ 0 });
  if (err) {
    id_remove(t);
    connect_over(t, 0);
    return err;
  }
  *fresh = true;
  return -EINPROGRESS;
}

static int tcp_connect(struct socket *s, const struct sockaddr_k *a, u32 len, u32 fflags) {
  struct tsock *t = tsock(s);
  bool fresh = false;
  mutex_lock(&t->setup);
  int err = connect_locked(s, a, len, &fresh);
  mutex_unlock(&t->setup);
  if (err != -EINPROGRESS) return err;
  if (fflags & O_NONBLOCK_) return fresh ? -EINPROGRESS : -EALREADY;
  err = wait_event_timeout(&s->wait, READ_ONCE(t->state) != T_CONNECTING, socket_deadline(s->sndtimeo_ns));
  if (err) return err == -ETIMEDOUT ? -EINPROGRESS : err; // the attempt goes on
  if (READ_ONCE(t->state) == T_CONNECTED) {
    t->reported = true;
    return 0;
  }
  err = socket_take_err(s);
  return err ? err : -ECONNABORTED;
}

// --- the rest

static int tcp_getname(struct socket *s, struct sockaddr_k *a, u32 *len, bool peer) {
  struct tsock *t = tsock(s);
  u64 flags = spin_lock_irqsave(&t->lock);
  bool ok = !peer || t->state == T_CONNECTED;
  struct wire_addr w = peer ? t->peer : t->local;
  spin_unlock_irqrestore(&t->lock, flags);
  if (!ok) return -ENOTCONN;
  inet_addr_format(s, &w, a, len);
  return 0;
}

static struct stream *stream_of(struct tsock *t) {
  return __atomic_load_n(&t->state, __ATOMIC_ACQUIRE) == T_CONNECTED ? t->st : NULL; // stays until release
}

static long tcp_sendmsg(struct socket *s, struct msg *m, u32 flags) {
  struct tsock *t = tsock(s);
  struct stream *st = stream_of(t);
  if (flags & MSG_OOB) return -EOPNOTSUPP;
  if (!st) {
    int err = socket_take_err(s);
    return err ? err : READ_ONCE(t->state) == T_CONNECTING ? -EAGAIN : -EPIPE;
  }
  return stream_send(st, &m->it, flags, socket_deadline(s->sndtimeo_ns));
}

static long tcp_recvmsg(struct socket *s, struct msg *m, u32 flags) {
  struct tsock *t = tsock(s);
  struct stream *st = stream_of(t);
  m->name_len = 0;
  if (flags & MSG_OOB) return -EINVAL;
  if (flags & MSG_ERRQUEUE_) return -EAGAIN;
  if (!st) {
    int err = socket_take_err(s);
    return err ? err : READ_ONCE(t->state) == T_CONNECTING ? -EAGAIN : -ENOTCONN;
  }
  return stream_recv(st, &m->it, flags, socket_deadline(s->rcvtimeo_ns));
}

static void drop_accepted(struct tsock *t) {
  u32 n = 0;
  for (struct stream *st; (st = pop_accepted(t)); n++) stream_close(st, true);
}

static void stop_listening(struct tsock *t) {
  if (id_remove(t)) control_unlisten(t->id);
  ports_unbind(&ports, &t->bound);
  drop_accepted(t);
}

static int tcp_shutdown(struct socket *s, int how) {
  struct tsock *t = tsock(s);
  struct stream *st = stream_of(t);
  if (st) {
    stream_shutdown(st, how != 1, how != 0);
    return 0;
  }
  mutex_lock(&t->setup);
  bool listener = t->state == T_LISTEN && how != 1;
  if (listener) { // as Linux: no longer a listener, bound no more
    u64 flags = spin_lock_irqsave(&t->lock);
    t->state = T_NEW;
    waitq_wake_all(&s->wait);
    spin_unlock_irqrestore(&t->lock, flags);
    stop_listening(t);
  }
  mutex_unlock(&t->setup);
  return listener ? 0 : -ENOTCONN;
}

static u32 tcp_poll(struct socket *s, struct poll_table *pt) {
  struct tsock *t = tsock(s);
  poll_wait(pt, &s->wait, s->file);
  struct stream *st = stream_of(t);
  if (st) return stream_poll(st);
  u32 err = READ_ONCE(s->err) ? EPOLLERR : 0;
  switch (READ_ONCE(t->state)) {
  case T_LISTEN: return READ_ONCE(t->queued) ? EPOLLIN | EPOLLRDNORM : 0;
  case T_CONNECTING: return err;
  case T_CONNECTED: return stream_poll(t->st); // it became so after the look above
  default: return EPOLLOUT | EPOLLWRNORM | EPOLLHUP | (err ? EPOLLERR | EPOLLIN | EPOLLRDHUP : 0);
  }
}

static int tcp_setsockopt(struct socket *s, int level, int name, const void *val, u32 len) {
  return inet_setopt(s, &tsock(s)->opts, level, name, val, len);
}

static int tcp_getsockopt(struct socket *s, int level, int name, void *val, u32 *len) {
  struct tsock *t = tsock(s);
  struct stream *st = stream_of(t);
  enum inet_tcp_state state = TCPS_CLOSE;
  if (st) state = READ_ONCE(st->state) == ST_DEAD ? TCPS_CLOSE : READ_ONCE(st->rx_eof) ? TCPS_CLOSE_WAIT : TCPS_ESTABLISHED;
  else if (t->state == T_LISTEN) state = TCPS_LISTEN;
  else if (t->state == T_CONNECTING) state = TCPS_SYN_SENT;
  return inet_getopt(s, &t->opts, level, name, val, len, state);
}

#define FIONREAD_ 0x541bu
#define SIOCOUTQ_ 0x5411u
#define SIOCATMARK_ 0x8905u
static long tcp_ioctl(struct socket *s, u32 cmd, uptr arg) {
  struct stream *st = stream_of(tsock(s));
  s32 v = 0;
  if (cmd == FIONREAD_) {
    if (tsock(s)->state == T_LISTEN) return -EINVAL;
    if (st) v = (s32)stream_readable(st);
  } else if (cmd != SIOCOUTQ_ && cmd != SIOCATMARK_) {
    return -ENOTTY;
  }
  return copy_to_user(arg, &v, sizeof(v));
}

static void tcp_release(struct socket *s) {
  struct tsock *t = tsock(s);
  u64 flags = spin_lock_irqsave(&t->lock);
  enum tsock_state was = t->state;
  struct stream *st = was == T_CONNECTED ? t->st : NULL;
  t->s = NULL; // from here on no rx path touches the socket
  t->state = T_CLOSED;
  t->st = NULL;
  spin_unlock_irqrestore(&t->lock, flags);
  if (was == T_LISTEN) {
    stop_listening(t);
  } else {
    if (was == T_CONNECTING && id_remove(t)) control_cancel(t->id);
    ports_unbind(&ports, &t->bound);
  }
  if (st) stream_close(st, (s->so_flags & SOF_LINGER) && !s->linger_s);
  tsock_put(t);
}

static const struct socket_ops tcp_ops = {
  .bind = tcp_bind, .connect = tcp_connect, .listen = tcp_listen, .accept = tcp_accept, .getname = tcp_getname,
  .sendmsg = tcp_sendmsg, .recvmsg = tcp_recvmsg, .shutdown = tcp_shutdown, .poll = tcp_poll, .setsockopt = tcp_setsockopt,
  .getsockopt = tcp_getsockopt, .ioctl = tcp_ioctl, .release = tcp_release,
};

// --- the bridge goes

// Calls fn on every socket with an id, without the lock.
static void each_id(void (*fn)(struct tsock *t)) {
  for (u32 b = 0; b < ID_BUCKETS; b++) {
    u32 done = 0; // ids ascend within a bucket: sockets are added at the end
    for (;;) {
      struct tsock *it, *next = NULL;
      u64 flags = spin_lock_irqsave(&ids_lock);
      list_for_each(it, &ids[b], id_link) {
        if (it->id <= done) continue;
        ref_get(&it->refs);
        next = it;
        break;
      }
      spin_unlock_irqrestore(&ids_lock, flags);
      if (!next) break;
      done = next->id;
      fn(next);
      tsock_put(next);
    }
  }
}

static void give_up(struct tsock *t) {
  if (READ_ONCE(t->state) == T_CONNECTING && id_remove(t)) connect_over(t, ENETUNREACH);
}
void inet_network_gone(void) { each_id(give_up); }

void inet_tcp_init(void) {
  static const struct net_family inet = { AF_INET, inet_create }, inet6 = { AF_INET6, inet_create };
  ports_init(&ports);
  for (u32 i = 0; i < ID_BUCKETS; i++) list_init(&ids[i]);
  vsock_on_data_stream = on_data_stream;
  net_register_family(&inet);
  net_register_family(&inet6);
}

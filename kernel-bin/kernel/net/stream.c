// SPDX-License-Identifier: Apache-2.0
//
// What both kinds of streams share: the receive queue, reading, waiting, poll; and the pairs inside the guest.
// The receive queue is a list of chunks: producers append at its end, the one receiver (rx_mutex) takes from its start.
// A receiver copies to the program without the lock: bytes between head and tail of a chunk do not move, and only the
// receiver frees chunks (a closing owner excludes it: no call on a file is under way when its last reference goes).

#include "net/stream.h"
#include <linux/eventpoll.h>

#define CHUNK_SMALL (512u - (u32)sizeof(struct chunk))
#define CHUNK_MIDDLE (2048u - (u32)sizeof(struct chunk))
#define CHUNK_BIG (4096u - (u32)sizeof(struct chunk))
#define COPY_SMALL 256u
#define PAIR_LIMIT (208u * 1024)

static u32 stream_count;

struct stream *stream_alloc(void) {
  struct stream *st = kmalloc(sizeof(*st), ALLOC_ZERO | ALLOC_NORECLAIM);
  if (!st) return NULL;
  ref_init(&st->refs);
  spin_init(&st->lock, RANK_CONN);
  mutex_init(&st->tx_mutex, RANK_OBJECT);
  mutex_init(&st->rx_mutex, RANK_OBJECT);
  list_init(&st->accept_link);
  list_init(&st->hash);
  list_init(&st->tx_wait);
  st->rx_limit = stream_rx_default();
  atomic_inc(&stream_count);
  return st;
}

void stream_put(struct stream *st) {
  if (!ref_put(&st->refs)) return;
  chunks_free(st->first);
  atomic_dec(&stream_count);
  kfree(st);
}

// All receive queues together may take an eighth of the memory at the larger limit; past that new ones get the smaller.
u32 stream_rx_default(void) {
  u64 room = vm_memory_bytes / 8 / STREAM_RX_BIG;
  return READ_ONCE(stream_count) < room ? STREAM_RX_BIG : STREAM_RX_SMALL;
}

// --- the receive queue

void chunks_free(struct chunk *c) {
  while (c) {
    struct chunk *next = c->next;
    kfree(c);
    c = next;
  }
}

static struct chunk *chunk_alloc(u32 n) {
  u32 cap = n <= CHUNK_SMALL ? CHUNK_SMALL : n <= CHUNK_MIDDLE ? CHUNK_MIDDLE : CHUNK_BIG;
  struct chunk *c = kmalloc(sizeof(*c) + cap, ALLOC_NORECLAIM);
  if (c) *c = (struct chunk){ .cap = cap };
  return c;
}

static void link_chunk(struct stream *st, struct chunk *c) {
  if (st->last) st->last->next = c;
  else st->first = c;
  st->last = c;
}

bool stream_append_locked(struct stream *st, u32 n, void (*fill)(void *arg, u8 *dst, u32 off, u32 len), void *arg) {
  for (u32 off = 0; off < n;) {
    struct chunk *c = st->last;
    if (!c || c->tail == c->cap) {
      c = chunk_alloc(n - off);
      if (!c) return false;
      link_chunk(st, c);
    }
    u32 k = MIN(n - off, c->cap - c->tail);
    fill(arg, c->data + c->tail, off, k);
    c->tail += k;
    st->rx_bytes += k;
    off += k;
  }
  return true;
}

void stream_drop_rx_locked(struct stream *st, struct chunk **freed) {
  *freed = st->first;
  st->first = st->last = NULL;
  st->rx_bytes = 0;
}

// --- events

void stream_wake_locked(struct stream *st, u32 events) {
  if (st->sock) waitq_wake(&st->sock->wait, 1, events);
}

void stream_fail_locked(struct stream *st, int err) {
  st->state = ST_DEAD;
  st->rx_eof = st->tx_dead = true;
  if (st->sock && err) WRITE_ONCE(st->sock->err, err);
  stream_wake_locked(st, EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLRDHUP);
}

void stream_attach(struct stream *st, struct socket *s) {
  u64 flags = spin_lock_irqsave(&st->lock);
  st->sock = s;
  spin_unlock_irqrestore(&st->lock, flags);
}

static u32 pair_space(struct stream *st) { // no lock: only this side's sender makes it smaller
  struct stream *p = READ_ONCE(st->peer);
  if (!p) return 0;
  u32 used = READ_ONCE(p->rx_bytes);
  return used < PAIR_LIMIT ? PAIR_LIMIT - used : 0;
}

static bool writable_locked(struct stream *st) {
  if (st->state != ST_OPEN) return false;
  if (st->paired) return pair_space(st) != 0;
  return !st->tx_nospace && vsock_credit_locked(st) != 0;
}

static bool can_send(struct stream *st) {
  u64 flags = spin_lock_irqsave(&st->lock);
  bool ok = st->tx_dead || st->tx_shut || st->state == ST_DEAD || writable_locked(st);
  if (!ok) st->tx_wanted = true; // whoever makes room sees it, or did so before this look
  spin_unlock_irqrestore(&st->lock, flags);
  return ok;
}

u32 stream_poll(struct stream *st) {
  u32 ev = 0;
  u64 flags = spin_lock_irqsave(&st->lock);
  if (st->rx_bytes || st->rx_eof || st->rx_shut) ev |= EPOLLIN | EPOLLRDNORM;
  if (st->rx_eof || st->rx_shut) ev |= EPOLLRDHUP;
  if (st->state == ST_DEAD || (st->rx_eof && st->tx_shut)) ev |= EPOLLHUP;
  if (st->tx_shut || st->tx_dead || writable_locked(st)) ev |= EPOLLOUT | EPOLLWRNORM;
  else st->tx_wanted = true;
  if (st->sock && READ_ONCE(st->sock->err)) ev |= EPOLLERR;
  spin_unlock_irqrestore(&st->lock, flags);
  return ev;
}

u32 stream_readable(struct stream *st) { return READ_ONCE(st->rx_bytes); }

// --- pairs

int stream_pair(struct stream *out[2]) {
  struct stream *a = stream_alloc(), *b = a ? stream_alloc() : NULL;
  if (!b) {
    if (a) stream_put(a);
    return -ENOMEM;
  }
  a->paired = b->paired = true;
  a->state = b->state = ST_OPEN;
  a->peer = b;
  b->peer = a;
  stream_get(a);
  stream_get(b);
  out[0] = a;
  out[1] = b;
  return 0;
}

// The other end, referenced; NULL: closed.
static struct stream *pair_peer(struct stream *st) {
  u64 flags = spin_lock_irqsave(&st->lock);
  struct stream *p = st->peer;
  if (p) stream_get(p);
  spin_unlock_irqrestore(&st->lock, flags);
  return p;
}

static void fill_from(void *arg, u8 *dst, u32 off, u32 len) { memcpy(dst, (const u8 *)arg + off, len); }

static long pair_send_some(struct stream *st, struct iter *it) {
  struct stream *p = pair_peer(st);
  if (!p) return -EPIPE;
  u8 small[COPY_SMALL];
  struct chunk *c = NULL;
  long r = -EAGAIN;
  u32 n = (u32)MIN((u64)pair_space(st), it->left);
  if (!n) goto out;
  if (n > sizeof(small)) {
    n = MIN(n, CHUNK_BIG);
    c = chunk_alloc(n);
    r = -ENOMEM;
    if (!c) goto out;
  }
  n = (u32)iter_from(it, c ? c->data : small, n);
  r = -EFAULT;
  if (!n) goto out;
  u64 flags = spin_lock_irqsave(&p->lock);
  if (p->state == ST_DEAD || p->rx_eof) { // closed, or another thread shut our side down
    r = -EPIPE;
  } else if (p->rx_shut) {
    r = n; // nobody will read it: as TCP, accepted and dropped
  } else if (c && !(p->last && p->last->cap - p->last->tail >= n)) {
    c->tail = n;
    link_chunk(p, c);
    c = NULL;
    p->rx_bytes += n;
    r = n;
  } else {
    r = stream_append_locked(p, n, fill_from, c ? c->data : small) ? (long)n : -ENOMEM;
  }
  if (r > 0) stream_wake_locked(p, EPOLLIN | EPOLLRDNORM);
  spin_unlock_irqrestore(&p->lock, flags);
out:
  kfree(c);
  stream_put(p);
  return r;
}

static void pair_consumed(struct stream *st) {
  struct stream *p = pair_peer(st);
  if (!p) return;
  u64 flags = spin_lock_irqsave(&p->lock);
  if (p->tx_wanted && READ_ONCE(st->rx_bytes) <= PAIR_LIMIT / 2) {
    p->tx_wanted = false;
    stream_wake_locked(p, EPOLLOUT | EPOLLWRNORM);
  }
  spin_unlock_irqrestore(&p->lock, flags);
  stream_put(p);
}

// Our half ends: the peer sees the end after what was sent, or (reset) an error.
static void pair_end(struct stream *st, bool closed, bool reset) {
  struct stream *p;
  u64 flags = spin_lock_irqsave(&st->lock);
  p = st->peer;
  if (closed) {
    st->peer = NULL;
    st->state = ST_DEAD;
  } else if (p) {
    stream_get(p);
  }
  spin_unlock_irqrestore(&st->lock, flags);
  if (!p) return;
  flags = spin_lock_irqsave(&p->lock);
  if (reset) {
    stream_fail_locked(p, p->state == ST_DEAD ? 0 : ECONNRESET);
  } else {
    p->rx_eof = true;
    if (closed) p->tx_dead = true;
    stream_wake_locked(p, EPOLLIN | EPOLLRDHUP | (p->tx_shut ? EPOLLHUP : 0u) | (closed ? EPOLLOUT : 0u));
  }
  spin_unlock_irqrestore(&p->lock, flags);
  stream_put(p); // closed: the reference that st->peer was
}

// --- sending and receiving

long stream_send(struct stream *st, struct iter *it, u32 flags, u64 deadline_ns) {
  long total = 0, r = 0;
  mutex_lock(&st->tx_mutex);
  while (it->left) {
    u64 f = spin_lock_irqsave(&st->lock);
    struct socket *s = st->sock;
    bool dead = st->tx_dead || st->tx_shut || st->state != ST_OPEN;
    spin_unlock_irqrestore(&st->lock, f);
    if (dead) {
      r = s ? socket_take_err(s) : 0;
      if (!r) r = -EPIPE;
      break;
    }
    r = st->paired ? pair_send_some(st, it) : vsock_send_some(st, it);
    if (r > 0) {
      total += r;
      continue;
    }
    if (r != -EAGAIN) break;
    if (!st->paired) vsock_kick();
    if (can_send(st)) continue;
    if ((flags & MSG_DONTWAIT) || !s) break;
    mutex_unlock(&st->tx_mutex);
    r = wait_event_timeout(&s->wait, can_send(st), deadline_ns);
    mutex_lock(&st->tx_mutex);
    if (r) break;
  }
  mutex_unlock(&st->tx_mutex);
  if (total && !st->paired) vsock_kick();
  if (total) return total;
  return r == -ETIMEDOUT ? -EAGAIN : r;
}

static bool can_recv(struct stream *st, u32 have) { // bytes that were peeked at
  return READ_ONCE(st->rx_bytes) > have || READ_ONCE(st->rx_eof) || READ_ONCE(st->rx_shut) || (st->sock && READ_ONCE(st->sock->err));
}

// Copies what is there, from `skip` on when peeking. rx_mutex held. Bytes; -EFAULT.
static long take(struct stream *st, struct iter *it, u32 flags, u64 skip, u64 want) {
  long total = 0;
  bool peek = flags & MSG_PEEK;
  u64 f = spin_lock_irqsave(&st->lock);
  struct chunk *c = st->first, *freed;
  while (c && want) {
    u32 at = c->head, n = c->tail - at;
    if (peek && skip) {
      u32 s = (u32)MIN(skip, (u64)n);
      skip -= s;
      at += s;
      n -= s;
    }
    n = (u32)MIN((u64)n, want);
    if (!n) { // empty, or skipped
      if (peek || c->next) {
        freed = NULL;
        if (!peek) {
          st->first = c->next;
          freed = c;
        }
        c = c->next;
        kfree(freed); // slab: any context
        continue;
      }
      break;
    }
    spin_unlock_irqrestore(&st->lock, f);
    u32 got = flags & MSG_TRUNC ? n : (u32)iter_to(it, c->data + at, n);
    f = spin_lock_irqsave(&st->lock);
    total += got;
    want -= got;
    if (!peek) {
      c->head += got;
      st->rx_bytes -= got;
      st->fwd_cnt += got;
      if (c->head == c->tail) {
        if (c->next) {
          st->first = c->next;
          kfree(c);
        } else if (c->cap > CHUNK_SMALL) {
          st->first = st->last = NULL;
          kfree(c);
        } else {
          c->head = c->tail = 0;
        }
      }
    }
    if (got < n) {
      if (!total) total = -EFAULT;
      break;
    }
    c = peek ? c->next : st->first;
    if (!peek && c && c->head == c->tail && !c->next) break;
  }
  spin_unlock_irqrestore(&st->lock, f);
  return total;
}

long stream_recv(struct stream *st, struct iter *it, u32 flags, u64 deadline_ns) {
  long total = 0, r = 0;
  u64 want = it->left;
  bool trunc = flags & MSG_TRUNC;
  if (!want) return 0;
  mutex_lock(&st->rx_mutex);
  while (want) {
    r = take(st, it, flags, flags & MSG_PEEK ? (u64)total : 0, want);
    if (r > 0) {
      total += r;
      want -= (u64)r;
      if (trunc) it->left -= (u64)r;
      if (!(flags & MSG_PEEK)) {
        if (st->paired) pair_consumed(st);
        else vsock_consumed(st);
      }
      if (!(flags & MSG_WAITALL)) break;
      continue;
    }
    if (r < 0) break;
    struct socket *s = READ_ONCE(st->sock);
    if (total && !(flags & MSG_WAITALL)) break;
    // Peeking with MSG_WAITALL waits for more than is there.
    u32 have = flags & MSG_PEEK ? (u32)total : 0;
    // Data first, then a pending error once, then the end.
    if (READ_ONCE(st->rx_bytes) > have) continue;
    if (s && READ_ONCE(s->err)) {
      if (total) break; // the next call's
      r = socket_take_err(s);
    }
    if (r || READ_ONCE(st->rx_eof) || READ_ONCE(st->rx_shut)) {
      if (!r && READ_ONCE(st->rx_bytes) > have) continue; // it came just before the end
      break;
    }
    r = -EAGAIN;
    if ((flags & MSG_DONTWAIT) || !s) break;
    mutex_unlock(&st->rx_mutex);
    r = wait_event_timeout(&s->wait, can_recv(st, have), deadline_ns);
    mutex_lock(&st->rx_mutex);
    if (r) break;
  }
  mutex_unlock(&st->rx_mutex);
  if (total) return total;
  return r == -ETIMEDOUT ? -EAGAIN : r;
}

void stream_shutdown(struct stream *st, bool rd, bool wr) {
  u64 flags = spin_lock_irqsave(&st->lock);
  bool fin = wr && !st->tx_shut && st->state == ST_OPEN;
  if (rd) st->rx_shut = true;
  if (wr) st->tx_shut = true;
  stream_wake_locked(st, EPOLLIN | EPOLLOUT | EPOLLRDHUP | (st->tx_shut && (st->rx_shut || st->rx_eof) ? EPOLLHUP : 0u));
  spin_unlock_irqrestore(&st->lock, flags);
  if (!fin) return;
  if (st->paired) pair_end(st, false, false);
  else vsock_shutdown(st);
}

void stream_close(struct stream *st, bool abort) {
  struct chunk *freed;
  u64 flags = spin_lock_irqsave(&st->lock);
  st->sock = NULL;
  st->on_event = NULL;
  bool unread = st->rx_bytes != 0;
  stream_drop_rx_locked(st, &freed);
  st->rx_shut = true;
  spin_unlock_irqrestore(&st->lock, flags);
  chunks_free(freed);
  if (st->paired) pair_end(st, true, abort || unread); // as TCP: what was not read resets the connection
  else vsock_close(st, abort || unread);
  stream_put(st);
}

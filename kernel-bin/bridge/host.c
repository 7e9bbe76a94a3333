// SPDX-License-Identifier: Apache-2.0
//
// TCP on the host: published ports and outbound connections. A connection is a `struct tcp`: a socket and a stream to
// the guest. Bytes go between the socket and the guest's memory by readv and sendmsg; only what the socket does not
// take at once is copied, and the stream's credit bounds that. Sockets are edge-triggered.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "bridge.h"

#define MAX_CONNECTING 1024
#define MAX_LISTENERS 4096
#define ACCEPTS_PER_TURN 64
#define CLOSE_PATIENCE_NS 60000000000ull // a closed stream whose client takes nothing for so long is dropped
#define HOST_ERRNO_MAX 133

struct published { struct published *next; struct source source; int fd; uint16_t guest_port, family; bool armed, starved; uint32_t turn; };
struct listener { struct listener *next; uint32_t id, backlog, outstanding; uint16_t port, family; }; // the guest's
struct tcp {
  struct source source;
  struct stream stream;
  int fd;
  bool connecting, hangup, guest_fin, closing, streaming;
  uint32_t id;            // listener or request
  uint16_t kind;
  struct bytes out;       // for the socket
  uint64_t progress_ns;   // while closing
  struct wire_addr remote;
  struct tcp *next, **pprev; // connecting, closing or graveyard list
};

static struct published *published;
static struct listener *listeners;
static unsigned listener_count, connecting_count;
static struct tcp *connecting, *closing, *graveyard;
bool guest_leaving;

// --- addresses

void addr_from_sockaddr(struct wire_addr *out, const struct sockaddr_storage *ss) {
  *out = (struct wire_addr){ 0 };
  if (ss->ss_family == AF_INET) {
    const struct sockaddr_in *a = (const void *)ss;
    out->family = 4;
    out->port = ntohs(a->sin_port);
    memcpy(out->ip, &a->sin_addr, 4);
  } else if (ss->ss_family == AF_INET6) {
    const struct sockaddr_in6 *a = (const void *)ss;
    out->port = ntohs(a->sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&a->sin6_addr)) {
      out->family = 4;
      memcpy(out->ip, &a->sin6_addr.s6_addr[12], 4);
    } else {
      out->family = 6;
      out->scope = a->sin6_scope_id;
      memcpy(out->ip, &a->sin6_addr, 16);
    }
  }
}

socklen_t addr_to_sockaddr(struct sockaddr_storage *ss, const struct wire_addr *a) {
  memset(ss, 0, sizeof(*ss));
  if (a->family == 4) {
    struct sockaddr_in *s = (void *)ss;
    s->sin_family = AF_INET;
    s->sin_port = htons(a->port);
    memcpy(&s->sin_addr, a->ip, 4);
    return sizeof(*s);
  }
  struct sockaddr_in6 *s = (void *)ss;
  s->sin6_family = AF_INET6;
  s->sin6_port = htons(a->port);
  s->sin6_scope_id = a->scope;
  memcpy(&s->sin6_addr, a->ip, 16);
  return sizeof(*s);
}

const char *addr_text(const struct wire_addr *a) {
  static char text[80];
  char ip[INET6_ADDRSTRLEN] = "?";
  inet_ntop(a->family == 4 ? AF_INET : AF_INET6, a->ip, ip, sizeof(ip));
  snprintf(text, sizeof(text), a->family == 4 ? "%s:%u" : "[%s]:%u", ip, a->port);
  return text;
}

// --- connections

static void list_put(struct tcp **head, struct tcp *t) {
  t->next = *head;
  t->pprev = head;
  if (*head) (*head)->pprev = &t->next;
  *head = t;
}

static void list_take(struct tcp *t) {
  if (!t->pprev) return;
  *t->pprev = t->next;
  if (t->next) t->next->pprev = t->pprev;
  t->pprev = NULL;
}

// The socket and the object go away; the object itself at the end of the turn, since events may still name it.
static void tcp_drop(struct tcp *t) {
  if (t->connecting) connecting_count--;
  t->connecting = false;
  list_take(t);
  if (t->fd >= 0) {
    // A stream that was not closed in order ends as a reset on the host's side too.
    if (t->streaming && !t->closing && !guest_leaving) setsockopt(t->fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 }, sizeof(struct linger));
    loop_remove(t->fd);
    close(t->fd);
  }
  t->fd = -1;
  bytes_free(&t->out);
  list_put(&graveyard, t);
}

void host_reap(void) {
  while (graveyard) {
    struct tcp *t = graveyard;
    list_take(t);
    free(t);
  }
}

static struct tcp *tcp_of(struct stream *s) { return container_of(s, struct tcp, stream); }

// Everything that the guest sent is with the kernel: pass its FIN or close on. May end the stream.
static void tcp_flushed(struct tcp *t) {
  if (t->closing) stream_end(&t->stream);
  else if (t->guest_fin) shutdown(t->fd, SHUT_WR);
}

static bool tcp_flush(struct tcp *t) {
  while (t->out.len) {
    ssize_t n = send(t->fd, t->out.data + t->out.head, t->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    bytes_take(&t->out, (size_t)n);
    stream_forwarded(&t->stream, (size_t)n);
    t->progress_ns = loop_now_ns();
  }
  tcp_flushed(t);
  return true;
}

static void tcp_opened(struct stream *s) {
  struct tcp *t = tcp_of(s);
  if (loop_change(t->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &t->source)) stream_end(s);
}

static bool tcp_data(struct stream *s, const struct iovec *iov, unsigned n, size_t len) {
  struct tcp *t = tcp_of(s);
  size_t done = 0;
  if (!t->out.len) {
    struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = n };
    ssize_t k = sendmsg(t->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (k < 0 && errno != EAGAIN && errno != EINTR) return false;
    if (k > 0) {
      done = (size_t)k;
      stream_forwarded(s, done);
    }
  }
  if (done == len) return true;
  struct iovec rest[CHAIN_IOVS];
  return bytes_put_iov(&t->out, rest, iov_slice(iov, n, done, len - done, rest, CHAIN_IOVS));
}

static void tcp_guest_fin(struct stream *s, bool both) {
  struct tcp *t = tcp_of(s);
  if (s->guest_shut_send) t->guest_fin = true;
  if (both && !t->closing) {
    t->closing = true;
    t->progress_ns = loop_now_ns();
    list_put(&closing, t);
  }
  if (!t->out.len) tcp_flushed(t);
}

static long tcp_fill(struct stream *s, const struct iovec *iov, unsigned n, size_t len) {
  struct tcp *t = tcp_of(s);
  if (t->closing) {
    s->source_ready = false;
    return 0;
  }
  ssize_t k = n == 1 ? recv(t->fd, iov[0].iov_base, iov[0].iov_len, MSG_DONTWAIT) : readv(t->fd, iov, (int)n);
  if (k > 0) {
    // A short read means empty, unless the end comes after it without another event.
    if ((size_t)k < len && !t->hangup) s->source_ready = false;
    return k;
  }
  if (k < 0 && errno == EINTR) return 0;
  s->source_ready = false;
  if (k == 0) return -1;
  return errno == EAGAIN ? 0 : -2;
}

static struct listener *listener_find(uint32_t id) {
  struct listener *l = listeners;
  while (l && l->id != id) l = l->next;
  return l;
}

static void rearm(uint16_t guest_port) {
  for (struct published *p = published; p; p = p->next)
    if (p->guest_port == guest_port && !p->armed) p->armed = loop_change(p->fd, EPOLLIN, &p->source) == 0;
}

static void tcp_gone(struct stream *s) {
  struct tcp *t = tcp_of(s);
  // Not counted by ACCEPTED, since the guest never learnt which listener it was for.
  struct listener *l = t->kind == WIRE_KIND_ACCEPTED && s->prefix_due ? listener_find(t->id) : NULL;
  if (l && l->outstanding) l->outstanding--;
  if (l) rearm(l->port);
  tcp_drop(t);
}

static const struct stream_ops tcp_ops = { .opened = tcp_opened, .data = tcp_data, .guest_fin = tcp_guest_fin, .fill = tcp_fill, .gone = tcp_gone };

static bool tcp_stream(struct tcp *t, const struct wire_addr *peer, const struct wire_addr *local) {
  struct wire_prefix p = { WIRE_PREFIX_MAGIC, t->kind, 0, t->id, 0, *peer, *local };
  setsockopt(t->fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)); // the guest decides what goes together
  t->streaming = stream_open(&t->stream, &tcp_ops, t, &p);
  return t->streaming;
}

static void tcp_connected(struct tcp *t) {
  int err = 0;
  socklen_t len = sizeof(err);
  struct sockaddr_storage ss;
  struct wire_addr local = { 0 };
  getsockopt(t->fd, SOL_SOCKET, SO_ERROR, &err, &len);
  len = sizeof(ss);
  if (!err && getsockname(t->fd, (void *)&ss, &len) == 0) addr_from_sockaddr(&local, &ss);
  connecting_count--;
  t->connecting = false;
  list_take(t);
  if (!err) loop_change(t->fd, 0, &t->source); // quiet until the guest has the stream
  if (!err && !tcp_stream(t, &t->remote, &local)) err = ENOBUFS;
  if (!err) return;
  control_connect_failed(t->id, err > HOST_ERRNO_MAX ? EIO : err);
  tcp_drop(t);
}

static void tcp_ready(struct source *s, uint32_t events) {
  struct tcp *t = container_of(s, struct tcp, source);
  if (t->fd < 0) return;
  if (t->connecting) {
    if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) tcp_connected(t);
    return;
  }
  if (t->stream.state != STREAM_OPEN) {
    // Only errors come before the guest has answered; they are read when it has.
    loop_change(t->fd, EPOLLET, s);
    return;
  }
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) t->hangup = true;
  if ((events & EPOLLOUT) && t->out.len && !tcp_flush(t)) return stream_end(&t->stream);
  if (t->fd >= 0 && (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))) stream_ready(&t->stream);
  if (t->fd >= 0 && t->closing && (events & (EPOLLERR | EPOLLHUP))) stream_end(&t->stream); // the rest can go nowhere
}

static struct tcp *tcp_new(int fd, uint32_t id, uint16_t kind, uint32_t events) {
  struct tcp *t = calloc(1, sizeof(*t));
  if (t) {
    t->fd = fd;
    t->id = id;
    t->kind = kind;
    t->source.ready = tcp_ready;
    if (loop_add(fd, events, &t->source) == 0) return t;
  }
  free(t);
  close(fd);
  return NULL;
}

bool host_flushed(void) { return !closing; }

void host_tick(void) {
  uint64_t now = loop_now_ns();
  for (struct tcp *t = closing, *next; t; t = next) {
    next = t->next;
    if (now - t->progress_ns > CLOSE_PATIENCE_NS) stream_end(&t->stream);
  }
  for (struct published *p = published; p; p = p->next) {
    if (p->starved && !p->armed) rearm(p->guest_port);
    p->starved = false;
  }
}

// --- outbound

bool host_connect(uint32_t id, const struct wire_addr *remote, const struct wire_addr *local) {
  (void)local; // a wish: the host chooses
  struct wire_addr real;
  struct sockaddr_storage ss;
  int err = allow_check(remote, false, &real), fd = -1;
  struct tcp *t = NULL;
  if (!err && connecting_count >= MAX_CONNECTING) err = ENOBUFS;
  if (!err) {
    socklen_t len = addr_to_sockaddr(&ss, &real);
    fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) err = errno == EAFNOSUPPORT ? ENETUNREACH : ENOBUFS;
    else if (connect(fd, (void *)&ss, len) && errno != EINPROGRESS) err = errno;
    else t = tcp_new(fd, id, WIRE_KIND_CONNECTED, EPOLLOUT);
    if (!err && !t) err = ENOBUFS;
    else if (err && fd >= 0) close(fd);
  }
  if (err) {
    control_connect_failed(id, err > HOST_ERRNO_MAX ? EIO : err);
    return true;
  }
  t->connecting = true;
  t->remote = *remote;
  connecting_count++;
  list_put(&connecting, t);
  return true;
}

void host_cancel(uint32_t id) {
  struct tcp *t = connecting;
  while (t && t->id != id) t = t->next;
  if (t) tcp_drop(t);
}

// --- published ports

// The next of the guest's listeners on that port that has room. One of the client's own address family is preferred, as
// on Linux: a server that listens on both would otherwise see some IPv4 clients as mapped addresses.
static struct listener *listener_pick(struct published *p) {
  struct listener *pick = NULL, *first = NULL;
  bool same = false;
  for (struct listener *l = listeners; l && !same; l = l->next) same = l->port == p->guest_port && l->family == p->family;
  for (struct listener *l = listeners; l; l = l->next) {
    if (l->port != p->guest_port || (same && l->family != p->family) || l->outstanding >= l->backlog) continue;
    if (!first) first = l;
    if (!pick && l->id > p->turn) pick = l;
  }
  if (!pick) pick = first;
  if (pick) p->turn = pick->id;
  return pick;
}

static void published_ready(struct source *s, uint32_t events) {
  (void)events;
  struct published *p = container_of(s, struct published, source);
  for (unsigned k = 0; k < ACCEPTS_PER_TURN; k++) {
    struct listener *l = listener_pick(p);
    if (!l) {
      p->armed = false; // clients wait in the kernel's backlog until the guest has room
      loop_change(p->fd, 0, s);
      return;
    }
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    int fd = accept4(p->fd, (void *)&ss, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
      note("accept: %s", strerror(errno));
      p->armed = false; // no descriptors: without this the loop would spin until there are. host_tick tries again
      p->starved = true;
      loop_change(p->fd, 0, s);
      return;
    }
    struct wire_addr peer, local;
    addr_from_sockaddr(&peer, &ss);
    len = sizeof(ss);
    getsockname(fd, (void *)&ss, &len);
    addr_from_sockaddr(&local, &ss);
    local.port = p->guest_port; // what the program bound
    struct tcp *t = tcp_new(fd, l->id, WIRE_KIND_ACCEPTED, 0);
    if (!t) continue;
    if (!tcp_stream(t, &peer, &local)) {
      tcp_drop(t);
      continue;
    }
    l->outstanding++;
  }
}

void host_listen(uint32_t id, const struct wire_addr *a, uint32_t backlog) {
  static const uint8_t any[16], loop6[16] = { [15] = 1 }, loop4[16] = { 127, 0, 0, 1 }, eth0[16] = { 10, 0, 2, 15 };
  bool takes = !memcmp(a->ip, any, 16) || !memcmp(a->ip, a->family == 4 ? loop4 : loop6, 16) || (a->family == 4 && !memcmp(a->ip, eth0, 16));
  struct listener *l = listener_find(id);
  if (!l && (!takes || listener_count >= MAX_LISTENERS)) return;
  if (!l) {
    struct listener **end = &listeners; // in the order of their ids, as the guest makes them
    while (*end) end = &(*end)->next;
    l = must_alloc(sizeof(*l));
    *end = l;
    listener_count++;
  }
  l->id = id;
  l->port = a->port;
  l->family = a->family;
  l->backlog = backlog;
  note("the guest listens on %s", addr_text(a));
  rearm(l->port);
}

void host_unlisten(uint32_t id) {
  for (struct listener **at = &listeners; *at; at = &(*at)->next) {
    struct listener *l = *at;
    if (l->id != id) continue;
    *at = l->next;
    free(l);
    listener_count--;
    return;
  }
}

void host_accepted(uint32_t id, uint32_t count) {
  struct listener *l = listener_find(id);
  if (!l) return; // unlistened meanwhile
  l->outstanding -= count < l->outstanding ? count : l->outstanding;
  rearm(l->port);
}

void host_forget_guest(void) {
  while (listeners) host_unlisten(listeners->id);
  while (connecting) tcp_drop(connecting);
}

// ADDR:HOSTPORT:GUESTPORT[/tcp|/udp]; ADDR may be in brackets.
void host_publish(const char *spec) {
  char host[64];
  unsigned host_port, guest_port;
  char proto[4] = "tcp";
  int used = 0;
  bool bracket = spec[0] == '[';
  if (!(bracket ? sscanf(spec, "[%63[0-9a-fA-F:.]]:%5u:%5u%n", host, &host_port, &guest_port, &used) == 3
                : sscanf(spec, "%63[0-9.]:%5u:%5u%n", host, &host_port, &guest_port, &used) == 3) ||
      (spec[used] && (sscanf(spec + used, "/%3s%n", proto, &(int){ 0 }) != 1 || strlen(spec + used) != 4)) ||
      (strcmp(proto, "tcp") && strcmp(proto, "udp")) || host_port > 65535 || guest_port > 65535 || !guest_port)
    die("usage", "--publish ADDR:HOSTPORT:GUESTPORT/tcp|udp, got %s", spec);
  struct sockaddr_storage ss = { .ss_family = bracket ? AF_INET6 : AF_INET };
  struct wire_addr a = { .family = bracket ? 6 : 4, .port = (uint16_t)host_port };
  if (inet_pton(ss.ss_family, host, a.ip) != 1) die("usage", "--publish: %s is not an address", host);
  socklen_t len = addr_to_sockaddr(&ss, &a);
  bool ok;
  if (proto[0] == 'u') {
    ok = udp_publish(&ss, len, (uint16_t)guest_port, &ss);
  } else {
    struct published *p = must_alloc(sizeof(*p));
    p->fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(p->fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
    if (bracket) setsockopt(p->fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 1 }, sizeof(int));
    ok = p->fd >= 0 && !bind(p->fd, (void *)&ss, len) && !listen(p->fd, 4096) && !getsockname(p->fd, (void *)&ss, &len);
    p->guest_port = (uint16_t)guest_port;
    p->family = bracket ? 6 : 4;
    p->source.ready = published_ready;
    p->next = published;
    published = p;
    if (ok) ok = loop_add(p->fd, 0, &p->source) == 0;
  }
  if (!ok) die(errno == EADDRINUSE ? "port-in-use" : errno == EACCES ? "permission" : "publish", "%s%s%s:%u%s%s", bracket ? "[" : "", host,
               bracket ? "]" : "", host_port, errno == EADDRINUSE ? "" : ": ", errno == EADDRINUSE ? "" : strerror(errno));
  addr_from_sockaddr(&a, &ss);
  say("published %s %u", addr_text(&a), guest_port);
}

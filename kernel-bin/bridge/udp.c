// SPDX-License-Identifier: Apache-2.0
//
// UDP on the host. A guest socket gets a host socket when it first sends somewhere that is allowed, or the published
// one when it bound a published port. Nothing is queued here but in the datagram stream; what does not fit is lost.
#include <errno.h>
#include <netinet/in.h>
#include <linux/errqueue.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "bridge.h"

#define MAX_SOCKETS 1024
#define PEERS 256 // addresses that a published port may answer, the latest ones
#define RECEIVES_PER_TURN 32
#define ALIASES 4 // of a socket, the latest ones

// An address that the guest knows by another (10.0.2.2, 10.0.2.3): what comes from there must come from whom it asked.
struct alias { struct wire_addr said, real; };
struct udp { struct source source; bool used, attached; uint32_t id; int fd; int family; uint16_t port; struct udp_pub *pub; struct alias alias[ALIASES]; unsigned next_alias; };
struct udp_pub { struct udp_pub *next; int fd, family; uint16_t guest_port; struct udp *user; struct wire_addr peer[PEERS]; unsigned next_peer; };
static struct udp sockets[MAX_SOCKETS];
static struct udp_pub *pubs;
static uint8_t buf[65536];

static struct udp *find(uint32_t id) {
  for (unsigned i = 0; i < MAX_SOCKETS; i++)
    if (sockets[i].used && sockets[i].id == id) return &sockets[i];
  return NULL;
}

// Replies of a published port go only to those who asked.
static bool peer_known(const struct udp_pub *p, const struct wire_addr *a) {
  for (unsigned i = 0; i < PEERS; i++)
    if (!memcmp(&p->peer[i], a, sizeof(*a))) return true;
  return false;
}

static void alias_remember(struct udp *u, const struct wire_addr *said, const struct wire_addr *real) {
  if (said->family != 4 || !memcmp(said, real, sizeof(*said))) return;
  for (unsigned i = 0; i < ALIASES; i++)
    if (!memcmp(&u->alias[i].said, said, sizeof(*said)) && !memcmp(&u->alias[i].real, real, sizeof(*real))) return;
  u->alias[u->next_alias++ % ALIASES] = (struct alias){ *said, *real };
}

// Stands behind host_alias: the guest's loopback is its own, what it sends to 127.0.0.1 never comes here.
static struct wire_addr host_loopback(int family) {
  return family == AF_INET6 ? (struct wire_addr){ .family = 6, .ip = { [15] = 1 } } : (struct wire_addr){ .family = 4, .ip = { 127, 0, 0, 1 } };
}
static bool same_ip(const struct wire_addr *a, const struct wire_addr *b) { return a->family == b->family && !memcmp(a->ip, b->ip, 16); }

// Whom the guest asked, or can answer.
static void alias_restore(const struct udp *u, struct wire_addr *remote) {
  for (unsigned i = 0; i < ALIASES; i++) {
    if (!u->alias[i].said.family || memcmp(&u->alias[i].real, remote, sizeof(*remote))) continue;
    *remote = u->alias[i].said;
    return;
  }
  struct wire_addr own = host_loopback(remote->family == 6 ? AF_INET6 : AF_INET);
  if (!same_ip(remote, &own)) return;
  own = host_alias;
  own.port = remote->port;
  *remote = own;
}

static void report_errors(struct udp *u) {
  char control[512];
  struct sockaddr_storage ss;
  struct iovec iov = { buf, sizeof(buf) };
  struct msghdr m = { .msg_name = &ss, .msg_namelen = sizeof(ss), .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
  while (recvmsg(u->fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0) {
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
      if (!((c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) || (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_RECVERR))) continue;
      struct sock_extended_err e;
      memcpy(&e, CMSG_DATA(c), sizeof(e));
      struct wire_udp_error w = { { sizeof(w), WIRE_UDP_ERROR, 0, u->id }, { 0 }, e.ee_errno };
      addr_from_sockaddr(&w.remote, &ss);
      alias_restore(u, &w.remote);
      dgram_to_guest(&w, sizeof(w), NULL, 0);
    }
    m.msg_namelen = sizeof(ss);
    m.msg_controllen = sizeof(control);
  }
}

static void udp_ready(struct source *s, uint32_t events) {
  struct udp *u = container_of(s, struct udp, source);
  if (!u->used || u->fd < 0) return;
  if (events & EPOLLERR) report_errors(u);
  for (unsigned k = 0; k < RECEIVES_PER_TURN; k++) {
    struct sockaddr_storage ss;
    socklen_t len = sizeof(ss);
    ssize_t n = recvfrom(u->fd, buf, sizeof(buf), MSG_DONTWAIT, (void *)&ss, &len);
    if (n < 0) return;
    if (n > (ssize_t)WIRE_UDP_MAX) continue;
    struct wire_udp_recv m = { { (uint32_t)(sizeof(m) + (size_t)n), WIRE_UDP_RECV, 0, u->id }, { 0 }, { 0 } };
    addr_from_sockaddr(&m.remote, &ss);
    if (u->pub && !peer_known(u->pub, &m.remote)) u->pub->peer[u->pub->next_peer++ % PEERS] = m.remote;
    alias_restore(u, &m.remote);
    m.local = (struct wire_addr){ .family = m.remote.family, .port = u->port };
    dgram_to_guest(&m, sizeof(m), buf, (size_t)n);
  }
}

static void recverr(int fd, int family) {
  setsockopt(fd, SOL_IP, IP_RECVERR, &(int){ 1 }, sizeof(int));
  if (family == AF_INET6) setsockopt(fd, SOL_IPV6, IPV6_RECVERR, &(int){ 1 }, sizeof(int));
}

bool udp_publish(const struct sockaddr_storage *ss, socklen_t len, uint16_t guest_port, struct sockaddr_storage *bound) {
  struct udp_pub *p = must_alloc(sizeof(*p));
  p->fd = socket(ss->ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (ss->ss_family == AF_INET6) setsockopt(p->fd, IPPROTO_IPV6, IPV6_V6ONLY, &(int){ 1 }, sizeof(int)); // as for TCP: one family, or answers fail
  if (p->fd < 0 || bind(p->fd, (const void *)ss, len)) return false;
  recverr(p->fd, ss->ss_family);
  p->family = ss->ss_family;
  p->guest_port = guest_port;
  p->next = pubs;
  pubs = p;
  return getsockname(p->fd, (void *)bound, &len) == 0;
}

bool udp_open(uint32_t id, const struct wire_addr *local) {
  struct udp *u = find(id);
  if (u) return false;
  for (u = sockets; u < sockets + MAX_SOCKETS && u->used; u++) {}
  if (u == sockets + MAX_SOCKETS) return true; // its datagrams will be lost
  *u = (struct udp){ .source = { udp_ready }, .used = true, .id = id, .fd = -1, .port = local->port };
  for (struct udp_pub *p = pubs; p && local->port; p = p->next) {
    if (p->guest_port != local->port || p->user) continue;
    p->user = u;
    u->pub = p;
    u->fd = p->fd;
    u->family = p->family;
    loop_add(u->fd, EPOLLIN, &u->source);
    return true;
  }
  return true;
}

void udp_send(uint32_t id, const struct wire_addr *remote, const void *data, size_t len) {
  struct udp *u = find(id);
  if (!u) return;
  struct wire_addr real = *remote;
  struct sockaddr_storage ss;
  int err = 0;
  if (u->pub && same_ip(remote, &host_alias)) {
    real = host_loopback(u->pub->family);
    real.port = remote->port;
  }
  if (!u->pub || !peer_known(u->pub, &real)) {
    err = allow_check(remote, true, &real);
    if (!err) alias_remember(u, remote, &real);
  }
  if (!err) {
    socklen_t alen = addr_to_sockaddr(&ss, &real);
    if (u->fd < 0) {
      u->fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
      u->family = ss.ss_family;
      if (u->fd >= 0) {
        recverr(u->fd, u->family);
        loop_add(u->fd, EPOLLIN, &u->source);
      }
    }
    if (u->fd < 0 || u->family != ss.ss_family) err = ENETUNREACH; // one host socket, of the first destination's family
    else if (sendto(u->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL, (void *)&ss, alen) < 0 && errno != EAGAIN) err = errno;
  }
  if (!err) return;
  struct wire_udp_error w = { { sizeof(w), WIRE_UDP_ERROR, 0, id }, *remote, (uint32_t)err };
  dgram_to_guest(&w, sizeof(w), NULL, 0);
}

static void drop(struct udp *u) {
  if (u->fd >= 0) loop_remove(u->fd);
  if (u->pub) u->pub->user = NULL;
  else if (u->fd >= 0) close(u->fd);
  u->fd = -1;
  u->used = false;
}

void udp_close(uint32_t id) {
  struct udp *u = find(id);
  if (u) drop(u);
}

void udp_forget_guest(void) {
  for (unsigned i = 0; i < MAX_SOCKETS; i++)
    if (sockets[i].used) drop(&sockets[i]);
}

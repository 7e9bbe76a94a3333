// SPDX-License-Identifier: Apache-2.0
// TCP inside the machine: addresses, options, blocking and not, half-close, resets, epoll; the same output as on Linux.
#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int listener(int family, uint16_t *port) {
  struct sockaddr_in6 a = { .sin6_family = (sa_family_t)family };
  socklen_t len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(a);
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0 && bind(fd, (void *)&a, len) == 0 && listen(fd, 64) == 0);
  CHECK(getsockname(fd, (void *)&a, &len) == 0);
  *port = ntohs(a.sin6_port);
  return fd;
}
static int dial(uint16_t port) {
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(connect(fd, (void *)&a, sizeof(a)) == 0);
  return fd;
}
static void pair(int p[2]) {
  uint16_t port;
  int l = listener(AF_INET, &port);
  p[0] = dial(port);
  p[1] = accept(l, NULL, NULL);
  CHECK(p[1] >= 0);
  close(l);
}
static int events(int fd) {
  struct pollfd p = { fd, POLLIN | POLLOUT | POLLRDHUP, 0 };
  return poll(&p, 1, 0) < 0 ? -1 : p.revents;
}

static void addresses(void) {
  uint16_t port;
  int l = listener(AF_INET, &port), c = dial(port), a;
  struct sockaddr_in me, peer, seen;
  socklen_t len = sizeof(me);
  a = accept(l, (void *)&seen, &len);
  CHECK(a >= 0 && len == sizeof(seen) && seen.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
  len = sizeof(me);
  CHECK(getsockname(c, (void *)&me, &len) == 0 && me.sin_port == seen.sin_port && me.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
  CHECK(getpeername(c, (void *)&peer, &len) == 0 && ntohs(peer.sin_port) == port);
  CHECK(getpeername(l, (void *)&peer, &len) < 0 && errno == ENOTCONN);
  close(a); close(c); close(l);
  // A dual-stack listener shows IPv4 clients as mapped addresses.
  struct sockaddr_in6 from;
  l = listener(AF_INET6, &port);
  c = dial(port);
  len = sizeof(from);
  a = accept4(l, (void *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
  CHECK(a >= 0 && from.sin6_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&from.sin6_addr));
  CHECK((fcntl(a, F_GETFL) & O_NONBLOCK) && (fcntl(a, F_GETFD) & FD_CLOEXEC));
  close(a); close(c); close(l);
  struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
  l = socket(AF_INET6, SOCK_STREAM, 0);
  CHECK(bind(l, (void *)&six, sizeof(six)) == 0 && listen(l, 1) == 0);
  len = sizeof(six);
  getsockname(l, (void *)&six, &len);
  c = socket(AF_INET6, SOCK_STREAM, 0);
  CHECK(connect(c, (void *)&six, sizeof(six)) == 0);
  close(c); close(l);
}

static void binding(void) {
  uint16_t port, other;
  int l = listener(AF_INET, &port), one = 1, zero = 0;
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  int s = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(bind(s, (void *)&a, sizeof(a)) < 0 && errno == EADDRINUSE);
  CHECK(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 && bind(s, (void *)&a, sizeof(a)) < 0 && errno == EADDRINUSE);
  close(s);
  close(l);
  s = socket(AF_INET, SOCK_STREAM, 0);
  a.sin_addr.s_addr = htonl(0xc0000201);
  CHECK(bind(s, (void *)&a, sizeof(a)) < 0 && errno == EADDRNOTAVAIL);
  CHECK(bind(s, (void *)&a, 3) < 0 && errno == EINVAL);
  a.sin_family = AF_UNIX;
  CHECK(bind(s, (void *)&a, sizeof(a)) < 0 && errno == EAFNOSUPPORT);
  close(s);
  // Two sockets, REUSEPORT.
  int p[2];
  for (int i = 0; i < 2; i++) {
    p[i] = socket(AF_INET, SOCK_STREAM, 0);
    a = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = i ? htons(port) : 0 };
    socklen_t len = sizeof(a);
    CHECK(setsockopt(p[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)) == 0 && bind(p[i], (void *)&a, sizeof(a)) == 0 && listen(p[i], 5) == 0);
    getsockname(p[i], (void *)&a, &len);
    port = ntohs(a.sin_port);
  }
  close(p[0]); close(p[1]);
  // v6 wildcard and v4 wildcard on one port: only with V6ONLY.
  l = socket(AF_INET6, SOCK_STREAM, 0);
  struct sockaddr_in6 any = { .sin6_family = AF_INET6 };
  CHECK(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) == 0 && bind(l, (void *)&any, sizeof(any)) == 0 && listen(l, 1) == 0);
  socklen_t len = sizeof(any);
  getsockname(l, (void *)&any, &len);
  s = socket(AF_INET, SOCK_STREAM, 0);
  a = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = any.sin6_port };
  CHECK(bind(s, (void *)&a, sizeof(a)) == 0);
  close(s); close(l);
  l = listener(AF_INET6, &other);
  s = socket(AF_INET, SOCK_STREAM, 0);
  a.sin_port = htons(other);
  CHECK(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero)) == 0 || errno == EINVAL);
  CHECK(bind(s, (void *)&a, sizeof(a)) < 0 && errno == EADDRINUSE);
  close(s); close(l);
}

static void refused(void) {
  uint16_t port;
  close(listener(AF_INET, &port));
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  int s = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(connect(s, (void *)&a, sizeof(a)) < 0 && errno == ECONNREFUSED);
  close(s);
  s = socket(AF_INET, SOCK_STREAM, 0);
  char b;
  CHECK(recv(s, &b, 1, 0) < 0 && errno == ENOTCONN);
  CHECK(send(s, &b, 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
  CHECK(shutdown(s, SHUT_RDWR) < 0 && errno == ENOTCONN);
  CHECK(accept(s, NULL, NULL) < 0 && errno == EINVAL);
  CHECK((events(s) & (POLLOUT | POLLHUP)) == (POLLOUT | POLLHUP));
  close(s);
}

static void half_close(void) {
  int p[2];
  char b[64];
  pair(p);
  CHECK(send(p[0], "request", 7, 0) == 7 && shutdown(p[0], SHUT_WR) == 0);
  CHECK(send(p[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
  CHECK(recv(p[1], b, sizeof(b), 0) == 7 && recv(p[1], b, sizeof(b), 0) == 0);
  CHECK((events(p[1]) & (POLLIN | POLLRDHUP | POLLOUT | POLLHUP)) == (POLLIN | POLLRDHUP | POLLOUT));
  CHECK(send(p[1], "answer", 6, 0) == 6 && recv(p[0], b, sizeof(b), 0) == 6 && !memcmp(b, "answer", 6));
  close(p[1]);
  CHECK(recv(p[0], b, sizeof(b), 0) == 0);
  CHECK(events(p[0]) & POLLHUP);
  close(p[0]);
}

static void resets(void) {
  int p[2];
  char b[8];
  pair(p);
  CHECK(send(p[0], "unread", 6, 0) == 6);
  close(p[1]);
  CHECK(recv(p[0], b, sizeof(b), 0) < 0 && errno == ECONNRESET);
  CHECK(recv(p[0], b, sizeof(b), 0) == 0);
  CHECK(send(p[0], b, 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
  close(p[0]);
  pair(p);
  struct linger lg = { 1, 0 };
  CHECK(setsockopt(p[1], SOL_SOCKET, SO_LINGER, &lg, sizeof(lg)) == 0);
  close(p[1]);
  int err = 0;
  socklen_t len = sizeof(err);
  CHECK(events(p[0]) & POLLERR);
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err == ECONNRESET);
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err == 0);
  close(p[0]);
  // SIGPIPE.
  pid_t pid = fork();
  if (!pid) {
    pair(p);
    shutdown(p[0], SHUT_WR);
    if (write(p[0], "x", 1)) {}
    _exit(0);
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
}

static void peeking(void) {
  int p[2], n;
  char b[64];
  pair(p);
  CHECK(send(p[0], "abc", 3, 0) == 3 && send(p[0], "defg", 4, 0) == 4);
  usleep(1000);
  CHECK(recv(p[1], b, 64, MSG_PEEK) == 7 && recv(p[1], b, 2, MSG_PEEK) == 2 && !memcmp(b, "ab", 2));
  CHECK(ioctl(p[1], FIONREAD, &n) == 0 && n == 7);
  struct iovec v[2] = { { b, 4 }, { b + 10, 20 } };
  CHECK(readv(p[1], v, 2) == 7 && !memcmp(b, "abcd", 4) && !memcmp(b + 10, "efg", 3));
  CHECK(recv(p[1], b, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
  struct timeval tv = { 0, 30000 };
  CHECK(setsockopt(p[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) == 0);
  CHECK(recv(p[1], b, 1, 0) < 0 && errno == EAGAIN);
  close(p[0]); close(p[1]);
}

static void *late_sender(void *arg) {
  int fd = *(int *)arg;
  for (int i = 0; i < 5; i++) {
    usleep(5000);
    CHECK(send(fd, "0123456789", 10, 0) == 10);
  }
  return NULL;
}
static void waitall(void) {
  int p[2];
  char b[64];
  pthread_t t;
  pair(p);
  pthread_create(&t, NULL, late_sender, &p[0]);
  CHECK(recv(p[1], b, 50, MSG_WAITALL) == 50);
  pthread_join(t, NULL);
  pthread_create(&t, NULL, late_sender, &p[0]); // a peek waits too, beyond what is there
  CHECK(recv(p[1], b, 50, MSG_PEEK | MSG_WAITALL) == 50 && !memcmp(b + 40, "0123456789", 10));
  pthread_join(t, NULL);
  CHECK(recv(p[1], b, 64, 0) == 50 && send(p[0], "abc", 3, 0) == 3 && shutdown(p[0], SHUT_WR) == 0);
  CHECK(recv(p[1], b, 50, MSG_PEEK | MSG_WAITALL) == 3 && recv(p[1], b, 50, MSG_WAITALL) == 3);
  close(p[0]); close(p[1]);
}

static void full(void) {
  int p[2];
  static char b[65536], r[65536];
  long sent = 0, got = 0, n;
  pair(p);
  fcntl(p[0], F_SETFL, O_NONBLOCK);
  while ((n = send(p[0], b, sizeof(b), 0)) > 0) sent += n;
  CHECK(n < 0 && errno == EAGAIN && sent >= 65536);
  CHECK(!(events(p[0]) & POLLOUT));
  while (got < sent && (n = recv(p[1], r, sizeof(r), 0)) > 0) got += n;
  CHECK(got == sent);
  CHECK(events(p[0]) & POLLOUT);
  close(p[0]); close(p[1]);
}

#define BULK (8 << 20)
static void *bulk_sender(void *arg) {
  static unsigned char b[100000];
  int fd = *(int *)arg;
  for (long at = 0; at < BULK;) {
    long n = 1 + at * 7919 % (long)sizeof(b);
    if (n > BULK - at) n = BULK - at;
    for (long i = 0; i < n; i++) b[i] = (unsigned char)((at + i) * 31 >> 3);
    long w = write(fd, b, (size_t)n);
    if (w <= 0) break;
    at += w;
  }
  shutdown(fd, SHUT_WR);
  return NULL;
}
static void bulk(void) {
  int p[2];
  static unsigned char b[70000];
  pthread_t t;
  long at = 0, bad = 0, n;
  pair(p);
  pthread_create(&t, NULL, bulk_sender, &p[0]);
  while ((n = read(p[1], b, 1 + (size_t)(at * 31 % (long)sizeof(b)))) > 0) {
    for (long i = 0; i < n; i++) bad += b[i] != (unsigned char)((at + i) * 31 >> 3);
    at += n;
  }
  pthread_join(t, NULL);
  CHECK(at == BULK && bad == 0);
  close(p[0]); close(p[1]);
}

static void nonblocking_connect(void) {
  uint16_t port;
  int l = listener(AF_INET, &port), err = -1;
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  int r = connect(s, (void *)&a, sizeof(a));
  CHECK(r == 0 || errno == EINPROGRESS); // both are allowed
  struct pollfd p = { s, POLLOUT, 0 };
  CHECK(poll(&p, 1, 1000) == 1 && (p.revents & POLLOUT));
  socklen_t len = sizeof(err);
  CHECK(getsockopt(s, SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err == 0);
  connect(s, (void *)&a, sizeof(a));
  CHECK(connect(s, (void *)&a, sizeof(a)) < 0 && errno == EISCONN);
  CHECK(accept(l, NULL, NULL) >= 0);
  fcntl(l, F_SETFL, O_NONBLOCK);
  CHECK(accept(l, NULL, NULL) < 0 && errno == EAGAIN);
  close(s); close(l);
}

static void *echo_client(void *arg) {
  uint16_t port = *(uint16_t *)arg;
  char b[64];
  for (int i = 0; i < 20; i++) {
    int fd = dial(port);
    for (int k = 0; k < 20; k++) {
      CHECK(send(fd, "ping-pong", 9, 0) == 9);
      CHECK(recv(fd, b, 9, MSG_WAITALL) == 9 && !memcmp(b, "ping-pong", 9));
    }
    close(fd);
  }
  return NULL;
}
static void epoll_server(void) {
  enum { CLIENTS = 4 };
  uint16_t port;
  int l = listener(AF_INET, &port), ep = epoll_create1(0), closed = 0;
  fcntl(l, F_SETFL, O_NONBLOCK);
  struct epoll_event e = { EPOLLIN, { .fd = l } }, ev[16];
  CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, l, &e) == 0);
  pthread_t t[CLIENTS];
  for (int i = 0; i < CLIENTS; i++) pthread_create(&t[i], NULL, echo_client, &port);
  while (closed < CLIENTS * 20) {
    int n = epoll_wait(ep, ev, 16, 5000);
    CHECK(n > 0);
    if (n <= 0) break;
    for (int i = 0; i < n; i++) {
      int fd = ev[i].data.fd;
      if (fd == l) {
        while ((fd = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          e = (struct epoll_event){ EPOLLIN | EPOLLET | EPOLLRDHUP, { .fd = fd } };
          CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) == 0);
        }
        continue;
      }
      char b[64];
      ssize_t k;
      while ((k = recv(fd, b, sizeof(b), 0)) > 0) CHECK(send(fd, b, (size_t)k, 0) == k);
      if (k == 0) {
        close(fd);
        closed++;
      }
    }
  }
  for (int i = 0; i < CLIENTS; i++) pthread_join(t[i], NULL);
  CHECK(closed == CLIENTS * 20);
  close(l); close(ep);
}

static void options(void) {
  int p[2], v = 1;
  socklen_t len = sizeof(v);
  pair(p);
  static const struct { int level, name, set, get; } word[] = {
    { IPPROTO_TCP, TCP_NODELAY, 1, 1 }, { IPPROTO_TCP, TCP_CORK, 1, 1 }, { SOL_SOCKET, SO_KEEPALIVE, 1, 1 }, { IPPROTO_TCP, TCP_KEEPIDLE, 33, 33 },
    { IPPROTO_TCP, TCP_KEEPINTVL, 7, 7 }, { IPPROTO_TCP, TCP_KEEPCNT, 3, 3 }, { IPPROTO_TCP, TCP_USER_TIMEOUT, 1234, 1234 },
    { SOL_SOCKET, SO_OOBINLINE, 1, 1 }, { IPPROTO_IP, IP_TOS, 16, 16 }, { IPPROTO_IP, IP_RECVERR, 1, 1 }, { SOL_SOCKET, SO_PRIORITY, 3, 3 } };
  for (unsigned i = 0; i < sizeof(word) / sizeof(word[0]); i++) {
    v = word[i].set;
    CHECK(setsockopt(p[0], word[i].level, word[i].name, &v, sizeof(v)) == 0);
    v = -1;
    len = sizeof(v);
    CHECK(getsockopt(p[0], word[i].level, word[i].name, &v, &len) == 0 && len == sizeof(v) && v == word[i].get);
  }
  v = 0;
  CHECK(setsockopt(p[0], IPPROTO_TCP, TCP_KEEPIDLE, &v, sizeof(v)) < 0 && errno == EINVAL);
  CHECK(setsockopt(p[0], IPPROTO_TCP, TCP_NODELAY, &v, 1) < 0 && errno == EINVAL);
  CHECK(setsockopt(p[0], IPPROTO_TCP, 200, &v, sizeof(v)) < 0 && errno == ENOPROTOOPT);
  CHECK(setsockopt(p[0], IPPROTO_IPV6, IPV6_V6ONLY, &v, sizeof(v)) < 0 && errno == ENOPROTOOPT);
  v = -1;
  len = sizeof(v);
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_TYPE, &v, &len) == 0 && v == SOCK_STREAM);
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_ACCEPTCONN, &v, &len) == 0 && v == 0);
  CHECK(getsockopt(p[0], SOL_SOCKET, SO_PROTOCOL, &v, &len) == 0 && v == IPPROTO_TCP);
  struct tcp_info info;
  len = sizeof(info);
  CHECK(getsockopt(p[0], IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_state == TCP_ESTABLISHED);
  struct linger lg = { 1, 5 }, got;
  len = sizeof(got);
  CHECK(setsockopt(p[0], SOL_SOCKET, SO_LINGER, &lg, sizeof(lg)) == 0 && getsockopt(p[0], SOL_SOCKET, SO_LINGER, &got, &len) == 0 && got.l_linger == 5);
  v = 100000;
  CHECK(setsockopt(p[0], SOL_SOCKET, SO_RCVBUF, &v, sizeof(v)) == 0 && getsockopt(p[0], SOL_SOCKET, SO_RCVBUF, &v, &len) == 0 && v == 200000);
  close(p[0]); close(p[1]);
  uint16_t port;
  int l = listener(AF_INET, &port);
  len = sizeof(v);
  CHECK(getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, &v, &len) == 0 && v == 1);
  close(l);
}

static void *blocked_accept(void *arg) {
  int fd = accept(*(int *)arg, NULL, NULL);
  if (fd >= 0) close(fd);
  return (void *)(long)(fd >= 0 ? 0 : errno);
}
static void accept_and_shutdown(void) {
  uint16_t port;
  int l = listener(AF_INET, &port);
  pthread_t t;
  void *r;
  pthread_create(&t, NULL, blocked_accept, &l);
  usleep(20000);
  close(dial(port)); // wakes it with a connection
  pthread_join(t, &r);
  CHECK(r == NULL);
  pthread_create(&t, NULL, blocked_accept, &l);
  usleep(20000);
  CHECK(shutdown(l, SHUT_RDWR) == 0);
  pthread_join(t, &r);
  CHECK((long)r == EINVAL);
  close(l);
}

static void inherited(void) {
  int p[2], status;
  char b[8];
  pair(p);
  pid_t pid = fork();
  if (!pid) {
    close(p[0]);
    if (write(p[1], "child", 5) != 5) _exit(1);
    _exit(0);
  }
  close(p[1]);
  CHECK(recv(p[0], b, 5, MSG_WAITALL) == 5 && !memcmp(b, "child", 5));
  CHECK(recv(p[0], b, 1, 0) == 0); // the last copy went with the child
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  close(p[0]);
}

// Two threads that give one new socket its name, or make it listen, at the same moment: one of them wins.
static _Atomic int turn, turns_done;
static int raced = -1;
static int name_or_listen(int i, int who) {
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)(5200 + who)) };
  return i % 2 ? bind(raced, (void *)&a, sizeof(a)) : listen(raced, 5);
}
static void *racer(void *p) {
  for (int i = 1; i <= 400; i++) {
    while (turn < i) sched_yield();
    name_or_listen(i, 1);
    turns_done = i;
  }
  return p;
}
static void setup_races(void) {
  pthread_t t;
  struct sockaddr_in a = { .sin_family = AF_INET };
  CHECK(pthread_create(&t, NULL, racer, NULL) == 0);
  for (int i = 1; i <= 400; i++) {
    raced = socket(AF_INET, SOCK_STREAM, 0);
    turn = i;
    name_or_listen(i, 0);
    while (turns_done < i) sched_yield();
    close(raced);
  }
  pthread_join(t, NULL);
  for (int port = 5200; port < 5202; port++) { // and nothing of it stays
    int s = socket(AF_INET, SOCK_STREAM, 0);
    a.sin_port = htons((uint16_t)port);
    CHECK(bind(s, (void *)&a, sizeof(a)) == 0);
    close(s);
  }
}

static void no_descriptor(void) { // a connection that finds no room in the table waits
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
  socklen_t len = sizeof(a);
  struct rlimit old, few;
  char b;
  int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(bind(l, (void *)&a, len) == 0 && getsockname(l, (void *)&a, &len) == 0 && listen(l, 5) == 0);
  CHECK(connect(c, (void *)&a, len) == 0 && getrlimit(RLIMIT_NOFILE, &old) == 0);
  few = old;
  few.rlim_cur = (rlim_t)c + 1;
  CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
  CHECK(accept(l, NULL, NULL) < 0 && errno == EMFILE);
  CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
  CHECK(recv(c, &b, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
  CHECK(fcntl(l, F_SETFL, O_NONBLOCK) == 0);
  int s = accept(l, NULL, NULL);
  CHECK(s >= 0);
  close(s); close(c); close(l);
}

int main(void) {
  RUN(addresses);
  RUN(binding);
  RUN(refused);
  RUN(half_close);
  RUN(resets);
  RUN(peeking);
  RUN(waitall);
  RUN(full);
  RUN(bulk);
  RUN(nonblocking_connect);
  RUN(epoll_server);
  RUN(options);
  RUN(accept_and_shutdown);
  RUN(inherited);
  RUN(no_descriptor);
  RUN(setup_races);
  FINISH();
}

// SPDX-License-Identifier: Apache-2.0
// UDP inside the machine; the same output as on Linux.
#include "check.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static int bound(int family, uint16_t *port) {
  struct sockaddr_in6 a = { .sin6_family = (sa_family_t)family };
  socklen_t len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(a);
  if (family == AF_INET) ((struct sockaddr_in *)&a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(family, SOCK_DGRAM, 0);
  CHECK(fd >= 0 && bind(fd, (void *)&a, len) == 0 && getsockname(fd, (void *)&a, &len) == 0);
  *port = ntohs(a.sin6_port);
  return fd;
}
static struct sockaddr_in to(uint16_t port) {
  return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static void send_and_receive(void) {
  uint16_t pa, pb;
  int a = bound(AF_INET, &pa), b = bound(AF_INET, &pb), n;
  struct sockaddr_in dst = to(pa), src;
  socklen_t len = sizeof(src);
  char buf[32];
  CHECK(sendto(b, "first", 5, 0, (void *)&dst, sizeof(dst)) == 5);
  CHECK(sendto(b, "", 0, 0, (void *)&dst, sizeof(dst)) == 0);
  CHECK(sendto(b, "second", 6, 0, (void *)&dst, sizeof(dst)) == 6);
  CHECK(ioctl(a, FIONREAD, &n) == 0 && n == 5);
  CHECK(recvfrom(a, buf, sizeof(buf), MSG_PEEK, (void *)&src, &len) == 5 && ntohs(src.sin_port) == pb);
  CHECK(recvfrom(a, buf, sizeof(buf), 0, (void *)&src, &len) == 5 && !memcmp(buf, "first", 5));
  CHECK(recv(a, buf, sizeof(buf), 0) == 0);
  CHECK(recv(a, buf, 3, MSG_TRUNC) == 6 && !memcmp(buf, "sec", 3));
  CHECK(recv(a, buf, 3, MSG_DONTWAIT) < 0 && errno == EAGAIN);
  struct iovec iov = { buf, 3 };
  struct msghdr m = { .msg_name = &src, .msg_namelen = sizeof(src), .msg_iov = &iov, .msg_iovlen = 1 };
  CHECK(sendto(b, "long one", 8, 0, (void *)&dst, sizeof(dst)) == 8 && recvmsg(a, &m, 0) == 3 && (m.msg_flags & MSG_TRUNC));
  close(a); close(b);
}

static void connected(void) {
  uint16_t pa, pb, pc;
  int a = bound(AF_INET, &pa), b = bound(AF_INET, &pb), c = bound(AF_INET, &pc);
  struct sockaddr_in dst = to(pb), peer;
  socklen_t len = sizeof(peer);
  char buf[8];
  CHECK(connect(a, (void *)&dst, sizeof(dst)) == 0 && getpeername(a, (void *)&peer, &len) == 0 && ntohs(peer.sin_port) == pb);
  CHECK(send(a, "x", 1, 0) == 1 && recv(b, buf, 8, 0) == 1);
  dst = to(pa);
  CHECK(sendto(c, "stranger", 8, 0, (void *)&dst, sizeof(dst)) == 8);
  CHECK(sendto(b, "friend", 6, 0, (void *)&dst, sizeof(dst)) == 6);
  CHECK(recv(a, buf, 8, 0) == 6); // only from its peer
  close(b);
  CHECK(send(a, "x", 1, 0) == 1);
  usleep(1000);
  CHECK(send(a, "x", 1, 0) < 0 && errno == ECONNREFUSED);
  struct sockaddr off = { .sa_family = AF_UNSPEC };
  CHECK(connect(a, &off, sizeof(off)) == 0 && send(a, "x", 1, 0) < 0 && errno == EDESTADDRREQ);
  CHECK(getpeername(a, (void *)&peer, &len) < 0 && errno == ENOTCONN);
  close(a); close(c);
}

static void limits(void) {
  uint16_t pa, pb;
  int a = bound(AF_INET, &pa), b = bound(AF_INET, &pb);
  static char big[65508], in[65508];
  struct sockaddr_in dst = to(pa);
  for (unsigned i = 0; i < sizeof(big); i++) big[i] = (char)(i * 7);
  CHECK(sendto(b, big, 65508, 0, (void *)&dst, sizeof(dst)) < 0 && errno == EMSGSIZE);
  CHECK(sendto(b, big, 65507, 0, (void *)&dst, sizeof(dst)) == 65507);
  CHECK(recv(a, in, sizeof(in), 0) == 65507 && !memcmp(in, big, 65507));
  struct timeval tv = { 0, 20000 };
  CHECK(setsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) == 0 && recv(a, in, 1, 0) < 0 && errno == EAGAIN);
  struct pollfd p = { a, POLLIN | POLLOUT, 0 };
  CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLOUT);
  int s = socket(AF_INET, SOCK_DGRAM, 0);
  CHECK(bind(s, (void *)&dst, sizeof(dst)) < 0 && errno == EADDRINUSE);
  CHECK(listen(s, 1) < 0 && errno == EOPNOTSUPP);
  CHECK(accept(s, NULL, NULL) < 0 && errno == EOPNOTSUPP);
  close(a); close(b); close(s);
}

static void dual_stack(void) {
  uint16_t port, pb;
  int a = bound(AF_INET6, &port), b = bound(AF_INET, &pb);
  struct sockaddr_in dst = to(port);
  struct sockaddr_in6 src;
  socklen_t len = sizeof(src);
  char buf[8];
  CHECK(sendto(b, "four", 4, 0, (void *)&dst, sizeof(dst)) == 4);
  CHECK(recvfrom(a, buf, 8, 0, (void *)&src, &len) == 4 && IN6_IS_ADDR_V4MAPPED(&src.sin6_addr) && ntohs(src.sin6_port) == pb);
  CHECK(sendto(a, "back", 4, 0, (void *)&src, sizeof(src)) == 4 && recv(b, buf, 8, 0) == 4);
  close(a); close(b);
}

// What shutdown() left has no sender: nothing is written where its address would go.
static void no_name(void) {
  uint16_t port;
  int a = bound(AF_INET, &port), n = 0;
  struct sockaddr_in self = to(port);
  unsigned char name[128], buf[8];
  socklen_t len = sizeof(name);
  struct iovec iov = { buf, sizeof(buf) };
  struct msghdr m = { .msg_name = name, .msg_namelen = sizeof(name), .msg_iov = &iov, .msg_iovlen = 1 };
  memset(name, 0xee, sizeof(name));
  CHECK(connect(a, (void *)&self, sizeof(self)) == 0 && shutdown(a, SHUT_RD) == 0);
  CHECK(recvfrom(a, buf, sizeof(buf), 0, (void *)name, &len) == 0 && len == 0);
  CHECK(recvmsg(a, &m, 0) == 0 && m.msg_namelen == 0);
  for (size_t i = 0; i < sizeof(name); i++) n += name[i] != 0xee;
  CHECK(n == 0);
  close(a);
}

// One thread that peeks takes nothing from another's sight.
static int shared, stop;
static void *peeker(void *p) {
  char c;
  while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) (void)!recv(shared, &c, 1, MSG_PEEK | MSG_DONTWAIT);
  return p;
}
static void peeking(void) {
  uint16_t port;
  char c;
  int missed = 0;
  pthread_t t;
  shared = bound(AF_INET, &port);
  struct sockaddr_in self = to(port);
  CHECK(pthread_create(&t, NULL, peeker, NULL) == 0);
  for (int i = 0; i < 3000; i++) {
    CHECK(sendto(shared, "x", 1, 0, (void *)&self, sizeof(self)) == 1);
    for (int k = 0; recv(shared, &c, 1, MSG_DONTWAIT) != 1 && k < 1000; k++) missed++;
  }
  __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
  pthread_join(t, NULL);
  CHECK(missed == 0);
  close(shared);
}

int main(void) {
  RUN(send_and_receive);
  RUN(connected);
  RUN(limits);
  RUN(dual_stack);
  RUN(no_name);
  RUN(peeking);
  FINISH();
}

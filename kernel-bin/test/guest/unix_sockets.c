// SPDX-License-Identifier: Apache-2.0
// AF_UNIX: pairs, names, connections, datagrams, descriptors and credentials, ends, options; then threads.
#include "check.h"
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void *volatile bad_pointer = (void *)8; // the compiler must not know
static socklen_t name(struct sockaddr_un *a, const char *s) { // "@x": abstract
  memset(a, 0, sizeof *a);
  a->sun_family = AF_UNIX;
  size_t n = strlen(s);
  memcpy(a->sun_path, s, n);
  if (*s == '@') a->sun_path[0] = 0;
  return (socklen_t)(2 + n + (*s != '@'));
}
static long send_fds(int s, const void *buf, size_t n, const int *fds, int count) {
  char control[CMSG_SPACE(sizeof(int) * 10)] = { 0 };
  struct iovec v = { (void *)buf, n };
  struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count) };
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
  memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)count);
  return sendmsg(s, &m, 0);
}
static long recv_fds(int s, void *buf, size_t n, int *fds, int *count, int *flags, int how) {
  char control[CMSG_SPACE(sizeof(int) * 10) + CMSG_SPACE(sizeof(struct ucred))];
  struct iovec v = { buf, n };
  struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
  int room = *count;
  if (room >= 0) m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)room);
  long r = recvmsg(s, &m, how);
  *count = 0;
  *flags = m.msg_flags;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); r >= 0 && c; c = CMSG_NXTHDR(&m, c))
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
      *count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
      memcpy(fds, CMSG_DATA(c), sizeof(int) * (size_t)*count);
    }
  return r;
}

static void pairs(void) {
  int s[2], n;
  char buf[100];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s) == 0 && fcntl(s[0], F_GETFD) == FD_CLOEXEC);
  CHECK(write(s[0], "hello", 5) == 5 && ioctl(s[1], FIONREAD, &n) == 0 && n == 5 && recv(s[1], buf, 3, MSG_PEEK) == 3 && read(s[1], buf, 100) == 5);
  CHECK(recv(s[1], buf, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN && send(s[0], bad_pointer, 1, 0) == -1 && errno == EFAULT);
  CHECK(send(s[0], "ab", 2, 0) == 2 && send(s[0], "cd", 2, 0) == 2 && recv(s[1], buf, 4, MSG_WAITALL) == 4 && !memcmp(buf, "abcd", 4));
  struct timeval tv = { 0, 30000 };
  CHECK(setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv) == 0 && read(s[1], buf, 1) == -1 && errno == EAGAIN);
  CHECK(shutdown(s[0], SHUT_WR) == 0 && read(s[1], buf, 1) == 0 && write(s[1], "back", 4) == 4 && read(s[0], buf, 10) == 4);
  signal(SIGPIPE, SIG_IGN);
  CHECK(write(s[0], "x", 1) == -1 && errno == EPIPE && close(s[1]) == 0 && read(s[0], buf, 1) == 0 && send(s[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
  close(s[0]);
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && write(s[0], "unread", 6) == 6 && close(s[1]) == 0 && read(s[0], buf, 1) == -1 && errno == ECONNRESET);
  close(s[0]);
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) == 0 && write(s[0], "one", 3) == 3 && write(s[0], "three", 5) == 5);
  CHECK(read(s[1], buf, 100) == 3 && recv(s[1], buf, 2, MSG_TRUNC) == 5 && close(s[0]) == 0 && read(s[1], buf, 1) == 0);
  close(s[1]);
  CHECK(socketpair(AF_INET, SOCK_STREAM, 0, s) == -1 && errno == EOPNOTSUPP && socketpair(AF_UNIX, SOCK_STREAM, 99, s) == -1 && errno == EPROTONOSUPPORT);
  CHECK(socket(AF_UNIX, 99, 0) == -1 && errno == EINVAL && socket(99, SOCK_STREAM, 0) == -1 && errno == EAFNOSUPPORT);
  CHECK(recv(0x7000, buf, 1, 0) == -1 && errno == EBADF);
  int p[2];
  CHECK(pipe(p) == 0 && recv(p[0], buf, 1, 0) == -1 && errno == ENOTSOCK);
  close(p[0]), close(p[1]);
}

static void connections(void) {
  struct sockaddr_un a, got;
  socklen_t len, an;
  char dir[] = "/tmp/unixXXXXXX", buf[20];
  CHECK(mkdtemp(dir) && chdir(dir) == 0);
  for (int abstract = 0; abstract < 2; abstract++) {
    an = name(&a, abstract ? "@test-listener" : "sock");
    int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), on;
    CHECK(connect(c, (void *)&a, an) == -1 && errno == (abstract ? ECONNREFUSED : ENOENT));
    CHECK(listen(l, 5) == -1 && errno == EINVAL && bind(l, (void *)&a, an) == 0 && bind(c, (void *)&a, an) == -1 && errno == EADDRINUSE);
    CHECK(connect(c, (void *)&a, an) == -1 && errno == ECONNREFUSED && accept(l, NULL, NULL) == -1 && errno == EINVAL);
    CHECK(listen(l, 5) == 0 && connect(c, (void *)&a, an) == 0 && connect(c, (void *)&a, an) == -1 && errno == EISCONN);
    len = sizeof on;
    CHECK(getsockopt(l, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on == 1);
    CHECK(write(c, "early", 5) == 5);
    len = sizeof got;
    int s = accept4(l, (void *)&got, &len, SOCK_CLOEXEC);
    CHECK(s >= 0 && len == 2 && got.sun_family == AF_UNIX && fcntl(s, F_GETFD) == FD_CLOEXEC && fcntl(s, F_GETFL) == O_RDWR && read(s, buf, 20) == 5);
    len = sizeof got;
    CHECK(getsockname(s, (void *)&got, &len) == 0 && len == an && !memcmp(&got, &a, an));
    len = sizeof got;
    CHECK(getpeername(c, (void *)&got, &len) == 0 && len == an && !memcmp(&got, &a, an));
    len = 3;
    CHECK(getpeername(c, (void *)&got, &len) == 0 && len == an);
    struct ucred u;
    len = sizeof u;
    CHECK(getsockopt(s, SOL_SOCKET, SO_PEERCRED, &u, &len) == 0 && u.pid == getpid() && u.uid == getuid() && u.gid == getgid());
    int type = 0;
    len = sizeof type;
    CHECK(getsockopt(c, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM && getsockopt(c, SOL_SOCKET, SO_ERROR, &type, &len) == 0 && type == 0);
    CHECK(getsockopt(c, SOL_SOCKET, 9999, &type, &len) == -1 && errno == ENOPROTOOPT);
    close(s);
    CHECK(read(c, buf, 1) == 0 && close(c) == 0);
    c = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(connect(c, (void *)&a, an) == 0 && close(l) == 0 && read(c, buf, 1) == -1 && errno == ECONNRESET);
    close(c);
  }
  struct stat st;
  CHECK(stat("sock", &st) == 0 && S_ISSOCK(st.st_mode) && open("sock", O_RDWR) == -1 && errno == ENXIO);
  CHECK(unlink("sock") == 0 && chdir("/") == 0 && rmdir(dir) == 0);
}

static void datagrams(void) {
  struct sockaddr_un a, b, got;
  socklen_t an = name(&a, "@dgram-a"), bn = name(&b, "@dgram-b"), len = sizeof got;
  int s = socket(AF_UNIX, SOCK_DGRAM, 0), t = socket(AF_UNIX, SOCK_DGRAM, 0), u = socket(AF_UNIX, SOCK_DGRAM, 0);
  char buf[100];
  CHECK(bind(s, (void *)&a, an) == 0 && bind(t, (void *)&b, bn) == 0 && sendto(t, "to a", 4, 0, (void *)&a, an) == 4);
  CHECK(recvfrom(s, buf, 100, 0, (void *)&got, &len) == 4 && len == bn && !memcmp(&got, &b, bn));
  CHECK(send(u, "x", 1, 0) == -1 && errno == ENOTCONN && connect(u, (void *)&a, an) == 0 && send(u, "", 0, 0) == 0 && send(u, "abc", 3, 0) == 3);
  CHECK(recv(s, buf, 100, 0) == 0 && recv(s, buf, 1, MSG_TRUNC) == 3);
  len = 0;
  CHECK(send(u, "u", 1, 0) == 1 && (len = sizeof got) && recvfrom(s, buf, 100, 0, (void *)&got, &len) == 1 && len == 0); // unbound: no name
  struct iovec v[2] = { { buf, 2 }, { buf + 50, 10 } };
  struct mmsghdr mm[3] = { { .msg_hdr = { .msg_iov = v, .msg_iovlen = 2 } }, { .msg_hdr = { .msg_iov = v, .msg_iovlen = 1 } } };
  CHECK(sendmmsg(u, mm, 2, 0) == 2 && mm[0].msg_len == 12 && mm[1].msg_len == 2);
  CHECK(recvmmsg(s, mm, 3, MSG_DONTWAIT, NULL) == 2 && mm[0].msg_len == 12 && mm[1].msg_len == 2);
  static char huge[300000];
  CHECK(send(u, huge, sizeof huge, 0) == -1 && errno == EMSGSIZE);
  int sent = 0;
  while (send(u, "fill", 4, MSG_DONTWAIT) == 4) sent++;
  struct pollfd p = { u, POLLOUT, 0 };
  CHECK(errno == EAGAIN && sent >= 10 && poll(&p, 1, 0) == 0 && recv(s, buf, 100, 0) == 4);
  while (recv(s, buf, 100, MSG_DONTWAIT) == 4) {}
  CHECK(poll(&p, 1, 1000) == 1 && p.revents == POLLOUT);
  close(s);
  CHECK(send(u, "x", 1, 0) == -1 && errno == ECONNREFUSED && connect(u, (void *)&a, an) == -1 && errno == ECONNREFUSED);
  struct sockaddr un = { .sa_family = AF_UNSPEC };
  CHECK(connect(t, (void *)&b, bn) == 0 && connect(t, &un, sizeof un) == 0 && send(t, "x", 1, 0) == -1 && errno == ENOTCONN);
  CHECK(bind(u, (void *)&a, 2) == 0 && (len = sizeof got) && getsockname(u, (void *)&got, &len) == 0 && len == 8 && got.sun_path[0] == 0); // autobind
  close(t), close(u);
}

static void rights(void) {
  int s[2], p[2], got[10], n = -1, flags;
  char buf[50];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && pipe(p) == 0);
  CHECK(send_fds(s[0], "fd", 2, p, 2) == 2 && recv_fds(s[1], buf, 50, got, &n, &flags, MSG_CMSG_CLOEXEC) == 2 && n == 2 && !(flags & MSG_CTRUNC));
  CHECK(fcntl(got[0], F_GETFD) == FD_CLOEXEC && write(got[1], "via", 3) == 3 && read(p[0], buf, 10) == 3);
  close(got[0]), close(got[1]);
  n = 1;
  CHECK(send_fds(s[0], "fd", 2, p, 2) == 2 && recv_fds(s[1], buf, 50, got, &n, &flags, 0) == 2 && n >= 1 && ((flags & MSG_CTRUNC) || n == 2)); // padding may make room
  for (int i = 0; i < n; i++) close(got[i]);
  n = -1;
  CHECK(send(s[0], "plain", 5, 0) == 5 && send_fds(s[0], "with", 4, p, 1) == 4 && send(s[0], "after", 5, 0) == 5);
  long first = recv_fds(s[1], buf, 50, got, &n, &flags, 0);
  CHECK((first == 9 && n == 1) || (first == 5 && n == 0)); // never past the message that carried it
  if (n) close(got[0]);
  while (recv(s[1], buf, 50, MSG_DONTWAIT) > 0) {}
  CHECK(send_fds(s[0], "x", 1, (int[]){ 777 }, 1) == -1 && errno == EBADF);
  // A descriptor in the queue keeps its file; when the queue dies, so does it.
  CHECK(send_fds(s[0], "x", 1, &p[1], 1) == 1 && close(p[1]) == 0);
  struct pollfd pf = { p[0], POLLIN, 0 };
  CHECK(poll(&pf, 1, 0) == 0 && close(s[1]) == 0 && poll(&pf, 1, 5000) == 1 && pf.revents == POLLHUP);
  close(p[0]), close(s[0]);
  // A socket sent over itself must not keep a pipe alive for ever.
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0 && pipe(p) == 0 && send_fds(s[0], "x", 1, (int[]){ s[0], s[1], p[1] }, 3) == 1);
  close(p[1]), close(s[0]), close(s[1]);
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
  close(s[0]), close(s[1]); // a close after which a collection may run
  pf = (struct pollfd){ p[0], POLLIN, 0 };
  CHECK(poll(&pf, 1, 5000) == 1 && pf.revents == POLLHUP);
  close(p[0]);
}

static void credentials(void) {
  int s[2], on = 1;
  char buf[20], control[CMSG_SPACE(sizeof(struct ucred))];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, s) == 0 && setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
  pid_t pid = fork();
  if (!pid) _exit(write(s[0], "hi", 2) != 2);
  struct iovec v = { buf, 20 };
  struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
  CHECK(recvmsg(s[1], &m, 0) == 2);
  struct cmsghdr *c = CMSG_FIRSTHDR(&m);
  struct ucred u;
  CHECK(c && c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof u));
  if (c) memcpy(&u, CMSG_DATA(c), sizeof u);
  CHECK(u.pid == pid && u.uid == getuid() && u.gid == getgid());
  waitpid(pid, NULL, 0);
  close(s[0]), close(s[1]);
}

// Clients connect, pass a pipe end, and read what the server wrote into it.
enum { CLIENTS = 4, TIMES = 100 };
static struct sockaddr_un srv;
static socklen_t srv_len;
static void *client(void *arg) {
  for (int i = 0; i < TIMES; i++) {
    int c = socket(AF_UNIX, SOCK_STREAM, 0), p[2], v = -1;
    if (connect(c, (void *)&srv, srv_len) || pipe(p) || send_fds(c, &i, sizeof i, &p[1], 1) != sizeof i) { __atomic_fetch_add(&check_failed, 1, __ATOMIC_SEQ_CST); break; }
    close(p[1]);
    if (read(p[0], &v, sizeof v) != sizeof v || v != i * 2 || read(p[0], &v, 1) != 0) __atomic_fetch_add(&check_failed, 1, __ATOMIC_SEQ_CST);
    close(p[0]), close(c);
  }
  return NULL;
}
static void passing_stress(void) {
  pthread_t t[CLIENTS];
  int l = socket(AF_UNIX, SOCK_STREAM, 0);
  srv_len = name(&srv, "@passing");
  CHECK(bind(l, (void *)&srv, srv_len) == 0 && listen(l, 3) == 0);
  for (int i = 0; i < CLIENTS; i++) pthread_create(&t[i], NULL, client, NULL);
  for (int i = 0; i < CLIENTS * TIMES; i++) {
    int c = accept(l, NULL, NULL), v, fd[10], n = -1, flags;
    if (c < 0 || recv_fds(c, &v, sizeof v, fd, &n, &flags, 0) != sizeof v || n != 1) { CHECK(!"receive"); break; }
    v *= 2;
    CHECK(write(fd[0], &v, sizeof v) == sizeof v);
    close(fd[0]), close(c);
  }
  for (int i = 0; i < CLIENTS; i++) pthread_join(t[i], NULL);
  close(l);
}

static int bulk[2];
static void *bulk_writer(void *arg) {
  static char buf[100000];
  for (int i = 0; i < 100000; i++) buf[i] = (char)(i % 253);
  for (int i = 0; i < 30; i++) if (write(bulk[0], buf, sizeof buf) != sizeof buf) check_failed++;
  shutdown(bulk[0], SHUT_WR);
  return NULL;
}
static void bulk_stream(void) {
  pthread_t t;
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, bulk) == 0);
  pthread_create(&t, NULL, bulk_writer, NULL);
  static char buf[33333];
  long n, total = 0, bad = 0;
  while ((n = read(bulk[1], buf, sizeof buf)) > 0)
    for (long i = 0; i < n; i++, total++) bad += buf[i] != (char)(total % 100000 % 253);
  pthread_join(t, NULL);
  CHECK(total == 3000000 && !bad);
  close(bulk[0]), close(bulk[1]);
}

static void interfaces(void) { // through NETLINK_ROUTE and ioctls
  struct ifaddrs *list, *i;
  int lo = 0;
  CHECK(getifaddrs(&list) == 0);
  for (i = list; i; i = i->ifa_next)
    if (!strcmp(i->ifa_name, "lo") && i->ifa_addr && i->ifa_addr->sa_family == AF_INET)
      lo += ((struct sockaddr_in *)i->ifa_addr)->sin_addr.s_addr == htonl(INADDR_LOOPBACK) && (i->ifa_flags & IFF_LOOPBACK);
  freeifaddrs(list);
  CHECK(lo == 1 && if_nametoindex("lo") == 1);
  struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_ADDRCONFIG, .ai_socktype = SOCK_STREAM }, *ai;
  CHECK(getaddrinfo("127.0.0.1", "80", &hints, &ai) == 0 && ai->ai_family == AF_INET);
  freeaddrinfo(ai);
  // Between the attributes of an answer there are zeroes.
  struct { struct nlmsghdr h; struct ifinfomsg i; } ask = { { sizeof ask, RTM_GETLINK, NLM_F_REQUEST, 1, 0 }, { .ifi_index = 1 } };
  char answer[8192] __attribute__((aligned(8)));
  int nl = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), dirty = 0;
  CHECK(send(nl, &ask, sizeof ask, 0) == sizeof ask && recv(nl, answer, sizeof answer, 0) > (long)sizeof ask);
  struct nlmsghdr *h = (void *)answer;
  int left = (int)IFLA_PAYLOAD(h);
  for (struct rtattr *a = IFLA_RTA(NLMSG_DATA(h)); RTA_OK(a, left); a = RTA_NEXT(a, left))
    for (unsigned k = a->rta_len; k < RTA_ALIGN(a->rta_len); k++) dirty += ((char *)a)[k] != 0;
  CHECK(dirty == 0);
  close(nl);
}

int main(void) {
  RUN(pairs);
  RUN(connections);
  RUN(datagrams);
  RUN(rights);
  RUN(credentials);
  RUN(passing_stress);
  RUN(bulk_stream);
  RUN(interfaces);
  FINISH();
}

// SPDX-License-Identifier: Apache-2.0
//
// Process 1 among devices that lie (liar.c): reads trusted files and talks to the network. Whatever the host answers, a
// trusted file is the one that was measured or an error; an allowed file and a connection are the host's, and must only
// behave. Same words as hostile_guest.c.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "hostile.h"

#define WAIT_MS 500
static int failures;
static void corrupt(const char *what) { printf("CORRUPT %s\n", what); fflush(stdout); exit(2); }
static void failed(const char *what) { printf("%s: %s\n", what, strerror(errno)); fflush(stdout); failures++; }

static void check(const unsigned char *p, size_t n, unsigned file, size_t at, const char *what) {
  for (size_t i = 0; i < n; i++)
    if (p[i] != file_byte(file, (uint32_t)(at + i))) corrupt(what);
}

static void trusted(unsigned file) {
  char path[32];
  unsigned char buf[5000];
  struct stat st;
  snprintf(path, sizeof(path), "/t/%s", file_names[file]);
  int fd = open(path, O_RDONLY);
  if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) corrupt("a trusted file is said not to exist");
  if (fd < 0) return failed(path);
  if (fstat(fd, &st)) failed("fstat");
  else if (st.st_size != file_bytes[file] || !S_ISREG(st.st_mode)) corrupt("the size or type of a trusted file");
  size_t at = 0;
  for (;;) {
    ssize_t n = read(fd, buf, sizeof(buf));
    if (n < 0) { failed("read"); break; }
    check(buf, (size_t)n, file, at, "a trusted file, read");
    at += (size_t)n;
    if (!n && at != file_bytes[file]) corrupt("the end of a trusted file");
    if (!n) break;
  }
  pid_t child = fork(); // a page that cannot be had is SIGBUS
  if (!child) {
    unsigned char *p = mmap(NULL, file_bytes[file], PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) _exit(1);
    check(p, file_bytes[file], file, 0, "a trusted file, mapped");
    _exit(0);
  }
  int status = 0;
  if (child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 2) exit(2);
  if (status) failures++;
  close(fd);
}

static void names(void) {
  DIR *d = opendir("/t");
  unsigned seen = 0;
  if (!d) return failed("opendir");
  for (struct dirent *e; (errno = 0, e = readdir(d));) {
    bool known = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    for (unsigned i = 0; i < FILES; i++) {
      bool this = !strcmp(e->d_name, file_names[i]);
      known = known || this;
      seen |= (unsigned)this << i;
    }
    if (!known) corrupt("a name that the policy does not have");
  }
  if (errno) failed("readdir");
  else if (!(seen >> FILE_DATA & 1)) corrupt("a folder lacks a trusted file");
  closedir(d);
  if (open("/t/init", O_RDONLY) >= 0) corrupt("a file that the policy does not have");
}

static void allowed(void) {
  char buf[6000];
  int fd = open("/t/allowed", O_RDWR);
  if (fd < 0) return failed("/t/allowed");
  memset(buf, 'a', sizeof(buf));
  if (write(fd, buf, sizeof(buf)) < 0) failed("write");
  if (fsync(fd)) failed("fsync");
  if (lseek(fd, 0, SEEK_SET) || read(fd, buf, sizeof(buf)) < 0) failed("read of an allowed file");
  if (ftruncate(fd, 100)) failed("ftruncate");
  if (close(fd)) failed("close");
}

static bool ready(int fd, short events) {
  struct pollfd p = { fd, events, 0 };
  return poll(&p, 1, WAIT_MS) == 1;
}

static struct sockaddr_in address(const char *ip, uint16_t port) {
  struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
  inet_pton(AF_INET, ip, &a.sin_addr);
  return a;
}

static void echo(int fd) {
  char out[8000], in[8000];
  memset(out, 'e', sizeof(out));
  if (!ready(fd, POLLOUT) || send(fd, out, sizeof(out), MSG_NOSIGNAL) < 0) failed("send");
  for (size_t got = 0; got < sizeof(in);) {
    if (!ready(fd, POLLIN)) { errno = ETIMEDOUT; failed("recv"); break; }
    ssize_t n = recv(fd, in, sizeof(in) - got, 0);
    if (n <= 0) { failed("recv"); break; }
    got += (size_t)n;
  }
  shutdown(fd, SHUT_WR);
  close(fd);
}

static void network(void) {
  struct sockaddr_in to = address("10.0.2.2", 7), any = address("0.0.0.0", 8080), dns = address("10.0.2.3", 53);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 0;
  socklen_t len = sizeof(one);
  if (connect(fd, (void *)&to, sizeof(to)) && errno != EINPROGRESS) failed("connect");
  else if (!ready(fd, POLLOUT) || getsockopt(fd, SOL_SOCKET, SO_ERROR, &one, &len) || one) failed("connect later");
  else echo(fd);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (bind(listener, (void *)&any, sizeof(any)) || listen(listener, 4)) failed("listen");
  else if (!ready(listener, POLLIN) || (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) < 0) failed("accept");
  else echo(fd);
  close(listener);
  fd = socket(AF_INET, SOCK_DGRAM, 0);
  char answer[600] = { 0 };
  if (sendto(fd, answer, 300, 0, (void *)&dns, sizeof(dns)) < 0) failed("sendto");
  else if (!ready(fd, POLLIN) || recv(fd, answer, sizeof(answer), MSG_DONTWAIT) < 0) failed("answer");
  close(fd);
}

int devices(void) {
  signal(SIGTERM, SIG_IGN);
  for (int round = 0; round < 2; round++) {
    trusted(FILE_DATA);
    trusted(FILE_PLAIN);
    names();
    allowed();
    network();
  }
  printf("%d failures\n", failures);
  return failures ? 1 : 0;
}

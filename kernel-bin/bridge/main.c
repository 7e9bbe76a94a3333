// SPDX-License-Identifier: Apache-2.0
//
// gramine-bridge --socket PATH --control-fd N [--publish ADDR:HOSTPORT:GUESTPORT/tcp|udp]... [--outbound PATTERN]...
// The loop, the options and the lines to and from the launcher (README.md).
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include "bridge.h"

#define EVENTS 256
#define GUEST_LINES_MAX 200 // lines that a guest can make us print in a run
#define SECOND_NS 1000000000ull

bool verbose;
static int epoll_fd = -1, control_fd = -1;
static uint64_t now_ns;
static unsigned guest_lines;
static struct source control_source;
static char line[512];
static size_t line_len;
// After traffic the loop looks at the rings again after so long, before it asks for doorbells: a doorbell costs the
// guest an exit. 0: never.
static long poll_ns = 50000;
static uint64_t poll_for_ns = 1000000;

static uint64_t clock_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}
uint64_t loop_now_ns(void) { return now_ns; }

static int control(int op, int fd, uint32_t events, struct source *s) {
  struct epoll_event e = { .events = events, .data.ptr = s };
  return epoll_ctl(epoll_fd, op, fd, &e);
}
int loop_add(int fd, uint32_t events, struct source *s) { return control(EPOLL_CTL_ADD, fd, events, s); }
int loop_change(int fd, uint32_t events, struct source *s) { return control(EPOLL_CTL_MOD, fd, events, s); }
void loop_remove(int fd) { epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL); }

static void put_line(char *text, int n, size_t size) {
  size_t len = n < 0 ? 0 : min_size((size_t)n, size - 2);
  text[len++] = '\n';
  if (write(control_fd >= 0 ? control_fd : STDERR_FILENO, text, len) < 0 && control_fd >= 0 && errno != EAGAIN) exit(0); // the launcher is gone
}

void say(const char *fmt, ...) {
  char text[700];
  va_list ap;
  va_start(ap, fmt);
  put_line(text, vsnprintf(text, sizeof(text) - 1, fmt, ap), sizeof(text));
  va_end(ap);
}

void note(const char *fmt, ...) {
  if (!verbose) return;
  va_list ap;
  va_start(ap, fmt);
  fputs("gramine-bridge: ", stderr);
  vfprintf(stderr, fmt, ap);
  fputc('\n', stderr);
  va_end(ap);
}

void say_guest(const char *kind, const char *text) {
  char clean[600];
  size_t n = 0;
  if (guest_lines++ >= GUEST_LINES_MAX) return;
  for (; text[n] && n < sizeof(clean) - 1; n++) clean[n] = (unsigned char)text[n] < ' ' || text[n] == 127 ? ' ' : text[n];
  clean[n] = 0;
  say("%s %s", kind, clean);
}

void die(const char *kind, const char *fmt, ...) {
  char text[600];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof(text), fmt, ap);
  va_end(ap);
  say("error %s %s", kind, text);
  exit(1);
}

void *must_alloc(size_t n) {
  void *p = calloc(1, n);
  if (!p) die("memory", "out of memory");
  return p;
}

void bridge_guest_gone(void) {
  guest_leaving = true;
  streams_drop_all();
  guest_leaving = false;
}

void bridge_guest_lied(const char *what) {
  char text[200];
  snprintf(text, sizeof(text), "guest-protocol %s", what);
  say_guest("error", text);
}

// --- the launcher

static void command(const char *text) {
  unsigned a, b;
  if (sscanf(text, "signal %u", &a) == 1 && a >= 1 && a <= 64) control_signal(a);
  else if (sscanf(text, "winsize %u %u", &a, &b) == 2 && a <= 65535 && b <= 65535) control_winsize(a, b);
  else if (!strcmp(text, "stop")) exit(0);
  else say("error command %.100s", text);
}

static void control_ready(struct source *s, uint32_t events) {
  (void)s;
  (void)events;
  ssize_t n = read(control_fd, line + line_len, sizeof(line) - line_len - 1);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) exit(0); // the launcher died: leave nothing behind
  line_len += (size_t)n;
  line[line_len] = 0;
  char *at = line, *end;
  while ((end = strchr(at, '\n'))) {
    *end = 0;
    command(at);
    at = end + 1;
  }
  line_len -= (size_t)(at - line);
  memmove(line, at, line_len);
  if (line_len == sizeof(line) - 1) line_len = 0; // no command is that long
}

static const char *socket_path;
static void remove_socket(void) { unlink(socket_path); }

static void usage(void) {
  fputs("usage: gramine-bridge --socket PATH --control-fd N [--publish ADDR:HOSTPORT:GUESTPORT/tcp|udp]...\n"
        "                      [--outbound HOST:PORT]... [--poll-us N] [--verbose]\n", stderr);
  exit(2);
}

int main(int argc, char **argv) {
  static const struct option options[] = { { "socket", 1, NULL, 's' }, { "control-fd", 1, NULL, 'c' }, { "publish", 1, NULL, 'p' },
    { "outbound", 1, NULL, 'o' }, { "verbose", 0, NULL, 'v' }, { "poll-us", 1, NULL, 'P' }, { "help", 0, NULL, 'h' }, { 0 } };
  signal(SIGPIPE, SIG_IGN);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) die("epoll", "%s", strerror(errno));
  for (int pass = 0; pass < 2; pass++) { // the control fd first: errors of the others go there
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
      if (c == '?' || c == 'h') usage();
      if (pass == 0 && c == 'c') control_fd = atoi(optarg);
      if (pass == 0 && c == 'v') verbose = true;
      if (pass == 0 && c == 's') socket_path = optarg;
      if (pass == 0 && c == 'P') poll_ns = atol(optarg) * 1000;
      if (pass == 1 && c == 'p') host_publish(optarg);
      if (pass == 1 && c == 'o') allow_add(optarg);
    }
  }
  if (!socket_path || optind != argc || control_fd < 0 || fcntl(control_fd, F_GETFD) < 0 || poll_ns < 0 || poll_ns > 1000000) usage();
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  vhost_listen(socket_path);
  atexit(remove_socket);
  control_source.ready = control_ready;
  fcntl(control_fd, F_SETFL, fcntl(control_fd, F_GETFL) | O_NONBLOCK);
  fcntl(control_fd, F_SETFD, FD_CLOEXEC);
  if (loop_add(control_fd, EPOLLIN, &control_source)) die("control-fd", "%s", strerror(errno));
  say("ready");

  struct epoll_event events[EVENTS];
  uint64_t busy_ns = 0, tick_ns = clock_ns();
  for (;;) {
    now_ns = clock_ns();
    // Before sleeping: while there was traffic lately just look again soon, else ask for doorbells.
    struct timespec nap = { 0, 0 };
    bool again = now_ns - busy_ns < poll_for_ns && poll_ns;
    bool starved = streams_waiting();
    if (again) nap.tv_nsec = poll_ns;
    else if (!ring_want_kick(RING_FROM_GUEST) && !(starved && ring_want_kick(RING_TO_GUEST))) nap = message_waits() ? (struct timespec){ 0, 10000000 } : (struct timespec){ 1, 0 };
    int n = epoll_pwait2(epoll_fd, events, EVENTS, &nap, NULL);
    if (n < 0 && errno != EINTR) die("epoll", "%s", strerror(errno));
    now_ns = clock_ns();
    for (int i = 0; i < n; i++) ((struct source *)events[i].data.ptr)->ready(events[i].data.ptr, events[i].events);
    bool work = streams_from_guest();
    if (streams_to_guest()) work = true;
    message_tick();
    host_reap();
    if (work) busy_ns = now_ns;
    if (now_ns - tick_ns > SECOND_NS) {
      tick_ns = now_ns;
      host_tick();
    }
  }
}

// SPDX-License-Identifier: Apache-2.0
// Pipes and FIFOs: ends, atomic small writes, SIGPIPE, sizes, blocking, many writers, pipelines through fork.
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void *volatile bad_pointer = (void *)8; // the compiler must not know
static void basics(void) {
  int p[2], n;
  char buf[100];
  CHECK(pipe2(p, O_NONBLOCK) == 0 && read(p[0], buf, 1) == -1 && errno == EAGAIN);
  CHECK(write(p[1], "hello", 5) == 5 && write(p[1], " you", 4) == 4 && ioctl(p[0], FIONREAD, &n) == 0 && n == 9);
  CHECK(read(p[0], buf, 3) == 3 && read(p[0], buf + 3, 97) == 6 && !memcmp(buf, "hello you", 9));
  CHECK(write(p[1], buf, 0) == 0 && read(p[0], buf, 0) == 0);
  CHECK(fcntl(p[0], F_GETPIPE_SZ) == 65536 && fcntl(p[1], F_SETPIPE_SZ, 4097) == 8192 && fcntl(p[0], F_SETPIPE_SZ, 65536) == 65536);
  struct stat st;
  CHECK(fstat(p[0], &st) == 0 && S_ISFIFO(st.st_mode));
  CHECK(pipe2(p, 0x7) == -1 && errno == EINVAL && pipe(bad_pointer) == -1 && errno == EFAULT);
  close(p[0]), close(p[1]);
}

static void full_and_atomic(void) {
  int p[2];
  static char big[70000], out[70000];
  for (int i = 0; i < 70000; i++) big[i] = (char)(i * 7);
  CHECK(pipe2(p, O_NONBLOCK) == 0 && write(p[1], big, 70000) == 65536 && write(p[1], big, 1) == -1 && errno == EAGAIN);
  CHECK(read(p[0], out, 100) == 100 && write(p[1], big, 4096) == -1 && errno == EAGAIN); // all or nothing
  CHECK(fcntl(p[0], F_SETPIPE_SZ, 4096) == -1 && errno == EBUSY);
  long n = 100, r;
  while ((r = read(p[0], out + n, 70000 - n)) > 0) n += r;
  CHECK(n == 65536 && !memcmp(out, big, 65536));
  close(p[0]), close(p[1]);
}

static volatile int got_sigpipe;
static void on_pipe(int s) { got_sigpipe++; }
static void ends(void) {
  int p[2];
  char c;
  signal(SIGPIPE, on_pipe);
  CHECK(pipe(p) == 0 && write(p[1], "x", 1) == 1 && close(p[1]) == 0 && read(p[0], &c, 1) == 1 && read(p[0], &c, 1) == 0);
  struct pollfd pf = { p[0], POLLIN, 0 };
  CHECK(poll(&pf, 1, -1) == 1 && pf.revents == POLLHUP);
  close(p[0]);
  CHECK(pipe(p) == 0 && close(p[0]) == 0 && write(p[1], "x", 1) == -1 && errno == EPIPE && got_sigpipe == 1);
  pf = (struct pollfd){ p[1], POLLOUT, 0 };
  CHECK(poll(&pf, 1, -1) == 1 && pf.revents == (POLLOUT | POLLERR));
  close(p[1]);
  pid_t pid = fork();
  if (!pid) {
    signal(SIGPIPE, SIG_DFL);
    CHECK(pipe(p) == 0);
    close(p[0]);
    (void)!write(p[1], "x", 1);
    _exit(0);
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
}

static void transfer(void) { // much more than fits, through a child that turns every byte
  int a[2], b[2];
  CHECK(pipe(a) == 0 && pipe(b) == 0);
  pid_t pid = fork();
  if (!pid) {
    static unsigned char buf[5000];
    close(a[1]), close(b[0]);
    long n;
    while ((n = read(a[0], buf, sizeof buf)) > 0) {
      for (long i = 0; i < n; i++) buf[i] ^= 0x5a;
      for (long d = 0, w; d < n; d += w) if ((w = write(b[1], buf + d, (size_t)(n - d))) <= 0) _exit(1);
    }
    _exit(n != 0);
  }
  close(a[0]), close(b[1]);
  enum { N = 3000000 };
  pid_t feeder = fork();
  if (!feeder) {
    static unsigned char buf[30000];
    close(b[0]);
    for (long d = 0; d < N;) {
      for (int i = 0; i < 30000; i++) buf[i] = (unsigned char)((d + i) % 251);
      if (write(a[1], buf, 30000) != 30000) _exit(1); // a blocking write takes all
      d += 30000;
    }
    _exit(0);
  }
  close(a[1]);
  static unsigned char buf[40000];
  long n, total = 0, bad = 0;
  while ((n = read(b[0], buf, sizeof buf)) > 0)
    for (long i = 0; i < n; i++, total++) bad += buf[i] != ((total % 251) ^ 0x5a);
  CHECK(total == N && !bad);
  int s1, s2;
  CHECK(waitpid(pid, &s1, 0) == pid && waitpid(feeder, &s2, 0) == feeder && !s1 && !s2);
  close(b[0]);
}

static int stress[2];
static void *stress_writer(void *arg) { // records of 100 bytes must never be torn
  char rec[100];
  memset(rec, 'a' + (int)(long)arg, sizeof rec);
  for (int i = 0; i < 2000; i++) if (write(stress[1], rec, sizeof rec) != sizeof rec) check_failed++;
  return NULL;
}
static void many_writers(void) {
  pthread_t t[4];
  CHECK(pipe(stress) == 0);
  for (long i = 0; i < 4; i++) pthread_create(&t[i], NULL, stress_writer, (void *)i);
  int count[4] = { 0 }, torn = 0;
  for (int i = 0; i < 8000; i++) {
    char rec[100];
    for (long n = 0, r; n < 100; n += r) if ((r = read(stress[0], rec + n, (size_t)(100 - n))) <= 0) check_failed++;
    for (int k = 1; k < 100; k++) torn += rec[k] != rec[0];
    if (rec[0] >= 'a' && rec[0] < 'e') count[rec[0] - 'a']++;
  }
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  CHECK(!torn && count[0] == 2000 && count[1] == 2000 && count[2] == 2000 && count[3] == 2000);
  close(stress[0]), close(stress[1]);
}

static void *nb_writer(void *arg) { // nonblocking writers that poll
  struct pollfd pf = { stress[1], POLLOUT, 0 };
  for (long sent = 0; sent < 300000;) {
    char buf[3000];
    memset(buf, 1, sizeof buf);
    long n = write(stress[1], buf, sizeof buf);
    if (n > 0) sent += n;
    else if (errno != EAGAIN || poll(&pf, 1, 10000) != 1) { check_failed++; break; }
  }
  return NULL;
}
static void nonblocking(void) {
  pthread_t t[3];
  CHECK(pipe2(stress, O_NONBLOCK) == 0);
  for (int i = 0; i < 3; i++) pthread_create(&t[i], NULL, nb_writer, NULL);
  long total = 0;
  static char buf[10000];
  struct pollfd pf = { stress[0], POLLIN, 0 };
  while (total < 900000) {
    long n = read(stress[0], buf, sizeof buf);
    if (n > 0) total += n;
    else if (errno != EAGAIN || poll(&pf, 1, 10000) != 1) { check_failed++; break; }
  }
  for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
  CHECK(total == 900000);
  close(stress[0]), close(stress[1]);
}

static void on_alarm(int s) {}
static void interrupted(void) {
  int p[2];
  char c;
  struct sigaction sa = { .sa_handler = on_alarm };
  CHECK(pipe(p) == 0 && sigaction(SIGALRM, &sa, NULL) == 0);
  alarm(1);
  CHECK(read(p[0], &c, 1) == -1 && errno == EINTR);
  sa.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &sa, NULL);
  pid_t pid = fork();
  if (!pid) {
    usleep(1300000);
    (void)!write(p[1], "y", 1);
    _exit(0);
  }
  alarm(1);
  CHECK(read(p[0], &c, 1) == 1 && c == 'y'); // restarted
  waitpid(pid, NULL, 0);
  close(p[0]), close(p[1]);
}

static void fifo(void) {
  char name[] = "/tmp/fifoXXXXXX";
  CHECK(mkdtemp(name) != NULL);
  CHECK(chdir(name) == 0 && mkfifo("f", 0600) == 0 && open("f", O_WRONLY | O_NONBLOCK) == -1 && errno == ENXIO);
  pid_t pid = fork();
  if (!pid) {
    int w = open("f", O_WRONLY); // waits for the reader
    if (w < 0 || write(w, "through", 7) != 7) _exit(1);
    _exit(0);
  }
  int r = open("f", O_RDONLY), status;
  char buf[20];
  CHECK(r >= 0 && read(r, buf, 20) == 7 && !memcmp(buf, "through", 7));
  CHECK(waitpid(pid, &status, 0) == pid && status == 0 && read(r, buf, 20) == 0);
  int w = open("f", O_WRONLY | O_NONBLOCK), rw = open("f", O_RDWR);
  CHECK(w >= 0 && rw >= 0 && write(w, "again", 5) == 5 && read(r, buf, 20) == 5 && write(rw, "z", 1) == 1 && read(rw, buf, 2) == 1);
  close(r), close(w), close(rw);
  CHECK(unlink("f") == 0 && chdir("/") == 0 && rmdir(name) == 0);
}

int main(void) {
  RUN(basics);
  RUN(full_and_atomic);
  RUN(ends);
  RUN(transfer);
  RUN(many_writers);
  RUN(nonblocking);
  RUN(interrupted);
  RUN(fifo);
  FINISH();
}

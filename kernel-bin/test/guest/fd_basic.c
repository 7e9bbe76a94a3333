// SPDX-License-Identifier: Apache-2.0
// Descriptors: lowest number, dup, close-on-exec, limits, fcntl, vectors, positions, sendfile and its relatives.
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void *volatile bad_pointer = (void *)8; // the compiler must not know
static volatile int minus_one = -1;
static int tmp(void) {
  char name[] = "/tmp/fd_basicXXXXXX";
  int fd = mkstemp(name);
  unlink(name);
  return fd;
}

static void lowest_and_dup(void) {
  int p[2], q[2];
  CHECK(pipe(p) == 0 && p[1] == p[0] + 1);
  CHECK(close(p[0]) == 0 && dup(p[1]) == p[0] && close(p[0]) == 0);
  CHECK(pipe2(q, O_CLOEXEC) == 0 && q[0] == p[0] && q[1] == p[1] + 1);
  CHECK(fcntl(q[0], F_GETFD) == FD_CLOEXEC && fcntl(p[1], F_GETFD) == 0);
  CHECK(dup2(q[1], 100) == 100 && fcntl(100, F_GETFD) == 0 && dup2(100, 100) == 100);
  CHECK(dup3(q[1], 100, O_CLOEXEC) == 100 && fcntl(100, F_GETFD) == FD_CLOEXEC);
  CHECK(dup3(100, 100, 0) == -1 && errno == EINVAL && dup2(99, 98) == -1 && errno == EBADF);
  CHECK(dup2(100, -1) == -1 && errno == EBADF && dup2(100, 1 << 29) == -1 && errno == EBADF);
  CHECK(fcntl(100, F_DUPFD, 90) == 90 && fcntl(100, F_DUPFD_CLOEXEC, 90) == 91 && fcntl(91, F_GETFD) == FD_CLOEXEC);
  CHECK(close(55) == -1 && errno == EBADF && close(-1) == -1 && errno == EBADF);
  CHECK(syscall(SYS_close_range, 90, 100, 4) == 0 && fcntl(90, F_GETFD) == FD_CLOEXEC); // CLOSE_RANGE_CLOEXEC
  CHECK(syscall(SYS_close_range, 90, ~0u, 0) == 0 && fcntl(100, F_GETFD) == -1 && errno == EBADF);
  CHECK(syscall(SYS_close_range, 10, 9, 0) == -1 && errno == EINVAL);
  close(p[1]), close(q[0]), close(q[1]);
}

static void many(void) {
  struct rlimit old, rl;
  CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
  rl = (struct rlimit){ 600, old.rlim_max };
  CHECK(setrlimit(RLIMIT_NOFILE, &rl) == 0);
  int fd, last = 0, base = dup(0);
  while ((fd = dup(base)) >= 0) last = fd;
  CHECK(errno == EMFILE && last == 599);
  CHECK(fcntl(base, F_DUPFD, 600) == -1 && errno == EINVAL && fcntl(base, F_DUPFD, 599) == -1 && errno == EMFILE);
  close(300);
  CHECK(dup(base) == 300 && dup2(base, 600) == -1 && errno == EBADF);
  pid_t pid = fork();
  if (!pid) _exit(fcntl(599, F_GETFD) == 0 && dup(base) == -1 ? 0 : 1);
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  for (fd = base; fd < 600; fd++) close(fd);
  CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
}

static void flags(void) {
  int p[2];
  CHECK(pipe(p) == 0);
  CHECK(fcntl(p[0], F_GETFL) == O_RDONLY && fcntl(p[1], F_GETFL) == O_WRONLY);
  CHECK(fcntl(p[0], F_SETFL, O_NONBLOCK) == 0 && fcntl(p[0], F_GETFL) == (O_RDONLY | O_NONBLOCK));
  char c;
  CHECK(read(p[0], &c, 1) == -1 && errno == EAGAIN);
  int on = 0;
  CHECK(ioctl(p[0], FIONBIO, &on) == 0 && fcntl(p[0], F_GETFL) == O_RDONLY);
  CHECK(ioctl(p[0], FIOCLEX) == 0 && fcntl(p[0], F_GETFD) == FD_CLOEXEC && ioctl(p[0], FIONCLEX) == 0 && fcntl(p[0], F_GETFD) == 0);
  CHECK(read(p[1], &c, 1) == -1 && errno == EBADF && write(p[0], &c, 1) == -1 && errno == EBADF);
  CHECK(lseek(p[0], 0, SEEK_CUR) == -1 && errno == ESPIPE && pread(p[0], &c, 1, 0) == -1 && errno == ESPIPE);
  CHECK(ftruncate(p[0], 0) == -1 && errno == EINVAL && fsync(p[0]) == -1 && errno == EINVAL);
  CHECK(fcntl(p[0], 9999) == -1 && errno == EINVAL && ioctl(p[0], 0x1234) == -1 && errno == ENOTTY);
  int d = open("/", O_RDONLY | O_DIRECTORY);
  CHECK(d >= 0 && read(d, &c, 1) == -1 && errno == EISDIR);
  int o = open("/", O_PATH);
  CHECK(o >= 0 && read(o, &c, 1) == -1 && errno == EBADF && fcntl(o, F_SETFL, 0) == -1 && errno == EBADF && fcntl(o, F_GETFD) == 0);
  CHECK(fcntl(p[0], F_SETOWN, getpid()) == 0 && fcntl(p[0], F_GETOWN) == getpid());
  close(d), close(o), close(p[0]), close(p[1]);
}

static void exec_closes(void) {
  int p[2];
  CHECK(pipe2(p, O_CLOEXEC) == 0);
  int keep = dup(p[1]);
  pid_t pid = fork();
  if (!pid) {
    char a[16], b[16];
    snprintf(a, sizeof a, "%d", p[1]);
    snprintf(b, sizeof b, "%d", keep);
    execl("/proc/self/exe", "fd_basic", "--exec", a, b, (char *)0);
    _exit(3);
  }
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && status == 0);
  close(p[0]), close(p[1]), close(keep);
}

static void vectors(void) {
  int fd = tmp();
  char a[5] = "", b[10] = "";
  struct iovec w[3] = { { "hello", 5 }, { NULL, 0 }, { " world", 6 } }, r[2] = { { a, 5 }, { b, 10 } };
  CHECK(writev(fd, w, 3) == 11 && lseek(fd, 0, SEEK_SET) == 0 && readv(fd, r, 2) == 11 && !memcmp(a, "hello", 5) && !memcmp(b, " world", 6));
  CHECK(pwrite(fd, "J", 1, 0) == 1 && lseek(fd, 0, SEEK_CUR) == 11 && pread(fd, a, 5, 0) == 5 && !memcmp(a, "Jello", 5));
  CHECK(preadv(fd, r, 2, 6) == 5 && !memcmp(a, "world", 5) && pwritev(fd, w, 1, 20) == 5 && lseek(fd, 0, SEEK_END) == 25);
  CHECK(preadv2(fd, r, 1, 0, 0) == 5 && lseek(fd, 0, SEEK_SET) == 0 && preadv2(fd, r, 1, -1, 0) == 5 && lseek(fd, 0, SEEK_CUR) == 5);
  CHECK(pread(fd, a, 1, -1) == -1 && errno == EINVAL && readv(fd, r, minus_one) == -1 && errno == EINVAL);
  w[0].iov_len = (size_t)-1;
  CHECK(writev(fd, w, 1) == -1 && errno == EINVAL);
  CHECK(read(fd, bad_pointer, 5) == -1 && errno == EFAULT && write(fd, bad_pointer, 5) == -1 && errno == EFAULT);
  char *edge = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(edge + 4096, 4096);
  CHECK(lseek(fd, 0, SEEK_SET) == 0);
  long n = read(fd, edge + 4096 - 3, 10); // what fits before the bad page, or EFAULT
  CHECK(n == 3 || (n == -1 && errno == EFAULT));
  munmap(edge, 4096);
  int n2;
  CHECK(lseek(fd, 20, SEEK_SET) == 20 && ioctl(fd, FIONREAD, &n2) == 0 && n2 == 5);
  CHECK(lseek(fd, -1, SEEK_SET) == -1 && errno == EINVAL && lseek(fd, 0, 77) == -1 && errno == EINVAL);
  CHECK(read(fd, a, 0) == 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL) == 0 && posix_fadvise(fd, 0, 0, 99) == EINVAL);
  close(fd);
}

static int shared_fd;
static void *appender(void *arg) {
  char line[8];
  snprintf(line, sizeof line, "%07ld", (long)arg);
  for (int i = 0; i < 500; i++) if (write(shared_fd, line, 8) != 8) check_failed++;
  return NULL;
}
static void shared_position(void) { // POSIX: writes through one description do not overwrite each other
  pthread_t t[4];
  shared_fd = tmp();
  for (long i = 0; i < 4; i++) pthread_create(&t[i], NULL, appender, (void *)i);
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  CHECK(lseek(shared_fd, 0, SEEK_END) == 4 * 500 * 8);
  int count[4] = { 0 };
  char line[8];
  for (int i = 0; i < 2000; i++) {
    if (pread(shared_fd, line, 8, i * 8) != 8 || line[6] < '0' || line[6] > '3') break;
    count[line[6] - '0']++;
  }
  CHECK(count[0] == 500 && count[1] == 500 && count[2] == 500 && count[3] == 500);
  close(shared_fd);
}

static void copying(void) {
  int a = tmp(), b = tmp(), p[2], q[2];
  enum { N = 100000 };
  static char data[N], out[N];
  for (int i = 0; i < N; i++) data[i] = (char)(i * 31);
  CHECK(write(a, data, N) == N && pipe(p) == 0 && pipe(q) == 0);
  off_t off = 10;
  CHECK(sendfile(b, a, &off, N) == N - 10 && off == N && lseek(a, 0, SEEK_CUR) == N && pread(b, out, N, 0) == N - 10 && !memcmp(out, data + 10, N - 10));
  CHECK(lseek(a, 0, SEEK_SET) == 0 && sendfile(p[1], a, NULL, 1000) == 1000 && lseek(a, 0, SEEK_CUR) == 1000);
  CHECK(sendfile(b, p[0], NULL, 10) == -1 && errno == EINVAL);
  CHECK(tee(p[0], q[1], 600, 0) == 600 && tee(p[0], p[1], 1, 0) == -1 && errno == EINVAL);
  CHECK(read(q[0], out, N) == 600 && !memcmp(out, data, 600));
  loff_t at = 5000;
  CHECK(splice(p[0], NULL, b, &at, 400, 0) == 400 && at == 5400 && read(p[0], out, N) == 600 && !memcmp(out, data + 400, 600));
  CHECK(pread(b, out, 400, 5000) == 400 && !memcmp(out, data, 400));
  at = 7;
  CHECK(splice(a, &at, p[1], NULL, 100, 0) == 100 && at == 107 && splice(p[0], NULL, q[1], NULL, 60, 0) == 60 && read(q[0], out, N) == 60 && !memcmp(out, data + 7, 60));
  CHECK(splice(p[0], NULL, q[1], NULL, 100, SPLICE_F_NONBLOCK) == 40 && splice(p[0], NULL, q[1], NULL, 1, SPLICE_F_NONBLOCK) == -1 && errno == EAGAIN);
  CHECK(splice(a, NULL, b, NULL, 10, 0) == -1 && errno == EINVAL && splice(p[0], &at, b, NULL, 10, 0) == -1 && errno == ESPIPE);
  struct iovec v = { data, 50 };
  CHECK(read(q[0], out, N) == 40 && vmsplice(q[1], &v, 1, 0) == 50 && read(q[0], out, N) == 50 && !memcmp(out, data, 50));
  loff_t i = 0, o = 0;
  CHECK(ftruncate(b, 0) == 0 && copy_file_range(a, &i, b, &o, N, 0) == N && i == N && o == N && pread(b, out, N, 0) == N && !memcmp(out, data, N));
  i = 0, o = 10;
  CHECK(copy_file_range(a, &i, a, &o, 100, 0) == -1 && errno == EINVAL);
  close(p[1]);
  CHECK(splice(p[0], NULL, b, NULL, 100, 0) == 0);
  close(a), close(b), close(p[0]), close(q[0]), close(q[1]);
}

int main(int argc, char **argv) {
  if (argc == 4 && !strcmp(argv[1], "--exec"))
    return fcntl(atoi(argv[2]), F_GETFD) == -1 && fcntl(atoi(argv[3]), F_GETFD) == 0 ? 0 : 1;
  RUN(lowest_and_dup);
  RUN(many);
  RUN(flags);
  RUN(exec_closes);
  RUN(vectors);
  RUN(shared_position);
  RUN(copying);
  FINISH();
}

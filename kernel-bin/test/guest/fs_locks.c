// SPDX-License-Identifier: Apache-2.0
// Locks between processes: record locks (waiting, EDEADLK, EINTR, released by close and exit), OFD locks, flock.
#include "fs_common.h"
#include <sched.h>
#include <sys/file.h>

static int lock_at(int fd, int cmd, int type, long start, long len) {
  struct flock fl = { .l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };
  return fcntl(fd, cmd, &fl);
}
static int up[2], down[2]; // child to parent, parent to child
static void say(int *p) { if (write(p[1], "x", 1) != 1) _exit(9); }
static void hear(int *p) { char c; if (read(p[0], &c, 1) != 1) _exit(9); }
static void on_alarm(int sig) {}

static void test_records(int fd) {
  int status;
  CHECK(lock_at(fd, F_SETLK, F_WRLCK, 10, 10) == 0);
  pid_t child = fork();
  if (!child) {
    struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0 };
    if (fcntl(fd, F_GETLK, &fl) || fl.l_type != F_WRLCK || fl.l_start != 10 || fl.l_len != 10 || fl.l_pid != getppid()) _exit(1);
    errno = 0;
    if (lock_at(fd, F_SETLK, F_RDLCK, 19, 5) != -1 || (errno != EAGAIN && errno != EACCES)) _exit(2);
    if (lock_at(fd, F_SETLK, F_WRLCK, 0, 10) || lock_at(fd, F_SETLK, F_RDLCK, 20, 0)) _exit(3);
    say(up);
    if (lock_at(fd, F_SETLKW, F_WRLCK, 10, 1)) _exit(4); // until the parent lets go
    say(up);
    hear(down);
    _exit(0); // and everything goes with the process
  }
  hear(up);
  FAILS(lock_at(fd, F_SETLK, F_WRLCK, 5, 1), EAGAIN);
  CHECK(lock_at(fd, F_SETLK, F_UNLCK, 10, 1) == 0);
  hear(up);
  FAILS(lock_at(fd, F_SETLK, F_RDLCK, 10, 1), EAGAIN);
  say(down);
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(lock_at(fd, F_SETLK, F_WRLCK, 0, 0) == 0);
  int again = open("locked", O_RDWR);
  close(again); // closing any descriptor of the file drops them all
  child = fork();
  if (!child) _exit(lock_at(fd, F_SETLK, F_WRLCK, 0, 0) ? 1 : 0);
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(lock_at(fd, F_SETLK, F_WRLCK, 0, 0) == 0 && unshare(CLONE_FILES) == 0); // nobody shares the descriptors: they stay, and so does the lock
  child = fork();
  if (!child) _exit(lock_at(fd, F_SETLK, F_WRLCK, 0, 0) ? 0 : 1);
  CHECK(waitpid(child, &status, 0) == child && status == 0 && lock_at(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
  group("records");
}

static void test_deadlock(int fd) {
  int status;
  CHECK(lock_at(fd, F_SETLK, F_WRLCK, 0, 1) == 0);
  pid_t child = fork();
  if (!child) {
    if (lock_at(fd, F_SETLK, F_WRLCK, 1, 1)) _exit(1);
    say(up);
    _exit(lock_at(fd, F_SETLKW, F_WRLCK, 0, 1) ? 2 : 0); // waits for the parent
  }
  hear(up);
  usleep(50000); // let it begin to wait: if it has not, the parent waits first and the child gets EDEADLK
  errno = 0;
  int r = lock_at(fd, F_SETLKW, F_WRLCK, 1, 1);
  if (r == -1) {
    CHECK(errno == EDEADLK && lock_at(fd, F_SETLK, F_UNLCK, 0, 1) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  } else {
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 2);
  }
  CHECK(lock_at(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
  group("deadlock");
}

static void test_interrupt(int fd) {
  int status;
  CHECK(lock_at(fd, F_SETLK, F_WRLCK, 0, 0) == 0);
  pid_t child = fork();
  if (!child) {
    struct sigaction sa = { .sa_handler = on_alarm };
    sigaction(SIGALRM, &sa, NULL);
    alarm(1);
    _exit(lock_at(fd, F_SETLKW, F_WRLCK, 0, 0) == -1 && errno == EINTR ? 0 : 1);
  }
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(lock_at(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
  group("interrupt");
}

static void test_ofd_flock(int fd) {
  int other = open("locked", O_RDWR), status;
  CHECK(lock_at(fd, F_OFD_SETLK, F_WRLCK, 0, 10) == 0);
  FAILS(lock_at(other, F_OFD_SETLK, F_RDLCK, 0, 1), EAGAIN);
  FAILS(lock_at(other, F_SETLK, F_RDLCK, 0, 1), EAGAIN); // they see each other, even in one process
  CHECK(lock_at(other, F_OFD_SETLK, F_WRLCK, 10, 1) == 0);
  CHECK(lock_at(fd, F_OFD_SETLK, F_UNLCK, 0, 0) == 0 && lock_at(other, F_OFD_SETLK, F_WRLCK, 0, 1) == 0);
  close(other);
  CHECK(lock_at(fd, F_OFD_SETLK, F_WRLCK, 0, 0) == 0 && lock_at(fd, F_OFD_SETLK, F_UNLCK, 0, 0) == 0);
  other = open("locked", O_RDONLY);
  CHECK(flock(fd, LOCK_EX) == 0);
  FAILS(flock(other, LOCK_SH | LOCK_NB), EAGAIN);
  CHECK(flock(fd, LOCK_SH) == 0 && flock(other, LOCK_SH | LOCK_NB) == 0);
  FAILS(flock(fd, LOCK_EX | LOCK_NB), EAGAIN);
  close(other);
  CHECK(flock(fd, LOCK_EX | LOCK_NB) == 0);
  pid_t child = fork();
  if (!child) { // shares the lock; a file of its own does not
    int own = open("locked", O_RDWR);
    if (flock(fd, LOCK_EX | LOCK_NB) || flock(own, LOCK_EX | LOCK_NB) != -1) _exit(1);
    say(up);
    _exit(flock(own, LOCK_EX) ? 2 : 0);
  }
  hear(up);
  CHECK(flock(fd, LOCK_UN) == 0 && waitpid(child, &status, 0) == child && status == 0);
  FAILS(flock(fd, 77), EINVAL);
  FAILS(flock(99, LOCK_EX), EBADF);
  group("ofd and flock");
}

int main(int argc, char **argv) {
  begin(argc, argv);
  int fd = open("locked", O_CREAT | O_RDWR, 0600);
  CHECK(fd >= 0 && pipe(up) == 0 && pipe(down) == 0);
  test_records(fd);
  test_deadlock(fd);
  test_interrupt(fd);
  test_ofd_flock(fd);
  close(fd);
  CHECK(unlink("locked") == 0);
  return finish();
}

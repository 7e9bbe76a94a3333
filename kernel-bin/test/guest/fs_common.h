// SPDX-License-Identifier: Apache-2.0
// For the fs_* guest tests: they work in a fresh directory below argv[1] (/tmp), print "ok NAME" per group or "FAIL ..."
// per failed check, and exit 1 if any failed. The same program runs on Linux and on the kernel, on any file system.
#ifndef FS_COMMON_H
#define FS_COMMON_H
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int failed, group_failed;
#define CHECK(cond) do { \
    if (!(cond)) { printf("FAIL %s:%d: %s (errno %d)\n", __FILE__, __LINE__, #cond, errno); failed = group_failed = 1; } \
  } while (0)
// The call fails with this errno.
#define FAILS(call, e) do { \
    errno = 0; \
    long r_ = (long)(call); \
    if (r_ != -1 || errno != (e)) { printf("FAIL %s:%d: %s: %ld, errno %d, expected %d\n", __FILE__, __LINE__, #call, r_, errno, e); failed = group_failed = 1; } \
  } while (0)
static void group(const char *name) {
  if (!group_failed) printf("ok %s\n", name);
  group_failed = 0;
  fflush(stdout);
}

__attribute__((unused)) static int put_file(const char *name, const char *text) {
  int fd = open(name, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (fd < 0) return -1;
  long n = write(fd, text, strlen(text));
  close(fd);
  return n == (long)strlen(text) ? 0 : -1;
}
__attribute__((unused)) static int file_is(const char *name, const char *text) {
  char buf[4096];
  int fd = open(name, O_RDONLY);
  if (fd < 0) return 0;
  long n = read(fd, buf, sizeof buf);
  close(fd);
  return n == (long)strlen(text) && !memcmp(buf, text, (size_t)n);
}
__attribute__((unused)) static int exists(const char *name) {
  struct stat st;
  return lstat(name, &st) == 0;
}

static char work_dir[512];
static void begin(int argc, char **argv) {
  snprintf(work_dir, sizeof work_dir, "%s/fs-test-XXXXXX", argc > 1 ? argv[1] : "/tmp");
  if (!mkdtemp(work_dir) || chdir(work_dir)) {
    printf("FAIL cannot work in %s: %s\n", work_dir, strerror(errno));
    exit(1);
  }
  umask(022);
}
static int finish(void) { // the directory must be empty by now
  if (chdir("/") || rmdir(work_dir)) {
    printf("FAIL something was left in %s: %s\n", work_dir, strerror(errno));
    failed = 1;
  }
  return failed;
}
#endif

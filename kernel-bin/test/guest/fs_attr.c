// SPDX-License-Identifier: Apache-2.0
// Attributes: modes, owners, times, sizes, access, umask, statfs, extended attributes where the file system has them.
#include "fs_common.h"
#include <sys/statfs.h>
#include <sys/xattr.h>

static void test_mode(void) {
  struct stat st;
  CHECK(put_file("f", "x") == 0 && stat("f", &st) == 0 && st.st_mode == (S_IFREG | 0644) && st.st_size == 1 && st.st_nlink == 1);
  CHECK(chmod("f", 04751) == 0 && stat("f", &st) == 0 && (st.st_mode & 07777) == 04751);
  int fd = open("f", O_RDWR);
  CHECK(fchmod(fd, 0600) == 0 && fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0600);
  close(fd);
  CHECK(umask(077) == 022 && mkdir("d", 0777) == 0 && stat("d", &st) == 0 && (st.st_mode & 07777) == 0700 && umask(022) == 077 && rmdir("d") == 0);
  FAILS(chmod("none", 0600), ENOENT);
  CHECK(chown("f", -1, -1) == 0 && chown("f", getuid(), getgid()) == 0 && fchownat(AT_FDCWD, "f", getuid(), -1, AT_SYMLINK_NOFOLLOW) == 0);
  CHECK(access("f", F_OK) == 0 && access("f", R_OK | W_OK) == 0);
  FAILS(access("f", X_OK), EACCES);
  FAILS(access("none", F_OK), ENOENT);
  FAILS(access("f", 8), EINVAL);
  CHECK(faccessat(AT_FDCWD, "f", R_OK, AT_EACCESS) == 0);
  CHECK(unlink("f") == 0);
  group("mode");
}

static void test_times(void) {
  struct stat st;
  CHECK(put_file("f", "x") == 0);
  struct timespec t[2] = { { 1000000000, 123456789 }, { 1100000000, 987654321 } };
  CHECK(utimensat(AT_FDCWD, "f", t, 0) == 0 && stat("f", &st) == 0 && st.st_atim.tv_sec == 1000000000 && st.st_mtim.tv_sec == 1100000000
    && st.st_atim.tv_nsec == 123456789 && st.st_mtim.tv_nsec == 987654321);
  t[0].tv_nsec = UTIME_OMIT;
  t[1].tv_nsec = UTIME_NOW;
  int fd = open("f", O_RDWR);
  CHECK(futimens(fd, t) == 0 && fstat(fd, &st) == 0 && st.st_atim.tv_sec == 1000000000 && st.st_mtim.tv_sec != 1100000000);
  t[1].tv_nsec = 1000000000;
  FAILS(futimens(fd, t), EINVAL);
  FAILS(utimensat(AT_FDCWD, "none", NULL, 0), ENOENT);
  t[0] = t[1] = (struct timespec){ 1000000000, 0 };
  CHECK(futimens(fd, t) == 0 && write(fd, "yy", 2) == 2 && fstat(fd, &st) == 0 && st.st_mtim.tv_sec > 1000000000 && st.st_size == 2);
  close(fd);
  CHECK(symlink("f", "s") == 0 && utimensat(AT_FDCWD, "s", t, AT_SYMLINK_NOFOLLOW) == 0 && lstat("s", &st) == 0 && st.st_mtim.tv_sec == 1000000000);
  CHECK(unlink("s") == 0 && unlink("f") == 0);
  group("times");
}

static void test_size(void) {
  struct stat st;
  char buf[8192];
  CHECK(put_file("f", "hello") == 0 && truncate("f", 3) == 0 && file_is("f", "hel") && truncate("f", 5) == 0);
  int fd = open("f", O_RDWR);
  CHECK(read(fd, buf, 10) == 5 && !memcmp(buf, "hel\0\0", 5));
  CHECK(ftruncate(fd, 100000) == 0 && fstat(fd, &st) == 0 && st.st_size == 100000 && lseek(fd, 0, SEEK_END) == 100000);
  CHECK(pread(fd, buf, sizeof buf, 95000) == 5000 && pread(fd, buf, 10, 100000) == 0);
  CHECK(pwrite(fd, "end", 3, 200000) == 3 && pread(fd, buf, 8192, 195000) == 5003 && buf[0] == 0 && buf[5000] == 'e');
  FAILS(ftruncate(fd, -1), EINVAL);
  FAILS(lseek(fd, -1, SEEK_SET), EINVAL);
  FAILS(lseek(fd, 0, 99), EINVAL);
  FAILS(pread(fd, buf, 1, -1), EINVAL);
  CHECK(lseek(fd, 10, SEEK_SET) == 10 && lseek(fd, -5, SEEK_CUR) == 5 && lseek(fd, 1000000, SEEK_CUR) == 1000005 && read(fd, buf, 1) == 0);
  close(fd);
  FAILS(truncate(".", 0), EISDIR);
  FAILS(truncate("none", 0), ENOENT);
  CHECK((fd = open("f", O_RDWR | O_TRUNC)) >= 0 && fstat(fd, &st) == 0 && st.st_size == 0 && st.st_blocks == 0);
  close(fd);
  CHECK(unlink("f") == 0);
  group("size");
}

static void test_fs(void) {
  struct statfs a, b;
  struct statx x;
  CHECK(statfs(".", &a) == 0 && a.f_bsize > 0 && a.f_namelen >= 255);
  int fd = open(".", O_RDONLY);
  CHECK(fstatfs(fd, &b) == 0 && a.f_type == b.f_type && a.f_blocks == b.f_blocks);
  FAILS(statfs("none", &a), ENOENT);
  FAILS(fstatfs(99, &a), EBADF);
  CHECK(statx(AT_FDCWD, ".", 0, STATX_BASIC_STATS, &x) == 0 && S_ISDIR(x.stx_mode) && (x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
  CHECK(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &x) == 0 && S_ISDIR(x.stx_mode));
  FAILS(statx(AT_FDCWD, "none", 0, STATX_BASIC_STATS, &x), ENOENT);
  FAILS(statx(AT_FDCWD, "", 0, STATX_BASIC_STATS, &x), ENOENT);
  struct stat st;
  CHECK(fstatat(fd, "", &st, AT_EMPTY_PATH) == 0 && S_ISDIR(st.st_mode) && syncfs(fd) == 0);
  sync();
  close(fd);
  int p[2];
  CHECK(pipe(p) == 0 && fstat(p[0], &st) == 0 && S_ISFIFO(st.st_mode));
  close(p[0]);
  close(p[1]);
  group("statfs and statx");
}

static void test_xattr(void) {
  char buf[64];
  CHECK(put_file("f", "x") == 0);
  if (setxattr("f", "user.one", "value", 5, 0) == 0) {
    CHECK(getxattr("f", "user.one", buf, sizeof buf) == 5 && !memcmp(buf, "value", 5) && getxattr("f", "user.one", NULL, 0) == 5);
    FAILS(getxattr("f", "user.one", buf, 2), ERANGE);
    FAILS(setxattr("f", "user.one", "v", 1, XATTR_CREATE), EEXIST);
    FAILS(setxattr("f", "user.two", "v", 1, XATTR_REPLACE), ENODATA);
    CHECK(setxattr("f", "user.one", "v2", 2, XATTR_REPLACE) == 0 && getxattr("f", "user.one", buf, sizeof buf) == 2);
    long n = listxattr("f", buf, sizeof buf);
    CHECK(n >= 9 && memmem(buf, (size_t)n, "user.one", 9));
    CHECK(removexattr("f", "user.one") == 0);
    FAILS(getxattr("f", "user.one", buf, sizeof buf), ENODATA);
    FAILS(removexattr("f", "user.one"), ENODATA);
  } else {
    CHECK(errno == EOPNOTSUPP);
  }
  FAILS(setxattr("f", "nonsense.one", "v", 1, 0), EOPNOTSUPP);
  FAILS(setxattr("f", "", "v", 1, 0), ERANGE);
  FAILS(getxattr("none", "user.one", buf, sizeof buf), ENOENT);
  CHECK(unlink("f") == 0);
  group("xattr");
}

static void test_special(void) {
  struct stat st;
  char buf[8];
  int r = mkfifo("p", 0640);
  if (r == 0) {
    CHECK(stat("p", &st) == 0 && S_ISFIFO(st.st_mode) && (st.st_mode & 07777) == 0640);
    FAILS(open("p", O_WRONLY | O_NONBLOCK), ENXIO);
    int in = open("p", O_RDONLY | O_NONBLOCK), out = open("p", O_WRONLY);
    CHECK(in >= 0 && out >= 0 && write(out, "abc", 3) == 3 && read(in, buf, 8) == 3 && !memcmp(buf, "abc", 3));
    close(out);
    CHECK(read(in, buf, 8) == 0);
    close(in);
    CHECK(unlink("p") == 0);
  } else {
    CHECK(errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS);
  }
  FAILS(mknod("dir", S_IFDIR | 0700, 0), EPERM);
  CHECK(mknod("reg", S_IFREG | 0600, 0) == 0 && stat("reg", &st) == 0 && S_ISREG(st.st_mode) && unlink("reg") == 0);
  int fd = open("/dev/null", O_RDWR);
  CHECK(fd >= 0 && read(fd, buf, 8) == 0 && write(fd, buf, 8) == 8 && fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == 0x103);
  close(fd);
  fd = open("/dev/zero", O_RDONLY);
  CHECK(fd >= 0 && read(fd, buf, 8) == 8 && !buf[0] && !buf[7]);
  close(fd);
  fd = open("/dev/full", O_WRONLY);
  CHECK(fd >= 0);
  FAILS(write(fd, buf, 8), ENOSPC);
  close(fd);
  group("special files");
}

int main(int argc, char **argv) {
  begin(argc, argv);
  test_mode();
  test_times();
  test_size();
  test_fs();
  test_xattr();
  test_special();
  return finish();
}

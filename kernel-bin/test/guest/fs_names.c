// SPDX-License-Identifier: Apache-2.0
// Making, finding, linking, renaming and removing names, with Linux's error numbers.
#include "fs_common.h"
#include <sys/syscall.h>

static void test_open(void) {
  int fd;
  FAILS(open("f", O_RDONLY), ENOENT);
  FAILS(open("", O_RDONLY), ENOENT);
  CHECK((fd = open("f", O_CREAT | O_EXCL | O_RDWR, 0666)) >= 0 && close(fd) == 0);
  FAILS(open("f", O_CREAT | O_EXCL | O_RDWR, 0666), EEXIST);
  FAILS(open("f/", O_RDONLY), ENOTDIR);
  FAILS(open("f/g", O_RDONLY), ENOTDIR);
  FAILS(open("f", O_RDONLY | O_DIRECTORY), ENOTDIR);
  FAILS(open("new/", O_CREAT | O_WRONLY, 0666), EISDIR);
  FAILS(open(".", O_WRONLY), EISDIR);
  FAILS(open(".", O_RDWR | O_CREAT, 0666), EISDIR);
  FAILS(open("no/f", O_CREAT | O_WRONLY, 0666), ENOENT);
  FAILS(open((char *)1, O_RDONLY), EFAULT);
  FAILS(openat(99, "f", O_RDONLY), EBADF);
  CHECK((fd = open("f", O_WRONLY)) >= 0);
  char c;
  FAILS(read(fd, &c, 1), EBADF);
  FAILS(openat(fd, "f", O_RDONLY), ENOTDIR);
  close(fd);
  CHECK((fd = open("f", O_RDONLY)) >= 0);
  FAILS(write(fd, "x", 1), EBADF);
  FAILS(ftruncate(fd, 0), EINVAL);
  close(fd);
  CHECK((fd = open("f", O_PATH)) >= 0);
  FAILS(read(fd, &c, 1), EBADF);
  FAILS(fchmod(fd, 0600), EBADF);
  struct stat st;
  CHECK(fstat(fd, &st) == 0 && S_ISREG(st.st_mode));
  close(fd);
  CHECK((fd = open(".", O_RDONLY | O_DIRECTORY)) >= 0);
  FAILS(read(fd, &c, 1), EISDIR);
  int in = openat(fd, "f", O_RDONLY);
  CHECK(in >= 0 && close(in) == 0 && unlinkat(fd, "f", 0) == 0);
  close(fd);
  char *name = malloc(6000);
  memset(name, 'x', 6000);
  name[256] = 0;
  FAILS(open(name, O_CREAT | O_WRONLY, 0600), ENAMETOOLONG);
  name[256] = 'x';
  for (int k = 10; k < 5999; k += 10) name[k] = '/';
  name[5999] = 0;
  FAILS(open(name, O_RDONLY), ENAMETOOLONG);
  free(name);
  group("open");
}

static void test_dirs(void) {
  struct stat st;
  CHECK(mkdir("d", 0777) == 0 && stat("d", &st) == 0 && (st.st_mode & 07777) == 0755);
  FAILS(mkdir("d", 0777), EEXIST);
  FAILS(mkdir("d/.", 0777), EEXIST);
  FAILS(mkdir(".", 0777), EEXIST);
  FAILS(mkdir("/", 0777), EEXIST);
  FAILS(mkdir("", 0777), ENOENT);
  FAILS(mkdir("x/y", 0777), ENOENT);
  CHECK(mkdir("d/sub/", 0700) == 0 && put_file("d/f", "") == 0);
  FAILS(mkdir("d/f/x", 0777), ENOTDIR);
  FAILS(rmdir("d"), ENOTEMPTY);
  FAILS(rmdir("d/f"), ENOTDIR);
  FAILS(rmdir("d/sub/."), EINVAL);
  FAILS(rmdir("d/sub/.."), ENOTEMPTY);
  FAILS(unlink("d/sub"), EISDIR);
  FAILS(unlink("d/f/"), ENOTDIR);
  FAILS(unlink("d/none"), ENOENT);
  CHECK(unlinkat(AT_FDCWD, "d/sub", AT_REMOVEDIR) == 0 && unlink("d/f") == 0 && rmdir("d/") == 0 && !exists("d"));
  CHECK(mkdir("gone", 0700) == 0 && chdir("gone") == 0 && rmdir("../gone") == 0);
  FAILS(open("x", O_CREAT | O_WRONLY, 0600), ENOENT);
  FAILS(mkdir("x", 0600), ENOENT);
  char buf[600];
  FAILS(syscall(SYS_getcwd, buf, sizeof buf), ENOENT);
  CHECK(stat(".", &st) == 0 && chdir("..") == 0 && getcwd(buf, sizeof buf) && !strcmp(buf, work_dir));
  FAILS(syscall(SYS_getcwd, buf, 3), ERANGE);
  int fd = open(".", O_RDONLY);
  CHECK(fd >= 0 && mkdir("e", 0700) == 0 && chdir("e") == 0 && fchdir(fd) == 0 && rmdir("e") == 0);
  close(fd);
  FAILS(chdir("none"), ENOENT);
  FAILS(fchdir(99), EBADF);
  group("directories");
}

static void test_links(void) {
  struct stat st, st2;
  char buf[64];
  CHECK(put_file("f", "one") == 0 && link("f", "g") == 0 && stat("g", &st) == 0 && st.st_nlink == 2 && stat("f", &st2) == 0 && st.st_ino == st2.st_ino);
  FAILS(link("f", "g"), EEXIST);
  FAILS(link("none", "h"), ENOENT);
  FAILS(link(".", "h"), EPERM);
  CHECK(unlink("f") == 0 && file_is("g", "one") && stat("g", &st) == 0 && st.st_nlink == 1);
  CHECK(symlink("g", "s") == 0 && readlink("s", buf, sizeof buf) == 1 && buf[0] == 'g' && lstat("s", &st) == 0 && S_ISLNK(st.st_mode) && st.st_size == 1);
  CHECK(file_is("s", "one"));
  FAILS(symlink("g", "s"), EEXIST);
  FAILS(symlink("", "t"), ENOENT);
  FAILS(readlink("g", buf, sizeof buf), EINVAL);
  FAILS(readlink("s", buf, 0), EINVAL);
  FAILS(open("s", O_RDONLY | O_NOFOLLOW), ELOOP);
  FAILS(open("s", O_CREAT | O_EXCL | O_WRONLY, 0600), EEXIST);
  FAILS(lstat("s/", &st), ENOTDIR);
  CHECK(link("s", "s2") == 0 && lstat("s2", &st) == 0 && S_ISLNK(st.st_mode) && st.st_nlink == 2); // the link itself
  CHECK(linkat(AT_FDCWD, "s", AT_FDCWD, "hard", AT_SYMLINK_FOLLOW) == 0 && lstat("hard", &st) == 0 && S_ISREG(st.st_mode));
  CHECK(symlink("b", "a") == 0 && symlink("a", "b") == 0);
  FAILS(open("a", O_RDONLY), ELOOP);
  FAILS(stat("a/x", &st), ELOOP);
  CHECK(symlink("made", "dangling") == 0);
  FAILS(stat("dangling", &st), ENOENT);
  CHECK(put_file("dangling", "two") == 0 && file_is("made", "two"));
  CHECK(mkdir("dir", 0700) == 0 && symlink("dir", "ld") == 0 && put_file("ld/x", "in") == 0 && file_is("dir/x", "in") && file_is("ld/../ld/x", "in"));
  FAILS(rmdir("ld"), ENOTDIR);
  CHECK(unlink("dir/x") == 0 && unlink("ld") == 0 && rmdir("dir") == 0);
  const char *names[] = { "g", "s", "s2", "hard", "a", "b", "made", "dangling" };
  for (unsigned k = 0; k < sizeof names / sizeof *names; k++) CHECK(unlink(names[k]) == 0);
  group("links");
}

static void test_rename(void) {
  struct stat st, st2;
  CHECK(mkdir("d1", 0700) == 0 && mkdir("d2", 0700) == 0 && put_file("f1", "1") == 0 && put_file("f2", "2") == 0);
  FAILS(rename("none", "x"), ENOENT);
  FAILS(rename("f1", "d1"), EISDIR);
  FAILS(rename("d1", "f1"), ENOTDIR);
  FAILS(rename("f1/", "x"), ENOTDIR);
  FAILS(rename("f1", "x/"), ENOTDIR);
  FAILS(rename("d1", "d1/in"), EINVAL);
  FAILS(rename("d1/.", "x"), EBUSY);
  FAILS(rename("f1", "no/x"), ENOENT);
  FAILS(renameat2(AT_FDCWD, "f1", AT_FDCWD, "f2", RENAME_NOREPLACE), EEXIST);
  CHECK(rename("f1", "f1") == 0 && rename("f1", "f2") == 0 && file_is("f2", "1") && !exists("f1"));
  CHECK(link("f2", "f3") == 0 && rename("f2", "f3") == 0 && exists("f2") && exists("f3") && unlink("f3") == 0); // two names of one file
  CHECK(rename("f2", "d1/f") == 0 && rename("d1", "d2/moved") == 0 && file_is("d2/moved/f", "1"));
  CHECK(mkdir("d3", 0700) == 0 && rename("d2/moved", "d3") == 0 && file_is("d3/f", "1"));
  FAILS(rename("d2", "d3"), ENOTEMPTY);
  int fd = open("d3/f", O_RDONLY);
  char c;
  CHECK(put_file("new", "n") == 0 && rename("new", "d3/f") == 0 && read(fd, &c, 1) == 1 && c == '1' && fstat(fd, &st) == 0 && st.st_nlink == 0);
  close(fd);
  CHECK(renameat2(AT_FDCWD, "d3/f", AT_FDCWD, "plain", RENAME_NOREPLACE) == 0 && file_is("plain", "n"));
  CHECK(chdir("d3") == 0 && rename("../d3", "../d4") == 0);
  char buf[600], want[600];
  snprintf(want, sizeof want, "%.500s/d4", work_dir);
  CHECK(getcwd(buf, sizeof buf) && !strcmp(buf, want) && chdir("..") == 0);
  CHECK(stat("d2", &st) == 0 && stat("plain", &st2) == 0);
  for (int i = 0; i < 3; i++) CHECK(renameat2(AT_FDCWD, "plain", AT_FDCWD, "plain", RENAME_EXCHANGE) == 0); // with itself
  CHECK(file_is("plain", "n") && stat("./plain", &st2) == 0);
  int r = renameat2(AT_FDCWD, "d2", AT_FDCWD, "plain", RENAME_EXCHANGE);
  if (r == 0) {
    CHECK(stat("plain", &st2) == 0 && st2.st_ino == st.st_ino && file_is("d2", "n"));
    FAILS(renameat2(AT_FDCWD, "d2", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
    CHECK(rmdir("plain") == 0 && unlink("d2") == 0);
  } else { // not every file system can
    CHECK(errno == EINVAL && unlink("plain") == 0 && rmdir("d2") == 0);
  }
  FAILS(renameat2(AT_FDCWD, "d4", AT_FDCWD, "x", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
  CHECK(rmdir("d4") == 0);
  group("rename");
}

static void test_deep(void) {
  // A tree deeper than PATH_MAX, walked up and down by relative names.
  int depth = 0;
  for (; depth < 300; depth++)
    if (mkdir("a-directory-name", 0700) || chdir("a-directory-name")) break;
  CHECK(depth == 300);
  for (; depth > 0; depth--)
    if (chdir("..") || rmdir("a-directory-name")) break;
  CHECK(depth == 0);
  group("deep");
}

int main(int argc, char **argv) {
  begin(argc, argv);
  test_open();
  test_dirs();
  test_links();
  test_rename();
  test_deep();
  return finish();
}

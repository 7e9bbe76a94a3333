// SPDX-License-Identifier: Apache-2.0
// Other users' rights, openat2's restrictions, inotify, /proc/self/fd links, chroot, file size limits.
#include "fs_common.h"
#include <grp.h>
#include <linux/openat2.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/syscall.h>

static void test_rights(void) {
  int status;
  if (getuid()) return; // only root can become others
  CHECK(chmod(".", 0755) == 0 && put_file("mine", "x") == 0 && mkdir("sticky", 0777) == 0 && chmod("sticky", 01777) == 0 && put_file("sticky/root", "") == 0);
  CHECK(mkdir("closed", 0700) == 0 && put_file("closed/f", "") == 0 && put_file("group", "g") == 0 && chown("group", 0, 77) == 0 && chmod("group", 0640) == 0);
  pid_t child = fork();
  if (!child) {
    failed = group_failed = 0;
    gid_t groups[] = { 77 };
    CHECK(setgroups(1, groups) == 0 && setgid(100) == 0 && setuid(1000) == 0);
    struct stat st;
    FAILS(open("mine", O_WRONLY), EACCES);
    FAILS(open("new", O_CREAT | O_WRONLY, 0600), EACCES);
    FAILS(mkdir("new", 0700), EACCES);
    FAILS(unlink("mine"), EACCES);
    FAILS(unlink("sticky/root"), EPERM);
    FAILS(rename("sticky/root", "sticky/x"), EPERM);
    FAILS(stat("closed/f", &st), EACCES);
    FAILS(open("closed", O_RDONLY), EACCES);
    FAILS(chmod("mine", 0777), EPERM);
    FAILS(chown("mine", 1000, -1), EPERM);
    FAILS(truncate("mine", 0), EACCES);
    FAILS(access("mine", W_OK), EACCES);
    FAILS(chroot("."), EPERM);
    CHECK(file_is("group", "g") && access("group", R_OK) == 0);
    CHECK(put_file("sticky/own", "o") == 0 && stat("sticky/own", &st) == 0 && st.st_uid == 1000 && st.st_gid == 100);
    CHECK(chown("sticky/own", -1, 77) == 0 && chmod("sticky/own", 0) == 0);
    FAILS(open("sticky/own", O_RDONLY), EACCES);
    FAILS(chown("sticky/own", -1, 78), EPERM);
    CHECK(unlink("sticky/own") == 0);
    fflush(stdout);
    _exit(failed);
  }
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(unlink("sticky/root") == 0 && rmdir("sticky") == 0 && unlink("closed/f") == 0 && rmdir("closed") == 0 && unlink("mine") == 0 && unlink("group") == 0);
  group("rights of others");
}

static long open2(int dir, const char *name, unsigned long long flags, unsigned long long resolve) {
  struct open_how how = { .flags = flags, .resolve = resolve };
  return syscall(SYS_openat2, dir, name, &how, sizeof how);
}

static void test_openat2(void) {
  CHECK(mkdir("d", 0700) == 0 && put_file("d/f", "f") == 0 && put_file("out", "") == 0 && symlink("../out", "d/up") == 0 && symlink("f", "d/in") == 0 && symlink("/f", "d/abs") == 0);
  int dir = open("d", O_PATH | O_DIRECTORY), fd;
  CHECK((fd = (int)open2(dir, "f", O_RDONLY, 0)) >= 0 && close(fd) == 0);
  CHECK((fd = (int)open2(dir, "in", O_RDONLY, RESOLVE_BENEATH)) >= 0 && close(fd) == 0);
  FAILS(open2(dir, "up", O_RDONLY, RESOLVE_BENEATH), EXDEV);
  FAILS(open2(dir, "../out", O_RDONLY, RESOLVE_BENEATH), EXDEV);
  FAILS(open2(dir, "abs", O_RDONLY, RESOLVE_BENEATH), EXDEV);
  FAILS(open2(dir, "in", O_RDONLY, RESOLVE_NO_SYMLINKS), ELOOP);
  CHECK((fd = (int)open2(dir, "abs", O_RDONLY, RESOLVE_IN_ROOT)) >= 0 && close(fd) == 0);
  CHECK((fd = (int)open2(dir, "../../f", O_RDONLY, RESOLVE_IN_ROOT)) >= 0 && close(fd) == 0);
  FAILS(open2(dir, "up", O_RDONLY, RESOLVE_IN_ROOT), ENOENT);
  FAILS(open2(dir, "f", O_RDONLY, 1 << 20), EINVAL);
  FAILS(open2(AT_FDCWD, "/dev/null", O_RDONLY, RESOLVE_NO_XDEV), EXDEV);
  close(dir);
  CHECK(unlink("d/f") == 0 && unlink("d/up") == 0 && unlink("d/in") == 0 && unlink("d/abs") == 0 && rmdir("d") == 0 && unlink("out") == 0);
  group("openat2");
}

static unsigned seen_mask;
static char seen_names[400];
static void drain(int fd) {
  char buf[4096] __attribute__((aligned(8)));
  long n = read(fd, buf, sizeof buf);
  for (long at = 0; at < n;) {
    struct inotify_event *e = (struct inotify_event *)(buf + at);
    seen_mask |= e->mask;
    if (e->len && (e->mask & (IN_CREATE | IN_DELETE | IN_MOVE))) {
      strcat(seen_names, e->name);
      strcat(seen_names, e->mask & IN_CREATE ? "+ " : e->mask & IN_DELETE ? "- " : e->mask & IN_MOVED_FROM ? "> " : "< ");
    }
    at += (long)(sizeof *e + e->len);
  }
}

static void test_inotify(void) {
  int fd = inotify_init1(IN_NONBLOCK), wd;
  CHECK(fd >= 0 && mkdir("w", 0700) == 0 && (wd = inotify_add_watch(fd, "w", IN_ALL_EVENTS)) >= 0);
  CHECK(put_file("w/a", "1") == 0 && rename("w/a", "w/b") == 0 && mkdir("w/d", 0700) == 0 && chmod("w/b", 0600) == 0 && unlink("w/b") == 0 && rmdir("w/d") == 0);
  drain(fd);
  CHECK(!strcmp(seen_names, "a+ a> b< d+ b- d- "));
  CHECK((seen_mask & (IN_OPEN | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_ISDIR)) == (IN_OPEN | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB | IN_ISDIR));
  seen_mask = 0;
  CHECK(rmdir("w") == 0);
  drain(fd);
  CHECK((seen_mask & (IN_DELETE_SELF | IN_IGNORED)) == (IN_DELETE_SELF | IN_IGNORED));
  close(fd);
  group("inotify");
}

static void test_magic(void) {
  char link[64], path[600], buf[16];
  struct stat st;
  int fd = open("f", O_CREAT | O_RDWR, 0600), p[2];
  CHECK(write(fd, "text", 4) == 4);
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  long n = readlink(link, path, sizeof path - 1);
  CHECK(n > 0 && (path[n] = 0, !strncmp(path, work_dir, strlen(work_dir))) && !strcmp(path + strlen(work_dir), "/f"));
  int again = open(link, O_RDONLY);
  CHECK(again >= 0 && read(again, buf, 16) == 4 && stat(link, &st) == 0 && st.st_size == 4);
  close(again);
  CHECK(unlink("f") == 0 && (n = readlink(link, path, sizeof path - 1)) > 10 && (path[n] = 0, !strcmp(path + n - 10, " (deleted)")));
  CHECK((again = open(link, O_RDONLY)) >= 0 && read(again, buf, 16) == 4); // still there through the link
  close(again);
  close(fd);
  CHECK(pipe(p) == 0);
  snprintf(link, sizeof link, "/proc/self/fd/%d", p[1]);
  CHECK(stat(link, &st) == 0 && S_ISFIFO(st.st_mode));
  int w = open(link, O_WRONLY);
  CHECK(w >= 0 && write(w, "hi", 2) == 2 && read(p[0], buf, 16) == 2);
  close(w);
  close(p[0]);
  close(p[1]);
  FAILS(open("/proc/self/fd/200", O_RDONLY), ENOENT);
  group("magic links");
}

static void test_chroot(void) {
  int status;
  if (getuid()) return;
  CHECK(mkdir("jail", 0700) == 0 && mkdir("jail/sub", 0700) == 0 && put_file("jail/f", "in jail") == 0 && symlink("/f", "jail/sub/l") == 0);
  pid_t child = fork();
  if (!child) {
    char buf[100];
    failed = 0;
    CHECK(chroot("jail") == 0 && chdir("/sub") == 0 && getcwd(buf, sizeof buf) && !strcmp(buf, "/sub"));
    CHECK(file_is("/f", "in jail") && file_is("l", "in jail") && file_is("../../../f", "in jail") && chdir("/..") == 0 && getcwd(buf, sizeof buf) && !strcmp(buf, "/"));
    FAILS(open("/dev/null", O_RDONLY), ENOENT);
    fflush(stdout);
    _exit(failed);
  }
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(unlink("jail/sub/l") == 0 && unlink("jail/f") == 0 && rmdir("jail/sub") == 0 && rmdir("jail") == 0);
  group("chroot");
}

static void test_limit(void) {
  int status;
  pid_t child = fork();
  if (!child) {
    struct rlimit r = { 1000, 1000 };
    char buf[600] = "";
    failed = 0;
    signal(SIGXFSZ, SIG_IGN);
    CHECK(setrlimit(RLIMIT_FSIZE, &r) == 0);
    int fd = open("big", O_CREAT | O_RDWR, 0600);
    CHECK(write(fd, buf, 600) == 600 && write(fd, buf, 600) == 400);
    FAILS(write(fd, buf, 1), EFBIG);
    FAILS(ftruncate(fd, 1001), EFBIG);
    signal(SIGXFSZ, SIG_DFL);
    if (failed) _exit(1);
    if (write(fd, buf, 1)) {}
    _exit(2); // the signal ends it before
  }
  CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
  CHECK(unlink("big") == 0);
  group("file size limit");
}

int main(int argc, char **argv) {
  begin(argc, argv);
  test_rights();
  test_openat2();
  test_inotify();
  test_magic();
  test_chroot();
  test_limit();
  return finish();
}

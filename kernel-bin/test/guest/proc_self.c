// SPDX-License-Identifier: Apache-2.0
// /proc and the vdso: what programs read of themselves has Linux's form and says the truth.
#include "check.h"
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char text[1 << 16];
static char *slurp(const char *path) {
  int fd = open(path, O_RDONLY), n = 0, r;
  text[0] = 0;
  if (fd < 0) return NULL;
  while ((r = (int)read(fd, text + n, sizeof text - 1 - (size_t)n)) > 0) n += r;
  close(fd);
  text[n] = 0;
  return text;
}

static void maps(void) {
  char *p = mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), line[256], perms[8];
  mprotect(p + 4096, 4096, PROT_NONE);
  FILE *f = fopen("/proc/self/maps", "r");
  int found = 0, stack = 0, heap = 0, exe = 0, vdso = 0, sorted = 1;
  unsigned long a, b, last = 0;
  char self[256];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  CHECK(n > 0);
  self[n > 0 ? n : 0] = 0;
  free(malloc(100));
  while (f && fgets(line, sizeof line, f)) {
    if (sscanf(line, "%lx-%lx %4s", &a, &b, perms) != 3) sorted = 0;
    if (a < last || b <= a) sorted = 0;
    last = b;
    if (a == (unsigned long)p + 4096 && b == a + 4096 && !strcmp(perms, "---p")) found = 1;
    if (strstr(line, "[stack]") && (unsigned long)line >= a && (unsigned long)line < b && !strncmp(perms, "rw-p", 4)) stack = 1;
    if (strstr(line, "[heap]")) heap = 1;
    if (strstr(line, "[vdso]") && a == getauxval(AT_SYSINFO_EHDR)) vdso = 1;
    if (strstr(line, self) && (unsigned long)maps >= a && (unsigned long)maps < b && !strcmp(perms, "r-xp")) exe = 1;
  }
  if (f) fclose(f);
  CHECK(f && found && stack && heap && exe && vdso && sorted);
  munmap(p, 5 * 4096);
}

static void identity(void) {
  int pid, ppid;
  char comm[32], state;
  CHECK(slurp("/proc/self/stat") && sscanf(text, "%d (%31[^)]) %c %d", &pid, comm, &state, &ppid) == 4 && pid == getpid() && ppid == getppid() && state == 'R');
  CHECK(prctl(PR_SET_NAME, "renamed") == 0 && slurp("/proc/self/comm") && !strcmp(text, "renamed\n"));
  CHECK(slurp("/proc/self/status") && strstr(text, "Name:\trenamed\n") && strstr(text, "\nThreads:\t1\n") && strstr(text, "\nVmRSS:\t"));
  CHECK(slurp("/proc/self/cmdline") && strstr(text, "proc_self"));
  CHECK(slurp("/proc/self/statm") && strtoul(text, NULL, 10) > 100);
  CHECK(slurp("/proc/self/limits") && !strncmp(text, "Limit                     Soft Limit", 36));
  char link[64], want[64];
  ssize_t n = readlink("/proc/self", link, sizeof link - 1);
  link[n > 0 ? n : 0] = 0;
  snprintf(want, sizeof want, "%d", getpid());
  CHECK(!strcmp(link, want));
  struct stat a, b;
  CHECK(stat("/proc/self/exe", &a) == 0 && S_ISREG(a.st_mode) && stat("/proc/self/cwd", &a) == 0 && stat(".", &b) == 0 && a.st_ino == b.st_ino);
  CHECK(open("/proc/99999999/stat", O_RDONLY) == -1 && errno == ENOENT);
  CHECK(open("/proc/self/nothing", O_RDONLY) == -1 && errno == ENOENT);
}

static void descriptors(void) {
  int fd = open("/proc/self/exe", O_RDONLY), p[2], seen = 0, others = 0;
  CHECK(fd >= 0 && pipe(p) == 0);
  char name[64], link[256];
  snprintf(name, sizeof name, "/proc/self/fd/%d", p[0]);
  ssize_t n = readlink(name, link, sizeof link - 1);
  link[n > 0 ? n : 0] = 0;
  CHECK(!strncmp(link, "pipe:[", 6));
  int again = open(name, O_RDONLY | O_NONBLOCK);
  char c = 0;
  CHECK(again >= 0 && write(p[1], "y", 1) == 1 && read(again, &c, 1) == 1 && c == 'y');
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  struct stat a, b;
  CHECK(stat(name, &a) == 0 && fstat(fd, &b) == 0 && a.st_ino == b.st_ino);
  DIR *d = opendir("/proc/self/fd");
  for (struct dirent *e; d && (e = readdir(d));) {
    if (e->d_name[0] == '.') continue;
    if (atoi(e->d_name) == fd) seen++;
    others += fcntl(atoi(e->d_name), F_GETFD) >= 0;
  }
  if (d) closedir(d);
  CHECK(d && seen == 1 && others >= 4);
  snprintf(name, sizeof name, "/proc/self/fdinfo/%d", fd);
  CHECK(lseek(fd, 77, SEEK_SET) == 77 && slurp(name) && !strncmp(text, "pos:\t77\nflags:\t0", 16));
  close(again);
  close(fd);
  close(p[0]);
  close(p[1]);
}

static void *idle(void *arg) {
  pthread_barrier_wait(arg);
  pthread_barrier_wait(arg);
  return NULL;
}
static void threads(void) {
  pthread_t t[3];
  pthread_barrier_t b;
  pthread_barrier_init(&b, NULL, 4);
  for (int i = 0; i < 3; i++) pthread_create(&t[i], NULL, idle, &b);
  pthread_barrier_wait(&b);
  DIR *d = opendir("/proc/self/task");
  int n = 0;
  for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
  if (d) closedir(d);
  CHECK(n == 4 && slurp("/proc/self/status") && strstr(text, "\nThreads:\t4\n"));
  char name[64];
  snprintf(name, sizeof name, "/proc/self/task/%d/comm", getpid());
  CHECK(slurp(name) && !strcmp(text, "renamed\n"));
  pthread_barrier_wait(&b);
  for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
}

static void system_wide(void) {
  CHECK(slurp("/proc/meminfo") && strstr(text, "MemTotal:") && strstr(text, "MemAvailable:"));
  CHECK(slurp("/proc/cpuinfo") && strstr(text, "processor\t: 0\n") && strstr(text, "flags\t\t: "));
  CHECK(slurp("/proc/stat") && !strncmp(text, "cpu  ", 5) && strstr(text, "\ncpu0 ") && strstr(text, "\nbtime "));
  CHECK(slurp("/proc/uptime") && strtod(text, NULL) > 0);
  CHECK(slurp("/proc/loadavg") && strchr(text, '/'));
  CHECK(slurp("/proc/self/mounts") && strstr(text, " / ") && strstr(text, "proc /proc proc "));
  CHECK(slurp("/proc/sys/kernel/osrelease") && text[0] >= '4');
  CHECK(slurp("/proc/sys/vm/overcommit_memory") && strlen(text) == 2);
  CHECK(slurp("/proc/sys/kernel/random/uuid") && strlen(text) == 37 && text[14] == '4');
  CHECK(slurp("/proc/filesystems") && strstr(text, "nodev\tproc\n"));
}

static void vdso(void) {
  CHECK(getauxval(AT_SYSINFO_EHDR) != 0);
  struct timespec a, b, c;
  long back = 0, apart = 0;
  for (int i = 0; i < 2000; i++) {
    clock_gettime(CLOCK_MONOTONIC, &a);
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &b);
    clock_gettime(CLOCK_MONOTONIC, &c);
    long ab = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec, bc = (c.tv_sec - b.tv_sec) * 1000000000 + c.tv_nsec - b.tv_nsec;
    back += ab < 0 || bc < 0;
    apart += ab > 1000000000 || bc > 1000000000;
  }
  CHECK(back == 0 && apart == 0);
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &a);
  clock_gettime(CLOCK_REALTIME, &b);
  struct timeval tv;
  gettimeofday(&tv, NULL);
  time_t t = time(NULL);
  long diff = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
  CHECK(diff >= 0 && diff < 1000000000 && tv.tv_sec - b.tv_sec <= 1 && t - tv.tv_sec <= 1 && t >= tv.tv_sec);
  CHECK(clock_getres(CLOCK_MONOTONIC, &a) == 0 && a.tv_sec == 0 && a.tv_nsec == 1);
  CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a) == 0 && clock_gettime(12345, &a) == -1 && errno == EINVAL);
  unsigned cpu = 999;
  CHECK(syscall(SYS_getcpu, &cpu, NULL, NULL) == 0 && cpu < 64 && sched_getcpu() >= 0);
}

// A directory of /proc outlives its process, and that one's parent.
static void of_the_dead(void) {
  int up[2], down[2], ppid = 0;
  char name[32], c = 0;
  CHECK(pipe(up) == 0 && pipe(down) == 0);
  pid_t parent = fork();
  if (!parent) {
    pid_t child = fork();
    if (!child) pause();
    if (write(up[1], &child, sizeof child) != sizeof child || read(down[0], &c, 1) != 1) _exit(1);
    kill(child, SIGKILL);
    _exit(waitpid(child, NULL, 0) != child);
  }
  pid_t child = 0;
  CHECK(read(up[0], &child, sizeof child) == sizeof child);
  snprintf(name, sizeof name, "/proc/%d", child);
  int dir = open(name, O_RDONLY | O_DIRECTORY), st = -1;
  CHECK(dir >= 0 && write(down[1], &c, 1) == 1 && waitpid(parent, &st, 0) == parent && st == 0);
  int fd = openat(dir, "stat", O_RDONLY); // Linux: gone. Here: no parent, least of all one that is gone
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (n > 0) {
    text[n] = 0;
    CHECK(sscanf(text, "%*d (%*[^)]) %*c %d", &ppid) == 1);
  }
  CHECK(ppid == 0);
  if (fd >= 0) close(fd);
  close(dir);
  for (int i = 0; i < 2; i++) close(up[i]), close(down[i]);
}

int main(void) {
  RUN(maps);
  RUN(identity);
  RUN(descriptors);
  RUN(threads);
  RUN(system_wide);
  RUN(vdso);
  RUN(of_the_dead);
  FINISH();
}

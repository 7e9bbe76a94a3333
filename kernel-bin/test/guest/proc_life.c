// SPDX-License-Identifier: Apache-2.0
// fork, vfork, clone, exec, exit and wait.
#include "check.h"
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *self;
extern char **environ;

static int wait_status(pid_t pid) {
  int st = -1;
  while (waitpid(pid, &st, 0) < 0 && errno == EINTR) {}
  return st;
}

static void exit_codes(void) {
  int codes[] = { 0, 1, 7, 255, 256 + 3 };
  for (unsigned i = 0; i < 5; i++) {
    pid_t p = fork();
    if (!p) _exit(codes[i]);
    int st = wait_status(p);
    CHECK(WIFEXITED(st) && WEXITSTATUS(st) == (codes[i] & 255));
  }
  CHECK(waitpid(-1, NULL, 0) == -1 && errno == ECHILD);
}

static void killed_by_signal(void) {
  int sigs[] = { SIGKILL, SIGTERM, SIGABRT, SIGSEGV, SIGUSR1, SIGRTMIN + 3 };
  for (unsigned i = 0; i < 6; i++) {
    pid_t p = fork();
    if (!p) {
      struct rlimit none = { 0, 0 };
      setrlimit(RLIMIT_CORE, &none);
      for (;;) pause();
    }
    CHECK(kill(p, sigs[i]) == 0);
    int st = wait_status(p);
    CHECK(WIFSIGNALED(st) && WTERMSIG(st) == sigs[i]);
  }
}

static int shared = 1;
static void copy_on_write(void) {
  int fd[2];
  CHECK(pipe(fd) == 0);
  shared = 5;
  char *heap = malloc(1 << 20);
  memset(heap, 'a', 1 << 20);
  pid_t p = fork();
  if (!p) {
    shared = 6;
    heap[12345] = 'b';
    char c;
    close(fd[1]);
    if (read(fd[0], &c, 1) != 1) _exit(1);
    _exit(shared == 6 && heap[12345] == 'b' && heap[0] == 'a' ? 0 : 2);
  }
  close(fd[0]);
  shared = 7;
  heap[12345] = 'c';
  CHECK(write(fd[1], "x", 1) == 1);
  int st = wait_status(p);
  CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 0);
  CHECK(shared == 7 && heap[12345] == 'c');
  free(heap);
  close(fd[1]);
}

static void vfork_shares(void) {
  volatile int mark = 1;
  pid_t p = vfork();
  if (!p) {
    mark = 2;
    _exit(4);
  }
  CHECK(mark == 2); // ran before us, in our memory
  CHECK(WEXITSTATUS(wait_status(p)) == 4);
}

static int run_child(char *const argv[], char *const envp[]) {
  pid_t p = fork();
  if (!p) {
    execve(self, argv, envp);
    _exit(126);
  }
  return wait_status(p);
}

static void exec_args(void) {
  char *argv[] = { "name", "child", "args", "", "two words", NULL }, *envp[] = { "A=1", "EMPTY=", NULL };
  int st = run_child(argv, envp);
  CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 42);
}

static void exec_errors(void) {
  char *argv[] = { "x", NULL };
  CHECK(execve("/no/such/file", argv, environ) == -1 && errno == ENOENT);
  CHECK(execve("/", argv, environ) == -1 && errno == EACCES);
  char path[] = "/tmp/proc_life.XXXXXX";
  int fd = mkstemp(path);
  CHECK(fd >= 0);
  CHECK(write(fd, "\177ELF garbage that is no program at all, but long enough to be read as a header......", 80) == 80);
  fchmod(fd, 0644);
  CHECK(execve(path, argv, environ) == -1 && errno == EACCES);
  fchmod(fd, 0755);
  close(fd);
  CHECK(execve(path, argv, environ) == -1 && errno == ENOEXEC);
  unlink(path);
}

static void exec_script(void) {
  char path[] = "/tmp/proc_script.XXXXXX", line[4200];
  int fd = mkstemp(path);
  int n = snprintf(line, sizeof line, "#! %s child \nignored\n", self);
  CHECK(fd >= 0 && write(fd, line, n) == n);
  fchmod(fd, 0755);
  close(fd);
  pid_t p = fork();
  if (!p) {
    char *argv[] = { "ignored-name", "script", NULL };
    execve(path, argv, environ);
    _exit(126);
  }
  int st = wait_status(p);
  CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 43);
  unlink(path);
}

static void exec_cloexec(void) {
  int keep = open("/dev/null", O_RDONLY), gone = open("/dev/null", O_RDONLY | O_CLOEXEC);
  char a[16], b[16];
  snprintf(a, sizeof a, "%d", keep);
  snprintf(b, sizeof b, "%d", gone);
  char *argv[] = { "x", "child", "fds", a, b, NULL };
  int st = run_child(argv, environ);
  CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 44);
  close(keep);
  close(gone);
}

static void exec_large(void) {
  // 100 kB of arguments go, 10 MB do not.
  char *big = malloc(100001);
  memset(big, 'x', 100000);
  big[100000] = 0;
  char *argv[] = { "x", "child", "large", big, NULL };
  int st = run_child(argv, environ);
  CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 45);
  char **many = malloc(102 * sizeof *many);
  for (int i = 0; i < 101; i++) many[i] = big;
  many[101] = NULL;
  CHECK(execve(self, many, environ) == -1 && errno == E2BIG);
  free(many);
  free(big);
}

static void spawn(void) {
  pid_t p;
  char *argv[] = { "x", "child", "seven", NULL };
  CHECK(posix_spawn(&p, self, NULL, NULL, argv, environ) == 0);
  CHECK(WEXITSTATUS(wait_status(p)) == 7);
  CHECK(posix_spawn(&p, "/no/such", NULL, NULL, argv, environ) == ENOENT);
}

static void waiting(void) {
  pid_t a = fork();
  if (!a) {
    for (;;) pause();
  }
  int st;
  CHECK(waitpid(a, &st, WNOHANG) == 0);
  siginfo_t si;
  memset(&si, 1, sizeof si);
  CHECK(waitid(P_PID, a, &si, WEXITED | WNOHANG) == 0 && si.si_pid == 0);
  CHECK(kill(a, SIGTERM) == 0);
  CHECK(waitid(P_PID, a, &si, WEXITED | WNOWAIT) == 0);
  CHECK(si.si_pid == a && si.si_code == CLD_KILLED && si.si_status == SIGTERM && si.si_signo == SIGCHLD);
  struct rusage ru;
  CHECK(wait4(a, &st, 0, &ru) == a && WIFSIGNALED(st));
  CHECK(waitpid(a, &st, 0) == -1 && errno == ECHILD);
  CHECK(waitid(P_ALL, 0, &si, 0) == -1 && errno == EINVAL);
}

static void stop_continue(void) {
  pid_t p = fork();
  if (!p) {
    for (;;) pause();
  }
  int st = 0;
  CHECK(kill(p, SIGSTOP) == 0);
  CHECK(waitpid(p, &st, WUNTRACED) == p && WIFSTOPPED(st) && WSTOPSIG(st) == SIGSTOP);
  CHECK(waitpid(p, &st, WUNTRACED | WNOHANG) == 0);
  CHECK(kill(p, SIGCONT) == 0);
  CHECK(waitpid(p, &st, WCONTINUED) == p && WIFCONTINUED(st));
  CHECK(kill(p, SIGSTOP) == 0);
  CHECK(waitpid(p, &st, WUNTRACED) == p && WIFSTOPPED(st));
  CHECK(kill(p, SIGKILL) == 0);
  CHECK(waitpid(p, &st, 0) == p && WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
}

static void subreaper(void) {
  CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
  int fd[2];
  CHECK(pipe(fd) == 0);
  pid_t p = fork();
  if (!p) {
    pid_t middle = getpid();
    if (!fork()) {
      while (getppid() == middle) usleep(1000);
      pid_t parent = getppid();
      (void)!write(fd[1], &parent, sizeof parent);
      _exit(9);
    }
    _exit(0);
  }
  CHECK(WEXITSTATUS(wait_status(p)) == 0);
  pid_t parent = 0;
  CHECK(read(fd[0], &parent, sizeof parent) == sizeof parent && parent == getpid());
  int st;
  pid_t orphan = wait(&st);
  CHECK(orphan > 0 && orphan != p && WEXITSTATUS(st) == 9);
  prctl(PR_SET_CHILD_SUBREAPER, 0);
  close(fd[0]);
  close(fd[1]);
}

static void auto_reap(void) {
  signal(SIGCHLD, SIG_IGN);
  pid_t p = fork();
  if (!p) _exit(3);
  CHECK(waitpid(p, NULL, 0) == -1 && errno == ECHILD);
  signal(SIGCHLD, SIG_DFL);
}

static void groups(void) {
  pid_t p = fork();
  if (!p) {
    int bad = 0;
    bad |= setpgid(0, 0) != 0;
    bad |= getpgrp() != getpid();
    bad |= setsid() != -1 || errno != EPERM; // a group leader may not
    pid_t q = fork();
    if (!q) {
      int b = setsid() != getpid() || getsid(0) != getpid() || getpgrp() != getpid();
      b |= setpgid(0, getppid()) != -1 || errno != EPERM;
      _exit(b);
    }
    int st = wait_status(q);
    bad |= !WIFEXITED(st) || WEXITSTATUS(st);
    _exit(bad);
  }
  int st = wait_status(p);
  CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 0);
  CHECK(setpgid(1 << 21, 0) == -1 && errno == ESRCH);
  pid_t a = fork();
  if (!a) {
    for (;;) pause();
  }
  CHECK(setpgid(a, a) == 0 && getpgid(a) == a);
  pid_t b = fork();
  if (!b) {
    for (;;) pause();
  }
  CHECK(setpgid(b, a) == 0);
  CHECK(kill(-a, SIGTERM) == 0);
  pid_t w = waitpid(-a, &st, 0), x = waitpid(-a, &st, 0);
  CHECK((w == a && x == b) || (w == b && x == a));
  CHECK(kill(-a, 0) == -1 && errno == ESRCH);
}

static void limits(void) {
  struct rlimit r, old;
  CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0 && old.rlim_cur > 3);
  r = old;
  r.rlim_cur = 16;
  CHECK(setrlimit(RLIMIT_NOFILE, &r) == 0);
  int last = -1, fd;
  while ((fd = open("/dev/null", O_RDONLY)) >= 0) last = fd;
  CHECK(errno == EMFILE && last == 15);
  for (fd = 3; fd <= last; fd++) close(fd);
  CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
  r.rlim_cur = 10;
  r.rlim_max = 5;
  CHECK(setrlimit(RLIMIT_STACK, &r) == -1 && errno == EINVAL);
}

static void identity(void) {
  struct utsname u;
  CHECK(uname(&u) == 0 && !strcmp(u.sysname, "Linux") && !strcmp(u.machine, "x86_64"));
  char name[16] = "";
  CHECK(prctl(PR_SET_NAME, "a-rather-long-thread-name") == 0 && prctl(PR_GET_NAME, name) == 0 && !strcmp(name, "a-rather-long-t"));
  CHECK(getauxval(AT_PAGESZ) == 4096 && getauxval(AT_CLKTCK) == 100 && getauxval(AT_RANDOM));
  CHECK(getauxval(AT_SECURE) == 0 && !strcmp((char *)getauxval(AT_PLATFORM), "x86_64"));
  CHECK(syscall(SYS_gettid) == getpid());
  cpu_set_t set;
  CHECK(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) >= 1);
  CPU_ZERO(&set);
  CHECK(sched_setaffinity(0, sizeof set, &set) == -1 && errno == EINVAL);
  CPU_SET(0, &set);
  CHECK(sched_setaffinity(0, sizeof set, &set) == 0 && sched_getcpu() == 0);
  CHECK(syscall(1000) == -1 && errno == ENOSYS);
}

static int exec_worker(void *arg) {
  char *argv[] = { "x", "child", "seven", NULL };
  execve(self, argv, environ);
  return 1;
}

static int busy(void *arg) {
  while (getpid()) usleep(1000);
  return 0;
}

static void exec_kills_threads(void) {
  pid_t p = fork();
  if (!p) { // exec from a thread that is not the first: the process keeps its number, the others end
    for (int i = 0; i < 4; i++) {
      char *stack = malloc(65536);
      clone(i < 3 ? busy : exec_worker, stack + 65536, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, NULL);
    }
    for (;;) pause();
  }
  int st = wait_status(p);
  CHECK(WIFEXITED(st) && WEXITSTATUS(st) == 7);
}

static void many(void) {
  for (int round = 0; round < 5; round++) {
    pid_t p[20];
    for (int i = 0; i < 20; i++) {
      p[i] = fork();
      if (!p[i]) _exit(i);
    }
    for (int i = 0; i < 20; i++) {
      int st = wait_status(p[i]);
      CHECK(WIFEXITED(st) && WEXITSTATUS(st) == i);
    }
  }
}

static int child(int argc, char **argv) {
  if (!strcmp(argv[2], "args"))
    return argc == 5 && !strcmp(argv[0], "name") && !*argv[3] && !strcmp(argv[4], "two words") && environ[0] && !strcmp(environ[0], "A=1") &&
      environ[1] && !strcmp(environ[1], "EMPTY=") && !environ[2] ? 42 : 1;
  if (!strcmp(argv[2], "seven")) return getpid() == syscall(SYS_gettid) ? 7 : 1;
  if (!strcmp(argv[2], "fds")) return fcntl(atoi(argv[3]), F_GETFD) == 0 && fcntl(atoi(argv[4]), F_GETFD) == -1 && errno == EBADF ? 44 : 1;
  if (!strcmp(argv[2], "large")) return strlen(argv[3]) == 100000 ? 45 : 1;
  return !strncmp(argv[2], "/tmp/proc_script", 16) && argc == 4 && !strcmp(argv[3], "script") ? 43 : 1;
}

int main(int argc, char **argv) {
  static char path[4096];
  ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
  self = n > 0 ? path : argv[0];
  if (argc > 2 && !strcmp(argv[1], "child")) return child(argc, argv);
  RUN(exit_codes);
  RUN(killed_by_signal);
  RUN(copy_on_write);
  RUN(vfork_shares);
  RUN(exec_args);
  RUN(exec_errors);
  RUN(exec_script);
  RUN(exec_cloexec);
  RUN(exec_large);
  RUN(spawn);
  RUN(waiting);
  RUN(stop_continue);
  RUN(subreaper);
  RUN(auto_reap);
  RUN(groups);
  RUN(limits);
  RUN(exec_kills_threads);
  RUN(many);
  RUN(identity);
  FINISH();
}

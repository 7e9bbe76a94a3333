// SPDX-License-Identifier: Apache-2.0
// Mappings: protection, remapping, hints, faults with the right siginfo, copy-on-write, huge ranges, stacks.
#include "check.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
static sigjmp_buf env;
static volatile int got_signo, got_code;
static void *volatile got_addr;

static void handler(int signo, siginfo_t *si, void *ctx) {
  got_signo = signo;
  got_code = si->si_code;
  got_addr = si->si_addr;
  siglongjmp(env, 1);
}

// 0: the access works; else the signal.
static int probe(volatile char *p, int write) {
  got_signo = 0;
  if (sigsetjmp(env, 1)) return got_signo;
  if (write) *p = *p;
  else (void)*p;
  return 0;
}

static void install(void) {
  struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
  sigaction(SIGSEGV, &sa, NULL);
  sigaction(SIGBUS, &sa, NULL);
}

static void *anon(size_t len, int prot, int flags) { return mmap(NULL, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0); }

static void faults(void) {
  char *p = anon(4 * PAGE, PROT_READ | PROT_WRITE, 0);
  CHECK(p != MAP_FAILED && p[0] == 0 && p[PAGE] == 0);
  p[0] = 1;
  CHECK(mprotect(p + PAGE, PAGE, PROT_READ) == 0);
  CHECK(probe(p + PAGE, 1) == SIGSEGV && got_code == SEGV_ACCERR && got_addr == p + PAGE);
  CHECK(probe(p + PAGE, 0) == 0 && probe(p + 2 * PAGE, 1) == 0);
  CHECK(mprotect(p, PAGE, PROT_NONE) == 0);
  CHECK(probe(p + 8, 0) == SIGSEGV && got_code == SEGV_ACCERR && got_addr == p + 8);
  CHECK(write(1, p, 1) == -1 && errno == EFAULT); // the kernel must not see it either
  CHECK(mprotect(p, PAGE, PROT_READ | PROT_WRITE) == 0 && p[0] == 1);
  CHECK(munmap(p + PAGE, PAGE) == 0);
  CHECK(probe(p + PAGE, 0) == SIGSEGV && got_code == SEGV_MAPERR && got_addr == p + PAGE);
  CHECK(probe(p, 1) == 0 && probe(p + 2 * PAGE, 0) == 0);
  CHECK(mprotect(p, 3 * PAGE, PROT_READ) == -1 && errno == ENOMEM);
  CHECK(probe(p, 1) == SIGSEGV); // what lies before the hole was changed
  CHECK(munmap(p, 4 * PAGE) == 0 && munmap(p, 4 * PAGE) == 0);
  CHECK(munmap(p + 1, PAGE) == -1 && errno == EINVAL);
  CHECK(probe((char *)16, 0) == SIGSEGV && got_code == SEGV_MAPERR && got_addr == (void *)16);
}

static void exec_rights(void) {
  unsigned char code[] = { 0xb8, 42, 0, 0, 0, 0xc3 };
  char *p = anon(PAGE, PROT_READ | PROT_WRITE, 0);
  memcpy(p, code, sizeof code);
  got_signo = 0;
  if (!sigsetjmp(env, 1)) ((int (*)(void))p)();
  CHECK(got_signo == SIGSEGV && got_code == SEGV_ACCERR && got_addr == p);
  CHECK(mprotect(p, PAGE, PROT_READ | PROT_EXEC) == 0 && ((int (*)(void))p)() == 42);
  CHECK(mprotect(p, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
  p[1] = 43;
  CHECK(((int (*)(void))p)() == 43);
  munmap(p, PAGE);
}

static void bad_arguments(void) {
  CHECK(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
  CHECK(mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
  CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0) == MAP_FAILED && errno == EBADF);
  CHECK(mmap((void *)(PAGE * 100 + 1), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED && errno == EINVAL);
  CHECK(mmap(NULL, ~0ul - PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM);
  CHECK(mmap(NULL, 1ul << 50, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED && errno == ENOMEM);
  char *p = anon(2 * PAGE, PROT_READ, 0);
  CHECK(mmap(p, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
  CHECK(mprotect(p + 1, PAGE, PROT_READ) == -1 && errno == EINVAL);
  CHECK(madvise(p, PAGE, 9999) == -1 && errno == EINVAL);
  CHECK(madvise(p + 1, PAGE, MADV_DONTNEED) == -1 && errno == EINVAL);
  munmap(p, 2 * PAGE);
  int fd = open("/proc/self/exe", O_RDONLY);
  CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EACCES);
  CHECK(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 1) == MAP_FAILED && errno == EINVAL);
  p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK(p != MAP_FAILED && memcmp(p, "\177ELF", 4) == 0);
  p[0] = 'x';
  CHECK(p[0] == 'x' && p[1] == 'E');
  CHECK(madvise(p, PAGE, MADV_DONTNEED) == 0 && p[0] == 127); // the file's bytes again
  munmap(p, PAGE);
  p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
  CHECK(mprotect(p, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
  munmap(p, PAGE);
  close(fd);
}

static void reservations(void) {
  size_t len = 64ul << 30;
  char *p = anon(len, PROT_NONE, MAP_NORESERVE);
  CHECK(p != MAP_FAILED);
  CHECK(mprotect(p + (32ul << 30), 1 << 20, PROT_READ | PROT_WRITE) == 0);
  p[32ul << 30] = 7;
  CHECK(p[32ul << 30] == 7 && probe(p, 0) == SIGSEGV);
  CHECK(mmap(p, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p && p[0] == 0);
  CHECK(munmap(p, len) == 0);
  p = anon(PAGE, PROT_READ | PROT_WRITE, MAP_32BIT);
  CHECK(p != MAP_FAILED && (unsigned long)p < 1ul << 31);
  munmap(p, PAGE);
}

static void remapping(void) {
  char *p = anon(16 * PAGE, PROT_READ | PROT_WRITE, 0), *q;
  for (int i = 0; i < 16; i++) p[i * PAGE] = (char)(i + 1);
  CHECK(mremap(p, 16 * PAGE, 8 * PAGE, 0) == p && probe(p + 8 * PAGE, 0) == SIGSEGV);
  char *target = anon(64 * PAGE, PROT_READ | PROT_WRITE, 0);
  target[0] = 99;
  q = mremap(p, 8 * PAGE, 12 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
  CHECK(q == target && probe(p, 0) == SIGSEGV);
  int ok = 1;
  for (int i = 0; i < 12; i++) ok &= q[i * PAGE] == (i < 8 ? i + 1 : 0);
  CHECK(ok);
  q = mremap(q, 12 * PAGE, 4096 * PAGE, MREMAP_MAYMOVE);
  CHECK(q != MAP_FAILED && q[0] == 1 && q[7 * PAGE] == 8 && q[4095 * PAGE] == 0);
  CHECK(mremap(q, PAGE, 2 * PAGE, MREMAP_FIXED, target) == MAP_FAILED && errno == EINVAL);
  CHECK(mremap((char *)0x10000000000, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
  munmap(q, 4096 * PAGE);
  munmap(target + 12 * PAGE, 52 * PAGE);
}

static void huge_ranges(void) {
  size_t len = 24ul << 20;
  char *p = anon(len, PROT_READ | PROT_WRITE, 0);
  madvise(p, len, MADV_HUGEPAGE);
  for (size_t i = 0; i < len; i += PAGE) p[i] = (char)(i / PAGE);
  pid_t pid = fork();
  if (!pid) {
    for (size_t i = 0; i < len; i += 3 * PAGE) p[i]++;
    int bad = 0;
    for (size_t i = 0; i < len; i += PAGE) bad |= p[i] != (char)(i / PAGE + (i / PAGE % 3 == 0));
    _exit(bad);
  }
  for (size_t i = 0; i < len; i += 5 * PAGE) p[i] += 2;
  int st = -1;
  CHECK(waitpid(pid, &st, 0) == pid && st == 0);
  int bad = 0;
  for (size_t i = 0; i < len; i += PAGE) bad |= p[i] != (char)(i / PAGE + (i / PAGE % 5 == 0) * 2);
  CHECK(!bad);
  CHECK(munmap(p + (5ul << 20) + PAGE, 3ul << 20) == 0);
  CHECK(p[0] == 2 && probe(p + (6ul << 20), 0) == SIGSEGV);
  CHECK(madvise(p, 2ul << 20, MADV_DONTNEED) == 0 && p[PAGE] == 0 && p[0] == 0);
  CHECK(mprotect(p + (12ul << 20) + PAGE, PAGE, PROT_NONE) == 0 && probe(p + (12ul << 20) + PAGE, 0) == SIGSEGV);
  CHECK(probe(p + (12ul << 20), 1) == 0);
  CHECK(munmap(p, len) == 0);
}

static void copy_on_write(void) {
  char *p = anon(64 * PAGE, PROT_READ | PROT_WRITE, 0), *wiped = anon(PAGE, PROT_READ | PROT_WRITE, 0), *hidden = anon(PAGE, PROT_READ | PROT_WRITE, 0);
  memset(p, 'a', 64 * PAGE);
  wiped[0] = hidden[0] = 'w';
  CHECK(madvise(wiped, PAGE, MADV_WIPEONFORK) == 0 && madvise(hidden, PAGE, MADV_DONTFORK) == 0);
  int to[2], from[2];
  if (pipe(to) || pipe(from)) exit(1);
  pid_t pid = fork();
  if (!pid) {
    char c;
    if (read(to[0], &c, 1) != 1 || p[0] != 'a') _exit(1); // the parent has written meanwhile
    p[PAGE] = 'c';
    if (wiped[0] != 0 || probe(hidden, 0) != SIGSEGV) _exit(2);
    if (write(from[1], "x", 1) != 1) _exit(3);
    pid_t inner = fork();
    if (!inner) _exit(p[PAGE] == 'c' && p[2 * PAGE] == 'a' ? 0 : 4);
    p[2 * PAGE] = 'd';
    int st;
    waitpid(inner, &st, 0);
    _exit(st >> 8);
  }
  char c;
  p[0] = 'p';
  CHECK(write(to[1], "x", 1) == 1 && read(from[0], &c, 1) == 1 && p[PAGE] == 'a' && wiped[0] == 'w');
  int st = -1;
  CHECK(waitpid(pid, &st, 0) == pid && st == 0);
  CHECK(read(0, p, 0) == 0 && p[0] == 'p');
  munmap(p, 64 * PAGE);
}

static int deep(int n) { // 4 KiB a step
  volatile char here[4000];
  here[0] = (char)n;
  return n ? deep(n - 1) + here[0] * 0 : 0;
}

static void stacks(void) {
  CHECK(deep(1000) == 0); // 4 MiB of the 8
  pid_t pid = fork();
  if (!pid) {
    struct rlimit r = { 1 << 20, 1 << 20 };
    signal(SIGSEGV, SIG_DFL);
    setrlimit(RLIMIT_STACK, &r);
    deep(100000);
    _exit(0);
  }
  int st = 0;
  waitpid(pid, &st, 0);
  CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGSEGV);
}

static void break_area(void) {
  char *start = sbrk(0);
  CHECK(sbrk(100 * PAGE) == start);
  start[0] = 1;
  start[100 * PAGE - 1] = 2;
  CHECK(sbrk(-50 * (long)PAGE) == start + 100 * PAGE && sbrk(0) == start + 50 * PAGE && start[0] == 1);
  CHECK(sbrk(50 * PAGE) != (void *)-1 && start[100 * PAGE - 1] == 0);
  CHECK(brk(start) == 0);
}

static void questions(void) {
  unsigned char v[4];
  char *p = anon(4 * PAGE, PROT_READ | PROT_WRITE, 0);
  p[PAGE] = 1;
  CHECK(mincore(p, 4 * PAGE, v) == 0 && !(v[0] & 1) && (v[1] & 1) && !(v[3] & 1));
  CHECK(mlock(p, 4 * PAGE) == 0 && mincore(p, 4 * PAGE, v) == 0 && (v[0] & 1) && (v[3] & 1));
  CHECK(madvise(p, PAGE, MADV_DONTNEED) == -1 && errno == EINVAL);
  CHECK(munlock(p, 4 * PAGE) == 0 && madvise(p, 4 * PAGE, MADV_DONTNEED) == 0 && p[PAGE] == 0);
  CHECK(munmap(p + PAGE, PAGE) == 0 && mincore(p, 4 * PAGE, v) == -1 && errno == ENOMEM);
  CHECK(madvise(p, 4 * PAGE, MADV_DONTNEED) == -1 && errno == ENOMEM);
  munmap(p, 4 * PAGE);
  p = anon(4 * PAGE, PROT_READ | PROT_WRITE, MAP_POPULATE);
  CHECK(mincore(p, 4 * PAGE, v) == 0 && (v[0] & v[1] & v[2] & v[3] & 1));
  munmap(p, 4 * PAGE);
}

int main(void) {
  install();
  RUN(faults);
  RUN(exec_rights);
  RUN(bad_arguments);
  RUN(reservations);
  RUN(remapping);
  RUN(huge_ranges);
  RUN(copy_on_write);
  RUN(stacks);
  RUN(break_area);
  RUN(questions);
  FINISH();
}

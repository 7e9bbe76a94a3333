// SPDX-License-Identifier: Apache-2.0
// Memory seen twice: between processes, through several views of one object, files, memfd with holes, SysV segments,
// process_vm_readv.
#include "check.h"
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
static sigjmp_buf env;
static volatile int got_code;
static void handler(int signo, siginfo_t *si, void *ctx) {
  got_code = si->si_code;
  siglongjmp(env, signo);
}
static int probe(volatile char *p) {
  int s = sigsetjmp(env, 1);
  if (!s) (void)*p;
  return s;
}

static void between_processes(void) {
  volatile int *p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  p[0] = 1;
  pid_t pid = fork();
  if (!pid) {
    p[1024] = 5;
    __atomic_store_n(&p[1], 2, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&p[2], __ATOMIC_SEQ_CST) != 3) usleep(100);
    _exit(p[3000] == 7 ? 0 : 1);
  }
  while (__atomic_load_n(&p[1], __ATOMIC_SEQ_CST) != 2) usleep(100);
  CHECK(p[1024] == 5 && p[0] == 1);
  p[3000] = 7;
  __atomic_store_n(&p[2], 3, __ATOMIC_SEQ_CST);
  int st = -1;
  CHECK(waitpid(pid, &st, 0) == pid && st == 0);
  CHECK(mprotect((void *)p, 8 * PAGE, PROT_READ) == 0 && p[1024] == 5);
  CHECK(mprotect((void *)p, 8 * PAGE, PROT_READ | PROT_WRITE) == 0);
  p[2048] = 9; // never touched before the change of rights
  p[0] = 8;
  CHECK(p[0] == 8 && p[2048] == 9);
  CHECK(madvise((void *)p, PAGE, MADV_REMOVE) == 0 && p[0] == 0 && p[1024] == 5);
  munmap((void *)p, 8 * PAGE);
}

static void memfd_views(void) {
  int fd = memfd_create("views", MFD_CLOEXEC);
  size_t len = 8ul << 20;
  CHECK(fd >= 0 && ftruncate(fd, (long)len) == 0);
  char *space = mmap(NULL, 1ul << 34, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  char *a = mmap(space + (1ul << 30), len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  char *b = mmap(space + (2ul << 30), len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  char *c = mmap(space + (3ul << 30), len / 2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (long)len / 2);
  CHECK(a == space + (1ul << 30) && b == space + (2ul << 30) && c == space + (3ul << 30));
  for (size_t i = 0; i < len; i += PAGE) a[i] = (char)(i / PAGE * 7);
  int bad = 0;
  for (size_t i = 0; i < len; i += PAGE) bad |= b[i] != (char)(i / PAGE * 7);
  for (size_t i = 0; i < len / 2; i += PAGE) bad |= c[i] != (char)((i + len / 2) / PAGE * 7);
  CHECK(!bad);
  CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2 << 20, 1 << 20) == 0);
  CHECK(a[(2 << 20) + PAGE] == 0 && b[(2 << 20) + PAGE] == 0 && b[3 << 20] == (char)((3 << 20) / PAGE * 7));
  b[2 << 20] = 11;
  CHECK(a[2 << 20] == 11);
  char byte = 0;
  CHECK(pread(fd, &byte, 1, 2 << 20) == 1 && byte == 11);
  byte = 12;
  CHECK(pwrite(fd, &byte, 1, (2 << 20) + 1) == 1 && a[(2 << 20) + 1] == 12);
  CHECK(mmap(b, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == b && probe(b) == SIGSEGV);
  CHECK(a[2 << 20] == 11 && ftruncate(fd, 4 << 20) == 0);
  CHECK(probe(c) == SIGBUS && got_code == BUS_ADRERR && probe(a + (3 << 20)) == 0);
  CHECK(ftruncate(fd, (long)len) == 0 && c[0] == 0);
  munmap(space, 1ul << 34);
  close(fd);
}

static void files(void) {
  char name[] = "/tmp/mm_shared.XXXXXX";
  int fd = mkstemp(name);
  unlink(name);
  CHECK(fd >= 0 && ftruncate(fd, 3 * PAGE + 100) == 0);
  char *s = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  CHECK(s != MAP_FAILED && p != MAP_FAILED);
  s[0] = 'a';
  CHECK(p[0] == 'a'); // no copy yet
  p[0] = 'b';
  CHECK(s[0] == 'a');
  s[1] = 'c';
  CHECK(p[1] == 0 && msync(s, 4 * PAGE, MS_SYNC) == 0);
  char buf[2];
  CHECK(pread(fd, buf, 2, 0) == 2 && buf[0] == 'a' && buf[1] == 'c');
  CHECK(pwrite(fd, "zz", 2, PAGE) == 2 && s[PAGE] == 'z' && p[PAGE + 1] == 'z');
  CHECK(s[3 * PAGE + 100] == 0); // the tail of the last page
  CHECK(ftruncate(fd, PAGE) == 0 && probe(s + 2 * PAGE) == SIGBUS && s[0] == 'a');
  CHECK(write(1, s + 2 * PAGE, 1) == -1 && errno == EFAULT);
  pid_t pid = fork();
  if (!pid) {
    s[10] = 'k';
    p[10] = 'k';
    _exit(p[0] == 'b' ? 0 : 1);
  }
  int st = -1;
  CHECK(waitpid(pid, &st, 0) == pid && st == 0 && s[10] == 'k' && p[10] != 'k');
  close(fd);
  CHECK(s[10] == 'k');
  munmap(s, 4 * PAGE);
  munmap(p, 4 * PAGE);
}

static void sysv(void) {
  int id = shmget(IPC_PRIVATE, 3 * PAGE, IPC_CREAT | 0600);
  CHECK(id >= 0);
  char *a = shmat(id, NULL, 0), *b = shmat(id, NULL, SHM_RDONLY);
  CHECK(a != (void *)-1 && b != (void *)-1 && a != b);
  a[PAGE] = 'q';
  CHECK(b[PAGE] == 'q');
  struct shmid_ds ds;
  CHECK(shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 2 && ds.shm_segsz == 3 * PAGE && (ds.shm_perm.mode & 0777) == 0600);
  pid_t pid = fork();
  if (!pid) {
    a[0] = 'r';
    _exit(shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 4 ? 0 : 1);
  }
  int st = -1;
  CHECK(waitpid(pid, &st, 0) == pid && st == 0 && b[0] == 'r');
  CHECK(shmdt(b) == 0 && shmdt(b) == -1 && errno == EINVAL);
  CHECK(shmctl(id, IPC_RMID, NULL) == 0 && a[0] == 'r');
  CHECK(shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 1);
  CHECK(shmdt(a) == 0 && shmctl(id, IPC_STAT, &ds) == -1 && errno == EINVAL);
  CHECK(shmget(0x5151, PAGE, 0600) == -1 && errno == ENOENT);
  id = shmget(0x5151, PAGE, IPC_CREAT | IPC_EXCL | 0600);
  CHECK(id >= 0 && shmget(0x5151, PAGE, 0600) == id && shmget(0x5151, 2 * PAGE, 0600) == -1 && errno == EINVAL);
  CHECK(shmget(0x5151, PAGE, IPC_CREAT | IPC_EXCL | 0600) == -1 && errno == EEXIST && shmctl(id, IPC_RMID, NULL) == 0);
}

static void other_process(void) {
  char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), mine[8192];
  int to[2], from[2];
  if (pipe(to) || pipe(from)) exit(1);
  memset(p, 'o', 4 * PAGE);
  pid_t pid = fork();
  if (!pid) {
    char c;
    memset(p, 'n', 2 * PAGE);
    if (write(from[1], "x", 1) != 1 || read(to[0], &c, 1) != 1) _exit(1);
    _exit(p[100] == 'w' && p[PAGE * 3] == 'o' ? 0 : 2);
  }
  char c;
  CHECK(read(from[0], &c, 1) == 1);
  struct iovec l = { mine, sizeof mine }, r = { p + PAGE, 2 * PAGE };
  CHECK(process_vm_readv(pid, &l, 1, &r, 1, 0) == 8192 && mine[0] == 'n' && mine[4096] == 'o');
  struct iovec wl = { "w", 1 }, wr = { p + 100, 1 };
  CHECK(process_vm_writev(pid, &wl, 1, &wr, 1, 0) == 1 && p[100] == 'o');
  CHECK(write(to[1], "x", 1) == 1);
  int st = -1;
  CHECK(waitpid(pid, &st, 0) == pid && st == 0);
  CHECK(process_vm_readv(pid, &l, 1, &r, 1, 0) == -1 && errno == ESRCH);
  munmap(p, 4 * PAGE);
}

int main(void) {
  struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
  sigaction(SIGSEGV, &sa, NULL);
  sigaction(SIGBUS, &sa, NULL);
  RUN(between_processes);
  RUN(memfd_views);
  RUN(files);
  RUN(sysv);
  RUN(other_process);
  FINISH();
}

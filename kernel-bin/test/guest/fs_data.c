// SPDX-License-Identifier: Apache-2.0
// Data: append from several processes, mappings and read/write that agree, truncation under a mapping (SIGBUS), holes,
// unlinked files, O_TMPFILE and memfd.
#include "fs_common.h"
#include <setjmp.h>
#include <sys/time.h>
#include <sys/uio.h>

static sigjmp_buf bus;
static void on_bus(int sig) { siglongjmp(bus, sig); }

static void test_append(void) {
  enum { PROCS = 4, LINES = 500 };
  CHECK(put_file("log", "") == 0);
  for (int p = 0; p < PROCS; p++) {
    if (fork()) continue;
    int fd = open("log", O_WRONLY | O_APPEND);
    char line[32];
    for (int k = 0; k < LINES; k++) {
      int n = snprintf(line, sizeof line, "%d:%04d:0123456789\n", p, k);
      if (write(fd, line, (size_t)n) != n) _exit(1);
    }
    _exit(0);
  }
  int status, good = 0;
  for (int p = 0; p < PROCS; p++) good += wait(&status) > 0 && status == 0;
  CHECK(good == PROCS);
  FILE *f = fopen("log", "r");
  int next[PROCS] = { 0 }, lines = 0, p, k, bad = 0;
  char line[64];
  while (fgets(line, sizeof line, f)) {
    lines++;
    if (strlen(line) != 18 || sscanf(line, "%d:%d:", &p, &k) != 2 || p < 0 || p >= PROCS || k != next[p]++) bad++;
  }
  fclose(f);
  CHECK(lines == PROCS * LINES && !bad);
  CHECK(unlink("log") == 0);
  group("append");
}

static void test_mmap(void) {
  int fd = open("m", O_CREAT | O_RDWR, 0600);
  CHECK(fd >= 0 && ftruncate(fd, 20000) == 0);
  char *a = mmap(NULL, 20000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *p = mmap(NULL, 20000, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  char buf[64];
  CHECK(a != MAP_FAILED && p != MAP_FAILED);
  strcpy(a + 5000, "through the mapping");
  CHECK(pread(fd, buf, 20, 5000) == 20 && !strcmp(buf, "through the mapping"));
  CHECK(pwrite(fd, "by write", 9, 9000) == 9 && !strcmp(a + 9000, "by write") && !strcmp(p + 9000, "by write"));
  strcpy(p + 9000, "private!");
  CHECK(pread(fd, buf, 9, 9000) == 9 && !strcmp(buf, "by write") && !strcmp(a + 9000, "by write"));
  int status;
  if (!fork()) {
    strcpy(a + 100, "from the child");
    strcpy(p + 100, "nobody sees it");
    _exit(0);
  }
  CHECK(wait(&status) > 0 && !strcmp(a + 100, "from the child") && !strcmp(p + 100, "from the child"));
  CHECK(msync(a, 20000, MS_SYNC) == 0 && fsync(fd) == 0 && fdatasync(fd) == 0);
  strcpy(a + 100, "after the sync"); // written again after it was cleaned
  CHECK(fsync(fd) == 0 && munmap(a, 20000) == 0);
  int fd2 = open("m", O_RDONLY);
  CHECK(pread(fd2, buf, 15, 100) == 15 && !strcmp(buf, "after the sync"));
  FAILS((long)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd2, 0), EACCES);
  close(fd2);
  munmap(p, 20000);
  close(fd);
  CHECK(unlink("m") == 0);
  group("mmap");
}

static void test_bus(void) {
  int fd = open("b", O_CREAT | O_RDWR, 0600);
  CHECK(fd >= 0 && ftruncate(fd, 3 * 4096) == 0);
  volatile char *a = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  a[2 * 4096] = 'x';
  a[4096 + 10] = 'y';
  signal(SIGBUS, on_bus);
  CHECK(sigsetjmp(bus, 1) == 0 ? (a[3 * 4096] = 1, 0) : 1); // past the end
  CHECK(ftruncate(fd, 4096 + 5) == 0);
  CHECK(sigsetjmp(bus, 1) == 0 ? (a[2 * 4096] = 1, 0) : 1); // was there, is gone
  CHECK(a[4096 + 10] == 0); // the tail of the last page was zeroed
  a[4096 + 4] = 'z';
  CHECK(ftruncate(fd, 3 * 4096) == 0 && a[2 * 4096] == 0 && a[4096 + 4] == 'z');
  char c = 1;
  CHECK(pread(fd, &c, 1, 2 * 4096) == 1 && c == 0);
  signal(SIGBUS, SIG_DFL);
  munmap((void *)a, 4 * 4096);
  close(fd);
  CHECK(unlink("b") == 0);
  group("truncation under a mapping");
}

// Signals that come while a mapping's pages are being read do no harm: the access is tried again.
static volatile sig_atomic_t alarms;
static void on_alarm(int sig) {
  if (++alarms < 200) return;
  struct itimerval off = { 0 };
  setitimer(ITIMER_REAL, &off, NULL);
}
static void test_signals(void) {
  enum { PAGES = 2048, PAGE = 4096 };
  static unsigned page[PAGE / sizeof(unsigned)];
  int fd = open("paged", O_RDWR | O_CREAT | O_TRUNC, 0600);
  for (unsigned k = 0; k < PAGES; k++) {
    page[0] = k;
    CHECK(write(fd, page, PAGE) == PAGE);
  }
  CHECK(fsync(fd) == 0);
  signal(SIGALRM, on_alarm);
  struct itimerval often = { { 0, 1000 }, { 0, 1000 } };
  CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
  unsigned wrong = 0;
  for (int round = 0; round < 4 || alarms < 200; round++) {
    CHECK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
    volatile unsigned *p = mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(p != MAP_FAILED);
    for (unsigned k = 0; k < PAGES; k++) {
      unsigned at = k * 331 % PAGES; // here and there
      wrong += p[at * (PAGE / sizeof *p)] != at;
    }
    CHECK(munmap((void *)p, PAGES * PAGE) == 0);
  }
  CHECK(wrong == 0);
  CHECK(close(fd) == 0 && unlink("paged") == 0);
  group("signals while pages are read");
}

static void test_holes(void) {
  struct stat st;
  char buf[4096];
  int fd = open("h", O_CREAT | O_RDWR, 0600), sum = 0;
  CHECK(fd >= 0 && pwrite(fd, "data", 4, 10 << 20) == 4 && fstat(fd, &st) == 0 && st.st_size == (10 << 20) + 4);
  CHECK(pread(fd, buf, sizeof buf, 5 << 20) == 4096);
  for (int k = 0; k < 4096; k++) sum += buf[k];
  CHECK(sum == 0 && lseek(fd, 10 << 20, SEEK_DATA) == 10 << 20 && lseek(fd, 10 << 20, SEEK_HOLE) == (10 << 20) + 4);
  FAILS(lseek(fd, 11 << 20, SEEK_DATA), ENXIO);
  CHECK(ftruncate(fd, 0) == 0 && lseek(fd, 0, SEEK_SET) == 0);
  memset(buf, 'x', sizeof buf);
  for (int k = 0; k < 16; k++) CHECK(write(fd, buf, 4096) == 4096);
  FAILS(fallocate(fd, 0, -1, 10), EINVAL);
  FAILS(fallocate(fd, 0, 0, 0), EINVAL);
  if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 6000, 20000) == 0) {
    CHECK(pread(fd, buf, 4096, 4096) == 4096 && buf[1903] == 'x' && buf[1904] == 0 && buf[4095] == 0);
    CHECK(pread(fd, buf, 4096, 24576) == 4096 && buf[0] == 0 && buf[1423] == 0 && buf[1424] == 'x');
  } else {
    CHECK(errno == EOPNOTSUPP);
  }
  if (fallocate(fd, 0, 0, 100000) == 0) CHECK(fstat(fd, &st) == 0 && st.st_size == 100000);
  else CHECK(errno == EOPNOTSUPP);
  close(fd);
  CHECK(unlink("h") == 0);
  group("holes");
}

static void test_unlinked(void) {
  struct stat st;
  char buf[16];
  int fd = open("u", O_CREAT | O_RDWR, 0600);
  CHECK(fd >= 0 && unlink("u") == 0 && write(fd, "still here", 10) == 10 && pread(fd, buf, 16, 0) == 10 && fstat(fd, &st) == 0 && st.st_nlink == 0);
  close(fd);
  fd = open(".", O_TMPFILE | O_RDWR, 0600);
  if (fd >= 0) {
    char proc[64];
    snprintf(proc, sizeof proc, "/proc/self/fd/%d", fd);
    CHECK(write(fd, "named later", 11) == 11 && fstat(fd, &st) == 0 && st.st_nlink == 0);
    CHECK(linkat(AT_FDCWD, proc, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0 && file_is("named", "named later") && unlink("named") == 0);
    close(fd);
  } else {
    CHECK(errno == EOPNOTSUPP || errno == EISDIR);
  }
  FAILS(open(".", O_TMPFILE | O_RDONLY, 0600), EINVAL);
  group("unlinked");
}

static void test_memfd(void) {
  char buf[8], *m;
  int fd = memfd_create("test", MFD_ALLOW_SEALING | MFD_CLOEXEC);
  CHECK(fd >= 0 && ftruncate(fd, 8192) == 0 && (m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) != MAP_FAILED);
  strcpy(m, "shared");
  CHECK(pread(fd, buf, 7, 0) == 7 && !strcmp(buf, "shared"));
  FAILS(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
  munmap(m, 8192);
  CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE) == 0 && fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_WRITE));
  FAILS(write(fd, "x", 1), EPERM);
  FAILS(ftruncate(fd, 0), EPERM);
  FAILS((long)mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), EPERM);
  CHECK((m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0)) != MAP_FAILED);
  strcpy(m, "mine");
  munmap(m, 8192);
  close(fd);
  group("memfd");
}

static void test_big(void) { // more than read-ahead windows and batches: 8 MiB written, synced, read back in odd pieces
  enum { SIZE = 8 << 20 };
  unsigned char *data = malloc(SIZE), *back = malloc(SIZE);
  for (unsigned k = 0; k < SIZE; k++) data[k] = (unsigned char)(k * 7 + (k >> 13));
  int fd = open("big", O_CREAT | O_RDWR, 0600);
  long at = 0, n;
  while (at < SIZE && (n = write(fd, data + at, (size_t)(SIZE - at > 100001 ? 100001 : SIZE - at))) > 0) at += n;
  CHECK(at == SIZE && fsync(fd) == 0 && lseek(fd, 0, SEEK_SET) == 0);
  for (at = 0; at < SIZE && (n = read(fd, back + at, 70003)) > 0;) at += n;
  CHECK(at == SIZE && !memcmp(data, back, SIZE));
  struct iovec v[3] = { { back, 10 }, { back + 10, 0 }, { back + 10, 5000 } };
  CHECK(preadv(fd, v, 3, 4090) == 5010 && !memcmp(back, data + 4090, 5010));
  close(fd);
  CHECK(unlink("big") == 0);
  free(data);
  free(back);
  group("big");
}

int main(int argc, char **argv) {
  begin(argc, argv);
  test_append();
  test_mmap();
  test_bus();
  test_signals();
  test_holes();
  test_unlinked();
  test_memfd();
  test_big();
  return finish();
}

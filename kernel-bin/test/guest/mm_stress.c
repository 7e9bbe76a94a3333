// SPDX-License-Identifier: Apache-2.0
// Threads that fault, map, unmap, protect, fork and write in one address space at once; every value is checked. Finds
// missing shootdowns and pages that are freed too early: each thread's pages carry its own stamp.
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define THREADS 4
static int rounds = 60, failed;

struct rng { unsigned long x; };
static unsigned long next(struct rng *r) {
  r->x ^= r->x << 13;
  r->x ^= r->x >> 7;
  r->x ^= r->x << 17;
  return r->x;
}

static void *churn(void *arg) {
  long id = (long)arg;
  struct rng r = { 0x9e3779b97f4a7c15ul * (unsigned long)(id + 1) };
  for (int i = 0; i < rounds; i++) {
    size_t n = 1 + next(&r) % 64;
    if (i % 37 == 0) n = 1024 + next(&r) % 1024; // may get 2 MiB pages
    volatile unsigned long *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) { failed++; break; }
    size_t step = n > 64 ? 7 : 1;
    for (size_t k = 0; k < n; k += step) {
      if (p[k * 512]) failed++;
      p[k * 512] = (unsigned long)id << 48 | k;
    }
    size_t cut = next(&r) % n;
    mprotect((char *)p + cut * PAGE, PAGE, PROT_READ);
    for (size_t k = 0; k < n; k += step)
      if (p[k * 512] != ((unsigned long)id << 48 | k)) failed++;
    mprotect((char *)p + cut * PAGE, PAGE, PROT_READ | PROT_WRITE);
    p[cut * 512] = 77;
    if (p[cut * 512] != 77) failed++;
    if (n > 4) {
      madvise((char *)p + PAGE, PAGE, MADV_DONTNEED);
      if (p[512] != 0) failed++;
      volatile unsigned long *q = mremap((void *)p, n * PAGE, (n + 40) * PAGE, MREMAP_MAYMOVE);
      if ((void *)q == MAP_FAILED) { failed++; break; }
      if (cut != 0 && q[0] != (unsigned long)id << 48) failed++;
      munmap((void *)q, (n + 40) * PAGE);
    } else {
      munmap((void *)p, n * PAGE);
    }
  }
  return NULL;
}

static volatile int stop;
static unsigned long *area; // written by one thread, forked by another
#define AREA_PAGES 1200
static void *writer(void *arg) {
  for (unsigned long v = 1; !stop; v++)
    for (int k = 0; k < AREA_PAGES; k += 3) {
      unsigned long *p = &area[k * 512];
      p[1] = v; // a snapshot may lie between the two, never see the second without the first
      __atomic_store_n(&p[0], v, __ATOMIC_RELEASE);
    }
  return NULL;
}

static void threads_churn(void) {
  pthread_t t[THREADS];
  failed = 0;
  for (long i = 0; i < THREADS; i++) pthread_create(&t[i], NULL, churn, (void *)(i + 1));
  for (int i = 0; i < THREADS; i++) pthread_join(t[i], NULL);
  CHECK(failed == 0);
}

static void fork_snapshots(void) {
  area = mmap(NULL, AREA_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  pthread_t t;
  stop = 0;
  pthread_create(&t, NULL, writer, NULL);
  for (int i = 0; i < 30; i++) {
    pid_t pid = fork();
    if (!pid) { // what this child sees must not change any more
      static unsigned long seen[AREA_PAGES];
      int bad = 0;
      for (int k = 0; k < AREA_PAGES; k++) {
        seen[k] = area[k * 512];
        bad |= area[k * 512 + 1] < seen[k];
      }
      for (int round = 0; round < 3; round++) {
        for (int k = 0; k < AREA_PAGES; k++) bad |= area[k * 512] != seen[k];
        usleep(200);
      }
      for (int k = 0; k < AREA_PAGES; k += 5) area[k * 512] = 1;
      _exit(bad);
    }
    int st = -1;
    CHECK(waitpid(pid, &st, 0) == pid && st == 0);
  }
  stop = 1;
  pthread_join(t, NULL);
  munmap(area, AREA_PAGES * PAGE);
}

// Ranges whose borders lie in a 2 MiB page that a fault beside it makes: how it comes out is open, but it does.
static volatile int round_begun, round_done;
static char *huge_area;
static void *toucher(void *arg) {
  for (int i = 1; i <= 40; i++) {
    while (round_begun < i) {}
    *(volatile char *)(huge_area + (1 << 20)) = 1;
    round_done = i;
  }
  return NULL;
}
static void discards_beside_faults(void) {
  const size_t huge = 2 << 20;
  char *p = mmap(NULL, 8 * huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  huge_area = (char *)(((unsigned long)p + huge - 1) & ~(huge - 1)) + huge;
  pthread_t t;
  pthread_create(&t, NULL, toucher, NULL);
  for (int i = 1; i <= 40; i++) {
    CHECK(mmap(huge_area, huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == huge_area);
    (void)!madvise(huge_area, huge, MADV_HUGEPAGE);
    round_begun = i;
    while (round_done < i) CHECK(madvise(huge_area + 4096, huge - 4096, MADV_DONTNEED) == 0);
    CHECK(madvise(huge_area + 4096, huge - 8192, MADV_DONTNEED) == 0 && huge_area[1 << 20] == 0);
  }
  pthread_join(t, NULL);
  munmap(p, 8 * huge);
}

static void nothing_is_lost(void) { // hundreds of children with memory of their own: the machine has as much as before
  for (int i = 0; i < 200; i++) {
    pid_t pid = fork();
    if (!pid) {
      char *p = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      for (int k = 0; k < 4 << 20; k += 4096) p[k] = 1;
      if (i % 2) munmap(p + (1 << 20) + 4096, 1 << 20);
      _exit(p[4096] != 1);
    }
    int st = -1;
    if (waitpid(pid, &st, 0) != pid || st != 0) CHECK(!"child");
  }
}

static void shared_file(void) { // two processes and a truncating third
  char name[] = "/tmp/mm_stress.XXXXXX";
  int fd = mkstemp(name);
  unlink(name);
  CHECK(ftruncate(fd, 256 * PAGE) == 0);
  volatile unsigned *p = mmap(NULL, 256 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  pid_t c[2];
  for (int i = 0; i < 2; i++) {
    c[i] = fork();
    if (c[i]) continue;
    for (int round = 0; round < 200; round++)
      for (int k = i; k < 128; k += 2) p[k * 1024] += 1;
    _exit(0);
  }
  for (int round = 0; round < 100; round++) {
    CHECK(ftruncate(fd, 128 * PAGE) == 0 && ftruncate(fd, 256 * PAGE) == 0);
    p[200 * 1024] = 9;
    if (round % 10 == 0) CHECK(msync((void *)p, 256 * PAGE, MS_SYNC) == 0);
  }
  int st, ok = 1;
  for (int i = 0; i < 2; i++) ok &= waitpid(c[i], &st, 0) == c[i] && st == 0;
  for (int k = 0; k < 128; k++) ok &= p[k * 1024] == 200;
  unsigned v = 0;
  for (int k = 0; k < 128; k++) ok &= pread(fd, &v, 4, k * 4096) == 4 && v == 200;
  CHECK(ok);
  munmap((void *)p, 256 * PAGE);
  close(fd);
}

int main(int argc, char **argv) {
  if (argc > 1) rounds = atoi(argv[1]);
  RUN(threads_churn);
  RUN(fork_snapshots);
  RUN(discards_beside_faults);
  RUN(nothing_is_lost);
  RUN(shared_file);
  FINISH();
}

// SPDX-License-Identifier: Apache-2.0
// Several processes and threads change the same few names at once; afterwards everything must still add up: each
// directory's link count, each file's, and what readdir shows. Then writers, readers, truncation and mappings of one file.
#include "fs_common.h"
#include <pthread.h>
#include <sys/file.h>

#define PROCS 4
#define ROUNDS 3000
static unsigned rnd(unsigned *s) { return *s = *s * 1103515245u + 12345u, (*s >> 16) & 0x7fff; }

static void pick(unsigned *s, char *buf) {
  static const char *dirs[] = { "a", "b", "a/c" };
  sprintf(buf, "%s/%u", dirs[rnd(s) % 3], rnd(s) % 8);
}

static void churn(unsigned seed) {
  char x[32], y[32];
  struct stat st;
  for (int k = 0; k < ROUNDS; k++) {
    pick(&seed, x);
    pick(&seed, y);
    switch (rnd(&seed) % 10) {
    case 0: case 1: { int fd = open(x, O_CREAT | O_WRONLY, 0600); if (fd >= 0) { if (write(fd, x, 4) != 4) _exit(2); close(fd); } break; }
    case 2: unlink(x); break;
    case 3: case 4: rename(x, y); break;
    case 5: link(x, y); break;
    case 6: symlink(y, x); break;
    case 7: mkdir(x, 0700); break;
    case 8: rmdir(x); break;
    case 9:
      stat(x, &st);
      DIR *d = opendir(rnd(&seed) % 2 ? "a" : "b");
      struct dirent *e;
      int n = 0;
      while (d && (e = readdir(d)) && n++ < 1000) {}
      if (n >= 1000) _exit(3);
      if (d) closedir(d);
    }
  }
}

// Removes everything below the current directory; returns how many sub-directories there were.
static int sweep(int *names) {
  int dirs = 0;
  DIR *d = opendir(".");
  struct dirent *e;
  while ((e = readdir(d))) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    ++*names;
    if (unlink(e->d_name) == 0) continue;
    dirs++;
    struct stat st;
    CHECK(stat(e->d_name, &st) == 0 && S_ISDIR(st.st_mode) && chdir(e->d_name) == 0);
    int below = sweep(names);
    CHECK(chdir("..") == 0);
    CHECK(st.st_nlink == 2u + (unsigned)below || st.st_nlink == 1); // file systems that do not count say 1
    CHECK(rmdir(e->d_name) == 0);
  }
  closedir(d);
  return dirs;
}

static void test_names(void) {
  int status, good = 0, names = 0;
  CHECK(mkdir("a", 0700) == 0 && mkdir("b", 0700) == 0 && mkdir("a/c", 0700) == 0);
  for (unsigned p = 0; p < PROCS; p++)
    if (!fork()) {
      churn(p * 7919 + 1);
      _exit(0);
    }
  for (int p = 0; p < PROCS; p++) good += wait(&status) > 0 && status == 0;
  CHECK(good == PROCS);
  CHECK(sweep(&names) == 2 && names >= 3);
  group("names under fire");
}

enum { SIZE = 64 * 1024 };
static int data_fd;
static volatile int stop;

// A record is 64 bytes of one letter, written at once: a reader may see an old or a new one, and whole records at rest.
static void *writer(void *arg) {
  unsigned s = (unsigned)(long)arg;
  char rec[64];
  for (int k = 0; k < 2000; k++) {
    memset(rec, 'a' + (int)(rnd(&s) % 26), sizeof rec);
    if (pwrite(data_fd, rec, sizeof rec, (off_t)(rnd(&s) % (SIZE / 64)) * 64) != sizeof rec) return (void *)1;
  }
  return NULL;
}
static void *reader(void *arg) {
  unsigned s = (unsigned)(long)arg;
  static __thread char buf[4096];
  while (!stop) {
    long n = pread(data_fd, buf, sizeof buf, (off_t)(rnd(&s) % SIZE));
    for (long k = 0; k < n; k++)
      if (buf[k] && (buf[k] < 'a' || buf[k] > 'z')) return (void *)1;
  }
  return NULL;
}

static void test_data(void) {
  pthread_t w[3], r[2];
  void *res;
  data_fd = open("data", O_CREAT | O_RDWR, 0600);
  CHECK(data_fd >= 0 && ftruncate(data_fd, SIZE) == 0);
  char *map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, data_fd, 0);
  for (long k = 0; k < 3; k++) pthread_create(&w[k], NULL, writer, (void *)(k + 5));
  for (long k = 0; k < 2; k++) pthread_create(&r[k], NULL, reader, (void *)(k + 50));
  for (int k = 0; k < 20; k++) {
    CHECK(fsync(data_fd) == 0);
    int bad = 0;
    for (int j = 0; j < SIZE; j++) bad += map[j] && (map[j] < 'a' || map[j] > 'z');
    CHECK(!bad);
  }
  for (int k = 0; k < 3; k++) CHECK(pthread_join(w[k], &res) == 0 && !res);
  stop = 1;
  for (int k = 0; k < 2; k++) CHECK(pthread_join(r[k], &res) == 0 && !res);
  char buf[SIZE];
  CHECK(pread(data_fd, buf, SIZE, 0) == SIZE && !memcmp(buf, map, SIZE));
  int bad = 0;
  for (int k = 0; k < SIZE; k++) bad += buf[k] != buf[k & ~63];
  CHECK(!bad);
  munmap(map, SIZE);
  close(data_fd);
  CHECK(unlink("data") == 0);
  group("data under fire");
}

static void test_counter(void) { // read, add, write under a lock
  int status, good = 0;
  long v = 0;
  int fd = open("n", O_CREAT | O_RDWR, 0600);
  CHECK(write(fd, &v, sizeof v) == sizeof v);
  close(fd);
  for (int p = 0; p < PROCS; p++)
    if (!fork()) {
      int own = open("n", O_RDWR);
      for (int k = 0; k < 200; k++) {
        struct flock fl = { .l_type = F_WRLCK };
        if (p % 2 ? flock(own, LOCK_EX) : 0) _exit(1);
        fl.l_len = 1;
        if (fcntl(own, F_SETLKW, &fl)) _exit(2);
        if (pread(own, &v, sizeof v, 0) != sizeof v) _exit(3);
        v++;
        if (pwrite(own, &v, sizeof v, 0) != sizeof v) _exit(4);
        fl.l_type = F_UNLCK;
        if (fcntl(own, F_SETLK, &fl)) _exit(5);
        if (p % 2) flock(own, LOCK_UN);
      }
      _exit(0);
    }
  for (int p = 0; p < PROCS; p++) good += wait(&status) > 0 && status == 0;
  fd = open("n", O_RDONLY);
  CHECK(good == PROCS && read(fd, &v, sizeof v) == sizeof v && v == PROCS * 200);
  close(fd);
  CHECK(unlink("n") == 0);
  group("a counter under locks");
}

int main(int argc, char **argv) {
  begin(argc, argv);
  test_names();
  test_data();
  test_counter();
  return finish();
}

// SPDX-License-Identifier: Apache-2.0
// Reading directories: complete, each name once, while names come and go.
#include "fs_common.h"
#include <sys/syscall.h>

#define N 2000
static unsigned char seen[N];

static void read_all(DIR *d, int *others, int *twice) {
  struct dirent *e;
  int k;
  *others = *twice = 0;
  memset(seen, 0, sizeof seen);
  while ((e = readdir(d))) {
    if (sscanf(e->d_name, "file-%d", &k) == 1 && k >= 0 && k < N) *twice += seen[k]++ != 0;
    else ++*others;
  }
}

static int count(int from, int to) {
  int n = 0;
  for (int k = from; k < to; k++) n += seen[k];
  return n;
}

int main(int argc, char **argv) {
  char name[64];
  int others, twice;
  begin(argc, argv);
  for (int k = 0; k < N; k++) {
    snprintf(name, sizeof name, "file-%d", k);
    CHECK(put_file(name, "") == 0);
  }
  DIR *d = opendir(".");
  CHECK(d != NULL);
  read_all(d, &others, &twice);
  CHECK(count(0, N) == N && others == 2 && !twice);
  rewinddir(d);
  read_all(d, &others, &twice);
  CHECK(count(0, N) == N && !twice);
  group("complete");

  rewinddir(d); // remove while reading: everything is found once and goes
  struct dirent *e;
  int removed = 0;
  while ((e = readdir(d))) {
    int k;
    if (sscanf(e->d_name, "file-%d", &k) == 1 && k % 2) removed += unlink(e->d_name) == 0;
  }
  CHECK(removed == N / 2);
  rewinddir(d);
  read_all(d, &others, &twice);
  CHECK(count(0, N) == N / 2 && !twice);
  group("remove while reading");

  rewinddir(d); // names that were there from start to end are seen exactly once, whatever comes meanwhile
  memset(seen, 0, sizeof seen);
  int step = 0;
  while ((e = readdir(d)) && step < 4 * N) {
    int k;
    if (sscanf(e->d_name, "file-%d", &k) == 1) seen[k]++;
    snprintf(name, sizeof name, "other-%d", step++);
    if (step < 200) CHECK(put_file(name, "") == 0);
  }
  int bad = 0;
  for (int k = 0; k < N; k += 2) bad += seen[k] != 1;
  CHECK(bad == 0 && step < 4 * N);
  group("create while reading");

  rewinddir(d); // telldir and seekdir
  for (int k = 0; k < 50; k++) CHECK((e = readdir(d)) != NULL);
  long pos = telldir(d);
  e = readdir(d);
  CHECK(e != NULL);
  char after[300];
  snprintf(after, sizeof after, "%.255s", e->d_name);
  seekdir(d, pos);
  e = readdir(d);
  CHECK(e && !strcmp(e->d_name, after));
  closedir(d);
  char buf[64];
  int fd = open(".", O_RDONLY | O_DIRECTORY);
  FAILS(syscall(SYS_getdents64, fd, buf, 10), EINVAL); // no room for one
  close(fd);
  d = opendir(".");
  while ((e = readdir(d)))
    if (e->d_name[0] != '.') CHECK(unlink(e->d_name) == 0);
  closedir(d);
  CHECK(mkdir("empty", 0700) == 0 && (fd = open("empty", O_RDONLY)) >= 0 && rmdir("empty") == 0);
  FAILS(syscall(SYS_getdents64, fd, buf, sizeof buf), ENOENT);
  close(fd);
  CHECK(put_file("plain", "") == 0 && (fd = open("plain", O_RDONLY)) >= 0);
  FAILS(syscall(SYS_getdents64, fd, buf, sizeof buf), ENOTDIR);
  close(fd);
  CHECK(unlink("plain") == 0);
  group("positions");
  return finish();
}

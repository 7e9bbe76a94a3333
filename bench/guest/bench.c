// SPDX-License-Identifier: Apache-2.0
//
// The program that the benchmarks run, the same binary on Linux and on our kernel: `bench hello`, `bench fileread PATH`,
// `bench cpu`, `bench memory`. Figures are printed as "NAME VALUE", one a line.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

// Sequential reads of 128 KiB, what cp and cat use; returns MB/s.
static double read_file(const char *path) {
  static char buffer[128 * 1024];
  int fd = open(path, O_RDONLY);
  if (fd < 0) {
    perror(path);
    exit(1);
  }
  double start = now(), bytes = 0;
  ssize_t n;
  while ((n = read(fd, buffer, sizeof(buffer))) > 0) bytes += (double)n;
  if (n < 0) {
    perror("read");
    exit(1);
  }
  double seconds = now() - start;
  close(fd);
  return bytes / 1e6 / seconds;
}

static double cpu_loop(void) {
  double start = now();
  uint64_t x = 88172645463325252ull, sum = 0;
  for (uint32_t i = 0; i < 100000000; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    sum += x % 1000;
  }
  double seconds = now() - start;
  if (sum == 0) puts("");
  return 100.0 / seconds; // million rounds per second
}

// Dependent loads over 64 MiB in random order, after touching it all.
static double memory_loop(void) {
  enum { COUNT = 8 * 1024 * 1024 };
  uint64_t *next = malloc(COUNT * sizeof(*next));
  double start = now();
  for (uint64_t i = 0; i < COUNT; i++) next[i] = i;
  uint64_t seed = 1;
  for (uint64_t i = COUNT - 1; i > 0; i--) { // Sattolo: one cycle
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    uint64_t j = (seed >> 33) % i, t = next[i];
    next[i] = next[j], next[j] = t;
  }
  uint64_t at = 0;
  for (int i = 0; i < 2 * COUNT; i++) at = next[at];
  double seconds = now() - start;
  if (at == COUNT) puts("");
  free(next);
  return 3.0 * COUNT / 1e6 / seconds; // million accesses per second
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  if (!strcmp(what, "hello")) {
    puts("hello from the program");
  } else if (!strcmp(what, "fileread") && argc > 2) {
    printf("first %.1f\n", read_file(argv[2]));
    printf("cached %.1f\n", read_file(argv[2]));
  } else if (!strcmp(what, "cpu")) {
    printf("integer %.2f\n", cpu_loop());
    printf("memory %.2f\n", memory_loop());
  } else {
    fprintf(stderr, "usage: bench hello | fileread PATH | cpu\n");
    return 64;
  }
  return 0;
}

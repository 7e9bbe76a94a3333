// SPDX-License-Identifier: Apache-2.0
//
// Runs a fuzz harness without libFuzzer: reads seed files from the folders or files given, mutates them for
// -max_total_time=SECONDS (default 10) or -runs=N, at most -max_len=N bytes. No coverage guidance: a smoke test for
// machines that have only gcc. A crash leaves the input in ./crash-input.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t *seeds[4096];
static size_t seed_len[4096], seed_count, max_len = 4096;
static uint8_t *current;
static size_t current_len;

static uint64_t next_random(void) {
  static uint64_t x = 0x2545f4914f6cdd1d;
  x ^= x << 13; x ^= x >> 7; x ^= x << 17;
  return x;
}

static void add_seed(const char *path) {
  struct stat st;
  if (stat(path, &st)) return;
  if (S_ISDIR(st.st_mode)) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
      char sub[4096];
      if (e->d_name[0] == '.') continue;
      snprintf(sub, sizeof(sub), "%s/%s", path, e->d_name);
      add_seed(sub);
    }
    if (d) closedir(d);
    return;
  }
  FILE *f = fopen(path, "rb");
  if (!f || seed_count == 4096) return;
  seeds[seed_count] = malloc(max_len);
  seed_len[seed_count] = fread(seeds[seed_count], 1, max_len, f);
  seed_count++;
  fclose(f);
}

void __asan_on_error(void);
void __asan_on_error(void) {
  FILE *f = fopen("crash-input", "wb");
  if (f) fwrite(current, 1, current_len, f), fclose(f);
}

static void run(const uint8_t *data, size_t n) {
  current = malloc(n ? n : 1); // its exact size, so that ASan sees a read past it
  memcpy(current, data, n);
  current_len = n;
  LLVMFuzzerTestOneInput(current, n);
  free(current);
}

int main(int argc, char **argv) {
  long seconds = 10, runs = -1;
  for (int i = 1; i < argc; i++)
    if (!strncmp(argv[i], "-max_len=", 9)) max_len = strtoul(argv[i] + 9, NULL, 10);
  for (int i = 1; i < argc; i++) {
    if (!strncmp(argv[i], "-max_total_time=", 16)) seconds = atol(argv[i] + 16);
    else if (!strncmp(argv[i], "-runs=", 6)) runs = atol(argv[i] + 6);
    else if (argv[i][0] != '-') add_seed(argv[i]);
  }
  for (size_t i = 0; i < seed_count; i++) run(seeds[i], seed_len[i]);
  uint8_t *buf = malloc(max_len + 1);
  time_t end = time(NULL) + seconds;
  long n = 0;
  for (; runs >= 0 ? n < runs : time(NULL) < end; n++) {
    size_t len;
    if (seed_count && next_random() % 8) {
      size_t s = next_random() % seed_count;
      len = seed_len[s];
      memcpy(buf, seeds[s], len);
    } else {
      len = next_random() % (next_random() % 4 ? 64 : max_len + 1);
      if (len > max_len) len = max_len;
      for (size_t i = 0; i < len; i++) buf[i] = (uint8_t)next_random();
    }
    for (unsigned m = (unsigned)(next_random() % 8); m && len; m--) {
      size_t at = next_random() % len;
      switch (next_random() % 5) {
        case 0: buf[at] ^= (uint8_t)(1u << next_random() % 8); break;
        case 1: buf[at] = (uint8_t)next_random(); break;
        case 2: len = at; break;
        case 3: memmove(buf + at, buf + at + 1, --len - at); break;
        default:
          if (len < max_len) memmove(buf + at + 1, buf + at, len++ - at), buf[at] = (uint8_t)next_random();
      }
    }
    run(buf, len);
  }
  free(buf);
  printf("%ld inputs, no finding\n", n);
  return 0;
}

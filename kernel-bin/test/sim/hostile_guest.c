// SPDX-License-Identifier: Apache-2.0
//
// Process 1 of the TD that a lying host torments (hostile.js): keeps a secret in every kind of memory a program has, and
// checks that no copy of it ever changed; with the argument "devices" it works with those meanwhile
// (hostile_devices.c), with "taken" it asks the simulator for a host that takes a page away. Prints `intact` and exits 0, `refused: ...` and 1 when the kernel said no, or
// `CORRUPT ...` and 2: that must never happen.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECRET_BYTES 32
#define HEAP (2 << 20)
static unsigned char secret[SECRET_BYTES];

static void refused(const char *what) { perror(what); printf("refused: %s\n", what); fflush(stdout); exit(1); }
static void corrupt(const char *what) { printf("CORRUPT %s\n", what); fflush(stdout); exit(2); }
static void fill(unsigned char *p, size_t n) { for (size_t i = 0; i + SECRET_BYTES <= n; i += SECRET_BYTES) memcpy(p + i, secret, SECRET_BYTES); }
static void look(const unsigned char *p, size_t n, const char *what) {
  for (size_t i = 0; i + SECRET_BYTES <= n; i += SECRET_BYTES)
    if (memcmp(p + i, secret, SECRET_BYTES) != 0) corrupt(what);
}

int devices(void);

int main(int argc, char **argv) {
  // "the simulator's planted secret: " with every byte xored, so that the image does not hold it
  static const char text[] = "\x2e\x32\x3f\x7a\x29\x33\x37\x2f\x36\x3b\x2e\x35\x28\x7d\x29\x7a\x2a\x36\x3b\x34\x2e\x3f\x3e\x7a\x29\x3f\x39\x28\x3f\x2e\x60\x7a";
  for (int i = 0; i < SECRET_BYTES; i++) secret[i] = (unsigned char)(text[i] ^ 0x5a);
  unsigned char *heap = malloc(HEAP), *shared = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (!heap || shared == MAP_FAILED) refused("memory");
  fill(heap, HEAP);
  fill(shared, 1 << 20);
  if (argc > 1 && !strcmp(argv[1], "devices")) {
    int status = devices();
    look(heap, HEAP, "the heap");
    look(shared, 1 << 20, "the shared memory");
    printf("intact\n");
    return status;
  }
  if (argc > 1 && !strcmp(argv[1], "taken")) {
    unsigned leaf = 0x656b6174; // sim.h: LEAF_TAKE
    __asm__ volatile("cpuid" : "+a"(leaf) : "D"(heap + 8192), "c"(0) : "rbx", "rdx", "memory");
    look(heap + 8192, 4096, "memory that the host has taken");
    corrupt("the program went on without its memory");
  }
  int fd = open("/secret", O_RDWR | O_CREAT | O_TRUNC, 0600), pipes[2];
  if (fd < 0) refused("open");
  for (int i = 0; i < 256; i++)
    if (write(fd, heap, 4096) != 4096) refused("write");
  if (pipe(pipes)) refused("pipe");
  for (int round = 0; round < 4; round++) {
    pid_t child = fork();
    if (child < 0) refused("fork");
    if (child == 0) {
      heap[round * 4096 + 5] ^= 0; // a private copy of a page
      look(heap, HEAP, "the child's heap");
      look(shared, 1 << 20, "the child's shared memory");
      if (write(pipes[1], heap, 4096) != 4096) _exit(1);
      _exit(0);
    }
    unsigned char page[4096];
    size_t have = 0;
    while (have < sizeof(page)) {
      ssize_t n = read(pipes[0], page + have, sizeof(page) - have);
      if (n <= 0) refused("read");
      have += (size_t)n;
    }
    look(page, sizeof(page), "the pipe");
    int status;
    if (waitpid(child, &status, 0) != child) refused("waitpid");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2) return 2;
    if (status) refused("child");
    struct timespec t = { 0, 2000000 };
    nanosleep(&t, 0);
    printf("round %d\n", round);
  }
  // memory that others have left must come back as zeroes
  for (int round = 0; round < 3; round++) {
    size_t n = 8 << 20;
    unsigned char *fresh = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) refused("mmap");
    for (size_t i = 0; i < n; i += 8)
      if (*(unsigned long *)(fresh + i)) corrupt("fresh memory is not zero");
    fill(fresh, n);
    munmap(fresh, n);
  }
  char file[4096];
  if (lseek(fd, 0, SEEK_SET) != 0) refused("lseek");
  for (int i = 0; i < 256; i++) {
    if (read(fd, file, sizeof(file)) != sizeof(file)) refused("read");
    look((unsigned char *)file, sizeof(file), "the file");
  }
  int r = open("/dev/attestation/report", O_RDONLY);
  if (r >= 0) {
    if (read(r, file, 1024) != 1024) printf("no report\n");
    close(r);
  }
  look(heap, HEAP, "the heap");
  look(shared, 1 << 20, "the shared memory");
  printf("intact\n");
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
// What a program may not do is a signal to it, and the machine goes on. In a TD some of these would be virtualization
// exceptions, and must not be more than what they are elsewhere.
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include "check.h"

static sigjmp_buf back;
static volatile int got;
static void on_signal(int signo) {
  got = signo;
  siglongjmp(back, 1);
}
#define TRY(instruction) ({ got = 0; if (!sigsetjmp(back, 1)) __asm__ volatile(instruction ::"a"(0), "b"(0), "c"(0x1b), "d"(0) : "memory"); got; })

static void undefined(void) {
  (void)TRY("vmcall"); // Linux: as its hypervisor likes
  CHECK(TRY("ud2") == SIGILL);
}

static void privileged(void) {
  CHECK(TRY("hlt") == SIGSEGV);
  CHECK(TRY("rdmsr") == SIGSEGV);
  CHECK(TRY("wrmsr") == SIGSEGV);
  CHECK(TRY("inb $0x80, %%al") == SIGSEGV);
  CHECK(TRY("outb %%al, $0x80") == SIGSEGV);
  CHECK(TRY("cli") == SIGSEGV);
  CHECK(TRY("mov %%cr0, %%rax") == SIGSEGV);
  CHECK(TRY("lgdt (%%rsp)") == SIGSEGV);
}

// The flag that opens user memory to the kernel is the program's to set (SDM 3, 4.6: EFLAGS.AC), and faults, interrupts and
// system calls keep it: a kernel with DEBUG=1 asserts that its own code does not run with it.
static void alignment_flag(void) {
  static volatile char page[16][4096];
  __asm__ volatile("pushfq; orq $0x40000, (%%rsp); popfq" ::: "memory", "cc");
  for (int i = 0; i < 16; i++) page[i][0] = 1;
  int trapped = TRY("ud2");
  __asm__ volatile("pushfq; andq $~0x40000, (%%rsp); popfq" ::: "memory", "cc");
  CHECK(trapped == SIGILL && page[15][0] == 1);
}

int main(void) {
  struct sigaction sa = { .sa_handler = on_signal };
  for (int i = 0; i < 4; i++) sigaction((int[]){ SIGILL, SIGSEGV, SIGBUS, SIGTRAP }[i], &sa, NULL);
  RUN(undefined);
  RUN(privileged);
  RUN(alignment_flag);
  FINISH();
}

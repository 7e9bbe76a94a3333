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

int main(void) {
  struct sigaction sa = { .sa_handler = on_signal };
  for (int i = 0; i < 4; i++) sigaction((int[]){ SIGILL, SIGSEGV, SIGBUS, SIGTRAP }[i], &sa, NULL);
  RUN(undefined);
  RUN(privileged);
  FINISH();
}

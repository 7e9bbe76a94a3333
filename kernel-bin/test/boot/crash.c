// SPDX-License-Identifier: Apache-2.0
// A kernel that goes wrong in the way that CRASH says, to see what panic makes of it (make crash CRASH=overflow).
#include "arch/internal.h"
#include "host/host.h"
#include "task/task.h"

#pragma GCC diagnostic ignored "-Winfinite-recursion"
#pragma GCC diagnostic ignored "-Wpragmas"

void proc_start_init(void);
static __attribute__((noinline)) u64 deeper(u64 n) {
  volatile u8 room[512];
  room[n % 512] = (u8)n;
  return n == 0 ? 0 : deeper(n + 1) + room[(n + 1) % 512];
}
static __attribute__((noinline)) void smash(u32 n) {
  u8 room[16];
  volatile u8 *p = room;
  for (u32 i = 0; i < n; i++) p[i] = (u8)i;
}
static void spin(void *arg) {
  irq_disable();
  for (;;) cpu_relax();
}
void proc_start_init(void) {
  for (u32 i = 1; i < cpu_count; i++) { // the others do not listen to interrupts: only an NMI stops them
    struct thread *t = thread_create("spin", spin, NULL);
    u64 mask = BIT(i);
    (void)!thread_set_affinity(t, &mask);
    thread_start(t);
  }
  switch (CRASH) {
    case 1: printk(LOG_ERROR, "%lu", deeper(1)); break;                    // the guard page below the stack
    case 2: smash(64); break;                                              // the canary
    case 3: *(volatile u8 *)(uintptr_t)kernel_start = 0; break;            // text is read-only,
    case 4: *(volatile u8 *)(DIRECT_BASE + 0x200000) = 0; break;           // also through the direct map
    case 5: ((void (*)(void))(uintptr_t)kernel_rodata_end)(); break;       // data is not executable
    case 6: *(volatile u8 *)(uintptr_t)arch_hooks.timer = 0; break;
    case 7: (void)*(volatile u8 *)0x1000; break;                           // a program's memory, without uaccess
    case 9: (void)cpuid(2, 0); break;                                      // in a TD: a #VE in the kernel
    default: ASSERT(!"asserted");
  }
  host_power_off();
}

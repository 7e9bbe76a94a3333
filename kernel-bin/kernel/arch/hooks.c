// SPDX-License-Identifier: Apache-2.0
//
// Calls out of arch. Each does something sensible until its room installs a better one.
#include "arch/internal.h"

static void no_page_fault(struct regs *r, u64 addr, u64 error) {
  dump_regs(r);
  panic("page fault of a program at %#lx, error %#lx: nobody handles it", addr, error);
}
static bool no_user_fault(struct regs *r, u64 addr, u64 error) { return false; }
static void no_trap(struct regs *r, unsigned vector, u64 error, u64 addr) {
  dump_regs(r);
  panic("trap %u of a program: nobody handles it", vector);
}
static long no_syscall(struct regs *r) { return -ENOSYS; }
static void no_user_return(struct regs *r) {}
static void no_timer(void) {}
static void no_resched(void) { this_cpu()->need_resched = false; }

struct arch_hooks arch_hooks = {
  .page_fault = no_page_fault,
  .user_fault_ok = no_user_fault,
  .user_trap = no_trap,
  .syscall = no_syscall,
  .user_return = no_user_return,
  .timer = no_timer,
  .resched = no_resched,
};

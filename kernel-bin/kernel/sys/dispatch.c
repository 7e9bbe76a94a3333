// SPDX-License-Identifier: Apache-2.0
//
// The system call hook: mocked calls, the table, the trace, and the CPU-time split.
//
// How an interrupted call goes on: a handler returns -ERESTARTSYS and its kin; the code is remembered in the lwp, not in
// rax, so nothing that a program has in its registers can look like one. signal_deliver then either re-executes the
// `syscall` instruction or makes it -EINTR.
#include "sys/internal.h"
#include "attest/attest.h"

#define TIMED_EVERY 16 // one call in this many is measured: two readings of the clock on each would cost more than they tell

static const s64 *mock_ret;  // by number; NULL: nothing is mocked
static const bool *mocked;

static void mock_init(void) {
  if (!policy.mock_n) return;
  s64 *ret = kzalloc(SYSCALL_COUNT * sizeof *ret);
  bool *set = kzalloc(SYSCALL_COUNT);
  if (!ret || !set) panic("no memory for the mocked system calls");
  for (u32 i = 0; i < policy.mock_n; i++) {
    bool found = false;
    for (u32 nr = 0; nr < SYSCALL_COUNT; nr++) {
      if (!syscall_table[nr].name || strcmp(syscall_table[nr].name, policy.mock[i].name)) continue;
      ret[nr] = policy.mock[i].ret;
      set[nr] = found = true;
    }
    if (!found) panic("the policy mocks a system call that does not exist: %s", policy.mock[i].name);
  }
  mock_ret = ret;
  mocked = set;
}

static void trace(const struct regs *r, const char *name, long ret) {
  struct lwp *l = lwp_current();
  char result[24];
  if (ret < 0 && ret >= -4095) snprintf(result, sizeof result, "%ld", ret);
  else snprintf(result, sizeof result, "%#lx", (unsigned long)ret);
  printk(LOG_TRACE, "[%d %s] %s(%#lx, %#lx, %#lx, %#lx, %#lx, %#lx) = %s", l->tid, l->process->comm, name, (unsigned long)r->rdi,
    (unsigned long)r->rsi, (unsigned long)r->rdx, (unsigned long)r->r10, (unsigned long)r->r8, (unsigned long)r->r9, result);
}

static long call(const struct regs *r, u64 nr) {
  if (unlikely(nr >= SYSCALL_COUNT)) return -ENOSYS;
  if (unlikely(mocked) && mocked[nr]) return mock_ret[nr];
  const struct syscall_entry *e = &syscall_table[nr];
  if (unlikely(!e->fn)) {
    printk(LOG_DEBUG, "%s: system call %lu (%s) is missing", lwp_current()->process->comm, (unsigned long)nr, e->name ? e->name : "?");
    return -ENOSYS;
  }
  if (unlikely(log_level >= LOG_ALL)) printk(LOG_ALL, "[%d] %s ...", lwp_current()->tid, e->name); // a call that never returns shows
  return e->fn(r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9);
}

static long syscall_dispatch(struct regs *r) {
  struct lwp *l = lwp_current();
  u64 nr = r->orig_rax;
  l->restart_code = 0;
  bool timed = ++l->syscall_count % TIMED_EVERY == 0;
  u64 start = timed ? thread_cputime_ns(l->thread) : 0;
  long ret = call(r, nr);
  if (timed) l->stime_ns += (thread_cputime_ns(l->thread) - start) * TIMED_EVERY;
  if (unlikely(log_level >= LOG_TRACE)) trace(r, nr < SYSCALL_COUNT && syscall_table[nr].name ? syscall_table[nr].name : "?", ret);
  if (unlikely(ret <= -ERESTARTSYS && ret >= -ERESTART_RESTARTBLOCK)) {
    l->restart_code = (int)-ret;
    ret = -EINTR; // what the program would see if nobody decided otherwise
  }
  return ret;
}

void sys_init(void) {
  mock_init();
  arch_hooks.syscall = syscall_dispatch;
}

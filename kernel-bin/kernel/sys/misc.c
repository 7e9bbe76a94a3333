// SPDX-License-Identifier: Apache-2.0
//
// What the machine is, scheduling, randomness, and calls that a program in a VM of its own may not make.
#include "proc/internal.h"
#include "sys/internal.h"
#include "attest/attest.h"

#define NAME_BYTES 65
static char domainname[NAME_BYTES] = "(none)";
static struct mutex name_lock = { .guard = SPINLOCK_INIT(RANK_WAITQ), .waiters = LIST_INIT(name_lock.waiters), .rank = RANK_OBJECT };

static const char *nodename(void) {
  return proc_nodename[0] ? proc_nodename : host_hints.hostname[0] ? host_hints.hostname : "localhost";
}

long sys_uname(u64 to) {
  static const char *const fixed[6] = { "Linux", NULL, KERNEL_RELEASE, KERNEL_VERSION, "x86_64", NULL };
  char field[NAME_BYTES];
  mutex_lock(&name_lock);
  long r = 0;
  for (u64 i = 0; i < 6 && !r; i++) {
    memset(field, 0, sizeof field);
    strlcpy(field, i == 1 ? nodename() : i == 5 ? domainname : fixed[i], sizeof field);
    if (copy_to_user(to + i * NAME_BYTES, field, sizeof field)) r = -EFAULT;
  }
  mutex_unlock(&name_lock);
  return r;
}

static long set_nodename(char *which, u64 from, u64 len) {
  char name[NAME_BYTES] = { 0 };
  if (process_current()->cred.euid) return -EPERM;
  if (len > NAME_BYTES - 1) return -EINVAL;
  if (copy_from_user(name, from, len)) return -EFAULT;
  mutex_lock(&name_lock);
  memcpy(which, name, sizeof name);
  mutex_unlock(&name_lock);
  return 0;
}
long sys_sethostname(u64 name, u64 len) { return set_nodename(proc_nodename, name, len); }
long sys_setdomainname(u64 name, u64 len) { return set_nodename(domainname, name, len); }

long sys_sysinfo(u64 to) {
  struct { s64 uptime; u64 loads[3], totalram, freeram, sharedram, bufferram, totalswap, freeswap; u16 procs, pad; u64 totalhigh, freehigh; u32 unit; } s = { 0 };
  _Static_assert(sizeof s == 112, "struct sysinfo");
  s.uptime = (s64)(time_ns() / NS_PER_SEC);
  for (unsigned i = 0; i < 3; i++) s.loads[i] = (u64)sched_load_avg(i) << 5; // 1/2048 to 1/65536
  s.totalram = page_total_count() * PAGE_SIZE;
  s.freeram = page_free_count() * PAGE_SIZE;
  s.procs = (u16)MIN(READ_ONCE(lwp_count), 65535u);
  s.unit = 1;
  return copy_to_user(to, &s, sizeof s) ? -EFAULT : 0;
}

long sys_getrandom(u64 to, u64 len, u64 flags) {
  u8 buf[256];
  if (flags & ~7ull || (flags & 6) == 6) return -EINVAL;
  len = MIN(len, 0x1ffffffull);
  for (u64 done = 0; done < len;) {
    u64 n = MIN(len - done, sizeof buf);
    random_bytes(buf, n);
    if (copy_to_user(to + done, buf, n)) return done ? (long)done : -EFAULT;
    done += n;
    if (done % 65536 == 0) {
      if (signal_pending()) return (long)done;
      sched_yield_if_needed();
    }
  }
  memzero_secret(buf, sizeof buf);
  return (long)len;
}

long sys_getcpu(u64 cpu, u64 node) {
  u32 id = thread_current()->cpu, zero = 0;
  if (cpu && copy_to_user(cpu, &id, sizeof id)) return -EFAULT;
  return node && copy_to_user(node, &zero, sizeof zero) ? -EFAULT : 0;
}

// Absent on purpose: glibc and tcmalloc do without, and each switch would have to look at the program's memory.
long sys_rseq(void) { return -ENOSYS; }

// --- scheduling
enum { SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE = 5 };
#define SCHED_RESET_ON_FORK 0x40000000

long sys_sched_yield(void) {
  sched_yield();
  return 0;
}

// Looks the thread up and keeps it for the call: process_lock held on success.
static struct lwp *find_locked(int tid, u64 *flags, long *err) {
  *err = tid < 0 ? -EINVAL : -ESRCH;
  if (tid < 0) return NULL;
  *flags = spin_lock_irqsave(&process_lock);
  struct lwp *l = tid ? lwp_find_locked(tid) : lwp_current();
  if (!l) spin_unlock_irqrestore(&process_lock, *flags);
  return l;
}

static bool may_change(const struct lwp *l) {
  const struct cred *c = &process_current()->cred, *t = &l->process->cred;
  return c->euid == 0 || c->euid == t->uid || c->euid == t->euid;
}

long sys_sched_setaffinity(u64 pid, u64 len, u64 mask) {
  u64 m = 0, flags;
  long r;
  if (copy_from_user(&m, mask, MIN(len, sizeof m))) return -EFAULT;
  struct lwp *l = find_locked((int)pid, &flags, &r);
  if (!l) return r;
  r = may_change(l) ? thread_set_affinity(l->thread, &m) : -EPERM;
  bool self = l == lwp_current();
  spin_unlock_irqrestore(&process_lock, flags);
  if (self && !r) sched_yield_if_needed(); // moves now
  return r;
}

long sys_sched_getaffinity(u64 pid, u64 len, u64 mask) {
  u64 flags, online = cpu_count >= 64 ? ~0ull : BIT(cpu_count) - 1;
  long r;
  if (len < sizeof online || len % 8) return -EINVAL;
  struct lwp *l = find_locked((int)pid, &flags, &r);
  if (!l) return r;
  u64 m = l->thread->affinity[0] & online;
  spin_unlock_irqrestore(&process_lock, flags);
  return copy_to_user(mask, &m, sizeof m) ? -EFAULT : (long)sizeof m;
}

static long set_policy(int pid, int policy_no, int priority) { // policy -1: keep
  u64 flags;
  long r;
  struct lwp *l = find_locked(pid, &flags, &r);
  if (!l) return r;
  bool reset = policy_no >= 0 && (policy_no & SCHED_RESET_ON_FORK);
  int p = policy_no < 0 ? l->sched_policy : policy_no & ~SCHED_RESET_ON_FORK;
  bool rt = p == SCHED_FIFO || p == SCHED_RR;
  if (p < 0 || p > SCHED_IDLE || p == 4 || (rt ? priority < 1 || priority > 99 : priority != 0)) r = -EINVAL;
  else if (!may_change(l) || (rt && process_current()->cred.euid && !l->process->rlimits[RLIMIT_RTPRIO].cur)) r = -EPERM;
  else {
    l->sched_policy = p;
    l->sched_priority = priority;
    if (policy_no >= 0) l->sched_reset_on_fork = reset;
    l->thread->realtime = rt;
    if (p == SCHED_IDLE) l->thread->nice = 19;
    r = 0;
  }
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

long sys_sched_setscheduler(u64 pid, u64 policy_no, u64 param) {
  int priority;
  if ((int)policy_no < 0) return -EINVAL;
  if (copy_from_user(&priority, param, sizeof priority)) return -EFAULT;
  return set_policy((int)pid, (int)policy_no, priority);
}

long sys_sched_setparam(u64 pid, u64 param) {
  int priority;
  if (copy_from_user(&priority, param, sizeof priority)) return -EFAULT;
  return set_policy((int)pid, -1, priority);
}

long sys_sched_getscheduler(u64 pid) {
  u64 flags;
  long r;
  struct lwp *l = find_locked((int)pid, &flags, &r);
  if (!l) return r;
  r = l->sched_policy | (l->sched_reset_on_fork ? SCHED_RESET_ON_FORK : 0);
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

long sys_sched_getparam(u64 pid, u64 param) {
  u64 flags;
  long r;
  struct lwp *l = find_locked((int)pid, &flags, &r);
  if (!l) return r;
  int priority = l->sched_priority;
  spin_unlock_irqrestore(&process_lock, flags);
  return copy_to_user(param, &priority, sizeof priority) ? -EFAULT : 0;
}

static bool is_policy(u64 p) { return p <= SCHED_IDLE && p != 4; }
long sys_sched_get_priority_max(u64 p) { return !is_policy(p) ? -EINVAL : p == SCHED_FIFO || p == SCHED_RR ? 99 : 0; }
long sys_sched_get_priority_min(u64 p) { return !is_policy(p) ? -EINVAL : p == SCHED_FIFO || p == SCHED_RR ? 1 : 0; }

long sys_sched_rr_get_interval(u64 pid, u64 to) {
  u64 ts[2] = { 0, 6 * NS_PER_MS }, flags;
  long r;
  struct lwp *l = find_locked((int)pid, &flags, &r);
  if (!l) return r;
  spin_unlock_irqrestore(&process_lock, flags);
  return copy_to_user(to, ts, sizeof ts) ? -EFAULT : 0;
}

struct sched_attr_k { u32 size, policy; u64 flags; s32 nice; u32 priority; u64 runtime, deadline, period; };

long sys_sched_getattr(u64 pid, u64 to, u64 size, u64 zero) {
  u64 flags;
  long r;
  if (zero || size < 48) return -EINVAL;
  struct lwp *l = find_locked((int)pid, &flags, &r);
  if (!l) return r;
  struct sched_attr_k a = { .size = sizeof a, .policy = (u32)l->sched_policy, .flags = l->sched_reset_on_fork, .nice = l->thread->nice, .priority = (u32)l->sched_priority };
  spin_unlock_irqrestore(&process_lock, flags);
  return copy_to_user(to, &a, sizeof a) ? -EFAULT : 0;
}

// --- nice values: getpriority and setpriority over a thread, a group or a user
enum { PRIO_PROCESS, PRIO_PGRP, PRIO_USER };

static bool selects(int which, u32 who, const struct process *p) {
  const struct process *me = process_current();
  return which == PRIO_PGRP ? p->pgid == (who ? (int)who : me->pgid) : p->cred.uid == (who ? who : me->cred.uid);
}

static long set_nice(struct lwp *l, int nice) {
  if (!may_change(l)) return -EPERM;
  if (nice < l->thread->nice && process_current()->cred.euid) return -EACCES;
  l->thread->nice = nice;
  return 0;
}

static long priority(int which, u32 who, bool set, int nice) {
  u64 flags;
  long r = -ESRCH;
  if (which < 0 || which > PRIO_USER) return -EINVAL;
  if (which == PRIO_PROCESS) {
    struct lwp *l = find_locked((int)who, &flags, &r);
    if (!l) return -ESRCH;
    r = set ? set_nice(l, nice) : 20 - l->thread->nice;
  } else {
    struct process *p;
    struct lwp *l;
    flags = spin_lock_irqsave(&process_lock);
    list_for_each(p, &process_list, all) {
      if (!selects(which, who, p)) continue;
      list_for_each(l, &p->threads, in_process) r = set ? set_nice(l, nice) : MAX(r, 20l - l->thread->nice);
    }
  }
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

long sys_getpriority(u64 which, u64 who) { return priority((int)which, (u32)who, false, 0); }
long sys_setpriority(u64 which, u64 who, u64 nice) {
  int n = (int)nice;
  return priority((int)which, (u32)who, true, n < -20 ? -20 : n > 19 ? 19 : n);
}

long sys_ioprio_get(u64 which, u64 who) { return which < 1 || which > 3 ? -EINVAL : 4; } // best effort, middle
long sys_ioprio_set(u64 which, u64 who, u64 prio) { return which < 1 || which > 3 ? -EINVAL : 0; }

// --- membarrier: an IPI to every CPU is a full barrier on each
static void membarrier_ipi(void *arg) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

long sys_membarrier(u64 cmd, u64 flags, u64 cpu) {
  enum { QUERY, GLOBAL = 1, GLOBAL_EXPEDITED = 2, REGISTER_GLOBAL = 4, PRIVATE = 8, REGISTER_PRIVATE = 16, SYNC_CORE = 32, REGISTER_SYNC_CORE = 64 };
  struct process *p = process_current();
  if (flags) return -EINVAL;
  switch ((int)cmd) {
  case QUERY: return GLOBAL | GLOBAL_EXPEDITED | REGISTER_GLOBAL | PRIVATE | REGISTER_PRIVATE | SYNC_CORE | REGISTER_SYNC_CORE;
  case REGISTER_GLOBAL: return 0;
  case REGISTER_PRIVATE: case REGISTER_SYNC_CORE: p->membarrier_registered = true; return 0;
  case PRIVATE: case SYNC_CORE: // the interrupt's iretq serialises the core
    if (!p->membarrier_registered) return -EPERM;
    break;
  case GLOBAL: case GLOBAL_EXPEDITED: break;
  default: return -EINVAL;
  }
  u64 all = cpu_count >= 64 ? ~0ull : BIT(cpu_count) - 1;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (cpu_count > 1) ipi_call(&all, membarrier_ipi, NULL);
  return 0;
}

// --- the kernel's log, as dmesg reads it
long sys_syslog(u64 type, u64 buf, u64 len) {
  enum { READ_ALL = 3, READ_CLEAR = 4, SIZE_UNREAD = 9, SIZE_BUFFER = 10 };
  if (process_current()->cred.euid) return -EPERM;
  if (type == SIZE_BUFFER) return 16 * KIB;
  if (type != READ_ALL && type != READ_CLEAR) return type <= SIZE_BUFFER ? 0 : -EINVAL;
  if ((int)len < 0) return -EINVAL;
  size_t n = MIN(len, 16 * KIB);
  char *text = kmalloc(n ? n : 1, 0);
  if (!text) return -ENOMEM;
  n = printk_read_ring(text, n);
  long r = copy_to_user(buf, text, n) ? -EFAULT : (long)n;
  kfree(text);
  return r;
}

// --- refused as to any program without those rights
long sys_reboot(void) { return -EPERM; }
long sys_swapon(void) { return -EPERM; }
long sys_swapoff(void) { return -EPERM; }
long sys_init_module(void) { return -EPERM; }
long sys_finit_module(void) { return -EPERM; }
long sys_delete_module(void) { return -EPERM; }
long sys_kexec_load(void) { return -EPERM; }
long sys_acct(void) { return -EPERM; }
long sys_quotactl(void) { return -EPERM; }
long sys_iopl(void) { return -EPERM; }
long sys_ioperm(void) { return -EPERM; }
long sys_ptrace(void) { return -EPERM; }
long sys_perf_event_open(void) { return -EACCES; }
long sys_bpf(void) { return -EPERM; }
long sys_vhangup(void) { return -EPERM; }
long sys_unshare(u64 flags) { return flags & ~(u64)(CLONE_FS | CLONE_FILES | CLONE_SYSVSEM) ? -EPERM : process_unshare(flags); }
long sys_setns(void) { return -EPERM; }

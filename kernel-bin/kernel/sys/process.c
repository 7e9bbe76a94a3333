// SPDX-License-Identifier: Apache-2.0
//
// Processes and threads: creation, exec, exit, wait, ids, groups, credentials, limits, prctl.
#include "proc/internal.h"
#include "sys/internal.h"

#define AT_EMPTY_PATH 0x1000
#define AT_SYMLINK_NOFOLLOW 0x100
#define PATH_BYTES 4096
#define ARG_STRING_MAX (128 * KIB)
#define ARG_TOTAL_MAX (6 * MIB)

static struct regs *user_regs(void) { return thread_current()->user_regs; }

// --- creation
long sys_fork(void) {
  struct clone_request rq = { .exit_signal = SIGCHLD };
  return process_clone(&rq, user_regs());
}

long sys_vfork(void) {
  struct clone_request rq = { .flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD };
  return process_clone(&rq, user_regs());
}

long sys_clone(u64 flags, u64 stack, u64 parent_tid, u64 child_tid, u64 tls) {
  struct clone_request rq = { .flags = (u32)flags & ~0xffu, .stack = stack, .parent_tid = parent_tid, .child_tid = child_tid, .tls = tls,
    .exit_signal = flags & 0xff };
  return process_clone(&rq, user_regs());
}

long sys_clone3(u64 args, u64 size) {
  struct { u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup; } a = { 0 };
  if (size < 64) return -EINVAL;
  if (size > PAGE_SIZE) return -E2BIG;
  if (copy_from_user(&a, args, MIN(size, sizeof a))) return -EFAULT;
  for (u64 at = sizeof a; at < size; at += 8) { // a newer structure is fine while what we do not know is zero
    u64 word = 0;
    if (copy_from_user(&word, args + at, MIN(size - at, 8ull))) return -EFAULT;
    if (word) return -E2BIG;
  }
  if ((a.flags & 0xff) || a.exit_signal > NSIG || a.set_tid_size || !a.stack != !a.stack_size) return -EINVAL;
  if (a.flags & ~(0xffffff00ull | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP)) return -EINVAL;
  if ((a.flags & (CLONE_THREAD | CLONE_PARENT)) && a.exit_signal) return -EINVAL;
  if (a.stack && !user_range_ok(a.stack, a.stack_size)) return -EINVAL;
  struct clone_request rq = { .flags = a.flags, .stack = a.stack, .stack_size = a.stack_size, .parent_tid = a.parent_tid,
    .child_tid = a.child_tid, .tls = a.tls, .exit_signal = (int)a.exit_signal };
  return process_clone(&rq, user_regs());
}

// --- exec
static void free_strings(char **v) {
  if (!v) return;
  for (char **s = v; *s; s++) kfree(*s);
  kfree(v);
}

static int copy_string(uptr from, u64 *budget, char **out) {
  // Most strings are short: try a small buffer on the stack before the large one.
  char small[256];
  long n = strncpy_from_user(small, from, sizeof small);
  if (n >= 0) {
    if ((u64)n + 1 > *budget) return -E2BIG;
    *budget -= (u64)n + 1;
    *out = kstrdup(small);
    return *out ? 0 : -ENOMEM;
  }
  if (n != -ENAMETOOLONG) return (int)n;
  char *big = kmalloc(ARG_STRING_MAX, 0);
  if (!big) return -ENOMEM;
  n = strncpy_from_user(big, from, ARG_STRING_MAX);
  if (n == -ENAMETOOLONG || (n >= 0 && (u64)n + 1 > *budget)) n = -E2BIG;
  if (n >= 0) {
    *budget -= (u64)n + 1;
    *out = kstrdup(big);
    if (!*out) n = -ENOMEM;
  }
  kfree(big);
  return n < 0 ? (int)n : 0;
}

// The strings that a NULL-terminated array of pointers names.
static int copy_strings(uptr from, u64 *budget, char ***out) {
  u64 n = 0, cap = 64;
  char **v = kmalloc(cap * sizeof *v, 0);
  int r = v ? 0 : -ENOMEM;
  while (!r) {
    uptr p = 0;
    if (from && copy_from_user(&p, from + n * sizeof p, sizeof p)) r = -EFAULT;
    if (r || !p) break;
    if (*budget < sizeof p) r = -E2BIG;
    if (!r && n + 1 == cap) {
      char **bigger = cap * 2 * sizeof *v <= 4 * MIB ? kmalloc(cap * 2 * sizeof *v, 0) : NULL;
      if (bigger) {
        memcpy(bigger, v, n * sizeof *v);
        kfree(v);
        v = bigger;
        cap *= 2;
      } else {
        r = -E2BIG;
      }
    }
    if (r) break;
    *budget -= sizeof p;
    r = copy_string(p, budget, &v[n]);
    if (!r) n++;
  }
  if (v) v[n] = NULL;
  if (r) {
    free_strings(v);
    v = NULL;
  }
  *out = v;
  return r;
}

static long exec(const char *path, struct file *file, u64 user_argv, u64 user_envp) {
  char **argv = NULL, **envp = NULL;
  u64 limit = process_rlimit(RLIMIT_STACK) / 4, budget = MAX(MIN(limit, ARG_TOTAL_MAX), ARG_STRING_MAX);
  int r = copy_strings(user_argv, &budget, &argv);
  if (!r && !argv[0]) { // Linux: a program never sees argc 0
    argv[0] = kstrdup("");
    argv[1] = NULL;
    if (!argv[0]) r = -ENOMEM;
  }
  if (!r) r = copy_strings(user_envp, &budget, &envp);
  if (!r) r = (int)process_exec(path, file, argv, envp);
  free_strings(argv);
  free_strings(envp);
  return r;
}

static char *copy_path(u64 user, int *err) {
  char *path = kmalloc(PATH_BYTES, 0);
  long n = path ? strncpy_from_user(path, user, PATH_BYTES) : -ENOMEM;
  *err = n < 0 ? (int)n : 0;
  if (n >= 0) return path;
  kfree(path);
  return NULL;
}

long sys_execve(u64 path, u64 argv, u64 envp) {
  int err;
  char *p = copy_path(path, &err);
  if (!p) return err;
  long r = exec(p, NULL, argv, envp);
  kfree(p);
  return r;
}

long sys_execveat(u64 dirfd, u64 path, u64 argv, u64 envp, u64 flags) {
  int err;
  if (flags & ~(u64)(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) return -EINVAL;
  char *p = copy_path(path, &err);
  if (!p) return err;
  struct file *f = NULL;
  long r;
  if (!*p) {
    f = flags & AT_EMPTY_PATH ? file_from_fd((int)dirfd) : NULL;
    r = flags & AT_EMPTY_PATH ? -EBADF : -ENOENT;
  } else {
    f = path_open((int)dirfd, p, flags & AT_SYMLINK_NOFOLLOW ? 0400000 /* O_NOFOLLOW */ : 0, 0);
    r = ptr_err(f);
    if (is_err(f)) f = NULL;
  }
  if (f) {
    if (!*p) snprintf(p, PATH_BYTES, "/dev/fd/%d", (int)dirfd);
    r = exec(p, f, argv, envp);
    file_put(f);
  }
  kfree(p);
  return r;
}

// --- the end
long sys_exit(u64 status) { process_exit((int)(status & 0xff) << 8, false); }
long sys_exit_group(u64 status) { process_exit((int)(status & 0xff) << 8, true); }

long sys_wait4(u64 pid, u64 status, u64 options, u64 rusage) {
  int id = (int)pid;
  if (options & ~(u64)(1 | 2 | 8 | 0x20000000 | 0x40000000 | 0x80000000)) return -EINVAL;
  if (id == INT32_MIN) return -ESRCH;
  int which = id > 0 ? 1 /* P_PID */ : id == -1 ? 0 /* P_ALL */ : 2 /* P_PGID */;
  return process_wait(which, id > 0 ? id : -id * (id < -1), status, (int)((u32)options | 4 /* WEXITED */), rusage, 0);
}

long sys_waitid(u64 which, u64 id, u64 info, u64 options, u64 rusage) {
  if ((options & ~(u64)(1 | 2 | 4 | 8 | 0x01000000 | 0x20000000 | 0x40000000 | 0x80000000)) || !(options & (2 | 4 | 8))) return -EINVAL;
  if (which > 2 || (which == 1 && (int)id <= 0) || (which == 2 && (int)id < 0)) return -EINVAL;
  long r = process_wait((int)which, (int)id, 0, (int)(u32)options, rusage, info);
  if (r == 0 && info) { // WNOHANG and nothing: si_pid and si_signo tell
    u8 none[128] = { 0 };
    if (copy_to_user(info, none, sizeof none)) return -EFAULT;
  }
  return r > 0 ? 0 : r;
}

// --- ids
long sys_getpid(void) { return process_current()->pid; }
long sys_gettid(void) { return lwp_current()->tid; }
long sys_set_tid_address(u64 addr) {
  lwp_current()->clear_child_tid = addr;
  return lwp_current()->tid;
}

long sys_getppid(void) {
  u64 flags = spin_lock_irqsave(&process_lock);
  struct process *parent = process_current()->parent;
  int pid = parent ? parent->pid : 0;
  spin_unlock_irqrestore(&process_lock, flags);
  return pid;
}

static struct process *self_or_pid_locked(int pid) { return pid ? process_find_locked(pid) : process_current(); }

long sys_getpgid(u64 pid) {
  u64 flags = spin_lock_irqsave(&process_lock);
  struct process *p = self_or_pid_locked((int)pid);
  long r = p ? p->pgid : -ESRCH;
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}
long sys_getpgrp(void) { return sys_getpgid(0); }

long sys_getsid(u64 pid) {
  u64 flags = spin_lock_irqsave(&process_lock);
  struct process *p = self_or_pid_locked((int)pid);
  long r = p ? p->sid : -ESRCH;
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

static long setpgid_locked(struct process *p, int pgid) {
  struct process *me = process_current(), *o;
  if (!p || (p != me && p->parent != me)) return -ESRCH;
  if (p != me && (p->sid != me->sid)) return -EPERM;
  if (p != me && p->did_exec) return -EACCES;
  if (p->sid == p->pid) return -EPERM; // a session leader
  if (pgid != p->pid) {
    bool exists = false;
    list_for_each(o, &process_list, all) exists |= o->pgid == pgid && o->sid == p->sid;
    if (!exists) return -EPERM;
  }
  p->pgid = pgid;
  return 0;
}

long sys_setpgid(u64 pid, u64 pgid) {
  if ((int)pgid < 0) return -EINVAL;
  u64 flags = spin_lock_irqsave(&process_lock);
  struct process *p = self_or_pid_locked((int)pid);
  long r = setpgid_locked(p, !p ? 0 : (int)pgid ? (int)pgid : p->pid);
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

long sys_setsid(void) {
  struct process *me = process_current(), *o;
  long r = me->pid;
  u64 flags = spin_lock_irqsave(&process_lock);
  list_for_each(o, &process_list, all)
    if (o->pgid == me->pid) r = -EPERM;
  if (r > 0) me->sid = me->pgid = me->pid;
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

// --- credentials: one set per process; root may become anybody, others what they were
static struct cred *my_cred(void) { return &process_current()->cred; }
long sys_getuid(void) { return my_cred()->uid; }
long sys_geteuid(void) { return my_cred()->euid; }
long sys_getgid(void) { return my_cred()->gid; }
long sys_getegid(void) { return my_cred()->egid; }

static bool may_have(u32 id, const u32 *ids, unsigned n) { // (u32)-1: leave as it is
  bool ok = id == ~0u || my_cred()->euid == 0;
  for (unsigned i = 0; i < n; i++) ok |= ids[i] == id;
  return ok;
}

// ids: real, effective, saved, fs of a cred, adjacent there.
static void set_ids(u32 *ids, u32 real, u32 eff, u32 saved) {
  if (real != ~0u) ids[0] = real;
  if (eff != ~0u) ids[1] = ids[3] = eff;
  if (saved != ~0u) ids[2] = saved;
}
_Static_assert(offsetof(struct cred, gid) == 16 && offsetof(struct cred, fsgid) == 28, "uid and gid quadruples");

static long set_one(u32 *ids, u64 id) {
  u32 v = (u32)id;
  if (v == ~0u) return -EINVAL;
  if (my_cred()->euid == 0) set_ids(ids, v, v, v);
  else if (v == ids[0] || v == ids[2]) set_ids(ids, ~0u, v, ~0u);
  else return -EPERM;
  return 0;
}
long sys_setuid(u64 id) { return set_one(&my_cred()->uid, id); }
long sys_setgid(u64 id) { return set_one(&my_cred()->gid, id); }

static long set_re(u32 *ids, u64 real, u64 eff) {
  u32 r = (u32)real, e = (u32)eff;
  if (!may_have(r, ids, 2) || !may_have(e, ids, 3)) return -EPERM;
  bool saves = r != ~0u || (e != ~0u && e != ids[0]);
  set_ids(ids, r, e, ~0u);
  if (saves) ids[2] = ids[1];
  return 0;
}
long sys_setreuid(u64 r, u64 e) { return set_re(&my_cred()->uid, r, e); }
long sys_setregid(u64 r, u64 e) { return set_re(&my_cred()->gid, r, e); }

static long set_res(u32 *ids, u64 real, u64 eff, u64 saved) {
  if (!may_have((u32)real, ids, 3) || !may_have((u32)eff, ids, 3) || !may_have((u32)saved, ids, 3)) return -EPERM;
  set_ids(ids, (u32)real, (u32)eff, (u32)saved);
  return 0;
}
long sys_setresuid(u64 r, u64 e, u64 s) { return set_res(&my_cred()->uid, r, e, s); }
long sys_setresgid(u64 r, u64 e, u64 s) { return set_res(&my_cred()->gid, r, e, s); }

static long get_res(const u32 *ids, u64 r, u64 e, u64 s) {
  return copy_to_user(r, &ids[0], 4) || copy_to_user(e, &ids[1], 4) || copy_to_user(s, &ids[2], 4) ? -EFAULT : 0;
}
long sys_getresuid(u64 r, u64 e, u64 s) { return get_res(&my_cred()->uid, r, e, s); }
long sys_getresgid(u64 r, u64 e, u64 s) { return get_res(&my_cred()->gid, r, e, s); }

static long set_fs(u32 *ids, u64 id) {
  u32 old = ids[3];
  if ((u32)id != ~0u && may_have((u32)id, ids, 4)) ids[3] = (u32)id;
  return old;
}
long sys_setfsuid(u64 id) { return set_fs(&my_cred()->uid, id); }
long sys_setfsgid(u64 id) { return set_fs(&my_cred()->gid, id); }

long sys_getgroups(u64 size, u64 list) {
  struct cred *c = my_cred();
  if ((int)size < 0) return -EINVAL;
  if (!size) return c->ngroups;
  if (size < c->ngroups) return -EINVAL;
  return copy_to_user(list, c->groups, c->ngroups * sizeof(u32)) ? -EFAULT : (long)c->ngroups;
}

long sys_setgroups(u64 size, u64 list) {
  struct cred *c = my_cred();
  u32 groups[ARRAY_SIZE(c->groups)];
  if (c->euid) return -EPERM;
  if (size > ARRAY_SIZE(groups)) return -EINVAL;
  if (copy_from_user(groups, list, size * sizeof(u32))) return -EFAULT;
  memcpy(c->groups, groups, size * sizeof(u32));
  c->ngroups = (u32)size;
  return 0;
}

// Capabilities: root has all, others none, as the effective uid says.
#define CAP_ALL (BIT(41) - 1)
static int cap_words(u32 version) { return version == 0x19980330 ? 1 : version == 0x20071026 || version == 0x20080522 ? 2 : 0; }

long sys_capget(u64 header, u64 data) {
  struct { u32 version; s32 pid; } h;
  if (copy_from_user(&h, header, sizeof h)) return -EFAULT;
  int words = cap_words(h.version);
  if (!words) {
    h.version = 0x20080522;
    if (copy_to_user(header, &h, sizeof h)) return -EFAULT;
    return data ? -EINVAL : 0;
  }
  if (h.pid < 0) return -EINVAL;
  u64 flags = spin_lock_irqsave(&process_lock);
  struct process *p = self_or_pid_locked(h.pid);
  bool found = p || lwp_find_locked(h.pid), root = p ? p->cred.euid == 0 : my_cred()->euid == 0;
  spin_unlock_irqrestore(&process_lock, flags);
  if (!found) return -ESRCH;
  if (!data) return 0;
  u32 out[6] = { 0 };
  for (int i = 0; root && i < words; i++) out[3 * i] = out[3 * i + 1] = (u32)(CAP_ALL >> (32 * i));
  return copy_to_user(data, out, (size_t)words * 12) ? -EFAULT : 0;
}

long sys_capset(u64 header, u64 data) {
  struct { u32 version; s32 pid; } h;
  u32 in[6] = { 0 };
  if (copy_from_user(&h, header, sizeof h)) return -EFAULT;
  int words = cap_words(h.version);
  if (!words) return -EINVAL;
  if (h.pid && h.pid != process_current()->pid && h.pid != lwp_current()->tid) return -EPERM;
  if (copy_from_user(in, data, (size_t)words * 12)) return -EFAULT;
  for (int i = 0; i < words; i++) { // effective within permitted, permitted within what there is
    u32 have = my_cred()->euid ? 0 : (u32)(CAP_ALL >> (32 * i));
    if ((in[3 * i] & ~in[3 * i + 1]) || (in[3 * i + 1] & ~have)) return -EPERM;
  }
  return 0;
}

// --- limits
static long set_limit_locked(struct process *p, unsigned which, const struct rlimit64_k *l) {
  struct rlimit64_k *old = &p->rlimits[which];
  if (l->cur > l->max) return -EINVAL;
  if (l->max > old->max && my_cred()->euid) return -EPERM;
  if (which == RLIMIT_NOFILE && l->max > 1048576) return -EPERM; // fs.nr_open
  *old = *l;
  return 0;
}

static long prlimit(int pid, u64 which, const struct rlimit64_k *set, struct rlimit64_k *get) {
  if (which >= RLIM_COUNT) return -EINVAL;
  long r = -ESRCH;
  struct aspace *as = NULL;
  u64 flags = spin_lock_irqsave(&process_lock);
  struct process *p = self_or_pid_locked(pid);
  if (p) {
    spin_lock(&p->sighand->lock);
    const struct cred *me = my_cred();
    *get = p->rlimits[which];
    if (p != process_current() && me->euid && (me->uid != p->cred.uid || me->uid != p->cred.euid || me->uid != p->cred.suid)) r = -EPERM;
    else r = set ? set_limit_locked(p, (unsigned)which, set) : 0;
    struct lwp *l;
    list_for_each(l, &p->threads, in_process)
      if (l->as && set && !r && !as) as = aspace_get(l->as);
    spin_unlock(&p->sighand->lock);
  }
  spin_unlock_irqrestore(&process_lock, flags);
  if (as) {
    if (which == RLIMIT_STACK) WRITE_ONCE(as->stack_limit_bytes, set->cur);
    if (which == RLIMIT_AS) WRITE_ONCE(as->as_limit_bytes, set->cur);
    if (which == RLIMIT_DATA) WRITE_ONCE(as->data_limit_bytes, set->cur);
    aspace_put(as);
  }
  return r;
}

long sys_prlimit64(u64 pid, u64 which, u64 new_limit, u64 old_limit) {
  struct rlimit64_k set, get;
  if (new_limit && copy_from_user(&set, new_limit, sizeof set)) return -EFAULT;
  long r = prlimit((int)pid, which, new_limit ? &set : NULL, &get);
  if (!r && old_limit && copy_to_user(old_limit, &get, sizeof get)) return -EFAULT;
  return r;
}
long sys_getrlimit(u64 which, u64 limit) { return limit ? sys_prlimit64(0, which, 0, limit) : -EFAULT; }
long sys_setrlimit(u64 which, u64 limit) { return limit ? sys_prlimit64(0, which, limit, 0) : -EFAULT; }

// --- prctl
enum { PR_SET_PDEATHSIG = 1, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE, PR_GET_KEEPCAPS = 7, PR_SET_KEEPCAPS, PR_GET_TIMING = 13,
       PR_SET_TIMING, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP = 21, PR_CAPBSET_READ = 23, PR_CAPBSET_DROP, PR_GET_TSC, PR_SET_TSC,
       PR_GET_SECUREBITS, PR_SET_SECUREBITS, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, PR_SET_CHILD_SUBREAPER = 36, PR_GET_CHILD_SUBREAPER,
       PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_GET_TID_ADDRESS, PR_SET_THP_DISABLE, PR_GET_THP_DISABLE, PR_CAP_AMBIENT = 47 };

static long put_int(u64 to, int v) { return copy_to_user(to, &v, sizeof v) ? -EFAULT : 0; }

static long set_name(struct lwp *l, u64 from) {
  char name[17];
  long n = strncpy_from_user(name, from, 16);
  if (n == -EFAULT) return n;
  name[15] = 0;
  strlcpy(l->thread->name, name, sizeof l->thread->name);
  if (l->tid == l->process->pid) strlcpy(l->process->comm, name, sizeof l->process->comm);
  return 0;
}

long sys_prctl(u64 op, u64 a, u64 b, u64 c, u64 d) {
  struct lwp *l = lwp_current();
  struct process *p = l->process;
  switch ((int)op) {
  case PR_SET_PDEATHSIG:
    if (a > NSIG) return -EINVAL;
    l->pdeath_signal = (int)a;
    return 0;
  case PR_GET_PDEATHSIG: return put_int(a, l->pdeath_signal);
  case PR_GET_DUMPABLE: return p->dumpable;
  case PR_SET_DUMPABLE:
    if (a > 1) return -EINVAL;
    p->dumpable = (int)a;
    return 0;
  case PR_GET_KEEPCAPS: return 0;
  case PR_SET_KEEPCAPS: return a > 1 ? -EINVAL : 0;
  case PR_GET_TIMING: return 0;
  case PR_SET_TIMING: return a ? -EINVAL : 0;
  case PR_SET_NAME: return set_name(l, a);
  case PR_GET_NAME: return copy_to_user(a, l->thread->name, 16) ? -EFAULT : 0;
  case PR_GET_SECCOMP: return 0;
  case PR_CAPBSET_READ: return a > 40 ? -EINVAL : (long)(p->caps_bounding >> a & 1);
  case PR_CAPBSET_DROP:
    if (p->cred.euid) return -EPERM;
    if (a > 40) return -EINVAL;
    p->caps_bounding &= ~BIT(a);
    return 0;
  case PR_GET_TSC: return put_int(a, 1 /* PR_TSC_ENABLE */);
  case PR_SET_TSC: return a == 1 ? 0 : -EINVAL;
  case PR_GET_SECUREBITS: return 0;
  case PR_SET_SECUREBITS: return a ? -EPERM : 0;
  case PR_SET_TIMERSLACK:
    l->timer_slack_ns = a ? (u32)a : 50000;
    return 0;
  case PR_GET_TIMERSLACK: return l->timer_slack_ns;
  case PR_SET_CHILD_SUBREAPER:
    p->is_subreaper = a != 0;
    return 0;
  case PR_GET_CHILD_SUBREAPER: return put_int(a, p->is_subreaper);
  case PR_SET_NO_NEW_PRIVS:
    if (a != 1 || b || c || d) return -EINVAL;
    p->no_new_privs = true;
    return 0;
  case PR_GET_NO_NEW_PRIVS: return a || b || c || d ? -EINVAL : p->no_new_privs;
  case PR_GET_TID_ADDRESS: return copy_to_user(a, &l->clear_child_tid, 8) ? -EFAULT : 0;
  case PR_GET_THP_DISABLE: return 0;
  case PR_SET_THP_DISABLE: return 0;
  case PR_CAP_AMBIENT: return a == 1 || a == 4 ? 0 : -EINVAL; // IS_SET: none are; CLEAR_ALL: nothing to do
  default: return -EINVAL;
  }
}

// --- arch_prctl
enum { ARCH_SET_GS = 0x1001, ARCH_SET_FS, ARCH_GET_FS, ARCH_GET_GS, ARCH_GET_CPUID = 0x1011, ARCH_SET_CPUID, ARCH_GET_XCOMP_SUPP = 0x1021,
       ARCH_GET_XCOMP_PERM, ARCH_REQ_XCOMP_PERM };

long sys_arch_prctl(u64 op, u64 addr) {
  u64 v;
  switch (op) {
  case ARCH_SET_FS:
    if (addr >= USER_END) return -EPERM;
    arch_set_fs_base(addr);
    return 0;
  case ARCH_SET_GS:
    if (addr >= USER_END) return -EPERM;
    arch_set_user_gs_base(addr);
    return 0;
  case ARCH_GET_FS: v = arch_get_fs_base(); break;
  case ARCH_GET_GS: v = arch_get_user_gs_base(); break;
  case ARCH_GET_XCOMP_SUPP: case ARCH_GET_XCOMP_PERM: v = fpu_xcr0; break;
  case ARCH_REQ_XCOMP_PERM: return addr < 64 && (fpu_xcr0 & BIT(addr)) ? 0 : addr < 64 ? -EOPNOTSUPP : -EINVAL;
  case ARCH_GET_CPUID: return 1;
  case ARCH_SET_CPUID: return addr ? 0 : -ENODEV;
  default: return -EINVAL;
  }
  return copy_to_user(addr, &v, sizeof v) ? -EFAULT : 0;
}

long sys_personality(u64 persona) {
  struct process *p = process_current();
  long old = p->personality;
  if ((u32)persona != 0xffffffffu) p->personality = (u32)persona;
  return old;
}

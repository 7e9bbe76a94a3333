// SPDX-License-Identifier: Apache-2.0
//
// /proc/PID and /proc/PID/task/TID, in Linux's formats. Facts about threads are copied under process_lock first and
// printed afterwards.
#include "attest/attest.h"
#include "drv/drv.h"
#include "proc/procfs.h"
#include <linux/stat.h>

#define TICK_NS 10000000ul // USER_HZ 100
#define REG(mode) (S_IFREG | (mode))

struct snap { // of a process or thread
  int pid, tgid, ppid, pgid, sid, tty_nr, tpgid, exit_signal, nice, priority, policy, cpu;
  char comm[16], state;
  u32 threads, sigqueue;
  u64 minflt, majflt, cminflt, cmajflt, utime, stime, cutime, cstime, start, vol, invol;
  sigset pending, shared_pending, blocked, ignored, caught;
  struct cred cred;
  u64 affinity, syscaps, bounding;
  bool no_new_privs;
  struct rlimit64_k limits[RLIM_COUNT];
};

static char thread_state_char(const struct process *p, const struct lwp *l) {
  if (p->zombie || !l) return 'Z';
  if (p->stopped) return 'T';
  enum thread_state st = READ_ONCE(l->thread->state);
  return st == THREAD_SLEEPING ? (l->thread->interruptible ? 'S' : 'D') : 'R';
}

// NULL: no memory or the thread is gone. The caller kfrees it.
static struct snap *snap_take(const struct proc_ref *r) {
  struct snap *s = kzalloc(sizeof *s);
  if (!s) return NULL;
  struct process *p = r->p;
  process_times(p, &s->utime, &s->stime);
  u64 flags = spin_lock_irqsave(&process_lock);
  spin_lock(&p->sighand->lock);
  struct lwp *l, *found = NULL;
  s->minflt = p->minflt;
  s->majflt = p->majflt;
  list_for_each(l, &p->threads, in_process) {
    s->minflt += l->minflt;
    s->majflt += l->majflt;
    if (!found && (!r->tid || l->tid == r->tid)) found = l;
  }
  l = found;
  s->tgid = p->pid;
  s->pid = r->tid ? r->tid : p->pid;
  s->ppid = p->parent ? p->parent->pid : 0;
  s->pgid = p->pgid;
  s->sid = p->sid;
  s->tpgid = -1;
  if (p->sid && p->sid == tty_session()) {
    s->tty_nr = 0x500 | 1; // the console
    s->tpgid = tty_foreground();
  }
  s->exit_signal = p->exit_signal;
  s->state = thread_state_char(p, l);
  strlcpy(s->comm, l && r->tid ? l->thread->name : p->comm, sizeof s->comm);
  s->threads = p->thread_count;
  s->sigqueue = p->sigqueue_count;
  s->cminflt = p->cminflt;
  s->cmajflt = p->cmajflt;
  s->cutime = p->cutime_ns;
  s->cstime = p->cstime_ns;
  s->start = p->start_ns;
  s->shared_pending = p->pending.set;
  s->cred = p->cred;
  s->no_new_privs = p->no_new_privs;
  s->bounding = p->caps_bounding;
  memcpy(s->limits, p->rlimits, sizeof s->limits);
  for (int i = 0; i < NSIG; i++) {
    uptr h = p->sighand->action[i].handler;
    if (h == SIG_IGN) s->ignored |= BIT(i);
    else if (h != SIG_DFL) s->caught |= BIT(i);
  }
  if (l) {
    s->pending = l->pending.set;
    s->blocked = l->blocked;
    s->nice = l->thread->nice;
    s->policy = l->sched_policy;
    s->priority = l->sched_priority;
    s->cpu = (int)l->thread->cpu;
    s->affinity = l->thread->affinity[0];
    s->vol = l->thread->switches_voluntary;
    s->invol = l->thread->switches_involuntary;
    if (r->tid) {
      lwp_times(l, &s->utime, &s->stime);
      s->minflt = l->minflt;
      s->majflt = l->majflt;
    }
  }
  bool gone = r->tid && !l;
  spin_unlock(&p->sighand->lock);
  spin_unlock_irqrestore(&process_lock, flags);
  if (gone) {
    kfree(s);
    return NULL;
  }
  return s;
}

// --- stat, statm, status
static int show_stat(struct seq *q, struct proc_ref *r) {
  struct snap *s = snap_take(r);
  if (!s) return -ESRCH;
  struct aspace *as = proc_ref_aspace(r);
  u64 vsize = as ? as->total_pages << PAGE_SHIFT : 0, rss = as ? as->rss_pages : 0;
  seq_printf(q, "%d (%s) %c %d %d %d %d %d %u %lu %lu %lu %lu ", s->pid, s->comm, s->state, s->ppid, s->pgid, s->sid, s->tty_nr, s->tpgid,
    0x400000u, s->minflt, s->cminflt, s->majflt, s->cmajflt);
  seq_printf(q, "%lu %lu %lu %lu %d %d %u 0 %lu %lu %lu %lu ", s->utime / TICK_NS, s->stime / TICK_NS, s->cutime / TICK_NS, s->cstime / TICK_NS,
    s->priority ? -1 - s->priority : 20 + s->nice, s->nice, s->threads, s->start / TICK_NS, vsize, rss, s->limits[RLIMIT_RSS].cur);
  seq_printf(q, "%lu %lu %lu 0 0 %lu %lu %lu %lu 0 0 0 %d %d %d %d 0 0 0 ", as ? as->start_code : 0, as ? as->end_code : 0, as ? as->stack_top : 0,
    s->pending & 0x7fffffff, s->blocked & 0x7fffffff, s->ignored & 0x7fffffff, s->caught & 0x7fffffff, s->exit_signal, s->cpu, s->priority, s->policy);
  seq_printf(q, "%lu %lu %lu %lu %lu %lu %lu 0\n", as ? as->start_data : 0, as ? as->end_data : 0, as ? as->brk_start : 0,
    as ? as->arg_start : 0, as ? as->arg_end : 0, as ? as->env_start : 0, as ? as->env_end : 0);
  if (as) aspace_put(as);
  kfree(s);
  return 0;
}

static int show_statm(struct seq *q, struct proc_ref *r) {
  struct aspace *as = proc_ref_aspace(r);
  if (!as) {
    seq_printf(q, "0 0 0 0 0 0 0\n");
    return 0;
  }
  u64 text = DIV_ROUND_UP(as->end_code - as->start_code, PAGE_SIZE);
  seq_printf(q, "%lu %lu %lu %lu 0 %lu 0\n", as->total_pages, as->rss_pages, as->shared_rss_pages, text, as->data_pages + as->stack_pages);
  aspace_put(as);
  return 0;
}

static void print_mask(struct seq *q, const char *name, u64 mask) {
  seq_printf(q, "%s:\t", name);
  if (cpu_count > 32) seq_printf(q, "%08x,", (u32)(mask >> 32));
  seq_printf(q, "%x\n%s_list:\t", (u32)mask, name);
  bool first = true;
  for (unsigned i = 0; i < cpu_count; i++) {
    if (!(mask >> i & 1)) continue;
    unsigned end = i;
    while (end + 1 < cpu_count && (mask >> (end + 1) & 1)) end++;
    seq_printf(q, end > i ? "%s%u-%u" : "%s%u", first ? "" : ",", i, end);
    first = false;
    i = end;
  }
  seq_printf(q, "\n");
}

static int show_status(struct seq *q, struct proc_ref *r) {
  struct snap *s = snap_take(r);
  if (!s) return -ESRCH;
  struct fscontext *fs = proc_ref_fs(r);
  struct fdtable *fds = proc_ref_fds(r);
  struct aspace *as = proc_ref_aspace(r);
  const char *words = s->state == 'R' ? "running" : s->state == 'S' ? "sleeping" : s->state == 'D' ? "disk sleep" : s->state == 'T' ? "stopped" : "zombie";
  seq_printf(q, "Name:\t%s\n", s->comm);
  if (fs) seq_printf(q, "Umask:\t%04o\n", fs->umask);
  seq_printf(q, "State:\t%c (%s)\nTgid:\t%d\nNgid:\t0\nPid:\t%d\nPPid:\t%d\nTracerPid:\t0\n", s->state, words, s->tgid, s->pid, s->ppid);
  seq_printf(q, "Uid:\t%u\t%u\t%u\t%u\nGid:\t%u\t%u\t%u\t%u\n", s->cred.uid, s->cred.euid, s->cred.suid, s->cred.fsuid,
    s->cred.gid, s->cred.egid, s->cred.sgid, s->cred.fsgid);
  seq_printf(q, "FDSize:\t%u\nGroups:\t", fds ? fdtable_capacity(fds) : 0);
  for (u32 i = 0; i < s->cred.ngroups; i++) seq_printf(q, "%u ", s->cred.groups[i]);
  seq_printf(q, "\nNStgid:\t%d\nNSpid:\t%d\nNSpgid:\t%d\nNSsid:\t%d\n", s->tgid, s->pid, s->pgid, s->sid);
  if (as) {
    u64 rss = as->rss_pages, shared = as->shared_rss_pages;
    seq_printf(q, "VmPeak:\t%8lu kB\nVmSize:\t%8lu kB\nVmLck:\t%8lu kB\nVmPin:\t       0 kB\nVmHWM:\t%8lu kB\nVmRSS:\t%8lu kB\n", as->total_pages * 4,
      as->total_pages * 4, as->locked_pages * 4, as->rss_peak_pages * 4, rss * 4);
    seq_printf(q, "RssAnon:\t%8lu kB\nRssFile:\t%8lu kB\nRssShmem:\t       0 kB\nVmData:\t%8lu kB\nVmStk:\t%8lu kB\nVmExe:\t%8lu kB\nVmLib:\t       0 kB\n",
      (rss - shared) * 4, shared * 4, as->data_pages * 4, as->stack_pages * 4, DIV_ROUND_UP(as->end_code - as->start_code, 1024));
    seq_printf(q, "VmPTE:\t%8lu kB\nVmSwap:\t       0 kB\nHugetlbPages:\t       0 kB\nCoreDumping:\t0\nTHP_enabled:\t1\n", as->pt_pages * 4);
  }
  seq_printf(q, "Threads:\t%u\nSigQ:\t%u/%lu\nSigPnd:\t%016lx\nShdPnd:\t%016lx\nSigBlk:\t%016lx\nSigIgn:\t%016lx\nSigCgt:\t%016lx\n", s->threads,
    s->sigqueue, s->limits[RLIMIT_SIGPENDING].cur, s->pending, s->shared_pending, s->blocked, s->ignored, s->caught);
  u64 caps = s->cred.euid ? 0 : s->bounding;
  seq_printf(q, "CapInh:\t%016lx\nCapPrm:\t%016lx\nCapEff:\t%016lx\nCapBnd:\t%016lx\nCapAmb:\t%016lx\nNoNewPrivs:\t%d\nSeccomp:\t0\nSeccomp_filters:\t0\n",
    0ul, caps, caps, s->bounding, 0ul, s->no_new_privs);
  print_mask(q, "Cpus_allowed", s->affinity & (cpu_count >= 64 ? ~0ull : BIT(cpu_count) - 1));
  seq_printf(q, "Mems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t%lu\nnonvoluntary_ctxt_switches:\t%lu\n", s->vol, s->invol);
  if (as) aspace_put(as);
  if (fds) fdtable_put(fds);
  if (fs) fscontext_put(fs);
  kfree(s);
  return 0;
}

// --- maps, smaps
static void vma_name(struct vma *v, char *buf, size_t size) {
  buf[0] = 0;
  if (v->file && v->file->dentry) {
    if (dentry_string(v->file->dentry, buf, size - 1) < 0) strlcpy(buf, "?", size);
  } else if (v->file && v->file->ops->describe) {
    v->file->ops->describe(v->file, buf, size);
  } else if (v->flags & VMA_VDSO) {
    strlcpy(buf, v->flags & VMA_EXEC ? "[vdso]" : "[vvar]", size);
  } else if (v->flags & VMA_STACK) {
    strlcpy(buf, "[stack]", size);
  } else if (v->flags & VMA_BRK) {
    strlcpy(buf, "[heap]", size);
  } else if (v->flags & VMA_SHARED) {
    strlcpy(buf, "/dev/zero (deleted)", size);
  }
}

static void print_header(struct seq *q, struct vma *v, char *name, size_t size) {
  u64 dev = v->file && v->file->inode ? v->file->inode->super->dev : v->obj && !v->file && !(v->flags & VMA_VDSO) ? 1 : 0;
  u64 off = v->obj ? v->pgoff << PAGE_SHIFT : 0;
  size_t start = q->len;
  vma_name(v, name, size);
  seq_printf(q, "%08lx-%08lx %c%c%c%c %08lx %02lx:%02lx %lu ", v->start, v->end, v->flags & VMA_READ ? 'r' : '-', v->flags & VMA_WRITE ? 'w' : '-',
    v->flags & VMA_EXEC ? 'x' : '-', v->flags & VMA_SHARED ? 's' : 'p', off, dev >> 8, dev & 0xff, v->file && v->file->inode ? v->file->inode->ino : 0);
  if (name[0]) {
    int pad = 73 - (int)(q->len - start); // Linux lines the names up
    seq_printf(q, "%*s%s", pad > 0 ? pad : 0, "", name);
  }
  seq_printf(q, "\n");
}

static void print_stats(struct seq *q, const struct vma_stats *t, u64 locked) {
  seq_printf(q, "Rss:            %8lu kB\nPss:            %8lu kB\nPss_Dirty:      %8lu kB\nShared_Clean:   %8lu kB\nShared_Dirty:   %8lu kB\n"
    "Private_Clean:  %8lu kB\nPrivate_Dirty:  %8lu kB\n", t->rss * 4, t->pss_bytes / 1024, t->private_dirty * 4, t->shared_clean * 4, t->shared_dirty * 4,
    t->private_clean * 4, t->private_dirty * 4);
  seq_printf(q, "Referenced:     %8lu kB\nAnonymous:      %8lu kB\nLazyFree:              0 kB\nAnonHugePages:  %8lu kB\nShmemPmdMapped:        0 kB\n"
    "FilePmdMapped:         0 kB\nShared_Hugetlb:        0 kB\nPrivate_Hugetlb:       0 kB\nSwap:                  0 kB\nSwapPss:               0 kB\n"
    "Locked:         %8lu kB\n", t->rss * 4, t->anon * 4, t->huge * 4, locked * 4);
}

enum { MAPS, SMAPS, ROLLUP };

static int show_areas(struct seq *q, struct proc_ref *r, int kind) {
  struct aspace *as = proc_ref_aspace(r);
  char *name = kmalloc(PAGE_SIZE + 16, 0);
  struct vma_stats all = { 0 };
  u64 locked = 0;
  uptr first = 0, last = 0;
  if (as && name) {
    rwsem_read_lock(&as->sem);
    for (struct vma *v = vma_find(as, 0); v; v = vma_find(as, v->end)) {
      if (!last) first = v->start;
      last = v->end;
      if (kind == MAPS) {
        print_header(q, v, name, PAGE_SIZE);
        continue;
      }
      struct vma_stats one = { 0 }, *st = kind == ROLLUP ? &all : &one;
      mm_vma_stats(v, st);
      if (v->flags & VMA_LOCKED) locked += (v->end - v->start) >> PAGE_SHIFT;
      if (kind == ROLLUP) continue;
      print_header(q, v, name, PAGE_SIZE);
      seq_printf(q, "Size:           %8lu kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n", (v->end - v->start) / 1024);
      print_stats(q, st, v->flags & VMA_LOCKED ? st->rss : 0);
      seq_printf(q, "THPeligible:           %d\nVmFlags:%s%s%s%s mr mw me%s%s%s \n", !v->obj && !(v->flags & VMA_NOHUGE), v->flags & VMA_READ ? " rd" : "",
        v->flags & VMA_WRITE ? " wr" : "", v->flags & VMA_EXEC ? " ex" : "", v->flags & VMA_SHARED ? " sh" : "", v->flags & VMA_GROWSDOWN ? " gd" : "",
        v->flags & VMA_LOCKED ? " lo" : "", v->flags & VMA_HUGE ? " hg" : v->flags & VMA_NOHUGE ? " nh" : "");
    }
    rwsem_read_unlock(&as->sem);
    if (kind == ROLLUP) {
      seq_printf(q, "%08lx-%08lx ---p 00000000 00:00 0 %*s[rollup]\n", first, last, 24, "");
      print_stats(q, &all, locked);
    }
  }
  kfree(name);
  if (as) aspace_put(as);
  return name ? 0 : -ENOMEM;
}
static int show_maps(struct seq *q, struct proc_ref *r) { return show_areas(q, r, MAPS); }
static int show_smaps(struct seq *q, struct proc_ref *r) { return show_areas(q, r, SMAPS); }
static int show_rollup(struct seq *q, struct proc_ref *r) { return show_areas(q, r, ROLLUP); }

// --- strings in the program's memory
static int show_range(struct seq *q, struct proc_ref *r, bool env) {
  struct aspace *as = proc_ref_aspace(r);
  if (!as) return env ? -ESRCH : 0; // a zombie's command line is empty
  uptr from = env ? as->env_start : as->arg_start, to = env ? as->env_end : as->arg_end;
  u8 buf[256];
  long n = 1;
  for (uptr at = from; at < to && n > 0; at += (u64)n) {
    n = mm_access(as, at, buf, MIN(to - at, sizeof buf), false);
    if (n > 0) seq_write(q, buf, (size_t)n);
  }
  aspace_put(as);
  return 0;
}
static int show_cmdline(struct seq *q, struct proc_ref *r) { return show_range(q, r, false); }
static int show_environ(struct seq *q, struct proc_ref *r) { return show_range(q, r, true); }

static int show_auxv(struct seq *q, struct proc_ref *r) {
  struct aspace *as = proc_ref_aspace(r);
  if (!as) return -ESRCH;
  seq_write(q, as->auxv, MIN((size_t)as->auxv_len * sizeof(u64), sizeof as->auxv));
  aspace_put(as);
  return 0;
}

static int show_comm(struct seq *q, struct proc_ref *r) {
  struct snap *s = snap_take(r);
  if (!s) return -ESRCH;
  seq_printf(q, "%s\n", s->comm);
  kfree(s);
  return 0;
}

static long write_comm(struct proc_ref *r, char *text, size_t len) {
  char *nl = strchr(text, '\n');
  if (nl) *nl = 0;
  if (r->p != process_current()) return -EPERM;
  u64 flags = spin_lock_irqsave(&process_lock);
  struct lwp *l;
  list_for_each(l, &r->p->threads, in_process)
    if (r->tid ? l->tid == r->tid : l->tid == r->p->pid) strlcpy(l->thread->name, text, sizeof l->thread->name);
  if (!r->tid || r->tid == r->p->pid) strlcpy(r->p->comm, text, sizeof r->p->comm);
  spin_unlock_irqrestore(&process_lock, flags);
  return (long)len;
}

static int show_limits(struct seq *q, struct proc_ref *r) {
  static const struct { u8 nr; const char *name, *unit; } rows[] = {
    { RLIMIT_CPU, "Max cpu time", "seconds" }, { RLIMIT_FSIZE, "Max file size", "bytes" }, { RLIMIT_DATA, "Max data size", "bytes" },
    { RLIMIT_STACK, "Max stack size", "bytes" }, { RLIMIT_CORE, "Max core file size", "bytes" }, { RLIMIT_RSS, "Max resident set", "bytes" },
    { RLIMIT_NPROC, "Max processes", "processes" }, { RLIMIT_NOFILE, "Max open files", "files" }, { RLIMIT_MEMLOCK, "Max locked memory", "bytes" },
    { RLIMIT_AS, "Max address space", "bytes" }, { RLIMIT_LOCKS, "Max file locks", "locks" }, { RLIMIT_SIGPENDING, "Max pending signals", "signals" },
    { RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes" }, { RLIMIT_NICE, "Max nice priority", "" }, { RLIMIT_RTPRIO, "Max realtime priority", "" },
    { RLIMIT_RTTIME, "Max realtime timeout", "us" } };
  struct snap *s = snap_take(r);
  if (!s) return -ESRCH;
  seq_printf(q, "%-25s %-20s %-20s %-10s\n", "Limit", "Soft Limit", "Hard Limit", "Units");
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    seq_printf(q, "%-25s ", rows[i].name);
    for (int k = 0; k < 2; k++) {
      u64 v = k ? s->limits[rows[i].nr].max : s->limits[rows[i].nr].cur;
      if (v == ~0ull) seq_printf(q, "%-20s ", "unlimited");
      else seq_printf(q, "%-20lu ", v);
    }
    seq_printf(q, "%-10s\n", rows[i].unit);
  }
  kfree(s);
  return 0;
}

static int show_oom_adj(struct seq *q, struct proc_ref *r) { seq_printf(q, "%d\n", r->p->oom_score_adj); return 0; }
static long write_oom_adj(struct proc_ref *r, char *text, size_t len) {
  bool neg = text[0] == '-';
  int n = 0, digits = 0;
  for (char *c = text + neg; *c >= '0' && *c <= '9' && digits < 5; c++, digits++) n = n * 10 + (*c - '0');
  if (!digits || n > 1000) return -EINVAL;
  r->p->oom_score_adj = neg ? -n : n;
  return (long)len;
}

static int show_oom_score(struct seq *q, struct proc_ref *r) {
  struct aspace *as = proc_ref_aspace(r);
  s64 score = as ? (s64)((as->rss_pages + as->pt_pages) * 1000 / MAX(page_total_count(), 1ull)) + r->p->oom_score_adj : 0;
  if (as) aspace_put(as);
  seq_printf(q, "%ld\n", MIN(MAX(score, 0l), 2000l) * 2 / 3);
  return 0;
}

static int show_io(struct seq *q, struct proc_ref *r) { // what is not counted per process is said to be nothing
  seq_printf(q, "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n");
  return 0;
}

// --- links
static struct dentry *follow_exe(struct proc_ref *r) {
  struct aspace *as = proc_ref_aspace(r);
  struct dentry *d = as && as->exe_file && as->exe_file->dentry ? dentry_get(as->exe_file->dentry) : err_ptr(-ENOENT);
  if (as) aspace_put(as);
  return d;
}
static struct dentry *follow_fs(struct proc_ref *r, bool root) {
  struct fscontext *c = proc_ref_fs(r);
  if (!c) return err_ptr(-ENOENT);
  spin_lock(&c->lock);
  struct dentry *d = dentry_get(root ? c->root.dentry : c->cwd.dentry);
  spin_unlock(&c->lock);
  fscontext_put(c);
  return d;
}
static struct dentry *follow_cwd(struct proc_ref *r) { return follow_fs(r, false); }
static struct dentry *follow_root(struct proc_ref *r) { return follow_fs(r, true); }

static int name_of(struct dentry *d, char *buf, size_t size) { // takes the reference
  if (is_err(d)) return (int)ptr_err(d);
  long n = dentry_string(d, buf, size);
  dentry_put(d);
  return (int)n;
}
static int read_exe(struct proc_ref *r, char *buf, size_t size) { return name_of(follow_exe(r), buf, size); }
static int read_cwd(struct proc_ref *r, char *buf, size_t size) { return name_of(follow_cwd(r), buf, size); }
static int read_root(struct proc_ref *r, char *buf, size_t size) { return name_of(follow_root(r), buf, size); }

static struct file *fd_file(struct proc_ref *r) { // referenced, NULL
  struct fdtable *t = proc_ref_fds(r);
  struct file *f = t ? fdtable_lookup(t, r->id, NULL) : NULL;
  if (t) fdtable_put(t);
  return f;
}
static struct dentry *follow_fd(struct proc_ref *r) {
  struct file *f = fd_file(r);
  struct dentry *d = !f ? err_ptr(-ENOENT) : f->dentry ? dentry_get(f->dentry) : err_ptr(-EOPNOTSUPP);
  if (f) file_put(f);
  return d;
}
static struct file *follow_fd_file(struct proc_ref *r, u32 flags) {
  struct file *f = fd_file(r);
  return f ? f : err_ptr(-ENOENT);
}
static int read_fd(struct proc_ref *r, char *buf, size_t size) {
  struct file *f = fd_file(r);
  if (!f) return -ENOENT;
  long n;
  if (f->dentry) {
    n = dentry_string(f->dentry, buf, size);
  } else {
    char text[64] = "anon_inode:[file]";
    if (f->ops->describe) f->ops->describe(f, text, sizeof text);
    n = (long)MIN(strlen(text), size);
    memcpy(buf, text, (size_t)n);
  }
  file_put(f);
  return (int)n;
}

static int show_fdinfo(struct seq *q, struct proc_ref *r) {
  bool cloexec = false;
  struct fdtable *t = proc_ref_fds(r);
  struct file *f = t ? fdtable_lookup(t, r->id, &cloexec) : NULL;
  if (t) fdtable_put(t);
  if (!f) return -ENOENT;
  struct mount *m = f->dentry ? dentry_mount(f->dentry) : NULL;
  seq_printf(q, "pos:\t%lu\nflags:\t0%o\nmnt_id:\t%d\nino:\t%lu\n", f->pos, f->flags | (cloexec ? 02000000u : 0), m ? m->id : 15, f->inode ? f->inode->ino : f->id);
  char extra[256] = "";
  if (f->ops->fdinfo) f->ops->fdinfo(f, extra, sizeof extra);
  seq_printf(q, "%s", extra);
  file_put(f);
  return 0;
}

// --- mounts
static struct mount *mount_nth(unsigned n) { // mounts are only ever added
  struct mount *m, *found = NULL;
  spin_lock(&mounts_lock);
  list_for_each(m, &mounts, link)
    if (!n--) {
      found = m;
      break;
    }
  spin_unlock(&mounts_lock);
  return found;
}

static int mounts_text(struct seq *q, bool info) {
  char *path = kmalloc(PAGE_SIZE, 0);
  if (!path) return -ENOMEM;
  struct mount *m;
  for (unsigned i = 0; (m = mount_nth(i)); i++) {
    if (dentry_string(m->root, path, PAGE_SIZE) < 0) continue;
    const char *source = m->source[0] ? m->source : m->super->type, *rw = (m->super->flags | m->flags) & SUPER_RDONLY ? "ro" : "rw";
    const char *noexec = m->super->flags & SUPER_NOEXEC ? ",nosuid,nodev,noexec" : "", *atime = m->super->flags & SUPER_ATIME ? "relatime" : "noatime";
    if (info) {
      seq_printf(q, "%d %d %lu:%lu / %s %s%s,%s - %s %s %s\n", m->id, m->parent ? m->parent->id : 0, m->super->dev >> 8, m->super->dev & 0xff, path, rw, noexec,
        atime, m->super->type, source, rw);
    } else {
      seq_printf(q, "%s %s %s %s%s,%s 0 0\n", source, path, m->super->type, rw, noexec, atime);
    }
  }
  kfree(path);
  return 0;
}
static int show_mounts(struct seq *q, struct proc_ref *r) { return mounts_text(q, false); }
static int show_mountinfo(struct seq *q, struct proc_ref *r) { return mounts_text(q, true); }

// --- the tables
static const struct proc_entry fd_entry = { .name = "fd", .mode = S_IFLNK | 0700, .readlink = read_fd, .follow = follow_fd, .follow_file = follow_fd_file };
static const struct proc_entry fdinfo_entry = { .name = "fdinfo", .mode = REG(0400), .show = show_fdinfo };

#define COMMON \
  { .name = "auxv", .mode = REG(0400), .show = show_auxv }, \
  { .name = "cgroup", .mode = REG(0444), .text = "0::/\n" }, \
  { .name = "cmdline", .mode = REG(0444), .show = show_cmdline }, \
  { .name = "comm", .mode = REG(0644), .show = show_comm, .write = write_comm }, \
  { .name = "cwd", .mode = S_IFLNK | 0777, .readlink = read_cwd, .follow = follow_cwd }, \
  { .name = "environ", .mode = REG(0400), .show = show_environ }, \
  { .name = "exe", .mode = S_IFLNK | 0777, .readlink = read_exe, .follow = follow_exe }, \
  { .name = "fd", .mode = S_IFDIR | 0500, .dynamic = DYNAMIC_FDS, .each = &fd_entry }, \
  { .name = "fdinfo", .mode = S_IFDIR | 0555, .dynamic = DYNAMIC_FDINFO, .each = &fdinfo_entry }, \
  { .name = "io", .mode = REG(0400), .show = show_io }, \
  { .name = "limits", .mode = REG(0444), .show = show_limits }, \
  { .name = "loginuid", .mode = REG(0644), .text = "4294967295" }, \
  { .name = "maps", .mode = REG(0444), .show = show_maps }, \
  { .name = "mountinfo", .mode = REG(0444), .show = show_mountinfo }, \
  { .name = "mounts", .mode = REG(0444), .show = show_mounts }, \
  { .name = "oom_score", .mode = REG(0444), .show = show_oom_score }, \
  { .name = "oom_score_adj", .mode = REG(0644), .show = show_oom_adj, .write = write_oom_adj }, \
  { .name = "root", .mode = S_IFLNK | 0777, .readlink = read_root, .follow = follow_root }, \
  { .name = "sessionid", .mode = REG(0444), .text = "4294967295" }, \
  { .name = "smaps", .mode = REG(0444), .show = show_smaps }, \
  { .name = "smaps_rollup", .mode = REG(0444), .show = show_rollup }, \
  { .name = "stat", .mode = REG(0444), .show = show_stat }, \
  { .name = "statm", .mode = REG(0444), .show = show_statm }, \
  { .name = "status", .mode = REG(0444), .show = show_status }, \
  { .name = "wchan", .mode = REG(0444), .text = "0" }

static const struct proc_entry tid_children[] = { COMMON, { 0 } };
static const struct proc_entry tid_entry = { .name = "TID", .mode = S_IFDIR | 0555, .children = tid_children };
static const struct proc_entry pid_children[] = { COMMON,
  { .name = "coredump_filter", .mode = REG(0444), .text = "00000033\n" },
  { .name = "net", .mode = S_IFDIR | 0555, .children = proc_net_children },
  { .name = "task", .mode = S_IFDIR | 0555, .dynamic = DYNAMIC_TIDS, .each = &tid_entry }, { 0 } };
const struct proc_entry proc_pid_entry = { .name = "PID", .mode = S_IFDIR | 0555, .children = pid_children };

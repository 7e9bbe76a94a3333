// SPDX-License-Identifier: Apache-2.0
//
// Process 1: the policy's entrypoint with the policy's arguments, environment, credentials and limits. Unlike Linux's
// init it is an ordinary program: signals have their default actions, and its end is the machine's.
#include "proc/internal.h"
#include "drv/drv.h"

struct fscontext *boot_fs;   // of the kernel threads, until process 1 has its own
struct fdtable *boot_fds;

struct init_args { char **argv, **envp; };

static void set_limits(struct process *p) {
  for (unsigned i = 0; i < RLIM_COUNT; i++) p->rlimits[i] = (struct rlimit64_k){ ~0ull, ~0ull };
  p->rlimits[RLIMIT_STACK].cur = policy.stack_bytes;
  u64 fds = policy.fd_limit;
  p->rlimits[RLIMIT_NOFILE] = (struct rlimit64_k){ fds, MAX(fds, 1048576ull) };
  p->rlimits[RLIMIT_CORE].cur = 0;
  p->rlimits[RLIMIT_MEMLOCK] = (struct rlimit64_k){ 8 * MIB, 8 * MIB };
  u64 threads = MAX(page_total_count() / 32, 1024ull); // 128 KiB of memory for each
  p->rlimits[RLIMIT_NPROC] = p->rlimits[RLIMIT_SIGPENDING] = (struct rlimit64_k){ threads, threads };
  p->rlimits[RLIMIT_MSGQUEUE] = (struct rlimit64_k){ 819200, 819200 };
  p->rlimits[RLIMIT_NICE] = p->rlimits[RLIMIT_RTPRIO] = (struct rlimit64_k){ 0, 0 };
}

static void set_cred(struct cred *c) {
  c->uid = c->euid = c->suid = c->fsuid = policy.uid;
  c->gid = c->egid = c->sgid = c->fsgid = policy.gid;
}

// The first code of process 1: in its own context, so that names and permissions are looked up as it.
static void init_entry(void *arg) {
  struct init_args *a = arg;
  struct lwp *l = lwp_current();
  long r = process_exec(policy.entrypoint, NULL, a->argv, a->envp);
  if (r) {
    printk(LOG_ERROR, "%s: cannot be executed (error %ld%s)", policy.entrypoint, -r,
      r == -ENOENT ? ", not found" : r == -EACCES ? ", refused" : r == -ENOEXEC ? ", not a program for x86-64" : "");
    l->as = aspace_create(); // lwp_exit gives one back
    if (!l->as) panic("no memory for process 1");
    process_exit((r == -ENOENT ? 127 : 126) << 8, true);
  }
  arch_enter_user(l->thread->user_regs);
}

static int open_std(void) {
  for (int i = 0; i < 3; i++) {
    struct file *f = console_file(i);
    if (is_err(f)) return (int)ptr_err(f);
    int fd = fd_install(f, 0);
    if (fd != i) return fd < 0 ? fd : -EBADF;
  }
  return 0;
}

static int set_cwd(void) {
  struct path cwd, old;
  int r = path_lookup(-100 /* AT_FDCWD */, policy.cwd && *policy.cwd ? policy.cwd : "/", LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &cwd);
  if (r) return r;
  spin_lock(&boot_fs->lock);
  old = boot_fs->cwd;
  boot_fs->cwd = cwd;
  spin_unlock(&boot_fs->lock);
  path_put(&old);
  return 0;
}

static int start(struct init_args *a) {
  struct process *p = process_create(NULL, 1);
  struct lwp *l = p ? lwp_create(p, 1) : NULL;
  if (!l) return -ENOMEM;
  p->pgid = p->sid = 1;
  set_limits(p);
  set_cred(&p->cred);
  strlcpy(p->comm, "init", sizeof p->comm);
  l->thread = thread_create("init", init_entry, a);
  if (!l->thread) return -ENOMEM;
  int r = thread_make_user(l->thread, NULL, false);
  if (r) return r;
  l->thread->lwp = l;
  l->fds = boot_fds;
  l->fs = boot_fs;
  boot_fs = fscontext_copy(boot_fs);
  boot_fds = fdtable_create();
  if (!boot_fs || !boot_fds) return -ENOMEM;
  u64 flags = spin_lock_irqsave(&process_lock);
  int pid = pid_alloc_locked();
  ASSERT(pid == 1);
  r = pid_publish_locked(p, l);
  spin_unlock_irqrestore(&process_lock, flags);
  if (r) return r;
  init_process = process_get(p);
  thread_start(l->thread);
  return 0;
}

// A signal from the host, in interrupt context. The host may always end the machine, so that is what it gets where the
// policy does not let it send signals; Ctrl-C and a closed output are ordinary events of a terminal.
static int host_ends_with;

void init_host_signal(int signo) {
  bool ordinary = signo == SIGINT || signo == SIGPIPE;
  bool ending = signo == SIGTERM || signo == SIGHUP || signo == SIGQUIT;
  if (ordinary || (policy.sigterm && (ending || signo == SIGUSR1 || signo == SIGUSR2))) {
    signal_console(signo);
  } else if (ending && init_process) {
    WRITE_ONCE(host_ends_with, signo);
    waitq_wake_all(&init_process->thread_wait);
  }
}

static __noreturn void finish(int status) {
  int code = status & 0x7f ? 128 + (status & 0x7f) : (status >> 8) & 0xff;
  printk(LOG_DEBUG, "process 1 ended: status %d after %lu ms", code, (unsigned long)(time_ns() / NS_PER_MS));
  fs_sync_all();
  console_drain();
  control_send_exit(code);
  host_power_off();
}

#ifdef EMBED
// Bring-up without a launcher: the program that the Makefile's EMBED= put into the image.
extern const u8 embedded_program[], embedded_program_end[];
static void embed_install(void) {
  if (mount_add("/tmp", tmpfs_create(0, 01777), 0, "tmpfs")) panic("cannot mount /tmp");
  struct file *f = path_open(-100, "/init", 0102 | 0100 | 01000 /* O_RDWR | O_CREAT | O_TRUNC */, 0755);
  if (is_err(f)) panic("cannot make /init: %ld", ptr_err(f));
  size_t n = (size_t)(embedded_program_end - embedded_program);
  for (size_t done = 0; done < n;) {
    long w = file_write_at(f, embedded_program + done, MIN(n - done, 65536ul), done);
    if (w <= 0) panic("cannot write /init: %ld", w);
    done += (size_t)w;
  }
  file_put(f);
  policy.entrypoint = kstrdup("/init");
}
#endif

void proc_start_init(void) {
  static struct init_args args;
  boot_fs = fscontext_create();
  boot_fds = fdtable_create();
  if (!boot_fs || !boot_fds) panic("no memory for process 1");
  int r;
#ifdef EMBED
  embed_install();
#endif
  r = attest_build_args(&args.argv, &args.envp);
  if (r) {
    printk(LOG_ERROR, "the policy does not allow this command line");
    finish(126 << 8);
  }
  r = open_std();
  if (r) panic("no console for process 1: %d", r);
  r = set_cwd();
  if (r) {
    printk(LOG_ERROR, "%s: cannot be the working directory (error %d)", policy.cwd, -r);
    finish(126 << 8);
  }
  r = start(&args);
  if (r) panic("process 1 cannot start: %d", r);
  wait_event(&init_process->thread_wait, READ_ONCE(init_process->zombie) || READ_ONCE(host_ends_with));
  finish(init_process->zombie ? init_process->exit_status : host_ends_with);
}

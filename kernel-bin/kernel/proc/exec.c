// SPDX-License-Identifier: Apache-2.0
//
// execve: opens the program (through `#!` lines), builds a complete new address space beside the old one, and only then
// lets go of the old: until that point every failure is an errno and the caller goes on.
#include "proc/elf.h"
#include "proc/internal.h"
#include "attest/attest.h"

enum { PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4, MAP_PRIVATE = 2, MAP_FIXED = 0x10, MAP_ANONYMOUS = 0x20, MAP_GROWSDOWN = 0x100, MAP_STACK = 0x20000 };
enum { AT_NULL, AT_PHDR = 3, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_BASE, AT_FLAGS, AT_ENTRY, AT_UID = 11, AT_EUID, AT_GID, AT_EGID,
       AT_PLATFORM, AT_HWCAP, AT_CLKTCK, AT_SECURE = 23, AT_RANDOM = 25, AT_HWCAP2 = 26, AT_EXECFN = 31, AT_SYSINFO_EHDR = 33,
       AT_MINSIGSTKSZ = 51 };
#define ADDR_NO_RANDOMIZE 0x0040000u
#define AT_FDCWD_K (-100)
#define SCRIPT_LINE 256
#define SCRIPT_DEPTH 5
#define PIE_BASE 0x555555554000ul
#define LOWEST_ADDR 0x10000ul
#define STACK_FIRST_BYTES (132 * KIB)
#define CHUNK PAGE_SIZE

struct exec {
  const char *path;            // as the program shall see it: AT_EXECFN
  struct file *file, *interp;  // referenced
  struct elf_info *elf, *interp_elf;
  char **argv, **envp;         // argv: our array when `#!` rewrote it
  char **own_argv;
  char *own[2 * SCRIPT_DEPTH]; // strings from `#!` lines
  unsigned own_count;
  struct aspace *as;
  u64 bias, interp_bias;
  u8 *chunk;                   // one page of scratch
  bool randomize;
  uptr sp;
};

static u64 count(char **v) {
  u64 n = 0;
  while (v[n]) n++;
  return n;
}

static struct file *open_program(const char *path) {
  return path_open(AT_FDCWD_K, path, 0 /* O_RDONLY */, 0);
}

static int check_executable(struct file *f) {
  struct inode *i = f->inode;
  if (!i || (i->mode & 0170000) != 0100000) return -EACCES;
  if (f->dentry && (f->dentry->super->flags & SUPER_NOEXEC)) return -EACCES;
  if (!(i->mode & 0111)) return -EACCES;
  return inode_permission(i, 1 /* MAY_EXEC */);
}

// --- `#!`
// argv becomes: interpreter, its one argument, the script, the rest.
static int rewrite_argv(struct exec *x, char *interp, char *arg, const char *script) {
  u64 n = count(x->argv), k = 0;
  char **v = kmalloc((n + 4) * sizeof *v, 0);
  if (!v) return -ENOMEM;
  v[k++] = interp;
  if (arg) v[k++] = arg;
  v[k++] = (char *)(uintptr_t)script;
  for (u64 i = 1; i < n; i++) v[k++] = x->argv[i];
  v[k] = NULL;
  kfree(x->own_argv);
  x->argv = x->own_argv = v;
  return 0;
}

// When x->file is a script: replaces it by its interpreter. 1: was one; 0: no script.
static int follow_script(struct exec *x, const char *script) {
  char *line = (char *)x->chunk;
  long n = file_read_at(x->file, line, SCRIPT_LINE, 0);
  if (n < 0) return (int)n;
  if (n < 4 || line[0] != '#' || line[1] != '!') return 0;
  char *end = memchr(line, '\n', (size_t)n);
  if (!end) {
    if (n == SCRIPT_LINE) return -ENOEXEC; // cut off: better no program than another one
    end = line + n;
  }
  while (end > line + 2 && (end[-1] == ' ' || end[-1] == '\t')) end--;
  *end = 0; // within the chunk: n <= SCRIPT_LINE < CHUNK
  char *name = line + 2, *arg;
  while (*name == ' ' || *name == '\t') name++;
  if (!*name) return -ENOEXEC;
  for (arg = name; *arg && *arg != ' ' && *arg != '\t'; arg++) {}
  if (*arg) *arg++ = 0;
  while (*arg == ' ' || *arg == '\t') arg++;
  if (x->own_count + 2 > ARRAY_SIZE(x->own)) return -ELOOP;
  char *interp = x->own[x->own_count++] = kstrdup(name);
  char *copy = *arg ? x->own[x->own_count++] = kstrdup(arg) : NULL;
  if (!interp || (*arg && !copy)) return -ENOMEM;
  int r = rewrite_argv(x, interp, copy, script);
  if (r) return r;
  struct file *f = open_program(interp);
  if (is_err(f)) return (int)ptr_err(f);
  file_put(x->file);
  x->file = f;
  r = check_executable(f);
  return r ? r : 1;
}

// --- ELF
static int read_elf(struct exec *x, struct file *f, struct elf_info **out) {
  struct elf_info *e = *out = kmalloc(sizeof *e, 0);
  if (!e) return -ENOMEM;
  long n = file_read_at(f, x->chunk, ELF_HEADER_BYTES, 0);
  if (n != ELF_HEADER_BYTES) return n < 0 ? (int)n : -ENOEXEC;
  int r = elf_read_header(x->chunk, e);
  if (r) return r;
  size_t bytes = (size_t)e->phnum * ELF_PHDR_BYTES;
  n = file_read_at(f, x->chunk, bytes, e->phoff);
  if (n != (long)bytes) return n < 0 ? (int)n : -ENOEXEC;
  r = elf_read_phdrs(x->chunk, e);
  if (!r && !e->pie && e->low < LOWEST_ADDR) r = -EPERM;
  return r;
}

static int open_interp(struct exec *x) {
  struct elf_info *e = x->elf;
  if (!e->interp_len) return 0;
  char *name = (char *)x->chunk;
  long n = file_read_at(x->file, name, e->interp_len, e->interp_offset);
  if (n != (long)e->interp_len) return n < 0 ? (int)n : -ENOEXEC;
  if (name[n - 1]) return -ENOEXEC;
  struct file *f = open_program(name);
  if (is_err(f)) return (int)ptr_err(f);
  x->interp = f;
  int r = check_executable(f);
  if (r) return r;
  r = read_elf(x, f, &x->interp_elf);
  if (r == -ENOEXEC) r = -EINVAL; // ELIBBAD on Linux 2.0; EINVAL since
  return r;
}

static int map_anon(struct aspace *as, uptr addr, u64 len, int prot, int flags, u32 vma_flags) {
  if (!len) return 0;
  struct mmap_request rq = { .addr = addr, .len = len, .prot = prot, .flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | flags, .extra_vma_flags = vma_flags };
  long r = mm_mmap(as, &rq);
  return r < 0 ? (int)r : 0;
}

static int map_segment(struct exec *x, struct file *f, const struct elf_segment *s, u64 bias) {
  int prot = (s->flags & ELF_R ? PROT_READ : 0) | (s->flags & ELF_W ? PROT_WRITE : 0) | (s->flags & ELF_X ? PROT_EXEC : 0);
  uptr at = s->vaddr + bias, file_end = at + s->filesz, start = ALIGN_DOWN(at, PAGE_SIZE);
  uptr mapped_end = s->filesz ? ALIGN_UP(file_end, PAGE_SIZE) : start, end = ALIGN_UP(at + s->memsz, PAGE_SIZE);
  if (s->filesz) {
    struct mmap_request rq = { .addr = start, .len = mapped_end - start, .prot = prot, .flags = MAP_PRIVATE | MAP_FIXED, .file = f,
      .pgoff = s->offset / PAGE_SIZE };
    if (!f->ops->mmap) return -ENOEXEC;
    int r = f->ops->mmap(f, &rq);
    if (r) return r;
    long m = mm_mmap(x->as, &rq);
    if (m < 0) return (int)m;
    u64 tail = mapped_end - file_end;
    if (tail && s->memsz > s->filesz && (s->flags & ELF_W)) { // the rest of the page is bss
      memset(x->chunk, 0, tail);
      long n = mm_access(x->as, file_end, x->chunk, tail, true);
      if (n != (long)tail) return n < 0 ? (int)n : -EFAULT;
    }
  }
  return map_anon(x->as, mapped_end, end - mapped_end, prot, 0, 0);
}

static int map_image(struct exec *x, struct file *f, const struct elf_info *e, u64 bias) {
  for (u32 i = 0; i < e->segment_count; i++) {
    int r = map_segment(x, f, &e->segments[i], bias);
    if (r) return r;
  }
  return 0;
}

// Finds room for an image of this span below mmap_top.
static int find_place(struct aspace *as, const struct elf_info *e, u64 *bias) {
  u64 span = e->high - e->low, slack = e->align - PAGE_SIZE;
  struct mmap_request rq = { .len = span + slack, .prot = 0, .flags = MAP_PRIVATE | MAP_ANONYMOUS, .extra_vma_flags = VMA_NORESERVE };
  long at = mm_mmap(as, &rq);
  if (at < 0) return (int)at;
  int r = mm_munmap(as, (uptr)at, rq.len); // only we know this address space
  *bias = ALIGN_UP((u64)at, e->align) - ALIGN_DOWN(e->low, e->align);
  if (*bias + e->low < (u64)at) *bias += e->align;
  return r;
}

static u64 random_pages(const struct exec *x, unsigned bits) { return x->randomize ? (random_u64() & (BIT(bits) - 1)) * PAGE_SIZE : 0; }

static int build_image(struct exec *x) {
  struct process *p = process_current();
  struct aspace *as = x->as = aspace_create();
  if (!as) return -ENOMEM;
  u64 stack_limit = p->rlimits[RLIMIT_STACK].cur;
  as->stack_limit_bytes = stack_limit;
  as->as_limit_bytes = p->rlimits[RLIMIT_AS].cur;
  as->data_limit_bytes = p->rlimits[RLIMIT_DATA].cur;
  as->brk_limit_bytes = policy.brk_bytes;
  as->stack_top = USER_END - random_pages(x, 22);
  u64 gap = MIN(MAX(stack_limit, 128 * MIB), USER_END / 6 * 5) + 16 * MIB;
  as->mmap_top = ALIGN_DOWN(as->stack_top - gap - random_pages(x, 28), PAGE_SIZE);

  struct elf_info *e = x->elf;
  if (e->pie) {
    x->bias = ALIGN_DOWN(PIE_BASE + random_pages(x, 28), e->align) - ALIGN_DOWN(e->low, e->align);
    if (e->high > as->mmap_top - PIE_BASE - (BIT(28) * PAGE_SIZE)) return -ENOMEM;
  }
  int r = map_image(x, x->file, e, x->bias);
  if (r) return r;
  if (x->interp) {
    if (x->interp_elf->pie) r = find_place(as, x->interp_elf, &x->interp_bias);
    if (!r) r = map_image(x, x->interp, x->interp_elf, x->interp_bias);
    if (r) return r;
  }
  as->brk_start = as->brk = e->high + x->bias + random_pages(x, 13);
  as->start_code = ~0ul;
  for (u32 i = 0; i < e->segment_count; i++) {
    const struct elf_segment *s = &e->segments[i];
    uptr start = s->vaddr + x->bias, end = start + s->filesz;
    if (s->flags & ELF_X) as->start_code = MIN(as->start_code, start), as->end_code = MAX(as->end_code, end);
    else if (s->flags & ELF_W) as->start_data = start, as->end_data = end;
  }
  as->exe_file = file_get(x->file);
  return vdso_map(as);
}

// --- the stack. Written upwards through a one-page buffer.
struct stack_writer { struct exec *x; uptr at; size_t n; int err; };

static void stack_flush(struct stack_writer *w) {
  if (w->n && !w->err) {
    long n = mm_access(w->x->as, w->at, w->x->chunk, w->n, true);
    if (n != (long)w->n) w->err = n < 0 ? (int)n : -EFAULT;
  }
  w->at += w->n;
  w->n = 0;
}

static void stack_put(struct stack_writer *w, const void *data, size_t len) {
  const u8 *p = data;
  while (len) {
    size_t n = MIN(len, CHUNK - w->n);
    memcpy(w->x->chunk + w->n, p, n);
    w->n += n;
    p += n;
    len -= n;
    if (w->n == CHUNK) stack_flush(w);
  }
}

static void stack_put64(struct stack_writer *w, u64 v) { stack_put(w, &v, sizeof v); }

static u64 strings_bytes(char **v) {
  u64 n = 0;
  for (; *v; v++) n += strlen(*v) + 1;
  return n;
}

static void put_strings(struct stack_writer *w, char **v) {
  for (; *v; v++) stack_put(w, *v, strlen(*v) + 1);
}

static uptr put_pointers(struct stack_writer *w, char **v, uptr at) {
  for (; *v; v++) {
    stack_put64(w, at);
    at += strlen(*v) + 1;
  }
  stack_put64(w, 0);
  return at;
}

// From the top: zero word, path, environment, arguments, platform and random bytes; then the vectors.
static int build_stack(struct exec *x) {
  struct aspace *as = x->as;
  const struct elf_info *e = x->elf;
  const struct cred *c = &process_current()->cred;
  u64 args = strings_bytes(x->argv), envs = strings_bytes(x->envp), path = strlen(x->path) + 1;
  uptr path_at = as->stack_top - 8 - path, env_at = path_at - envs, arg_at = env_at - args;
  uptr platform_at = arg_at - 8, random_at = ALIGN_DOWN(platform_at - 16, 16ul);
  u64 auxv[] = {
    AT_SYSINFO_EHDR, as->vdso, AT_HWCAP, cpu_info.hwcap, AT_PAGESZ, PAGE_SIZE, AT_CLKTCK, 100,
    AT_PHDR, e->phdr_vaddr ? e->phdr_vaddr + x->bias : 0, AT_PHENT, ELF_PHDR_BYTES, AT_PHNUM, e->phnum,
    AT_BASE, x->interp ? x->interp_bias : 0, AT_FLAGS, 0, AT_ENTRY, e->entry + x->bias,
    AT_UID, c->uid, AT_EUID, c->euid, AT_GID, c->gid, AT_EGID, c->egid, AT_SECURE, 0, AT_RANDOM, random_at,
    AT_HWCAP2, cpu_info.hwcap2, AT_EXECFN, path_at, AT_PLATFORM, platform_at,
    AT_MINSIGSTKSZ, fpu_state_bytes + 1024, AT_NULL, 0,
  };
  _Static_assert(sizeof auxv <= sizeof as->auxv, "aspace keeps a copy");
  unsigned skip = as->vdso ? 0 : 2;
  u64 argc = count(x->argv), words = 1 + argc + 1 + count(x->envp) + 1 + ARRAY_SIZE(auxv) - skip;
  uptr sp = ALIGN_DOWN(random_at - words * 8, 16ul);
  u64 used = as->stack_top - sp, room = ALIGN_UP(used + STACK_FIRST_BYTES, PAGE_SIZE);
  if (used + PAGE_SIZE > as->stack_limit_bytes) return -E2BIG;
  int prot = PROT_READ | PROT_WRITE | (e->exec_stack ? PROT_EXEC : 0);
  int r = map_anon(as, as->stack_top - room, room, prot, MAP_GROWSDOWN | MAP_STACK, VMA_STACK | VMA_GROWSDOWN);
  if (r) return r;

  struct stack_writer w = { .x = x, .at = sp };
  stack_put64(&w, argc);
  put_pointers(&w, x->argv, arg_at);
  put_pointers(&w, x->envp, env_at);
  stack_put(&w, auxv + skip, sizeof auxv - skip * 8);
  stack_flush(&w);
  w.at = random_at;
  u8 seed[16];
  random_bytes(seed, sizeof seed);
  stack_put(&w, seed, sizeof seed);
  stack_flush(&w);
  w.at = platform_at;
  stack_put(&w, "x86_64\0", 8);
  put_strings(&w, x->argv);
  put_strings(&w, x->envp);
  stack_put(&w, x->path, path);
  stack_flush(&w);
  if (w.err) return w.err;
  as->arg_start = arg_at;
  as->arg_end = as->env_start = env_at;
  as->env_end = path_at;
  as->auxv_len = (u32)(ARRAY_SIZE(auxv) - skip);
  memcpy(as->auxv, auxv + skip, as->auxv_len * 8);
  x->sp = sp;
  return 0;
}

// --- the point of no return
// All other threads of the process end. -EAGAIN: this one is to end itself.
static int end_other_threads(struct lwp *l) {
  struct process *p = l->process;
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  bool lost = p->exiting || p->exec_lwp;
  if (!lost && p->thread_count > 1) {
    p->exec_lwp = l;
    signal_kick_all_locked(p);
    signal_recalc_locked(l);
  }
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  if (lost) return -EAGAIN;
  if (!p->exec_lwp) return 0;
  int r = wait_event_killable(&p->thread_wait, READ_ONCE(p->thread_count) == 1);
  if (r) return -EAGAIN; // killed meanwhile; exec_lwp stays: they all end
  flags = spin_lock_irqsave(&p->sighand->lock);
  p->exec_lwp = NULL;
  spin_unlock_irqrestore(&p->sighand->lock, flags);
  lwp_take_pid(l);
  return 0;
}

static void set_name(struct lwp *l, const char *path) {
  const char *base = strrchr(path, '/');
  strlcpy(l->process->comm, base ? base + 1 : path, sizeof l->process->comm);
  strlcpy(l->thread->name, l->process->comm, sizeof l->thread->name);
}

static void reset_signals(struct lwp *l) {
  struct process *p = l->process;
  u64 flags = spin_lock_irqsave(&p->sighand->lock);
  for (int i = 0; i < NSIG; i++) {
    struct sigaction_k *a = &p->sighand->action[i];
    *a = (struct sigaction_k){ .handler = a->handler == SIG_IGN ? SIG_IGN : SIG_DFL };
  }
  l->altstack_sp = l->altstack_size = 0;
  l->altstack_flags = 2; // SS_DISABLE
  spin_unlock_irqrestore(&p->sighand->lock, flags);
}

static void leave_old_memory(struct lwp *l) {
  if (!l->as) return; // process 1
  futex_exit_robust(l);
  l->robust_list = 0;
  if (l->clear_child_tid && ref_read(&l->as->refs) > 1) {
    u32 zero = 0;
    if (!copy_to_user(l->clear_child_tid, &zero, sizeof zero)) futex_syscall(l->clear_child_tid, 1 /* FUTEX_WAKE */, 1, 0, 0, 0);
  }
  l->clear_child_tid = l->set_child_tid = 0;
  l->rseq = 0;
}

static void enter(struct exec *x, struct lwp *l) {
  struct process *p = l->process;
  struct thread *t = l->thread;
  leave_old_memory(l);
  u64 flags = spin_lock_irqsave(&process_lock);
  struct aspace *old = l->as;
  l->as = x->as;
  spin_unlock_irqrestore(&process_lock, flags);
  aspace_activate(x->as);
  x->as = NULL;
  if (old) {
    p->maxrss_pages = MAX(p->maxrss_pages, old->rss_peak_pages);
    aspace_put(old);
  }
  if (l->vfork_done) {
    struct completion *c = l->vfork_done;
    l->vfork_done = NULL;
    completion_finish(c);
  }
  fdtable_close_on_exec(l->fds);
  ptimers_delete(p);
  reset_signals(l);
  set_name(l, x->path);
  p->did_exec = true;
  p->membarrier_registered = false;
  p->dumpable = 1;
  p->cred.suid = p->cred.fsuid = p->cred.euid;
  p->cred.sgid = p->cred.fsgid = p->cred.egid;

  struct regs *r = t->user_regs;
  *r = (struct regs){ .rip = x->interp ? x->interp_elf->entry + x->interp_bias : x->elf->entry + x->bias, .rsp = x->sp,
    .cs = USER_CS, .ss = USER_SS, .rflags = RFLAGS_IF | 2, .orig_rax = (u64)-1 };
  u64 irq = irq_save();
  fpu_init_state(t->fpu);
  fpu_restore(t->fpu);
  arch_set_fs_base(0);
  arch_set_user_gs_base(0);
  t->fs_base = t->gs_base = 0;
  irq_restore(irq);
}

long process_exec(const char *path, struct file *file, char **argv, char **envp) {
  struct lwp *l = lwp_current();
  struct exec x = { .path = path, .argv = argv, .envp = envp };
  x.randomize = policy.aslr && !(l->process->personality & ADDR_NO_RANDOMIZE);
  struct fdtable *own_fds = NULL;
  int r = -ENOMEM;
  x.chunk = kmalloc(CHUNK, 0);
  if (!x.chunk) goto out;
  if (file) {
    x.file = file_get(file);
  } else {
    struct file *f = open_program(path);
    if (is_err(f)) {
      r = (int)ptr_err(f);
      goto out;
    }
    x.file = f;
  }
  r = check_executable(x.file);
  if (r) goto out;
  const char *script = path;
  for (unsigned depth = 0; (r = follow_script(&x, script)) > 0; depth++) { // follow_script counts the levels: -ELOOP
    script = x.argv[0];
    if (depth == SCRIPT_DEPTH) break;
  }
  if (r) {
    if (r > 0) r = -ELOOP;
    goto out;
  }
  r = read_elf(&x, x.file, &x.elf);
  if (!r) r = open_interp(&x);
  if (!r) r = build_image(&x);
  if (!r) r = build_stack(&x);
  if (r) goto out;
  if (l->process->shares_files) {
    r = -ENOMEM;
    own_fds = fdtable_copy(l->fds);
    if (!own_fds) goto out;
  }
  r = end_other_threads(l);
  if (r) goto out;
  if (own_fds) {
    u64 flags = spin_lock_irqsave(&process_lock);
    struct fdtable *old = l->fds;
    l->fds = own_fds;
    spin_unlock_irqrestore(&process_lock, flags);
    own_fds = old;
    l->process->shares_files = false;
  }
  enter(&x, l);
  r = 0;
out:
  if (own_fds) fdtable_put(own_fds);
  if (x.as) aspace_put(x.as);
  if (x.file) file_put(x.file);
  if (x.interp) file_put(x.interp);
  kfree(x.elf);
  kfree(x.interp_elf);
  kfree(x.own_argv);
  for (unsigned i = 0; i < x.own_count; i++) kfree(x.own[i]);
  kfree(x.chunk);
  return r;
}

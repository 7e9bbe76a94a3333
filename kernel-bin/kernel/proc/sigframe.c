// SPDX-License-Identifier: Apache-2.0
//
// The frame of a handler on the program's stack, byte for byte as Linux's x86-64 ABI has it (glibc's and musl's
// ucontext_t, which a JVM edits), and the way back from it, which trusts nothing in it.
#include "proc/internal.h"

struct user_stack { u64 sp; u32 flags, pad; u64 size; };
struct user_sigcontext {
  u64 r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
  u16 cs, gs, fs, ss;
  u64 err, trapno, oldmask, cr2, fpstate, reserved[8];
};
struct user_ucontext { u64 flags, link; struct user_stack stack; struct user_sigcontext mc; u64 sigmask; };
struct user_sigframe { u64 pretcode; struct user_ucontext uc; u8 info[128]; };
_Static_assert(sizeof(struct user_sigcontext) == 256, "struct sigcontext");
_Static_assert(offsetof(struct user_ucontext, mc) == 40 && offsetof(struct user_ucontext, sigmask) == 296, "ucontext_t");

struct fp_sw_bytes { u32 magic1, extended_size; u64 xfeatures; u32 xstate_size, padding[7]; }; // at 464 of the image
_Static_assert(sizeof(struct fp_sw_bytes) == 48, "struct _fpx_sw_bytes");
#define FP_SW_OFFSET 464
#define FP_XSTATE_MAGIC1 0x46505853u
#define FP_XSTATE_MAGIC2 0x46505845u
#define LEGACY_BYTES 512u
enum { UC_FP_XSTATE = 1, UC_SIGCONTEXT_SS = 2, UC_STRICT_RESTORE_SS = 4 };
enum { SS_ONSTACK = 1, SS_DISABLE = 2 };
#define SS_AUTODISARM 0x80000000u
#define REDZONE 128
#define RFLAGS_HANDLER_CLEAR (BIT(8) | BIT(10) | BIT(16)) // TF DF RF
#define RFLAGS_RESTORE 0x50dd5ull                        // what a program may set: AC RF OF DF TF SF ZF AF PF CF

static bool on_altstack(const struct lwp *l, uptr sp) {
  return !(l->altstack_flags & SS_AUTODISARM) && sp > l->altstack_sp && sp - l->altstack_sp <= l->altstack_size;
}

u32 altstack_state(const struct lwp *l, uptr sp) {
  return !l->altstack_size ? SS_DISABLE : on_altstack(l, sp) ? SS_ONSTACK : 0;
}

int sigframe_push(struct lwp *l, struct regs *r, const struct ksiginfo *si, const struct sigaction_k *a, sigset mask) {
  if (!(a->flags & SA_RESTORER)) return -EFAULT;
  bool extended = fpu_state_bytes > LEGACY_BYTES;
  u64 fp_bytes = extended ? fpu_state_bytes + sizeof(u32) : LEGACY_BYTES;
  u64 sp = r->rsp - REDZONE;
  bool switches = (a->flags & SA_ONSTACK) && l->altstack_size && !on_altstack(l, r->rsp);
  if (switches) sp = l->altstack_sp + l->altstack_size;
  uptr fp = ALIGN_DOWN(sp - fp_bytes, 64ul);
  uptr at = ALIGN_DOWN(fp - sizeof(struct user_sigframe), 16ul) - 8; // as if `call`ed: rsp + 8 is 16-byte aligned
  if (on_altstack(l, r->rsp) && !on_altstack(l, at)) return -EFAULT; // would run over its lower end
  if (switches && at < l->altstack_sp) return -EFAULT;

  struct user_sigframe f = { .pretcode = a->restorer };
  f.uc.flags = (extended ? UC_FP_XSTATE : 0) | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
  f.uc.stack = (struct user_stack){ l->altstack_sp, altstack_state(l, r->rsp) | (l->altstack_flags & SS_AUTODISARM), 0, l->altstack_size };
  f.uc.mc = (struct user_sigcontext){
    .r8 = r->r8, .r9 = r->r9, .r10 = r->r10, .r11 = r->r11, .r12 = r->r12, .r13 = r->r13, .r14 = r->r14, .r15 = r->r15,
    .rdi = r->rdi, .rsi = r->rsi, .rbp = r->rbp, .rbx = r->rbx, .rdx = r->rdx, .rax = r->rax, .rcx = r->rcx, .rsp = r->rsp,
    .rip = r->rip, .eflags = r->rflags, .cs = USER_CS, .ss = USER_SS, .err = l->trap_error, .trapno = l->trapno,
    .oldmask = mask, .cr2 = l->trap_addr, .fpstate = fp,
  };
  f.uc.sigmask = mask;
  siginfo_encode(si, f.info);

  u8 *image = l->thread->fpu;
  fpu_save(image); // a switch during the copies saves the same again: the kernel does not change the registers
  if (copy_to_user(fp, image, fpu_state_bytes)) return -EFAULT;
  struct fp_sw_bytes sw = { 0 };
  if (extended) {
    sw = (struct fp_sw_bytes){ FP_XSTATE_MAGIC1, (u32)fp_bytes, fpu_xcr0, fpu_state_bytes, { 0 } };
    u32 magic2 = FP_XSTATE_MAGIC2;
    if (copy_to_user(fp + fpu_state_bytes, &magic2, sizeof magic2)) return -EFAULT;
  }
  if (copy_to_user(fp + FP_SW_OFFSET, &sw, sizeof sw) || copy_to_user(at, &f, sizeof f)) return -EFAULT;

  if (l->altstack_flags & SS_AUTODISARM) {
    l->altstack_sp = l->altstack_size = 0;
    l->altstack_flags = SS_DISABLE;
  }
  r->rdi = (u64)si->signo;
  r->rsi = at + offsetof(struct user_sigframe, info);
  r->rdx = at + offsetof(struct user_sigframe, uc);
  r->rax = 0;
  r->rsp = at;
  r->rip = a->handler;
  r->rflags &= ~RFLAGS_HANDLER_CLEAR;
  r->orig_rax = (u64)-1;
  return 0;
}

static int restore_fpu(struct thread *t, uptr fp) {
  if (!fp) {
    u64 flags = irq_save();
    fpu_init_state(t->fpu);
    fpu_restore(t->fpu);
    irq_restore(flags);
    return 0;
  }
  u8 *image = kmalloc(ALIGN_UP((size_t)fpu_state_bytes, 64), 0);
  if (!image) return -ENOMEM;
  int r = copy_from_user(image, fp, LEGACY_BYTES);
  if (r) goto out;
  struct fp_sw_bytes sw;
  memcpy(&sw, image + FP_SW_OFFSET, sizeof sw);
  size_t len = LEGACY_BYTES;
  if (fpu_state_bytes > LEGACY_BYTES && sw.magic1 == FP_XSTATE_MAGIC1 && sw.xstate_size >= LEGACY_BYTES + 64 &&
      sw.xstate_size <= fpu_state_bytes && sw.extended_size >= sw.xstate_size + sizeof(u32)) {
    u32 magic2;
    r = copy_from_user(&magic2, fp + sw.xstate_size, sizeof magic2);
    if (r) goto out;
    if (magic2 == FP_XSTATE_MAGIC2) {
      len = sw.xstate_size;
      r = copy_from_user(image + LEGACY_BYTES, fp + LEGACY_BYTES, len - LEGACY_BYTES);
      if (r) goto out;
    }
  }
  r = fpu_check_state(image, len);
  if (r) goto out;
  u64 flags = irq_save(); // no switch between the copy and the load, or it would save the old registers over it
  memcpy(t->fpu, image, fpu_state_bytes);
  fpu_restore(t->fpu);
  irq_restore(flags);
out:
  kfree(image);
  return r;
}

int altstack_set(struct lwp *l, uptr sp, u64 size, u32 flags) {
  if ((flags & ~(SS_AUTODISARM | SS_ONSTACK | SS_DISABLE)) || (flags & 3) == 3) return -EINVAL;
  if (flags & SS_DISABLE) {
    l->altstack_sp = l->altstack_size = 0;
  } else {
    if (size < 2048 /* MINSIGSTKSZ */) return -ENOMEM;
    if (!user_range_ok(sp, size)) return -ENOMEM;
    l->altstack_sp = sp;
    l->altstack_size = size;
  }
  l->altstack_flags = flags & (SS_AUTODISARM | SS_DISABLE);
  return 0;
}

// rt_sigreturn: rsp is where the handler's `ret` left it, above pretcode. Returns what rax becomes.
long sigframe_pop(struct regs *r) {
  struct lwp *l = lwp_current();
  struct user_ucontext uc;
  uptr at = r->rsp - 8 + offsetof(struct user_sigframe, uc);
  if (copy_from_user(&uc, at, sizeof uc) || restore_fpu(l->thread, uc.mc.fpstate)) {
    signal_force(SIGSEGV, SI_KERNEL, 0);
    return 0;
  }
  const struct user_sigcontext *m = &uc.mc;
  r->r8 = m->r8, r->r9 = m->r9, r->r10 = m->r10, r->r11 = m->r11, r->r12 = m->r12, r->r13 = m->r13, r->r14 = m->r14, r->r15 = m->r15;
  r->rdi = m->rdi, r->rsi = m->rsi, r->rbp = m->rbp, r->rbx = m->rbx, r->rdx = m->rdx, r->rcx = m->rcx, r->rsp = m->rsp, r->rip = m->rip;
  r->rflags = (m->eflags & RFLAGS_RESTORE) | RFLAGS_IF | 2;
  r->orig_rax = (u64)-1; // no restart of the interrupted call from here
  signal_set_blocked(uc.sigmask);
  if (!on_altstack(l, r->rsp)) (void)!altstack_set(l, uc.stack.sp, uc.stack.size, uc.stack.flags & (SS_AUTODISARM | SS_DISABLE));
  return (long)m->rax; // arch stores it; a bad rip is arch's to refuse
}

// --- traps of a program become signals
static void user_trap(struct regs *r, unsigned vector, u64 error, u64 addr) {
  struct lwp *l = lwp_current();
  l->trapno = vector;
  l->trap_error = (u32)error;
  int signo = SIGSEGV, code = SI_KERNEL;
  uptr at = r->rip;
  switch (vector) {
  case 0: signo = SIGFPE, code = 1 /* FPE_INTDIV */; break;
  case 1: signo = SIGTRAP, code = addr & BIT(14) ? 2 /* TRAP_TRACE */ : 4 /* TRAP_HWBKPT */; break;
  case 3: signo = SIGTRAP, at = 0; break;
  case 6: signo = SIGILL, code = 2 /* ILL_ILLOPN */; break;
  case 11: case 12: signo = SIGBUS, at = 0; break;
  case 16: case 19: signo = SIGFPE, code = 0; break;
  case 17: signo = SIGBUS, code = 1 /* BUS_ADRALN */, at = addr; break;
  default: at = 0; break;
  }
  if (vector == 16 || vector == 19) { // which exception: status of x87 or SSE, unmasked bits
    u64 flags = irq_save();
    fpu_save(l->thread->fpu);
    const u8 *img = l->thread->fpu;
    u32 bits = vector == 16 ? (u32)(img[2] & ~img[0] & 0x3f) : (u32)img[24] & ~((u32)(img[24] | img[25] << 8) >> 7) & 0x3fu;
    irq_restore(flags);
    code = bits & 1 ? 7 /* FLTINV */ : bits & 4 ? 3 /* FLTDIV */ : bits & 8 ? 4 /* FLTOVF */ : bits & 0x12 ? 5 /* FLTUND */ : bits & 0x20 ? 6 /* FLTRES */ : 0;
  }
  signal_force(signo, code, at);
}

static void user_fault(struct regs *r, const struct fault_info *fi) {
  struct lwp *l = lwp_current();
  l->trapno = 14;
  l->trap_error = fi->error;
  l->trap_addr = fi->addr;
  signal_force(fi->signo, fi->code, fi->addr);
}

void trap_init(void) {
  arch_hooks.user_trap = user_trap;
  mm_set_fault_signal(user_fault);
}

// SPDX-License-Identifier: Apache-2.0
//
// Exceptions, the system call frame, and the way back to ring 3. Entered from entry.S with interrupts off.
#include "arch/internal.h"
#include "arch/tdx.h"

_Static_assert(sizeof(struct regs) == 168 && offsetof(struct regs, cs) == 136, "entry.S knows the frame");
_Static_assert(offsetof(struct cpu, kernel_rsp) == 16 && offsetof(struct cpu, user_rsp) == 24, "entry.S knows struct cpu");

struct extable { s32 insn, fixup, nofault; }; // offsets from the fields themselves
extern const struct extable extable_start[], extable_end[];
u32 panicking;

static const struct extable *extable_find(u64 rip) {
  for (const struct extable *e = extable_start; e < extable_end; e++)
    if ((u64)&e->insn + (u64)(s64)e->insn == rip) return e;
  return NULL;
}

static const char *trap_name(u32 vector) {
  static const char *const names[] = { "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP",
    "#SS", "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP" };
  return vector < ARRAY_SIZE(names) ? names[vector] : "trap";
}

// The log goes to the host, which can bring a panic about (a #VE on shared memory): in a TD that it may not look into it
// learns where in the kernel that was, not what the registers hold (threat-model T6).
static bool shows_registers(void) { return !in_td || (tdx_info.attributes & TDX_ATTR_DEBUG); }

void dump_regs(const struct regs *r) {
  if (!shows_registers()) {
    printk(LOG_ERROR, "cpu %u rip %016lx cs %02lx", this_cpu()->id, regs_from_user(r) ? 0 : r->rip, r->cs);
    return;
  }
  printk(LOG_ERROR, "cpu %u rip %016lx cs %02lx rflags %06lx rsp %016lx ss %02lx orig_rax %lx", this_cpu()->id, r->rip,
    r->cs, r->rflags, r->rsp, r->ss, r->orig_rax);
  printk(LOG_ERROR, "rax %016lx rbx %016lx rcx %016lx rdx %016lx", r->rax, r->rbx, r->rcx, r->rdx);
  printk(LOG_ERROR, "rsi %016lx rdi %016lx rbp %016lx r8  %016lx", r->rsi, r->rdi, r->rbp, r->r8);
  printk(LOG_ERROR, "r9  %016lx r10 %016lx r11 %016lx r12 %016lx", r->r9, r->r10, r->r11, r->r12);
  printk(LOG_ERROR, "r13 %016lx r14 %016lx r15 %016lx cr2 %016lx cr3 %016lx", r->r13, r->r14, r->r15, read_cr2(), read_cr3());
}

// Return addresses on the stack, without frame pointers: every word that points into the text. Stays on the page, so
// that it cannot run into a guard page.
void backtrace(const u64 *sp) {
  unsigned shown = 0;
  for (const u64 *p = sp; shown < 24; p++) {
    if (p != sp && (u64)p % PAGE_SIZE == 0 && (u64)p - (u64)sp >= PAGE_SIZE) break;
    if (p != sp && (u64)p % KSTACK_ALIGN == 0) break;
    if (*p <= (u64)kernel_start || *p >= (u64)kernel_text_end) continue;
    printk(LOG_ERROR, "  %016lx", *p);
    shown++;
  }
}

static __noreturn void die(struct regs *r, u32 vector, u64 error, u64 addr) {
  dump_regs(r);
  backtrace((const u64 *)r->rsp);
  if (vector == VECTOR_PF && !shows_registers()) addr = 0; // CR2 is one of them
  panic("%s in the kernel at %016lx, error %#lx, address %#lx", trap_name(vector), r->rip, error, addr);
}

static void page_fault(struct regs *r, u64 error) {
  u64 addr = read_cr2();
  if (regs_from_user(r)) {
    r->orig_rax = (u64)-1;
    irq_enable();
    arch_hooks.page_fault(r, addr, error);
    irq_disable();
    return;
  }
  const struct extable *e = extable_find(r->rip);
  if (!e || addr >= USER_END) die(r, VECTOR_PF, error, addr);
  // With interrupts off the caller is atomic: it must have meant _nofault.
  if (!e->nofault && (r->rflags & RFLAGS_IF)) {
    irq_enable();
    bool resolved = arch_hooks.user_fault_ok(r, addr, error);
    irq_disable();
    if (resolved) return;
  }
  r->rip = (u64)&e->fixup + (u64)(s64)e->fixup;
}

// A #VE in a TD. In the kernel it is the end: the host must not be able to make one (threat-model T16), and our own code
// asks the host directly. From ring 3 only CPUID is expected; the rest is what the instruction would be without a
// hypervisor. VEINFO was fetched before anything here could fault again.
static void virtualization_exception(struct regs *r) {
  enum { CPUID = 10, VMCALL = 18, EPT_VIOLATION = 48 };
  struct tdx_ve ve;
  if (!in_td || !tdx_ve_info(&ve)) ve = (struct tdx_ve){ .reason = ~0u };
  // Whoever touched it, and whether it was private or shared: what was in it is lost, and nobody goes on without it.
  if (ve.reason == EPT_VIOLATION) panic("the host took away the memory at %#lx", ve.gpa);
  if (!regs_from_user(r)) {
    printk(LOG_ERROR, "#VE reason %u, qualification %#lx, guest-physical %#lx", ve.reason, ve.qualification, ve.gpa);
    die(r, VECTOR_VE, ve.reason, ve.gpa);
  }
  r->orig_rax = (u64)-1;
  if (ve.reason == CPUID) {
    struct cpuid c;
    cpuid_user((u32)r->rax, (u32)r->rcx, &c);
    r->rax = c.eax, r->rbx = c.ebx, r->rcx = c.ecx, r->rdx = c.edx;
    r->rip += ve.insn_len; // not always 2: it may have prefixes
    return;
  }
  irq_enable();
  if (ve.reason == VMCALL) arch_hooks.user_trap(r, 6, 0, 0); // #UD: SIGILL
  else arch_hooks.user_trap(r, VECTOR_GP, 0, 0);
  irq_disable();
}

void arch_exit_to_user(struct regs *r) {
  struct cpu *c;
  do {
    if (this_cpu()->need_resched) arch_hooks.resched();
    arch_hooks.user_return(r);
    // iretq to a non-canonical address would fault in the kernel: the program gets its #GP from here.
    while (unlikely(r->rip >> 47)) {
      r->orig_rax = (u64)-1;
      irq_enable();
      arch_hooks.user_trap(r, VECTOR_GP, 0, 0);
      irq_disable();
      arch_hooks.user_return(r);
    }
    c = this_cpu(); // after the hooks: the thread may have moved
  } while (c->need_resched);
  r->cs = USER_CS;
  r->ss = USER_SS;
  r->rflags = (r->rflags & RFLAGS_USER) | RFLAGS_IF | 2;
}

void arch_trap(struct regs *r, u32 vector) {
  bool user = regs_from_user(r);
  u64 error = r->orig_rax;
#ifdef DEBUG
  u64 flags;
  __asm__ volatile("pushfq; pop %0" : "=r"(flags));
  ASSERT(!cpu_has_smap || !(flags & RFLAGS_AC)); // user memory is open in uaccess.S only
#endif
  if (vector >= 32) {
    r->orig_rax = (u64)-1;
    irq_dispatch(vector);
  } else if (vector == VECTOR_PF) {
    page_fault(r, error);
  } else if (vector == VECTOR_VE) {
    virtualization_exception(r);
  } else if (user) {
    u64 addr = 0;
    if (vector == VECTOR_DEBUG) {
      __asm__ volatile("mov %%dr6, %0" : "=r"(addr));
      __asm__ volatile("mov %0, %%dr6" ::"r"(0xffff0ff0ul));
    }
    r->orig_rax = (u64)-1;
    irq_enable();
    arch_hooks.user_trap(r, vector, error, addr);
    irq_disable();
  } else {
    const struct extable *e = extable_find(r->rip);
    if (!e) die(r, vector, error, 0);
    r->rip = (u64)&e->fixup + (u64)(s64)e->fixup;
  }
  if (user) arch_exit_to_user(r);
}

// NMI, #DF, #MC, on their own stacks. An NMI means that another CPU panicked; one from elsewhere is ignored.
void arch_trap_ist(struct regs *r, u32 vector) {
  if (vector == VECTOR_NMI) {
    if (__atomic_load_n(&panicking, __ATOMIC_ACQUIRE)) arch_stop_this();
    return;
  }
  dump_regs(r);
  if (!regs_from_user(r) && vector != VECTOR_DF) backtrace((const u64 *)r->rsp);
  bool user = regs_from_user(r), shown = shows_registers();
  panic("%s at %016lx, address %#lx%s", trap_name(vector), user && !shown ? 0 : r->rip, shown ? read_cr2() : 0,
    vector == VECTOR_DF ? " (kernel stack overflow?)" : "");
}

// Returns whether SYSRET may be used: it takes RIP and RFLAGS from RCX and R11, and Intel's faults in ring 0 on a
// non-canonical RIP; RF and TF would be lost or taken at the wrong place.
u32 arch_syscall(struct regs *r) {
  irq_enable();
  r->rax = (u64)arch_hooks.syscall(r);
  irq_disable();
  arch_exit_to_user(r);
  return r->rcx == r->rip && r->r11 == r->rflags && r->rip < USER_END && !(r->rflags & (RFLAGS_TF | RFLAGS_RF));
}

u64 arch_thread_init(void *stack_top, void (*entry)(void *), void *arg) {
  extern void arch_thread_start(void);
  u64 *sp = stack_top;
  *--sp = 0;                           // keeps the stack 16-byte aligned at the call
  *--sp = 0;
  *--sp = (u64)arch_thread_start;      // arch_switch's ret
  *--sp = (u64)entry;                  // rbx
  *--sp = 0;                           // rbp
  *--sp = (u64)arg;                    // r12
  *--sp = 0;
  *--sp = 0;
  *--sp = 0;                           // r15
  return (u64)sp;
}

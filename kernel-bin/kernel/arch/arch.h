// SPDX-License-Identifier: Apache-2.0
//
// arch: the x86-64 machine as the rest of the kernel sees it: CPUs, interrupts, spinlocks, page-table entries, user
// memory access, FPU state, time. Nothing here sleeps. Which functions want interrupts off says so below.
#ifndef ARCH_ARCH_H
#define ARCH_ARCH_H
#include "lib/lib.h"

// --- the address map
#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ul
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define HUGE_SIZE (2 * MIB)
#define USER_END 0x00007ffffffff000ul       // first address that a program cannot have
#define DIRECT_BASE 0xffff888000000000ul    // all private RAM, NX, read-write (kernel text: read-only)
#define VMALLOC_BASE 0xffffc90000000000ul   // stacks with guards, device and shared mappings
#define VMALLOC_END 0xffffe8fffffffffful
#define MEMMAP_BASE 0xffffea0000000000ul    // struct page array, populated as memory is taken into use
#define KERNEL_BASE 0xffffffff80000000ul
#define MAX_CPUS 64

// --- saved state at an entry from ring 3 or a trap. The layout is entry.S's. For an entry from ring 3 it always lies
// right below cpu->kernel_rsp (which must be a multiple of 16).
struct regs {
  u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
  u64 orig_rax; // syscall number, -1 after an interrupt or when no restart may happen; error code of a trap
  u64 rip, cs, rflags, rsp, ss;
};
static inline bool regs_from_user(const struct regs *r) { return (r->cs & 3) != 0; }
#define USER_CS 0x33
#define USER_SS 0x2b
#define RFLAGS_IF BIT(9)

// --- this CPU. GS points to struct cpu in the kernel.
struct thread;
struct aspace;
struct cpu {
  struct cpu *self;
  u32 id;      // 0..cpu_count-1; 0 is the one that booted
  u32 apic_id;
  u64 kernel_rsp; // top of the running thread's kernel stack, for syscall entry (entry.S: offset 16)
  u64 user_rsp;   // scratch of syscall entry (entry.S: offset 24)
  struct thread *current;
  struct thread *idle;
  u32 irq_depth;      // >0 in an interrupt handler
  u32 preempt_off;    // spinlocks held; the scheduler must not run while > 0
  bool need_resched;
  bool online;
  u8 lock_ranks[16];  // debug builds: ranks held, innermost last
  u32 lock_depth;
  struct runq *rq;     // task room
  void *timers;        // task room
  struct aspace *aspace; // whose page tables are loaded (mm room)
  u64 irq_count, exits; // statistics
  struct arch_cpu *arch; // TSS, GDT, IST stacks
};
static inline struct cpu *this_cpu(void) { // stable only while the caller cannot move (preempt_off, irqs off)
  struct cpu *c;
  __asm__ volatile("mov %%gs:0, %0" : "=r"(c));
  return c;
}
static inline struct thread *thread_current(void) { // always right, wherever the caller runs
  struct thread *t;
  __asm__ volatile("mov %%gs:%c1, %0" : "=r"(t) : "i"(offsetof(struct cpu, current)));
  return t;
}
extern u32 cpu_count;            // CPUs online (all of them once boot reaches the first thread)
extern struct cpu *cpus[MAX_CPUS];

// --- interrupts
static inline u64 irq_save(void) {
  u64 f;
  __asm__ volatile("pushfq; pop %0; cli" : "=r"(f)::"memory");
  return f;
}
static inline void irq_restore(u64 f) { if (f & RFLAGS_IF) __asm__ volatile("sti" ::: "memory"); }
static inline void irq_enable(void) { __asm__ volatile("sti" ::: "memory"); }
static inline void irq_disable(void) { __asm__ volatile("cli" ::: "memory"); }
static inline bool irq_enabled(void) {
  u64 f;
  __asm__ volatile("pushfq; pop %0" : "=r"(f));
  return (f & RFLAGS_IF) != 0;
}
static inline void cpu_relax(void) { __asm__ volatile("pause"); }
typedef void (*irq_handler)(void *arg); // irq context: no sleeping, interrupts off
// Takes a free vector for MSI-X on `cpu`; message address and data for the device. -ENOSPC.
int __must_check irq_alloc(u32 cpu, irq_handler fn, void *arg, u64 *msi_addr, u32 *msi_data);
// A free vector for an interrupt that is not a device's (TD: the host's event notification). -ENOSPC.
int __must_check irq_alloc_vector(irq_handler fn, void *arg, u32 *vector);
void ipi_resched(u32 cpu);               // makes that CPU notice need_resched or leave its halt
// Runs fn(arg) on every CPU of `mask` but this one, and waits. Interrupts must be on or the caller must not hold a
// lock that another caller waits for with interrupts off.
void ipi_call(const u64 mask[1], void (*fn)(void *), void *arg);
void cpu_halt_until_irq(void);           // called with interrupts off; sti; hlt; returns with them off

// --- spinlocks, ranked. A CPU may take a lock only when its rank is higher than every rank it holds. Debug builds
// (DEBUG=1) assert it. `spin_lock` disables preemption; use the _irq forms for a lock that a handler also takes.
enum lock_rank { // outermost first
  RANK_NONE, RANK_PROCESS_TREE, RANK_VM, RANK_INODE, RANK_PAGE, RANK_OBJECT, RANK_OBJECT2, RANK_FDTABLE, RANK_CONN,
  RANK_PAGETABLE, RANK_VIRTQ, RANK_SIGNAL, RANK_WAITQ, RANK_READY, RANK_RUNQ, RANK_TIMER, RANK_PAGEALLOC, RANK_CONSOLE,
};
struct spinlock { u32 locked; u8 rank; u8 pad[3]; };
#define SPINLOCK_INIT(r) { 0, (r), { 0 } }
static inline void spin_init(struct spinlock *l, enum lock_rank rank) { *l = (struct spinlock)SPINLOCK_INIT((u8)rank); }
void spin_lock(struct spinlock *l);
bool spin_trylock(struct spinlock *l);
void spin_unlock(struct spinlock *l);
u64 __must_check spin_lock_irqsave(struct spinlock *l);
void spin_unlock_irqrestore(struct spinlock *l, u64 flags);

// --- page-table entries
#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_SW1 BIT(9)   // software bits: the mm room's
#define PTE_SW2 BIT(10)
#define PTE_NX BIT(63)
#define PTE_PCD BIT(4)
#define PTE_PWT BIT(3)
#define PTE_ADDR 0x000ffffffffff000ul
extern u64 pte_shared_bit; // TD: set in entries of shared memory; 0 in an ordinary VM
static inline void tlb_flush_page(u64 va) { __asm__ volatile("invlpg (%0)" ::"r"(va) : "memory"); }
static inline u64 read_cr3(void) { u64 v; __asm__ volatile("mov %%cr3, %0" : "=r"(v)); return v; }
static inline void write_cr3(u64 v) { __asm__ volatile("mov %0, %%cr3" ::"r"(v) : "memory"); }
static inline u64 read_cr2(void) { u64 v; __asm__ volatile("mov %%cr2, %0" : "=r"(v)); return v; }
extern u64 *kernel_pgd; // entries 256..511 are shared by every address space and never change after boot

// --- user memory. All check the range against USER_END, survive faults, and (without _nofault) may sleep in the fault
// handler: call them with no lock held and interrupts on. 0 or -EFAULT; a partial copy leaves the rest untouched.
int __must_check copy_from_user(void *dst, uptr src, size_t n);
int __must_check copy_to_user(uptr dst, const void *src, size_t n);
int __must_check clear_user(uptr dst, size_t n);
// Bytes that could NOT be copied (0 = all): for short reads and writes.
size_t copy_from_user_partial(void *dst, uptr src, size_t n);
size_t copy_to_user_partial(uptr dst, const void *src, size_t n);
// Length without the NUL; -EFAULT; -ENAMETOOLONG when there is no NUL in `size` bytes. Always terminates dst.
long __must_check strncpy_from_user(char *dst, uptr src, size_t size);
// Under locks or in irq context: fail where the page is not there.
int __must_check copy_from_user_nofault(void *dst, uptr src, size_t n);
// Atomic compare-and-exchange on a u32 of the program, for futexes: 0 and the old value, -EFAULT.
int __must_check user_cmpxchg32(uptr addr, u32 expected, u32 desired, u32 *old);
static inline bool user_range_ok(uptr p, u64 n) { return n <= USER_END && p <= USER_END - n; }

// --- FPU and vector state: the XSAVE area of a program's thread
extern u32 fpu_state_bytes;                 // for the features in XCR0
extern u64 fpu_xcr0;
void fpu_init_state(void *state);           // 64-byte aligned, fpu_state_bytes long
void fpu_save(void *state);                 // the live registers into it
void fpu_restore(const void *state);        // must be a state that fpu_save or fpu_check_state approved
int __must_check fpu_check_state(void *state, size_t len); // an image from a program's signal frame: fixes or -EINVAL

// --- context switch. `sp` of a thread that never ran is made by arch_thread_init.
void arch_switch(u64 *save_sp, u64 load_sp);
u64 arch_thread_init(void *stack_top, void (*entry)(void *), void *arg); // returns the sp to load
__noreturn void arch_enter_user(struct regs *r);  // first entry to ring 3, or after exec: loads everything from r
void arch_set_kernel_stack(void *top);            // TSS and cpu->kernel_rsp, at a switch
void arch_set_fs_base(u64 base);
u64 arch_get_fs_base(void);
void arch_set_user_gs_base(u64 base);
u64 arch_get_user_gs_base(void);

// --- calls out of arch that higher rooms install before interrupts are enabled (see arch/hooks.c)
struct arch_hooks {
  void (*page_fault)(struct regs *r, u64 addr, u64 error);   // mm; error: P=1 W=2 U=4 RSVD=8 I=16. Kernel-mode faults on
                                                             // user addresses come here too; return false below => fixup
  bool (*user_fault_ok)(struct regs *r, u64 addr, u64 error); // mm: resolve a kernel-mode access to user memory
  void (*user_trap)(struct regs *r, unsigned vector, u64 error, u64 addr); // proc: SIGFPE, SIGILL, SIGSEGV, SIGTRAP...
  long (*syscall)(struct regs *r);                            // sys
  void (*user_return)(struct regs *r);                        // proc: signals; interrupts off at entry and exit. Called again
                                                             // while need_resched is set after it
  void (*timer)(void);                                        // task, irq context; may come early
  void (*resched)(void);                                      // task: schedule() before returning to user; interrupts off
};
extern struct arch_hooks arch_hooks;

// --- time. ns since boot from the TSC, same on all CPUs, monotonic.
u64 time_ns(void);
u64 time_realtime_ns(void);               // host's hint + time_ns(): nothing trusts it
void time_set_realtime(u64 ns);
s64 time_realtime_offset(void);           // time_realtime_ns() - time_ns(), exactly: for the vdso
extern u64 tsc_hz;
struct tsc_scale { u64 base_tsc; u64 base_ns; u32 mult; u32 shift; }; // ns = base_ns + ((tsc - base_tsc) * mult >> shift)
extern struct tsc_scale tsc_scale;        // also handed to the vdso
void timer_arm(u64 deadline_ns);          // this CPU's one-shot timer; 0 disarms
static inline u64 rdtsc(void) {
  u32 lo, hi;
  __asm__ volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
  return ((u64)hi << 32) | lo;
}

// --- randomness: RDRAND/RDSEED into ChaCha20. Never fails after boot.
void random_bytes(void *buf, size_t n);
u64 random_u64(void);

// --- identity of the CPU for /proc/cpuinfo and AT_HWCAP
struct cpu_info { char vendor[13]; char model[49]; u32 family, model_no, stepping; u32 hwcap, hwcap2; };
extern struct cpu_info cpu_info;
void cpu_flags_string(char *buf, size_t size); // as Linux spells them, space separated

// The machine's kind
extern bool in_td;

// The launch record with its 16-byte header, in private memory for good (boot copies it there before anything parses it).
extern const u8 *boot_record;
extern size_t boot_record_len;

#endif

// SPDX-License-Identifier: Apache-2.0
//
// Tests of arch, page and host inside the machine: `make selftest` links them as proc_start_init into a kernel of the
// rooms lib arch host page task boot, and test/run-bare.sh runs it. One line per test; "selftest: N passed, M failed".
#include "arch/internal.h"
#include "host/host.h"
#include "page/page.h"
#include "task/task.h"

void proc_start_init(void);
static u32 passed, failed;
#define CHECK(cond) do { \
    if (cond) passed++; \
    else { failed++; printk(LOG_ERROR, "selftest: line %d failed: %s", __LINE__, #cond); } \
  } while (0)

// --- memory
static void test_pages(void) {
  enum { N = 300 };
  static struct page *pages[N];
  u64 before = page_free_count();
  bool distinct = true;
  for (u32 i = 0; i < N; i++) {
    pages[i] = page_alloc(i % 4, ALLOC_ZERO);
    if (!pages[i]) break;
    u64 *w = page_virt(pages[i]);
    u64 words = (PAGE_SIZE << (i % 4)) / 8;
    distinct = distinct && w[0] == 0 && w[words - 1] == 0;
    w[0] = w[words - 1] = i + 1;
  }
  for (u32 i = 0; i < N; i++) {
    u64 *w = page_virt(pages[i]);
    distinct = distinct && w[0] == i + 1 && w[(PAGE_SIZE << (i % 4)) / 8 - 1] == i + 1;
    page_put(pages[i]);
  }
  CHECK(distinct);
  CHECK(page_free_count() == before);
  // All of it: every page that is said to be free can be had, and comes back.
  struct page *list = NULL;
  u64 got = 0;
  for (struct page *p; (p = page_alloc(0, ALLOC_NORECLAIM)); got++) {
    p->words[0] = (u64)list;
    list = p;
  }
  u64 caches = before - got; // what other CPUs keep in their caches
  CHECK(got <= before && caches <= 64 * cpu_count);
  CHECK(page_alloc(0, ALLOC_NORECLAIM) == NULL);
  while (list) {
    struct page *next = (struct page *)list->words[0];
    page_put(list);
    list = next;
  }
  CHECK(page_free_count() + 64 >= before);
  struct page *big = page_alloc(MAX_ORDER, 0); // merged again
  CHECK(big && IS_ALIGNED(page_phys(big), PAGE_SIZE << MAX_ORDER));
  if (big) page_put(big);
  struct page *huge = page_alloc(9, 0);
  CHECK(huge != NULL);
  page_split(huge);
  for (u32 i = 0; i < 512; i++) page_put(huge + i);
}

static u32 stress_done;
static void slab_stress(void *arg) {
  u64 seed = (u64)arg * 77 + 1;
  static const u16 sizes[] = { 1, 16, 17, 64, 100, 192, 500, 1000, 3000, 4096, 5000, 20000 };
  void *p[64] = { 0 };
  u16 size[64];
  bool ok = true;
  for (u32 i = 0; i < 20000; i++) {
    seed = seed * 6364136223846793005 + 1442695040888963407;
    u32 k = (seed >> 33) % 64;
    if (p[k]) {
      u8 *b = p[k];
      ok = ok && b[0] == (u8)(k + 1) && b[size[k] - 1] == (u8)(k + 1);
      kfree(b);
      p[k] = NULL;
    } else {
      size[k] = sizes[(seed >> 40) % ARRAY_SIZE(sizes)];
      u8 *b = p[k] = kmalloc(size[k], 0);
      if (!b) continue;
      ok = ok && IS_ALIGNED((u64)b, size[k] % 64 ? 16 : 64);
      memset(b, (int)k + 1, size[k]);
    }
    if (i % 1000 == 0) sched_yield();
  }
  for (u32 k = 0; k < 64; k++) kfree(p[k]);
  CHECK(ok);
  atomic_inc(&stress_done);
  thread_exit();
}

static void test_slab(void) {
  u32 n = 2 * cpu_count;
  for (u32 i = 0; i < n; i++) thread_put(kthread_run("slab", slab_stress, (void *)(u64)i));
  u64 end = time_ns() + 20 * NS_PER_SEC;
  while (__atomic_load_n(&stress_done, __ATOMIC_ACQUIRE) < n && time_ns() < end) sched_yield();
  CHECK(stress_done == n);
}

static void test_maps(void) {
  struct page *pages[3];
  for (u32 i = 0; i < 3; i++) pages[i] = page_alloc(0, ALLOC_ZERO);
  bool ok = true;
  for (u32 round = 0; round < 100000 && ok; round++) { // more than the addresses: they must be reused, after a flush
    u64 *va = kmap_pages(pages, 3, PTE_W | PTE_NX);
    ok = va != NULL;
    if (!ok) break;
    va[512] = round;
    ok = *(u64 *)page_virt(pages[1]) == round;
    kunmap(va, 3 * PAGE_SIZE);
  }
  CHECK(ok);
  for (u32 i = 0; i < 3; i++) page_put(pages[i]);
  struct shared_buf a, b;
  CHECK(shared_alloc(&a, 100) == 0 && shared_alloc(&b, 70000) == 0 && a.phys != b.phys);
  shared_write(&b, 69990, "0123456789", 10);
  char back[10];
  shared_read(back, &b, 69990, 10);
  CHECK(!memcmp(back, "0123456789", 10));
  shared_free(&b);
  CHECK(shared_alloc(&b, 70000) == 0 && b.va[69990] == 0);
  shared_free(&a);
  shared_free(&b);
  struct shared_buf too_big;
  CHECK(shared_alloc(&too_big, 0x7fffffff) == -ENOMEM);
}

// --- interrupts and time
static u32 calls, pings;
static void count_call(void *arg) { atomic_inc(&calls); }
static void ping(void *arg) {
  u64 all = ~0ul;
  for (u32 i = 0; i < 300; i++) ipi_call(&all, count_call, NULL);
  atomic_inc(&pings);
  thread_exit();
}

static void test_irqs(void) {
  u64 all = ~0ul;
  ipi_call(&all, count_call, NULL);
  CHECK(calls == cpu_count - 1);
  calls = 0;
  for (u32 i = 0; i < cpu_count; i++) { // everybody calls everybody
    struct thread *t = thread_create("ping", ping, NULL);
    u64 mask = BIT(i);
    CHECK(thread_set_affinity(t, &mask) == 0);
    thread_start(t);
    thread_put(t);
  }
  u64 end = time_ns() + 20 * NS_PER_SEC;
  while (__atomic_load_n(&pings, __ATOMIC_ACQUIRE) < cpu_count && time_ns() < end) sched_yield();
  CHECK(pings == cpu_count && calls == 300 * cpu_count * (cpu_count - 1));
  u64 start = time_ns();
  CHECK(thread_sleep_until(start + 20 * NS_PER_MS, WAIT_UNINTERRUPTIBLE) == 0);
  u64 took = time_ns() - start;
  CHECK(took >= 20 * NS_PER_MS);
  printk(LOG_WARN, "selftest: a sleep of 20000 us took %lu us", took / 1000);
}

static u64 last_time;
static u32 backwards, clock_done;
static void watch_clock(void *arg) {
  for (u32 i = 0; i < 100000; i++) { // what another CPU stored before must not be later than now
    u64 seen = __atomic_load_n(&last_time, __ATOMIC_ACQUIRE), now = time_ns();
    if (now < seen) atomic_inc(&backwards);
    __atomic_store_n(&last_time, now, __ATOMIC_RELEASE);
  }
  atomic_inc(&clock_done);
  thread_exit();
}
static void test_clock(void) {
  for (u32 i = 0; i < cpu_count; i++) {
    struct thread *t = thread_create("clock", watch_clock, NULL);
    u64 mask = BIT(i);
    CHECK(thread_set_affinity(t, &mask) == 0);
    thread_start(t);
    thread_put(t);
  }
  u64 end = time_ns() + 20 * NS_PER_SEC;
  while (__atomic_load_n(&clock_done, __ATOMIC_ACQUIRE) < cpu_count && time_ns() < end) sched_yield();
  CHECK(clock_done == cpu_count && backwards == 0);
}

// --- ring 3: one page of code at 4 MiB, one of data at 8 MiB; pages above come on demand
#define CODE 0x400000ul
#define DATA 0x800000ul
extern const u8 user_code_start[], user_code_end[];
__asm__(
  ".pushsection .rodata\n"
  "user_code_start:\n"
  // r12 counts checks that went well
  "  xorl %r12d, %r12d\n"
  // 1. a system call keeps every register but rax, rcx, r11
  "  movl $0x1111, %eax\n"
  "  movq $0x123456789, %rbx\n"
  "  movq $0x5555, %rbp\n"
  "  movl $7, %edi\n"
  "  movl $8, %esi\n"
  "  movl $9, %r8d\n"
  "  movl $10, %r15d\n"
  "  syscall\n"
  "  cmpq $0x2222, %rax\n"
  "  jne 1f\n"
  "  movabsq $0x123456789, %rax\n"
  "  cmpq %rax, %rbx\n"
  "  jne 1f\n"
  "  cmpl $10, %r15d\n"
  "  jne 1f\n"
  "  cmpl $9, %r8d\n"
  "  jne 1f\n"
  "  incl %r12d\n"
  "1:\n"
  // 2. a page fault is resolved and the instruction runs again
  "  movl $0x900000, %edx\n"
  "  movq $77, (%rdx)\n"
  "  cmpq $77, (%rdx)\n"
  "  jne 2f\n"
  "  incl %r12d\n"
  "2:\n"
  // 3. exceptions reach user_trap, which skips the instruction: ud2, int3, a privileged one, division by zero
  "  ud2\n"
  "  hlt\n"
  "  xorl %ecx, %ecx\n"
  "  xorl %edx, %edx\n"
  "  movl $1, %eax\n"
  "  divl %ecx\n"
  "  int3\n"
  // 4. flags survive: a call with DF and AC set, and the kernel does not trip
  "  pushfq\n"
  "  orq $0x40400, (%rsp)\n"
  "  popfq\n"
  "  movl $0x1111, %eax\n"
  "  syscall\n"
  "  pushfq\n"
  "  popq %rax\n"
  "  andl $0x40400, %eax\n"
  "  cmpl $0x40400, %eax\n"
  "  jne 3f\n"
  "  incl %r12d\n"
  "3: pushq $0x202\n"
  "  popfq\n"
  // 5. a hostile GS base, then traps and calls
  "  testl %r14d, %r14d\n"
  "  jz 4f\n"
  "  movabsq $0xffff888000000000, %rax\n"
  "  wrgsbase %rax\n"
  "  ud2\n"
  "  movl $0x1111, %eax\n"
  "  syscall\n"
  "  rdgsbase %rcx\n"
  "  movabsq $0xffff888000000000, %rax\n"
  "  cmpq %rax, %rcx\n"
  "  jne 4f\n"
  "  incl %r12d\n"
  "4:\n"
  // 6. SSE registers survive being interrupted for a while
  "  movq $0x1234, %rax\n"
  "  movq %rax, %xmm5\n"
  "  movl $3000000, %ecx\n"
  "5: decl %ecx\n"
  "  jnz 5b\n"
  "  movq %xmm5, %rax\n"
  "  cmpq $0x1234, %rax\n"
  "  jne 6f\n"
  "  incl %r12d\n"
  "6:\n"
  // 7. jump to a non-canonical address: user_trap gets #GP or #PF, and sends us to r13
  "  leaq 7f(%rip), %r13\n"
  "  movl $0x3333, %eax\n"
  "  syscall\n"
  "7: incl %r12d\n"
  "  leaq 8f(%rip), %r13\n"
  "  movabsq $0x8000000000000000, %rax\n"
  "  jmp *%rax\n"
  "8: incl %r12d\n"
  "  movl $0x4444, %eax\n"
  "  syscall\n"
  "user_code_end:\n"
  ".popsection\n");

static u64 *user_pgd;
static u32 traps[32], user_ok, faults, ring3_done;
static u64 *user_pte(u64 va) {
  u64 *t = user_pgd;
  for (int level = 3; level > 0; level--) {
    u64 *e = &t[(va >> (12 + 9 * level)) & 511];
    if (!(*e & PTE_P)) *e = page_phys(page_alloc(0, ALLOC_ZERO)) | PTE_P | PTE_W | PTE_U;
    t = phys_virt(*e & PTE_ADDR);
  }
  return &t[(va >> 12) & 511];
}
static bool demand(u64 addr) {
  faults++;
  if (addr < 0x900000 || addr >= 0x980000) return false;
  *user_pte(addr) = page_phys(page_alloc(0, ALLOC_ZERO)) | PTE_P | PTE_W | PTE_U | PTE_NX;
  return true;
}
static void on_fault(struct regs *r, u64 addr, u64 error) {
  CHECK(irq_enabled());
  if (demand(addr)) return;
  traps[14]++;
  r->rip = r->r13;
}
static void on_user_return(struct regs *r) {} // there is no process whose signals it could look for
static bool on_user_fault(struct regs *r, u64 addr, u64 error) {
  CHECK(irq_enabled());
  return demand(addr);
}
static void on_trap(struct regs *r, unsigned vector, u64 error, u64 addr) {
  CHECK(regs_from_user(r) && irq_enabled() && r->orig_rax == ~0ul);
  traps[vector & 31]++;
  if (vector == 13 && (r->rip >> 47 || r->rip == CODE + (u64)(user_code_end - user_code_start))) r->rip = r->r13;
  else if (vector == 13 && *(u8 *)(page_virt(page_of_phys(*user_pte(CODE) & PTE_ADDR)) + r->rip % PAGE_SIZE) != 0xf4) r->rip = r->r13;
  else r->rip += vector == 6 || vector == 0 ? 2 : vector == 13 ? 1 : 0;
}
static long on_syscall(struct regs *r) {
  CHECK(irq_enabled() && r->orig_rax == r->rax);
  switch (r->rax) {
    case 0x1111: return 0x2222;
    case 0x3333: r->rip = 0x8000000000000000; return 0;
    case 0x4444:
      user_ok = (u32)r->r12;
      __atomic_store_n(&ring3_done, 1, __ATOMIC_RELEASE);
      thread_exit();
  }
  return -ENOSYS;
}

static void ring3(void *arg) {
  irq_disable();
  write_cr3(virt_phys(user_pgd));
  irq_enable();
  // uaccess: a page that comes on demand, one that does not, ranges outside
  u64 v = 0;
  char text[16];
  u32 old;
  CHECK(copy_to_user(0x910000 - 4, "abcdefgh", 8) == 0 && copy_from_user(&v, 0x910000 - 4, 8) == 0 && !memcmp(&v, "abcdefgh", 8));
  CHECK(copy_from_user(&v, 0xa00000, 8) == -EFAULT && copy_to_user(0xa00000, &v, 8) == -EFAULT);
  CHECK(copy_from_user_partial(text, 0x980000 - 5, 16) == 11 && copy_to_user_partial(0x980000 - 3, text, 16) == 13);
  CHECK(copy_from_user(&v, DIRECT_BASE, 8) == -EFAULT && copy_from_user(&v, ~0ul - 3, 8) == -EFAULT && copy_to_user(USER_END - 4, &v, 8) == -EFAULT);
  u32 before = faults;
  CHECK(copy_from_user_nofault(&v, 0x920000, 8) == -EFAULT && faults == before);
  CHECK(clear_user(0x930000, 5000) == 0 && clear_user(0x980000 - 8, 16) == -EFAULT);
  CHECK(copy_to_user(0x940ffc, "xyz", 4) == 0 && strncpy_from_user(text, 0x940ffc, 16) == 3 && !strcmp(text, "xyz"));
  CHECK(strncpy_from_user(text, 0x940ffc, 3) == -ENAMETOOLONG && strncpy_from_user(text, 0xa00000, 16) == -EFAULT);
  CHECK(user_cmpxchg32(0x950000, 0, 5, &old) == 0 && old == 0 && user_cmpxchg32(0x950000, 0, 6, &old) == 0 && old == 5);
  CHECK(user_cmpxchg32(0xa00000, 0, 5, &old) == -EFAULT);
  struct regs r = { .rip = CODE, .rsp = DATA + PAGE_SIZE, .rflags = RFLAGS_IF, .cs = USER_CS, .ss = USER_SS, .orig_rax = ~0ul,
    .r14 = cpu_features.fsgsbase };
  irq_disable();
  arch_set_kernel_stack(thread_current()->stack_top);
  static u8 fpu[8192] __aligned(64);
  fpu_init_state(fpu);
  CHECK(fpu_state_bytes <= sizeof(fpu) && fpu_check_state(fpu, fpu_state_bytes) == 0);
  fpu_restore(fpu);
  memset(fpu + 512, 0xff, 64); // a hostile header
  memset(fpu + 24, 0xff, 4);   // and MXCSR
  CHECK(fpu_check_state(fpu, fpu_state_bytes) == 0 && fpu_check_state(fpu, 100) == -EINVAL);
  fpu_restore(fpu);
  fpu_init_state(fpu);
  fpu_restore(fpu);
  arch_set_fs_base(0x1234567);
  arch_set_user_gs_base(0x7654321);
  CHECK(arch_get_fs_base() == 0x1234567 && arch_get_user_gs_base() == 0x7654321 && this_cpu()->self == this_cpu());
  // Any stack will do for the way out; this one is not the thread's, whose top entries from ring 3 will overwrite.
  static u8 stack[8192] __aligned(16);
  struct regs *top = (struct regs *)(void *)(stack + sizeof(stack)) - 1;
  *top = r;
  arch_enter_user(top);
}

static void test_ring3(void) {
  arch_hooks.page_fault = on_fault;
  arch_hooks.user_fault_ok = on_user_fault;
  arch_hooks.user_trap = on_trap;
  arch_hooks.syscall = on_syscall;
  arch_hooks.user_return = on_user_return;
  user_pgd = page_virt(page_alloc(0, ALLOC_ZERO));
  memcpy(user_pgd + 256, kernel_pgd + 256, 2048);
  struct page *code = page_alloc(0, ALLOC_ZERO), *data = page_alloc(0, ALLOC_ZERO);
  memcpy(page_virt(code), user_code_start, (size_t)(user_code_end - user_code_start));
  *user_pte(CODE) = page_phys(code) | PTE_P | PTE_U;
  *user_pte(DATA) = page_phys(data) | PTE_P | PTE_U | PTE_W | PTE_NX;
  struct thread *t = thread_create("ring3", ring3, NULL);
  u64 mask = 1;
  CHECK(thread_set_affinity(t, &mask) == 0);
  thread_start(t);
  thread_put(t);
  u64 end = time_ns() + 20 * NS_PER_SEC;
  while (!__atomic_load_n(&ring3_done, __ATOMIC_ACQUIRE) && time_ns() < end) sched_yield();
  CHECK(ring3_done);
  CHECK(user_ok == (cpu_features.fsgsbase ? 7 : 6));
  CHECK(traps[6] == (cpu_features.fsgsbase ? 2 : 1) && traps[0] == 1 && traps[3] == 1 && traps[13] + traps[14] == 3);
}

// --- rights of the image, at both of its addresses
static u64 entry_of(u64 va) { // the leaf that maps va
  u64 *t = kernel_pgd;
  u64 all = PTE_W;
  bool nx = false;
  for (int level = 3;; level--) {
    u64 e = t[(va >> (12 + 9 * level)) & 511];
    if (!(e & PTE_P)) return 0;
    all &= e;
    nx |= (e & PTE_NX) != 0;
    if (level == 0 || (e & PTE_PS)) return PTE_P | (all & PTE_W) | (nx ? PTE_NX : 0);
    t = phys_virt(e & PTE_ADDR);
  }
}
static void test_rights(void) {
  for (u64 va = (u64)kernel_start; va < (u64)kernel_end; va += PAGE_SIZE) {
    u64 a = entry_of(va), b = entry_of(DIRECT_BASE + (va - KERNEL_BASE));
    if (va == (u64)boot_stack_guard) {
      CHECK(a == 0 && b == 0);
      continue;
    }
    bool text = va < (u64)kernel_text_end, rodata = !text && va < (u64)kernel_rodata_end;
    if (a != (text ? PTE_P : rodata ? PTE_P | PTE_NX : PTE_P | PTE_NX | PTE_W)) CHECK(!"rights of the image");
    if (b != (text || rodata ? PTE_P | PTE_NX : PTE_P | PTE_NX | PTE_W)) CHECK(!"rights of the direct map");
  }
  CHECK(entry_of(0) == 0 && entry_of(0x200000) == 0);
  u64 cr4;
  __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
  const struct cpu_features *f = &cpu_features;
  CHECK(!!(cr4 & CR4_SMEP) == f->smep && !!(cr4 & CR4_SMAP) == f->smap && !!(cr4 & CR4_UMIP) == f->umip);
}

static void test_random(void) {
  u8 a[100], b[100];
  random_bytes(a, sizeof(a));
  random_bytes(b, sizeof(b));
  CHECK(memcmp(a, b, 32) && memcmp(a + 64, b + 64, 32) && random_u64() != random_u64());
  CHECK(__stack_chk_guard != 0x595e9fbd94fda766ul && (__stack_chk_guard & 0xff) == 0);
}

static void bench(void) {
  u8 *a = kmalloc(MIB, 0), *b = (u8 *)kmalloc(2 * MIB, 0) + 64 * KIB; // not the same slots of QEMU's TLB
  u64 t0 = time_ns();
  for (u32 i = 0; i < 64; i++) memcpy(a, b, MIB);
  u64 t1 = time_ns();
  for (u32 i = 0; i < 64; i++) { void *d = a, *s = b; size_t n = MIB / 8; __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n)::"memory"); }
  u64 t2 = time_ns();
  for (u32 i = 0; i < 64; i++) memset(a, 0, MIB);
  u64 t3 = time_ns();
  for (u32 i = 0; i < 64; i++) { void *d = a; size_t n = MIB / 8; __asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(0ul) : "memory"); }
  u64 t4 = time_ns();
  u8 digest[32];
  for (u32 i = 0; i < 4; i++) sha256_hash(a, MIB, digest);
  u64 t5 = time_ns();
  for (u32 i = 0; i < 100000; i++) kfree(kmalloc(100, 0));
  u64 t6 = time_ns();
  printk(LOG_WARN, "selftest: MiB/s memcpy %lu, rep movsq %lu, memset %lu, rep stosq %lu, sha256 %lu; kmalloc+kfree %lu ns",
    64 * NS_PER_SEC / (t1 - t0), 64 * NS_PER_SEC / (t2 - t1), 64 * NS_PER_SEC / (t3 - t2), 64 * NS_PER_SEC / (t4 - t3),
    4 * NS_PER_SEC / (t5 - t4), (t6 - t5) / 100000);
  kfree(a);
  kfree(b - 64 * KIB);
}

void proc_start_init(void) {
  test_rights();
  test_random();
  test_pages();
  test_slab();
  test_maps();
  test_irqs();
  test_clock();
  test_ring3();
  bench();
  printk(LOG_ERROR, "selftest: %u passed, %u failed", passed, failed);
  host_power_off();
}

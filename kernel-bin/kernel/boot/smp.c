// SPDX-License-Identifier: Apache-2.0
//
// Brings up the other CPUs, all at once. In an ordinary VM: one broadcast INIT, then SIPIs until as many arrived as the
// launch record says. Under QEMU they wait for a SIPI from the start, so there is no delay beyond their own start-up. In
// a TD there is no INIT: all vCPUs started with the first one and wait in the reset page (reset.S) for ap_release.
#include "boot/internal.h"
#include "boot/layout.h"
#include "arch/internal.h"
#include "task/task.h"

#define GIVE_UP_NS (20 * NS_PER_SEC) // a busy host may not have run a vCPU yet

extern const u8 trampoline_start[], trampoline_end[];
u64 ap_cr3;
u32 ap_next = 1, ap_limit;
u64 ap_stacks[MAX_CPUS];
static u32 arrived = 1; // CPUs that are ready
static u32 released;    // set when the APs may enter their idle loops

__attribute__((no_stack_protector)) __noreturn void ap_main(u32 id) {
  struct cpu *c = cpus[id];
  cpu_init_this(c, c->arch);
  if (in_td) tdx_init_this();
  random_init_this(c->arch);
  apic_init_this();
  c->online = true;
  __atomic_fetch_add(&arrived, 1, __ATOMIC_RELEASE);
  while (!__atomic_load_n(&released, __ATOMIC_ACQUIRE)) cpu_relax();
  task_run_ap();
}

// Sends them off; they come up while this CPU goes on. smp_finish waits for them.
void smp_start(u32 count) {
  ap_cr3 = read_cr3();
  ap_limit = count;
  for (u32 id = 1; id < count; id++) {
    struct cpu *c = kzalloc(sizeof(*c));
    struct page *p = page_alloc(3, ALLOC_ZERO);
    void *stack = kstack_alloc();
    if (!c || !p || !stack) panic("no memory for CPU %u", id);
    _Static_assert(sizeof(struct arch_cpu) <= 8 * PAGE_SIZE, "order 3");
    c->id = id;
    c->arch = page_virt(p);
    c->kernel_rsp = (u64)stack;
    ap_stacks[id] = (u64)stack;
    cpus[id] = c;
  }
  if (count == 1) return;
  if (in_td) {
    phys_t first = ALIGN_DOWN(ap_release_phys, PAGE_SIZE);
    u8 *page = kmap_phys(first, PAGE_SIZE, PTE_W | PTE_NX);
    if (!page) panic("no memory for the reset page");
    __atomic_store_n((u32 *)(void *)(page + (ap_release_phys - first)), 1, __ATOMIC_RELEASE);
    return;
  }
  memcpy(phys_virt(TRAMPOLINE), trampoline_start, (size_t)(trampoline_end - trampoline_start));
  apic_start_others(TRAMPOLINE);
}

void smp_finish(u32 count) {
  u64 start = time_ns(), resend = in_td ? ~0ul : start + 200 * NS_PER_US;
  while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < count) {
    u64 now = time_ns();
    if (now > start + GIVE_UP_NS) panic("%u of %u CPUs came up", arrived, count);
    if (now > resend) { // lost while the AP was still busy with INIT; a running one ignores it
      apic_resend_startup(TRAMPOLINE);
      resend = now + NS_PER_MS;
    }
    cpu_relax();
  }
  cpu_count = count;
}

// The APs enter the scheduler's idle loops. Called when task_init has prepared every cpu.
void smp_release(void) { __atomic_store_n(&released, 1, __ATOMIC_RELEASE); }

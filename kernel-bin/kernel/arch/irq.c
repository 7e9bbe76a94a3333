// SPDX-License-Identifier: Apache-2.0
//
// Interrupt vectors: MSI-X vectors for devices (one system-wide table, each bound to the CPU it was asked for), the
// timer, and the inter-processor interrupts. All handlers run with interrupts off on the interrupted kernel stack.
#include "arch/internal.h"

static struct { irq_handler fn; void *arg; } handlers[256];
static struct spinlock vector_lock = SPINLOCK_INIT(RANK_PAGEALLOC);
static u32 next_vector = VECTOR_FIRST_DEVICE;

int irq_alloc_vector(irq_handler fn, void *arg, u32 *vector) {
  u64 flags = spin_lock_irqsave(&vector_lock);
  u32 v = next_vector <= VECTOR_LAST_DEVICE ? next_vector++ : 0;
  if (v) {
    handlers[v].arg = arg;
    __atomic_store_n(&handlers[v].fn, fn, __ATOMIC_RELEASE);
  }
  spin_unlock_irqrestore(&vector_lock, flags);
  *vector = v;
  return v ? 0 : -ENOSPC;
}

int irq_alloc(u32 cpu, irq_handler fn, void *arg, u64 *msi_addr, u32 *msi_data) {
  if (cpu >= cpu_count || !cpus[cpu]) return -EINVAL;
  u32 id = cpus[cpu]->apic_id; // without an interrupt remapper a message has 8 bits for it
  if (id > 255) return -ENOSPC;
  *msi_addr = 0xfee00000 | (u64)id << 12; // fixed delivery, physical destination
  return irq_alloc_vector(fn, arg, msi_data);
}

void irq_dispatch(u32 vector) {
  struct cpu *c = this_cpu();
  c->irq_depth++;
  c->irq_count++;
#ifdef DEBUG
  // Ranks start anew: what the interrupted code holds is not ours, as handlers take only locks that disable interrupts.
  ASSERT(c->lock_depth < ARRAY_SIZE(c->lock_ranks));
  c->lock_ranks[c->lock_depth++] = RANK_NONE;
#endif
  // A spurious interrupt has no EOI; but a host may deliver its vector as a real one, and all others would wait for ever.
  if (vector != VECTOR_SPURIOUS || apic_in_service(vector)) apic_eoi(); // before the handler: all are edge-triggered, and it may not come back here
  switch (vector) {
    case VECTOR_TIMER: arch_hooks.timer(); break;
    case VECTOR_RESCHED: break; // need_resched was set by the sender; leaving a halt is all that was wanted
    case VECTOR_CALL: ipi_call_irq(); break;
    default: {
      irq_handler fn = __atomic_load_n(&handlers[vector].fn, __ATOMIC_ACQUIRE);
      if (fn) fn(handlers[vector].arg);
    }
  }
#ifdef DEBUG
  ASSERT(c->lock_depth && c->lock_ranks[c->lock_depth - 1] == RANK_NONE);
  c->lock_depth--;
#endif
  c->irq_depth--;
}

void ipi_resched(u32 cpu) {
  struct cpu *c = cpus[cpu];
  WRITE_ONCE(c->need_resched, true);
  if (c == this_cpu()) return;
  apic_send_ipi(c->apic_id, VECTOR_RESCHED);
}

// One call at a time. Whoever waits here serves others' calls meanwhile, so two CPUs with interrupts off cannot wait
// for each other.
static struct { u32 busy; void (*fn)(void *); void *arg; u64 pending; } call;

void ipi_call_irq(void) {
  u64 me = BIT(this_cpu()->id);
  if (!(__atomic_load_n(&call.pending, __ATOMIC_ACQUIRE) & me)) return;
  call.fn(call.arg);
  __atomic_fetch_and(&call.pending, ~me, __ATOMIC_RELEASE);
}

void ipi_call(const u64 mask[1], void (*fn)(void *), void *arg) {
  u64 flags = irq_save(); // this thread must not move or nest a call now
  u64 online = cpu_count >= 64 ? ~0ul : BIT(cpu_count) - 1;
  u64 targets = mask[0] & online & ~BIT(this_cpu()->id);
  if (!targets) {
    irq_restore(flags);
    return;
  }
  while (__atomic_exchange_n(&call.busy, 1, __ATOMIC_ACQUIRE)) {
    ipi_call_irq();
    cpu_relax();
  }
  call.fn = fn;
  call.arg = arg;
  __atomic_store_n(&call.pending, targets, __ATOMIC_RELEASE);
  if (targets == (online & ~BIT(this_cpu()->id))) apic_send_ipi_others(VECTOR_CALL); // one request for all
  else for (u64 left = targets; left; left &= left - 1) apic_send_ipi(cpus[__builtin_ctzll(left)]->apic_id, VECTOR_CALL);
  while (__atomic_load_n(&call.pending, __ATOMIC_ACQUIRE)) cpu_relax();
  __atomic_store_n(&call.busy, 0, __ATOMIC_RELEASE);
  irq_restore(flags);
}

void cpu_halt_until_irq(void) {
  if (in_td) {
    tdx_halt();
    __asm__ volatile("sti; nop; cli" ::: "memory"); // what woke us is delivered here
  } else {
    __asm__ volatile("sti; hlt; cli" ::: "memory");
  }
}

__noreturn void arch_stop_this(void) {
  irq_disable();
  for (;;) {
    if (in_td) tdx_halt_blocked();
    else __asm__ volatile("hlt");
  }
}

// What panic does on this CPU before the host is told: the others stop, whatever they run.
void arch_stop_others(void) {
  __atomic_store_n(&panicking, 1, __ATOMIC_RELEASE);
  if (cpu_count > 1) apic_send_nmi_others();
}

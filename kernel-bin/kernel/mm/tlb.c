// SPDX-License-Identifier: Apache-2.0
//
// Which CPU has which address space loaded, and shootdowns. A CPU's bit in aspace->cpumask is set before it loads the
// tables and cleared after it loaded others, so whoever changes an entry and then reads the mask sees every CPU that
// may have the old entry cached. A kernel thread keeps whatever is loaded; the first shootdown that finds it there
// unloads the space, so an idle CPU is interrupted once at most.
#include "mm/internal.h"

static u64 kernel_cr3;
#define FLUSH_PAGES_MAX 32 // above that reloading CR3 is cheaper

static void load_kernel_tables(struct cpu *c, struct aspace *old) {
  write_cr3(kernel_cr3);
  c->aspace = NULL;
  if (old) __atomic_fetch_and(&old->cpumask[0], ~BIT(c->id), __ATOMIC_SEQ_CST);
}

// Interrupts off. NULL: a thread without a space runs next, which may keep what is loaded.
static void aspace_switch(struct aspace *next) {
  struct cpu *c = this_cpu();
  struct aspace *old = c->aspace;
  if (!next || next == old) return;
  __atomic_fetch_or(&next->cpumask[0], BIT(c->id), __ATOMIC_SEQ_CST);
  c->aspace = next;
  write_cr3(next->pgd_phys);
  if (old) __atomic_fetch_and(&old->cpumask[0], ~BIT(c->id), __ATOMIC_SEQ_CST);
}

void aspace_activate(struct aspace *as) {
  u64 flags = irq_save();
  thread_current()->aspace = as;
  if (as) aspace_switch(as);
  else load_kernel_tables(this_cpu(), this_cpu()->aspace);
  irq_restore(flags);
}

struct flush { struct aspace *as; uptr start, end; };

static void flush_local(const struct flush *f) {
  if ((f->end - f->start) >> PAGE_SHIFT > FLUSH_PAGES_MAX) {
    write_cr3(read_cr3());
    return;
  }
  for (uptr a = f->start; a < f->end; a += PAGE_SIZE) tlb_flush_page(a);
}

static void flush_irq(void *arg) {
  const struct flush *f = arg;
  struct cpu *c = this_cpu();
  if (c->aspace != f->as) return; // switched meanwhile, which flushed
  if (c->current->aspace != f->as) load_kernel_tables(c, f->as);
  else flush_local(f);
}

void tlb_flush_range(struct aspace *as, uptr start, uptr end) {
  struct flush f = { as, start, end };
  u64 flags = irq_save(); // this CPU must stay the one whose bit is taken out
  __atomic_thread_fence(__ATOMIC_SEQ_CST); // the changed entries, then the mask
  struct cpu *c = this_cpu();
  u64 mask = __atomic_load_n(&as->cpumask[0], __ATOMIC_SEQ_CST);
  if (c->aspace == as) flush_local(&f);
  mask &= ~BIT(c->id);
  if (mask) ipi_call(&mask, flush_irq, &f);
  irq_restore(flags);
}

static void detach_irq(void *arg) {
  struct cpu *c = this_cpu();
  if (c->aspace == arg) load_kernel_tables(c, arg);
}

// The last reference is gone: no thread uses the space, so no CPU will load it again, but some may have it still.
void aspace_detach_cpus(struct aspace *as) {
  u64 flags = irq_save();
  detach_irq(as);
  u64 mask = __atomic_load_n(&as->cpumask[0], __ATOMIC_SEQ_CST);
  if (mask) ipi_call(&mask, detach_irq, as);
  irq_restore(flags);
}

void tlb_init(void) {
  u64 va = (u64)kernel_pgd;
  kernel_cr3 = va >= KERNEL_BASE ? va - KERNEL_BASE : virt_phys(kernel_pgd);
  task_set_aspace_switch(aspace_switch);
}

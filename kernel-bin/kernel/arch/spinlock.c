// SPDX-License-Identifier: Apache-2.0
//
// Test-and-set locks: no queue, because a waiter's CPU may be descheduled by the host for long, and a queue would then
// stop everybody behind it.
#include "arch/arch.h"

#ifdef DEBUG
static void rank_push(const struct spinlock *l) {
  struct cpu *c = this_cpu();
  if (c->lock_depth && l->rank <= c->lock_ranks[c->lock_depth - 1])
    panic("lock rank %u taken under %u, from %p", l->rank, c->lock_ranks[c->lock_depth - 1], __builtin_return_address(0));
  ASSERT(c->lock_depth < ARRAY_SIZE(c->lock_ranks));
  c->lock_ranks[c->lock_depth++] = l->rank;
}
static void rank_pop(const struct spinlock *l) {
  struct cpu *c = this_cpu();
  for (u32 i = c->lock_depth; i-- > 0;) {
    if (c->lock_ranks[i] != l->rank) continue;
    for (; i + 1 < c->lock_depth; i++) c->lock_ranks[i] = c->lock_ranks[i + 1];
    c->lock_depth--;
    return;
  }
  panic("unlock of rank %u that this CPU does not hold", l->rank);
}
#else
static inline void rank_push(const struct spinlock *l) {}
static inline void rank_pop(const struct spinlock *l) {}
#endif

static inline void preempt_disable(void) {
  __asm__ volatile("incl %%gs:%c0" ::"i"(offsetof(struct cpu, preempt_off)) : "memory", "cc");
}
static inline void preempt_enable(void) {
  __asm__ volatile("decl %%gs:%c0" ::"i"(offsetof(struct cpu, preempt_off)) : "memory", "cc");
}

static void acquire(struct spinlock *l) {
  while (__atomic_exchange_n(&l->locked, 1, __ATOMIC_ACQUIRE))
    while (__atomic_load_n(&l->locked, __ATOMIC_RELAXED)) cpu_relax();
}

void spin_lock(struct spinlock *l) {
  preempt_disable();
  acquire(l);
  rank_push(l);
}

// Its rank counts like any other: no code needs to try out of order.
bool spin_trylock(struct spinlock *l) {
  preempt_disable();
  if (!__atomic_exchange_n(&l->locked, 1, __ATOMIC_ACQUIRE)) {
    rank_push(l);
    return true;
  }
  preempt_enable();
  return false;
}

void spin_unlock(struct spinlock *l) {
  rank_pop(l);
  __atomic_store_n(&l->locked, 0, __ATOMIC_RELEASE);
  preempt_enable();
}

u64 spin_lock_irqsave(struct spinlock *l) {
  u64 flags = irq_save();
  spin_lock(l);
  return flags;
}

void spin_unlock_irqrestore(struct spinlock *l, u64 flags) {
  spin_unlock(l);
  irq_restore(flags);
}

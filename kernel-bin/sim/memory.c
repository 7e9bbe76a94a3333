// SPDX-License-Identifier: Apache-2.0
//
// Page states and nested page tables: one tree stands for the TDX module's secure EPT (private half) and for KVM's
// shared EPT (the half with the shared bit). A private page is free, pending, mapped or blocked at 4 KiB or 2 MiB; a
// page that is not mapped keeps its state in bits that the CPU ignores in an absent entry. Private pages are backed at
// X + td.offset, shared ones at X. Under memory_lock; whoever takes something away then waits until no vCPU can use a
// stale translation: a run of a vCPU ends with a full flush, so the ones inside are kicked by an NMI.
#include "sim/sim.h"

#define P 1ul
#define LEAF_FLAGS 0x67ul // present, writable, user (nested walks are user accesses), accessed, dirty
#define TABLE_FLAGS 0x67ul
#define PS BIT(7)
#define STATE_SHIFT 8
#define STATE_MASK (7ul << STATE_SHIFT)
#define ADDR_MASK 0x000ffffffffff000ul
#define LEVEL_4K 0u
#define LEVEL_2M 1u

u64 npt_root;
static struct spinlock memory_lock;

bool gpa_is_ram(u64 gpa, u64 size) {
  return (gpa < td.low_end && size <= td.low_end - gpa) || (gpa >= 4 * GIB && gpa < td.high_end && size <= td.high_end - gpa);
}
bool gpa_is_private_memory(u64 gpa) { return gpa_is_ram(gpa, 1) || (gpa >= td.image_base && gpa < 4 * GIB); }
u64 private_hpa(u64 gpa) { return gpa + td.offset; }

static u64 *table_of(u64 entry) { return PHYS(entry & ADDR_MASK); }
static bool is_table(u64 e, u32 level) { return level && (e & P) && !(e & PS); }
static enum page_state state_of(u64 e) { return e & P ? PAGE_MAPPED : (enum page_state)((e & STATE_MASK) >> STATE_SHIFT); }
static u64 make(enum page_state s, u32 level, u64 hpa) {
  u64 e = hpa | (level ? PS : 0);
  return s == PAGE_FREE ? 0 : s == PAGE_MAPPED ? e | LEAF_FLAGS : e | (u64)s << STATE_SHIFT;
}

// Down to `want`, or to the leaf or free entry above it. With `create`, tables are made and larger leaves split (the
// module's PAGE.DEMOTE: the parts keep the state).
static u64 *walk(u64 gpa, u32 want, bool create, u32 *level) {
  u32 l = td.gpaw == 52 ? 4 : 3;
  if (!npt_root) npt_root = virt_to_phys(pages_alloc(1));
  u64 *e = (u64 *)PHYS(npt_root) + (gpa >> (12 + 9 * l) & 511);
  while (l > want) {
    if (!is_table(*e, l)) {
      if (!create) break;
      u64 *t = pages_alloc(1), old = *e;
      if (old)
        for (u64 i = 0; i < 512; i++) t[i] = (old & ~(l == 1 ? PS : 0ul)) + (i << (12 + 9 * (l - 1)));
      WRITE_ONCE(*e, virt_to_phys(t) | TABLE_FLAGS);
    }
    e = table_of(*e) + (gpa >> (12 + 9 * --l) & 511);
  }
  *level = l;
  return e;
}

enum page_state sept_get(u64 gpa, u32 *level) {
  u64 *e = walk(gpa, LEVEL_4K, false, level);
  return state_of(*e);
}

// A table with nothing in it: 2 MiB that were split and then taken away as a whole.
static bool table_is_empty(const u64 *t) {
  for (u32 i = 0; i < 512; i++)
    if (t[i]) return false;
  return true;
}

void sept_add_4k(u64 gpa) {
  u32 level;
  *walk(gpa, LEVEL_4K, true, &level) = make(PAGE_MAPPED, LEVEL_4K, private_hpa(gpa));
}

// Waits until every vCPU that was running has left its run.
static void kick_others(struct vcpu *v) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  for (u32 i = 0; i < td.num_vcpus; i++) {
    struct vcpu *o = &vcpus[i];
    u64 run = __atomic_load_n(&o->counters[SVM_EXITS], __ATOMIC_SEQ_CST);
    if (o == v || !__atomic_load_n(&o->in_guest, __ATOMIC_SEQ_CST)) continue;
    host_send_nmi(i);
    count(v, MODULE_KICK);
    while (__atomic_load_n(&o->in_guest, __ATOMIC_SEQ_CST) && READ_ONCE(o->counters[SVM_EXITS]) == run) cpu_relax();
  }
}

// PAGE.AUG by the VMM: the whole 2 MiB where nothing is there yet and all of it is RAM, else the one page.
static void augment(struct vcpu *v, u64 gpa, u32 want) {
  u32 level;
  u64 base = ALIGN_DOWN(gpa, PAGE2M);
  if (want && td.aug_level && !lie(v, LIE_SMALL_PAGES) && gpa_is_ram(base, PAGE2M)) {
    u64 *e = walk(base, LEVEL_2M, true, &level);
    u32 shared_level;
    u64 *s = walk(base | td.shared_bit, LEVEL_2M, false, &shared_level);
    bool nothing_shared = !*s || (is_table(*s, shared_level) && table_is_empty(table_of(*s)));
    if (nothing_shared && (!*e || (is_table(*e, LEVEL_2M) && table_is_empty(table_of(*e))))) {
      WRITE_ONCE(*e, make(PAGE_PENDING, LEVEL_2M, private_hpa(base)));
      return;
    }
  }
  u64 *e = walk(gpa, LEVEL_4K, true, &level);
  if (!*e) WRITE_ONCE(*e, make(PAGE_PENDING, LEVEL_4K, private_hpa(ALIGN_DOWN(gpa, PAGE))));
}

static bool is_shared_now(u64 gpa) {
  u32 level;
  return *walk(gpa | td.shared_bit, LEVEL_4K, false, &level) & P;
}
bool shared_is_mapped(u64 gpa) { return gpa_is_ram(gpa & ~td.shared_bit, 1) && is_shared_now(gpa); }

// MapGPA of a checked range of RAM. To shared: the private pages are taken away, and their content is gone.
int memory_map_gpa(struct vcpu *v, u64 gpa, u64 size, bool shared) {
  u32 level;
  bool removed = false;
  u64 zero_from = ~0ul, zero_to = 0; // what the TD had written to: accepted again it is zero
  spin_lock(&memory_lock);
  for (u64 at = gpa; at < gpa + size;) {
    u64 step = IS_ALIGNED(at, PAGE2M) && gpa + size - at >= PAGE2M ? PAGE2M : PAGE;
    u32 want = step == PAGE2M ? LEVEL_2M : LEVEL_4K;
    u64 *e = walk(at, want, true, &level);
    u64 *s = walk(at | td.shared_bit, want, true, &level);
    if (shared) {
      if (*e) {
        removed = true;
        for (u64 p = at; p < at + step; p += PAGE) {
          u32 l;
          if (sept_get(p, &l) != PAGE_MAPPED) continue;
          zero_from = MIN(zero_from, p);
          zero_to = p + PAGE;
        }
        WRITE_ONCE(*e, 0);
      }
      WRITE_ONCE(*s, make(PAGE_MAPPED, want, at));
    } else if (*s) {
      removed = true;
      WRITE_ONCE(*s, 0);
    }
    at += step;
  }
  if (removed) kick_others(v);
  if (zero_to) memset(PHYS(private_hpa(zero_from)), 0, zero_to - zero_from);
  spin_unlock(&memory_lock);
  return 0;
}

// TDG.MEM.PAGE.ACCEPT on a checked GPA. What was never mapped is zero already: QEMU's memory starts so, and pages are
// zeroed when they are taken away.
u64 memory_accept(struct vcpu *v, u64 gpa, u32 level) {
  u32 at;
  u64 status = TDX_SUCCESS;
  spin_lock(&memory_lock);
  u64 *e = walk(gpa, level, false, &at);
  if (at > level && (*e & P)) {
    status = TDX_PAGE_ALREADY_ACCEPTED | at;
  } else if (at == level && is_table(*e, at)) {
    status = TDX_PAGE_SIZE_MISMATCH | at;
  } else if (at == level && (*e & P)) {
    status = TDX_PAGE_ALREADY_ACCEPTED | at;
  } else if (at == level && state_of(*e) == PAGE_PENDING) {
    WRITE_ONCE(*e, make(PAGE_MAPPED, level, private_hpa(gpa)));
    count(v, level ? MODULE_ACCEPT_2M : MODULE_ACCEPT_4K);
  } else { // free, blocked, or pending in a larger page: an EPT violation for the VMM, then the instruction runs again
    count(v, EXIT_EPT);
    if (!gpa_is_private_memory(gpa)) td_stop("TDG.MEM.PAGE.ACCEPT of GPA %#lx, where no memory is", gpa);
    if (is_shared_now(gpa)) td_stop("TDG.MEM.PAGE.ACCEPT of GPA %#lx, which is shared", gpa);
    if (state_of(*e) == PAGE_PENDING) walk(gpa, level, true, &at);
    else if (state_of(*e) == PAGE_BLOCKED) WRITE_ONCE(*e, make(PAGE_MAPPED, at, *e & ADDR_MASK));
    else augment(v, gpa, level);
    status = TDX_RETRY_LATER;
  }
  spin_unlock(&memory_lock);
  return status;
}

// The VMM's answer to an access that found no mapping: true when the TD can go on.
static bool resolve_private(struct vcpu *v, u64 gpa, bool can_ve) {
  u32 level;
  if (!gpa_is_private_memory(gpa)) td_stop("private access to GPA %#lx, where no memory is, at RIP %#lx", gpa, v->vmcb->rip);
  spin_lock(&memory_lock);
  u64 *e = walk(gpa, LEVEL_4K, false, &level);
  enum page_state s = state_of(*e);
  if (s == PAGE_FREE) {
    count(v, EXIT_EPT);
    if (is_shared_now(gpa)) td_stop("private access to GPA %#lx, which is shared, at RIP %#lx", gpa, v->vmcb->rip);
    augment(v, gpa, LEVEL_2M);
    s = PAGE_PENDING;
  } else if (s == PAGE_BLOCKED) {
    count(v, EXIT_EPT);
    WRITE_ONCE(*e, make(PAGE_MAPPED, level, *e & ADDR_MASK));
    s = PAGE_MAPPED;
  }
  spin_unlock(&memory_lock);
  if (s == PAGE_MAPPED) return true;
  if (can_ve && !(td.attributes & BIT(28))) return false;
  td_stop("access to GPA %#lx, which the TD has not accepted, at RIP %#lx", gpa, v->vmcb->rip);
}

// The host at work behind the TD's back. Blocked: the next access is an EPT violation and then goes on. Removed: it is
// given back pending, and the TD must never take zeroes for what it had stored.
void memory_block(struct vcpu *v, bool remove) {
  for (u32 tries = 0; tries < 64; tries++) {
    u32 level;
    u64 gpa = ALIGN_DOWN(hostile_random(v) % td.memory_bytes, PAGE);
    if (gpa >= td.low_end) gpa += 4 * GIB - td.low_end;
    spin_lock(&memory_lock);
    u64 *e = walk(gpa, LEVEL_4K, false, &level);
    bool hit = *e & P;
    if (hit) {
      u64 hpa = *e & ADDR_MASK;
      WRITE_ONCE(*e, remove ? 0 : make(PAGE_BLOCKED, level, hpa));
      kick_others(v);
      if (remove) memset(PHYS(hpa), 0, level ? PAGE2M : PAGE);
    }
    spin_unlock(&memory_lock);
    if (hit) return;
  }
}

void memory_take(struct vcpu *v, u64 linear) {
  u64 gpa;
  u32 level;
  if (!td_translate(v, linear, &gpa)) return;
  spin_lock(&memory_lock);
  WRITE_ONCE(*walk(gpa, LEVEL_4K, true, &level), 0);
  kick_others(v);
  memset(PHYS(private_hpa(ALIGN_DOWN(gpa, PAGE))), 0, PAGE);
  spin_unlock(&memory_lock);
  say("sim.taken=%#lx", gpa);
}

u64 memory_next_shared(u64 gpa) {
  u32 level;
  while (gpa < td.high_end) {
    if (gpa >= td.low_end && gpa < 4 * GIB) {
      gpa = 4 * GIB;
      continue;
    }
    u64 e = *walk(gpa | td.shared_bit, LEVEL_4K, false, &level);
    if (e & P) return gpa;
    gpa = ALIGN_DOWN(gpa, PAGE) + PAGE;
    if (level) gpa = ALIGN_UP(gpa, 1ul << (12 + 9 * level));
  }
  return 0;
}

u64 memory_random_shared(struct vcpu *v) {
  u64 gpa = memory_next_shared(hostile_random(v) % td.low_end);
  if (!gpa) gpa = memory_next_shared(PAGE);
  for (u64 steps = hostile_random(v) % 64; gpa && steps; steps--) {
    u64 next = memory_next_shared(gpa + PAGE);
    if (!next) break;
    gpa = next;
  }
  return gpa;
}

bool memory_private_ready(struct vcpu *v, u64 gpa) {
  u32 level;
  if (sept_get(gpa, &level) == PAGE_MAPPED) return true;
  if (resolve_private(v, gpa, true)) return true;
  inject_ve(v, 48, BIT(1), 0, gpa, 4, 0);
  return false;
}

// A nested page fault. SVM gives no guest-linear address and no instruction (decode.c).
void memory_violation(struct vcpu *v) {
  u64 gpa = v->vmcb->exit_info2, code = v->vmcb->exit_info1;
  bool fetch = code & BIT(4), walk_access = code & BIT(33);
  u64 qualification = (code & 2 ? BIT(1) : fetch ? BIT(2) : BIT(0));
  bool delivering = v->vmcb->exit_int_info & BIT(31);
  if (!(gpa & td.shared_bit)) {
    if (resolve_private(v, gpa, !delivering)) return;
  } else if (gpa_is_ram(gpa & ~td.shared_bit, 1)) {
    if (is_shared_now(gpa)) return; // another vCPU has just converted it
    td_stop("shared access to GPA %#lx without MapGPA, at RIP %#lx", gpa & ~td.shared_bit, v->vmcb->rip);
  }
  if (delivering) td_stop("EPT violation at GPA %#lx while an exception is delivered, RIP %#lx", gpa, v->vmcb->rip);
  count(v, VE_EPT);
  u64 gla = fetch ? v->vmcb->rip : walk_access ? 0 : decode_linear(v, gpa);
  if (gla) qualification |= BIT(7) | (walk_access ? 0 : BIT(8));
  inject_ve(v, 48, qualification, gla, gpa, 0, 0);
}

void *td_memory(u64 gpa, bool allow_shared) {
  u32 level;
  if (gpa & td.shared_bit) {
    if (!allow_shared || !shared_is_mapped(gpa)) return NULL;
    return PHYS(gpa & ~td.shared_bit);
  }
  if (gpa >= td.shared_bit) return NULL;
  enum page_state s = sept_get(gpa, &level); // a blocked page is mapped again at the next access
  return s == PAGE_MAPPED || s == PAGE_BLOCKED ? PHYS(private_hpa(gpa)) : NULL;
}

// The TD's page tables by hand (SVM tells no instruction bytes): false where the walk ends.
bool td_translate(struct vcpu *v, u64 linear, u64 *gpa) {
  struct vmcb *m = v->vmcb;
  if (!(m->cr0 & BIT(31))) {
    *gpa = (u32)linear;
    return true;
  }
  bool wide = m->efer & BIT(10);
  u32 l = wide ? (m->cr4 & BIT(12) ? 4 : 3) : 2;
  u64 table = m->cr3 & ADDR_MASK;
  if (!wide) return false; // 32-bit paging: no TDCALL, and nobody else asks
  for (;; l--) {
    u64 *t = td_memory(table, true);
    if (!t) return false;
    u64 e = t[linear >> (12 + 9 * l) & 511];
    if (!(e & P)) return false;
    u64 mask = (1ul << (12 + 9 * l)) - 1;
    if (l == 0 || (l < 3 && (e & PS))) {
      *gpa = (e & ADDR_MASK & ~mask) | (linear & mask);
      return true;
    }
    table = e & ADDR_MASK;
  }
}

// False: the page is not there (any more); running the instruction again says why.
bool td_fetch(struct vcpu *v, u64 linear, void *buf, u32 n) {
  for (u32 done = 0; done < n;) {
    u64 gpa;
    if (!td_translate(v, linear + done, &gpa)) return false;
    u8 *p = td_memory(ALIGN_DOWN(gpa, PAGE), true);
    if (!p) return false;
    u32 part = (u32)MIN((u64)(n - done), PAGE - (gpa & (PAGE - 1)));
    memcpy((u8 *)buf + done, p + (gpa & (PAGE - 1)), part);
    done += part;
  }
  return true;
}

// SPDX-License-Identifier: Apache-2.0
//
// Page faults: demand paging, copy-on-write, fault-around, stack growth. sem is held for read while an area is looked
// at; whatever may wait (bringing a page in, memory pressure) happens with it dropped, and then everything is looked up
// again. Entries change under pt_lock, and only if they are still what the decision was based on.
#include "mm/internal.h"

phys_t zero_page_phys;
struct mm_hooks mm_hooks;
static void (*fault_signal)(struct regs *r, const struct fault_info *fi);

#define FAULT_AROUND 16
enum { RETRY = 1, BRING = 2 };
enum { K_SIGBUS = 7, K_SIGSEGV = 11, K_MAPERR = 1, K_ACCERR = 2, K_ADRERR = 2 }; // si_signo, si_code

struct fault {
  struct aspace *as;
  struct vma *vma;
  uptr addr; // of the page
  bool write;
  // What was brought in with sem dropped: referenced
  struct page *got;
  struct memobj *obj;
  u64 index;
};

static u64 obj_index(const struct vma *v, uptr addr) { return v->pgoff + ((addr - v->start) >> PAGE_SHIFT); }
static bool still_in(const struct page *p, const struct memobj *o) { return READ_ONCE(p->cache.obj) == o; }

static void count_in(struct aspace *as, u64 e, u64 n) { // pt_lock held
  as->rss_pages += n;
  if (!(e & MM_ANON)) as->shared_rss_pages += n;
  if (as->rss_pages > as->rss_peak_pages) as->rss_peak_pages = as->rss_pages;
}

// Puts `e` at f->addr if nothing is there. The entry takes over the caller's reference of the page.
static int install(struct fault *f, u64 e) {
  int err = 0;
  spin_lock(&f->as->pt_lock);
  u64 *slot = pt_slot1(f->as, f->addr, true);
  if (!slot) {
    u64 *above = pt_slot2(f->as, f->addr, false);
    err = above && pte_huge(*above) ? RETRY : -ENOMEM;
  } else if (*slot) {
    err = RETRY;
  } else {
    WRITE_ONCE(*slot, e);
    if ((e & PTE_ADDR) != zero_page_phys) count_in(f->as, e, 1);
  }
  spin_unlock(&f->as->pt_lock);
  return err;
}

static u64 anon_entry(const struct vma *v, const struct page *p) { return page_phys(p) | MM_ANON | pt_bits(v->flags, true); }

// --- private anonymous memory
static bool huge_fits(const struct vma *v, uptr addr) {
  uptr start = ALIGN_DOWN(addr, HUGE_SIZE);
  if (start < v->start || start + HUGE_SIZE > v->end || (v->flags & (VMA_NOHUGE | VMA_GROWSDOWN))) return false;
  if (v->flags & VMA_HUGE) return true;
  // Unasked only where it can hardly hurt: large areas, and plenty of memory.
  return v->end - v->start >= 2 * HUGE_SIZE && page_free_count() > page_total_count() / 3;
}

static int install_huge(struct fault *f) {
  struct page *p = page_alloc(9, ALLOC_ZERO | ALLOC_NORECLAIM | ALLOC_USER);
  if (!p) return -ENOMEM;
  p->anon.mapcount = 1; // a whole block (pt.c)
  int err = 0;
  spin_lock(&f->as->pt_lock);
  u64 *slot = pt_slot2(f->as, f->addr, true);
  if (slot && !*slot) {
    u64 e = anon_entry(f->vma, p) | PTE_PS;
    WRITE_ONCE(*slot, e);
    count_in(f->as, e, 512);
  } else {
    err = slot ? RETRY : -ENOMEM;
  }
  spin_unlock(&f->as->pt_lock);
  if (err) page_huge_put(p);
  return err;
}

static int fault_anon(struct fault *f) {
  struct vma *v = f->vma;
  // The zero page saves memory for those who only look, but replacing it costs a shootdown when several CPUs use the space.
  if (!f->write && !(READ_ONCE(f->as->cpumask[0]) & ~BIT(this_cpu()->id))) return install(f, zero_page_phys | pt_bits(v->flags, false));
  if (huge_fits(v, f->addr)) {
    spin_lock(&f->as->pt_lock);
    u64 *slot = pt_slot2(f->as, f->addr, false);
    bool empty = !slot || !*slot;
    spin_unlock(&f->as->pt_lock);
    int err = empty ? install_huge(f) : -ENOMEM;
    if (err != -ENOMEM) return err;
  }
  struct page *p = page_alloc(0, ALLOC_ZERO | ALLOC_NORECLAIM | ALLOC_USER);
  if (!p) return -ENOMEM;
  int err = install(f, anon_entry(v, p));
  if (err) page_put(p);
  return err;
}

// --- areas that map an object
// Maps what is already there of the FAULT_AROUND pages around the fault. True: the wanted one too.
static bool fault_around(struct fault *f, u64 bits) {
  struct vma *v = f->vma;
  struct page *pages[FAULT_AROUND];
  uptr first = MAX(ALIGN_DOWN(f->addr, FAULT_AROUND * PAGE_SIZE), v->start);
  uptr end = MIN(ALIGN_DOWN(f->addr, FAULT_AROUND * PAGE_SIZE) + FAULT_AROUND * PAGE_SIZE, v->end);
  unsigned n = (unsigned)((end - first) >> PAGE_SHIFT);
  memset(pages, 0, sizeof(pages));
  v->obj->ops->peek_pages(v->obj, obj_index(v, first), n, pages);
  unsigned wanted = (unsigned)((f->addr - first) >> PAGE_SHIFT);
  bool done = false;
  if (pages[wanted]) {
    spin_lock(&f->as->pt_lock);
    u64 *slots = pt_slot1(f->as, first, true);
    for (unsigned i = 0; slots && i < n; i++) {
      struct page *p = pages[i];
      if (!p || slots[i] || !still_in(p, v->obj)) continue;
      WRITE_ONCE(slots[i], page_phys(p) | (i == wanted ? bits : bits & ~PTE_A));
      count_in(f->as, 0, 1);
      pages[i] = NULL;
      if (i == wanted) done = true;
    }
    spin_unlock(&f->as->pt_lock);
  }
  for (unsigned i = 0; i < n; i++)
    if (pages[i]) page_put(pages[i]);
  return done;
}

static bool have_page(const struct fault *f) { return f->got && f->obj == f->vma->obj && f->index == obj_index(f->vma, f->addr); }

// A page of the object as it is, shared with others. Writable in the page table only after set_dirty's owner let it be
// (get_page with write); objects without set_dirty do not care.
static int fault_object(struct fault *f) {
  struct vma *v = f->vma;
  struct memobj *o = v->obj;
  bool writable = (v->flags & VMA_SHARED) && (f->write || !o->ops->set_dirty);
  bool must_tell = f->write && o->ops->set_dirty;
  if (!have_page(f)) {
    if (!must_tell && fault_around(f, pt_bits(v->flags, writable))) return 0;
    return BRING;
  }
  struct page *p = f->got, *old = NULL;
  int err = 0;
  spin_lock(&f->as->pt_lock);
  u64 *slot = pt_slot1(f->as, f->addr, true);
  if (!slot) {
    err = -ENOMEM;
  } else if (!still_in(p, o)) { // truncated meanwhile; memobj_unmap may have been here already
    f->index = ~0ull; // no longer an answer
    err = RETRY;
  } else if (must_tell && page_test(p, PG_WRITEBACK) && !page_test(p, PG_DIRTY)) {
    f->index = ~0ull; // its mark was taken since, and its write-protecting may be over: let it be marked again
    err = RETRY;
  } else if (*slot && !(f->write && (v->flags & VMA_SHARED))) { // another thread was faster; it may even have made a private copy
    err = RETRY;
  } else {
    u64 e = *slot;
    if (e) old = pte_page(e); // read-only until now; where a hole was filled since, another page
    else count_in(f->as, 0, 1);
    WRITE_ONCE(*slot, page_phys(p) | pt_bits(v->flags, writable));
    if (old == p) old = NULL; // the entry has its reference
    else page_get(p);
  }
  spin_unlock(&f->as->pt_lock);
  if (old) {
    tlb_flush_range(f->as, f->addr, f->addr + PAGE_SIZE);
    page_put(old);
  }
  // After the entry became writable: a write-back that cleared the mark before is told again (see mm.h).
  if (!err && must_tell) o->ops->set_dirty(o, p);
  return err;
}

// --- copy-on-write: `was` maps f->addr read-only; 0: nothing does, and the contents come from the object
static int fault_copy(struct fault *f, u64 was) {
  struct vma *v = f->vma;
  struct page *from = was ? pte_page(was) : NULL, *peeked = NULL;
  if (!was) {
    if (have_page(f)) {
      from = f->got;
    } else {
      v->obj->ops->peek_pages(v->obj, obj_index(v, f->addr), 1, &peeked);
      if (!peeked) return BRING;
      from = peeked;
    }
  }
  bool zero = was && (was & PTE_ADDR) == zero_page_phys;
  struct page *p = page_alloc(0, ALLOC_NORECLAIM | ALLOC_USER | (zero ? ALLOC_ZERO : 0));
  int err = -ENOMEM;
  bool replaced = false;
  if (p) {
    err = RETRY;
    if (!was) memcpy(page_virt(p), page_virt(from), PAGE_SIZE); // ours to read: referenced
    spin_lock(&f->as->pt_lock);
    u64 *slot = pt_slot1(f->as, f->addr, true);
    if (!slot) {
      err = -ENOMEM;
    } else if ((*slot & ~(PTE_A | PTE_D)) == (was & ~(PTE_A | PTE_D))) {
      // Under the lock the entry keeps `from` alive. Nobody writes to it through this space: it is read-only here.
      if (was && !zero) memcpy(page_virt(p), page_virt(from), PAGE_SIZE);
      u64 e = anon_entry(v, p);
      WRITE_ONCE(*slot, e);
      replaced = was != 0;
      if (!was || zero) count_in(f->as, e, 1);
      else if (!(was & MM_ANON)) f->as->shared_rss_pages--;
      err = 0;
    }
    spin_unlock(&f->as->pt_lock);
    if (err) page_put(p);
  }
  // Other threads must stop reading the old page before this one goes on.
  if (replaced) tlb_flush_range(f->as, f->addr, f->addr + PAGE_SIZE);
  if (replaced && !zero) page_put(from);
  if (peeked) page_put(peeked);
  return err;
}

// sem held for read, rights checked. 0, RETRY, BRING, -ENOMEM.
static int fault_locked(struct fault *f) {
  struct vma *v = f->vma;
  bool shared = (v->flags & VMA_SHARED) != 0;
  spin_lock(&f->as->pt_lock);
  u64 e = pt_entry(f->as, f->addr);
  if (e & PTE_P) {
    int err = 0;
    bool done = true;
    if (!f->write || (e & PTE_W)) { // another thread was faster, or this CPU remembered an older entry
      tlb_flush_page(f->addr);
    } else if (e & PTE_PS) {
      if (page_huge_exclusive(pte_page(e))) __atomic_fetch_or(pt_slot2(f->as, f->addr, false), PTE_W | PTE_D, __ATOMIC_SEQ_CST);
      else err = pt_split_huge(f->as, f->addr) ? -ENOMEM : RETRY;
    } else if ((e & MM_ANON) && ref_read(&pte_page(e)->refs) == 1) { // ours alone: references are only added by this space
      __atomic_fetch_or(pt_slot1(f->as, f->addr, false), PTE_W | PTE_D, __ATOMIC_SEQ_CST);
    } else {
      done = false;
    }
    spin_unlock(&f->as->pt_lock);
    if (done) return err;
    return shared ? fault_object(f) : fault_copy(f, e);
  }
  spin_unlock(&f->as->pt_lock);
  if (!v->obj) return fault_anon(f);
  return f->write && !shared ? fault_copy(f, 0) : fault_object(f);
}

int stack_grow(struct aspace *as, uptr addr) {
  struct vma *v = vma_find(as, addr);
  if (!v) return -EFAULT;
  if (v->start <= addr) return 0;
  uptr start = addr & PAGE_MASK;
  if (!(v->flags & VMA_GROWSDOWN) || v->end - start > as->stack_limit_bytes) return -EFAULT;
  if (v->obj && (v->start - start) >> PAGE_SHIFT > v->pgoff) return -EFAULT; // before the file's first page: memobj_unmap would not find it
  if (((as->total_pages << PAGE_SHIFT) + (v->start - start)) > as->as_limit_bytes) return -EFAULT;
  struct vma *below = vma_prev(v);
  if (below) {
    bool accessible = (below->flags & (VMA_READ | VMA_WRITE | VMA_EXEC)) != 0 && !(below->flags & VMA_GROWSDOWN);
    if (below->end + (accessible ? STACK_GUARD_BYTES : 0) > start) return -EFAULT;
  }
  vma_resize(v, start, v->end);
  return 0;
}

static int refuse(struct fault_info *fi, int signo, int code, uptr addr) {
  if (fi) *fi = (struct fault_info){ .signo = signo, .code = code, .addr = addr };
  return -EFAULT;
}

int aspace_fault(struct aspace *as, uptr addr, u32 access, struct fault_info *fi) {
  struct fault f = { .as = as, .addr = addr & PAGE_MASK, .write = access == FAULT_WRITE };
  u32 need = access == FAULT_READ ? VMA_READ | VMA_WRITE | VMA_EXEC : access; // x86: what is mapped can be read
  unsigned starved = 0;
  int err;
  for (;;) {
    rwsem_read_lock(&as->sem);
    struct vma *v = vma_find(as, addr);
    if (!v || v->start > addr) {
      bool grow = v && (v->flags & VMA_GROWSDOWN);
      rwsem_read_unlock(&as->sem);
      err = refuse(fi, K_SIGSEGV, K_MAPERR, addr);
      if (!grow) break;
      rwsem_write_lock(&as->sem);
      int grown = stack_grow(as, addr);
      rwsem_write_unlock(&as->sem);
      if (grown) break;
      continue;
    }
    if (!(v->flags & need)) {
      rwsem_read_unlock(&as->sem);
      err = refuse(fi, K_SIGSEGV, K_ACCERR, addr);
      break;
    }
    f.vma = v;
    err = fault_locked(&f);
    struct memobj *obj = err == BRING ? memobj_get(v->obj) : NULL;
    u64 index = obj ? obj_index(v, f.addr) : 0;
    bool for_write = f.write && (v->flags & VMA_SHARED);
    rwsem_read_unlock(&as->sem);
    if (err == RETRY) continue;
    if (err == BRING) {
      if (f.got) page_put(f.got);
      if (f.obj) memobj_put(f.obj);
      f.got = NULL;
      f.obj = obj;
      f.index = index;
      err = obj->ops->get_page(obj, index, for_write, &f.got);
      if (!err) {
        if (mm_hooks.count_fault) mm_hooks.count_fault(true);
        continue;
      }
      f.got = NULL;
      if (err == -ERESTARTNOINTR) err = -ERESTARTSYS; // an object's wait for the host that a signal ended
      if (err != -ENOMEM && err != -ERESTARTSYS) err = refuse(fi, K_SIGBUS, K_ADRERR, addr);
    } else if (err == -ENOMEM && starved++ < 16 && reclaim_page()) { // without sem
      continue;
    }
    break;
  }
  if (f.got) page_put(f.got);
  if (f.obj) memobj_put(f.obj);
  return err;
}

// --- the hooks
static u32 access_of(u64 error) { return error & 2 ? FAULT_WRITE : error & 16 ? FAULT_EXEC : FAULT_READ; }

static void page_fault(struct regs *r, u64 addr, u64 error) {
  struct aspace *as = thread_current()->aspace;
  struct fault_info fi = { K_SIGSEGV, K_MAPERR, addr, (u32)error };
  if (error & 8) panic("reserved bit in a page table, address %#lx", addr);
  int err = addr < USER_END && as ? aspace_fault(as, addr, access_of(error), &fi) : -EFAULT;
  if (mm_hooks.count_fault && !err) mm_hooks.count_fault(false);
  fi.error = (u32)error; // aspace_fault does not know it
  if (err == -EFAULT) fault_signal(r, &fi);
  else if (err == -ENOMEM) mm_hooks.out_of_memory();
  // -ERESTARTSYS: a signal waits; the instruction is tried again after it.
}

// A system call touches a program's memory. A signal must not turn that into EFAULT: only one that kills ends the wait.
static bool user_fault_ok(struct regs *r, u64 addr, u64 error) {
  struct thread *t = thread_current();
  if (!t || !t->aspace || addr >= USER_END || this_cpu()->preempt_off || this_cpu()->irq_depth) return false;
  bool interrupted = false;
  int err;
  while ((err = aspace_fault(t->aspace, addr, access_of(error), NULL)) == -ERESTARTSYS) {
    interrupted = true;
    WRITE_ONCE(t->interrupt_pending, false); // set again below, or by the next signal meanwhile
    // After that: whoever kills says so first and interrupts then, so what was just cleared is seen here.
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (mm_hooks.fatal_pending()) break;
  }
  if (interrupted) WRITE_ONCE(t->interrupt_pending, true);
  if (err == -ENOMEM) mm_hooks.out_of_memory();
  if (!err && mm_hooks.count_fault) mm_hooks.count_fault(false);
  return !err;
}

void mm_set_fault_signal(void (*deliver)(struct regs *r, const struct fault_info *fi)) { fault_signal = deliver; }

void fault_init(void) {
  struct page *p = page_alloc(0, ALLOC_ZERO);
  if (!p) panic("no memory for the zero page");
  zero_page_phys = page_phys(p);
  arch_hooks.page_fault = page_fault;
  arch_hooks.user_fault_ok = user_fault_ok;
}

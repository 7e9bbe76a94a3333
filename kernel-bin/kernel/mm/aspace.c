// SPDX-License-Identifier: Apache-2.0
//
// Life of an address space: made empty at exec, copied at fork, destroyed with its last reference; and access to one
// that is not loaded.
#include "mm/internal.h"

struct aspace *aspace_create(void) {
  struct aspace *as = kzalloc(sizeof(*as));
  struct page *pgd = page_alloc(0, ALLOC_ZERO);
  if (!as || !pgd) {
    kfree(as);
    if (pgd) page_put(pgd);
    return NULL;
  }
  ref_init(&as->refs);
  rwsem_init(&as->sem, RANK_VM);
  spin_init(&as->pt_lock, RANK_PAGETABLE);
  as->pgd = page_virt(pgd);
  as->pgd_phys = page_phys(pgd);
  memcpy(&as->pgd[256], &kernel_pgd[256], 256 * sizeof(u64));
  as->pt_pages = 1;
  as->mmap_top = ALIGN_DOWN(USER_END - 64 * MIB, HUGE_SIZE); // until exec chooses
  as->brk_limit_bytes = as->stack_limit_bytes = as->as_limit_bytes = as->data_limit_bytes = ~0ull;
  as->gap_len = ~0ull;
  return as;
}

void aspace_put(struct aspace *as) {
  if (!ref_put(&as->refs)) return;
  // Whoever ran in it last may still have it loaded, this thread too.
  if (thread_current() && thread_current()->aspace == as) thread_current()->aspace = NULL;
  aspace_detach_cpus(as);
  struct list dead = LIST_INIT(dead);
  struct vma *v;
  while ((v = vma_first(as))) {
    vma_unlink(as, v); // from here on memobj_unmap does not come here through v
    list_push_back(&dead, &v->obj_link);
  }
  pt_destroy(as);
  page_put(page_of_virt(as->pgd));
  vma_release_list(&dead);
  if (as->exe_file) mm_hooks.file_put(as->exe_file);
  kfree(as);
}

static struct vma *vma_copy(const struct vma *v) {
  struct vma *c = vma_alloc();
  if (!c) return NULL;
  c->start = v->start;
  c->end = v->end;
  c->flags = v->flags & ~(u32)VMA_LOCKED;
  c->pgoff = v->pgoff;
  if (v->obj) c->obj = memobj_get(v->obj);
  if (v->file) mm_hooks.file_get(c->file = v->file);
  return c;
}

static int fork_once(struct aspace *from, struct aspace **out) {
  struct aspace *to = aspace_create();
  if (!to) return -ENOMEM;
  int err = 0;
  bool copied = false;
  rwsem_write_lock(&from->sem);
  to->brk_start = from->brk_start;
  to->brk = from->brk;
  to->mmap_top = from->mmap_top;
  to->stack_top = from->stack_top;
  to->brk_limit_bytes = from->brk_limit_bytes;
  to->stack_limit_bytes = from->stack_limit_bytes;
  to->as_limit_bytes = from->as_limit_bytes;
  to->data_limit_bytes = from->data_limit_bytes;
  to->arg_start = from->arg_start;
  to->arg_end = from->arg_end;
  to->env_start = from->env_start;
  to->env_end = from->env_end;
  to->start_code = from->start_code;
  to->end_code = from->end_code;
  to->start_data = from->start_data;
  to->end_data = from->end_data;
  to->vdso = from->vdso;
  memcpy(to->auxv, from->auxv, sizeof(to->auxv));
  to->auxv_len = from->auxv_len;
  if (from->exe_file) mm_hooks.file_get(to->exe_file = from->exe_file);
  for (struct vma *v = vma_first(from); v && !err; v = vma_next(v)) {
    if (v->flags & VMA_DONTFORK) continue;
    struct vma *c = vma_copy(v);
    if (!c) {
      err = -ENOMEM;
      break;
    }
    vma_link(to, c);
    if (v->flags & (VMA_SHARED | VMA_WIPEONFORK)) continue; // faults find shared pages in the object
    copied = true;
    err = pt_copy(to, from, v->start, v->end);
  }
  to->rss_peak_pages = to->rss_pages;
  // The parent's entries are read-only now; its other threads may still have writable ones cached.
  if (copied) tlb_flush_range(from, 0, USER_END);
  rwsem_write_unlock(&from->sem);
  if (err) {
    aspace_put(to);
    return err;
  }
  *out = to;
  return 0;
}

bool reclaim_page(void) {
  struct page *p = page_alloc(0, ALLOC_USER);
  if (p) page_put(p);
  return p != NULL;
}

// Takes so many pages, for which the cache of files makes room, and gives them back. False: there is none to make.
static bool make_room(u64 npages) {
  struct list taken = LIST_INIT(taken);
  struct page *p = NULL;
  for (; npages && !READ_ONCE(thread_current()->kill_pending) && (p = page_alloc(0, ALLOC_USER)); npages--) list_push_back(&taken, &p->link);
  while (!list_empty(&taken)) {
    p = list_first_entry(&taken, struct page, link);
    list_remove(&p->link);
    page_put(p);
  }
  return !npages;
}

// The child's tables are made under a spinlock, where nothing is reclaimed: a program whose files fill the memory could not
// fork, however much of the cache could go.
int aspace_fork(struct aspace *from, struct aspace **out) {
  for (unsigned tries = 0;; tries++) {
    int err = fork_once(from, out);
    if (err != -ENOMEM || tries == 4 || !make_room(READ_ONCE(from->pt_pages))) return err;
  }
}

int mm_get_user_page(struct aspace *as, uptr addr, bool write, struct page **out) {
  if (addr >= USER_END) return -EFAULT;
  for (;;) {
    struct page *p = NULL;
    rwsem_read_lock(&as->sem);
    struct vma *v = vma_find(as, addr);
    u32 need = write ? VMA_WRITE : VMA_READ | VMA_WRITE | VMA_EXEC;
    if (v && v->start <= addr && (v->flags & need)) {
      spin_lock(&as->pt_lock);
      u64 e = pt_entry(as, addr);
      if ((e & PTE_P) && (!write || (e & PTE_W))) {
        p = pte_page(e);
        if (e & PTE_PS) {
          page_huge_break(p);
          p += pt_index(addr, 1);
        }
        page_get(p);
      }
      spin_unlock(&as->pt_lock);
    }
    rwsem_read_unlock(&as->sem);
    if (p) {
      *out = p;
      return 0;
    }
    int err = aspace_fault(as, addr, write ? FAULT_WRITE : FAULT_READ, NULL);
    if (err) return err;
  }
}

// A store behind the page table's back: whoever writes pages back must hear of it as after a fault.
static void tell_dirty(struct aspace *as, uptr addr, struct page *p) {
  rwsem_read_lock(&as->sem);
  struct vma *v = vma_find(as, addr);
  if (v && v->start <= addr && (v->flags & VMA_SHARED) && v->obj && READ_ONCE(p->cache.obj) == v->obj && v->obj->ops->set_dirty)
    v->obj->ops->set_dirty(v->obj, p);
  rwsem_read_unlock(&as->sem);
}

long mm_access(struct aspace *as, uptr addr, void *buf, size_t len, bool write) {
  size_t done = 0;
  while (done < len) {
    struct page *p;
    int err = mm_get_user_page(as, addr + done, write, &p);
    if (err) return done ? (long)done : err;
    size_t off = (addr + done) % PAGE_SIZE, n = MIN(len - done, PAGE_SIZE - off);
    u8 *at = (u8 *)page_virt(p) + off;
    if (write) memcpy(at, (u8 *)buf + done, n);
    else memcpy((u8 *)buf + done, at, n);
    if (write) tell_dirty(as, addr + done, p);
    page_put(p);
    done += n;
  }
  return (long)done;
}

void mm_init(void) {
  vma_init();
  tlb_init();
  fault_init();
}

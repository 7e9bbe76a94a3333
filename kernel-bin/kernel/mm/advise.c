// SPDX-License-Identifier: Apache-2.0
//
// Hints and questions about ranges: madvise, msync, mincore, mlock, populate. These walk the areas of a range; a hole is
// ENOMEM at the end, after the rest was done, as on Linux.
#include "mm/internal.h"
#include <linux/mman.h>

// Fills [addr, addr + len) as far as its areas allow. access: FAULT_READ, FAULT_WRITE, or 0: whatever the area will need.
static int populate(struct aspace *as, uptr addr, u64 len, u32 access) {
  struct thread *t = thread_current();
  for (uptr at = addr, end = addr + len; at < end;) {
    rwsem_read_lock(&as->sem);
    struct vma *v = vma_find(as, at);
    u32 flags = v && v->start <= at ? v->flags : 0;
    uptr skip = at + PAGE_SIZE;
    u64 e = 0;
    if (v && v->start <= at) {
      spin_lock(&as->pt_lock);
      e = pt_entry(as, at);
      spin_unlock(&as->pt_lock);
      if (pte_huge(e)) skip = ALIGN_DOWN(at, HUGE_SIZE) + HUGE_SIZE;
      if (!access && !(flags & (VMA_READ | VMA_WRITE | VMA_EXEC))) skip = v->end;
    }
    rwsem_read_unlock(&as->sem);
    if (!v || v->start > at) return -ENOMEM;
    u32 want = access ? access : (flags & (VMA_WRITE | VMA_SHARED)) == VMA_WRITE ? FAULT_WRITE : FAULT_READ;
    bool there = (e & PTE_P) && (want == FAULT_READ || (e & PTE_W));
    if (!there && (flags & (VMA_READ | VMA_WRITE | VMA_EXEC))) {
      int err = aspace_fault(as, at, want, NULL);
      if (err) return err;
    } else if (!there && access) {
      return -EFAULT;
    }
    if (READ_ONCE(t->interrupt_pending)) return -ERESTARTSYS;
    sched_yield_if_needed();
    at = skip;
  }
  return 0;
}

int mm_populate(struct aspace *as, uptr addr, u64 len) { return populate(as, addr & PAGE_MASK, ALIGN_UP(len + addr % PAGE_SIZE, PAGE_SIZE), 0); }

// --- madvise
static int zap_range(struct aspace *as, uptr start, uptr end) { // sem held
  struct gather g;
  gather_begin(&g, as);
  int err = pt_zap(&g, start, end);
  gather_end(&g);
  return err;
}

static int advise_discard(struct aspace *as, uptr start, uptr end, bool free_only) {
  bool hole = false;
  int err = 0;
  rwsem_read_lock(&as->sem); // areas stay as they are: faults may go on beside
  for (uptr at = start; at < end && !err;) {
    struct vma *v = vma_find(as, at);
    if (!v || v->start >= end) {
      hole = true;
      break;
    }
    if (v->start > at) hole = true;
    if ((v->flags & VMA_LOCKED) || (free_only && v->obj)) err = -EINVAL;
    else err = zap_range(as, MAX(at, v->start), MIN(end, v->end));
    at = v->end;
  }
  rwsem_read_unlock(&as->sem);
  return err ? err : hole ? -ENOMEM : 0;
}

static int advise_flags(struct aspace *as, uptr start, uptr end, u32 set, u32 clear, bool anon_only) {
  bool hole = false;
  struct vma *v = NULL;
  rwsem_write_lock(&as->sem);
  int err = isolate_locked(as, start, end, &v);
  uptr at = start;
  while (!err && v && v->start < end) {
    if (v->start > at) hole = true;
    if (anon_only && (v->obj || v->file)) {
      err = -EINVAL;
      break;
    }
    vma_set_flags(v, (v->flags & ~clear) | set);
    v = vma_merge(v);
    at = v->end;
    v = vma_next(v);
  }
  if (v) vma_merge(v);
  rwsem_write_unlock(&as->sem);
  return err ? err : hole || at < end ? -ENOMEM : 0;
}

static int advise_remove(struct aspace *as, uptr start, uptr end) {
  for (uptr at = start; at < end;) {
    rwsem_read_lock(&as->sem);
    struct vma *v = vma_find(as, at);
    int err = !v || v->start > at ? -ENOMEM : !(v->flags & VMA_SHARED) ? -EINVAL : !(v->flags & VMA_WRITE) ? -EACCES : 0;
    if (err) {
      rwsem_read_unlock(&as->sem);
      return err;
    }
    uptr stop = MIN(end, v->end);
    u64 first = v->pgoff + ((at - v->start) >> PAGE_SHIFT), n = (stop - at) >> PAGE_SHIFT;
    struct memobj *o = memobj_get(v->obj);
    struct file *f = v->file;
    if (f) mm_hooks.file_get(f);
    rwsem_read_unlock(&as->sem);
    if (!memobj_anon_punch(o, first, n)) err = f ? mm_hooks.punch_hole(f, first << PAGE_SHIFT, n << PAGE_SHIFT) : -EINVAL;
    memobj_put(o);
    if (f) mm_hooks.file_put(f);
    if (err) return err;
    at = stop;
  }
  return 0;
}

static int check_mapped(struct aspace *as, uptr start, uptr end) {
  int err = 0;
  rwsem_read_lock(&as->sem);
  for (uptr at = start; at < end && !err;) {
    struct vma *v = vma_find(as, at);
    if (!v || v->start > at) err = -ENOMEM;
    else at = v->end;
  }
  rwsem_read_unlock(&as->sem);
  return err;
}

int mm_madvise(struct aspace *as, uptr addr, u64 len, int advice) {
  if (addr % PAGE_SIZE) return -EINVAL;
  u64 aligned = ALIGN_UP(len, PAGE_SIZE);
  if (aligned < len || !user_range_ok(addr, aligned)) return -EINVAL;
  uptr end = addr + aligned;
  bool nothing = !aligned;
  switch (advice) {
    case MADV_NORMAL: case MADV_RANDOM: case MADV_SEQUENTIAL: case MADV_WILLNEED: case MADV_COLD: case MADV_PAGEOUT:
      return check_mapped(as, addr, end);
    case MADV_DONTNEED: return nothing ? 0 : advise_discard(as, addr, end, false);
    case MADV_FREE: return nothing ? 0 : advise_discard(as, addr, end, true); // freed at once, as memory pressure would
    case MADV_REMOVE: return advise_remove(as, addr, end);
    case MADV_HUGEPAGE: return nothing ? 0 : advise_flags(as, addr, end, VMA_HUGE, VMA_NOHUGE, false);
    case MADV_NOHUGEPAGE: return nothing ? 0 : advise_flags(as, addr, end, VMA_NOHUGE, VMA_HUGE, false);
    case MADV_DONTFORK: return nothing ? 0 : advise_flags(as, addr, end, VMA_DONTFORK, 0, false);
    case MADV_DOFORK: return nothing ? 0 : advise_flags(as, addr, end, 0, VMA_DONTFORK, false);
    case MADV_WIPEONFORK: return nothing ? 0 : advise_flags(as, addr, end, VMA_WIPEONFORK, 0, true);
    case MADV_KEEPONFORK: return nothing ? 0 : advise_flags(as, addr, end, 0, VMA_WIPEONFORK, false);
    case MADV_DONTDUMP: return nothing ? 0 : advise_flags(as, addr, end, VMA_DONTDUMP, 0, false);
    case MADV_DODUMP: return nothing ? 0 : advise_flags(as, addr, end, 0, VMA_DONTDUMP, false);
    case MADV_POPULATE_READ: return populate(as, addr, aligned, FAULT_READ);
    case MADV_POPULATE_WRITE: return populate(as, addr, aligned, FAULT_WRITE);
    default: return -EINVAL;
  }
}

// --- msync, mincore, mlock
int mm_msync(struct aspace *as, uptr addr, u64 len, int flags, int (*sync)(struct file *f, u64 off, u64 len)) {
  len = ALIGN_UP(len, PAGE_SIZE);
  if (addr % PAGE_SIZE || (flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) || (flags & (MS_ASYNC | MS_SYNC)) == (MS_ASYNC | MS_SYNC)) return -EINVAL;
  if (!user_range_ok(addr, len)) return -ENOMEM;
  bool hole = false;
  for (uptr at = addr, end = addr + len; at < end;) {
    rwsem_read_lock(&as->sem);
    struct vma *v = vma_find(as, at);
    if (!v || v->start >= end) {
      rwsem_read_unlock(&as->sem);
      return -ENOMEM;
    }
    if (v->start > at) hole = true;
    if ((flags & MS_INVALIDATE) && (v->flags & VMA_LOCKED)) {
      rwsem_read_unlock(&as->sem);
      return -EBUSY;
    }
    uptr from = MAX(at, v->start), stop = MIN(end, v->end);
    struct file *f = (flags & MS_SYNC) && (v->flags & VMA_SHARED) ? v->file : NULL;
    u64 off = (v->pgoff << PAGE_SHIFT) + (from - v->start);
    if (f) mm_hooks.file_get(f);
    rwsem_read_unlock(&as->sem);
    int err = f ? sync(f, off, stop - from) : 0;
    if (f) mm_hooks.file_put(f);
    if (err) return err;
    at = stop;
  }
  return hole ? -ENOMEM : 0;
}

int mm_mincore(struct aspace *as, uptr addr, u64 len, uptr vec) {
  u64 pages = DIV_ROUND_UP(len, PAGE_SIZE);
  if (addr % PAGE_SIZE) return -EINVAL;
  if (!user_range_ok(addr, len)) return -ENOMEM;
  u8 part[128];
  for (u64 done = 0; done < pages;) {
    u64 n = MIN(pages - done, sizeof(part));
    int err = 0;
    rwsem_read_lock(&as->sem);
    for (u64 i = 0; i < n && !err; i++) {
      uptr at = addr + ((done + i) << PAGE_SHIFT);
      struct vma *v = vma_find(as, at);
      if (!v || v->start > at) {
        err = -ENOMEM;
        break;
      }
      spin_lock(&as->pt_lock);
      part[i] = pte_maps(pt_entry(as, at));
      spin_unlock(&as->pt_lock);
      struct page *p = NULL;
      if (!part[i] && v->obj) v->obj->ops->peek_pages(v->obj, v->pgoff + ((at - v->start) >> PAGE_SHIFT), 1, &p);
      if (p) {
        part[i] = 1;
        page_put(p);
      }
    }
    rwsem_read_unlock(&as->sem);
    if (err) return err;
    if (copy_to_user(vec + done, part, n)) return -EFAULT;
    done += n;
  }
  return 0;
}

int mm_mlock(struct aspace *as, uptr addr, u64 len, bool lock, bool on_fault) {
  len = ALIGN_UP(len + addr % PAGE_SIZE, PAGE_SIZE);
  addr &= PAGE_MASK;
  if (!len) return 0;
  if (!user_range_ok(addr, len)) return -ENOMEM;
  int err = advise_flags(as, addr, addr + len, lock ? VMA_LOCKED : 0, lock ? 0 : VMA_LOCKED, false);
  if (!err && lock && !on_fault) err = mm_populate(as, addr, len);
  return err;
}

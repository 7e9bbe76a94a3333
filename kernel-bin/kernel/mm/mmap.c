// SPDX-License-Identifier: Apache-2.0
//
// Changes of the area tree: mmap, munmap, mprotect, mremap, brk. All take sem for write; areas that leave are released
// after it was dropped, because the last reference of a file may sleep.
#include "mm/internal.h"
#include <linux/mman.h>

#define MIN_ADDR (64 * KIB) // vm.mmap_min_addr
#define RIGHTS (VMA_READ | VMA_WRITE | VMA_EXEC)
_Static_assert(PROT_READ == VMA_READ && PROT_WRITE == VMA_WRITE && PROT_EXEC == VMA_EXEC, "rights are PROT_* bits");

static bool range_ok(uptr addr, u64 len) { return addr % PAGE_SIZE == 0 && len && user_range_ok(addr, len); }

// A 2 MiB page never lies in two areas: it is split first, whatever happens to the areas then.
int isolate_locked(struct aspace *as, uptr start, uptr end, struct vma **first) {
  int err = pt_split_borders(as, start, end);
  // Under its spinlock nothing was reclaimed; sem is no hindrance.
  for (unsigned tries = 0; err == -ENOMEM && tries < 4 && reclaim_page(); tries++) err = pt_split_borders(as, start, end);
  return err ? err : vma_isolate(as, start, end, first);
}

int unmap_locked(struct aspace *as, uptr start, uptr end, struct list *dead) {
  struct vma *v;
  if (vma_range_free(as, start, end)) return 0;
  int err = isolate_locked(as, start, end, &v);
  if (err) return err;
  // Entries first, then the areas: as long as an entry of an object exists, memobj_unmap finds it.
  struct vma *before = vma_prev(v);
  struct gather g;
  gather_begin(&g, as);
  (void)!pt_zap(&g, start, end); // cannot fail: isolate_locked has split the borders, and sem is held for write
  while (v && v->start < end) {
    struct vma *next = vma_next(v);
    vma_unlink(as, v);
    list_push_back(dead, &v->obj_link);
    v = next;
  }
  pt_free_tables(&g, start, end, before ? before->end : 0, v ? v->start : USER_END);
  gather_end(&g);
  return 0;
}

// --- limits. Address space and data are counted when mapped, as Linux does.
static bool limits_ok(struct aspace *as, u64 len, u32 flags) {
  if ((as->total_pages << PAGE_SHIFT) + len > as->as_limit_bytes) return false;
  bool data = (flags & (VMA_WRITE | VMA_SHARED | VMA_STACK | VMA_GROWSDOWN)) == VMA_WRITE;
  return !data || (as->data_pages << PAGE_SHIFT) + len <= as->data_limit_bytes;
}

static uptr choose_addr(struct aspace *as, const struct mmap_request *rq, u64 len, u32 flags) {
  uptr hint = ALIGN_DOWN(rq->addr, PAGE_SIZE);
  if (hint >= MIN_ADDR && user_range_ok(hint, len)) {
    struct vma *next = vma_find(as, hint);
    u64 guard = next && (next->flags & VMA_GROWSDOWN) ? STACK_GUARD_BYTES : 0;
    if (!next || hint + len + guard <= next->start) return hint;
  }
  if (rq->flags & MAP_32BIT) return vma_find_gap(as, len, PAGE_SIZE, 0x40000000, 0x80000000);
  u64 align = !rq->obj && !(flags & (VMA_SHARED | VMA_NOHUGE)) && len >= HUGE_SIZE && len % HUGE_SIZE == 0 ? HUGE_SIZE : PAGE_SIZE;
  uptr at = vma_find_gap(as, len, align, MIN_ADDR, as->mmap_top);
  return at ? at : vma_find_gap(as, len, PAGE_SIZE, MIN_ADDR, USER_END);
}

static u32 flags_of(const struct mmap_request *rq, bool shared) {
  u32 f = (u32)rq->prot & RIGHTS;
  if (shared) f |= VMA_SHARED;
  if (!shared || !rq->file || rq->file_writable) f |= VMA_MAYWRITE;
  if (rq->flags & MAP_GROWSDOWN) f |= VMA_GROWSDOWN;
  if (rq->flags & MAP_NORESERVE) f |= VMA_NORESERVE;
  if (rq->flags & MAP_STACK) f |= VMA_NOHUGE; // a stack's first page would cost 2 MiB
  if (rq->flags & MAP_LOCKED) f |= VMA_LOCKED;
  return f | rq->extra_vma_flags;
}

static int check_request(const struct mmap_request *rq, u64 *len) {
  unsigned type = (unsigned)rq->flags & MAP_TYPE;
  if (type != MAP_PRIVATE && type != MAP_SHARED && type != MAP_SHARED_VALIDATE) return -EINVAL;
  if (!rq->len || (type != MAP_PRIVATE && (rq->flags & MAP_GROWSDOWN))) return -EINVAL;
  if (rq->flags & MAP_HUGETLB) return -ENOMEM; // no pool of huge pages is set aside, as on a Linux with nr_hugepages 0
  *len = ALIGN_UP(rq->len, PAGE_SIZE);
  if (*len < rq->len || *len > USER_END) return -ENOMEM;
  if (rq->obj && rq->pgoff + (*len >> PAGE_SHIFT) < rq->pgoff) return -EOVERFLOW;
  if (type != MAP_PRIVATE && rq->file && (rq->prot & PROT_WRITE) && !rq->file_writable) return -EACCES;
  if (rq->flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) {
    if (rq->addr % PAGE_SIZE) return -EINVAL;
    if (!user_range_ok(rq->addr, *len)) return -ENOMEM;
    if (rq->addr < MIN_ADDR) return -EPERM;
  }
  return 0;
}

// Whoever seals an object looks for areas that may write under its lock, which vma_link has taken since: either our area was
// seen, or we see the seal, also when the file said before that it might be written.
static int link_sealed(struct aspace *as, struct vma *v, struct list *dead) {
  if (!v->obj || !READ_ONCE(v->obj->no_writers) || (v->flags & (VMA_SHARED | VMA_MAYWRITE)) != (VMA_SHARED | VMA_MAYWRITE)) return 0;
  v->flags &= ~(u32)VMA_MAYWRITE;
  if (!(v->flags & VMA_WRITE)) return 0;
  vma_unlink(as, v);
  list_push_back(dead, &v->obj_link);
  return -EPERM;
}

long mm_mmap(struct aspace *as, const struct mmap_request *rq) {
  u64 len = 0;
  int err = check_request(rq, &len);
  if (err) return err;
  bool shared = ((unsigned)rq->flags & MAP_TYPE) != MAP_PRIVATE;
  struct vma *v = vma_alloc();
  if (!v) return -ENOMEM;
  struct list dead = LIST_INIT(dead);
  v->flags = flags_of(rq, shared);
  v->pgoff = rq->obj ? rq->pgoff : 0;
  if (rq->obj) v->obj = memobj_get(rq->obj);
  else if (shared) v->obj = memobj_create_anon();
  if (rq->file && rq->obj) mm_hooks.file_get(v->file = rq->file);
  list_push_back(&dead, &v->obj_link); // until it is in the tree
  err = shared && !v->obj ? -ENOMEM : 0;

  rwsem_write_lock(&as->sem);
  v->flags |= (u32)as->lock_future;
  uptr at = rq->addr;
  if (!err && (as->area_count >= VMA_COUNT_MAX || !limits_ok(as, len, v->flags))) err = -ENOMEM;
  if (!err && (rq->flags & (MAP_FIXED | MAP_FIXED_NOREPLACE))) {
    if (rq->flags & MAP_FIXED_NOREPLACE) err = vma_range_free(as, at, at + len) ? 0 : -EEXIST;
    else err = unmap_locked(as, at, at + len, &dead);
  } else if (!err) {
    at = choose_addr(as, rq, len, v->flags);
    if (!at) err = -ENOMEM;
  }
  bool fill = (v->flags & VMA_LOCKED) || ((rq->flags & MAP_POPULATE) && !(rq->flags & MAP_NONBLOCK));
  if (!err) {
    list_remove(&v->obj_link);
    v->start = at;
    v->end = at + len;
    vma_link(as, v);
    err = link_sealed(as, v, &dead);
    if (!err) vma_merge(v);
  }
  rwsem_write_unlock(&as->sem);
  vma_release_list(&dead);
  if (err) return err;
  if (fill) (void)!mm_populate(as, at, len); // what cannot be filled now comes with a fault, or its signal
  return (long)at;
}

int mm_munmap(struct aspace *as, uptr addr, u64 len) {
  len = ALIGN_UP(len, PAGE_SIZE);
  if (!range_ok(addr, len)) return -EINVAL;
  struct list dead = LIST_INIT(dead);
  rwsem_write_lock(&as->sem);
  int err = unmap_locked(as, addr, addr + len, &dead);
  rwsem_write_unlock(&as->sem);
  vma_release_list(&dead);
  return err;
}

int mm_mprotect(struct aspace *as, uptr addr, u64 len, int prot) {
  if (prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM | PROT_GROWSDOWN)) return -EINVAL;
  len = ALIGN_UP(len, PAGE_SIZE);
  if (!len) return addr % PAGE_SIZE ? -EINVAL : 0;
  if (addr % PAGE_SIZE) return -EINVAL;
  if (!user_range_ok(addr, len)) return -ENOMEM;
  uptr start = addr, end = addr + len;
  u32 rights = (u32)prot & RIGHTS;
  rwsem_write_lock(&as->sem);
  struct vma *v = vma_find(as, start);
  int err = 0;
  if (!v || ((prot & PROT_GROWSDOWN) && v->start >= end)) err = -ENOMEM;
  else if ((prot & PROT_GROWSDOWN) && !(v->flags & VMA_GROWSDOWN)) err = -EINVAL;
  else if (prot & PROT_GROWSDOWN) start = v->start;
  else if (v->start > start) err = -ENOMEM;
  if (!err) err = isolate_locked(as, start, end, &v);
  // Like Linux: areas before a hole, or before one that must not become writable, are changed.
  for (uptr at = start; !err && at < end;) {
    if (!v || v->start != at) {
      err = -ENOMEM;
      break;
    }
    if ((rights & VMA_WRITE) && !(v->flags & VMA_MAYWRITE)) {
      err = -EACCES;
      break;
    }
    u32 flags = (v->flags & ~(u32)RIGHTS) | rights;
    if (flags != v->flags) {
      if ((rights & ~v->flags & VMA_WRITE) && !limits_ok(as, 0, flags)) {
        err = -ENOMEM;
        break;
      }
      vma_set_flags(v, flags);
      pt_protect(as, v->start, v->end, flags);
    }
    v = vma_merge(v); // may take in the next one, if that has these rights already
    at = v->end;
    v = vma_next(v);
  }
  if (v) vma_merge(v);
  rwsem_write_unlock(&as->sem);
  return err;
}

// --- mremap
static int move_area(struct aspace *as, struct vma *v, uptr to, u64 new_len, bool keep_source, struct list *dead) {
  u64 len = v->end - v->start; // the whole area moves: the caller isolated it
  struct vma *n = vma_alloc();
  if (!n) return -ENOMEM;
  n->start = to;
  n->end = to + new_len;
  n->flags = v->flags;
  n->pgoff = v->pgoff;
  if (v->obj) n->obj = memobj_get(v->obj);
  if (v->file) mm_hooks.file_get(n->file = v->file);
  vma_link(as, n);
  int err = pt_move(as, v->start, to, MIN(len, new_len));
  if (err) {
    (void)!unmap_locked(as, n->start, n->end, dead); // with the empty tables; nothing needs splitting, so it cannot fail
    return err;
  }
  if (!keep_source) err = unmap_locked(as, v->start, v->end, dead);
  vma_merge(n);
  return err; // cannot fail: borders are there
}

static long remap_locked(struct aspace *as, uptr old, u64 old_len, u64 new_len, int flags, uptr to, struct list *dead) {
  struct vma *v = vma_find(as, old);
  if (!v || v->start > old || old + old_len > v->end) return -EFAULT;
  if (v->flags & VMA_VDSO) return -EFAULT;
  bool keep = (flags & MREMAP_DONTUNMAP) != 0;
  if (keep && (v->obj || old_len != new_len)) return -EINVAL;
  int err;
  if (new_len < old_len) {
    err = unmap_locked(as, old + new_len, old + old_len, dead);
    if (err) return err;
    old_len = new_len;
    v = vma_find(as, old);
  }
  if (!(flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))) {
    if (new_len == old_len) return (long)old;
    if (!limits_ok(as, new_len - old_len, v->flags)) return -ENOMEM;
    if (old + old_len == v->end && user_range_ok(old, new_len)) {
      struct vma *next = vma_next(v);
      u64 guard = next && (next->flags & VMA_GROWSDOWN) ? STACK_GUARD_BYTES : 0;
      if (!next || old + new_len + guard <= next->start) {
        vma_resize(v, v->start, old + new_len);
        vma_merge(v);
        return (long)old;
      }
    }
    if (!(flags & MREMAP_MAYMOVE)) return -ENOMEM;
  }
  if (flags & MREMAP_FIXED) {
    err = unmap_locked(as, to, to + new_len, dead);
    if (err) return err;
  } else {
    struct mmap_request rq = { .addr = to, .obj = v->obj };
    to = choose_addr(as, &rq, new_len, v->flags);
    if (!to) return -ENOMEM;
  }
  u64 grows = keep ? new_len : new_len - old_len;
  if (as->area_count + 3 >= VMA_COUNT_MAX || !limits_ok(as, grows, v->flags)) return -ENOMEM;
  err = isolate_locked(as, old, old + old_len, &v);
  if (!err) err = move_area(as, v, to, new_len, keep, dead);
  return err ? err : (long)to;
}

long mm_mremap(struct aspace *as, uptr old, u64 old_len, u64 new_len, int flags, uptr new_addr) {
  old_len = ALIGN_UP(old_len, PAGE_SIZE);
  new_len = ALIGN_UP(new_len, PAGE_SIZE);
  if (flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) || !new_len || new_len > USER_END || old % PAGE_SIZE) return -EINVAL;
  if ((flags & (MREMAP_FIXED | MREMAP_DONTUNMAP)) && !(flags & MREMAP_MAYMOVE)) return -EINVAL;
  if (!old_len) return -EINVAL; // Linux: a second view of a shared area; nothing uses it
  if (!user_range_ok(old, old_len)) return -EFAULT;
  if (flags & MREMAP_FIXED) {
    if (!range_ok(new_addr, new_len) || new_addr < MIN_ADDR) return -EINVAL;
    if (new_addr < old + old_len && old < new_addr + new_len) return -EINVAL;
  } else if (!(flags & MREMAP_DONTUNMAP)) {
    new_addr = 0;
  }
  struct list dead = LIST_INIT(dead);
  rwsem_write_lock(&as->sem);
  long r = remap_locked(as, old, old_len, new_len, flags, new_addr, &dead);
  struct vma *v = r >= 0 ? vma_find(as, (uptr)r) : NULL;
  bool fill = v && (v->flags & VMA_LOCKED) && new_len > old_len;
  rwsem_write_unlock(&as->sem);
  vma_release_list(&dead);
  if (fill) (void)!mm_populate(as, (uptr)r + old_len, new_len - old_len);
  return r;
}

uptr mm_brk(struct aspace *as, uptr brk) {
  struct list dead = LIST_INIT(dead);
  struct vma *v = NULL;
  bool fill = false;
  rwsem_write_lock(&as->sem);
  uptr from = ALIGN_UP(as->brk, PAGE_SIZE), to = ALIGN_UP(brk, PAGE_SIZE);
  if (brk < as->brk_start || brk > USER_END || brk - as->brk_start > as->brk_limit_bytes) goto out;
  if (to > from) {
    u32 flags = VMA_READ | VMA_WRITE | VMA_MAYWRITE | VMA_BRK | (u32)as->lock_future;
    struct vma *next = vma_find(as, from);
    u64 guard = next && (next->flags & VMA_GROWSDOWN) ? STACK_GUARD_BYTES : 0;
    if ((next && to + guard > next->start) || !limits_ok(as, to - from, flags) || as->area_count >= VMA_COUNT_MAX) goto out;
    v = vma_alloc();
    if (!v) goto out;
    v->start = from;
    v->end = to;
    v->flags = flags;
    vma_link(as, v);
    vma_merge(v);
    fill = (flags & VMA_LOCKED) != 0;
  } else if (to < from && unmap_locked(as, to, from, &dead)) {
    goto out;
  }
  as->brk = brk;
out:
  brk = as->brk;
  rwsem_write_unlock(&as->sem);
  vma_release_list(&dead);
  if (fill) (void)!mm_populate(as, from, to - from);
  return brk;
}

// SPDX-License-Identifier: Apache-2.0
// System calls on memory.
#include "sys/file.h"
#include <asm/fcntl.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>

#define RLIMIT_MEMLOCK_NR 8
#define GRANT_READ_IMPLIES_EXEC 0x0400000 // personality(2)

static struct aspace *current_as(void) { return lwp_current()->as; }

static bool may_lock(u64 more_bytes) {
  u64 limit = process_rlimit(RLIMIT_MEMLOCK_NR);
  return !cred_current()->euid || limit == ~0ull || (current_as()->locked_pages << PAGE_SHIFT) + more_bytes <= limit;
}

long sys_mmap(u64 addr, u64 len, u64 prot, u64 flags, u64 fd, u64 off) {
  struct mmap_request rq = { .addr = addr, .len = len, .prot = (int)prot, .flags = (int)flags, .pgoff = off >> PAGE_SHIFT };
  if (off % PAGE_SIZE) return -EINVAL;
  if ((flags & MAP_LOCKED) && !may_lock(len)) return -EAGAIN;
  if ((flags & (MAP_TYPE | MAP_SYNC)) == (MAP_SHARED_VALIDATE | MAP_SYNC)) return -EOPNOTSUPP;
  if ((prot & PROT_READ) && (process_current()->personality & GRANT_READ_IMPLIES_EXEC)) rq.prot |= PROT_EXEC;
  if (flags & MAP_ANONYMOUS) {
    rq.pgoff = 0;
    return mm_mmap(current_as(), &rq);
  }
  struct file *f = file_from_fd((int)fd);
  if (!f) return -EBADF;
  long r = -EACCES;
  bool shared = (flags & MAP_TYPE) != MAP_PRIVATE;
  rq.file = f;
  rq.file_writable = file_writable(f);
  if (f->path_only) r = -EBADF;
  else if (!file_readable(f) || (shared && (prot & PROT_WRITE) && (!rq.file_writable || (f->flags & O_APPEND)))) r = -EACCES;
  else if ((prot & PROT_EXEC) && f->inode && (f->inode->super->flags & SUPER_NOEXEC)) r = -EPERM;
  else if (!f->ops->mmap) r = -ENODEV;
  else r = f->ops->mmap(f, &rq);
  if (!r) r = mm_mmap(current_as(), &rq);
  file_put(f);
  return r;
}

long sys_munmap(u64 addr, u64 len) { return mm_munmap(current_as(), addr, len); }

long sys_mprotect(u64 addr, u64 len, u64 prot) {
  if ((prot & PROT_READ) && (process_current()->personality & GRANT_READ_IMPLIES_EXEC)) prot |= PROT_EXEC;
  return mm_mprotect(current_as(), addr, len, (int)prot);
}

long sys_mremap(u64 old, u64 old_len, u64 new_len, u64 flags, u64 new_addr) {
  return mm_mremap(current_as(), old, old_len, new_len, (int)flags, new_addr);
}

long sys_brk(u64 brk) { return (long)mm_brk(current_as(), brk); }
long sys_madvise(u64 addr, u64 len, u64 advice) { return mm_madvise(current_as(), addr, len, (int)advice); }
long sys_mincore(u64 addr, u64 len, u64 vec) { return mm_mincore(current_as(), addr, len, vec); }
long sys_remap_file_pages(void) { return -ENOSYS; }

static int sync_range(struct file *f, u64 off, u64 len) { return f->ops->fsync ? f->ops->fsync(f, off, len, true) : 0; }
long sys_msync(u64 addr, u64 len, u64 flags) { return mm_msync(current_as(), addr, len, (int)flags, sync_range); }

// --- locking: nothing is ever swapped out, so this only brings pages in and keeps the books
static long lock_range(u64 addr, u64 len, bool on_fault) {
  if (!may_lock(len)) return process_rlimit(RLIMIT_MEMLOCK_NR) ? -ENOMEM : -EPERM;
  return mm_mlock(current_as(), addr, len, true, on_fault);
}
long sys_mlock(u64 addr, u64 len) { return lock_range(addr, len, false); }
long sys_mlock2(u64 addr, u64 len, u64 flags) { return flags & ~(u64)MLOCK_ONFAULT ? -EINVAL : lock_range(addr, len, flags & MLOCK_ONFAULT); }
long sys_munlock(u64 addr, u64 len) { return mm_mlock(current_as(), addr, len, false, false); }

static void lock_all(bool lock, bool fill) {
  struct aspace *as = current_as();
  for (uptr at = 0;;) { // one area at a time: filling sleeps
    rwsem_read_lock(&as->sem);
    struct vma *v = vma_find(as, at);
    uptr start = v ? v->start : 0, end = v ? v->end : 0;
    rwsem_read_unlock(&as->sem);
    if (!v) return;
    (void)!mm_mlock(as, start, end - start, lock, !fill);
    at = end;
  }
}

long sys_mlockall(u64 flags) {
  struct aspace *as = current_as();
  if (!flags || (flags & ~(u64)(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) || flags == MCL_ONFAULT) return -EINVAL;
  if (!may_lock((flags & MCL_CURRENT) ? as->total_pages << PAGE_SHIFT : 0)) return -ENOMEM;
  rwsem_write_lock(&as->sem);
  as->lock_future = flags & MCL_FUTURE ? VMA_LOCKED : 0;
  rwsem_write_unlock(&as->sem);
  if (flags & MCL_CURRENT) lock_all(true, !(flags & MCL_ONFAULT));
  return 0;
}

long sys_munlockall(void) {
  struct aspace *as = current_as();
  rwsem_write_lock(&as->sem);
  as->lock_future = 0;
  rwsem_write_unlock(&as->sem);
  lock_all(false, false);
  return 0;
}

// --- NUMA: there is one node, so every policy means the same
static long zero_mask(uptr mask, u64 maxnode, u64 first) {
  if (!mask || !maxnode) return 0;
  if (maxnode > 4096 * 8) return -EINVAL;
  u64 bytes = DIV_ROUND_UP(maxnode - 1, 64) * 8;
  if (bytes < 8) return -EINVAL;
  if (clear_user(mask, bytes) || copy_to_user(mask, &first, sizeof first)) return -EFAULT;
  return 0;
}

long sys_get_mempolicy(u64 mode, u64 mask, u64 maxnode, u64 addr, u64 flags) {
  u32 zero = 0; // MPOL_DEFAULT, or node 0
  if (flags & ~(u64)(MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED)) return -EINVAL;
  if ((flags & MPOL_F_MEMS_ALLOWED) && (flags & (MPOL_F_NODE | MPOL_F_ADDR))) return -EINVAL;
  if (!(flags & MPOL_F_ADDR) && addr) return -EINVAL;
  if (mode && copy_to_user(mode, &zero, sizeof zero)) return -EFAULT;
  return zero_mask(mask, maxnode, flags & MPOL_F_MEMS_ALLOWED ? 1 : 0);
}

static bool policy_ok(u64 mode) { return (mode & ~(u64)MPOL_MODE_FLAGS) < MPOL_MAX; }
long sys_set_mempolicy(u64 mode, u64 mask, u64 maxnode) { return policy_ok((u32)mode) ? 0 : -EINVAL; }
long sys_mbind(u64 addr, u64 len, u64 mode, u64 mask, u64 maxnode, u64 flags) { return addr % PAGE_SIZE || !policy_ok((u32)mode) ? -EINVAL : 0; }
long sys_migrate_pages(u64 pid, u64 maxnode, u64 from, u64 to) { return 0; }
long sys_set_mempolicy_home_node(u64 addr, u64 len, u64 node, u64 flags) { return flags || node ? -EINVAL : 0; }

// --- protection keys: none, as on a CPU without PKU
long sys_pkey_alloc(u64 flags, u64 rights) { return flags || (rights & ~3ull) ? -EINVAL : -ENOSPC; }
long sys_pkey_free(u64 key) { return -EINVAL; }
long sys_pkey_mprotect(u64 addr, u64 len, u64 prot, u64 key) { return (int)key == -1 ? sys_mprotect(addr, len, prot) : -EINVAL; }

// --- another process's memory
static long vm_copy(u64 pid, u64 local, u64 nlocal, u64 remote, u64 nremote, u64 flags, bool write) {
  if (flags) return -EINVAL;
  struct iov_buf lb, rb;
  struct iter it, unused;
  struct aspace *as = NULL;
  long done = 0;
  u8 *buf = NULL;
  int err = iov_import(&lb, local, nlocal, &it);
  if (err) return err;
  err = iov_import(&rb, remote, nremote, &unused);
  if (err) {
    iov_release(&lb);
    return err;
  }
  struct process *p = process_find((int)pid);
  const struct cred *me = cred_current();
  if (!p) err = -ESRCH;
  else if (p != process_current() && me->euid && (me->uid != p->cred.uid || me->uid != p->cred.suid || !p->dumpable)) err = -EPERM;
  else if (!(as = process_aspace(p))) err = -ESRCH;
  else if (!(buf = kmalloc(PAGE_SIZE, 0))) err = -ENOMEM;
  for (u64 i = 0; i < nremote && !err && it.left; i++) {
    for (u64 off = 0; off < rb.iov[i].len && !err && it.left;) {
      size_t n = MIN(MIN(rb.iov[i].len - off, it.left), PAGE_SIZE);
      long got = write ? (long)iter_from(&it, buf, n) : mm_access(as, rb.iov[i].base + off, buf, n, false);
      long put = got <= 0 ? got : write ? mm_access(as, rb.iov[i].base + off, buf, (size_t)got, true) : (long)iter_to(&it, buf, (size_t)got);
      if (put > 0) done += put;
      if (put < (long)n) err = put < 0 ? (int)put : -EFAULT;
      off += n;
    }
  }
  kfree(buf);
  if (as) aspace_put(as);
  process_put(p);
  iov_release(&lb);
  iov_release(&rb);
  return done ? done : err;
}
long sys_process_vm_readv(u64 pid, u64 l, u64 nl, u64 r, u64 nr, u64 flags) { return vm_copy(pid, l, nl, r, nr, flags, false); }
long sys_process_vm_writev(u64 pid, u64 l, u64 nl, u64 r, u64 nr, u64 flags) { return vm_copy(pid, l, nl, r, nr, flags, true); }

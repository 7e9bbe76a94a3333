// SPDX-License-Identifier: Apache-2.0
//
// System V shared memory: a table of memory objects with keys and modes. How often a segment is attached is how many
// areas map its object, so fork and exit need no help from here; a removed segment leaves the table when nobody looks
// and nobody maps it.
#include "sys/sys.h"
#include <linux/mman.h>
#include <linux/shm.h>

#define SLOTS 256u
#define MAX_BYTES (1ull << 40)
struct segment {
  int id, key;
  u32 mode, uid, gid, cuid, cgid;
  u64 size;
  struct memobj *obj;
  int cpid, lpid;
  s64 atime, dtime, ctime;
  bool removed;
};
static struct segment *slots[SLOTS];
// Guards slots and segments; taken before nothing but an object's lock.
static struct mutex lock = { .guard = SPINLOCK_INIT(RANK_WAITQ), .waiters = LIST_INIT(lock.waiters), .rank = RANK_OBJECT };
static u32 next_seq;

static s64 now_s(void) { return (s64)(time_realtime_ns() / NS_PER_SEC); }

static u32 attached(struct segment *s) {
  u32 n;
  mm_count_vmas(s->obj, &n);
  return n;
}

static void sweep(void) { // removed and no longer mapped: gone
  for (u32 i = 0; i < SLOTS; i++) {
    struct segment *s = slots[i];
    if (!s || !s->removed || attached(s)) continue;
    slots[i] = NULL;
    memobj_put(s->obj);
    kfree(s);
  }
}

static struct segment *by_id(int id) {
  struct segment *s = id < 0 ? NULL : slots[(u32)id % SLOTS];
  return s && s->id == id ? s : NULL;
}

// want: 4 read, 2 write, as in one octal digit of a mode.
static bool allowed(const struct segment *s, u32 want) {
  const struct cred *c = cred_current();
  if (!c->euid) return true;
  u32 bits = c->euid == s->uid || c->euid == s->cuid ? s->mode >> 6 : c->egid == s->gid || c->egid == s->cgid ? s->mode >> 3 : s->mode;
  return (bits & want) == want;
}
static bool owner(const struct segment *s) {
  u32 euid = cred_current()->euid;
  return !euid || euid == s->uid || euid == s->cuid;
}

static long create(int key, u64 size, u64 flags) {
  if (!size || size > MAX_BYTES) return -EINVAL;
  u32 slot = 0;
  while (slot < SLOTS && slots[slot]) slot++;
  if (slot == SLOTS) return -ENOSPC;
  struct segment *s = kzalloc(sizeof *s);
  if (!s) return -ENOMEM;
  s->obj = memobj_create_anon();
  if (!s->obj) {
    kfree(s);
    return -ENOMEM;
  }
  const struct cred *c = cred_current();
  s->id = (int)((next_seq++ % 0x7fffff) * SLOTS + slot);
  s->key = key;
  s->mode = (u32)flags & 0777;
  s->uid = s->cuid = c->euid;
  s->gid = s->cgid = c->egid;
  s->size = size;
  s->cpid = process_current()->pid;
  s->ctime = now_s();
  slots[slot] = s;
  return s->id;
}

long sys_shmget(u64 key, u64 size, u64 flags) {
  mutex_lock(&lock);
  sweep();
  struct segment *s = NULL;
  for (u32 i = 0; i < SLOTS && (int)key != IPC_PRIVATE && !s; i++)
    if (slots[i] && !slots[i]->removed && slots[i]->key == (int)key) s = slots[i];
  long r;
  if (!s) r = (int)key == IPC_PRIVATE || (flags & IPC_CREAT) ? create((int)key, size, flags) : -ENOENT;
  else if ((flags & IPC_CREAT) && (flags & IPC_EXCL)) r = -EEXIST;
  else if (size > s->size) r = -EINVAL;
  else if (!allowed(s, (u32)flags >> 6 & 6)) r = -EACCES;
  else r = s->id;
  mutex_unlock(&lock);
  return r;
}

long sys_shmat(u64 id, u64 addr, u64 flags) {
  if (addr % PAGE_SIZE) {
    if (!(flags & SHM_RND)) return -EINVAL;
    addr = ALIGN_DOWN(addr, PAGE_SIZE);
  }
  if (!addr && (flags & SHM_REMAP)) return -EINVAL;
  struct mmap_request rq = { .addr = addr, .prot = PROT_READ, .flags = MAP_SHARED };
  if (!(flags & SHM_RDONLY)) rq.prot |= PROT_WRITE;
  if (flags & SHM_EXEC) rq.prot |= PROT_EXEC;
  if (addr) rq.flags |= flags & SHM_REMAP ? MAP_FIXED : MAP_FIXED_NOREPLACE;
  mutex_lock(&lock);
  struct segment *s = by_id((int)id);
  long r = !s ? -EINVAL : !allowed(s, flags & SHM_RDONLY ? 4 : 6) ? -EACCES : 0;
  if (s && !r) {
    rq.obj = memobj_get(s->obj);
    rq.len = s->size;
    s->atime = now_s();
    s->lpid = process_current()->pid;
  }
  mutex_unlock(&lock);
  if (r) return r;
  r = mm_mmap(lwp_current()->as, &rq);
  memobj_put(rq.obj);
  return r == -EEXIST ? -EINVAL : r;
}

// The area that begins at addr tells the object; all areas of that attachment (mprotect may have split it) go.
long sys_shmdt(u64 addr) {
  struct aspace *as = lwp_current()->as;
  struct memobj *obj = NULL;
  if (addr % PAGE_SIZE) return -EINVAL;
  rwsem_read_lock(&as->sem);
  struct vma *v = vma_find(as, addr);
  if (v && v->start == addr && v->obj && !v->file && (v->flags & VMA_SHARED) && !v->pgoff) obj = memobj_get(v->obj);
  rwsem_read_unlock(&as->sem);
  if (!obj) return -EINVAL;
  u64 size = 0;
  mutex_lock(&lock);
  for (u32 i = 0; i < SLOTS && !size; i++) {
    if (!slots[i] || slots[i]->obj != obj) continue;
    size = ALIGN_UP(slots[i]->size, PAGE_SIZE);
    slots[i]->dtime = now_s();
    slots[i]->lpid = process_current()->pid;
  }
  mutex_unlock(&lock);
  long r = size ? 0 : -EINVAL;
  for (u64 at = addr; size && at < addr + size && !r;) {
    rwsem_read_lock(&as->sem);
    v = vma_find(as, at);
    bool ours = v && v->start < addr + size && v->obj == obj && v->start - addr == v->pgoff << PAGE_SHIFT;
    uptr from = v ? v->start : 0, to = v ? v->end : 0;
    rwsem_read_unlock(&as->sem);
    if (!v) break;
    if (ours) r = mm_munmap(as, from, to - from);
    at = to;
  }
  memobj_put(obj);
  mutex_lock(&lock);
  sweep();
  mutex_unlock(&lock);
  return r;
}

static void fill_stat(struct segment *s, struct shmid64_ds *d) {
  *d = (struct shmid64_ds){ .shm_segsz = s->size, .shm_atime = s->atime, .shm_dtime = s->dtime, .shm_ctime = s->ctime,
    .shm_cpid = s->cpid, .shm_lpid = s->lpid, .shm_nattch = attached(s) };
  d->shm_perm.key = s->key;
  d->shm_perm.uid = s->uid;
  d->shm_perm.gid = s->gid;
  d->shm_perm.cuid = s->cuid;
  d->shm_perm.cgid = s->cgid;
  d->shm_perm.mode = (__kernel_mode_t)(s->mode | (s->removed ? 01000 /* SHM_DEST */ : 0));
}

long sys_shmctl(u64 id, u64 cmd, u64 buf) {
  struct shmid64_ds d;
  struct shminfo64 info = { .shmmax = MAX_BYTES, .shmmin = 1, .shmmni = SLOTS, .shmseg = SLOTS, .shmall = MAX_BYTES / PAGE_SIZE };
  if (cmd == IPC_INFO) return copy_to_user(buf, &info, sizeof info) ? -EFAULT : (long)SLOTS - 1;
  if (cmd == IPC_SET && copy_from_user(&d, buf, sizeof d)) return -EFAULT;
  mutex_lock(&lock);
  sweep();
  struct segment *s = cmd == SHM_STAT || cmd == SHM_STAT_ANY ? (id < SLOTS ? slots[id] : NULL) : by_id((int)id);
  long r = s ? 0 : -EINVAL;
  bool stat = cmd == IPC_STAT || cmd == SHM_STAT || cmd == SHM_STAT_ANY;
  if (s && stat) {
    if (cmd != SHM_STAT_ANY && !allowed(s, 4)) r = -EACCES;
    else fill_stat(s, &d);
    if (!r && cmd != IPC_STAT) r = s->id;
  } else if (s) {
    if (cmd != IPC_RMID && cmd != IPC_SET && cmd != SHM_LOCK && cmd != SHM_UNLOCK) r = -EINVAL;
    else if (!owner(s)) r = -EPERM;
    else if (cmd == IPC_RMID) s->removed = true;
    else if (cmd == IPC_SET) s->uid = d.shm_perm.uid, s->gid = d.shm_perm.gid, s->mode = d.shm_perm.mode & 0777, s->ctime = now_s();
  }
  sweep();
  mutex_unlock(&lock);
  if (r >= 0 && stat && copy_to_user(buf, &d, sizeof d)) return -EFAULT;
  return r;
}

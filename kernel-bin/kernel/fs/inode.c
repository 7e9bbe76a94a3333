// SPDX-License-Identifier: Apache-2.0
//
// Inodes: life, attributes, and who may do what. Attributes change under inode->lock and are read freely.
#include "fs/internal.h"

const struct cred *(*cred_current)(void);
static struct kmem_cache *inodes;
static u32 next_dev = 0x10;

const struct cred *fs_cred(void) {
  static const struct cred kernel;
  const struct cred *c = cred_current ? cred_current() : NULL;
  return c ? c : &kernel;
}

struct timespec64 time_now_ts(void) {
  u64 ns = time_realtime_ns();
  return (struct timespec64){ (s64)(ns / NS_PER_SEC), (s64)(ns % NS_PER_SEC) };
}

struct super *super_create(const char *type, u32 flags) {
  struct super *s = kzalloc(sizeof *s);
  if (!s) return NULL;
  s->type = type;
  s->flags = flags;
  s->dev = atomic_inc(&next_dev);
  return s;
}

struct inode *inode_create(struct super *s, u32 mode) {
  if (!inodes) { // the first super is made by one thread, at boot
    inodes = kmem_cache_create("inode", sizeof(struct inode), 16);
    ASSERT(inodes);
  }
  struct inode *i = kmem_cache_alloc(inodes);
  if (!i) return NULL;
  memset(i, 0, sizeof *i);
  ref_init(&i->refs);
  i->super = s;
  i->mode = mode;
  i->nlink = 1;
  i->ino = __atomic_add_fetch(&s->next_ino, 1, __ATOMIC_RELAXED);
  i->atime = i->mtime = i->ctime = time_now_ts();
  mutex_init(&i->lock, RANK_INODE);
  memobj_init(&i->mem, s->flags & SUPER_STORAGE ? &pagecache_storage_memobj_ops : &pagecache_memobj_ops);
  list_init(&i->locks);
  list_init(&i->watches);
  list_init(&i->dirty_link);
  __atomic_add_fetch(&s->inodes_used, 1, __ATOMIC_RELAXED);
  return i;
}

// The memory object keeps the inode's storage: a mapping may outlive every other reference.
void inode_put(struct inode *i) {
  if (ref_put(&i->refs)) memobj_put(&i->mem);
}

void inode_destroy(struct inode *i) {
  ASSERT(list_empty(&i->locks) && list_empty(&i->dirty_link) && !i->nr_pages);
  if (i->ops && i->ops->evict) i->ops->evict(i);
  __atomic_sub_fetch(&i->super->inodes_used, 1, __ATOMIC_RELAXED);
  kmem_cache_free(inodes, i);
}

// --- permission
bool cred_in_group(const struct cred *c, u32 gid) {
  if (c->fsgid == gid) return true;
  for (u32 i = 0; i < c->ngroups; i++)
    if (c->groups[i] == gid) return true;
  return false;
}

int inode_permission_as(struct inode *i, int mask, u32 uid, u32 gid) {
  u32 mode = i->mode;
  if ((mask & MAY_WRITE) && (i->super->flags & SUPER_RDONLY) && (S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode))) return -EROFS;
  if ((mask & MAY_EXEC) && S_ISREG(mode) && (i->super->flags & SUPER_NOEXEC)) return -EACCES;
  if (i->ops->permission) return i->ops->permission(i, mask);
  if (uid == 0) return (mask & MAY_EXEC) && !S_ISDIR(mode) && !(mode & 0111) ? -EACCES : 0;
  if (uid == i->uid) mode >>= 6;
  else if (gid == i->gid || cred_in_group(fs_cred(), i->gid)) mode >>= 3;
  return ((int)mode & mask) == mask ? 0 : -EACCES;
}

int inode_permission(struct inode *i, int mask) {
  const struct cred *c = fs_cred();
  return inode_permission_as(i, mask, c->fsuid, c->fsgid);
}

int inode_check_sticky(struct inode *dir, struct inode *victim) {
  u32 uid = fs_cred()->fsuid;
  return (dir->mode & S_ISVTX) && uid && uid != victim->uid && uid != dir->uid ? -EPERM : 0;
}

void inode_init_owner(struct inode *i, const struct inode *dir, u32 mode) {
  const struct cred *c = fs_cred();
  i->uid = c->fsuid;
  i->gid = c->fsgid;
  if (dir && (dir->mode & S_ISGID)) {
    i->gid = dir->gid;
    if (S_ISDIR(mode)) mode |= S_ISGID;
  }
  i->mode = mode;
}

// --- attributes
void inode_getattr_fill(struct inode *i, struct kstat *st) {
  *st = (struct kstat){ .dev = i->super->dev, .ino = i->ino, .mode = i->mode, .nlink = i->nlink, .uid = i->uid, .gid = i->gid,
    .rdev = i->rdev, .size = READ_ONCE(i->size), .blksize = PAGE_SIZE, .atime = i->atime, .mtime = i->mtime, .ctime = i->ctime };
  st->blocks = i->super->flags & SUPER_STORAGE ? (u64)i->nr_pages * (PAGE_SIZE / 512) : DIV_ROUND_UP(st->size, 512);
}

int fs_getattr(struct dentry *d, struct kstat *st) {
  struct inode *i = d->inode;
  inode_getattr_fill(i, st);
  return i->ops->getattr ? i->ops->getattr(d, st) : 0;
}

int fs_file_getattr(struct file *f, struct kstat *st) {
  if (f->dentry) return fs_getattr(f->dentry, st);
  // pipes, sockets, event files: no inode, so what Linux's anonymous ones show
  char text[32] = "";
  if (f->ops->describe) f->ops->describe(f, text, sizeof text);
  struct timespec64 now = time_now_ts();
  u32 mode = pipe_from_file(f) || !strncmp(text, "pipe:", 5) ? S_IFIFO | 0600 : !strncmp(text, "socket:", 7) ? S_IFSOCK | 0777 : 0600;
  const struct cred *c = fs_cred();
  *st = (struct kstat){ .dev = S_ISFIFO(mode) ? 0xd : S_ISSOCK(mode) ? 0x8 : 0xe, .ino = f->id, .mode = mode, .nlink = 1, .uid = c->fsuid,
    .gid = c->fsgid, .blksize = PAGE_SIZE, .atime = now, .mtime = now, .ctime = now };
  return 0;
}

void inode_touch_atime(struct inode *i) {
  if (!(i->super->flags & SUPER_ATIME) || (i->super->flags & SUPER_RDONLY)) return;
  // relatime: only when the old value says less than "read since the last change" or is a day old
  struct timespec64 a = i->atime, m = i->mtime, c = i->ctime;
  bool older = a.sec < m.sec || (a.sec == m.sec && a.nsec <= m.nsec) || a.sec < c.sec || (a.sec == c.sec && a.nsec <= c.nsec);
  s64 now = (s64)(time_realtime_ns() / NS_PER_SEC);
  if (older || now - a.sec >= 86400) i->atime = time_now_ts();
}

int inode_setattr_simple(struct dentry *d, const struct iattr *a) {
  struct inode *i = d->inode;
  if (a->valid & ATTR_SIZE) {
    if (i->seals & (a->size < i->size ? F_SEAL_SHRINK : a->size > i->size ? F_SEAL_GROW : 0)) return -EPERM;
    pagecache_truncate(i, a->size);
    i->mtime = time_now_ts();
  }
  if (a->valid & ATTR_MODE) i->mode = (i->mode & S_IFMT) | (a->mode & 07777);
  if (a->valid & ATTR_UID) i->uid = a->uid;
  if (a->valid & ATTR_GID) i->gid = a->gid;
  if (a->valid & ATTR_ATIME_NOW) i->atime = time_now_ts();
  else if (a->valid & ATTR_ATIME) i->atime = a->atime;
  if (a->valid & ATTR_MTIME_NOW) i->mtime = time_now_ts();
  else if (a->valid & ATTR_MTIME) i->mtime = a->mtime;
  i->ctime = time_now_ts();
  return 0;
}

int fs_setattr(struct dentry *d, struct iattr *a) {
  struct inode *i = d->inode;
  if (i->super->flags & SUPER_RDONLY) return -EROFS;
  int r = mutex_lock_interruptible(&i->lock);
  if (r) return r;
  r = i->ops->setattr ? i->ops->setattr(d, a) : -EPERM;
  mutex_unlock(&i->lock);
  if (r) return r;
  u32 mask = 0;
  if (a->valid & ATTR_SIZE) mask |= IN_MODIFY;
  if (a->valid & ~(u32)ATTR_SIZE) mask |= IN_ATTRIB;
  fs_notify(d, mask);
  return 0;
}

// POSIX and Linux: who may change what, and which bits a change of owner takes away.
int fs_setattr_checked(struct dentry *d, struct iattr *a) {
  struct inode *i = d->inode;
  const struct cred *c = fs_cred();
  bool root = c->fsuid == 0, owner = c->fsuid == i->uid;
  if (i->super->flags & SUPER_RDONLY) return -EROFS;
  if (a->valid & ATTR_MODE) {
    if (!root && !owner) return -EPERM;
    if (!root && !S_ISDIR(i->mode) && !cred_in_group(c, i->gid)) a->mode &= ~(u32)S_ISGID;
  }
  if ((a->valid & ATTR_UID) && !root && !(owner && a->uid == i->uid)) return -EPERM;
  if ((a->valid & ATTR_GID) && !root && !(owner && (a->gid == i->gid || cred_in_group(c, a->gid)))) return -EPERM;
  if ((a->valid & (ATTR_UID | ATTR_GID)) && !S_ISDIR(i->mode) && !(a->valid & ATTR_MODE)) {
    u32 mode = i->mode & ~(u32)S_ISUID;
    if (mode & S_IXGRP) mode &= ~(u32)S_ISGID;
    if (mode != i->mode) {
      a->valid |= ATTR_MODE;
      a->mode = mode & 07777;
    }
  }
  if ((a->valid & (ATTR_ATIME | ATTR_MTIME)) && !root && !owner) return -EPERM;
  if ((a->valid & (ATTR_ATIME_NOW | ATTR_MTIME_NOW)) && !root && !owner) {
    // both "now" needs only write permission; one of them alone needs the owner
    if ((a->valid & (ATTR_ATIME_NOW | ATTR_MTIME_NOW)) != (ATTR_ATIME_NOW | ATTR_MTIME_NOW)) return -EPERM;
    int r = inode_permission(i, MAY_WRITE);
    if (r) return r;
  }
  return fs_setattr(d, a);
}

int fs_truncate(struct dentry *d, u64 size, struct file *f) {
  struct iattr a = { .valid = ATTR_SIZE, .size = size, .file = f };
  struct inode *i = d->inode;
  if (S_ISDIR(i->mode)) return -EISDIR;
  if (!S_ISREG(i->mode)) return -EINVAL;
  u64 left = ~0ull;
  int r = size > i->size ? fsize_check(f, size - 1, &left) : 0;
  if (r) return r;
  if (i->mode & (S_ISUID | S_ISGID) && fs_cred()->fsuid) {
    u32 mode = i->mode & ~(u32)S_ISUID;
    if (mode & S_IXGRP) mode &= ~(u32)S_ISGID;
    a.valid |= ATTR_MODE;
    a.mode = mode & 07777;
  }
  return fs_setattr(d, &a);
}

// --- inotify
void fs_notify(struct dentry *d, u32 mask) {
  if (likely(!READ_ONCE(inotify_active)) || !mask || !d->inode) return;
  if (S_ISDIR(d->inode->mode)) mask |= IN_ISDIR;
  spin_lock(&dcache_lock);
  struct dentry *parent = d->parent && !(d->flags & DENTRY_DELETED) ? dentry_get(d->parent) : NULL;
  char name[NAME_MAX + 1];
  size_t len = d->name_len;
  memcpy(name, d->name, len + 1);
  spin_unlock(&dcache_lock);
  if (parent) {
    if (!list_empty(&parent->inode->watches)) inotify_event(&parent->inode->watches, mask, 0, name, len);
    dentry_put(parent);
  }
  if (!list_empty(&d->inode->watches)) inotify_event(&d->inode->watches, mask, 0, NULL, 0);
}

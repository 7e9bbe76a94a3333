// SPDX-License-Identifier: Apache-2.0
//
// tmpfs: files whose storage is the page cache and whose names are the dentry cache (each name pins its dentry). A
// directory also keeps its names by a growing cookie, which is the position that getdents gives out: stable while names
// come and go. Directory state is guarded by the directory's inode->lock; nlink changes atomically, since names of one
// inode may be in several directories.
#include "fs/internal.h"
#include <linux/falloc.h>
#include <linux/memfd.h>

struct xattr { struct list link; char *name; void *value; size_t len; };
struct tmpfs_inode {
  struct radix entries; // cookie -> dentry
  u64 next_cookie;
  struct list xattrs;   // under inode->lock
  char *target;         // symbolic link
};
#define TMPFS_MAGIC 0x01021994
#define ENTRY_SIZE 20 // what a name adds to a directory's size, as on Linux
#define FIRST_COOKIE 2
static const struct inode_ops dir_ops, file_ops_, link_ops, special_ops;
static const struct file_ops dir_fops, file_fops;

static struct tmpfs_inode *info(struct inode *i) { return i->priv; }

static void touch(struct inode *i) { i->mtime = i->ctime = time_now_ts(); }

static struct inode *new_inode(struct super *s, struct inode *dir, u32 mode, u64 rdev) {
  if (s->page_limit && s->inodes_used >= s->page_limit) return NULL;
  struct inode *i = inode_create(s, mode);
  if (!i) return NULL;
  i->priv = kzalloc(sizeof(struct tmpfs_inode));
  if (!i->priv) {
    i->ops = &special_ops;
    inode_put(i);
    return NULL;
  }
  list_init(&info(i)->xattrs);
  info(i)->next_cookie = FIRST_COOKIE;
  inode_init_owner(i, dir, mode);
  i->rdev = rdev;
  i->seals = F_SEAL_SEAL;
  if (S_ISDIR(mode)) {
    i->ops = &dir_ops;
    i->fops = &dir_fops;
    i->nlink = 2;
  } else if (S_ISREG(mode)) {
    i->ops = &file_ops_;
    i->fops = &file_fops;
  } else {
    i->ops = S_ISLNK(mode) ? &link_ops : &special_ops;
  }
  return i;
}

static void evict(struct inode *i) {
  struct tmpfs_inode *t = info(i);
  if (!t) return;
  while (!list_empty(&t->xattrs)) {
    struct xattr *x = list_first_entry(&t->xattrs, struct xattr, link);
    list_remove(&x->link);
    kfree(x->name);
    kfree(x->value);
    kfree(x);
  }
  kfree(t->target);
  kfree(t);
}

// --- names
static int add_entry(struct inode *dir, struct dentry *d) {
  int r = radix_insert(&info(dir)->entries, info(dir)->next_cookie, d);
  if (r) return -ENOSPC;
  d->cookie = info(dir)->next_cookie++;
  dir->size += ENTRY_SIZE;
  touch(dir);
  return 0;
}

static void remove_entry(struct inode *dir, struct dentry *d) {
  radix_remove(&info(dir)->entries, d->cookie);
  dir->size -= ENTRY_SIZE;
  touch(dir);
}

static int attach(struct inode *dir, struct dentry *d, struct inode *i) { // consumes i
  int r = add_entry(dir, d);
  if (r) {
    inode_put(i);
    return r;
  }
  __atomic_store_n(&d->inode, i, __ATOMIC_RELEASE); // walkers may hold the negative dentry
  dentry_get(d);
  return 0;
}

static int make(struct inode *dir, struct dentry *d, u32 mode, u64 rdev) {
  struct inode *i = new_inode(dir->super, dir, mode, rdev);
  return i ? attach(dir, d, i) : -ENOSPC;
}

static int op_lookup(struct inode *dir, struct dentry *d) { return 0; } // what is not cached does not exist
static int op_create(struct inode *dir, struct dentry *d, u32 mode) { return make(dir, d, mode, 0); }
static int op_mknod(struct inode *dir, struct dentry *d, u32 mode, u64 rdev) { return make(dir, d, mode, rdev); }

static int op_mkdir(struct inode *dir, struct dentry *d, u32 mode) {
  int r = make(dir, d, mode, 0);
  if (!r) __atomic_add_fetch(&dir->nlink, 1, __ATOMIC_RELAXED);
  return r;
}

static int op_symlink(struct inode *dir, struct dentry *d, const char *target) {
  struct inode *i = new_inode(dir->super, dir, S_IFLNK | 0777, 0);
  if (!i) return -ENOSPC;
  info(i)->target = kstrdup(target);
  if (!info(i)->target) {
    inode_put(i);
    return -ENOMEM;
  }
  i->size = strlen(target);
  return attach(dir, d, i);
}

static int op_link(struct dentry *old, struct inode *dir, struct dentry *d) {
  struct inode *i = old->inode;
  u32 n = READ_ONCE(i->nlink);
  do { // a name that is being removed meanwhile must not come back
    if (!n && !(i->flags & INODE_LINKABLE)) return -ENOENT;
    if (n >= 65000) return -EMLINK;
  } while (!__atomic_compare_exchange_n(&i->nlink, &n, n + 1, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  int r = attach(dir, d, inode_get(i));
  if (r) __atomic_sub_fetch(&i->nlink, 1, __ATOMIC_RELAXED);
  else {
    i->flags &= ~(u32)INODE_LINKABLE;
    i->ctime = time_now_ts();
  }
  return r;
}

static int op_unlink(struct inode *dir, struct dentry *d) {
  remove_entry(dir, d);
  __atomic_sub_fetch(&d->inode->nlink, 1, __ATOMIC_RELAXED);
  d->inode->ctime = time_now_ts();
  dentry_put(d); // the name's pin; the caller has a reference
  return 0;
}

static bool dir_empty(struct inode *dir) {
  u64 key = 0;
  return !radix_next(&info(dir)->entries, &key, -1);
}

static int op_rmdir(struct inode *dir, struct dentry *d) {
  if (!dir_empty(d->inode)) return -ENOTEMPTY;
  remove_entry(dir, d);
  d->inode->nlink = 0;
  __atomic_sub_fetch(&dir->nlink, 1, __ATOMIC_RELAXED);
  dentry_put(d);
  return 0;
}

// Entries change places; the caller moves the dentries.
static int op_rename(struct inode *from, struct dentry *o, struct inode *to, struct dentry *n, u32 flags) {
  struct inode *i = o->inode, *v = n->inode;
  bool dir = S_ISDIR(i->mode), vdir = v && S_ISDIR(v->mode);
  if (flags & RENAME_EXCHANGE) {
    u64 co = o->cookie, cn = n->cookie;
    int e = add_entry(to, o);
    if (e) return e;
    if ((e = add_entry(from, n))) { // only the listing was touched: undo it
      remove_entry(to, o);
      o->cookie = co;
      return e;
    }
    radix_remove(&info(from)->entries, co);
    radix_remove(&info(to)->entries, cn);
    from->size -= ENTRY_SIZE;
    to->size -= ENTRY_SIZE;
    if (from != to && dir != vdir) {
      __atomic_add_fetch(&from->nlink, vdir ? 1 : -1u, __ATOMIC_RELAXED);
      __atomic_add_fetch(&to->nlink, dir ? 1 : -1u, __ATOMIC_RELAXED);
    }
    v->ctime = i->ctime = time_now_ts();
    return 0;
  }
  if (vdir && !dir_empty(v)) return -ENOTEMPTY;
  u64 old_cookie = o->cookie;
  int r = add_entry(to, o); // the only step that can fail
  if (r) return r;
  u64 new_cookie = o->cookie;
  o->cookie = old_cookie;
  remove_entry(from, o);
  o->cookie = new_cookie;
  if (v) {
    remove_entry(to, n);
    if (vdir) {
      v->nlink = 0;
      __atomic_sub_fetch(&to->nlink, 1, __ATOMIC_RELAXED);
    } else {
      __atomic_sub_fetch(&v->nlink, 1, __ATOMIC_RELAXED);
    }
    v->ctime = time_now_ts();
    dentry_put(n);
  }
  if (dir && from != to) {
    __atomic_sub_fetch(&from->nlink, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&to->nlink, 1, __ATOMIC_RELAXED);
  }
  i->ctime = time_now_ts();
  return 0;
}

static int op_tmpfile(struct inode *dir, struct dentry *d, u32 mode) {
  struct inode *i = new_inode(dir->super, dir, mode, 0);
  if (!i) return -ENOSPC;
  i->nlink = 0;
  i->flags |= INODE_LINKABLE;
  d->inode = i;
  return 0;
}

static int op_readlink(struct inode *i, char *buf, size_t size) {
  size_t n = MIN((size_t)i->size, size);
  memcpy(buf, info(i)->target, n);
  return (int)n;
}

static int dir_readdir(struct file *f, struct dirent_sink *s, u64 *pos) {
  struct inode *dir = f->inode;
  int r = mutex_lock_interruptible(&dir->lock);
  if (r) return r;
  if (*pos == 0) {
    if (!s->emit(s, ".", 1, dir->ino, DT_DIR, 1)) goto out;
    *pos = 1;
  }
  if (*pos == 1) {
    spin_lock(&dcache_lock);
    u64 up = f->dentry->parent ? f->dentry->parent->inode->ino : dir->ino;
    spin_unlock(&dcache_lock);
    if (!s->emit(s, "..", 2, up, DT_DIR, FIRST_COOKIE)) goto out;
    *pos = FIRST_COOKIE;
  }
  for (;;) {
    u64 cookie = *pos;
    struct dentry *d = radix_next(&info(dir)->entries, &cookie, -1);
    if (!d) break;
    if (!s->emit(s, d->name, d->name_len, d->inode->ino, mode_to_dt(d->inode->mode), cookie + 1)) break;
    *pos = cookie + 1;
  }
  inode_touch_atime(dir);
out:
  mutex_unlock(&dir->lock);
  return 0;
}

// --- extended attributes
static struct xattr *find_xattr(struct inode *i, const char *name) {
  struct xattr *x;
  list_for_each(x, &info(i)->xattrs, link)
    if (!strcmp(x->name, name)) return x;
  return NULL;
}

static long op_getxattr(struct dentry *d, const char *name, void *buf, size_t size) {
  struct inode *i = d->inode;
  mutex_lock(&i->lock);
  struct xattr *x = find_xattr(i, name);
  long r = !x ? -ENODATA : !size ? (long)x->len : x->len > size ? -ERANGE : (long)x->len;
  if (r > 0 && size) memcpy(buf, x->value, x->len);
  mutex_unlock(&i->lock);
  return r;
}

static int op_setxattr(struct dentry *d, const char *name, const void *buf, size_t size, int flags) {
  struct inode *i = d->inode;
  struct xattr *x = kzalloc(sizeof *x);
  int r = -ENOMEM;
  if (!x) return r;
  list_init(&x->link);
  x->name = kstrdup(name);
  x->value = kmalloc(MAX(size, (size_t)1), 0);
  if (!x->name || !x->value) goto out;
  memcpy(x->value, buf, size);
  x->len = size;
  mutex_lock(&i->lock);
  struct xattr *old = find_xattr(i, name);
  r = (flags & 1 /* XATTR_CREATE */) && old ? -EEXIST : (flags & 2 /* XATTR_REPLACE */) && !old ? -ENODATA : 0;
  if (!r) {
    list_push_back(&info(i)->xattrs, &x->link);
    i->ctime = time_now_ts();
    x = old;
    if (old) list_remove(&old->link);
  }
  mutex_unlock(&i->lock);
out:
  if (x) {
    kfree(x->name);
    kfree(x->value);
    kfree(x);
  }
  return r;
}

static long op_listxattr(struct dentry *d, char *buf, size_t size) {
  struct inode *i = d->inode;
  struct xattr *x;
  size_t n = 0;
  mutex_lock(&i->lock);
  list_for_each(x, &info(i)->xattrs, link) {
    size_t len = strlen(x->name) + 1;
    if (size && n + len <= size) memcpy(buf + n, x->name, len);
    n += len;
  }
  mutex_unlock(&i->lock);
  return size && n > size ? -ERANGE : (long)n;
}

static int op_removexattr(struct dentry *d, const char *name) {
  struct inode *i = d->inode;
  mutex_lock(&i->lock);
  struct xattr *x = find_xattr(i, name);
  if (x) {
    list_remove(&x->link);
    i->ctime = time_now_ts();
  }
  mutex_unlock(&i->lock);
  if (!x) return -ENODATA;
  kfree(x->name);
  kfree(x->value);
  kfree(x);
  return 0;
}

// --- files
static long file_fallocate(struct file *f, int mode, u64 off, u64 len) {
  struct inode *i = f->inode;
  struct readahead ra = { &i->ra_next, &i->ra_window };
  u64 end = off + len, room = len;
  int r = mutex_lock_interruptible(&i->lock);
  if (r) return r;
  if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)) {
    u64 first = DIV_ROUND_UP(off, PAGE_SIZE), last = end >> PAGE_SHIFT; // whole pages: [first, last)
    if (i->seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) r = -EPERM;
    else {
      pagecache_zero_range(i, off, MIN(end, first << PAGE_SHIFT));
      if (last >= first) pagecache_zero_range(i, MAX(off, last << PAGE_SHIFT), end);
      if (last > first) pagecache_remove_range(i, first, last - 1);
      touch(i);
    }
  } else if (mode & ~FALLOC_FL_KEEP_SIZE) {
    r = -EOPNOTSUPP;
  } else if (!(r = fsize_check(f, off, &room))) {
    if (room < len) r = -EFBIG;
    else if (end > i->size && (i->seals & F_SEAL_GROW)) r = -EPERM;
    for (u64 k = off >> PAGE_SHIFT; !r && k <= (end - 1) >> PAGE_SHIFT; k++) {
      struct page *p;
      r = pagecache_get(i, k, 1, true, ra, &p);
      if (!r) page_put(p);
      if (!r && READ_ONCE(thread_current()->interrupt_pending)) r = -EINTR;
      sched_yield_if_needed();
    }
    if (!r && !(mode & FALLOC_FL_KEEP_SIZE) && end > i->size) WRITE_ONCE(i->size, end);
    if (!r) touch(i);
  }
  mutex_unlock(&i->lock);
  return r;
}

static int file_truncate(struct file *f, u64 size) { return fs_truncate(f->dentry, size, f); }
static int no_fsync(struct file *f, u64 start, u64 len, bool data_only) { return 0; }

static int op_statfs(struct super *s, struct kstatfs *st) {
  u64 used = READ_ONCE(s->pages_used), inodes = READ_ONCE(s->inodes_used);
  *st = (struct kstatfs){ .type = TMPFS_MAGIC, .bsize = PAGE_SIZE, .blocks = s->page_limit, .namelen = NAME_MAX, .files = s->page_limit };
  st->bfree = st->bavail = s->page_limit - MIN(used, s->page_limit);
  st->ffree = s->page_limit - MIN(inodes, s->page_limit);
  return 0;
}

#define COMMON_OPS .setattr = inode_setattr_simple, .evict = evict, .getxattr = op_getxattr, .setxattr = op_setxattr, \
  .listxattr = op_listxattr, .removexattr = op_removexattr
static const struct inode_ops dir_ops = { .lookup = op_lookup, .create = op_create, .mkdir = op_mkdir, .mknod = op_mknod,
  .symlink = op_symlink, .link = op_link, .unlink = op_unlink, .rmdir = op_rmdir, .rename = op_rename, .tmpfile = op_tmpfile, COMMON_OPS };
static const struct inode_ops file_ops_ = { COMMON_OPS }, special_ops = { COMMON_OPS };
static const struct inode_ops link_ops = { .readlink = op_readlink, COMMON_OPS };
static const struct file_ops dir_fops = { .readdir = dir_readdir, .seek = file_seek_generic, .fsync = no_fsync };
static const struct file_ops file_fops = { .read = pagecache_read, .write = pagecache_write, .seek = file_seek_generic,
  .mmap = pagecache_mmap, .fsync = no_fsync, .truncate = file_truncate, .fallocate = file_fallocate };

struct super *tmpfs_create_type(const char *type, u64 limit_bytes, u32 mode) {
  struct super *s = super_create(type, SUPER_STORAGE | SUPER_ATIME);
  if (!s) return NULL;
  s->page_limit = (limit_bytes ? limit_bytes : page_total_count() * PAGE_SIZE / 2) / PAGE_SIZE;
  s->statfs = op_statfs;
  struct inode *root = new_inode(s, NULL, S_IFDIR | mode, 0);
  if (!root || !dentry_create_root(s, root)) {
    if (root) inode_put(root);
    kfree(s);
    return NULL;
  }
  return s;
}

struct super *tmpfs_create(u64 limit_bytes, u32 mode) { return tmpfs_create_type("tmpfs", limit_bytes, mode); }

struct dentry *tmpfs_add_node(struct dentry *parent, const char *name, size_t len, u32 mode, u64 rdev, const char *target) {
  struct inode *dir = parent->inode;
  mutex_lock(&dir->lock);
  struct dentry *d = dentry_lookup_locked(parent, name, len);
  int r = is_err(d) ? (int)ptr_err(d) : d->inode ? -EEXIST : 0;
  if (!r) r = target ? op_symlink(dir, d, target) : S_ISDIR(mode) ? op_mkdir(dir, d, mode) : make(dir, d, mode, rdev);
  mutex_unlock(&dir->lock);
  if (r) {
    if (!is_err(d)) dentry_put(d);
    return err_ptr(r);
  }
  return d;
}

// --- memfd: files of a super that is mounted nowhere
struct file *tmpfs_memfd(const char *name, u32 flags) {
  static struct super *shm;
  static struct spinlock once = SPINLOCK_INIT(RANK_OBJECT);
  struct super *s = __atomic_load_n(&shm, __ATOMIC_ACQUIRE);
  if (!s) {
    s = tmpfs_create(page_total_count() * PAGE_SIZE, 0755);
    if (!s) return err_ptr(-ENOMEM);
    spin_lock(&once);
    if (!shm) __atomic_store_n(&shm, s, __ATOMIC_RELEASE); // else the loser's empty super is lost: it happens once
    s = shm;
    spin_unlock(&once);
  }
  char text[NAME_MAX + 8];
  int len = snprintf(text, sizeof text, "memfd:%s", name);
  struct inode *i = new_inode(s, NULL, S_IFREG | 0777, 0);
  if (!i) return err_ptr(-ENOSPC);
  i->nlink = 0;
  if (flags & MFD_ALLOW_SEALING) i->seals = 0;
  struct dentry *d = dentry_alloc(s, NULL, text, (size_t)MIN(len, (int)sizeof text - 1));
  if (!d) {
    inode_put(i);
    return err_ptr(-ENOMEM);
  }
  d->inode = i;
  d->flags |= DENTRY_DELETED;
  struct path p = { NULL, d };
  struct file *f = dentry_open(&p, O_RDWR | O_LARGEFILE);
  dentry_put(d);
  return f;
}

long seals_fcntl(struct file *f, int cmd, u64 arg) {
  struct inode *i = f->inode;
  struct vma *v;
  if (!i || i->fops != &file_fops) return -EINVAL;
  if (cmd == F_GET_SEALS) return (long)i->seals;
  if ((f->flags & O_ACCMODE) == O_RDONLY) return -EPERM;
  if (arg & ~(u64)(F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) return -EINVAL;
  mutex_lock(&i->lock);
  long r = i->seals & F_SEAL_SEAL ? -EPERM : 0;
  if (!r && (arg & F_SEAL_WRITE) && !(i->seals & F_SEAL_WRITE)) {
    spin_lock(&i->mem.lock);
    list_for_each(v, &i->mem.areas, obj_link)
      if ((v->flags & VMA_SHARED) && (v->flags & VMA_MAYWRITE)) r = -EBUSY;
    if (!r) i->mem.no_writers = true; // an mmap that has looked at the seals already
    spin_unlock(&i->mem.lock);
  }
  if (!r) i->seals |= (u32)arg;
  mutex_unlock(&i->lock);
  return r;
}

// SPDX-License-Identifier: Apache-2.0
//
// Opening: from a path or a dentry to a struct file, with Linux's order of checks.
#include "fs/internal.h"

static const struct file_ops no_ops; // O_PATH, and files whose open failed half-way

// --- character devices by number
struct chrdev { struct list link; u64 rdev; const struct file_ops *fops; void *priv; int (*open)(struct file *f); };
static struct list chrdev_list = LIST_INIT(chrdev_list);
static struct spinlock chrdev_lock = SPINLOCK_INIT(RANK_OBJECT);

int chrdev_register(u64 rdev, const struct file_ops *fops, void *priv, int (*open)(struct file *f)) {
  struct chrdev *c = kzalloc(sizeof *c);
  if (!c) return -ENOMEM;
  c->rdev = rdev;
  c->fops = fops;
  c->priv = priv;
  c->open = open;
  spin_lock(&chrdev_lock);
  list_push_back(&chrdev_list, &c->link);
  spin_unlock(&chrdev_lock);
  return 0;
}

int chrdev_open(struct file *f) {
  struct chrdev *c, *found = NULL;
  spin_lock(&chrdev_lock);
  list_for_each(c, &chrdev_list, link)
    if (c->rdev == f->inode->rdev) found = c;
  spin_unlock(&chrdev_lock); // entries are never removed
  if (!found) return -ENXIO;
  f->ops = found->fops;
  f->priv = found->priv;
  return found->open ? found->open(f) : 0;
}

struct file *dentry_open(const struct path *p, u32 flags) {
  struct inode *i = p->dentry->inode;
  struct file *f = file_create(&no_ops, NULL, flags & ~(u32)(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC));
  if (!f) return err_ptr(-ENFILE);
  f->dentry = dentry_get(p->dentry);
  f->mnt = p->mnt;
  f->inode = i;
  f->ra_next = 0;
  f->ra_window = 0;
  if (flags & O_PATH) {
    f->path_only = true;
    return f;
  }
  int r = 0;
  f->ops = i->fops ? i->fops : &no_ops;
  if (S_ISFIFO(i->mode)) r = fifo_open(f, &i->pipe);
  else if (S_ISCHR(i->mode)) r = chrdev_open(f);
  else if (S_ISBLK(i->mode) || S_ISSOCK(i->mode)) r = -ENXIO;
  else if (S_ISLNK(i->mode)) r = -ELOOP;
  if (!r && i->ops->open && !S_ISFIFO(i->mode)) r = i->ops->open(i, f);
  if (r) {
    f->ops = &no_ops; // what failed to open has nothing to release
    file_put(f);
    return err_ptr(r);
  }
  file_notify(f, IN_OPEN);
  return f;
}

static int acc_mask(u32 flags) {
  switch (flags & O_ACCMODE) {
  case O_RDONLY: return MAY_READ | (flags & O_TRUNC ? MAY_WRITE : 0);
  case O_WRONLY: return MAY_WRITE;
  default: return MAY_READ | MAY_WRITE;
  }
}

static int may_open(struct inode *i, u32 flags, bool created) {
  u32 mode = i->mode;
  if (S_ISLNK(mode) && !(flags & O_PATH)) return flags & O_DIRECTORY ? -ENOTDIR : -ELOOP;
  if ((flags & O_DIRECTORY) && !S_ISDIR(mode)) return -ENOTDIR;
  if (flags & O_PATH) return 0;
  int mask = acc_mask(flags);
  if (S_ISDIR(mode) && ((mask & MAY_WRITE) || (flags & O_CREAT))) return -EISDIR;
  int r = created ? 0 : inode_permission(i, mask);
  if (r) return r;
  u32 uid = fs_cred()->fsuid;
  if ((flags & O_NOATIME) && uid && uid != i->uid) return -EPERM;
  return 0;
}

static struct file *open_found(const struct path *p, u32 flags, bool created) {
  struct inode *i = p->dentry->inode;
  int r = may_open(i, flags, created);
  if (r) return err_ptr(r);
  struct file *f = dentry_open(p, flags);
  if (!is_err(f) && (flags & O_TRUNC) && !(flags & O_PATH) && S_ISREG(i->mode) && !created && (r = fs_truncate(p->dentry, 0, f))) {
    file_put(f);
    return err_ptr(r);
  }
  return f;
}

static struct file *open_tmpfile(int at, const char *name, u32 flags, u32 mode, u64 resolve) {
  struct path dir;
  if (!(acc_mask(flags) & MAY_WRITE)) return err_ptr(-EINVAL);
  int r = path_lookup_resolve(at, name, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, resolve, &dir);
  if (r) return err_ptr(r);
  struct inode *i = dir.dentry->inode;
  struct dentry *d = NULL;
  struct file *f;
  char text[24];
  r = inode_permission(i, MAY_WRITE | MAY_EXEC);
  if (!r && !i->ops->tmpfile) r = -EOPNOTSUPP;
  if (!r && !(d = dentry_alloc(dir.dentry->super, dir.dentry, text, (size_t)snprintf(text, sizeof text, "#%llu", (unsigned long long)random_u64() >> 32)))) r = -ENOMEM;
  if (!r) r = i->ops->tmpfile(i, d, mode);
  if (r) {
    f = err_ptr(r);
  } else {
    d->flags |= DENTRY_DELETED;
    struct path p = { dir.mnt, d };
    f = open_found(&p, flags & ~(u32)(O_CREAT | O_DIRECTORY), true);
  }
  if (d) dentry_put(d);
  path_put(&dir);
  return f;
}

// The last component when O_CREAT is given: found or made, referenced, under the directory's lock only when it must be.
static struct dentry *find_or_create(struct walk *w, u32 flags, u32 mode, bool *created) {
  struct dentry *parent = w->cur.dentry;
  struct inode *dir = parent->inode;
  struct dentry *d = dentry_lookup_cached(parent, w->last, w->last_len);
  if (d && READ_ONCE(d->inode) && dentry_fresh(d)) return d;
  if (d) dentry_put(d);
  int r = mutex_lock_interruptible(&dir->lock);
  if (r) return err_ptr(r);
  d = dentry_lookup_locked(parent, w->last, w->last_len);
  if (!is_err(d) && !d->inode) {
    r = dir->super->flags & SUPER_RDONLY ? -EROFS : inode_permission(dir, MAY_WRITE | MAY_EXEC);
    if (!r) r = dir->ops->create ? dir->ops->create(dir, d, mode) : -EACCES;
    if (r == -EEXIST && !(flags & O_EXCL)) r = -EAGAIN; // the host made it meanwhile: look again
    if (r) {
      dentry_drop(d);
      dentry_put(d);
      d = err_ptr(r);
    } else {
      *created = true;
      dentry_hash_made(d);
      fs_notify_name(parent, IN_CREATE, 0, d->name, d->name_len); // a rename may take the name away after the lock
    }
  }
  mutex_unlock(&dir->lock);
  return d;
}

struct file *path_open_resolve(int at, const char *name, u32 flags, u32 mode, u64 resolve) {
  struct walk w;
  struct file *f = NULL;
  bool created = false;
  unsigned tries = 0;
  if (flags & O_PATH) flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  else flags |= O_LARGEFILE;
  if ((flags & (O_CREAT | O_DIRECTORY)) == (O_CREAT | O_DIRECTORY) && !(flags & (__O_TMPFILE))) return err_ptr(-EINVAL);
  if (!*name) return err_ptr(-ENOENT);
  struct fscontext *c = fscontext_current ? fscontext_current() : NULL;
  mode = S_IFREG | (mode & 07777 & ~(c ? c->umask : 0));
  if (flags & __O_TMPFILE) return (flags & O_TMPFILE) == O_TMPFILE && !(flags & O_CREAT) ? open_tmpfile(at, name, flags, mode, resolve) : err_ptr(-EINVAL);
  int r = walk_begin(&w, at, name, resolve);
  if (r) return err_ptr(r);
  for (;;) {
    if ((r = walk_parent(&w))) break;
    if (w.last_type != LAST_NORM) {
      if (flags & O_CREAT) r = flags & O_EXCL ? -EEXIST : -EISDIR;
      else r = walk_last_dots(&w);
      break;
    }
    if ((flags & O_CREAT) && w.slash) {
      r = -EISDIR;
      break;
    }
    struct dentry *d = flags & O_CREAT ? find_or_create(&w, flags, mode, &created) : dentry_lookup(w.cur.dentry, w.last, w.last_len);
    if (is_err(d)) {
      r = (int)ptr_err(d);
      if (r == -EAGAIN && tries++ < 4) {
        r = 0;
        w.p = w.last;
        continue;
      }
      break;
    }
    struct inode *i = READ_ONCE(d->inode);
    if (!i) r = -ENOENT;
    else if ((flags & O_EXCL) && (flags & O_CREAT) && !created) r = -EEXIST;
    if (r) {
      dentry_put(d);
      break;
    }
    if (S_ISLNK(i->mode) && !d->mounted && (!(flags & O_NOFOLLOW) || w.slash)) {
      bool slash = w.slash;
      r = walk_follow(&w, d, slash ? "/" : "");
      if (r == -EOPNOTSUPP && i->ops->follow_file) { // a pipe or socket behind /proc/self/fd
        f = flags & O_PATH ? err_ptr(-EOPNOTSUPP) : i->ops->follow_file(d, flags);
        dentry_put(d);
        walk_end(&w);
        return f;
      }
      dentry_put(d);
      if (r < 0) break;
      if (r == 0) continue;
      r = slash && !S_ISDIR(w.cur.dentry->inode->mode) ? -ENOTDIR : 0;
      w.slash = false;
      break;
    }
    struct mount *m = w.cur.mnt;
    walk_enter(&w, d);
    if ((resolve & 1 /* RESOLVE_NO_XDEV */) && m != w.cur.mnt) r = -EXDEV;
    break;
  }
  if (!r && w.slash && !S_ISDIR(w.cur.dentry->inode->mode)) r = -ENOTDIR;
  f = r ? err_ptr(r) : open_found(&w.cur, flags, created);
  walk_end(&w);
  return f;
}

struct file *path_open(int at, const char *name, u32 flags, u32 mode) { return path_open_resolve(at, name, flags, mode, 0); }

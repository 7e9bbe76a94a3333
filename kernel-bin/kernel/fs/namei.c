// SPDX-License-Identifier: Apache-2.0
//
// Making, removing and renaming names. Locks: the parent directory's inode->lock (ancestor before descendant; two
// unrelated ones by address, under rename_lock), then a victim directory's. rename_lock (mutex, before every inode lock)
// keeps the tree's shape still while a rename looks at who is below whom.
#include "fs/internal.h"

static struct mutex rename_lock;

void namei_init(void) { mutex_init(&rename_lock, RANK_INODE); }

void fs_notify_name(struct dentry *parent, u32 mask, u32 cookie, const char *name, size_t len) {
  if (unlikely(READ_ONCE(inotify_active)) && !list_empty(&parent->inode->watches))
    inotify_event(&parent->inode->watches, mask, cookie, name, len);
}

// A new name: on success the parent's lock is held and *d is its negative dentry. dir_ok: "name/" may be given.
static int create_begin(struct walk *w, int at, const char *name, bool dir_ok, struct dentry **d) {
  if (!*name) return -ENOENT;
  int r = walk_begin(w, at, name, 0);
  if (r) return r;
  if ((r = walk_parent(w))) goto out;
  if (w->last_type != LAST_NORM) {
    r = -EEXIST;
    goto out;
  }
  struct inode *dir = w->cur.dentry->inode;
  if ((r = mutex_lock_interruptible(&dir->lock))) goto out;
  *d = dentry_lookup_locked(w->cur.dentry, w->last, w->last_len);
  if (is_err(*d)) {
    r = (int)ptr_err(*d);
  } else {
    if ((*d)->inode || (*d)->mounted) r = -EEXIST;
    else if (w->slash && !dir_ok) r = -ENOENT;
    else if (dir->super->flags & SUPER_RDONLY) r = -EROFS;
    else r = inode_permission(dir, MAY_WRITE | MAY_EXEC);
    if (!r) return 0;
    dentry_put(*d);
  }
  mutex_unlock(&dir->lock);
out:
  walk_end(w);
  return r;
}

static int create_end(struct walk *w, struct dentry *d, int r, u32 mask) {
  if (r) dentry_drop(d); // whatever the host did: look again next time
  else dentry_hash_made(d);
  if (!r) fs_notify_name(w->cur.dentry, mask, 0, d->name, d->name_len); // a rename may take the name away after the lock
  mutex_unlock(&w->cur.dentry->inode->lock);
  return r;
}

static u32 current_umask(void) {
  struct fscontext *c = fscontext_current ? fscontext_current() : NULL;
  return c ? c->umask : 0;
}

int fs_mkdir(int at, const char *name, u32 mode) {
  struct walk w;
  struct dentry *d;
  int r = create_begin(&w, at, name, true, &d);
  if (r) return r;
  struct inode *dir = w.cur.dentry->inode;
  mode = S_IFDIR | (mode & 01777 & ~current_umask());
  r = create_end(&w, d, dir->ops->mkdir ? dir->ops->mkdir(dir, d, mode) : -EPERM, IN_CREATE | IN_ISDIR);
  dentry_put(d);
  walk_end(&w);
  return r;
}

int path_mknod(int at, const char *name, u32 mode, u64 rdev, struct path *out) {
  struct walk w;
  struct dentry *d;
  if (!(mode & S_IFMT)) mode |= S_IFREG;
  if (S_ISDIR(mode)) return -EPERM;
  if (!S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode) && !S_ISCHR(mode) && !S_ISBLK(mode)) return -EINVAL;
  if ((S_ISCHR(mode) || S_ISBLK(mode)) && fs_cred()->fsuid) return -EPERM;
  int r = create_begin(&w, at, name, false, &d);
  if (r) return r;
  struct inode *dir = w.cur.dentry->inode;
  mode = (mode & S_IFMT) | (mode & 07777 & ~current_umask());
  if (S_ISREG(mode)) r = dir->ops->create ? dir->ops->create(dir, d, mode) : -EPERM;
  else r = dir->ops->mknod ? dir->ops->mknod(dir, d, mode, rdev) : -EPERM;
  r = create_end(&w, d, r, IN_CREATE);
  if (!r && out) *out = (struct path){ w.cur.mnt, dentry_get(d) };
  dentry_put(d);
  walk_end(&w);
  return r;
}

int fs_symlink(const char *target, int at, const char *name) {
  struct walk w;
  struct dentry *d;
  if (!*target) return -ENOENT;
  int r = create_begin(&w, at, name, false, &d);
  if (r) return r;
  struct inode *dir = w.cur.dentry->inode;
  r = create_end(&w, d, dir->ops->symlink ? dir->ops->symlink(dir, d, target) : -EPERM, IN_CREATE);
  dentry_put(d);
  walk_end(&w);
  return r;
}

int fs_link(const struct path *old, int at, const char *name) {
  struct walk w;
  struct dentry *d;
  int r = create_begin(&w, at, name, false, &d);
  if (r) return r;
  struct inode *dir = w.cur.dentry->inode, *i = old->dentry->inode;
  if (dir->super != i->super) r = -EXDEV;
  else if (S_ISDIR(i->mode)) r = -EPERM;
  else if (!dir->ops->link) r = -EPERM;
  else r = dir->ops->link(old->dentry, dir, d);
  r = create_end(&w, d, r, IN_CREATE);
  if (!r) fs_notify(old->dentry, IN_ATTRIB);
  dentry_put(d);
  walk_end(&w);
  return r;
}

static bool is_mount_point(struct dentry *d) { return d->mounted || (d->flags & (DENTRY_PSEUDO | DENTRY_HAS_PSEUDO)); }

// An existing name that is to go: on success the parent's lock is held and *d is positive.
static int remove_begin(struct walk *w, int at, const char *name, bool want_dir, struct dentry **d) {
  if (!*name) return -ENOENT;
  int r = walk_begin(w, at, name, 0);
  if (r) return r;
  if ((r = walk_parent(w))) goto out;
  if (w->last_type != LAST_NORM) {
    r = !want_dir ? -EISDIR : w->last_type == LAST_DOT ? -EINVAL : w->last_type == LAST_DOTDOT ? -ENOTEMPTY : -EBUSY;
    goto out;
  }
  struct inode *dir = w->cur.dentry->inode;
  if ((r = mutex_lock_interruptible(&dir->lock))) goto out;
  *d = dentry_lookup_locked(w->cur.dentry, w->last, w->last_len);
  if (is_err(*d)) {
    r = (int)ptr_err(*d);
  } else {
    struct inode *i = (*d)->inode;
    if (!i) r = -ENOENT;
    else if (w->slash && !want_dir) r = S_ISDIR(i->mode) ? -EISDIR : -ENOTDIR;
    else if (is_mount_point(*d)) r = -EBUSY;
    else if (dir->super->flags & SUPER_RDONLY) r = -EROFS;
    else if (!(r = inode_permission(dir, MAY_WRITE | MAY_EXEC)) && !(r = inode_check_sticky(dir, i)))
      r = want_dir ? (S_ISDIR(i->mode) ? 0 : -ENOTDIR) : S_ISDIR(i->mode) ? -EISDIR : 0;
    if (!r) return 0;
    dentry_put(*d);
  }
  mutex_unlock(&dir->lock);
out:
  walk_end(w);
  return r;
}

static void notify_gone(struct dentry *parent, struct dentry *d, bool dir) {
  fs_notify_name(parent, IN_DELETE | (dir ? IN_ISDIR : 0), 0, d->name, d->name_len);
  if (unlikely(READ_ONCE(inotify_active)) && !list_empty(&d->inode->watches))
    inotify_event(&d->inode->watches, dir || d->inode->nlink == 0 ? IN_DELETE_SELF : IN_ATTRIB, 0, NULL, 0);
}

int fs_unlink(int at, const char *name) {
  struct walk w;
  struct dentry *d;
  int r = remove_begin(&w, at, name, false, &d);
  if (r) return r;
  struct inode *dir = w.cur.dentry->inode;
  r = dir->ops->unlink ? dir->ops->unlink(dir, d) : -EPERM;
  if (!r) dentry_delete(d);
  mutex_unlock(&dir->lock);
  if (!r) notify_gone(w.cur.dentry, d, false);
  dentry_put(d); // the file's last pages may go here: not under the lock
  walk_end(&w);
  return r;
}

int fs_rmdir(int at, const char *name) {
  struct walk w;
  struct dentry *d;
  int r = remove_begin(&w, at, name, true, &d);
  if (r) return r;
  struct inode *dir = w.cur.dentry->inode;
  if (d->inode == dir) { // a host that says a directory contains itself: its lock is held
    r = -EIO;
  } else {
    mutex_lock(&d->inode->lock); // nobody makes something in it while it goes
    r = dir->ops->rmdir ? dir->ops->rmdir(dir, d) : -EPERM;
    if (!r) {
      d->inode->flags |= INODE_DEAD;
      dentry_delete(d);
    }
    mutex_unlock(&d->inode->lock);
  }
  mutex_unlock(&dir->lock);
  if (!r) notify_gone(w.cur.dentry, d, true);
  dentry_put(d);
  walk_end(&w);
  return r;
}

static void lock_two(struct dentry *a, struct dentry *b) {
  struct inode *x = a->inode, *y = b->inode;
  if (x == y) {
    mutex_lock(&x->lock);
    return;
  }
  bool b_first = dentry_is_below(a, b) || (!dentry_is_below(b, a) && y < x);
  mutex_lock(b_first ? &y->lock : &x->lock);
  mutex_lock(b_first ? &x->lock : &y->lock);
}

static void unlock_two(struct dentry *a, struct dentry *b) {
  mutex_unlock(&a->inode->lock);
  if (a->inode != b->inode) mutex_unlock(&b->inode->lock);
}

static int rename_check(struct walk *wf, struct walk *wt, struct dentry *o, struct dentry *n, u32 flags) {
  struct inode *from = wf->cur.dentry->inode, *to = wt->cur.dentry->inode, *i = o->inode, *v = n->inode;
  bool exchange = (flags & RENAME_EXCHANGE) != 0;
  int r;
  if (!i) return -ENOENT;
  if ((flags & RENAME_NOREPLACE) && v) return -EEXIST;
  if (exchange && !v) return -ENOENT;
  if (!S_ISDIR(i->mode) && (wf->slash || (!exchange && wt->slash))) return -ENOTDIR;
  if (exchange && wt->slash && !S_ISDIR(v->mode)) return -ENOTDIR;
  if (dentry_is_below(wt->cur.dentry, o)) return -EINVAL;
  if (v && dentry_is_below(wf->cur.dentry, n)) return exchange ? -EINVAL : -ENOTEMPTY;
  if (from->super->flags & SUPER_RDONLY) return -EROFS;
  if (i == from || i == to || v == from || v == to) return -EIO; // only a host has a directory twice: its lock is held
  if (i == v) return 1; // two names of one file, or one name: nothing happens, nor is there anything to exchange
  if ((r = inode_permission(from, MAY_WRITE | MAY_EXEC)) || (r = inode_permission(to, MAY_WRITE | MAY_EXEC))) return r;
  if ((r = inode_check_sticky(from, i))) return r;
  if (v && (r = inode_check_sticky(to, v))) return r;
  if (v && !exchange) {
    if (S_ISDIR(i->mode) && !S_ISDIR(v->mode)) return -ENOTDIR;
    if (!S_ISDIR(i->mode) && S_ISDIR(v->mode)) return -EISDIR;
  }
  if (is_mount_point(o) || is_mount_point(n)) return -EBUSY;
  if (from != to && S_ISDIR(i->mode) && (r = inode_permission(i, MAY_WRITE))) return r; // its ".." changes
  if (to->flags & INODE_DEAD) return -ENOENT;
  return from->ops->rename ? 0 : -EPERM;
}

int fs_rename(int from_at, const char *from, int to_at, const char *to, u32 flags) {
  struct walk wf, wt;
  struct dentry *o = NULL, *n = NULL;
  static u32 cookies;
  if (flags & ~(u32)(RENAME_NOREPLACE | RENAME_EXCHANGE)) return -EINVAL;
  if ((flags & RENAME_NOREPLACE) && (flags & RENAME_EXCHANGE)) return -EINVAL;
  if (!*from || !*to) return -ENOENT;
  int r = walk_begin(&wf, from_at, from, 0);
  if (r) return r;
  if ((r = walk_begin(&wt, to_at, to, 0))) {
    walk_end(&wf);
    return r;
  }
  if ((r = walk_parent(&wf)) || (r = walk_parent(&wt))) goto out;
  if (wf.cur.mnt != wt.cur.mnt) r = -EXDEV;
  else if (wf.last_type != LAST_NORM) r = -EBUSY;
  else if (wt.last_type != LAST_NORM) r = flags & RENAME_NOREPLACE ? -EEXIST : -EBUSY;
  if (r) goto out;
  if ((r = mutex_lock_interruptible(&rename_lock))) goto out;
  lock_two(wf.cur.dentry, wt.cur.dentry);
  o = dentry_lookup_locked(wf.cur.dentry, wf.last, wf.last_len);
  n = is_err(o) ? NULL : dentry_lookup_locked(wt.cur.dentry, wt.last, wt.last_len);
  r = is_err(o) ? (int)ptr_err(o) : is_err(n) ? (int)ptr_err(n) : rename_check(&wf, &wt, o, n, flags);
  bool done = false;
  struct inode *victim = NULL;
  if (!r) {
    bool lock_victim = n->inode && n->inode != o->inode && S_ISDIR(n->inode->mode) && !(flags & RENAME_EXCHANGE);
    victim = flags & RENAME_EXCHANGE ? NULL : n->inode;
    if (lock_victim) mutex_lock(&victim->lock);
    r = wf.cur.dentry->inode->ops->rename(wf.cur.dentry->inode, o, wt.cur.dentry->inode, n, flags);
    if (!r && lock_victim) victim->flags |= INODE_DEAD;
    if (lock_victim) mutex_unlock(&victim->lock);
    if (!r) {
      done = true;
      fs_notify_name(wf.cur.dentry, IN_MOVED_FROM | (S_ISDIR(o->inode->mode) ? IN_ISDIR : 0), cookies + 1, o->name, o->name_len);
      if (flags & RENAME_EXCHANGE) dentry_exchange(o, n);
      else dentry_move(o, n);
      fs_notify_name(wt.cur.dentry, IN_MOVED_TO | (S_ISDIR(o->inode->mode) ? IN_ISDIR : 0), ++cookies, o->name, o->name_len);
    }
  } else if (r == 1) {
    r = 0;
  }
  unlock_two(wf.cur.dentry, wt.cur.dentry);
  mutex_unlock(&rename_lock);
  if (done && unlikely(READ_ONCE(inotify_active))) {
    if (!list_empty(&o->inode->watches)) inotify_event(&o->inode->watches, IN_MOVE_SELF, 0, NULL, 0);
    if (victim && !list_empty(&victim->watches)) inotify_event(&victim->watches, IN_DELETE_SELF, 0, NULL, 0);
  }
  if (o && !is_err(o)) dentry_put(o);
  if (n && !is_err(n)) dentry_put(n);
out:
  walk_end(&wf);
  walk_end(&wt);
  return r;
}

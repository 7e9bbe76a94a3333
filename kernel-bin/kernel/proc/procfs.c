// SPDX-License-Identifier: Apache-2.0
//
// The file system behind /proc and /sys: directories from tables, names that come and go (processes, threads,
// descriptors) looked up each time and never cached, text made at open.
#include "proc/procfs.h"
#include <linux/stat.h>

struct node { const struct proc_entry *e; struct proc_ref ref; };
static const struct inode_ops dir_ops, link_ops, file_inode_ops;
static const struct file_ops dir_fops;
static struct file_ops rw_fops; // seq_file_ops with a write

static struct node *node_of(const struct inode *i) { return i->priv; }

// --- what there is
static struct lwp *lwp_of_locked(const struct proc_ref *r) { // process_lock held
  struct lwp *l;
  list_for_each(l, &r->p->threads, in_process)
    if (!r->tid || l->tid == r->tid) return l;
  return NULL;
}

struct aspace *proc_ref_aspace(const struct proc_ref *r) { return process_aspace(r->p); }

struct fdtable *proc_ref_fds(const struct proc_ref *r) {
  u64 flags = spin_lock_irqsave(&process_lock);
  struct lwp *l = lwp_of_locked(r);
  struct fdtable *t = l && l->fds ? fdtable_get(l->fds) : NULL;
  spin_unlock_irqrestore(&process_lock, flags);
  return t;
}

struct fscontext *proc_ref_fs(const struct proc_ref *r) {
  u64 flags = spin_lock_irqsave(&process_lock);
  struct lwp *l = lwp_of_locked(r);
  struct fscontext *c = l && l->fs ? fscontext_get(l->fs) : NULL;
  spin_unlock_irqrestore(&process_lock, flags);
  return c;
}

static int parse_id(const char *name, size_t len) { // -1: not a number as /proc writes it
  int n = 0;
  if (!len || len > 9 || (name[0] == '0' && len > 1)) return -1;
  for (size_t i = 0; i < len; i++) {
    if (name[i] < '0' || name[i] > '9') return -1;
    n = n * 10 + (name[i] - '0');
  }
  return n;
}

// Fills `r` (with a reference of the process) for the dynamic name `id` in a directory about `dir`.
static bool dynamic_ref(enum proc_dynamic kind, const struct proc_ref *dir, int id, struct proc_ref *r) {
  *r = *dir;
  bool found = false;
  if (kind == DYNAMIC_CPUS) {
    r->id = id;
    return id < (int)cpu_count;
  }
  if (kind == DYNAMIC_FDS || kind == DYNAMIC_FDINFO) {
    struct fdtable *t = proc_ref_fds(dir);
    found = t && fdtable_next(t, id) == id;
    if (t) fdtable_put(t);
    r->id = id;
    if (found) process_get(r->p);
    return found;
  }
  u64 flags = spin_lock_irqsave(&process_lock);
  if (kind == DYNAMIC_TIDS) {
    struct lwp *l = lwp_find_locked(id);
    found = l && l->process == dir->p;
    r->tid = id;
  } else {
    r->p = process_find_locked(id);
    struct lwp *l = r->p ? NULL : lwp_find_locked(id); // a thread's number works too, though it is not listed
    if (l) r->p = l->process;
    found = r->p != NULL;
  }
  if (found) process_get(r->p);
  spin_unlock_irqrestore(&process_lock, flags);
  return found;
}

// The smallest dynamic name >= from; -1: none.
static int dynamic_next(enum proc_dynamic kind, const struct proc_ref *dir, int from) {
  int best = -1;
  if (kind == DYNAMIC_NONE) return -1;
  if (kind == DYNAMIC_CPUS) return from < (int)cpu_count ? from : -1;
  if (kind == DYNAMIC_FDS || kind == DYNAMIC_FDINFO) {
    struct fdtable *t = proc_ref_fds(dir);
    if (t) {
      best = fdtable_next(t, from);
      fdtable_put(t);
    }
    return best;
  }
  u64 flags = spin_lock_irqsave(&process_lock);
  if (kind == DYNAMIC_TIDS) {
    struct lwp *l;
    list_for_each(l, &dir->p->threads, in_process)
      if (l->tid >= from && (best < 0 || l->tid < best)) best = l->tid;
  } else {
    struct process *p;
    list_for_each(p, &process_list, all)
      if (p->pid >= from && (best < 0 || p->pid < best)) best = p->pid;
  }
  spin_unlock_irqrestore(&process_lock, flags);
  return best;
}

static bool is_dynamic(enum proc_dynamic k) { return k != DYNAMIC_NONE; }
static unsigned dynamic_name(enum proc_dynamic kind, int id, char *buf, size_t size) {
  return (unsigned)snprintf(buf, size, kind == DYNAMIC_CPUS ? "cpu%d" : "%d", id);
}

// --- inodes
// The same thing has the same number each time: programs compare them.
static u64 node_ino(const struct node *n) {
  u64 h = ((u64)(uintptr_t)n->e >> 4) * 0x9e3779b97f4a7c15ull;
  h ^= ((u64)(n->ref.p ? n->ref.p->pid : 0) << 32 ^ (u64)(u32)n->ref.tid << 12 ^ (u64)(u32)n->ref.id) * 0xff51afd7ed558ccdull;
  return (h ^ h >> 32) & 0xffffffff;
}

// Takes over the reference in `r` (below = false: takes one).
static struct inode *node_inode(struct super *s, const struct proc_entry *e, const struct proc_ref *r, bool owns) {
  struct node *n = kmalloc(sizeof *n, 0);
  struct inode *i = n ? inode_create(s, e->mode) : NULL;
  if (!i) {
    kfree(n);
    if (owns) process_put(r->p);
    return NULL;
  }
  n->e = e;
  n->ref = *r;
  if (!owns && r->p) process_get(r->p);
  i->priv = n;
  i->ino = node_ino(n);
  if (r->p) i->uid = r->p->cred.euid, i->gid = r->p->cred.egid;
  if (S_ISDIR(e->mode)) {
    i->ops = &dir_ops;
    i->fops = &dir_fops;
    i->nlink = 2;
  } else if (S_ISLNK(e->mode)) {
    i->ops = &link_ops;
  } else {
    i->ops = &file_inode_ops;
    i->fops = &seq_file_ops; // until open puts its own there
  }
  return i;
}

static void evict(struct inode *i) {
  process_put(node_of(i)->ref.p);
  kfree(i->priv);
}

static int lookup(struct inode *dir, struct dentry *d) {
  struct node *n = node_of(dir);
  const struct proc_entry *e = n->e->children;
  struct proc_ref r = n->ref;
  bool owns = false;
  while (e && e->name && strcmp(e->name, d->name)) e++;
  if (!e || !e->name) {
    size_t skip = n->e->dynamic == DYNAMIC_CPUS ? 3 : 0;
    int id = skip && strncmp(d->name, "cpu", 3) ? -1 : is_dynamic(n->e->dynamic) ? parse_id(d->name + skip, d->name_len - skip) : -1;
    if (skip && d->name_len < 3) id = -1;
    e = id >= 0 && dynamic_ref(n->e->dynamic, &n->ref, id, &r) ? n->e->each : NULL;
    owns = e && r.p;
  }
  if (is_dynamic(n->e->dynamic) || n->ref.p) d->valid_until_ns = 0; // processes come and go
  if (!e) return 0;
  d->inode = node_inode(dir->super, e, &r, owns);
  return d->inode ? 0 : -ENOMEM;
}

static int readdir(struct file *f, struct dirent_sink *s, u64 *pos) {
  struct node *n = node_of(f->inode);
  enum { FIRST_DYNAMIC = 1000 };
  u64 parent = f->dentry->parent && f->dentry->parent->inode ? f->dentry->parent->inode->ino : f->inode->ino;
  for (;;) {
    u64 at = *pos, next = at + 1;
    char buf[16];
    const char *name = buf;
    u8 type = 4;
    u64 ino = f->inode->ino;
    if (at < 2) {
      name = at ? ".." : ".";
      if (at) ino = parent;
    } else if (at < FIRST_DYNAMIC) {
      const struct proc_entry *e = n->e->children;
      for (u64 k = 2; e && e->name && k < at; k++) e++;
      if (!e || !e->name) {
        *pos = FIRST_DYNAMIC;
        continue;
      }
      struct node child = { e, n->ref };
      ino = node_ino(&child);
      name = e->name;
      type = (u8)(e->mode >> 12 & 15);
    } else {
      int id = dynamic_next(n->e->dynamic, &n->ref, (int)(at - FIRST_DYNAMIC));
      if (id < 0) return 0;
      dynamic_name(n->e->dynamic, id, buf, sizeof buf);
      next = (u64)id + 1 + FIRST_DYNAMIC;
      type = (u8)(n->e->each->mode >> 12 & 15);
      ino = (u64)id + FIRST_DYNAMIC;
    }
    if (!s->emit(s, name, strlen(name), ino, type, next)) return 0;
    *pos = next;
  }
}

static int show(struct seq *s, void *arg) {
  struct node *n = arg;
  if (!n->e->show) {
    seq_printf(s, "%s", n->e->text);
    return 0;
  }
  return n->e->show(s, &n->ref);
}

static long file_write(struct file *f, struct iter *it, u64 *pos) {
  struct node *n = node_of(f->inode);
  char text[128];
  size_t len = iter_from(it, text, MIN(it->left, sizeof text - 1));
  if (!len) return it->left ? -EFAULT : 0;
  text[len] = 0;
  return n->e->write(&n->ref, text, len);
}

static int file_open(struct inode *i, struct file *f) {
  struct node *n = node_of(i);
  bool writes = (f->flags & 3) != 0;
  if (writes && !n->e->write) return -EACCES;
  int err = seq_open(f, show, n);
  if (!err && n->e->write) f->ops = &rw_fops;
  return err;
}

static int setattr(struct dentry *d, const struct iattr *a) {
  return a->valid & ~(u32)(ATTR_SIZE | ATTR_MTIME_NOW | ATTR_MTIME | ATTR_ATIME | ATTR_ATIME_NOW) ? -EPERM : 0; // O_TRUNC does nothing
}

static int readlink(struct inode *i, char *buf, size_t size) {
  struct node *n = node_of(i);
  return n->e->readlink(&n->ref, buf, size);
}
static struct dentry *follow(struct dentry *d) {
  struct node *n = node_of(d->inode);
  return n->e->follow(&n->ref);
}
static struct file *follow_file(struct dentry *d, u32 flags) {
  struct node *n = node_of(d->inode);
  return n->e->follow_file ? n->e->follow_file(&n->ref, flags) : err_ptr(-ENOENT);
}
// A link with a text is an ordinary one (self); the others are followed without their text.
static const struct inode_ops plain_link_ops = { .readlink = readlink, .setattr = setattr, .evict = evict };

static int link_lookup(struct inode *dir, struct dentry *d) {
  int err = lookup(dir, d);
  if (!err && d->inode && S_ISLNK(d->inode->mode) && !node_of(d->inode)->e->follow) d->inode->ops = &plain_link_ops;
  return err;
}

static const struct inode_ops dir_ops = { .lookup = link_lookup, .setattr = setattr, .evict = evict };
static const struct inode_ops link_ops = { .readlink = readlink, .follow = follow, .follow_file = follow_file, .setattr = setattr, .evict = evict };
static const struct inode_ops file_inode_ops = { .open = file_open, .setattr = setattr, .evict = evict };
static const struct file_ops dir_fops = { .readdir = readdir, .seek = file_seek_generic };

// --- the two file systems
static int proc_statfs(struct super *s, struct kstatfs *st) {
  *st = (struct kstatfs){ .type = *s->type == 'p' ? 0x9fa0 : 0x62656572, .bsize = PAGE_SIZE, .namelen = 255 };
  return 0;
}

static struct super *create(const char *type, const struct proc_entry *root) {
  struct super *s = super_create(type, SUPER_NOEXEC);
  if (!s) return NULL;
  s->statfs = proc_statfs;
  struct proc_ref system = { 0 };
  struct inode *i = node_inode(s, root, &system, false);
  if (!i || !dentry_create_root(s, i)) panic("no memory for %s", type);
  rw_fops = seq_file_ops;
  rw_fops.write = file_write;
  return s;
}

struct super *procfs_create(void) { return create("proc", &proc_root_entry); }
struct super *sysfs_create(void) { return create("sysfs", &sys_root_entry); }

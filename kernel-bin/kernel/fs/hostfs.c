// SPDX-License-Identifier: Apache-2.0
//
// hostfs: a chroot mount as the policy lets it be seen (threat-model T7, T8). Every name below a mount has a host path, and
// by that path, in this order:
// - a trusted file, link or directory is what the policy says. With `meta`, nothing about a file is asked of the host but
//   its bytes; without, its size is believed only after the whole file agreed with its hash (at the first open or stat).
//   A trusted directory lists the policy's names, and those of the host that are allowed.
// - an allowed file or directory is the host's, with all it does. Changes pass when the mount is writable.
// - a directory above something allowed can be passed through.
// - anything else does not exist; opening it when the host does have it is refused with a line that names it.
// Inodes of allowed objects are found again by node id, so that two names of a file share one page cache; the others have
// one name each, by the policy. Locks: inode->lock is held by callers of the changing operations; hnode->lock (spin,
// RANK_OBJECT) guards a node's handles; host_super->lock (RANK_OBJECT2) the table. None is held across a call to the host
// but inode->lock.

#include "fs/hostfs.h"

#define TRUSTED_INO BIT(48)          // ids of trusted nodes lie above every number taken from the host
#define TRUSTED_TIME 315532800       // 1980-01-01, where the host gave no time: zip and others refuse earlier ones
#define LINKS_MAX 16

static const struct inode_ops dir_inode_ops, file_inode_ops, link_inode_ops;

// --- forgetting: FORGET and RELEASE go to the host from a kernel thread, as inodes die in places that must not wait
static struct list dead_list = LIST_INIT(dead_list);
static struct spinlock dead_lock = SPINLOCK_INIT(RANK_OBJECT2);
static struct work dead_work;

static void dead_run(struct work *w) {
  struct list batch = LIST_INIT(batch);
  struct fuse_forget_one one[16];
  unsigned n = 0;
  spin_lock(&dead_lock);
  list_splice_back(&batch, &dead_list);
  spin_unlock(&dead_lock);
  while (!list_empty(&batch)) {
    struct dead *d = list_first_entry(&batch, struct dead, link);
    list_remove(&d->link);
    if (d->has_rd) virtiofs_release(d->nodeid, d->rd_fh, O_RDONLY, false);
    if (d->has_wr) virtiofs_release(d->nodeid, d->wr_fh, O_RDWR, false);
    if (d->lookups) one[n++] = (struct fuse_forget_one){ d->nodeid, d->lookups };
    // Not in evict: chains of parents are as deep as a tree, and this way each takes a turn of its own.
    if (d->parent) inode_put(d->parent);
    kfree(d->memory);
    if (n && (n == ARRAY_SIZE(one) || list_empty(&batch))) {
      virtiofs_forget(one, n);
      n = 0;
    }
  }
}

static void dead_queue(struct dead *d) {
  spin_lock(&dead_lock);
  list_push_back(&dead_list, &d->link);
  spin_unlock(&dead_lock);
  work_queue(&dead_work);
}

void hnode_forget_later(u64 nodeid, u64 lookups) {
  struct dead *d = kzalloc(sizeof(*d));
  if (!d) return; // the host keeps one entry too many
  *d = (struct dead){ .nodeid = nodeid, .lookups = lookups, .memory = d };
  dead_queue(d);
}

// --- nodes and inodes

// Times of a trusted file are the host's word, taken once: the policy has none, and Python compares those of its sources
// with what its compiled files say.
static void set_times(struct inode *i, s64 sec, s64 nsec) { i->atime = i->mtime = i->ctime = (struct timespec64){ sec, nsec }; }

static struct hnode *hnode_create(struct super *s, u32 mode, enum host_right right, const struct trusted_node *t, bool allowed,
                                  struct inode *parent, char *path) {
  struct hnode *h = kzalloc(sizeof(*h));
  struct inode *i = h ? inode_create(s, mode) : NULL;
  if (!i) {
    kfree(h);
    kfree(path);
    return NULL;
  }
  h->inode = i;
  h->super = s;
  h->trusted = t;
  h->allowed = allowed;
  h->right = right;
  h->host_path = path;
  h->parent = parent && path ? inode_get(parent) : NULL;
  list_init(&h->link);
  spin_init(&h->lock, RANK_OBJECT);
  waitq_init(&h->verify_wait);
  i->priv = h;
  i->ops = S_ISDIR(mode) ? &dir_inode_ops : S_ISLNK(mode) ? &link_inode_ops : &file_inode_ops;
  i->fops = S_ISDIR(mode) ? &hostfs_dir_ops : S_ISREG(mode) ? &hostfs_file_ops : NULL;
  if (S_ISDIR(mode)) i->nlink = 2;
  i->uid = policy.uid; // what comes from the policy belongs to the program
  i->gid = policy.gid;
  if (t && t->mtime_ns) set_times(i, (s64)(t->mtime_ns / NS_PER_SEC), (s64)(t->mtime_ns % NS_PER_SEC));
  else set_times(i, TRUSTED_TIME, 0);
  if (t) i->ino = TRUSTED_INO + t->id;
  return h;
}

static void hostfs_evict(struct inode *i) {
  struct hnode *h = hnode_of(i);
  struct host_super *hs = host_super_of(i->super);
  spin_lock(&hs->lock);
  list_remove(&h->link);
  spin_unlock(&hs->lock);
  if (h->vstate == VERIFY_READY && h->verify.digests != (const u8(*)[32])h->trusted->leaves) kfree((void *)(uintptr_t)h->verify.digests);
  kfree(h->host_path);
  h->dead = (struct dead){ .nodeid = h->nodeid, .lookups = h->lookups, .rd_fh = h->rd_fh, .wr_fh = h->wr_fh, .has_rd = h->has_rd,
                           .has_wr = h->has_wr, .parent = h->parent, .memory = h };
  dead_queue(&h->dead);
}

void hnode_log(struct hnode *h, enum log_level level, const char *format) {
  if (__atomic_exchange_n(&h->logged, true, __ATOMIC_RELAXED)) return;
  char line[320];
  snprintf(line, sizeof(line), format, h->host_path ? h->host_path : "(renamed)");
  printk(level, "%s\n", line);
}

// --- attributes

void hnode_attr(struct inode *i, const struct host_entry *e) {
  struct hnode *h = hnode_of(i);
  const struct fuse_attr *a = &e->attr;
  u64 mtime = attr_time_ns(a->mtime, a->mtimensec);
  spin_lock(&h->lock);
  bool old = e->asked < h->changed; // it may say what was before our own last change, a smaller size above all
  bool ours = h->writers || hostfs_unwritten(i); // our size and times are newer than the host's
  bool changed = !h->own_change && (h->host_size != a->size || h->host_mtime_ns != mtime);
  h->attr_valid_until = old ? 0 : e->attr_valid_until;
  if (!old) {
    if (!ours) h->own_change = false;
    h->host_size = a->size;
    h->host_mtime_ns = mtime;
  }
  spin_unlock(&h->lock);
  if (old) return;
  i->mode = (i->mode & S_IFMT) | (a->mode & 07777);
  i->nlink = a->nlink;
  i->uid = a->uid;
  i->gid = a->gid;
  i->rdev = a->rdev;
  i->atime = (struct timespec64){ (s64)a->atime, a->atimensec };
  if (S_ISREG(i->mode) && ours) return;
  i->mtime = (struct timespec64){ (s64)a->mtime, a->mtimensec };
  i->ctime = (struct timespec64){ (s64)a->ctime, a->ctimensec };
  if (S_ISDIR(i->mode) || i->size == a->size) WRITE_ONCE(i->size, a->size);
  else pagecache_truncate(i, a->size);
  if (S_ISREG(i->mode) && changed) pagecache_invalidate(i);
}

int hostfs_refresh(struct inode *i, bool force) {
  struct hnode *h = hnode_of(i);
  struct host_entry e;
  if (!force && time_ns() < READ_ONCE(h->attr_valid_until)) return 0;
  u64 fh;
  bool pinned = hostfs_pin(h, &fh), has_fh = pinned; // only regular files have handles here
  if (!pinned) {
    spin_lock(&h->lock);
    has_fh = h->has_rd;
    fh = h->rd_fh;
    spin_unlock(&h->lock);
  }
  int err = hnode_resolve(h);
  if (!err) err = virtiofs_getattr(h->nodeid, has_fh ? &fh : NULL, &e);
  if (pinned) hostfs_unpin(h);
  if (err) return err;
  if ((e.attr.mode & S_IFMT) != (i->mode & S_IFMT)) return -EIO; // a node id keeps its type
  if (mutex_lock_interruptible(&i->lock)) return -ERESTARTNOINTR;
  hnode_attr(i, &e);
  mutex_unlock(&i->lock);
  return 0;
}

// --- from path to node id

// Walks `path` (host form) from the root of the exports, following the host's links: their targets are host paths, too.
// Used for what is trusted: where the bytes come from does not matter. The caller owns one lookup of *out.
static int walk_host(const char *path, struct host_entry *out);

static const struct policy_mount *mount_of(const char *path, u32 *index, const char **rest) {
  const struct policy_mount *best = NULL;
  size_t best_len = 0;
  for (u32 k = 0; k < policy.mount_count; k++) {
    const struct policy_mount *m = &policy.mounts[k];
    if (m->type != MOUNT_CHROOT) continue;
    size_t len = strlen(m->uri);
    if (!strcmp(m->uri, "/") || !strcmp(m->uri, ".")) len = 0; // prefix of every path of its kind
    if (len == 0 ? (m->uri[0] == '/') != (path[0] == '/') : strncmp(path, m->uri, len) != 0 || (path[len] && path[len] != '/')) continue;
    if (best && len <= best_len) continue;
    best = m;
    best_len = len;
    *index = k;
  }
  if (best) {
    *rest = path + best_len;
    while (**rest == '/') ++*rest;
    if (!strcmp(*rest, ".")) ++*rest;
  }
  return best;
}

// Replaces the last component of path[0..end) by `target`, keeps what follows `end`, and normalises.
static char *splice_link(const char *path, size_t end, const char *target, size_t target_len) {
  size_t dir = end, n = 0;
  while (dir && path[dir - 1] != '/') dir--;
  char *raw = kmalloc(dir + target_len + strlen(path + end) + 4, 0);
  char *out = raw ? kmalloc(dir + target_len + strlen(path + end) + 4, 0) : NULL;
  if (out) {
    raw[0] = 0;
    if (target[0] != '/') memcpy(raw, path, dir), raw[dir] = 0;
    size_t at = strlen(raw);
    memcpy(raw + at, target, target_len);
    strlcpy(raw + at + target_len, path + end, strlen(path + end) + 1);
    bool absolute = raw[0] == '/';
    if (absolute) out[n++] = '/';
    for (const char *p = raw; *p;) {
      while (*p == '/') p++;
      const char *stop = p;
      while (*stop && *stop != '/') stop++;
      size_t len = (size_t)(stop - p);
      if (len == 0 || (len == 1 && p[0] == '.')) {
      } else if (len == 2 && p[0] == '.' && p[1] == '.') {
        while (n > (absolute ? 1u : 0u) && out[n - 1] != '/') n--;
        if (n > 1) n--; // the slash, but not the first one
      } else {
        if (n && out[n - 1] != '/') out[n++] = '/';
        memcpy(out + n, p, len);
        n += len;
      }
      p = stop;
    }
    if (!n) out[n++] = '.';
    out[n] = 0;
  }
  kfree(raw);
  return out;
}

static int walk_once(const char *path, struct host_entry *out, char **next) {
  u32 index;
  const char *rest;
  char name[16];
  if (!mount_of(path, &index, &rest)) return -ENOENT;
  snprintf(name, sizeof(name), "m%u", index);
  struct host_entry cur;
  int err = virtiofs_lookup(VIRTIOFS_ROOT, name, strlen(name), &cur);
  while (!err && *rest) {
    const char *end = strchr(rest, '/');
    size_t len = end ? (size_t)(end - rest) : strlen(rest);
    struct host_entry child;
    err = len <= NAME_MAX ? virtiofs_lookup(cur.nodeid, rest, len, &child) : -ENAMETOOLONG;
    hnode_forget_later(cur.nodeid, 1);
    if (err) return err;
    cur = child;
    if (S_ISLNK(cur.attr.mode)) {
      char *target = kmalloc(PATH_MAX, 0);
      long n = target ? virtiofs_readlink(cur.nodeid, target, PATH_MAX) : -ENOMEM;
      hnode_forget_later(cur.nodeid, 1);
      if (n > 0) *next = splice_link(path, (size_t)(rest + len - path), target, (size_t)n);
      kfree(target);
      return n < 0 ? (int)n : *next ? -EAGAIN : -ENOMEM;
    }
    rest += len;
    while (*rest == '/') rest++;
  }
  if (!err) *out = cur;
  return err;
}

static int walk_host(const char *path, struct host_entry *out) {
  char *owned = NULL;
  int err;
  for (unsigned links = 0;; links++) {
    char *next = NULL;
    err = links < LINKS_MAX ? walk_once(owned ? owned : path, out, &next) : -ELOOP;
    kfree(owned);
    owned = next;
    if (err != -EAGAIN) break;
  }
  kfree(owned);
  return err;
}

// The entry of a policy path, by its directory when the host has that, else from the root.
static int lookup_path(struct hnode *dir, const char *path, struct host_entry *e) {
  const char *slash = strrchr(path, '/');
  if (!dir || !slash || hnode_resolve(dir)) return walk_host(path, e);
  int err = virtiofs_lookup(dir->nodeid, slash + 1, strlen(slash + 1), e);
  if (err || !S_ISLNK(e->attr.mode)) return err;
  hnode_forget_later(e->nodeid, 1);
  return walk_host(path, e);
}

static int resolve_one(struct hnode *h) {
  struct host_entry e;
  struct hnode *up = h->parent ? hnode_of(h->parent) : NULL;
  // hnode_resolve did the parents before, so that this does not go deeper than one step.
  int err = lookup_path(up && READ_ONCE(up->nodeid) ? up : NULL, h->host_path, &e);
  if (err) return err;
  if ((e.attr.mode & S_IFMT) != (h->inode->mode & S_IFMT)) {
    hnode_forget_later(e.nodeid, 1);
    return -EACCES;
  }
  spin_lock(&h->lock);
  bool first = h->nodeid == 0;
  if (first) {
    h->lookups = 1;
    __atomic_store_n(&h->nodeid, e.nodeid, __ATOMIC_RELEASE);
  }
  spin_unlock(&h->lock);
  if (!first) hnode_forget_later(e.nodeid, 1);
  return 0;
}

int hnode_resolve(struct hnode *h) {
  while (!__atomic_load_n(&h->nodeid, __ATOMIC_ACQUIRE)) {
    struct hnode *a = h;
    while (a->parent && !READ_ONCE(hnode_of(a->parent)->nodeid)) a = hnode_of(a->parent);
    int err = resolve_one(a);
    if (err) return a == h ? err : resolve_one(h); // an ancestor that the host has otherwise: from the root, then
  }
  return 0;
}

// --- the inode of an allowed object: the one that has its node id, or a new one. Consumes one lookup of e.
static struct inode *allowed_inode(struct super *s, const struct host_entry *e) {
  struct host_super *hs = host_super_of(s);
  struct list *bucket = &hs->table[(e->nodeid * 0x9e3779b97f4a7c15ull) >> 56];
  struct hnode *h, *fresh = NULL;
  for (;;) {
    spin_lock(&hs->lock);
    list_for_each(h, bucket, link) {
      if (h->nodeid != e->nodeid || !ref_get_unless_zero(&h->inode->refs)) continue;
      h->lookups++; // under the table's lock: only this function and evict, which is later, touch it for such nodes
      spin_unlock(&hs->lock);
      if (fresh) { // never had a node id: it goes quietly
        inode_put(fresh->inode);
      }
      if ((h->inode->mode & S_IFMT) != (e->attr.mode & S_IFMT)) {
        inode_put(h->inode);
        return NULL;
      }
      if (mutex_trylock(&h->inode->lock)) { // saves asking again; somebody who changes the file now knows better anyway
        hnode_attr(h->inode, e);
        mutex_unlock(&h->inode->lock);
      }
      return h->inode;
    }
    if (fresh) {
      fresh->lookups = 1;
      fresh->nodeid = e->nodeid;
      list_push_back(bucket, &fresh->link);
      spin_unlock(&hs->lock);
      return fresh->inode;
    }
    spin_unlock(&hs->lock);
    fresh = hnode_create(s, e->attr.mode & (S_IFMT | 07777), RIGHT_ALLOWED, NULL, true, NULL, NULL);
    if (!fresh) {
      hnode_forget_later(e->nodeid, 1);
      return NULL;
    }
    fresh->inode->ino = e->attr.ino & (TRUSTED_INO - 1);
    fresh->inode->flags = INODE_HOST;
    fresh->host_size = e->attr.size;
    fresh->host_mtime_ns = attr_time_ns(e->attr.mtime, e->attr.mtimensec);
    fresh->inode->size = e->attr.size;
    hnode_attr(fresh->inode, e);
  }
}

static int fill_allowed(struct super *s, struct dentry *d, const struct host_entry *e) {
  struct inode *i = allowed_inode(s, e);
  if (!i) return -EIO;
  d->inode = i;
  d->valid_until_ns = e->entry_valid_until;
  return 0;
}

// --- lookup

static int lookup_trusted(struct inode *dir, struct dentry *d, const struct trusted_node *t, char *path) {
  static const u32 types[] = { [TRUSTED_DIR] = S_IFDIR | 0755, [TRUSTED_FILE] = S_IFREG | 0755, [TRUSTED_LINK] = S_IFLNK | 0777 };
  u32 mode = types[t->kind];
  struct host_entry e = { 0 };
  if (t->kind == TRUSTED_FILE && t->has_meta) mode = S_IFREG | t->mode;
  if (t->kind == TRUSTED_FILE && !t->has_meta) { // may it be executed? Its size waits for its hash.
    int err = lookup_path(hnode_of(dir), path, &e);
    if (!err && !S_ISREG(e.attr.mode)) err = -EACCES;
    if (err) {
      if (e.nodeid) hnode_forget_later(e.nodeid, 1);
      bool none = err == -ENOENT || err == -ENOTDIR;
      if (none) printk(LOG_ERROR, NOT_ON_HOST "\n", path);
      kfree(path);
      return none ? -EIO : err;
    }
    mode = S_IFREG | (e.attr.mode & 0777);
  }
  struct hnode *h = hnode_create(d->super, mode, RIGHT_TRUSTED, t, hnode_of(dir)->allowed || allowed_path(path), dir, path);
  if (!h) return -ENOMEM;
  h->nodeid = e.nodeid;
  h->lookups = e.nodeid ? 1 : 0;
  if (t->kind == TRUSTED_FILE && t->has_meta) h->inode->size = t->size;
  else if (t->kind == TRUSTED_FILE) set_times(h->inode, (s64)e.attr.mtime, e.attr.mtimensec);
  if (t->kind == TRUSTED_LINK) h->inode->size = t->target_len;
  d->inode = h->inode;
  return 0;
}

static int lookup_host(struct inode *dir, struct dentry *d, enum host_right right, char *path) {
  struct hnode *dh = hnode_of(dir), *h;
  struct host_entry e;
  int err = hnode_resolve(dh);
  if (!err) err = virtiofs_lookup(dh->nodeid, d->name, d->name_len, &e);
  if (err == -ENOENT || err == -ENOTDIR) {
    // What may not be seen cannot appear either; what is allowed may.
    d->valid_until_ns = right == RIGHT_NONE ? ~0ull : 0;
    err = 0;
    goto out;
  }
  if (err) goto out;
  if (right == RIGHT_ALLOWED) {
    err = fill_allowed(d->super, d, &e);
    goto out;
  }
  u32 type = e.attr.mode & S_IFMT;
  if (right == RIGHT_BELOW && type != S_IFDIR) right = RIGHT_NONE;
  h = hnode_create(d->super, right == RIGHT_BELOW ? type | (e.attr.mode & 0777) : type == S_IFDIR ? S_IFDIR : S_IFREG, right, NULL, false, dir, path);
  path = NULL;
  if (!h) {
    hnode_forget_later(e.nodeid, 1);
    return -ENOMEM;
  }
  h->nodeid = e.nodeid;
  h->lookups = 1;
  h->inode->ino = e.attr.ino & (TRUSTED_INO - 1);
  if (right == RIGHT_BELOW) hnode_attr(h->inode, &e);
  d->inode = h->inode;
out:
  kfree(path);
  return err;
}

static int hostfs_lookup(struct inode *dir, struct dentry *d) {
  const struct trusted_node *t;
  char *path = NULL;
  enum host_right right = hostfs_right(hnode_of(dir), d->name, d->name_len, &t, &path);
  if (is_err(path)) return (int)ptr_err(path);
  return right == RIGHT_TRUSTED ? lookup_trusted(dir, d, t, path) : lookup_host(dir, d, right, path);
}

// --- changes of names: inside what is allowed, and nothing trusted

static int may_change(struct inode *dir, const struct dentry *d) {
  const struct trusted_node *t;
  char *path = NULL;
  enum host_right right = hostfs_right(hnode_of(dir), d->name, d->name_len, &t, &path);
  if (is_err(path)) return (int)ptr_err(path);
  if (right != RIGHT_ALLOWED) printk(LOG_ERROR, "file:%s is not an allowed file of the manifest: change refused\n", path ? path : d->name);
  kfree(path);
  if (right != RIGHT_ALLOWED) return -EACCES;
  return hnode_resolve(hnode_of(dir));
}

static void dir_changed(struct inode *dir) {
  dir->mtime = dir->ctime = time_now_ts();
  WRITE_ONCE(hnode_of(dir)->attr_valid_until, 0);
}

static int finish_create(struct inode *dir, struct dentry *d, int err, const struct host_entry *e) {
  if (!err) err = fill_allowed(dir->super, d, e);
  if (!err) dir_changed(dir);
  return err;
}

static int hostfs_create(struct inode *dir, struct dentry *d, u32 mode) {
  struct host_entry e;
  u64 fh;
  int err = may_change(dir, d);
  if (err) return err;
  err = virtiofs_create(hnode_of(dir)->nodeid, d->name, d->name_len, mode, O_RDWR | O_CREAT | O_EXCL, &e, &fh);
  if (err) return err;
  err = finish_create(dir, d, 0, &e);
  struct hnode *h = err ? NULL : hnode_of(d->inode);
  bool keep = false;
  if (h) {
    spin_lock(&h->lock);
    keep = !h->has_wr;
    if (keep) {
      h->wr_fh = fh;
      h->has_wr = true; // the open that follows takes it over
    }
    spin_unlock(&h->lock);
  }
  if (!keep) virtiofs_release(e.nodeid, fh, O_RDWR, false);
  return err;
}

static int hostfs_mkdir(struct inode *dir, struct dentry *d, u32 mode) {
  struct host_entry e;
  int err = may_change(dir, d);
  if (!err) err = virtiofs_mkdir(hnode_of(dir)->nodeid, d->name, d->name_len, mode & 07777, &e);
  return finish_create(dir, d, err, &e);
}

static int hostfs_mknod(struct inode *dir, struct dentry *d, u32 mode, u64 rdev) {
  struct host_entry e;
  int err = may_change(dir, d);
  if (!err) err = virtiofs_mknod(hnode_of(dir)->nodeid, d->name, d->name_len, mode, rdev, &e);
  return finish_create(dir, d, err, &e);
}

static int hostfs_symlink(struct inode *dir, struct dentry *d, const char *target) {
  struct host_entry e;
  int err = may_change(dir, d);
  if (!err) err = virtiofs_symlink(hnode_of(dir)->nodeid, d->name, d->name_len, target, &e);
  return finish_create(dir, d, err, &e);
}

static int hostfs_link(struct dentry *old, struct inode *dir, struct dentry *d) {
  struct host_entry e;
  struct hnode *h = hnode_of(old->inode);
  if (h->right != RIGHT_ALLOWED) return -EACCES;
  int err = may_change(dir, d);
  if (!err) err = virtiofs_link(h->nodeid, hnode_of(dir)->nodeid, d->name, d->name_len, &e);
  if (!err && e.nodeid != h->nodeid) {
    hnode_forget_later(e.nodeid, 1);
    err = -EIO;
  }
  err = finish_create(dir, d, err, &e);
  if (!err) WRITE_ONCE(old->inode->nlink, e.attr.nlink); // also while a write holds its lock: at 0, dirty pages are dropped
  if (!err) WRITE_ONCE(h->attr_valid_until, 0);
  return err;
}

static int remove_name(struct inode *dir, struct dentry *d, bool is_dir) {
  struct hnode *h = hnode_of(d->inode);
  int err = h->right == RIGHT_ALLOWED ? may_change(dir, d) : -EACCES;
  if (!err) err = virtiofs_remove(hnode_of(dir)->nodeid, d->name, d->name_len, is_dir);
  if (err) return err;
  if (is_dir) d->inode->nlink = 0;
  else if (d->inode->nlink) d->inode->nlink--;
  WRITE_ONCE(h->attr_valid_until, 0);
  dir_changed(dir);
  return 0;
}
static int hostfs_unlink(struct inode *dir, struct dentry *d) { return remove_name(dir, d, false); }
static int hostfs_rmdir(struct inode *dir, struct dentry *d) { return remove_name(dir, d, true); }

static int hostfs_rename(struct inode *from, struct dentry *old, struct inode *to, struct dentry *new_d, u32 flags) {
  struct hnode *h = hnode_of(old->inode), *victim = new_d->inode ? hnode_of(new_d->inode) : NULL;
  if (h->right != RIGHT_ALLOWED || (victim && victim->right != RIGHT_ALLOWED)) return -EACCES;
  int err = may_change(from, old);
  if (!err) err = may_change(to, new_d);
  if (!err) err = virtiofs_rename(hnode_of(from)->nodeid, old->name, old->name_len, hnode_of(to)->nodeid, new_d->name, new_d->name_len, flags);
  if (err) return err;
  old->inode->ctime = time_now_ts();
  if (victim && !(flags & RENAME_EXCHANGE)) {
    if (S_ISDIR(new_d->inode->mode)) new_d->inode->nlink = 0;
    else if (new_d->inode->nlink) new_d->inode->nlink--;
    WRITE_ONCE(victim->attr_valid_until, 0);
  }
  dir_changed(from);
  dir_changed(to);
  return 0;
}

// --- any inode

static int hostfs_readlink(struct inode *i, char *buf, size_t size) {
  struct hnode *h = hnode_of(i);
  if (h->right == RIGHT_TRUSTED) {
    size_t n = MIN(size, (size_t)h->trusted->target_len);
    memcpy(buf, h->trusted->target, n);
    return (int)n;
  }
  if (h->right != RIGHT_ALLOWED) return -EACCES;
  char *whole = kmalloc(PATH_MAX, 0);
  if (!whole) return -ENOMEM;
  long n = virtiofs_readlink(h->nodeid, whole, PATH_MAX);
  if (n > 0) memcpy(buf, whole, n = (long)MIN((size_t)n, size));
  kfree(whole);
  return (int)n;
}

static int hostfs_getattr(struct dentry *d, struct kstat *st) {
  struct inode *i = d->inode;
  struct hnode *h = hnode_of(i);
  int err = 0;
  switch (h->right) {
  case RIGHT_NONE: return -ENOENT;
  case RIGHT_TRUSTED: // a size that the policy does not tell is believed only after the hash agreed
    if (h->trusted->kind == TRUSTED_FILE && !h->trusted->has_meta && READ_ONCE(h->vstate) != VERIFY_READY) err = hostfs_verify(h);
    break;
  default: err = hostfs_refresh(i, false);
  }
  if (err) return err;
  inode_getattr_fill(i, st);
  return 0;
}

static int hostfs_permission(struct inode *i, int mask) {
  struct hnode *h = hnode_of(i);
  u32 uid = fs_cred()->fsuid;
  if (h->right == RIGHT_NONE) { // open says no with a line; walking through finds nothing below
    if (S_ISDIR(i->mode) && mask == MAY_EXEC) return 0;
    hnode_log(h, LOG_WARN, "file:%s is not in the manifest (neither trusted nor allowed): access refused");
    return -EACCES;
  }
  if (h->right == RIGHT_TRUSTED && (mask & MAY_WRITE) && !S_ISDIR(i->mode)) return -EACCES; // directories: may_change
  if ((mask & MAY_EXEC) && S_ISREG(i->mode) && !(i->mode & 0111)) return -EACCES;
  // Whose files these are is the host's to know, and it checks what virtiofsd may do; the program that the manifest
  // starts is not held back further here, others (after setuid) go by the mode.
  if (uid == 0 || uid == policy.uid) return 0;
  u32 mode = i->mode;
  if (uid == i->uid) mode >>= 6;
  else if (cred_in_group(fs_cred(), i->gid)) mode >>= 3;
  return ((int)mode & mask) == mask ? 0 : -EACCES;
}

static int hostfs_setattr(struct dentry *d, const struct iattr *a) {
  struct inode *i = d->inode;
  struct hnode *h = hnode_of(i);
  struct fuse_setattr_in in = { 0 };
  struct host_entry e;
  if (h->right != RIGHT_ALLOWED) return -EACCES;
  u64 old_size = i->size;
  if (a->valid & ATTR_MODE) in.valid |= FATTR_MODE, in.mode = a->mode & 07777;
  if (a->valid & ATTR_UID) in.valid |= FATTR_UID, in.uid = a->uid;
  if (a->valid & ATTR_GID) in.valid |= FATTR_GID, in.gid = a->gid;
  if (a->valid & ATTR_SIZE) in.valid |= FATTR_SIZE, in.size = a->size;
  if (a->valid & ATTR_ATIME_NOW) in.valid |= FATTR_ATIME | FATTR_ATIME_NOW;
  else if (a->valid & ATTR_ATIME) in.valid |= FATTR_ATIME, in.atime = (u64)a->atime.sec, in.atimensec = (u32)a->atime.nsec;
  if (a->valid & ATTR_MTIME_NOW) in.valid |= FATTR_MTIME | FATTR_MTIME_NOW;
  else if (a->valid & ATTR_MTIME) in.valid |= FATTR_MTIME, in.mtime = (u64)a->mtime.sec, in.mtimensec = (u32)a->mtime.nsec;
  // Pages first: one that is written back later would bring back the size or the time.
  if ((a->valid & ATTR_SIZE) && a->size < old_size) pagecache_truncate(i, a->size);
  int err = (a->valid & (ATTR_MTIME | ATTR_MTIME_NOW | ATTR_MODE)) && hostfs_unwritten(i) ? pagecache_writeback(i, 0, ~0ull) : 0;
  if (err) return err;
  bool pinned = (a->valid & ATTR_SIZE) && hostfs_pin(h, &in.fh); // truncate(path) beside the last close of another's file
  if (pinned) in.valid |= FATTR_FH;
  err = virtiofs_setattr(h->nodeid, &in, &e);
  if (pinned) hostfs_unpin(h);
  if (!err && (e.attr.mode & S_IFMT) != (i->mode & S_IFMT)) err = -EIO;
  if (err) {
    WRITE_ONCE(h->attr_valid_until, 0);
    return err;
  }
  if ((a->valid & ATTR_SIZE) && a->size > old_size) pagecache_truncate(i, a->size);
  h->own_change = true;
  hostfs_changed(h);
  e.asked = ~0ull; // the answer to the change itself
  hnode_attr(i, &e);
  h->own_change = true; // its mtime may move once more with what is still dirty
  if (a->valid & (ATTR_MTIME | ATTR_MTIME_NOW | ATTR_SIZE)) i->mtime = (struct timespec64){ (s64)e.attr.mtime, e.attr.mtimensec };
  i->ctime = (struct timespec64){ (s64)e.attr.ctime, e.attr.ctimensec };
  return 0;
}

static int hostfs_open(struct inode *i, struct file *f) {
  struct hnode *h = hnode_of(i);
  if (h->right == RIGHT_NONE) {
    hnode_log(h, LOG_WARN, "file:%s is not in the manifest (neither trusted nor allowed): access refused");
    return -EACCES;
  }
  return S_ISREG(i->mode) ? hostfs_open_regular(i, f) : 0;
}

static long hostfs_getxattr(struct dentry *d, const char *name, void *buf, size_t size) {
  struct hnode *h = hnode_of(d->inode);
  return h->right == RIGHT_ALLOWED ? virtiofs_getxattr(h->nodeid, name, buf, size) : -EOPNOTSUPP;
}
static int hostfs_setxattr(struct dentry *d, const char *name, const void *buf, size_t size, int flags) {
  struct hnode *h = hnode_of(d->inode);
  return h->right == RIGHT_ALLOWED ? virtiofs_setxattr(h->nodeid, name, buf, size, (u32)flags) : -EOPNOTSUPP;
}
static long hostfs_listxattr(struct dentry *d, char *buf, size_t size) {
  struct hnode *h = hnode_of(d->inode);
  return h->right == RIGHT_ALLOWED ? virtiofs_getxattr(h->nodeid, NULL, buf, size) : 0;
}
static int hostfs_removexattr(struct dentry *d, const char *name) {
  struct hnode *h = hnode_of(d->inode);
  return h->right == RIGHT_ALLOWED ? virtiofs_removexattr(h->nodeid, name) : -EOPNOTSUPP;
}

#define COMMON_OPS .open = hostfs_open, .getattr = hostfs_getattr, .setattr = hostfs_setattr, .permission = hostfs_permission, \
  .getxattr = hostfs_getxattr, .setxattr = hostfs_setxattr, .listxattr = hostfs_listxattr, .removexattr = hostfs_removexattr, .evict = hostfs_evict
static const struct inode_ops dir_inode_ops = { COMMON_OPS, .lookup = hostfs_lookup, .create = hostfs_create, .mkdir = hostfs_mkdir,
  .mknod = hostfs_mknod, .symlink = hostfs_symlink, .link = hostfs_link, .unlink = hostfs_unlink, .rmdir = hostfs_rmdir, .rename = hostfs_rename };
static const struct inode_ops file_inode_ops = { COMMON_OPS, .read_pages = hostfs_read_pages, .write_pages = hostfs_write_pages };
static const struct inode_ops link_inode_ops = { COMMON_OPS, .readlink = hostfs_readlink };

// --- supers

static int hostfs_statfs(struct super *s, struct kstatfs *st) {
  struct hnode *h = hnode_of(s->root->inode);
  int err = hnode_resolve(h);
  if (!err) err = virtiofs_statfs(h->nodeid, st);
  if (err == -ENOENT) *st = (struct kstatfs){ .type = 0x65735546, .bsize = PAGE_SIZE, .namelen = NAME_MAX }, err = 0;
  return err;
}

static int root_inode(struct super *s, const struct policy_mount *m, u32 index, struct inode **out) {
  const struct trusted_node *t = trusted_find(m->uri);
  bool allowed = allowed_path(m->uri) || policy.allow_all_but_log || m->type == MOUNT_UNTRUSTED_SHM;
  char *path = kstrdup(m->uri), name[16];
  struct host_entry e = { 0 };
  if (!path) return -ENOMEM;
  snprintf(name, sizeof(name), "m%u", index);
  int err = virtiofs_lookup(VIRTIOFS_ROOT, name, strlen(name), &e);
  if (err && !(t && t->kind == TRUSTED_DIR)) {
    kfree(path);
    return err;
  }
  u32 mode = err ? S_IFDIR | 0755 : e.attr.mode & (S_IFMT | 0777);
  enum host_right right = t ? RIGHT_TRUSTED : allowed ? RIGHT_ALLOWED : S_ISDIR(mode) ? RIGHT_BELOW : RIGHT_NONE;
  if (t && t->kind == TRUSTED_FILE) mode = t->has_meta ? S_IFREG | t->mode : S_IFREG | (mode & 0777);
  if (t && t->kind == TRUSTED_DIR) mode = S_IFDIR | 0755;
  if (t && t->kind == TRUSTED_LINK) mode = S_IFLNK | 0777;
  struct hnode *h = hnode_create(s, mode, right, t, allowed, NULL, path);
  if (!h) {
    if (e.nodeid) hnode_forget_later(e.nodeid, 1);
    return -ENOMEM;
  }
  if (t && t->has_meta) h->inode->size = t->size;
  bool same_type = e.nodeid && (e.attr.mode & S_IFMT) == (mode & S_IFMT);
  if (same_type) {
    h->nodeid = e.nodeid;
    h->lookups = 1;
    if (!t) {
      h->inode->ino = e.attr.ino & (TRUSTED_INO - 1);
      h->host_size = h->inode->size = e.attr.size;
      h->host_mtime_ns = attr_time_ns(e.attr.mtime, e.attr.mtimensec);
      hnode_attr(h->inode, &e);
    } else if (t->kind == TRUSTED_FILE && !t->has_meta) {
      set_times(h->inode, (s64)e.attr.mtime, e.attr.mtimensec);
    }
  } else if (e.nodeid) {
    hnode_forget_later(e.nodeid, 1);
  }
  *out = h->inode;
  return 0;
}

struct super *hostfs_create_super(const struct policy_mount *m, u32 index) {
  static bool started;
  struct inode *root;
  if (m->type == MOUNT_ENCRYPTED) {
    printk(LOG_ERROR, "mount %s: encrypted files are not supported yet\n", m->path);
    return NULL;
  }
  int err = 0;
  if (!started) {
    work_init(&dead_work, dead_run);
    err = fsdev_present() ? virtiofs_init() : -ENODEV;
    started = !err;
    if (!err) attest_read_file = hostfs_read_host_file;
  }
  struct super *s = err ? NULL : super_create("hostfs", m->rw ? 0 : SUPER_RDONLY);
  struct host_super *hs = s ? kzalloc(sizeof(*hs)) : NULL;
  if (hs) {
    hs->mount = m;
    hs->index = index;
    spin_init(&hs->lock, RANK_OBJECT2);
    for (size_t i = 0; i < ARRAY_SIZE(hs->table); i++) list_init(&hs->table[i]);
    s->priv = hs;
    s->statfs = hostfs_statfs;
    err = root_inode(s, m, index, &root);
    if (!err && !dentry_create_root(s, root)) err = -ENOMEM;
  } else if (!err) {
    err = -ENOMEM;
  }
  if (!err) return s;
  printk(LOG_ERROR, "mount %s (file:%s): %s, error %d\n", m->path, m->uri, started ? "the host does not give it" : "no file device", err);
  return NULL; // what was allocated stays: the boot goes on or ends
}

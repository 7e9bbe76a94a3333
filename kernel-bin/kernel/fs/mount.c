// SPDX-License-Identifier: Apache-2.0
//
// Mounts: a super at one place, for ever. The policy's come first, root before all, then /dev, /proc and /sys where the
// policy has none. A missing mount point is made: in tmpfs as a directory (or file), elsewhere as a pseudo entry that
// exists only in the dentry cache, pinned, and is added to what the file system lists.
#include "fs/internal.h"

struct list mounts = LIST_INIT(mounts);
struct spinlock mounts_lock = SPINLOCK_INIT(RANK_OBJECT);
struct mount *root_mount;
struct super *(*fs_hostfs_create)(const struct policy_mount *m, u32 index);
struct super *(*fs_procfs_create)(void);
struct super *(*fs_sysfs_create)(void);
__weak struct super *hostfs_create_super(const struct policy_mount *m, u32 index);
__weak struct super *procfs_create_super(void); // proc room
__weak struct super *sysfs_create_super(void);

// --- pseudo entries
#define PSEUDO_POS BIT(62)
static struct super *pseudo_super;

static int pseudo_lookup(struct inode *dir, struct dentry *d) { return 0; }
static int pseudo_readdir(struct file *f, struct dirent_sink *s, u64 *pos) {
  if (*pos == 0 && s->emit(s, ".", 1, f->inode->ino, DT_DIR, 1)) *pos = 1;
  if (*pos == 1 && s->emit(s, "..", 2, f->inode->ino, DT_DIR, 2)) *pos = 2;
  return 0;
}
static const struct inode_ops pseudo_ops = { .lookup = pseudo_lookup };
static const struct file_ops pseudo_fops = { .readdir = pseudo_readdir, .seek = file_seek_generic };

static int pseudo_add(struct dentry *d, u32 mode) { // a negative dentry becomes a pinned entry
  if (!pseudo_super && !(pseudo_super = super_create("rootfs", SUPER_RDONLY))) return -ENOMEM;
  struct inode *i = inode_create(pseudo_super, mode);
  if (!i) return -ENOMEM;
  i->ops = &pseudo_ops;
  i->fops = &pseudo_fops;
  if (S_ISDIR(mode)) i->nlink = 2;
  if (!(d->flags & DENTRY_HASHED)) dentry_hash(d);
  spin_lock(&dcache_lock);
  d->inode = i;
  d->flags |= DENTRY_PSEUDO;
  d->valid_until_ns = ~0ull;
  d->parent->flags |= DENTRY_HAS_PSEUDO;
  dentry_get(d); // the pin
  spin_unlock(&dcache_lock);
  return 0;
}

struct tracking_sink { struct dirent_sink sink; struct dirent_sink *to; bool full; };
static bool tracking_emit(struct dirent_sink *s, const char *name, size_t len, u64 ino, u8 type, u64 next_pos) {
  struct tracking_sink *t = container_of(s, struct tracking_sink, sink);
  if (!t->to->emit(t->to, name, len, ino, type, next_pos)) t->full = true;
  return !t->full;
}

int fs_readdir(struct file *f, struct dirent_sink *s, u64 *pos) {
  struct dentry *dir = f->dentry, *d;
  if (!f->ops->readdir) return -ENOTDIR;
  if (dir && (dir->inode->flags & INODE_DEAD)) return -ENOENT;
  if (!dir || !(READ_ONCE(dir->flags) & DENTRY_HAS_PSEUDO)) return f->ops->readdir(f, s, pos);
  if (*pos < PSEUDO_POS) {
    struct tracking_sink t = { .sink = { tracking_emit }, .to = s };
    int r = f->ops->readdir(f, &t.sink, pos);
    if (r || t.full) return r;
    *pos = PSEUDO_POS;
  }
  for (;;) {
    u64 k = *pos - PSEUDO_POS;
    struct dentry *found = NULL;
    spin_lock(&dcache_lock);
    list_for_each(d, &dir->children, siblings)
      if ((d->flags & DENTRY_PSEUDO) && k-- == 0) {
        found = dentry_get(d);
        break;
      }
    spin_unlock(&dcache_lock);
    if (!found) return 0;
    struct inode *i = found->mounted ? found->mounted->root->inode : found->inode;
    bool ok = s->emit(s, found->name, found->name_len, i->ino, mode_to_dt(i->mode), *pos + 1);
    dentry_put(found);
    if (!ok) return 0;
    ++*pos;
  }
}

// --- mounting
// The object at `path`, made where it is missing: directories, and at the end what the mount's root is.
static int find_or_make(const char *path, u32 mode, struct path *out) {
  struct path cur;
  path_root(&cur);
  const char *p = path;
  for (;;) {
    while (*p == '/') p++;
    if (!*p) break;
    const char *name = p;
    size_t len = 0;
    while (name[len] && name[len] != '/') len++;
    p += len;
    while (*p == '/') p++;
    u32 want = *p ? S_IFDIR | 0755 : (mode & S_IFMT) | (S_ISDIR(mode) ? 0755 : 0644);
    if (len > NAME_MAX || !S_ISDIR(cur.dentry->inode->mode)) {
      path_put(&cur);
      return -EINVAL;
    }
    struct inode *dir = cur.dentry->inode;
    struct dentry *d = dentry_lookup(cur.dentry, name, len);
    int r = 0;
    if (!is_err(d) && d->inode && S_ISLNK(d->inode->mode) && !d->mounted) { // continue at its target
      char *prefix = kmalloc((size_t)(name - path) + len + 1, 0);
      struct path target;
      if (prefix) {
        memcpy(prefix, path, (size_t)(name - path) + len);
        prefix[(size_t)(name - path) + len] = 0;
      }
      // A TD's host has no say in where a mount goes: its link could put one over trusted files, or over a tmpfs whose
      // files would then be written to the host.
      if (in_td && (d->inode->flags & INODE_HOST)) r = -ELOOP;
      else r = prefix ? path_lookup(AT_FDCWD, prefix, LOOKUP_FOLLOW, &target) : -ENOMEM;
      kfree(prefix);
      if (!r || *p) {
        dentry_put(d);
        path_put(&cur);
        if (r) return r;
        cur = target;
        continue;
      }
      r = 0; // nowhere to be seen, or not to be believed: the mount covers the link itself (/etc/resolv.conf of a host with systemd-resolved)
    }
    if (!is_err(d) && !d->inode && (dir->super->flags & SUPER_STORAGE)) {
      dentry_put(d);
      d = tmpfs_add_node(cur.dentry, name, len, want, 0, NULL);
    } else if (is_err(d) || !d->inode) { // not there, or not to be seen: only the mount point will exist
      if (is_err(d)) d = dentry_alloc(cur.dentry->super, cur.dentry, name, len);
      mutex_lock(&dir->lock);
      r = d ? pseudo_add(d, want) : -ENOMEM;
      mutex_unlock(&dir->lock);
      if (r && d) dentry_put(d);
    }
    if (!r && is_err(d)) r = (int)ptr_err(d);
    if (r) {
      path_put(&cur);
      return r;
    }
    struct mount *m;
    while ((m = d->mounted) != NULL) {
      dentry_put(d);
      d = dentry_get(m->root);
    }
    dentry_put(cur.dentry);
    cur = (struct path){ dentry_mount(d), d };
  }
  *out = cur;
  return 0;
}

int mount_add(const char *path, struct super *s, u32 flags, const char *source) {
  struct mount *m = kzalloc(sizeof *m);
  static int ids;
  int r = 0;
  if (!m) return -ENOMEM;
  ASSERT(s->root && !s->mount);
  m->super = s;
  m->root = s->root;
  m->flags = flags;
  m->id = 20 + ids++;
  strlcpy(m->source, source ? source : s->type, sizeof m->source);
  if (!root_mount) {
    root_mount = m;
  } else {
    struct path at;
    r = find_or_make(path, s->root->inode->mode, &at);
    if (r) {
      kfree(m);
      return r;
    }
    m->covers = at.dentry; // the reference stays
    m->parent = at.mnt;
  }
  s->mount = m;
  if (m->covers) WRITE_ONCE(m->covers->mounted, m);
  // What leads to a mount stays what it was at boot: a host that is asked again could answer with another directory, and
  // the same path would lead into that instead of the mount.
  for (struct dentry *d = m->covers; d; d = d->parent) d->valid_until_ns = ~0ull;
  spin_lock(&mounts_lock);
  list_push_back(&mounts, &m->link);
  spin_unlock(&mounts_lock);
  return 0;
}

// --- boot
static void mount_must(const char *path, struct super *s, const char *source) {
  int r = s ? mount_add(path, s, 0, source) : -ENOMEM;
  static char text[128];
  if (!r) return;
  snprintf(text, sizeof text, "cannot mount %s at %s: error %d", source ? source : "it", path, -r);
  if (in_td) host_fatal(text); // T19: files that are measured would seem not to exist
  printk(LOG_ERROR, "fs: %s", text);
}

static struct super *create_policy_super(const struct policy_mount *pm, u32 index) {
  if (pm->type == MOUNT_TMPFS) {
    struct super *s = tmpfs_create(0, !strcmp(pm->path, "/tmp") || !strcmp(pm->path, "/dev/shm") ? 01777 : 0755);
    if (s) s->root->inode->uid = policy.uid, s->root->inode->gid = policy.gid; // as all that comes from the policy
    return s;
  }
  if (fs_hostfs_create) return fs_hostfs_create(pm, index);
  return hostfs_create_super ? hostfs_create_super(pm, index) : NULL;
}

static void hook_path_release(struct file *f) {
  lock_release_file(f);
  dentry_put(f->dentry);
  f->dentry = NULL;
}
static void hook_inode_get(struct inode *i) { inode_get(i); }
static void hook_notify(struct file *f, u32 mask) { fs_notify(f->dentry, mask); }

void fs_init(void) {
  dcache_init();
  namei_init();
  pagecache_init();
  readahead_init();
  writeback_init();
  file_hooks.path_release = hook_path_release;
  file_hooks.descriptor_closed = lock_release_posix;
  file_hooks.inode_get = hook_inode_get;
  file_hooks.inode_put = inode_put;
  file_hooks.notify = hook_notify;
  struct super *root = policy.mount_count ? create_policy_super(&policy.mounts[0], 0) : NULL;
  if (!root && !in_td) { // T19: a host can refuse FUSE_INIT the first time only, and give the mounts that come after
    printk(LOG_ERROR, "fs: no root file system; an empty one is used");
    root = tmpfs_create(0, 0755);
  }
  mount_must("/", root, policy.mount_count ? policy.mounts[0].uri : NULL);
  if (console_add_nodes()) printk(LOG_ERROR, "fs: no memory for /dev/console");
  mount_must("/dev", devfs_create(), "devtmpfs");
  mount_must("/dev/attestation", attestfs_create(), "attestation");
  mount_must("/dev/shm", tmpfs_create(0, 01777), "tmpfs");
  if (fs_procfs_create) mount_must("/proc", fs_procfs_create(), "proc");
  else if (procfs_create_super) mount_must("/proc", procfs_create_super(), "proc");
  if (fs_sysfs_create) mount_must("/sys", fs_sysfs_create(), "sysfs");
  else if (sysfs_create_super) mount_must("/sys", sysfs_create_super(), "sysfs");
  for (u32 k = 1; k < policy.mount_count; k++) {
    const struct policy_mount *pm = &policy.mounts[k];
    mount_must(pm->path, create_policy_super(pm, k), pm->uri ? pm->uri : "tmpfs");
  }
  if (host_hints.resolv_conf) mount_must("/etc/resolv.conf", resolvconf_create(), "resolvconf");
}

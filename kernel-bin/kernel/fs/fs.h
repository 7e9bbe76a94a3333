// SPDX-License-Identifier: Apache-2.0
//
// fs: names and inodes. One dentry cache, one page cache; file systems behind inode_ops: tmpfs, devfs, procfs (proc
// room registers it), hostfs (virtio-fs under the policy), attestation files.
// Locks: inode->lock (mutex, RANK_INODE) serialises changes of a directory or of a file's size; it is not held across a
// wait for the host unless the inode's busy bit is (see page cache). dentry tree: dcache_lock (spin, RANK_OBJECT2).
#ifndef FS_FS_H
#define FS_FS_H
#include "file/file.h"

struct super;
struct inode_ops;
struct timespec64 { s64 sec; s64 nsec; };
struct kstat { u64 dev, ino; u32 mode, nlink, uid, gid; u64 rdev, size, blksize, blocks; struct timespec64 atime, mtime, ctime, btime; };
struct iattr { u32 valid; u32 mode, uid, gid; u64 size; struct timespec64 atime, mtime; struct file *file; };
enum { ATTR_MODE = 1, ATTR_UID = 2, ATTR_GID = 4, ATTR_SIZE = 8, ATTR_ATIME = 16, ATTR_MTIME = 32, ATTR_ATIME_NOW = 64, ATTR_MTIME_NOW = 128 };

struct inode {
  struct refcount refs;
  struct super *super;
  const struct inode_ops *ops;
  const struct file_ops *fops;  // of files opened on it
  u64 ino;
  u32 mode, uid, gid, nlink;    // under lock (read freely)
  u64 rdev, size;
  struct timespec64 atime, mtime, ctime;
  struct mutex lock;
  struct memobj mem;            // page cache of a regular file
  struct list locks;            // POSIX and flock records
  struct list watches;          // inotify
  void *priv;
  void *sock;                   // bound AF_UNIX socket (net room)
  struct pipe *pipe;            // FIFO, while open
};
struct dentry {
  struct refcount refs;
  struct dentry *parent;        // referenced
  struct inode *inode;          // NULL: negative
  struct super *super;
  struct list siblings, children, hash, lru;
  struct mount *mounted;        // a mount that covers this dentry
  u64 valid_until_ns;           // hostfs: when the host must be asked again; ~0: never
  u32 name_len; u32 name_hash;
  char name[];
};
struct inode_ops {
  // Directories. `d` is a fresh negative dentry to fill (d->inode with a reference) or leave negative (0 = looked up).
  int (*lookup)(struct inode *dir, struct dentry *d);
  int (*create)(struct inode *dir, struct dentry *d, u32 mode);
  int (*mkdir)(struct inode *dir, struct dentry *d, u32 mode);
  int (*mknod)(struct inode *dir, struct dentry *d, u32 mode, u64 rdev);
  int (*symlink)(struct inode *dir, struct dentry *d, const char *target);
  int (*link)(struct dentry *old, struct inode *dir, struct dentry *d);
  int (*unlink)(struct inode *dir, struct dentry *d);
  int (*rmdir)(struct inode *dir, struct dentry *d);
  int (*rename)(struct inode *from, struct dentry *old, struct inode *to, struct dentry *new_d, u32 flags);
  int (*readlink)(struct inode *i, char *buf, size_t size);  // length, not terminated
  struct dentry *(*follow)(struct dentry *d);                // magic links (/proc/self/fd/N): a referenced dentry, ERR_PTR
  // Any inode
  int (*open)(struct inode *i, struct file *f);              // may set f->ops, f->priv; NULL: nothing to do
  int (*getattr)(struct dentry *d, struct kstat *st);        // NULL: from the inode's fields
  int (*setattr)(struct dentry *d, const struct iattr *a);
  int (*permission)(struct inode *i, int mask);              // NULL: mode bits
  long (*getxattr)(struct dentry *d, const char *name, void *buf, size_t size);
  int (*setxattr)(struct dentry *d, const char *name, const void *buf, size_t size, int flags);
  long (*listxattr)(struct dentry *d, char *buf, size_t size);
  int (*removexattr)(struct dentry *d, const char *name);
  void (*evict)(struct inode *i);                            // last reference
  // Page cache of regular files (fs/pagecache.c calls them; may wait for the host)
  int (*read_pages)(struct inode *i, struct page **pages, unsigned n, u64 index); // n locked, consecutive pages: fill, set UPTODATE, unlock
  int (*write_pages)(struct inode *i, struct page **pages, unsigned n, u64 index);
};
struct kstatfs { u64 type, bsize, blocks, bfree, bavail, files, ffree, namelen, flags; };
struct super { const char *type; u64 dev; u32 flags; struct dentry *root; void *priv; u64 next_ino;
               int (*statfs)(struct super *s, struct kstatfs *st); int (*sync)(struct super *s); };
enum { SUPER_RDONLY = 1, SUPER_NOEXEC = 2, SUPER_NOREVALIDATE = 4 };
struct mount { struct list link; struct super *super; struct dentry *root; struct dentry *covers; struct mount *parent; u32 flags; int id; char source[64]; };

// --- lookup. A struct path holds both references.
struct path { struct mount *mnt; struct dentry *dentry; };
void path_get(const struct path *p);
void path_put(struct path *p);
enum { LOOKUP_FOLLOW = 1, LOOKUP_PARENT = 2, LOOKUP_DIRECTORY = 4, LOOKUP_EMPTY = 8, LOOKUP_NO_XDEV = 16, LOOKUP_CREATE = 32 };
// `at`: AT_FDCWD or a directory fd. -ENOENT, -ENOTDIR, -ELOOP, -EACCES, -ENAMETOOLONG, -EBADF.
int __must_check path_lookup(int at, const char *name, unsigned flags, struct path *out);
int __must_check path_lookup_user(int at, uptr name, unsigned flags, struct path *out);
long path_string(const struct path *p, char *buf, size_t size); // absolute, as the current root sees it; length or -errno
struct file *path_open(int at, const char *name, u32 flags, u32 mode); // ERR_PTR
struct file *dentry_open(const struct path *p, u32 flags);             // ERR_PTR
int __must_check inode_permission(struct inode *i, int mask);          // MAY_EXEC 1, MAY_WRITE 2, MAY_READ 4

// --- per-process: root, cwd, umask (CLONE_FS shares it)
struct fscontext { struct refcount refs; struct spinlock lock; struct path root, cwd; u32 umask; };
struct fscontext *fscontext_create(void);
struct fscontext *fscontext_copy(struct fscontext *c);
static inline struct fscontext *fscontext_get(struct fscontext *c) { ref_get(&c->refs); return c; }
void fscontext_put(struct fscontext *c);
extern struct fscontext *(*fscontext_current)(void);  // proc installs it
struct cred { u32 uid, euid, suid, fsuid, gid, egid, sgid, fsgid; u32 ngroups; u32 groups[32]; };
extern const struct cred *(*cred_current)(void);      // proc installs it

// --- for file systems
struct inode *inode_create(struct super *s, u32 mode);    // refs 1; NULL
static inline struct inode *inode_get(struct inode *i) { ref_get(&i->refs); return i; }
void inode_put(struct inode *i);
static inline struct dentry *dentry_get(struct dentry *d) { ref_get(&d->refs); return d; }
void dentry_put(struct dentry *d);
struct dentry *dentry_create_root(struct super *s, struct inode *root); // takes the reference
struct dentry *dentry_lookup_cached(struct dentry *parent, const char *name, size_t len); // referenced or NULL
void dentry_drop(struct dentry *d);                       // forget the name (deleted, stale)
int __must_check mount_add(const char *path, struct super *s, u32 flags, const char *source); // creates missing mount points on tmpfs
extern struct list mounts;                                // for /proc/mounts, under mounts_lock
extern struct spinlock mounts_lock;
struct timespec64 time_now_ts(void);
struct super *tmpfs_create(u64 limit_bytes, u32 mode);
struct file *tmpfs_memfd(const char *name, u32 flags);    // memfd_create, shm: ERR_PTR
struct super *devfs_create(void);
// A device node under /dev: drv and net rooms add theirs.
int __must_check devfs_add(const char *name, u32 mode, u64 rdev, const struct file_ops *fops, void *priv);
// Simple generated files (procfs, attestation): `show` fills a growing buffer at open.
struct seq { char *buf; size_t len, cap; bool failed; };
void seq_printf(struct seq *s, const char *fmt, ...) __printf(2, 3);
void seq_write(struct seq *s, const void *data, size_t n);

// --- page cache (fs/pagecache.c): generic operations for file systems with read_pages/write_pages
long pagecache_read(struct file *f, struct iter *it, u64 *pos);
long pagecache_write(struct file *f, struct iter *it, u64 *pos);   // O_APPEND, limits, sparse growth
int pagecache_mmap(struct file *f, struct mmap_request *rq);
int pagecache_fsync(struct file *f, u64 start, u64 len, bool data_only);
void pagecache_truncate(struct inode *i, u64 size);       // drops pages past size, zeroes the tail
void pagecache_invalidate(struct inode *i);               // drops clean pages (the host's file changed)
extern const struct memobj_ops pagecache_memobj_ops;
void fs_init(void);
#endif

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
struct policy_mount;
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
  struct list locks;            // POSIX and flock records (fs/locks.c, under its lock)
  struct list watches;          // inotify
  u32 flags;                    // fs/internal.h's INODE_*, changed under lock
  u32 seals;                    // memfd: F_SEAL_*, under lock
  u32 nr_pages, nr_dirty;       // in the page cache, under mem.lock
  u32 wb_busy;                  // a thread writes its dirty pages back (fs/writeback.c)
  int wb_err;                   // a write-back failed since the last fsync: negative errno
  u64 dirtied_ns;               // when the oldest dirty page became so; 0: none
  struct list dirty_link;       // the flusher's list; holds a reference while linked
  u64 ra_next; u32 ra_window;   // read-ahead of mappings (hints)
  void *priv;
  void *sock;                   // bound AF_UNIX socket (net room)
  struct pipe *pipe;            // FIFO, while open
};
// A hashed dentry has one reference of the cache's own, so an unused one has refs == 1. A file system whose names live
// nowhere else (tmpfs) takes one more for as long as the name exists.
struct dentry {
  struct refcount refs;
  u32 flags;                    // DENTRY_*, under dcache_lock
  struct dentry *parent;        // referenced; NULL: root of a super, or never had a name. Changes (rename) under dcache_lock
  struct inode *inode;          // NULL: negative. Set once, by lookup, create...: never changes from non-NULL while referenced
  struct super *super;
  struct list siblings, children, hash, lru;
  struct mount *mounted;        // a mount that covers this dentry
  u64 valid_until_ns;           // hostfs: when the host must be asked again (lookup on a fresh dentry); ~0: never (the default)
  u64 cookie;                   // the file system's own (tmpfs: place in the directory)
  u32 name_len; u32 name_hash;
  char *name;                   // terminated; changes (rename) under dcache_lock and the parents' locks
  char inline_name[40];
};
enum { DENTRY_HASHED = 1, DENTRY_PSEUDO = 2 /* a mount point that only exists here */, DENTRY_HAS_PSEUDO = 4, DENTRY_USED = 8,
       DENTRY_DELETED = 16 };
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
  int (*tmpfile)(struct inode *dir, struct dentry *d, u32 mode); // O_TMPFILE: an inode without a name; NULL: -EOPNOTSUPP
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
  // Opening a magic link whose target has no dentry (a pipe's /proc/self/fd/N): a referenced file, ERR_PTR. May be NULL.
  struct file *(*follow_file)(struct dentry *d, u32 flags);
  // Page cache of regular files (fs/pagecache.c calls them; may wait for the host). They are called with or without
  // i->lock held and must not take it.
  // n locked, consecutive pages, n <= 256: fill them (zeroes past i->size), then pagecache_end_read for every page, in
  // pieces or at once, whether it worked or not. May return before that happened (then it keeps a reference of i and a
  // copy of the array); the error it returns, if any, is what a program sees.
  int (*read_pages)(struct inode *i, struct page **pages, unsigned n, u64 index);
  // n locked, uptodate, consecutive pages, which stay locked and whose flags it leaves alone: write them, clipped to
  // i->size, and return when that is done. 0 or -errno.
  int (*write_pages)(struct inode *i, struct page **pages, unsigned n, u64 index);
};
struct kstatfs { u64 type, bsize, blocks, bfree, bavail, files, ffree, namelen, flags; };
struct super { const char *type; u64 dev; u32 flags; struct dentry *root; void *priv; u64 next_ino;
               int (*statfs)(struct super *s, struct kstatfs *st); int (*sync)(struct super *s);
               struct mount *mount;            // where it is mounted: at one place, for ever; NULL: nowhere (memfd)
               u64 page_limit, pages_used;     // tmpfs: cache pages are the storage and are counted; limit 0: not counted
               u64 inodes_used; };
// ATIME: relatime is kept in the inode's fields by the generic code. SUPER_ASYNC: read_pages returns before its pages are
// done (the page cache then needs no thread of its own to read ahead).
enum { SUPER_RDONLY = 1, SUPER_NOEXEC = 2, SUPER_NOREVALIDATE = 4, SUPER_ATIME = 8, SUPER_ASYNC = 16, SUPER_STORAGE = 32 };
struct super *super_create(const char *type, u32 flags); // with a device number; NULL. The root is the caller's to set
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
struct file *path_open(int at, const char *name, u32 flags, u32 mode); // ERR_PTR. With follow_file and permission checks
struct file *dentry_open(const struct path *p, u32 flags);             // ERR_PTR. No permission checks
enum { MAY_EXEC = 1, MAY_WRITE = 2, MAY_READ = 4 };
int __must_check inode_permission(struct inode *i, int mask);          // MAY_EXEC 1, MAY_WRITE 2, MAY_READ 4
void path_root(struct path *out);                                      // of the mount tree, referenced
struct mount *dentry_mount(const struct dentry *d);                    // NULL: memfd and the like
long dentry_string(struct dentry *d, char *buf, size_t size);          // as path_string, " (deleted)" appended when it is
int __must_check fs_getattr(struct dentry *d, struct kstat *st);
int __must_check fs_file_getattr(struct file *f, struct kstat *st);    // files without an inode too
int __must_check fs_setattr(struct dentry *d, struct iattr *a);        // kernel's own: no permission checks
int __must_check fs_truncate(struct dentry *d, u64 size, struct file *f); // limits checked, permission not
// A node of the file system by path, for the kernel's own use and AF_UNIX bind (S_IFSOCK): checks permission and umask.
int __must_check path_mknod(int at, const char *name, u32 mode, u64 rdev, struct path *out);

// --- per-process: root, cwd, umask, report data (CLONE_FS shares it)
struct fscontext { struct refcount refs; struct spinlock lock; struct path root, cwd; u32 umask; u8 report_data[64]; };
struct fscontext *fscontext_create(void);
struct fscontext *fscontext_copy(struct fscontext *c);
static inline struct fscontext *fscontext_get(struct fscontext *c) { ref_get(&c->refs); return c; }
void fscontext_put(struct fscontext *c);
// What the process wants in its next report or quote (/dev/attestation/user_report_data); inherited by fork, kept by exec.
void fscontext_report_data(struct fscontext *c, u8 out[64]);
void fscontext_set_report_data(struct fscontext *c, const u8 data[64]);
extern struct fscontext *(*fscontext_current)(void);  // proc installs it
struct cred { u32 uid, euid, suid, fsuid, gid, egid, sgid, fsgid; u32 ngroups; u32 groups[32]; };
extern const struct cred *(*cred_current)(void);      // proc installs it

// --- for file systems
// Generic pieces for inode_ops and file_ops.
int inode_setattr_simple(struct dentry *d, const struct iattr *a); // stores into the inode's fields; truncates the page cache
void inode_getattr_fill(struct inode *i, struct kstat *st);        // from the inode's fields
long file_seek_generic(struct file *f, s64 off, int whence);       // regular files and directories; SEEK_DATA/HOLE
extern const struct file_ops pagecache_file_ops;                   // regular files with read_pages
// Character devices by number: opening such an inode anywhere gives the file these. devfs_add registers.
int __must_check chrdev_register(u64 rdev, const struct file_ops *fops, void *priv, int (*open)(struct file *f));
// Changes of names and inodes, for inotify (the generic calls do it for what goes through them).
void fs_notify(struct dentry *d, u32 mask);               // on the inode, and by name on its parent
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
struct super *resolvconf_create(void);                    // /etc/resolv.conf from host_hints.resolv_conf; once. NULL
struct super *attestfs_create(void);                      // /dev/attestation; once. NULL
// A device node under /dev: drv and net rooms add theirs.
int __must_check devfs_add(const char *name, u32 mode, u64 rdev, const struct file_ops *fops, void *priv);
// Simple generated files (procfs, attestation): `show` fills a growing buffer at open.
struct seq { char *buf; size_t len, cap; bool failed; };
void seq_printf(struct seq *s, const char *fmt, ...) __printf(2, 3);
void seq_write(struct seq *s, const void *data, size_t n);
// From an inode's open: runs show once and makes f serve its text (f->ops, f->priv). 0, -ENOMEM, or what show returned.
int __must_check seq_open(struct file *f, int (*show)(struct seq *s, void *arg), void *arg);
extern const struct file_ops seq_file_ops;                // read, seek, release of such a file (f->priv: struct seq *)

// --- page cache (fs/pagecache.c): generic operations for file systems with read_pages/write_pages
long pagecache_read(struct file *f, struct iter *it, u64 *pos);
long pagecache_write(struct file *f, struct iter *it, u64 *pos);   // O_APPEND, limits, sparse growth
int pagecache_mmap(struct file *f, struct mmap_request *rq);
int pagecache_fsync(struct file *f, u64 start, u64 len, bool data_only);
void pagecache_truncate(struct inode *i, u64 size);       // drops pages past size, zeroes the tail
void pagecache_invalidate(struct inode *i);               // drops clean pages (the host's file changed)
void pagecache_discard(struct inode *i, u64 first, u64 last); // drops clean pages of [first, last] that can be had again
void pagecache_end_read(struct page **pages, unsigned n, int err); // 0: they are uptodate; unlocks, wakes
int pagecache_writeback(struct inode *i, u64 first, u64 last);     // page indexes, inclusive; waits; 0 or -errno
void pagecache_counts(u64 *cached, u64 *dirty);           // pages, for /proc/meminfo
extern const struct memobj_ops pagecache_memobj_ops, pagecache_storage_memobj_ops; // inode_create sets them. mm: after get_page, map under pt_lock only
                                                          // while page->cache.obj is still the object (and, for a shared
                                                          // writable entry, PG_DIRTY is still set), else start over
// --- locks (fs/locks.c). fcntl: F_GETLK, F_SETLK, F_SETLKW and the F_OFD_ ones with the program's struct flock at arg.
long lock_fcntl(struct file *f, int fd, int cmd, uptr arg); // for sys_fcntl; owner of POSIX locks: the current fd table
long seals_fcntl(struct file *f, int cmd, u64 arg);       // F_ADD_SEALS, F_GET_SEALS: -EINVAL when not a memfd

// --- what other rooms install before fs_init
extern struct super *(*fs_hostfs_create)(const struct policy_mount *m, u32 index); // NULL result: the mount is refused
extern struct super *(*fs_procfs_create)(void);
extern struct super *(*fs_sysfs_create)(void);
// Defined by sys/fs.c: RLIMIT_FSIZE of the current process, what exceeding it sends (SIGXFSZ), and its pid for F_GETLK.
extern u64 (*const fs_fsize_limit)(void);
extern void (*const fs_fsize_signal)(void);
extern int (*const fs_current_pid)(void);
void fs_sync_all(void);                                   // writes every dirty page back; power-off calls it
void fs_init(void);                                       // the policy's mounts, /dev, /proc, /sys; process context
#endif

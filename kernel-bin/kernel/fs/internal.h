// SPDX-License-Identifier: Apache-2.0
//
// fs, private: what the files of this room share. Linux's constants for files come through here.
#ifndef FS_INTERNAL_H
#define FS_INTERNAL_H
#include "attest/attest.h"
#include "fs/fs.h"
#include <linux/fcntl.h>
#include <linux/stat.h>

#define PATH_MAX 4096
#define NAME_MAX 255
#define SYMLINKS_MAX 40
enum { DT_UNKNOWN = 0, DT_FIFO = 1, DT_CHR = 2, DT_DIR = 4, DT_BLK = 6, DT_REG = 8, DT_LNK = 10, DT_SOCK = 12 };
static inline u8 mode_to_dt(u32 mode) { return (u8)((mode & S_IFMT) >> 12); }
enum { IN_ACCESS = 1, IN_MODIFY = 2, IN_ATTRIB = 4, IN_CLOSE_WRITE = 8, IN_CLOSE_NOWRITE = 16, IN_OPEN = 32, IN_MOVED_FROM = 64,
       IN_MOVED_TO = 128, IN_CREATE = 256, IN_DELETE = 512, IN_DELETE_SELF = 1024, IN_MOVE_SELF = 2048, IN_ISDIR = 0x40000000 };
enum { RENAME_NOREPLACE = 1, RENAME_EXCHANGE = 2, RENAME_WHITEOUT = 4 };
#define INODE_DEAD 0x100     // a removed directory: nothing can be made in it
#define INODE_LINKABLE 0x200 // made by O_TMPFILE: may get a first name
#define INODE_HOST 0x400     // an allowed object, as the host has it: where a link leads is the host's word
#define MKDEV(ma, mi) (((u64)(ma) << 8) | (mi)) // as st_rdev shows it, for small numbers

// --- dentry.c
extern struct spinlock dcache_lock;
struct dentry *dentry_alloc(struct super *s, struct dentry *parent, const char *name, size_t len); // refs 1, negative, not hashed; NULL
void dentry_hash(struct dentry *d);   // enters the cache, which takes a reference of its own
void dentry_hash_made(struct dentry *d); // after create: a negative that was not worth caching may be so now. The directory's lock is held
// Cached and still valid, or asked of the file system; may be negative. Takes the directory's lock on a miss. ERR_PTR.
struct dentry *dentry_lookup(struct dentry *parent, const char *name, size_t len);
struct dentry *dentry_lookup_locked(struct dentry *parent, const char *name, size_t len); // the directory's lock is held
void dentry_delete(struct dentry *d); // its name is gone from the file system
// After a rename: d takes the place of `target` (a dentry of the new name), which is dropped. Both parents' locks held.
void dentry_move(struct dentry *d, struct dentry *target);
void dentry_exchange(struct dentry *a, struct dentry *b);
bool dentry_is_below(struct dentry *d, const struct dentry *ancestor); // or the same
bool dentry_fresh(const struct dentry *d);
void dcache_init(void);

// --- inode.c
void inode_init_owner(struct inode *i, const struct inode *dir, u32 mode); // ids of the caller, setgid directories
const struct cred *fs_cred(void);
bool cred_in_group(const struct cred *c, u32 gid);
int inode_permission_as(struct inode *i, int mask, u32 uid, u32 gid);
int inode_check_sticky(struct inode *dir, struct inode *victim);
void inode_touch_atime(struct inode *i);
int fs_setattr_checked(struct dentry *d, struct iattr *a); // EPERM, EACCES by the caller's ids
void inode_destroy(struct inode *i);  // last reference of its memobj

// --- path.c: the walk, for calls that need the parent
struct walk {
  struct path cur, root;  // referenced
  char *owned;            // text of expanded links
  const char *p;          // what remains
  unsigned links;
  u64 resolve;            // RESOLVE_* of openat2
  const char *last;       // the last component, not terminated
  u32 last_len;
  enum { LAST_NORM, LAST_ROOT, LAST_DOT, LAST_DOTDOT } last_type;
  bool slash;             // something like "name/"
};
struct name_buf { char *text; char small[128]; }; // a path from the program
int name_get(struct name_buf *b, uptr name); // 0, -EFAULT, -ENAMETOOLONG, -ENOMEM
void name_put(struct name_buf *b);           // after a name_get that worked
int walk_begin(struct walk *w, int at, const char *name, u64 resolve);
int walk_parent(struct walk *w);            // all but the last component
int walk_last_dots(struct walk *w);         // when last_type is not LAST_NORM: cur becomes the object
// Expands link d, found in cur (consumes no reference). 0: w->p has the rest, go on with walk_parent. 1: a magic link, cur is its target.
int walk_follow(struct walk *w, struct dentry *d, const char *rest);
void walk_enter(struct walk *w, struct dentry *d); // cur becomes d (reference consumed), and what is mounted there
void walk_end(struct walk *w);
int path_lookup_resolve(int at, const char *name, unsigned flags, u64 resolve, struct path *out);
int path_of_fd(int fd, struct path *out);   // -EBADF, -ENOTDIR is the caller's to say

// --- namei.c: names by path, checked
void fs_notify_name(struct dentry *parent, u32 mask, u32 cookie, const char *name, size_t len);
void namei_init(void);
int fs_mkdir(int at, const char *name, u32 mode);
int fs_symlink(const char *target, int at, const char *name);
int fs_link(const struct path *old, int at, const char *name);
int fs_unlink(int at, const char *name);
int fs_rmdir(int at, const char *name);
int fs_rename(int from_at, const char *from, int to_at, const char *to, u32 flags);
struct file *path_open_resolve(int at, const char *name, u32 flags, u32 mode, u64 resolve);
int fs_pseudo_add(struct dentry *parent, const char *name, size_t len, u32 mode, struct dentry **out);
int fs_readdir(struct file *f, struct dirent_sink *s, u64 *pos); // the file's own entries, then mount points

// --- mount.c
extern struct mount *root_mount;

// --- open.c
int chrdev_open(struct file *f);

// --- pagecache.c: a page leaves the radix tree only while its finder holds PG_LOCKED and the object's lock
#define DIRTY_MARK 0
#define RA_MAX 256u // pages in one request: 1 MiB
struct readahead { u64 *next; u32 *window; }; // where the last window ended, and its size: hints of a file or a mapping
// Uptodate and referenced; brought in when it must be, with up to `want` pages from there. *out NULL: a hole (alloc false).
int pagecache_get(struct inode *i, u64 index, u64 want, bool alloc, struct readahead ra, struct page **out);
bool pagecache_has(struct inode *i, u64 index);                     // a hint
int pagecache_insert(struct inode *i, u64 index, struct page *p);   // the cache takes its own reference. -EEXIST, -ENOMEM, -ENOSPC
unsigned pagecache_insert_run(struct inode *i, u64 index, struct page **pages, unsigned n); // locked ones; how many were new
void pagecache_set_dirty(struct inode *i, struct page *p);
void pagecache_remove_range(struct inode *i, u64 first, u64 last);  // inclusive; waits for pages in transit; unmaps
void pagecache_zero_range(struct inode *i, u64 from, u64 to);       // inside one page, when it is there
bool page_trylock(struct page *p);
void page_lock(struct page *p);
void page_unlock(struct page *p);
extern u64 cached_pages, dirty_pages;                               // atomic
void pagecache_init(void);
u64 pagecache_reclaim(u64 npages);
// --- readahead.c
int readahead_miss(struct inode *i, struct readahead ra, u64 index, u64 want); // reads page `index` at least; 0: look again
void readahead_hit(struct inode *i, struct readahead ra, struct page *p);      // p carried PG_READAHEAD
void readahead_init(void);
// --- writeback.c
void writeback_note_dirty(struct inode *i);                         // under mem.lock, after marking
void writeback_throttle(struct inode *i);
void writeback_kick(void);
void writeback_init(void);
int fsize_check(struct file *f, u64 pos, u64 *len);                 // RLIMIT_FSIZE: shortens, or -EFBIG and SIGXFSZ

// --- locks.c
void lock_release_file(struct file *f);                 // the last reference goes
void lock_release_posix(struct file *f, void *owner);   // a descriptor of this table was closed
int lock_flock(struct file *f, int op);

// --- tmpfs.c, devfs.c
// A node made by the kernel itself (devices, mount points): parents' locks are taken here. Referenced, or ERR_PTR.
struct dentry *tmpfs_add_node(struct dentry *parent, const char *name, size_t len, u32 mode, u64 rdev, const char *target);
struct super *tmpfs_create_type(const char *type, u64 limit_bytes, u32 mode);
int console_add_nodes(void); // console.c: /dev/console, /dev/tty
struct super *hostfs_create_super(const struct policy_mount *m, u32 index);
#endif

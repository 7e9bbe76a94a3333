// SPDX-License-Identifier: Apache-2.0
//
// System calls that take paths, and those that read or change what a name or an inode is. Moving data is sys/file.c's.
#include "sys/sys.h"
#include "attest/attest.h"
#include "fs/internal.h"
#undef __unused // a field's name in <asm/stat.h>
#include <asm/stat.h>
#include <asm/statfs.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <linux/openat2.h>

#define S(x) ((int)(x))     // an int argument: the upper half of the register is noise
#define U(x) ((u32)(x))
#define UTIME_NOW ((1l << 30) - 1l)
#define UTIME_OMIT ((1l << 30) - 2l)
enum { PATH_FOLLOW_BITS = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH };

static u64 current_fsize_limit(void) {
  struct lwp *l = lwp_current();
  return l ? READ_ONCE(l->process->rlimits[1 /* RLIMIT_FSIZE */].cur) : ~0ull;
}
static void send_sigxfsz(void) {
  struct ksiginfo si = { .signo = 25 /* SIGXFSZ */, .code = 0x80 /* SI_KERNEL */ };
  signal_send_thread(lwp_current(), &si);
}
static int current_pid(void) { return lwp_current() ? process_current()->pid : 0; }
u64 (*const fs_fsize_limit)(void) = current_fsize_limit;
void (*const fs_fsize_signal)(void) = send_sigxfsz;
int (*const fs_current_pid)(void) = current_pid;

static unsigned lookup_flags(u32 at_flags) {
  return (at_flags & AT_SYMLINK_NOFOLLOW ? 0 : LOOKUP_FOLLOW) | (at_flags & AT_EMPTY_PATH ? LOOKUP_EMPTY : 0);
}

// --- open
static long do_open(int at, uptr path, u32 flags, u32 mode, u64 resolve) {
  struct name_buf name;
  long err = name_get(&name, path);
  if (err) return err;
  struct file *f = path_open_resolve(at, name.text, flags, mode, resolve);
  name_put(&name);
  if (is_err(f)) return ptr_err(f);
  int fd = fd_install(f, flags & O_CLOEXEC);
  if (fd < 0) file_put(f);
  return fd;
}

#define OPEN_FLAGS (O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_DSYNC | __O_SYNC | O_DIRECT | \
  O_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | __O_TMPFILE | FASYNC)

long sys_open(u64 path, u64 flags, u64 mode) { return do_open(AT_FDCWD, path, U(flags) & OPEN_FLAGS, U(mode), 0); }
long sys_openat(u64 at, u64 path, u64 flags, u64 mode) { return do_open(S(at), path, U(flags) & OPEN_FLAGS, U(mode), 0); }
long sys_creat(u64 path, u64 mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, U(mode), 0); }

long sys_openat2(u64 at, u64 path, u64 uhow, u64 size) {
  struct open_how how;
  if (size < sizeof how) return -EINVAL;
  if (size > PAGE_SIZE) return -E2BIG;
  if (copy_from_user(&how, uhow, sizeof how)) return -EFAULT;
  for (u64 k = sizeof how; k < size; k++) { // newer fields that we do not know must be zero
    u8 b;
    if (copy_from_user(&b, uhow + k, 1)) return -EFAULT;
    if (b) return -E2BIG;
  }
  if (how.flags & ~(u64)OPEN_FLAGS) return -EINVAL;
  if (how.mode & ~07777ull || (how.mode && !(how.flags & (O_CREAT | __O_TMPFILE)))) return -EINVAL;
  if (how.resolve & ~(u64)(RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_CACHED)) return -EINVAL;
  if ((how.resolve & RESOLVE_BENEATH) && (how.resolve & RESOLVE_IN_ROOT)) return -EINVAL;
  if (how.resolve & RESOLVE_CACHED) return -EAGAIN; // allowed always: "cannot tell without blocking"
  return do_open(S(at), path, U(how.flags), U(how.mode), how.resolve);
}

long sys_memfd_create(u64 uname, u64 flags) {
  char name[250];
  if (flags & ~(u64)(MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | 8 /* NOEXEC_SEAL */ | 16 /* EXEC */ | 0xfc000000)) return -EINVAL;
  long n = strncpy_from_user(name, uname, sizeof name);
  if (n < 0) return n == -ENAMETOOLONG ? -EINVAL : n;
  struct file *f = tmpfs_memfd(name, U(flags));
  if (is_err(f)) return ptr_err(f);
  int fd = fd_install(f, flags & MFD_CLOEXEC ? O_CLOEXEC : 0);
  if (fd < 0) file_put(f);
  return fd;
}

// --- stat
static long put_stat(uptr out, const struct kstat *k) {
  struct stat st = { .st_dev = k->dev, .st_ino = k->ino, .st_nlink = k->nlink, .st_mode = k->mode, .st_uid = k->uid, .st_gid = k->gid,
    .st_rdev = k->rdev, .st_size = (long)k->size, .st_blksize = (long)k->blksize, .st_blocks = (long)k->blocks,
    .st_atime = (u64)k->atime.sec, .st_atime_nsec = (u64)k->atime.nsec, .st_mtime = (u64)k->mtime.sec,
    .st_mtime_nsec = (u64)k->mtime.nsec, .st_ctime = (u64)k->ctime.sec, .st_ctime_nsec = (u64)k->ctime.nsec };
  return copy_to_user(out, &st, sizeof st);
}

// The common part of the stat family; mnt_id may be NULL. `path` 0 counts as "" where AT_EMPTY_PATH allows it.
static long do_stat(int at, uptr path, u32 flags, struct kstat *k, int *mnt_id) {
  char first = 0;
  if ((flags & AT_EMPTY_PATH) && at >= 0 && (!path || (!copy_from_user(&first, path, 1) && !first))) { // fstat
    struct file *f = file_from_fd(at);
    if (!f) return -EBADF;
    int r = fs_file_getattr(f, k);
    if (mnt_id && f->dentry && dentry_mount(f->dentry)) *mnt_id = dentry_mount(f->dentry)->id;
    file_put(f);
    return r;
  }
  struct path p;
  int r = path_lookup_user(at, path, lookup_flags(flags), &p);
  if (r == -EOPNOTSUPP && !(flags & AT_SYMLINK_NOFOLLOW)) { // a magic link to a pipe or socket: ask the open file
    struct name_buf name;
    if ((r = name_get(&name, path))) return r;
    struct file *f = path_open_resolve(at, name.text, O_RDONLY | O_NONBLOCK, 0, 0);
    name_put(&name);
    if (is_err(f)) return ptr_err(f);
    r = fs_file_getattr(f, k);
    file_put(f);
    return r;
  }
  if (r) return r;
  r = fs_getattr(p.dentry, k);
  if (mnt_id && p.mnt) *mnt_id = p.mnt->id;
  path_put(&p);
  return r;
}

static long stat_to_user(int at, uptr path, u32 flags, uptr out) {
  struct kstat k;
  long r = do_stat(at, path, flags, &k, NULL);
  return r ? r : put_stat(out, &k);
}

long sys_stat(u64 path, u64 out) { return stat_to_user(AT_FDCWD, path, 0, out); }
long sys_lstat(u64 path, u64 out) { return stat_to_user(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, out); }
long sys_fstat(u64 fd, u64 out) { return S(fd) < 0 ? -EBADF : stat_to_user(S(fd), 0, AT_EMPTY_PATH, out); }
long sys_newfstatat(u64 at, u64 path, u64 out, u64 flags) {
  if (U(flags) & ~(u32)(PATH_FOLLOW_BITS | AT_NO_AUTOMOUNT)) return -EINVAL;
  return stat_to_user(S(at), path, U(flags), out);
}

long sys_statx(u64 at, u64 path, u64 flags, u64 mask, u64 out) {
  struct kstat k;
  int mnt_id = 0;
  if (U(flags) & ~(u32)(PATH_FOLLOW_BITS | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE)) return -EINVAL;
  if ((U(flags) & AT_STATX_SYNC_TYPE) == AT_STATX_SYNC_TYPE || (mask & STATX__RESERVED)) return -EINVAL;
  long r = do_stat(S(at), path, U(flags), &k, &mnt_id);
  if (r) return r;
  struct statx *x = kzalloc(sizeof *x);
  if (!x) return -ENOMEM;
#define TS(t) { .tv_sec = (t).sec, .tv_nsec = (u32)(t).nsec }
  *x = (struct statx){ .stx_mask = STATX_BASIC_STATS | STATX_MNT_ID, .stx_blksize = (u32)k.blksize, .stx_nlink = k.nlink, .stx_uid = k.uid,
    .stx_gid = k.gid, .stx_mode = (u16)k.mode, .stx_ino = k.ino, .stx_size = k.size, .stx_blocks = k.blocks, .stx_atime = TS(k.atime),
    .stx_ctime = TS(k.ctime), .stx_mtime = TS(k.mtime), .stx_rdev_major = (u32)(k.rdev >> 8) & 0xfff, .stx_rdev_minor = (u32)((k.rdev & 0xff) | ((k.rdev >> 12) & 0xfff00)),
    .stx_dev_major = (u32)(k.dev >> 8) & 0xfff, .stx_dev_minor = (u32)((k.dev & 0xff) | ((k.dev >> 12) & 0xfff00)), .stx_mnt_id = (u64)mnt_id };
#undef TS
  r = copy_to_user(out, x, sizeof *x);
  kfree(x);
  return r;
}

// --- access
static long do_access(int at, uptr path, int mode, u32 flags) {
  struct path p;
  const struct cred *c = fs_cred();
  if (mode & ~7) return -EINVAL;
  if (flags & ~(u32)(AT_EACCESS | PATH_FOLLOW_BITS)) return -EINVAL;
  int r = path_lookup_user(at, path, lookup_flags(flags), &p);
  if (r == -EOPNOTSUPP) return 0; // a magic link to something open
  if (r) return r;
  if (mode) r = inode_permission_as(p.dentry->inode, mode, flags & AT_EACCESS ? c->fsuid : c->uid, flags & AT_EACCESS ? c->fsgid : c->gid);
  path_put(&p);
  return r;
}
long sys_access(u64 path, u64 mode) { return do_access(AT_FDCWD, path, S(mode), 0); }
long sys_faccessat(u64 at, u64 path, u64 mode) { return do_access(S(at), path, S(mode), 0); }
long sys_faccessat2(u64 at, u64 path, u64 mode, u64 flags) { return do_access(S(at), path, S(mode), U(flags)); }

// --- names
long sys_mkdirat(u64 at, u64 path, u64 mode) {
  struct name_buf name;
  long err = name_get(&name, path);
  if (err) return err;
  long r = fs_mkdir(S(at), name.text, U(mode));
  name_put(&name);
  return r;
}
long sys_mkdir(u64 path, u64 mode) { return sys_mkdirat((u64)AT_FDCWD, path, mode); }

long sys_mknodat(u64 at, u64 path, u64 mode, u64 dev) {
  struct name_buf name;
  long err = name_get(&name, path);
  if (err) return err;
  long r = path_mknod(S(at), name.text, U(mode), U(dev), NULL);
  name_put(&name);
  return r;
}
long sys_mknod(u64 path, u64 mode, u64 dev) { return sys_mknodat((u64)AT_FDCWD, path, mode, dev); }

long sys_unlinkat(u64 at, u64 path, u64 flags) {
  if (U(flags) & ~(u32)AT_REMOVEDIR) return -EINVAL;
  struct name_buf name;
  long err = name_get(&name, path);
  if (err) return err;
  long r = U(flags) & AT_REMOVEDIR ? fs_rmdir(S(at), name.text) : fs_unlink(S(at), name.text);
  name_put(&name);
  return r;
}
long sys_unlink(u64 path) { return sys_unlinkat((u64)AT_FDCWD, path, 0); }
long sys_rmdir(u64 path) { return sys_unlinkat((u64)AT_FDCWD, path, AT_REMOVEDIR); }

long sys_symlinkat(u64 target, u64 at, u64 path) {
  struct name_buf text, name;
  long r = name_get(&text, target);
  if (r) return r;
  if (!(r = name_get(&name, path))) {
    r = fs_symlink(text.text, S(at), name.text);
    name_put(&name);
  }
  name_put(&text);
  return r;
}
long sys_symlink(u64 target, u64 path) { return sys_symlinkat(target, (u64)AT_FDCWD, path); }

long sys_linkat(u64 at, u64 path, u64 new_at, u64 new_path, u64 flags) {
  struct path old;
  if (U(flags) & ~(u32)(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH)) return -EINVAL;
  if ((U(flags) & AT_EMPTY_PATH) && fs_cred()->euid) return -ENOENT;
  long r = path_lookup_user(S(at), path, (U(flags) & AT_SYMLINK_FOLLOW ? LOOKUP_FOLLOW : 0) | (U(flags) & AT_EMPTY_PATH ? LOOKUP_EMPTY : 0), &old);
  if (r) return r;
  struct name_buf name;
  if (!(r = name_get(&name, new_path))) {
    r = fs_link(&old, S(new_at), name.text);
    name_put(&name);
  }
  path_put(&old);
  return r;
}
long sys_link(u64 path, u64 new_path) { return sys_linkat((u64)AT_FDCWD, path, (u64)AT_FDCWD, new_path, 0); }

long sys_renameat2(u64 at, u64 path, u64 new_at, u64 new_path, u64 flags) {
  struct name_buf from, to;
  long r = name_get(&from, path);
  if (r) return r;
  if (!(r = name_get(&to, new_path))) {
    r = fs_rename(S(at), from.text, S(new_at), to.text, U(flags));
    name_put(&to);
  }
  name_put(&from);
  return r;
}
long sys_renameat(u64 at, u64 path, u64 new_at, u64 new_path) { return sys_renameat2(at, path, new_at, new_path, 0); }
long sys_rename(u64 path, u64 new_path) { return sys_renameat2((u64)AT_FDCWD, path, (u64)AT_FDCWD, new_path, 0); }

long sys_readlinkat(u64 at, u64 path, u64 buf, u64 size) {
  struct path p;
  if (S(size) <= 0) return -EINVAL;
  int r = path_lookup_user(S(at), path, LOOKUP_EMPTY, &p);
  if (r) return r;
  struct inode *i = p.dentry->inode;
  long n = -EINVAL;
  if (S_ISLNK(i->mode) && i->ops->readlink) {
    char *text = kmalloc(PATH_MAX, 0);
    n = text ? i->ops->readlink(i, text, PATH_MAX) : -ENOMEM;
    if (n >= 0) {
      n = MIN(n, (long)S(size));
      inode_touch_atime(i);
      if (copy_to_user(buf, text, (size_t)n)) n = -EFAULT;
    }
    kfree(text);
  } else if (!S_ISLNK(i->mode) && S(at) != AT_FDCWD) {
    char first = 1;
    if (!copy_from_user(&first, path, 1) && !first) n = -ENOENT; // readlinkat(fd, ""): only a link has an answer
  }
  path_put(&p);
  return n;
}
long sys_readlink(u64 path, u64 buf, u64 size) { return sys_readlinkat((u64)AT_FDCWD, path, buf, size); }

// --- attributes
static long setattr_path(int at, uptr path, u32 at_flags, struct iattr *a) {
  struct path p;
  long r = path_lookup_user(at, path, lookup_flags(at_flags), &p);
  if (r) return r;
  if ((a->valid & ATTR_MODE) && S_ISLNK(p.dentry->inode->mode)) r = -EOPNOTSUPP;
  else r = fs_setattr_checked(p.dentry, a);
  path_put(&p);
  return r;
}

static long setattr_fd(int fd, struct iattr *a, bool path_ok) {
  struct file *f = file_from_fd(fd);
  if (!f) return -EBADF;
  long r = f->path_only && !path_ok ? -EBADF : f->dentry ? fs_setattr_checked(f->dentry, a) : 0; // pipes and sockets: nothing to keep it in
  file_put(f);
  return r;
}

static struct iattr mode_attr(u64 mode) { return (struct iattr){ .valid = ATTR_MODE, .mode = U(mode) & 07777 }; }
long sys_fchmodat2(u64 at, u64 path, u64 mode, u64 flags) {
  struct iattr a = mode_attr(mode);
  return U(flags) & ~(u32)PATH_FOLLOW_BITS ? -EINVAL : setattr_path(S(at), path, U(flags), &a);
}
long sys_fchmodat(u64 at, u64 path, u64 mode) { return sys_fchmodat2(at, path, mode, 0); }
long sys_chmod(u64 path, u64 mode) { return sys_fchmodat2((u64)AT_FDCWD, path, mode, 0); }
long sys_fchmod(u64 fd, u64 mode) {
  struct iattr a = mode_attr(mode);
  return setattr_fd(S(fd), &a, false);
}

static struct iattr owner_attr(u64 uid, u64 gid) {
  return (struct iattr){ .valid = (U(uid) != ~0u ? ATTR_UID : 0) | (U(gid) != ~0u ? ATTR_GID : 0), .uid = U(uid), .gid = U(gid) };
}
long sys_fchownat(u64 at, u64 path, u64 uid, u64 gid, u64 flags) {
  struct iattr a = owner_attr(uid, gid);
  return U(flags) & ~(u32)PATH_FOLLOW_BITS ? -EINVAL : setattr_path(S(at), path, U(flags), &a);
}
long sys_chown(u64 path, u64 uid, u64 gid) { return sys_fchownat((u64)AT_FDCWD, path, uid, gid, 0); }
long sys_lchown(u64 path, u64 uid, u64 gid) { return sys_fchownat((u64)AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW); }
long sys_fchown(u64 fd, u64 uid, u64 gid) {
  struct iattr a = owner_attr(uid, gid);
  return setattr_fd(S(fd), &a, false);
}

static long set_times(int at, uptr path, u32 flags, const struct timespec64 *t) { // t NULL: now
  struct iattr a = { .valid = ATTR_ATIME_NOW | ATTR_MTIME_NOW };
  if (t) {
    for (int k = 0; k < 2; k++)
      if (t[k].nsec != UTIME_NOW && t[k].nsec != UTIME_OMIT && (t[k].nsec < 0 || t[k].nsec >= (s64)NS_PER_SEC)) return -EINVAL;
    if (t[0].nsec == UTIME_OMIT && t[1].nsec == UTIME_OMIT) return 0;
    a.valid = (t[0].nsec == UTIME_NOW ? ATTR_ATIME_NOW : t[0].nsec == UTIME_OMIT ? 0 : ATTR_ATIME)
            | (t[1].nsec == UTIME_NOW ? ATTR_MTIME_NOW : t[1].nsec == UTIME_OMIT ? 0 : ATTR_MTIME);
    a.atime = t[0];
    a.mtime = t[1];
  }
  if (flags & ~(u32)PATH_FOLLOW_BITS) return -EINVAL;
  if (!path && at != AT_FDCWD) return flags & AT_SYMLINK_NOFOLLOW ? -EINVAL : setattr_fd(at, &a, false); // futimens
  return setattr_path(at, path, flags, &a);
}
long sys_utimensat(u64 at, u64 path, u64 times, u64 flags) {
  struct timespec64 t[2];
  if (times && copy_from_user(t, times, sizeof t)) return -EFAULT;
  return set_times(S(at), path, U(flags), times ? t : NULL);
}
static long utimes_at(int at, uptr path, uptr times) {
  struct timespec64 t[2]; // struct timeval has the same shape, in microseconds
  if (times) {
    if (copy_from_user(t, times, sizeof t)) return -EFAULT;
    for (int k = 0; k < 2; k++) {
      if (t[k].nsec < 0 || t[k].nsec >= 1000000) return -EINVAL;
      t[k].nsec *= 1000;
    }
  }
  return set_times(at, path, 0, times ? t : NULL);
}
long sys_utimes(u64 path, u64 times) { return utimes_at(AT_FDCWD, path, times); }
long sys_futimesat(u64 at, u64 path, u64 times) { return utimes_at(S(at), path, times); }
long sys_utime(u64 path, u64 times) {
  s64 v[2];
  if (times && copy_from_user(v, times, sizeof v)) return -EFAULT;
  struct timespec64 t[2] = { { times ? v[0] : 0, 0 }, { times ? v[1] : 0, 0 } };
  return set_times(AT_FDCWD, path, 0, times ? t : NULL);
}

long sys_truncate(u64 path, u64 size) {
  struct path p;
  if ((s64)size < 0) return -EINVAL;
  long r = path_lookup_user(AT_FDCWD, path, LOOKUP_FOLLOW, &p);
  if (r) return r;
  struct inode *i = p.dentry->inode;
  if (S_ISDIR(i->mode)) r = -EISDIR;
  else if (!S_ISREG(i->mode)) r = -EINVAL;
  else if (!(r = inode_permission(i, MAY_WRITE))) r = fs_truncate(p.dentry, size, NULL);
  path_put(&p);
  return r;
}

long sys_ftruncate(u64 fd, u64 size) {
  struct file *f = file_from_fd(S(fd));
  if (!f) return -EBADF;
  long r = f->path_only ? -EBADF : (s64)size < 0 || (f->flags & O_ACCMODE) == O_RDONLY || !f->ops->truncate ? -EINVAL : f->ops->truncate(f, size);
  file_put(f);
  return r;
}

long sys_fallocate(u64 fd, u64 mode, u64 off, u64 len) {
  struct file *f = file_from_fd(S(fd));
  if (!f) return -EBADF;
  long r;
  u32 fmt = f->inode ? f->inode->mode & S_IFMT : 0;
  if (f->path_only || (f->flags & O_ACCMODE) == O_RDONLY) r = -EBADF;
  else if ((s64)off < 0 || (s64)len <= 0) r = -EINVAL;
  else if (S(mode) & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE)) r = -EOPNOTSUPP;
  else if ((S(mode) & FALLOC_FL_PUNCH_HOLE) && !(S(mode) & FALLOC_FL_KEEP_SIZE)) r = -EOPNOTSUPP;
  else if (!fmt || fmt == S_IFIFO) r = -ESPIPE;
  else if (fmt == S_IFDIR) r = -EISDIR;
  else if (fmt != S_IFREG) r = -ENODEV;
  else if (off + len > INT64_MAX) r = -EFBIG;
  else r = f->ops->fallocate ? f->ops->fallocate(f, S(mode), off, len) : -EOPNOTSUPP;
  file_put(f);
  return r;
}

// --- where a process is
static void set_fs_path(struct fscontext *c, struct path *slot, struct path *p) {
  spin_lock(&c->lock);
  struct path old = *slot;
  *slot = *p;
  spin_unlock(&c->lock);
  path_put(&old);
}

static long go_to(struct path *p, bool root) { // consumes p
  struct fscontext *c = fscontext_current();
  long r = !S_ISDIR(p->dentry->inode->mode) ? -ENOTDIR : inode_permission(p->dentry->inode, MAY_EXEC);
  if (!r && root && fs_cred()->euid) r = -EPERM;
  if (r) path_put(p);
  else set_fs_path(c, root ? &c->root : &c->cwd, p);
  return r;
}
long sys_chdir(u64 path) {
  struct path p;
  long r = path_lookup_user(AT_FDCWD, path, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &p);
  return r ? r : go_to(&p, false);
}
long sys_fchdir(u64 fd) {
  struct path p;
  long r = path_of_fd(S(fd), &p);
  return r ? r : go_to(&p, false);
}
long sys_chroot(u64 path) {
  struct path p;
  long r = path_lookup_user(AT_FDCWD, path, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &p);
  return r ? r : go_to(&p, true);
}

long sys_getcwd(u64 buf, u64 size) {
  struct fscontext *c = fscontext_current();
  char *text = kmalloc(PATH_MAX, 0);
  if (!text) return -ENOMEM;
  spin_lock(&c->lock);
  struct path cwd = c->cwd;
  path_get(&cwd);
  spin_unlock(&c->lock);
  long n = cwd.dentry->flags & DENTRY_DELETED ? -ENOENT : path_string(&cwd, text, PATH_MAX);
  path_put(&cwd);
  if (n >= 0) {
    n++;
    if ((u64)n > size) n = -ERANGE;
    else if (copy_to_user(buf, text, (size_t)n)) n = -EFAULT;
  }
  kfree(text);
  return n;
}

long sys_umask(u64 mask) {
  return (long)__atomic_exchange_n(&fscontext_current()->umask, U(mask) & 0777, __ATOMIC_RELAXED);
}

// --- directories
struct dirent64 { u64 ino; u64 off; u16 reclen; u8 type; char name[]; } __packed;
struct dirent_old { u64 ino; u64 off; u16 reclen; char name[]; } __packed; // the type is the record's last byte
struct dirent_buffer { struct dirent_sink sink; u8 *buf; size_t len, cap; bool old; bool too_small; u64 last_pos; };

static bool emit_dirent(struct dirent_sink *s, const char *name, size_t len, u64 ino, u8 type, u64 next_pos) {
  struct dirent_buffer *b = container_of(s, struct dirent_buffer, sink);
  size_t reclen = ALIGN_UP((b->old ? sizeof(struct dirent_old) + 1 : sizeof(struct dirent64)) + len + 1, 8);
  if (b->len + reclen > b->cap) {
    b->too_small = !b->len;
    return false;
  }
  u8 *at = b->buf + b->len;
  memset(at, 0, reclen);
  if (b->old) {
    struct dirent_old *d = (struct dirent_old *)at;
    *d = (struct dirent_old){ ino, next_pos, (u16)reclen };
    memcpy(d->name, name, len);
    at[reclen - 1] = type;
  } else {
    struct dirent64 *d = (struct dirent64 *)at;
    *d = (struct dirent64){ ino, next_pos, (u16)reclen, type };
    memcpy(d->name, name, len);
  }
  b->len += reclen;
  return true;
}

static long do_getdents(int fd, uptr out, u64 size, bool old) {
  struct file *f = file_from_fd(fd);
  if (!f) return -EBADF;
  struct dirent_buffer b = { .sink = { emit_dirent }, .cap = MIN((u64)U(size), 32 * KIB), .old = old };
  long r = f->path_only ? -EBADF : !f->ops->readdir ? -ENOTDIR : 0;
  if (!r && !(b.buf = kmalloc(MAX(b.cap, (size_t)1), 0))) r = -ENOMEM;
  if (!r) {
    mutex_lock(&f->pos_lock);
    u64 pos = f->pos;
    r = fs_readdir(f, &b.sink, &pos);
    if (!r && b.too_small) r = -EINVAL;
    if (!r && copy_to_user(out, b.buf, b.len)) r = -EFAULT;
    if (!r) {
      f->pos = pos;
      r = (long)b.len;
    }
    mutex_unlock(&f->pos_lock);
  }
  kfree(b.buf);
  file_put(f);
  return r;
}
long sys_getdents(u64 fd, u64 out, u64 size) { return do_getdents(S(fd), out, size, true); }
long sys_getdents64(u64 fd, u64 out, u64 size) { return do_getdents(S(fd), out, size, false); }

// --- file systems
static long put_statfs(struct dentry *d, uptr out) {
  struct super *s = d->super;
  struct kstatfs k = { .type = 0x858458f6 /* ramfs: nothing of its own to say */, .bsize = PAGE_SIZE, .namelen = NAME_MAX };
  long r = s->statfs ? s->statfs(s, &k) : 0;
  if (r) return r;
  struct statfs st = { .f_type = (long)k.type, .f_bsize = (long)k.bsize, .f_blocks = (long)k.blocks, .f_bfree = (long)k.bfree, .f_bavail = (long)k.bavail,
    .f_files = (long)k.files, .f_ffree = (long)k.ffree, .f_namelen = (long)k.namelen, .f_frsize = (long)k.bsize,
    .f_flags = (long)k.flags | 0x20 /* ST_VALID */ | (s->flags & SUPER_RDONLY ? 1 : 0) | (s->flags & SUPER_NOEXEC ? 8 : 0) | (s->flags & SUPER_ATIME ? 0x1000 : 0) };
  st.f_fsid.val[0] = (int)s->dev;
  return copy_to_user(out, &st, sizeof st);
}
long sys_statfs(u64 path, u64 out) {
  struct path p;
  long r = path_lookup_user(AT_FDCWD, path, LOOKUP_FOLLOW, &p);
  if (r) return r;
  r = put_statfs(p.dentry, out);
  path_put(&p);
  return r;
}
long sys_fstatfs(u64 fd, u64 out) {
  struct file *f = file_from_fd(S(fd));
  if (!f) return -EBADF;
  struct statfs pipe = { .f_type = 0x50495045 /* PIPEFS */, .f_bsize = PAGE_SIZE, .f_frsize = PAGE_SIZE, .f_namelen = NAME_MAX };
  long r = f->dentry ? put_statfs(f->dentry, out) : copy_to_user(out, &pipe, sizeof pipe);
  file_put(f);
  return r;
}
long sys_sync(void) {
  fs_sync_all();
  return 0;
}
long sys_syncfs(u64 fd) {
  struct file *f = file_from_fd(S(fd));
  if (!f) return -EBADF;
  bool bad = f->path_only;
  file_put(f);
  if (bad) return -EBADF;
  fs_sync_all();
  return 0;
}
long sys_mount(void) { return -EPERM; } // the policy's mounts are all there are
long sys_umount2(void) { return -EPERM; }
long sys_pivot_root(void) { return -EPERM; }
long sys_name_to_handle_at(void) { return -EOPNOTSUPP; }
long sys_open_by_handle_at(void) { return -EPERM; }

long sys_flock(u64 fd, u64 op) {
  struct file *f = file_from_fd(S(fd));
  if (!f) return -EBADF;
  long r = lock_flock(f, S(op));
  file_put(f);
  return r;
}

// SPDX-License-Identifier: Apache-2.0
//
// System calls on descriptors: read and write in all forms, seek, fcntl, ioctl, sync, dup, close. read and write are
// every server's hot path: a descriptor that only this thread can close is used without touching its count (fdref), and
// the position lock is only taken where the file has a position and somebody else may use it.
#include "sys/file.h"
#include <asm/fcntl.h>
#include <asm/ioctls.h>
#include <linux/fadvise.h>
#include <linux/inotify.h>
#include <linux/stat.h>

#define RWF_HIPRI 1
#define RWF_DSYNC 2
#define RWF_SYNC 4
#define SIGPIPE_NR 13

// --- shared helpers
void sigpipe_raise(void) {
  struct ksiginfo si = { .signo = SIGPIPE_NR, .pid = process_current()->pid, .uid = cred_current()->uid };
  signal_send_thread(lwp_current(), &si);
}

long fd_install_new(struct file *f, u32 cloexec) {
  if (!f) return -ENOMEM;
  int fd = fd_install(f, cloexec & O_CLOEXEC);
  if (fd < 0) file_put(f);
  return fd;
}

int timespec_ns(const struct user_timespec *ts, u64 *ns) {
  if (ts->sec < 0 || ts->nsec < 0 || ts->nsec >= (s64)NS_PER_SEC) return -EINVAL;
  *ns = (u64)ts->sec > (1ull << 62) / NS_PER_SEC ? 1ull << 62 : (u64)ts->sec * NS_PER_SEC + (u64)ts->nsec;
  return 0;
}

int iov_import(struct iov_buf *b, uptr user, u64 nr, struct iter *it) {
  b->iov = b->fast;
  if (nr > MAX_IOV) return -EINVAL;
  if (nr > FAST_IOV && !(b->iov = kmalloc(nr * sizeof *b->iov, 0))) {
    b->iov = b->fast;
    return -ENOMEM;
  }
  int err = copy_from_user(b->iov, user, nr * sizeof *b->iov);
  u64 total = 0;
  for (u64 i = 0; i < nr && !err; i++) {
    struct iovec *v = &b->iov[i];
    if ((s64)v->len < 0) err = -EINVAL;
    else if (v->len && !user_range_ok(v->base, v->len)) err = -EFAULT;
    else if (v->len > MAX_RW - total) v->len = MAX_RW - total;
    total += v->len;
  }
  if (!err) iter_iov(it, b->iov, (unsigned)nr);
  else iov_release(b), b->iov = b->fast;
  return err;
}

// --- read and write
static inline bool pos_shared(struct fdref r) { return r.owned || ref_read(&r.file->refs) > 1; }

static inline __attribute__((always_inline)) long move_pos(struct fdref r, struct iter *it, long (*move)(struct file *, struct iter *, u64 *)) {
  struct file *f = r.file;
  if (!f->ops->seek) return move(f, it, NULL);
  bool lock = pos_shared(r);
  if (lock) mutex_lock(&f->pos_lock);
  long n = move(f, it, &f->pos);
  if (lock) mutex_unlock(&f->pos_lock);
  return n;
}

long file_read(struct fdref r, struct iter *it) {
  struct file *f = r.file;
  if (unlikely(!file_readable(f))) return -EBADF;
  if (unlikely(!f->ops->read)) return f->ops->readdir ? -EISDIR : -EINVAL;
  long n = move_pos(r, it, f->ops->read);
  if (n > 0) file_notify(f, IN_ACCESS);
  return n;
}

static long write_end(struct file *f, long n) {
  if (n > 0) {
    file_notify(f, IN_MODIFY);
  } else if (n == -EPIPE) {
    struct socket *s = socket_from_file(f);
    if (!s || s->type == 1 /* SOCK_STREAM: only streams raise it */) sigpipe_raise();
  }
  return n;
}

long file_write(struct fdref r, struct iter *it) {
  struct file *f = r.file;
  if (unlikely(!file_writable(f))) return -EBADF;
  if (unlikely(!f->ops->write)) return -EINVAL;
  return write_end(f, move_pos(r, it, f->ops->write));
}

static inline long rw_one(int fd, uptr buf, u64 n, long (*rw)(struct fdref, struct iter *)) {
  struct fdref r = fdref_get(fd);
  if (unlikely(!r.file)) return -EBADF;
  struct iovec one;
  struct iter it;
  iter_user(&it, &one, buf, MIN(n, MAX_RW));
  long ret = (s64)n < 0 ? -EINVAL : unlikely(!user_range_ok(buf, n)) ? -EFAULT : rw(r, &it);
  fdref_put(r);
  return ret;
}

long sys_read(u64 fd, u64 buf, u64 n) { return rw_one((int)fd, buf, n, file_read); }
long sys_write(u64 fd, u64 buf, u64 n) { return rw_one((int)fd, buf, n, file_write); }

static long rw_vec(int fd, uptr iov, u64 nr, long (*rw)(struct fdref, struct iter *)) {
  struct fdref r = fdref_get(fd);
  if (!r.file) return -EBADF;
  struct iov_buf b;
  struct iter it;
  long ret = iov_import(&b, iov, nr, &it);
  if (!ret) {
    ret = rw(r, &it);
    iov_release(&b);
  }
  fdref_put(r);
  return ret;
}

long sys_readv(u64 fd, u64 iov, u64 nr) { return rw_vec((int)fd, iov, nr, file_read); }
long sys_writev(u64 fd, u64 iov, u64 nr) { return rw_vec((int)fd, iov, nr, file_write); }

static long rw_at(struct file *f, struct iter *it, s64 pos, bool write) {
  if (write ? !file_writable(f) : !file_readable(f)) return -EBADF;
  if (!f->ops->seek) return -ESPIPE;
  long (*move)(struct file *, struct iter *, u64 *) = write ? f->ops->write : f->ops->read;
  if (!move) return f->ops->readdir && !write ? -EISDIR : -EINVAL;
  u64 at = (u64)pos;
  long n = move(f, it, &at);
  if (write) return write_end(f, n);
  if (n > 0) file_notify(f, IN_ACCESS);
  return n;
}

static long rw_one_at(int fd, uptr buf, u64 n, s64 pos, bool write) {
  if (pos < 0) return -EINVAL;
  struct fdref r = fdref_get(fd);
  if (!r.file) return -EBADF;
  struct iovec one;
  struct iter it;
  iter_user(&it, &one, buf, MIN(n, MAX_RW));
  long ret = (s64)n < 0 ? -EINVAL : !user_range_ok(buf, n) ? -EFAULT : rw_at(r.file, &it, pos, write);
  fdref_put(r);
  return ret;
}

long sys_pread64(u64 fd, u64 buf, u64 n, u64 pos) { return rw_one_at((int)fd, buf, n, (s64)pos, false); }
long sys_pwrite64(u64 fd, u64 buf, u64 n, u64 pos) { return rw_one_at((int)fd, buf, n, (s64)pos, true); }

static long rw_vec_at(int fd, uptr iov, u64 nr, s64 pos, u32 flags, bool v2, bool write) {
  if (flags & ~(u32)(RWF_HIPRI | RWF_DSYNC | RWF_SYNC)) return -EOPNOTSUPP;
  bool current_pos = v2 && pos == -1;
  if (pos < 0 && !current_pos) return -EINVAL;
  struct fdref r = fdref_get(fd);
  if (!r.file) return -EBADF;
  struct iov_buf b;
  struct iter it;
  long ret = iov_import(&b, iov, nr, &it);
  if (!ret) {
    ret = !current_pos ? rw_at(r.file, &it, pos, write) : write ? file_write(r, &it) : file_read(r, &it);
    iov_release(&b);
  }
  if (ret > 0 && write && flags & (RWF_DSYNC | RWF_SYNC) && r.file->ops->fsync) {
    int err = r.file->ops->fsync(r.file, 0, ~0ull, flags & RWF_DSYNC);
    if (err) ret = err;
  }
  fdref_put(r);
  return ret;
}

long sys_preadv(u64 fd, u64 iov, u64 nr, u64 pos) { return rw_vec_at((int)fd, iov, nr, (s64)pos, 0, false, false); }
long sys_pwritev(u64 fd, u64 iov, u64 nr, u64 pos) { return rw_vec_at((int)fd, iov, nr, (s64)pos, 0, false, true); }
// The fifth register is the high half of the position on 32-bit machines only.
long sys_preadv2(u64 fd, u64 iov, u64 nr, u64 pos, u64 hi, u64 flags) { return rw_vec_at((int)fd, iov, nr, (s64)pos, (u32)flags, true, false); }
long sys_pwritev2(u64 fd, u64 iov, u64 nr, u64 pos, u64 hi, u64 flags) { return rw_vec_at((int)fd, iov, nr, (s64)pos, (u32)flags, true, true); }

long sys_lseek(u64 fd, u64 off, u64 whence) {
  struct fdref r = fdref_get((int)fd);
  if (!r.file) return -EBADF;
  struct file *f = r.file;
  long ret = f->path_only ? -EBADF : !f->ops->seek ? -ESPIPE : whence > 4 ? -EINVAL : 0;
  if (!ret) {
    bool lock = pos_shared(r);
    if (lock) mutex_lock(&f->pos_lock);
    ret = f->ops->seek(f, (s64)off, (int)whence);
    if (lock) mutex_unlock(&f->pos_lock);
  }
  fdref_put(r);
  return ret;
}

// --- sync
static long sync_fd(int fd, u64 start, u64 len, bool data_only) {
  struct fdref r = fdref_get(fd);
  if (!r.file) return -EBADF;
  struct file *f = r.file;
  long ret = f->path_only ? -EBADF : f->ops->fsync ? f->ops->fsync(f, start, len, data_only) : -EINVAL;
  fdref_put(r);
  return ret;
}

long sys_fsync(u64 fd) { return sync_fd((int)fd, 0, ~0ull, false); }
long sys_fdatasync(u64 fd) { return sync_fd((int)fd, 0, ~0ull, true); }

long sys_sync_file_range(u64 fd, u64 off, u64 n, u64 flags) {
  if (flags & ~7ull || (s64)off < 0 || (s64)n < 0 || (s64)(off + n) < 0) return -EINVAL;
  struct fdref r = fdref_get((int)fd);
  if (!r.file) return -EBADF;
  bool pipe = !r.file->ops->seek;
  fdref_put(r);
  if (pipe) return -ESPIPE;
  return flags ? sync_fd((int)fd, off, n ? n : ~0ull, true) : 0;
}

// Advice that asks for nothing but speed: only DONTNEED does something, to the clean pages that lie in the range whole.
long sys_fadvise64(u64 fd, u64 off, u64 len, u64 advice) {
  struct fdref r = fdref_get((int)fd);
  if (!r.file || r.file->path_only) {
    if (r.file) fdref_put(r);
    return -EBADF;
  }
  long ret = !r.file->ops->seek ? -ESPIPE : (s64)len < 0 || advice > POSIX_FADV_NOREUSE ? -EINVAL : 0;
  u64 first = off / PAGE_SIZE + (off % PAGE_SIZE != 0), end = len && off + len > off ? (off + len) / PAGE_SIZE : ~0ull;
  if (!ret && advice == POSIX_FADV_DONTNEED && r.file->inode && S_ISREG(r.file->inode->mode) && first < end)
    pagecache_discard(r.file->inode, first, end - 1);
  fdref_put(r);
  return ret;
}

long sys_readahead(u64 fd, u64 off, u64 n) {
  struct fdref r = fdref_get((int)fd);
  if (!r.file) return -EBADF;
  long ret = !file_readable(r.file) ? -EBADF : !r.file->inode || !S_ISREG(r.file->inode->mode) ? -EINVAL : 0;
  fdref_put(r);
  return ret;
}

// --- descriptors
long sys_close(u64 fd) { return fd_close((int)fd); }

long sys_close_range(u64 first, u64 last, u64 flags) {
  enum { UNSHARE = 2, CLOEXEC = 4 };
  if (flags & ~(u64)(UNSHARE | CLOEXEC) || (u32)first > (u32)last) return -EINVAL;
  if (flags & UNSHARE) { // as unshare(2) does it: /proc takes references of the table meanwhile
    long err = process_unshare(0x400 /* CLONE_FILES */);
    if (err) return err;
  }
  return fd_close_range((u32)first, (u32)last, flags & CLOEXEC);
}

static long dup_from(struct file *f, int min, u32 flags) { // takes the reference
  int fd = fd_install_from(f, flags, min);
  if (fd < 0) file_put(f);
  return fd;
}

long sys_dup(u64 fd) {
  struct file *f = file_from_fd((int)fd);
  return f ? dup_from(f, 0, 0) : -EBADF;
}

static long dup_to(int from, int to, u32 flags) {
  struct file *f = file_from_fd(from);
  if (!f) return -EBADF;
  int r = fd_replace(to, f, flags);
  if (r < 0) file_put(f);
  return r;
}

long sys_dup2(u64 from, u64 to) {
  if ((int)from != (int)to) return dup_to((int)from, (int)to, 0);
  struct fdref r = fdref_get((int)from);
  if (!r.file) return -EBADF;
  fdref_put(r);
  return (int)to;
}

long sys_dup3(u64 from, u64 to, u64 flags) {
  if (flags & ~(u64)O_CLOEXEC || (int)from == (int)to) return -EINVAL;
  return dup_to((int)from, (int)to, (u32)flags);
}

// --- fcntl
enum { F_OWNER_TID_K, F_OWNER_PID_K, F_OWNER_PGRP_K };
struct owner_ex { int type, pid; };

int file_set_flags(struct file *f, u32 set, u32 mask) {
  int err = 0;
  u32 flags = (READ_ONCE(f->flags) & ~mask) | (set & mask);
  if (f->ops->set_flags) err = f->ops->set_flags(f, flags);
  spin_lock(&f->lock);
  if (!err) WRITE_ONCE(f->flags, (f->flags & ~mask) | (set & mask));
  spin_unlock(&f->lock);
  return err;
}

static long fcntl_owner(struct file *f, int cmd, u64 arg) {
  struct owner_ex ex;
  switch (cmd) {
  case F_SETOWN: WRITE_ONCE(f->owner_pid, (int)arg); return 0;
  case F_GETOWN: return READ_ONCE(f->owner_pid);
  case F_SETSIG:
    if (arg > NSIG) return -EINVAL;
    f->sig = (int)arg;
    return 0;
  case F_GETSIG: return f->sig;
  case F_SETOWN_EX:
    if (copy_from_user(&ex, arg, sizeof ex)) return -EFAULT;
    if (ex.type < F_OWNER_TID_K || ex.type > F_OWNER_PGRP_K) return -EINVAL;
    WRITE_ONCE(f->owner_pid, ex.type == F_OWNER_PGRP_K ? -ex.pid : ex.pid);
    return 0;
  default: // F_GETOWN_EX
    ex.pid = READ_ONCE(f->owner_pid);
    ex.type = ex.pid < 0 ? F_OWNER_PGRP_K : F_OWNER_PID_K;
    if (ex.pid < 0) ex.pid = -ex.pid;
    return copy_to_user(arg, &ex, sizeof ex);
  }
}

static long fcntl_file(struct file *f, int fd, int cmd, u64 arg) {
  const u32 settable = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME | FASYNC;
  const u32 hidden = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC;
  switch (cmd) {
  case F_DUPFD:
  case 1030: // F_DUPFD_CLOEXEC
    if (arg >= fd_limit()) return -EINVAL;
    return dup_from(file_get(f), (int)arg, cmd == F_DUPFD ? 0 : O_CLOEXEC);
  case F_GETFD: return fd_get_cloexec(fd);
  case F_SETFD: return fd_set_cloexec(fd, arg & FD_CLOEXEC);
  case F_GETFL: return (long)((f->flags & ~hidden) | (f->dentry && !f->path_only ? 0100000 /* O_LARGEFILE */ : 0));
  default: break;
  }
  if (f->path_only) return -EBADF;
  struct pipe *p;
  switch (cmd) {
  case F_SETFL: return file_set_flags(f, (u32)arg, settable);
  case F_GETLK: case F_SETLK: case F_SETLKW:
  case F_OFD_GETLK: case F_OFD_SETLK: case F_OFD_SETLKW: return lock_fcntl(f, fd, cmd, arg);
  case F_SETOWN: case F_GETOWN: case F_SETSIG: case F_GETSIG: case F_SETOWN_EX: case F_GETOWN_EX: return fcntl_owner(f, cmd, arg);
  case 1025: return F_UNLCK; // F_GETLEASE: none is ever given
  case 1031:                 // F_SETPIPE_SZ
    if (!(p = pipe_from_file(f))) return -EBADF;
    return pipe_set_size(p, (u32)arg);
  case 1032:                 // F_GETPIPE_SZ
    if (!(p = pipe_from_file(f))) return -EBADF;
    return (long)pipe_size(p);
  case 1033: case 1034: return seals_fcntl(f, cmd, arg); // F_ADD_SEALS, F_GET_SEALS
  default: return -EINVAL;
  }
}

long sys_fcntl(u64 fd, u64 cmd, u64 arg) {
  struct file *f = file_from_fd((int)fd); // a real reference: F_SETLKW sleeps, F_DUPFD stores it
  if (!f) return -EBADF;
  long r = fcntl_file(f, (int)fd, (int)cmd, arg);
  file_put(f);
  return r;
}

// --- ioctl
static long ioctl_flag(struct file *f, uptr arg, u32 flag) {
  int on;
  if (copy_from_user(&on, arg, sizeof on)) return -EFAULT;
  return file_set_flags(f, on ? flag : 0, flag);
}

static long ioctl_file(struct file *f, int fd, u32 cmd, uptr arg) {
  switch (cmd) {
  case FIOCLEX: return fd_set_cloexec(fd, true);
  case FIONCLEX: return fd_set_cloexec(fd, false);
  case FIONBIO: return ioctl_flag(f, arg, O_NONBLOCK);
  case FIOASYNC: return ioctl_flag(f, arg, FASYNC);
  case FIONREAD:
    if (f->inode && S_ISREG(f->inode->mode)) {
      s64 left = (s64)(READ_ONCE(f->inode->size) - READ_ONCE(f->pos));
      int n = left < 0 ? 0 : (int)left;
      return copy_to_user(arg, &n, sizeof n);
    }
    break;
  default: break;
  }
  return f->ops->ioctl ? f->ops->ioctl(f, cmd, arg) : -ENOTTY;
}

long sys_ioctl(u64 fd, u64 cmd, u64 arg) {
  struct fdref r = fdref_get((int)fd);
  if (!r.file) return -EBADF;
  long ret = r.file->path_only ? -EBADF : ioctl_file(r.file, (int)fd, (u32)cmd, arg);
  fdref_put(r);
  return ret;
}

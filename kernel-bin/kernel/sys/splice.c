// SPDX-License-Identifier: Apache-2.0
//
// sendfile, splice, tee, vmsplice, copy_file_range. They copy through a kernel buffer: what a pipe holds is looked at,
// written out, and only then taken (pipe_read_begin/end), and a file's position moves by what was written, so nothing is
// lost when the destination takes less than was read. What comes out of a stream (socket, tty) is only read when the
// pipe it goes to has room, and then written to the end.
#include "sys/file.h"
#include <asm/fcntl.h>
#include <linux/stat.h>

#define BOUNCE_BYTES (32 * KIB)
#define SPLICE_F_NONBLOCK 2

static long write_kernel(struct fdref out, u64 *at, void *buf, size_t n) {
  if (!at) {
    struct iter it;
    iter_kernel(&it, buf, n);
    return file_write(out, &it);
  }
  if (!file_writable(out.file)) return -EBADF;
  long w = file_write_at(out.file, buf, n, *at);
  if (w > 0) *at += (u64)w;
  return w;
}

// From a file with positions to anything. *pos moves by what was written.
static long copy_from_pos(struct file *in, u64 *pos, struct fdref out, u64 *out_at, u64 count) {
  u8 *buf = kmalloc(BOUNCE_BYTES, 0);
  if (!buf) return -ENOMEM;
  u64 done = 0;
  long r = 0;
  while (done < count) {
    r = file_read_at(in, buf, MIN(count - done, BOUNCE_BYTES), *pos);
    if (r <= 0) break;
    long got = r;
    r = write_kernel(out, out_at, buf, (size_t)got);
    if (r <= 0) break;
    done += (u64)r;
    *pos += (u64)r;
    if (r < got || signal_pending()) break;
    sched_yield_if_needed();
  }
  kfree(buf);
  return done ? (long)done : r;
}

static int offset_in(uptr user, u64 *pos) {
  if (copy_from_user(pos, user, sizeof *pos)) return -EFAULT;
  return (s64)*pos < 0 ? -EINVAL : 0;
}

long sys_sendfile(u64 out_fd, u64 in_fd, u64 offset, u64 count) {
  struct file *in = file_from_fd((int)in_fd), *out = file_from_fd((int)out_fd);
  struct fdref to = { out, true };
  long r = -EBADF;
  u64 pos = 0;
  if (!in || !out || !file_readable(in) || !file_writable(out)) goto done;
  r = -EINVAL;
  if (!in->ops->read || !in->ops->seek || !out->ops->write) goto done;
  if (offset) {
    if ((r = offset_in(offset, &pos))) goto done;
    r = copy_from_pos(in, &pos, to, NULL, MIN(count, MAX_RW));
    if (r > 0 && copy_to_user(offset, &pos, sizeof pos)) r = -EFAULT;
  } else {
    // The position is not locked across the transfer, which may take for ever on a slow socket: two sendfiles on one
    // description interleave as two reads would.
    pos = READ_ONCE(in->pos);
    r = copy_from_pos(in, &pos, to, NULL, MIN(count, MAX_RW));
    if (r > 0) {
      mutex_lock(&in->pos_lock);
      in->pos = pos;
      mutex_unlock(&in->pos_lock);
    }
  }
done:
  if (in) file_put(in);
  if (out) file_put(out);
  return r;
}

static long splice_from_pipe(struct pipe *p, struct fdref out, u64 *out_at, u64 count, bool wait, bool take) {
  u8 *buf = kmalloc(BOUNCE_BYTES, 0);
  if (!buf) return -ENOMEM;
  u64 done = 0;
  long r = 0;
  while (done < count) {
    r = pipe_read_begin(p, buf, MIN(count - done, BOUNCE_BYTES), wait && !done);
    if (r <= 0) break;
    long got = r;
    r = write_kernel(out, out_at, buf, (size_t)got);
    pipe_read_end(p, take && r > 0 ? (size_t)r : 0);
    if (r <= 0) break;
    done += (u64)r;
    if (r < got || !take || signal_pending()) break;
  }
  kfree(buf);
  return done ? (long)done : r;
}

static long splice_to_pipe(struct fdref in, u64 *in_at, struct file *out, struct pipe *p, u64 count, bool wait) {
  long space = pipe_wait_space(p, wait);
  if (space == -EPIPE) sigpipe_raise();
  if (space <= 0) return space;
  u64 n = MIN(MIN(count, BOUNCE_BYTES), (u64)space);
  u8 *buf = kmalloc(BOUNCE_BYTES, 0);
  if (!buf) return -ENOMEM;
  long got;
  if (in_at) {
    got = !file_readable(in.file) ? -EBADF : file_read_at(in.file, buf, n, *in_at);
    if (got > 0) *in_at += (u64)got;
  } else {
    struct iter it;
    iter_kernel(&it, buf, n);
    got = file_read(in, &it);
  }
  // It was read, so it must arrive; room may be gone again if others write too.
  long done = 0;
  while (done < got) {
    struct iter it;
    iter_kernel(&it, buf + done, (u64)(got - done));
    long w = out->ops->write(out, &it, NULL);
    if (w == -EAGAIN) w = pipe_wait_space(p, true) < 0 ? -EPIPE : 0;
    if (w < 0) break;
    done += w;
  }
  kfree(buf);
  return got > 0 && done < got && !done ? -EPIPE : got > 0 ? done : got;
}

long sys_splice(u64 fd_in, u64 off_in, u64 fd_out, u64 off_out, u64 count, u64 flags) {
  if (flags & ~0xfull) return -EINVAL;
  if (!count) return 0;
  struct fdref in = { file_from_fd((int)fd_in), true }, out = { file_from_fd((int)fd_out), true };
  u64 pos_in = 0, pos_out = 0;
  long r = -EBADF;
  if (!in.file || !out.file || !file_readable(in.file) || !file_writable(out.file)) goto done;
  struct pipe *pin = pipe_from_file(in.file), *pout = pipe_from_file(out.file);
  bool wait = !(flags & SPLICE_F_NONBLOCK);
  r = -EINVAL;
  if ((!pin && !pout) || pin == pout || !in.file->ops->read || !out.file->ops->write) goto done;
  if ((pin && off_in) || (pout && off_out)) {
    r = -ESPIPE;
    goto done;
  }
  if ((off_in && !in.file->ops->seek) || (off_out && !out.file->ops->seek)) goto done;
  if (off_in && (r = offset_in(off_in, &pos_in))) goto done;
  if (off_out && (r = offset_in(off_out, &pos_out))) goto done;
  count = MIN(count, MAX_RW);
  if (pin) r = splice_from_pipe(pin, out, off_out ? &pos_out : NULL, count, wait && !(in.file->flags & O_NONBLOCK), true);
  else r = splice_to_pipe(in, off_in ? &pos_in : NULL, out.file, pout, count, wait && !(out.file->flags & O_NONBLOCK));
  if (r > 0 && off_in && copy_to_user(off_in, &pos_in, sizeof pos_in)) r = -EFAULT;
  if (r > 0 && off_out && copy_to_user(off_out, &pos_out, sizeof pos_out)) r = -EFAULT;
done:
  if (in.file) file_put(in.file);
  if (out.file) file_put(out.file);
  return r;
}

long sys_tee(u64 fd_in, u64 fd_out, u64 count, u64 flags) {
  if (flags & ~0xfull) return -EINVAL;
  if (!count) return 0;
  struct file *in = file_from_fd((int)fd_in), *out = file_from_fd((int)fd_out);
  long r = -EBADF;
  if (!in || !out || !file_readable(in) || !file_writable(out)) goto done;
  struct pipe *pin = pipe_from_file(in), *pout = pipe_from_file(out);
  r = -EINVAL;
  if (!pin || !pout || pin == pout) goto done;
  r = splice_from_pipe(pin, (struct fdref){ out, true }, NULL, MIN(count, MAX_RW), !(flags & SPLICE_F_NONBLOCK), false);
done:
  if (in) file_put(in);
  if (out) file_put(out);
  return r;
}

long sys_readv(u64 fd, u64 iov, u64 nr);
long sys_writev(u64 fd, u64 iov, u64 nr);
long sys_vmsplice(u64 fd, u64 iov, u64 nr, u64 flags) {
  if (flags & ~0xfull) return -EINVAL;
  struct file *f = file_from_fd((int)fd);
  if (!f) return -EBADF;
  bool pipe = pipe_from_file(f) != NULL, writes = file_writable(f);
  file_put(f);
  if (!pipe) return -EBADF;
  return writes ? sys_writev(fd, iov, nr) : sys_readv(fd, iov, nr);
}

long sys_copy_file_range(u64 fd_in, u64 off_in, u64 fd_out, u64 off_out, u64 count, u64 flags) {
  if (flags) return -EINVAL;
  struct file *in = file_from_fd((int)fd_in), *out = file_from_fd((int)fd_out);
  u64 pos_in = 0, pos_out = 0;
  long r = -EBADF;
  if (!in || !out || !file_readable(in) || !file_writable(out) || out->flags & O_APPEND) goto done;
  r = -EINVAL;
  if (!in->inode || !out->inode) goto done;
  if (S_ISDIR(in->inode->mode) || S_ISDIR(out->inode->mode)) {
    r = -EISDIR;
    goto done;
  }
  if (!S_ISREG(in->inode->mode) || !S_ISREG(out->inode->mode) || !in->ops->read || !out->ops->write) goto done;
  if (off_in && (r = offset_in(off_in, &pos_in))) goto done;
  if (off_out && (r = offset_in(off_out, &pos_out))) goto done;
  if (!off_in) pos_in = READ_ONCE(in->pos);
  if (!off_out) pos_out = READ_ONCE(out->pos);
  count = MIN(count, MAX_RW);
  if (in->inode == out->inode && pos_in < pos_out + count && pos_out < pos_in + count) {
    r = -EINVAL;
    goto done;
  }
  r = copy_from_pos(in, &pos_in, (struct fdref){ out, true }, &pos_out, count);
  if (r <= 0) goto done;
  if (!off_in) WRITE_ONCE(in->pos, pos_in);
  else if (copy_to_user(off_in, &pos_in, sizeof pos_in)) r = -EFAULT;
  if (!off_out) WRITE_ONCE(out->pos, pos_out);
  else if (copy_to_user(off_out, &pos_out, sizeof pos_out)) r = -EFAULT;
done:
  if (in) file_put(in);
  if (out) file_put(out);
  return r;
}

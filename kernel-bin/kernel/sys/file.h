// SPDX-License-Identifier: Apache-2.0
// What the system calls on files, sockets and polls share: iovecs and timeouts from a program, new descriptors, SIGPIPE.
#ifndef SYS_FILE_H
#define SYS_FILE_H
#include "sys/sys.h"

#define MAX_RW 0x7ffff000ull // as Linux: more is cut
#define MAX_IOV 1024u
#define FAST_IOV 8u
struct iov_buf { struct iovec fast[FAST_IOV]; struct iovec *iov; };
int __must_check iov_import(struct iov_buf *b, uptr user, u64 nr, struct iter *it); // -EINVAL, -EFAULT, -ENOMEM
static inline void iov_release(struct iov_buf *b) { if (b->iov != b->fast) kfree(b->iov); }

long file_read(struct fdref r, struct iter *it);       // at the file's position, which moves
long file_write(struct fdref r, struct iter *it);      // raises SIGPIPE where write(2) does
void sigpipe_raise(void);
long fd_install_new(struct file *f, u32 cloexec);      // f NULL: -ENOMEM; the reference is gone in any case
static inline bool file_readable(const struct file *f) { return !f->path_only && (f->flags & 3) != 1 && (f->flags & 3) != 3; }
static inline bool file_writable(const struct file *f) { return !f->path_only && ((f->flags & 3) == 1 || (f->flags & 3) == 2); }

struct user_timespec { s64 sec, nsec; };
// ns of a timespec; saturates. -EINVAL when it is not normalised or negative.
int __must_check timespec_ns(const struct user_timespec *ts, u64 *ns);
static inline u64 deadline_after(u64 ns) { // 0 stays 0: do not wait
  u64 now = time_ns();
  return !ns ? 0 : ns >= WAIT_FOREVER - now ? WAIT_FOREVER : now + ns;
}
#endif

// SPDX-License-Identifier: Apache-2.0
//
// file: open files and descriptor tables; pipes, poll, epoll, eventfd, timerfd, signalfd, inotify. What a file is made
// of (an inode, a socket, a pipe) is behind file_ops.
#ifndef FILE_FILE_H
#define FILE_FILE_H
#include "mm/mm.h"

struct dentry; // fs room
struct inode;
struct file;

// --- where data comes from or goes to: user iovecs or kernel memory. Copying advances it.
struct iovec { uptr base; u64 len; };
struct iter { bool user; const struct iovec *iov; unsigned nr; u64 off; /* in iov[0] */ u8 *kbuf; u64 left; };
void iter_kernel(struct iter *it, void *buf, u64 len);
void iter_user(struct iter *it, struct iovec *one, uptr buf, u64 len);  // `one` is storage that outlives the iter
void iter_iov(struct iter *it, const struct iovec *iov, unsigned nr);
// Bytes copied (may be short on a bad user page: the caller returns what it has, or -EFAULT when that is nothing).
size_t iter_to(struct iter *it, const void *src, size_t n);    // kernel -> iter
size_t iter_from(struct iter *it, void *dst, size_t n);        // iter -> kernel
size_t iter_zero(struct iter *it, size_t n);

// --- poll. ops->poll calls poll_wait for every queue that matters, then returns the events that are true now (EPOLL*).
struct poll_table { void (*add)(struct poll_table *t, struct waitq *q, struct file *f); };
static inline void poll_wait(struct poll_table *t, struct waitq *q, struct file *f) { if (t && t->add) t->add(t, q, f); }

struct dirent_sink { bool (*emit)(struct dirent_sink *s, const char *name, size_t len, u64 ino, u8 type, u64 next_pos); };
struct file_ops {
  // pos: file offset to use and advance, or NULL when the file has none (pipes, sockets). Bytes, or -errno.
  long (*read)(struct file *f, struct iter *it, u64 *pos);
  long (*write)(struct file *f, struct iter *it, u64 *pos);
  u32 (*poll)(struct file *f, struct poll_table *t);          // NULL: always readable and writable
  long (*ioctl)(struct file *f, u32 cmd, uptr arg);           // NULL: -ENOTTY
  long (*seek)(struct file *f, s64 off, int whence);          // NULL: -ESPIPE
  int (*readdir)(struct file *f, struct dirent_sink *s, u64 *pos); // NULL: -ENOTDIR
  // The object to map; may adjust flags of the request (/dev/zero gives obj NULL). NULL: -ENODEV
  int (*mmap)(struct file *f, struct mmap_request *rq);
  int (*fsync)(struct file *f, u64 start, u64 len, bool data_only);  // NULL: -EINVAL
  int (*truncate)(struct file *f, u64 size);                  // NULL: -EINVAL
  long (*fallocate)(struct file *f, int mode, u64 off, u64 len); // NULL: -EOPNOTSUPP
  int (*set_flags)(struct file *f, u32 flags);                // F_SETFL; NULL: any of O_APPEND|O_NONBLOCK|O_DIRECT|O_NOATIME
  void (*flush)(struct file *f, void *owner);                 // a descriptor was closed (owner: its fd table)
  void (*release)(struct file *f);                            // last reference
  void (*describe)(struct file *f, char *buf, size_t n);      // "pipe:[12]" for /proc/self/fd; NULL: the path
  void (*fdinfo)(struct file *f, char *buf, size_t n);        // extra lines of /proc/self/fdinfo
};
struct file {
  struct refcount refs;
  const struct file_ops *ops;
  u32 flags;             // O_*, access mode included; under lock
  struct spinlock lock;  // RANK_OBJECT
  struct mutex pos_lock; // RANK_INODE: held over a read or write that uses pos
  u64 pos;
  struct dentry *dentry; // opened by path: referenced; NULL otherwise
  struct inode *inode;   // of the dentry, for convenience; anonymous files may have none
  void *priv;            // the owner's object
  u64 id;                // unique, for anon names and locks
  struct list epoll_items; // epolls that watch it, under epoll's lock
  int owner_pid; int sig;  // F_SETOWN, F_SETSIG
};
struct file *file_create(const struct file_ops *ops, void *priv, u32 flags); // refs 1; NULL
static inline struct file *file_get(struct file *f) { ref_get(&f->refs); return f; }
void file_put(struct file *f);                                               // may sleep

// --- descriptor tables (shared by CLONE_FILES)
struct fdtable;
struct fdtable *fdtable_create(void);
struct fdtable *fdtable_copy(struct fdtable *from);   // fork; NULL
struct fdtable *fdtable_get(struct fdtable *t);
void fdtable_put(struct fdtable *t);
void fdtable_close_on_exec(struct fdtable *t);
extern struct fdtable *(*fdtable_current)(void);      // proc installs it
// All below: the current table. file_from_fd returns a reference or NULL (-EBADF).
struct file *file_from_fd(int fd);
int __must_check fd_install(struct file *f, u32 flags /* O_CLOEXEC */); // takes the reference on success; lowest free; -EMFILE
int __must_check fd_install_from(struct file *f, u32 flags, int min);
int __must_check fd_replace(int fd, struct file *f, u32 flags);        // dup2, dup3
int __must_check fd_close(int fd);
struct file *fdtable_lookup(struct fdtable *t, int fd, bool *cloexec);  // for /proc
int fdtable_next(struct fdtable *t, int from);                          // lowest open fd >= from, -1
void fd_set_limit_source(u64 (*limit)(void));                           // RLIMIT_NOFILE

// --- kinds
int __must_check pipe_create(struct file *ends[2], u32 flags);
struct file *eventfd_create(u64 initial, u32 flags);
struct file *epoll_create(u32 flags);
void epoll_file_closed(struct file *f);   // called by file_put before release
// read/write on a file, as the syscalls do it: position, O_APPEND, limits. For sendfile, exec, coredumps.
long file_read_at(struct file *f, void *buf, size_t n, u64 pos);   // kernel buffer, whole file offset
long file_write_at(struct file *f, const void *buf, size_t n, u64 pos);
void file_init(void);
#endif

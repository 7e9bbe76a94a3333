// SPDX-License-Identifier: Apache-2.0
//
// file: open files and descriptor tables; pipes, poll, epoll, eventfd, timerfd, signalfd, inotify. What a file is made
// of (an inode, a socket, a pipe) is behind file_ops.
#ifndef FILE_FILE_H
#define FILE_FILE_H
#include "mm/mm.h"

struct dentry; // fs room
struct inode;
struct mount;
struct file;

// --- where data comes from or goes to: user iovecs or kernel memory. Copying advances it.
struct iovec { uptr base; u64 len; };
struct iter { bool user; const struct iovec *iov; unsigned nr; u64 off; /* in iov[0] */ u8 *kbuf; u64 left; };
static inline void iter_kernel(struct iter *it, void *buf, u64 len) {
  *it = (struct iter){ .user = false, .kbuf = buf, .left = len };
}
static inline void iter_user(struct iter *it, struct iovec *one, uptr buf, u64 len) { // `one`: storage that outlives it
  one->base = buf;
  one->len = len;
  it->user = true;
  it->iov = one;
  it->nr = 1;
  it->off = 0;
  it->left = len;
}
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
  struct mount *mnt;     // with dentry: the mount it was reached through (mounts are never freed)
  void *priv;            // the owner's object
  u64 id;                // unique, for anon names and locks
  struct list epoll_items; // epolls that watch it, under lock
  bool epoll_watched;      // some epoll watched it once: file_put must look
  bool path_only;          // O_PATH: names a place, moves no data (-EBADF from read, write, ioctl...)
  int owner_pid; int sig;  // F_SETOWN, F_SETSIG
  struct file *late_next;  // file.c: last references that wait for a thread
  u64 ra_next; u32 ra_window; // fs room: read-ahead hints
};
// refs 1; NULL. struct file is type-stable memory (file.c): a stale pointer to one may be tried with ref_get_unless_zero.
struct file *file_create(const struct file_ops *ops, void *priv, u32 flags);
static inline struct file *file_get(struct file *f) { ref_get(&f->refs); return f; }
// May sleep. The last one: epolls forget the file, ops->release, file_hooks.path_release (when it has a dentry).
void file_put(struct file *f);
void file_put_late(struct file *f); // the same in any context: a last reference is dropped by a kernel thread

// What the fs room installs in fs_init: file must not include it. All may be NULL until then.
struct file_hooks {
  void (*path_release)(struct file *f);             // last reference: flock locks, the dentry's reference
  void (*descriptor_closed)(struct file *f, void *owner); // after ops->flush: POSIX locks of this fd table
  void (*inode_get)(struct inode *i);               // for inotify watches, which keep their inode
  void (*inode_put)(struct inode *i);
  void (*notify)(struct file *f, u32 mask);         // IN_* on the file's inode and, by name, on its parent: calls
};                                                  // inotify_event for both. Only called while inotify_active.
extern struct file_hooks file_hooks;

// --- descriptor tables (shared by CLONE_FILES)
struct fdtable;
struct fdtable *fdtable_create(void);
struct fdtable *fdtable_copy(struct fdtable *from);   // fork; NULL
struct fdtable *fdtable_get(struct fdtable *t);
void fdtable_put(struct fdtable *t);
bool fdtable_shared(const struct fdtable *t);         // somebody else has it too; only its own threads make more
void fdtable_close_on_exec(struct fdtable *t);
extern struct fdtable *(*fdtable_current)(void);      // proc installs it
// All below: the current table. file_from_fd returns a reference or NULL (-EBADF).
struct file *file_from_fd(int fd);
// The same for the hot paths: no atomics while the table is not shared. Not around anything that closes the same fd.
struct fdref { struct file *file; bool owned; };
struct fdref fdref_get(int fd);                                        // .file NULL: -EBADF
static inline void fdref_put(struct fdref r) { if (r.owned) file_put(r.file); }
int __must_check fd_install(struct file *f, u32 flags /* O_CLOEXEC */); // takes the reference on success; lowest free; -EMFILE
int __must_check fd_install_from(struct file *f, u32 flags, int min);
bool fd_is(int fd, const struct file *f); // under the lock that a close takes before it looks for what goes with the descriptor
bool fd_room(void); // whether fd_install would find a place now: for calls that would lose something without one
int __must_check fd_replace(int fd, struct file *f, u32 flags);        // dup2, dup3
int __must_check fd_close(int fd);
struct file *fdtable_lookup(struct fdtable *t, int fd, bool *cloexec);  // for /proc
int fdtable_next(struct fdtable *t, int from);                          // lowest open fd >= from, -1
u32 fdtable_capacity(struct fdtable *t);                                // FDSize of /proc/PID/status
int __must_check fd_set_cloexec(int fd, bool on);                       // -EBADF
int __must_check fd_get_cloexec(int fd);                                // 0, 1, -EBADF
int __must_check fd_close_range(u32 first, u32 last, bool cloexec_only);
u32 fd_limit(void);                                                     // RLIMIT_NOFILE, as far as tables can grow
void fd_set_limit_source(u64 (*limit)(void));                           // RLIMIT_NOFILE

// --- kinds
struct pipe;
int __must_check pipe_create(struct file *ends[2], u32 flags);
// Opening a FIFO: `slot` is the inode's pipe pointer, stable while f holds its dentry. Blocks for the other end as POSIX
// says (interruptible); sets f->ops and f->priv, and *slot while somebody has it open. -ENXIO, -ERESTARTSYS, -ENOMEM.
int __must_check fifo_open(struct file *f, struct pipe **slot);
struct pipe *pipe_from_file(struct file *f);             // NULL: not a pipe
long pipe_set_size(struct pipe *p, u64 bytes);           // F_SETPIPE_SZ: the new size
u64 pipe_size(struct pipe *p);
// splice and tee: reads without taking, and keeps other readers out until pipe_read_end says how much was used. Bytes,
// 0 at the end of the data, -EAGAIN (wait false and nothing there), -ERESTARTSYS. Only after > 0 is there an end to call.
long pipe_read_begin(struct pipe *p, void *buf, size_t n, bool wait);
void pipe_read_end(struct pipe *p, size_t used);
long pipe_wait_space(struct pipe *p, bool wait);         // bytes free; -EAGAIN, -EPIPE, -ERESTARTSYS
struct file *eventfd_create(u64 initial, u32 flags);     // EFD_SEMAPHORE, O_NONBLOCK
struct file *epoll_create(u32 flags);
struct epoll_event_k { u32 events; u64 data; } __packed; // as Linux's struct epoll_event
int __must_check epoll_control(struct file *ep, int op, struct file *target, int fd, struct epoll_event_k *ev);
long epoll_wait(struct file *ep, uptr events, int max, u64 deadline_ns); // count, -EINTR, -EFAULT, -EINVAL
void epoll_file_closed(struct file *f);   // called by file_put before release
// Waits until any of the files has an event that its item asks for (EPOLLERR, EPOLLHUP only when named): poll and select.
// deadline 0: only looks. Items without a file count as ready when revents is set. Count of ready ones, -EINTR, -ENOMEM.
struct poll_item { struct file *file; u32 events, revents; bool owned; /* free for the caller */ };
long poll_files(struct poll_item *items, unsigned n, u64 deadline_ns);
static inline u32 file_poll(struct file *f, struct poll_table *t) { // EPOLLIN|EPOLLOUT|... ; plain files are always ready
  return f->ops->poll ? f->ops->poll(f, t) : 0x145 /* IN OUT RDNORM WRNORM */;
}
// timerfd
struct itimer_ns { u64 interval_ns, value_ns; };
struct file *timerfd_create(int clockid, u32 flags);
int __must_check timerfd_set(struct file *f, int flags, const struct itimer_ns *n, struct itimer_ns *old);
int __must_check timerfd_get(struct file *f, struct itimer_ns *cur);
// signalfd. proc installs the hooks (both work on the current thread) and calls signalfd_notify after it has queued a
// signal, from any context. All signalfds share one wait queue, so no watcher can outlive the process it looked at.
struct signalfd_siginfo;                                 // <linux/signalfd.h>, 128 bytes
struct signalfd_hooks {
  bool (*pending)(u64 mask);                             // is one of these signals pending?
  bool (*take)(u64 mask, struct signalfd_siginfo *out);  // dequeues one, lowest first; false: none
};
extern struct signalfd_hooks signalfd_hooks;
struct file *signalfd_create(u64 mask, u32 flags);
int __must_check signalfd_set_mask(struct file *f, u64 mask); // -EINVAL: not a signalfd
void signalfd_notify(void);
// inotify. A watched inode's `watches` list belongs to inotify.c (its own lock). fs calls inotify_event where names or
// inodes change, guarded by inotify_active; name NULL: on the inode itself. IN_DELETE_SELF and IN_UNMOUNT end the watches.
extern u32 inotify_active;                               // watches that exist
struct file *inotify_create(u32 flags);
int __must_check inotify_add_watch(struct file *f, struct inode *i, struct list *watches, u32 mask); // descriptor
int __must_check inotify_remove_watch(struct file *f, int wd);
void inotify_event(struct list *watches, u32 mask, u32 cookie, const char *name, size_t name_len);
static inline void file_notify(struct file *f, u32 mask) {
  if (unlikely(READ_ONCE(inotify_active)) && f->dentry && file_hooks.notify) file_hooks.notify(f, mask);
}
// read/write on a file, as the syscalls do it: position, O_APPEND, limits. For sendfile, exec, coredumps.
long file_read_at(struct file *f, void *buf, size_t n, u64 pos);   // kernel buffer, whole file offset
long file_write_at(struct file *f, const void *buf, size_t n, u64 pos);
void file_init(void);
#endif

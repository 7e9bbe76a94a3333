// SPDX-License-Identifier: Apache-2.0
//
// Pipes and FIFOs. p->lock (mutex) guards the ring and the counts of ends; it is held while user memory is copied, which
// is why nothing that a page fault needs may ever take it. Waiters sleep without it on two queues, and whoever changes
// what they wait for wakes them after the change:
//   rd: bytes arrived, the last writer left, a splice ended     wr: space appeared, the last reader left
// A write of at most PIPE_BUF bytes goes in whole under one hold of the lock (POSIX: atomic). Poll reads counters without
// the lock: it queued itself first, so a later change wakes it.
#include "file/internal.h"
#include "file/bytering.h"
#include <asm/ioctls.h>
#include <linux/limits.h>

#define PIPE_DEFAULT_BYTES (64 * KIB)

struct pipe {
  struct mutex lock;
  struct bytering ring;
  u32 readers, writers;         // open ends
  u32 reader_opens, writer_opens; // how often each was ever opened: what a FIFO's open waits for
  struct refcount refs;         // struct files that use it; of a FIFO, changed under fifo_lock
  bool splicing;                // a splice holds bytes at the head: other readers wait
  struct waitq rd, wr;
  struct pipe **slot;           // FIFO: the inode's pointer to this
  u64 id;
};

static struct mutex fifo_lock;  // every FIFO's slot. Taken outside p->lock
static const struct file_ops pipe_file_ops, fifo_file_ops;

static struct pipe *pipe_new(void) {
  struct pipe *p = kzalloc(sizeof *p);
  if (!p) return NULL;
  if (bytering_init(&p->ring, PIPE_DEFAULT_BYTES)) {
    kfree(p);
    return NULL;
  }
  ref_init(&p->refs);
  mutex_init(&p->lock, RANK_OBJECT);
  waitq_init(&p->rd);
  waitq_init(&p->wr);
  return p;
}

static void pipe_free(struct pipe *p) {
  bytering_destroy(&p->ring);
  kfree(p);
}

struct pipe *pipe_from_file(struct file *f) {
  return f->ops == &pipe_file_ops || f->ops == &fifo_file_ops ? f->priv : NULL;
}

static inline bool can_read(const struct file *f) { return (f->flags & O_ACCMODE) != O_WRONLY; }
static inline bool can_write(const struct file *f) { return (f->flags & O_ACCMODE) != O_RDONLY; }

static inline void wake(struct waitq *q, u32 key) { waitq_wake(q, 1, key); }

// --- reading
static inline bool read_ready(struct pipe *p) {
  return (bytering_used(&p->ring) || !READ_ONCE(p->writers)) && !READ_ONCE(p->splicing);
}

// Takes the lock once there is something to read or nobody can write any more: 0 and the lock is held, or -errno.
static int read_lock_ready(struct pipe *p, bool nowait) {
  for (;;) {
    mutex_lock(&p->lock);
    if (read_ready(p)) return 0;
    mutex_unlock(&p->lock);
    if (nowait) return -EAGAIN;
    int err = wait_event_interruptible(&p->rd, read_ready(p));
    if (err) return err;
  }
}

static long pipe_read(struct file *f, struct iter *it, u64 *pos) {
  struct pipe *p = f->priv;
  if (!it->left) return 0;
  int err = read_lock_ready(p, f->flags & O_NONBLOCK);
  if (err) return err;
  bool fault = false;
  size_t got = bytering_get(&p->ring, it, it->left, &fault);
  mutex_unlock(&p->lock);
  if (got) wake(&p->wr, EPOLLOUT | EPOLLWRNORM);
  return got ? (long)got : fault ? -EFAULT : 0;
}

long pipe_read_begin(struct pipe *p, void *buf, size_t n, bool wait) {
  int err = read_lock_ready(p, !wait);
  if (err) return err;
  bool fault = false;
  struct iter it;
  iter_kernel(&it, buf, n);
  size_t got = bytering_peek(&p->ring, 0, &it, n, &fault);
  p->splicing = got != 0;
  mutex_unlock(&p->lock);
  return (long)got;
}

void pipe_read_end(struct pipe *p, size_t used) {
  mutex_lock(&p->lock);
  bytering_skip(&p->ring, used);
  p->splicing = false;
  mutex_unlock(&p->lock);
  if (used) wake(&p->wr, EPOLLOUT | EPOLLWRNORM);
  waitq_wake(&p->rd, 1, EPOLLIN | EPOLLRDNORM);
}

// --- writing
static inline bool write_ready(struct pipe *p, size_t need) {
  return bytering_space(&p->ring) >= need || !READ_ONCE(p->readers);
}

long pipe_wait_space(struct pipe *p, bool wait) {
  if (!wait && !write_ready(p, 1)) return -EAGAIN;
  int err = wait_event_interruptible(&p->wr, write_ready(p, 1));
  if (err) return err;
  return READ_ONCE(p->readers) ? (long)bytering_space(&p->ring) : -EPIPE;
}

static long pipe_write(struct file *f, struct iter *it, u64 *pos) {
  struct pipe *p = f->priv;
  if (!it->left) return 0;
  size_t done = 0;
  bool fault = false;
  long err = 0;
  mutex_lock(&p->lock);
  for (;;) {
    if (!p->readers) {
      err = -EPIPE;
      break;
    }
    // Small writes are all or nothing; a larger one takes what fits. PIPE_BUF and less than that fits in any ring.
    size_t need = done || it->left > PIPE_BUF ? 1 : it->left;
    if (bytering_space(&p->ring) >= need) {
      size_t put = bytering_put(&p->ring, it, it->left, &fault);
      done += put;
      if (fault) {
        err = -EFAULT;
        break;
      }
      if (!it->left) break;
      if (!put) { // space, but no page for it
        err = -ENOMEM;
        break;
      }
      continue;
    }
    if (f->flags & O_NONBLOCK) {
      err = -EAGAIN;
      break;
    }
    mutex_unlock(&p->lock);
    if (done) wake(&p->rd, EPOLLIN | EPOLLRDNORM);
    // A page's worth at a time, so that a slow reader does not wake a large writer for every byte.
    err = wait_event_interruptible(&p->wr, write_ready(p, MIN(it->left, (size_t)PIPE_BUF)));
    mutex_lock(&p->lock);
    if (err) break;
  }
  mutex_unlock(&p->lock);
  if (done) wake(&p->rd, EPOLLIN | EPOLLRDNORM);
  return done ? (long)done : err;
}

// --- everything else
static u32 pipe_poll(struct file *f, struct poll_table *t) {
  struct pipe *p = f->priv;
  u32 ev = 0;
  if (can_read(f)) {
    poll_wait(t, &p->rd, f);
    if (bytering_used(&p->ring)) ev |= EPOLLIN | EPOLLRDNORM;
    // A FIFO that nobody has written to yet is not hung up (POSIX poll: POLLHUP after a writer left).
    if (!READ_ONCE(p->writers) && READ_ONCE(p->writer_opens)) ev |= EPOLLHUP;
  }
  if (can_write(f)) {
    poll_wait(t, &p->wr, f);
    if (bytering_space(&p->ring) >= PIPE_BUF) ev |= EPOLLOUT | EPOLLWRNORM;
    if (!READ_ONCE(p->readers)) ev |= EPOLLERR;
  }
  return ev;
}

static long pipe_ioctl(struct file *f, u32 cmd, uptr arg) {
  struct pipe *p = f->priv;
  if (cmd != FIONREAD) return -ENOTTY;
  int n = (int)bytering_used(&p->ring);
  return copy_to_user(arg, &n, sizeof n);
}

// One end closes. The queues are woken before this file's reference on p goes, so p outlives the wake.
static void pipe_release(struct file *f) {
  struct pipe *p = f->priv;
  mutex_lock(&p->lock);
  if (can_read(f)) WRITE_ONCE(p->readers, p->readers - 1);
  if (can_write(f)) WRITE_ONCE(p->writers, p->writers - 1);
  mutex_unlock(&p->lock);
  waitq_wake_all(&p->rd);
  waitq_wake_all(&p->wr);
  bool fifo = p->slot != NULL;
  if (fifo) mutex_lock(&fifo_lock);
  bool last = ref_put(&p->refs);
  if (last && fifo) *p->slot = NULL;
  if (fifo) mutex_unlock(&fifo_lock);
  if (last) pipe_free(p);
}

static void pipe_describe(struct file *f, char *buf, size_t n) {
  snprintf(buf, n, "pipe:[%llu]", (unsigned long long)((struct pipe *)f->priv)->id);
}

static const struct file_ops pipe_file_ops = {
  .read = pipe_read,
  .write = pipe_write,
  .poll = pipe_poll,
  .ioctl = pipe_ioctl,
  .release = pipe_release,
  .describe = pipe_describe,
};
static const struct file_ops fifo_file_ops = {
  .read = pipe_read,
  .write = pipe_write,
  .poll = pipe_poll,
  .ioctl = pipe_ioctl,
  .release = pipe_release,
};

int pipe_create(struct file *ends[2], u32 flags) {
  struct pipe *p = pipe_new();
  if (!p) return -ENOMEM;
  ends[0] = file_create(&pipe_file_ops, p, O_RDONLY | (flags & O_NONBLOCK));
  ends[1] = file_create(&pipe_file_ops, p, O_WRONLY | (flags & (O_NONBLOCK | O_DIRECT)));
  p->readers = p->writers = p->reader_opens = p->writer_opens = 1;
  if (ends[0] && ends[1]) {
    ref_get(&p->refs);
    p->id = ends[0]->id;
    return 0;
  }
  if (ends[0]) file_put(ends[0]); // takes p with it
  else if (ends[1]) file_put(ends[1]);
  else pipe_free(p);
  return -ENOMEM;
}

// POSIX open of a FIFO: a reader waits for a writer and the other way round; O_NONBLOCK readers go on, O_NONBLOCK
// writers need a reader (ENXIO); O_RDWR never waits. An end that came and went while we slept counts: the open counters.
int fifo_open(struct file *f, struct pipe **slot) {
  mutex_lock(&fifo_lock);
  struct pipe *p = *slot;
  if (p) {
    ref_get(&p->refs);
  } else if ((p = pipe_new())) {
    p->slot = slot;
    p->id = f->id;
    *slot = p;
  }
  mutex_unlock(&fifo_lock);
  if (!p) return -ENOMEM;

  const struct file_ops *old_ops = f->ops;
  void *old_priv = f->priv;
  f->ops = &fifo_file_ops;
  f->priv = p;
  mutex_lock(&p->lock);
  bool reads = can_read(f), writes = can_write(f);
  if (reads) {
    WRITE_ONCE(p->readers, p->readers + 1);
    WRITE_ONCE(p->reader_opens, p->reader_opens + 1);
  }
  if (writes) {
    WRITE_ONCE(p->writers, p->writers + 1);
    WRITE_ONCE(p->writer_opens, p->writer_opens + 1);
  }
  u32 seen_readers = p->reader_opens, seen_writers = p->writer_opens;
  bool have_reader = p->readers != 0, have_writer = p->writers != 0;
  mutex_unlock(&p->lock);
  waitq_wake_all(&p->rd);
  waitq_wake_all(&p->wr);

  int err = 0;
  if (!writes && !have_writer && !(f->flags & O_NONBLOCK))
    err = wait_event_interruptible(&p->rd, READ_ONCE(p->writer_opens) != seen_writers);
  if (!reads && !have_reader)
    err = f->flags & O_NONBLOCK ? -ENXIO : wait_event_interruptible(&p->wr, READ_ONCE(p->reader_opens) != seen_readers);
  if (err) {
    pipe_release(f);
    f->ops = old_ops;
    f->priv = old_priv;
  }
  return err;
}

u64 pipe_size(struct pipe *p) { return bytering_size(&p->ring); }

long pipe_set_size(struct pipe *p, u64 bytes) {
  if (bytes > BYTERING_MAX_PAGES * PAGE_SIZE) return -EPERM; // Linux's pipe-max-size
  mutex_lock(&p->lock);
  long r = p->splicing ? -EBUSY : bytering_resize(&p->ring, MAX(bytes, PAGE_SIZE));
  if (!r) r = (long)bytering_size(&p->ring);
  mutex_unlock(&p->lock);
  if (r > 0) wake(&p->wr, EPOLLOUT | EPOLLWRNORM);
  return r;
}

void pipe_init(void) { mutex_init(&fifo_lock, RANK_OBJECT); }

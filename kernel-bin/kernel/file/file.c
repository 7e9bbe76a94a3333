// SPDX-License-Identifier: Apache-2.0
//
// The life of struct file. Files are type-stable: a freed one goes to a list of our own and is only ever reused as a
// file, so fdtable.c may look one up without a lock (ref_get_unless_zero, then check that the slot still names it). Its
// `refs` is 0 while it is on that list and becomes 1 as the last step of making it anew.
#include "file/internal.h"
#include <linux/inotify.h>

struct file_hooks file_hooks;
struct signalfd_hooks signalfd_hooks;

static struct kmem_cache *cache;
static struct spinlock free_lock = SPINLOCK_INIT(RANK_READY);
static struct file *free_files; // chained by priv, under free_lock
static u64 last_id;

struct file *file_create(const struct file_ops *ops, void *priv, u32 flags) {
  spin_lock(&free_lock);
  struct file *f = free_files;
  if (f) free_files = f->priv;
  spin_unlock(&free_lock);
  if (!f) {
    if (!(f = kmem_cache_alloc(cache))) return NULL;
    memset(f, 0, sizeof *f);
  }
  f->ops = ops;
  f->priv = priv;
  f->flags = flags;
  spin_init(&f->lock, RANK_OBJECT);
  mutex_init(&f->pos_lock, RANK_INODE);
  f->pos = 0;
  f->dentry = NULL;
  f->inode = NULL;
  f->mnt = NULL;
  f->id = __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);
  list_init(&f->epoll_items);
  f->epoll_watched = f->path_only = false;
  f->owner_pid = f->sig = 0;
  __atomic_store_n(&f->refs.n, 1, __ATOMIC_RELEASE);
  return f;
}

void file_put(struct file *f) {
  if (likely(!ref_put(&f->refs))) return;
  // Nobody else can gain a reference now: refs is 0. Epolls go first, because their items wait on queues that
  // ops->release frees; after that nothing calls ops->poll.
  file_notify(f, (f->flags & O_ACCMODE) == O_RDONLY ? IN_CLOSE_NOWRITE : IN_CLOSE_WRITE);
  if (f->epoll_watched) epoll_file_closed(f);
  if (f->ops->release) f->ops->release(f);
  if (f->dentry && file_hooks.path_release) file_hooks.path_release(f);
  spin_lock(&free_lock);
  f->priv = free_files;
  free_files = f;
  spin_unlock(&free_lock);
}

// Last references that must not be dropped where they are found: a socket's queue may hold another socket whose queue
// holds another, and so on. The work's thread drops them one after the other.
static struct spinlock late_lock = SPINLOCK_INIT(RANK_READY); // irqsave
static struct file *late;
static struct work late_work;

static void late_run(struct work *w) {
  for (;;) {
    u64 flags = spin_lock_irqsave(&late_lock);
    struct file *f = late;
    if (f) late = f->late_next;
    spin_unlock_irqrestore(&late_lock, flags);
    if (!f) return;
    file_put(f);
  }
}

void file_put_late(struct file *f) {
  // Not the last one: done here. The check and the drop are one compare-and-exchange, so it never drops to 0. The last
  // one can be on the list only once: whoever else drops a reference has one of its own.
  u32 n = ref_read(&f->refs);
  while (n > 1)
    if (__atomic_compare_exchange_n(&f->refs.n, &n, n - 1, true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) return;
  u64 flags = spin_lock_irqsave(&late_lock);
  f->late_next = late;
  late = f;
  spin_unlock_irqrestore(&late_lock, flags);
  work_queue(&late_work);
}

static long file_at(struct file *f, void *buf, size_t n, u64 pos, bool write) {
  long (*move)(struct file *, struct iter *, u64 *) = write ? f->ops->write : f->ops->read;
  if (!move) return -EINVAL;
  struct iter it;
  iter_kernel(&it, buf, n);
  return move(f, &it, f->ops->seek ? &pos : NULL);
}

long file_read_at(struct file *f, void *buf, size_t n, u64 pos) { return file_at(f, buf, n, pos, false); }
long file_write_at(struct file *f, const void *buf, size_t n, u64 pos) { return file_at(f, (void *)buf, n, pos, true); }

void file_init(void) {
  cache = kmem_cache_create("file", sizeof(struct file), 64);
  if (!cache) panic("file: no memory at boot");
  work_init(&late_work, late_run);
  pipe_init();
  epoll_init();
}

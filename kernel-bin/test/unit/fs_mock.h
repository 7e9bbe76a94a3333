// SPDX-License-Identifier: Apache-2.0
// The fs room natively, in one piece: everything below it is replaced by the smallest thing that works with one thread.
// A wait whose condition is false would sleep for ever, so it aborts. mock_disk is a file system with read_pages and
// write_pages whose "host" is a byte array.
#ifndef FS_MOCK_H
#define FS_MOCK_H
// Functions that touch GS or the direct map get other names while their headers are read, and stand-ins here.
#define thread_current real_thread_current
#define this_cpu real_this_cpu
#define irq_save real_irq_save
#define sched_yield_if_needed real_sched_yield_if_needed
#define page_virt real_page_virt
#include "unit.h"
#include <sys/stat.h> // <linux/stat.h> defines no modes beside glibc
#undef RENAME_NOREPLACE
#undef RENAME_EXCHANGE
#undef RENAME_WHITEOUT
#include "task/task.h"
#undef thread_current
#undef this_cpu
#undef irq_save
#undef sched_yield_if_needed
#undef page_virt
static struct thread mock_thread;
static inline struct thread *thread_current(void) { return &mock_thread; }
static inline void sched_yield_if_needed(void) {}
static inline void *page_virt(const struct page *p) { return ((struct { struct page page; void *data; } *)(void *)p)->data; }
#include "fs/internal.h"

// --- lib, arch, page
#define strlcpy mock_strlcpy
size_t mock_strlcpy(char *d, const char *s, size_t n) { return (size_t)snprintf(d, n, "%s", s); }
void printk(enum log_level level, const char *fmt, ...) {}
static u64 mock_now_ns = 1000;
u64 time_ns(void) { return mock_now_ns; }
u64 time_realtime_ns(void) { return 1700000000ull * NS_PER_SEC + ++mock_now_ns; }
u64 random_u64(void) { return unit_random(); }
void random_bytes(void *p, size_t n) { memset(p, 7, n); }
void memzero_secret(void *p, size_t n) { memset(p, 0, n); }
void spin_lock(struct spinlock *l) { ASSERT(!l->locked); l->locked = 1; }
void spin_unlock(struct spinlock *l) { ASSERT(l->locked); l->locked = 0; }
int copy_from_user(void *d, uptr s, size_t n) { memcpy(d, (void *)s, n); return 0; }
int copy_to_user(uptr d, const void *s, size_t n) { memcpy((void *)d, s, n); return 0; }
long strncpy_from_user(char *d, uptr s, size_t n) {
  size_t len = strnlen((char *)s, n);
  if (len == n) return -ENAMETOOLONG;
  memcpy(d, (char *)s, len + 1);
  return (long)len;
}
struct mock_page { struct page page; void *data; };
static u64 mock_pages;          // allocated now
static long mock_fail_after = -1; // page allocations until one fails; -1: never
static u64 (*mock_reclaim)(u64);
struct page *page_alloc(unsigned order, unsigned flags) {
  if (mock_fail_after >= 0 && mock_fail_after-- == 0) return NULL;
  struct mock_page *p = calloc(1, sizeof *p);
  p->data = malloc(PAGE_SIZE);
  memset(p->data, flags & ALLOC_ZERO ? 0 : 0xa5, PAGE_SIZE);
  ref_init(&p->page.refs);
  list_init(&p->page.link);
  mock_pages++;
  return &p->page;
}
void page_put(struct page *p) {
  if (!ref_put(&p->refs)) return;
  ASSERT(!page_test(p, PG_LOCKED) && !page_test(p, PG_LRU));
  mock_pages--;
  free(page_virt(p));
  free(p);
}
u64 page_total_count(void) { return 65536; }
u64 page_free_count(void) { return 32768; }
void page_set_reclaim(u64 (*r)(u64)) { mock_reclaim = r; }
void *kmalloc(size_t n, unsigned flags) { return malloc(n); }
void *kzalloc(size_t n) { return calloc(1, n); }
void kfree(void *p) { free(p); }
char *kstrdup(const char *s) { return strdup(s); }
struct kmem_cache { size_t size; };
struct kmem_cache *kmem_cache_create(const char *name, size_t size, size_t align) {
  struct kmem_cache *c = malloc(sizeof *c);
  c->size = size;
  return c;
}
void *kmem_cache_alloc(struct kmem_cache *c) { return malloc(c->size); }
void kmem_cache_free(struct kmem_cache *c, void *p) { free(p); }

// --- task
void waitq_init(struct waitq *q) { list_init(&q->waiters); }
bool waitq_active(struct waitq *q) { return false; }
void waitq_wake(struct waitq *q, int nr, u32 key) {}
void wait_prepare(struct waitq *q, struct waiter *w, int mode) {}
int wait_sleep(u64 deadline, int mode) { panic("the only thread would sleep for ever\n"); }
void wait_finish(struct waitq *q, struct waiter *w) {}
void mutex_init(struct mutex *m, enum lock_rank rank) { m->owner = NULL; }
void mutex_lock(struct mutex *m) { ASSERT(!m->owner); m->owner = &mock_thread; }
int mutex_lock_interruptible(struct mutex *m) { mutex_lock(m); return 0; }
bool mutex_trylock(struct mutex *m) { return m->owner ? false : (mutex_lock(m), true); }
void mutex_unlock(struct mutex *m) { ASSERT(m->owner); m->owner = NULL; }
struct thread *kthread_run(const char *n, void (*e)(void *), void *a) { return NULL; } // no read-ahead threads: in line
void thread_put(struct thread *t) {}

// --- mm, file
void memobj_init(struct memobj *o, const struct memobj_ops *ops) {
  memset(o, 0, sizeof *o);
  ref_init(&o->refs);
  o->ops = ops;
  list_init(&o->areas);
}
void memobj_put(struct memobj *o) { if (ref_put(&o->refs)) o->ops->release(o); }
void memobj_unmap(struct memobj *o, u64 first, u64 n, bool protect_only) {}
struct file_hooks file_hooks;
u32 inotify_active;
void inotify_event(struct list *w, u32 mask, u32 cookie, const char *name, size_t len) {}
struct pipe *pipe_from_file(struct file *f) { return NULL; }
int fifo_open(struct file *f, struct pipe **slot) { return -ENXIO; }
struct file *file_create(const struct file_ops *ops, void *priv, u32 flags) {
  struct file *f = calloc(1, sizeof *f);
  ref_init(&f->refs);
  f->ops = ops;
  f->priv = priv;
  f->flags = flags;
  return f;
}
void file_put(struct file *f) {
  if (!ref_put(&f->refs)) return;
  if (f->ops->release) f->ops->release(f);
  if (f->dentry) file_hooks.path_release(f);
  free(f);
}
struct file *file_from_fd(int fd) { return NULL; }
static bool mock_fd_closed; // by another thread, while a call that named it was under way
bool fd_is(int fd, const struct file *f) { return !mock_fd_closed; }
static struct fdtable *mock_table = (struct fdtable *)1;
static struct fdtable *mock_fdtable(void) { return mock_table; }
struct fdtable *(*fdtable_current)(void) = mock_fdtable;
size_t iter_to(struct iter *it, const void *src, size_t n) {
  n = MIN(n, it->left);
  memcpy(it->kbuf, src, n);
  it->kbuf += n;
  it->left -= n;
  return n;
}
static void (*mock_meanwhile)(void); // what another thread does once, while a program's data is copied in
size_t iter_from(struct iter *it, void *dst, size_t n) {
  void (*meanwhile)(void) = mock_meanwhile;
  mock_meanwhile = NULL;
  if (meanwhile) meanwhile();
  n = MIN(n, it->left);
  memcpy(dst, it->kbuf, n);
  it->kbuf += n;
  it->left -= n;
  return n;
}
size_t iter_zero(struct iter *it, size_t n) {
  n = MIN(n, it->left);
  memset(it->kbuf, 0, n);
  it->kbuf += n;
  it->left -= n;
  return n;
}
struct policy policy;
struct host_hints host_hints;
bool in_td;
static void (*mock_fatal)(const char *text);
void host_fatal(const char *text) {
  if (mock_fatal) mock_fatal(text);
  abort();
}
struct super *attestfs_create(void) { return NULL; }
struct super *resolvconf_create(void) { return NULL; }
int console_add_nodes(void) { return 0; }
static u64 mock_fsize = ~0ull;
static u64 mock_fsize_limit(void) { return mock_fsize; }
static void mock_fsize_signal(void) {}
static int mock_pid(void) { return 42; }
u64 (*const fs_fsize_limit)(void) = mock_fsize_limit;
void (*const fs_fsize_signal)(void) = mock_fsize_signal;
int (*const fs_current_pid)(void) = mock_pid;

#include "../../kernel/lib/radix.c"
#include "../../kernel/fs/dentry.c"
#include "../../kernel/fs/inode.c"
#include "../../kernel/fs/path.c"
#define make make_context
#include "../../kernel/fs/fscontext.c"
#undef make
#include "../../kernel/fs/open.c"
#include "../../kernel/fs/namei.c"
#define find find_page
#include "../../kernel/fs/pagecache.c"
#undef find
#include "../../kernel/fs/readahead.c"
#include "../../kernel/fs/writeback.c"
#include "../../kernel/fs/tmpfs.c"
#include "../../kernel/fs/devfs.c"
#include "../../kernel/fs/locks.c"
#include "../../kernel/fs/mount.c"
#include "../../kernel/fs/seq.c"

static struct cred mock_cred;
static const struct cred *mock_cred_current(void) { return &mock_cred; }
static struct fscontext *mock_context;
static struct fscontext *mock_context_current(void) { return mock_context; }

static void mock_boot(void) { // tmpfs on /, /dev and /dev/shm
  radix_set_allocator(malloc, free);
  cred_current = mock_cred_current;
  fscontext_current = mock_context_current;
  fs_init();
  mock_context = fscontext_create();
}

// --- small helpers for tests
static long mock_pread(struct file *f, void *buf, u64 n, u64 pos) {
  struct iter it;
  iter_kernel(&it, buf, n);
  return f->ops->read(f, &it, &pos);
}
static long mock_pwrite(struct file *f, const void *buf, u64 n, u64 pos) {
  struct iter it;
  iter_kernel(&it, (void *)buf, n);
  return f->ops->write(f, &it, &pos);
}
static int mock_open(const char *name, u32 flags, u32 mode) { // and close: 0 or -errno
  struct file *f = path_open(AT_FDCWD, name, flags, mode);
  if (is_err(f)) return (int)ptr_err(f);
  file_put(f);
  return 0;
}
static int mock_stat(const char *name, bool follow, struct kstat *st) {
  struct path p;
  int r = path_lookup(AT_FDCWD, name, follow ? LOOKUP_FOLLOW : 0, &p);
  if (r) return r;
  r = fs_getattr(p.dentry, st);
  path_put(&p);
  return r;
}
static int mock_chdir(const char *name) {
  struct path p;
  int r = path_lookup(AT_FDCWD, name, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, &p);
  if (r) return r;
  path_put(&mock_context->cwd);
  mock_context->cwd = p;
  return 0;
}
static const char *mock_cwd(void) {
  static char buf[PATH_MAX];
  return path_string(&mock_context->cwd, buf, sizeof buf) < 0 ? "?" : buf;
}
#endif

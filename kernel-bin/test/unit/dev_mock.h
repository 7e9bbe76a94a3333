// SPDX-License-Identifier: Apache-2.0
// What the drv and attest rooms need of the rooms below them, natively and for one thread. Shared memory is a heap block
// of its exact length, so that ASan sees an access beyond it. A wait that would sleep aborts.
#ifndef DEV_MOCK_H
#define DEV_MOCK_H
#define thread_current real_thread_current
#define this_cpu real_this_cpu
#define page_virt real_page_virt
#define page_bytes real_page_bytes
#include "unit.h"
#include "task/task.h"
#include "host/host.h"
#undef thread_current
#undef this_cpu
#undef page_virt
#undef page_bytes
static struct thread mock_thread;
static inline struct thread *thread_current(void) { return &mock_thread; }
struct mock_page { struct page page; u8 data[PAGE_SIZE]; };
static inline u8 *page_bytes(const struct page *p) { return ((struct mock_page *)(void *)p)->data; }

static char mock_log[4096]; // what was printed, for looking at messages
enum log_level log_level = LOG_DEBUG;
void printk(enum log_level level, const char *fmt, ...) {
  va_list ap;
  size_t at = strlen(mock_log);
  va_start(ap, fmt);
  if (at < sizeof(mock_log)) vsnprintf(mock_log + at, sizeof(mock_log) - at, fmt, ap);
  va_end(ap);
}
static size_t mock_strlcpy(char *d, const char *s, size_t n) { return (size_t)snprintf(d, n, "%s", s); }
#define strlcpy mock_strlcpy
static long mock_allocs_left = -1; // allocations until one fails; -1: never
static bool mock_alloc_fails(void) { return mock_allocs_left >= 0 && mock_allocs_left-- == 0; }
void *kmalloc(size_t n, unsigned flags) { return n > 4 * MIB || mock_alloc_fails() ? NULL : malloc(n ? n : 1); }
void *kzalloc(size_t n) { return n > 4 * MIB || mock_alloc_fails() ? NULL : calloc(1, n ? n : 1); }
void kfree(void *p) { free(p); }
char *kstrdup(const char *s) { return mock_alloc_fails() ? NULL : strdup(s); }
static u64 mock_now_ns = 1000;
u64 time_ns(void) { return mock_now_ns; }
bool in_td;
void sha256_blocks_ni(u32 h[8], const u8 *p, size_t n, const u32 k[64]) { abort(); } // lib/sha2.c does not choose it here

void spin_lock(struct spinlock *l) { ASSERT(!l->locked); l->locked = 1; }
void spin_unlock(struct spinlock *l) { ASSERT(l->locked); l->locked = 0; }
u64 spin_lock_irqsave(struct spinlock *l) { spin_lock(l); return 0; }
void spin_unlock_irqrestore(struct spinlock *l, u64 flags) { spin_unlock(l); }
void mutex_init(struct mutex *m, enum lock_rank rank) { memset(m, 0, sizeof(*m)); }
void mutex_lock(struct mutex *m) {}
int mutex_lock_interruptible(struct mutex *m) { return 0; }
void mutex_unlock(struct mutex *m) {}
void waitq_init(struct waitq *q) { list_init(&q->waiters); }
bool waitq_active(struct waitq *q) { return false; }
void waitq_wake(struct waitq *q, int n, u32 key) {}
void wait_prepare(struct waitq *q, struct waiter *w, int mode) {}
static int mock_sleep_result = 1; // 1: nobody expects a sleep
int wait_sleep(u64 deadline, int mode) { ASSERT(mock_sleep_result != 1); return mock_sleep_result; }
void wait_finish(struct waitq *q, struct waiter *w) {}
static struct work *mock_work; // the last one queued
void work_queue(struct work *w) { mock_work = w; }
static void mock_run_work(void) {
  struct work *w = mock_work;
  mock_work = NULL;
  if (w) w->fn(w);
}

int shared_alloc(struct shared_buf *b, u32 n) {
  if (mock_alloc_fails()) return -ENOMEM;
  *b = (struct shared_buf){ aligned_alloc(64, ALIGN_UP((size_t)n, (size_t)64)), 0, n };
  memset(b->va, 0, n);
  b->phys = (phys_t)(uintptr_t)b->va;
  return 0;
}
void shared_free(struct shared_buf *b) { free(b->va); b->va = NULL; }
static u8 *mock_inside(const struct shared_buf *b, u32 off, u32 n) {
  ASSERT(off <= b->len_bytes && n <= b->len_bytes - off);
  return b->va + off;
}
void shared_write(const struct shared_buf *b, u32 off, const void *src, u32 n) { memcpy(mock_inside(b, off, n), src, n); }
void shared_read(void *dst, const struct shared_buf *b, u32 off, u32 n) { memcpy(dst, mock_inside(b, off, n), n); }
host_u16 shared_load16(const struct shared_buf *b, u32 off) { u16 v; memcpy(&v, mock_inside(b, off, 2), 2); return (host_u16){ v }; }
void shared_store16(const struct shared_buf *b, u32 off, u16 v) { memcpy(mock_inside(b, off, 2), &v, 2); }
void shared_store32(const struct shared_buf *b, u32 off, u32 v) { memcpy(mock_inside(b, off, 4), &v, 4); }
void shared_store64(const struct shared_buf *b, u32 off, u64 v) { memcpy(mock_inside(b, off, 8), &v, 8); }
static unsigned mock_doorbells;
void host_mmio_write16(const struct host_mmio *m, u64 off, u16 v) { mock_doorbells++; }
int copy_from_user(void *d, uptr s, size_t n) { memcpy(d, (void *)s, n); return 0; }
int copy_to_user(uptr d, const void *s, size_t n) { memcpy((void *)d, s, n); return 0; }
#endif

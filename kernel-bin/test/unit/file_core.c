// SPDX-License-Identifier: Apache-2.0
// The file room: iters, byte ring, descriptor tables, pipes, eventfd, poll and epoll, with one thread and with many.
#include "file_mock.h"
#include "../../kernel/lib/rbtree.c"
#include "../../kernel/file/iter.c"
#include "../../kernel/file/bytering.c"
#include "../../kernel/file/file.c"
#include "../../kernel/file/fdtable.c"
#include "../../kernel/file/pipe.c"
#include "../../kernel/file/eventfd.c"
#include "../../kernel/file/poll.c"
#include "../../kernel/file/epoll.c"

static struct fdtable *table;
static struct fdtable *table_now(void) { return table; }
static u64 limit = 1024;
static u64 limit_now(void) { return limit; }
u32 inotify_active;

// --- helpers: system calls in small
static long rd(struct file *f, void *buf, size_t n) {
  struct iovec one;
  struct iter it;
  iter_user(&it, &one, (uptr)buf, n);
  return f->ops->read(f, &it, NULL);
}
static long wr(struct file *f, const void *buf, size_t n) {
  struct iovec one;
  struct iter it;
  iter_user(&it, &one, (uptr)buf, n);
  return f->ops->write(f, &it, NULL);
}

static void test_iter(void) {
  u8 a[10], b[20], src[30], out[30];
  for (int i = 0; i < 30; i++) src[i] = (u8)i;
  struct iovec v[4] = { { (uptr)a, 10 }, { 0, 0 }, { (uptr)b, 15 }, { 0x1000, 5 } };
  struct iter it;
  iter_iov(&it, v, 4);
  CHECK(it.left == 30);
  CHECK(iter_to(&it, src, 3) == 3 && iter_to(&it, src + 3, 12) == 12);
  CHECK(!memcmp(a, src, 10) && !memcmp(b, src + 10, 5) && it.left == 15);
  CHECK(iter_to(&it, src + 15, 100) == 10 && it.left == 5); // stops at the bad page
  CHECK(iter_to(&it, src, 1) == 0 && it.left == 5);
  iter_iov(&it, v, 3);
  CHECK(iter_from(&it, out, 30) == 25 && !memcmp(out, src, 25) && it.left == 0);
  CHECK(iter_from(&it, out, 1) == 0);
  iter_iov(&it, v, 3);
  CHECK(iter_zero(&it, 12) == 12 && a[9] == 0 && b[1] == 0 && b[2] == 12);
  iter_kernel(&it, out, 4);
  CHECK(iter_to(&it, src + 1, 9) == 4 && out[3] == 4 && !it.left);
  iter_iov(&it, v, 0);
  CHECK(iter_to(&it, src, 5) == 0);
}

static void test_bytering(void) {
  struct bytering r;
  static u8 model[70000], in[70000], out[70000];
  CHECK(bytering_init(&r, 2 * MIB) == -EINVAL);
  CHECK(!bytering_init(&r, 9000) && bytering_size(&r) == 16384);
  size_t have = 0;
  u8 next = 0;
  for (int round = 0; round < 20000; round++) {
    bool fault = false;
    struct iter it;
    size_t n = unit_random() % 6000;
    if (unit_random() & 1) {
      for (size_t i = 0; i < n; i++) in[i] = next++;
      iter_kernel(&it, in, n);
      size_t put = bytering_put(&r, &it, n, &fault);
      if (put != MIN(n, 16384 - have)) CHECK(!"put");
      next -= (u8)(n - put);
      memcpy(model + have, in, put);
      have += put;
    } else {
      size_t skip = unit_random() % 100;
      iter_kernel(&it, out, n);
      size_t want = skip >= have ? 0 : MIN(n, have - skip);
      if (bytering_peek(&r, skip, &it, n, &fault) != want || memcmp(out, model + skip, want)) CHECK(!"peek");
      iter_kernel(&it, out, n);
      size_t got = bytering_get(&r, &it, n, &fault);
      if (got != MIN(n, have) || memcmp(out, model, got)) CHECK(!"get");
      memmove(model, model + got, have - got);
      have -= got;
    }
    if (bytering_used(&r) != have || fault) CHECK(!"used");
    if (round % 1000 == 0) {
      int err = bytering_resize(&r, round % 2000 ? 16384 : 4096);
      if (have <= 4096 ? err : err && err != -EBUSY) CHECK(!"resize");
      if (bytering_resize(&r, 16384)) CHECK(!"grow");
    }
  }
  bool fault = false;
  struct iovec one;
  struct iter it;
  bytering_skip(&r, have);
  CHECK(r.both == 0);
  iter_user(&it, &one, 0x1000, 10);
  CHECK(bytering_put(&r, &it, 10, &fault) == 0 && fault && bytering_used(&r) == 0);
  bytering_destroy(&r);
}

static u32 released;
static void dummy_release(struct file *f) { atomic_inc(&released); }
static const struct file_ops dummy_ops = { .release = dummy_release };
static struct file *dummy(void) { return file_create(&dummy_ops, NULL, O_RDWR); }

static void test_fdtable(void) {
  table = fdtable_create();
  limit = 300;
  released = 0;
  for (int i = 0; i < 300; i++) if (fd_install(dummy(), 0) != i) CHECK(!"lowest");
  struct file *f = dummy();
  CHECK(fd_install(f, 0) == -EMFILE);
  CHECK(fd_close(200) == 0 && fd_close(70) == 0 && fd_close(70) == -EBADF && released == 2);
  CHECK(fd_install(f, O_CLOEXEC) == 70 && fd_get_cloexec(70) == 1 && fd_get_cloexec(71) == 0 && fd_get_cloexec(200) == -EBADF);
  CHECK(fd_install_from(dummy(), 0, 100) == 200);
  CHECK(file_from_fd(-1) == NULL && file_from_fd(300) == NULL && file_from_fd(1 << 30) == NULL);
  struct file *g = file_from_fd(70);
  CHECK(g == f && ref_read(&g->refs) == 2);
  CHECK(fd_replace(5, file_get(f), 0) == 5 && ref_read(&f->refs) == 3 && released == 3);
  CHECK(fd_replace(300, f, 0) == -EBADF && fd_replace(-1, f, 0) == -EBADF);
  struct fdref r = fdref_get(70);
  CHECK(r.file == f && !r.owned && ref_read(&f->refs) == 3);
  struct fdtable *copy = fdtable_copy(table), *old = table;
  CHECK(ref_read(&f->refs) == 5);
  table = copy;
  fdtable_close_on_exec(copy);
  CHECK(file_from_fd(70) == NULL && ref_read(&f->refs) == 4 && fd_get_cloexec(5) == 0);
  CHECK(fdtable_next(copy, 70) == 71 && fdtable_next(copy, 300) == -1 && fdtable_next(copy, -5) == 0);
  CHECK(fd_close_range(10, 20, true) == 0 && fd_get_cloexec(10) == 1 && fd_get_cloexec(21) == 0);
  CHECK(fd_close_range(0, ~0u, false) == 0 && fdtable_next(copy, 0) == -1 && fd_close_range(3, 2, false) == -EINVAL);
  CHECK(fd_install(dummy(), 0) == 0);
  fdtable_put(copy);
  table = old;
  __atomic_store_n(&f->refs.n, FILE_REFS_MAX + 1, __ATOMIC_RELAXED); // as if so many slots named it
  CHECK(file_from_fd(70) == NULL && fdtable_copy(table) == NULL && ref_read(&f->refs) == FILE_REFS_MAX + 1);
  struct file *h = file_from_fd(3);
  CHECK(h && ref_read(&h->refs) == 2); // what the copy had taken is given back
  if (h) file_put(h);
  __atomic_store_n(&f->refs.n, 3, __ATOMIC_RELAXED);
  file_put(g);
  fdtable_put(table);
}

// Threads that look up while others open and close the same numbers: every file found is alive and is released once.
static u32 created, stop;
static void *churn(void *arg) {
  for (int i = 0; i < 6000; i++) {
    struct file *f = dummy();
    atomic_inc(&created);
    int fd = fd_install(f, 0);
    if (fd < 0) { file_put(f); continue; }
    if (i % 3) (void)!fd_close(fd);
    else (void)!fd_close((int)(unit_random() % 100));
  }
  return NULL;
}
static void *lookup(void *arg) {
  u64 x = (u64)arg, hits = 0;
  while (!READ_ONCE(stop)) {
    x = x * 6364136223846793005ull + 1;
    struct file *f = file_from_fd((int)(x >> 33) % 120);
    if (!f) continue;
    if (f->ops != &dummy_ops || !ref_read(&f->refs)) CHECK(!"dead file");
    file_put(f);
    hits++;
  }
  return (void *)hits;
}
static void test_fdtable_threads(void) {
  table = fdtable_create();
  limit = 5000;
  released = created = stop = 0;
  struct fdtable *second = fdtable_get(table);
  pthread_t w[3], l[2];
  for (u64 i = 0; i < 2; i++) l[i] = mock_run(lookup, (void *)(i + 1));
  for (int i = 0; i < 3; i++) w[i] = mock_run(churn, NULL);
  for (int i = 0; i < 3; i++) pthread_join(w[i], NULL);
  WRITE_ONCE(stop, 1);
  for (int i = 0; i < 2; i++) pthread_join(l[i], NULL);
  fdtable_put(second);
  fdtable_put(table);
  CHECK(released == created);
}

static void test_pipe(void) {
  struct file *e[2];
  static u8 big[70000], out[70000];
  for (size_t i = 0; i < sizeof big; i++) big[i] = (u8)(i * 7);
  CHECK(!pipe_create(e, O_NONBLOCK));
  CHECK(rd(e[0], out, 10) == -EAGAIN && e[0]->ops->poll(e[0], NULL) == 0);
  CHECK(e[1]->ops->poll(e[1], NULL) == (EPOLLOUT | EPOLLWRNORM));
  CHECK(wr(e[1], "hello", 5) == 5 && (e[0]->ops->poll(e[0], NULL) & EPOLLIN));
  CHECK(rd(e[0], out, 3) == 3 && rd(e[0], out + 3, 10) == 2 && !memcmp(out, "hello", 5));
  CHECK(wr(e[1], big, 70000) == 65536 && wr(e[1], big, 1) == -EAGAIN && !(e[1]->ops->poll(e[1], NULL) & EPOLLOUT));
  CHECK(rd(e[0], out, 4095) == 4095 && wr(e[1], big, 4096) == -EAGAIN); // all or nothing
  CHECK(wr(e[1], big, 4097) == 4095);                                  // larger than PIPE_BUF: what fits
  CHECK(pipe_size(e[0]->priv) == 65536 && pipe_set_size(e[0]->priv, 4096) == -EBUSY && pipe_set_size(e[0]->priv, 100000) == 131072);
  CHECK(pipe_set_size(e[0]->priv, 2 * MIB) == -EPERM);
  CHECK(rd(e[0], out, 70000) == 65536 && !memcmp(out, big + 4095, 65536 - 4095) && !memcmp(out + 65536 - 4095, big, 4095));
  CHECK(wr(e[1], (void *)0x100, 10) == -EFAULT && rd(e[0], out, 1) == -EAGAIN);
  CHECK(wr(e[1], "abcdef", 6) == 6 && rd(e[0], (void *)0x100, 2) == -EFAULT && rd(e[0], out, 9) == 6);
  u8 peek[8];
  CHECK(wr(e[1], "abcdef", 6) == 6 && pipe_read_begin(e[0]->priv, peek, 8, false) == 6);
  CHECK(rd(e[0], out, 1) == -EAGAIN); // a splice has it
  pipe_read_end(e[0]->priv, 4);
  CHECK(rd(e[0], out, 9) == 2 && !memcmp(out, "ef", 2));
  file_put(e[1]);
  CHECK(rd(e[0], out, 1) == 0 && e[0]->ops->poll(e[0], NULL) == EPOLLHUP);
  file_put(e[0]);
  CHECK(!pipe_create(e, O_NONBLOCK));
  file_put(e[0]);
  CHECK(wr(e[1], "x", 1) == -EPIPE && (e[1]->ops->poll(e[1], NULL) & EPOLLERR));
  file_put(e[1]);
}

static void test_fifo(void) {
  struct pipe *slot = NULL;
  struct file *r = dummy(), *w = dummy();
  r->flags = O_RDONLY | O_NONBLOCK;
  w->flags = O_WRONLY | O_NONBLOCK;
  CHECK(fifo_open(w, &slot) == -ENXIO && !slot && w->ops == &dummy_ops);
  CHECK(!fifo_open(r, &slot) && slot && r->ops->poll(r, NULL) == 0);
  CHECK(!fifo_open(w, &slot) && wr(w, "x", 1) == 1);
  u8 c;
  CHECK(rd(r, &c, 1) == 1 && c == 'x');
  file_put(w);
  CHECK(r->ops->poll(r, NULL) == EPOLLHUP && rd(r, &c, 1) == 0);
  file_put(r);
  CHECK(!slot);
}

// Writers of small records through one pipe to several readers: records arrive whole, none is lost.
#define RECORDS 3000
static struct file *pipe_ends[2];
static u64 sum_in, sum_out;
static void *record_writer(void *arg) {
  u32 rec[25];
  for (u32 i = 0; i < RECORDS; i++) {
    for (int k = 0; k < 25; k++) rec[k] = i * 16 + (u32)(u64)arg;
    if (wr(pipe_ends[1], rec, sizeof rec) != sizeof rec) CHECK(!"write");
    __atomic_fetch_add(&sum_in, rec[0], __ATOMIC_RELAXED);
  }
  return NULL;
}
static void *record_reader(void *arg) {
  u32 rec[25];
  long n;
  while ((n = rd(pipe_ends[0], rec, sizeof rec)) > 0) {
    if (n != sizeof rec) CHECK(!"torn read");
    for (int k = 1; k < 25; k++) if (rec[k] != rec[0]) { CHECK(!"torn record"); break; }
    __atomic_fetch_add(&sum_out, rec[0], __ATOMIC_RELAXED);
  }
  CHECK(n == 0);
  return NULL;
}
static void test_pipe_threads(void) {
  sum_in = sum_out = 0;
  CHECK(!pipe_create(pipe_ends, 0) && pipe_set_size(pipe_ends[0]->priv, 4096) == 4096);
  pthread_t w[3], r[2];
  for (u64 i = 0; i < 2; i++) r[i] = mock_run(record_reader, NULL);
  for (u64 i = 0; i < 3; i++) w[i] = mock_run(record_writer, (void *)i);
  for (int i = 0; i < 3; i++) pthread_join(w[i], NULL);
  file_put(pipe_ends[1]);
  for (int i = 0; i < 2; i++) pthread_join(r[i], NULL);
  file_put(pipe_ends[0]);
  CHECK(sum_in == sum_out);
}

static void test_eventfd(void) {
  u64 v = 5;
  struct file *e = eventfd_create(3, O_NONBLOCK), *s = eventfd_create(2, O_NONBLOCK | 1);
  CHECK(rd(e, &v, 8) == 8 && v == 3 && rd(e, &v, 8) == -EAGAIN && rd(e, &v, 4) == -EINVAL);
  v = ~0ull;
  CHECK(wr(e, &v, 8) == -EINVAL);
  v = ~0ull - 1;
  CHECK(wr(e, &v, 8) == 8 && !(e->ops->poll(e, NULL) & EPOLLOUT));
  v = 1;
  CHECK(wr(e, &v, 8) == -EAGAIN && wr(e, (void *)8, 8) == -EFAULT);
  CHECK(rd(s, &v, 8) == 8 && v == 1 && rd(s, &v, 8) == 8 && v == 1 && rd(s, &v, 8) == -EAGAIN);
  file_put(e);
  file_put(s);
}

static long ctl(struct file *ep, int op, struct file *f, int fd, u32 events, u64 data) {
  struct epoll_event_k ev = { events, data };
  return epoll_control(ep, op, f, fd, &ev);
}
static u64 one = 1;
static void drain(struct file *f) { u64 v; while (rd(f, &v, 8) == 8) {} }

static void test_epoll(void) {
  struct epoll_event_k ev[8];
  struct file *ep = epoll_create(0), *a = eventfd_create(0, O_NONBLOCK), *b = eventfd_create(0, O_NONBLOCK);
  CHECK(ctl(ep, EPOLL_CTL_ADD, a, 3, EPOLLIN, 33) == 0 && ctl(ep, EPOLL_CTL_ADD, a, 3, EPOLLIN, 33) == -EEXIST);
  CHECK(ctl(ep, EPOLL_CTL_ADD, a, 4, EPOLLIN | EPOLLET, 44) == 0); // another descriptor of the same file
  CHECK(ctl(ep, EPOLL_CTL_MOD, b, 5, EPOLLIN, 0) == -ENOENT && ctl(ep, EPOLL_CTL_DEL, b, 5, 0, 0) == -ENOENT);
  CHECK(ctl(ep, EPOLL_CTL_ADD, ep, 5, EPOLLIN, 0) == -EINVAL && ctl(ep, 9, a, 3, EPOLLIN, 0) == -EINVAL);
  CHECK(epoll_wait(ep, (uptr)ev, 8, 0) == 0 && epoll_wait(ep, (uptr)ev, 0, 0) == -EINVAL && epoll_wait(a, (uptr)ev, 8, 0) == -EINVAL);
  CHECK(wr(a, &one, 8) == 8 && epoll_wait(ep, (uptr)ev, 8, 0) == 2);
  CHECK(epoll_wait(ep, (uptr)ev, 8, 0) == 1 && ev[0].data == 33 && ev[0].events == EPOLLIN); // level again, edge not
  CHECK(wr(a, &one, 8) == 8 && epoll_wait(ep, (uptr)ev, 8, 0) == 2);
  drain(a);
  CHECK(epoll_wait(ep, (uptr)ev, 8, 0) == 0);
  CHECK(ctl(ep, EPOLL_CTL_MOD, a, 3, EPOLLIN | EPOLLONESHOT, 35) == 0 && ctl(ep, EPOLL_CTL_DEL, a, 4, 0, 0) == 0);
  CHECK(wr(a, &one, 8) == 8 && epoll_wait(ep, (uptr)ev, 8, 0) == 1 && ev[0].data == 35);
  CHECK(wr(a, &one, 8) == 8 && epoll_wait(ep, (uptr)ev, 8, 0) == 0);                       // spent
  CHECK(ctl(ep, EPOLL_CTL_MOD, a, 3, EPOLLIN | EPOLLONESHOT, 36) == 0 && epoll_wait(ep, (uptr)ev, 8, 0) == 1 && ev[0].data == 36);
  CHECK(ctl(ep, EPOLL_CTL_MOD, a, 3, EPOLLIN, 37) == 0 && epoll_wait(ep, 0x100, 8, 0) == -EFAULT && epoll_wait(ep, (uptr)ev, 8, 0) == 1);
  CHECK(ctl(ep, EPOLL_CTL_ADD, b, 5, EPOLLOUT, 55) == 0 && epoll_wait(ep, (uptr)ev, 1, 0) == 1);
  u64 first = ev[0].data;
  CHECK(epoll_wait(ep, (uptr)ev, 1, 0) == 1 && ev[0].data != first); // both get their turn
  CHECK(ctl(ep, EPOLL_CTL_ADD, b, 6, EPOLLIN | EPOLLEXCLUSIVE, 6) == 0 && ctl(ep, EPOLL_CTL_MOD, b, 6, EPOLLIN, 6) == -EINVAL);
  CHECK(ctl(ep, EPOLL_CTL_ADD, b, 7, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT, 6) == -EINVAL);
  file_put(a); // closing takes the item away
  CHECK(epoll_wait(ep, (uptr)ev, 8, 0) == 1 && ev[0].data == 55);
  u64 start = time_ns();
  CHECK(ctl(ep, EPOLL_CTL_DEL, b, 5, 0, 0) == 0 && epoll_wait(ep, (uptr)ev, 8, start + 20 * NS_PER_MS) == 0 && time_ns() - start >= 20 * NS_PER_MS);
  file_put(ep);
  file_put(b);
}

static void test_epoll_nested(void) {
  struct file *ep[7], *a = eventfd_create(0, O_NONBLOCK);
  struct epoll_event_k ev[4];
  for (int i = 0; i < 7; i++) ep[i] = epoll_create(0);
  CHECK(ctl(ep[0], EPOLL_CTL_ADD, a, 1, EPOLLIN | EPOLLET, 1) == 0);
  for (int i = 1; i < 5; i++) CHECK(ctl(ep[i], EPOLL_CTL_ADD, ep[i - 1], 9, EPOLLIN, (u64)i) == 0);
  CHECK(ctl(ep[5], EPOLL_CTL_ADD, ep[4], 9, EPOLLIN, 5) == -ELOOP);   // too deep
  CHECK(ctl(ep[0], EPOLL_CTL_ADD, ep[4], 9, EPOLLIN, 5) == -ELOOP);   // a circle
  CHECK(ctl(ep[0], EPOLL_CTL_ADD, ep[1], 9, EPOLLIN, 5) == -ELOOP);
  CHECK(ctl(ep[0], EPOLL_CTL_ADD, ep[6], 9, EPOLLIN, 5) == -ELOOP);   // ep[0] already lies four deep
  CHECK(epoll_wait(ep[4], (uptr)ev, 4, 0) == 0);
  CHECK(wr(a, &one, 8) == 8);
  CHECK(epoll_wait(ep[4], (uptr)ev, 4, time_ns() + 5 * NS_PER_SEC) == 1 && ev[0].data == 4);
  CHECK(epoll_wait(ep[4], (uptr)ev, 4, 0) == 1);                      // the edge is still in ep[0]
  CHECK(epoll_wait(ep[0], (uptr)ev, 4, 0) == 1 && ev[0].data == 1);
  CHECK(epoll_wait(ep[4], (uptr)ev, 4, 0) == 0);
  struct poll_item pi = { .file = ep[4], .events = EPOLLIN };
  CHECK(poll_files(&pi, 1, 0) == 0 && wr(a, &one, 8) == 8 && poll_files(&pi, 1, time_ns() + 5 * NS_PER_SEC) == 1);
  file_put(ep[2]); // a link of the chain closes
  mock_work_flush();
  CHECK(epoll_wait(ep[4], (uptr)ev, 4, 0) == 0);
  for (int i = 0; i < 7; i++) if (i != 2) file_put(ep[i]);
  file_put(a);
  mock_work_flush();
}

// Edge-triggered: many writers, several waiters, nothing is ever read twice or missed.
#define ET_FILES 8
#define ET_WRITES 4000
static struct file *et_ep, *et_file[ET_FILES];
static u64 et_taken;
static u32 et_done;
static void *et_writer(void *arg) {
  u64 x = (u64)arg;
  for (int i = 0; i < ET_WRITES; i++) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    if (wr(et_file[(x >> 40) % ET_FILES], &one, 8) != 8) CHECK(!"write");
  }
  return NULL;
}
static void *et_waiter(void *arg) {
  struct epoll_event_k ev[4];
  while (!READ_ONCE(et_done)) {
    long n = epoll_wait(et_ep, (uptr)ev, 3, WAIT_FOREVER);
    for (long i = 0; i < n; i++) {
      u64 v;
      if (ev[i].data == 99) return NULL; // level-triggered: all waiters get it
      if (rd(et_file[ev[i].data], &v, 8) == 8) __atomic_fetch_add(&et_taken, v, __ATOMIC_RELAXED);
    }
  }
  return NULL;
}
static void test_epoll_threads(void) {
  et_ep = epoll_create(0);
  for (u64 i = 0; i < ET_FILES; i++) {
    et_file[i] = eventfd_create(0, O_NONBLOCK);
    CHECK(ctl(et_ep, EPOLL_CTL_ADD, et_file[i], (int)i, EPOLLIN | EPOLLET, i) == 0);
  }
  struct file *quit = eventfd_create(0, O_NONBLOCK);
  CHECK(ctl(et_ep, EPOLL_CTL_ADD, quit, 99, EPOLLIN, 99) == 0);
  pthread_t w[3], r[3];
  for (u64 i = 0; i < 3; i++) r[i] = mock_run(et_waiter, NULL);
  for (u64 i = 0; i < 3; i++) w[i] = mock_run(et_writer, (void *)(i + 1));
  for (int i = 0; i < 3; i++) pthread_join(w[i], NULL);
  u64 end = time_ns() + 10 * NS_PER_SEC;
  while (READ_ONCE(et_taken) != 3 * ET_WRITES && time_ns() < end) usleep(1000);
  CHECK(et_taken == 3 * ET_WRITES); // every counter was emptied: no edge was lost
  CHECK(wr(quit, &one, 8) == 8);
  for (int i = 0; i < 3; i++) pthread_join(r[i], NULL);
  for (int i = 0; i < ET_FILES; i++) file_put(et_file[i]);
  file_put(et_ep);
  file_put(quit);
}

// Adding, removing and closing while events arrive and others wait: ASan watches.
static void *life_writer(void *arg) {
  while (!READ_ONCE(stop))
    for (int i = 0; i < ET_FILES; i++) (void)!wr(et_file[i], &one, 8);
  return NULL;
}
static void *life_waiter(void *arg) {
  struct epoll_event_k ev[4];
  while (!READ_ONCE(stop)) (void)!epoll_wait(et_ep, (uptr)ev, 4, time_ns() + 2 * NS_PER_MS);
  return NULL;
}
static void test_epoll_life(void) {
  stop = 0;
  et_ep = epoll_create(0);
  for (int i = 0; i < ET_FILES; i++) et_file[i] = eventfd_create(0, O_NONBLOCK);
  pthread_t w = mock_run(life_writer, NULL), r = mock_run(life_waiter, NULL);
  for (int round = 0; round < 3000; round++) {
    u64 x = unit_random();
    struct file *f = et_file[x % ET_FILES], *second = epoll_create(0), *gone = eventfd_create(1, O_NONBLOCK);
    u32 kind = x & 0x100 ? EPOLLET : x & 0x200 ? EPOLLONESHOT : x & 0x400 ? EPOLLEXCLUSIVE : 0;
    (void)!ctl(et_ep, x & 0x1000 ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, f, 1, EPOLLIN | kind, x);
    (void)!ctl(second, EPOLL_CTL_ADD, f, 1, EPOLLIN | kind, x);
    (void)!ctl(second, EPOLL_CTL_ADD, gone, 1, EPOLLIN, x);
    (void)!ctl(et_ep, EPOLL_CTL_ADD, gone, 1000 + round, EPOLLIN | EPOLLOUT, x);
    if (x & 0x2000) (void)!ctl(second, EPOLL_CTL_ADD, et_ep, 5, EPOLLIN, 0);
    if (x & 0x4000) { file_put(second); file_put(gone); } else { file_put(gone); file_put(second); }
  }
  WRITE_ONCE(stop, 1);
  pthread_join(w, NULL);
  pthread_join(r, NULL);
  for (int i = 0; i < ET_FILES; i++) file_put(et_file[i]);
  file_put(et_ep);
  mock_work_flush();
  CHECK(1);
}

static void *poll_writer(void *arg) {
  usleep(20000);
  CHECK(wr(arg, &one, 8) == 8);
  return NULL;
}
static void *interrupter(void *arg) {
  usleep(20000);
  mock_interrupt(arg);
  return NULL;
}
static void test_poll(void) {
  enum { N = 150 }; // more than the inline entries and one chunk
  static struct poll_item items[N];
  for (int i = 0; i < N; i++) items[i] = (struct poll_item){ .file = eventfd_create(0, O_NONBLOCK), .events = EPOLLIN };
  CHECK(poll_files(items, N, 0) == 0);
  u64 start = time_ns();
  CHECK(poll_files(items, N, start + 10 * NS_PER_MS) == 0 && time_ns() - start >= 10 * NS_PER_MS);
  pthread_t t = mock_run(poll_writer, items[140].file);
  CHECK(poll_files(items, N, WAIT_FOREVER) == 1 && items[140].revents == EPOLLIN);
  pthread_join(t, NULL);
  drain(items[140].file);
  t = mock_run(interrupter, thread_current());
  CHECK(poll_files(items, N, WAIT_FOREVER) == -EINTR);
  pthread_join(t, NULL);
  thread_current()->interrupt_pending = false;
  items[3].file = (file_put(items[3].file), NULL);
  items[3].revents = 0x20;
  CHECK(poll_files(items, N, WAIT_FOREVER) == 1);
  for (int i = 0; i < N; i++) if (items[i].file) file_put(items[i].file);
}

int main(void) {
  fdtable_current = table_now;
  fd_set_limit_source(limit_now);
  file_init();
  test_iter();
  test_bytering();
  test_fdtable();
  test_fdtable_threads();
  test_pipe();
  test_fifo();
  test_pipe_threads();
  test_eventfd();
  test_epoll();
  test_epoll_nested();
  test_epoll_threads();
  test_epoll_life();
  test_poll();
  return UNIT_END("file_core");
}

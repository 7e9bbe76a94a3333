// SPDX-License-Identifier: Apache-2.0
//
// Sockets in flight. A socket whose file is only referenced from queues of sockets that are themselves only referenced
// so is garbage: nobody can ever receive it. unix_gc, called when a socket closes, finds such sets and empties their
// queues.
//
//   1. Candidates: every socket in flight whose file has no other references than those of queues.
//   2. Each candidate's queue explains references of other candidates.
//   3. A candidate with references left over is reachable, and so is everything in its queue, and so on.
//   4. The rest is garbage, if no descriptor was sent, received or peeked at since step 1 (gc_epoch): then what was seen piecemeal
//      is what was true at one moment. Garbage cannot become reachable again, so what follows needs no such care.
// A busy program may make a collection fail; the next close tries again, and the bound on descriptors in flight holds.
#include "net/unix.h"

#define MAX_INFLIGHT 65536u // descriptors in queues, of the whole machine

static struct spinlock gc_lock = SPINLOCK_INIT(RANK_CONN);
static struct list inflight_sockets = LIST_INIT(inflight_sockets);
static u32 inflight_socket_count, inflight_total;
static u64 gc_epoch;
static u32 gc_running;

static struct usock *usock_of_file(struct file *f) {
  struct socket *s = socket_from_file(f);
  return s && unix_is_socket(s) ? s->priv : NULL;
}

bool unix_inflight_may_add(unsigned n) { return READ_ONCE(inflight_total) + n <= MAX_INFLIGHT; }

void unix_inflight_add(struct file *f) {
  struct usock *u = usock_of_file(f);
  spin_lock(&gc_lock);
  inflight_total++;
  gc_epoch++;
  if (u && u->inflight++ == 0) {
    list_push_back(&inflight_sockets, &u->inflight_link);
    WRITE_ONCE(inflight_socket_count, inflight_socket_count + 1);
  }
  spin_unlock(&gc_lock);
}

void unix_inflight_sub(struct file *f) {
  struct usock *u = usock_of_file(f); // the caller still has the queue's reference
  spin_lock(&gc_lock);
  inflight_total--;
  gc_epoch++;
  if (u && --u->inflight == 0) {
    list_remove(&u->inflight_link);
    WRITE_ONCE(inflight_socket_count, inflight_socket_count - 1);
  }
  spin_unlock(&gc_lock);
}

// A receiver has got references without taking anything out. The program can use them only after this, so that a collection
// which does not see them does not see the use of them either.
void unix_inflight_peeked(void) {
  spin_lock(&gc_lock);
  gc_epoch++;
  spin_unlock(&gc_lock);
}

// Calls fn for every candidate in u's queues, those of its unaccepted connections included.
static void each_in_queue(struct list *q, void (*fn)(struct usock *t)) {
  struct umsg *m;
  list_for_each(m, q, link)
    for (unsigned i = 0; i < m->nfds; i++) {
      struct usock *t = usock_of_file(m->fds[i]);
      if (t && t->gc_count >= 0) fn(t);
    }
}

static void each_held(struct usock *u, void (*fn)(struct usock *t)) {
  struct usock *c;
  mutex_lock(&u->lock);
  each_in_queue(&u->queue, fn);
  list_for_each(c, &u->pending, name_link) { // a listener's lock before its connections': nobody takes them the other way
    mutex_lock(&c->lock);
    each_in_queue(&c->queue, fn);
    mutex_unlock(&c->lock);
  }
  mutex_unlock(&u->lock);
}

static void explain(struct usock *t) {
  if (t->gc_count > 0) t->gc_count--;
}

static bool gc_again; // gc_running guards it
static void reach(struct usock *t) {
  if (t->gc_count == 0) {
    t->gc_count = 1;
    gc_again = true;
  }
}

static void empty_queues(struct usock *u) {
  struct list queue;
  struct usock *c;
  list_init(&queue);
  mutex_lock(&u->lock);
  list_splice_back(&queue, &u->queue);
  u->queued = 0;
  u->queued_bytes = 0;
  list_for_each(c, &u->pending, name_link) {
    mutex_lock(&c->lock);
    list_splice_back(&queue, &c->queue);
    c->queued = 0;
    c->queued_bytes = 0;
    mutex_unlock(&c->lock);
  }
  mutex_unlock(&u->lock);
  unix_queue_free(&queue);
}

static struct file **collect(u32 *n, u64 *epoch) { // candidates' files, referenced; NULL: none
  u32 room = READ_ONCE(inflight_socket_count);
  struct file **files = kmalloc(room * sizeof *files, 0);
  *n = 0;
  if (!files) return NULL;
  struct usock *u;
  spin_lock(&gc_lock);
  *epoch = gc_epoch;
  list_for_each(u, &inflight_sockets, inflight_link) {
    u->gc_count = -1;
    // In flight, so its file lives, and so do its socket and u->sock.
    struct file *f = u->sock ? u->sock->file : NULL;
    if (!f || *n == room || ref_read(&f->refs) != u->inflight) continue;
    u->gc_count = u->inflight;
    files[(*n)++] = file_get(f);
  }
  spin_unlock(&gc_lock);
  return files;
}

void unix_gc(void) {
  if (!READ_ONCE(inflight_socket_count)) return;
  if (__atomic_exchange_n(&gc_running, 1, __ATOMIC_ACQUIRE)) return; // the one that runs, or a later close, does it
  u32 n;
  u64 epoch;
  struct file **files = collect(&n, &epoch);
  for (u32 i = 0; i < n; i++) each_held(usock_of_file(files[i]), explain);
  // Reachability spreads until nothing changes. A candidate is visited again in each round: sets are small.
  gc_again = n != 0;
  while (gc_again) {
    gc_again = false;
    for (u32 i = 0; i < n; i++)
      if (usock_of_file(files[i])->gc_count > 0) each_held(usock_of_file(files[i]), reach);
  }
  spin_lock(&gc_lock);
  bool valid = epoch == gc_epoch;
  for (u32 i = 0; i < n && valid; i++) // we hold one reference of each
    valid = usock_of_file(files[i])->gc_count > 0 || ref_read(&files[i]->refs) == usock_of_file(files[i])->inflight + 1;
  spin_unlock(&gc_lock);
  for (u32 i = 0; i < n; i++) {
    if (valid && usock_of_file(files[i])->gc_count == 0) empty_queues(usock_of_file(files[i]));
  }
  for (u32 i = 0; i < n; i++) {
    usock_of_file(files[i])->gc_count = -1;
    file_put_late(files[i]);
  }
  kfree(files);
  __atomic_store_n(&gc_running, 0, __ATOMIC_RELEASE);
}

// SPDX-License-Identifier: Apache-2.0
//
// poll and select: sleep until one of many files may be ready. One waiter per queue of each file; the wake callback runs
// in irq context under the queue's lock and only marks the set and wakes the thread, which then looks at all files again.
//
// No wake-up is lost: the thread is SLEEPING before it reads `triggered` (wait_prepare orders that), and the callback
// sets `triggered` with a full barrier before thread_wake reads the thread's state.
// No callback runs after poll_files returns: waitq_remove takes the queue's lock.
#include "file/internal.h"

struct poll_entry { struct waiter w; struct waitq *q; struct poll_set *set; u32 events; };
#define INLINE_ENTRIES 5
#define CHUNK_ENTRIES 62
struct poll_chunk { struct poll_chunk *next; u32 used; struct poll_entry entry[CHUNK_ENTRIES]; };
struct poll_set {
  struct poll_table table;
  struct waitq idle; // nobody wakes it: the thread's place to sleep
  struct thread *thread;
  u32 triggered;
  u32 events;        // of the item whose queues are being added
  int err;
  u32 used;
  struct poll_chunk *chunks;
  struct poll_entry entry[INLINE_ENTRIES];
};

static bool set_wake(struct waiter *w, u32 key) {
  struct poll_entry *e = container_of(w, struct poll_entry, w);
  if (key && !(key & e->events)) return false;
  __atomic_exchange_n(&e->set->triggered, 1, __ATOMIC_SEQ_CST);
  thread_wake(e->set->thread);
  return true;
}

static void set_add(struct poll_table *t, struct waitq *q, struct file *f) {
  struct poll_set *s = container_of(t, struct poll_set, table);
  struct poll_entry *e;
  if (s->used < INLINE_ENTRIES) {
    e = &s->entry[s->used++];
  } else {
    if (!s->chunks || s->chunks->used == CHUNK_ENTRIES) {
      struct poll_chunk *c = kmalloc(sizeof *c, 0);
      if (!c) {
        s->err = -ENOMEM;
        return;
      }
      c->next = s->chunks;
      c->used = 0;
      s->chunks = c;
    }
    e = &s->chunks->entry[s->chunks->used++];
  }
  *e = (struct poll_entry){ .w = { .thread = s->thread, .wake = set_wake }, .q = q, .set = s, .events = s->events };
  list_init(&e->w.link);
  waitq_add(q, &e->w);
}

static void set_finish(struct poll_set *s) {
  for (u32 i = 0; i < s->used; i++) waitq_remove(s->entry[i].q, &s->entry[i].w);
  for (struct poll_chunk *c = s->chunks; c;) {
    struct poll_chunk *next = c->next;
    for (u32 i = 0; i < c->used; i++) waitq_remove(c->entry[i].q, &c->entry[i].w);
    kfree(c);
    c = next;
  }
}

// How many items are ready. Adds waiters through `s` unless that is NULL; stops adding at the first ready one, because
// then nobody will sleep.
static long scan(struct poll_item *items, unsigned n, struct poll_set *s) {
  long ready = 0;
  for (unsigned i = 0; i < n; i++) {
    struct poll_item *it = &items[i];
    if (!it->file) {
      ready += it->revents != 0; // POLLNVAL, set by the caller
      continue;
    }
    if (s) s->events = it->events;
    it->revents = file_poll(it->file, s && !ready ? &s->table : NULL) & it->events;
    ready += it->revents != 0;
    if (s && s->err) return s->err;
  }
  return ready;
}

long poll_files(struct poll_item *items, unsigned n, u64 deadline_ns) {
  if (!deadline_ns) return scan(items, n, NULL);
  struct poll_set s;
  s.table.add = set_add;
  waitq_init(&s.idle);
  s.thread = thread_current();
  s.triggered = 0;
  s.err = 0;
  s.used = 0;
  s.chunks = NULL;
  long r = scan(items, n, &s);
  while (!r) {
    int err = wait_event_timeout(&s.idle, READ_ONCE(s.triggered), deadline_ns);
    WRITE_ONCE(s.triggered, 0); // before looking: what happens from here on sets it again
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    r = scan(items, n, NULL);
    if (!r && err) {
      r = err == -ETIMEDOUT ? 0 : -EINTR;
      break;
    }
  }
  set_finish(&s);
  return r;
}

// SPDX-License-Identifier: Apache-2.0
//
// FUSE requests over virtio-fs (virtio 1.2, 5.11): one priority queue for FORGET, one request queue. Every request owns a
// slot of shared memory from the time it is built until the device has answered, even when its caller gave up: the device
// may still write there. Data is copied once each way. The interrupt handler only marks and wakes; checking and copying
// happen in the caller's context: who wants several requests in flight has several threads.
// Locks: fsdev.lock (RANK_CONN, irqsave) guards slot states and free lists; the queues' locks come after it.

#include "drv/internal.h"
#include <linux/fuse.h>

#define QUEUE_PRIORITY 0
#define QUEUE_REQUEST 1
#define SMALL_BYTES 8192u
#define SMALL_SLOTS 24u
#define BIG_SLOTS_MAX 8u
#define BIG_EXTRA 8192u // headers and fixed parts beside the data
#define QUEUE_SIZE 128
#define SEGS_MAX 4u // of one request; slots are as many as the queues can hold at once

enum slot_state { SLOT_FREE, SLOT_SENT, SLOT_DONE, SLOT_ABANDONED };
struct slot {
  struct list link;           // free list
  struct shared_buf mem;
  enum slot_state state;      // fsdev.lock
  bool big;
  int err;                    // -EIO: the device ended
  u32 written, out_off;
  u64 unique;
  struct waitq wait;
};
static struct {
  struct virtio_dev *dev;     // NULL: no device
  struct virtq *priority, *request;
  struct spinlock lock;
  struct list free_small, free_big;
  struct waitq free_wait;
  u64 next_unique;
  u32 max_data;
  struct slot slots[SMALL_SLOTS + BIG_SLOTS_MAX];
} fsdev;

bool fsdev_present(void) { return fsdev.dev != NULL; }
u32 fsdev_max_data(void) { return fsdev.max_data; }

static void slot_release_locked(struct slot *s) {
  s->state = SLOT_FREE;
  list_push_back(s->big ? &fsdev.free_big : &fsdev.free_small, &s->link);
}

static void slot_release(struct slot *s) {
  u64 flags = spin_lock_irqsave(&fsdev.lock);
  slot_release_locked(s);
  spin_unlock_irqrestore(&fsdev.lock, flags);
  waitq_wake_all(&fsdev.free_wait);
}

static struct slot *slot_try(u32 bytes) {
  struct slot *s = NULL;
  u64 flags = spin_lock_irqsave(&fsdev.lock);
  struct list *from = bytes <= SMALL_BYTES && !list_empty(&fsdev.free_small) ? &fsdev.free_small : &fsdev.free_big;
  if (!list_empty(from)) {
    s = list_first_entry(from, struct slot, link);
    list_remove(&s->link);
    s->unique = fsdev.next_unique;
    fsdev.next_unique += 2; // odd ones would be interrupts (FUSE_INT_REQ_BIT)
  }
  spin_unlock_irqrestore(&fsdev.lock, flags);
  return s;
}

static int slot_get(u32 bytes, int mode, struct slot **out) {
  struct slot *s = NULL;
  if (!fsdev.dev || fsdev.dev->broken) return -EIO;
  if (bytes > fsdev.max_data + BIG_EXTRA) return -EINVAL;
  int err = wait_event_deadline_mode(&fsdev.free_wait, (s = slot_try(bytes)) != NULL || fsdev.dev->broken, WAIT_FOREVER, mode);
  if (!s) return err ? err : -EIO;
  // A signal may have come together with the slot: the slot is ours all the same.
  *out = s;
  return 0;
}

// Copies the request into the slot and describes it. The device sees header, fixed part and data as separate pieces, so
// that a daemon may move the data without a copy of its own.
static unsigned request_build(struct slot *s, const struct fuse_req_io *io, struct virtq_seg segs[SEGS_MAX]) {
  const u32 header = sizeof(struct fuse_in_header);
  u32 at = io->in_len + io->in2_len;
  shared_write(&s->mem, 0, io->in, io->in_len);
  if (io->in2_len) shared_write(&s->mem, io->in_len, io->in2, io->in2_len);
  shared_store64(&s->mem, offsetof(struct fuse_in_header, unique), s->unique);
  shared_store32(&s->mem, offsetof(struct fuse_in_header, len), at + io->in_pages_len);
  unsigned n = 0;
  segs[n++] = (struct virtq_seg){ s->mem.phys, header, false };
  if (at > header) segs[n++] = (struct virtq_seg){ s->mem.phys + header, at - header, false };
  if (io->in_pages_len) segs[n++] = (struct virtq_seg){ s->mem.phys + at, io->in_pages_len, false };
  u32 off = io->in_pages_off;
  for (u32 left = io->in_pages_len, i = 0; left; i++, off = 0) {
    u32 part = MIN(left, (u32)PAGE_SIZE - off);
    shared_write(&s->mem, at, page_bytes(io->in_pages[i]) + off, part);
    at += part;
    left -= part;
  }
  s->out_off = ALIGN_UP(at, 8u);
  if (io->out_cap) segs[n++] = (struct virtq_seg){ s->mem.phys + s->out_off, io->out_cap + io->out_pages_len, true };
  return n;
}

static u32 request_bytes(const struct fuse_req_io *io) {
  return ALIGN_UP(io->in_len + io->in2_len + io->in_pages_len, 8u) + io->out_cap + io->out_pages_len;
}

// Copies the answer out of the slot and checks it. Each byte is read once.
static int reply_take(struct slot *s, struct fuse_req_io *io) {
  if (s->err) return s->err;
  struct fuse_out_header h;
  u32 fixed = MIN(s->written, io->out_cap);
  if (s->written < sizeof(h)) {
    virtq_break(fsdev.request, "an answer without a header");
    return -EIO;
  }
  shared_read(io->out, &s->mem, s->out_off, fixed);
  memcpy(&h, io->out, sizeof(h));
  if (h.unique != s->unique || h.len < sizeof(h) || h.len > s->written) {
    virtq_break(fsdev.request, "an answer that does not fit its request");
    return -EIO;
  }
  io->out_len = h.len;
  u32 at = s->out_off + io->out_cap;
  for (u32 left = h.len > io->out_cap ? h.len - io->out_cap : 0, i = 0; left; i++) {
    u32 part = MIN(left, (u32)PAGE_SIZE);
    shared_read(page_bytes(io->out_pages[i]), &s->mem, at, part);
    at += part;
    left -= part;
  }
  return 0;
}

static void complete_locked(struct slot *s, u32 written, int err) {
  if (s->state == SLOT_ABANDONED) return slot_release_locked(s);
  s->written = written;
  s->err = err;
  __atomic_store_n(&s->state, SLOT_DONE, __ATOMIC_RELEASE);
  waitq_wake_all(&s->wait);
}

static void fsdev_irq(struct virtq *q, void *arg) {
  struct slot *s;
  u32 written;
  u64 flags = spin_lock_irqsave(&fsdev.lock);
  while ((s = virtq_pop(q, &written)) != NULL) complete_locked(s, written, 0);
  spin_unlock_irqrestore(&fsdev.lock, flags);
  if (waitq_active(&fsdev.free_wait)) waitq_wake_all(&fsdev.free_wait); // abandoned slots came back
}

static int request_send(struct slot *s, struct virtq *q, const struct fuse_req_io *io) {
  struct virtq_seg segs[SEGS_MAX];
  unsigned n = request_build(s, io, segs);
  s->state = SLOT_SENT; // before the push: the answer may come at once
  int err = virtq_push(q, segs, n, s);
  if (!err) virtq_kick(q);
  ASSERT(err != -ENOSPC); // slots_setup made no more slots than the queues hold
  return err;
}

int fsdev_call(struct fuse_req_io *io, int mode) {
  struct slot *s;
  ASSERT(io->out_cap >= sizeof(struct fuse_out_header) && io->in_len >= sizeof(struct fuse_in_header));
  int err = slot_get(request_bytes(io), mode, &s);
  if (err) return err;
  err = request_send(s, fsdev.request, io);
  if (err) goto out;
  err = wait_event_deadline_mode(&s->wait, __atomic_load_n(&s->state, __ATOMIC_ACQUIRE) == SLOT_DONE, WAIT_FOREVER, mode);
  if (err) {
    u64 flags = spin_lock_irqsave(&fsdev.lock);
    bool gave_up = s->state == SLOT_SENT;
    if (gave_up) s->state = SLOT_ABANDONED; // the answer's arrival frees the slot
    spin_unlock_irqrestore(&fsdev.lock, flags);
    if (gave_up) return err; // else the answer came together with the signal
  }
  err = reply_take(s, io);
out:
  slot_release(s);
  return err;
}

void fsdev_forget(const void *in, u32 in_len) {
  struct fuse_req_io io = { .in = in, .in_len = in_len };
  struct slot *s;
  if (slot_get(in_len, WAIT_UNINTERRUPTIBLE, &s)) return;
  struct virtq_seg segs[SEGS_MAX];
  unsigned n = request_build(s, &io, segs);
  s->state = SLOT_ABANDONED; // nobody waits: completion frees it
  if (virtq_push(fsdev.priority, segs, n, s)) slot_release(s);
  else virtq_kick(fsdev.priority);
}

// The device lied and was reset: everything that it still had fails.
static void fsdev_broken(struct virtio_dev *d) {
  struct virtq *queues[] = { fsdev.priority, fsdev.request };
  struct slot *s;
  for (unsigned i = 0; i < ARRAY_SIZE(queues); i++) {
    u64 flags = spin_lock_irqsave(&fsdev.lock);
    while ((s = virtq_drain(queues[i])) != NULL) complete_locked(s, 0, -EIO);
    spin_unlock_irqrestore(&fsdev.lock, flags);
  }
  waitq_wake_all(&fsdev.free_wait);
}

static bool slot_add(unsigned i, bool big) {
  struct slot *s = &fsdev.slots[i];
  if (shared_alloc(&s->mem, big ? fsdev.max_data + BIG_EXTRA : SMALL_BYTES)) return false;
  s->big = big;
  waitq_init(&s->wait);
  slot_release(s);
  return true;
}

// Shares of the pool (RAM/16, 4 to 64 MiB): a quarter to data buffers.
static void slots_setup(u32 queue_size) {
  u64 pool = MIN(MAX(vm_memory_bytes / 16, 4 * MIB), 64 * MIB);
  u32 big = pool >= 32 * MIB ? BIG_SLOTS_MAX : BIG_SLOTS_MAX / 2, made = 0;
  fsdev.max_data = (u32)MIB;
  while ((u64)fsdev.max_data * big > pool / 4) fsdev.max_data /= 2;
  for (unsigned i = 0; i < big && (made + 1) * SEGS_MAX <= queue_size; i++) made += slot_add(SMALL_SLOTS + i, true);
  for (unsigned i = 0; i < SMALL_SLOTS && (made + 1) * SEGS_MAX <= queue_size; i++) made += slot_add(i, false);
  if (made < SMALL_SLOTS + big) printk(LOG_WARN, "fs: %u of %u request buffers\n", made, SMALL_SLOTS + big);
}

static int fsdev_probe(struct virtio_dev *d) {
  if (fsdev.dev) return -EBUSY;
  d->on_broken = fsdev_broken;
  fsdev.priority = virtq_create(d, QUEUE_PRIORITY, QUEUE_SIZE, fsdev_irq, NULL, 0);
  fsdev.request = virtq_create(d, QUEUE_REQUEST, QUEUE_SIZE, fsdev_irq, NULL, 0);
  if (!fsdev.priority || !fsdev.request) return -EIO;
  slots_setup(MIN(fsdev.priority->size, fsdev.request->size));
  if (list_empty(&fsdev.free_big)) return -ENOMEM;
  int err = virtio_start(d);
  if (!err) fsdev.dev = d;
  return err;
}

void fsdev_register(void) {
  static const struct virtio_driver driver = { .device_id = 26, .probe = fsdev_probe };
  spin_init(&fsdev.lock, RANK_CONN);
  fsdev.next_unique = 2;
  list_init(&fsdev.free_small);
  list_init(&fsdev.free_big);
  waitq_init(&fsdev.free_wait);
  virtio_register_driver(&driver);
}

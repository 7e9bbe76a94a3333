// SPDX-License-Identifier: Apache-2.0
//
// Split virtqueues (virtio 1.2, 2.7) in the shared pool. The device reads descriptors and the available ring, and writes
// the used ring; what this side knows (free list, chain heads, lengths, indices) is private and never read back from
// shared memory. A used index, id or length that does not agree with it ends the device (threat-model T3, T4).
// Context: any; each queue has its own lock (RANK_VIRTQ, irqsave). Doorbells are rung outside the lock.

#include "drv/internal.h"

#define DESC_BYTES 16
#define DESC_NEXT 1
#define DESC_WRITE 2
#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY 1

struct vring_desc { u64 addr; u32 len; u16 flags; u16 next; };
struct vring_used_elem { u32 id, len; };
_Static_assert(sizeof(struct vring_desc) == DESC_BYTES, "virtio 1.2, 2.7.5");
_Static_assert(sizeof(struct vring_used_elem) == 8, "virtio 1.2, 2.7.8");

// All stores before it are visible to the device before any load after it: the doorbell and interrupt handshakes are
// Dekker's (each side writes its index, then reads the other's event index).
static inline void full_barrier(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
// 2.7.10: was `event` passed when the index moved from old to new?
static inline bool event_passed(u16 event, u16 new_idx, u16 old) { return (u16)(new_idx - event - 1) < (u16)(new_idx - old); }

static u32 avail_event_off(const struct virtq *q) { return q->used_off + 4 + 8u * q->size; } // device: ring me at
static u32 used_event_off(const struct virtq *q) { return q->avail_off + 4 + 2u * q->size; } // driver: interrupt me at

int virtq_ring_init(struct virtq *q, struct virtio_dev *d, u16 index, u16 size) {
  *q = (struct virtq){ .dev = d, .index = index, .size = size, .event_idx = (d->features & BIT(29)) != 0 };
  spin_init(&q->lock, RANK_VIRTQ);
  q->avail_off = (u32)size * DESC_BYTES;
  q->used_off = ALIGN_UP(q->avail_off + 6 + 2u * size, 64u);
  int err = shared_alloc(&q->ring, q->used_off + 6 + 8u * size);
  if (err) return err;
  q->slots = kzalloc(size * sizeof(*q->slots));
  if (!q->slots) {
    shared_free(&q->ring);
    return -ENOMEM;
  }
  for (u16 i = 0; i < size; i++) q->slots[i].next = (u16)(i + 1);
  q->free_count = size;
  return 0;
}

void virtq_ring_free(struct virtq *q) {
  shared_free(&q->ring);
  kfree(q->slots);
}

u16 virtq_free_count(struct virtq *q) { return READ_ONCE(q->free_count); }
bool virtq_broken(struct virtq *q) { return READ_ONCE(q->dev->broken); }

void virtq_break(struct virtq *q, const char *why) { virtio_break(q->dev, why); }

int virtq_push(struct virtq *q, const struct virtq_seg *segs, unsigned n, void *cookie) {
  ASSERT(n > 0 && cookie);
  u64 flags = spin_lock_irqsave(&q->lock);
  int err = 0;
  if (unlikely(virtq_broken(q))) err = -EIO;
  else if (n > q->free_count) err = -ENOSPC;
  if (err) goto out;
  u16 head = q->free_head, at = head;
  u32 write_bytes = 0;
  for (unsigned i = 0; i < n; i++) {
    u16 next = q->slots[at].next;
    struct vring_desc desc = { segs[i].phys, segs[i].len, 0, 0 };
    if (segs[i].dev_writes) {
      desc.flags |= DESC_WRITE;
      write_bytes += segs[i].len;
    }
    if (i + 1 < n) {
      desc.flags |= DESC_NEXT;
      desc.next = next;
    }
    shared_write(&q->ring, (u32)at * DESC_BYTES, &desc, sizeof(desc));
    if (i + 1 == n) q->free_head = next;
    else at = next;
  }
  // The chain stays linked through slots[].next while in flight; `at` is its last descriptor.
  q->free_count = (u16)(q->free_count - n);
  q->slots[head].cookie = cookie;
  q->slots[head].write_bytes = write_bytes;
  q->slots[head].count = (u16)n;
  q->in_flight++;
  shared_store16(&q->ring, q->avail_off + 4 + 2u * (q->avail_idx & (q->size - 1u)), head);
  q->avail_idx++;
  shared_store16(&q->ring, q->avail_off + 2, q->avail_idx); // release: descriptors and ring entry come first
out:
  spin_unlock_irqrestore(&q->lock, flags);
  return err;
}

bool virtq_kick(struct virtq *q) {
  u64 flags = spin_lock_irqsave(&q->lock);
  bool ring = false;
  if (q->kicked_idx != q->avail_idx && !virtq_broken(q)) {
    full_barrier();
    u16 v;
    // Any value is fine: it only decides whether a doorbell is rung.
    if (q->event_idx) ring = host_range16(shared_load16(&q->ring, avail_event_off(q)), 0, 0xffff, &v) && event_passed(v, q->avail_idx, q->kicked_idx);
    else ring = host_range16(shared_load16(&q->ring, q->used_off), 0, 0xffff, &v) && !(v & USED_NO_NOTIFY);
    q->kicked_idx = q->avail_idx;
  }
  spin_unlock_irqrestore(&q->lock, flags);
  if (ring) host_mmio_write16(&q->dev->notify, q->notify_off, q->index);
  return ring;
}

// Asks for an interrupt at the next completion after last_used.
static void arm_locked(struct virtq *q) {
  if (q->event_idx) shared_store16(&q->ring, used_event_off(q), q->last_used);
  q->armed_at = q->last_used;
  full_barrier();
}

// Looks at the device's used index: how many chains it finished. A lie breaks the device and reads as none.
static u16 used_count_locked(struct virtq *q) {
  u16 idx;
  if (!host_range16(shared_load16(&q->ring, q->used_off + 2), 0, 0xffff, &idx)) return 0;
  u16 n = (u16)(idx - q->last_used);
  if (likely(n <= q->in_flight)) return n;
  virtq_break(q, "used index out of range");
  return 0;
}

void *virtq_pop(struct virtq *q, u32 *written) {
  void *cookie = NULL;
  u64 flags = spin_lock_irqsave(&q->lock);
  if (unlikely(virtq_broken(q))) goto out;
  if (!used_count_locked(q)) {
    // Nothing there: arm, then look again, or a completion between the look and the arming would go unnoticed.
    if (q->irq_masked || q->armed_at == q->last_used) goto out;
    arm_locked(q);
    if (!used_count_locked(q)) goto out;
  }
  struct vring_used_elem e;
  shared_read(&e, &q->ring, q->used_off + 4 + 8u * (q->last_used & (q->size - 1u)), sizeof(e));
  if (e.id >= q->size || !q->slots[e.id].cookie) {
    virtq_break(q, "used id is not a chain in flight");
    goto out;
  }
  struct virtq_slot *s = &q->slots[e.id];
  if (e.len > s->write_bytes) {
    virtq_break(q, "used length exceeds the buffers");
    goto out;
  }
  cookie = s->cookie;
  s->cookie = NULL;
  *written = e.len;
  u16 last = (u16)e.id;
  for (u16 i = 1; i < s->count; i++) last = q->slots[last].next;
  q->slots[last].next = q->free_head;
  q->free_head = (u16)e.id;
  q->free_count = (u16)(q->free_count + s->count);
  q->in_flight--;
  q->last_used++;
out:
  spin_unlock_irqrestore(&q->lock, flags);
  return cookie;
}

void virtq_irq_off(struct virtq *q) {
  u64 flags = spin_lock_irqsave(&q->lock);
  q->irq_masked = true;
  if (q->event_idx) shared_store16(&q->ring, used_event_off(q), (u16)(q->last_used + 0x8000));
  else shared_store16(&q->ring, q->avail_off, AVAIL_NO_INTERRUPT);
  q->armed_at = (u16)(q->last_used + 0x8000);
  spin_unlock_irqrestore(&q->lock, flags);
}

bool virtq_irq_on(struct virtq *q) {
  u64 flags = spin_lock_irqsave(&q->lock);
  q->irq_masked = false;
  if (!q->event_idx) shared_store16(&q->ring, q->avail_off, 0);
  arm_locked(q);
  bool more = !virtq_broken(q) && used_count_locked(q) != 0;
  spin_unlock_irqrestore(&q->lock, flags);
  return more;
}

void *virtq_drain(struct virtq *q) {
  void *cookie = NULL;
  u64 flags = spin_lock_irqsave(&q->lock);
  ASSERT(virtq_broken(q));
  while (!cookie && q->drain_next < q->size) {
    struct virtq_slot *s = &q->slots[q->drain_next++];
    cookie = s->cookie;
    s->cookie = NULL;
  }
  spin_unlock_irqrestore(&q->lock, flags);
  return cookie;
}

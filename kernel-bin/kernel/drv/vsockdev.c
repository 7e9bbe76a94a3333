// SPDX-License-Identifier: Apache-2.0
//
// The virtio-vsock device (virtio 1.2, 5.10): buffers and rings only; what packets mean is net/vsock.c's. One page per
// descriptor and direction, allocated once from the shared pool, so sending and receiving allocate nothing.
// Receiving: in the interrupt, or, when the host sends more than RX_BUDGET packets at once, in a kernel thread.
// One of them at a time owns the receive queue (rx_owner), so that packets stay in order.
// Sending: senders write straight into pages that they reserved from an atomic bitmap. Completions are collected by the
// next sender; an interrupt is asked for only when somebody is short of pages.

#include "drv/internal.h"

#define VIRTIO_ID_VSOCK 19
#define QUEUE_RX 0
#define QUEUE_TX 1
#define QUEUE_MAX 128u
#define HDR_BYTES 44u
#define RX_BUDGET 128u
#define TX_WORDS (QUEUE_MAX / 64)

static struct virtio_dev *dev;
static u64 guest_cid;
static struct virtq *rxq, *txq;
static struct shared_buf rx_pages, tx_pages;
static u32 rx_count, tx_count;
// Work that one CPU does at a time, however many ask for it: who changes TURN_IDLE does it, the others leave it to that one.
// Not a count: a host that stops the owner's CPU may ask 2^32 times on another one, and would make a second owner.
enum turn { TURN_IDLE, TURN_OWNED, TURN_AGAIN /* somebody asked since the owner last looked */ };
static bool turn_take(enum turn *t) { return __atomic_exchange_n(t, TURN_AGAIN, __ATOMIC_SEQ_CST) == TURN_IDLE; }
static void turn_begin(enum turn *t) { __atomic_store_n(t, TURN_OWNED, __ATOMIC_SEQ_CST); } // before the look
static bool turn_over(enum turn *t) { // false: somebody asked meanwhile
  enum turn owned = TURN_OWNED;
  return __atomic_compare_exchange_n(t, &owned, TURN_IDLE, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
static enum turn rx_owner;          // of the receive queue; asked for by its interrupts
static struct work rx_work;
static u64 tx_free[TX_WORDS];       // atomic: bit i is page i
static u8 tx_next[QUEUE_MAX];       // chain of a packet's pages; its last one points to itself
static bool tx_short;               // somebody waits for pages
static enum turn tx_telling;        // who has it calls tx_space

// Until the net room is there nobody has sent anything: what comes is dropped.
static void no_rx(const u8 hdr[44], const struct shared_buf *b, u32 off, u32 len) {}
static void no_event(void) {}
static const struct vsockdev_ops no_ops = { no_rx, no_event, no_event };
static const struct vsockdev_ops *ops = &no_ops;

void vsockdev_set_ops(const struct vsockdev_ops *o) { ops = o; }
bool vsockdev_present(void) { return dev && !READ_ONCE(dev->broken); }
u64 vsockdev_guest_cid(void) { return guest_cid; }

// --- receiving

static bool rx_give(u32 i) {
  struct virtq_seg seg = { rx_pages.phys + i * PAGE_SIZE, (u32)PAGE_SIZE, true };
  return virtq_push(rxq, &seg, 1, (void *)(uptr)(i + 1)) == 0; // cannot fail but for a broken device
}

// Up to RX_BUDGET packets; true: there may be more.
static bool rx_some(void) {
  for (u32 k = 0; k < RX_BUDGET; k++) {
    u32 written, off;
    void *cookie = virtq_pop(rxq, &written); // written <= PAGE_SIZE: virtq_pop checked
    if (!cookie) {
      virtq_kick(rxq);
      return false;
    }
    u32 i = (u32)(uptr)cookie - 1;
    off = i * (u32)PAGE_SIZE;
    if (written < HDR_BYTES) {
      virtq_break(rxq, "packet without a header");
      return false;
    }
    u8 hdr[HDR_BYTES];
    shared_read(hdr, &rx_pages, off, HDR_BYTES);
    ops->rx(hdr, &rx_pages, off + HDR_BYTES, written - HDR_BYTES);
    if (!rx_give(i)) return false;
  }
  virtq_kick(rxq);
  return true;
}

static void rx_loop(bool in_irq) {
  do {
    turn_begin(&rx_owner);
    while (rx_some()) {
      if (in_irq) { // a flood: let threads run between batches. The work owns the queue now
        virtq_irq_off(rxq);
        work_queue(&rx_work);
        return;
      }
      sched_yield_if_needed();
    }
  } while (!turn_over(&rx_owner)); // interrupts that came meanwhile left their work to us
}

static void rx_irq(struct virtq *q, void *arg) {
  if (turn_take(&rx_owner)) rx_loop(true);
}

static void rx_work_fn(struct work *w) {
  while (rx_some()) sched_yield_if_needed();
  virtq_irq_on(rxq);
  rx_loop(false); // also what came between the last look and the arming
}

// --- sending

static void tx_put_chain(u32 head) {
  u64 mask[TX_WORDS] = { 0 };
  for (u32 i = head;; i = tx_next[i]) {
    bit_set(mask, i);
    if (tx_next[i] == i) break;
  }
  for (u32 w = 0; w < TX_WORDS; w++)
    if (mask[w]) __atomic_fetch_or(&tx_free[w], mask[w], __ATOMIC_SEQ_CST);
}

static bool tx_collect(void) {
  u32 written;
  void *cookie;
  bool any = false;
  while ((cookie = virtq_pop(txq, &written))) {
    tx_put_chain((u32)(uptr)cookie - 1);
    any = true;
  }
  return any;
}

static bool tx_take(u8 *slot) {
  for (u32 w = 0; w < TX_WORDS; w++) {
    u64 free = __atomic_load_n(&tx_free[w], __ATOMIC_RELAXED);
    while (free) {
      u64 bit = free & -free;
      if (!__atomic_compare_exchange_n(&tx_free[w], &free, free & ~bit, true, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) continue;
      *slot = (u8)(w * 64 + (u32)__builtin_ctzll(bit));
      return true;
    }
  }
  return false;
}

static bool tx_take_some(struct vsockdev_tx *t, u32 want) {
  while (t->n < want && tx_take(&t->slot[t->n])) t->n++;
  return t->n == want;
}

// At least one page and at most `pages`. Nothing there: asks for an interrupt, and looks once more after it was armed,
// so that a completion in between is not missed.
static bool tx_reserve(struct vsockdev_tx *t, u32 pages) {
  t->n = 0;
  if (unlikely(!vsockdev_present())) return false;
  tx_take_some(t, pages);
  if (t->n < pages && tx_collect()) tx_take_some(t, pages);
  if (t->n) return true;
  WRITE_ONCE(tx_short, true);
  virtq_irq_on(txq);
  tx_collect();
  tx_take_some(t, pages);
  return t->n != 0;
}

u32 vsockdev_reserve(struct vsockdev_tx *t, u32 bytes) {
  u32 pages = (u32)DIV_ROUND_UP((u64)bytes + HDR_BYTES, PAGE_SIZE);
  t->room = 0;
  if (tx_reserve(t, MIN(pages, VSOCKDEV_TX_PIECES))) t->room = MIN(bytes, t->n * (u32)PAGE_SIZE - HDR_BYTES);
  return t->room;
}

bool vsockdev_reserve_header(struct vsockdev_tx *t) {
  t->room = 0;
  return tx_reserve(t, 1);
}

u8 *vsockdev_piece(const struct vsockdev_tx *t, u32 off, u32 *len) {
  ASSERT(off < t->room);
  u32 at = off + HDR_BYTES, in_page = at % (u32)PAGE_SIZE;
  *len = MIN((u32)PAGE_SIZE - in_page, t->room - off);
  return tx_pages.va + t->slot[at / PAGE_SIZE] * PAGE_SIZE + in_page;
}

static void tx_put(struct vsockdev_tx *t, u32 from) {
  for (u32 i = from; i < t->n; i++) __atomic_fetch_or(&tx_free[t->slot[i] / 64], BIT(t->slot[i] % 64), __ATOMIC_SEQ_CST);
  t->n = 0;
}

// One call at a time, and none within another: tx_space sends, and a device that frees a page just when there is none
// would have each release call it again, until the stack ends.
static void tell_space(void) {
  if (!turn_take(&tx_telling)) return;
  do {
    turn_begin(&tx_telling);
    ops->tx_space();
  } while (!turn_over(&tx_telling));
}

void vsockdev_release(struct vsockdev_tx *t) {
  tx_put(t, 0);
  // Whoever found nothing while we held them must hear of it.
  if (READ_ONCE(tx_short) && __atomic_exchange_n(&tx_short, false, __ATOMIC_ACQ_REL)) tell_space();
}

void vsockdev_commit(struct vsockdev_tx *t, const u8 hdr[44], u32 len) {
  ASSERT(t->n && len <= t->room);
  u32 pages = (u32)DIV_ROUND_UP((u64)len + HDR_BYTES, PAGE_SIZE), left = len + HDR_BYTES;
  struct virtq_seg seg[VSOCKDEV_TX_PIECES];
  shared_write(&tx_pages, t->slot[0] * (u32)PAGE_SIZE, hdr, HDR_BYTES);
  for (u32 i = 0; i < pages; i++) {
    u32 n = MIN(left, (u32)PAGE_SIZE);
    seg[i] = (struct virtq_seg){ tx_pages.phys + t->slot[i] * PAGE_SIZE, n, false };
    tx_next[t->slot[i]] = i + 1 < pages ? t->slot[i + 1] : t->slot[i];
    left -= n;
  }
  // A descriptor for every page exists, so only a broken device refuses; then the packet is lost like all others.
  if (virtq_push(txq, seg, pages, (void *)(uptr)(t->slot[0] + 1u))) pages = 0;
  tx_put(t, pages); // no tx_space: the caller holds locks, and this packet's completion brings one
}

void vsockdev_kick(void) {
  if (likely(txq)) virtq_kick(txq);
}

bool vsockdev_usable_in_panic(void) {
  if (!vsockdev_present() || !txq || !spin_trylock(&txq->lock)) return false;
  spin_unlock(&txq->lock);
  return true;
}

void vsockdev_drain_in_panic(void) {
  for (u64 end = time_ns() + NS_PER_SEC; time_ns() < end && virtq_free_count(txq) < txq->size;) {
    tx_collect();
    cpu_relax();
  }
}

static void tx_irq(struct virtq *q, void *arg) {
  // Off first, then the look: whoever sets tx_short arms after that, so it is seen here or armed after us.
  virtq_irq_off(q);
  if (!__atomic_exchange_n(&tx_short, false, __ATOMIC_SEQ_CST)) return;
  tx_collect();
  tell_space();
}

// --- the device

static void on_broken(struct virtio_dev *d) { ops->broken(); }

static int probe(struct virtio_dev *d) {
  if (dev) return -EBUSY;
  if (d->config.len_bytes < 8 || !host_range64(host_mmio_read64(&d->config, 0), 3, 0xfffffffeu, &guest_cid)) return -EIO;
  work_init(&rx_work, rx_work_fn);
  rxq = virtq_create(d, QUEUE_RX, QUEUE_MAX, rx_irq, NULL, 0);
  txq = virtq_create(d, QUEUE_TX, QUEUE_MAX, tx_irq, NULL, 0);
  if (!rxq || !txq) return -EIO;
  // Small machines have a small pool: fewer buffers then.
  rx_count = virtq_free_count(rxq);
  tx_count = virtq_free_count(txq);
  while (shared_alloc(&rx_pages, rx_count * (u32)PAGE_SIZE))
    if ((rx_count /= 2) < 16) return -ENOMEM;
  while (shared_alloc(&tx_pages, tx_count * (u32)PAGE_SIZE))
    if ((tx_count /= 2) < VSOCKDEV_TX_PIECES) return -ENOMEM;
  for (u32 i = 0; i < tx_count; i++) bit_set(tx_free, i);
  virtq_irq_off(txq);
  d->on_broken = on_broken;
  dev = d;
  for (u32 i = 0; i < rx_count; i++)
    if (!rx_give(i)) return -EIO;
  int err = virtio_start(d);
  if (!err) virtq_kick(rxq);
  return err;
}

void vsockdev_register(void) {
  static const struct virtio_driver driver = { .device_id = VIRTIO_ID_VSOCK, .probe = probe };
  virtio_register_driver(&driver);
}

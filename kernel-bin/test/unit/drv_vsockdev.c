// SPDX-License-Identifier: Apache-2.0
// The vsock transport against a device that gives pages back at the worst moments and interrupts as it likes: who waits
// for room hears of it, one call at a time; packets are received by one at a time, in order.
#include "dev_mock.h"
const char *__asan_default_options(void) { return "detect_leaks=0"; } // the pool is never given back
#define sched_yield_if_needed() ((void)0)
#include "../../kernel/drv/vsockdev.c"

static struct virtio_dev mock_dev;
static struct virtq queues[2];
static void *in_flight[2][QUEUE_MAX];
static unsigned pushed[2], popped[2], ready[2]; // ready: how many the device has finished and not given back
static bool worst_moment;                       // a page comes back only after the driver found none and armed

void virtio_register_driver(const struct virtio_driver *drv) {}
bool spin_trylock(struct spinlock *l) { return true; }
int virtio_start(struct virtio_dev *d) { return 0; }
host_u64 host_mmio_read64(const struct host_mmio *m, u64 off) { return (host_u64){ 3 }; }
struct virtq *virtq_create(struct virtio_dev *d, u16 index, u16 max, void (*irq)(struct virtq *, void *), void *arg, u32 cpu) {
  queues[index] = (struct virtq){ .dev = d, .index = index, .size = max, .free_count = max, .irq = irq, .arg = arg };
  return &queues[index];
}
u16 virtq_free_count(struct virtq *q) { return q->free_count; }
int virtq_push(struct virtq *q, const struct virtq_seg *segs, unsigned n, void *cookie) {
  in_flight[q->index][pushed[q->index]++ % QUEUE_MAX] = cookie;
  return 0;
}
void *virtq_pop(struct virtq *q, u32 *written) {
  if (!ready[q->index] || popped[q->index] == pushed[q->index]) return NULL;
  ready[q->index]--;
  *written = HDR_BYTES;
  return in_flight[q->index][popped[q->index]++ % QUEUE_MAX];
}
bool virtq_kick(struct virtq *q) { return true; }
void virtq_break(struct virtq *q, const char *why) { mock_dev.broken = true; }
void virtq_irq_off(struct virtq *q) {}
bool virtq_irq_on(struct virtq *q) {
  if (q->index == QUEUE_TX && worst_moment) ready[QUEUE_TX]++;
  return false;
}

static unsigned depth, deepest, to_send, received;
static bool irq_within;
static void sends(void) {
  struct vsockdev_tx t;
  static const u8 hdr[HDR_BYTES];
  deepest = MAX(deepest, ++depth);
  while (to_send && vsockdev_reserve_header(&t)) {
    to_send--;
    vsockdev_commit(&t, hdr, 0);
    vsockdev_release(&t);
  }
  depth--;
}
static void receives(const u8 hdr[44], const struct shared_buf *b, u32 off, u32 len) {
  deepest = MAX(deepest, ++depth);
  received++;
  if (irq_within && received % 3 == 0) rxq->irq(rxq, NULL); // as on another CPU
  depth--;
}

int main(void) {
  static const struct vsockdev_ops mine = { receives, sends, no_event };
  mock_dev.config.len_bytes = 8;
  CHECK(probe(&mock_dev) == 0 && vsockdev_present());
  vsockdev_set_ops(&mine);
  struct vsockdev_tx all[QUEUE_MAX];
  unsigned held = 0;
  while (held < QUEUE_MAX && vsockdev_reserve_header(&all[held])) held++;
  CHECK(held == QUEUE_MAX && !vsockdev_reserve_header(&all[0]) && tx_short);
  // All but one page stay with others. Each packet that is sent finds none, and then the device gives one back.
  all[0].n = 1;
  worst_moment = true;
  to_send = 1000;
  vsockdev_release(&all[0]);
  CHECK(to_send == 0 && deepest == 1 && depth == 0 && tx_telling == TURN_IDLE);
  worst_moment = false;
  // Room while somebody is told of room: he is told again.
  deepest = 0;
  tx_short = true;
  to_send = 1;
  ready[QUEUE_TX] = QUEUE_MAX;
  txq->irq(txq, NULL);
  CHECK(to_send == 0 && deepest == 1);
  // Receiving: interrupts within, and a flood that the work takes over.
  deepest = 0;
  irq_within = true;
  ready[QUEUE_RX] = 10;
  rxq->irq(rxq, NULL);
  CHECK(received == 10 && deepest == 1 && rx_owner == TURN_IDLE);
  ready[QUEUE_RX] = 10 * RX_BUDGET;
  rxq->irq(rxq, NULL);
  CHECK(received == 10 + RX_BUDGET && mock_work == &rx_work && rx_owner != TURN_IDLE);
  rxq->irq(rxq, NULL);
  CHECK(received == 10 + RX_BUDGET); // it is the work's now
  mock_run_work();
  CHECK(received == 10 + 10 * RX_BUDGET && deepest == 1 && rx_owner == TURN_IDLE);
  return UNIT_END("drv_vsockdev");
}

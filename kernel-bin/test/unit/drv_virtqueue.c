// SPDX-License-Identifier: Apache-2.0
// Split rings against a device that behaves, and against one that lies: every lie ends the device, and nothing is read or
// written out of bounds (ASan watches ring and slots).
#include "dev_mock.h"
#include "../../kernel/drv/virtqueue.c"

void virtio_break(struct virtio_dev *d, const char *why) {
  d->broken = true;
  printk(LOG_ERROR, "ended: %s\n", why);
}

#define SIZE 8
static struct virtio_dev dev;
static struct virtq q;
static u16 dev_avail, dev_used; // the device's own indices

static void setup(bool event_idx) {
  dev = (struct virtio_dev){ .features = event_idx ? BIT(29) : 0 };
  CHECK(virtq_ring_init(&q, &dev, 0, SIZE) == 0);
  dev_avail = dev_used = 0;
  mock_log[0] = 0;
}
static void teardown(void) { virtq_ring_free(&q); }

static u16 peek16(u32 off) { u16 v; memcpy(&v, q.ring.va + off, 2); return v; }
static void poke16(u32 off, u16 v) { memcpy(q.ring.va + off, &v, 2); }

// The device takes the next available chain: its head, and the bytes it may write.
static bool dev_take(u16 *head, u32 *writable) {
  if (dev_avail == peek16(q.avail_off + 2)) return false;
  *head = peek16(q.avail_off + 4 + 2u * (dev_avail++ % SIZE));
  *writable = 0;
  for (u16 i = *head, n = 0; n < SIZE; n++) {
    struct vring_desc d;
    memcpy(&d, q.ring.va + i * 16, 16);
    if (d.flags & DESC_WRITE) *writable += d.len;
    if (!(d.flags & DESC_NEXT)) break;
    i = d.next;
  }
  return true;
}
static void dev_give(u32 id, u32 len) {
  struct vring_used_elem e = { id, len };
  memcpy(q.ring.va + q.used_off + 4 + 8u * (dev_used % SIZE), &e, 8);
  poke16(q.used_off + 2, ++dev_used);
}

static int push(unsigned n, u32 len, uintptr_t cookie) {
  struct virtq_seg segs[SIZE];
  for (unsigned i = 0; i < n; i++) segs[i] = (struct virtq_seg){ 0x1000 * (i + 1), len, i + 1 == n };
  return virtq_push(&q, segs, n, (void *)cookie);
}

static void test_honest(bool event_idx) {
  setup(event_idx);
  u32 written, writable;
  u16 head;
  uintptr_t next = 1, expect[64] = { 0 };
  unsigned in_flight = 0;
  u16 heads[SIZE];
  // A long random run, with completions out of order.
  for (unsigned step = 0; step < 20000; step++) {
    unsigned n = 1 + (unsigned)(unit_random() % 3);
    if (unit_random() % 2) {
      int err = push(n, 100, next % 1000 + 1);
      CHECK((err == 0) == (q.free_count + (err ? 0 : n) >= n) || err == -ENOSPC);
      if (!err) {
        next++;
        CHECK(dev_take(&head, &writable) && writable == 100);
        expect[head] = (uintptr_t)q.slots[head].cookie;
        heads[in_flight++] = head;
        virtq_kick(&q);
      }
    } else if (in_flight) {
      unsigned k = (unsigned)(unit_random() % in_flight);
      u16 id = heads[k];
      heads[k] = heads[--in_flight];
      dev_give(id, 7);
      CHECK((uintptr_t)virtq_pop(&q, &written) == expect[id] && written == 7);
    } else {
      CHECK(virtq_pop(&q, &written) == NULL);
    }
  }
  CHECK(!dev.broken);
  while (in_flight) {
    dev_give(heads[--in_flight], 0);
    CHECK(virtq_pop(&q, &written) != NULL);
  }
  CHECK(virtq_free_count(&q) == SIZE && q.in_flight == 0);
  CHECK(push(SIZE, 1, 9) == 0 && push(1, 1, 9) == -ENOSPC); // every descriptor came back
  teardown();
}

static void test_doorbells(void) {
  setup(true);
  mock_doorbells = 0;
  CHECK(!virtq_kick(&q)); // nothing pushed
  CHECK(push(1, 1, 1) == 0 && push(1, 1, 2) == 0);
  CHECK(virtq_kick(&q) && mock_doorbells == 1); // one for both
  poke16(q.used_off + 4 + 8 * SIZE, 5);         // the device wants to hear of the sixth
  CHECK(push(1, 1, 3) == 0 && !virtq_kick(&q));
  CHECK(push(1, 1, 3) == 0 && push(1, 1, 4) == 0 && !virtq_kick(&q));
  CHECK(push(1, 1, 5) == 0 && virtq_kick(&q) && mock_doorbells == 2);
  teardown();
  setup(false);
  poke16(q.used_off, USED_NO_NOTIFY);
  CHECK(push(1, 1, 1) == 0 && !virtq_kick(&q));
  poke16(q.used_off, 0);
  CHECK(push(1, 1, 2) == 0 && virtq_kick(&q));
  teardown();
}

static void test_interrupts(void) {
  u32 written;
  u16 head;
  setup(true);
  CHECK(peek16(used_event_off(&q)) == 0);
  for (int i = 1; i <= 3; i++) CHECK(push(1, 1, i) == 0);
  for (int i = 0; i < 3; i++) {
    u32 w;
    CHECK(dev_take(&head, &w));
    dev_give(head, 0);
  }
  while (virtq_pop(&q, &written)) {}
  CHECK(peek16(used_event_off(&q)) == 3); // armed for the next one
  virtq_irq_off(&q);
  CHECK((u16)(peek16(used_event_off(&q)) - 3) >= 0x4000);
  CHECK(push(1, 1, 4) == 0 && dev_take(&head, &written));
  dev_give(head, 0);
  CHECK(virtq_irq_on(&q)); // it came while nobody would have been told
  CHECK(virtq_pop(&q, &written) != NULL);
  teardown();
}

// Each lie: the pop gives nothing, the device is over, later calls fail, drain gives back what was in flight.
static void expect_broken(const char *word) {
  u32 written;
  unsigned drained = 0;
  CHECK(virtq_pop(&q, &written) == NULL);
  CHECK(dev.broken && strstr(mock_log, word));
  CHECK(push(1, 1, 5) == -EIO);
  CHECK(virtq_pop(&q, &written) == NULL && !virtq_kick(&q));
  while (virtq_drain(&q)) drained++;
  CHECK(drained == q.in_flight);
  teardown();
}

static void test_lies(void) {
  static const u32 bad_ids[] = { 1, SIZE - 1, SIZE, 0xffff, 0xffffffff };
  u16 head;
  u32 w;
  for (size_t i = 0; i < ARRAY_SIZE(bad_ids); i++) { // an id that is no head in flight, or no id
    setup(i & 1);
    CHECK(push(2, 10, 1) == 0 && push(2, 10, 2) == 0 && dev_take(&head, &w));
    dev_give(bad_ids[i], 0);
    expect_broken("id");
  }
  setup(true); // longer than the buffers
  CHECK(push(2, 10, 1) == 0 && dev_take(&head, &w));
  dev_give(head, 11);
  expect_broken("length");
  setup(true); // a length where there is nothing to write
  struct virtq_seg out = { 0x1000, 64, false };
  CHECK(virtq_push(&q, &out, 1, (void *)1) == 0 && dev_take(&head, &w));
  dev_give(head, 1);
  expect_broken("length");
  setup(true); // twice
  CHECK(push(1, 10, 1) == 0 && push(1, 10, 2) == 0 && dev_take(&head, &w));
  dev_give(head, 0);
  CHECK(virtq_pop(&q, &w) == (void *)1);
  dev_give(head, 0);
  expect_broken("id");
  setup(true); // more completions than chains
  CHECK(push(1, 10, 1) == 0);
  poke16(q.used_off + 2, 2);
  expect_broken("index");
  setup(true); // an index that goes back
  CHECK(push(1, 10, 1) == 0 && dev_take(&head, &w));
  dev_give(head, 0);
  CHECK(virtq_pop(&q, &w) == (void *)1);
  poke16(q.used_off + 2, 0);
  expect_broken("index");
  setup(true); // a completion before anything was asked
  poke16(q.used_off + 2, 1);
  expect_broken("index");
}

static void test_never(void) { // a device that never answers costs descriptors, nothing else
  u32 w;
  setup(true);
  for (int i = 0; i < SIZE; i++) CHECK(push(1, 1, i + 1) == 0);
  CHECK(push(1, 1, 99) == -ENOSPC && virtq_pop(&q, &w) == NULL && !dev.broken);
  teardown();
}

static void test_scribbles(void) { // the device writes over descriptors and the available ring: nobody here looks at them
  u32 w;
  u16 head;
  setup(true);
  for (int round = 0; round < 1000; round++) {
    CHECK(push(2, 10, round + 1) == 0 && dev_take(&head, &w));
    for (u32 i = 0; i < q.used_off; i++) q.ring.va[i] = (u8)unit_random();
    poke16(q.avail_off + 2, q.avail_idx); // only so that dev_take above goes on
    dev_avail = q.avail_idx;
    dev_give(head, 10);
    CHECK(virtq_pop(&q, &w) == (void *)(uintptr_t)(round + 1));
  }
  CHECK(!dev.broken);
  teardown();
}

int main(void) {
  test_honest(false);
  test_honest(true);
  test_doorbells();
  test_interrupts();
  test_lies();
  test_never();
  test_scribbles();
  return UNIT_END("drv_virtqueue");
}

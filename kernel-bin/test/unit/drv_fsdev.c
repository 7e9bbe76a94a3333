// SPDX-License-Identifier: Apache-2.0
// The FUSE transport against a device that answers rightly, wrongly, late, or never: data arrives whole, a lie ends the
// device and every request with it, an abandoned request keeps its buffer until the device is done with it.
#include "dev_mock.h"
const char *__asan_default_options(void) { return "detect_leaks=0"; } // the pool is never given back
#include "../../kernel/drv/fsdev.c"

u64 vm_memory_bytes = 256 << 20;
static struct virtio_dev dev;
static struct virtq queues[2];
static struct { void *cookie; struct virtq_seg segs[4]; unsigned n; } chain[64];
static unsigned chains, popped;
static enum { RIGHT, SHORT, BAD_UNIQUE, LEN_TOO_BIG, LEN_TOO_SMALL, NEVER } mood;
static u32 reply_bytes;

void virtio_register_driver(const struct virtio_driver *drv) {}
int virtio_start(struct virtio_dev *d) { return 0; }
struct virtq *virtq_create(struct virtio_dev *d, u16 index, u16 max, void (*irq)(struct virtq *, void *), void *arg, u32 cpu) {
  queues[index] = (struct virtq){ .dev = d, .size = max, .irq = irq, .arg = arg };
  return &queues[index];
}
int virtq_push(struct virtq *q, const struct virtq_seg *segs, unsigned n, void *cookie) {
  if (dev.broken) return -EIO;
  ASSERT(chains < ARRAY_SIZE(chain) && n <= 4);
  chain[chains].cookie = cookie;
  chain[chains].n = n;
  memcpy(chain[chains++].segs, segs, n * sizeof(*segs));
  return 0;
}
static u32 answer_chain(unsigned k) { // what the device writes; the used length
  struct virtq_seg *last = &chain[k].segs[chain[k].n - 1];
  if (!last->dev_writes) return 0;
  struct fuse_in_header in;
  memcpy(&in, (void *)chain[k].segs[0].phys, sizeof(in));
  u32 room = last->len, n = MIN(reply_bytes, room);
  struct fuse_out_header out = { .len = n, .unique = in.unique };
  for (u32 i = 0; i < room; i++) ((u8 *)last->phys)[i] = (u8)(i * 7);
  if (mood == BAD_UNIQUE) out.unique += 2;
  if (mood == LEN_TOO_BIG) out.len = n + 1;
  if (mood == LEN_TOO_SMALL) out.len = 15;
  memcpy((void *)last->phys, &out, MIN(sizeof(out), (size_t)n));
  return mood == SHORT ? 10 : n;
}
static bool answer_now = true;
void *virtq_pop(struct virtq *q, u32 *written) {
  if (dev.broken || popped == chains) return NULL;
  *written = answer_chain(popped);
  return chain[popped++].cookie;
}
bool virtq_kick(struct virtq *q) {
  if (mood != NEVER && answer_now) q->irq(q, q->arg);
  return true;
}
void virtq_break(struct virtq *q, const char *why) { dev.broken = true; printk(LOG_ERROR, "%s\n", why); }
bool virtq_broken(struct virtq *q) { return dev.broken; }
void *virtq_drain(struct virtq *q) { return popped < chains ? chain[popped++].cookie : NULL; }

static unsigned free_slots(void) {
  unsigned n = 0;
  struct slot *s;
  list_for_each(s, &fsdev.free_small, link) n++;
  list_for_each(s, &fsdev.free_big, link) n++;
  return n;
}
static unsigned all_slots;

static int request(u32 in_data, u32 out_pages, u32 *out_len, struct mock_page *pages) {
  u8 in[80] = { 0 }, out[32];
  struct page *list[300];
  for (unsigned i = 0; i < 300 && pages; i++) list[i] = &pages[i].page;
  struct fuse_req_io io = { .in = in, .in_len = sizeof(in), .in_pages = list, .in_pages_len = in_data, .out = out, .out_cap = sizeof(out),
                            .out_pages = list, .out_pages_n = 300, .out_pages_len = out_pages };
  int err = fsdev_call(&io, WAIT_INTERRUPTIBLE);
  *out_len = io.out_len;
  return err;
}
static void forget_chains(void) { chains = popped = 0; }

static void test_right(void) {
  struct mock_page *pages = calloc(300, sizeof(*pages));
  u32 len;
  mood = RIGHT;
  reply_bytes = 32 + 10000;
  CHECK(request(0, 12288, &len, pages) == 0 && len == 32 + 10000);
  bool same = true;
  for (u32 i = 0; i < 10000; i++) same &= pages[i / 4096].data[i % 4096] == (u8)((i + 32) * 7);
  CHECK(same && pages[2].data[10000 - 8192] == 0); // nothing beyond what came
  forget_chains();
  for (u32 i = 0; i < 300; i++) memset(pages[i].data, (int)i, PAGE_SIZE);
  reply_bytes = 32;
  CHECK(request(1 << 20, 0, &len, pages) == 0 && len == 32 && chain[0].n == 4); // header, fixed part, data, answer
  CHECK(chain[0].segs[0].len == 40 && chain[0].segs[1].len == 40 && chain[0].segs[2].len == 1 << 20);
  struct fuse_in_header h;
  memcpy(&h, (void *)chain[0].segs[0].phys, sizeof(h));
  CHECK(h.len == 80 + (1 << 20) && ((u8 *)chain[0].segs[2].phys)[4096 * 200 + 5] == 200);
  CHECK(request((1 << 20) + 16384, 0, &len, pages) == -EINVAL); // larger than any buffer
  CHECK(free_slots() == all_slots);
  forget_chains();
  free(pages);
}

static void test_abandoned(void) { // a signal while the device is slow; its answer comes later
  u32 len;
  mood = RIGHT;
  answer_now = false;
  mock_sleep_result = -ERESTARTSYS;
  CHECK(request(0, 0, &len, NULL) == -ERESTARTSYS && free_slots() == all_slots - 1);
  CHECK(request(0, 0, &len, NULL) == -ERESTARTSYS && free_slots() == all_slots - 2);
  queues[1].irq(&queues[1], NULL); // late
  CHECK(free_slots() == all_slots && !dev.broken);
  forget_chains();
  for (unsigned i = 0; i < all_slots; i++) CHECK(request(0, 0, &len, NULL) == -ERESTARTSYS);
  CHECK(free_slots() == 0 && request(0, 0, &len, NULL) == -ERESTARTSYS); // never: no buffer is left, and waiting can be left
  queues[1].irq(&queues[1], NULL);
  CHECK(free_slots() == all_slots);
  forget_chains();
  mock_sleep_result = 1;
  answer_now = true;
}

static void test_forget(void) {
  mood = RIGHT;
  u8 forget[64] = { 0 };
  fsdev_forget(forget, sizeof(forget));
  CHECK(free_slots() == all_slots && chain[chains - 1].n == 2);
  forget_chains();
}

static void test_lies(void) {
  u32 len;
  for (int m = SHORT; m <= LEN_TOO_SMALL; m++) {
    mood = m;
    reply_bytes = 32;
    mock_log[0] = 0;
    CHECK(request(0, 0, &len, NULL) == -EIO && dev.broken && strstr(mock_log, "answer"));
    CHECK(request(0, 0, &len, NULL) == -EIO);
    CHECK(free_slots() == all_slots);
    dev.broken = false;
    forget_chains();
  }
  // What waits when the device ends is told so; what was abandoned is freed.
  u8 in[40] = { 0 }, out[16];
  struct fuse_req_io io = { .in = in, .in_len = 40, .out = out, .out_cap = 16 };
  struct slot *waiting;
  mood = NEVER;
  CHECK(slot_get(request_bytes(&io), WAIT_UNINTERRUPTIBLE, &waiting) == 0 && request_send(waiting, fsdev.request, &io) == 0);
  mock_sleep_result = -ERESTARTSYS;
  CHECK(request(0, 0, &len, NULL) == -ERESTARTSYS);
  mock_sleep_result = 1;
  virtq_break(&queues[1], "a lie elsewhere");
  fsdev_broken(&dev);
  CHECK(waiting->state == SLOT_DONE && reply_take(waiting, &io) == -EIO && free_slots() == all_slots - 1);
  slot_release(waiting);
}

int main(void) {
  fsdev_register();
  CHECK(fsdev_probe(&dev) == 0 && fsdev_present() && fsdev_max_data() == 1 << 20);
  all_slots = free_slots();
  CHECK(all_slots == SMALL_SLOTS + BIG_SLOTS_MAX / 2);
  test_right();
  test_abandoned();
  test_forget();
  test_lies();
  return UNIT_END("drv_fsdev");
}

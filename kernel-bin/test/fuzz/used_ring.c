// SPDX-License-Identifier: Apache-2.0
// A device that writes anything into its ring at any time: the input is a program of pushes, pops, and device writes.
#define main drv_virtqueue_main
#include "../unit/drv_virtqueue.c"
#undef main

int LLVMFuzzerTestOneInput(const u8 *data, size_t size) {
  dev = (struct virtio_dev){ .features = size && data[0] & 1 ? BIT(29) : 0 };
  if (virtq_ring_init(&q, &dev, 0, SIZE)) return 0;
  u32 written;
  uintptr_t cookie = 1;
  for (size_t i = 1; i + 3 < size; i += 4) {
    u32 off = (u32)(data[i + 1] | data[i + 2] << 8) % q.ring.len_bytes;
    switch (data[i] % 6) {
    case 0: if (push(1 + data[i + 1] % 3, data[i + 2], cookie) == 0) cookie++; break;
    case 1: if (virtq_pop(&q, &written) && written > 255) abort(); break;
    case 2: q.ring.va[off] = data[i + 3]; break;
    case 3: virtq_kick(&q); break;
    case 4: dev_used = peek16(q.used_off + 2); dev_give(data[i + 1] % (SIZE + 2), data[i + 2]); break;
    default: if (data[i + 1] & 1) virtq_irq_off(&q); else virtq_irq_on(&q);
    }
    if (q.free_count > SIZE || q.in_flight > SIZE) abort();
  }
  if (dev.broken) {
    unsigned n = 0;
    while (virtq_drain(&q)) n++;
    if (n != q.in_flight) abort();
  }
  virtq_ring_free(&q);
  mock_log[0] = 0;
  return 0;
}

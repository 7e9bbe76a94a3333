// SPDX-License-Identifier: Apache-2.0
//
// Virtio over PCI, modern interface only (virtio 1.2, 4.1): finds devices, negotiates features, creates queues with a
// vector each, and ends a device that lied. Set-up runs at boot on one CPU; virtio_break in any context.

#include "drv/internal.h"

// Common configuration structure (4.1.4.3)
#define CFG_DEVICE_FEATURE_SELECT 0x00
#define CFG_DEVICE_FEATURE 0x04
#define CFG_DRIVER_FEATURE_SELECT 0x08
#define CFG_DRIVER_FEATURE 0x0c
#define CFG_MSIX_CONFIG 0x10
#define CFG_NUM_QUEUES 0x12
#define CFG_STATUS 0x14
#define CFG_QUEUE_SELECT 0x16
#define CFG_QUEUE_SIZE 0x18
#define CFG_QUEUE_MSIX 0x1a
#define CFG_QUEUE_ENABLE 0x1c
#define CFG_QUEUE_NOTIFY_OFF 0x1e
#define CFG_QUEUE_DESC 0x20
#define CFG_QUEUE_DRIVER 0x28
#define CFG_QUEUE_DEVICE 0x30
#define CFG_BYTES 0x38
#define NO_VECTOR 0xffff

#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8
#define STATUS_FAILED 128

#define F_EVENT_IDX BIT(29)
#define F_VERSION_1 BIT(32)
#define F_ACCESS_PLATFORM BIT(33)

static const struct virtio_driver *drivers[8];
static unsigned driver_count;

void virtio_register_driver(const struct virtio_driver *drv) {
  ASSERT(driver_count < ARRAY_SIZE(drivers));
  drivers[driver_count++] = drv;
}

static u8 status_get(struct virtio_dev *d) {
  u8 v; // flags: any value is one
  return host_range8(host_mmio_read8(&d->common, CFG_STATUS), 0, 0xff, &v) ? v : 0;
}

static void status_set(struct virtio_dev *d, u8 v) { host_mmio_write8(&d->common, CFG_STATUS, v); }

// Resets the device. It may never say that it is done: then it is not used.
static int virtio_reset(struct virtio_dev *d) {
  status_set(d, 0);
  for (unsigned i = 0; i < 10000; i++) {
    if (status_get(d) == 0) return 0;
    cpu_relax();
  }
  return -EIO;
}

static void broken_work(struct work *w) {
  struct virtio_dev *d = container_of(w, struct virtio_dev, broken_work);
  status_set(d, 0);
  if (d->on_broken) d->on_broken(d);
}

// Until process 1 starts, nothing could be done with the rest of a machine whose host lies: a TD refuses to run then
// (threat-model T19). An ordinary VM goes on without the device.
static bool boot_over;
void drv_boot_over(void) { WRITE_ONCE(boot_over, true); }

static void refuse_lie(struct virtio_dev *d, const char *why) {
  static char text[128];
  if (!in_td || READ_ONCE(boot_over)) return;
  snprintf(text, sizeof(text), "virtio device %u (type %u) lies at boot: %s", d->slot, d->device_id, why);
  host_fatal(text);
}

void virtio_break(struct virtio_dev *d, const char *why) {
  if (__atomic_exchange_n(&d->broken, true, __ATOMIC_ACQ_REL)) return;
  refuse_lie(d, why);
  printk(LOG_ERROR, "virtio device %u (type %u) ended: %s\n", d->slot, d->device_id, why);
  work_queue(&d->broken_work);
}

static int map_region(struct virtio_dev *d, u8 type, u32 min_bytes, struct host_mmio *m, u32 *extra) {
  struct pci_region r;
  int err = pci_virtio_region(d->pci, type, &r);
  if (err) return err;
  if (r.len < min_bytes) return -EIO;
  *extra = r.extra;
  return host_mmio_map(m, r.phys, r.len);
}

static int negotiate(struct virtio_dev *d, u64 wanted) {
  u64 offered = 0;
  for (u32 half = 0; half < 2; half++) {
    host_mmio_write32(&d->common, CFG_DEVICE_FEATURE_SELECT, half);
    offered |= (u64)host_bits32(host_mmio_read32(&d->common, CFG_DEVICE_FEATURE), ~0u) << (32 * half);
  }
  if (!(offered & F_VERSION_1)) return -EIO;
  d->features = offered & (wanted | F_EVENT_IDX | F_VERSION_1 | F_ACCESS_PLATFORM);
  for (u32 half = 0; half < 2; half++) {
    host_mmio_write32(&d->common, CFG_DRIVER_FEATURE_SELECT, half);
    host_mmio_write32(&d->common, CFG_DRIVER_FEATURE, (u32)(d->features >> (32 * half)));
  }
  status_set(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
  return status_get(d) & STATUS_FEATURES_OK ? 0 : -EIO;
}

static void queue_irq(void *arg) {
  struct virtq *q = arg;
  // Before DRIVER_OK the driver may not know its queue; of one whose set-up failed half-way it never will.
  if (READ_ONCE(q->dev->started) && q->irq) q->irq(q, q->arg);
}

struct virtq *virtq_create(struct virtio_dev *d, u16 index, u16 max_size, void (*irq)(struct virtq *q, void *arg), void *arg,
                           u32 cpu) {
  u16 limit, notify, size = 1;
  struct virtq *q = NULL;
  host_mmio_write16(&d->common, CFG_QUEUE_SELECT, index);
  if (!host_range16(host_mmio_read16(&d->common, CFG_QUEUE_SIZE), 1, 32768, &limit)) return NULL;
  if (!host_range16(host_mmio_read16(&d->common, CFG_QUEUE_NOTIFY_OFF), 0, 0x7fff, &notify)) return NULL;
  u64 notify_off = (u64)notify * d->notify_mult;
  if (notify_off + 2 > d->notify.len_bytes || (notify_off & 1)) return NULL;
  while (size * 2u <= MIN(limit, max_size)) size = (u16)(size * 2u);
  q = kzalloc(sizeof(*q));
  if (!q) return NULL;
  if (virtq_ring_init(q, d, index, size)) {
    kfree(q);
    return NULL;
  }
  q->arg = arg;
  q->notify_off = notify_off;
  // From here on the host can send the interrupt: the queue is never freed, not even when what follows fails.
  if (pci_msix_route(d->pci, index, cpu, queue_irq, q)) {
    printk(LOG_ERROR, "virtio device %u (type %u): no interrupt vector for queue %u\n", d->slot, d->device_id, index);
    return NULL;
  }
  host_mmio_write16(&d->common, CFG_QUEUE_MSIX, index);
  u16 got;
  if (!host_range16(host_mmio_read16(&d->common, CFG_QUEUE_MSIX), index, index, &got)) return NULL;
  host_mmio_write16(&d->common, CFG_QUEUE_SIZE, size);
  host_mmio_write64(&d->common, CFG_QUEUE_DESC, q->ring.phys);
  host_mmio_write64(&d->common, CFG_QUEUE_DRIVER, q->ring.phys + q->avail_off);
  host_mmio_write64(&d->common, CFG_QUEUE_DEVICE, q->ring.phys + q->used_off);
  host_mmio_write16(&d->common, CFG_QUEUE_ENABLE, 1);
  q->irq = irq;
  return q;
}

int virtio_start(struct virtio_dev *d) {
  WRITE_ONCE(d->started, true);
  status_set(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
  return 0;
}

static int device_setup(struct virtio_dev *d, const struct virtio_driver *drv) {
  u32 unused;
  int err = pci_enable(d->pci);
  if (!err) err = map_region(d, VIRTIO_CAP_COMMON, CFG_BYTES, &d->common, &unused);
  if (!err) err = map_region(d, VIRTIO_CAP_NOTIFY, 2, &d->notify, &d->notify_mult);
  if (err) return err;
  err = map_region(d, VIRTIO_CAP_DEVICE, 1, &d->config, &unused);
  if (err && err != -ENOENT) return err;
  err = virtio_reset(d);
  if (err) return err;
  status_set(d, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
  host_mmio_write16(&d->common, CFG_MSIX_CONFIG, NO_VECTOR);
  err = negotiate(d, drv->features);
  if (!err) err = drv->probe(d);
  if (err) status_set(d, STATUS_FAILED);
  return err;
}

static void device_found(struct pci_dev *p) {
  const struct virtio_driver *drv = NULL;
  for (unsigned i = 0; i < driver_count; i++)
    if (drivers[i]->device_id == p->virtio_id) drv = drivers[i];
  struct virtio_dev *d = drv ? kzalloc(sizeof(*d)) : NULL;
  if (!d) {
    kfree(p);
    return;
  }
  d->pci = p;
  d->slot = p->bdf >> 3;
  d->device_id = p->virtio_id;
  work_init(&d->broken_work, broken_work);
  int err = device_setup(d, drv);
  if (err) refuse_lie(d, err == -EIO ? "its answers make no sense" : err == -ENOENT ? "a capability is missing" : "it cannot be set up");
  // A device that failed keeps its memory: an interrupt that the host still sends must find its queue.
  if (err) printk(LOG_ERROR, "virtio device %u (type %u) not used: error %d\n", d->slot, d->device_id, err);
}

void drv_init(void) {
  console_register();
  fsdev_register();
  vsockdev_register();
  pci_scan(device_found);
  tty_init();
}

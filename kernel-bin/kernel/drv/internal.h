// SPDX-License-Identifier: Apache-2.0
#ifndef DRV_INTERNAL_H
#define DRV_INTERNAL_H
#include "drv/drv.h"

// --- PCI (drv/pci.c). Boot only, one CPU: no locks.
struct pci_bar { phys_t base; u64 size; }; // size 0: not a memory BAR, or not placed
struct pci_dev {
  u16 bdf;
  u32 virtio_id;            // 0: not a virtio device
  struct pci_bar bar[6];
  struct host_mmio msix;    // the table
  u32 msix_count;           // entries; 0: no MSI-X
  u64 config_known;         // which dwords of `config` were read: once
  u32 config[64];
};
// A piece of a BAR that a virtio capability names: checked to lie inside the BAR.
struct pci_region { phys_t phys; u32 len; u32 extra; /* notify: offset multiplier */ };
enum { VIRTIO_CAP_COMMON = 1, VIRTIO_CAP_NOTIFY = 2, VIRTIO_CAP_ISR = 3, VIRTIO_CAP_DEVICE = 4 };
void pci_scan(void (*found)(struct pci_dev *p)); // every virtio function of bus 0; p is the callee's to keep or kfree
int __must_check pci_virtio_region(struct pci_dev *p, u8 type, struct pci_region *out); // -ENOENT, -EIO
int __must_check pci_enable(struct pci_dev *p);  // places BARs, finds MSI-X, turns on memory and bus mastering
int __must_check pci_msix_route(struct pci_dev *p, u32 entry, u32 cpu, irq_handler fn, void *arg);

// --- split ring (drv/virtqueue.c)
struct virtq_slot { void *cookie; u32 write_bytes; u16 next; u16 count; }; // private, one per descriptor; cookie: chain head
struct virtq {
  struct virtio_dev *dev;
  u16 index, size;
  bool event_idx;
  void (*irq)(struct virtq *q, void *arg);
  void *arg;
  u64 notify_off;
  struct shared_buf ring;   // descriptors, available ring, used ring
  u32 avail_off, used_off;
  struct spinlock lock;     // RANK_VIRTQ; guards what follows
  bool irq_masked;
  u16 free_head, free_count;
  u16 avail_idx, kicked_idx; // next available index; its value at the last doorbell decision
  u16 last_used, armed_at;   // next used index to look at; the used index at which an interrupt was last asked for
  u16 in_flight;             // chains the device has
  u16 drain_next;
  struct virtq_slot *slots;
};
int __must_check virtq_ring_init(struct virtq *q, struct virtio_dev *d, u16 index, u16 size);
void virtq_ring_free(struct virtq *q);
void virtio_break(struct virtio_dev *d, const char *why); // any context; the first caller logs and schedules on_broken

void tty_init(void);
#endif

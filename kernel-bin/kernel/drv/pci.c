// SPDX-License-Identifier: Apache-2.0
//
// PCI bus 0 without firmware, through the memory-mapped configuration window of q35: finds virtio functions, sizes and
// places their memory BARs, checks their capabilities, routes MSI-X. Runs once at boot on one CPU. Every answer is the
// host's: a function whose answers make no sense is left alone (threat-model T1, T4). What cannot change is read once: each
// access is an exit, and a second answer could be another one.

#include "drv/internal.h"

#define PCI_CONFIG_ADDRESS 0xcf8
#define PCI_CONFIG_DATA 0xcfc
#define REG_PCIEXBAR 0x60           // of the host bridge, 00:00.0
#define PCIEXBAR_ENABLE BIT(0)
#define ECAM_PHYS 0xb0000000u       // docs/devices.md
#define ECAM_BUS_BYTES MIB
#define VENDOR_VIRTIO 0x1af4
#define REG_COMMAND 0x04
#define COMMAND_MEMORY BIT(1)
#define COMMAND_MASTER BIT(2)
#define COMMAND_NO_INTX BIT(10)
#define STATUS_HAS_CAPS BIT(20) // in the dword of command and status
#define CAP_VENDOR 0x09
#define CAP_MSIX 0x11
#define MSIX_ENABLE BIT(31) // in the capability's first dword
#define MSIX_ENTRY_BYTES 16

// Where BARs go: below the I/O APIC and the flash, above low RAM (q35: at most 0xB0000000) and the ECAM window.
static phys_t low_next = 0xc0000000;
static const phys_t low_end = 0xfe000000;
static phys_t high_next; // above RAM; set at the first use
#define BAR_MAX_BYTES GIB

static struct host_mmio ecam; // of bus 0

// The window is off after reset and its register's upper half is zero.
static int ecam_open(void) {
  host_out32(PCI_CONFIG_ADDRESS, (u32)BIT(31) | REG_PCIEXBAR);
  host_out32(PCI_CONFIG_DATA, (u32)(ECAM_PHYS | PCIEXBAR_ENABLE));
  return host_mmio_map(&ecam, ECAM_PHYS, ECAM_BUS_BYTES);
}

static u32 cfg_read(u16 bdf, u32 reg) { return host_bits32(host_mmio_read32(&ecam, (u64)bdf << 12 | (reg & 0xfc)), ~0u); }
static void cfg_write(u16 bdf, u32 reg, u32 v) { host_mmio_write32(&ecam, (u64)bdf << 12 | (reg & 0xfc), v); }

// A dword of the parts that cannot change: identity, capabilities.
static u32 cfg_fixed(struct pci_dev *p, u32 reg) {
  u32 i = reg / 4 % 64;
  if (!bit_test(&p->config_known, i)) p->config[i] = cfg_read(p->bdf, reg);
  bit_set(&p->config_known, i);
  return p->config[i];
}

// The first capability of the list at or after `from` (0: the start) with this id; 0: none. The list is the host's: it
// may loop, so at most as many steps are taken as capabilities fit.
static u32 cap_next(struct pci_dev *p, u32 id, u32 from) {
  if (!(cfg_fixed(p, REG_COMMAND) & STATUS_HAS_CAPS)) return 0;
  u32 at = from ? cfg_fixed(p, from) >> 8 & 0xfc : cfg_fixed(p, 0x34) & 0xfc;
  for (unsigned steps = 0; at >= 0x40 && steps < 48; steps++) {
    u32 v = cfg_fixed(p, at);
    if ((v & 0xff) == id) return at;
    at = v >> 8 & 0xfc;
  }
  return 0;
}

static phys_t place(u64 size, bool can_be_high) {
  phys_t base = ALIGN_UP(low_next, size);
  if (base + size <= low_end) {
    low_next = base + size;
    return base;
  }
  if (!can_be_high) return 0;
  if (!high_next) high_next = ALIGN_UP(4 * GIB + vm_memory_bytes, GIB);
  base = ALIGN_UP(high_next, size);
  high_next = base + size;
  return base;
}

// Sizes and places BAR `i`; returns how many registers it takes.
static unsigned bar_setup(struct pci_dev *p, unsigned i) {
  u32 reg = 0x10 + 4 * i;
  cfg_write(p->bdf, reg, ~0u); // the kind is in bits that do not take a write
  u32 low = cfg_read(p->bdf, reg);
  if (low == 0 || (low & 1)) return 1; // none, or an I/O BAR of a transitional device: not used, decoding stays off
  bool wide = (low & 6) == 4;
  if (wide && i == 5) return 1;
  u64 mask = low & ~0xfu;
  if (wide) {
    cfg_write(p->bdf, reg + 4, ~0u);
    mask |= (u64)cfg_read(p->bdf, reg + 4) << 32;
  } else if (mask) {
    mask |= 0xffffffff00000000ull;
  }
  u64 size = ~mask + 1;
  phys_t base = 0;
  if (mask && (size & (size - 1)) == 0 && size >= 16 && size <= BAR_MAX_BYTES)
    base = place(MAX(size, (u64)PAGE_SIZE), wide);
  if (base) p->bar[i] = (struct pci_bar){ base, size };
  cfg_write(p->bdf, reg, (u32)base);
  if (wide) cfg_write(p->bdf, reg + 4, (u32)(base >> 32));
  return wide ? 2 : 1;
}

// Opens a (BAR, offset, length) triple of the host: the physical range, when it lies inside a placed BAR.
static bool bar_range(const struct pci_dev *p, u32 bir, u64 offset, u64 len, phys_t *phys) {
  if (bir > 5 || len == 0 || p->bar[bir].size == 0) return false;
  if (offset > p->bar[bir].size || len > p->bar[bir].size - offset) return false;
  *phys = p->bar[bir].base + offset;
  return true;
}

int pci_virtio_region(struct pci_dev *p, u8 type, struct pci_region *out) {
  unsigned steps = 0;
  for (u32 cap = cap_next(p, CAP_VENDOR, 0); cap && steps < 48; cap = cap_next(p, CAP_VENDOR, cap), steps++) {
    if (cap > 0xf0 || cfg_fixed(p, cap) >> 24 != type) continue;
    u32 bir = cfg_fixed(p, cap + 4) & 0xff, offset = cfg_fixed(p, cap + 8), len = cfg_fixed(p, cap + 12);
    out->extra = type == VIRTIO_CAP_NOTIFY && cap <= 0xec ? cfg_fixed(p, cap + 16) : 0;
    out->len = MIN(len, 0x10000u); // more than any structure here needs
    if (!bar_range(p, bir, offset, out->len, &out->phys)) return -EIO;
    return 0;
  }
  return -ENOENT;
}

// After reset nothing decodes and every vector is masked.
int pci_enable(struct pci_dev *p) {
  for (unsigned i = 0; i < 6;) i += bar_setup(p, i);
  cfg_write(p->bdf, REG_COMMAND, (u32)(COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX));
  u32 cap = cap_next(p, CAP_MSIX, 0);
  if (!cap || cap > 0xf4) return -EIO;
  u32 count = (cfg_fixed(p, cap) >> 16 & 0x7ff) + 1;
  u32 bir = cfg_fixed(p, cap + 4) & 7, offset = cfg_fixed(p, cap + 4) & ~7u;
  phys_t phys;
  if (!bar_range(p, bir, offset, (u64)count * MSIX_ENTRY_BYTES, &phys)) return -EIO;
  int err = host_mmio_map(&p->msix, phys, (u64)count * MSIX_ENTRY_BYTES);
  if (err) return err;
  p->msix_count = count;
  cfg_write(p->bdf, cap, (u32)MSIX_ENABLE);
  return 0;
}

int pci_msix_route(struct pci_dev *p, u32 entry, u32 cpu, irq_handler fn, void *arg) {
  if (entry >= p->msix_count) return -ENOSPC;
  u64 addr;
  u32 data;
  int err = irq_alloc(cpu, fn, arg, &addr, &data);
  if (err) return err;
  u64 at = (u64)entry * MSIX_ENTRY_BYTES;
  host_mmio_write64(&p->msix, at, addr);
  host_mmio_write64(&p->msix, at + 8, data); // and the mask bit cleared
  return 0;
}

// Modern ids are 0x1040 + type; a transitional device (0x1000..0x103f) tells its type as the subsystem id.
static u32 virtio_id_of(u16 bdf, u32 id) {
  u32 device = id >> 16;
  if ((id & 0xffff) != VENDOR_VIRTIO || device < 0x1000 || device >= 0x1080) return 0;
  return device >= 0x1040 ? device - 0x1040 : cfg_read(bdf, 0x2c) >> 16;
}

void pci_scan(void (*found)(struct pci_dev *p)) {
  if (ecam_open()) return;
  for (unsigned slot = 0; slot < 32; slot++) {
    for (unsigned fn = 0; fn < 8; fn++) {
      u16 bdf = (u16)(slot << 3 | fn);
      u32 id = cfg_read(bdf, 0);
      if (fn == 0 && (id & 0xffff) == 0xffff) break;
      u32 virtio_id = virtio_id_of(bdf, id);
      if (virtio_id) {
        struct pci_dev *p = kzalloc(sizeof(*p));
        if (!p) return;
        p->bdf = bdf;
        p->virtio_id = virtio_id;
        found(p);
      }
      if (fn == 0 && !(cfg_read(bdf, 0x0c) & BIT(23))) break; // header type: one function only
    }
  }
}

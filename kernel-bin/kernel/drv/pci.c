// SPDX-License-Identifier: Apache-2.0
//
// PCI bus 0 without firmware, through the CF8/CFC window: finds virtio functions, sizes and places their memory BARs,
// checks their capabilities, routes MSI-X. Runs once at boot on one CPU. Every answer is the host's: a function whose
// answers make no sense is left alone (threat-model T1, T4).

#include "drv/internal.h"

#define PCI_CONFIG_ADDRESS 0xcf8
#define PCI_CONFIG_DATA 0xcfc
#define VENDOR_VIRTIO 0x1af4
#define REG_COMMAND 0x04
#define COMMAND_MEMORY BIT(1)
#define COMMAND_MASTER BIT(2)
#define COMMAND_NO_INTX BIT(10)
#define STATUS_HAS_CAPS BIT(20) // in the dword of command and status
#define CAP_VENDOR 0x09
#define CAP_MSIX 0x11
#define MSIX_ENABLE BIT(31) // in the capability's first dword
#define MSIX_MASK_ALL BIT(30)
#define MSIX_ENTRY_BYTES 16

// Where BARs go: below the I/O APIC and the flash, above low RAM (q35: at most 0xB0000000) and the ECAM window.
static phys_t low_next = 0xc0000000;
static const phys_t low_end = 0xfe000000;
static phys_t high_next; // above RAM; set at the first use
#define BAR_MAX_BYTES GIB

static host_u32 cfg_read(u16 bdf, u8 reg) {
  host_out32(PCI_CONFIG_ADDRESS, (u32)(BIT(31) | (u32)bdf << 8 | (reg & 0xfcu)));
  return host_in32(PCI_CONFIG_DATA);
}

static void cfg_write(u16 bdf, u8 reg, u32 v) {
  host_out32(PCI_CONFIG_ADDRESS, (u32)(BIT(31) | (u32)bdf << 8 | (reg & 0xfcu)));
  host_out32(PCI_CONFIG_DATA, v);
}

static u32 cfg_bits(u16 bdf, u8 reg, u32 mask) { return host_bits32(cfg_read(bdf, reg), mask); }

// One field of a dword, shifted down.
static u32 cfg_field(u16 bdf, u8 reg, unsigned shift, u32 mask) {
  return host_bits32(cfg_read(bdf, reg), mask << shift) >> shift;
}

// The first capability of the list at or after `from` (0: the start) with this id; 0: none. The list is the host's: it
// may loop, so at most as many steps are taken as capabilities fit.
static u8 cap_next(u16 bdf, u8 id, u8 from) {
  if (!cfg_bits(bdf, REG_COMMAND, STATUS_HAS_CAPS)) return 0;
  u32 at = from ? cfg_field(bdf, from, 8, 0xfc) : cfg_field(bdf, 0x34, 0, 0xfc);
  for (unsigned steps = 0; at >= 0x40 && steps < 48; steps++) {
    if (cfg_field(bdf, (u8)at, 0, 0xff) == id) return (u8)at;
    at = cfg_field(bdf, (u8)at, 8, 0xfc);
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
  u8 reg = (u8)(0x10 + 4 * i);
  u32 kind = cfg_bits(p->bdf, reg, 0xf);
  if (kind & 1) return 1; // an I/O BAR of a transitional device: not used, decoding stays off
  bool wide = (kind & 6) == 4;
  if (wide && i == 5) return 1;
  cfg_write(p->bdf, reg, ~0u);
  u64 mask = cfg_bits(p->bdf, reg, ~0xfu);
  if (wide) {
    cfg_write(p->bdf, (u8)(reg + 4), ~0u);
    mask |= (u64)cfg_bits(p->bdf, (u8)(reg + 4), ~0u) << 32;
  } else if (mask) {
    mask |= 0xffffffff00000000ull;
  }
  u64 size = ~mask + 1;
  phys_t base = 0;
  if (mask && (size & (size - 1)) == 0 && size >= 16 && size <= BAR_MAX_BYTES)
    base = place(MAX(size, (u64)PAGE_SIZE), wide);
  if (base) p->bar[i] = (struct pci_bar){ base, size };
  cfg_write(p->bdf, reg, (u32)base);
  if (wide) cfg_write(p->bdf, (u8)(reg + 4), (u32)(base >> 32));
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
  for (u8 cap = cap_next(p->bdf, CAP_VENDOR, 0); cap && steps < 48; cap = cap_next(p->bdf, CAP_VENDOR, cap), steps++) {
    if (cap > 0xf0 || cfg_field(p->bdf, cap, 24, 0xff) != type) continue;
    u32 bir = cfg_field(p->bdf, (u8)(cap + 4), 0, 0xff);
    u32 offset = cfg_bits(p->bdf, (u8)(cap + 8), ~0u), len = cfg_bits(p->bdf, (u8)(cap + 12), ~0u);
    out->extra = type == VIRTIO_CAP_NOTIFY && cap <= 0xec ? cfg_bits(p->bdf, (u8)(cap + 16), ~0u) : 0;
    out->len = MIN(len, 0x10000u); // more than any structure here needs
    if (!bar_range(p, bir, offset, out->len, &out->phys)) return -EIO;
    return 0;
  }
  return -ENOENT;
}

int pci_enable(struct pci_dev *p) {
  cfg_write(p->bdf, REG_COMMAND, 0); // nothing decodes while BARs are sized
  for (unsigned i = 0; i < 6;) i += bar_setup(p, i);
  cfg_write(p->bdf, REG_COMMAND, (u32)(COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX));
  u8 cap = cap_next(p->bdf, CAP_MSIX, 0);
  if (!cap || cap > 0xf4) return -EIO;
  u32 count = cfg_field(p->bdf, cap, 16, 0x7ff) + 1;
  u32 bir = cfg_bits(p->bdf, (u8)(cap + 4), 7), offset = cfg_bits(p->bdf, (u8)(cap + 4), ~7u);
  phys_t phys;
  if (!bar_range(p, bir, offset, (u64)count * MSIX_ENTRY_BYTES, &phys)) return -EIO;
  int err = host_mmio_map(&p->msix, phys, (u64)count * MSIX_ENTRY_BYTES);
  if (err) return err;
  p->msix_cap = cap;
  p->msix_count = count;
  for (u32 i = 0; i < count; i++) host_mmio_write32(&p->msix, (u64)i * MSIX_ENTRY_BYTES + 12, 1); // masked
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
  host_mmio_write32(&p->msix, at, (u32)addr);
  host_mmio_write32(&p->msix, at + 4, (u32)(addr >> 32));
  host_mmio_write32(&p->msix, at + 8, data);
  host_mmio_write32(&p->msix, at + 12, 0);
  return 0;
}

// Modern ids are 0x1040 + type; a transitional device (0x1000..0x103f) tells its type as the subsystem id.
static u32 virtio_id_of(u16 bdf) {
  u32 device = cfg_field(bdf, 0, 16, 0xffff);
  if (device >= 0x1040 && device < 0x1080) return device - 0x1040;
  if (device >= 0x1000 && device < 0x1040) return cfg_field(bdf, 0x2c, 16, 0xffff);
  return 0;
}

void pci_scan(void (*found)(struct pci_dev *p)) {
  for (unsigned slot = 0; slot < 32; slot++) {
    for (unsigned fn = 0; fn < 8; fn++) {
      u16 bdf = (u16)(slot << 3 | fn);
      u32 vendor = cfg_field(bdf, 0, 0, 0xffff);
      if (fn == 0 && vendor == 0xffff) break;
      if (vendor == VENDOR_VIRTIO && virtio_id_of(bdf)) {
        struct pci_dev *p = kzalloc(sizeof(*p));
        if (!p) return;
        p->bdf = bdf;
        p->virtio_id = virtio_id_of(bdf);
        found(p);
      }
      if (fn == 0 && !cfg_field(bdf, 0x0c, 23, 1)) break; // header type: one function only
    }
  }
}

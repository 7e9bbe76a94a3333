// SPDX-License-Identifier: Apache-2.0
// PCI set-up against a configuration space as q35 has it, and against one that answers anything: whatever is mapped lies
// in the device window, apart from everything else, and nobody waits for ever.
#include "dev_mock.h"

u64 vm_memory_bytes = GIB;
#define WINDOW_FIRST 0xb0000000ul
#define WINDOW_END 0xfec00000ul
static u32 space[32][64], sizes[32][6]; // configuration space by slot; a BAR's writable bits
static const u8 *noise;                 // answers instead, when there are any
static size_t noise_left;
static unsigned accesses, mapped, msix_writes;

void host_out32(u16 port, u32 v) { CHECK(port == 0xcf8 ? v == 0x80000060 : port == 0xcfc && v == 0xb0000001); }
int host_mmio_map(struct host_mmio *m, phys_t phys, u64 len) {
  if (phys < WINDOW_FIRST || phys >= WINDOW_END || !len || len > WINDOW_END - phys) return -EINVAL; // as host/ports.c
  mapped++;
  *m = (struct host_mmio){ NULL, len, phys };
  return 0;
}
host_u32 host_mmio_read32(const struct host_mmio *m, u64 off) {
  accesses++;
  ASSERT(m->phys == 0xb0000000 && off + 4 <= m->len_bytes && off % 4 == 0);
  if (noise) {
    u32 v = 0;
    size_t n = MIN(noise_left, (size_t)4);
    memcpy(&v, noise, n);
    noise += n;
    noise_left -= n;
    return (host_u32){ v };
  }
  u64 slot = off >> 15, fn = off >> 12 & 7, reg = off / 4 % 64;
  return (host_u32){ fn ? ~0u : space[slot][reg] };
}
void host_mmio_write32(const struct host_mmio *m, u64 off, u32 v) {
  accesses++;
  ASSERT(off % 4 == 0 && off + 4 <= m->len_bytes);
  if (m->phys != 0xb0000000) return;
  u64 slot = off >> 15, reg = off / 4 % 64;
  if (off >> 12 & 7) return;
  if (reg >= 4 && reg < 10) space[slot][reg] = (v & sizes[slot][reg - 4]) | (space[slot][reg] & 0xf & ~sizes[slot][reg - 4]);
  else if (reg == 1) space[slot][1] = (space[slot][1] & 0xffff0000) | (v & 0xffff);
}
void host_mmio_write64(const struct host_mmio *m, u64 off, u64 v) {
  ASSERT(off % 8 == 0 && off + 8 <= m->len_bytes);
  msix_writes++;
}
int irq_alloc(u32 cpu, irq_handler fn, void *arg, u64 *addr, u32 *data) {
  *addr = 0xfee00000, *data = 0x30;
  return 0;
}
#include "../../kernel/drv/pci.c"

static struct pci_dev *found[256];
static unsigned found_n;
static int enabled[256];
static void on_found(struct pci_dev *p) {
  found[found_n] = p;
  enabled[found_n++] = pci_enable(p);
}

static void scan(void) {
  for (unsigned i = 0; i < found_n; i++) free(found[i]);
  found_n = accesses = mapped = msix_writes = 0;
  low_next = 0xc0000000;
  high_next = 0;
  pci_scan(on_found);
}

// A modern virtio device as QEMU's: BAR 1 with the MSI-X table, BAR 4 (64 bits) with the structures.
static void put_device(unsigned slot, u32 type) {
  u32 *c = space[slot];
  memset(c, 0, 256);
  memset(sizes[slot], 0, sizeof(sizes[slot]));
  c[0] = 0x1af4 | (0x1040 + type) << 16;
  c[1] = 0x00100000; // a list of capabilities
  c[13] = 0x98;
  sizes[slot][1] = 0xfffff000;
  c[8] = 0xc, sizes[slot][4] = 0xffffc000, sizes[slot][5] = ~0u;
  static const struct { u8 at, next, type; u32 off, len; } caps[] = {
    { 0x84, 0x70, 2, 0x3000, 0x1000 }, { 0x70, 0x60, 4, 0x2000, 0x1000 }, { 0x60, 0x50, 3, 0x1000, 0x1000 }, { 0x50, 0x40, 1, 0, 0x1000 },
  };
  c[0x98 / 4] = 0x11 | 0x84 << 8 | 4u << 16; // 5 vectors
  c[0x98 / 4 + 1] = 1;
  for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
    u32 *cap = &c[caps[i].at / 4];
    cap[0] = 9 | (u32)caps[i].next << 8 | 16u << 16 | (u32)caps[i].type << 24;
    cap[1] = 4;
    cap[2] = caps[i].off;
    cap[3] = caps[i].len;
    if (caps[i].type == 2) cap[4] = 4; // notify multiplier
  }
  c[0x40 / 4] = 5;
}

static void empty_bus(void) {
  memset(space, 0xff, sizeof(space));
  memset(sizes, 0, sizeof(sizes));
  noise = NULL;
}

static void finds_devices(void) {
  empty_bus();
  put_device(1, 3);
  put_device(2, 19);
  memset(space[0], 0, 256);
  space[0][0] = 0x29c08086;
  scan();
  CHECK(found_n == 2 && enabled[0] == 0 && enabled[1] == 0);
  CHECK(found[0]->virtio_id == 3 && found[1]->virtio_id == 19 && found[0]->msix_count == 5);
  struct pci_region r;
  CHECK(pci_virtio_region(found[0], VIRTIO_CAP_COMMON, &r) == 0 && r.len == 0x1000 && r.phys == found[0]->bar[4].base);
  CHECK(pci_virtio_region(found[0], VIRTIO_CAP_NOTIFY, &r) == 0 && r.extra == 4 && r.phys == found[0]->bar[4].base + 0x3000);
  CHECK(found[0]->bar[4].base != found[1]->bar[4].base && found[0]->bar[4].base % 0x4000 == 0);
  CHECK(pci_msix_route(found[0], 4, 0, NULL, NULL) == 0 && msix_writes == 2);
  CHECK(pci_msix_route(found[0], 5, 0, NULL, NULL) == -ENOSPC);
  unsigned before = accesses; // what was read once is not read again
  CHECK(pci_virtio_region(found[0], VIRTIO_CAP_NOTIFY, &r) == 0 && accesses == before);
  CHECK((space[1][1] & 0x406) == 0x406 && space[1][4 + 4] == (found[0]->bar[4].base | 0xc));
  CHECK(accesses < 150); // each is an exit
}

static void refuses_what_makes_no_sense(void) {
  struct pci_region r;
  static const struct { u8 dword; u32 value; } wrong[] = {
    { 0x98 / 4 + 1, 7 }, { 0x98 / 4 + 1, 2 }, { 0x98 / 4 + 1, 0xffffe001 }, { 0x98 / 4, 0x11 | 0x7ffu << 16 }, { 1, 0 }, { 13, 0 },
  };
  for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
    empty_bus();
    put_device(1, 3);
    space[1][wrong[i].dword] = wrong[i].value;
    scan();
    CHECK(found_n == 1 && enabled[0] == -EIO);
  }
  static const struct { u8 dword; u32 value; } outside[] = { // of the notify structure
    { 0x84 / 4 + 1, 3 }, { 0x84 / 4 + 1, 0xff }, { 0x84 / 4 + 2, 0x4000 }, { 0x84 / 4 + 2, 0xffffffff }, { 0x84 / 4 + 3, 0xffffffff },
    { 0x84 / 4 + 3, 0 },
  };
  for (size_t i = 0; i < ARRAY_SIZE(outside); i++) {
    empty_bus();
    put_device(1, 3);
    space[1][outside[i].dword] = outside[i].value;
    scan();
    CHECK(enabled[0] == 0 && pci_virtio_region(found[0], VIRTIO_CAP_NOTIFY, &r) == -EIO);
  }
  empty_bus(); // a list that loops
  put_device(1, 3);
  space[1][0x98 / 4] = 0x12 | 0x98 << 8;
  scan();
  CHECK(enabled[0] == -EIO && accesses < 200);
  CHECK(pci_virtio_region(found[0], VIRTIO_CAP_COMMON, &r) == -ENOENT);
}

static void survives(const u8 *bytes, size_t n) {
  empty_bus();
  noise = bytes;
  noise_left = n;
  scan();
  if (accesses > 32 * 8 * 200) abort();
  struct pci_region r;
  for (unsigned i = 0; i < found_n; i++) {
    for (u8 type = 1; type < 5; type++) {
      if (pci_virtio_region(found[i], type, &r)) continue;
      bool inside = false;
      for (unsigned b = 0; b < 6; b++)
        inside |= found[i]->bar[b].size && r.phys >= found[i]->bar[b].base && r.phys + r.len <= found[i]->bar[b].base + found[i]->bar[b].size;
      if (!inside || r.len > 0x10000) abort();
    }
    for (unsigned b = 0; b < 6; b++)
      for (unsigned k = 0; k < (i + 1) * 6; k++) { // apart from each other, from RAM, from the ECAM window
        const struct pci_bar *x = &found[i]->bar[b], *y = &found[k / 6]->bar[k % 6];
        if (!x->size) continue;
        if (x->base < 0xc0000000 || (x->base < 4 * GIB && x->base + x->size > 0xfe000000)) abort();
        if (x->base >= 4 * GIB && x->base < 4 * GIB + vm_memory_bytes) abort();
        if (x != y && y->size && x->base < y->base + y->size && y->base < x->base + x->size) abort();
      }
  }
  noise = NULL;
}

#ifndef PCI_FUZZ
int main(void) {
  finds_devices();
  refuses_what_makes_no_sense();
  static u8 bytes[4096];
  for (unsigned i = 0; i < 3000; i++) {
    for (size_t at = 0; at < sizeof(bytes); at++) bytes[at] = (u8)unit_random();
    for (size_t at = 0; at + 4 <= sizeof(bytes); at += 4) // often enough a virtio device
      if (unit_random() % 8 == 0) memcpy(bytes + at, &(u32){ 0x10431af4 }, 4);
    survives(bytes, sizeof(bytes));
  }
  CHECK(true);
  for (unsigned i = 0; i < found_n; i++) free(found[i]);
  return UNIT_END("drv_pci");
}
#endif

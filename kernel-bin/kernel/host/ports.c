// SPDX-License-Identifier: Apache-2.0
//
// Ports and device memory, from closed lists. An ordinary VM uses the instructions; a TD will use TDVMCALLs here.
// Asking for anything that is not listed is our bug: it stops the machine.
#include "host/internal.h"

static const struct { u16 first, last; } ports[] = {
  { 0x20, 0x21 }, { 0xa0, 0xa1 }, // PIC, to mask it
  { 0x3f8, 0x3ff },               // COM1
  { 0x604, 0x605 },               // PM1a control: power-off
  { 0xcf8, 0xcff },               // PCI configuration
};
// Device memory: ECAM and the PCI windows of q35. No RAM is ever there (page/early.c knows the same rule).
#define MMIO_FIRST 0xb0000000ul
#define MMIO_END 0xfec00000ul

static void *(*mapper)(phys_t pa, size_t len, u64 prot);

static void check_port(u16 port, u16 size) {
  for (size_t i = 0; i < ARRAY_SIZE(ports); i++)
    if (port >= ports[i].first && port + size - 1 <= ports[i].last) return;
  panic("port %#x is not on the list", port);
}

host_u8 host_in8(u16 port) {
  host_u8 w;
  check_port(port, 1);
  __asm__ volatile("inb %1, %0" : "=a"(w.v_) : "Nd"(port) : "memory");
  return w;
}
host_u16 host_in16(u16 port) {
  host_u16 w;
  check_port(port, 2);
  __asm__ volatile("inw %1, %0" : "=a"(w.v_) : "Nd"(port) : "memory");
  return w;
}
host_u32 host_in32(u16 port) {
  host_u32 w;
  check_port(port, 4);
  __asm__ volatile("inl %1, %0" : "=a"(w.v_) : "Nd"(port) : "memory");
  return w;
}
void host_out8(u16 port, u8 v) {
  check_port(port, 1);
  __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
void host_out16(u16 port, u16 v) {
  check_port(port, 2);
  __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
void host_out32(u16 port, u32 v) {
  check_port(port, 4);
  __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

void host_set_mapper(void *(*map)(phys_t pa, size_t len, u64 prot)) { mapper = map; }

int host_mmio_map(struct host_mmio *m, phys_t phys, u64 len_bytes) {
  if (phys < MMIO_FIRST || phys >= MMIO_END || len_bytes == 0 || len_bytes > MMIO_END - phys) return -EINVAL;
  u64 first = ALIGN_DOWN(phys, PAGE_SIZE), end = ALIGN_UP(phys + len_bytes, PAGE_SIZE);
  u8 *va = mapper(first, end - first, PTE_W | PTE_NX | PTE_PCD | pte_shared_bit);
  if (!va) return -ENOMEM;
  *m = (struct host_mmio){ va + (phys - first), len_bytes, phys };
  return 0;
}

// The offsets are the driver's, checked against the region it mapped; the values are the device's.
static volatile void *at(const struct host_mmio *m, u64 off, u64 size) {
  ASSERT(off <= m->len_bytes && size <= m->len_bytes - off && off % size == 0);
  return (volatile u8 *)m->base + off;
}
// One fixed instruction each, so that a TD's VMM, or an emulating one, sees the plainest access.
host_u8 host_mmio_read8(const struct host_mmio *m, u64 off) {
  host_u8 w;
  __asm__ volatile("movb (%1), %0" : "=q"(w.v_) : "r"(at(m, off, 1)) : "memory");
  return w;
}
host_u16 host_mmio_read16(const struct host_mmio *m, u64 off) {
  host_u16 w;
  __asm__ volatile("movw (%1), %0" : "=r"(w.v_) : "r"(at(m, off, 2)) : "memory");
  return w;
}
host_u32 host_mmio_read32(const struct host_mmio *m, u64 off) {
  host_u32 w;
  __asm__ volatile("movl (%1), %0" : "=r"(w.v_) : "r"(at(m, off, 4)) : "memory");
  return w;
}
host_u64 host_mmio_read64(const struct host_mmio *m, u64 off) {
  host_u64 w;
  __asm__ volatile("movq (%1), %0" : "=r"(w.v_) : "r"(at(m, off, 8)) : "memory");
  return w;
}
void host_mmio_write8(const struct host_mmio *m, u64 off, u8 v) {
  __asm__ volatile("movb %0, (%1)" ::"q"(v), "r"(at(m, off, 1)) : "memory");
}
void host_mmio_write16(const struct host_mmio *m, u64 off, u16 v) {
  __asm__ volatile("movw %0, (%1)" ::"r"(v), "r"(at(m, off, 2)) : "memory");
}
void host_mmio_write32(const struct host_mmio *m, u64 off, u32 v) {
  __asm__ volatile("movl %0, (%1)" ::"r"(v), "r"(at(m, off, 4)) : "memory");
}
void host_mmio_write64(const struct host_mmio *m, u64 off, u64 v) {
  __asm__ volatile("movq %0, (%1)" ::"r"(v), "r"(at(m, off, 8)) : "memory");
}

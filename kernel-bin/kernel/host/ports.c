// SPDX-License-Identifier: Apache-2.0
//
// Ports and device memory, from closed lists. An ordinary VM uses the instructions, a TD asks the host with TDVMCALLs:
// device memory is not even mapped there. Asking for anything that is not listed is our bug: it stops the machine.
#include "host/internal.h"
#include "arch/tdx.h"

enum { VMCALL_IO = 0x1e, VMCALL_MMIO = 0x30 };

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

static u64 td_io(bool write, u64 port, u64 size, u64 v) {
  struct tdx_vmcall out;
  u64 r10 = tdx_vmcall_retry(VMCALL_IO, size, write, port, v, &out);
  if (r10) tdx_refused("port", port, r10);
  return r10 ? ~0ul : out.r11;
}

host_u8 host_in8(u16 port) {
  host_u8 w;
  check_port(port, 1);
  if (in_td) w.v_ = (u8)td_io(false, port, 1, 0);
  else __asm__ volatile("inb %1, %0" : "=a"(w.v_) : "Nd"(port) : "memory");
  return w;
}
void host_out8(u16 port, u8 v) {
  check_port(port, 1);
  if (in_td) td_io(true, port, 1, v);
  else __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
void host_out16(u16 port, u16 v) {
  check_port(port, 2);
  if (in_td) td_io(true, port, 2, v);
  else __asm__ volatile("outw %0, %1" ::"a"(v), "Nd"(port) : "memory");
}
void host_out32(u16 port, u32 v) {
  check_port(port, 4);
  if (in_td) td_io(true, port, 4, v);
  else __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port) : "memory");
}

void host_set_mapper(void *(*map)(phys_t pa, size_t len, u64 prot)) { mapper = map; }

int host_mmio_map(struct host_mmio *m, phys_t phys, u64 len_bytes) {
  if (phys < MMIO_FIRST || phys >= MMIO_END || len_bytes == 0 || len_bytes > MMIO_END - phys) return -EINVAL;
  u64 first = ALIGN_DOWN(phys, PAGE_SIZE), end = ALIGN_UP(phys + len_bytes, PAGE_SIZE);
  if (in_td) {
    *m = (struct host_mmio){ NULL, len_bytes, phys };
    return 0;
  }
  u8 *va = mapper(first, end - first, PTE_W | PTE_NX | PTE_PCD);
  if (!va) return -ENOMEM;
  *m = (struct host_mmio){ va + (phys - first), len_bytes, phys };
  return 0;
}

// The offsets are the driver's, checked against the region it mapped; the values are the device's.
static volatile void *at(const struct host_mmio *m, u64 off, u64 size) {
  ASSERT(off <= m->len_bytes && size <= m->len_bytes - off && off % size == 0);
  return (volatile u8 *)m->base + off;
}
static u64 td_mmio(bool write, const struct host_mmio *m, u64 off, u64 size, u64 v) {
  struct tdx_vmcall out;
  (void)at(m, off, size);
  u64 r10 = tdx_vmcall_retry(VMCALL_MMIO, size, write, (m->phys + off) | pte_shared_bit, v, &out);
  if (r10) tdx_refused("device memory", m->phys + off, r10);
  return r10 ? ~0ul : out.r11;
}

// One fixed instruction each, so that an emulating VMM sees the plainest access.
#define MMIO(bits, suffix, constraint) \
  host_u##bits host_mmio_read##bits(const struct host_mmio *m, u64 off) { \
    host_u##bits w; \
    if (in_td) w.v_ = (u##bits)td_mmio(false, m, off, bits / 8, 0); \
    else __asm__ volatile("mov" suffix " (%1), %0" : "=" constraint(w.v_) : "r"(at(m, off, bits / 8)) : "memory"); \
    return w; \
  } \
  void host_mmio_write##bits(const struct host_mmio *m, u64 off, u##bits v) { \
    if (in_td) (void)td_mmio(true, m, off, bits / 8, v); \
    else __asm__ volatile("mov" suffix " %0, (%1)" ::constraint(v), "r"(at(m, off, bits / 8)) : "memory"); \
  }
MMIO(8, "b", "q")
MMIO(16, "w", "r")
MMIO(32, "l", "r")
MMIO(64, "q", "r")

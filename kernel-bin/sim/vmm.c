// SPDX-License-Identifier: Apache-2.0
//
// The host's VMM: TDVMCALLs as KVM and QEMU answer them (GHCI 1.5). Ports and device memory are the machine's own, but
// for those of the simulator. The VMM sees only the registers that the TD exposes.
#include "sim/sim.h"

enum { CPUID = 0xa, HLT = 0xc, IO = 0x1e, RDMSR = 0x1f, WRMSR = 0x20, MMIO = 0x30, INFO = 0x10000, MAP_GPA = 0x10001, GET_QUOTE = 0x10002,
  FATAL_ERROR = 0x10003, NOTIFY = 0x10004 };
#define IO_APIC 0xfec00000ul
#define DEVICES_FIRST 0xb0000000ul
#define DEVICES_END 0xff000000ul

static u64 get_cpuid(struct vcpu *v, u64 *r) {
  count(v, EXIT_CPUID);
  struct cpuid c = vmm_cpuid(v, (u32)r[R12], (u32)r[R13]);
  r[R12] = c.eax;
  r[R13] = c.ebx;
  r[R14] = c.ecx;
  r[R15] = c.edx;
  return VMCALL_SUCCESS;
}

static u64 halt(struct vcpu *v) {
  count(v, EXIT_HLT);
  if (lie(v, LIE_WAKE)) return VMCALL_SUCCESS;
  if (!READ_ONCE(v->nmi_pending)) vcpu_wait(v);
  if (v->index == 0) serial_poll();
  return VMCALL_SUCCESS;
}

// fw_cfg has the simulator's secrets, and two of the serial ports are its own.
static bool port_is_hidden(u64 port, u64 size) {
  static const struct { u16 first, last; } hidden[] = { { 0x2f8, 0x2ff }, { 0x3e8, 0x3ef }, { 0x510, 0x51b } };
  for (u32 i = 0; i < ARRAY_SIZE(hidden); i++)
    if (!(td.fwcfg && hidden[i].first == 0x510) && port + size > hidden[i].first && port <= hidden[i].last) return true;
  return false;
}

// The size of memory in CMOS is the outer machine's: the TD reads its own (64 KiB units above 16 MiB, and above 4 GiB).
static bool cmos_read(struct vcpu *v, u8 *value) {
  u64 low = (MIN(td.low_end, 0xc0000000ul) - 16 * MIB) >> 16, high = (td.high_end - 4 * GIB) >> 16;
  switch (v->cmos_index) {
  case 0x34: case 0x35: *value = (u8)(low >> 8 * (v->cmos_index - 0x34)); return true;
  case 0x5b ... 0x5d: *value = (u8)(high >> 8 * (v->cmos_index - 0x5b)); return true;
  default: return false;
  }
}

static u64 port_io(struct vcpu *v, u64 *r) {
  u64 size = r[R12], port = r[R14], value = r[R15];
  count(v, EXIT_IO);
  if ((size != 1 && size != 2 && size != 4) || r[R13] > 1 || port > 0xffff) return VMCALL_INVALID_OPERAND;
  if (port_is_hidden(port, size)) {
    if (!r[R13]) r[R11] = BIT(8 * size) - 1;
    return VMCALL_SUCCESS;
  }
  u8 cmos;
  if (port == 0x70 && r[R13]) v->cmos_index = value & 0x7f;
  if (port == 0x71 && !r[R13] && cmos_read(v, &cmos)) {
    r[R11] = cmos;
    return VMCALL_SUCCESS;
  }
  if (r[R13]) {
    bool off = (port == 0x604 && (value & 0x2000)) || port == 0xcf9 || port == 0xf4 || (port == 0x64 && (u8)value == 0xfe);
    if (off) machine_stop(port == 0xf4 ? (u32)value : 0);
    if (size == 1) out8((u16)port, (u8)value);
    else if (size == 2) out16((u16)port, (u16)value);
    else out32((u16)port, (u32)value);
  } else {
    r[R11] = size == 1 ? in8((u16)port) : size == 2 ? in16((u16)port) : in32((u16)port);
  }
  return VMCALL_SUCCESS;
}

static u64 get_msr(struct vcpu *v, u64 *r) {
  u64 value = 0;
  count(v, EXIT_RDMSR);
  if (r[R12] >> 32 || !vmm_rdmsr(v, (u32)r[R12], &value)) return VMCALL_INVALID_OPERAND;
  r[R11] = value;
  return VMCALL_SUCCESS;
}

static u64 set_msr(struct vcpu *v, u64 *r) {
  count(v, r[R12] == 0x830 ? EXIT_WRMSR_ICR : r[R12] == 0x838 || r[R12] == 0x6e0 ? EXIT_WRMSR_TIMER : EXIT_WRMSR);
  return r[R12] >> 32 || !vmm_wrmsr(v, (u32)r[R12], r[R13]) ? VMCALL_INVALID_OPERAND : VMCALL_SUCCESS;
}

// The two inputs of the I/O APIC that are the simulator's look masked to the TD and stay as they are.
static bool io_apic_is_hidden(struct vcpu *v, u64 gpa, bool write, u64 value) {
  if (gpa == IO_APIC && write) v->io_apic_index = (u32)value;
  u32 entry = (v->io_apic_index - 0x10) / 2;
  return gpa >= IO_APIC + 0x10 && gpa < IO_APIC + 0x20 && v->io_apic_index >= 0x10 && (entry == 3 || entry == 5);
}

static u64 device_memory(struct vcpu *v, u64 *r) {
  u64 size = r[R12], gpa = r[R14] & ~td.shared_bit, value = r[R15];
  bool write = r[R13] == 1;
  count(v, write ? EXIT_MMIO_WRITE : EXIT_MMIO_READ);
  if ((size != 1 && size != 2 && size != 4 && size != 8) || r[R13] > 1 || !(r[R14] & td.shared_bit) || !IS_ALIGNED(gpa, size) || gpa_is_ram(gpa, 1))
    return VMCALL_INVALID_OPERAND;
  bool nothing = gpa < DEVICES_FIRST || gpa >= DEVICES_END || (gpa >= 0xfee00000 && gpa < 0xfee01000);
  if (nothing || ((gpa & ~0xffful) == IO_APIC && io_apic_is_hidden(v, gpa, write, value))) {
    if (!write) r[R11] = nothing ? (size == 8 ? ~0ul : BIT(8 * size) - 1) : BIT(16);
    return VMCALL_SUCCESS;
  }
  volatile void *p = PHYS(gpa);
  if ((gpa & ~0xffful) == IO_APIC) *(volatile u32 *)PHYS(IO_APIC) = v->io_apic_index; // its index register is shared
  if (write) {
    if (size == 1) *(volatile u8 *)p = (u8)value;
    else if (size == 2) *(volatile u16 *)p = (u16)value;
    else if (size == 4) *(volatile u32 *)p = (u32)value;
    else *(volatile u64 *)p = value;
  } else {
    r[R11] = size == 1 ? *(volatile u8 *)p : size == 2 ? *(volatile u16 *)p : size == 4 ? *(volatile u32 *)p : *(volatile u64 *)p;
  }
  return VMCALL_SUCCESS;
}

// QEMU's checks: 4 KiB units, inside the GPA space; only RAM has anything to convert.
static u64 map_gpa(struct vcpu *v, u64 *r) {
  u64 gpa = r[R12] & ~td.shared_bit, size = r[R13];
  count(v, EXIT_MAPGPA);
  if (!IS_ALIGNED(gpa, PAGE) || !IS_ALIGNED(size, PAGE)) return VMCALL_ALIGN_ERROR;
  if (!size || gpa >= td.shared_bit || size > td.shared_bit - gpa) return VMCALL_INVALID_OPERAND;
  if (!gpa_is_ram(gpa, size)) return VMCALL_INVALID_OPERAND;
  if (gpa < 4 * GIB && gpa + size > 2 * GIB) panic("memory from 2 GiB on cannot be shared here: no device could reach it"); // README.md
  if (lie(v, LIE_MAPGPA_REFUSED)) return VMCALL_INVALID_OPERAND;
  if (lie(v, LIE_MAPGPA_WILD)) {
    r[R11] = hostile_random(v) & 1 ? hostile_value(v) : r[R12] + hostile_value(v);
    return VMCALL_RETRY;
  }
  if (lie(v, LIE_MAPGPA_RETRY)) { // as KVM may: part of it, or none, and the rest later
    u64 part = ALIGN_DOWN(hostile_random(v) % size, PAGE);
    if (part) memory_map_gpa(v, gpa, part, r[R12] & td.shared_bit);
    r[R11] = r[R12] + part;
    return VMCALL_RETRY;
  }
  if (lie(v, LIE_MAPGPA_IGNORED)) return VMCALL_SUCCESS;
  memory_map_gpa(v, gpa, size, r[R12] & td.shared_bit);
  return VMCALL_SUCCESS;
}

static __noreturn void fatal_error(u64 *r) {
  static const u8 order[8] = { R14, R15, RBX, RDI, RSI, R8, R9, RDX };
  char text[65];
  for (u32 i = 0; i < 64; i++) {
    char c = (char)(r[order[i / 8]] >> 8 * (i % 8));
    text[i] = c == 0 || (c >= ' ' && c < 127) ? c : '?';
  }
  text[64] = 0;
  say("sim.fatal.code=%#lx", r[R12] & ~BIT(63));
  say("sim.fatal.message=%s", text);
  if ((r[R12] & BIT(63)) && (r[R13] & td.shared_bit) && IS_ALIGNED(r[R13], PAGE)) { // a page of text
    const char *more = td_memory(r[R13], true);
    char line[256];
    if (more && strlcpy(line, more, strnlen(more, sizeof(line) - 1) + 1)) say("sim.fatal.page=%s", line);
  }
  machine_stop(1);
}

static u64 dispatch(struct vcpu *v, u64 *r) {
  switch (r[R11]) {
  case CPUID: return get_cpuid(v, r);
  case HLT: return halt(v);
  case IO: return port_io(v, r);
  case RDMSR: return get_msr(v, r);
  case WRMSR: return set_msr(v, r);
  case MMIO: return device_memory(v, r);
  case MAP_GPA: return map_gpa(v, r);
  case GET_QUOTE:
    count(v, EXIT_QUOTE);
    return quote_request(v, r[R12], r[R13]);
  case FATAL_ERROR: fatal_error(r);
  case NOTIFY:
    count(v, EXIT_OTHER);
    if (r[R12] < 32 || r[R12] > 255) return VMCALL_INVALID_OPERAND;
    td.notify_vcpu = v->index;
    td.notify_vector = (u32)r[R12];
    return VMCALL_SUCCESS;
  case INFO:
    count(v, EXIT_OTHER);
    if (r[R12]) return VMCALL_INVALID_OPERAND;
    r[R11] = r[R13] = r[R14] = 0;
    return VMCALL_SUCCESS;
  default:
    count(v, EXIT_OTHER);
    return VMCALL_UNSUPPORTED;
  }
}

// queue_notify_off of a virtio device (virtio 1.2, 4.1.4.3), where the TD reads it. Any number that lies in the device's
// notification area is a possible answer: a wrong one that the TD believes makes its doorbell ring elsewhere, and the
// device never looks at that queue. It is counted apart, because the TD then waits for ever and is right to.
static bool asks_for_doorbell(const u64 *r) { return r[R11] == MMIO && r[R12] == 2 && r[R13] == 0 && (r[R14] & 0xfff) == 0x1e; }

void vmm_call(struct vcpu *v) {
  u64 r[16];
  u32 mask = (u32)v->g[RCX] & 0xffff;
  for (u32 i = 0; i < 16; i++) r[i] = mask >> i & 1 ? v->g[i] : 0;
  secret_check_registers(r);
  hostile_exit(v);
  bool fatal = r[R11] == FATAL_ERROR;
  if (!fatal && lie(v, LIE_STATUS)) {
    r[R10] = hostile_random(v) & 1 ? VMCALL_RETRY : VMCALL_INVALID_OPERAND + hostile_random(v) % 5;
  } else {
    bool is_cpuid = r[R11] == CPUID, is_doorbell = asks_for_doorbell(r);
    r[R10] = r[R10] ? VMCALL_UNSUPPORTED : dispatch(v, r);
    u64 truth = r[R11];
    if (lie(v, LIE_STALE)) r[R11] = v->last_answer;
    if (lie(v, LIE_VALUE)) r[R11] = hostile_value(v);
    if (is_doorbell && r[R11] != truth) lie_was(LIE_DOORBELL);
    if (is_cpuid && lie(v, LIE_CPUID)) r[R12 + hostile_random(v) % 4] = hostile_value(v);
    v->last_answer = r[R11];
  }
  for (u32 i = 0; i < 16; i++)
    if (mask >> i & 1) v->g[i] = r[i];
}

// SPDX-License-Identifier: Apache-2.0
//
// The machine under the simulator: text channel, fw_cfg, local APIC, the other CPUs, time, interrupts, the end.
#include "sim/sim.h"

#define COM1 0x3f8
#define TEXT_PORT 0x3e8
#define FWCFG_SELECTOR 0x510
#define FWCFG_DATA 0x511
#define FWCFG_DMA 0x514
#define FWCFG_FILE_DIR 0x19
#define FWCFG_CPU_COUNT 5
#define HPET 0xfed00000ul
#define LOCAL_APIC 0xfee00000ul
#define IO_APIC 0xfec00000ul
enum { ICR = 0x300, ICR_HIGH = 0x310, ICR_NMI = 0x400, ICR_INIT = 0x500, ICR_STARTUP = 0x600, ICR_ASSERT = 0x4000, ICR_OTHERS = 0xc0000 };

u64 tsc_hz, sim_phys;
u8 cpu_stacks[MAX_CPUS][STACK_BYTES] __aligned(STACK_BYTES);
static struct spinlock text_lock;
static u16 text_port = TEXT_PORT;

// --- text
static void uart_write(u16 port, const char *text, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (i % 16 == 0)
      for (u32 spin = 0; spin < 1000000 && !(in8((u16)(port + 5)) & 0x20); spin++) cpu_relax();
    out8(port, (u8)text[i]);
  }
}

void say(const char *fmt, ...) {
  char line[512];
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
  va_end(ap);
  size_t len = MIN((size_t)n, sizeof(line) - 2);
  line[len++] = '\n';
  spin_lock(&text_lock);
  uart_write(text_port, line, len);
  spin_unlock(&text_lock);
}

__noreturn void panic(const char *fmt, ...) {
  char line[256];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof(line), fmt, ap);
  va_end(ap);
  text_lock.taken = 0;
  say("sim.bug=%s", line);
  machine_stop(3);
}

// --- fw_cfg (QEMU docs/specs/fw_cfg): everything is big-endian
struct dma { u32 control, length; u64 address; };

static void fwcfg_dma(u32 control, u32 length, u64 phys) {
  static struct dma d __aligned(16);
  d = (struct dma){ __builtin_bswap32(control), __builtin_bswap32(length), __builtin_bswap64(phys) };
  u64 at = virt_to_phys(&d);
  out32(FWCFG_DMA, __builtin_bswap32((u32)(at >> 32)));
  out32(FWCFG_DMA + 4, __builtin_bswap32((u32)at));
  while (READ_ONCE(d.control) & ~__builtin_bswap32(1)) cpu_relax();
  if (d.control) panic("fw_cfg refuses a read");
}

void fwcfg_read(u32 select, u64 phys, u32 offset, u32 size) {
  fwcfg_dma(select << 16 | 8, 0, 0);
  if (offset) fwcfg_dma(4, offset, 0);
  fwcfg_dma(2, size, phys);
}

bool fwcfg_find(const char *name, u32 *select, u32 *size) {
  static struct { u32 size; u16 select, reserved; char name[56]; } files[128];
  static u32 n;
  if (!n) {
    static u32 be_count;
    fwcfg_read(FWCFG_FILE_DIR, virt_to_phys(&be_count), 0, 4);
    n = MIN(__builtin_bswap32(be_count), (u32)ARRAY_SIZE(files));
    fwcfg_read(FWCFG_FILE_DIR, virt_to_phys(files), 4, (u32)(n * sizeof(files[0])));
  }
  for (u32 i = 0; i < n; i++) {
    if (strncmp(files[i].name, name, sizeof(files[i].name)) != 0) continue;
    *select = __builtin_bswap16(files[i].select);
    *size = __builtin_bswap32(files[i].size);
    return true;
  }
  return false;
}

static char option[256];
static bool fwcfg_option(const char *name, u32 *size) {
  char path[56];
  u32 select;
  snprintf(path, sizeof(path), "opt/gramine/sim-%s", name);
  if (!fwcfg_find(path, &select, size)) return false;
  if (*size >= sizeof(option)) panic("fw_cfg %s: %u bytes, at most %lu", path, *size, sizeof(option) - 1);
  fwcfg_read(select, virt_to_phys(option), 0, *size);
  option[*size] = 0;
  return true;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool fwcfg_number(const char *name, u64 *value) {
  u32 size;
  if (!fwcfg_option(name, &size)) return false;
  const char *p = option;
  u32 base = p[0] == '0' && (p[1] | 0x20) == 'x' ? 16 : 10;
  if (base == 16) p += 2;
  u64 v = 0;
  for (; *p && *p != '\n'; p++) {
    int d = hex_digit(*p);
    if (d < 0 || (u32)d >= base) panic("fw_cfg opt/gramine/sim-%s: '%s' is not a number", name, option);
    v = v * base + (u32)d;
  }
  *value = v;
  return true;
}

bool fwcfg_hex48(const char *name, u8 out[48]) {
  u32 size;
  if (!fwcfg_option(name, &size)) return false;
  if (size == 48) {
    memcpy(out, option, 48);
    return true;
  }
  if (size < 96) panic("fw_cfg opt/gramine/sim-%s: 48 bytes or 96 hexadecimal digits, got %u bytes", name, size);
  for (u32 i = 0; i < 48; i++) out[i] = (u8)(hex_digit(option[2 * i]) << 4 | hex_digit(option[2 * i + 1]));
  return true;
}

u32 host_cpu_count(void) {
  static u16 n;
  fwcfg_read(FWCFG_CPU_COUNT, virt_to_phys(&n), 0, 2);
  return n;
}

// --- memory of the simulator: after its image
void *pages_alloc(u32 n) {
  extern char sim_start[], sim_end[];
  static u64 used;
  u64 at = ALIGN_UP((u64)(sim_end - sim_start), PAGE) + __atomic_fetch_add(&used, n * PAGE, __ATOMIC_SEQ_CST);
  if (at + n * PAGE > SIM_BYTES) panic("out of memory for page tables");
  return sim_start + at; // QEMU's memory starts as zeroes
}

// --- local APIC
u32 local_apic_read(u32 reg) { return *(volatile u32 *)PHYS(LOCAL_APIC + reg); }
void local_apic_write(u32 reg, u32 v) { *(volatile u32 *)PHYS(LOCAL_APIC + reg) = v; }

static void icr_send(u32 apic_id, u32 command) {
  local_apic_write(ICR_HIGH, apic_id << 24);
  local_apic_write(ICR, command);
}
void host_send_nmi(u32 index) { icr_send(index, ICR_ASSERT | ICR_NMI); }
void host_send_vector(u32 index, u32 vector) { icr_send(index, ICR_ASSERT | vector); }
void host_start_cpus(void) {
  icr_send(0, ICR_OTHERS | ICR_ASSERT | ICR_INIT);
  icr_send(0, ICR_OTHERS | ICR_ASSERT | ICR_STARTUP | TRAMPOLINE >> 12);
}

// --- exceptions of the simulator, and NMIs while GIF is 1
static struct { u16 offset0, selector; u8 ist, type; u16 offset1; u32 offset2, zero; } idt[256] __aligned(16);

void host_setup_idt(void) {
  extern char interrupt_stubs[];
  for (u32 i = 0; i < 256 && !idt[i].selector; i++) {
    u64 at = (u64)(uptr)(interrupt_stubs + 16 * i);
    idt[i].offset0 = (u16)at;
    idt[i].selector = 8;
    idt[i].type = 0x8e;
    idt[i].offset1 = (u16)(at >> 16);
    idt[i].offset2 = (u32)(at >> 32);
  }
  struct { u16 limit; u64 base; } __packed p = { sizeof(idt) - 1, (u64)(uptr)idt };
  __asm__ volatile("lidt %0" ::"m"(p));
}

void sim_interrupt(u64 vector, u64 *frame) {
  if (vector == 2) return; // an NMI: it has done its work by ending the TD's run, or its sleep
  u64 cr2;
  __asm__("movq %%cr2, %0" : "=r"(cr2));
  panic("exception %lu error %#lx at %#lx cr2 %#lx", vector, frame[0], frame[1], cr2);
}

void host_take_nmi(void) { __asm__ volatile("cli; stgi; nop; clgi" ::: "memory"); }

// --- time: TSC against the HPET (100 MHz), read together at both ends of the boot
struct sample { u64 tsc, gap; u32 hpet; };
static struct sample sample0;

static struct sample sample_clocks(void) {
  struct sample best = { .gap = ~0ul };
  for (u32 i = 0; i < 8; i++) {
    u64 t0 = rdtsc();
    u32 hpet = *(volatile u32 *)PHYS(HPET + 0xf0);
    u64 t1 = rdtsc();
    if (t1 - t0 < best.gap) best = (struct sample){ t0 + (t1 - t0) / 2, t1 - t0, hpet };
  }
  return best;
}

void tsc_calibrate_begin(void) {
  *(volatile u32 *)PHYS(HPET + 0x10) = 1;
  sample0 = sample_clocks();
}

void tsc_calibrate_end(void) {
  u64 femtoseconds = *(volatile u32 *)PHYS(HPET + 4);
  struct sample s;
  do s = sample_clocks(); // at least 10 ms apart, or until the readings' own gaps are below 20 ppm of the distance
  while ((u64)(s.hpet - sample0.hpet) * femtoseconds < 10000000000000ul && (s.gap + sample0.gap) * 50000 > s.tsc - sample0.tsc);
  tsc_hz = mul_div_u64(s.tsc - sample0.tsc, 1000000000000000ul, (u64)(s.hpet - sample0.hpet) * femtoseconds);
  *(volatile u32 *)PHYS(HPET + 0x10) = 0;
}

// --- the simulator's own serial ports interrupt as NMIs: IRQ 3 (quotes) and IRQ 5 (text) at the I/O APIC
static void io_apic_write(u32 index, u32 v) {
  *(volatile u32 *)PHYS(IO_APIC) = index;
  *(volatile u32 *)PHYS(IO_APIC + 0x10) = v;
}

void host_init(void) {
  out8(0x21, 0xff); // both PICs masked
  out8(0xa1, 0xff);
  for (u32 irq = 3; irq <= 5; irq += 2) {
    io_apic_write(0x11 + 2 * irq, 0);
    io_apic_write(0x10 + 2 * irq, ICR_NMI);
  }
  if (in8(TEXT_PORT + 5) == 0xff) text_port = COM1;
  out8((u16)(text_port + 2), 1); // FIFO on: one look at the status for 16 bytes
  if (text_port == TEXT_PORT) {
    out8(TEXT_PORT + 4, 8); // OUT2 gates the interrupt
    out8(TEXT_PORT + 1, 1); // receive interrupts
  }
}

// 's' on the text channel: print the counters now.
void serial_poll(void) {
  quote_poll();
  if (text_port != TEXT_PORT) return;
  while (in8(TEXT_PORT + 5) & 1)
    if (in8(TEXT_PORT) == 's') counters_print();
}

// --- the end
#define COUNTER_NAME(id, name) name,
static const char *const counter_names[] = { COUNTERS(COUNTER_NAME) };

void counters_print(void) {
  u64 exits = 0;
  for (u32 c = 0; c < COUNTER_COUNT; c++) {
    u64 n = 0;
    for (u32 i = 0; i < td.num_vcpus; i++) n += READ_ONCE(vcpus[i].counters[c]);
    if (c <= EXIT_LAST) exits += n;
    if (n) say("sim.%s=%lu", counter_names[c], n);
  }
  say("sim.exits.total=%lu", exits);
  for (u32 i = 0; i < 4; i++) {
    char name[8];
    snprintf(name, sizeof(name), "rtmr%u", i);
    say_digest(name, td.rtmr[i]);
  }
  hostile_print();
  secret_scan();
}

// QEMU ends without handing over what it could not write yet: the transmitter is empty when everything is out.
static void text_flush(void) {
  for (u32 spin = 0; spin < 20000000 && !(in8((u16)(text_port + 5)) & 0x40); spin++) cpu_relax();
}

__noreturn void machine_stop(u32 status) {
  static u32 stopping;
  if (!__atomic_exchange_n(&stopping, 1, __ATOMIC_SEQ_CST)) {
    counters_print();
    say("sim.end=%u", status);
    text_flush();
    out32(0xf4, status); // isa-debug-exit, where there is one
    out32(0xcf8, 0x8000f840); // ICH9 power management at 0x600, as the kernel does it
    out32(0xcfc, 0x601);
    out32(0xcf8, 0x8000f844);
    out32(0xcfc, 0x80);
    out16(0x604, 0x2000);
  }
  for (;;) __asm__ volatile("cli; hlt");
}

__noreturn void td_stop(const char *fmt, ...) {
  char line[256];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(line, sizeof(line), fmt, ap);
  va_end(ap);
  say("sim.stop=%s", line);
  machine_stop(2);
}

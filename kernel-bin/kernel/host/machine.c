// SPDX-License-Identifier: Apache-2.0
//
// The serial port and the machine's end.
#include "host/internal.h"
#include "arch/internal.h"
#include "arch/tdx.h"

#define COM1 0x3f8
#define LSR_THRE 0x20

#define FIFO_BYTES 16
#define PATIENCE_NS (2 * NS_PER_SEC) // a busy host takes its time to read
#define LOOKS_MIN 1000u
#define LOOKS_MAX 100000u             // before there is a clock: a TD's host takes some 20 us for each

// Waits until the 16 places of the FIFO are free. The bounds are for a host that never says so; then it gets one look each.
static void serial_wait(void) {
  static bool deaf;
  u64 start = time_ns();
  for (u32 looks = 1;; looks++) {
    bool ready = host_in8(COM1 + 5).v_ & LSR_THRE;
    u64 waited = time_ns() - start; // 0: there is no clock yet
    if (ready || deaf || (waited ? looks >= LOOKS_MIN && waited >= PATIENCE_NS : looks >= LOOKS_MAX)) {
      deaf = !ready;
      return;
    }
  }
}

// With the FIFO on, THRE says that all places are free: one look per 16 bytes, because each access is an exit. What a deaf
// host is sent is lost.
void host_serial_write(const char *text, size_t n) {
  static bool fifo_on;
  if (!fifo_on) {
    host_out8(COM1 + 2, 1);
    fifo_on = true;
  }
  for (size_t i = 0; i < n; i++) {
    if (i % FIFO_BYTES == 0) serial_wait();
    host_out8(COM1, (u8)text[i]);
  }
}

// ICH9, function 00:1f.0: PMBASE 0x600 in register 0x40, enabled by bit 7 of 0x44.
__noreturn void host_power_off(void) {
  host_out32(0xcf8, 0x8000f840);
  host_out32(0xcfc, 0x601);
  host_out32(0xcf8, 0x8000f844);
  host_out32(0xcfc, 0x80);
  host_out16(0x604, 0x2000); // SLP_EN, S5
  arch_stop_this();
}

static void (*end)(const char *text);
void host_set_end(void (*fn)(const char *text)) { end = fn; }

__noreturn void host_stop(const char *text) {
  if (in_td) tdx_fatal(text);
  host_power_off();
}

__noreturn void host_fatal(const char *text) {
  printk(LOG_NONE, "%s", text); // always shown
  if (end) end(text);
  host_stop(text);
}

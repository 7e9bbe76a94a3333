// SPDX-License-Identifier: Apache-2.0
//
// The serial port and the machine's end.
#include "host/internal.h"
#include "arch/internal.h"
#include "arch/tdx.h"

#define COM1 0x3f8
#define LSR_THRE 0x20

#define FIFO_BYTES 16
#define SERIAL_SPINS 10000

#define PATIENCE 1000000u // looks, of microseconds each: a busy host takes its time to read
#define IMPATIENCE 1000u  // and after one that never came: nobody reads

// With the FIFO on, THRE says that all 16 places are free: one look per 16 bytes, because each access is an exit. The
// bound is for a host that never says so; what is written then is lost.
void host_serial_write(const char *text, size_t n) {
  static bool fifo_on;
  static u32 patience = PATIENCE;
  if (!fifo_on) {
    host_out8(COM1 + 2, 1);
    fifo_on = true;
  }
  for (size_t i = 0; i < n; i++) {
    if (i % FIFO_BYTES == 0) {
      u32 left = READ_ONCE(patience);
      while (left && !(host_in8(COM1 + 5).v_ & LSR_THRE)) left--;
      WRITE_ONCE(patience, left ? PATIENCE : IMPATIENCE);
    }
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

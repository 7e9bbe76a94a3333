// SPDX-License-Identifier: Apache-2.0
//
// The kernel's log. Any context, also inside panic: no lock is taken here (the sink takes the console's), each line is
// formatted on the caller's stack and reaches the ring and the sink whole.
#include "lib/lib.h"

#define RING_BYTES 16384u // a power of two
#define LINE_BYTES 400

enum log_level log_level = LOG_WARN;
static char ring[RING_BYTES];
static u32 ring_end; // bytes ever written; a line reserves its place by adding
static void (*log_sink)(const char *text, size_t len);
static void (*panic_stop)(const char *text);
static u64 (*log_clock)(void); // ns since boot

void printk_set_sink(void (*sink)(const char *text, size_t len)) { log_sink = sink; }
void printk_set_clock(u64 (*clock)(void)) { log_clock = clock; }
void panic_set_stop(void (*stop)(const char *text)) { panic_stop = stop; }

static void emit(const char *line, size_t len) {
  u32 at = __atomic_fetch_add(&ring_end, (u32)len, __ATOMIC_RELAXED);
  for (size_t i = 0; i < len; i++) ring[(at + i) % RING_BYTES] = line[i];
  if (log_sink) log_sink(line, len);
}

size_t printk_read_ring(char *buf, size_t size) {
  u32 end = __atomic_load_n(&ring_end, __ATOMIC_RELAXED);
  u32 have = MIN(end, RING_BYTES);
  u32 n = size < have ? (u32)size : have;
  for (u32 i = 0; i < n; i++) buf[i] = ring[(end - n + i) % RING_BYTES];
  return n;
}

static size_t format_line(char *line, const char *fmt, va_list ap) {
  // Times help whoever reads a whole log; a single line of a warning is for the user, who did not ask for them.
  u64 us = log_clock && log_level >= LOG_DEBUG ? log_clock() / 1000 : 0;
  int head = us ? snprintf(line, LINE_BYTES - 1, "[%lu.%06lu] ", us / 1000000, us % 1000000) : 0;
  int n = head + vsnprintf(line + head, (size_t)(LINE_BYTES - 1 - head), fmt, ap);
  size_t len = n < LINE_BYTES - 2 ? (size_t)n : LINE_BYTES - 2;
  if (len == 0 || line[len - 1] != '\n') line[len++] = '\n';
  return len;
}

void printk(enum log_level level, const char *fmt, ...) {
  if (level > log_level) return;
  char line[LINE_BYTES];
  va_list ap;
  va_start(ap, fmt);
  emit(line, format_line(line, fmt, ap));
  va_end(ap);
}

__noreturn void panic(const char *fmt, ...) {
  char line[LINE_BYTES] = "panic: ";
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(line + 7, sizeof(line) - 8, fmt, ap);
  va_end(ap);
  size_t len = 7 + ((size_t)n < sizeof(line) - 9 ? (size_t)n : sizeof(line) - 9);
  line[len] = '\n';
  emit(line, len + 1);
  line[len] = 0;
  if (panic_stop) panic_stop(line);
  for (;;) __asm__ volatile("cli; hlt");
}

// The compiler calls this when a stack canary was overwritten. boot/ sets the guard from RDRAND.
uintptr_t __stack_chk_guard = 0x595e9fbd94fda766ull;
__noreturn void __stack_chk_fail(void) { panic("stack smashed, called from %p", __builtin_return_address(0)); }

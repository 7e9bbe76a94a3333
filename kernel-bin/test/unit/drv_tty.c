// SPDX-License-Identifier: Apache-2.0
// The line discipline: what is typed on one side, what is echoed there, and what a program reads on the other.
#include "dev_mock.h"
#include "../../kernel/drv/tty.c"

static char screen[65536];
static size_t screen_len, space = 1 << 20;
static u32 resumes;
struct host_hints host_hints = { .tty = true, .rows = 24, .cols = 80 };
static struct waitq console_wait;
bool console_is_tty(void) { return true; }
size_t console_echo(const void *data, size_t n) {
  for (size_t i = 0; i < n && screen_len < sizeof(screen) - 1; i++) screen[screen_len++] = ((const char *)data)[i];
  return n;
}
void console_write(int port, const void *data, size_t n) { console_echo(data, n); }
size_t console_writable(int port) { return space; }
size_t console_unsent(int port) { return 0; }
struct waitq *console_waitq(int port) { return &console_wait; }
void console_set_input(size_t (*rx)(const u8 *data, size_t n)) {}
void console_input_resume(void) { resumes++; }
void console_on_resize(void (*fn)(u16 rows, u16 cols)) {}

static int signals[32], background_answer;
static struct tty_caller caller = { 1, 1, 1, true };
static void on_signal(int pgid, int signo) { signals[signo] = pgid; }
static void on_caller(struct tty_caller *c) { *c = caller; }
static bool on_group(int pgid, int sid) { return sid == 1 && pgid < 100; }
static int on_background(int pgid, int signo) { return background_answer; }

static size_t type(const char *s) { return tty_rx((const u8 *)s, strlen(s)); }
static bool shown(const char *expect) {
  bool same = screen_len == strlen(expect) && !memcmp(screen, expect, screen_len);
  if (!same) fprintf(stderr, "  screen: %.*s\n", (int)screen_len, screen);
  screen_len = 0;
  return same;
}
static bool reads(const char *expect) {
  char buf[256];
  long n = tty_read(buf, sizeof(buf), true);
  bool same = n == (long)strlen(expect) && !memcmp(buf, expect, (size_t)n);
  if (!same) fprintf(stderr, "  read %ld: %.*s\n", n, (int)(n > 0 ? n : 0), buf);
  return same;
}
static long nothing(void) { char c; return tty_read(&c, 1, true); }
static void set_lflag(u32 clear, u32 set) {
  struct termios2 t;
  CHECK(tty_ioctl(TCGETS2, (uptr)&t) == 0);
  t.c_lflag = (t.c_lflag & ~clear) | set;
  CHECK(tty_ioctl(TCSETS2, (uptr)&t) == 0);
}
static void set_min(u8 min, u8 time) {
  struct termios2 t;
  CHECK(tty_ioctl(TCGETS2, (uptr)&t) == 0);
  t.c_cc[VMIN] = min;
  t.c_cc[VTIME] = time;
  CHECK(tty_ioctl(TCSETS2, (uptr)&t) == 0);
}

static void test_lines(void) {
  CHECK(type("ab\n") == 3 && shown("ab\r\n") && reads("ab\n") && nothing() == -EAGAIN);
  CHECK(type("one\rtwo\n") == 8 && reads("one\n") && reads("two\n") && shown("one\r\ntwo\r\n")); // a line a read
  CHECK(type("partial") == 7 && nothing() == -EAGAIN && type("\n") && reads("partial\n") && shown("partial\r\n"));
  char small[3];
  CHECK(type("abcdef\n") && tty_read(small, 3, true) == 3 && reads("def\n") && shown("abcdef\r\n"));
  CHECK(type("\x04") && reads("") && nothing() == -EAGAIN); // ^D alone: end of file, once
  CHECK(type("x\x04") && reads("x") && nothing() == -EAGAIN); // after something: it only ends the read
  CHECK(type("abc\x04") && tty_read(small, 3, true) == 3 && nothing() == -EAGAIN); // ... also when the buffer is just full
  CHECK(shown("xabc"));
}

static void test_editing(void) {
  CHECK(type("ab\x7f\x08x\n") && reads("x\n") && shown("ab\b \b\b \bx\r\n"));
  CHECK(type("\x7f\n") && reads("\n") && shown("\r\n")); // nothing to erase
  CHECK(type("one two\x17three\n") && reads("one three\n") && shown("one two\b \b\b \b\b \bthree\r\n"));
  CHECK(type("gone\x15here\n") && reads("here\n") && shown("gone\b \b\b \b\b \b\b \bhere\r\n"));
  CHECK(type("a\x01\x7f\n") && reads("a\n") && shown("a^A\b \b\b \b\r\n")); // two columns
  CHECK(type("a\t\x7f\n") && reads("a\n") && shown("a\t\b \b\b \b\b \b\b \b\b \b\b \b\b \b\r\n")); // seven
  CHECK(type("\xc3\xa4\x7f\n") && reads("\n") && shown("\xc3\xa4\b \b\r\n")); // a character of two bytes
  CHECK(type("\x16\x03\n") && reads("\x03\n") && shown("^\b^C\r\n")); // ^V
  CHECK(type("ab\x12\n") && reads("ab\n") && shown("ab^R\r\nab\r\n"));
  set_lflag(ECHO, 0);
  CHECK(type("secret\n") && reads("secret\n") && shown(""));
  set_lflag(0, ECHO);
  CHECK(tty_write("> ", 2, false) == 2 && type("a\t\x7f\n") && reads("a\n")); // the tab's width depends on the prompt
  CHECK(shown("> a\t\b \b\b \b\b \b\b \b\b \b\r\n"));
}

static void test_signals(void) {
  memset(signals, 0, sizeof(signals));
  tty_set_session(1, 7);
  CHECK(type("lost\x03") && shown("lost^C") && nothing() == -EAGAIN && signals[2] == 0);
  mock_run_work(); // from a thread, not from the interrupt
  CHECK(signals[2] == 7);
  CHECK(type("\x1a\x1c") && shown("^Z^\\"));
  mock_run_work();
  CHECK(signals[20] == 7 && signals[3] == 7);
  set_lflag(ISIG, 0);
  CHECK(type("\x03\n") && reads("\x03\n") && shown("^C\r\n"));
  set_lflag(0, ISIG);
  tty_set_winsize(24, 80);
  CHECK(!mock_work); // nothing changed
  tty_set_winsize(50, 100);
  mock_run_work();
  u16 w[4];
  CHECK(signals[28] == 7 && tty_ioctl(TIOCGWINSZ, (uptr)w) == 0 && w[0] == 50 && w[1] == 100);
}

static void test_raw(void) {
  set_lflag(ICANON | ECHO | ISIG, 0);
  CHECK(type("a\x03\x04") == 3 && reads("a\x03\x04") && shown(""));
  set_min(0, 0);
  char c[8];
  CHECK(tty_read(c, 8, false) == 0); // what there is, at once
  set_min(0, 5);
  mock_sleep_result = -ETIMEDOUT;
  CHECK(tty_read(c, 8, false) == 0);
  set_min(3, 1);
  CHECK(type("xy") == 2 && tty_read(c, 8, false) == 2); // fewer than MIN, but the pause was too long
  set_min(3, 0);
  mock_sleep_result = -ERESTARTSYS;
  CHECK(type("x") == 1 && tty_read(c, 8, false) == -ERESTARTSYS && type("yz") == 2 && tty_read(c, 8, false) == 3);
  mock_sleep_result = 1;
  set_min(1, 0);
  CHECK(type("left") == 4);
  set_lflag(0, ICANON | ECHO | ISIG); // what was there stays readable
  CHECK(reads("left") && shown(""));
  CHECK(type("half"));
  set_lflag(ICANON, 0);
  CHECK(reads("half"));
  set_lflag(0, ICANON);
  screen_len = 0;
}

static void test_full(void) {
  static char many[BUFFER_BYTES * 2];
  memset(many, 'x', sizeof(many) - 1);
  set_lflag(ECHO, 0);
  CHECK(type(many) == sizeof(many) - 1); // one endless line: its head is kept, the rest is dropped
  CHECK(type("\n") == 1);
  long total = 0, n;
  char buf[1024];
  while ((n = tty_read(buf, sizeof(buf), true)) > 0) total += n;
  CHECK(total == LINE_MAX + 1 && buf[(total - 1) % 1024] == '\n');
  // ^V in a line that is full takes one character, not all that follow: neither the line's end nor ^C
  for (u32 i = 0; i < LINE_MAX; i++) type("l");
  CHECK(type("\x16q\x03") == 3 && type("ab\n") == 3 && reads("ab\n"));
  mock_run_work();
  for (size_t i = 9; i < sizeof(many) - 1; i += 10) many[i] = '\n'; // many lines: what does not fit stays with the device
  size_t took = type(many);
  CHECK(took >= BUFFER_BYTES - 10 && took < BUFFER_BYTES);
  u32 before = resumes;
  CHECK(tty_read(buf, 10, true) == 10 && resumes > before && type(many + took) == 10);
  while (tty_read(buf, sizeof(buf), true) > 0) {}
  set_lflag(0, ECHO);
  set_lflag(ICANON | ECHO, 0);
  CHECK(tty_ioctl(TCFLSH, TCIFLUSH) == 0 && type(many) == BUFFER_BYTES - 1);
  CHECK(tty_ioctl(TCFLSH, TCIFLUSH) == 0 && nothing() == -EAGAIN);
  set_lflag(0, ICANON | ECHO);
  screen_len = 0;
}

static void test_output(void) {
  CHECK(tty_write("a\nb", 3, false) == 3 && shown("a\r\nb"));
  struct termios2 t, was;
  CHECK(tty_ioctl(TCGETS2, (uptr)&was) == 0);
  t = was;
  t.c_oflag &= ~(u32)OPOST;
  CHECK(tty_ioctl(TCSETS2, (uptr)&t) == 0 && tty_write("a\n", 2, false) == 2 && shown("a\n"));
  CHECK(tty_ioctl(TCSETS2, (uptr)&was) == 0);
  space = 10; // no room
  CHECK(tty_write("x", 1, true) == -EAGAIN);
  mock_sleep_result = -ERESTARTSYS;
  CHECK(tty_write("x", 1, false) == -ERESTARTSYS && shown(""));
  space = 1 << 20;
  CHECK(type("\x13") && tty_write("x", 1, true) == -EAGAIN && tty_write("x", 1, false) == -ERESTARTSYS); // ^S
  CHECK(type("\x11") && tty_write("x", 1, true) == 1 && shown("x"));
  mock_sleep_result = 1;
  static char big[10000];
  memset(big, '\n', sizeof(big));
  CHECK(tty_write(big, sizeof(big), false) == sizeof(big) && screen_len == 20000);
  screen_len = 0;
}

static void test_jobs(void) {
  int v = 0;
  tty_set_session(1, 1);
  CHECK(tty_ioctl(TIOCGPGRP, (uptr)&v) == 0 && v == 1 && tty_ioctl(TIOCGSID, (uptr)&v) == 0 && v == 1);
  v = 5;
  CHECK(tty_ioctl(TIOCSPGRP, (uptr)&v) == 0 && tty_foreground() == 5);
  v = 100;
  CHECK(tty_ioctl(TIOCSPGRP, (uptr)&v) == 0 || true);
  caller = (struct tty_caller){ 5, 5, 1, false };
  CHECK(tty_ioctl(TIOCSPGRP, (uptr)&v) == -EPERM);
  caller.pgid = 6; // in the background now
  background_answer = -EIO;
  char c;
  CHECK(tty_read(&c, 1, true) == -EIO && tty_write("x", 1, true) == 1); // TOSTOP is off
  background_answer = 0;
  set_lflag(0, TOSTOP);
  background_answer = -ERESTARTSYS;
  CHECK(tty_write("x", 1, true) == -ERESTARTSYS);
  background_answer = 0;
  set_lflag(TOSTOP, 0);
  caller = (struct tty_caller){ 9, 9, 9, true }; // another session
  CHECK(tty_ioctl(TIOCGPGRP, (uptr)&v) == -ENOTTY && tty_ioctl(TIOCSCTTY, 0) == -EPERM && !tty_is_callers());
  caller = (struct tty_caller){ 1, 1, 1, true };
  CHECK(tty_ioctl(TIOCNOTTY, 0) == 0 && tty_session() == 0 && tty_ioctl(TIOCGPGRP, (uptr)&v) == -ENOTTY);
  CHECK(tty_ioctl(TIOCSCTTY, 0) == 0 && tty_session() == 1 && tty_is_callers());
  CHECK(tty_ioctl(0x1234, 0) == -ENOTTY);
}

static void test_random(void) { // any bytes, any settings
  for (int i = 0; i < 200000; i++) {
    char buf[64];
    u8 c = (u8)unit_random();
    tty_rx(&c, 1);
    if (unit_random() % 50 == 0) tty_read(buf, unit_random() % 64, true);
    if (unit_random() % 200 == 0) {
      struct termios2 t;
      for (size_t k = 0; k < sizeof(t); k++) ((u8 *)&t)[k] = (u8)unit_random();
      tty_ioctl(TCSETS2, (uptr)&t);
    }
    screen_len = 0;
    if (tty.head - tty.tail > BUFFER_BYTES || tty.line - tty.tail > tty.head - tty.tail) abort();
  }
  unit_passed++;
}

int main(void) {
  static const struct tty_hooks hooks = { on_signal, on_caller, on_group, on_background };
  list_init(&console_wait.waiters);
  tty_init();
  tty_set_hooks(&hooks);
  test_lines();
  test_editing();
  test_signals();
  test_raw();
  test_full();
  test_output();
  test_jobs();
  test_random();
  return UNIT_END("drv_tty");
}

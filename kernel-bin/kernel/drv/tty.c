// SPDX-License-Identifier: Apache-2.0
//
// The terminal: line discipline over the console's port 0, as termios(3) describes it. Input is processed when it arrives,
// in irq context, so that Ctrl-C works while nobody reads; what a full buffer cannot take stays with the device.
// Locks: tty.lock (RANK_OBJECT, irqsave) guards settings and input; the console's port lock comes after it (echo).
// tty.write_lock (mutex) keeps the output of one write together. Signals are sent from a kernel thread.

#include "drv/internal.h"
#include <asm/ioctls.h>
#include <asm/termbits.h>

#define BUFFER_BYTES 16384u // a power of two
#define LINE_MAX 4095u      // of an unfinished line in canonical mode
#define NO_CHAR 0           // a control character that is switched off
#define SIGINT_ 2
#define SIGQUIT_ 3
#define SIGTSTP_ 20
#define SIGTTIN_ 21
#define SIGTTOU_ 22
#define SIGWINCH_ 28
struct winsize_k { u16 rows, cols, xpixel, ypixel; };

static struct {
  struct spinlock lock;
  struct termios2 t;
  u8 buf[BUFFER_BYTES];
  u64 ends[BUFFER_BYTES / 64];   // a line ends with this byte
  u64 eofs[BUFFER_BYTES / 64];   // ... which is no byte, but an end of file typed at that place
  u32 head, tail, line;          // free running: written up to, read up to, end of the last finished line
  u32 column, line_column;       // of the output; where the unfinished line began
  bool literal, stopped, beeped; // next character is taken as it is (^V); output stopped (^S)
  int session, foreground;
  struct winsize_k size;
  u32 pending_signals;           // BIT(signo), to be sent by signal_work
  struct waitq wait;
  struct work signal_work;
  struct mutex write_lock;
  struct tty_hooks hooks;
} tty; // zeroes: an initializer would put its 20 KiB into the image

void tty_set_hooks(const struct tty_hooks *h) { tty.hooks = *h; }
struct waitq *tty_waitq(void) { return &tty.wait; }
int tty_foreground(void) { return READ_ONCE(tty.foreground); }
int tty_session(void) { return READ_ONCE(tty.session); }
void tty_set_session(int sid, int pgid) {
  WRITE_ONCE(tty.session, sid);
  WRITE_ONCE(tty.foreground, pgid);
}

bool tty_is_callers(void) {
  struct tty_caller c;
  if (!tty.hooks.caller) return false;
  tty.hooks.caller(&c);
  return tty_session() && c.sid == tty_session();
}

static bool lflag(u32 f) { return (tty.t.c_lflag & f) != 0; }
static bool iflag(u32 f) { return (tty.t.c_iflag & f) != 0; }
static bool is_cc(u8 c, unsigned which) { return tty.t.c_cc[which] != NO_CHAR && tty.t.c_cc[which] == c; }

// --- signals

static void signals_run(struct work *w) {
  u32 set = __atomic_exchange_n(&tty.pending_signals, 0, __ATOMIC_ACQ_REL);
  for (int s = 1; s < 32; s++)
    if ((set & BIT(s)) && tty.hooks.signal) tty.hooks.signal(tty_foreground(), s);
}

static void signal_later(int signo) {
  __atomic_fetch_or(&tty.pending_signals, (u32)BIT(signo), __ATOMIC_ACQ_REL);
  work_queue(&tty.signal_work);
}

void tty_set_winsize(u16 rows, u16 cols) {
  u64 flags = spin_lock_irqsave(&tty.lock);
  bool changed = tty.size.rows != rows || tty.size.cols != cols;
  tty.size.rows = rows;
  tty.size.cols = cols;
  spin_unlock_irqrestore(&tty.lock, flags);
  if (changed) signal_later(SIGWINCH_);
}

// --- echo: drops what does not fit, as a terminal that does not read has nobody to see it

// Output processing of one character into out (at most 8 bytes); keeps track of the column.
static unsigned output_char(u8 c, u8 *out) {
  u32 o = tty.t.c_oflag;
  unsigned n = 0;
  if (!(o & OPOST)) {
    out[n++] = c;
    return n;
  }
  switch (c) {
  case '\n':
    if (o & ONLCR) out[n++] = '\r';
    if (o & (ONLCR | ONLRET)) tty.column = 0;
    break;
  case '\r':
    if ((o & ONOCR) && tty.column == 0) return 0;
    if (o & OCRNL) {
      c = '\n';
      if (o & ONLRET) tty.column = 0;
    } else {
      tty.column = 0;
    }
    break;
  case '\t': {
    u32 spaces = 8 - tty.column % 8;
    tty.column += spaces;
    if ((o & TABDLY) != XTABS) break;
    while (n < spaces) out[n++] = ' ';
    return n;
  }
  case '\b':
    if (tty.column) tty.column--;
    break;
  default:
    if (o & OLCUC && c >= 'a' && c <= 'z') c = (u8)(c - 32);
    if (c >= ' ' && c != 127 && !((tty.t.c_iflag & IUTF8) && (c & 0xc0) == 0x80)) tty.column++;
  }
  out[n++] = c;
  return n;
}

static void echo_raw(u8 c) {
  u8 out[8];
  unsigned n = output_char(c, out);
  console_echo(out, n);
}

static bool shown_as_control(u8 c) { return c < ' ' ? c != '\t' && c != '\n' : c == 127; }

static void echo(u8 c) {
  if (lflag(ECHOCTL) && shown_as_control(c)) {
    echo_raw('^');
    echo_raw(c ^ 0x40);
  } else {
    echo_raw(c);
  }
}

// --- the unfinished line

static u8 at(u32 i) { return tty.buf[i % BUFFER_BYTES]; }

static void store(u8 c, bool end, bool eof) {
  u32 i = tty.head++ % BUFFER_BYTES;
  tty.buf[i] = c;
  bit_clear(tty.ends, i);
  bit_clear(tty.eofs, i);
  if (end) bit_set(tty.ends, i);
  if (eof) bit_set(tty.eofs, i);
  if (end) tty.line = tty.head;
}

static bool continuation(u32 i) { return iflag(IUTF8) && (at(i) & 0xc0) == 0x80; }

// Columns that the line takes up to (not including) index `end`.
static u32 column_at(u32 end) {
  u32 col = tty.line_column;
  for (u32 i = tty.line; i != end; i++) {
    u8 c = at(i);
    if (c == '\t') col += 8 - col % 8;
    else if (shown_as_control(c)) col += lflag(ECHOCTL) ? 2 : 0;
    else if (!continuation(i)) col++;
  }
  return col;
}

static void erase_one(void) {
  u32 end = tty.head;
  do tty.head--; while (tty.head != tty.line && continuation(tty.head));
  if (!lflag(ECHO)) return;
  if (!lflag(ECHOE)) {
    echo(tty.t.c_cc[VERASE]);
    return;
  }
  for (u32 n = column_at(end) - column_at(tty.head); n; n--) {
    echo_raw('\b');
    echo_raw(' ');
    echo_raw('\b');
  }
}

static void erase_word(void) {
  bool seen = false;
  while (tty.head != tty.line) {
    u8 c = at(tty.head - 1);
    bool word = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' || c >= 128;
    if (seen && !word) break;
    seen |= word;
    erase_one();
  }
}

static void erase_line(void) {
  if (lflag(ECHOKE) || !lflag(ECHOK)) {
    while (tty.head != tty.line) erase_one();
    return;
  }
  tty.head = tty.line;
  if (lflag(ECHO)) {
    echo(tty.t.c_cc[VKILL]);
    echo_raw('\n');
  }
}

static void flush_input(void) { tty.tail = tty.line = tty.head; }

static bool control_signal(u8 c) {
  int signo = is_cc(c, VINTR) ? SIGINT_ : is_cc(c, VQUIT) ? SIGQUIT_ : is_cc(c, VSUSP) ? SIGTSTP_ : 0;
  if (!signo || !lflag(ISIG)) return false;
  if (!lflag(NOFLSH)) flush_input();
  tty.stopped = false;
  if (lflag(ECHO)) echo(c);
  signal_later(signo);
  return true;
}

static bool canonical_char(u8 c) {
  if (is_cc(c, VERASE) || (c == 8 && is_cc(127, VERASE))) {
    if (tty.head != tty.line) erase_one();
  } else if (is_cc(c, VKILL)) {
    erase_line();
  } else if (lflag(IEXTEN) && is_cc(c, VWERASE)) {
    erase_word();
  } else if (lflag(IEXTEN) && is_cc(c, VLNEXT)) {
    tty.literal = true;
    if (lflag(ECHO) && lflag(ECHOCTL)) {
      echo_raw('^');
      echo_raw('\b');
    }
  } else if (lflag(IEXTEN) && is_cc(c, VREPRINT)) {
    if (lflag(ECHO)) {
      echo(c);
      echo_raw('\n');
      for (u32 i = tty.line; i != tty.head; i++) echo(at(i));
    }
  } else if (is_cc(c, VEOF)) {
    store(0, true, true);
  } else if (c == '\n' || is_cc(c, VEOL) || (lflag(IEXTEN) && is_cc(c, VEOL2))) {
    if (lflag(ECHO) || (c == '\n' && lflag(ECHONL))) echo(c);
    store(c, true, false);
    tty.line_column = tty.column;
  } else {
    return false;
  }
  return true;
}

// False: there is no room, and a reader has something to read first.
static bool input_char(u8 c) {
  if (iflag(ISTRIP)) c &= 0x7f;
  if (!tty.literal) {
    if (iflag(IXON)) {
      if (is_cc(c, VSTOP)) return tty.stopped = true;
      if (is_cc(c, VSTART) || (tty.stopped && iflag(IXANY))) tty.stopped = false;
      if (is_cc(c, VSTART)) return true;
    }
    if (control_signal(c)) return true;
    if (c == '\r') {
      if (iflag(IGNCR)) return true;
      if (iflag(ICRNL)) c = '\n';
    } else if (c == '\n' && iflag(INLCR)) {
      c = '\r';
    }
  }
  bool canon = lflag(ICANON), literal = tty.literal;
  if (tty.head - tty.tail >= BUFFER_BYTES - 1 && !(canon && tty.line == tty.tail)) return false;
  tty.literal = false; // also when this one finds no room in its line: or neither its end nor ^C would mean anything again
  if (canon && !literal && canonical_char(c)) return true;
  if (canon && tty.head - tty.line >= LINE_MAX) { // an endless line: nothing but its end is taken any more
    if (iflag(IMAXBEL)) echo_raw('\a');
    return true;
  }
  if (canon && tty.head == tty.line) tty.line_column = tty.column;
  if (lflag(ECHO)) echo(c);
  store(c, !canon, false);
  return true;
}

static size_t tty_rx(const u8 *data, size_t n) {
  size_t took = 0;
  u64 flags = spin_lock_irqsave(&tty.lock);
  while (took < n && input_char(data[took])) took++;
  spin_unlock_irqrestore(&tty.lock, flags);
  waitq_wake_all(&tty.wait);
  waitq_wake_all(console_waitq(CONSOLE_OUT)); // ^Q
  return took;
}

// --- reading

static u32 readable_locked(void) { return tty.line - tty.tail; } // in raw mode every byte ends a "line"

static size_t readable(void) {
  u64 flags = spin_lock_irqsave(&tty.lock);
  u32 n = readable_locked();
  spin_unlock_irqrestore(&tty.lock, flags);
  return n;
}

// Takes what a read gets now. *eof: an end of file was met, and nothing before it.
static size_t take(u8 *buf, size_t n, bool *eof) {
  size_t got = 0;
  *eof = false;
  u64 flags = spin_lock_irqsave(&tty.lock);
  bool canon = lflag(ICANON);
  while (readable_locked()) {
    u32 i = tty.tail % BUFFER_BYTES;
    if (bit_test(tty.eofs, i)) { // also right after a full buffer: it ends this read, not the next
      tty.tail++;
      *eof = got == 0;
      break;
    }
    if (got == n) break;
    buf[got++] = tty.buf[i];
    tty.tail++;
    if (canon && bit_test(tty.ends, i)) break;
  }
  spin_unlock_irqrestore(&tty.lock, flags);
  console_input_resume();
  return got;
}

static int background_check(int signo, bool enabled) {
  struct tty_caller c;
  if (!enabled || !tty.hooks.caller || !tty.hooks.background) return 0;
  tty.hooks.caller(&c);
  int fg = tty_foreground();
  return c.sid == tty_session() && fg && c.pgid != fg ? tty.hooks.background(c.pgid, signo) : 0;
}

// MIN and TIME of non-canonical mode (POSIX 11.1.7): how many bytes to wait for, how long.
static int wait_raw(size_t n) {
  u8 min = tty.t.c_cc[VMIN], time = tty.t.c_cc[VTIME];
  u64 step = time * 100 * NS_PER_MS;
  size_t want = MIN((size_t)MAX(min, (u8)1), n), have;
  if (!min && !time) return 0;
  u64 deadline = !min ? time_ns() + step : WAIT_FOREVER;
  while ((have = readable()) < want) {
    if (min && time) deadline = have ? time_ns() + step : WAIT_FOREVER; // between bytes
    int err = wait_event_timeout(&tty.wait, readable() > have || lflag(ICANON), deadline);
    if (err) return err == -ETIMEDOUT ? 0 : err;
    if (lflag(ICANON)) return 0;
  }
  return 0;
}

long tty_read(void *buf, size_t n, bool nonblock) {
  bool eof;
  if (n == 0) return 0;
  int err = background_check(SIGTTIN_, true);
  if (err) return err;
  for (;;) {
    if (!readable()) {
      if (nonblock) return -EAGAIN;
      bool canon = lflag(ICANON);
      err = canon ? wait_event_interruptible(&tty.wait, readable() || !lflag(ICANON)) : wait_raw(n);
      if (err) return err;
      if (!canon && !readable() && !tty.t.c_cc[VMIN]) return 0;
    } else if (!lflag(ICANON) && !nonblock && (err = wait_raw(n))) {
      return err;
    }
    size_t got = take(buf, n, &eof);
    if (got || eof) return (long)got;
  }
}

// --- writing

long tty_write(const void *data, size_t n, bool nonblock) {
  const u8 *p = data;
  size_t done = 0;
  int err = background_check(SIGTTOU_, lflag(TOSTOP));
  if (!err) err = mutex_lock_interruptible(&tty.write_lock);
  if (err) return err;
  while (done < n) {
    u8 out[256];
    if (tty.stopped || console_writable(CONSOLE_OUT) < sizeof(out)) {
      err = nonblock ? -EAGAIN : wait_event_interruptible(console_waitq(CONSOLE_OUT), !READ_ONCE(tty.stopped) && console_writable(CONSOLE_OUT) >= sizeof(out));
      if (err) break;
    }
    unsigned len = 0;
    u64 flags = spin_lock_irqsave(&tty.lock);
    while (done < n && len + 8 <= sizeof(out)) len += output_char(p[done++], out + len);
    if (tty.head == tty.line) tty.line_column = tty.column;
    spin_unlock_irqrestore(&tty.lock, flags);
    console_write(CONSOLE_OUT, out, len); // there was room, save for what was echoed meanwhile
  }
  mutex_unlock(&tty.write_lock);
  return done ? (long)done : err;
}

u32 tty_poll_events(void) {
  return (readable() ? 1u : 0) | (!READ_ONCE(tty.stopped) && console_writable(CONSOLE_OUT) >= 256 ? 2u : 0);
}

// --- settings

static void termios_set(const struct termios2 *t) {
  u64 flags = spin_lock_irqsave(&tty.lock);
  bool was_canon = lflag(ICANON);
  tty.t = *t;
  if (was_canon != lflag(ICANON)) {
    // What was typed stays readable: as bytes from now on, or, bytes so far, as one line.
    if (!was_canon) {
      for (u32 i = tty.tail; i != tty.head; i++) bit_clear(tty.ends, i % BUFFER_BYTES);
      if (tty.head != tty.tail) bit_set(tty.ends, (tty.head - 1) % BUFFER_BYTES);
    }
    tty.line = tty.head;
    tty.literal = false;
  }
  if (!iflag(IXON)) tty.stopped = false;
  spin_unlock_irqrestore(&tty.lock, flags);
  waitq_wake_all(&tty.wait);
  waitq_wake_all(console_waitq(CONSOLE_OUT));
}

static int drain_output(void) { return wait_event_interruptible(console_waitq(CONSOLE_OUT), console_unsent(CONSOLE_OUT) == 0); }

static void discard_input(void) {
  u64 flags = spin_lock_irqsave(&tty.lock);
  tty.tail = tty.line = tty.head;
  spin_unlock_irqrestore(&tty.lock, flags);
  console_input_resume();
}

// struct termios is the first part of termios2.
static long set_from_user(u32 base, u32 cmd, uptr arg, size_t size) {
  struct termios2 t = tty.t;
  if (copy_from_user(&t, arg, size)) return -EFAULT;
  int err = background_check(SIGTTOU_, true);
  if (!err && cmd != base) err = drain_output();
  if (err) return err;
  if (cmd == base + 2) discard_input();
  termios_set(&t);
  return 0;
}

static long job_ioctl(u32 cmd, uptr arg) {
  struct tty_caller c;
  int v;
  if (!tty.hooks.caller) return -ENOTTY;
  tty.hooks.caller(&c);
  bool mine = c.sid == tty_session();
  switch (cmd) {
  case TIOCSCTTY:
    if (mine) return 0;
    if (!c.leader || (tty_session() && !(arg == 1))) return -EPERM;
    tty_set_session(c.sid, c.pgid);
    return 0;
  case TIOCNOTTY:
    if (!mine) return -ENOTTY;
    if (c.leader) tty_set_session(0, 0);
    return 0;
  case TIOCGPGRP:
    if (!mine) return -ENOTTY;
    v = tty_foreground();
    return copy_to_user(arg, &v, sizeof(v));
  case TIOCGSID:
    if (!mine) return -ENOTTY;
    v = tty_session();
    return copy_to_user(arg, &v, sizeof(v));
  default: { // TIOCSPGRP
    if (!mine) return -ENOTTY;
    int err = background_check(SIGTTOU_, true);
    if (err) return err;
    if (copy_from_user(&v, arg, sizeof(v))) return -EFAULT;
    if (v < 0) return -EINVAL;
    if (!tty.hooks.group_in_session(v, c.sid)) return -EPERM;
    WRITE_ONCE(tty.foreground, v);
    return 0;
  }
  }
}

long tty_ioctl(u32 cmd, uptr arg) {
  struct winsize_k w;
  struct termios2 t;
  int n;
  switch (cmd) {
  case TCGETS: case TCGETS2: {
    u64 flags = spin_lock_irqsave(&tty.lock);
    t = tty.t;
    spin_unlock_irqrestore(&tty.lock, flags);
    return copy_to_user(arg, &t, cmd == TCGETS ? sizeof(struct termios) : sizeof(t));
  }
  case TCSETS: case TCSETSW: case TCSETSF: return set_from_user(TCSETS, cmd, arg, sizeof(struct termios));
  case TCSETS2: case TCSETSW2: case TCSETSF2: return set_from_user(TCSETS2, cmd, arg, sizeof(struct termios2));
  case TIOCGWINSZ:
    w = tty.size;
    return copy_to_user(arg, &w, sizeof(w));
  case TIOCSWINSZ:
    if (copy_from_user(&w, arg, sizeof(w))) return -EFAULT;
    tty.size.xpixel = w.xpixel;
    tty.size.ypixel = w.ypixel;
    tty_set_winsize(w.rows, w.cols);
    return 0;
  case TCSBRK: case TCSBRKP: return drain_output();
  case TCXONC:
    if (arg == TCOOFF) tty.stopped = true;
    else if (arg == TCOON) tty.stopped = false;
    else if (arg != TCIOFF && arg != TCION) return -EINVAL;
    waitq_wake_all(console_waitq(CONSOLE_OUT));
    return 0;
  case TCFLSH:
    if (arg != TCIFLUSH && arg != TCOFLUSH && arg != TCIOFLUSH) return -EINVAL;
    if (arg != TCOFLUSH) discard_input(); // output is with the host already
    return 0;
  case FIONREAD:
    n = (int)readable();
    return copy_to_user(arg, &n, sizeof(n));
  case TIOCOUTQ:
    n = (int)console_unsent(CONSOLE_OUT);
    return copy_to_user(arg, &n, sizeof(n));
  case TIOCGETD:
    n = 0;
    return copy_to_user(arg, &n, sizeof(n));
  case TIOCEXCL: case TIOCNXCL: return 0;
  case TIOCSCTTY: case TIOCNOTTY: case TIOCGPGRP: case TIOCSPGRP: case TIOCGSID: return job_ioctl(cmd, arg);
  default: return -ENOTTY;
  }
}

void tty_init(void) {
  static const u8 keys[] = { [VINTR] = 3, [VQUIT] = 28, [VERASE] = 127, [VKILL] = 21, [VEOF] = 4, [VMIN] = 1, [VSTART] = 17,
                             [VSTOP] = 19, [VSUSP] = 26, [VREPRINT] = 18, [VDISCARD] = 15, [VWERASE] = 23, [VLNEXT] = 22 };
  spin_init(&tty.lock, RANK_OBJECT);
  tty.t = (struct termios2){ .c_iflag = ICRNL | IXON | IUTF8, .c_oflag = OPOST | ONLCR, .c_cflag = B38400 | CS8 | CREAD | HUPCL,
                             .c_lflag = ISIG | ICANON | ECHO | ECHOE | ECHOK | ECHOCTL | ECHOKE | IEXTEN, .c_ispeed = 38400, .c_ospeed = 38400 };
  memcpy(tty.t.c_cc, keys, sizeof(keys));
  tty.size = (struct winsize_k){ host_hints.rows, host_hints.cols, 0, 0 };
  waitq_init(&tty.wait);
  work_init(&tty.signal_work, signals_run);
  mutex_init(&tty.write_lock, RANK_INODE);
  if (!console_is_tty()) return;
  console_on_resize(tty_set_winsize);
  console_set_input(tty_rx);
}

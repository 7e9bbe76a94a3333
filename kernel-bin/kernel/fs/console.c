// SPDX-License-Identifier: Apache-2.0
//
// Files on the console. With a terminal, /dev/console and /dev/tty are it, and process 1's three descriptors are
// /dev/console. Without one they are streams, as pipes are: no terminal settings, end of file when the host closed stdin.

#include "drv/drv.h"
#include "fs/internal.h"

#define FIONREAD 0x541b
enum { POLLIN_ = 1, POLLOUT_ = 4, POLLHUP_ = 16, POLLRDNORM_ = 64, POLLWRNORM_ = 256 };
#define RDEV_TTY MKDEV(5, 0)
#define RDEV_CONSOLE MKDEV(5, 1)

// Reads into kernel memory, then to the program; a write the other way round. In pieces that fit a page.
static long copy_read(struct iter *it, long (*read)(void *buf, size_t n, bool nonblock), bool nonblock) {
  u8 small[256], *buf = it->left <= sizeof(small) ? small : kmalloc(PAGE_SIZE, 0);
  if (!buf) return -ENOMEM;
  long n = read(buf, MIN(it->left, buf == small ? sizeof(small) : PAGE_SIZE), nonblock);
  if (n > 0 && iter_to(it, buf, (size_t)n) < (size_t)n) n = -EFAULT;
  if (buf != small) kfree(buf);
  return n;
}

static long copy_write(struct iter *it, int port, long (*write)(int port, const void *buf, size_t n, bool nonblock), bool nonblock) {
  u8 small[256], *buf = it->left <= sizeof(small) ? small : kmalloc(PAGE_SIZE, 0);
  size_t cap = buf == small ? sizeof(small) : PAGE_SIZE;
  long total = 0, r = buf ? 0 : -ENOMEM;
  while (it->left && r >= 0) {
    size_t want = MIN(it->left, cap), n = iter_from(it, buf, want);
    if (!n) {
      r = -EFAULT;
      break;
    }
    r = write(port, buf, n, nonblock);
    if (r > 0) total += r;
    if (r >= 0 && (size_t)r < n) break; // the rest was taken from the program's memory but not from its file
    if (n < want) r = -EFAULT;
  }
  if (buf && buf != small) kfree(buf);
  return total ? total : r;
}

// --- the terminal
static long tty_write_port(int port, const void *buf, size_t n, bool nonblock) { return tty_write(buf, n, nonblock); }
static long term_read(struct file *f, struct iter *it, u64 *pos) { return copy_read(it, tty_read, (f->flags & O_NONBLOCK) != 0); }
static long term_write(struct file *f, struct iter *it, u64 *pos) { return copy_write(it, 0, tty_write_port, (f->flags & O_NONBLOCK) != 0); }
static u32 term_poll(struct file *f, struct poll_table *t) {
  poll_wait(t, tty_waitq(), f);
  poll_wait(t, console_waitq(CONSOLE_OUT), f);
  u32 e = tty_poll_events();
  return (e & 1 ? POLLIN_ | POLLRDNORM_ : 0u) | (e & 2 ? POLLOUT_ | POLLWRNORM_ : 0u);
}
static long term_ioctl(struct file *f, u32 cmd, uptr arg) { return tty_ioctl(cmd, arg); }
static const struct file_ops term_ops = { .read = term_read, .write = term_write, .poll = term_poll, .ioctl = term_ioctl };

static int dev_tty_open(struct file *f) { return console_is_tty() && tty_is_callers() ? 0 : -ENXIO; }

// --- streams; file->priv is the port
static int port_of(const struct file *f) { return (int)(uintptr_t)f->priv; }
static long stream_read(struct file *f, struct iter *it, u64 *pos) {
  return port_of(f) == CONSOLE_IN ? copy_read(it, console_read, (f->flags & O_NONBLOCK) != 0) : -EBADF;
}
static long stream_write(struct file *f, struct iter *it, u64 *pos) { return copy_write(it, port_of(f), console_send, (f->flags & O_NONBLOCK) != 0); }
static u32 stream_poll(struct file *f, struct poll_table *t) {
  bool eof;
  poll_wait(t, console_waitq(port_of(f)), f);
  if (port_of(f) != CONSOLE_IN) return console_writable(port_of(f)) >= PAGE_SIZE ? POLLOUT_ | POLLWRNORM_ : 0;
  u32 e = console_readable(&eof) ? POLLIN_ | POLLRDNORM_ : 0;
  return eof ? e | POLLHUP_ : e;
}
static long stream_ioctl(struct file *f, u32 cmd, uptr arg) {
  bool eof;
  if (cmd != FIONREAD || port_of(f) != CONSOLE_IN) return -ENOTTY;
  int n = (int)console_readable(&eof);
  return copy_to_user(arg, &n, sizeof(n));
}
static void stream_describe(struct file *f, char *buf, size_t n) { snprintf(buf, n, "pipe:[%llu]", (unsigned long long)f->id); }
static const struct file_ops stream_ops = { .read = stream_read, .write = stream_write, .poll = stream_poll, .ioctl = stream_ioctl, .describe = stream_describe };
static const struct file_ops dev_console_ops = { .write = stream_write, .poll = stream_poll, .ioctl = stream_ioctl };

struct file *console_file(int which) {
  static const int ports[] = { CONSOLE_IN, CONSOLE_OUT, CONSOLE_ERR };
  struct file *f;
  if (console_is_tty()) {
    f = path_open(AT_FDCWD, "/dev/console", O_RDWR, 0);
    if (is_err(f)) f = file_create(&term_ops, NULL, O_RDWR); // no /dev in this policy
  } else {
    f = file_create(&stream_ops, (void *)(uintptr_t)ports[which], which == 0 ? O_RDONLY : O_WRONLY);
  }
  return f ? f : err_ptr(-ENFILE);
}

int console_add_nodes(void) {
  const struct file_ops *ops = console_is_tty() ? &term_ops : &dev_console_ops;
  int err = devfs_add("console", 0600, RDEV_CONSOLE, ops, (void *)(uintptr_t)CONSOLE_OUT);
  if (!err) err = chrdev_register(RDEV_TTY, &term_ops, NULL, dev_tty_open);
  if (!err) err = devfs_add("tty", 0666, RDEV_TTY, NULL, NULL);
  return err;
}

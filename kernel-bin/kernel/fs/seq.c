// SPDX-License-Identifier: Apache-2.0
//
// Generated text files: the text is made once, at open, and served from memory.
#include "fs/internal.h"

static bool grow(struct seq *s, size_t more) {
  if (s->failed) return false;
  if (s->len + more <= s->cap) return true;
  size_t cap = MAX(s->cap * 2, (size_t)1024);
  while (cap < s->len + more) cap *= 2;
  char *buf = cap <= 4 * MIB ? kmalloc(cap, 0) : NULL;
  if (!buf) {
    s->failed = true;
    return false;
  }
  if (s->len) memcpy(buf, s->buf, s->len);
  kfree(s->buf);
  s->buf = buf;
  s->cap = cap;
  return true;
}

void seq_printf(struct seq *s, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(s->buf + s->len, s->cap - s->len, fmt, ap);
  va_end(ap);
  if (n < 0) return;
  if (s->len + (size_t)n >= s->cap) { // the terminating byte needs room as well
    if (!grow(s, (size_t)n + 1)) return;
    va_start(ap, fmt);
    vsnprintf(s->buf + s->len, s->cap - s->len, fmt, ap);
    va_end(ap);
  }
  s->len += (size_t)n;
}

void seq_write(struct seq *s, const void *data, size_t n) {
  if (!grow(s, n)) return;
  memcpy(s->buf + s->len, data, n);
  s->len += n;
}

static long seq_read(struct file *f, struct iter *it, u64 *pos) {
  struct seq *s = f->priv;
  if (*pos >= s->len) return 0;
  size_t n = MIN((size_t)it->left, s->len - (size_t)*pos);
  size_t done = iter_to(it, s->buf + *pos, n);
  *pos += done;
  return done || !n ? (long)done : -EFAULT;
}

static long seq_seek(struct file *f, s64 off, int whence) {
  s64 base = whence == 0 ? 0 : whence == 1 ? (s64)f->pos : -1;
  if (base < 0 || off < -base) return -EINVAL; // the size is not known to a program: no SEEK_END
  return (long)(f->pos = (u64)(base + off));
}

static void seq_release(struct file *f) {
  struct seq *s = f->priv;
  kfree(s->buf);
  kfree(s);
}

const struct file_ops seq_file_ops = { .read = seq_read, .seek = seq_seek, .release = seq_release };

int seq_open(struct file *f, int (*show)(struct seq *s, void *arg), void *arg) {
  struct seq *s = kzalloc(sizeof *s);
  if (!s) return -ENOMEM;
  int r = show(s, arg);
  if (!r && s->failed) r = -ENOMEM;
  if (r) {
    kfree(s->buf);
    kfree(s);
    return r;
  }
  f->priv = s;
  f->ops = &seq_file_ops;
  return 0;
}

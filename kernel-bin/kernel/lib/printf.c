// SPDX-License-Identifier: Apache-2.0
//
// vsnprintf: %d %i %u %x %X %o %c %s %p %% with flags 0 - + space #, width, precision (numbers or *), lengths
// hh h l ll z j t. No floating point. Returns what the whole text would take, like C's.
#include "lib/lib.h"

struct out { char *buf; size_t size; size_t n; };

static void put(struct out *o, char c) {
  if (o->n + 1 < o->size) o->buf[o->n] = c;
  o->n++;
}

static void pad(struct out *o, char c, long n) {
  while (n-- > 0) put(o, c);
}

struct spec { bool zero, left, plus, space, alt; long width, precision; }; // precision -1: none given

static void put_number(struct out *o, const struct spec *s, u64 v, bool negative, unsigned base, bool upper) {
  char digits[24];
  const char *set = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  long n = 0;
  bool nonzero = v != 0;
  for (; v; v /= base) digits[n++] = set[v % base];
  const char *prefix = negative ? "-" : s->plus ? "+" : s->space ? " " : "";
  if (s->alt && base == 16 && nonzero) prefix = upper ? "0X" : "0x";
  long zeros = (s->precision >= 0 ? s->precision : 1) - n;
  if (zeros < 0) zeros = 0;
  if (s->alt && base == 8 && zeros == 0) zeros = 1;
  long len = (long)strlen(prefix) + zeros + n;
  if (s->zero && !s->left && s->precision < 0 && len < s->width) {
    zeros += s->width - len;
    len = s->width;
  }
  if (!s->left) pad(o, ' ', s->width - len);
  while (*prefix) put(o, *prefix++);
  pad(o, '0', zeros);
  while (n) put(o, digits[--n]);
  if (s->left) pad(o, ' ', s->width - len);
}

static void put_string(struct out *o, const struct spec *s, const char *text) {
  if (!text) text = "(null)";
  long len = (long)(s->precision >= 0 ? strnlen(text, (size_t)s->precision) : strlen(text));
  if (!s->left) pad(o, ' ', s->width - len);
  for (long i = 0; i < len; i++) put(o, text[i]);
  if (s->left) pad(o, ' ', s->width - len);
}

static long read_number(const char **fmt) {
  long n = 0;
  for (; **fmt >= '0' && **fmt <= '9' && n < 100000; (*fmt)++) n = n * 10 + (**fmt - '0');
  return n;
}

int vsnprintf(char *buf, size_t size, const char *fmt, va_list args) {
  struct out o = { buf, size, 0 };
  va_list ap;
  va_copy(ap, args);
  for (; *fmt; fmt++) {
    if (*fmt != '%') {
      put(&o, *fmt);
      continue;
    }
    fmt++;
    struct spec s = { .precision = -1 };
    for (;; fmt++) {
      if (*fmt == '0') s.zero = true;
      else if (*fmt == '-') s.left = true;
      else if (*fmt == '+') s.plus = true;
      else if (*fmt == ' ') s.space = true;
      else if (*fmt == '#') s.alt = true;
      else break;
    }
    if (*fmt == '*') {
      s.width = va_arg(ap, int);
      if (s.width < 0) s.left = true, s.width = -s.width;
      fmt++;
    } else {
      s.width = read_number(&fmt);
    }
    if (*fmt == '.') {
      fmt++;
      if (*fmt == '*') s.precision = va_arg(ap, int), fmt++;
      else s.precision = read_number(&fmt);
    }
    int size_bytes = 4;
    for (;; fmt++) {
      if (*fmt == 'h') size_bytes /= 2;
      else if (*fmt == 'l' || *fmt == 'z' || *fmt == 'j' || *fmt == 't') size_bytes = 8;
      else break;
    }
    switch (*fmt) {
      case 'd': case 'i': {
        s64 v = size_bytes == 8 ? va_arg(ap, s64) : va_arg(ap, int);
        if (size_bytes == 2) v = (s16)v;
        if (size_bytes == 1) v = (s8)v;
        put_number(&o, &s, v < 0 ? 0 - (u64)v : (u64)v, v < 0, 10, false);
        break;
      }
      case 'u': case 'x': case 'X': case 'o': {
        u64 v = size_bytes == 8 ? va_arg(ap, u64) : va_arg(ap, unsigned);
        if (size_bytes == 2) v = (u16)v;
        if (size_bytes == 1) v = (u8)v;
        s.plus = s.space = false;
        put_number(&o, &s, v, false, *fmt == 'u' ? 10 : *fmt == 'o' ? 8 : 16, *fmt == 'X');
        break;
      }
      case 'p':
        s.alt = true;
        put_number(&o, &s, (u64)(uintptr_t)va_arg(ap, void *), false, 16, false);
        break;
      case 'c': {
        char text[2] = { (char)va_arg(ap, int), 0 };
        if (!s.left) pad(&o, ' ', s.width - 1);
        put(&o, text[0]);
        if (s.left) pad(&o, ' ', s.width - 1);
        break;
      }
      case 's': put_string(&o, &s, va_arg(ap, const char *)); break;
      case '%': put(&o, '%'); break;
      case 0: fmt--; break;
      default: put(&o, '%'); put(&o, *fmt); break;
    }
  }
  va_end(ap);
  if (size) buf[o.n < size ? o.n : size - 1] = 0;
  return (int)o.n;
}

int snprintf(char *buf, size_t size, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  int n = vsnprintf(buf, size, fmt, ap);
  va_end(ap);
  return n;
}

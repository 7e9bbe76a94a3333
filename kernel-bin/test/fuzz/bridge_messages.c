// SPDX-License-Identifier: Apache-2.0
// Bytes of a guest's control and datagram streams against the bridge's parsers. The host's side of them (sockets) is
// replaced by stand-ins that check what they are given.
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "../../bridge/message.c"

static void must(bool ok) { if (!ok) abort(); }
void host_listen(uint32_t id, const struct wire_addr *a, uint32_t backlog) { must(addr_valid(a, false) && backlog >= 1 && backlog <= WIRE_BACKLOG_MAX && a->port); }
void host_unlisten(uint32_t id) {}
void host_accepted(uint32_t id, uint32_t count) {}
bool host_connect(uint32_t id, const struct wire_addr *r, const struct wire_addr *l) { must(addr_valid(r, false) && addr_valid(l, true)); control_connect_failed(id, EACCES); return true; }
void host_cancel(uint32_t id) {}
void host_forget_guest(void) {}
bool host_flushed(void) { return true; }
bool udp_open(uint32_t id, const struct wire_addr *l) { must(addr_valid(l, false)); return true; }
void udp_send(uint32_t id, const struct wire_addr *r, const void *data, size_t len) {
  static volatile uint8_t sum;
  must(addr_valid(r, false) && len <= WIRE_UDP_MAX);
  for (size_t i = 0; i < len; i++) sum = (uint8_t)(sum + ((const uint8_t *)data)[i]);
}
void udp_close(uint32_t id) {}
void udp_forget_guest(void) {}
void say(const char *fmt, ...) {}
void say_guest(const char *kind, const char *text) { must(strlen(text) <= WIRE_LAST_WORDS_MAX + 100); }
void note(const char *fmt, ...) {}
uint64_t loop_now_ns(void) { return 1; }
void stream_ready(struct stream *s) { s->source_ready = true; }
void stream_forwarded(struct stream *s, size_t n) {}
void stream_end(struct stream *s) {}
size_t iov_read(const struct iovec *iov, unsigned n, size_t off, void *dst, size_t len) {
  must(n == 1 && off <= iov->iov_len);
  len = min_size(len, iov->iov_len - off);
  memcpy(dst, (uint8_t *)iov->iov_base + off, len);
  return len;
}
size_t iov_write(const struct iovec *iov, unsigned n, size_t off, const void *src, size_t len) {
  must(n == 1 && off + len <= iov->iov_len);
  memcpy((uint8_t *)iov->iov_base + off, src, len);
  return len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct stream *s;
  const struct stream_ops *ops;
  if (!size) return 0;
  bool dgram = *data & 1;
  size_t step = 1 + (*data >> 1);
  data++, size--;
  if (dgram) dgram_accept(&s, &ops);
  else control_accept(&s, &ops);
  *s = (struct stream){ .state = STREAM_OPEN };
  if (!dgram) {
    struct wire_hello h = { { sizeof(h), WIRE_HELLO, 0, 0 }, WIRE_HELLO_MAGIC, 1, 1, 0 };
    struct iovec iov = { &h, sizeof(h) };
    if (step & 1) ops->data(s, &iov, 1, sizeof(h));
  }
  while (size) { // in pieces
    size_t n = min_size(step, size);
    uint8_t *copy = malloc(n);
    memcpy(copy, data, n);
    struct iovec iov = { copy, n };
    bool ok = ops->data(s, &iov, 1, n);
    free(copy);
    data += n;
    size -= n;
    if (!ok) break;
    uint8_t out[700];
    struct iovec to = { out, sizeof(out) };
    ops->fill(s, &to, 1, sizeof(out));
  }
  ops->gone(s);
  return 0;
}

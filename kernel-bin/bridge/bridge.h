// SPDX-License-Identifier: Apache-2.0
//
// gramine-bridge: the host's side of the guest's network. One thread, one epoll loop. Four parts, each includes only
// what is above it here: rings (vhost.c), streams (stream.c), messages (control.c, dgram.c), host sockets (host.c).
// The guest and QEMU are hostile: every index, address and length is checked, a wrong one ends the guest's session
// (bridge_guest_lied), never the bridge (threat-model H2, H3). docs/bridge-protocol.md is the protocol.
#ifndef BRIDGE_H
#define BRIDGE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include "../kernel/net/wire.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, member) ((type *)(void *)((char *)(p) - offsetof(type, member)))
static inline size_t min_size(size_t a, size_t b) { return a < b ? a : b; }

// --- the loop (main.c)
struct source { void (*ready)(struct source *s, uint32_t events); }; // in an epoll event's data pointer
int loop_add(int fd, uint32_t events, struct source *s);
int loop_change(int fd, uint32_t events, struct source *s);
void loop_remove(int fd);
uint64_t loop_now_ns(void);        // monotonic, once per turn
extern bool verbose;
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));        // a line to the launcher (control fd)
void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));       // stderr, with --verbose
// A line that the guest can provoke: bounded in number, control characters replaced.
void say_guest(const char *kind, const char *text);
void die(const char *kind, const char *fmt, ...) __attribute__((noreturn, format(printf, 2, 3))); // error line, exit 1
void *must_alloc(size_t n);        // zeroed

// --- rings (vhost.c)
enum { RING_TO_GUEST, RING_FROM_GUEST, RING_COUNT };
#define CHAIN_IOVS 160
struct chain { uint16_t head; unsigned niov; size_t len; struct iovec iov[CHAIN_IOVS]; };
void vhost_listen(const char *path);
bool ring_up(int ring);
// The chain `ahead` places after the next one: 1 and fills c, 0 none, -1 a lie (the ring is dead then). to_guest rings
// must hold buffers that the device writes, the other kind buffers that it reads.
int ring_peek(int ring, unsigned ahead, struct chain *c);
void ring_used(int ring, const struct chain *c, size_t written); // in order of peeking; consumes it
bool ring_publish(int ring);       // makes ring_used's visible and interrupts the guest if it wants that; false: none
bool ring_want_kick(int ring);     // asks for a doorbell; true: there is work already
// Copies between a chain and private memory, at an offset: the count that fitted.
size_t iov_write(const struct iovec *iov, unsigned n, size_t off, const void *src, size_t len);
size_t iov_read(const struct iovec *iov, unsigned n, size_t off, void *dst, size_t len);
// The part of a chain after `off`, at most `len` bytes: number of iovecs.
unsigned iov_slice(const struct iovec *iov, unsigned n, size_t off, size_t len, struct iovec *out, unsigned max);
void ring_lied(int ring, const char *what); // ends the ring
void bridge_guest_lied(const char *what);
void bridge_guest_gone(void);      // QEMU closed its end or reset the device

// --- byte queues
struct bytes { uint8_t *data; size_t head, len, cap; };
bool bytes_put(struct bytes *b, const void *src, size_t n); // false: no memory
bool bytes_put_iov(struct bytes *b, const struct iovec *iov, unsigned n);
void bytes_take(struct bytes *b, size_t n);
void bytes_free(struct bytes *b);

// --- streams (stream.c): virtio-vsock connections with credit
#define STREAM_BUF 262144u         // what we hold for a stream whose far end does not take it
enum stream_state { STREAM_FREE, STREAM_REQUESTED, STREAM_OPEN };
enum { PEND_REQUEST = 1, PEND_RESPONSE = 2, PEND_CREDIT = 4, PEND_FIN = 8 };
struct stream;
struct stream_ops {
  void (*opened)(struct stream *s);                       // the guest answered our REQUEST
  // Bytes from the guest: takes all of them, keeps what it cannot use yet. False: reset the stream.
  bool (*data)(struct stream *s, const struct iovec *iov, unsigned n, size_t len);
  void (*guest_fin)(struct stream *s, bool both);         // the guest sends no more (both: it closed)
  // Fills the buffers with bytes for the guest: count, 0: none now, -1: end of stream (sends FIN), -2: reset (stream_end follows).
  long (*fill)(struct stream *s, const struct iovec *iov, unsigned n, size_t len);
  void (*gone)(struct stream *s);                         // last call: the stream ended, by either side
};
struct stream {
  const struct stream_ops *ops;
  uint8_t state, pending;
  bool queued, fin_sent, guest_shut_send, guest_shut_recv;
  bool source_ready;                       // fill() may have something; fill's owner clears it
  bool bulk;                               // the last fill took all it was offered: offer more
  uint32_t port, guest_port;
  uint32_t tx_cnt, guest_buf, guest_fwd;   // to the guest
  uint32_t rx_cnt, fwd_cnt, fwd_told;      // from the guest
  uint8_t prefix[sizeof(struct wire_prefix)];
  bool prefix_due;
  struct stream *next, **pprev;            // ready list
  void *owner;
};
// Opens a stream to the guest's data port; owner frees `s` after ops->gone. False: too many.
bool stream_open(struct stream *s, const struct stream_ops *ops, void *owner, const struct wire_prefix *prefix);
void stream_ready(struct stream *s);                      // fill() has something, or pending is set
void stream_forwarded(struct stream *s, size_t n);        // n bytes of the guest's left our buffer
void stream_end(struct stream *s);                        // RST to the guest (after its close: the answer to it), then gone
bool streams_from_guest(void);                            // handles what the guest queued; true: there was some
bool streams_to_guest(void);                              // fills the guest's buffers from the ready list; true: some
void streams_drop_all(void);
unsigned streams_count(void);
bool streams_waiting(void);                               // something is ready for the guest
bool stream_accept(uint32_t host_port, struct stream **s, const struct stream_ops **ops); // control.c and dgram.c: who listens

// --- messages
void control_signal(unsigned signo);
void control_winsize(unsigned rows, unsigned cols);
void control_connect_failed(uint32_t id, int err);
void message_tick(void);                          // every turn: answers EXIT when it can
bool message_waits(void);                         // such an answer is due
bool control_accept(struct stream **s, const struct stream_ops **ops);
bool dgram_accept(struct stream **s, const struct stream_ops **ops);
bool dgram_to_guest(const void *head, size_t head_len, const void *data, size_t len); // false: dropped
// Cuts a stream of messages: calls `got` for each whole one. False: malformed.
struct framer { uint8_t *buf; size_t len, max; };
bool framer_feed(struct framer *f, const struct iovec *iov, unsigned n, bool (*got)(const struct wire_head *h));

// --- host sockets (host.c, udp.c, allow.c)
bool addr_valid(const struct wire_addr *a, bool any_ok);
void addr_from_sockaddr(struct wire_addr *out, const struct sockaddr_storage *ss);
socklen_t addr_to_sockaddr(struct sockaddr_storage *ss, const struct wire_addr *a);
const char *addr_text(const struct wire_addr *a); // static buffer
void host_publish(const char *spec);              // --publish, binds at once
void host_listen(uint32_t id, const struct wire_addr *a, uint32_t backlog);
void host_unlisten(uint32_t id);
void host_accepted(uint32_t id, uint32_t count);
bool host_connect(uint32_t id, const struct wire_addr *remote, const struct wire_addr *local); // false: too many
void host_cancel(uint32_t id);
void host_tick(void);                             // once a second: closing streams that make no progress
void host_forget_guest(void);                     // the control stream ended: no listeners, no requests
bool host_flushed(void);                          // no closed connection has bytes left for its client
void host_reap(void);                             // end of a turn: frees what events of this turn may still name
extern bool guest_leaving;                        // connections are closed, not reset
bool udp_publish(const struct sockaddr_storage *ss, socklen_t len, uint16_t guest_port, struct sockaddr_storage *bound);
bool udp_open(uint32_t id, const struct wire_addr *local);
void udp_send(uint32_t id, const struct wire_addr *remote, const void *data, size_t len);
void udp_close(uint32_t id);
void udp_forget_guest(void);
extern const struct wire_addr host_alias;         // 10.0.2.2: what the guest calls this host's own loopback address
void allow_add(const char *pattern);              // --outbound
// 0 and the address to use on the host; ENETUNREACH (nothing is allowed), EACCES.
int allow_check(const struct wire_addr *a, bool udp, struct wire_addr *real);
#endif

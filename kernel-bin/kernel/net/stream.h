// SPDX-License-Identifier: Apache-2.0
//
// Reliable byte streams with flow control: to the bridge over vsock (vsock.c), or between two sockets of the guest
// (stream_pair). Received bytes lie in private chunks; nothing waits in a send buffer: a sender writes into the device's
// pages or the peer's chunks, as far as credit goes.
// Locks: st->tx_mutex and st->rx_mutex (RANK_OBJECT) keep one sender and one receiver at a time and are held over copies
// from and to the program, never over a wait. st->lock (RANK_CONN, irqsave) guards the fields; two of them are never
// held together. Wake-ups happen under it, so an owner that took itself off (stream_close) is not touched afterwards.
#ifndef NET_STREAM_H
#define NET_STREAM_H
#include "net/scm.h"
#include "drv/drv.h"
#include "net/wire.h"

struct chunk { struct chunk *next; u32 head, tail, cap; u8 data[]; };
enum stream_state { ST_CONNECTING, ST_OPEN, ST_CLOSING /* no owner; the far end must still confirm */, ST_DEAD };
struct stream {
  struct refcount refs;       // the owner's, the table's or the peer's, the tx wait list's
  struct spinlock lock;
  struct mutex tx_mutex, rx_mutex;
  // under lock:
  enum stream_state state;
  bool paired;                // peer, not vsock
  bool rx_eof;                // the far end sends no more
  bool rx_shut, tx_shut;      // our shutdown(2)
  bool tx_dead;               // the far end takes no more
  bool tx_wanted;             // somebody was told that there is no room
  struct socket *sock;        // woken, and its err set; NULL: nobody
  void (*on_event)(struct stream *st); // called without locks, in any context, when data, an end or an answer came; NULL
  void *owner;                // on_event's
  struct chunk *first, *last; // the last one is kept when empty and small
  u32 rx_bytes, rx_limit;
  struct stream *peer;        // paired: referenced until closed; changes once, to NULL
  struct wire_addr local_addr, peer_addr; // set before it is given to a socket
  struct list accept_link;    // listener's queue, under the listener's lock
  // vsock
  u32 local_port, peer_port;
  struct list hash;           // under the table's lock
  bool hashed;
  u8 pending;                 // packets that must still go out (vsock.c)
  bool tx_nospace, in_tx_wait;// the device had no page; tx_wait: under tx_wait_lock
  struct list tx_wait;
  u32 tx_cnt, peer_fwd, peer_buf;
  u32 rx_cnt, fwd_cnt, fwd_told;
};

#define STREAM_RX_BIG (256u * 1024)
#define STREAM_RX_SMALL (64u * 1024)
struct stream *stream_alloc(void);               // refs 1; any context; NULL
static inline void stream_get(struct stream *st) { ref_get(&st->refs); }
void stream_put(struct stream *st);
int __must_check stream_pair(struct stream *out[2]);

// Bytes, or -EAGAIN, -ERESTARTSYS, -EPIPE, -ECONNRESET, -EFAULT... flags: MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, MSG_TRUNC.
long stream_send(struct stream *st, struct iter *it, u32 flags, u64 deadline_ns);
long stream_recv(struct stream *st, struct iter *it, u32 flags, u64 deadline_ns);
u32 stream_poll(struct stream *st);              // EPOLL*
u32 stream_readable(struct stream *st);          // bytes
void stream_attach(struct stream *st, struct socket *s); // what happens from now on wakes s
void stream_shutdown(struct stream *st, bool rd, bool wr);
void stream_close(struct stream *st, bool abort); // the owner goes, with its reference; abort or unread data: a reset
u32 stream_rx_default(void);                     // receive limit for a new stream, by memory and number of streams

// --- between stream.c and vsock.c
bool stream_append_locked(struct stream *st, u32 n, void (*fill)(void *arg, u8 *dst, u32 off, u32 len), void *arg); // false: no memory
void stream_wake_locked(struct stream *st, u32 events);
void stream_fail_locked(struct stream *st, int err); // the stream is dead: err for the owner
void stream_drop_rx_locked(struct stream *st, struct chunk **freed);
void chunks_free(struct chunk *c);
long vsock_send_some(struct stream *st, struct iter *it); // tx_mutex held: bytes > 0, -EAGAIN, error
u32 vsock_credit_locked(const struct stream *st);
void vsock_consumed(struct stream *st);          // bytes left the receive queue: tell the far end if it may be short
void vsock_shutdown(struct stream *st);          // half-close
void vsock_close(struct stream *st, bool abort);
void vsock_kick(void);

// --- vsock.c
void vsock_init(void);
bool vsock_up(void);
// Connects to a port of the host; on_event reports ST_OPEN or ST_DEAD. NULL.
struct stream *vsock_connect(u32 host_port, void (*on_event)(struct stream *st), void *owner);
// A stream that the bridge opens to WIRE_PORT_DATA: gets this on_event. Irq context.
extern void (*vsock_on_data_stream)(struct stream *st);
void vsock_embryo_done(void);                     // that on_event took the stream or closed it
#endif

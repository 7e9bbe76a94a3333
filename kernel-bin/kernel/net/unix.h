// SPDX-License-Identifier: Apache-2.0
// AF_UNIX's own: sockets, messages, and descriptors in flight (unix.c, unixgc.c).
#ifndef NET_UNIX_H
#define NET_UNIX_H
#include "file/bytering.h"
#include "net/scm.h"
#include <asm/fcntl.h>

#define UNIX_PATH_BYTES 108u
#define SHUT_BIT_RD 1u
#define SHUT_BIT_WR 2u

struct usock {
  struct refcount refs;         // its struct socket (or the listener's pending list), peers, messages, waiting senders
  int type;
  struct waitq wait;            // of this socket's own reads, writes and polls
  struct waitq room;            // others wait for room in our queue or backlog
  u32 shut;                     // SHUT_BIT_*, atomic
  bool connected;               // stream, seqpacket: set once, after peer
  bool listening, closed, refused, want_cred;
  // lock
  struct mutex lock;
  struct bytering ring;         // stream: bytes; pages from the connection on
  struct list queue;            // stream: records (what came with bytes); else messages
  u64 bytes_in, bytes_out;      // stream positions
  u32 queued;
  u64 queued_bytes;
  struct list pending;          // listener: connections not yet accepted
  u32 pending_count, backlog;
  struct ucred_user peercred;   // set before `connected`
  // unix_name_lock
  struct socket *sock;          // NULL: not accepted yet, or closed
  struct usock *peer;           // reference. Stream, seqpacket: constant from `connected` until the end
  struct list senders, sender_link; // datagram: who is connected to us / our place in the peer's list
  struct list name_link;        // abstract names, or the listener's pending list (its lock)
  u8 name[UNIX_PATH_BYTES + 1]; // constant once name_len is set
  u32 name_len;
  bool is_bound_path;
  struct path bound;
  // gc_lock (unixgc.c)
  u32 inflight;                 // how often our file lies in queues
  struct list inflight_link;
  s64 gc_count;                 // of one collection: references not explained by candidates; -1: not a candidate
};
struct umsg { // a message, or a record of a stream: bytes [pos, end) were sent with this
  struct list link;
  u64 pos, end;
  struct file **fds;
  unsigned nfds;
  struct ucred_user cred;
  struct usock *sender;         // reference; NULL in streams
  size_t len;
  u8 data[];
};
extern struct spinlock unix_name_lock;
bool unix_is_socket(const struct socket *s);
void unix_queue_free(struct list *q); // no lock held

// Descriptors in flight: every one in a queue is counted; sockets among them can keep each other alive for ever.
bool unix_inflight_may_add(unsigned n);
void unix_inflight_add(struct file *f);
void unix_inflight_sub(struct file *f);
void unix_inflight_peeked(void);
void unix_gc(void);
#endif

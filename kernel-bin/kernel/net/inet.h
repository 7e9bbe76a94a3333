// SPDX-License-Identifier: Apache-2.0
//
// What AF_INET and AF_INET6 sockets share: addresses, bound ports, options, and the way to the bridge. Addresses are
// kept as the wire has them (struct wire_addr): an IPv4-mapped IPv6 address is stored as family 4 and shown mapped on an
// AF_INET6 socket. The guest's own addresses are the loopback ones and eth0's; nothing sent to them leaves the guest.
// Locks: a socket's lock (RANK_OBJECT, irqsave) may be held when a stream's (RANK_CONN) is taken; the lock of a port
// space and that of the id tables are RANK_OBJECT2.
#ifndef NET_INET_H
#define NET_INET_H
#include "net/stream.h"
#include <linux/eventpoll.h>

// --- addresses (inet_addr.c)
int __must_check inet_addr_parse(const struct socket *s, const struct sockaddr_k *a, u32 len, struct wire_addr *out);
void inet_addr_format(const struct socket *s, const struct wire_addr *a, struct sockaddr_k *out, u32 *len);
bool inet_is_any(const struct wire_addr *a);
bool inet_is_local(const struct wire_addr *a);      // 127.0.0.0/8, ::1, NET_ETH0_ADDR
bool inet_same_ip(const struct wire_addr *a, const struct wire_addr *b);
void inet_loopback(struct wire_addr *a, u16 family); // its address becomes 127.0.0.1 or ::1; the port stays
bool inet_wire_ok(const struct wire_addr *a);       // one from the bridge: an IPv4 address is family 4, never a mapped one
bool inet_published(u16 port, bool udp);            // whether the policy lets the outside in there
static inline u16 inet_family(const struct socket *s) { return s->family == 2 ? 4 : 6; }

// --- bound ports
struct inet_bound { struct list link; struct wire_addr addr; bool on, reuseaddr, reuseport, dual, listening; };
struct port_space { struct spinlock lock; struct list bucket[64]; u16 next; };
void ports_init(struct port_space *p);
// addr.port 0: a free port of the dynamic range. -EADDRINUSE, -EADDRNOTAVAIL.
int __must_check ports_bind(struct port_space *p, struct inet_bound *b);
int __must_check ports_listen(struct port_space *p, struct inet_bound *b); // -EADDRINUSE: another one listens there
void ports_unbind(struct port_space *p, struct inet_bound *b);
// The entry that takes what is sent to `to` (exact address before wildcard, in turn among equals); `get` is called on
// it under the lock and must take a reference, or refuse. NULL.
struct inet_bound *ports_find(struct port_space *p, const struct wire_addr *to, bool listening, bool (*get)(struct inet_bound *b));

// --- options (inet_opt.c)
#define INET_OPTS 40
struct inet_opts { s32 v[INET_OPTS]; char congestion[16]; };
void inet_opts_init(struct inet_opts *o);
enum inet_tcp_state { TCPS_ESTABLISHED = 1, TCPS_SYN_SENT = 2, TCPS_CLOSE = 7, TCPS_CLOSE_WAIT = 8, TCPS_LISTEN = 10 };
int inet_setopt(struct socket *s, struct inet_opts *o, int level, int name, const void *val, u32 len);
int inet_getopt(struct socket *s, struct inet_opts *o, int level, int name, void *val, u32 *len, enum inet_tcp_state state);
bool inet_opt_v6only(const struct inet_opts *o);
bool inet_opt_recverr(const struct inet_opts *o, int family);
bool inet_opt_pktinfo(const struct inet_opts *o, int family);

// --- TCP sockets (inet.c)
void inet_tcp_init(void);
void inet_on_connect_failed(u32 id, int err); // from the bridge
void inet_network_gone(void);                 // the control stream ended: no listener is known, no request answered

// --- UDP sockets (udp.c)
void inet_udp_init(void);
int inet_udp_create(struct socket *s);
void udp_on_message(const struct wire_head *h); // a whole, length-checked message of the datagram stream

// --- the way to the bridge (control.c). Any context but irq unless said; nothing waits for an answer.
bool control_ready(void);
int control_listen(u32 id, const struct wire_addr *a, u32 backlog);  // 0, -ENETUNREACH, -ENOBUFS
void control_unlisten(u32 id);
void control_accepted(u32 id, u32 count);                            // any context
int control_connect(u32 id, const struct wire_addr *remote, const struct wire_addr *local);
void control_cancel(u32 id);
int dgram_send(const void *head, u32 head_len, struct iter *data, u32 len); // one message; drops: -ENOBUFS, -ENETUNREACH, -EFAULT
#endif

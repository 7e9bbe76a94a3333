// SPDX-License-Identifier: Apache-2.0
//
// net: sockets. Families: AF_UNIX (unix.c) and AF_INET/AF_INET6 (inet.c), whose loopback stays in the guest and whose
// rest goes through the bridge over vsock streams (vsock.c); AF_NETLINK answers NETLINK_ROUTE dumps only.
// Sockets are files; file->priv is struct socket.
#ifndef NET_NET_H
#define NET_NET_H
#include "fs/fs.h"

struct sockaddr_k { u16 family; u8 data[126]; };    // as in Linux's sockaddr_storage
struct socket;
// One message on its way. The socket layer fills it from the program's msghdr and takes the answers out of it.
struct msg {
  struct iter it;
  struct sockaddr_k *name; u32 name_len;      // in: size; out: length. recv: NULL when nobody asks
  const u8 *control_in; size_t control_len;   // send: a kernel copy of the control messages, well-formed
  struct file **fds; unsigned nfds;           // SCM_RIGHTS, sent or received: kmalloc'ed array of references, <= SCM_MAX_FD
  bool want_cred, has_cred;                   // recv: SO_PASSCRED; has_cred: cred is valid
  struct { s32 pid; u32 uid, gid; } cred;
  u32 flags_out;                              // recv: MSG_TRUNC, MSG_EOR, MSG_CTRUNC...
  uptr control; u64 control_cap, control_used; // recv: the program's buffer, for msg_put_cmsg
};
// Nothing but `it`, which the caller sets. Field by field: an initialiser would clear the struct with a string
// instruction, which costs a hot path more than all else here.
static inline void msg_init(struct msg *m) {
  m->name = NULL;
  m->name_len = 0;
  m->control_in = NULL;
  m->control_len = 0;
  m->fds = NULL;
  m->nfds = 0;
  m->want_cred = m->has_cred = false;
  m->flags_out = 0;
  m->control = 0;
  m->control_cap = m->control_used = 0;
}
// recv, no lock held: appends one control message to the program's buffer; MSG_CTRUNC when it does not fit. 0 or -EFAULT.
int msg_put_cmsg(struct msg *m, int level, int type, const void *data, size_t len);
// Next control message of a sender: false at the end. *off starts at 0; everything was bounds-checked at copy-in.
bool msg_next_cmsg(const struct msg *m, size_t *off, int *level, int *type, const u8 **data, size_t *len);
#define SCM_MAX_FD 253
extern s32 (*net_current_pid)(void); // sys/net.c installs it before the first socket exists
struct socket_ops {
  int (*bind)(struct socket *s, const struct sockaddr_k *a, u32 len);
  int (*connect)(struct socket *s, const struct sockaddr_k *a, u32 len, u32 fflags);
  int (*listen)(struct socket *s, int backlog);
  int (*accept)(struct socket *s, struct socket **out, u32 fflags); // a new socket without a file
  int (*getname)(struct socket *s, struct sockaddr_k *a, u32 *len, bool peer);
  long (*sendmsg)(struct socket *s, struct msg *m, u32 flags);      // MSG_*; O_NONBLOCK is folded into MSG_DONTWAIT
  long (*recvmsg)(struct socket *s, struct msg *m, u32 flags);
  int (*shutdown)(struct socket *s, int how);
  u32 (*poll)(struct socket *s, struct poll_table *t);
  int (*setsockopt)(struct socket *s, int level, int name, const void *val, u32 len); // kernel copy of the value
  int (*getsockopt)(struct socket *s, int level, int name, void *val, u32 *len);
  long (*ioctl)(struct socket *s, u32 cmd, uptr arg);
  int (*pair)(struct socket *a, struct socket *b);
  void (*release)(struct socket *s);
};
struct socket { const struct socket_ops *ops; int family, type, protocol; struct file *file; void *priv;
                u32 so_flags; u64 rcvtimeo_ns, sndtimeo_ns; /* 0: none */ int err; struct waitq wait;
                u32 sndbuf, rcvbuf, priority, linger_s; /* SOL_SOCKET values as set; sndbuf, rcvbuf: doubled, as Linux shows them */ };
// A socket's life: socket_create makes it and calls the family's create; accept makes one with socket_alloc; its last
// file reference calls ops->release(s) (when ops is set), after which the socket layer frees s: whatever else points to
// it (rx paths) must have been cut under the family's lock by then. err: pending SO_ERROR, positive; socket_take_err.
struct socket *socket_alloc(int family, int type, int protocol); // NULL; ops and priv are the caller's to set
void socket_destroy(struct socket *s);                           // one that never got a file: ops->release, free
struct socket *socket_from_file(struct file *f);                 // NULL: not a socket
static inline int socket_take_err(struct socket *s) {            // 0 or -errno
  return READ_ONCE(s->err) ? -__atomic_exchange_n(&s->err, 0, __ATOMIC_ACQ_REL) : 0;
}
// Deadlines of a blocking call: SO_RCVTIMEO / SO_SNDTIMEO, or 0 (do not wait) with MSG_DONTWAIT.
static inline u64 socket_deadline(u64 timeo_ns) { return timeo_ns ? time_ns() + timeo_ns : WAIT_FOREVER; }
// Bits of so_flags, set by socket_common_setopt; families read them.
enum { SOF_REUSEADDR = 1, SOF_REUSEPORT = 2, SOF_KEEPALIVE = 4, SOF_BROADCAST = 8, SOF_PASSCRED = 16, SOF_OOBINLINE = 32,
       SOF_LINGER = 64, SOF_TIMESTAMP = 128, SOF_LISTENING = 256, SOF_SHUT_RD = 512, SOF_SHUT_WR = 1024, SOF_DONTROUTE = 2048 };
struct net_family { int family; int (*create)(struct socket *s, int protocol); };
void net_register_family(const struct net_family *f);
struct socket *socket_create(int family, int type, int protocol, int *err);
struct file *socket_file(struct socket *s, u32 flags);
// Common options (SO_REUSEADDR, SO_RCVTIMEO, SO_ERROR, SO_TYPE, ...): -ENOPROTOOPT when the family must look.
int socket_common_setopt(struct socket *s, int name, const void *val, u32 len);
int socket_common_getopt(struct socket *s, int name, void *val, u32 *len);

// The guest's two interfaces as programs see them (netlink.c): lo, and an eth0 that stands for the way out.
#define NET_ETH0_ADDR 0x0a00020fu // 10.0.2.15/24, host byte order
// SIOCGIF* on any socket: -ENOTTY when cmd is none of them. The socket layer asks it after the family's ioctl.
long netdev_ioctl(u32 cmd, uptr arg);

// --- the control stream to the bridge and the launcher (net/control.c, over vsock)
// The launcher's signals and window sizes: installed by proc and the console driver.
extern void (*control_on_signal)(int signo);
extern void (*control_on_winsize)(u16 rows, u16 cols);
void control_send_exit(int status);          // and waits (bounded) until the bridge has it
void control_send_last_words(const char *text); // best effort, from panic
void unix_init(void);    // net_init calls these two with its own
void netlink_init(void);
void net_init(void);
#endif

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
struct msg { struct iter it; struct sockaddr_k *name; u32 name_len; /* in: size; out: length */
             const u8 *control_in; size_t control_len; struct file *fds[16]; unsigned nfds; // SCM_RIGHTS, sent or received
             bool want_cred; struct { s32 pid; u32 uid, gid; } cred; u32 flags_out; };
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
                u32 so_flags; u64 rcvtimeo_ns, sndtimeo_ns; int err; struct waitq wait; };
struct net_family { int family; int (*create)(struct socket *s, int protocol); };
void net_register_family(const struct net_family *f);
struct socket *socket_create(int family, int type, int protocol, int *err);
struct file *socket_file(struct socket *s, u32 flags);
// Common options (SO_REUSEADDR, SO_RCVTIMEO, SO_ERROR, SO_TYPE, ...): -ENOPROTOOPT when the family must look.
int socket_common_setopt(struct socket *s, int name, const void *val, u32 len);
int socket_common_getopt(struct socket *s, int name, void *val, u32 *len);

// --- the control stream to the bridge and the launcher (net/control.c, over vsock)
// The launcher's signals and window sizes: installed by proc and the console driver.
extern void (*control_on_signal)(int signo);
extern void (*control_on_winsize)(u16 rows, u16 cols);
void control_send_exit(int status);          // and waits (bounded) until the bridge has it
void control_send_last_words(const char *text); // best effort, from panic
void net_init(void);
#endif

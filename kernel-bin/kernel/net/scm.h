// SPDX-License-Identifier: Apache-2.0
// Constants of the socket API (Linux's UAPI headers clash with freestanding types) and the pieces of control messages
// that the socket layer, AF_UNIX and sys/net.c share.
#ifndef NET_SCM_H
#define NET_SCM_H
#include "net/net.h"
#include <asm/socket.h>

enum { AF_UNSPEC = 0, AF_UNIX = 1, AF_INET = 2, AF_INET6 = 10, AF_NETLINK = 16 };
enum { SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_RAW = 3, SOCK_SEQPACKET = 5, SOCK_MAX = 11 };
enum { SHUT_RD, SHUT_WR, SHUT_RDWR };
enum { SCM_RIGHTS = 1, SCM_CREDENTIALS = 2 };
enum { MSG_OOB = 1, MSG_PEEK = 2, MSG_DONTROUTE = 4, MSG_CTRUNC = 8, MSG_TRUNC = 0x20, MSG_DONTWAIT = 0x40, MSG_EOR = 0x80,
       MSG_WAITALL = 0x100, MSG_NOSIGNAL = 0x4000, MSG_MORE = 0x8000, MSG_WAITFORONE = 0x10000, MSG_CMSG_CLOEXEC = 0x40000000 };
#define SOCK_BUF_DEFAULT 212992u

struct cmsg_head { u64 len; int level, type; }; // as Linux's struct cmsghdr
struct ucred_user { s32 pid; u32 uid, gid; };
void msg_own_cred(struct msg *m);                // m->cred: the current process
void msg_drop_fds(struct msg *m);
int __must_check msg_check_cmsgs(const struct msg *m); // -EINVAL: a header lies about its length
#endif

// SPDX-License-Identifier: Apache-2.0
//
// Options of Internet sockets. Most options tune a TCP that is the host's: they are checked, kept and given
// back, so that a program sees what it set.

#include "net/inet.h"
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/tcp.h>

#define SOL_IP_ 0
#define SOL_TCP_ 6
#define SOL_UDP_ 17
#define SOL_IPV6_ 41
#define SO_INCOMING_NAPI_ID_ 56
#define SOL_SOCKET_ 1

// A word that is stored. byte: one byte of value is enough.
static const struct opt { u8 level; u8 name; bool byte, bool_; s32 lo, hi, initial; } opts[] = {
  { SOL_TCP_, TCP_NODELAY, false, true, 0, 0, 0 }, { SOL_TCP_, TCP_CORK, false, true, 0, 0, 0 },
  { SOL_TCP_, TCP_MAXSEG, false, false, 88, 32767, 32741 }, { SOL_TCP_, TCP_KEEPIDLE, false, false, 1, 32767, 7200 },
  { SOL_TCP_, TCP_KEEPINTVL, false, false, 1, 32767, 75 }, { SOL_TCP_, TCP_KEEPCNT, false, false, 1, 127, 9 },
  { SOL_TCP_, TCP_SYNCNT, false, false, 1, 127, 6 }, { SOL_TCP_, TCP_LINGER2, false, false, -1, 120, 60 },
  { SOL_TCP_, TCP_DEFER_ACCEPT, false, false, 0, 0x7fffffff, 0 }, { SOL_TCP_, TCP_WINDOW_CLAMP, false, false, 0, 0x7fffffff, 0 },
  { SOL_TCP_, TCP_QUICKACK, false, true, 0, 0, 1 }, { SOL_TCP_, TCP_USER_TIMEOUT, false, false, 0, 0x7fffffff, 0 },
  { SOL_TCP_, TCP_FASTOPEN, false, false, 0, 0x7fffffff, 0 }, { SOL_TCP_, TCP_FASTOPEN_CONNECT, false, true, 0, 0, 0 },
  { SOL_TCP_, TCP_NOTSENT_LOWAT, false, false, 0, 0x7fffffff, 0 }, { SOL_TCP_, TCP_THIN_LINEAR_TIMEOUTS, false, true, 0, 0, 0 },
  { SOL_IP_, IP_TOS, true, false, 0, 255, 0 }, { SOL_IP_, IP_TTL, true, false, -1, 255, 64 },
  { SOL_IP_, IP_RECVERR, true, true, 0, 0, 0 }, { SOL_IP_, IP_PKTINFO, true, true, 0, 0, 0 },
  { SOL_IP_, IP_MTU_DISCOVER, true, false, 0, 5, 1 }, { SOL_IP_, IP_FREEBIND, true, true, 0, 0, 0 },
  { SOL_IP_, IP_RECVTOS, true, true, 0, 0, 0 }, { SOL_IP_, IP_RECVTTL, true, true, 0, 0, 0 },
  { SOL_IP_, IP_BIND_ADDRESS_NO_PORT, true, true, 0, 0, 0 }, { SOL_IP_, IP_MULTICAST_TTL, true, false, -1, 255, 1 },
  { SOL_IP_, IP_MULTICAST_LOOP, true, true, 0, 0, 1 },
  { SOL_IPV6_, IPV6_V6ONLY, false, true, 0, 0, 0 }, { SOL_IPV6_, IPV6_UNICAST_HOPS, false, false, -1, 255, 64 },
  { SOL_IPV6_, IPV6_RECVERR, false, true, 0, 0, 0 }, { SOL_IPV6_, IPV6_RECVPKTINFO, false, true, 0, 0, 0 },
  { SOL_IPV6_, IPV6_TCLASS, false, false, -1, 255, 0 }, { SOL_IPV6_, IPV6_MTU_DISCOVER, false, false, 0, 5, 1 },
  { SOL_IPV6_, IPV6_MULTICAST_HOPS, false, false, -1, 255, 1 }, { SOL_IPV6_, IPV6_MULTICAST_LOOP, false, true, 0, 0, 1 },
  { SOL_IPV6_, IPV6_RECVTCLASS, false, true, 0, 0, 0 }, { SOL_IPV6_, IPV6_RECVHOPLIMIT, false, true, 0, 0, 0 },
};
_Static_assert(ARRAY_SIZE(opts) <= INET_OPTS, "struct inet_opts holds one word for each");

static int opt_index(const struct socket *s, int level, int name) {
  if (level == SOL_TCP_ && s->type != 1) return -1;
  if (level == SOL_IPV6_ && s->family != AF_INET6) return -1;
  for (u32 i = 0; i < ARRAY_SIZE(opts); i++)
    if (opts[i].level == level && opts[i].name == name) return (int)i;
  return -1;
}

static s32 opt_value(const struct inet_opts *o, int level, int name) {
  for (u32 i = 0; i < ARRAY_SIZE(opts); i++)
    if (opts[i].level == level && opts[i].name == name) return READ_ONCE(o->v[i]);
  return 0;
}
bool inet_opt_v6only(const struct inet_opts *o) { return opt_value(o, SOL_IPV6_, IPV6_V6ONLY) != 0; }
bool inet_opt_recverr(const struct inet_opts *o, int family) {
  return opt_value(o, SOL_IP_, IP_RECVERR) || (family == AF_INET6 && opt_value(o, SOL_IPV6_, IPV6_RECVERR));
}
bool inet_opt_pktinfo(const struct inet_opts *o, int family) {
  return family == AF_INET6 ? opt_value(o, SOL_IPV6_, IPV6_RECVPKTINFO) != 0 : opt_value(o, SOL_IP_, IP_PKTINFO) != 0;
}

void inet_opts_init(struct inet_opts *o) {
  for (u32 i = 0; i < ARRAY_SIZE(opts); i++) o->v[i] = opts[i].initial;
  strlcpy(o->congestion, "cubic", sizeof(o->congestion));
}

int inet_setopt(struct socket *s, struct inet_opts *o, int level, int name, const void *val, u32 len) {
  if (level == SOL_TCP_ && s->type == 1 && name == TCP_CONGESTION) {
    u32 n = (u32)strnlen(val, len);
    if (!n || n >= sizeof(o->congestion)) return -EINVAL;
    if ((n != 5 || memcmp(val, "cubic", 5)) && (n != 4 || memcmp(val, "reno", 4))) return -ENOENT;
    memset(o->congestion, 0, sizeof(o->congestion));
    memcpy(o->congestion, val, n);
    return 0;
  }
  int i = opt_index(s, level, name);
  if (i < 0) return -ENOPROTOOPT;
  s32 v;
  if (len >= 4) memcpy(&v, val, 4);
  else if (opts[i].byte && len >= 1) v = *(const u8 *)val;
  else return -EINVAL;
  if (opts[i].bool_) v = v != 0;
  else if (v < opts[i].lo || v > opts[i].hi) return -EINVAL;
  WRITE_ONCE(o->v[i], v);
  return 0;
}

int inet_getopt(struct socket *s, struct inet_opts *o, int level, int name, void *val, u32 *len, enum inet_tcp_state state) {
  s32 v = 0;
  if (level == SOL_TCP_ && s->type == 1 && name == TCP_CONGESTION) {
    *len = MIN(*len, (u32)sizeof(o->congestion));
    memcpy(val, o->congestion, *len);
    return 0;
  }
  if (level == SOL_TCP_ && s->type == 1 && name == TCP_INFO) {
    struct tcp_info info = { .tcpi_state = (u8)state, .tcpi_rto = 200000, .tcpi_ato = 40000, .tcpi_snd_mss = 32741, .tcpi_rcv_mss = 32741,
      .tcpi_pmtu = 65535, .tcpi_rtt = 100, .tcpi_rttvar = 50, .tcpi_snd_ssthresh = 0x7fffffff, .tcpi_snd_cwnd = 10,
      .tcpi_advmss = 65483, .tcpi_rcv_space = 65483 };
    *len = MIN(*len, (u32)sizeof(info));
    memcpy(val, &info, *len);
    return 0;
  }
  int i = opt_index(s, level, name);
  if (i >= 0) v = READ_ONCE(o->v[i]);
  else if (level == SOL_SOCKET_ && name == SO_INCOMING_NAPI_ID_) v = 0;
  else return -ENOPROTOOPT;
  if (i >= 0 && opts[i].byte && *len < 4 && *len >= 1 && v >= 0 && v <= 255) {
    *(u8 *)val = (u8)v;
    *len = 1;
    return 0;
  }
  *len = MIN(*len, 4u);
  memcpy(val, &v, *len);
  return 0;
}

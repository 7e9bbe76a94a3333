// SPDX-License-Identifier: Apache-2.0
//
// Internet addresses as programs give them, and who has bound which port.

#include "net/inet.h"
#include <linux/in.h>
#include <linux/in6.h>

#define FIRST_DYNAMIC 32768u
#define LAST_DYNAMIC 60999u
#define SIN6_LEN_MIN 24u // without the scope id (RFC 2133)

static const u8 zeroes[16];
static const u8 mapped_prefix[12] = { [10] = 0xff, [11] = 0xff };
static const u8 loopback6[16] = { [15] = 1 };
static const u8 loopback4[4] = { 127, 0, 0, 1 };

static u16 swap16(u16 v) { return (u16)(v << 8 | v >> 8); }

int inet_addr_parse(const struct socket *s, const struct sockaddr_k *a, u32 len, struct wire_addr *out) {
  *out = (struct wire_addr){ 0 };
  if (len < 2) return -EINVAL;
  if (a->family == AF_INET && (s->family == AF_INET || s->type == SOCK_DGRAM)) {
    const struct sockaddr_in *in = (const void *)a;
    if (len < sizeof(*in)) return -EINVAL;
    out->family = 4;
    out->port = swap16(in->sin_port);
    memcpy(out->ip, &in->sin_addr, 4);
    return 0;
  }
  if (a->family != AF_INET6 || s->family != AF_INET6) return -EAFNOSUPPORT;
  const struct sockaddr_in6 *in6 = (const void *)a;
  if (len < SIN6_LEN_MIN) return -EINVAL;
  out->port = swap16(in6->sin6_port);
  if (memcmp(&in6->sin6_addr, mapped_prefix, 12) == 0) {
    out->family = 4;
    memcpy(out->ip, (const u8 *)&in6->sin6_addr + 12, 4);
    return 0;
  }
  out->family = 6;
  memcpy(out->ip, &in6->sin6_addr, 16);
  if (len >= sizeof(*in6) && out->ip[0] == 0xfe && (out->ip[1] & 0xc0) == 0x80) out->scope = in6->sin6_scope_id;
  return 0;
}

void inet_addr_format(const struct socket *s, const struct wire_addr *a, struct sockaddr_k *out, u32 *len) {
  *out = (struct sockaddr_k){ 0 };
  if (s->family == AF_INET) {
    struct sockaddr_in *in = (void *)out;
    in->sin_family = AF_INET;
    in->sin_port = swap16(a->port);
    if (a->family == 4) memcpy(&in->sin_addr, a->ip, 4);
    *len = sizeof(*in);
    return;
  }
  struct sockaddr_in6 *in6 = (void *)out;
  in6->sin6_family = AF_INET6;
  in6->sin6_port = swap16(a->port);
  in6->sin6_scope_id = a->scope;
  if (a->family == 4) {
    memcpy(&in6->sin6_addr, mapped_prefix, 12);
    memcpy((u8 *)&in6->sin6_addr + 12, a->ip, 4);
  } else {
    memcpy(&in6->sin6_addr, a->ip, 16);
  }
  *len = sizeof(*in6);
}

bool inet_is_any(const struct wire_addr *a) { return memcmp(a->ip, zeroes, 16) == 0; }
bool inet_is_local(const struct wire_addr *a) {
  if (a->family != 4) return memcmp(a->ip, loopback6, 16) == 0;
  return a->ip[0] == 127 || ((u32)a->ip[0] << 24 | (u32)a->ip[1] << 16 | (u32)a->ip[2] << 8 | a->ip[3]) == NET_ETH0_ADDR;
}
bool inet_same_ip(const struct wire_addr *a, const struct wire_addr *b) { return a->family == b->family && memcmp(a->ip, b->ip, 16) == 0; }
void inet_loopback(struct wire_addr *a, u16 family) {
  *a = (struct wire_addr){ .family = family, .port = a->port };
  if (family == 4) memcpy(a->ip, loopback4, 4);
  else memcpy(a->ip, loopback6, 16);
}

// A mapped address would be taken for what it is not: programs see both alike, and no rule about family 4 is kept.
bool inet_wire_ok(const struct wire_addr *a) { return a->family == 4 || (a->family == 6 && memcmp(a->ip, mapped_prefix, 12) != 0); }

// --- ports

// tdx.net.publish lists what the program serves; without a list that is any port. The launcher opens no others, and a host
// that took its place must not either: a verifier takes the measured list at its word.
bool inet_published(u16 port, bool udp) {
  for (u32 i = 0; i < policy.publish_n; i++)
    if (policy.publish[i].port == port && policy.publish[i].udp == udp) return true;
  return policy.publish_n == 0;
}

void ports_init(struct port_space *p) {
  spin_init(&p->lock, RANK_OBJECT2);
  for (u32 i = 0; i < ARRAY_SIZE(p->bucket); i++) list_init(&p->bucket[i]);
  p->next = (u16)(FIRST_DYNAMIC + random_u64() % (LAST_DYNAMIC - FIRST_DYNAMIC));
}

static struct list *port_bucket(struct port_space *p, u16 port) { return &p->bucket[port % ARRAY_SIZE(p->bucket)]; }

static bool overlap(const struct inet_bound *a, const struct inet_bound *b) {
  if (a->dual || b->dual) return true;
  return a->addr.family == b->addr.family && (inet_is_any(&a->addr) || inet_is_any(&b->addr) || inet_same_ip(&a->addr, &b->addr));
}

static bool conflict_locked(struct port_space *p, const struct inet_bound *b, bool listen) {
  struct inet_bound *it;
  list_for_each(it, port_bucket(p, b->addr.port), link) {
    if (it == b || it->addr.port != b->addr.port || !overlap(it, b) || (it->reuseport && b->reuseport)) continue;
    if (listen ? it->listening : !(it->reuseaddr && b->reuseaddr && !it->listening)) return true;
  }
  return false;
}

int ports_bind(struct port_space *p, struct inet_bound *b) {
  int err = 0;
  if (!inet_is_any(&b->addr) && !inet_is_local(&b->addr)) return -EADDRNOTAVAIL;
  u64 flags = spin_lock_irqsave(&p->lock);
  if (b->addr.port) {
    if (conflict_locked(p, b, false)) err = -EADDRINUSE;
  } else {
    u32 tries = 0;
    do {
      b->addr.port = p->next;
      p->next = p->next >= LAST_DYNAMIC ? (u16)FIRST_DYNAMIC : (u16)(p->next + 1);
      bool taken = false; // a dynamic port is nobody else's at all
      struct inet_bound *it;
      list_for_each(it, port_bucket(p, b->addr.port), link) taken = taken || it->addr.port == b->addr.port;
      if (!taken) break;
    } while (++tries <= LAST_DYNAMIC - FIRST_DYNAMIC);
    if (tries > LAST_DYNAMIC - FIRST_DYNAMIC) {
      b->addr.port = 0;
      err = -EADDRINUSE;
    }
  }
  if (!err) {
    b->on = true;
    list_push_back(port_bucket(p, b->addr.port), &b->link);
  }
  spin_unlock_irqrestore(&p->lock, flags);
  return err;
}

int ports_listen(struct port_space *p, struct inet_bound *b) {
  u64 flags = spin_lock_irqsave(&p->lock);
  int err = conflict_locked(p, b, true) ? -EADDRINUSE : 0;
  if (!err) b->listening = true;
  spin_unlock_irqrestore(&p->lock, flags);
  return err;
}

void ports_unbind(struct port_space *p, struct inet_bound *b) {
  u64 flags = spin_lock_irqsave(&p->lock);
  if (b->on) list_remove(&b->link);
  b->on = b->listening = false;
  spin_unlock_irqrestore(&p->lock, flags);
}

struct inet_bound *ports_find(struct port_space *p, const struct wire_addr *to, bool listening, bool (*get)(struct inet_bound *b)) {
  struct inet_bound *it, *best = NULL;
  u64 flags = spin_lock_irqsave(&p->lock);
  for (int exact = 1; exact >= 0 && !best; exact--) {
    struct list *bucket = port_bucket(p, to->port);
    list_for_each(it, bucket, link) {
      if (it->addr.port != to->port || (listening && !it->listening)) continue;
      bool match = exact ? inet_same_ip(&it->addr, to) : inet_is_any(&it->addr) && (it->dual || it->addr.family == to->family);
      if (!match || !get(it)) continue;
      best = it;
      if (it->reuseport) { // its turn is over
        list_remove(&it->link);
        list_push_back(bucket, &it->link);
      }
      break;
    }
  }
  spin_unlock_irqrestore(&p->lock, flags);
  return best;
}

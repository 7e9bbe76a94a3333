// SPDX-License-Identifier: Apache-2.0
//
// Where the guest may connect: the --outbound patterns. HOST:PORT; HOST is *, an address (IPv6 in brackets), an
// address/prefix length, or a name (resolved once, at start); PORT is *, a number or a range. A `*` never means the
// host's own loopback: that takes its address, spelled out (threat-model H2).
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bridge.h"

struct allow { struct allow *next; bool any; uint8_t family, bits; uint8_t ip[16]; uint16_t port_lo, port_hi; };
static struct allow *allowed;
const struct wire_addr host_alias = { .family = 4, .ip = { 10, 0, 2, 2 } };
static const uint8_t alias_dns[4] = { 10, 0, 2, 3 };

static void add(const struct allow *a) {
  struct allow *n = must_alloc(sizeof(*n));
  *n = *a;
  n->next = allowed;
  allowed = n;
}

void allow_add(const char *pattern) {
  char host[256];
  struct allow a = { .port_lo = 0, .port_hi = 65535 };
  const char *colon = strrchr(pattern, ':');
  if (!colon || colon == pattern || (size_t)(colon - pattern) >= sizeof(host)) die("usage", "--outbound HOST:PORT, got %s", pattern);
  unsigned lo, hi;
  int used = 0;
  if (strcmp(colon + 1, "*")) {
    if (sscanf(colon + 1, "%5u-%5u%n", &lo, &hi, &used) == 2 && !colon[1 + used]) {}
    else if (sscanf(colon + 1, "%5u%n", &lo, &used) == 1 && !colon[1 + used]) hi = lo;
    else die("usage", "--outbound: bad port in %s", pattern);
    if (lo > hi || hi > 65535) die("usage", "--outbound: bad port in %s", pattern);
    a.port_lo = (uint16_t)lo;
    a.port_hi = (uint16_t)hi;
  }
  const char *from = pattern;
  size_t len = (size_t)(colon - pattern);
  if (from[0] == '[' && from[len - 1] == ']') {
    from++;
    len -= 2;
  }
  memcpy(host, from, len);
  host[len] = 0;
  if (!strcmp(host, "*")) {
    a.any = true;
    return add(&a);
  }
  char *slash = strchr(host, '/');
  unsigned bits = 128;
  if (slash) {
    *slash = 0;
    if (sscanf(slash + 1, "%3u%n", &bits, &used) != 1 || slash[1 + used]) die("usage", "--outbound: bad prefix length in %s", pattern);
  }
  for (int f = 4; f <= 6; f += 2) {
    if (inet_pton(f == 4 ? AF_INET : AF_INET6, host, a.ip) != 1) continue;
    a.family = (uint8_t)f;
    unsigned max = f == 4 ? 32 : 128;
    if (slash && bits > max) die("usage", "--outbound: bad prefix length in %s", pattern);
    a.bits = (uint8_t)(bits < max ? bits : max);
    return add(&a);
  }
  if (slash || strchr(host, '*')) die("usage", "--outbound: %s is neither *, an address nor a name", host);
  struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list;
  int err = getaddrinfo(host, NULL, &hints, &list);
  if (err) die("resolve", "%s: %s", host, gai_strerror(err));
  for (struct addrinfo *i = list; i; i = i->ai_next) {
    struct sockaddr_storage ss = { 0 };
    struct wire_addr w;
    memcpy(&ss, i->ai_addr, i->ai_addrlen);
    addr_from_sockaddr(&w, &ss);
    a.family = (uint8_t)w.family;
    a.bits = w.family == 4 ? 32 : 128;
    memcpy(a.ip, w.ip, 16);
    add(&a);
  }
  freeaddrinfo(list);
}

static bool prefix_equal(const uint8_t *a, const uint8_t *b, unsigned bits) {
  if (memcmp(a, b, bits / 8)) return false;
  return bits % 8 == 0 || ((a[bits / 8] ^ b[bits / 8]) >> (8 - bits % 8)) == 0;
}

// Addresses that mean this host itself without naming it on a network, or many hosts.
static bool own(const struct wire_addr *a) {
  static const uint8_t zeroes[15];
  if (a->family == 4) return a->ip[0] == 127 || a->ip[0] == 0 || a->ip[0] >= 224;
  return (!memcmp(a->ip, zeroes, 15) && a->ip[15] <= 1) || a->ip[0] == 0xff;
}

static bool first_nameserver(struct wire_addr *out) {
  char line[256], ip[64];
  bool found = false;
  FILE *f = fopen("/etc/resolv.conf", "re");
  while (f && !found && fgets(line, sizeof(line), f)) {
    if (sscanf(line, " nameserver %63s", ip) != 1) continue;
    *out = (struct wire_addr){ .port = 53 };
    for (int fam = 4; fam <= 6 && !found; fam += 2)
      if ((found = inet_pton(fam == 4 ? AF_INET : AF_INET6, ip, out->ip) == 1)) out->family = (uint16_t)fam;
  }
  if (f) fclose(f);
  return found;
}

int allow_check(const struct wire_addr *a, bool udp, struct wire_addr *real) {
  static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
  *real = *a;
  if (!allowed) return ENETUNREACH;
  if (a->family == 6 && !memcmp(a->ip, mapped, 12)) { // ::ffff:1.2.3.4 is 1.2.3.4, also for the rules below
    *real = (struct wire_addr){ .family = 4, .port = a->port };
    memcpy(real->ip, a->ip + 12, 4);
  }
  if (real->family == 4 && !memcmp(real->ip, alias_dns, 4) && real->port == 53) {
    if (first_nameserver(real)) return 0;
    return ENETUNREACH;
  }
  if (real->family == 4 && !memcmp(real->ip, host_alias.ip, 4)) memcpy(real->ip, (uint8_t[]){ 127, 0, 0, 1 }, 4);
  for (const struct allow *p = allowed; p; p = p->next) {
    if (real->port < p->port_lo || real->port > p->port_hi) continue;
    if (p->any ? !own(real) : p->family == real->family && prefix_equal(p->ip, real->ip, p->bits)) return 0;
  }
  char text[128];
  snprintf(text, sizeof(text), "denied %s %s", udp ? "udp" : "tcp", addr_text(real));
  say_guest("error", text);
  return EACCES;
}

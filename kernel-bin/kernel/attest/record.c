// SPDX-License-Identifier: Apache-2.0
//
// The launch record as a whole: the CFV's header, the four items, the order of measuring and parsing (threat-model T11).
// The bytes are boot's private copy; strings that need no terminator keep pointing into it.

#include "attest/internal.h"

#define CFV_MAGIC "GTDXCFV1"
#define CFV_HEADER_BYTES 16
#define CFV_MAX_BYTES (4 * MIB)

struct invocation invocation;
struct host_hints host_hints;
u64 vm_memory_bytes;
u32 vm_cpus;

static struct { struct extent policy, invocation, vm, host; } items;
static struct parser parser; // too large for the stack
static struct extent host_leaves, host_times;
static int host_log = -1;

// Event types of the TCG PC Client profile: resources are platform configuration; the others are what gets loaded.
#define EV_PLATFORM_CONFIG_FLAGS 0x0a
#define EV_IPL 0x0d

size_t attest_cfv_bytes(const void *header, size_t max) {
  const u8 *h = header;
  u32 length, zero;
  memcpy(&length, h + 8, 4);
  memcpy(&zero, h + 12, 4);
  if (memcmp(h, CFV_MAGIC, 8) != 0 || zero != 0 || length > CFV_MAX_BYTES - CFV_HEADER_BYTES) return 0;
  return CFV_HEADER_BYTES + length <= max ? CFV_HEADER_BYTES + length : 0;
}

static int take_item(struct parser *p, struct extent *out) {
  out->start = p->c.p;
  if (cbor_skip(&p->c)) return parse_fail(p, "not deterministic CBOR");
  out->len = (size_t)(p->c.p - out->start);
  return 0;
}
static int f_policy(struct parser *p) { return take_item(p, &items.policy); }
static int f_invocation(struct parser *p) { return take_item(p, &items.invocation); }
static int f_vm(struct parser *p) { return take_item(p, &items.vm); }
static int f_host(struct parser *p) { return take_item(p, &items.host); }

static int f_cpus(struct parser *p) {
  u64 v;
  int err = parse_uint(p, MAX_CPUS, &v);
  if (!err && v == 0) err = parse_fail(p, "no CPU");
  if (!err) vm_cpus = (u32)v;
  return err;
}
static int f_memory(struct parser *p) {
  int err = parse_uint(p, BIT(46), &vm_memory_bytes);
  if (!err && (vm_memory_bytes < 16 * MIB || vm_memory_bytes % PAGE_SIZE)) err = parse_fail(p, "%llu bytes is not a size that works", (unsigned long long)vm_memory_bytes);
  return err;
}

int attest_early_vm(const void *cfv, size_t len, u64 *memory, u32 *cpu_total) {
  static const struct field top[] = {
    { "vm", f_vm, false }, { "host", f_host, false }, { "policy", f_policy, false }, { "invocation", f_invocation, false },
  };
  static const struct field vm[] = { { "cpus", f_cpus, false }, { "memory", f_memory, false } };
  size_t total = len >= CFV_HEADER_BYTES ? attest_cfv_bytes(cfv, len) : 0;
  if (!total) {
    printk(LOG_ERROR, "launch record: no valid header in the image\n");
    return -EINVAL;
  }
  struct extent record = { (const u8 *)cfv + CFV_HEADER_BYTES, total - CFV_HEADER_BYTES };
  parser_init(&parser, &record, "");
  int err = parse_map(&parser, top, ARRAY_SIZE(top));
  if (!err) err = parser_end(&parser);
  if (!err) {
    parser_init(&parser, &items.vm, "vm");
    err = parse_map(&parser, vm, ARRAY_SIZE(vm));
  }
  if (err) {
    printk(LOG_ERROR, "%s\n", parser.error);
    return err;
  }
  *memory = vm_memory_bytes;
  *cpu_total = vm_cpus;
  return 0;
}

// --- invocation: byte strings become terminated strings

static int parse_byte_strings(struct parser *p, char ***out, u32 *n) {
  size_t count, len;
  const u8 *bytes;
  int err = parse_array(p, &count);
  if (err) return err;
  char **list = arena_array(count + 1, sizeof(*list));
  if (!list) return parse_fail(p, "out of memory");
  for (size_t i = 0; i < count; i++) {
    u32 mark = path_push_index(p, i);
    if (cbor_bytes(&p->c, &bytes, &len)) return parse_fail(p, "not a byte string");
    if (memchr(bytes, 0, len)) return parse_fail(p, "contains a NUL byte");
    if (!(list[i] = arena_alloc(len + 1))) return parse_fail(p, "out of memory");
    memcpy(list[i], bytes, len);
    path_pop(p, mark);
  }
  *out = list;
  *n = (u32)count;
  return 0;
}
static int f_inv_argv(struct parser *p) { return parse_byte_strings(p, &invocation.argv, &invocation.argc); }
static int f_inv_env(struct parser *p) {
  int err = parse_byte_strings(p, &invocation.env, &invocation.envc);
  for (u32 i = 0; !err && i < invocation.envc; i++)
    if (invocation.env[i][0] == '=' || !strchr(invocation.env[i], '=')) err = parse_fail(p, "an entry is not NAME=VALUE");
  return err;
}
static int invocation_parse(struct parser *p) {
  static const struct field fields[] = { { "argv", f_inv_argv, false }, { "env", f_inv_env, false } };
  int err = parse_map(p, fields, ARRAY_SIZE(fields));
  return err ? err : parser_end(p);
}

// --- host: hints (threat-model T9)

static int f_time(struct parser *p) { return parse_uint(p, ~0ull, &host_hints.time_ns); }
static int f_tty(struct parser *p) { return parse_bool(p, &host_hints.tty); }
static int parse_u16(struct parser *p, u16 *out) {
  u64 v;
  int err = parse_uint(p, 65535, &v);
  if (!err) *out = (u16)v;
  return err;
}
static int f_rows(struct parser *p) { return parse_u16(p, &host_hints.rows); }
static int f_cols(struct parser *p) { return parse_u16(p, &host_hints.cols); }
static int f_leaves(struct parser *p) {
  return cbor_bytes(&p->c, &host_leaves.start, &host_leaves.len) ? parse_fail(p, "not a byte string") : 0;
}
static int f_times(struct parser *p) {
  return cbor_bytes(&p->c, &host_times.start, &host_times.len) ? parse_fail(p, "not a byte string") : 0;
}
static int f_host_log(struct parser *p) {
  u64 v;
  int err = parse_uint(p, LOG_ALL, &v);
  if (!err) host_log = (int)v;
  return err;
}
static int f_hostname(struct parser *p) {
  char *name;
  int err = parse_text(p, &name);
  if (err) return err;
  if (strlcpy(host_hints.hostname, name, sizeof(host_hints.hostname)) >= sizeof(host_hints.hostname)) return parse_fail(p, "longer than 64 bytes");
  for (const char *c = name; *c; c++)
    if (!(*c == '-' || *c == '.' || *c == '_' || (*c >= '0' && *c <= '9') || ((*c | 32) >= 'a' && (*c | 32) <= 'z'))) return parse_fail(p, "not a host name");
  return 0;
}
static int host_parse(struct parser *p) {
  static const struct field fields[] = {
    { "time", f_time, false }, { "tty", f_tty, false }, { "rows", f_rows, false }, { "cols", f_cols, false },
    { "leaves", f_leaves, true }, { "times", f_times, true }, { "log", f_host_log, true },
    { "hostname", f_hostname, true }, { "resolv", names_parse_resolv, true },
  };
  int err = parse_map(p, fields, ARRAY_SIZE(fields));
  return err ? err : parser_end(p);
}

static void parse_or_stop(const struct extent *item, const char *name, int (*fn)(struct parser *p)) {
  parser_init(&parser, item, name);
  if (fn(&parser)) host_fatal(parser.error);
}

static void measure_or_stop(unsigned rtmr, u32 type, const char *what, const struct extent *item) {
  if (measure_event(rtmr, type, what, item->start, item->len)) host_fatal("cannot measure the launch record");
}

int attest_program_event(const void *data, size_t len) { return measure_event(3, EV_IPL, "data of the program", data, len); }

void attest_init(void) {
  measure_init(items.vm.len + items.policy.len + items.invocation.len);
  measure_or_stop(0, EV_PLATFORM_CONFIG_FLAGS, "vm", &items.vm);
  measure_or_stop(2, EV_IPL, "policy", &items.policy);
  measure_or_stop(2, EV_IPL, "invocation", &items.invocation);
  parse_or_stop(&items.policy, "policy", policy_parse);
  parse_or_stop(&items.invocation, "invocation", invocation_parse);
  parse_or_stop(&items.host, "host", host_parse);
  if (keys_init()) host_fatal("no memory for the keys");
  trusted_set_leaves(host_leaves.start, host_leaves.len);
  trusted_set_times(host_times.start, host_times.len);
  if (!policy.domain_names) {
    host_hints.hostname[0] = 0;
    host_hints.resolv_conf = NULL;
  }
  if (!host_hints.hostname[0]) strlcpy(host_hints.hostname, "gramine-tdx", sizeof(host_hints.hostname));
  // The log shows what the program does: in a TD the host may ask for less than the policy, never for more. Elsewhere
  // it is the user at this machine who asks, and the more talkative of both wishes counts.
  u32 level = policy.log;
  if (host_log >= 0 && (in_td ? (u32)host_log < level : (u32)host_log > level)) level = (u32)host_log;
  log_level = level;
  if (quote_init()) host_fatal("the TDX module makes no report");
  time_set_realtime(host_hints.time_ns);
}

// SPDX-License-Identifier: Apache-2.0
//
// The policy map of the launch record into struct policy (docs/launch-record.md). Every key is checked as the document
// says; what it does not say is refused. Boot only.

#include "attest/internal.h"

struct policy policy;
static struct policy_mount *mount; // the one being parsed
static bool mount_has_uri, mount_has_key;

static int parse_abs_path(struct parser *p, char **out) {
  int err = parse_text(p, out);
  return err ? err : path_is_normal(*out, true) ? 0 : parse_fail(p, "not a normalised absolute path");
}

static int parse_host_path(struct parser *p, char **out) {
  int err = parse_text(p, out);
  return err ? err : path_is_normal(*out, false) ? 0 : parse_fail(p, "not a normalised host path");
}

static int parse_u32(struct parser *p, u64 max, u32 *out) {
  u64 v;
  int err = parse_uint(p, max, &v);
  if (!err) *out = (u32)v;
  return err;
}

static int f_version(struct parser *p) {
  u64 v;
  int err = parse_uint(p, 1, &v);
  return err ? err : v == 1 ? 0 : parse_fail(p, "version %llu, not 1", (unsigned long long)v);
}
static int f_entrypoint(struct parser *p) { return parse_abs_path(p, &policy.entrypoint); }
static int f_uid(struct parser *p) { return parse_u32(p, 0xffffffff, &policy.uid); }
static int f_gid(struct parser *p) { return parse_u32(p, 0xffffffff, &policy.gid); }
static int f_cwd(struct parser *p) { return parse_abs_path(p, &policy.cwd); }

static int f_argv(struct parser *p) { return parse_texts(p, &policy.argv, &policy.argc); }
static int f_args_from(struct parser *p) {
  static const char *const names[] = { "manifest", "cmdline", "file" };
  unsigned v;
  int err = parse_choice(p, names, ARRAY_SIZE(names), &v);
  if (!err) policy.args_from = v;
  return err;
}
static int f_args_file(struct parser *p) { return parse_host_path(p, &policy.args_file); }
static int f_args(struct parser *p) {
  static const struct field fields[] = { { "argv", f_argv, false }, { "from", f_args_from, false }, { "file", f_args_file, true } };
  int err = parse_map(p, fields, ARRAY_SIZE(fields));
  if (err) return err;
  return (policy.args_from == ARGS_FILE) == (policy.args_file != NULL) ? 0 : parse_fail(p, "`file` goes with from: \"file\" only");
}

static int f_env_set(struct parser *p) {
  size_t count, pair;
  int err = parse_array(p, &count);
  if (err) return err;
  policy.env_set = arena_array(count, sizeof(char *));
  if (!policy.env_set) return parse_fail(p, "out of memory");
  for (size_t i = 0; i < count; i++) {
    u32 mark = path_push_index(p, i);
    char *name, *value;
    err = parse_array(p, &pair);
    if (!err && pair != 2) err = parse_fail(p, "not [name, value]");
    if (!err) err = parse_text(p, &name);
    if (!err && (name[0] == 0 || strchr(name, '='))) err = parse_fail(p, "not a name of an environment variable");
    if (!err) err = parse_text(p, &value);
    if (err) return err;
    size_t size = strlen(name) + strlen(value) + 2;
    char *joined = arena_alloc(size);
    if (!joined) return parse_fail(p, "out of memory");
    snprintf(joined, size, "%s=%s", name, value);
    policy.env_set[i] = joined;
    path_pop(p, mark);
  }
  policy.env_set_n = (u32)count;
  return 0;
}
static int f_env_pass(struct parser *p) { return parse_texts(p, &policy.env_pass, &policy.env_pass_n); }
static int f_env_all(struct parser *p) { return parse_bool(p, &policy.env_all); }
static int f_env_file(struct parser *p) { return parse_host_path(p, &policy.env_file); }
static int f_env(struct parser *p) {
  static const struct field fields[] = {
    { "set", f_env_set, false }, { "pass", f_env_pass, false }, { "all", f_env_all, false }, { "file", f_env_file, true },
  };
  return parse_map(p, fields, ARRAY_SIZE(fields));
}

static int f_mount_path(struct parser *p) { return parse_abs_path(p, &mount->path); }
static int f_mount_type(struct parser *p) {
  static const char *const names[] = { "chroot", "tmpfs", "encrypted", "untrusted_shm" };
  unsigned v;
  int err = parse_choice(p, names, ARRAY_SIZE(names), &v);
  if (!err) mount->type = v;
  return err;
}
static int f_mount_uri(struct parser *p) { mount_has_uri = true; return parse_host_path(p, &mount->uri); }
static int f_mount_key(struct parser *p) { mount_has_key = true; return parse_text(p, &mount->key); }
static int f_mount_rw(struct parser *p) { return parse_bool(p, &mount->rw); }
static int parse_mount(struct parser *p, bool first) {
  static const struct field fields[] = {
    { "path", f_mount_path, false }, { "type", f_mount_type, false }, { "uri", f_mount_uri, true },
    { "key", f_mount_key, true }, { "rw", f_mount_rw, false },
  };
  mount_has_uri = mount_has_key = false;
  int err = parse_map(p, fields, ARRAY_SIZE(fields));
  if (err) return err;
  if (mount_has_uri != (mount->type != MOUNT_TMPFS)) return parse_fail(p, "`uri` goes with every type but tmpfs");
  if (mount_has_key && mount->type != MOUNT_ENCRYPTED) return parse_fail(p, "`key` goes with type \"encrypted\" only");
  if (first != !strcmp(mount->path, "/")) return parse_fail(p, first ? "the first mount is not \"/\"" : "only the first mount can be \"/\"");
  return 0;
}
static int f_mounts(struct parser *p) {
  size_t count;
  int err = parse_array(p, &count);
  if (err) return err;
  if (count == 0) return parse_fail(p, "no root mount");
  policy.mounts = arena_array(count, sizeof(*policy.mounts));
  if (!policy.mounts) return parse_fail(p, "out of memory");
  for (size_t i = 0; i < count; i++) {
    u32 mark = path_push_index(p, i);
    mount = &policy.mounts[i];
    err = parse_mount(p, i == 0);
    if (err) return err;
    path_pop(p, mark);
  }
  policy.mount_count = (u32)count;
  return 0;
}

static int f_allowed(struct parser *p) {
  int err = parse_texts(p, &policy.allowed, &policy.allowed_n);
  for (u32 i = 0; !err && i < policy.allowed_n; i++) {
    u32 mark = path_push_index(p, i);
    if (!path_is_normal(policy.allowed[i], false)) return parse_fail(p, "not a normalised host path");
    if (i && strcmp(policy.allowed[i - 1], policy.allowed[i]) >= 0) return parse_fail(p, "not in ascending order");
    path_pop(p, mark);
  }
  return err;
}
static int f_check(struct parser *p) {
  static const char *const names[] = { "strict", "allow_all_but_log" };
  unsigned v;
  int err = parse_choice(p, names, ARRAY_SIZE(names), &v);
  if (!err) policy.allow_all_but_log = v == 1;
  return err;
}

static int f_stack(struct parser *p) { return parse_uint(p, BIT(46), &policy.stack_bytes); }
static int f_brk(struct parser *p) { return parse_uint(p, BIT(46), &policy.brk_bytes); }
static int f_fds(struct parser *p) { return parse_uint(p, BIT(20), &policy.fd_limit); }
static int f_limits(struct parser *p) {
  static const struct field fields[] = { { "stack", f_stack, false }, { "brk", f_brk, false }, { "fds", f_fds, false } };
  return parse_map(p, fields, ARRAY_SIZE(fields));
}

static int f_publish(struct parser *p) {
  static const char *const names[] = { "tcp", "udp" };
  size_t count, pair;
  int err = parse_array(p, &count);
  if (err) return err;
  policy.publish = arena_array(count, sizeof(*policy.publish));
  if (!policy.publish) return parse_fail(p, "out of memory");
  for (size_t i = 0; i < count; i++) {
    u32 mark = path_push_index(p, i);
    u64 port = 0;
    unsigned proto = 0;
    err = parse_array(p, &pair);
    if (!err && pair != 2) err = parse_fail(p, "not [port, protocol]");
    if (!err) err = parse_uint(p, 65535, &port);
    if (!err && port == 0) err = parse_fail(p, "port 0");
    if (!err) err = parse_choice(p, names, ARRAY_SIZE(names), &proto);
    if (err) return err;
    policy.publish[i].port = (u16)port;
    policy.publish[i].udp = proto == 1;
    path_pop(p, mark);
  }
  policy.publish_n = (u32)count;
  return 0;
}
static int f_outbound(struct parser *p) { return parse_texts(p, &policy.outbound, &policy.outbound_n); }
static int f_net(struct parser *p) {
  static const struct field fields[] = { { "publish", f_publish, false }, { "outbound", f_outbound, false } };
  return parse_map(p, fields, ARRAY_SIZE(fields));
}

static int f_aslr(struct parser *p) { return parse_bool(p, &policy.aslr); }
static int f_sigterm(struct parser *p) { return parse_bool(p, &policy.sigterm); }
static int f_subprocesses(struct parser *p) { return parse_bool(p, &policy.subprocesses); }
static int f_flock(struct parser *p) { return parse_bool(p, &policy.flock); }
static int f_eventfd(struct parser *p) { return parse_bool(p, &policy.eventfd); }
static int f_domain_names(struct parser *p) { return parse_bool(p, &policy.domain_names); }
static int f_log(struct parser *p) { return parse_u32(p, LOG_ALL, &policy.log); }
static int f_flags(struct parser *p) {
  static const struct field fields[] = {
    { "aslr", f_aslr, false }, { "sigterm", f_sigterm, false }, { "subprocesses", f_subprocesses, false },
    { "flock", f_flock, false }, { "eventfd", f_eventfd, false }, { "domain_names", f_domain_names, false },
    { "log", f_log, false },
  };
  return parse_map(p, fields, ARRAY_SIZE(fields));
}

static int f_keys(struct parser *p) { // names are free here
  size_t count;
  struct cbor_key prev = { 0 }, key;
  if (cbor_map(&p->c, &count)) return parse_fail(p, "not a map");
  if (count > (size_t)(p->c.end - p->c.p)) return parse_fail(p, "cut short");
  policy.keys = arena_array(count, sizeof(*policy.keys));
  if (!policy.keys) return parse_fail(p, "out of memory");
  for (size_t i = 0; i < count; i++) {
    if (cbor_key(&p->c, &prev, &key)) return parse_fail(p, "a key that is not text, repeated or out of order");
    u32 mark = path_push(p, key.text, key.len);
    if (memchr(key.text, 0, key.len)) return parse_fail(p, "contains a NUL byte");
    char *name = arena_alloc(key.len + 1);
    if (!name) return parse_fail(p, "out of memory");
    memcpy(name, key.text, key.len);
    policy.keys[i].name = name;
    int err = parse_bytes_fixed(p, policy.keys[i].key, sizeof(policy.keys[i].key));
    if (err) return err;
    path_pop(p, mark);
  }
  policy.keys_n = (u32)count;
  return 0;
}

static int f_mock(struct parser *p) {
  size_t count, pair;
  int err = parse_array(p, &count);
  if (err) return err;
  policy.mock = arena_array(count, sizeof(*policy.mock));
  if (!policy.mock) return parse_fail(p, "out of memory");
  for (size_t i = 0; i < count; i++) {
    u32 mark = path_push_index(p, i);
    err = parse_array(p, &pair);
    if (!err && pair != 2) err = parse_fail(p, "not [name, result]");
    if (!err) err = parse_text(p, &policy.mock[i].name);
    if (!err && cbor_int(&p->c, &policy.mock[i].ret)) err = parse_fail(p, "not an integer");
    if (err) return err;
    path_pop(p, mark);
  }
  policy.mock_n = (u32)count;
  return 0;
}

static int f_attestation(struct parser *p) {
  static const char *const names[] = { "none", "dcap" };
  unsigned v;
  int err = parse_choice(p, names, ARRAY_SIZE(names), &v);
  if (!err) policy.dcap = v == 1;
  return err;
}

int policy_parse(struct parser *p) {
  static const struct field fields[] = {
    { "version", f_version, false }, { "entrypoint", f_entrypoint, false }, { "args", f_args, false },
    { "env", f_env, false }, { "uid", f_uid, false }, { "gid", f_gid, false }, { "cwd", f_cwd, false },
    { "mounts", f_mounts, false }, { "trusted", trusted_parse, false }, { "allowed", f_allowed, false },
    { "check", f_check, false }, { "limits", f_limits, false }, { "net", f_net, false }, { "flags", f_flags, false },
    { "keys", f_keys, false }, { "mock", f_mock, false }, { "attestation", f_attestation, false },
  };
  int err = parse_map(p, fields, ARRAY_SIZE(fields));
  return err ? err : parser_end(p);
}

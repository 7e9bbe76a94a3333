// SPDX-License-Identifier: Apache-2.0
// The launch record: what is taken, that everything else is refused with a message that names the place, the look-ups by
// host path, the rules for arguments and environment, and the measurement of it all.
#include "dev_mock.h"
#include "../../kernel/lib/sha2.c"
#include "../../kernel/lib/cbor.c"
const char *__asan_default_options(void) { return "detect_leaks=0"; } // the arena lives as long as the machine
static char fatal[400];
#include <setjmp.h>
static jmp_buf stopped;
__noreturn void host_fatal(const char *text) { snprintf(fatal, sizeof(fatal), "%s", text); longjmp(stopped, 1); }
void time_set_realtime(u64 ns) {}
#include "td_mock.h"
void *kmap_pages(struct page **pages, size_t n, u64 prot) { return NULL; }
int tdx_vmcall_get_quote(phys_t shared, u64 len_bytes) { return -EINVAL; }
#include "../../kernel/attest/arena.c"
#include "../../kernel/attest/parse.c"
#include "../../kernel/attest/policy.c"
#include "../../kernel/attest/trusted.c"
#include "../../kernel/attest/names.c"
#include "../../kernel/attest/record.c"
#include "../../kernel/attest/measure.c"
#include "../../kernel/attest/args.c"
int keys_init(void) { return 0; }   // attest_quote.c tests these two
int quote_init(void) { return 0; }

// --- a writer of CBOR. Maps are written by the tests in the right order, or deliberately not.
static u8 out[1 << 20];
static size_t out_len;
static void put_head(u8 major, u64 n) {
  u8 *p = out + out_len;
  if (n < 24) *p++ = (u8)(major << 5 | n);
  else {
    unsigned code = n < 256 ? 0 : n < 65536 ? 1 : n < 1ull << 32 ? 2 : 3;
    *p++ = (u8)(major << 5 | (24 + code));
    for (int i = (1 << code) - 1; i >= 0; i--) *p++ = (u8)(n >> (8 * i));
  }
  out_len = (size_t)(p - out);
}
static void put_raw(const void *p, size_t n) { memcpy(out + out_len, p, n); out_len += n; }
static void put_uint(u64 n) { put_head(0, n); }
static void put_bytes(const void *p, size_t n) { put_head(2, n); put_raw(p, n); }
static void put_text(const char *s) { put_head(3, strlen(s)); put_raw(s, strlen(s)); }
static void put_array(u64 n) { put_head(4, n); }
static void put_map(u64 n) { put_head(5, n); }
static void put_boolean(bool b) { out[out_len++] = b ? 0xf5 : 0xf4; }
static void put_texts(const char *const *list, unsigned n) { put_array(n); for (unsigned i = 0; i < n; i++) put_text(list[i]); }

struct options { const char *from; const char *entry; bool env_all; bool meta; const char *check; bool unknown_key; bool missing_key; bool bad_mount;
                 const char *argv; const char *env; bool tty; u64 log; const u8 *leaves; size_t leaves_len; u64 version; const char *uri;
                 const u8 *times; size_t times_len; bool names; const char *resolv; };
static const struct options plain = { .from = "manifest", .entry = "/bin/x", .check = "strict", .version = 1, .uri = "/", .log = 9 };
static const u8 digest[32] = { 1, 2, 3 };

static void write_trusted(const struct options *o) {
  put_array(3);
  put_array(2); put_text("."); put_array(1); put_array(2); put_text("conf"); put_bytes(digest, 32);
  put_array(2); put_text("bin"); put_array(2);
    put_array(o->meta ? 3 : 2); put_text("x"); put_bytes(digest, 32);
    if (o->meta) { put_array(3); put_uint(20000); put_uint(0755); put_bytes(digest, 32); }
    put_array(2); put_text("y"); put_text("x");
  put_array(2); put_text("etc"); put_array(1); put_array(2); put_text("a"); put_array(1); put_array(2); put_text("b"); put_bytes(digest, 32);
}

static void write_policy(const struct options *o) {
  static const char *const allowed[] = { ".hidden", "/data", "/etc/a/c", "/var/lib/redis", "tmp" };
  static const char *const pass[] = { "LANG" };
  put_map(o->missing_key ? 16 : 17);
  put_text("cwd"); put_text("/");
  put_text("env"); put_map(3); put_text("all"); put_boolean(o->env_all);
    put_text("set"); put_array(2); put_array(2); put_text("PATH"); put_text("/bin"); put_array(2); put_text("EMPTY"); put_text("");
    put_text("pass"); put_texts(pass, 1);
  put_text("gid"); put_uint(7);
  put_text("net"); put_map(2); put_text("publish"); put_array(1); put_array(2); put_uint(6379); put_text("tcp"); put_text("outbound"); put_array(1); put_text("example.org:443");
  put_text("uid"); put_uint(5);
  put_text("args"); put_map(2); put_text("argv"); put_array(0); put_text("from"); put_text(o->from);
  put_text("keys"); put_map(1); put_text("default"); put_bytes("0123456789abcdef", 16);
  if (!o->missing_key) { put_text("mock"); put_array(1); put_array(2); put_text("getcpu"); put_head(1, 37); }
  put_text("check"); put_text(o->check);
  put_text("flags"); put_map(7); put_text("log"); put_uint(2); put_text("aslr"); put_boolean(true); put_text("flock"); put_boolean(false); put_text("eventfd"); put_boolean(true);
    put_text("sigterm"); put_boolean(true); put_text("domain_names"); put_boolean(o->names); put_text("subprocesses"); put_boolean(true);
  put_text("limits"); put_map(3); put_text("brk"); put_uint(1 << 20); put_text("fds"); put_uint(900); put_text("stack"); put_uint(8 << 20);
  put_text("mounts"); put_array(2);
    put_map(4); put_text("rw"); put_boolean(true); put_text("uri"); put_text(o->uri); put_text("path"); put_text("/"); put_text("type"); put_text("chroot");
    put_map(o->bad_mount ? 4 : 3); put_text("rw"); put_boolean(true); if (o->bad_mount) { put_text("uri"); put_text("/x"); } put_text("path"); put_text("/tmp"); put_text("type"); put_text("tmpfs");
  put_text("allowed"); put_texts(allowed, 5);
  put_text("trusted"); write_trusted(o);
  put_text(o->unknown_key ? "verzion" : "version"); put_uint(o->version);
  put_text("entrypoint"); put_text(o->entry);
  put_text("attestation"); put_text("none");
}

static size_t write_record(const struct options *o) {
  out_len = 16;
  put_map(4);
  put_text("vm"); put_map(2); put_text("cpus"); put_uint(2); put_text("memory"); put_uint(256 << 20);
  put_text("host"); put_map(4 + (o->log != 9) + (o->leaves != NULL) + (o->times != NULL) + 2 * (o->resolv != NULL));
    if (o->log != 9) { put_text("log"); put_uint(o->log); }
    put_text("tty"); put_boolean(o->tty); put_text("cols"); put_uint(80); put_text("rows"); put_uint(24); put_text("time"); put_uint(1700000000ull * 1000000000);
    if (o->times) { put_text("times"); put_bytes(o->times, o->times_len); }
    if (o->leaves) { put_text("leaves"); put_bytes(o->leaves, o->leaves_len); }
    if (o->resolv) { put_text("resolv"); put_text(o->resolv); put_text("hostname"); put_text("box-1"); }
  put_text("policy"); write_policy(o);
  put_text("invocation"); put_map(2); put_text("env"); put_array(o->env != NULL); if (o->env) put_bytes(o->env, strlen(o->env)); put_text("argv"); put_array(o->argv != NULL); if (o->argv) put_bytes(o->argv, strlen(o->argv));
  memcpy(out, "GTDXCFV1", 8);
  u32 n = (u32)(out_len - 16), zero = 0;
  memcpy(out + 8, &n, 4);
  memcpy(out + 12, &zero, 4);
  return out_len;
}

// Parses a copy of exactly `n` bytes. 0: taken; 1: refused, and the message is in `fatal`.
static u8 *copy;
static int parse(size_t n) {
  u64 memory;
  u32 cpu_total;
  memset(&policy, 0, sizeof(policy));
  memset(&invocation, 0, sizeof(invocation));
  memset(&host_hints, 0, sizeof(host_hints));
  memset(registers, 0, sizeof(registers));
  host_leaves = host_times = (struct extent){ 0 };
  host_log = -1;
  mock_log[0] = fatal[0] = 0;
  free(copy);
  copy = malloc(n ? n : 1);
  memcpy(copy, out, n);
  if (attest_early_vm(copy, n, &memory, &cpu_total)) {
    snprintf(fatal, sizeof(fatal), "%.390s", mock_log);
    return 1;
  }
  if (setjmp(stopped)) return 1;
  attest_init();
  return 0;
}
static bool refused(const struct options *o, const char *message) {
  int r = parse(write_record(o));
  if (r != 1 || !strstr(fatal, message)) fprintf(stderr, "  %d: %s\n", r, fatal);
  return r == 1 && strstr(fatal, message);
}

static void test_taken(void) {
  struct options o = plain;
  CHECK(parse(write_record(&o)) == 0);
  CHECK(vm_cpus == 2 && vm_memory_bytes == 256 << 20 && policy.uid == 5 && policy.gid == 7);
  CHECK(!strcmp(policy.entrypoint, "/bin/x") && policy.argc == 0 && policy.args_from == ARGS_MANIFEST);
  CHECK(policy.env_set_n == 2 && !strcmp(policy.env_set[0], "PATH=/bin") && !strcmp(policy.env_set[1], "EMPTY="));
  CHECK(policy.mount_count == 2 && policy.mounts[0].rw && !strcmp(policy.mounts[0].uri, "/") && policy.mounts[1].type == MOUNT_TMPFS);
  CHECK(policy.publish_n == 1 && policy.publish[0].port == 6379 && !policy.publish[0].udp && policy.outbound_n == 1);
  CHECK(policy.keys_n == 1 && !memcmp(policy.keys[0].key, "0123456789abcdef", 16) && policy.mock[0].ret == -38);
  CHECK(policy.aslr && !policy.flock && policy.log == 2 && log_level == LOG_WARN && !policy.allow_all_but_log);
  CHECK(host_hints.cols == 80 && !host_hints.tty && !strcmp(host_hints.hostname, "gramine-tdx"));
  o.log = 5;
  CHECK(parse(write_record(&o)) == 0 && log_level == LOG_ALL); // an ordinary machine's log is the user's to raise
}

static void test_paths(void) {
  struct options o = plain;
  o.meta = true;
  u8 leaves[64] = { 9 };
  o.leaves = leaves;
  o.leaves_len = 64;
  static const u8 times[8] = { 0, 0xca, 0x9a, 0x3b }; // one second
  o.times = times;
  o.times_len = 8;
  CHECK(parse(write_record(&o)) == 0);
  struct trusted_node *x = trusted_find("/bin/x");
  CHECK(x && x->kind == TRUSTED_FILE && x->has_meta && x->size == 20000 && x->mode == 0755 && x->leaf_count == 2 && x->leaves[0] == 9 && x->mtime_ns == 1000000000);
  CHECK(trusted_find("/")->kind == TRUSTED_DIR && trusted_find("/bin")->child_count == 2);
  CHECK(trusted_find("/bin/y")->kind == TRUSTED_LINK && trusted_find("/bin/y")->target_len == 1);
  CHECK(trusted_find("conf") && trusted_find("./conf") == trusted_find("conf") && trusted_find(".")->child_count == 1);
  CHECK(!trusted_find("/conf") && !trusted_find("/bin/z") && !trusted_find("/bin/x/y") && !trusted_find("bin/x"));
  CHECK(trusted_child(trusted_find("/bin"), "x", 1) == x && !trusted_child(x, "x", 1));
  CHECK(allowed_path("/data") && allowed_path("/data/a/b") && !allowed_path("/dat") && !allowed_path("/data2"));
  CHECK(allowed_path("tmp/x") && allowed_path("./tmp") && !allowed_path("/tmp") && allowed_path(".hidden"));
  CHECK(allowed_path("/etc/a/c") && !allowed_path("/etc/a"));
  CHECK(allowed_below("/") && allowed_below("/var") && allowed_below("/var/lib") && !allowed_below("/var/lib/redis/x") && !allowed_below("/va"));
  CHECK(allowed_below(".") && allowed_below("/etc") && allowed_below("/etc/a") && !allowed_below("/home"));
  o.leaves_len = 32; // a list that is too short is not used
  o.times_len = 7;
  CHECK(parse(write_record(&o)) == 0 && !trusted_find("/bin/x")->leaves && !trusted_find("/bin/x")->mtime_ns);
}

static void test_refused(void) {
  struct options o;
#define REFUSED(message, ...) do { o = plain; __VA_ARGS__; CHECK(refused(&o, message)); } while (0)
  REFUSED("policy.verzion: unknown key", o.unknown_key = true);
  REFUSED("policy.mock: missing", o.missing_key = true);
  REFUSED("policy.version: 2 is above 1", o.version = 2);
  REFUSED("policy.version: version 0", o.version = 0);
  REFUSED("policy.entrypoint: not a normalised absolute path", o.entry = "bin/x");
  REFUSED("policy.entrypoint: not a normalised absolute path", o.entry = "/bin//x");
  REFUSED("policy.entrypoint: not a normalised absolute path", o.entry = "/bin/../x");
  REFUSED("policy.args.from: not one of the values", o.from = "host");
  REFUSED("policy.args: `file` goes with", o.from = "file");
  REFUSED("policy.check: not one of the values", o.check = "none");
  REFUSED("policy.mounts[1]: `uri` goes with", o.bad_mount = true);
  REFUSED("policy.mounts[0].uri: not a normalised host path", o.uri = "a/../b");
  REFUSED("policy.mounts[0].uri: not a normalised host path", o.uri = "/a/");
  REFUSED("host.log: 6 is above 5", o.log = 6);
  REFUSED("invocation.env: an entry is not NAME=VALUE", o.env = "NOVALUE");
  size_t n = write_record(&plain);
  for (size_t k = 0; k < n; k++) CHECK(parse(k) == 1); // every truncation
  n = write_record(&plain);
  out[8]++; // the header promises more than there is
  CHECK(parse(n) == 1);
  n = write_record(&plain);
  out[0] = 'X';
  CHECK(parse(n) == 1 && strstr(fatal, "no valid header"));
  n = write_record(&plain);
  out[n++] = 0; // a byte more inside the record
  out[8]++;
  CHECK(parse(n) == 1);
  for (long k = 0; k < 60; k++) { // memory ends anywhere
    n = write_record(&plain);
    mock_allocs_left = k;
    if (parse(n)) CHECK(strstr(fatal, "memory"));
    mock_allocs_left = -1;
  }
}

// Trees: order, names, depth.
static bool tree_refused(const char *message) {
  out[out_len] = 0;
  struct parser p;
  struct extent e = { out, out_len };
  parser_init(&p, &e, "policy.trusted");
  int err = trusted_parse(&p);
  if (message && (!err || !strstr(p.error, message))) fprintf(stderr, "  %d: %s\n", err, p.error);
  return message ? err && strstr(p.error, message) : !err;
}
static void two_names(const char *a, const char *b) {
  out_len = 0;
  put_array(2); put_array(2); put_text(a); put_bytes(digest, 32); put_array(2); put_text(b); put_bytes(digest, 32);
}
static bool resolv_is(const char *from, const char *to) {
  struct options o = plain;
  o.names = true;
  o.resolv = from;
  if (parse(write_record(&o))) return false;
  if (strcmp(host_hints.resolv_conf, to)) fprintf(stderr, "  %s\n", host_hints.resolv_conf);
  return !strcmp(host_hints.resolv_conf, to);
}
static void test_names(void) {
  CHECK(resolv_is("nameserver 192.0.2.1\nnameserver\t2001:db8::1 \nsearch a.example  b_1.example\noptions edns0 ndots:2 use-vc\n",
                  "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example b_1.example\noptions edns0 use-vc\n"));
  CHECK(resolv_is("nameserver 192.0.2.1", "nameserver 192.0.2.1\n")); // no newline at the end
  CHECK(resolv_is("", "") && resolv_is("\n \n\t", "") && resolv_is("nameserver", "") && resolv_is("search \n", ""));
  CHECK(resolv_is("# nameserver 192.0.2.1\n;x\nsortlist 1.2.3.4\nnameservers 1.2.3.4\nname server\n", ""));
  CHECK(resolv_is("nameserver 192.0.2.1%eth0\nnameserver $(x)\nsearch a;b 'c' d\noptions debug\n", "search d\n"));
  CHECK(resolv_is("nameserver 1.1.1.1 2.2.2.2\n", "nameserver 1.1.1.1\n"));
  CHECK(!strcmp(host_hints.hostname, "box-1"));
  struct options o = plain;
  o.resolv = "nameserver 192.0.2.1\n"; // the policy does not ask
  CHECK(parse(write_record(&o)) == 0 && !host_hints.resolv_conf && !strcmp(host_hints.hostname, "gramine-tdx"));
  static char large[5000];
  memset(large, 'a', sizeof(large) - 1);
  o.names = true;
  o.resolv = large;
  CHECK(refused(&o, "host.resolv: 4999 bytes, more than 4096"));
}

static void test_trees(void) {
  two_names("a", "a"); CHECK(tree_refused("/a: not in ascending order"));
  two_names("b", "a"); CHECK(tree_refused("/a: not in ascending order"));
  two_names("a", "ab"); CHECK(tree_refused(NULL));
  two_names("ab", "b"); CHECK(tree_refused(NULL));
  two_names("a", "b/c"); CHECK(tree_refused("not a valid name"));
  two_names("", "b"); CHECK(tree_refused("not a valid name"));
  two_names(".", "b"); CHECK(tree_refused("not a valid name")); // a file cannot be the start of relative paths
  two_names("..", "b"); CHECK(tree_refused("not a valid name"));
  out_len = 0; put_array(1); put_array(3); put_text("a"); put_array(0); put_array(0); CHECK(tree_refused("/a: a directory with more"));
  out_len = 0; put_array(1); put_array(3); put_text("l"); put_text("t"); put_array(0); CHECK(tree_refused("/l: a link with more"));
  out_len = 0; put_array(1); put_array(2); put_text("l"); put_text(""); CHECK(tree_refused("/l: not a link target"));
  out_len = 0; put_array(1); put_array(2); put_text("f"); put_bytes(digest, 31); CHECK(tree_refused("31 bytes, not 32"));
  out_len = 0; put_array(1); put_array(2); put_text("f"); put_uint(3); CHECK(tree_refused("/f: neither directory"));
  out_len = 0; put_array(1); put_array(3); put_text("f"); put_bytes(digest, 32); put_array(3); put_uint(1); put_uint(010000); put_bytes(digest, 32); CHECK(tree_refused("above 4095"));
  out_len = 0; put_array(1); put_text("f"); CHECK(tree_refused("cut short") );
  out_len = 0; put_array(1000000); CHECK(tree_refused("cut short")); // nothing is allocated for what cannot be there
  out_len = 0; // deeper than any stack
  for (int i = 0; i < 100000; i++) { put_array(1); put_array(2); put_text("d"); }
  put_array(0);
  CHECK(tree_refused(NULL));
}

static void test_args(void) {
  char **argv, **envp;
  struct options o = plain;
  o.argv = "--port";
  CHECK(parse(write_record(&o)) == 0 && attest_build_args(&argv, &envp) == -EPERM && strstr(mock_log, "insecure__use_cmdline_argv"));
  o.from = "cmdline";
  o.env = "LANG=C";
  CHECK(parse(write_record(&o)) == 0 && attest_build_args(&argv, &envp) == 0);
  CHECK(!strcmp(argv[0], "/bin/x") && !strcmp(argv[1], "--port") && !argv[2]);
  CHECK(!strcmp(envp[0], "LANG=C") && !strcmp(envp[1], "PATH=/bin") && !strcmp(envp[2], "EMPTY=") && !envp[3]);
  o.env = "LD_PRELOAD=/evil";
  CHECK(parse(write_record(&o)) == 0 && attest_build_args(&argv, &envp) == -EPERM && strstr(mock_log, "LD_PRELOAD"));
  o.env_all = true;
  CHECK(parse(write_record(&o)) == 0 && attest_build_args(&argv, &envp) == 0 && !strcmp(envp[0], "LD_PRELOAD=/evil"));
  o.env = "PATH=/evil"; // what the manifest sets, it sets
  CHECK(parse(write_record(&o)) == 0 && attest_build_args(&argv, &envp) == 0 && !strcmp(envp[0], "PATH=/bin") && !strcmp(envp[1], "EMPTY=") && !envp[2]);
}

// The log replays to the registers, and the events are the items' exact bytes.
static void test_measurement(void) {
  CHECK(parse(write_record(&plain)) == 0);
  size_t len;
  const u8 *log = event_log(&len), *p = log + 32, *end = log + len;
  u32 first, size;
  memcpy(&first, log, 4);
  memcpy(&size, log + 28, 4);
  CHECK(first == 1 && size == 33 && !memcmp(p, "Spec ID Event03", 16));
  p += size;
  u8 rtmr[4][48] = { { 0 } };
  const struct extent *expect[] = { &items.vm, &items.policy, &items.invocation };
  static const u32 registers_of[] = { 0, 2, 2 };
  for (unsigned i = 0; p < end; i++) {
    u32 index, n;
    memcpy(&index, p, 4);
    memcpy(&n, p + 62, 4);
    CHECK(i < 3 && index == registers_of[i] + 1 && n == expect[i]->len && !memcmp(p + 66, expect[i]->start, n));
    u8 d[48], both[96];
    sha384_hash(p + 66, n, d);
    CHECK(!memcmp(d, p + 14, 48));
    memcpy(both, rtmr[index - 1], 48);
    memcpy(both + 48, d, 48);
    sha384_hash(both, 96, rtmr[index - 1]);
    p += 66 + n;
  }
  for (unsigned r = 0; r < 4; r++) {
    u8 now[48];
    rtmr_read(r, now);
    CHECK(!memcmp(now, rtmr[r], 48));
  }
  u8 big[300 * 1024] = { 0 }; // a program cannot make the log grow for ever
  CHECK(measure_event(3, 1, "mine", "x", 1) == 0 && measure_event(3, 1, "mine", big, sizeof(big)) == -ENOSPC);
}

static void test_random_damage(void) {
  struct options o = plain;
  o.meta = true;
  size_t n = write_record(&o);
  u8 *good = malloc(n);
  memcpy(good, out, n);
  for (int i = 0; i < 20000; i++) {
    memcpy(out, good, n);
    for (unsigned k = 1 + (unsigned)(unit_random() % 3); k; k--) out[16 + unit_random() % (n - 16)] = (u8)unit_random();
    parse(n); // ASan and UBSan watch
  }
  unit_passed++;
  free(good);
}

int main(void) {
  test_taken();
  test_paths();
  test_refused();
  test_trees();
  test_args();
  test_measurement();
  test_names();
  test_random_damage();
  return UNIT_END("attest_record");
}

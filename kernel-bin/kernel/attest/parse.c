// SPDX-License-Identifier: Apache-2.0
//
// Typed reading of the launch record: every reader checks, and the first offence is kept as one message that names the
// key ("policy.mounts[2].uri: not a text string"). The bytes are hostile; nothing here recurses.

#include "attest/internal.h"

void parser_init(struct parser *p, const struct extent *item, const char *name) {
  *p = (struct parser){ 0 };
  cbor_init(&p->c, item->start, item->len);
  strlcpy(p->path, name, sizeof(p->path));
  p->path_len = (u32)strlen(p->path);
}

int parser_end(struct parser *p) { return p->c.p == p->c.end ? 0 : parse_fail(p, "trailing bytes"); }

int parse_fail(struct parser *p, const char *fmt, ...) {
  if (p->error[0]) return -EINVAL;
  int n = snprintf(p->error, sizeof(p->error), "launch record: %s: ", p->path);
  va_list ap;
  va_start(ap, fmt);
  if (n > 0 && (size_t)n < sizeof(p->error)) vsnprintf(p->error + n, sizeof(p->error) - (size_t)n, fmt, ap);
  va_end(ap);
  return -EINVAL;
}

// Appends what fits, without characters that could garble a terminal.
static void path_append(struct parser *p, const char *text, size_t len) {
  for (size_t i = 0; i < len && p->path_len + 1 < sizeof(p->path); i++)
    p->path[p->path_len++] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
  p->path[p->path_len] = 0;
}

u32 path_push(struct parser *p, const char *key, size_t len) {
  u32 mark = p->path_len;
  if (mark) path_append(p, ".", 1);
  path_append(p, key, len);
  return mark;
}

u32 path_push_index(struct parser *p, size_t i) {
  char text[24];
  u32 mark = p->path_len;
  snprintf(text, sizeof(text), "[%zu]", i);
  path_append(p, text, strlen(text));
  return mark;
}

void path_pop(struct parser *p, u32 mark) {
  p->path_len = mark;
  p->path[mark] = 0;
}

int parse_map(struct parser *p, const struct field *fields, unsigned n) {
  size_t count;
  struct cbor_key prev = { 0 }, key;
  u64 seen = 0;
  if (cbor_map(&p->c, &count)) return parse_fail(p, "not a map");
  for (size_t i = 0; i < count; i++) {
    if (cbor_key(&p->c, &prev, &key)) return parse_fail(p, "a key that is not text, repeated or out of order");
    u32 mark = path_push(p, key.text, key.len);
    unsigned f = 0;
    while (f < n && !cbor_key_is(&key, fields[f].name)) f++;
    if (f == n) return parse_fail(p, "unknown key");
    seen |= BIT(f);
    int err = fields[f].fn(p);
    if (err) return err;
    path_pop(p, mark);
  }
  for (unsigned f = 0; f < n; f++) {
    if (fields[f].optional || (seen & BIT(f))) continue;
    path_push(p, fields[f].name, strlen(fields[f].name));
    return parse_fail(p, "missing");
  }
  return 0;
}

int parse_array(struct parser *p, size_t *n) {
  if (cbor_array(&p->c, n)) return parse_fail(p, "not an array, or cut short");
  // Each item takes a byte at least: what is announced beyond that is refused before anything is allocated.
  return *n <= (size_t)(p->c.end - p->c.p) ? 0 : parse_fail(p, "array of %zu items is cut short", *n);
}

int parse_uint(struct parser *p, u64 max, u64 *out) {
  if (cbor_uint(&p->c, out)) return parse_fail(p, "not an unsigned integer");
  return *out <= max ? 0 : parse_fail(p, "%llu is above %llu", (unsigned long long)*out, (unsigned long long)max);
}

int parse_bool(struct parser *p, bool *out) { return cbor_bool(&p->c, out) ? parse_fail(p, "not true or false") : 0; }

int parse_text(struct parser *p, char **out) {
  const char *text;
  size_t len;
  if (cbor_text(&p->c, &text, &len)) return parse_fail(p, "not a text string");
  if (memchr(text, 0, len)) return parse_fail(p, "contains a NUL byte");
  char *copy = arena_alloc(len + 1);
  if (!copy) return parse_fail(p, "out of memory");
  memcpy(copy, text, len);
  copy[len] = 0;
  *out = copy;
  return 0;
}

int parse_texts(struct parser *p, char ***out, u32 *n) {
  size_t count;
  int err = parse_array(p, &count);
  if (err) return err;
  char **list = arena_array(count + 1, sizeof(*list));
  if (!list) return parse_fail(p, "out of memory");
  for (size_t i = 0; i < count; i++) {
    u32 mark = path_push_index(p, i);
    err = parse_text(p, &list[i]);
    if (err) return err;
    path_pop(p, mark);
  }
  *out = list;
  *n = (u32)count;
  return 0;
}

int parse_bytes_fixed(struct parser *p, u8 *out, size_t n) {
  const u8 *bytes;
  size_t len;
  if (cbor_bytes(&p->c, &bytes, &len)) return parse_fail(p, "not a byte string");
  if (len != n) return parse_fail(p, "%zu bytes, not %zu", len, n);
  memcpy(out, bytes, n);
  return 0;
}

int parse_choice(struct parser *p, const char *const *names, unsigned n, unsigned *out) {
  const char *text;
  size_t len;
  if (cbor_text(&p->c, &text, &len)) return parse_fail(p, "not a text string");
  for (unsigned i = 0; i < n; i++) {
    if (strlen(names[i]) != len || memcmp(names[i], text, len) != 0) continue;
    *out = i;
    return 0;
  }
  return parse_fail(p, "not one of the values it can have");
}

// Normalised: no empty, `.` or needless `..` component and no trailing slash; "/", or "." for the relative start.
bool path_is_normal(const char *path, bool absolute_only) {
  bool absolute = path[0] == '/', only_up = true;
  if (!strcmp(path, "/")) return true;
  if (absolute_only && !absolute) return false;
  if (!strcmp(path, ".")) return true;
  const char *at = path + absolute;
  for (;;) {
    const char *end = strchr(at, '/');
    size_t len = end ? (size_t)(end - at) : strlen(at);
    bool up = len == 2 && !memcmp(at, "..", 2);
    if (len == 0 || len > 255 || (len == 1 && at[0] == '.')) return false;
    if (up && (absolute || !only_up)) return false;
    only_up = only_up && up;
    if (!end) return true;
    at = end + 1;
  }
}

// SPDX-License-Identifier: Apache-2.0
//
// The tree of trusted host paths and the list of allowed ones: parsing, and look-ups by normalised host path. Read-only
// after boot, so no locks. Names point into the private copy of the record. No recursion: a tree may be as deep as a
// record can make it.

#include "attest/internal.h"

#define LEAF_BYTES (16 * KIB)
#define NAME_MAX 255
#define TARGET_MAX 4095

static u32 node_count;

static int name_compare(const char *a, size_t a_len, const char *b, size_t b_len) {
  int c = memcmp(a, b, MIN(a_len, b_len));
  return c ? c : a_len < b_len ? -1 : a_len > b_len;
}

static bool name_is(const struct trusted_node *n, const char *text) {
  return n->name_len == strlen(text) && !memcmp(n->name, text, n->name_len);
}

// `.` is the start of relative paths and stands below the root only; `..` leads up from there.
static bool name_ok(const struct trusted_node *n) {
  if (n->name_len == 0 || n->name_len > NAME_MAX || memchr(n->name, '/', n->name_len) || memchr(n->name, 0, n->name_len))
    return false;
  if (name_is(n, ".")) return n->parent == policy.trusted && n->kind == TRUSTED_DIR;
  if (name_is(n, "..")) return n->parent->name_len && (name_is(n->parent, ".") || name_is(n->parent, "..")) && n->kind == TRUSTED_DIR;
  return true;
}

// A message that names the file: the last components of its path, as many as fit.
static int node_fail(struct parser *p, const struct trusted_node *n, const char *what) {
  char text[200];
  size_t at = sizeof(text) - 1;
  text[at] = 0;
  for (; n->parent && at > n->name_len + 1; n = n->parent) {
    at -= n->name_len;
    for (u32 i = 0; i < n->name_len; i++) text[at + i] = n->name[i] >= ' ' && n->name[i] <= '~' ? n->name[i] : '?';
    text[--at] = '/';
  }
  return parse_fail(p, "%s: %s", text + at, what);
}

static int parse_children(struct parser *p, struct trusted_node *dir) {
  size_t count;
  int err = parse_array(p, &count);
  if (err) return err;
  if (count > (size_t)(p->c.end - p->c.p) / 4) return parse_fail(p, "array of %zu entries is cut short", count); // ["", []]
  dir->kind = TRUSTED_DIR;
  dir->child_count = (u32)count;
  dir->children = arena_array(count, sizeof(*dir->children));
  return dir->children ? 0 : parse_fail(p, "out of memory");
}

static int parse_file(struct parser *p, struct trusted_node *n, size_t items) {
  size_t three;
  u64 mode;
  n->kind = TRUSTED_FILE;
  int err = parse_bytes_fixed(p, n->sha256, sizeof(n->sha256));
  if (err || items == 2) return err;
  err = parse_array(p, &three);
  if (!err && three != 3) err = parse_fail(p, "not [size, mode, root]");
  if (!err) err = parse_uint(p, BIT(62), &n->size);
  if (!err) err = parse_uint(p, 07777, &mode);
  if (!err) err = parse_bytes_fixed(p, n->root, sizeof(n->root));
  if (err) return err;
  n->mode = (u32)mode;
  n->has_meta = true;
  return 0;
}

static int parse_link(struct parser *p, struct trusted_node *n) {
  const char *target;
  size_t len;
  if (cbor_text(&p->c, &target, &len) || len == 0 || len > TARGET_MAX || memchr(target, 0, len))
    return node_fail(p, n, "not a link target");
  n->kind = TRUSTED_LINK;
  n->target = target;
  n->target_len = (u32)len;
  return 0;
}

static int parse_node(struct parser *p, struct trusted_node *n, const struct trusted_node *prev) {
  size_t items, len;
  n->id = ++node_count;
  if (cbor_array(&p->c, &items) || items < 2 || items > 3) return node_fail(p, n->parent, "an entry is not an array of 2 or 3 items");
  if (cbor_text(&p->c, &n->name, &len) || len > NAME_MAX) {
    n->name_len = 0;
    return node_fail(p, n->parent, "an entry has no valid name");
  }
  n->name_len = (u32)len;
  if (prev && name_compare(prev->name, prev->name_len, n->name, n->name_len) >= 0)
    return node_fail(p, n, "not in ascending order of names");
  int err;
  switch (cbor_peek(&p->c)) {
  case CBOR_ARRAY: err = items == 2 ? parse_children(p, n) : node_fail(p, n, "a directory with more than children"); break;
  case CBOR_BYTES: err = parse_file(p, n, items) ? node_fail(p, n, "not a valid file entry") : 0; break;
  case CBOR_TEXT: err = items == 2 ? parse_link(p, n) : node_fail(p, n, "a link with more than a target"); break;
  default: err = node_fail(p, n, "neither directory, file nor link");
  }
  return err ? err : name_ok(n) ? 0 : node_fail(p, n, "not a valid name");
}

int trusted_parse(struct parser *p) {
  node_count = 0;
  struct trusted_node *dir = policy.trusted = arena_alloc(sizeof(*policy.trusted));
  if (!dir) return parse_fail(p, "out of memory");
  dir->name = "";
  int err = parse_children(p, dir);
  // Depth first; leaf_count of a directory being read is how many children are done.
  while (!err) {
    if (dir->leaf_count == dir->child_count) {
      dir->leaf_count = 0;
      if (!dir->parent) return 0;
      dir = dir->parent;
      continue;
    }
    struct trusted_node *n = &dir->children[dir->leaf_count++];
    n->parent = dir;
    err = parse_node(p, n, n > dir->children ? n - 1 : NULL);
    if (!err && n->kind == TRUSTED_DIR) dir = n;
  }
  return err;
}

static struct trusted_node *next_in_tree(struct trusted_node *n) {
  if (n->kind == TRUSTED_DIR && n->child_count) return n->children;
  for (; n->parent; n = n->parent)
    if (n + 1 < n->parent->children + n->parent->child_count) return n + 1;
  return NULL;
}

// Hands each file with meta its piece of the host's leaf lists; wrong ones are found when they are checked.
void trusted_set_leaves(const u8 *leaves, size_t len) {
  for (struct trusted_node *n = policy.trusted; n; n = next_in_tree(n)) {
    if (n->kind != TRUSTED_FILE || !n->has_meta) continue;
    u64 count = n->size ? DIV_ROUND_UP(n->size, LEAF_BYTES) : 1;
    if (count > len / 32) return;
    n->leaves = leaves;
    n->leaf_count = count;
    leaves += count * 32;
    len -= count * 32;
  }
}

// Eight bytes for each file with meta: nanoseconds since 1970, little-endian.
void trusted_set_times(const u8 *times, size_t len) {
  for (struct trusted_node *n = policy.trusted; n; n = next_in_tree(n)) {
    if (n->kind != TRUSTED_FILE || !n->has_meta) continue;
    if (len < sizeof(n->mtime_ns)) return;
    memcpy(&n->mtime_ns, times, sizeof(n->mtime_ns));
    times += sizeof(n->mtime_ns);
    len -= sizeof(n->mtime_ns);
  }
}

struct trusted_node *trusted_child(const struct trusted_node *dir, const char *name, size_t len) {
  u32 lo = 0, hi = dir->kind == TRUSTED_DIR ? dir->child_count : 0;
  while (lo < hi) {
    u32 mid = lo + (hi - lo) / 2;
    struct trusted_node *n = &dir->children[mid];
    int c = name_compare(name, len, n->name, n->name_len);
    if (c == 0) return n;
    if (c < 0) hi = mid;
    else lo = mid + 1;
  }
  return NULL;
}

struct trusted_node *trusted_find(const char *path) {
  struct trusted_node *n = policy.trusted;
  if (path[0] != '/') n = trusted_child(n, ".", 1);
  while (n) {
    while (path[0] == '/' || (path[0] == '.' && (path[1] == '/' || path[1] == 0))) path++;
    if (!path[0]) return n;
    const char *end = strchr(path, '/');
    size_t len = end ? (size_t)(end - path) : strlen(path);
    n = trusted_child(n, path, len);
    path += len;
  }
  return NULL;
}

// The first index whose text does not sort before the `len` bytes at `path`.
static u32 allowed_lower(const char *path, size_t len) {
  u32 lo = 0, hi = policy.allowed_n;
  while (lo < hi) {
    u32 mid = lo + (hi - lo) / 2;
    if (name_compare(policy.allowed[mid], strlen(policy.allowed[mid]), path, len) < 0) lo = mid + 1;
    else hi = mid;
  }
  return lo;
}

static bool allowed_exact(const char *path, size_t len) {
  u32 i = allowed_lower(path, len);
  return i < policy.allowed_n && strlen(policy.allowed[i]) == len && !memcmp(policy.allowed[i], path, len);
}

static bool starts_up(const char *path) { return path[0] == '.' && path[1] == '.' && (path[2] == 0 || path[2] == '/'); }

bool allowed_path(const char *path) {
  if (path[0] == '.' && path[1] == '/') path += 2;
  if (path[0] == '/' ? allowed_exact("/", 1) : !starts_up(path) && allowed_exact(".", 1)) return true;
  for (size_t i = 1;; i++) // every ancestor, then the path itself
    if (path[i - 1] == 0) return false;
    else if ((path[i] == '/' || path[i] == 0) && allowed_exact(path, i)) return true;
}

bool allowed_below(const char *path) {
  const struct trusted_node *n = trusted_find(path);
  if (n && n->kind == TRUSTED_DIR) return true;
  if (path[0] == '.' && path[1] == '/') path += 2;
  if (!strcmp(path, ".") || !path[0]) {
    for (u32 i = 0; i < policy.allowed_n; i++)
      if (policy.allowed[i][0] != '/' && !starts_up(policy.allowed[i])) return true;
    return false;
  }
  // Entries below it share the prefix "path/": '/' may sort after other names that begin with path, so look on from there.
  size_t len = strlen(path);
  if (!strcmp(path, "/")) len = 0;
  for (u32 i = allowed_lower(path, len); i < policy.allowed_n && !strncmp(policy.allowed[i], path, len); i++)
    if (policy.allowed[i][len] == '/') return true;
  return false;
}

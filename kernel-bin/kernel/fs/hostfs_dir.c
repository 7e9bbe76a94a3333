// SPDX-License-Identifier: Apache-2.0
//
// hostfs: rights of names, and the listing of directories. A listing is taken whole when it is first read and then served
// by index, so that the host's positions need not be believed.

#include "fs/hostfs.h"

#define LISTING_MAX (16 * MIB)
#define CHUNK_BYTES 32768u

// What `name` in `dir` is by the policy. *path gets its host path (kmalloc'ed) unless it lies below something allowed with
// nothing trusted; an error pointer when there is no memory.
enum host_right hostfs_right(const struct hnode *dir, const char *name, size_t len, const struct trusted_node **t, char **path) {
  *t = dir->trusted ? trusted_child(dir->trusted, name, len) : NULL;
  *path = NULL;
  if (!*t && (dir->allowed || policy.allow_all_but_log)) return RIGHT_ALLOWED;
  const char *base = dir->host_path;
  bool top = !strcmp(base, "/"), start = !strcmp(base, ".");
  size_t base_len = top || start ? 0 : strlen(base);
  char *p = kmalloc(base_len + len + 2, 0);
  if (!p) {
    *path = err_ptr(-ENOMEM);
    return RIGHT_NONE;
  }
  memcpy(p, base, base_len);
  if (!start) p[base_len++] = '/';
  memcpy(p + base_len, name, len);
  p[base_len + len] = 0;
  *path = p;
  if (*t) return RIGHT_TRUSTED;
  return allowed_path(p) ? RIGHT_ALLOWED : allowed_below(p) ? RIGHT_BELOW : RIGHT_NONE;
}

// --- listings
struct record { u64 ino; u16 len; u8 type; char name[]; };
struct listing { u8 *data; size_t len, cap; u32 *starts; u32 count, starts_cap; }; // file->priv

static int listing_add(struct listing *l, const char *name, size_t len, u64 ino, u8 type) {
  size_t size = ALIGN_UP(sizeof(struct record) + len, (size_t)8);
  if (l->len + size > l->cap) {
    size_t cap = MAX(l->cap * 2, (size_t)4096);
    u8 *data = cap <= LISTING_MAX / 4 ? kmalloc(cap, 0) : NULL;
    if (!data) return -ENOMEM;
    if (l->len) memcpy(data, l->data, l->len);
    kfree(l->data);
    l->data = data;
    l->cap = cap;
  }
  if (l->count == l->starts_cap) {
    u32 cap = MAX(l->starts_cap * 2, 128u);
    u32 *starts = cap * sizeof(u32) <= LISTING_MAX / 4 ? kmalloc(cap * sizeof(u32), 0) : NULL;
    if (!starts) return -ENOMEM;
    if (l->count) memcpy(starts, l->starts, l->count * sizeof(u32));
    kfree(l->starts);
    l->starts = starts;
    l->starts_cap = cap;
  }
  struct record *r = (struct record *)(void *)(l->data + l->len);
  *r = (struct record){ .ino = ino, .len = (u16)len, .type = type };
  memcpy(r->name, name, len);
  l->starts[l->count++] = (u32)l->len;
  l->len += size;
  return 0;
}

static void listing_free(struct listing *l) {
  if (!l) return;
  kfree(l->data);
  kfree(l->starts);
  kfree(l);
}

// The host's names that the policy lets be seen and does not itself list.
static int add_host_entries(struct listing *l, struct hnode *dir, const u8 *buf, size_t len, u64 *last_off, bool *progress) {
  struct fuse_dirent d;
  const char *name;
  size_t pos = 0;
  int err = 0;
  *progress = false;
  while (!err && virtiofs_dirent(buf, len, &pos, &d, &name)) {
    const struct trusted_node *t;
    char *path = NULL;
    *last_off = d.off;
    *progress = true;
    if (name[0] == '.' && (d.namelen == 1 || (d.namelen == 2 && name[1] == '.'))) continue;
    enum host_right right = hostfs_right(dir, name, d.namelen, &t, &path);
    if (is_err(path)) return (int)ptr_err(path);
    kfree(path);
    if (right == RIGHT_ALLOWED || (right == RIGHT_BELOW && d.type == DT_DIR))
      err = listing_add(l, name, d.namelen, d.ino & (BIT(48) - 1), (u8)(d.type & 15));
  }
  return err;
}

static int read_host(struct listing *l, struct hnode *dir) {
  u64 fh, off = 0, last;
  bool progress = true;
  int err = hnode_resolve(dir);
  if (err == -ENOENT) return 0; // the directory exists in the policy only
  if (!err) err = virtiofs_open(dir->nodeid, O_RDONLY | O_DIRECTORY, true, &fh, NULL);
  // Also when it went meanwhile: readdir() of glibc and musl takes ENOENT for the end, with none of the policy's names.
  if (err == -ENOENT && dir->right == RIGHT_TRUSTED) return 0;
  if (err) return err;
  u8 *buf = kmalloc(CHUNK_BYTES, 0);
  if (!buf) err = -ENOMEM;
  while (!err && progress) {
    long n = virtiofs_readdir(dir->nodeid, fh, off, buf, CHUNK_BYTES);
    if (n <= 0) {
      err = (int)n;
      break;
    }
    err = add_host_entries(l, dir, buf, (size_t)n, &last, &progress);
    off = last;
  }
  kfree(buf);
  virtiofs_release(dir->nodeid, fh, O_RDONLY, true);
  return err == -ENOENT && dir->right == RIGHT_TRUSTED ? 0 : err;
}

static int listing_make(struct file *f, struct listing **out) {
  static const u8 types[] = { [TRUSTED_DIR] = DT_DIR, [TRUSTED_FILE] = DT_REG, [TRUSTED_LINK] = DT_LNK };
  struct hnode *dir = hnode_of(f->inode);
  const struct trusted_node *t = dir->trusted;
  struct listing *l = kzalloc(sizeof(*l));
  if (!l) return -ENOMEM;
  spin_lock(&dcache_lock); // a rename may take the parent away
  u64 up = f->dentry->parent ? f->dentry->parent->inode->ino : f->inode->ino;
  spin_unlock(&dcache_lock);
  int err = listing_add(l, ".", 1, f->inode->ino, DT_DIR);
  if (!err) err = listing_add(l, "..", 2, up, DT_DIR);
  for (u32 k = 0; !err && t && k < t->child_count; k++)
    err = listing_add(l, t->children[k].name, t->children[k].name_len, BIT(48) + t->children[k].id, types[t->children[k].kind]);
  // In a directory that only the policy knows the host has nothing to add.
  bool ask = dir->right == RIGHT_ALLOWED || dir->right == RIGHT_BELOW || dir->allowed || policy.allow_all_but_log;
  for (u32 k = 0; !ask && dir->host_path && k < policy.allowed_n; k++) {
    const char *a = policy.allowed[k];
    size_t len = strlen(dir->host_path);
    ask = !strcmp(dir->host_path, "/") ? a[0] == '/' : !strcmp(dir->host_path, ".") ? a[0] != '/' : !strncmp(a, dir->host_path, len) && a[len] == '/';
  }
  if (!err && ask) err = read_host(l, dir);
  if (err) {
    listing_free(l);
    return err;
  }
  *out = l;
  return 0;
}

// Called with the file's position locked.
static int hostfs_readdir(struct file *f, struct dirent_sink *s, u64 *pos) {
  struct listing *l = f->priv;
  if (*pos == 0 || !l) { // rewinddir takes a new look
    struct listing *fresh;
    int err = listing_make(f, &fresh);
    if (err) return err;
    listing_free(l);
    f->priv = l = fresh;
  }
  for (; *pos < l->count; ++*pos) {
    const struct record *r = (const struct record *)(const void *)(l->data + l->starts[*pos]);
    if (!s->emit(s, r->name, r->len, r->ino, r->type, *pos + 1)) break;
  }
  return 0;
}

static void dir_release(struct file *f) { listing_free(f->priv); }

static int dir_fsync(struct file *f, u64 start, u64 len, bool data_only) {
  struct hnode *h = hnode_of(f->inode);
  u64 fh;
  if (h->right != RIGHT_ALLOWED || (f->inode->super->flags & SUPER_RDONLY)) return 0;
  int err = virtiofs_open(h->nodeid, O_RDONLY | O_DIRECTORY, true, &fh, NULL);
  if (err) return err;
  err = virtiofs_fsync(h->nodeid, fh, data_only, true);
  virtiofs_release(h->nodeid, fh, O_RDONLY, true);
  return err;
}

const struct file_ops hostfs_dir_ops = { .readdir = hostfs_readdir, .seek = file_seek_generic, .fsync = dir_fsync, .release = dir_release };

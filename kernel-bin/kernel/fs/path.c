// SPDX-License-Identifier: Apache-2.0
//
// The walk from text to dentry. One loop, no recursion: a symbolic link's text is put in front of what remains. A walk
// holds references on where it is and on its root, and no lock between two components.
#include "fs/internal.h"
#include <linux/openat2.h>

struct fscontext *(*fscontext_current)(void);

void path_get(const struct path *p) { dentry_get(p->dentry); } // mounts are never freed
void path_put(struct path *p) {
  if (p->dentry) dentry_put(p->dentry);
  p->dentry = NULL;
}

void path_root(struct path *out) {
  *out = (struct path){ root_mount, root_mount->root };
  path_get(out);
}

static struct fscontext *context(void) { return fscontext_current ? fscontext_current() : NULL; }

int path_of_fd(int fd, struct path *out) {
  struct file *f = file_from_fd(fd);
  if (!f) return -EBADF;
  int r = f->dentry ? 0 : -ENOTDIR;
  if (!r) {
    *out = (struct path){ dentry_mount(f->dentry), dentry_get(f->dentry) };
  }
  file_put(f);
  return r;
}

int walk_begin(struct walk *w, int at, const char *name, u64 resolve) {
  struct fscontext *c = context();
  *w = (struct walk){ .p = name, .resolve = resolve };
  bool absolute = *name == '/';
  if (absolute && (resolve & RESOLVE_BENEATH)) return -EXDEV;
  bool want_cwd = at == AT_FDCWD && (!absolute || (resolve & RESOLVE_IN_ROOT));
  if (c) {
    spin_lock(&c->lock);
    w->root = c->root;
    path_get(&w->root);
    if (want_cwd) {
      w->cur = c->cwd;
      path_get(&w->cur);
    }
    spin_unlock(&c->lock);
  } else {
    path_root(&w->root);
    if (want_cwd) path_root(&w->cur);
  }
  int r = 0;
  if (!w->cur.dentry) {
    if (absolute && !(resolve & RESOLVE_IN_ROOT)) {
      w->cur = w->root;
      path_get(&w->cur);
    } else if (!(r = path_of_fd(at, &w->cur)) && !S_ISDIR(w->cur.dentry->inode->mode)) {
      r = -ENOTDIR;
    }
  }
  if (!r && (resolve & (RESOLVE_BENEATH | RESOLVE_IN_ROOT))) { // the start is the root of this walk
    path_put(&w->root);
    w->root = w->cur;
    path_get(&w->root);
  }
  if (r) walk_end(w);
  return r;
}

void walk_end(struct walk *w) {
  path_put(&w->cur);
  path_put(&w->root);
  kfree(w->owned);
  w->owned = NULL;
}

void walk_enter(struct walk *w, struct dentry *d) {
  struct mount *m = w->cur.mnt;
  struct mount *over;
  while ((over = READ_ONCE(d->mounted)) != NULL) {
    dentry_get(over->root);
    dentry_put(d);
    d = over->root;
    m = over;
  }
  dentry_put(w->cur.dentry);
  w->cur = (struct path){ m, d };
}

static int go_up(struct walk *w) {
  struct dentry *d = w->cur.dentry, *up;
  struct mount *m = w->cur.mnt;
  if (d == w->root.dentry) return w->resolve & RESOLVE_BENEATH ? -EXDEV : 0;
  while (m && d == m->root) { // the top of a mount: the parent of what it covers
    if (!m->covers) return 0;
    d = m->covers;
    m = m->parent;
    if (d == w->root.dentry) break;
  }
  if ((w->resolve & RESOLVE_NO_XDEV) && m != w->cur.mnt) return -EXDEV;
  spin_lock(&dcache_lock);
  up = dentry_get(d->parent ? d->parent : d);
  spin_unlock(&dcache_lock);
  struct dentry *was = w->cur.dentry;
  w->cur = (struct path){ m, up };
  dentry_put(was);
  return 0;
}

int walk_follow(struct walk *w, struct dentry *d, const char *rest) {
  struct inode *i = d->inode;
  if (++w->links > SYMLINKS_MAX || (w->resolve & RESOLVE_NO_SYMLINKS)) return -ELOOP;
  if (i->ops->follow) {
    if (w->resolve & (RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH | RESOLVE_IN_ROOT)) return w->resolve & RESOLVE_NO_MAGICLINKS ? -ELOOP : -EXDEV;
    struct dentry *t = i->ops->follow(d);
    if (is_err(t)) return (int)ptr_err(t);
    dentry_put(w->cur.dentry);
    w->cur = (struct path){ dentry_mount(t), t };
    w->p = rest;
    return 1;
  }
  if (!i->ops->readlink) return -EINVAL;
  size_t rest_len = strlen(rest);
  char *text = kmalloc(PATH_MAX + rest_len + 2, 0);
  if (!text) return -ENOMEM;
  int n = i->ops->readlink(i, text, PATH_MAX);
  if (n <= 0) {
    kfree(text);
    return n ? n : -ENOENT;
  }
  inode_touch_atime(i);
  size_t len = (size_t)n;
  if (rest_len) {
    text[len++] = '/';
    memcpy(text + len, rest, rest_len);
    len += rest_len;
  }
  text[len] = 0;
  kfree(w->owned);
  w->owned = text;
  w->p = text;
  if (text[0] == '/') {
    if (w->resolve & RESOLVE_BENEATH) return -EXDEV;
    if ((w->resolve & RESOLVE_NO_XDEV) && w->root.mnt != w->cur.mnt) return -EXDEV;
    path_get(&w->root);
    path_put(&w->cur);
    w->cur = w->root;
  }
  return 0;
}

// One component that is not the last.
static int walk_step(struct walk *w, const char *name, size_t len, const char *rest) {
  if (len == 1 && name[0] == '.') return 0;
  if (len == 2 && name[0] == '.' && name[1] == '.') return go_up(w);
  struct dentry *d = dentry_lookup(w->cur.dentry, name, len);
  if (is_err(d)) return (int)ptr_err(d);
  struct inode *i = READ_ONCE(d->inode);
  if (!i) {
    dentry_put(d);
    return -ENOENT;
  }
  if (S_ISLNK(i->mode) && !d->mounted) {
    int r = walk_follow(w, d, rest);
    dentry_put(d);
    return r < 0 ? r : 0;
  }
  struct mount *m = w->cur.mnt;
  walk_enter(w, d);
  return (w->resolve & RESOLVE_NO_XDEV) && m != w->cur.mnt ? -EXDEV : 0;
}

int walk_parent(struct walk *w) {
  for (;;) {
    while (*w->p == '/') w->p++;
    struct inode *dir = w->cur.dentry->inode;
    const char *name = w->p;
    size_t len = 0;
    while (name[len] && name[len] != '/') len++;
    if (len || !S_ISDIR(dir->mode)) {
      if (!S_ISDIR(dir->mode)) return -ENOTDIR;
      int r = inode_permission(dir, MAY_EXEC);
      if (r) return r;
    }
    if (len > NAME_MAX) return -ENAMETOOLONG;
    const char *rest = name + len;
    while (*rest == '/') rest++;
    if (!*rest) {
      w->last = name;
      w->last_len = (u32)len;
      w->slash = name[len] == '/';
      w->last_type = !len ? LAST_ROOT : len == 1 && name[0] == '.' ? LAST_DOT
                   : len == 2 && name[0] == '.' && name[1] == '.' ? LAST_DOTDOT : LAST_NORM;
      w->p = rest;
      return 0;
    }
    w->p = rest;
    int r = walk_step(w, name, len, rest);
    if (r) return r;
  }
}

int walk_last_dots(struct walk *w) { return w->last_type == LAST_DOTDOT ? go_up(w) : 0; }

int path_lookup_resolve(int at, const char *name, unsigned flags, u64 resolve, struct path *out) {
  struct walk w;
  if (!*name) {
    if (!(flags & LOOKUP_EMPTY)) return -ENOENT;
    if (at != AT_FDCWD) return path_of_fd(at, out);
    name = ".";
  }
  int r = walk_begin(&w, at, name, resolve);
  if (r) return r;
  for (;;) {
    if ((r = walk_parent(&w))) break;
    if (w.last_type != LAST_NORM) {
      r = walk_last_dots(&w);
      break;
    }
    struct dentry *d = dentry_lookup(w.cur.dentry, w.last, w.last_len);
    if (is_err(d)) {
      r = (int)ptr_err(d);
      break;
    }
    struct inode *i = READ_ONCE(d->inode);
    if (!i) {
      dentry_put(d);
      r = -ENOENT;
      break;
    }
    if (S_ISLNK(i->mode) && !d->mounted && ((flags & LOOKUP_FOLLOW) || w.slash)) {
      bool slash = w.slash;
      r = walk_follow(&w, d, slash ? "/" : "");
      dentry_put(d);
      if (r < 0) break;
      if (r == 0) continue;
      w.slash = slash;
      r = 0;
      break;
    }
    struct mount *m = w.cur.mnt;
    walk_enter(&w, d);
    if ((resolve & RESOLVE_NO_XDEV) && m != w.cur.mnt) r = -EXDEV;
    break;
  }
  if (!r && (w.slash || (flags & LOOKUP_DIRECTORY)) && !S_ISDIR(w.cur.dentry->inode->mode)) r = -ENOTDIR;
  if (!r) {
    *out = w.cur;
    w.cur.dentry = NULL;
  }
  walk_end(&w);
  return r;
}

int path_lookup(int at, const char *name, unsigned flags, struct path *out) {
  return path_lookup_resolve(at, name, flags, flags & LOOKUP_NO_XDEV ? RESOLVE_NO_XDEV : 0, out);
}

// Most names are short: only the others cost an allocation.
int name_get(struct name_buf *b, uptr name) {
  b->text = b->small;
  long n = strncpy_from_user(b->small, name, sizeof b->small);
  if (n >= 0) return 0;
  if (n != -ENAMETOOLONG) return (int)n;
  b->text = kmalloc(PATH_MAX, 0);
  if (!b->text) return -ENOMEM;
  n = strncpy_from_user(b->text, name, PATH_MAX);
  if (n >= 0) return 0;
  kfree(b->text);
  return (int)n;
}

void name_put(struct name_buf *b) {
  if (b->text != b->small) kfree(b->text);
}

int path_lookup_user(int at, uptr name, unsigned flags, struct path *out) {
  struct name_buf b;
  int r = name_get(&b, name);
  if (r) return r;
  r = path_lookup(at, b.text, flags, out);
  name_put(&b);
  return r;
}

// SPDX-License-Identifier: Apache-2.0
//
// What a process adds to a path: root, working directory, umask; and its report data. Shared by
// CLONE_FS; its lock guards them all.
#include "fs/internal.h"

static struct fscontext *make(struct path root, struct path cwd, u32 umask) {
  struct fscontext *c = kzalloc(sizeof *c);
  if (!c) {
    path_put(&root);
    path_put(&cwd);
    return NULL;
  }
  ref_init(&c->refs);
  spin_init(&c->lock, RANK_OBJECT);
  c->root = root;
  c->cwd = cwd;
  c->umask = umask;
  return c;
}

struct fscontext *fscontext_create(void) {
  struct path root, cwd;
  path_root(&root);
  path_root(&cwd);
  return make(root, cwd, 022);
}

struct fscontext *fscontext_copy(struct fscontext *c) {
  spin_lock(&c->lock);
  struct path root = c->root, cwd = c->cwd;
  u32 umask = c->umask;
  u8 data[sizeof c->report_data];
  memcpy(data, c->report_data, sizeof data);
  path_get(&root);
  path_get(&cwd);
  spin_unlock(&c->lock);
  struct fscontext *copy = make(root, cwd, umask);
  if (copy) memcpy(copy->report_data, data, sizeof data);
  return copy;
}

void fscontext_report_data(struct fscontext *c, u8 out[64]) {
  spin_lock(&c->lock);
  memcpy(out, c->report_data, sizeof c->report_data);
  spin_unlock(&c->lock);
}

void fscontext_set_report_data(struct fscontext *c, const u8 data[64]) {
  spin_lock(&c->lock);
  memcpy(c->report_data, data, sizeof c->report_data);
  spin_unlock(&c->lock);
}

void fscontext_put(struct fscontext *c) {
  if (!c || !ref_put(&c->refs)) return;
  path_put(&c->root);
  path_put(&c->cwd);
  kfree(c);
}

// SPDX-License-Identifier: Apache-2.0
//
// Red-black trees after Cormen et al., Introduction to Algorithms, chapter 13, with NULL for the leaves.
#include "lib/lib.h"

static bool is_red(const struct rb_node *n) { return n && n->red; }

// Puts `b` (may be NULL) where `a` hangs.
static void replace(struct rb_root *root, struct rb_node *a, struct rb_node *b) {
  if (!a->parent) root->node = b;
  else if (a->parent->left == a) a->parent->left = b;
  else a->parent->right = b;
  if (b) b->parent = a->parent;
}

static void rotate_left(struct rb_root *root, struct rb_node *x) {
  struct rb_node *y = x->right;
  x->right = y->left;
  if (y->left) y->left->parent = x;
  replace(root, x, y);
  y->left = x;
  x->parent = y;
}

static void rotate_right(struct rb_root *root, struct rb_node *x) {
  struct rb_node *y = x->left;
  x->left = y->right;
  if (y->right) y->right->parent = x;
  replace(root, x, y);
  y->right = x;
  x->parent = y;
}

void rb_insert(struct rb_root *root, struct rb_node *n, struct rb_node *parent, struct rb_node **link) {
  *n = (struct rb_node){ .parent = parent, .red = true };
  *link = n;
  while (is_red(n->parent)) {
    struct rb_node *p = n->parent, *g = p->parent; // a red parent is not the root
    bool left = p == g->left;
    struct rb_node *uncle = left ? g->right : g->left;
    if (is_red(uncle)) {
      p->red = uncle->red = false;
      g->red = true;
      n = g;
      continue;
    }
    if (n == (left ? p->right : p->left)) {
      if (left) rotate_left(root, p);
      else rotate_right(root, p);
      p = n;
    }
    p->red = false;
    g->red = true;
    if (left) rotate_right(root, g);
    else rotate_left(root, g);
    break;
  }
  root->node->red = false;
}

// `n` (may be NULL) below `parent` lacks one black node.
static void erase_fixup(struct rb_root *root, struct rb_node *n, struct rb_node *parent) {
  while (parent && !is_red(n)) {
    bool left = parent->left == n;
    struct rb_node *s = left ? parent->right : parent->left; // never NULL: the other side has a black node more
    if (s->red) {
      s->red = false;
      parent->red = true;
      if (left) rotate_left(root, parent);
      else rotate_right(root, parent);
      s = left ? parent->right : parent->left;
    }
    if (!is_red(s->left) && !is_red(s->right)) {
      s->red = true;
      n = parent;
      parent = n->parent;
      continue;
    }
    if (!is_red(left ? s->right : s->left)) {
      (left ? s->left : s->right)->red = false;
      s->red = true;
      if (left) rotate_right(root, s);
      else rotate_left(root, s);
      s = left ? parent->right : parent->left;
    }
    s->red = parent->red;
    parent->red = false;
    (left ? s->right : s->left)->red = false;
    if (left) rotate_left(root, parent);
    else rotate_right(root, parent);
    n = root->node;
    break;
  }
  if (n) n->red = false;
}

void rb_erase(struct rb_root *root, struct rb_node *n) {
  struct rb_node *child, *parent;
  bool removed_black;
  if (n->left && n->right) {
    struct rb_node *next = n->right;
    while (next->left) next = next->left;
    removed_black = !next->red;
    child = next->right;
    if (next->parent == n) {
      parent = next;
    } else {
      parent = next->parent;
      replace(root, next, child);
      next->right = n->right;
      next->right->parent = next;
    }
    replace(root, n, next);
    next->left = n->left;
    next->left->parent = next;
    next->red = n->red;
  } else {
    child = n->left ? n->left : n->right;
    parent = n->parent;
    removed_black = !n->red;
    replace(root, n, child);
  }
  if (removed_black) erase_fixup(root, child, parent);
  *n = (struct rb_node){ 0 };
}

struct rb_node *rb_first(const struct rb_root *root) {
  struct rb_node *n = root->node;
  while (n && n->left) n = n->left;
  return n;
}

struct rb_node *rb_last(const struct rb_root *root) {
  struct rb_node *n = root->node;
  while (n && n->right) n = n->right;
  return n;
}

struct rb_node *rb_next(const struct rb_node *n) {
  if (n->right) {
    struct rb_node *m = n->right;
    while (m->left) m = m->left;
    return m;
  }
  while (n->parent && n->parent->right == n) n = n->parent;
  return n->parent;
}

struct rb_node *rb_prev(const struct rb_node *n) {
  if (n->left) {
    struct rb_node *m = n->left;
    while (m->right) m = m->right;
    return m;
  }
  while (n->parent && n->parent->left == n) n = n->parent;
  return n->parent;
}

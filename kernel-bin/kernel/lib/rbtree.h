// SPDX-License-Identifier: Apache-2.0
// Intrusive red-black tree. The caller finds the place; the tree only links and balances. Locking is the caller's.
#ifndef LIB_RBTREE_H
#define LIB_RBTREE_H
struct rb_node { struct rb_node *parent, *left, *right; bool red; };
struct rb_root { struct rb_node *node; };
// Usual insertion: walk `link = &root->node` down, remembering `parent`, then rb_insert(root, n, parent, link).
void rb_insert(struct rb_root *root, struct rb_node *n, struct rb_node *parent, struct rb_node **link);
void rb_erase(struct rb_root *root, struct rb_node *n);
struct rb_node *rb_first(const struct rb_root *root);
struct rb_node *rb_last(const struct rb_root *root);
struct rb_node *rb_next(const struct rb_node *n);
struct rb_node *rb_prev(const struct rb_node *n);
#define rb_entry(n, type, member) container_of(n, type, member)
#endif

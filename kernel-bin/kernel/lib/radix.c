// SPDX-License-Identifier: Apache-2.0
//
// Radix tree, 64 slots per node. A tree of height h holds keys below 64^h; height 0 is the empty tree. A node's marks
// say for each slot whether something below has that mark. Nodes without entries are freed, and the tree shrinks again.
#include "lib/lib.h"

#define BITS 6
#define SLOTS 64
#define MAX_HEIGHT 11 // 66 bits

struct radix_node {
  void *slots[SLOTS];
  u64 present;
  u64 marks[RADIX_MARKS];
};

static void *(*node_alloc)(size_t);
static void (*node_release)(void *);

void radix_set_allocator(void *(*alloc)(size_t), void (*release)(void *)) {
  node_alloc = alloc;
  node_release = release;
}

static unsigned shift_of(unsigned height) { return (height - 1) * BITS; }
static unsigned slot_of(u64 key, unsigned height) { return (unsigned)(key >> shift_of(height)) % SLOTS; }
static bool fits(u64 key, unsigned height) { return height * BITS >= 64 || key >> (height * BITS) == 0; }

static struct radix_node *make_node(void) {
  struct radix_node *n = node_alloc(sizeof(*n));
  if (n) memset(n, 0, sizeof(*n));
  return n;
}

void *radix_get(const struct radix *t, u64 key) {
  if (!t->height || !fits(key, t->height)) return NULL;
  void *p = t->node;
  for (unsigned h = t->height; h && p; h--) p = ((struct radix_node *)p)->slots[slot_of(key, h)];
  return p;
}

// Undoes levels that hold nothing but slot 0, or nothing at all.
static void shrink(struct radix *t) {
  while (t->height) {
    struct radix_node *n = t->node;
    if (!n->present) {
      node_release(n);
      *t = (struct radix){ 0 };
    } else if (t->height > 1 && n->present == 1) {
      t->node = n->slots[0];
      t->height--;
      node_release(n);
    } else {
      return;
    }
  }
}

int radix_insert(struct radix *t, u64 key, void *item) {
  if (!t->height) {
    if (!(t->node = make_node())) return -ENOMEM;
    t->height = 1;
  }
  while (!fits(key, t->height)) {
    struct radix_node *up = make_node();
    if (!up) {
      shrink(t);
      return -ENOMEM;
    }
    if (t->node->present) {
      up->slots[0] = t->node;
      up->present = 1;
      for (unsigned m = 0; m < RADIX_MARKS; m++) up->marks[m] = t->node->marks[m] != 0;
    } else {
      node_release(t->node);
    }
    t->node = up;
    t->height++;
  }
  // Nodes below the first missing one are made first and hung in last, so that a failure leaves the tree as it was.
  struct radix_node *n = t->node, *fresh[MAX_HEIGHT];
  unsigned h = t->height, made = 0;
  while (h > 1 && n->slots[slot_of(key, h)]) n = n->slots[slot_of(key, h--)];
  if (h == 1 && n->slots[slot_of(key, 1)]) return -EEXIST;
  for (; made < h - 1; made++) {
    if (!(fresh[made] = make_node())) {
      while (made) node_release(fresh[--made]);
      shrink(t);
      return -ENOMEM;
    }
  }
  for (unsigned i = 0; i < made; i++, h--) {
    n->slots[slot_of(key, h)] = fresh[i];
    n->present |= BIT(slot_of(key, h));
    n = fresh[i];
  }
  n->slots[slot_of(key, 1)] = item;
  n->present |= BIT(slot_of(key, 1));
  return 0;
}

// The nodes from the root to the one that holds the key; false when the key is absent.
static bool path_to(const struct radix *t, u64 key, struct radix_node *path[MAX_HEIGHT + 1]) {
  if (!t->height || !fits(key, t->height)) return false;
  struct radix_node *n = t->node;
  for (unsigned h = t->height; h; h--) {
    path[h] = n;
    n = n->slots[slot_of(key, h)];
    if (!n) return false;
  }
  return true;
}

void *radix_remove(struct radix *t, u64 key) {
  struct radix_node *path[MAX_HEIGHT + 1];
  if (!path_to(t, key, path)) return NULL;
  void *item = path[1]->slots[slot_of(key, 1)];
  bool empty_below = true;
  for (unsigned h = 1; h <= t->height; h++) {
    struct radix_node *n = path[h];
    unsigned s = slot_of(key, h);
    if (empty_below) {
      if (h > 1) node_release(path[h - 1]);
      n->slots[s] = NULL;
      n->present &= ~BIT(s);
    }
    for (unsigned m = 0; m < RADIX_MARKS; m++)
      if (empty_below || (h > 1 && !path[h - 1]->marks[m])) n->marks[m] &= ~BIT(s);
    empty_below = n->present == 0;
  }
  shrink(t);
  return item;
}

void *radix_next(const struct radix *t, u64 *key, int mark) {
  u64 k = *key;
  while (t->height && fits(k, t->height)) {
    struct radix_node *n = t->node;
    unsigned h = t->height;
    for (;;) {
      unsigned s = slot_of(k, h);
      u64 have = (mark >= 0 ? n->marks[mark] & n->present : n->present) & (~0ul << s);
      if (!have) break;
      unsigned first = (unsigned)__builtin_ctzll(have);
      if (first != s) k = ((k >> shift_of(h)) + (first - s)) << shift_of(h);
      if (h == 1) {
        *key = k;
        return n->slots[first];
      }
      n = n->slots[first];
      h--;
    }
    // Nothing from here on in this node: go on behind the range that it covers.
    unsigned covered = shift_of(h) + BITS;
    if (covered >= 64) return NULL;
    u64 next = ((k >> covered) + 1) << covered;
    if (next == 0) return NULL;
    k = next;
  }
  return NULL;
}

void radix_mark(struct radix *t, u64 key, unsigned mark) {
  struct radix_node *path[MAX_HEIGHT + 1];
  if (!path_to(t, key, path)) return;
  for (unsigned h = 1; h <= t->height; h++) path[h]->marks[mark] |= BIT(slot_of(key, h));
}

void radix_unmark(struct radix *t, u64 key, unsigned mark) {
  struct radix_node *path[MAX_HEIGHT + 1];
  if (!path_to(t, key, path)) return;
  for (unsigned h = 1; h <= t->height; h++) {
    path[h]->marks[mark] &= ~BIT(slot_of(key, h));
    if (path[h]->marks[mark]) return;
  }
}

bool radix_marked(const struct radix *t, u64 key, unsigned mark) {
  struct radix_node *path[MAX_HEIGHT + 1];
  return path_to(t, key, path) && (path[1]->marks[mark] & BIT(slot_of(key, 1))) != 0;
}

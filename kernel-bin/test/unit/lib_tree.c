// SPDX-License-Identifier: Apache-2.0
// Lists, red-black trees and radix trees against simple models.
#include "unit.h"
#include "../../kernel/lib/rbtree.c"
#undef BITS
#include "../../kernel/lib/radix.c"

struct item { struct rb_node node; u64 key; };

static void insert(struct rb_root *root, struct item *it) {
  struct rb_node **link = &root->node, *parent = NULL;
  while (*link) {
    parent = *link;
    link = it->key < rb_entry(parent, struct item, node)->key ? &parent->left : &parent->right;
  }
  rb_insert(root, &it->node, parent, link);
}

// Black height, or -1 when a rule of red-black trees is broken.
static int check_tree(const struct rb_node *n, const struct rb_node *parent) {
  if (!n) return 1;
  if (n->parent != parent || (n->red && (!parent || parent->red))) return -1;
  int l = check_tree(n->left, n), r = check_tree(n->right, n);
  return l < 0 || l != r ? -1 : l + !n->red;
}

static void test_rbtree(void) {
  enum { N = 500 };
  static struct item items[N];
  bool in[N] = { false };
  struct rb_root root = { NULL };
  for (u64 i = 0; i < N; i++) items[i].key = (i * 7919) % N;
  bool ok = true;
  for (unsigned step = 0; step < 20000; step++) {
    unsigned i = (unsigned)(unit_random() % N);
    if (in[i]) rb_erase(&root, &items[i].node);
    else insert(&root, &items[i]);
    in[i] = !in[i];
    if (step % 16 == 0) ok = ok && check_tree(root.node, NULL) > 0;
  }
  CHECK(ok);
  u64 n = 0, last = 0;
  for (struct rb_node *x = rb_first(&root); x; x = rb_next(x), n++) {
    u64 key = rb_entry(x, struct item, node)->key;
    CHECK(n == 0 || key > last);
    last = key;
  }
  u64 want = 0, back = 0;
  for (unsigned i = 0; i < N; i++) want += in[i];
  for (struct rb_node *x = rb_last(&root); x; x = rb_prev(x)) back++;
  CHECK(n == want && back == want);
}

static long live_nodes, fail_after = -1;
static void *count_alloc(size_t n) {
  if (fail_after >= 0 && fail_after-- == 0) { fail_after = 0; return NULL; }
  live_nodes++;
  return malloc(n);
}
static void count_free(void *p) { live_nodes--; free(p); }

static void test_radix(void) {
  enum { N = 400 };
  static u64 keys[N];
  static bool in[N], marked[N][RADIX_MARKS];
  static int values[N];
  struct radix t = { 0 };
  radix_set_allocator(count_alloc, count_free);
  for (unsigned i = 0; i < N; i++) keys[i] = i < 100 ? i : i < 200 ? (u64)i << 30 : i < 300 ? ~(u64)i : (u64)i * 4096 + 17;
  bool ok = true;
  for (unsigned step = 0; step < 40000; step++) {
    unsigned i = (unsigned)(unit_random() % N), what = (unsigned)(unit_random() % 4), m = (unsigned)(unit_random() % RADIX_MARKS);
    if (what < 2) {
      if (in[i]) {
        ok = ok && radix_insert(&t, keys[i], &values[i]) == -EEXIST && radix_remove(&t, keys[i]) == &values[i];
        memset(marked[i], 0, sizeof(marked[i]));
      } else {
        ok = ok && radix_remove(&t, keys[i]) == NULL && radix_insert(&t, keys[i], &values[i]) == 0;
      }
      in[i] = !in[i];
    } else if (what == 2) {
      radix_mark(&t, keys[i], m);
      if (in[i]) marked[i][m] = true;
    } else {
      radix_unmark(&t, keys[i], m);
      marked[i][m] = false;
    }
    ok = ok && radix_get(&t, keys[i]) == (in[i] ? &values[i] : NULL) && radix_marked(&t, keys[i], m) == marked[i][m];
    if (step % 64) continue;
    for (int mark = -1; mark < RADIX_MARKS; mark++) {
      u64 n = 0, want = 0, key = 0;
      bool first = true;
      u64 last = 0;
      for (void *p; (p = radix_next(&t, &key, mark)); n++) {
        ok = ok && (first || key > last) && radix_get(&t, key) == p;
        first = false;
        last = key;
        if (++key == 0) { n++; break; }
      }
      for (unsigned k = 0; k < N; k++) want += in[k] && (mark < 0 || marked[k][mark]);
      ok = ok && n == want;
    }
  }
  CHECK(ok);
  for (unsigned i = 0; i < N; i++) (void)!radix_remove(&t, keys[i]);
  CHECK(live_nodes == 0 && t.height == 0);
  // Failing allocations leave the tree as it was.
  CHECK(radix_insert(&t, 5, &values[5]) == 0);
  for (long f = 0; f < 12; f++) {
    fail_after = f;
    int err = radix_insert(&t, ~0ul, &values[0]);
    fail_after = -1;
    CHECK(err == -ENOMEM || err == 0);
    CHECK(radix_get(&t, 5) == &values[5]);
    if (!err) CHECK(radix_remove(&t, ~0ul) == &values[0]);
  }
  CHECK(radix_remove(&t, 5) == &values[5]);
  CHECK(live_nodes == 0);
}

static void test_list(void) {
  struct list a, b, n[4];
  list_init(&a);
  list_init(&b);
  for (unsigned i = 0; i < 4; i++) list_push_back(i < 2 ? &a : &b, &n[i]);
  list_splice_back(&a, &b);
  CHECK(list_empty(&b));
  unsigned i = 0;
  for (struct list *l = a.next; l != &a; l = l->next) CHECK(l == &n[i++]);
  CHECK(i == 4);
  list_remove(&n[0]);
  CHECK(list_first(&a) == &n[1] && list_empty(&n[0]));
  list_push_front(&a, &n[0]);
  CHECK(list_first(&a) == &n[0]);
}

int main(void) {
  test_list();
  test_rbtree();
  test_radix();
  return UNIT_END("lib_tree");
}

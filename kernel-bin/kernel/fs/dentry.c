// SPDX-License-Identifier: Apache-2.0
//
// The dentry cache: names in memory, positive and negative, one tree per super. dcache_lock (spin, RANK_OBJECT2, never in
// irq context) guards hash chains, children lists, the LRU, parents and names; it is held for a few dozen instructions.
// A directory's inode->lock is what makes a miss or a change of names atomic; whoever holds it may rely on the names in
// that directory. A hashed dentry carries one reference of the cache's, so under dcache_lock refs == 1 means unused.
#include "fs/internal.h"

struct spinlock dcache_lock = SPINLOCK_INIT(RANK_OBJECT2);
#define HASH_BITS 13
static struct list *buckets;
static struct list lru = LIST_INIT(lru);
static u32 lru_count;
#define LRU_LIMIT 20000 // unpinned dentries that are kept
static struct kmem_cache *dentries;

void dcache_init(void) {
  dentries = kmem_cache_create("dentry", sizeof(struct dentry), 16);
  buckets = kmalloc(sizeof(struct list) << HASH_BITS, 0);
  ASSERT(dentries && buckets);
  for (size_t i = 0; i < 1u << HASH_BITS; i++) list_init(&buckets[i]);
}

static u32 name_hash(const char *name, size_t len) {
  u32 h = 2166136261u;
  for (size_t i = 0; i < len; i++) h = (h ^ (u8)name[i]) * 16777619u;
  return h;
}

static struct list *bucket_of(const struct dentry *parent, u32 hash) {
  u64 x = ((u64)(uintptr_t)parent >> 6) * 0x9e3779b97f4a7c15ull ^ (u64)hash * 0xc2b2ae3d27d4eb4full;
  return &buckets[x >> (64 - HASH_BITS)];
}

struct dentry *dentry_alloc(struct super *s, struct dentry *parent, const char *name, size_t len) {
  struct dentry *d = kmem_cache_alloc(dentries);
  if (!d) return NULL;
  memset(d, 0, offsetof(struct dentry, inline_name));
  d->name = len < sizeof d->inline_name ? d->inline_name : kmalloc(len + 1, 0);
  if (!d->name) {
    kmem_cache_free(dentries, d);
    return NULL;
  }
  memcpy(d->name, name, len);
  d->name[len] = 0;
  d->name_len = (u32)len;
  d->name_hash = name_hash(name, len);
  ref_init(&d->refs);
  d->super = s;
  d->parent = parent ? dentry_get(parent) : NULL;
  d->valid_until_ns = ~0ull;
  list_init(&d->siblings);
  list_init(&d->children);
  list_init(&d->hash);
  list_init(&d->lru);
  return d;
}

// A loop, not recursion: a program decides how deep the tree is.
void dentry_put(struct dentry *d) {
  while (d && ref_put(&d->refs)) {
    ASSERT(!(d->flags & DENTRY_HASHED) && list_empty(&d->children));
    struct dentry *parent = d->parent;
    struct inode *inode = d->inode;
    if (d->name != d->inline_name) kfree(d->name);
    kmem_cache_free(dentries, d);
    if (inode) inode_put(inode);
    d = parent;
  }
}

struct dentry *dentry_create_root(struct super *s, struct inode *root) {
  struct dentry *d = dentry_alloc(s, NULL, "", 0);
  if (!d) return NULL;
  d->inode = root;
  s->root = d;
  return d;
}

static void unhash_locked(struct dentry *d) {
  list_remove(&d->hash);
  list_remove(&d->siblings);
  if (!list_empty(&d->lru)) {
    list_remove(&d->lru);
    lru_count--;
  }
  d->flags &= ~(u32)DENTRY_HASHED;
}

// Second chance over the oldest names. Pinned ones (a file system that stores its names here) leave the list for good.
static void prune(struct list *victims) {
  for (unsigned scan = 0; scan < 64 && lru_count > LRU_LIMIT; scan++) {
    struct dentry *d = list_first_entry(&lru, struct dentry, lru);
    list_remove(&d->lru);
    lru_count--;
    if ((d->inode && (d->super->flags & SUPER_STORAGE)) || d->mounted || (d->flags & DENTRY_PSEUDO)) continue;
    if ((d->flags & DENTRY_USED) || ref_read(&d->refs) > 1) {
      d->flags &= ~(u32)DENTRY_USED;
      list_push_back(&lru, &d->lru);
      lru_count++;
      continue;
    }
    unhash_locked(d);
    list_push_back(victims, &d->lru);
  }
}

static void hash_locked(struct dentry *d) {
  d->flags |= DENTRY_HASHED;
  list_push_front(bucket_of(d->parent, d->name_hash), &d->hash);
  list_push_back(&d->parent->children, &d->siblings);
  list_push_back(&lru, &d->lru);
  lru_count++;
}

void dentry_hash(struct dentry *d) {
  struct list victims = LIST_INIT(victims);
  dentry_get(d);
  spin_lock(&dcache_lock);
  hash_locked(d);
  prune(&victims);
  spin_unlock(&dcache_lock);
  while (!list_empty(&victims)) {
    struct dentry *v = list_first_entry(&victims, struct dentry, lru);
    list_remove(&v->lru);
    dentry_put(v);
  }
}

void dentry_hash_made(struct dentry *d) {
  if (d->inode && d->valid_until_ns && !(d->flags & (DENTRY_HASHED | DENTRY_DELETED))) dentry_hash(d);
}

void dentry_drop(struct dentry *d) {
  spin_lock(&dcache_lock);
  bool was = (d->flags & DENTRY_HASHED) != 0;
  if (was) unhash_locked(d);
  spin_unlock(&dcache_lock);
  if (was) dentry_put(d);
}

void dentry_delete(struct dentry *d) {
  spin_lock(&dcache_lock);
  d->flags |= DENTRY_DELETED;
  spin_unlock(&dcache_lock);
  dentry_drop(d);
}

struct dentry *dentry_lookup_cached(struct dentry *parent, const char *name, size_t len) {
  u32 h = name_hash(name, len);
  struct list *b = bucket_of(parent, h);
  struct dentry *d;
  spin_lock(&dcache_lock);
  list_for_each(d, b, hash) {
    if (d->name_hash != h || d->parent != parent || d->name_len != len || memcmp(d->name, name, len)) continue;
    d->flags |= DENTRY_USED;
    dentry_get(d);
    spin_unlock(&dcache_lock);
    return d;
  }
  spin_unlock(&dcache_lock);
  return NULL;
}

bool dentry_fresh(const struct dentry *d) {
  return d->valid_until_ns == ~0ull || d->mounted || (d->flags & DENTRY_PSEUDO) || time_ns() < d->valid_until_ns;
}

struct dentry *dentry_lookup_locked(struct dentry *parent, const char *name, size_t len) {
  struct dentry *old = dentry_lookup_cached(parent, name, len);
  if (old && dentry_fresh(old)) return old;
  struct inode *dir = parent->inode;
  struct dentry *d = NULL;
  int r = dir->flags & INODE_DEAD ? -ENOENT : dir->ops->lookup ? 0 : -ENOTDIR;
  if (!r && !(d = dentry_alloc(parent->super, parent, name, len))) r = -ENOMEM;
  if (!r) r = dir->ops->lookup(dir, d);
  if (r && !(r == -ENOENT && d)) {
    if (d) dentry_put(d);
    if (old) dentry_put(old);
    return err_ptr(r);
  }
  if (old && old->inode == d->inode) { // still the same: only its time was over
    old->valid_until_ns = d->valid_until_ns;
    dentry_put(d);
    return old;
  }
  if (old) {
    dentry_drop(old);
    dentry_put(old);
  }
  if (d->valid_until_ns) dentry_hash(d);
  return d;
}

struct dentry *dentry_lookup(struct dentry *parent, const char *name, size_t len) {
  struct dentry *d = dentry_lookup_cached(parent, name, len);
  if (d && likely(dentry_fresh(d))) return d;
  if (d) dentry_put(d);
  int r = mutex_lock_interruptible(&parent->inode->lock); // its holder may be waiting for the host
  if (r) return err_ptr(r);
  d = dentry_lookup_locked(parent, name, len);
  mutex_unlock(&parent->inode->lock);
  return d;
}

// Names live inline or on the heap: exchanging them moves the inline bytes along.
static void swap_names(struct dentry *a, struct dentry *b) {
  bool a_inline = a->name == a->inline_name, b_inline = b->name == b->inline_name;
  for (size_t i = 0; i < sizeof a->inline_name; i++) {
    char c = a->inline_name[i];
    a->inline_name[i] = b->inline_name[i];
    b->inline_name[i] = c;
  }
  char *an = a->name, *bn = b->name;
  a->name = b_inline ? a->inline_name : bn;
  b->name = a_inline ? b->inline_name : an;
  u32 len = a->name_len, h = a->name_hash;
  a->name_len = b->name_len;
  a->name_hash = b->name_hash;
  b->name_len = len;
  b->name_hash = h;
  struct dentry *p = a->parent; // the references go with the pointers
  a->parent = b->parent;
  b->parent = p;
}

void dentry_move(struct dentry *d, struct dentry *target) {
  spin_lock(&dcache_lock);
  bool d_hashed = (d->flags & DENTRY_HASHED) != 0, t_hashed = (target->flags & DENTRY_HASHED) != 0;
  if (d_hashed) unhash_locked(d);
  if (t_hashed) unhash_locked(target);
  swap_names(d, target);
  if (target->inode) target->flags |= DENTRY_DELETED;
  d->valid_until_ns = MIN(d->valid_until_ns, target->valid_until_ns);
  if (d_hashed) hash_locked(d); // the cache's reference stays
  spin_unlock(&dcache_lock);
  if (t_hashed) dentry_put(target);
}

void dentry_exchange(struct dentry *a, struct dentry *b) {
  spin_lock(&dcache_lock);
  bool a_hashed = (a->flags & DENTRY_HASHED) != 0, b_hashed = (b->flags & DENTRY_HASHED) != 0;
  if (a_hashed) unhash_locked(a);
  if (b_hashed) unhash_locked(b);
  swap_names(a, b);
  if (a_hashed) hash_locked(a);
  if (b_hashed) hash_locked(b);
  spin_unlock(&dcache_lock);
}

bool dentry_is_below(struct dentry *d, const struct dentry *ancestor) {
  spin_lock(&dcache_lock);
  while (d && d != ancestor) d = d->parent;
  spin_unlock(&dcache_lock);
  return d != NULL;
}

struct mount *dentry_mount(const struct dentry *d) { return d->super->mount; }

// Builds the text from its end, then moves it to the front. Holding dcache_lock keeps names and parents still.
static long build_string(struct dentry *d, const struct path *root, char *buf, size_t size, bool mark_deleted) {
  static const char deleted[] = " (deleted)";
  size_t pos = size;
  bool outside = false;
  if (size < 2) return -ENAMETOOLONG;
  buf[--pos] = 0;
  spin_lock(&dcache_lock);
  if (mark_deleted && ((d->flags & DENTRY_DELETED) || (!d->parent && !dentry_mount(d)))) {
    if (pos < sizeof deleted - 1) goto too_long;
    pos -= sizeof deleted - 1;
    memcpy(buf + pos, deleted, sizeof deleted - 1);
  }
  size_t end = pos;
  while (d != root->dentry) {
    if (!d->parent) {
      struct mount *m = dentry_mount(d);
      if (m && m->covers) {
        d = m->covers;
        continue;
      }
      outside = m != NULL;
      if (!m && d->name_len) { // memfd:name
        if (pos < d->name_len + 1) goto too_long;
        pos -= d->name_len;
        memcpy(buf + pos, d->name, d->name_len);
        buf[--pos] = '/';
      }
      break;
    }
    if (pos < d->name_len + 1) goto too_long;
    pos -= d->name_len;
    memcpy(buf + pos, d->name, d->name_len);
    buf[--pos] = '/';
    d = d->parent;
  }
  spin_unlock(&dcache_lock);
  if (pos == end) {
    if (!pos) return -ENAMETOOLONG;
    buf[--pos] = '/';
  }
  static const char unreachable[] = "(unreachable)";
  if (outside && root->dentry != root_mount->root) {
    if (pos < sizeof unreachable - 1) return -ENAMETOOLONG;
    pos -= sizeof unreachable - 1;
    memcpy(buf + pos, unreachable, sizeof unreachable - 1);
  }
  memmove(buf, buf + pos, size - pos);
  return (long)(size - pos - 1);
too_long:
  spin_unlock(&dcache_lock);
  return -ENAMETOOLONG;
}

static long string_from_root(struct dentry *d, char *buf, size_t size, bool mark_deleted) {
  struct fscontext *c = fscontext_current ? fscontext_current() : NULL;
  struct path root;
  if (c) {
    spin_lock(&c->lock);
    root = c->root;
    path_get(&root);
    spin_unlock(&c->lock);
  } else {
    path_root(&root);
  }
  long r = build_string(d, &root, buf, size, mark_deleted);
  path_put(&root);
  return r;
}

long path_string(const struct path *p, char *buf, size_t size) { return string_from_root(p->dentry, buf, size, false); }
long dentry_string(struct dentry *d, char *buf, size_t size) { return string_from_root(d, buf, size, true); }

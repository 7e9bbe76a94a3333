// SPDX-License-Identifier: Apache-2.0
//
// Descriptor tables. Changes are made under t->lock (RANK_FDTABLE); looking a descriptor up takes no lock:
//
//   reader                              closer
//   f = files[fd]                       files[fd] = NULL (or another file)
//   f->refs += 1 unless it is 0         ...
//   files[fd] still f? else start over  f->refs -= 1, released at 0
//
// struct file is type-stable, so touching refs of a file that was freed meanwhile is harmless, and a reference on one
// that was reused is noticed by the second look. Arrays that growth replaced stay until the table dies (together they
// are smaller than the newest), so a reader that still holds an old one reads old slots, and its second look goes to the
// new one. `cap` is stored after `files` and read before it: a reader never indexes an array that is shorter than cap.
#include "file/internal.h"

#define FD_INLINE 64u
#define FD_MAX (1u << 19) // 4 MiB of pointers, the largest kmalloc
// A slot is eight bytes, so memory alone does not keep 2^32 of them, in many tables, from naming one file. Its count must not
// wrap: with more than this many references it is found no more (EBADF), nor copied by fork; what comes by other roads is few.
#define FILE_REFS_MAX (1u << 31)

struct fdtable {
  struct refcount refs; // threads (CLONE_FILES), and readers of /proc
  u32 cap;              // slots; a multiple of 64
  struct file **files;
  struct spinlock lock;
  u32 next;             // no free slot below it
  u64 *open, *cloexec;  // bitmaps of cap bits, one allocation
  void *retired[16];    // arrays that growth replaced
  u32 retired_n;
  struct file *files0[FD_INLINE];
  u64 bits0[2];
};

struct fdtable *(*fdtable_current)(void);
static u64 (*limit_source)(void);
void fd_set_limit_source(u64 (*limit)(void)) { limit_source = limit; }
u32 fd_limit(void) {
  u64 n = limit_source ? limit_source() : 1024;
  return n < FD_MAX ? (u32)n : FD_MAX;
}

static struct fdtable *table_create(u32 cap) {
  struct fdtable *t = kzalloc(sizeof *t);
  if (!t) return NULL;
  ref_init(&t->refs);
  spin_init(&t->lock, RANK_FDTABLE);
  t->cap = FD_INLINE;
  t->files = t->files0;
  t->open = &t->bits0[0];
  t->cloexec = &t->bits0[1];
  if (cap <= FD_INLINE) return t;
  t->cap = cap;
  t->files = kzalloc(cap * sizeof *t->files);
  t->open = kzalloc(cap / 4);
  if (!t->files || !t->open) {
    kfree(t->files);
    kfree(t->open);
    kfree(t);
    return NULL;
  }
  t->cloexec = t->open + cap / 64;
  return t;
}

struct fdtable *fdtable_create(void) { return table_create(FD_INLINE); }

struct fdtable *fdtable_get(struct fdtable *t) {
  ref_get(&t->refs);
  return t;
}

bool fdtable_shared(const struct fdtable *t) { return ref_read(&t->refs) > 1; }

// Slots to copy: up to the highest open one.
static u32 table_extent(const struct fdtable *t) {
  u32 words = t->cap / 64;
  while (words > 1 && !t->open[words - 1]) words--;
  return words * 64;
}

struct fdtable *fdtable_copy(struct fdtable *from) {
  for (;;) {
    spin_lock(&from->lock);
    u32 cap = table_extent(from);
    spin_unlock(&from->lock);
    struct fdtable *t = table_create(cap);
    if (!t) return NULL;
    spin_lock(&from->lock);
    if (table_extent(from) > t->cap) { // another thread opened more meanwhile
      spin_unlock(&from->lock);
      fdtable_put(t);
      continue;
    }
    u32 n = MIN(t->cap, from->cap);
    for (u32 w = 0; w < n / 64; w++) {
      t->open[w] = from->open[w];
      t->cloexec[w] = from->cloexec[w];
      for (u64 bits = t->open[w]; bits; bits &= bits - 1) {
        u32 fd = w * 64 + (u32)__builtin_ctzll(bits);
        if (unlikely(ref_read(&from->files[fd]->refs) > FILE_REFS_MAX)) {
          t->open[w] &= BIT(fd % 64) - 1; // what was copied so far goes again
          spin_unlock(&from->lock);
          fdtable_put(t);
          return NULL;
        }
        t->files[fd] = file_get(from->files[fd]);
      }
    }
    t->next = from->next;
    spin_unlock(&from->lock);
    return t;
  }
}

// The file of a descriptor that was taken out of `t`: the table's reference goes.
static void file_closed(struct fdtable *t, struct file *f) {
  if (f->ops->flush) f->ops->flush(f, t);
  if (f->dentry && file_hooks.descriptor_closed) file_hooks.descriptor_closed(f, t);
  file_put(f);
}

void fdtable_put(struct fdtable *t) {
  if (!ref_put(&t->refs)) return;
  for (u32 w = 0; w < t->cap / 64; w++)
    for (u64 bits = t->open[w]; bits; bits &= bits - 1) file_closed(t, t->files[w * 64 + (u32)__builtin_ctzll(bits)]);
  for (u32 i = 0; i < t->retired_n; i++) kfree(t->retired[i]);
  if (t->files != t->files0) {
    kfree(t->files);
    kfree(t->open);
  }
  kfree(t);
}

// --- looking up
static inline struct file *slot_read(struct fdtable *t, u32 fd) {
  if (fd >= __atomic_load_n(&t->cap, __ATOMIC_ACQUIRE)) return NULL;
  struct file **files = __atomic_load_n(&t->files, __ATOMIC_ACQUIRE);
  return __atomic_load_n(&files[fd], __ATOMIC_ACQUIRE);
}

static struct file *table_lookup(struct fdtable *t, int fd) {
  struct file *f;
  while ((f = slot_read(t, (u32)fd)) && likely(ref_read(&f->refs) <= FILE_REFS_MAX)) {
    bool got = ref_get_unless_zero(&f->refs);
    if (likely(got && slot_read(t, (u32)fd) == f)) return f;
    if (got) file_put(f);
    cpu_relax();
  }
  return NULL;
}

struct file *file_from_fd(int fd) { return table_lookup(fdtable_current(), fd); }

struct fdref fdref_get(int fd) {
  struct fdtable *t = fdtable_current();
  // Only this thread can change the table: nobody closes the file during this call. (A reader of /proc that takes the
  // table's reference meanwhile only looks; a thread that would share it is made by this thread, later.)
  if (ref_read(&t->refs) == 1) return (struct fdref){ (u32)fd < t->cap ? t->files[fd] : NULL, false };
  return (struct fdref){ table_lookup(t, fd), true };
}

struct file *fdtable_lookup(struct fdtable *t, int fd, bool *cloexec) {
  struct file *f = table_lookup(t, fd);
  if (f && cloexec) {
    spin_lock(&t->lock);
    *cloexec = (u32)fd < t->cap && bit_test(t->cloexec, (u32)fd);
    spin_unlock(&t->lock);
  }
  return f;
}

int fdtable_next(struct fdtable *t, int from) {
  int found = -1;
  spin_lock(&t->lock);
  for (u32 fd = from < 0 ? 0 : (u32)from; fd < t->cap && found < 0;) {
    u64 bits = t->open[fd / 64] >> (fd % 64);
    if (bits) found = (int)(fd + (u32)__builtin_ctzll(bits));
    fd = (fd / 64 + 1) * 64;
  }
  spin_unlock(&t->lock);
  return found;
}

u32 fdtable_capacity(struct fdtable *t) { return READ_ONCE(t->cap); }

// --- changing
// Makes room for `fd`. Called and returns with the lock held, but drops it: the caller looks again. -ENOMEM.
static int table_grow(struct fdtable *t, u32 fd) {
  u32 cap = t->cap;
  while (cap <= fd) cap *= 2;
  spin_unlock(&t->lock);
  struct file **files = kzalloc(cap * sizeof *files);
  u64 *bits = kzalloc(cap / 4);
  spin_lock(&t->lock);
  if (!files || !bits || t->cap >= cap) { // no memory, or another thread was faster
    bool grown = t->cap > fd;
    spin_unlock(&t->lock);
    kfree(files);
    kfree(bits);
    spin_lock(&t->lock);
    return grown ? 0 : -ENOMEM;
  }
  ASSERT(t->retired_n < ARRAY_SIZE(t->retired)); // 64 doubles to 2^19 in 13 steps
  memcpy(files, t->files, t->cap * sizeof *files);
  memcpy(bits, t->open, t->cap / 8);
  memcpy(bits + cap / 64, t->cloexec, t->cap / 8);
  u64 *old_bits = t->open;
  if (t->files != t->files0) t->retired[t->retired_n++] = t->files;
  t->open = bits;
  t->cloexec = bits + cap / 64;
  __atomic_store_n(&t->files, files, __ATOMIC_RELEASE);
  __atomic_store_n(&t->cap, cap, __ATOMIC_RELEASE);
  if (old_bits != t->bits0) { // bitmaps are only read under the lock
    spin_unlock(&t->lock);
    kfree(old_bits);
    spin_lock(&t->lock);
  }
  return 0;
}

static void slot_set(struct fdtable *t, u32 fd, struct file *f, u32 flags) {
  bit_set(t->open, fd);
  if (flags & O_CLOEXEC) bit_set(t->cloexec, fd);
  else bit_clear(t->cloexec, fd);
  __atomic_store_n(&t->files[fd], f, __ATOMIC_RELEASE);
}

static struct file *slot_clear(struct fdtable *t, u32 fd) {
  struct file *f = t->files[fd];
  if (!f) return NULL;
  __atomic_store_n(&t->files[fd], NULL, __ATOMIC_RELEASE);
  bit_clear(t->open, fd);
  bit_clear(t->cloexec, fd);
  if (fd < t->next) t->next = fd;
  return f;
}

int fd_install_from(struct file *f, u32 flags, int min) {
  struct fdtable *t = fdtable_current();
  u32 limit = fd_limit();
  int err = 0;
  spin_lock(&t->lock);
  for (;;) {
    u32 from = MAX(t->next, (u32)min);
    u32 fd = from < t->cap ? (u32)bit_find_zero(t->open, t->cap, from) : from;
    if (fd >= limit) {
      err = -EMFILE;
      break;
    }
    if (fd < t->cap) {
      slot_set(t, fd, f, flags);
      if ((u32)min <= t->next) t->next = fd + 1;
      err = (int)fd;
      break;
    }
    if ((err = table_grow(t, fd))) break;
  }
  spin_unlock(&t->lock);
  return err;
}

bool fd_is(int fd, const struct file *f) {
  struct fdtable *t = fdtable_current();
  spin_lock(&t->lock);
  bool is = (u32)fd < t->cap && t->files[fd] == f;
  spin_unlock(&t->lock);
  return is;
}

bool fd_room(void) {
  struct fdtable *t = fdtable_current();
  u32 limit = fd_limit();
  spin_lock(&t->lock);
  bool room = (t->next < t->cap ? (u32)bit_find_zero(t->open, t->cap, t->next) : t->next) < limit;
  spin_unlock(&t->lock);
  return room;
}

int fd_install(struct file *f, u32 flags) { return fd_install_from(f, flags, 0); }

int fd_replace(int fd, struct file *f, u32 flags) {
  struct fdtable *t = fdtable_current();
  if (fd < 0 || (u32)fd >= fd_limit()) return -EBADF;
  spin_lock(&t->lock);
  while ((u32)fd >= t->cap) {
    int err = table_grow(t, (u32)fd);
    if (err) {
      spin_unlock(&t->lock);
      return err;
    }
  }
  struct file *old = t->files[fd];
  slot_set(t, (u32)fd, f, flags);
  spin_unlock(&t->lock);
  if (old) file_closed(t, old);
  return fd;
}

int fd_close(int fd) {
  struct fdtable *t = fdtable_current();
  spin_lock(&t->lock);
  struct file *f = (u32)fd < t->cap ? slot_clear(t, (u32)fd) : NULL;
  spin_unlock(&t->lock);
  if (!f) return -EBADF;
  file_closed(t, f);
  return 0;
}

int fd_set_cloexec(int fd, bool on) {
  struct fdtable *t = fdtable_current();
  int err = -EBADF;
  spin_lock(&t->lock);
  if ((u32)fd < t->cap && t->files[fd]) {
    if (on) bit_set(t->cloexec, (u32)fd);
    else bit_clear(t->cloexec, (u32)fd);
    err = 0;
  }
  spin_unlock(&t->lock);
  return err;
}

int fd_get_cloexec(int fd) {
  struct fdtable *t = fdtable_current();
  int r = -EBADF;
  spin_lock(&t->lock);
  if ((u32)fd < t->cap && t->files[fd]) r = bit_test(t->cloexec, (u32)fd);
  spin_unlock(&t->lock);
  return r;
}

// Closes the open descriptors of [first, last] that `pick` (a bitmap of the table: 0 open, 1 cloexec) names.
static void table_close_range(struct fdtable *t, u32 first, u32 last, bool only_cloexec) {
  for (u32 fd = first; fd <= last;) {
    struct file *f = NULL;
    spin_lock(&t->lock);
    if (fd >= t->cap) {
      spin_unlock(&t->lock);
      return;
    }
    const u64 *map = only_cloexec ? t->cloexec : t->open;
    u64 bits = map[fd / 64] >> (fd % 64);
    u32 next = (fd / 64 + 1) * 64;
    if (bits) {
      fd += (u32)__builtin_ctzll(bits);
      next = fd + 1;
      if (fd <= last) f = slot_clear(t, fd);
    }
    spin_unlock(&t->lock);
    if (f) file_closed(t, f);
    fd = next;
  }
}

int fd_close_range(u32 first, u32 last, bool cloexec_only) {
  struct fdtable *t = fdtable_current();
  if (first > last) return -EINVAL;
  if (!cloexec_only) {
    table_close_range(t, first, last, false);
    return 0;
  }
  spin_lock(&t->lock);
  for (u32 fd = first; fd <= last && fd < t->cap; fd++)
    if (t->files[fd]) bit_set(t->cloexec, fd);
  spin_unlock(&t->lock);
  return 0;
}

void fdtable_close_on_exec(struct fdtable *t) { table_close_range(t, 0, FD_MAX, true); }

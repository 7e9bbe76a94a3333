// SPDX-License-Identifier: Apache-2.0
//
// Advisory locks: POSIX records (owned by a descriptor table), open-file-description records and flock (owned by a
// struct file). One spinlock guards all of them and the table of who waits for whom; a waiter tries again when any lock of
// its queue's inodes goes away. A record's `file` is never followed: it only tells whose last close removes it.
#include "fs/internal.h"

enum kind { KIND_POSIX, KIND_OFD, KIND_FLOCK };
struct record { struct list link; void *owner; struct file *file; enum kind kind; int type; u64 start, end; /* inclusive */ int pid; };
struct blocked { struct list link; void *owner, *by; };
static struct spinlock locks_lock = SPINLOCK_INIT(RANK_OBJECT);
static struct list blocked_list = LIST_INIT(blocked_list);
static struct waitq locks_wait = WAITQ_INIT(locks_wait);
#define END_MAX ((u64)INT64_MAX)

static bool overlap(const struct record *a, const struct record *b) { return a->start <= b->end && b->start <= a->end; }

// flock and record locks do not see each other; POSIX and OFD records do. locks_lock held.
static struct record *conflict(struct inode *i, const struct record *n) {
  struct record *r;
  list_for_each(r, &i->locks, link) {
    if ((r->kind == KIND_FLOCK) != (n->kind == KIND_FLOCK) || (r->owner == n->owner && r->kind == n->kind)) continue;
    if (overlap(r, n) && (r->type == F_WRLCK || n->type == F_WRLCK)) return r;
  }
  return NULL;
}

// Makes `n` the owner's state in its range; n->type F_UNLCK removes. *spare serves a split; what is not used is left to
// the caller to free. Returns true when something was given up. locks_lock held.
static bool apply(struct inode *i, struct record *n, struct record **spare) {
  struct record *r, *tmp;
  bool released = false;
  list_for_each_safe(r, tmp, &i->locks, link) {
    if (r->owner != n->owner || r->kind != n->kind) continue;
    if (r->type == n->type) {
      if (r->start > (n->end == END_MAX ? END_MAX : n->end + 1) || n->start > (r->end == END_MAX ? END_MAX : r->end + 1)) continue;
      n->start = MIN(n->start, r->start);
      n->end = MAX(n->end, r->end);
      list_remove(&r->link);
      kfree(r);
      continue;
    }
    if (!overlap(r, n)) continue;
    released = true;
    if (r->start < n->start && r->end > n->end) {
      struct record *right = *spare;
      *spare = NULL;
      *right = *r;
      right->start = n->end + 1;
      r->end = n->start - 1;
      list_push_back(&i->locks, &right->link);
    } else if (r->start < n->start) {
      r->end = n->start - 1;
    } else if (r->end > n->end) {
      r->start = n->end + 1;
    } else {
      list_remove(&r->link);
      kfree(r);
    }
  }
  return released;
}

// Would `owner` waiting for `by` close a circle? Owners are in at most one wait each here (threads of one table aside,
// where this may see a circle too many, as Linux does). locks_lock held.
static bool would_deadlock(void *owner, void *by) {
  for (int steps = 0; steps < 64; steps++) {
    struct blocked *b;
    void *next = NULL;
    if (by == owner) return true;
    list_for_each(b, &blocked_list, link)
      if (b->owner == by) next = b->by;
    if (!next) return false;
    by = next;
  }
  return false;
}

static bool free_now(struct inode *i, const struct record *n) {
  spin_lock(&locks_lock);
  bool r = !conflict(i, n);
  spin_unlock(&locks_lock);
  return r;
}

// Takes, converts or gives up a lock. `n` is kmalloc'ed and consumed.
static int set_lock(struct inode *i, struct record *n, bool wait) {
  struct record *spare = kzalloc(sizeof *spare);
  struct blocked b = { .owner = n->owner };
  bool released = false;
  int r = spare ? 0 : -ENOMEM;
  list_init(&b.link);
  while (!r) {
    spin_lock(&locks_lock);
    if (!list_empty(&b.link)) list_remove(&b.link);
    if (n->kind == KIND_FLOCK) { // converting gives the old one up first
      int type = n->type;
      n->type = F_UNLCK;
      released |= apply(i, n, &spare);
      n->type = type;
    }
    struct record *c = n->type == F_UNLCK ? NULL : conflict(i, n);
    if (!c) {
      released |= apply(i, n, &spare);
      if (n->type != F_UNLCK) {
        list_push_back(&i->locks, &n->link);
        n = NULL;
      }
      spin_unlock(&locks_lock);
      break;
    }
    if (!wait) r = -EAGAIN;
    else if (n->kind == KIND_POSIX && c->kind == KIND_POSIX) {
      b.by = c->owner;
      if (would_deadlock(n->owner, c->owner)) r = -EDEADLK;
      else list_push_back(&blocked_list, &b.link);
    }
    spin_unlock(&locks_lock);
    if (released) {
      waitq_wake_all(&locks_wait);
      released = false;
    }
    if (!r) r = wait_event_interruptible(&locks_wait, free_now(i, n));
  }
  spin_lock(&locks_lock);
  if (!list_empty(&b.link)) list_remove(&b.link);
  spin_unlock(&locks_lock);
  if (released) waitq_wake_all(&locks_wait);
  kfree(n);
  kfree(spare);
  return r;
}

static void release(struct inode *i, struct file *f, void *owner, bool posix) {
  struct record *r, *tmp;
  bool any = false;
  if (list_empty(&i->locks)) return; // one of ours that appears now finds its descriptor closed (lock_fcntl)
  spin_lock(&locks_lock);
  list_for_each_safe(r, tmp, &i->locks, link) {
    if (posix ? r->kind != KIND_POSIX || r->owner != owner : r->file != f) continue;
    list_remove(&r->link);
    kfree(r);
    any = true;
  }
  spin_unlock(&locks_lock);
  if (any) waitq_wake_all(&locks_wait);
}

void lock_release_file(struct file *f) { release(f->inode, f, NULL, false); }
void lock_release_posix(struct file *f, void *owner) {
  if (f->inode) release(f->inode, f, owner, true); // closing any descriptor of the file drops them: POSIX
}

static struct record *new_record(struct file *f, enum kind kind, int type, u64 start, u64 end) {
  struct record *n = kzalloc(sizeof *n);
  if (!n) return NULL;
  list_init(&n->link);
  n->file = f;
  n->owner = kind == KIND_POSIX ? (void *)fdtable_current() : (void *)f;
  n->kind = kind;
  n->type = type;
  n->start = start;
  n->end = end;
  n->pid = kind == KIND_OFD ? -1 : fs_current_pid();
  return n;
}

int lock_flock(struct file *f, int op) {
  int type = (op & ~LOCK_NB) == LOCK_SH ? F_RDLCK : (op & ~LOCK_NB) == LOCK_EX ? F_WRLCK : (op & ~LOCK_NB) == LOCK_UN ? F_UNLCK : -1;
  if (type < 0) return -EINVAL;
  if (f->path_only) return -EBADF;
  if (!f->inode) return 0; // a pipe, a socket, the console: nobody else's file can have the same one
  struct record *n = new_record(f, KIND_FLOCK, type, 0, END_MAX);
  return n ? set_lock(f->inode, n, !(op & LOCK_NB)) : -ENOMEM;
}

long lock_fcntl(struct file *f, int fd, int cmd, uptr arg) {
  struct flock fl;
  bool ofd = cmd == F_OFD_GETLK || cmd == F_OFD_SETLK || cmd == F_OFD_SETLKW;
  bool get = cmd == F_GETLK || cmd == F_OFD_GETLK, wait = cmd == F_SETLKW || cmd == F_OFD_SETLKW;
  if (copy_from_user(&fl, arg, sizeof fl)) return -EFAULT;
  if (ofd && fl.l_pid) return -EINVAL;
  if (!f->inode || f->path_only) return f->path_only ? -EBADF : -EINVAL;
  if (fl.l_type != F_RDLCK && fl.l_type != F_WRLCK && (fl.l_type != F_UNLCK || get)) return -EINVAL;
  s64 base = fl.l_whence == 0 ? 0 : fl.l_whence == 1 ? (s64)f->pos : fl.l_whence == 2 ? (s64)f->inode->size : -1;
  s64 start, end;
  if (base < 0) return -EINVAL;
  if (__builtin_add_overflow(base, fl.l_start, &start)) return -EOVERFLOW;
  if (start < 0) return -EINVAL;
  if (fl.l_len > 0) {
    if (__builtin_add_overflow(start, fl.l_len - 1, &end)) return -EOVERFLOW;
  } else if (fl.l_len < 0) { // the bytes before start
    end = start - 1;
    start += fl.l_len;
    if (start < 0) return -EINVAL;
  } else {
    end = INT64_MAX;
  }
  u32 acc = f->flags & O_ACCMODE;
  if (!get && ((fl.l_type == F_RDLCK && acc == O_WRONLY) || (fl.l_type == F_WRLCK && acc == O_RDONLY))) return -EBADF;
  struct record *n = new_record(f, ofd ? KIND_OFD : KIND_POSIX, fl.l_type, (u64)start, (u64)end);
  if (!n) return -ENOMEM;
  if (!get) {
    int r = set_lock(f->inode, n, wait);
    // Another thread closed the descriptor meanwhile, before there was a lock to release: nobody would release this one.
    if (r || ofd || fl.l_type == F_UNLCK || fd_is(fd, f)) return r;
    lock_release_posix(f, fdtable_current());
    return -EBADF;
  }
  spin_lock(&locks_lock);
  struct record *c = conflict(f->inode, n);
  fl.l_type = F_UNLCK;
  if (c) {
    fl.l_type = (short)c->type;
    fl.l_whence = 0;
    fl.l_start = (s64)c->start;
    fl.l_len = c->end == END_MAX ? 0 : (s64)(c->end - c->start + 1);
    fl.l_pid = c->pid;
  }
  spin_unlock(&locks_lock);
  kfree(n);
  return copy_to_user(arg, &fl, sizeof fl) ? -EFAULT : 0;
}

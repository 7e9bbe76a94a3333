// SPDX-License-Identifier: Apache-2.0
//
// Futexes: sleeping on a word of the program's memory. A waiter queues in the bucket of its key, having compared the
// word under the bucket's lock; a waker takes it out under that lock. So a waker that changed the word before looking
// at the bucket finds every waiter that saw the old value.
//
// A key is (address space, address) for private memory and (object, offset) for memory that may be mapped elsewhere.
// The word is read under the bucket's lock, where a fault is not resolved: then the lock is dropped, the page is brought
// in, and everything starts over.
//
// struct waiter_f lives on the waiter's stack. Whoever takes it out of its bucket (bucket becomes NULL) must not touch
// it afterwards, except that the thread, which is referenced meanwhile, is woken.
#include "proc/internal.h"
#include <linux/futex.h>

struct key { void *space; u64 off; struct memobj *obj; }; // obj: referenced by the key's user, NULL: private
struct bucket { struct spinlock lock; struct list waiters; };
struct waiter_f {
  struct list link;
  struct bucket *bucket; // NULL: woken. Changed under the lock of the bucket it was in; MOVING: in between two
  struct key key;
  struct thread *thread;
  u32 bitset;
  int pi_tid;            // LOCK_PI: this waiter's tid, 0: an ordinary one
  u32 pi_owner;          // LOCK_PI: who holds it
  uptr addr;             // LOCK_PI: the word, for the owner's death
  struct aspace *as;
  bool granted;          // LOCK_PI: it was handed the lock
};
#define MOVING ((struct bucket *)1)
#define BUCKETS 256
static struct bucket buckets[BUCKETS];
static u32 pi_waiters; // how many LOCK_PI sleep, so that an exit rarely has to look

void futex_init(void) {
  for (unsigned i = 0; i < BUCKETS; i++) {
    spin_init(&buckets[i].lock, RANK_OBJECT);
    list_init(&buckets[i].waiters);
  }
}

static struct bucket *bucket_of(const struct key *k) {
  u64 h = ((u64)k->space >> 6) * 0x9e3779b97f4a7c15ull ^ (k->off >> 2) * 0xff51afd7ed558ccdull;
  return &buckets[(h ^ h >> 29) >> 3 & (BUCKETS - 1)];
}

static bool key_equal(const struct key *a, const struct key *b) { return a->space == b->space && a->off == b->off; }

static int key_get(uptr addr, bool private, struct key *k) {
  struct aspace *as = lwp_current()->as;
  if (addr % 4) return -EINVAL;
  if (!user_range_ok(addr, 4)) return -EFAULT;
  *k = (struct key){ as, addr, NULL };
  if (private) return 0;
  int err = 0;
  rwsem_read_lock(&as->sem);
  struct vma *v = vma_find(as, addr);
  if (!v || v->start > addr) err = -EFAULT;
  else if (v->flags & VMA_SHARED) *k = (struct key){ v->obj, (v->pgoff << PAGE_SHIFT) + (addr - v->start), memobj_get(v->obj) };
  rwsem_read_unlock(&as->sem);
  return err;
}

static void key_put(struct key *k) {
  if (k->obj) memobj_put(k->obj);
}

// bucket->lock held and w in it.
static void wake_locked(struct waiter_f *w) {
  struct thread *t = w->thread;
  list_remove(&w->link);
  thread_get(t); // w's stack may be gone as soon as bucket is NULL
  __atomic_store_n(&w->bucket, NULL, __ATOMIC_RELEASE);
  thread_wake(t);
  thread_put(t);
}

// Takes w out wherever it is now. False: somebody woke it.
static bool unqueue(struct waiter_f *w) {
  for (;;) {
    struct bucket *b = __atomic_load_n(&w->bucket, __ATOMIC_ACQUIRE);
    if (!b) return false;
    if (b == MOVING) { // a requeue is between two locks: a few instructions
      cpu_relax();
      continue;
    }
    spin_lock(&b->lock);
    bool here = w->bucket == b;
    if (here) {
      list_remove(&w->link);
      w->bucket = NULL;
    }
    spin_unlock(&b->lock);
    if (here) return true;
  }
}

// Sleeps until w is taken out of its bucket: 0; -ETIMEDOUT, -ERESTARTSYS (then it is out as well).
static int wait_queued(struct waiter_f *w, u64 deadline_ns) {
  struct waitq q; // nobody wakes it: thread_wake does
  waitq_init(&q);
  int err = wait_event_timeout(&q, !__atomic_load_n(&w->bucket, __ATOMIC_ACQUIRE), deadline_ns);
  if (!unqueue(w)) err = 0; // a wake-up that came is never lost, whatever else happened
  return err;
}

static int fault_in_read(uptr addr) {
  u32 v;
  return copy_from_user(&v, addr, sizeof v);
}
static int fault_in_write(uptr addr) {
  u32 old;
  return user_cmpxchg32(addr, 0, 0, &old);
}

static long restart_wait(struct lwp *l);

static long wait_until(uptr addr, u32 val, u32 bitset, bool private, u64 deadline_ns) {
  if (!bitset) return -EINVAL;
  struct waiter_f w = { .thread = thread_current(), .bitset = bitset };
  int err = key_get(addr, private, &w.key);
  if (err) return err;
  list_init(&w.link);
  struct bucket *b = bucket_of(&w.key);
  u32 now;
  spin_lock(&b->lock);
  while (copy_from_user_nofault(&now, addr, sizeof now)) {
    spin_unlock(&b->lock);
    err = fault_in_read(addr);
    if (err) goto out;
    spin_lock(&b->lock);
  }
  if (now != val) {
    spin_unlock(&b->lock);
    err = -EAGAIN;
    goto out;
  }
  w.bucket = b;
  list_push_back(&b->waiters, &w.link);
  spin_unlock(&b->lock);
  err = wait_queued(&w, deadline_ns);
  if (err == -ERESTARTSYS && deadline_ns != WAIT_FOREVER) {
    struct lwp *l = lwp_current(); // the deadline stays what it was
    l->restart.fn = restart_wait;
    l->restart.arg[0] = addr;
    l->restart.arg[1] = val;
    l->restart.arg[2] = bitset;
    l->restart.arg[3] = private;
    l->restart.arg[4] = deadline_ns;
    err = -ERESTART_RESTARTBLOCK;
  }
out:
  key_put(&w.key);
  return err;
}

static long restart_wait(struct lwp *l) {
  return wait_until(l->restart.arg[0], (u32)l->restart.arg[1], (u32)l->restart.arg[2], l->restart.arg[3] != 0, l->restart.arg[4]);
}

static long wake(uptr addr, int n, u32 bitset, bool private) {
  if (!bitset) return -EINVAL;
  struct key k;
  long woken = key_get(addr, private, &k);
  if (woken) return woken;
  struct bucket *b = bucket_of(&k);
  struct waiter_f *w, *next;
  spin_lock(&b->lock);
  list_for_each_safe(w, next, &b->waiters, link) {
    if (!key_equal(&w->key, &k) || !(w->bitset & bitset)) continue;
    if (w->pi_tid) {
      woken = -EINVAL; // somebody sleeps in LOCK_PI on this word
      break;
    }
    wake_locked(w);
    if (++woken >= n) break;
  }
  spin_unlock(&b->lock);
  key_put(&k);
  return woken;
}

// Takes one waiter of `from` out of b and into `to`'s bucket. The two locks are not nested: both have the same rank.
static bool move_one(struct bucket *b, const struct key *from, const struct key *to) {
  struct waiter_f *w, *found = NULL;
  struct memobj *old = NULL;
  spin_lock(&b->lock);
  list_for_each(w, &b->waiters, link) {
    if (!key_equal(&w->key, from) || w->pi_tid) continue;
    found = w;
    list_remove(&w->link);
    old = w->key.obj;
    w->key = *to;
    __atomic_store_n(&w->bucket, MOVING, __ATOMIC_RELEASE); // its thread waits for us before it returns
    break;
  }
  spin_unlock(&b->lock);
  if (!found) return false;
  struct bucket *dst = bucket_of(to);
  if (to->obj) memobj_get(to->obj); // found->key's; the waiter puts it
  spin_lock(&dst->lock);
  list_push_back(&dst->waiters, &found->link);
  __atomic_store_n(&found->bucket, dst, __ATOMIC_RELEASE);
  spin_unlock(&dst->lock);
  if (old) memobj_put(old);
  return true;
}

static long requeue(uptr addr, int nr_wake, int nr_requeue, uptr addr2, bool private, const u32 *expected) {
  if (nr_wake < 0 || nr_requeue < 0) return -EINVAL;
  struct key k, k2;
  long done = key_get(addr, private, &k);
  if (done) return done;
  done = key_get(addr2, private, &k2);
  if (done) {
    key_put(&k);
    return done;
  }
  struct bucket *b = bucket_of(&k);
  struct waiter_f *w, *next;
  u32 now;
  spin_lock(&b->lock);
  while (expected && copy_from_user_nofault(&now, addr, sizeof now)) {
    spin_unlock(&b->lock);
    done = fault_in_read(addr);
    if (done) goto out;
    spin_lock(&b->lock);
  }
  if (expected && now != *expected) {
    spin_unlock(&b->lock);
    done = -EAGAIN;
    goto out;
  }
  list_for_each_safe(w, next, &b->waiters, link) {
    if (done >= nr_wake) break;
    if (!key_equal(&w->key, &k) || w->pi_tid) continue;
    wake_locked(w);
    done++;
  }
  spin_unlock(&b->lock);
  // The same word: they are where they belong, and count as moved.
  if (!key_equal(&k, &k2))
    for (int i = 0; i < nr_requeue && move_one(b, &k, &k2); i++) done++;
out:
  key_put(&k);
  key_put(&k2);
  return done;
}

static long wake_op(uptr addr, int nr_wake, int nr_wake2, uptr addr2, u32 op, bool private) {
  u32 cmd = op >> 28 & 7, cmp = op >> 24 & 15, old, seen;
  s32 oparg = (s32)(op << 8) >> 20, cmparg = (s32)(op << 20) >> 20;
  if (op >> 31 & 1) oparg = (s32)(1u << (oparg & 31)); // FUTEX_OP_OPARG_SHIFT
  if (addr2 % 4) return -EINVAL;
  if (cmd > FUTEX_OP_XOR || cmp > FUTEX_OP_CMP_GE) return -ENOSYS;
  // The change itself is atomic, which is all that is promised to others; the wake-ups follow it.
  if (copy_from_user(&seen, addr2, sizeof seen)) return -EFAULT;
  for (;;) {
    u32 arg = (u32)oparg;
    u32 want = cmd == FUTEX_OP_SET ? arg : cmd == FUTEX_OP_ADD ? seen + arg : cmd == FUTEX_OP_OR ? seen | arg : cmd == FUTEX_OP_ANDN ? seen & ~arg : seen ^ arg;
    if (user_cmpxchg32(addr2, seen, want, &old)) return -EFAULT;
    if (old == seen) break;
    seen = old;
    if (signal_fatal_pending()) return -ERESTARTSYS;
  }
  s32 o = (s32)old;
  bool also = cmp == FUTEX_OP_CMP_EQ ? o == cmparg : cmp == FUTEX_OP_CMP_NE ? o != cmparg : cmp == FUTEX_OP_CMP_LT ? o < cmparg
    : cmp == FUTEX_OP_CMP_LE ? o <= cmparg : cmp == FUTEX_OP_CMP_GT ? o > cmparg : o >= cmparg;
  long n = wake(addr, nr_wake, FUTEX_BITSET_MATCH_ANY, private);
  if (n < 0 || !also) return n;
  long m = wake(addr2, nr_wake2, FUTEX_BITSET_MATCH_ANY, private);
  return m < 0 ? m : n + m;
}

// --- PI: the word holds the owner's tid; FUTEX_WAITERS makes the owner come here to unlock, where the lock is handed to
// the waiter that has waited longest. Priorities are not inherited.
static struct waiter_f *pi_first(struct bucket *b, const struct key *k, const struct waiter_f *but, bool *more) {
  struct waiter_f *w, *first = NULL;
  *more = false;
  list_for_each(w, &b->waiters, link) {
    if (!key_equal(&w->key, k) || !w->pi_tid || w == but) continue;
    if (first) {
      *more = true;
      break;
    }
    first = w;
  }
  return first;
}

// bucket->lock held: the word goes from `old` to the next waiter or to 0. 0; -EAGAIN: it changed; -EFAULT: bring it in.
static int pi_hand_over(struct bucket *b, const struct key *k, uptr addr, u32 old, u32 keep) {
  bool more;
  struct waiter_f *w = pi_first(b, k, NULL, &more);
  u32 seen, to = w ? (u32)w->pi_tid | (more ? FUTEX_WAITERS : 0) | keep : keep;
  if (user_cmpxchg32(addr, old, to, &seen)) return -EFAULT;
  if (seen != old) return -EAGAIN;
  if (w) {
    struct waiter_f *other;
    list_for_each(other, &b->waiters, link)
      if (key_equal(&other->key, k) && other->pi_tid) other->pi_owner = (u32)w->pi_tid;
    w->granted = true;
    wake_locked(w);
  }
  return 0;
}

static bool tid_alive(u32 tid) {
  u64 flags = spin_lock_irqsave(&process_lock);
  struct lwp *l = lwp_find_locked((int)tid);
  bool r = l && !l->exiting;
  spin_unlock_irqrestore(&process_lock, flags);
  return r;
}

static long lock_pi(uptr addr, bool private, bool try, u64 deadline_ns) {
  u32 me = (u32)lwp_current()->tid, word, seen;
  struct waiter_f w = { .thread = thread_current(), .bitset = FUTEX_BITSET_MATCH_ANY, .pi_tid = (int)me, .addr = addr, .as = lwp_current()->as };
  long err = key_get(addr, private, &w.key);
  if (err) return err;
  list_init(&w.link);
  struct bucket *b = bucket_of(&w.key);
  for (;;) {
    spin_lock(&b->lock);
    bool more;
    bool others = pi_first(b, &w.key, NULL, &more) != NULL;
    err = copy_from_user_nofault(&word, addr, sizeof word);
    u32 owner = word & FUTEX_TID_MASK;
    if (!err && owner == me) {
      spin_unlock(&b->lock);
      err = -EDEADLK;
      break;
    }
    if (!err) {
      // Free (or its owner died): it is ours. Taken: say that somebody waits.
      u32 to = owner ? word | FUTEX_WAITERS : me | (word & FUTEX_OWNER_DIED) | (others ? FUTEX_WAITERS : 0);
      if (owner && try) {
        spin_unlock(&b->lock);
        err = -EAGAIN;
        break;
      }
      err = user_cmpxchg32(addr, word, to, &seen);
      if (!err && seen != word) {
        spin_unlock(&b->lock);
        continue;
      }
    }
    if (err) {
      spin_unlock(&b->lock);
      err = fault_in_write(addr);
      if (err) break;
      continue;
    }
    if (!owner) {
      spin_unlock(&b->lock);
      break;
    }
    w.bucket = b;
    w.pi_owner = owner;
    list_push_back(&b->waiters, &w.link);
    atomic_inc(&pi_waiters); // before the look at the owner: its exit looks at this after it left the table
    spin_unlock(&b->lock);
    if (!tid_alive(owner) && unqueue(&w)) {
      atomic_dec(&pi_waiters);
      err = -ESRCH;
      break;
    }
    err = wait_queued(&w, deadline_ns);
    atomic_dec(&pi_waiters);
    if (w.granted) err = 0;
    else if (!err) continue; // woken by the owner's death: the word says what happened
    if (err == -ERESTARTSYS) err = -ERESTARTNOINTR;
    break;
  }
  key_put(&w.key);
  return err;
}

static long unlock_pi(uptr addr, bool private) {
  u32 me = (u32)lwp_current()->tid, word;
  struct key k;
  long err = key_get(addr, private, &k);
  if (err) return err;
  struct bucket *b = bucket_of(&k);
  for (;;) {
    if (copy_from_user(&word, addr, sizeof word)) {
      err = -EFAULT;
      break;
    }
    if ((word & FUTEX_TID_MASK) != me) {
      err = -EPERM;
      break;
    }
    spin_lock(&b->lock);
    err = pi_hand_over(b, &k, addr, word, 0);
    spin_unlock(&b->lock);
    if (err == -EFAULT) err = fault_in_write(addr) ? -EFAULT : -EAGAIN;
    if (err != -EAGAIN) break;
  }
  key_put(&k);
  return err;
}

// --- the call
static int deadline_of(uptr timeout, bool relative, bool realtime, u64 *out) {
  struct { s64 sec, nsec; } ts;
  *out = WAIT_FOREVER;
  if (!timeout) return 0;
  if (copy_from_user(&ts, timeout, sizeof ts)) return -EFAULT;
  if (ts.sec < 0 || ts.nsec < 0 || ts.nsec >= (s64)NS_PER_SEC) return -EINVAL;
  u64 ns = (u64)ts.sec > WAIT_FOREVER / NS_PER_SEC - 2 ? WAIT_FOREVER - 1 : (u64)ts.sec * NS_PER_SEC + (u64)ts.nsec;
  u64 now = time_ns(), wall = realtime ? time_realtime_ns() : 0;
  if (relative) *out = ns > WAIT_FOREVER - 1 - now ? WAIT_FOREVER - 1 : now + ns;
  else if (!realtime) *out = MAX(ns, 1ull);
  else *out = ns <= wall ? 1 : ns - wall > WAIT_FOREVER - 1 - now ? WAIT_FOREVER - 1 : now + (ns - wall);
  return 0;
}

long futex_syscall(uptr addr, int op, u32 val, uptr timeout_or_val2, uptr addr2, u32 val3) {
  bool private = (op & FUTEX_PRIVATE_FLAG) != 0, realtime = (op & FUTEX_CLOCK_REALTIME) != 0;
  int cmd = op & FUTEX_CMD_MASK;
  if (realtime && cmd != FUTEX_WAIT_BITSET && cmd != FUTEX_LOCK_PI2) return -ENOSYS;
  u64 deadline = WAIT_FOREVER;
  if (cmd == FUTEX_WAIT || cmd == FUTEX_WAIT_BITSET || cmd == FUTEX_LOCK_PI || cmd == FUTEX_LOCK_PI2) {
    int err = deadline_of(timeout_or_val2, cmd == FUTEX_WAIT, realtime || cmd == FUTEX_LOCK_PI, &deadline);
    if (err) return err;
  }
  int val2 = (int)timeout_or_val2;
  switch (cmd) {
    case FUTEX_WAIT: return wait_until(addr, val, FUTEX_BITSET_MATCH_ANY, private, deadline);
    case FUTEX_WAIT_BITSET: return wait_until(addr, val, val3, private, deadline);
    case FUTEX_WAKE: return wake(addr, (int)val, FUTEX_BITSET_MATCH_ANY, private);
    case FUTEX_WAKE_BITSET: return wake(addr, (int)val, val3, private);
    case FUTEX_REQUEUE: return requeue(addr, (int)val, val2, addr2, private, NULL);
    case FUTEX_CMP_REQUEUE: return requeue(addr, (int)val, val2, addr2, private, &val3);
    case FUTEX_WAKE_OP: return wake_op(addr, (int)val, val2, addr2, val3, private);
    case FUTEX_LOCK_PI: case FUTEX_LOCK_PI2: return lock_pi(addr, private, false, deadline);
    case FUTEX_TRYLOCK_PI: return lock_pi(addr, private, true, deadline);
    case FUTEX_UNLOCK_PI: return unlock_pi(addr, private);
    default: return -ENOSYS;
  }
}

// --- the end of a thread: its robust list (the program's memory, so bounded and believed in nothing), and LOCK_PI
// waiters of locks that are on no list.
static void robust_death(struct lwp *l, uptr addr, bool pi, bool pending) {
  u32 word, seen;
  if (addr % 4 || copy_from_user(&word, addr, sizeof word)) return;
  for (;;) {
    u32 tid = word & FUTEX_TID_MASK;
    // It died between the store that unlocks and the wake-up: do that for it.
    if (pending && !pi && !tid) (void)!wake(addr, 1, FUTEX_BITSET_MATCH_ANY, false);
    if (tid != (u32)l->tid) return;
    if (pi && (word & FUTEX_WAITERS)) {
      struct key k;
      if (key_get(addr, false, &k)) return;
      struct bucket *b = bucket_of(&k);
      spin_lock(&b->lock);
      int err = pi_hand_over(b, &k, addr, word, FUTEX_OWNER_DIED);
      spin_unlock(&b->lock);
      key_put(&k);
      if (!err || (err == -EFAULT && fault_in_write(addr))) return;
      if (copy_from_user(&word, addr, sizeof word)) return;
      continue;
    }
    if (user_cmpxchg32(addr, word, (word & FUTEX_WAITERS) | FUTEX_OWNER_DIED, &seen)) return;
    if (seen == word) break;
    word = seen;
  }
  if (!pi && (word & FUTEX_WAITERS)) {
    // Process-shared and private locks have different keys, and the list does not say which it is.
    (void)!wake(addr, 1, FUTEX_BITSET_MATCH_ANY, false);
    (void)!wake(addr, 1, FUTEX_BITSET_MATCH_ANY, true);
  }
}

static void robust_list_walk(struct lwp *l) {
  struct { u64 next, offset, pending; } head;
  if (copy_from_user(&head, l->robust_list, sizeof head)) return;
  uptr pending = head.pending & ~1ull;
  u64 entry = head.next;
  for (unsigned n = 0; (entry & ~1ull) != l->robust_list && n < ROBUST_LIST_LIMIT; n++) {
    u64 next;
    bool ok = copy_from_user(&next, entry & ~1ull, sizeof next) == 0; // before the lock is given up: then it is others'
    if ((entry & ~1ull) != pending) robust_death(l, (entry & ~1ull) + head.offset, entry & 1, false);
    if (!ok) break;
    entry = next;
    sched_yield_if_needed();
  }
  if (pending) robust_death(l, pending + head.offset, head.pending & 1, true);
}

// Waiters in LOCK_PI whose owner is this thread: they try again, and find the owner gone (ESRCH) or its mark.
static void pi_owner_death(struct lwp *l) {
  for (unsigned i = 0; i < BUCKETS; i++) {
    struct waiter_f *w, *next;
    spin_lock(&buckets[i].lock);
    list_for_each_safe(w, next, &buckets[i].waiters, link)
      if (w->pi_tid && w->pi_owner == (u32)l->tid) wake_locked(w);
    spin_unlock(&buckets[i].lock);
  }
}

void futex_exit_robust(struct lwp *l) {
  if (l->robust_list) {
    robust_list_walk(l);
    l->robust_list = 0;
  }
  if (__atomic_load_n(&pi_waiters, __ATOMIC_SEQ_CST)) pi_owner_death(l);
}

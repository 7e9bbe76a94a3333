// SPDX-License-Identifier: Apache-2.0
// Record locks against a model with one cell per byte, and the odd corners of fcntl and flock.
#include "fs_mock.h"

#define BYTES 40
#define OWNERS 3
static int model[OWNERS][BYTES]; // F_UNLCK, F_RDLCK, F_WRLCK

static struct fdtable *owner(int k) { return (struct fdtable *)(uintptr_t)(k + 1); }

static long fcntl_lock(struct file *f, int cmd, int type, long start, long len) {
  struct flock fl = { .l_type = (short)type, .l_start = start, .l_len = len };
  return lock_fcntl(f, 3, cmd, (uptr)&fl);
}

static void test_model(struct file *f) {
  for (int o = 0; o < OWNERS; o++)
    for (int b = 0; b < BYTES; b++) model[o][b] = F_UNLCK;
  static const int types[] = { F_RDLCK, F_WRLCK, F_UNLCK };
  for (int round = 0; round < 20000; round++) {
    int o = (int)(unit_random() % OWNERS), start = (int)(unit_random() % BYTES), len = 1 + (int)(unit_random() % (u64)(BYTES - start)), type = types[unit_random() % 3];
    bool blocked = false;
    for (int p = 0; p < OWNERS; p++)
      for (int b = start; b < start + len && p != o; b++)
        if (type != F_UNLCK && model[p][b] != F_UNLCK && (type == F_WRLCK || model[p][b] == F_WRLCK)) blocked = true;
    mock_table = owner(o);
    struct flock fl = { .l_type = (short)type, .l_start = start, .l_len = len };
    if (type != F_UNLCK) {
      CHECK(lock_fcntl(f, 3, F_GETLK, (uptr)&fl) == 0 && (fl.l_type == F_UNLCK) == !blocked);
      if (blocked) CHECK(fl.l_start < start + len && fl.l_start + fl.l_len > start && fl.l_pid == 42);
    }
    CHECK(fcntl_lock(f, F_SETLK, type, start, len) == (blocked ? -EAGAIN : 0));
    if (!blocked)
      for (int b = start; b < start + len; b++) model[o][b] = type;
    // records of one owner are disjoint, and neighbours of one type are merged
    struct record *r, *q;
    unsigned records = 0, runs = 0;
    list_for_each(r, &f->inode->locks, link) {
      records++;
      list_for_each(q, &f->inode->locks, link)
        if (q != r && q->owner == r->owner && overlap(q, r)) CHECK(!"two records overlap");
    }
    for (int p = 0; p < OWNERS; p++)
      for (int b = 0; b < BYTES; b++) runs += model[p][b] != F_UNLCK && (!b || model[p][b - 1] != model[p][b]);
    CHECK(records == runs);
    if (unit_random() % 500 == 0) { // an owner closes a descriptor of the file
      lock_release_posix(f, owner(o));
      for (int b = 0; b < BYTES; b++) model[o][b] = F_UNLCK;
    }
  }
  for (int o = 0; o < OWNERS; o++) lock_release_posix(f, owner(o));
  CHECK(list_empty(&f->inode->locks));
}

static void test_corners(struct file *f) {
  struct file *ro = path_open(AT_FDCWD, "/locked", O_RDONLY, 0);
  mock_table = owner(0);
  CHECK(fcntl_lock(ro, F_SETLK, F_WRLCK, 0, 0) == -EBADF && fcntl_lock(ro, F_SETLK, F_RDLCK, 0, 0) == 0);
  CHECK(fcntl_lock(f, F_SETLK, 7, 0, 0) == -EINVAL && fcntl_lock(f, F_SETLK, F_RDLCK, -1, 0) == -EINVAL && fcntl_lock(f, F_SETLK, F_RDLCK, 5, -6) == -EINVAL);
  CHECK(fcntl_lock(f, F_SETLK, F_RDLCK, INT64_MAX, 2) == -EOVERFLOW && fcntl_lock(f, F_SETLK, F_WRLCK, 5, -5) == 0);
  mock_table = owner(1);
  CHECK(fcntl_lock(f, F_SETLK, F_RDLCK, 4, 1) == -EAGAIN && fcntl_lock(f, F_SETLK, F_RDLCK, 5, 1) == 0);
  CHECK(fcntl_lock(f, F_OFD_SETLK, F_RDLCK, 4, 1) == -EAGAIN && fcntl_lock(f, F_OFD_SETLK, F_RDLCK, 6, 0) == 0);
  struct flock fl = { .l_type = F_WRLCK, .l_start = 6 };
  CHECK(lock_fcntl(ro, 4, F_OFD_GETLK, (uptr)&fl) == 0 && fl.l_type == F_RDLCK);
  lock_release_posix(f, owner(1)); // leaves the OFD lock and the other owner's
  fl = (struct flock){ .l_type = F_WRLCK, .l_start = 100 };
  CHECK(lock_fcntl(f, 3, F_GETLK, (uptr)&fl) == 0 && fl.l_type == F_RDLCK);
  lock_release_posix(f, owner(0));
  mock_fd_closed = true; // POSIX locks go with a descriptor, those of the file do not
  CHECK(fcntl_lock(f, F_SETLKW, F_WRLCK, 0, 1) == -EBADF && fcntl_lock(f, F_SETLK, F_UNLCK, 0, 1) == 0);
  CHECK(fcntl_lock(f, F_OFD_SETLK, F_WRLCK, 50, 1) == 0);
  mock_fd_closed = false;
  mock_table = owner(1);
  CHECK(fcntl_lock(f, F_SETLK, F_WRLCK, 0, 1) == 0);
  lock_release_posix(f, owner(1));
  mock_table = owner(0);
  CHECK(lock_flock(f, LOCK_EX) == 0 && lock_flock(ro, LOCK_SH | LOCK_NB) == -EAGAIN && lock_flock(f, LOCK_SH) == 0);
  CHECK(lock_flock(ro, LOCK_SH | LOCK_NB) == 0 && lock_flock(f, LOCK_EX | LOCK_NB) == -EAGAIN && lock_flock(f, 99) == -EINVAL);
  file_put(ro); // gives its lock up
  CHECK(lock_flock(f, LOCK_EX | LOCK_NB) == 0 && lock_flock(f, LOCK_UN) == 0);
  struct file pipe = { .refs = f->refs }; // has no inode, so nobody to share its lock with
  CHECK(lock_flock(&pipe, LOCK_EX) == 0 && lock_flock(&pipe, LOCK_UN) == 0 && lock_flock(&pipe, 99) == -EINVAL);
  // a circle of two would wait for ever
  mock_table = owner(0);
  CHECK(fcntl_lock(f, F_OFD_SETLK, F_UNLCK, 0, 0) == 0 && fcntl_lock(f, F_SETLK, F_WRLCK, 0, 1) == 0);
  mock_table = owner(1);
  CHECK(fcntl_lock(f, F_SETLK, F_WRLCK, 1, 1) == 0);
  struct blocked b = { .owner = owner(0), .by = owner(1) };
  list_push_back(&blocked_list, &b.link);
  CHECK(fcntl_lock(f, F_SETLKW, F_WRLCK, 0, 1) == -EDEADLK);
  list_remove(&b.link);
}

int main(void) {
  mock_boot();
  struct file *f = path_open(AT_FDCWD, "/locked", O_CREAT | O_RDWR, 0600);
  test_model(f);
  test_corners(f);
  file_put(f);
  return UNIT_END("fs_locks");
}

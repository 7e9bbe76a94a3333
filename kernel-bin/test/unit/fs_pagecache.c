// SPDX-License-Identifier: Apache-2.0
// The page cache over a disk that can fail, and over tmpfs: random operations compared with a plain byte array.
#include "fs_mock.h"

#define DISK_MAX (3 * MIB)
static u8 disk[DISK_MAX];
static u64 disk_size;
static int disk_fail;           // reads that still fail
static u64 disk_reads, disk_read_pages, disk_writes, disk_write_pages;

static int disk_read(struct inode *i, struct page **pages, unsigned n, u64 index) {
  disk_reads++;
  disk_read_pages += n;
  CHECK(n >= 1 && n <= RA_MAX);
  for (unsigned k = 0; k < n; k++) {
    CHECK(page_test(pages[k], PG_LOCKED) && !page_test(pages[k], PG_UPTODATE) && pages[k]->cache.index == index + k);
    if (disk_fail) continue;
    u64 at = (index + k) * PAGE_SIZE, have = at < disk_size ? MIN(disk_size - at, PAGE_SIZE) : 0;
    memcpy(page_virt(pages[k]), disk + at, have);
    memset((u8 *)page_virt(pages[k]) + have, 0, PAGE_SIZE - have);
  }
  if (disk_fail) {
    disk_fail--;
    pagecache_end_read(pages, n, -EIO);
    return -EIO;
  }
  pagecache_end_read(pages, n, 0);
  return 0;
}

static int disk_write(struct inode *i, struct page **pages, unsigned n, u64 index) {
  disk_writes++;
  disk_write_pages += n;
  for (unsigned k = 0; k < n; k++) {
    CHECK(page_test(pages[k], PG_LOCKED) && page_test(pages[k], PG_UPTODATE) && pages[k]->cache.index == index + k);
    u64 at = (index + k) * PAGE_SIZE;
    if (at >= i->size) continue;
    u64 len = MIN(i->size - at, PAGE_SIZE);
    memcpy(disk + at, page_virt(pages[k]), len);
    if (at + len > disk_size) disk_size = at + len;
  }
  return 0;
}

static int disk_setattr(struct dentry *d, const struct iattr *a) {
  if (a->valid & ATTR_SIZE) {
    if (a->size < disk_size) memset(disk + a->size, 0, disk_size - a->size);
    disk_size = a->size;
  }
  return inode_setattr_simple(d, a);
}

static const struct inode_ops disk_ops = { .read_pages = disk_read, .write_pages = disk_write, .setattr = disk_setattr };

static struct file *disk_open(u64 size) {
  struct super *s = super_create("disk", 0);
  struct inode *i = inode_create(s, S_IFREG | 0644);
  i->ops = &disk_ops;
  i->fops = &pagecache_file_ops;
  i->size = disk_size = size;
  dentry_create_root(s, i);
  struct path p = { NULL, s->root };
  struct file *f = dentry_open(&p, O_RDWR);
  f->priv = s;
  return f;
}

static void disk_close(struct file *f) {
  struct super *s = f->priv;
  fs_sync_all();
  file_put(f);
  dentry_put(s->root);
  free(s);
}

static bool check_file(struct file *f, const u8 *want, u64 size) {
  static u8 buf[DISK_MAX];
  memset(buf, 0xee, sizeof buf);
  long n = mock_pread(f, buf, sizeof buf, 0);
  if (n != (long)size) return false;
  return !memcmp(buf, want, size);
}

static void test_read(void) {
  u8 buf[64 * 1024];
  for (u64 k = 0; k < DISK_MAX; k++) disk[k] = (u8)(k * 31 + (k >> 12));
  struct file *f = disk_open(2 * MIB + 123);
  CHECK(mock_pread(f, buf, 100, 5000) == 100 && !memcmp(buf, disk + 5000, 100));
  CHECK(mock_pread(f, buf, 100, 2 * MIB + 100) == 23 && mock_pread(f, buf, 100, 2 * MIB + 123) == 0);
  disk_reads = disk_read_pages = 0;
  u64 pos = 0, reads_before_end = 0;
  struct iter it;
  for (;;) { // sequential, small pieces: few requests, each page once
    iter_kernel(&it, buf, 4000);
    long n = f->ops->read(f, &it, &pos);
    CHECK(n >= 0);
    if (n <= 0) break;
    if (memcmp(buf, disk + pos - (u64)n, (size_t)n)) CHECK(!"same bytes");
    reads_before_end++;
  }
  CHECK(pos == 2 * MIB + 123 && disk_read_pages <= 513 && disk_reads <= 12);
  u64 before = disk_reads;
  CHECK(check_file(f, disk, 2 * MIB + 123) && disk_reads == before); // cached
  CHECK(f->inode->nr_pages == 513 && cached_pages == 513);
  struct page *held = find_page(f->inode, 7);
  CHECK(mock_reclaim(100) == 512 && cached_pages == 1); // a batch of its own choosing; not what somebody holds
  page_put(held);
  CHECK(mock_reclaim(10000) == 1 && cached_pages == 0 && f->inode->nr_pages == 0);
  CHECK(check_file(f, disk, 2 * MIB + 123));
  disk_close(f);
  CHECK(cached_pages == 0);
}

static void test_errors(void) {
  u8 buf[8192];
  struct file *f = disk_open(MIB);
  disk_fail = 1;
  CHECK(mock_pread(f, buf, 100, 0) == -EIO);
  CHECK(mock_pread(f, buf, 100, 0) == 100 && !memcmp(buf, disk, 100)); // asked again
  disk_fail = 2;
  CHECK(mock_pread(f, buf, 4096, 512 * 1024) == -EIO && mock_pread(f, buf, 4096, 512 * 1024) == -EIO);
  CHECK(mock_pread(f, buf, 4096, 512 * 1024) == 4096);
  disk_fail = 1;
  CHECK(mock_pwrite(f, "x", 1, 900 * 1024) == -EIO); // the rest of the page cannot be had
  CHECK(mock_pwrite(f, "x", 1, 900 * 1024) == 1);
  mock_fail_after = 0;
  CHECK(mock_pread(f, buf, 4096, 700 * 1024) == -ENOMEM);
  mock_fail_after = 2;
  CHECK(mock_pread(f, buf, 8192, 700 * 1024) > 0);
  mock_fail_after = -1;
  mock_fsize = 1000;
  CHECK(mock_pwrite(f, "abc", 3, 999) == 1 && mock_pwrite(f, "abc", 3, 1000) == -EFBIG && fs_truncate(f->dentry, 2 * MIB, f) == -EFBIG);
  mock_fsize = ~0ull;
  disk_close(f);
}

static void test_orphan_fault(void) { // a fault whose area, file and name went meanwhile: only the object is held
  struct file *f = disk_open(MIB);
  struct inode *i = f->inode;
  struct page *p = NULL;
  u32 refs = i->refs.n;
  workers_run = true;
  i->refs.n = 0;
  CHECK(i->mem.ops->get_page(&i->mem, 0, false, &p) == 0 && p && list_empty(&queue));
  page_put(p);
  i->refs.n = refs;
  workers_run = false;
  disk_close(f);
}

static struct inode *discarded;
static void discard(void) { pagecache_discard(discarded, 0, ~0ull); }
static void test_discard(void) { // advice is no reason to lose what write() is putting into a clean page
  u8 buf[64];
  struct file *f = disk_open(MIB);
  discarded = f->inode;
  CHECK(mock_pread(f, buf, 64, 0) == 64 && f->inode->nr_pages);
  discard();
  CHECK(!f->inode->nr_pages);
  CHECK(mock_pread(f, buf, 64, 0) == 64);
  memset(buf, 0x5a, sizeof buf);
  mock_meanwhile = discard;
  CHECK(mock_pwrite(f, buf, 64, 100) == 64 && f->inode->nr_dirty == 1);
  disk_close(f);
  CHECK(!memcmp(disk + 100, buf, 64));
}

static void test_random(bool on_disk, unsigned rounds) {
  static u8 model[DISK_MAX], buf[DISK_MAX];
  u64 size = on_disk ? 700000 : 0;
  struct file *f;
  if (on_disk) {
    for (u64 k = 0; k < DISK_MAX; k++) disk[k] = k < size ? (u8)unit_random() : 0;
    memcpy(model, disk, DISK_MAX);
    f = disk_open(size);
  } else {
    memset(model, 0, sizeof model);
    f = path_open(AT_FDCWD, "/random", O_CREAT | O_RDWR, 0600);
  }
  struct inode *i = f->inode;
  for (unsigned k = 0; k < rounds; k++) {
    u64 pos = unit_random() % (DISK_MAX - 300000), len = unit_random() % 3 ? unit_random() % 9000 : unit_random() % 300000;
    if (unit_random() % 3 == 0) pos &= PAGE_MASK;
    if (unit_random() % 3 == 0) len = ALIGN_UP(len, PAGE_SIZE);
    switch (unit_random() % 10) {
    case 0: case 1: case 2: {
      for (u64 j = 0; j < len; j++) buf[j] = (u8)(k + j);
      long n = mock_pwrite(f, buf, len, pos);
      CHECK(n == (long)len);
      memcpy(model + pos, buf, len);
      if (len && pos + len > size) size = pos + len;
      break;
    }
    case 3: case 4: case 5: {
      long n = mock_pread(f, buf, len, pos), want = pos < size ? (long)MIN(len, size - pos) : 0;
      CHECK(n == want && !memcmp(buf, model + pos, (size_t)want));
      break;
    }
    case 6: {
      u64 to = unit_random() % 2 ? pos : MIN(size + unit_random() % 5000, DISK_MAX - 300000);
      CHECK(fs_truncate(f->dentry, to, f) == 0);
      if (to < size) memset(model + to, 0, size - to);
      size = to;
      break;
    }
    case 7:
      if (on_disk) {
        CHECK(pagecache_fsync(f, 0, ~0ull, false) == 0 && i->nr_dirty == 0 && dirty_pages == 0);
        CHECK(disk_size <= size && !memcmp(disk, model, size));
      } else if (len) {
        CHECK(f->ops->fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pos, len) == 0);
        memset(model + pos, 0, len);
      }
      break;
    case 8:
      if (on_disk) {
        pagecache_invalidate(i);
        CHECK(i->nr_pages == i->nr_dirty);
      } else {
        long data = f->ops->seek(f, (s64)pos, 3), hole = f->ops->seek(f, (s64)pos, 4);
        if (pos >= size) CHECK(data == -ENXIO && hole == -ENXIO);
        else {
          u64 stop = data < 0 ? size : (u64)data; // only zeroes before the data
          for (u64 j = pos; j < stop; j++)
            if (model[j]) CHECK(!"a hole with something in it");
          CHECK(hole >= (long)pos && hole <= (long)size);
        }
      }
      break;
    case 9: mock_reclaim(unit_random() % 100); break;
    }
    CHECK(i->size == size);
    if (!on_disk) CHECK(i->super->pages_used == i->nr_pages);
  }
  CHECK(check_file(f, model, size));
  if (on_disk) disk_close(f);
  else {
    struct super *s = i->super;
    CHECK(fs_unlink(AT_FDCWD, "/random") == 0);
    file_put(f);
    CHECK(s->pages_used == 0);
  }
}

static void test_append_and_times(void) {
  struct file *f = path_open(AT_FDCWD, "/log", O_CREAT | O_WRONLY | O_APPEND, 0600), *r = path_open(AT_FDCWD, "/log", O_RDONLY, 0);
  char buf[8];
  CHECK(mock_pwrite(f, "ab", 2, 0) == 2 && mock_pwrite(f, "cd", 2, 0) == 2 && mock_pread(r, buf, 8, 0) == 4 && !memcmp(buf, "abcd", 4));
  file_put(f);
  f = path_open(AT_FDCWD, "/log", O_RDWR | O_TRUNC, 0);
  CHECK(r->inode->size == 0 && mock_pread(r, buf, 8, 0) == 0);
  CHECK(mock_pwrite(f, "x", 1, INT64_MAX) == -EFBIG);
  file_put(f);
  file_put(r);
}

static void test_memfd(void) {
  struct file *f = tmpfs_memfd("name", 2 /* MFD_ALLOW_SEALING */);
  char text[64];
  CHECK(!is_err(f) && dentry_string(f->dentry, text, sizeof text) > 0 && !strcmp(text, "/memfd:name (deleted)"));
  CHECK(mock_pwrite(f, "hello", 5, 0) == 5 && seals_fcntl(f, F_GET_SEALS, 0) == 0);
  CHECK(seals_fcntl(f, F_ADD_SEALS, F_SEAL_GROW) == 0 && mock_pwrite(f, "hello", 5, 1) == -EPERM && mock_pwrite(f, "j", 1, 0) == 1);
  CHECK(fs_truncate(f->dentry, 6, f) == -EPERM && fs_truncate(f->dentry, 4, f) == 0 && seals_fcntl(f, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE) == 0);
  CHECK(fs_truncate(f->dentry, 3, f) == -EPERM && mock_pwrite(f, "x", 1, 0) == -EPERM && seals_fcntl(f, F_ADD_SEALS, F_SEAL_SEAL) == 0);
  CHECK(seals_fcntl(f, F_ADD_SEALS, F_SEAL_SEAL) == -EPERM && seals_fcntl(f, F_GET_SEALS, 0) == 15);
  struct mmap_request rq = { .flags = 1, .prot = 2, .file_writable = true };
  CHECK(f->ops->mmap(f, &rq) == -EPERM);
  file_put(f);
  f = tmpfs_memfd("plain", 0);
  CHECK(seals_fcntl(f, F_GET_SEALS, 0) == F_SEAL_SEAL && seals_fcntl(f, F_ADD_SEALS, F_SEAL_GROW) == -EPERM);
  file_put(f);
}

static void test_limit(void) {
  struct super *s = tmpfs_create(8 * PAGE_SIZE, 0755);
  CHECK(mount_add("/small", s, 0, NULL) == 0);
  static u8 buf[16 * PAGE_SIZE];
  struct file *f = path_open(AT_FDCWD, "/small/f", O_CREAT | O_RDWR, 0600);
  CHECK(mock_pwrite(f, buf, sizeof buf, 0) == 8 * (long)PAGE_SIZE && mock_pwrite(f, buf, 1, 8 * PAGE_SIZE) == -ENOSPC);
  CHECK(mock_pwrite(f, buf, 100, 4 * PAGE_SIZE) == 100); // what is there can be written
  CHECK(f->ops->fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2 * PAGE_SIZE) == 0 && f->ops->fallocate(f, 0, 8 * PAGE_SIZE, PAGE_SIZE) == 0);
  struct kstatfs st;
  CHECK(s->statfs(s, &st) == 0 && st.blocks == 8 && st.bfree == 1);
  struct page *p;
  CHECK(cache_get_page(&f->inode->mem, 0, true, &p) == 0);
  page_put(p);
  CHECK(cache_get_page(&f->inode->mem, 1, true, &p) == -EFAULT && cache_get_page(&f->inode->mem, 9, false, &p) == -EFAULT);
  file_put(f);
}

int main(void) {
  mock_boot();
  test_read();
  test_errors();
  test_discard();
  test_orphan_fault();
  test_random(true, 4000);
  test_random(false, 4000);
  test_append_and_times();
  test_memfd();
  test_limit();
  return UNIT_END("fs_pagecache");
}

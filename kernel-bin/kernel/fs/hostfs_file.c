// SPDX-License-Identifier: Apache-2.0
//
// hostfs: the data of regular files. Handles on the host belong to the inode: one for reading, kept as long as the inode,
// and one for writing, kept while a file that may write is open. Trusted bytes are hashed in the reader's context, on
// private pages that nobody else can see yet; a page becomes visible only after its leaf agreed (threat-model T7).

#include "fs/hostfs.h"

#define KEEP_PAGES 4096u // of a file that is hashed whole, kept for the page cache: 16 MiB
#define PASS_PAGES 64u   // read at once then
#define SMALL_BYTES (64 * KIB) // files up to here are checked whole at open: a wrong one is EACCES there, not EIO later

// --- handles

static int ensure_read_handle(struct hnode *h) {
  u64 fh;
  if (READ_ONCE(h->has_rd)) return 0;
  int err = hnode_resolve(h);
  if (!err) err = virtiofs_open(h->nodeid, O_RDONLY, false, &fh, NULL);
  if (h->right == RIGHT_TRUSTED && (err == -ENOENT || err == -ENOTDIR)) {
    hnode_log(h, LOG_ERROR, NOT_ON_HOST);
    err = -EIO;
  }
  if (err) return err;
  spin_lock(&h->lock);
  bool first = !h->has_rd;
  if (first) {
    h->rd_fh = fh;
    h->has_rd = true;
  }
  spin_unlock(&h->lock);
  if (!first) virtiofs_release(h->nodeid, fh, O_RDONLY, false);
  return 0;
}

// A handle for writing; counted: one more open file that may write.
static int write_handle(struct hnode *h, bool counted) {
  u64 fh;
  spin_lock(&h->lock);
  bool have = h->has_wr;
  if (have && counted) h->writers++;
  spin_unlock(&h->lock);
  if (have) return 0;
  int err = virtiofs_open(h->nodeid, O_RDWR, false, &fh, NULL);
  if (err == -EACCES) err = virtiofs_open(h->nodeid, O_WRONLY, false, &fh, NULL); // then a partial page cannot be completed
  if (err) return err;
  spin_lock(&h->lock);
  bool first = !h->has_wr;
  if (first) {
    h->wr_fh = fh;
    h->has_wr = true;
  }
  if (counted) h->writers++;
  spin_unlock(&h->lock);
  if (!first) virtiofs_release(h->nodeid, fh, O_RDWR, false);
  return 0;
}

static bool any_handle(struct hnode *h, u64 *fh) {
  spin_lock(&h->lock);
  bool have = h->has_rd || h->has_wr;
  *fh = h->has_rd ? h->rd_fh : h->wr_fh;
  spin_unlock(&h->lock);
  return have;
}

// --- verification at open

// Reads a trusted file from start to end and hashes it; its pages go into the cache once they are known to be right.
static int verify_whole(struct hnode *h) {
  struct inode *i = h->inode;
  struct verify_build b;
  u64 fh, off = 0, kept_bytes = 0;
  u32 kept = 0, step = MIN(PASS_PAGES, virtiofs_max_read() / (u32)PAGE_SIZE);
  int err = ensure_read_handle(h);
  if (err) return err;
  any_handle(h, &fh);
  struct page **pages = kmalloc((KEEP_PAGES + PASS_PAGES) * sizeof(*pages), 0);
  if (!pages) return -ENOMEM;
  verify_build_begin(&b, h->trusted);
  for (bool more = true, in_row = true; more && !err;) {
    struct page **now = pages + kept;
    u32 have = 0;
    while (have < step && (now[have] = page_alloc(0, ALLOC_USER)) != NULL) have++;
    long n = have ? virtiofs_read(h->nodeid, fh, off, now, have, have * (u32)PAGE_SIZE) : -ENOMEM;
    err = n < 0 ? (int)n : 0;
    // Without a size from the policy a short answer is not yet the end: the next one, empty, is.
    more = n > 0 && !(h->trusted->has_meta && off + (u64)n >= h->trusted->size);
    bool whole = n > 0 && n % (long)PAGE_SIZE == 0;
    for (long left = n, k = 0; left > 0 && !err; left -= (long)PAGE_SIZE, k++)
      err = verify_build_add(&b, page_bytes(now[k]), (size_t)MIN(left, (long)PAGE_SIZE));
    if (n > 0) off += (u64)n;
    u32 used = n > 0 ? (u32)DIV_ROUND_UP((u64)n, PAGE_SIZE) : 0;
    if (n > 0 && !whole) memset(page_bytes(now[used - 1]) + n % (long)PAGE_SIZE, 0, PAGE_SIZE - (u64)n % PAGE_SIZE);
    // Kept as long as they lie in a row from the start and there is room. An answer that ends inside a page ends the row:
    // what follows may reach a page's border again, but that page was completed nowhere but in the hash.
    in_row &= n > 0 && kept * PAGE_SIZE + (u64)n == off && kept + used <= KEEP_PAGES;
    if (in_row) kept_bytes = off;
    for (u32 k = in_row ? used : 0; k < have; k++) page_put(now[k]);
    kept += in_row ? used : 0;
    in_row &= whole;
    sched_yield_if_needed();
  }
  struct verify v;
  if (err) verify_build_abort(&b);
  else err = verify_build_end(&b, &v);
  if (!err) {
    h->verify = v;
    i->size = v.size;
  }
  for (u32 k = 0; k < kept; k++) {
    // A page that was cut short in the middle of the file (the host may answer so) is not the file's.
    if (!err && (k + 1 < kept || kept_bytes % PAGE_SIZE == 0 || kept_bytes == off)) {
      page_set_flag(pages[k], PG_UPTODATE);
      if (pagecache_insert(i, k, pages[k])) {} // somebody was faster, or no memory: it can be read again
    }
    page_put(pages[k]);
  }
  kfree(pages);
  return err;
}

int hostfs_verify(struct hnode *h) {
  spin_lock(&h->lock);
  while (h->vstate == VERIFY_BUSY) {
    spin_unlock(&h->lock);
    if (wait_event_interruptible(&h->verify_wait, READ_ONCE(h->vstate) != VERIFY_BUSY)) return -ERESTARTNOINTR;
    spin_lock(&h->lock);
  }
  enum verify_state state = h->vstate;
  if (state == VERIFY_NEW) h->vstate = VERIFY_BUSY;
  spin_unlock(&h->lock);
  if (state != VERIFY_NEW) return state == VERIFY_READY ? 0 : -EACCES;
  bool small = h->trusted->has_meta && h->trusted->size && h->trusted->size <= SMALL_BYTES;
  int err = !small && verify_from_hint(&h->verify, h->trusted) ? 0 : verify_whole(h);
  // Only a wrong hash is for ever; no memory, a signal or an error of the host may pass.
  spin_lock(&h->lock);
  h->vstate = !err ? VERIFY_READY : err == -EACCES ? VERIFY_BAD : VERIFY_NEW;
  spin_unlock(&h->lock);
  waitq_wake_all(&h->verify_wait);
  if (err == -EACCES) hnode_log(h, LOG_ERROR, "trusted file %s: hash mismatch (host changed it?)");
  return err;
}

int hostfs_open_regular(struct inode *i, struct file *f) {
  struct hnode *h = hnode_of(i);
  bool writes = (f->flags & O_ACCMODE) != O_RDONLY;
  if (h->right == RIGHT_TRUSTED) {
    if (writes) return -EACCES;
    if (h->trusted->has_meta && !h->trusted->size) return hostfs_verify(h);
    int err = ensure_read_handle(h); // a missing file is an error of open, not of read
    return err ? err : hostfs_verify(h);
  }
  if (policy.allow_all_but_log && !__atomic_exchange_n(&h->logged, true, __ATOMIC_RELAXED)) {
    char *path = kmalloc(PATH_MAX, 0);
    if (path && dentry_string(f->dentry, path, PATH_MAX) > 0) printk(LOG_WARN, "%s is not in the manifest: opened because of allow_all_but_log\n", path);
    kfree(path);
  }
  int err = hostfs_refresh(i, false);
  if (!err && writes) return write_handle(h, true);
  return err ? err : ensure_read_handle(h);
}

// The handle goes with the last file that may write, but not under a request that names it.
static void drop(struct hnode *h, u32 *count) {
  spin_lock(&h->lock);
  u64 fh = h->wr_fh;
  --*count;
  bool close = !h->writers && !h->pins && h->has_wr && !hostfs_unwritten(h->inode); // the flusher's WRITEs name it, too
  if (close) h->has_wr = false;
  spin_unlock(&h->lock);
  if (close) virtiofs_release(h->nodeid, fh, O_RDWR, false);
}

bool hostfs_pin(struct hnode *h, u64 *fh) {
  spin_lock(&h->lock);
  bool have = h->writers != 0;
  if (have) {
    h->pins++;
    *fh = h->wr_fh;
  }
  spin_unlock(&h->lock);
  return have;
}
void hostfs_unpin(struct hnode *h) { drop(h, &h->pins); }

// No name leads to it any more, so nobody will read what is not written yet. Names are counted down here; whether the host
// has made another one meanwhile is asked once, before data is given up for it.
static bool nameless(struct inode *i) {
  struct host_entry e;
  if (i->nlink) return false;
  int err = virtiofs_getattr(hnode_of(i)->nodeid, NULL, &e);
  if (err == -ENOENT || err == -ESTALE || (!err && !e.attr.nlink)) return true;
  WRITE_ONCE(i->nlink, err ? 1 : e.attr.nlink); // the flusher goes by it
  return false;
}

// The last file that may write is gone: what it wrote goes to the host, and the handle with it.
static void hostfs_release(struct file *f) {
  struct inode *i = f->inode;
  struct hnode *h = hnode_of(i);
  if ((f->flags & O_ACCMODE) == O_RDONLY) return;
  int err = READ_ONCE(h->writers) == 1 && hostfs_unwritten(i) && !nameless(i) ? pagecache_writeback(i, 0, ~0ull) : 0;
  if (err && err != -ERESTARTSYS && err != -ERESTARTNOINTR) printk(LOG_WARN, "fs: writing back at close: error %d\n", err);
  drop(h, &h->writers);
}

// --- pages

static void zero_tail(struct page **pages, unsigned n, u64 bytes) {
  for (unsigned k = 0; k < n; k++) {
    u64 start = k * PAGE_SIZE;
    if (bytes >= start + PAGE_SIZE) continue;
    u64 from = bytes > start ? bytes - start : 0;
    memset(page_bytes(pages[k]) + from, 0, PAGE_SIZE - from);
  }
}

static int read_plain(struct inode *i, struct page **pages, unsigned n, u64 index, u64 fh) {
  struct hnode *h = hnode_of(i);
  unsigned step = virtiofs_max_read() / (unsigned)PAGE_SIZE;
  for (unsigned done = 0; done < n;) {
    unsigned part = MIN(n - done, step);
    long got = virtiofs_read(h->nodeid, fh, (index + done) * PAGE_SIZE, pages + done, part, part * (u32)PAGE_SIZE);
    if (got < 0) {
      pagecache_end_read(pages + done, n - done, (int)got);
      return (int)got;
    }
    zero_tail(pages + done, part, (u64)got); // beyond the end, here or on the host
    // What lies beyond our idea of the size must read as zeroes, even when the host has more.
    u64 size = READ_ONCE(i->size), start = (index + done) * PAGE_SIZE;
    if (size < start + (u64)got) zero_tail(pages + done, part, size > start ? size - start : 0);
    pagecache_end_read(pages + done, part, 0);
    done += part;
  }
  return 0;
}

// Whole leaves around the wanted pages: extra pages are ours, and go into the cache as well once they are verified.
static int read_verified(struct inode *i, struct page **pages, unsigned n, u64 index, u64 fh) {
  struct hnode *h = hnode_of(i);
  const struct verify *v = &h->verify;
  u64 end_page = DIV_ROUND_UP(v->size, PAGE_SIZE);
  u64 first = ALIGN_DOWN(index, (u64)LEAF_PAGES), last = MIN(ALIGN_UP(index + n, (u64)LEAF_PAGES), MAX(end_page, index + n));
  unsigned total = (unsigned)(last - first), lead = (unsigned)(index - first), step = virtiofs_max_read() / (unsigned)PAGE_SIZE, ended = 0;
  // The host chooses step. A piece is whole leaves: nothing is hashed, and shown, that the next read would write to.
  unsigned piece = MAX(ALIGN_DOWN(step, LEAF_PAGES), LEAF_PAGES);
  struct page **all = kzalloc(total * sizeof(*all));
  int err = all ? 0 : -ENOMEM;
  for (unsigned k = 0; !err && k < total; k++) {
    bool wanted = k >= lead && k < lead + n;
    all[k] = wanted ? pages[k - lead] : page_alloc(0, ALLOC_USER);
    if (!all[k]) err = -ENOMEM;
  }
  // In pieces, so that whoever waits for the first page does not wait for the last.
  for (unsigned at = 0; !err && at < total;) {
    unsigned part = 0;
    for (unsigned have = 0; at + part < total && part < piece; part += have) {
      have = MIN(MIN(step, total - at - part), piece - part);
      long got = virtiofs_read(h->nodeid, fh, (first + at + part) * PAGE_SIZE, all + at + part, have, have * (u32)PAGE_SIZE);
      if (got < 0) {
        err = (int)got;
        break;
      }
      zero_tail(all + at + part, have, (u64)got);
    }
    for (unsigned k = at; !err && k < at + part; k += LEAF_PAGES) {
      u64 leaf = (first + k) / LEAF_PAGES;
      unsigned in_leaf = MIN(LEAF_PAGES, total - k);
      const u8 *bytes[LEAF_PAGES] = { 0 };
      if (first + k < end_page) {
        for (unsigned j = 0; j < in_leaf; j++) bytes[j] = page_bytes(all[k + j]);
        if (!verify_leaf(v, leaf, bytes)) {
          hnode_log(h, LOG_ERROR, "trusted file %s: hash mismatch (host changed it?)");
          err = -EIO;
          break;
        }
      }
      u64 known = v->size > (first + k) * PAGE_SIZE ? v->size - (first + k) * PAGE_SIZE : 0;
      zero_tail(all + k, in_leaf, known);
      for (unsigned j = k; j < k + in_leaf; j++) {
        if (j >= lead && j < lead + n) {
          pagecache_end_read(&all[j], 1, 0);
          ended++;
        } else if (first + j < end_page) {
          page_set_flag(all[j], PG_UPTODATE);
          if (pagecache_insert(i, first + j, all[j])) {} // it was there already
        }
      }
      sched_yield_if_needed();
    }
    at += part;
  }
  if (ended < n) pagecache_end_read(pages + ended, n - ended, err); // pages end in order
  for (unsigned k = 0; all && k < total; k++)
    if (all[k] && !(k >= lead && k < lead + n)) page_put(all[k]);
  kfree(all);
  return err;
}

int hostfs_read_pages(struct inode *i, struct page **pages, unsigned n, u64 index) {
  struct hnode *h = hnode_of(i);
  u64 fh;
  // The one for reading stays open. The other must not be closed under a read-ahead: its number may be another file's then.
  bool pinned = !READ_ONCE(h->has_rd) && hostfs_pin(h, &fh);
  int err = pinned ? 0 : ensure_read_handle(h);
  if (!err && h->right == RIGHT_TRUSTED && READ_ONCE(h->vstate) != VERIFY_READY) err = -EIO; // open comes first
  if (err || (!pinned && !any_handle(h, &fh))) {
    err = err ? err : -EIO;
    pagecache_end_read(pages, n, err);
  } else {
    err = h->right == RIGHT_TRUSTED ? read_verified(i, pages, n, index, fh) : read_plain(i, pages, n, index, fh);
  }
  if (pinned) hostfs_unpin(h);
  return err;
}

int hostfs_write_pages(struct inode *i, struct page **pages, unsigned n, u64 index) {
  struct hnode *h = hnode_of(i);
  u64 start = index * PAGE_SIZE, size = READ_ONCE(i->size);
  if (h->right != RIGHT_ALLOWED || start >= size) return 0;
  u64 len = MIN((u64)n * PAGE_SIZE, size - start);
  int err = write_handle(h, false);
  spin_lock(&h->lock);
  u64 fh = h->wr_fh;
  h->own_change = true;
  spin_unlock(&h->lock);
  for (u64 done = 0; !err && done < len;) {
    u32 part = (u32)MIN(len - done, (u64)virtiofs_max_write());
    err = virtiofs_write(h->nodeid, fh, start + done, pages + done / PAGE_SIZE, 0, part);
    done += part;
  }
  hostfs_changed(h); // also after an error: what was written before it counts
  return err;
}

static int hostfs_fsync(struct file *f, u64 start, u64 len, bool data_only) {
  struct hnode *h = hnode_of(f->inode);
  u64 fh;
  if (h->right != RIGHT_ALLOWED || (f->inode->super->flags & SUPER_RDONLY)) return 0;
  int err = pagecache_fsync(f, start, len, data_only);
  if (err) return err;
  bool pinned = hostfs_pin(h, &fh); // also when f itself may only read
  if (pinned || any_handle(h, &fh)) err = virtiofs_fsync(h->nodeid, fh, data_only, false);
  if (pinned) hostfs_unpin(h);
  return err;
}

static int hostfs_truncate(struct file *f, u64 size) { return fs_truncate(f->dentry, size, f); }

#define FALLOC_KEEP_SIZE 1
#define FALLOC_PUNCH_HOLE 2
static long hostfs_fallocate(struct file *f, int mode, u64 off, u64 len) {
  struct inode *i = f->inode;
  struct hnode *h = hnode_of(i);
  if (h->right != RIGHT_ALLOWED) return -EACCES;
  if (mode & ~(FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE)) return -EOPNOTSUPP;
  if (mutex_lock_interruptible(&i->lock)) return -ERESTARTNOINTR;
  int err = pagecache_writeback(i, off >> PAGE_SHIFT, (off + len - 1) >> PAGE_SHIFT);
  if (!err) err = write_handle(h, false);
  if (!err) err = virtiofs_fallocate(h->nodeid, h->wr_fh, (u32)mode, off, len);
  if (!err && (mode & FALLOC_PUNCH_HOLE)) {
    // Pages at the edges stay: a mapping may have stored beside the hole since they were written back.
    u64 end = off + len, first = DIV_ROUND_UP(off, PAGE_SIZE), last = end >> PAGE_SHIFT; // whole pages: [first, last)
    pagecache_zero_range(i, off, MIN(end, first << PAGE_SHIFT));
    if (last >= first) pagecache_zero_range(i, MAX(off, last << PAGE_SHIFT), end);
    if (last > first) pagecache_remove_range(i, first, last - 1);
  }
  if (!err && !mode && off + len > i->size) pagecache_truncate(i, off + len);
  h->own_change = true;
  hostfs_changed(h);
  mutex_unlock(&i->lock);
  return err;
}

const struct file_ops hostfs_file_ops = { .read = pagecache_read, .write = pagecache_write, .seek = file_seek_generic, .mmap = pagecache_mmap,
  .fsync = hostfs_fsync, .truncate = hostfs_truncate, .fallocate = hostfs_fallocate, .release = hostfs_release };

// --- files that the policy itself names (argv_src_file and the like), before process 1 exists
int hostfs_read_host_file(const char *host_path, char **data, size_t *len) {
  for (u32 k = 0; k < policy.mount_count; k++) {
    const struct policy_mount *m = &policy.mounts[k];
    size_t n = m->uri ? strlen(m->uri) : 0;
    if (m->type != MOUNT_CHROOT) continue;
    if (!strcmp(m->uri, "/") || !strcmp(m->uri, ".")) n = 0;
    if (n == 0 ? (m->uri[0] == '/') != (host_path[0] == '/') : strncmp(host_path, m->uri, n) != 0 || (host_path[n] && host_path[n] != '/')) continue;
    char *path = kmalloc(PATH_MAX, 0);
    if (!path) return -ENOMEM;
    snprintf(path, PATH_MAX, "%s/%s", strcmp(m->path, "/") ? m->path : "", host_path + n);
    struct file *f = path_open(AT_FDCWD, path, O_RDONLY, 0);
    kfree(path);
    if (is_err(f)) {
      if (ptr_err(f) == -ENOENT) continue;
      return (int)ptr_err(f);
    }
    size_t size = (size_t)MIN(f->inode->size, MIB);
    char *buf = kmalloc(size + 1, 0);
    long got = buf ? file_read_at(f, buf, size, 0) : -ENOMEM;
    file_put(f);
    if (got < 0) {
      kfree(buf);
      return (int)got;
    }
    buf[got] = 0;
    *data = buf;
    *len = (size_t)got;
    return 0;
  }
  return -ENOENT;
}

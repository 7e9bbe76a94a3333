// SPDX-License-Identifier: Apache-2.0
//
// /dev/attestation: what a program needs to prove what it is, by Gramine's names (docs/attestation.md tells the files). The
// names are fixed at boot. Short files are made at each read, so that a file opened once shows later changes; reports,
// quotes and the log are made at open and served from memory. `user_report_data` belongs to the process (fscontext).
#include "fs/internal.h"

#define SHORT_MAX 64 // no short file is longer
struct entry {
  const char *name;
  u32 mode;
  u32 index;                                                   // of a register or key
  size_t (*load)(u32 index, u8 out[SHORT_MAX]);                // a short file's content
  long (*store)(u32 index, const u8 *data, size_t n, u64 pos); // how much was taken, or -errno
  size_t store_max;                                            // of one write; more is -EMSGSIZE
  int (*show)(struct seq *s, void *unused);                    // instead of load
};

static size_t load_type(u32 index, u8 *out) { return strlcpy((char *)out, attest_type(), SHORT_MAX); }
static size_t load_data(u32 index, u8 *out) {
  fscontext_report_data(fscontext_current(), out);
  return ATTEST_DATA_BYTES;
}
static size_t load_rtmr(u32 index, u8 *out) {
  rtmr_read(index, out);
  return 48;
}
static size_t load_key(u32 index, u8 *out) { return attest_key_read(index, out) ? ATTEST_KEY_BYTES : 0; } // as in Gramine: empty until set

// A write at the start replaces all of it, zero-padded; one that goes on where the last ended adds to it.
static long store_data(u32 index, const u8 *data, size_t n, u64 pos) {
  u8 all[ATTEST_DATA_BYTES] = { 0 };
  if (pos > sizeof all || n > sizeof all - pos) return -EINVAL;
  if (pos) fscontext_report_data(fscontext_current(), all);
  memcpy(all + pos, data, n);
  fscontext_set_report_data(fscontext_current(), all);
  return (long)n;
}
static long store_event(u32 index, const u8 *data, size_t n, u64 pos) {
  int err = attest_program_event(data, n);
  return err ? err : (long)n;
}
static long store_key(u32 index, const u8 *data, size_t n, u64 pos) {
  if (n != ATTEST_KEY_BYTES || pos) return -EACCES; // Gramine's errno
  attest_key_write(index, data);
  return (long)n;
}

static int show_report(struct seq *s, void *unused) {
  u8 data[ATTEST_DATA_BYTES];
  u8 *report = kmalloc(ATTEST_REPORT_BYTES, 0);
  if (!report) return -ENOMEM;
  fscontext_report_data(fscontext_current(), data);
  int err = attest_report(data, report);
  if (!err) seq_write(s, report, ATTEST_REPORT_BYTES);
  kfree(report);
  return err;
}
static int show_quote(struct seq *s, void *unused) {
  u8 data[ATTEST_DATA_BYTES], *quote;
  size_t len;
  fscontext_report_data(fscontext_current(), data);
  int err = attest_quote(data, &quote, &len);
  if (err) return err;
  seq_write(s, quote, len);
  kfree(quote);
  return 0;
}
static int show_log(struct seq *s, void *unused) {
  size_t len;
  const u8 *log = event_log(&len);
  seq_write(s, log, len);
  return 0;
}

static const struct entry entries[] = {
  { "attestation_type", S_IFREG | 0444, 0, load_type, NULL, 0, NULL },
  { "event_log", S_IFREG | 0444, 0, NULL, NULL, 0, show_log },
  { "rtmr0", S_IFREG | 0444, 0, load_rtmr, NULL, 0, NULL },
  { "rtmr1", S_IFREG | 0444, 1, load_rtmr, NULL, 0, NULL },
  { "rtmr2", S_IFREG | 0444, 2, load_rtmr, NULL, 0, NULL },
  { "rtmr3", S_IFREG | 0644, 3, load_rtmr, store_event, ATTEST_EVENT_MAX, NULL },
  { "user_report_data", S_IFREG | 0666, 0, load_data, store_data, ATTEST_DATA_BYTES, NULL },
  { "keys", S_IFDIR | 0555, 0, NULL, NULL, 0, NULL },
  { "report", S_IFREG | 0444, 0, NULL, NULL, 0, show_report }, // from here on: not everywhere
  { "quote", S_IFREG | 0444, 0, NULL, NULL, 0, show_quote },
};
#define REPORT 8u
static const struct entry root_entry = { "", S_IFDIR | 0555, 0, NULL, NULL, 0, NULL };
static struct entry *keys; // an entry for each key of the policy
static u32 key_total;

// A report needs a TD; a quote also the manifest's word (sgx.remote_attestation), without which Gramine has no file either.
static u32 entry_total(void) { return !in_td ? REPORT : strcmp(attest_type(), "none") ? ARRAY_SIZE(entries) : REPORT + 1; }
static const struct entry *child_at(const struct entry *dir, u64 k) {
  if (dir == &root_entry) return k < entry_total() ? &entries[k] : NULL;
  return k < key_total ? &keys[k] : NULL;
}

// --- files
static long short_read(struct file *f, struct iter *it, u64 *pos) {
  const struct entry *e = f->inode->priv;
  u8 buf[SHORT_MAX];
  size_t len = e->load(e->index, buf);
  if (*pos >= len) return 0;
  size_t n = MIN((size_t)it->left, len - (size_t)*pos);
  size_t done = iter_to(it, buf + *pos, n);
  memzero_secret(buf, sizeof buf);
  *pos += done;
  return done || !n ? (long)done : -EFAULT;
}

static long short_write(struct file *f, struct iter *it, u64 *pos) {
  const struct entry *e = f->inode->priv;
  size_t n = it->left;
  if (!n) return 0;
  if (n > e->store_max) return -EMSGSIZE; // half an event, or half a key, would be another one
  u8 *buf = kmalloc(n, 0);
  if (!buf) return -ENOMEM;
  long r = iter_from(it, buf, n) < n ? -EFAULT : e->store(e->index, buf, n, *pos);
  memzero_secret(buf, n);
  kfree(buf);
  if (r > 0) *pos += (u64)r;
  return r;
}

static long short_seek(struct file *f, s64 off, int whence) {
  s64 base = whence == 0 ? 0 : whence == 1 ? (s64)f->pos : -1;
  return base < 0 || off < -base ? -EINVAL : (long)(f->pos = (u64)(base + off));
}

static const struct file_ops short_fops = { .read = short_read, .write = short_write, .seek = short_seek };
static const struct inode_ops dir_ops, file_inode_ops;
static const struct file_ops dir_fops;

static int file_open(struct inode *i, struct file *f) {
  const struct entry *e = i->priv;
  if ((f->flags & O_ACCMODE) != O_RDONLY && !e->store) return -EACCES;
  return e->show ? seq_open(f, e->show, NULL) : 0;
}

static int setattr(struct dentry *d, const struct iattr *a) {
  return a->valid & ~(u32)(ATTR_SIZE | ATTR_MTIME_NOW | ATTR_MTIME | ATTR_ATIME | ATTR_ATIME_NOW) ? -EPERM : 0; // O_TRUNC does nothing
}

// --- names
static struct inode *entry_inode(struct super *s, const struct entry *e) {
  struct inode *i = inode_create(s, e->mode);
  if (!i) return NULL;
  i->priv = (void *)(uintptr_t)e;
  i->uid = policy.uid;
  i->gid = policy.gid;
  bool dir = S_ISDIR(e->mode);
  i->ops = dir ? &dir_ops : &file_inode_ops;
  i->fops = dir ? &dir_fops : e->load ? &short_fops : &seq_file_ops;
  if (dir) i->nlink = 2;
  return i;
}

static int lookup(struct inode *dir, struct dentry *d) {
  const struct entry *e;
  for (u64 k = 0; (e = child_at(dir->priv, k)) != NULL; k++) {
    if (strcmp(e->name, d->name)) continue;
    d->inode = entry_inode(dir->super, e);
    return d->inode ? 0 : -ENOMEM;
  }
  return 0;
}

static int readdir(struct file *f, struct dirent_sink *s, u64 *pos) {
  const struct entry *e;
  for (;; ++*pos) {
    u64 at = *pos;
    if (at < 2) {
      if (!s->emit(s, "..", at + 1, f->inode->ino, DT_DIR, at + 1)) return 0;
    } else {
      if (!(e = child_at(f->inode->priv, at - 2))) return 0;
      if (!s->emit(s, e->name, strlen(e->name), at, mode_to_dt(e->mode), at + 1)) return 0;
    }
  }
}

static const struct inode_ops dir_ops = { .lookup = lookup, .setattr = setattr };
static const struct inode_ops file_inode_ops = { .open = file_open, .setattr = setattr };
static const struct file_ops dir_fops = { .readdir = readdir, .seek = file_seek_generic };

struct super *attestfs_create(void) {
  while (attest_key_name(key_total)) key_total++;
  keys = key_total ? kzalloc(key_total * sizeof *keys) : NULL;
  if (key_total && !keys) return NULL;
  for (u32 k = 0; k < key_total; k++)
    keys[k] = (struct entry){ attest_key_name(k), S_IFREG | 0600, k, load_key, store_key, ATTEST_KEY_BYTES, NULL };
  struct super *s = super_create("attestation", SUPER_NOEXEC);
  struct inode *i = s ? entry_inode(s, &root_entry) : NULL;
  return i && dentry_create_root(s, i) ? s : NULL;
}

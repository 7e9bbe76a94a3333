// SPDX-License-Identifier: Apache-2.0
//
// /dev: a tmpfs with the usual nodes, and the devices that need nothing but memory: null, zero, full, random.
#include "fs/internal.h"

static struct super *devfs;
static struct list pending = LIST_INIT(pending); // added before there was a devfs
struct pending { struct list link; char name[32]; u32 mode; u64 rdev; };

// A node at "a/b/c" below /dev; directories on the way are made.
static int add_at(const char *name, u32 mode, u64 rdev, const char *target) {
  struct dentry *dir = dentry_get(devfs->root), *d;
  for (;;) {
    const char *slash = strchr(name, '/');
    size_t len = slash ? (size_t)(slash - name) : strlen(name);
    d = tmpfs_add_node(dir, name, len, slash ? S_IFDIR | 0755 : mode, slash ? 0 : rdev, slash ? NULL : target);
    if (is_err(d) && ptr_err(d) == -EEXIST && slash) d = dentry_lookup(dir, name, len);
    dentry_put(dir);
    if (is_err(d)) return (int)ptr_err(d);
    if (!slash) break;
    dir = d;
    name = slash + 1;
  }
  dentry_put(d);
  return 0;
}

int devfs_add(const char *name, u32 mode, u64 rdev, const struct file_ops *fops, void *priv) {
  int r = fops ? chrdev_register(rdev, fops, priv, NULL) : 0;
  if (r) return r;
  if (!(mode & S_IFMT)) mode |= S_IFCHR;
  if (devfs) return add_at(name, mode, rdev, NULL);
  struct pending *p = kzalloc(sizeof *p); // boot: one thread
  if (!p) return -ENOMEM;
  strlcpy(p->name, name, sizeof p->name);
  p->mode = mode;
  p->rdev = rdev;
  list_push_back(&pending, &p->link);
  return 0;
}

static long null_read(struct file *f, struct iter *it, u64 *pos) { return 0; }
static long null_write(struct file *f, struct iter *it, u64 *pos) { return (long)it->left; }
static long null_seek(struct file *f, s64 off, int whence) { return (long)(f->pos = 0); }

static long zero_read(struct file *f, struct iter *it, u64 *pos) {
  long total = 0;
  while (it->left) {
    u64 n = MIN(it->left, 64 * KIB);
    size_t done = iter_zero(it, n);
    total += (long)done;
    if (done < n) return total ? total : -EFAULT;
    sched_yield_if_needed();
    if (it->left && READ_ONCE(thread_current()->interrupt_pending)) break;
  }
  return total;
}

static int zero_mmap(struct file *f, struct mmap_request *rq) {
  rq->obj = NULL; // anonymous memory
  rq->file = NULL;
  return 0;
}

static long full_write(struct file *f, struct iter *it, u64 *pos) { return it->left ? -ENOSPC : 0; }

static long random_read(struct file *f, struct iter *it, u64 *pos) {
  u8 buf[256];
  long total = 0;
  while (it->left) {
    u64 n = MIN(it->left, sizeof buf);
    random_bytes(buf, n);
    size_t done = iter_to(it, buf, n);
    total += (long)done;
    if (done < n) return total ? total : -EFAULT;
    sched_yield_if_needed();
    if (it->left && READ_ONCE(thread_current()->interrupt_pending)) break;
  }
  memzero_secret(buf, sizeof buf);
  return total;
}

static long random_ioctl(struct file *f, u32 cmd, uptr arg) {
  s32 bits = 256;
  return cmd == 0x80045200 /* RNDGETENTCNT */ ? copy_to_user(arg, &bits, sizeof bits) : -EINVAL;
}

static const struct file_ops null_fops = { .read = null_read, .write = null_write, .seek = null_seek };
static const struct file_ops zero_fops = { .read = zero_read, .write = null_write, .seek = null_seek, .mmap = zero_mmap };
static const struct file_ops full_fops = { .read = zero_read, .write = full_write, .seek = null_seek };
static const struct file_ops random_fops = { .read = random_read, .write = null_write, .seek = null_seek, .ioctl = random_ioctl };

struct super *devfs_create(void) {
  static const struct { const char *name; u32 minor; const struct file_ops *fops; } nodes[] = {
    { "null", 3, &null_fops }, { "zero", 5, &zero_fops }, { "full", 7, &full_fops }, { "random", 8, &random_fops }, { "urandom", 9, &random_fops } };
  static const struct { const char *name, *target; } links[] = {
    { "fd", "/proc/self/fd" }, { "stdin", "/proc/self/fd/0" }, { "stdout", "/proc/self/fd/1" }, { "stderr", "/proc/self/fd/2" } };
  devfs = tmpfs_create_type("devtmpfs", 0, 0755);
  if (!devfs) return NULL;
  for (size_t k = 0; k < ARRAY_SIZE(nodes); k++)
    if (devfs_add(nodes[k].name, S_IFCHR | 0666, MKDEV(1, nodes[k].minor), nodes[k].fops, NULL)) return NULL;
  for (size_t k = 0; k < ARRAY_SIZE(links); k++)
    if (add_at(links[k].name, S_IFLNK | 0777, 0, links[k].target)) return NULL;
  if (add_at("shm", S_IFDIR | 01777, 0, NULL)) return NULL;
  while (!list_empty(&pending)) {
    struct pending *p = list_first_entry(&pending, struct pending, link);
    list_remove(&p->link);
    int r = add_at(p->name, p->mode, p->rdev, NULL);
    if (r) printk(LOG_WARN, "fs: /dev/%s was not made: error %d", p->name, -r);
    kfree(p);
  }
  return devfs;
}

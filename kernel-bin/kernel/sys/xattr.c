// SPDX-License-Identifier: Apache-2.0
//
// Extended attributes: name spaces and who may touch them as on Linux; the file system keeps them.
#include "sys/sys.h"
#include "attest/attest.h"
#include "fs/internal.h"

#define XATTR_NAME_MAX 255
#define XATTR_SIZE_MAX 65536

static bool starts(const char *s, const char *prefix) { return !strncmp(s, prefix, strlen(prefix)); }

static long check(struct inode *i, const char *name, int mask) {
  bool write = mask == MAY_WRITE, root = fs_cred()->fsuid == 0;
  if (write && (i->super->flags & SUPER_RDONLY)) return -EROFS;
  if (starts(name, "security.")) return write && !root ? -EPERM : 0;
  if (starts(name, "trusted.")) return root ? 0 : write ? -EPERM : -ENODATA;
  if (!starts(name, "user.") || !name[5]) return -EOPNOTSUPP;
  if (!S_ISREG(i->mode) && !S_ISDIR(i->mode)) return write ? -EPERM : -ENODATA;
  return inode_permission(i, mask);
}

static long get_name(uptr uname, char *name) {
  long n = strncpy_from_user(name, uname, XATTR_NAME_MAX + 1);
  return n == -ENAMETOOLONG || n == 0 ? -ERANGE : n < 0 ? n : 0;
}

static long set(struct dentry *d, uptr uname, uptr value, u64 size, int flags) {
  char name[XATTR_NAME_MAX + 1];
  if (flags & ~3) return -EINVAL;
  long r = get_name(uname, name);
  if (r) return r;
  if (size > XATTR_SIZE_MAX) return -E2BIG;
  u8 *buf = kmalloc(MAX(size, 1ull), 0);
  if (!buf) return -ENOMEM;
  if (copy_from_user(buf, value, size)) r = -EFAULT;
  else if (!(r = check(d->inode, name, MAY_WRITE))) r = d->inode->ops->setxattr ? d->inode->ops->setxattr(d, name, buf, size, flags) : -EOPNOTSUPP;
  kfree(buf);
  if (!r) fs_notify(d, IN_ATTRIB);
  return r;
}

static long get(struct dentry *d, uptr uname, uptr value, u64 size) {
  char name[XATTR_NAME_MAX + 1];
  long r = get_name(uname, name);
  if (r || (r = check(d->inode, name, MAY_READ))) return r;
  if (!d->inode->ops->getxattr) return -EOPNOTSUPP;
  size = MIN(size, (u64)XATTR_SIZE_MAX);
  u8 *buf = kmalloc(MAX(size, 1ull), 0);
  if (!buf) return -ENOMEM;
  r = d->inode->ops->getxattr(d, name, buf, size);
  if (r > 0 && size && copy_to_user(value, buf, (size_t)r)) r = -EFAULT;
  kfree(buf);
  return r;
}

static long list_names(struct dentry *d, uptr list, u64 size) {
  if (!d->inode->ops->listxattr) return 0;
  size = MIN(size, (u64)XATTR_SIZE_MAX);
  char *buf = kmalloc(MAX(size, 1ull), 0);
  if (!buf) return -ENOMEM;
  long r = d->inode->ops->listxattr(d, buf, size);
  if (r > 0 && size && copy_to_user(list, buf, (size_t)r)) r = -EFAULT;
  kfree(buf);
  return r;
}

static long remove_name(struct dentry *d, uptr uname) {
  char name[XATTR_NAME_MAX + 1];
  long r = get_name(uname, name);
  if (r || (r = check(d->inode, name, MAY_WRITE))) return r;
  r = d->inode->ops->removexattr ? d->inode->ops->removexattr(d, name) : -EOPNOTSUPP;
  if (!r) fs_notify(d, IN_ATTRIB);
  return r;
}

enum call { SET, GET, LIST, REMOVE };
static long run(enum call c, struct dentry *d, uptr a, uptr b, u64 size, int flags) {
  switch (c) {
  case SET: return set(d, a, b, size, flags);
  case GET: return get(d, a, b, size);
  case LIST: return list_names(d, a, size);
  case REMOVE: return remove_name(d, a);
  }
  return -EINVAL;
}

static long by_path(enum call c, uptr path, bool follow, uptr a, uptr b, u64 size, int flags) {
  struct path p;
  long r = path_lookup_user(AT_FDCWD, path, follow ? LOOKUP_FOLLOW : 0, &p);
  if (r) return r;
  r = run(c, p.dentry, a, b, size, flags);
  path_put(&p);
  return r;
}

static long by_fd(enum call c, u64 fd, uptr a, uptr b, u64 size, int flags) {
  struct file *f = file_from_fd((int)fd);
  if (!f) return -EBADF;
  long r = f->path_only ? -EBADF : f->dentry ? run(c, f->dentry, a, b, size, flags) : -EOPNOTSUPP;
  file_put(f);
  return r;
}

long sys_setxattr(u64 path, u64 name, u64 value, u64 size, u64 flags) { return by_path(SET, path, true, name, value, size, (int)flags); }
long sys_lsetxattr(u64 path, u64 name, u64 value, u64 size, u64 flags) { return by_path(SET, path, false, name, value, size, (int)flags); }
long sys_fsetxattr(u64 fd, u64 name, u64 value, u64 size, u64 flags) { return by_fd(SET, fd, name, value, size, (int)flags); }
long sys_getxattr(u64 path, u64 name, u64 value, u64 size) { return by_path(GET, path, true, name, value, size, 0); }
long sys_lgetxattr(u64 path, u64 name, u64 value, u64 size) { return by_path(GET, path, false, name, value, size, 0); }
long sys_fgetxattr(u64 fd, u64 name, u64 value, u64 size) { return by_fd(GET, fd, name, value, size, 0); }
long sys_listxattr(u64 path, u64 list, u64 size) { return by_path(LIST, path, true, list, 0, size, 0); }
long sys_llistxattr(u64 path, u64 list, u64 size) { return by_path(LIST, path, false, list, 0, size, 0); }
long sys_flistxattr(u64 fd, u64 list, u64 size) { return by_fd(LIST, fd, list, 0, size, 0); }
long sys_removexattr(u64 path, u64 name) { return by_path(REMOVE, path, true, name, 0, 0, 0); }
long sys_lremovexattr(u64 path, u64 name) { return by_path(REMOVE, path, false, name, 0, 0, 0); }
long sys_fremovexattr(u64 fd, u64 name) { return by_fd(REMOVE, fd, name, 0, 0, 0); }

// SPDX-License-Identifier: Apache-2.0
//
// FUSE requests and answers (protocol 7.31, which the C virtiofsd of QEMU 7.2 and the Rust one both speak: servers of
// 7.27 to 7.3x answer it). See virtiofs.h for the contract.

#include "fs/virtiofs.h"

#define PROTOCOL_MINOR 31
#define PROTOCOL_MINOR_MIN 27
#define ERRNO_MAX 133
#define ARG_MAX_BYTES 96u  // the largest fixed argument: fuse_setattr_in, 88
#define OUT_SMALL_BYTES 160u
#define XATTR_MAX_BYTES 65536u

static u32 max_read, max_write;
u64 virtiofs_changes;
static u64 changes_now(void) { return __atomic_load_n(&virtiofs_changes, __ATOMIC_SEQ_CST); }

u32 virtiofs_max_read(void) { return max_read; }
u32 virtiofs_max_write(void) { return max_write; }

enum interrupt { CHANGES, READS }; // READS: may be interrupted and repeated
struct call {
  u32 opcode;
  u64 nodeid;
  const void *arg; u32 arg_len;
  const void *data; u32 data_len;    // names with their terminators, xattr values
  struct page **in_pages; u32 in_pages_off, in_pages_len;
  void *out; u32 out_min, out_max;   // the answer after its header
  struct page **out_pages; u32 out_pages_n, out_pages_len;
  u32 got;                           // bytes of the answer after its header, pages included
};

static int call_as(struct call *c, enum interrupt interrupt, u32 uid, u32 gid) {
  u8 in[sizeof(struct fuse_in_header) + ARG_MAX_BYTES];
  u8 small[sizeof(struct fuse_out_header) + OUT_SMALL_BYTES];
  struct fuse_in_header h = { .opcode = c->opcode, .nodeid = c->nodeid, .uid = uid, .gid = gid };
  struct fuse_out_header answer;
  u8 *out = small;
  ASSERT(c->arg_len <= ARG_MAX_BYTES);
  if (c->out_max > OUT_SMALL_BYTES && !(out = kmalloc(sizeof(answer) + c->out_max, 0))) return -ENOMEM;
  memcpy(in, &h, sizeof(h));
  if (c->arg_len) memcpy(in + sizeof(h), c->arg, c->arg_len);
  struct fuse_req_io io = {
    .in = in, .in_len = (u32)sizeof(h) + c->arg_len, .in2 = c->data, .in2_len = c->data_len,
    .in_pages = c->in_pages, .in_pages_off = c->in_pages_off, .in_pages_len = c->in_pages_len,
    .out = out, .out_cap = (u32)sizeof(answer) + c->out_max,
    .out_pages = c->out_pages, .out_pages_n = c->out_pages_n, .out_pages_len = c->out_pages_len,
  };
  int err = fsdev_call(&io, interrupt == READS ? WAIT_INTERRUPTIBLE : WAIT_UNINTERRUPTIBLE);
  if (err == -ERESTARTSYS) err = -ERESTARTNOINTR;
  if (err) goto out;
  memcpy(&answer, out, sizeof(answer));
  c->got = io.out_len - (u32)sizeof(answer);
  if (answer.error) {
    err = answer.error < 0 && answer.error >= -ERRNO_MAX ? answer.error : -EIO;
    if (err == -ENOSYS) err = -EOPNOTSUPP;
  } else if (c->got < c->out_min) {
    err = -EIO;
  } else if (c->out_max) {
    memcpy(c->out, out + sizeof(answer), MIN(c->got, c->out_max));
  }
out:
  if (out != small) kfree(out);
  return err;
}

static int call(struct call *c, enum interrupt interrupt) {
  static bool one_user; // the daemon runs as an ordinary user and can become nobody else: all that is made is that user's
  // What is made belongs to who makes it. For everything else this kernel has checked the rights, and asks as root.
  bool makes = c->opcode == FUSE_CREATE || c->opcode == FUSE_MKDIR || c->opcode == FUSE_MKNOD || c->opcode == FUSE_SYMLINK;
  if (!makes || READ_ONCE(one_user)) return call_as(c, interrupt, 0, 0);
  const struct cred *cred = cred_current();
  int err = call_as(c, interrupt, cred->fsuid, cred->fsgid);
  // setresuid's, for a user that the daemon's namespace does not have
  if (err != -EINVAL || !(cred->fsuid | cred->fsgid)) return err;
  err = call_as(c, interrupt, 0, 0);
  if (!err) WRITE_ONCE(one_user, true);
  return err;
}

// --- what comes back

static bool attr_sane(const struct fuse_attr *a) {
  switch (a->mode & S_IFMT) {
  case S_IFREG: case S_IFDIR: case S_IFLNK: case S_IFIFO: case S_IFSOCK: case S_IFCHR: case S_IFBLK: break;
  default: return false;
  }
  return (a->mode & ~(u32)(S_IFMT | 07777)) == 0 && a->size <= INT64_MAX && a->blocks <= INT64_MAX && a->atimensec < NS_PER_SEC &&
         a->mtimensec < NS_PER_SEC && a->ctimensec < NS_PER_SEC;
}

static u64 valid_until(u64 sec, u32 nsec) {
  u64 now = time_ns();
  if (sec >= (~0ull - now) / NS_PER_SEC - 1) return ~0ull - 1; // as good as for ever
  return now + sec * NS_PER_SEC + MIN((u64)nsec, NS_PER_SEC);
}

static int entry_open(const struct fuse_entry_out *e, struct host_entry *out) {
  out->nodeid = e->nodeid;
  out->entry_valid_until = valid_until(e->entry_valid, e->entry_valid_nsec);
  if (!e->nodeid) return -ENOENT;
  out->attr = e->attr;
  out->attr_valid_until = valid_until(e->attr_valid, e->attr_valid_nsec);
  return e->nodeid != VIRTIOFS_ROOT && attr_sane(&e->attr) ? 0 : -EIO;
}

static int attr_open(const struct fuse_attr_out *a, u64 node, struct host_entry *out) {
  out->nodeid = node;
  out->attr = a->attr;
  out->attr_valid_until = valid_until(a->attr_valid, a->attr_valid_nsec);
  return attr_sane(&a->attr) ? 0 : -EIO;
}

// A name as FUSE wants it: terminated. Two of them follow each other for a rename, a link's target after its name.
static char *join_names(const char *a, size_t a_len, const char *b, size_t b_len, u32 *total) {
  char *s = kmalloc(a_len + b_len + 2, 0);
  if (!s) return NULL;
  memcpy(s, a, a_len);
  s[a_len] = 0;
  *total = (u32)a_len + 1;
  if (b) {
    memcpy(s + a_len + 1, b, b_len);
    s[a_len + 1 + b_len] = 0;
    *total += (u32)b_len + 1;
  }
  return s;
}

// An operation on a name that answers with an entry.
static int call_entry(u32 opcode, u64 dir, const void *arg, u32 arg_len, const char *name, size_t len, const char *second,
                      enum interrupt interrupt, struct host_entry *out) {
  struct fuse_entry_out e;
  char inline_name[64];
  u32 total = (u32)len + 1;
  char *names = inline_name;
  if (second || len >= sizeof(inline_name)) names = join_names(name, len, second, second ? strlen(second) : 0, &total);
  else memcpy(inline_name, name, len), inline_name[len] = 0;
  if (!names) return -ENOMEM;
  struct call c = { .opcode = opcode, .nodeid = dir, .arg = arg, .arg_len = arg_len, .data = names, .data_len = total,
                    .out = &e, .out_min = sizeof(e), .out_max = sizeof(e) };
  out->asked = changes_now();
  int err = call(&c, interrupt);
  if (names != inline_name) kfree(names);
  return err ? err : entry_open(&e, out);
}

// --- operations

int virtiofs_init(void) {
  struct { u32 major, minor, max_readahead, flags; } in = { FUSE_KERNEL_VERSION, PROTOCOL_MINOR, fsdev_max_data(),
    FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES };
  struct fuse_init_out out = { 0 };
  struct call c = { .opcode = FUSE_INIT, .arg = &in, .arg_len = sizeof(in), .out = &out, .out_min = 24, .out_max = sizeof(out) };
  int err = call(&c, CHANGES);
  if (err) return err;
  if (out.major != FUSE_KERNEL_VERSION || out.minor < PROTOCOL_MINOR_MIN) {
    printk(LOG_ERROR, "fs: the host speaks FUSE %u.%u, not 7.%u or later\n", out.major, out.minor, PROTOCOL_MINOR_MIN);
    return -EIO;
  }
  u32 pages = (out.flags & FUSE_MAX_PAGES) && out.max_pages ? out.max_pages : 32;
  u32 limit = (u32)MIN(pages * PAGE_SIZE, (u64)fsdev_max_data());
  max_read = limit;
  max_write = (u32)ALIGN_DOWN(MIN(MAX(out.max_write, (u32)PAGE_SIZE), limit), PAGE_SIZE);
  return 0;
}

int virtiofs_lookup(u64 dir, const char *name, size_t len, struct host_entry *out) {
  out->nodeid = 0;
  out->entry_valid_until = 0;
  return call_entry(FUSE_LOOKUP, dir, NULL, 0, name, len, NULL, READS, out);
}

int virtiofs_getattr(u64 node, const u64 *fh, struct host_entry *out) {
  struct fuse_getattr_in in = { .getattr_flags = fh ? FUSE_GETATTR_FH : 0, .fh = fh ? *fh : 0 };
  struct fuse_attr_out a;
  struct call c = { .opcode = FUSE_GETATTR, .nodeid = node, .arg = &in, .arg_len = sizeof(in), .out = &a, .out_min = sizeof(a), .out_max = sizeof(a) };
  out->asked = changes_now();
  int err = call(&c, READS);
  return err ? err : attr_open(&a, node, out);
}

int virtiofs_setattr(u64 node, struct fuse_setattr_in *in, struct host_entry *out) {
  struct fuse_attr_out a;
  struct call c = { .opcode = FUSE_SETATTR, .nodeid = node, .arg = in, .arg_len = sizeof(*in), .out = &a, .out_min = sizeof(a), .out_max = sizeof(a) };
  out->asked = changes_now();
  int err = call(&c, CHANGES);
  return err ? err : attr_open(&a, node, out);
}

long virtiofs_readlink(u64 node, char *buf, size_t size) {
  struct call c = { .opcode = FUSE_READLINK, .nodeid = node, .out = buf, .out_min = 1, .out_max = (u32)MIN(size, (size_t)PATH_MAX - 1) };
  int err = call(&c, READS);
  if (err) return err;
  return memchr(buf, 0, c.got) ? -EIO : (long)c.got;
}

int virtiofs_open(u64 node, u32 flags, bool dir, u64 *fh, u32 *open_flags) {
  struct fuse_open_in in = { .flags = flags };
  struct fuse_open_out out;
  struct call c = { .opcode = dir ? FUSE_OPENDIR : FUSE_OPEN, .nodeid = node, .arg = &in, .arg_len = sizeof(in), .out = &out, .out_min = sizeof(out), .out_max = sizeof(out) };
  int err = call(&c, CHANGES); // an abandoned handle would stay open on the host
  if (err) return err;
  *fh = out.fh;
  if (open_flags) *open_flags = out.open_flags;
  return 0;
}

void virtiofs_release(u64 node, u64 fh, u32 flags, bool dir) {
  struct fuse_release_in in = { .fh = fh, .flags = flags };
  struct call c = { .opcode = dir ? FUSE_RELEASEDIR : FUSE_RELEASE, .nodeid = node, .arg = &in, .arg_len = sizeof(in) };
  int err = call(&c, CHANGES);
  if (err) printk(LOG_DEBUG, "fs: closing a host file: error %d\n", err);
}

long virtiofs_read(u64 node, u64 fh, u64 off, struct page **pages, unsigned n, u32 len) {
  struct fuse_read_in in = { .fh = fh, .offset = off, .size = len };
  ASSERT(len <= max_read && len <= n * PAGE_SIZE);
  struct call c = { .opcode = FUSE_READ, .nodeid = node, .arg = &in, .arg_len = sizeof(in), .out_pages = pages, .out_pages_n = n, .out_pages_len = len };
  int err = call(&c, READS);
  // It is open, so it is there: open() and stat() of a trusted file pass this on, and nothing may make that seem missing.
  if (err == -ENOENT || err == -ENOTDIR) err = -EIO;
  return err ? err : (long)c.got;
}

int virtiofs_write(u64 node, u64 fh, u64 off, struct page **pages, u32 first_off, u32 len) {
  struct fuse_write_in in = { .fh = fh, .offset = off, .size = len };
  struct fuse_write_out out;
  ASSERT(len <= max_write);
  struct call c = { .opcode = FUSE_WRITE, .nodeid = node, .arg = &in, .arg_len = sizeof(in), .in_pages = pages, .in_pages_off = first_off,
                    .in_pages_len = len, .out = &out, .out_min = sizeof(out), .out_max = sizeof(out) };
  int err = call(&c, CHANGES);
  return err ? err : out.size == len ? 0 : -EIO;
}

long virtiofs_readdir(u64 node, u64 fh, u64 off, void *buf, u32 size) {
  struct fuse_read_in in = { .fh = fh, .offset = off, .size = size };
  struct call c = { .opcode = FUSE_READDIR, .nodeid = node, .arg = &in, .arg_len = sizeof(in), .out = buf, .out_max = size };
  int err = call(&c, READS);
  return err ? err : (long)c.got;
}

bool virtiofs_dirent(const u8 *buf, size_t len, size_t *pos, struct fuse_dirent *d, const char **name) {
  const size_t head = offsetof(struct fuse_dirent, name);
  if (len - *pos < head) return false;
  memcpy(d, buf + *pos, head);
  if (d->namelen == 0 || d->namelen > NAME_MAX || d->namelen > len - *pos - head) return false;
  *name = (const char *)buf + *pos + head;
  if (memchr(*name, 0, d->namelen) || memchr(*name, '/', d->namelen)) return false;
  size_t next = *pos + ALIGN_UP(head + d->namelen, (size_t)8);
  *pos = MIN(next, len); // the last one may lack its padding
  return true;
}

static int call_fh(u32 opcode, u64 node, const void *arg, u32 arg_len) {
  struct call c = { .opcode = opcode, .nodeid = node, .arg = arg, .arg_len = arg_len };
  return call(&c, CHANGES);
}

int virtiofs_fsync(u64 node, u64 fh, bool data_only, bool dir) {
  struct fuse_fsync_in in = { .fh = fh, .fsync_flags = data_only ? FUSE_FSYNC_FDATASYNC : 0 };
  int err = call_fh(dir ? FUSE_FSYNCDIR : FUSE_FSYNC, node, &in, sizeof(in));
  return err == -EOPNOTSUPP ? 0 : err; // a host that has none
}

int virtiofs_fallocate(u64 node, u64 fh, u32 mode, u64 off, u64 len) {
  struct fuse_fallocate_in in = { .fh = fh, .offset = off, .length = len, .mode = mode };
  return call_fh(FUSE_FALLOCATE, node, &in, sizeof(in));
}

int virtiofs_create(u64 dir, const char *name, size_t len, u32 mode, u32 flags, struct host_entry *out, u64 *fh) {
  struct fuse_create_in in = { .flags = flags, .mode = mode };
  struct { struct fuse_entry_out e; struct fuse_open_out o; } a;
  u32 total;
  char *names = join_names(name, len, NULL, 0, &total);
  if (!names) return -ENOMEM;
  struct call c = { .opcode = FUSE_CREATE, .nodeid = dir, .arg = &in, .arg_len = sizeof(in), .data = names, .data_len = total, .out = &a, .out_min = sizeof(a), .out_max = sizeof(a) };
  out->asked = changes_now();
  int err = call(&c, CHANGES);
  kfree(names);
  if (err) return err;
  *fh = a.o.fh;
  return entry_open(&a.e, out) ? -EIO : 0;
}

int virtiofs_mkdir(u64 dir, const char *name, size_t len, u32 mode, struct host_entry *out) {
  struct fuse_mkdir_in in = { .mode = mode };
  return call_entry(FUSE_MKDIR, dir, &in, sizeof(in), name, len, NULL, CHANGES, out);
}

int virtiofs_mknod(u64 dir, const char *name, size_t len, u32 mode, u64 rdev, struct host_entry *out) {
  struct fuse_mknod_in in = { .mode = mode, .rdev = (u32)rdev };
  return call_entry(FUSE_MKNOD, dir, &in, sizeof(in), name, len, NULL, CHANGES, out);
}

int virtiofs_symlink(u64 dir, const char *name, size_t len, const char *target, struct host_entry *out) {
  return call_entry(FUSE_SYMLINK, dir, NULL, 0, name, len, target, CHANGES, out);
}

int virtiofs_link(u64 old, u64 dir, const char *name, size_t len, struct host_entry *out) {
  struct fuse_link_in in = { .oldnodeid = old };
  return call_entry(FUSE_LINK, dir, &in, sizeof(in), name, len, NULL, CHANGES, out);
}

int virtiofs_remove(u64 dir, const char *name, size_t len, bool is_dir) {
  u32 total;
  char *names = join_names(name, len, NULL, 0, &total);
  if (!names) return -ENOMEM;
  struct call c = { .opcode = is_dir ? FUSE_RMDIR : FUSE_UNLINK, .nodeid = dir, .data = names, .data_len = total };
  int err = call(&c, CHANGES);
  kfree(names);
  return err;
}

int virtiofs_rename(u64 from, const char *name, size_t len, u64 to, const char *new_name, size_t new_len, u32 flags) {
  struct fuse_rename2_in in = { .newdir = to, .flags = flags };
  u32 total;
  char *names = join_names(name, len, new_name, new_len, &total);
  if (!names) return -ENOMEM;
  // Plain RENAME where it is enough: it is the older call. Its argument is the first field of the other's.
  struct call c = { .opcode = flags ? FUSE_RENAME2 : FUSE_RENAME, .nodeid = from, .arg = &in,
                    .arg_len = flags ? (u32)sizeof(in) : (u32)sizeof(struct fuse_rename_in), .data = names, .data_len = total };
  int err = call(&c, CHANGES);
  kfree(names);
  return err == -EOPNOTSUPP && flags ? -EINVAL : err;
}

int virtiofs_statfs(u64 node, struct kstatfs *st) {
  struct fuse_statfs_out out;
  struct call c = { .opcode = FUSE_STATFS, .nodeid = node, .out = &out, .out_min = sizeof(out), .out_max = sizeof(out) };
  int err = call(&c, READS);
  if (err) return err;
  *st = (struct kstatfs){ .type = 0x65735546 /* FUSE_SUPER_MAGIC */, .bsize = out.st.bsize ? out.st.bsize : PAGE_SIZE, .blocks = out.st.blocks, .bfree = out.st.bfree,
    .bavail = out.st.bavail, .files = out.st.files, .ffree = out.st.ffree, .namelen = NAME_MAX };
  return 0;
}

// Without room (size 0) the host answers with the size alone.
long virtiofs_getxattr(u64 node, const char *name, void *buf, size_t size) {
  struct fuse_getxattr_in in = { .size = (u32)MIN(size, (size_t)XATTR_MAX_BYTES) };
  struct fuse_getxattr_out want;
  struct call c = { .opcode = name ? FUSE_GETXATTR : FUSE_LISTXATTR, .nodeid = node, .arg = &in, .arg_len = sizeof(in),
                    .data = name, .data_len = name ? (u32)strlen(name) + 1 : 0 };
  c.out = size ? buf : (void *)&want;
  c.out_min = size ? 0 : sizeof(want);
  c.out_max = size ? in.size : sizeof(want);
  int err = call(&c, READS);
  if (err) return err;
  if (size) return (long)c.got;
  return want.size <= XATTR_MAX_BYTES ? (long)want.size : -EIO;
}

int virtiofs_setxattr(u64 node, const char *name, const void *value, size_t size, u32 flags) {
  struct { u32 size, flags; } in = { (u32)size, flags }; // the short form: the extended one was not negotiated
  u32 total;
  if (size > XATTR_MAX_BYTES) return -E2BIG;
  char *data = join_names(name, strlen(name), size ? value : NULL, size, &total);
  if (!data) return -ENOMEM;
  struct call c = { .opcode = FUSE_SETXATTR, .nodeid = node, .arg = &in, .arg_len = sizeof(in), .data = data, .data_len = total - (size ? 1 : 0) };
  int err = call(&c, CHANGES);
  kfree(data);
  return err;
}

int virtiofs_removexattr(u64 node, const char *name) {
  struct call c = { .opcode = FUSE_REMOVEXATTR, .nodeid = node, .data = name, .data_len = (u32)strlen(name) + 1 };
  return call(&c, CHANGES);
}

void virtiofs_forget(const struct fuse_forget_one *list, unsigned n) {
  struct { struct fuse_in_header h; struct fuse_batch_forget_in b; struct fuse_forget_one one[16]; } m;
  while (n) {
    unsigned part = MIN(n, (unsigned)ARRAY_SIZE(m.one));
    m.h = (struct fuse_in_header){ .opcode = FUSE_BATCH_FORGET };
    m.b = (struct fuse_batch_forget_in){ .count = part };
    memcpy(m.one, list, part * sizeof(*list));
    fsdev_forget(&m, (u32)(offsetof(__typeof__(m), one) + part * sizeof(*list)));
    list += part;
    n -= part;
  }
}

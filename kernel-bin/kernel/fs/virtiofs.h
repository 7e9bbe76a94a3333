// SPDX-License-Identifier: Apache-2.0
//
// virtiofs, private to the fs room: the FUSE protocol over drv's transport, one call per operation, by node id. Knows
// nothing of policy, inodes or caches (hostfs.c). Every answer is the host's: lengths, types, times and error numbers are
// checked here, and what does not make sense is -EIO. Sleepable context; no lock but inode locks held.
// Calls that change nothing can be interrupted: -ERESTARTNOINTR, so that a program never sees EINTR from a file. The
// others wait for their answer, as an abandoned change may have happened.
#ifndef FS_VIRTIOFS_H
#define FS_VIRTIOFS_H
#include "drv/drv.h"
#include "fs/internal.h"
#include <linux/fuse.h>

struct host_entry {
  u64 nodeid; // 0: negative
  u64 entry_valid_until, attr_valid_until; // in time_ns()
  u64 asked;  // virtiofs_changes when the request was made
  struct fuse_attr attr;
};
extern u64 virtiofs_changes; // counted by who changed a file, when the host has answered to that: attributes asked for before are old
#define VIRTIOFS_ROOT 1ull

int virtiofs_init(void);             // once; -EIO: no device, or it speaks something else
u32 virtiofs_max_read(void);         // bytes per request, multiples of a page
u32 virtiofs_max_write(void);
int virtiofs_lookup(u64 dir, const char *name, size_t len, struct host_entry *out); // -ENOENT: and no entry
int virtiofs_getattr(u64 node, const u64 *fh, struct host_entry *out);
int virtiofs_setattr(u64 node, struct fuse_setattr_in *in, struct host_entry *out);
long virtiofs_readlink(u64 node, char *buf, size_t size);
int virtiofs_open(u64 node, u32 flags, bool dir, u64 *fh, u32 *open_flags);
void virtiofs_release(u64 node, u64 fh, u32 flags, bool dir);
// Into whole pages from `off`; the bytes that came (short: end of file). The rest of the pages is not touched.
long virtiofs_read(u64 node, u64 fh, u64 off, struct page **pages, unsigned n, u32 len);
int virtiofs_write(u64 node, u64 fh, u64 off, struct page **pages, u32 first_off, u32 len);
long virtiofs_readdir(u64 node, u64 fh, u64 off, void *buf, u32 size); // raw struct fuse_dirent
int virtiofs_fsync(u64 node, u64 fh, bool data_only, bool dir);
int virtiofs_fallocate(u64 node, u64 fh, u32 mode, u64 off, u64 len);
int virtiofs_create(u64 dir, const char *name, size_t len, u32 mode, u32 flags, struct host_entry *out, u64 *fh);
int virtiofs_mkdir(u64 dir, const char *name, size_t len, u32 mode, struct host_entry *out);
int virtiofs_mknod(u64 dir, const char *name, size_t len, u32 mode, u64 rdev, struct host_entry *out);
int virtiofs_symlink(u64 dir, const char *name, size_t len, const char *target, struct host_entry *out);
int virtiofs_link(u64 old, u64 dir, const char *name, size_t len, struct host_entry *out);
int virtiofs_remove(u64 dir, const char *name, size_t len, bool is_dir);
int virtiofs_rename(u64 from, const char *name, size_t len, u64 to, const char *new_name, size_t new_len, u32 flags);
int virtiofs_statfs(u64 node, struct kstatfs *st);
long virtiofs_getxattr(u64 node, const char *name, void *buf, size_t size); // name NULL: list
int virtiofs_setxattr(u64 node, const char *name, const void *value, size_t size, u32 flags);
int virtiofs_removexattr(u64 node, const char *name);
void virtiofs_forget(const struct fuse_forget_one *list, unsigned n); // n <= 64
// One entry of a READDIR answer at *pos: its name (pointing into buf), or false at the end or at the first malformed one.
bool virtiofs_dirent(const u8 *buf, size_t len, size_t *pos, struct fuse_dirent *d, const char **name);
#endif

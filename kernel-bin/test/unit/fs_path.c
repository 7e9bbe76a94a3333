// SPDX-License-Identifier: Apache-2.0
// Walking paths over tmpfs: what opens, what does not, and with which error.
#include "fs_mock.h"
#include <sys/wait.h>
#include <unistd.h>

static void test_names(void) {
  struct kstat st;
  mock_context->umask = 022;
  CHECK(fs_mkdir(AT_FDCWD, "/a", 0777) == 0 && fs_mkdir(AT_FDCWD, "/a", 0777) == -EEXIST);
  CHECK(mock_stat("/a", true, &st) == 0 && st.mode == (S_IFDIR | 0755) && st.nlink == 2);
  CHECK(fs_mkdir(AT_FDCWD, "/a/b/", 0700) == 0);
  CHECK(mock_stat("/a", true, &st) == 0 && st.nlink == 3);
  CHECK(fs_mkdir(AT_FDCWD, "/x/y", 0700) == -ENOENT);
  CHECK(fs_mkdir(AT_FDCWD, "/", 0700) == -EEXIST && fs_mkdir(AT_FDCWD, "", 0700) == -ENOENT && fs_mkdir(AT_FDCWD, "/a/.", 0700) == -EEXIST);
  CHECK(mock_open("/a/f", O_RDONLY, 0) == -ENOENT);
  CHECK(mock_open("/a/f", O_CREAT | O_WRONLY | O_EXCL, 0666) == 0);
  CHECK(mock_open("/a/f", O_CREAT | O_WRONLY | O_EXCL, 0666) == -EEXIST);
  CHECK(mock_stat("/a/f", true, &st) == 0 && st.mode == (S_IFREG | 0644));
  CHECK(mock_stat("/a/f/", true, &st) == -ENOTDIR && mock_stat("/a/f/x", true, &st) == -ENOTDIR && mock_stat("/a//b/./../f", true, &st) == 0);
  CHECK(mock_open("/a/f/", O_CREAT | O_WRONLY, 0666) == -EISDIR && mock_open("/a/new/", O_CREAT | O_WRONLY, 0666) == -EISDIR);
  CHECK(mock_open("/a", O_WRONLY, 0) == -EISDIR && mock_open("/a", O_CREAT | O_RDONLY, 0) == -EISDIR && mock_open("/a", O_RDONLY, 0) == 0);
  CHECK(mock_open("/a/f", O_DIRECTORY, 0) == -ENOTDIR && mock_open("/a", O_DIRECTORY | O_CREAT, 0) == -EINVAL);
  CHECK(mock_stat("/..", true, &st) == 0 && mock_stat("/../../a/../a/f", true, &st) == 0);
  CHECK(mock_stat("", true, &st) == -ENOENT);
  char *longname = malloc(5000);
  memset(longname, 'n', 5000);
  longname[256] = 0;
  CHECK(fs_mkdir(AT_FDCWD, longname, 0700) == -ENAMETOOLONG);
  longname[255] = 0;
  CHECK(fs_mkdir(AT_FDCWD, longname, 0700) == 0 && fs_rmdir(AT_FDCWD, longname) == 0);
  free(longname);
  CHECK(fs_rmdir(AT_FDCWD, "/a") == -ENOTEMPTY && fs_rmdir(AT_FDCWD, "/a/f") == -ENOTDIR && fs_unlink(AT_FDCWD, "/a/b") == -EISDIR);
  CHECK(fs_rmdir(AT_FDCWD, "/a/b/.") == -EINVAL && fs_rmdir(AT_FDCWD, "/a/b/..") == -ENOTEMPTY && fs_rmdir(AT_FDCWD, "/") == -EBUSY);
  CHECK(fs_unlink(AT_FDCWD, "/a/f/") == -ENOTDIR && fs_unlink(AT_FDCWD, "/a/b/") == -EISDIR && fs_unlink(AT_FDCWD, "/a/none/") == -ENOENT);
  CHECK(fs_rmdir(AT_FDCWD, "/dev") == -EBUSY);
  CHECK(fs_rmdir(AT_FDCWD, "/a/b/") == 0 && mock_stat("/a/b", true, &st) == -ENOENT);
}

static void test_links(void) {
  struct kstat st;
  struct path p;
  CHECK(fs_symlink("f", AT_FDCWD, "/a/l") == 0 && fs_symlink("", AT_FDCWD, "/a/e") == -ENOENT);
  CHECK(mock_stat("/a/l", true, &st) == 0 && S_ISREG(st.mode) && mock_stat("/a/l", false, &st) == 0 && S_ISLNK(st.mode) && st.size == 1);
  CHECK(mock_open("/a/l", O_RDONLY | O_NOFOLLOW, 0) == -ELOOP && mock_open("/a/l", O_PATH | O_NOFOLLOW, 0) == 0);
  CHECK(mock_open("/a/l", O_RDONLY | O_NOFOLLOW | O_DIRECTORY, 0) == -ENOTDIR);
  CHECK(mock_open("/a/l", O_CREAT | O_EXCL | O_WRONLY, 0) == -EEXIST);
  CHECK(fs_symlink("loop2", AT_FDCWD, "/loop1") == 0 && fs_symlink("loop1", AT_FDCWD, "/loop2") == 0);
  CHECK(mock_stat("/loop1", true, &st) == -ELOOP && mock_stat("/loop1/x", true, &st) == -ELOOP && mock_open("/loop1", O_RDONLY, 0) == -ELOOP);
  CHECK(fs_symlink("/a/made", AT_FDCWD, "/dangling") == 0);
  CHECK(mock_stat("/dangling", true, &st) == -ENOENT && mock_open("/dangling", O_CREAT | O_WRONLY, 0600) == 0 && mock_stat("/a/made", true, &st) == 0);
  CHECK(fs_symlink("../a//", AT_FDCWD, "/a/self") == 0 && mock_stat("/a/self/self/self/f", true, &st) == 0);
  CHECK(mock_stat("/a/self/", false, &st) == 0 && S_ISDIR(st.mode)); // a trailing slash follows
  CHECK(mock_stat("/a/l/", false, &st) == -ENOTDIR);
  char name[16] = "/c0", target[16] = "/a/f";
  for (int k = 0; k <= 40; k++) { // a chain of 41 links: one too many
    snprintf(name, sizeof name, "/c%d", k);
    CHECK(fs_symlink(target, AT_FDCWD, name) == 0);
    strcpy(target, name);
  }
  CHECK(mock_stat("/c39", true, &st) == 0 && mock_stat("/c40", true, &st) == -ELOOP);
  CHECK(path_lookup(AT_FDCWD, "/a/f", 0, &p) == 0);
  CHECK(fs_link(&p, AT_FDCWD, "/a/g") == 0 && fs_link(&p, AT_FDCWD, "/a/g") == -EEXIST && fs_link(&p, AT_FDCWD, "/dev/g") == -EXDEV);
  CHECK(fs_link(&p, AT_FDCWD, "/a/h/") == -ENOENT);
  path_put(&p);
  CHECK(mock_stat("/a/g", true, &st) == 0 && st.nlink == 2);
  CHECK(fs_unlink(AT_FDCWD, "/a/f") == 0 && mock_stat("/a/g", true, &st) == 0 && st.nlink == 1);
  CHECK(path_lookup(AT_FDCWD, "/a", 0, &p) == 0 && fs_link(&p, AT_FDCWD, "/dirlink") == -EPERM);
  path_put(&p);
}

static void test_cwd(void) {
  struct kstat st;
  CHECK(mock_chdir("/a") == 0 && !strcmp(mock_cwd(), "/a"));
  CHECK(fs_mkdir(AT_FDCWD, "sub", 0755) == 0 && mock_chdir("sub") == 0 && !strcmp(mock_cwd(), "/a/sub"));
  CHECK(fs_rename(AT_FDCWD, "/a", AT_FDCWD, "/renamed_to_something_longer_than_the_inline_name", 0) == 0);
  CHECK(!strcmp(mock_cwd(), "/renamed_to_something_longer_than_the_inline_name/sub"));
  CHECK(fs_rename(AT_FDCWD, "/renamed_to_something_longer_than_the_inline_name", AT_FDCWD, "/a", 0) == 0 && !strcmp(mock_cwd(), "/a/sub"));
  CHECK(fs_rmdir(AT_FDCWD, "/a/sub") == 0 && mock_open("x", O_CREAT | O_WRONLY, 0600) == -ENOENT && mock_stat(".", true, &st) == 0 && st.nlink == 0);
  CHECK(mock_stat("..", true, &st) == 0 && mock_stat("x", true, &st) == -ENOENT);
  CHECK(mock_chdir("/dev/shm") == 0 && !strcmp(mock_cwd(), "/dev/shm") && mock_chdir("..") == 0 && !strcmp(mock_cwd(), "/dev"));
  CHECK(mock_chdir("..") == 0 && !strcmp(mock_cwd(), "/") && mock_chdir("/a/g") == -ENOTDIR);
}

static void test_rename(void) {
  struct kstat st, st2;
  CHECK(fs_mkdir(AT_FDCWD, "/r", 0755) == 0 && fs_mkdir(AT_FDCWD, "/r/d1", 0755) == 0 && fs_mkdir(AT_FDCWD, "/r/d2", 0755) == 0);
  CHECK(mock_open("/r/f1", O_CREAT | O_WRONLY, 0600) == 0 && mock_open("/r/f2", O_CREAT | O_WRONLY, 0600) == 0);
#define MV(a, b, f) fs_rename(AT_FDCWD, a, AT_FDCWD, b, f)
  CHECK(MV("/r/none", "/r/x", 0) == -ENOENT && MV("/r/f1", "/r/d1", 0) == -EISDIR && MV("/r/d1", "/r/f1", 0) == -ENOTDIR);
  CHECK(MV("/r/f1", "/r/f2", RENAME_NOREPLACE) == -EEXIST && MV("/r/f1", "/r/f2/", 0) == -ENOTDIR && MV("/r/f1/", "/r/x", 0) == -ENOTDIR);
  CHECK(MV("/r/d1", "/r/d1/in", 0) == -EINVAL && MV("/r", "/r/d1/in", 0) == -EINVAL && MV("/r/d1", "/r", 0) == -ENOTEMPTY);
  CHECK(MV("/r/.", "/r/x", 0) == -EBUSY && MV("/r/f1", "/dev/f1", 0) == -EXDEV && MV("/r/d1", "/r/d1", 0) == 0);
  CHECK(MV("/r/f1", "/r/f2", 8) == -EINVAL);
  CHECK(mock_stat("/r/f1", true, &st) == 0 && MV("/r/f1", "/r/f2", 0) == 0 && mock_stat("/r/f2", true, &st2) == 0 && st.ino == st2.ino);
  CHECK(mock_stat("/r/f1", true, &st) == -ENOENT);
  CHECK(MV("/r/f2", "/r/d1/f", 0) == 0 && MV("/r/d1", "/r/d2/moved", 0) == 0 && mock_stat("/r/d2/moved/f", true, &st) == 0);
  CHECK(mock_stat("/r", true, &st) == 0 && st.nlink == 3 && mock_stat("/r/d2", true, &st) == 0 && st.nlink == 3);
  CHECK(fs_mkdir(AT_FDCWD, "/r/e", 0755) == 0 && MV("/r/d2/moved", "/r/e", 0) == 0 && mock_stat("/r/e/f", true, &st) == 0); // onto an empty directory
  CHECK(MV("/r/d2", "/r/e", 0) == -ENOTEMPTY && MV("/r/d2/", "/r/d3/", 0) == 0);
  CHECK(mock_stat("/r/e/f", true, &st) == 0 && MV("/r/e/f", "/r/d3", RENAME_EXCHANGE) == 0 && mock_stat("/r/d3", true, &st2) == 0 && st.ino == st2.ino);
  CHECK(mock_stat("/r/e/f", true, &st) == 0 && S_ISDIR(st.mode) && MV("/r/e/f", "/r/none", RENAME_EXCHANGE) == -ENOENT);
  CHECK(mock_stat("/r/e", true, &st) == 0 && st.nlink == 3 && mock_stat("/r", true, &st) == 0 && st.nlink == 3);
  CHECK(MV("/r/e", "/r/e/f", RENAME_EXCHANGE) == -EINVAL && MV("/r/e/f", "/r/e", RENAME_EXCHANGE) == -EINVAL);
}

static void test_permission(void) {
  struct kstat st;
  CHECK(fs_mkdir(AT_FDCWD, "/p", 0755) == 0 && mock_open("/p/mine", O_CREAT | O_WRONLY, 0644) == 0 && fs_mkdir(AT_FDCWD, "/p/sticky", 0777) == 0);
  struct path p;
  CHECK(path_lookup(AT_FDCWD, "/p/sticky", 0, &p) == 0);
  struct iattr a = { .valid = ATTR_MODE, .mode = 01777 };
  CHECK(fs_setattr_checked(p.dentry, &a) == 0);
  path_put(&p);
  CHECK(mock_open("/p/sticky/root", O_CREAT | O_WRONLY, 0666) == 0 && mock_open("/p/noexec", O_CREAT | O_WRONLY, 0600) == 0);
  CHECK(fs_mkdir(AT_FDCWD, "/p/closed", 0700) == 0);
  mock_cred = (struct cred){ .uid = 1000, .euid = 1000, .fsuid = 1000, .gid = 100, .egid = 100, .fsgid = 100 };
  CHECK(mock_open("/p/mine", O_RDONLY, 0) == 0 && mock_open("/p/mine", O_RDWR, 0) == -EACCES && mock_open("/p/mine", O_RDONLY | O_TRUNC, 0) == -EACCES);
  CHECK(mock_open("/p/new", O_CREAT | O_WRONLY, 0600) == -EACCES && fs_mkdir(AT_FDCWD, "/p/new", 0700) == -EACCES && fs_mkdir(AT_FDCWD, "/p/mine", 0700) == -EEXIST);
  CHECK(fs_unlink(AT_FDCWD, "/p/mine") == -EACCES && fs_unlink(AT_FDCWD, "/p/sticky/root") == -EPERM);
  CHECK(fs_rename(AT_FDCWD, "/p/sticky/root", AT_FDCWD, "/p/sticky/x", 0) == -EPERM);
  CHECK(mock_stat("/p/closed/x", true, &st) == -EACCES && mock_stat("/p/closed", true, &st) == 0 && mock_open("/p/noexec", O_RDONLY, 0) == -EACCES);
  CHECK(mock_open("/p/sticky/own", O_CREAT | O_WRONLY, 0400) == 0 && mock_stat("/p/sticky/own", true, &st) == 0 && st.uid == 1000 && st.mode == (S_IFREG | 0400));
  CHECK(mock_open("/p/sticky/own", O_WRONLY, 0) == -EACCES);
  CHECK(path_lookup(AT_FDCWD, "/p/mine", 0, &p) == 0);
  a = (struct iattr){ .valid = ATTR_MODE, .mode = 0777 };
  CHECK(fs_setattr_checked(p.dentry, &a) == -EPERM);
  a = (struct iattr){ .valid = ATTR_UID, .uid = 1000 };
  CHECK(fs_setattr_checked(p.dentry, &a) == -EPERM);
  a = (struct iattr){ .valid = ATTR_MTIME_NOW | ATTR_ATIME_NOW };
  CHECK(fs_setattr_checked(p.dentry, &a) == -EACCES);
  path_put(&p);
  CHECK(path_lookup(AT_FDCWD, "/p/sticky/own", 0, &p) == 0);
  a = (struct iattr){ .valid = ATTR_GID, .gid = 100 };
  CHECK(fs_setattr_checked(p.dentry, &a) == 0);
  a = (struct iattr){ .valid = ATTR_GID, .gid = 5 };
  CHECK(fs_setattr_checked(p.dentry, &a) == -EPERM);
  path_put(&p);
  CHECK(fs_unlink(AT_FDCWD, "/p/sticky/own") == 0);
  mock_cred = (struct cred){ 0 };
}

// A file system that shows nothing: mount points below it exist only in the cache.
static int empty_lookup(struct inode *dir, struct dentry *d) { return 0; }
static int empty_readdir(struct file *f, struct dirent_sink *s, u64 *pos) {
  if (*pos == 0 && s->emit(s, ".", 1, f->inode->ino, DT_DIR, 1)) *pos = 1;
  return 0;
}
static const struct inode_ops empty_ops = { .lookup = empty_lookup };
static const struct file_ops empty_fops = { .readdir = empty_readdir };
struct names { struct dirent_sink sink; char text[256]; unsigned room; };
static bool take_name(struct dirent_sink *s, const char *name, size_t len, u64 ino, u8 type, u64 next_pos) {
  struct names *n = (struct names *)s;
  if (!n->room) return false;
  n->room--;
  strncat(n->text, name, len);
  strcat(n->text, type == DT_DIR ? "/ " : " ");
  return true;
}

static struct super *file_super(void) { // a mount whose root is a file
  struct super *s = tmpfs_create(0, 0755);
  struct inode *i = inode_create(s, S_IFREG | 0444);
  i->ops = &special_ops;
  i->fops = &pagecache_file_ops;
  inode_put(s->root->inode);
  s->root->inode = i;
  return s;
}

static void test_mounts(void) {
  struct kstat st;
  struct super *s = super_create("empty", SUPER_RDONLY);
  struct inode *i = inode_create(s, S_IFDIR | 0755);
  i->ops = &empty_ops;
  i->fops = &empty_fops;
  dentry_create_root(s, i);
  CHECK(mount_add("/mnt/empty", s, 0, "empty") == 0);
  CHECK(mount_add("/mnt/empty/x/y", tmpfs_create(0, 0755), 0, NULL) == 0);
  CHECK(mount_add("/mnt/empty/one", file_super(), 0, NULL) == 0);
  CHECK(mock_stat("/mnt/empty/x/y", true, &st) == 0 && st.dev != s->dev && mock_stat("/mnt/empty/one", true, &st) == 0 && S_ISREG(st.mode));
  CHECK(mock_stat("/mnt/empty/none", true, &st) == -ENOENT && mock_stat("/mnt/empty/x/none", true, &st) == -ENOENT);
  CHECK(mock_open("/mnt/empty/new", O_CREAT | O_WRONLY, 0600) == -EROFS && fs_mkdir(AT_FDCWD, "/mnt/empty/x/new", 0700) == -EROFS);
  CHECK(fs_mkdir(AT_FDCWD, "/mnt/empty/x/y/new", 0700) == 0 && mock_chdir("/mnt/empty/x/y/new") == 0 && !strcmp(mock_cwd(), "/mnt/empty/x/y/new"));
  CHECK(mock_chdir("../../..") == 0 && !strcmp(mock_cwd(), "/mnt/empty") && mock_chdir("/") == 0);
  CHECK(fs_rmdir(AT_FDCWD, "/mnt/empty/x") == -EBUSY && fs_unlink(AT_FDCWD, "/mnt/empty/one") == -EBUSY);
  struct super *cover = file_super();
  // A mount at a link goes where the link leads; at one that leads nowhere, it covers the link.
  CHECK(fs_symlink("to", AT_FDCWD, "/link") == 0 && mock_open("/to", O_CREAT | O_WRONLY, 0600) == 0 && mount_add("/link", file_super(), 0, NULL) == 0);
  CHECK(mock_stat("/to", true, &st) == 0 && st.mode == (S_IFREG | 0444) && mock_stat("/link", false, &st) == 0 && S_ISLNK(st.mode));
  CHECK(fs_symlink("../nowhere/to", AT_FDCWD, "/lost") == 0 && mock_stat("/lost", true, &st) == -ENOENT);
  CHECK(mount_add("/lost/below", cover, 0, NULL) == -ENOENT && mount_add("/lost", cover, 0, NULL) == 0);
  CHECK(mock_stat("/lost", true, &st) == 0 && st.mode == (S_IFREG | 0444) && mock_stat("/lost", false, &st) == 0 && S_ISREG(st.mode));
  CHECK(fs_unlink(AT_FDCWD, "/lost") == -EBUSY);
  struct file *f = path_open(AT_FDCWD, "/mnt/empty", O_RDONLY | O_DIRECTORY, 0);
  struct names n = { .sink = { take_name } };
  u64 pos = 0;
  for (int k = 0; k < 6; k++) { // one entry a call
    n.room = 1;
    CHECK(fs_readdir(f, &n.sink, &pos) == 0);
  }
  CHECK(!strcmp(n.text, "./ x/ one "));
  file_put(f);
}

// A host whose directories are others each time it is asked: the way to a mount stays.
static int moving_lookup(struct inode *dir, struct dentry *d) {
  if (!(d->inode = inode_create(d->super, S_IFDIR | 0755))) return -ENOMEM;
  d->inode->ops = dir->ops;
  d->inode->fops = &empty_fops;
  d->valid_until_ns = mock_now_ns + 1;
  return 0;
}
static const struct inode_ops moving_ops = { .lookup = moving_lookup };
static void test_moving_host(void) {
  struct kstat a, b;
  struct super *s = super_create("moving", 0), *t = tmpfs_create(0, 0755);
  struct inode *i = inode_create(s, S_IFDIR | 0755);
  i->ops = &moving_ops;
  i->fops = &empty_fops;
  dentry_create_root(s, i);
  CHECK(mount_add("/mnt/moving", s, 0, NULL) == 0 && mount_add("/mnt/moving/x/y/z", t, 0, NULL) == 0);
  CHECK(mock_stat("/mnt/moving/a", true, &a) == 0);
  mock_now_ns += 10;
  CHECK(mock_stat("/mnt/moving/a", true, &b) == 0 && a.ino != b.ino);
  CHECK(mock_stat("/mnt/moving/x/y/z", true, &b) == 0 && b.dev == t->dev);
}

// A host whose directories contain themselves: their locks are taken once.
static int loop_lookup(struct inode *dir, struct dentry *d) {
  d->inode = inode_get(dir);
  return 0;
}
static int loop_change(struct inode *from, struct dentry *o, struct inode *to, struct dentry *n, u32 flags) { return 0; }
static const struct inode_ops loop_ops = { .lookup = loop_lookup, .rename = loop_change };
static void test_looping_host(void) {
  struct super *s = super_create("loop", 0);
  struct inode *i = inode_create(s, S_IFDIR | 0755);
  i->ops = &loop_ops;
  i->fops = &empty_fops;
  dentry_create_root(s, i);
  CHECK(mount_add("/mnt/loop", s, 0, NULL) == 0);
  CHECK(fs_rmdir(AT_FDCWD, "/mnt/loop/a/b") == -EIO && fs_rename(AT_FDCWD, "/mnt/loop/a", AT_FDCWD, "/mnt/loop/b", 0) == -EIO);
}

// A host that has links where the policy's mounts go: a TD does not follow them.
static int leading_readlink(struct inode *i, char *buf, size_t size) { return (int)strlen(strcpy(buf, "/mnt/led")); }
static const struct inode_ops leading_link_ops = { .readlink = leading_readlink };
static int leading_lookup(struct inode *dir, struct dentry *d) {
  if (!(d->inode = inode_create(d->super, S_IFLNK | 0777))) return -ENOMEM;
  d->inode->ops = &leading_link_ops;
  d->inode->flags = INODE_HOST;
  return 0;
}
static const struct inode_ops leading_ops = { .lookup = leading_lookup };
static void test_leading_host(void) {
  struct kstat st;
  struct super *s = super_create("leading", 0), *t, *below = file_super();
  struct inode *i = inode_create(s, S_IFDIR | 0755);
  i->ops = &leading_ops;
  i->fops = &empty_fops;
  dentry_create_root(s, i);
  CHECK(fs_mkdir(AT_FDCWD, "/mnt/led", 0755) == 0 && mock_open("/mnt/led/trusted", O_CREAT | O_WRONLY, 0600) == 0);
  CHECK(mount_add("/mnt/leading", s, 0, NULL) == 0);
  in_td = true;
  CHECK(mount_add("/mnt/leading/a", t = tmpfs_create(0, 0755), 0, NULL) == 0 && mount_add("/mnt/leading/b/c", below, 0, NULL) == -ELOOP);
  in_td = false;
  CHECK(mock_stat("/mnt/led/trusted", true, &st) == 0 && mock_stat("/mnt/led/c", true, &st) == -ENOENT);
  CHECK(mock_stat("/mnt/leading/a", true, &st) == 0 && st.dev == t->dev && mock_stat("/mnt/leading/a/..", true, &st) == 0 && st.dev == s->dev);
  CHECK(mount_add("/mnt/leading/b/c", below, 0, NULL) == 0 && mock_stat("/mnt/led/c", true, &st) == 0); // an ordinary VM does
}

static void test_devices(void) {
  char buf[8] = "abcdefg";
  struct file *f = path_open(AT_FDCWD, "/dev/null", O_RDWR, 0);
  CHECK(!is_err(f) && mock_pread(f, buf, 8, 0) == 0 && mock_pwrite(f, buf, 8, 0) == 8);
  file_put(f);
  f = path_open(AT_FDCWD, "/dev/full", O_RDWR, 0);
  CHECK(!is_err(f) && mock_pread(f, buf, 8, 0) == 8 && !buf[0] && mock_pwrite(f, buf, 8, 0) == -ENOSPC);
  file_put(f);
  struct path p;
  CHECK(path_mknod(AT_FDCWD, "/zero", S_IFCHR | 0666, MKDEV(1, 5), &p) == 0);
  f = dentry_open(&p, O_RDONLY);
  path_put(&p);
  CHECK(!is_err(f) && mock_pread(f, buf, 8, 0) == 8);
  file_put(f);
  CHECK(path_mknod(AT_FDCWD, "/nodev", S_IFCHR | 0666, MKDEV(99, 5), NULL) == 0 && mock_open("/nodev", O_RDONLY, 0) == -ENXIO);
  CHECK(path_mknod(AT_FDCWD, "/sock", S_IFSOCK | 0666, 0, NULL) == 0 && mock_open("/sock", O_RDONLY, 0) == -ENXIO);
  CHECK(path_mknod(AT_FDCWD, "/dir", S_IFDIR | 0666, 0, NULL) == -EPERM);
}

static void test_dentry_limit(void) { // negative names do not pile up
  char name[32];
  struct kstat st;
  for (int k = 0; k < 3 * LRU_LIMIT; k++) {
    snprintf(name, sizeof name, "/a/missing%d", k);
    if (mock_stat(name, true, &st) != -ENOENT) CHECK(!"found");
  }
  CHECK(lru_count <= LRU_LIMIT + 1);
}

// A TD whose host does not give the root: nothing goes on with an empty one, whatever else it gives.
static struct super *refuses(const struct policy_mount *m, u32 index) { return NULL; }
static void is_root(const char *text) { _exit(strcmp(text, "cannot mount /r at /: error 12") != 0); }
static void test_refused_root(void) {
  static struct policy_mount root = { .path = "/", .type = MOUNT_CHROOT, .uri = "/r" };
  int status = 1;
  pid_t child = fork();
  if (!child) {
    in_td = true;
    mock_fatal = is_root;
    fs_hostfs_create = refuses;
    policy.mounts = &root;
    policy.mount_count = 1;
    mock_boot();
    _exit(2);
  }
  CHECK(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

int main(void) {
  test_refused_root();
  mock_boot();
  test_names();
  test_links();
  test_cwd();
  test_rename();
  test_permission();
  test_mounts();
  test_moving_host();
  test_looping_host();
  test_leading_host();
  test_devices();
  test_dentry_limit();
  return UNIT_END("fs_path");
}

// SPDX-License-Identifier: Apache-2.0
// Answers of the host's file daemon: honest ones arrive, everything malformed is an error, and nothing is read beyond what
// came. The transport is replaced by canned bytes; drv/fsdev.c has checked the header's length by then.
#include "virtiofs_mock.h"

static struct fuse_entry_out entry(u64 nodeid, u32 mode) {
  return (struct fuse_entry_out){ .nodeid = nodeid, .entry_valid = 1, .attr_valid = 2, .attr = { .ino = 5, .size = 100, .mode = mode, .nlink = 1, .mtime = 9 } };
}
static int lookup_with(const struct fuse_entry_out *e, struct host_entry *out) {
  reply(0, e, sizeof(*e));
  return virtiofs_lookup(1, "name", 4, out);
}

static void test_init(void) {
  struct fuse_init_out o = { .major = 7, .minor = 31, .max_write = 1 << 20, .flags = FUSE_MAX_PAGES, .max_pages = 256 };
  reply(0, &o, sizeof(o));
  CHECK(virtiofs_init() == 0 && max_read == 1 << 20 && max_write == 1 << 20);
  CHECK(sent.opcode == FUSE_INIT && sent_len == 40 + 16);
  o.flags = 0;
  o.max_write = 5000;
  reply(0, &o, sizeof(o));
  CHECK(virtiofs_init() == 0 && max_read == 32 * 4096 && max_write == 4096);
  o.max_write = 0;
  o.flags = FUSE_MAX_PAGES;
  o.max_pages = 65535;
  reply(0, &o, sizeof(o));
  CHECK(virtiofs_init() == 0 && max_read == 1 << 20 && max_write == 4096);
  o.minor = 26;
  reply(0, &o, sizeof(o));
  CHECK(virtiofs_init() == -EIO);
  o.major = 8;
  o.minor = 40;
  reply(0, &o, sizeof(o));
  CHECK(virtiofs_init() == -EIO);
  reply(0, &o, 20);
  CHECK(virtiofs_init() == -EIO);
  o = (struct fuse_init_out){ .major = 7, .minor = 38, .max_write = 1 << 20, .flags = FUSE_MAX_PAGES, .max_pages = 256 };
  reply(0, &o, sizeof(o));
  CHECK(virtiofs_init() == 0);
}

static void test_errors(void) {
  struct host_entry e;
  static const struct { s32 from; int to; } map[] = { { -2, -ENOENT }, { -13, -EACCES }, { -133, -133 }, { -134, -EIO }, { -512, -EIO }, { -4095, -EIO },
    { 2, -EIO }, { INT32_MIN, -EIO }, { INT32_MAX, -EIO }, { -38, -EOPNOTSUPP } };
  for (size_t i = 0; i < ARRAY_SIZE(map); i++) {
    reply(map[i].from, NULL, 0);
    CHECK(virtiofs_lookup(1, "x", 1, &e) == map[i].to);
  }
  transport_error = -ERESTARTSYS;
  CHECK(virtiofs_lookup(1, "x", 1, &e) == -ERESTARTNOINTR); // a program never sees EINTR from a file
  transport_error = 0;
}

static void test_entries(void) {
  struct host_entry out;
  struct fuse_entry_out e = entry(7, S_IFREG | 0644);
  CHECK(lookup_with(&e, &out) == 0 && out.nodeid == 7 && out.attr.size == 100);
  CHECK(out.entry_valid_until == mock_now_ns + NS_PER_SEC && out.attr_valid_until == mock_now_ns + 2 * NS_PER_SEC);
  CHECK(sent.opcode == FUSE_LOOKUP && sent.nodeid == 1 && sent_len == 45 && !memcmp(sent_bytes + 40, "name", 5));
  e.entry_valid = ~0ull; // for ever, without overflow
  CHECK(lookup_with(&e, &out) == 0 && out.entry_valid_until > 1ull << 62);
  e = entry(0, 0);
  CHECK(lookup_with(&e, &out) == -ENOENT && out.nodeid == 0);
#define BAD(change) do { e = entry(7, S_IFREG | 0644); change; CHECK(lookup_with(&e, &out) == -EIO); } while (0)
  BAD(e.nodeid = VIRTIOFS_ROOT);
  BAD(e.attr.mode = 0644);
  BAD(e.attr.mode = S_IFMT | 0644);
  BAD(e.attr.mode |= 0x100000);
  BAD(e.attr.size = 1ull << 63);
  BAD(e.attr.blocks = ~0ull);
  BAD(e.attr.mtimensec = 1000000000);
  for (u32 n = 0; n < sizeof(e); n++) {
    e = entry(7, S_IFREG);
    reply(0, &e, n);
    CHECK(virtiofs_lookup(1, "x", 1, &out) == -EIO);
  }
  char longname[255];
  memset(longname, 'n', sizeof(longname));
  e = entry(7, S_IFDIR | 0755);
  reply(0, &e, sizeof(e));
  CHECK(virtiofs_mkdir(3, longname, sizeof(longname), 0755, &out) == 0 && sent_len == 40 + 8 + 256);
  reply(0, &e, sizeof(e));
  CHECK(virtiofs_symlink(3, "l", 1, "to/there", &out) == 0 && !memcmp(sent_bytes + 40, "l\0to/there", 11));
}

static void test_data(void) {
  char buf[PATH_MAX];
  reply(0, "target", 6);
  CHECK(virtiofs_readlink(5, buf, sizeof(buf)) == 6 && !memcmp(buf, "target", 6));
  reply(0, "tar\0et", 6);
  CHECK(virtiofs_readlink(5, buf, sizeof(buf)) == -EIO);
  reply(0, NULL, 0);
  CHECK(virtiofs_readlink(5, buf, sizeof(buf)) == -EIO);
  struct mock_page *m = calloc(2, sizeof(*m));
  struct page *pages[2] = { &m[0].page, &m[1].page };
  char data[8192];
  memset(data, 7, sizeof(data));
  reply(0, data, 5000);
  CHECK(virtiofs_read(5, 1, 0, pages, 2, 8192) == 5000 && m[0].data[4095] == 7 && m[1].data[903] == 7 && m[1].data[904] == 0);
  static const struct { s32 from; int to; } map[] = { { -2, -EIO }, { -20, -EIO }, { -5, -EIO }, { -13, -EACCES } };
  for (size_t i = 0; i < ARRAY_SIZE(map); i++) { // what is open is not missing
    reply(map[i].from, NULL, 0);
    CHECK(virtiofs_read(5, 1, 0, pages, 2, 8192) == map[i].to);
  }
  struct fuse_write_out w = { .size = 5000 };
  reply(0, &w, sizeof(w));
  CHECK(virtiofs_write(5, 1, 0, pages, 0, 5000) == 0 && sent_len == 80 + 5000);
  w.size = 4999;
  reply(0, &w, sizeof(w));
  CHECK(virtiofs_write(5, 1, 0, pages, 0, 5000) == -EIO);
  w.size = 5001;
  reply(0, &w, sizeof(w));
  CHECK(virtiofs_write(5, 1, 0, pages, 0, 5000) == -EIO);
  free(m);
  struct fuse_getxattr_out x = { .size = 12 };
  reply(0, &x, sizeof(x));
  CHECK(virtiofs_getxattr(5, "user.a", NULL, 0) == 12);
  x.size = 1 << 20;
  reply(0, &x, sizeof(x));
  CHECK(virtiofs_getxattr(5, "user.a", NULL, 0) == -EIO);
  reply(0, "value", 5);
  CHECK(virtiofs_getxattr(5, "user.a", buf, 10) == 5);
  reply(0, NULL, 0);
  CHECK(virtiofs_setxattr(5, "user.a", "v", 1, 0) == 0 && sent_len == 40 + 8 + 7 + 1);
}

static void test_listings(void) {
  u8 buf[256] = { 0 };
  struct fuse_dirent d = { .ino = 3, .off = 1, .namelen = 3, .type = DT_REG }, got;
  const char *name;
  size_t pos = 0;
  memcpy(buf, &d, 24);
  memcpy(buf + 24, "abc", 3);
  d.namelen = 2;
  memcpy(buf + 32, &d, 24);
  memcpy(buf + 56, "xy", 2);
  CHECK(virtiofs_dirent(buf, 58, &pos, &got, &name) && got.namelen == 3 && !memcmp(name, "abc", 3) && pos == 32);
  CHECK(virtiofs_dirent(buf, 58, &pos, &got, &name) && !memcmp(name, "xy", 2) && pos == 58); // the last one without padding
  CHECK(!virtiofs_dirent(buf, 58, &pos, &got, &name));
  for (size_t n = 0; n < 27; n++) { // cut anywhere
    pos = 0;
    u8 *exact = malloc(n ? n : 1);
    memcpy(exact, buf, n);
    CHECK(!virtiofs_dirent(exact, n, &pos, &got, &name));
    free(exact);
  }
  static const u32 lengths[] = { 0, 256, 0xffffffff, 0xfffffff0, 100000 };
  for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
    memcpy(buf + 16, &lengths[i], 4);
    pos = 0;
    CHECK(!virtiofs_dirent(buf, sizeof(buf), &pos, &got, &name));
  }
  u32 three = 3;
  memcpy(buf + 16, &three, 4);
  buf[25] = '/';
  pos = 0;
  CHECK(!virtiofs_dirent(buf, sizeof(buf), &pos, &got, &name));
  buf[25] = 0;
  CHECK(!virtiofs_dirent(buf, sizeof(buf), &pos, &got, &name));
}

int main(void) {
  test_init();
  test_errors();
  test_entries();
  test_data();
  test_listings();
  return UNIT_END("fs_virtiofs");
}

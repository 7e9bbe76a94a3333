// SPDX-License-Identifier: Apache-2.0
// Trusted bytes on their way into the page cache, from a host that cuts its answers where it likes, chooses how much is
// asked for at once, and lies the second time: what is in the cache is the file, or nothing is.
#include "dev_mock.h"
#include <sys/stat.h> // <linux/stat.h> defines no modes beside glibc
#undef RENAME_NOREPLACE
#undef RENAME_EXCHANGE
#undef RENAME_WHITEOUT
#include "../../kernel/lib/sha2.c"
#include "../../kernel/fs/verify.c"
#define sched_yield_if_needed mock_yield
static inline void mock_yield(void) {}
#include "../../kernel/fs/hostfs_file.c"
#include "../../kernel/fs/hostfs_dir.c"

struct policy policy;
u64 virtiofs_changes;
#define FILE_PAGES 24u
static u8 file_bytes[FILE_PAGES * PAGE_SIZE];
static struct page *cache[FILE_PAGES + 8];
static u32 max_read_bytes, reads;
static u64 cut_at;               // an answer that would pass this offset ends there, the next at its page's end; 0: none
static bool lies_later;          // every offset is answered rightly once
static u8 answered[FILE_PAGES * PAGE_SIZE];

u32 virtiofs_max_read(void) { return max_read_bytes; }
u32 virtiofs_max_write(void) { return max_read_bytes; }
static u32 releases;
static struct file *last_writer; // closed while a request is under way that names its handle
static void writer_goes(void) {
  if (!last_writer) return;
  hostfs_release(last_writer);
  CHECK(!releases);
}
long virtiofs_read(u64 node, u64 fh, u64 off, struct page **pages, unsigned n, u32 len) {
  CHECK(len <= n * PAGE_SIZE && len <= max_read_bytes && ++reads < 1000);
  writer_goes();
  if (off >= sizeof(file_bytes)) return 0;
  u64 got = MIN((u64)len, sizeof(file_bytes) - off);
  if (cut_at > off && off + got > cut_at) got = cut_at - off;
  if (cut_at == off && off % PAGE_SIZE) got = MIN(got, PAGE_SIZE - off % PAGE_SIZE);
  for (u64 at = 0; at < got; at++) {
    if (at % PAGE_SIZE == 0) CHECK(!page_test(pages[at / PAGE_SIZE], PG_UPTODATE)); // what was shown is never written to again
    page_bytes(pages[at / PAGE_SIZE])[at % PAGE_SIZE] = file_bytes[off + at] ^ (lies_later && answered[off + at] ? 0xff : 0);
    answered[off + at] = 1;
  }
  return (long)got;
}
static int opendir_error, readdir_error;
int virtiofs_open(u64 node, u32 flags, bool dir, u64 *fh, u32 *open_flags) { *fh = 1; return dir ? opendir_error : 0; }
long virtiofs_readdir(u64 node, u64 fh, u64 off, void *buf, u32 size) { return readdir_error; }
bool virtiofs_dirent(const u8 *buf, size_t len, size_t *pos, struct fuse_dirent *d, const char **name) { return false; }
struct spinlock dcache_lock;
struct trusted_node *trusted_child(const struct trusted_node *dir, const char *name, size_t len) { return NULL; }
bool allowed_path(const char *path) { return false; }
bool allowed_below(const char *path) { return false; }
void virtiofs_release(u64 node, u64 fh, u32 flags, bool dir) { releases++; }
int virtiofs_write(u64 node, u64 fh, u64 off, struct page **pages, u32 first_off, u32 len) { return -EIO; }
int virtiofs_fsync(u64 node, u64 fh, bool data_only, bool dir) {
  writer_goes();
  return 0;
}
static u32 host_links, asked_links;
int virtiofs_getattr(u64 node, const u64 *fh, struct host_entry *out) {
  asked_links++;
  out->attr.nlink = host_links;
  return 0;
}
int virtiofs_fallocate(u64 node, u64 fh, u32 mode, u64 off, u64 len) { return -EIO; }
int hnode_resolve(struct hnode *h) { return 0; }
int hostfs_refresh(struct inode *i, bool force) { return 0; }
void hnode_log(struct hnode *h, enum log_level level, const char *format) {}

struct page *page_alloc(unsigned order, unsigned flags) { // fresh memory is zeroed: a host may know what it holds
  struct mock_page *m = calloc(1, sizeof(*m));
  ref_init(&m->page.refs);
  return &m->page;
}
void page_put(struct page *p) { if (ref_put(&p->refs)) free(p); }
int pagecache_insert(struct inode *i, u64 index, struct page *p) {
  CHECK(index < FILE_PAGES && page_test(p, PG_UPTODATE));
  if (cache[index]) return -EEXIST;
  cache[index] = p;
  ref_get(&p->refs);
  return 0;
}
void pagecache_end_read(struct page **pages, unsigned n, int err) {
  for (unsigned k = 0; k < n && !err; k++) page_set_flag(pages[k], PG_UPTODATE);
}
static u32 writebacks;
int pagecache_writeback(struct inode *i, u64 first, u64 last) { writebacks++; return 0; }
int pagecache_fsync(struct file *f, u64 start, u64 len, bool data_only) { return 0; }
void pagecache_truncate(struct inode *i, u64 size) {}
void pagecache_remove_range(struct inode *i, u64 first, u64 last) {}
void pagecache_zero_range(struct inode *i, u64 from, u64 to) {}
long pagecache_read(struct file *f, struct iter *it, u64 *pos) { return 0; }
long pagecache_write(struct file *f, struct iter *it, u64 *pos) { return 0; }
int pagecache_mmap(struct file *f, struct mmap_request *rq) { return 0; }
long file_seek_generic(struct file *f, s64 off, int whence) { return 0; }
int fs_truncate(struct dentry *d, u64 size, struct file *f) { return 0; }
long dentry_string(struct dentry *d, char *buf, size_t size) { return -1; }
struct file *path_open(int at, const char *name, u32 flags, u32 mode) { return err_ptr(-ENOENT); }
long file_read_at(struct file *f, void *buf, size_t n, u64 pos) { return -EIO; }
void file_put(struct file *f) {}

static struct trusted_node node = { .kind = TRUSTED_FILE };
static struct inode inode;
static struct hnode hnode;
static void start(u64 file_size) {
  for (u32 k = 0; k < ARRAY_SIZE(cache); k++) {
    if (cache[k]) page_put(cache[k]);
    cache[k] = NULL;
  }
  if (hnode.vstate == VERIFY_READY) kfree((void *)(uintptr_t)hnode.verify.digests);
  memset(&hnode, 0, sizeof(hnode));
  memset(answered, 0, sizeof(answered));
  inode = (struct inode){ .priv = &hnode, .mode = S_IFREG | 0644, .size = file_size };
  hnode = (struct hnode){ .inode = &inode, .right = RIGHT_TRUSTED, .trusted = &node };
  waitq_init(&hnode.verify_wait);
  cut_at = reads = 0;
  lies_later = false;
}
static unsigned cached_right(void) { // how many pages are there; each must be the file's
  unsigned n = 0;
  for (u32 k = 0; k < FILE_PAGES; k++) {
    if (!cache[k] || !page_test(cache[k], PG_UPTODATE)) continue;
    CHECK(!memcmp(page_bytes(cache[k]), file_bytes + k * PAGE_SIZE, PAGE_SIZE));
    n++;
  }
  return n;
}

// An answer that ends inside a page, and the next one at that page's border.
static void test_cut_answers(void) {
  sha256_hash(file_bytes, sizeof(file_bytes), node.sha256);
  for (u64 cut = 0; cut < 6 * PAGE_SIZE; cut += 333) {
    start(0);
    max_read_bytes = 2 * PAGE_SIZE;
    cut_at = cut;
    CHECK(hostfs_verify(&hnode) == 0 && inode.size == sizeof(file_bytes));
    CHECK(cached_right() == (cut % PAGE_SIZE ? cut / PAGE_SIZE : FILE_PAGES));
  }
}

// How much is asked for at once is the host's choice: whatever it is, a leaf is hashed when all of it was read.
static void test_steps(void) {
  for (u32 step = 1; step <= 17; step++) {
    start(0);
    max_read_bytes = step * (u32)PAGE_SIZE;
    CHECK(hostfs_verify(&hnode) == 0);
    for (u32 k = 0; k < FILE_PAGES; k++)
      if (cache[k]) page_put(cache[k]), cache[k] = NULL;
    memset(answered, 0, sizeof(answered));
    for (u32 k = 0; k < FILE_PAGES; k++) cache[k] = page_alloc(0, 0); // as read-ahead puts them there
    lies_later = true; // nobody may ask twice
    CHECK(hostfs_read_pages(&inode, cache, FILE_PAGES, 0) == 0);
    CHECK(cached_right() == FILE_PAGES);
    for (u32 k = 0; k < FILE_PAGES; k++) page_put(cache[k]), cache[k] = page_alloc(0, 0);
    CHECK(hostfs_read_pages(&inode, cache, FILE_PAGES, 0) == -EIO && cached_right() == 0);
  }
}

// Unlinked while it is dirty: its data is given up only when the host has no name for it either.
static void test_nameless(void) {
  struct file f = { .inode = &inode, .flags = O_RDWR };
  for (u32 links = 0; links < 3; links++) {
    start(PAGE_SIZE);
    hnode.right = RIGHT_ALLOWED;
    CHECK(write_handle(&hnode, true) == 0);
    inode.nlink = links == 2;
    inode.nr_dirty = 1;
    host_links = links;
    asked_links = writebacks = 0;
    hostfs_release(&f);
    CHECK(asked_links == (links < 2) && writebacks == !!links && inode.nlink == !!links);
  }
}

// What is asked before our WRITE is answered, and handled later, is older than our change.
static void test_changed(void) {
  start(PAGE_SIZE);
  hnode.right = RIGHT_ALLOWED;
  struct page *p = page_alloc(0, 0);
  u64 asked = virtiofs_changes;
  CHECK(hostfs_write_pages(&inode, &p, 1, 0) == -EIO && asked < hnode.changed && hnode.changed == virtiofs_changes);
  page_put(p);
}

// The last close while the flusher's WRITEs are on their way: they name the handle, so it stays.
static void test_close(void) {
  start(0);
  hnode.right = RIGHT_ALLOWED;
  struct file f = { .inode = &inode, .flags = O_RDWR };
  for (int busy = 1; busy >= 0; busy--) {
    CHECK(write_handle(&hnode, true) == 0 && hnode.writers == 1);
    inode.wb_busy = (u32)busy;
    releases = 0;
    hostfs_release(&f);
    CHECK(releases == !busy && hnode.has_wr == busy && !hnode.writers);
  }
  // and under the request of somebody else that names it, which closes it then
  struct super super = { 0 };
  struct file reader = { .inode = &inode, .flags = O_RDONLY };
  inode.super = &super;
  CHECK(write_handle(&hnode, true) == 0);
  releases = 0;
  last_writer = &f;
  CHECK(hostfs_fsync(&reader, 0, ~0ull, false) == 0 && releases == 1 && !hnode.has_wr && !hnode.pins);
  CHECK(write_handle(&hnode, true) == 0);
  releases = 0;
  struct page *p = page_alloc(0, 0);
  CHECK(hostfs_read_pages(&inode, &p, 1, 0) == 0 && releases == 1 && !hnode.has_wr && !hnode.pins && !hnode.has_rd);
  page_put(p);
  last_writer = NULL;
}

// A host that says of a directory of the policy that it is not there: for readdir() of the C libraries that is its end.
static bool count_names(struct dirent_sink *s, const char *name, size_t len, u64 ino, u8 type, u64 next_pos) { return true; }
static void test_listing(void) {
  static struct trusted_node child = { .name = "rules", .name_len = 5, .kind = TRUSTED_FILE, .id = 2 };
  static struct trusted_node dir = { .kind = TRUSTED_DIR, .children = &child, .child_count = 1, .id = 1 };
  struct dentry d = { 0 };
  struct dirent_sink sink = { .emit = count_names };
  for (int k = 0; k < 12; k++) {
    bool trusted = k < 6;
    start(0);
    inode.mode = S_IFDIR | 0755;
    hnode.right = trusted ? RIGHT_TRUSTED : RIGHT_ALLOWED;
    hnode.trusted = trusted ? &dir : NULL;
    hnode.allowed = true; // the host has something to add
    int error = (int[]){ 0, -ENOENT, -EIO }[k % 3];
    opendir_error = k / 3 % 2 ? error : 0;
    readdir_error = k / 3 % 2 ? 0 : error;
    struct file f = { .inode = &inode, .dentry = &d };
    u64 pos = 0;
    int r = hostfs_readdir(&f, &sink, &pos);
    CHECK(r == (trusted && error == -ENOENT ? 0 : error) && (r || pos == (trusted ? 3u : 2u)));
    dir_release(&f);
  }
}

int main(void) {
  for (size_t i = 0; i < sizeof(file_bytes); i++) file_bytes[i] = (u8)unit_random();
  // Zeroes behind the first page of the second leaf: what fresh pages hold before anything is read into them.
  memset(file_bytes + 5 * PAGE_SIZE, 0, 3 * PAGE_SIZE);
  test_cut_answers();
  test_steps();
  test_close();
  test_changed();
  test_nameless();
  test_listing();
  start(0);
  return UNIT_END("fs_hostfs");
}

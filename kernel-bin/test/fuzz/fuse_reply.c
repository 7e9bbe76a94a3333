// SPDX-License-Identifier: Apache-2.0
// Any bytes as the answer to any FUSE request, and as a directory listing.
#include "virtiofs_mock.h"

int LLVMFuzzerTestOneInput(const u8 *data, size_t size) {
  static struct mock_page page_mem[4];
  struct page *pages[4] = { &page_mem[0].page, &page_mem[1].page, &page_mem[2].page, &page_mem[3].page };
  struct host_entry e;
  struct kstatfs st;
  struct fuse_setattr_in in = { 0 };
  struct fuse_dirent d;
  const char *name;
  char buf[512];
  u64 fh;
  s32 error = 0;
  if (size < 5) return 0;
  if (data[0] & 0x80) memcpy(&error, data + 1, 4);
  reply(error, data + 5, (u32)size - 5);
  max_read = max_write = 1 << 20;
  switch (data[0] & 0x0f) {
  case 0: if (virtiofs_init() == 0 && (max_read % PAGE_SIZE || max_write % PAGE_SIZE || !max_read || !max_write || max_read > 1 << 20)) abort(); break;
  case 1: if (virtiofs_lookup(1, "x", 1, &e) == 0 && (!e.nodeid || e.attr.size > INT64_MAX)) abort(); break;
  case 2: if (virtiofs_getattr(5, NULL, &e)) {} break;
  case 3: if (virtiofs_setattr(5, &in, &e)) {} break;
  case 4: { long n = virtiofs_readlink(5, buf, sizeof(buf)); if (n > (long)sizeof(buf) || n < -4095) abort(); break; }
  case 5: if (virtiofs_open(5, 0, false, &fh, NULL)) {} break;
  case 6: { long n = virtiofs_read(5, 1, 0, pages, 4, 16384); if (n > 16384) abort(); break; }
  case 7: if (virtiofs_write(5, 1, 0, pages, 0, 100)) {} break;
  case 8: { long n = virtiofs_readdir(5, 1, 0, buf, sizeof(buf)); if (n > (long)sizeof(buf)) abort(); break; }
  case 9: if (virtiofs_create(5, "x", 1, 0644, 2, &e, &fh)) {} break;
  case 10: if (virtiofs_statfs(5, &st)) {} break;
  case 11: { long n = virtiofs_getxattr(5, "user.x", buf, data[1]); if (n > (data[1] ? data[1] : 65536)) abort(); break; }
  default:
    for (size_t pos = 0, was; was = pos, virtiofs_dirent(data + 5, size - 5, &pos, &d, &name);) {
      if (pos <= was || pos > size - 5 || (const u8 *)name + d.namelen > data + size) abort();
    }
  }
  return 0;
}

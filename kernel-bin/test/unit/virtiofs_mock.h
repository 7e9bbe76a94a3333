// SPDX-License-Identifier: Apache-2.0
// fs/virtiofs.c over a transport of canned answers: what was sent can be looked at, and reply() says what comes back.
#ifndef VIRTIOFS_MOCK_H
#define VIRTIOFS_MOCK_H
#include "dev_mock.h"
#include <sys/stat.h> // <linux/stat.h> defines no modes beside glibc
#undef RENAME_NOREPLACE
#undef RENAME_EXCHANGE
#undef RENAME_WHITEOUT
#include "../../kernel/fs/virtiofs.c"

static const struct cred root_cred;
static const struct cred *as_root(void) { return &root_cred; }
const struct cred *(*cred_current)(void) = as_root;

static struct fuse_in_header sent;
static u8 sent_bytes[1 << 16];
static u32 sent_len;
static u8 *answer;
static u32 answer_len;
static s32 answer_error;
static int transport_error;

static void reply(s32 error, const void *data, u32 n) {
  free(answer);
  answer = malloc(n ? n : 1);
  if (n) memcpy(answer, data, n);
  answer_len = n;
  answer_error = error;
}

u32 fsdev_max_data(void) { return 1 << 20; }
void fsdev_forget(const void *in, u32 in_len) {}
int fsdev_call(struct fuse_req_io *io, int mode) {
  memcpy(&sent, io->in, sizeof(sent));
  memcpy(sent_bytes, io->in, io->in_len);
  if (io->in2_len) memcpy(sent_bytes + io->in_len, io->in2, io->in2_len);
  sent_len = io->in_len + io->in2_len + io->in_pages_len;
  if (transport_error) return transport_error;
  // As drv/fsdev.c does: no more than there is room for, the rest of the room untouched.
  u32 room = io->out_cap - (u32)sizeof(struct fuse_out_header), n = MIN(answer_len, room + io->out_pages_len);
  struct fuse_out_header h = { .len = (u32)sizeof(h) + n, .error = answer_error };
  memcpy(io->out, &h, sizeof(h));
  memcpy((u8 *)io->out + sizeof(h), answer, MIN(n, room));
  for (u32 at = MIN(n, room), i = 0; at < n; i++) {
    u32 part = MIN(n - at, (u32)PAGE_SIZE);
    memcpy(page_bytes(io->out_pages[i]), answer + at, part);
    at += part;
  }
  io->out_len = h.len;
  return 0;
}
#endif

// SPDX-License-Identifier: Apache-2.0
// The Internet half of the net room, natively, on a vsock device that the test plays: what the kernel sends is collected
// in `sent`, what the test injects arrives as from the host.
#ifndef NET_MOCK_H
#define NET_MOCK_H
#include "file_mock.h"
#include <sys/stat.h> // <linux/stat.h> defines no modes beside glibc
#include "net/inet.h"
#include "../../kernel/file/iter.c"
#include "../../kernel/file/file.c"
#include "../../kernel/net/socket.c"
#include "../../kernel/net/stream.c"
#include "../../kernel/net/vsock.c"
#include "../../kernel/net/inet_addr.c"
#include "../../kernel/net/inet_opt.c"
#define ports tcp_ports
#define ids tcp_ids
#define ids_lock tcp_ids_lock
#define next_id tcp_next_id
#define id_find tcp_id_find
#include "../../kernel/net/inet.c"
#undef ports
#undef ids
#undef ids_lock
#undef next_id
#undef id_find
#undef ID_BUCKETS
#undef MSG_ERRQUEUE_
#define take udp_take
#include "../../kernel/net/udp.c"
#undef take
#define control control_channel
#include "../../kernel/net/control.c"
#undef control

// --- what is around the room
static struct cred mock_cred;
static const struct cred *cred_now(void) { return &mock_cred; }
const struct cred *(*cred_current)(void) = cred_now;
u64 vm_memory_bytes = 256 * MIB;
struct policy policy;
u64 random_u64(void) { return unit_random(); }
void unix_init(void) {}
void netlink_init(void) {}
long netdev_ioctl(u32 cmd, uptr arg) { return -ENOTTY; }
void tty_set_winsize(u16 rows, u16 cols) {}
void epoll_file_closed(struct file *f) {}
void epoll_init(void) {}
void pipe_init(void) {}
u32 inotify_active;
size_t strlcpy(char *dst, const char *src, size_t size) {
  snprintf(dst, size, "%s", src);
  return strlen(src);
}
static unsigned mock_log_lines;
void printk(enum log_level level, const char *fmt, ...) { mock_log_lines++; }
enum log_level log_level = LOG_NONE;

// --- the device
#define CID 3u
struct sent { struct sent *next; struct vsock_hdr h; u32 len; u8 data[]; };
static struct sent *sent_first, **sent_end = &sent_first;
static struct spinlock mock_dev_lock;
static const struct vsockdev_ops *mock_ops;
static bool mock_present = true;
static u32 mock_pages = 128, mock_used;   // pages: what the device has room for
static bool mock_short;
static __thread u8 *mock_tx_page;
void vsockdev_set_ops(const struct vsockdev_ops *ops) { mock_ops = ops; }
bool vsockdev_present(void) { return mock_present; }
u64 vsockdev_guest_cid(void) { return CID; }
void vsockdev_kick(void) {}
bool vsockdev_usable_in_panic(void) { return mock_present; }
void vsockdev_drain_in_panic(void) {}
static bool mock_take(struct vsockdev_tx *t, u32 pages) {
  spin_lock(&mock_dev_lock);
  t->n = (u8)MIN(pages, mock_pages - MIN(mock_pages, mock_used));
  mock_used += t->n;
  if (!t->n) mock_short = true;
  spin_unlock(&mock_dev_lock);
  if (t->n) {
    free(mock_tx_page);
    mock_tx_page = malloc(t->n * 4096u); // exact: ASan sees a write past it
  }
  return t->n != 0;
}
static void (*mock_meanwhile)(void); // what another CPU does while this one sends, once
static void mock_others_turn(void) {
  void (*fn)(void) = mock_meanwhile;
  mock_meanwhile = NULL;
  if (fn) fn();
}
u32 vsockdev_reserve(struct vsockdev_tx *t, u32 bytes) {
  t->room = 0;
  if (mock_present && mock_take(t, MIN((bytes + 44 + 4095) / 4096, VSOCKDEV_TX_PIECES))) t->room = MIN(bytes, t->n * 4096u - 44);
  u8 *page = mock_tx_page;
  mock_tx_page = NULL; // the other has its own
  mock_others_turn();
  free(mock_tx_page);
  mock_tx_page = page;
  return t->room;
}
bool vsockdev_reserve_header(struct vsockdev_tx *t) {
  t->room = 0;
  bool ok = mock_present && mock_take(t, 1);
  mock_others_turn();
  return ok;
}
u8 *vsockdev_piece(const struct vsockdev_tx *t, u32 off, u32 *len) {
  ASSERT(off < t->room);
  u32 at = off + 44;
  *len = MIN(4096u - at % 4096u, t->room - off);
  return mock_tx_page + at;
}
void vsockdev_commit(struct vsockdev_tx *t, const u8 hdr[44], u32 len) {
  ASSERT(t->n && len <= t->room);
  struct sent *s = malloc(sizeof(*s) + len);
  memcpy(&s->h, hdr, 44);
  s->len = len;
  s->next = NULL;
  if (len) memcpy(s->data, mock_tx_page + 44, len);
  ASSERT(s->h.len == len);
  spin_lock(&mock_dev_lock);
  *sent_end = s;
  sent_end = &s->next;
  mock_used -= t->n; // "used" at once: the test plays a full device with mock_pages
  spin_unlock(&mock_dev_lock);
  t->n = 0;
}
void vsockdev_release(struct vsockdev_tx *t) {
  spin_lock(&mock_dev_lock);
  mock_used -= t->n;
  spin_unlock(&mock_dev_lock);
  t->n = 0;
}
static __unused void mock_room(u32 pages) { // the device has room (again)
  mock_pages = pages;
  if (pages && __atomic_exchange_n(&mock_short, false, __ATOMIC_SEQ_CST)) mock_ops->tx_space();
}
void shared_read(void *dst, const struct shared_buf *b, u32 off, u32 n) {
  ASSERT(off <= b->len_bytes && n <= b->len_bytes - off);
  memcpy(dst, b->va + off, n);
}
// A packet from the host; the buffer is exactly as long as what the device wrote.
static void inject(const struct vsock_hdr *h, const void *data, u32 len) {
  u8 *copy = malloc(len + 1);
  if (len) memcpy(copy, data, len);
  struct shared_buf b = { copy, 0, len };
  mock_ops->rx((const u8 *)h, &b, 0, len);
  free(copy);
}
// The next packet that the kernel sent, or NULL; the caller frees it.
static struct sent *next_sent(void) {
  spin_lock(&mock_dev_lock);
  struct sent *s = sent_first;
  if (s) {
    sent_first = s->next;
    if (!sent_first) sent_end = &sent_first;
  }
  spin_unlock(&mock_dev_lock);
  return s;
}
static __unused u32 drop_sent(void) {
  u32 n = 0;
  for (struct sent *s; (s = next_sent()); n++) free(s);
  return n;
}
#endif

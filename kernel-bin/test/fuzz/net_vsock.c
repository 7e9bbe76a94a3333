// SPDX-License-Identifier: Apache-2.0
// Packets from the host against the kernel's vsock, TCP and control code. The input is a list of records: a header byte
// that says which connection and how honest, then the fields; what remains of the kernel's state must still come apart.
#include "../unit/net_mock.h"

static u32 control_port, hports[4], next_peer = 70000, listen_id;
static struct socket *l, *a[4];

static struct vsock_hdr hdr_for(u32 gport, u32 hport, u16 op, u32 len, u32 buf, u32 fwd) {
  return (struct vsock_hdr){ 2, CID, hport, gport, len, 1, op, 0, buf, fwd };
}

static void setup(void) {
  net_init();
  struct sent *s = next_sent();
  control_port = s->h.src_port;
  free(s);
  struct vsock_hdr h = hdr_for(control_port, WIRE_PORT_CONTROL, VSOCK_OP_RESPONSE, 0, 1 << 30, 0);
  inject(&h, NULL, 0);
  int err;
  struct sockaddr_k any = { .family = AF_INET };
  l = socket_create(AF_INET, SOCK_STREAM, 0, &err);
  ASSERT(l->ops->bind(l, &any, 16) == 0 && l->ops->listen(l, 1000) == 0);
  listen_id = tsock(l)->id;
  drop_sent();
}

static void open_one(int i) {
  hports[i] = next_peer++;
  struct vsock_hdr h = hdr_for(WIRE_PORT_DATA, hports[i], VSOCK_OP_REQUEST, 0, 65536, 0);
  inject(&h, NULL, 0);
  struct wire_prefix p = { WIRE_PREFIX_MAGIC, WIRE_KIND_ACCEPTED, 0, listen_id, 0, { .family = 4, .port = 1 }, { .family = 4, .port = 2 } };
  h = hdr_for(WIRE_PORT_DATA, hports[i], VSOCK_OP_RW, sizeof(p), 65536, 0);
  inject(&h, &p, sizeof(p));
  ASSERT(l->ops->accept(l, &a[i], O_NONBLOCK_) == 0);
}

static bool (*const got[2])(const struct wire_head *h) = { control_got, dgram_got };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static bool once;
  if (!once) setup();
  once = true;
  u32 first = next_peer;
  for (int i = 0; i < 4; i++) open_one(i);
  const u8 *end = data + size;
  while (end - data >= 12) {
    u8 b[12];
    memcpy(b, data, 12);
    data += 12;
    u32 len = MIN((u32)(b[1] | b[2] << 8) % 6000, (u32)(end - data)), word;
    memcpy(&word, b + 8, 4);
    int i = b[0] & 3;
    struct vsock_hdr h = hdr_for(WIRE_PORT_DATA, hports[i], b[3] % 9, len, 65536, tsock(a[i])->st->tx_cnt);
    switch (b[0] >> 2 & 15) {
    case 0: h.len = word; break;
    case 1: h.fwd_cnt = word; break;
    case 2: h.buf_alloc = word; break;
    case 3: h.flags = word; break;
    case 4: if (h.op != VSOCK_OP_REQUEST) h.src_port = word; break;
    case 5: h.type = (u16)word; break;
    case 6: h.op = (u16)word; break;
    case 7: h.dst_port = h.op == VSOCK_OP_REQUEST ? h.dst_port : word; break;
    case 8: { struct msg m = { 0 }; static u8 buf[9000]; iter_kernel(&m.it, buf, word % sizeof(buf)); a[i]->ops->sendmsg(a[i], &m, MSG_DONTWAIT); break; }
    case 9: { struct msg m = { 0 }; static u8 buf[9000]; iter_kernel(&m.it, buf, word % sizeof(buf)); a[i]->ops->recvmsg(a[i], &m, MSG_DONTWAIT); break; }
    case 10: a[i]->ops->shutdown(a[i], (int)(word % 3)); break;
    case 11: mock_room(word & 1 ? 128 : 0); break;
    case 12: case 13: { // a message of the control or datagram stream, whole: its parser
      struct wire_head head = { (u32)sizeof(head) + len, (u16)(64 + b[4] % 20), 0, word };
      u8 *m = malloc(head.length);
      memcpy(m, &head, sizeof(head));
      memcpy(m + sizeof(head), data, len);
      (void)got[b[0] & 1]((void *)m);
      free(m);
      break;
    }
    default: break;
    }
    inject(&h, data, len);
    data += len;
  }
  for (int i = 0; i < 4; i++) socket_destroy(a[i]);
  mock_room(128);
  for (u32 p = first; p < next_peer; p++) {
    struct vsock_hdr h = hdr_for(WIRE_PORT_DATA, p, VSOCK_OP_RST, 0, 0, 0);
    inject(&h, NULL, 0);
  }
  drop_sent();
  ASSERT(READ_ONCE(closing_count) == 0);
  return 0;
}

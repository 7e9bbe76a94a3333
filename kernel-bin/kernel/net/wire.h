// SPDX-License-Identifier: Apache-2.0
//
// What travels between kernel and bridge (docs/bridge-protocol.md), shared by both: constants and structs only. All
// integers are little-endian; both sides are x86-64.
#ifndef NET_WIRE_H
#define NET_WIRE_H
#include <stdint.h>

// --- virtio-vsock (virtio 1.2, 5.10)
struct vsock_hdr {
  uint64_t src_cid, dst_cid;
  uint32_t src_port, dst_port;
  uint32_t len;
  uint16_t type, op;
  uint32_t flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
_Static_assert(sizeof(struct vsock_hdr) == 44, "virtio 1.2, 5.10.6");
enum { VSOCK_TYPE_STREAM = 1 };
enum { VSOCK_OP_INVALID, VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE, VSOCK_OP_RST, VSOCK_OP_SHUTDOWN, VSOCK_OP_RW,
       VSOCK_OP_CREDIT_UPDATE, VSOCK_OP_CREDIT_REQUEST };
enum { VSOCK_SHUTDOWN_RCV = 1, VSOCK_SHUTDOWN_SEND = 2 };
#define VSOCK_CID_HOST 2u
#define VSOCK_MAX_PAYLOAD 65536u

// --- streams
#define WIRE_PORT_CONTROL 1024u // of the host
#define WIRE_PORT_DGRAM 1025u   // of the host
#define WIRE_PORT_DATA 1025u    // of the guest: every stream that the bridge opens

// --- messages
#define WIRE_VERSION 1u
#define WIRE_HELLO_MAGIC 0x58445447u
#define WIRE_CONTROL_MAX 1024u
#define WIRE_DGRAM_MAX (65536u + 128u)
#define WIRE_UDP_MAX 65507u
#define WIRE_LAST_WORDS_MAX 512u
#define WIRE_BACKLOG_MAX 4096u
struct wire_head { uint32_t length; uint16_t type, zero; uint32_t id; };
struct wire_addr { uint16_t family, port; uint32_t scope; uint8_t ip[16]; }; // family: 0, 4 or 6
_Static_assert(sizeof(struct wire_head) == 12 && sizeof(struct wire_addr) == 24, "docs/bridge-protocol.md");
enum { // guest to bridge, control stream
  WIRE_HELLO = 1, WIRE_LISTEN, WIRE_UNLISTEN, WIRE_ACCEPTED, WIRE_CONNECT, WIRE_CANCEL, WIRE_EXIT, WIRE_LAST_WORDS,
  WIRE_UDP_OPEN = 16, WIRE_UDP_SEND, WIRE_UDP_CLOSE, // guest to bridge, datagram stream
  WIRE_HELLO_OK = 65, WIRE_CONNECT_FAILED, WIRE_SIGNAL, WIRE_WINSIZE, WIRE_EXIT_OK, WIRE_REFUSED, // bridge to guest
  WIRE_UDP_RECV = 80, WIRE_UDP_ERROR,
};
struct wire_hello { struct wire_head h; uint32_t magic; uint16_t lowest, highest; uint32_t zero; };
struct wire_hello_ok { struct wire_head h; uint16_t version, zero16; uint32_t zero; };
struct wire_u32 { struct wire_head h; uint32_t value; }; // ACCEPTED, EXIT, CONNECT_FAILED, SIGNAL, REFUSED
struct wire_listen { struct wire_head h; struct wire_addr addr; uint32_t backlog; };
struct wire_connect { struct wire_head h; struct wire_addr remote, local; };
struct wire_winsize { struct wire_head h; uint16_t rows, cols; };
struct wire_udp_open { struct wire_head h; struct wire_addr local; };
struct wire_udp_send { struct wire_head h; struct wire_addr remote; };        // payload follows
struct wire_udp_recv { struct wire_head h; struct wire_addr remote, local; }; // payload follows
struct wire_udp_error { struct wire_head h; struct wire_addr remote; uint32_t err; };

// --- the prefix of a stream that the bridge opens
#define WIRE_PREFIX_MAGIC 0x31535447u
enum { WIRE_KIND_ACCEPTED = 1, WIRE_KIND_CONNECTED = 2 };
struct wire_prefix { uint32_t magic; uint16_t kind, zero16; uint32_t id, zero; struct wire_addr peer, local; };
_Static_assert(sizeof(struct wire_prefix) == 64, "docs/bridge-protocol.md");
#endif

// SPDX-License-Identifier: Apache-2.0
//
// host: the only door to anything that the host can choose. Every read here returns a wrapped value that must be
// range-checked before it is used; every write goes to an address from a closed list. `make host-inputs` counts the
// call sites of the functions below marked INPUT.
#ifndef HOST_HOST_H
#define HOST_HOST_H
#include "arch/arch.h"

// Wrapped values: a struct with one hidden field, so that they do not add, index or compare.
typedef struct { u8 v_; } host_u8;
typedef struct { u16 v_; } host_u16;
typedef struct { u32 v_; } host_u32;
typedef struct { u64 v_; } host_u64;
// Opening a wrapper: the value when lo <= value <= hi, else false. Nothing else looks inside.
static inline bool __must_check host_range32(host_u32 w, u32 lo, u32 hi, u32 *out) { *out = w.v_; return w.v_ >= lo && w.v_ <= hi; }
static inline bool __must_check host_range64(host_u64 w, u64 lo, u64 hi, u64 *out) { *out = w.v_; return w.v_ >= lo && w.v_ <= hi; }
static inline bool __must_check host_range16(host_u16 w, u16 lo, u16 hi, u16 *out) { *out = w.v_; return w.v_ >= lo && w.v_ <= hi; }
static inline bool __must_check host_range8(host_u8 w, u8 lo, u8 hi, u8 *out) { *out = w.v_; return w.v_ >= lo && w.v_ <= hi; }
static inline u32 host_bits32(host_u32 w, u32 mask) { return w.v_ & mask; } // flags: only the named bits, any value
static inline u64 host_bits64(host_u64 w, u64 mask) { return w.v_ & mask; }
static inline bool host_equals32(host_u32 w, u32 expected) { return w.v_ == expected; }

// --- ports, MSRs, device memory (INPUT: the reads). TD: TDVMCALL; VM: the instruction. Closed lists in host/ports.c.
host_u8 host_in8(u16 port);
void host_out8(u16 port, u8 v);
void host_out16(u16 port, u16 v);
void host_out32(u16 port, u32 v);
struct host_mmio { volatile void *base; u64 len_bytes; phys_t phys; }; // made by host_mmio_map
int __must_check host_mmio_map(struct host_mmio *m, phys_t phys, u64 len_bytes); // uncached, shared
host_u8 host_mmio_read8(const struct host_mmio *m, u64 off);
host_u16 host_mmio_read16(const struct host_mmio *m, u64 off);
host_u32 host_mmio_read32(const struct host_mmio *m, u64 off);
host_u64 host_mmio_read64(const struct host_mmio *m, u64 off);
void host_mmio_write8(const struct host_mmio *m, u64 off, u8 v);
void host_mmio_write16(const struct host_mmio *m, u64 off, u16 v);
void host_mmio_write32(const struct host_mmio *m, u64 off, u32 v);
void host_mmio_write64(const struct host_mmio *m, u64 off, u64 v);

// --- the shared pool: the only memory that devices can reach. Converted once at boot; sized from RAM (RAM/16, at
// least 4 MiB, at most 64 MiB). Pieces are page-aligned and contiguous. Any context.
struct shared_buf { u8 *va; phys_t phys; u32 len_bytes; };
int __must_check shared_alloc(struct shared_buf *b, u32 len_bytes); // zeroed; -ENOMEM
void shared_free(struct shared_buf *b);
// Copies between private and shared memory. shared_read is INPUT: it copies once; parse the copy.
void shared_write(const struct shared_buf *b, u32 off, const void *src, u32 n);   // asserts off + n <= len: ours to know
void shared_read(void *dst, const struct shared_buf *b, u32 off, u32 n);
host_u16 shared_load16(const struct shared_buf *b, u32 off);  // one aligned load, acquire
host_u32 shared_load32(const struct shared_buf *b, u32 off);
void shared_store16(const struct shared_buf *b, u32 off, u16 v); // one aligned store, release
void shared_store32(const struct shared_buf *b, u32 off, u32 v);
void shared_store64(const struct shared_buf *b, u32 off, u64 v);

// --- the machine's end
__noreturn void host_power_off(void);
// The machine must not go on because of what it was given (by the host or the user): prints the text whatever the log
// level, tells the launcher, then TD: ReportFatalError; VM: power off. Our own bugs panic instead.
__noreturn void host_fatal(const char *text);
void host_serial_write(const char *text, size_t n);

#endif

// SPDX-License-Identifier: Apache-2.0
//
// lib: freestanding basics that every other room may use. Nothing here sleeps, takes a lock or knows the machine;
// everything may be called in any context and compiles natively for the unit tests.
#ifndef LIB_LIB_H
#define LIB_LIB_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef int64_t s64;
typedef u64 uptr;  // an address in a program's memory: never dereferenced, only given to uaccess
typedef u64 phys_t; // a physical (guest-physical, without the shared bit) address

#define __must_check __attribute__((warn_unused_result))
#define __noreturn __attribute__((noreturn))
#define __packed __attribute__((packed))
#define __aligned(n) __attribute__((aligned(n)))
#define __printf(f, a) __attribute__((format(printf, f, a)))
#define __weak __attribute__((weak))
#define __unused __attribute__((unused))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define barrier() __asm__ volatile("" ::: "memory")
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, member) ((type *)(void *)((char *)(p) - offsetof(type, member)))
#define LIB_PASTE_(a, b) a##b
#define LIB_PASTE(a, b) LIB_PASTE_(a, b)
#define LIB_PICK_(a, b, op, x, y) ({ __typeof__(a) x = (a); __typeof__(a) y = (b); x op y ? x : y; })
#define LIB_PICK(a, b, op, n) LIB_PICK_(a, b, op, LIB_PASTE(pick_a_, n), LIB_PASTE(pick_b_, n))
#define MIN(a, b) LIB_PICK(a, b, <, __COUNTER__) // both as a's type; nests
#define MAX(a, b) LIB_PICK(a, b, >, __COUNTER__)
#define ALIGN_UP(x, a) (((x) + ((__typeof__(x))(a) - 1)) & ~((__typeof__(x))(a) - 1))
#define ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a) - 1))
#define IS_ALIGNED(x, a) (((x) & ((__typeof__(x))(a) - 1)) == 0)
#define DIV_ROUND_UP(x, n) (((x) + (n) - 1) / (n))
#define BIT(n) (1ul << (n))

// a * b / c with a 128-bit product; the quotient must fit in 64 bits.
static inline u64 mul_div_u64(u64 a, u64 b, u64 c) {
  u64 lo, hi;
  __asm__("mulq %3" : "=a"(lo), "=d"(hi) : "a"(a), "rm"(b) : "cc");
  __asm__("divq %2" : "+a"(lo), "+d"(hi) : "rm"(c) : "cc");
  return lo;
}

#define KIB 1024ul
#define MIB (1024ul * KIB)
#define GIB (1024ul * MIB)
#define NS_PER_US 1000ul
#define NS_PER_MS 1000000ul
#define NS_PER_SEC 1000000000ul

// Pointers that may carry a negative errno.
static inline void *err_ptr(long err) { return (void *)err; }
static inline long ptr_err(const void *p) { return (long)p; }
static inline bool is_err(const void *p) { return (unsigned long)p >= (unsigned long)-4095; }

#include "lib/errno.h" // Linux's numbers, positive (EPERM ...), and the in-kernel ERESTART* ones
#include "lib/list.h"
#include "lib/rbtree.h"
#include "lib/radix.h"

// --- strings and memory (lib/string.c, lib/mem.S)
void *memcpy(void *restrict dst, const void *restrict src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
void *memchr(const void *s, int c, size_t n);
size_t strlen(const char *s);
size_t strnlen(const char *s, size_t max);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
char *strchr(const char *s, int c);
char *strrchr(const char *s, int c);
char *strstr(const char *s, const char *t);
// Copies at most size - 1 bytes and terminates. Returns strlen(src): truncated when that is >= size.
size_t strlcpy(char *dst, const char *src, size_t size);
void memzero_secret(void *p, size_t n); // not removed by the compiler
bool mem_equal_const_time(const void *a, const void *b, size_t n);

// --- formatting (lib/printf.c): %d %i %u %x %X %o %c %s %p %% with width, precision, 0, -, +, #, hh h l ll z j t
int vsnprintf(char *buf, size_t size, const char *fmt, va_list ap);
int snprintf(char *buf, size_t size, const char *fmt, ...) __printf(3, 4);

// --- the kernel's log (lib/printk.c). Any context. Lines go to the sink that boot installs (COM1) and to a ring.
enum log_level { LOG_NONE, LOG_ERROR, LOG_WARN, LOG_DEBUG, LOG_TRACE, LOG_ALL };
extern enum log_level log_level;
void printk(enum log_level level, const char *fmt, ...) __printf(2, 3);
void printk_set_sink(void (*sink)(const char *text, size_t len));
void printk_set_clock(u64 (*clock_ns)(void)); // lines get a time while the level is LOG_DEBUG or above
size_t printk_read_ring(char *buf, size_t size); // the newest bytes of the log, for a program's dmesg
void panic_set_stop(void (*stop)(const char *text)); // what panic does after printing; must not return
extern uintptr_t __stack_chk_guard;
__noreturn void __stack_chk_fail(void);
// Our own bug or a state that must not go on: prints, tells the launcher if it can, stops every CPU. Never for data
// that the host or the program chose.
__noreturn void panic(const char *fmt, ...) __printf(1, 2);
#define ASSERT(cond) do { if (unlikely(!(cond))) panic("%s:%d: assertion failed: %s", __FILE__, __LINE__, #cond); } while (0)

// --- atomics and reference counts
static inline u32 atomic_inc(u32 *p) { return __atomic_add_fetch(p, 1, __ATOMIC_SEQ_CST); }
static inline u32 atomic_dec(u32 *p) { return __atomic_sub_fetch(p, 1, __ATOMIC_SEQ_CST); }
struct refcount { u32 n; };
static inline void ref_init(struct refcount *r) { r->n = 1; }
static inline u32 ref_read(const struct refcount *r) { return __atomic_load_n(&r->n, __ATOMIC_RELAXED); }
static inline void ref_get(struct refcount *r) { ASSERT(__atomic_fetch_add(&r->n, 1, __ATOMIC_RELAXED) != 0); }
// True for the caller that dropped the last one: it must release.
static inline bool __must_check ref_put(struct refcount *r) {
  u32 old = __atomic_fetch_sub(&r->n, 1, __ATOMIC_ACQ_REL);
  ASSERT(old != 0);
  return old == 1;
}
// For lookups in a table whose entries hold no reference: false when the object is already dying.
static inline bool __must_check ref_get_unless_zero(struct refcount *r) {
  u32 n = ref_read(r);
  while (n && !__atomic_compare_exchange_n(&r->n, &n, n + 1, true, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {}
  return n != 0;
}

// --- bitmaps: u64 words, bit i is word i/64
static inline bool bit_test(const u64 *map, size_t i) { return (map[i / 64] >> (i % 64)) & 1; }
static inline void bit_set(u64 *map, size_t i) { map[i / 64] |= BIT(i % 64); }
static inline void bit_clear(u64 *map, size_t i) { map[i / 64] &= ~BIT(i % 64); }
size_t bit_find_zero(const u64 *map, size_t nbits, size_t from); // nbits when there is none

// --- digests (lib/sha2.c; FIPS 180-4) and ChaCha20 (lib/chacha.c; RFC 8439)
void sha2_use(bool bmi2, bool sha_ni); // arch says at boot what the CPU has
struct sha256 { u32 h[8]; u64 len_bytes; u8 block[64]; };
void sha256_init(struct sha256 *s);
void sha256_update(struct sha256 *s, const void *data, size_t n);
void sha256_final(struct sha256 *s, u8 out[32]);
void sha256_hash(const void *data, size_t n, u8 out[32]);
struct sha512 { u64 h[8]; u64 len_bytes; u8 block[128]; };
void sha384_init(struct sha512 *s);
void sha384_update(struct sha512 *s, const void *data, size_t n);
void sha384_final(struct sha512 *s, u8 out[48]);
void sha384_hash(const void *data, size_t n, u8 out[48]);
void chacha20_block(const u32 key[8], u32 counter, const u32 nonce[3], u8 out[64]);

// --- deterministic CBOR reader (lib/cbor.c; RFC 8949 4.2.1). Hostile input: every call checks; all return 0 or
// -EINVAL and leave the reader where the error is. Strings point into the input.
struct cbor { const u8 *p; const u8 *end; unsigned depth; };
enum cbor_type { CBOR_UINT, CBOR_NINT, CBOR_BYTES, CBOR_TEXT, CBOR_ARRAY, CBOR_MAP, CBOR_BOOL, CBOR_NULL, CBOR_BAD };
void cbor_init(struct cbor *c, const void *data, size_t len);
enum cbor_type cbor_peek(const struct cbor *c);
int __must_check cbor_uint(struct cbor *c, u64 *out);
int __must_check cbor_int(struct cbor *c, s64 *out);
int __must_check cbor_bool(struct cbor *c, bool *out);
int __must_check cbor_bytes(struct cbor *c, const u8 **out, size_t *len);
int __must_check cbor_text(struct cbor *c, const char **out, size_t *len); // valid UTF-8, not terminated
int __must_check cbor_array(struct cbor *c, size_t *n);
int __must_check cbor_map(struct cbor *c, size_t *n); // the caller reads n key/value pairs; keys must ascend: cbor_key
// Reads a text key, and checks that it sorts after *prev (pass one `struct cbor_key prev = {0}` per map).
struct cbor_key { const char *text; size_t len; };
int __must_check cbor_key(struct cbor *c, struct cbor_key *prev, struct cbor_key *out);
bool cbor_key_is(const struct cbor_key *k, const char *name);
int __must_check cbor_skip(struct cbor *c); // one whole item, checked as deterministically encoded

#endif

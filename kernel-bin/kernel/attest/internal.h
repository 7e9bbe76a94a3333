// SPDX-License-Identifier: Apache-2.0
#ifndef ATTEST_INTERNAL_H
#define ATTEST_INTERNAL_H
#include "attest/attest.h"
#include "host/host.h"

// Memory for what the record becomes: never freed. NULL when there is none.
void *arena_alloc(size_t n);
static inline void *arena_array(size_t count, size_t size) {
  return count > SIZE_MAX / 2 / size ? NULL : arena_alloc(count * size);
}

// --- the parser of the record (attest/parse.c): a CBOR reader that knows where it is, for messages
struct parser {
  struct cbor c;
  u32 path_len;
  char path[160];   // "policy.mounts[2].uri"
  char error[320];  // the first failure
};
typedef int (*parse_fn)(struct parser *p);
struct field { const char *name; parse_fn fn; bool optional; };
struct extent { const u8 *start; size_t len; };

void parser_init(struct parser *p, const struct extent *item, const char *name);
int parser_end(struct parser *p);                     // nothing may follow
int __printf(2, 3) parse_fail(struct parser *p, const char *fmt, ...); // -EINVAL; keeps the first message
u32 path_push(struct parser *p, const char *key, size_t len); // the mark for path_pop
u32 path_push_index(struct parser *p, size_t i);
void path_pop(struct parser *p, u32 mark);
int parse_map(struct parser *p, const struct field *fields, unsigned n);
int parse_array(struct parser *p, size_t *n);         // n is at most the bytes that are left
int parse_uint(struct parser *p, u64 max, u64 *out);
int parse_bool(struct parser *p, bool *out);
int parse_text(struct parser *p, char **out);         // terminated copy without NUL bytes
int parse_texts(struct parser *p, char ***out, u32 *n);
int parse_bytes_fixed(struct parser *p, u8 *out, size_t n);
int parse_choice(struct parser *p, const char *const *names, unsigned n, unsigned *out);

int policy_parse(struct parser *p);                   // attest/policy.c
int trusted_parse(struct parser *p);                  // attest/trusted.c
void trusted_set_leaves(const u8 *leaves, size_t len);
void trusted_set_times(const u8 *times, size_t len);
int names_parse_resolv(struct parser *p);             // attest/names.c
void measure_init(size_t boot_bytes);                 // room for the boot's events and more
int keys_init(void);                                  // attest/keys.c
int quote_init(void);                                 // attest/quote.c
int quote_check(const u8 *quote, size_t len, const u8 report[ATTEST_REPORT_BYTES]);
#define SIMULATED_MODULE "gramine-tdx simulated TDX module" // MRSEAM of a simulated one is the SHA-384 of this
bool path_is_normal(const char *path, bool absolute_only);
#endif

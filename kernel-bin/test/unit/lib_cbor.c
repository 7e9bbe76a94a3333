// SPDX-License-Identifier: Apache-2.0
// The CBOR reader: what it takes, and that it refuses everything that is not deterministic or does not fit. Inputs are
// copied into heap blocks of their exact length, so that ASan sees a read past the end.
#include "unit.h"
#include "../../kernel/lib/cbor.c"

static int skip_bytes(const void *data, size_t n) {
  u8 *copy = malloc(n ? n : 1);
  memcpy(copy, data, n);
  struct cbor c;
  cbor_init(&c, copy, n);
  int err = cbor_skip(&c);
  if (!err && c.p != c.end) err = 1; // one item, but something behind it
  if (err < 0) CHECK(c.p == copy);   // stays where the item began
  free(copy);
  return err;
}
#define SKIP(text) skip_bytes(text, sizeof(text) - 1)

static void test_accepts(void) {
  static const struct { const char *bytes; size_t len; } good[] = {
#define V(s) { s, sizeof(s) - 1 }
    V("\x00"), V("\x17"), V("\x18\x18"), V("\x18\xff"), V("\x19\x01\x00"), V("\x1a\x00\x01\x00\x00"),
    V("\x1b\x00\x00\x00\x01\x00\x00\x00\x00"), V("\x20"), V("\x38\x18"), V("\x3b\xff\xff\xff\xff\xff\xff\xff\xff"),
    V("\x40"), V("\x43" "abc"), V("\x60"), V("\x62\xc3\xa9"), V("\x63\xe2\x82\xac"), V("\x64\xf0\x9f\x98\x80"),
    V("\x80"), V("\x82\x01\x02"), V("\xa0"), V("\xa2\x61" "a\x01\x61" "b\x02"), V("\xa2\x61" "z\x01\x62" "aa\x02"),
    V("\xf4"), V("\xf5"), V("\xf6"), V("\x81\x81\x81\xa1\x60\x80"),
  };
  for (size_t i = 0; i < ARRAY_SIZE(good); i++) CHECK(skip_bytes(good[i].bytes, good[i].len) == 0);
  for (size_t i = 0; i < ARRAY_SIZE(good); i++) // every truncation is refused
    for (size_t n = 0; n < good[i].len; n++) CHECK(skip_bytes(good[i].bytes, n) < 0);
}

static void test_refuses(void) {
  CHECK(SKIP("\x18\x17") < 0);                             // one byte where none is needed
  CHECK(SKIP("\x19\x00\xff") < 0);
  CHECK(SKIP("\x1a\x00\x00\xff\xff") < 0);
  CHECK(SKIP("\x1b\x00\x00\x00\x00\xff\xff\xff\xff") < 0);
  CHECK(SKIP("\x58\x03" "abc") < 0);                       // a length in long form
  CHECK(SKIP("\x1c") < 0 && SKIP("\x1f") < 0);             // reserved
  CHECK(SKIP("\x5f\x41" "a\xff") < 0);                     // indefinite lengths
  CHECK(SKIP("\x9f\x01\xff") < 0 && SKIP("\xbf\xff") < 0 && SKIP("\x7f\xff") < 0);
  CHECK(SKIP("\xc0\x00") < 0);                             // a tag
  CHECK(SKIP("\xf7") < 0 && SKIP("\xe0") < 0 && SKIP("\xf8\x20") < 0); // other simple values
  CHECK(SKIP("\xf9\x00\x00") < 0 && SKIP("\xfb\x00\x00\x00\x00\x00\x00\x00\x00") < 0); // floats
  CHECK(SKIP("\xff") < 0);
  CHECK(SKIP("\xa2\x61" "b\x01\x61" "a\x02") < 0);         // keys out of order
  CHECK(SKIP("\xa2\x61" "a\x01\x61" "a\x02") < 0);         // twice
  CHECK(SKIP("\xa2\x62" "aa\x01\x61" "z\x02") < 0);        // the longer first
  CHECK(SKIP("\xa1\x01\x01") < 0);                         // a key that is no text
  CHECK(SKIP("\x5b\xff\xff\xff\xff\xff\xff\xff\xff") < 0); // longer than the input, and than memory
  CHECK(SKIP("\x9b\xff\xff\xff\xff\xff\xff\xff\xff") < 0);
  CHECK(SKIP("\xbb\x7f\xff\xff\xff\xff\xff\xff\xff") < 0);
  CHECK(SKIP("\x61\x80") < 0 && SKIP("\x62\xc0\x80") < 0 && SKIP("\x62\xc3\x28") < 0); // bad UTF-8
  CHECK(SKIP("\x63\xed\xa0\x80") < 0);                     // a surrogate
  CHECK(SKIP("\x63\xe0\x80\x80") < 0 && SKIP("\x64\xf0\x80\x80\x80") < 0); // overlong
  CHECK(SKIP("\x64\xf4\x90\x80\x80") < 0 && SKIP("\x61\xff") < 0 && SKIP("\x62\xe2\x82") < 0);
  u8 deep[2000];
  memset(deep, 0x81, sizeof(deep));
  deep[sizeof(deep) - 1] = 0;
  CHECK(skip_bytes(deep, sizeof(deep)) < 0);
  memset(deep, 0x81, 64);
  deep[64] = 0;
  CHECK(skip_bytes(deep, 65) == 0);
}

static void test_values(void) {
  struct cbor c;
  u64 u;
  s64 s;
  bool b;
  size_t n;
  const char *text;
  const u8 *bytes;
  struct cbor_key prev = { 0 }, key;
  cbor_init(&c, "\x18\x64\x38\x63\x1b\x80\x00\x00\x00\x00\x00\x00\x00", 13);
  CHECK(cbor_int(&c, &s) == 0 && s == 100);
  CHECK(cbor_uint(&c, &u) == -EINVAL); // it is negative
  CHECK(cbor_int(&c, &s) == 0 && s == -100);
  CHECK(cbor_int(&c, &s) == -EINVAL && cbor_uint(&c, &u) == 0 && u == BIT(63));
  CHECK(cbor_peek(&c) == CBOR_BAD);
  cbor_init(&c, "\xa2\x61" "a\x82\xf5\xf4\x62" "bc\x42xy", 12);
  CHECK(cbor_map(&c, &n) == 0 && n == 2);
  CHECK(cbor_key(&c, &prev, &key) == 0 && cbor_key_is(&key, "a") && !cbor_key_is(&key, "ab") && !cbor_key_is(&key, ""));
  CHECK(cbor_array(&c, &n) == 0 && n == 2 && cbor_bool(&c, &b) == 0 && b && cbor_bool(&c, &b) == 0 && !b);
  CHECK(cbor_bool(&c, &b) == -EINVAL && cbor_bytes(&c, &bytes, &n) == -EINVAL);
  CHECK(cbor_key(&c, &prev, &key) == 0 && cbor_key_is(&key, "bc"));
  CHECK(cbor_text(&c, &text, &n) == -EINVAL && cbor_bytes(&c, &bytes, &n) == 0 && n == 2 && !memcmp(bytes, "xy", 2));
  CHECK(c.p == c.end);
}

static void test_random(void) {
  unsigned accepted = 0;
  for (unsigned i = 0; i < 200000; i++) {
    u8 data[24];
    size_t n = unit_random() % sizeof(data);
    for (size_t k = 0; k < n; k++) data[k] = (u8)unit_random();
    struct cbor c;
    cbor_init(&c, data, n);
    if (cbor_skip(&c) == 0) accepted += c.p <= c.end;
    else accepted += c.p == data;
  }
  CHECK(accepted == 200000);
}

int main(void) {
  test_accepts();
  test_refuses();
  test_values();
  test_random();
  return UNIT_END("lib_cbor");
}

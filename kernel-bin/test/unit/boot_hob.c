// SPDX-License-Identifier: Apache-2.0
// The TD HOB: what hosts really write, and what they must not get away with.
#include "unit.h"
#include "../../kernel/boot/hob.c"

#define IMAGE (4 * GIB - 5 * MIB)
static u8 list[8192];
static size_t used;

static void put(const void *p, size_t n) {
  memcpy(list + used, p, n);
  used += n;
}
static void begin(void) {
  u8 h[56] = { 1, 0, 56 };
  h[8] = 9;
  used = 0;
  memset(list, 0xee, sizeof(list));
  put(h, sizeof(h));
}
static void resource(u32 type, u64 start, u64 end) {
  struct resource r = { { 3, 48, 0 }, { 0 }, type, 7, start, end - start };
  put(&r, sizeof(r));
}
static size_t end(void) {
  struct head h = { 0xffff, 8, 0 };
  put(&h, sizeof(h));
  return used;
}
static char why[128];
static int check(u64 low, u64 high) {
  struct hob_range want[] = { { 0, low }, { 4 * GIB, high } };
  u8 *exact = malloc(used); // ASan sees a step beyond the end
  memcpy(exact, list, used);
  why[0] = 0;
  int r = hob_check(exact, used, want, 2, IMAGE, why, sizeof(why));
  free(exact);
  CHECK((r == 0) == (why[0] == 0));
  return r;
}
static void usual(u64 low, u64 high) { // as QEMU lays it out: pieces of the image's metadata, the rest not accepted
  begin();
  resource(7, 0, 0x10000);
  resource(0, 0x10000, 0x18000);
  resource(0, 0x18000, 0x19000);
  resource(7, 0x19000, low);
  if (high > 4 * GIB) resource(7, 4 * GIB, high);
}

static void accepts(void) {
  usual(GIB, 4 * GIB);
  end();
  CHECK(check(GIB, 4 * GIB) == 0);
  usual(2 * GIB, 18 * GIB);
  end();
  CHECK(check(2 * GIB, 18 * GIB) == 0);
  begin(); // another host: the volumes first, then memory, in no order, and things that are not memory
  resource(0, IMAGE, 4 * GIB);
  resource(0, 0x10000, 0x19000);
  resource(7, 4 * GIB, 6 * GIB);
  resource(1, 3 * GIB, 3 * GIB + MIB);
  put((u8[16]){ 4, 0, 16 }, 16);
  resource(7, 0x19000, 2 * GIB);
  resource(7, 0, 0x10000);
  end();
  CHECK(check(2 * GIB, 6 * GIB) == 0);
}

static void refuses_other_memory(void) {
  usual(GIB, 4 * GIB);
  end();
  CHECK(check(2 * GIB, 4 * GIB) && strstr(why, "0..0x80000000 is measured, the host gives 0..0x40000000"));
  CHECK(check(GIB, 5 * GIB) && strstr(why, "0x100000000..0x140000000 is measured, the host gives 0..0"));
  usual(GIB, 5 * GIB);
  end();
  CHECK(check(GIB, 4 * GIB) && strstr(why, "0x100000000..0x140000000, which is not measured"));
  begin(); // a hole
  resource(7, 0, 0x10000);
  resource(7, 0x11000, GIB);
  end();
  CHECK(check(GIB, 4 * GIB));
  begin(); // twice the same
  resource(7, 0, GIB);
  resource(0, 0x10000, 0x11000);
  end();
  CHECK(check(GIB, 4 * GIB) && strstr(why, "overlap"));
  begin(); // ends where the image begins to be listed
  resource(7, 0, GIB);
  resource(7, IMAGE - 4096, 4 * GIB);
  end();
  CHECK(check(GIB, 4 * GIB));
  begin();
  end();
  CHECK(check(GIB, 4 * GIB));
  CHECK(check(0, 4 * GIB) == 0);
}

static void refuses_other_bytes(void) {
  usual(GIB, 4 * GIB);
  CHECK(check(GIB, 4 * GIB) && strstr(why, "no end"));
  for (size_t whole = end(), n = 0; n < whole; n++) {
    used = n;
    CHECK(check(GIB, 4 * GIB));
  }
  static const struct { u16 at; u8 value; const char *what; } wrong[] = {
    { 0, 3, "first" }, { 2, 48, "wrong length" }, { 2, 0, "wrong length" }, { 2, 57, "wrong length" }, { 8, 8, "version" },
    { 56, 1, "first" }, { 58, 40, "wrong length" }, { 58, 0, "wrong length" }, { 59, 0xff, "wrong length" },
    { 56 + 32, 1, "not a range" }, { 56 + 41, 0x10, NULL }, { 56 + 47, 0xff, NULL },
  };
  for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
    usual(GIB, 4 * GIB);
    end();
    list[wrong[i].at] = wrong[i].value;
    if (i == 10) list[wrong[i].at] = 0x01;
    CHECK(check(GIB, 4 * GIB));
    CHECK(!wrong[i].what || strstr(why, wrong[i].what));
  }
  begin(); // wraps around
  resource(7, 0, GIB);
  resource(7, ~0ul << 12, 0);
  memset(list + used - 8, 0xff, 8);
  list[used - 8] = 0, list[used - 7] = 0xf0;
  end();
  CHECK(check(GIB, 4 * GIB) && strstr(why, "not a range"));
  begin(); // more pieces than anyone has
  for (u64 i = 0; i < 40; i++) resource(7, 2 * i * 4096, (2 * i + 1) * 4096);
  end();
  CHECK(check(GIB, 4 * GIB) && strstr(why, "too many"));
}

static void random_bytes_never_pass(void) {
  for (unsigned i = 0; i < 20000; i++) {
    usual(GIB, 5 * GIB);
    end();
    size_t at = unit_random() % used;
    u8 old = list[at];
    list[at] = (u8)unit_random();
    int r = check(GIB, 5 * GIB);
    // Only bytes that nobody looks at, or the kind of memory, may be different.
    bool ignored = at >= 4 && (at < 8 || (at >= 12 && at < 56) || (at >= used - 4));
    if (at >= 56 && at < used - 8) ignored = (at - 56) % 48 >= 4 && (at - 56) % 48 < 32;
    CHECK(r == 0 ? list[at] == old || ignored : list[at] != old);
  }
}

int main(void) {
  accepts();
  refuses_other_memory();
  refuses_other_bytes();
  random_bytes_never_pass();
  return UNIT_END("boot_hob");
}

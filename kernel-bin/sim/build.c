// SPDX-License-Identifier: Apache-2.0
//
// The TD's birth, as QEMU's tdvf code and KVM do it: metadata from the image's GUIDed table, PAGE.ADD and MR.EXTEND in
// page order, the TD HOB, MR.FINALIZE. The image comes by fw_cfg and lies where it is addressed: it ends at 4 GiB.
#include "sim/sim.h"

enum { BFV, CFV, TD_HOB, TEMP_MEM };
struct section { u32 offset, raw_size; u64 address, size; u32 type, attributes; } __packed;
#define MAX_SECTIONS 32
#define Q35_HOLE 0xb0000000ul
#define IMAGE_MAX (16 * MIB)

static struct section sections[MAX_SECTIONS];
static u32 n_sections;

static u32 load16(const u8 *p) { return (u32)p[0] | (u32)p[1] << 8; }
static u32 load32(const u8 *p) { return load16(p) | load16(p + 2) << 16; }

// The GUIDed table: its footer ends 32 bytes before the image's end, and entries are read backwards.
static void parse_metadata(const u8 *image, u64 size) {
  static const u8 footer[16] = { 0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d };
  static const u8 tdvf[16] = { 0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2 };
  const u8 *end = image + size - 50, *p = end, *descriptor = NULL;
  if (memcmp(image + size - 48, footer, 16) != 0) panic("image: no GUIDed table at its end, so no TDVF metadata");
  u64 total = load16(end);
  if (total < 18 || total - 18 > size - 50) panic("image: GUIDed table of %lu bytes", total);
  while (p > end - (total - 18)) {
    u64 len = load16(p - 18);
    if (len < 18 || len > (u64)(p - (end - (total - 18)))) panic("image: GUIDed table entry of %lu bytes", len);
    if (memcmp(p - 16, tdvf, 16) == 0 && len == 22) {
      u64 distance = load32(p - 22);
      if (distance > size || distance < 16) panic("image: TDVF descriptor %lu bytes before the end", distance);
      descriptor = image + size - distance;
    }
    p -= len;
  }
  if (!descriptor || load32(descriptor) != 0x46564454) panic("image: no TDVF descriptor");
  n_sections = load32(descriptor + 12);
  if (load32(descriptor + 8) != 1 || n_sections < 2 || n_sections > MAX_SECTIONS || load32(descriptor + 4) != 16 + 32 * n_sections)
    panic("image: TDVF descriptor of version %u with %u sections", load32(descriptor + 8), n_sections);
  memcpy(sections, descriptor + 16, n_sections * sizeof(sections[0]));
  for (u32 i = 0; i < n_sections; i++) {
    struct section *s = &sections[i];
    bool volume = s->type == BFV || s->type == CFV;
    if (s->type > TEMP_MEM || s->size < s->raw_size || !IS_ALIGNED(s->address, PAGE) || !IS_ALIGNED(s->size, PAGE) || s->size > GIB
        || (volume ? !s->raw_size || s->offset > size || s->size > size - s->offset : s->raw_size || !gpa_is_ram(s->address, s->size)))
      panic("image: TDVF section %u (type %u, %#lx bytes at %#lx) is not one that QEMU takes", i, s->type, s->size, s->address);
    if (s->type == TD_HOB) td.hob = s->address;
  }
  if (!td.hob) panic("image: no TD_HOB section");
}

// PAGE.ADD and, for measured sections, MR.EXTEND in 256-byte chunks; page order.
static void add_section(struct sha512 *mrtd, const struct section *s, const u8 *image) {
  for (u64 off = 0; off < s->size; off += PAGE) {
    u64 gpa = s->address + off;
    u8 *page = PHYS(private_hpa(gpa));
    u8 record[128] = "MEM.PAGE.ADD";
    memcpy(record + 16, &gpa, 8);
    sha384_update(mrtd, record, sizeof(record));
    sept_add_4k(gpa);
    if (s->type == BFV || s->type == CFV) {
      const u8 *from = image + s->offset + off;
      if (from != page) memcpy(page, from, PAGE);
    }
    if (!(s->attributes & 1)) continue;
    for (u64 chunk = 0; chunk < PAGE; chunk += 256) {
      u8 extend[128] = "MR.EXTEND";
      u64 at = gpa + chunk;
      memcpy(extend + 16, &at, 8);
      sha384_update(mrtd, extend, sizeof(extend));
      sha384_update(mrtd, page + chunk, 256);
    }
  }
}

// --- the TD HOB as QEMU writes it (src/measure/td-hob.ts is the same rule): RAM less the ranges of TD_HOB and TempMem
// sections is unaccepted (7), those ranges are memory (0); sorted by address.
struct range { u64 start, end; u32 type; };
static struct range ranges[2 + 2 * MAX_SECTIONS];
static u32 n_ranges;

static void range_add(u64 start, u64 end, u32 type) {
  u32 i = n_ranges++;
  for (; i && ranges[i - 1].start > start; i--) ranges[i] = ranges[i - 1];
  ranges[i] = (struct range){ start, end, type };
}

static void build_hob(void) {
  range_add(0, td.low_end, 7);
  if (td.high_end > 4 * GIB) range_add(4 * GIB, td.high_end, 7);
  for (u32 s = 0; s < n_sections; s++) {
    if (sections[s].type != TD_HOB && sections[s].type != TEMP_MEM) continue;
    u64 start = sections[s].address, end = start + sections[s].size;
    for (u32 i = 0; i < n_ranges; i++) {
      struct range r = ranges[i];
      if (r.type != 7 || start < r.start || end > r.end) continue;
      n_ranges--;
      for (u32 j = i; j < n_ranges; j++) ranges[j] = ranges[j + 1];
      if (r.start < start) range_add(r.start, start, 7);
      if (end < r.end) range_add(end, r.end, 7);
      break;
    }
    range_add(start, end, 0);
  }
  u8 *p = PHYS(private_hpa(td.hob));
  u64 length = 56 + 48 * n_ranges, list_end = td.hob + length + 8;
  u32 header[4] = { 56 << 16 | 1, 0, 9, 0 };
  memset(p, 0, 56);
  memcpy(p, header, 16);
  memcpy(p + 48, &list_end, 8);
  p += 56;
  for (u32 i = 0; i < n_ranges; i++, p += 48) {
    u32 head[2] = { 48 << 16 | 3, 0 }, kind[2] = { ranges[i].type, 7 };
    u64 span[2] = { ranges[i].start, ranges[i].end - ranges[i].start };
    memset(p, 0, 48);
    memcpy(p, head, 8);
    memcpy(p + 24, kind, 8);
    memcpy(p + 32, span, 16);
  }
  u32 end_marker[2] = { 8 << 16 | 0xffff, 0 };
  memcpy(p, end_marker, 8);
}

void say_digest(const char *name, const u8 digest[48]) {
  char text[97];
  for (u32 i = 0; i < 48; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
  say("sim.%s=%s", name, text);
}

void td_build(void) {
  u64 value;
  u32 select, size;
  if (!fwcfg_number("memory", &td.memory_bytes)) panic("no fw_cfg opt/gramine/sim-memory: the TD's bytes of memory");
  td.shared_bit = BIT(td.gpaw - 1);
  if (td.memory_bytes < 16 * MIB || !IS_ALIGNED(td.memory_bytes, PAGE))
    panic("opt/gramine/sim-memory: %lu bytes; a multiple of 4096, at least 16 MiB", td.memory_bytes);
  td.low_end = td.memory_bytes < Q35_HOLE ? td.memory_bytes : 2 * GIB; // as QEMU's q35 splits it
  td.high_end = 4 * GIB + td.memory_bytes - td.low_end;
  td.offset = td.high_end;
  if (td.offset + td.high_end > sim_phys)
    panic("-m is too small: RAM must reach %lu MiB above 4 GiB", (td.offset + td.high_end + SIM_BYTES - 4 * GIB) / MIB);
  td.aug_level = fwcfg_number("pages", &value) && value == 4096 ? 0 : 1;
  td.fwcfg = fwcfg_number("fwcfg", &value) && value;
  td.take = fwcfg_number("take", &value) && value;

  td.attributes = BIT(28);
  if (fwcfg_number("attributes", &value)) td.attributes = value;
  if (fwcfg_number("debug", &value) && value) td.attributes |= 1;
  td.xfam = cpuid(0xd, 0).eax & 0x602e7;
  if (fwcfg_number("xfam", &value)) td.xfam &= value | 3;
  fwcfg_hex48("mrconfigid", td.mrconfigid);
  fwcfg_hex48("mrowner", td.mrowner);
  fwcfg_hex48("mrownerconfig", td.mrownerconfig);
  report_init();

  if (!fwcfg_find("opt/gramine/sim-image", &select, &size)) panic("no fw_cfg opt/gramine/sim-image: the launch image");
  if (size < PAGE || size > IMAGE_MAX || !IS_ALIGNED(size, PAGE)) panic("image of %u bytes: a multiple of 4096 up to 16 MiB", size);
  td.image_base = 4 * GIB - size;
  const u8 *image = PHYS(private_hpa(td.image_base));
  fwcfg_read(select, private_hpa(td.image_base), 0, size);
  parse_metadata(image, size);

  struct sha512 mrtd;
  sha384_init(&mrtd);
  for (u32 i = 0; i < n_sections; i++)
    if (!(sections[i].attributes & 2) && sections[i].size) add_section(&mrtd, &sections[i], image);
  sha384_final(&mrtd, td.mrtd);
  build_hob();
  hostile_init();
  hostile_hob(PHYS(private_hpa(td.hob)), 56 + 48 * n_ranges + 8);
  say_digest("mrtd", td.mrtd);
}

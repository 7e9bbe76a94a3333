// SPDX-License-Identifier: Apache-2.0
//
// A host that lies, the same way for the same seed as far as the TD's own timing allows. The seed picks which kinds of
// lies are told, how often, and after how many exits they begin; every lie is counted as sim.lie.NAME. Everything here is
// what a real host can do: the module's own answers (TDCALL status, MRTD, native CPUID, #VE) are never touched. An
// interrupt is delayed, not lost: a host that stops a TD for ever needs no simulator.
#include "sim/sim.h"

#define LIE_NAME(id, name) name,
static const char *const names[] = { LIES(LIE_NAME) };
static bool active;
static u32 rates[LIE_COUNT]; // told once in 2^rate - 1 chances on average; 0: never
static u64 begin, told[LIE_COUNT], exits;
static u8 secret[64];
static u32 secret_bytes;

static u64 mix(u64 x) { // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

void hostile_init(void) {
  u64 seed = 0;
  u32 select, size;
  if (fwcfg_find("opt/gramine/sim-secret", &select, &size) && size >= 8 && size <= sizeof(secret)) {
    fwcfg_read(select, virt_to_phys(secret), 0, size);
    secret_bytes = size;
  }
  if (!fwcfg_number("seed", &seed) || !seed) return;
  active = true;
  u64 r = mix(seed);
  begin = r & 1 ? 0 : mix(r) % (8ul << (r >> 8) % 9); // some 400 exits are a boot
  for (u32 i = 0; i < LIE_COUNT; i++) {
    u64 x = mix(seed * 64 + i);
    if ((x & 3) == 0) rates[i] = 1 + (u32)(x >> 8) % 10; // a quarter of the kinds, from always to once in 1024
  }
  for (u32 i = 0; i < MAX_CPUS; i++) vcpus[i].rng = mix(seed ^ (u64)i << 32);
  say("sim.seed=%lu", seed);
}

u64 hostile_random(struct vcpu *v) { return v->rng = mix(v->rng); }

bool lie(struct vcpu *v, enum lie kind) {
  if (likely(!active) || !rates[kind] || READ_ONCE(exits) < begin) return false;
  if (hostile_random(v) >> 20 & (BIT(rates[kind] - 1) - 1)) return false;
  __atomic_add_fetch(&told[kind], 1, __ATOMIC_RELAXED);
  return true;
}

void lie_was(enum lie kind) { __atomic_add_fetch(&told[kind], 1, __ATOMIC_RELAXED); }

// Numbers that parsers get wrong: edges, small ones, bits, noise.
u64 hostile_value(struct vcpu *v) {
  static const u64 edges[] = { 0, 1, ~0ul, 1ul << 63, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 4096, 0xfff };
  u64 r = hostile_random(v);
  switch (r & 3) {
  case 0: return edges[(r >> 8) % ARRAY_SIZE(edges)];
  case 1: return (r >> 8) & 0xff;
  case 2: return BIT(r >> 8 & 63);
  default: return hostile_random(v);
  }
}

void hostile_delay(struct vcpu *v, u64 max_us) {
  u64 end = rdtsc() + (hostile_random(v) % max_us) * (tsc_hz / 1000000);
  while (rdtsc() < end) cpu_relax();
}

// The TD HOB, after it was made well: `n` bytes may be changed.
void hostile_hob(u8 *hob, u32 n) {
  struct vcpu *v = &vcpus[0];
  begin = rates[LIE_HOB] ? 0 : begin;
  if (!lie(v, LIE_HOB)) return;
  u64 r = hostile_random(v), field = 56 + 48 * (r >> 8 & 3), value = hostile_value(v);
  switch (r & 7) {
  case 0: memcpy(hob + field + 40, &value, 8); break;            // a resource's length
  case 1: memcpy(hob + field + 32, &value, 8); break;            // its start
  case 2: memcpy(hob + field + 24, &value, 4); break;            // its type
  case 3: memcpy(hob + field + 2, &value, 2); break;             // the block's own length: 0 would loop
  case 4: memcpy(hob + 48, &value, 8); break;                    // the end of the list
  case 5: memset(hob + field, 0xff, n - field); break;           // cut short, no end
  case 6: memmove(hob + 56 + 48, hob + 56, n - 56 - 48); break;  // the first resource twice
  case 7: for (u32 i = 0; i < 16; i++) hob[hostile_random(v) % n] ^= (u8)hostile_random(v); break;
  }
}

// One byte, where something is: a ring, a request, a payload.
static void scribble(struct vcpu *v) {
  for (u32 tries = 0; tries < 8; tries++) {
    u64 gpa = memory_random_shared(v), start = hostile_random(v);
    if (!gpa) return;
    for (u64 i = 0; i < PAGE; i += 8) {
      u8 *p = (u8 *)PHYS(gpa) + ((start + i) & (PAGE - 8));
      if (!*(u64 *)p) continue;
      p[hostile_random(v) & 7] = (u8)hostile_value(v);
      return;
    }
  }
}

// At every exit to the VMM.
void hostile_exit(struct vcpu *v) {
  if (likely(!active)) return;
  __atomic_add_fetch(&exits, 1, __ATOMIC_RELAXED);
  if (lie(v, LIE_INTERRUPT)) { // the module refuses vectors below 31
    u64 to = hostile_random(v) % td.num_vcpus, r = hostile_random(v);
    host_send_vector((u32)to, r % 64 ? (u32)(32 + r % 224) : 31);
  }
  if (lie(v, LIE_DELAY)) hostile_delay(v, 2000);
  if (lie(v, LIE_BLOCK)) memory_block(v, false);
  if (lie(v, LIE_REMOVE)) memory_block(v, true);
  if (lie(v, LIE_SCRIBBLE)) scribble(v);
}

// --- a planted secret must never be where the host can see it
static bool holds_secret(const u8 *p, u64 n) {
  u64 first, any = 0;
  for (u64 i = 0; i < n; i += 8) any |= *(const u64 *)(p + i);
  if (!any) return false; // most of the pool was never used
  memcpy(&first, secret, 8);
  for (u64 i = 0; i + secret_bytes <= n; i++) {
    u64 here;
    memcpy(&here, p + i, 8);
    if (here == first && memcmp(p + i, secret, secret_bytes) == 0) return true;
  }
  return false;
}

void secret_check_registers(const u64 *r) {
  if (likely(!secret_bytes)) return;
  for (u32 at = 0; at + 8 <= secret_bytes; at++) {
    u64 part;
    memcpy(&part, secret + at, 8);
    for (u32 i = 0; i < 16; i++)
      if (r[i] == part) say("sim.secret=in a register of a TDVMCALL");
  }
}

void secret_scan(void) {
  if (!secret_bytes) return;
  u64 pages = 0;
  bool found = false;
  for (u64 gpa = 0; (gpa = memory_next_shared(gpa)) != 0; gpa += PAGE, pages++)
    if (holds_secret(PHYS(gpa), PAGE)) {
      say("sim.secret=in shared memory at %#lx", gpa);
      found = true;
    }
  say("sim.secret.pages=%lu", pages);
  if (!found) say("sim.secret=not found");
}

void hostile_print(void) {
  for (u32 i = 0; i < LIE_COUNT; i++)
    if (told[i]) say("sim.lie.%s=%lu", names[i], told[i]);
}

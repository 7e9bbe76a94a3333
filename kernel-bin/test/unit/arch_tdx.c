// SPDX-License-Identifier: Apache-2.0
// What the kernel makes of the TDX module's answers and the host's: acceptance in the largest steps, sharing in the host's
// own pieces, and an end with a message where an answer makes no sense.
#define UNIT_OWN_PANIC 1
#include <setjmp.h>
#include "unit.h"
#include "arch/internal.h"
#include "arch/tdx.h"

static jmp_buf stopped;
static char message[256];
__noreturn void panic(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(message, sizeof(message), fmt, ap);
  va_end(ap);
  longjmp(stopped, 1);
}
__noreturn void arch_stop_this(void) { longjmp(stopped, 2); }
static size_t mock_strlcpy(char *d, const char *s, size_t n) { return (size_t)snprintf(d, n, "%s", s); }
#define strlcpy mock_strlcpy
u64 pte_shared_bit = BIT(47);

static u64 (*module)(u64 leaf, struct tdx_regs *r);
static unsigned calls;
u64 tdx_call(u64 leaf, struct tdx_regs *r) {
  calls++;
  return module(leaf, r);
}
#include "../../kernel/arch/tdx.c"

#define STOPS(statement, text) do { \
    message[0] = 0; \
    volatile bool went_on = false; \
    if (!setjmp(stopped)) { statement; went_on = true; } \
    CHECK(!went_on && strstr(message, text)); \
  } while (0)

// --- acceptance
static phys_t small_from, small_to; // the host has single pages here
static u64 busy, done_bytes, odd_status;
static u64 accepting(u64 leaf, struct tdx_regs *r) {
  u64 level = r->rcx & 7, pa = r->rcx & ~7ul, size = level ? HUGE_SIZE : PAGE_SIZE;
  CHECK(leaf == TDG_MEM_PAGE_ACCEPT && level <= 1 && IS_ALIGNED(pa, size));
  if (busy && busy--) return TDX_OPERAND_BUSY | 1;
  if (odd_status) return odd_status;
  if (level && pa < small_to && pa + size > small_from) return TDX_PAGE_SIZE_MISMATCH | 1;
  done_bytes += size;
  return 0;
}
static u64 already(u64 leaf, struct tdx_regs *r) { return TDX_PAGE_ALREADY_ACCEPTED | (r->rcx & 7); }

static void acceptance(void) {
  module = accepting;
  calls = 0;
  tdx_accept(4 * MIB, 8 * MIB);
  CHECK(calls == 4 && done_bytes == 8 * MIB && tdx_accepted_bytes == 8 * MIB);
  small_from = 6 * MIB, small_to = 6 * MIB + 1;
  calls = 0, done_bytes = 0, busy = 3;
  tdx_accept(4 * MIB, 6 * MIB);
  CHECK(done_bytes == 6 * MIB && calls == 2 + 1 + 512 + 3);
  calls = 0;
  tdx_accept(MIB, 2 * PAGE_SIZE); // not a whole 2 MiB
  CHECK(calls == 2);
  busy = 1u << 30;
  STOPS(tdx_accept(4 * MIB, HUGE_SIZE), "memory at 0x400000 cannot be accepted");
  busy = 0, odd_status = TDX_OPERAND_INVALID | 1;
  STOPS(tdx_accept(4 * MIB, HUGE_SIZE), "TDX status 0xc000010000000000");
  odd_status = 0;
  module = already;
  calls = 0;
  tdx_accept(4 * MIB, 4 * MIB);
  CHECK(calls == 2);
}

// --- sharing
static u64 r10, r11_add, piece;
static phys_t shared_to;
static u64 sharing(u64 leaf, struct tdx_regs *r) {
  CHECK(leaf == TDG_VP_VMCALL && r->rcx == 0xfc00 && r->r10 == 0 && r->r11 == 0x10001 && (r->r12 & pte_shared_bit));
  phys_t at = r->r12 & ~pte_shared_bit;
  r->r10 = r10;
  r->r11 = (at + r11_add) | (calls & 1 ? pte_shared_bit : 0);
  if (piece && r->r13 > piece) {
    r->r10 = TDVMCALL_RETRY;
    r->r11 = r->r12 + piece;
    CHECK(at == shared_to);
    shared_to = at + piece;
  } else if (piece) {
    r->r10 = 0;
    shared_to = at + r->r13;
  }
  return 0;
}

static void sharing_in_pieces(void) {
  module = sharing;
  r10 = 0, calls = 0;
  tdx_share(64 * MIB, 64 * MIB);
  CHECK(calls == 1);
  piece = 12 * PAGE_SIZE, shared_to = 64 * MIB;
  tdx_share(64 * MIB, 64 * MIB);
  CHECK(shared_to == 128 * MIB);
  piece = 0, r10 = TDVMCALL_RETRY, r11_add = 0, calls = 0;
  STOPS(tdx_share(64 * MIB, MIB), "gets no further than 0x4000000");
  CHECK(calls > 100 && calls < 5000);
  static const u64 wrong[] = { MIB, 2 * MIB, 100, (u64)-PAGE_SIZE, 1ul << 46, ~0ul - 64 * MIB };
  for (volatile size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
    r11_add = wrong[i];
    STOPS(tdx_share(64 * MIB, MIB), "MapGPA: the host answered with address");
  }
  r10 = TDVMCALL_UNSUPPORTED;
  STOPS(tdx_share(64 * MIB, MIB), "MapGPA: the host refused");
}

// --- other answers
static u64 answer_rax;
static u64 answering(u64 leaf, struct tdx_regs *r) {
  r->r10 = r10;
  r->r11 = 0x1234;
  return answer_rax;
}

static void other_answers(void) {
  module = answering;
  static const struct { u64 status; int err; } quotes[] = { { 0, 0 }, { 1, -EAGAIN }, { TDVMCALL_GPA_IN_USE, -EBUSY },
    { TDVMCALL_UNSUPPORTED, -EOPNOTSUPP }, { 1ul << 63, -EINVAL }, { 77, -EINVAL } };
  for (size_t i = 0; i < ARRAY_SIZE(quotes); i++) {
    r10 = quotes[i].status;
    CHECK(tdx_vmcall_get_quote(MIB, PAGE_SIZE) == quotes[i].err && tdx_vmcall_setup_event_notify(48) == quotes[i].err);
  }
  r10 = 0;
  CHECK(tdx_msr_read(0x802) == 0x1234);
  tdx_msr_write(0x6e0, 1);
  STOPS(tdx_msr_read(0x1b), "MSR 0x1b is not on the list");
  STOPS(tdx_msr_write(0xc0000080, 0), "not on the list");
  r10 = 5;
  STOPS(tdx_msr_write(0x830, 0), "the host refuses to write MSR 0x830: status 0x5");
  tdx_msr_write(0x830, 0); // the machine is ending: lost quietly
  answer_rax = TDX_OPERAND_INVALID;
  STOPS(tdx_vmcall(0x30, 0, 0, 0, 0, NULL), "refused our operands");
  answer_rax = 0;
}

static u64 info_rcx, info_rax;
static u64 informing(u64 leaf, struct tdx_regs *r) {
  CHECK(leaf == TDG_VP_INFO);
  r->rcx = info_rcx, r->rdx = TDX_ATTR_DEBUG, r->r8 = 4 | 8ul << 32;
  return info_rax;
}

static void information(void) {
  module = informing;
  info_rcx = 52;
  tdx_init();
  CHECK(tdx_info.gpaw == 52 && pte_shared_bit == BIT(51) && tdx_info.vcpus == 4 && tdx_info.max_vcpus == 8 && tdx_info.attributes == 1);
  info_rcx = 48;
  tdx_init();
  CHECK(pte_shared_bit == BIT(47));
  info_rcx = 47;
  STOPS(tdx_init(), "GPA width 47");
  info_rcx = 48, info_rax = TDX_OPERAND_INVALID;
  STOPS(tdx_init(), "TDG.VP.INFO: status 0xc000010000000000");
}

// --- the end
static char told[65], page[PAGE_SIZE];
static u64 ending(u64 leaf, struct tdx_regs *r) {
  CHECK(leaf == TDG_VP_VMCALL && r->rcx == 0xffcc && r->r11 == 0x10003);
  u64 order[] = { r->r14, r->r15, r->rbx, r->rdi, r->rsi, r->r8, r->r9, r->rdx };
  memcpy(told, order, 64);
  CHECK((r->r12 == BIT(63) && r->r13 == (5 * PAGE_SIZE | pte_shared_bit)) || r->r12 == 0);
  return 0;
}

static void fatal_errors(void) {
  static const char text[] = "a message that is longer than sixty-four bytes, so that its end is in the page only";
  module = ending;
  tdx_set_fatal_page((u8 *)page, 5 * PAGE_SIZE);
  CHECK(setjmp(stopped) == 2 || (tdx_fatal(text), 0));
  CHECK(strlen(told) == 63 && !strncmp(told, text, 63) && !strcmp(page, text));
  page[0] = 0; // a second time the page is left alone
  CHECK(setjmp(stopped) == 2 || (tdx_fatal("again"), 0));
  CHECK(!strcmp(told, "again") && !page[0]);
}

int main(void) {
  acceptance();
  sharing_in_pieces();
  other_answers();
  information();
  fatal_errors();
  return UNIT_END("arch_tdx");
}

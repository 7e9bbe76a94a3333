// SPDX-License-Identifier: Apache-2.0
//
// The TDX module's calls and the host's, see tdx.h. What the host answers is never an address, an index or a length
// here before it was compared; everything else goes on to host/ to be opened there (threat-model T1).
#include "arch/internal.h"
#include "arch/tdx.h"

#define VMCALL_MASK_STANDARD 0xfc00u // R10 to R15
#define VMCALL_MASK_FATAL 0xffccu    // RDX RBX RSI RDI R8 to R15
#define BUSY_RETRIES 1000u           // another vCPU holds the lock: it is inside the module, or the host stopped it there
#define FATAL_TEXT_BYTES 64u
#define MAP_GPA_RETRIES 1000u        // without getting any further
#define MSR_RETRIES 100u
enum { VMCALL_HLT = 0xc, VMCALL_RDMSR = 0x1f, VMCALL_WRMSR = 0x20, VMCALL_MAP_GPA = 0x10001, VMCALL_GET_QUOTE = 0x10002,
  VMCALL_FATAL = 0x10003, VMCALL_EVENT_NOTIFY = 0x10004 };

struct tdx_info tdx_info;
u64 tdx_accepted_bytes;
static struct { u8 *va; phys_t phys; } fatal_page;

// --- the module

static u64 call_retry(u64 leaf, struct tdx_regs *r) {
  struct tdx_regs in = *r;
  u64 rax = tdx_call(leaf, r);
  for (u32 i = 0; TDX_STATUS(rax) == TDX_OPERAND_BUSY && i < BUSY_RETRIES; i++) {
    cpu_relax();
    *r = in;
    rax = tdx_call(leaf, r);
  }
  return rax;
}

void tdx_init(void) {
  struct tdx_regs r = { 0 };
  u64 rax = call_retry(TDG_VP_INFO, &r);
  tdx_info.gpaw = r.rcx & 0x3f;
  tdx_info.attributes = r.rdx;
  tdx_info.vcpus = (u32)r.r8;
  tdx_info.max_vcpus = (u32)(r.r8 >> 32);
  if (rax || (tdx_info.gpaw != 48 && tdx_info.gpaw != 52)) panic("TDG.VP.INFO: status %#lx, GPA width %u", rax, tdx_info.gpaw);
  pte_shared_bit = BIT(tdx_info.gpaw - 1);
}

u64 tdx_mr_report(phys_t report, phys_t data) {
  struct tdx_regs r = { .rcx = report, .rdx = data };
  return call_retry(TDG_MR_REPORT, &r);
}

u64 tdx_mr_rtmr_extend(phys_t digest, unsigned index) {
  struct tdx_regs r = { .rcx = digest, .rdx = index };
  return call_retry(TDG_MR_RTMR_EXTEND, &r);
}

// One page of 4 KiB (level 0) or 2 MiB (level 1).
static u64 accept_page(phys_t pa, u64 level) {
  struct tdx_regs r = { .rcx = pa | level };
  return TDX_STATUS(call_retry(TDG_MEM_PAGE_ACCEPT, &r));
}

void tdx_accept(phys_t pa, u64 len_bytes) {
  for (phys_t end = pa + len_bytes; pa < end;) {
    u64 status = TDX_PAGE_SIZE_MISMATCH, step = HUGE_SIZE;
    if (IS_ALIGNED(pa, HUGE_SIZE) && end - pa >= HUGE_SIZE) status = accept_page(pa, 1);
    if (status == TDX_PAGE_SIZE_MISMATCH) {
      status = accept_page(pa, 0);
      step = PAGE_SIZE;
    }
    if (status != TDX_SUCCESS && status != TDX_PAGE_ALREADY_ACCEPTED)
      panic("memory at %#lx cannot be accepted: TDX status %#lx", pa, status);
    pa += step;
    __atomic_fetch_add(&tdx_accepted_bytes, step, __ATOMIC_RELAXED);
  }
}

bool tdx_ve_info(struct tdx_ve *ve) {
  struct tdx_regs r = { 0 };
  if (tdx_call(TDG_VP_VEINFO_GET, &r)) return false;
  *ve = (struct tdx_ve){ (u32)r.rcx, (u32)r.r10, r.rdx, r.r9 };
  return true;
}

// From here on CPUID in ring 3 is a #VE on this CPU, whatever the leaf (arch/cpuid.c answers). A module that does not
// know the call answers its own leaves itself, as trustworthy, and leaves the others to the same table.
void tdx_init_this(void) {
  struct tdx_regs r = { .rcx = 2 };
  (void)call_retry(TDG_VP_CPUIDVE_SET, &r);
}

// --- the host

u64 tdx_vmcall(u64 fn, u64 r12, u64 r13, u64 r14, u64 r15, struct tdx_vmcall *out) {
  struct tdx_regs r = { .rcx = VMCALL_MASK_STANDARD, .r11 = fn, .r12 = r12, .r13 = r13, .r14 = r14, .r15 = r15 };
  if (tdx_call(TDG_VP_VMCALL, &r)) panic("TDVMCALL: the TDX module refused our operands"); // the host cannot cause it
  if (out) *out = (struct tdx_vmcall){ r.r11, r.r12, r.r13, r.r14, r.r15 };
  return r.r10;
}

static int vmcall_errno(u64 r10) {
  switch (r10) {
  case TDVMCALL_SUCCESS: return 0;
  case TDVMCALL_RETRY: return -EAGAIN;
  case TDVMCALL_GPA_IN_USE: return -EBUSY;
  case TDVMCALL_UNSUPPORTED: return -EOPNOTSUPP;
  default: return -EINVAL;
  }
}

int tdx_vmcall_get_quote(phys_t shared, u64 len_bytes) {
  return vmcall_errno(tdx_vmcall(VMCALL_GET_QUOTE, shared | pte_shared_bit, len_bytes, 0, 0, NULL));
}

int tdx_vmcall_setup_event_notify(u32 vector) {
  return vmcall_errno(tdx_vmcall(VMCALL_EVENT_NOTIFY, vector, 0, 0, 0, NULL));
}

// Sleeps until an interrupt is there for this CPU, which is not delivered before the caller enables interrupts: R12 is 0
// ("not blocked") although they are off, so a request that came before the call ends it at once, and none is lost
// between looking for work and sleeping.
void tdx_halt(void) { tdx_vmcall(VMCALL_HLT, 0, 0, 0, 0, NULL); }
void tdx_halt_blocked(void) { tdx_vmcall(VMCALL_HLT, 1, 0, 0, 0, NULL); }

// A host that says no, where no honest one does, gets no further: what was lost could be a doorbell or a timer, and the
// machine would hang. The first time ends it; what the end itself asks for is lost quietly.
void tdx_refused(const char *what, u64 at, u64 status) {
  static u32 seen;
  if (!__atomic_exchange_n(&seen, 1, __ATOMIC_ACQ_REL)) panic("the host refuses %s %#lx: status %#lx", what, at, status);
}

u64 tdx_vmcall_retry(u64 fn, u64 r12, u64 r13, u64 r14, u64 r15, struct tdx_vmcall *out) {
  u64 r10 = tdx_vmcall(fn, r12, r13, r14, r15, out);
  for (u32 i = 0; r10 == TDVMCALL_RETRY && i < BUSY_RETRIES; i++) r10 = tdx_vmcall(fn, r12, r13, r14, r15, out);
  return r10;
}

// The x2APIC registers that the module does not emulate, and the timer: the only MSRs that the host is asked about. An
// interrupt carries no information (threat-model T15), so neither does what the host says here.
static void check_msr(u32 msr) {
  switch (msr) {
  case 0x802: case 0x803: case 0x80f: case 0x830: case 0x832 ... 0x839: case 0x83e: case MSR_TSC_DEADLINE: return;
  default: panic("MSR %#x is not on the list", msr);
  }
}

u64 tdx_msr_read(u32 msr) {
  struct tdx_vmcall out;
  check_msr(msr);
  u64 r10 = tdx_vmcall_retry(VMCALL_RDMSR, msr, 0, 0, 0, &out);
  if (r10) tdx_refused("to read MSR", msr, r10);
  return r10 ? 0 : out.r11;
}

void tdx_msr_write(u32 msr, u64 v) {
  check_msr(msr);
  u64 r10 = tdx_vmcall_retry(VMCALL_WRMSR, msr, v, 0, 0, NULL);
  if (r10) tdx_refused("to write MSR", msr, r10);
}

// The host may do a part and ask to be called again for the rest, or not get on for a while. Its answer only says where
// to go on; it must be inside what is left, and may stay where it is only so many times.
void tdx_share(phys_t pa, u64 len_bytes) {
  phys_t end = pa + len_bytes;
  for (u32 stuck = 0; pa < end;) {
    struct tdx_vmcall out;
    u64 r10 = tdx_vmcall(VMCALL_MAP_GPA, pa | pte_shared_bit, end - pa, 0, 0, &out);
    if (r10 == TDVMCALL_SUCCESS) return;
    phys_t next = out.r11 & ~pte_shared_bit;
    if (r10 != TDVMCALL_RETRY) panic("MapGPA: the host refused shared memory at %#lx, status %#lx", pa, r10);
    if (next < pa || next >= end || !IS_ALIGNED(next, PAGE_SIZE)) panic("MapGPA: the host answered with address %#lx", out.r11);
    if (next == pa && ++stuck > MAP_GPA_RETRIES) panic("MapGPA: the host gets no further than %#lx", pa);
    if (next > pa) stuck = 0;
    pa = next;
  }
}

void tdx_set_fatal_page(u8 *va, phys_t phys) { fatal_page.va = va, fatal_page.phys = phys; }

__noreturn void tdx_fatal(const char *text) {
  struct tdx_regs r = { .rcx = VMCALL_MASK_FATAL, .r11 = VMCALL_FATAL };
  u8 short_text[FATAL_TEXT_BYTES] = { 0 };
  strlcpy((char *)short_text, text, sizeof(short_text));
  u64 *const order[] = { &r.r14, &r.r15, &r.rbx, &r.rdi, &r.rsi, &r.r8, &r.r9, &r.rdx }; // GHCI 3.4
  for (u32 i = 0; i < ARRAY_SIZE(order); i++) memcpy(order[i], short_text + 8 * i, 8);
  u8 *page = __atomic_exchange_n(&fatal_page.va, NULL, __ATOMIC_ACQ_REL); // once: writing it may be the host's #VE
  if (page) {
    strlcpy((char *)page, text, PAGE_SIZE);
    r.r12 = BIT(63);
    r.r13 = fatal_page.phys | pte_shared_bit;
  }
  tdx_call(TDG_VP_VMCALL, &r);
  arch_stop_this();
}

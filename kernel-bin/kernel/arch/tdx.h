// SPDX-License-Identifier: Apache-2.0
//
// The TDX guest interface: TDCALL leaves of the TDX module (trusted) and TDVMCALLs to the host (not trusted), TDX module
// 1.5 ABI and GHCI 1.5. Higher rooms use it for attestation; ports, MSRs and device memory go through host/, which
// calls here. Any context unless said otherwise; no lock is taken but where it says so. In an ordinary VM only tdx_active
// may be called.
//
// Physical addresses are of private memory (the direct map's: virt_phys) unless a name says `shared`; shared ones are
// given without the shared bit, as shared_buf has them.
#ifndef ARCH_TDX_H
#define ARCH_TDX_H
#include "arch/arch.h"

static inline bool tdx_active(void) { return in_td; }

// What TDG.VP.INFO said at boot. Trusted: the module's.
struct tdx_info { u64 attributes; u32 gpaw, vcpus, max_vcpus; };
extern struct tdx_info tdx_info;
#define TDX_ATTR_DEBUG BIT(0)
#define TDX_ATTR_SEPT_VE_DISABLE BIT(28)

// --- the raw call. In: every register below; out: the same, as the module (leaf 0: the host) left them. RAX.
struct tdx_regs { u64 rcx, rdx, r8, r9, r10, r11, r12, r13, r14, r15, rbx, rdi, rsi; };
u64 tdx_call(u64 leaf, struct tdx_regs *r);
enum { TDG_VP_VMCALL = 0, TDG_VP_INFO = 1, TDG_MR_RTMR_EXTEND = 2, TDG_VP_VEINFO_GET = 3, TDG_MR_REPORT = 4,
  TDG_VP_CPUIDVE_SET = 5, TDG_MEM_PAGE_ACCEPT = 6, TDG_VM_RD = 7, TDG_VM_WR = 8 };
#define TDX_SUCCESS 0ul
#define TDX_OPERAND_BUSY 0x8000020000000000ul
#define TDX_OPERAND_INVALID 0xc000010000000000ul
#define TDX_PAGE_ALREADY_ACCEPTED 0x00000b0a00000000ul
#define TDX_PAGE_SIZE_MISMATCH 0xc0000b0b00000000ul
#define TDX_STATUS(rax) ((rax) & 0xffffffff00000000ul) // without the operand

// --- measurement. Status RAX as the module gave it; TDX_OPERAND_BUSY was retried.
u64 tdx_mr_report(phys_t report, phys_t data);         // 1024 bytes, 1024-aligned; 64 bytes, 64-aligned
u64 tdx_mr_rtmr_extend(phys_t digest, unsigned index); // 48 bytes, 64-aligned

// --- memory
// Accepts [pa, pa + len), multiples of 4 KiB: in 2 MiB steps where alignment and the host's mapping allow, else 4 KiB. A
// page that was accepted already counts as done: it may hold what the host put there, so nobody takes it for zeroed.
// Anything else ends the machine.
void tdx_accept(phys_t pa, u64 len_bytes);
extern u64 tdx_accepted_bytes; // since boot; statistics

// --- the host (INPUT: what these return is the host's, see host/host.h for the wrapped forms)
// One TDVMCALL: r10 is 0 (standard call), `fn` r11; r12 to r15 in and out. Returns R10 of the answer. `out` may be NULL.
struct tdx_vmcall { u64 r11, r12, r13, r14, r15; };
u64 tdx_vmcall(u64 fn, u64 r12, u64 r13, u64 r14, u64 r15, struct tdx_vmcall *out);
u64 tdx_vmcall_retry(u64 fn, u64 r12, u64 r13, u64 r14, u64 r15, struct tdx_vmcall *out); // again while R10 says RETRY
void tdx_refused(const char *what, u64 at, u64 status); // the host said no where none should: ends the machine
#define TDVMCALL_SUCCESS 0ul
#define TDVMCALL_RETRY 1ul
#define TDVMCALL_GPA_IN_USE 0x8000000000000001ul
#define TDVMCALL_UNSUPPORTED 0x8000000000000003ul
// GHCI GetQuote: starts it; the answer comes in the buffer. 0, -EAGAIN (ask again later), -EBUSY, -EOPNOTSUPP, -EINVAL.
int __must_check tdx_vmcall_get_quote(phys_t shared, u64 len_bytes);
// The host then sends `vector` (irq_alloc_vector) to this CPU when something that was started is done: a hint, no more.
// 0, -EOPNOTSUPP, -EINVAL.
int __must_check tdx_vmcall_setup_event_notify(u32 vector);
// Tells the host why the machine ends (64 bytes of it in registers, all of it in a shared page when there is one) and
// stops this CPU for good. Any context.
__noreturn void tdx_fatal(const char *text);

#endif

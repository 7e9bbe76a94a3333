// SPDX-License-Identifier: Apache-2.0
//
// One vCPU: its initial state, the loop of runs and exits, exceptions for the TD, control registers. Physical interrupts
// are not intercepted: with them the machine's own APIC does what posted interrupts do. The simulator never takes one: it
// waits for them by running a guest of its own that halts, and leaves without acknowledging.
#include "sim/sim.h"

enum { X_CR_READ = 0x00, X_CR_WRITE = 0x10, X_UD = 0x46, X_NMI = 0x61, X_RDPMC = 0x6f, X_CPUID = 0x72, X_RSM = 0x73, X_INVD = 0x76,
  X_HLT = 0x78, X_INVLPGA = 0x7a, X_IOIO = 0x7b, X_MSR = 0x7c, X_SHUTDOWN = 0x7f, X_VMRUN = 0x80, X_SKINIT = 0x86, X_WBINVD = 0x89,
  X_MONITOR = 0x8a, X_MWAIT = 0x8b, X_NPF = 0x400 };
#define EVENT_VALID BIT(31)
#define EVENT_ERROR BIT(11)
#define EVENT_NMI (2ul << 8)
#define EVENT_EXCEPTION (3ul << 8)
#define EVENT_TYPE (7ul << 8)
#define V_INTR_MASKING BIT(24)
#define EFER_SVME BIT(12)
#define CR0_PE BIT(0)
#define CR0_NE BIT(5)
#define CR0_PG BIT(31)
#define CR4_PAE BIT(5)
#define CR4_MCE BIT(6)
#define CR4_VMXE BIT(13)
#define CR4_SMXE BIT(14)
#define CR4_OSXSAVE BIT(18)
// What `-cpu max` of TCG has: VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT UMIP LA57 FSGSBASE OSXSAVE SMEP SMAP PKE PKS
#define CR4_CPU (0x7fful | BIT(11) | BIT(12) | BIT(16) | BIT(18) | BIT(20) | BIT(21) | BIT(22) | BIT(24))
// Bits whose difference between simulator and TD costs a flush at every entry and exit (QEMU)
#define CR4_MATCH (BIT(4) | BIT(7) | BIT(20) | BIT(21))

static u8 msr_bitmap[8192] __aligned(4096), io_bitmap[3 * 4096] __aligned(4096);

static struct vmcb_seg segment(u16 selector, u32 rights, u32 limit) {
  return (struct vmcb_seg){ selector, (u16)((rights & 0xff) | (rights >> 4 & 0xf00)), limit, 0 };
}

// On the vCPU's own CPU. State: TDX module base specification, initial state of TD vCPUs.
void vcpu_init(struct vcpu *v) {
  static u8 host_save[MAX_CPUS][4096] __aligned(4096);
  static struct vmcb vmcbs[MAX_CPUS] __aligned(4096);
  wrmsr(0xc0000080, rdmsr(0xc0000080) | EFER_SVME);
  wrmsr(0xc0010117, virt_to_phys(host_save[v->index]));
  __asm__ volatile("clgi");
  if (v->index == 0) {
    memset(io_bitmap, 0xff, sizeof(io_bitmap));
    msr_init(msr_bitmap);
  }
  struct vmcb *m = v->vmcb = &vmcbs[v->index];
  m->cr_read = BIT(4);
  m->cr_write = BIT(0) | BIT(4);
  m->exceptions = 1 << 6;
  m->misc1 = (u32)(BIT(1) | BIT(15) | BIT(18) | BIT(19) | BIT(22) | BIT(24) | BIT(26) | BIT(27) | BIT(28) | BIT(31));
  m->misc2 = 0x7f | (u32)(BIT(9) | BIT(10) | BIT(11));
  m->iopm = virt_to_phys(io_bitmap);
  m->msrpm = virt_to_phys(msr_bitmap);
  m->asid = 1;
  m->np_enable = 1;
  m->nested_cr3 = npt_root;
  m->cs = segment(0, 0xc09b, ~0u);
  m->ds = m->es = m->ss = m->fs = m->gs = segment(0, 0xc093, ~0u);
  m->ldtr = segment(0, 0x10082, 0);
  m->tr = segment(0, 0x8b, 0xffff);
  m->gdtr.limit = 0xffff;
  m->idtr.limit = 0;
  m->efer = 0x901 | EFER_SVME;
  m->cr0 = 0x21;
  v->cr4 = CR4_MCE;
  m->cr4 = CR4_MCE | CR4_PAE;
  m->rip = 0xfffffff0;
  m->rflags = 2;
  m->dr6 = 0xffff0ff0;
  m->dr7 = 0x400;
  m->pat = 0x0007040600070406;
  v->g[RBX] = td.gpaw;
  v->g[RCX] = v->g[R8] = td.hob;
  v->g[RDX] = cpuid(1, 0).eax;
  v->g[RSI] = v->index;
  v->lvt_timer = 0x10000;
  wrmsr(0x277, m->pat);
  u64 cr4;
  __asm__ volatile("movq %%cr4, %0; orq %1, %0; movq %0, %%cr4" : "=&r"(cr4) : "ri"(CR4_OSXSAVE));
  // FS, GS, TR, LDTR and the system call MSRs stay in the CPU from here on: the simulator uses none of them.
  __asm__ volatile("vmload" ::"a"(virt_to_phys(m)));
  local_apic_write(0xf0, 0xff);
}

void inject_exception(struct vcpu *v, u32 vector, bool has_error, u32 error) {
  v->event = EVENT_VALID | EVENT_EXCEPTION | vector | (has_error ? EVENT_ERROR | (u64)error << 32 : 0);
}

// A second #VE before TDG.VP.VEINFO.GET becomes #DF.
void inject_ve(struct vcpu *v, u32 reason, u64 qualification, u64 gla, u64 gpa, u32 length, u32 info) {
  if (v->ve.valid) {
    inject_exception(v, 8, true, 0);
    return;
  }
  v->ve = (struct ve_info){ true, reason, length, info, qualification, gla, gpa };
  inject_exception(v, 20, false, 0);
}

static void ve_instruction(struct vcpu *v, enum counter c, u32 reason, u64 qualification, u32 length) {
  count(v, c);
  inject_ve(v, reason, qualification, 0, 0, length, 0);
}

static u64 *gpr(struct vcpu *v, u32 n) { return n == RSP ? &v->vmcb->rsp : &v->g[n]; }

// MOV to and from CR0 and CR4, CLTS. The TDX module keeps CR0.PE and NE and CR4.MCE at 1; CR4.VMXE is 1 below the TD, which
// sees 0.
static void cr_exit(struct vcpu *v, u32 cr, bool write) {
  struct vmcb *m = v->vmcb;
  u8 b[4];
  count(v, MODULE_CR);
  if (!td_fetch(v, m->rip, b, 2)) return;
  u32 length = 3, rex = 0;
  if ((b[0] & 0xf0) == 0x40 && (m->efer & BIT(10))) {
    rex = b[0];
    length = 4;
  }
  td_fetch(v, m->rip, b, length);
  const u8 *op = b + (rex ? 1 : 0);
  if (op[0] == 0x0f && op[1] == 0x06) { // CLTS
    m->cr0 &= ~BIT(3);
    m->rip += length - 1;
    return;
  }
  if (op[0] != 0x0f || op[1] != (write ? 0x22 : 0x20)) { // LMSW and the like
    inject_gp(v);
    return;
  }
  u64 *r = gpr(v, (op[2] & 7) | (rex & 1) << 3);
  if (!write) {
    *r = v->cr4;
  } else if (cr == 0) {
    u64 value = *r | BIT(4);
    if (!(value & CR0_PE) || !(value & CR0_NE) || value >> 32 || ((value & BIT(29)) && !(value & BIT(30)))) {
      inject_gp(v);
      return;
    }
    if ((value & CR0_PG) && !(m->cr0 & CR0_PG) && (m->efer & BIT(8))) {
      if (!(v->cr4 & CR4_PAE)) {
        inject_gp(v);
        return;
      }
      m->efer |= BIT(10);
    }
    if (!(value & CR0_PG)) m->efer &= ~BIT(10);
    m->cr0 = value;
  } else {
    u64 value = *r;
    bool long_mode = m->efer & BIT(10);
    if ((value & ~(CR4_CPU | CR4_VMXE | CR4_SMXE)) || (long_mode && (!(value & CR4_PAE) || ((value ^ m->cr4) & BIT(12))))
        || ((value & BIT(22)) && !(td.xfam & BIT(9))) || ((value & BIT(24)) && !(td.attributes & BIT(30)))) { // PKE, PKS
      inject_gp(v);
      return;
    }
    if (!(value & CR4_MCE) || (value & (CR4_VMXE | CR4_SMXE))) {
      ve_instruction(v, VE_OTHER, 28, 4 | (u64)((op[2] & 7) | (rex & 1) << 3) << 8, length);
      return;
    }
    v->cr4 = value;
    m->cr4 = (value & CR4_CPU & (m->cr4 | ~CR4_OSXSAVE)) | CR4_PAE; // xsetbv(); without PAE in the TD's CR4, QEMU's #VMEXIT would not restore long mode
  }
  m->rip += length;
}

// QEMU cannot intercept XSETBV. So CR4.OSXSAVE stays off below a TD that turned it on until the first instruction that
// needs it: an XSETBV gets the module's checks against XFAM, anything else runs again. What a later XSETBV does is seen
// at the next exit (vcpu_run). False: the #UD is the TD's own.
static bool xsave_exit(struct vcpu *v, const u8 b[4]) {
  u64 value = (v->g[RDX] << 32) | (u32)v->g[RAX];
  if (!(v->cr4 & CR4_OSXSAVE) || (v->vmcb->cr4 & CR4_OSXSAVE)) return false;
  if (b[0] == 0x0f && b[1] == 0x01 && b[2] == 0xd1) {
    if (v->vmcb->cpl || (u32)v->g[RCX] || (value & ~td.xfam) || !(value & 1) || (value & 6) == 4) {
      inject_gp(v);
      return true;
    }
    __asm__ volatile("xsetbv" ::"c"(0), "a"((u32)value), "d"((u32)(value >> 32)));
    v->vmcb->rip += 3;
  }
  v->vmcb->cr4 |= CR4_OSXSAVE;
  return true;
}

static void ud_exit(struct vcpu *v) {
  u8 b[4] = { 0 };
  if (!td_fetch(v, v->vmcb->rip, b, 2)) return;
  td_fetch(v, v->vmcb->rip, b, 4);
  if (b[0] == 0x66 && b[1] == 0x0f && b[2] == 0x01 && b[3] == 0xcc) {
    bool wide = (v->vmcb->efer & BIT(10)) && (v->vmcb->cs.attributes & BIT(9));
    if (!wide || v->vmcb->cpl != 0) inject_gp(v);
    else tdcall(v);
  } else if (b[0] == 0x0f && b[1] == 0x01 && b[2] == 0xc1) { // VMCALL
    ve_instruction(v, VE_OTHER, 18, 0, 3);
  } else if (!xsave_exit(v, b)) {
    inject_exception(v, 6, false, 0);
  }
}

static void io_exit(struct vcpu *v) {
  u64 info = v->vmcb->exit_info1;
  u64 size = info >> 4 & 7;
  u64 qualification = (size - 1) | (info & 1) << 3 | (info >> 2 & 1) << 4 | (info >> 3 & 1) << 5 | (info >> 16 & 0xffff) << 16;
  ve_instruction(v, VE_IO, 30, qualification, (u32)(v->vmcb->exit_info2 - v->vmcb->rip));
}

static void handle_exit(struct vcpu *v) {
  struct vmcb *m = v->vmcb;
  // An exception that was being delivered is delivered again, unless its delivery must be judged (memory_violation).
  // A hardware interrupt reports type 3 (QEMU): its vector tells.
  u64 interrupted = m->exit_int_info;
  if (interrupted & EVENT_VALID) {
    if ((interrupted & 0xff) >= 32 && (interrupted & EVENT_TYPE) == EVENT_EXCEPTION) interrupted &= ~EVENT_TYPE;
    v->event = interrupted;
  }
  switch (m->exit_code) {
  case X_CR_READ + 4: cr_exit(v, 4, false); break;
  case X_CR_WRITE: cr_exit(v, 0, true); break;
  case X_CR_WRITE + 4: cr_exit(v, 4, true); break;
  case X_UD: ud_exit(v); break;
  case X_NMI:
    host_take_nmi();
    if (v->index == 0) serial_poll();
    break;
  case X_RDPMC: inject_gp(v); break;
  case X_CPUID: cpuid_exit(v); break;
  case X_MSR: msr_exit(v); break;
  case X_IOIO: io_exit(v); break;
  case X_HLT: ve_instruction(v, VE_HLT, 12, 0, 1); break;
  case X_INVD: case X_WBINVD: { // QEMU mixes them up
    u8 b[2] = { 0 };
    td_fetch(v, m->rip, b, 2);
    ve_instruction(v, VE_OTHER, b[1] == 8 ? 13 : 54, 0, 2);
    break;
  }
  case X_MONITOR: ve_instruction(v, VE_OTHER, 39, 0, 3); break;
  case X_MWAIT: ve_instruction(v, VE_OTHER, 36, 0, 3); break;
  case X_RSM: case X_INVLPGA: case X_VMRUN ... X_SKINIT: inject_exception(v, 6, false, 0); break;
  case X_SHUTDOWN: td_stop("triple fault at RIP %#lx", m->rip);
  case X_NPF: memory_violation(v); break;
  default:
    td_stop("exit %#lx (%#lx, %#lx) at RIP %#lx CR0 %#lx CR3 %#lx CR4 %#lx", m->exit_code, m->exit_info1, m->exit_info2, m->rip,
            m->cr0, m->cr3, m->cr4);
  }
}

// TDVMCALL<HLT>: until an interrupt is pending, or an NMI came. SVM's own HLT would acknowledge the interrupt, so the CPU
// halts in a guest that has nothing but the simulator's page tables, and whose interrupts are intercepted.
void vcpu_wait(struct vcpu *v) {
  extern char idle_code[];
  static struct vmcb vmcbs[MAX_CPUS] __aligned(4096);
  struct vmcb *m = &vmcbs[v->index];
  u64 g[16];
  if (!m->asid) {
    m->misc1 = 3; // INTR, NMI
    m->misc2 = 1; // VMRUN
    m->asid = 2;
    m->int_control = (u32)V_INTR_MASKING;
    m->cs = segment(8, 0xa09b, ~0u);
    m->ds = m->es = m->ss = segment(0x18, 0xc093, ~0u);
    m->efer = rdmsr(0xc0000080);
    __asm__("movq %%cr3, %0" : "=r"(m->cr3));
    __asm__("movq %%cr0, %0" : "=r"(m->cr0));
    m->dr6 = 0xffff0ff0;
    m->dr7 = 0x400;
  }
  __asm__("movq %%cr4, %0" : "=r"(m->cr4));
  m->rip = (u64)(uptr)idle_code;
  m->rflags = 2;
  __asm__ volatile("sti"); // looked at by VMRUN alone: GIF is 0
  svm_run(virt_to_phys(m), g);
  __asm__ volatile("cli");
  if (m->exit_code == X_NMI) host_take_nmi();
}

__noreturn void vcpu_run(struct vcpu *v) {
  struct vmcb *m = v->vmcb;
  u64 phys = virt_to_phys(m), host_cr4, want;
  __asm__("movq %%cr4, %0" : "=r"(host_cr4));
  for (;;) {
    if (!v->event && v->nmi_pending) {
      v->nmi_pending = 0;
      v->event = EVENT_VALID | EVENT_NMI | 2;
    }
    m->event_injection = v->event;
    v->event = 0;
    want = (host_cr4 & ~CR4_MATCH) | (m->cr4 & CR4_MATCH);
    if (want != host_cr4) {
      host_cr4 = want;
      __asm__ volatile("movq %0, %%cr4" ::"r"(want));
    }
    m->rax = v->g[RAX];
    __atomic_store_n(&v->in_guest, 1, __ATOMIC_SEQ_CST);
    svm_run(phys, v->g);
    count(v, SVM_EXITS);
    __atomic_store_n(&v->in_guest, 0, __ATOMIC_SEQ_CST);
    v->g[RAX] = m->rax;
    if (unlikely(xgetbv() & ~td.xfam)) td_stop("XCR0 %#lx, XFAM %#lx: the module had refused that XSETBV", xgetbv(), td.xfam);
    handle_exit(v);
  }
}

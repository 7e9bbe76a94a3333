// SPDX-License-Identifier: Apache-2.0
//
// Start: parameters, the right paging mode, all CPUs; CPU 0 builds the TD, then all enter it.
#include "sim/sim.h"

struct td td = { .gpaw = 48 };
struct vcpu vcpus[MAX_CPUS];
bool la57;
static u32 ready, go;

// The simulator's own page tables: everything one to one in 1 GiB pages, and itself at SIM_VMA.
static u64 pml5[512] __aligned(4096), pml4[512] __aligned(4096), pdpt[512] __aligned(4096);
static u64 pdpt_high[512] __aligned(4096), pd_high[512] __aligned(4096);

static void build_page_tables(void) {
  for (u64 i = 0; i < 512; i++) pdpt[i] = i << 30 | 0x83;
  for (u64 i = 0; i < SIM_BYTES >> 21; i++) pd_high[i] = (sim_phys + (i << 21)) | 0x83;
  pdpt_high[510] = virt_to_phys(pd_high) | 3;
  pml4[0] = virt_to_phys(pdpt) | 3;
  pml4[511] = virt_to_phys(pdpt_high) | 3;
  pml5[0] = pml5[511] = virt_to_phys(pml4) | 3;
}

// In 4-level paging, CPU 0 alone; `phys` is where boot.S put the simulator.
__noreturn void sim_early(u64 phys) {
  extern char trampoline_start[], trampoline_end[], trampoline_cr3[], trampoline_cr4[], trampoline_final_cr3[];
  extern __noreturn void trampoline_enter(void);
  sim_phys = phys;
  host_setup_idt();
  host_init();
  u64 gpaw;
  if (fwcfg_number("gpaw", &gpaw)) {
    if (gpaw != 48 && gpaw != 52) panic("opt/gramine/sim-gpaw: 48 or 52, got %lu", gpaw);
    td.gpaw = (u32)gpaw;
  }
  la57 = td.gpaw == 52;
  build_page_tables();
  memcpy(PHYS(TRAMPOLINE), trampoline_start, (size_t)(trampoline_end - trampoline_start));
  char *t = PHYS(TRAMPOLINE);
  *(u32 *)(t + (trampoline_cr3 - trampoline_start)) = la57 ? LOW_TABLES : LOW_TABLES + 0x1000;
  *(u32 *)(t + (trampoline_cr4 - trampoline_start)) = la57 ? 0x1020 : 0x20;
  *(u64 *)(t + (trampoline_final_cr3 - trampoline_start)) = virt_to_phys(la57 ? pml5 : pml4);
  trampoline_enter();
}

// Every CPU, on its own stack, in the final paging mode.
__noreturn void sim_cpu(u32 index) {
  if (index >= MAX_CPUS) panic("APIC id %u: at most %u vCPUs", index, MAX_CPUS);
  struct vcpu *v = &vcpus[index];
  v->index = index;
  host_setup_idt();
  if (index == 0) {
    td.num_vcpus = host_cpu_count();
    if (td.num_vcpus > MAX_CPUS) panic("-smp %u: at most %u", td.num_vcpus, MAX_CPUS);
    tsc_calibrate_begin();
    if (td.num_vcpus > 1) host_start_cpus();
    td_build();
    tsc_calibrate_end();
    cpuid_init();
    vcpu_init(v);
    while (__atomic_load_n(&ready, __ATOMIC_ACQUIRE) != td.num_vcpus - 1) cpu_relax();
    memset(PHYS(0), 0, LOW_USED_END);
    say("sim.tsc_hz=%lu", tsc_hz);
    say("sim.start=1");
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
  } else {
    atomic_inc(&ready);
    while (!__atomic_load_n(&go, __ATOMIC_ACQUIRE)) cpu_relax();
    vcpu_init(v);
  }
  vcpu_run(v);
}

// SPDX-License-Identifier: Apache-2.0
//
// The order of initialisation. The first part runs on the boot stack with interrupts off, one CPU, and as little as
// possible; the rest in the first kernel thread.
#include "boot/internal.h"
#include "boot/layout.h"
#include "arch/internal.h"
#include "arch/tdx.h"
#include "host/internal.h"
#include "page/internal.h"
#include "drv/drv.h"
#include "sys/sys.h"

#define CFV_HEADER_BYTES 16
#define XAPIC_PHYS 0xfee00000ul
#define HPET_PHYS 0xfed00000ul

const u8 *boot_record;
size_t boot_record_len;

static struct spinlock console_lock = SPINLOCK_INIT(RANK_CONSOLE);

static void console_sink(const char *text, size_t len) {
  static struct cpu *writer; // holds the lock
  u64 flags = irq_save();
  struct cpu *me = this_cpu();
  bool again = READ_ONCE(writer) == me, locked = false; // the serial port itself ended the machine (tdx_refused)
  // While panicking the lock may belong to a CPU that was stopped.
  for (unsigned i = 0; !again && !(locked = spin_trylock(&console_lock)) && !(panicking && i > 100000); i++) cpu_relax();
  if (locked) WRITE_ONCE(writer, me);
  host_serial_write(text, len);
  if (locked) {
    WRITE_ONCE(writer, NULL);
    spin_unlock(&console_lock);
  }
  irq_restore(flags);
}

// The end of every road that is not an orderly one. Printed already. It touches shared memory, where a host that is not
// satisfied with the end of the machine can make a #VE: whoever comes here a second time says no more than ReportFatalError
// carries in registers.
static u32 ending;

static __noreturn void end(const char *text) {
  irq_disable();
  if (!__atomic_exchange_n(&ending, 1, __ATOMIC_ACQ_REL)) {
    arch_stop_others();
    control_send_last_words(text);
  }
  host_stop(text);
}

static __noreturn void stop(const char *text) {
  irq_disable();
  if (!__atomic_load_n(&ending, __ATOMIC_ACQUIRE)) backtrace(__builtin_frame_address(0));
  end(text);
}

// One copy of the record out of the memory that the host filled; everything is parsed from this copy.
static void copy_record(void) {
  const u8 *cfv = phys_virt(cfv_phys);
  u8 header[CFV_HEADER_BYTES];
  memcpy(header, cfv, sizeof(header));
  size_t len = attest_cfv_bytes(header, CFV_BYTES);
  if (!len) panic("the image has no launch record");
  u8 *copy = phys_virt(early_alloc(DIV_ROUND_UP(len, PAGE_SIZE)));
  memcpy(copy, cfv, len);
  memcpy(copy, header, sizeof(header));
  boot_record = copy;
  boot_record_len = len;
}

static void mask_pic(void) {
  if (in_td) return;
  host_out8(0x21, 0xff);
  host_out8(0xa1, 0xff);
}

static void *radix_alloc(size_t size) { return kmalloc(size, ALLOC_NORECLAIM); } // under spinlocks

// In this order; proc before fs, because /proc's super is proc's.
static const struct { const char *name; void (*init)(void); } rooms[] = {
  { "drv", drv_init }, { "file", file_init }, { "proc", proc_init }, { "sys", sys_init }, { "fs", fs_init }, { "net", net_init },
};

// The first kernel thread.
static void boot_thread(void *unused) {
  smp_release();
  radix_set_allocator(radix_alloc, kfree);
  mm_init();
  attest_init(); // and the log level
  printk(LOG_DEBUG, "boot: %u CPU, %lu MiB, TSC %lu kHz, %s", cpu_count, page_total_count() * PAGE_SIZE / MIB, tsc_hz / 1000,
    cpu_info.model[0] ? cpu_info.model : cpu_info.vendor);
  if (in_td) printk(LOG_DEBUG, "boot: TD, GPA width %u, attributes %#lx, %lu MiB accepted", tdx_info.gpaw, tdx_info.attributes, READ_ONCE(tdx_accepted_bytes) / MIB);
  for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
    rooms[i].init();
    printk(LOG_DEBUG, "%s: ready", rooms[i].name);
  }
  drv_boot_over();
  proc_start_init();
}

__attribute__((no_stack_protector)) __noreturn void kernel_main(u64 td) {
  printk_set_sink(console_sink);
  panic_set_stop(stop);
  host_set_end(end);
  arch_early_init(td != 0);
  if (in_td) td_check_attributes();
  random_init();
  __stack_chk_guard = random_u64() & ~0xfful; // a zero byte: string overflows stop at it

  copy_record();
  u64 memory = 0;
  u32 count = 1;
  if (attest_early_vm(boot_record, boot_record_len, &memory, &count)) panic("the launch record is not valid");
  if (count > MAX_CPUS) panic("%u CPUs; %u are possible", count, MAX_CPUS);
  if (in_td) td_check_resources(memory, count);

  phys_t pool;
  u64 pool_bytes = shared_pool_bytes(memory);
  page_early_init(memory, pool_bytes, &pool);
  if (in_td) tdx_share(pool, pool_bytes);
  u8 *pool_va = kmap_phys(pool, pool_bytes, PTE_W | PTE_NX | pte_shared_bit);
  if (!pool_va) panic("no memory for the shared pool");
  shared_pool_init(pool_va, pool, pool_bytes);
  if (in_td) {
    struct shared_buf b;
    if (shared_alloc(&b, PAGE_SIZE)) panic("no memory for last words");
    tdx_set_fatal_page(b.va, b.phys);
  }
  host_set_mapper(kmap_phys);

  mask_pic();
  apic_init(apic_is_x2() ? NULL : kmap_phys(XAPIC_PHYS, PAGE_SIZE, PTE_W | PTE_NX | PTE_PCD));
  smp_start(count);
  time_init(in_td ? NULL : kmap_phys(HPET_PHYS, PAGE_SIZE, PTE_W | PTE_NX | PTE_PCD));
  printk_set_clock(time_ns);
  smp_finish(count);
  task_init(boot_thread);
}

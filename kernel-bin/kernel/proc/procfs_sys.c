// SPDX-License-Identifier: Apache-2.0
//
// /proc outside of processes: memory, CPUs, time, and the sysctls that programs read.
#include "attest/attest.h"
#include "proc/procfs.h"
#include <linux/stat.h>

#define REG(mode) (S_IFREG | (mode))
#define TICK_NS 10000000ul

static int show_meminfo(struct seq *q, struct proc_ref *r) {
  u64 cached, dirty, total = page_total_count(), free = page_free_count();
  pagecache_counts(&cached, &dirty);
  struct { const char *name; u64 pages; } rows[] = {
    { "MemTotal", total }, { "MemFree", free }, { "MemAvailable", MIN(free + cached - dirty, total) }, { "Buffers", 0 }, { "Cached", cached },
    { "SwapCached", 0 }, { "Active", cached / 2 }, { "Inactive", cached - cached / 2 }, { "SwapTotal", 0 }, { "SwapFree", 0 }, { "Dirty", dirty },
    { "Writeback", 0 }, { "AnonPages", total - free > cached ? total - free - cached : 0 }, { "Mapped", cached / 2 }, { "Shmem", 0 }, { "Slab", 0 },
    { "CommitLimit", total }, { "Committed_AS", total - free } };
  for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
    size_t len = strlen(rows[i].name);
    seq_printf(q, "%s:%*lu kB\n", rows[i].name, (int)(23 - len), rows[i].pages * 4);
  }
  seq_printf(q, "VmallocTotal:   34359738367 kB\nVmallocUsed:           0 kB\nHugePages_Total:       0\nHugePages_Free:        0\n"
    "HugePages_Rsvd:        0\nHugePages_Surp:        0\nHugepagesize:       2048 kB\nHugetlb:               0 kB\n");
  return 0;
}

static int show_cpuinfo(struct seq *q, struct proc_ref *r) {
  char *flags = kmalloc(PAGE_SIZE, 0);
  if (!flags) return -ENOMEM;
  cpu_flags_string(flags, PAGE_SIZE);
  u64 khz = tsc_hz / 1000;
  for (u32 i = 0; i < cpu_count; i++) {
    seq_printf(q, "processor\t: %u\nvendor_id\t: %s\ncpu family\t: %u\nmodel\t\t: %u\nmodel name\t: %s\nstepping\t: %u\nmicrocode\t: 0x1\n", i, cpu_info.vendor,
      cpu_info.family, cpu_info.model_no, cpu_info.model, cpu_info.stepping);
    seq_printf(q, "cpu MHz\t\t: %lu.%03lu\ncache size\t: 16384 KB\nphysical id\t: 0\nsiblings\t: %u\ncore id\t\t: %u\ncpu cores\t: %u\napicid\t\t: %u\n"
      "initial apicid\t: %u\nfpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: 13\nwp\t\t: yes\nflags\t\t: %s\nbugs\t\t:\n", khz / 1000, khz % 1000, cpu_count, i,
      cpu_count, cpus[i]->apic_id, cpus[i]->apic_id, flags);
    seq_printf(q, "bogomips\t: %lu.%02lu\nclflush size\t: 64\ncache_alignment\t: 64\naddress sizes\t: 46 bits physical, 48 bits virtual\npower management:\n\n",
      khz / 500, khz / 5 % 100);
  }
  kfree(flags);
  return 0;
}

// Time that a CPU was not idle is told as user time: it is not split per CPU.
static void cpu_line(struct seq *q, const char *name, u64 busy, u64 idle) {
  seq_printf(q, "%s %lu 0 0 %lu 0 0 0 0 0 0\n", name, busy / TICK_NS, idle / TICK_NS);
}

static void count_threads(u32 *processes, u32 *running, u32 *threads, int *last) {
  *running = *threads = 0;
  *last = 0;
  struct process *p;
  struct lwp *l;
  u64 flags = spin_lock_irqsave(&process_lock);
  *processes = process_count;
  list_for_each(p, &process_list, all) {
    *last = MAX(*last, p->pid);
    list_for_each(l, &p->threads, in_process) {
      ++*threads;
      if (READ_ONCE(l->thread->state) != THREAD_SLEEPING) ++*running;
    }
  }
  spin_unlock_irqrestore(&process_lock, flags);
}

static int show_stat(struct seq *q, struct proc_ref *r) {
  u64 now = time_ns(), idle = 0, irqs = 0;
  u32 processes, running, threads;
  int last;
  for (u32 i = 0; i < cpu_count; i++) idle += cpu_idle_ns(i), irqs += cpus[i]->irq_count;
  cpu_line(q, "cpu ", now * cpu_count > idle ? now * cpu_count - idle : 0, idle);
  for (u32 i = 0; i < cpu_count; i++) {
    char name[8];
    u64 one = cpu_idle_ns(i);
    snprintf(name, sizeof name, "cpu%u", i);
    cpu_line(q, name, now > one ? now - one : 0, one);
  }
  count_threads(&processes, &running, &threads, &last);
  seq_printf(q, "intr %lu\nctxt 0\nbtime %lu\nprocesses %d\nprocs_running %u\nprocs_blocked 0\nsoftirq 0\n", irqs, (time_realtime_ns() - now) / NS_PER_SEC, last, running);
  return 0;
}

static int show_uptime(struct seq *q, struct proc_ref *r) {
  u64 now = time_ns(), idle = 0;
  for (u32 i = 0; i < cpu_count; i++) idle += cpu_idle_ns(i);
  seq_printf(q, "%lu.%02lu %lu.%02lu\n", now / NS_PER_SEC, now / TICK_NS % 100, idle / NS_PER_SEC, idle / TICK_NS % 100);
  return 0;
}

static int show_loadavg(struct seq *q, struct proc_ref *r) {
  u32 processes, running, threads;
  int last;
  count_threads(&processes, &running, &threads, &last);
  for (unsigned i = 0; i < 3; i++) {
    u32 v = sched_load_avg(i);
    seq_printf(q, "%u.%02u ", v >> 11, ((v & 2047) * 100) >> 11);
  }
  seq_printf(q, "%u/%u %d\n", running, threads, last);
  return 0;
}

static int show_version(struct seq *q, struct proc_ref *r) {
  seq_printf(q, "Linux version %s (gramine-tdx) (gcc) %s\n", KERNEL_RELEASE, KERNEL_VERSION);
  return 0;
}

static int show_vmstat(struct seq *q, struct proc_ref *r) {
  u64 cached, dirty;
  pagecache_counts(&cached, &dirty);
  seq_printf(q, "nr_free_pages %lu\nnr_file_pages %lu\nnr_dirty %lu\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n", page_free_count(), cached, dirty);
  return 0;
}

// --- links and sysctls
static int link_self(struct proc_ref *r, char *buf, size_t size) {
  return lwp_current() ? snprintf(buf, size, "%d", process_current()->pid) : -ENOENT; // boot's own threads are no processes
}
static int link_thread_self(struct proc_ref *r, char *buf, size_t size) {
  return lwp_current() ? snprintf(buf, size, "%d/task/%d", process_current()->pid, lwp_current()->tid) : -ENOENT;
}
static int link_mounts(struct proc_ref *r, char *buf, size_t size) { return snprintf(buf, size, "self/mounts"); }
static int link_net(struct proc_ref *r, char *buf, size_t size) { return snprintf(buf, size, "self/net"); }

char proc_nodename[65];
static int show_hostname(struct seq *q, struct proc_ref *r) {
  seq_printf(q, "%s\n", proc_nodename[0] ? proc_nodename : host_hints.hostname[0] ? host_hints.hostname : "localhost");
  return 0;
}
static int show_osrelease(struct seq *q, struct proc_ref *r) { seq_printf(q, "%s\n", KERNEL_RELEASE); return 0; }
static int show_kernel_version(struct seq *q, struct proc_ref *r) { seq_printf(q, "%s\n", KERNEL_VERSION); return 0; }

static void print_uuid(struct seq *q, const u8 b[16]) {
  for (int i = 0; i < 16; i++) seq_printf(q, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
  seq_printf(q, "\n");
}
static void make_uuid(u8 b[16]) { // RFC 4122, version 4
  random_bytes(b, 16);
  b[6] = (u8)((b[6] & 0x0f) | 0x40);
  b[8] = (u8)((b[8] & 0x3f) | 0x80);
}
static int show_uuid(struct seq *q, struct proc_ref *r) {
  u8 b[16];
  make_uuid(b);
  print_uuid(q, b);
  return 0;
}
static int show_boot_id(struct seq *q, struct proc_ref *r) {
  static u8 id[16];
  static u32 state;
  u32 none = 0;
  if (__atomic_compare_exchange_n(&state, &none, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
    make_uuid(id);
    __atomic_store_n(&state, 2, __ATOMIC_RELEASE);
  }
  while (__atomic_load_n(&state, __ATOMIC_ACQUIRE) != 2) cpu_relax();
  print_uuid(q, id);
  return 0;
}
static int show_threads_max(struct seq *q, struct proc_ref *r) { seq_printf(q, "%lu\n", page_total_count() / 8); return 0; }

#define TEXT(n, t) { .name = n, .mode = REG(0444), .text = t "\n" }
#define DIR(n, c) { .name = n, .mode = S_IFDIR | 0555, .children = c }
static const struct proc_entry random_children[] = {
  { .name = "boot_id", .mode = REG(0444), .show = show_boot_id }, { .name = "uuid", .mode = REG(0444), .show = show_uuid },
  TEXT("entropy_avail", "256"), TEXT("poolsize", "256"), { 0 } };
static const struct proc_entry kernel_children[] = {
  TEXT("cap_last_cap", "40"), TEXT("core_pattern", "core"), { .name = "hostname", .mode = REG(0444), .show = show_hostname }, TEXT("domainname", "(none)"),
  TEXT("ngroups_max", "65536"), { .name = "osrelease", .mode = REG(0444), .show = show_osrelease }, TEXT("ostype", "Linux"), TEXT("pid_max", "4194304"),
  TEXT("randomize_va_space", "2"), DIR("random", random_children), TEXT("sched_child_runs_first", "0"), TEXT("shmall", "268435456"), TEXT("shmmax", "1099511627776"),
  TEXT("shmmni", "256"), { .name = "threads-max", .mode = REG(0444), .show = show_threads_max },
  { .name = "version", .mode = REG(0444), .show = show_kernel_version }, TEXT("yama", "0"), { 0 } };
static const struct proc_entry vm_children[] = {
  TEXT("max_map_count", "65530"), TEXT("mmap_min_addr", "65536"), TEXT("nr_hugepages", "0"),
  TEXT("overcommit_memory", "1"), // reservations are never refused for lack of memory
  TEXT("overcommit_ratio", "50"), TEXT("swappiness", "0"), { 0 } };
static const struct proc_entry core_children[] = { TEXT("rmem_default", "212992"), TEXT("rmem_max", "212992"), TEXT("somaxconn", "4096"), TEXT("wmem_default", "212992"),
  TEXT("wmem_max", "212992"), { 0 } };
static const struct proc_entry ipv4_children[] = { TEXT("ip_local_port_range", "32768\t60999"), TEXT("tcp_max_syn_backlog", "4096"), { 0 } };
static const struct proc_entry sys_net_children[] = { DIR("core", core_children), DIR("ipv4", ipv4_children), { 0 } };
static const struct proc_entry sys_fs_children[] = { TEXT("file-max", "9223372036854775807"), TEXT("nr_open", "1048576"), TEXT("pipe-max-size", "1048576"), { 0 } };
static const struct proc_entry sys_children[] = { DIR("fs", sys_fs_children), DIR("kernel", kernel_children), DIR("net", sys_net_children), DIR("vm", vm_children), { 0 } };

// Interfaces: only the loopback exists; connections beyond it go through the bridge without one.
const struct proc_entry proc_net_children[] = {
  TEXT("dev", "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
    "    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0"),
  TEXT("if_inet6", "00000000000000000000000000000001 01 80 10 80       lo"), { 0 } };

static const struct proc_entry root_children[] = {
  TEXT("cgroups", "#subsys_name\thierarchy\tnum_cgroups\tenabled"), TEXT("cmdline", ""), { .name = "cpuinfo", .mode = REG(0444), .show = show_cpuinfo },
  TEXT("devices", "Character devices:\n  1 mem\n  5 /dev/tty\n\nBlock devices:"),
  TEXT("filesystems", "nodev\tsysfs\nnodev\ttmpfs\nnodev\tproc\nnodev\tdevtmpfs\nnodev\tvirtiofs"), { .name = "loadavg", .mode = REG(0444), .show = show_loadavg },
  { .name = "meminfo", .mode = REG(0444), .show = show_meminfo }, { .name = "mounts", .mode = S_IFLNK | 0777, .readlink = link_mounts },
  { .name = "net", .mode = S_IFLNK | 0777, .readlink = link_net }, { .name = "self", .mode = S_IFLNK | 0777, .readlink = link_self },
  { .name = "stat", .mode = REG(0444), .show = show_stat }, DIR("sys", sys_children), { .name = "thread-self", .mode = S_IFLNK | 0777, .readlink = link_thread_self },
  { .name = "uptime", .mode = REG(0444), .show = show_uptime }, { .name = "version", .mode = REG(0444), .show = show_version },
  { .name = "vmstat", .mode = REG(0444), .show = show_vmstat }, { 0 } };
const struct proc_entry proc_root_entry = { .name = "", .mode = S_IFDIR | 0555, .children = root_children, .dynamic = DYNAMIC_PIDS, .each = &proc_pid_entry };

// --- /sys
static int show_cpus(struct seq *q, struct proc_ref *r) {
  seq_printf(q, cpu_count > 1 ? "0-%u\n" : "%u\n", cpu_count - 1);
  return 0;
}
static int show_cpu_id(struct seq *q, struct proc_ref *r) { seq_printf(q, "%d\n", r->id); return 0; }
static int show_cpu_mask(struct seq *q, struct proc_ref *r) {
  u64 mask = cpu_count >= 64 ? ~0ull : BIT(cpu_count) - 1;
  if (cpu_count > 32) seq_printf(q, "%08x,", (u32)(mask >> 32));
  seq_printf(q, "%08x\n", (u32)mask);
  return 0;
}
static int show_cpu_self(struct seq *q, struct proc_ref *r) {
  u64 mask = BIT(r->id);
  if (cpu_count > 32) seq_printf(q, "%08x,", (u32)(mask >> 32));
  seq_printf(q, "%08x\n", (u32)mask);
  return 0;
}
static int show_node_mem(struct seq *q, struct proc_ref *r) {
  u64 total = page_total_count() * 4, free = page_free_count() * 4;
  seq_printf(q, "Node 0 MemTotal:       %8lu kB\nNode 0 MemFree:        %8lu kB\nNode 0 MemUsed:        %8lu kB\n", total, free, total - free);
  return 0;
}

#define CPUS(n) { .name = n, .mode = REG(0444), .show = show_cpus }
static const struct proc_entry topology_children[] = {
  { .name = "core_id", .mode = REG(0444), .show = show_cpu_id }, { .name = "core_siblings", .mode = REG(0444), .show = show_cpu_mask }, CPUS("core_siblings_list"),
  TEXT("physical_package_id", "0"), { .name = "thread_siblings", .mode = REG(0444), .show = show_cpu_self },
  { .name = "thread_siblings_list", .mode = REG(0444), .show = show_cpu_id }, { 0 } };
static const struct proc_entry cache0_children[] = { TEXT("coherency_line_size", "64"), TEXT("level", "1"), TEXT("type", "Data"), TEXT("size", "32K"),
  { .name = "shared_cpu_list", .mode = REG(0444), .show = show_cpu_id }, { .name = "shared_cpu_map", .mode = REG(0444), .show = show_cpu_self }, { 0 } };
static const struct proc_entry cache_children[] = { DIR("index0", cache0_children), { 0 } };
static const struct proc_entry one_cpu_children[] = { DIR("cache", cache_children), TEXT("online", "1"), DIR("topology", topology_children), { 0 } };
static const struct proc_entry one_cpu = { .name = "cpuN", .mode = S_IFDIR | 0555, .children = one_cpu_children };
static const struct proc_entry cpu_children[] = { TEXT("isolated", ""), TEXT("kernel_max", "63"), TEXT("offline", ""), CPUS("online"), CPUS("possible"), CPUS("present"), { 0 } };
static const struct proc_entry node0_children[] = { CPUS("cpulist"), { .name = "cpumap", .mode = REG(0444), .show = show_cpu_mask }, TEXT("distance", "10"),
  { .name = "meminfo", .mode = REG(0444), .show = show_node_mem }, { 0 } };
static const struct proc_entry node_children[] = { TEXT("has_cpu", "0"), TEXT("has_memory", "0"), DIR("node0", node0_children), TEXT("online", "0"), TEXT("possible", "0"), { 0 } };
static const struct proc_entry clocksource0_children[] = { TEXT("available_clocksource", "tsc"), TEXT("current_clocksource", "tsc"), { 0 } };
static const struct proc_entry clocksource_children[] = { DIR("clocksource0", clocksource0_children), { 0 } };
static const struct proc_entry system_children[] = { DIR("clocksource", clocksource_children),
  { .name = "cpu", .mode = S_IFDIR | 0555, .children = cpu_children, .dynamic = DYNAMIC_CPUS, .each = &one_cpu }, DIR("node", node_children), { 0 } };
static const struct proc_entry devices_children[] = { DIR("system", system_children), { 0 } };
static const struct proc_entry thp_children[] = { TEXT("defrag", "always defer defer+madvise [madvise] never"), TEXT("enabled", "always [madvise] never"),
  TEXT("hpage_pmd_size", "2097152"), { 0 } };
static const struct proc_entry kernel_mm_children[] = { DIR("transparent_hugepage", thp_children), { 0 } };
static const struct proc_entry sys_kernel_children[] = { DIR("mm", kernel_mm_children), { 0 } };
static const struct proc_entry sys_fs_root_children[] = { { 0 } };
static const struct proc_entry sys_root_children[] = { DIR("devices", devices_children), DIR("fs", sys_fs_root_children), DIR("kernel", sys_kernel_children), { 0 } };
const struct proc_entry sys_root_entry = { .name = "", .mode = S_IFDIR | 0555, .children = sys_root_children };

// SPDX-License-Identifier: Apache-2.0
//
// What the memory room asks of processes and files: references of mapped files, page-fault counts, the end of a program
// for which there is no memory.
#include "proc/internal.h"
#include "proc/procfs.h"

static void get_file(struct file *f) { file_get(f); }

static void count_fault(bool major) {
  struct lwp *l = lwp_current();
  if (!l) return;
  if (major) l->majflt++;
  else l->minflt++;
}

static int punch_hole(struct file *f, u64 off, u64 len) {
  if (!f->ops->fallocate) return -EOPNOTSUPP;
  return (int)f->ops->fallocate(f, 3 /* FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE */, off, len);
}

void proc_memory_init(void) {
  mm_hooks = (struct mm_hooks){ .file_get = get_file, .file_put = file_put, .out_of_memory = process_kill_oom,
    .fatal_pending = signal_fatal_pending, .count_fault = count_fault, .punch_hole = punch_hole };
  futex_init();
  vdso_init();
  fs_procfs_create = procfs_create;
  fs_sysfs_create = sysfs_create;
}

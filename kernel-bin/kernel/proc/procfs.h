// SPDX-License-Identifier: Apache-2.0
//
// /proc and the little of /sys that programs read. Everything is a table of names and functions (procfs_*.c, sysfs.c);
// procfs.c turns the tables into inodes. Text is made when a file is opened.
#ifndef PROC_PROCFS_H
#define PROC_PROCFS_H
#include "proc/internal.h"

// What an entry is about. Inodes below /proc/PID hold a reference of the process, which may have ended.
struct proc_ref {
  struct process *p; // NULL: the system
  int tid;           // below task/TID; 0: the process
  int id;            // of a dynamic entry: descriptor, CPU
};
enum proc_dynamic { DYNAMIC_NONE, DYNAMIC_PIDS, DYNAMIC_TIDS, DYNAMIC_FDS, DYNAMIC_FDINFO, DYNAMIC_CPUS };
struct proc_entry {
  const char *name;
  u32 mode;                                                 // type and permissions
  int (*show)(struct seq *s, struct proc_ref *r);           // regular files: 0, -errno (-ESRCH: it ended)
  long (*write)(struct proc_ref *r, char *text, size_t len); // NULL: read-only. text is terminated; bytes taken or -errno
  int (*readlink)(struct proc_ref *r, char *buf, size_t size);
  struct dentry *(*follow)(struct proc_ref *r);             // magic links: referenced; -EOPNOTSUPP: see follow_file
  struct file *(*follow_file)(struct proc_ref *r, u32 flags);
  const struct proc_entry *children;                        // directories; ended by a NULL name
  enum proc_dynamic dynamic;                                // names that a directory has beside its children
  const struct proc_entry *each;                            // what these are
  const char *text;                                         // regular files without show: always the same
};
extern const struct proc_entry proc_root_entry, sys_root_entry;
extern const struct proc_entry proc_pid_entry, proc_sys_children[], proc_net_children[];

struct super *procfs_create(void);
struct super *sysfs_create(void);
void futex_init(void);
void vdso_init(void);

// What belongs to the process or thread, referenced; NULL when it is gone.
struct aspace *proc_ref_aspace(const struct proc_ref *r);
struct fdtable *proc_ref_fds(const struct proc_ref *r);
struct fscontext *proc_ref_fs(const struct proc_ref *r);
#endif

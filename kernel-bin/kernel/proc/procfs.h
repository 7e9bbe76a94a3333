// SPDX-License-Identifier: Apache-2.0
//
// /proc and the little of /sys that programs read. Everything is a table of names and functions (procfs_*.c); procfs.c
// turns them into inodes. Text is made when a file is opened.
#ifndef PROC_PROCFS_H
#define PROC_PROCFS_H
#include "proc/internal.h"

// What a file or directory below /proc/PID is about. Inodes hold a reference of the process.
struct proc_ref { struct process *p; int tid; /* 0: the process */ int fd; };
struct proc_entry {
  const char *name;
  u32 mode;                                             // type and permissions
  int (*show)(struct seq *s, struct proc_ref *r);       // regular files; r->p is NULL for system-wide ones
  long (*write)(struct proc_ref *r, const char *text, size_t len); // NULL: read-only; text is terminated
  int (*readlink)(struct proc_ref *r, char *buf, size_t size);
  struct dentry *(*follow)(struct proc_ref *r);         // magic links: a referenced dentry, ERR_PTR
  struct file *(*follow_file)(struct proc_ref *r);      // the open file behind a magic link: referenced, ERR_PTR
  const struct proc_entry *children;                    // directories: ended by a NULL name
  unsigned dynamic;                                     // directories with names of their own beside `children`
};
enum { DYNAMIC_NONE, DYNAMIC_PIDS, DYNAMIC_TIDS, DYNAMIC_FDS, DYNAMIC_FDINFO, DYNAMIC_CPUS };
extern const struct proc_entry proc_root[], proc_pid_entries[], proc_tid_entries[], sys_root[];
extern const struct proc_entry proc_fd_entry, proc_fdinfo_entry, sys_cpu_entry;

struct super *procfs_create(void);
struct super *sysfs_create(void);
void futex_init(void);
void vdso_init(void);

// For the shows: what belongs to the process, referenced; NULL when it is gone.
struct fdtable *proc_ref_fds(struct proc_ref *r);
struct fscontext *proc_ref_fs(struct proc_ref *r);
#endif

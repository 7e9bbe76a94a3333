// SPDX-License-Identifier: Apache-2.0
//
// /etc/resolv.conf as a file of the kernel's own, for a policy that wants the host's (sys.enable_extra_runtime_domain_names_conf):
// a file system whose root is that file, mounted at its name. The attest room has checked every line (attest/names.c).
#include "fs/internal.h"

static int show(struct seq *s, void *unused) {
  seq_write(s, host_hints.resolv_conf, strlen(host_hints.resolv_conf));
  return 0;
}

static int file_open(struct inode *i, struct file *f) {
  return (f->flags & O_ACCMODE) == O_RDONLY ? seq_open(f, show, NULL) : -EACCES;
}

static const struct inode_ops inode_ops = { .open = file_open };

struct super *resolvconf_create(void) {
  struct super *s = super_create("resolvconf", SUPER_RDONLY | SUPER_NOEXEC);
  struct inode *i = s ? inode_create(s, S_IFREG | 0444) : NULL;
  if (!i) return NULL;
  i->ops = &inode_ops;
  i->fops = &seq_file_ops;
  i->size = strlen(host_hints.resolv_conf);
  return dentry_create_root(s, i) ? s : NULL;
}

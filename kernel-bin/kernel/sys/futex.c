// SPDX-License-Identifier: Apache-2.0
// System calls: futex and the robust list.
#include "sys/sys.h"

#define ROBUST_HEAD_BYTES 24

long sys_futex(u64 addr, u64 op, u64 val, u64 timeout, u64 addr2, u64 val3) {
  return futex_syscall(addr, (int)op, (u32)val, timeout, addr2, (u32)val3);
}

long sys_set_robust_list(u64 head, u64 len) {
  if (len != ROBUST_HEAD_BYTES) return -EINVAL;
  lwp_current()->robust_list = head;
  lwp_current()->robust_list_len = len;
  return 0;
}

long sys_get_robust_list(u64 tid, u64 head_ptr, u64 len_ptr) {
  u64 head = 0, len = ROBUST_HEAD_BYTES;
  long err = 0;
  if ((int)tid) {
    const struct cred *me = cred_current();
    u64 flags = spin_lock_irqsave(&process_lock);
    struct lwp *l = lwp_find_locked((int)tid);
    if (!l) err = -ESRCH;
    else if (l->process != process_current() && me->euid && me->euid != l->process->cred.uid) err = -EPERM;
    else head = l->robust_list;
    spin_unlock_irqrestore(&process_lock, flags);
  } else {
    head = lwp_current()->robust_list;
  }
  if (!err && (copy_to_user(len_ptr, &len, sizeof len) || copy_to_user(head_ptr, &head, sizeof head))) err = -EFAULT;
  return err;
}

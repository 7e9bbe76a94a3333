// SPDX-License-Identifier: Apache-2.0
//
// What the terminal (drv/tty.c) asks about processes: who touches it, and whom its signals reach.

#include "drv/drv.h"
#include "proc/internal.h"

static void terminal_signal(int pgid, int signo) {
  struct ksiginfo si = { .signo = signo, .code = SI_KERNEL };
  if (pgid && signal_send_group(pgid, &si) == 0) return;
  signal_console(signo);
}

static void terminal_caller(struct tty_caller *c) {
  struct process *p = process_current();
  *c = (struct tty_caller){ p->pid, p->pgid, p->sid, p->pid == p->sid };
}

static bool terminal_group_in_session(int pgid, int sid) { return process_group_session(pgid) == sid; }

// POSIX 11.1.4: a background process that may not be stopped gets EIO for a read, and its way for a write.
static int terminal_background(int pgid, int signo) {
  struct lwp *l = lwp_current();
  u64 flags = spin_lock_irqsave(&l->process->sighand->lock);
  bool deaf = (l->blocked & SIGBIT(signo)) || l->process->sighand->action[signo - 1].handler == SIG_IGN;
  spin_unlock_irqrestore(&l->process->sighand->lock, flags);
  if (deaf) return signo == SIGTTIN ? -EIO : 0;
  if (process_group_orphaned(pgid)) return -EIO;
  struct ksiginfo si = { .signo = signo, .code = SI_KERNEL };
  signal_send_group(pgid, &si);
  return -ERESTARTSYS;
}

void terminal_init(void) {
  static const struct tty_hooks hooks = { terminal_signal, terminal_caller, terminal_group_in_session, terminal_background };
  tty_set_hooks(&hooks);
  console_foreground_group = tty_foreground;
  if (!console_is_tty()) return;
  control_on_winsize = tty_set_winsize;
  tty_set_session(1, 1); // process 1's
}

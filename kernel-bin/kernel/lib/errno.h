// SPDX-License-Identifier: Apache-2.0
// Linux's error numbers, and those that stay in the kernel: a syscall that a signal interrupted.
#ifndef LIB_ERRNO_H
#define LIB_ERRNO_H
#include <asm/errno.h>
#define ERESTARTSYS 512           // restart when the handler has SA_RESTART, else EINTR
#define ERESTARTNOINTR 513        // always restart
#define ERESTARTNOHAND 514        // restart only when no handler ran
#define ERESTART_RESTARTBLOCK 516 // restart through lwp->restart
#endif

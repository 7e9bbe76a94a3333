// SPDX-License-Identifier: Apache-2.0
//
// sys: the system call table. A handler checks arguments, copies them in, and calls the room that does the work. Handlers
// take the six argument registers as u64 (declare only as many as are used) and return a value or -errno. They are
// named sys_NAME after Linux's x86-64 table and live in sys/AREA.c: sys/file.c, sys/fs.c, sys/mm.c, sys/process.c,
// sys/signal.c, sys/time.c, sys/net.c, sys/poll.c, sys/misc.c. One that is missing answers -ENOSYS.
#ifndef SYS_SYS_H
#define SYS_SYS_H
#include "proc/proc.h"
void sys_init(void);
#endif

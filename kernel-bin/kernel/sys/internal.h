// SPDX-License-Identifier: Apache-2.0
#ifndef SYS_INTERNAL_H
#define SYS_INTERNAL_H
#include "sys/sys.h"
typedef long (*syscall_fn)(u64, u64, u64, u64, u64, u64);
#define SYSCALL_COUNT 512
struct syscall_entry { syscall_fn fn; const char *name; };
extern const struct syscall_entry syscall_table[SYSCALL_COUNT];
#endif

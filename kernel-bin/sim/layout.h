// SPDX-License-Identifier: Apache-2.0
// Numbers that C and assembly share.
#ifndef SIM_LAYOUT_H
#define SIM_LAYOUT_H
#define SIM_BYTES 0x10000000      // the simulator's own memory: the last 256 MiB of RAM
#define TRAMPOLINE 0x8000
#define LOW_TABLES 0x10000
#define LOW_USED_END 0x20000
#define STACK_SHIFT 14
#define STACK_BYTES (1 << STACK_SHIFT)
#define MAX_CPUS 16
#endif

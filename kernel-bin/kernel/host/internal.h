// SPDX-License-Identifier: Apache-2.0
// host, shared with boot/: what has to be given to this room before it can work.
#ifndef HOST_INTERNAL_H
#define HOST_INTERNAL_H
#include "host/host.h"

void host_set_end(void (*end)(const char *text));                    // what host_fatal does after printing: ends in host_stop
__noreturn void host_stop(const char *text);                         // TD: ReportFatalError; VM: power off
void host_set_mapper(void *(*map)(phys_t pa, size_t len, u64 prot)); // page's kmap_phys
u64 shared_pool_bytes(u64 ram_bytes);                                // a multiple of 2 MiB
void shared_pool_init(u8 *va, phys_t phys, u64 len_bytes);           // mapped (TD: converted) and zeroed by the caller
#endif

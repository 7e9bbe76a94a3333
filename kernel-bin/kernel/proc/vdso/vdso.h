// SPDX-License-Identifier: Apache-2.0
// The data page that the kernel writes and the vdso reads, mapped read-only right below the vdso in every program.
#ifndef PROC_VDSO_VDSO_H
#define PROC_VDSO_VDSO_H
struct vdso_data {
  unsigned seq;            // odd while the kernel changes the rest
  unsigned mult, shift;    // ns = base_ns + ((tsc - base_tsc) * mult >> shift), as arch's time_ns
  unsigned cpu_from_tsc_aux; // RDTSCP's third register is the CPU's number
  unsigned long base_tsc, base_ns;
  long realtime_offset;    // realtime = monotonic + this
};
#endif

// SPDX-License-Identifier: Apache-2.0
//
// Copies between the kernel and a program: range checks, then the assembly that survives faults (uaccess.S).
#include "arch/internal.h"

size_t uaccess_copy(void *dst, const void *src, size_t n);
size_t uaccess_copy_nofault(void *dst, const void *src, size_t n);
size_t uaccess_clear(void *dst, size_t n);
int uaccess_cmpxchg32(void *p, u32 expected, u32 desired, u32 *old);

size_t copy_from_user_partial(void *dst, uptr src, size_t n) {
  return user_range_ok(src, n) ? uaccess_copy(dst, (const void *)src, n) : n;
}
size_t copy_to_user_partial(uptr dst, const void *src, size_t n) {
  return user_range_ok(dst, n) ? uaccess_copy((void *)dst, src, n) : n;
}
int copy_from_user(void *dst, uptr src, size_t n) { return copy_from_user_partial(dst, src, n) ? -EFAULT : 0; }
int copy_to_user(uptr dst, const void *src, size_t n) { return copy_to_user_partial(dst, src, n) ? -EFAULT : 0; }
int clear_user(uptr dst, size_t n) {
  return user_range_ok(dst, n) && uaccess_clear((void *)dst, n) == 0 ? 0 : -EFAULT;
}
int copy_from_user_nofault(void *dst, uptr src, size_t n) {
  return user_range_ok(src, n) && uaccess_copy_nofault(dst, (const void *)src, n) == 0 ? 0 : -EFAULT;
}
int user_cmpxchg32(uptr addr, u32 expected, u32 desired, u32 *old) {
  if (!user_range_ok(addr, 4) || addr % 4) return -EFAULT;
  return uaccess_cmpxchg32((void *)addr, expected, desired, old) ? -EFAULT : 0;
}

// In pieces that never cross a page: what lies behind the NUL may not be mapped.
long strncpy_from_user(char *dst, uptr src, size_t size) {
  if (!size) return -ENAMETOOLONG;
  for (size_t done = 0; done < size;) {
    size_t room = PAGE_SIZE - (src + done) % PAGE_SIZE, n = size - done;
    n = MIN(n, MIN(room, (size_t)256));
    if (!user_range_ok(src + done, n) || uaccess_copy(dst + done, (const void *)(src + done), n)) {
      dst[0] = 0;
      return -EFAULT;
    }
    const char *nul = memchr(dst + done, 0, n);
    if (nul) return nul - dst;
    done += n;
  }
  dst[size - 1] = 0;
  return -ENAMETOOLONG;
}

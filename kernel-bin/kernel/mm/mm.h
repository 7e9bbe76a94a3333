// SPDX-License-Identifier: Apache-2.0
//
// mm: a program's address space: areas (VMAs), page tables, faults, copy-on-write, shootdowns; and memory objects, the
// thing that areas map (page cache of a file, shared anonymous memory).
// Locks: aspace->sem (RANK_VM, sleeping) guards the area tree: read for faults, write for changes. It is never held
// across a wait for the host: a fault that must read a file drops it, waits on the page, and starts over.
// aspace->pt_lock (RANK_PAGETABLE, spin) guards the entries of the page tables. An area's start, end and pgoff change only
// under sem (write), and, when it maps an object, also under the object's lock: memobj_unmap reads them there.
// An entry of a page table holds a reference of the page it maps.
#ifndef MM_MM_H
#define MM_MM_H
#include "task/task.h"

struct file;

// --- memory objects
struct memobj;
struct memobj_ops {
  // The page at `index` (4 KiB units), uptodate and referenced for the caller, brought in if needed. May sleep for the
  // host (interruptibly: -ERESTARTSYS). write: a shared writable mapping is about to be made (mark dirty, allocate).
  // -EFAULT past the end of the object (SIGBUS), -EIO, -EACCES (verification failed), -ENOMEM.
  int (*get_page)(struct memobj *o, u64 index, bool write, struct page **out);
  // Pages in [index, index + n) that are uptodate now, referenced, without sleeping: fault-around. Fills out[i] or NULL.
  void (*peek_pages)(struct memobj *o, u64 index, unsigned n, struct page **out);
  // Called after a page became writable in a shared mapping (no lock but sem held; the page may have left the object
  // since). May be NULL (shared anonymous memory). Entries are not looked at for dirty bits later, so whoever writes
  // pages back clears PG_DIRTY first, then calls memobj_unmap(protect_only), then writes: the next store faults again.
  void (*set_dirty)(struct memobj *o, struct page *p);
  void (*release)(struct memobj *o); // last reference
};
struct memobj {
  struct refcount refs;
  const struct memobj_ops *ops;
  struct spinlock lock;  // RANK_PAGE: guards `areas`; the fs room also keeps its radix tree of pages under it. Never taken
                         // with interrupts off: memobj_unmap waits for shootdowns while it holds it
  struct list areas;     // struct vma.obj_link of every area that maps it
  bool no_writers;       // under lock, for good: no shared area that may write comes any more (F_SEAL_WRITE)
  struct radix pages;
};
void memobj_init(struct memobj *o, const struct memobj_ops *ops);
static inline struct memobj *memobj_get(struct memobj *o) { ref_get(&o->refs); return o; }
void memobj_put(struct memobj *o);
struct memobj *memobj_create_anon(void);  // shared anonymous memory, zero filled; NULL: no memory
// Removes the pages [first, first + n) from every page table that maps them (truncate, hole punching); protect_only:
// makes them read-only there. Private copies stay. The caller has taken the pages out of the object before
// (page->cache.obj no longer the object): a fault that still has one then starts over. No spinlock held; does not sleep
// long (waits for shootdowns only).
void memobj_unmap(struct memobj *o, u64 first, u64 n, bool protect_only);

// --- areas
enum { VMA_READ = 1, VMA_WRITE = 2, VMA_EXEC = 4, VMA_SHARED = 8, VMA_GROWSDOWN = 16, VMA_NORESERVE = 32,
       VMA_HUGE = 64, VMA_NOHUGE = 128, VMA_DONTFORK = 256, VMA_STACK = 512, VMA_VDSO = 1024, VMA_MAYWRITE = 2048,
       VMA_LOCKED = 4096, VMA_WIPEONFORK = 8192, VMA_DONTDUMP = 16384, VMA_BRK = 32768 };
struct vma {
  struct rb_node node;   // aspace->areas, by start
  uptr start, end;
  u32 flags;
  u64 pgoff;             // index in obj of `start`
  struct memobj *obj;    // NULL: private anonymous
  struct file *file;     // for /proc/self/maps and shared write access; referenced; NULL
  struct list obj_link;
  struct aspace *as;
};
struct aspace {
  struct refcount refs;
  struct rwsem sem;
  struct spinlock pt_lock;
  u64 *pgd;
  phys_t pgd_phys;
  struct rb_root areas;
  u32 area_count;
  u64 total_pages, rss_pages, shared_rss_pages, rss_peak_pages, locked_pages, stack_pages, data_pages;
  uptr brk_start, brk, mmap_top, stack_top; // layout chosen at exec
  u64 brk_limit_bytes, stack_limit_bytes, as_limit_bytes, data_limit_bytes; // ~0 in a new space; exec and setrlimit set them
  uptr gap_hint; u64 gap_len; // no gap of gap_len bytes or more lies between gap_hint and mmap_top (vma.c)
  u64 pt_pages;            // page-table pages, under pt_lock
  u64 lock_future;         // mlockall(MCL_FUTURE): VMA_LOCKED or 0
  u64 cpumask[1];        // CPUs that have it loaded
  uptr arg_start, arg_end, env_start, env_end, start_code, end_code, start_data, end_data; // for /proc
  uptr vdso;
  struct file *exe_file;
  u64 auxv[48]; u32 auxv_len; // for /proc/self/auxv
};
struct aspace *aspace_create(void);                       // NULL: no memory
int __must_check aspace_fork(struct aspace *from, struct aspace **out); // copy-on-write copy
static inline struct aspace *aspace_get(struct aspace *as) { ref_get(&as->refs); return as; }
void aspace_put(struct aspace *as);                       // frees all at the last one; may sleep
void aspace_activate(struct aspace *as);                  // of the current thread (exec)

// prot/flags are Linux's PROT_* and MAP_*. `file`'s object comes through obj (referenced by the callee on success).
struct mmap_request { uptr addr; u64 len; int prot; int flags; struct memobj *obj; struct file *file; u64 pgoff; u32 extra_vma_flags; bool file_writable; };
long __must_check mm_mmap(struct aspace *as, const struct mmap_request *rq); // address or -errno
int __must_check mm_munmap(struct aspace *as, uptr addr, u64 len);
int __must_check mm_mprotect(struct aspace *as, uptr addr, u64 len, int prot);
long __must_check mm_mremap(struct aspace *as, uptr old, u64 old_len, u64 new_len, int flags, uptr new_addr);
int __must_check mm_madvise(struct aspace *as, uptr addr, u64 len, int advice);
int __must_check mm_msync(struct aspace *as, uptr addr, u64 len, int flags, int (*sync)(struct file *f, u64 off, u64 len));
int __must_check mm_mincore(struct aspace *as, uptr addr, u64 len, uptr vec);
int __must_check mm_populate(struct aspace *as, uptr addr, u64 len); // MAP_POPULATE, mlock
uptr mm_brk(struct aspace *as, uptr brk);                 // the new or unchanged break
struct vma *vma_find(struct aspace *as, uptr addr);       // first with end > addr; sem held
// Memory of an address space that is not the current one (exec's stack, ptrace-like, /proc/PID/cmdline): count or -errno.
long __must_check mm_access(struct aspace *as, uptr addr, void *buf, size_t len, bool write);
// What a fault that cannot be resolved becomes. proc installs it: sends the signal. For the fault hooks.
struct fault_info { int signo; int code; uptr addr; u32 error; /* of #PF, for the signal frame */ };
void mm_set_fault_signal(void (*deliver)(struct regs *r, const struct fault_info *fi));
// Address of the physical page behind a user address, referenced, for futexes on shared memory. -EFAULT.
int __must_check mm_get_user_page(struct aspace *as, uptr addr, bool write, struct page **out);
void tlb_flush_range(struct aspace *as, uptr start, uptr end); // every CPU that has it loaded; no spinlock held
int __must_check mm_mlock(struct aspace *as, uptr addr, u64 len, bool lock, bool on_fault);
// What [v->start, v->end) has in memory, for smaps; sem held. Pages; pss_bytes: shared ones by their share.
struct vma_stats { u64 rss, anon, huge, private_clean, private_dirty, shared_clean, shared_dirty, pss_bytes; };
void mm_vma_stats(struct vma *v, struct vma_stats *st); // adds to *st
void mm_count_vmas(struct memobj *o, u32 *count); // areas that map it: SysV shm's attach count

// What mm needs of higher rooms (proc/memory.c installs them).
struct mm_hooks {
  void (*file_get)(struct file *f);
  void (*file_put)(struct file *f);          // may sleep
  void (*out_of_memory)(void);               // of the current program: SIGKILL
  bool (*fatal_pending)(void);               // a signal that ends the current thread is pending: give up waiting
  void (*count_fault)(bool major);           // getrusage
  int (*punch_hole)(struct file *f, u64 off, u64 len); // MADV_REMOVE on a file; may sleep
};
extern struct mm_hooks mm_hooks;
#define STACK_GUARD_BYTES (256 * PAGE_SIZE)  // kept free below an area that grows down
#define VMA_COUNT_MAX 65530u                 // vm.max_map_count
void mm_init(void); // installs the fault hooks and the aspace switch
#endif

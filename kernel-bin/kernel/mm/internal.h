// SPDX-License-Identifier: Apache-2.0
//
// mm's own declarations: the area tree (vma.c), page tables (pt.c), shootdowns (tlb.c), faults (fault.c).
#ifndef MM_INTERNAL_H
#define MM_INTERNAL_H
#include "mm/mm.h"

// --- page-table entries of programs. PTE_P: accessible. MM_NONE with P clear: the entry holds a page that the area's
// rights hide (PROT_NONE); kernel-mode accesses must fault on it too, so clearing U would not do.
#define MM_ANON PTE_SW1 // the page is a private copy (refcounted, ours to reuse when exclusive); clear: an object's, or zero_page
#define MM_NONE PTE_SW2
#define MM_PT_NEW (PTE_P | PTE_W | PTE_U | PTE_A)
static inline bool pte_maps(u64 e) { return (e & (PTE_P | MM_NONE)) != 0; }
static inline bool pte_huge(u64 e) { return pte_maps(e) && (e & PTE_PS); }
static inline bool pte_table(u64 e) { return (e & (PTE_P | PTE_PS)) == PTE_P; }
static inline struct page *pte_page(u64 e) { return page_of_phys(e & PTE_ADDR); }
static inline unsigned pt_index(uptr addr, unsigned level) { return (unsigned)(addr >> (PAGE_SHIFT + 9 * (level - 1))) & 511; }
extern phys_t zero_page_phys;

// --- vma.c: the tree; sem held for write
void vma_init(void);
struct vma *vma_alloc(void);                                       // NULL
void vma_free(struct vma *v);                                      // its references were given away
void vma_link(struct aspace *as, struct vma *v);                   // tree, object's list, counts
void vma_unlink(struct aspace *as, struct vma *v);
static inline struct vma *vma_first(struct aspace *as) { struct rb_node *n = rb_first(&as->areas); return n ? rb_entry(n, struct vma, node) : NULL; }
static inline struct vma *vma_next(struct vma *v) { struct rb_node *n = rb_next(&v->node); return n ? rb_entry(n, struct vma, node) : NULL; }
static inline struct vma *vma_prev(struct vma *v) { struct rb_node *n = rb_prev(&v->node); return n ? rb_entry(n, struct vma, node) : NULL; }
void vma_resize(struct vma *v, uptr start, uptr end);              // keeps what each address maps
int __must_check vma_split(struct vma *v, uptr addr);              // v keeps the lower part; -ENOMEM
struct vma *vma_merge(struct vma *v);                              // with both neighbours where possible; the area that v is in now
// Makes [start, end) begin and end at area borders. First area in it (or NULL) through *first.
int __must_check vma_isolate(struct aspace *as, uptr start, uptr end, struct vma **first);
uptr vma_find_gap(struct aspace *as, u64 len, u64 align, uptr low, uptr high); // highest; 0: none
bool vma_range_free(struct aspace *as, uptr start, uptr end);
void vma_count(struct aspace *as, const struct vma *v, s64 pages);
void vma_set_flags(struct vma *v, u32 flags);
// Drops the references of areas taken out of the tree (chained through obj_link). No lock held: releasing may sleep.
void vma_release_list(struct list *dead);

// --- tlb.c
void tlb_init(void);
void aspace_detach_cpus(struct aspace *as); // no CPU has it loaded afterwards

// --- pt.c: all under pt_lock, unless said otherwise
u64 *pt_slot2(struct aspace *as, uptr addr, bool alloc);           // the 2 MiB slot; NULL: no table (or no memory)
u64 *pt_slot1(struct aspace *as, uptr addr, bool alloc);           // the 4 KiB entry; NULL also below a 2 MiB page
u64 pt_entry(struct aspace *as, uptr addr);                        // what maps addr, 0: nothing. A 2 MiB page: PTE_PS set
int __must_check pt_split_huge(struct aspace *as, uptr addr);      // the 2 MiB page at addr into entries; 0 when there is none
u64 pt_bits(u32 vma_flags, bool writable);                         // entry bits without the address
void page_huge_get(struct page *head);                             // one more mapping of a whole 2 MiB page
void page_huge_put(struct page *head);
bool page_huge_exclusive(struct page *head);                       // mapped once, as a whole
void page_huge_break(struct page *head);                           // from now on 512 pages with their own counts

// Pages and tables that leave an address space. They may only be freed after the shootdown.
struct gather {
  struct aspace *as;
  uptr start, end;      // to flush; empty: start >= end
  u64 *items, *page;    // `page`: a page for items, NULL: `few`
  unsigned n, cap;
  u64 few[24];
};
void gather_begin(struct gather *g, struct aspace *as);
void gather_flush(struct gather *g);                               // no spinlock held: shootdown, then free
void gather_end(struct gather *g);
// Unmaps [start, end). Takes pt_lock itself, drops it to flush. -ENOMEM: a border lies in a 2 MiB page that could not be split.
int __must_check pt_zap(struct gather *g, uptr start, uptr end);
void pt_free_tables(struct gather *g, uptr start, uptr end, uptr floor, uptr ceiling); // empty ones, after [start, end) went; sem held for write
void pt_protect(struct aspace *as, uptr start, uptr end, u32 vma_flags); // borders split; takes pt_lock, flushes
int __must_check pt_split_borders(struct aspace *as, uptr start, uptr end); // takes pt_lock; -ENOMEM
int __must_check pt_copy(struct aspace *to, struct aspace *from, uptr start, uptr end); // fork; takes from's pt_lock
int __must_check pt_move(struct aspace *as, uptr from, uptr to, u64 len); // private pages only; the rest is dropped, to fault again
void pt_destroy(struct aspace *as);                                // everything; nobody has it loaded
// For memobj_unmap: entries of the object in [start, end); false: g is full and there is more. pt_lock is taken here.
bool pt_zap_object(struct gather *g, uptr start, uptr end);
void pt_protect_object(struct gather *g, uptr start, uptr end);

// --- fault.c. access: FAULT_*. 0; -EFAULT with *fi filled (SIGSEGV, SIGBUS); -ENOMEM; -ERESTARTSYS. Takes sem; sleeps.
enum { FAULT_READ = VMA_READ, FAULT_WRITE = VMA_WRITE, FAULT_EXEC = VMA_EXEC };
int __must_check aspace_fault(struct aspace *as, uptr addr, u32 access, struct fault_info *fi);
void fault_init(void);
int __must_check stack_grow(struct aspace *as, uptr addr);         // sem held for write

// --- object.c
bool memobj_anon_punch(struct memobj *o, u64 first, u64 n);        // false: not shared anonymous memory

// --- aspace.c
bool reclaim_page(void); // after -ENOMEM, where one may reclaim: whether there is a page again. It is not kept: try again

// --- mmap.c. sem held for write; areas go to `dead` for vma_release_list after it.
int __must_check isolate_locked(struct aspace *as, uptr start, uptr end, struct vma **first); // vma_isolate, 2 MiB pages split before
int __must_check unmap_locked(struct aspace *as, uptr start, uptr end, struct list *dead);
#endif

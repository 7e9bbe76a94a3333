// SPDX-License-Identifier: Apache-2.0
// Radix tree from u64 to non-null pointers, 64-way, with up to 3 marks per entry. Nodes come from the allocator that
// `radix_set_allocator` installs (kmalloc in the kernel, malloc in unit tests). Locking is the caller's.
#ifndef LIB_RADIX_H
#define LIB_RADIX_H
struct radix_node;
struct radix { struct radix_node *node; unsigned height; };
#define RADIX_MARKS 3
void radix_set_allocator(void *(*alloc)(size_t), void (*release)(void *));
void *radix_get(const struct radix *t, u64 key);
int __must_check radix_insert(struct radix *t, u64 key, void *item); // -EEXIST, -ENOMEM
void *radix_remove(struct radix *t, u64 key);                         // what was there, or NULL
// First entry with key >= *key (and with `mark` set when mark >= 0); stores its key. NULL when there is none.
void *radix_next(const struct radix *t, u64 *key, int mark);
void radix_mark(struct radix *t, u64 key, unsigned mark);
void radix_unmark(struct radix *t, u64 key, unsigned mark);
bool radix_marked(const struct radix *t, u64 key, unsigned mark);
#endif

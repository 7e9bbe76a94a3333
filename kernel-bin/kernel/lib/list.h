// SPDX-License-Identifier: Apache-2.0
// Doubly linked intrusive lists with a head node. An unlinked node points to itself.
#ifndef LIB_LIST_H
#define LIB_LIST_H
struct list { struct list *next, *prev; };
#define LIST_INIT(name) { &(name), &(name) }
static inline void list_init(struct list *l) { l->next = l->prev = l; }
static inline bool list_empty(const struct list *l) { return l->next == l; }
static inline void list_insert_(struct list *n, struct list *prev, struct list *next) {
  n->prev = prev; n->next = next; prev->next = n; next->prev = n;
}
static inline void list_push_front(struct list *head, struct list *n) { list_insert_(n, head, head->next); }
static inline void list_push_back(struct list *head, struct list *n) { list_insert_(n, head->prev, head); }
static inline void list_remove(struct list *n) { n->prev->next = n->next; n->next->prev = n->prev; list_init(n); }
static inline struct list *list_first(const struct list *head) { return head->next; }
// Moves all of `from` to the end of `to`; `from` becomes empty.
static inline void list_splice_back(struct list *to, struct list *from) {
  if (list_empty(from)) return;
  from->next->prev = to->prev; to->prev->next = from->next;
  from->prev->next = to; to->prev = from->prev;
  list_init(from);
}
#define list_entry(n, type, member) container_of(n, type, member)
#define list_first_entry(head, type, member) list_entry((head)->next, type, member)
#define list_for_each(it, head, member) \
  for (it = list_entry((head)->next, __typeof__(*it), member); &it->member != (head); \
       it = list_entry(it->member.next, __typeof__(*it), member))
#define list_for_each_safe(it, tmp, head, member) \
  for (it = list_entry((head)->next, __typeof__(*it), member), tmp = list_entry(it->member.next, __typeof__(*it), member); \
       &it->member != (head); it = tmp, tmp = list_entry(it->member.next, __typeof__(*it), member))
#endif

// SPDX-License-Identifier: Apache-2.0
//
// The life of a thread: made with one reference for the caller; the scheduler adds its own in thread_start and drops it
// after the last switch away, on another thread's stack.
#include "task/internal.h"


struct thread *thread_alloc(const char *name) {
  struct thread *t = kzalloc(sizeof *t);
  if (!t) return NULL;
  ref_init(&t->refs);
  t->state = THREAD_SLEEPING;
  t->affinity[0] = ~0ull;
  t->fpu_cpu = ~0u;
  strlcpy(t->name, name, sizeof t->name);
  return t;
}

struct thread *thread_create(const char *name, void (*entry)(void *), void *arg) {
  struct thread *t = thread_alloc(name);
  if (!t) return NULL;
  t->stack_top = kstack_alloc();
  if (!t->stack_top) {
    kfree(t);
    return NULL;
  }
  t->entry = entry;
  t->arg = arg;
  thread_prepare_stack(t, t->stack_top);
  return t;
}

struct thread *kthread_run(const char *name, void (*entry)(void *), void *arg) {
  struct thread *t = thread_create(name, entry, arg);
  if (t) thread_start(t);
  return t;
}

void thread_get(struct thread *t) { ref_get(&t->refs); }

void thread_put(struct thread *t) {
  if (!ref_put(&t->refs)) return;
  kfree(t->fpu);
  if (t->stack_top) kstack_free(t->stack_top);
  t->fpu = t->stack_top = NULL;
  if (t->on_release) t->on_release(t);
  kfree(t);
}

void thread_exit(void) {
  struct thread *t = thread_current();
  irq_disable();
  t->state = THREAD_DEAD; // wakers leave a DEAD thread alone
  schedule();
  panic("a dead thread runs");
}

int thread_make_user(struct thread *t, struct aspace *as, bool copy_fpu) {
  void *fpu = kmalloc(ALIGN_UP((size_t)fpu_state_bytes, 64), 0);
  if (!fpu) return -ENOMEM;
  struct thread *me = thread_current();
  if (copy_fpu && me->fpu) {
    u64 flags = irq_save(); // the image and the registers agree while nothing switches
    fpu_save(me->fpu);
    memcpy(fpu, me->fpu, fpu_state_bytes);
    irq_restore(flags);
    t->fs_base = arch_get_fs_base();
    t->gs_base = arch_get_user_gs_base();
  } else {
    fpu_init_state(fpu);
  }
  t->fpu = fpu;
  t->aspace = as;
  t->user_regs = (struct regs *)t->stack_top - 1;
  memset(t->user_regs, 0, sizeof *t->user_regs);
  thread_prepare_stack(t, t->user_regs);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
// Handlers, masks, queues, the frame, restarts, alternate stacks, timers.
#include "check.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static volatile sig_atomic_t count, last;
static siginfo_t info;
static int most_overrun;
static void note(int s, siginfo_t *si, void *uc) {
  count++;
  if (si->si_code == SI_TIMER && si->si_overrun > most_overrun) most_overrun = si->si_overrun;
  last = s;
  info = *si;
}

static void on(int signo, void (*fn)(int, siginfo_t *, void *), int flags) {
  struct sigaction a = { .sa_sigaction = fn, .sa_flags = SA_SIGINFO | flags };
  CHECK(sigaction(signo, &a, NULL) == 0);
}

static void block(int how, int signo) {
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, signo);
  CHECK(sigprocmask(how, &s, NULL) == 0);
}

static void handler_info(void) {
  on(SIGUSR1, note, 0);
  count = 0;
  CHECK(kill(getpid(), SIGUSR1) == 0);
  CHECK(count == 1 && info.si_signo == SIGUSR1 && info.si_code == SI_USER && info.si_pid == getpid() && info.si_uid == getuid());
  CHECK(raise(SIGUSR1) == 0 && count == 2 && info.si_code == SI_TKILL);
  union sigval v = { .sival_int = 1234 };
  CHECK(sigqueue(getpid(), SIGUSR1, v) == 0 && count == 3 && info.si_code == SI_QUEUE && info.si_value.sival_int == 1234);
  CHECK(kill(getpid(), 65) == -1 && errno == EINVAL);
  CHECK(kill(1 << 21, SIGUSR1) == -1 && errno == ESRCH);
  CHECK(sigaction(SIGKILL, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL) == -1 && errno == EINVAL);
}

static void masks(void) {
  on(SIGUSR1, note, 0);
  count = 0;
  block(SIG_BLOCK, SIGUSR1);
  raise(SIGUSR1);
  raise(SIGUSR1);
  CHECK(count == 0);
  sigset_t p;
  CHECK(sigpending(&p) == 0 && sigismember(&p, SIGUSR1));
  block(SIG_UNBLOCK, SIGUSR1);
  CHECK(count == 1); // a standard signal does not queue
  sigset_t all, now;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  sigprocmask(SIG_SETMASK, NULL, &now);
  CHECK(!sigismember(&now, SIGKILL) && !sigismember(&now, SIGSTOP) && sigismember(&now, SIGTERM));
  sigemptyset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
}

static int order[8], n_order;
static void collect(int s, siginfo_t *si, void *uc) {
  if (n_order < 8) order[n_order++] = s * 100 + si->si_value.sival_int;
}
static void realtime_queue(void) {
  int a = SIGRTMIN, b = SIGRTMIN + 1;
  struct sigaction act = { .sa_sigaction = collect, .sa_flags = SA_SIGINFO };
  sigfillset(&act.sa_mask);
  sigaction(a, &act, NULL);
  sigaction(b, &act, NULL);
  block(SIG_BLOCK, a);
  block(SIG_BLOCK, b);
  for (int i = 0; i < 3; i++) {
    union sigval v = { .sival_int = i };
    CHECK(sigqueue(getpid(), b, v) == 0);
    CHECK(sigqueue(getpid(), a, v) == 0);
  }
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, a);
  sigaddset(&s, b);
  sigprocmask(SIG_UNBLOCK, &s, NULL);
  CHECK(n_order == 6);
  // Handlers' frames are stacked: what was delivered last runs first, but each handler blocks everything.
  int seen_a = 0, seen_b = 0;
  for (int i = 0; i < 6; i++) {
    int v = order[i] % 100;
    if (order[i] / 100 == a) CHECK(v == seen_a++);
    else CHECK(v == seen_b++);
  }
}

static volatile sig_atomic_t depth, max_depth;
static void nested(int s) {
  depth++;
  if (depth > max_depth) max_depth = depth;
  if (depth < 3) raise(s);
  depth--;
}
static void nodefer(void) {
  struct sigaction a = { .sa_handler = nested, .sa_flags = SA_NODEFER };
  sigaction(SIGUSR2, &a, NULL);
  raise(SIGUSR2);
  CHECK(max_depth == 3);
  max_depth = 0;
  a.sa_flags = SA_RESETHAND;
  depth = 2;
  sigaction(SIGUSR2, &a, NULL);
  raise(SIGUSR2);
  depth = 0;
  CHECK(max_depth == 3);
  sigaction(SIGUSR2, NULL, &a);
  CHECK(a.sa_handler == SIG_DFL);
}

// --- faults
static sigjmp_buf env;
static siginfo_t fault;
static void jump(int s, siginfo_t *si, void *uc) {
  fault = *si;
  siglongjmp(env, s);
}
static void faults(void) {
  on(SIGSEGV, jump, 0);
  on(SIGFPE, jump, 0);
  on(SIGILL, jump, 0);
  on(SIGBUS, jump, 0);
  on(SIGTRAP, jump, 0);
  int s;
  if (!(s = sigsetjmp(env, 1))) *(volatile int *)0x10 = 1;
  CHECK(s == SIGSEGV && fault.si_code == SEGV_MAPERR && fault.si_addr == (void *)0x10);
  char *ro = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!(s = sigsetjmp(env, 1))) ro[5] = 1;
  CHECK(s == SIGSEGV && fault.si_code == SEGV_ACCERR && fault.si_addr == ro + 5);
  if (!(s = sigsetjmp(env, 1))) ((void (*)(void))ro)();
  CHECK(s == SIGSEGV && fault.si_code == SEGV_ACCERR && fault.si_addr == ro);
  munmap(ro, 4096);
  if (!(s = sigsetjmp(env, 1))) *(volatile int *)0x8000000000000000ul = 1;
  CHECK(s == SIGSEGV && fault.si_code == SI_KERNEL);
  if (!(s = sigsetjmp(env, 1))) __asm__ volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; idiv %%ecx" ::"a"(1) : "ecx", "edx");
  CHECK(s == SIGFPE && fault.si_code == FPE_INTDIV);
  if (!(s = sigsetjmp(env, 1))) __asm__ volatile("ud2");
  CHECK(s == SIGILL && fault.si_code == ILL_ILLOPN);
  if (!(s = sigsetjmp(env, 1))) __asm__ volatile("int3");
  CHECK(s == SIGTRAP);
  if (!(s = sigsetjmp(env, 1))) __asm__ volatile("hlt");
  CHECK(s == SIGSEGV && fault.si_code == SI_KERNEL);
  char path[] = "/tmp/signals.XXXXXX";
  int fd = mkstemp(path);
  CHECK(fd >= 0 && ftruncate(fd, 4096) == 0);
  char *m = mmap(NULL, 8192, PROT_READ, MAP_SHARED, fd, 0);
  volatile char c;
  if (!(s = sigsetjmp(env, 1))) c = m[4096];
  (void)c;
  CHECK(s == SIGBUS && fault.si_code == BUS_ADRERR && fault.si_addr == m + 4096);
  munmap(m, 8192);
  close(fd);
  unlink(path);
}

// A handler that edits the registers: skips the faulting instruction and sets rax, as a JVM does.
static void skip_load(int s, siginfo_t *si, void *ctx) {
  ucontext_t *uc = ctx;
  uc->uc_mcontext.gregs[REG_RIP] += 3;
  uc->uc_mcontext.gregs[REG_RAX] = 0x1234567;
  count = (int)uc->uc_mcontext.gregs[REG_TRAPNO];
  last = (int)uc->uc_mcontext.gregs[REG_ERR];
}
static void edited_context(void) {
  on(SIGSEGV, skip_load, 0);
  long v = 0;
  __asm__ volatile("xor %%ecx, %%ecx; mov (%%rcx), %%rax" : "=a"(v) : : "rcx", "memory"); // 48 8b 01
  CHECK(v == 0x1234567 && count == 14 && last == 4);
}

static void fpu_kept(int s) {
  double x = 1.5;
  __asm__ volatile("movq %0, %%xmm5; movq %0, %%xmm9" ::"r"(*(long *)&x) : "xmm5", "xmm9");
}
static void fpu_state(void) {
  signal(SIGUSR1, fpu_kept);
  long got5, got9, want5 = 0x1122334455667788, want9 = 0x99aabbccddeeff00;
  pid_t pid = getpid();
  long r;
  __asm__ volatile("movq %[w5], %%xmm5; movq %[w9], %%xmm9; syscall; movq %%xmm5, %[g5]; movq %%xmm9, %[g9]"
    : "=a"(r), [g5] "=&r"(got5), [g9] "=&r"(got9)
    : "a"(SYS_kill), "D"((long)pid), "S"((long)SIGUSR1), [w5] "r"(want5), [w9] "r"(want9)
    : "rcx", "r11", "memory", "xmm5", "xmm9");
  CHECK(r == 0 && got5 == want5 && got9 == want9);
}

// --- alternate stack
static volatile int never;
static char *alt_low;
static volatile sig_atomic_t was_on_alt, state_in_handler;
static void on_alt(int s, siginfo_t *si, void *ctx) {
  char here;
  stack_t now;
  was_on_alt = &here >= alt_low && &here < alt_low + 65536;
  sigaltstack(NULL, &now);
  state_in_handler = now.ss_flags;
  if (s == SIGSEGV) siglongjmp(env, 1);
}
static int __attribute__((noinline)) overflow(int n) {
  volatile char page[4096];
  page[0] = (char)n;
  return never ? 0 : overflow(n + 1) + page[0];
}
static void alternate_stack(void) {
  alt_low = malloc(65536);
  stack_t ss = { .ss_sp = alt_low, .ss_size = 65536 }, old;
  CHECK(sigaltstack(&ss, NULL) == 0);
  on(SIGUSR1, on_alt, SA_ONSTACK);
  raise(SIGUSR1);
  CHECK(was_on_alt && state_in_handler == SS_ONSTACK);
  on(SIGSEGV, on_alt, SA_ONSTACK);
  was_on_alt = 0;
  if (!sigsetjmp(env, 1)) overflow(0);
  CHECK(was_on_alt); // a stack overflow is survivable
  ss.ss_size = 100;
  CHECK(sigaltstack(&ss, NULL) == -1 && errno == ENOMEM);
  ss.ss_flags = SS_DISABLE;
  CHECK(sigaltstack(&ss, &old) == 0 && old.ss_sp == alt_low && old.ss_flags == 0);
  signal(SIGSEGV, SIG_DFL);
}

// --- restart
static void alarm_in_ms(int ms) {
  struct itimerval t = { .it_value = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 } };
  CHECK(setitimer(ITIMER_REAL, &t, NULL) == 0);
}
// Again and again: on a busy machine the first may come before the call that it shall interrupt.
static void alarm_every_ms(int ms) {
  struct itimerval t = { { 0, ms * 1000 }, { 0, ms * 1000 } };
  CHECK(setitimer(ITIMER_REAL, &t, NULL) == 0);
}
static int pipe_fd[2];
static void write_later(int s) {
  if (++count == 2) (void)!write(pipe_fd[1], "z", 1);
  else alarm_in_ms(20);
}
static void restart(void) {
  CHECK(pipe(pipe_fd) == 0);
  struct sigaction a = { .sa_handler = write_later, .sa_flags = SA_RESTART };
  sigaction(SIGALRM, &a, NULL);
  count = 0;
  alarm_in_ms(20);
  char c = 0;
  CHECK(read(pipe_fd[0], &c, 1) == 1 && c == 'z' && count == 2); // restarted once
  struct sigaction b = { .sa_sigaction = note, .sa_flags = SA_SIGINFO };
  sigaction(SIGALRM, &b, NULL);
  count = 0;
  alarm_every_ms(20);
  CHECK(read(pipe_fd[0], &c, 1) == -1 && errno == EINTR && count >= 1);
  // poll and nanosleep are never restarted after a handler
  b.sa_flags |= SA_RESTART;
  sigaction(SIGALRM, &b, NULL);
  struct pollfd pf = { .fd = pipe_fd[0], .events = POLLIN };
  CHECK(poll(&pf, 1, 60000) == -1 && errno == EINTR);
  struct timespec ts = { 60, 0 }, rest = { 0, 0 };
  CHECK(nanosleep(&ts, &rest) == -1 && errno == EINTR && rest.tv_sec >= 30 && rest.tv_sec < 60);
  alarm_in_ms(0);
  close(pipe_fd[0]);
  close(pipe_fd[1]);
}

static void stop_restarts_sleep(void) {
  for (;;) {
    pid_t p = fork();
    if (!p) {
      struct timespec ts = { 0, 300000000 };
      _exit(nanosleep(&ts, NULL) == 0 ? 0 : 1); // stopped and continued meanwhile: no EINTR
    }
    usleep(50000);
    kill(p, SIGSTOP);
    int st;
    CHECK(waitpid(p, &st, WUNTRACED) == p);
    if (!WIFSTOPPED(st)) continue; // a busy machine: it was over before the stop
    kill(p, SIGCONT);
    CHECK(waitpid(p, &st, 0) == p && WIFEXITED(st) && WEXITSTATUS(st) == 0);
    return;
  }
}

static void suspend(void) {
  on(SIGUSR1, note, 0);
  block(SIG_BLOCK, SIGUSR1);
  count = 0;
  pid_t parent = getpid(), p = fork();
  if (!p) {
    usleep(20000);
    kill(parent, SIGUSR1);
    _exit(0);
  }
  sigset_t none, now;
  sigemptyset(&none);
  CHECK(sigsuspend(&none) == -1 && errno == EINTR && count >= 1);
  sigprocmask(SIG_SETMASK, NULL, &now);
  CHECK(sigismember(&now, SIGUSR1));
  block(SIG_UNBLOCK, SIGUSR1);
  waitpid(p, NULL, 0);
}

static void timed_wait(void) {
  sigset_t s;
  sigemptyset(&s);
  sigaddset(&s, SIGUSR2);
  sigprocmask(SIG_BLOCK, &s, NULL);
  siginfo_t si;
  struct timespec ts = { 0, 20000000 };
  CHECK(sigtimedwait(&s, &si, &ts) == -1 && errno == EAGAIN);
  union sigval v = { .sival_int = 99 };
  sigqueue(getpid(), SIGUSR2, v);
  CHECK(sigwaitinfo(&s, &si) == SIGUSR2 && si.si_value.sival_int == 99);
  pid_t parent = getpid(), p = fork();
  if (!p) {
    usleep(20000);
    kill(parent, SIGUSR2);
    _exit(0);
  }
  CHECK(sigwaitinfo(&s, &si) == SIGUSR2 && si.si_pid == p);
  waitpid(p, NULL, 0);
  int fd = signalfd(-1, &s, SFD_NONBLOCK);
  struct signalfd_siginfo fi;
  CHECK(read(fd, &fi, sizeof fi) == -1 && errno == EAGAIN);
  kill(getpid(), SIGUSR2);
  CHECK(read(fd, &fi, sizeof fi) == sizeof fi && fi.ssi_signo == SIGUSR2 && fi.ssi_pid == (unsigned)getpid());
  close(fd);
  sigprocmask(SIG_UNBLOCK, &s, NULL);
}

static void child_signal(void) {
  on(SIGCHLD, note, 0);
  count = 0;
  pid_t p = fork();
  if (!p) _exit(5);
  while (!count) usleep(1000);
  CHECK(info.si_pid == p && info.si_code == CLD_EXITED && info.si_status == 5);
  CHECK(waitpid(p, NULL, 0) == p);
  signal(SIGCHLD, SIG_DFL);
}

static void sigpipe(void) {
  int fd[2];
  CHECK(pipe(fd) == 0);
  close(fd[0]);
  on(SIGPIPE, note, 0);
  count = 0;
  CHECK(write(fd[1], "x", 1) == -1 && errno == EPIPE && count == 1);
  signal(SIGPIPE, SIG_IGN);
  CHECK(write(fd[1], "x", 1) == -1 && errno == EPIPE);
  signal(SIGPIPE, SIG_DFL);
  pid_t p = fork();
  if (!p) {
    (void)!write(fd[1], "x", 1);
    _exit(0);
  }
  int st;
  waitpid(p, &st, 0);
  CHECK(WIFSIGNALED(st) && WTERMSIG(st) == SIGPIPE);
  close(fd[1]);
}

// --- timers
static void interval_timer(void) {
  on(SIGALRM, note, 0);
  count = 0;
  struct itimerval t = { { 0, 10000 }, { 0, 10000 } }, now;
  CHECK(setitimer(ITIMER_REAL, &t, NULL) == 0);
  while (count < 5) pause();
  CHECK(getitimer(ITIMER_REAL, &now) == 0 && now.it_interval.tv_usec == 10000 && now.it_value.tv_usec <= 10000);
  t = (struct itimerval){ 0 };
  CHECK(setitimer(ITIMER_REAL, &t, NULL) == 0);
  alarm(100);
  unsigned left = alarm(0);
  CHECK(left == 100 || left == 99);
  on(SIGPROF, note, 0);
  count = 0;
  t.it_value.tv_usec = 20000;
  CHECK(setitimer(ITIMER_PROF, &t, NULL) == 0);
  while (!count) {}
  CHECK(last == SIGPROF);
}

static void posix_timers(void) {
  timer_t id;
  int signo = SIGRTMIN + 2;
  on(signo, note, 0);
  struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = signo, .sigev_value.sival_int = 77 };
  CHECK(timer_create(CLOCK_MONOTONIC, &ev, &id) == 0);
  count = 0;
  struct itimerspec ts = { { 0, 5000000 }, { 0, 5000000 } }, now;
  CHECK(timer_settime(id, 0, &ts, NULL) == 0);
  while (count < 3) pause();
  CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 77);
  CHECK(timer_gettime(id, &now) == 0 && now.it_interval.tv_nsec == 5000000 && now.it_value.tv_nsec <= 5000000);
  block(SIG_BLOCK, signo);
  usleep(60000);
  count = most_overrun = 0;
  block(SIG_UNBLOCK, signo);
  CHECK(count >= 1 && timer_getoverrun(id) >= 0 && most_overrun >= 5); // the next one may have come since
  CHECK(timer_delete(id) == 0 && timer_delete(id) == -1 && errno == EINVAL);
}

// --- threads
static pthread_t worker_thread;
static volatile int stop_worker;
static volatile sig_atomic_t hit_tid;
static void thread_note(int s) { hit_tid = (int)syscall(SYS_gettid); }
static void *worker(void *arg) {
  *(int *)arg = (int)syscall(SYS_gettid);
  while (!stop_worker) usleep(1000);
  return NULL;
}
static void to_threads(void) {
  volatile int tid = 0;
  signal(SIGUSR1, thread_note);
  block(SIG_UNBLOCK, SIGUSR1);
  CHECK(pthread_create(&worker_thread, NULL, worker, (void *)&tid) == 0);
  while (!tid) usleep(100);
  pthread_kill(worker_thread, SIGUSR1);
  while (hit_tid != tid) usleep(1000);
  CHECK(hit_tid == tid);
  // blocked here: a signal for the process goes to the other thread
  block(SIG_BLOCK, SIGUSR1);
  hit_tid = 0;
  kill(getpid(), SIGUSR1);
  while (hit_tid != tid) usleep(1000);
  CHECK(hit_tid == tid);
  stop_worker = 1;
  pthread_join(worker_thread, NULL);
  block(SIG_UNBLOCK, SIGUSR1);
}

static void *endless(void *arg) {
  while (!never) {}
  return NULL;
}
static void group_death(void) {
  pid_t p = fork();
  if (!p) {
    pthread_t t;
    pthread_create(&t, NULL, endless, NULL);
    usleep(10000);
    abort(); // ends the spinning thread too
  }
  int st;
  CHECK(waitpid(p, &st, 0) == p && WIFSIGNALED(st) && WTERMSIG(st) == SIGABRT);
}

int main(void) {
  RUN(handler_info);
  RUN(masks);
  RUN(realtime_queue);
  RUN(nodefer);
  RUN(faults);
  RUN(edited_context);
  RUN(fpu_state);
  RUN(alternate_stack);
  RUN(restart);
  RUN(stop_restarts_sleep);
  RUN(suspend);
  RUN(timed_wait);
  RUN(child_signal);
  RUN(sigpipe);
  RUN(interval_timer);
  RUN(posix_timers);
  RUN(to_threads);
  RUN(group_death);
  FINISH();
}

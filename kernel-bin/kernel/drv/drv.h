// SPDX-License-Identifier: Apache-2.0
//
// drv: PCI, virtqueues, and the devices: console (virtio-serial), vsock transport, fs transport. All device memory is
// the shared pool's; descriptors, free lists and expected lengths live in private memory, and what the device writes is
// checked against them. A lie ends that device: its requests finish with -EIO, its `broken` is set, the kernel goes on.
#ifndef DRV_DRV_H
#define DRV_DRV_H
#include "attest/attest.h"
#include "host/host.h"

// --- virtqueues (virtio 1.2, split rings, EVENT_IDX, MSI-X vector per queue)
struct virtq;
struct pci_dev;
struct virtio_dev {
  struct host_mmio common, notify, config; // config.len_bytes 0: the device has no configuration space
  u32 notify_mult, device_id, slot;
  u64 features;                            // negotiated
  bool broken;                             // set once, never cleared
  void *priv;                              // the driver's
  void (*on_broken)(struct virtio_dev *d); // the driver's, NULL: called once from a kernel thread after the lie, with the
                                           // device reset; virtq_drain then gives back what was queued
  struct pci_dev *pci;                     // below: virtio.c's and virtqueue.c's
  bool started;                            // DRIVER_OK; an interrupt before it is a lie and not handed on
  struct work broken_work;
};
// One piece of a request: in shared memory. dev_writes: the device fills it.
struct virtq_seg { phys_t phys; u32 len; bool dev_writes; };
struct virtq *virtq_create(struct virtio_dev *d, u16 index, u16 max_size, void (*irq)(struct virtq *q, void *arg), void *arg, u32 cpu); // NULL
u16 virtq_free_count(struct virtq *q);
// `irq` runs in irq context; it pops until NULL. Interrupts are on from the start, so none is lost between the last pop
// and the next completion. `size` becomes what the device allows, a power of two, max_size at most.
// Queues one chain; `cookie` (not NULL) comes back from virtq_pop. -ENOSPC, -EIO (broken). Takes the queue's lock (RANK_VIRTQ, irqsave).
int __must_check virtq_push(struct virtq *q, const struct virtq_seg *segs, unsigned n, void *cookie);
bool virtq_kick(struct virtq *q);               // one doorbell for all pushed since, and only if the device wants it
// The next finished chain: its cookie and the bytes that the device says it wrote (checked <= what was given); NULL: none.
void *virtq_pop(struct virtq *q, u32 *written);
void virtq_irq_off(struct virtq *q);            // busy polling
bool virtq_irq_on(struct virtq *q);             // true: more came meanwhile
void virtq_break(struct virtq *q, const char *why); // the device lied: log one line, mark broken, fail what waits
bool virtq_broken(struct virtq *q);
// Unfinished cookies of a broken queue, one a call, for their owners to fail; NULL: none left.
void *virtq_drain(struct virtq *q);

// --- PCI and virtio discovery
// `features`: device-specific bits (0..23) that the driver can use; probe reads d->features, makes its queues, calls
// virtio_start and then fills receive queues. An error from probe ends the device. drv_init calls console_register,
// fsdev_register and vsockdev_register, each in its own file, to have the drivers known before it scans.
struct virtio_driver { u32 device_id; u64 features; int (*probe)(struct virtio_dev *d); };
void console_register(void), fsdev_register(void), vsockdev_register(void);
void virtio_register_driver(const struct virtio_driver *drv); // before drv_init scans
int __must_check virtio_start(struct virtio_dev *d);           // DRIVER_OK, after the queues exist

// --- console (drv/console.c): virtio-serial ports, docs/devices.md. Without the device output goes to COM1.
enum { CONSOLE_ERR = 1, CONSOLE_IN = 2, CONSOLE_OUT = 3, CONSOLE_PORTS = 4 }; // CONSOLE_OUT carries the terminal's input too
void console_write(int port, const void *data, size_t n);      // all of it: sleeps while the device is slow
// Takes what fits into the port's buffer; sleeps for space (interruptibly) unless nonblock. Bytes taken, -EAGAIN, -EIO
// (the device lied), -ERESTARTSYS.
long console_send(int port, const void *data, size_t n, bool nonblock);
size_t console_echo(const void *data, size_t n);               // to CONSOLE_OUT, any context: what fits now
// From CONSOLE_IN: bytes, 0 at the end (the host closed it), -EAGAIN, -ERESTARTSYS.
long console_read(void *buf, size_t n, bool nonblock);
size_t console_readable(bool *eof);                             // bytes waiting on CONSOLE_IN
size_t console_writable(int port);                              // free bytes of the buffer
size_t console_unsent(int port);                                // bytes the host has not taken
struct waitq *console_waitq(int port);                          // woken when any of these changes
// Input of CONSOLE_OUT goes to rx (irq context, one call at a time), which returns how much it took; the rest stays with
// the device until console_input_resume.
void console_set_input(size_t (*rx)(const u8 *data, size_t n));
void console_input_resume(void);
void console_on_resize(void (*fn)(u16 rows, u16 cols));         // irq context
void console_drain(void);                                       // before power-off: until the host has every byte
bool console_is_tty(void);                                      // launch record's host.tty

// --- the terminal (drv/tty.c): one, on CONSOLE_OUT, when console_is_tty(). The files on it are the fs room's.
struct tty_caller { int pid, pgid, sid; bool leader; };         // leader: of its session
struct tty_hooks {                                              // proc installs them; kernel-thread or syscall context
  void (*signal)(int pgid, int signo);                          // to every process of the group
  void (*caller)(struct tty_caller *c);
  bool (*group_in_session)(int pgid, int sid);
  // A process of a background group touched the terminal. 0: go on (the signal is ignored or blocked for writing),
  // -EIO, or -ERESTARTSYS after the group was signalled.
  int (*background)(int pgid, int signo);
};
void tty_set_hooks(const struct tty_hooks *h);
long tty_read(void *buf, size_t n, bool nonblock);              // bytes, 0: end of file, -EAGAIN, -EIO, -ERESTARTSYS
long tty_write(const void *data, size_t n, bool nonblock);
u32 tty_poll_events(void);                                      // 1 readable, 2 writable, 4 hung up
struct waitq *tty_waitq(void);
long tty_ioctl(u32 cmd, uptr arg);                              // sleepable: copies from and to the program
void tty_set_winsize(u16 rows, u16 cols);                       // and SIGWINCH when it changed
int tty_foreground(void);                                       // process group; 0: none was set yet
void tty_set_session(int sid, int pgid);                        // the terminal becomes that session's (process 1's at boot)
int tty_session(void);
bool tty_is_callers(void);                                      // the controlling terminal of the current process

// The file behind descriptor 0, 1 or 2 of process 1 (a new reference): the terminal, or stdin/stdout/stderr streams.
struct file;
struct file *console_file(int which); // ERR_PTR

// --- fs transport (drv/fsdev.c): FUSE requests over the virtio-fs device, several in flight
struct fuse_req_io { const void *in; u32 in_len; const void *in2; u32 in2_len; struct page **in_pages; u32 in_pages_n; u32 in_pages_off; u32 in_pages_len;
                     void *out; u32 out_cap; u32 out_len; struct page **out_pages; u32 out_pages_n; u32 out_pages_len; };
// Sends and waits (mode: WAIT_INTERRUPTIBLE or not). `in`: fuse_in_header + arguments; `out`: fuse_out_header + fixed answer,
// out_len = what came; page data is copied once through the shared pool. 0, -EIO (broken or malformed length), -ERESTARTSYS
// (abandoned: buffers of the request are freed when the device answers), -ENOMEM. The FUSE error is in the out header.
int __must_check fsdev_call(struct fuse_req_io *io, int mode);
// The answer's length (out_len) is at least a header and at most out_cap + out_pages_len; what exceeds out_cap is in the
// pages. `unique` of the header is set here.
void fsdev_forget(const void *in, u32 in_len); // a request without an answer, on the priority queue; sleeps for a buffer
u32 fsdev_max_data(void);       // bytes of page data per request (1 MiB where pool and host allow)
bool fsdev_present(void);

// --- vsock transport (drv/vsockdev.c): packets of virtio-vsock
struct vsockdev_ops {
  // One packet at a time, irq or kernel-thread context. hdr is a private copy; the payload is still in shared memory,
  // b[off, off + len): to be copied out once, with shared_read.
  void (*rx)(const u8 hdr[44], const struct shared_buf *b, u32 off, u32 len);
  void (*tx_space)(void); // irq context: a vsockdev_reserve that gave less than asked may try again
  void (*broken)(void);   // kernel thread: the device lied, or there is none any more
};
void vsockdev_set_ops(const struct vsockdev_ops *ops); // once; what came before is dropped
bool vsockdev_present(void);                           // found and not broken
#define VSOCKDEV_TX_PIECES 17u
// A packet to send: reserve room, fill the pieces in place, commit (or release). Reserving and releasing take no lock.
struct vsockdev_tx { u32 room; u8 n, slot[VSOCKDEV_TX_PIECES]; };
u32 vsockdev_reserve(struct vsockdev_tx *t, u32 bytes);        // payload bytes that fit, 1 to 65536; 0: none now, tx_space will be called
bool vsockdev_reserve_header(struct vsockdev_tx *t);           // for a packet without payload
u8 *vsockdev_piece(const struct vsockdev_tx *t, u32 off, u32 *len); // where payload byte `off` goes, and how many follow there
void vsockdev_commit(struct vsockdev_tx *t, const u8 hdr[44], u32 len); // queues it; RANK_VIRTQ
void vsockdev_release(struct vsockdev_tx *t);
void vsockdev_kick(void);
bool vsockdev_usable_in_panic(void);                    // the other CPUs are stopped: is no lock held that sending takes?
void vsockdev_drain_in_panic(void);                     // polls until the device has read everything, or for 50 ms
u64 vsockdev_guest_cid(void);
void drv_init(void);
void drv_boot_over(void); // process 1 is about to start: from here on a device that lies only ends itself
#endif

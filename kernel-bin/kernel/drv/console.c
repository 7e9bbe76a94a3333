// SPDX-License-Identifier: Apache-2.0
//
// The console: virtio-serial with ports (virtio 1.2, 5.3; docs/devices.md). Output goes through a private ring per port,
// which the transmit queue empties in 4 KiB pieces, so that a burst of small writes costs few exits; what was taken is
// sent before the machine ends (console_drain). Input stays in the device's buffers until someone takes it: that is the
// flow control. Locks: port->lock (RANK_CONN, irqsave), then the queue's. The control queues are handled in irq context
// only, under control.lock.

#include "drv/internal.h"

#define F_MULTIPORT BIT(1)
#define EV_DEVICE_READY 0
#define EV_DEVICE_ADD 1
#define EV_DEVICE_REMOVE 2
#define EV_PORT_READY 3
#define EV_CONSOLE_PORT 4
#define EV_RESIZE 5
#define EV_PORT_OPEN 6
struct control_msg { u32 id; u16 event, value; };
_Static_assert(sizeof(struct control_msg) == 8, "virtio 1.2, 5.3.6.2");

#define SLOT_BYTES 4096u
#define SLOTS 8u
#define RING_BYTES 65536u
#define CONTROL_SLOT_BYTES 64u
#define CONTROL_SLOTS 32u
#define ADD_TIMEOUT_NS (20 * NS_PER_SEC) // for the host to announce a port; a busy one takes seconds

struct slot { struct list link; u32 len, off; bool busy; u8 index; };
struct port {
  u32 id;
  struct spinlock lock;
  struct virtq *rx, *tx;              // NULL: the device has none
  bool added, host_open, host_closed; // host_closed: it was open once, or never will be
  bool absent;                        // the host had its time to announce it: its output goes to CONSOLE_OUT
  bool delivering, deliver_again;     // the terminal's input is being handed over
  u8 *ring;
  u32 head, tail;                     // of ring, free running: tail..head is unsent
  u32 tx_busy;                        // slots with the device
  struct slot tx_slot[SLOTS], rx_slot[SLOTS];
  struct list ready;                  // rx slots with bytes that nobody took yet
  struct shared_buf tx_mem, rx_mem;
  struct waitq wait;
};
static struct port ports[CONSOLE_PORTS];
static struct virtio_dev *device;
static size_t (*input)(const u8 *data, size_t n);
static void (*on_resize)(u16 rows, u16 cols);

static struct {
  struct spinlock lock;
  struct virtq *rx, *tx;
  struct shared_buf mem; // receive slots, then transmit slots
  u64 tx_busy;
  u32 port0_answers;
} control = { .lock = SPINLOCK_INIT(RANK_PAGE) }; // before the terminal's, which a resize takes

bool console_is_tty(void) { return host_hints.tty; }
struct waitq *console_waitq(int port) { return &ports[port].wait; }
void console_set_input(size_t (*rx)(const u8 *data, size_t n)) { input = rx; }
void console_on_resize(void (*fn)(u16 rows, u16 cols)) { on_resize = fn; }

static bool port_dead(const struct port *p) { return !p->tx || READ_ONCE(p->absent) || READ_ONCE(device->broken); }

// --- output

// Moves bytes from the ring to free slots. True: ring the doorbell, after the lock is released.
static bool pump_locked(struct port *p) {
  bool pushed = false;
  for (u32 i = 0; i < SLOTS && p->head != p->tail; i++) {
    if (p->tx_slot[i].busy) continue;
    u32 at = p->tail % RING_BYTES, n = MIN(MIN(p->head - p->tail, RING_BYTES - at), SLOT_BYTES);
    shared_write(&p->tx_mem, i * SLOT_BYTES, p->ring + at, n);
    struct virtq_seg seg = { p->tx_mem.phys + i * SLOT_BYTES, n, false };
    if (virtq_push(p->tx, &seg, 1, &p->tx_slot[i])) break;
    p->tx_slot[i].busy = true;
    p->tx_slot[i].len = n;
    p->tx_busy++;
    p->tail += n;
    pushed = true;
  }
  return pushed;
}

static size_t ring_put(struct port *p, const u8 *data, size_t n) {
  u64 flags = spin_lock_irqsave(&p->lock);
  n = MIN(n, (size_t)(RING_BYTES - (p->head - p->tail)));
  for (size_t done = 0; done < n;) {
    u32 at = p->head % RING_BYTES, part = (u32)MIN(n - done, (size_t)(RING_BYTES - at));
    memcpy(p->ring + at, data + done, part);
    p->head += part;
    done += part;
  }
  bool kick = pump_locked(p);
  spin_unlock_irqrestore(&p->lock, flags);
  if (kick) virtq_kick(p->tx);
  return n;
}

static void tx_irq(struct virtq *q, void *arg) {
  struct port *p = arg;
  struct slot *s;
  u32 written;
  u64 flags = spin_lock_irqsave(&p->lock);
  bool kick = false;
  while ((s = virtq_pop(q, &written)) != NULL) {
    s->busy = false;
    p->tx_busy--;
  }
  if (!virtq_broken(q)) kick = pump_locked(p);
  spin_unlock_irqrestore(&p->lock, flags);
  if (kick) virtq_kick(q);
  if (waitq_active(&p->wait)) waitq_wake_all(&p->wait);
}

size_t console_writable(int port) {
  struct port *p = &ports[port];
  return port_dead(p) ? RING_BYTES : RING_BYTES - (READ_ONCE(p->head) - READ_ONCE(p->tail));
}

size_t console_unsent(int port) {
  struct port *p = &ports[port];
  if (port_dead(p)) return 0;
  u64 flags = spin_lock_irqsave(&p->lock);
  size_t n = p->head - p->tail;
  for (u32 i = 0; i < SLOTS; i++) n += p->tx_slot[i].busy ? p->tx_slot[i].len : 0;
  spin_unlock_irqrestore(&p->lock, flags);
  return n;
}

// The port that carries `port`'s output: the host announces ports a moment after the device started, and may have no
// port for stderr.
static struct port *output_port(int port) {
  struct port *p = &ports[port];
  if (p->tx && !READ_ONCE(p->added) && !READ_ONCE(p->absent)) {
    u64 deadline = time_ns() + ADD_TIMEOUT_NS;
    if (wait_event_deadline_mode(&p->wait, READ_ONCE(p->added) || port_dead(p), deadline, WAIT_UNINTERRUPTIBLE)) {
      printk(LOG_ERROR, "console: the host announced no port %u\n", p->id);
      WRITE_ONCE(p->absent, true); // the queue stays: another writer may have seen the port come just now
    }
  }
  return p->tx && !READ_ONCE(p->absent) ? p : &ports[CONSOLE_OUT];
}

static long port_send(int port, const void *data, size_t n, bool nonblock, int mode) {
  if (!device) {
    host_serial_write(data, n);
    return (long)n;
  }
  struct port *p = output_port(port);
  size_t done = 0;
  while (done < n) {
    if (port_dead(p)) return done ? (long)done : -EIO;
    done += ring_put(p, (const u8 *)data + done, n - done);
    if (done == n) break;
    if (nonblock) return done ? (long)done : -EAGAIN;
    int err = wait_event_deadline_mode(&p->wait, console_writable((int)p->id) > 0, WAIT_FOREVER, mode);
    if (err) return done ? (long)done : err;
  }
  return (long)done;
}

long console_send(int port, const void *data, size_t n, bool nonblock) { return port_send(port, data, n, nonblock, WAIT_INTERRUPTIBLE); }

void console_write(int port, const void *data, size_t n) {
  if (port_send(port, data, n, false, WAIT_UNINTERRUPTIBLE) == -EIO) host_serial_write(data, n);
}

size_t console_echo(const void *data, size_t n) {
  struct port *p = &ports[CONSOLE_OUT];
  return device && !port_dead(p) ? ring_put(p, data, n) : n;
}

void console_drain(void) {
  if (!device) return;
  // No bound: a reader may be slow for as long as it likes, and a host that is gone takes this machine with it.
  for (int i = 0; i < CONSOLE_PORTS; i++) wait_event(&ports[i].wait, console_unsent(i) == 0);
}

// --- input

static void rx_post_locked(struct port *p, struct slot *s) {
  struct virtq_seg seg = { p->rx_mem.phys + s->index * SLOT_BYTES, SLOT_BYTES, true };
  s->len = s->off = 0;
  if (virtq_push(p->rx, &seg, 1, s)) list_init(&s->link); // broken: nothing comes any more
}

static void rx_collect_locked(struct port *p) {
  struct slot *s;
  u32 written;
  while ((s = virtq_pop(p->rx, &written)) != NULL) {
    s->len = written;
    if (written) list_push_back(&p->ready, &s->link);
    else rx_post_locked(p, s);
  }
}

// Copies up to n bytes of the first ready slot, which is posted again when it is empty.
static size_t rx_take_locked(struct port *p, void *buf, size_t n) {
  if (list_empty(&p->ready)) return 0;
  struct slot *s = list_first_entry(&p->ready, struct slot, link);
  n = MIN(n, (size_t)(s->len - s->off));
  shared_read(buf, &p->rx_mem, s->index * SLOT_BYTES + s->off, (u32)n);
  s->off += (u32)n;
  if (s->off == s->len) {
    list_remove(&s->link);
    rx_post_locked(p, s);
  }
  return n;
}

// Hands the terminal's input to `input`, without the lock; one CPU at a time, in order. What it does not take is put
// back by not advancing. A call that comes meanwhile only asks for another round, so that no resume is lost.
static void deliver(struct port *p) {
  u8 buf[256];
  u64 flags = spin_lock_irqsave(&p->lock);
  p->deliver_again = true;
  if (p->delivering) goto out;
  p->delivering = true;
  while (p->deliver_again) {
    p->deliver_again = false;
    while (input && !list_empty(&p->ready)) {
      struct slot *s = list_first_entry(&p->ready, struct slot, link);
      size_t n = MIN(sizeof(buf), (size_t)(s->len - s->off));
      shared_read(buf, &p->rx_mem, s->index * SLOT_BYTES + s->off, (u32)n);
      spin_unlock_irqrestore(&p->lock, flags);
      size_t took = input(buf, n);
      flags = spin_lock_irqsave(&p->lock);
      s->off += (u32)took; // only this CPU takes slots off the list while `delivering`
      if (s->off == s->len) {
        list_remove(&s->link);
        rx_post_locked(p, s);
      }
      if (took < n) break;
    }
  }
  p->delivering = false;
out:
  spin_unlock_irqrestore(&p->lock, flags);
  if (p->rx) virtq_kick(p->rx);
}

static void rx_irq(struct virtq *q, void *arg) {
  struct port *p = arg;
  u64 flags = spin_lock_irqsave(&p->lock);
  rx_collect_locked(p);
  spin_unlock_irqrestore(&p->lock, flags);
  if (p->id == CONSOLE_OUT) deliver(p);
  else waitq_wake_all(&p->wait);
}

void console_input_resume(void) { if (device) deliver(&ports[CONSOLE_OUT]); }

size_t console_readable(bool *eof) {
  struct port *p = &ports[CONSOLE_IN];
  size_t n = 0;
  *eof = true;
  if (!device || !p->rx) return 0;
  struct slot *s;
  u64 flags = spin_lock_irqsave(&p->lock);
  // Bytes come before the close in the device's order, but their interrupt may come after: look before believing it.
  rx_collect_locked(p);
  list_for_each(s, &p->ready, link) n += s->len - s->off;
  *eof = n == 0 && (p->host_closed || device->broken);
  spin_unlock_irqrestore(&p->lock, flags);
  return n;
}

long console_read(void *buf, size_t n, bool nonblock) {
  struct port *p = &ports[CONSOLE_IN];
  bool eof;
  if (n == 0) return 0;
  for (;;) {
    if (console_readable(&eof)) {
      u64 flags = spin_lock_irqsave(&p->lock);
      size_t done = 0, part;
      while (done < n && (part = rx_take_locked(p, (u8 *)buf + done, n - done)) > 0) done += part;
      spin_unlock_irqrestore(&p->lock, flags);
      virtq_kick(p->rx);
      if (done) return (long)done; // else another reader was faster
      continue;
    }
    if (eof) return 0;
    if (nonblock) return -EAGAIN;
    int err = wait_event_interruptible(&p->wait, console_readable(&eof) || eof);
    if (err) return err;
  }
}

// --- control queues

static void control_send_locked(u32 id, u16 event, u16 value) {
  struct control_msg m = { id, event, value };
  void *done;
  u32 written;
  while ((done = virtq_pop(control.tx, &written)) != NULL) control.tx_busy &= ~BIT((uintptr_t)done - 1);
  size_t i = bit_find_zero(&control.tx_busy, CONTROL_SLOTS, 0);
  if (i == CONTROL_SLOTS) return virtq_break(control.tx, "takes no control messages");
  u32 off = (u32)(CONTROL_SLOTS + i) * CONTROL_SLOT_BYTES;
  shared_write(&control.mem, off, &m, sizeof(m));
  struct virtq_seg seg = { control.mem.phys + off, sizeof(m), false };
  if (virtq_push(control.tx, &seg, 1, (void *)(i + 1)) == 0) control.tx_busy |= BIT(i);
}

static void control_post_locked(u32 i) {
  struct virtq_seg seg = { control.mem.phys + i * CONTROL_SLOT_BYTES, CONTROL_SLOT_BYTES, true };
  if (virtq_push(control.rx, &seg, 1, (void *)(uintptr_t)(i + 1))) return; // broken
}

static void port_state(struct port *p, bool added, int open) {
  u64 flags = spin_lock_irqsave(&p->lock);
  if (added) p->added = true;
  if (open == 1) p->host_open = true, p->host_closed = false;
  if (open == 0) p->host_open = false, p->host_closed = true;
  spin_unlock_irqrestore(&p->lock, flags);
  waitq_wake_all(&p->wait);
}

static void control_message_locked(const struct control_msg *m, const u8 *extra, u32 extra_len) {
  if (m->id >= CONSOLE_PORTS) return; // ports that nobody asked for
  struct port *p = &ports[m->id];
  switch (m->event) {
  case EV_DEVICE_ADD:
    control_send_locked(m->id, EV_PORT_READY, 1);
    control_send_locked(m->id, EV_PORT_OPEN, 1);
    // A port whose host side closed before now is never reported as open. The host answers in order, so a second answer
    // for port 0 that comes before an open of stdin means that it is closed.
    if (m->id == CONSOLE_IN) control_send_locked(0, EV_PORT_READY, 1);
    port_state(p, true, -1);
    break;
  case EV_DEVICE_REMOVE: port_state(p, false, 0); break;
  case EV_PORT_OPEN: port_state(p, false, m->value == 1); break;
  case EV_CONSOLE_PORT:
    if (m->id == 0 && ++control.port0_answers == 2 && !ports[CONSOLE_IN].host_open) port_state(&ports[CONSOLE_IN], false, 0);
    break;
  case EV_RESIZE:
    if (extra_len >= 4 && on_resize) {
      u16 size[2]; // columns, rows
      memcpy(size, extra, sizeof(size));
      on_resize(size[1], size[0]);
    }
    break;
  default: break; // names and what later versions add
  }
}

static void control_rx_irq(struct virtq *q, void *arg) {
  u8 buf[CONTROL_SLOT_BYTES];
  struct control_msg m;
  void *cookie;
  u32 written;
  u64 flags = spin_lock_irqsave(&control.lock);
  while (control.rx && (cookie = virtq_pop(q, &written)) != NULL) {
    u32 i = (u32)(uintptr_t)cookie - 1;
    if (written >= sizeof(m)) {
      shared_read(buf, &control.mem, i * CONTROL_SLOT_BYTES, written);
      memcpy(&m, buf, sizeof(m));
      control_message_locked(&m, buf + sizeof(m), written - (u32)sizeof(m));
    }
    control_post_locked(i);
  }
  spin_unlock_irqrestore(&control.lock, flags);
  if (control.rx) virtq_kick(q);
  if (control.tx) virtq_kick(control.tx);
}

static void control_tx_irq(struct virtq *q, void *arg) {} // finished slots are collected when the next message is sent

// --- set-up

static void console_broken(struct virtio_dev *d) {
  for (int i = 0; i < CONSOLE_PORTS; i++) waitq_wake_all(&ports[i].wait);
}

static int port_setup(struct virtio_dev *d, u32 id) {
  struct port *p = &ports[id];
  u16 rx = (u16)(2 * id + 2); // virtio 1.2, 5.3.2: port 0 has queues 0 and 1, the control queues come next
  bool takes_input = id != CONSOLE_ERR;
  if (takes_input) {
    if (shared_alloc(&p->rx_mem, SLOTS * SLOT_BYTES)) return -ENOMEM;
    p->rx = virtq_create(d, rx, SLOTS, rx_irq, p, 0);
  }
  if (id != CONSOLE_IN) {
    p->ring = kmalloc(RING_BYTES, 0);
    if (!p->ring || shared_alloc(&p->tx_mem, SLOTS * SLOT_BYTES)) return -ENOMEM;
    p->tx = virtq_create(d, (u16)(rx + 1), SLOTS, tx_irq, p, 0);
  }
  return 0;
}

static int control_setup(struct virtio_dev *d) {
  if (shared_alloc(&control.mem, 2 * CONTROL_SLOTS * CONTROL_SLOT_BYTES)) return -ENOMEM;
  control.tx = virtq_create(d, 3, CONTROL_SLOTS, control_tx_irq, NULL, 0);
  if (!control.tx) return -EIO;
  virtq_irq_off(control.tx);
  struct virtq *rx = virtq_create(d, 2, CONTROL_SLOTS, control_rx_irq, NULL, 0);
  if (!rx) return -EIO;
  u64 flags = spin_lock_irqsave(&control.lock);
  control.rx = rx;
  spin_unlock_irqrestore(&control.lock, flags);
  return 0;
}

static void start_input(struct port *p) {
  if (!p->rx) return;
  u64 flags = spin_lock_irqsave(&p->lock);
  for (u8 i = 0; i < SLOTS; i++) rx_post_locked(p, &p->rx_slot[i]);
  spin_unlock_irqrestore(&p->lock, flags);
  virtq_kick(p->rx);
}

static int console_probe(struct virtio_dev *d) {
  if (device) return -EBUSY; // one is enough
  int err = d->features & F_MULTIPORT ? 0 : -ENODEV;
  // Port 0 can only be a console, and QEMU drops what a console's reader is too slow for: it carries nothing.
  for (u32 id = CONSOLE_ERR; !err && id < CONSOLE_PORTS; id++) err = port_setup(d, id);
  if (!err) err = control_setup(d);
  if (!err && !ports[CONSOLE_OUT].tx) err = -EIO;
  if (!err) err = virtio_start(d);
  if (err) return err;
  d->on_broken = console_broken;
  device = d;
  for (int i = 0; i < CONSOLE_PORTS; i++) start_input(&ports[i]);
  u64 flags = spin_lock_irqsave(&control.lock);
  for (u32 i = 0; i < CONTROL_SLOTS; i++) control_post_locked(i);
  control_send_locked(0, EV_DEVICE_READY, 1);
  spin_unlock_irqrestore(&control.lock, flags);
  virtq_kick(control.rx);
  virtq_kick(control.tx);
  return 0;
}

void console_register(void) {
  static const struct virtio_driver driver = { .device_id = 3, .features = F_MULTIPORT, .probe = console_probe };
  for (u32 id = 0; id < CONSOLE_PORTS; id++) {
    struct port *p = &ports[id];
    p->id = id;
    spin_init(&p->lock, RANK_CONN);
    waitq_init(&p->wait);
    list_init(&p->ready);
    for (u8 i = 0; i < SLOTS; i++) {
      p->rx_slot[i].index = p->tx_slot[i].index = i;
      list_init(&p->rx_slot[i].link);
      list_init(&p->tx_slot[i].link);
    }
  }
  virtio_register_driver(&driver);
}

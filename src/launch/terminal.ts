// SPDX-License-Identifier: Apache-2.0
//
// The launcher's own stdin, stdout and stderr, joined to the guest's ports (docs/devices.md). With a terminal on both
// ends the guest's line discipline rules, so ours is raw; otherwise bytes pass through and the end of stdin is passed on.

import { spawnSync } from 'node:child_process';
import type { Duplex, Readable } from 'node:stream';
import type { ReadStream, WriteStream } from 'node:tty';

export interface GuestPorts {
  readonly console: Duplex;
  readonly stderr: Duplex;
  /** Only without a terminal. */
  readonly stdin?: Duplex;
}

export interface TerminalEvents {
  windowSize(rows: number, columns: number): void;
  /** Our output goes nowhere any more (a closed pipe, a full disk). */
  outputClosed(): void;
  /** The user typed the escape: end the machine. */
  escape(): void;
  /** The terminal is raw now and was so before, in stty's form; empty: it is as before again. */
  rawSince(settings: string): void;
}

/** Ctrl-] three times within a second ends the machine even when the program ignores Ctrl-C. */
const ESCAPE_BYTE = 0x1d;
const ESCAPE_COUNT = 3;
const ESCAPE_WITHIN_MS = 1000;

/** Whether the program gets a terminal: only when both its input and its output are one. */
export function hasTerminal(): boolean {
  return Boolean(process.stdin.isTTY && process.stdout.isTTY);
}

export class Terminal {
  /** The terminal's settings before it became raw. */
  private settings = '';
  private readonly ended: Promise<unknown>[] = [];

  constructor(
    private readonly ports: GuestPorts,
    private readonly events: TerminalEvents,
    private readonly tty: boolean,
  ) {}

  start(): void {
    this.copyOut(this.ports.console, process.stdout);
    this.copyOut(this.ports.stderr, process.stderr);
    if (this.tty) this.startTerminal(process.stdin as ReadStream, process.stdout as WriteStream);
    else this.startStream(process.stdin);
  }

  /** Resolves when every byte that the guest wrote has been written out. */
  async drained(): Promise<void> {
    await Promise.all(this.ended);
  }

  /** Gives the terminal back as it was. */
  restore(): void {
    if (this.settings !== '') stty(this.settings);
    if (this.settings !== '') this.events.rawSince('');
    this.settings = '';
    process.stdin.pause();
  }

  private copyOut(from: Duplex, to: NodeJS.WriteStream): void {
    // Writing to a pipe is asynchronous: the callback of an empty write comes after everything before it.
    const flushed = () => new Promise((resolve) => to.write('', resolve));
    this.ended.push(new Promise((resolve) => from.once('close', resolve)).then(flushed));
    from.on('error', () => {});
    let closed = false;
    to.on('error', () => {
      if (closed) return;
      closed = true;
      // What the guest still writes is dropped: no 'drain' follows an error, and a guest that waits for room never ends.
      from.resume();
      this.events.outputClosed();
    });
    from.on('data', (data: Buffer) => {
      if (closed || to.write(data)) return;
      // Slow readers slow the guest down instead of filling our memory.
      from.pause();
      to.once('drain', () => from.resume());
    });
  }

  private startTerminal(input: ReadStream, output: WriteStream): void {
    const restore = () => this.restore();
    process.once('exit', restore);
    // Node's own raw mode leaves ONLCR on: every line feed of a full-screen program would also return the carriage.
    const settings = stty('-g');
    if (settings !== undefined && stty('raw', '-echo') !== undefined) {
      this.settings = settings;
      this.events.rawSince(settings);
    }
    const watcher = new EscapeWatcher(() => this.events.escape());
    input.on('data', (data: Buffer) => {
      watcher.see(data);
      if (!this.ports.console.destroyed) this.ports.console.write(data);
    });
    input.on('error', () => {});
    output.on('resize', () => this.events.windowSize(output.rows, output.columns));
  }

  private startStream(input: Readable): void {
    const port = this.ports.stdin;
    if (port === undefined) return;
    port.on('error', () => {});
    port.resume();
    input.on('error', () => port.end());
    input.pipe(port);
  }
}

/** What stty(1) prints about the terminal on our stdin; undefined when it fails. */
function stty(...args: readonly string[]): string | undefined {
  const { status, stdout } = spawnSync('stty', args, { stdio: ['inherit', 'pipe', 'ignore'], encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}

class EscapeWatcher {
  private times: number[] = [];

  constructor(private readonly act: () => void) {}

  see(data: Buffer): void {
    for (const byte of data) {
      this.times = byte === ESCAPE_BYTE ? [...this.times, Date.now()].slice(-ESCAPE_COUNT) : [];
    }
    const first = this.times[0];
    if (this.times.length === ESCAPE_COUNT && first !== undefined && Date.now() - first < ESCAPE_WITHIN_MS) this.act();
  }
}

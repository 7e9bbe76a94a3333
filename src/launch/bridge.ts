// SPDX-License-Identifier: Apache-2.0
//
// The host side of vsock (kernel-bin/bridge) as a child process, and the text lines that we exchange with it on its
// control descriptor. What it reports about the guest comes from the guest: lines are bounded and checked.

import { type ChildProcess, spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { LaunchError } from './errors.js';
import type { Publication } from './options.js';

const CONTROL_FD = 3;
const MAX_LINE_BYTES = 64 * 1024;

export interface BridgeOptions {
  readonly program: string;
  readonly socket: string;
  readonly publish: readonly Publication[];
  readonly outbound: readonly string[];
  readonly verbose: boolean;
}

export interface BridgeEvents {
  /** A port is open; the host port is the real one where 0 was asked for. */
  published(host: string, guestPort: number): void;
  /** The guest's kernel said hello. */
  guest(version: string): void;
  /** The program ended: 0-255, 128+N for a signal. */
  exit(status: number): void;
  /** The kernel's last words. */
  last(text: string): void;
  /** Something went wrong after the start: the bridge goes on, or its end follows. */
  trouble(text: string): void;
}

export function bridgeArguments(options: BridgeOptions): string[] {
  return [
    ...['--socket', options.socket, '--control-fd', String(CONTROL_FD)],
    ...options.publish.flatMap(({ address, hostPort, guestPort, protocol }) => {
      const host = address.includes(':') ? `[${address}]` : address;
      return ['--publish', `${host}:${hostPort}:${guestPort}/${protocol}`];
    }),
    ...options.outbound.flatMap((pattern) => ['--outbound', pattern]),
    ...(options.verbose ? ['--verbose'] : []),
  ];
}

export class Bridge {
  /** Resolves when the socket is there and every port is open; rejects with LaunchError when that fails. */
  readonly ready: Promise<void>;
  readonly child: ChildProcess;
  private readonly control: Duplex;

  constructor(
    private readonly options: BridgeOptions,
    private readonly events: BridgeEvents,
  ) {
    this.child = spawn(options.program, bridgeArguments(options), {
      stdio: ['ignore', 'ignore', options.verbose ? 'inherit' : 'ignore', 'pipe'],
      // Ctrl-C in the terminal is for the guest: no child of ours is in the terminal's process group.
      detached: true,
    });
    this.control = this.child.stdio[CONTROL_FD] as Duplex;
    this.ready = new Promise((resolve, reject) => {
      this.child.once('error', (error) =>
        reject(new LaunchError('helper-failed', `cannot start ${options.program}: ${error.message}`, { cause: error })),
      );
      this.readLines((line) => this.receive(line, resolve, reject));
      // After 'ready' a rejection has no effect.
      this.control.once('close', () => reject(new LaunchError('helper-failed', 'the bridge ended without a message')));
    });
    // A run that fails for another reason never awaits it.
    this.ready.catch(() => {});
  }

  signal(number: number): void {
    this.send(`signal ${number}`);
  }

  windowSize(rows: number, columns: number): void {
    this.send(`winsize ${rows} ${columns}`);
  }

  stop(): void {
    this.send('stop');
  }

  private send(line: string): void {
    if (this.control.writable) this.control.write(`${line}\n`);
  }

  private readLines(receive: (line: string) => void): void {
    let pending = '';
    this.control.on('error', () => {});
    this.control.setEncoding('utf8');
    this.control.on('data', (data: string) => {
      pending += data;
      const lines = pending.split('\n');
      pending = (lines.pop() ?? '').slice(-MAX_LINE_BYTES);
      for (const line of lines) receive(line);
    });
  }

  private receive(line: string, ready: () => void, failed: (error: Error) => void): void {
    const [word = '', ...rest] = line.split(' ');
    const text = rest.join(' ');
    switch (word) {
      case 'ready':
        ready();
        return;
      case 'published':
        this.events.published(rest[0] ?? '', Number(rest[1] ?? 0));
        return;
      case 'guest':
        this.events.guest(text);
        return;
      case 'exit':
        if (/^[0-9]{1,3}$/.test(text) && Number(text) <= 255) this.events.exit(Number(text));
        return;
      case 'last':
        this.events.last(text);
        return;
      case 'error':
        this.events.trouble(text);
        failed(this.explain(rest[0] ?? '', rest.slice(1).join(' ')));
        return;
      default:
        // A newer bridge may say more; what we do not know we do not need.
        return;
    }
  }

  private explain(kind: string, text: string): LaunchError {
    if (kind === 'port-in-use') {
      return new LaunchError('port-in-use', `${text}: the port is in use. Publish on another one: -p HOST:GUEST`);
    }
    if (kind === 'permission' || kind === 'port-denied') {
      return new LaunchError('not-permitted', `${text}: not permitted. Ports below 1024 need root.`);
    }
    return new LaunchError('helper-failed', `the bridge failed: ${text || kind} (${this.options.program})`);
  }
}

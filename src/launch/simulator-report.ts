// SPDX-License-Identifier: Apache-2.0
//
// What the TDX simulator says on its own serial port (kernel-bin/sim/README.md): lines NAME=VALUE; how the TD ended, and
// counters. It repeats what the guest told it, so nothing of it is more than text.

import type { Readable } from 'node:stream';

const MAX_LINE_CHARS = 1000;
/** Values that say why a TD is over, in the order in which they explain. */
const ENDS: readonly (readonly [name: string, meaning: string])[] = [
  ['fatal.message', 'the kernel reported a fatal error'],
  ['stop', 'the simulated TDX module ended the TD'],
  ['bug', 'the simulator cannot go on'],
];

export class SimulatorReport {
  readonly values = new Map<string, string>();
  private pending = '';

  /** `line`: each line as it comes. */
  constructor(stream: Readable, line: (text: string) => void) {
    stream.setEncoding('latin1');
    stream.on('error', () => {});
    stream.on('data', (data: string) => {
      const lines = (this.pending + data).split(/\r?\n/);
      this.pending = (lines.pop() ?? '').slice(0, MAX_LINE_CHARS);
      for (const text of lines) {
        const short = text.slice(0, MAX_LINE_CHARS);
        const match = /^sim\.([a-z0-9_.]+)=(.*)$/.exec(short);
        if (match?.[1] !== undefined) this.values.set(match[1], match[2] ?? '');
        if (short !== '') line(short);
      }
    });
  }

  /** Why the TD is over, if it is for a reason of its own. */
  get end(): string | undefined {
    for (const [name, meaning] of ENDS) {
      const text = this.values.get(name);
      if (text !== undefined) return `${meaning}: ${text}`;
    }
    return undefined;
  }
}

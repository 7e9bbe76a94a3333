// SPDX-License-Identifier: Apache-2.0
//
// Slow questions about this machine (QEMU's version, whether KVM works) and their answers in earlier runs. A key names
// everything that the answer depends on.

import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cacheDirectory } from '../manifest/index.js';

export class HostKnowledge {
  private readonly answers: Map<string, string>;

  constructor(private readonly file = join(cacheDirectory(), 'host.json')) {
    this.answers = load(file);
  }

  get(key: string): string | undefined {
    return this.answers.get(key);
  }

  set(key: string, answer: string): void {
    this.answers.set(key, answer);
    try {
      mkdirSync(dirname(this.file), { recursive: true, mode: 0o700 });
      const fresh = `${this.file}.${process.pid}`;
      // The oldest answers go first; a handful of machines and QEMUs is all that one home directory sees.
      writeFileSync(fresh, JSON.stringify([...this.answers].slice(-16)), { mode: 0o600 });
      renameSync(fresh, this.file);
    } catch {
      // Not remembered: the next run asks again.
    }
  }

  /** The known answer, or that of `ask`, which is then known. */
  remember(key: string, ask: () => string): string {
    const known = this.get(key);
    if (known !== undefined) return known;
    const answer = ask();
    this.set(key, answer);
    return answer;
  }
}

function load(file: string): Map<string, string> {
  try {
    const parsed: unknown = JSON.parse(readFileSync(file, 'utf8'));
    if (Array.isArray(parsed)) {
      return new Map(
        parsed.filter((pair): pair is [string, string] => Array.isArray(pair) && typeof pair[1] === 'string'),
      );
    }
  } catch {
    // Absent or damaged: nothing is known.
  }
  return new Map();
}

// SPDX-License-Identifier: Apache-2.0
//
// The kernel's measurement is published, so its image must depend on the sources alone: a build in another folder gives
// the same bytes.

import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { root } from './machine.js';

it('the kernel image is the same when it is built in another folder', { timeout: 600_000 }, () => {
  const work = mkdtempSync(join(tmpdir(), 'gt-a-folder-of-another-length-'));
  try {
    const sources = join(work, 'sources');
    cpSync(join(root, 'kernel-bin'), sources, {
      recursive: true,
      filter: (path) => path !== join(root, 'kernel-bin/build'),
    });
    const make = (folder: string) => execFileSync('make', ['-s', '-C', folder, 'kernel'], { stdio: 'inherit' });
    // The set-up built it already: nothing to do here, unless a source changed since.
    make(join(root, 'kernel-bin'));
    make(sources);
    const [here, there] = [join(root, 'kernel-bin'), sources].map((folder) =>
      readFileSync(join(folder, 'build/kernel.bfv')),
    );
    expect(there?.equals(here ?? Buffer.alloc(0))).toBe(true);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
});

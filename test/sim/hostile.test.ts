// SPDX-License-Identifier: Apache-2.0
//
// The kernel in a simulated TD whose host lies: seeds that once found something, and a few more. Many seeds at once:
// kernel-bin/test/sim/hostile.js FIRST COUNT.

import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const build = process.env.GRAMINE_TDX_SIM_BUILD ?? join(root, 'kernel-bin/build');
/** What each was: 3: vector 255 as a real interrupt; 9: the timer's MSR refused; 1127: the module always busy; 1276: the serial port never ready; 1311: RETRY inside the range; 30013: interrupts of a queue whose set-up failed; 46031: a deaf serial port before there is a clock. */
const FOUND = [3, 9, 1127, 1276, 1311, 30013, 46031];
/** Seeds of devices that lie: at boot, in the rings, in FUSE, in vsock. 5: a mount that the host refuses; 425, 450: a trusted file that it hides; 468: an interrupt before its queue is ready. */
const DEVICES = [2, 3, 5, 6, 9, 150, 425, 450, 468];
const OTHERS = [1, 11, 15, 16, 20, 27];

describe('a host that lies', () => {
  beforeAll(() => {
    execFileSync('make', ['-s', '-C', join(root, 'kernel-bin'), `O=${build}`, 'sim', 'hostile-kernel'], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  }, 600_000);

  it('an honest host finds no secret, and the program its memory intact', { timeout: 180_000 }, async () => {
    expect(await judge(0)).toMatch(/^seed 0 .*: good: finished$/m);
  });

  it('honest devices: every file and connection is served', { timeout: 180_000 }, async () => {
    expect(await judge(0, '--devices')).toMatch(/good: finished$/m);
  });

  for (const seed of DEVICES) {
    it(`devices that lie, seed ${seed}, end well`, { timeout: 180_000 }, async () => {
      expect(await judge(seed, '--devices')).toMatch(/hostile: 1 passed, 0 failed/);
    });
  }

  // Without SEPT_VE_DISABLE the access is a #VE in ring 3; with it the module ends the TD.
  it('a page that the host takes away from the program is the end of the TD, and the kernel says so', async () => {
    expect(await judge(0, '--taken', '--debug')).toMatch(/good: refused: panic: the host took away the memory at/);
    expect(await judge(0, '--taken')).toMatch(/good: died of a page taken away/);
  });

  for (const seed of [...FOUND, ...OTHERS]) {
    it(`seed ${seed} ends well`, { timeout: 180_000 }, async () => {
      expect(await judge(seed)).toMatch(/hostile: 1 passed, 0 failed/);
    });
  }
});

/** What hostile.js says of one seed. */
async function judge(seed: number, ...options: string[]): Promise<string> {
  const script = join(root, 'kernel-bin/test/sim/hostile.js');
  const child = spawn(process.execPath, [script, String(seed), '1', '--verbose', ...options], {
    env: { ...process.env, O: build },
  });
  let output = '';
  child.stdout.on('data', (data: Buffer) => {
    output += data.toString('latin1');
  });
  await new Promise((resolve) => child.once('close', resolve));
  return output;
}

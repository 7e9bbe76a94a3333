// SPDX-License-Identifier: Apache-2.0
//
// Every example runs in a machine, in a simulated TD, and here, with the same output.

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { freePort, root, runHere } from './machine.js';

const NEEDS: Readonly<Record<string, readonly string[]>> = {
  redis: ['/usr/bin/redis-server', '/usr/bin/redis-cli'],
  memcached: ['/usr/bin/memcached', '/usr/bin/python3'],
  sqlite: ['/usr/bin/sqlite3'],
  python: ['/usr/bin/python3'],
  busybox: ['/bin/busybox'],
  nginx: ['/usr/sbin/nginx', '/usr/bin/python3'],
};
/** Has no counterpart on plain Linux, and a test of its own. */
const APART = ['attested-redis'];
const examples = readdirSync(join(root, 'examples')).filter(
  (name) => !APART.includes(name) && existsSync(join(root, 'examples', name, 'run')),
);

describe('examples', () => {
  it('are all known to this test', () => {
    expect(examples.sort()).toEqual(Object.keys(NEEDS).sort());
  });

  for (const name of examples) {
    const missing = (NEEDS[name] ?? []).filter((path) => !existsSync(path));
    it.skipIf(missing.length > 0)(`${name} prints in a machine what it prints here`, { timeout: 180_000 }, async () => {
      const run = join(root, 'examples', name, 'run');
      const env = { PORT: String(await freePort()) };
      const here = await runHere(run, ['--linux'], { env });
      expect(here.status).toBe(0);
      const inMachine = await runHere(run, [], { env: { PORT: String(await freePort()) } });
      expect({ stdout: inMachine.stdout, status: inMachine.status, stderr: inMachine.stderr }).toEqual({
        stdout: here.stdout,
        status: here.status,
        stderr: here.stderr,
      });
    });

    const canSimulate = existsSync(process.env.GRAMINE_TDX_SIMULATOR ?? join(root, 'kernel-bin/build/tdxsim.bin'));
    it.skipIf(missing.length > 0 || !canSimulate)(
      `${name} does so in a simulated TD`,
      { timeout: 300_000 },
      async () => {
        const run = join(root, 'examples', name, 'run');
        const here = await runHere(run, ['--linux'], { env: { PORT: String(await freePort()) } });
        const inTd = await runHere(run, ['--simulate'], { env: { PORT: String(await freePort()) } });
        expect({ stdout: inTd.stdout, status: inTd.status }).toEqual({ stdout: here.stdout, status: here.status });
      },
    );
  }
});

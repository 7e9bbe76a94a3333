// SPDX-License-Identifier: Apache-2.0
//
// examples/attested-redis in a simulated TD: the secret goes to the TD that was expected, and to no other.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { freePort, root, runHere } from './machine.js';

const needs = [
  process.env.GRAMINE_TDX_SIMULATOR ?? join(root, 'kernel-bin/build/tdxsim.bin'),
  '/usr/bin/redis-server',
  '/usr/bin/openssl',
  '/usr/bin/dash',
  '/etc/ssl/openssl.cnf',
];
const run = async (env: NodeJS.ProcessEnv = {}) =>
  runHere(join(root, 'examples/attested-redis/run'), [], { env: { PORT: String(await freePort()), ...env } });

describe.skipIf(!needs.every((path) => existsSync(path)))('examples/attested-redis', { timeout: 180_000 }, () => {
  it('sends the secret after the quote was accepted', async () => {
    const { status, stdout, stderr } = await run();
    expect({ status, stdout }).toEqual({
      status: 0,
      stdout: 'the quote is good, and about this key: sending the secret\nthe server: +OK\n',
    });
    expect(stderr).toMatch(/^gramine-tdx: SIMULATED: .*NOTHING IS PROTECTED/);
  });

  it.each([
    ['another size of memory', '--memory 1G', 'rtmr0'],
    ['another number of vCPUs', '--cpus 2', 'rtmr0'],
    ['another environment', '-e NONCE=0', 'rtmr2'],
  ])('keeps it from a TD with %s', async (_, expected, register) => {
    const { status, stdout } = await run({ EXPECT_ARGS: expected });
    expect(status).toBe(1);
    expect(stdout).toContain(`refused: ${register}: `);
    expect(stdout).toContain('the secret stays here\n');
    expect(stdout).not.toContain('sending');
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// The launcher as somebody who is not root: no part of the road needs privileges. Where the tests run as an ordinary user
// all other tests show the same; as root this one becomes the user nobody.

import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root } from './machine.js';

const NOBODY = 65534;
const asRoot = process.getuid?.() === 0;

function asNobody(program: string, args: readonly string[], cwd: string): SpawnSyncReturns<string> {
  const env = { PATH: process.env.PATH ?? '', HOME: cwd };
  return spawnSync(program, args, { cwd, env, uid: NOBODY, gid: NOBODY, encoding: 'utf8' });
}

const launcher = join(root, 'dist/cli/gramine-vm.js');
// Below /root, say, nobody sees the clone; in some containers nobody makes namespaces.
const able =
  asRoot &&
  asNobody(process.execPath, [launcher, '--version'], '/').status === 0 &&
  asNobody('bwrap', ['--unshare-user', '--ro-bind', '/', '/', 'true'], '/').status === 0;

describe.skipIf(!able)('an ordinary user', () => {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'gramine-nobody-'));
    chownSync(folder, NOBODY, NOBODY);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it('runs a program that reads and writes the files that are theirs', () => {
    writeFileSync(join(folder, 'mine'), 'content\n');
    chownSync(join(folder, 'mine'), NOBODY, NOBODY);
    chmodSync(join(folder, 'mine'), 0o600);
    const script = 'cat mine; echo new > made; mkdir sub; mv made sub/made; rm mine; ls -R';
    const args = ['-q', '-m', '256M', '-v', `${folder}:/data:rw`, '-w', '/data', 'busybox', 'sh', '-c', script];
    const { status, stdout, stderr } = asNobody(process.execPath, [launcher, ...args], folder);
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: 'content\n.:\nsub\n\n./sub:\nmade\n', stderr: '' });
    expect(statSync(join(folder, 'sub/made')).uid).toBe(NOBODY);
  });

  it('is told of a program that may be run and not read', () => {
    writeFileSync(join(folder, 'secret'), '#!/bin/sh\n');
    chmodSync(join(folder, 'secret'), 0o711);
    const { status, stderr } = asNobody(process.execPath, [launcher, '--dry-run', './secret'], folder);
    expect({ status, stderr }).toEqual({
      status: 77,
      stderr: `gramine-vm: ${JSON.stringify(join(folder, 'secret'))} cannot be read: permission denied\n`,
    });
  });
});

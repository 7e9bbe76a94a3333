// SPDX-License-Identifier: Apache-2.0
//
// Every program in kernel-bin/test/guest behaves in a machine as it does here: same output, same exit status. The `fs_`
// programs take a directory: they run on the machine's tmpfs and on a writable mount of this host.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, runHere, runVm } from './machine.js';

const sources = join(root, 'kernel-bin/test/guest');
const programs = existsSync(sources)
  ? readdirSync(sources)
      .filter((name) => name.endsWith('.c'))
      .map((name) => name.slice(0, -2))
      .sort()
  : [];

const asRoot = process.getuid?.() === 0;
const ROOT_ONLY = /^ok (rights of others|chroot)\n/gm;

describe.skipIf(programs.length === 0)('guest programs', () => {
  let scratch = '';
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'gramine-guest-'));
  });
  afterAll(() => rmSync(scratch, { recursive: true, force: true }));

  const compile = (name: string): string => {
    const program = join(scratch, name);
    if (!existsSync(program)) {
      execFileSync('gcc', ['-O1', '-w', '-pthread', '-o', program, join(sources, `${name}.c`), '-lrt', '-lm']);
    }
    return program;
  };
  const emptyFolder = (name: string): string => {
    const folder = join(scratch, name);
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder);
    return folder;
  };

  for (const name of programs) {
    it(name, { timeout: 240_000 }, async () => {
      const program = compile(name);
      const onFiles = name.startsWith('fs_');
      const here = await runHere(program, onFiles ? [emptyFolder('here')] : [], { env: {} });
      expect({ status: here.status, stdout: here.stdout, stderr: here.stderr }).toMatchObject({ status: 0 });
      const wanted = { status: here.status, stdout: here.stdout };
      // Root in the machine; an ordinary user here skips what only root can do.
      const comparable = (stdout: string) => (asRoot ? stdout : stdout.replace(ROOT_ONLY, ''));
      const tmpfs = await runVm(['-c', '2', program, ...(onFiles ? ['/tmp'] : [])]);
      expect({ status: tmpfs.status, stdout: comparable(tmpfs.stdout) }, tmpfs.stderr).toEqual(wanted);
      // An ordinary user's virtiofsd gives files to nobody else, and the program here is nobody else either.
      if (!onFiles || (!asRoot && name === 'fs_more')) return;
      const mount = await runVm(['-c', '2', '-v', `${emptyFolder('mounted')}:/mnt:rw`, program, '/mnt']);
      expect({ status: mount.status, stdout: comparable(mount.stdout) }, mount.stderr).toEqual(wanted);
    });
  }
});

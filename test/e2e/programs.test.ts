// SPDX-License-Identifier: Apache-2.0
//
// Scripts that use this system's programs as their users do: each prints in a machine what it prints here. A script names
// the programs that it needs in its first line.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root, runHere, runVm } from './machine.js';

const folder = join(root, 'test/e2e/programs');
const system = ['/usr', '/bin', '/lib', '/lib64', '/etc'];
const volumes = [...system, folder].flatMap((path) => ['-v', `${path}:${path}`]);

describe('programs of this system', () => {
  for (const name of readdirSync(folder).sort()) {
    const script = join(folder, name);
    const needs = (/^# needs: (.*)$/m.exec(readFileSync(script, 'utf8'))?.[1] ?? '').split(' ');
    const missing = needs.filter((program) => !existsSync(join('/usr/bin', program)));
    it.skipIf(missing.length > 0)(name.replace('.sh', ''), { timeout: 180_000 }, async () => {
      const env = { PATH: '/usr/bin:/bin' };
      const here = await runHere('/bin/bash', [script], { env });
      expect(here).toMatchObject({ status: 0, stderr: '' });
      const inMachine = await runVm(['-q', '-c', '2', ...volumes, '-e', `PATH=${env.PATH}`, '/bin/bash', script]);
      expect(inMachine).toEqual(here);
    });
  }
});

// SPDX-License-Identifier: Apache-2.0
//
// What the command line adds to a manifest.

import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { LaunchError } from '../../src/launch/index.js';
import { makePlan } from '../../src/launch/plan.js';

let work = '';
beforeEach(() => {
  work = realpathSync(mkdtempSync(join(tmpdir(), 'gt-plan-')));
});
afterEach(() => rmSync(work, { recursive: true }));

const APP = 'libos.entrypoint = "/app"\nfs.mounts = []\n';

function plan(manifest: string, writable: boolean) {
  writeFileSync(join(work, 'app.manifest'), manifest);
  const volumes = [{ host: work, guest: '/data', writable }];
  return makePlan({ app: join(work, 'app'), args: [], env: [], volumes, publish: [], outbound: [] });
}

describe('a working directory beside a manifest', () => {
  it('leaves a relative entrypoint where it is', async () => {
    writeFileSync(join(work, 'app.manifest'), 'libos.entrypoint = "app"\nfs.mounts = []\n');
    const { policy } = await makePlan({
      ...{ app: join(work, 'app'), args: [], env: [], volumes: [], publish: [], outbound: [] },
      workdir: '/tmp',
    });
    expect([policy.entrypoint, policy.cwd]).toEqual(['/app', '/tmp']);
  });
});

it('passes no variable on that JavaScript’s objects inherit', async () => {
  writeFileSync(join(work, 'app.manifest'), `${APP}loader.env.toString = { passthrough = true }\n`);
  const request = { app: join(work, 'app'), args: [], env: [], volumes: [], publish: [], outbound: [] };
  expect((await makePlan(request)).invocation.env).toEqual([]);
});

it('starts a program of a relative name in another folder as the same program under the same name', async () => {
  const request = { app: join(work, 'app'), args: [], env: [], volumes: [], publish: [], outbound: [] };
  for (const line of ['', 'loader.argv = ["x", "y"]\n']) {
    writeFileSync(
      join(work, 'app.manifest'),
      `fs.mounts = []\nfs.start_dir = "/a"\nlibos.entrypoint = "b/app"\n${line}`,
    );
    const [before, moved] = [await makePlan(request), await makePlan({ ...request, workdir: '/c' })];
    expect(moved.policy).toEqual({ ...before.policy, cwd: '/c' });
    expect(before.policy.entrypoint).toBe('/a/b/app');
  }
});

describe('a volume beside a manifest', () => {
  it.each([true, false])('makes no mount around it writable (writable: %s)', async (writable) => {
    const { policy } = await plan(`${APP}fs.root.uri = "file:/"\n`, writable);
    expect(policy.mounts.map(({ path, rw }) => [path, rw])).toEqual([
      ['/', false],
      ['/data', writable],
    ]);
  });

  it('leaves a mount writable that the manifest makes so', async () => {
    const { policy } = await plan(`${APP}fs.root.uri = "file:/"\nsgx.allowed_files = ["file:/var/tmp"]\n`, false);
    expect(policy.mounts.map(({ rw }) => rw)).toEqual([true, false]);
  });

  it.each(['tdx = 1', 'fs = "x"', `${APP}sgx.allowed_files = "x"`, `${APP}tdx.read_only = 3`])(
    'hides nothing that is wrong with it: %s',
    async (manifest) => {
      const error: unknown = await plan(manifest, false).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(LaunchError);
      expect((error as LaunchError).code).toBe('manifest-invalid');
    },
  );
});

// SPDX-License-Identifier: Apache-2.0
//
// What the manifest does not let through, a program does not get: tampered files, files that are not mentioned, arguments.

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, runVm } from './machine.js';

const work = realpathSync(mkdtempSync(join(tmpdir(), 'gt-policy-')));
const data = join(work, 'data');

/** Runs busybox by its manifest. */
const busybox = (...args: string[]) => runVm(['-q', '-m', '256M', 'busybox', ...args], '', { cwd: work });

beforeAll(() => {
  mkdirSync(data);
  for (const name of ['good', 'changed', 'longer', 'unmentioned', 'allowed'])
    writeFileSync(join(data, name), `${name}\n`);
  writeFileSync(
    join(work, 'template'),
    `libos.entrypoint = "/bin/busybox"
     loader.insecure__use_cmdline_argv = true
     loader.env.PASSED = { passthrough = true }
     fs.root.type = "tmpfs"
     fs.mounts = [ { path = "/bin/busybox", uri = "file:/bin/busybox" }, { path = "/data", uri = "file:${data}" } ]
     sgx.allowed_files = ["file:${data}/allowed"]
     sgx.trusted_files = ["file:/bin/busybox", "file:${data}/good", "file:${data}/changed", "file:${data}/longer"]`,
  );
  const manifest = join(root, 'dist/cli/gramine-manifest.js');
  execFileSync(process.execPath, [manifest, '-q', 'template', 'busybox.manifest.tdx'], { cwd: work });
  writeFileSync(join(data, 'changed'), 'chanGed\n');
  writeFileSync(join(data, 'longer'), 'longer than it was\n');
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

describe('a manifest', () => {
  it('lets trusted files be read that have their hash', async () => {
    expect(await busybox('cat', '/data/good')).toEqual({ status: 0, stdout: 'good\n', stderr: '' });
  });

  it.each(['changed', 'longer'])('refuses a file that the host made %s, with a line that names it', async (name) => {
    const { status, stdout, stderr } = await busybox('cat', `/data/${name}`);
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain(`${data}/${name}`);
    expect(stderr).toContain(`cat: can't open '/data/${name}': Permission denied`);
  });

  it('refuses a file that it does not mention', async () => {
    const { status, stdout, stderr } = await busybox('cat', '/data/unmentioned');
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
    expect(stderr).toContain("cat: can't open '/data/unmentioned': Permission denied");
  });

  it('lets allowed files be written, and no trusted ones', async () => {
    const script = 'echo more >> /data/allowed; cat /data/allowed; echo x > /data/good || echo refused; cat /data/good';
    expect((await busybox('sh', '-c', script)).stdout).toBe('allowed\nmore\nrefused\ngood\n');
  });

  it('shows nothing outside of its mounts', async () => {
    const { stdout } = await busybox('sh', '-c', 'ls / | tr "\\n" " "; ls /data/../.. | tr "\\n" " "; ls /bin');
    expect(stdout).not.toMatch(/root|home|usr|var/);
    expect(stdout).toContain('busybox');
  });

  it('decides which variables come in', async () => {
    const args = ['-q', '-m', '256M', '-e', 'PASSED=yes', 'busybox', 'env'];
    expect((await runVm(args, '', { cwd: work })).stdout).toContain('PASSED=yes\n');
    const refused = await runVm(['-q', '-e', 'OTHER=no', 'busybox', 'env'], '', { cwd: work });
    expect(refused.status).toBe(64);
    expect(refused.stderr).toContain('--env OTHER');
  });
});

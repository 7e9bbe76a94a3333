// SPDX-License-Identifier: Apache-2.0
//
// The npm package carries kernel and bridge: installed from its tarball, on a machine without a compiler, it works.

import { type ExecFileSyncOptionsWithStringEncoding, execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const work = mkdtempSync(join(tmpdir(), 'gt-pack-'));
const bin = join(work, 'bin');
const installed = join(work, 'app/node_modules/gramine-tdx');

/** What a user's machine has; no compiler, no make, nothing of this repository. */
const TOOLS = ['node', 'sh', 'env', 'stty', 'rm', 'unshare', 'mount', 'mkdir', 'bwrap', 'qemu-system-x86_64'];

function run(args: readonly string[], command = 'gramine-vm'): string {
  return execFileSync(join(work, 'app/node_modules/.bin', command), args, {
    encoding: 'utf8',
    env: { PATH: bin, HOME: work },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

beforeAll(() => {
  mkdirSync(bin);
  for (const tool of TOOLS) {
    const path = execFileSync('sh', ['-c', 'command -v "$1" || true', 'sh', tool], { encoding: 'utf8' }).trim();
    if (path !== '') symlinkSync(tool === 'node' ? process.execPath : path, join(bin, tool));
  }
  // The set-up has built everything; prepack would only build it again.
  const options: ExecFileSyncOptionsWithStringEncoding = {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  };
  const packed = execFileSync('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', work], options);
  const { filename } = (JSON.parse(packed) as [{ filename: string }])[0];
  mkdirSync(join(work, 'app'));
  execFileSync(
    'npm',
    ['install', '--prefix', join(work, 'app'), '--prefer-offline', '--no-audit', '--no-fund', join(work, filename)],
    options,
  );
}, 180_000);
afterAll(() => rmSync(work, { recursive: true, force: true }));

describe('the npm package', () => {
  it('carries kernel, bridge and simulator, and no sources', () => {
    for (const file of [
      'kernel-bin/build/kernel.bfv',
      'kernel-bin/build/gramine-bridge',
      'kernel-bin/build/tdxsim.bin',
      'dist/cli/gramine-tdx.js',
      'dist/cli/gramine-vm.js',
      'LICENSE',
    ]) {
      expect(existsSync(join(installed, file)), file).toBe(true);
    }
    for (const file of ['src', 'test', 'kernel-bin/kernel'])
      expect(existsSync(join(installed, file)), file).toBe(false);
  });

  it('prints its version and its commands', () => {
    expect(run(['--version'])).toMatch(/^[0-9]+\.[0-9]+\.[0-9]+\n$/);
    expect(run(['-q', '--dry-run', '/bin/busybox'])).toContain(`${installed}/kernel-bin/build/gramine-bridge --socket`);
  });

  it('runs a program', () => {
    expect(run(['-q', '/bin/busybox', 'echo', 'hello from the package'])).toBe('hello from the package\n');
  });

  it('runs it in a simulated TD', () => {
    const args = ['--simulate', '-q', '/bin/busybox', 'echo', 'hello from a TD'];
    expect(run(args, 'gramine-tdx')).toBe('hello from a TD\n');
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// What a manifest's file rules come to in a machine: trusted files only with their bytes, nothing that is not mentioned,
// changes only where files are allowed, and one line in the kernel's log for every refusal.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Outcome, runVm } from './machine.js';

const sha256 = (data: Uint8Array | string): string => createHash('sha256').update(data).digest('hex');

describe('the file rules of a manifest', () => {
  let folder = '';
  const host = (name: string): string => join(folder, 'files', name);
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'gramine-policy-'));
    mkdirSync(host('data'), { recursive: true });
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  /** Runs a busybox script in a machine whose /files is this test's folder; `trusted` maps names to their hashes. */
  const run = (script: string, trusted: Readonly<Record<string, string>>, rest = ''): Promise<Outcome> => {
    const entries = Object.entries(trusted).map(([name, hash]) => `{ uri = "file:${host(name)}", sha256 = "${hash}" }`);
    entries.push(`{ uri = "file:/bin/busybox", sha256 = "${sha256(readFileSync('/bin/busybox'))}" }`);
    const manifest = `
libos.entrypoint = "/bin/busybox"
loader.argv = ["busybox", "sh", "-c", ${JSON.stringify(script)}]
fs.root.type = "tmpfs"
fs.mounts = [ { path = "/bin/busybox", uri = "file:/bin/busybox" }, { path = "/files", uri = "file:${host('')}" } ]
tdx.trusted_files = [ ${entries.join(', ')} ]
tdx.allowed_files = [ "file:${host('data')}" ]
${rest}`;
    writeFileSync(join(folder, 'app.manifest.tdx'), manifest);
    return runVm(['--verbose', '-m', '256M', join(folder, 'app')]);
  };
  const linesAbout = (outcome: Outcome, name: string): string[] =>
    outcome.stderr.split('\n').filter((line) => line.includes(host(name)) && /hash mismatch|refused/.test(line));

  it('give a trusted file with its bytes only, and name what they refuse once', { timeout: 120_000 }, async () => {
    const large = Buffer.alloc(300_000, 'large file ');
    writeFileSync(host('good'), 'good bytes\n');
    writeFileSync(host('changed'), 'other bytes\n');
    writeFileSync(host('large'), large);
    writeFileSync(host('unmentioned'), 'secret\n');
    const outcome = await run(
      [
        'cat /files/good',
        'cat /files/changed || echo refused $?',
        'cat /files/changed || echo refused again',
        'cat /files/unmentioned || echo not mentioned',
        'cat /files/absent || echo absent',
        'sha256sum < /files/large',
        'tail -c 11 /files/large; echo',
        'cd /files; echo *', // a listing needs no hash
      ].join('; '),
      { good: sha256('good bytes\n'), changed: sha256('expected bytes\n'), large: sha256(large) },
    );
    expect(outcome.stdout.split('\n')).toEqual([
      'good bytes',
      'refused 1',
      'refused again',
      'not mentioned',
      'absent',
      `${sha256(large)}  -`,
      large.subarray(-11).toString(),
      'changed data good large',
      '',
    ]);
    expect(outcome.stderr).toContain("can't open '/files/changed': Permission denied");
    expect(outcome.stderr).toContain("can't open '/files/unmentioned': Permission denied");
    expect(outcome.stderr).toContain("can't open '/files/absent': No such file or directory");
    expect(linesAbout(outcome, 'changed')).toHaveLength(1);
    expect(linesAbout(outcome, 'unmentioned')).toHaveLength(1);
    expect(outcome.stdout).not.toContain('secret');
  });

  it('let changes pass where files are allowed, and nowhere else', { timeout: 120_000 }, async () => {
    writeFileSync(host('good'), 'good bytes\n');
    writeFileSync(host('data/old'), 'old\n');
    const outcome = await run(
      [
        'echo new > /files/data/new && mkdir /files/data/dir && mv /files/data/new /files/data/dir/moved',
        'rm /files/data/old',
        'echo x >> /files/good || echo good kept',
        'rm -f /files/good || echo still there',
        'mv /files/good /files/data/ || echo not moved',
        'echo x > /files/elsewhere || echo not made',
        'mv /files/data/dir/moved /files/out || echo not out',
        'cat /files/good /files/data/dir/moved',
      ].join('; '),
      { good: sha256('good bytes\n') },
    );
    expect(outcome.stdout).toBe('good kept\nstill there\nnot moved\nnot made\nnot out\ngood bytes\nnew\n');
    expect(readFileSync(host('data/dir/moved'), 'utf8')).toBe('new\n');
    expect(existsSync(host('data/old'))).toBe(false);
    expect(existsSync(host('elsewhere'))).toBe(false);
    expect(readFileSync(host('good'), 'utf8')).toBe('good bytes\n');
  });

  it('only log what is not mentioned with allow_all_but_log', { timeout: 120_000 }, async () => {
    writeFileSync(host('unmentioned'), 'seen\n');
    writeFileSync(host('changed'), 'other bytes\n');
    const outcome = await run(
      'cat /files/unmentioned; cat /files/changed || echo refused',
      { changed: sha256('expected bytes\n') },
      'sgx.file_check_policy = "allow_all_but_log"\nloader.log_level = "warning"',
    );
    expect(outcome.stdout).toBe('seen\nrefused\n');
    expect(outcome.stderr).toMatch(/\/files\/unmentioned is not in the manifest/);
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// Finding what a program needs, on this system's own programs and on trees made for the purpose.

import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Volume } from '../../src/launch/options.js';
import { buildZeroConfig, type ZeroConfigRequest } from '../../src/launch/zero-config.js';
import { compilePolicy, FileCache } from '../../src/manifest/index.js';

let work = '';
beforeEach(() => {
  work = realpathSync(mkdtempSync(join(tmpdir(), 'gt-zero-')));
});
afterEach(() => rmSync(work, { recursive: true }));

function zero(app: string, more: Partial<ZeroConfigRequest> = {}) {
  return buildZeroConfig({
    app,
    args: [],
    env: [],
    volumes: [],
    publish: [],
    outbound: [],
    cache: new FileCache(undefined),
    ...more,
  });
}

const guestPaths = (app: string, more?: Partial<ZeroConfigRequest>) =>
  zero(app, more).manifest.fs.mounts.map(({ path }) => path);

function script(name: string, text: string): string {
  const path = join(work, name);
  writeFileSync(path, text);
  chmodSync(path, 0o755);
  return path;
}

describe('buildZeroConfig', () => {
  it("exports the libraries that this system's ldd names", () => {
    const ldd = execFileSync('ldd', ['/usr/bin/sqlite3'], { encoding: 'utf8' });
    const expected = [...ldd.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].map((match) => match[1]);
    expect(expected.length).toBeGreaterThan(3);
    expect(guestPaths('/usr/bin/sqlite3')).toEqual(expect.arrayContaining(expected));
  });

  it('exports the file behind a link under the name of the link', () => {
    symlinkSync('/bin/busybox', join(work, 'sh'));
    const { manifest } = zero(join(work, 'sh'));
    expect(manifest.fs.mounts).toContainEqual({ path: join(work, 'sh'), uri: `file:${realpathSync('/bin/busybox')}` });
    expect(manifest.libos.entrypoint).toBe(join(work, 'sh'));
  });

  it('makes a manifest that compiles, with sizes and hash trees, and nothing writable', () => {
    const policy = compilePolicy(zero('/bin/busybox').manifest);
    expect(policy.mounts[0]).toEqual({ path: '/', type: 'tmpfs', rw: true });
    expect(policy.mounts.filter(({ type, rw }) => type === 'chroot' && rw)).toEqual([]);
    expect([...policy.trusted.filesWithMeta()].length).toBe(
      policy.mounts.filter(({ uri }) => uri !== undefined).length,
    );
  });

  it('exports a volume read-only unless asked otherwise', () => {
    const volume = (writable: boolean) => [{ host: work, guest: '/data', writable }];
    const mounted = (writable: boolean) =>
      compilePolicy(zero('/bin/busybox', { volumes: volume(writable) }).manifest).mounts.find(
        ({ path }) => path === '/data',
      );
    expect(mounted(false)).toEqual({ path: '/data', type: 'chroot', uri: work, rw: false });
    expect(mounted(true)?.rw).toBe(true);
  });

  it('makes nothing writable but the volume, whatever folder of the program it lies in', () => {
    const folder =
      guestPaths('/usr/bin/perl').find((path) => path.startsWith('/usr/') && statSync(path).isDirectory()) ?? '';
    const inside = readdirSync(folder).find((name) => statSync(join(folder, name)).isDirectory()) ?? '';
    const volume = { host: join(folder, inside), guest: '/data', writable: true };
    const writable = (volumes: readonly Volume[]) =>
      compilePolicy(zero('/usr/bin/perl', { volumes }).manifest)
        .mounts.filter(({ type, rw }) => type === 'chroot' && rw)
        .map(({ path }) => path);
    expect(writable([volume])).toEqual(['/data']);
    expect(writable([{ ...volume, writable: false }])).toEqual([]);
  });

  it('puts a volume where it would have mounted something itself', () => {
    const folder =
      guestPaths('/usr/bin/perl').find((path) => path.startsWith('/usr/') && statSync(path).isDirectory()) ?? '';
    for (const guest of ['/tmp', folder]) {
      const volumes = [{ host: work, guest, writable: false }];
      const { mounts } = compilePolicy(zero('/usr/bin/perl', { volumes }).manifest);
      expect(mounts.filter(({ path }) => path === guest)).toEqual([
        { path: guest, type: 'chroot', uri: work, rw: false },
      ]);
    }
  });

  it('passes over what lies in a folder under a name that is no text, and links that lead nowhere', () => {
    mkdirSync(join(work, 'node_modules'));
    writeFileSync(Buffer.concat([Buffer.from(join(work, 'node_modules/x')), Buffer.from([0xff])]), '');
    writeFileSync(join(work, 'node_modules/y.js'), '');
    symlinkSync('nowhere', join(work, 'node_modules/broken'));
    symlinkSync('loop', join(work, 'node_modules/loop'));
    const { manifest } = zero(script('node', '#!/bin/sh\n'), { args: [join(work, 'a.js')] });
    const below = manifest.tdx.trusted_files.filter(({ uri }) => uri.includes('node_modules'));
    expect(below.map(({ uri, link }) => [uri.slice(uri.lastIndexOf('/') + 1), link]).sort()).toEqual([
      ['broken', 'nowhere'],
      ['loop', 'loop'],
      ['y.js', undefined],
    ]);
  });

  it('follows a script to its interpreter, and env to the program on PATH', () => {
    const path = script('s', '#!/usr/bin/env sh\n');
    expect(guestPaths(path)).toEqual(expect.arrayContaining([path, '/usr/bin/env']));
    expect(guestPaths(path).some((name) => name.endsWith('/bin/sh'))).toBe(true);
  });

  it('lets files in that the arguments name, and starts where relative ones are', () => {
    writeFileSync('/tmp/gt-zero-argument', 'x');
    const absolute = zero('/bin/busybox', { args: ['cat', '/tmp/gt-zero-argument'] });
    rmSync('/tmp/gt-zero-argument');
    expect(absolute.manifest.fs.mounts.map(({ path }) => path)).toContain('/tmp/gt-zero-argument');
    expect(absolute.manifest.fs.start_dir).toBe('/');
    const relative = zero('/bin/busybox', { args: ['cat', 'package.json', '-n', 'src'] });
    expect(relative.manifest.fs.start_dir).toBe(process.cwd());
    expect(relative.summary).toContain('package.json among them');
  });

  it("brings an interpreter's library as directories, with its extension modules' libraries", () => {
    const { manifest } = zero('/usr/bin/python3');
    const python = realpathSync('/usr/bin/python3').split('/').at(-1);
    const paths = manifest.fs.mounts.map(({ path }) => path);
    expect(paths).toContain(`/usr/lib/${python}`);
    expect(paths.some((path) => path.includes('libssl.so'))).toBe(true);
    expect(paths.some((path) => path.startsWith(`/usr/lib/${python}/`))).toBe(false);
    expect(manifest.tdx.trusted_files.length).toBeGreaterThan(200);
  });

  it.each([
    ['a name that is not on PATH', () => 'surely-no-such-program', 'program-missing'],
    ['a path that does not exist', () => join(work, 'nothing'), 'program-missing'],
    ['a directory', () => work, 'program-missing'],
    ['a missing interpreter', () => script('i', '#!/no/such/interpreter\n'), 'program-missing'],
    ['a name that env does not find', () => script('e', '#!/usr/bin/env surely-no-such-program\n'), 'program-missing'],
    ['scripts that interpret each other', () => script('loop', `#!${join(work, 'loop')}\n`), 'program-missing'],
    ['a text file', () => script('t', 'text'), 'wrong-architecture'],
  ])('refuses %s', (_name, app, code) => {
    expect(() => zero(app())).toThrow(expect.objectContaining({ code }));
  });

  it('refuses a file that is not executable', () => {
    writeFileSync(join(work, 'plain'), '');
    expect(() => zero(join(work, 'plain'))).toThrow(/chmod \+x/);
  });
});

describe('FileCache', () => {
  it('reads a file once, and again after it changed', () => {
    const file = join(work, 'cache.json');
    const app = join(work, 'app');
    mkdirSync(join(work, 'lib'));
    writeFileSync(app, readFileSync('/bin/busybox'), { mode: 0o755 });
    execFileSync('touch', ['-d', '1 hour ago', app]);
    const first = new FileCache(file);
    zero(app, { cache: first });
    expect(first.hashedNow).toBeGreaterThan(0);
    first.save();
    const second = new FileCache(file);
    const known = zero(app, { cache: second });
    // The program's own change time is young: it was not remembered, everything else was.
    expect(second.hashedNow).toBe(1);
    expect(known.manifest).toEqual(zero(app, { cache: new FileCache(undefined) }).manifest);
  });

  it('counts a damaged cache as empty', () => {
    const file = join(work, 'cache.json');
    writeFileSync(file, '{"version":1,"entries":[[');
    expect(() => zero('/bin/busybox', { cache: new FileCache(file) })).not.toThrow();
  });
});

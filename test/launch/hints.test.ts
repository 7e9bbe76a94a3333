// SPDX-License-Identifier: Apache-2.0
//
// What the launcher tells the kernel beside the policy: leaf lists and times of trusted files, and whom to ask for names.

import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { hintsFor, resolverLines } from '../../src/launch/hints.js';
import { compilePolicy, FileCache, HashTreeBuilder } from '../../src/manifest/index.js';

const work = mkdtempSync(join(tmpdir(), 'gt-hints-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

function entry(name: string, content: Buffer) {
  const builder = new HashTreeBuilder();
  builder.update(content);
  const { sha256, root, leaves } = builder.finish();
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
  const file = { uri: `file:${name}`, sha256: hex(sha256), size: content.length, mode: 0o644, root: hex(root) };
  return { file, leaves: Buffer.from(leaves).toString('base64') };
}

it('gives leaf lists and times for the files of a manifest that are as it says', () => {
  mkdirSync(join(work, 'd'));
  const large = Buffer.alloc(100_000, 'large ');
  const a = entry('d/a', large);
  const b = entry(join(work, 'b'), Buffer.from('b'));
  const changed = entry('d/changed', Buffer.from('before'));
  const absent = entry('d/absent', Buffer.from('absent'));
  writeFileSync(join(work, 'd/a'), large);
  writeFileSync(join(work, 'b'), 'b');
  writeFileSync(join(work, 'd/changed'), 'after!');
  for (const name of ['d/a', 'b', 'd/changed']) utimesSync(join(work, name), 1000, 1000);
  const policy = compilePolicy({
    libos: { entrypoint: '/a' },
    fs: { mounts: [] },
    tdx: { trusted_files: [b, a, changed, absent].map(({ file }) => file) },
  });
  const { leaves, times, ...names } = hintsFor(policy, work, new FileCache(undefined));
  expect(names).toEqual({});
  expect(new Map(leaves)).toEqual(
    new Map([
      [a.file.sha256, a.leaves],
      [b.file.sha256, b.leaves],
    ]),
  );
  // In the order of the policy: d/a, d/absent, d/changed below ".", then the absolute path.
  const second = 1_000_000_000n;
  const expected = [1000n * second, 0n, 1000n * second, 1000n * second];
  expect([...new BigUint64Array(Uint8Array.from(times).buffer)]).toEqual(expected);
});

it('passes on the resolver configuration that a guest can use', () => {
  const [stub, real, plain] = ['stub', 'real', 'plain'].map((name) => join(work, name)) as [string, string, string];
  writeFileSync(stub, '# systemd\nnameserver 127.0.0.53\noptions edns0\nsearch .\n');
  writeFileSync(real, 'nameserver 192.0.2.7\nsearch example.org\n');
  writeFileSync(
    plain,
    'domain x\nnameserver\t192.0.2.1\nnameserver 127.0.0.1\nsortlist y\nnameserver 192.0.2.2\u00e9\n',
  );
  expect(resolverLines(stub, real)).toBe('nameserver 192.0.2.7\nsearch example.org\n');
  expect(resolverLines(stub, join(work, 'none'))).toBe('nameserver 127.0.0.53\noptions edns0\nsearch .\n');
  expect(resolverLines(plain, real)).toBe('nameserver\t192.0.2.1\nnameserver 127.0.0.1\n');
  expect(resolverLines(join(work, 'none'), join(work, 'none'))).toBe('');
  writeFileSync(plain, 'search abcdef\n'.repeat(1000));
  expect(resolverLines(plain, real).length).toBeLessThanOrEqual(4096);
});

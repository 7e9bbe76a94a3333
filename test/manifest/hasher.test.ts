// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FileCache } from '../../src/manifest/file-cache.js';
import { HashTreeBuilder } from '../../src/manifest/hash-tree.js';
import { type HashOptions, hashFileNow, hashFiles } from '../../src/manifest/hasher.js';

const work = mkdtempSync(join(tmpdir(), 'gt-hash-'));
afterAll(() => rmSync(work, { recursive: true }));

const LEAF = 16384;
const SIZES = [0, 1, LEAF - 1, LEAF, LEAF + 1, 8 * LEAF - 1, 8 * LEAF, 8 * LEAF + 1, 513 * LEAF + 7, 20 << 20];
const paths = SIZES.map((size) => join(work, `f${size}`));
const content = (size: number) => Buffer.alloc(size, `${size} bytes of it. `);

beforeAll(() => {
  for (const [i, path] of paths.entries()) writeFileSync(path, content(SIZES[i] ?? 0));
});

const hash = (list: readonly string[], options?: HashOptions) =>
  hashFiles(list.length, (start, end) => list.slice(start, end).join('\0'), options);

describe('hashFiles', () => {
  it.each([
    ['in this thread', paths.slice(0, -1)],
    ['in threads', paths],
  ])('computes SHA-256 and root in one pass, %s', async (_where, list) => {
    const digests = await hash(list, { tree: true });
    for (const [i, path] of list.entries()) {
      const builder = new HashTreeBuilder();
      builder.update(readFileSync(path));
      const tree = builder.finish();
      expect(digests.sha256(i)).toBe(Buffer.from(tree.sha256).toString('hex'));
      expect(digests.root(i), path).toBe(Buffer.from(tree.root).toString('hex'));
      expect(digests.size(i)).toBe(SIZES[i]);
      expect(digests.mode(i)).toBe(statSync(path).mode & 0o7777);
    }
  });

  it('gives the same with any number of threads', async () => {
    const many = Array.from({ length: 4 }, () => paths).flat();
    const [one, four] = await Promise.all([hash(many, { threads: 1 }), hash(many, { threads: 4 })]);
    for (let i = 0; i < many.length; i += 1) expect(one.sha256(i)).toBe(four.sha256(i));
  });

  it('names the first file that cannot be hashed', async () => {
    mkdirSync(join(work, 'dir'), { recursive: true });
    await expect(hash([...paths, join(work, 'absent'), join(work, 'dir')])).rejects.toThrow(/absent" does not exist$/);
    await expect(hash([join(work, 'dir')])).rejects.toThrow(/dir" is not a regular file$/);
  });

  it('refuses a file that changes while it is read', () => {
    const path = join(work, 'changing');
    writeFileSync(path, 'before');
    const before = statSync(path, { bigint: true });
    for (const change of [
      () => appendFileSync(path, ' and after'),
      () => writeFileSync(path, 'be'),
      () => utimesSync(path, 1, 1),
    ]) {
      change();
      expect(() => hashFileNow(path, before)).toThrow(/changed while it was read/);
    }
  });

  it('asks the cache by every part of a file’s status', async () => {
    const file = join(work, 'cache');
    const path = join(work, 'cached');
    writeFileSync(path, 'x');
    const stat = statSync(path, { bigint: true });
    const settled = { ...stat, ctimeNs: stat.ctimeNs - 10_000_000_000n } as typeof stat;
    const cache = new FileCache(file);
    cache.put('sha256', path, settled, createHash('sha256').update('x').digest());
    cache.put('sha256', join(work, 'young'), stat, Buffer.alloc(32));
    cache.save();
    const again = new FileCache(file);
    expect(again.get('sha256', path, settled)?.length).toBe(32);
    expect(again.get('sha256', join(work, 'young'), stat)).toBeUndefined();
    expect(again.get('root', path, settled)).toBeUndefined();
    for (const key of ['dev', 'ino', 'size', 'mode', 'mtimeNs', 'ctimeNs'] as const)
      expect(again.get('sha256', path, { ...settled, [key]: settled[key] + 1n } as typeof stat), key).toBeUndefined();
  });

  it('survives a cache that was cut anywhere', () => {
    const file = join(work, 'cut');
    const cache = new FileCache(file);
    const stat = { ...statSync(work, { bigint: true }), ctimeNs: 1n } as ReturnType<typeof statSync> & {
      ctimeNs: bigint;
    };
    for (let i = 0; i < 2000; i += 1) cache.put('sha256', `f${i}`, stat as never, Buffer.alloc(32, i));
    cache.save();
    const whole = readFileSync(file);
    for (let length = 0; length < whole.length; length += 997) {
      writeFileSync(file, whole.subarray(0, length));
      const cutCache = new FileCache(file);
      const got = cutCache.get('sha256', 'f3', stat as never);
      if (got !== undefined) expect(got.equals(Buffer.alloc(32, 3))).toBe(true);
    }
    writeFileSync(file, whole);
    const all = new FileCache(file);
    for (let i = 0; i < 2000; i += 1) expect(all.get('sha256', `f${i}`, stat as never)?.[0]).toBe(i & 255);
  });
});

// SPDX-License-Identifier: Apache-2.0
import * as crypto from 'node:crypto';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
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
import { type HashOptions, hashFileNow, hashFiles, makeHasher, type Question } from '../../src/manifest/hasher.js';

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

  describe('looks at a file', () => {
    const path = join(work, 'watched');
    const ask = (settledBefore: bigint): Question => ({
      paths: path,
      hash: true,
      tree: false,
      kind: undefined,
      settledBefore,
    });
    /** Hashes the file, which `change` meets after each read of some of it; how often it was looked at. */
    const watch = (settledBefore: bigint, change: () => void = () => {}, type = 0xef53) => {
      let looks = 0;
      const watched = {
        ...fs,
        readSync: (...args: Parameters<typeof fs.readSync>) => {
          const count = fs.readSync(...args);
          if (count > 1) change();
          return count;
        },
        fstatSync: (...args: [number, { bigint: true }]) => {
          looks += 1;
          return fs.fstatSync(...args);
        },
        statfsSync: () => ({ type }),
      } as unknown as typeof fs;
      const { digests, failure } = makeHasher(watched, crypto, 1 << 20).answer(ask(settledBefore));
      return { looks, failure, sha256: failure ?? Buffer.from(digests, 'latin1').toString('hex') };
    };
    const changedAt = () => statSync(path, { bigint: true }).ctimeNs;
    const sha256 = (text: string | Buffer) => createHash('sha256').update(text).digest('hex');
    /** Changes the file without changing its size, until its time tells. */
    const rewrite = () => {
      for (const before = changedAt(); changedAt() === before; ) writeFileSync(path, 'later!', { flag: 'r+' });
    };

    it.each([
      ['once, when it was changed long ago', 1n, 0xef53, 1],
      ['twice, when it was changed just now', 0n, 0xef53, 2],
      ['twice, on a file server, whose clock may be behind', 1n, 0x6969, 2],
    ])('%s', (_how, later, type, looks) => {
      writeFileSync(path, 'before');
      const settledBefore = changedAt() + later;
      expect(watch(settledBefore, undefined, type)).toEqual({ looks, failure: undefined, sha256: sha256('before') });
    });

    it.each([
      ['rewritten', rewrite],
      ['longer', () => appendFileSync(path, ' and after')],
      ['shorter', () => fs.truncateSync(path, 3)],
    ])('and refuses one that is %s while it is read', (_how, change) => {
      for (const [later, type] of [
        [1n, 0xef53],
        [0n, 0xef53],
        [1n, 0x6969],
      ] as const) {
        writeFileSync(path, 'before');
        let reads = 0;
        const { failure, sha256: found } = watch(changedAt() + later, () => reads++ < 2 && change(), type);
        // A change before the first look is no change while it is read: then the file is read again, and changes again.
        expect([failure, found]).toEqual(['changed', 'changed']);
      }
    });

    it('and refuses a large one that changes', () => {
      writeFileSync(path, content(300_000));
      const settled = changedAt() + 1n;
      expect(watch(settled)).toMatchObject({ looks: 2, sha256: sha256(content(300_000)) });
      let reads = 0;
      expect(watch(settled, () => reads++ === 1 && appendFileSync(path, '.'))).toMatchObject({ failure: 'changed' });
    });
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

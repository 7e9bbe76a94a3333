// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { HashTreeBuilder, hashTreeRoot, LEAF_BYTES, leafCount } from '../../src/manifest/index.js';

const sha256 = (...parts: Uint8Array[]) => {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest();
};
const le64 = (value: number) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const root = (size: number, top: Uint8Array) => sha256(Buffer.from('gtdx-tree-v1'), le64(size), top).toString('hex');

function build(...pieces: Uint8Array[]) {
  const builder = new HashTreeBuilder();
  for (const piece of pieces) builder.update(piece);
  return builder.finish();
}

describe('HashTreeBuilder', () => {
  it('gives an empty file one leaf, the hash of nothing', () => {
    const tree = build();
    expect(Buffer.from(tree.leaves)).toEqual(sha256());
    expect(Buffer.from(tree.sha256)).toEqual(sha256());
    expect(Buffer.from(tree.root).toString('hex')).toBe(root(0, sha256()));
  });

  it('takes the only leaf as the top of the tree', () => {
    const data = Buffer.alloc(LEAF_BYTES, 7);
    expect(Buffer.from(build(data).root).toString('hex')).toBe(root(LEAF_BYTES, sha256(data)));
  });

  it('hashes a shorter last leaf without padding', () => {
    const data = Buffer.alloc(LEAF_BYTES + 1, 7);
    const leaves = [sha256(data.subarray(0, LEAF_BYTES)), sha256(data.subarray(LEAF_BYTES))];
    expect(Buffer.from(build(data).root).toString('hex')).toBe(root(data.length, sha256(...leaves)));
  });

  it('adds a level beyond 512 leaves', () => {
    const data = Buffer.alloc(LEAF_BYTES * 513, 3);
    const leaf = sha256(data.subarray(0, LEAF_BYTES));
    const first = sha256(Buffer.concat(Array<Buffer>(512).fill(leaf)));
    expect(Buffer.from(build(data).root).toString('hex')).toBe(root(data.length, sha256(first, sha256(leaf))));
  });

  it('does not depend on how the bytes arrive', () => {
    const data = Buffer.from(Array.from({ length: 3 * LEAF_BYTES + 100 }, (_, i) => (i * 7919) & 0xff));
    const whole = build(data);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: data.length })), (cuts) => {
        const points = [0, ...cuts.sort((a, b) => a - b), data.length];
        const pieces = points.slice(1).map((end, i) => data.subarray(points[i], end));
        expect(build(...pieces)).toEqual(whole);
      }),
      { numRuns: 50 },
    );
    expect(Buffer.from(whole.sha256)).toEqual(sha256(data));
  });
});

describe('hashTreeRoot', () => {
  it('refuses a leaf list of the wrong length', () => {
    expect(() => hashTreeRoot(new Uint8Array(64), 100n)).toThrow('1 leaves, not 2');
  });

  it('counts leaves', () => {
    expect([0n, 1n, 16384n, 16385n].map(leafCount)).toEqual([1, 1, 1, 2]);
  });
});

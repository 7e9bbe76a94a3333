// SPDX-License-Identifier: Apache-2.0
//
// The hash tree of a trusted file (docs/launch-record.md, "Hash tree of a trusted file"), built in one pass together
// with the SHA-256 of the whole file, which Gramine's own manifest format carries.

import { createHash, hash } from 'node:crypto';

/** Bytes below one leaf; a level's node covers as many digests as fit in a block of the same size. */
export const LEAF_BYTES = 16 * 1024;
const DIGEST_BYTES = 32;
const FAN_OUT = LEAF_BYTES / DIGEST_BYTES;
const ROOT_LABEL = 'gtdx-tree-v1';

export interface HashTree {
  readonly size: bigint;
  /** SHA-256 of the whole content. */
  readonly sha256: Uint8Array;
  /** The concatenated leaf digests: what the launch record's `host.leaves` holds for this file. */
  readonly leaves: Uint8Array;
  readonly root: Uint8Array;
}

/** Takes a file's bytes in pieces of any size and computes its digests. */
export class HashTreeBuilder {
  private readonly whole = createHash('sha256');
  private readonly digests: Buffer[] = [];
  private readonly partial = Buffer.allocUnsafe(LEAF_BYTES);
  private partialBytes = 0;
  private size = 0n;

  update(piece: Uint8Array): void {
    this.whole.update(piece);
    this.size += BigInt(piece.length);
    let rest = piece;
    if (this.partialBytes > 0) {
      const taken = rest.subarray(0, LEAF_BYTES - this.partialBytes);
      this.partial.set(taken, this.partialBytes);
      this.partialBytes += taken.length;
      rest = rest.subarray(taken.length);
      if (this.partialBytes < LEAF_BYTES) return;
      this.digests.push(sha256(this.partial));
      this.partialBytes = 0;
    }
    while (rest.length >= LEAF_BYTES) {
      this.digests.push(sha256(rest.subarray(0, LEAF_BYTES)));
      rest = rest.subarray(LEAF_BYTES);
    }
    this.partial.set(rest, 0);
    this.partialBytes = rest.length;
  }

  finish(): HashTree {
    // An empty file has one leaf, the hash of nothing.
    if (this.partialBytes > 0 || this.digests.length === 0) {
      this.digests.push(sha256(this.partial.subarray(0, this.partialBytes)));
    }
    const leaves = Buffer.concat(this.digests);
    return {
      size: this.size,
      sha256: this.whole.digest(),
      leaves,
      root: hashTreeRoot(leaves, this.size),
    };
  }
}

/** The root over `leaves` (concatenated digests) of a file of `size` bytes. */
export function hashTreeRoot(leaves: Uint8Array, size: bigint): Uint8Array {
  if (leaves.length !== leafCount(size) * DIGEST_BYTES) {
    throw new RangeError(`a file of ${size} bytes has ${leafCount(size)} leaves, not ${leaves.length / DIGEST_BYTES}`);
  }
  let level = leaves;
  while (level.length > DIGEST_BYTES) {
    const above: Buffer[] = [];
    for (let at = 0; at < level.length; at += FAN_OUT * DIGEST_BYTES) {
      above.push(sha256(level.subarray(at, at + FAN_OUT * DIGEST_BYTES)));
    }
    level = Buffer.concat(above);
  }
  const sizeBytes = Buffer.alloc(8);
  sizeBytes.writeBigUInt64LE(size);
  return sha256(Buffer.concat([Buffer.from(ROOT_LABEL), sizeBytes, level]));
}

/** How many leaves a file of `size` bytes has. */
export function leafCount(size: bigint): number {
  return size === 0n ? 1 : Number((size + BigInt(LEAF_BYTES) - 1n) / BigInt(LEAF_BYTES));
}

function sha256(data: Uint8Array): Buffer {
  return hash('sha256', data, 'buffer');
}

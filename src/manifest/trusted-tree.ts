// SPDX-License-Identifier: Apache-2.0
//
// The tree of trusted files as the policy stores it: by host path, sorted by name bytes, so that one set of files has
// one encoding, and so that common prefixes are stored once.

import type { CborValue } from './cbor.js';
import { ManifestError } from './errors.js';
import { type HostPath, treeComponents } from './host-path.js';

/** Size, permission bits and hash-tree root of a trusted file, from table `tdx.trusted_files`. */
export interface FileMeta {
  readonly size: bigint;
  readonly mode: number;
  readonly root: Uint8Array;
}

export type TrustedEntry =
  | { readonly kind: 'file'; readonly sha256: Uint8Array; readonly meta?: FileMeta }
  | { readonly kind: 'link'; readonly target: string };

type Node = TrustedEntry | Directory;

interface Directory {
  readonly kind: 'directory';
  readonly children: Map<string, Node>;
}

export class TrustedTree {
  private readonly top: Directory = { kind: 'directory', children: new Map() };

  /** Adds an entry; the same file twice is fine when both agree, else ManifestError `conflict`. */
  add(path: HostPath, entry: TrustedEntry): void {
    const parts = treeComponents(path);
    const last = parts.pop();
    if (last === undefined) throw new ManifestError('conflict', [`"/" cannot be a trusted file`]);
    let at = this.top;
    for (const part of parts) {
      const next = at.children.get(part) ?? { kind: 'directory', children: new Map<string, Node>() };
      if (next.kind !== 'directory') {
        throw new ManifestError('conflict', [`${path} lies below ${part}, which is itself a trusted ${next.kind}`]);
      }
      at.children.set(part, next);
      at = next;
    }
    const present = at.children.get(last);
    if (present !== undefined && !sameEntry(present, entry)) {
      throw new ManifestError('conflict', [`two trusted entries for ${path} disagree`]);
    }
    // The entry with more knowledge wins over its equal without.
    if (present === undefined || (present.kind === 'file' && present.meta === undefined)) at.children.set(last, entry);
  }

  toCbor(): CborValue {
    return directoryToCbor(this.top);
  }

  /** Every entry with its path, in the policy's order. */
  *entries(): Generator<readonly [path: string, entry: TrustedEntry]> {
    yield* entriesOf(this.top, '');
  }

  /** The files that have `meta`, depth first in the policy's order: the order of the record's `host.leaves`. */
  *filesWithMeta(): Generator<{ readonly sha256: Uint8Array; readonly meta: FileMeta }> {
    yield* walk(this.top);
  }
}

function* entriesOf(directory: Directory, prefix: string): Generator<readonly [string, TrustedEntry]> {
  for (const [name, node] of sorted(directory)) {
    // The node named "." is where relative paths begin.
    const path = prefix === '' ? (name === '.' ? '.' : `/${name}`) : prefix === '.' ? name : `${prefix}/${name}`;
    if (node.kind === 'directory') yield* entriesOf(node, path);
    else yield [path, node];
  }
}

function* walk(directory: Directory): Generator<{ readonly sha256: Uint8Array; readonly meta: FileMeta }> {
  for (const [, node] of sorted(directory)) {
    if (node.kind === 'directory') yield* walk(node);
    else if (node.kind === 'file' && node.meta !== undefined) yield { sha256: node.sha256, meta: node.meta };
  }
}

function directoryToCbor(directory: Directory): CborValue {
  return sorted(directory).map(([name, node]): CborValue => {
    switch (node.kind) {
      case 'directory':
        return [name, directoryToCbor(node)];
      case 'link':
        return [name, node.target];
      case 'file':
        return node.meta === undefined
          ? [name, node.sha256]
          : [name, node.sha256, [node.meta.size, node.meta.mode, node.meta.root]];
    }
  });
}

function sorted(directory: Directory): [string, Node][] {
  const ascii = [...directory.children.keys()].every((name) => /^[\x00-\x7f]*$/.test(name));
  const entries = [...directory.children];
  // JavaScript compares UTF-16 units, whose order differs from that of the UTF-8 bytes only beyond the BMP.
  if (ascii) return entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return entries.sort(([a], [b]) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

function sameEntry(a: Node, b: TrustedEntry): boolean {
  if (a.kind === 'link' && b.kind === 'link') return a.target === b.target;
  if (a.kind !== 'file' || b.kind !== 'file') return false;
  if (Buffer.compare(a.sha256, b.sha256) !== 0) return false;
  if (a.meta === undefined || b.meta === undefined) return true;
  return a.meta.size === b.meta.size && a.meta.mode === b.meta.mode && Buffer.compare(a.meta.root, b.meta.root) === 0;
}

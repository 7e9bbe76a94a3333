// SPDX-License-Identifier: Apache-2.0
//
// What we learnt about host files in earlier runs: digests, and what the ELF reader found. An entry counts only while
// the file's device, inode, size and both time stamps are the same. The cache saves time and is never trusted with more:
// the kernel checks every byte against the hash anyway, so a stale entry can only make a file unreadable.

import { randomBytes } from 'node:crypto';
import {
  type BigIntStats,
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { HashTreeBuilder } from '../manifest/index.js';
import { type FileKind, readProgram } from './elf.js';
import { cacheDirectory } from './host-knowledge.js';

export interface HashedFile {
  readonly size: number;
  readonly mode: number;
  /** Hex. */
  readonly sha256: string;
  readonly root: string;
  /** Base64 of the concatenated leaf digests. */
  readonly leaves: string;
}

interface Entry {
  readonly stamp: string;
  program?: FileKind;
  hashed?: HashedFile;
}

const VERSION = 1;
const READ_BYTES = 1 << 20;
/** A file changed so recently may change again within one tick of its file system's clock: not remembered. */
const SETTLED_NS = 2_000_000_000n;

export class FileCache {
  private readonly entries: Map<string, Entry>;
  private changed = false;
  /** Files whose content had to be read in this run. */
  hashedNow = 0;

  /** `file`: where the cache is kept between runs; undefined keeps nothing. A damaged one counts as empty. */
  constructor(private readonly file: string | undefined) {
    this.entries = load(file);
  }

  /** What kind of program the regular file is. */
  program(path: string, stat: BigIntStats): FileKind {
    const entry = this.entry(path, stat);
    if (entry.program === undefined) {
      entry.program = readProgram(path);
      this.changed = true;
    }
    return entry.program;
  }

  hash(path: string, stat: BigIntStats): HashedFile {
    const entry = this.entry(path, stat);
    if (entry.hashed === undefined) {
      entry.hashed = hashFile(path);
      this.hashedNow += 1;
      this.changed = true;
    }
    return entry.hashed;
  }

  /** Writes what is new; a cache that cannot be written is no reason to fail a launch. */
  save(): void {
    if (!this.changed || this.file === undefined) return;
    const settledBefore = BigInt(Date.now()) * 1_000_000n - SETTLED_NS;
    const kept = [...this.entries].filter(([, { stamp }]) => BigInt(stamp.split(' ').at(-1) ?? 0) < settledBefore);
    try {
      mkdirSync(dirname(this.file), { recursive: true, mode: 0o700 });
      const fresh = `${this.file}.${randomBytes(6).toString('hex')}`;
      writeFileSync(fresh, JSON.stringify({ version: VERSION, entries: kept }), { mode: 0o600 });
      renameSync(fresh, this.file);
    } catch {
      // A read-only home directory costs the next run some hashing, nothing else.
    }
  }

  private entry(path: string, stat: BigIntStats): Entry {
    const stamp = `${stat.dev} ${stat.ino} ${stat.size} ${stat.mode} ${stat.mtimeNs} ${stat.ctimeNs}`;
    const present = this.entries.get(path);
    if (present?.stamp === stamp) return present;
    const entry: Entry = { stamp };
    this.entries.set(path, entry);
    this.changed = true;
    return entry;
  }
}

/** Reads the file once and computes all of its digests. */
export function hashFile(path: string): HashedFile {
  const fd = openSync(path, 'r');
  try {
    const builder = new HashTreeBuilder();
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
    for (;;) {
      const count = readSync(fd, buffer, 0, READ_BYTES, null);
      if (count === 0) break;
      builder.update(buffer.subarray(0, count));
    }
    const tree = builder.finish();
    return {
      size: Number(tree.size),
      mode: fstatSync(fd).mode & 0o7777,
      sha256: Buffer.from(tree.sha256).toString('hex'),
      root: Buffer.from(tree.root).toString('hex'),
      leaves: Buffer.from(tree.leaves).toString('base64'),
    };
  } finally {
    closeSync(fd);
  }
}

function load(file: string | undefined): Map<string, Entry> {
  if (file === undefined) return new Map();
  try {
    const parsed = JSON.parse(readFileSync(file, 'utf8')) as { version?: unknown; entries?: unknown };
    if (parsed.version === VERSION && Array.isArray(parsed.entries)) {
      return new Map(parsed.entries as [string, Entry][]);
    }
  } catch {
    // Absent or damaged: start anew.
  }
  return new Map();
}

/** The cache of one program; separate files keep each of them small enough to read at every start. */
export function cacheFileFor(key: string): string {
  return join(cacheDirectory(), 'files', `${encodeURIComponent(key).replaceAll('.', '%2E').slice(-180)}.json`);
}

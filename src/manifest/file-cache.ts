// SPDX-License-Identifier: Apache-2.0
//
// What we learnt about host files in earlier runs: digests, hash trees, and what the ELF reader found. An entry counts
// only while the file's path, device, inode, size, mode and both time stamps are the same. The cache saves time and is
// never trusted with more: the kernel checks every byte against the hash anyway, so a stale entry can only make a file
// unreadable. One flat file of records, read whole, so that a million entries cost neither objects nor parsing.

import { hash, randomBytes } from 'node:crypto';
import { type BigIntStats, closeSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { type FileKind, readProgram } from './elf.js';
import { hashFileNow } from './hasher.js';

export interface HashedFile {
  readonly size: number;
  readonly mode: number;
  /** Hex. */
  readonly sha256: string;
  readonly root: string;
  /** Base64 of the concatenated leaf digests. */
  readonly leaves: string;
}

/** What an entry holds: SHA-256; SHA-256 and root; SHA-256, root and leaves; the ELF reader's answer as JSON. */
export type EntryKind = 'sha256' | 'root' | 'leaves' | 'program';

const MAGIC = 'gtdx files 2\n';
const KEY_BYTES = 16;
const HEAD_BYTES = KEY_BYTES + 4;
const DIGEST_BYTES = 32;
/** A file changed so recently may change again within one tick of its file system's clock: not remembered. */
const SETTLED_NS = 2_000_000_000n;

/** Records of a 16-byte key and some bytes, found by an open hash table of their offsets. */
class RecordStore {
  #bytes: Buffer;
  #length: number;
  #slots: Uint32Array;
  count = 0;

  /** Takes over `bytes`, which hold whole records from `start` on; stops at the first that is cut short. */
  constructor(bytes: Buffer = Buffer.from(MAGIC), start = MAGIC.length) {
    this.#bytes = bytes;
    this.#length = start;
    // Most records hold one digest; more slots come when they are needed.
    const expected = bytes.length / (HEAD_BYTES + DIGEST_BYTES);
    this.#slots = new Uint32Array(2 ** Math.max(10, Math.ceil(Math.log2(1.5 * expected + 1))));
    while (this.#length + HEAD_BYTES <= bytes.length) {
      const end = this.#length + HEAD_BYTES + bytes.readUInt32LE(this.#length + KEY_BYTES);
      if (end > bytes.length) break;
      // A file of ours names no key twice.
      this.#makeRoom();
      this.#place(this.#length);
      this.count += 1;
      this.#length = end;
    }
  }

  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  get(key: Buffer): Buffer | undefined {
    const at = this.#slots[this.#find(key, 0)] ?? 0;
    if (at === 0) return undefined;
    return this.#bytes.subarray(at + HEAD_BYTES, at + HEAD_BYTES + this.#bytes.readUInt32LE(at + KEY_BYTES));
  }

  put(key: Buffer, value: Uint8Array): void {
    const size = HEAD_BYTES + value.length;
    if (this.#length + size > this.#bytes.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(4096, this.#length + size, Math.floor(this.#bytes.length * 1.5)));
      this.#bytes.copy(larger, 0, 0, this.#length);
      this.#bytes = larger;
    }
    const at = this.#length;
    key.copy(this.#bytes, at);
    this.#bytes.writeUInt32LE(value.length, at + KEY_BYTES);
    this.#bytes.set(value, at + HEAD_BYTES);
    this.#length += size;
    this.#link(at);
  }

  /** The slot of the key that stands in `bytes` at `offset`, or the free one where it belongs. */
  #find(bytes: Buffer, offset: number): number {
    const mask = this.#slots.length - 1;
    let slot = bytes.readUInt32LE(offset) & mask;
    for (;;) {
      const at = this.#slots[slot] ?? 0;
      if (at === 0 || bytes.compare(this.#bytes, at, at + KEY_BYTES, offset, offset + KEY_BYTES) === 0) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #link(at: number): void {
    this.#makeRoom();
    const slot = this.#find(this.#bytes, at);
    if (this.#slots[slot] === 0) this.count += 1;
    this.#slots[slot] = at;
  }

  /** Puts a key that is not there yet into its slot. */
  #place(at: number): void {
    const mask = this.#slots.length - 1;
    let slot = this.#bytes.readUInt32LE(at) & mask;
    while (this.#slots[slot] !== 0) slot = (slot + 1) & mask;
    this.#slots[slot] = at;
  }

  #makeRoom(): void {
    if ((this.count + 1) * 3 <= this.#slots.length * 2) return;
    const old = this.#slots;
    this.#slots = new Uint32Array(old.length * 2);
    for (const offset of old) if (offset !== 0) this.#place(offset);
  }
}

export class FileCache {
  readonly #old: RecordStore;
  /** What this run asked for: only that is kept, so that a cache does not outgrow its program. */
  readonly #used = new RecordStore();
  readonly #now = BigInt(Date.now()) * 1_000_000n;
  #changed = false;
  /** Files whose content had to be read in this run. */
  hashedNow = 0;

  /** `file`: where the cache is kept between runs; undefined keeps nothing. A damaged one counts as empty. */
  constructor(private readonly file: string | undefined) {
    this.#old = load(file);
  }

  /** What is known of a file that still looks the same. */
  get(kind: EntryKind, path: string, stat: BigIntStats): Buffer | undefined {
    return this.getByKey(this.keyOf(kind, path, stat));
  }

  /** The key of an entry, for those who ask and answer about a million files; the value must be put under the same. */
  keyOf(kind: EntryKind, path: string, stat: BigIntStats): Buffer {
    const { dev, ino, size, mode, mtimeNs, ctimeNs } = stat;
    const text = `${kind} ${dev} ${ino} ${size} ${mode} ${mtimeNs} ${ctimeNs} ${path}`;
    return hash('sha256', text, 'buffer').subarray(0, KEY_BYTES);
  }

  /** Whether the next run could tell if the file changed again within the tick of its clock. */
  isSettled(stat: BigIntStats): boolean {
    return stat.ctimeNs < this.#now - SETTLED_NS;
  }

  getByKey(key: Buffer): Buffer | undefined {
    const here = this.#used.get(key);
    if (here !== undefined) return here;
    const value = this.#old.get(key);
    if (value !== undefined) this.#used.put(key, value);
    return value;
  }

  put(kind: EntryKind, path: string, stat: BigIntStats, value: Uint8Array): void {
    if (this.isSettled(stat)) this.putByKey(this.keyOf(kind, path, stat), value);
  }

  putByKey(key: Buffer, value: Uint8Array): void {
    this.#used.put(key, value);
    this.#changed = true;
  }

  /** What kind of program the regular file is. */
  program(path: string, stat: BigIntStats): FileKind {
    const known = this.get('program', path, stat);
    if (known !== undefined) return JSON.parse(known.toString()) as FileKind;
    const kind = readProgram(path);
    this.put('program', path, stat, Buffer.from(JSON.stringify(kind)));
    return kind;
  }

  /** All digests of a file, computed here and now where they are not known. Error: ManifestError `file`. */
  hash(path: string, stat: BigIntStats): HashedFile {
    let value = this.get('leaves', path, stat);
    if (value === undefined) {
      const { sha256, root, leaves } = hashFileNow(path, stat);
      value = Buffer.concat([sha256, root, leaves]);
      this.hashedNow += 1;
      this.put('leaves', path, stat, value);
    }
    return {
      size: Number(stat.size),
      mode: Number(stat.mode & 0o7777n),
      sha256: value.toString('hex', 0, DIGEST_BYTES),
      root: value.toString('hex', DIGEST_BYTES, 2 * DIGEST_BYTES),
      leaves: value.toString('base64', 2 * DIGEST_BYTES),
    };
  }

  /** Writes what was used; a cache that cannot be written is no reason to fail. */
  save(): void {
    if (this.file === undefined || (!this.#changed && this.#used.count === this.#old.count)) return;
    try {
      mkdirSync(dirname(this.file), { recursive: true, mode: 0o700 });
      const fresh = `${this.file}.${randomBytes(6).toString('hex')}`;
      const fd = openSync(fresh, 'wx', 0o600);
      try {
        const bytes = this.#used.bytes;
        for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at);
      } finally {
        closeSync(fd);
      }
      renameSync(fresh, this.file);
    } catch {
      // A read-only home directory costs the next run some hashing, nothing else.
    }
  }
}

function load(file: string | undefined): RecordStore {
  if (file === undefined) return new RecordStore();
  try {
    const bytes = readFileSync(file);
    if (bytes.toString('latin1', 0, MAGIC.length) === MAGIC) return new RecordStore(bytes);
  } catch {
    // Absent or unreadable: start anew.
  }
  return new RecordStore();
}

/** The directory of our caches. */
export function cacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  const base = env.XDG_CACHE_HOME?.startsWith('/') ? env.XDG_CACHE_HOME : join(homedir(), '.cache');
  return join(base, 'gramine-tdx');
}

/** The cache of one program or manifest; separate files keep each of them small enough to read at every start. */
export function cacheFileFor(key: string): string {
  return join(cacheDirectory(), 'files', `${encodeURIComponent(key).replaceAll('.', '%2E').slice(-180)}.cache`);
}

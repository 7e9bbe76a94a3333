// SPDX-License-Identifier: Apache-2.0
//
// What we learnt about host files in earlier runs: digests, hash trees, and what the ELF reader found. An entry counts
// only while the file's path, device, inode, size, mode and both time stamps are the same. The cache saves time and is
// never trusted with more: the kernel checks every byte against the hash anyway, so a stale entry can only make a file
// unreadable. One flat file of records, read whole, so that a million entries cost neither objects nor parsing.

import { randomBytes } from 'node:crypto';
import { type BigIntStats, closeSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { type FileKind, readProgram } from './elf.js';
import { type EntryKind, entryKey, fileProblem, hashFileNow } from './hasher.js';

export type { EntryKind } from './hasher.js';

export interface HashedFile {
  readonly size: number;
  readonly mode: number;
  /** Hex. */
  readonly sha256: string;
  readonly root: string;
  /** Base64 of the concatenated leaf digests. */
  readonly leaves: string;
}

const MAGIC = 'gtdx files 3\n\0\0\0';
/** Digests at the front of a record's value. */
const DIGEST_BYTES = 32;
const KEY_WORDS = 4;
const HEAD_WORDS = KEY_WORDS + 1;
/** Set in a record's length, in memory alone, when it was asked for. */
const USED = 0x8000_0000;
/** A file changed so recently may change again within one tick of its file system's clock: not remembered. */
const SETTLED_NS = 2_000_000_000n;

/**
 * Records of a 16-byte key, the value's length and the value, padded to whole words; found by an open hash table of their
 * offsets in words, where they are put when one is asked for.
 */
class RecordStore {
  #bytes: Buffer;
  #words: Uint32Array;
  /** In words, as all offsets here. */
  #length = MAGIC.length / 4;
  #slots = new Uint32Array(0);
  /** Where the first record is that has no slot yet. */
  #indexed = MAGIC.length / 4;
  count = 0;
  usedCount = 0;

  /** Takes over `bytes`, which start with MAGIC and hold whole records; stops at the first that is cut short. */
  constructor(bytes: Buffer = Buffer.from(MAGIC)) {
    this.#bytes = bytes.byteOffset % 4 === 0 ? bytes : Buffer.from(new Uint8Array(bytes).buffer);
    this.#words = wordsOf(this.#bytes);
    while (this.#length + HEAD_WORDS <= this.#words.length) {
      const valueBytes = this.#words[this.#length + KEY_WORDS] ?? 0;
      const end = this.#length + HEAD_WORDS + Math.ceil(valueBytes / 4);
      if (valueBytes >= USED || end > this.#words.length) break;
      this.count += 1;
      this.#length = end;
    }
  }

  /** The value of the key at a position of `keys`, which counts as used from now on. */
  get(keys: Uint32Array, position: number): Buffer | undefined {
    if (this.#indexed < this.#length || this.#slots.length === 0) this.#index();
    const at = this.#slots[this.#find(keys, KEY_WORDS * position)] ?? 0;
    if (at === 0) return undefined;
    this.#use(at);
    const start = 4 * (at + HEAD_WORDS);
    return this.#bytes.subarray(start, start + this.#valueBytes(at));
  }

  put(keys: Uint32Array, position: number, value: Uint8Array): void {
    const size = HEAD_WORDS + Math.ceil(value.length / 4);
    if (this.#length + size > this.#words.length) {
      const larger = Buffer.allocUnsafeSlow(
        4 * Math.max(1024, this.#length + size, Math.floor(this.#words.length * 1.5)),
      );
      this.#bytes.copy(larger, 0, 0, 4 * this.#length);
      this.#bytes = larger;
      this.#words = wordsOf(larger);
    }
    const words = this.#words;
    const at = this.#length;
    this.#length += size;
    words[this.#length - 1] = 0;
    for (let i = 0; i < KEY_WORDS; i += 1) words[at + i] = keys[KEY_WORDS * position + i] ?? 0;
    // Used from now on.
    words[at + KEY_WORDS] = value.length + USED;
    this.#bytes.set(value, 4 * (at + HEAD_WORDS));
    this.count += 1;
    this.usedCount += 1;
  }

  /** A file of the records that were used; the store is of no more use afterwards. */
  takeUsed(): Buffer {
    let to = MAGIC.length / 4;
    this.#bytes.write(MAGIC, 'latin1');
    for (let at = to; at < this.#length; ) {
      const end = at + HEAD_WORDS + Math.ceil(this.#valueBytes(at) / 4);
      if (this.#isUsed(at)) {
        this.#words[at + KEY_WORDS] = this.#valueBytes(at);
        if (to !== at) this.#words.copyWithin(to, at, end);
        to += end - at;
      }
      at = end;
    }
    return this.#bytes.subarray(0, 4 * to);
  }

  #valueBytes(at: number): number {
    return (this.#words[at + KEY_WORDS] ?? 0) & ~USED;
  }

  #isUsed(at: number): boolean {
    return (this.#words[at + KEY_WORDS] ?? 0) >= USED;
  }

  #use(at: number): void {
    if (this.#isUsed(at)) return;
    this.#words[at + KEY_WORDS] = (this.#words[at + KEY_WORDS] ?? 0) + USED;
    this.usedCount += 1;
  }

  /** The slot of the key at keys[from], or the free one where it belongs. */
  #find(keys: Uint32Array, from: number): number {
    const words = this.#words;
    const [a, b, c, d] = [keys[from] ?? 0, keys[from + 1], keys[from + 2], keys[from + 3]];
    const mask = this.#slots.length - 1;
    let slot = a & mask;
    for (;;) {
      const at = this.#slots[slot] ?? 0;
      if (at === 0 || (words[at] === a && words[at + 1] === b && words[at + 2] === c && words[at + 3] === d))
        return slot;
      slot = (slot + 1) & mask;
    }
  }

  /** Gives slots to the records that have none. */
  #index(): void {
    const wanted = 2 ** Math.max(10, Math.ceil(Math.log2(1.5 * this.count + 1)));
    if (wanted > this.#slots.length) {
      const old = this.#slots;
      this.#slots = new Uint32Array(wanted);
      for (const at of old) if (at !== 0) this.#slots[this.#find(this.#words, at)] = at;
    }
    while (this.#indexed < this.#length) {
      const at = this.#indexed;
      this.#indexed += HEAD_WORDS + Math.ceil(this.#valueBytes(at) / 4);
      const slot = this.#find(this.#words, at);
      const before = this.#slots[slot] ?? 0;
      this.#slots[slot] = at;
      if (before !== 0) this.#replace(before);
    }
  }

  /** Counts a record no more, whose key has a later one. */
  #replace(before: number): void {
    this.count -= 1;
    if (!this.#isUsed(before)) return;
    this.#words[before + KEY_WORDS] = this.#valueBytes(before);
    this.usedCount -= 1;
  }
}

function wordsOf(bytes: Buffer): Uint32Array {
  return new Uint32Array(bytes.buffer, bytes.byteOffset, Math.floor(bytes.length / 4));
}

export class FileCache {
  readonly #store: RecordStore;
  readonly #loaded: number;
  readonly #now = BigInt(Date.now()) * 1_000_000n;
  #changed = false;
  /** Files whose content had to be read in this run. */
  hashedNow = 0;

  /** `file`: where the cache is kept between runs; undefined keeps nothing. A damaged one counts as empty. */
  constructor(private readonly file: string | undefined) {
    this.#store = load(file);
    this.#loaded = this.#store.count;
  }

  /** Whether nothing is known. */
  get isEmpty(): boolean {
    return this.#store.count === 0;
  }

  /** What is known of a file that still looks the same. */
  get(kind: EntryKind, path: string, stat: BigIntStats): Buffer | undefined {
    return this.getByKey(entryKey(kind, path, stat), 0);
  }

  /** By the key (entryKey) at a position of `keys`: for those who ask about a million files. */
  getByKey(keys: Uint32Array, position: number): Buffer | undefined {
    return this.#store.get(keys, position);
  }

  put(kind: EntryKind, path: string, stat: BigIntStats, value: Uint8Array): void {
    if (stat.ctimeNs < this.#now - SETTLED_NS) this.putAll(entryKey(kind, path, stat), value, 1);
  }

  /** Values of one length, one after the other, without those of files that changed just now. */
  putAll(keys: Uint32Array, values: Uint8Array, count: number, young: ReadonlySet<number> = new Set()): void {
    const length = values.length / count;
    for (let i = 0; i < count; i += 1)
      if (!young.has(i)) this.#store.put(keys, i, values.subarray(length * i, length * (i + 1)));
    if (count > young.size) this.#changed = true;
  }

  /** What kind of program the regular file is. Error: ManifestError `file`: Linux runs programs that nobody may read. */
  program(path: string, stat: BigIntStats): FileKind {
    const known = this.get('program', path, stat);
    if (known !== undefined) return JSON.parse(known.toString()) as FileKind;
    let kind: FileKind;
    try {
      kind = readProgram(path);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      throw code === undefined ? error : fileProblem(path, code);
    }
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

  /**
   * Writes what was used in this run: only that is kept, so that a cache does not outgrow its program. To be called once, at
   * the end. A cache that cannot be written is no reason to fail.
   */
  save(): void {
    if (this.file === undefined || (!this.#changed && this.#store.usedCount === this.#loaded)) return;
    try {
      mkdirSync(dirname(this.file), { recursive: true, mode: 0o700 });
      const fresh = `${this.file}.${randomBytes(6).toString('hex')}`;
      const fd = openSync(fresh, 'wx', 0o600);
      try {
        const bytes = this.#store.takeUsed();
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

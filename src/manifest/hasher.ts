// SPDX-License-Identifier: Apache-2.0
//
// Hashes files as fast as this machine can: OpenSSL's SHA-256 on all cores, each byte read once, also where the hash tree
// (docs/launch-record.md) is wanted beside the SHA-256. What was hashed before is asked of the cache. A file that is not
// the same after the last byte as before the first is an error: its hash would be of a content that never was.
//
// Most of the time that is not SHA-256 itself goes to calls into Node, so there are few of them per file: no look at a file
// before it is opened unless the cache may know it, digests as latin1 text (a Buffer for each costs more than hashing a
// small file), answers packed for whole batches. Figures: docs/performance.md.

import * as crypto from 'node:crypto';
import * as fs from 'node:fs';
import { availableParallelism } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { ManifestError } from './errors.js';
import type { FileCache } from './file-cache.js';

export interface HashProgress {
  readonly files: number;
  readonly totalFiles: number;
  readonly bytes: number;
}

export interface HashOptions {
  /** Compute the root of the hash tree as well. */
  readonly tree?: boolean;
  readonly cache?: FileCache;
  /** Default: one for each core. */
  readonly threads?: number;
  readonly onProgress?: (progress: HashProgress) => void;
  /** What a message about a file begins with: where the file comes from. */
  readonly placeOf?: (index: number) => string;
}

/** Digests of many files, packed. */
export interface Digests {
  /** 64 hexadecimal digits. */
  sha256(index: number): string;
  root(index: number): string;
  size(index: number): number;
  /** Permission bits. */
  mode(index: number): number;
}

/** What an entry of the cache holds; its place in this list is part of its key. */
export const ENTRY_KINDS = ['sha256', 'root', 'leaves', 'program'] as const;
export type EntryKind = (typeof ENTRY_KINDS)[number];

/** What a thread is asked: to look at files, or to hash them too. */
interface Question {
  /** Joined by NUL bytes, which no path has: one text is cheaper to hand over than many. */
  readonly paths: string;
  readonly hash: boolean;
  readonly tree: boolean;
  /** Of the cache's entries for these digests. */
  readonly kind: number;
  /** Files changed after this are not to be remembered, nanoseconds. */
  readonly settledBefore: bigint;
}

/** Facts of the first files of a question, as many as were done before it was time for an answer; and the exceptions. */
interface Answer {
  readonly count: number;
  /** 16 bytes per file: the key of its entry in the cache. */
  readonly keys: Uint8Array;
  /** Size, permission bits, and 1 for a file that may be remembered, per file. */
  readonly facts: Float64Array;
  /** 32 bytes per file, and with a tree 32 more: the root. */
  readonly digests: Uint8Array;
  readonly errors: readonly (readonly [position: number, code: string])[];
}

/**
 * The part that runs in threads. It refers to nothing outside itself: a thread gets it as text, because a bundled command,
 * the library and the tests would each have to look for a file of it in another place.
 */
function makeHasher(fs: typeof import('node:fs'), crypto: typeof import('node:crypto')) {
  const leafBytes = 16384;
  const digestBytes = 32;
  const enoughBytes = 16 << 20;
  // Fits into a core's own cache: the bytes are still there when they are hashed.
  const buffer = Buffer.allocUnsafeSlow(128 * 1024);
  const block = (at: number, length: number) => new Uint8Array(buffer.buffer, at, length);
  const keyText = Buffer.alloc(16384);
  const keyNumbers = new BigInt64Array(keyText.buffer, keyText.byteOffset, 7);
  /** Writes the 16 bytes that stand for a file as it is now. */
  const writeKey = (kind: number, path: string, s: import('node:fs').BigIntStats, out: Buffer, at: number) => {
    keyNumbers.set([BigInt(kind), s.dev, s.ino, s.size, s.mode, s.mtimeNs, s.ctimeNs]);
    const length = keyNumbers.byteLength + keyText.write(path, keyNumbers.byteLength);
    const text = new Uint8Array(keyText.buffer, keyText.byteOffset, length);
    out.write(crypto.hash('sha256', text, 'binary'), at, 16, 'latin1');
  };
  /** docs/launch-record.md, "Hash tree of a trusted file". */
  const rootOf = (leaves: Uint8Array, size: bigint): string => {
    let level = leaves;
    while (level.length > digestBytes) {
      const above = Buffer.allocUnsafe(Math.ceil(level.length / leafBytes) * digestBytes);
      for (let at = 0, to = 0; at < level.length; at += leafBytes, to += digestBytes)
        above.write(crypto.hash('sha256', level.subarray(at, at + leafBytes), 'binary'), to, 'latin1');
      level = above;
    }
    const top = Buffer.allocUnsafe(20 + digestBytes);
    top.write('gtdx-tree-v1', 'latin1');
    top.writeBigUInt64LE(size, 12);
    top.set(level, 20);
    return crypto.hash('sha256', top, 'binary');
  };
  const same = (a: import('node:fs').BigIntStats, b: import('node:fs').BigIntStats) =>
    a.dev === b.dev && a.ino === b.ino && a.size === b.size && a.mtimeNs === b.mtimeNs && a.ctimeNs === b.ctimeNs;
  /** SHA-256 as latin1 text and, with a tree, the concatenated leaf digests; undefined for a file that changes. */
  const hashOpen = (fd: number, before: import('node:fs').BigIntStats, tree: boolean) => {
    const size = Number(before.size);
    const leaves = tree && size > leafBytes ? Buffer.allocUnsafe(Math.ceil(size / leafBytes) * digestBytes) : undefined;
    let whole: import('node:crypto').Hash | undefined;
    let sha256: string | undefined;
    let total = 0;
    let leaf = 0;
    while (total < size || total === 0) {
      let filled = 0;
      while (filled < buffer.length) {
        const count = fs.readSync(fd, buffer, filled, buffer.length - filled, null);
        if (count === 0) break;
        filled += count;
        if (total + filled === size) break;
      }
      total += filled;
      if (total > size) return undefined;
      if (total === size && whole === undefined) sha256 = crypto.hash('sha256', block(0, filled), 'binary');
      else {
        whole ??= crypto.createHash('sha256');
        whole.update(block(0, filled));
      }
      if (leaves !== undefined) {
        for (let at = 0; at < filled; at += leafBytes, leaf += digestBytes) {
          const piece = block(at, Math.min(leafBytes, filled - at));
          leaves.write(crypto.hash('sha256', piece, 'binary'), leaf, 'latin1');
        }
      }
      if (filled === 0) break;
    }
    sha256 ??= whole?.digest('binary');
    if (sha256 === undefined || total !== size || !same(before, fs.fstatSync(fd, { bigint: true }))) return undefined;
    return { sha256, leaves: leaves ?? Buffer.from(sha256, 'latin1') };
  };
  /** Opens a file, and looks at it; the caller closes it. Should a FIFO be there, opening does not wait for a writer. */
  const open = (path: string) => fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  const answer = ({ paths, hash, tree, kind, settledBefore }: Question): Answer => {
    const names = paths.split('\0');
    const keys = Buffer.alloc(16 * names.length);
    const facts = new Float64Array(3 * names.length);
    const stride = tree ? 2 * digestBytes : digestBytes;
    const digests = Buffer.alloc(hash ? stride * names.length : 0);
    const errors: [number, string][] = [];
    let count = 0;
    for (let bytes = 0; count < names.length && bytes < enoughBytes; count += 1) {
      const path = names[count] ?? '';
      let fd: number | undefined;
      try {
        fd = hash ? open(path) : undefined;
        const stat = fd === undefined ? fs.statSync(path, { bigint: true }) : fs.fstatSync(fd, { bigint: true });
        if (!stat.isFile()) {
          errors.push([count, 'irregular']);
          continue;
        }
        writeKey(kind, path, stat, keys, 16 * count);
        facts[3 * count] = Number(stat.size);
        facts[3 * count + 1] = Number(stat.mode & 0o7777n);
        facts[3 * count + 2] = stat.ctimeNs < settledBefore ? 1 : 0;
        if (fd === undefined) continue;
        const found = hashOpen(fd, stat, tree);
        if (found === undefined) {
          errors.push([count, 'changed']);
          continue;
        }
        digests.write(found.sha256, stride * count, 'latin1');
        if (tree) digests.write(rootOf(found.leaves, stat.size), stride * count + digestBytes, 'latin1');
        bytes += Number(stat.size);
      } catch (error) {
        errors.push([count, (error as NodeJS.ErrnoException).code ?? String(error)]);
      } finally {
        if (fd !== undefined) fs.closeSync(fd);
      }
    }
    return { count, keys, facts, digests, errors };
  };
  /** All digests of a file that looked like `before`; undefined when it does not any more. */
  const hashNow = (path: string, before: import('node:fs').BigIntStats) => {
    const fd = open(path);
    try {
      const found = same(before, fs.fstatSync(fd, { bigint: true })) ? hashOpen(fd, before, true) : undefined;
      return found && { ...found, root: rootOf(found.leaves, before.size) };
    } finally {
      fs.closeSync(fd);
    }
  };
  return { answer, hashNow, writeKey };
}

let own: ReturnType<typeof makeHasher> | undefined;
/** Of this thread. */
function hasher(): ReturnType<typeof makeHasher> {
  own ??= makeHasher(fs, crypto);
  return own;
}

/** The 16 bytes by which the cache knows a file: every part of its status counts. */
export function entryKey(kind: EntryKind, path: string, stat: fs.BigIntStats): Buffer {
  const key = Buffer.allocUnsafe(16);
  hasher().writeKey(ENTRY_KINDS.indexOf(kind), path, stat, key, 0);
  return key;
}

/** All digests of one file, in this thread. Error: ManifestError `file`. */
export function hashFileNow(
  path: string,
  stat: fs.BigIntStats,
): { sha256: Uint8Array; root: Uint8Array; leaves: Uint8Array } {
  let found: ReturnType<ReturnType<typeof makeHasher>['hashNow']>;
  try {
    found = hasher().hashNow(path, stat);
  } catch (error) {
    throw problem(path, (error as NodeJS.ErrnoException).code ?? String(error));
  }
  if (found === undefined) throw problem(path, 'changed');
  return {
    sha256: Buffer.from(found.sha256, 'latin1'),
    root: Buffer.from(found.root, 'latin1'),
    leaves: found.leaves,
  };
}

const REASONS: Readonly<Record<string, string>> = {
  changed: 'changed while it was read; try again when nobody writes to it',
  irregular: 'is not a regular file',
  EACCES: 'cannot be read: permission denied',
  EPERM: 'cannot be read: permission denied',
  ENOENT: 'does not exist',
  ENOTDIR: 'does not exist',
  ENXIO: 'is not a regular file',
  ELOOP: 'cannot be read: too many symbolic links',
  EIO: 'cannot be read: input/output error',
  EMFILE: 'cannot be read: too many open files',
};

function problem(path: string, code: string, place = ''): ManifestError {
  return new ManifestError('file', [`${place}${JSON.stringify(path)} ${REASONS[code] ?? `cannot be read: ${code}`}`]);
}

/** Below this much work starting threads costs more than they save. */
const WORTH_THREADS_BYTES = 8 << 20;
const WORTH_THREADS_FILES = 1000;
const MAX_BATCH_FILES = 512;
/** Questions that a thread has at a time: it need not wait while this thread is busy with files of its own. */
const QUESTIONS_PER_THREAD = 2;
/** A file changed so recently may change again within one tick of its file system's clock. */
const SETTLED_NS = 2_000_000_000n;

/**
 * Hashes regular files; `count` of them, whose paths `pathOf` tells. Error: ManifestError `file` for the first file, by
 * index, that cannot be read, is not regular or changes.
 */
export async function hashFiles(
  count: number,
  pathOf: (index: number) => string,
  options: HashOptions = {},
): Promise<Digests> {
  const run = new HashRun(count, pathOf, options);
  try {
    return await run.go();
  } finally {
    run.stop();
  }
}

/** Files that are asked about together. */
interface Batch {
  readonly indices: readonly number[];
  readonly hash: boolean;
}

class HashRun implements Digests {
  readonly #tree: boolean;
  readonly #cache: FileCache | undefined;
  readonly #kind: EntryKind;
  readonly #sha256: Buffer;
  readonly #roots: Buffer;
  readonly #sizes: Float64Array;
  readonly #modes: Uint16Array;
  /** Whether the cache may know any of the files: then they are looked at before they are hashed. */
  readonly #lookFirst: boolean;
  readonly #settledBefore = BigInt(Date.now()) * 1_000_000n - SETTLED_NS;
  /** The first file that nobody was asked about. */
  #next = 0;
  /** Files that came back from a question undone, or that the cache does not know: to be hashed. */
  #todo: number[] = [];
  #batchFiles = 16;
  readonly #threads: HashThread[] = [];
  #doneFiles = 0;
  #doneBytes = 0;
  #failure: { index: number; error: Error } | undefined;
  #wake: () => void = () => {};

  constructor(
    readonly count: number,
    readonly pathOf: (index: number) => string,
    readonly options: HashOptions,
  ) {
    this.#tree = options.tree ?? false;
    this.#kind = this.#tree ? 'root' : 'sha256';
    this.#cache = options.cache;
    this.#lookFirst = options.cache !== undefined && !options.cache.isEmpty;
    this.#sha256 = Buffer.allocUnsafeSlow(Math.max(1, 32 * count));
    this.#roots = Buffer.allocUnsafeSlow(this.#tree ? Math.max(1, 32 * count) : 1);
    this.#sizes = new Float64Array(this.#tree ? count : 0);
    this.#modes = new Uint16Array(this.#tree ? count : 0);
  }

  sha256(index: number): string {
    return this.#sha256.toString('hex', 32 * index, 32 * index + 32);
  }
  root(index: number): string {
    return this.#roots.toString('hex', 32 * index, 32 * index + 32);
  }
  size(index: number): number {
    return this.#sizes[index] ?? 0;
  }
  mode(index: number): number {
    return this.#modes[index] ?? 0;
  }

  stop(): void {
    for (const { worker } of this.#threads) void worker.terminate();
  }

  async go(): Promise<Digests> {
    for (;;) {
      if (this.#failure === undefined) this.#startThreads();
      for (const thread of this.#threads) while (thread.waiting < QUESTIONS_PER_THREAD && this.#ask(thread));
      const batch = this.#nextBatch();
      if (batch !== undefined) this.#take(batch, hasher().answer(this.#question(batch)));
      else if (this.#threads.every(({ waiting }) => waiting === 0)) break;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
      this.#report();
      if (this.#threads.length > 0) await nextTurn();
    }
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#report();
    return this;
  }

  /** This thread works too: it starts one less than there are cores, once it is clear that there is much to do. */
  #startThreads(): void {
    if (this.#threads.length > 0 || this.count - this.#doneFiles < 2) return;
    if (this.#doneBytes < WORTH_THREADS_BYTES && this.#doneFiles < WORTH_THREADS_FILES) return;
    const limit = (this.options.threads ?? availableParallelism()) - 1;
    for (let i = 0; i < limit; i += 1) this.#threads.push(new HashThread((error) => this.#fail(-1, error)));
  }

  #nextBatch(): Batch | undefined {
    if (this.#failure !== undefined) return undefined;
    if (this.#todo.length > 0) return { indices: this.#todo.splice(-this.#batchFiles), hash: true };
    const end = Math.min(this.count, this.#next + (this.#lookFirst ? MAX_BATCH_FILES : this.#batchFiles));
    if (end === this.#next) return undefined;
    const indices = Array.from({ length: end - this.#next }, (_, i) => this.#next + i);
    this.#next = end;
    return { indices, hash: !this.#lookFirst };
  }

  #question({ indices, hash }: Batch): Question {
    const paths = indices.map((index) => this.pathOf(index)).join('\0');
    const kind = ENTRY_KINDS.indexOf(this.#kind);
    return { paths, hash, tree: this.#tree, kind, settledBefore: this.#settledBefore };
  }

  #ask(thread: HashThread): boolean {
    const batch = this.#nextBatch();
    if (batch === undefined) return false;
    thread.ask(this.#question(batch), (answer) => {
      this.#take(batch, answer);
      this.#wake();
    });
    return true;
  }

  #take({ indices, hash }: Batch, { count, keys, facts, digests, errors }: Answer): void {
    for (const [position, code] of errors) {
      const index = indices[position] ?? 0;
      this.#fail(index, problem(this.pathOf(index), code, this.options.placeOf?.(index)));
    }
    if (this.#failure !== undefined) return;
    if (hash) this.#batchFiles = Math.min(MAX_BATCH_FILES, 2 * count);
    for (let i = count; i < indices.length; i += 1) this.#todo.push(indices[i] ?? 0);
    const keyBytes = Buffer.from(keys.buffer, keys.byteOffset, keys.length);
    const stride = this.#tree ? 64 : 32;
    for (let i = 0; i < count; i += 1) {
      const index = indices[i] ?? 0;
      let value: Uint8Array;
      if (hash) {
        value = digests.subarray(stride * i, stride * i + stride);
        if (facts[3 * i + 2] === 1) this.#cache?.putByKey(keyBytes, 16 * i, value);
      } else {
        const known = this.#cache?.getByKey(keyBytes, 16 * i);
        if (known === undefined) {
          this.#todo.push(index);
          continue;
        }
        value = known;
      }
      this.#sha256.set(this.#tree ? value.subarray(0, 32) : value, 32 * index);
      if (this.#tree) {
        this.#roots.set(value.subarray(32), 32 * index);
        this.#sizes[index] = facts[3 * i] ?? 0;
        this.#modes[index] = facts[3 * i + 1] ?? 0;
      }
      this.#doneFiles += 1;
      this.#doneBytes += facts[3 * i] ?? 0;
    }
  }

  #fail(index: number, error: Error): void {
    if (this.#failure === undefined || index < this.#failure.index) this.#failure = { index, error };
    this.#wake();
  }

  #report(): void {
    this.options.onProgress?.({ files: this.#doneFiles, totalFiles: this.count, bytes: this.#doneBytes });
  }
}

/** A thread that answers questions in their order. */
class HashThread {
  readonly worker: Worker;
  readonly #takers: ((answer: Answer) => void)[] = [];

  constructor(onError: (error: Error) => void) {
    const text = `const { parentPort } = require('node:worker_threads');
const { answer } = (${makeHasher.toString()})(require('node:fs'), require('node:crypto'));
parentPort.on('message', (question) => {
  const found = answer(question);
  parentPort.postMessage(found, [found.keys.buffer, found.facts.buffer, found.digests.buffer]);
});`;
    // Nothing of the process is needed there.
    this.worker = new Worker(text, { eval: true, env: {}, argv: [], stdout: false });
    this.worker.on('message', (answer: Answer) => this.#takers.shift()?.(answer));
    this.worker.on('error', (error) => {
      this.#takers.length = 0;
      onError(error);
    });
  }

  /** Questions without an answer. */
  get waiting(): number {
    return this.#takers.length;
  }

  ask(question: Question, take: (answer: Answer) => void): void {
    this.#takers.push(take);
    this.worker.postMessage(question);
  }
}

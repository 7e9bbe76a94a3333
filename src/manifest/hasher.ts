// SPDX-License-Identifier: Apache-2.0
//
// Hashes files as fast as this machine can: OpenSSL's SHA-256 on all cores, each byte read once, also where the hash tree
// (docs/launch-record.md) is wanted beside the SHA-256. What was hashed before is asked of the cache. A file that is not
// the same after the last byte as before the first is an error: its hash would be of a content that never was.
//
// Most of the time that is not SHA-256 itself goes to Node: calls into it, and the compiler and collector of what runs
// between them. So a small file is looked at once (lookOnce below), digests travel as latin1 text (a Buffer for each costs
// more than hashing a small file), and whole batches of them are handed over and stored at once. Figures:
// docs/performance.md.

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
  /** The digits of all digests of the files from `start` to before `end`: with a tree the root after each SHA-256. */
  hex(start: number, end: number): string;
  size(index: number): number;
  /** Permission bits. */
  mode(index: number): number;
}

/** What an entry of the cache holds; its place in this list is part of its key. */
export const ENTRY_KINDS = ['sha256', 'root', 'leaves', 'program'] as const;
export type EntryKind = (typeof ENTRY_KINDS)[number];

/** What a thread is asked: to look at files, or to hash them too. */
export interface Question {
  /** Joined by NUL bytes, which no path has: one text is cheaper to hand over than many. */
  readonly paths: string;
  readonly hash: boolean;
  readonly tree: boolean;
  /** Of the cache's entries for these digests; undefined where there is no cache, and no keys are wanted. */
  readonly kind: number | undefined;
  /** Files changed after this are not to be remembered, nanoseconds. */
  readonly settledBefore: bigint;
}

/** Facts of the first files of a question, as many as were done before it was time for an answer, or before one failed. */
export interface Answer {
  readonly count: number;
  /** Latin1, 16 characters per file: the key of its entry in the cache; empty where none are wanted. */
  readonly keys: string;
  readonly sizes: Float64Array;
  /** Permission bits. */
  readonly modes: Uint16Array;
  /** Positions of the files that changed too lately to be remembered. */
  readonly young: readonly number[];
  /** Latin1, 32 characters per file, and with a tree 32 more: the root. */
  readonly digests: string;
  /** Why the file after those could not be hashed. */
  readonly failure: string | undefined;
}

/** An answer ends after so many bytes. */
const ENOUGH_BYTES = 16 << 20;

/**
 * The part that runs in threads. It refers to nothing outside itself: a thread gets it as text, because a bundled command,
 * the library and the tests would each have to look for a file of it in another place.
 */
export function makeHasher(fs: typeof import('node:fs'), crypto: typeof import('node:crypto'), enoughBytes: number) {
  type Status = import('node:fs').BigIntStats;
  const leafBytes = 16384;
  const exactly = { bigint: true } as const;
  // Fits into a core's own cache: the bytes are still there when they are hashed.
  const buffer = Buffer.allocUnsafeSlow(128 * 1024);
  const keyText = Buffer.alloc(16384);
  const keyNumbers = new BigInt64Array(keyText.buffer, keyText.byteOffset, 7);
  /** The 16 bytes that stand for a file as it is now. */
  const keyOf = (kind: bigint, path: string, s: Status): string => {
    keyNumbers[0] = kind;
    keyNumbers[1] = s.dev;
    keyNumbers[2] = s.ino;
    keyNumbers[3] = s.size;
    keyNumbers[4] = s.mode;
    keyNumbers[5] = s.mtimeNs;
    keyNumbers[6] = s.ctimeNs;
    const length = keyNumbers.byteLength + keyText.write(path, keyNumbers.byteLength);
    return crypto.hash('sha256', keyText.subarray(0, length), 'binary').slice(0, 16);
  };
  /** docs/launch-record.md, "Hash tree of a trusted file": from the leaves' digests, in latin1. */
  const rootOf = (leaves: string, size: bigint): string => {
    let level = leaves;
    while (level.length > 32) {
      const bytes = Buffer.from(level, 'latin1');
      level = '';
      for (let at = 0; at < bytes.length; at += leafBytes)
        level += crypto.hash('sha256', bytes.subarray(at, at + leafBytes), 'binary');
    }
    const top = Buffer.from(`gtdx-tree-v1\0\0\0\0\0\0\0\0${level}`, 'latin1');
    top.writeBigUInt64LE(size, 12);
    return crypto.hash('sha256', top, 'binary');
  };
  const isFile = (s: Status) => (Number(s.mode) & 0o170000) === 0o100000;
  const same = (a: Status, b: Status) =>
    a.dev === b.dev && a.ino === b.ino && a.size === b.size && a.mtimeNs === b.mtimeNs && a.ctimeNs === b.ctimeNs;
  /** Should a FIFO be there, opening does not wait for a writer. */
  const open = (path: string) => fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  /** The digests of the leaves in the first bytes of the buffer. */
  const leavesIn = (filled: number): string => {
    let leaves = '';
    for (let at = 0; at < filled; at += leafBytes)
      leaves += crypto.hash('sha256', buffer.subarray(at, Math.min(at + leafBytes, filled)), 'binary');
    return leaves;
  };
  /**
   * SHA-256 and, with a tree, the leaves of a file that looked like `before`; undefined when it does not any more at its
   * end. `filled`: how many of its first bytes are in the buffer.
   */
  const read = (fd: number, before: Status, tree: boolean, filled: number) => {
    const size = Number(before.size);
    let whole: import('node:crypto').Hash | undefined;
    let sha256 = '';
    let leaves = '';
    for (let total = 0; ; filled = 0) {
      while (filled < buffer.length && total + filled !== size) {
        const count = fs.readSync(fd, buffer, filled, buffer.length - filled, total + filled);
        if (count === 0) return undefined;
        filled += count;
      }
      total += filled;
      if (total > size) return undefined;
      const bytes = buffer.subarray(0, filled);
      if (total === size && whole === undefined) sha256 = crypto.hash('sha256', bytes, 'binary');
      else {
        whole ??= crypto.createHash('sha256');
        whole.update(bytes);
      }
      if (tree && size > leafBytes) leaves += leavesIn(filled);
      if (total === size) break;
    }
    // A file that grew ends later now.
    if (fs.readSync(fd, buffer, 0, 1, size) !== 0 || !same(before, fs.fstatSync(fd, exactly))) return undefined;
    if (whole !== undefined) sha256 = whole.digest('binary');
    return { sha256, leaves: leaves === '' ? sha256 : leaves };
  };
  // Of statfs(2): ext4, xfs, btrfs, tmpfs, overlayfs, f2fs, zfs, squashfs, erofs.
  const timedHere = [
    0xef53, 0x58465342, 0x9123683e, 0x01021994, 0x794c7630, 0xf2f52010, 0x2fc12fc1, 0x73717368, 0xe0f5e1e2,
  ];
  const clocks = new Map<bigint, boolean>();
  /** Whether the times of a file's changes are by this machine's clock. */
  const isTimedHere = (path: string, { dev }: Status): boolean => {
    let known = clocks.get(dev);
    if (known === undefined) {
      known = timedHere.includes(fs.statfsSync(path).type >>> 0);
      clocks.set(dev, known);
    }
    return known;
  };
  let digests = '';
  /**
   * Hashes a file and says what it looked like; its digests go to `digests`. Undefined for one that changes.
   *
   * One look is enough for a file that came whole with the first read and is of that size after it, when it was changed
   * last two seconds before the run began by the clock that times its changes: a change during the read would have a later
   * time. That clock is this machine's (isTimedHere); a file server's may be behind, so what it holds is looked at before
   * the first byte and after the last, and so is a file changed lately: two changes within one tick of a clock look like
   * one. Not proven for a clock that is set back meanwhile, nor for writes through a shared mapping, which the kernel times
   * late; two looks do not see these either, and all that such a hash can do is keep a guest from reading the file.
   */
  const hashFile = (path: string, tree: boolean, settledBefore: bigint): Status | undefined => {
    const fd = open(path);
    try {
      const filled = fs.readSync(fd, buffer, 0, buffer.length, null);
      const stat = fs.fstatSync(fd, exactly);
      if (!isFile(stat)) return stat;
      const isSettled = stat.ctimeNs < settledBefore && isTimedHere(path, stat);
      if (isSettled && filled < buffer.length && Number(stat.size) === filled) {
        const sha256 = crypto.hash('sha256', buffer.subarray(0, filled), 'binary');
        digests += sha256;
        if (tree) digests += rootOf(filled > leafBytes ? leavesIn(filled) : sha256, stat.size);
        return stat;
      }
      const found = read(fd, stat, tree, isSettled ? Math.min(filled, Number(stat.size)) : 0);
      if (found === undefined) return undefined;
      digests += found.sha256;
      if (tree) digests += rootOf(found.leaves, stat.size);
      return stat;
    } finally {
      fs.closeSync(fd);
    }
  };
  const answer = ({ paths, hash, tree, kind, settledBefore }: Question): Answer => {
    const names = paths.split('\0');
    const sizes = new Float64Array(names.length);
    const modes = new Uint16Array(names.length);
    const young: number[] = [];
    const entryKind = kind === undefined ? undefined : BigInt(kind);
    let keys = '';
    let failure: string | undefined;
    let count = 0;
    digests = '';
    try {
      for (let bytes = 0; count < names.length && bytes < enoughBytes; count += 1) {
        const path = names[count] ?? '';
        const stat = hash ? hashFile(path, tree, settledBefore) : fs.statSync(path, exactly);
        if (stat === undefined || !isFile(stat)) {
          failure = stat === undefined ? 'changed' : 'irregular';
          break;
        }
        if (entryKind !== undefined) keys += keyOf(entryKind, path, stat);
        sizes[count] = Number(stat.size);
        modes[count] = Number(stat.mode) & 0o7777;
        if (hash) {
          if (stat.ctimeNs >= settledBefore) young.push(count);
          bytes += Number(stat.size);
        }
      }
    } catch (error) {
      failure = (error as NodeJS.ErrnoException).code ?? String(error);
    }
    return { count, keys, sizes, modes, young, digests, failure };
  };
  /** All digests of a file that looked like `before`; undefined when it does not any more. */
  const hashNow = (path: string, before: Status) => {
    const fd = open(path);
    try {
      const found = same(before, fs.fstatSync(fd, exactly)) ? read(fd, before, true, 0) : undefined;
      return found && { ...found, root: rootOf(found.leaves, before.size) };
    } finally {
      fs.closeSync(fd);
    }
  };
  return { answer, hashNow, keyOf };
}

let own: ReturnType<typeof makeHasher> | undefined;
/** Of this thread. */
function hasher(): ReturnType<typeof makeHasher> {
  own ??= makeHasher(fs, crypto, ENOUGH_BYTES);
  return own;
}

/** The 16 bytes by which the cache knows a file, as words: every part of its status counts. */
export function entryKey(kind: EntryKind, path: string, stat: fs.BigIntStats): Uint32Array {
  return keysOf(hasher().keyOf(BigInt(ENTRY_KINDS.indexOf(kind)), path, stat));
}

/** Keys in latin1, as words. */
function keysOf(text: string): Uint32Array {
  const bytes = Buffer.allocUnsafeSlow(text.length);
  bytes.write(text, 'latin1');
  return new Uint32Array(bytes.buffer);
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
    throw fileProblem(path, (error as NodeJS.ErrnoException).code ?? String(error));
  }
  if (found === undefined) throw fileProblem(path, 'changed');
  return {
    sha256: Buffer.from(found.sha256, 'latin1'),
    root: Buffer.from(found.root, 'latin1'),
    leaves: Buffer.from(found.leaves, 'latin1'),
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
  EISDIR: 'is not a regular file',
  EAGAIN: 'is not a regular file',
  EIO: 'cannot be read: input/output error',
  EMFILE: 'cannot be read: too many open files',
};

/** Why a file could not be read: an errno's name, which is the cause's `code` too, or a word of REASONS. */
export function fileProblem(path: string, code: string, place = ''): ManifestError {
  const text = `${place}${JSON.stringify(path)} ${REASONS[code] ?? `cannot be read: ${code}`}`;
  return new ManifestError('file', [text], { cause: { code } });
}

/** Below this much work starting threads costs more than they save: bytes or files to hash, files to look at. */
const WORTH_THREADS_BYTES = 8 << 20;
const WORTH_THREADS_FILES = 1000;
const WORTH_THREADS_LOOKS = 50_000;
const MAX_BATCH_FILES = 512;
/** A thread is asked for about so many bytes at a time. */
const BATCH_BYTES = ENOUGH_BYTES / 2;
/** Questions that a thread has at a time: it need not wait while this thread is busy with files of its own. */
const QUESTIONS_PER_THREAD = 2;
/** A file changed so recently may change again within one tick of its file system's clock. */
const SETTLED_NS = 2_000_000_000n;

/**
 * Hashes regular files; `count` of them. `pathsOf` tells the paths of a range, joined by NUL bytes. Error: ManifestError
 * `file` for the first file, by index, that cannot be read, is not regular or changes.
 */
export async function hashFiles(
  count: number,
  pathsOf: (start: number, end: number) => string,
  options: HashOptions = {},
): Promise<Digests> {
  const run = new HashRun(count, pathsOf, options);
  try {
    return await run.go();
  } finally {
    run.stop();
  }
}

/** Files one after the other. */
interface Range {
  readonly start: number;
  end: number;
}

/** Files that are asked about together. */
interface Batch {
  readonly ranges: readonly Range[];
  readonly hash: boolean;
}

class HashRun implements Digests {
  readonly #tree: boolean;
  readonly #cache: FileCache | undefined;
  readonly #kind: EntryKind;
  /** Of a file's digests: SHA-256, and with a tree the root. */
  readonly #stride: number;
  readonly #digests: Buffer;
  readonly #sizes: Float64Array;
  readonly #modes: Uint16Array;
  /** Whether the cache may know any of the files: then they are looked at before they are hashed. */
  readonly #lookFirst: boolean;
  readonly #settledBefore = BigInt(Date.now()) * 1_000_000n - SETTLED_NS;
  /** The first file that nobody was asked about. */
  #next = 0;
  /** Files that came back from a question undone, or that the cache does not know: to be hashed. */
  #todo: Range[] = [];
  #batchFiles = 16;
  readonly #threads: HashThread[] = [];
  #doneFiles = 0;
  #doneBytes = 0;
  #hashedFiles = 0;
  #hashedBytes = 0;
  #failure: { index: number; error: Error } | undefined;
  #wake: () => void = () => {};

  constructor(
    readonly count: number,
    readonly pathsOf: (start: number, end: number) => string,
    readonly options: HashOptions,
  ) {
    this.#tree = options.tree ?? false;
    this.#kind = this.#tree ? 'root' : 'sha256';
    this.#cache = options.cache;
    this.#lookFirst = options.cache !== undefined && !options.cache.isEmpty;
    this.#stride = this.#tree ? 64 : 32;
    this.#digests = Buffer.allocUnsafeSlow(Math.max(1, this.#stride * count));
    this.#sizes = new Float64Array(this.#tree ? count : 0);
    this.#modes = new Uint16Array(this.#tree ? count : 0);
  }

  sha256(index: number): string {
    return this.#digests.toString('hex', this.#stride * index, this.#stride * index + 32);
  }
  root(index: number): string {
    return this.#digests.toString('hex', this.#stride * index + 32, this.#stride * index + 64);
  }
  hex(start: number, end: number): string {
    return this.#digests.toString('hex', this.#stride * start, this.#stride * end);
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
    const looks = this.#lookFirst ? this.count - this.#next : 0;
    if (
      this.#hashedBytes < WORTH_THREADS_BYTES &&
      this.#hashedFiles < WORTH_THREADS_FILES &&
      looks < WORTH_THREADS_LOOKS
    )
      return;
    const limit = (this.options.threads ?? availableParallelism()) - 1;
    for (let i = 0; i < limit; i += 1) this.#threads.push(new HashThread((error) => this.#fail(-1, error)));
  }

  #nextBatch(): Batch | undefined {
    const failed = this.#failure?.index ?? this.count;
    const ranges: Range[] = [];
    for (let files = 0; files < this.#batchFiles; ) {
      const range = this.#todo.pop();
      if (range === undefined) break;
      if (range.start >= failed) continue;
      const end = Math.min(range.end, range.start + this.#batchFiles - files);
      if (end < range.end) this.#todo.push({ start: end, end: range.end });
      ranges.push({ start: range.start, end });
      files += end - range.start;
    }
    if (ranges.length > 0) return { ranges, hash: true };
    const start = this.#next;
    const end = Math.min(failed, start + (this.#lookFirst ? MAX_BATCH_FILES : this.#batchFiles));
    if (end <= start) return undefined;
    this.#next = end;
    return { ranges: [{ start, end }], hash: !this.#lookFirst };
  }

  #question({ ranges, hash }: Batch): Question {
    const paths = ranges.map(({ start, end }) => this.pathsOf(start, end)).join('\0');
    const kind = this.#cache && ENTRY_KINDS.indexOf(this.#kind);
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

  #take({ ranges, hash }: Batch, { count, keys: keyText, sizes, modes, young, digests: text, failure }: Answer): void {
    const keys = keysOf(keyText);
    const digests = Buffer.from(text, 'latin1');
    if (hash) this.#cache?.putAll(keys, digests, count, new Set(young));
    let from = 0;
    let reason = failure;
    for (const { start, end } of ranges) {
      const to = Math.min(count, from + end - start);
      const done = start + to - from;
      if (hash) digests.copy(this.#digests, this.#stride * start, this.#stride * from, this.#stride * to);
      else for (let i = from; i < to; i += 1) this.#recall(keys, i, start + i - from);
      if (this.#tree) {
        this.#sizes.set(sizes.subarray(from, to), start);
        this.#modes.set(modes.subarray(from, to), start);
      }
      from = to;
      if (done === end) continue;
      if (reason === undefined) this.#todo.push({ start: done, end });
      else this.#fail(done, fileProblem(this.pathsOf(done, done + 1), reason, this.options.placeOf?.(done)));
      reason = undefined;
    }
    if (!hash) return;
    const bytes = sizes.reduce((sum, size) => sum + size, 0);
    this.#doneFiles += count;
    this.#doneBytes += bytes;
    this.#hashedFiles += count;
    this.#hashedBytes += bytes;
    const wanted = (count * BATCH_BYTES) / Math.max(1, bytes);
    this.#batchFiles = Math.max(1, Math.min(MAX_BATCH_FILES, 2 * this.#batchFiles, Math.round(wanted)));
  }

  /** Takes a file's digests from the cache, or notes that they are to be computed. */
  #recall(keys: Uint32Array, position: number, index: number): void {
    const known = this.#cache?.getByKey(keys, position);
    if (known?.length === this.#stride) {
      this.#digests.set(known, this.#stride * index);
      this.#doneFiles += 1;
      return;
    }
    const last = this.#todo.at(-1);
    if (last?.end === index) last.end += 1;
    else this.#todo.push({ start: index, end: index + 1 });
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
const { answer } = (${makeHasher.toString()})(require('node:fs'), require('node:crypto'), ${ENOUGH_BYTES});
parentPort.on('message', (question) => {
  const found = answer(question);
  parentPort.postMessage(found, [found.sizes.buffer, found.modes.buffer]);
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

// SPDX-License-Identifier: Apache-2.0
//
// Hashes files as fast as this machine can: OpenSSL's SHA-256 on all cores, each byte read once, also where the hash tree
// (docs/launch-record.md) is wanted beside the SHA-256. What was hashed before is asked of the cache. A file that is not
// the same after the last byte as before the first is an error: its hash would be of a content that never was.

import * as crypto from 'node:crypto';
import * as fs from 'node:fs';
import { availableParallelism } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { ManifestError } from './errors.js';
import type { FileCache } from './file-cache.js';
import { hashTreeRoot } from './hash-tree.js';

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

/** What a thread is asked: a path, and the stamp that the file had when it was looked at. */
interface Job {
  readonly path: string;
  readonly size: number;
  readonly stamp: string;
}

/** SHA-256 and, where asked for, the concatenated leaf digests; or why there is none. */
type Answer = { readonly sha256: Uint8Array; readonly leaves?: Uint8Array } | { readonly error: string };

/**
 * The part that runs in threads. It refers to nothing outside itself: a thread gets it as text, because a bundled command,
 * the library and the tests would each have to look for a file of it in another place.
 */
function makeHasher(fs: typeof import('node:fs'), crypto: typeof import('node:crypto')) {
  const leafBytes = 16384;
  // Fits into a core's own cache: the bytes are still there when they are hashed.
  const buffer = Buffer.allocUnsafeSlow(128 * 1024);
  const hashOpen = (fd: number, job: Job, tree: boolean): Answer => {
    const leaves = tree && job.size > leafBytes ? Buffer.allocUnsafe(Math.ceil(job.size / leafBytes) * 32) : undefined;
    let whole: import('node:crypto').Hash | undefined;
    let sha256: Uint8Array | undefined;
    let total = 0;
    let leaf = 0;
    while (total < job.size || total === 0) {
      let filled = 0;
      while (filled < buffer.length) {
        const count = fs.readSync(fd, buffer, filled, buffer.length - filled, null);
        if (count === 0) break;
        filled += count;
        if (total + filled === job.size) break;
      }
      const block = buffer.subarray(0, filled);
      total += filled;
      if (total > job.size) return { error: 'changed' };
      if (total === job.size && whole === undefined) sha256 = crypto.hash('sha256', block, 'buffer');
      else {
        whole ??= crypto.createHash('sha256');
        whole.update(block);
      }
      if (leaves !== undefined) {
        for (let at = 0; at < filled; at += leafBytes, leaf += 1)
          leaves.set(crypto.hash('sha256', block.subarray(at, at + leafBytes), 'buffer'), leaf * 32);
      }
      if (filled === 0) break;
    }
    sha256 ??= whole?.digest();
    const after = fs.fstatSync(fd, { bigint: true });
    const stamp = `${after.dev} ${after.ino} ${after.size} ${after.mtimeNs} ${after.ctimeNs}`;
    if (sha256 === undefined || total !== job.size || stamp !== job.stamp) return { error: 'changed' };
    return tree ? { sha256, leaves: leaves ?? sha256 } : { sha256 };
  };
  return (job: Job, tree: boolean): Answer => {
    let fd: number | undefined;
    try {
      // Should a FIFO have taken the file's place by now, opening must not wait for a writer.
      fd = fs.openSync(job.path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
      return hashOpen(fd, job, tree);
    } catch (error) {
      return { error: (error as NodeJS.ErrnoException).code ?? String(error) };
    } finally {
      if (fd !== undefined) fs.closeSync(fd);
    }
  };
}

const stampOf = (s: fs.BigIntStats): string => `${s.dev} ${s.ino} ${s.size} ${s.mtimeNs} ${s.ctimeNs}`;

/** All digests of one file, in this thread. Error: ManifestError `file`. */
export function hashFileNow(
  path: string,
  stat: fs.BigIntStats,
): { sha256: Uint8Array; root: Uint8Array; leaves: Uint8Array } {
  localHasher ??= makeHasher(fs, crypto);
  const answer = localHasher({ path, size: Number(stat.size), stamp: stampOf(stat) }, true);
  if ('error' in answer) throw problem(path, answer.error);
  const leaves = answer.leaves ?? answer.sha256;
  return { sha256: answer.sha256, leaves, root: hashTreeRoot(leaves, stat.size) };
}
let localHasher: ReturnType<typeof makeHasher> | undefined;

const REASONS: Readonly<Record<string, string>> = {
  changed: 'changed while it was read; try again when nobody writes to it',
  EACCES: 'cannot be read: permission denied',
  EPERM: 'cannot be read: permission denied',
  ENOENT: 'does not exist',
  ENOTDIR: 'does not exist',
  ELOOP: 'cannot be read: too many symbolic links',
  EIO: 'cannot be read: input/output error',
  EMFILE: 'cannot be read: too many open files',
};

function problem(path: string, code: string): ManifestError {
  return new ManifestError('file', [`${JSON.stringify(path)} ${REASONS[code] ?? `cannot be read: ${code}`}`]);
}

/** What a thread answers to a batch: digests packed, and the exceptions. */
interface BatchAnswer {
  readonly sha256: Uint8Array;
  readonly leaves?: readonly (Uint8Array | undefined)[];
  readonly errors: readonly (readonly [position: number, code: string])[];
}

/** Below this much work starting threads costs more than they save. */
const WORTH_THREADS_BYTES = 8 << 20;
const WORTH_THREADS_FILES = 1000;
const BATCH_BYTES = 4 << 20;
const BATCH_FILES = 256;
/** Files looked at before the threads' answers are read. */
const TURN_FILES = 512;
/** Batches that may wait for a thread, so that a million files are not all in memory at once. */
const MAX_WAITING = 64;

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

interface Batch {
  readonly indices: number[];
  readonly jobs: Job[];
  /** Where in the cache the answer goes; undefined: nowhere. */
  readonly keys: (Buffer | undefined)[];
  bytes: number;
}
const newBatch = (): Batch => ({ indices: [], jobs: [], keys: [], bytes: 0 });

class HashRun implements Digests {
  readonly #tree: boolean;
  readonly #sha256: Buffer;
  readonly #roots: Buffer;
  readonly #sizes: Float64Array;
  readonly #modes: Uint16Array;
  readonly #waiting: Batch[] = [];
  readonly #idle: HashThread[] = [];
  readonly #threads: HashThread[] = [];
  #doneFiles = 0;
  #doneBytes = 0;
  #waitingBytes = 0;
  #waitingFiles = 0;
  #failure: { index: number; error: Error } | undefined;
  #wake: () => void = () => {};

  constructor(
    readonly count: number,
    readonly pathOf: (index: number) => string,
    readonly options: HashOptions,
  ) {
    this.#tree = options.tree ?? false;
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
    for (const thread of this.#threads) void thread.worker.terminate();
  }

  async go(): Promise<Digests> {
    let batch = newBatch();
    for (let index = 0; index < this.count; index += 1) {
      if (index % TURN_FILES === TURN_FILES - 1) await this.#turn();
      if (this.#failure !== undefined) break;
      this.#look(index, this.pathOf(index), batch);
      if (batch.bytes >= BATCH_BYTES || batch.jobs.length >= BATCH_FILES) {
        this.#enqueue(batch);
        batch = newBatch();
      }
    }
    if (batch.jobs.length > 0) this.#enqueue(batch);
    await this.#drain();
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#report();
    return this;
  }

  /** Lets answers in; waits while the threads are far behind. */
  async #turn(): Promise<void> {
    this.#dispatch();
    this.#report();
    await nextTurn();
    while (this.#threads.length > 0 && this.#waiting.length > MAX_WAITING && this.#failure === undefined)
      await this.#answered();
  }

  #answered(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  /** Looks at a file; what the cache does not know goes to the batch. */
  #look(index: number, path: string, batch: Batch): void {
    let stat: fs.BigIntStats;
    try {
      stat = fs.statSync(path, { bigint: true });
    } catch (error) {
      this.#fail(index, problem(path, (error as NodeJS.ErrnoException).code ?? String(error)));
      return;
    }
    if (!stat.isFile()) {
      this.#fail(index, new ManifestError('file', [`${JSON.stringify(path)} is not a regular file`]));
      return;
    }
    const size = Number(stat.size);
    if (this.#tree) {
      this.#sizes[index] = size;
      this.#modes[index] = Number(stat.mode & 0o7777n);
    }
    const { cache } = this.options;
    const key = cache?.keyOf(this.#tree ? 'root' : 'sha256', path, stat);
    const known = key && cache?.getByKey(key);
    if (known !== undefined) {
      this.#sha256.set(known.subarray(0, 32), 32 * index);
      if (this.#tree) this.#roots.set(known.subarray(32, 64), 32 * index);
      this.#doneFiles += 1;
      this.#doneBytes += size;
      return;
    }
    batch.indices.push(index);
    batch.jobs.push({ path, size, stamp: stampOf(stat) });
    batch.keys.push(cache?.isSettled(stat) ? key : undefined);
    batch.bytes += size;
  }

  #enqueue(batch: Batch): void {
    this.#waiting.push(batch);
    this.#waitingBytes += batch.bytes;
    this.#waitingFiles += batch.jobs.length;
    this.#dispatch();
  }

  #dispatch(): void {
    const enough = this.#waitingBytes >= WORTH_THREADS_BYTES || this.#waitingFiles >= WORTH_THREADS_FILES;
    const limit = this.options.threads ?? availableParallelism();
    while (enough && this.#threads.length < limit && this.#threads.length < this.#waiting.length) {
      const thread = new HashThread(this.#tree, (error) => this.#fail(-1, error));
      this.#threads.push(thread);
      this.#idle.push(thread);
    }
    while (this.#idle.length > 0 && this.#waiting.length > 0 && this.#failure === undefined) {
      const thread = this.#idle.pop();
      const batch = this.#waiting.shift();
      if (thread === undefined || batch === undefined) return;
      thread.ask(batch.jobs, (answers) => {
        this.#take(batch, answers);
        this.#idle.push(thread);
        this.#dispatch();
        this.#wake();
      });
    }
  }

  async #drain(): Promise<void> {
    if (this.#threads.length === 0) {
      localHasher ??= makeHasher(fs, crypto);
      const hasher = localHasher;
      for (const batch of this.#waiting) {
        if (this.#failure !== undefined) return;
        this.#take(batch, answerBatch(hasher, batch.jobs, this.#tree));
      }
      return;
    }
    this.#dispatch();
    while (this.#failure === undefined && (this.#waiting.length > 0 || this.#idle.length < this.#threads.length)) {
      await this.#answered();
      this.#report();
    }
  }

  #take(batch: Batch, { sha256, leaves, errors }: BatchAnswer): void {
    this.#doneFiles += batch.jobs.length;
    this.#doneBytes += batch.bytes;
    this.#waitingBytes -= batch.bytes;
    this.#waitingFiles -= batch.jobs.length;
    for (const [position, code] of errors)
      this.#fail(batch.indices[position] ?? 0, problem(batch.jobs[position]?.path ?? '', code));
    if (errors.length > 0) return;
    for (const [i, index] of batch.indices.entries()) {
      const digest = sha256.subarray(32 * i, 32 * i + 32);
      const key = batch.keys[i];
      this.#sha256.set(digest, 32 * index);
      if (!this.#tree) {
        if (key !== undefined) this.options.cache?.putByKey(key, digest);
        continue;
      }
      const root = hashTreeRoot(leaves?.[i] ?? digest, BigInt(batch.jobs[i]?.size ?? 0));
      this.#roots.set(root, 32 * index);
      if (key !== undefined) this.options.cache?.putByKey(key, Buffer.concat([digest, root]));
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

/** Hashes a batch, in a thread or here: it refers to nothing outside itself either. */
function answerBatch(hasher: ReturnType<typeof makeHasher>, jobs: readonly Job[], tree: boolean): BatchAnswer {
  const sha256 = new Uint8Array(32 * jobs.length);
  const leaves: (Uint8Array | undefined)[] = [];
  const errors: [number, string][] = [];
  for (let i = 0; i < jobs.length; i += 1) {
    const job = jobs[i];
    if (job === undefined) continue;
    const answer = hasher(job, tree);
    if ('error' in answer) errors.push([i, answer.error]);
    else {
      sha256.set(answer.sha256, 32 * i);
      // One leaf is the SHA-256 itself. A copy of the rest: a small Buffer would drag its whole pool along.
      if (tree) leaves.push(job.size > 16384 && answer.leaves ? new Uint8Array(answer.leaves) : undefined);
    }
  }
  return { sha256, leaves, errors };
}

/** A thread that hashes one batch at a time. */
class HashThread {
  readonly worker: Worker;
  #answer: (answer: BatchAnswer) => void = () => {};

  constructor(tree: boolean, onError: (error: Error) => void) {
    const text = `const { parentPort } = require('node:worker_threads');
const hasher = (${makeHasher.toString()})(require('node:fs'), require('node:crypto'));
const answerBatch = ${answerBatch.toString()};
parentPort.on('message', (jobs) => {
  const answer = answerBatch(hasher, jobs, ${tree});
  parentPort.postMessage(answer, [answer.sha256.buffer]);
});`;
    // Nothing of the process is needed there.
    this.worker = new Worker(text, { eval: true, env: {}, argv: [], stdout: false });
    this.worker.on('message', (answer: BatchAnswer) => this.#answer(answer));
    this.worker.on('error', onError);
  }

  ask(jobs: readonly Job[], answer: (answer: BatchAnswer) => void): void {
    this.#answer = answer;
    this.worker.postMessage(jobs);
  }
}

// SPDX-License-Identifier: Apache-2.0
//
// MRTD: the SHA-384 over the operations that build a TD's initial memory. Each 4 KiB page that is added enters as a
// 128-byte block, each 256-byte chunk that is extended as a 128-byte block and its bytes. Loaders differ in order, and
// both are in use: upstream KVM extends a page right after adding it (`page`), older stacks add all pages of a section
// first (`section`). Source: Intel TDX Module Base Architecture Specification, section on TD measurement;
// TDH.MEM.PAGE.ADD, TDH.MR.EXTEND.

import { createHash, type Hash } from 'node:crypto';
import { asSha384, type Sha384 } from './digest.js';
import { MeasureError } from './errors.js';
import {
  ATTRIBUTE_MR_EXTEND,
  ATTRIBUTE_PAGE_AUG,
  MAX_ADDRESS,
  PAGE_BYTES,
  parseTdvf,
  type TdvfSection,
} from './tdvf.js';

export type MrtdOrder = 'page' | 'section';
/** What lies between the raw size and the memory size of an extended section: the image's following bytes, or zeros. */
export type MrtdPadding = 'image' | 'zero';

export interface MrtdOperation {
  readonly op: 'MEM.PAGE.ADD' | 'MR.EXTEND';
  readonly section: number;
  /** Guest-physical address: of a page (4 KiB), or of a chunk (256 bytes). */
  readonly gpa: bigint;
}

export interface MrtdOptions {
  readonly order: MrtdOrder;
  readonly padding?: MrtdPadding;
  /** Called for each operation in order; slows the computation down. */
  readonly trace?: (operation: MrtdOperation) => void;
}

const CHUNK_BYTES = 256;
const CHUNKS_PER_PAGE = PAGE_BYTES / CHUNK_BYTES;
const BLOCK_BYTES = 128;
const EXTEND_BYTES = BLOCK_BYTES + CHUNK_BYTES;
// Beyond any real TD (firmware is at most some 16 MiB, its memory some hundred): they bound the time on a hostile image.
const MAX_PAGES = 1 << 20;
const MAX_EXTENDED_PAGES = 1 << 15;

/**
 * The MRTD of a TDVF image, 48 bytes. `padding` matters only for images whose extended sections are longer in memory
 * than in the file (checkTdvf names them).
 * Errors: those of parseTdvf; `malformed` (misaligned section, data outside the image), `limit`.
 */
export function computeMrtd(image: Uint8Array, options: MrtdOptions): Sha384 {
  const { sections } = parseTdvf(image);
  let [pages, extended] = [0n, 0n];
  for (const [i, s] of sections.entries()) {
    checkMeasurable(s, i, image.length);
    pages += s.memoryDataSize / BigInt(PAGE_BYTES);
    if ((s.attributes & ATTRIBUTE_MR_EXTEND) !== 0) extended += s.memoryDataSize / BigInt(PAGE_BYTES);
  }
  if (pages > BigInt(MAX_PAGES))
    throw new MeasureError('limit', `image: ${pages} pages of initial memory, at most ${MAX_PAGES}`);
  if (extended > BigInt(MAX_EXTENDED_PAGES))
    throw new MeasureError(
      'limit',
      `image: ${extended} pages whose content is measured, at most ${MAX_EXTENDED_PAGES}`,
    );
  const builder = new MrtdBuilder(image, options.padding ?? 'image', options.trace);
  for (const [i, s] of sections.entries()) {
    if ((s.attributes & ATTRIBUTE_PAGE_AUG) !== 0 || s.memoryDataSize === 0n) continue;
    builder.section(s, i, options.order);
  }
  return builder.digest();
}

function checkMeasurable(s: TdvfSection, i: number, imageBytes: number): void {
  const where = `TDVF section ${i} (${s.type})`;
  if (s.memoryAddress % BigInt(PAGE_BYTES) !== 0n || s.memoryDataSize % BigInt(PAGE_BYTES) !== 0n) {
    throw new MeasureError('malformed', `${where}: address or size is not a multiple of ${PAGE_BYTES}`);
  }
  if (s.memoryAddress + s.memoryDataSize > MAX_ADDRESS)
    throw new MeasureError(
      'malformed',
      `${where}: ends at 0x${(s.memoryAddress + s.memoryDataSize).toString(16)}, beyond 52 bits of address`,
    );
  if (s.dataOffset + s.rawDataSize > imageBytes) {
    throw new MeasureError(
      'malformed',
      `${where}: data ends at byte ${s.dataOffset + s.rawDataSize} of an image of ${imageBytes}; for a split image give VARS and CODE joined`,
    );
  }
}

/** What a run of operations does to each page: add it, extend its chunks, or both at once. */
type Pass = 'add' | 'extend' | 'both';

function passes(order: MrtdOrder, extended: boolean): readonly Pass[] {
  if (!extended) return ['add'];
  switch (order) {
    case 'page':
      return ['both'];
    case 'section':
      return ['add', 'extend'];
    default:
      return order satisfies never;
  }
}

/**
 * Feeds the hash in large pieces: a call into the hash for each 256-byte chunk would cost more than the hashing. A stage
 * holds the operations of some pages, with the names already in place; a page then costs its addresses and its content.
 */
class MrtdBuilder {
  readonly #hash: Hash = createHash('sha384');
  readonly #stages = new Map<Pass, Stage>();

  constructor(
    readonly image: Uint8Array,
    readonly padding: MrtdPadding,
    readonly trace: ((operation: MrtdOperation) => void) | undefined,
  ) {}

  section(s: TdvfSection, index: number, order: MrtdOrder): void {
    const pages = Number(s.memoryDataSize) / PAGE_BYTES;
    for (const pass of passes(order, (s.attributes & ATTRIBUTE_MR_EXTEND) !== 0)) {
      const stage = this.#stages.get(pass) ?? new Stage(pass);
      this.#stages.set(pass, stage);
      for (let p = 0; p < pages; p++) {
        if (stage.full) this.#hash.update(stage.take());
        this.#page(stage, s, p);
        if (this.trace) tracePage(this.trace, pass, index, Number(s.memoryAddress) + p * PAGE_BYTES);
      }
      this.#hash.update(stage.take());
    }
  }

  digest(): Sha384 {
    return asSha384(this.#hash.digest(), 'MRTD');
  }

  #page(stage: Stage, s: TdvfSection, page: number): void {
    // Exact: addresses have at most 52 bits.
    const gpa = Number(s.memoryAddress) + page * PAGE_BYTES;
    if (stage.pass !== 'extend') stage.block(gpa);
    if (stage.pass === 'add') return;
    const end = this.padding === 'zero' ? s.dataOffset + s.rawDataSize : this.image.length;
    const from = s.dataOffset + page * PAGE_BYTES;
    stage.load(this.image, from, end);
    for (let at = 0; at < PAGE_BYTES; at += CHUNK_BYTES) {
      stage.block(gpa + at);
      stage.chunk(at);
    }
  }
}

function tracePage(trace: (o: MrtdOperation) => void, pass: Pass, section: number, gpa: number): void {
  if (pass !== 'extend') trace({ op: 'MEM.PAGE.ADD', section, gpa: BigInt(gpa) });
  if (pass === 'add') return;
  for (let at = 0; at < PAGE_BYTES; at += CHUNK_BYTES) trace({ op: 'MR.EXTEND', section, gpa: BigInt(gpa + at) });
}

const STAGE_PAGES = 16;

class Stage {
  readonly #bytes: Buffer;
  readonly #words: Uint32Array;
  readonly #limit: number;
  #used = 0;

  constructor(readonly pass: Pass) {
    const adds = pass === 'extend' ? 0 : 1;
    const extensions = pass === 'add' ? 0 : CHUNKS_PER_PAGE;
    this.#limit = STAGE_PAGES * (adds * BLOCK_BYTES + extensions * EXTEND_BYTES);
    this.#bytes = Buffer.alloc(this.#limit + PAGE_BYTES);
    this.#words = new Uint32Array(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.length / 4);
    let at = 0;
    for (let p = 0; p < STAGE_PAGES; p++) {
      for (let i = 0; i < adds; i++, at += BLOCK_BYTES) this.#bytes.write('MEM.PAGE.ADD', at, 'latin1');
      for (let i = 0; i < extensions; i++, at += EXTEND_BYTES) this.#bytes.write('MR.EXTEND', at, 'latin1');
    }
  }

  get full(): boolean {
    return this.#used === this.#limit;
  }

  /** The bytes staged so far; the next ones start over. */
  take(): Uint8Array {
    const bytes = this.#bytes.subarray(0, this.#used);
    this.#used = 0;
    return bytes;
  }

  /** The next operation's block: its name is there, its address is not. */
  block(gpa: number): void {
    const word = (this.#used + 16) >> 2;
    this.#words[word] = gpa >>> 0;
    this.#words[word + 1] = Math.floor(gpa / 0x1_0000_0000);
    this.#used += BLOCK_BYTES;
  }

  /** Puts a page of the image, zeros from `end` on, behind the operations. */
  load(image: Uint8Array, from: number, end: number): void {
    const present = Math.max(0, Math.min(end - from, PAGE_BYTES));
    this.#bytes.set(image.subarray(from, from + present), this.#limit);
    if (present < PAGE_BYTES) this.#bytes.fill(0, this.#limit + present);
  }

  /** The content of the chunk at `at` in the page loaded last. A copy inside one buffer needs no view made for it. */
  chunk(at: number): void {
    const from = this.#limit + at;
    this.#bytes.copyWithin(this.#used, from, from + CHUNK_BYTES);
    this.#used += CHUNK_BYTES;
  }
}

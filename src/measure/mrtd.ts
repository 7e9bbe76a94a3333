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

/** Feeds the hash in large pieces: a call into the hash per 256-byte chunk would cost more than the hashing. */
class MrtdBuilder {
  readonly #hash: Hash = createHash('sha384');
  readonly #stage = Buffer.alloc(64 * (BLOCK_BYTES + CHUNKS_PER_PAGE * EXTEND_BYTES));
  #used = 0;

  constructor(
    readonly image: Uint8Array,
    readonly padding: MrtdPadding,
    readonly trace: MrtdOptions['trace'],
  ) {}

  section(s: TdvfSection, index: number, order: MrtdOrder): void {
    const pages = Number(s.memoryDataSize / BigInt(PAGE_BYTES));
    const extended = (s.attributes & ATTRIBUTE_MR_EXTEND) !== 0;
    switch (order) {
      case 'page':
        for (let p = 0; p < pages; p++) {
          this.#add(s, index, p);
          if (extended) this.#extend(s, index, p);
        }
        return;
      case 'section':
        for (let p = 0; p < pages; p++) this.#add(s, index, p);
        if (extended) for (let p = 0; p < pages; p++) this.#extend(s, index, p);
        return;
      default:
        order satisfies never;
    }
  }

  digest(): Sha384 {
    this.#flush();
    return asSha384(this.#hash.digest(), 'MRTD');
  }

  #add(s: TdvfSection, index: number, page: number): void {
    const gpa = s.memoryAddress + BigInt(page * PAGE_BYTES);
    this.#block('MEM.PAGE.ADD', gpa);
    this.trace?.({ op: 'MEM.PAGE.ADD', section: index, gpa });
  }

  #extend(s: TdvfSection, index: number, page: number): void {
    for (let c = 0; c < CHUNKS_PER_PAGE; c++) {
      const at = page * PAGE_BYTES + c * CHUNK_BYTES;
      const gpa = s.memoryAddress + BigInt(at);
      this.#block('MR.EXTEND', gpa);
      const end = this.padding === 'zero' ? s.dataOffset + s.rawDataSize : this.image.length;
      const from = Math.min(s.dataOffset + at, end);
      const to = Math.min(from + CHUNK_BYTES, end);
      this.#stage.set(this.image.subarray(from, to), this.#used);
      this.#stage.fill(0, this.#used + (to - from), this.#used + CHUNK_BYTES);
      this.#used += CHUNK_BYTES;
      this.trace?.({ op: 'MR.EXTEND', section: index, gpa });
    }
  }

  #block(name: string, gpa: bigint): void {
    if (this.#used + EXTEND_BYTES > this.#stage.length) this.#flush();
    const at = this.#used;
    this.#stage.fill(0, at, at + BLOCK_BYTES);
    this.#stage.write(name, at, 'latin1');
    this.#stage.writeBigUInt64LE(gpa, at + 16);
    this.#used += BLOCK_BYTES;
  }

  #flush(): void {
    this.#hash.update(this.#stage.subarray(0, this.#used));
    this.#used = 0;
  }
}

// SPDX-License-Identifier: Apache-2.0
//
// A cursor over hostile little-endian bytes: every read is checked against the end and names the field that was wanted.

import { MeasureError } from './errors.js';

/** Reads fields in order from `bytes`. Errors: `truncated` with the absolute offset and the field's name. */
export class ByteReader {
  #at = 0;
  readonly #view: DataView;

  /** `base` is the offset of `bytes` in the whole input, for messages; `what` names the structure. */
  constructor(
    readonly bytes: Uint8Array,
    readonly what: string,
    readonly base = 0,
  ) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** Absolute offset of the next byte. */
  get offset(): number {
    return this.base + this.#at;
  }

  get remaining(): number {
    return this.bytes.length - this.#at;
  }

  #take(length: number, field: string): number {
    if (!Number.isSafeInteger(length) || length < 0 || length > this.remaining) {
      throw new MeasureError(
        'truncated',
        `${this.what}: ${field} needs ${length} bytes, ${this.remaining} are left`,
        this.offset,
      );
    }
    const at = this.#at;
    this.#at += length;
    return at;
  }

  u8(field: string): number {
    return this.#view.getUint8(this.#take(1, field));
  }

  u16(field: string): number {
    return this.#view.getUint16(this.#take(2, field), true);
  }

  u32(field: string): number {
    return this.#view.getUint32(this.#take(4, field), true);
  }

  u64(field: string): bigint {
    return this.#view.getBigUint64(this.#take(8, field), true);
  }

  /** A view (not a copy) of the next `length` bytes. */
  take(length: number, field: string): Uint8Array {
    const at = this.#take(length, field);
    return this.bytes.subarray(at, at + length);
  }

  /** A reader over the next `length` bytes. */
  sub(length: number, field: string): ByteReader {
    const base = this.offset;
    return new ByteReader(this.take(length, field), `${this.what}: ${field}`, base);
  }

  rest(): Uint8Array {
    return this.take(this.remaining, 'rest');
  }

  /** Error `malformed` unless every byte was read. */
  end(): void {
    if (this.remaining !== 0) {
      throw new MeasureError('malformed', `${this.what}: ${this.remaining} bytes too many`, this.offset);
    }
  }
}

export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}

/** Strict: an even number of hexadecimal digits, `length` bytes when given. Error `malformed`. */
export function fromHex(text: string, what: string, length?: number): Uint8Array {
  if (!/^(?:[0-9a-fA-F]{2})*$/.test(text) || (length !== undefined && text.length !== 2 * length)) {
    const wanted = length === undefined ? 'an even number of' : String(2 * length);
    throw new MeasureError(
      'malformed',
      `${what}: expected ${wanted} hexadecimal digits, got ${JSON.stringify(text.slice(0, 80))}`,
    );
  }
  return new Uint8Array(Buffer.from(text, 'hex'));
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && Buffer.compare(a, b) === 0;
}

export function concatBytes(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((b) => b === 0);
}

/** The text form of a GUID stored in the mixed-endian order of UEFI. */
export function guidToString(g: Uint8Array): string {
  const h = (from: number, to: number, reverse: boolean): string => {
    const part = Uint8Array.from(g.subarray(from, to));
    return toHex(reverse ? part.reverse() : part);
  };
  return [h(0, 4, true), h(4, 6, true), h(6, 8, true), h(8, 10, false), h(10, 16, false)].join('-');
}

/** The 16 bytes of a GUID as UEFI stores them. Error `malformed`. */
export function guidFromString(text: string): Uint8Array {
  const m = /^([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})$/i.exec(text);
  if (!m) throw new MeasureError('malformed', `GUID: got ${JSON.stringify(text)}`);
  const [, a = '', b = '', c = '', d = '', e = ''] = m;
  return concatBytes(
    fromHex(a, 'GUID').reverse(),
    fromHex(b, 'GUID').reverse(),
    fromHex(c, 'GUID').reverse(),
    fromHex(d + e, 'GUID'),
  );
}

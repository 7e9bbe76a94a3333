// SPDX-License-Identifier: Apache-2.0
//
// DER (ITU-T X.690), the part that certificates and revocation lists of Intel's PKI use: definite lengths, low tag
// numbers, minimal encodings. Hostile input: depth is bounded by the callers, who descend by hand.

import { toHex } from './bytes.js';
import { MeasureError } from './errors.js';

export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  enumerated: 0x0a,
  utf8: 0x0c,
  sequence: 0x30,
  set: 0x31,
  utcTime: 0x17,
  generalizedTime: 0x18,
} as const;

export interface DerItem {
  readonly tag: number;
  /** Offset of the item in the whole input, in bytes. */
  readonly offset: number;
  /** Tag, length and content. */
  readonly raw: Uint8Array;
  readonly content: Uint8Array;
}

/** Reads items one after another from the content of one item. */
export class DerReader {
  #at = 0;
  constructor(
    readonly bytes: Uint8Array,
    readonly what: string,
    readonly base = 0,
  ) {}

  get done(): boolean {
    return this.#at === this.bytes.length;
  }

  peekTag(): number | undefined {
    return this.bytes[this.#at];
  }

  next(tag?: number): DerItem {
    const start = this.#at;
    const fail = (why: string): never => {
      throw new MeasureError('malformed', `${this.what}: ${why}`, this.base + start);
    };
    const got = this.bytes[start];
    let length = this.bytes[start + 1];
    if (got === undefined || length === undefined) return fail('ends where an item is expected');
    if ((got & 0x1f) === 0x1f) return fail('high tag number');
    if (tag !== undefined && got !== tag) return fail(`tag 0x${got.toString(16)}, expected 0x${tag.toString(16)}`);
    let at = start + 2;
    if (length >= 0x80) {
      const n = length & 0x7f;
      if (n === 0 || n > 4 || at + n > this.bytes.length) return fail('bad length');
      length = 0;
      for (let i = 0; i < n; i++) length = length * 256 + (this.bytes[at + i] ?? 0);
      if (length < 0x80 || length < 256 ** (n - 1)) return fail('length is not minimal');
      at += n;
    }
    if (length > this.bytes.length - at) return fail(`item of ${length} bytes, ${this.bytes.length - at} are left`);
    this.#at = at + length;
    return {
      tag: got,
      offset: this.base + start,
      raw: this.bytes.subarray(start, this.#at),
      content: this.bytes.subarray(at, this.#at),
    };
  }

  /** The next item if it has this tag. */
  optional(tag: number): DerItem | undefined {
    return this.peekTag() === tag ? this.next(tag) : undefined;
  }

  end(): void {
    if (!this.done)
      throw new MeasureError(
        'malformed',
        `${this.what}: ${this.bytes.length - this.#at} bytes too many`,
        this.base + this.#at,
      );
  }
}

/** A reader over an item's content. */
export function inside(item: DerItem, what: string): DerReader {
  return new DerReader(item.content, what, item.offset + item.raw.length - item.content.length);
}

/** Dotted form of an OBJECT IDENTIFIER. Error `malformed`. */
export function oidToString(item: DerItem): string {
  const parts: number[] = [];
  let value = 0;
  let bytes = 0;
  for (const b of item.content) {
    if (bytes === 0 && b === 0x80) throw new MeasureError('malformed', 'OID: arc with leading zeros', item.offset);
    value = value * 128 + (b & 0x7f);
    if (++bytes > 6) throw new MeasureError('malformed', 'OID: arc too large', item.offset);
    if ((b & 0x80) === 0) {
      if (parts.length === 0)
        parts.push(Math.min(2, Math.floor(value / 40)), value - 40 * Math.min(2, Math.floor(value / 40)));
      else parts.push(value);
      value = 0;
      bytes = 0;
    }
  }
  if (bytes !== 0 || parts.length === 0) throw new MeasureError('malformed', 'OID: truncated', item.offset);
  return parts.join('.');
}

/** A small non-negative INTEGER. Error `malformed` when it is negative, not minimal or above 2^48. */
export function derUint(item: DerItem, what: string): number {
  const c = item.content;
  const [first, second] = c;
  if (first === undefined || first >= 0x80 || c.length > 7 || (first === 0 && second !== undefined && second < 0x80)) {
    throw new MeasureError(
      'malformed',
      `${what}: not a small non-negative integer (${toHex(c.subarray(0, 16))})`,
      item.offset,
    );
  }
  return c.reduce((n, b) => n * 256 + b, 0);
}

/** UTCTime or GeneralizedTime in UTC, as milliseconds since 1970. Error `malformed`. */
export function derTime(item: DerItem): number {
  const text = Buffer.from(item.content).toString('latin1');
  const m =
    item.tag === TAG.utcTime
      ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(text)
      : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(text);
  if (!m) throw new MeasureError('malformed', `time: got ${JSON.stringify(text.slice(0, 30))}`, item.offset);
  const [y = 0, mo = 0, d = 0, h = 0, mi = 0, s = 0] = m.slice(1).map(Number);
  const year = item.tag === TAG.utcTime ? (y < 50 ? 2000 + y : 1900 + y) : y;
  const time = Date.UTC(year, mo - 1, d, h, mi, s);
  const back = new Date(time);
  if (back.getUTCMonth() !== mo - 1 || back.getUTCDate() !== d || h > 23 || mi > 59 || s > 59) {
    throw new MeasureError('malformed', `time: ${JSON.stringify(text)} does not exist`, item.offset);
  }
  return time;
}

// SPDX-License-Identifier: Apache-2.0
//
// Deterministic CBOR (RFC 8949 section 4.2.1) for the launch record: shortest integers, definite lengths, map keys
// sorted by their encoded bytes, text keys only, no floats, no tags, no null. The decoder accepts exactly what the
// encoder writes and nothing else; its input is hostile.

/** A CBOR value of the launch record's dialect. Entries of an object whose value is `undefined` are left out. */
export type CborValue =
  | number
  | bigint
  | boolean
  | string
  | Uint8Array
  | readonly CborValue[]
  | ReadonlyMap<string, CborValue>
  | { readonly [key: string]: CborValue | undefined };

/** What the decoder returns: integers are `number` where they are safe, else `bigint`; maps are `Map`. */
export type DecodedCbor = number | bigint | boolean | string | Uint8Array | DecodedCbor[] | Map<string, DecodedCbor>;

export class CborError extends Error {
  override readonly name = 'CborError';
}

const UINT = 0;
const NEGATIVE = 1;
const BYTES = 2;
const TEXT = 3;
const ARRAY = 4;
const MAP = 5;
const FALSE = 0xf4;
const TRUE = 0xf5;
const MAX_U64 = 0xffff_ffff_ffff_ffffn;
/** Deeper nesting than any record has; bounds the decoder's recursion on hostile input. */
const MAX_DEPTH = 128;

/** Encodes `value`; throws CborError for what the dialect cannot hold (fractions, lone surrogates, null). */
export function encodeCbor(value: CborValue): Uint8Array {
  const writer = new Writer();
  encodeItem(writer, value);
  return writer.finish();
}

/** Decodes one item that must fill `bytes` exactly; throws CborError with the offset of the first offence. */
export function decodeCbor(bytes: Uint8Array): DecodedCbor {
  const reader = new Reader(bytes);
  const value = decodeItem(reader, 0);
  if (reader.offset !== bytes.length) {
    throw new CborError(`${bytes.length - reader.offset} trailing bytes at offset ${reader.offset}`);
  }
  return value;
}

class Writer {
  private buffer = Buffer.allocUnsafe(4096);
  private length = 0;

  private reserve(count: number): void {
    if (this.length + count <= this.buffer.length) return;
    const larger = Buffer.allocUnsafe(Math.max(this.buffer.length * 2, this.length + count));
    this.buffer.copy(larger, 0, 0, this.length);
    this.buffer = larger;
  }

  byte(value: number): void {
    this.reserve(1);
    this.buffer[this.length++] = value;
  }

  /** The initial byte of a major type with its shortest argument. */
  head(major: number, argument: number | bigint): void {
    this.reserve(9);
    const top = major << 5;
    if (argument < 24) {
      this.buffer[this.length++] = top | Number(argument);
    } else if (argument < 0x100) {
      this.buffer[this.length++] = top | 24;
      this.buffer[this.length++] = Number(argument);
    } else if (argument < 0x1_0000) {
      this.buffer[this.length++] = top | 25;
      this.length = this.buffer.writeUInt16BE(Number(argument), this.length);
    } else if (argument < 0x1_0000_0000) {
      this.buffer[this.length++] = top | 26;
      this.length = this.buffer.writeUInt32BE(Number(argument), this.length);
    } else {
      this.buffer[this.length++] = top | 27;
      this.length = this.buffer.writeBigUInt64BE(BigInt(argument), this.length);
    }
  }

  bytes(value: Uint8Array): void {
    this.reserve(value.length);
    this.buffer.set(value, this.length);
    this.length += value.length;
  }

  text(value: string): void {
    // A lone surrogate has no UTF-8 form: Buffer would silently write U+FFFD instead.
    if (/\p{Surrogate}/u.test(value)) throw new CborError(`text with a lone surrogate: ${JSON.stringify(value)}`);
    const size = Buffer.byteLength(value);
    this.head(TEXT, size);
    this.reserve(size);
    this.length += this.buffer.write(value, this.length);
  }

  finish(): Uint8Array {
    return new Uint8Array(this.buffer.buffer, this.buffer.byteOffset, this.length);
  }
}

function encodeItem(writer: Writer, value: CborValue): void {
  switch (typeof value) {
    case 'number':
      if (!Number.isSafeInteger(value)) throw new CborError(`not an integer that a number holds exactly: ${value}`);
      writer.head(value < 0 ? NEGATIVE : UINT, value < 0 ? -1 - value : value);
      return;
    case 'bigint':
      if (value > MAX_U64 || value < -1n - MAX_U64) throw new CborError(`integer beyond 64 bits: ${value}`);
      writer.head(value < 0n ? NEGATIVE : UINT, value < 0n ? -1n - value : value);
      return;
    case 'boolean':
      writer.byte(value ? TRUE : FALSE);
      return;
    case 'string':
      writer.text(value);
      return;
    case 'object':
      break;
    default:
      throw new CborError(`cannot encode ${typeof value}`);
  }
  if (value === null) throw new CborError('cannot encode null');
  if (value instanceof Uint8Array) {
    writer.head(BYTES, value.length);
    writer.bytes(value);
  } else if (Array.isArray(value)) {
    writer.head(ARRAY, value.length);
    for (const item of value as readonly CborValue[]) encodeItem(writer, item);
  } else {
    encodeMap(writer, value instanceof Map ? value : Object.entries(value as Record<string, CborValue | undefined>));
  }
}

function encodeMap(writer: Writer, entries: Iterable<readonly [string, CborValue | undefined]>): void {
  const sorted: { readonly key: string; readonly utf8: Buffer; readonly value: CborValue }[] = [];
  for (const [key, value] of entries) {
    if (value !== undefined) sorted.push({ key, utf8: Buffer.from(key), value });
  }
  // Encoded text keys compare by length first, as the length is in the head, then by bytes.
  sorted.sort((a, b) => a.utf8.length - b.utf8.length || Buffer.compare(a.utf8, b.utf8));
  writer.head(MAP, sorted.length);
  for (const { key, value } of sorted) {
    writer.text(key);
    encodeItem(writer, value);
  }
}

class Reader {
  offset = 0;
  private readonly view: DataView;

  constructor(private readonly bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  get left(): number {
    return this.bytes.length - this.offset;
  }

  fail(what: string): never {
    throw new CborError(`${what} at offset ${this.offset}`);
  }

  take(count: number): Uint8Array {
    if (count > this.left) this.fail(`${count} bytes announced, ${this.left} left`);
    this.offset += count;
    return this.bytes.subarray(this.offset - count, this.offset);
  }

  head(): { readonly initial: number; readonly argument: number | bigint } {
    if (this.left < 1) this.fail('the item is cut short');
    const initial = this.view.getUint8(this.offset);
    const info = initial & 0x1f;
    if (info < 24) {
      this.offset += 1;
      return { initial, argument: info };
    }
    if (info > 27) this.fail(info === 31 ? 'indefinite length' : `reserved length encoding ${info}`);
    const size = 1 << (info - 24);
    if (this.left < 1 + size) this.fail('the item is cut short');
    const at = this.offset + 1;
    const argument =
      size === 1
        ? this.view.getUint8(at)
        : size === 2
          ? this.view.getUint16(at)
          : size === 4
            ? this.view.getUint32(at)
            : this.view.getBigUint64(at);
    const smallest = size === 1 ? 24 : 2 ** (4 * size);
    if (argument < smallest) this.fail(`${argument} is not in its shortest form`);
    this.offset += 1 + size;
    return { initial, argument };
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decodeText(reader: Reader, length: number | bigint): string {
  const raw = reader.take(Number(length));
  try {
    return utf8.decode(raw);
  } catch {
    return reader.fail('text that is not UTF-8 ends');
  }
}

function decodeItem(reader: Reader, depth: number): DecodedCbor {
  if (depth > MAX_DEPTH) reader.fail(`nested deeper than ${MAX_DEPTH} levels`);
  const { initial, argument } = reader.head();
  switch (initial >> 5) {
    case UINT:
      return narrow(BigInt(argument));
    case NEGATIVE:
      return narrow(-1n - BigInt(argument));
    case BYTES:
      return new Uint8Array(reader.take(Number(argument)));
    case TEXT:
      return decodeText(reader, argument);
    case ARRAY: {
      // Every element takes a byte at least: a length beyond the input is refused before anything is built.
      if (argument > reader.left) reader.fail(`array of ${argument} items announced, ${reader.left} bytes left`);
      const items: DecodedCbor[] = [];
      for (let i = 0; i < argument; i += 1) items.push(decodeItem(reader, depth + 1));
      return items;
    }
    case MAP:
      return decodeMap(reader, argument, depth);
    default:
      if (initial === FALSE) return false;
      if (initial === TRUE) return true;
      return reader.fail(`item type 0x${initial.toString(16)} is not allowed here, before`);
  }
}

function decodeMap(reader: Reader, count: number | bigint, depth: number): Map<string, DecodedCbor> {
  if (count > reader.left) reader.fail(`map of ${count} entries announced, ${reader.left} bytes left`);
  const map = new Map<string, DecodedCbor>();
  let previous: Buffer | undefined;
  for (let i = 0; i < count; i += 1) {
    const { initial, argument } = reader.head();
    if (initial >> 5 !== TEXT) reader.fail('a map key that is not text, before');
    const key = decodeText(reader, argument);
    const bytes = Buffer.from(key);
    if (previous !== undefined && (previous.length - bytes.length || Buffer.compare(previous, bytes)) >= 0) {
      reader.fail(`map key ${JSON.stringify(key)} repeated or out of order, before`);
    }
    previous = bytes;
    map.set(key, decodeItem(reader, depth + 1));
  }
  return map;
}

function narrow(value: bigint): number | bigint {
  const small = Number(value);
  return Number.isSafeInteger(small) ? small : value;
}

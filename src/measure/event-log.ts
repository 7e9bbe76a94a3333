// SPDX-License-Identifier: Apache-2.0
//
// Measured-boot event logs in the TCG2 crypto-agile format, as a CCEL table carries them: parse and replay. Source: TCG
// PC Client Platform Firmware Profile, section 10; Intel GHCI for the register indexes. The log is hostile until its
// replay equals registers from a verified quote, and even then only its digests are proven: event data must be re-hashed
// where the format defines what the digest covers.

import { ByteReader, concatBytes } from './bytes.js';
import { asSha384, extend, type Sha384, ZERO_SHA384 } from './digest.js';
import { MeasureError } from './errors.js';

export const EV_NO_ACTION = 3;
export const EV_SEPARATOR = 4;

const EVENT_NAMES: Readonly<Record<number, string>> = {
  0: 'EV_PREBOOT_CERT',
  1: 'EV_POST_CODE',
  3: 'EV_NO_ACTION',
  4: 'EV_SEPARATOR',
  5: 'EV_ACTION',
  6: 'EV_EVENT_TAG',
  7: 'EV_S_CRTM_CONTENTS',
  8: 'EV_S_CRTM_VERSION',
  10: 'EV_PLATFORM_CONFIG_FLAGS',
  11: 'EV_TABLE_OF_DEVICES',
  12: 'EV_COMPACT_HASH',
  13: 'EV_IPL',
  14: 'EV_IPL_PARTITION_DATA',
  2147483649: 'EV_EFI_VARIABLE_DRIVER_CONFIG',
  2147483650: 'EV_EFI_VARIABLE_BOOT',
  2147483651: 'EV_EFI_BOOT_SERVICES_APPLICATION',
  2147483652: 'EV_EFI_BOOT_SERVICES_DRIVER',
  2147483654: 'EV_EFI_GPT_EVENT',
  2147483655: 'EV_EFI_ACTION',
  2147483656: 'EV_EFI_PLATFORM_FIRMWARE_BLOB',
  2147483657: 'EV_EFI_HANDOFF_TABLES',
  2147483658: 'EV_EFI_PLATFORM_FIRMWARE_BLOB2',
  2147483659: 'EV_EFI_HANDOFF_TABLES2',
  2147483660: 'EV_EFI_VARIABLE_BOOT2',
  2147483872: 'EV_EFI_VARIABLE_AUTHORITY',
  2147483873: 'EV_EFI_SPDM_FIRMWARE_BLOB',
};

const ALG_SHA384 = 0x000c;
const KNOWN_DIGEST_BYTES: Readonly<Record<number, number>> = { 4: 20, 11: 32, 12: 48, 13: 64, 18: 32 };
const SPEC_ID = 'Spec ID Event03\0';
const MAX_LOG_BYTES = 64 << 20;
const MAX_EVENTS = 1 << 16;
const MAX_ALGORITHMS = 16;

export interface LogEvent {
  /** Index in the log, from 0; the header is not counted. */
  readonly index: number;
  /** Offset in bytes from the start of the log. */
  readonly offset: number;
  /** CC measurement register index: 0 MRTD, 1..4 RTMR0..RTMR3. */
  readonly mrIndex: number;
  readonly type: number;
  readonly typeName: string;
  /** The SHA-384 digest; absent only for EV_NO_ACTION records without one. */
  readonly digest?: Sha384;
  readonly data: Uint8Array;
}

export interface EventLog {
  readonly algorithms: readonly { readonly id: number; readonly digestBytes: number }[];
  readonly events: readonly LogEvent[];
  /** Bytes of records, without the padding behind them. */
  readonly usedBytes: number;
}

export function eventTypeName(type: number): string {
  return EVENT_NAMES[type] ?? `0x${type.toString(16).padStart(8, '0')}`;
}

/**
 * Parses a whole log: header record, events, then padding (zeros or 0xFF) to the end.
 * Errors: `truncated`, `malformed` (header, unknown digest algorithm, data after the padding began), `limit`.
 */
export function parseEventLog(log: Uint8Array): EventLog {
  if (log.length > MAX_LOG_BYTES)
    throw new MeasureError('limit', `event log: ${log.length} bytes, at most ${MAX_LOG_BYTES}`);
  const r = new ByteReader(log, 'event log');
  const algorithms = parseHeader(r);
  const sizes = new Map(algorithms.map((a) => [a.id, a.digestBytes]));
  const events: LogEvent[] = [];
  while (r.remaining > 0 && !atPadding(log, r.offset)) {
    if (events.length === MAX_EVENTS)
      throw new MeasureError('limit', `event log: more than ${MAX_EVENTS} events`, r.offset);
    events.push(parseEvent(r, events.length, sizes));
  }
  const usedBytes = r.offset;
  checkPadding(log, usedBytes);
  return { algorithms, events, usedBytes };
}

function parseHeader(r: ByteReader): EventLog['algorithms'] {
  r.u32('register index of the header');
  const type = r.u32('event type of the header');
  r.take(20, 'SHA-1 digest of the header');
  const size = r.u32('size of the header event');
  if (type !== EV_NO_ACTION)
    throw new MeasureError(
      'malformed',
      `event log: the first record has type ${eventTypeName(type)}, expected EV_NO_ACTION`,
      4,
    );
  const h = r.sub(size, 'Spec ID event');
  const signature = Buffer.from(h.take(16, 'signature')).toString('latin1');
  if (signature !== SPEC_ID)
    throw new MeasureError(
      'malformed',
      `event log: header signature ${JSON.stringify(signature)}, expected "Spec ID Event03"`,
      32,
    );
  h.u32('platform class');
  h.u8('minor version');
  const major = h.u8('major version');
  if (major !== 2) throw new MeasureError('unsupported', `event log: format version ${major}, only 2 is known`);
  h.u8('errata');
  h.u8('uintn size');
  const count = h.u32('number of algorithms');
  if (count === 0 || count > MAX_ALGORITHMS)
    throw new MeasureError('malformed', `event log: ${count} digest algorithms, expected 1 to ${MAX_ALGORITHMS}`);
  const algorithms: { id: number; digestBytes: number }[] = [];
  for (let i = 0; i < count; i++) {
    const id = h.u16(`algorithm ${i}`);
    const digestBytes = h.u16(`digest size ${i}`);
    const known = KNOWN_DIGEST_BYTES[id];
    if (known !== undefined && known !== digestBytes) {
      throw new MeasureError(
        'malformed',
        `event log: algorithm 0x${id.toString(16)} with digests of ${digestBytes} bytes, expected ${known}`,
      );
    }
    if (algorithms.some((a) => a.id === id))
      throw new MeasureError('malformed', `event log: algorithm 0x${id.toString(16)} listed twice`);
    algorithms.push({ id, digestBytes });
  }
  h.take(h.u8('vendor info size'), 'vendor info');
  if (!algorithms.some((a) => a.id === ALG_SHA384))
    throw new MeasureError('unsupported', 'event log: it has no SHA-384 digests');
  return algorithms;
}

function parseEvent(r: ByteReader, index: number, sizes: ReadonlyMap<number, number>): LogEvent {
  const offset = r.offset;
  const mrIndex = r.u32('register index');
  const type = r.u32('event type');
  const count = r.u32('number of digests');
  if (count > MAX_ALGORITHMS) throw new MeasureError('malformed', `event ${index}: ${count} digests`, offset + 8);
  let digest: Sha384 | undefined;
  for (let i = 0; i < count; i++) {
    const at = r.offset;
    const id = r.u16('digest algorithm');
    const bytes = sizes.get(id);
    if (bytes === undefined)
      throw new MeasureError(
        'malformed',
        `event ${index}: digest algorithm 0x${id.toString(16)} is not in the header`,
        at,
      );
    const value = r.take(bytes, 'digest');
    if (id === ALG_SHA384) {
      if (digest) throw new MeasureError('malformed', `event ${index}: two SHA-384 digests`, at);
      digest = asSha384(value, `event ${index}: digest`);
    }
  }
  const data = r.take(r.u32('event size'), 'event data');
  if (type !== EV_NO_ACTION && !digest)
    throw new MeasureError('malformed', `event ${index}: no SHA-384 digest`, offset);
  const base = { index, offset, mrIndex, type, typeName: eventTypeName(type), data };
  return digest ? { ...base, digest } : base;
}

/** Records end where 0xFFFFFFFF, or an all-zero record head, begins: CCEL areas are larger than their log. */
function atPadding(log: Uint8Array, at: number): boolean {
  const head = log.subarray(at, at + 12);
  return head.subarray(0, 4).every((b) => b === 0xff) || head.every((b) => b === 0);
}

function checkPadding(log: Uint8Array, from: number): void {
  if (from === log.length) return;
  const fill = log[from];
  // One byte value to the end. Data behind padding would be events that a replay does not see.
  for (let i = from + 1; i < log.length; i++) {
    if (log[i] !== fill) throw new MeasureError('malformed', 'event log: data after the padding began', i);
  }
}

export type Rtmrs = readonly [Sha384, Sha384, Sha384, Sha384];

/**
 * The RTMR values that the log's events lead to from zero. EV_NO_ACTION records do not count; neither do records of
 * MrIndex 0 (MRTD cannot be extended), which is `malformed` for any other type, as is an index above 4.
 */
export function replayEventLog(log: EventLog): Rtmrs {
  const rtmrs: [Sha384, Sha384, Sha384, Sha384] = [ZERO_SHA384, ZERO_SHA384, ZERO_SHA384, ZERO_SHA384];
  for (const e of log.events) {
    if (e.type === EV_NO_ACTION) continue;
    const i = e.mrIndex - 1;
    const register = rtmrs[i];
    if (register === undefined || !e.digest) {
      throw new MeasureError('malformed', `event ${e.index}: register index ${e.mrIndex}, expected 1 to 4`, e.offset);
    }
    rtmrs[i] = extend(register, e.digest);
  }
  return rtmrs;
}

export interface NewEvent {
  readonly mrIndex: number;
  readonly type: number;
  readonly digest: Sha384;
  readonly data: Uint8Array;
}

/** Writes a log with SHA-384 digests only, as our kernel does: header, then the events. */
export function buildEventLog(events: readonly NewEvent[]): Uint8Array {
  const spec = Buffer.alloc(33);
  spec.write(SPEC_ID, 0, 'latin1');
  spec.writeUInt8(2, 21); // major version; platform class 0, minor 0, errata 0
  spec.writeUInt8(2, 23); // uintn size: 64 bit
  spec.writeUInt32LE(1, 24);
  spec.writeUInt16LE(ALG_SHA384, 28);
  spec.writeUInt16LE(48, 30);
  const header = Buffer.alloc(32);
  header.writeUInt32LE(1, 0);
  header.writeUInt32LE(EV_NO_ACTION, 4);
  header.writeUInt32LE(spec.length, 28);
  const records = events.map((e) => {
    const head = Buffer.alloc(14);
    head.writeUInt32LE(e.mrIndex, 0);
    head.writeUInt32LE(e.type, 4);
    head.writeUInt32LE(1, 8);
    head.writeUInt16LE(ALG_SHA384, 12);
    const size = Buffer.alloc(4);
    size.writeUInt32LE(e.data.length, 0);
    return concatBytes(head, e.digest, size, e.data);
  });
  return concatBytes(header, spec, ...records);
}

export interface CcelTable {
  readonly ccType: number;
  readonly ccSubtype: number;
  /** Length in bytes and guest-physical address of the log area. */
  readonly logAreaBytes: bigint;
  readonly logAreaAddress: bigint;
}

/** The CCEL ACPI table, 56 bytes. Errors: `truncated`, `malformed` (signature, length, checksum). */
export function parseCcelTable(table: Uint8Array): CcelTable {
  const r = new ByteReader(table, 'CCEL table');
  const signature = Buffer.from(r.take(4, 'signature')).toString('latin1');
  if (signature !== 'CCEL')
    throw new MeasureError('malformed', `CCEL table: signature ${JSON.stringify(signature)}`, 0);
  const length = r.u32('length');
  if (length !== 56 || table.length < 56)
    throw new MeasureError('malformed', `CCEL table: length ${length}, expected 56`, 4);
  r.take(28, 'ACPI header');
  const [ccType, ccSubtype] = [r.u8('CC type'), r.u8('CC subtype')];
  r.u16('reserved');
  const [logAreaBytes, logAreaAddress] = [r.u64('log area length'), r.u64('log area address')];
  const sum = table.subarray(0, 56).reduce((n, b) => (n + b) & 0xff, 0);
  if (sum !== 0) throw new MeasureError('malformed', `CCEL table: checksum is off by ${sum}`, 9);
  return { ccType, ccSubtype, logAreaBytes, logAreaAddress };
}

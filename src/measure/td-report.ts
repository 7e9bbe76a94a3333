// SPDX-License-Identifier: Apache-2.0
//
// TDREPORT and the structures that it shares with quotes: TD attributes, XFAM. Source: Intel TDX Module ABI, section on
// TDREPORT_STRUCT; Intel TDX Base Architecture Specification for the attribute bits.

import { ByteReader, equalBytes, isZero } from './bytes.js';
import { asSha384, type Sha384, sha384 } from './digest.js';
import { MeasureError } from './errors.js';

export const TDREPORT_BYTES = 1024;

const ATTRIBUTE_NAMES: Readonly<Record<number, string>> = {
  0: 'DEBUG',
  4: 'HGS_PLUS_PROF',
  5: 'PERF_PROF',
  6: 'PMT_PROF',
  27: 'LASS',
  28: 'SEPT_VE_DISABLE',
  29: 'MIGRATABLE',
  30: 'PKS',
  31: 'KL',
  62: 'TPA',
  63: 'PERFMON',
};
const XFAM_NAMES: Readonly<Record<number, string>> = {
  0: 'X87',
  1: 'SSE',
  2: 'AVX',
  5: 'AVX512_OPMASK',
  6: 'AVX512_ZMM_HI256',
  7: 'AVX512_HI16_ZMM',
  8: 'PT',
  9: 'PKRU',
  11: 'CET_U',
  12: 'CET_S',
  14: 'UINTR',
  15: 'LBR',
  17: 'AMX_TILECFG',
  18: 'AMX_TILEDATA',
};

export interface Flags {
  readonly value: bigint;
  /** Names of the bits that are set and known, in bit order. */
  readonly names: readonly string[];
  /** Bits that are set and not known. */
  readonly unknown: bigint;
}

function flags(value: bigint, known: Readonly<Record<number, string>>): Flags {
  const names: string[] = [];
  let unknown = 0n;
  for (let bit = 0; bit < 64; bit++) {
    if (((value >> BigInt(bit)) & 1n) === 0n) continue;
    const name = known[bit];
    if (name === undefined) unknown |= 1n << BigInt(bit);
    else names.push(name);
  }
  return { value, names, unknown };
}

export const ATTRIBUTE_DEBUG = 1n;
/**
 * TD Under Debug (bits 3:0) and TD Under Profiling (7:4: counters and telemetry of the whole machine show the TD). The host
 * sets them when it makes the TD, and one is enough for the TD not to be trusted. Source: Intel TDX DCAP Quoting Library API,
 * 2.3.2, extended TD checks; MigTD's policy for the attributes.
 */
export const ATTRIBUTES_OBSERVED = 0xffn;
/** A service TD of the host's choice may move the TD elsewhere. */
export const ATTRIBUTE_MIGRATABLE = 1n << 29n;

export function tdAttributes(value: bigint): Flags {
  return flags(value, ATTRIBUTE_NAMES);
}

export function xfam(value: bigint): Flags {
  return flags(value, XFAM_NAMES);
}

export interface TdInfo {
  readonly attributes: bigint;
  readonly xfam: bigint;
  readonly mrtd: Sha384;
  readonly mrConfigId: Uint8Array;
  readonly mrOwner: Uint8Array;
  readonly mrOwnerConfig: Uint8Array;
  readonly rtmrs: readonly [Sha384, Sha384, Sha384, Sha384];
}

export interface TdReport {
  readonly type: { readonly type: number; readonly subtype: number; readonly version: number };
  readonly cpuSvn: Uint8Array;
  readonly teeTcbInfoHash: Sha384;
  readonly teeInfoHash: Sha384;
  readonly reportData: Uint8Array;
  readonly mac: Uint8Array;
  readonly tcb: {
    readonly valid: bigint;
    readonly teeTcbSvn: Uint8Array;
    readonly mrSeam: Sha384;
    readonly mrSignerSeam: Sha384;
    readonly seamAttributes: bigint;
    readonly teeTcbSvn2: Uint8Array;
  };
  readonly td: TdInfo;
  readonly servTdHash: Sha384;
}

const TCB_INFO_AT = 256;
const TCB_INFO_BYTES = 239;
const TD_INFO_AT = 512;
const TYPE_TDX = 0x81;

/**
 * Decodes a TDREPORT and checks what it proves of itself: type, reserved bytes, and the two hashes in its MAC structure.
 * The MAC can be checked only on the machine that made it (TDG.MR.VERIFYREPORT).
 * Errors: `truncated`, `malformed`, `mismatch`.
 */
export function parseTdReport(bytes: Uint8Array): TdReport {
  if (bytes.length !== TDREPORT_BYTES) {
    throw new MeasureError(
      bytes.length < TDREPORT_BYTES ? 'truncated' : 'malformed',
      `TDREPORT: expected ${TDREPORT_BYTES} bytes, got ${bytes.length}`,
    );
  }
  const r = new ByteReader(bytes, 'TDREPORT');
  const type = { type: r.u8('type'), subtype: r.u8('subtype'), version: r.u8('version') };
  if (type.type !== TYPE_TDX || type.subtype !== 0 || type.version > 1) {
    throw new MeasureError(
      'malformed',
      `TDREPORT: type 0x${type.type.toString(16)} subtype ${type.subtype} version ${type.version}, expected 0x81, 0, 0 or 1`,
      0,
    );
  }
  reserved(r, 13);
  const cpuSvn = r.take(16, 'CPUSVN');
  const teeTcbInfoHash = asSha384(r.take(48, 'TEE_TCB_INFO_HASH'), 'TEE_TCB_INFO_HASH');
  const teeInfoHash = asSha384(r.take(48, 'TEE_INFO_HASH'), 'TEE_INFO_HASH');
  const reportData = r.take(64, 'REPORTDATA');
  reserved(r, 32);
  const mac = r.take(32, 'MAC');
  const valid = r.u64('VALID');
  const teeTcbSvn = r.take(16, 'TEE_TCB_SVN');
  const mrSeam = asSha384(r.take(48, 'MRSEAM'), 'MRSEAM');
  const mrSignerSeam = asSha384(r.take(48, 'MRSIGNERSEAM'), 'MRSIGNERSEAM');
  const seamAttributes = r.u64('SEAM attributes');
  const teeTcbSvn2 = r.take(16, 'TEE_TCB_SVN2');
  r.take(95 + 17, 'reserved');
  const td = readTdInfo(r);
  const servTdHash = asSha384(r.take(48, 'SERVTD_HASH'), 'SERVTD_HASH');
  reserved(r, 64);
  r.end();
  const tcbHash = sha384(bytes.subarray(TCB_INFO_AT, TCB_INFO_AT + TCB_INFO_BYTES));
  if (!equalBytes(tcbHash, teeTcbInfoHash))
    throw new MeasureError('mismatch', 'TDREPORT: TEE_TCB_INFO_HASH is not the hash of TEE_TCB_INFO', 32);
  if (!equalBytes(sha384(bytes.subarray(TD_INFO_AT)), teeInfoHash))
    throw new MeasureError('mismatch', 'TDREPORT: TEE_INFO_HASH is not the hash of TDINFO', 80);
  return {
    type,
    cpuSvn,
    teeTcbInfoHash,
    teeInfoHash,
    reportData,
    mac,
    tcb: { valid, teeTcbSvn, mrSeam, mrSignerSeam, seamAttributes, teeTcbSvn2 },
    td,
    servTdHash,
  };
}

/** The run of fields that TDINFO and the quote body have in common: ATTRIBUTES to RTMR3. */
export function readTdInfo(r: ByteReader): TdInfo {
  const register = (name: string): Sha384 => asSha384(r.take(48, name), name);
  return {
    attributes: r.u64('ATTRIBUTES'),
    xfam: r.u64('XFAM'),
    mrtd: register('MRTD'),
    mrConfigId: r.take(48, 'MRCONFIGID'),
    mrOwner: r.take(48, 'MROWNER'),
    mrOwnerConfig: r.take(48, 'MROWNERCONFIG'),
    rtmrs: [register('RTMR0'), register('RTMR1'), register('RTMR2'), register('RTMR3')],
  };
}

function reserved(r: ByteReader, length: number): void {
  const at = r.offset;
  if (!isZero(r.take(length, 'reserved')))
    throw new MeasureError('malformed', 'TDREPORT: reserved bytes are not zero', at);
}

// SPDX-License-Identifier: Apache-2.0
//
// TDX quotes, version 4 and version 5 (bodies TD 1.0 and TD 1.5), and the certification data inside them. Parsing only:
// nothing here is true before src/measure/verify.ts has checked the signatures. Source: Intel TDX DCAP Quoting Library
// API, appendix on quote formats. Bytes behind the signature data are tolerated (real generators pad), and reported.

import { ByteReader } from './bytes.js';
import { asSha384, type Sha384 } from './digest.js';
import { MeasureError } from './errors.js';
import { readTdInfo, type TdInfo } from './td-report.js';

export const TEE_TYPE_TDX = 0x81;
export const ATTESTATION_KEY_ECDSA_P256 = 2;
const MAX_QUOTE_BYTES = 1 << 20;

export interface QuoteHeader {
  readonly version: 4 | 5;
  readonly attestationKeyType: number;
  readonly teeType: number;
  readonly qeSvn: number;
  readonly pceSvn: number;
  readonly qeVendorId: Uint8Array;
  readonly userData: Uint8Array;
}

export interface TdQuoteBody {
  readonly kind: 'TD1.0' | 'TD1.5';
  readonly teeTcbSvn: Uint8Array;
  readonly mrSeam: Sha384;
  readonly mrSignerSeam: Sha384;
  readonly seamAttributes: bigint;
  readonly td: TdInfo;
  readonly reportData: Uint8Array;
  /** TD 1.5 only. */
  readonly teeTcbSvn2?: Uint8Array;
  readonly mrServiceTd?: Sha384;
}

/** The SGX report of the quoting enclave, 384 bytes. */
export interface EnclaveReport {
  readonly raw: Uint8Array;
  readonly cpuSvn: Uint8Array;
  readonly miscSelect: number;
  readonly attributes: Uint8Array;
  readonly mrEnclave: Uint8Array;
  readonly mrSigner: Uint8Array;
  readonly isvProdId: number;
  readonly isvSvn: number;
  readonly reportData: Uint8Array;
}

export type PckData =
  | { readonly kind: 'encrypted-ppid'; readonly type: 1 | 2 | 3; readonly data: Uint8Array }
  | { readonly kind: 'leaf'; readonly data: Uint8Array }
  | { readonly kind: 'chain'; readonly data: Uint8Array };

export interface QuoteSignature {
  /** r || s, big endian. */
  readonly signature: Uint8Array;
  /** x || y, big endian. */
  readonly attestationKey: Uint8Array;
  readonly qeReport: EnclaveReport;
  readonly qeReportSignature: Uint8Array;
  readonly qeAuthData: Uint8Array;
  readonly certification: PckData;
}

export interface Quote {
  readonly header: QuoteHeader;
  readonly body: TdQuoteBody;
  /** Header, body descriptor (v5) and body: the bytes under the attestation key's signature. */
  readonly signedBytes: Uint8Array;
  readonly signature: QuoteSignature;
  readonly trailingBytes: number;
}

const HEADER_BYTES = 48;
const BODY_10_BYTES = 584;
const BODY_15_BYTES = 648;
const ENCLAVE_REPORT_BYTES = 384;
const CERT_QE_REPORT = 6;

/** Parses a TDX quote. Errors: `truncated`, `malformed`, `unsupported` (version, TEE, key type, body type), `limit`. */
export function parseQuote(bytes: Uint8Array): Quote {
  if (bytes.length > MAX_QUOTE_BYTES)
    throw new MeasureError('limit', `quote: ${bytes.length} bytes, at most ${MAX_QUOTE_BYTES}`);
  const r = new ByteReader(bytes, 'quote');
  const header = parseHeader(r);
  const body = header.version === 4 ? parseBody(r.sub(BODY_10_BYTES, 'body'), 'TD1.0') : parseBodyV5(r);
  const signedBytes = bytes.subarray(0, r.offset);
  const s = r.sub(r.u32('signature data length'), 'signature data');
  const signature = parseSignature(s);
  s.end();
  return { header, body, signedBytes, signature, trailingBytes: r.remaining };
}

function parseHeader(r: ByteReader): QuoteHeader {
  const h = r.sub(HEADER_BYTES, 'header');
  const version = h.u16('version');
  if (version !== 4 && version !== 5)
    throw new MeasureError('unsupported', `quote: version ${version}, TDX quotes have 4 or 5`, 0);
  const attestationKeyType = h.u16('attestation key type');
  if (attestationKeyType !== ATTESTATION_KEY_ECDSA_P256) {
    throw new MeasureError(
      'unsupported',
      `quote: attestation key type ${attestationKeyType}, only 2 (ECDSA P-256) is known`,
      2,
    );
  }
  const teeType = h.u32('TEE type');
  if (teeType !== TEE_TYPE_TDX)
    throw new MeasureError('unsupported', `quote: TEE type 0x${teeType.toString(16)}, expected 0x81 (TDX)`, 4);
  const [qeSvn, pceSvn] = [h.u16('QE SVN'), h.u16('PCE SVN')];
  return {
    version,
    attestationKeyType,
    teeType,
    qeSvn,
    pceSvn,
    qeVendorId: h.take(16, 'QE vendor id'),
    userData: h.take(20, 'user data'),
  };
}

function parseBodyV5(r: ByteReader): TdQuoteBody {
  const at = r.offset;
  const type = r.u16('body type');
  const size = r.u32('body size');
  const kinds: Readonly<Record<number, readonly ['TD1.0' | 'TD1.5', number]>> = {
    2: ['TD1.0', BODY_10_BYTES],
    3: ['TD1.5', BODY_15_BYTES],
  };
  const kind = kinds[type];
  if (!kind) throw new MeasureError('unsupported', `quote: body type ${type}, expected 2 (TD 1.0) or 3 (TD 1.5)`, at);
  if (size !== kind[1])
    throw new MeasureError('malformed', `quote: body of type ${type} has ${size} bytes, expected ${kind[1]}`, at + 2);
  return parseBody(r.sub(size, 'body'), kind[0]);
}

function parseBody(r: ByteReader, kind: 'TD1.0' | 'TD1.5'): TdQuoteBody {
  const base = {
    kind,
    teeTcbSvn: r.take(16, 'TEE_TCB_SVN'),
    mrSeam: asSha384(r.take(48, 'MRSEAM'), 'MRSEAM'),
    mrSignerSeam: asSha384(r.take(48, 'MRSIGNERSEAM'), 'MRSIGNERSEAM'),
    seamAttributes: r.u64('SEAM attributes'),
    td: readTdInfo(r),
    reportData: r.take(64, 'REPORTDATA'),
  };
  if (kind === 'TD1.0') {
    r.end();
    return base;
  }
  const teeTcbSvn2 = r.take(16, 'TEE_TCB_SVN2');
  const mrServiceTd = asSha384(r.take(48, 'MRSERVICETD'), 'MRSERVICETD');
  r.end();
  return { ...base, teeTcbSvn2, mrServiceTd };
}

function parseSignature(r: ByteReader): QuoteSignature {
  const signature = r.take(64, 'signature');
  const attestationKey = r.take(64, 'attestation key');
  const at = r.offset;
  const type = r.u16('certification data type');
  if (type !== CERT_QE_REPORT)
    throw new MeasureError('unsupported', `quote: certification data type ${type}, expected 6 (QE report)`, at);
  const c = r.sub(r.u32('certification data size'), 'certification data');
  const qeReport = parseEnclaveReport(c.take(ENCLAVE_REPORT_BYTES, 'QE report'));
  const qeReportSignature = c.take(64, 'QE report signature');
  const qeAuthData = c.take(c.u16('QE authentication data size'), 'QE authentication data');
  const certification = parsePckData(c);
  c.end();
  return { signature, attestationKey, qeReport, qeReportSignature, qeAuthData, certification };
}

function parsePckData(r: ByteReader): PckData {
  const at = r.offset;
  const type = r.u16('PCK certification data type');
  const data = r.take(r.u32('PCK certification data size'), 'PCK certification data');
  switch (type) {
    case 1:
    case 2:
    case 3:
      return { kind: 'encrypted-ppid', type, data };
    case 4:
      return { kind: 'leaf', data };
    case 5:
      return { kind: 'chain', data };
    default:
      throw new MeasureError('unsupported', `quote: PCK certification data type ${type}, expected 1 to 5`, at);
  }
}

/** An SGX report body. Errors: `truncated`, `malformed` for another length. */
export function parseEnclaveReport(raw: Uint8Array): EnclaveReport {
  const r = new ByteReader(raw, 'enclave report');
  const cpuSvn = r.take(16, 'CPUSVN');
  const miscSelect = r.u32('MISCSELECT');
  r.take(28, 'reserved');
  const attributes = r.take(16, 'ATTRIBUTES');
  const mrEnclave = r.take(32, 'MRENCLAVE');
  r.take(32, 'reserved');
  const mrSigner = r.take(32, 'MRSIGNER');
  r.take(96, 'reserved');
  const isvProdId = r.u16('ISVPRODID');
  const isvSvn = r.u16('ISVSVN');
  r.take(60, 'reserved');
  const reportData = r.take(64, 'REPORTDATA');
  r.end();
  return { raw, cpuSvn, miscSelect, attributes, mrEnclave, mrSigner, isvProdId, isvSvn, reportData };
}

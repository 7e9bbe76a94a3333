// SPDX-License-Identifier: Apache-2.0
//
// A PKI with the shape of Intel's, made anew and kept in memory: root, PCK CA, PCK certificate, TCB signer, revocation
// lists, TCB info, QE identity, and quotes signed under them. For simulated TDs and tests: it runs a verifier's whole road,
// and proves nothing, as its root is nobody's. Formats: RFC 5280; Intel SGX PCK certificate profile 1.5; Intel PCS API
// version 4; Intel TDX DCAP Quoting Library, quote formats 4 and 5.

import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import type { Collateral } from '../measure/index.js';

const DAY_MS = 86_400_000;
const FMSPC = '00906ed50000';
const PCEID = '0000';
const CPU_COMPONENTS = [3, 3, 2, 2, 4, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0];
const PCE_SVN = 13;
const QE_ISVSVN = 6;
const MRSIGNER_QE = Buffer.alloc(32, 0xdc);
const QE_VENDOR = Buffer.from('939a7233f79c4ca9940a0db3957f0607', 'hex');
const TEE_TDX = 0x81;
const ATTESTATION_KEY_ECDSA_P256 = 2;
const CERTIFICATION_QE_REPORT = 6;
const CERTIFICATION_PCK_CHAIN = 5;

// --- DER
function der(tag: number, ...content: readonly Uint8Array[]): Buffer {
  const body = Buffer.concat(content);
  const n = body.length;
  const length = n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : [0x82, n >> 8, n & 0xff];
  return Buffer.concat([Buffer.from([tag, ...length]), body]);
}
const seq = (...items: readonly Uint8Array[]) => der(0x30, ...items);
const oct = (data: Uint8Array) => der(0x04, data);
const bits = (data: Uint8Array) => der(0x03, Buffer.of(0), data);
function int(value: bigint | number): Buffer {
  let hex = BigInt(value).toString(16);
  if (hex.length % 2) hex = `0${hex}`;
  const b = Buffer.from(hex, 'hex');
  return der(0x02, (b[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.of(0), b]) : b);
}
function oid(text: string): Buffer {
  const [a = 0, b = 0, ...rest] = text.split('.').map(Number);
  const out = [40 * a + b];
  for (const arc of rest) {
    const bytes = [arc & 0x7f];
    for (let v = Math.floor(arc / 128); v > 0; v = Math.floor(v / 128)) bytes.unshift((v & 0x7f) | 0x80);
    out.push(...bytes);
  }
  return der(0x06, Buffer.from(out));
}
function time(ms: number): Buffer {
  const text = new Date(ms).toISOString().replace(/[-:T]/g, '').slice(0, 14);
  return der(0x18, Buffer.from(`${text}Z`, 'latin1'));
}
const ECDSA_SHA256 = seq(oid('1.2.840.10045.4.3.2'));
const name = (cn: string) => seq(der(0x31, seq(oid('2.5.4.3'), der(0x0c, Buffer.from(cn)))));
const extension = (id: string, value: Uint8Array) => seq(oid(id), oct(value));

interface Keys {
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
}
const newKeys = (): Keys => generateKeyPairSync('ec', { namedCurve: 'P-256' });
const spki = (k: KeyObject) => k.export({ type: 'spki', format: 'der' });
const point = (k: KeyObject) => spki(k).subarray(-64);
const rawSignature = (key: KeyObject, data: Uint8Array) => sign('sha256', data, { key, dsaEncoding: 'ieee-p1363' });

interface Certificate {
  readonly subject: string;
  readonly issuer: string;
  readonly key: KeyObject;
  readonly signer: KeyObject;
  readonly ca: boolean;
  readonly serial: number;
  readonly notBefore: number;
  readonly notAfter: number;
  readonly extensions?: readonly Buffer[];
}
function certificate(o: Certificate): Buffer {
  const tbs = seq(
    der(0xa0, int(2)),
    int(o.serial),
    ECDSA_SHA256,
    name(o.issuer),
    seq(time(o.notBefore), time(o.notAfter)),
    name(o.subject),
    spki(o.key),
    der(0xa3, seq(extension('2.5.29.19', o.ca ? seq(der(0x01, Buffer.of(0xff))) : seq()), ...(o.extensions ?? []))),
  );
  return seq(tbs, ECDSA_SHA256, bits(sign('sha256', tbs, o.signer)));
}
function crl(issuer: string, signer: KeyObject, revoked: readonly number[], at: number): Buffer {
  const entries = revoked.length ? [seq(...revoked.map((s) => seq(int(s), time(at - DAY_MS))))] : [];
  const tbs = seq(
    int(1),
    ECDSA_SHA256,
    name(issuer),
    time(at - DAY_MS),
    time(at + 30 * DAY_MS),
    ...entries,
    der(0xa0, seq(extension('2.5.29.20', int(1)))),
  );
  return seq(tbs, ECDSA_SHA256, bits(sign('sha256', tbs, signer)));
}
function sgxExtension(): Buffer {
  const base = '1.2.840.113741.1.13.1';
  const field = (id: string, value: Uint8Array) => seq(oid(`${base}.${id}`), value);
  const tcb = seq(
    ...CPU_COMPONENTS.map((svn, i) => field(`2.${i + 1}`, int(svn))),
    field('2.17', int(PCE_SVN)),
    field('2.18', oct(Buffer.from(CPU_COMPONENTS))),
  );
  return extension(
    base,
    seq(
      field('1', oct(Buffer.alloc(16, 7))),
      field('2', tcb),
      field('3', oct(Buffer.from(PCEID, 'hex'))),
      field('4', oct(Buffer.from(FMSPC, 'hex'))),
      field('5', der(0x0a, Buffer.of(0))),
    ),
  );
}
export const pem = (d: Uint8Array) =>
  `-----BEGIN CERTIFICATE-----\n${Buffer.from(d).toString('base64').replace(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`;

export interface PkiOptions {
  /** The time, in milliseconds, around which everything is valid: 30 days from then on. Default: now. */
  readonly at?: number;
  /** How the authorities are called. */
  readonly label?: string;
  /** TEE_TCB_SVN from which on a platform counts as up to date; index 1 is the module's generation. Default: all. */
  readonly upToDateSvn?: readonly number[];
  /** Serial numbers: root 1, PCK CA 2, TCB signer 3, PCK 4. */
  readonly revokedByRoot?: readonly number[];
  readonly revokedByPckCa?: readonly number[];
  readonly pckNotAfter?: number;
  readonly tcbStatus?: string;
  readonly qeStatus?: string;
  readonly moduleStatus?: string;
  readonly nextUpdate?: number;
}

export type QuoteKind = 'TD1.0' | 'TD1.5';
export const QUOTE_BODY_BYTES: Readonly<Record<QuoteKind, number>> = { 'TD1.0': 584, 'TD1.5': 648 };

/** Root, chains, collateral and what signs quotes. */
export class ThrowawayPki {
  readonly rootDer: Buffer;
  readonly collateral: Collateral;
  readonly #pckChain: string;
  readonly #pck = newKeys();

  constructor(o: PkiOptions = {}) {
    const at = o.at ?? Date.now();
    const [root, ca, tcb] = [newKeys(), newKeys(), newKeys()];
    const label = o.label ?? 'Throw-away';
    const rootName = `${label} Root CA`;
    const caName = `${label} PCK Platform CA`;
    const validity = { notBefore: at - 30 * DAY_MS, notAfter: at + 3000 * DAY_MS };
    const issue = (c: Omit<Certificate, 'notBefore' | 'notAfter'> & Partial<Certificate>) =>
      certificate({ ...validity, ...c });
    this.rootDer = issue({
      subject: rootName,
      issuer: rootName,
      key: root.publicKey,
      signer: root.privateKey,
      ca: true,
      serial: 1,
    });
    const caDer = issue({
      subject: caName,
      issuer: rootName,
      key: ca.publicKey,
      signer: root.privateKey,
      ca: true,
      serial: 2,
    });
    const tcbDer = issue({
      subject: `${label} TCB Signing`,
      issuer: rootName,
      key: tcb.publicKey,
      signer: root.privateKey,
      ca: false,
      serial: 3,
    });
    const pckDer = issue({
      subject: `${label} PCK`,
      issuer: caName,
      key: this.#pck.publicKey,
      signer: ca.privateKey,
      ca: false,
      serial: 4,
      extensions: [sgxExtension()],
      ...(o.pckNotAfter === undefined ? {} : { notAfter: o.pckNotAfter }),
    });
    this.#pckChain = pem(pckDer) + pem(caDer) + pem(this.rootDer);
    const signerChain = pem(tcbDer) + pem(this.rootDer);
    const signed = (value: unknown) => {
      const text = JSON.stringify(value);
      return { text, signature: rawSignature(tcb.privateKey, Buffer.from(text)) };
    };
    this.collateral = {
      tcbInfo: signed(tcbInfo(o, at)),
      tcbInfoChain: signerChain,
      qeIdentity: signed(qeIdentity(o, at)),
      qeIdentityChain: signerChain,
      rootCrl: crl(rootName, root.privateKey, o.revokedByRoot ?? [], at),
      pckCrl: crl(caName, ca.privateKey, o.revokedByPckCa ?? [], at),
      pckChain: this.#pckChain,
    };
  }

  /** A quote with this body: QUOTE_BODY_BYTES[kind] bytes. Format 4 knows only TD1.0. */
  signQuote(body: Uint8Array, o: { readonly version: 4 | 5; readonly kind: QuoteKind }): Buffer {
    if (body.length !== QUOTE_BODY_BYTES[o.kind]) throw new RangeError(`${o.kind}: a body of ${body.length} bytes`);
    const header = Buffer.alloc(48);
    header.writeUInt16LE(o.version, 0);
    header.writeUInt16LE(ATTESTATION_KEY_ECDSA_P256, 2);
    header.writeUInt32LE(TEE_TDX, 4);
    QE_VENDOR.copy(header, 12);
    const descriptor = Buffer.alloc(6);
    descriptor.writeUInt16LE(o.kind === 'TD1.0' ? 2 : 3, 0);
    descriptor.writeUInt32LE(body.length, 2);
    const signedBytes = Buffer.concat(o.version === 4 ? [header, body] : [header, descriptor, body]);
    const attestation = newKeys();
    const auth = Buffer.alloc(32, 0xa5);
    const report = qeReport(createHash('sha256').update(point(attestation.publicKey)).update(auth).digest());
    const chain = Buffer.from(`${this.#pckChain}\0`, 'latin1');
    const inner = Buffer.concat([
      report,
      rawSignature(this.#pck.privateKey, report),
      u16(auth.length),
      auth,
      u16(CERTIFICATION_PCK_CHAIN),
      u32(chain.length),
      chain,
    ]);
    const data = Buffer.concat([
      rawSignature(attestation.privateKey, signedBytes),
      point(attestation.publicKey),
      u16(CERTIFICATION_QE_REPORT),
      u32(inner.length),
      inner,
    ]);
    return Buffer.concat([signedBytes, u32(data.length), data]);
  }
}

const u16 = (n: number) => Buffer.of(n & 0xff, n >> 8);
const u32 = (n: number) => Buffer.concat([u16(n & 0xffff), u16(n >>> 16)]);

/** The report of the quoting enclave that there is not. */
function qeReport(reportData: Uint8Array): Buffer {
  const b = Buffer.alloc(384);
  Buffer.from([0x11]).copy(b, 48);
  MRSIGNER_QE.copy(b, 128);
  b.writeUInt16LE(2, 256);
  b.writeUInt16LE(QE_ISVSVN, 258);
  Buffer.from(reportData).copy(b, 320);
  return b;
}

const iso = (ms: number) => new Date(ms).toISOString().replace(/\.[0-9]{3}Z$/, 'Z');

function tcbInfo(o: PkiOptions, at: number): unknown {
  const zero48 = '00'.repeat(48);
  const tcbDate = '2025-03-13T00:00:00Z';
  const required = Array.from({ length: 16 }, (_, i) => o.upToDateSvn?.[i] ?? 0);
  const level = (svns: readonly number[], pcesvn: number, tdx: readonly number[], status: string) => ({
    tcb: {
      sgxtcbcomponents: svns.map((svn) => ({ svn })),
      pcesvn,
      tdxtcbcomponents: tdx.map((svn) => ({ svn })),
    },
    tcbDate,
    tcbStatus: status,
  });
  const module = (id: string) => ({
    id,
    mrsigner: zero48,
    attributes: '00'.repeat(8),
    attributesMask: 'FF'.repeat(8),
    tcbLevels: [
      { tcb: { isvsvn: required[0] }, tcbDate, tcbStatus: o.moduleStatus ?? 'UpToDate' },
      { tcb: { isvsvn: 0 }, tcbDate: '2023-03-13T00:00:00Z', tcbStatus: 'OutOfDate' },
    ],
  });
  // Index 1 counts generations of the module, which have identities of their own.
  const components = required.map((svn, i) => (i === 1 ? 0 : svn));
  return {
    id: 'TDX',
    version: 3,
    issueDate: iso(at - DAY_MS),
    nextUpdate: iso(o.nextUpdate ?? at + 30 * DAY_MS),
    fmspc: FMSPC,
    pceId: PCEID,
    tcbType: 0,
    tcbEvaluationDataNumber: 17,
    tdxModule: { mrsigner: zero48, attributes: '00'.repeat(8), attributesMask: 'FF'.repeat(8) },
    tdxModuleIdentities: [module('TDX_01'), module('TDX_03')],
    tcbLevels: [
      level(CPU_COMPONENTS, PCE_SVN, components, o.tcbStatus ?? 'UpToDate'),
      {
        ...level(Array<number>(16).fill(0), 5, Array<number>(16).fill(0), 'OutOfDate'),
        advisoryIDs: ['INTEL-SA-TEST'],
      },
    ],
  };
}

function qeIdentity(o: PkiOptions, at: number): unknown {
  return {
    id: 'TD_QE',
    version: 2,
    issueDate: iso(at - DAY_MS),
    nextUpdate: iso(at + 30 * DAY_MS),
    tcbEvaluationDataNumber: 17,
    miscselect: '00000000',
    miscselectMask: 'FFFFFFFF',
    attributes: `11${'00'.repeat(15)}`,
    attributesMask: `FB${'FF'.repeat(7)}${'00'.repeat(8)}`,
    mrsigner: MRSIGNER_QE.toString('hex'),
    isvprodid: 2,
    tcbLevels: [{ tcb: { isvsvn: 4 }, tcbDate: '2025-03-13T00:00:00Z', tcbStatus: o.qeStatus ?? 'UpToDate' }],
  };
}

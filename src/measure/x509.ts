// SPDX-License-Identifier: Apache-2.0
//
// Certificates and revocation lists of Intel's attestation PKI: chains to a pinned root, CRLs, and the PCK certificate's
// TCB extension. Signatures are checked by Node's OpenSSL; our DER reader takes apart what it does not expose. Sources:
// RFC 5280; Intel SGX PCK Certificate and CRL Profile Specification.

import { createPublicKey, type KeyObject, verify, X509Certificate } from 'node:crypto';
import { equalBytes, fromHex, toHex } from './bytes.js';
import { type DerItem, DerReader, derTime, derUint, inside, oidToString, TAG } from './der.js';
import { MeasureError } from './errors.js';

const MAX_CHAIN = 6;
/** Of Date: milliseconds since 1970. */
const MAX_TIME = 8.64e15;
const MAX_CHAIN_BYTES = 1 << 20;
const MAX_CRL_ENTRIES = 100_000;
const MAX_CRL_BYTES = 16 << 20;
const OID_ECDSA_SHA256 = '1.2.840.10045.4.3.2';
const OID_CRL_REASON = '2.5.29.21';
const OID_DELTA_CRL = '2.5.29.27';
const OID_ISSUING_POINT = '2.5.29.28';
const OID_SGX = '1.2.840.113741.1.13.1';

/**
 * The subject public key (uncompressed point) of the Intel SGX Root CA, to which production quotes chain. Pinned as a key
 * and not as a certificate: Intel may reissue the certificate. Source: Intel's published root certificate.
 */
export const INTEL_ROOT_PUBLIC_KEY: Uint8Array = fromHex(
  '040ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e705525f567918e2edc88e40d860bd0cc4ee26aacc988e505a953558c453f6b0904ae7394',
  'Intel root key',
  65,
);

export interface Certificate {
  readonly x509: X509Certificate;
  readonly der: Uint8Array;
  readonly key: KeyObject;
  /** Uncompressed P-256 point, 65 bytes. */
  readonly point: Uint8Array;
  readonly serial: string;
  /** Raw DER of the names. */
  readonly issuer: Uint8Array;
  readonly subject: Uint8Array;
  readonly notBefore: number;
  readonly notAfter: number;
  readonly extensions: ReadonlyMap<string, Uint8Array>;
}

/**
 * Certificates by their bytes: a service judges thousands of quotes under the same few, and taking one apart costs more than
 * judging with it. What a certificate says depends on its bytes alone; time, revocation and trust are judged every time.
 */
const known = new Map<string, Certificate>();
const MAX_KNOWN = 64;
/** Issuers whose signature on a certificate was seen to verify. */
const signedBy = new WeakMap<Certificate, WeakSet<Certificate>>();

/** One certificate from DER. Errors: `certificate`, `malformed`. */
export function parseCertificate(der: Uint8Array): Certificate {
  const key = Buffer.from(der.buffer, der.byteOffset, der.byteLength).toString('latin1');
  const before = known.get(key);
  if (before) return before;
  const certificate = readCertificate(Uint8Array.from(der));
  for (const oldest of known.keys()) {
    if (known.size < MAX_KNOWN) break;
    known.delete(oldest);
  }
  known.set(key, certificate);
  return certificate;
}

function readCertificate(der: Uint8Array): Certificate {
  const r = new DerReader(der, 'certificate');
  const outer = inside(r.next(TAG.sequence), 'certificate');
  r.end();
  const tbs = inside(outer.next(TAG.sequence), 'certificate body');
  requireEcdsaSha256(outer.next(TAG.sequence), 'certificate');
  outer.next(TAG.bitString);
  outer.end();
  tbs.optional(0xa0);
  const serial = tbs.next(TAG.integer);
  requireEcdsaSha256(tbs.next(TAG.sequence), 'certificate body');
  const issuer = tbs.next(TAG.sequence).raw;
  const validity = inside(tbs.next(TAG.sequence), 'validity');
  const [notBefore, notAfter] = [derTime(validity.next()), derTime(validity.next())];
  const subject = tbs.next(TAG.sequence).raw;
  tbs.next(TAG.sequence);
  tbs.optional(0x81);
  tbs.optional(0x82);
  const extensions = parseExtensions(tbs.optional(0xa3), 'certificate');
  tbs.end();
  let x509: X509Certificate;
  let key: KeyObject;
  let jwk: { readonly crv?: string; readonly x?: string; readonly y?: string };
  try {
    x509 = new X509Certificate(Buffer.from(der));
    key = x509.publicKey; // decoded only here: throws for a key that OpenSSL cannot read
    jwk = key.asymmetricKeyType === 'ec' ? key.export({ format: 'jwk' }) : {};
  } catch (cause) {
    throw new MeasureError('certificate', 'certificate: OpenSSL does not accept it', undefined, { cause });
  }
  if (jwk.crv !== 'P-256' || !jwk.x || !jwk.y)
    throw new MeasureError('certificate', 'certificate: the key is not on P-256');
  const point = new Uint8Array(
    Buffer.concat([Buffer.of(4), Buffer.from(jwk.x, 'base64url'), Buffer.from(jwk.y, 'base64url')]),
  );
  return { x509, der, key, point, serial: serialHex(serial), issuer, subject, notBefore, notAfter, extensions };
}

function requireEcdsaSha256(item: DerItem, what: string): void {
  const oid = oidToString(inside(item, what).next(TAG.oid));
  if (oid !== OID_ECDSA_SHA256)
    throw new MeasureError(
      'certificate',
      `${what}: signature algorithm ${oid}, expected ECDSA with SHA-256`,
      item.offset,
    );
}

function serialHex(item: DerItem): string {
  return toHex(item.content).replace(/^(?:00)+(?=..)/, '');
}

function parseExtensions(item: DerItem | undefined, what: string): Map<string, Uint8Array> {
  const out = new Map<string, Uint8Array>();
  if (!item) return out;
  const outer = inside(item, `${what}: extensions`);
  const list = inside(outer.next(TAG.sequence), `${what}: extensions`);
  outer.end();
  while (!list.done) {
    const e = inside(list.next(TAG.sequence), `${what}: extension`);
    const oid = oidToString(e.next(TAG.oid));
    e.optional(TAG.boolean);
    const value = e.next(TAG.octetString);
    e.end();
    if (out.has(oid)) throw new MeasureError('malformed', `${what}: extension ${oid} twice`, value.offset);
    out.set(oid, value.content);
  }
  return out;
}

/**
 * Certificates from PEM text (NUL padding and text between blocks tolerated) or concatenated DER, in the given order.
 * Errors: `certificate` (none, too many), `malformed`, `limit`.
 */
export function parseCertificates(data: Uint8Array | string): Certificate[] {
  if (data.length > MAX_CHAIN_BYTES)
    throw new MeasureError('limit', `certificate chain: ${data.length} bytes, at most ${MAX_CHAIN_BYTES}`);
  const bytes =
    typeof data === 'string' ? Buffer.from(data, 'latin1') : Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const ders: Uint8Array[] = [];
  if (bytes[0] === TAG.sequence) {
    const r = new DerReader(bytes, 'certificate chain');
    while (!r.done && r.peekTag() === TAG.sequence) {
      ders.push(r.next().raw);
      if (ders.length > MAX_CHAIN) break;
    }
  } else {
    const pem = /-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----/g;
    for (const m of bytes.toString('latin1').matchAll(pem))
      ders.push(new Uint8Array(Buffer.from(m[1] ?? '', 'base64')));
  }
  if (ders.length === 0 || ders.length > MAX_CHAIN) {
    throw new MeasureError(
      'certificate',
      `certificate chain: ${ders.length === 0 ? 'no' : 'more than 6'} certificates, expected 1 to ${MAX_CHAIN}`,
    );
  }
  return ders.map(parseCertificate);
}

/** Puts a chain leaf first, root last, whatever order it came in. Error `certificate` when it is not one chain. */
export function orderChain(certificates: readonly Certificate[]): Certificate[] {
  const unique = certificates.filter((c, i) => certificates.findIndex((d) => equalBytes(d.der, c.der)) === i);
  const leaf = unique.filter((c) => !unique.some((d) => d !== c && equalBytes(d.issuer, c.subject)));
  const first = leaf[0];
  if (!first || leaf.length !== 1)
    throw new MeasureError('certificate', `certificate chain: ${leaf.length} leaves, expected one`);
  const chain = [first];
  for (let c = first; !equalBytes(c.issuer, c.subject); ) {
    const next = unique.find((d) => equalBytes(d.subject, c.issuer));
    if (!next || chain.includes(next)) break;
    chain.push(next);
    c = next;
  }
  if (chain.length !== unique.length)
    throw new MeasureError('certificate', 'certificate chain: some certificates do not belong to it');
  return chain;
}

export interface TrustAnchor {
  /** Uncompressed P-256 point of the root's key, 65 bytes. */
  readonly point: Uint8Array;
}

/** An anchor from a root certificate (PEM or DER). Errors as parseCertificates. */
export function trustAnchor(root: Uint8Array | string): TrustAnchor {
  const [certificate, ...more] = parseCertificates(root);
  if (!certificate || more.length > 0) throw new MeasureError('certificate', 'trust root: expected one certificate');
  return { point: certificate.point };
}

export interface Crl {
  readonly issuer: Uint8Array;
  readonly thisUpdate: number;
  readonly nextUpdate: number;
  readonly revoked: ReadonlySet<string>;
  readonly signed: Uint8Array;
  readonly signature: Uint8Array;
}

/** A revocation list from DER, PEM or the hexadecimal text that PCS answers. Errors: `malformed`, `certificate`, `limit`. */
export function parseCrl(data: Uint8Array | string): Crl {
  const der = crlDer(data);
  const r = new DerReader(der, 'CRL');
  const outer = inside(r.next(TAG.sequence), 'CRL');
  r.end();
  const tbsItem = outer.next(TAG.sequence);
  requireEcdsaSha256(outer.next(TAG.sequence), 'CRL');
  const bits = outer.next(TAG.bitString);
  if (bits.content[0] !== 0) throw new MeasureError('malformed', 'CRL: signature with unused bits', bits.offset);
  outer.end();
  const tbs = inside(tbsItem, 'CRL body');
  if (derUint(tbs.next(TAG.integer), 'CRL version') !== 1) throw new MeasureError('unsupported', 'CRL: not version 2');
  requireEcdsaSha256(tbs.next(TAG.sequence), 'CRL body');
  const issuer = tbs.next(TAG.sequence).raw;
  const [thisUpdate, nextUpdate] = [derTime(tbs.next()), derTime(tbs.next())];
  const revoked = new Set<string>();
  const entries = tbs.optional(TAG.sequence);
  if (entries) {
    const list = inside(entries, 'CRL entries');
    while (!list.done) {
      const e = inside(list.next(TAG.sequence), 'CRL entry');
      revoked.add(serialHex(e.next(TAG.integer)));
      derTime(e.next());
      const extensions = e.optional(TAG.sequence);
      e.end();
      checkEntryExtensions(extensions);
      if (revoked.size > MAX_CRL_ENTRIES) throw new MeasureError('limit', `CRL: more than ${MAX_CRL_ENTRIES} entries`);
    }
  }
  const extensions = parseExtensions(tbs.optional(0xa0), 'CRL');
  tbs.end();
  for (const oid of [OID_DELTA_CRL, OID_ISSUING_POINT]) {
    if (extensions.has(oid))
      throw new MeasureError('unsupported', 'CRL: a partial list (delta or distribution point) does not decide');
  }
  return { issuer, thisUpdate, nextUpdate, revoked, signed: tbsItem.raw, signature: bits.content.subarray(1) };
}

/** Only the reason code may qualify an entry: anything else could mean that it is not for this issuer. */
function checkEntryExtensions(item: DerItem | undefined): void {
  if (!item) return;
  const list = inside(item, 'CRL entry extensions');
  while (!list.done) {
    const oid = oidToString(inside(list.next(TAG.sequence), 'CRL entry extension').next(TAG.oid));
    if (oid !== OID_CRL_REASON) throw new MeasureError('unsupported', `CRL: entry extension ${oid}`, item.offset);
  }
}

function crlDer(data: Uint8Array | string): Uint8Array {
  if (data.length > MAX_CRL_BYTES)
    throw new MeasureError('limit', `CRL: ${data.length} bytes, at most ${MAX_CRL_BYTES}`);
  if (typeof data !== 'string' && data[0] === TAG.sequence) return data;
  const text = (typeof data === 'string' ? data : Buffer.from(data).toString('latin1')).trim();
  const pem = /-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----/.exec(text);
  return pem ? new Uint8Array(Buffer.from(pem[1] ?? '', 'base64')) : fromHex(text, 'CRL');
}

export interface ChainOptions {
  readonly anchor: TrustAnchor;
  /** Time of the judgement, milliseconds since 1970. */
  readonly at: number;
  /** Revocation lists; each issuer in the chain that has one here must have signed it. */
  readonly crls: readonly Crl[];
  readonly what: string;
  /** The error of an expired certificate: of the quote, or of collateral that can be fetched anew. */
  readonly expired?: 'certificate' | 'collateral';
}

/**
 * Checks a chain, leaf first: signatures, CA flags, validity at a time, revocation, and that the last certificate's key is
 * the pinned root's. Every CA of the chain must have a list among `crls`. Errors: `certificate`; `collateral` for a list that is missing or
 * expired; `usage` for a time that is none.
 */
export function verifyChain(chain: readonly Certificate[], options: ChainOptions): void {
  const { anchor, at, crls, what, expired = 'certificate' } = options;
  // NaN, as Date.parse gives for what is no time, is neither before nor after anything: nothing would ever be expired.
  if (!(Math.abs(at) <= MAX_TIME)) throw new MeasureError('usage', `${what}: judged at ${at}, which is not a time`);
  const fail: (message: string) => never = (message) => {
    throw new MeasureError('certificate', `${what}: ${message}`);
  };
  const root = chain[chain.length - 1];
  if (!root || !equalBytes(root.point, anchor.point)) fail('the chain does not end at the trusted root');
  for (const [i, c] of chain.entries()) {
    const name = c.x509.subject.replaceAll('\n', ', ');
    if (at < c.notBefore || at > c.notAfter)
      throw new MeasureError(
        expired,
        `${what}: "${name}" is valid ${isoTime(c.notBefore)} to ${isoTime(c.notAfter)}, judged at ${isoTime(at)}`,
      );
    const issuer = chain[i + 1] ?? c;
    if (!equalBytes(c.issuer, issuer.subject)) fail(`"${name}" was not issued by the next certificate`);
    if (!isSignedBy(c, issuer)) fail(`the signature of "${name}" does not verify`);
    if (i > 0 && !c.x509.ca) fail(`"${name}" is not a CA`);
    const crl = crls.find((l) => equalBytes(l.issuer, issuer.subject));
    if (!crl) throw new MeasureError('collateral', `${what}: no revocation list of the issuer of "${name}"`);
    verifyCrl(crl, issuer, at, what);
    if (crl.revoked.has(c.serial)) fail(`"${name}" (serial ${c.serial}) is revoked`);
  }
}

function isSignedBy(c: Certificate, issuer: Certificate): boolean {
  const issuers = signedBy.get(c) ?? new WeakSet<Certificate>();
  if (issuers.has(issuer)) return true;
  if (!c.x509.verify(issuer.key)) return false;
  signedBy.set(c, issuers.add(issuer));
  return true;
}

/** Lists whose signature was seen to verify, and under which key: one list serves several chains. */
const signedLists = new WeakMap<Crl, Certificate>();

function verifyCrl(crl: Crl, issuer: Certificate, at: number, what: string): void {
  const good = signedLists.get(crl) === issuer || verify('sha256', crl.signed, issuer.key, crl.signature);
  if (good) signedLists.set(crl, issuer);
  else throw new MeasureError('certificate', `${what}: the revocation list's signature does not verify`);
  if (at < crl.thisUpdate || at > crl.nextUpdate) {
    throw new MeasureError(
      'collateral',
      `${what}: the revocation list is valid ${isoTime(crl.thisUpdate)} to ${isoTime(crl.nextUpdate)}, judged at ${isoTime(at)}`,
    );
  }
}

export function isoTime(ms: number): string {
  return new Date(ms).toISOString().replace('.000Z', 'Z');
}

/** ECDSA with SHA-256 by a certificate's key; the signature as r || s, 64 bytes big endian. */
export function verifySignature(signer: Certificate, data: Uint8Array, signature: Uint8Array): boolean {
  return verify('sha256', data, { key: signer.key, dsaEncoding: 'ieee-p1363' }, signature);
}

/** The same by a bare key, x || y, 64 bytes big endian. False too when it is no point of the curve. */
export function verifyP256(key: Uint8Array, data: Uint8Array, signature: Uint8Array): boolean {
  try {
    const point = {
      kty: 'EC',
      crv: 'P-256',
      x: Buffer.from(key.subarray(0, 32)).toString('base64url'),
      y: Buffer.from(key.subarray(32)).toString('base64url'),
    };
    return verify(
      'sha256',
      data,
      { key: createPublicKey({ key: point, format: 'jwk' }), dsaEncoding: 'ieee-p1363' },
      signature,
    );
  } catch {
    return false; // not a point on the curve
  }
}

export interface PckTcb {
  readonly ppid: Uint8Array;
  readonly components: readonly number[];
  readonly pceSvn: number;
  readonly cpuSvn: Uint8Array;
  readonly pceId: Uint8Array;
  readonly fmspc: Uint8Array;
}

/** The SGX extension of a PCK certificate. Errors: `certificate` when it is absent or incomplete, `malformed`. */
export function parsePckExtension(certificate: Certificate): PckTcb {
  const value = certificate.extensions.get(OID_SGX);
  if (!value) throw new MeasureError('certificate', 'PCK certificate: no SGX extension; is this a PCK certificate?');
  const fields = sgxFields(value, OID_SGX);
  const bytes = (n: number, length: number): Uint8Array => {
    const item = fields.get(n);
    if (item?.tag !== TAG.octetString || item.content.length !== length) {
      throw new MeasureError('certificate', `PCK certificate: SGX extension field ${n} is not ${length} bytes`);
    }
    return item.content;
  };
  const tcbItem = fields.get(2);
  if (tcbItem?.tag !== TAG.sequence)
    throw new MeasureError('certificate', 'PCK certificate: SGX extension without TCB');
  const tcb = sgxFields(tcbItem.raw, `${OID_SGX}.2`);
  const svn = (n: number): number => {
    const item = tcb.get(n);
    if (item?.tag !== TAG.integer)
      throw new MeasureError('certificate', `PCK certificate: TCB component ${n} is missing`);
    return derUint(item, `TCB component ${n}`);
  };
  const cpuSvn = tcb.get(18);
  if (cpuSvn?.tag !== TAG.octetString || cpuSvn.content.length !== 16)
    throw new MeasureError('certificate', 'PCK certificate: CPUSVN is not 16 bytes');
  return {
    ppid: bytes(1, 16),
    components: Array.from({ length: 16 }, (_, i) => svn(i + 1)),
    pceSvn: svn(17),
    cpuSvn: cpuSvn.content,
    pceId: bytes(3, 2),
    fmspc: bytes(4, 6),
  };
}

/** SEQUENCE OF SEQUENCE { OID below `prefix`, value }, by the OID's last arc. */
function sgxFields(der: Uint8Array, prefix: string): Map<number, DerItem> {
  const r = new DerReader(der, 'SGX extension');
  const list = inside(r.next(TAG.sequence), 'SGX extension');
  r.end();
  const out = new Map<number, DerItem>();
  while (!list.done) {
    const e = inside(list.next(TAG.sequence), 'SGX extension field');
    const item = e.next(TAG.oid);
    const oid = oidToString(item);
    const value = e.next();
    e.end();
    const last = Number(oid.slice(prefix.length + 1));
    if (!oid.startsWith(`${prefix}.`) || !Number.isInteger(last))
      throw new MeasureError('malformed', `SGX extension: unexpected OID ${oid}`, item.offset);
    if (out.has(last)) throw new MeasureError('malformed', `SGX extension: ${oid} twice`, item.offset);
    out.set(last, value);
  }
  return out;
}

// SPDX-License-Identifier: Apache-2.0
//
// Reference values: what a TD must report, written down before it runs, and the comparison of a verified quote with them.
// The JSON is canonical (RFC 8785's order and spacing for the types used here), so that a signature over it can be made and
// checked by anyone. docs/attestation.md has the schema in words.

import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign, verify } from 'node:crypto';
import * as z from 'zod/mini';
import { equalBytes, fromHex, toHex } from './bytes.js';
import { MeasureError } from './errors.js';
import { checkEventData } from './event-data.js';
import { parseEventLog, replayEventLog } from './event-log.js';
import { describeIssues, once } from './schema.js';
import { ATTRIBUTE_MIGRATABLE, ATTRIBUTES_OBSERVED, tdAttributes } from './td-report.js';
import type { TcbStatus, Verdict } from './verify.js';

const MAX_REFERENCE_BYTES = 1 << 20;
export const REFERENCE_FORMAT = 'gramine-tdx-reference/1';

const referenceSchema = once(() => {
  const hex48 = z.string().check(z.regex(/^[0-9a-f]{96}$/, 'expected 96 lower-case hexadecimal digits'));
  const hex8 = z.string().check(z.regex(/^[0-9a-f]{16}$/, 'expected 16 lower-case hexadecimal digits'));
  const anyOf = z.optional(z.array(hex48).check(z.minLength(1)));
  const masked = z.optional(z.strictObject({ value: hex8, mask: hex8 }));

  return z.strictObject({
    format: z.literal(REFERENCE_FORMAT),
    /** For people: what was measured. Compared with nothing. */
    about: z.optional(z.record(z.string(), z.string())),
    /** Each register may have several good values, such as the MRTDs of both page orders. */
    mrtd: anyOf,
    rtmr0: anyOf,
    rtmr1: anyOf,
    rtmr2: anyOf,
    rtmr3: anyOf,
    mrconfigid: anyOf,
    mrowner: anyOf,
    mrownerconfig: anyOf,
    mrseam: anyOf,
    /** Of TD 1.5 quotes: without it no service TD (such as one that migrates the TD) may be bound. */
    mrservicetd: anyOf,
    /** Big-endian hexadecimal numbers: (value & mask) must equal `value`. */
    attributes: masked,
    xfam: masked,
  });
});

export type ReferenceValues = z.output<ReturnType<typeof referenceSchema>>;

const signedSchema = once(() =>
  z.strictObject({
    reference: referenceSchema(),
    signatures: z.array(
      z.strictObject({
        algorithm: z.enum(['ed25519', 'ecdsa-p256-sha256', 'ecdsa-p384-sha384']),
        key: z.string().check(z.regex(/^[0-9a-f]{64}$/, 'expected 64 lower-case hexadecimal digits')),
        signature: z.base64(),
      }),
    ),
  }),
);

/** Canonical JSON: keys sorted by UTF-16 code units, no white space. For objects, arrays, strings and booleans only. */
export function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).filter(([, v]) => v !== undefined);
    entries.sort(([a], [b]) => (a < b ? -1 : 1));
    return `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${canonicalJson(v)}`).join(',')}}`;
  }
  return JSON.stringify(value);
}

/** A private key in PEM. Errors: `usage`. */
export function signingKey(pem: string | Buffer): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (cause) {
    throw new MeasureError(
      'usage',
      'signing key: not a private key in PEM that can be read without a passphrase',
      undefined,
      { cause },
    );
  }
}

/** The signed form of reference values. `key`: PEM of an Ed25519, P-256 or P-384 private key. Errors: `usage`. */
export function signReference(reference: ReferenceValues, key: string | Buffer): string {
  const k = signingKey(key);
  const { algorithm, digest } = algorithmOf(k);
  const signature = sign(digest, Buffer.from(canonicalJson(reference), 'utf8'), k).toString('base64');
  return canonicalJson({ reference, signatures: [{ algorithm, key: keyId(createPublicKey(k)), signature }] });
}

function algorithmOf(key: KeyObject): {
  algorithm: 'ed25519' | 'ecdsa-p256-sha256' | 'ecdsa-p384-sha384';
  digest: string | null;
} {
  if (key.asymmetricKeyType === 'ed25519') return { algorithm: 'ed25519', digest: null };
  const curve = key.asymmetricKeyDetails?.namedCurve;
  if (key.asymmetricKeyType === 'ec' && curve === 'prime256v1')
    return { algorithm: 'ecdsa-p256-sha256', digest: 'sha256' };
  if (key.asymmetricKeyType === 'ec' && curve === 'secp384r1')
    return { algorithm: 'ecdsa-p384-sha384', digest: 'sha384' };
  throw new MeasureError(
    'usage',
    `key: ${key.asymmetricKeyType ?? 'unknown'} keys are not supported; use Ed25519, P-256 or P-384`,
  );
}

/** SHA-256 of the public key's SubjectPublicKeyInfo, hexadecimal. */
function keyId(key: KeyObject): string {
  return createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest('hex');
}

/**
 * Reads reference values, plain or signed. With `key` (PEM of a public key or certificate) a good signature by it is
 * required. Errors: `malformed`, `limit`, `signature`, `usage`.
 */
export function parseReference(text: string, key?: string | Buffer): ReferenceValues {
  if (text.length > MAX_REFERENCE_BYTES)
    throw new MeasureError('limit', `reference values: ${text.length} characters, at most ${MAX_REFERENCE_BYTES}`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new MeasureError(
      'malformed',
      `reference values: not JSON: ${cause instanceof Error ? cause.message : ''}`,
      undefined,
      { cause },
    );
  }
  const isSigned = typeof value === 'object' && value !== null && 'reference' in value;
  const result = (isSigned ? signedSchema() : referenceSchema()).safeParse(value);
  if (!result.success) {
    throw new MeasureError('malformed', `reference values: ${describeIssues(result.error)}`);
  }
  const data = result.data;
  if (!('reference' in data)) {
    if (key !== undefined)
      throw new MeasureError('signature', 'reference values: not signed, and a signature was asked for');
    return data;
  }
  if (key !== undefined) checkSignature(data, key);
  return data.reference;
}

function checkSignature(data: z.output<ReturnType<typeof signedSchema>>, key: string | Buffer): void {
  let k: KeyObject;
  try {
    k = createPublicKey(key);
  } catch (cause) {
    throw new MeasureError('usage', 'reference key: not a public key or certificate in PEM', undefined, { cause });
  }
  const { algorithm, digest } = algorithmOf(k);
  const message = Buffer.from(canonicalJson(data.reference), 'utf8');
  const id = keyId(k);
  const good = data.signatures.some(
    (s) => s.algorithm === algorithm && s.key === id && verify(digest, message, k, Buffer.from(s.signature, 'base64')),
  );
  if (!good) throw new MeasureError('signature', 'reference values: no signature of the given key verifies');
}

export interface AppraisalOptions {
  readonly reference: ReferenceValues;
  /** What REPORTDATA must be, 64 bytes: a nonce or the hash of a key, zero padded. */
  readonly reportData?: Uint8Array;
  /** The log whose replay must give the quote's registers. */
  readonly eventLog?: Uint8Array;
  /** TCB statuses that are good enough; Revoked never is. Default: UpToDate alone. */
  readonly acceptStatus?: readonly TcbStatus[];
}

export interface AppraisalCheck {
  readonly name: string;
  readonly ok: boolean;
  readonly detail: string;
}

const NO_SERVICE_TD = '00'.repeat(48);
/** The fields of reference values that are compared with the quote's field of the same name. */
export const REGISTERS = [
  'mrtd',
  'rtmr0',
  'rtmr1',
  'rtmr2',
  'rtmr3',
  'mrconfigid',
  'mrowner',
  'mrownerconfig',
  'mrseam',
] as const;

/** Compares a verified quote with what is wanted; every check is in the result, good or not. Errors: those of the log's parser. */
export function appraise(verdict: Verdict, options: AppraisalOptions): AppraisalCheck[] {
  const { reference } = options;
  const { td, reportData, mrSeam } = verdict.quote.body;
  const checks: AppraisalCheck[] = [];
  const check = (name: string, ok: boolean, detail: string): void => {
    checks.push({ name, ok, detail });
  };
  const accepted = options.acceptStatus ?? ['UpToDate'];
  // A revoked platform is nobody's to accept: its keys may be anyone's.
  const isAccepted = verdict.status !== 'Revoked' && accepted.includes(verdict.status);
  check('TCB status', isAccepted, `${verdict.status}; accepted: ${accepted.join(', ')}`);
  const flags = tdAttributes(td.attributes);
  check('not a debug TD', (td.attributes & ATTRIBUTES_OBSERVED) === 0n, flags.names.join(' ') || 'no attribute set');
  check('attributes known', flags.unknown === 0n, `unknown bits 0x${flags.unknown.toString(16)}`);
  const actual: Record<(typeof REGISTERS)[number], Uint8Array> = {
    mrtd: td.mrtd,
    rtmr0: td.rtmrs[0],
    rtmr1: td.rtmrs[1],
    rtmr2: td.rtmrs[2],
    rtmr3: td.rtmrs[3],
    mrconfigid: td.mrConfigId,
    mrowner: td.mrOwner,
    mrownerconfig: td.mrOwnerConfig,
    mrseam: mrSeam,
  };
  for (const name of REGISTERS) {
    const wanted = reference[name];
    if (wanted)
      check(name, wanted.includes(toHex(actual[name])), `is ${toHex(actual[name])}; expected ${wanted.join(' or ')}`);
  }
  const serviceTd = verdict.quote.body.mrServiceTd;
  if (serviceTd || reference.mrservicetd) {
    const wanted = reference.mrservicetd ?? [NO_SERVICE_TD];
    const is = serviceTd ? toHex(serviceTd) : NO_SERVICE_TD;
    check('service TD', wanted.includes(is), `is ${is}; expected ${wanted.join(' or ')}`);
  }
  // A TD 1.0 body does not say which service TD is bound, and the host chooses the body: a TD that can be migrated may then
  // be in the hands of any.
  const named =
    reference.attributes !== undefined && (BigInt(`0x${reference.attributes.mask}`) & ATTRIBUTE_MIGRATABLE) !== 0n;
  if (!serviceTd && (td.attributes & ATTRIBUTE_MIGRATABLE) !== 0n && !named)
    check('not migratable', false, 'MIGRATABLE, and the quote does not say which service TD may move it');
  checkMasked(check, 'attributes', td.attributes, reference.attributes);
  checkMasked(check, 'xfam', td.xfam, reference.xfam);
  if (options.reportData)
    check(
      'report data',
      equalBytes(options.reportData, reportData),
      `is ${toHex(reportData)}; expected ${toHex(options.reportData)}`,
    );
  if (options.eventLog) {
    const log = parseEventLog(options.eventLog);
    const lies = log.events.filter((e) => checkEventData(e) === 'mismatch');
    check(
      'event log data',
      lies.length === 0,
      lies.length === 0
        ? 'what can be hashed again agrees with the digests'
        : `not what was measured: ${lies
            .map((e) => `event ${e.index} (${e.typeName})`)
            .slice(0, 5)
            .join(', ')}`,
    );
    const replayed = replayEventLog(log);
    for (const [i, value] of replayed.entries())
      check(
        `event log gives rtmr${i}`,
        equalBytes(value, td.rtmrs[i] ?? value.subarray(1)),
        `replays to ${toHex(value)}`,
      );
  }
  return checks;
}

function checkMasked(
  check: (name: string, ok: boolean, detail: string) => void,
  name: string,
  actual: bigint,
  wanted: { value: string; mask: string } | undefined,
): void {
  if (!wanted) return;
  const [value, mask] = [BigInt(`0x${wanted.value}`), BigInt(`0x${wanted.mask}`)];
  check(
    name,
    (actual & mask) === value,
    `is 0x${actual.toString(16)}; expected 0x${wanted.value} under mask 0x${wanted.mask}`,
  );
}

/** 64 bytes of REPORTDATA from up to 64 bytes, zero padded. Error: `usage`. */
export function reportDataOf(data: Uint8Array): Uint8Array {
  if (data.length === 0 || data.length > 64)
    throw new MeasureError('usage', `report data: ${data.length} bytes, expected 1 to 64`);
  const out = new Uint8Array(64);
  out.set(data);
  return out;
}

export function reportDataFromHex(text: string): Uint8Array {
  if (!/^(?:[0-9a-fA-F]{2})*$/.test(text))
    throw new MeasureError(
      'usage',
      `report data: ${JSON.stringify(text.slice(0, 80))} is not hexadecimal digits, two for a byte`,
    );
  return reportDataOf(fromHex(text, 'report data'));
}

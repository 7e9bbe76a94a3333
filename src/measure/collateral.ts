// SPDX-License-Identifier: Apache-2.0
//
// Collateral: what Intel publishes so that a quote can be judged: TCB info, QE identity, revocation lists, and the chains
// that sign them. The signatures cover the JSON text itself, so the text that was signed is the text that is parsed here;
// nothing is re-serialised. Source: Intel PCS API version 4. All of it is hostile until its signature verifies.

import * as z from 'zod/mini';
import { fromHex } from './bytes.js';
import { MeasureError } from './errors.js';
import { describeIssues, once } from './schema.js';
import {
  type Certificate,
  type ChainOptions,
  type Crl,
  isoTime,
  orderChain,
  parseCertificates,
  parseCrl,
  verifyChain,
  verifySignature,
} from './x509.js';

const MAX_JSON_BYTES = 1 << 20; // Intel's are some tens of kilobytes

/** Every status that Intel's TCB levels carry. */
export const TCB_STATUSES = [
  'UpToDate',
  'SWHardeningNeeded',
  'ConfigurationNeeded',
  'ConfigurationAndSWHardeningNeeded',
  'OutOfDate',
  'OutOfDateConfigurationNeeded',
  'Revoked',
] as const;
export type LevelStatus = (typeof TCB_STATUSES)[number];

const schemas = once(() => {
  const hex = (bytes: number) =>
    z.pipe(
      z.string().check(z.regex(new RegExp(`^[0-9a-fA-F]{${2 * bytes}}$`), `expected ${2 * bytes} hexadecimal digits`)),
      z.transform((s: string) => fromHex(s, 'field')),
    );
  const isTime = (s: string): boolean => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(s) && !Number.isNaN(Date.parse(s));
  const time = z.pipe(
    z.string().check(z.refine(isTime, 'not a time like 2025-01-31T00:00:00Z')),
    z.transform((s: string) => Date.parse(s)),
  );
  const natural = z.int().check(z.minimum(0));
  const svn = z.int().check(z.minimum(0), z.maximum(65535));

  const level = <T extends z.ZodMiniType>(tcb: T) =>
    z.object({ tcb, tcbDate: time, tcbStatus: z.enum(TCB_STATUSES), advisoryIDs: z.optional(z.array(z.string())) });
  const enclaveLevels = z.array(level(z.object({ isvsvn: svn })));
  const components = z.array(z.object({ svn })).check(z.length(16));

  const tcbInfo = z.object({
    id: z.literal('TDX'),
    version: z.literal(3),
    issueDate: time,
    nextUpdate: time,
    fmspc: hex(6),
    pceId: hex(2),
    tcbType: z.int(),
    tcbEvaluationDataNumber: natural,
    tdxModule: z.object({ mrsigner: hex(48), attributes: hex(8), attributesMask: hex(8) }),
    tdxModuleIdentities: z.optional(
      z.array(
        z.object({
          id: z.string(),
          mrsigner: hex(48),
          attributes: hex(8),
          attributesMask: hex(8),
          tcbLevels: enclaveLevels,
        }),
      ),
    ),
    tcbLevels: z
      .array(level(z.object({ sgxtcbcomponents: components, pcesvn: svn, tdxtcbcomponents: components })))
      .check(z.minLength(1)),
  });

  const qeIdentity = z.object({
    id: z.literal('TD_QE'),
    version: z.literal(2),
    issueDate: time,
    nextUpdate: time,
    tcbEvaluationDataNumber: natural,
    miscselect: hex(4),
    miscselectMask: hex(4),
    attributes: hex(16),
    attributesMask: hex(16),
    mrsigner: hex(32),
    isvprodid: svn,
    tcbLevels: enclaveLevels.check(z.minLength(1)),
  });
  return { tcbInfo, qeIdentity };
});

export type TcbInfo = z.output<ReturnType<typeof schemas>['tcbInfo']>;
export type QeIdentity = z.output<ReturnType<typeof schemas>['qeIdentity']>;

/** A signed JSON text: exactly the bytes under the signature (r || s, 64 bytes). */
export interface SignedJson {
  readonly text: string;
  readonly signature: Uint8Array;
}

/** Collateral as it was obtained; nothing of it is trusted yet. */
export interface Collateral {
  readonly tcbInfo: SignedJson;
  readonly tcbInfoChain: Uint8Array | string;
  readonly qeIdentity: SignedJson;
  readonly qeIdentityChain: Uint8Array | string;
  /** Revocation lists: the root's, and the PCK CA's. DER, PEM or hexadecimal text. */
  readonly rootCrl: Uint8Array | string;
  readonly pckCrl: Uint8Array | string;
  /** Chain of the PCK CA, for quotes that do not carry their own. */
  readonly pckChain?: Uint8Array | string;
}

/**
 * Takes an answer of the form `{"<name>":{...},"signature":"<hex>"}` apart without re-serialising.
 * Errors: `malformed` (not JSON, other keys, duplicate keys), `limit`.
 */
export function splitSignedJson(answer: string, name: 'tcbInfo' | 'enclaveIdentity'): SignedJson {
  const members = topLevelMembers(answer, name);
  const text = members.get(name);
  const signature = members.get('signature');
  if (text === undefined || signature === undefined || members.size !== 2) {
    throw new MeasureError(
      'malformed',
      `${name}: expected an object with "${name}" and "signature", got keys ${[...members.keys()].join(', ')}`,
    );
  }
  return signedJson(text, parseJson(signature, name), name);
}

/** From a text and its hexadecimal signature. Errors: `malformed`. */
export function signedJson(text: string, signature: unknown, what: string): SignedJson {
  if (typeof signature !== 'string') throw new MeasureError('malformed', `${what}: the signature is not text`);
  return { text, signature: fromHex(signature, `${what}: signature`, 64) };
}

function parseJson(text: string, what: string): unknown {
  if (text.length > MAX_JSON_BYTES)
    throw new MeasureError('limit', `${what}: ${text.length} characters, at most ${MAX_JSON_BYTES}`);
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new MeasureError(
      'malformed',
      `${what}: not JSON: ${cause instanceof Error ? cause.message : String(cause)}`,
      undefined,
      { cause },
    );
  }
}

/** The members of a JSON object as raw text. The text is known to be valid JSON before it is cut up. */
function topLevelMembers(text: string, what: string): Map<string, string> {
  const value = parseJson(text, what);
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new MeasureError('malformed', `${what}: not a JSON object`);
  const out = new Map<string, string>();
  let depth = 0;
  let key: string | undefined;
  let start = -1;
  for (const m of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\]:,]/g)) {
    const token = m[0];
    const opens = token === '{' || token === '[';
    const closes = token === '}' || token === ']';
    if (depth === 1 && key === undefined && token.startsWith('"')) key = JSON.parse(token) as string;
    else if (depth === 1 && token === ':' && start < 0) start = m.index + 1;
    else if (depth === 1 && key !== undefined && start >= 0 && (token === ',' || closes)) {
      if (out.has(key)) throw new MeasureError('malformed', `${what}: key ${JSON.stringify(key)} twice`, m.index);
      out.set(key, text.slice(start, m.index).trim());
      key = undefined;
      start = -1;
    }
    if (opens) depth++;
    if (closes) depth--;
  }
  return out;
}

function parseSigned<T extends z.ZodMiniType>(schema: T, json: SignedJson, what: string): z.output<T> {
  const value = parseJson(json.text, what);
  refuseDuplicateKeys(json.text, what);
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new MeasureError('malformed', `${what}: ${describeIssues(result.error)}`);
}

/** JSON.parse keeps the last of two equal keys, other readers the first: such a text means two things. */
function refuseDuplicateKeys(text: string, what: string): void {
  const stack: (Set<string> | null)[] = [];
  let expectKey = false;
  for (const m of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],:]/g)) {
    const token = m[0];
    const top = stack[stack.length - 1];
    if (token === '{') {
      stack.push(new Set());
      expectKey = true;
    } else if (token === '[') {
      stack.push(null);
      expectKey = false;
    } else if (token === '}' || token === ']') {
      stack.pop();
      expectKey = false;
    } else if (token === ',') expectKey = top instanceof Set;
    else if (token === ':') expectKey = false;
    else if (expectKey && top) {
      const key = JSON.parse(token) as string;
      if (top.has(key)) throw new MeasureError('malformed', `${what}: key ${JSON.stringify(key)} twice`, m.index);
      top.add(key);
    }
  }
}

/**
 * Collateral from one JSON file of strings: names as below, CRLs in hexadecimal, as several tools store it and
 * `gramine-tdx-verify --save-collateral` writes it. `what` names the file in messages. Errors: `collateral`.
 */
export function parseCollateral(json: string, what = 'collateral'): Collateral {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    throw new MeasureError('collateral', `${what}: not JSON`, undefined, { cause });
  }
  const fields = new Map(Object.entries(typeof value === 'object' && value !== null ? value : {}));
  const need = (key: string): string => {
    const v: unknown = fields.get(key);
    if (typeof v !== 'string') throw new MeasureError('collateral', `${what}: no text ${JSON.stringify(key)}`);
    return v;
  };
  const signed = (key: string, name: string): SignedJson =>
    readingCollateral(() => signedJson(need(key), need(`${key}_signature`), name));
  return {
    tcbInfo: signed('tcb_info', 'TCB info'),
    tcbInfoChain: need('tcb_info_issuer_chain'),
    qeIdentity: signed('qe_identity', 'QE identity'),
    qeIdentityChain: need('qe_identity_issuer_chain'),
    rootCrl: need('root_ca_crl'),
    pckCrl: need('pck_crl'),
    ...(fields.has('pck_crl_issuer_chain') ? { pckChain: need('pck_crl_issuer_chain') } : {}),
  };
}

/** Reads a part of the collateral: whatever is wrong with its form, nothing was learned of the quote. Error: `collateral`. */
export function readingCollateral<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof MeasureError)) throw error;
    throw new MeasureError('collateral', error.message, undefined, { cause: error });
  }
}

/** What parseCollateral reads. */
export function collateralToJson(c: Collateral): string {
  const hex = (data: Uint8Array): string => Buffer.from(data).toString('hex');
  const text = (data: Uint8Array | string): string =>
    typeof data === 'string' ? data : Buffer.from(data).toString('latin1');
  // DER, or the hexadecimal text that some servers answer: the reader takes either, as hexadecimal of what came.
  const crl = (data: Uint8Array | string): string =>
    typeof data === 'string' ? data : data[0] === 0x30 ? hex(data) : text(data).trim();
  return `${JSON.stringify(
    {
      tcb_info: c.tcbInfo.text,
      tcb_info_signature: hex(c.tcbInfo.signature),
      tcb_info_issuer_chain: text(c.tcbInfoChain),
      qe_identity: c.qeIdentity.text,
      qe_identity_signature: hex(c.qeIdentity.signature),
      qe_identity_issuer_chain: text(c.qeIdentityChain),
      root_ca_crl: crl(c.rootCrl),
      pck_crl: crl(c.pckCrl),
      ...(c.pckChain === undefined ? {} : { pck_crl_issuer_chain: text(c.pckChain) }),
    },
    null,
    2,
  )}\n`;
}

export interface VerifiedCollateral {
  readonly tcbInfo: TcbInfo;
  readonly qeIdentity: QeIdentity;
  readonly crls: readonly Crl[];
  readonly pckChain: readonly Certificate[] | undefined;
}

/**
 * Checks every signature, chain, revocation and validity period of the collateral at one time.
 * Errors: `certificate`, `signature`, `collateral` (malformed, expired or not yet valid).
 */
export function verifyCollateral(c: Collateral, options: Pick<ChainOptions, 'anchor' | 'at'>): VerifiedCollateral {
  const crls = [c.rootCrl, c.pckCrl].map((list) => readingCollateral(() => parseCrl(list)));
  const check = (json: SignedJson, chain: Uint8Array | string, what: string): void => {
    const certificates = readingCollateral(() => orderChain(parseCertificates(chain)));
    verifyChain(certificates, { ...options, crls, what: `${what} signing chain`, expired: 'collateral' });
    const signer = certificates[0];
    // The root signs the signer of collateral itself. A platform's certificate leads to the root too: whoever got a
    // platform's key out must not be able to write that platform's TCB info.
    if (certificates.length !== 2 || signer?.x509.ca !== false) {
      throw new MeasureError(
        'certificate',
        `${what}: its signer must be issued by the root itself and be no CA; the chain has ${certificates.length} certificates`,
      );
    }
    if (!verifySignature(signer, Buffer.from(json.text, 'utf8'), json.signature)) {
      throw new MeasureError('signature', `${what}: the signature does not verify`);
    }
  };
  check(c.tcbInfo, c.tcbInfoChain, 'TCB info');
  check(c.qeIdentity, c.qeIdentityChain, 'QE identity');
  const tcbInfo = readingCollateral(() => parseSigned(schemas().tcbInfo, c.tcbInfo, 'TCB info'));
  const qeIdentity = readingCollateral(() => parseSigned(schemas().qeIdentity, c.qeIdentity, 'QE identity'));
  for (const [what, d] of [
    ['TCB info', tcbInfo],
    ['QE identity', qeIdentity],
  ] as const) {
    if (options.at < d.issueDate || options.at > d.nextUpdate) {
      throw new MeasureError(
        'collateral',
        `${what}: valid ${isoTime(d.issueDate)} to ${isoTime(d.nextUpdate)}, judged at ${isoTime(options.at)}; fetch newer collateral or name the time with --at`,
      );
    }
  }
  const chain = c.pckChain;
  const pckChain = chain === undefined ? undefined : readingCollateral(() => parseCertificates(chain));
  return { tcbInfo, qeIdentity, crls, pckChain };
}

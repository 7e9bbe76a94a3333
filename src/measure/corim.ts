// SPDX-License-Identifier: Apache-2.0
//
// Reference values as CoRIM, the IETF's format for them (draft-ietf-rats-corim, CDDL of 2025): one CoMID whose reference
// triples hold the registers as integrity registers, and TD attributes and XFAM as masked raw values. Signed form: COSE_Sign1
// (RFC 9052). Deterministic CBOR (RFC 8949, 4.2.1). The encoder here is the dialect that CoRIM needs and the launch record
// forbids: tags and integer keys (docs/adr/0020-corim-with-our-own-encoder.md).

import { createHash, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { concatBytes, fromHex } from './bytes.js';
import { MeasureError } from './errors.js';
import { REGISTERS, type ReferenceValues, signingKey } from './reference.js';

type Cbor = number | string | Uint8Array | readonly Cbor[] | ReadonlyMap<number | string, Cbor> | Tagged;
class Tagged {
  constructor(
    readonly tag: number,
    readonly value: Cbor,
  ) {}
}

function head(major: number, n: number): Uint8Array {
  if (n < 24) return Uint8Array.of((major << 5) | n);
  if (n < 0x100) return Uint8Array.of((major << 5) | 24, n);
  if (n < 0x10000) return Uint8Array.of((major << 5) | 25, n >> 8, n & 0xff);
  const b = Buffer.alloc(5);
  b[0] = (major << 5) | 26;
  b.writeUInt32BE(n, 1);
  return b;
}

function encode(v: Cbor): Uint8Array {
  if (typeof v === 'number') return v < 0 ? head(1, -1 - v) : head(0, v);
  if (typeof v === 'string') return concatBytes(head(3, Buffer.byteLength(v)), Buffer.from(v));
  if (v instanceof Uint8Array) return concatBytes(head(2, v.length), v);
  if (v instanceof Tagged) return concatBytes(head(6, v.tag), encode(v.value));
  if (v instanceof Map) {
    const entries = [...v].map(([k, x]) => [encode(k), encode(x)] as const);
    entries.sort(([a], [b]) => Buffer.compare(a, b));
    return concatBytes(head(5, entries.length), ...entries.flat());
  }
  const items = v as readonly Cbor[];
  return concatBytes(head(4, items.length), ...items.map(encode));
}

const map = (entries: readonly (readonly [number | string, Cbor])[]): ReadonlyMap<number | string, Cbor> =>
  new Map(entries);

const TAG = { corim: 501, comid: 506, maskedRawValue: 563, coseSign1: 18 } as const;
const SHA_384 = 7; // IANA, Named Information Hash Algorithm Registry
const INTEGRITY_REGISTERS = 14;
const RAW_VALUE = 4;
const CONTENT_TYPE = 'application/rim+cbor';
const CORIM_REGISTERS = [...REGISTERS, 'mrservicetd'] as const;
/** Beyond this many combinations of alternatives nobody wrote the values by hand. */
const MAX_TRIPLES = 256;

/**
 * Unsigned CoRIM bytes. Alternatives of one register (the MRTDs of both page orders) become reference triples of their own:
 * digests side by side in one triple would all have to match. Errors: `limit`.
 */
export function referenceToCorim(reference: ReferenceValues): Uint8Array {
  let choices: (readonly (readonly [string, string])[])[] = [[]];
  for (const name of CORIM_REGISTERS) {
    const values = reference[name];
    if (values) choices = choices.flatMap((c) => values.map((v) => [...c, [name, v] as const]));
    if (choices.length > MAX_TRIPLES)
      throw new MeasureError('limit', `CoRIM: more than ${MAX_TRIPLES} combinations of register values`);
  }
  const masked = (['attributes', 'xfam'] as const).flatMap((name) => {
    const m = reference[name];
    if (!m) return [];
    const value = new Tagged(TAG.maskedRawValue, [fromHex(m.value, name, 8), fromHex(m.mask, name, 8)]);
    return [
      map([
        [0, name],
        [1, map([[RAW_VALUE, value]])],
      ]),
    ];
  });
  const environment = map([
    [
      0,
      map([
        [1, 'Intel'],
        [2, 'TDX TD'],
      ]),
    ],
  ]);
  const triples = choices.map((choice): Cbor => {
    const registers = choice.map(([name, value]) => [name, [[SHA_384, fromHex(value, name, 48)]]] as const);
    const measured = registers.length > 0 ? [map([[1, map([[INTEGRITY_REGISTERS, map(registers)]])]])] : [];
    return [environment, [...measured, ...masked]];
  });
  const id = createHash('sha256').update(JSON.stringify(reference)).digest('hex');
  const comid = map([
    [1, map([[0, `gramine-tdx:${id}`]])],
    [4, map([[0, triples]])],
  ]);
  return encode(
    new Tagged(
      TAG.corim,
      map([
        [0, `gramine-tdx:${id}`],
        [1, [new Tagged(TAG.comid, encode(comid))]],
      ]),
    ),
  );
}

/** COSE_Sign1 around it. `key`: PEM of an Ed25519, P-256 or P-384 private key; `signer` names it. Errors: `usage`, `limit`. */
export function signCorim(reference: ReferenceValues, key: string | Buffer, signer: string): Uint8Array {
  const k = signingKey(key);
  const { id, hash } = coseAlgorithm(k);
  const keyId = createHash('sha256')
    .update(createPublicKey(k).export({ type: 'spki', format: 'der' }))
    .digest();
  const meta = encode(map([[0, map([[0, signer]])]]));
  const header = encode(
    map([
      [1, id],
      [3, CONTENT_TYPE],
      [4, keyId],
      [8, meta],
    ]),
  );
  const payload = referenceToCorim(reference);
  const toSign = encode(['Signature1', header, new Uint8Array(0), payload]);
  const signature = sign(hash, toSign, { key: k, dsaEncoding: 'ieee-p1363' });
  return encode(new Tagged(TAG.coseSign1, [header, map([]), payload, signature]));
}

/** RFC 9053: EdDSA -8, ES256 -7, ES384 -35. */
function coseAlgorithm(key: KeyObject): { readonly id: number; readonly hash: string | null } {
  if (key.asymmetricKeyType === 'ed25519') return { id: -8, hash: null };
  const curve = key.asymmetricKeyDetails?.namedCurve;
  if (curve === 'prime256v1') return { id: -7, hash: 'sha256' };
  if (curve === 'secp384r1') return { id: -35, hash: 'sha384' };
  throw new MeasureError(
    'usage',
    `key: ${key.asymmetricKeyType ?? 'unknown'} keys are not supported; use Ed25519, P-256 or P-384`,
  );
}

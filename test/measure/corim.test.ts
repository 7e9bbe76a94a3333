// SPDX-License-Identifier: Apache-2.0
import { createPublicKey, generateKeyPairSync, type KeyObject, verify } from 'node:crypto';
import { decode, encode, type Tag } from 'cbor2';
import { describe, expect, it } from 'vitest';
import {
  MeasureError,
  REFERENCE_FORMAT,
  type ReferenceValues,
  referenceToCorim,
  signCorim,
  toHex,
} from '../../src/measure/index.js';

const reference: ReferenceValues = {
  format: REFERENCE_FORMAT,
  mrtd: ['01'.repeat(48), '02'.repeat(48)],
  rtmr0: ['03'.repeat(48)],
  attributes: { value: '0000000010000000', mask: '0000000010000001' },
};
type Items = Map<unknown, unknown>;
const tag = (value: unknown, number: number): unknown => {
  const t = value as Tag;
  expect(t.tag).toBe(number);
  return t.contents;
};
const get = (value: unknown, ...path: readonly unknown[]): unknown =>
  path.reduce<unknown>((v, k) => (Array.isArray(v) ? v[k as number] : (v as Items).get(k)), value);
const read = (bytes: Uint8Array): unknown => decode(bytes, { preferMap: true });

describe('CoRIM', () => {
  it('holds one triple for each alternative, digests as SHA-384, attributes with their mask', () => {
    const corim = tag(read(referenceToCorim(reference)), 501);
    const comid = read(tag(get(corim, 1, 0), 506) as Uint8Array);
    const triples = get(comid, 4, 0) as unknown[];
    const mrtds = triples.map((t) => get(t, 1, 0, 1, 14, 'mrtd', 0));
    expect(mrtds.map((d) => [get(d, 0), toHex(get(d, 1) as Uint8Array)])).toEqual([
      [7, '01'.repeat(48)],
      [7, '02'.repeat(48)],
    ]);
    for (const t of triples) {
      expect(toHex(get(t, 1, 0, 1, 14, 'rtmr0', 0, 1) as Uint8Array)).toBe('03'.repeat(48));
      expect(get(t, 1, 1, 0)).toBe('attributes');
      const [value, mask] = tag(get(t, 1, 1, 1, 4), 563) as [Uint8Array, Uint8Array];
      expect([toHex(value), toHex(mask)]).toEqual(['0000000010000000', '0000000010000001']);
      expect(get(t, 0, 0, 1)).toBe('Intel');
    }
  });

  it('is deterministic CBOR: another encoder writes the same bytes', () => {
    const bytes = referenceToCorim(reference);
    expect(toHex(encode(read(bytes), { cde: true }))).toBe(toHex(bytes));
    expect(toHex(referenceToCorim({ ...reference }))).toBe(toHex(bytes));
  });

  it.each<[string, () => { privateKey: KeyObject; publicKey: KeyObject }, number, string | null]>([
    ['Ed25519', () => generateKeyPairSync('ed25519'), -8, null],
    ['P-256', () => generateKeyPairSync('ec', { namedCurve: 'P-256' }), -7, 'sha256'],
    ['P-384', () => generateKeyPairSync('ec', { namedCurve: 'P-384' }), -35, 'sha384'],
  ])('is signed with %s as COSE_Sign1', (_, make, algorithm, hash) => {
    const { privateKey, publicKey } = make();
    const signed = signCorim(reference, privateKey.export({ type: 'pkcs8', format: 'pem' }) as string, 'release');
    const [header, , payload, signature] = tag(read(signed), 18) as [Uint8Array, unknown, Uint8Array, Uint8Array];
    expect(get(read(header), 1)).toBe(algorithm);
    expect(get(read(header), 3)).toBe('application/rim+cbor');
    expect(get(read(get(read(header), 8) as Uint8Array), 0, 0)).toBe('release');
    expect(toHex(payload)).toBe(toHex(referenceToCorim(reference)));
    const message = encode(['Signature1', header, new Uint8Array(0), payload]);
    const good = (m: Uint8Array) =>
      verify(
        hash,
        m,
        { key: createPublicKey(publicKey.export({ type: 'spki', format: 'pem' })), dsaEncoding: 'ieee-p1363' },
        signature,
      );
    expect(good(message)).toBe(true);
    expect(good(message.map((b, i) => (i === 40 ? b ^ 1 : b)))).toBe(false);
  });

  it('refuses a key of another kind', () => {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
    expect(() => signCorim(reference, pem, 'x')).toThrow(MeasureError);
    expect(() => signCorim(reference, 'no key', 'x')).toThrow(/not a private key/);
  });
});

// SPDX-License-Identifier: Apache-2.0
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type CborValue, decodeCbor, encodeCbor } from '../../src/manifest/index.js';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const fromHex = (text: string) => new Uint8Array(Buffer.from(text.replaceAll(' ', ''), 'hex'));

describe('encodeCbor', () => {
  // From RFC 8949, appendix A.
  it.each<[CborValue, string]>([
    [0, '00'],
    [23, '17'],
    [24, '1818'],
    [255, '18ff'],
    [256, '190100'],
    [1000000, '1a000f4240'],
    [1000000000000, '1b000000e8d4a51000'],
    [18446744073709551615n, '1bffffffffffffffff'],
    [-1, '20'],
    [-1000, '3903e7'],
    [-18446744073709551616n, '3bffffffffffffffff'],
    [false, 'f4'],
    [true, 'f5'],
    ['', '60'],
    ['\u00fc', '62c3bc'],
    ['\u{10151}', '64f0908591'],
    [new Uint8Array([1, 2, 3, 4]), '4401020304'],
    [[1, [2, 3], [4, 5]], '8301820203820405'],
    [{ a: 1, b: [2, 3] }, 'a26161016162820203'],
  ])('encodes %o', (value, expected) => {
    expect(hex(encodeCbor(value))).toBe(expected);
  });

  it('sorts keys by their encoded bytes, so shorter ones first', () => {
    expect(hex(encodeCbor({ b: 1, aa: 2, a: 3 }))).toBe('a36161036162016261610 2'.replace(' ', ''));
  });

  it('leaves undefined entries out', () => {
    expect(hex(encodeCbor({ a: undefined, b: 1 }))).toBe('a1616201');
  });

  it.each([[1.5], [Number.NaN], ['\ud800'], [1n << 64n], [null as unknown as CborValue]])('refuses %o', (value) => {
    expect(() => encodeCbor(value)).toThrow();
  });
});

describe('decodeCbor', () => {
  it.each([
    ['a long form of a small integer', '1817'],
    ['an 8-byte form of a 4-byte integer', '1b00000000ffffffff'],
    ['a trailing byte', '0000'],
    ['an empty input', ''],
    ['a cut string', '6261'],
    ['a cut integer', '19ff'],
    ['an indefinite array', '9fff'],
    ['a tag', 'c000'],
    ['a float', 'f93c00'],
    ['null', 'f6'],
    ['text that is not UTF-8', '61ff'],
    ['a map key that is not text', 'a10000'],
    ['a repeated key', 'a2616100616100'],
    ['keys out of order', 'a2616200616100'],
    ['a longer key before a shorter one', 'a262616100616200'],
    ['an array longer than the input', '9bffffffffffffffff'],
    ['a string longer than the input', '5bffffffffffffffff'],
    ['nesting without end', '81'.repeat(4000)],
  ])('refuses %s', (_name, text) => {
    expect(() => decodeCbor(fromHex(text))).toThrow(/offset/);
  });

  it('accepts only what the encoder would write', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 24 }), (bytes) => {
        let value: CborValue;
        try {
          value = decodeCbor(bytes);
        } catch {
          return;
        }
        expect(hex(encodeCbor(value))).toBe(hex(bytes));
      }),
      { numRuns: 3000 },
    );
  });

  it('returns what was encoded', () => {
    const { value } = fc.letrec<{ value: CborValue }>((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.maxSafeInteger(),
        fc.boolean(),
        fc.string({ unit: 'grapheme' }),
        fc.uint8Array(),
        fc.array(tie('value')),
        fc
          .uniqueArray(fc.tuple(fc.string({ unit: 'grapheme' }), tie('value')), { selector: ([key]) => key })
          .map((entries) => new Map(entries)),
      ),
    }));
    fc.assert(
      fc.property(value, (original) => {
        const bytes = encodeCbor(original);
        expect(hex(encodeCbor(decodeCbor(bytes)))).toBe(hex(bytes));
        if (!(original instanceof Map)) expect(decodeCbor(bytes)).toEqual(original);
      }),
      { numRuns: 300 },
    );
  });
});

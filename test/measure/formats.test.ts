// SPDX-License-Identifier: Apache-2.0
//
// Images, MRTD, TD HOBs, logs, reports and quotes of our own making: what the public vectors cover, in a clone that has
// none of them. MRTD is held to a second implementation, written straight from the rules.

import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  buildEventLog,
  checkTdvf,
  computeMrtd,
  diffEvents,
  type ExpectedEvent,
  eventsAgree,
  eventsFromJson,
  eventsToJson,
  expectedFromLog,
  MeasureError,
  type MrtdOrder,
  parseCcelTable,
  parseEventLog,
  parseQuote,
  parseReference,
  parseTdReport,
  parseTdvf,
  pckPlatform,
  replayEventLog,
  sha384,
  splitSignedJson,
  type TdvfSection,
  tdAttributes,
  tdHobDigest,
  toHex,
  trustAnchor,
  verifyQuote,
  xfam,
} from '../../src/measure/index.js';
import { addMetadata, descriptor, ovmfImage, ovmfSections, pattern } from './firmware.js';
import { smallImage } from './fuzz.js';
import { NOW, TestPki } from './pki.js';

const GIB = 1n << 30n;

function errorOf(f: () => unknown): string {
  try {
    f();
  } catch (error) {
    if (error instanceof MeasureError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'none';
}

/** docs/measurement.md, "MRTD", one update of the hash for each operation. */
function naiveMrtd(image: Uint8Array, sections: readonly TdvfSection[], order: MrtdOrder, zeroFill: boolean): string {
  const h = createHash('sha384');
  const block = (name: string, gpa: bigint) => {
    const b = Buffer.alloc(128);
    b.write(name);
    b.writeBigUInt64LE(gpa, 16);
    h.update(b);
  };
  for (const s of sections) {
    if (s.attributes & 2) continue;
    const pages = Number(s.memoryDataSize) / 4096;
    const extend = (page: number) => {
      for (let chunk = 0; s.attributes & 1 && chunk < 16; chunk++) {
        const at = page * 4096 + chunk * 256;
        block('MR.EXTEND', s.memoryAddress + BigInt(at));
        const content = Buffer.alloc(256);
        const end = zeroFill ? s.dataOffset + s.rawDataSize : image.length;
        Buffer.from(image).copy(content, 0, Math.min(s.dataOffset + at, end), Math.min(s.dataOffset + at + 256, end));
        h.update(content);
      }
    };
    for (let page = 0; page < pages; page++) {
      block('MEM.PAGE.ADD', s.memoryAddress + BigInt(page * 4096));
      if (order === 'page') extend(page);
    }
    if (order === 'section') for (let page = 0; page < pages; page++) extend(page);
  }
  return h.digest('hex');
}

describe('MRTD', () => {
  const image = smallImage();
  const short = (() => {
    // An extended section that is two pages longer in memory than in the file.
    const sections = parseTdvf(image).sections.map((s) => (s.type === 'BFV' ? { ...s, rawDataSize: 0x1f00 } : s));
    return addMetadata(Buffer.from(image), sections);
  })();
  const augmented = addMetadata(Buffer.from(image), [
    ...parseTdvf(image).sections,
    {
      type: 'PermMem',
      dataOffset: 0,
      rawDataSize: 0,
      memoryAddress: 0x1000000n,
      memoryDataSize: 0x2000n,
      attributes: 2,
    },
  ]);

  it.each([
    ['whole', image],
    ['short', short],
    ['augmented', augmented],
  ] as const)('%s: agrees with the rules, in both orders and paddings', (_, bytes) => {
    const { sections } = parseTdvf(bytes);
    for (const order of ['page', 'section'] as const)
      for (const padding of ['image', 'zero'] as const)
        expect(toHex(computeMrtd(bytes, { order, padding }))).toBe(
          naiveMrtd(bytes, sections, order, padding === 'zero'),
        );
    const shifted = new Uint8Array(bytes.length + 1);
    shifted.set(bytes, 1);
    expect(computeMrtd(shifted.subarray(1), { order: 'page' })).toEqual(computeMrtd(bytes, { order: 'page' }));
    expect(computeMrtd(bytes, { order: 'page' })).not.toEqual(computeMrtd(bytes, { order: 'section' }));
  });

  it('depends on padding only where the image is ambiguous, and says where', () => {
    const both = (b: Uint8Array) =>
      (['image', 'zero'] as const).map((padding) => toHex(computeMrtd(b, { order: 'page', padding })));
    expect(new Set(both(image)).size).toBe(1);
    expect(new Set(both(short)).size).toBe(2);
    expect(checkTdvf(parseTdvf(short)).map((f) => f.rule)).toContain('padding-ambiguous');
  });

  it('does not depend on the CFV, and does on every byte of the BFV', () => {
    const digest = (b: Uint8Array) => toHex(computeMrtd(b, { order: 'page' }));
    const change = (at: number) => {
      const b = Buffer.from(image);
      b[at] = (b[at] ?? 0) ^ 1;
      return digest(b);
    };
    expect(change(0x1000)).toBe(digest(image));
    expect(change(0x2000)).not.toBe(digest(image));
    expect(change(image.length - 1)).not.toBe(digest(image));
  });

  it.each<[string, Partial<TdvfSection>, RegExp]>([
    ['a section off a page boundary', { memoryAddress: 0xffff0001n }, /not a multiple of 4096/],
    ['data beyond the image', { dataOffset: 0x5000 }, /give VARS and CODE joined/],
    ['an address beyond 52 bits', { memoryAddress: 0xfffffffffffff000n }, /beyond 52 bits/],
    ['more memory than any TD has', { memoryDataSize: 1n << 40n }, /^limit: .*pages of initial memory/],
    ['more content than any firmware has', { memoryDataSize: 1n << 31n }, /^limit: .*pages whose content is measured/],
  ])('refuses %s', (_, change, message) => {
    const sections = parseTdvf(image).sections.map((s) => (s.type === 'BFV' ? { ...s, ...change } : s));
    expect(errorOf(() => computeMrtd(addMetadata(Buffer.from(image), sections), { order: 'page' }))).toMatch(message);
  });
});

describe('TDVF metadata', () => {
  const image = smallImage();
  const shim = (() => {
    const b = Buffer.from(image);
    b.fill(0, b.length - 96);
    b.writeUInt32LE(b.length - 4096, b.length - 32);
    return b;
  })();
  const tableAt = image.length - 32 - 40;

  it('is found by both locators, with the same MRTD', () => {
    expect(parseTdvf(image)).toMatchObject({ locator: 'guid-table', descriptorOffset: image.length - 4096 });
    expect(parseTdvf(shim)).toMatchObject({ locator: 'offset', descriptorOffset: image.length - 4096 });
    expect(checkTdvf(parseTdvf(shim)).map((f) => `${f.source} ${f.rule}`)).toContain('qemu guid-table');
    expect(parseTdvf(shim).sections).toEqual(parseTdvf(image).sections);
  });

  it.each<[string, (b: Buffer) => unknown, RegExp]>([
    ['a table longer than the image', (b) => b.writeUInt16LE(0xffff, b.length - 50), /length 65535 is not between/],
    ['an entry shorter than its head', (b) => b.writeUInt16LE(4, tableAt + 4), /has length 4/],
    ['an offset beyond the start', (b) => b.writeUInt32LE(b.length + 1, tableAt), /outside the image/],
    [
      'an offset to something else',
      (b) => b.writeUInt32LE(0x1000, tableAt + 0) && b.fill(1, b.length - 4096, b.length - 4092),
      /expected the signature TDVF/,
    ],
    ['another version', (b) => b.writeUInt32LE(2, b.length - 4096 + 8), /version 2/],
    ['a length that contradicts the count', (b) => b.writeUInt32LE(48, b.length - 4096 + 4), /length 48, expected 208/],
    ['ten thousand sections', (b) => b.writeUInt32LE(10_000, b.length - 4096 + 12), /^limit: .*10000 sections/],
    ['an unknown type', (b) => b.writeUInt32LE(99, b.length - 4096 + 16 + 24), /unknown type 99/],
  ])('is refused with %s', (_, change, message) => {
    const b = Buffer.from(image);
    change(b);
    expect(errorOf(() => parseTdvf(b))).toMatch(message);
  });

  const rules = (change: (s: TdvfSection[]) => TdvfSection[]) =>
    checkTdvf(parseTdvf(addMetadata(Buffer.from(image), change([...parseTdvf(image).sections])))).map(
      (f) => `${f.source} ${f.rule}`,
    );
  const set = (type: TdvfSection['type'], change: Partial<TdvfSection>) => (list: TdvfSection[]) =>
    list.map((s) => (s.type === type ? { ...s, ...change } : s));

  it('of OVMF’s shape breaks no rule of QEMU, td-shim or Google Cloud', () => {
    expect(checkTdvf(parseTdvf(ovmfImage()))).toEqual([]);
  });

  it.each<[string, (s: TdvfSection[]) => TdvfSection[]]>([
    ['qemu two-sections', (l) => l.slice(0, 1)],
    ['qemu td-hob', (l) => l.filter((s) => s.type !== 'TD_HOB')],
    ['gce td-hob', (l) => l.filter((s) => s.type !== 'TD_HOB')],
    ['td-shim memory', (l) => l.filter((s) => s.type !== 'TD_HOB')],
    ['td-shim bfv', (l) => l.filter((s) => s.type !== 'BFV')],
    ['td-shim single', (l) => [...l, { ...(l[4] as TdvfSection), memoryAddress: 0x2000000n }]],
    ['qemu volume-has-data', set('CFV', { rawDataSize: 0 })],
    ['qemu no-data', set('TD_HOB', { rawDataSize: 16 })],
    ['qemu raw-fits', set('CFV', { rawDataSize: 0x3000 })],
    ['qemu known-type', set('CFV', { type: 'Payload' })],
    ['td-shim attributes', set('BFV', { attributes: 0 })],
    ['td-shim attributes', set('CFV', { type: 'Payload', attributes: 2 })],
    ['td-shim info-without-memory', set('CFV', { type: 'TdInfo' })],
    ['td-shim info-in-bfv', set('CFV', { type: 'TdParams', memoryAddress: 0n, memoryDataSize: 0n })],
    ['gce sizes-equal', set('CFV', { rawDataSize: 0x1000 })],
    ['gce volumes-cover-image', set('CFV', { rawDataSize: 0x1000 })],
    ['measure no-overlap', set('TD_HOB', { memoryAddress: 0x80b000n })],
    ['measure address-alignment', set('TD_HOB', { memoryAddress: 0x80b010n })],
    ['measure size-alignment', set('TD_HOB', { memoryDataSize: 0x1001n })],
    ['measure address-range', set('TD_HOB', { memoryAddress: 1n << 52n })],
    ['measure data-in-image', set('CFV', { dataOffset: 0x5000 })],
  ])('named check: %s', (rule, change) => {
    expect(rules(change)).toContain(rule);
  });

  it('has a descriptor of 16 bytes and 32 for each section', () => {
    expect(descriptor(ovmfSections()).length).toBe(16 + 32 * 6);
  });
});

describe('TD HOB', () => {
  // Digests that logs of production machines contain, as published.
  it.each([
    [GIB, 'svsm', '2b630fa1d8fa9b6e8c6507d2256803ed227888f7d1f62ca5cfbddfe495338b1c6a0fc339ea64700f0835c0897a662789'],
    [
      2n * GIB,
      'svsm',
      '0e35f1b315ba6c912cf791e5c79dd9d3a2b8704516aa27d4e5aa78fb09ede04aef2bbd02ac7a8734c48562b9c26ba35d',
    ],
    [
      4n * GIB,
      'svsm',
      '02a008e63d55a77823c04a5513a5810d4e592dc41bf2596267c09eae5d4b4e3b329ae614973fb192297d8833d37a08fd',
    ],
    [
      64n * GIB,
      'svsm',
      '519245d8b6b54b48b57143e6647d41e5e6f3b4ef10a73c95be4d9a9c0f54115b707e7af5e38f7be6852229b18573690d',
    ],
    [
      2n * GIB,
      'old',
      '0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821ebaf8bc9c938ba8a749',
    ],
    [
      4n * GIB,
      'old',
      '5b684faf8d02a733945f821d9cdd170802e72103977acf66949c9382500283adc90cbec57f8e7653f8bee1cab83689de',
    ],
    [
      64n * GIB,
      'old',
      '8ae1e425351df7992c444586eff99d35af3b779aa2b0e981cb4b73bc5b279f2ade19b6a62a203fc3c3bbdaae80af596d',
    ],
  ] as const)('qemu, %i bytes, %s temporary memory', (memory, temp, digest) => {
    expect(toHex(tdHobDigest('qemu', memory, ovmfSections(temp)))).toBe(digest);
  });

  it('gce, 16 GiB', () => {
    const sections = ovmfSections('old', 0x20000).map((s) =>
      s.type === 'CFV'
        ? { ...s, memoryAddress: 0xffe00000n }
        : s.type === 'BFV'
          ? { ...s, memoryAddress: 0xffe20000n, memoryDataSize: 0x1e0000n }
          : s,
    );
    expect(toHex(tdHobDigest('gce', 16n * GIB, sections))).toBe(
      '458994daa60deac8dea19dba79748f6ff93fd0aebb8e3e0be5a65eb12309d342c3ce31cc67af7bbd22af1a44e7d9fe21',
    );
  });

  it('refuses memory that no TD has, and firmware without a place for it', () => {
    expect(errorOf(() => tdHobDigest('qemu', 4097n, ovmfSections()))).toMatch(/not a multiple of 4096/);
    expect(errorOf(() => tdHobDigest('qemu', GIB, ovmfSections().slice(0, 2)))).toMatch(/no TD_HOB section/);
    expect(errorOf(() => tdHobDigest('qemu', 8n << 20n, ovmfSections()))).toMatch(/is not in a RAM of 8388608 bytes/);
  });
});

describe('event logs', () => {
  const text = new TextEncoder().encode('Exit Boot Services Invocation');
  const events = [
    { mrIndex: 1, type: 4, digest: sha384(new Uint8Array(4)), data: new Uint8Array(4) },
    { mrIndex: 2, type: 0x80000007, digest: sha384(text), data: text },
    { mrIndex: 1, type: 0xd, digest: sha384(pattern(5)), data: pattern(3) },
  ];
  const log = buildEventLog(events);
  const padded = (fill: number, length: number) => Buffer.concat([log, Buffer.alloc(length, fill)]);

  it.each([
    ['zeros', padded(0, 5000)],
    ['0xFF', padded(0xff, 5000)],
    ['a few bytes of 0xFF', padded(0xff, 3)],
    ['a few zeros', padded(0, 11)],
  ])('are read with %s behind them', (_, bytes) => {
    expect(parseEventLog(bytes).events).toHaveLength(3);
    expect(replayEventLog(parseEventLog(bytes))).toEqual(replayEventLog(parseEventLog(log)));
  });

  it('are refused with anything else behind them', () => {
    expect(errorOf(() => parseEventLog(Buffer.concat([padded(0, 100), Buffer.of(1)])))).toMatch(
      /after the padding began/,
    );
    expect(errorOf(() => parseEventLog(padded(7, 30)))).toMatch(/truncated|malformed/);
  });

  it.each<[string, (b: Buffer) => unknown, RegExp]>([
    ['another signature', (b) => b.write('Spec ID Event02', 32), /Spec ID Event02/],
    ['no SHA-384', (b) => b.writeUInt16LE(0xb, 60) && b.writeUInt16LE(32, 62), /no SHA-384/],
    ['a digest of the wrong size', (b) => b.writeUInt16LE(47, 62), /digests of 47 bytes/],
    ['an unlisted algorithm', (b) => b.writeUInt16LE(0xb, 65 + 12), /not in the header/],
    ['a hundred digests', (b) => b.writeUInt32LE(100, 65 + 8), /100 digests/],
    ['data longer than the log', (b) => b.writeUInt32LE(0x7fffffff, 65 + 14 + 48), /event data needs 2147483647 bytes/],
  ])('are refused with %s', (_, change, message) => {
    const b = Buffer.from(log);
    change(b);
    expect(errorOf(() => parseEventLog(b))).toMatch(message);
  });

  it('do not replay into MRTD or a fifth register', () => {
    for (const mrIndex of [0, 5]) {
      const bad = buildEventLog([{ ...(events[0] as (typeof events)[0]), mrIndex }]);
      expect(errorOf(() => replayEventLog(parseEventLog(bad)))).toMatch(/expected 1 to 4/);
    }
  });

  it('are compared event by event: one more or less does not make the rest look different', () => {
    const expected = expectedFromLog(parseEventLog(log));
    const kinds = (list: readonly ExpectedEvent[]) => diffEvents(list, parseEventLog(log)).map((d) => d.kind);
    expect(kinds(expected)).toEqual(['same', 'same', 'same']);
    expect(kinds(expected.slice(1))).toEqual(['extra', 'same', 'same']);
    const more = { ...(expected[0] as ExpectedEvent), digest: sha384(pattern(1)) };
    expect(kinds([more, ...expected])).toEqual(['missing', 'same', 'same', 'same']);
    const open: ExpectedEvent = { mrIndex: 1, type: 0xd, what: 'boot loader', source: 'unknown' };
    expect(kinds([expected[0] as ExpectedEvent, open])).toEqual(['same', 'open', 'extra']);
    expect(eventsAgree(diffEvents(expected, parseEventLog(log)))).toBe(true);
    const lie = buildEventLog([{ ...(events[0] as (typeof events)[0]), data: pattern(4) }, ...events.slice(1)]);
    expect(eventsAgree(diffEvents(expected, parseEventLog(lie)))).toBe(false);
  });

  it('are compared in bounded time, however long', () => {
    const many = Array.from({ length: 4000 }, (_, i) => ({
      mrIndex: 1,
      type: 0xd,
      digest: sha384(pattern(4, i + 1)),
      data: pattern(4),
    }));
    const found = parseEventLog(buildEventLog([...many].reverse()));
    expect(diffEvents(expectedFromLog(parseEventLog(buildEventLog(many))), found).length).toBeGreaterThan(4000);
  });

  it('keep their expectations in JSON, strictly', () => {
    const expected = [
      ...expectedFromLog(parseEventLog(log)),
      { mrIndex: 2, type: 6, what: 'x', source: 'unknown' as const },
    ];
    expect(eventsFromJson(eventsToJson(expected))).toEqual(expected);
    expect(errorOf(() => eventsFromJson('{"format":"gramine-tdx-events/2","events":[]}'))).toMatch(/format/);
    expect(errorOf(() => eventsFromJson(eventsToJson(expected).replace('"unknown"', '"computed"')))).toMatch(
      /events\.3/,
    );
    expect(errorOf(() => eventsFromJson('no'))).toMatch(/not JSON/);
  });

  it('are found through a CCEL table', () => {
    const table = Buffer.alloc(56);
    table.write('CCEL');
    table.writeUInt32LE(56, 4);
    table[36] = 2;
    table.writeBigUInt64LE(65536n, 40);
    table.writeBigUInt64LE(0x7d000000n, 48);
    table[9] = (256 - (table.reduce((n, x) => n + x, 0) & 0xff)) & 0xff;
    expect(parseCcelTable(table)).toMatchObject({ ccType: 2, logAreaBytes: 65536n, logAreaAddress: 0x7d000000n });
    table[40] = 1;
    expect(errorOf(() => parseCcelTable(table))).toMatch(/checksum/);
  });
});

describe('TDREPORT and quote', () => {
  const report = () => {
    const b = Buffer.alloc(1024);
    b[0] = 0x81;
    b.writeBigUInt64LE(0x10000001n, 512);
    b.fill(5, 528, 576);
    Buffer.from(sha384(b.subarray(256, 495))).copy(b, 32);
    Buffer.from(sha384(b.subarray(512))).copy(b, 80);
    return b;
  };

  it('a report is decoded, and its two hashes checked', () => {
    const r = parseTdReport(report());
    expect([toHex(r.td.mrtd), tdAttributes(r.td.attributes).names]).toEqual([
      '05'.repeat(48),
      ['DEBUG', 'SEPT_VE_DISABLE'],
    ]);
    for (const [at, message] of [
      [300, /TEE_TCB_INFO_HASH/],
      [600, /TEE_INFO_HASH/],
      [0, /type 0x82/],
      [5, /reserved/],
    ] as const) {
      const bad = report();
      bad[at] = (bad[at] ?? 0) ^ 3;
      expect(errorOf(() => parseTdReport(bad))).toMatch(message);
    }
    expect(errorOf(() => parseTdReport(pattern(1024)))).toMatch(/^malformed/);
    expect(errorOf(() => parseTdReport(report().subarray(1)))).toMatch(/^truncated/);
  });

  it('flags have names, and unknown ones are kept apart', () => {
    expect(tdAttributes(0x8000000010000401n)).toMatchObject({
      names: ['DEBUG', 'SEPT_VE_DISABLE', 'PERFMON'],
      unknown: 0x400n,
    });
    expect(xfam(0x600e7n).names).toEqual([
      'X87',
      'SSE',
      'AVX',
      'AVX512_OPMASK',
      'AVX512_ZMM_HI256',
      'AVX512_HI16_ZMM',
      'AMX_TILECFG',
      'AMX_TILEDATA',
    ]);
  });

  const pki = new TestPki();
  const quote = pki.quote();
  const certificationAt = 48 + 584 + 4 + 64 + 64 + 6 + 384 + 64 + 2 + 32;
  const dataAt = certificationAt + 6;

  /** The same quote with other PCK certification data. */
  function certified(type: number, data: Uint8Array): Buffer {
    const head = Buffer.alloc(6);
    head.writeUInt16LE(type, 0);
    head.writeUInt32LE(data.length, 2);
    const q = Buffer.concat([quote.subarray(0, certificationAt), head, data]);
    q.writeUInt32LE(q.length - 48 - 584 - 4, 632);
    q.writeUInt32LE(q.length - 48 - 584 - 4 - 64 - 64 - 6, 632 + 4 + 128 + 2);
    return q;
  }
  const chain = quote.subarray(dataAt).toString('latin1');
  const blocks = chain.match(/-----BEGIN[\s\S]*?-----END CERTIFICATE-----\n/g) ?? [];
  const judge = (q: Uint8Array, collateral = pki.collateral) =>
    errorOf(() =>
      expect(verifyQuote(q, { collateral, at: NOW, anchor: trustAnchor(pki.rootDer) }).status).toBe('UpToDate'),
    );

  it('all kinds of certification data are judged: chain, leaf, encrypted PPID', () => {
    expect(parseQuote(quote).signature.certification.kind).toBe('chain');
    expect(judge(quote)).toBe('none');
    expect(judge(certified(5, Buffer.from([...blocks].reverse().join(''))))).toBe('none');
    const ders = blocks.map((b) => Buffer.from(b.replace(/-----[A-Z ]+-----/g, ''), 'base64'));
    expect(judge(certified(5, Buffer.concat([...ders].reverse())))).toBe('none');
    const [leaf = '', ...rest] = blocks;
    const issuers = { ...pki.collateral, pckChain: rest.join('') };
    expect(judge(certified(4, Buffer.from(leaf)), issuers)).toBe('none');
    for (const type of [1, 2, 3]) {
      expect(judge(certified(type, pattern(404)))).toBe('none');
      const { pckChain: _, ...without } = pki.collateral;
      expect(judge(certified(type, pattern(404)), without)).toMatch(/^collateral: .*encrypted PPID \(type/);
      expect(judge(certified(type, pattern(404)), issuers)).toMatch(/^collateral: .*encrypted PPID \(type/);
      expect(errorOf(() => pckPlatform(parseQuote(certified(type, pattern(404)))))).toMatch(/^collateral: .*no cert/);
    }
    expect(errorOf(() => parseQuote(certified(6, pattern(9))))).toMatch(/certification data type 6/);
    expect(pckPlatform(parseQuote(quote))).toEqual({ fmspc: '00906ed50000', ca: 'platform' });
  });

  it.each<[string, (b: Buffer) => unknown, RegExp]>([
    ['version 3', (b) => b.writeUInt16LE(3, 0), /version 3/],
    ['another key type', (b) => b.writeUInt16LE(3, 2), /attestation key type 3/],
    ['an SGX enclave', (b) => b.writeUInt32LE(0, 4), /TEE type 0x0/],
    ['a signature longer than the quote', (b) => b.writeUInt32LE(0xffffff, 632), /signature data needs/],
    ['certification data of another kind', (b) => b.writeUInt16LE(5, 632 + 4 + 128), /certification data type 5/],
  ])('refuses %s', (_, change, message) => {
    const b = Buffer.from(quote);
    change(b);
    expect(errorOf(() => parseQuote(b))).toMatch(message);
  });
});

describe('inputs far larger than any real one end in the typed error, at once', () => {
  const MIB = 1 << 20;
  const pki = new TestPki();
  const c = pki.collateral;
  const judge = (other: object) =>
    errorOf(() =>
      verifyQuote(pki.quote(), { collateral: { ...c, ...other }, at: NOW, anchor: trustAnchor(pki.rootDer) }),
    );
  it.each<[string, () => string, RegExp]>([
    ['a quote', () => errorOf(() => parseQuote(new Uint8Array(2 * MIB))), /^limit: quote/],
    ['an image', () => errorOf(() => parseTdvf(new Uint8Array(1025 * MIB))), /^limit: image/],
    ['a log', () => errorOf(() => parseEventLog(new Uint8Array(65 * MIB))), /^limit: event log/],
    [
      'a chain',
      () => judge({ tcbInfoChain: '-----BEGIN CERTIFICATE-----'.repeat(MIB) }),
      /^collateral: certificate chain: 2/,
    ],
    ['a CRL', () => judge({ rootCrl: '3'.repeat(17 * MIB) }), /^collateral: CRL: 1/],
    [
      'TCB info',
      () => judge({ tcbInfo: { ...c.tcbInfo, text: `${c.tcbInfo.text}${' '.repeat(MIB)}` } }),
      /^signature: TCB info/,
    ],
    ['signed JSON', () => errorOf(() => splitSignedJson(' '.repeat(2 * MIB), 'tcbInfo')), /^limit: tcbInfo/],
    ['nested JSON', () => errorOf(() => splitSignedJson('['.repeat(MIB), 'tcbInfo')), /^malformed: tcbInfo: not JSON/],
    ['reference values', () => errorOf(() => parseReference(' '.repeat(2 * MIB))), /^limit: reference values/],
    ['expected events', () => errorOf(() => eventsFromJson(' '.repeat(33 * MIB))), /^limit: expected events/],
  ])('%s', (_, attempt, message) => {
    expect(attempt()).toMatch(message);
  });
});

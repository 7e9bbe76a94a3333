// SPDX-License-Identifier: Apache-2.0
import { generateKeyPairSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  appraise,
  buildEventLog,
  type Collateral,
  collateralToJson,
  MeasureError,
  parseCollateral,
  parseEventLog,
  parseQuote,
  parseReference,
  REFERENCE_FORMAT,
  type ReferenceValues,
  replayEventLog,
  reportDataFromHex,
  sha384,
  signReference,
  splitSignedJson,
  type TrustAnchor,
  toHex,
  trustAnchor,
  verifyQuote,
} from '../../src/measure/index.js';
import { orderChain, parseCertificates, parseCrl } from '../../src/measure/x509.js';
import { fuzz, Random } from './fuzz.js';
import { NOW, type PkiOptions, TestPki } from './pki.js';

function judge(pki: TestPki, quote: Uint8Array, collateral: Collateral = pki.collateral, at = NOW) {
  return verifyQuote(quote, { collateral, at, anchor: trustAnchor(pki.rootDer) });
}

function codeOf(f: () => unknown): string {
  try {
    f();
    return 'none';
  } catch (error) {
    if (error instanceof MeasureError) return error.code;
    throw error;
  }
}

it('quotes hostile text so that it cannot write on a terminal', () => {
  const text = '{"\\u001b[2K\\rgramine-tdx-verify: trusted\\u009b":1}';
  expect(() => splitSignedJson(text, 'tcbInfo')).toThrow(/got keys \\u001b\[2K\\rgramine-tdx-verify: trusted\\u009b$/);
});

describe('the verdict', () => {
  const pki = new TestPki();

  it.each([
    [4, 'TD1.0'],
    [5, 'TD1.0'],
    [5, 'TD1.5'],
  ] as const)('accepts a version %i quote with body %s', (version, kind) => {
    expect(judge(pki, pki.quote({ version, kind }))).toMatchObject({
      status: 'UpToDate',
      qeStatus: 'UpToDate',
      moduleStatus: 'UpToDate',
    });
  });

  it.each([Number.NaN, Number.POSITIVE_INFINITY, undefined as unknown as number])(
    'is not given at %s: nothing would ever be expired',
    (at) => {
      const options = { collateral: pki.collateral, at, anchor: trustAnchor(pki.rootDer) };
      expect(codeOf(() => verifyQuote(pki.quote(), options))).toBe('usage');
    },
  );

  it('tolerates trailing bytes and counts them', () => {
    expect(judge(pki, pki.quote({ trailing: Buffer.alloc(70) })).quote.trailingBytes).toBe(70);
  });

  it('refuses the quote of another PKI, and Intel’s root where the quote has ours', () => {
    const other = new TestPki();
    expect(codeOf(() => judge(pki, other.quote()))).toBe('certificate');
    expect(codeOf(() => verifyQuote(pki.quote(), { collateral: pki.collateral, at: NOW }))).toBe('certificate');
  });

  it.each<[string, PkiOptions, string]>([
    ['the PCK certificate revoked', { revokedByPckCa: [4] }, 'certificate'],
    ['the PCK CA revoked', { revokedByRoot: [2] }, 'certificate'],
    ['the TCB signer revoked', { revokedByRoot: [3] }, 'certificate'],
    ['the PCK certificate expired', { pckNotAfter: NOW - 1000 }, 'certificate'],
    ['TCB info expired', { nextUpdate: NOW - 1000 }, 'collateral'],
  ])('refuses with %s', (_, options, code) => {
    const p = new TestPki(options);
    expect(codeOf(() => judge(p, p.quote()))).toBe(code);
  });

  it.each<[string, Partial<Collateral>]>([
    ['the root’s list', { rootCrl: 'no list' }],
    ['the PCK CA’s list', { pckCrl: Buffer.alloc(3, 0x30) }],
    ['the chain of TCB info', { tcbInfoChain: '' }],
    ['the chain of the QE identity', { qeIdentityChain: 'no chain' }],
    ['the PCK chain', { pckChain: Buffer.from([0x30, 0x82]) }],
  ])('learns nothing of the quote when %s is malformed', (_, wrong) => {
    expect(codeOf(() => judge(pki, pki.quote(), { ...pki.collateral, ...wrong }))).toBe('collateral');
  });

  it('learns nothing of the quote from collateral in a form of its own, or whose signer’s certificate has expired', () => {
    const json = JSON.parse(collateralToJson(pki.collateral)) as Record<string, string>;
    expect(codeOf(() => parseCollateral(JSON.stringify({ ...json, tcb_info_signature: 'zz' })))).toBe('collateral');
    expect(() => judge(pki, pki.quote(), pki.collateral, NOW + 50 * 365 * 86_400_000)).toThrow(
      /signing chain: .* is valid/,
    );
    expect(codeOf(() => judge(pki, pki.quote(), pki.collateral, NOW + 50 * 365 * 86_400_000))).toBe('collateral');
  });

  it('refuses collateral that a platform signed, though its certificate leads to the same root', () => {
    const c = pki.collateral;
    const chain = c.pckChain ?? '';
    const by = (other: Partial<Collateral>) => () => judge(pki, pki.quote(), { ...c, ...other });
    expect(by({ tcbInfoChain: chain })).toThrow(/TCB info: its signer must be issued by the root itself/);
    expect(by({ qeIdentityChain: chain })).toThrow(/QE identity: its signer must be issued by the root itself/);
    const ca = String(chain)
      .split(/(?=-----BEGIN)/)
      .slice(1)
      .join('');
    expect(by({ tcbInfoChain: ca })).toThrow(/be no CA/);
  });

  it.each<[PkiOptions, string]>([
    [{ tcbStatus: 'SWHardeningNeeded' }, 'SWHardeningNeeded'],
    [{ tcbStatus: 'ConfigurationNeeded', qeStatus: 'OutOfDate' }, 'OutOfDateConfigurationNeeded'],
    [{ qeStatus: 'OutOfDate' }, 'OutOfDate'],
    [{ qeStatus: 'Revoked' }, 'Revoked'],
    [{ moduleStatus: 'OutOfDate' }, 'OutOfDate'],
  ])('converges %o to %s', (options, status) => {
    const p = new TestPki(options);
    expect(judge(p, p.quote()).status).toBe(status);
  });

  it('advises a relaunch when the module was updated under a running TD', () => {
    expect(
      judge(pki, pki.quote({ version: 5, kind: 'TD1.5', teeTcbSvn: [3, 1, 2], teeTcbSvn2: [5, 1, 2] })).status,
    ).toBe('RelaunchAdvised');
    expect(
      judge(pki, pki.quote({ version: 5, kind: 'TD1.5', teeTcbSvn: [3, 1, 2], teeTcbSvn2: [3, 1, 2] })).status,
    ).toBe('OutOfDate');
  });
});

describe('no mutation is accepted', () => {
  // MUTATIONS=100000 npx vitest run test/measure/verify.test.ts
  const rounds = Number(process.env.MUTATIONS ?? 1000);
  const seed = Number(process.env.SEED ?? 1);
  const pki = new TestPki();
  const anchor: TrustAnchor = trustAnchor(pki.rootDer);
  const data = new Uint8Array(4);
  const action = new TextEncoder().encode('Calling EFI Application from Boot Option');
  const log = buildEventLog([
    { mrIndex: 1, type: 4, digest: sha384(data), data },
    { mrIndex: 2, type: 0x80000007, digest: sha384(action), data: action },
    { mrIndex: 3, type: 4, digest: sha384(data), data },
  ]);
  const rtmrs = replayEventLog(parseEventLog(log));
  const quotes = [pki.quote({ rtmrs }), pki.quote({ version: 5, kind: 'TD1.5', rtmrs })];
  const reference: ReferenceValues = { format: REFERENCE_FORMAT, mrtd: ['01'.repeat(48)] };

  /** What of it was signed, as the verifier understood it; PEM and JSON may be written in more than one way. */
  function content(quote: Uint8Array, c: Collateral): string {
    const q = parseQuote(quote);
    const chain = (pem: Uint8Array | string) => orderChain(parseCertificates(pem)).map((x) => toHex(x.der));
    return JSON.stringify([
      toHex(q.signedBytes),
      toHex(q.signature.attestationKey),
      toHex(q.signature.qeReport.raw),
      toHex(q.signature.qeAuthData),
      chain(q.signature.certification.data),
      ...[c.tcbInfo, c.qeIdentity].map((j) => j.text),
      ...[c.tcbInfoChain, c.qeIdentityChain].map(chain),
      ...[c.rootCrl, c.pckCrl].map((l) => toHex(parseCrl(l).signed)),
    ]);
  }
  const signed = quotes.map((q) => content(q, pki.collateral));

  /** True when it is refused with the typed error, or accepted with exactly what was signed. */
  function safe(quote: Uint8Array, c: Collateral, which: number): boolean {
    try {
      const verdict = verifyQuote(quote, { collateral: c, at: NOW, anchor });
      return appraise(verdict, { reference }).some((x) => !x.ok) || content(quote, c) === signed[which];
    } catch (error) {
      if (error instanceof MeasureError) return true;
      throw error;
    }
  }

  function changed(input: Uint8Array, random: Random): Buffer {
    const b = Buffer.from(input);
    const at = random.below(b.length);
    b[at] = (b[at] ?? 0) ^ (1 + random.below(255));
    return b;
  }

  it('accepts them unchanged', () => {
    for (const q of quotes) expect(judge(pki, q).status).toBe('UpToDate');
    expect(appraise(judge(pki, quotes[0] ?? data), { reference, eventLog: log }).filter((c) => !c.ok)).toEqual([]);
  });

  it('of a byte of a quote', { timeout: 3_600_000 }, () => {
    const random = new Random(seed);
    for (let i = 0; i < rounds * 0.4; i++) {
      const which = i % 2;
      const bad = changed(quotes[which] ?? data, random);
      if (!safe(bad, pki.collateral, which)) expect.fail(`accepted: ${toHex(bad)}`);
    }
  });

  it('of a byte of the collateral', { timeout: 3_600_000 }, () => {
    const random = new Random(seed);
    const c = pki.collateral;
    const quote = quotes[0] ?? data;
    const text = (b: Buffer): string => b.toString('utf8');
    const bytes = (part: Uint8Array | string): Uint8Array => Buffer.from(part as string);
    const changes: readonly (() => Collateral)[] = [
      () => ({ ...c, tcbInfo: { ...c.tcbInfo, text: text(changed(bytes(c.tcbInfo.text), random)) } }),
      () => ({ ...c, tcbInfo: { ...c.tcbInfo, signature: changed(c.tcbInfo.signature, random) } }),
      () => ({ ...c, qeIdentity: { ...c.qeIdentity, text: text(changed(bytes(c.qeIdentity.text), random)) } }),
      () => ({ ...c, qeIdentity: { ...c.qeIdentity, signature: changed(c.qeIdentity.signature, random) } }),
      () => ({ ...c, tcbInfoChain: changed(bytes(c.tcbInfoChain), random) }),
      () => ({ ...c, qeIdentityChain: changed(bytes(c.qeIdentityChain), random) }),
      () => ({ ...c, rootCrl: changed(bytes(c.rootCrl), random) }),
      () => ({ ...c, pckCrl: changed(bytes(c.pckCrl), random) }),
    ];
    for (let i = 0; i < rounds * 0.4; i++) {
      const bad = random.pick(changes)();
      if (!safe(quote, bad, 0)) expect.fail(`accepted: ${JSON.stringify(bad)}`);
    }
  });

  it('of a byte of an event log', { timeout: 3_600_000 }, () => {
    const random = new Random(seed);
    const verdict = judge(pki, quotes[0] ?? data);
    const proven = (l: Uint8Array) =>
      parseEventLog(l).events.map((e) => [e.mrIndex, toHex(e.digest ?? data), toHex(e.data)].join());
    const before = proven(log).join(';');
    for (let i = 0; i < rounds * 0.2; i++) {
      const bad = changed(log, random);
      try {
        const refused = appraise(verdict, { reference, eventLog: bad }).some((x) => !x.ok);
        // Header fields and event types are under no digest: they may change, the digests and the data may not.
        if (!refused) expect(proven(bad).join(';')).toBe(before);
      } catch (error) {
        if (!(error instanceof MeasureError)) throw error;
      }
    }
  });

  it('by cutting it short anywhere', () => {
    for (let n = 0; n < (quotes[0]?.length ?? 0); n += 97)
      expect(codeOf(() => judge(pki, (quotes[0] ?? data).subarray(0, n)))).not.toBe('none');
  });

  it('by a short run of the fuzzer', () => {
    const lines: string[] = [];
    fuzz(2, seed, (line) => lines.push(line));
    expect(lines.at(-1)).toMatch(/inputs, no finding/);
  });
});

describe('the appraisal', () => {
  const pki = new TestPki();
  const data = new TextEncoder().encode('an event');
  const log = buildEventLog([{ mrIndex: 3, type: 6, digest: sha384(data), data }]);
  const rtmrs = replayEventLog(parseEventLog(log));
  const mrtd = sha384(data);
  const reportData = reportDataFromHex('c0ffee');
  const reference: ReferenceValues = {
    format: REFERENCE_FORMAT,
    mrtd: [toHex(mrtd)],
    rtmr2: [toHex(rtmrs[2])],
    attributes: { value: '0000000010000000', mask: '0000000010000001' },
  };
  const failing = (quote: Uint8Array, options = { reference, reportData, eventLog: log }) =>
    appraise(judge(pki, quote), options)
      .filter((c) => !c.ok)
      .map((c) => c.name);

  it('finds nothing to say against a good quote', () => {
    expect(failing(pki.quote({ mrtd, rtmrs, reportData }))).toEqual([]);
  });

  it('names exactly what differs', () => {
    expect(failing(pki.quote({ rtmrs, reportData }))).toEqual(['mrtd']);
    expect(failing(pki.quote({ mrtd, reportData }))).toEqual(['rtmr2', 'event log gives rtmr2']);
    expect(failing(pki.quote({ mrtd, rtmrs }))).toEqual(['report data']);
    expect(failing(pki.quote({ mrtd, rtmrs, reportData, attributes: 0x10000001n }))).toEqual([
      'not a debug TD',
      'attributes',
    ]);
    expect(failing(pki.quote({ mrtd, rtmrs, reportData, attributes: 0x10000400n }))).toEqual(['attributes known']);
  });

  it('refuses a service TD that the reference does not name', () => {
    const mrServiceTd = sha384(data);
    const quote = pki.quote({ version: 5, kind: 'TD1.5', mrtd, rtmrs, reportData, mrServiceTd });
    expect(failing(quote)).toEqual(['service TD']);
    const named = { ...reference, mrservicetd: [toHex(mrServiceTd)] };
    expect(failing(quote, { reference: named, reportData, eventLog: log })).toEqual([]);
    const without = pki.quote({ mrtd, rtmrs, reportData });
    expect(failing(without, { reference: named, reportData, eventLog: log })).toEqual(['service TD']);
  });

  it.each([
    ['HGS_PLUS_PROF', 1n << 4n],
    ['PERF_PROF', 1n << 5n],
    ['PMT_PROF', 1n << 6n],
  ])('refuses a TD that is observed by %s', (_, bit) => {
    expect(failing(pki.quote({ mrtd, rtmrs, reportData, attributes: 0x10000000n | bit }))).toEqual(['not a debug TD']);
  });

  it('refuses a migratable TD whose quote does not say which service TD may move it, unless the reference allows it', () => {
    const attributes = 0x30000000n;
    const quote = pki.quote({ mrtd, rtmrs, reportData, attributes });
    expect(failing(quote)).toEqual(['not migratable']);
    // A TD 1.5 body tells that none is bound.
    expect(failing(pki.quote({ version: 5, kind: 'TD1.5', mrtd, rtmrs, reportData, attributes }))).toEqual([]);
    const allowed = { ...reference, attributes: { value: '0000000030000000', mask: '0000000030000001' } };
    expect(failing(quote, { reference: allowed, reportData, eventLog: log })).toEqual([]);
  });

  it('refuses a TCB status that was not named', () => {
    const p = new TestPki({ tcbStatus: 'SWHardeningNeeded' });
    const verdict = judge(p, p.quote({ mrtd, rtmrs, reportData }));
    expect(appraise(verdict, { reference }).some((c) => c.name === 'TCB status' && !c.ok)).toBe(true);
    expect(appraise(verdict, { reference, acceptStatus: ['UpToDate', 'SWHardeningNeeded'] }).every((c) => c.ok)).toBe(
      true,
    );
  });

  it('refuses a revoked platform, whatever the caller accepts', () => {
    const p = new TestPki({ tcbStatus: 'Revoked' });
    const verdict = judge(p, p.quote({ mrtd, rtmrs, reportData }));
    expect(appraise(verdict, { reference, acceptStatus: ['Revoked'] }).some((c) => !c.ok)).toBe(true);
  });

  it.each(['ed25519', 'ec'] as const)('signs reference values with %s and refuses any other key or change', (type) => {
    const make = () =>
      type === 'ed25519' ? generateKeyPairSync('ed25519') : generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const { privateKey, publicKey } = make();
    const text = signReference(reference, privateKey.export({ type: 'pkcs8', format: 'pem' }) as string);
    const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string;
    expect(parseReference(text, pem)).toEqual(reference);
    const otherPem = make().publicKey.export({ type: 'spki', format: 'pem' }) as string;
    expect(codeOf(() => parseReference(text, otherPem))).toBe('signature');
    const first = reference.mrtd?.[0] ?? '';
    const changed = text.replace(
      first,
      first.replace(/^./, (c) => (c === '0' ? '1' : '0')),
    );
    expect(codeOf(() => parseReference(changed, pem))).toBe('signature');
    expect(codeOf(() => parseReference(JSON.stringify(reference), pem))).toBe('signature');
  });
});

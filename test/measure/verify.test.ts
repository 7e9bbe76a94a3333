// SPDX-License-Identifier: Apache-2.0
import { generateKeyPairSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  appraise,
  buildEventLog,
  type Collateral,
  MeasureError,
  parseEventLog,
  parseReference,
  REFERENCE_FORMAT,
  type ReferenceValues,
  replayEventLog,
  reportDataFromHex,
  sha384,
  signReference,
  type TrustAnchor,
  toHex,
  trustAnchor,
  verifyQuote,
} from '../../src/measure/index.js';
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
  const pki = new TestPki();
  const anchor: TrustAnchor = trustAnchor(pki.rootDer);
  const quote = pki.quote();
  const rounds = Number(process.env.MUTATIONS ?? 200);

  /** The verdict on what must be the same, or the name of the typed error. */
  function outcome(bytes: Uint8Array, collateral: Collateral): string {
    try {
      return verifyQuote(bytes, { collateral, at: NOW, anchor }).status;
    } catch (error) {
      if (error instanceof MeasureError) return error.code;
      throw error;
    }
  }

  it('of a byte of the quote', () => {
    // Of what a verifier believes: everything before the PCK chain's text, where white space and case of PEM may vary.
    const end = quote.indexOf('-----BEGIN');
    for (let i = 0; i < rounds; i++) {
      const at = Math.floor(Math.random() * end);
      const bad = Buffer.from(quote);
      bad[at] = (bad[at] ?? 0) ^ (1 + Math.floor(Math.random() * 255));
      // Header fields that nothing signs do not exist: the signature covers the header too.
      expect(outcome(bad, pki.collateral), `byte ${at}`).not.toBe('UpToDate');
    }
  });

  it('of a byte of the collateral', () => {
    const mutate = (data: Uint8Array | string): Buffer => {
      const b = Buffer.from(data as string);
      const at = Math.floor(Math.random() * b.length);
      b[at] = (b[at] ?? 0) ^ (1 << Math.floor(Math.random() * 8));
      return b;
    };
    const c = pki.collateral;
    for (let i = 0; i < rounds / 3; i++) {
      expect(
        outcome(quote, { ...c, tcbInfo: { ...c.tcbInfo, text: mutate(c.tcbInfo.text).toString('utf8') } }),
      ).not.toBe('UpToDate');
      expect(
        outcome(quote, { ...c, qeIdentity: { ...c.qeIdentity, signature: mutate(c.qeIdentity.signature) } }),
      ).not.toBe('UpToDate');
      expect(outcome(quote, { ...c, rootCrl: mutate(c.rootCrl) })).not.toBe('UpToDate');
      expect(outcome(quote, { ...c, pckCrl: mutate(c.pckCrl) })).not.toBe('UpToDate');
    }
  });

  it('by cutting it short anywhere', () => {
    for (let n = 0; n < quote.length; n += 97)
      expect(outcome(quote.subarray(0, n), pki.collateral)).not.toBe('UpToDate');
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

  it('refuses a TCB status that was not named', () => {
    const p = new TestPki({ tcbStatus: 'SWHardeningNeeded' });
    const verdict = judge(p, p.quote({ mrtd, rtmrs, reportData }));
    expect(appraise(verdict, { reference }).some((c) => c.name === 'TCB status' && !c.ok)).toBe(true);
    expect(appraise(verdict, { reference, acceptStatus: ['UpToDate', 'SWHardeningNeeded'] }).every((c) => c.ok)).toBe(
      true,
    );
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

// SPDX-License-Identifier: Apache-2.0
//
// A second opinion on every quote: @phala/dcap-qvl, an independent implementation. Where the two differ, the row says why;
// a difference that no row explains fails.

import { QuoteVerifier, type Collateral as TheirCollateral } from '@phala/dcap-qvl';
import { describe, expect, it } from 'vitest';
import { type Collateral, MeasureError, trustAnchor, verifyQuote } from '../../src/measure/index.js';
import { parseCertificates } from '../../src/measure/x509.js';
import { NOW, type PkiOptions, type QuoteOptions, TestPki } from './pki.js';
import { dcapQvlCollateral, haveVectors, intelSyntheticCollateral, vector } from './vectors.js';

const hex = (data: Uint8Array | string): string =>
  typeof data === 'string' ? data : Buffer.from(data).toString('hex');
const text = (data: Uint8Array | string): string => Buffer.from(data as string).toString('latin1');

function theirs(quote: Uint8Array, c: Collateral, at: number, root?: Uint8Array): string {
  const collateral: TheirCollateral = {
    pck_crl_issuer_chain: text(c.pckChain ?? ''),
    root_ca_crl: hex(c.rootCrl),
    pck_crl: hex(c.pckCrl),
    tcb_info_issuer_chain: text(c.tcbInfoChain),
    tcb_info: c.tcbInfo.text,
    tcb_info_signature: hex(c.tcbInfo.signature),
    qe_identity_issuer_chain: text(c.qeIdentityChain),
    qe_identity: c.qeIdentity.text,
    qe_identity_signature: hex(c.qeIdentity.signature),
  };
  const verifier = root ? QuoteVerifier.newWithRootCa(Buffer.from(root)) : QuoteVerifier.newProd();
  try {
    return verifier.verify(quote, collateral, Math.floor(at / 1000)).status;
  } catch {
    return 'refused';
  }
}

function ours(quote: Uint8Array, collateral: Collateral, at: number, root?: Uint8Array): string {
  try {
    return verifyQuote(quote, { collateral, at, ...(root ? { anchor: trustAnchor(root) } : {}) }).status;
  } catch (error) {
    if (error instanceof MeasureError) return 'refused';
    throw error;
  }
}

describe.skipIf(!haveVectors)('real quotes, judged by both', () => {
  const QUOTES = [
    'dcapqvl_tdx_quote',
    'dcapqvl_tdx_quote_outdated',
    'dcapqvl_quote-from-tappd',
    'dcapqvl_sgx_quote',
    'dstack_quote-report',
    'gotdx_cos-113-tdx-quote',
    'gotdx_quote_v5_sample',
    'trustee_tdx_quote_4',
    'cctrusted_quote',
    'intelqvl_tdx_synthetic_quote',
  ] as const;
  const TIMES = ['2025-06-01T00:00:00Z', '2025-07-01T00:00:00Z', '2025-08-01T00:00:00Z', '2026-03-01T00:00:00Z'];
  const COLLATERAL = ['tdx_quote_collateral.json', 'tdx_quote_outdated_collateral.json', 'sgx_quote_collateral.json'];

  it.each(QUOTES)('%s, with every collateral at every time', (name) => {
    const quote = vector(`quotes/${name}.bin`);
    const verdicts = COLLATERAL.flatMap((file) =>
      TIMES.map((time) => {
        const [c, at] = [dcapQvlCollateral(file), Date.parse(time)];
        const where = `${file} ${time}`;
        return { where, ours: ours(quote, c, at), theirs: theirs(quote, c, at) };
      }),
    );
    // We judge TDX only: an SGX quote with SGX collateral is theirs alone.
    const differ = verdicts.filter((v) => v.ours !== v.theirs);
    if (name === 'dcapqvl_sgx_quote') expect(differ.every((v) => v.ours === 'refused')).toBe(true);
    else expect(differ).toEqual([]);
    if (name === 'dcapqvl_tdx_quote') expect(verdicts.filter((v) => v.ours === 'UpToDate')).toHaveLength(1);
  });

  it('Intel’s synthetic quote, under its own root', () => {
    const [root] = parseCertificates(vector('collateral/intel-qvl-tdx/trustedRootCaCert.pem'));
    const quote = vector('quotes/intelqvl_tdx_synthetic_quote.bin');
    const at = Date.parse('2024-06-01T00:00:00Z');
    const c = intelSyntheticCollateral();
    expect([ours(quote, c, at, root?.der), theirs(quote, c, at, root?.der)]).toEqual(['refused', 'refused']);
  });
});

describe('quotes of our own PKI, judged by both', () => {
  interface Row {
    readonly what: string;
    readonly pki?: PkiOptions;
    readonly quote?: QuoteOptions;
    readonly ours: string;
    /** Theirs, and why, where they differ. */
    readonly theirs?: readonly [string, string];
    readonly at?: number;
  }
  const MODULE = 'they do not judge the TDX module by its own identity and levels';
  const ATTRIBUTES = 'attributes are policy: the appraisal refuses them, not the verifier';
  const TD15 = { version: 5, kind: 'TD1.5' } as const;
  const rows: readonly Row[] = [
    { what: 'v4', ours: 'UpToDate' },
    { what: 'v5, TD 1.0', quote: { version: 5 }, ours: 'UpToDate' },
    { what: 'v5, TD 1.5', quote: TD15, ours: 'UpToDate' },
    { what: 'trailing bytes', quote: { trailing: Buffer.alloc(70) }, ours: 'UpToDate' },
    { what: 'SWHardeningNeeded', pki: { tcbStatus: 'SWHardeningNeeded' }, ours: 'SWHardeningNeeded' },
    { what: 'ConfigurationNeeded', pki: { tcbStatus: 'ConfigurationNeeded' }, ours: 'ConfigurationNeeded' },
    { what: 'OutOfDate', pki: { tcbStatus: 'OutOfDate' }, ours: 'OutOfDate' },
    {
      what: 'platform revoked',
      pki: { tcbStatus: 'Revoked' },
      ours: 'Revoked',
      theirs: ['refused', 'we return the status, and the appraisal accepts UpToDate alone'],
    },
    {
      what: 'quoting enclave revoked',
      pki: { qeStatus: 'Revoked' },
      ours: 'Revoked',
      theirs: ['refused', 'as above'],
    },
    { what: 'quoting enclave to be hardened', pki: { qeStatus: 'SWHardeningNeeded' }, ours: 'SWHardeningNeeded' },
    { what: 'quoting enclave out of date', pki: { qeStatus: 'OutOfDate' }, ours: 'OutOfDate' },
    {
      what: 'quoting enclave out of date, platform to be configured',
      pki: { qeStatus: 'OutOfDate', tcbStatus: 'ConfigurationNeeded' },
      ours: 'OutOfDateConfigurationNeeded',
      theirs: ['OutOfDate', 'they take the worse of two statuses; Intel’s library has a status for both'],
    },
    { what: 'module out of date', pki: { moduleStatus: 'OutOfDate' }, ours: 'OutOfDate', theirs: ['UpToDate', MODULE] },
    { what: 'module below its newest level', quote: { teeTcbSvn: [1, 1, 2] }, ours: 'OutOfDate' },
    { what: 'module unknown', quote: { teeTcbSvn: [5, 9, 2] }, ours: 'refused', theirs: ['UpToDate', MODULE] },
    {
      what: 'module updated under a running TD',
      quote: { ...TD15, teeTcbSvn: [3, 1, 2], teeTcbSvn2: [5, 1, 2] },
      ours: 'RelaunchAdvised',
      theirs: ['OutOfDate', 'they do not know the statuses that advise a relaunch'],
    },
    { what: 'below every level', quote: { teeTcbSvn: [5, 1, 0] }, ours: 'OutOfDate' },
    { what: 'PCK certificate revoked', pki: { revokedByPckCa: [4] }, ours: 'refused' },
    { what: 'PCK CA revoked', pki: { revokedByRoot: [2] }, ours: 'refused' },
    { what: 'TCB signer revoked', pki: { revokedByRoot: [3] }, ours: 'refused' },
    { what: 'PCK certificate expired', pki: { pckNotAfter: NOW - 1000 }, ours: 'refused' },
    { what: 'TCB info expired', pki: { nextUpdate: NOW - 1000 }, ours: 'refused' },
    { what: 'before everything was issued', ours: 'refused', at: NOW - 400 * 86_400_000 },
    { what: 'a debug TD', quote: { attributes: 0x10000001n }, ours: 'UpToDate', theirs: ['refused', ATTRIBUTES] },
    {
      what: 'an unknown attribute',
      quote: { attributes: 0x10000400n },
      ours: 'UpToDate',
      theirs: ['refused', ATTRIBUTES],
    },
  ];

  it.each(rows.map((r) => [r.what, r] as const))('%s', (_, row) => {
    const pki = new TestPki(row.pki);
    const quote = pki.quote(row.quote);
    const at = row.at ?? NOW;
    const got = [ours(quote, pki.collateral, at, pki.rootDer), theirs(quote, pki.collateral, at, pki.rootDer)];
    expect(got, row.theirs?.[1]).toEqual([row.ours, row.theirs?.[0] ?? row.ours]);
  });
});

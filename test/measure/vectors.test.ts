// SPDX-License-Identifier: Apache-2.0
import { verify } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import {
  asSha384,
  buildEventLog,
  checkEventData,
  computeMrtd,
  equalBytes,
  extend,
  INTEL_ROOT_PUBLIC_KEY,
  MeasureError,
  type MeasureErrorCode,
  parseCcelTable,
  parseEventLog,
  parseQuote,
  parseTdReport,
  pckPlatform,
  replayEventLog,
  sha384,
  splitSignedJson,
  toHex,
  trustAnchor,
  verifyCollateral,
  verifyQuote,
} from '../../src/measure/index.js';
import { orderChain, parseCertificates, parseCrl, verifyP256 } from '../../src/measure/x509.js';
import {
  dcapQvlCollateral,
  haveVectors,
  intelSyntheticCollateral,
  vector,
  vectorFiles,
  vectorText,
} from './vectors.js';

function codeOf(f: () => unknown): MeasureErrorCode | 'none' {
  try {
    f();
  } catch (error) {
    if (error instanceof MeasureError) return error.code;
    throw error;
  }
  return 'none';
}

const rtmrsOf = (log: string) => replayEventLog(parseEventLog(vector(`ccel/${log}`)));
const INTEL_ROOT_X = '0ba9c4c0c0c86193a3fe23d6b02cda10a8bbd4e88e48b4458561a36e70';

describe.skipIf(!haveVectors)('real quotes', () => {
  it.each([
    ['dcapqvl_tdx_quote', 4, 'TD1.0', 70, 'b0c06f000000'],
    ['dcapqvl_tdx_quote_outdated', 5, 'TD1.5', 0, '90c06f000000'],
    ['dcapqvl_quote-from-tappd', 4, 'TD1.0', 70, undefined],
    ['dstack_quote-report', 4, 'TD1.0', 70, '90c06f000000'],
    ['gotdx_cos-113-tdx-quote', 4, 'TD1.0', 3065, '00806f050000'],
    ['gotdx_quote_v5_sample', 5, 'TD1.5', 0, undefined],
    ['trustee_tdx_quote_4', 4, 'TD1.0', 0, undefined],
  ] as const)('%s: every signature verifies to the Intel root', (name, version, kind, trailing, fmspc) => {
    const q = parseQuote(vector(`quotes/${name}.bin`));
    expect([q.header.version, q.body.kind, q.trailingBytes]).toEqual([version, kind, trailing]);
    if (fmspc) expect(pckPlatform(q).fmspc).toBe(fmspc);
    const chain = orderChain(parseCertificates(q.signature.certification.data));
    expect(toHex(chain.at(-1)?.point ?? new Uint8Array())).toContain(INTEL_ROOT_X);
    for (const [i, c] of chain.entries()) expect(c.x509.verify((chain[i + 1] ?? c).key)).toBe(true);
    const s = q.signature;
    expect(verifyP256(chain[0]?.point.subarray(1) ?? new Uint8Array(64), s.qeReport.raw, s.qeReportSignature)).toBe(
      true,
    );
    expect(verifyP256(s.attestationKey, q.signedBytes, s.signature)).toBe(true);
  });

  it('dcapqvl_tdx_quote is UpToDate inside its collateral’s validity and refused outside', () => {
    const quote = vector('quotes/dcapqvl_tdx_quote.bin');
    const collateral = dcapQvlCollateral('tdx_quote_collateral.json');
    const verdict = verifyQuote(quote, { collateral, at: Date.parse('2025-07-01T00:00:00Z') });
    expect(verdict).toMatchObject({
      status: 'UpToDate',
      qeStatus: 'UpToDate',
      moduleStatus: 'UpToDate',
      fmspc: 'b0c06f000000',
    });
    for (const at of ['2025-06-18T00:00:00Z', '2025-07-20T00:00:00Z']) {
      expect(['collateral', 'certificate']).toContain(
        codeOf(() => verifyQuote(quote, { collateral, at: Date.parse(at) })),
      );
    }
  });

  it('dcapqvl_tdx_quote_outdated matches no TCB level', () => {
    const quote = vector('quotes/dcapqvl_tdx_quote_outdated.bin');
    const collateral = dcapQvlCollateral('tdx_quote_outdated_collateral.json');
    expect(() => verifyQuote(quote, { collateral, at: Date.parse('2026-03-01T00:00:00Z') })).toThrow(
      /no TCB level matches: platform components \d+ \d+ \d+ \d+ \d+ \d+ \d+ 3 /,
    );
    expect(parseQuote(quote).body.td.rtmrs.every((r) => r.every((b) => b === 0))).toBe(true);
  });

  it('refuses a quote with the collateral of another platform', () => {
    const collateral = dcapQvlCollateral('tdx_quote_outdated_collateral.json');
    const quote = vector('quotes/dcapqvl_tdx_quote.bin');
    expect(codeOf(() => verifyQuote(quote, { collateral, at: Date.parse('2026-03-01T00:00:00Z') }))).toBe('collateral');
  });

  it('cctrusted_quote: signatures hold, but its chain ends in another root', () => {
    const q = parseQuote(vector('quotes/cctrusted_quote.bin'));
    const chain = orderChain(parseCertificates(q.signature.certification.data));
    expect(toHex(chain.at(-1)?.point ?? new Uint8Array())).not.toContain(INTEL_ROOT_X);
    expect(verifyP256(q.signature.attestationKey, q.signedBytes, q.signature.signature)).toBe(true);
    const collateral = dcapQvlCollateral('tdx_quote_collateral.json');
    expect(
      codeOf(() =>
        verifyQuote(vector('quotes/cctrusted_quote.bin'), { collateral, at: Date.parse('2025-07-01T00:00:00Z') }),
      ),
    ).toBe('certificate');
  });

  it('Intel’s synthetic quote: DER chain root first; its own root carries it up to the random module SVN', () => {
    const bytes = vector('quotes/intelqvl_tdx_synthetic_quote.bin');
    const collateral = intelSyntheticCollateral();
    const at = Date.parse('2022-01-01T00:00:00Z');
    expect(codeOf(() => verifyQuote(bytes, { collateral, at }))).toBe('certificate');
    const anchor = trustAnchor(vectorText('collateral/intel-qvl-tdx/trustedRootCaCert.pem'));
    // Its TEE_TCB_SVN is random, and no collateral describes a module TDX_C1: the library's rules stop there too.
    expect(() => verifyQuote(bytes, { collateral, at, anchor })).toThrow(/no identity for the TDX module TDX_C1/);
    const q = parseQuote(bytes);
    expect(verifyP256(q.signature.attestationKey, q.signedBytes, q.signature.signature)).toBe(true);
  });

  it('an SGX quote is unsupported, and a nonce is the report data it was asked for', () => {
    expect(codeOf(() => parseQuote(vector('quotes/dcapqvl_sgx_quote.bin')))).toBe('unsupported');
    const q = parseQuote(vector('quotes/gotdx_cos-113-tdx-quote.bin'));
    expect(equalBytes(q.body.reportData, vector('quotes/gotdx_cos-113-nonce.bin'))).toBe(true);
  });
});

describe.skipIf(!haveVectors)('real event logs', () => {
  it('replays to the registers of the quotes taken with them', () => {
    const cos = parseQuote(vector('quotes/gotdx_cos-113-tdx-quote.bin')).body.td.rtmrs;
    expect(rtmrsOf('gotdx_cos-113_ccel_data.bin').map(toHex)).toEqual(cos.map(toHex));
    const tappd = parseQuote(vector('quotes/dcapqvl_quote-from-tappd.bin')).body.td.rtmrs;
    expect(toHex(rtmrsOf('dstack_ccel.bin')[0])).toBe(toHex(tappd[0]));
    const [r0, r1] = parseQuote(vector('quotes/cctrusted_quote.bin')).body.td.rtmrs;
    const cc = rtmrsOf('cctrusted_ccel_data.bin');
    expect([toHex(cc[0]), toHex(cc[1])]).toEqual([toHex(r0), toHex(r1)]);
  });

  it.each(['gotdx_cos-113_ccel_data', 'dstack_ccel', 'cctrusted_ccel_data', 'trustee_CCEL_data'])(
    '%s: no event data contradicts its digest',
    (name) => {
      const log = parseEventLog(vector(`ccel/${name}.bin`));
      expect(log.events.length).toBeGreaterThan(0);
      expect(log.events.filter((e) => checkEventData(e) === 'mismatch')).toEqual([]);
    },
  );

  it('the td-shim log measures its command line padded with zeros', () => {
    const padded = new Uint8Array(4096);
    padded.set(new TextEncoder().encode('root=/dev/vda1 console=hvc0 rw'));
    const digests = parseEventLog(vector('ccel/trustee_CCEL_data.bin')).events.map((e) => e.digest && toHex(e.digest));
    expect(digests).toContain(toHex(sha384(padded)));
  });

  it('reads the CCEL table', () => {
    expect(parseCcelTable(vector('ccel/gotdx_cos-113_ccel_table.bin'))).toMatchObject({
      ccType: 2,
      logAreaBytes: 262144n,
    });
  });
});

describe.skipIf(!haveVectors)('reports, images and hand-off blocks', () => {
  it('reads a real TDREPORT and refuses bytes that are none', () => {
    parseTdReport(vector('tdreport/trustee_az_hcl-report.bin').subarray(32, 32 + 1024));
    expect(codeOf(() => parseTdReport(vector('tdreport/gotdx_report.bin')))).not.toBe('none');
  });

  it.each([
    [
      'synth_ovmf',
      'image',
      'c99e03be57b8d566f7910bcb399fde45f9d547ca0eeebc37d0bcf0d3438d195e9c49cdcc88864a9a4c6e5ed1f8a0adbb',
      '969e22c50fffde0a7cce4c6c19c0b09c2b706db3290e3f759ec609c10e408deaf1772500544961c39a7c107b02005bcf',
    ],
    [
      'synth_shim',
      'image',
      '422cdcdaac74e09766c445e7faf76fd28a0a5bbfdc996a70225ca0b3ba7cb494148dbf30b6cca0a54581b88e1d1644b6',
      'fd88178e3fdae3dd9c0905df0c55cbc20da149ca663887758cda9feb9976b09c12c50c4b1818dff4a4cbc786127089fe',
    ],
    [
      'synth_ovmf_rawshort',
      'zero',
      '2a5b4b6b46e94931342bea2bd19ceb0f3232b0d8f76f4c0ee2e4d53e4f05512f3198dbea7fb3329c0f49caea1d2309c8',
      '5fc0b85424595429eaf3321d7a23272ef227f291d4c18ec65148d99a69efed349190ad96d359550b084aed742bf92cee',
    ],
    [
      'synth_ovmf_rawshort',
      'image',
      'f86689274fd34f25352ea717a235e7648a80a2cb835d3dba195fb80ba2fd4659ed08edde7bc9aebdc6720b9f7943c479',
      '1d85b45d927d14e96ba695ffd483a8a7f2a575562b25bb5026c885e763d35ed79457fccce5b36c93b25e552105522636',
    ],
  ] as const)('%s with padding %s has the agreed MRTDs', (name, padding, page, section) => {
    const image = vector(`synthetic/${name}.fd`);
    expect(toHex(computeMrtd(image, { order: 'page', padding }))).toBe(page);
    expect(toHex(computeMrtd(image, { order: 'section', padding }))).toBe(section);
  });
});

describe.skipIf(!haveVectors)('logs beside quotes', () => {
  it('dstack’s JSON log replays to all four registers, and its own events hash name and payload', () => {
    const json = JSON.parse(vectorText('json/quote-report.json')) as { quote: string; event_log: unknown };
    interface Event {
      readonly imr: number;
      readonly event_type: number;
      readonly digest: string;
      readonly event: string;
      readonly event_payload: string;
    }
    const list = (typeof json.event_log === 'string' ? JSON.parse(json.event_log) : json.event_log) as Event[];
    const hex = (text: string) => new Uint8Array(Buffer.from(text, 'hex'));
    for (const e of list.filter((x) => x.imr === 3)) {
      const type = Buffer.alloc(4);
      type.writeUInt32LE(e.event_type);
      const colon = Buffer.from(':');
      expect(toHex(sha384(type, colon, Buffer.from(e.event), colon, hex(e.event_payload)))).toBe(e.digest);
    }
    const log = buildEventLog(
      list.map((e) => ({
        mrIndex: e.imr + 1,
        type: e.event_type,
        digest: asSha384(hex(e.digest), 'digest'),
        data: hex(e.event_payload),
      })),
    );
    const q = parseQuote(vector('quotes/dstack_quote-report.bin'));
    expect(toHex(vector('quotes/dstack_quote-report.bin'))).toBe(json.quote.replace(/^0x/, ''));
    expect(replayEventLog(parseEventLog(log)).map(toHex)).toEqual(q.body.td.rtmrs.map(toHex));
    expect(parseEventLog(log).events.filter((e) => checkEventData(e) === 'mismatch')).toEqual([]);
  });

  it('cctrusted: with the record of cctrusted_ima_log.bin RTMR2 is the quote’s', () => {
    const record = Buffer.from(vector('ccel/cctrusted_ima_log.bin')).toString('latin1').trim().split(' ');
    const rtmr2 = rtmrsOf('cctrusted_ccel_data.bin')[2];
    const digest = asSha384(new Uint8Array(Buffer.from(record[1] ?? '', 'hex')), 'IMA template digest');
    expect(toHex(extend(rtmr2, digest))).toBe(toHex(parseQuote(vector('quotes/cctrusted_quote.bin')).body.td.rtmrs[2]));
  });

  it('td-shim: the same events as another parser found (trustee_CCEL_data_out.json)', () => {
    const theirs = JSON.parse(vectorText('ccel/trustee_CCEL_data_out.json')) as {
      uefi_event_logs: { digests: { digest: string }[]; event: string; index: number; type_name: string }[];
    };
    const ours = parseEventLog(vector('ccel/trustee_CCEL_data.bin')).events;
    expect(ours.map((e) => [toHex(e.digest ?? new Uint8Array()), Buffer.from(e.data).toString('base64')])).toEqual(
      theirs.uefi_event_logs.map((e) => [e.digests[0]?.digest, e.event]),
    );
  });
});

describe.skipIf(!haveVectors)('collateral: every signature verifies over the text as it came', () => {
  const dir = 'collateral/go-tdx-guest';
  const signer = (pem: string) => {
    const chain = orderChain(parseCertificates(pem));
    expect(toHex(chain.at(-1)?.point ?? new Uint8Array())).toContain(INTEL_ROOT_X);
    for (const [i, c] of chain.entries()) expect(c.x509.verify((chain[i + 1] ?? c).key)).toBe(true);
    return chain[0]?.point.subarray(1) ?? new Uint8Array(64);
  };
  const verifies = (json: { text: string; signature: Uint8Array }, chain: string) =>
    verifyP256(signer(chain), Buffer.from(json.text), json.signature);

  it.each([
    ['sample_tcbInfo_response', 'tcbInfo', 'tcbInfoIssuerChain'],
    ['sample_tcbinfo_response_v5', 'tcbInfo', 'tcbInfoIssuerChain'],
    ['sample_qeIdentity_response', 'enclaveIdentity', 'qeIdentityIssuerChain'],
  ] as const)('go-tdx-guest %s', (file, key, chain) => {
    const json = splitSignedJson(vectorText(`${dir}/${file}`).trim(), key);
    expect(verifies(json, vectorText(`${dir}/${chain}.pem`))).toBe(true);
    expect(verifies({ ...json, text: `${json.text} ` }, vectorText(`${dir}/${chain}.pem`))).toBe(false);
  });

  it.each([
    ['pckcrl', 'pckCrlIssuerChain', 0],
    ['rootcrl.der', 'pckCrlIssuerChain', 1],
  ] as const)('go-tdx-guest %s', (file, chain, index) => {
    const crl = parseCrl(vector(`${dir}/${file}`));
    const issuer = orderChain(parseCertificates(vectorText(`${dir}/${chain}.pem`)))[index];
    expect(issuer && verify('sha256', crl.signed, issuer.key, crl.signature)).toBe(true);
  });

  it.each(['sgx_quote_collateral.json', 'tdx_quote_collateral.json', 'tdx_quote_outdated_collateral.json'])(
    'dcap-qvl %s',
    (file) => {
      const c = dcapQvlCollateral(file);
      expect(verifies(c.tcbInfo, String(c.tcbInfoChain))).toBe(true);
      expect(verifies(c.qeIdentity, String(c.qeIdentityChain))).toBe(true);
      const [ca, root] = orderChain(parseCertificates(c.pckChain ?? ''));
      for (const [crl, issuer] of [
        [parseCrl(c.pckCrl), ca],
        [parseCrl(c.rootCrl), root],
      ] as const)
        expect(issuer && verify('sha256', crl.signed, issuer.key, crl.signature)).toBe(true);
    },
  );

  it('the published root certificate (Intel_SGX_Root_CA.der) has the pinned key', () => {
    expect(trustAnchor(vector('collateral/dcap-qvl/Intel_SGX_Root_CA.der')).point).toEqual(INTEL_ROOT_PUBLIC_KEY);
  });

  it('intel-qvl-tdx: under its synthetic root', () => {
    const anchor = trustAnchor(vectorText('collateral/intel-qvl-tdx/trustedRootCaCert.pem'));
    const collateral = intelSyntheticCollateral();
    expect(verifyCollateral(collateral, { anchor, at: Date.parse('2022-01-01T00:00:00Z') }).tcbInfo.id).toBe('TDX');
    const [pck] = parseCertificates(vectorText('collateral/intel-qvl-tdx/pckCert.pem'));
    const [ca] = orderChain(parseCertificates(vectorText('collateral/intel-qvl-tdx/pckSignChain.pem')));
    expect(ca && pck?.x509.verify(ca.key)).toBe(true);
  });
});

describe.skipIf(!haveVectors)('the vectors', () => {
  it('are all read by some test', () => {
    const here = new URL('.', import.meta.url);
    const sources = readdirSync(here)
      .map((f) => readFileSync(new URL(f, here), 'utf8'))
      .join('\n');
    const files = vectorFiles().filter((f) => f !== 'README.md');
    const unread = files.filter((f) => !sources.includes(f.replace(/^.*\//, '').replace(/\.[a-z]+$/, '')));
    expect(files.length).toBeGreaterThan(40);
    expect(unread).toEqual([]);
  });
});

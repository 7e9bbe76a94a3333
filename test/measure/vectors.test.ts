// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import {
  checkEventData,
  computeMrtd,
  equalBytes,
  MeasureError,
  type MeasureErrorCode,
  parseCcelTable,
  parseEventLog,
  parseQuote,
  parseTdReport,
  parseTdvf,
  replayEventLog,
  sha384,
  tdHobDigest,
  toHex,
  trustAnchor,
  verifyQuote,
} from '../../src/measure/index.js';
import { orderChain, parseCertificates, verifyP256 } from '../../src/measure/x509.js';
import { dcapQvlCollateral, haveVectors, intelSyntheticCollateral, vector, vectorText } from './vectors.js';

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
    ['dcapqvl_tdx_quote', 4, 'TD1.0', 70],
    ['dcapqvl_tdx_quote_outdated', 5, 'TD1.5', 0],
    ['dcapqvl_quote-from-tappd', 4, 'TD1.0', 70],
    ['dstack_quote-report', 4, 'TD1.0', 70],
    ['gotdx_cos-113-tdx-quote', 4, 'TD1.0', 3065],
    ['gotdx_quote_v5_sample', 5, 'TD1.5', 0],
    ['trustee_tdx_quote_4', 4, 'TD1.0', 0],
  ] as const)('%s: every signature verifies to the Intel root', (name, version, kind, trailing) => {
    const q = parseQuote(vector(`quotes/${name}.bin`));
    expect([q.header.version, q.body.kind, q.trailingBytes]).toEqual([version, kind, trailing]);
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
      /no TCB level matches/,
    );
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
    ['synth_ovmf', 'image', 'c99e03be57b8d566', '969e22c50fffde0a'],
    ['synth_shim', 'image', '422cdcdaac74e097', 'fd88178e3fdae3dd'],
    ['synth_ovmf_rawshort', 'zero', '2a5b4b6b46e94931', '5fc0b85424595429'],
    ['synth_ovmf_rawshort', 'image', 'f86689274fd34f25', '1d85b45d927d14e9'],
  ] as const)('%s with padding %s has the agreed MRTDs', (name, padding, page, section) => {
    const image = vector(`synthetic/${name}.fd`);
    expect(toHex(computeMrtd(image, { order: 'page', padding })).slice(0, 16)).toBe(page);
    expect(toHex(computeMrtd(image, { order: 'section', padding })).slice(0, 16)).toBe(section);
  });

  it('builds the TD HOBs of real logs', () => {
    // OVMF's sections, as every log here had them.
    const sections = parseTdvf(vector('synthetic/synth_ovmf.fd')).sections.slice(0, 0);
    const at = (type: 'BFV' | 'CFV' | 'TD_HOB' | 'TempMem', memoryAddress: bigint, memoryDataSize: bigint) => ({
      type,
      dataOffset: 0,
      rawDataSize: 0,
      memoryAddress,
      memoryDataSize,
      attributes: 0,
    });
    const ovmf = [
      ...sections,
      at('BFV', 0xffe20000n, 0x1e0000n),
      at('CFV', 0xffe00000n, 0x20000n),
      at('TempMem', 0x810000n, 0x10000n),
      at('TempMem', 0x80b000n, 0x2000n),
      at('TD_HOB', 0x809000n, 0x2000n),
      at('TempMem', 0x800000n, 0x6000n),
    ];
    const hobDigests = (log: string) =>
      parseEventLog(vector(`ccel/${log}`))
        .events.filter((e) => e.type === 0x8000000b)
        .map((e) => e.digest && toHex(e.digest));
    expect(hobDigests('cctrusted_ccel_data.bin')).toContain(toHex(tdHobDigest('qemu', 2n << 30n, ovmf)));
    expect(hobDigests('gotdx_cos-113_ccel_data.bin')).toContain(toHex(tdHobDigest('gce', 16n << 30n, ovmf)));
    const dstack = JSON.parse(vectorText('json/quote-report.json')) as { event_log: string };
    expect(JSON.stringify(dstack)).toContain(toHex(tdHobDigest('qemu', 64n << 30n, ovmf)));
  });
});

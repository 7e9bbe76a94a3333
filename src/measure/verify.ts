// SPDX-License-Identifier: Apache-2.0
//
// The judgement of a TDX quote, in the order of Intel's verification library: certificates and revocation, TDX module
// identity, quoting enclave, attestation key, quote signature, TCB level. A quote that passes proves that a TD with these
// registers ran on a genuine platform with the TCB status that is returned; whether that status and those registers are
// acceptable is the appraisal's word (src/measure/reference.ts). Source: Intel SGX-TDX DCAP Quote Verification Library.

import { createHash } from 'node:crypto';
import { equalBytes, isZero, toHex } from './bytes.js';
import {
  type Collateral,
  type LevelStatus,
  type QeIdentity,
  readingCollateral,
  TCB_STATUSES,
  type TcbInfo,
  verifyCollateral,
} from './collateral.js';
import { MeasureError } from './errors.js';
import { type EnclaveReport, parseQuote, type Quote } from './quote.js';
import {
  type Certificate,
  INTEL_ROOT_PUBLIC_KEY,
  orderChain,
  type PckTcb,
  parseCertificates,
  parsePckExtension,
  type TrustAnchor,
  verifyChain,
  verifyP256,
  verifySignature,
} from './x509.js';

export type TcbStatus = LevelStatus | 'RelaunchAdvised' | 'RelaunchAdvisedConfigurationNeeded';

export interface VerifyOptions {
  readonly collateral: Collateral;
  /** Time of the judgement, milliseconds since 1970: collateral and certificates must be valid then. */
  readonly at: number;
  /** Default: the pinned Intel SGX Root CA. */
  readonly anchor?: TrustAnchor;
}

export interface Check {
  readonly name: string;
  readonly detail: string;
}

export interface Verdict {
  readonly quote: Quote;
  /** The converged status of platform, quoting enclave and TDX module. */
  readonly status: TcbStatus;
  readonly platformStatus: LevelStatus;
  readonly qeStatus: LevelStatus;
  readonly moduleStatus: LevelStatus | undefined;
  readonly advisories: readonly string[];
  readonly tcbDate: number;
  readonly fmspc: string;
  /** What was checked, in order; all of it holds. */
  readonly checks: readonly Check[];
}

/**
 * Verifies a quote. Returns a verdict only when every signature and identity holds; any TCB status is returned, not judged.
 * Errors: `certificate`, `signature`, `mismatch`, `tcb`, `collateral`, and those of parsing.
 */
export function verifyQuote(bytes: Uint8Array, options: VerifyOptions): Verdict {
  const anchor = options.anchor ?? { point: INTEL_ROOT_PUBLIC_KEY };
  const checks: Check[] = [];
  const passed = (name: string, detail: string): void => {
    checks.push({ name, detail });
  };
  const quote = parseQuote(bytes);
  passed('format', `version ${quote.header.version}, body ${quote.body.kind}`);
  const { tcbInfo, qeIdentity, crls, pckChain } = verifyCollateral(options.collateral, { anchor, at: options.at });
  passed(
    'collateral',
    `TCB evaluation ${tcbInfo.tcbEvaluationDataNumber}, QE identity ${qeIdentity.tcbEvaluationDataNumber}`,
  );

  const chain = pckChainOf(quote, pckChain);
  verifyChain(chain, { anchor, at: options.at, crls, what: 'PCK certificate chain' });
  const pck = chain[0];
  if (!pck) throw new MeasureError('certificate', 'PCK certificate chain: empty');
  const platform = parsePckExtension(pck);
  if (!equalBytes(platform.fmspc, tcbInfo.fmspc)) {
    throw new MeasureError(
      'collateral',
      `TCB info is for FMSPC ${toHex(tcbInfo.fmspc)}, the platform has ${toHex(platform.fmspc)}`,
    );
  }
  if (!equalBytes(platform.pceId, tcbInfo.pceId)) {
    throw new MeasureError(
      'collateral',
      `TCB info is for PCEID ${toHex(tcbInfo.pceId)}, the platform has ${toHex(platform.pceId)}`,
    );
  }
  passed('platform certificate', `FMSPC ${toHex(platform.fmspc)}, chain to the trusted root, not revoked`);

  const moduleLevel = checkTdxModule(quote, tcbInfo, quote.body.teeTcbSvn);
  passed('TDX module', moduleLevel ? `identity ${moduleLevel.id}, ${moduleLevel.status}` : 'first generation identity');

  const s = quote.signature;
  if (!verifySignature(pck, s.qeReport.raw, s.qeReportSignature)) {
    throw new MeasureError('signature', 'QE report: the signature by the platform certificate does not verify');
  }
  passed('QE report', 'signed by the platform certificate');
  const binding = createHash('sha256').update(s.attestationKey).update(s.qeAuthData).digest();
  if (!equalBytes(s.qeReport.reportData.subarray(0, 32), binding) || !isZero(s.qeReport.reportData.subarray(32))) {
    throw new MeasureError('mismatch', 'QE report: its report data does not bind the attestation key');
  }
  passed('attestation key', 'bound by the QE report');
  const qeLevel = checkQeIdentity(s.qeReport, qeIdentity);
  passed('QE identity', `ISVSVN ${s.qeReport.isvSvn}, ${qeLevel.status}`);
  if (!verifyP256(s.attestationKey, quote.signedBytes, s.signature)) {
    throw new MeasureError('signature', 'quote: the signature by the attestation key does not verify');
  }
  passed('quote signature', 'verifies');

  const platformLevel = matchTcbLevel(platform, quote.body.teeTcbSvn, tcbInfo);
  passed('TCB level', `${platformLevel.status}, dated ${new Date(platformLevel.date).toISOString().slice(0, 10)}`);
  let status: TcbStatus = converge(platformLevel.status, qeLevel.status, moduleLevel?.status);
  const relaunch = relaunchStatus(quote, platform, tcbInfo, status, qeLevel.status);
  if (relaunch) {
    status = relaunch;
    passed('TD relaunch', relaunch);
  }
  const advisories = [
    ...new Set([...platformLevel.advisories, ...qeLevel.advisories, ...(moduleLevel?.advisories ?? [])]),
  ].sort();
  return {
    quote,
    status,
    platformStatus: platformLevel.status,
    qeStatus: qeLevel.status,
    moduleStatus: moduleLevel?.status,
    advisories,
    tcbDate: Math.min(platformLevel.date, qeLevel.date, moduleLevel?.date ?? Number.POSITIVE_INFINITY),
    fmspc: toHex(platform.fmspc),
    checks,
  };
}

function pckChainOf(quote: Quote, fromCollateral: readonly Certificate[] | undefined): Certificate[] {
  const c = quote.signature.certification;
  switch (c.kind) {
    case 'chain':
      return orderChain(parseCertificates(c.data));
    case 'leaf':
      return orderChain([...parseCertificates(c.data), ...(fromCollateral ?? [])]);
    case 'encrypted-ppid': {
      const chain = fromCollateral && readingCollateral(() => orderChain(fromCollateral));
      // Most collateral has the issuers alone.
      if (!chain?.[0] || chain[0].x509.ca) {
        throw new MeasureError(
          'collateral',
          `quote: it carries an encrypted PPID (type ${c.type}) instead of its certificate; give the PCK certificate chain with the collateral`,
        );
      }
      return chain;
    }
    default:
      return c satisfies never;
  }
}

interface Level {
  readonly status: LevelStatus;
  readonly date: number;
  readonly advisories: readonly string[];
}

/** MRSIGNERSEAM and SEAM attributes against the module identity; for modules from 1.5 on, the module's own TCB level. */
function checkTdxModule(
  quote: Quote,
  tcbInfo: TcbInfo,
  svn: Uint8Array,
): (Level & { readonly id: string }) | undefined {
  const generation = svn[1] ?? 0;
  const id = `TDX_${generation.toString(16).padStart(2, '0').toUpperCase()}`;
  const identity = generation > 0 ? tcbInfo.tdxModuleIdentities?.find((m) => m.id.toUpperCase() === id) : undefined;
  if (generation > 0 && !identity) throw new MeasureError('tcb', `TCB info has no identity for the TDX module ${id}`);
  const wanted = identity ?? tcbInfo.tdxModule;
  if (!equalBytes(quote.body.mrSignerSeam, wanted.mrsigner))
    throw new MeasureError('mismatch', 'TDX module: MRSIGNERSEAM is not the identity’s signer');
  const attributes = Buffer.alloc(8);
  attributes.writeBigUInt64LE(quote.body.seamAttributes);
  if (quote.body.seamAttributes !== 0n || !maskedEqual(attributes, wanted.attributesMask, wanted.attributes)) {
    throw new MeasureError(
      'mismatch',
      `TDX module: SEAM attributes 0x${quote.body.seamAttributes.toString(16)}, expected 0`,
    );
  }
  if (!identity) return undefined;
  return { ...enclaveLevel(identity.tcbLevels, svn[0] ?? 0, `TDX module ${id}`), id };
}

function checkQeIdentity(report: EnclaveReport, identity: QeIdentity): Level {
  const misc = Buffer.alloc(4);
  misc.writeUInt32LE(report.miscSelect);
  // The identity writes MISCSELECT as a big-endian number.
  const [mask, want] = [
    Uint8Array.from(identity.miscselectMask).reverse(),
    Uint8Array.from(identity.miscselect).reverse(),
  ];
  if (!maskedEqual(misc, mask, want)) throw new MeasureError('mismatch', 'QE report: MISCSELECT is not the identity’s');
  if (!maskedEqual(report.attributes, identity.attributesMask, identity.attributes))
    throw new MeasureError('mismatch', 'QE report: ATTRIBUTES are not the identity’s');
  if (!equalBytes(report.mrSigner, identity.mrsigner))
    throw new MeasureError('mismatch', 'QE report: MRSIGNER is not the identity’s');
  if (report.isvProdId !== identity.isvprodid)
    throw new MeasureError('mismatch', `QE report: ISVPRODID ${report.isvProdId}, expected ${identity.isvprodid}`);
  return enclaveLevel(identity.tcbLevels, report.isvSvn, 'QE');
}

function maskedEqual(value: Uint8Array, mask: Uint8Array, wanted: Uint8Array): boolean {
  return value.every((b, i) => (b & (mask[i] ?? 0)) === ((wanted[i] ?? 0) & (mask[i] ?? 0)));
}

/** The first level whose ISVSVN is at or below the one that runs. */
function enclaveLevel(levels: QeIdentity['tcbLevels'], isvSvn: number, what: string): Level {
  const found = levels.find((l) => l.tcb.isvsvn <= isvSvn);
  if (!found) throw new MeasureError('tcb', `${what}: no TCB level at or below ISVSVN ${isvSvn}`);
  return { status: found.tcbStatus, date: found.tcbDate, advisories: found.advisoryIDs ?? [] };
}

/** The first level that the platform reaches in all SGX components, PCESVN and TDX components. */
function matchTcbLevel(platform: PckTcb, teeTcbSvn: Uint8Array, tcbInfo: TcbInfo): Level {
  // With a module identity, components 0 and 1 are the module's own and judged with it.
  const firstTdx = (teeTcbSvn[1] ?? 0) > 0 ? 2 : 0;
  const reached = tcbInfo.tcbLevels.find(
    ({ tcb }) =>
      tcb.sgxtcbcomponents.every((c, i) => (platform.components[i] ?? -1) >= c.svn) &&
      platform.pceSvn >= tcb.pcesvn &&
      tcb.tdxtcbcomponents.every((c, i) => i < firstTdx || (teeTcbSvn[i] ?? -1) >= c.svn),
  );
  if (!reached) {
    throw new MeasureError(
      'tcb',
      `no TCB level matches: platform components ${platform.components.join(' ')}, PCESVN ${platform.pceSvn}, TEE_TCB_SVN ${toHex(teeTcbSvn)}`,
    );
  }
  return { status: reached.tcbStatus, date: reached.tcbDate, advisories: reached.advisoryIDs ?? [] };
}

/** The platform's status made worse by an outdated or revoked quoting enclave or module. */
function converge(platform: LevelStatus, qe: LevelStatus, module: LevelStatus | undefined): LevelStatus {
  const parts = [platform, qe, module];
  if (parts.includes('Revoked')) return 'Revoked';
  if (qe === 'OutOfDate' || module === 'OutOfDate') {
    switch (platform) {
      case 'UpToDate':
      case 'SWHardeningNeeded':
        return 'OutOfDate';
      case 'ConfigurationNeeded':
      case 'ConfigurationAndSWHardeningNeeded':
        return 'OutOfDateConfigurationNeeded';
      default:
        return platform;
    }
  }
  // Intel's enclave and module levels are up to date, out of date or revoked; should one say more, the worst word counts.
  const rank = (s: LevelStatus): number => TCB_STATUSES.indexOf(s);
  return [platform, qe, module ?? 'UpToDate'].reduce((worst, s) => (rank(s) > rank(worst) ? s : worst));
}

/**
 * TD 1.5 quotes carry the TCB that was current when the quote was made beside the one at the TD's launch: when the module
 * was updated under a running TD, an outdated launch TCB is cured by a relaunch.
 */
function relaunchStatus(
  quote: Quote,
  platform: PckTcb,
  tcbInfo: TcbInfo,
  launch: TcbStatus,
  qe: LevelStatus,
): TcbStatus | undefined {
  const current = quote.body.teeTcbSvn2;
  if (
    !current ||
    isZero(current) ||
    (launch !== 'OutOfDate' && launch !== 'OutOfDateConfigurationNeeded') ||
    qe !== 'UpToDate'
  )
    return undefined;
  try {
    const module = checkTdxModule(quote, tcbInfo, current);
    const now = matchTcbLevel(platform, current, tcbInfo);
    if (module && module.status !== 'UpToDate') return undefined;
    if (now.status === 'UpToDate' || now.status === 'SWHardeningNeeded') return 'RelaunchAdvised';
    if (now.status === 'ConfigurationNeeded' || now.status === 'ConfigurationAndSWHardeningNeeded')
      return 'RelaunchAdvisedConfigurationNeeded';
  } catch (error) {
    if (!(error instanceof MeasureError)) throw error;
  }
  return undefined;
}

/** Which platform a quote claims to come from, for fetching its collateral. Unverified. Errors: `certificate`; `collateral`: it does not say. */
export function pckPlatform(quote: Quote): { readonly fmspc: string; readonly ca: 'platform' | 'processor' } {
  const c = quote.signature.certification;
  if (c.kind === 'encrypted-ppid')
    throw new MeasureError(
      'collateral',
      'quote: it carries no certificate that names its platform, whose collateral cannot be fetched; give it with --collateral',
    );
  const leaf = orderChain(parseCertificates(c.data))[0];
  if (!leaf) throw new MeasureError('certificate', 'quote: empty certificate chain');
  const ca = leaf.x509.issuer.includes('Processor') ? 'processor' : 'platform';
  return { fmspc: toHex(parsePckExtension(leaf).fmspc), ca };
}

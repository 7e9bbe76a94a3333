#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// gramine-tdx-verify: judges a quote, check by check. Exit status: 0 trusted, 1 refused, 2 usage, 3 could not decide.

import { Command, CommanderError } from 'commander';
import {
  type AppraisalCheck,
  appraise,
  collateralToJson,
  MeasureError,
  parseQuote,
  parseReference,
  pckPlatform,
  type ReferenceValues,
  reportDataFromHex,
  reportDataOf,
  TCB_STATUSES,
  type TcbStatus,
  trustAnchor,
  type Verdict,
  verifyQuote,
} from '../measure/index.js';
import { fetchCollateral, readBytes, readCollateral, readQuote, readText } from './measure-io.js';
import { endWithReader, writeFile } from './measure-output.js';

interface Options {
  readonly quote: string;
  readonly reference?: string;
  readonly referenceKey?: string;
  readonly eventLog?: string;
  readonly reportData?: string;
  readonly nonce?: string;
  readonly collateral?: string;
  readonly pccs?: string;
  readonly saveCollateral?: string;
  readonly trustRoot?: string;
  readonly at?: string;
  readonly accept?: readonly string[];
  readonly json?: true;
}

const TRUSTED = 0;
const REFUSED = 1;
const USAGE = 2;
const UNDECIDED = 3;
/** What is missing or broken on our side of the table: nothing was learned of the quote. */
const UNDECIDED_CODES = new Set(['collateral', 'usage']);
/** What --accept may name: a revoked platform is never trusted. */
const STATUSES: readonly string[] = [
  ...TCB_STATUSES.filter((s) => s !== 'Revoked'),
  'RelaunchAdvised',
  'RelaunchAdvisedConfigurationNeeded',
];

async function main(): Promise<number> {
  endWithReader();
  const command = new Command('gramine-tdx-verify')
    .description('Judge a TDX quote: signatures up to Intel’s root, TCB status, and the values that you expect.')
    .requiredOption('--quote <file>', 'the quote, binary or hexadecimal ("-" for stdin)')
    .option('--reference <file>', 'reference values, as gramine-tdx-measure --json writes them')
    .option('--reference-key <pem>', 'require that they are signed by this key')
    .option('--event-log <file>', 'the event log whose replay must give the quote’s registers')
    .option('--report-data <hex>', 'what REPORTDATA must be (up to 64 bytes, zero padded)')
    .option('--nonce <file>', 'the same, from a file')
    .option('--collateral <path>', 'folder or JSON file with TCB info, QE identity, CRLs and their chains')
    .option('--pccs <url>', 'fetch the collateral from a PCCS; without it nothing is fetched')
    .option('--save-collateral <file>', 'keep what --pccs gave, for --collateral')
    .option('--trust-root <pem>', 'trust this root instead of Intel’s (simulated TDs)')
    .option('--at <time>', 'judge at this time, such as 2026-01-31T00:00:00Z (default: now)')
    .option('--accept <status>', 'also accept this TCB status (repeatable)', (s: string, l: readonly string[] = []) => [
      ...l,
      s,
    ])
    .option('--json', 'print the result as JSON')
    .exitOverride()
    .showHelpAfterError('(see --help)');
  try {
    command.parse();
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? TRUSTED : USAGE;
    throw error;
  }
  const options = command.opts<Options>();
  try {
    return await judge(options);
  } catch (error) {
    if (!(error instanceof MeasureError)) throw error;
    const status = error.code === 'usage' ? USAGE : UNDECIDED_CODES.has(error.code) ? UNDECIDED : REFUSED;
    const word = status === REFUSED ? 'refused' : status === USAGE ? 'usage' : 'undecided';
    if (options.json)
      process.stdout.write(`${JSON.stringify({ result: word, code: error.code, message: error.message })}\n`);
    else process.stderr.write(`gramine-tdx-verify: ${word}: ${error.message}\n`);
    return status;
  }
}

async function judge(options: Options): Promise<number> {
  const bytes = readQuote(options.quote);
  const at = options.at === undefined ? Date.now() : parseTime(options.at);
  const acceptStatus = (options.accept ?? []).map(parseStatus);
  const reportData = expectedReportData(options);
  const reference =
    options.reference === undefined
      ? undefined
      : parseReference(
          readText(options.reference, 'reference values'),
          options.referenceKey === undefined ? undefined : readText(options.referenceKey, 'reference key'),
        );
  const anchor = options.trustRoot === undefined ? undefined : trustAnchor(readBytes(options.trustRoot, 'trust root'));
  const verdict = verifyQuote(bytes, {
    collateral: await collateralFor(options, bytes),
    at,
    ...(anchor ? { anchor } : {}),
  });
  const checks = appraise(verdict, {
    reference: reference ?? { format: 'gramine-tdx-reference/1' },
    acceptStatus: ['UpToDate', ...acceptStatus],
    ...(reportData ? { reportData } : {}),
    ...(options.eventLog === undefined ? {} : { eventLog: readBytes(options.eventLog, 'event log') }),
  });
  const trusted = checks.every((c) => c.ok);
  if (options.json) printJson(verdict, checks, trusted);
  else
    printText(verdict, checks, trusted, {
      reference,
      reportData: reportData !== undefined,
      anchor: anchor !== undefined,
    });
  return trusted ? TRUSTED : REFUSED;
}

function parseTime(text: string): number {
  const at = Date.parse(text);
  if (Number.isNaN(at))
    throw new MeasureError('usage', `--at: ${JSON.stringify(text)} is not a time; write it like 2026-01-31T00:00:00Z`);
  return at;
}

function parseStatus(text: string): TcbStatus {
  if (!STATUSES.includes(text))
    throw new MeasureError(
      'usage',
      `--accept: ${JSON.stringify(text)} is not a TCB status that can be accepted; these can: ${STATUSES.join(', ')}`,
    );
  return text as TcbStatus;
}

function expectedReportData(options: Options): Uint8Array | undefined {
  if (options.referenceKey !== undefined && options.reference === undefined)
    throw new MeasureError('usage', '--reference-key belongs to --reference');
  if (options.reportData !== undefined && options.nonce !== undefined)
    throw new MeasureError('usage', '--report-data and --nonce say the same thing: give one');
  if (options.reportData !== undefined) return reportDataFromHex(options.reportData);
  return options.nonce === undefined ? undefined : reportDataOf(readBytes(options.nonce, 'nonce'));
}

async function collateralFor(options: Options, quote: Uint8Array) {
  if (options.pccs === undefined) {
    if (options.saveCollateral !== undefined) throw new MeasureError('usage', '--save-collateral belongs to --pccs');
    if (options.collateral !== undefined) return readCollateral(options.collateral);
    throw new MeasureError('usage', 'no collateral: give --collateral PATH, or --pccs URL to fetch it');
  }
  if (options.collateral !== undefined)
    throw new MeasureError('usage', '--collateral and --pccs say the same thing: give one');
  const { fmspc, ca } = pckPlatform(parseQuote(quote));
  const collateral = await fetchCollateral(options.pccs, fmspc, ca);
  if (options.saveCollateral !== undefined) writeFile(options.saveCollateral, collateralToJson(collateral));
  return collateral;
}

function printJson(verdict: Verdict, checks: readonly AppraisalCheck[], trusted: boolean): void {
  const { status, platformStatus, qeStatus, moduleStatus, advisories, fmspc } = verdict;
  const result = {
    result: trusted ? 'trusted' : 'refused',
    status,
    platformStatus,
    qeStatus,
    moduleStatus,
    advisories,
    fmspc,
    verified: verdict.checks,
    checks,
  };
  process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
}

function printText(
  verdict: Verdict,
  checks: readonly AppraisalCheck[],
  trusted: boolean,
  given: { reference: ReferenceValues | undefined; reportData: boolean; anchor: boolean },
): void {
  const line = (mark: string, name: string, detail: string): void => {
    process.stdout.write(`${mark} ${name}: ${detail}\n`);
  };
  for (const c of verdict.checks) line('ok  ', c.name, c.detail);
  for (const c of checks) line(c.ok ? 'ok  ' : 'FAIL', c.name, c.detail);
  if (verdict.advisories.length > 0) line('note', 'advisories', verdict.advisories.join(', '));
  if (given.anchor) line('note', 'root', 'not Intel’s: this proves nothing about hardware');
  if (!given.reference) line('note', 'reference', 'none given: this TD may run anything');
  else {
    const open = (['mrtd', 'rtmr0', 'rtmr1', 'rtmr2'] as const).filter((name) => given.reference?.[name] === undefined);
    if (open.length > 0) line('note', 'reference', `not checked, as it does not name them: ${open.join(', ')}`);
  }
  if (!given.reportData) line('note', 'report data', 'not checked: this quote may be old, or another machine’s');
  process.stdout.write(trusted ? 'trusted\n' : 'refused\n');
}

main().then(
  (status) => {
    process.exitCode = status;
  },
  (error: unknown) => {
    process.stderr.write(
      `gramine-tdx-verify: internal error: ${error instanceof Error ? error.stack : String(error)}\n`,
    );
    process.exitCode = UNDECIDED;
  },
);

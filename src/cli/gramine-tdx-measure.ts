#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// gramine-tdx-measure: says beforehand what a TD must report, and takes images, logs, quotes and reports apart.
// Exit status: 0 done, 1 the input is not what it should be, 2 usage.

import { writeFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { LaunchError, measuredItems, parseCpus, parseMemory } from '../launch/index.js';
import {
  canonicalJson,
  checkEventData,
  checkTdvf,
  computeMrtd,
  type EventLog,
  type HobLayout,
  MeasureError,
  parseEventLog,
  parseQuote,
  parseTdReport,
  parseTdvf,
  predictMrtd,
  predictRtmrs,
  REFERENCE_FORMAT,
  type ReferenceValues,
  replayEventLog,
  signReference,
  tdAttributes,
  tdHobDigest,
  toHex,
  xfam,
} from '../measure/index.js';
import { readBytes, readQuote, readText } from './measure-io.js';

const out = (line: string): void => {
  process.stdout.write(`${line}\n`);
};

interface AppOptions {
  readonly cpus?: number;
  readonly memory?: bigint;
  readonly env?: readonly string[];
  readonly kernel?: string;
  readonly json?: true | string;
  readonly sign?: string;
}

function program(): Command {
  const command = new Command('gramine-tdx-measure')
    .description('Say what a TD must report, from files alone.')
    .exitOverride()
    .showHelpAfterError('(see --help)');
  command
    .command('app', { isDefault: true })
    .description('the registers of a program that gramine-tdx would run')
    .argument('<app>', 'the program or its manifest')
    .argument('[args...]', 'its arguments (after --)')
    .option('-c, --cpus <number>', 'virtual CPUs (default 1)', parseCpus)
    .option('-m, --memory <size>', 'memory, such as 1G (default: the manifest’s)', parseMemory)
    .option('-e, --env <name=value>', 'environment variable (repeatable)', (v: string, l: readonly string[] = []) => [
      ...l,
      v,
    ])
    .option('--kernel <file>', 'kernel image (default: the one of this package)')
    .option('--json [file]', 'write reference values for gramine-tdx-verify')
    .option('--sign <pem>', 'sign the reference values with this private key')
    .action(measureApp);
  command
    .command('inspect')
    .description('sections, footer tables and findings of a TDVF image')
    .argument('<image>')
    .action(inspect);
  command
    .command('mrtd')
    .description('MRTD of a TDVF image in both page orders')
    .argument('<image...>', 'an image, or VARS and CODE, which are joined')
    .option('--trace', 'list each PAGE.ADD and MR.EXTEND')
    .option('--order <order>', 'of the trace: page or section', 'page')
    .action(printMrtd);
  command
    .command('hob')
    .description('digest of the TD HOB that a VMM makes')
    .argument('<image>')
    .requiredOption('-m, --memory <size>', 'memory of the TD', parseMemory)
    .option('--layout <layout>', 'qemu or gce', 'qemu')
    .action(printHob);
  command
    .command('log')
    .description('events of a CCEL or TCG2 log, and the registers they lead to')
    .argument('<file>')
    .action(printLog);
  command.command('quote').description('a quote, decoded (nothing is verified)').argument('<file>').action(printQuote);
  command.command('report').description('a TDREPORT, decoded').argument('<file>').action(printReport);
  for (const c of command.commands) c.exitOverride().showHelpAfterError('(see --help)');
  return command;
}

async function measureApp(app: string, args: readonly string[], options: AppOptions): Promise<void> {
  const m = await measuredItems({
    app: app.replace(/\.manifest(?:\.sgx|\.tdx)?$/, ''),
    args,
    env: options.env ?? [],
    cpus: options.cpus ?? 1,
    memoryBytes: options.memory,
    kernelImage: options.kernel,
  });
  const rtmrs = predictRtmrs(m.items);
  const mrtd = m.image === undefined ? undefined : predictMrtd(m.image);
  const reference: ReferenceValues = {
    format: REFERENCE_FORMAT,
    about: { app, arguments: args.join(' '), cpus: String(m.cpus), memory: `${m.memoryBytes}` },
    ...(mrtd ? { mrtd: [toHex(mrtd.page), toHex(mrtd.section)] } : {}),
    rtmr0: [toHex(rtmrs[0])],
    rtmr1: [toHex(rtmrs[1])],
    rtmr2: [toHex(rtmrs[2])],
    // SEPT_VE_DISABLE set, DEBUG clear: the kernel does not boot otherwise.
    attributes: { value: '0000000010000000', mask: '0000000010000001' },
  };
  if (options.sign !== undefined && options.json === undefined)
    throw new MeasureError('usage', '--sign signs reference values: give --json too');
  if (options.json !== undefined) {
    const text =
      options.sign === undefined
        ? canonicalJson(reference)
        : signReference(reference, readText(options.sign, 'signing key'));
    if (options.json === true) out(text);
    else writeFileSync(options.json, `${text}\n`);
    return;
  }
  if (mrtd) {
    out(`mrtd (page order)    ${toHex(mrtd.page)}`);
    out(`mrtd (section order) ${toHex(mrtd.section)}`);
  }
  for (const [i, value] of rtmrs.entries()) out(`rtmr${i}                ${toHex(value)}`);
  for (const note of m.notes) process.stderr.write(`gramine-tdx-measure: ${note}\n`);
}

function inspect(path: string): void {
  const tdvf = parseTdvf(readBytes(path, 'image'));
  out(`${tdvf.imageBytes} bytes, descriptor at ${tdvf.descriptorOffset} found by ${tdvf.locator}`);
  for (const [i, s] of tdvf.sections.entries()) {
    const end = s.memoryAddress + s.memoryDataSize;
    out(
      `section ${i} ${s.type.padEnd(12)} data ${s.dataOffset}+${s.rawDataSize} memory 0x${s.memoryAddress.toString(16)}..0x${end.toString(16)} attributes ${s.attributes}`,
    );
  }
  for (const e of tdvf.footer) out(`footer ${e.guid} ${e.name}, ${e.dataBytes} bytes at ${e.offset}`);
  for (const f of checkTdvf(tdvf))
    out(`finding (${f.source}: ${f.rule})${f.section === undefined ? '' : ` section ${f.section}`}: ${f.message}`);
}

function printMrtd(paths: readonly string[], options: { trace?: true; order: string }): void {
  const image = new Uint8Array(Buffer.concat(paths.map((p) => readBytes(p, 'image'))));
  if (options.order !== 'page' && options.order !== 'section')
    throw new MeasureError('usage', `--order: expected page or section, got ${options.order}`);
  if (options.trace)
    computeMrtd(image, {
      order: options.order,
      trace: (t) => out(`${t.op} section ${t.section} gpa 0x${t.gpa.toString(16)}`),
    });
  const { page, section } = predictMrtd(image);
  out(`page order    ${toHex(page)}`);
  out(`section order ${toHex(section)}`);
  for (const f of checkTdvf(parseTdvf(image)))
    if (f.source === 'measure') process.stderr.write(`gramine-tdx-measure: warning: ${f.message}\n`);
}

function printHob(path: string, options: { memory: bigint; layout: string }): void {
  if (options.layout !== 'qemu' && options.layout !== 'gce')
    throw new MeasureError('usage', `--layout: expected qemu or gce, got ${options.layout}`);
  out(toHex(tdHobDigest(options.layout as HobLayout, options.memory, parseTdvf(readBytes(path, 'image')).sections)));
}

function printLog(path: string): void {
  const log: EventLog = parseEventLog(readBytes(path, 'event log'));
  for (const e of log.events) {
    const register = e.mrIndex === 0 ? 'MRTD' : `RTMR${e.mrIndex - 1}`;
    out(
      `${String(e.index).padStart(3)} ${register} ${e.typeName.padEnd(34)} ${e.digest ? toHex(e.digest) : '-'} data ${e.data.length} bytes, ${checkEventData(e)}`,
    );
  }
  for (const [i, value] of replayEventLog(log).entries()) out(`RTMR${i} ${toHex(value)}`);
}

function printQuote(path: string): void {
  const q = parseQuote(readQuote(path));
  const { td } = q.body;
  const flags = (f: { value: bigint; names: readonly string[]; unknown: bigint }): string =>
    `0x${f.value.toString(16)} ${f.names.join(' ')}${f.unknown ? ` unknown 0x${f.unknown.toString(16)}` : ''}`;
  out(
    `version ${q.header.version}, body ${q.body.kind}, certification ${q.signature.certification.kind}, ${q.trailingBytes} trailing bytes`,
  );
  out(`tee_tcb_svn    ${toHex(q.body.teeTcbSvn)}`);
  out(`mrseam         ${toHex(q.body.mrSeam)}`);
  out(`attributes     ${flags(tdAttributes(td.attributes))}`);
  out(`xfam           ${flags(xfam(td.xfam))}`);
  printTd(td);
  out(`report data    ${toHex(q.body.reportData)}`);
  out('nothing of this is verified: use gramine-tdx-verify');
}

function printTd(td: {
  mrtd: Uint8Array;
  mrConfigId: Uint8Array;
  mrOwner: Uint8Array;
  mrOwnerConfig: Uint8Array;
  rtmrs: readonly Uint8Array[];
}): void {
  out(`mrtd           ${toHex(td.mrtd)}`);
  out(`mrconfigid     ${toHex(td.mrConfigId)}`);
  out(`mrowner        ${toHex(td.mrOwner)}`);
  out(`mrownerconfig  ${toHex(td.mrOwnerConfig)}`);
  for (const [i, r] of td.rtmrs.entries()) out(`rtmr${i}          ${toHex(r)}`);
}

function printReport(path: string): void {
  const r = parseTdReport(readBytes(path, 'TDREPORT'));
  out(`type 0x${r.type.type.toString(16)} version ${r.type.version}; both hashes agree`);
  out(`cpusvn         ${toHex(r.cpuSvn)}`);
  out(`tee_tcb_svn    ${toHex(r.tcb.teeTcbSvn)}`);
  out(`mrseam         ${toHex(r.tcb.mrSeam)}`);
  out(`attributes     0x${r.td.attributes.toString(16)} ${tdAttributes(r.td.attributes).names.join(' ')}`);
  printTd(r.td);
  out(`report data    ${toHex(r.reportData)}`);
}

async function main(): Promise<number> {
  try {
    await program().parseAsync();
    return 0;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (error instanceof MeasureError || error instanceof LaunchError) {
      process.stderr.write(`gramine-tdx-measure: ${error.message}\n`);
      return error.code === 'usage' ? 2 : 1;
    }
    throw error;
  }
}

main().then(
  (status) => {
    process.exitCode = status;
  },
  (error: unknown) => {
    process.stderr.write(
      `gramine-tdx-measure: internal error: ${error instanceof Error ? error.stack : String(error)}\n`,
    );
    process.exitCode = 1;
  },
);

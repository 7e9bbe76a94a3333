// SPDX-License-Identifier: Apache-2.0
//
// The commands of gramine-tdx-measure that take things apart: images, logs, quotes, reports, and the comparison of logs.

import type { Command } from 'commander';
import { parseMemory } from '../launch/index.js';
import {
  checkEventData,
  checkTdvf,
  computeMrtd,
  diffEvents,
  type EventDifference,
  type ExpectedEvent,
  eventsAgree,
  eventsFromJson,
  eventTypeName,
  expectedFromLog,
  type HobLayout,
  type LogEvent,
  MeasureError,
  parseEventLog,
  parseQuote,
  parseTdReport,
  parseTdvf,
  predictMrtd,
  replayEventLog,
  type TdInfo,
  tdAttributes,
  tdHobDigest,
  toHex,
  xfam,
} from '../measure/index.js';
import { readBytes, readQuote } from './measure-io.js';
import { note, out, registerName } from './measure-output.js';

export function addShowCommands(program: Command): void {
  program
    .command('inspect')
    .description('sections, footer tables and findings of a TDVF image')
    .argument('<image...>', 'an image, or VARS and CODE, which are joined')
    .action(inspect);
  program
    .command('mrtd')
    .description('MRTD of a TDVF image in both page orders')
    .argument('<image...>', 'an image, or VARS and CODE, which are joined')
    .option('--trace', 'list each PAGE.ADD and MR.EXTEND')
    .option('--order <order>', 'of the trace: page or section', 'page')
    .action(printMrtd);
  program
    .command('hob')
    .description('digest of the TD HOB that a VMM makes')
    .argument('<image...>', 'an image, or VARS and CODE, which are joined')
    .requiredOption('-m, --memory <size>', 'memory of the TD', parseMemory)
    .option('--layout <layout>', 'qemu or gce', 'qemu')
    .action(printHob);
  program
    .command('log')
    .description('events of a CCEL or TCG2 log, and the registers they lead to')
    .argument('<file>')
    .action(printLog);
  program
    .command('diff')
    .description('compare a log with what was expected, event by event; exit status 1 when they differ')
    .argument('<expected>', 'a file that --events wrote, or another log')
    .argument('<log>', 'the log found')
    .option('--all', 'list the events that agree, too')
    .action(diff);
  program.command('quote').description('a quote, decoded (nothing is verified)').argument('<file>').action(printQuote);
  program.command('report').description('a TDREPORT, decoded').argument('<file>').action(printReport);
}

function readImage(paths: readonly string[]): Uint8Array {
  return new Uint8Array(Buffer.concat(paths.map((p) => readBytes(p, 'image'))));
}

function inspect(paths: readonly string[]): void {
  const tdvf = parseTdvf(readImage(paths));
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
  const image = readImage(paths);
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
  for (const f of checkTdvf(parseTdvf(image))) if (f.source === 'measure') note(`warning: ${f.message}`);
}

function printHob(paths: readonly string[], options: { memory: bigint; layout: string }): void {
  if (options.layout !== 'qemu' && options.layout !== 'gce')
    throw new MeasureError('usage', `--layout: expected qemu or gce, got ${options.layout}`);
  out(toHex(tdHobDigest(options.layout as HobLayout, options.memory, parseTdvf(readImage(paths)).sections)));
}

function printLog(path: string): void {
  const log = parseEventLog(readBytes(path, 'event log'));
  for (const e of log.events)
    out(`${String(e.index).padStart(3)} ${eventLine(e)} data ${e.data.length} bytes, ${checkEventData(e)}`);
  for (const [i, value] of replayEventLog(log).entries()) out(`RTMR${i} ${toHex(value)}`);
}

function eventLine(e: Pick<LogEvent, 'mrIndex' | 'type'> & { readonly digest?: Uint8Array }): string {
  return `${registerName(e.mrIndex)} ${eventTypeName(e.type).padEnd(34)} ${e.digest ? toHex(e.digest) : '-'.padEnd(96)}`;
}

function diff(expectedPath: string, logPath: string, options: { readonly all?: true }): void {
  const differences = diffEvents(readExpected(expectedPath), parseEventLog(readBytes(logPath, 'log')));
  for (const d of differences) if (options.all || !plain(d)) out(differenceLine(d));
  const count = (f: (d: EventDifference) => boolean): number => differences.filter(f).length;
  out(
    `${count((d) => d.kind === 'same')} as expected, ${count((d) => d.kind === 'open')} not predicted, ${count((d) => d.kind === 'missing')} missing, ${count((d) => d.kind === 'extra')} unexpected, ${count(lies)} whose data is not what was measured`,
  );
  if (!eventsAgree(differences)) process.exitCode = 1;
}

const lies = (d: EventDifference): boolean => d.kind !== 'missing' && d.data === 'mismatch';
const plain = (d: EventDifference): boolean => d.kind === 'same' && !lies(d);

function differenceLine(d: EventDifference): string {
  const lie = lies(d) ? ' DATA IS NOT WHAT WAS MEASURED' : '';
  switch (d.kind) {
    case 'same':
      return `  ${eventLine(d.found)} ${d.expected.what}${lie}`;
    case 'open':
      return `? ${eventLine(d.found)} ${d.expected.what}: not predicted${lie}`;
    case 'missing':
      return `- ${eventLine(d.expected)} ${d.expected.what}`;
    case 'extra':
      return `+ ${eventLine(d.found)} event ${d.found.index}, data ${describe(d.found)}${lie}`;
    default:
      return d satisfies never;
  }
}

/** Event data on one line: text where it is text, else its start in hexadecimal. */
function describe(e: LogEvent): string {
  const text = Buffer.from(e.data).toString('latin1');
  if (/^[\x20-\x7e]{1,80}\0?$/.test(text)) return JSON.stringify(text.replace(/\0$/, ''));
  return `${toHex(e.data.subarray(0, 32))}${e.data.length > 32 ? '...' : ''} (${e.data.length} bytes)`;
}

function readExpected(path: string): ExpectedEvent[] {
  const bytes = readBytes(path, 'expected events');
  const text = /^\s*\{/.test(Buffer.from(bytes.subarray(0, 64)).toString('latin1'));
  return text ? eventsFromJson(Buffer.from(bytes).toString('utf8')) : expectedFromLog(parseEventLog(bytes));
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
  if (q.body.teeTcbSvn2) out(`tee_tcb_svn_2  ${toHex(q.body.teeTcbSvn2)}`);
  if (q.body.mrServiceTd) out(`mrservicetd    ${toHex(q.body.mrServiceTd)}`);
  out('nothing of this is verified: use gramine-tdx-verify');
}

function printTd(td: TdInfo): void {
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

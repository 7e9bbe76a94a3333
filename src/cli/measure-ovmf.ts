// SPDX-License-Identifier: Apache-2.0
//
// gramine-tdx-measure ovmf: the registers of a guest that boots through OVMF, from its parts, event by event.

import { closeSync, openSync, readSync } from 'node:fs';
import { basename } from 'node:path';
import type { Command } from 'commander';
import { parseMemory } from '../launch/index.js';
import {
  bootOption,
  type DirectBootParts,
  FIRMWARE_APPLICATIONS,
  GPT_BYTES,
  type HobLayout,
  type InitrdArgument,
  MeasureError,
  type NamedFile,
  type OvmfParts,
  ovmfEvents,
  parseEventLog,
  predictMrtd,
  REFERENCE_FORMAT,
  type ReferenceValues,
  registersOf,
  toHex,
} from '../measure/index.js';
import { readBytes } from './measure-io.js';
import { checkOutput, note, type OutputOptions, printEvents, printRegisters, writeOutput } from './measure-output.js';

interface OvmfOptions extends OutputOptions {
  readonly memory: bigint;
  readonly layout: string;
  readonly vars?: string;
  readonly secureBoot?: string;
  readonly fwCfg?: readonly string[];
  readonly acpiLoader?: string;
  readonly acpiRsdp?: string;
  readonly acpiTables?: string;
  readonly bootOption?: readonly string[];
  readonly separator: string;
  readonly kernel?: string;
  readonly initrd?: string;
  readonly append: string;
  readonly initrdArgument: string;
  readonly headerPatch: boolean;
  readonly pe?: readonly string[];
  readonly disk?: string;
  readonly log?: string;
}

const list = (v: string, l: readonly string[] = []): readonly string[] => [...l, v];

/** The options that choose how results are written: the same for every command that makes reference values. */
export function addOutputOptions(command: Command): Command {
  return command
    .option('--json [file]', 'write reference values for gramine-tdx-verify (without a file to standard output)')
    .option('--corim <file>', 'write them as CoRIM')
    .option('--sign <pem>', 'sign them with this private key (Ed25519, P-256, P-384)')
    .option('--events <file>', 'write the expected events, for gramine-tdx-measure diff');
}

export function addOvmfCommand(program: Command): void {
  const command = program
    .command('ovmf')
    .description('the registers of a guest that boots through OVMF, from its parts')
    .argument('<image...>', 'OVMF.fd, or VARS and CODE, which are joined')
    .requiredOption('-m, --memory <size>', 'memory of the TD', parseMemory)
    .option('--layout <layout>', 'whose TD HOB: qemu or gce', 'qemu')
    .option('--vars <file>', 'OVMF_VARS.fd in place of the image’s own variables')
    .option('--secure-boot <state>', 'absent, off or on (default: on with an enrolled PK, else absent)')
    .option(
      '--fw-cfg <name=file>',
      'a fw_cfg item that recent firmware measures (repeatable, in its order; default: what --log has)',
      list,
    )
    .option('--acpi-loader <file>', 'etc/table-loader as the VMM serves it')
    .option('--acpi-rsdp <file>', 'etc/acpi/rsdp')
    .option('--acpi-tables <file>', 'etc/acpi/tables')
    .option(
      '--boot-option <option>',
      `${Object.keys(FIRMWARE_APPLICATIONS).join(', ')}, or a file with the variable’s value (repeatable: Boot0000, Boot0001, ...; default: UiApp, or what --log has)`,
      list,
    )
    .option(
      '--separator <register>',
      'where the separator before booting goes: rtmr1, or rtmr0 with older firmware',
      'rtmr1',
    )
    .option('--kernel <file>', 'kernel given to QEMU with -kernel')
    .option('--initrd <file>', 'its initrd')
    .option('--append <text>', 'its command line', '')
    .option(
      '--initrd-argument <how>',
      'how OVMF names the initrd on the command line: append, prepend or none',
      'append',
    )
    .option('--no-header-patch', 'QEMU leaves the kernel’s setup header alone (recent releases, for a TD)')
    .option('--pe <file>', 'an image loaded from the disk: boot loader, kernel, UKI (repeatable, in order)', list)
    .option('--disk <file>', 'the disk booted from, for its partition table')
    .option('--log <file>', 'log of such a guest: what is not given is taken from it, and marked L')
    .action(ovmf);
  addOutputOptions(command);
}

function ovmf(images: readonly string[], o: OvmfOptions): void {
  checkOutput(o);
  const firmware = new Uint8Array(Buffer.concat(images.map((p) => readBytes(p, 'image'))));
  const events = ovmfEvents(parts(firmware, o));
  const rtmrs = registersOf(events);
  const mrtd = predictMrtd(firmware);
  const known = (i: 0 | 1 | 2): Pick<ReferenceValues, 'rtmr0' | 'rtmr1' | 'rtmr2'> => {
    const value = rtmrs[i];
    return value ? { [`rtmr${i}`]: [toHex(value)] } : {};
  };
  const reference: ReferenceValues = {
    format: REFERENCE_FORMAT,
    about: { firmware: images.map((p) => basename(p)).join(' '), memory: `${o.memory}`, layout: o.layout },
    mrtd: [toHex(mrtd.page), toHex(mrtd.section)],
    ...known(0),
    ...known(1),
    ...known(2),
    attributes: { value: '0000000000000000', mask: '0000000000000001' },
  };
  if (!writeOutput(o, reference, events)) {
    printEvents(events);
    printRegisters(mrtd, rtmrs);
  }
  if (events.some((e) => e.source === 'log'))
    note('events marked L were not computed: they are worth what the log’s giver is worth');
  for (const e of events) if (e.source === 'unknown') note(`not known: ${e.what}${hint(e.what)}`);
}

function hint(what: string): string {
  if (what.startsWith('ACPI'))
    return '; only the VMM knows: give --acpi-loader, --acpi-rsdp and --acpi-tables, or --log';
  if (what.startsWith('BootOrder')) return '; give --boot-option, or --log';
  if (what === 'partition table') return '; give --disk, or --log';
  if (what === 'loaded images') return '; give --pe, or --kernel, or --log';
  return '; give --log';
}

function choice<T extends string>(text: string, option: string, values: readonly T[]): T {
  const found = values.find((v) => v === text);
  if (found === undefined)
    throw new MeasureError('usage', `${option}: expected ${values.join(' or ')}, got ${JSON.stringify(text)}`);
  return found;
}

function parts(firmware: Uint8Array, o: OvmfOptions): OvmfParts {
  const acpi = [o.acpiLoader, o.acpiRsdp, o.acpiTables];
  const given = acpi.filter((f) => f !== undefined);
  if (given.length !== 0 && given.length !== 3)
    throw new MeasureError('usage', 'ACPI tables: give --acpi-loader, --acpi-rsdp and --acpi-tables together');
  const [loader = '', rsdp = '', tables = ''] = given;
  const log = o.log === undefined ? undefined : parseEventLog(readBytes(o.log, 'log'));
  const direct = directBoot(o);
  const options = o.bootOption ?? (log ? undefined : ['UiApp']);
  return {
    firmware,
    memoryBytes: o.memory,
    layout: choice<HobLayout>(o.layout, '--layout', ['qemu', 'gce']),
    bootSeparator: choice(o.separator, '--separator', ['rtmr1', 'rtmr0']),
    ...(o.vars === undefined ? {} : { vars: readBytes(o.vars, 'variables') }),
    ...(o.secureBoot === undefined
      ? {}
      : { secureBoot: choice(o.secureBoot, '--secure-boot', ['absent', 'off', 'on'] as const) }),
    ...(o.fwCfg ? { fwCfg: o.fwCfg.map(fwCfgItem) } : {}),
    ...(given.length === 3
      ? {
          acpi: [readBytes(loader, 'table loader'), readBytes(rsdp, 'RSDP'), readBytes(tables, 'ACPI tables')] as const,
        }
      : {}),
    ...(options ? { bootOptions: options.map(bootOptionValue) } : {}),
    ...(direct ? { direct } : {}),
    ...(o.pe ? { images: o.pe.map((p) => ({ name: basename(p), bytes: readBytes(p, 'PE image') })) } : {}),
    ...(o.disk === undefined ? {} : { disk: readStart(o.disk, GPT_BYTES) }),
    ...(log ? { log } : {}),
  };
}

function directBoot(o: OvmfOptions): DirectBootParts | undefined {
  if (o.kernel === undefined) {
    if (o.initrd !== undefined || o.append !== '')
      throw new MeasureError('usage', '--initrd and --append belong to --kernel');
    return undefined;
  }
  return {
    kernel: readBytes(o.kernel, 'kernel'),
    commandLine: o.append,
    initrdArgument: choice<InitrdArgument>(o.initrdArgument, '--initrd-argument', ['append', 'prepend', 'none']),
    patchHeader: o.headerPatch,
    ...(o.initrd === undefined ? {} : { initrd: readBytes(o.initrd, 'initrd') }),
  };
}

function bootOptionValue(text: string): Uint8Array {
  const builtIn = Object.entries(FIRMWARE_APPLICATIONS).find(([name]) => name === text)?.[1];
  return builtIn ? bootOption(builtIn) : readBytes(text, 'boot option');
}

function fwCfgItem(text: string): NamedFile {
  const at = text.lastIndexOf('=');
  if (at < 1) throw new MeasureError('usage', `--fw-cfg: expected NAME=FILE, got ${JSON.stringify(text)}`);
  return { name: text.slice(0, at), bytes: readBytes(text.slice(at + 1), 'fw_cfg item') };
}

/** The start of a file that may be as large as a disk. */
function readStart(path: string, bytes: number): Uint8Array {
  try {
    const fd = openSync(path, 'r');
    try {
      const buffer = new Uint8Array(bytes);
      return buffer.subarray(0, readSync(fd, buffer, 0, bytes, 0));
    } finally {
      closeSync(fd);
    }
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? '';
    throw new MeasureError('usage', `disk: cannot read ${path} (${code})`, undefined, { cause });
  }
}

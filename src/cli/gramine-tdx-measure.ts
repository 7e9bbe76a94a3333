#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// gramine-tdx-measure: says beforehand what a TD must report, and takes images, logs, quotes and reports apart.
// Exit status: 0 done, 1 the input is not what it should be, or events differ, 2 usage.

import { Command, CommanderError } from 'commander';
import {
  LaunchError,
  measuredItems,
  type Publication,
  parseCpus,
  parseMemory,
  parseOutbound,
  parsePublication,
  parseVolume,
  parseWorkdir,
  type Volume,
} from '../launch/index.js';
import {
  type ExpectedEvent,
  MeasureError,
  predictMrtd,
  predictRtmrs,
  REFERENCE_FORMAT,
  type ReferenceValues,
  sha384,
  toHex,
} from '../measure/index.js';
import { checkOutput, endWithReader, note, type OutputOptions, printRegisters, writeOutput } from './measure-output.js';
import { addOutputOptions, addOvmfCommand } from './measure-ovmf.js';
import { addShowCommands } from './measure-show.js';

interface AppOptions extends OutputOptions {
  readonly cpus?: number;
  readonly memory?: bigint;
  readonly env?: readonly string[];
  readonly publish?: readonly Publication[];
  readonly volume?: readonly Volume[];
  readonly net?: readonly string[];
  readonly workdir?: string;
  readonly kernel?: string;
}

function program(): Command {
  const command = new Command('gramine-tdx-measure')
    .description('Say what a TD must report, from files alone.')
    .exitOverride()
    .showHelpAfterError('(see --help)');
  const app = command
    .command('app', { isDefault: true })
    .description('the registers of a program that gramine-tdx would run')
    .argument('<app>', 'the program or its manifest')
    .argument('[args...]', 'its arguments (after --)')
    .option('-c, --cpus <number>', 'virtual CPUs (default: the manifest’s tdx.vcpus, else 1)', parseCpus)
    .option('-m, --memory <size>', 'memory, such as 1G (default: the manifest’s)', parseMemory)
    .option('-e, --env <name=value>', 'environment variable (repeatable)', collect(String))
    .option('-p, --publish <host:guest>', 'as it will be launched with (repeatable)', collect(parsePublication))
    .option('-v, --volume <host:guest>', 'as it will be launched with (repeatable)', collect(parseVolume))
    .option('--net <host:port>', 'as it will be launched with (repeatable)', collect(parseOutbound))
    .option('-w, --workdir <path>', 'as it will be launched with', parseWorkdir)
    .option('--kernel <file>', 'kernel image (default: the one of this package)')
    .action(measureApp);
  addOutputOptions(app);
  addOvmfCommand(command);
  addShowCommands(command);
  for (const c of command.commands) c.exitOverride().showHelpAfterError('(see --help)');
  return command;
}

function collect<T>(parse: (text: string) => T): (text: string, list?: readonly T[]) => readonly T[] {
  return (text, list = []) => [...list, parse(text)];
}

async function measureApp(app: string, args: readonly string[], options: AppOptions): Promise<void> {
  checkOutput(options);
  const kernelImage = options.kernel ?? process.env.GRAMINE_TDX_KERNEL;
  const m = await measuredItems({
    app: app.replace(/\.manifest(?:\.sgx|\.tdx)?$/, ''),
    args,
    env: options.env ?? [],
    publish: options.publish,
    volumes: options.volume,
    outbound: options.net,
    workdir: options.workdir,
    cpus: options.cpus,
    memoryBytes: options.memory,
    kernelImage,
  });
  const rtmrs = predictRtmrs(m.items);
  const mrtd = m.image === undefined ? undefined : predictMrtd(m.image);
  // A register that reference values do not name is not checked: these would trust any kernel, and so any program, while the
  // user believes that the one named is meant.
  if (mrtd === undefined && kernelImage !== undefined && (options.json !== undefined || options.corim !== undefined))
    throw new MeasureError('usage', `reference values need MRTD: ${m.notes.join('; ')}`);
  const reference: ReferenceValues = {
    format: REFERENCE_FORMAT,
    about: { app, arguments: args.join(' '), cpus: String(m.cpus), memory: `${m.memoryBytes}` },
    ...(mrtd ? { mrtd: [toHex(mrtd.page), toHex(mrtd.section)] } : {}),
    rtmr0: [toHex(rtmrs[0])],
    rtmr1: [toHex(rtmrs[1])],
    rtmr2: [toHex(rtmrs[2])],
    // SEPT_VE_DISABLE set, without which the kernel does not boot; not debugged, profiled or migratable, as the launcher
    // makes it: the verifier asks for that too, others who read these values may not.
    attributes: { value: '0000000010000000', mask: '00000000300000ff' },
  };
  // docs/launch-record.md, "Events".
  const event = (mrIndex: number, type: number, what: string, data: Uint8Array): ExpectedEvent => ({
    mrIndex,
    type,
    what,
    digest: sha384(data),
    source: 'computed',
  });
  const events = [
    event(1, 0xa, 'vm', m.items.vm),
    event(3, 0xd, 'policy', m.items.policy),
    event(3, 0xd, 'invocation', m.items.invocation),
  ];
  if (!writeOutput(options, reference, events)) printRegisters(mrtd, rtmrs);
  for (const n of m.notes) note(n);
}

async function main(): Promise<void> {
  endWithReader();
  try {
    await program().parseAsync();
  } catch (error) {
    if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
    else if (error instanceof MeasureError || error instanceof LaunchError) {
      note(error.message);
      process.exitCode = error.code === 'usage' ? 2 : 1;
    } else throw error;
  }
}

main().catch((error: unknown) => {
  note(`internal error: ${error instanceof Error ? error.stack : String(error)}`);
  process.exitCode = 1;
});

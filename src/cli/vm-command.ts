// SPDX-License-Identifier: Apache-2.0
//
// The command line of the launchers: options in, lines and an exit status out.

import { readFileSync, writeFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import {
  dryRun,
  LaunchError,
  type LaunchRequest,
  launch,
  type MachineRequest,
  type Publication,
  parseCpus,
  parseEnv,
  parseMemory,
  parseOutbound,
  parsePublication,
  parseQuoteService,
  parseRegister,
  parseVolume,
  parseWorkdir,
  type QuoteAddress,
  quote,
  type Volume,
} from '../launch/index.js';
import { completion } from './completion.js';
import { EXIT_CODES, INTERNAL_EXIT_CODE, USAGE_EXIT_CODE } from './exit-codes.js';
import { UsageError } from './manifest-errors.js';

interface Options {
  readonly publish?: readonly Publication[];
  readonly volume?: readonly Volume[];
  readonly env?: readonly (readonly [string, string])[];
  readonly workdir?: string;
  readonly memory?: bigint;
  readonly cpus?: number;
  readonly net?: readonly string[];
  /** gramine-vm */
  readonly accel?: 'auto' | 'kvm' | 'tcg';
  /** gramine-tdx */
  readonly simulate?: true;
  readonly quoteService?: QuoteAddress | 'auto' | 'none';
  readonly mrconfigid?: Uint8Array;
  readonly mrowner?: Uint8Array;
  readonly mrownerconfig?: Uint8Array;
  readonly debugTd?: true;
  readonly collateral?: string;
  readonly quoteVersion?: '4' | '5';
  readonly simulatorOption?: readonly (readonly [string, string])[];
  readonly completion?: string;
  readonly gdb?: string;
  readonly verbose?: true;
  readonly dryRun?: true;
  readonly saveManifest?: string;
  readonly quiet?: true;
}

const LOG_ERROR = 1;
const LOG_WARNING = 2;
const LOG_DEBUG = 3;

export type VmCommandName = 'gramine-vm' | 'gramine-tdx';

/** Runs the command and ends the process with its exit status. */
export async function runVmCommand(name: VmCommandName, argv: readonly string[]): Promise<void> {
  // `gramine-vm --help | head` ends before we do, and the reader of our messages may.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  try {
    process.exitCode = await run(name, argv);
  } catch (error) {
    process.exitCode = report(name, error);
  }
  // A terminal or a pipe on stdin would keep the process alive, so it must be told to end; but not before a slow reader
  // has taken what it is owed.
  await Promise.all([process.stdout, process.stderr].map((stream) => new Promise((done) => stream.write('', done))));
  process.exit();
}

async function run(name: VmCommandName, argv: readonly string[]): Promise<number> {
  const command = buildCommand(name);
  if (argv[0] === '--completion' && argv.length === 2) {
    process.stdout.write(completion(argv[1] ?? '', command));
    return 0;
  }
  command.parse(argv as string[], { from: 'user' });
  const [app = '', ...args] = command.args;
  const options = command.opts<Options>();
  const say = (line: string) => tell(name, line);
  const request: LaunchRequest = {
    app,
    args,
    publish: options.publish ?? [],
    volumes: options.volume ?? [],
    env: options.env ?? [],
    outbound: options.net ?? [],
    workdir: options.workdir,
    memoryBytes: options.memory,
    cpus: options.cpus,
    machine: machineOf(name, options),
    gdb: options.gdb,
    verbose: options.verbose ?? false,
    kernelImage: process.env.GRAMINE_TDX_KERNEL,
    bridgeProgram: process.env.GRAMINE_TDX_BRIDGE,
    simulatorImage: process.env.GRAMINE_TDX_SIMULATOR,
    kernelLogLevel: options.verbose ? LOG_DEBUG : options.quiet ? LOG_ERROR : LOG_WARNING,
    kernelLog: options.verbose ? (line) => process.stderr.write(`${line}\n`) : say,
    say: options.quiet ? () => {} : say,
    warn: say,
    detail: options.verbose ? say : () => {},
  };
  if (options.saveManifest !== undefined || options.dryRun) return prepareOnly(request, options, say);
  return launch(request);
}

function machineOf(name: VmCommandName, options: Options): MachineRequest {
  if (name === 'gramine-vm') return { kind: 'vm', accelerator: options.accel ?? 'auto' };
  const { simulate, collateral, quoteVersion, simulatorOption } = options;
  const identity = {
    mrConfigId: options.mrconfigid,
    mrOwner: options.mrowner,
    mrOwnerConfig: options.mrownerconfig,
    debug: options.debugTd ?? false,
  };
  if (!simulate) {
    const only = { collateral, 'quote-version': quoteVersion, 'simulator-option': simulatorOption };
    for (const [option, value] of Object.entries(only)) {
      if (value !== undefined) throw new LaunchError('usage', `--${option} is for --simulate`);
    }
    return { kind: 'td', identity, quotes: options.quoteService ?? 'auto' };
  }
  const service = options.quoteService ?? 'auto';
  if (typeof service === 'object' && service.type === 'vsock') {
    throw new LaunchError('usage', '--quote-service: a simulated TD reaches services on unix sockets only');
  }
  if (service !== 'auto' && (collateral !== undefined || quoteVersion !== undefined)) {
    throw new LaunchError(
      'usage',
      '--collateral and --quote-version are for the quoting service of a simulated TD’s own',
    );
  }
  return {
    kind: 'simulated',
    identity,
    quotes: service === 'auto' ? 'own' : service,
    quoteVersion: quoteVersion === '5' ? 5 : 4,
    collateral,
    options: simulatorOption ?? [],
  };
}

/** --dry-run and --save-manifest: shows what would run, and runs nothing. */
async function prepareOnly(request: LaunchRequest, options: Options, say: (line: string) => void): Promise<number> {
  const { plan, commands } = await dryRun(request);
  request.say(plan.summary);
  if (options.saveManifest !== undefined) {
    const { default: toml } = await import('@iarna/toml');
    try {
      writeFileSync(options.saveManifest, toml.stringify(plan.manifest as Parameters<typeof toml.stringify>[0]), {
        flag: 'wx',
      });
    } catch (error) {
      const exists = (error as NodeJS.ErrnoException).code === 'EEXIST';
      const why = exists ? 'it exists already; remove it first' : (error as Error).message;
      throw new LaunchError(exists ? 'usage' : 'not-permitted', `--save-manifest ${options.saveManifest}: ${why}`);
    }
    say(`wrote ${options.saveManifest}`);
  }
  if (options.dryRun) for (const words of commands) process.stdout.write(`${words.map(quote).join(' ')}\n`);
  plan.remember();
  return 0;
}

function buildCommand(name: VmCommandName): Command {
  const collect =
    <T>(parse: (text: string) => T) =>
    (text: string, list: readonly T[] = []): readonly T[] => [...list, asArgument(parse)(text)];
  const td = name === 'gramine-tdx';
  const command = new Command(name)
    .description(`Run a Linux program, unmodified, in a ${td ? 'trust domain' : 'virtual machine'} of its own.`)
    .argument('<app>', 'the program; APP.manifest.tdx, .manifest.sgx or .manifest is used where it exists')
    .argument('[args...]', "the program's arguments")
    .addOption(list('-p, --publish <host:guest>', 'open a port: [ADDRESS:]HOST:GUEST[/udp]', parsePublication))
    .addOption(
      list('-v, --volume <host:guest>', 'let the program see a file or directory: HOST:GUEST[:rw]', parseVolume),
    )
    .addOption(list('-e, --env <name=value>', 'set an environment variable', parseEnv))
    .option('-w, --workdir <path>', "the program's working directory in the guest", asArgument(parseWorkdir))
    .option(
      '-m, --memory <size>',
      'memory of the machine, such as 512M or 2G (default: the manifest, else 1G)',
      asArgument(parseMemory),
    )
    .option(
      '-c, --cpus <number>',
      `virtual CPUs (default: the manifest, else ${td ? '1' : 'those of the host, at most 4'})`,
      asArgument(parseCpus),
    )
    .addOption(list('--net <host:port>', 'let the program connect there; "*:*" for anywhere', parseOutbound))
    .option('--gdb <address>', 'wait for a debugger of the kernel there, such as tcp:127.0.0.1:1234')
    .option('--save-manifest <file>', 'write the manifest that this run would use, and stop')
    .option('--dry-run', 'print the commands that would run, and stop')
    .option('--verbose', "show the commands, the kernel's log and the bridge's")
    .option('-q, --quiet', 'say nothing but errors')
    .version(readVersion(), '-V, --version')
    .passThroughOptions()
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .addHelpText('after', help(name));
  return td ? addTdOptions(command) : addVmOptions(command);

  function addVmOptions(to: Command): Command {
    return to.addOption(
      new Option('--accel <name>', 'kvm, tcg (software), or the better one that works')
        .choices(['auto', 'kvm', 'tcg'])
        .default('auto'),
    );
  }

  function addTdOptions(to: Command): Command {
    const register = (option: string, what: string) =>
      new Option(`${option} <hex>`, `${what} (48 bytes)`).argParser(asArgument(parseRegister(option)));
    return to
      .option('--simulate', 'run in a simulated TD: the same image, and nothing is protected')
      .addOption(
        new Option(
          '--quote-service <address>',
          'unix:PATH or vsock:CID:PORT of the quoting service, or none',
        ).argParser(asArgument(parseQuoteService)),
      )
      .addOption(register('--mrconfigid', 'MRCONFIGID of the TD'))
      .addOption(register('--mrowner', 'MROWNER of the TD'))
      .addOption(register('--mrownerconfig', 'MROWNERCONFIG of the TD'))
      .option('--debug-td', 'a debug TD: the host may read everything in it')
      .option('--collateral <dir>', 'with --simulate: write the root and collateral of its quotes there')
      .addOption(new Option('--quote-version <number>', 'with --simulate: format of its quotes').choices(['4', '5']))
      .addOption(list('--simulator-option <name=value>', 'with --simulate: kernel-bin/sim/README.md', parseSetting));
  }

  function list<T>(flags: string, description: string, parse: (text: string) => T): Option {
    return new Option(flags, `${description} (repeatable)`).argParser(collect(parse));
  }
}

const help = (name: VmCommandName) => `
Options of ${name} go before APP; what follows APP is the program's.
Examples:
  ${name} redis-server --save ''
  ${name} -p 6379:6379 -v ./data:/data:rw -w /data redis-server${name === 'gramine-tdx' ? '\n  gramine-tdx --simulate redis-server' : ''}
Exit status: the program's own, 128+N when signal N ended it, 64-80 when it could not be run (docs/cli.md).
Typing Ctrl-] three times ends the machine. "${name} --completion bash" (or zsh) prints a completion script.`;

/** Lets commander name the option that a LaunchError's message is about in its own way. */
function asArgument<T>(parse: (text: string) => T): (text: string) => T {
  return (text) => {
    try {
      return parse(text);
    } catch (error) {
      if (error instanceof LaunchError) throw new InvalidArgumentError(error.message);
      throw error;
    }
  };
}

function parseSetting(text: string): readonly [string, string] {
  const match = /^([a-z-]+)=(.*)$/.exec(text);
  if (match?.[1] !== undefined && match[2] !== undefined) return [match[1], match[2]];
  throw new LaunchError('usage', `--simulator-option ${text}: expected NAME=VALUE, such as gpaw=52`);
}

function readVersion(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/**
 * A message on stderr. It may quote a script's first line, a file's name, or what a helper said that a guest has taken over:
 * none of them writes on the terminal what we did not say.
 */
function tell(name: string, text: string): void {
  const plain = text.replace(/[^\P{Cc}\n\t]/gu, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);
  process.stderr.write(`${name}: ${plain}\n`);
}

/** Prints an error as one message and returns its exit code; only a bug of ours shows where it happened. */
function report(name: string, error: unknown): number {
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    const message = error.message
      .replace(/^error: /, '')
      .replace(/^option '[^']*' argument '[^']*' is invalid\. (?=--)/, '');
    tell(name, `${message}\nTry ${name} --help.`);
    return USAGE_EXIT_CODE;
  }
  if (error instanceof LaunchError) {
    tell(name, error.message);
    return EXIT_CODES[error.code];
  }
  if (error instanceof UsageError) {
    tell(name, error.message);
    return USAGE_EXIT_CODE;
  }
  tell(name, `internal error, please report it: ${error instanceof Error ? error.stack : String(error)}`);
  return INTERNAL_EXIT_CODE;
}

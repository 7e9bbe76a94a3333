// SPDX-License-Identifier: Apache-2.0
//
// The command line of gramine-manifest: a template in, a manifest out.

import { closeSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import type { HashProgress } from '../manifest/index.js';
import { completion } from './completion.js';
import { endQuietlyWithReader, FileError, reportManifestError, UsageError } from './manifest-errors.js';
import { readVersion } from './version.js';

const NAME = 'gramine-manifest';

interface Options {
  readonly define?: Readonly<Record<string, string | true>>;
  readonly string?: string;
  readonly chroot?: string;
  readonly check: boolean;
  readonly libdir?: string;
  readonly depfile?: string;
  readonly tdx?: boolean;
  readonly cache: boolean;
  readonly quiet?: boolean;
  readonly showPolicy?: boolean;
  readonly completion?: string;
  readonly auto?: boolean;
  readonly trace?: string | true;
  readonly output?: string;
}

/** Runs the command and ends the process. */
export async function runManifestCommand(argv: readonly string[]): Promise<void> {
  endQuietlyWithReader();
  try {
    await run(argv);
  } catch (error) {
    clearProgress();
    process.exitCode = reportManifestError(NAME, error);
  }
}

export function buildManifestCommand(): Command {
  return new Command(NAME)
    .description('Make a manifest from a template: render it, add defaults, check it, hash its trusted files.')
    .usage('[options] [-c STRING | TEMPLATE] [OUT]')
    .argument('[template]', 'the template; "-": standard input')
    .argument('[out]', 'the manifest; "-" or nothing: standard output')
    .addOption(
      new Option('-D, --define <name=value>', 'define a variable of the template (repeatable)').argParser(addDefine),
    )
    .option('-c, --string <text>', 'the template itself, instead of its file')
    .option(
      '--tdx',
      "write table tdx for this project's launcher: size, mode, link target and hash-tree root of each\ntrusted file (as when OUT ends in .manifest.tdx)",
    )
    .option('--chroot <dir>', 'look for trusted files below DIR, as if it were "/"')
    .option('--no-check', 'do not check the manifest against the schema')
    .option('--libdir <dir>', "Gramine's own folder: gramine.pkglibdir in templates")
    .option('--depfile <file>', 'write a rule for make or ninja: OUT and the files that it depends on')
    .option('--no-cache', 'hash every file, also those that have not changed since the last time')
    .option('-q, --quiet', 'no progress bar')
    .option('--show-policy', 'print what a finished manifest says, every default filled in, and stop')
    .option('--auto', 'write a template for a program of this machine: --auto [-o OUT] PROGRAM [ARGS]')
    .option('--trace [seconds]', 'with --auto: run the program here under strace (5 s), and add what it opens')
    .option('-o, --output <file>', 'with --auto: where the template goes')
    .option('--completion <shell>', 'print the completion script for bash or zsh')
    .version(readVersion(), '-V, --version')
    .allowExcessArguments()
    .passThroughOptions()
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .addHelpText('after', HELP);
}

const HELP = `
Examples:
  gramine-manifest -Dlog_level=error redis.manifest.template redis-server.manifest.tdx
  gramine-manifest -c 'libos.entrypoint = "/{{ name }}"' -Dname=app
  gramine-manifest --auto -o redis-server.manifest.template redis-server --save ''
  gramine-manifest --show-policy redis-server.manifest.tdx

Templates are Jinja2's; what this tool would render differently it refuses, with line and column.
Without --tdx the output is what Gramine 1.9 writes, byte for byte, less the table loader.entrypoint.
Exit status: 0 done, 1 a problem of the manifest or its files (each with its place), 2 wrong usage.
docs/manifest.md lists every key and what becomes of it.`;

function addDefine(
  text: string,
  before: Readonly<Record<string, string | true>> = {},
): Readonly<Record<string, string | true>> {
  const at = text.indexOf('=');
  // A name without a value is Python's True.
  return at < 0 ? { ...before, [text]: true } : { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

/** Loaded when there is work: not for --help, nor for a wrong option. */
const manifestRoom = () => import('../manifest/index.js');

async function run(argv: readonly string[]): Promise<void> {
  const command = buildManifestCommand();
  command.parse(argv as string[], { from: 'user' });
  const options = command.opts<Options>();
  if (options.completion !== undefined) {
    process.stdout.write(completion(options.completion, command));
    return;
  }
  // `--trace PROGRAM`: the parser takes what follows for the option's value.
  if (options.auto && typeof options.trace === 'string' && Number.isNaN(Number(options.trace))) {
    const at = argv.indexOf('--trace');
    if (at >= 0) return run(argv.with(at, `--trace=${DEFAULT_TRACE_SECONDS}`));
  }
  if (options.auto) {
    await auto(command.args, options);
    return;
  }
  if (options.trace !== undefined || options.output !== undefined)
    throw new UsageError('--trace and --output go with --auto');
  const [template, out] = places(command.args, options.string);
  if (options.showPolicy) {
    if (template === undefined || out !== undefined) throw new UsageError('--show-policy takes one manifest');
    const name = template === '-' ? '<stdin>' : template;
    const { compileManifest, decodeText, parseManifest, showPolicy } = await manifestRoom();
    writeOut(undefined, [showPolicy(compileManifest(parseManifest(decodeText(readInput(template), name), name)))]);
    return;
  }
  await make(template, out, options);
}

/** TEMPLATE and OUT; with -c the only place is OUT. */
function places(args: readonly string[], text: string | undefined): [string | undefined, string | undefined] {
  const [first, second, ...more] = args;
  if (text === undefined && first === undefined)
    throw new UsageError('a template is missing: give TEMPLATE or -c STRING');
  if (text !== undefined && second !== undefined) throw new UsageError('give either TEMPLATE or -c STRING, not both');
  if (more.length > 0) throw new UsageError(`unexpected "${more[0]}": one template makes one manifest`);
  return text === undefined ? [first, second] : [undefined, first];
}

const DEFAULT_TRACE_SECONDS = 5;

async function auto(words: readonly string[], options: Options): Promise<void> {
  const [app, ...args] = words;
  if (app === undefined) throw new UsageError('--auto needs a program');
  const seconds = options.trace === true ? DEFAULT_TRACE_SECONDS : Number(options.trace ?? 1);
  // 0 would be no limit to timeout(1).
  if (!(seconds > 0 && seconds <= 86400)) throw new UsageError(`--trace ${options.trace}: expected seconds`);
  const { autoManifest, cacheFileFor, FileCache } = await manifestRoom();
  const cache = new FileCache(options.cache ? cacheFileFor(`auto ${app}`) : undefined);
  const traced = options.trace === undefined ? {} : { traceSeconds: seconds };
  const { template, warnings } = autoManifest({ app, args, cache, ...traced });
  for (const warning of warnings) process.stderr.write(`${NAME}: ${warning}\n`);
  writeOut(options.output, [template]);
  cache.save();
}

async function make(template: string | undefined, out: string | undefined, options: Options): Promise<void> {
  const { cacheFileFor, decodeText, FileCache, generateManifest } = await manifestRoom();
  const file = template === undefined ? '<string>' : template === '-' ? '<stdin>' : template;
  const text = template === undefined ? (options.string ?? '') : decodeText(readInput(template), file);
  if (options.chroot !== undefined) requireFolder(options.chroot);
  if (options.depfile !== undefined && (out === undefined || out === '-'))
    throw new UsageError('--depfile needs OUT: its rule says what OUT depends on');
  if (options.depfile !== undefined)
    for (const name of [out, template])
      if (NOT_FOR_MAKE.test(name ?? ''))
        throw new UsageError(`--depfile: make cannot write the name ${JSON.stringify(name)}`);
  const tdx = options.tdx ?? out?.endsWith('.manifest.tdx') ?? false;
  const cache = new FileCache(
    options.cache ? cacheFileFor(`manifest ${resolve(out ?? template ?? '.')}${options.chroot ?? ''}`) : undefined,
  );
  const manifest = await generateManifest({
    template: text,
    file,
    define: options.define ?? {},
    ...(options.libdir === undefined ? {} : { libdir: options.libdir }),
    check: options.check,
    tdx,
    cache,
    ...(options.chroot === undefined ? {} : { chroot: options.chroot }),
    ...(process.stderr.isTTY && !options.quiet ? { onProgress: showProgress } : {}),
  });
  clearProgress();
  writeOut(out, manifest.pieces());
  if (options.depfile !== undefined && out !== undefined)
    writeOut(options.depfile, dependencyRule(out, template, manifest.dependencies()));
  cache.save();
}

function readInput(path: string): Buffer {
  try {
    return readFileSync(path === '-' ? 0 : path);
  } catch (error) {
    throw new FileError(`cannot read ${path === '-' ? 'standard input' : path}`, error);
  }
}

function requireFolder(path: string): void {
  let isFolder = false;
  try {
    isFolder = statSync(path).isDirectory();
  } catch (error) {
    throw new FileError(`--chroot ${path}`, error);
  }
  if (!isFolder) throw new UsageError(`--chroot ${path}: not a directory`);
}

// Little, so that the strings it is made of are garbage before the collector has copied them.
const WRITE_BYTES = 1 << 16;

/** Writes pieces of text to a file, or to standard output. */
function writeOut(path: string | undefined, pieces: Iterable<string>): void {
  const own = path !== undefined && path !== '-';
  let fd = 1;
  try {
    if (own) fd = openSync(path, 'w');
    let waiting: string[] = [];
    let size = 0;
    const flush = () => {
      const bytes = Buffer.from(waiting.join(''));
      for (let at = 0; at < bytes.length; ) at += writeSome(fd, bytes.subarray(at));
      waiting = [];
      size = 0;
    };
    for (const piece of pieces) {
      waiting.push(piece);
      size += piece.length;
      if (size >= WRITE_BYTES) flush();
    }
    flush();
  } catch (error) {
    // A reader that has seen enough, such as head.
    if ((error as NodeJS.ErrnoException).code === 'EPIPE') return;
    if ((error as NodeJS.ErrnoException).syscall === undefined) throw error;
    throw new FileError(`cannot write ${own ? path : 'standard output'}`, error);
  } finally {
    if (own && fd !== 1) closeSync(fd);
  }
}

/** A pipe without room is waited for. */
function writeSome(fd: number, bytes: Uint8Array): number {
  for (;;) {
    try {
      return writeSync(fd, bytes);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

function* dependencyRule(out: string, template: string | undefined, files: Iterable<string>): Generator<string> {
  yield `${quotedForMake(out)}:`;
  if (template !== undefined && template !== '-') yield ` \\\n\t${quotedForMake(template)}`;
  let leftOut = 0;
  for (const file of files) {
    if (NOT_FOR_MAKE.test(file)) leftOut += 1;
    else yield ` \\\n\t${quotedForMake(file)}`;
  }
  yield '\n';
  if (leftOut > 0)
    process.stderr.write(
      `${NAME}: --depfile: ${leftOut} files left out: make can write no ";", tab or line end in a name\n`,
    );
}

/** What make has no way to write in the name of a file. */
const NOT_FOR_MAKE = /[\0-\x1f;]/;

/** As make and ninja both understand it: a backslash escapes only before what it must, and there others double. */
function quotedForMake(path: string): string {
  return path
    .replace(/(\\*)([ #:]|$)/g, (_, run: string, c: string) => run + run + (c === '' ? '' : `\\${c}`))
    .replaceAll('$', '$$$$');
}

const PROGRESS_EVERY_MS = 100;
let shown = 0;

function showProgress({ files, totalFiles, bytes }: HashProgress): void {
  const now = Date.now();
  if (now - shown < PROGRESS_EVERY_MS) return;
  shown = now;
  const width = 20;
  const done = Math.round((width * files) / Math.max(1, totalFiles));
  const amount = bytes >= 1 << 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`;
  process.stderr.write(
    `\r\x1b[K[${'#'.repeat(done)}${'.'.repeat(width - done)}] ${files}/${totalFiles} files, ${amount}`,
  );
}

function clearProgress(): void {
  if (shown > 0) process.stderr.write('\r\x1b[K');
  shown = 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// Writes a manifest template for a program of this machine: everything that discover.ts finds, each entry with the reason
// why it is there, so that a person can go through it and strike out what is not wanted.

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { discover, findProgram, GUEST_PATH } from './discover.js';
import { ManifestError } from './errors.js';
import type { FileCache } from './file-cache.js';
import { toml, writeToml } from './toml.js';

export interface AutoRequest {
  readonly app: string;
  readonly args: readonly string[];
  readonly cache: FileCache;
  /** Run the program on this machine for so long, under strace, and add what it opens. */
  readonly traceSeconds?: number;
}

export interface AutoManifest {
  /** The template's text. */
  readonly template: string;
  readonly warnings: readonly string[];
}

const GUEST_ENVIRONMENT: ReadonlyMap<string, string> = new Map([
  ['PATH', GUEST_PATH],
  ['HOME', '/'],
]);

/** Errors: ManifestError `program-missing`, `wrong-architecture`. */
export function autoManifest(request: AutoRequest): AutoManifest {
  const entrypoint = findProgram(request.app);
  const env = GUEST_ENVIRONMENT;
  const traced =
    request.traceSeconds === undefined ? undefined : trace(entrypoint, request.args, request.traceSeconds, env);
  const found = discover({
    entrypoint,
    args: request.args,
    env,
    cache: request.cache,
    packageFolders: true,
    opened: traced ?? [],
  });
  const name = comment(basename(entrypoint));
  const lines = [
    `# Manifest template of ${comment(entrypoint)}, written by gramine-manifest --auto${traced ? ' --trace' : ''}. To use it:`,
    `#   gramine-manifest ${name}.manifest.template ${name}.manifest.tdx`,
    `#   gramine-vm ${name}`,
    '# What the program opens by names of its own making is not here: add it below, or try --trace.',
    '',
    `libos.entrypoint = ${quote(entrypoint)}`,
    `loader.argv = [${[request.app, ...request.args].map(quote).join(', ')}]`,
    'loader.log_level = "error"',
    ...[...env].map(([key, value]) => `loader.env.${key} = ${quote(value)}`),
    '',
    "# Limits as in a shell, not Gramine's, which suit an enclave.",
    'sys.stack.size = "8M"',
    'sys.brk.max_size = "16G"',
    'sys.fds.limit = 65536',
    '',
    '# Where the program may connect, such as "example.org:443"; and, in tdx.net.publish, the only guest ports that',
    '# gramine-vm -p may open, such as "6379/tcp" (without that key: any).',
    'tdx.net.outbound = []',
    '',
    ...(found.relativeArguments ? [`fs.start_dir = ${quote(process.cwd())} # an argument is a relative path`] : []),
    '# The root is in memory: what is not mounted below does not exist, and what is written there is gone after the run.',
    'fs.root = { type = "tmpfs" }',
    'fs.mounts = [',
    '  { type = "tmpfs", path = "/tmp" },',
    ...found.folders.map(
      ({ path, reason }) => `  { path = ${quote(path)}, uri = ${quote(`file:${path}`)} }, # ${comment(reason)}`,
    ),
    ...found.files.map(
      ({ guest, host, reason }) => `  { path = ${quote(guest)}, uri = ${quote(`file:${host}`)} }, # ${comment(reason)}`,
    ),
    ']',
    '',
    '# Each of these is hashed: the program gets these contents or none.',
    'sgx.trusted_files = [',
    ...found.folders.map(({ path, reason }) => `  ${quote(`file:${path}/`)}, # ${comment(reason)}`),
    ...unique(found.files, ({ host }) => host).map(
      ({ host, reason }) => `  ${quote(`file:${host}`)}, # ${comment(reason)}`,
    ),
    ']',
    '',
  ];
  return {
    template: lines.join('\n'),
    warnings: [
      ...found.missing.map((library) => `${request.app} needs ${library}, which is not on this machine`),
      ...found.unreadable.map(
        ({ folder, reason, path }) => `${folder} (${reason}) is left out: you may not read ${path}`,
      ),
    ],
  };
}

/** As TOML text that is safe in a template. */
function quote(text: string): string {
  const written = writeToml(toml.table([['k', toml.string(text)]])).slice('k = '.length, -1);
  return written.replace(/\{(?=[{%#])/g, '{{ "{" }}');
}

const comment = (text: string): string => text.replace(/[\0-\x1f\x7f]/g, '?').replace(/\{(?=[{%#])/g, '{ ');

function unique<T>(items: Iterable<T>, key: (item: T) => string): T[] {
  const seen = new Set<string>();
  return [...items].filter((item) => !seen.has(key(item)) && seen.add(key(item)));
}

/**
 * The regular files that the program opens successfully while it runs on this machine, in the environment of the manifest;
 * what it writes itself is not among them. Error: ManifestError `program-missing` without strace.
 */
export function trace(
  program: string,
  args: readonly string[],
  seconds: number,
  env: ReadonlyMap<string, string> = GUEST_ENVIRONMENT,
): string[] {
  try {
    execFileSync('strace', ['-V'], { stdio: 'ignore' });
  } catch (error) {
    throw new ManifestError(
      'program-missing',
      ['--trace needs strace, which is not on this machine (apt-get install strace)'],
      {
        cause: error,
      },
    );
  }
  const work = mkdtempSync(join(tmpdir(), 'gramine-trace-'));
  try {
    const log = join(work, 'log');
    const started = Date.now();
    // timeout ends the program's whole group; strace ends with what it follows.
    const strace = ['-f', '-qq', '-s', '4096', '-e', 'trace=open,openat,execve', '-o', log, program, ...args];
    spawnSync('timeout', ['-k', '1', String(seconds), 'strace', ...strace], {
      stdio: 'ignore',
      env: Object.fromEntries(env),
    });
    return openedFiles(readFileSync(log, 'utf8'), started);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** The files of a log of strace's that are older than the run. */
function openedFiles(log: string, started: number): string[] {
  const found = new Set<string>();
  for (const [, name = ''] of log.matchAll(/(?:open\(|openat\([^,]+, |execve\()"((?:[^"\\]|\\.)*)"[^\n]* = [0-9]+/g)) {
    const path = resolve(unescapeTrace(name));
    if (/^\/(?:proc|sys|dev)\//.test(path)) continue;
    try {
      const stat = statSync(path);
      if (stat.isFile() && stat.ctimeMs < started) found.add(path);
    } catch {
      // Gone again: a file of the program's own.
    }
  }
  return [...found];
}

/** strace writes bytes that are not printable ASCII as octal escapes. */
function unescapeTrace(text: string): string {
  const bytes = text.replace(/\\([0-7]{1,3}|.)/g, (_, c: string) =>
    /^[0-7]/.test(c) ? String.fromCharCode(Number.parseInt(c, 8)) : ({ n: '\n', t: '\t', r: '\r' }[c] ?? c),
  );
  return Buffer.from(bytes, 'latin1').toString('utf8');
}

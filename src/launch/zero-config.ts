// SPDX-License-Identifier: Apache-2.0
//
// Writes a manifest, in memory, for a program that has none: a root in memory, read-only mounts of just the files that
// the program needs to start (found by closure.ts and the tables below), and their hashes. What a program opens later by
// a name that it computed cannot be known here; `-v` adds it.

import { type BigIntStats, lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { Closure, findOnPath } from './closure.js';
import { LaunchError } from './errors.js';
import type { FileCache, HashedFile } from './file-cache.js';
import type { Volume } from './options.js';

export const GUEST_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Read by libc and by nearly every server; each is exported only where the host has it. */
const ETC_FILES = [
  '/etc/nsswitch.conf',
  '/etc/passwd',
  '/etc/group',
  '/etc/hosts',
  '/etc/host.conf',
  '/etc/gai.conf',
  '/etc/resolv.conf',
  '/etc/services',
  '/etc/protocols',
  '/etc/localtime',
];

/** Opened at run time by libraries, so no ELF header names it. */
const BESIDE_LIBRARY: Readonly<
  Record<string, { readonly files?: readonly string[]; readonly libraries?: readonly string[] }>
> = {
  // pthread_exit and backtrace unwind with it
  'libc.so.6': { libraries: ['libgcc_s.so.1'] },
  'libcrypto.so.3': { files: ['/etc/ssl/openssl.cnf', '/usr/lib/ssl/openssl.cnf'] },
  'libtinfo.so.6': { files: [`/lib/terminfo/${process.env.TERM?.[0] ?? 'd'}/${process.env.TERM ?? 'dumb'}`] },
};

export interface ZeroConfigRequest {
  readonly app: string;
  readonly args: readonly string[];
  readonly env: readonly (readonly [name: string, value: string])[];
  readonly volumes: readonly Volume[];
  readonly workdir?: string | undefined;
  readonly publish: readonly (readonly [port: number, protocol: 'tcp' | 'udp'])[];
  readonly outbound: readonly string[];
  readonly cache: FileCache;
}

export interface ZeroConfig {
  /** A manifest as the TOML parser would return it. */
  readonly manifest: ManifestObject;
  /** Leaf lists (base64) by hex SHA-256 of the file. */
  readonly leaves: ReadonlyMap<string, string>;
  /** What happened, for the user. */
  readonly summary: string;
  readonly warnings: readonly string[];
}

interface TrustedFile {
  readonly uri: string;
  readonly sha256?: string;
  readonly size?: number;
  readonly mode?: number;
  readonly root?: string;
  readonly link?: string;
}

export interface ManifestObject {
  readonly libos: { readonly entrypoint: string };
  readonly loader: { readonly argv: readonly string[]; readonly env: Readonly<Record<string, string>> };
  readonly fs: {
    readonly start_dir: string;
    readonly root: { readonly type: 'tmpfs' };
    readonly mounts: readonly { readonly type?: 'tmpfs'; readonly path: string; readonly uri?: string }[];
  };
  readonly sys: object;
  readonly tdx: {
    readonly allowed_files: readonly string[];
    readonly read_only: readonly string[];
    readonly net: { readonly publish: readonly string[]; readonly outbound: readonly string[] };
    readonly trusted_files: readonly TrustedFile[];
  };
}

/** Where the program is: as the shell would find it, as an absolute path. */
export function findProgram(app: string): string {
  const found = app.includes('/') ? resolve(app) : findOnPath(app, (process.env.PATH ?? GUEST_PATH).split(':'));
  const next = 'Check the name, or give a path.';
  if (found === undefined) throw new LaunchError('program-missing', `${app}: no such program on PATH. ${next}`);
  try {
    const stat = statSync(found);
    if (!stat.isFile()) throw new LaunchError('program-missing', `${app}: not a regular file. ${next}`);
    if ((stat.mode & 0o111) === 0) throw new LaunchError('program-missing', `${app}: not executable (chmod +x it)`);
  } catch (error) {
    if (error instanceof LaunchError) throw error;
    throw new LaunchError('program-missing', `${app}: no such program. ${next}`, { cause: error });
  }
  return found;
}

export function buildZeroConfig(request: ZeroConfigRequest): ZeroConfig {
  const entrypoint = findProgram(request.app);
  const env = new Map<string, string>([
    ['PATH', GUEST_PATH],
    ['HOME', '/'],
    ...(process.env.TERM === undefined ? [] : [['TERM', process.env.TERM] as const]),
    ...request.env,
  ]);
  const split = (name: string) => (env.get(name) ?? '').split(':').filter((dir) => dir !== '');
  const closure = new Closure({
    cache: request.cache,
    path: split('PATH'),
    libraryPath: split('LD_LIBRARY_PATH'),
  });
  closure.addProgram(entrypoint);

  const trees = new Trees(closure);
  for (const interpreter of new Set([entrypoint, ...closure.interpreters])) trees.addInterpreterLibrary(interpreter);
  addRunTimeFiles(closure);
  const argumentFiles = addArgumentFiles(closure, request.args);

  const guestPathIsMounted = (path: string) =>
    request.volumes.some(({ guest }) => path === guest || path.startsWith(`${guest}/`)) || trees.covers(path);
  const leaves = new Map<string, string>();
  const trusted = new Map<string, TrustedFile>();
  const trust = (host: string, stat: BigIntStats) => {
    const hashed = request.cache.hash(host, stat);
    leaves.set(hashed.sha256, hashed.leaves);
    trusted.set(host, trustedFile(host, hashed));
  };
  const mounts: { type?: 'tmpfs'; path: string; uri?: string }[] = [{ type: 'tmpfs', path: '/tmp' }];
  for (const directory of trees.directories) mounts.push({ path: directory, uri: `file:${directory}` });
  for (const { path, stat } of trees.files) trust(path, stat);
  for (const { path, target } of trees.links) trusted.set(path, { uri: `file:${path}`, link: target });
  let single = 0;
  for (const file of closure.files) {
    if (guestPathIsMounted(file.guest)) continue;
    mounts.push({ path: file.guest, uri: `file:${file.host}` });
    trust(file.host, file.stat);
    single += 1;
  }
  for (const volume of request.volumes) mounts.push({ path: volume.guest, uri: `file:${volume.host}` });

  const workdir = request.workdir ?? (argumentFiles.relative ? process.cwd() : '/');
  return {
    manifest: {
      libos: { entrypoint },
      loader: { argv: [request.app, ...request.args], env: Object.fromEntries(env) },
      fs: { start_dir: workdir, root: { type: 'tmpfs' }, mounts },
      // What a Linux user's shell would give, not Gramine's defaults, which suit an enclave.
      sys: {
        stack: { size: '8M' },
        brk: { max_size: '16G' },
        fds: { limit: 65536 },
        experimental__enable_flock: true,
        insecure__allow_eventfd: true,
        enable_extra_runtime_domain_names_conf: false,
        enable_sigterm_injection: true,
      },
      tdx: {
        allowed_files: request.volumes.map(({ host }) => `file:${host}`),
        read_only: request.volumes.filter(({ writable }) => !writable).map(({ guest }) => guest),
        net: {
          publish: request.publish.map(([port, protocol]) => `${port}/${protocol}`),
          outbound: request.outbound,
        },
        trusted_files: [...trusted.values()],
      },
    },
    leaves,
    summary: summarize(request, entrypoint, single, trees, argumentFiles.names),
    warnings: [...closure.missing].map((name) => `${request.app} needs ${name}, which is not on this machine`),
  };
}

function trustedFile(host: string, hashed: HashedFile): TrustedFile {
  const { sha256, size, mode, root } = hashed;
  return { uri: `file:${host}`, sha256, size, mode, root };
}

function summarize(
  request: ZeroConfigRequest,
  entrypoint: string,
  single: number,
  trees: Trees,
  argumentFiles: readonly string[],
): string {
  const parts = [`${single} files`];
  if (trees.directories.length > 0) parts.push(`${trees.directories.join(', ')} (${trees.files.length} files)`);
  const named = argumentFiles.length > 0 ? `, ${argumentFiles.join(' ')} among them` : '';
  const volumes = request.volumes
    .map(({ host, writable }) => `; ${host} ${writable ? 'writable' : 'read-only'}`)
    .join('');
  return `no manifest for ${entrypoint}: it sees ${parts.join(' and ')} of this machine, read-only and verified${named}; the rest is in memory${volumes}`;
}

function addRunTimeFiles(closure: Closure): void {
  const names = new Set([...closure.files].map((file) => basename(file.guest)));
  for (const file of ETC_FILES) closure.addOptional(file);
  for (const [library, beside] of Object.entries(BESIDE_LIBRARY)) {
    if (!names.has(library)) continue;
    for (const name of beside.libraries ?? []) closure.addLibrary(name);
    for (const file of beside.files ?? []) closure.addOptional(file);
  }
  if (names.has('libc.so.6')) for (const name of nssLibraries()) closure.addLibrary(name);
}

/** The modules that nsswitch.conf names: glibc opens libnss_NAME.so.2 for each; most are inside libc by now. */
function nssLibraries(): string[] {
  let text = '';
  try {
    text = readFileSync('/etc/nsswitch.conf', 'utf8');
  } catch {
    return [];
  }
  const modules = new Set<string>();
  for (const line of text.split('\n')) {
    const [database, services] = (line.split('#', 1)[0] ?? '').split(':');
    if (!['passwd', 'group', 'hosts', 'services', 'protocols', 'networks'].includes(database?.trim() ?? '')) continue;
    for (const word of (services ?? '').replaceAll(/\[[^\]]*\]/g, ' ').split(/\s+/)) if (word !== '') modules.add(word);
  }
  return [...modules].map((name) => `libnss_${name}.so.2`);
}

/** A file that the user named as an argument is meant for the program: a script, a configuration. */
function addArgumentFiles(closure: Closure, args: readonly string[]): { names: string[]; relative: boolean } {
  const names: string[] = [];
  let relative = false;
  for (const arg of args) {
    if (arg === '' || arg.startsWith('-') || arg.includes('\0')) continue;
    const file = closure.addOptional(resolve(arg));
    if (file === undefined) continue;
    names.push(arg);
    if (!arg.startsWith('/')) relative = true;
  }
  return { names, relative };
}

/** Directories that are exported whole: the libraries of known interpreters. */
class Trees {
  readonly directories: string[] = [];
  readonly files: { readonly path: string; readonly stat: BigIntStats }[] = [];
  readonly links: { readonly path: string; readonly target: string }[] = [];

  constructor(private readonly closure: Closure) {}

  covers(path: string): boolean {
    return this.directories.some((directory) => path.startsWith(`${directory}/`));
  }

  addInterpreterLibrary(interpreter: string): void {
    const directories = libraryDirectories(realpathSync(interpreter));
    if (directories === undefined) return;
    for (const directory of directories) this.addDirectory(directory);
    // What scripts take for granted: a shell for system(), and the C.UTF-8 locale.
    for (const optional of ['/bin/sh']) if (this.closure.addOptional(optional)) this.closure.addProgram(optional);
    this.addDirectory('/usr/lib/locale/C.utf8');
  }

  private addDirectory(directory: string): void {
    try {
      // A directory behind a link would have another host path than guest path.
      if (!lstatSync(directory).isDirectory() || realpathSync(directory) !== directory) return;
    } catch {
      return;
    }
    if (this.covers(directory)) return;
    this.directories.push(directory);
    this.walk(directory);
  }

  private walk(directory: string): void {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = join(directory, entry.name);
      if (entry.isDirectory()) {
        this.walk(path);
      } else if (entry.isSymbolicLink()) {
        this.links.push({ path, target: readlinkSync(path) });
        const target = resolve(dirname(path), readlinkSync(path));
        if (!this.covers(target)) this.closure.addOptional(target);
      } else if (entry.isFile()) {
        const stat = statSync(path, { bigint: true });
        this.files.push({ path, stat });
        if (/\.so(\.|$)/.test(entry.name)) this.closure.addNeededOf(path, stat);
      }
    }
  }
}

/** The directories of an interpreter's own library; undefined for a program that is no known interpreter. */
function libraryDirectories(program: string): string[] | undefined {
  const prefix = dirname(dirname(program));
  const name = basename(program);
  const python = /^python(3\.[0-9]+)$/.exec(name)?.[1];
  if (python !== undefined) {
    return [`${prefix}/lib/python${python}`, `${prefix}/lib/python3`, `/usr/local/lib/python${python}`];
  }
  if (/^perl(5[0-9.]*)?$/.test(name)) {
    return [
      '/etc/perl',
      '/usr/share/perl',
      '/usr/share/perl5',
      '/usr/lib/x86_64-linux-gnu/perl',
      '/usr/lib/x86_64-linux-gnu/perl-base',
      '/usr/lib/x86_64-linux-gnu/perl5',
    ];
  }
  if (/^ruby[0-9.]*$/.test(name)) return [`${prefix}/lib/ruby`, '/usr/lib/x86_64-linux-gnu/ruby', '/var/lib/gems'];
  if (/^(bash|dash|sh|node|nodejs|php[0-9.]*|lua[0-9.]*|tclsh[0-9.]*)$/.test(name)) return [];
  return undefined;
}

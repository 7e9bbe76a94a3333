// SPDX-License-Identifier: Apache-2.0
//
// What a program needs of this machine, found without running it: its ELF closure (closure.ts), the files that its
// libraries open by name, the library folders of interpreters, and files named among its arguments. What a program opens
// later by a name that it computed cannot be known here.

import { execFileSync } from 'node:child_process';
import {
  accessSync,
  type BigIntStats,
  constants,
  type Dirent,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { Closure, findOnPath, type HostFile } from './closure.js';
import { ManifestError } from './errors.js';
import type { FileCache } from './file-cache.js';

/** PATH of a program that was given none. */
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
  // pthread_exit and backtrace unwind with the library; iconv looks into the file
  'libc.so.6': {
    libraries: ['libgcc_s.so.1'],
    files: ['/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache'],
  },
  'libcrypto.so.3': {
    files: ['/etc/ssl/openssl.cnf', '/usr/lib/ssl/openssl.cnf', '/usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so'],
  },
  'libtinfo.so.6': { files: [`/lib/terminfo/${process.env.TERM?.[0] ?? 'd'}/${process.env.TERM ?? 'dumb'}`] },
};

export interface DiscoveryRequest {
  /** Absolute path, as findProgram gives it. */
  readonly entrypoint: string;
  readonly args: readonly string[];
  /** The environment of the program: PATH and LD_LIBRARY_PATH count. */
  readonly env: ReadonlyMap<string, string>;
  readonly cache: FileCache;
  /** Also the folders that the program's Debian package brings for it. */
  readonly packageFolders?: boolean;
  /** Files that the program was seen to open. */
  readonly opened?: readonly string[];
}

/** A folder that the program needs whole. */
export interface NeededFolder {
  readonly path: string;
  readonly reason: string;
}

export interface Discovery {
  readonly folders: readonly NeededFolder[];
  /** What lies in the folders. */
  readonly folderFiles: readonly { readonly path: string; readonly stat: BigIntStats }[];
  readonly folderLinks: readonly { readonly path: string; readonly target: string }[];
  /** Single files outside of the folders. */
  readonly files: readonly HostFile[];
  /** Libraries that something needs and this machine does not have. */
  readonly missing: readonly string[];
  /** Folders that would be here if this user could read all of them: what cannot be read cannot be hashed. */
  readonly unreadable: readonly { readonly folder: string; readonly reason: string; readonly path: string }[];
  /** The arguments that name files. */
  readonly argumentFiles: readonly string[];
  /** Whether one of those is a relative path: the program must then start in the same folder. */
  readonly relativeArguments: boolean;
}

/** Where the program is: as the shell would find it, as an absolute path. Error: ManifestError `program-missing`. */
export function findProgram(app: string): string {
  const found = app.includes('/') ? resolve(app) : findOnPath(app, (process.env.PATH ?? GUEST_PATH).split(':'));
  const missing = (why: string) => new ManifestError('program-missing', [`${app}: ${why}`]);
  const next = 'Check the name, or give a path.';
  if (found === undefined) throw missing(`no such program on PATH. ${next}`);
  let stat: ReturnType<typeof statSync>;
  try {
    stat = statSync(found);
  } catch (error) {
    throw new ManifestError('program-missing', [`${app}: no such program. ${next}`], { cause: error });
  }
  if (!stat?.isFile()) throw missing(`not a regular file. ${next}`);
  if ((stat.mode & 0o111) === 0) throw missing('not executable (chmod +x it)');
  return found;
}

/** Errors: ManifestError `program-missing`, `wrong-architecture`. */
export function discover(request: DiscoveryRequest): Discovery {
  const split = (name: string) => (request.env.get(name) ?? '').split(':').filter((dir) => dir !== '');
  const closure = new Closure({
    cache: request.cache,
    path: split('PATH'),
    libraryPath: split('LD_LIBRARY_PATH'),
  });
  closure.addProgram(request.entrypoint);
  const trees = new Trees(closure);
  for (const interpreter of new Set([request.entrypoint, ...closure.interpreters]))
    trees.addInterpreterLibrary(interpreter);
  addRunTimeFiles(closure);
  const named = addArgumentFiles(closure, request.args);
  if (request.packageFolders)
    for (const { path, reason } of packageFolders(request.entrypoint)) trees.addFolder(path, reason);
  if (/^node(js)?$/.test(basename(request.entrypoint))) addNodeFiles(trees, closure, request.args);
  for (const path of request.opened ?? [])
    if (!trees.covers(path)) closure.addOptional(path, 'opened when it was traced');
  return {
    folders: trees.folders,
    folderFiles: trees.files,
    folderLinks: trees.links,
    files: [...closure.files].filter(({ guest }) => !trees.covers(guest)),
    missing: [...closure.missing],
    unreadable: trees.unreadable,
    argumentFiles: named.names,
    relativeArguments: named.relative,
  };
}

function addRunTimeFiles(closure: Closure): void {
  const names = new Set([...closure.files].map((file) => basename(file.guest)));
  for (const file of ETC_FILES) closure.addOptional(file, 'read by libc');
  for (const [library, beside] of Object.entries(BESIDE_LIBRARY)) {
    if (!names.has(library)) continue;
    for (const name of beside.libraries ?? []) closure.addLibrary(name, `loaded by ${library} at run time`);
    for (const file of beside.files ?? []) closure.addOptional(file, `read by ${library}`);
  }
  if (names.has('libc.so.6'))
    for (const name of nssLibraries()) closure.addLibrary(name, 'named in /etc/nsswitch.conf');
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

/** Where packages keep what belongs to one program. */
const DATA_PARENTS = ['/etc', '/usr/share', '/usr/lib', '/usr/lib/x86_64-linux-gnu', '/usr/libexec'];

/** A field of dpkg-query's format language. */
const field = (name: string): string => `\${${name}}`;

/** Folders of the program's own package, and of those built from the same source, that are named after the program. */
function packageFolders(program: string): NeededFolder[] {
  const ask = (command: string, args: readonly string[]): string => {
    try {
      return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], maxBuffer: 1 << 26 });
    } catch {
      return ''; // not Debian, or not from a package
    }
  };
  const real = realpathSync(program);
  // Where /bin is a link, packages may still own the path through it.
  const owners = [program, real, real.replace(/^\/usr/, '')].map((path) => ask('dpkg-query', ['-S', path]));
  const owner = owners.find((text) => text !== '')?.split(/[:,]/, 1)[0];
  if (owner === undefined) return [];
  const source = ask('dpkg-query', ['-W', '-f', field('source:Package'), owner]) || owner;
  const packages = ask('dpkg-query', [
    '-W',
    '-f',
    `${['source:Package', 'binary:Package', 'db:Status-Status'].map(field).join(' ')}\n`,
  ])
    .split('\n')
    .map((line) => line.split(' '))
    .flatMap(([from, name, status]) => (from === source && status === 'installed' && name ? [name] : []));
  const names = [basename(program), owner, source];
  const own = (name: string) => names.some((n) => n === name || (name.length >= 3 && n.startsWith(`${name}-`)));
  const found = new Map<string, string>();
  for (const name of packages) {
    for (const path of ask('dpkg-query', ['-L', name]).split('\n'))
      if (DATA_PARENTS.includes(dirname(path)) && own(basename(path))) found.set(path, `data of the package ${name}`);
  }
  return [...found].map(([path, reason]) => ({ path, reason }));
}

/** What node reads by itself, and what `require` finds from a script: the node_modules beside it or above it, and package.json. */
function addNodeFiles(trees: Trees, closure: Closure, args: readonly string[]): void {
  // Its OpenSSL is built in, so no library tells of them.
  for (const file of ['/etc/ssl/openssl.cnf', '/usr/lib/ssl/openssl.cnf']) closure.addOptional(file, 'read by node');
  const script = args.find((arg) => /\.[cm]?js$/.test(arg));
  if (script === undefined) return;
  let folder = dirname(resolve(script));
  for (;;) {
    closure.addOptional(join(folder, 'package.json'), 'read by node for its scripts');
    trees.addFolder(join(folder, 'node_modules'), `modules of ${script}`);
    if (folder === '/') return;
    folder = dirname(folder);
  }
}

/** A file that the user named as an argument is meant for the program: a script, a configuration. */
function addArgumentFiles(closure: Closure, args: readonly string[]): { names: string[]; relative: boolean } {
  const names: string[] = [];
  let relative = false;
  for (const arg of args) {
    // The guest has its own.
    if (/^\/(?:proc|sys|dev)(?:\/|$)/.test(arg)) continue;
    if (arg === '' || arg.startsWith('-') || arg.includes('\0')) continue;
    const file = closure.addOptional(resolve(arg), 'an argument of the program');
    if (file === undefined) continue;
    names.push(arg);
    if (!arg.startsWith('/')) relative = true;
  }
  return { names, relative };
}

/** Directories that are exported whole: the libraries of known interpreters. */
class Trees {
  readonly folders: NeededFolder[] = [];
  readonly files: { readonly path: string; readonly stat: BigIntStats }[] = [];
  readonly links: { readonly path: string; readonly target: string }[] = [];
  readonly unreadable: { readonly folder: string; readonly reason: string; readonly path: string }[] = [];

  constructor(private readonly closure: Closure) {}

  covers(path: string): boolean {
    return this.folders.some((folder) => path.startsWith(`${folder.path}/`));
  }

  addInterpreterLibrary(interpreter: string): void {
    const directories = libraryDirectories(realpathSync(interpreter));
    if (directories === undefined) return;
    for (const directory of directories) this.addFolder(directory, `library of ${basename(interpreter)}`);
    // What scripts take for granted: a shell for system(), and the C.UTF-8 locale.
    for (const optional of ['/bin/sh'])
      if (this.closure.addOptional(optional, 'for system()')) this.closure.addProgram(optional);
    this.addFolder('/usr/lib/locale/C.utf8', 'the locale C.UTF-8');
    this.closure.addOptional('/usr/share/locale/locale.alias', 'read by setlocale');
  }

  addFolder(directory: string, reason: string): void {
    try {
      // A directory behind a link would have another host path than guest path.
      if (!lstatSync(directory).isDirectory() || realpathSync(directory) !== directory) return;
    } catch {
      return;
    }
    if (this.covers(directory)) return;
    const before = [this.files.length, this.links.length] as const;
    this.folders.push({ path: directory, reason });
    try {
      this.walk(directory);
    } catch (error) {
      const { code, path } = error as NodeJS.ErrnoException;
      if (code !== 'EACCES') throw error;
      this.folders.pop();
      [this.files.length, this.links.length] = before;
      this.unreadable.push({ folder: directory, reason, path: path ?? directory });
    }
  }

  private walk(directory: string): void {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      try {
        this.add(join(directory, entry.name), entry);
      } catch (error) {
        // Gone since it was listed, as what a running python compiles, or named in bytes that are no UTF-8: not seen.
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      }
    }
  }

  private add(path: string, entry: Dirent): void {
    if (entry.isDirectory()) {
      this.walk(path);
    } else if (entry.isSymbolicLink()) {
      const target = readlinkSync(path);
      this.links.push({ path, target });
      const behind = resolve(dirname(path), target);
      if (!this.covers(behind)) this.closure.addOptional(behind, `behind the link ${path}`);
    } else if (entry.isFile()) {
      const stat = statSync(path, { bigint: true });
      if ((stat.mode & 0o004n) === 0n) accessSync(path, constants.R_OK);
      this.files.push({ path, stat });
      if (/\.so(\.|$)/.test(entry.name)) this.closure.addNeededOf(path, stat);
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

// SPDX-License-Identifier: Apache-2.0
//
// Turns `sgx.trusted_files` into one entry per file with its SHA-256, by the rules of Gramine's tool: a URI ends with "/"
// exactly when it names a folder; folders are walked in code point order, links to folders are not; explicit URIs stay as
// they were written, those found in folders are normalised; an entry that has a hash is believed. With a chroot, paths are
// resolved inside it. Source: python/graminelibos/manifest.py of Gramine 1.9; recorded answers in the corpus.

import {
  accessSync,
  constants,
  type Dirent,
  lstatSync,
  readdirSync,
  readlinkSync,
  type Stats,
  statSync,
} from 'node:fs';
import { ManifestError } from './errors.js';
import { parseUri } from './host-path.js';
import { compareCodePoints } from './python-values.js';
import type { Position, TomlTable, TomlValue } from './toml.js';

export interface ExpandOptions {
  /** A folder that stands for "/"; all URIs must then be absolute. */
  readonly chroot?: string;
  /** Named in messages. */
  readonly file?: string;
  /** Where in that file a position of the parsed text comes from. */
  readonly locate?: (at: Position) => Position;
  /** The key of the list, for messages. Default: `sgx.trusted_files`. */
  readonly key?: string;
  /** Told of links to folders that were found in a folder and not followed. */
  readonly onFolderLink?: (uri: string, path: string) => void;
  /** Takes entries with more keys than Gramine knows as they are. */
  readonly keep?: (entry: TomlTable) => boolean;
}

/**
 * A trusted file of the result: with a hash that the manifest gave, or one to be computed. `path` is where its bytes are
 * on this host, when that is not what the URI says.
 */
export interface ExpandedFile {
  readonly uri: string;
  readonly sha256?: string;
  readonly path?: string;
  /** The entry as it was, when nothing is to be computed. */
  readonly as?: TomlTable;
  /** Found in a folder: whether it is a symbolic link there. */
  readonly isLink?: boolean;
}

/** Files of one folder, one after the other in the list. */
export interface FolderFiles {
  /** `file:` and the folder, with its slash. */
  readonly prefix: string;
  readonly names: string[];
}

type Group = (FolderFiles | ExpandedFile) & { readonly start: number };

/** A long list of files in little room: their common folders are stored once, and each file is made when it is asked for. */
export class FileList implements Iterable<ExpandedFile> {
  readonly #groups: Group[] = [];
  #length = 0;
  #last = 0;

  get length(): number {
    return this.#length;
  }

  push(file: ExpandedFile): void {
    this.#groups.push({ ...file, start: this.#length });
    this.#length += 1;
  }

  /** Adds files whose URIs are `prefix` and a name, whose bytes are there, and which are no links. */
  pushIn(prefix: string, names: readonly string[]): void {
    if (names.length === 0) return;
    const last = this.#groups.at(-1);
    if (last !== undefined && 'names' in last && last.prefix === prefix)
      for (const name of names) last.names.push(name);
    else this.#groups.push({ start: this.#length, prefix, names: [...names] });
    this.#length += names.length;
  }

  at(index: number): ExpandedFile {
    const group = this.#groupOf(index);
    return 'names' in group ? { uri: group.prefix + group.names[index - group.start], isLink: false } : group;
  }

  uri(index: number): string {
    const group = this.#groupOf(index);
    return 'names' in group ? group.prefix + group.names[index - group.start] : group.uri;
  }

  /** The positions of the files whose hash is to be computed. */
  unknown(): Uint32Array {
    const indices = new Uint32Array(this.#length);
    let count = 0;
    for (const group of this.#groups) {
      if (!('names' in group) && isGiven(group)) continue;
      const end = group.start + ('names' in group ? group.names.length : 1);
      for (let i = group.start; i < end; i += 1) indices[count++] = i;
    }
    return indices.subarray(0, count);
  }

  /** The URIs of the files from `start` on that lie in one folder, and are before `end`; at least one. */
  uris(start: number, end: number): string[] {
    const group = this.#groupOf(start);
    if (!('names' in group)) return [group.uri];
    const names = group.names.slice(start - group.start, end - group.start);
    return (group.prefix + names.join(`\0${group.prefix}`)).split('\0');
  }

  /** Where the bytes of the files from `start` to before `end` are, joined by NUL bytes, which no path has. */
  paths(start: number, end: number): string {
    const parts: string[] = [];
    for (let at = start; at < end; ) {
      const group = this.#groupOf(at);
      if ('names' in group) {
        const folder = group.prefix.slice('file:'.length);
        const names = group.names.slice(at - group.start, end - group.start);
        parts.push(folder + names.join(`\0${folder}`));
        at += names.length;
      } else {
        parts.push(pathOf(group));
        at += 1;
      }
    }
    return parts.join('\0');
  }

  /** The list in pieces: files of one folder, that are no links, or one file. */
  pieces(): Iterable<FolderFiles | ExpandedFile> {
    return this.#groups;
  }

  *[Symbol.iterator](): Iterator<ExpandedFile> {
    for (let i = 0; i < this.#length; i += 1) yield this.at(i);
  }

  #groupOf(index: number): Group {
    // Mostly the list is gone through from its beginning.
    if (!this.#holds(this.#last, index)) {
      if (this.#holds(this.#last + 1, index)) this.#last += 1;
      else this.#last = this.#search(index);
    }
    const group = this.#groups[this.#last];
    if (group === undefined || index >= this.#length) throw new RangeError(`no file ${index}`);
    return group;
  }

  #search(index: number): number {
    let [low, high] = [0, this.#groups.length];
    while (low + 1 < high) {
      const middle = (low + high) >> 1;
      if ((this.#groups[middle]?.start ?? 0) <= index) low = middle;
      else high = middle;
    }
    return low;
  }

  #holds(group: number, index: number): boolean {
    const start = this.#groups[group]?.start ?? this.#length;
    return index >= start && (group + 1 >= this.#groups.length || index < (this.#groups[group + 1]?.start ?? 0));
  }
}

/** Where the bytes of an expanded file are. */
export function pathOf(file: ExpandedFile): string {
  return file.path ?? file.uri.slice('file:'.length);
}

/**
 * The files that `trusted_files` names, each once, in the order of Gramine's tool. Reads folders and links, no file.
 * Errors: ManifestError `invalid` (not a list, wrong URI, folder without "/", missing file, other than a regular file),
 * `conflict` (two hashes for one URI).
 */
export function expandTrustedFiles(trusted: TomlValue, options: ExpandOptions = {}): FileList {
  const key = options.key ?? 'sgx.trusted_files';
  if (trusted.kind !== 'array')
    throw fail(
      options,
      trusted.at,
      `${key}: expected a list of files; tables of files are a syntax that Gramine gave up`,
    );
  const list = new FileList();
  if (isAlone(trusted)) {
    for (const [i, entry] of trusted.items.entries()) expandEntry(entry, `${key}[${i}]`, options, list);
    return list;
  }
  const found = new Map<string, ExpandedFile>();
  for (const [i, entry] of trusted.items.entries()) {
    const own = new FileList();
    expandEntry(entry, `${key}[${i}]`, options, own);
    for (const file of own) add(found, file, entry.at, options);
  }
  for (const file of found.values()) list.push(file);
  return list;
}

/** Whether no file can be listed by two entries: then none needs to be remembered for that. */
function isAlone(trusted: TomlValue & { kind: 'array' }): boolean {
  const paths = trusted.items.map((entry) => {
    const uri = entry.kind === 'table' ? entry.entries.get('uri') : entry;
    return uri?.kind === 'string' ? parseUri(uri.value) : undefined;
  });
  // Sorted by components, a path comes right before what lies below it.
  const sorted = paths.map((path) => `${path ?? ''}/`).sort();
  // All relative paths lie below ".", all absolute ones below "/".
  return (
    paths.every((path) => path !== undefined && !path.includes('..')) &&
    (paths.length === 1 || paths.every((path) => path !== '.' && path !== '/')) &&
    sorted.every((path, i) => i === 0 || !path.startsWith(sorted[i - 1] ?? ''))
  );
}

function fail(
  options: ExpandOptions,
  at: Position | undefined,
  message: string,
  code: 'invalid' | 'conflict' = 'invalid',
): ManifestError {
  const source = at && (options.locate?.(at) ?? at);
  const place = source ? `:${source.line}:${source.column}` : '';
  const where = options.file === undefined ? '' : `${options.file}${place}: `;
  return new ManifestError(code, [where + message]);
}

function add(
  found: Map<string, ExpandedFile>,
  file: ExpandedFile,
  at: Position | undefined,
  options: ExpandOptions,
): void {
  const known = found.get(file.uri);
  if (known?.sha256 !== undefined && file.sha256 !== undefined && known.sha256 !== file.sha256) {
    throw fail(
      options,
      at,
      `trusted file "${file.uri}" is listed with two hashes: ${known.sha256} and ${file.sha256}; keep one`,
      'conflict',
    );
  }
  // The first place counts; a hash that was given wins over one to compute.
  if (!known || (isGiven(file) && !isGiven(known))) found.set(file.uri, file);
}

const isGiven = (f: ExpandedFile): boolean => f.sha256 !== undefined || f.as !== undefined;

function expandEntry(entry: TomlValue, where: string, options: ExpandOptions, out: FileList): void {
  if (entry.kind === 'table' && options.keep?.(entry)) {
    const uri = entry.entries.get('uri');
    if (uri?.kind === 'string') {
      out.push({ uri: uri.value, as: entry });
      return;
    }
  }
  const { uri, sha256 } = readEntry(entry, where, options);
  const problem: Problem = (message) => {
    throw fail(options, entry.at, `${where}: ${message}`);
  };
  if (!uri.startsWith('file:'))
    problem(`"${uri}" does not start with "file:", the only kind of URI that can be trusted`);
  const path = uri.slice('file:'.length);
  if (options.chroot !== undefined && !path.startsWith('/')) {
    problem(`"${uri}" is relative: with a chroot only absolute paths can be trusted`);
  }
  if (sha256 !== undefined) {
    if (uri.endsWith('/')) problem(`"${uri}" is a folder and cannot have a sha256`);
    out.push({ uri, sha256 });
    return;
  }
  if (options.chroot === undefined) expandPlain(uri, path, problem, options, out);
  else expandInChroot(uri, path, options.chroot, problem, options, out);
}

function readEntry(entry: TomlValue, where: string, options: ExpandOptions): { uri: string; sha256?: string } {
  if (entry.kind === 'string') return { uri: entry.value };
  const text = (t: TomlTable, key: string): string | undefined => {
    const v = t.entries.get(key);
    if (v !== undefined && v.kind !== 'string') throw fail(options, v.at ?? entry.at, `${where}.${key}: expected text`);
    return v?.value;
  };
  const uri = entry.kind === 'table' ? text(entry, 'uri') : undefined;
  if (entry.kind !== 'table' || uri === undefined)
    throw fail(options, entry.at, `${where}: expected "file:..." or { uri = "file:...", sha256 = "..." }`);
  const leftover = [...entry.entries.keys()].filter((k) => k !== 'uri' && k !== 'sha256');
  if (leftover.length > 0)
    throw fail(
      options,
      entry.at,
      `${where}: unknown key ${leftover.map((k) => `"${k}"`).join(', ')} in a trusted file`,
    );
  const sha256 = text(entry, 'sha256');
  return sha256 === undefined ? { uri } : { uri, sha256 };
}

type Problem = (message: string) => never;

function kindOf(path: string, problem: Problem): 'file' | 'folder' | 'other' | 'missing' {
  try {
    // Without the slash: with one, a file would seem to be missing.
    const s = statSync(path.replace(/(.)\/+$/, '$1') || '.');
    return s.isFile() ? 'file' : s.isDirectory() ? 'folder' : 'other';
  } catch (error) {
    if (isAbsence(error)) return 'missing';
    return problem(cannotLook(path, error));
  }
}

/** Errors of a look at a path that mean: there is nothing. Python's pathlib has the same list. */
function isAbsence(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR', 'EBADF', 'ELOOP'].includes((error as NodeJS.ErrnoException).code ?? '');
}

function cannotLook(path: string, error: unknown): string {
  const { code } = error as NodeJS.ErrnoException;
  return `${JSON.stringify(path)} cannot be looked at: ${code === 'EACCES' ? 'permission denied' : (code ?? String(error))}`;
}

function checkKind(uri: string, kind: 'file' | 'folder' | 'other' | 'missing', problem: Problem): void {
  const slash = uri.endsWith('/');
  if (slash && kind !== 'folder')
    problem(`"${uri}" ends with "/" but ${kind === 'missing' ? 'does not exist' : 'is not a folder'}`);
  if (!slash && kind === 'folder') problem(`"${uri}" is a folder: write it with a "/" at its end`);
  if (kind === 'missing') problem(`trusted file "${uri}" does not exist`);
  if (kind === 'other')
    problem(`"${uri}" is neither a regular file nor a folder: a FIFO, socket or device cannot be trusted`);
}

function expandPlain(uri: string, path: string, problem: Problem, options: ExpandOptions, out: FileList): void {
  checkKind(uri, kindOf(path, problem), problem);
  const base = pathlib(path);
  if (uri.endsWith('/')) new Walk(out, problem, options).folder(base, base);
  else out.push({ uri });
}

/** As Python's pathlib writes a path: without "." parts and doubled slashes, ".." kept. */
function pathlib(path: string): string {
  const lead = path.startsWith('//') && !path.startsWith('///') ? '//' : path.startsWith('/') ? '/' : '';
  return (
    lead +
    path
      .split('/')
      .filter((p) => p !== '' && p !== '.')
      .join('/')
  );
}

/**
 * Collects the regular files below a folder, in code point order of their names. Links to files count as files under their
 * own name; links to folders are not followed; what is no file or cannot be read is passed over, as Gramine's tool does. What
 * cannot even be looked at, such as the target of a link in a folder of another user's, is an error, as it is there.
 */
class Walk {
  /** Root can read every file. */
  readonly #isRoot = process.getuid?.() === 0;

  constructor(
    readonly out: FileList,
    readonly problem: Problem,
    readonly options: ExpandOptions,
    /** Where the bytes of a file found at a path are, if that is another place; undefined for a file that does not count. */
    readonly real: ((hostPath: string) => string | undefined) | undefined = undefined,
  ) {}

  folder(hostFolder: string, name: string): void {
    const prefix = `file:${join(name, '')}`;
    const { names, special } = this.#entries(hostFolder === '' ? '.' : hostFolder);
    let plain = 0;
    for (let i = 0; i < names.length; i += 1) {
      const entry = special.get(names[i] ?? '');
      if (entry === undefined && this.#isRoot && this.real === undefined) continue;
      this.out.pushIn(prefix, names.slice(plain, i));
      plain = i + 1;
      this.#take(entry, names[i] ?? '', hostFolder, name);
    }
    this.out.pushIn(prefix, names.slice(plain));
  }

  /** Takes an entry that needs a closer look; `entry` undefined for a regular file. */
  #take(entry: Dirent | undefined, file: string, hostFolder: string, name: string): void {
    const prefix = `file:${join(name, '')}`;
    const hostPath = join(hostFolder, file);
    if (entry?.isDirectory()) {
      this.folder(hostPath, join(name, file));
      return;
    }
    const kind = this.#kindOf(entry, hostPath);
    if (kind === 'folder') this.options.onFolderLink?.(prefix + file, hostPath);
    if (kind !== 'file') return;
    if (this.real !== undefined) {
      const path = this.real(hostPath);
      if (path !== undefined) this.out.push({ uri: prefix + file, path });
    } else if (entry === undefined) this.out.pushIn(prefix, [file]);
    else this.out.push({ uri: prefix + file, isLink: true });
  }

  /** The names in a folder, sorted, and the entries among them that are no regular files. */
  #entries(folder: string): { names: string[]; special: ReadonlyMap<string, Dirent> } {
    const names: string[] = [];
    const special = new Map<string, Dirent>();
    try {
      for (const entry of readdirSync(folder, { withFileTypes: true })) {
        names.push(entry.name);
        if (!entry.isFile()) special.set(entry.name, entry);
      }
    } catch {
      this.#look(folder);
      return { names: [], special };
    }
    const all = names.join('/');
    if (all.includes('\ufffd')) this.#refuseInvalidNames(folder);
    // Comparing UTF-16 units differs from comparing code points only where there are surrogates.
    if (/[\ud800-\udfff]/.test(all)) names.sort(compareCodePoints);
    else names.sort();
    return { names, special };
  }

  /** Links are followed on the host here, even in a chroot: whether a link counts is the host's word. */
  #kindOf(entry: Dirent | undefined, path: string): 'file' | 'folder' | 'other' {
    if (entry === undefined && this.#isRoot) return 'file';
    if (entry !== undefined && !entry.isSymbolicLink()) return 'other';
    const stat = this.#look(path);
    if (stat?.isDirectory()) return 'folder';
    return stat?.isFile() && (this.#isRoot || isReadable(path, stat)) ? 'file' : 'other';
  }

  #look(path: string): Stats | undefined {
    try {
      return statSync(path);
    } catch (error) {
      return isAbsence(error) ? undefined : this.problem(cannotLook(path, error));
    }
  }

  /** A name that is not UTF-8 reads as one with U+FFFD, and would be passed over in silence. */
  #refuseInvalidNames(folder: string): void {
    for (const name of readdirSync(folder, { encoding: 'buffer' })) {
      const text = name.toString('utf8');
      if (!Buffer.from(text).equals(name))
        this.problem(
          `${JSON.stringify(join(folder, text))} has a name that is not UTF-8, which TOML cannot hold; rename it`,
        );
    }
  }
}

function join(folder: string, entry: string): string {
  return folder === '' ? entry : folder.endsWith('/') ? folder + entry : `${folder}/${entry}`;
}

function isReadable(path: string, { mode }: Stats): boolean {
  if ((mode & 0o444) === 0o444) return true;
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function expandInChroot(
  uri: string,
  path: string,
  chroot: string,
  problem: Problem,
  options: ExpandOptions,
  out: FileList,
): void {
  if (/^\/\/(?!\/)/.test(path)) problem(`"${uri}" starts with two slashes: write one`);
  const root = chroot.replace(/\/+$/, '');
  const resolved = resolveInside(root, path, problem);
  checkKind(uri, kindOf(root + resolved, problem), problem);
  if (!uri.endsWith('/')) {
    out.push({ uri, path: root + resolved });
    return;
  }
  const real = (hostPath: string): string | undefined => {
    const target = root + resolveInside(root, hostPath.slice(root.length), problem);
    return kindOf(target, problem) === 'file' ? target : undefined;
  };
  new Walk(out, problem, options, real).folder(root + resolved, resolved);
}

const MAX_LINKS = 40;

/** A path inside the chroot with every link resolved there; the last part may be missing. */
function resolveInside(root: string, path: string, problem: Problem): string {
  const todo = path.split('/').reverse();
  const done: string[] = [];
  let links = 0;
  for (let part = todo.pop(); part !== undefined; part = todo.pop()) {
    if (part === '' || part === '.') continue;
    if (part === '..') {
      done.pop(); // at the root ".." stays there
      continue;
    }
    const here = `/${[...done, part].join('/')}`;
    let target: string | undefined;
    try {
      target = lstatSync(root + here).isSymbolicLink() ? readlinkSync(root + here) : undefined;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOENT' && code !== 'ENOTDIR') throw error;
    }
    if (target === undefined) {
      done.push(part);
      continue;
    }
    if (++links > MAX_LINKS) return problem(`"${path}" goes through too many symbolic links`);
    if (target.startsWith('/')) done.length = 0;
    todo.push(...target.split('/').reverse());
  }
  return `/${done.join('/')}`;
}

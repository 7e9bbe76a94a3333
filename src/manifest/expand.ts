// SPDX-License-Identifier: Apache-2.0
//
// Turns `sgx.trusted_files` into one entry per file with its SHA-256, by the rules of Gramine's tool: a URI ends with "/"
// exactly when it names a folder; folders are walked in code point order, links to folders are not; explicit URIs stay as
// they were written, those found in folders are normalised; an entry that has a hash is believed. With a chroot, paths are
// resolved inside it. Source: python/graminelibos/manifest.py of Gramine 1.9; recorded answers in the corpus.

import { lstatSync, readdirSync, readlinkSync, statSync } from 'node:fs';
import { ManifestError } from './errors.js';
import { compareCodePoints } from './python-values.js';
import { type Position, type TomlTable, type TomlValue, toml } from './toml.js';

/** One file that must be hashed. */
export interface FileToHash {
  readonly uri: string;
  /** Where its bytes are on this host. */
  readonly path: string;
}

export interface ExpandOptions {
  /** A folder that stands for "/"; all URIs must then be absolute. */
  readonly chroot?: string;
  /** Named in messages. */
  readonly file?: string;
}

/** A trusted file of the result: with a hash that the manifest gave, or one to be computed. */
export type ExpandedFile = { readonly uri: string } & ({ readonly sha256: string } | { readonly path: string });

/**
 * The files that `trusted_files` names, each once, in the order of Gramine's tool. Reads folders and links, no file.
 * Errors: ManifestError `invalid` (not a list, wrong URI, folder without "/", missing file, other than a regular file),
 * `conflict` (two hashes for one URI).
 */
export function expandTrustedFiles(trusted: TomlValue, options: ExpandOptions = {}): ExpandedFile[] {
  if (trusted.kind !== 'array')
    throw fail(
      options,
      trusted.at,
      'sgx.trusted_files: expected a list of files; tables of files are a syntax that Gramine gave up',
    );
  const found = new Map<string, ExpandedFile>();
  for (const [i, entry] of trusted.items.entries()) {
    for (const file of expandEntry(entry, `sgx.trusted_files[${i}]`, options)) add(found, file, entry.at, options);
  }
  return [...found.values()];
}

/** Puts the computed hashes in: the value of `sgx.trusted_files` in the output. */
export function trustedFilesValue(files: readonly ExpandedFile[], hashes: ReadonlyMap<string, string>): TomlValue {
  return toml.array(
    files.map((f) => {
      const sha256 = 'sha256' in f ? f.sha256 : hashes.get(f.path);
      if (sha256 === undefined) throw new Error(`no hash for ${f.uri}`);
      return toml.table([
        ['uri', toml.string(f.uri)],
        ['sha256', toml.string(sha256)],
      ]);
    }),
  );
}

function fail(
  options: ExpandOptions,
  at: Position | undefined,
  message: string,
  code: 'invalid' | 'conflict' = 'invalid',
): ManifestError {
  const where = at && options.file !== undefined ? `${options.file}:${at.line}:${at.column}: ` : '';
  return new ManifestError(code, [where + message]);
}

function add(
  found: Map<string, ExpandedFile>,
  file: ExpandedFile,
  at: Position | undefined,
  options: ExpandOptions,
): void {
  const known = found.get(file.uri);
  if (known && 'sha256' in known && 'sha256' in file && known.sha256 !== file.sha256) {
    throw fail(
      options,
      at,
      `trusted file "${file.uri}" is listed with two hashes: ${known.sha256} and ${file.sha256}; keep one`,
      'conflict',
    );
  }
  // The first place counts; a hash that was given wins over one to compute.
  if (!known || ('sha256' in file && !('sha256' in known))) found.set(file.uri, file);
}

function expandEntry(entry: TomlValue, where: string, options: ExpandOptions): ExpandedFile[] {
  const { uri, sha256 } = readEntry(entry, where, options);
  const problem = (message: string): never => {
    throw fail(options, entry.at, `${where}: ${message}`);
  };
  if (!uri.startsWith('file:'))
    return problem(`"${uri}" does not start with "file:", the only kind of URI that can be trusted`);
  const path = uri.slice('file:'.length);
  if (options.chroot !== undefined && !path.startsWith('/')) {
    return problem(`"${uri}" is relative: with a chroot only absolute paths can be trusted`);
  }
  if (sha256 !== undefined) {
    if (uri.endsWith('/')) return problem(`"${uri}" is a folder and cannot have a sha256`);
    return [{ uri, sha256 }];
  }
  return options.chroot === undefined
    ? expandPlain(uri, path, problem)
    : expandInChroot(uri, path, options.chroot, problem);
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

function kindOf(path: string): 'file' | 'folder' | 'other' | 'missing' {
  try {
    const s = statSync(path === '' ? '.' : path);
    return s.isFile() ? 'file' : s.isDirectory() ? 'folder' : 'other';
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'ELOOP') return 'missing';
    throw error;
  }
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

function expandPlain(uri: string, path: string, problem: Problem): ExpandedFile[] {
  checkKind(uri, kindOf(path), problem);
  if (!uri.endsWith('/')) return [{ uri, path }];
  const base = pathlib(path);
  return walk(base, base, (p) => p).map((f) => ({ uri: `file:${f.name}`, path: f.path }));
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

interface Found {
  readonly name: string;
  readonly path: string;
}

/**
 * The regular files below a folder, in code point order of their names. `real` tells where the bytes of a named file are.
 * Links to files count as files under their own name; links to folders are not followed; what cannot be read is passed
 * over, as Gramine's tool does.
 */
function walk(hostFolder: string, name: string, real: (hostPath: string) => string | undefined): Found[] {
  let entries: string[];
  try {
    entries = readdirSync(hostFolder === '' ? '.' : hostFolder).sort(compareCodePoints);
  } catch {
    return [];
  }
  const join = (folder: string, entry: string): string =>
    folder === '' ? entry : folder.endsWith('/') ? folder + entry : `${folder}/${entry}`;
  return entries.flatMap((entry) => {
    const hostPath = join(hostFolder, entry);
    const entryName = join(name, entry);
    try {
      if (lstatSync(hostPath).isDirectory()) return walk(hostPath, entryName, real);
      // Links are followed on the host here, even in a chroot: whether a link counts is the host's word.
      if (!statSync(hostPath).isFile()) return [];
    } catch {
      return [];
    }
    const path = real(hostPath);
    return path === undefined ? [] : [{ name: entryName, path }];
  });
}

function expandInChroot(uri: string, path: string, chroot: string, problem: Problem): ExpandedFile[] {
  if (/^\/\/(?!\/)/.test(path)) return problem(`"${uri}" starts with two slashes: write one`);
  const root = chroot.replace(/\/+$/, '');
  const resolved = resolveInside(root, path, problem);
  checkKind(uri, kindOf(root + resolved), problem);
  if (!uri.endsWith('/')) return [{ uri, path: root + resolved }];
  const folder = resolved === '/' ? '/' : resolved;
  const real = (hostPath: string): string | undefined => {
    const target = root + resolveInside(root, hostPath.slice(root.length), problem);
    return kindOf(target) === 'file' ? target : undefined;
  };
  return walk(root + (folder === '/' ? '/' : folder), folder, real).map((f) => ({
    uri: `file:${f.name}`,
    path: f.path,
  }));
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

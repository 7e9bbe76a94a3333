// SPDX-License-Identifier: Apache-2.0
//
// Which files a program needs to start, found without running it: its interpreter and shared libraries, by the rules of
// ld.so(8) and of musl's loader. Paths are kept as the loader in the guest will spell them; `realpath` of each is what the
// host exports under that name.

import { type BigIntStats, lstatSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, isAbsolute, join } from 'node:path';
import type { ElfInfo } from './elf.js';
import { ManifestError } from './errors.js';
import type { FileCache } from './file-cache.js';
import { parseLdCache } from './ld-cache.js';

const GLIBC_DEFAULT_DIRS = [
  '/lib/x86_64-linux-gnu',
  '/usr/lib/x86_64-linux-gnu',
  '/lib64',
  '/usr/lib64',
  '/lib',
  '/usr/lib',
];
const MUSL_DEFAULT_DIRS = ['/lib', '/usr/local/lib', '/usr/lib'];
const LD_CACHE = '/etc/ld.so.cache';
/** Scripts may name scripts as interpreters; Linux stops at four. */
const MAX_SCRIPT_DEPTH = 4;

export interface HostFile {
  /** The path that the guest uses. */
  readonly guest: string;
  /** The regular file behind it, without links. */
  readonly host: string;
  readonly stat: BigIntStats;
  /** Why the program needs it. */
  readonly reason: string;
}

export interface ClosureOptions {
  readonly cache: FileCache;
  /** Of the guest: finds the program of `#!/usr/bin/env NAME`. */
  readonly path: readonly string[];
  /** The guest's LD_LIBRARY_PATH. */
  readonly libraryPath?: readonly string[];
}

/** Collects the files of one or more programs. */
export class Closure {
  private readonly found = new Map<string, HostFile>();
  private readonly ldCache: Map<string, string[]>;
  private muslDirs: readonly string[] | undefined;
  /** Libraries that an object needs and no directory has: the guest's loader would say the same. */
  readonly missing = new Set<string>();
  /** Names of the script interpreters on the way, outermost first. */
  readonly interpreters: string[] = [];

  constructor(private readonly options: ClosureOptions) {
    let bytes = Buffer.alloc(0);
    try {
      bytes = readFileSync(LD_CACHE);
    } catch {
      // A system without glibc has none.
    }
    this.ldCache = parseLdCache(bytes);
  }

  get files(): IterableIterator<HostFile> {
    return this.found.values();
  }

  /** Adds a file that need not exist; returns whether it does, as a regular file. */
  addOptional(guest: string, reason: string): HostFile | undefined {
    const present = this.found.get(guest);
    if (present !== undefined) return present;
    try {
      const stat = statSync(guest, { bigint: true });
      if (!stat.isFile()) return undefined;
      const file = { guest, host: realpathSync(guest), stat, reason };
      this.found.set(guest, file);
      return file;
    } catch {
      return undefined;
    }
  }

  /** Adds a program, its interpreters and libraries; throws ManifestError for what this machine could not run. */
  addProgram(guest: string, reason = 'the program', depth = 0): void {
    const file = this.addOptional(guest, reason);
    if (file === undefined) throw new ManifestError('program-missing', [`${guest}: no such file`]);
    const kind = this.options.cache.program(file.host, file.stat);
    switch (kind.kind) {
      case 'elf':
        this.addElfProgram(guest, kind);
        return;
      case 'script':
        if (depth >= MAX_SCRIPT_DEPTH)
          throw new ManifestError('program-missing', [`${guest}: too many levels of "#!"`]);
        this.interpreters.push(kind.interpreter);
        this.addInterpreter(guest, kind.interpreter, depth);
        if (basename(kind.interpreter) === 'env') this.addEnvTarget(guest, kind.argument ?? '', depth);
        return;
      case 'foreign-elf':
        throw new ManifestError('wrong-architecture', [
          `${guest} is built for ${kind.machine}; the virtual machine runs 64-bit x86 (x86-64) programs only`,
        ]);
      case 'other':
        throw new ManifestError('wrong-architecture', [
          `${guest} is neither an ELF program nor a script that starts with "#!"`,
        ]);
    }
  }

  /** Adds a library by the name that dlopen would get; returns whether there is one. */
  addLibrary(name: string, reason: string): boolean {
    const path = this.search(name, [], GLIBC_DEFAULT_DIRS, true);
    if (path === undefined) return false;
    this.addObject(path, reason, [], GLIBC_DEFAULT_DIRS);
    return true;
  }

  /** Adds what the shared object `path`, which is exported already (as part of a directory), needs. */
  addNeededOf(path: string, stat: BigIntStats): void {
    const kind = this.options.cache.program(path, stat);
    if (kind.kind === 'elf') this.addNeeded(path, kind, [], GLIBC_DEFAULT_DIRS);
  }

  private addInterpreter(script: string, interpreter: string, depth: number): void {
    if (this.addOptional(interpreter, `interpreter of ${script}`) === undefined) {
      throw new ManifestError('program-missing', [`${script}: its interpreter ${interpreter} does not exist`]);
    }
    this.addProgram(interpreter, `interpreter of ${script}`, depth + 1);
  }

  private addEnvTarget(script: string, argument: string, depth: number): void {
    // `env -S NAME ARGS` splits its one argument; assignments before NAME are rare and have no path.
    const name = argument.split(/\s+/).find((word) => word !== '' && !word.startsWith('-') && !word.includes('='));
    if (name === undefined) return;
    const found = findOnPath(name, this.options.path);
    if (found === undefined) throw new ManifestError('program-missing', [`${script}: env finds no ${name} on PATH`]);
    this.interpreters.push(found);
    this.addProgram(found, `found by env for ${script}`, depth + 1);
  }

  private addElfProgram(path: string, elf: ElfInfo): void {
    if (elf.interpreter === undefined) return;
    const musl = basename(elf.interpreter).startsWith('ld-musl');
    if (this.addOptional(elf.interpreter, `dynamic loader of ${path}`) === undefined) {
      throw new ManifestError('program-missing', [`${path}: its dynamic loader ${elf.interpreter} does not exist`]);
    }
    if (!musl) this.addOptional(LD_CACHE, 'where the dynamic loader finds libraries');
    this.addNeeded(path, elf, [], musl ? this.muslDefaultDirs(elf.interpreter) : GLIBC_DEFAULT_DIRS, !musl);
  }

  private addObject(
    path: string,
    reason: string,
    rpaths: readonly string[],
    defaults: readonly string[],
    useCache = true,
  ): void {
    if (this.found.has(path)) return;
    const file = this.addOptional(path, reason);
    if (file === undefined) return;
    const kind = this.options.cache.program(file.host, file.stat);
    if (kind.kind === 'elf') this.addNeeded(path, kind, rpaths, defaults, useCache);
  }

  /** `loaderRpaths`: DT_RPATH of the objects that led here, which ld.so searches too; DT_RUNPATH is not inherited. */
  private addNeeded(
    path: string,
    elf: ElfInfo,
    loaderRpaths: readonly string[],
    defaults: readonly string[],
    useCache = true,
  ): void {
    const expand = (dirs: readonly string[]) => dirs.map((dir) => expandTokens(dir, path));
    const rpaths = elf.runpath.length > 0 ? [] : [...expand(elf.rpath), ...loaderRpaths];
    const before = [...rpaths, ...(this.options.libraryPath ?? []), ...expand(elf.runpath)];
    for (const name of elf.needed) {
      const found = this.search(name, before, defaults, useCache);
      if (found !== undefined) this.addObject(found, `library of ${path}`, rpaths, defaults, useCache);
      else if (!isLoaderItself(name)) this.missing.add(name);
    }
  }

  private search(
    name: string,
    before: readonly string[],
    defaults: readonly string[],
    useCache: boolean,
  ): string | undefined {
    if (name.includes('/')) return isAbsolute(name) && isFile(name) ? name : undefined;
    const inDirs = (dirs: readonly string[]) => dirs.map((dir) => join(dir, name)).find(isFile);
    const early = inDirs(before);
    if (early !== undefined) return early;
    if (useCache) {
      // Several entries are builds for better CPUs (glibc-hwcaps): which one the guest picks depends on its CPU.
      const cached = (this.ldCache.get(name) ?? []).filter(isFile);
      for (const path of cached.slice(1)) this.addOptional(path, `${name} for other CPUs`);
      if (cached[0] !== undefined) return cached[0];
    }
    return inDirs(defaults);
  }

  private muslDefaultDirs(interpreter: string): readonly string[] {
    if (this.muslDirs !== undefined) return this.muslDirs;
    const file = `/etc/${basename(interpreter).replace(/\.so\.1$/, '')}.path`;
    this.muslDirs = MUSL_DEFAULT_DIRS;
    try {
      this.muslDirs = readFileSync(file, 'utf8')
        .split(/[:\n]/)
        .filter((dir) => dir !== '');
      this.addOptional(file, 'where the dynamic loader finds libraries');
    } catch {
      // Without the file musl searches its built-in directories.
    }
    return this.muslDirs;
  }
}

/** The first executable regular file of that name, as the shell would find it. */
export function findOnPath(name: string, path: readonly string[]): string | undefined {
  return path
    .filter(isAbsolute)
    .map((dir) => join(dir, name))
    .find((candidate) => {
      try {
        const stat = statSync(candidate);
        return stat.isFile() && (stat.mode & 0o111) !== 0;
      } catch {
        return false;
      }
    });
}

function expandTokens(dir: string, object: string): string {
  const origin = () => {
    try {
      return dirname(realpathSync(object));
    } catch {
      return dirname(object);
    }
  };
  return dir
    .replaceAll(/\$(?:ORIGIN|\{ORIGIN\})/g, origin)
    .replaceAll(/\$(?:LIB|\{LIB\})/g, () => 'lib/x86_64-linux-gnu')
    .replaceAll(/\$(?:PLATFORM|\{PLATFORM\})/g, () => 'x86_64');
}

/** The loader and, with musl, the C library inside it: they are there before any search. */
function isLoaderItself(name: string): boolean {
  return (
    name.startsWith('ld-linux') || name.startsWith('libc.musl') || name === 'linux-vdso.so.1' || name === 'libc.so'
  );
}

function isFile(path: string): boolean {
  try {
    return lstatSync(path).isFile() || statSync(path).isFile();
  } catch {
    return false;
  }
}

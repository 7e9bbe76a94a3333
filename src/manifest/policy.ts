// SPDX-License-Identifier: Apache-2.0
//
// Compiles a rendered manifest into the policy of the launch record (docs/launch-record.md). The result is a function
// of the manifest alone: no other file is read, so whoever has the manifest can predict its measurement. The manifest
// may come from anywhere; everything wrong with it is reported at once, by key.

import { type CborValue, encodeCbor } from './cbor.js';
import { ManifestError } from './errors.js';
import {
  Fields,
  formatSize,
  isOutbound,
  isTable,
  OUTBOUND,
  Problems,
  PUBLISHED,
  parsePublished,
  type Table,
} from './fields.js';
import { type HostPath, normalizeHostPath, parseUri } from './host-path.js';
import { type FileMeta, type TrustedEntry, TrustedTree } from './trusted-tree.js';

export type MountType = 'chroot' | 'tmpfs' | 'encrypted' | 'untrusted_shm';

export interface Mount {
  readonly path: string;
  readonly type: MountType;
  /** The host path, without its scheme, normalised; absent for tmpfs. */
  readonly uri?: HostPath;
  /** The name of the key of an encrypted mount. */
  readonly key?: string;
  readonly rw: boolean;
}

export interface Policy {
  readonly entrypoint: string;
  readonly args: {
    readonly argv: readonly string[];
    readonly from: 'manifest' | 'cmdline' | 'file';
    readonly file?: HostPath;
  };
  readonly env: {
    readonly set: readonly (readonly [name: string, value: string])[];
    readonly pass: readonly string[];
    readonly all: boolean;
    readonly file?: HostPath;
  };
  readonly uid: number;
  readonly gid: number;
  readonly cwd: string;
  readonly mounts: readonly Mount[];
  readonly trusted: TrustedTree;
  readonly allowed: readonly HostPath[];
  readonly check: 'strict' | 'allow_all_but_log';
  readonly limits: { readonly stack: bigint; readonly brk: bigint; readonly fds: number };
  readonly net: {
    readonly publish: readonly (readonly [port: number, protocol: 'tcp' | 'udp'])[];
    readonly outbound: readonly string[];
  };
  readonly flags: {
    readonly aslr: boolean;
    readonly sigterm: boolean;
    readonly subprocesses: boolean;
    readonly flock: boolean;
    readonly eventfd: boolean;
    readonly domainNames: boolean;
    readonly log: number;
  };
  readonly keys: ReadonlyMap<string, Uint8Array>;
  readonly mock: readonly (readonly [name: string, result: number])[];
  readonly attestation: 'none' | 'dcap';
}

export const LOG_LEVELS = ['none', 'error', 'warning', 'debug', 'trace', 'all'] as const;
const MOUNT_TYPES = ['chroot', 'encrypted', 'tmpfs', 'untrusted_shm'] as const;
const ID_MAX = 0xffff_ffff;
const DEFAULT_BYTES = 256n * 1024n;
const MIN_STACK_BYTES = 16n * 1024n;
/** What the kernel takes for the limits of stack and heap. */
const MAX_LIMIT_BYTES = 1n << 46n;

/** Compiles a parsed manifest; throws ManifestError with every offence found. */
export function compilePolicy(manifest: unknown): Policy {
  if (!isTable(manifest)) throw new ManifestError('invalid', ['the manifest is not a table']);
  const problems = new Problems();
  const top = new Fields(manifest, '', problems);
  const sys = top.sub('sys');
  const sgx = top.sub('sgx');
  const files = fileRules(top);
  const loader = top.sub('loader');

  const cwd = absolute(top.sub('fs'), 'start_dir', '/');
  const entrypoint = readEntrypoint(top, cwd);

  const policy: Policy = {
    entrypoint: entrypoint.path,
    args: readArgs(loader, entrypoint.written),
    env: readEnv(loader),
    uid: loader.integer('uid', 0, ID_MAX, 0),
    gid: loader.integer('gid', 0, ID_MAX, 0),
    cwd,
    mounts: readMounts(top, files),
    trusted: files.trusted,
    allowed: files.allowed,
    check: files.check,
    limits: {
      stack: stackSize(sys.sub('stack')),
      brk: sys.sub('brk').size('max_size', DEFAULT_BYTES, MAX_LIMIT_BYTES),
      fds: sys.sub('fds').integer('limit', 0, 1 << 20, 900),
    },
    net: readNet(top.sub('tdx').sub('net')),
    flags: {
      aslr: !loader.boolean('insecure__disable_aslr', false),
      sigterm: sys.boolean('enable_sigterm_injection', false),
      subprocesses: !sys.boolean('disallow_subprocesses', false),
      flock: sys.boolean('experimental__enable_flock', false),
      eventfd: sys.boolean('insecure__allow_eventfd', false),
      domainNames: sys.boolean('enable_extra_runtime_domain_names_conf', false),
      log: LOG_LEVELS.indexOf(loader.choice('log_level', LOG_LEVELS, 'error')),
    },
    keys: readKeys(top.sub('fs').sub('insecure__keys')),
    mock: readMocks(sys),
    attestation: (top.sub('tdx').has('remote_attestation') ? top.sub('tdx') : sgx).choice(
      'remote_attestation',
      ['none', 'dcap'],
      'none',
    ),
  };
  problems.throwIfAny();
  return policy;
}

/** A program without a stack cannot start. */
function stackSize(stack: Fields): bigint {
  const bytes = stack.size('size', DEFAULT_BYTES, MAX_LIMIT_BYTES);
  if (bytes < MIN_STACK_BYTES)
    stack.problems.add(stack.at('size'), `a size of at least ${formatSize(MIN_STACK_BYTES)}`, stack.raw('size'));
  return bytes;
}

/** The policy's bytes, as the launch record carries them and RTMR2 measures them. */
export function encodePolicy(policy: Policy): Uint8Array {
  return encodeCbor(policyToCbor(policy));
}

export function policyToCbor(policy: Policy): CborValue {
  const { args, env, flags } = policy;
  return {
    version: 1,
    entrypoint: policy.entrypoint,
    args: { argv: args.argv, from: args.from, file: args.file },
    env: { set: env.set, pass: env.pass, all: env.all, file: env.file },
    uid: policy.uid,
    gid: policy.gid,
    cwd: policy.cwd,
    mounts: policy.mounts.map(({ path, type, uri, key, rw }) => ({ path, type, uri, key, rw })),
    trusted: policy.trusted.toCbor(),
    allowed: policy.allowed,
    check: policy.check,
    limits: policy.limits,
    net: policy.net,
    flags: {
      aslr: flags.aslr,
      sigterm: flags.sigterm,
      subprocesses: flags.subprocesses,
      flock: flags.flock,
      eventfd: flags.eventfd,
      domain_names: flags.domainNames,
      log: flags.log,
    },
    keys: policy.keys,
    mock: policy.mock,
    attestation: policy.attestation,
  };
}

interface Entrypoint {
  readonly path: string;
  /** As the manifest has it, where that is relative: what the program is told as its name. */
  readonly written?: string;
}

/** Gramine opens the program as any file is opened: a relative name starts at the working directory. */
function readEntrypoint(top: Fields, cwd: string): Entrypoint {
  const libos = top.sub('libos');
  const written = libos.string('entrypoint');
  if (written !== undefined && /^[^/\0][^\0]*$/.test(written))
    return { path: normalizeHostPath(`${cwd}/${written}`) ?? '/', written };
  if (libos.has('entrypoint')) return { path: absolute(libos, 'entrypoint', '/') };
  // Gramine before 1.9 named the program in loader.entrypoint; newer manifests have a table there.
  top.problems.add('libos.entrypoint', 'required: the path of the program inside the guest');
  return { path: '/' };
}

function readArgs(loader: Fields, name: string | undefined): Policy['args'] {
  const present = ['argv', 'argv_src_file', 'insecure__use_cmdline_argv'].filter((key) =>
    key === 'insecure__use_cmdline_argv' ? loader.boolean(key, false) : loader.has(key),
  );
  if (present.length > 1) loader.problems.add(loader.path, `${present.join(' and ')} exclude each other`);
  if (loader.boolean('insecure__use_cmdline_argv', false)) return { argv: [], from: 'cmdline' };
  if (loader.has('argv_src_file')) {
    const file = readUri(loader, 'argv_src_file');
    return file === undefined ? { argv: [], from: 'file' } : { argv: [], from: 'file', file };
  }
  const argv = loader.strings('argv');
  if (loader.has('argv') && argv.length === 0) loader.problems.add(loader.at('argv'), 'must not be empty');
  for (const text of argv) refuseNul(loader, 'argv', text);
  // Without arguments the kernel tells the program its path; where that was written otherwise, as it was written.
  return { argv: argv.length === 0 && name !== undefined ? [name] : argv, from: 'manifest' };
}

function readEnv(loader: Fields): Policy['env'] {
  const all = loader.boolean('insecure__use_host_env', false);
  const file = loader.has('env_src_file') ? readUri(loader, 'env_src_file') : undefined;
  if (all && loader.has('env_src_file')) {
    loader.problems.add(loader.path, 'insecure__use_host_env and env_src_file exclude each other');
  }
  const table = loader.sub('env');
  const set: [string, string][] = [];
  const pass: string[] = [];
  for (const name of table.keys()) {
    if (name === '' || /[=\0]/.test(name)) table.problems.add(table.at(name), 'not a name of an environment variable');
    const value = table.raw(name);
    if (!isTable(value)) {
      const text = table.string(name) ?? '';
      refuseNul(table, name, text);
      set.push([name, text]);
      continue;
    }
    const entry = table.sub(name);
    if (entry.has('value') === entry.has('passthrough')) {
      entry.problems.add(entry.path, 'needs either value = "..." or passthrough = true');
    } else if (entry.has('value')) {
      const text = entry.string('value') ?? '';
      refuseNul(entry, 'value', text);
      set.push([name, text]);
    } else {
      if (!entry.boolean('passthrough', true)) entry.problems.add(entry.at('passthrough'), 'can only be true');
      pass.push(name);
    }
  }
  return file === undefined ? { set, pass, all } : { set, pass, all, file };
}

interface FileRules {
  readonly trusted: TrustedTree;
  readonly allowed: readonly HostPath[];
  readonly check: Policy['check'];
}

/** Trusted and allowed files come from table `tdx` when it names any, else from `sgx`; the check falls back by key. */
function fileRules(top: Fields): FileRules {
  const tdx = top.sub('tdx');
  const sgx = top.sub('sgx');
  const source = tdx.has('trusted_files') || tdx.has('allowed_files') ? tdx : sgx;
  const trusted = new TrustedTree();
  source.array('trusted_files').forEach((value, index) => {
    const path = `${source.at('trusted_files')}[${index}]`;
    if (isTable(value)) addTrusted(trusted, new Fields(value, path, top.problems));
    else top.problems.add(path, 'a table { uri, sha256 } as gramine-manifest writes it', value);
  });
  const allowed = new Set<HostPath>();
  source.strings('allowed_files').forEach((uri, index) => {
    const path = parseUri(uri, ['file', 'dev']);
    if (path !== undefined) allowed.add(path);
    else top.problems.add(`${source.at('allowed_files')}[${index}]`, '"file:PATH" or "dev:PATH"', uri);
  });
  return {
    trusted,
    allowed: [...allowed].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))),
    check: (tdx.has('file_check_policy') ? tdx : sgx).choice(
      'file_check_policy',
      ['strict', 'allow_all_but_log'],
      'strict',
    ),
  };
}

function addTrusted(tree: TrustedTree, entry: Fields): void {
  const path = readUri(entry, 'uri');
  const parsed = entry.has('link') ? readLink(entry) : readFile(entry);
  if (path === undefined || parsed === undefined) return;
  try {
    tree.add(path, parsed);
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error;
    entry.problems.add(entry.path, error.message);
  }
}

function readLink(entry: Fields): TrustedEntry | undefined {
  const target = entry.string('link');
  if (entry.has('sha256')) entry.problems.add(entry.path, 'link and sha256 exclude each other');
  return target === undefined ? undefined : { kind: 'link', target };
}

function readFile(entry: Fields): TrustedEntry | undefined {
  const sha256 = readHex(entry, 'sha256', 32);
  if (sha256 === undefined) return undefined;
  if (!entry.has('root')) return { kind: 'file', sha256 };
  const root = readHex(entry, 'root', 32);
  const size = entry.integer('size', 0, Number.MAX_SAFE_INTEGER, 0);
  const mode = entry.integer('mode', 0, 0o7777, 0);
  for (const key of ['size', 'mode']) {
    if (!entry.has(key)) entry.problems.add(entry.at(key), 'required beside root');
  }
  if (root === undefined) return undefined;
  const meta: FileMeta = { size: BigInt(size), mode, root };
  return { kind: 'file', sha256, meta };
}

function readMounts(top: Fields, files: FileRules): Mount[] {
  const fs = top.sub('fs');
  const root = fs.has('root') ? readMount(fs.sub('root'), '/', files) : undefined;
  const mounts: Mount[] = [root ?? { path: '/', type: 'chroot', uri: '.' as HostPath, rw: isWritable('.', files) }];
  fs.array('mounts').forEach((value, index) => {
    const path = `${fs.at('mounts')}[${index}]`;
    if (!isTable(value)) {
      fs.problems.add(path, 'a table', value);
      return;
    }
    const mount = readMount(new Fields(value, path, fs.problems), undefined, files);
    if (mount === undefined) return;
    const twin = mounts.findIndex((other) => other.path === mount.path && mount.path !== '/');
    if (twin > 0) fs.problems.add(`${path}.path`, `${mount.path} is mounted twice: fs.mounts has it before; keep one`);
    else mounts.push(mount);
  });
  return applyReadOnly(mounts, top.sub('tdx'));
}

/** `tdx.read_only` lists guest paths of mounts whose allowed files the program may read but not write. */
function applyReadOnly(mounts: readonly Mount[], tdx: Fields): Mount[] {
  const readOnly = new Set(tdx.strings('read_only'));
  const result = mounts.map((mount) => (readOnly.delete(mount.path) ? { ...mount, rw: false } : mount));
  for (const path of readOnly) tdx.problems.add(tdx.at('read_only'), `${path} is not the path of a mount`);
  return result;
}

function readMount(fields: Fields, fixedPath: string | undefined, files: FileRules): Mount | undefined {
  const type = fields.choice('type', MOUNT_TYPES, 'chroot');
  const path = fixedPath ?? absolute(fields, 'path', undefined);
  if (fixedPath === undefined && path === '/')
    fields.problems.add(fields.at('path'), 'the root is fs.root, not a mount');
  if (type === 'tmpfs') return { path, type, rw: true };
  const scheme =
    type === 'encrypted' ? ['file' as const] : type === 'chroot' ? ['file' as const, 'dev' as const] : ['dev' as const];
  const uri = readUri(fields, 'uri', scheme);
  if (uri === undefined) return undefined;
  if (type === 'encrypted')
    fields.problems.add(fields.at('type'), 'encrypted mounts are not supported yet; a program cannot run with one');
  if (type === 'encrypted') return { path, type, uri, key: fields.string('key_name') ?? 'default', rw: true };
  return { path, type, uri, rw: type === 'untrusted_shm' || isWritable(uri, files) };
}

/** Whether the launcher must export `uri` writable: only if a file there is allowed, or the check lets all through. */
export function isWritable(uri: string, files: Pick<FileRules, 'allowed' | 'check'>): boolean {
  if (files.check === 'allow_all_but_log') return true;
  return files.allowed.some((path) => isBelow(path, uri) || isBelow(uri, path));
}

function isBelow(path: string, ancestor: string): boolean {
  if (path === ancestor || ancestor === '/') return path.startsWith(ancestor);
  if (ancestor === '.') return !path.startsWith('/') && path !== '..' && !path.startsWith('../');
  return path.startsWith(`${ancestor}/`);
}

function readNet(net: Fields): Policy['net'] {
  const publish = net.strings('publish').flatMap((text, index): [number, 'tcp' | 'udp'][] => {
    const port = parsePublished(text);
    if (port !== undefined) return [port];
    net.problems.add(`${net.at('publish')}[${index}]`, PUBLISHED, text);
    return [];
  });
  const outbound = net.strings('outbound');
  for (const [index, text] of outbound.entries())
    if (!isOutbound(text)) net.problems.add(`${net.at('outbound')}[${index}]`, OUTBOUND, text);
  return { publish, outbound };
}

function readKeys(keys: Fields): Map<string, Uint8Array> {
  const result = new Map<string, Uint8Array>();
  for (const name of keys.keys()) {
    if (name.startsWith('_')) keys.problems.add(keys.at(name), 'names that start with "_" are reserved');
    const key = readHex(keys, name, 16);
    if (key !== undefined) result.set(name, key);
  }
  return result;
}

function readMocks(sys: Fields): [string, number][] {
  return sys.array('debug__mock_syscalls').flatMap((value, index): [string, number][] => {
    const path = `${sys.at('debug__mock_syscalls')}[${index}]`;
    if (!isTable(value)) {
      sys.problems.add(path, 'a table { name, return }', value);
      return [];
    }
    const entry = new Fields(value as Table, path, sys.problems);
    const name = entry.string('name');
    if (name === undefined) entry.problems.add(entry.at('name'), 'required');
    return name === undefined
      ? []
      : [[name, entry.integer('return', Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, 0)]];
  });
}

function readUri(fields: Fields, key: string, schemes: readonly ('file' | 'dev')[] = ['file']): HostPath | undefined {
  const uri = fields.string(key);
  if (uri === undefined) {
    if (!fields.has(key)) fields.problems.add(fields.at(key), 'required');
    return undefined;
  }
  const path = parseUri(uri, schemes);
  if (path === undefined) fields.problems.add(fields.at(key), schemes.map((s) => `"${s}:PATH"`).join(' or '), uri);
  return path;
}

function readHex(fields: Fields, key: string, bytes: number): Uint8Array | undefined {
  const text = fields.string(key);
  if (text !== undefined && text.length === 2 * bytes && /^[0-9a-fA-F]+$/.test(text)) return Buffer.from(text, 'hex');
  if (text !== undefined) fields.problems.add(fields.at(key), `${2 * bytes} hex digits`, text);
  else if (!fields.has(key)) fields.problems.add(fields.at(key), `required: ${2 * bytes} hex digits`);
  return undefined;
}

/** An absolute, normalised path in the guest. Without `fallback` the key is required. */
function absolute(fields: Fields, key: string, fallback: string | undefined): string {
  const text = fields.string(key);
  if (text === undefined) {
    if (fallback === undefined && !fields.has(key)) fields.problems.add(fields.at(key), 'required');
    return fallback ?? '/absent';
  }
  const path = normalizeHostPath(text);
  if (path?.startsWith('/')) return path;
  fields.problems.add(fields.at(key), 'an absolute path', text);
  return fallback ?? '/absent';
}

function refuseNul(fields: Fields, key: string, text: string): void {
  if (text.includes('\0')) fields.problems.add(fields.at(key), 'must not contain a NUL byte');
}

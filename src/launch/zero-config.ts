// SPDX-License-Identifier: Apache-2.0
//
// Writes a manifest, in memory, for a program that has none: a root in memory, read-only mounts of just the files that
// the program needs to start (the manifest room's discovery finds them), and their hashes. What a program opens later by a
// name that it computed cannot be known here; `-v` adds it.

import type { BigIntStats } from 'node:fs';
import {
  type Discovery,
  discover,
  type FileCache,
  findProgram,
  GUEST_PATH,
  type HashedFile,
  type HostPath,
  isWritable,
  ManifestError,
} from '../manifest/index.js';
import { LaunchError } from './errors.js';
import type { Volume } from './options.js';

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
    readonly remote_attestation: 'dcap';
    readonly allowed_files: readonly string[];
    readonly read_only: readonly string[];
    readonly net: { readonly publish: readonly string[]; readonly outbound: readonly string[] };
    readonly trusted_files: readonly TrustedFile[];
  };
}

/** Errors: LaunchError `program-missing`, `wrong-architecture`; of a file: `not-permitted`, `helper-failed`. */
export function buildZeroConfig(request: ZeroConfigRequest): ZeroConfig {
  try {
    return build(request);
  } catch (error) {
    const known = error instanceof ManifestError ? error.code : undefined;
    if (
      !(error instanceof Error) ||
      (known !== 'program-missing' && known !== 'wrong-architecture' && known !== 'file')
    )
      throw error;
    const { code } = (error.cause ?? {}) as { readonly code?: string };
    const ofFile = code === 'EACCES' || code === 'EPERM' ? 'not-permitted' : 'helper-failed';
    throw new LaunchError(known === 'file' ? ofFile : known, error.message, { cause: error });
  }
}

function build(request: ZeroConfigRequest): ZeroConfig {
  const entrypoint = findProgram(request.app);
  const env = new Map<string, string>([
    ['PATH', GUEST_PATH],
    ['HOME', '/'],
    ...(process.env.TERM === undefined ? [] : [['TERM', process.env.TERM] as const]),
    ...request.env,
  ]);
  const found = discover({ entrypoint, args: request.args, env, cache: request.cache });

  const guestPathIsMounted = (path: string) =>
    request.volumes.some(({ guest }) => path === guest || path.startsWith(`${guest}/`));
  const leaves = new Map<string, string>();
  const trusted = new Map<string, TrustedFile>();
  const trust = (host: string, stat: BigIntStats) => {
    const hashed = request.cache.hash(host, stat);
    leaves.set(hashed.sha256, hashed.leaves);
    trusted.set(host, trustedFile(host, hashed));
  };
  const mounts: { type?: 'tmpfs'; path: string; uri?: string }[] = [];
  if (!guestPathIsMounted('/tmp')) mounts.push({ type: 'tmpfs', path: '/tmp' });
  for (const { path } of found.folders) if (!guestPathIsMounted(path)) mounts.push({ path, uri: `file:${path}` });
  for (const { path, stat } of found.folderFiles) if (!guestPathIsMounted(path)) trust(path, stat);
  for (const { path, target } of found.folderLinks)
    if (!guestPathIsMounted(path)) trusted.set(path, { uri: `file:${path}`, link: target });
  let single = 0;
  for (const file of found.files) {
    if (guestPathIsMounted(file.guest)) continue;
    mounts.push({ path: file.guest, uri: `file:${file.host}` });
    trust(file.host, file.stat);
    single += 1;
  }
  // A volume allows its files wherever they are seen: what was found around or in it stays read-only all the same.
  const readOnly = besideVolumes(
    mounts.map(({ path, uri }) => ({ path, uri: uri?.slice('file:'.length), rw: false })),
    request.volumes,
  );
  for (const volume of request.volumes) mounts.push({ path: volume.guest, uri: `file:${volume.host}` });

  const workdir = request.workdir ?? (found.relativeArguments ? process.cwd() : '/');
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
        remote_attestation: 'dcap', // /dev/attestation is whole; a host without a quoting service still runs it
        allowed_files: request.volumes.map(({ host }) => `file:${host}`),
        read_only: [...readOnly, ...request.volumes.filter(({ writable }) => !writable).map(({ guest }) => guest)],
        net: {
          publish: request.publish.map(([port, protocol]) => `${port}/${protocol}`),
          outbound: request.outbound,
        },
        trusted_files: [...trusted.values()],
      },
    },
    leaves,
    summary: summarize(request, entrypoint, single, found),
    warnings: [
      ...found.missing.map((name) => `${request.app} needs ${name}, which is not on this machine`),
      ...found.unreadable.map(({ folder, path }) => `${request.app} does not get ${folder}: you may not read ${path}`),
    ],
  };
}

/**
 * The guest paths of read-only mounts that the files of volumes would make writable, as they are allowed files: a volume is
 * written, if at all, where it is mounted, and no folder around it becomes writable on the host.
 */
export function besideVolumes(
  mounts: readonly { readonly path: string; readonly uri?: string | undefined; readonly rw: boolean }[],
  volumes: readonly Volume[],
): string[] {
  const allowed = volumes.map(({ host }) => host as HostPath);
  return mounts
    .filter(({ uri, rw }) => !rw && uri !== undefined && isWritable(uri, { allowed, check: 'strict' }))
    .map(({ path }) => path);
}

function trustedFile(host: string, hashed: HashedFile): TrustedFile {
  const { sha256, size, mode, root } = hashed;
  return { uri: `file:${host}`, sha256, size, mode, root };
}

function summarize(
  request: ZeroConfigRequest,
  entrypoint: string,
  single: number,
  { folders, folderFiles, argumentFiles }: Discovery,
): string {
  const parts = [`${single} files`];
  if (folders.length > 0) parts.push(`${folders.map(({ path }) => path).join(', ')} (${folderFiles.length} files)`);
  const named = argumentFiles.length > 0 ? `, ${argumentFiles.join(' ')} among them` : '';
  const volumes = request.volumes
    .map(({ host, writable }) => `; ${host} ${writable ? 'writable' : 'read-only'}`)
    .join('');
  return `no manifest for ${entrypoint}: it sees ${parts.join(' and ')} of this machine, read-only and verified${named}; the rest is in memory${volumes}`;
}

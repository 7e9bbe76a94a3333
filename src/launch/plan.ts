// SPDX-License-Identifier: Apache-2.0
//
// From what the user typed to what will run: finds the manifest, or makes one, applies the command line to it as far as
// the manifest allows, and compiles the policy. Starts nothing.

import { existsSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import {
  cacheFileFor,
  compileManifest,
  compilePolicy,
  decodeText,
  FileCache,
  ManifestError,
  machineOf,
  type ParsedManifest,
  type Policy,
  parseManifest,
} from '../manifest/index.js';
import { fromErrno, LaunchError } from './errors.js';
import { type HostHints, hintsFor } from './hints.js';
import { hostVariable, type Publication, type Volume } from './options.js';
import { besideVolumes, buildZeroConfig } from './zero-config.js';

export interface PlanRequest {
  readonly app: string;
  readonly args: readonly string[];
  readonly env: readonly (readonly [name: string, value: string])[];
  readonly volumes: readonly Volume[];
  readonly publish: readonly Publication[];
  readonly outbound: readonly string[];
  readonly workdir?: string | undefined;
  readonly memoryBytes?: bigint | undefined;
}

export interface Plan {
  /** The user's manifest asks for quotes: a host that cannot make them will not do. */
  readonly needsQuotes: boolean;
  /** The manifest as a table: what --save-manifest writes. */
  readonly manifest: unknown;
  readonly policy: Policy;
  readonly invocation: { readonly argv: readonly Uint8Array[]; readonly env: readonly Uint8Array[] };
  /** What the kernel is told besides, which nothing trusts. */
  readonly hints: HostHints;
  readonly memoryBytes: bigint;
  /** As the manifest wishes. */
  readonly cpus?: number | undefined;
  /** What was found and decided, in one line. */
  readonly summary: string;
  readonly warnings: readonly string[];
  /** Remembers what was hashed; to be called when there is time. */
  readonly remember: () => void;
}

const MANIFEST_SUFFIXES = ['.manifest.tdx', '.manifest.sgx', '.manifest'];
const DEFAULT_MEMORY_BYTES = 1n << 30n;

export async function makePlan(request: PlanRequest): Promise<Plan> {
  const manifestPath = MANIFEST_SUFFIXES.map((suffix) => `${request.app}${suffix}`).find((path) => existsSync(path));
  return manifestPath === undefined ? planWithout(request) : planWith(request, manifestPath);
}

function planWithout(request: PlanRequest): Plan {
  const cache = new FileCache(cacheFileFor(request.app.includes('/') ? resolve(request.app) : request.app));
  const { manifest, leaves, summary, warnings } = buildZeroConfig({
    ...request,
    publish: request.publish.map(({ guestPort, protocol }) => [guestPort, protocol]),
    cache,
  });
  const policy = asLaunchError(() => compilePolicy(manifest), 'the manifest made for this run');
  return {
    needsQuotes: false,
    manifest,
    policy,
    invocation: { argv: [], env: [] },
    hints: hintsFor(policy, process.cwd(), cache, leaves),
    memoryBytes: request.memoryBytes ?? DEFAULT_MEMORY_BYTES,
    summary,
    warnings,
    remember: () => cache.save(),
  };
}

function planWith(request: PlanRequest, path: string): Plan {
  const parsed = readManifest(path);
  const manifest = parsed.value;
  // Compiled before anything is added to it: what is malformed is told, and not overwritten.
  const before = asLaunchError(() => compileManifest(parsed), path);
  const isAsked = request.volumes.length > 0 || request.workdir !== undefined;
  if (isAsked) addToManifest(manifest, request, before);
  const policy = isAsked ? asLaunchError(() => compileManifest(parsed), path) : before;
  const machine = asLaunchError(() => machineOf(parsed), path);
  refuseUnlistedPorts(manifest, policy, request, path);
  const cache = new FileCache(cacheFileFor(`launch ${resolve(path)}`));
  return {
    needsQuotes: policy.attestation === 'dcap',
    manifest,
    policy,
    invocation: { argv: argumentsFor(policy, request, path), env: environmentFor(policy, request, path) },
    hints: hintsFor(policy, process.cwd(), cache),
    memoryBytes: request.memoryBytes ?? machine.memoryBytes ?? DEFAULT_MEMORY_BYTES,
    cpus: machine.cpus,
    summary: `${policy.entrypoint} as ${path} says`,
    warnings: [],
    remember: () => cache.save(),
  };
}

type Mutable = Record<string, unknown>;

function readManifest(path: string): ParsedManifest {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw fromErrno(error, `cannot read ${path}`);
  }
  return asLaunchError(() => parseManifest(decodeText(bytes, path), path), path);
}

/** The offences of a manifest as the launcher tells them. */
function asLaunchError<T>(read: () => T, where: string): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error;
    const list =
      error.code === 'syntax'
        ? error.problems.join('\n')
        : `${where} is not a valid manifest:${error.problems.map((problem) => `\n  ${problem}`).join('')}`;
    throw new LaunchError('manifest-invalid', list, { cause: error });
  }
}

/** Applies -v and -w, which the user at this machine may always ask for: they change the policy and so its measurement. */
function addToManifest(manifest: Mutable, request: PlanRequest, before: Policy): void {
  const table = (parent: Mutable, key: string): Mutable => {
    const value = parent[key] ?? {};
    parent[key] = value;
    return value as Mutable;
  };
  const append = (parent: Mutable, key: string, items: readonly unknown[]) => {
    const present = parent[key];
    parent[key] = [...(Array.isArray(present) ? present : []), ...items];
  };
  const fs = table(manifest, 'fs');
  if (request.workdir !== undefined) {
    fs.start_dir = request.workdir;
    // A relative one stays where it is, and its name what it was.
    table(manifest, 'libos').entrypoint = before.entrypoint;
    const { from, argv } = before.args;
    if (from === 'manifest' && argv.length > 0) table(manifest, 'loader').argv = [...argv];
  }
  if (request.volumes.length === 0) return;
  append(
    fs,
    'mounts',
    request.volumes.map(({ host, guest }) => ({ path: guest, uri: `file:${host}` })),
  );
  const tdx = table(manifest, 'tdx');
  const owner = 'trusted_files' in tdx || 'allowed_files' in tdx ? tdx : table(manifest, 'sgx');
  append(
    owner,
    'allowed_files',
    request.volumes.map(({ host }) => `file:${host}`),
  );
  append(tdx, 'read_only', [
    ...besideVolumes(before.mounts, request.volumes),
    ...request.volumes.filter(({ writable }) => !writable).map(({ guest }) => guest),
  ]);
}

/** Where the manifest lists the ports that the program serves, -p opens no others; Gramine's manifests list none. */
function refuseUnlistedPorts(manifest: Mutable, policy: Policy, request: PlanRequest, path: string): void {
  const net = (manifest.tdx as Mutable | undefined)?.net as Mutable | undefined;
  if (net?.publish === undefined) return;
  const listed = policy.net.publish.map(([port, protocol]) => `${port}/${protocol}`);
  for (const { hostPort, guestPort, protocol } of request.publish) {
    if (listed.includes(`${guestPort}/${protocol}`)) continue;
    throw new LaunchError(
      'usage',
      `--publish ${hostPort}:${guestPort}/${protocol}: ${path} does not list guest port ${guestPort}/${protocol}; ` +
        `tdx.net.publish has ${listed.length === 0 ? 'none' : listed.join(', ')}. Add it there, or publish one of those.`,
    );
  }
}

function argumentsFor(policy: Policy, request: PlanRequest, path: string): Uint8Array[] {
  if (policy.args.from === 'cmdline') return request.args.map((arg) => Buffer.from(arg));
  const same =
    request.args.length === policy.args.argv.length - 1 &&
    request.args.every((arg, i) => arg === policy.args.argv[i + 1]);
  if (request.args.length > 0 && !same) {
    throw new LaunchError(
      'usage',
      `${path} fixes the program's arguments; it takes none from the command line (loader.insecure__use_cmdline_argv allows it)`,
    );
  }
  return [];
}

function environmentFor(policy: Policy, request: PlanRequest, path: string): Uint8Array[] {
  const { pass, all } = policy.env;
  const names = all ? Object.keys(process.env) : pass;
  const env = new Map<string, string>();
  for (const name of names) {
    const value = hostVariable(name);
    if (value !== undefined) env.set(name, value);
  }
  for (const [name, value] of request.env) {
    if (!all && !pass.includes(name)) {
      throw new LaunchError(
        'usage',
        `--env ${name}: ${path} does not let it through (loader.env.${name} = { passthrough = true })`,
      );
    }
    env.set(name, value);
  }
  return [...env].map(([name, value]) => Buffer.from(`${name}=${value}`));
}

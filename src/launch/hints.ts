// SPDX-License-Identifier: Apache-2.0
//
// What this host tells the kernel without being believed (docs/launch-record.md, `host`): the leaf lists of trusted files,
// so that none needs to be read whole before its first byte is used; their modification times; and, for a policy that asks
// for them, the names that programs here resolve with.

import { type BigIntStats, readFileSync, statSync } from 'node:fs';
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { type FileCache, leafCount, ManifestError, type Policy } from '../manifest/index.js';

export interface HostHints {
  /** Leaf lists (base64) by hex SHA-256. */
  readonly leaves: ReadonlyMap<string, string>;
  /** Nanoseconds since 1970 as u64 little-endian, for each trusted file with size and root, in the policy's order. */
  readonly times: Uint8Array;
  readonly hostname?: string;
  /** Lines of resolv.conf. */
  readonly resolv?: string;
}

/** Longer lists of leaves do not fit into the launch record. */
const MAX_LEAF_BYTES = 3 << 20;
const LEAF_DIGEST_BYTES = 32;
/** What the kernel takes. */
const MAX_RESOLV_BYTES = 4096;

/**
 * The hints for a policy whose relative paths start at `directory`. Files that are not in `known` are hashed where the
 * cache does not know them; one that is not what the manifest says is left to the kernel to find.
 */
export function hintsFor(
  policy: Policy,
  directory: string,
  cache: FileCache,
  known: ReadonlyMap<string, string> = new Map(),
): HostHints {
  const leaves = new Map(known);
  const files = [...policy.trusted.entries()].flatMap(([path, entry]) =>
    entry.kind === 'file' && entry.meta !== undefined
      ? [{ path: resolve(directory, path), entry, meta: entry.meta }]
      : [],
  );
  const leafBytes = files.reduce((sum, { meta }) => sum + leafCount(meta.size) * LEAF_DIGEST_BYTES, 0);
  const times = Buffer.alloc(8 * files.length);
  for (const [i, { path, entry, meta }] of files.entries()) {
    const stat = statFile(path);
    if (stat === undefined || stat.size !== meta.size) continue;
    // tmpfs and btrfs keep times far beyond the year 2554.
    if (stat.mtimeNs > 0n && stat.mtimeNs < 1n << 64n) times.writeBigUInt64LE(stat.mtimeNs, 8 * i);
    const sha256 = Buffer.from(entry.sha256).toString('hex');
    if (leafBytes > MAX_LEAF_BYTES || leaves.has(sha256)) continue;
    const hashed = hashFile(cache, path, stat);
    if (hashed?.sha256 === sha256) leaves.set(sha256, hashed.leaves);
  }
  return { leaves, times, ...(policy.flags.domainNames ? nameHints() : {}) };
}

function statFile(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return undefined;
  }
}

function hashFile(cache: FileCache, path: string, stat: BigIntStats): ReturnType<FileCache['hash']> | undefined {
  try {
    return cache.hash(path, stat);
  } catch (error) {
    if (error instanceof ManifestError) return undefined;
    throw error;
  }
}

/** sys.enable_extra_runtime_domain_names_conf. Only lines that the kernel may take are sent: it checks their words. */
function nameHints(): Pick<HostHints, 'hostname' | 'resolv'> {
  const name = hostname();
  return {
    ...(/^[A-Za-z0-9._-]{1,64}$/.test(name) ? { hostname: name } : {}),
    resolv: resolverLines('/etc/resolv.conf', '/run/systemd/resolve/resolv.conf'),
  };
}

/** Lines of the first file; where its servers listen on the host's loopback, which a guest cannot reach, of the second. */
export function resolverLines(path: string, behind: string): string {
  const first = readLines(path);
  const isServer = (line: string) => line.startsWith('nameserver');
  const servers = first.filter(isServer);
  const isLocal = servers.length > 0 && servers.every((line) => /^nameserver\s+(?:127\.|::1)/.test(line));
  const other = isLocal ? readLines(behind) : [];
  const lines = other.some(isServer) ? other : first;
  let text = '';
  for (const line of lines) if (text.length + line.length < MAX_RESOLV_BYTES) text += `${line}\n`;
  return text;
}

function readLines(path: string): string[] {
  let text = '';
  try {
    text = readFileSync(path, 'latin1');
  } catch {
    // A machine without one.
  }
  return text.split('\n').filter((line) => /^(?:nameserver|search|options)[ \t][\t -~]*$/.test(line));
}

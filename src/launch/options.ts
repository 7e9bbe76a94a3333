// SPDX-License-Identifier: Apache-2.0
//
// The values of command-line options, parsed: every parser throws LaunchError `usage` with what it expected.

import { existsSync } from 'node:fs';
import { isIP } from 'node:net';
import { posix, resolve } from 'node:path';
import { isOutbound, parseSize } from '../manifest/index.js';
import { LaunchError } from './errors.js';

export interface Publication {
  /** Without brackets; IPv4 or IPv6. */
  readonly address: string;
  readonly hostPort: number;
  readonly guestPort: number;
  readonly protocol: 'tcp' | 'udp';
}

export interface Volume {
  readonly host: string;
  readonly guest: string;
  readonly writable: boolean;
}

export const MIN_MEMORY_BYTES = 64n << 20n;
const MAX_CPUS = 64;

function usage(message: string): LaunchError {
  return new LaunchError('usage', message);
}

/** `[ADDR:]HOST:GUEST[/tcp|/udp]` or one port for both; without an address only this machine can connect. */
export function parsePublication(text: string): Publication {
  const match = /^(?:(\[[0-9a-fA-F:.]+\]|[0-9]+(?:\.[0-9]+){3}):)?([0-9]+)(?::([0-9]+))?(?:\/(tcp|udp))?$/.exec(text);
  const expected = 'expected [ADDRESS:]HOST:GUEST[/tcp|/udp], such as 6379:6379';
  // "127.0.0.1:80" reads as ADDRESS:HOST without a guest port, which would be a guess.
  if (match === null || (match[1] !== undefined && match[3] === undefined)) {
    throw usage(`--publish ${text}: ${expected}`);
  }
  const hostPort = Number(match[2]);
  const guestPort = Number(match[3] ?? match[2]);
  // Host port 0 asks for any free one; the bridge says which.
  if (hostPort > 65535 || guestPort < 1 || guestPort > 65535) {
    throw usage(`--publish ${text}: ports go from 1 to 65535 (host: 0 takes any free one)`);
  }
  const address = (match[1] ?? '127.0.0.1').replace(/^\[|\]$/g, '');
  if (isIP(address) === 0) throw usage(`--publish ${text}: ${address} is not an address`);
  return { address, hostPort, guestPort, protocol: match[4] === 'udp' ? 'udp' : 'tcp' };
}

/** `HOST:GUEST[:ro|:rw]`. */
export function parseVolume(text: string): Volume {
  const match = /^([^:]+):(\/[^:]*)(?::(ro|rw))?$/.exec(text);
  if (match?.[1] === undefined || match[2] === undefined) {
    throw usage(`--volume ${text}: expected HOST:GUEST[:rw] with an absolute GUEST path`);
  }
  const host = resolve(match[1]);
  if (!existsSync(host)) throw usage(`--volume ${text}: ${host} does not exist`);
  const guest = posix.normalize(match[2]).replace(/(.)\/$/, '$1');
  if (guest === '/') throw usage(`--volume ${text}: a volume cannot replace the guest's root`);
  return { host, guest, writable: match[3] === 'rw' };
}

/** A variable of our own environment; what JavaScript's objects inherit (`toString`) is none. */
export function hostVariable(name: string): string | undefined {
  return Object.hasOwn(process.env, name) ? process.env[name] : undefined;
}

/** `NAME=VALUE`, or `NAME` for the value that it has here. */
export function parseEnv(text: string): readonly [name: string, value: string] {
  const at = text.indexOf('=');
  const name = at === -1 ? text : text.slice(0, at);
  if (name === '') throw usage(`--env ${text}: expected NAME=VALUE or NAME`);
  const value = at === -1 ? hostVariable(name) : text.slice(at + 1);
  if (value === undefined) throw usage(`--env ${text}: ${name} is not set here; give NAME=VALUE`);
  return [name, value];
}

export function parseMemory(text: string): bigint {
  const bytes = parseSize(text);
  if (bytes === undefined) throw usage(`--memory ${text}: expected a size such as 512M or 2G`);
  if (bytes < MIN_MEMORY_BYTES) throw usage(`--memory ${text}: the machine needs 64M at least`);
  if (bytes % (2n << 20n) !== 0n) throw usage(`--memory ${text}: expected a multiple of 2M`);
  return bytes;
}

export function parseCpus(text: string): number {
  const cpus = /^[0-9]{1,3}$/.test(text) ? Number(text) : 0;
  if (cpus < 1 || cpus > MAX_CPUS) throw usage(`--cpus ${text}: expected a number from 1 to ${MAX_CPUS}`);
  return cpus;
}

export function parseWorkdir(text: string): string {
  if (!text.startsWith('/')) throw usage(`--workdir ${text}: expected an absolute path in the guest`);
  return text;
}

/** `HOST:PORT`, where either can be `*`. */
export function parseOutbound(text: string): string {
  if (isOutbound(text)) return text;
  throw usage(`--net ${text}: expected HOST:PORT, where either can be "*"`);
}

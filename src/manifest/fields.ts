// SPDX-License-Identifier: Apache-2.0
//
// Reading typed values out of a parsed manifest, whose shape is unknown. Every reader notes an offence under the key's
// dotted path and goes on with a harmless value, so that one error can list all offences at once.

import { type KeyProblem, ManifestError } from './errors.js';

export type Table = Readonly<Record<string, unknown>>;

/** Collects offences; `throwIfAny` turns them into one ManifestError. */
export class Problems {
  private readonly list: KeyProblem[] = [];

  add(key: string, expected: string, got?: unknown): void {
    this.list.push({ key, message: got === undefined ? expected : `expected ${expected}, got ${describe(got)}` });
  }

  throwIfAny(): void {
    if (this.list.length === 0) return;
    const texts = this.list.map(({ key, message }) => `${key}: ${message}`);
    throw new ManifestError('invalid', texts, undefined, this.list);
  }
}

/** A value that no key takes, as messages name it: neither a string, which a key may take, nor a table. */
export class Unusable {
  constructor(readonly text: string) {}
  toString(): string {
    return this.text;
  }
}

export function isTable(value: unknown): value is Table {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    !(value instanceof Date) &&
    !(value instanceof Unusable) &&
    !(value instanceof Uint8Array)
  );
}

/** A table in the manifest together with its dotted path. */
export class Fields {
  constructor(
    readonly table: Table,
    readonly path: string,
    readonly problems: Problems,
  ) {}

  /** The raw value; an inherited property (`constructor`, `__proto__`) is not a key of the manifest. */
  raw(key: string): unknown {
    return Object.hasOwn(this.table, key) ? this.table[key] : undefined;
  }

  has(key: string): boolean {
    return this.raw(key) !== undefined;
  }

  keys(): string[] {
    return Object.keys(this.table);
  }

  at(key: string): string {
    const name = /^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key);
    return this.path === '' ? name : `${this.path}.${name}`;
  }

  /** A sub-table; an absent one reads as empty. */
  sub(key: string): Fields {
    const value = this.raw(key);
    if (value !== undefined && !isTable(value)) this.problems.add(this.at(key), 'a table', value);
    return new Fields(isTable(value) ? value : {}, this.at(key), this.problems);
  }

  string(key: string): string | undefined {
    return this.typed(key, 'a string', (value) => typeof value === 'string');
  }

  boolean(key: string, fallback: boolean): boolean {
    return this.typed<boolean>(key, 'true or false', (value) => typeof value === 'boolean') ?? fallback;
  }

  integer(key: string, min: number, max: number, fallback: number): number {
    const inRange = (value: unknown) =>
      typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max;
    return this.typed<number>(key, `an integer from ${min} to ${max}`, inRange) ?? fallback;
  }

  choice<T extends string>(key: string, choices: readonly T[], fallback: T): T {
    const expected = `one of ${choices.map((choice) => `"${choice}"`).join(', ')}`;
    return this.typed<T>(key, expected, (value) => choices.some((choice) => choice === value)) ?? fallback;
  }

  strings(key: string): string[] {
    return this.array(key).flatMap((value, index) => {
      if (typeof value === 'string') return [value];
      this.problems.add(`${this.at(key)}[${index}]`, 'a string', value);
      return [];
    });
  }

  array(key: string): readonly unknown[] {
    return this.typed<readonly unknown[]>(key, 'an array', Array.isArray) ?? [];
  }

  /** A size as Gramine writes it: decimal digits with an optional K, M or G in either case; bytes below 2^63. */
  size(key: string, fallback: bigint, max = (1n << 63n) - 1n): bigint {
    const text = this.string(key);
    if (text === undefined) return fallback;
    const bytes = parseSize(text);
    if (bytes === undefined) this.problems.add(this.at(key), 'a size such as "256K" below 8E', text);
    else if (bytes > max) this.problems.add(this.at(key), `a size of at most ${formatSize(max)}`, text);
    return bytes ?? fallback;
  }

  private typed<T>(key: string, expected: string, accepts: (value: unknown) => boolean): T | undefined {
    const value = this.raw(key);
    if (value === undefined) return undefined;
    if (accepts(value)) return value as T;
    this.problems.add(this.at(key), expected, value);
    return undefined;
  }
}

/** "256K" -> 262144n; undefined for what is not a size or does not fit in 63 bits. */
export function parseSize(text: string): bigint | undefined {
  const match = /^([0-9]{1,20})([KMGkmg]?)$/.exec(text);
  if (match === null) return undefined;
  const shift = { '': 0n, k: 10n, m: 20n, g: 30n }[(match[2] ?? '').toLowerCase() as '' | 'k' | 'm' | 'g'];
  const bytes = BigInt(match[1] ?? '') << shift;
  return bytes < 1n << 63n ? bytes : undefined;
}

/** 262144n -> "256K"; the largest suffix that divides. */
export function formatSize(bytes: bigint): string {
  const fits = (shift: bigint) => bytes !== 0n && bytes % (1n << shift) === 0n;
  if (fits(30n)) return `${bytes >> 30n}G`;
  if (fits(20n)) return `${bytes >> 20n}M`;
  return fits(10n) ? `${bytes >> 10n}K` : bytes.toString();
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return 'an array';
  if (isTable(value)) return 'a table';
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

/** A port of `tdx.net.publish`: "PORT", "PORT/tcp" or "PORT/udp"; undefined for any other text. */
export function parsePublished(text: string): [number, 'tcp' | 'udp'] | undefined {
  const match = /^([0-9]{1,5})(?:\/(tcp|udp))?$/.exec(text);
  const port = Number(match?.[1] ?? 0);
  return port >= 1 && port <= 65535 ? [port, match?.[2] === 'udp' ? 'udp' : 'tcp'] : undefined;
}
export const PUBLISHED = '"PORT/tcp" or "PORT/udp", with a port from 1 to 65535';

/** Whether a text is a destination of `tdx.net.outbound`. */
export function isOutbound(text: string): boolean {
  const port = /^(?:\*|[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(\*|[0-9]{1,5})$/.exec(text)?.[1];
  return port === '*' || (Number(port) >= 1 && Number(port) <= 65535);
}
export const OUTBOUND = '"HOST:PORT", where either may be "*"';

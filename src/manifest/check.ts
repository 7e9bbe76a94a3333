// SPDX-License-Identifier: Apache-2.0
//
// The check of a manifest's shape: the verdict of Gramine's own checker, and a report that it does not give: every problem
// at once, each with its key, its line and column, and the known key that was probably meant.

import type * as z from 'zod/mini';
import { gramineSchema, manifestSchema } from './schema.js';
import type { Position, TomlTable, TomlValue } from './toml.js';

export interface Problem {
  /** Dotted key, list positions in brackets. */
  readonly key: string;
  readonly message: string;
  readonly at?: Position;
}

export interface CheckOptions {
  /** Accept our own `tdx` table, which Gramine's checker refuses. Default: true. */
  readonly allowTdx?: boolean;
  /** Ask for `loader.entrypoint`, as Gramine's checker does. Default: false. */
  readonly requireLoader?: boolean;
}

/** All problems of a manifest's shape, in the order of the text where they have a place; none when it is good. */
export function checkManifest(manifest: TomlTable, options: CheckOptions = {}): Problem[] {
  const schema = (options.allowTdx ?? true) ? manifestSchema : gramineSchema;
  const issues = schema.safeParse(plain(manifest)).error?.issues ?? [];
  const problems = issues.flatMap((issue) => problemsOf(issue, manifest, schema));
  if (options.requireLoader ?? false) {
    const loader = manifest.entries.get('loader');
    if (loader?.kind !== 'table') problems.push({ key: 'loader', message: 'required key is missing' });
    else if (!loader.entries.has('entrypoint'))
      problems.push({ key: 'loader.entrypoint', message: 'required key is missing' });
  }
  return problems.sort((a, b) => line(a) - line(b) || column(a) - column(b));
}

const line = (p: Problem): number => p.at?.line ?? 0;
const column = (p: Problem): number => p.at?.column ?? 0;

/** Tables become objects without prototype, integers bigints; floats and dates become what no schema accepts for text. */
function plain(value: TomlValue): unknown {
  switch (value.kind) {
    case 'table': {
      const object = Object.create(null) as Record<string, unknown>;
      for (const [k, v] of value.entries) object[k] = plain(v);
      return object;
    }
    case 'array':
      return value.items.map(plain);
    case 'rows':
      return Array.from({ length: value.count }, (_, i) => plain(value.row(i)));
    case 'date':
      return new Date(Number.NaN);
    default:
      return value.value;
  }
}

function problemsOf(issue: z.core.$ZodIssue, manifest: TomlTable, schema: z.ZodMiniType): Problem[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((unknown) => {
      const path = [...issue.path, unknown];
      return problem(path, `unknown key${suggestion(unknown, knownKeys(issue.path, schema))}`, manifest);
    });
  }
  const missing = issue.path.length > 0 && find(manifest, issue.path) === undefined;
  return [problem(issue.path, missing ? 'required key is missing' : issue.message, manifest)];
}

function problem(path: readonly PropertyKey[], message: string, manifest: TomlTable): Problem {
  const at = positionOf(manifest, path);
  return {
    key: path.reduce<string>(
      (s, p) => (typeof p === 'number' ? `${s}[${p}]` : s === '' ? String(p) : `${s}.${String(p)}`),
      '',
    ),
    message,
    ...(at ? { at } : {}),
  };
}

function find(root: TomlValue, path: readonly PropertyKey[]): TomlValue | undefined {
  let v: TomlValue | undefined = root;
  for (const p of path) {
    if (v?.kind === 'table') v = v.entries.get(String(p));
    else if (v?.kind === 'array') v = v.items[Number(p)];
    else return undefined;
  }
  return v;
}

/** Of the value itself, else of the nearest thing around it that has a place. */
export function positionOf(root: TomlTable, path: readonly PropertyKey[]): Position | undefined {
  for (let n = path.length; n > 0; n--) {
    const at = find(root, path.slice(0, n))?.at;
    if (at) return at;
  }
  return undefined;
}

/** Names that the schema knows at a place; empty where it cannot say. */
function knownKeys(path: readonly PropertyKey[], root: z.ZodMiniType): string[] {
  let schema: unknown = root;
  for (const p of path) {
    const inner = unwrap(schema);
    const shape = shapeOf(inner);
    schema = shape?.[String(p)];
    if (schema === undefined) return [];
  }
  return Object.keys(shapeOf(unwrap(schema)) ?? {});
}

function unwrap(schema: unknown): unknown {
  return (schema as { def: { innerType?: unknown } }).def.innerType ?? schema;
}

function shapeOf(schema: unknown): Record<string, unknown> | undefined {
  return (schema as { shape?: Record<string, unknown> } | undefined)?.shape;
}

function suggestion(unknown: string, known: readonly string[]): string {
  const near = known.map((k) => ({ k, d: distance(unknown, k) })).sort((a, b) => a.d - b.d)[0];
  // A short name is near to everything.
  const limit = unknown.length < 4 ? 1 : Math.max(2, Math.floor((near?.k.length ?? 0) / 3));
  return near && near.d <= limit ? `; did you mean "${near.k}"?` : '';
}

/** Levenshtein distance. */
export function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(
        Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)),
      );
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

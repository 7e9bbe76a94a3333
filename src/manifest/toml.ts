// SPDX-License-Identifier: Apache-2.0
//
// TOML 1.0 in and out, as Gramine's tools read and write it (tomli and tomli_w). @iarna/toml scans the text; which
// statement may define which table, the order of keys, the difference between 1 and 1.0, integers of 64 bits and dates are
// kept here, because a plain JavaScript object loses them. Values know their line and column for messages.
// Sources: TOML 1.0.0; the behaviour of tomli 2.0.1 and tomli_w 1.0.0 as recorded in the corpus.

import ScannerClass from '@iarna/toml/lib/toml-parser.js';
import { ManifestError } from './errors.js';

/** Line and column from 1. */
export interface Position {
  readonly line: number;
  readonly column: number;
}

export type TomlValue = { readonly at?: Position } & (
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'integer'; readonly value: bigint }
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'boolean'; readonly value: boolean }
  /** Any of TOML's four date and time types, in Python's spelling. */
  | { readonly kind: 'date'; readonly value: string }
  | { readonly kind: 'array'; readonly items: TomlValue[]; readonly static: boolean }
  /** A list of tables that are made when they are asked for: a million of them need no room. Only written, never parsed. */
  | TomlRows
  | TomlTable
);

export interface TomlRows {
  readonly kind: 'rows';
  readonly at?: Position;
  readonly count: number;
  readonly row: (index: number) => TomlTable;
  /** The text of all rows as a list of tables at a path, in pieces: each row after an empty line. */
  readonly lines?: (path: string) => Iterable<string>;
}

export interface TomlTable {
  readonly kind: 'table';
  readonly at?: Position;
  /** In the order of the text. */
  readonly entries: Map<string, TomlValue>;
}

export const toml = {
  string: (value: string): TomlValue => ({ kind: 'string', value }),
  integer: (value: bigint | number): TomlValue => ({ kind: 'integer', value: BigInt(value) }),
  boolean: (value: boolean): TomlValue => ({ kind: 'boolean', value }),
  array: (items: TomlValue[] = []): TomlValue => ({ kind: 'array', items, static: true }),
  table: (entries: Iterable<readonly [string, TomlValue]> = []): TomlTable => ({
    kind: 'table',
    entries: new Map(entries),
  }),
};

/**
 * Parses a text. Error: ManifestError `syntax`, with file, line, column, the reason and the offending line. `locate` says
 * where a place of the text comes from, for a text that was rendered from a template.
 */
export function parseToml(text: string, file: string, locate: (at: Position) => Position = (at) => at): TomlTable {
  const parser = new StatementParser();
  try {
    const lone = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.exec(text);
    if (lone) throw new TomlProblem('not valid UTF-8');
    const cr = /\r(?!\n)/.exec(text);
    if (cr) throw new TomlProblem('a carriage return without a line feed', positionOf(text, cr.index));
    parser.parse(text);
    parser.finish();
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const at = problemPosition(error);
    throw new ManifestError('syntax', [syntaxMessage(file, text, at, reasonOf(error), locate)], { cause: error });
  }
  return parser.root;
}

function positionOf(text: string, index: number): Position {
  const before = text.slice(0, index);
  return { line: before.split('\n').length, column: index - before.lastIndexOf('\n') };
}

function problemPosition(error: Error): Position | undefined {
  if (error instanceof TomlProblem) return error.at;
  const { line, col } = error as Error & { line?: number; col?: number };
  return line === undefined || col === undefined ? undefined : { line: line + 1, column: Math.max(1, col + 1) };
}

function reasonOf(error: Error): string {
  return error.message.replace(/^\[[A-Za-z]+\] /, '').replace(/ at row \d+.*$/s, '');
}

function syntaxMessage(
  file: string,
  text: string,
  at: Position | undefined,
  reason: string,
  locate: (at: Position) => Position,
): string {
  if (!at) return `${file}: not TOML: ${reason}`;
  const line = (text.split('\n')[at.line - 1] ?? '').replace(/\r$/, '');
  const source = locate(at);
  return `${file}:${source.line}:${source.column}: not TOML: ${reason}\n  ${line}\n  ${' '.repeat(Math.min(at.column, line.length + 1) - 1)}^`;
}

class TomlProblem extends Error {
  constructor(
    message: string,
    readonly at?: Position,
  ) {
    super(message);
  }
}

// --- scanning: @iarna/toml's state machine, with its storing states replaced

const [TAB, SPACE, PERIOD, CLOSE_BRACKET] = [9, 32, 46, 93];

/** What a table or a key has been used for, so that it is not used again for what TOML forbids. */
interface Flags {
  readonly children: Map<string, Flags>;
  declared: boolean;
  frozen: boolean;
}
const newFlags = (): Flags => ({ children: new Map(), declared: false, frozen: false });

/** Tables and lists in one another: real manifests have under ten. Whoever walks through them descends by recursion. */
const MAX_LEVELS = 100;
/** What @iarna/toml puts on its stack for a list in another, at least; for a table it is one more. */
const STATES_PER_LEVEL = 2;

class StatementParser extends ScannerClass {
  readonly root: TomlTable = toml.table();
  readonly #flags = newFlags();
  #pending: Flags[] = [];
  #header: string[] = [];
  #path: string[] = [];
  #valueStart: Position = { line: 1, column: 1 };
  #valueIndex = 0;

  // [table] and [[list]] headers: collect the keys, then define.
  override parseTable(): unknown {
    this.#path = [];
    return this.goto(this.parseTableNext);
  }
  parseTableMore(key: string): unknown {
    return this.#headerKey(key, this.parseTableNext, () => {
      this.#declareTable(this.#path);
      this.next(this.parseWhitespaceToEOL);
    });
  }
  override parseList(): unknown {
    this.#path = [];
    return this.goto(this.parseListNext);
  }
  parseListMore(key: string): unknown {
    return this.#headerKey(key, this.parseListNext, () => {
      this.#declareListItem(this.#path);
      this.next(this.parseListEnd);
    });
  }
  #headerKey(key: string, more: unknown, done: () => void): unknown {
    if (this.char === SPACE || this.char === TAB) return null;
    this.#path.push(key);
    this.#refuseDepth(this.#path.length);
    if (this.char === CLOSE_BRACKET) done();
    else if (this.char === PERIOD) this.next(more);
    else throw this.error(new Error('Unexpected character, expected whitespace, . or ]'));
    return undefined;
  }

  override parseValue(): unknown {
    if (this.char !== -1) {
      this.#valueStart = { line: this.line + 1, column: this.col + 1 };
      this.#valueIndex = this.ii;
    }
    return super.parseValue();
  }
  /** Marks a number with its text: the library wraps integers at 64 bits. */
  override return(value?: unknown): void {
    if (typeof value === 'object' && value !== null && isBoxedNumber(value)) {
      Object.defineProperty(value, 'text', { value: this.state.buf, configurable: true });
    }
    super.return(value);
  }

  // An inline list or table stands where its bracket does.
  override parseInlineList(): unknown {
    this.#refuseDepth(this.stack.length / STATES_PER_LEVEL);
    this.state.at ??= this.#valueStart;
    return super.parseInlineList();
  }
  override parseInlineTable(): unknown {
    this.#refuseDepth(this.stack.length / STATES_PER_LEVEL);
    this.state.at ??= this.#valueStart;
    return super.parseInlineTable();
  }

  recordAssignStatement(kv: { key: string[]; value: unknown }): unknown {
    this.#assign(kv.key, this.#convert(kv.value), levelsOf(kv.value));
    return this.goto(this.parseWhitespaceToEOL);
  }
  recordInlineListValue(value: unknown): unknown {
    this.state.resultArr ??= new InlineArray(this.state.at ?? this.#valueStart);
    const target = this.state.resultArr as InlineArray;
    target.levels = Math.max(target.levels, 1 + levelsOf(value));
    target.items.push(this.#convert(value));
    return this.goto(this.parseInlineListNext);
  }
  recordInlineTableValue(kv: { key: string[]; value: unknown }): unknown {
    if (!(this.state.resultTable instanceof InlineTable))
      this.state.resultTable = new InlineTable(this.state.at ?? this.#valueStart);
    const target = this.state.resultTable as InlineTable;
    const value = this.#convert(kv.value);
    target.levels = Math.max(target.levels, kv.key.length + levelsOf(kv.value));
    this.#refuseDepth(target.levels);
    const parents = kv.key.slice(0, -1);
    const last = kv.key.at(-1) ?? '';
    if (isFlagged(target.flags, kv.key, 'frozen'))
      throw this.#problem(`cannot extend ${kv.key.join('.')}: it is complete`);
    const nest = descend(target, parents, false);
    if (!nest) throw this.#problem(`${parents.join('.')} has a value and cannot have keys`);
    if (nest.entries.has(last)) throw this.#problem(`key ${kv.key.join('.')} twice in an inline table`);
    if (value.kind === 'array' || value.kind === 'table') flagAt(target.flags, kv.key).frozen = true;
    nest.entries.set(last, value);
    return this.goto(this.parseInlineTableNext);
  }

  #refuseDepth(levels: number): void {
    if (levels > MAX_LEVELS) throw this.#problem(`nested deeper than ${MAX_LEVELS} levels`);
  }

  #problem(message: string): Error {
    return new TomlProblem(message, { line: this.line + 1, column: this.col + 1 });
  }

  #convert(value: unknown): TomlValue {
    const at = this.#valueStart;
    if (value instanceof InlineArray) return { kind: 'array', items: value.items, static: true, at: value.at };
    if (value instanceof InlineTable) return { kind: 'table', entries: value.entries, at: value.at };
    if (Array.isArray(value)) return { kind: 'array', items: [], static: true, at };
    if (typeof value === 'string') return { kind: 'string', value, at };
    if (typeof value === 'boolean') return { kind: 'boolean', value, at };
    if (typeof value === 'number') return { kind: 'float', value, at }; // inf and nan come unboxed
    if (value instanceof Date)
      return { kind: 'date', value: pythonDate(this._buf.slice(this.#valueIndex, this.ii).trim(), at), at };
    if (typeof value === 'object' && value !== null && isBoxedNumber(value)) return convertNumber(value, at);
    return { kind: 'table', entries: new Map(), at }; // an empty inline table
  }

  #declareTable(path: readonly string[]): void {
    this.#finishStatements();
    if (isFlagged(this.#flags, path, 'declared') || isFlagged(this.#flags, path, 'frozen'))
      throw this.#problem(`cannot declare [${path.join('.')}] twice`);
    flagAt(this.#flags, path).declared = true;
    if (!descend(this.root, path, true)) throw this.#problem(`[${path.join('.')}] has a value already`);
    this.#header = [...path];
  }

  #declareListItem(path: readonly string[]): void {
    this.#finishStatements();
    if (isFlagged(this.#flags, path, 'frozen')) throw this.#problem(`cannot extend ${path.join('.')}: it is complete`);
    // A new item starts with nothing declared below it.
    const flags = flagAt(this.#flags, path);
    flags.children.clear();
    flags.declared = true;
    const parent = descend(this.root, path.slice(0, -1), true);
    const last = path.at(-1) ?? '';
    const list = parent?.entries.get(last);
    if (!parent || (list !== undefined && (list.kind !== 'array' || list.static)))
      throw this.#problem(`[[${path.join('.')}]] has a value already`);
    const item = toml.table();
    if (list?.kind === 'array') list.items.push(item);
    else
      parent.entries.set(last, { kind: 'array', items: [item], static: false, at: { line: this.line + 1, column: 1 } });
    this.#header = [...path];
  }

  #assign(key: readonly string[], value: TomlValue, levels: number): void {
    const full = [...this.#header, ...key];
    this.#refuseDepth(full.length + levels);
    const parents = full.slice(0, -1);
    for (let n = this.#header.length + 1; n < full.length; n++) {
      const part = full.slice(0, n);
      if (isFlagged(this.#flags, part, 'declared'))
        throw this.#problem(`cannot extend [${part.join('.')}] by a dotted key`);
      this.#pending.push(flagAt(this.#flags, part));
    }
    if (isFlagged(this.#flags, parents, 'frozen'))
      throw this.#problem(`cannot extend ${parents.join('.')}: it is complete`);
    const nest = descend(this.root, parents, true);
    const last = full.at(-1) ?? '';
    if (!nest || nest.entries.has(last)) throw this.#problem(`${full.join('.')} has a value already`);
    if (value.kind === 'array' || value.kind === 'table') flagAt(this.#flags, full).frozen = true;
    nest.entries.set(last, value);
  }

  /** Tables made by dotted keys count as declared once their section ends. */
  #finishStatements(): void {
    for (const f of this.#pending) f.declared = true;
    this.#pending = [];
  }
}

class InlineArray {
  readonly items: TomlValue[] = [];
  /** How deep what it holds is nested; each part of a dotted key is a table. */
  levels = 0;
  constructor(readonly at: Position) {}
}
class InlineTable implements TomlTable {
  readonly kind = 'table';
  readonly entries = new Map<string, TomlValue>();
  readonly flags = newFlags();
  levels = 0;
  constructor(readonly at: Position) {}
}

const levelsOf = (value: unknown): number =>
  value instanceof InlineArray || value instanceof InlineTable ? value.levels : 0;

function isBoxedNumber(value: object): boolean {
  const inner: unknown = value.valueOf();
  return typeof inner === 'bigint' || (typeof inner === 'number' && !(value instanceof Date));
}

function convertNumber(boxed: object, at: Position): TomlValue {
  const text = (boxed as { text?: string }).text ?? '';
  const inner = boxed.valueOf() as number | bigint;
  const isInteger = /^[+-]?(?:\d+|0x[\da-fA-F]+|0o[0-7]+|0b[01]+)$/.test(text);
  if (!isInteger) return { kind: 'float', value: Number(inner), at };
  const sign = text.startsWith('-') ? -1n : 1n;
  const value = sign * BigInt(text.replace(/^[+-]/, ''));
  if (BigInt.asIntN(64, value) !== value) throw new TomlProblem(`integer ${text} does not fit into 64 bits`, at);
  return { kind: 'integer', value, at };
}

function isFlagged(root: Flags, path: readonly string[], flag: 'declared' | 'frozen'): boolean {
  let f = root;
  for (const [i, key] of path.entries()) {
    const next = f.children.get(key);
    if (!next) return false;
    f = next;
    if (f.frozen && flag === 'frozen') return true; // what is complete is complete all the way down
    if (i === path.length - 1) return f[flag];
  }
  return false;
}

function flagAt(root: Flags, path: readonly string[]): Flags {
  let f = root;
  for (const key of path) {
    let next = f.children.get(key);
    if (!next) {
      next = newFlags();
      f.children.set(key, next);
    }
    f = next;
  }
  return f;
}

/** The table at `path`, made where it is missing; through the last item of lists. Undefined where a value is in the way. */
function descend(root: TomlTable, path: readonly string[], throughLists: boolean): TomlTable | undefined {
  let table = root;
  for (const key of path) {
    let next = table.entries.get(key);
    if (!next) {
      next = toml.table();
      table.entries.set(key, next);
    }
    if (throughLists && next.kind === 'array') next = next.items.at(-1);
    if (next?.kind !== 'table') return undefined;
    table = next;
  }
  return table;
}

/** A TOML date or time as Python's str() spells it. Error: TomlProblem when it does not exist. */
function pythonDate(text: string, at: Position): string {
  const m = /^(?:(\d{4})-(\d\d)-(\d\d))?(?:[Tt ]?(\d\d):(\d\d):(\d\d)(?:\.(\d+))?)?([Zz]|[+-]\d\d:\d\d)?/.exec(text);
  const [, y, mo, d, h, mi, s, fraction, zone] = m ?? [];
  const problem = (): never => {
    throw new TomlProblem(`date or time ${text} does not exist`, at);
  };
  if (y !== undefined) {
    const date = new Date(Date.UTC(2000, 0, 1));
    date.setUTCFullYear(Number(y), Number(mo) - 1, Number(d));
    if (date.getUTCMonth() !== Number(mo) - 1 || date.getUTCDate() !== Number(d) || Number(y) === 0) problem();
  }
  if (h !== undefined && (Number(h) > 23 || Number(mi) > 59 || Number(s) > 59)) problem();
  if (zone !== undefined && zone.length > 1 && (Number(zone.slice(1, 3)) > 23 || Number(zone.slice(4)) > 59)) problem();
  const micros = (fraction ?? '').padEnd(6, '0').slice(0, 6);
  const time = h === undefined ? '' : `${h}:${mi}:${s}${Number(micros) ? `.${micros}` : ''}`;
  const offset = zone === undefined ? '' : /^[Zz]$|^-00:00$/.test(zone) ? '+00:00' : zone;
  return [y === undefined ? '' : `${y}-${mo}-${d}`, time + offset].filter((p) => p !== '').join(' ');
}

// --- writing

const MAX_INLINE_CODE_POINTS = 100;

/** The text that tomli_w writes for a table: the layout that users of Gramine diff. */
export function writeToml(table: TomlTable): string {
  return [...chunks(table, '', false)].join('');
}

/** The same text in pieces. */
export function writeTomlPieces(table: TomlTable): Iterable<string> {
  return chunks(table, '', false);
}

function* chunks(table: TomlTable, name: string, inList: boolean): Generator<string> {
  const literals: [string, TomlValue][] = [];
  const tables: [string, TomlValue, boolean][] = [];
  for (const [key, value] of table.entries) {
    if (value.kind === 'table') tables.push([key, value, false]);
    else if (value.kind === 'rows' ? !allRowsFit(value) : isListOfTables(value) && !value.items.every(fitsOneLine)) {
      tables.push([key, value, true]);
    } else literals.push([key, value]);
  }
  let yielded = false;
  if (inList || (name !== '' && (literals.length > 0 || tables.length === 0))) {
    yielded = true;
    yield inList ? `[[${name}]]\n` : `[${name}]\n`;
  }
  for (const [key, value] of literals) {
    yielded = true;
    yield `${writeKey(key)} = ${writeValue(value, 0)}\n`;
  }
  for (const [key, value, list] of tables) {
    const path = name === '' ? writeKey(key) : `${name}.${writeKey(key)}`;
    if (value.kind === 'rows' && value.lines !== undefined) {
      let first = !yielded;
      for (const piece of value.lines(path)) {
        yield first ? piece.slice(1) : piece;
        first = false;
      }
      yielded = true;
      continue;
    }
    for (let i = 0; i < tableCount(value); i += 1) {
      if (yielded) yield '\n';
      yielded = true;
      yield* chunks(tableAt(value, i), path, list);
    }
  }
}

/** The lines of a table in a list. */
export function writeListItem(table: TomlTable, path: string): string {
  return [...chunks(table, path, true)].join('');
}

function tableCount(value: TomlValue): number {
  return value.kind === 'array' ? value.items.length : value.kind === 'rows' ? value.count : 1;
}

function tableAt(value: TomlValue, index: number): TomlTable {
  const table = value.kind === 'array' ? value.items[index] : value.kind === 'rows' ? value.row(index) : value;
  if (table?.kind !== 'table') throw new Error('not a list of tables');
  return table;
}

function allRowsFit(rows: TomlRows): boolean {
  for (let i = 0; i < rows.count; i += 1) if (!fitsOneLine(rows.row(i))) return false;
  return true;
}

function isListOfTables(value: TomlValue): value is TomlValue & { kind: 'array' } {
  return value.kind === 'array' && value.items.length > 0 && value.items.every((i) => i.kind === 'table');
}

function fitsOneLine(item: TomlValue): boolean {
  const line = `    ${writeValue(item, 1)},`;
  return !line.includes('\n') && [...line].length <= MAX_INLINE_CODE_POINTS;
}

function writeKey(key: string): string {
  return /^[A-Za-z0-9_-]+$/.test(key) ? key : writeString(key);
}

function writeValue(value: TomlValue, depth: number): string {
  switch (value.kind) {
    case 'string':
      return writeString(value.value);
    case 'integer':
      return value.value.toString();
    case 'float':
      return pythonFloat(value.value);
    case 'boolean':
      return value.value ? 'true' : 'false';
    case 'date':
      return value.value;
    case 'array': {
      if (value.items.length === 0) return '[]';
      const indent = ' '.repeat(4 * (depth + 1));
      return `[\n${value.items.map((i) => `${indent}${writeValue(i, depth + 1)},\n`).join('')}${' '.repeat(4 * depth)}]`;
    }
    case 'rows':
      return writeValue(toml.array(Array.from({ length: value.count }, (_, i) => value.row(i))), depth);
    case 'table': {
      if (value.entries.size === 0) return '{}';
      return `{ ${[...value.entries].map(([k, v]) => `${writeKey(k)} = ${writeValue(v, depth)}`).join(', ')} }`;
    }
    default:
      return value satisfies never;
  }
}

const SHORT_ESCAPES: Readonly<Record<string, string>> = {
  '\b': '\\b',
  '\n': '\\n',
  '\f': '\\f',
  '\r': '\\r',
  '"': '\\"',
  '\\': '\\\\',
};

/** Whether a text can be written as it is between quotes: most can. */
export function isPlain(s: string): boolean {
  return !/[\0-\x08\n-\x1f"\\\x7f]/.test(s);
}

/** A text as tomli_w writes it. */
export function writeString(s: string): string {
  if (isPlain(s)) return `"${s}"`;
  const body = s.replace(
    /[\0-\x08\n-\x1f"\\\x7f]/g,
    (c) => SHORT_ESCAPES[c] ?? `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return `"${body}"`;
}

/** Python's str(float): JavaScript's digits, Python's choice between plain and exponent form. */
export function pythonFloat(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  if (Object.is(value, -0)) return '-0.0';
  const [mantissa = '', exponentText = '0'] = value.toExponential().split('e');
  const exponent = Number(exponentText);
  if (exponent < -4 || exponent >= 16)
    return `${mantissa}e${exponent < 0 ? '-' : '+'}${String(Math.abs(exponent)).padStart(2, '0')}`;
  const digits = mantissa.replace(/[-.]/g, '');
  const sign = value < 0 ? '-' : '';
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, '0');
  return `${sign}${whole}.${digits.slice(exponent + 1) || '0'}`;
}

// SPDX-License-Identifier: Apache-2.0
//
// The values that a template computes with, as Python has them, and how Python prints them: 1 is not '1', True is not
// 'true', a list prints with brackets. What is not here (floats, sets, slices) is refused by the evaluator, never guessed.

/** Python's None: JavaScript has two of its own, and both mean something else in this code. */
export const NONE: unique symbol = Symbol('None');

/** A value that may not be used but for asking whether it is defined (Jinja2's StrictUndefined). */
export class Undefined {
  constructor(readonly reason: string) {}
}

/** A pathlib.Path: prints as its text, has parts. */
export class PyPath {
  constructor(
    readonly path: string,
    readonly isDirectory: (path: string) => boolean = () => false,
  ) {}
}

/** A mapping that is asked and not listed, such as os.environ or the `gramine` global. */
export class PyMapping {
  constructor(
    readonly describe: string,
    readonly lookup: (key: string) => PyValue | undefined,
    /** Whether it has Python's dict methods. */
    readonly isDict: boolean,
  ) {}
}

/** Something that can be called; `asValue` is what it is when it is not called. */
export class PyFunction {
  constructor(
    readonly name: string,
    readonly call: (args: readonly PyValue[], keywords: ReadonlyMap<string, PyValue>) => PyValue,
    readonly asValue?: () => PyValue,
  ) {}
}

/** A generator: what it yields can be gone through once. */
export class PyGenerator {
  #items: readonly PyValue[];
  constructor(items: readonly PyValue[]) {
    this.#items = items;
  }
  take(): readonly PyValue[] {
    const items = this.#items;
    this.#items = [];
    return items;
  }
}

export type PyList = { readonly list: readonly PyValue[] };
export type PyDict = { readonly dict: ReadonlyMap<string, PyValue> };
export type PyValue =
  | string
  | bigint
  | boolean
  | typeof NONE
  | Undefined
  | PyPath
  | PyMapping
  | PyFunction
  | PyGenerator
  | PyList
  | PyDict;

/** A value that this code cannot print or compare as Python would. */
export class PythonError extends Error {}

export const isList = (v: PyValue): v is PyList => typeof v === 'object' && 'list' in v;
export const isDict = (v: PyValue): v is PyDict => typeof v === 'object' && 'dict' in v;

export function requireDefined<T extends PyValue>(v: T): Exclude<T, Undefined> {
  if (v instanceof Undefined) throw new PythonError(v.reason);
  return v as Exclude<T, Undefined>;
}

/** str(v). Error: PythonError. */
export function pyStr(v: PyValue): string {
  requireDefined(v);
  if (typeof v === 'string') return v;
  if (typeof v === 'bigint') return v.toString();
  if (typeof v === 'boolean') return v ? 'True' : 'False';
  if (v === NONE) return 'None';
  if (v instanceof PyPath) return v.path;
  if (v instanceof PyFunction && v.asValue) return pyStr(v.asValue());
  return pyRepr(v);
}

function pyRepr(v: PyValue): string {
  if (typeof v === 'string') return reprString(v);
  if (typeof v === 'bigint' || typeof v === 'boolean' || v === NONE) return pyStr(v);
  if (v instanceof PyPath) return `PosixPath(${reprString(v.path)})`;
  if (isList(v)) return `[${v.list.map(pyRepr).join(', ')}]`;
  if (isDict(v)) return `{${[...v.dict].map(([k, x]) => `${reprString(k)}: ${pyRepr(x)}`).join(', ')}}`;
  throw new PythonError('this value cannot be printed here as Python prints it');
}

function reprString(s: string): string {
  if (/[^\x20-\x7e\n\r\t]/.test(s))
    throw new PythonError('a list with other than printable ASCII text cannot be printed here as Python prints it');
  const quote = s.includes("'") && !s.includes('"') ? '"' : "'";
  const body = s.replace(/\\/g, '\\\\').replace(/\n/g, '\\n').replace(/\r/g, '\\r').replace(/\t/g, '\\t');
  return quote + (quote === "'" ? body.replace(/'/g, "\\'") : body) + quote;
}

/** bool(v). Error: PythonError for an undefined value. */
export function pyTruth(v: PyValue): boolean {
  requireDefined(v);
  if (typeof v === 'string') return v !== '';
  if (typeof v === 'bigint') return v !== 0n;
  if (typeof v === 'boolean') return v;
  if (v === NONE) return false;
  if (isList(v)) return v.list.length > 0;
  if (isDict(v)) return v.dict.size > 0;
  return true;
}

const asNumber = (v: PyValue): bigint | undefined =>
  typeof v === 'bigint' ? v : typeof v === 'boolean' ? (v ? 1n : 0n) : undefined;

/** a == b. Error: PythonError. */
export function pyEquals(a: PyValue, b: PyValue): boolean {
  requireDefined(a);
  requireDefined(b);
  const [x, y] = [asNumber(a), asNumber(b)];
  if (x !== undefined || y !== undefined) return x === y;
  if (isList(a) && isList(b))
    return a.list.length === b.list.length && a.list.every((v, i) => pyEquals(v, b.list[i] ?? NONE));
  if (isDict(a) && isDict(b)) {
    return (
      a.dict.size === b.dict.size && [...a.dict].every(([k, v]) => b.dict.has(k) && pyEquals(v, b.dict.get(k) ?? NONE))
    );
  }
  if (a instanceof PyPath && b instanceof PyPath) return a.path === b.path;
  return a === b;
}

/** a < b for two integers or two strings (by code point). Error: PythonError. */
export function pyLess(a: PyValue, b: PyValue): boolean {
  const [x, y] = [asNumber(requireDefined(a)), asNumber(requireDefined(b))];
  if (x !== undefined && y !== undefined) return x < y;
  if (typeof a === 'string' && typeof b === 'string') return compareCodePoints(a, b) < 0;
  throw new PythonError('these two values have no order');
}

export function compareCodePoints(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a, 'utf8'), Buffer.from(b, 'utf8'));
}

/** a in b. Error: PythonError. */
export function pyContains(container: PyValue, item: PyValue): boolean {
  requireDefined(item);
  const c = requireDefined(container);
  if (typeof c === 'string') {
    if (typeof item !== 'string') throw new PythonError('only text can be in a text');
    return c.includes(item);
  }
  if (isList(c)) return c.list.some((v) => pyEquals(v, item));
  if (isDict(c)) return typeof item === 'string' && c.dict.has(item);
  if (c instanceof PyMapping && c.isDict) return typeof item === 'string' && c.lookup(item) !== undefined;
  throw new PythonError('"in" wants a text, a list or a mapping on its right');
}

/** int(v, base) as the filter `int` calls it: undefined when Python would raise ValueError or TypeError. */
export function pyInt(v: PyValue, base: number): bigint | undefined {
  const number = asNumber(v);
  if (number !== undefined) return number;
  if (typeof v !== 'string') return undefined;
  const text = v.trim();
  if (base !== 10) throw new PythonError(`"int" with base ${base} is not supported`);
  if (/[^\x20-\x7e\s]/.test(text)) throw new PythonError('"int" of other than ASCII text is not supported');
  if (/^[+-]?\d+(?:_\d+)*$/.test(text)) return BigInt(text.replace(/_/g, '').replace(/^\+/, ''));
  // The filter falls back to int(float(text)).
  if (/^[+-]?(?:\d|\.\d|inf|nan)/i.test(text) && /[.e]|inf|nan/i.test(text))
    throw new PythonError(`"int" of ${JSON.stringify(text)} is not supported`);
  return undefined;
}

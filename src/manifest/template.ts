// SPDX-License-Identifier: Apache-2.0
//
// Renders manifest templates as Jinja2 does (strict undefined, trailing newline kept, no autoescape), or refuses with a
// position. nunjucks parses; its evaluation differs from Jinja2's in silence (truth of an empty list, 1 == '1', scopes,
// printing), so the tree is evaluated here with Python's values. Source: Jinja 3.1 template designer documentation;
// recorded answers of the real tool in the corpus.

import nunjucks from '@11ty/nunjucks/src/parser.js';
import type { ManifestError } from './errors.js';
import {
  isDict,
  isList,
  NONE,
  PyFunction,
  PyGenerator,
  PyMapping,
  PyPath,
  PythonError,
  type PyValue,
  pyContains,
  pyEquals,
  pyInt,
  pyLess,
  pyStr,
  pyTruth,
  requireDefined,
  Undefined,
} from './python-values.js';
import { type LexedTemplate, lexTemplate, templateError } from './template-lexer.js';
import type { Position } from './toml.js';

/** A node of nunjucks' syntax tree; which fields it has depends on its `typename`. */
interface Node {
  readonly typename: string;
  readonly lineno: number;
  readonly value?: unknown;
  readonly children?: readonly Node[];
  readonly body?: Node;
  readonly cond?: Node;
  readonly else_?: Node | null;
  readonly arr?: Node;
  readonly name?: Node;
  readonly args?: Node;
  readonly targets?: readonly Node[];
  readonly left?: Node;
  readonly right?: Node;
  readonly target?: Node;
  readonly val?: Node;
  readonly key?: Node;
  readonly expr?: Node;
  readonly ops?: readonly (Node & { readonly type: string; readonly expr: Node })[];
}

export interface RenderOptions {
  /** Shown in messages. */
  readonly file: string;
  /** Global names: `gramine`, `python`, `env`, `ldd`, and the variables given with -D. */
  readonly globals: ReadonlyMap<string, PyValue>;
}

export interface Rendered {
  readonly text: string;
  /** Where in the template a place of the text (line and column from 1) comes from. */
  readonly locate: (at: Position) => Position;
}

/** Renders a template. Errors: ManifestError `template`, with file, line and column. */
export function renderTemplate(template: string, options: RenderOptions): Rendered {
  const lexed = lexTemplate(template, options.file);
  let root: Node;
  try {
    root = nunjucks.parse(lexed.source) as Node;
  } catch (error) {
    throw parseProblem(error, lexed, options.file);
  }
  return new Evaluator(lexed, options).render(root);
}

function parseProblem(error: unknown, lexed: LexedTemplate, file: string): ManifestError {
  const e = error as Error & { lineno?: number };
  const line = e.lineno ?? Number(/\[Line (\d+)/.exec(e.message)?.[1] ?? 1) - 1;
  const at = lexed.positions[Math.min(Math.max(line, 0), lexed.positions.length - 1)] ?? { line: 1, column: 1 };
  const reason = e.message
    .replace(/^.*?(?:\n\s*)?(?:Template render error:)?\s*/s, '')
    .replace(/\(unknown path\)(?: \[Line \d+, Column \d+\])?\s*/g, '')
    .replace(/^\s*(?:Error: )?/, '');
  const wanted = /expected (?:elif, else, or endif|block end|endset)|got end of file/.test(e.message)
    ? 'a block is not closed, or a tag is incomplete'
    : reason || 'not a template';
  return templateError(file, at, wanted);
}

/** A piece of the output: where it begins, and where it comes from. */
interface Piece {
  readonly offset: number;
  readonly at: Position;
  /** Copied text, whose lines are the template's; else the value of an expression. */
  readonly data: boolean;
}

function locate(text: string, pieces: readonly Piece[], { line, column }: Position): Position {
  let start = 0;
  for (let n = 1; n < line && start >= 0; n += 1) start = text.indexOf('\n', start) + 1 || text.length;
  const offset = Math.min(start + column - 1, text.length);
  let [low, high] = [0, pieces.length];
  while (low + 1 < high) {
    const middle = (low + high) >> 1;
    if ((pieces[middle]?.offset ?? 0) <= offset) low = middle;
    else high = middle;
  }
  const piece = pieces[low];
  if (piece === undefined) return { line, column };
  if (!piece.data) return piece.at;
  const before = text.slice(piece.offset, offset);
  const lines = before.split('\n').length - 1;
  if (lines === 0) return { line: piece.at.line, column: piece.at.column + before.length };
  return { line: piece.at.line + lines, column: before.length - before.lastIndexOf('\n') };
}

class Scope {
  readonly #names = new Map<string, PyValue>();
  constructor(readonly parent?: Scope) {}
  get(name: string): PyValue | undefined {
    return this.#names.get(name) ?? this.parent?.get(name);
  }
  set(name: string, value: PyValue): void {
    this.#names.set(name, value);
  }
}

const MAX_OUTPUT = 64 << 20;
/** Names that Jinja2 defines by itself: here they would seem undefined. */
const JINJA_GLOBALS = new Set(['range', 'dict', 'lipsum', 'cycler', 'joiner', 'namespace', 'self', 'caller']);

class Evaluator {
  #out: string[] = [];
  /** Where each piece of the output comes from; none while a set block is captured. */
  readonly #pieces: Piece[] = [];
  #capturing = false;
  #offset = 0;
  #size = 0;
  #lines: readonly string[] | undefined;

  constructor(
    readonly lexed: LexedTemplate,
    readonly options: RenderOptions,
  ) {}

  render(root: Node): Rendered {
    try {
      this.#block(root, new Scope());
    } catch (error) {
      // The stack, a text or an integer at JavaScript's limit.
      if (!(error instanceof RangeError)) throw error;
      this.#fail(root, `too large or too deeply nested: ${error.message}`);
    }
    const text = this.#out.join('');
    return { text, locate: (at) => locate(text, this.#pieces, at) };
  }

  #fail(node: Node, message: string, hint?: string): never {
    const at = this.lexed.positions[node.lineno] ?? { line: 1, column: 1 };
    throw templateError(this.options.file, at, message, hint);
  }

  /** Runs a computation on values and gives its error a place. */
  #at<T>(node: Node, f: () => T): T {
    try {
      return f();
    } catch (error) {
      if (error instanceof PythonError) this.#fail(node, error.message);
      throw error;
    }
  }

  // --- statements

  #block(node: Node, scope: Scope): void {
    for (const child of node.children ?? []) this.#statement(child, scope);
  }

  #statement(node: Node, scope: Scope): void {
    switch (node.typename) {
      case 'Output':
        for (const child of node.children ?? []) {
          if (child.typename !== 'TemplateData')
            this.#write(
              child,
              this.#at(child, () => pyStr(this.#value(child, scope))),
            );
        }
        return;
      case 'If':
        this.#if(node, scope);
        return;
      case 'For':
        this.#for(node, scope);
        return;
      case 'Set':
        this.#set(node, scope);
        return;
      case 'NodeList':
        this.#block(node, scope);
        return;
      default:
        this.#fail(node, `this statement (${node.typename}) is not supported`);
    }
  }

  #write(node: Node, text: string): void {
    this.#size += text.length;
    if (this.#size > MAX_OUTPUT) this.#fail(node, `the output is larger than ${MAX_OUTPUT} characters`);
    this.#out.push(text);
    if (this.#capturing) return;
    const data = node.typename === 'Literal' && this.lexed.data.has(Number(node.value));
    this.#pieces.push({ offset: this.#offset, at: this.lexed.positions[node.lineno] ?? { line: 1, column: 1 }, data });
    this.#offset += text.length;
  }

  #if(node: Node, scope: Scope): void {
    const cond = this.#need(node, node.cond);
    if (this.#truth(cond, scope)) this.#block(this.#need(node, node.body), scope);
    else if (node.else_) {
      if (node.else_.typename === 'If') this.#if(node.else_, scope);
      else this.#block(node.else_, scope);
    }
  }

  #for(node: Node, scope: Scope): void {
    const iterable = this.#need(node, node.arr);
    const items = this.#at(iterable, () => iterate(this.#value(iterable, scope)));
    const name = this.#need(node, node.name);
    const names = name.typename === 'Array' ? (name.children ?? []) : [name];
    if (items.length === 0) {
      if (node.else_) this.#block(node.else_, new Scope(scope));
      return;
    }
    for (const [i, item] of items.entries()) {
      const inner = new Scope(scope);
      inner.set('loop', loopVariable(i, items.length));
      if (names.length === 1) inner.set(this.#symbol(names[0], node), item);
      else {
        const parts = this.#at(name, () => iterate(item));
        if (parts.length !== names.length) this.#fail(name, `${parts.length} values for ${names.length} names`);
        for (const [k, n] of names.entries()) inner.set(this.#symbol(n, node), parts[k] ?? NONE);
      }
      this.#block(this.#need(node, node.body), inner);
    }
  }

  #set(node: Node, scope: Scope): void {
    const name = this.#symbol(node.targets?.[0], node);
    if (node.value) scope.set(name, this.#value(node.value as Node, scope));
    else {
      const [outer, capturing] = [this.#out, this.#capturing];
      this.#out = [];
      this.#capturing = true;
      const capture = this.#need(node, node.body);
      this.#block(this.#need(node, capture.body), new Scope(scope));
      scope.set(name, this.#out.join(''));
      this.#out = outer;
      this.#capturing = capturing;
    }
  }

  #symbol(node: Node | undefined, parent: Node): string {
    if (node?.typename !== 'Symbol' || typeof node.value !== 'string')
      return this.#fail(parent, 'a plain name is expected here');
    return node.value;
  }

  #need(parent: Node, node: Node | null | undefined): Node {
    return node ?? this.#fail(parent, 'an expression is missing here');
  }

  // --- expressions

  #truth(node: Node, scope: Scope): boolean {
    return this.#at(node, () => pyTruth(this.#value(node, scope)));
  }

  #value(node: Node, scope: Scope): PyValue {
    switch (node.typename) {
      case 'Literal':
        return this.#literal(node);
      case 'Symbol':
        return this.#name(node, scope);
      case 'Group':
        return this.#group(node, scope);
      case 'Array':
        return { list: (node.children ?? []).map((c) => this.#value(c, scope)) };
      case 'Dict':
        return this.#dict(node, scope);
      case 'InlineIf':
        return this.#inlineIf(node, scope);
      case 'Or': {
        const left = this.#value(this.#need(node, node.left), scope);
        return this.#at(node, () => pyTruth(left)) ? left : this.#value(this.#need(node, node.right), scope);
      }
      case 'And': {
        const left = this.#value(this.#need(node, node.left), scope);
        return this.#at(node, () => pyTruth(left)) ? this.#value(this.#need(node, node.right), scope) : left;
      }
      case 'Not':
        return !this.#truth(this.#need(node, node.target), scope);
      case 'In':
        return this.#in(node, scope);
      case 'Is':
        return this.#is(node, scope);
      case 'Compare':
        return this.#compare(node, scope);
      case 'Concat':
      case 'Add':
      case 'Sub':
      case 'Mul':
      case 'Div':
      case 'FloorDiv':
      case 'Mod':
        return this.#arithmetic(node, scope);
      case 'LookupVal':
        return this.#lookup(node, scope);
      case 'FunCall':
        return this.#call(node, scope);
      case 'Filter':
        return this.#filter(node, scope);
      case 'Neg': {
        const v = this.#value(this.#need(node, node.target), scope);
        return typeof v === 'bigint' ? -v : this.#fail(node, '"-" wants an integer');
      }
      default:
        return this.#fail(node, `this expression (${node.typename}) is not supported`);
    }
  }

  #literal(node: Node): PyValue {
    const value = this.lexed.literals[Number(node.value)];
    return value === undefined ? this.#fail(node, 'unexpected literal') : value;
  }

  #name(node: Node, scope: Scope): PyValue {
    const name = this.#symbol(node, node);
    const known = scope.get(name) ?? this.options.globals.get(name);
    if (known === undefined && JINJA_GLOBALS.has(name)) this.#fail(node, `Jinja2's global "${name}" is not supported`);
    return known ?? new Undefined(`'${name}' is undefined; give it with -D${name}=VALUE`);
  }

  #group(node: Node, scope: Scope): PyValue {
    const [only, ...more] = node.children ?? [];
    if (!only || more.length > 0) return this.#fail(node, 'a tuple is not supported', 'use a list: [a, b]');
    return this.#value(only, scope);
  }

  #dict(node: Node, scope: Scope): PyValue {
    const dict = new Map<string, PyValue>();
    for (const pair of node.children ?? []) {
      const key = this.#value(this.#need(node, pair.key), scope);
      if (typeof key !== 'string') return this.#fail(pair, 'a key that is not text is not supported');
      dict.set(key, this.#value(this.#need(node, pair.value as Node | undefined), scope));
    }
    return { dict };
  }

  #inlineIf(node: Node, scope: Scope): PyValue {
    if (this.#truth(this.#need(node, node.cond), scope)) return this.#value(this.#need(node, node.body), scope);
    if (node.else_) return this.#value(node.else_, scope);
    return new Undefined('the inline if-expression evaluated to false and has no else');
  }

  #in(node: Node, scope: Scope): PyValue {
    const [left, right] = [this.#need(node, node.left), this.#need(node, node.right)];
    // nunjucks binds "in" looser than ==, Jinja2 chains them; and it binds "is" and "in" in another order.
    for (const side of [left, right]) {
      if (['Compare', 'In', 'Is', 'Not'].includes(side.typename))
        this.#fail(node, '"in" beside another comparison is not supported', 'put parentheses around one of them');
    }
    const item = this.#value(left, scope);
    const container = this.#value(right, scope);
    return this.#at(node, () => pyContains(container, item));
  }

  #is(node: Node, scope: Scope): PyValue {
    const left = this.#need(node, node.left);
    if (!['Symbol', 'LookupVal', 'FunCall', 'Literal', 'Group', 'Filter', 'Array', 'Dict'].includes(left.typename)) {
      this.#fail(node, '"is" after an operator is not supported', 'put parentheses around its left side');
    }
    const right = this.#need(node, node.right);
    const test = right.typename === 'Literal' ? this.#literal(right) : this.#symbol(right, node);
    const value = this.#value(left, scope);
    if (test === 'defined') return !(value instanceof Undefined);
    if (test === 'undefined') return value instanceof Undefined;
    const v = this.#at(left, () => requireDefined(value));
    if (test === NONE) return v === NONE;
    if (typeof test === 'boolean') return v === test;
    switch (test) {
      case 'string':
        return typeof v === 'string';
      case 'integer':
        return typeof v === 'bigint';
      case 'number':
        return typeof v === 'bigint' || typeof v === 'boolean';
      case 'boolean':
        return typeof v === 'boolean';
      case 'mapping':
        return isDict(v) || (v instanceof PyMapping && v.isDict);
      case 'odd':
      case 'even':
        return typeof v === 'bigint'
          ? (v % 2n !== 0n) === (test === 'odd')
          : this.#fail(node, `"is ${test}" wants an integer`);
      default:
        return this.#fail(right, `the test "is ${typeof test === 'string' ? test : '?'}" is not supported`);
    }
  }

  #compare(node: Node, scope: Scope): PyValue {
    let left = this.#value(this.#need(node, node.expr), scope);
    for (const op of node.ops ?? []) {
      const right = this.#value(op.expr, scope);
      if (!this.#at(node, () => compare(op.type, left, right))) return false;
      left = right;
    }
    return true;
  }

  #arithmetic(node: Node, scope: Scope): PyValue {
    const [left, right] = [this.#need(node, node.left), this.#need(node, node.right)];
    this.#checkPrecedence(node, [left, right]);
    const a = this.#at(left, () => requireDefined(this.#value(left, scope)));
    const b = this.#at(right, () => requireDefined(this.#value(right, scope)));
    if (node.typename === 'Concat') return this.#at(node, () => pyStr(a) + pyStr(b));
    if (node.typename === 'Div' && isPath(a)) return this.#at(node, () => joinPath(asPath(a), b));
    if (node.typename === 'Add' && typeof a === 'string' && typeof b === 'string') return a + b;
    if (node.typename === 'Add' && isList(a) && isList(b)) return { list: [...a.list, ...b.list] };
    if (typeof a === 'bigint' && typeof b === 'bigint') return this.#integers(node, a, b);
    return this.#fail(node, 'this operator is not supported for these values');
  }

  #integers(node: Node, a: bigint, b: bigint): bigint {
    switch (node.typename) {
      case 'Add':
        return a + b;
      case 'Sub':
        return a - b;
      case 'Mul':
        return a * b;
      case 'FloorDiv':
      case 'Mod': {
        if (b === 0n) this.#fail(node, 'division by zero');
        const rest = ((a % b) + b) % b; // Python's remainder has the divisor's sign
        return node.typename === 'Mod' ? rest : (a - rest) / b;
      }
      default:
        return this.#fail(node, 'division gives a float, which is not supported', 'use // for whole numbers');
    }
  }

  /** Where nunjucks groups operators otherwise than Jinja2, only parentheses make both agree. */
  #checkPrecedence(node: Node, sides: readonly Node[]): void {
    const term = ['Mul', 'Div', 'FloorDiv', 'Mod'];
    for (const side of sides) {
      const mixedTerms =
        term.includes(node.typename) &&
        term.includes(side.typename) &&
        (side.typename !== node.typename || side === node.right);
      const mixedConcat = node.typename === 'Concat' && ['Add', 'Sub'].includes(side.typename);
      const mixedSum =
        ['Add', 'Sub'].includes(node.typename) &&
        ['Add', 'Sub'].includes(side.typename) &&
        side.typename !== node.typename;
      if (mixedTerms || mixedConcat || mixedSum)
        this.#fail(node, 'these operators side by side are not supported', 'put parentheses around one of them');
    }
  }

  #lookup(node: Node, scope: Scope): PyValue {
    const target = this.#need(node, node.target);
    const base = this.#at(target, () => requireDefined(this.#value(target, scope)));
    const keyNode = this.#need(node, node.val);
    // After a dot nunjucks makes a literal of the name itself; between brackets stands one of ours.
    const dotted = keyNode.typename === 'Literal' && this.#lineToken(keyNode) === keyNode.value;
    const key = dotted ? String(keyNode.value) : this.#at(keyNode, () => requireDefined(this.#value(keyNode, scope)));
    return this.#at(node, () => (dotted ? attribute(base, String(key)) : item(base, key)));
  }

  #lineToken(node: Node): string | undefined {
    this.#lines ??= this.lexed.source.split('\n');
    return this.#lines[node.lineno];
  }

  #call(node: Node, scope: Scope): PyValue {
    const callee = this.#need(node, node.name);
    const { args, keywords } = this.#arguments(node.args, scope);
    const f = this.#at(callee, () => requireDefined(this.#value(callee, scope)));
    if (!(f instanceof PyFunction)) return this.#fail(node, 'this is not a function');
    return this.#at(node, () => f.call(args, keywords));
  }

  #arguments(list: Node | undefined, scope: Scope): { args: PyValue[]; keywords: Map<string, PyValue> } {
    const args: PyValue[] = [];
    const keywords = new Map<string, PyValue>();
    for (const child of list?.children ?? []) {
      if (child.typename !== 'KeywordArgs') {
        if (keywords.size > 0) this.#fail(child, 'a positional argument after a keyword argument');
        args.push(this.#value(child, scope));
        continue;
      }
      for (const pair of child.children ?? []) {
        keywords.set(
          this.#symbol(pair.key, child),
          this.#value(this.#need(child, pair.value as Node | undefined), scope),
        );
      }
    }
    return { args, keywords };
  }

  #filter(node: Node, scope: Scope): PyValue {
    const name = this.#symbol(node.name, node);
    const { args, keywords } = this.#arguments(node.args, scope);
    const [input, ...rest] = args;
    if (input === undefined) return this.#fail(node, 'a filter without a value');
    if (keywords.size > 0) return this.#fail(node, `keyword arguments of the filter "${name}" are not supported`);
    const filter = FILTERS[name];
    if (!filter || !Object.hasOwn(FILTERS, name)) {
      return this.#fail(
        node,
        `the filter "${name}" is not supported`,
        `known here: ${Object.keys(FILTERS).join(', ')}`,
      );
    }
    return this.#at(node, () => filter(input, rest));
  }
}

function compare(operator: string, a: PyValue, b: PyValue): boolean {
  switch (operator) {
    case '==':
      return pyEquals(a, b);
    case '!=':
      return !pyEquals(a, b);
    case '<':
      return pyLess(a, b);
    case '>':
      return pyLess(b, a);
    case '<=':
      return !pyLess(b, a);
    case '>=':
      return !pyLess(a, b);
    default:
      throw new PythonError(`the comparison ${operator} is not supported`);
  }
}

/** What `for` goes over. */
function iterate(value: PyValue): readonly PyValue[] {
  const v = requireDefined(value);
  if (isList(v)) return v.list;
  if (v instanceof PyGenerator) return v.take();
  if (isDict(v)) return [...v.dict.keys()];
  if (typeof v === 'string') return [...v];
  throw new PythonError('this value cannot be gone through with "for"');
}

function loopVariable(i: number, length: number): PyValue {
  return {
    dict: new Map<string, PyValue>([
      ['index', BigInt(i + 1)],
      ['index0', BigInt(i)],
      ['revindex', BigInt(length - i)],
      ['revindex0', BigInt(length - i - 1)],
      ['first', i === 0],
      ['last', i === length - 1],
      ['length', BigInt(length)],
    ]),
  };
}

const isPath = (v: PyValue): boolean =>
  v instanceof PyPath || (v instanceof PyFunction && v.asValue?.() instanceof PyPath);

function asPath(v: PyValue): PyPath {
  const p = v instanceof PyFunction ? v.asValue?.() : v;
  if (p instanceof PyPath) return p;
  throw new PythonError('not a path');
}

function joinPath(base: PyPath, part: PyValue): PyPath {
  const text = pyStr(part);
  if (text.startsWith('/')) return new PyPath(text, base.isDirectory);
  return new PyPath(
    `${base.path === '/' ? '' : base.path}/${text}`.replace(/\/(?:\.?\/)+/g, '/').replace(/\/\.?$/, ''),
    base.isDirectory,
  );
}

/** a.name: an attribute or method first, then an item. */
function attribute(base: PyValue, name: string): PyValue {
  if (base instanceof PyMapping) {
    if (base.isDict && name === 'get') return dictGet((key) => base.lookup(key));
    return base.lookup(name) ?? new Undefined(`'${base.describe}' has no attribute '${name}'`);
  }
  if (isDict(base)) {
    if (name === 'get') return dictGet((key) => base.dict.get(key));
    if (name === 'items')
      return new PyFunction('items', () => ({ list: [...base.dict].map(([k, v]) => ({ list: [k, v] })) }));
    if (name === 'keys') return new PyFunction('keys', () => ({ list: [...base.dict.keys()] }));
    if (name === 'values') return new PyFunction('values', () => ({ list: [...base.dict.values()] }));
    return base.dict.get(name) ?? new Undefined(`'dict object' has no attribute '${name}'`);
  }
  if (isPath(base)) return pathAttribute(asPath(base), name);
  if (typeof base === 'string') return stringMethod(base, name);
  throw new PythonError(`the attribute '${name}' is not supported here`);
}

/** a[key]: an item first. */
function item(base: PyValue, key: PyValue): PyValue {
  if (typeof key === 'bigint' && (isList(base) || typeof base === 'string')) {
    const items = isList(base) ? base.list : [...base];
    const i = key < 0n ? BigInt(items.length) + key : key;
    return items[Number(i)] ?? new Undefined(`${typeof base === 'string' ? 'text' : 'list'} has no item ${key}`);
  }
  if (typeof key !== 'string') throw new PythonError('this index is not supported');
  if (base instanceof PyMapping)
    return base.lookup(key) ?? new Undefined(`'${base.describe}' has no attribute '${key}'`);
  if (isDict(base)) return base.dict.get(key) ?? new Undefined(`'dict object' has no attribute '${key}'`);
  throw new PythonError('this value has no items');
}

function dictGet(lookup: (key: string) => PyValue | undefined): PyFunction {
  return new PyFunction('get', (args, keywords) => {
    const [key, fallback, ...more] = args;
    if (typeof key !== 'string' || more.length > 0 || keywords.size > 0)
      throw new PythonError('get() wants a text and perhaps a default');
    return lookup(key) ?? fallback ?? NONE;
  });
}

function pathAttribute(p: PyPath, name: string): PyValue {
  const slash = p.path.lastIndexOf('/');
  const last = p.path.slice(slash + 1);
  switch (name) {
    case 'name':
      return last;
    case 'parent':
      return new PyPath(slash > 0 ? p.path.slice(0, slash) : slash === 0 ? '/' : '.', p.isDirectory);
    case 'is_dir':
      return new PyFunction('is_dir', () => p.isDirectory(p.path));
    default:
      throw new PythonError(`the attribute '${name}' of a path is not supported`);
  }
}

function stringMethod(s: string, name: string): PyValue {
  const text = (v: PyValue | undefined): string => {
    if (typeof v !== 'string') throw new PythonError(`${name}() wants text`);
    return v;
  };
  const method = (f: (args: readonly PyValue[]) => PyValue, min: number, max: number): PyFunction =>
    new PyFunction(name, (args, keywords) => {
      if (keywords.size > 0 || args.length < min || args.length > max)
        throw new PythonError(`these arguments of ${name}() are not supported`);
      return f(args);
    });
  switch (name) {
    case 'split':
      return method(
        ([sep]) => {
          if (sep === undefined)
            return {
              list:
                pyTrim(s) === ''
                  ? []
                  : pyTrim(s).split(/[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/),
            };
          if (text(sep) === '') throw new PythonError('empty separator');
          return { list: s.split(text(sep)) };
        },
        0,
        1,
      );
    case 'startswith':
      return method(([p]) => s.startsWith(text(p)), 1, 1);
    case 'endswith':
      return method(([p]) => s.endsWith(text(p)), 1, 1);
    case 'replace':
      return method(
        ([a, b]) => (text(a) === '' ? refuse('replace() of an empty text') : s.replaceAll(text(a), () => text(b))),
        2,
        2,
      );
    case 'strip':
      return method(() => pyTrim(s), 0, 0);
    case 'upper':
      return method(() => asciiOnly(s).toUpperCase(), 0, 0);
    case 'lower':
      return method(() => asciiOnly(s).toLowerCase(), 0, 0);
    case 'join':
      return method(
        ([l]) => (l !== undefined && isList(l) ? l.list.map(text).join(s) : refuse('join() wants a list')),
        1,
        1,
      );
    default:
      throw new PythonError(`'str object' has no attribute '${name}' that is supported here`);
  }
}

function refuse(message: string): never {
  throw new PythonError(message);
}

function asciiOnly(s: string): string {
  if (/[^\0-\x7f]/.test(s)) throw new PythonError('changing the case of other than ASCII text is not supported');
  return s;
}

function pyTrim(s: string): string {
  return s.replace(
    /^[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+|[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+$/g,
    '',
  );
}

type Filter = (input: PyValue, args: readonly PyValue[]) => PyValue;

function fixed(count: number, f: Filter): Filter {
  return (input, args) =>
    args.length > count ? refuse('too many arguments for this filter') : f(requireDefined(input), args);
}

const size: Filter = (v) => {
  if (typeof v === 'string') return BigInt([...v].length);
  if (isList(v)) return BigInt(v.list.length);
  if (isDict(v)) return BigInt(v.dict.size);
  return refuse('this value has no length');
};

const fallback: Filter = (input, [value = '', onFalse = false, ...more]) => {
  if (more.length > 0) refuse('too many arguments for this filter');
  if (input instanceof Undefined) return value;
  return pyTruth(onFalse) && !pyTruth(input) ? value : input;
};

const FILTERS: Readonly<Record<string, Filter>> = {
  default: fallback,
  d: fallback,
  int: fixed(2, (v, [otherwise = 0n, base = 10n]) => {
    if (typeof base !== 'bigint') return refuse('the base of "int" is not an integer');
    return pyInt(v, Number(base)) ?? otherwise;
  }),
  string: fixed(0, (v) => pyStr(v)),
  trim: fixed(0, (v) => pyTrim(pyStr(v))),
  upper: fixed(0, (v) => asciiOnly(pyStr(v)).toUpperCase()),
  lower: fixed(0, (v) => asciiOnly(pyStr(v)).toLowerCase()),
  length: fixed(0, size),
  count: fixed(0, size),
  list: fixed(0, (v) => ({ list: [...iterate(v)] })),
  first: fixed(0, (v) => iterate(v)[0] ?? new Undefined('No first item, sequence was empty.')),
  last: fixed(0, (v) => iterate(v).at(-1) ?? new Undefined('No last item, sequence was empty.')),
  join: fixed(1, (v, [separator = '']) => iterate(v).map(pyStr).join(pyStr(separator))),
  replace: fixed(2, (v, [from, to]) => {
    if (typeof from !== 'string' || typeof to !== 'string' || from === '')
      return refuse('"replace" wants two texts, the first not empty');
    return pyStr(v).replaceAll(from, () => to);
  }),
};

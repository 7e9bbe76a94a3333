// SPDX-License-Identifier: Apache-2.0
//
// Cuts a Jinja2 template into text, expressions and statements exactly as Jinja2's own lexer does (whitespace control,
// raw blocks, comments, brackets around a closing tag), and rewrites each piece so that nunjucks' parser, whose lexer
// differs, cannot read it otherwise: literals become numbered placeholders, and every token stands on a line of its own,
// so that a node's line leads back to its place in the template. Source: Jinja 3.1 template designer documentation.

import { ManifestError } from './errors.js';
import { NONE, type PyValue } from './python-values.js';
import type { Position } from './toml.js';

export interface LexedTemplate {
  /** What nunjucks parses: one token a line. */
  readonly source: string;
  /** Values of the string literals in `source`, which are indexes into this. */
  readonly literals: readonly PyValue[];
  /** Position in the template of each line of `source`. */
  readonly positions: readonly Position[];
  /** Which of the literals are text between tags, copied to the output as it stands. */
  readonly data: ReadonlySet<number>;
}

/** A template that cannot be rendered as Jinja2 would, or at all. */
export function templateError(file: string, at: Position, message: string, hint?: string): ManifestError {
  return new ManifestError('template', [`${file}:${at.line}:${at.column}: ${message}${hint ? `; ${hint}` : ''}`]);
}

// Python's idea of white space: str.rstrip and \s in its regular expressions.
const PY_SPACE = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]';
const LEADING_SPACE = new RegExp(`^${PY_SPACE}+`);
const TRAILING_SPACE = new RegExp(`${PY_SPACE}+$`);
const RAW_BEGIN = new RegExp(`\\{%([-+]?)${PY_SPACE}*raw${PY_SPACE}*(-?)%\\}`, 'y');
const RAW_END = new RegExp(`\\{%([-+]?)${PY_SPACE}*endraw${PY_SPACE}*([-+]?)%\\}`, 'g');

type Token =
  | { readonly kind: 'name' | 'operator'; readonly text: string; readonly index: number }
  | { readonly kind: 'literal'; readonly value: PyValue; readonly index: number };

const OPERATORS = [
  '==',
  '!=',
  '<=',
  '>=',
  '//',
  '+',
  '-',
  '*',
  '/',
  '%',
  '~',
  '(',
  ')',
  '[',
  ']',
  '{',
  '}',
  '<',
  '>',
  '=',
  '.',
  ':',
  '|',
  ',',
];
const CLOSES: Readonly<Record<string, string>> = { ')': '(', ']': '[', '}': '{' };
const CONSTANTS: Readonly<Record<string, PyValue>> = {
  true: true,
  True: true,
  false: false,
  False: false,
  none: NONE,
  None: NONE,
};
const STATEMENTS = new Set(['if', 'elif', 'else', 'endif', 'for', 'endfor', 'set', 'endset']);

/** Lexes a template. Errors: ManifestError `template` with file, line and column. */
export function lexTemplate(template: string, file: string): LexedTemplate {
  return new Lexer(template.replace(/\r\n|\r/g, '\n'), file).run();
}

class Lexer {
  readonly #lines: string[] = [];
  readonly #positions: Position[] = [];
  readonly #literals: PyValue[] = [];
  readonly #dataLiterals = new Set<number>();
  readonly #lineStarts: readonly number[];
  #lineNow = 0;
  #trimNext = false;

  constructor(
    readonly text: string,
    readonly file: string,
  ) {
    this.#lineStarts = [0, ...[...text.matchAll(/\n/g)].map((m) => m.index + 1)];
  }

  run(): LexedTemplate {
    let at = 0;
    while (at < this.text.length) {
      const open = this.#nextTag(at);
      if (open === undefined) {
        this.#data(this.text.slice(at), at);
        break;
      }
      at = this.#piece(at, open);
    }
    return {
      source: this.#lines.join('\n'),
      literals: this.#literals,
      positions: this.#positions,
      data: this.#dataLiterals,
    };
  }

  #nextTag(from: number): number | undefined {
    const m = /\{[{%#]/g;
    m.lastIndex = from;
    return m.exec(this.text)?.index;
  }

  /** Handles the data before a tag and the tag itself; returns where the next data begins. */
  #piece(from: number, open: number): number {
    const sign = this.text[open + 2];
    const kind = this.text[open + 1];
    const data = this.text.slice(from, open);
    if (sign === '+')
      this.#fail(
        open,
        'the sign "+" after an opening tag is not supported',
        'leave it out: blocks are not stripped here',
      );
    this.#data(sign === '-' ? data.replace(TRAILING_SPACE, '') : data, from);
    if (kind === '#') return this.#comment(open, open + 2 + (sign === '-' ? 1 : 0));
    RAW_BEGIN.lastIndex = open;
    const raw = kind === '%' ? RAW_BEGIN.exec(this.text) : null;
    if (raw) return this.#raw(open, raw);
    return this.#code(open, open + 2 + (sign === '-' ? 1 : 0), kind === '%');
  }

  #comment(open: number, from: number): number {
    const close = this.text.indexOf('#}', from);
    if (close < 0) this.#fail(open, 'a comment is not closed', 'end it with #}');
    const sign = close > from || (close === from && this.text[from - 1] !== '-') ? this.text[close - 1] : '';
    this.#trimNext = sign === '-' && close - 1 >= from;
    return close + 2;
  }

  #raw(open: number, begin: RegExpExecArray): number {
    const from = open + begin[0].length;
    RAW_END.lastIndex = from;
    const end = RAW_END.exec(this.text);
    if (!end) return this.#fail(open, 'a raw block is not closed', 'end it with {% endraw %}');
    if (end[1] === '+' || end[2] === '+') this.#fail(end.index, 'the sign "+" in a tag is not supported');
    let data = this.text.slice(from, end.index);
    const whole = data.length;
    if (begin[2] === '-') data = data.replace(LEADING_SPACE, '');
    const start = from + whole - data.length;
    if (end[1] === '-') data = data.replace(TRAILING_SPACE, '');
    this.#trimNext = false;
    this.#data(data, start);
    this.#trimNext = end[2] === '-';
    return end.index + end[0].length;
  }

  #data(data: string, at: number): void {
    const text = this.#trimNext ? data.replace(LEADING_SPACE, '') : data;
    this.#trimNext = false;
    if (text === '') return;
    const start = at + data.length - text.length;
    this.#emit('{{', start);
    this.#dataLiterals.add(this.#literals.length);
    this.#literal(text, start);
    this.#emit('}}', start);
  }

  #code(open: number, from: number, statement: boolean): number {
    const { tokens, end, trim } = this.#tokens(open, from, statement ? '%}' : '}}');
    if (tokens.length === 0) this.#fail(open, statement ? 'an empty statement' : 'an empty expression');
    if (statement) this.#checkStatement(tokens, open);
    this.#emit(statement ? '{%' : '{{', open);
    for (const t of tokens) {
      if (t.kind === 'literal') this.#literal(t.value, t.index);
      else this.#emit(t.text, t.index);
    }
    this.#emit(statement ? '%}' : '}}', end);
    this.#trimNext = trim;
    return end;
  }

  #checkStatement(tokens: readonly Token[], open: number): void {
    const [first, second] = tokens;
    const name = first?.kind === 'name' ? first.text : '';
    if (!STATEMENTS.has(name)) {
      this.#fail(
        open,
        `the statement "${name}" is not supported`,
        `use ${[...STATEMENTS].filter((s) => !s.startsWith('end')).join(', ')} or raw, and put the rest into -D variables`,
      );
    }
    if ((name === 'else' || name.startsWith('end')) && second) this.#fail(second.index, `"${name}" takes nothing`);
    if (name === 'for' && tokens.some((t) => t.kind === 'name' && (t.text === 'recursive' || t.text === 'if'))) {
      this.#fail(open, '"for" with "if" or "recursive" is not supported', 'use an "if" inside the loop');
    }
    if (name === 'set') {
      const equals = tokens.findIndex((t) => t.kind === 'operator' && t.text === '=');
      const targets = equals < 0 ? tokens.slice(1) : tokens.slice(1, equals);
      if (targets.length !== 1 || targets[0]?.kind !== 'name')
        this.#fail(open, '"set" with anything but one name on its left is not supported');
    }
  }

  #tokens(open: number, from: number, close: '%}' | '}}'): { tokens: Token[]; end: number; trim: boolean } {
    const tokens: Token[] = [];
    const brackets: string[] = [];
    let at = from;
    for (;;) {
      at += LEADING_SPACE.exec(this.text.slice(at, at + 4096))?.[0].length ?? 0;
      if (at >= this.text.length) return this.#fail(open, `a tag is not closed: expected ${close}`);
      if (brackets.length === 0) {
        if (this.text.startsWith(close, at)) return { tokens, end: at + 2, trim: false };
        if (this.text.startsWith(`-${close}`, at)) return { tokens, end: at + 3, trim: true };
        if (close === '%}' && this.text.startsWith('+%}', at))
          this.#fail(at, 'the sign "+" before a closing tag is not supported');
      }
      const token = this.#token(at, tokens.at(-1));
      if (token.kind === 'operator') this.#balance(token.text, at, brackets);
      if (token.merged) tokens.pop();
      tokens.push(token);
      at = token.next;
    }
  }

  #balance(text: string, at: number, brackets: string[]): void {
    if ('([{'.includes(text)) brackets.push(text);
    const opener = CLOSES[text];
    if (opener !== undefined && brackets.pop() !== opener) this.#fail(at, `unexpected "${text}"`);
  }

  #token(at: number, previous: Token | undefined): Token & { readonly next: number; readonly merged?: boolean } {
    const rest = this.text.slice(at, at + 65536);
    const afterDot = previous?.kind === 'operator' && (previous.text === '.' || previous.text === '|');
    const number = /^[0-9][\w.]*/.exec(rest)?.[0];
    if (number !== undefined) {
      if (!/^(?:0|[1-9][0-9]*)$/.test(number))
        this.#fail(at, `the number ${number} is not supported`, 'write a plain decimal integer');
      return { kind: 'literal', value: BigInt(number), index: at, next: at + number.length };
    }
    const name = /^[A-Za-z_][A-Za-z0-9_]*/.exec(rest)?.[0];
    if (name !== undefined) {
      const constant = afterDot ? undefined : CONSTANTS[name];
      const isConstant = !afterDot && Object.hasOwn(CONSTANTS, name);
      if (isConstant && constant !== undefined)
        return { kind: 'literal', value: constant, index: at, next: at + name.length };
      // nunjucks reads these otherwise than Jinja2 does, which takes them for plain names.
      if (
        ['null', 'asyncEach', 'asyncAll', 'ifAsync', 'elseif', 'switch', 'case', 'default'].includes(name) &&
        !afterDot
      )
        this.#fail(at, `the name "${name}" is not supported`);
      return { kind: 'name', text: name, index: at, next: at + name.length };
    }
    const string = /^(?:'(?:[^'\\]|\\[\s\S])*'|"(?:[^"\\]|\\[\s\S])*")/.exec(rest)?.[0];
    if (string !== undefined) {
      const value = this.#unescape(string.slice(1, -1), at);
      // Strings that stand side by side are one.
      if (previous?.kind === 'literal' && typeof previous.value === 'string') {
        return {
          kind: 'literal',
          value: previous.value + value,
          index: previous.index,
          next: at + string.length,
          merged: true,
        };
      }
      return { kind: 'literal', value, index: at, next: at + string.length };
    }
    const operator = OPERATORS.find((o) => rest.startsWith(o));
    if (operator === undefined || rest.startsWith('**'))
      return this.#fail(
        at,
        `unexpected ${JSON.stringify([...rest][0] ?? '')}${rest.startsWith('**') ? ': powers are not supported' : ''}`,
      );
    return { kind: 'operator', text: operator, index: at, next: at + operator.length };
  }

  #unescape(body: string, at: number): string {
    return body.replace(/\\([\s\S])/g, (_, c: string) => {
      const known: Readonly<Record<string, string>> = {
        n: '\n',
        t: '\t',
        r: '\r',
        '\\': '\\',
        "'": "'",
        '"': '"',
        '\n': '',
      };
      return known[c] ?? this.#fail(at, `the escape \\${c} in a string is not supported`);
    });
  }

  #literal(value: PyValue, at: number): void {
    this.#emit(`"${this.#literals.length}"`, at);
    this.#literals.push(value);
  }

  #emit(token: string, index: number): void {
    this.#lines.push(token);
    this.#positions.push(this.#position(index));
  }

  #position(index: number): Position {
    // Tokens are asked for in order, hence the remembered line.
    if (index < (this.#lineStarts[this.#lineNow] ?? 0)) this.#lineNow = 0;
    while ((this.#lineStarts[this.#lineNow + 1] ?? Number.POSITIVE_INFINITY) <= index) this.#lineNow += 1;
    return { line: this.#lineNow + 1, column: index - (this.#lineStarts[this.#lineNow] ?? 0) + 1 };
  }

  #fail(index: number, message: string, hint?: string): never {
    throw templateError(this.file, this.#position(index), message, hint);
  }
}

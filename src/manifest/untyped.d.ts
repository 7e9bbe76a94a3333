// SPDX-License-Identifier: Apache-2.0
//
// The parts of two libraries that have no declarations of their own.

declare module '@11ty/nunjucks/src/parser.js' {
  const parser: { parse(source: string): unknown };
  export default parser;
}

declare module '@iarna/toml/lib/toml-parser.js' {
  /** A parser's state: what it has read so far, and what it makes. */
  interface ScannerState {
    buf: string;
    resultTable: unknown;
    resultArr: unknown;
    /** Ours: where the inline list or table begins. */
    at?: { readonly line: number; readonly column: number };
  }
  /** The part of @iarna/toml's parser class that toml.ts builds upon. */
  export default class Scanner {
    ii: number;
    line: number;
    col: number;
    char: number;
    state: ScannerState;
    stack: readonly unknown[];
    _buf: string;
    parse(text: string): void;
    finish(): unknown;
    next(state: unknown): void;
    goto(state: unknown): unknown;
    callNow(state: unknown, then: unknown): unknown;
    return(value?: unknown): void;
    returnNow(value?: unknown): unknown;
    error(e: Error): Error;
    parseTableNext: unknown;
    parseListNext: unknown;
    parseListEnd: unknown;
    parseWhitespaceToEOL: unknown;
    parseInlineListNext: unknown;
    parseInlineTableNext: unknown;
    parseTable(): unknown;
    parseList(): unknown;
    parseValue(): unknown;
    parseAssign(): unknown;
    parseInlineList(): unknown;
    parseInlineTable(): unknown;
  }
}

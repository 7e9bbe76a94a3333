// SPDX-License-Identifier: Apache-2.0
//
// The throw-away PKI of simulated TDs, at a fixed time and with levels to be below of, and quotes with chosen fields.

import { type PkiOptions, QUOTE_BODY_BYTES, type QuoteKind, ThrowawayPki } from '../../src/launch/throwaway-pki.js';

export type { PkiOptions };
export const NOW = Date.UTC(2026, 0, 15);
const UP_TO_DATE = [5, 1, 2];

export class TestPki extends ThrowawayPki {
  constructor(options: PkiOptions = {}) {
    super({ at: NOW, upToDateSvn: UP_TO_DATE, ...options });
  }

  /** A quote over a TD with these properties. */
  quote(o: QuoteOptions = {}): Buffer {
    const kind = o.kind ?? 'TD1.0';
    const quote = this.signQuote(quoteBody(o, kind), { version: o.version ?? 4, kind });
    return Buffer.concat([quote, o.trailing ?? Buffer.alloc(0)]);
  }
}

export interface QuoteOptions {
  readonly version?: 4 | 5;
  readonly kind?: QuoteKind;
  readonly mrtd?: Uint8Array;
  readonly rtmrs?: readonly Uint8Array[];
  readonly attributes?: bigint;
  readonly reportData?: Uint8Array;
  readonly teeTcbSvn?: readonly number[];
  readonly teeTcbSvn2?: readonly number[];
  readonly mrServiceTd?: Uint8Array;
  readonly trailing?: Buffer;
}

function quoteBody(o: QuoteOptions, kind: QuoteKind): Buffer {
  const b = Buffer.alloc(QUOTE_BODY_BYTES[kind]);
  Buffer.from(o.teeTcbSvn ?? UP_TO_DATE).copy(b, 0);
  b.writeBigUInt64LE(o.attributes ?? 0x10000000n, 120);
  b.writeBigUInt64LE(0xe7n, 128);
  Buffer.from(o.mrtd ?? Buffer.alloc(48, 1)).copy(b, 136);
  for (let i = 0; i < 4; i++) Buffer.from(o.rtmrs?.[i] ?? Buffer.alloc(48)).copy(b, 328 + 48 * i);
  Buffer.from(o.reportData ?? Buffer.alloc(64)).copy(b, 520);
  if (kind === 'TD1.5') Buffer.from(o.teeTcbSvn2 ?? o.teeTcbSvn ?? UP_TO_DATE).copy(b, 584);
  if (kind === 'TD1.5') Buffer.from(o.mrServiceTd ?? Buffer.alloc(48)).copy(b, 600);
  return b;
}

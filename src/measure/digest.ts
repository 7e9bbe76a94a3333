// SPDX-License-Identifier: Apache-2.0
//
// SHA-384 digests as a type that only this module makes, and the extend operation of measurement registers.

import { createHash } from 'node:crypto';
import { fromHex } from './bytes.js';
import { MeasureError } from './errors.js';

declare const sha384Brand: unique symbol;
/** 48 bytes that are a SHA-384 digest or a register built from digests. */
export type Sha384 = Uint8Array & { readonly [sha384Brand]: true };

export const SHA384_BYTES = 48;

export function sha384(...parts: readonly Uint8Array[]): Sha384 {
  const h = createHash('sha384');
  for (const p of parts) h.update(p);
  return new Uint8Array(h.digest()) as Sha384;
}

/** Checks the length only: 48 bytes. Error `malformed`. */
export function asSha384(bytes: Uint8Array, what: string): Sha384 {
  if (bytes.length !== SHA384_BYTES) {
    throw new MeasureError('malformed', `${what}: expected ${SHA384_BYTES} bytes, got ${bytes.length}`);
  }
  return Uint8Array.from(bytes) as Sha384;
}

export function sha384FromHex(text: string, what: string): Sha384 {
  return asSha384(fromHex(text, what, SHA384_BYTES), what);
}

export const ZERO_SHA384: Sha384 = new Uint8Array(SHA384_BYTES) as Sha384;

/** TDG.MR.RTMR.EXTEND: SHA-384(register || digest). */
export function extend(register: Sha384, digest: Sha384): Sha384 {
  return sha384(register, digest);
}

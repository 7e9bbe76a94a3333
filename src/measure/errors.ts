// SPDX-License-Identifier: Apache-2.0
//
// The one error of the measure room. Every parser here judges bytes that an attacker may have written, and ends in this
// error with the offset where it stopped; nothing else is thrown for bad input.

export type MeasureErrorCode =
  | 'truncated' // the input ends before what it announces
  | 'malformed' // a field has a value that the format does not allow
  | 'unsupported' // valid, but of a kind that this code does not judge
  | 'limit' // larger than any real input, refused to bound time and memory
  | 'mismatch' // two things that must agree do not
  | 'signature' // a signature does not verify
  | 'certificate' // a certificate, chain or revocation list is wrong, expired or revoked
  | 'collateral' // missing, expired, or for another platform: nothing was learned of the quote
  | 'tcb' // the platform, its quoting enclave or its module is below every level that the collateral knows
  | 'usage'; // the caller's options contradict each other

/** Messages quote hostile input: nothing in it may write on a terminal what we did not say. */
const escaped = (c: string): string =>
  JSON.stringify(c)
    .slice(1, -1)
    .replace(/[\x7f-\x9f]/, `\\u00${c.charCodeAt(0).toString(16)}`);

/** Thrown by every function of the measure room for bad input. `offset` is in bytes from the start of `what`. */
export class MeasureError extends Error {
  override readonly name = 'MeasureError';
  constructor(
    readonly code: MeasureErrorCode,
    message: string,
    readonly offset?: number,
    options?: ErrorOptions,
  ) {
    const plain = message.replace(/\p{Cc}/gu, escaped);
    super(offset === undefined ? plain : `${plain} (at byte ${offset})`, options);
  }
}

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

/** Thrown by every function of the measure room for bad input. `offset` is in bytes from the start of `what`. */
export class MeasureError extends Error {
  override readonly name = 'MeasureError';
  constructor(
    readonly code: MeasureErrorCode,
    message: string,
    readonly offset?: number,
    options?: ErrorOptions,
  ) {
    super(offset === undefined ? message : `${message} (at byte ${offset})`, options);
  }
}

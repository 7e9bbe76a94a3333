// SPDX-License-Identifier: Apache-2.0

import { ManifestError } from './errors.js';

/** Bytes as text. Error: ManifestError `syntax` with line and column of the first byte that is not UTF-8. */
export function decodeText(bytes: Uint8Array, file: string): string {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  try {
    return decoder.decode(bytes);
  } catch (error) {
    const at = firstInvalid(bytes);
    const before = Buffer.from(bytes.subarray(0, at));
    const line = before.toString('utf8').split('\n').length;
    const column = before.subarray(before.lastIndexOf(10) + 1).toString('utf8').length + 1;
    const byte = bytes[at]?.toString(16).padStart(2, '0') ?? '?';
    throw new ManifestError(
      'syntax',
      [`${file}:${line}:${column}: not valid UTF-8: byte 0x${byte}; save the file as UTF-8`],
      { cause: error },
    );
  }
}

/** Where the longest valid beginning ends. */
function firstInvalid(bytes: Uint8Array): number {
  let [low, high] = [0, bytes.length];
  const valid = (end: number): boolean => {
    try {
      // A stream may end in the middle of a character.
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, end), { stream: true });
      return true;
    } catch {
      return false;
    }
  };
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (valid(middle)) low = middle;
    else high = middle - 1;
  }
  return low;
}

// SPDX-License-Identifier: Apache-2.0

import { describe, expect, it } from 'vitest';
import { fuzz } from './fuzz.js';

describe('any text', () => {
  it('gives a manifest or a ManifestError (for long: npm run fuzz:manifest)', () => {
    expect(fuzz(4, 1)).toBeGreaterThan(50);
    fuzz(2, Date.now() >>> 0);
  });
});

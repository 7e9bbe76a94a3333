// SPDX-License-Identifier: Apache-2.0

import type { LaunchErrorCode } from '../launch/index.js';

/** Exit codes of failed launches (docs/cli.md): the range of sysexits.h and the one
 * after it, which programs hardly use themselves. */
export const EXIT_CODES: Readonly<Record<LaunchErrorCode, number>> = {
  usage: 64,
  'manifest-invalid': 65,
  'manifest-missing': 66,
  'program-missing': 67,
  'wrong-architecture': 68,
  'qemu-missing': 69,
  'guest-died': 70,
  'qemu-too-old': 71,
  'virtiofsd-unusable': 72,
  'no-space': 73,
  'helper-failed': 74,
  'port-in-use': 75,
  'image-corrupt': 76,
  'not-permitted': 77,
  'policy-too-large': 78,
  'tdx-unavailable': 80,
};
export const USAGE_EXIT_CODE = 64;
/** A bug of ours. */
export const INTERNAL_EXIT_CODE = 79;

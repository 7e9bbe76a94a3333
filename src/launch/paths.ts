// SPDX-License-Identifier: Apache-2.0
//
// Where this package keeps its native parts, and where the host keeps the programs that we start.

import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Built code lies two levels below the package (dist/launch, dist/cli), sources too (src/launch). */
const PACKAGE_ROOT = fileURLToPath(new URL('../../', import.meta.url));

export const KERNEL_IMAGE = join(PACKAGE_ROOT, 'kernel-bin/build/kernel.bfv');
export const SIMULATOR_IMAGE = join(PACKAGE_ROOT, 'kernel-bin/build/tdxsim.bin');
export const BRIDGE_PROGRAM = join(PACKAGE_ROOT, 'kernel-bin/build/gramine-bridge');

/** The first of `candidates` that can be executed; a name without a slash is looked up on PATH. */
export function findTool(candidates: readonly string[]): string | undefined {
  for (const candidate of candidates) {
    const places = candidate.includes('/')
      ? [candidate]
      : (process.env.PATH ?? '/usr/bin:/bin').split(delimiter).map((dir) => join(dir, candidate));
    const found = places.find(isExecutable);
    if (found !== undefined) return found;
  }
  return undefined;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// fuzz.js ROOM [SECONDS [SEED]] (npm run fuzz:manifest, fuzz:measure): fuzzes the parsers of a room with test/ROOM/fuzz.ts.
// A failure leaves its input in the working directory where it has one, else prints it.

import { rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const [room = '', seconds = '60', seed = String(Date.now() >>> 0)] = process.argv.slice(2);
const outfile = join(root, `node_modules/.cache-fuzz-${process.pid}.mjs`);
await build({
  entryPoints: [join(root, `test/${room}/fuzz.ts`)],
  outfile,
  bundle: true,
  packages: 'external',
  format: 'esm',
  platform: 'node',
  logLevel: 'warning',
});
try {
  const { fuzz } = await import(pathToFileURL(outfile).href);
  console.log(`seed ${seed}, ${seconds} s`);
  fuzz(Number(seconds), Number(seed), console.log);
} catch (error) {
  console.error(error);
  if (error?.input) {
    const file = `fuzz-${room}-${seed}.bin`;
    writeFileSync(file, error.input);
    console.error(`input: ${file}, target: ${error.target}`);
  }
  process.exitCode = 1;
} finally {
  rmSync(outfile, { force: true });
}

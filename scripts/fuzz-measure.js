#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// npm run fuzz:measure -- [SECONDS [SEED]]: fuzzes every parser of the measure room, and the verifier. A failure leaves its
// input in the working directory.

import { rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const outfile = join(root, `node_modules/.cache-fuzz-${process.pid}.mjs`);
await build({
  entryPoints: [join(root, 'test/measure/fuzz.ts')],
  outfile,
  bundle: true,
  packages: 'external',
  format: 'esm',
  platform: 'node',
  logLevel: 'warning',
});
const [seconds = '60', seed = String(Date.now() >>> 0)] = process.argv.slice(2);
try {
  const { fuzz } = await import(pathToFileURL(outfile).href);
  console.log(`seed ${seed}, ${seconds} s`);
  fuzz(Number(seconds), Number(seed), console.log);
} catch (error) {
  console.error(error);
  if (error?.input) {
    const file = `fuzz-measure-${seed}.bin`;
    writeFileSync(file, error.input);
    console.error(`input: ${file}, target: ${error.target}`);
  }
  process.exitCode = 1;
} finally {
  rmSync(outfile, { force: true });
}

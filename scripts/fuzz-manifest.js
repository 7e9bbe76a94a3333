#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// npm run fuzz:manifest -- [SECONDS [SEED]]: fuzzes the manifest room. A failure prints its input.

import { rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const outfile = join(root, `node_modules/.cache-fuzz-${process.pid}.mjs`);
await build({
  entryPoints: [join(root, 'test/manifest/fuzz.ts')],
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
  process.exitCode = 1;
} finally {
  rmSync(outfile, { force: true });
}

#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// Compiles bench/ to a cache directory and runs it, with the arguments given.

import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const outfile = join(root, 'bench/build/main.js');
await build({
  entryPoints: [join(root, 'bench/main.ts')],
  outfile,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  define: { 'import.meta.url': '__bench_url' },
  banner: { js: `const __bench_url=${JSON.stringify(new URL('../bench/main.ts', import.meta.url).href)};` },
  logLevel: 'warning',
});
const { status } = spawnSync(process.execPath, [outfile, ...process.argv.slice(2)], { stdio: 'inherit' });
process.exitCode = status ?? 1;

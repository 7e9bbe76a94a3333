#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// Builds dist/: every module with tsc (the library, and its types), then each command again as one bundled file, because
// loading a hundred small modules costs more at every start than the launcher's own work. Imports that a command makes
// lazily stay apart.

import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
process.chdir(root);
rmSync('dist', { recursive: true, force: true });
execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], { stdio: 'inherit' });

const { bin } = JSON.parse(readFileSync('package.json', 'utf8'));
const commands = Object.values(bin).map((path) => path.replace(/^dist\/(.*)\.js$/, 'src/$1.ts'));
await build({
  entryPoints: commands,
  outdir: 'dist/cli',
  outbase: 'src/cli',
  chunkNames: '../chunks/[name]-[hash]',
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  minifySyntax: true,
  minifyWhitespace: true,
  legalComments: 'none',
  logLevel: 'warning',
  // CommonJS packages inside an ES module still ask for require.
  banner: { js: "import{createRequire as __cr}from'node:module';const require=__cr(import.meta.url);" },
});
for (const path of Object.values(bin)) chmodSync(path, 0o755);

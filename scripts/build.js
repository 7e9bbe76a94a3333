#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// Builds dist/: every module with tsc (the library, and its types), then each command again as one bundled CommonJS file,
// because loading a hundred small modules, and the ES module loader itself, cost more at every start than the launcher's
// own work. So a command's entry file must not use await at its top level.

import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
process.chdir(root);
rmSync('dist', { recursive: true, force: true });
execFileSync(process.execPath, ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json'], { stdio: 'inherit' });

const { bin } = JSON.parse(readFileSync('package.json', 'utf8'));
const commands = Object.values(bin).map((path) => path.replace(/^dist\/(.*)\.js$/, 'src/$1.ts'));
// Nobody imports from the commands' room: its modules are inside the bundles.
rmSync('dist/cli', { recursive: true });
await build({
  entryPoints: commands,
  outdir: 'dist/cli',
  outbase: 'src/cli',
  bundle: true,
  format: 'cjs',
  platform: 'node',
  target: 'node20',
  minifySyntax: true,
  minifyWhitespace: true,
  legalComments: 'none',
  logLevel: 'warning',
  define: { 'import.meta.url': '__importMetaUrl' },
  banner: { js: "const __importMetaUrl=require('node:url').pathToFileURL(__filename).href;" },
});
writeFileSync('dist/cli/package.json', '{ "type": "commonjs" }\n');
for (const path of Object.values(bin)) chmodSync(path, 0o755);

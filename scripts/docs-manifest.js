#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// Writes docs/manifest.md: the text of docs/manifest.head.md, then the tables of keys from the schema itself. With --check
// it writes nothing and fails when the file is not up to date.

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
// Below node_modules, so that the bundle finds the packages.
const outfile = join(root, `node_modules/.cache-docs-${process.pid}.mjs`);
await build({
  entryPoints: [join(root, 'src/manifest/effects.ts')],
  outfile,
  bundle: true,
  format: 'esm',
  platform: 'node',
  logLevel: 'warning',
});
try {
  const { keyTables } = await import(pathToFileURL(outfile).href);
  const text = `${readFileSync(join(root, 'docs/manifest.head.md'), 'utf8')}\n${keyTables()}`;
  const path = join(root, 'docs/manifest.md');
  if (!process.argv.includes('--check')) writeFileSync(path, text);
  else if (readFileSync(path, 'utf8') !== text) {
    process.stderr.write('docs/manifest.md is not up to date: npm run docs:manifest\n');
    process.exitCode = 1;
  }
} finally {
  rmSync(outfile, { force: true });
}

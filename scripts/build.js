#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// Builds dist/: every module with tsc (the library, and its types), then each command again as one bundled CommonJS file,
// because loading a hundred small modules, and the ES module loader itself, cost more at every start than the launcher's
// own work. So a command's entry file must not use await at its top level.

import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
process.chdir(root);
// Built aside and then put in place, so that a failed build, or a command that runs meanwhile, finds the old one whole.
const fresh = `dist.${process.pid}`;
try {
  await buildInto(fresh);
  rmSync('dist', { recursive: true, force: true });
  renameSync(fresh, 'dist');
} catch (error) {
  // The compilers have said what is wrong, with file and line.
  process.stderr.write(`build: ${error instanceof Error ? error.message.split('\n', 1)[0] : error}\n`);
  process.exitCode = 1;
} finally {
  rmSync(fresh, { recursive: true, force: true });
}

/** @param {string} dist */
async function buildInto(dist) {
  const tsc = ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json', '--outDir', dist];
  execFileSync(process.execPath, tsc, { stdio: 'inherit' });
  const { bin } = JSON.parse(readFileSync('package.json', 'utf8'));
  const names = Object.values(bin).map((path) => path.replace(/^dist\/cli\/(.*)\.js$/, '$1'));
  // Nobody imports from the commands' room: its modules are inside the bundles.
  rmSync(`${dist}/cli`, { recursive: true });
  await build({
    absWorkingDir: root,
    entryPoints: names.map((name) => `src/cli/${name}.ts`),
    outdir: `${dist}/cli`,
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
    plugins: [commanderAlone()],
    banner: { js: "const __importMetaUrl=require('node:url').pathToFileURL(__filename).href;" },
  });
  writeFileSync(`${dist}/cli/package.json`, '{ "type": "commonjs" }\n');
  for (const name of names) chmodSync(`${dist}/cli/${name}.js`, 0o755);
}

/**
 * commander can start programs for sub-commands, which no command here has; loading Node's child processes for that would
 * be a tenth of the time that --help takes.
 * @returns {import('esbuild').Plugin}
 */
function commanderAlone() {
  return {
    name: 'commander-alone',
    setup(plugin) {
      plugin.onResolve({ filter: /^node:child_process$/ }, ({ importer }) =>
        /[\\/]commander[\\/]/.test(importer) ? { path: 'child_process', namespace: 'nothing' } : undefined,
      );
      plugin.onLoad({ filter: /.*/, namespace: 'nothing' }, () => ({ contents: 'module.exports = {}' }));
    },
  };
}

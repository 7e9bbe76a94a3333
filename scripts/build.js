#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// Builds dist/: every module with tsc (the library, and its types), then each command again as one bundled CommonJS file,
// because loading a hundred small modules, and the ES module loader itself, cost more at every start than the launcher's
// own work. So a command's entry file must not use await at its top level. Beside each bundle lies the code that V8 made
// of it in a short run (a quarter of the time that a command takes to start): another version of V8 ignores it.

import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
process.chdir(root);

/** Starts a command's bundle with its code. GRAMINE_TDX_WRITE_CODE writes that instead of reading it. */
const START = `#!/usr/bin/env node
'use strict';
const fs = require('node:fs');
const vm = require('node:vm');
const { wrap } = require('node:module');
const base = __filename.slice(0, -'.js'.length);
const write = process.env.GRAMINE_TDX_WRITE_CODE === '1';
let cachedData;
try {
  if (!write) cachedData = fs.readFileSync(base + '.code');
} catch {}
const filename = base + '.bundle.js';
const text = fs.readFileSync(filename, 'utf8').replace(/^#!/, '//');
const script = new vm.Script(wrap(text), { filename, cachedData });
if (write) process.on('exit', () => fs.writeFileSync(base + '.code', script.createCachedData()));
script.runInThisContext().call(exports, exports, require, module, __filename, __dirname);
`;

const SMALL_MANIFEST = 'libos.entrypoint = "/app"\nfs.mounts = []\n';
const TRUSTED = 'sgx.trusted_files = ["file:package.json", "file:src/manifest/"]\n';
/**
 * What a command is made to do for its code: most of what it usually does.
 * @type {Readonly<Record<string, { args: string[], input?: string }>>}
 */
const SHORT_RUNS = {
  'gramine-manifest': { args: ['--no-cache', '-', '/dev/null'], input: SMALL_MANIFEST + TRUSTED },
  'gramine-manifest-check': { args: [], input: SMALL_MANIFEST },
};

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
  for (const name of names) {
    const command = `${dist}/cli/${name}`;
    renameSync(`${command}.js`, `${command}.bundle.js`);
    writeFileSync(`${command}.js`, START);
    chmodSync(`${command}.js`, 0o755);
    const run = SHORT_RUNS[name] ?? { args: ['--help'] };
    const env = { ...process.env, GRAMINE_TDX_WRITE_CODE: '1' };
    execFileSync(process.execPath, [`${command}.js`, ...run.args], { env, input: run.input ?? '', stdio: 'pipe' });
  }
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

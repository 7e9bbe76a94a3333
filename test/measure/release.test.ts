// SPDX-License-Identifier: Apache-2.0
//
// The release pipeline of examples/release, and the code that README and docs/attestation.md show, as they stand there.

import { execFile } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  collateralToJson,
  fromHex,
  parseReference,
  type ReferenceValues,
  reportDataFromHex,
} from '../../src/measure/index.js';
import { NOW, TestPki } from './pki.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'gt-release-'));
const file = (name: string) => join(dir, name);
const COMMANDS = ['gramine-manifest', 'gramine-tdx-measure', 'gramine-tdx-verify'];

interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
function run(command: string, ...args: readonly string[]): Promise<Result> {
  const env = { ...process.env, PATH: `${file('bin')}:${process.env.PATH}`, XDG_CACHE_HOME: file('cache') };
  return new Promise((resolve) =>
    execFile(command, args, { cwd: dir, env }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
    ),
  );
}
const example = (name: string) => join(root, 'examples/release', name);

const pki = new TestPki();
const at = new Date(NOW).toISOString();

beforeAll(async () => {
  mkdirSync(file('bin'));
  await build({
    absWorkingDir: root,
    entryPoints: [...COMMANDS.map((c) => `src/cli/${c}.ts`), 'src/measure/index.ts'],
    outdir: file('js'),
    outbase: 'src',
    outExtension: { '.js': '.cjs' },
    bundle: true,
    format: 'cjs',
    platform: 'node',
    logLevel: 'warning',
    define: { 'import.meta.url': '__url' },
    banner: { js: `const __url=${JSON.stringify(new URL('../../src/cli/x.ts', import.meta.url).href)};` },
  });
  for (const c of COMMANDS) {
    writeFileSync(file(`bin/${c}`), `#!/bin/sh\nexec "${process.execPath}" "${file(`js/cli/${c}.cjs`)}" "$@"\n`);
    chmodSync(file(`bin/${c}`), 0o755);
  }
  writeFileSync(file('data.txt'), 'trusted\n');
  writeFileSync(
    file('app.manifest.template'),
    'libos.entrypoint = "/app"\nfs.mounts = []\ntdx.memory = "256M"\ntdx.vcpus = 1\nsgx.trusted_files = ["file:data.txt"]\n',
  );
  const { privateKey } = generateKeyPairSync('ed25519');
  writeFileSync(file('key.pem'), privateKey.export({ type: 'pkcs8', format: 'pem' }));
  writeFileSync(file('root.der'), pki.rootDer);
  writeFileSync(file('collateral.json'), collateralToJson(pki.collateral));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

function quoteFor(reference: ReferenceValues, reportData: string): Buffer {
  const register = (name: 'rtmr0' | 'rtmr1' | 'rtmr2') => fromHex(reference[name]?.[0] ?? '', name);
  const rtmrs = [register('rtmr0'), register('rtmr1'), register('rtmr2'), new Uint8Array(48)];
  const mrtd = reference.mrtd ? { mrtd: fromHex(reference.mrtd[0] ?? '', 'mrtd') } : {};
  return pki.quote({ ...mrtd, rtmrs, reportData: reportDataFromHex(reportData) });
}

describe('the release pipeline', () => {
  const check = (quote: string, reportData: string) =>
    run(
      example('check.sh'),
      ...[
        'app',
        'release',
        'release/release.pub',
        quote,
        reportData,
        'collateral.json',
        '--trust-root',
        'root.der',
        '--at',
        at,
      ],
    );
  let reference: ReferenceValues;

  it('publishes signed values that its own public key verifies', async () => {
    const r = await run(example('publish.sh'), 'app', 'key.pem', 'release');
    expect([r.code, r.stdout]).toEqual([0, expect.stringMatching(/^rtmr2 +[0-9a-f]{96}$/m)]);
    reference = parseReference(
      readFileSync(file('release/app.reference.json'), 'utf8'),
      readFileSync(file('release/release.pub'), 'utf8'),
    );
    expect(Object.keys(reference)).toEqual(expect.arrayContaining(['rtmr0', 'rtmr1', 'rtmr2', 'attributes']));
    expect((await run(example('publish.sh'))).code).toBe(2);
  });

  it('lets a user find out whether a quote is of that release', async () => {
    writeFileSync(file('good.bin'), quoteFor(reference, 'c0de'));
    const good = await check('good.bin', 'c0de');
    expect([good.code, good.stderr]).toEqual([0, expect.not.stringMatching(/check\.sh/)]);
    expect((await check('good.bin', 'c0df')).code).toBe(1);
    writeFileSync(file('other.bin'), quoteFor({ ...reference, rtmr2: ['00'.repeat(48)] }, 'c0de'));
    const other = await check('other.bin', 'c0de');
    expect([other.code, other.stdout]).toEqual([1, expect.stringMatching(/FAIL rtmr2/)]);
  });

  it('notices a release whose files were changed', async () => {
    const path = file('release/app.manifest.tdx');
    const before = readFileSync(path, 'utf8');
    writeFileSync(path, before.replace('256M', '512M'));
    expect((await check('good.bin', 'c0de')).code).toBe(1);
    writeFileSync(path, before);
    expect((await check('good.bin', 'c0de')).code).toBe(0);
  });
});

describe('the code in the documents', () => {
  it.each(['README.md', 'docs/attestation.md'])('%s: a service verifies a quote', async (document) => {
    const [, code = ''] =
      /```(?:js|ts)\n(import [\s\S]*?gramine-tdx\/measure[\s\S]*?)```/.exec(
        readFileSync(join(root, document), 'utf8'),
      ) ?? [];
    expect(code).toMatch(/verifyQuote\(/);
    const lines = code
      .trim()
      .split('\n')
      .filter((l) => l.trim() !== '' && !l.startsWith('import '));
    expect(lines.length).toBeLessThanOrEqual(6);
    const library = JSON.stringify(file('js/measure/index.cjs'));
    // Verification as shown needs Intel's root and today's date; here both are the test's.
    const program = [
      code
        .replace("'gramine-tdx/measure'", library)
        .replace('at: Date.now()', `at: ${NOW}, anchor: trustAnchor(readFileSync('root.der'))`)
        .replace(/\bverifyQuote,?(?=[^(]*\} from)/, 'verifyQuote, trustAnchor, reportDataFromHex'),
      "console.log(trusted ? 'trusted' : 'refused');",
    ].join('\n');
    const given =
      "const [quote, reportData, releaseKey] = [readFileSync(process.argv[2]), reportDataFromHex('c0de'), readFileSync('release/release.pub')];";
    const imports = program.split('\n').filter((l) => l.startsWith('import '));
    const rest = program.split('\n').filter((l) => !l.startsWith('import '));
    writeFileSync(
      file('service.mjs'),
      [...imports, given, ...rest].join('\n').replaceAll("'app.reference.json'", "'release/app.reference.json'"),
    );
    const good = await run(process.execPath, 'service.mjs', 'good.bin');
    expect([good.stdout, good.stderr]).toEqual(['trusted\n', '']);
    expect((await run(process.execPath, 'service.mjs', 'other.bin')).stdout).toBe('refused\n');
  });
});

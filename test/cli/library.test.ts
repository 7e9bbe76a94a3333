// SPDX-License-Identifier: Apache-2.0
//
// The package as a library: what `import ... from 'gramine-tdx'` gives, at run time and to the type checker.

import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const work = mkdtempSync(join(tmpdir(), 'gt-library-'));
afterAll(() => rmSync(work, { recursive: true }));

const PROGRAM = `
import { checkManifest, compileManifest, encodePolicy, generateManifest, ManifestError, parseManifest, parseToml, renderManifest } from 'gramine-tdx';

const rendered: string = renderManifest({ template: 'a = "{{ x }}"\\n', define: { x: '1' } });
const made = await generateManifest({
  template: 'libos.entrypoint = "/a"\\nfs.mounts = []\\nsgx.trusted_files = ["file:/etc/passwd"]\\n',
  tdx: true,
  onProgress: ({ files }: { files: number }) => void files,
});
const policy: Uint8Array = encodePolicy(compileManifest(parseManifest(made.text(), 'made')));
let code = '';
try {
  renderManifest({ template: '{{ nope }}' });
} catch (error) {
  if (error instanceof ManifestError) code = error.code;
}
console.log(JSON.stringify([rendered, policy.length > 100, checkManifest(parseToml('sgx.debg = 1', 'f')).map((p) => p.key), code]));
`;

beforeAll(() => {
  mkdirSync(join(work, 'node_modules/@types'), { recursive: true });
  symlinkSync(root, join(work, 'node_modules/gramine-tdx'));
  symlinkSync(join(root, 'node_modules/@types/node'), join(work, 'node_modules/@types/node'));
  writeFileSync(join(work, 'program.mts'), PROGRAM);
});

/** As a strict program of somebody else's. */
function compile(file: string): void {
  const options = [
    '--strict',
    '--exactOptionalPropertyTypes',
    '--module',
    'nodenext',
    '--target',
    'es2022',
    '--types',
    'node',
  ];
  const command = [join(root, 'node_modules/typescript/bin/tsc'), ...options, file];
  execFileSync(process.execPath, command, { cwd: work, stdio: ['ignore', 'inherit', 'inherit'] });
}

/** The first example of a document in TypeScript. */
function exampleOf(document: string): string {
  const [, example] = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(root, document), 'utf8')) ?? [];
  if (example === undefined) throw new Error(`${document} has no example`);
  return example;
}

describe('the library', () => {
  it('has types that a strict program compiles with, and does what they say', () => {
    compile('program.mts');
    const printed = execFileSync(process.execPath, ['program.mjs'], { cwd: work, encoding: 'utf8' });
    expect(JSON.parse(printed)).toEqual(['a = "1"\n', true, ['fs', 'libos', 'sgx.debg'], 'template']);
  });

  it('does what the example of docs/manifest.md does', () => {
    writeFileSync(join(work, 'example.mts'), exampleOf('docs/manifest.md'));
    compile('example.mts');
    const printed = execFileSync(process.execPath, ['example.mjs'], { cwd: work, encoding: 'utf8' });
    expect(printed).toMatch(/^\/app [0-9]{3} bytes\n$/);
    expect(readFileSync(join(work, 'app.manifest.tdx'), 'utf8')).toContain('root = "');
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// Expansion of trusted files against the recorded answers of Gramine's tool, over the tree that they were recorded with.

import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addDefaults } from '../../src/manifest/defaults.js';
import { ManifestError } from '../../src/manifest/errors.js';
import { expandTrustedFiles, pathOf } from '../../src/manifest/expand.js';
import { parseToml, toml, writeToml } from '../../src/manifest/toml.js';

const ARCHIVE = new URL('../../../shared/corpus/expand.tar.gz', import.meta.url);

/** The link `lnk_abs` leads out of the tree to this host's /etc/passwd, whose content is nobody's business here. */
function withoutHostContent(text: string): string {
  return text.replace(/(lnk_abs"\nsha256 = )"[0-9a-f]{64}"/g, '$1"(host)"');
}

describe.skipIf(!existsSync(ARCHIVE))('expands trusted files as Gramine’s tool does', () => {
  let base = '';
  const here = process.cwd();
  beforeAll(() => {
    const scratch = mkdtempSync(join(tmpdir(), 'gramine-expand-'));
    execFileSync('tar', ['xzf', fileURLToPath(ARCHIVE), '-C', scratch]);
    base = join(scratch, 'expand');
    process.chdir(join(base, 'tree'));
  });
  afterAll(() => {
    process.chdir(here);
    rmSync(join(base, '..'), { recursive: true, force: true });
  });

  function expand(name: string, chroot: boolean): string {
    const manifest = parseToml(readFileSync(join(base, 'cases', `${name}.manifest.in`), 'utf8'), name);
    addDefaults(manifest);
    const sgx = manifest.entries.get('sgx');
    if (sgx?.kind !== 'table') throw new Error('no sgx table');
    const trusted = sgx.entries.get('trusted_files');
    if (!trusted) throw new Error('no trusted files');
    const files = expandTrustedFiles(trusted, chroot ? { chroot: join(base, 'tree') } : {});
    const digest = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');
    const rows = [...files].map((f) =>
      toml.table([
        ['uri', toml.string(f.uri)],
        ['sha256', toml.string(f.sha256 ?? digest(pathOf(f)))],
      ]),
    );
    sgx.entries.set('trusted_files', toml.array(rows));
    return writeToml(manifest);
  }

  it('in every recorded case', () => {
    const expected = JSON.parse(readFileSync(join(base, 'EXPECTED.json'), 'utf8')) as Record<
      string,
      { out: string | null; err: string | null }
    >;
    expect(Object.keys(expected).length).toBeGreaterThan(40);
    for (const [key, { out, err }] of Object.entries(expected)) {
      if (key === 'root.plain') continue; // below: it wants an ordinary user
      const [name = '', mode] = key.split('.');
      if (out === null) {
        expect(() => expand(name, mode === 'chroot'), `${key}: ${err}`).toThrow(ManifestError);
      } else {
        const wanted = readFileSync(join(base, 'cases', out), 'utf8');
        expect(withoutHostContent(expand(name, mode === 'chroot')), key).toBe(withoutHostContent(wanted));
      }
    }
  });

  // The whole of this host's tree, as the user that the recorded run had: /proc/1/cwd is a link that only root may follow.
  it('in the case root.plain', () => {
    const user = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
    const input = readFileSync(join(base, 'cases/root.manifest.in'));
    const tool = fileURLToPath(new URL('../../dist/cli/gramine-manifest.js', import.meta.url));
    const args = [tool, '--no-cache', '--no-check', '-', '/dev/null'];
    const { status, stderr } = spawnSync(process.execPath, args, { input, encoding: 'utf8', cwd: '/', ...user });
    expect(stderr).toMatch(
      /^gramine-manifest: <stdin>:13:5: sgx\.trusted_files\[0\]: .* cannot be looked at: permission denied\n$/,
    );
    expect(status).toBe(1);
  });
});

describe('a file that lies in a listed folder', () => {
  const root = mkdtempSync(join(tmpdir(), 'gt-expand-'));
  for (const name of ['a', 'b']) writeFileSync(join(root, name), name);
  afterAll(() => rmSync(root, { recursive: true }));
  const HASH = 'ab'.repeat(32);
  const listed = (uris: readonly string[]) => {
    const own = toml.table([
      ['uri', toml.string('file:/b')],
      ['sha256', toml.string(HASH)],
    ]);
    const list = expandTrustedFiles(toml.array([...uris.map(toml.string), own]), { chroot: root });
    return [...list].map(({ uri, sha256 }) => [uri, sha256]);
  };

  it('is there once, with the hash that was given, also where the folder is the root', () => {
    expect(listed(['file:/'])).toEqual([
      ['file:/a', undefined],
      ['file:/b', HASH],
    ]);
    expect(listed(['file:/', 'file:/a'])).toHaveLength(2);
  });
});

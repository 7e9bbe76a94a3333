// SPDX-License-Identifier: Apache-2.0
//
// Replays the recorded answers of Gramine's own tools; skipped, and counted so, where the folder is absent.

import { existsSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { checkManifest } from '../../src/manifest/check.js';
import { addDefaults } from '../../src/manifest/defaults.js';
import { parseToml, writeToml } from '../../src/manifest/toml.js';

const CORPUS = new URL('../../../shared/corpus/', import.meta.url);

function load<T>(name: string): T[] {
  const lines = gunzipSync(readFileSync(new URL(`${name}.jsonl.gz`, CORPUS))).toString('utf8');
  return lines
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as T);
}

function withoutEntrypoint(text: string): string {
  const manifest = parseToml(text, 'recorded');
  const loader = manifest.entries.get('loader');
  if (loader?.kind === 'table') {
    loader.entries.delete('entrypoint');
    // Less that table nothing of [loader] was in the text.
    if (loader.entries.size === 0) manifest.entries.delete('loader');
  }
  return writeToml(manifest);
}

describe.skipIf(!existsSync(CORPUS))('the recorded answers of Gramine’s tools', () => {
  it('writes back every manifest byte for byte', () => {
    const recorded = load<{ defaults?: string }>('templates').flatMap((r) =>
      r.defaults === undefined ? [] : [r.defaults],
    );
    expect(recorded.length).toBeGreaterThan(300);
    for (const text of recorded) expect(writeToml(parseToml(text, 'recorded'))).toBe(text);
  });

  it('adds the same defaults', () => {
    for (const { id, rendered, defaults } of load<{ id: string; rendered?: string; defaults?: string }>('templates')) {
      if (rendered === undefined || defaults === undefined) continue;
      const manifest = parseToml(rendered, id);
      addDefaults(manifest);
      expect(withoutEntrypoint(writeToml(manifest)), id).toBe(withoutEntrypoint(defaults));
    }
  });

  it('gives the verdict of the real checker on every case', () => {
    const cases = load<{ text: string; desc: string; expected_any_of: string[] }>('check');
    expect(cases.length).toBeGreaterThan(1000);
    const wrong = cases.filter(({ text, expected_any_of }) => {
      const problems = checkManifest(parseToml(text, 'case'), { allowTdx: false, requireLoader: true });
      return (problems.length === 0) !== expected_any_of.includes('OK');
    });
    expect(wrong.map((c) => c.desc)).toEqual([]);
  });
});

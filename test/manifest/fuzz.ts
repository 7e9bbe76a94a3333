// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes parser, renderer, checker and compiler: any text gives a result or a ManifestError, and a result keeps its
// promises. `npm run fuzz:manifest -- SECONDS [SEED]` runs it for long; the tests run it briefly.

import { checkManifest } from '../../src/manifest/check.js';
import { compileManifest, parseManifest, showPolicy } from '../../src/manifest/compile.js';
import { addDefaults } from '../../src/manifest/defaults.js';
import { describeKeys } from '../../src/manifest/effects.js';
import { ManifestError } from '../../src/manifest/errors.js';
import { templateGlobals } from '../../src/manifest/globals.js';
import { encodePolicy } from '../../src/manifest/policy.js';
import { renderTemplate } from '../../src/manifest/template.js';
import { decodeText } from '../../src/manifest/text.js';
import { parseToml, writeToml } from '../../src/manifest/toml.js';

export const SEEDS: readonly string[] = [
  'libos.entrypoint = "/a"\nloader.env.A = "1"\nfs.mounts = [{ path = "/x", uri = "file:x" }]\n' +
    'tdx.allowed_files = ["file:y"]\ntdx.net.publish = ["80/udp"]\nloader.argv = ["{{ env.A }}"]\n',
  'libos.entrypoint = "/a"\nloader.argv = ["a", "b"]\nloader.env.X = { passthrough = true }\nloader.uid = 3\n' +
    'fs.root = { uri = "file:/" }\nfs.mounts = [\n  { path = "/lib", uri = "file:{{ gramine.runtimedir() }}" },\n' +
    '  { type = "tmpfs", path = "/tmp" },\n]\nsys.stack.size = "8M"\nsgx.allowed_files = [ "file:x" ]\n' +
    'sgx.trusted_files = [\n  "file:/a",\n  { uri = "file:b", sha256 = "ab" },\n]\ntdx.net.publish = ["80/tcp"]\n',
  "{% set n = 3 %}{% for i in [1, 2] %}{% if i > 1 and not loop.last or n == 3 %}x{{ i }} = {{ n|int + i }}\n{% elif x is defined %}y{% else -%} {% endif %}{% endfor %}\n{{ env.get('A', 'b')|upper }}{# c #}{% raw %}{{ }}{% endraw %}",
  '[a]\nb.c = 1\n[[d]]\n"e f" = \'x\'\n[d.g]\nh = """\\\n  z"""\n[[d]]\ni = [1, 0x1F, 1.5e3, inf, 1979-05-27T07:32:00Z, true, { j = [] }]\n',
  'fs.mounts = [{ path = "/e", uri = "file:k", type = "encrypted" }]\nsgx.edmm_enable = true\nsgx.enclave_size = "1g"\nsys.debug__mock_syscalls = [{ name = "x", return = -1 }]\nfs.insecure__keys.d = "00112233445566778899aabbccddeeff"\n',
];
const TOKENS = [
  '{{',
  '}}',
  '{%',
  '%}',
  '{#',
  '#}',
  '-%}',
  '{%-',
  'if',
  'endif',
  'for',
  'endfor',
  'set',
  'in',
  'not',
  'is',
  '|',
  '(',
  ')',
  '[',
  ']',
  '{',
  '}',
  '=',
  '==',
  '.',
  ',',
  '"',
  "'",
  '"""',
  '\\',
  '\n',
  '\r\n',
  '\0',
  '#',
  '[[',
  ']]',
  '9'.repeat(30),
  '-',
  '1e5',
  'nan',
  '1979-02-30',
  '\\ud800',
  '\u{1f600}',
  '\ufeff',
  'é',
  '__proto__',
  'constructor',
  'file:',
  '/',
  '..',
  '*',
  '~',
  '//',
  '%',
  'sgx',
  'tdx',
  'fs.mounts',
  'true',
  '0x',
  '_',
  'loop',
  'env',
  'python',
  'ldd',
  'gramine',
]; // prettier-ignore

/** Every key of the schema, as it stands in a text. */
const KEYS = describeKeys()
  .filter(({ path }) => !path.includes('[]'))
  .map(({ path }) => path);
const HEX = '0123456789abcdef'.repeat(4);
const VALUES = [
  'true',
  'false',
  '0',
  '-1',
  '4294967295',
  '4294967296',
  '9223372036854775807',
  '1.0',
  'inf',
  '1979-05-27',
  '""',
  '"/a/../b//c/"',
  '"relative"',
  '"file:/x"',
  '"dev:/dev/shm"',
  '"8M"',
  '"18446744073709551616"',
  '"99999999999G"',
  '"dcap"',
  '"all"',
  '"required"',
  '[]',
  '{}',
  '["a", "\\u0000"]',
  '["file:/x", "file:x/../y", "file:"]',
  '["80/tcp", "65536", "*:*", "[::1]:1"]',
  `[{ uri = "file:/t", sha256 = "${HEX}", size = 1, mode = 420, root = "${HEX}" }, { uri = "file:l", link = "t" }]`,
  '[{ path = "/p", uri = "file:/p" }, { type = "tmpfs", path = "/p/q" }, { path = "/p/", uri = "file:q" }]',
  '[{ name = "getpid", return = -38 }, { name = 3 }]',
  '{ value = "v" }',
  '{ passthrough = true }',
  '{ k = "00112233445566778899aabbccddeeff", _k = "" }',
  '"{{ n|int }}"',
  '{{ env.A }}',
]; // prettier-ignore

/** A small generator, so that a seed repeats a run (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A text made from the seeds and those before by cutting, copying and inserting. */
export function mutate(corpus: readonly string[], random: () => number): string {
  const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(random() * list.length)];
  let text = pick(corpus) ?? '';
  // Mostly few changes: many at once hardly ever leave a manifest.
  for (let n = 1 + Math.floor(random() ** 3 * 6); n > 0; n -= 1) {
    if (random() < 0.4) {
      text = withLine(text, random, pick);
      continue;
    }
    const at = Math.floor(random() * (text.length + 1));
    const end = Math.min(text.length, at + Math.floor(random() ** 3 * 60));
    switch (Math.floor(random() * 5)) {
      case 0:
        text = text.slice(0, at) + text.slice(end);
        break;
      case 1:
        text = text.slice(0, at) + (pick(TOKENS) ?? '') + text.slice(at);
        break;
      case 2:
        text = text.slice(0, at) + text.slice(at, end) + text.slice(at);
        break;
      case 3:
        text = text.slice(0, at) + String.fromCodePoint(Math.floor(random() * 0x300)) + text.slice(at + 1);
        break;
      default: {
        const other = pick(corpus) ?? '';
        const from = Math.floor(random() * other.length);
        text = text.slice(0, at) + other.slice(from, from + 80) + text.slice(end);
      }
    }
  }
  return text.slice(0, 4000);
}

/** A line `KEY = VALUE` more, or in the place of another. */
function withLine(text: string, random: () => number, pick: <T>(list: readonly T[]) => T | undefined): string {
  const lines = text.split('\n');
  const at = Math.floor(random() * (lines.length + 1));
  lines.splice(at, random() < 0.4 ? 1 : 0, `${pick(KEYS)} = ${pick(VALUES)}`);
  return lines.join('\n');
}

const globals = templateGlobals({
  env: { A: '1' },
  run: () => '{}',
  exists: () => true,
  isDirectory: () => false,
});

/** One input through everything; throws what is neither a result nor a ManifestError. Returns how far it came. */
export function exercise(text: string): number {
  let depth = 0;
  try {
    decodeText(Buffer.from(text, 'utf8'), 'fuzz');
    depth = 1;
    const direct = parse(text);
    if (direct !== undefined) depth = 2;
    const { text: rendered, locate } = renderTemplate(text, { file: 'fuzz', globals });
    locate({ line: 1 + (rendered.length % 7), column: 1 });
    depth = 3;
    parse(rendered);
    const table = parseToml(rendered, 'fuzz', locate);
    addDefaults(table);
    checkManifest(table);
    depth = 4;
    const policy = compileManifest(parseManifest(rendered, 'fuzz'));
    const shown = compileManifest(parseManifest(showPolicy(policy), 'shown'));
    if (!Buffer.from(encodePolicy(shown)).equals(Buffer.from(encodePolicy(policy))))
      throw new Error('the shown policy compiles to another one');
    depth = 5;
  } catch (error) {
    if (!(error instanceof ManifestError)) throw error;
    if (error.problems.length === 0 || error.problems.some((p) => p.trim() === ''))
      throw new Error('a problem without a word');
  }
  return depth;
}

function parse(text: string): string | undefined {
  let written: string;
  try {
    written = writeToml(parseToml(text, 'fuzz'));
  } catch (error) {
    if (error instanceof ManifestError) return undefined;
    throw error;
  }
  if (writeToml(parseToml(written, 'again')) !== written) throw new Error('written TOML does not come back');
  return written;
}

/** Runs until the time is over; returns the number of inputs. Throws the first failure, with its input. */
export function fuzz(seconds: number, seed: number, log: (line: string) => void = () => {}): number {
  const random = randomFrom(seed);
  const corpus = [...SEEDS];
  const deep: string[] = [];
  const best = new Map<number, number>();
  const end = Date.now() + seconds * 1000;
  let runs = 0;
  for (; Date.now() < end; runs += 1) {
    const text = mutate(deep.length > 0 && random() < 0.7 ? deep : corpus, random);
    const started = performance.now();
    let depth: number;
    try {
      depth = exercise(text);
    } catch (error) {
      throw new Error(`seed ${seed}, run ${runs}: ${JSON.stringify(text)}`, { cause: error });
    }
    const took = performance.now() - started;
    if (took > 2000) throw new Error(`seed ${seed}, run ${runs}: took ${Math.round(took)} ms: ${JSON.stringify(text)}`);
    best.set(depth, (best.get(depth) ?? 0) + 1);
    // What came far is worth mutating further; the oldest of it makes room.
    if (depth === 3 && corpus.length < 100 && random() < 0.05) corpus.push(text);
    if (depth >= 4 && random() < (depth === 5 ? 0.2 : 0.02)) {
      deep.push(text);
      if (deep.length > 500) deep.splice(Math.floor(random() * 250), 1);
    }
  }
  log(
    `${runs} inputs; by depth: ${[...best]
      .sort()
      .map(([d, n]) => `${d}: ${n}`)
      .join(', ')}`,
  );
  return runs;
}

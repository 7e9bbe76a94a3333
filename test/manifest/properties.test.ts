// SPDX-License-Identifier: Apache-2.0
//
// What holds for any manifest: reading back what was written, compiling what was shown, the order of expansion.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { compileManifest, parseManifest, showPolicy } from '../../src/manifest/compile.js';
import { expandTrustedFiles } from '../../src/manifest/expand.js';
import { compilePolicy, encodePolicy } from '../../src/manifest/policy.js';
import { compareCodePoints } from '../../src/manifest/python-values.js';
import { parseToml, pythonFloat, type TomlValue, toml, writeToml } from '../../src/manifest/toml.js';

const text = fc.string({ unit: 'binary', maxLength: 12 }).filter((s) => !/\p{Surrogate}/u.test(s));
const name = fc.oneof(fc.string({ unit: fc.constantFrom(...'ab1-_'), minLength: 1, maxLength: 4 }), text);

const scalar: fc.Arbitrary<TomlValue> = fc.oneof(
  text.map(toml.string),
  fc.bigInt({ min: -(1n << 63n), max: (1n << 63n) - 1n }).map(toml.integer),
  fc.boolean().map(toml.boolean),
  fc.double().map((value): TomlValue => ({ kind: 'float', value })),
);
const { value } = fc.letrec<{ value: TomlValue; table: TomlValue }>((tie) => ({
  value: fc.oneof({ maxDepth: 3 }, scalar, fc.array(tie('value'), { maxLength: 3 }).map(toml.array), tie('table')),
  table: fc.array(fc.tuple(name, tie('value')), { maxLength: 3 }).map((entries) => toml.table(entries)),
}));
const document = fc.array(fc.tuple(name, value), { maxLength: 5 }).map((entries) => toml.table(entries));

/** Literals before tables, as the layout has them: what order is left is part of the value. */
function canonical(v: TomlValue): unknown {
  switch (v.kind) {
    case 'table':
      return {
        table: [...v.entries].map(([k, x]) => [k, canonical(x)]).sort((a, b) => ((a[0] ?? '') < (b[0] ?? '') ? -1 : 1)),
      };
    case 'array':
      return { array: v.items.map(canonical) };
    case 'rows':
      throw new Error('not parsed');
    case 'float':
      return { float: pythonFloat(v.value) };
    default:
      return { [v.kind]: v.kind === 'integer' ? v.value.toString() : v.value };
  }
}

describe('TOML', () => {
  it('comes back as it was written', () => {
    fc.assert(
      fc.property(document, (table) => {
        const written = writeToml(table);
        const again = parseToml(written, 'again');
        expect(canonical(again)).toEqual(canonical(table));
        // Written again it is the same text: the layout is a fixed point.
        expect(writeToml(again)).toBe(written);
      }),
      { numRuns: 300 },
    );
  });
});

const component = fc
  .string({ unit: fc.constantFrom(...'abé.{%"\\ \u{1f600}'), minLength: 1, maxLength: 4 })
  .filter((s) => s !== '.' && s !== '..');
const absolute = fc.array(component, { minLength: 1, maxLength: 3 }).map((parts) => `/${parts.join('/')}`);
const path = fc.oneof(
  absolute,
  fc.array(component, { minLength: 1, maxLength: 3 }).map((parts) => parts.join('/')),
);
const hex = (bytes: number) =>
  fc.uint8Array({ minLength: bytes, maxLength: bytes }).map((b) => Buffer.from(b).toString('hex'));
const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
const noNul = text.filter((s) => !s.includes('\0'));
const envName = fc.string({ unit: fc.constantFrom(...'AB_.é'), minLength: 1, maxLength: 4 });

const trusted = fc.oneof(
  fc.record({ uri: path.map((p) => `file:${p}`), sha256: hex(32) }),
  fc.record({
    uri: path.map((p) => `file:${p}`),
    sha256: hex(32),
    size: fc.nat(),
    mode: fc.nat(0o7777),
    root: hex(32),
  }),
  fc.record({ uri: path.map((p) => `file:${p}`), link: noNul }),
);
const mount = fc.oneof(
  fc.record({ path: absolute, uri: path.map((p) => `file:${p}`) }),
  fc.record({ type: fc.constant('tmpfs'), path: absolute }),
  fc.record({ type: fc.constant('untrusted_shm'), path: absolute, uri: path.map((p) => `dev:${p}`) }),
);

const manifest = fc.record({
  libos: fc.record({ entrypoint: absolute }),
  loader: fc.record({
    argv: optional(fc.array(noNul, { minLength: 1, maxLength: 3 })),
    env: fc.dictionary(
      envName,
      fc.oneof(
        noNul,
        fc.constant({ passthrough: true }),
        noNul.map((v) => ({ value: v })),
      ),
    ),
    insecure__use_host_env: optional(fc.boolean()),
    insecure__disable_aslr: optional(fc.boolean()),
    log_level: optional(fc.constantFrom('none', 'error', 'warning', 'debug', 'trace', 'all')),
    uid: optional(fc.nat()),
    gid: optional(fc.nat()),
  }),
  fs: fc.record({
    mounts: fc.uniqueArray(mount, { maxLength: 4, selector: (m) => m.path }),
    start_dir: optional(absolute),
    root: optional(
      fc.oneof(
        fc.constant({ type: 'tmpfs' }),
        path.map((p) => ({ uri: `file:${p}` })),
      ),
    ),
    insecure__keys: fc.dictionary(fc.constantFrom('default', 'k1', 'k2'), hex(16)),
  }),
  sys: fc.record({
    stack: fc.record({ size: optional(fc.constantFrom('8M', '65536', '1g')) }),
    fds: fc.record({ limit: optional(fc.nat(1 << 20)) }),
    disallow_subprocesses: optional(fc.boolean()),
    debug__mock_syscalls: optional(
      fc.array(fc.record({ name: fc.constantFrom('a', 'b'), return: fc.integer() }), { maxLength: 2 }),
    ),
  }),
  tdx: fc.record({
    trusted_files: fc.uniqueArray(trusted, { maxLength: 5, selector: (t) => t.uri }),
    allowed_files: fc.array(
      path.map((p) => `file:${p}`),
      { maxLength: 3 },
    ),
    file_check_policy: optional(fc.constantFrom('strict', 'allow_all_but_log')),
    net: fc.record({
      publish: fc.array(
        fc.tuple(fc.integer({ min: 1, max: 65535 }), fc.constantFrom('', '/tcp', '/udp')).map(([p, s]) => `${p}${s}`),
        { maxLength: 3 },
      ),
      outbound: fc.array(fc.constantFrom('*:*', 'example.org:443', '[::1]:80', '10.0.0.1:*'), { maxLength: 3 }),
    }),
  }),
});

/** Whether one trusted path lies below another: such a manifest is refused. */
function nested(files: readonly { readonly uri: string }[]): boolean {
  const paths = files.map((f) => f.uri.slice(5));
  return paths.some((a) => paths.some((b) => a !== b && b.startsWith(`${a}/`)));
}

describe('a policy', () => {
  it('shown as a manifest compiles to the same bytes', () => {
    fc.assert(
      fc.property(manifest, (m) => {
        fc.pre(!nested(m.tdx.trusted_files));
        const policy = compilePolicy(m);
        const again = compileManifest(parseManifest(showPolicy(policy), 'shown'));
        expect(Buffer.from(encodePolicy(again)).toString('hex')).toBe(
          Buffer.from(encodePolicy(policy)).toString('hex'),
        );
      }),
      { numRuns: 300 },
    );
  });
});

describe('expansion', () => {
  const work = mkdtempSync(join(tmpdir(), 'gt-order-'));
  afterAll(() => rmSync(work, { recursive: true, force: true }));
  let run = 0;

  it('lists a folder in the order of code points, each file once', () => {
    const files = fc.uniqueArray(
      fc.array(component, { minLength: 1, maxLength: 3 }).map((p) => p.join('/')),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(files, (paths) => {
        run += 1;
        const base = join(work, String(run));
        mkdirSync(base);
        const made = paths.filter((p) => {
          try {
            mkdirSync(dirname(join(base, p)), { recursive: true });
            writeFileSync(join(base, p), '', { flag: 'wx' });
            return true;
          } catch {
            return false; // a file where this one wants a folder
          }
        });
        const found = [...expandTrustedFiles(toml.array([toml.string(`file:${base}/`)]))].map((f) =>
          f.uri.slice(base.length + 6),
        );
        const byParts = (a: string, b: string): number => {
          const [x, y] = [a.split('/'), b.split('/')];
          for (let i = 0; i < Math.min(x.length, y.length); i += 1) {
            const order = compareCodePoints(x[i] ?? '', y[i] ?? '');
            if (order !== 0) return order;
          }
          return x.length - y.length;
        };
        expect(found).toEqual([...made].sort(byParts));
      }),
      { numRuns: 60 },
    );
  });
});

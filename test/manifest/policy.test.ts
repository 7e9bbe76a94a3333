// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { checkManifest } from '../../src/manifest/check.js';
import {
  compileManifest,
  compilePolicy,
  decodeCbor,
  encodePolicy,
  ManifestError,
  machineOf,
  parseManifest,
} from '../../src/manifest/index.js';
import { parseToml } from '../../src/manifest/toml.js';

const A = 'aa'.repeat(32);
const B = 'bb'.repeat(32);
const bytes = (text: string) => new Uint8Array(Buffer.from(text, 'hex'));

/** The smallest manifest, with `more` merged in. */
const manifest = (more: object = {}) => ({
  libos: { entrypoint: '/bin/app' },
  fs: { mounts: [{ path: '/lib', uri: 'file:/usr//lib/' }] },
  ...more,
});

/** Decoded policy of a manifest. */
function decoded(value: unknown): Map<string, unknown> {
  return decodeCbor(encodePolicy(compilePolicy(value))) as Map<string, unknown>;
}

function problems(value: unknown): readonly string[] {
  try {
    compilePolicy(value);
  } catch (error) {
    if (error instanceof ManifestError) return error.problems;
    throw error;
  }
  return [];
}

const trusted = (...files: object[]) => manifest({ sgx: { trusted_files: files } });

describe('compilePolicy', () => {
  it('fills in the defaults of Gramine', () => {
    const policy = decoded(manifest());
    expect([...policy.keys()]).toEqual([
      'cwd',
      'env',
      'gid',
      'net',
      'uid',
      'args',
      'keys',
      'mock',
      'check',
      'flags',
      'limits',
      'mounts',
      'allowed',
      'trusted',
      'version',
      'entrypoint',
      'attestation',
    ]);
    expect(policy.get('limits')).toEqual(new Map(Object.entries({ brk: 262144, fds: 900, stack: 262144 })));
    expect(policy.get('mounts')).toEqual([
      new Map<string, unknown>([
        ['rw', false],
        ['uri', '.'],
        ['path', '/'],
        ['type', 'chroot'],
      ]),
      new Map<string, unknown>([
        ['rw', false],
        ['uri', '/usr/lib'],
        ['path', '/lib'],
        ['type', 'chroot'],
      ]),
    ]);
  });

  it('stores trusted files as a tree of host paths, sorted by name bytes', () => {
    const policy = decoded(
      trusted(
        { uri: 'file:/b/y', sha256: A },
        { uri: 'file:/b/x', sha256: B, size: 3, mode: 0o755, root: A },
        { uri: 'file:rel/./f', sha256: A },
        { uri: 'file:/a/../a/link', link: '../b/x' },
        { uri: 'file:/\u{1f600}', sha256: A },
        { uri: 'file:/\uff5e', sha256: A },
      ),
    );
    expect(policy.get('trusted')).toEqual([
      ['.', [['rel', [['f', bytes(A)]]]]],
      ['a', [['link', '../b/x']]],
      [
        'b',
        [
          ['x', bytes(B), [3, 0o755, bytes(A)]],
          ['y', bytes(A)],
        ],
      ],
      ['\uff5e', bytes(A)],
      ['\u{1f600}', bytes(A)],
    ]);
  });

  it('does not depend on the order of trusted files', () => {
    const files = ['/z', '/a/b', '/a/c', '/m'].map((path) => ({ uri: `file:${path}`, sha256: A }));
    expect(encodePolicy(compilePolicy(trusted(...files)))).toEqual(
      encodePolicy(compilePolicy(trusted(...files.reverse()))),
    );
  });

  it('takes trusted files from table tdx where it names any', () => {
    const policy = decoded(
      manifest({
        tdx: { trusted_files: [{ uri: 'file:/t', sha256: A }] },
        sgx: { trusted_files: [{ uri: 'file:/s', sha256: A }], file_check_policy: 'allow_all_but_log' },
      }),
    );
    expect(policy.get('trusted')).toEqual([['t', bytes(A)]]);
    expect(policy.get('check')).toBe('allow_all_but_log');
  });

  it('exports a mount writable only where something below it, or around it, is allowed', () => {
    const rw = (uri: string, allowed: string[]) =>
      compilePolicy(manifest({ fs: { mounts: [{ path: '/m', uri }] }, sgx: { allowed_files: allowed } })).mounts[1]?.rw;
    expect(rw('file:/data', [])).toBe(false);
    expect(rw('file:/data', ['file:/data/x'])).toBe(true);
    expect(rw('file:/data/x', ['file:/data/'])).toBe(true);
    expect(rw('file:/data', ['file:/database'])).toBe(false);
    expect(rw('file:.', ['file:x'])).toBe(true);
    expect(rw('file:.', ['file:/x'])).toBe(false);
    expect(rw('file:.', ['file:../x'])).toBe(false);
  });

  it('reads arguments and environment', () => {
    const policy = decoded(
      manifest({
        loader: { argv: ['app', '-x'], env: { A: '1', B: { passthrough: true }, C: { value: '' } }, log_level: 'all' },
      }),
    );
    expect(policy.get('args')).toEqual(
      new Map<string, unknown>([
        ['argv', ['app', '-x']],
        ['from', 'manifest'],
      ]),
    );
    expect(policy.get('env')).toEqual(
      new Map<string, unknown>([
        ['all', false],
        [
          'set',
          [
            ['A', '1'],
            ['C', ''],
          ],
        ],
        ['pass', ['B']],
      ]),
    );
  });

  it.each([
    ['helloworld', '/', '/helloworld', ['helloworld']],
    ['./bin/../app', '/opt', '/opt/app', ['./bin/../app']],
    ['/app', '/opt', '/app', []],
  ])('takes the entrypoint %s from the working directory %s, as Gramine does', (entrypoint, start_dir, path, argv) => {
    const policy = compilePolicy({ libos: { entrypoint }, fs: { start_dir } });
    expect([policy.entrypoint, policy.args.argv]).toEqual([path, argv]);
    expect(compilePolicy({ libos: { entrypoint }, loader: { argv: ['x', 'y'] } }).args.argv).toEqual(['x', 'y']);
  });

  it('lists every offence at once, by key', () => {
    expect(
      problems({
        libos: { entrypoint: '' },
        loader: { uid: -1, argv: [], insecure__use_cmdline_argv: true, env: { X: {}, 'a.b': { value: 3 } } },
        fs: {
          mounts: [
            { path: '/', uri: 'file:/x' },
            { path: '/y', type: 'tmp' },
          ],
          insecure__keys: { k: 'zz' },
        },
        sys: { stack: { size: '9999999999G' } },
        sgx: { trusted_files: ['file:x', { uri: 'x', sha256: A }] },
      }),
    ).toEqual([
      'sgx.trusted_files[0]: expected a table { uri, sha256 } as gramine-manifest writes it, got "file:x"',
      'sgx.trusted_files[1].uri: expected "file:PATH", got "x"',
      'libos.entrypoint: expected an absolute path, got ""',
      'loader: argv and insecure__use_cmdline_argv exclude each other',
      'loader.env.X: needs either value = "..." or passthrough = true',
      'loader.env."a.b".value: expected a string, got 3',
      'loader.uid: expected an integer from 0 to 4294967295, got -1',
      'fs.mounts[0].path: the root is fs.root, not a mount',
      'fs.mounts[1].type: expected one of "chroot", "encrypted", "tmpfs", "untrusted_shm", got "tmp"',
      'fs.mounts[1].uri: required',
      'sys.stack.size: expected a size such as "256K" below 8E, got "9999999999G"',
      'fs.insecure__keys.k: expected 32 hex digits, got "zz"',
    ]);
  });

  it('refuses two hashes for one file, and a file below a file', () => {
    expect(problems(trusted({ uri: 'file:/a', sha256: A }, { uri: 'file:/./a', sha256: B }))).toEqual([
      'sgx.trusted_files[1]: two trusted entries for /a disagree',
    ]);
    expect(problems(trusted({ uri: 'file:/a', sha256: A }, { uri: 'file:/a/b', sha256: B }))).toEqual([
      'sgx.trusted_files[1]: /a/b lies below a, which is itself a trusted file',
    ]);
  });

  it('does not take inherited properties for keys', () => {
    const value = JSON.parse(`{"libos":{"entrypoint":"/a"},"fs":{"mounts":[]},"loader":{"env":{"__proto__":"x"}}}`);
    expect(decoded(value).get('env')).toEqual(
      new Map<string, unknown>([
        ['all', false],
        ['set', [['__proto__', 'x']]],
        ['pass', []],
      ]),
    );
  });

  it.each([
    `x = ${'['.repeat(20_000)}`,
    `x = ${'{a='.repeat(20_000)}`,
    `${'a.'.repeat(20_000)}a = 1`,
    `x = {${'a.'.repeat(20_000)}a = 1}`,
    `[${'a.'.repeat(20_000)}a]`,
    `x = ${`{${'a.'.repeat(90)}a = [`.repeat(40)}1${']}'.repeat(40)}`,
  ])('refuses a manifest that nobody can descend into (%#)', (text) => {
    expect(() => parseManifest(text, 'm')).toThrow(/^m:1:[0-9]+: not TOML: nested deeper than 100 levels/);
  });

  it('refuses a float where text is wanted, also a whole one', () => {
    const text = 'libos.entrypoint = "/x"\nfs.mounts = []\nloader.argv = ["x", 2.0]\nloader.env.THREADS = 4.0\n';
    expect(() => compileManifest(parseManifest(text, 'm'))).toThrow(
      /loader\.argv\[1\]: expected a string, got the float 2; .*THREADS: expected a string, got the float 4/,
    );
  });

  it('refuses what is not a table', () => {
    expect(problems([])).toEqual(['the manifest is not a table']);
    expect(problems({ libos: 3 })).toContain('libos: expected a table, got 3');
  });
});

it('refuses ports and destinations when the manifest is made, not first when it is started', () => {
  const text =
    'libos.entrypoint = "/x"\nfs.mounts = []\ntdx.net.publish = ["80", "70000/tcp"]\ntdx.net.outbound = ["a:1", "*.b:1"]\n';
  expect(checkManifest(parseToml(text, 'm')).map(({ key }) => key)).toEqual([
    'tdx.net.publish[1]',
    'tdx.net.outbound[1]',
  ]);
});

describe('the machine of a manifest', () => {
  const parsed = (text: string) => parseManifest(`libos.entrypoint = "/x"\nfs.mounts = []\n${text}`, 'm');
  it.each([
    ['', undefined],
    ['sgx.enclave_size = "512M"', 512n << 20n],
    ['sgx.enclave_size = "0x20000000"', 512n << 20n],
    ['sgx.enclave_size = "67108865"', 64n << 20n],
    ['sgx.enclave_size = "1M"', undefined],
    ['sgx.enclave_size = "1024G"\nsgx.edmm_enable = true', undefined],
    ['sgx.enclave_size = "1G"\ntdx.enclave_size = "2G"', 2n << 30n],
    ['sgx.enclave_size = "1G"\ntdx.memory = "256M"', 256n << 20n],
  ])('with %j', (text, memoryBytes) => {
    expect(machineOf(parsed(text)).memoryBytes).toBe(memoryBytes);
  });

  it('refuses a size that overflows, with its place', () => {
    expect(() => compileManifest(parsed('sgx.enclave_size = "99999999999G"'))).toThrow(/^m:3:[0-9]+: .*below 8E/);
    expect(() => compileManifest(parsed('tdx.memory = "99999999999G"'))).toThrow(/^m:3:[0-9]+: .*below 8E/);
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// Walks every key of the schema: what docs/manifest.md says of it is so.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { checkManifest } from '../../src/manifest/check.js';
import { parseManifest } from '../../src/manifest/compile.js';
import { describeKeys, ENFORCED_BY, keyTables } from '../../src/manifest/effects.js';
import { compilePolicy, decodeCbor, encodePolicy } from '../../src/manifest/index.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const keys = describeKeys();
/** `loader.env` is a table of free names, `sgx.trusted_files[]` is one key with its list. */
const leaves = keys.filter(({ type, path }) => type !== 'table' && !path.startsWith('tdx.trusted_files[]'));

const BASE = 'libos.entrypoint = "/a"\nfs.mounts = []\n';
/** A manifest that sets a key to other than its default; where `BASE` has the key already, the whole text. */
const EXAMPLES: Readonly<Record<string, string>> = {
  'libos.entrypoint': 'libos.entrypoint = "/b"\nfs.mounts = []',
  'loader.argv': 'loader.argv = ["x"]',
  'loader.argv_src_file': 'loader.argv_src_file = "file:args"',
  'loader.insecure__use_cmdline_argv': 'loader.insecure__use_cmdline_argv = true',
  'loader.env': 'loader.env.X = "1"',
  'loader.env_src_file': 'loader.env_src_file = "file:env"',
  'loader.insecure__use_host_env': 'loader.insecure__use_host_env = true',
  'loader.insecure__disable_aslr': 'loader.insecure__disable_aslr = true',
  'loader.log_level': 'loader.log_level = "all"',
  'loader.uid': 'loader.uid = 1',
  'loader.gid': 'loader.gid = 1',
  'fs.mounts': 'libos.entrypoint = "/a"\nfs.mounts = [{ path = "/m", uri = "file:m" }]',
  'fs.mounts[].type': 'libos.entrypoint = "/a"\nfs.mounts = [{ type = "tmpfs", path = "/m", uri = "file:m" }]',
  'fs.mounts[].path': 'libos.entrypoint = "/a"\nfs.mounts = [{ path = "/n", uri = "file:m" }]',
  'fs.mounts[].uri': 'libos.entrypoint = "/a"\nfs.mounts = [{ path = "/m", uri = "file:n" }]',
  'fs.root': 'fs.root = { type = "tmpfs" }',
  'fs.start_dir': 'fs.start_dir = "/x"',
  'fs.insecure__keys': `fs.insecure__keys.k = "${'0'.repeat(32)}"`,
  'sys.stack.size': 'sys.stack.size = "1M"',
  'sys.brk.max_size': 'sys.brk.max_size = "1M"',
  'sys.fds.limit': 'sys.fds.limit = 10',
  'sys.enable_extra_runtime_domain_names_conf': 'sys.enable_extra_runtime_domain_names_conf = true',
  'sys.enable_sigterm_injection': 'sys.enable_sigterm_injection = true',
  'sys.disallow_subprocesses': 'sys.disallow_subprocesses = true',
  'sys.debug__mock_syscalls': 'sys.debug__mock_syscalls = [{ name = "eventfd2" }]',
  'sys.debug__mock_syscalls[].name': 'sys.debug__mock_syscalls = [{ name = "epoll_wait" }]',
  'sys.debug__mock_syscalls[].return': 'sys.debug__mock_syscalls = [{ name = "eventfd2", return = -38 }]',
  'sgx.trusted_files': `sgx.trusted_files = [{ uri = "file:x", sha256 = "${'a'.repeat(64)}" }]`,
  'sgx.allowed_files': 'sgx.allowed_files = ["file:x"]',
  'sgx.file_check_policy': 'sgx.file_check_policy = "allow_all_but_log"',
  'sgx.remote_attestation': 'sgx.remote_attestation = "dcap"',
  'tdx.remote_attestation': 'tdx.remote_attestation = "dcap"',
  'tdx.net.publish': 'tdx.net.publish = ["80/tcp"]',
  'tdx.trusted_files': `tdx.trusted_files = [{ uri = "file:x", link = "y" }]`,
  'tdx.allowed_files': 'tdx.allowed_files = ["file:x"]',
  'tdx.file_check_policy': 'tdx.file_check_policy = "allow_all_but_log"',
  'tdx.read_only': 'tdx.allowed_files = ["file:x"]\ntdx.read_only = ["/"]',
};

const policyOf = (text: string): Map<string, unknown> => {
  const parsed = parseManifest(text, 'example');
  expect(checkManifest(parsed.table), text).toEqual([]);
  return decodeCbor(encodePolicy(compilePolicy(parsed.value))) as Map<string, unknown>;
};
const fieldOf = (policy: Map<string, unknown>, path: string): unknown => {
  const [first = '', second] = path.split('.');
  const value = policy.get(first);
  return value instanceof Map && second !== undefined ? value.get(second) : value;
};

/** The kernel's sources, less the parser of the policy, and that parser. */
function kernelSources(): { parser: string; rest: string } {
  const kernel = join(root, 'kernel-bin/kernel');
  let rest = '';
  for (const file of readdirSync(kernel, { recursive: true, encoding: 'utf8' }))
    if (file.endsWith('.c') && file !== 'attest/policy.c') rest += readFileSync(join(kernel, file), 'utf8');
  return { parser: readFileSync(join(kernel, 'attest/policy.c'), 'utf8'), rest };
}

/** How the kernel calls the fields of the policy once they are parsed. */
const IN_KERNEL: Readonly<Record<string, RegExp>> = {
  entrypoint: /policy\.entrypoint/,
  'args.argv': /policy\.argv/,
  'args.from': /policy\.args_from/,
  'args.file': /policy\.args_file/,
  'env.set': /policy\.env_set/,
  'env.all': /policy\.env_all/,
  'env.file': /policy\.env_file/,
  'flags.aslr': /policy\.aslr/,
  'flags.log': /policy\.log/,
  'flags.domain_names': /policy\.domain_names/,
  'flags.sigterm': /policy\.sigterm/,
  'flags.subprocesses': /policy\.subprocesses/,
  uid: /policy\.uid/,
  gid: /policy\.gid/,
  cwd: /policy\.cwd/,
  mounts: /policy\.mounts/,
  'mounts.type': /m->type/,
  'mounts.path': /m->path|\.path/,
  'mounts.uri': /m->uri/,
  'mounts.rw': /->rw/,
  'limits.stack': /policy\.stack_bytes/,
  'limits.brk': /policy\.brk_bytes/,
  'limits.fds': /policy\.fd_limit/,
  mock: /policy\.mock/,
  keys: /policy\.keys/,
  attestation: /policy\.dcap/,
  trusted: /trusted/,
  allowed: /allowed_path|policy\.allowed/,
  check: /policy\.allow_all_but_log/,
  'net.publish': /policy\.publish/,
};

describe('docs/manifest.md', () => {
  it('is up to date (npm run docs:manifest)', () => {
    const head = readFileSync(join(root, 'docs/manifest.head.md'), 'utf8');
    expect(readFileSync(join(root, 'docs/manifest.md'), 'utf8')).toBe(`${head}\n${keyTables()}`);
  });

  it('says of every enforced key who enforces it, and of no other', () => {
    const enforced = leaves.filter(({ effect }) => effect === 'enforced').map(({ path }) => path);
    expect(enforced.sort()).toEqual(Object.keys(ENFORCED_BY).sort());
  });

  it('has a meaning for every key', () => {
    expect(keys.length).toBeGreaterThan(80);
    expect(keys.filter(({ meaning }) => meaning.trim() === '')).toEqual([]);
  });
});

describe('an enforced key', () => {
  const byKernel = Object.entries(ENFORCED_BY).flatMap(([path, by]) =>
    'policy' in by ? [[path, by.policy] as const] : [],
  );
  const { parser, rest } = kernelSources();

  it.each(byKernel)('%s decides %s of the policy', (path, field) => {
    const example = EXAMPLES[path];
    if (example === undefined) throw new Error(`no example for ${path}`);
    const with_ = policyOf(example.startsWith('libos.entrypoint') ? `${example}\n` : `${BASE}${example}\n`);
    const without = path === 'tdx.read_only' ? policyOf(`${BASE}tdx.allowed_files = ["file:x"]\n`) : policyOf(BASE);
    expect(fieldOf(with_, field)).not.toEqual(fieldOf(without, field));
  });

  it.each([...new Set(byKernel.map(([, field]) => field))])('%s is parsed by the kernel, and used', (field) => {
    expect(parser).toContain(`{ "${field.split('.').at(-1)}", `);
    const use = IN_KERNEL[field];
    if (use === undefined) throw new Error(`how does the kernel call ${field}?`);
    expect(use.test(rest), `${field} is not read outside of the parser`).toBe(true);
  });
});

describe('a refused key', () => {
  it.each(leaves.filter(({ effect }) => effect === 'refused').map(({ path }) => path))(
    '%s keeps a manifest from compiling',
    (path) => {
      const extra: Readonly<Record<string, string>> = {
        'fs.mounts[].key_name': 'key_name = "k"',
        'fs.mounts[].enable_recovery': 'enable_recovery = true',
      };
      const mount = `{ type = "encrypted", path = "/e", uri = "file:e", ${extra[path] ?? ''} }`.replace(', }', ' }');
      const parsed = parseManifest(`libos.entrypoint = "/a"\nfs.mounts = [${mount}]\n`, 'example');
      expect(() => compilePolicy(parsed.value)).toThrow(/encrypted mounts are not supported yet/);
    },
  );
});

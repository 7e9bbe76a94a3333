// SPDX-License-Identifier: Apache-2.0
//
// Every key of a manifest that docs/manifest.md calls enforced, seen by a program under two manifests: one that sets the key,
// one that leaves it at its default. test/fixtures/facts.c prints what it sees. The last test holds the list of keys to the
// schema, and names the test of each key that is proven elsewhere.

import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { resolverLines } from '../../src/launch/hints.js';
import { ENFORCED_BY } from '../../src/manifest/effects.js';
import { root, runVm, startVm } from './machine.js';

const work = realpathSync(mkdtempSync(join(tmpdir(), 'gt-keys-')));
afterAll(() => rmSync(work, { recursive: true, force: true }));
const data = join(work, 'data');
const SOME_TIME = 1_234_567_890;

/** What the program said, by name. */
type Facts = Readonly<Record<string, string>>;
const factsOf = (stdout: string): Facts =>
  Object.fromEntries([...stdout.matchAll(/^([^:\n]+): ?(.*)$/gm)].map(([, name = '', value = '']) => [name, value]));

/** The smallest manifest under which the program runs, and what is added; `suffix` says whether it has a table `tdx`. */
function writeManifest(name: string, program: string, mounts: string, more: string, suffix = 'tdx'): void {
  const text = `libos.entrypoint = "${program}"
fs.mounts = [
  { path = "/facts", uri = "file:${work}/facts" },
  { path = "/data", uri = "file:${data}" },
${mounts}]
sgx.trusted_files = ["file:${work}/facts", "file:${work}/inroot", "file:${data}/trusted", "file:${data}/args",
  "file:${data}/env", "file:${data}/program"]
${more}`;
  writeFileSync(join(work, `${name}.template`), text);
  const tool = join(root, 'dist/cli/gramine-manifest.js');
  execFileSync(process.execPath, [tool, '-q', `${name}.template`, `${name}.manifest.${suffix}`], { cwd: work });
}

const hexKey = Buffer.from('sixteen bytes ok').toString('hex');

async function run(name: string, options: readonly string[] = [], args: readonly string[] = []) {
  const outcome = await runVm([...options, name, ...args], '', { cwd: work });
  expect(outcome, outcome.stderr).toMatchObject({ status: 0 });
  return { facts: factsOf(outcome.stdout), log: outcome.stderr };
}

type Wanted = string | RegExp;
const matcher = (wanted: Wanted): unknown => (typeof wanted === 'string' ? wanted : expect.stringMatching(wanted));

/** Key, name of the fact, what it is under the manifest `plain`, and under `set`. */
const SEEN: readonly (readonly [key: string, fact: string, plain: Wanted, set: Wanted])[] = [
  ['libos.entrypoint', 'program', '/facts', '/data/program'],
  ['loader.argv', 'argv', '</facts>', '<name> <an argument>'],
  ['loader.env', 'env', '', '<GIVEN=by the manifest>'],
  ['loader.uid', 'ids', /^0 /, /^1000 /],
  ['loader.gid', 'ids', / 0$/, / 1001$/],
  ['loader.insecure__disable_aslr', 'stack address', /^(?!0x7ffffff)/, /^0x7ffffff/],
  ['fs.start_dir', 'cwd', '/', '/data'],
  ['fs.root', 'root', 'No such file or directory', 'in the root|'],
  ['fs.mounts', 'memory file', 'No such file or directory', 'done'],
  ['fs.mounts[].type', 'memory file', 'No such file or directory', 'done'],
  ['fs.mounts[].path', 'shared', 'No such file or directory', 'shared|'],
  ['fs.mounts[].uri', 'shared', 'No such file or directory', 'shared|'],
  ['fs.insecure__keys', 'key', 'No such file or directory', 'sixteen bytes ok'],
  ['sys.stack.size', 'stack', '262144', '1048576'],
  ['sys.brk.max_size', 'heap', 'below 1M', 'below 64M'],
  ['sys.fds.limit', 'fds', '900', '77'],
  ['sys.disallow_subprocesses', 'fork', 'done', 'Operation not permitted'],
  ['sys.debug__mock_syscalls', 'mocked', '-1', '4242'],
  ['sys.debug__mock_syscalls[].name', 'mocked', '-1', '4242'],
  ['sys.debug__mock_syscalls[].return', 'mocked', '-1', '4242'],
  ['sys.enable_extra_runtime_domain_names_conf', 'name', 'gramine-tdx', hostname()],
  ['tdx.trusted_files', 'trusted', 'trusted|', 'trusted|'],
  ['tdx.allowed_files', 'allowed, written', 'Read-only file system', 'done'],
  ['sgx.enclave_size', 'memory', '256 MiB', '384 MiB'],
  ['tdx.memory', 'memory', '256 MiB', '384 MiB'],
  ['tdx.vcpus', 'cpus', '1', '2'],
];

/** Keys that have a test of their own here, by its name, or elsewhere. */
const OTHER_TESTS: Readonly<Record<string, string>> = {
  'loader.argv_src_file': 'takes arguments and environment from trusted files',
  'loader.env_src_file': 'takes arguments and environment from trusted files',
  'tdx.file_check_policy': 'takes arguments and environment from trusted files',
  'loader.insecure__use_cmdline_argv': 'lets the command line in where the manifest says so',
  'loader.insecure__use_host_env': 'lets the command line in where the manifest says so',
  'sgx.trusted_files': 'lets the command line in where the manifest says so',
  'sgx.allowed_files': 'lets the command line in where the manifest says so',
  'sgx.file_check_policy': 'lets the command line in where the manifest says so',
  'tdx.enclave_size': 'lets the command line in where the manifest says so',
  'tdx.read_only': 'lets the command line in where the manifest says so',
  'loader.log_level': 'says as much as the manifest wants',
  'sys.enable_sigterm_injection': 'gets SIGTERM only where the manifest says so',
  'tdx.net.publish': 'publishes no port that the manifest does not list',
  'tdx.net.outbound': 'test/e2e/outbound.test.ts',
  'sgx.remote_attestation': 'kernel-bin/test/unit/attest_quote.c',
  'tdx.remote_attestation': 'kernel-bin/test/unit/attest_quote.c',
};

describe.skipIf(!existsSync('/usr/bin/gcc'))('what a program sees of its manifest', () => {
  let plain: Facts = {};
  let plainLog = '';
  let set: Facts = {};
  let setLog = '';

  beforeAll(async () => {
    mkdirSync(data);
    mkdirSync(join(work, 'shm'));
    const program = join(work, 'facts');
    execFileSync('gcc', ['-static', '-O1', '-Wall', '-Werror', '-o', program, join(root, 'test/fixtures/facts.c')]);
    copyFileSync(program, join(data, 'program'));
    for (const name of ['trusted', 'unmentioned', 'allowed']) writeFileSync(join(data, name), `${name}\n`);
    writeFileSync(join(work, 'inroot'), 'in the root\n');
    writeFileSync(join(data, 'args'), 'from a file\0second\0');
    writeFileSync(join(data, 'env'), 'FROM_FILE=1\0SECOND=2\0');
    utimesSync(join(data, 'trusted'), SOME_TIME, SOME_TIME);
    writeFileSync(join(work, 'shm/x'), 'shared\n');
    writeManifest('plain', '/facts', '', 'fs.root.type = "tmpfs"\nsgx.enclave_size = "256M"\ntdx.vcpus = 1\n');
    writeManifest(
      'set',
      '/data/program',
      `  { type = "tmpfs", path = "/memory" },\n  { type = "untrusted_shm", path = "/shm", uri = "dev:${work}/shm" },\n`,
      `loader.argv = ["name", "an argument"]
loader.env.GIVEN = "by the manifest"
loader.uid = 1000
loader.gid = 1001
loader.insecure__disable_aslr = true
loader.log_level = "all"
fs.root = { uri = "file:${work}" }
fs.start_dir = "/data"
fs.insecure__keys.default = "${hexKey}"
sys.stack.size = "1M"
sys.brk.max_size = "4M"
sys.fds.limit = 77
sys.disallow_subprocesses = true
sys.enable_extra_runtime_domain_names_conf = true
sys.debug__mock_syscalls = [ { name = "getpgid", return = 4242 } ]
sgx.allowed_files = ["file:${data}/allowed"]
sgx.remote_attestation = "dcap"
tdx.memory = "384M"
tdx.vcpus = 2
`,
    );
    chmodSync(join(data, 'allowed'), 0o666);
    ({ facts: plain, log: plainLog } = await run('plain', ['-q']));
    ({ facts: set, log: setLog } = await run('set'));
  }, 240_000);

  it.each(SEEN)('%s: %s', (_key, fact, before, after) => {
    expect({ plain: plain[fact], set: set[fact] }).toEqual({ plain: matcher(before), set: matcher(after) });
  });

  it('shows the host’s resolver configuration only where the manifest says so', () => {
    expect(plain.resolver).toBe('No such file or directory');
    const lines = resolverLines('/etc/resolv.conf', '/run/systemd/resolve/resolv.conf').split('\n');
    const servers = lines.filter((line) => line.startsWith('nameserver')).map((line) => line.replace(/\s+/, ' '));
    for (const line of servers) expect(set.resolver).toContain(`${line}|`);
  });

  it('has flock and eventfd, whatever the manifest says', () => {
    expect([plain.flock, set.flock, plain.eventfd, set.eventfd]).toEqual(['done, done', 'done, done', 'done', 'done']);
  });

  it('sees when a trusted file was changed last, as this host tells it', () => {
    expect(plain['trusted time']).toBe(String(SOME_TIME));
  });

  it('says as much as the manifest wants', () => {
    expect(plainLog).toBe('');
    expect(setLog).toMatch(/getpgid\(0x3039/);
  });

  it('says all of it, also when nobody reads for a while', async () => {
    const vm = startVm(['set'], { cwd: work });
    await vm.seen(/set_robust_list/, 'stderr');
    vm.child.kill('SIGSTOP');
    await new Promise((resolve) => setTimeout(resolve, 500)); // what a busy machine does to the launcher
    vm.child.kill('SIGCONT');
    const { stderr } = await vm.ended;
    const begun = [...stderr.matchAll(/\] (\w+) \.\.\.$/gm)].map(([, call]) => call);
    const done = [...stderr.matchAll(/\] (\w+)\(.* = /gm)].map(([, call]) => call);
    expect(begun).toEqual([...done.filter((call) => call !== 'getpgid'), 'exit_group']); // one that is mocked is not begun
    expect(done).toContain('getpgid');
  });

  it('takes arguments and environment from trusted files', async () => {
    writeManifest(
      'files',
      '/facts',
      '',
      `fs.root.type = "tmpfs"
loader.argv_src_file = "file:${data}/args"
loader.env_src_file = "file:${data}/env"
tdx.file_check_policy = "allow_all_but_log"
`,
    );
    const { facts } = await run('files', ['-q']);
    expect(facts).toMatchObject({ argv: '<from a file> <second>', env: '<FROM_FILE=1> <SECOND=2>' });
    expect([plain.unmentioned, facts.unmentioned]).toEqual(['Permission denied', 'unmentioned|']);
  });

  it('lets the command line in where the manifest says so', async () => {
    // As on a host with systemd-resolved: a link that leads nowhere here. The guest gets a file in its place.
    mkdirSync(join(work, 'etc'));
    symlinkSync('../run/systemd/resolve/stub-resolv.conf', join(work, 'etc/resolv.conf'));
    writeManifest(
      'open',
      '/facts',
      `  { path = "/etc", uri = "file:${work}/etc" },\n`,
      `fs.root.type = "tmpfs"
loader.insecure__use_cmdline_argv = true
loader.insecure__use_host_env = true
sgx.allowed_files = ["file:${data}/allowed"]
sgx.file_check_policy = "allow_all_but_log"
tdx.enclave_size = "320M"
tdx.read_only = ["/data"]
sys.enable_extra_runtime_domain_names_conf = true
`,
      'sgx',
    );
    const { facts } = await run('open', ['-q', '-e', 'ASKED=for'], ['one', 'two']);
    expect(facts).toMatchObject({
      argv: '</facts> <one> <two>',
      env: expect.stringContaining('<ASKED=for>'),
      trusted: 'trusted|',
      unmentioned: 'unmentioned|',
      allowed: 'allowed|',
      'allowed, written': 'Read-only file system',
      resolver: set.resolver,
      memory: '320 MiB',
      'trusted time': String(SOME_TIME),
    });
    const refused = await runVm(['-q', 'plain', 'one'], '', { cwd: work });
    expect(refused).toMatchObject({ status: 64, stdout: '' });
    expect(refused.stderr).toContain('loader.insecure__use_cmdline_argv allows it');
  });

  it.each([
    [true, 0, 'delivered'],
    [false, 143, undefined],
  ])('gets SIGTERM only where the manifest says so: %s', async (allowed, status, signal) => {
    const more = `fs.root.type = "tmpfs"\nloader.env.WAIT = "1"\nsys.enable_sigterm_injection = ${allowed}\n`;
    writeManifest('signal', '/facts', '', more);
    const vm = startVm(['-q', 'signal'], { cwd: work });
    await vm.seen(/waiting: /);
    vm.child.kill('SIGTERM');
    const outcome = await vm.ended;
    expect({ status: outcome.status, signal: factsOf(outcome.stdout).signal }).toEqual({ status, signal });
  });

  it('publishes no port that the manifest does not list', async () => {
    writeManifest('ports', '/facts', '', 'fs.root.type = "tmpfs"\ntdx.net.publish = ["80/tcp", "53/udp"]\n');
    for (const port of ['7000:81', '7000:80/udp']) {
      const outcome = await runVm(['-q', '-p', port, 'ports'], '', { cwd: work });
      expect(outcome).toMatchObject({ status: 64, stdout: '' });
      expect(outcome.stderr).toMatch(
        /ports\.manifest\.tdx does not list guest port .* tdx\.net\.publish has 80\/tcp, 53\/udp/,
      );
    }
  });
});

it('leaves out no key that is said to be enforced', () => {
  const source = readFileSync(fileURLToPath(import.meta.url), 'utf8');
  const proven = [...SEEN.map(([key]) => key), ...Object.keys(OTHER_TESTS)];
  expect([...new Set(proven)].sort()).toEqual(Object.keys(ENFORCED_BY).sort());
  for (const where of Object.values(OTHER_TESTS))
    if (where.includes('/')) expect(existsSync(join(root, where)), where).toBe(true);
    else expect(source.split(where).length, where).toBeGreaterThan(2);
});

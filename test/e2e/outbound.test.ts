// SPDX-License-Identifier: Apache-2.0
//
// Where a program may connect is what tdx.net.outbound says: seen from a guest, through launcher and bridge, in a network
// namespace whose addresses are ours. Three machines: with a list, with "*:*", and with nothing.

import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Running, root } from './machine.js';

const NAME_SERVER = '192.0.2.53';
const SERVERS = {
  tcp: [
    ['192.0.2.1', 7001],
    ['192.0.2.1', 7002],
    ['192.0.2.2', 7001],
    ['192.0.2.3', 7009],
    ['127.0.0.1', 7003],
    ['2001:db8::1', 7001],
  ],
  udp: [
    ['192.0.2.1', 7001],
    ['192.0.2.1', 7002],
    ['192.0.2.2', 7001],
  ],
  dns: [NAME_SERVER, '192.0.2.3'],
};
const LISTED = ['192.0.2.1:7001', '192.0.2.1:7004', 'server.example:7009', '127.0.0.1:7003', '[2001:db8::1]:*'];
const MANIFESTS = { listed: LISTED, any: ['*:*'], none: [] } as const;
type Manifest = keyof typeof MANIFESTS;

/** What the name server answers: one A record, 192.0.2.3. */
const RECORD = /^(?:[0-9a-f]{4})?12348180.*0004c0000203$/;
const DENIED = 'Permission denied';
const OFF = 'Network is unreachable';

/** What the program asks for, and what comes of it under each manifest. */
const CASES: readonly (readonly [question: string, listed: string | RegExp, any: string | RegExp, none: string])[] = [
  ['tcp 192.0.2.1 7001', 'tcp 192.0.2.1 7001', 'tcp 192.0.2.1 7001', OFF],
  ['tcp 192.0.2.1 7002', DENIED, 'tcp 192.0.2.1 7002', OFF],
  ['tcp 192.0.2.2 7001', DENIED, 'tcp 192.0.2.2 7001', OFF],
  ['tcp 192.0.2.3 7009', 'tcp 192.0.2.3 7009', 'tcp 192.0.2.3 7009', OFF],
  ['tcp 192.0.2.1 7004', 'Connection refused', 'Connection refused', OFF],
  ['tcp 2001:db8::1 7001', 'tcp 2001:db8::1 7001', 'tcp 2001:db8::1 7001', OFF],
  ['tcp ::ffff:192.0.2.2 7001', DENIED, 'tcp 192.0.2.2 7001', OFF],
  ['tcp 10.0.2.2 7003', 'tcp 127.0.0.1 7003', DENIED, OFF],
  ['tcp 10.0.2.2 7001', DENIED, DENIED, OFF],
  ['udp 192.0.2.1 7001 this', 'udp 192.0.2.1 7001 heard this', 'udp 192.0.2.1 7001 heard this', OFF],
  ['udp 192.0.2.1 7002 this', DENIED, 'udp 192.0.2.1 7002 heard this', OFF],
  ['udp 192.0.2.2 7001 this', DENIED, 'udp 192.0.2.2 7001 heard this', OFF],
  ['udp-dns 10.0.2.3 53', RECORD, RECORD, OFF],
  ['tcp-dns 10.0.2.3 53', RECORD, RECORD, OFF],
  [`udp-dns ${NAME_SERVER} 53`, DENIED, RECORD, OFF],
];

const work = realpathSync(mkdtempSync(join(tmpdir(), 'gt-outbound-')));
const machines: Running[] = [];
afterAll(() => {
  for (const { child } of machines) child.kill('SIGTERM');
  rmSync(work, { recursive: true, force: true });
});

/** Gives the namespace its addresses and its name server, and starts the rest. */
const SET_UP = `set -e
ip link set lo up
for n in 1 2 3 53; do ip address add 192.0.2.$n/32 dev lo; done
ip address add 2001:db8::1/128 dev lo nodad
mount --bind "$0/resolv.conf" /etc/resolv.conf
exec "$@"`;

const canUnshare =
  existsSync('/usr/bin/gcc') &&
  existsSync('/etc/resolv.conf') &&
  spawnSync('unshare', ['--net', '--mount', 'ip', 'link', 'set', 'lo', 'up']).status === 0;

describe.skipIf(!canUnshare)('a program connects where tdx.net.outbound says', () => {
  const answers: Partial<Record<Manifest, ReadonlyMap<string, string>>> = {};

  async function ask(name: Manifest): Promise<void> {
    const launcher = [process.execPath, join(root, 'dist/cli/gramine-vm.js'), '-q', name];
    const servers = [process.execPath, join(root, 'test/fixtures/servers.js'), JSON.stringify(SERVERS), ...launcher];
    const inside = ['--net', '--mount', 'sh', '-c', SET_UP, work, ...servers];
    const vm = new Running(spawn('unshare', inside, { cwd: work }));
    machines.push(vm);
    vm.child.stdin.end(CASES.map(([question]) => `${question}\n`).join(''));
    const outcome = await vm.ended;
    expect(outcome, outcome.stderr).toMatchObject({ status: 0 });
    answers[name] = new Map(
      [...outcome.stdout.matchAll(/^(\S+ \S+ \d+): (.*)$/gm)].map(([, question = '', answer = '']) => [
        question,
        answer,
      ]),
    );
  }

  beforeAll(async () => {
    const program = join(work, 'dial');
    execFileSync('gcc', ['-static', '-O1', '-Wall', '-Werror', '-o', program, join(root, 'test/fixtures/dial.c')]);
    writeFileSync(join(work, 'resolv.conf'), `nameserver ${NAME_SERVER}\n`);
    for (const [name, outbound] of Object.entries(MANIFESTS)) {
      const text = `libos.entrypoint = "/dial"
fs.root.type = "tmpfs"
fs.mounts = [{ path = "/dial", uri = "file:${program}" }]
sgx.trusted_files = ["file:${program}"]
sgx.enclave_size = "256M"
tdx.net.outbound = ${JSON.stringify(outbound)}
`;
      writeFileSync(join(work, `${name}.template`), text);
      const tool = join(root, 'dist/cli/gramine-manifest.js');
      execFileSync(process.execPath, [tool, '-q', `${name}.template`, `${name}.manifest.tdx`], { cwd: work });
    }
    for (const name of Object.keys(MANIFESTS) as Manifest[]) await ask(name);
  }, 180_000);

  it.each(CASES)('%s', (question, listed, any, none) => {
    const key = question.split(' ', 3).join(' ');
    const matcher = (wanted: string | RegExp): unknown =>
      typeof wanted === 'string' ? wanted : expect.stringMatching(wanted);
    const got = { listed: answers.listed?.get(key), any: answers.any?.get(key), none: answers.none?.get(key) };
    expect(got).toEqual({ listed: matcher(listed), any: matcher(any), none });
  });
});

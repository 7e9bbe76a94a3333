// SPDX-License-Identifier: Apache-2.0
//
// What gramine-tdx-measure says beforehand is what the guest reports: for every example in a simulated TD, and, for a
// program that reads /dev/attestation itself, in an ordinary VM too. A change of one thing changes one register.

import { execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Running, root } from './machine.js';

const work = realpathSync(mkdtempSync(join(tmpdir(), 'gt-registers-')));
afterAll(() => rmSync(work, { recursive: true, force: true }));
const command = (name: string) => join(root, 'dist/cli', `${name}.js`);
const kernel = process.env.GRAMINE_TDX_KERNEL ?? join(root, 'kernel-bin/build/kernel.bfv');
const simulator = process.env.GRAMINE_TDX_SIMULATOR ?? join(root, 'kernel-bin/build/tdxsim.bin');

interface Registers {
  readonly mrtd?: readonly string[];
  readonly rtmr0: readonly string[];
  readonly rtmr1: readonly string[];
  readonly rtmr2: readonly string[];
}

interface Launch {
  readonly app: string;
  readonly args?: readonly string[];
  /** Given to both commands: what decides the measurement beside manifest and arguments. */
  readonly options?: readonly string[];
  readonly kernel?: string;
}

/** From files alone. */
function predict(cwd: string, launch: Launch): Registers {
  const out = join(cwd, 'reference.json');
  const words = [...(launch.options ?? []), '--kernel', launch.kernel ?? kernel, '--json', out, launch.app, '--'];
  execFileSync(process.execPath, [command('gramine-tdx-measure'), ...words, ...(launch.args ?? [])], {
    cwd,
    stdio: 'ignore',
  });
  return JSON.parse(readFileSync(out, 'utf8')) as Registers;
}

function start(cwd: string, launch: Launch, mode: readonly string[]): Running {
  const [name = '', ...words] = mode;
  const args = [command(name), ...words, ...(launch.options ?? []), launch.app, ...(launch.args ?? [])];
  return new Running(
    spawn(process.execPath, args, { cwd, env: { ...process.env, GRAMINE_TDX_KERNEL: launch.kernel ?? kernel } }),
  );
}

/** Renders a manifest, as an example's run script does. */
function render(cwd: string, app: string, template: string, definitions: readonly string[] = []): void {
  const words = ['-q', ...definitions.map((text) => `-D${text}`), template, `${app}.manifest.tdx`];
  execFileSync(process.execPath, [command('gramine-manifest'), ...words], { cwd });
}

describe.skipIf(!existsSync(simulator))('in a simulated TD, as predicted, are the registers of', () => {
  const SIMULATE = ['gramine-tdx', '--simulate', '--verbose'];
  interface Example extends Launch {
    readonly needs: string;
    readonly define?: (folder: string, cwd: string) => readonly string[];
    readonly prepare?: (folder: string, cwd: string) => void;
    /** A server is asked to end when this is seen. */
    readonly ready?: { readonly text: RegExp; readonly stream: 'stdout' | 'stderr' };
  }
  const EXAMPLES: Readonly<Record<string, Example>> = {
    redis: {
      app: 'redis-server',
      needs: '/usr/bin/redis-server',
      ready: { text: /Ready to accept connections/, stream: 'stdout' },
    },
    memcached: {
      app: 'memcached',
      needs: '/usr/bin/memcached',
      ready: { text: /server listening/, stream: 'stderr' },
    },
    sqlite: {
      app: 'sqlite3',
      needs: '/usr/bin/sqlite3',
      args: ['/data/shop.db', 'SELECT 1'],
      define: (_, cwd) => [`data=${join(cwd, 'data')}`],
      prepare: (_, cwd) => mkdirSync(join(cwd, 'data')),
    },
    python: {
      app: 'python3',
      needs: '/usr/bin/python3',
      define: (folder) => [
        `folder=${folder}`,
        `hashlib=${execFileSync('/usr/bin/python3', ['-c', 'import _hashlib; print(_hashlib.__file__, end="")'])}`,
      ],
    },
    nginx: {
      app: 'nginx',
      needs: '/usr/sbin/nginx',
      define: (folder) => [`folder=${folder}`],
      ready: { text: /start worker process /, stream: 'stderr' },
    },
    busybox: { app: 'busybox', needs: '/bin/busybox', define: (folder) => [`folder=${folder}`] },
    'attested-redis': {
      app: 'attested-redis',
      needs: '/usr/bin/redis-server',
      options: ['-e', `NONCE=${'5a'.repeat(32)}`],
      prepare: (folder, cwd) => {
        mkdirSync(join(cwd, 'out'));
        writeFileSync(join(cwd, 'start.sh'), readFileSync(join(folder, 'start.sh')));
      },
      ready: { text: /Ready to accept connections/, stream: 'stdout' },
    },
  };

  it('every example that there is', () => {
    const there = readdirSync(join(root, 'examples')).filter((name) => existsSync(join(root, 'examples', name, 'run')));
    expect(there.sort()).toEqual(Object.keys(EXAMPLES).sort());
  });

  for (const [name, example] of Object.entries(EXAMPLES)) {
    it.skipIf(!existsSync(example.needs))(name, { timeout: 180_000 }, async () => {
      const folder = join(root, 'examples', name);
      const cwd = join(work, name);
      mkdirSync(cwd);
      example.prepare?.(folder, cwd);
      render(cwd, example.app, join(folder, `${example.app}.manifest.template`), example.define?.(folder, cwd));
      const predicted = predict(cwd, example);
      const running = start(cwd, example, SIMULATE);
      running.child.stdin.end();
      if (example.ready !== undefined) {
        await running.seen(example.ready.text, example.ready.stream);
        running.child.kill('SIGTERM');
      }
      expectAsSaid(predicted, (await running.ended).stderr);
    });
  }

  it.skipIf(!existsSync('/bin/busybox'))('a program without a manifest', { timeout: 120_000 }, async () => {
    const cwd = join(work, 'zero-config');
    mkdirSync(join(cwd, 'volume'), { recursive: true });
    const options = ['-m', '256M', '-p', '0:80', '-v', './volume:/vol:rw', '--net', '*:53', '-w', '/vol', '-e', 'A=b'];
    const launch = { app: '/bin/busybox', args: ['true'], options };
    const running = start(cwd, launch, SIMULATE);
    running.child.stdin.end();
    expectAsSaid(predict(cwd, launch), (await running.ended).stderr);
  });
});

/** `stderr`: the launcher's, with what the simulator says at the end. */
function expectAsSaid(predicted: Registers, stderr: string): void {
  const said = Object.fromEntries(
    [...stderr.matchAll(/sim\.(mrtd|rtmr[0-3])=([0-9a-f]{96})/g)].map(([, register = '', value]) => [register, value]),
  );
  expect(predicted.mrtd).toContain(said.mrtd);
  expect([said.rtmr0, said.rtmr1, said.rtmr2, said.rtmr3]).toEqual([
    ...[predicted.rtmr0, predicted.rtmr1, predicted.rtmr2].map(([only]) => only),
    '0'.repeat(96),
  ]);
}

const SHOW = 'cd /dev/attestation; for i in 0 1 2 3; do xxd -p -c 48 rtmr$i; done';
const BASE: Launch = {
  app: 'busybox',
  args: ['sh', '-c', SHOW],
  options: ['-m', '256M', '-c', '1', '-e', 'SETTING=a'],
};
const template = (comment: string) => `libos.entrypoint = "/bin/busybox"
loader.insecure__use_cmdline_argv = true
loader.env.SETTING = { passthrough = true }
loader.env.WORD = "${comment}"
fs.root.type = "tmpfs"
fs.mounts = [ { path = "/bin/busybox", uri = "file:/bin/busybox" }, { path = "/bin/sh", uri = "file:/bin/busybox" } ]
sgx.trusted_files = ["file:/bin/busybox"]
`;

/** The kernel's image with one byte changed that nothing uses: in the padding before the page of the reset vector. */
function changedKernel(): string {
  const image = readFileSync(kernel);
  const at = image.length - 4096 - 1;
  if (image[at] !== 0) throw new Error('the kernel image has no padding');
  image[at] = 1;
  const path = join(work, 'changed.bfv');
  writeFileSync(path, image);
  return path;
}

describe.skipIf(!existsSync('/bin/busybox'))('one changed byte changes one register, as predicted:', () => {
  const folder = (name: string, word: string): string => {
    const cwd = join(work, `change-${name}`);
    mkdirSync(cwd);
    writeFileSync(join(cwd, 'template'), template(word));
    render(cwd, 'busybox', 'template');
    return cwd;
  };
  const CHANGES: readonly (readonly [what: string, register: keyof Registers, launch: () => [cwd: string, Launch]])[] =
    [
      ['of the kernel', 'mrtd', () => [folder('kernel', 'a'), { ...BASE, kernel: changedKernel() }]],
      ['of the manifest', 'rtmr2', () => [folder('manifest', 'b'), BASE]],
      ['of an argument', 'rtmr2', () => [folder('argument', 'a'), { ...BASE, args: ['sh', '-c', `${SHOW};`] }]],
      [
        'of the environment',
        'rtmr2',
        () => [folder('environment', 'a'), { ...BASE, options: ['-m', '256M', '-c', '1', '-e', 'SETTING=b'] }],
      ],
      [
        'of the number of vCPUs',
        'rtmr0',
        () => [folder('vcpus', 'a'), { ...BASE, options: ['-m', '256M', '-c', '2', '-e', 'SETTING=a'] }],
      ],
      [
        'of the memory',
        'rtmr0',
        () => [folder('memory', 'a'), { ...BASE, options: ['-m', '258M', '-c', '1', '-e', 'SETTING=a'] }],
      ],
    ];
  const MODES = [['gramine-vm', '-q'], ...(existsSync(simulator) ? [['gramine-tdx', '--simulate', '--verbose']] : [])];

  async function reported(cwd: string, launch: Launch, mode: readonly string[]): Promise<Partial<Registers>> {
    const running = start(cwd, launch, mode);
    running.child.stdin.end();
    const { status, stdout, stderr } = await running.ended;
    const lines = stdout.trim().split('\n');
    expect({ status, lines: lines.length }, stderr).toEqual({ status: 0, lines: 4 });
    const [rtmr0 = '', rtmr1 = '', rtmr2 = '', rtmr3] = lines;
    expect(rtmr3).toBe('0'.repeat(96));
    const mrtd = /sim\.mrtd=([0-9a-f]{96})/.exec(stderr)?.[1];
    return { rtmr0: [rtmr0], rtmr1: [rtmr1], rtmr2: [rtmr2], ...(mrtd === undefined ? {} : { mrtd: [mrtd] }) };
  }
  const only = (registers: Registers, said: Partial<Registers>) => {
    for (const name of ['mrtd', 'rtmr0', 'rtmr1', 'rtmr2'] as const) {
      if (said[name] !== undefined) expect(registers[name], name).toContain(said[name][0]);
    }
  };

  let base = '';
  let unchanged: Registers = { rtmr0: [], rtmr1: [], rtmr2: [] };
  beforeAll(() => {
    base = folder('nothing', 'a');
    unchanged = predict(base, BASE);
  });
  for (const mode of MODES) {
    it(`none, in ${mode[0]}`, { timeout: 120_000 }, async () => {
      only(unchanged, await reported(base, BASE, mode));
    });
    for (const [what, register, launch] of CHANGES) {
      it(`${what}, in ${mode[0]}`, { timeout: 120_000 }, async () => {
        const [cwd, changed] = launch();
        try {
          const predicted = predict(cwd, changed);
          for (const name of ['mrtd', 'rtmr0', 'rtmr1', 'rtmr2'] as const) {
            if (name === register) expect(predicted[name], name).not.toEqual(unchanged[name]);
            else expect(predicted[name], name).toEqual(unchanged[name]);
          }
          only(predicted, await reported(cwd, changed, mode));
        } finally {
          rmSync(cwd, { recursive: true });
        }
      });
    }
  }
});

// SPDX-License-Identifier: Apache-2.0
//
// gramine-tdx before a machine starts: what it finds missing on a host, the options that it takes, the commands that it
// makes. GRAMINE_TDX_NEW_QEMU: a QEMU of 10.1 or later, to which the command is given.

import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { type Machine, type MachineSpec, qemuArguments } from '../../src/launch/qemu.js';
import { SimulatorReport } from '../../src/launch/simulator-report.js';
import { parseQuoteService, parseRegister, type TdxHostFacts, tdxObstacles } from '../../src/launch/tdx-host.js';

const work = mkdtempSync(join(tmpdir(), 'gt-tdx-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

const good: TdxHostFacts = {
  cpuFlags: ['fpu', 'vmx', 'tdx_host_platform'],
  kvmIntel: true,
  kvmTdx: 'Y',
  kvmError: undefined,
  qemu: { path: '/usr/bin/qemu-system-x86_64', version: '10.1.0' },
  missingQuoteSocket: undefined,
};

describe('the host check', () => {
  it('finds nothing on a host that has all', () => {
    expect(tdxObstacles(good)).toEqual([]);
    expect(tdxObstacles({ ...good, qemu: { path: 'q', version: '11.0.2' } })).toEqual([]);
  });

  it.each<[string, Partial<TdxHostFacts>, RegExp]>([
    ['a CPU without TDX', { cpuFlags: ['vmx'] }, /^the CPU: .*tdx_host_platform.*BIOS/],
    ['no kvm_intel', { kvmIntel: false }, /^KVM: the module kvm_intel is not loaded.*modprobe kvm_intel tdx=1/],
    ['a KVM that knows no TDX', { kvmTdx: undefined }, /^KVM: .*knows no TDX.*6\.16/],
    ['TDX switched off in KVM', { kvmTdx: 'N' }, /^KVM: .*is N, expected Y\. Add kvm_intel\.tdx=1.*dmesg/],
    ['no /dev/kvm', { kvmError: 'ENOENT' }, /^KVM: there is no \/dev\/kvm/],
    ['no permission', { kvmError: 'EACCES' }, /^KVM: .*usermod -aG kvm/],
    ['no QEMU', { qemu: undefined }, /^QEMU: .*not on PATH.*10\.1/],
    ['an old QEMU', { qemu: { path: '/q', version: '10.0.13' } }, /^QEMU: \/q is version 10\.0\.13.*10\.1/],
    ['no quoting service', { missingQuoteSocket: '/run/qgs' }, /^quotes: there is no \/run\/qgs.*--quote-service none/],
  ])('names %s, and what to do', (_, facts, message) => {
    const found = tdxObstacles({ ...good, ...facts });
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(message);
  });

  it('names everything at once', () => {
    const none = { cpuFlags: [], kvmIntel: false, kvmTdx: undefined, kvmError: 'ENOENT', qemu: undefined } as const;
    expect(tdxObstacles({ ...none, missingQuoteSocket: '/s' })).toHaveLength(5);
  });
});

describe('options', () => {
  it('takes addresses of quoting services', () => {
    expect(parseQuoteService('vsock:2:4050')).toEqual({ type: 'vsock', cid: 2, port: 4050 });
    expect(parseQuoteService('unix:/run/q s')).toEqual({ type: 'unix', path: '/run/q s' });
    expect([parseQuoteService('auto'), parseQuoteService('none')]).toEqual(['auto', 'none']);
    for (const bad of ['', 'unix:', 'unix:relative', 'vsock:2', 'vsock:-1:2', 'vsock:4294967296:1', 'tcp:1:2']) {
      expect(() => parseQuoteService(bad)).toThrow(/expected unix:/);
    }
  });

  it('takes registers of 48 bytes in hexadecimal and nothing else', () => {
    const parse = parseRegister('--mrowner');
    expect(Buffer.from(parse('aB'.repeat(48))).toString('hex')).toBe('ab'.repeat(48));
    for (const bad of ['', 'ab'.repeat(47), 'ab'.repeat(49), 'zz'.repeat(48)])
      expect(() => parse(bad)).toThrow(/48 bytes/);
  });
});

const spec = (machine: Machine, more: Partial<MachineSpec> = {}): MachineSpec => ({
  machine,
  cpus: 2,
  memoryBytes: 1n << 30n,
  image: join(work, 'image'),
  macKeyFile: join(work, 'mac,key'),
  vsockSocket: join(work, 'vsock'),
  fsSocket: join(work, 'fs'),
  tty: true,
  ...more,
});
const register = Buffer.alloc(48, 7);
const td: Machine = {
  kind: 'td',
  identity: { debug: true, mrConfigId: register, mrOwner: register, mrOwnerConfig: register },
  quotes: { type: 'unix', path: '/run/a,b/qgs.socket' },
};

describe('QEMU’s command', () => {
  it('of a TD describes it in JSON', () => {
    const words = qemuArguments(spec(td));
    const object = words.find((word) => word.startsWith('{'));
    expect(JSON.parse(object ?? '')).toEqual({
      'qom-type': 'tdx-guest',
      id: 'tdx0',
      attributes: 0x10000001,
      mrconfigid: register.toString('base64'),
      mrowner: register.toString('base64'),
      mrownerconfig: register.toString('base64'),
      'quote-generation-socket': { type: 'unix', path: '/run/a,b/qgs.socket' },
    });
    const command = words.join(' ');
    expect(command).toContain('confidential-guest-support=tdx0');
    expect(command).toContain('kernel-irqchip=split');
    expect(command).toContain('memory-backend-memfd,id=mem,size=1024M,share=on');
    expect(command).not.toContain('sim-');
  });

  it('of a simulated TD hands image and options to the simulator, and is no TD to QEMU', () => {
    const identity = { debug: false, mrOwner: register };
    const words = qemuArguments(
      spec(
        { kind: 'simulated', identity, simulator: '/sim.bin', quotes: true, options: [['gpaw', '52']] },
        { memoryBytes: 4n << 30n },
      ),
    );
    expect(words).toContain('name=opt/gramine/sim-memory,string=4294967296');
    expect(words).toContain(`name=opt/gramine/sim-mac-key,file=${join(work, 'mac')},,key`);
    expect(words).toContain(`name=opt/gramine/sim-mrowner,string=${'07'.repeat(48)}`);
    expect(words).toContain('name=opt/gramine/sim-gpaw,string=52');
    expect(words[words.indexOf('-bios') + 1]).toBe('/sim.bin');
    expect(words[words.indexOf('-m') + 1]).toBe('10496M');
    expect(words.join(' ')).not.toContain('tdx-guest');
  });

  const newQemu = process.env.GRAMINE_TDX_NEW_QEMU;
  it.skipIf(newQemu === undefined || existsSync('/sys/module/kvm_intel/parameters/tdx'))(
    'of a TD is taken by a QEMU that knows TDX, as far as this host goes',
    async () => {
      writeFileSync(join(work, 'image'), Buffer.alloc(65536, 0xf4));
      const servers = ['vsock', 'fs'].map((name) => createServer().listen(join(work, name)));
      await Promise.all(servers.map((server) => once(server, 'listening')));
      const run = (words: readonly string[]) =>
        spawnSync(newQemu ?? '', words, {
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', 'pipe'],
        });
      const vsock = { ...td, quotes: { type: 'vsock', cid: 2, port: 4050 } } as const;
      const bare = { ...td, identity: { debug: false }, quotes: undefined } as const;
      for (const machine of [td, vsock, bare]) {
        expect(run(qemuArguments(spec(machine))).stderr).toMatch(
          /-accel kvm: .*(TDX not supported|No such file|failed to)/,
        );
      }
      const misspelt = qemuArguments(spec(td)).map((word) => word.replace('mrowner"', 'mrowned"'));
      expect(run(misspelt).stderr).toContain("Parameter 'mrowned' is unexpected");
      for (const server of servers) server.close();
    },
  );
});

describe('the simulator’s report', () => {
  it('keeps values and says why a TD ended', () => {
    const stream = new PassThrough();
    const lines: string[] = [];
    const report = new SimulatorReport(stream, (line) => void lines.push(line));
    stream.write('sim.mrtd=00\r\nsim.sto');
    expect(report.end).toBeUndefined();
    stream.write('p=a private page was touched\nnot ours\n');
    expect(report.values.get('mrtd')).toBe('00');
    expect(report.end).toBe('the simulated TDX module ended the TD: a private page was touched');
    expect(lines).toEqual(['sim.mrtd=00', 'sim.stop=a private page was touched', 'not ours']);
  });
});

describe('gramine-tdx', () => {
  const command = fileURLToPath(new URL('../../dist/cli/gramine-tdx.js', import.meta.url));
  const tdx = (...args: string[]) => spawnSync(process.execPath, [command, ...args], { encoding: 'utf8' });

  it.skipIf(existsSync('/sys/module/kvm_intel/parameters/tdx'))('says what a host lacks, and ends with 80', () => {
    const { status, stderr } = tdx('-q', '/bin/true');
    expect(status).toBe(80);
    expect(stderr).toMatch(/^gramine-tdx: this host cannot run a TD:\n {2}the CPU: /);
    expect(stderr).toContain('--simulate runs the same image');
  });

  it.each([
    [['--collateral', 'x', '/bin/true'], '--collateral is for --simulate'],
    [['--simulator-option', 'seed=1', '/bin/true'], '--simulator-option is for --simulate'],
    [['--simulate', '--quote-service', 'vsock:2:4050', '/bin/true'], 'on unix sockets only'],
    [['--simulate', '--quote-service', 'none', '--collateral', 'x', '/bin/true'], 'of a simulated TD’s own'],
    [['--simulate', '--quote-service', 'unix:/nowhere', '/bin/true'], 'unix:/nowhere: it does not exist'],
    [['--simulate', '--quote-version', '6', '/bin/true'], 'quote-version'],
    [['--mrconfigid', '12', '/bin/true'], '--mrconfigid 12: expected 48 bytes'],
    [['--accel', 'kvm', '/bin/true'], "unknown option '--accel'"],
    [['--completion', 'fish'], 'expected bash or zsh'],
  ])('refuses %j', (args, message) => {
    const { status, stderr, stdout } = tdx(...args);
    expect({ status, stdout }).toEqual({ status: 64, stdout: '' });
    expect(stderr).toContain(message);
    expect(stderr).not.toContain('    at ');
  });

  it('completes its options in bash and zsh', () => {
    for (const shell of ['bash', 'zsh']) {
      const { status, stdout } = tdx('--completion', shell);
      expect(status).toBe(0);
      expect(stdout).toContain('--simulate');
      expect(spawnSync('bash', ['-n'], { input: shell === 'bash' ? stdout : '' }).status).toBe(0);
    }
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// The kernel in a simulated TD: the same image in every kind of TD, what its boot costs, and each thing that it refuses to
// run with: the message on the console, the same in ReportFatalError, and the exit status.

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { computeMrtd } from '../../src/measure/index.js';
import { root, runHere } from './machine.js';
import { bootTd, canSimulate, type TdOptions, type TdOutcome } from './td-machine.js';

const DEBUG = 1;
const SEPT_VE_DISABLE = 1 << 28;
const ENDED = /\/nothing: cannot be executed/;

function expectOrderly(td: TdOutcome): void {
  expect(td.console).toMatch(ENDED);
  expect(td.sim.get('stop')).toBeUndefined();
  expect(td.sim.get('fatal.message')).toBeUndefined();
  expect(td.status).toBe(0);
}

function expectRefusal(td: TdOutcome, message: RegExp): void {
  expect(td.console).toMatch(message);
  // The first 64 bytes of the same line.
  const reported = td.sim.get('fatal.message') ?? '';
  expect(reported).not.toBe('');
  expect(td.console).toContain(reported);
  expect(td.sim.get('fatal.code')).toBe('0');
  expect(td.console).not.toMatch(ENDED);
  expect(td.status).toBe(1);
}

const number = (td: TdOutcome, name: string) => Number(td.sim.get(name) ?? 0);

describe.skipIf(!canSimulate)('a simulated TD', () => {
  const kinds: [string, TdOptions][] = [
    ['one vCPU, GPAW 48', {}],
    ['two vCPUs, GPAW 52', { cpus: 2, simulator: { gpaw: 52 } }],
    ['four vCPUs, GPAW 48, 1 GiB', { cpus: 4, memoryMib: 1024 }],
    ['four vCPUs, GPAW 52, 6 GiB', { cpus: 4, memoryMib: 6144, simulator: { gpaw: 52 } }],
    ['a debug TD', { simulator: { attributes: DEBUG | SEPT_VE_DISABLE } }],
    ['a debug TD with #VE on pending pages', { simulator: { attributes: DEBUG } }],
  ];
  it.each(kinds)('boots and ends: %s', async (_name, options) => {
    const td = await bootTd(options);
    expectOrderly(td);
    expect(td.sim.get('mrtd')).toBe(Buffer.from(computeMrtd(td.image, { order: 'page' })).toString('hex'));
  });

  it('accepts no more of 16 GiB at boot than of 1 GiB, and asks the host no more often', async () => {
    const [small, large] = [await bootTd({ memoryMib: 1024 }), await bootTd({ memoryMib: 16384 })];
    expectOrderly(small);
    expectOrderly(large);
    expect(number(large, 'module.accept_2m')).toBe(number(small, 'module.accept_2m'));
    expect(number(small, 'module.accept_2m')).toBeLessThan(10);
    expect(number(large, 'module.accept_4k')).toBe(0);
    expect(number(large, 'exits.total')).toBeLessThan(number(small, 'exits.total') + 50);
  });

  it('accepts single pages where the host gives nothing larger', async () => {
    const td = await bootTd({ simulator: { pages: 4096 } });
    expectOrderly(td);
    expect(number(td, 'module.accept_4k')).toBeGreaterThan(511);
    expect(number(td, 'module.accept_4k') % 512).toBe(0);
  });

  it('takes no #VE of its own, and needs no exit for a quiet console', async () => {
    const td = await bootTd({ cpus: 2 });
    expectOrderly(td);
    for (const reason of ['cpuid', 'io', 'msr', 'hlt', 'ept_violation', 'other']) {
      expect(number(td, `ve.${reason}`), reason).toBe(0);
    }
    expect(number(td, 'exits.cpuid')).toBe(0);
    const characters = td.console.length;
    expect(number(td, 'exits.io')).toBeLessThan(20 + characters * 1.1);
  });
});

describe.skipIf(!canSimulate)('a simulated TD refuses to run', () => {
  const withWord = (from: string, to: string) => (record: Buffer) =>
    Buffer.from(record.toString('latin1').replace(from, to), 'latin1');
  const cases: [string, TdOptions, RegExp][] = [
    [
      'when the host may inject #VE',
      { simulator: { attributes: 0 } },
      /this TD lets the host inject #VE: start it with/,
    ],
    ['with more vCPUs than are measured', { cpus: 1, given: { cpus: 2 } }, /1 vCPUs are measured, the TD has 2/],
    ['with fewer vCPUs than are measured', { cpus: 2, given: { cpus: 1 } }, /2 vCPUs are measured, the TD has 1/],
    [
      'with less memory than is measured',
      { memoryMib: 512, given: { memoryMib: 256 } },
      /memory 0\.\.0x20000000 is measured, the host gives 0\.\.0x10000000/,
    ],
    [
      'with more memory than is measured',
      { memoryMib: 256, given: { memoryMib: 512 } },
      /memory 0\.\.0x10000000 is measured, the host gives 0\.\.0x20000000/,
    ],
    [
      'with memory above 4 GiB that is not measured',
      { memoryMib: 2048, given: { memoryMib: 4096 } },
      /the host gives memory 0x100000000\.\.0x180000000, which is not measured/,
    ],
    ['without RDRAND', { cpuFlags: ['-rdrand'] }, /panic: this CPU has no RDRAND, and the host is no source/],
    ['with a policy that does not parse', { tamper: withWord('entrypoint', 'entryPoint') }, /policy/],
    [
      'with a record that is not CBOR',
      { tamper: (record) => record.fill(0xff, 1, 4) },
      /panic: the launch record is not valid/,
    ],
    ['with an empty record', { tamper: () => Buffer.alloc(0) }, /panic: the launch record is not valid/],
    [
      'with a device that has no interrupts',
      { devices: ['-device', 'virtio-serial-pci,disable-legacy=on,vectors=0'] },
      /virtio device 1 \(type 3\) lies at boot: /,
    ],
  ];
  it.each(cases)('%s', async (_name, options, message) => {
    expectRefusal(await bootTd(options), message);
  });

  it('with the message and exit status 70 of gramine-tdx', async () => {
    const launcher = join(root, 'dist/cli/gramine-tdx.js');
    const args = ['--simulate', '-q', '--simulator-option', 'attributes=0', 'busybox', 'echo', 'hi'];
    const { status, stdout, stderr } = await runHere(process.execPath, [launcher, ...args]);
    expect({ status, stdout }).toEqual({ status: 70, stdout: '' });
    expect(stderr).toMatch(
      /^gramine-tdx: this TD lets the host inject #VE: start it with SEPT_VE_DISABLE \(attributes bit 28\)$/m,
    );
    expect(stderr).toMatch(/the kernel reported a fatal error: this TD lets the host inject #VE/);
  });
});

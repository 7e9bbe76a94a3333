// SPDX-License-Identifier: Apache-2.0
//
// The TDX simulator, checked from inside by the test TD of kernel-bin/test/sim: every `ok`/`FAIL` line is one of its
// checks. What a TD dies of is checked from outside, by what the simulator says.

import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { predictMrtd, toHex } from '../../src/measure/index.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const simulator = process.env.GRAMINE_TDX_SIMULATOR ?? join(root, 'kernel-bin/build/tdxsim.bin');
const MODE_FROM_END = 8;

interface Run {
  readonly checks: readonly string[];
  readonly console: string;
  readonly said: ReadonlyMap<string, string>;
  readonly text: string;
}
interface Setup {
  /** In place of the test TD. */
  readonly image?: string;
  /** Ends the run when the console shows it. */
  readonly until?: RegExp;
  readonly mode?: number;
  readonly cpus?: number;
  readonly qemu?: readonly string[];
  readonly options?: Readonly<Record<string, string>>;
}

describe.skipIf(!existsSync(simulator))('tdxsim', () => {
  let folder = '';
  let payload = Buffer.alloc(0);
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'gramine-sim-'));
    execFileSync(join(root, 'kernel-bin/test/sim/build.sh'), [folder]);
    payload = readFileSync(join(folder, 'payload.img'));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  function testImage(mode: number): string {
    const image = join(folder, `mode${mode}.img`);
    const bytes = Buffer.from(payload);
    bytes.writeUInt32LE(mode, bytes.length - MODE_FROM_END);
    writeFileSync(image, bytes);
    return image;
  }

  /** Runs the test TD to its end. */
  async function run({
    mode = 0,
    cpus = 1,
    qemu = [],
    options = {},
    image = testImage(mode),
    until,
  }: Setup): Promise<Run> {
    const text = join(mkdtempSync(join(folder, 'run-')), 'text');
    const all = { memory: String(256 << 20), ...options };
    const child = spawn(
      'qemu-system-x86_64',
      [
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
        ...['-machine', 'q35', '-m', '6400M', '-smp', String(cpus)],
        ...['-accel', 'tcg,thread=multi', '-cpu', 'max,phys-bits=52,vendor=GenuineIntel'],
        ...['-bios', simulator, '-serial', 'stdio'],
        ...['-fw_cfg', `name=opt/gramine/sim-image,file=${image}`],
        ...Object.entries(all).flatMap(([name, value]) => ['-fw_cfg', `name=opt/gramine/sim-${name},string=${value}`]),
        ...['-chardev', `file,id=text,path=${text}`, '-device', 'isa-serial,chardev=text,iobase=0x3e8,irq=5,index=2'],
        ...qemu,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    let console = '';
    child.stdout.on('data', (data: Buffer) => {
      console += data.toString('latin1');
      if (until?.test(console)) child.kill();
    });
    await new Promise((resolve) => child.once('close', resolve));
    const said = new Map<string, string>();
    const words = readFileSync(text, 'latin1');
    for (const line of words.split('\n')) {
      const at = line.indexOf('=');
      if (at > 0) said.set(line.slice(0, at), line.slice(at + 1));
    }
    return { checks: console.split('\n').filter((line) => /^(ok|FAIL) /.test(line)), console, said, text: words };
  }

  function expectAllGood(result: Run, atLeast: number): void {
    expect(result.checks.filter((line) => !line.startsWith('ok '))).toEqual([]);
    expect(result.console).toMatch(/^done$/m);
    expect(result.checks.length).toBeGreaterThanOrEqual(atLeast);
    expect(result.said.get('sim.end')).toBe('0');
  }

  const kinds: [string, Record<string, string>, number][] = [
    ['2 MiB pages, SEPT_VE_DISABLE', {}, 120],
    ['2 MiB pages, pending pages raise #VE', { attributes: '0' }, 125],
    ['4 KiB pages', { pages: '4096' }, 118],
    ['debug', { debug: '1' }, 120],
  ];
  for (const gpaw of ['48', '52']) {
    for (const cpus of [1, 2, 4]) {
      for (const [name, options, atLeast] of kinds) {
        if (cpus === 4 && name === 'debug') continue;
        it(`the ABI at GPAW ${gpaw}, ${cpus} vCPUs, ${name}`, async () => {
          expectAllGood(await run({ cpus, options: { gpaw, ...options } }), atLeast);
        });
      }
    }
  }

  it('a TD of 2200 MiB has its memory in one piece', async () => {
    expectAllGood(await run({ options: { memory: String(2200 * 2 ** 20) } }), 120);
  });

  it('XFAM without AVX', async () => {
    expectAllGood(await run({ options: { xfam: '3' } }), 120);
  });

  it('MRTD is what gramine-tdx-measure computes', async () => {
    const result = await run({});
    expect(result.said.get('sim.mrtd')).toBe(toHex(predictMrtd(payload).page));
  });

  const deaths: [number, string, RegExp, string, Record<string, string>?][] = [
    [2, 'access to an unaccepted page', /^access to GPA 0x1000000, which the TD has not accepted/, '2'],
    [3, 'shared access without MapGPA', /^shared access to GPA 0x1000000 without MapGPA/, '2'],
    [4, 'private access where no memory is', /^private access to GPA 0xc0000000, where no memory is/, '2'],
    [5, 'triple fault', /^triple fault/, '2'],
    [7, 'stale translation on another vCPU', /^private access to GPA 0x1000000, which is shared/, '2'],
    [8, 'ACCEPT where no memory is', /^TDG.MEM.PAGE.ACCEPT of GPA 0xc0000000/, '2'],
    [12, 'XCR0 beyond XFAM', /^XCR0 0x7, XFAM 0x3/, '2', { xfam: '3' }],
  ];
  for (const [mode, name, message, end, options = {}] of deaths) {
    it(`ends the TD: ${name}`, async () => {
      const result = await run({ mode, cpus: 2, options });
      expect(result.said.get('sim.stop')).toMatch(message);
      expect(result.said.get('sim.end')).toBe(end);
      expect(result.console).not.toContain('FAIL');
    });
  }

  it('reports a fatal error of the TD', async () => {
    const { said } = await run({ mode: 6 });
    expect(said.get('sim.fatal.code')).toBe('0x42');
    expect(said.get('sim.fatal.message')).toBe('fatal error test');
    expect(said.get('sim.end')).toBe('1');
  });

  it('GetQuote without a quote service is unavailable, and is notified', async () => {
    const result = await run({ mode: 1 });
    expectAllGood(result, 9);
    expect(result.checks).toContain('ok no quote service: unavailable');
  });

  it('GetQuote speaks to a quote service as QEMU does', async () => {
    const requests: Buffer[] = [];
    const server = createServer((socket) => {
      let data = Buffer.alloc(0);
      socket.on('data', (chunk) => {
        data = Buffer.concat([data, chunk]);
        if (data.length < 4 || data.length < 4 + data.readUInt32BE(0)) return;
        requests.push(data);
        const quote = Buffer.alloc(3000, 0x5a);
        quote.writeUInt16LE(4, 0);
        const body = Buffer.alloc(24 + quote.length);
        body.writeUInt16LE(1, 0);
        body.writeUInt32LE(1, 4);
        body.writeUInt32LE(body.length, 8);
        body.writeUInt32LE(quote.length, 20);
        quote.copy(body, 24);
        const size = Buffer.alloc(4);
        size.writeUInt32BE(body.length);
        socket.write(Buffer.concat([size, body]));
      });
    });
    const path = join(folder, 'qgs.sock');
    await new Promise<void>((resolve) => server.listen(path, resolve));
    try {
      const qemu = [
        '-chardev',
        `socket,id=qgs,path=${path}`,
        '-device',
        'isa-serial,chardev=qgs,iobase=0x2f8,irq=3,index=1',
      ];
      const result = await run({ mode: 1, qemu });
      expectAllGood(result, 10);
      expect(result.checks).toContain('ok the quote is what the service sent');
      expect(requests.length).toBe(1);
      expect(requests[0]?.length).toBe(4 + 24 + 1024);
      expect(requests[0]?.[28]).toBe(0x81); // REPORTTYPE of the TDREPORT
    } finally {
      server.close();
    }
  });

  it('finds a secret that the TD gives away, and none that it keeps', async () => {
    const options = { secret: 'a secret that must not get out!!' };
    const found = async (mode: number) => (await run({ mode, options })).said.get('sim.secret');
    expect(await found(9)).toMatch(/^in shared memory at 0x1001000$/);
    expect(await found(11)).toBe('not found');
    const { text } = await run({ mode: 10, options });
    expect(text).toContain('sim.secret=in a register of a TDVMCALL');
  });

  // Firmware that others wrote for real TDX, from Debian's package ovmf: #VE, MMIO, MapGPA and timers of its own making.
  const ovmf = process.env.GRAMINE_TDX_OVMF ?? '/usr/share/qemu/OVMF.fd';
  it.skipIf(!existsSync(ovmf))('boots OVMF to its shell', { timeout: 600_000 }, async () => {
    const options = { memory: String(2048 * 2 ** 20), fwcfg: '1' };
    const result = await run({ image: ovmf, options, until: /UEFI Interactive Shell|>>Start PXE|Press ESC/ });
    expect(result.console).toMatch(/BdsDxe: starting Boot0001 "EFI Internal Shell"/);
    expect(result.said.get('sim.mrtd')).toBe(toHex(predictMrtd(readFileSync(ovmf)).page));
  });

  // A Linux with CONFIG_INTEL_TDX_GUEST, such as Debian's 6.12: its panic for want of a root file system is the end.
  const linux = process.env.GRAMINE_TDX_LINUX;
  it.skipIf(!linux || !existsSync(ovmf))('boots Linux as a TD', { timeout: 900_000 }, async () => {
    const options = { memory: String(2048 * 2 ** 20), fwcfg: '1' };
    const qemu = ['-kernel', linux ?? '', '-append', 'console=ttyS0 earlyprintk=ttyS0'];
    const result = await run({ image: ovmf, qemu, options, until: /Unable to mount root fs|end Kernel panic/ });
    expect(result.console).toContain('tdx: Guest detected');
    expect(result.console).toContain('VFS: ');
    expect(result.said.get('sim.stop')).toBeUndefined();
  });

  it('refuses parameters that make no TD', async () => {
    const bad: [Record<string, string>, RegExp][] = [
      [{ memory: String(2 ** 23) }, /at least 16 MiB/],
      [{ memory: 'much' }, /is not a number/],
      [{ gpaw: '50' }, /48 or 52, got 50/],
      [{ memory: String(4 * 2 ** 30) }, /-m is too small/],
    ];
    for (const [options, message] of bad) {
      const { said } = await run({ options });
      expect(said.get('sim.bug')).toMatch(message);
      expect(said.get('sim.end')).toBe('3');
    }
  });
});

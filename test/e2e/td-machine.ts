// SPDX-License-Identifier: Apache-2.0
//
// A launch image in a simulated TD without the launcher, so that the host can be anything: other resources than the
// measured ones, another CPU, strange devices. kernel-bin/sim/README.md says what the simulator takes and prints.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CFV_BYTES, cfvHead, encodeRecord } from '../../src/launch/record.js';
import { compilePolicy } from '../../src/manifest/index.js';
import { root } from './machine.js';

const native = (name: string) => join(root, 'kernel-bin/build', name);
const KERNEL = process.env.GRAMINE_TDX_KERNEL ?? native('kernel.bfv');
const SIMULATOR = process.env.GRAMINE_TDX_SIMULATOR ?? native('tdxsim.bin');
export const canSimulate = existsSync(KERNEL) && existsSync(SIMULATOR);
const MIB = 1n << 20n;
/** QEMU's exit status through isa-debug-exit is 2 n + 1 for the simulator's status n. */
const DEBUG_EXIT = ['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'];
const TIME_LIMIT_MS = 120_000;

export interface TdOptions {
  /** Measured, and given unless `given` says otherwise. */
  readonly cpus?: number;
  readonly memoryMib?: number;
  readonly given?: { readonly cpus?: number; readonly memoryMib?: number };
  /** `opt/gramine/sim-NAME`. */
  readonly simulator?: Readonly<Record<string, string | number>>;
  /** QEMU's CPU flags, such as `-rdrand`. */
  readonly cpuFlags?: readonly string[];
  readonly devices?: readonly string[];
  readonly logLevel?: number;
  /** Changes the record's bytes. */
  readonly tamper?: (record: Buffer) => Buffer;
}

export interface TdOutcome {
  /** Of the simulator: 0 power-off, 1 fatal error, 2 the TD died, 3 a bug. */
  readonly status: number;
  readonly console: string;
  readonly sim: ReadonlyMap<string, string>;
  readonly image: Uint8Array;
}

/** Boots until the TD is over. The policy's program does not exist: an orderly run ends with status 0 and says so. */
export async function bootTd(options: TdOptions = {}): Promise<TdOutcome> {
  const { cpus = 1, memoryMib = 256, given = {}, simulator = {}, cpuFlags = [], devices = [] } = options;
  const work = mkdtempSync(join(tmpdir(), 'gt-td-'));
  try {
    const record = Buffer.from(
      encodeRecord({
        policy: compilePolicy({ libos: { entrypoint: '/nothing' }, fs: { root: { type: 'tmpfs' } } }),
        invocation: { argv: [], env: [] },
        vm: { cpus, memoryBytes: BigInt(memoryMib) * MIB },
        host: { timeNs: 0n, tty: false, rows: 24, cols: 80, logLevel: options.logLevel ?? 2 },
      }),
    );
    const image = Buffer.concat([Buffer.alloc(CFV_BYTES), readFileSync(KERNEL)]);
    image.set(cfvHead(options.tamper?.(record) ?? record));
    const file = (name: string) => join(work, name);
    writeFileSync(file('image'), image);
    const tdMib = given.memoryMib ?? memoryMib;
    const size = `${tdMib > 2048 ? 2304 + 2 * tdMib : 6400}M`;
    const settings = { ...simulator, memory: BigInt(tdMib) * MIB };
    const args = [
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-machine', 'q35,memory-backend=mem'],
      ...['-object', `memory-backend-memfd,id=mem,size=${size},share=on`, '-m', size],
      ...['-accel', 'tcg,thread=multi', '-smp', String(given.cpus ?? cpus)],
      ...['-cpu', ['max', 'phys-bits=52', 'vendor=GenuineIntel', '-erms', '-fsrm', ...cpuFlags].join(',')],
      ...['-bios', SIMULATOR, '-fw_cfg', `name=opt/gramine/sim-image,file=${file('image')}`],
      ...Object.entries(settings).flatMap(([k, v]) => ['-fw_cfg', `name=opt/gramine/sim-${k},string=${v}`]),
      ...['-serial', `file:${file('console')}`, '-chardev', `file,id=sim,path=${file('sim')}`],
      ...['-device', 'isa-serial,chardev=sim,iobase=0x3e8,irq=5,index=2'],
      ...DEBUG_EXIT,
      ...devices,
    ];
    const child = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let errors = '';
    child.stderr.on('data', (data: Buffer) => {
      errors += data.toString();
    });
    const limit = setTimeout(() => child.kill('SIGKILL'), TIME_LIMIT_MS);
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    clearTimeout(limit);
    const text = (name: string) => (existsSync(file(name)) ? readFileSync(file(name), 'latin1') : '');
    if (code === null || code % 2 === 0) {
      throw new Error(`QEMU ended with ${code}:\n${errors}\n${text('console')}\n${text('sim')}`);
    }
    const lines = [...text('sim').matchAll(/^sim\.([a-z0-9_.]+)=(.*?)\r?$/gm)];
    const sim = new Map(lines.map((m) => [m[1] ?? '', m[2] ?? '']));
    return { status: (code - 1) / 2, console: text('console'), sim, image };
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

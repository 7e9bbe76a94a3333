// SPDX-License-Identifier: Apache-2.0
//
// Firmware and kernel of somebody else, measured by themselves: Debian 13's OVMF starts Debian 13's Linux in the simulated
// TD, and every event of its log is the one predicted from the files (the ACPI tables, which QEMU makes, from the log).
//   MEASURED_OVMF=OVMF.fd MEASURED_LINUX=vmlinuz npx vitest run test/measure/simulated-ovmf.test.ts

import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import {
  bootOption,
  diffEvents,
  type EventLog,
  eventsAgree,
  FIRMWARE_APPLICATIONS,
  MeasureError,
  ovmfEvents,
  parseEventLog,
  registersOf,
  replayEventLog,
  toHex,
} from '../../src/measure/index.js';
import { pattern } from './firmware.js';

const simulator =
  process.env.GRAMINE_TDX_SIMULATOR ?? fileURLToPath(new URL('../../kernel-bin/build/tdxsim.bin', import.meta.url));
const { MEASURED_OVMF: ovmf = '', MEASURED_LINUX: linux = '' } = process.env;
const have = [simulator, ovmf, linux].every((path) => existsSync(path));
const MEMORY_BYTES = 2n << 30n;
const LOG_BYTES = 65536;
const dir = have ? mkdtempSync(join(tmpdir(), 'gt-ovmf-')) : '';
afterAll(() => have && rmSync(dir, { recursive: true, force: true }));
const file = (name: string) => join(dir, name);

interface Found {
  readonly registers: readonly string[];
  readonly log: EventLog;
}

/** Boots until Linux speaks, asks the simulator for the registers, and takes the log out of the machine's memory. */
async function boot(commandLine: string): Promise<Found> {
  const args = [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-m', '6400M', '-bios', simulator],
    ...['-machine', 'q35,memory-backend=mem'],
    ...['-object', `memory-backend-file,id=mem,size=6400M,share=on,mem-path=${file('ram')}`],
    ...['-accel', 'tcg,thread=multi', '-cpu', 'max,phys-bits=52,vendor=GenuineIntel'],
    ...['-fw_cfg', `name=opt/gramine/sim-image,file=${ovmf}`, '-fw_cfg', 'name=opt/gramine/sim-fwcfg,string=1'],
    ...['-fw_cfg', `name=opt/gramine/sim-memory,string=${MEMORY_BYTES}`],
    ...['-kernel', linux, '-initrd', file('initrd'), '-append', commandLine, '-serial', 'stdio'],
    ...['-chardev', `socket,id=text,path=${file('text')},server=on,wait=off`],
    ...['-device', 'isa-serial,chardev=text,iobase=0x3e8,irq=5,index=2'],
  ];
  const qemu = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const closed = new Promise((resolve) => qemu.once('close', resolve));
  try {
    let console = '';
    await new Promise<void>((resolve, reject) => {
      qemu.once('close', () => reject(new Error(`the machine ended: ${console.slice(-500)}`)));
      qemu.stdout.on('data', (data: Buffer) => {
        console += data.toString('latin1');
        if (/Linux version /.test(console)) resolve();
      });
    });
    const said = await new Promise<string>((resolve, reject) => {
      let text = '';
      const socket = connect(file('text'), () => socket.write('s')).once('error', reject);
      socket.on('data', (data) => {
        text += data.toString('latin1');
        if (/sim\.rtmr3=[0-9a-f]{96}\n/.test(text)) resolve(text);
      });
    });
    const value = (name: string) => new RegExp(`sim\\.${name}=([0-9a-f]{96})`).exec(said)?.[1] ?? '';
    const registers = [0, 1, 2, 3].map((i) => value(`rtmr${i}`));
    qemu.kill('SIGSTOP');
    const logs = logsInMemory();
    const log = logs.find((l) => replayEventLog(l).map(toHex).join() === registers.join());
    if (!log) throw new Error(`${logs.length} logs in memory, none replays to ${registers.join(' ')}`);
    return { registers, log };
  } finally {
    qemu.kill('SIGKILL');
    await closed;
  }
}

/** Every event log that lies in the machine's memory, whole. */
function logsInMemory(): EventLog[] {
  const logs: EventLog[] = [];
  const fd = openSync(file('ram'), 'r');
  const block = Buffer.alloc(64 << 20);
  const record = Buffer.alloc(LOG_BYTES);
  for (let at = 0; ; ) {
    const n = readSync(fd, block, 0, block.length, at);
    for (
      let i = block.subarray(0, n).indexOf('Spec ID Event03\0');
      i >= 0;
      i = block.subarray(0, n).indexOf('Spec ID Event03\0', i + 1)
    ) {
      readSync(fd, record, 0, LOG_BYTES, at + i - 32);
      try {
        logs.push(parseEventLog(Uint8Array.from(record)));
      } catch (error) {
        if (!(error instanceof MeasureError)) throw error; // the text of the constant, or an old copy
      }
    }
    if (n < block.length) break;
    at += n - 64;
  }
  closeSync(fd);
  return logs;
}

describe.skipIf(!have)('Debian’s OVMF and Linux in the simulated TD', () => {
  it('measure what was predicted, event by event', { timeout: 900_000 }, async () => {
    const commandLine = 'console=ttyS0 earlyprintk=serial quiet=no';
    const initrd = pattern(100_000);
    writeFileSync(file('initrd'), initrd);
    const found = await boot(commandLine);
    const events = ovmfEvents({
      firmware: new Uint8Array(readFileSync(ovmf)),
      memoryBytes: MEMORY_BYTES,
      layout: 'qemu',
      bootSeparator: 'rtmr1',
      bootOptions: [bootOption(FIRMWARE_APPLICATIONS.UiApp)],
      direct: {
        kernel: new Uint8Array(readFileSync(linux)),
        initrd,
        commandLine,
        initrdArgument: 'append',
        patchHeader: true,
      },
      log: found.log,
    });
    expect(events.filter((e) => e.source !== 'computed').map((e) => e.what)).toEqual([
      'ACPI etc/table-loader',
      'ACPI etc/acpi/rsdp',
      'ACPI etc/acpi/tables',
    ]);
    const differences = diffEvents(events, found.log).filter((d) => d.kind !== 'same');
    expect(differences).toEqual([]);
    expect(eventsAgree(diffEvents(events, found.log))).toBe(true);
    expect(registersOf(events).map((r) => r && toHex(r))).toEqual(found.registers);
    expect(new Set(found.registers).size).toBe(4);
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// Whether KVM really works here. /dev/kvm can open, answer ioctls and create a machine on a host that cannot run a kernel
// in it (nested virtualisation without vmx or svm), so it counts only after the CPU flags and a real guest agree.

import { spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LaunchError } from './errors.js';
import type { HostKnowledge } from './host-knowledge.js';

export type Accelerator = 'kvm' | 'tcg';

export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** Why not KVM, when it is not; for the user. */
  readonly reason: string;
}

const PROBE_TIMEOUT_MS = 3000;
const IMAGE_BYTES = 64 * 1024;

/** `wanted`: what the user asked for; `auto` decides. Throws LaunchError when KVM was asked for and does not work. */
export async function chooseAccelerator(
  wanted: 'auto' | Accelerator,
  qemu: string,
  knowledge: HostKnowledge,
): Promise<AcceleratorChoice> {
  if (wanted === 'tcg') return { accelerator: 'tcg', reason: 'asked for' };
  const obstacle = cheapObstacle() ?? (await rememberedProbe(qemu, knowledge));
  if (obstacle === undefined) return { accelerator: 'kvm', reason: '' };
  if (wanted === 'kvm')
    throw new LaunchError('not-permitted', `--accel kvm: ${obstacle}. Use --accel tcg (slow, but works anywhere).`);
  return { accelerator: 'tcg', reason: obstacle };
}

function cheapObstacle(): string | undefined {
  const cpu = readFileSync('/proc/cpuinfo', 'latin1')
    .split('\n')
    .find((line) => line.startsWith('flags'));
  if (!/\s(vmx|svm)(\s|$)/.test(cpu ?? '')) return 'this CPU shows no virtualisation (vmx or svm)';
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === 'ENOENT' ? 'there is no /dev/kvm' : '/dev/kvm cannot be opened (join group kvm)';
  }
  return undefined;
}

/** The probe takes a tenth of a second: its answer is kept until the machine boots anew. */
async function rememberedProbe(qemu: string, knowledge: HostKnowledge): Promise<string | undefined> {
  const key = `kvm ${readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim()} ${qemu}`;
  const known = knowledge.get(key);
  if (known !== undefined) return known === '' ? undefined : known;
  const obstacle = await probe(qemu);
  knowledge.set(key, obstacle ?? '');
  return obstacle;
}

/** Runs a machine that writes one byte and powers off by resetting; undefined when it did so in time. */
async function probe(qemu: string): Promise<string | undefined> {
  const directory = mkdtempSync(join(tmpdir(), 'gramine-probe-'));
  try {
    const image = join(directory, 'probe.bin');
    writeFileSync(image, probeImage());
    const args = [
      '-nodefaults',
      '-no-user-config',
      '-display',
      'none',
      '-no-reboot',
      '-machine',
      'q35',
      '-accel',
      'kvm',
    ];
    const child = spawn(qemu, [...args, '-cpu', 'host', '-m', '16M', '-bios', image, '-serial', 'stdio'], {
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: PROBE_TIMEOUT_MS,
      killSignal: 'SIGKILL',
    });
    let output = '';
    child.stdout.on('data', (data: Buffer) => {
      output += data.toString('latin1');
      if (output.includes('K')) child.kill('SIGKILL');
    });
    await new Promise((resolve) => child.once('close', resolve).once('error', resolve));
    return output.includes('K') ? undefined : 'a machine started with KVM does not run';
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/**
 * A flash image whose reset vector enters 32-bit protected mode, runs `lock cmpxchg8b` (which broken nested setups
 * fail to emulate), and writes "K" to COM1.
 */
export function probeImage(): Buffer {
  const image = Buffer.alloc(IMAGE_BYTES, 0xf4);
  const base = 0xffff_0000;
  const gdt = 0x100;
  const code32 = 0x40;
  // real mode, at F000:0000: cli; lgdt cs:[gdtr]; mov eax,cr0; or al,1; mov cr0,eax; jmp dword 8:base+code32
  Buffer.from([0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0xf0, 0x00]).copy(image, 0);
  Buffer.from([0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0x66, 0xea]).copy(image, 8);
  image.writeUInt32LE(base + code32, 18);
  image.writeUInt16LE(8, 22);
  // protected mode: mov ax,16; mov ds,ax; xor eax,eax; ... lock cmpxchg8b [0x1000]; mov dx,0x3f8; mov al,'K'; out dx,al; hlt
  Buffer.from([
    0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x31, 0xc0, 0x31, 0xd2, 0x31, 0xdb, 0x31, 0xc9, 0xf0, 0x0f, 0xc7, 0x0d, 0x00,
    0x10, 0x00, 0x00, 0x66, 0xba, 0xf8, 0x03, 0xb0, 0x4b, 0xee, 0xf4,
  ]).copy(image, code32);
  // GDT: null, flat 32-bit code, flat data; its pseudo-descriptor at 0xf0.
  image.fill(0, 0xf0, gdt + 24);
  image.writeUInt16LE(23, 0xf0);
  image.writeUInt32LE(base + gdt, 0xf2);
  image.writeBigUInt64LE(0x00cf_9a00_0000_ffffn, gdt + 8);
  image.writeBigUInt64LE(0x00cf_9200_0000_ffffn, gdt + 16);
  // reset vector at 0xfff0: jmp near to offset 0
  image.writeUInt8(0xe9, 0xfff0);
  image.writeUInt16LE(0x10000 - 0xfff3, 0xfff1);
  return image;
}

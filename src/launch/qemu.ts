// SPDX-License-Identifier: Apache-2.0
//
// Which QEMU, and the exact command that it gets. Devices and console ports are the contract of docs/devices.md.

import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import type { Accelerator } from './accelerator.js';
import { LaunchError } from './errors.js';
import type { HostKnowledge } from './host-knowledge.js';
import { findTool } from './paths.js';

const MIN_VERSION: readonly [number, number] = [7, 2];
/**
 * Everything that software emulation knows, but for the promise that string instructions are fast: emulated, they go byte
 * by byte, and C libraries that believe the promise copy with them.
 */
const TCG_CPU = 'max,-erms,-fsrm';

/** File descriptors of the socket pairs that the launcher shares with QEMU, by what they carry. */
export const QEMU_FDS = { console: 3, stderr: 4, log: 5, stdin: 6 } as const;

export interface MachineSpec {
  readonly accelerator: Accelerator;
  readonly cpus: number;
  readonly memoryBytes: bigint;
  readonly image: string;
  readonly vsockSocket: string;
  /** Absent when the policy mounts nothing of the host. */
  readonly fsSocket?: string;
  readonly tty: boolean;
  readonly gdb?: string | undefined;
}

/** QEMU's path, after its version was checked; the answer is remembered as long as the binary is the same. */
export function findQemu(knowledge: HostKnowledge): string {
  const path = findTool(['qemu-system-x86_64', '/usr/libexec/qemu-kvm']);
  if (path === undefined) {
    throw new LaunchError(
      'qemu-missing',
      'qemu-system-x86_64 is not on PATH. Install it: apt-get install qemu-system-x86 (or run scripts/setup)',
    );
  }
  const { size, mtimeMs, ino } = statSync(path);
  const version = knowledge.remember(`qemu ${path} ${size} ${mtimeMs} ${ino}`, () => readVersion(path));
  const [major, minor] = version.split('.').map(Number);
  const tooOld = (major ?? 0) < MIN_VERSION[0] || (major === MIN_VERSION[0] && (minor ?? 0) < MIN_VERSION[1]);
  if (tooOld) {
    throw new LaunchError('qemu-too-old', `${path} is version ${version}; ${MIN_VERSION.join('.')} or newer is needed`);
  }
  return path;
}

function readVersion(path: string): string {
  let output = '';
  try {
    output = execFileSync(path, ['--version'], {
      encoding: 'utf8',
      timeout: 20_000,
      stdio: ['ignore', 'pipe', 'ignore'],
    });
  } catch (error) {
    throw new LaunchError('qemu-missing', `${path} --version failed: ${(error as Error).message}`, { cause: error });
  }
  const version = /version ([0-9]+\.[0-9]+(\.[0-9]+)?)/.exec(output)?.[1];
  if (version === undefined) throw new LaunchError('qemu-missing', `${path} --version does not look like QEMU's`);
  return version;
}

/** QEMU's arguments. */
export function qemuArguments(spec: MachineSpec): string[] {
  const memory = `${spec.memoryBytes >> 20n}M`;
  const chardev = (id: keyof typeof QEMU_FDS) => ['-chardev', `socket,id=${id},fd=${QEMU_FDS[id]}`];
  const args = [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-monitor', 'none', '-no-reboot'],
    ...['-name', 'gramine', '-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...['-object', `memory-backend-memfd,id=mem,size=${memory},share=on`],
    ...['-machine', 'q35,memory-backend=mem', '-m', memory, '-smp', String(spec.cpus)],
    ...(spec.accelerator === 'kvm'
      ? ['-accel', 'kvm', '-cpu', 'host']
      : ['-accel', 'tcg,thread=multi', '-cpu', TCG_CPU]),
    ...['-bios', spec.image],
    ...chardev('log'),
    ...['-serial', 'chardev:log'],
    ...['-chardev', `socket,id=vsock,path=${escapeComma(spec.vsockSocket)}`],
    ...['-device', 'vhost-user-vsock-pci,chardev=vsock,disable-legacy=on'],
  ];
  if (spec.fsSocket !== undefined) {
    args.push(
      ...['-chardev', `socket,id=fs,path=${escapeComma(spec.fsSocket)}`],
      ...['-device', 'vhost-user-fs-pci,chardev=fs,tag=gramine,queue-size=1024'],
    );
  }
  args.push(
    // A vector for each queue: QEMU's default of one more than there are ports is too few.
    ...['-device', 'virtio-serial-pci,disable-legacy=on,max_ports=4,vectors=12'],
    // Port 0 must be a virtconsole, and QEMU drops what a virtconsole's reader is too slow for: nothing uses it.
    ...['-chardev', 'null,id=unused', '-device', 'virtconsole,nr=0,chardev=unused'],
    ...chardev('console'),
    ...['-device', 'virtserialport,nr=3,chardev=console,name=console'],
    ...chardev('stderr'),
    ...['-device', 'virtserialport,nr=1,chardev=stderr,name=stderr'],
  );
  if (!spec.tty) args.push(...chardev('stdin'), '-device', 'virtserialport,nr=2,chardev=stdin,name=stdin');
  if (spec.gdb !== undefined) args.push('-gdb', spec.gdb, '-S');
  return args;
}

/** QEMU's option parser ends a value at a comma unless it is doubled. */
function escapeComma(value: string): string {
  return value.replaceAll(',', ',,');
}

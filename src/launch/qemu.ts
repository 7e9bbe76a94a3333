// SPDX-License-Identifier: Apache-2.0
//
// Which QEMU, and the exact command that it gets: for an ordinary VM, for a TD, and for a simulated TD, which is an ordinary
// VM whose firmware is the simulator (kernel-bin/sim/README.md). Devices and console ports are the contract of
// docs/devices.md.

import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import type { Accelerator } from './accelerator.js';
import { LaunchError } from './errors.js';
import type { HostKnowledge } from './host-knowledge.js';
import { findTool } from './paths.js';

type Version = readonly [major: number, minor: number];
export const MIN_VERSION: Version = [7, 2];
/** The first release that has TDX. */
export const MIN_TDX_VERSION: Version = [10, 1];
/**
 * Everything that software emulation knows, but for the promise that string instructions are fast: emulated, they go byte
 * by byte, and C libraries that believe the promise copy with them.
 */
const TCG_CPU = 'max,-erms,-fsrm';

/** As TCG_CPU; the simulator wants Intel's instructions, and an address space that a TD can have. */
const SIMULATED_CPU = 'max,phys-bits=52,vendor=GenuineIntel,-erms,-fsrm';

/** File descriptors of the socket pairs that the launcher shares with QEMU, by what they carry. */
export const QEMU_FDS = { console: 3, stderr: 4, log: 5, stdin: 6, simulator: 7, quotes: 8 } as const;

/** Where a quoting service listens. */
export type QuoteAddress =
  | { readonly type: 'unix'; readonly path: string }
  | { readonly type: 'vsock'; readonly cid: number; readonly port: number };

/** What the TD's owner puts into it beside the image; 48 bytes each. */
export interface TdIdentity {
  readonly mrConfigId?: Uint8Array | undefined;
  readonly mrOwner?: Uint8Array | undefined;
  readonly mrOwnerConfig?: Uint8Array | undefined;
  /** The host may read everything. */
  readonly debug: boolean;
}

export type Machine =
  | { readonly kind: 'vm'; readonly accelerator: Accelerator }
  | { readonly kind: 'td'; readonly identity: TdIdentity; readonly quotes: QuoteAddress | undefined }
  | {
      readonly kind: 'simulated';
      readonly identity: TdIdentity;
      readonly simulator: string;
      /** Whether somebody answers requests for quotes. */
      readonly quotes: boolean;
      /** More of the simulator's own: NAME and VALUE of fw_cfg opt/gramine/sim-NAME. */
      readonly options: readonly (readonly [name: string, value: string])[];
    };

export interface MachineSpec {
  readonly machine: Machine;
  readonly cpus: number;
  readonly memoryBytes: bigint;
  readonly image: string;
  /** Of a simulated machine: the file with the key of its reports. */
  readonly macKeyFile: string;
  readonly vsockSocket: string;
  /** Absent when the policy mounts nothing of the host. */
  readonly fsSocket?: string;
  readonly tty: boolean;
  readonly gdb?: string | undefined;
}

/** QEMU's path, after its version was checked; the answer is remembered as long as the binary is the same. */
export function findQemu(knowledge: HostKnowledge): string {
  const { path, version } = locateQemu(knowledge);
  if (isOlder(version, MIN_VERSION)) {
    throw new LaunchError('qemu-too-old', `${path} is version ${version}; ${MIN_VERSION.join('.')} or newer is needed`);
  }
  return path;
}

export function isOlder(version: string, least: Version): boolean {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major < least[0] || (major === least[0] && minor < least[1]);
}

/** Errors: LaunchError `qemu-missing`. */
export function locateQemu(knowledge: HostKnowledge): { readonly path: string; readonly version: string } {
  const path = findTool(['qemu-system-x86_64', '/usr/libexec/qemu-kvm']);
  if (path === undefined) {
    throw new LaunchError(
      'qemu-missing',
      'qemu-system-x86_64 is not on PATH. Install it: apt-get install qemu-system-x86 (or run scripts/setup)',
    );
  }
  const { size, mtimeMs, ino } = statSync(path);
  const version = knowledge.remember(`qemu ${path} ${size} ${mtimeMs} ${ino}`, () => readVersion(path));
  return { path, version };
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
  const chardev = (id: keyof typeof QEMU_FDS) => ['-chardev', `socket,id=${id},fd=${QEMU_FDS[id]}`];
  // QEMU turns iommu_platform on for TDs by itself, and refuses a vhost-user back end that does not offer it (virtiofsd).
  const virtio = spec.machine.kind === 'vm' ? 'disable-legacy=on' : 'disable-legacy=on,iommu_platform=on';
  const args = [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-monitor', 'none', '-no-reboot'],
    ...['-name', 'gramine', '-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
    ...machineArguments(spec),
    ...chardev('log'),
    ...['-serial', 'chardev:log'],
    ...['-chardev', `socket,id=vsock,path=${escapeComma(spec.vsockSocket)}`],
    ...['-device', `vhost-user-vsock-pci,chardev=vsock,${virtio}`],
  ];
  if (spec.fsSocket !== undefined) {
    args.push(
      ...['-chardev', `socket,id=fs,path=${escapeComma(spec.fsSocket)}`],
      ...[
        '-device',
        `vhost-user-fs-pci,chardev=fs,tag=gramine,queue-size=1024${spec.machine.kind === 'vm' ? '' : ',iommu_platform=off'}`,
      ],
    );
  }
  args.push(
    // A vector for each queue: QEMU's default of one more than there are ports is too few.
    ...['-device', `virtio-serial-pci,${virtio},max_ports=4,vectors=12`],
    // Port 0 must be a virtconsole, and QEMU drops what a virtconsole's reader is too slow for: nothing uses it.
    ...['-chardev', 'null,id=unused', '-device', 'virtconsole,nr=0,chardev=unused'],
    ...chardev('console'),
    ...['-device', 'virtserialport,nr=3,chardev=console,name=console'],
    ...chardev('stderr'),
    ...['-device', 'virtserialport,nr=1,chardev=stderr,name=stderr'],
  );
  if (!spec.tty) args.push(...chardev('stdin'), '-device', 'virtserialport,nr=2,chardev=stdin,name=stdin');
  if (spec.machine.kind === 'simulated') {
    args.push(...chardev('simulator'), ...['-device', 'isa-serial,chardev=simulator,iobase=0x3e8,irq=5,index=2']);
    if (spec.machine.quotes) {
      args.push(...chardev('quotes'), '-device', 'isa-serial,chardev=quotes,iobase=0x2f8,irq=3,index=1');
    }
  }
  if (spec.gdb !== undefined) args.push('-gdb', spec.gdb, '-S');
  return args;
}

/** Machine, CPU, memory and firmware. */
function machineArguments({ machine, cpus, memoryBytes, image, macKeyFile }: MachineSpec): string[] {
  const memory = (bytes: bigint) => {
    const size = `${bytes >> 20n}M`;
    return ['-object', `memory-backend-memfd,id=mem,size=${size},share=on`, '-m', size, '-smp', String(cpus)];
  };
  switch (machine.kind) {
    case 'vm':
      return [
        ...memory(memoryBytes),
        ...['-machine', 'q35,memory-backend=mem'],
        ...(machine.accelerator === 'kvm'
          ? ['-accel', 'kvm', '-cpu', 'host']
          : ['-accel', 'tcg,thread=multi', '-cpu', TCG_CPU]),
        ...['-bios', image],
      ];
    case 'td':
      return [
        ...['-object', JSON.stringify(tdxGuest(machine))],
        ...memory(memoryBytes),
        ...['-machine', 'q35,kernel-irqchip=split,confidential-guest-support=tdx0,memory-backend=mem,hpet=off'],
        // No performance counters: they would be one more attribute of the TD, and nothing here uses them.
        ...['-accel', 'kvm', '-cpu', 'host,pmu=off'],
        ...['-bios', image],
      ];
    case 'simulated': {
      const option = (name: string, value: string) => ['-fw_cfg', `name=opt/gramine/sim-${name},${value}`];
      const { mrConfigId, mrOwner, mrOwnerConfig, debug } = machine.identity;
      const hex = (name: string, value: Uint8Array | undefined) =>
        value === undefined ? [] : option(name, `string=${Buffer.from(value).toString('hex')}`);
      return [
        ...memory(simulatorMemory(memoryBytes)),
        ...['-machine', 'q35,memory-backend=mem'],
        ...['-accel', 'tcg,thread=multi', '-cpu', SIMULATED_CPU],
        ...['-bios', machine.simulator],
        ...option('image', `file=${escapeComma(image)}`),
        ...option('memory', `string=${memoryBytes}`),
        ...option('mac-key', `file=${escapeComma(macKeyFile)}`),
        ...(debug ? option('debug', 'string=1') : []),
        ...[...hex('mrconfigid', mrConfigId), ...hex('mrowner', mrOwner), ...hex('mrownerconfig', mrOwnerConfig)],
        ...machine.options.flatMap(([name, value]) => option(name, `string=${escapeComma(value)}`)),
      ];
    }
  }
}

/** Physical address space for the TD's private and shared memory, and the simulator's own; what nobody touches costs nothing. */
function simulatorMemory(tdBytes: bigint): bigint {
  const MIB = 1n << 20n;
  return tdBytes < 2816n * MIB ? 6400n * MIB : 2304n * MIB + 2n * tdBytes;
}

const ATTRIBUTE_SEPT_VE_DISABLE = 1 << 28;
const ATTRIBUTE_DEBUG = 1;

/** QEMU's object for a TD (QEMU 10.1 and later, qapi/qom.json); in JSON, as the address of the service has parts. */
function tdxGuest({ identity, quotes }: Extract<Machine, { kind: 'td' }>): Record<string, unknown> {
  const base64 = (name: string, value: Uint8Array | undefined) =>
    value === undefined ? {} : { [name]: Buffer.from(value).toString('base64') };
  const socket =
    quotes?.type === 'vsock'
      ? { type: 'vsock', cid: String(quotes.cid), port: String(quotes.port) }
      : quotes === undefined
        ? undefined
        : { type: 'unix', path: quotes.path };
  return {
    'qom-type': 'tdx-guest',
    id: 'tdx0',
    attributes: ATTRIBUTE_SEPT_VE_DISABLE + (identity.debug ? ATTRIBUTE_DEBUG : 0),
    ...base64('mrconfigid', identity.mrConfigId),
    ...base64('mrowner', identity.mrOwner),
    ...base64('mrownerconfig', identity.mrOwnerConfig),
    ...(socket === undefined ? {} : { 'quote-generation-socket': socket }),
  };
}

/** QEMU's option parser ends a value at a comma unless it is doubled. */
function escapeComma(value: string): string {
  return value.replaceAll(',', ',,');
}

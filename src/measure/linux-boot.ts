// SPDX-License-Identifier: Apache-2.0
//
// QEMU's -kernel: before OVMF sees the kernel, QEMU writes into its setup header as a boot loader would, and so changes the
// digest that OVMF measures. Source: QEMU hw/i386/x86-common.c, x86_load_linux; Linux Documentation/arch/x86/boot.rst for
// the header's fields. Recent QEMU leaves the header of confidential guests alone; the caller says which it is.

import { MeasureError } from './errors.js';
import { utf16 } from './uefi-variables.js';

const HEADER_MAGIC = 0x53726448; // "HdrS"
const XLF_CAN_BE_LOADED_ABOVE_4G = 2;
const MIN_KERNEL_BYTES = 0x268;
/** Room that QEMU's pc machines keep for ACPI tables below the end of low memory. */
const ACPI_DATA_BYTES = 0x28000;

export interface DirectBoot {
  readonly initrdBytes: number;
  readonly memoryBytes: bigint;
  /** As given to -append. */
  readonly commandLine: string;
}

/** Bytes of RAM below 4 GiB on QEMU's q35. */
export function q35LowMemory(memoryBytes: bigint): bigint {
  return memoryBytes >= 0xb0000000n ? 0x80000000n : memoryBytes;
}

/**
 * The kernel as QEMU hands it to the firmware. Errors: `malformed` (too short, not a bzImage of protocol 2.2 or newer),
 * `usage` (the initrd does not fit).
 */
export function patchForDirectBoot(kernel: Uint8Array, boot: DirectBoot): Uint8Array {
  if (kernel.length < MIN_KERNEL_BYTES)
    throw new MeasureError(
      'malformed',
      `kernel: ${kernel.length} bytes, a Linux bzImage has at least ${MIN_KERNEL_BYTES}`,
    );
  const out = Buffer.from(kernel);
  const protocol = out.readUInt32LE(0x202) === HEADER_MAGIC ? out.readUInt16LE(0x206) : 0;
  const loadFlags = out.readUInt8(0x211);
  if (protocol < 0x203 || (loadFlags & 1) === 0) {
    throw new MeasureError(
      'malformed',
      `kernel: boot protocol 0x${protocol.toString(16)}, expected a bzImage of protocol 2.3 or newer (0x203)`,
      0x202,
    );
  }
  const [real, commandLine] = [0x10000, 0x20000];
  out.writeUInt32LE(commandLine, 0x228);
  const video = videoMode(boot.commandLine);
  if (video !== undefined) out.writeUInt16LE(video, 0x1fa);
  out.writeUInt8(0xb0, 0x210); // type of loader: QEMU
  out.writeUInt8(loadFlags | 0x80, 0x211); // CAN_USE_HEAP
  out.writeUInt16LE(commandLine - real - 0x200, 0x224);
  if (boot.initrdBytes > 0) {
    const low = Number(q35LowMemory(boot.memoryBytes));
    const above4g = protocol >= 0x20c && (out.readUInt16LE(0x236) & XLF_CAN_BE_LOADED_ABOVE_4G) !== 0;
    const kernelMax = above4g ? 0xffffffff : out.readUInt32LE(0x22c);
    const max = Math.min(kernelMax, low - ACPI_DATA_BYTES - 1);
    if (boot.initrdBytes >= max)
      throw new MeasureError(
        'usage',
        `initrd: ${boot.initrdBytes} bytes do not fit below ${max}; give the TD more memory`,
      );
    out.writeUInt32LE(Math.floor((max - boot.initrdBytes) / 4096) * 4096, 0x218);
    out.writeUInt32LE(boot.initrdBytes, 0x21c);
  }
  return new Uint8Array(out.buffer, out.byteOffset, out.length);
}

/** QEMU reads vga= from the command line and writes it to the header. Error `usage` for what QEMU refuses. */
function videoMode(commandLine: string): number | undefined {
  const at = commandLine.indexOf('vga=');
  if (at < 0) return undefined;
  const value = commandLine.slice(at + 4);
  const words = [
    ['normal', 0xffff],
    ['ext', 0xfffe],
    ['ask', 0xfffd],
  ] as const;
  for (const [word, mode] of words) if (value.startsWith(word)) return mode;
  const m = /^(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))(?: |$)/.exec(value);
  if (!m) throw new MeasureError('usage', `command line: QEMU refuses vga=${value.slice(0, 20)}`);
  const [, hex, octal, decimal] = m;
  const n = hex ? Number.parseInt(hex, 16) : decimal ? Number(decimal) : Number.parseInt(octal || '0', 8);
  return n & 0xffff;
}

/** How OVMF tells the kernel of an initrd: older releases append to the command line, newer ones put it in front. */
export type InitrdArgument = 'append' | 'prepend' | 'none';

/** The bytes of LOADED_IMAGE's LoadOptions, which the kernel's EFI stub measures: UTF-16LE with the closing NUL. */
export function loadOptions(commandLine: string, initrdArgument: InitrdArgument): Uint8Array {
  switch (initrdArgument) {
    case 'append':
      return utf16(`${commandLine} initrd=initrd\0`);
    case 'prepend':
      return utf16(`initrd=initrd ${commandLine}\0`);
    case 'none':
      return utf16(`${commandLine}\0`);
    default:
      return initrdArgument satisfies never;
  }
}

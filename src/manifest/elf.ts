// SPDX-License-Identifier: Apache-2.0
//
// Reads from an ELF file what the dynamic loader would: interpreter, needed libraries and search paths (System V gABI,
// "Program Loading and Dynamic Linking"). Only headers and the dynamic section are read, by position. The file may hold
// anything: every offset and count is checked, and a wrong one makes the file "not an ELF program".

import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

export interface ElfInfo {
  readonly kind: 'elf';
  readonly interpreter?: string;
  readonly needed: readonly string[];
  readonly rpath: readonly string[];
  readonly runpath: readonly string[];
}

export type FileKind =
  | ElfInfo
  | { readonly kind: 'script'; readonly interpreter: string; readonly argument?: string }
  | { readonly kind: 'foreign-elf'; readonly machine: string }
  | { readonly kind: 'other' };

const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_DYNAMIC = 2;
const PT_INTERP = 3;
const DT_NEEDED = 1;
const DT_STRTAB = 5;
const DT_STRSZ = 10;
const DT_RPATH = 15;
const DT_RUNPATH = 29;
const MACHINES: Readonly<Record<number, string>> = {
  3: '32-bit x86',
  8: 'MIPS',
  20: '32-bit PowerPC',
  21: 'PowerPC',
  22: 's390x',
  40: '32-bit Arm',
  183: 'AArch64 (Arm)',
  243: 'RISC-V',
};
/** Linux runs no program whose program headers have another size. */
const PROGRAM_HEADER_BYTES = 56;
/** Generous: the largest real dynamic sections have some hundred entries. */
const MAX_DYNAMIC_BYTES = 64 * 1024;
/** Linux's limit for a path. */
const MAX_TEXT_BYTES = 4096;

/** What kind of program `path` holds. Throws only for a file that cannot be opened or read. */
export function readProgram(path: string): FileKind {
  const fd = openSync(path, 'r');
  try {
    const head = readAt(fd, 0, 4096);
    if (head.length >= 2 && head.toString('latin1', 0, 2) === '#!') return readShebang(head);
    if (head.length < 64 || head.readUInt32BE(0) !== 0x7f454c46) return { kind: 'other' };
    return readElf(fd, head, fstatSync(fd).size) ?? { kind: 'other' };
  } finally {
    closeSync(fd);
  }
}

/** Linux takes everything after the interpreter as one argument, and at most 255 bytes of the line. */
function readShebang(head: Buffer): FileKind {
  const line = head.subarray(2, 256).toString('utf8').split('\n', 1)[0] ?? '';
  const match = /^[ \t]*([^ \t]+)[ \t]*(.*?)[ \t]*$/.exec(line);
  if (match?.[1] === undefined) return { kind: 'other' };
  const script = { kind: 'script', interpreter: match[1] } as const;
  return match[2] ? { ...script, argument: match[2] } : script;
}

function readElf(fd: number, head: Buffer, size: number): FileKind | undefined {
  const littleEndian = head[5] === 1;
  const machine = littleEndian ? head.readUInt16LE(18) : head.readUInt16BE(18);
  if (head[4] !== 2 || !littleEndian || machine !== EM_X86_64) {
    return { kind: 'foreign-elf', machine: MACHINES[machine] ?? `machine ${machine}` };
  }
  const tableOffset = toOffset(head.readBigUInt64LE(32));
  const tableBytes = head.readUInt16LE(56) * PROGRAM_HEADER_BYTES;
  if (head.readUInt16LE(54) !== PROGRAM_HEADER_BYTES || tableOffset === undefined) return undefined;
  if (tableOffset + tableBytes > size) return undefined;
  const table =
    tableOffset + tableBytes <= head.length
      ? head.subarray(tableOffset, tableOffset + tableBytes)
      : readAt(fd, tableOffset, tableBytes);
  const segments = readSegments(table, size);
  if (segments === undefined) return undefined;

  const interp = segments.find((segment) => segment.type === PT_INTERP);
  const dynamic = segments.find((segment) => segment.type === PT_DYNAMIC);
  const interpreter = interp === undefined ? undefined : readText(fd, interp.offset, interp.size);
  const lists = dynamic === undefined ? NO_LISTS : readDynamic(fd, dynamic, segments);
  if (lists === undefined) return undefined;
  return interpreter === undefined ? { kind: 'elf', ...lists } : { kind: 'elf', interpreter, ...lists };
}

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: bigint;
  readonly size: number;
}

function readSegments(table: Buffer, fileSize: number): Segment[] | undefined {
  const segments: Segment[] = [];
  for (let at = 0; at + PROGRAM_HEADER_BYTES <= table.length; at += PROGRAM_HEADER_BYTES) {
    const type = table.readUInt32LE(at);
    if (type !== PT_LOAD && type !== PT_DYNAMIC && type !== PT_INTERP) continue;
    const offset = toOffset(table.readBigUInt64LE(at + 8));
    const size = toOffset(table.readBigUInt64LE(at + 32));
    if (offset === undefined || size === undefined || offset + size > fileSize) return undefined;
    segments.push({ type, offset, address: table.readBigUInt64LE(at + 16), size });
  }
  return segments;
}

type DynamicLists = Pick<ElfInfo, 'needed' | 'rpath' | 'runpath'>;
const NO_LISTS: DynamicLists = { needed: [], rpath: [], runpath: [] };

function readDynamic(fd: number, dynamic: Segment, segments: readonly Segment[]): DynamicLists | undefined {
  const table = readAt(fd, dynamic.offset, Math.min(dynamic.size, MAX_DYNAMIC_BYTES));
  const entries: [tag: bigint, value: bigint][] = [];
  for (let at = 0; at + 16 <= table.length; at += 16) {
    const tag = table.readBigUInt64LE(at);
    if (tag === 0n) break;
    entries.push([tag, table.readBigUInt64LE(at + 8)]);
  }
  const value = (tag: number) => entries.find((entry) => entry[0] === BigInt(tag))?.[1];
  const address = value(DT_STRTAB);
  const stringBytes = toOffset(value(DT_STRSZ) ?? 0n);
  if (address === undefined || stringBytes === undefined) return NO_LISTS;
  const load = segments.find(
    (segment) =>
      segment.type === PT_LOAD && address >= segment.address && address < segment.address + BigInt(segment.size),
  );
  if (load === undefined) return undefined;
  // Only the texts that are asked for are read: the table, which holds the names of all symbols too, can be large.
  const before = Number(address - load.address);
  const bytes = Math.min(stringBytes, load.size - before);
  const texts = (tag: number) =>
    entries.flatMap(([found, offset]) => {
      if (found !== BigInt(tag) || offset >= BigInt(bytes)) return [];
      const text = readText(fd, load.offset + before + Number(offset), bytes - Number(offset));
      return text ? [text] : [];
    });
  const paths = (tag: number) => texts(tag).flatMap((text) => text.split(':').filter((path) => path !== ''));
  return { needed: texts(DT_NEEDED), rpath: paths(DT_RPATH), runpath: paths(DT_RUNPATH) };
}

function readAt(fd: number, position: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  return buffer.subarray(0, readSync(fd, buffer, 0, length, position));
}

function toOffset(value: bigint): number | undefined {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : undefined;
}

/** The text that ends with a NUL, or with the `length` bytes that there are. */
function readText(fd: number, position: number, length: number): string | undefined {
  const bytes = readAt(fd, position, Math.min(length, MAX_TEXT_BYTES));
  if (bytes.length === 0) return undefined;
  const end = bytes.indexOf(0);
  return bytes.toString('utf8', 0, end === -1 ? bytes.length : end);
}

// SPDX-License-Identifier: Apache-2.0
//
// Firmware, variables, kernels and disks of our own making, in the shape of OVMF's: what the tests of measured boot need
// where no public image is at hand. Layouts: docs/measurement.md.

import { fromHex, type TdvfSection, type UefiVariable } from '../../src/measure/index.js';

const guid = (text: string): Buffer => {
  const [a = '', b = '', c = '', d = '', e = ''] = text.split('-');
  const swapped = (h: string) => Buffer.from(h, 'hex').reverse();
  return Buffer.concat([swapped(a), swapped(b), swapped(c), Buffer.from(d + e, 'hex')]);
};
const u16 = (n: number) => Buffer.of(n & 0xff, n >> 8);
const u32 = (n: number) => Buffer.concat([u16(n & 0xffff), u16(n >>> 16)]);
const u64 = (n: bigint) => {
  const b = Buffer.alloc(8);
  b.writeBigUInt64LE(n);
  return b;
};

/** Sizes of OVMF's 4 MB flash: the volume, its store of variables, and where the fault-tolerant working block lies. */
const VARS_BYTES = 0x84000;
const STORE_BYTES = 0x3ffb8;
const WORKING_BLOCK = 0x41000;

/** OVMF_VARS.fd (4 MB build) with these variables; without any, byte for byte the one that edk2 builds. */
export function varsFile(variables: readonly (UefiVariable & { readonly state?: number })[] = []): Buffer {
  const out = Buffer.alloc(VARS_BYTES, 0xff);
  const header = Buffer.concat([
    Buffer.alloc(16),
    guid('fff12b8d-7696-4c8b-a985-2747075b4f50'),
    u64(BigInt(VARS_BYTES)),
    Buffer.from('_FVH'),
    u32(0x4feff),
    u16(72),
    u16(0xb8af),
    Buffer.of(0, 0, 0, 2),
    u32(VARS_BYTES / 4096),
    u32(4096),
    Buffer.alloc(8),
    guid('aaf32c78-947b-439a-a180-2e144ec37792'),
    u32(STORE_BYTES),
    Buffer.of(0x5a, 0xfe),
    Buffer.alloc(6),
  ]);
  header.copy(out);
  fromBuffer('2b29589e687c7d49a0ce6500fd9f1b952caf2c64feffffffe00f000000000000').copy(out, WORKING_BLOCK);
  let at = header.length;
  for (const v of variables) {
    const name = Buffer.from(`${v.name}\0`, 'utf16le');
    const item = Buffer.concat([
      u16(0x55aa),
      Buffer.of(v.state ?? 0x3f, 0),
      u32(v.attributes),
      Buffer.alloc(28),
      u32(name.length),
      u32(v.data.length),
      guid(v.guid),
      name,
      v.data,
    ]);
    item.copy(out, at);
    at += (item.length + 3) & ~3;
  }
  return out;
}
const fromBuffer = (hex: string): Buffer => Buffer.from(fromHex(hex, 'fixture'));

/** Where OVMF's builds put their temporary memory: until 2023, and since room was made for an SVSM's page. */
export const TEMP_RAM = { old: [0x810000, 0x10000], svsm: [0x811000, 0xf000] } as const;

/** The TDVF sections of OVMF with a CFV of 4 MB flash, without their bytes. */
export function ovmfSections(temp: keyof typeof TEMP_RAM = 'old', cfvBytes = VARS_BYTES): TdvfSection[] {
  const code = 0x400000 - cfvBytes;
  const section = (
    type: TdvfSection['type'],
    memoryAddress: number,
    bytes: number,
    dataOffset = 0,
    rawDataSize = 0,
    attributes = 0,
  ): TdvfSection => ({
    type,
    dataOffset,
    rawDataSize,
    memoryAddress: BigInt(memoryAddress),
    memoryDataSize: BigInt(bytes),
    attributes,
  });
  const [ramAt, ramBytes] = TEMP_RAM[temp];
  return [
    section('BFV', 0xffc00000 + cfvBytes, code, cfvBytes, code, 1),
    section('CFV', 0xffc00000, cfvBytes, 0, cfvBytes),
    section('TempMem', ramAt, ramBytes),
    section('TempMem', 0x80b000, 0x2000),
    section('TD_HOB', 0x809000, 0x2000),
    section('TempMem', 0x800000, 0x6000),
  ];
}

const TYPES = ['BFV', 'CFV', 'TD_HOB', 'TempMem', 'PermMem', 'Payload', 'PayloadParam', 'TdInfo', 'TdParams'];

/** TDVF descriptor with these sections. */
export function descriptor(sections: readonly TdvfSection[]): Buffer {
  return Buffer.concat([
    Buffer.from('TDVF'),
    u32(16 + 32 * sections.length),
    u32(1),
    u32(sections.length),
    ...sections.map((s) =>
      Buffer.concat([
        u32(s.dataOffset),
        u32(s.rawDataSize),
        u64(s.memoryAddress),
        u64(s.memoryDataSize),
        u32(TYPES.indexOf(s.type)),
        u32(s.attributes),
      ]),
    ),
  ]);
}

/** Writes descriptor and GUIDed table at the end of an image, as OVMF's reset vector carries them. */
export function addMetadata(image: Buffer, sections: readonly TdvfSection[]): Buffer {
  const d = descriptor(sections);
  const at = image.length - 4096;
  d.copy(image, at);
  const end = image.length - 32;
  const table = Buffer.concat([
    u32(image.length - at),
    u16(22),
    guid('e47a6535-984a-4798-865e-4685a7bf8ec2'),
    u16(40),
    guid('96b582de-1fb2-45f7-baea-a366c55a082d'),
  ]);
  table.copy(image, end - table.length);
  return image;
}

/** A whole 4 MB OVMF-like image: variables, then filler with metadata. */
export function ovmfImage(vars: Uint8Array = varsFile(), temp: keyof typeof TEMP_RAM = 'old'): Buffer {
  const image = Buffer.alloc(0x400000, 0x90);
  Buffer.from(vars).copy(image);
  return addMetadata(image, ovmfSections(temp, vars.length));
}

export interface PeOptions {
  readonly sections?: readonly Uint8Array[];
  readonly trailing?: Uint8Array;
  readonly certificate?: Uint8Array;
  readonly checksum?: number;
}

/** A PE32+ file whose header leaves room for a Linux setup header. */
export function peFile(o: PeOptions = {}): Buffer {
  const bodies = o.sections ?? [Buffer.alloc(512, 1), Buffer.alloc(1024, 2)];
  const header = Buffer.alloc(0x400);
  header.write('MZ', 0, 'latin1');
  const pe = 0x80;
  header.writeUInt32LE(pe, 0x3c);
  header.write('PE\0\0', pe, 'latin1');
  header.writeUInt16LE(0x8664, pe + 4);
  header.writeUInt16LE(bodies.length, pe + 6);
  header.writeUInt16LE(112 + 8 * 6, pe + 20);
  const optional = pe + 24;
  header.writeUInt16LE(0x20b, optional);
  header.writeUInt32LE(header.length, optional + 60);
  header.writeUInt32LE(o.checksum ?? 0, optional + 64);
  header.writeUInt32LE(6, optional + 108);
  const certificate = o.certificate ?? Buffer.alloc(0);
  const trailing = o.trailing ?? Buffer.alloc(0);
  let at = header.length;
  for (const [i, b] of bodies.entries()) {
    const section = optional + 112 + 48 + 40 * i;
    header.write(`.s${i}`, section, 'latin1');
    header.writeUInt32LE(b.length, section + 16);
    header.writeUInt32LE(at, section + 20);
    at += b.length;
  }
  if (certificate.length > 0) {
    header.writeUInt32LE(at + trailing.length, optional + 112 + 32);
    header.writeUInt32LE(certificate.length, optional + 112 + 36);
  }
  return Buffer.concat([header, ...bodies, trailing, certificate]);
}

/** A PE file that is a bzImage too, as Linux kernels with an EFI stub are. */
export function bzImage(protocol = 0x20f, xloadflags = 0x7f): Buffer {
  const k = peFile();
  k.writeUInt8(0x77, 0x211); // loadflags with LOADED_HIGH
  k.write('HdrS', 0x202, 'latin1');
  k.writeUInt16LE(protocol, 0x206);
  k.writeUInt32LE(0x7fffffff, 0x22c);
  k.writeUInt16LE(xloadflags, 0x236);
  return k;
}

/** A disk with a GPT: 128 entries, of which these are used. */
export function gptDisk(partitions: readonly number[], entryBytes = 128): Buffer {
  const disk = Buffer.alloc(64 * 512);
  const h = disk.subarray(512);
  h.write('EFI PART', 0, 'latin1');
  h.writeUInt32LE(0x10000, 8);
  h.writeUInt32LE(92, 12);
  h.fill(0xdd, 56, 72);
  h.writeBigUInt64LE(2n, 72);
  h.writeUInt32LE(128, 80);
  h.writeUInt32LE(entryBytes, 84);
  for (const p of partitions) disk.fill(p + 1, 1024 + 128 * p, 1024 + 128 * (p + 1));
  return disk;
}

/** Bytes that differ from each other and are the same on every run. */
export function pattern(length: number, seed = 1): Uint8Array {
  const out = new Uint8Array(length);
  let x = seed >>> 0 || 1;
  for (let i = 0; i < length; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    out[i] = x;
  }
  return out;
}

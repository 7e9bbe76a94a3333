// SPDX-License-Identifier: Apache-2.0
//
// The hand-off block (HOB) list that a VMM writes for a TD's firmware, which OVMF measures as the first event of RTMR0.
// Two layouts: QEMU's (hw/i386/tdvf-hob.c) and Google Cloud's (worked out from its event logs). Structures: UEFI PI
// specification volume 3, section 5. The digest covers the list without its end marker, as edk2 measures it.

import { concatBytes } from './bytes.js';
import { type Sha384, sha384 } from './digest.js';
import { MeasureError } from './errors.js';
import { q35LowMemory } from './linux-boot.js';
import { MAX_ADDRESS, type TdvfSection } from './tdvf.js';

export type HobLayout = 'qemu' | 'gce';
interface Range {
  readonly start: bigint;
  readonly end: bigint;
  readonly type: number;
  readonly attributes: number;
}

const RESOURCE_SYSTEM_MEMORY = 0;
const RESOURCE_UNACCEPTED = 7;
const PRESENT_INITIALIZED_TESTED = 7;
const GCE_UNACCEPTED_ATTRIBUTES = 0x10000007;
const HOB_PHIT = 1;
const HOB_RESOURCE = 3;
const PHIT_BYTES = 56;
const RESOURCE_BYTES = 48;
const END_BYTES = 8;
const MIB = 1n << 20n;
const GIB = 1n << 30n;

/**
 * The HOB list that the VMM makes for a TD of `memoryBytes` with the firmware's sections, without the end marker.
 * Errors: `malformed` (no TD_HOB section, memory outside 1 MiB .. 16 TiB).
 */
export function buildTdHob(layout: HobLayout, memoryBytes: bigint, sections: readonly TdvfSection[]): Uint8Array {
  const hob = sections.find((s) => s.type === 'TD_HOB');
  if (!hob) throw new MeasureError('malformed', 'TD HOB: the image has no TD_HOB section');
  const beyond = sections.find((s) => s.memoryAddress + s.memoryDataSize > MAX_ADDRESS);
  if (beyond) throw new MeasureError('malformed', `TD HOB: a ${beyond.type} section ends beyond 52 bits of address`);
  if (memoryBytes < MIB || memoryBytes > 16n << 40n || memoryBytes % 4096n !== 0n) {
    throw new MeasureError(
      'malformed',
      `TD HOB: memory of ${memoryBytes} bytes is not a multiple of 4096 between 1 MiB and 16 TiB`,
    );
  }
  const ranges = layout === 'qemu' ? qemuRanges(memoryBytes, sections) : gceRanges(memoryBytes, sections);
  const length = PHIT_BYTES + RESOURCE_BYTES * ranges.length;
  const end = hob.memoryAddress + BigInt(length) + (layout === 'qemu' ? BigInt(END_BYTES) : 0n);
  return concatBytes(phit(end), ...ranges.map(resource));
}

/** The digest of the TD HOB event in RTMR0. Errors as buildTdHob. */
export function tdHobDigest(layout: HobLayout, memoryBytes: bigint, sections: readonly TdvfSection[]): Sha384 {
  return sha384(buildTdHob(layout, memoryBytes, sections));
}

/** q35's RAM below and above 4 GiB, with the ranges of TD_HOB and TempMem sections cut out as accepted memory. */
function qemuRanges(memoryBytes: bigint, sections: readonly TdvfSection[]): Range[] {
  const low = q35LowMemory(memoryBytes);
  const ram: Range[] = [{ start: 0n, end: low, type: RESOURCE_UNACCEPTED, attributes: PRESENT_INITIALIZED_TESTED }];
  if (memoryBytes > low) {
    ram.push({
      start: 4n * GIB,
      end: 4n * GIB + memoryBytes - low,
      type: RESOURCE_UNACCEPTED,
      attributes: PRESENT_INITIALIZED_TESTED,
    });
  }
  const accepted = sections
    .filter((s) => s.type === 'TD_HOB' || s.type === 'TempMem')
    .map((s) => ({
      start: s.memoryAddress,
      end: s.memoryAddress + s.memoryDataSize,
      type: RESOURCE_SYSTEM_MEMORY,
      attributes: PRESENT_INITIALIZED_TESTED,
    }));
  for (const a of accepted) {
    if (!ram.some((r) => r.start <= a.start && a.end <= r.end)) {
      throw new MeasureError(
        'malformed',
        `TD HOB: the firmware’s memory 0x${a.start.toString(16)}..0x${a.end.toString(16)} is not in a RAM of ${memoryBytes} bytes; QEMU would not start it`,
      );
    }
  }
  return cutOut(ram, accepted, true);
}

function gceRanges(memoryBytes: bigint, sections: readonly TdvfSection[]): Range[] {
  const low = memoryBytes < 3n * GIB ? memoryBytes : 3n * GIB;
  const unaccepted = (start: bigint, end: bigint): Range => ({
    start,
    end,
    type: RESOURCE_UNACCEPTED,
    attributes: GCE_UNACCEPTED_ATTRIBUTES,
  });
  const ram = [unaccepted(0n, low), unaccepted(4n * GIB - 2n * MIB, 4n * GIB)];
  if (memoryBytes > low) ram.push(unaccepted(4n * GIB, 4n * GIB + memoryBytes - low));
  const accepted = sections.map((s) => ({
    start: s.memoryAddress,
    end: s.memoryAddress + s.memoryDataSize,
    type: RESOURCE_SYSTEM_MEMORY,
    attributes: PRESENT_INITIALIZED_TESTED,
  }));
  return [...accepted, ...cutOut(ram, accepted, false)];
}

/** `ram` less `holes`, sorted by address; the holes themselves are listed too when `keep`. */
function cutOut(ram: readonly Range[], holes: readonly Range[], keep: boolean): Range[] {
  let rest = [...ram];
  for (const h of holes) {
    rest = rest.flatMap((r) => {
      if (h.end <= r.start || h.start >= r.end) return [r];
      return [
        { ...r, end: h.start },
        { ...r, start: h.end },
      ].filter((p) => p.start < p.end);
    });
  }
  return [...rest, ...(keep ? holes : [])].sort((a, b) => (a.start < b.start ? -1 : 1));
}

function phit(endOfList: bigint): Uint8Array {
  const b = Buffer.alloc(PHIT_BYTES);
  b.writeUInt16LE(HOB_PHIT, 0);
  b.writeUInt16LE(PHIT_BYTES, 2);
  b.writeUInt32LE(9, 8); // HOB list version
  b.writeBigUInt64LE(endOfList, 48);
  return b;
}

function resource(r: Range): Uint8Array {
  const b = Buffer.alloc(RESOURCE_BYTES);
  b.writeUInt16LE(HOB_RESOURCE, 0);
  b.writeUInt16LE(RESOURCE_BYTES, 2);
  b.writeUInt32LE(r.type, 24);
  b.writeUInt32LE(r.attributes, 28);
  b.writeBigUInt64LE(r.start, 32);
  b.writeBigUInt64LE(r.end - r.start, 40);
  return b;
}

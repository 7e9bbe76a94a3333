// SPDX-License-Identifier: Apache-2.0
//
// The EV_EFI_GPT_EVENT of a disk: OVMF measures the partition table of the disk that it boots from. Source: UEFI
// specification, section 5.3; TCG PC Client Platform Firmware Profile, UEFI_GPT_DATA. Sectors of 512 bytes.

import { ByteReader, concatBytes, isZero } from './bytes.js';
import { MeasureError } from './errors.js';

const SECTOR_BYTES = 512;
const HEADER_BYTES = 92;
const ENTRY_BYTES = 128;
const MAX_ENTRIES = 1024;
const SIGNATURE = 'EFI PART';

/** How many bytes from the start of a disk are enough. */
export const GPT_BYTES = (2 + (MAX_ENTRIES * ENTRY_BYTES) / SECTOR_BYTES) * SECTOR_BYTES;

/**
 * UEFI_GPT_DATA of a disk image (its first GPT_BYTES are enough): header, count, and the used entries. The event's digest
 * is its SHA-384. Errors: `truncated`, `malformed` (no GPT, entries of another size).
 */
export function gptEventData(disk: Uint8Array): Uint8Array {
  const r = new ByteReader(disk, 'disk');
  r.take(SECTOR_BYTES, 'protective MBR');
  const header = r.sub(HEADER_BYTES, 'GPT header');
  const signature = Buffer.from(header.take(8, 'signature')).toString('latin1');
  if (signature !== SIGNATURE)
    throw new MeasureError(
      'malformed',
      `disk: no GPT: signature ${JSON.stringify(signature)} in sector 1`,
      SECTOR_BYTES,
    );
  header.u32('revision');
  const headerBytes = header.u32('header size');
  header.take(8, 'checksums');
  header.take(32, 'sectors');
  header.take(16, 'disk GUID');
  const entriesAt = header.u64('first sector of the entries');
  const count = header.u32('number of entries');
  const entryBytes = header.u32('size of an entry');
  if (
    headerBytes < HEADER_BYTES ||
    headerBytes > SECTOR_BYTES ||
    entryBytes !== ENTRY_BYTES ||
    count > MAX_ENTRIES ||
    entriesAt < 2n
  ) {
    throw new MeasureError(
      'malformed',
      `disk: GPT header of ${headerBytes} bytes with ${count} entries of ${entryBytes} bytes at sector ${entriesAt}`,
      SECTOR_BYTES,
    );
  }
  const start = entriesAt * BigInt(SECTOR_BYTES);
  if (start > BigInt(disk.length)) throw new MeasureError('truncated', `disk: GPT entries at sector ${entriesAt}`);
  const entries = new ByteReader(disk.subarray(Number(start)), 'GPT entries', Number(start));
  const used: Uint8Array[] = [];
  for (let i = 0; i < count; i++) {
    const entry = entries.take(ENTRY_BYTES, `entry ${i}`);
    if (!isZero(entry.subarray(0, 16))) used.push(entry);
  }
  const number = Buffer.alloc(8);
  number.writeBigUInt64LE(BigInt(used.length));
  return concatBytes(disk.subarray(SECTOR_BYTES, SECTOR_BYTES + HEADER_BYTES), number, ...used);
}

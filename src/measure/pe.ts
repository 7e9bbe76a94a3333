// SPDX-License-Identifier: Apache-2.0
//
// The Authenticode digest of a PE/COFF file (kernel, boot loader, UKI), which OVMF measures when it loads one: everything
// but the checksum, the entry of the certificate table, and that table. Source: PE format specification, appendix on
// Authenticode; edk2 OvmfPkg/Tcg/TdTcg2Dxe, whose treatment of unusual files is followed (no padding of odd lengths).

import { createHash } from 'node:crypto';
import { ByteReader } from './bytes.js';
import { asSha384, type Sha384 } from './digest.js';
import { MeasureError } from './errors.js';

const PE_SIGNATURE = 0x4550; // "PE\0\0"
const PE32 = 0x10b;
const PE32_PLUS = 0x20b;
const SECURITY_DIRECTORY = 4;
const SECTION_HEADER_BYTES = 40;
const MAX_SECTIONS = 96; // the PE specification's limit

/** The parts of a PE file that its Authenticode digest covers, in order. Errors: `truncated`, `malformed`. */
export function authenticodeParts(file: Uint8Array): Uint8Array[] {
  const bad = (why: string, at?: number): never => {
    throw new MeasureError('malformed', `PE file: ${why}`, at);
  };
  const reader = (at: number, what: string): ByteReader => {
    if (at > file.length) bad(`${what} at ${at}, the file has ${file.length} bytes`);
    return new ByteReader(file.subarray(at), `PE file: ${what}`, at);
  };
  if (reader(0, 'DOS header').u16('signature') !== 0x5a4d) bad('expected the signature MZ; is this a PE image?', 0);
  const pe = reader(0x3c, 'DOS header').u32('offset of the PE header');
  const coff = reader(pe, 'COFF header');
  if (coff.u32('signature') !== PE_SIGNATURE) bad('expected the signature PE', pe);
  coff.u16('machine');
  const sectionCount = coff.u16('number of sections');
  if (sectionCount > MAX_SECTIONS) bad(`${sectionCount} sections, at most ${MAX_SECTIONS}`, pe + 6);
  coff.take(12, 'symbols');
  const optionalBytes = coff.u16('size of the optional header');
  const optionalAt = pe + 24;
  const magic = reader(optionalAt, 'optional header').u16('magic');
  if (magic !== PE32 && magic !== PE32_PLUS) bad(`magic 0x${magic.toString(16)}, expected PE32 or PE32+`, optionalAt);
  const headerBytes = reader(optionalAt + 60, 'optional header').u32('size of headers');
  const directoryAt = optionalAt + (magic === PE32 ? 96 : 112);
  const directories = reader(directoryAt - 4, 'optional header').u32('number of data directories');
  const checksumAt = optionalAt + 64;
  const certificateAt = directoryAt + 8 * SECURITY_DIRECTORY;
  const signed = directories > SECURITY_DIRECTORY;
  const fixedEnd = signed ? certificateAt + 8 : checksumAt + 4;
  if (headerBytes < fixedEnd || headerBytes > file.length)
    bad(`size of headers ${headerBytes} is not between ${fixedEnd} and the file's ${file.length} bytes`);
  const parts = [file.subarray(0, checksumAt)];
  let certificateBytes = 0;
  if (signed) {
    certificateBytes = reader(certificateAt + 4, 'certificate table').u32('size');
    parts.push(file.subarray(checksumAt + 4, certificateAt));
  }
  parts.push(file.subarray(fixedEnd, headerBytes));
  let hashed = headerBytes;
  for (const s of sections(reader(optionalAt + optionalBytes, 'section table'), sectionCount)) {
    if (s.at + s.bytes > file.length)
      bad(`a section ends at ${s.at + s.bytes}, the file has ${file.length} bytes`, s.at);
    parts.push(file.subarray(s.at, s.at + s.bytes));
    hashed += s.bytes;
  }
  if (file.length > hashed) {
    if (file.length < hashed + certificateBytes)
      bad(`certificate table of ${certificateBytes} bytes, ${file.length - hashed} are left behind the sections`);
    parts.push(file.subarray(hashed, file.length - certificateBytes));
  }
  return parts;
}

function sections(r: ByteReader, count: number): { readonly at: number; readonly bytes: number }[] {
  const out: { at: number; bytes: number }[] = [];
  for (let i = 0; i < count; i++) {
    const s = r.sub(SECTION_HEADER_BYTES, `section ${i}`);
    s.take(16, 'name and virtual range');
    const bytes = s.u32('raw size');
    const at = s.u32('raw offset');
    if (bytes > 0) out.push({ at, bytes });
  }
  return out.sort((a, b) => a.at - b.at);
}

/** SHA-384 over the Authenticode parts: what RTMR1 gets for a loaded image. Errors: `truncated`, `malformed`. */
export function authenticodeSha384(file: Uint8Array): Sha384 {
  const hash = createHash('sha384');
  for (const p of authenticodeParts(file)) hash.update(p);
  return asSha384(hash.digest(), 'Authenticode digest');
}

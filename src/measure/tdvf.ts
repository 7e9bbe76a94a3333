// SPDX-License-Identifier: Apache-2.0
//
// TDVF metadata: where a TD's firmware image says which of its bytes go where in guest memory. Two locators lead to the
// descriptor: the GUIDed table at the image's end (OVMF; the only one that QEMU reads) and an offset near the end
// (td-shim). Source: Intel TDX Virtual Firmware Design Guide section 11; QEMU hw/i386/tdvf.c, td-shim and Google's
// endorsement tool for the rules that each enforces. The image is hostile: everything is checked against its length.

import { ByteReader, equalBytes, guidFromString, guidToString } from './bytes.js';
import { MeasureError } from './errors.js';

export const PAGE_BYTES = 4096;
/** Guest-physical addresses have at most 52 bits. */
export const MAX_ADDRESS = 1n << 52n;

/** Section types of the TDVF Design Guide, by number. */
export const SECTION_TYPES = [
  'BFV',
  'CFV',
  'TD_HOB',
  'TempMem',
  'PermMem',
  'Payload',
  'PayloadParam',
  'TdInfo',
  'TdParams',
] as const;
export type SectionType = (typeof SECTION_TYPES)[number];

/** Attribute bits. */
export const ATTRIBUTE_MR_EXTEND = 1;
export const ATTRIBUTE_PAGE_AUG = 2;

export interface TdvfSection {
  readonly type: SectionType;
  /** Bytes from the start of the image, and how many the file holds. */
  readonly dataOffset: number;
  readonly rawDataSize: number;
  /** Guest-physical address and size in bytes. */
  readonly memoryAddress: bigint;
  readonly memoryDataSize: bigint;
  readonly attributes: number;
}

export interface FooterEntry {
  readonly guid: string;
  readonly name: string;
  readonly offset: number;
  readonly dataBytes: number;
}

export interface Tdvf {
  readonly imageBytes: number;
  readonly locator: 'guid-table' | 'offset';
  readonly descriptorOffset: number;
  readonly version: number;
  readonly sections: readonly TdvfSection[];
  /** The GUIDed table at the end of the image, where there is one, last entry first. */
  readonly footer: readonly FooterEntry[];
}

const FOOTER_GUID = guidFromString('96b582de-1fb2-45f7-baea-a366c55a082d');
const TDX_METADATA_GUID = 'e47a6535-984a-4798-865e-4685a7bf8ec2';
const FOOTER_NAMES: Readonly<Record<string, string>> = {
  '96b582de-1fb2-45f7-baea-a366c55a082d': 'table footer',
  [TDX_METADATA_GUID]: 'TDX metadata offset',
  'dc886566-984a-4798-a75e-5585a7bf67cc': 'SEV metadata offset',
  '7255371f-3a3b-4b04-927b-1da6efa8d454': 'SEV hash table',
  '4c2eb361-7d9b-4cc3-8081-127c90d3d294': 'SEV secret block',
  '00f771de-1a7e-4fcb-890e-68c77e2fb44e': 'SEV-ES reset block',
  '784fa70e-3176-4677-8a20-04b68699e374': 'IGVM data',
};
const SIGNATURE = 0x46564454; // "TDVF"
const ENTRY_BYTES = 18; // u16 length, GUID
const FOOTER_END = 32; // bytes between the footer and the end: the reset vector's
const MAX_SECTIONS = 256; // real images have under ten; bounds the work on a hostile one
const MAX_IMAGE_BYTES = 1 << 30;

/**
 * Finds and reads the metadata of a firmware image.
 * Errors: `truncated`, `malformed` (no metadata, wrong signature, version, length, type), `limit`.
 */
export function parseTdvf(image: Uint8Array): Tdvf {
  if (image.length > MAX_IMAGE_BYTES)
    throw new MeasureError('limit', `image: ${image.length} bytes, at most ${MAX_IMAGE_BYTES}`);
  const footer = parseFooter(image);
  const entry = footer.find((e) => e.guid === TDX_METADATA_GUID);
  if (entry) {
    if (entry.dataBytes !== 4) {
      throw new MeasureError(
        'malformed',
        `TDX metadata entry: expected 4 bytes of data, got ${entry.dataBytes}`,
        entry.offset,
      );
    }
    const distance = new ByteReader(image.subarray(entry.offset), 'TDX metadata entry', entry.offset).u32(
      'offset from end',
    );
    return {
      ...parseDescriptor(image, image.length - distance),
      imageBytes: image.length,
      locator: 'guid-table',
      footer,
    };
  }
  if (image.length >= 0x20) {
    const at = new ByteReader(image.subarray(image.length - 0x20), 'image', image.length - 0x20).u32('metadata offset');
    if (at <= image.length - 16 && new ByteReader(image.subarray(at), 'image', at).u32('signature') === SIGNATURE) {
      return { ...parseDescriptor(image, at), imageBytes: image.length, locator: 'offset', footer };
    }
  }
  throw new MeasureError(
    'malformed',
    'image: no TDVF metadata: neither the GUIDed table at its end nor the offset 32 bytes before it leads to a descriptor; is this a firmware image built for TDX?',
  );
}

/** The entries of the GUIDed table; empty when the image has none. Error `malformed` where the table contradicts itself. */
function parseFooter(image: Uint8Array): FooterEntry[] {
  const end = image.length - FOOTER_END;
  if (end < ENTRY_BYTES || !equalBytes(image.subarray(end - 16, end), FOOTER_GUID)) return [];
  const u16At = (at: number): number => new ByteReader(image.subarray(at), 'GUIDed table', at).u16('length');
  const total = u16At(end - ENTRY_BYTES);
  if (total < ENTRY_BYTES || total > end) {
    throw new MeasureError(
      'malformed',
      `GUIDed table: length ${total} is not between ${ENTRY_BYTES} and ${end}`,
      end - ENTRY_BYTES,
    );
  }
  const entries: FooterEntry[] = [];
  const start = end - total;
  let at = end - ENTRY_BYTES;
  while (at > start) {
    if (at - start < ENTRY_BYTES)
      throw new MeasureError('malformed', `GUIDed table: ${at - start} bytes left for an entry`, start);
    const guid = guidToString(image.subarray(at - 16, at));
    const length = u16At(at - ENTRY_BYTES);
    if (length < ENTRY_BYTES || length > at - start) {
      throw new MeasureError(
        'malformed',
        `GUIDed table: entry ${guid} has length ${length}, ${at - start} bytes are left`,
        at - ENTRY_BYTES,
      );
    }
    entries.push({ guid, name: FOOTER_NAMES[guid] ?? 'unknown', offset: at - length, dataBytes: length - ENTRY_BYTES });
    at -= length;
  }
  return entries;
}

function parseDescriptor(image: Uint8Array, at: number): Pick<Tdvf, 'descriptorOffset' | 'version' | 'sections'> {
  if (at < 0 || at > image.length - 16) {
    throw new MeasureError('malformed', `TDVF descriptor: offset ${at} is outside the image of ${image.length} bytes`);
  }
  const r = new ByteReader(image.subarray(at), 'TDVF descriptor', at);
  const signature = r.u32('signature');
  if (signature !== SIGNATURE) {
    throw new MeasureError(
      'malformed',
      `TDVF descriptor: expected the signature TDVF, got 0x${signature.toString(16)}`,
      at,
    );
  }
  const length = r.u32('length');
  const version = r.u32('version');
  const count = r.u32('number of sections');
  if (version !== 1)
    throw new MeasureError('unsupported', `TDVF descriptor: version ${version}, only 1 is known`, at + 8);
  if (count === 0 || count > MAX_SECTIONS) {
    throw new MeasureError('limit', `TDVF descriptor: ${count} sections, expected 1 to ${MAX_SECTIONS}`, at + 12);
  }
  if (length !== 16 + 32 * count) {
    throw new MeasureError(
      'malformed',
      `TDVF descriptor: length ${length}, expected ${16 + 32 * count} for ${count} sections`,
      at + 4,
    );
  }
  const sections: TdvfSection[] = [];
  for (let i = 0; i < count; i++) {
    const s = r.sub(32, `section ${i}`);
    const dataOffset = s.u32('data offset');
    const rawDataSize = s.u32('raw data size');
    const memoryAddress = s.u64('memory address');
    const memoryDataSize = s.u64('memory data size');
    const typeNumber = s.u32('type');
    const attributes = s.u32('attributes');
    const type = SECTION_TYPES[typeNumber];
    if (type === undefined)
      throw new MeasureError('unsupported', `TDVF section ${i}: unknown type ${typeNumber}`, s.base + 24);
    sections.push({ type, dataOffset, rawDataSize, memoryAddress, memoryDataSize, attributes });
  }
  return { descriptorOffset: at, version, sections };
}

/** Who enforces a rule: a finding is an error for that consumer, a warning for the others. */
export type RuleSource = 'measure' | 'qemu' | 'td-shim' | 'gce';
export interface Finding {
  readonly rule: string;
  readonly source: RuleSource;
  /** Index of the section, or undefined for the whole image. */
  readonly section?: number;
  readonly message: string;
}

/**
 * Every rule that QEMU, td-shim's validator and Google Cloud apply to the metadata, by name; `measure` marks what makes a
 * measurement impossible or ambiguous. Never throws: all findings are returned.
 */
export function checkTdvf(tdvf: Tdvf): Finding[] {
  const findings: Finding[] = [];
  const add = (source: RuleSource, rule: string, message: string, section?: number): void => {
    findings.push(section === undefined ? { rule, source, message } : { rule, source, section, message });
  };
  const { sections, imageBytes } = tdvf;
  sections.forEach((s, i) => checkSection(s, i, imageBytes, add));
  const count = (t: SectionType): number => sections.filter((s) => s.type === t).length;

  if (tdvf.locator !== 'guid-table')
    add('qemu', 'guid-table', 'QEMU finds the metadata only through the GUIDed table, which this image lacks');
  if (sections.length < 2) add('qemu', 'two-sections', `${sections.length} section, at least 2 are needed`);
  if (count('TD_HOB') === 0) add('qemu', 'td-hob', 'no TD_HOB section');
  if (count('BFV') === 0) add('td-shim', 'bfv', 'no BFV section');
  for (const t of ['TD_HOB', 'Payload', 'PayloadParam', 'TdInfo', 'TdParams'] as const) {
    if (count(t) > 1) add('td-shim', 'single', `${count(t)} ${t} sections, at most one is allowed`);
  }
  if (count('TD_HOB') === 0 && count('PermMem') === 0)
    add('td-shim', 'memory', 'neither a TD_HOB nor a PermMem section');
  if (count('TD_HOB') !== 1) add('gce', 'td-hob', `${count('TD_HOB')} TD_HOB sections, expected exactly one`);
  const volumes = sections.filter((s) => s.type === 'BFV' || s.type === 'CFV').reduce((n, s) => n + s.rawDataSize, 0);
  if (volumes !== imageBytes) {
    add(
      'gce',
      'volumes-cover-image',
      `BFV and CFV hold ${volumes} bytes, the image has ${imageBytes}${volumes > imageBytes ? ': part of a split image (VARS and CODE)?' : ''}`,
    );
  }
  const bfv = sections.find((s) => s.type === 'BFV');
  for (const [i, s] of sections.entries()) {
    if (s.type !== 'TdInfo' && s.type !== 'TdParams') continue;
    const [start, end] = [bfv?.dataOffset ?? 0, (bfv?.dataOffset ?? 0) + (bfv?.rawDataSize ?? 0)];
    if (s.dataOffset < start || s.dataOffset + s.rawDataSize > end)
      add('td-shim', 'info-in-bfv', `${s.type} lies outside the BFV’s bytes`, i);
  }
  const placed = sections.map((s, i) => ({ s, i })).filter(({ s }) => s.memoryDataSize > 0n);
  placed.sort((a, b) => (a.s.memoryAddress < b.s.memoryAddress ? -1 : 1));
  for (let k = 1; k < placed.length; k++) {
    const [a, b] = [placed[k - 1], placed[k]];
    if (a && b && a.s.memoryAddress + a.s.memoryDataSize > b.s.memoryAddress) {
      add('measure', 'no-overlap', `overlaps section ${a.i} (${a.s.type}) in guest memory`, b.i);
    }
  }
  return findings;
}

function checkSection(
  s: TdvfSection,
  i: number,
  imageBytes: number,
  add: (source: RuleSource, rule: string, message: string, section: number) => void,
): void {
  const isVolume = s.type === 'BFV' || s.type === 'CFV';
  const info = s.type === 'TdInfo' || s.type === 'TdParams';
  if (s.dataOffset + s.rawDataSize > imageBytes) {
    add(
      'measure',
      'data-in-image',
      `data ends at ${s.dataOffset + s.rawDataSize}, the image at ${imageBytes}: one half of a split image? Join VARS and CODE first`,
      i,
    );
  }
  if (s.memoryAddress % 4096n !== 0n)
    add('measure', 'address-alignment', 'memory address is not a multiple of 4096', i);
  if (s.memoryDataSize % 4096n !== 0n) add('measure', 'size-alignment', 'memory size is not a multiple of 4096', i);
  if (s.memoryAddress + s.memoryDataSize > MAX_ADDRESS)
    add('measure', 'address-range', 'ends beyond 52 bits of address', i);
  if (!info && s.memoryDataSize < BigInt(s.rawDataSize))
    add('qemu', 'raw-fits', `memory size ${s.memoryDataSize} is below the raw size ${s.rawDataSize}`, i);
  if (isVolume && s.rawDataSize === 0) add('qemu', 'volume-has-data', `${s.type} without data`, i);
  if ((s.type === 'TD_HOB' || s.type === 'TempMem') && s.rawDataSize !== 0)
    add('qemu', 'no-data', `${s.type} with ${s.rawDataSize} bytes of data`, i);
  if (SECTION_TYPES.indexOf(s.type) > 3) add('qemu', 'known-type', `QEMU refuses sections of type ${s.type}`, i);
  if ((s.attributes & ~3) !== 0)
    add('td-shim', 'attributes', `unknown attribute bits 0x${s.attributes.toString(16)}`, i);
  const required: Partial<Record<SectionType, number>> = {
    BFV: 1,
    CFV: 0,
    TD_HOB: 0,
    TempMem: 0,
    PayloadParam: 0,
    PermMem: 2,
  };
  const want = required[s.type];
  if (want !== undefined && s.attributes !== want)
    add('td-shim', 'attributes', `${s.type} has attributes ${s.attributes}, expected ${want}`, i);
  if (s.type === 'Payload' && (s.attributes & ~ATTRIBUTE_MR_EXTEND) !== 0)
    add('td-shim', 'attributes', `Payload has attributes ${s.attributes}, expected 0 or 1`, i);
  if (info && (s.memoryAddress !== 0n || s.memoryDataSize !== 0n))
    add('td-shim', 'info-without-memory', `${s.type} has an address or a memory size`, i);
  if (isVolume && s.memoryDataSize !== BigInt(s.rawDataSize)) {
    add('gce', 'sizes-equal', `memory size ${s.memoryDataSize} differs from the raw size ${s.rawDataSize}`, i);
  }
  if ((s.attributes & ATTRIBUTE_MR_EXTEND) !== 0 && BigInt(s.rawDataSize) < s.memoryDataSize) {
    add(
      'measure',
      'padding-ambiguous',
      `extends ${s.memoryDataSize} bytes of which the file holds ${s.rawDataSize}: loaders disagree whether the rest is zero or the bytes that follow`,
      i,
    );
  }
}

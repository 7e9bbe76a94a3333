// SPDX-License-Identifier: Apache-2.0
//
// UEFI variables as OVMF keeps them (the variable store at the start of OVMF_VARS.fd, of a whole OVMF.fd, or of a CFV) and
// as it measures them. Source: edk2 MdeModulePkg/Include/Guid/VariableFormat.h; UEFI specification, sections 3.1.3 (load
// options) and 8.2; TCG PC Client Platform Firmware Profile, UEFI_VARIABLE_DATA. The store is hostile input.

import { ByteReader, concatBytes, equalBytes, guidFromString, guidToString } from './bytes.js';
import { MeasureError } from './errors.js';

export const GLOBAL_VARIABLE_GUID = '8be4df61-93ca-11d2-aa0d-00e098032b8c';
export const IMAGE_SECURITY_GUID = 'd719b2cb-3d3a-4596-a3bc-dad00e67656f';
export const SECURE_BOOT_ENABLE_GUID = 'f0a30bc7-af08-4556-99c4-001009c93a44';

const NV_DATA_FV_GUID = guidFromString('fff12b8d-7696-4c8b-a985-2747075b4f50');
const AUTHENTICATED_STORE_GUID = guidFromString('aaf32c78-947b-439a-a180-2e144ec37792');
const PLAIN_STORE_GUID = guidFromString('ddcf3616-3275-4164-98b6-fe85707ffe7d');
const FV_SIGNATURE = 0x4856465f; // "_FVH"
const STORE_FORMATTED = 0x5a;
const STORE_HEALTHY = 0xfe;
const STORE_HEADER_BYTES = 28;
const VARIABLE_START = 0x55aa;
const STATE_ADDED = 0x3f;
/** Being replaced; still valid where no newer copy was completed. */
const STATE_IN_DELETED_TRANSITION = 0x3e;
const MAX_VARIABLES = 4096;
const MAX_NAME_BYTES = 2048;

export interface UefiVariable {
  readonly guid: string;
  readonly name: string;
  readonly attributes: number;
  readonly data: Uint8Array;
}

/** UTF-16LE without a byte-order mark; a NUL only where the text has one. */
export function utf16(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'utf16le'));
}

/**
 * The valid variables of a variable store, in its order. `flash` begins with the store's firmware volume (OVMF_VARS.fd,
 * OVMF.fd, a CFV). Errors: `malformed` (no store, sizes that contradict each other, a variable twice), `truncated`, `limit`.
 */
export function parseVariableStore(flash: Uint8Array): UefiVariable[] {
  const store = openStore(flash);
  const authenticated = equalBytes(store.guid, AUTHENTICATED_STORE_GUID);
  const [added, replaced]: [UefiVariable[], UefiVariable[]] = [[], []];
  const r = store.body;
  // The list ends where no variable starts; what follows is free space.
  while (r.remaining >= 2 && u16At(r) === VARIABLE_START) {
    const { state, variable } = readVariable(r, authenticated);
    if (state === STATE_ADDED) added.push(variable);
    else if (state === STATE_IN_DELETED_TRANSITION) replaced.push(variable);
    if (added.length + replaced.length > MAX_VARIABLES)
      throw new MeasureError('limit', `variable store: more than ${MAX_VARIABLES} variables`, r.offset);
  }
  const key = (v: UefiVariable): string => `${v.guid} ${v.name}`;
  const names = new Set(added.map(key));
  if (names.size !== added.length) throw new MeasureError('malformed', 'variable store: a variable is there twice');
  for (const v of replaced) {
    if (!names.has(key(v))) added.push(v);
    names.add(key(v));
  }
  return added;
}

function openStore(flash: Uint8Array): { readonly guid: Uint8Array; readonly body: ByteReader } {
  const fv = new ByteReader(flash, 'variable store');
  fv.take(16, 'zero vector');
  if (!equalBytes(fv.take(16, 'file system GUID'), NV_DATA_FV_GUID)) {
    throw new MeasureError(
      'malformed',
      'variable store: the file does not begin with a volume of variables; give OVMF_VARS.fd, a whole OVMF.fd, or a CFV',
      16,
    );
  }
  const volumeBytes = fv.u64('volume length');
  const signature = fv.u32('volume signature');
  fv.u32('attributes');
  const headerBytes = fv.u16('header length');
  if (signature !== FV_SIGNATURE || volumeBytes > BigInt(flash.length) || headerBytes > flash.length) {
    throw new MeasureError(
      'malformed',
      `variable store: volume of ${volumeBytes} bytes in a file of ${flash.length}`,
      32,
    );
  }
  const s = new ByteReader(flash.subarray(headerBytes), 'variable store', headerBytes);
  const guid = s.take(16, 'store GUID');
  if (!equalBytes(guid, AUTHENTICATED_STORE_GUID) && !equalBytes(guid, PLAIN_STORE_GUID))
    throw new MeasureError('malformed', `variable store: unknown format ${guidToString(guid)}`, headerBytes);
  const size = s.u32('store size');
  const [format, state] = [s.u8('format'), s.u8('state')];
  s.take(6, 'reserved');
  if (format !== STORE_FORMATTED || state !== STORE_HEALTHY)
    throw new MeasureError(
      'malformed',
      `variable store: format 0x${format.toString(16)} state 0x${state.toString(16)}, expected 0x5a 0xfe`,
    );
  if (size < STORE_HEADER_BYTES) throw new MeasureError('malformed', `variable store: size ${size}`, headerBytes + 16);
  return { guid, body: s.sub(size - STORE_HEADER_BYTES, 'variables') };
}

function u16At(r: ByteReader): number {
  const at = r.bytes.length - r.remaining;
  return (r.bytes[at] ?? 0) | ((r.bytes[at + 1] ?? 0) << 8);
}

function readVariable(
  r: ByteReader,
  authenticated: boolean,
): { readonly state: number; readonly variable: UefiVariable } {
  const at = r.offset;
  r.u16('start');
  const state = r.u8('state');
  r.u8('reserved');
  const attributes = r.u32('attributes');
  if (authenticated) r.take(8 + 16 + 4, 'count, time and key index');
  const nameBytes = r.u32('name size');
  const dataBytes = r.u32('data size');
  if (nameBytes < 4 || nameBytes % 2 !== 0 || nameBytes > MAX_NAME_BYTES)
    throw new MeasureError('malformed', `variable store: name of ${nameBytes} bytes`, at);
  const guid = guidToString(r.take(16, 'vendor GUID'));
  const name = Buffer.from(r.take(nameBytes, 'name')).toString('utf16le');
  if (name.indexOf('\0') !== name.length - 1)
    throw new MeasureError('malformed', 'variable store: a name does not end at its NUL', at);
  const data = r.take(dataBytes, 'data');
  r.take(Math.min((4 - ((nameBytes + dataBytes) % 4)) % 4, r.remaining), 'padding');
  return { state, variable: { guid, name: name.slice(0, -1), attributes, data } };
}

/** The structure that TCG's variable events carry, and most of them hash: GUID, lengths, name without NUL, data. */
export function uefiVariableData(guid: string, name: string, data: Uint8Array): Uint8Array {
  const lengths = Buffer.alloc(16);
  lengths.writeBigUInt64LE(BigInt(name.length), 0);
  lengths.writeBigUInt64LE(BigInt(data.length), 8);
  return concatBytes(guidFromString(guid), lengths, utf16(name), data);
}

/** Takes UEFI_VARIABLE_DATA apart. Errors: `truncated`, `malformed`. */
export function parseUefiVariableData(bytes: Uint8Array): Pick<UefiVariable, 'guid' | 'name' | 'data'> {
  const r = new ByteReader(bytes, 'variable event');
  const guid = guidToString(r.take(16, 'GUID'));
  const [nameLength, dataLength] = [r.u64('name length'), r.u64('data length')];
  if (nameLength > BigInt(bytes.length) || dataLength > BigInt(bytes.length))
    throw new MeasureError(
      'malformed',
      `variable event: name of ${nameLength}, data of ${dataLength} in ${bytes.length} bytes`,
      16,
    );
  const name = Buffer.from(r.take(2 * Number(nameLength), 'name')).toString('utf16le');
  const data = r.take(Number(dataLength), 'data');
  r.end();
  return { guid, name, data };
}

/** The value of BootOrder. */
export function bootOrder(options: readonly number[]): Uint8Array {
  const b = Buffer.alloc(2 * options.length);
  for (const [i, n] of options.entries()) b.writeUInt16LE(n, 2 * i);
  return new Uint8Array(b);
}

export interface FirmwareApplication {
  readonly attributes: number;
  readonly description: string;
  /** GUIDs of the firmware volume and of the file in it. */
  readonly volume: string;
  readonly file: string;
}

/** The value of a Boot#### variable that starts an application of the firmware itself (EFI_LOAD_OPTION). */
export function bootOption(o: FirmwareApplication): Uint8Array {
  const node = (subtype: number, guid: string): Uint8Array =>
    concatBytes(Uint8Array.of(4, subtype, 20, 0), guidFromString(guid));
  const path = concatBytes(node(7, o.volume), node(6, o.file), Uint8Array.of(0x7f, 0xff, 4, 0));
  const head = Buffer.alloc(6);
  head.writeUInt32LE(o.attributes, 0);
  head.writeUInt16LE(path.length, 4);
  return concatBytes(head, utf16(`${o.description}\0`), path);
}

const DXE_VOLUME = '7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1';
/** Boot options that OVMF makes for itself, by the name that the command line uses. */
export const FIRMWARE_APPLICATIONS = {
  /** The only one before edk2-stable202505. */
  UiApp: { attributes: 0x109, description: 'UiApp', volume: DXE_VOLUME, file: '462caa21-7614-4503-836e-8ab6f4662331' },
  /** This and the next since edk2-stable202505. */
  BootManagerMenuApp: {
    attributes: 0x109,
    description: 'BootManagerMenuApp',
    volume: DXE_VOLUME,
    file: 'eec25bdc-67f2-4d95-b1d5-f81b2039d11d',
  },
  FirmwareSetup: {
    attributes: 0x101,
    description: 'EFI Firmware Setup',
    volume: DXE_VOLUME,
    file: '462caa21-7614-4503-836e-8ab6f4662331',
  },
} as const satisfies Readonly<Record<string, FirmwareApplication>>;

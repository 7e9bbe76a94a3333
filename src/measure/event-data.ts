// SPDX-License-Identifier: Apache-2.0
//
// What an event's digest must be, given its data. A replay proves the digests of a log and nothing else: the data beside
// them is the host's word until it is hashed again, where the format says what was hashed. Source: TCG PC Client Platform
// Firmware Profile, table of events; edk2 for what OVMF hashes of boot variables; td-shim for its configuration events.

import { ByteReader, equalBytes } from './bytes.js';
import { sha384 } from './digest.js';
import { MeasureError } from './errors.js';
import { EV_SEPARATOR, type LogEvent } from './event-log.js';
import { parseUefiVariableData } from './uefi-variables.js';

/**
 * `match`: the digest covers all of the data. `match-value`: it covers the variable's value alone, its name is not proven.
 * `mismatch`: the data is not what was measured. `not-defined`: the format does not say what the digest covers.
 */
export type DataCheck = 'match' | 'match-value' | 'mismatch' | 'not-defined';

export const EV_ACTION = 5;
export const EV_EVENT_TAG = 6;
export const EV_PLATFORM_CONFIG_FLAGS = 0xa;
export const EV_IPL = 0xd;
export const EV_EFI_VARIABLE_DRIVER_CONFIG = 0x80000001;
export const EV_EFI_VARIABLE_BOOT = 0x80000002;
export const EV_EFI_BOOT_SERVICES_APPLICATION = 0x80000003;
export const EV_EFI_GPT_EVENT = 0x80000006;
export const EV_EFI_ACTION = 0x80000007;
export const EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000000a;
export const EV_EFI_HANDOFF_TABLES2 = 0x8000000b;
export const EV_EFI_VARIABLE_BOOT2 = 0x8000000c;
export const EV_EFI_VARIABLE_AUTHORITY = 0x800000e0;

/** Whether the event's data is what its digest covers, where that is defined. Never throws. */
export function checkEventData(e: Pick<LogEvent, 'type' | 'digest' | 'data'>): DataCheck {
  if (!e.digest) return 'not-defined';
  const covers = (data: Uint8Array): boolean => equalBytes(sha384(data), e.digest ?? data);
  switch (e.type) {
    case EV_SEPARATOR:
    case EV_ACTION:
    case EV_EFI_ACTION:
    case EV_EFI_VARIABLE_DRIVER_CONFIG:
    case EV_EFI_GPT_EVENT:
    case EV_EFI_VARIABLE_AUTHORITY:
      return covers(e.data) ? 'match' : 'mismatch';
    case EV_EFI_VARIABLE_BOOT:
    case EV_EFI_VARIABLE_BOOT2: {
      if (covers(e.data)) return 'match';
      const value = variableValue(e.data);
      return value && covers(value) ? 'match-value' : 'mismatch';
    }
    case EV_PLATFORM_CONFIG_FLAGS: {
      const info = tdShimInfo(e.data);
      if (info) return covers(info) ? 'match' : 'mismatch';
      return covers(e.data) ? 'match' : 'not-defined';
    }
    default:
      // Our kernel's events, and others that hash their data without being bound to.
      return covers(e.data) ? 'match' : 'not-defined';
  }
}

function variableValue(data: Uint8Array): Uint8Array | undefined {
  try {
    return parseUefiVariableData(data).data;
  } catch (error) {
    if (error instanceof MeasureError) return undefined;
    throw error;
  }
}

const TD_SHIM_EVENTS = new Set(['td_hob', 'td_payload_info', 'td_payload_svn', 'secure_policy_db', 'secure_authority']);

/** The info of td-shim's TD_SHIM_PLATFORM_CONFIG_INFO (16-byte name, u32 length, info), or undefined for other data. */
function tdShimInfo(data: Uint8Array): Uint8Array | undefined {
  if (data.length < 20) return undefined;
  const r = new ByteReader(data, 'platform configuration');
  const name = Buffer.from(r.take(16, 'name')).toString('latin1').replace(/\0+$/, '');
  if (!TD_SHIM_EVENTS.has(name)) return undefined;
  return r.u32('length') === r.remaining ? r.rest() : undefined;
}

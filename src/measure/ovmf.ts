// SPDX-License-Identifier: Apache-2.0
//
// RTMR0..RTMR2 of a TD that boots through OVMF, from the files it is made of: the events that the firmware, and the kernel's
// EFI stub after it, measure, in their order. What only the VMM knows (ACPI tables) comes from files or from a log that the
// caller trusts, and is marked so; what neither gives stays open, and its register with it. Sources: edk2 OvmfPkg
// (SecTdxHelper, TdTcg2Dxe, QemuFwCfgAcpi), SecurityPkg; Linux drivers/firmware/efi/libstub; facts checked on real logs.

import { guidToString } from './bytes.js';
import { type Sha384, sha384 } from './digest.js';
import { MeasureError } from './errors.js';
import * as T from './event-data.js';
import type { EventSource, ExpectedEvent } from './event-diff.js';
import { EV_SEPARATOR, type EventLog, type LogEvent } from './event-log.js';
import { gptEventData } from './gpt.js';
import { type InitrdArgument, loadOptions, patchForDirectBoot } from './linux-boot.js';
import { authenticodeSha384 } from './pe.js';
import { type HobLayout, tdHobDigest } from './td-hob.js';
import { parseTdvf } from './tdvf.js';
import {
  bootOrder,
  GLOBAL_VARIABLE_GUID,
  IMAGE_SECURITY_GUID,
  parseUefiVariableData,
  parseVariableStore,
  SECURE_BOOT_ENABLE_GUID,
  type UefiVariable,
  uefiVariableData,
} from './uefi-variables.js';

export interface NamedFile {
  readonly name: string;
  readonly bytes: Uint8Array;
}

export interface DirectBootParts {
  readonly kernel: Uint8Array;
  readonly initrd?: Uint8Array;
  /** As given to QEMU's -append. */
  readonly commandLine: string;
  readonly initrdArgument: InitrdArgument;
  /** Whether QEMU writes into the kernel's setup header (every release does by default). */
  readonly patchHeader: boolean;
}

export interface OvmfParts {
  /** The whole image: OVMF.fd, or VARS and CODE joined. */
  readonly firmware: Uint8Array;
  readonly memoryBytes: bigint;
  readonly layout: HobLayout;
  /** OVMF_VARS.fd to use in place of the image's own. */
  readonly vars?: Uint8Array;
  /** The variable SecureBoot: `absent` in builds without Secure Boot. Default: from the enrolled keys. */
  readonly secureBoot?: 'absent' | 'off' | 'on';
  /** fw_cfg items that recent firmware measures after the CFV, in its order. */
  readonly fwCfg?: readonly NamedFile[];
  /** The three blobs as QEMU serves them: etc/table-loader, etc/acpi/rsdp, etc/acpi/tables. */
  readonly acpi?: readonly [Uint8Array, Uint8Array, Uint8Array];
  /** Values of Boot0000, Boot0001 and so on; BootOrder lists them all. */
  readonly bootOptions?: readonly Uint8Array[];
  /** Register of the separator before the boot option starts: RTMR1, or RTMR0 with older firmware. */
  readonly bootSeparator: 'rtmr0' | 'rtmr1';
  /** QEMU's -kernel, or else: */
  readonly direct?: DirectBootParts;
  /** PE images that are loaded from the disk, in order, and the disk (its first GPT_BYTES). */
  readonly images?: readonly NamedFile[];
  readonly disk?: Uint8Array;
  /** A log of such a guest: what is not given above comes from it. */
  readonly log?: EventLog;
}

const [RTMR0, RTMR1, RTMR2] = [1, 2, 3];
const SEPARATOR = new Uint8Array(4);
const ACPI_NAMES = ['etc/table-loader', 'etc/acpi/rsdp', 'etc/acpi/tables'] as const;
const KEYS: readonly (readonly [string, string, 'always' | 'if-set'])[] = [
  [GLOBAL_VARIABLE_GUID, 'PK', 'always'],
  [GLOBAL_VARIABLE_GUID, 'KEK', 'always'],
  [IMAGE_SECURITY_GUID, 'db', 'always'],
  [IMAGE_SECURITY_GUID, 'dbx', 'always'],
  [IMAGE_SECURITY_GUID, 'dbt', 'if-set'],
  [IMAGE_SECURITY_GUID, 'dbr', 'if-set'],
];

/**
 * The events of one boot, in the order of each register. Errors: those of the parsers of each part; `usage` when parts
 * contradict each other.
 */
export function ovmfEvents(parts: OvmfParts): ExpectedEvent[] {
  const events: ExpectedEvent[] = [];
  const add = (
    mrIndex: number,
    type: number,
    what: string,
    digest: Sha384 | undefined,
    source: EventSource = 'computed',
  ) => {
    events.push(digest ? { mrIndex, type, what, digest, source } : { mrIndex, type, what, source: 'unknown' });
  };
  const text = (mrIndex: number, value: string): void =>
    add(mrIndex, T.EV_EFI_ACTION, value, sha384(Buffer.from(value, 'latin1')));
  const separator = (mrIndex: number): void => add(mrIndex, EV_SEPARATOR, 'separator', sha384(SEPARATOR));
  const fromLog = (mrIndex: number, ...types: number[]): LogEvent[] =>
    parts.log?.events.filter(
      (e) => e.mrIndex === mrIndex && e.digest && (types.length === 0 || types.includes(e.type)),
    ) ?? [];
  const copy = (found: readonly LogEvent[], what: (e: LogEvent) => string): void => {
    for (const e of found) add(e.mrIndex, e.type, what(e), e.digest, 'log');
  };
  if (parts.direct && (parts.images || parts.disk))
    throw new MeasureError('usage', 'a kernel given to QEMU, and images from a disk: give one or the other');

  const tdvf = parseTdvf(parts.firmware);
  const cfv = cfvBytes(parts);
  add(
    RTMR0,
    T.EV_EFI_HANDOFF_TABLES2,
    `TD HOB, ${parts.layout} layout`,
    tdHobDigest(parts.layout, parts.memoryBytes, tdvf.sections),
  );
  add(RTMR0, T.EV_EFI_PLATFORM_FIRMWARE_BLOB2, `CFV, ${cfv.length} bytes`, sha384(cfv));
  for (const f of parts.fwCfg ?? []) add(RTMR0, T.EV_PLATFORM_CONFIG_FLAGS, `fw_cfg ${f.name}`, sha384(f.bytes));
  for (const v of securityVariables(parseVariableStore(cfv), parts.secureBoot)) {
    const data = uefiVariableData(v.guid, v.name, v.data);
    add(RTMR0, T.EV_EFI_VARIABLE_DRIVER_CONFIG, `${v.name}, ${v.data.length} bytes`, sha384(data));
  }
  separator(RTMR0);
  acpi(parts, fromLog(RTMR0, T.EV_PLATFORM_CONFIG_FLAGS), add);
  bootVariables(parts, fromLog(RTMR0, T.EV_EFI_VARIABLE_BOOT, T.EV_EFI_VARIABLE_BOOT2), add);

  const { direct } = parts;
  if (direct) {
    const patch = {
      initrdBytes: direct.initrd?.length ?? 0,
      memoryBytes: parts.memoryBytes,
      commandLine: direct.commandLine,
    };
    const kernel = direct.patchHeader ? patchForDirectBoot(direct.kernel, patch) : direct.kernel;
    add(
      RTMR1,
      T.EV_EFI_BOOT_SERVICES_APPLICATION,
      `kernel${direct.patchHeader ? ' with QEMU’s header' : ''}`,
      authenticodeSha384(kernel),
    );
  }
  text(RTMR1, 'Calling EFI Application from Boot Option');
  separator(parts.bootSeparator === 'rtmr0' ? RTMR0 : RTMR1);
  if (!direct) diskBoot(parts, fromLog, copy, add);
  copy(fromLog(RTMR0, T.EV_EFI_VARIABLE_AUTHORITY), () => 'key that admitted an image');
  if (direct) {
    const argument = direct.initrd ? direct.initrdArgument : 'none';
    add(RTMR2, T.EV_EVENT_TAG, 'command line (LoadOptions)', sha384(loadOptions(direct.commandLine, argument)));
    if (direct.initrd) add(RTMR2, T.EV_EVENT_TAG, `initrd, ${direct.initrd.length} bytes`, sha384(direct.initrd));
  } else if (parts.log) copy(fromLog(RTMR2), (e) => e.typeName);
  else add(RTMR2, T.EV_IPL, 'what the boot loader measures', undefined);
  text(RTMR1, 'Exit Boot Services Invocation');
  text(RTMR1, 'Exit Boot Services Returned with Success');
  return events;
}

type Add = (mrIndex: number, type: number, what: string, digest: Sha384 | undefined, source?: EventSource) => void;

/** The CFV's bytes as the VMM loads them: the image's, or the given VARS in their place. */
function cfvBytes(parts: OvmfParts): Uint8Array {
  const section = parseTdvf(parts.firmware).sections.find((s) => s.type === 'CFV');
  if (!section) throw new MeasureError('malformed', 'firmware: no CFV section, so no OVMF image with variables');
  const bytes = Number(section.memoryDataSize);
  if (section.dataOffset + bytes > parts.firmware.length)
    throw new MeasureError('malformed', 'firmware: the CFV ends outside the image; join VARS and CODE');
  if (parts.vars && parts.vars.length !== bytes)
    throw new MeasureError('usage', `variables: ${parts.vars.length} bytes, the image’s CFV has ${bytes}`);
  return parts.vars ?? parts.firmware.subarray(section.dataOffset, section.dataOffset + bytes);
}

/** SecureBoot and the key variables, in the order and form in which edk2 measures them. */
function securityVariables(
  store: readonly UefiVariable[],
  state: OvmfParts['secureBoot'],
): Omit<UefiVariable, 'attributes'>[] {
  const value = (guid: string, name: string): Uint8Array =>
    store.find((v) => v.guid === guid && v.name === name)?.data ?? new Uint8Array(0);
  const enrolled = value(GLOBAL_VARIABLE_GUID, 'PK').length > 0;
  const switchedOff = value(SECURE_BOOT_ENABLE_GUID, 'SecureBootEnable')[0] === 0;
  const effective = state ?? (enrolled ? (switchedOff ? 'off' : 'on') : 'absent');
  if (effective === 'on' && !enrolled)
    throw new MeasureError('usage', 'Secure Boot cannot be on: the variables hold no PK; give VARS with enrolled keys');
  const secureBoot = effective === 'absent' ? [] : [effective === 'on' ? 1 : 0];
  return [
    { guid: GLOBAL_VARIABLE_GUID, name: 'SecureBoot', data: Uint8Array.from(secureBoot) },
    ...KEYS.map(([guid, name, when]) => ({ guid, name, when, data: value(guid, name) })).filter(
      (v) => v.when === 'always' || v.data.length > 0,
    ),
  ];
}

function acpi(parts: OvmfParts, inLog: readonly LogEvent[], add: Add): void {
  // fw_cfg items have the same type; the tables are the last three, and say so.
  const tables = inLog.filter((e) => Buffer.from(e.data).toString('latin1') === 'ACPI DATA');
  for (const [i, name] of ACPI_NAMES.entries()) {
    const given = parts.acpi?.[i];
    const logged = tables[i]?.digest;
    add(RTMR0, T.EV_PLATFORM_CONFIG_FLAGS, `ACPI ${name}`, given ? sha384(given) : logged, given ? 'computed' : 'log');
  }
}

function bootVariables(parts: OvmfParts, inLog: readonly LogEvent[], add: Add): void {
  if (parts.bootOptions) {
    add(RTMR0, T.EV_EFI_VARIABLE_BOOT, 'BootOrder', sha384(bootOrder(parts.bootOptions.map((_, i) => i))));
    for (const [i, o] of parts.bootOptions.entries())
      add(RTMR0, T.EV_EFI_VARIABLE_BOOT, `Boot${i.toString(16).toUpperCase().padStart(4, '0')}`, sha384(o));
  } else if (parts.log) {
    for (const e of inLog) add(RTMR0, e.type, `variable ${parseUefiVariableData(e.data).name}`, e.digest, 'log');
  } else add(RTMR0, T.EV_EFI_VARIABLE_BOOT, 'BootOrder and boot options', undefined);
}

function diskBoot(
  parts: OvmfParts,
  fromLog: (mrIndex: number, ...types: number[]) => LogEvent[],
  copy: (found: readonly LogEvent[], what: (e: LogEvent) => string) => void,
  add: Add,
): void {
  if (parts.disk) add(RTMR1, T.EV_EFI_GPT_EVENT, 'partition table', sha384(gptEventData(parts.disk)));
  else if (parts.log) copy(fromLog(RTMR1, T.EV_EFI_GPT_EVENT), (e) => `partition table of disk ${diskGuid(e.data)}`);
  else add(RTMR1, T.EV_EFI_GPT_EVENT, 'partition table', undefined);
  if (parts.images) {
    for (const f of parts.images) add(RTMR1, T.EV_EFI_BOOT_SERVICES_APPLICATION, f.name, authenticodeSha384(f.bytes));
  } else if (parts.log) copy(fromLog(RTMR1, T.EV_EFI_BOOT_SERVICES_APPLICATION), () => 'loaded image');
  else add(RTMR1, T.EV_EFI_BOOT_SERVICES_APPLICATION, 'loaded images', undefined);
}

function diskGuid(data: Uint8Array): string {
  return data.length >= 72 ? guidToString(data.subarray(56, 72)) : 'unknown';
}

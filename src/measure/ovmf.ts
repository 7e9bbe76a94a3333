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
import type { ExpectedEvent } from './event-diff.js';
import { EV_NO_ACTION, EV_SEPARATOR, type EventLog, type LogEvent } from './event-log.js';
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
  /** Whether QEMU writes into the kernel's setup header; recent releases do not for confidential guests. */
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
  if (parts.direct && (parts.images || parts.disk))
    throw new MeasureError('usage', 'a kernel given to QEMU, and images from a disk: give one or the other');
  const boot = new Boot(parts);
  boot.firmware();
  boot.acpi();
  boot.authorities('before boot variables');
  boot.bootVariables();
  if (parts.direct) boot.kernel(parts.direct);
  boot.action('Calling EFI Application from Boot Option');
  boot.separator(parts.bootSeparator === 'rtmr0' ? RTMR0 : RTMR1);
  if (!parts.direct) boot.disk();
  boot.authorities('after boot variables');
  if (parts.direct) boot.efiStub(parts.direct);
  else boot.bootLoader();
  boot.action('Exit Boot Services Invocation');
  boot.action('Exit Boot Services Returned with Success');
  return boot.events;
}

/** Collects the events, stage by stage; a stage that nothing tells of leaves an event without a digest. */
class Boot {
  readonly events: ExpectedEvent[] = [];

  constructor(readonly parts: OvmfParts) {}

  firmware(): void {
    const { firmware, layout, memoryBytes, fwCfg, secureBoot } = this.parts;
    const hob = tdHobDigest(layout, memoryBytes, parseTdvf(firmware).sections);
    this.#computed(RTMR0, T.EV_EFI_HANDOFF_TABLES2, `TD HOB, ${layout} layout`, hob);
    const cfv = cfvBytes(this.parts);
    this.#computed(RTMR0, T.EV_EFI_PLATFORM_FIRMWARE_BLOB2, `CFV, ${cfv.length} bytes`, sha384(cfv));
    const type = T.EV_PLATFORM_CONFIG_FLAGS;
    if (fwCfg) for (const f of fwCfg) this.#computed(RTMR0, type, `fw_cfg ${f.name}`, sha384(f.bytes));
    else
      this.copyLogged(
        RTMR0,
        [type],
        () => 'fw_cfg item',
        (e) => !isAcpi(e),
      );
    for (const v of securityVariables(parseVariableStore(cfv), secureBoot)) {
      const digest = sha384(uefiVariableData(v.guid, v.name, v.data));
      this.#computed(RTMR0, T.EV_EFI_VARIABLE_DRIVER_CONFIG, `${v.name}, ${v.data.length} bytes`, digest);
    }
    this.separator(RTMR0);
  }

  acpi(): void {
    const logged = this.#logged(RTMR0, [T.EV_PLATFORM_CONFIG_FLAGS]).filter(isAcpi);
    for (const [i, name] of ACPI_NAMES.entries()) {
      const what = `ACPI ${name}`;
      const [given, found] = [this.parts.acpi?.[i], logged[i]?.digest];
      if (given) this.#computed(RTMR0, T.EV_PLATFORM_CONFIG_FLAGS, what, sha384(given));
      else if (found)
        this.#add({ mrIndex: RTMR0, type: T.EV_PLATFORM_CONFIG_FLAGS, what, digest: found, source: 'log' });
      else this.#unknown(RTMR0, T.EV_PLATFORM_CONFIG_FLAGS, what);
    }
  }

  bootVariables(): void {
    const { bootOptions, log } = this.parts;
    const type = T.EV_EFI_VARIABLE_BOOT;
    if (bootOptions) {
      this.#computed(RTMR0, type, 'BootOrder', sha384(bootOrder(bootOptions.map((_, i) => i))));
      for (const [i, o] of bootOptions.entries())
        this.#computed(RTMR0, type, `Boot${i.toString(16).toUpperCase().padStart(4, '0')}`, sha384(o));
    } else if (log)
      this.copyLogged(RTMR0, [type, T.EV_EFI_VARIABLE_BOOT2], (e) => `variable ${parseUefiVariableData(e.data).name}`);
    else this.#unknown(RTMR0, type, 'BootOrder and boot options');
  }

  /** Keys that admitted an image, from the log: recent firmware measures one before it looks at its boot options. */
  authorities(when: 'before boot variables' | 'after boot variables'): void {
    const boot = this.#logged(RTMR0, [T.EV_EFI_VARIABLE_BOOT, T.EV_EFI_VARIABLE_BOOT2])[0]?.index ?? 0;
    const before = when === 'before boot variables';
    const what = (): string => 'key that admitted an image';
    this.copyLogged(RTMR0, [T.EV_EFI_VARIABLE_AUTHORITY], what, (e) => e.index < boot === before);
  }

  /** QEMU's -kernel is loaded before the boot option starts. */
  kernel(d: DirectBootParts): void {
    const { memoryBytes } = this.parts;
    const patch = { initrdBytes: d.initrd?.length ?? 0, memoryBytes, commandLine: d.commandLine };
    const kernel = d.patchHeader ? patchForDirectBoot(d.kernel, patch) : d.kernel;
    const what = `kernel${d.patchHeader ? ' with QEMU’s header' : ''}`;
    this.#computed(RTMR1, T.EV_EFI_BOOT_SERVICES_APPLICATION, what, authenticodeSha384(kernel));
  }

  disk(): void {
    const { disk, images, log } = this.parts;
    if (disk) this.#computed(RTMR1, T.EV_EFI_GPT_EVENT, 'partition table', sha384(gptEventData(disk)));
    else if (log) this.copyLogged(RTMR1, [T.EV_EFI_GPT_EVENT], (e) => `partition table of disk ${diskGuid(e.data)}`);
    else this.#unknown(RTMR1, T.EV_EFI_GPT_EVENT, 'partition table');
    const type = T.EV_EFI_BOOT_SERVICES_APPLICATION;
    if (images) for (const f of images) this.#computed(RTMR1, type, f.name, authenticodeSha384(f.bytes));
    else if (log) this.copyLogged(RTMR1, [type], () => 'loaded image');
    else this.#unknown(RTMR1, type, 'loaded images');
  }

  /** What Linux measures of its own start. */
  efiStub(d: DirectBootParts): void {
    const options = loadOptions(d.commandLine, d.initrd ? d.initrdArgument : 'none');
    this.#computed(RTMR2, T.EV_EVENT_TAG, 'command line (LoadOptions)', sha384(options));
    if (d.initrd) this.#computed(RTMR2, T.EV_EVENT_TAG, `initrd, ${d.initrd.length} bytes`, sha384(d.initrd));
  }

  /** What shim and grub measure; not computed. */
  bootLoader(): void {
    if (this.parts.log) this.copyLogged(RTMR2, [], (e) => e.typeName);
    else this.#unknown(RTMR2, T.EV_IPL, 'what the boot loader measures');
  }

  action(text: string): void {
    this.#computed(RTMR1, T.EV_EFI_ACTION, text, sha384(Buffer.from(text, 'latin1')));
  }

  separator(mrIndex: number): void {
    this.#computed(mrIndex, EV_SEPARATOR, 'separator', sha384(SEPARATOR));
  }

  /** Events of these types (none: all) of one register, as the given log has them. */
  copyLogged(
    mrIndex: number,
    types: readonly number[],
    what: (e: LogEvent) => string,
    which: (e: LogEvent) => boolean = () => true,
  ): void {
    for (const e of this.#logged(mrIndex, types).filter(which))
      this.#add({ mrIndex, type: e.type, what: what(e), digest: e.digest, source: 'log' });
  }

  #logged(mrIndex: number, types: readonly number[]): (LogEvent & { readonly digest: Sha384 })[] {
    const all = this.parts.log?.events ?? [];
    return all.flatMap(({ digest, ...e }) =>
      digest && e.type !== EV_NO_ACTION && e.mrIndex === mrIndex && (types.length === 0 || types.includes(e.type))
        ? [{ ...e, digest }]
        : [],
    );
  }

  #computed(mrIndex: number, type: number, what: string, digest: Sha384): void {
    this.#add({ mrIndex, type, what, digest, source: 'computed' });
  }

  #unknown(mrIndex: number, type: number, what: string): void {
    this.#add({ mrIndex, type, what, source: 'unknown' });
  }

  #add(event: ExpectedEvent): void {
    this.events.push(event);
  }
}

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

/** fw_cfg items and ACPI tables have one event type; the tables say what they are. */
function isAcpi(e: LogEvent): boolean {
  return Buffer.from(e.data).toString('latin1') === 'ACPI DATA';
}

function diskGuid(data: Uint8Array): string {
  return data.length >= 72 ? guidToString(data.subarray(56, 72)) : 'unknown';
}

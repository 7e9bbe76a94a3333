// SPDX-License-Identifier: Apache-2.0
//
// Measured boot of OVMF guests: the rules on fixtures of our own, and the same rules against logs from production machines.

import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import {
  authenticodeParts,
  authenticodeSha384,
  bootOption,
  buildEventLog,
  checkEventData,
  diffEvents,
  eventsAgree,
  FIRMWARE_APPLICATIONS,
  gptEventData,
  loadOptions,
  MeasureError,
  type OvmfParts,
  ovmfEvents,
  parseEventLog,
  parseQuote,
  parseUefiVariableData,
  parseVariableStore,
  patchForDirectBoot,
  registersOf,
  replayEventLog,
  sha384,
  tdHobDigest,
  toHex,
  type UefiVariable,
} from '../../src/measure/index.js';
import { bzImage, gptDisk, ovmfImage, ovmfSections, pattern, peFile, varsFile } from './firmware.js';
import { haveVectors, vector, vectorText } from './vectors.js';

const GIB = 1n << 30n;
const GLOBAL = '8be4df61-93ca-11d2-aa0d-00e098032b8c';
const EMPTY_CFV = '344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790';
const UI_APP = '23ada07f5261f12f34a0bd8e46760962d6b4d576a416f1fea1c64bc656b1d28eacf7047ae6e967c58fd2a98bfa74c298';

const uiApp = bootOption(FIRMWARE_APPLICATIONS.UiApp);
const base: OvmfParts = {
  firmware: ovmfImage(),
  memoryBytes: 2n * GIB,
  layout: 'qemu',
  bootSeparator: 'rtmr1',
};

function errorOf(f: () => unknown): string {
  try {
    f();
  } catch (error) {
    if (error instanceof MeasureError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'none';
}

describe('the variable store', () => {
  const variable = (name: string, data: Uint8Array, state = 0x3f): UefiVariable & { state: number } => ({
    guid: GLOBAL,
    name,
    attributes: 7,
    data,
    state,
  });

  it('of a fresh build is the one that production logs measured', () => {
    expect(toHex(sha384(varsFile()))).toBe(EMPTY_CFV);
    expect(parseVariableStore(varsFile())).toEqual([]);
  });

  it('gives the valid variables: a completed copy before one in transition, no deleted one', () => {
    const flash = varsFile([
      variable('PK', pattern(33), 0x3e),
      variable('Timeout', Uint8Array.of(0, 0), 0x3c),
      variable('PK', pattern(5)),
      variable('KEK', pattern(7), 0x3e),
    ]);
    expect(parseVariableStore(flash).map((v) => [v.name, v.data.length])).toEqual([
      ['PK', 5],
      ['KEK', 7],
    ]);
  });

  it.each<[string, (b: Buffer) => Buffer | undefined, RegExp]>([
    ['another volume', (b) => b.fill(0, 16, 32), /does not begin with a volume of variables/],
    ['a volume longer than the file', (b) => b.subarray(0, 4096), /volume of 540672 bytes in a file of 4096/],
    ['an unhealthy store', (b) => b.fill(0, 93, 94), /state 0x0/],
    ['a store longer than the file', (b) => b.fill(0xff, 88, 92), /needs 4294967267 bytes/],
    ['a variable longer than the store', (b) => b.fill(0xee, 100 + 40, 100 + 44), /data needs/],
    ['a name that does not end', (b) => b.fill(0x41, 100 + 60, 100 + 66), /does not end at its NUL/],
    ['a name of odd length', (b) => b.fill(5, 100 + 36, 100 + 37), /name of 5 bytes/],
  ])('refuses %s', (_, change, message) => {
    const flash = varsFile([variable('PK', pattern(64))]);
    expect(errorOf(() => parseVariableStore(change(flash) ?? flash))).toMatch(message);
  });

  it('refuses a variable that is there twice', () => {
    const twice = varsFile([variable('PK', pattern(3)), variable('PK', pattern(4))]);
    expect(errorOf(() => parseVariableStore(twice))).toMatch(/twice/);
  });
});

describe('a PE file', () => {
  const sha256 = (parts: readonly Uint8Array[]) => {
    const h = createHash('sha256');
    for (const p of parts) h.update(p);
    return h.digest('hex');
  };

  it('has the same digest whatever its checksum and certificate table say, and another for any other byte', () => {
    const plain = authenticodeSha384(peFile());
    expect(authenticodeSha384(peFile({ checksum: 77 }))).toEqual(plain);
    const file = peFile();
    for (const at of [2, 0x80 + 24 + 68, 0x3ff, 0x400, file.length - 1]) {
      const other = Buffer.from(file);
      other[at] = (other[at] ?? 0) ^ 1;
      expect(authenticodeSha384(other), `byte ${at}`).not.toEqual(plain);
    }
    const [a, b] = [peFile({ certificate: pattern(96) }), peFile({ certificate: pattern(96, 9) })];
    expect(authenticodeSha384(a)).toEqual(authenticodeSha384(b));
  });

  it('is hashed in the order of its sections in the file, with what follows them', () => {
    const trailing = pattern(11);
    const file = peFile({ trailing });
    const expected = sha256([
      file.subarray(0, 0x80 + 24 + 64),
      file.subarray(0x80 + 24 + 68, 0x80 + 24 + 112 + 32),
      file.subarray(0x80 + 24 + 112 + 40),
    ]);
    expect(sha256(authenticodeParts(file))).toBe(expected);
  });

  it.each<[string, (b: Buffer) => unknown, RegExp]>([
    ['no PE', (b) => b.write('ZM', 0), /MZ/],
    ['a header beyond the end', (b) => b.writeUInt32LE(0xfffffff0, 0x3c), /COFF header at 4294967280/],
    ['a section beyond the end', (b) => b.writeUInt32LE(0x7fffffff, 0x80 + 24 + 112 + 48 + 16), /a section ends at/],
    ['headers beyond the end', (b) => b.writeUInt32LE(0x7fffffff, 0x80 + 24 + 60), /size of headers/],
    ['too many sections', (b) => b.writeUInt16LE(97, 0x80 + 6), /97 sections/],
  ])('is refused with %s', (_, change, message) => {
    const file = peFile();
    change(file);
    expect(errorOf(() => authenticodeSha384(file))).toMatch(message);
  });
});

describe('QEMU’s direct boot', () => {
  it('writes the setup header as QEMU does', () => {
    const patched = Buffer.from(
      patchForDirectBoot(bzImage(), { initrdBytes: 1000, memoryBytes: 4n * GIB, commandLine: 'quiet' }),
    );
    expect(patched.readUInt8(0x210)).toBe(0xb0);
    expect(patched.readUInt8(0x211)).toBe(0xf7);
    expect(patched.readUInt16LE(0x224)).toBe(0xfe00);
    expect(patched.readUInt32LE(0x228)).toBe(0x20000);
    // Low memory ends at 2 GiB, less room for ACPI; the initrd lies on the last page that holds it.
    expect(patched.readUInt32LE(0x218)).toBe(((0x80000000 - 0x28000 - 1 - 1000) & ~0xfff) >>> 0);
    expect(patched.readUInt32LE(0x21c)).toBe(1000);
  });

  it.each([
    [0x20f, 0x7f, GIB, 0x40000000 - 0x28000 - 1],
    [0x20f, 0, GIB, 0x40000000 - 0x28000 - 1],
    [0x20f, 0, 11n * GIB, 0x80000000 - 0x28000 - 1],
    [0x203, 0x7f, 0xaffff000n, 0x7fffffff],
  ] as const)('protocol %i, xloadflags %i, memory %i: the initrd ends below %i', (protocol, flags, memory, max) => {
    const boot = { initrdBytes: 4096, memoryBytes: memory, commandLine: '' };
    expect(Buffer.from(patchForDirectBoot(bzImage(protocol, flags), boot)).readUInt32LE(0x218)).toBe(
      ((max - 4096) & ~0xfff) >>> 0,
    );
  });

  it.each([
    ['vga=normal', 0xffff],
    ['a vga=ask', 0xfffd],
    ['vga=0x318 b', 0x318],
    ['vga=791', 791],
    ['vga=010', 8],
  ])('takes the video mode from %j', (commandLine, mode) => {
    const patched = patchForDirectBoot(bzImage(), { initrdBytes: 0, memoryBytes: GIB, commandLine });
    expect(Buffer.from(patched).readUInt16LE(0x1fa)).toBe(mode);
  });

  it('refuses a video mode that QEMU refuses', () => {
    const boot = { initrdBytes: 0, memoryBytes: GIB, commandLine: 'vga=blue' };
    expect(errorOf(() => patchForDirectBoot(bzImage(), boot))).toMatch(/^usage: .*vga=blue/);
  });

  it('refuses what is no bzImage, and an initrd that does not fit', () => {
    expect(errorOf(() => patchForDirectBoot(peFile(), { initrdBytes: 0, memoryBytes: GIB, commandLine: '' }))).toMatch(
      /boot protocol 0x0/,
    );
    const large = { initrdBytes: 1 << 30, memoryBytes: GIB, commandLine: '' };
    expect(errorOf(() => patchForDirectBoot(bzImage(), large))).toMatch(/^usage: initrd/);
  });

  it('names the initrd on the command line as each firmware does, in UTF-16 with its NUL', () => {
    expect(Buffer.from(loadOptions('a=b', 'append')).toString('utf16le')).toBe('a=b initrd=initrd\0');
    expect(Buffer.from(loadOptions('a=b', 'prepend')).toString('utf16le')).toBe('initrd=initrd a=b\0');
    expect(Buffer.from(loadOptions('a=b', 'none')).toString('utf16le')).toBe('a=b\0');
  });
});

describe('the events of an OVMF guest', () => {
  it('leave open what only the VMM knows, and the register with it', () => {
    const events = ovmfEvents({
      ...base,
      bootOptions: [uiApp],
      images: [{ name: 'shim', bytes: peFile() }],
      disk: gptDisk([0]),
    });
    expect(events.filter((e) => e.source === 'unknown').map((e) => e.what)).toEqual([
      'ACPI etc/table-loader',
      'ACPI etc/acpi/rsdp',
      'ACPI etc/acpi/tables',
      'what the boot loader measures',
    ]);
    const [rtmr0, rtmr1, rtmr2, rtmr3] = registersOf(events);
    expect([rtmr0, rtmr2]).toEqual([undefined, undefined]);
    expect(rtmr1 && toHex(rtmr1)).toMatch(/^[0-9a-f]{96}$/);
    expect(rtmr3 && toHex(rtmr3)).toBe('0'.repeat(96));
  });

  it('are complete with the tables as files and a kernel given to QEMU', () => {
    const acpi = [pattern(10), pattern(20), pattern(30)] as const;
    const direct = {
      kernel: bzImage(),
      initrd: pattern(1000),
      commandLine: 'console=hvc0',
      initrdArgument: 'append',
      patchHeader: true,
    } as const;
    const events = ovmfEvents({ ...base, bootOptions: [uiApp], acpi, direct });
    expect(registersOf(events).every((r) => r !== undefined)).toBe(true);
    const digest = (what: RegExp) => toHex(events.find((e) => what.test(e.what))?.digest ?? new Uint8Array());
    expect(digest(/rsdp/)).toBe(toHex(sha384(acpi[1])));
    expect(digest(/^initrd/)).toBe(toHex(sha384(direct.initrd)));
    expect(digest(/^command line/)).toBe(toHex(sha384(loadOptions('console=hvc0', 'append'))));
    expect(digest(/^kernel/)).not.toBe(toHex(authenticodeSha384(direct.kernel)));
    const plain = ovmfEvents({ ...base, direct: { ...direct, patchHeader: false } });
    expect(toHex(plain.find((e) => e.what === 'kernel')?.digest ?? new Uint8Array())).toBe(
      toHex(authenticodeSha384(direct.kernel)),
    );
  });

  it('are those of recent firmware, too: fw_cfg items, a key before the boot options, two applications of its own', () => {
    const named = (type: number, data: Uint8Array) => ({ mrIndex: 1, type, digest: sha384(data), data });
    const acpi = [1, 2, 3].map((n) => ({ ...named(0xa, pattern(8, n)), data: new TextEncoder().encode('ACPI DATA') }));
    const options = [
      bootOption(FIRMWARE_APPLICATIONS.BootManagerMenuApp),
      bootOption(FIRMWARE_APPLICATIONS.FirmwareSetup),
    ];
    const order = Uint8Array.of(0, 0, 1, 0);
    const log = parseEventLog(
      buildEventLog([
        ...acpi,
        named(0x800000e0, pattern(30)),
        named(0x80000002, order),
        named(0x800000e0, pattern(31)),
      ]),
    );
    const fwCfg = [
      { name: 'BootMenu', bytes: new Uint8Array(2) },
      { name: 'bootorder', bytes: pattern(31) },
    ];
    const events = ovmfEvents({ ...base, fwCfg, bootOptions: options, log }).filter((e) => e.mrIndex === 1);
    expect(events.map((e) => e.what)).toEqual([
      'TD HOB, qemu layout',
      'CFV, 540672 bytes',
      'fw_cfg BootMenu',
      'fw_cfg bootorder',
      'SecureBoot, 0 bytes',
      'PK, 0 bytes',
      'KEK, 0 bytes',
      'db, 0 bytes',
      'dbx, 0 bytes',
      'separator',
      'ACPI etc/table-loader',
      'ACPI etc/acpi/rsdp',
      'ACPI etc/acpi/tables',
      'key that admitted an image',
      'BootOrder',
      'Boot0000',
      'Boot0001',
      'key that admitted an image',
    ]);
    expect(toHex(events[14]?.digest ?? new Uint8Array())).toBe(toHex(sha384(order)));
    const withItem = parseEventLog(buildEventLog([named(0xa, pattern(6)), ...acpi]));
    expect(ovmfEvents({ ...base, log: withItem })[2]).toMatchObject({ what: 'fw_cfg item', source: 'log' });
  });

  it('measure the given variables in place of the image’s, and say when Secure Boot cannot be on', () => {
    const pk = { guid: GLOBAL, name: 'PK', attributes: 0x27, data: pattern(100) };
    const vars = varsFile([pk]);
    const with_ = ovmfEvents({ ...base, vars });
    expect(with_.map((e) => e.what)).toContain('PK, 100 bytes');
    expect(toHex(with_[1]?.digest ?? new Uint8Array())).toBe(toHex(sha384(vars)));
    expect(with_.map((e) => e.what)).toContain('SecureBoot, 1 bytes');
    expect(errorOf(() => ovmfEvents({ ...base, secureBoot: 'on' }))).toMatch(/hold no PK/);
    expect(errorOf(() => ovmfEvents({ ...base, vars: pattern(5) }))).toMatch(/^usage: variables: 5 bytes/);
  });

  it('put the partition table’s used entries into its event', () => {
    const data = gptEventData(gptDisk([0, 3, 127]));
    expect(data.length).toBe(92 + 8 + 3 * 128);
    expect(data[92]).toBe(3);
    expect(errorOf(() => gptEventData(new Uint8Array(4096)))).toMatch(/no GPT/);
    expect(errorOf(() => gptEventData(gptDisk([], 64)))).toMatch(/entries of 64 bytes/);
    expect(errorOf(() => gptEventData(gptDisk([]).subarray(0, 2048)))).toMatch(/entry 8/);
  });
});

describe.skipIf(!haveVectors)('against real logs', () => {
  const hobDigest = (log: string) => {
    const event = parseEventLog(vector(`ccel/${log}`)).events.find((e) => e.type === 0x8000000b);
    return toHex(event?.digest ?? new Uint8Array());
  };

  it('the TD HOBs of 1, 2 and 64 GiB under QEMU, and of 16 GiB in Google Cloud', () => {
    const old = ovmfSections('old');
    expect(toHex(tdHobDigest('qemu', 2n * GIB, old))).toBe(hobDigest('cctrusted_ccel_data.bin'));
    expect(vectorText('json/quote-report.json')).toContain(toHex(tdHobDigest('qemu', 64n * GIB, old)));
    // This firmware's temporary memory begins a page later: the rule is the same, the sections are not.
    expect(toHex(tdHobDigest('qemu', GIB, ovmfSections('svsm')))).toBe(hobDigest('dstack_ccel.bin'));
    // Google's firmware has a CFV of 128 KiB in an image of 2 MiB.
    const gce = ovmfSections('old').map((s) =>
      s.type === 'BFV'
        ? { ...s, memoryAddress: 0xffe20000n, memoryDataSize: 0x1e0000n }
        : s.type === 'CFV'
          ? { ...s, memoryAddress: 0xffe00000n, memoryDataSize: 0x20000n }
          : s,
    );
    expect(toHex(tdHobDigest('gce', 16n * GIB, gce))).toBe(hobDigest('gotdx_cos-113_ccel_data.bin'));
  });

  it('dstack, 1 GiB: RTMR0 of a production quote from parts, ACPI tables from the log', () => {
    const log = parseEventLog(vector('ccel/dstack_ccel.bin'));
    const events = ovmfEvents({
      ...base,
      firmware: ovmfImage(varsFile(), 'svsm'),
      memoryBytes: GIB,
      bootOptions: [uiApp],
      log,
    });
    const { rtmrs } = parseQuote(vector('quotes/dcapqvl_quote-from-tappd.bin')).body.td;
    expect(registersOf(events)[0]).toEqual(rtmrs[0]);
    expect(events.filter((e) => e.source === 'log' && e.mrIndex === 1)).toHaveLength(3);
    expect(toHex(sha384(uiApp))).toBe(UI_APP);
  });

  it('a grub guest of 2 GiB: all registers, images and boot loader from the log, and no event differs', () => {
    const log = parseEventLog(vector('ccel/cctrusted_ccel_data.bin'));
    const events = ovmfEvents({ ...base, secureBoot: 'off', bootSeparator: 'rtmr0', log });
    expect(registersOf(events)).toEqual(replayEventLog(log));
    expect(eventsAgree(diffEvents(events, log))).toBe(true);
    expect(events.filter((e) => e.source === 'computed')).toHaveLength(12);
  });

  it('Google Cloud, 16 GiB: enrolled keys from a variable store, Secure Boot off', () => {
    const log = parseEventLog(vector('ccel/gotdx_cos-113_ccel_data.bin'));
    const variables = log.events
      .filter((e) => e.type === 0x80000001)
      .map((e) => ({ ...parseUefiVariableData(e.data), attributes: 0x27 }))
      .filter((v) => v.name !== 'SecureBoot');
    expect(variables.map((v) => v.name)).toEqual(['PK', 'KEK', 'db', 'dbx']);
    const events = ovmfEvents({ ...base, vars: varsFile(variables), secureBoot: 'off', log });
    const differences = diffEvents(events, log).filter((d) => d.kind !== 'same');
    // Its HOB and its CFV depend on a firmware image that is not public; everything else agrees.
    expect(differences.map((d) => (d.kind === 'extra' ? d.found.typeName : d.expected.what))).toEqual([
      'TD HOB, qemu layout',
      'CFV, 540672 bytes',
      'EV_EFI_HANDOFF_TABLES2',
      'EV_EFI_PLATFORM_FIRMWARE_BLOB2',
    ]);
    const [, rtmr1, rtmr2] = registersOf(events);
    expect([rtmr1, rtmr2]).toEqual(replayEventLog(log).slice(1, 3));
  });

  it.each([
    ['gotdx_cos-113_ccel_data', 0],
    ['dstack_ccel', 0],
    ['cctrusted_ccel_data', 0],
    ['trustee_CCEL_data', 2],
  ] as const)('%s: boot variables are proven by value, td-shim’s settings by their info', (name, shim) => {
    const checks = parseEventLog(vector(`ccel/${name}.bin`)).events.map((e) => [e.type, checkEventData(e)] as const);
    expect(checks.filter(([, c]) => c === 'mismatch')).toEqual([]);
    for (const [type, c] of checks) if (type === 0x80000002) expect(c).toBe('match-value');
    expect(checks.filter(([type, c]) => type === 0xa && c === 'match')).toHaveLength(shim);
  });
});

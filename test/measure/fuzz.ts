// SPDX-License-Identifier: Apache-2.0
//
// Fuzzes every parser of the measure room, and the verifier: any bytes end in a result or a MeasureError, soon, and what the
// verifier accepts says what was signed. `npm run fuzz:measure -- SECONDS [SEED]` runs it for long; the tests run it briefly.

import { generateKeyPairSync } from 'node:crypto';
import {
  authenticodeSha384,
  buildEventLog,
  type Collateral,
  checkEventData,
  checkTdvf,
  collateralToJson,
  computeMrtd,
  diffEvents,
  eventsFromJson,
  eventsToJson,
  expectedFromLog,
  gptEventData,
  INTEL_ROOT_PUBLIC_KEY,
  MeasureError,
  ovmfEvents,
  parseCcelTable,
  parseCollateral,
  parseEventLog,
  parseQuote,
  parseReference,
  parseTdReport,
  parseTdvf,
  parseUefiVariableData,
  parseVariableStore,
  patchForDirectBoot,
  pckPlatform,
  REFERENCE_FORMAT,
  replayEventLog,
  sha384,
  signReference,
  splitSignedJson,
  tdHobDigest,
  trustAnchor,
  uefiVariableData,
  verifyQuote,
} from '../../src/measure/index.js';
import { orderChain, parseCertificates, parseCrl } from '../../src/measure/x509.js';
import { addMetadata, bzImage, gptDisk, ovmfSections, pattern, peFile, varsFile } from './firmware.js';
import { NOW, TestPki } from './pki.js';

/** xorshift128: the same seed, the same run. */
export class Random {
  #s: [number, number, number, number];
  constructor(seed: number) {
    this.#s = [seed >>> 0 || 1, 362436069, 521288629, 88675123];
    for (let i = 0; i < 20; i++) this.next();
  }
  next(): number {
    const [x, y, z, w] = this.#s;
    const t = x ^ (x << 11);
    const n = (w ^ (w >>> 19) ^ t ^ (t >>> 8)) >>> 0;
    this.#s = [y, z, w, n];
    return n;
  }
  below(n: number): number {
    return this.next() % n;
  }
  pick<T>(items: readonly T[]): T {
    const item = items[this.below(items.length)];
    if (item === undefined) throw new Error('nothing to pick from');
    return item;
  }
}

const EXTREMES = [
  0, 1, 2, 4, 7, 8, 16, 48, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff,
];

/** One to eight changes: bits, bytes, extreme numbers, pieces cut, doubled, moved, or taken from another input. */
export function mutate(input: Uint8Array, other: Uint8Array, random: Random): Uint8Array {
  let b = Buffer.from(input);
  for (let n = 1 + random.below(random.below(4) === 0 ? 8 : 2); n > 0; n--) {
    if (b.length === 0) return b;
    const at = random.below(b.length);
    const size = 1 + random.below(Math.min(64, b.length - at));
    switch (random.below(9)) {
      case 0:
        b[at] = (b[at] ?? 0) ^ (1 << random.below(8));
        break;
      case 1:
        b[at] = random.below(256);
        break;
      case 2:
        if (at + 4 <= b.length) b.writeUInt32LE(random.pick(EXTREMES), at);
        break;
      case 3:
        if (at + 2 <= b.length) b.writeUInt16LE(random.pick(EXTREMES) & 0xffff, at);
        break;
      case 4:
        b = b.subarray(0, at);
        break;
      case 5:
        b = Buffer.concat([b.subarray(0, at), b.subarray(at + size)]);
        break;
      case 6:
        b = Buffer.concat([b.subarray(0, at + size), b.subarray(at)]);
        break;
      case 7: {
        const from = random.below(Math.max(1, other.length));
        Buffer.from(other)
          .subarray(from, from + size)
          .copy(b, at);
        break;
      }
      default:
        b.fill(random.pick([0, 0xff, 0x30, 0x41]), at, at + size);
    }
  }
  return b;
}

export interface Target {
  readonly name: string;
  readonly seeds: readonly Uint8Array[];
  /** Returns or throws MeasureError; anything else that it throws is a finding. */
  readonly run: (input: Uint8Array) => void;
}

const text = (b: Uint8Array): string => Buffer.from(b).toString('utf8');
const bytes = (s: string): Uint8Array => new Uint8Array(Buffer.from(s, 'utf8'));
const asBytes = (data: Uint8Array | string): Uint8Array => (typeof data === 'string' ? bytes(data) : data);

/** What of a quote and its collateral is under a signature, in a canonical form: an accepted input must not change it. */
function signedContent(quote: Uint8Array, c: Collateral): string {
  const q = parseQuote(quote);
  const s = q.signature;
  const chain = (data: Uint8Array | string) =>
    orderChain(parseCertificates(data)).map((x) => Buffer.from(x.der).toString('hex'));
  return JSON.stringify([
    Buffer.from(q.signedBytes).toString('hex'),
    Buffer.from(s.attestationKey).toString('hex'),
    Buffer.from(s.qeReport.raw).toString('hex'),
    Buffer.from(s.qeAuthData).toString('hex'),
    chain(s.certification.data),
    c.tcbInfo.text,
    chain(c.tcbInfoChain),
    c.qeIdentity.text,
    chain(c.qeIdentityChain),
    Buffer.from(parseCrl(c.rootCrl).signed).toString('hex'),
    Buffer.from(parseCrl(c.pckCrl).signed).toString('hex'),
  ]);
}

/** A small image with OVMF's metadata: MRTD of it takes a millisecond. */
export function smallImage(): Buffer {
  const sections = ovmfSections('old', 0x2000).map((s) =>
    s.type === 'BFV'
      ? { ...s, dataOffset: 0x2000, rawDataSize: 0x4000, memoryAddress: 0xffffc000n, memoryDataSize: 0x4000n }
      : s.type === 'CFV'
        ? { ...s, memoryAddress: 0xffffa000n }
        : s,
  );
  return addMetadata(Buffer.from(pattern(0x6000)), sections);
}

export function targets(): Target[] {
  const pki = new TestPki();
  const anchor = trustAnchor(pki.rootDer);
  const quotes = [pki.quote(), pki.quote({ version: 5, kind: 'TD1.5', trailing: Buffer.alloc(40) })];
  // Without a chain of its own: the one in the quote decides, and the oracle need not ask which was used.
  const { pckChain = '', ...c } = pki.collateral;
  const pem = asBytes(pckChain);
  const variable = { guid: '8be4df61-93ca-11d2-aa0d-00e098032b8c', name: 'PK', attributes: 7, data: pattern(200) };
  const vars = varsFile([variable]).subarray(0, 2048);
  vars.writeBigUInt64LE(2048n, 32);
  vars.writeUInt32LE(2048 - 72, 88);
  const logs = [
    buildEventLog([
      { mrIndex: 1, type: 4, digest: sha384(new Uint8Array(4)), data: new Uint8Array(4) },
      {
        mrIndex: 1,
        type: 0x80000002,
        digest: sha384(pattern(9)),
        data: uefiVariableData(variable.guid, 'Boot0000', pattern(9)),
      },
      { mrIndex: 1, type: 0xa, digest: sha384(pattern(3)), data: bytes('ACPI DATA') },
      { mrIndex: 3, type: 0xd, digest: sha384(pattern(5)), data: pattern(5) },
    ]),
  ];
  const padded = new Uint8Array([...(logs[0] ?? []), ...new Uint8Array(64).fill(0xff)]);
  const report = tdReport();
  const signedReference = signReference(
    { format: REFERENCE_FORMAT, mrtd: ['00'.repeat(48)], attributes: { value: '0'.repeat(16), mask: 'f'.repeat(16) } },
    generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
  );
  const ccel = Buffer.alloc(56);
  ccel.write('CCEL', 0, 'latin1');
  ccel.writeUInt32LE(56, 4);
  ccel[36] = 2;
  ccel[9] = (256 - (ccel.reduce((n, x) => n + x, 0) & 0xff)) & 0xff;
  const image = smallImage();
  const shim = Buffer.from(image);
  shim.fill(0, shim.length - 64);
  shim.writeUInt32LE(shim.length - 4096, shim.length - 32);
  const small = (b: Uint8Array): boolean =>
    parseTdvf(b).sections.reduce((n, s) => n + s.memoryDataSize, 0n) < 1n << 22n;
  const verifyWith = (quote: Uint8Array, collateral: Collateral): void => {
    verifyQuote(quote, { collateral, at: NOW, anchor });
    if (!good.has(signedContent(quote, collateral))) throw new Error('accepted: something else than what was signed');
  };
  const good = new Set(quotes.map((q) => signedContent(q, c)));
  const collateralPart = (name: string, seed: Uint8Array, change: (b: Uint8Array) => Collateral): Target => ({
    name: `collateral: ${name}`,
    seeds: [seed],
    run: (b) => verifyWith(quotes[0] ?? b, change(b)),
  });
  return [
    {
      name: 'image',
      seeds: [image, shim],
      run: (b) => {
        const tdvf = parseTdvf(b);
        checkTdvf(tdvf);
        if (small(b)) for (const order of ['page', 'section'] as const) computeMrtd(b, { order });
        tdHobDigest('qemu', 1n << 31n, tdvf.sections);
        tdHobDigest('gce', 1n << 34n, tdvf.sections);
      },
    },
    {
      name: 'event log',
      seeds: [...logs, padded],
      run: (b) => {
        const log = parseEventLog(b);
        for (const e of log.events) checkEventData(e);
        diffEvents(expectedFromLog(parseEventLog(logs[0] ?? b)), log);
        eventsFromJson(eventsToJson(expectedFromLog(log).filter((e) => e.mrIndex >= 1 && e.mrIndex <= 4)));
        replayEventLog(log);
      },
    },
    {
      name: 'OVMF events from a log',
      seeds: [...logs],
      run: (b) => {
        const log = parseEventLog(b);
        ovmfEvents({ firmware: ovmfSmall, memoryBytes: 1n << 31n, layout: 'qemu', bootSeparator: 'rtmr0', log });
      },
    },
    { name: 'quote', seeds: quotes, run: (b) => void pckPlatform(parseQuote(b)) },
    { name: 'quote, verified', seeds: quotes, run: (b) => verifyWith(b, c) },
    { name: 'TDREPORT', seeds: [report], run: (b) => void parseTdReport(b) },
    { name: 'CCEL table', seeds: [ccel], run: (b) => void parseCcelTable(b) },
    {
      name: 'certificates',
      seeds: [pem, pki.rootDer],
      run: (b) => void orderChain(parseCertificates(b)),
    },
    {
      name: 'CRL',
      seeds: [asBytes(c.rootCrl), asBytes(new TestPki({ revokedByPckCa: [4, 9] }).collateral.pckCrl)],
      run: (b) => void parseCrl(b),
    },
    {
      name: 'signed JSON',
      seeds: [bytes(`{"tcbInfo":${c.tcbInfo.text},"signature":"${Buffer.from(c.tcbInfo.signature).toString('hex')}"}`)],
      run: (b) => void splitSignedJson(text(b), 'tcbInfo'),
    },
    {
      name: 'collateral file',
      seeds: [bytes(collateralToJson(c))],
      run: (b) => verifyWith(quotes[0] ?? b, parseCollateral(text(b))),
    },
    collateralPart('TCB info', bytes(c.tcbInfo.text), (b) => ({ ...c, tcbInfo: { ...c.tcbInfo, text: text(b) } })),
    collateralPart('QE identity', bytes(c.qeIdentity.text), (b) => ({
      ...c,
      qeIdentity: { ...c.qeIdentity, text: text(b) },
    })),
    collateralPart('its signature', c.qeIdentity.signature, (b) => ({
      ...c,
      qeIdentity: { ...c.qeIdentity, signature: b },
    })),
    collateralPart('signing chain', asBytes(c.tcbInfoChain), (b) => ({ ...c, tcbInfoChain: b })),
    collateralPart('root CRL', asBytes(c.rootCrl), (b) => ({ ...c, rootCrl: b })),
    collateralPart('PCK CRL', asBytes(c.pckCrl), (b) => ({ ...c, pckCrl: b })),
    { name: 'reference values', seeds: [bytes(signedReference)], run: (b) => void parseReference(text(b)) },
    {
      name: 'expected events',
      seeds: [bytes(eventsToJson(expectedFromLog(parseEventLog(padded))))],
      run: (b) => void eventsFromJson(text(b)),
    },
    { name: 'variable store', seeds: [vars], run: (b) => void parseVariableStore(b) },
    {
      name: 'variable event',
      seeds: [uefiVariableData(variable.guid, 'PK', pattern(9))],
      run: (b) => void parseUefiVariableData(b),
    },
    {
      name: 'PE file',
      seeds: [peFile(), peFile({ certificate: pattern(64) })],
      run: (b) => void authenticodeSha384(b),
    },
    {
      name: 'kernel',
      seeds: [bzImage()],
      run: (b) =>
        void authenticodeSha384(
          patchForDirectBoot(b, { initrdBytes: 99, memoryBytes: 1n << 30n, commandLine: text(b.subarray(0, 40)) }),
        ),
    },
    { name: 'GPT', seeds: [gptDisk([0, 5])], run: (b) => void gptEventData(b) },
    {
      name: 'trust root',
      seeds: [asBytes(pki.rootDer)],
      run: (b) => void trustAnchor(b).point.includes(INTEL_ROOT_PUBLIC_KEY[0] ?? 0),
    },
  ];
}

/** An image with a variable store small enough to be copied often. */
const ovmfSmall = ((): Buffer => {
  const image = smallImage();
  const vars = varsFile().subarray(0, 0x2000);
  vars.writeBigUInt64LE(0x2000n, 32);
  vars.writeUInt32LE(0x2000 - 72, 88);
  vars.copy(image);
  return image;
})();

function tdReport(): Buffer {
  const b = Buffer.alloc(1024);
  b[0] = 0x81;
  b.writeBigUInt64LE(0x301ffn, 256);
  b.fill(3, 264, 280);
  b.fill(9, 528, 576);
  Buffer.from(sha384(b.subarray(256, 495))).copy(b, 32);
  Buffer.from(sha384(b.subarray(512))).copy(b, 80);
  return b;
}

export class Finding extends Error {
  constructor(
    readonly target: string,
    readonly input: Uint8Array,
    cause: unknown,
  ) {
    super(`${target}: ${cause instanceof Error ? (cause.stack ?? cause.message) : String(cause)}`, { cause });
  }
}

const SLOW_MS = 2000; // far above any input of these sizes, even on a busy machine

/** Runs one input; throws Finding for anything but a result or a MeasureError, or when it took too long. */
export function attempt(target: Target, input: Uint8Array): boolean {
  const start = performance.now();
  let accepted = true;
  try {
    target.run(input);
  } catch (error) {
    if (!(error instanceof MeasureError)) throw new Finding(target.name, input, error);
    accepted = false;
  }
  const ms = performance.now() - start;
  if (ms > SLOW_MS) throw new Finding(target.name, input, `took ${Math.round(ms)} ms`);
  return accepted;
}

/** Fuzzes for so many seconds; returns how many inputs each target saw, and how many of them it took. */
export function fuzz(seconds: number, seed: number, log: (line: string) => void): void {
  const random = new Random(seed);
  const all = targets();
  for (const t of all) for (const s of t.seeds) if (!attempt(t, s)) throw new Error(`${t.name} refuses its own seed`);
  const pools = new Map(all.map((t) => [t, [...t.seeds]]));
  const counts = new Map(all.map((t) => [t, { runs: 0, accepted: 0 }]));
  const end = Date.now() + seconds * 1000;
  let total = 0;
  while (Date.now() < end) {
    const target = random.pick(all);
    const pool = pools.get(target) ?? [];
    const count = counts.get(target) ?? { runs: 0, accepted: 0 };
    for (let i = 0; i < 20; i++) {
      const input = mutate(random.pick(pool), random.pick(random.pick(all).seeds), random);
      count.runs++;
      total++;
      if (attempt(target, input)) {
        count.accepted++;
        // What is still valid leads deeper than the seed does.
        if (pool.length < 64) pool.push(input);
        else pool[target.seeds.length + random.below(64 - target.seeds.length)] = input;
      }
    }
  }
  for (const [t, n] of counts) log(`${t.name}: ${n.runs} inputs, ${n.accepted} accepted`);
  log(`${total} inputs, no finding`);
}

// SPDX-License-Identifier: Apache-2.0
//
// gramine-tdx-measure and gramine-tdx-verify as a user meets them: what they print, their exit codes, every flag of --help.

import { execFile } from 'node:child_process';
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rootCrlUrl } from '../../src/cli/measure-io.js';
import {
  bootOption,
  buildEventLog,
  type Collateral,
  computeMrtd,
  FIRMWARE_APPLICATIONS,
  parseEventLog,
  REFERENCE_FORMAT,
  type ReferenceValues,
  replayEventLog,
  sha384,
  signReference,
  toHex,
  uefiVariableData,
} from '../../src/measure/index.js';
import { bzImage, gptDisk, ovmfImage, pattern, peFile, varsFile } from './firmware.js';
import { NOW, TestPki } from './pki.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'gt-measure-'));
const file = (name: string) => join(dir, name);
const put = (name: string, data: Uint8Array | string): string => {
  writeFileSync(file(name), data);
  return file(name);
};

type Name = 'gramine-tdx-measure' | 'gramine-tdx-verify';
interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}
/** Flags that some test gave, by command. */
const used = new Map<string, Set<string>>();

function run(name: Name, args: readonly string[], input?: Uint8Array): Promise<Result> {
  const first = args[0] ?? '';
  const command = `${name} ${name === 'gramine-tdx-verify' || /^[-/]|\./.test(first) ? '' : first}`.trim();
  const flags = used.get(command) ?? new Set();
  for (const a of args) if (a.startsWith('-') && a !== '-' && a !== '--') flags.add(a);
  used.set(command, flags);
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [file(`${name}.cjs`), ...args],
      { cwd: dir, maxBuffer: 1 << 28 },
      (error, stdout, stderr) => resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
    );
    child.stdin?.end(input);
  });
}
const measure = (...args: readonly string[]) => run('gramine-tdx-measure', args);
const verify = (...args: readonly string[]) => run('gramine-tdx-verify', args);

const pki = new TestPki();
const at = new Date(NOW).toISOString();
const data = new TextEncoder().encode('an event');
const log = buildEventLog([{ mrIndex: 3, type: 13, digest: sha384(data), data }]);
const quote = pki.quote({
  mrtd: sha384(data),
  rtmrs: replayEventLog(parseEventLog(log)),
  reportData: padded('c0ffee'),
});
const reference: ReferenceValues = {
  format: REFERENCE_FORMAT,
  mrtd: [toHex(sha384(data))],
  rtmr2: [toHex(replayEventLog(parseEventLog(log))[2])],
};
const keys = generateKeyPairSync('ed25519');
const pem = (key: KeyObject): string =>
  key.export(key.type === 'private' ? { type: 'pkcs8', format: 'pem' } : { type: 'spki', format: 'pem' }) as string;

function padded(hex: string): Uint8Array {
  const out = new Uint8Array(64);
  out.set(Buffer.from(hex, 'hex'));
  return out;
}

function writeCollateral(name: string, c: Collateral): string {
  const folder = file(name);
  mkdirSync(folder, { recursive: true });
  const signed = (key: string, j: Collateral['tcbInfo']) =>
    `{"${key}":${j.text},"signature":"${Buffer.from(j.signature).toString('hex')}"}`;
  writeFileSync(join(folder, 'tcb_info.json'), signed('tcbInfo', c.tcbInfo));
  writeFileSync(join(folder, 'tcb_info_issuer_chain.pem'), c.tcbInfoChain);
  writeFileSync(join(folder, 'qe_identity.json'), signed('enclaveIdentity', c.qeIdentity));
  writeFileSync(join(folder, 'qe_identity_issuer_chain.pem'), c.qeIdentityChain);
  writeFileSync(join(folder, 'root_ca.crl'), c.rootCrl);
  writeFileSync(join(folder, 'pck.crl'), c.pckCrl);
  return folder;
}

let base: readonly string[] = [];

beforeAll(async () => {
  await build({
    absWorkingDir: root,
    entryPoints: ['src/cli/gramine-tdx-measure.ts', 'src/cli/gramine-tdx-verify.ts'],
    outdir: dir,
    outExtension: { '.js': '.cjs' },
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node20',
    logLevel: 'warning',
    define: { 'import.meta.url': '__url' },
    banner: { js: `const __url=${JSON.stringify(new URL('../../src/cli/x.ts', import.meta.url).href)};` },
  });
  put('root.der', pki.rootDer);
  put('quote.bin', quote);
  put('log.bin', log);
  put('ref.json', JSON.stringify(reference));
  put('signed.json', signReference(reference, pem(keys.privateKey)));
  put('key.pem', pem(keys.privateKey));
  put('pub.pem', pem(keys.publicKey));
  base = ['--trust-root', file('root.der'), '--at', at, '--collateral', writeCollateral('collateral', pki.collateral)];
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe('gramine-tdx-verify', () => {
  it('trusts (0) a quote that is all that was asked for', async () => {
    const r = await verify(
      ...[...base, '--quote', file('quote.bin'), '--event-log', file('log.bin'), '--report-data', 'c0ffee'],
      ...['--reference', file('signed.json'), '--reference-key', file('pub.pem')],
    );
    expect([r.code, r.stderr]).toEqual([0, '']);
    expect(r.stdout).toMatch(/ok {3}quote signature: verifies/);
    expect(r.stdout).toMatch(/ok {3}mrtd: is/);
    expect(r.stdout).toMatch(/note root: not Intel’s/);
    expect(r.stdout.trimEnd().endsWith('trusted')).toBe(true);
  });

  it('reads a quote from standard input, in hexadecimal, and says what was not checked', async () => {
    const hex = new TextEncoder().encode(`${quote.toString('hex')}\n`);
    const r = await run('gramine-tdx-verify', [...base, '--quote', '-'], hex);
    expect(r.code).toBe(0);
    expect(r.stdout).toMatch(/note reference: none given/);
    expect(r.stdout).toMatch(/note report data: not checked/);
  });

  it('prints JSON, check by check', async () => {
    const good = await verify(...base, '--quote', file('quote.bin'), '--reference', file('ref.json'), '--json');
    expect(JSON.parse(good.stdout)).toMatchObject({ result: 'trusted', status: 'UpToDate' });
    const nonce = put('nonce', 'another nonce');
    const bad = await verify(...base, '--quote', file('quote.bin'), '--nonce', nonce, '--json');
    expect(bad.code).toBe(1);
    const parsed = JSON.parse(bad.stdout) as { result: string; checks: { name: string; ok: boolean }[] };
    expect(parsed.result).toBe('refused');
    expect(parsed.checks.filter((c) => !c.ok).map((c) => c.name)).toEqual(['report data']);
    const broken = await verify(...base, '--quote', put('short', quote.subarray(0, 700)), '--json');
    expect([broken.code, JSON.parse(broken.stdout)]).toMatchObject([1, { result: 'refused', code: 'truncated' }]);
  });

  it('refuses (1) debug TDs, other registers, lying logs, unsigned references, and outdated platforms', async () => {
    const debug = await verify(...base, '--quote', put('debug.bin', pki.quote({ attributes: 0x10000001n })));
    expect([debug.code, debug.stdout]).toEqual([1, expect.stringMatching(/FAIL not a debug TD/)]);
    const other = await verify(...base, '--quote', put('other.bin', pki.quote()), '--reference', file('ref.json'));
    expect([other.code, other.stdout]).toEqual([1, expect.stringMatching(/FAIL mrtd: is 0101.*expected/)]);
    const separator = new Uint8Array(4);
    const lying = buildEventLog([{ mrIndex: 3, type: 4, digest: sha384(separator), data: pattern(4) }]);
    const rtmrs = replayEventLog(parseEventLog(lying));
    const lie = await verify(
      ...[...base, '--quote', put('lie.bin', pki.quote({ rtmrs })), '--event-log', put('lie.log', lying)],
    );
    expect([lie.code, lie.stdout]).toEqual([
      1,
      expect.stringMatching(/FAIL event log data: not what was measured: event 0/),
    ]);
    const unsigned = await verify(
      ...[...base, '--quote', file('quote.bin'), '--reference', file('ref.json'), '--reference-key', file('pub.pem')],
    );
    expect([unsigned.code, unsigned.stderr]).toEqual([1, expect.stringMatching(/not signed/)]);
    const old = put('old.bin', pki.quote({ teeTcbSvn: [3, 1, 2] }));
    expect((await verify(...base, '--quote', old)).code).toBe(1);
    expect((await verify(...base, '--quote', old, '--accept', 'OutOfDate')).code).toBe(0);
    const noRoot = base.slice(2);
    const stranger = await verify(...noRoot, '--quote', file('quote.bin'));
    expect([stranger.code, stranger.stderr]).toEqual([1, expect.stringMatching(/does not end at the trusted root/)]);
  });

  it.each<[string, readonly string[], RegExp]>([
    ['no quote', ['--collateral', '.'], /required option '--quote <file>'/],
    ['an unknown option', ['--quote', 'q', '--trust-me'], /unknown option/],
    ['no collateral', ['--quote', 'quote.bin'], /no collateral: give --collateral PATH, or --pccs URL/],
    ['two sources of collateral', ['--quote', 'quote.bin', '--collateral', '.', '--pccs', 'http://x'], /give one/],
    [
      'collateral to be saved that is not fetched',
      ['--quote', 'quote.bin', '--collateral', '.', '--save-collateral', 'x'],
      /belongs to --pccs/,
    ],
    ['a quote that is not there', ['--quote', 'nowhere'], /quote: cannot read nowhere \(ENOENT\)/],
    ['report data that is no number', ['--quote', 'quote.bin', '--report-data', 'zz'], /"zz" is not hexadecimal/],
    ['two report data', ['--quote', 'quote.bin', '--report-data', '00', '--nonce', 'nonce'], /give one/],
    [
      'report data that is too long',
      ['--quote', 'quote.bin', '--report-data', '00'.repeat(65)],
      /65 bytes, expected 1 to 64/,
    ],
    ['a time that is none', ['--quote', 'quote.bin', '--at', 'tomorrow'], /"tomorrow" is not a time/],
    ['a status that is none', ['--quote', 'quote.bin', '--accept', 'Fine'], /"Fine" is not a TCB status/],
    ['a revoked platform to be accepted', ['--quote', 'quote.bin', '--accept', 'Revoked'], /"Revoked"/],
    ['a key without a reference', ['--quote', 'quote.bin', '--reference-key', 'pub.pem'], /belongs to --reference/],
    ['a URL that is none', ['--quote', 'quote.bin', '--pccs', 'localhost'], /is not a URL/],
  ])('says (2) %s is a matter of usage', async (_, args, message) => {
    const r = await verify(...args);
    expect([r.code, r.stdout, r.stderr]).toEqual([2, '', expect.stringMatching(message)]);
    expect(r.stderr).not.toMatch(/\n\s+at /);
  });

  it('cannot decide (3) with collateral that is missing, expired, of another platform, or not to be had', async () => {
    const folder = writeCollateral('incomplete', pki.collateral);
    rmSync(join(folder, 'pck.crl'));
    const q = ['--trust-root', file('root.der'), '--quote', file('quote.bin')];
    const missing = await verify(...q, '--at', at, '--collateral', folder);
    expect([missing.code, missing.stderr]).toEqual([3, expect.stringMatching(/undecided: .* has no pck.crl or/)]);
    const cut = writeCollateral('cut', pki.collateral);
    writeFileSync(join(cut, 'tcb_info.json'), '{');
    const malformed = await verify(...q, '--at', at, '--collateral', cut);
    expect([malformed.code, malformed.stderr]).toEqual([3, expect.stringMatching(/undecided: tcbInfo: not JSON/)]);
    const late = new Date(NOW + 40 * 86_400_000).toISOString();
    const expired = await verify(...q, '--at', late, '--collateral', file('collateral'));
    expect([expired.code, expired.stderr]).toEqual([3, expect.stringMatching(/valid 20.* judged at 2026-02-24/)]);
    const nobody = await verify(...q, '--at', at, '--pccs', `http://127.0.0.1:${await closedPort()}`);
    expect([nobody.code, nobody.stderr]).toEqual([3, expect.stringMatching(/undecided: http:.*ECONNREFUSED/)]);
  });

  it('fetches from a PCCS when it is given one, keeps what it got, and asks for nothing else', async () => {
    const asked: string[] = [];
    const server = await serve(pki.collateral, asked);
    try {
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      const q = ['--trust-root', file('root.der'), '--at', at, '--quote', file('quote.bin')];
      const saved = file('saved.json');
      const r = await verify(...q, '--pccs', `${url}/sgx/certification/v4/`, '--save-collateral', saved);
      expect([r.code, r.stderr]).toEqual([0, '']);
      expect(asked.sort()).toEqual([
        '/sgx/certification/v4/pckcrl?ca=platform&encoding=der',
        '/sgx/certification/v4/rootcacrl',
        '/tdx/certification/v4/qe/identity',
        '/tdx/certification/v4/tcb?fmspc=00906ed50000',
      ]);
      expect((await verify(...q, '--collateral', saved)).code).toBe(0);
      const unknown = await verify(...q, '--pccs', `${url}/elsewhere`);
      expect([unknown.code, unknown.stderr]).toEqual([3, expect.stringMatching(/answered 404/)]);
    } finally {
      server.close();
    }
  });

  it('takes the root’s revocation list where Intel’s service keeps it, or from the PCCS', () => {
    expect(rootCrlUrl('https://localhost:8081/')).toBe('https://localhost:8081/sgx/certification/v4/rootcacrl');
    expect(rootCrlUrl('https://api.trustedservices.intel.com/')).toBe(
      'https://certificates.trustedservices.intel.com/IntelSGXRootCA.der',
    );
  });

  it('has no secret flag, and --help tells them', async () => {
    const r = await verify('--help');
    expect(r.code).toBe(0);
    expect(flagsOf(r.stdout)).toContain('--quote');
  });
});

/** Long flags that a help text lists. */
function flagsOf(help: string): string[] {
  return [...help.matchAll(/^ {2}(?:-\w, )?(--[a-z-]+)/gm)].map((m) => m[1] ?? '');
}

async function closedPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  await new Promise<void>((resolve) => createConnection(port, '127.0.0.1').once('error', () => resolve()));
  return port;
}

/** A PCCS that knows one platform: chains in headers as Intel's service sends them, the root's list in hexadecimal. */
function serve(c: Collateral, asked: string[]): Promise<Server> {
  const signed = (key: string, j: Collateral['tcbInfo']) =>
    `{"${key}":${j.text},"signature":"${Buffer.from(j.signature).toString('hex')}"}`;
  const chain = (pemText: Uint8Array | string) => encodeURIComponent(Buffer.from(pemText as string).toString('latin1'));
  const server = createServer((request, response) => {
    const path = request.url ?? '';
    if (!path.startsWith('/elsewhere')) asked.push(path);
    if (path.startsWith('/tdx/certification/v4/tcb?'))
      response.setHeader('TCB-Info-Issuer-Chain', chain(c.tcbInfoChain)).end(signed('tcbInfo', c.tcbInfo));
    else if (path === '/tdx/certification/v4/qe/identity')
      response
        .setHeader('SGX-Enclave-Identity-Issuer-Chain', chain(c.qeIdentityChain))
        .end(signed('enclaveIdentity', c.qeIdentity));
    else if (path.startsWith('/sgx/certification/v4/pckcrl?'))
      response.setHeader('SGX-PCK-CRL-Issuer-Chain', chain(c.pckChain ?? '')).end(Buffer.from(c.pckCrl as Uint8Array));
    else if (path === '/sgx/certification/v4/rootcacrl')
      response.end(Buffer.from(c.rootCrl as Uint8Array).toString('hex'));
    else response.writeHead(404).end();
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

describe('gramine-tdx-measure', () => {
  const image = ovmfImage();

  beforeAll(() => {
    put('image.fd', image);
    put('vars.fd', image.subarray(0, 0x84000));
    put('code.fd', image.subarray(0x84000));
    put(
      'app.manifest',
      'libos.entrypoint = "/app"\nloader.insecure__use_cmdline_argv = true\n' +
        'loader.env.A = { passthrough = true }\ntdx.memory = "256M"\ntdx.vcpus = 2\n',
    );
  });

  it('predicts a program’s registers from its manifest, and writes them signed, as CoRIM, and as events', async () => {
    const plain = await measure('app.manifest');
    expect([plain.code, plain.stdout]).toEqual([0, expect.stringMatching(/^rtmr0 +[0-9a-f]{96}$/m)]);
    expect((await measure('app.manifest', '-c', '2', '-m', '256M')).stdout).toBe(plain.stdout);
    const more = await measure('app.manifest', '-c', '4', '-m', '256M', '-e', 'A=b', '--', 'x');
    const line = (r: Result, register: string) => r.stdout.split('\n').find((l) => l.startsWith(register));
    expect(line(more, 'rtmr0')).not.toBe(line(plain, 'rtmr0'));
    expect(line(more, 'rtmr2')).not.toBe(line(plain, 'rtmr2'));
    const written = await measure(
      ...['app.manifest', '--json', 'out.json', '--sign', 'key.pem', '--corim', 'out.corim', '--events', 'out.events'],
    );
    expect(written.code).toBe(0);
    const value = JSON.parse(readFileSync(file('out.json'), 'utf8')) as { reference: ReferenceValues };
    expect(line(plain, 'rtmr2')).toContain(value.reference.rtmr2?.[0]);
    expect(readFileSync(file('out.corim'))[0]).toBe(0xd2); // tag 18
    expect(JSON.parse(readFileSync(file('out.events'), 'utf8'))).toMatchObject({
      events: [{ what: 'vm' }, { what: 'policy' }, { what: 'invocation' }],
    });
    const stdout = await measure('app.manifest', '--json');
    expect(JSON.parse(stdout.stdout)).toEqual(value.reference);
  });

  it('predicts a program without a manifest, as it will be launched', async () => {
    const line = (r: Result) => r.stdout.split('\n').find((l) => l.startsWith('rtmr2'));
    const plain = await measure('/bin/cat');
    expect([plain.code, line(plain)]).toEqual([0, expect.stringMatching(/^rtmr2 +[0-9a-f]{96}$/)]);
    const options = [
      '--publish',
      '8080:80',
      '--volume',
      `${dir}:/data`,
      '--net',
      'localhost:443',
      '--workdir',
      '/data',
    ];
    const more = await measure('/bin/cat', ...options);
    expect([more.code, line(more)]).toEqual([0, expect.stringMatching(/^rtmr2 +[0-9a-f]{96}$/)]);
    expect(line(more)).not.toBe(line(plain));
  });

  it('gives MRTD with a kernel that carries TDVF metadata, and says so where one does not', async () => {
    const without = await measure('app.manifest', '--kernel', 'nowhere.bfv');
    expect([without.code, without.stderr]).toEqual([0, expect.stringMatching(/no kernel image at nowhere.bfv/)]);
    const reference = await measure('app.manifest', '--kernel', 'nowhere.bfv', '--json');
    expect([reference.code, reference.stdout]).toEqual([2, '']);
    expect(reference.stderr).toMatch(/reference values need MRTD: no kernel image at nowhere.bfv/);
  });

  it('inspects an image, whole or in two parts', async () => {
    const r = await measure('inspect', 'image.fd');
    expect(r.code).toBe(0);
    expect(r.stdout).toMatch(/section 0 BFV .* memory 0xffc84000..0x100000000 attributes 1/);
    expect(r.stdout).toMatch(/footer e47a6535-.* TDX metadata offset/);
    expect((await measure('inspect', 'vars.fd', 'code.fd')).stdout).toBe(r.stdout);
    const half = await measure('inspect', 'code.fd');
    expect(half.stdout).toMatch(/finding \(measure: data-in-image\) section 0: .*Join VARS and CODE first/);
    const none = await measure('inspect', 'ref.json');
    expect([none.code, none.stderr]).toEqual([1, expect.stringMatching(/no TDVF metadata/)]);
  });

  it('prints MRTD in both orders, and a trace in either', async () => {
    const [page, section] = (['page', 'section'] as const).map((order) => toHex(computeMrtd(image, { order })));
    const r = await measure('mrtd', 'vars.fd', 'code.fd');
    expect(r.stdout).toBe(`page order    ${page}\nsection order ${section}\n`);
    const trace = (await measure('mrtd', 'image.fd', '--trace', '--order', 'section')).stdout.split('\n');
    const pages = 0x400000 / 4096 + 16 + 2 + 2 + 6;
    expect(trace.filter((l) => l.startsWith('MEM.PAGE.ADD')).length).toBe(pages);
    expect(trace.filter((l) => l.startsWith('MR.EXTEND')).length).toBe(((0x400000 - 0x84000) / 4096) * 16);
    expect((await measure('mrtd', 'image.fd', '--order', 'up')).code).toBe(2);
    expect((await measure('mrtd', 'code.fd')).code).toBe(1);
  });

  it('ends quietly when its reader has seen enough', async () => {
    const command = `"${process.execPath}" "${file('gramine-tdx-measure.cjs')}" mrtd image.fd --trace | head -1`;
    const r = await new Promise<Result>((resolve) =>
      execFile('sh', ['-c', command], { cwd: dir }, (error, stdout, stderr) =>
        resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
      ),
    );
    expect([r.stdout, r.stderr]).toEqual(['MEM.PAGE.ADD section 0 gpa 0xffc84000\n', '']);
  });

  it('computes TD HOBs in both layouts', async () => {
    const qemu = await measure('hob', 'image.fd', '-m', '2G');
    expect(qemu.stdout).toMatch(/^0b8772e5b0b41b83e6044a68397e02f4/);
    const gce = await measure('hob', 'image.fd', '-m', '16G', '--layout', 'gce');
    expect([gce.code, gce.stdout === qemu.stdout]).toEqual([0, false]);
    expect((await measure('hob', 'image.fd', '-m', '2G', '--layout', 'azure')).code).toBe(2);
  });

  it('computes an OVMF guest’s registers, and diff finds what a log has otherwise', async () => {
    put('kernel', bzImage());
    put('initrd', pattern(5000));
    const acpi = [1, 2, 3].map((n) => put(`acpi${n}`, pattern(40, n)));
    const args = [
      ...['ovmf', 'vars.fd', 'code.fd', '-m', '2G', '--layout', 'qemu', '--secure-boot', 'off', '--separator', 'rtmr0'],
      ...['--acpi-loader', acpi[0] ?? '', '--acpi-rsdp', acpi[1] ?? '', '--acpi-tables', acpi[2] ?? ''],
      ...['--kernel', 'kernel', '--initrd', 'initrd', '--append', 'console=hvc0', '--initrd-argument', 'prepend'],
      ...[
        '--boot-option',
        'BootManagerMenuApp',
        '--boot-option',
        'FirmwareSetup',
        '--fw-cfg',
        `BootMenu=${put('menu', pattern(2))}`,
      ],
    ];
    const r = await measure(...args, '--events', 'ovmf.events');
    expect([r.code, r.stderr]).toEqual([0, '']);
    expect(r.stdout).toMatch(/^ {2}RTMR0 EV_EFI_HANDOFF_TABLES2 +0b8772e5/m);
    for (const n of [0, 1, 2]) expect(r.stdout).toMatch(new RegExp(`^rtmr${n} +[0-9a-f]{96}$`, 'm'));
    const unpatched = await measure(...args, '--no-header-patch', '--json');
    expect(JSON.parse(unpatched.stdout)).toMatchObject({ format: REFERENCE_FORMAT, rtmr2: [expect.any(String)] });
    const signed = await measure(...args, '--json', 'o.json', '--corim', 'o.corim', '--sign', 'key.pem');
    expect(signed.code).toBe(0);

    interface Event {
      register: string;
      type: number;
      digest: string;
    }
    const { events } = JSON.parse(readFileSync(file('ovmf.events'), 'utf8')) as { events: Event[] };
    const asLog = (list: readonly Event[]) =>
      buildEventLog(
        list.map((e) => ({
          mrIndex: Number(e.register.slice(4)) + 1,
          type: e.type === 4 || e.type >= 0x80000001 ? 0xd : e.type,
          digest: Buffer.from(e.digest, 'hex') as never,
          data: new Uint8Array(0),
        })),
      );
    put('good.log', asLog(events));
    const same = await measure('diff', 'ovmf.events', 'good.log', '--all');
    expect([same.code, same.stdout]).toEqual([
      0,
      expect.stringMatching(/^\d+ as expected, 0 not predicted, 0 missing, 0 unexpected, 0 /m),
    ]);
    put(
      'bad.log',
      asLog([...events.slice(0, 3), { ...(events[3] as Event), digest: '77'.repeat(48) }, ...events.slice(4)]),
    );
    const differs = await measure('diff', 'ovmf.events', 'bad.log');
    expect(differs.code).toBe(1);
    expect(differs.stdout).toMatch(/^- RTMR0 EV_EFI_VARIABLE_DRIVER_CONFIG/m);
    expect(differs.stdout).toMatch(/^\+ RTMR0 EV_IPL +7777.* event 3, data/m);
    expect(differs.stdout).toMatch(/ 1 missing, 1 unexpected/);
    expect((await measure('diff', 'good.log', 'bad.log')).code).toBe(1);
  });

  it('takes what is not given from a log, marks it, and names what nobody gave', async () => {
    const option = bootOption(FIRMWARE_APPLICATIONS.UiApp);
    const acpi = new TextEncoder().encode('ACPI DATA');
    const events = [
      ...[1, 2, 3].map((n) => ({ mrIndex: 1, type: 0xa, digest: sha384(pattern(9, n)), data: acpi })),
      {
        mrIndex: 1,
        type: 0x80000002,
        digest: sha384(option),
        data: uefiVariableData('8be4df61-93ca-11d2-aa0d-00e098032b8c', 'Boot0000', option),
      },
      { mrIndex: 3, type: 0xd, digest: sha384(data), data },
    ];
    put('guest.log', buildEventLog(events));
    const disk = put('disk.img', gptDisk([0, 1]));
    const pe = put('shim.efi', peFile());
    const vars = put(
      'enrolled.fd',
      varsFile([{ guid: '8be4df61-93ca-11d2-aa0d-00e098032b8c', name: 'PK', attributes: 39, data: pattern(50) }]),
    );
    const r = await measure(
      ...['ovmf', 'image.fd', '-m', '1G', '--vars', vars, '--disk', disk, '--pe', pe, '--log', 'guest.log'],
    );
    expect(r.code).toBe(0);
    expect(r.stdout.match(/^L /gm)).toHaveLength(5);
    expect(r.stdout).toMatch(/SecureBoot, 1 bytes/);
    expect(r.stderr).toMatch(/events marked L were not computed/);
    const open = await measure('ovmf', 'image.fd', '-m', '1G');
    expect(open.code).toBe(0);
    expect(open.stdout).toMatch(/^rtmr0 +not known/m);
    expect(open.stderr).toMatch(/not known: ACPI etc\/table-loader; only the VMM knows: give --acpi-loader/);
  });

  it.each<[string, readonly string[], RegExp]>([
    ['no memory', ['ovmf', 'image.fd'], /required option '-m, --memory <size>'/],
    ['one ACPI blob of three', ['ovmf', 'image.fd', '-m', '1G', '--acpi-rsdp', 'initrd'], /together/],
    ['an initrd without a kernel', ['ovmf', 'image.fd', '-m', '1G', '--initrd', 'initrd'], /belong to --kernel/],
    ['Secure Boot perhaps', ['ovmf', 'image.fd', '-m', '1G', '--secure-boot', 'maybe'], /expected absent or off or on/],
    ['a boot option that is no file', ['ovmf', 'image.fd', '-m', '1G', '--boot-option', 'Shell'], /cannot read Shell/],
    ['a signature over nothing', ['app.manifest', '--sign', 'key.pem'], /give --json or --corim too/],
    ['a memory size that is none', ['hob', 'image.fd', '-m', 'much'], /memory/],
    ['no command', [], /missing required argument 'app'/],
    [
      'a folder that cannot be written',
      ['app.manifest', '--json', '/nowhere/x.json'],
      /cannot write \/nowhere\/x.json \(ENOENT\)/,
    ],
  ])('says (2) %s is a matter of usage', async (_, args, message) => {
    const r = await measure(...args);
    expect([r.code, r.stderr]).toEqual([2, expect.stringMatching(message)]);
    expect(r.stderr).not.toMatch(/\n\s+at /);
  });

  it('takes logs, quotes and reports apart', async () => {
    const l = await measure('log', 'log.bin');
    expect(l.stdout).toMatch(/^ {2}0 RTMR2 EV_IPL .* data 8 bytes, match$/m);
    expect(l.stdout).toMatch(new RegExp(`^RTMR2 ${reference.rtmr2?.[0]}$`, 'm'));
    const q = await measure('quote', put('v5.bin', pki.quote({ version: 5, kind: 'TD1.5' })));
    expect(q.stdout).toMatch(/version 5, body TD1.5, certification chain, 0 trailing bytes/);
    expect(q.stdout).toMatch(/attributes +0x10000000 SEPT_VE_DISABLE/);
    const report = Buffer.alloc(1024);
    report[0] = 0x81;
    Buffer.from(sha384(report.subarray(256, 495))).copy(report, 32);
    Buffer.from(sha384(report.subarray(512))).copy(report, 80);
    const rep = await measure('report', put('report.bin', report));
    expect([rep.code, rep.stdout]).toEqual([0, expect.stringMatching(/both hashes agree/)]);
    report[600] = 1;
    expect((await measure('report', put('bad-report.bin', report))).code).toBe(1);
    expect((await measure('log', 'report.bin')).code).toBe(1);
  });
});

describe('the flags of --help', () => {
  it('are all used by a test above', async () => {
    const commands = ['app', 'ovmf', 'inspect', 'mrtd', 'hob', 'log', 'diff', 'quote', 'report'];
    const missing: string[] = [];
    const check = (command: string, help: string, ...names: string[]) => {
      const seen = new Set(names.flatMap((n) => [...(used.get(n) ?? [])]));
      const short = new Map([...help.matchAll(/^ {2}(-\w), (--[a-z-]+)/gm)].map((m) => [m[2] ?? '', m[1] ?? '']));
      for (const f of flagsOf(help))
        if (f !== '--help' && !seen.has(f) && !seen.has(short.get(f) ?? '')) missing.push(`${command} ${f}`);
    };
    check('verify', (await verify('--help')).stdout, 'gramine-tdx-verify');
    for (const c of commands) {
      const help = (await measure(c, '--help')).stdout;
      expect(help).toMatch(new RegExp(`^Usage: gramine-tdx-measure ${c}`));
      const names = c === 'app' ? ['gramine-tdx-measure', 'gramine-tdx-measure app'] : [`gramine-tdx-measure ${c}`];
      check(c, help, ...names);
    }
    expect(missing).toEqual([]);
  });
});

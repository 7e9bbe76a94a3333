// SPDX-License-Identifier: Apache-2.0
//
// The quoting service of simulated TDs: what it signs verifies against its own root and no other; what it should not sign,
// it refuses with the protocol's code.

import { spawnSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { QGS_ERROR, QuoteService, writeCollateral } from '../../src/launch/quote-service.js';
import { ThrowawayPki } from '../../src/launch/throwaway-pki.js';
import { parseTdReport, sha384, toHex, trustAnchor, verifyQuote } from '../../src/measure/index.js';

const macKey = Buffer.alloc(32, 9);
const pki = new ThrowawayPki({ label: 'Simulated' });
const work = mkdtempSync(join(tmpdir(), 'gt-quote-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** A TDREPORT as a simulated module makes it; `change` is applied before the hashes and the MAC are. */
function tdReport(change: (report: Buffer) => void = () => {}): Buffer {
  const r = Buffer.alloc(1024);
  r[0] = 0x81;
  r.fill(7, 128, 192);
  r.writeBigUInt64LE(0x301ffn, 256);
  r.set([5, 1, 2], 264);
  r.set([5, 1, 2], 384);
  r.set(sha384(Buffer.from('gramine-tdx simulated TDX module')), 280);
  r.writeBigUInt64LE(1n << 28n, 512);
  for (let i = 0; i < 4; i++) r.fill(0x10 + i, 512 + 208 + 48 * i, 512 + 256 + 48 * i);
  r.fill(0x44, 512 + 16, 512 + 64);
  change(r);
  r.set(sha384(r.subarray(256, 256 + 239)), 32);
  r.set(sha384(r.subarray(512)), 80);
  r.set(createHmac('sha256', macKey).update(r.subarray(0, 224)).digest(), 224);
  return r;
}

function request(report: Uint8Array, change: (message: Buffer) => void = () => {}): Buffer {
  const m = Buffer.alloc(24);
  m.writeUInt16LE(1, 0);
  m.writeUInt16LE(1, 2);
  m.writeUInt32LE(24 + report.length, 8);
  m.writeUInt32LE(report.length, 16);
  const whole = Buffer.concat([m, report]);
  change(whole);
  return whole;
}

const troubles: string[] = [];
const service = (version: 4 | 5 = 4) =>
  new QuoteService({ pki, macKey, version, trouble: (text) => void troubles.push(text) });
const quoteOf = (answer: Buffer): Buffer => {
  expect([answer.readUInt16LE(0), answer.readUInt16LE(2), answer.readUInt32LE(4)]).toEqual([1, 1, 1]);
  expect(answer.readUInt32LE(8)).toBe(answer.length);
  expect([answer.readUInt32LE(12), answer.readUInt32LE(16)]).toEqual([0, 0]);
  expect(answer.readUInt32LE(20)).toBe(answer.length - 24);
  return answer.subarray(24);
};

describe('a quote', () => {
  it.each([4, 5] as const)(
    'of version %i carries every field of the report, and verifies with its root only',
    (version) => {
      const report = tdReport();
      const quote = quoteOf(service(version).answer(request(report)));
      const verdict = verifyQuote(quote, {
        collateral: pki.collateral,
        at: Date.now(),
        anchor: trustAnchor(pki.rootDer),
      });
      expect(verdict.status).toBe('UpToDate');
      const expected = parseTdReport(report);
      const { body } = verdict.quote;
      expect(toHex(body.reportData)).toBe(toHex(expected.reportData));
      expect(toHex(body.mrSeam)).toBe(toHex(expected.tcb.mrSeam));
      expect(body.td).toEqual(expected.td);
      expect(() => verifyQuote(quote, { collateral: pki.collateral, at: Date.now() })).toThrow(/trusted root/);
    },
  );

  it('is accepted by gramine-tdx-verify with the written root and collateral, and not without', () => {
    const quote = join(work, 'quote.bin');
    const collateral = join(work, 'collateral');
    writeFileSync(quote, quoteOf(service().answer(request(tdReport()))));
    writeCollateral(collateral, pki);
    const command = fileURLToPath(new URL('../../dist/cli/gramine-tdx-verify.js', import.meta.url));
    const verify = (...args: string[]) =>
      spawnSync(process.execPath, [command, '--quote', quote, '--collateral', collateral, ...args], {
        encoding: 'utf8',
      });
    const data = ['--report-data', '07'.repeat(64)];
    const good = verify('--trust-root', join(collateral, 'root.pem'), ...data);
    expect({ status: good.status, stderr: good.stderr }).toEqual({ status: 0, stderr: '' });
    expect(good.stdout).toContain('not Intel’s: this proves nothing about hardware');
    expect(verify(...data).status).toBe(1);
    expect(verify('--trust-root', join(collateral, 'root.pem'), '--report-data', '08').status).toBe(1);
  });
});

describe('the service refuses', () => {
  const code = (message: Uint8Array) => service().answer(message).readUInt32LE(12);

  it.each<[string, () => Buffer, number]>([
    ['a report whose MAC is of another key', () => request(flip(tdReport(), 224)), QGS_ERROR.parameter],
    ['a report that was changed after it was made', () => request(flip(tdReport(), 130)), QGS_ERROR.parameter],
    ['a report whose registers are not those of the hash', () => request(flip(tdReport(), 720)), QGS_ERROR.parameter],
    ['a report of SGX', () => request(tdReport((r) => r.writeUInt8(0, 0))), QGS_ERROR.parameter],
    ['a report that is too short', () => request(tdReport().subarray(0, 1000)), QGS_ERROR.size],
    ['a size that is not the message’s', () => request(tdReport(), (m) => m.writeUInt32LE(99, 8)), QGS_ERROR.size],
    ['ids beyond the end', () => request(tdReport(), (m) => m.writeUInt32LE(16, 20)), QGS_ERROR.size],
    ['ids that wrap around', () => request(tdReport(), (m) => m.writeUInt32LE(0xffff_ffff, 20)), QGS_ERROR.size],
    ['another version', () => request(tdReport(), (m) => m.writeUInt16LE(2, 0)), QGS_ERROR.version],
    ['another type', () => request(tdReport(), (m) => m.writeUInt32LE(2, 4)), QGS_ERROR.type],
    ['nothing but a header', () => Buffer.alloc(16), QGS_ERROR.size],
  ])('%s', (_, message, expected) => {
    troubles.length = 0;
    expect(code(message())).toBe(expected);
    expect(troubles).toHaveLength(1);
  });

  function flip(report: Buffer, at: number): Buffer {
    report.writeUInt8(report.readUInt8(at) ^ 1, at);
    return report;
  }
});

describe('over a socket', () => {
  const path = join(work, 'socket');
  const frame = (message: Uint8Array) => {
    const head = Buffer.alloc(4);
    head.writeUInt32BE(message.length, 0);
    return Buffer.concat([head, message]);
  };

  it('answers frames in order, however they are cut, and closes on what is no frame', async () => {
    const server = createServer((socket) => service().serve(socket));
    server.listen(path);
    await once(server, 'listening');
    const client = connect(path);
    let received = Buffer.alloc(0);
    client.on('data', (data: Buffer) => {
      received = Buffer.concat([received, data]);
    });
    const closed = once(client, 'close');
    const second = tdReport((r) => r.fill(9, 128, 192));
    const bytes = Buffer.concat([frame(request(tdReport())), frame(request(second)), Buffer.of(0, 0, 0, 1)]);
    for (let at = 0; at < bytes.length; at += 777) client.write(bytes.subarray(at, at + 777));
    await closed;
    server.close();
    const reportData: string[] = [];
    for (let at = 0; at < received.length; ) {
      const length = received.readUInt32BE(at);
      reportData.push(
        quoteOf(received.subarray(at + 4, at + 4 + length))
          .subarray(568, 632)
          .toString('hex'),
      );
      at += 4 + length;
    }
    expect(reportData).toEqual(['07'.repeat(64), '09'.repeat(64)]);
  });
});

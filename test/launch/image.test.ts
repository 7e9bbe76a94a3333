// SPDX-License-Identifier: Apache-2.0
//
// The launch image as a TD's host sees it: the TDVF metadata that the kernel's build puts into its last page, and the MRTD
// that follows from it. The expected MRTD is computed here once more, straight from docs/measurement.md.

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { KERNEL_IMAGE } from '../../src/launch/paths.js';
import { CFV_BYTES, cfvHead } from '../../src/launch/record.js';
import { checkTdvf, computeMrtd, parseTdvf } from '../../src/measure/index.js';

const KERNEL = process.env.GRAMINE_TDX_KERNEL ?? KERNEL_IMAGE;
const FOUR_GIB = 1n << 32n;
const PAGE = 4096;

function image(record: Uint8Array): Buffer {
  const cfv = Buffer.alloc(CFV_BYTES);
  cfv.set(cfvHead(record));
  return Buffer.concat([cfv, readFileSync(KERNEL)]);
}

function block(name: string, gpa: bigint): Buffer {
  const b = Buffer.alloc(128);
  b.write(name, 'latin1');
  b.writeBigUInt64LE(gpa, 16);
  return b;
}

describe.skipIf(!existsSync(KERNEL))('the launch image', () => {
  const whole = image(Buffer.from('abc'));
  const bfvBytes = BigInt(whole.length - CFV_BYTES);

  it('has metadata that QEMU, td-shim and Google Cloud take without a finding', () => {
    const tdvf = parseTdvf(whole);
    expect(tdvf.locator).toBe('guid-table');
    expect(checkTdvf(tdvf)).toEqual([]);
    expect(tdvf.sections.map((s) => [s.type, s.attributes])).toEqual([
      ['BFV', 1],
      ['CFV', 0],
      ['TempMem', 0],
      ['TD_HOB', 0],
    ]);
    const [bfv, cfv] = tdvf.sections;
    expect(bfv).toMatchObject({ dataOffset: CFV_BYTES, memoryAddress: FOUR_GIB - bfvBytes, memoryDataSize: bfvBytes });
    expect(cfv).toMatchObject({ dataOffset: 0, memoryAddress: FOUR_GIB - BigInt(whole.length) });
    expect(whole.length % 65536).toBe(0);
  });

  it('has the MRTD that the documented rules give, in both orders', () => {
    const { sections } = parseTdvf(whole);
    for (const order of ['page', 'section'] as const) {
      const hash = createHash('sha384');
      for (const s of sections) {
        const pages = Number(s.memoryDataSize) / PAGE;
        const add = (p: number) => hash.update(block('MEM.PAGE.ADD', s.memoryAddress + BigInt(p * PAGE)));
        const extend = (p: number) => {
          for (let at = p * PAGE; at < (p + 1) * PAGE; at += 256) {
            hash.update(block('MR.EXTEND', s.memoryAddress + BigInt(at)));
            hash.update(whole.subarray(s.dataOffset + at, s.dataOffset + at + 256));
          }
        };
        for (let p = 0; p < pages; p++) {
          add(p);
          if (order === 'page' && s.attributes === 1) extend(p);
        }
        if (order === 'section' && s.attributes === 1) for (let p = 0; p < pages; p++) extend(p);
      }
      expect(Buffer.from(computeMrtd(whole, { order })).toString('hex')).toBe(hash.digest('hex'));
    }
  });

  it('has an MRTD that the launch record does not change and a byte of the kernel does', () => {
    const other = image(Buffer.from('another record'));
    const mrtd = (bytes: Uint8Array) => Buffer.from(computeMrtd(bytes, { order: 'page' })).toString('hex');
    expect(mrtd(other)).toBe(mrtd(whole));
    other.writeUInt8(other.readUInt8(CFV_BYTES + 0x1234) ^ 1, CFV_BYTES + 0x1234);
    expect(mrtd(other)).not.toBe(mrtd(whole));
  });
});

// SPDX-License-Identifier: Apache-2.0
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { readProgram } from '../../src/manifest/elf.js';
import { parseLdCache } from '../../src/manifest/ld-cache.js';

const directory = mkdtempSync(join(tmpdir(), 'gt-elf-'));
afterAll(() => rmSync(directory, { recursive: true }));

function read(bytes: Uint8Array | string) {
  const path = join(directory, 'file');
  writeFileSync(path, bytes);
  return readProgram(path);
}

interface Image {
  readonly interpreter?: string;
  readonly dynamic?: readonly (readonly [tag: number, value: string])[];
}

const TAGS_WITH_STRING = new Set([1, 14, 15, 29]);

/** A minimal x86-64 ELF file: header, program headers, then interpreter, dynamic section and strings. */
function elf({ interpreter, dynamic }: Image): Buffer {
  const base = 0x400000;
  const image = Buffer.alloc(4096);
  image.write('\x7fELF\x02\x01\x01', 'latin1');
  image.writeUInt16LE(3, 16);
  image.writeUInt16LE(62, 18);
  image.writeBigUInt64LE(64n, 32);
  image.writeUInt16LE(56, 54);
  let count = 0;
  const segment = (type: number, offset: number, size: number) => {
    const at = 64 + 56 * count;
    count += 1;
    image.writeUInt32LE(type, at);
    image.writeBigUInt64LE(BigInt(offset), at + 8);
    image.writeBigUInt64LE(BigInt(base + offset), at + 16);
    image.writeBigUInt64LE(BigInt(size), at + 32);
  };
  segment(1, 0, 4096);
  if (interpreter !== undefined) segment(3, 1024, image.write(`${interpreter}\0`, 1024));
  if (dynamic !== undefined) {
    let strings = 1;
    let at = 2048;
    const entry = (tag: number, value: number) => {
      image.writeBigUInt64LE(BigInt(tag), at);
      image.writeBigUInt64LE(BigInt(value), at + 8);
      at += 16;
    };
    entry(5, base + 3072);
    for (const [tag, value] of dynamic) {
      entry(tag, TAGS_WITH_STRING.has(tag) ? strings : Number(value));
      if (TAGS_WITH_STRING.has(tag)) strings += image.write(`${value}\0`, 3072 + strings);
    }
    entry(10, strings);
    entry(0, 0);
    segment(2, 2048, at - 2048);
  }
  image.writeUInt16LE(count, 56);
  return image;
}

describe('readProgram', () => {
  it('reads interpreter, needed libraries and search paths', () => {
    const image = elf({
      interpreter: '/lib64/ld.so',
      dynamic: [
        [1, 'libm.so.6'],
        [1, 'libc.so.6'],
        [15, '/a:$ORIGIN/../lib'],
        [29, '/b::/c'],
      ],
    });
    expect(read(image)).toEqual({
      kind: 'elf',
      interpreter: '/lib64/ld.so',
      needed: ['libm.so.6', 'libc.so.6'],
      rpath: ['/a', '$ORIGIN/../lib'],
      runpath: ['/b', '/c'],
    });
  });

  it('reads a static program', () => {
    expect(read(elf({}))).toEqual({ kind: 'elf', needed: [], rpath: [], runpath: [] });
  });

  it.each([
    ['#!/bin/sh\necho', { kind: 'script', interpreter: '/bin/sh' }],
    ['#! /usr/bin/env  python3 -u \n', { kind: 'script', interpreter: '/usr/bin/env', argument: 'python3 -u' }],
    ['#!\n', { kind: 'other' }],
    ['', { kind: 'other' }],
    ['text', { kind: 'other' }],
    ['\x7fELF', { kind: 'other' }],
  ])('%j', (text, expected) => {
    expect(read(text)).toEqual(expected);
  });

  it('names the architecture of a foreign program', () => {
    const image = elf({});
    image.writeUInt16LE(40, 18);
    expect(read(image)).toEqual({ kind: 'foreign-elf', machine: '32-bit Arm' });
    const i386 = elf({});
    i386[4] = 1;
    i386.writeUInt16LE(3, 18);
    expect(read(i386)).toEqual({ kind: 'foreign-elf', machine: '32-bit x86' });
  });

  it('refuses headers that point outside of the file', () => {
    const image = elf({ interpreter: '/lib64/ld.so' });
    image.writeBigUInt64LE(5000n, 64 + 56 + 32);
    expect(read(image)).toEqual({ kind: 'other' });
    image.writeBigUInt64LE(0xffff_ffff_ffff_ff00n, 32);
    expect(read(image)).toEqual({ kind: 'other' });
  });

  it('refuses program headers of a size that Linux does not run', () => {
    const image = elf({});
    image.writeUInt16LE(0xffff, 54);
    image.writeUInt16LE(0xffff, 56);
    expect(read(image)).toEqual({ kind: 'other' });
  });

  it('reads texts of a path’s length, however many and long the file claims', () => {
    const image = Buffer.alloc(8 << 20, 'x');
    elf({ dynamic: [[1, 'l']] }).copy(image);
    image.writeBigUInt64LE(BigInt(image.length), 64 + 32); // the loaded segment is the file
    image.writeBigUInt64LE(BigInt(2 << 20), 64 + 56 + 32);
    for (let at = 2048; at < 2048 + (2 << 20); at += 16) {
      image.writeBigUInt64LE(1n, at);
      image.writeBigUInt64LE(1n, at + 8);
    }
    image.writeBigUInt64LE(5n, 2048);
    image.writeBigUInt64LE(BigInt(0x400000 + (3 << 20)), 2048 + 8);
    image.writeBigUInt64LE(10n, 2064);
    image.writeBigUInt64LE(BigInt(Number.MAX_SAFE_INTEGER), 2064 + 8);
    const found = read(image);
    const needed = found.kind === 'elf' ? found.needed : [];
    expect(needed.length).toBeLessThan(5000);
    expect(new Set(needed.map((text) => text.length))).toEqual(new Set([4096]));
  });

  it('survives any damage', () => {
    const image = elf({ interpreter: '/lib64/ld.so', dynamic: [[1, 'libc.so.6']] });
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.oneof(fc.nat(200), fc.integer({ min: 2048, max: 2200 })), fc.nat(255)), { maxLength: 8 }),
        fc.option(fc.nat(4096)),
        (changes, cut) => {
          const damaged = Buffer.from(image);
          for (const [at, value] of changes) damaged[at] = value;
          read(cut === null ? damaged : damaged.subarray(0, cut));
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe('parseLdCache', () => {
  it("finds this system's C library", () => {
    const cache = parseLdCache(readFileSync('/etc/ld.so.cache'));
    expect(cache.get('libc.so.6')?.[0]).toMatch(/^\/.*\/libc\.so\.6$/);
  });

  it('takes a damaged cache for an empty or smaller one', () => {
    const cache = readFileSync('/etc/ld.so.cache');
    expect(parseLdCache(Buffer.from('text')).size).toBe(0);
    expect(parseLdCache(cache.subarray(0, 30)).size).toBe(0);
    fc.assert(
      fc.property(fc.nat(2000), fc.nat(255), fc.nat(cache.length), (at, value, cut) => {
        const damaged = Buffer.from(cache.subarray(0, cut));
        if (at < damaged.length) damaged[at] = value;
        parseLdCache(damaged);
      }),
      { numRuns: 200 },
    );
  });
});

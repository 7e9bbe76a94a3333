// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { CFV_BYTES, cfvHead, checkKernel, encodeRecord, type LaunchRecord } from '../../src/launch/record.js';
import { compilePolicy, decodeCbor, encodePolicy, HashTreeBuilder, LEAF_BYTES } from '../../src/manifest/index.js';
import { fakeKernel } from './fake-kernel.js';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

function trustedFile(uri: string, content: Buffer) {
  const builder = new HashTreeBuilder();
  builder.update(content);
  const tree = builder.finish();
  return {
    uri,
    sha256: hex(tree.sha256),
    size: content.length,
    mode: 0o644,
    root: hex(tree.root),
    leaves: tree.leaves,
  };
}

function record(files: ReturnType<typeof trustedFile>[], leaves: ReadonlyMap<string, string>): LaunchRecord {
  return {
    policy: compilePolicy({
      libos: { entrypoint: '/bin/app' },
      tdx: { trusted_files: files.map(({ leaves: _, ...file }) => file) },
    }),
    invocation: { argv: [Buffer.from('x')], env: [Buffer.from('A=b')] },
    vm: { cpus: 2, memoryBytes: 1n << 30n },
    host: { timeNs: 1_700_000_000_000_000_000n, tty: false, rows: 24, cols: 80, leaves },
  };
}

describe('encodeRecord', () => {
  const big = trustedFile('file:/z', Buffer.alloc(3 * LEAF_BYTES, 1));
  const small = trustedFile('file:/a/b', Buffer.from('small'));
  const known = new Map([big, small].map(({ sha256, leaves }) => [sha256, Buffer.from(leaves).toString('base64')]));

  it('is deterministic CBOR that holds exactly the policy that is measured', () => {
    const value = record([big, small], known);
    const bytes = encodeRecord(value);
    const decoded = decodeCbor(bytes) as Map<string, unknown>;
    expect([...decoded.keys()]).toEqual(['vm', 'host', 'policy', 'invocation']);
    expect(decoded.get('vm')).toEqual(
      new Map([
        ['cpus', 2],
        ['memory', 2 ** 30],
      ]),
    );
    expect(Buffer.from(bytes).includes(Buffer.from(encodePolicy(value.policy)))).toBe(true);
    expect(decoded.get('invocation')).toEqual(
      new Map([
        ['env', [new Uint8Array(Buffer.from('A=b'))]],
        ['argv', [new Uint8Array(Buffer.from('x'))]],
      ]),
    );
  });

  it('joins the leaf lists in the order of the tree', () => {
    const decoded = decodeCbor(encodeRecord(record([big, small], known))) as Map<string, Map<string, Uint8Array>>;
    const leaves = decoded.get('host')?.get('leaves') ?? new Uint8Array();
    expect(hex(leaves)).toBe(hex(small.leaves) + hex(big.leaves));
  });

  it('puts zeroes where a list is not known, so that the others stay in their places', () => {
    const only = new Map([[big.sha256, known.get(big.sha256) ?? '']]);
    const decoded = decodeCbor(encodeRecord(record([big, small], only))) as Map<string, Map<string, Uint8Array>>;
    expect(hex(decoded.get('host')?.get('leaves') ?? new Uint8Array())).toBe('00'.repeat(32) + hex(big.leaves));
  });

  it('refuses a policy that does not fit, with its size', () => {
    const files = Array.from({ length: 60_000 }, (_, i) => ({
      ...small,
      uri: `file:/usr/share/some-package/file-number-${i}`,
    }));
    expect(() => encodeRecord(record(files, new Map()))).toThrow(/the launch record takes [0-9]{7} bytes/);
  });
});

it('cfvHead starts with the magic and the length', () => {
  const head = Buffer.from(cfvHead(Buffer.from('abc')));
  expect(head.toString('latin1')).toBe('GTDXCFV1\x03\0\0\0\0\0\0\0abc');
});

describe('checkKernel', () => {
  it('accepts a volume with code at the reset vector', () => {
    expect(() => checkKernel(fakeKernel('', 'halt'), 'k')).not.toThrow();
  });

  it.each([
    ['an empty file', Buffer.alloc(0), /0 bytes/],
    ['a cut file', Buffer.alloc(65537), /multiple of 65536/],
    ['zeroes', Buffer.alloc(65536), /reset vector is empty/],
    ['a volume that would reach the device windows', Buffer.alloc(16 * 1024 * 1024 - CFV_BYTES + 65536, 1), /at most/],
  ])('refuses %s', (_name, bytes, message) => {
    expect(() => checkKernel(bytes, 'k')).toThrow(message);
  });
});

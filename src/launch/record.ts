// SPDX-License-Identifier: Apache-2.0
//
// The launch record (docs/launch-record.md) and the launch image that carries it: [CFV][BFV], mapped by QEMU so that it
// ends at 4 GiB.

import { encodeCbor, encodePolicy, leafCount, type Policy } from '../manifest/index.js';
import type { MeasuredItems } from '../measure/index.js';
import { LaunchError } from './errors.js';

export const CFV_BYTES = 4 * 1024 * 1024;
const CFV_MAGIC = 'GTDXCFV1';
const CFV_HEADER_BYTES = 16;
const IMAGE_UNIT_BYTES = 64 * 1024;
/** Above this, device windows cover parts of the image. */
const MAX_IMAGE_BYTES = 16 * 1024 * 1024;
const DIGEST_BYTES = 32;

export interface LaunchRecord {
  readonly policy: Policy;
  readonly invocation: { readonly argv: readonly Uint8Array[]; readonly env: readonly Uint8Array[] };
  readonly vm: { readonly cpus: number; readonly memoryBytes: bigint };
  readonly host: {
    readonly timeNs: bigint;
    readonly tty: boolean;
    readonly rows: number;
    readonly cols: number;
    readonly logLevel?: number;
    readonly hostname?: string;
    /** Leaf lists (base64) by hex SHA-256; files that are not in it get zeroes and the kernel reads them whole. */
    readonly leaves?: ReadonlyMap<string, string>;
    /** Modification times (hints.ts). */
    readonly times?: Uint8Array;
    /** Lines of resolv.conf. */
    readonly resolv?: string;
  };
}

/** The record's bytes; leaf lists and times are left out when they would not fit beside the policy. */
export function encodeRecord(record: LaunchRecord): Uint8Array {
  const { host } = record;
  const fixed = encodeMeasured(record);
  const hints = (leaves?: Uint8Array, times?: Uint8Array) =>
    encodeCbor({
      time: host.timeNs,
      tty: host.tty,
      rows: host.rows,
      cols: host.cols,
      log: host.logLevel,
      hostname: host.hostname,
      leaves,
      times,
      resolv: host.resolv,
    });
  const limit = CFV_BYTES - CFV_HEADER_BYTES;
  const whole = join(fixed, hints(joinLeaves(record), host.times));
  if (whole.length <= limit) return whole;
  const without = join(fixed, hints());
  if (without.length <= limit) return without;
  throw new LaunchError(
    'policy-too-large',
    `the launch record takes ${without.length} bytes (the policy alone ${fixed.policy.length}), and ${limit} fit. ` +
      'Trust fewer files: name directories of the program instead of whole system trees.',
  );
}

/** The three items that are measured, each as its exact bytes. */
export function encodeMeasured(record: Pick<LaunchRecord, 'policy' | 'invocation' | 'vm'>): MeasuredItems {
  const { policy, invocation, vm } = record;
  return {
    vm: encodeCbor({ cpus: vm.cpus, memory: vm.memoryBytes }),
    policy: encodePolicy(policy),
    invocation: encodeCbor({ argv: invocation.argv, env: invocation.env }),
  };
}

/** A map of the four items; the keys are in the order of deterministic CBOR: by length, then by bytes. */
function join(fixed: MeasuredItems, host: Uint8Array): Uint8Array {
  const map4 = 0xa4;
  return Buffer.concat([
    Uint8Array.of(map4),
    encodeCbor('vm'),
    fixed.vm,
    encodeCbor('host'),
    host,
    encodeCbor('policy'),
    fixed.policy,
    encodeCbor('invocation'),
    fixed.invocation,
  ]);
}

function joinLeaves({ policy, host }: LaunchRecord): Uint8Array | undefined {
  if (host.leaves === undefined) return undefined;
  const lists: Uint8Array[] = [];
  let bytes = 0;
  for (const { sha256, meta } of policy.trusted.filesWithMeta()) {
    const expected = leafCount(meta.size) * DIGEST_BYTES;
    bytes += expected;
    if (bytes > CFV_BYTES) return undefined;
    const list = Buffer.from(host.leaves.get(Buffer.from(sha256).toString('hex')) ?? '', 'base64');
    lists.push(list.length === expected ? list : new Uint8Array(expected));
  }
  return Buffer.concat(lists);
}

/** The first 4 MiB of the image, without the zeroes at its end. */
export function cfvHead(record: Uint8Array): Uint8Array {
  const header = Buffer.alloc(CFV_HEADER_BYTES);
  header.write(CFV_MAGIC, 'latin1');
  header.writeUInt32LE(record.length, 8);
  return Buffer.concat([header, record]);
}

/** Refuses a kernel volume that QEMU would refuse, or that cannot be one: it ends with a jump at the reset vector. */
export function checkKernel(bfv: Uint8Array, path: string): void {
  const wrong = (why: string) =>
    new LaunchError(
      'image-corrupt',
      `${path}: not a kernel image: ${why}. Build it anew: make -C kernel-bin, or reinstall.`,
    );
  if (bfv.length === 0 || bfv.length % IMAGE_UNIT_BYTES !== 0) {
    throw wrong(`${bfv.length} bytes, expected a multiple of ${IMAGE_UNIT_BYTES}`);
  }
  if (bfv.length + CFV_BYTES > MAX_IMAGE_BYTES) {
    throw wrong(`${bfv.length} bytes, at most ${MAX_IMAGE_BYTES - CFV_BYTES} fit below 4 GiB`);
  }
  if (bfv.subarray(-16).every((byte) => byte === 0)) throw wrong('the reset vector is empty');
}

// SPDX-License-Identifier: Apache-2.0
//
// The exact bytes that a launch would have measured, without launching: what gramine-tdx-measure predicts registers from.

import { existsSync, readFileSync } from 'node:fs';
import { type MeasuredItems, MeasureError, parseTdvf } from '../measure/index.js';
import { DEFAULT_TD_CPUS } from './launch.js';
import { type Publication, parseEnv, type Volume } from './options.js';
import { KERNEL_IMAGE } from './paths.js';
import { makePlan } from './plan.js';
import { CFV_BYTES, checkKernel, encodeMeasured } from './record.js';

export interface MeasureRequest {
  readonly app: string;
  readonly args: readonly string[];
  /** NAME=VALUE, as on the command line. */
  readonly env: readonly string[];
  readonly cpus: number | undefined;
  readonly memoryBytes: bigint | undefined;
  readonly kernelImage: string | undefined;
  /** Options of a launch that become a part of the policy. */
  readonly volumes?: readonly Volume[] | undefined;
  readonly publish?: readonly Publication[] | undefined;
  readonly outbound?: readonly string[] | undefined;
  readonly workdir?: string | undefined;
}

export interface MeasuredLaunch {
  readonly items: MeasuredItems;
  /** The launch image with an empty CFV, which no MRTD depends on; undefined when the kernel has no TDVF metadata. */
  readonly image: Uint8Array | undefined;
  readonly cpus: number;
  readonly memoryBytes: bigint;
  readonly notes: readonly string[];
}

/** Errors: LaunchError as for a launch. */
export async function measuredItems(request: MeasureRequest): Promise<MeasuredLaunch> {
  const plan = await makePlan({
    app: request.app,
    args: request.args,
    env: request.env.map(parseEnv),
    volumes: request.volumes ?? [],
    publish: request.publish ?? [],
    outbound: request.outbound ?? [],
    workdir: request.workdir,
    memoryBytes: request.memoryBytes,
  });
  const vm = { cpus: request.cpus ?? plan.cpus ?? DEFAULT_TD_CPUS, memoryBytes: plan.memoryBytes };
  const notes: string[] = [];
  const image = launchImage(request.kernelImage ?? KERNEL_IMAGE, notes);
  return {
    items: encodeMeasured({ policy: plan.policy, invocation: plan.invocation, vm }),
    image,
    cpus: vm.cpus,
    memoryBytes: vm.memoryBytes,
    notes,
  };
}

function launchImage(path: string, notes: string[]): Uint8Array | undefined {
  if (!existsSync(path)) {
    notes.push(`no kernel image at ${path}: MRTD is not computed; build it with make -C kernel-bin`);
    return undefined;
  }
  const bfv = readFileSync(path);
  checkKernel(bfv, path);
  const image = new Uint8Array(CFV_BYTES + bfv.length);
  image.set(bfv, CFV_BYTES);
  try {
    parseTdvf(image);
  } catch (error) {
    if (!(error instanceof MeasureError)) throw error;
    notes.push(`${path} has no TDVF metadata: MRTD is not computed`);
    return undefined;
  }
  return image;
}

// SPDX-License-Identifier: Apache-2.0
//
// The door of the launch room.

export { LaunchError, type LaunchErrorCode } from './errors.js';
export { type DryRun, dryRun, type LaunchRequest, launch, type MachineRequest, quote } from './launch.js';
export { type MeasuredLaunch, type MeasureRequest, measuredItems } from './measured-items.js';
export {
  type Publication,
  parseCpus,
  parseEnv,
  parseMemory,
  parseOutbound,
  parsePublication,
  parseVolume,
  parseWorkdir,
  type Volume,
} from './options.js';
export type { QuoteAddress, TdIdentity } from './qemu.js';
export { parseQuoteService, parseRegister } from './tdx-host.js';

// SPDX-License-Identifier: Apache-2.0
//
// The door of the manifest room.

export { type AutoManifest, type AutoRequest, autoManifest, trace } from './auto.js';
export { CborError, type CborValue, type DecodedCbor, decodeCbor, encodeCbor } from './cbor.js';
export { type CheckOptions, checkManifest, type Problem } from './check.js';
export {
  compileManifest,
  formatProblem,
  machineOf,
  type ParsedManifest,
  parseManifest,
  policyToManifest,
  showPolicy,
} from './compile.js';
export {
  type Discovery,
  type DiscoveryRequest,
  discover,
  findProgram,
  GUEST_PATH,
  type NeededFolder,
} from './discover.js';
export { type KeyProblem, ManifestError, type ManifestErrorCode } from './errors.js';
export { formatSize, isOutbound, parseSize } from './fields.js';
export { cacheDirectory, cacheFileFor, FileCache, type HashedFile } from './file-cache.js';
export {
  type GeneratedManifest,
  generateManifest,
  type ManifestRequest,
  type RenderRequest,
  renderManifest,
} from './generate.js';
export { DEFAULT_LIBDIR } from './globals.js';
export { type HashTree, HashTreeBuilder, hashTreeRoot, LEAF_BYTES, leafCount } from './hash-tree.js';
export type { HashProgress } from './hasher.js';
export { type HostPath, normalizeHostPath, parseUri } from './host-path.js';
export { compilePolicy, encodePolicy, isWritable, type Mount, type MountType, type Policy } from './policy.js';
export { decodeText } from './text.js';
export { type Position, parseToml, type TomlTable, type TomlValue, writeToml } from './toml.js';
export { type FileMeta, type TrustedEntry, TrustedTree } from './trusted-tree.js';

// SPDX-License-Identifier: Apache-2.0
//
// The door of the manifest room.

export { CborError, type CborValue, type DecodedCbor, decodeCbor, encodeCbor } from './cbor.js';
export {
  type Discovery,
  type DiscoveryRequest,
  discover,
  findProgram,
  GUEST_PATH,
  type NeededFolder,
} from './discover.js';
export { ManifestError, type ManifestErrorCode } from './errors.js';
export { parseSize } from './fields.js';
export { cacheDirectory, cacheFileFor, FileCache, type HashedFile } from './file-cache.js';
export { type HashTree, HashTreeBuilder, hashTreeRoot, LEAF_BYTES, leafCount } from './hash-tree.js';
export { type HostPath, normalizeHostPath, parseUri } from './host-path.js';
export { compilePolicy, encodePolicy, type Mount, type MountType, type Policy } from './policy.js';
export { type FileMeta, type TrustedEntry, TrustedTree } from './trusted-tree.js';

// SPDX-License-Identifier: Apache-2.0
//
// What gramine-manifest-check needs of the manifest room, and nothing else of it: loaded when there is work, not for --help.

export { checkManifest, decodeText, formatProblem, parseToml } from '../manifest/index.js';

// SPDX-License-Identifier: Apache-2.0
//
// measure: what a TD's registers must be, what quotes, logs and reports say they are, and whether to believe it. No I/O.

export { concatBytes, equalBytes, fromHex, toHex } from './bytes.js';
export {
  type Collateral,
  collateralToJson,
  parseCollateral,
  readingCollateral,
  type SignedJson,
  signedJson,
  splitSignedJson,
  TCB_STATUSES,
  verifyCollateral,
} from './collateral.js';
export { referenceToCorim, signCorim } from './corim.js';
export { asSha384, extend, type Sha384, sha384, sha384FromHex, ZERO_SHA384 } from './digest.js';
export { MeasureError, type MeasureErrorCode } from './errors.js';
export { checkEventData, type DataCheck } from './event-data.js';
export {
  diffEvents,
  type EventDifference,
  type EventSource,
  type ExpectedEvent,
  eventsAgree,
  eventsFromJson,
  eventsToJson,
  expectedFromLog,
  type PredictedRtmrs,
  registersOf,
} from './event-diff.js';
export {
  buildEventLog,
  type CcelTable,
  type EventLog,
  eventTypeName,
  type LogEvent,
  type NewEvent,
  parseCcelTable,
  parseEventLog,
  type Rtmrs,
  replayEventLog,
} from './event-log.js';
export { GPT_BYTES, gptEventData } from './gpt.js';
export { type DirectBoot, type InitrdArgument, loadOptions, patchForDirectBoot } from './linux-boot.js';
export { computeMrtd, type MrtdOperation, type MrtdOptions, type MrtdOrder, type MrtdPadding } from './mrtd.js';
export { type DirectBootParts, type NamedFile, type OvmfParts, ovmfEvents } from './ovmf.js';
export { authenticodeParts, authenticodeSha384 } from './pe.js';
export { type EnclaveReport, parseQuote, type Quote, type QuoteHeader, type TdQuoteBody } from './quote.js';
export {
  type AppraisalCheck,
  type AppraisalOptions,
  appraise,
  canonicalJson,
  parseReference,
  REFERENCE_FORMAT,
  type ReferenceValues,
  reportDataFromHex,
  reportDataOf,
  signReference,
} from './reference.js';
export { type MeasuredItems, type Mrtds, predictMrtd, predictRtmrs } from './registers.js';
export { buildTdHob, type HobLayout, tdHobDigest } from './td-hob.js';
export {
  ATTRIBUTE_DEBUG,
  parseTdReport,
  TDREPORT_BYTES,
  type TdInfo,
  type TdReport,
  tdAttributes,
  xfam,
} from './td-report.js';
export {
  checkTdvf,
  type Finding,
  parseTdvf,
  SECTION_TYPES,
  type SectionType,
  type Tdvf,
  type TdvfSection,
} from './tdvf.js';
export {
  bootOption,
  bootOrder,
  FIRMWARE_APPLICATIONS,
  type FirmwareApplication,
  parseUefiVariableData,
  parseVariableStore,
  type UefiVariable,
  uefiVariableData,
} from './uefi-variables.js';
export { type Check, pckPlatform, type TcbStatus, type Verdict, type VerifyOptions, verifyQuote } from './verify.js';
export { INTEL_ROOT_PUBLIC_KEY, type TrustAnchor, trustAnchor } from './x509.js';

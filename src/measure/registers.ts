// SPDX-License-Identifier: Apache-2.0
//
// The registers of our own TDs, from files alone: MRTD from the launch image, RTMR0 and RTMR2 from the canonical bytes of
// the launch record's `vm`, `policy` and `invocation` (docs/launch-record.md, "Events"). RTMR1 and RTMR3 stay zero until
// the program extends RTMR3.

import { extend, type Sha384, sha384, ZERO_SHA384 } from './digest.js';
import type { Rtmrs } from './event-log.js';
import { computeMrtd } from './mrtd.js';

export interface MeasuredItems {
  /** Exact CBOR bytes of each item of the launch record. */
  readonly vm: Uint8Array;
  readonly policy: Uint8Array;
  readonly invocation: Uint8Array;
}

/** The RTMRs of a TD that was given these items and extended nothing yet. */
export function predictRtmrs(items: MeasuredItems): Rtmrs {
  return [
    extend(ZERO_SHA384, sha384(items.vm)),
    ZERO_SHA384,
    extend(extend(ZERO_SHA384, sha384(items.policy)), sha384(items.invocation)),
    ZERO_SHA384,
  ];
}

export interface Mrtds {
  /** Loaders add and extend page by page (`page`: upstream KVM) or section by section (`section`: older stacks). */
  readonly page: Sha384;
  readonly section: Sha384;
}

/** MRTD in both orders. Errors: those of computeMrtd. */
export function predictMrtd(image: Uint8Array): Mrtds {
  return { page: computeMrtd(image, { order: 'page' }), section: computeMrtd(image, { order: 'section' }) };
}

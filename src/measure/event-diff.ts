// SPDX-License-Identifier: Apache-2.0
//
// Expected against found, event by event: register by register, the longest common subsequence of digests, so that one
// event more or less does not make all later ones look different. An expectation may leave a digest open (what only the
// VMM knows); it then stands for one event of its type.

import * as z from 'zod/mini';
import { toHex } from './bytes.js';
import { extend, type Sha384, sha384FromHex, ZERO_SHA384 } from './digest.js';
import { MeasureError } from './errors.js';
import { checkEventData, type DataCheck } from './event-data.js';
import { EV_NO_ACTION, type EventLog, eventTypeName, type LogEvent } from './event-log.js';
import { describeIssues, once } from './schema.js';

/** Where an expected digest comes from: computed from parts, copied from a log that somebody gave, or not known. */
export type EventSource = 'computed' | 'log' | 'unknown';

export interface ExpectedEvent {
  /** CC measurement register index, 1..4 for RTMR0..RTMR3. */
  readonly mrIndex: number;
  readonly type: number;
  /** Absent when `source` is `unknown`. */
  readonly digest?: Sha384;
  /** For people: what was measured. */
  readonly what: string;
  readonly source: EventSource;
}

export type EventDifference =
  | {
      readonly kind: 'same' | 'open';
      readonly expected: ExpectedEvent;
      readonly found: LogEvent;
      readonly data: DataCheck;
    }
  | { readonly kind: 'missing'; readonly expected: ExpectedEvent }
  | { readonly kind: 'extra'; readonly found: LogEvent; readonly data: DataCheck };

/** Work is bounded: beyond this many comparisons events are paired by position instead. */
const MAX_CELLS = 4_000_000;

/**
 * All events of both sides in order, register by register. They agree when every kind is `same` or `open` and no `data` is
 * `mismatch`. EV_NO_ACTION records are not compared: they extend nothing.
 */
export function diffEvents(expected: readonly ExpectedEvent[], log: EventLog): EventDifference[] {
  const out: EventDifference[] = [];
  const indexes = new Set([1, 2, 3, 4, ...log.events.map((e) => e.mrIndex), ...expected.map((e) => e.mrIndex)]);
  for (const mrIndex of [...indexes].sort((a, b) => a - b)) {
    const found = log.events.filter((e) => e.mrIndex === mrIndex && e.type !== EV_NO_ACTION);
    diffRegister(
      expected.filter((e) => e.mrIndex === mrIndex),
      found,
      out,
    );
  }
  return out;
}

export function eventsAgree(differences: readonly EventDifference[]): boolean {
  return differences.every((d) => (d.kind === 'same' || d.kind === 'open') && d.data !== 'mismatch');
}

function diffRegister(expected: readonly ExpectedEvent[], found: readonly LogEvent[], out: EventDifference[]): void {
  const equal = (e: ExpectedEvent | undefined, f: LogEvent | undefined): boolean =>
    e !== undefined &&
    f?.digest !== undefined &&
    (e.digest ? Buffer.compare(e.digest, f.digest) === 0 : e.type === f.type);
  const pair = (e: ExpectedEvent, f: LogEvent): EventDifference => ({
    kind: e.digest ? 'same' : 'open',
    expected: e,
    found: f,
    data: checkEventData(f),
  });
  const missing = (e: ExpectedEvent): EventDifference => ({ kind: 'missing', expected: e });
  const extra = (f: LogEvent): EventDifference => ({ kind: 'extra', found: f, data: checkEventData(f) });
  const [n, m] = [expected.length, found.length];
  // lengths[i][j]: longest common subsequence of expected[i..] and found[j..].
  const small = n * m <= MAX_CELLS;
  const lengths = small ? new Uint32Array((n + 1) * (m + 1)) : undefined;
  const at = (i: number, j: number): number => lengths?.[i * (m + 1) + j] ?? 0;
  if (lengths) {
    for (let i = n - 1; i >= 0; i--)
      for (let j = m - 1; j >= 0; j--)
        lengths[i * (m + 1) + j] = equal(expected[i], found[j])
          ? at(i + 1, j + 1) + 1
          : Math.max(at(i + 1, j), at(i, j + 1));
  }
  let [i, j] = [0, 0];
  while (i < n || j < m) {
    const [e, f] = [expected[i], found[j]];
    if (e && f && equal(e, f)) {
      out.push(pair(e, f));
      i++;
      j++;
    } else if (e && (!f || (lengths ? at(i + 1, j) >= at(i, j + 1) : i <= j))) {
      out.push(missing(e));
      i++;
    } else if (f) {
      out.push(extra(f));
      j++;
    }
  }
}

/** The events of a log as expectations, for comparing two logs. */
export function expectedFromLog(log: EventLog): ExpectedEvent[] {
  return log.events
    .filter((e) => e.type !== EV_NO_ACTION)
    .map((e) => ({
      mrIndex: e.mrIndex,
      type: e.type,
      what: e.typeName,
      source: 'log' as const,
      ...(e.digest ? { digest: e.digest } : {}),
    }));
}

export type PredictedRtmrs = readonly [Sha384 | undefined, Sha384 | undefined, Sha384 | undefined, Sha384 | undefined];

/** The registers that expected events lead to; undefined where one of them is not known. */
export function registersOf(expected: readonly ExpectedEvent[]): PredictedRtmrs {
  const replay = (mrIndex: number): Sha384 | undefined => {
    let register: Sha384 = ZERO_SHA384;
    for (const e of expected.filter((x) => x.mrIndex === mrIndex)) {
      if (!e.digest) return undefined;
      register = extend(register, e.digest);
    }
    return register;
  };
  return [replay(1), replay(2), replay(3), replay(4)];
}

const MAX_EVENTS_BYTES = 32 << 20;
export const EVENTS_FORMAT = 'gramine-tdx-events/1';

const eventsSchema = once(() =>
  z.strictObject({
    format: z.literal(EVENTS_FORMAT),
    events: z
      .array(
        z.strictObject({
          register: z.enum(['rtmr0', 'rtmr1', 'rtmr2', 'rtmr3']),
          type: z.int().check(z.minimum(0), z.maximum(0xffffffff)),
          digest: z.optional(z.string()),
          what: z.string(),
          source: z.enum(['computed', 'log', 'unknown']),
          /** The type's name, for people. */
          name: z.optional(z.string()),
        }),
      )
      .check(z.maxLength(65536)),
  }),
);

/** Expected events as JSON, for `gramine-tdx-measure diff`. */
export function eventsToJson(events: readonly ExpectedEvent[]): string {
  return JSON.stringify(
    {
      format: EVENTS_FORMAT,
      events: events.map((e) => ({
        register: `rtmr${e.mrIndex - 1}`,
        type: e.type,
        name: eventTypeName(e.type),
        ...(e.digest ? { digest: toHex(e.digest) } : {}),
        what: e.what,
        source: e.source,
      })),
    },
    null,
    2,
  );
}

/** Reads what eventsToJson wrote. Errors: `malformed`, `limit`. */
export function eventsFromJson(text: string): ExpectedEvent[] {
  if (text.length > MAX_EVENTS_BYTES)
    throw new MeasureError('limit', `expected events: ${text.length} characters, at most ${MAX_EVENTS_BYTES}`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new MeasureError('malformed', 'expected events: not JSON', undefined, { cause });
  }
  const result = eventsSchema().safeParse(value);
  if (!result.success) {
    throw new MeasureError('malformed', `expected events: ${describeIssues(result.error)}`);
  }
  return result.data.events.map((e, i) => {
    if ((e.digest === undefined) !== (e.source === 'unknown'))
      throw new MeasureError('malformed', `expected events: events.${i}: a digest belongs to every source but unknown`);
    return {
      mrIndex: Number(e.register.slice(4)) + 1,
      type: e.type,
      what: e.what,
      source: e.source,
      ...(e.digest === undefined ? {} : { digest: sha384FromHex(e.digest, `events.${i}.digest`) }),
    };
  });
}

// SPDX-License-Identifier: Apache-2.0
//
// What gramine-tdx-measure writes: registers as text, reference values as JSON or CoRIM, expected events.

import { writeFileSync } from 'node:fs';
import {
  canonicalJson,
  type ExpectedEvent,
  eventsToJson,
  eventTypeName,
  MeasureError,
  type PredictedRtmrs,
  type ReferenceValues,
  referenceToCorim,
  signCorim,
  signReference,
  toHex,
} from '../measure/index.js';
import { readText } from './measure-io.js';

/** A reader that has seen enough (`| head`) ends the command, quietly, with the status that the shell expects. */
export function endWithReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(SIGPIPE_STATUS);
  });
}
const SIGPIPE_STATUS = 128 + 13;

export const out = (line: string): void => {
  process.stdout.write(`${line}\n`);
};
export const note = (line: string): void => {
  process.stderr.write(`gramine-tdx-measure: ${line}\n`);
};

export interface OutputOptions {
  readonly json?: true | string;
  readonly corim?: string;
  readonly sign?: string;
  readonly events?: string;
}

/** Writes a file that the user named. Error `usage` with the reason. */
export function writeFile(path: string, data: string | Uint8Array): void {
  try {
    writeFileSync(path, data);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? '';
    throw new MeasureError('usage', `cannot write ${path} (${code})`, undefined, { cause });
  }
}

/** Checked before anything is computed. Error `usage`. */
export function checkOutput(o: OutputOptions): void {
  if (o.sign !== undefined && o.json === undefined && o.corim === undefined)
    throw new MeasureError('usage', '--sign signs reference values: give --json or --corim too');
}

/** Writes what the options ask for; true when standard output was among it. */
export function writeOutput(o: OutputOptions, reference: ReferenceValues, events: readonly ExpectedEvent[]): boolean {
  const key = o.sign === undefined ? undefined : readText(o.sign, 'signing key');
  if (o.corim !== undefined)
    writeFile(
      o.corim,
      key === undefined ? referenceToCorim(reference) : signCorim(reference, key, 'gramine-tdx-measure'),
    );
  if (o.events !== undefined) writeFile(o.events, `${eventsToJson(events)}\n`);
  if (o.json === undefined) return false;
  const text = key === undefined ? canonicalJson(reference) : signReference(reference, key);
  if (o.json === true) out(text);
  else writeFile(o.json, `${text}\n`);
  return o.json === true;
}

export function registerName(mrIndex: number): string {
  return mrIndex === 0 ? 'MRTD' : `RTMR${mrIndex - 1}`;
}

export function printEvents(events: readonly ExpectedEvent[]): void {
  const marks = { computed: ' ', log: 'L', unknown: '?' } as const;
  for (const e of events) {
    const digest = e.digest ? toHex(e.digest) : `${'not known'.padEnd(96)}`;
    out(`${marks[e.source]} ${registerName(e.mrIndex)} ${eventTypeName(e.type).padEnd(34)} ${digest} ${e.what}`);
  }
}

export function printRegisters(
  mrtd: { page: Uint8Array; section: Uint8Array } | undefined,
  rtmrs: PredictedRtmrs,
): void {
  if (mrtd) {
    out(`mrtd (page order)    ${toHex(mrtd.page)}`);
    out(`mrtd (section order) ${toHex(mrtd.section)}`);
  }
  for (const [i, value] of rtmrs.entries())
    out(`rtmr${i}                ${value ? toHex(value) : 'not known: see the events marked ?'}`);
}

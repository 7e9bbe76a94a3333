// SPDX-License-Identifier: Apache-2.0
//
// The quoting service of simulated TDs. Speaks what QEMU's tdx-guest object and Intel's QGS speak over a stream: frames of
// a 32-bit big-endian length and a message (u16 major 1, u16 minor, u32 type, u32 size, u32 error, then the type's own;
// little-endian). Judges the TDREPORT as a quoting enclave would: MAC, hashes, type; then signs a quote under the
// throw-away PKI. What comes in is from the guest's side of the road, and hostile.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { MeasureError, parseTdReport, TDREPORT_BYTES } from '../measure/index.js';
import { fromErrno } from './errors.js';
import { pem, QUOTE_BODY_BYTES, type QuoteKind, type ThrowawayPki } from './throwaway-pki.js';

const FRAME_HEADER_BYTES = 4;
const MAX_FRAME_BYTES = 64 * 1024;
const MESSAGE_HEADER_BYTES = 16;
const MAJOR = 1;
const MINOR = 1;
const GET_QUOTE_REQUEST = 0;
const GET_QUOTE_RESPONSE = 1;
/** REPORTMACSTRUCT up to its MAC: what the MAC covers. */
const MAC_AT = 224;
const MAC_BYTES = 32;

/** Error codes of the message library of Intel's quoting service. */
export const QGS_ERROR = {
  unexpected: 0x12001,
  parameter: 0x12003,
  version: 0x12004,
  type: 0x12005,
  size: 0x12006,
} as const;

export interface QuoteServiceOptions {
  readonly pki: ThrowawayPki;
  /** HMAC-SHA256 key of the simulated module's reports. */
  readonly macKey: Uint8Array;
  /** Format of the quotes; 5 carries a TD 1.5 body. */
  readonly version: 4 | 5;
  /** Why a request was refused, in one line. */
  readonly trouble: (text: string) => void;
}

export class QuoteService {
  constructor(private readonly options: QuoteServiceOptions) {}

  /** Answers the frames that arrive on a stream, in order, until it ends or sends something that is no frame. */
  serve(stream: Duplex): void {
    let pending = Buffer.alloc(0);
    stream.on('error', () => {});
    stream.on('data', (data: Buffer) => {
      pending = Buffer.concat([pending, data]);
      while (pending.length >= FRAME_HEADER_BYTES) {
        const length = pending.readUInt32BE(0);
        if (length < MESSAGE_HEADER_BYTES || length > MAX_FRAME_BYTES) {
          this.options.trouble(
            `a frame of ${length} bytes; ${MESSAGE_HEADER_BYTES} to ${MAX_FRAME_BYTES} are possible`,
          );
          stream.destroy();
          return;
        }
        if (pending.length < FRAME_HEADER_BYTES + length) return;
        const message = pending.subarray(FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + length);
        const answer = this.answer(message);
        const header = Buffer.alloc(FRAME_HEADER_BYTES);
        header.writeUInt32BE(answer.length, 0);
        stream.write(Buffer.concat([header, answer]));
        pending = Buffer.from(pending.subarray(FRAME_HEADER_BYTES + length));
      }
    });
  }

  /** One message for another; a refusal is a response with an error code. */
  answer(message: Uint8Array): Buffer {
    const m = Buffer.from(message.buffer, message.byteOffset, message.length);
    const refuse = (code: number, why: string): Buffer => {
      this.options.trouble(why);
      return response(code, Buffer.alloc(0));
    };
    if (m.length < MESSAGE_HEADER_BYTES + 8) return refuse(QGS_ERROR.size, `a request of ${m.length} bytes`);
    const [major, type, size, reportBytes, idBytes] = [
      m.readUInt16LE(0),
      m.readUInt32LE(4),
      m.readUInt32LE(8),
      m.readUInt32LE(16),
      m.readUInt32LE(20),
    ];
    if (major !== MAJOR) return refuse(QGS_ERROR.version, `a request of protocol version ${major}, expected ${MAJOR}`);
    if (type !== GET_QUOTE_REQUEST) return refuse(QGS_ERROR.type, `a request of type ${type}, expected 0 (GET_QUOTE)`);
    if (size !== m.length || reportBytes !== TDREPORT_BYTES || 24 + reportBytes + idBytes !== size) {
      return refuse(
        QGS_ERROR.size,
        `a request of ${m.length} bytes that says ${size}, with a report of ${reportBytes} and ids of ${idBytes} bytes`,
      );
    }
    try {
      return response(0, this.quote(m.subarray(24, 24 + TDREPORT_BYTES)));
    } catch (error) {
      if (!(error instanceof MeasureError)) throw error;
      return refuse(QGS_ERROR.parameter, error.message);
    }
  }

  /** A quote of this TDREPORT. Errors: MeasureError `signature` (its MAC is wrong), and parseTdReport's. */
  quote(report: Uint8Array): Buffer {
    const { macKey, pki, version } = this.options;
    const r = Buffer.from(report.buffer, report.byteOffset, report.length);
    if (r.length === TDREPORT_BYTES) {
      const mac = createHmac('sha256', macKey).update(r.subarray(0, MAC_AT)).digest();
      if (!timingSafeEqual(mac, r.subarray(MAC_AT, MAC_AT + MAC_BYTES))) {
        throw new MeasureError('signature', 'TDREPORT: the MAC is not that of this machine’s module', MAC_AT);
      }
    }
    parseTdReport(r);
    const kind: QuoteKind = version === 4 ? 'TD1.0' : 'TD1.5';
    return pki.signQuote(quoteBody(r, kind), { version, kind });
  }
}

/** The fields of a quote's body, each where a TDREPORT has it. */
function quoteBody(report: Buffer, kind: QuoteKind): Buffer {
  const body = Buffer.alloc(QUOTE_BODY_BYTES[kind]);
  const tcbInfo = report.subarray(256, 512);
  const tdInfo = report.subarray(512);
  tcbInfo.copy(body, 0, 8, 128); // TEE_TCB_SVN, MRSEAM, MRSIGNERSEAM, SEAM attributes
  tdInfo.copy(body, 120, 0, 400); // ATTRIBUTES to RTMR3
  report.copy(body, 520, 128, 192); // REPORTDATA
  if (kind === 'TD1.5') {
    tcbInfo.copy(body, 584, 128, 144); // TEE_TCB_SVN2
    tdInfo.copy(body, 600, 400, 448); // SERVTD_HASH
  }
  return body;
}

function response(error: number, quote: Uint8Array): Buffer {
  const head = Buffer.alloc(MESSAGE_HEADER_BYTES + (error === 0 ? 8 : 0));
  head.writeUInt16LE(MAJOR, 0);
  head.writeUInt16LE(MINOR, 2);
  head.writeUInt32LE(GET_QUOTE_RESPONSE, 4);
  head.writeUInt32LE(head.length + quote.length, 8);
  head.writeUInt32LE(error, 12);
  if (error === 0) head.writeUInt32LE(quote.length, 20); // no id was selected: 0 bytes of it
  return Buffer.concat([head, quote]);
}

/** Writes what `gramine-tdx-verify --trust-root DIR/root.pem --collateral DIR` needs. Errors: LaunchError. */
export function writeCollateral(directory: string, pki: ThrowawayPki): void {
  const { collateral: c } = pki;
  const signed = (key: string, { text, signature }: { text: string; signature: Uint8Array }) =>
    `{"${key}":${text},"signature":"${Buffer.from(signature).toString('hex')}"}\n`;
  const files: Readonly<Record<string, string | Uint8Array>> = {
    'root.pem': pem(pki.rootDer),
    'tcb_info.json': signed('tcbInfo', c.tcbInfo),
    'tcb_info_issuer_chain.pem': c.tcbInfoChain,
    'qe_identity.json': signed('enclaveIdentity', c.qeIdentity),
    'qe_identity_issuer_chain.pem': c.qeIdentityChain,
    'root_ca.crl': c.rootCrl,
    'pck.crl': c.pckCrl,
    ...(c.pckChain === undefined ? {} : { 'pck_chain.pem': c.pckChain }),
  };
  try {
    mkdirSync(directory, { recursive: true });
    for (const [name, content] of Object.entries(files)) writeFileSync(join(directory, name), content);
  } catch (error) {
    throw fromErrno(error, `cannot write collateral to ${directory}`);
  }
}

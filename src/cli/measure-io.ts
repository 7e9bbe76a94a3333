// SPDX-License-Identifier: Apache-2.0
//
// Files for the commands about measurement: collateral in the layouts that people have, quotes, keys. Reads only what it
// is told to; no network unless a URL is given.

import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Collateral,
  MeasureError,
  parseCollateral,
  readingCollateral,
  type SignedJson,
  splitSignedJson,
} from '../measure/index.js';

export function readBytes(path: string, what: string): Uint8Array {
  try {
    return new Uint8Array(readFileSync(path === '-' ? 0 : path));
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? '';
    throw new MeasureError('usage', `${what}: cannot read ${path} (${code})`, undefined, { cause });
  }
}

export function readText(path: string, what: string): string {
  return Buffer.from(readBytes(path, what)).toString('utf8');
}

/** A quote as bytes, or as the hexadecimal text that some tools write. */
export function readQuote(path: string): Uint8Array {
  const bytes = readBytes(path, 'quote');
  const text = Buffer.from(bytes).toString('latin1').trim();
  return /^(?:0x)?[0-9a-fA-F]{256,}$/.test(text) ? new Uint8Array(Buffer.from(text.replace(/^0x/, ''), 'hex')) : bytes;
}

const FILES = {
  tcbInfo: ['tcb_info.json', 'tcbInfo.json'],
  tcbInfoChain: ['tcb_info_issuer_chain.pem', 'tcbSignChain.pem'],
  qeIdentity: ['qe_identity.json', 'qeIdentity.json'],
  qeIdentityChain: ['qe_identity_issuer_chain.pem', 'tcbSignChain.pem'],
  rootCrl: ['root_ca.crl', 'rootCaCrl.der', 'root_ca_crl.der'],
  pckCrl: ['pck.crl', 'intermediateCaCrl.der', 'pck_crl.der'],
  pckChain: ['pck_chain.pem', 'pckSignChain.pem'],
} as const;

/** Collateral from a folder of files, or from one JSON file of strings. Errors: `collateral`, `usage`. */
export function readCollateral(path: string): Collateral {
  if (!existsSync(path)) throw new MeasureError('collateral', `collateral: ${path} does not exist`);
  return statSync(path).isDirectory()
    ? fromFolder(path)
    : parseCollateral(readText(path, 'collateral'), `collateral ${path}`);
}

const signedPart = (text: string, name: 'tcbInfo' | 'enclaveIdentity'): SignedJson =>
  readingCollateral(() => splitSignedJson(text, name));

function fromFolder(folder: string): Collateral {
  const find = (key: keyof typeof FILES): string | undefined =>
    FILES[key].map((f) => join(folder, f)).find((f) => existsSync(f));
  const need = (key: keyof typeof FILES): string => {
    const found = find(key);
    if (found === undefined)
      throw new MeasureError('collateral', `collateral: ${folder} has no ${FILES[key].join(' or ')}`);
    return found;
  };
  const chain = find('pckChain');
  return {
    tcbInfo: signedPart(readText(need('tcbInfo'), 'TCB info').trim(), 'tcbInfo'),
    tcbInfoChain: readText(need('tcbInfoChain'), 'TCB info chain'),
    qeIdentity: signedPart(readText(need('qeIdentity'), 'QE identity').trim(), 'enclaveIdentity'),
    qeIdentityChain: readText(need('qeIdentityChain'), 'QE identity chain'),
    rootCrl: readBytes(need('rootCrl'), 'root CRL'),
    pckCrl: readBytes(need('pckCrl'), 'PCK CRL'),
    ...(chain === undefined ? {} : { pckChain: readText(chain, 'PCK chain') }),
  };
}

const MAX_ANSWER_BYTES = 8 << 20;
const TIMEOUT_MS = 30_000;

/**
 * Collateral from a PCCS, or Intel's PCS, for one platform. `base` like https://host:8081, with or without the path that
 * Intel's clients write behind it. Errors: `usage` (no URL), `collateral`.
 */
export async function fetchCollateral(base: string, fmspc: string, ca: 'platform' | 'processor'): Promise<Collateral> {
  const root = base.replace(/\/(?:sgx|tdx)\/certification\/v[0-9]+\/?$/, '').replace(/\/*$/, '/');
  if (!URL.canParse(root) || !/^https?:$/.test(new URL(root).protocol))
    throw new MeasureError('usage', `--pccs: ${JSON.stringify(base)} is not a URL like https://localhost:8081`);
  const get = async (path: string): Promise<{ url: URL; body: Uint8Array; headers: Headers }> => {
    const url = new URL(path, root);
    try {
      const response = await fetch(url, { signal: AbortSignal.timeout(TIMEOUT_MS), redirect: 'error' });
      if (!response.ok) throw new MeasureError('collateral', `${url}: answered ${response.status}`);
      return { url, body: await limitedBody(response), headers: response.headers };
    } catch (cause) {
      if (cause instanceof MeasureError) throw cause;
      const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause;
      const why = inner instanceof Error ? inner.message : 'no answer';
      throw new MeasureError('collateral', `${url}: ${why}`, undefined, { cause });
    }
  };
  const chainOf = (answer: { url: URL; headers: Headers }, ...names: string[]): string => {
    const value = names.map((n) => answer.headers.get(n)).find((v) => v !== null) ?? '';
    try {
      if (value !== '') return decodeURIComponent(value);
    } catch {
      // said below
    }
    throw new MeasureError('collateral', `${answer.url}: no certificate chain in the header ${names.join(' or ')}`);
  };
  const [tcb, qe, crl, rootCrl] = await Promise.all([
    get(`tdx/certification/v4/tcb?fmspc=${fmspc}`),
    get('tdx/certification/v4/qe/identity'),
    get(`sgx/certification/v4/pckcrl?ca=${ca}&encoding=der`),
    get(rootCrlUrl(root)),
  ]);
  const text = (b: Uint8Array): string => Buffer.from(b).toString('utf8');
  return {
    tcbInfo: signedPart(text(tcb.body), 'tcbInfo'),
    tcbInfoChain: chainOf(tcb, 'TCB-Info-Issuer-Chain', 'SGX-TCB-Info-Issuer-Chain'),
    qeIdentity: signedPart(text(qe.body), 'enclaveIdentity'),
    qeIdentityChain: chainOf(qe, 'SGX-Enclave-Identity-Issuer-Chain'),
    rootCrl: rootCrl.body,
    pckCrl: crl.body,
    pckChain: chainOf(crl, 'SGX-PCK-CRL-Issuer-Chain'),
  };
}

/** A PCCS serves the root's revocation list itself; Intel's own service leaves it to the place that the root names. */
export function rootCrlUrl(base: string): string {
  return new URL(base).hostname === 'api.trustedservices.intel.com'
    ? 'https://certificates.trustedservices.intel.com/IntelSGXRootCA.der'
    : new URL('sgx/certification/v4/rootcacrl', base).href;
}

async function limitedBody(response: Response): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response.body ?? []) {
    length += part.length;
    if (length > MAX_ANSWER_BYTES)
      throw new MeasureError('collateral', `${response.url}: the answer is longer than ${MAX_ANSWER_BYTES} bytes`);
    parts.push(part);
  }
  return new Uint8Array(Buffer.concat(parts));
}

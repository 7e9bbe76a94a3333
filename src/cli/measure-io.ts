// SPDX-License-Identifier: Apache-2.0
//
// Files for the commands about measurement: collateral in the layouts that people have, quotes, keys. Reads only what it
// is told to; no network unless a URL is given.

import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Collateral, MeasureError, type SignedJson, signedJson, splitSignedJson } from '../measure/index.js';

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

/** Collateral from a folder of files, or from one JSON file of strings. Errors: `usage`, `malformed`. */
export function readCollateral(path: string): Collateral {
  if (!existsSync(path)) throw new MeasureError('usage', `collateral: ${path} does not exist`);
  return statSync(path).isDirectory() ? fromFolder(path) : fromJson(readText(path, 'collateral'), path);
}

function fromFolder(folder: string): Collateral {
  const find = (key: keyof typeof FILES): string | undefined =>
    FILES[key].map((f) => join(folder, f)).find((f) => existsSync(f));
  const need = (key: keyof typeof FILES): string => {
    const found = find(key);
    if (found === undefined) throw new MeasureError('usage', `collateral: ${folder} has no ${FILES[key].join(' or ')}`);
    return found;
  };
  const chain = find('pckChain');
  return {
    tcbInfo: splitSignedJson(readText(need('tcbInfo'), 'TCB info').trim(), 'tcbInfo'),
    tcbInfoChain: readText(need('tcbInfoChain'), 'TCB info chain'),
    qeIdentity: splitSignedJson(readText(need('qeIdentity'), 'QE identity').trim(), 'enclaveIdentity'),
    qeIdentityChain: readText(need('qeIdentityChain'), 'QE identity chain'),
    rootCrl: readBytes(need('rootCrl'), 'root CRL'),
    pckCrl: readBytes(need('pckCrl'), 'PCK CRL'),
    ...(chain === undefined ? {} : { pckChain: readText(chain, 'PCK chain') }),
  };
}

function fromJson(text: string, path: string): Collateral {
  let value: Record<string, unknown>;
  try {
    value = JSON.parse(text) as Record<string, unknown>;
  } catch (cause) {
    throw new MeasureError('malformed', `collateral: ${path} is not JSON`, undefined, { cause });
  }
  const need = (key: string): string => {
    const v = value[key];
    if (typeof v !== 'string') throw new MeasureError('malformed', `collateral: ${path} has no text "${key}"`);
    return v;
  };
  const signed = (key: string, what: string): SignedJson => signedJson(need(key), need(`${key}_signature`), what);
  return {
    tcbInfo: signed('tcb_info', 'TCB info'),
    tcbInfoChain: need('tcb_info_issuer_chain'),
    qeIdentity: signed('qe_identity', 'QE identity'),
    qeIdentityChain: need('qe_identity_issuer_chain'),
    rootCrl: need('root_ca_crl'),
    pckCrl: need('pck_crl'),
    ...(typeof value.pck_crl_issuer_chain === 'string' ? { pckChain: value.pck_crl_issuer_chain } : {}),
  };
}

/** Collateral from a PCCS, or Intel's PCS, for one platform. `base` like https://host:8081. Errors: `collateral`. */
export async function fetchCollateral(base: string, fmspc: string, ca: 'platform' | 'processor'): Promise<Collateral> {
  const get = async (path: string): Promise<{ body: Uint8Array; headers: Headers }> => {
    const url = new URL(path, base.endsWith('/') ? base : `${base}/`);
    let response: Response;
    try {
      response = await fetch(url, { signal: AbortSignal.timeout(30_000), redirect: 'error' });
    } catch (cause) {
      throw new MeasureError(
        'collateral',
        `${url}: ${cause instanceof Error ? cause.message : 'no answer'}`,
        undefined,
        { cause },
      );
    }
    if (!response.ok) throw new MeasureError('collateral', `${url}: answered ${response.status}`);
    return { body: new Uint8Array(await response.arrayBuffer()), headers: response.headers };
  };
  const chainOf = (headers: Headers, ...names: string[]): string => {
    const value = names.map((n) => headers.get(n)).find((v) => v !== null);
    if (value === undefined || value === null)
      throw new MeasureError('collateral', `the answer has no header ${names.join(' or ')}`);
    return decodeURIComponent(value);
  };
  const [tcb, qe, crl, root] = await Promise.all([
    get(`tdx/certification/v4/tcb?fmspc=${fmspc}`),
    get('tdx/certification/v4/qe/identity'),
    get(`sgx/certification/v4/pckcrl?ca=${ca}&encoding=der`),
    get('sgx/certification/v4/rootcacrl'),
  ]);
  const text = (b: Uint8Array): string => Buffer.from(b).toString('utf8');
  return {
    tcbInfo: splitSignedJson(text(tcb.body), 'tcbInfo'),
    tcbInfoChain: chainOf(tcb.headers, 'TCB-Info-Issuer-Chain', 'SGX-TCB-Info-Issuer-Chain'),
    qeIdentity: splitSignedJson(text(qe.body), 'enclaveIdentity'),
    qeIdentityChain: chainOf(qe.headers, 'SGX-Enclave-Identity-Issuer-Chain'),
    rootCrl: root.body,
    pckCrl: crl.body,
    pckChain: chainOf(crl.headers, 'SGX-PCK-CRL-Issuer-Chain'),
  };
}

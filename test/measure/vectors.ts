// SPDX-License-Identifier: Apache-2.0
//
// Real quotes, logs and collateral lie outside the repository; tests that need them are skipped, and counted so, elsewhere.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Collateral, signedJson, splitSignedJson } from '../../src/measure/index.js';

const ROOT = new URL('../../../shared/vectors/', import.meta.url);
export const haveVectors = existsSync(ROOT);

export function vector(name: string): Uint8Array {
  return new Uint8Array(readFileSync(new URL(name, ROOT)));
}

export function vectorText(name: string): string {
  return readFileSync(new URL(name, ROOT), 'utf8');
}

/** Paths of all of them, relative to the folder. */
export function vectorFiles(): string[] {
  return readdirSync(ROOT, { recursive: true, withFileTypes: true })
    .filter((f) => f.isFile())
    .map((f) => join(f.parentPath, f.name).slice(fileURLToPath(ROOT).length));
}

/** Collateral as the dcap-qvl samples store it: one JSON file of strings. */
export function dcapQvlCollateral(name: string): Collateral {
  const j = JSON.parse(vectorText(`collateral/dcap-qvl/${name}`)) as Record<string, string>;
  const text = (key: string): string => {
    const value = j[key];
    if (value === undefined) throw new Error(`${name} has no ${key}`);
    return value;
  };
  return {
    tcbInfo: signedJson(text('tcb_info'), text('tcb_info_signature'), 'TCB info'),
    tcbInfoChain: text('tcb_info_issuer_chain'),
    qeIdentity: signedJson(text('qe_identity'), text('qe_identity_signature'), 'QE identity'),
    qeIdentityChain: text('qe_identity_issuer_chain'),
    rootCrl: text('root_ca_crl'),
    pckCrl: text('pck_crl'),
    pckChain: text('pck_crl_issuer_chain'),
  };
}

/** Intel's synthetic sample: one file each, in the answers' own form. */
export function intelSyntheticCollateral(): Collateral {
  const dir = 'collateral/intel-qvl-tdx';
  return {
    tcbInfo: splitSignedJson(vectorText(`${dir}/tcbInfo.json`), 'tcbInfo'),
    tcbInfoChain: vectorText(`${dir}/tcbSignChain.pem`),
    qeIdentity: splitSignedJson(vectorText(`${dir}/qeIdentity.json`), 'enclaveIdentity'),
    qeIdentityChain: vectorText(`${dir}/tcbSignChain.pem`),
    rootCrl: vector(`${dir}/rootCaCrl.der`),
    pckCrl: vector(`${dir}/intermediateCaCrl.der`),
    pckChain: vectorText(`${dir}/pckSignChain.pem`),
  };
}

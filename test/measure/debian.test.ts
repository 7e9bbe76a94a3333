// SPDX-License-Identifier: Apache-2.0
//
// Debian's OVMF (package ovmf 2022.11-6+deb12u2): where the package puts it, or in the .deb that OVMF_DEB names
// (`apt-get download ovmf`). Other releases, and machines without it, skip these tests.

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { checkTdvf, computeMrtd, parseTdvf, parseVariableStore, sha384, toHex } from '../../src/measure/index.js';
import { varsFile } from './firmware.js';

const OVMF_SHA256 = '7b456907dd0786d415999e801a1ac4637b8ed4d7cf5378cfc6edbe5e574dd773';
const MRTD = {
  page: '4c7206f0f483c524f12c366c711e9049030a8d47c471ee5aa9c4999a08de4057fb887fed0744d5631a212967fb231c47',
  section: 'acccbcc870a381adab0d3919d90a7f268ac3b0364771f202ed4bb4e892d045b33db3b32e6924cba830a724eed443f7e1',
};

const deb = process.env.OVMF_DEB;
let root = '/';
if (deb !== undefined && existsSync(deb)) {
  root = mkdtempSync(join(tmpdir(), 'gt-ovmf-'));
  execFileSync('dpkg-deb', ['-x', deb, root]);
}
afterAll(() => {
  if (root !== '/') rmSync(root, { recursive: true, force: true });
});
const read = (path: string): Uint8Array => new Uint8Array(readFileSync(join(root, 'usr/share', path)));
const OVMF = 'ovmf/OVMF.fd';
const known =
  existsSync(join(root, 'usr/share', OVMF)) && createHash('sha256').update(read(OVMF)).digest('hex') === OVMF_SHA256;

describe.skipIf(!known)('Debian’s OVMF', () => {
  it('has the MRTDs that three implementations agreed on', () => {
    const image = read(OVMF);
    for (const order of ['page', 'section'] as const) expect(toHex(computeMrtd(image, { order }))).toBe(MRTD[order]);
    expect(checkTdvf(parseTdvf(image)).filter((f) => f.source === 'measure' || f.source === 'qemu')).toEqual([]);
  });

  it('has them in two halves, and each half alone says that it is one', () => {
    const [vars, code] = [read('OVMF/OVMF_VARS.fd'), read('OVMF/OVMF_CODE.fd')];
    const joined = new Uint8Array([...vars, ...code]);
    for (const order of ['page', 'section'] as const) expect(toHex(computeMrtd(joined, { order }))).toBe(MRTD[order]);
    expect(() => computeMrtd(code, { order: 'page' })).toThrow(/give VARS and CODE joined/);
  });

  it('has no TDX metadata in the 4 MB build, whose empty variables are the ones that our fixture makes', () => {
    expect(() => parseTdvf(read('OVMF/OVMF_CODE_4M.fd'))).toThrow(/no TDVF metadata/);
    expect(toHex(sha384(read('OVMF/OVMF_VARS_4M.fd')))).toBe(toHex(sha384(varsFile())));
  });

  it('has Microsoft’s keys enrolled in OVMF_VARS_4M.ms.fd', () => {
    const names = parseVariableStore(read('OVMF/OVMF_VARS_4M.ms.fd')).map((v) => v.name);
    for (const name of ['PK', 'KEK', 'db', 'dbx', 'SecureBootEnable']) expect(names).toContain(name);
  });
});

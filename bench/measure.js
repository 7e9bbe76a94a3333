#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// npm run bench:measure [-- --runs N]: MRTD against plain SHA-384, gramine-tdx-measure from process start to exit, and a
// quote verified by us and by @phala/dcap-qvl. Runs of what is compared take turns; medians are printed, as NAME value.

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values } = parseArgs({ options: { runs: { type: 'string', default: '15' } } });
const runs = Number(values.runs);
const work = mkdtempSync(join(tmpdir(), 'gramine-bench-measure-'));
// Inside node_modules, so that packages are found from there.
const library = join(root, `node_modules/.cache-bench-${process.pid}.mjs`);

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)];

/** Median CPU and wall time in milliseconds of each of `jobs`, which take turns. */
function compare(jobs, rounds) {
  const cpu = jobs.map(() => []);
  const wall = jobs.map(() => []);
  for (const job of jobs) job();
  for (let i = 0; i < rounds; i++)
    for (const [k, job] of jobs.entries()) {
      const before = process.cpuUsage();
      const start = performance.now();
      job();
      wall[k].push(performance.now() - start);
      const { user, system } = process.cpuUsage(before);
      cpu[k].push((user + system) / 1000);
    }
  return jobs.map((_, k) => ({ cpu: median(cpu[k]), wall: median(wall[k]) }));
}

const print = (name, value, unit) => console.log(`${name} ${value.toFixed(2)}${unit ? ` ${unit}` : ''}`);

function benchMrtd(m) {
  const MIB = 1 << 20;
  const vars = m.varsFile();
  const content = Buffer.from(m.pattern(16 * MIB));
  vars.copy(content);
  const sections = m.ovmfSections('old', vars.length).map((s) => {
    if (s.type === 'BFV') {
      const bytes = 16 * MIB - vars.length;
      return { ...s, rawDataSize: bytes, memoryDataSize: BigInt(bytes), memoryAddress: (1n << 32n) - BigInt(bytes) };
    }
    return s.type === 'CFV' ? { ...s, memoryAddress: (1n << 32n) - BigInt(16 * MIB) } : s;
  });
  const image = m.addMetadata(content, sections);
  const extended = 16 * MIB - vars.length;
  const pages = sections.reduce((n, s) => n + Number(s.memoryDataSize) / 4096, 0);
  const hashed = Buffer.from(m.pattern(pages * 128 + (extended / 256) * 384));
  const [page, section, plain] = compare(
    [
      () => m.computeMrtd(image, { order: 'page' }),
      () => m.computeMrtd(image, { order: 'section' }),
      () => createHash('sha384').update(hashed).digest(),
    ],
    runs,
  );
  print('mrtd.image', image.length / MIB, 'MiB');
  print('mrtd.hashed', hashed.length / MIB, 'MiB');
  print('mrtd.page.cpu', page.cpu, 'ms');
  print('mrtd.section.cpu', section.cpu, 'ms');
  print('sha384.cpu', plain.cpu, 'ms');
  print('mrtd.page-to-sha384', page.cpu / plain.cpu);
  print('mrtd.section-to-sha384', section.cpu / plain.cpu);
}

function benchStart() {
  const tool = join(root, 'dist/cli/gramine-tdx-measure.js');
  if (!existsSync(tool)) throw new Error('no dist/: npm run build');
  writeFileSync(
    join(work, 'app.manifest'),
    'libos.entrypoint = "/app"\nfs.mounts = []\ntdx.memory = "1G"\ntdx.vcpus = 1\n',
  );
  /** Wall and CPU time of one process, in milliseconds; a busy machine shows in the first alone. */
  const node = (args) => {
    const start = performance.now();
    const timed = ['-f', '%U %S', '-o', join(work, 'time'), process.execPath, ...args];
    const { status } = spawnSync('/usr/bin/time', timed, { cwd: work, stdio: 'ignore' });
    const wall = performance.now() - start;
    if (status !== 0) throw new Error(`${args.join(' ')}: status ${status}`);
    const [user = 0, system = 0] = readFileSync(join(work, 'time'), 'utf8').trim().split(' ').map(Number);
    return { wall, cpu: (user + system) * 1000 };
  };
  const jobs = { 'start.measure': [tool, 'app.manifest'], 'start.node': ['-e', '0'] };
  const times = Object.fromEntries(Object.keys(jobs).map((name) => [name, []]));
  for (let i = 0; i < runs; i++) for (const [name, args] of Object.entries(jobs)) times[name].push(node(args));
  for (const [name, list] of Object.entries(times)) {
    print(`${name}.wall`, median(list.map((t) => t.wall)), 'ms');
    print(`${name}.cpu`, median(list.map((t) => t.cpu)), 'ms');
  }
}

async function benchVerify(m) {
  const { QuoteVerifier } = await import('@phala/dcap-qvl');
  const pki = new m.TestPki();
  const quote = pki.quote();
  const anchor = m.trustAnchor(pki.rootDer);
  const c = pki.collateral;
  const hex = (data) => Buffer.from(data).toString('hex');
  const collateral = {
    pck_crl_issuer_chain: c.pckChain,
    root_ca_crl: hex(c.rootCrl),
    pck_crl: hex(c.pckCrl),
    tcb_info_issuer_chain: c.tcbInfoChain,
    tcb_info: c.tcbInfo.text,
    tcb_info_signature: hex(c.tcbInfo.signature),
    qe_identity_issuer_chain: c.qeIdentityChain,
    qe_identity: c.qeIdentity.text,
    qe_identity_signature: hex(c.qeIdentity.signature),
  };
  const theirs = QuoteVerifier.newWithRootCa(Buffer.from(pki.rootDer));
  const good = (status) => {
    if (status !== 'UpToDate') throw new Error(`verdict ${status}`);
  };
  const [a, b] = compare(
    [
      () => good(m.verifyQuote(quote, { collateral: c, at: m.NOW, anchor }).status),
      () => good(theirs.verify(quote, collateral, m.NOW / 1000).status),
    ],
    runs * 5,
  );
  print('verify.wall', a.wall, 'ms');
  print('verify.cpu', a.cpu, 'ms');
  print('verify.dcap-qvl.wall', b.wall, 'ms');
  print('verify.dcap-qvl.cpu', b.cpu, 'ms');
  print('verify.to-dcap-qvl', a.cpu / b.cpu);
}

try {
  await build({
    stdin: {
      contents: ['src/measure/index', 'test/measure/pki', 'test/measure/firmware']
        .map((f) => `export * from './${f}.js';`)
        .join('\n'),
      resolveDir: root,
    },
    outfile: library,
    bundle: true,
    packages: 'external',
    format: 'esm',
    platform: 'node',
    logLevel: 'error',
  });
  const m = await import(pathToFileURL(library).href);
  benchMrtd(m);
  benchStart();
  await benchVerify(m);
} finally {
  rmSync(library, { force: true });
  rmSync(work, { recursive: true, force: true });
}

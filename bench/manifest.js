#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// npm run bench:manifest [-- --files N --size BYTES --many N --runs N --dir DIR]: CPU and wall time of gramine-manifest over
// trusted files, against `openssl dgst -sha256` over the same files, and against Gramine's own tool where PATH has one as
// gramine-manifest.real; and of starting the commands, against Node itself. What is compared runs in turns; a line per
// figure, medians of the runs: NAME cpu=S wall=S rss=MB. Where other programs run beside it, CPU tells more than wall. The
// files stay in DIR for the next run.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { loadavg, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values } = parseArgs({
  options: {
    files: { type: 'string', default: '20000' },
    size: { type: 'string', default: '107374' },
    many: { type: 'string', default: '0' },
    runs: { type: 'string', default: '3' },
    dir: { type: 'string', default: join(tmpdir(), 'gramine-bench-manifest') },
  },
});
const tool = join(root, 'dist/cli/gramine-manifest.js');
const cache = mkdtempSync(join(tmpdir(), 'gramine-bench-cache-'));
const GRAMINE = 'gramine-manifest.real';

/** Folders of a hundred files each; size bytes apiece, no two alike. */
function makeFiles(dir, count, size) {
  if (existsSync(join(dir, `.complete-${count}-${size}`))) return;
  rmSync(dir, { recursive: true, force: true });
  const content = randomBytes(Math.max(size, 8));
  for (let i = 0; i < count; i += 1) {
    const folder = join(dir, `d${Math.floor(i / 100)}`);
    if (i % 100 === 0) mkdirSync(folder, { recursive: true });
    content.writeUInt32LE(i, 0);
    writeFileSync(join(folder, `f${i}`), content.subarray(0, Math.max(size, 4)));
  }
  writeFileSync(join(dir, `.complete-${count}-${size}`), '');
}

/**
 * Runs a command; what it took, in seconds and megabytes.
 * @param {string} name
 * @param {string[]} words
 */
function measure(name, [command, ...args]) {
  const out = join(cache, 'time');
  const result = spawnSync('/usr/bin/time', ['-f', '%e %U %S %M', '-o', out, command, ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
    // With NODE_EXTRA_CA_CERTS every Node reads a list of certificates as it starts.
    env: { ...process.env, NODE_EXTRA_CA_CERTS: '', XDG_CACHE_HOME: cache },
  });
  if (result.status !== 0) throw new Error(`${name} failed with status ${result.status}`);
  const [wall, user, system, rss] = readFileSync(out, 'utf8').trim().split(' ').map(Number);
  return { cpu: user + system, wall, rss: rss / 1024 };
}

/**
 * Runs commands in turns and prints the medians.
 * @param {{ name: string, words: string[], before?: () => void }[]} commands
 */
function compare(commands, runs = Number(values.runs)) {
  const took = new Map(commands.map(({ name }) => [name, []]));
  for (let i = 0; i < runs; i += 1) {
    for (const { name, words, before } of commands) {
      before?.();
      took.get(name).push(measure(name, words));
    }
  }
  const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
  const medians = {};
  for (const [name, list] of took) {
    const m = Object.fromEntries(['cpu', 'wall', 'rss'].map((what) => [what, median(list.map((run) => run[what]))]));
    console.log(`${name} cpu=${m.cpu.toFixed(2)} wall=${m.wall.toFixed(2)} rss=${Math.round(m.rss)}`);
    medians[name] = m;
  }
  return medians;
}

function bench(label, count, size) {
  const dir = join(values.dir, label);
  makeFiles(dir, count, size);
  const template = join(cache, `${label}.template`);
  writeFileSync(template, `libos.entrypoint = "/x"\nfs.mounts = []\nsgx.trusted_files = [ "file:${dir}/" ]\n`);
  const ours = (...options) => [process.execPath, tool, ...options, template, join(cache, `${label}.manifest`)];
  const forget = () => rmSync(join(cache, 'gramine-tdx'), { recursive: true, force: true });
  const names = ['openssl', 'first', 'again', 'tdx', 'gramine'].map((name) => `${label}.${name}`);
  const [openssl, first, again, tdx, gramine] = names;
  const hasGramine = spawnSync(GRAMINE, ['--help']).status === 0;
  const took = compare([
    { name: openssl, words: ['sh', '-c', `find ${dir} -type f -print0 | xargs -0 openssl dgst -sha256`] },
    { name: first, words: ours(), before: forget },
    { name: again, words: ours() },
    { name: tdx, words: ours('--tdx', '--no-cache') },
    ...(hasGramine ? [{ name: gramine, words: [GRAMINE, template, join(cache, `${label}.manifest`)] }] : []),
  ]);
  console.log(`${label}.cpu-to-openssl ratio=${(took[first].cpu / took[openssl].cpu).toFixed(2)}`);
  if (hasGramine) console.log(`${label}.wall-to-gramine ratio=${(took[first].wall / took[gramine].wall).toFixed(2)}`);
  else console.log(`${label}.gramine: no ${GRAMINE} on PATH`);
}

const load = () =>
  console.log(
    `load ${loadavg()
      .map((n) => n.toFixed(1))
      .join(' ')}`,
  );
try {
  load();
  const small = join(cache, 'small.manifest');
  writeFileSync(small, 'libos.entrypoint = "/x"\nfs.mounts = []\n');
  compare(
    [
      { name: 'start.node', words: [process.execPath, '-e', '0'] },
      { name: 'start.help', words: [process.execPath, tool, '--help'] },
      { name: 'start.check', words: [process.execPath, join(root, 'dist/cli/gramine-manifest-check.js'), small] },
    ],
    5 * Number(values.runs),
  );
  bench('large', Number(values.files), Number(values.size));
  if (Number(values.many) > 0) bench('many', Number(values.many), 100);
  load();
} finally {
  rmSync(cache, { recursive: true, force: true });
}

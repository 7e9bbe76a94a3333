#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// npm run bench:manifest [-- --files N --size BYTES --many N --dir DIR]: CPU and wall time of gramine-manifest over trusted
// files, against `openssl dgst -sha256` over the same files, and against Gramine's own tool where PATH has one as
// gramine-manifest.real. Prints a line per figure: NAME cpu=S wall=S rss=MB. The files stay in DIR for the next run.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values } = parseArgs({
  options: {
    files: { type: 'string', default: '20000' },
    size: { type: 'string', default: '107374' },
    many: { type: 'string', default: '0' },
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

/** Runs a command; what it took, in seconds and megabytes. */
function measure(name, command, args, env = {}) {
  const script = '/usr/bin/time -f "%e %U %S %M" -o "$OUT" "$@"';
  const out = join(cache, 'time');
  const result = spawnSync('sh', ['-c', script, 'sh', command, ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, XDG_CACHE_HOME: cache, ...env, OUT: out },
  });
  if (result.status !== 0) throw new Error(`${name} failed with status ${result.status}`);
  const [wall, user, system, rss] = spawnSync('cat', [out], { encoding: 'utf8' }).stdout.trim().split(' ').map(Number);
  const cpu = user + system;
  console.log(`${name} cpu=${cpu.toFixed(2)} wall=${wall.toFixed(2)} rss=${Math.round(rss / 1024)}`);
  return { cpu, wall };
}

function bench(label, count, size) {
  const dir = join(values.dir, label);
  makeFiles(dir, count, size);
  const template = join(cache, `${label}.template`);
  writeFileSync(template, `libos.entrypoint = "/x"\nfs.mounts = []\nsgx.trusted_files = [ "file:${dir}/" ]\n`);
  const out = join(cache, `${label}.manifest`);
  const openssl = measure(`${label}.openssl`, 'sh', [
    '-c',
    `find ${dir} -type f -print0 | xargs -0 openssl dgst -sha256`,
  ]);
  const first = measure(`${label}.first`, process.execPath, [tool, template, out]);
  measure(`${label}.again`, process.execPath, [tool, template, out]);
  measure(`${label}.tdx`, process.execPath, [tool, '--tdx', '--no-cache', template, out]);
  console.log(`${label}.cpu-to-openssl ratio=${(first.cpu / openssl.cpu).toFixed(2)}`);
  if (spawnSync(GRAMINE, ['--help']).status === 0) {
    const real = measure(`${label}.gramine`, GRAMINE, [template, out]);
    console.log(`${label}.wall-to-gramine ratio=${(first.wall / real.wall).toFixed(2)}`);
  } else console.log(`${label}.gramine: no ${GRAMINE} on PATH`);
}

try {
  measure('help', process.execPath, [tool, '--help']);
  const small = join(cache, 'small.manifest');
  writeFileSync(small, 'libos.entrypoint = "/x"\nfs.mounts = []\n');
  measure('check', process.execPath, [join(root, 'dist/cli/gramine-manifest-check.js'), small]);
  bench('large', Number(values.files), Number(values.size));
  if (Number(values.many) > 0) bench('many', Number(values.many), 100);
} finally {
  rmSync(cache, { recursive: true, force: true });
}

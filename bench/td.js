#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// npm run bench:td [-- --runs N]: a simulated TD beside an ordinary VM of the same kernel, both under TCG, runs
// interleaved; and the exits that the simulator counts. A line per figure: NAME value unit (how it was made).

import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const at = process.argv.indexOf('--runs');
const runs = at < 0 ? 5 : Number(process.argv[at + 1]);
const REDIS = ['redis-server', '--save', '', '--protected-mode', 'no'];
const tdx = [join(root, 'dist/cli/gramine-tdx.js'), '--simulate'];
const vm = [join(root, 'dist/cli/gramine-vm.js')];

/** @param {readonly string[]} args @returns {Promise<{ output: string, ms: number }>} */
async function run(command, args) {
  const started = performance.now();
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: root });
  let output = '';
  let first = 0;
  child.stdout.on('data', (data) => {
    first ||= performance.now() - started;
    output += data;
  });
  child.stderr.on('data', (data) => {
    output += data;
  });
  const status = await new Promise((resolve) => child.once('close', resolve));
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: status ${status}\n${output}`);
  return { output, ms: first };
}
const counter = (output, name) => Number(new RegExp(`sim\\.${name}=(\\d+)`).exec(output)?.[1] ?? 0);
const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
const print = (name, value, unit, how) => process.stdout.write(`${name} ${value} ${unit} (${how})\n`);

// --- launch to first byte
const times = { td: [], vm: [] };
for (let i = 0; i < runs; i++) {
  times.vm.push((await run(process.execPath, [...vm, '-q', 'busybox', 'echo', 'hi'])).ms);
  times.td.push((await run(process.execPath, [...tdx, '-q', 'busybox', 'echo', 'hi'])).ms);
}
const [inTd, inVm] = [median(times.td), median(times.vm)];
print('td.hello', inTd.toFixed(0), 'ms', `median of ${runs}`);
print('vm.hello', inVm.toFixed(0), 'ms', `median of ${runs}`);
print('hello.ratio', (inTd / inVm).toFixed(2), 'td/vm', 'aim: at most 2');

// --- boot: exits, memory accepted
for (const memory of ['1G', '16G']) {
  const { output } = await run(process.execPath, [...tdx, '--verbose', '-m', memory, 'busybox', 'true']);
  const accepted = counter(output, 'module.accept_2m') * 2048 + counter(output, 'module.accept_4k') * 4;
  print(`boot.exits-${memory}`, counter(output, 'exits.total'), 'exits', 'busybox true, whole run');
  print(`boot.accepted-${memory}`, accepted, 'KiB', 'busybox true, whole run');
}

// --- exits per GET: the difference of two runs, so that the boot does not count
async function redis(requests, clients, pipeline) {
  const port = await freePort();
  const server = run(process.execPath, [...tdx, '--verbose', '-p', `${port}:6379`, ...REDIS]);
  const cli = (args) => run('redis-cli', ['-p', String(port), ...args]);
  for (;;) {
    const { output } = await cli(['ping']).catch(() => ({ output: '' }));
    if (output.includes('PONG')) break;
    await new Promise((resolve) => setTimeout(resolve, 50)); // a try, not a measure
  }
  const sizes = ['-n', requests, '-c', clients, '-P', pipeline].map(String);
  await run('redis-benchmark', ['-p', String(port), '-q', '-t', 'get', ...sizes]);
  await cli(['shutdown', 'nosave']).catch(() => {}); // the server closes the connection without an answer
  return counter((await server).output, 'exits.total');
}
for (const [name, pipeline, requests, aim] of [
  ['P16', 16, 50_000, 0.2],
  ['P1', 1, 5_000, 4],
]) {
  const [once, twice] = [await redis(requests, 50, pipeline), await redis(2 * requests, 50, pipeline)];
  print(
    `exits-per-get.${name}`,
    ((twice - once) / requests).toFixed(4),
    'exits',
    `50 clients, ${requests} GETs, aim: ${aim}`,
  );
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

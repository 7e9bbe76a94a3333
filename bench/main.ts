// SPDX-License-Identifier: Apache-2.0
//
// npm run bench [-- NAME...] [--runs N] [--only ours|linux]: measures our kernel against a Linux guest in the same QEMU
// (TCG, 2 vCPUs), runs interleaved, and prints the medians, a line per figure:
//   NAME.FIGURE ours=N linux=N ratio=N unit=U runs=N

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { benchProgram, cache, prepareLinux, repository, startLinux, startVirtiofsd } from './linux-guest.js';

type Figures = Record<string, number>;

interface Benchmark {
  readonly unit: Readonly<Record<string, string>>;
  readonly runs: number;
  readonly ours: () => Promise<Figures>;
  readonly linux: () => Promise<Figures>;
}

const launcher = join(repository, 'dist/cli/gramine-vm.js');
const options = parseArguments(process.argv.slice(2));
const linux = prepareLinux();
const CPUS = 2;
const MEMORY = '1024M';
const REDIS = ['--save', '', '--protected-mode', 'no'];
const REDIS_THREADS = [...REDIS, '--io-threads', '4', '--io-threads-do-reads', 'yes'];
const REDIS_REQUESTS = { plain: 50_000, pipelined: 400_000 };
const THREADS_REQUESTS = { plain: 10_000, pipelined: 50_000 };

const benchmarks: Readonly<Record<string, Benchmark>> = {
  hello: {
    unit: { start: 'ms', 'start-256M': 'ms', 'start-4G': 'ms' },
    runs: 10,
    ours: async () => ({
      start: await ourHello('1G'),
      'start-256M': await ourHello('256M'),
      'start-4G': await ourHello('4G'),
    }),
    linux: async () => ({
      start: await linuxHello(MEMORY),
      'start-256M': await linuxHello('256M'),
      'start-4G': await linuxHello('4096M'),
    }),
  },
  redis: {
    unit: { set: 'requests/s', get: 'requests/s', 'set-P16': 'requests/s', 'get-P16': 'requests/s' },
    runs: 3,
    ours: () => redis((port) => startOurs(['-p', `${port}:6379`, '/usr/bin/redis-server', ...REDIS])),
    linux: () => redis((port) => startLinux(linux, { memory: MEMORY, cpus: CPUS, run: 'redis', hostPort: port })),
  },
  // More vCPUs than this host may have cores, and threads that spin for one another: what a lock held by a vCPU that does
  // not run costs.
  'redis-threads': {
    unit: { set: 'requests/s', get: 'requests/s', 'set-P16': 'requests/s', 'get-P16': 'requests/s' },
    runs: 3,
    ours: () =>
      redis(
        (port) => startOurs(['-p', `${port}:6379`, '/usr/bin/redis-server', ...REDIS_THREADS], '1G', 4),
        THREADS_REQUESTS,
      ),
    linux: () =>
      redis(
        (port) =>
          startLinux(linux, {
            memory: MEMORY,
            cpus: 4,
            run: 'redis',
            arguments: REDIS_THREADS.slice(4),
            hostPort: port,
          }),
        THREADS_REQUESTS,
      ),
  },
  fileread: {
    unit: { first: 'MB/s', cached: 'MB/s' },
    runs: 5,
    ours: async () =>
      figures(await output(startOurs(['-v', `${dataDirectory()}:/data`, benchProgram, 'fileread', '/data/big']))),
    linux: linuxFileRead,
  },
  cpu: {
    unit: { integer: 'M/s', memory: 'M/s' },
    runs: 5,
    ours: async () => figures(await output(startOurs([benchProgram, 'cpu']))),
    linux: async () => figures(await output(startLinux(linux, { memory: MEMORY, cpus: CPUS, run: 'cpu' }))),
  },
};

for (const name of options.names.length > 0 ? options.names : Object.keys(benchmarks)) {
  const benchmark = benchmarks[name];
  if (benchmark === undefined) throw new Error(`no benchmark ${name}: ${Object.keys(benchmarks).join(', ')}`);
  await measure(name, benchmark);
}

async function measure(name: string, benchmark: Benchmark): Promise<void> {
  const runs = options.runs ?? benchmark.runs;
  const results: { readonly ours: Figures[]; readonly linux: Figures[] } = { ours: [], linux: [] };
  for (let run = 0; run < runs; run += 1) {
    for (const side of ['ours', 'linux'] as const) {
      if (options.only !== undefined && options.only !== side) continue;
      const result = await benchmark[side]();
      results[side].push(result);
      process.stderr.write(`${name} ${run + 1}/${runs} ${side} ${JSON.stringify(result)}\n`);
    }
  }
  for (const [figure, unit] of Object.entries(benchmark.unit)) {
    const ours = median(results.ours.map((result) => result[figure] ?? Number.NaN));
    const rival = median(results.linux.map((result) => result[figure] ?? Number.NaN));
    const ratio = (ours / rival).toFixed(2);
    process.stdout.write(
      `${name}.${figure} ours=${round(ours)} linux=${round(rival)} ratio=${ratio} unit=${unit} runs=${runs}\n`,
    );
  }
}

function startOurs(args: readonly string[], memory = '1G', cpus = CPUS): ChildProcess {
  const child = spawn(process.execPath, [launcher, '-q', '--accel', 'tcg', '-c', String(cpus), '-m', memory, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return child;
}

/** Milliseconds from starting the launcher to the first byte of the program. */
async function ourHello(memory: string): Promise<number> {
  const start = performance.now();
  const child = startOurs([benchProgram, 'hello'], memory);
  await line(child, 'hello from the program');
  const elapsed = performance.now() - start;
  await ended(child);
  return elapsed;
}

async function linuxHello(memory: string): Promise<number> {
  const start = performance.now();
  const child = startLinux(linux, { memory, cpus: CPUS, run: 'hello' });
  await line(child, 'hello from the program');
  const elapsed = performance.now() - start;
  child.kill('SIGKILL');
  await ended(child);
  return elapsed;
}

async function redis(start: (port: number) => ChildProcess, requests = REDIS_REQUESTS): Promise<Figures> {
  const port = await freePort();
  const child = start(port);
  await line(child, 'Ready to accept connections');
  child.stdout?.resume();
  try {
    const plain = benchmarkRedis(port, 1, requests.plain);
    const pipelined = benchmarkRedis(port, 16, requests.pipelined);
    return { set: plain.SET, get: plain.GET, 'set-P16': pipelined.SET, 'get-P16': pipelined.GET };
  } finally {
    child.kill('SIGTERM');
    await ended(child);
  }
}

function benchmarkRedis(port: number, pipeline: number, requests: number): { SET: number; GET: number } {
  const args = [
    '-p',
    String(port),
    '-t',
    'set,get',
    '-c',
    '50',
    '-P',
    String(pipeline),
    '-n',
    String(requests),
    '--csv',
  ];
  const csv = execFileSync('redis-benchmark', args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 600_000,
  });
  const rate = (name: string) => Number(new RegExp(`^"${name}","([0-9.]+)"`, 'm').exec(csv)?.[1] ?? Number.NaN);
  return { SET: rate('SET'), GET: rate('GET') };
}

let dataPath: string | undefined;
/** A directory with a file of 256 MiB that compresses badly and has no holes. */
function dataDirectory(): string {
  if (dataPath !== undefined) return dataPath;
  dataPath = join(cache, 'data');
  const file = join(dataPath, 'big');
  if (!existsSync(file)) {
    execFileSync('mkdir', ['-p', dataPath]);
    execFileSync('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=256'], { stdio: 'ignore' });
  }
  // Both sides start with the file in the host's cache: the disk is not what is measured.
  execFileSync('cat', [file], { stdio: ['ignore', 'ignore', 'ignore'] });
  return dataPath;
}

async function linuxFileRead(): Promise<Figures> {
  const directory = mkdtempSync(join(tmpdir(), 'gt-bench-'));
  const socket = join(directory, 'fs');
  const virtiofsd = await startVirtiofsd(dataDirectory(), socket);
  try {
    const run = 'fileread /data/big';
    return figures(await output(startLinux(linux, { memory: MEMORY, cpus: CPUS, run, fsSocket: socket })));
  } finally {
    virtiofsd.kill('SIGTERM');
    rmSync(directory, { recursive: true });
  }
}

/** Lines "NAME VALUE" of a program's output. */
function figures(text: string): Figures {
  const found = [...text.matchAll(/^([a-z]+) ([0-9.]+)\r?$/gm)].map((match) => [match[1], Number(match[2])]);
  if (found.length === 0) throw new Error(`no figures in the output:\n${text}`);
  return Object.fromEntries(found) as Figures;
}

async function output(child: ChildProcess): Promise<string> {
  let text = '';
  child.stdout?.on('data', (data: Buffer) => {
    text += data.toString();
  });
  await ended(child);
  return text;
}

/** Resolves when the output has `text`; rejects when it ends before. */
function line(child: ChildProcess, text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let seen = '';
    child.stdout?.on('data', (data: Buffer) => {
      seen += data.toString('latin1');
      if (seen.includes(text)) resolve();
    });
    child.once('close', () => reject(new Error(`ended without "${text}":\n${seen}`)));
  });
}

function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => child.once('close', () => resolve()));
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

function median(values: number[]): number {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

function round(value: number): string {
  return value >= 1000 ? value.toFixed(0) : value.toFixed(value >= 100 ? 1 : 2);
}

function parseArguments(argv: readonly string[]): { names: string[]; runs?: number; only?: 'ours' | 'linux' } {
  const result: { names: string[]; runs?: number; only?: 'ours' | 'linux' } = { names: [] };
  for (let i = 0; i < argv.length; i += 1) {
    const word = argv[i] ?? '';
    if (word === '--runs') result.runs = Number(argv[++i]);
    else if (word === '--only') result.only = argv[++i] === 'linux' ? 'linux' : 'ours';
    else result.names.push(word);
  }
  return result;
}

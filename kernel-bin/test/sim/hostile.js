#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// Runs the kernel in a simulated TD whose host lies, once for each seed, and judges how it ended:
//   hostile.js FIRST COUNT [--devices] [--jobs N] [--cpus N] [--verbose]       make -C kernel-bin hostile-kernel sim first
// O (default kernel-bin/build) says where they were built. Good ends: the program finished and found its memory intact; the
// kernel refused with a message; the TD died of a page that the host took away; it waits for a device whose doorbell's place
// the host lied about. Everything else is a failure, and is printed with its console. Exit status 1 when there was one.
//
// --devices: virtio-fs and vsock devices that lie (liar.c), and a program that works with them (hostile_devices.c). The
// host lies too, in every fourth seed.
// --taken: the host takes a page away that the program uses. --debug: a debug TD, where that raises #VE.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const build = process.env.O ?? join(here, '../../build');
const SECRET = "the simulator's planted secret: ";
const MEMORY_MIB = 256;
const LIMIT_MS = 150_000; // seed 30039 takes 19 s here, and more where other work runs beside it
const LAST_WORDS_MS = 3_000;
const CFV_BYTES = 4 << 20;

const args = process.argv.slice(2);
const option = (name, fallback) => {
  const at = args.indexOf(name);
  return at < 0 ? fallback : Number(args.splice(at, 2)[1]);
};
const jobs = option('--jobs', 2);
const fixedCpus = option('--cpus', 0);
const verbose = args.includes('--verbose');
const devices = args.includes('--devices');
const taken = args.includes('--taken');
const debug = args.includes('--debug');
const [first = 1, count = 100] = args.filter((a) => !a.startsWith('--')).map(Number);

const scratch = mkdtempSync(join(tmpdir(), 'gramine-hostile-'));

/** Deterministic CBOR of what a launch record holds. */
function cbor(value) {
  const head = (major, n) => {
    if (n < 24) return Buffer.from([(major << 5) | n]);
    if (n < 256) return Buffer.from([(major << 5) | 24, n]);
    if (n < 65536) return Buffer.from([(major << 5) | 25, n >> 8, n & 255]);
    const b = Buffer.alloc(5, (major << 5) | 26);
    b.writeUInt32BE(n, 1);
    return b;
  };
  if (typeof value === 'boolean') return Buffer.from([value ? 0xf5 : 0xf4]);
  if (Buffer.isBuffer(value)) return Buffer.concat([head(2, value.length), value]);
  if (typeof value === 'number') return head(0, value);
  if (typeof value === 'string') return Buffer.concat([head(3, Buffer.byteLength(value)), Buffer.from(value)]);
  if (Array.isArray(value)) return Buffer.concat([head(4, value.length), ...value.map(cbor)]);
  const entries = Object.entries(value).map(([k, v]) => [cbor(k), cbor(v)]);
  entries.sort(([a], [b]) => Buffer.compare(a, b));
  return Buffer.concat([head(5, entries.length), ...entries.flat()]);
}

const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts)).digest();
/** A file of /t, as test/sim/hostile.h has it. */
const fileBytes = (file, bytes) =>
  Buffer.from(Uint8Array.from({ length: bytes }, (_, i) => i * 7 + (i >> 8) * 13 + file * 101 + 1));
const data = fileBytes(0, 40_000);
const leaves = [0, 1, 2].map((i) => sha256(data.subarray(i * 16384, (i + 1) * 16384)));
const dataSize = Buffer.alloc(8);
dataSize.writeUInt32LE(data.length);
const root = sha256(Buffer.from('gtdx-tree-v1'), dataSize, sha256(...leaves));

/** [CFV][BFV] for the embedded program; `hint`: the leaf lists that the host hands over. */
function image(cpus, hint) {
  const policy = {
    version: 1,
    entrypoint: '/init',
    args: { argv: devices ? ['/init', 'devices'] : taken ? ['/init', 'taken'] : [], from: 'manifest' },
    env: { set: [], pass: [], all: false },
    uid: 0,
    gid: 0,
    cwd: '/',
    mounts: [
      { path: '/', type: 'tmpfs', rw: true },
      ...(devices ? [{ path: '/t', type: 'chroot', uri: '/t', rw: true }] : []),
    ],
    trusted: devices
      ? [
          [
            't',
            [
              ['data', sha256(data), [data.length, 0o644, root]],
              ['plain', sha256(fileBytes(1, 9000))],
            ],
          ],
        ]
      : [],
    allowed: devices ? ['/t/allowed'] : ['/'],
    check: devices ? 'strict' : 'allow_all_but_log',
    limits: { stack: 8 << 20, brk: 1 << 30, fds: 1024 },
    net: { publish: [], outbound: [] },
    flags: {
      aslr: true,
      sigterm: true,
      subprocesses: true,
      flock: true,
      eventfd: true,
      domain_names: true,
      log: 2,
    },
    keys: {},
    mock: [],
    attestation: 'dcap',
  };
  const record = cbor({
    policy,
    invocation: { argv: [], env: [] },
    vm: { cpus, memory: MEMORY_MIB << 20 },
    host: { time: 0, tty: false, rows: 24, cols: 80, log: 2, ...(hint ? { leaves: hint } : {}) },
  });
  const cfv = Buffer.alloc(CFV_BYTES);
  cfv.write('GTDXCFV1');
  cfv.writeUInt32LE(record.length, 8);
  record.copy(cfv, 16);
  const path = join(scratch, `image${images.size}`);
  writeFileSync(path, Buffer.concat([cfv, readFileSync(join(build, 'hostile/kernel.bfv'))]));
  return path;
}

const HINTS = devices ? [Buffer.concat(leaves), undefined, Buffer.alloc(96, 7)] : [undefined];
const images = new Map();
for (const cpus of [1, 2, 4]) HINTS.forEach((hint, i) => images.set(`${cpus} ${i}`, image(cpus, hint)));

/** Starts the devices of a seed; resolves to what QEMU wants for them, and to what they said when they ended. */
async function startLiar(seed) {
  const [fs, vsock] = ['fs', 'vsock'].map((name) => join(scratch, `${name}${seed}`));
  const child = spawn(join(build, 'hostile/liar'), [String(seed), fs, vsock], { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  for (const pipe of [child.stdout, child.stderr])
    pipe.on('data', (chunk) => {
      said += chunk.toString('latin1');
    });
  const ended = new Promise((resolve) =>
    child.once('close', (code) => resolve(code === 0 ? said : `${said}liar.bug=status ${code}`)),
  );
  await new Promise((resolve) => child.stdout.once('data', resolve));
  return {
    ended,
    stop: () => child.kill(),
    qemu: [
      ...['-object', 'memory-backend-memfd,id=mem,size=6400M,share=on'],
      ...['-chardev', `socket,id=vsock,path=${vsock}`],
      ...['-device', 'vhost-user-vsock-pci,chardev=vsock,disable-legacy=on,iommu_platform=off'],
      ...['-chardev', `socket,id=fs,path=${fs}`],
      ...['-device', 'vhost-user-fs-pci,chardev=fs,tag=gramine,queue-size=1024,iommu_platform=off'],
    ],
  };
}

async function run(seed) {
  const start = Date.now();
  const cpus = fixedCpus || [1, 2, 2, 4][seed % 4];
  const liar = devices ? await startLiar(seed) : undefined;
  const text = join(scratch, `text${seed}`);
  let said = '';
  let simulator;
  let spoken;
  const server = createServer((socket) => {
    simulator = socket;
    spoken = new Promise((resolve) => socket.once('close', resolve));
    socket.on('data', (data) => {
      said += data.toString('latin1');
    });
    socket.on('error', () => {});
  });
  await new Promise((resolve) => server.listen(text, resolve));
  const out = join(scratch, `out${seed}`);
  const fwcfg = (name, value) => ['-fw_cfg', `name=opt/gramine/sim-${name},string=${value}`];
  const child = spawn(
    'qemu-system-x86_64',
    [
      ...[
        '-nodefaults',
        '-no-user-config',
        '-display',
        'none',
        '-no-reboot',
        '-machine',
        `q35${liar ? ',memory-backend=mem' : ''}`,
        '-m',
        '6400M',
      ],
      ...[
        '-smp',
        String(cpus),
        '-accel',
        'tcg,thread=multi',
        '-cpu',
        'max,phys-bits=52,vendor=GenuineIntel,-erms,-fsrm',
      ],
      ...['-bios', join(build, 'tdxsim.bin'), '-serial', 'stdio'],
      ...['-fw_cfg', `name=opt/gramine/sim-image,file=${images.get(`${cpus} ${(seed >> 2) % HINTS.length}`)}`],
      ...fwcfg('memory', MEMORY_MIB << 20),
      ...fwcfg('seed', devices && seed & 3 ? 0 : seed), // 0: an honest host
      ...fwcfg('secret', SECRET),
      ...fwcfg('gpaw', seed & 8 ? 52 : 48),
      ...(seed & 16 ? fwcfg('pages', 4096) : []),
      ...(taken ? fwcfg('take', 1) : []),
      ...(debug ? fwcfg('attributes', 1) : []), // and no SEPT_VE_DISABLE
      ...(liar?.qemu ?? []),
      ...['-device', 'virtio-serial-pci,disable-legacy=on,max_ports=4,vectors=12'],
      ...['-chardev', 'null,id=unused', '-device', 'virtconsole,nr=0,chardev=unused'],
      ...['-chardev', `file,id=out,path=${out}`, '-device', 'virtserialport,nr=3,chardev=out,name=console'],
      ...['-chardev', 'null,id=err', '-device', 'virtserialport,nr=1,chardev=err,name=stderr'],
      ...['-chardev', `socket,id=text,path=${text}`, '-device', 'isa-serial,chardev=text,iobase=0x3e8,irq=5,index=2'],
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  let log = '';
  child.stdout.on('data', (data) => {
    log += data.toString('latin1');
  });
  child.stderr.on('data', (data) => {
    log += data.toString('latin1');
  });
  liar?.ended.then((last) => last.includes('liar.bug') && child.kill());
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    simulator?.write('s'); // what it has counted
    setTimeout(() => child.kill('SIGKILL'), LAST_WORDS_MS);
  }, LIMIT_MS);
  await new Promise((resolve) => child.once('close', resolve));
  await spoken; // its last lines may still lie in the socket
  const stop = liar && setTimeout(liar.stop, LAST_WORDS_MS); // QEMU never came
  const lies = (await liar?.ended) ?? '';
  clearTimeout(stop);
  clearTimeout(timer);
  server.close();
  const read = (path) => {
    try {
      return readFileSync(path, 'latin1');
    } catch {
      return '';
    }
  };
  const program = read(out);
  rmSync(out, { force: true });
  return {
    seed,
    cpus,
    verdict: judge(late, said + lies, log, program),
    said: said + lies,
    log,
    program,
    ms: Date.now() - start,
  };
}

/** [good, kind] */
function judge(late, said, log, program) {
  const all = log + program;
  const stop = /^sim\.stop=(.*)$/m.exec(said)?.[1];
  const fatal = /^sim\.fatal\.message=(.*)$/m.exec(said)?.[1];
  const lied = (name) => new RegExp(`^sim\\.lie\\.${name}=`, 'm').test(said);
  if (/^sim\.secret=in /m.test(said)) return [false, 'the secret leaked'];
  if (!late && !/^sim\.secret=not found/m.test(said)) return [false, 'nobody looked for the secret'];
  if (/CORRUPT/.test(all)) return [false, 'the program saw memory that it had not written'];
  if (/assertion failed|stack smashed|panic: #(?!VE)/.test(all)) return [false, 'an assertion saw the host'];
  if (/^(sim|liar)\.bug=/m.test(said)) return [false, 'the simulator failed'];
  if (late) return lied('doorbell') ? [true, 'waits for a device that its doorbell does not reach'] : [false, 'hang'];
  if (stop !== undefined) {
    if (/not accepted/.test(stop) && (lied('remove') || taken)) return [true, 'died of a page taken away'];
    if (
      /without MapGPA/.test(stop) &&
      (lied('mapgpa_ignored') || lied('mapgpa_wild') || lied('stale') || lied('value') || lied('status'))
    )
      return [true, 'died of a page that was not shared'];
    return [false, `stopped: ${stop.replace(/0x[0-9a-f]+/g, '#')}`];
  }
  if (fatal !== undefined) {
    return fatal === ''
      ? [false, 'a fatal error without a message']
      : [true, `refused: ${fatal.replace(/[0-9a-f]{3,}|\d+/g, '#')}`];
  }
  if (/ended: status 0/.test(log)) return [true, 'finished'];
  const status = /process 1 ended: (.*?) after/.exec(log)?.[1];
  if (status !== undefined) return [true, `ended early: ${status}`];
  if (/intact/.test(program) && /^sim\.end=0/m.test(said)) return [true, 'finished'];
  if (/^sim\.end=0/m.test(said))
    return [log.trim() !== '' || program !== '', `powered off: ${log.trim().split('\n').pop()?.slice(0, 60)}`];
  return [false, 'ended for no reason'];
}

const kinds = new Map();
let bad = 0;
let done = 0;
let next = first;
let last = first + count;
process.once('SIGINT', () => {
  last = next; // ends after the runs that are under way, with the summary
});
async function worker() {
  while (next < last) {
    const result = await run(next++);
    const [good, kind] = result.verdict;
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    if (!good) bad++;
    done++;
    if (!good || verbose) {
      process.stdout.write(
        `seed ${result.seed} (${result.cpus} vCPUs, ${result.ms} ms): ${good ? 'good' : 'BAD'}: ${kind}\n`,
      );
      if (!good || process.env.LOG)
        process.stdout.write(`${result.log}${result.program}${result.said.replace(/^/gm, '    ')}\n`);
    }
  }
}
await Promise.all(Array.from({ length: jobs }, worker));
rmSync(scratch, { recursive: true, force: true });
for (const [kind, n] of [...kinds].sort((a, b) => b[1] - a[1]))
  process.stdout.write(`${String(n).padStart(6)}  ${kind}\n`);
process.stdout.write(`hostile: ${done - bad} passed, ${bad} failed\n`);
process.exit(bad === 0 ? 0 : 1);

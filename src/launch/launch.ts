// SPDX-License-Identifier: Apache-2.0
//
// One run from start to end: private directory, bridge, virtiofsd, image, QEMU, console, exit status, clean-up. The three
// children start together: sockets exist before their servers, so nobody waits for anybody.

import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { connect } from 'node:net';
import { availableParallelism, constants as os } from 'node:os';
import type { Duplex } from 'node:stream';
import { chooseAccelerator } from './accelerator.js';
import { Bridge, bridgeArguments } from './bridge.js';
import { fromErrno, LaunchError } from './errors.js';
import { HostKnowledge } from './host-knowledge.js';
import {
  explainHostViewFailure,
  exportedMounts,
  type HostViewCommand,
  hostViewCommand,
  VIRTIOFSD_FD,
} from './host-view.js';
import { BRIDGE_PROGRAM, KERNEL_IMAGE, SIMULATOR_IMAGE } from './paths.js';
import { makePlan, type Plan, type PlanRequest } from './plan.js';
import {
  findQemu,
  type Machine,
  type MachineSpec,
  QEMU_FDS,
  type QuoteAddress,
  qemuArguments,
  type TdIdentity,
} from './qemu.js';
import { QuoteService, writeCollateral } from './quote-service.js';
import { CFV_BYTES, cfvHead, checkKernel, encodeRecord } from './record.js';
import { ChildSocket, killGroup, RunDirectory } from './run-directory.js';
import { SimulatorReport } from './simulator-report.js';
import { chooseQuoteService, requireTdxHost } from './tdx-host.js';
import { type GuestPorts, hasTerminal, Terminal } from './terminal.js';
import { ThrowawayPki } from './throwaway-pki.js';

/** What the program is to run in. */
export type MachineRequest =
  | { readonly kind: 'vm'; readonly accelerator: 'auto' | 'kvm' | 'tcg' }
  | { readonly kind: 'td'; readonly identity: TdIdentity; readonly quotes: QuoteAddress | 'auto' | 'none' }
  | {
      readonly kind: 'simulated';
      readonly identity: TdIdentity;
      /** Who makes the quotes: a service of this run, another one that listens on this unix socket, or nobody. */
      readonly quotes: 'own' | 'none' | { readonly type: 'unix'; readonly path: string };
      /** Format of the quotes of one's own. */
      readonly quoteVersion: 4 | 5;
      /** Where root and collateral of this run's throw-away PKI are written. */
      readonly collateral?: string | undefined;
      readonly options: readonly (readonly [name: string, value: string])[];
    };

export interface LaunchRequest extends PlanRequest {
  readonly cpus?: number | undefined;
  readonly machine: MachineRequest;
  readonly gdb?: string | undefined;
  readonly verbose: boolean;
  /** Our own native parts, where they are not those of this package. */
  readonly kernelImage?: string | undefined;
  readonly bridgeProgram?: string | undefined;
  readonly simulatorImage?: string | undefined;
  /** A line for the user, on stderr. */
  readonly say: (line: string) => void;
  /** How much the kernel says on its own account (docs/launch-record.md, `host.log`), and where its lines go. */
  readonly kernelLogLevel: number;
  readonly kernelLog: (line: string) => void;
  /** A line that the user sees even with --quiet. */
  readonly warn: (line: string) => void;
  /** A line that only --verbose shows. */
  readonly detail: (line: string) => void;
}

const MAX_DEFAULT_CPUS = 4;
const defaultCpus = () => Math.min(availableParallelism(), MAX_DEFAULT_CPUS);
/** The number of vCPUs is measured: nobody could predict one that depends on the host. */
export const DEFAULT_TD_CPUS = 1;
const MAC_KEY_BYTES = 32;
const SIMULATED_WARNING =
  'SIMULATED: this TD is an ordinary process of this machine. NOTHING IS PROTECTED, and its quotes prove nothing.';
/** What helpers printed, as far as an error message quotes it. */
const OUTPUT_TAIL_BYTES = 4096;
const LOG_LINE_CHARS = 1000;
/** After the machine is gone the helpers have this long to end by themselves. */
const HELPER_GRACE_MS = 1000;
/** A program that was asked to end with SIGTERM or SIGHUP has this long. */
const TERMINATION_GRACE_MS = 10_000;

/** The commands that a launch would run, without running them. */
export interface DryRun {
  readonly plan: Plan;
  readonly commands: readonly (readonly string[])[];
}

export async function dryRun(request: LaunchRequest): Promise<DryRun> {
  const plan = await makePlan(request);
  const directory = '/run/gramine-XXXXXX';
  const file = (name: string) => `${directory}/${name}`;
  const mounts = exportedMounts(plan.policy, process.cwd());
  const view = mounts.length > 0 ? hostViewCommand(mounts) : undefined;
  // Shown even where it cannot run.
  const { qemu, machine } = await chooseMachine(request, plan).catch((error: unknown) => {
    if (!(error instanceof LaunchError) || error.code !== 'tdx-unavailable' || request.machine.kind !== 'td')
      throw error;
    request.say(`warning: ${error.message}`);
    return { qemu: 'qemu-system-x86_64', machine: tdMachine(request.machine, plan) };
  });
  const spec = machineSpec(request, plan, machine, file, view !== undefined);
  const bridge = bridgeArguments(bridgeOptions(request, plan, spec.vsockSocket));
  return {
    plan,
    commands: [
      [request.bridgeProgram ?? BRIDGE_PROGRAM, ...bridge],
      ...(view === undefined ? [] : [[view.program, ...view.args]]),
      [qemu, ...qemuArguments(spec)],
    ],
  };
}

/** Runs the program; resolves to its exit status. Throws LaunchError when it could not be run to its end. */
export async function launch(request: LaunchRequest): Promise<number> {
  const plan = await makePlan(request);
  const kernel = readKernel(request.kernelImage ?? KERNEL_IMAGE);
  request.say(plan.summary);
  for (const warning of plan.warnings) request.say(`warning: ${warning}`);
  // A machine that cannot be had is found out before anything is made.
  const { qemu, machine, note } = await chooseMachine(request, plan);
  if (machine.kind === 'simulated') request.warn(SIMULATED_WARNING);
  const directory = RunDirectory.create();
  const run = new Run(request, plan, directory);
  try {
    return await run.toEnd(qemu, kernel, machine, note);
  } finally {
    await run.cleanUp();
    directory.remove();
  }
}

class Run {
  private readonly children: ChildProcess[] = [];
  private bridge: Bridge | undefined;
  private qemu: ChildProcess | undefined;
  private terminal: Terminal | undefined;
  private status: number | undefined;
  private guestSeen = false;
  private killedBy: number | undefined;
  private lastWords = '';
  private lastLine = '';
  private simulator: SimulatorReport | undefined;
  private readonly signals = new Map<NodeJS.Signals, () => void>();

  constructor(
    private readonly request: LaunchRequest,
    private readonly plan: Plan,
    private readonly directory: RunDirectory,
  ) {}

  async toEnd(qemu: string, kernel: Buffer, machine: Machine, note: string | undefined): Promise<number> {
    const { request, plan, directory } = this;
    this.catchSignals();
    const mounts = exportedMounts(plan.policy, process.cwd());
    const view = mounts.length > 0 ? hostViewCommand(mounts) : undefined;
    const spec = machineSpec(request, plan, machine, (name) => directory.file(name), view !== undefined);
    const bridge = this.startBridge(spec.vsockSocket);
    const viewFailed = view === undefined ? NEVER : this.startHostView(view, spec.fsSocket ?? '');
    writeImage(spec.image, kernel, this.encodeRecord(spec));
    await Promise.race([bridge.ready, viewFailed]);
    if (this.killedBy !== undefined) return 128 + this.killedBy;
    const quotes = machine.kind === 'simulated' ? this.makeQuoteService(spec) : undefined;
    const ended = this.startQemu(qemu, spec, quotes);
    if (note !== undefined) request.detail(note);
    plan.remember();
    const output = await Promise.race([ended, viewFailed]);
    await this.terminal?.drained();
    this.terminal?.restore();
    return this.outcome(output);
  }

  /** Ends what still runs. The order matters: QEMU first, so that no device fails under a guest that still runs. */
  async cleanUp(): Promise<void> {
    this.terminal?.restore();
    for (const [signal, handler] of this.signals) process.removeListener(signal, handler);
    if (this.qemu !== undefined && isRunning(this.qemu)) killGroup(this.qemu);
    this.bridge?.stop();
    const running = this.children.filter(isRunning);
    // A virtiofsd that QEMU never connected to would wait for it for ever.
    if (this.qemu === undefined) for (const child of running) if (child !== this.bridge?.child) killGroup(child);
    const gone = Promise.all(running.map((child) => new Promise((resolve) => child.once('exit', resolve))));
    const timer = setTimeout(() => {
      for (const child of running) killGroup(child);
    }, HELPER_GRACE_MS);
    await gone;
    clearTimeout(timer);
  }

  private startBridge(socket: string): Bridge {
    const { request } = this;
    const bridge = new Bridge(bridgeOptions(request, this.plan, socket), {
      published: (host, guestPort) => request.detail(`port ${guestPort} of the guest is ${host} here`),
      guest: (version) => {
        this.guestSeen = true;
        request.detail(`the guest's kernel: ${printable(version)}`);
      },
      exit: (status) => {
        this.status = status;
      },
      last: (text) => {
        this.lastWords = text;
      },
      trouble: (text) => request.detail(`bridge: ${printable(text)}`),
    });
    this.bridge = bridge;
    this.adopt(bridge.child);
    return bridge;
  }

  /** Starts virtiofsd in its view; the promise only ever rejects, when it ends before the machine does. */
  private startHostView(view: HostViewCommand, path: string): Promise<never> {
    if (view.lost !== undefined) this.request.say(`warning: ${view.lost}`);
    const socket = ChildSocket.listen(this.directory, path.slice(this.directory.path.length + 1));
    const stdio: ('ignore' | 'pipe' | number)[] = ['ignore', 'ignore', 'pipe'];
    stdio[VIRTIOFSD_FD] = socket.fd;
    const child = spawn(view.program, view.args, { stdio, detached: true });
    socket.close();
    this.adopt(child);
    let output = '';
    child.stderr?.on('data', (data: Buffer) => {
      const text = data.toString();
      output = (output + text).slice(-OUTPUT_TAIL_BYTES);
      this.request.detail(`virtiofsd: ${text.trimEnd()}`);
    });
    const failed = new Promise<never>((_resolve, reject) => {
      child.once('error', (error) => reject(explainHostViewFailure(`${view.program}: ${error.message}`)));
      child.once('close', (code) => {
        // It ends by itself, with 0, when QEMU closes the connection.
        if (code !== 0 && this.status === undefined) reject(explainHostViewFailure(output));
      });
    });
    failed.catch(() => {});
    return failed;
  }

  /**
   * Makes the key of a simulated module's reports. What is returned is called with the stream of requests for quotes; those of
   * this run's own service lead to a root of this run.
   */
  private makeQuoteService(spec: MachineSpec): (requests: Duplex) => void {
    const { request } = this;
    if (request.machine.kind !== 'simulated') throw new Error('a quoting service for a machine that is not simulated');
    const macKey = randomBytes(MAC_KEY_BYTES);
    try {
      writeFileSync(spec.macKeyFile, macKey, { mode: 0o600, flag: 'wx' });
    } catch (error) {
      throw fromErrno(error, `cannot write ${spec.macKeyFile}`);
    }
    const { collateral, quotes, quoteVersion } = request.machine;
    if (quotes === 'none') return () => {};
    const trouble = (text: string) => request.detail(`quoting service: ${printable(text)}`);
    if (quotes !== 'own') {
      return (requests) => {
        const service = connect(quotes.path);
        service.on('error', (error) => trouble(error.message));
        requests.pipe(service).pipe(requests);
      };
    }
    const pki = new ThrowawayPki({ label: 'gramine-tdx simulated' });
    if (collateral !== undefined) {
      writeCollateral(collateral, pki);
      request.detail(`the root and collateral of this run's quotes are in ${collateral}`);
    }
    const service = new QuoteService({ pki, macKey, version: quoteVersion, trouble });
    return (requests) => service.serve(requests);
  }

  /** Resolves to what QEMU printed when it has ended and closed every port. */
  private startQemu(
    path: string,
    spec: MachineSpec,
    quotes: ((requests: Duplex) => void) | undefined,
  ): Promise<string> {
    const stdio: ('ignore' | 'pipe')[] = ['ignore', 'ignore', 'pipe', 'pipe', 'pipe', 'pipe'];
    stdio[QEMU_FDS.stdin] = spec.tty ? 'ignore' : 'pipe';
    if (quotes !== undefined) stdio[QEMU_FDS.simulator] = stdio[QEMU_FDS.quotes] = 'pipe';
    const child = spawn(path, qemuArguments(spec), { stdio, detached: true });
    this.qemu = child;
    this.adopt(child);
    const pipes: readonly unknown[] = child.stdio;
    const port = (name: keyof typeof QEMU_FDS) => pipes[QEMU_FDS[name]] as Duplex;
    let output = '';
    child.stderr?.on('data', (data: Buffer) => {
      output = (output + data.toString()).slice(-OUTPUT_TAIL_BYTES);
    });
    const ended = new Promise<string>((resolve, reject) => {
      child.once('error', (error) => reject(new LaunchError('qemu-missing', `cannot start ${path}: ${error.message}`)));
      child.once('close', () => resolve(output));
    });
    ended.catch(() => {});
    if (child.pid === undefined) return ended;
    this.readLog(port('log'));
    if (quotes !== undefined) {
      this.simulator = new SimulatorReport(port('simulator'), (line) => this.request.detail(printable(line)));
      quotes(port('quotes'));
    }
    const ports: GuestPorts = spec.tty
      ? { console: port('console'), stderr: port('stderr') }
      : { console: port('console'), stderr: port('stderr'), stdin: port('stdin') };
    this.terminal = new Terminal(
      ports,
      {
        windowSize: (rows, columns) => this.bridge?.windowSize(rows, columns),
        outputClosed: () => this.bridge?.signal(os.signals.SIGPIPE),
        escape: () => this.kill(os.signals.SIGKILL),
        rawSince: (settings) => this.directory.watchTerminal(settings),
      },
      spec.tty,
    );
    this.terminal.start();
    this.request.detail([path, ...qemuArguments(spec)].map(quote).join(' '));
    return ended;
  }

  /** Passes the kernel's log on in lines, as it comes from the guest: without control bytes, and of bounded length. */
  private readLog(log: Duplex): void {
    let pending = '';
    const pass = (line: string) => {
      if (line === '') return;
      this.lastLine = line;
      this.request.kernelLog(printable(line));
    };
    log.on('error', () => {});
    log.setEncoding('utf8');
    log.on('data', (data: string) => {
      const lines = (pending + data).split('\n');
      pending = (lines.pop() ?? '').slice(0, LOG_LINE_CHARS);
      for (const line of lines) pass(line.slice(0, LOG_LINE_CHARS));
    });
    log.on('end', () => pass(pending));
  }

  private adopt(child: ChildProcess): void {
    this.children.push(child);
    this.directory.watch(child);
  }

  private encodeRecord(spec: MachineSpec): Uint8Array {
    const { columns, rows } = process.stdout;
    return encodeRecord({
      policy: this.plan.policy,
      invocation: this.plan.invocation,
      vm: { cpus: spec.cpus, memoryBytes: spec.memoryBytes },
      host: {
        timeNs: BigInt(Date.now()) * 1_000_000n,
        tty: spec.tty,
        rows: rows ?? 24,
        cols: columns ?? 80,
        logLevel: this.request.kernelLogLevel,
        ...this.plan.hints,
      },
    });
  }

  private outcome(qemuOutput: string): number {
    if (this.status !== undefined) return this.status;
    if (this.killedBy !== undefined) return 128 + this.killedBy;
    const parts = [
      this.guestSeen
        ? 'the virtual machine ended without an exit status'
        : 'the virtual machine ended without having reached the launcher',
      ...(this.lastWords !== ''
        ? [`its last words: ${printable(this.lastWords)}`]
        : this.lastLine !== ''
          ? [`its kernel said last: ${printable(this.lastLine)}`]
          : []),
      ...(this.simulator?.end === undefined ? [] : [printable(this.simulator.end)]),
      ...(qemuOutput.trim() === '' ? [] : [`QEMU: ${qemuOutput.trim()}`]),
    ];
    throw new LaunchError('guest-died', parts.join('\n'));
  }

  private catchSignals(): void {
    const catching = (signal: NodeJS.Signals, handler: () => void) => {
      this.signals.set(signal, handler);
      process.on(signal, handler);
    };
    let interrupted = false;
    catching('SIGINT', () => {
      if (interrupted || !this.guestSeen) this.kill(os.signals.SIGINT);
      else this.bridge?.signal(os.signals.SIGINT);
      interrupted = true;
    });
    for (const signal of ['SIGTERM', 'SIGHUP'] as const) {
      const number = os.signals[signal];
      let asked = false;
      catching(signal, () => {
        if (asked || !this.guestSeen) return this.kill(number);
        asked = true;
        this.bridge?.signal(number);
        setTimeout(() => this.kill(number), TERMINATION_GRACE_MS).unref();
      });
    }
    for (const signal of ['SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const) {
      catching(signal, () => this.bridge?.signal(os.signals[signal]));
    }
  }

  /** Ends the machine at once; the run then has status 128 + `signal`, unless the program has ended already. */
  private kill(signal: number): void {
    this.killedBy ??= signal;
    if (this.qemu !== undefined && isRunning(this.qemu)) killGroup(this.qemu);
  }
}

const NEVER = new Promise<never>(() => {});

interface ChosenMachine {
  readonly qemu: string;
  readonly machine: Machine;
  /** For --verbose. */
  readonly note?: string;
}

/** Errors: LaunchError. */
async function chooseMachine(request: LaunchRequest, plan: Plan): Promise<ChosenMachine> {
  const knowledge = new HostKnowledge();
  const wanted = request.machine;
  switch (wanted.kind) {
    case 'vm': {
      const qemu = findQemu(knowledge);
      const { accelerator, reason } = await chooseAccelerator(wanted.accelerator, qemu, knowledge);
      const machine: Machine = { kind: 'vm', accelerator };
      return accelerator === 'tcg' && wanted.accelerator === 'auto'
        ? { qemu, machine, note: `software emulation (TCG): ${reason}` }
        : { qemu, machine };
    }
    case 'td': {
      const machine = tdMachine(wanted, plan);
      return { qemu: requireTdxHost(knowledge, machine.quotes), machine };
    }
    case 'simulated': {
      const simulator = request.simulatorImage ?? SIMULATOR_IMAGE;
      if (!existsSync(simulator)) {
        throw new LaunchError('image-corrupt', `there is no simulator at ${simulator}. Build it: npm run build:native`);
      }
      const { identity, options } = wanted;
      const quotes = wanted.quotes !== 'none';
      if (typeof wanted.quotes === 'object' && !existsSync(wanted.quotes.path)) {
        throw new LaunchError('usage', `--quote-service unix:${wanted.quotes.path}: it does not exist`);
      }
      return { qemu: findQemu(knowledge), machine: { kind: 'simulated', identity, simulator, quotes, options } };
    }
  }
}

function tdMachine(wanted: Extract<MachineRequest, { kind: 'td' }>, plan: Plan): Extract<Machine, { kind: 'td' }> {
  const { identity, quotes } = wanted;
  return { kind: 'td', identity, quotes: chooseQuoteService(quotes, plan.needsQuotes) };
}

function machineSpec(
  request: LaunchRequest,
  plan: Plan,
  machine: Machine,
  file: (name: string) => string,
  withFiles: boolean,
): MachineSpec {
  return {
    machine,
    cpus: request.cpus ?? plan.cpus ?? (machine.kind === 'vm' ? defaultCpus() : DEFAULT_TD_CPUS),
    memoryBytes: plan.memoryBytes,
    image: file('image'),
    macKeyFile: file('mac-key'),
    vsockSocket: file('vsock'),
    ...(withFiles ? { fsSocket: file('fs') } : {}),
    tty: hasTerminal(),
    gdb: request.gdb,
  };
}

function bridgeOptions(request: LaunchRequest, plan: Plan, socket: string) {
  return {
    program: request.bridgeProgram ?? BRIDGE_PROGRAM,
    socket,
    publish: request.publish,
    outbound: [...new Set([...plan.policy.net.outbound, ...request.outbound])],
    verbose: request.verbose,
  };
}

function readKernel(path: string): Buffer {
  let kernel: Buffer;
  try {
    kernel = readFileSync(path);
  } catch (error) {
    throw new LaunchError(
      'image-corrupt',
      `cannot read the kernel: ${(error as Error).message}. Build it: npm run build:native`,
      { cause: error },
    );
  }
  checkKernel(kernel, path);
  return kernel;
}

/** [CFV][BFV]; the zeroes behind the record are a hole in the file. */
function writeImage(path: string, kernel: Buffer, record: Uint8Array): void {
  try {
    const fd = openSync(path, 'wx', 0o600);
    try {
      ftruncateSync(fd, CFV_BYTES + kernel.length);
      writeAll(fd, cfvHead(record), 0);
      writeAll(fd, kernel, CFV_BYTES);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw fromErrno(error, `cannot write ${path}`);
  }
}

function writeAll(fd: number, bytes: Uint8Array, position: number): void {
  let done = 0;
  while (done < bytes.length) done += writeSync(fd, bytes, done, bytes.length - done, position + done);
}

function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null;
}

/** A shell word, for people to copy. */
export function quote(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** The log comes from the guest: its control bytes stay off the user's terminal. */
function printable(text: string): string {
  return text.replaceAll(/[^\x20-\x7e\t\u00a0-\uffff]/g, '');
}

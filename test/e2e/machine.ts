// SPDX-License-Identifier: Apache-2.0
//
// Runs programs in real virtual machines, and the same programs here, for the end-to-end tests. Nothing waits by time: a
// test goes on when a line or the end of a stream arrives.

import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url));
const launcher = join(root, 'dist/cli/gramine-vm.js');

export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A running program whose output lines can be awaited. */
export class Running {
  stdout = '';
  stderr = '';
  readonly ended: Promise<Outcome>;
  private readonly waiting = new Set<() => void>();

  constructor(readonly child: ChildProcessWithoutNullStreams) {
    child.stdout.on('data', (data: Buffer) => {
      this.stdout += data.toString('latin1');
      for (const check of this.waiting) check();
    });
    child.stderr.on('data', (data: Buffer) => {
      this.stderr += data.toString('latin1');
      for (const check of this.waiting) check();
    });
    child.stdin.on('error', () => {});
    this.ended = new Promise((resolve) =>
      child.once('close', (status) => {
        for (const check of this.waiting) check();
        resolve({ status, stdout: this.stdout, stderr: this.stderr });
      }),
    );
  }

  /** Resolves when the output matches; rejects with all of it when the program ends first. */
  seen(pattern: RegExp, stream: 'stdout' | 'stderr' = 'stdout'): Promise<RegExpExecArray> {
    return new Promise((resolve, reject) => {
      const check = () => {
        const match = pattern.exec(this[stream]);
        if (match !== null) resolve(match);
        else if (this.child.exitCode !== null || this.child.signalCode !== null) {
          reject(new Error(`ended without ${pattern}:\n${this.stdout}\n${this.stderr}`));
        } else return;
        this.waiting.delete(check);
      };
      this.waiting.add(check);
      check();
    });
  }
}

/** Starts `gramine-vm ARGS`. */
export function startVm(args: readonly string[], options: { readonly cwd?: string } = {}): Running {
  return new Running(spawn(process.execPath, [launcher, ...args], { cwd: options.cwd ?? root }));
}

/** Runs `gramine-vm ARGS` to its end, with `input` on stdin. */
export async function runVm(
  args: readonly string[],
  input = '',
  options: { readonly cwd?: string } = {},
): Promise<Outcome> {
  const running = startVm(args, options);
  running.child.stdin.end(input);
  return running.ended;
}

/** Runs a program here. */
export async function runHere(
  program: string,
  args: readonly string[],
  options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv; readonly input?: string } = {},
): Promise<Outcome> {
  const child = spawn(program, args, { cwd: options.cwd ?? root, env: { ...process.env, ...options.env } });
  const running = new Running(child);
  child.stdin.end(options.input ?? '');
  return running.ended;
}

/** A TCP port of 127.0.0.1 that nobody uses now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

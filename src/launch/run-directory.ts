// SPDX-License-Identifier: Apache-2.0
//
// The private directory of one run (sockets and the launch image) and its watchdog: a tiny shell process that holds a
// pipe from the launcher. However the launcher ends, SIGKILL included, the pipe closes, and the watchdog ends what the
// launcher started, removes the directory and gives the terminal back its ordinary mode.

import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, linkSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fromErrno, LaunchError } from './errors.js';

/** sun_path holds 108 bytes with its NUL; the longest name that we make below the directory has 16. */
const MAX_DIRECTORY_BYTES = 107 - 17;

/**
 * Lines: `+PID` a child started, `-PID` it ended, `tSETTINGS` the terminal is raw and was so before (stty's form; an empty
 * one: it is as before again), `done` the launcher cleans up itself.
 */
const WATCHDOG = `
  pids= tty=
  while read -r line; do
    case $line in
      +*) pids="$pids \${line#+}" ;;
      -*) rest=; for pid in $pids; do [ "$pid" = "\${line#-}" ] || rest="$rest $pid"; done; pids=$rest ;;
      t*) tty=\${line#t} ;;
      done) exit 0 ;;
    esac
  done
  for pid in $pids; do kill -9 "-$pid"; done
  rm -rf "$1"
  [ -z "$tty" ] || stty "$tty" <&3`;

export class RunDirectory {
  private constructor(
    readonly path: string,
    private readonly watchdog: ChildProcess,
  ) {}

  static create(): RunDirectory {
    const base = writableRuntimeDirectory() ?? tmpdir();
    let path: string;
    try {
      path = mkdtempSync(join(base, 'gramine-'));
    } catch (error) {
      throw fromErrno(error, `cannot make a directory below ${base}`);
    }
    if (Buffer.byteLength(path) > MAX_DIRECTORY_BYTES) {
      rmSync(path, { recursive: true, force: true });
      throw new LaunchError('usage', `${base} is too long a path for sockets; set TMPDIR to a shorter one`);
    }
    // A session of its own, so that Ctrl-C in the terminal does not end it.
    const watchdog = spawn('/bin/sh', ['-c', WATCHDOG, 'gramine-watchdog', path], {
      stdio: ['pipe', 'ignore', 'ignore', process.stdin.isTTY ? 0 : 'ignore'],
      detached: true,
    });
    watchdog.on('error', () => {});
    watchdog.stdin?.on('error', () => {});
    watchdog.unref();
    return new RunDirectory(path, watchdog);
  }

  file(name: string): string {
    return join(this.path, name);
  }

  /** The watchdog ends `child` should the launcher die. */
  watch(child: ChildProcess): void {
    const { pid } = child;
    if (pid === undefined) return;
    this.watchdog.stdin?.write(`+${pid}\n`);
    child.once('exit', () => this.watchdog.stdin?.write(`-${pid}\n`));
  }

  /** The watchdog gives the terminal these settings (of stty -g) back should the launcher die; none: it is as it was. */
  watchTerminal(settings: string): void {
    this.watchdog.stdin?.write(`t${settings}\n`);
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
    this.watchdog.stdin?.end('done\n');
  }
}

/**
 * Ends a child and all that it started: each child of a run is detached, so it leads a process group. Killing bubblewrap
 * alone leaves what it forked behind when that has not yet asked to die with its parent.
 */
export function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

/** A listening unix socket for a child to accept on: connecting works from now on, before the child is ready. */
export class ChildSocket {
  private constructor(
    readonly path: string,
    private readonly server: Server,
  ) {}

  static listen(directory: RunDirectory, name: string): ChildSocket {
    const server = createServer();
    server.on('error', () => {});
    server.listen(directory.file(`${name}~`));
    // Closing the server unlinks the name that it made; this one stays.
    linkSync(directory.file(`${name}~`), directory.file(name));
    return new ChildSocket(directory.file(name), server);
  }

  /** For spawn's `stdio`. Node has no public way to share a listening socket other than its own cluster protocol. */
  get fd(): number {
    return (this.server as unknown as { readonly _handle: { readonly fd: number } })._handle.fd;
  }

  /** Must follow spawn in the same turn of the event loop, or the launcher itself would accept the connection. */
  close(): void {
    this.server.close();
  }
}

function writableRuntimeDirectory(): string | undefined {
  const path = process.env.XDG_RUNTIME_DIR;
  if (path === undefined || !path.startsWith('/')) return undefined;
  try {
    accessSync(path, constants.W_OK | constants.X_OK);
    return path;
  } catch {
    return undefined;
  }
}

// SPDX-License-Identifier: Apache-2.0
//
// The user's terminal is as it was before, however the run ends. script(1) provides the terminal.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fakeKernel } from './fake-kernel.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const launcher = `'${process.execPath}' '${join(root, 'dist/cli/gramine-vm.js')}'`;
let work = '';
beforeEach(() => {
  work = mkdtempSync(join(tmpdir(), 'gt-tty-'));
  mkdirSync(join(work, 'run'));
});
afterEach(() => rmSync(work, { recursive: true, force: true }));

function environment(kernel: Buffer, bridge: string): NodeJS.ProcessEnv {
  writeFileSync(join(work, 'kernel'), kernel);
  return {
    ...process.env,
    XDG_RUNTIME_DIR: join(work, 'run'),
    XDG_CACHE_HOME: join(work, 'cache'),
    GRAMINE_TDX_KERNEL: join(work, 'kernel'),
    GRAMINE_TDX_BRIDGE: join(root, 'test/fixtures/fake-bridge.js'),
    FAKE_BRIDGE: bridge,
  };
}

/** Whether some process has this among its arguments, which NUL bytes end. */
function isRunning(words: string): boolean {
  return readdirSync('/proc').some((name) => {
    try {
      return /^[0-9]+$/.test(name) && readFileSync(`/proc/${name}/cmdline`, 'latin1').includes(words);
    } catch {
      return false; // it ended meanwhile
    }
  });
}

/** Runs a shell command in a terminal of its own and returns what appears there. */
function inTerminal(command: string, env: NodeJS.ProcessEnv): string {
  const { stdout } = spawnSync('script', ['-qec', command, '/dev/null'], { env, encoding: 'latin1', timeout: 50_000 });
  return stdout;
}

describe.skipIf(spawnSync('script', ['--version']).error !== undefined)('the terminal', () => {
  it('is raw during the run, and as before after it', () => {
    const env = environment(fakeKernel('x', 'reset'), 'ready|guest fake,exit 3');
    const output = inTerminal(`stty -g; ${launcher} -q /bin/true 2>/dev/null; echo "status $?"; stty -g`, env);
    const [before, status, after] = output.trim().split(/\r?\n/);
    expect(before).toMatch(/^[0-9a-f:]+$/);
    expect({ status, after }).toEqual({ status: 'status 3', after: before });
  });

  it('is as before after an error', () => {
    const env = environment(fakeKernel('dead', 'reset'), 'ready');
    const output = inTerminal(`stty -g; ${launcher} -q /bin/true 2>/dev/null; echo "status $?"; stty -g`, env);
    const [before, status, after] = output.trim().split(/\r?\n/);
    expect({ status, after }).toEqual({ status: 'status 70', after: before });
  });

  it('echoes again after the launcher was killed', async () => {
    const env = environment(fakeKernel('x', 'halt'), 'ready|guest fake');
    // The pid is the launcher's: exec keeps it.
    const inner = `sh -c 'echo $$ > ${work}/pid; exec ${launcher.replaceAll("'", '')} --verbose /bin/true'`;
    const terminal = spawn('script', ['-qec', `${inner}; cat ${work}/go; stty -a`, '/dev/null'], {
      env,
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    spawnSync('mkfifo', [join(work, 'go')]);
    let output = '';
    let killed = false;
    terminal.stdout.on('data', (data: Buffer) => {
      output += data.toString('latin1');
      if (killed || !output.includes('-nodefaults')) return;
      killed = true;
      spawnSync('sh', ['-c', `kill -KILL $(cat ${work}/pid)`]);
      // The watchdog removes the directory first and mends the terminal then; it holds the run's name until it ends.
      const watch = setInterval(() => {
        if (isRunning(`gramine-watchdog\0${work}`)) return;
        clearInterval(watch);
        writeFileSync(join(work, 'go'), '\n');
      }, 20);
    });
    await new Promise((resolve) => terminal.once('close', resolve));
    expect(killed).toBe(true);
    expect(output.slice(output.lastIndexOf('speed'))).toMatch(/[^-]icanon[\s\S]*[^-]echo /);
    expect(existsSync(join(work, 'run'))).toBe(true);
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// A program on a terminal: script(1) provides ours, the guest's line discipline is the program's.

import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Running, root } from './machine.js';

const launcher = join(root, 'dist/cli/gramine-vm.js');

/** Runs a shell command on a terminal of 33 lines and 99 columns. */
function onTerminal(command: string): Running {
  const child = spawn('script', ['-qec', `stty rows 33 cols 99; ${command}`, '/dev/null'], {
    env: { ...process.env, TERM: 'vt100' },
  });
  return new Running(child);
}

describe.skipIf(spawnSync('script', ['--version']).error !== undefined)('a program on a terminal', () => {
  it('is interactive: prompt, echo, window size, Ctrl-C, Ctrl-D, exit status', async () => {
    const terminal = onTerminal(`'${process.execPath}' '${launcher}' -q -m 256M /bin/busybox sh`);
    const type = (text: string) => terminal.child.stdin.write(text);
    // Busybox asks the terminal where the cursor is.
    await terminal.seen(/# (\x1b\[6n)?$/);
    type('test -t 0 -a -t 1 -a -t 2 && echo is a ter""minal\n');
    await terminal.seen(/is a terminal\r\n/);
    type('stty size\n');
    await terminal.seen(/\n33 99\r\n/);
    type('echo sleeping; sleep 1000; echo "status $?"\n');
    await terminal.seen(/\nsleeping\r\n/);
    type('\x03');
    await terminal.seen(/\^C/);
    type('echo cat starts; cat; echo cat ended\n');
    await terminal.seen(/\ncat starts\r\n/);
    type('a line\n');
    await terminal.seen(/a line\r\na line\r\n/);
    type('\x04');
    await terminal.seen(/\ncat ended\r\n/);
    type('exit 5\n');
    expect((await terminal.ended).status).toBe(5);
  });

  it('can be left with Ctrl-] three times, whatever the program does', async () => {
    const terminal = onTerminal(
      `'${process.execPath}' '${launcher}' -q -m 256M /bin/busybox sh -c 'trap "" INT TERM; echo up; sleep 1000'; echo "left with $?"`,
    );
    await terminal.seen(/up\r\n/);
    terminal.child.stdin.write('\x1d\x1d\x1d');
    await terminal.seen(/left with 137/);
    expect((await terminal.ended).status).toBe(0);
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// What a program gets from the launcher and gives back: arguments, environment, stdin, stdout, stderr, exit status,
// signals. Busybox is the program, as it needs nothing else.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { root, runVm, startVm } from './machine.js';

const sh = (script: string, ...args: string[]) => ['-q', '-m', '256M', '/bin/busybox', 'sh', '-c', script, ...args];

describe('a program in a machine', () => {
  it('gets its arguments as they are', async () => {
    const { stdout, status } = await runVm(
      sh('for i; do echo "[$i]"; done', 'sh', 'a b', '', '*', '-x', 'äöü', 'l1\nl2'),
    );
    expect({ stdout: Buffer.from(stdout, 'latin1').toString(), status }).toEqual({
      stdout: '[a b]\n[]\n[*]\n[-x]\n[äöü]\n[l1\nl2]\n',
      status: 0,
    });
  });

  it.each([0, 1, 42, 255])('ends with status %i', async (status) => {
    expect((await runVm(sh(`exit ${status}`))).status).toBe(status);
  });

  it.each([
    ['SEGV', 11],
    ['KILL', 9],
    ['ABRT', 6],
  ])('ends with 128+N when SIG%s ended it', async (name, number) => {
    expect((await runVm(sh(`kill -${name} $$`))).status).toBe(128 + number);
  });

  it('keeps stdout and stderr apart', async () => {
    const { stdout, stderr } = await runVm(sh('echo out; echo err >&2; echo out2; echo err2 >&2'));
    expect({ stdout, stderr }).toEqual({ stdout: 'out\nout2\n', stderr: 'err\nerr2\n' });
  });

  it('reads stdin to its end', async () => {
    const input = Array.from({ length: 20_000 }, (_, i) => `line ${i}\n`).join('');
    const { stdout } = await runVm(sh('cat'), input);
    expect(stdout.length).toBe(input.length);
    expect(stdout === input).toBe(true);
  });

  it('sees an empty stdin end at once', async () => {
    expect((await runVm(sh('cat; echo end'))).stdout).toBe('end\n');
  });

  it('loses no byte of a large output at exit', async () => {
    const { stdout, status } = await runVm(sh('yes 0123456789abcde | head -c 8000000; exit 3'));
    expect({ bytes: stdout.length, status }).toEqual({ bytes: 8_000_000, status: 3 });
  });

  it('ends as by SIGPIPE when the reader of its output does, however much it writes', async () => {
    const vm = startVm(['-q', '-m', '256M', '/bin/busybox', 'dd', 'if=/dev/zero', 'bs=256k']);
    await vm.seen(/\0/);
    vm.child.stdout.destroy();
    expect((await vm.ended).status).toBe(141);
  });

  it('ends so too when its output finds no room', () => {
    const words = `"${process.execPath}" dist/cli/gramine-vm.js -q -m 256M busybox dd if=/dev/zero bs=256k > /dev/full`;
    expect(spawnSync('sh', ['-c', words], { cwd: root, timeout: 50_000, killSignal: 'SIGKILL' }).status).toBe(141);
  });

  it('has the environment that -e gives it', async () => {
    const args = sh('echo "$FOO|$HOME|$PATH"');
    const { stdout } = await runVm(['-e', 'FOO=bar baz', ...args]);
    expect(stdout).toBe('bar baz|/|/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n');
  });

  it('gets SIGTERM from the launcher, and may end in its own way', async () => {
    const vm = startVm(sh('trap "echo bye; exit 9" TERM; echo ready; while :; do sleep 1 & wait $!; done'));
    await vm.seen(/ready\n/);
    vm.child.kill('SIGTERM');
    const { status, stdout } = await vm.ended;
    expect({ status, stdout }).toEqual({ status: 9, stdout: 'ready\nbye\n' });
  });

  it('ends with 130 when SIGINT ended it', async () => {
    const vm = startVm(sh('echo ready; exec sleep 1000'));
    await vm.seen(/ready\n/);
    vm.child.kill('SIGINT');
    expect((await vm.ended).status).toBe(130);
  });

  it('sees of the host only what it was given', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'gt-e2e-'));
    writeFileSync(join(directory, 'in'), 'from the host\n');
    writeFileSync(join(directory, 'secret'), 'x');
    const script = 'cat /v/in; echo changed > /v/in || echo refused; ls /v; ls /root /home 2>/dev/null; echo end';
    const { stdout } = await runVm(['-v', `${directory}:/v`, ...sh(script)]);
    expect(stdout).toBe('from the host\nrefused\nin\nsecret\nend\n');
    expect(readFileSync(join(directory, 'in'), 'utf8')).toBe('from the host\n');

    const second = await runVm(['-v', `${directory}:/v:rw`, ...sh('echo new > /v/out; mv /v/in /v/moved; mkdir /v/d')]);
    expect(second).toMatchObject({ status: 0, stderr: '' });
    expect(readFileSync(join(directory, 'out'), 'utf8')).toBe('new\n');
    expect(readFileSync(join(directory, 'moved'), 'utf8')).toBe('from the host\n');
    rmSync(directory, { recursive: true });
  });

  it.each(['1', '2', '4'])('runs on %s virtual CPUs', async (cpus) => {
    const { stdout } = await runVm(['-c', cpus, ...sh('grep -c ^processor /proc/cpuinfo')]);
    expect(stdout).toBe(`${cpus}\n`);
  });

  it.each(['64M', '4G'])('runs with %s of memory', async (memory) => {
    const { stdout } = await runVm(['-q', '-m', memory, '/bin/busybox', 'echo', 'fine']);
    expect(stdout).toBe('fine\n');
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// The launcher with real QEMU and virtiofsd, a stand-in for the bridge, and a kernel of a dozen instructions.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { fakeKernel } from './fake-kernel.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const command = join(root, 'dist/cli/gramine-vm.js');
let work = '';

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Setting {
  readonly kernel?: Buffer;
  readonly bridge?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** A command that runs the launcher: it is called with the launcher's words. */
  readonly wrapper?: readonly string[];
  /** Called with the launcher once it printed `text` on stderr. */
  readonly when?: { readonly text: string; readonly act: (launcher: ChildProcess) => void };
}

async function vm(args: readonly string[], setting: Setting = {}): Promise<Outcome> {
  const kernel = join(work, 'kernel.bfv');
  writeFileSync(kernel, setting.kernel ?? fakeKernel('hello from the fake kernel\n', 'reset'));
  const [program = '', ...words] = [...(setting.wrapper ?? []), process.execPath, command, ...args];
  const launcher = spawn(program, words, {
    cwd: work,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      ...process.env,
      XDG_RUNTIME_DIR: join(work, 'run'),
      XDG_CACHE_HOME: join(work, 'cache'),
      GRAMINE_TDX_KERNEL: kernel,
      GRAMINE_TDX_BRIDGE: join(root, 'test/fixtures/fake-bridge.js'),
      FAKE_BRIDGE: setting.bridge ?? 'ready|guest fake,exit 7',
      FAKE_BRIDGE_LOG: join(work, 'bridge.log'),
      ...setting.env,
    },
  });
  let stdout = '';
  let stderr = '';
  let acted = false;
  launcher.stdout.on('data', (data) => {
    stdout += data;
  });
  launcher.stderr.on('data', (data) => {
    stderr += data;
    if (!acted && setting.when !== undefined && stderr.includes(setting.when.text)) {
      acted = true;
      setting.when.act(launcher);
    }
  });
  const status = await new Promise<number | null>((resolve) => launcher.once('close', resolve));
  return { status, stdout, stderr };
}

/** Processes of this test's runs: what a launcher starts inherits its environment, which names the run's directory. */
function leftovers(): string[] {
  return readdirSync('/proc')
    .filter((pid) => /^[0-9]+$/.test(pid) && Number(pid) !== process.pid)
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'latin1');
      } catch {
        return '';
      }
    })
    .filter((line) => line.includes(join(work, 'run')));
}

async function eventually(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('it did not happen within 20 s');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

beforeAll(() => {
  if (!existsSync(command)) execFileSync(process.execPath, [join(root, 'scripts/build.js')]);
});
beforeEach(() => {
  work = mkdtempSync(join(tmpdir(), 'gt-'));
  execFileSync('mkdir', [join(work, 'run')]);
});
afterEach(async () => {
  await eventually(() => leftovers().length === 0);
  rmSync(work, { recursive: true, force: true });
});

describe('gramine-vm', () => {
  it("ends with the program's exit status and leaves nothing behind", async () => {
    const { status, stdout, stderr } = await vm(['/bin/true']);
    expect({ status, stdout }).toEqual({ status: 7, stdout: '' });
    expect(stderr).toMatch(/^gramine-vm: no manifest for \/bin\/true: it sees [0-9]+ files/);
    expect(readdirSync(join(work, 'run'))).toEqual([]);
    await eventually(() => leftovers().length === 0);
  });

  it('shows what the kernel said, and its last words, when the machine dies without an exit status', async () => {
    const { status, stderr } = await vm(['/bin/true'], { bridge: 'ready|last out of luck' });
    expect(status).toBe(70);
    expect(stderr).toContain('the virtual machine ended without having reached the launcher');
    expect(stderr).toContain('its last words: out of luck');
    expect(stderr).toContain('\ngramine-vm: hello from the fake kernel\n');
  });

  it('shows the QEMU command and the kernel log with --verbose', async () => {
    const { stderr } = await vm(['--verbose', '-m', '64M', '-c', '1', '/bin/true']);
    expect(stderr).toMatch(/qemu-system-x86_64 .*-m 64M -smp 1/);
    expect(stderr).toContain('\nhello from the fake kernel');
  });

  it('keeps control bytes of the guest off the terminal', async () => {
    const { stderr } = await vm(['/bin/true'], { bridge: 'ready|', kernel: fakeKernel('\x1b[2Jwiped\n', 'reset') });
    expect(stderr).toContain('[2Jwiped');
    expect(stderr).not.toContain('\x1b');
  });

  it('forwards SIGTERM to the guest, and ends the machine at the second one', async () => {
    let sent = 0;
    const { status } = await vm(['--verbose', '/bin/true'], {
      kernel: fakeKernel('up\n', 'halt'),
      bridge: 'ready|guest fake',
      when: {
        text: 'up\n',
        act: (launcher) => {
          launcher.kill('SIGTERM');
          sent += 1;
          void eventually(() => readFileSync(join(work, 'bridge.log'), 'utf8').includes('signal 15\n')).then(() =>
            launcher.kill('SIGTERM'),
          );
        },
      },
    });
    expect(sent).toBe(1);
    expect(status).toBe(128 + 15);
    expect(readdirSync(join(work, 'run'))).toEqual([]);
  });

  it('cleans up after a launcher that was killed', async () => {
    const { status } = await vm(['--verbose', '/bin/true'], {
      kernel: fakeKernel('up\n', 'halt'),
      bridge: 'ready|guest fake',
      when: { text: 'up\n', act: (launcher) => launcher.kill('SIGKILL') },
    });
    expect(status).toBeNull();
    await eventually(() => leftovers().length === 0 && readdirSync(join(work, 'run')).length === 0);
  });

  it('gives the bridge the ports and destinations', async () => {
    await vm(['-p', '127.0.0.1:7000:80', '-p', '53:53/udp', '-p', '[::1]:0:9', '--net', '10.0.0.1:443', '/bin/true']);
    expect(readFileSync(join(work, 'bridge.log'), 'utf8')).toContain(
      '--publish 127.0.0.1:7000:80/tcp --publish 127.0.0.1:53:53/udp --publish [::1]:0:9/tcp --outbound 10.0.0.1:443',
    );
  });
});

describe('the host view', () => {
  /** A PATH that has nothing but these tools. */
  function onlyTools(...tools: string[]): string {
    const bin = join(work, 'bin');
    execFileSync('mkdir', ['-p', bin]);
    for (const tool of tools) {
      const path = execFileSync('sh', ['-c', 'command -v "$1"', 'sh', tool], { encoding: 'utf8' }).trim();
      execFileSync('ln', ['-s', tool === 'node' ? process.execPath : path, join(bin, tool)]);
    }
    return bin;
  }

  it.runIf(process.getuid?.() === 0)(
    'is built by unshare and mount where bubblewrap is missing, with a warning',
    async () => {
      const PATH = onlyTools('node', 'sh', 'unshare', 'mount', 'mkdir', 'rm', 'qemu-system-x86_64');
      const { status, stderr } = await vm(['/bin/true'], { env: { PATH } });
      expect(status).toBe(7);
      expect(stderr).toContain('warning: bubblewrap is not installed');
    },
  );

  it('that namespaces are not permitted for is refused with advice', async () => {
    const PATH = onlyTools('node', 'sh', 'rm', 'qemu-system-x86_64');
    writeFileSync(
      join(PATH, 'bwrap'),
      '#!/bin/sh\necho "bwrap: No permissions to create new namespace" >&2\nexit 1\n',
      { mode: 0o755 },
    );
    const { status, stderr } = await vm(['/bin/true'], { env: { PATH } });
    expect(status).toBe(72);
    expect(stderr).toContain('No permissions to create new namespace. This system lets you make no namespaces.');
    expect(readdirSync(join(work, 'run'))).toEqual([]);
  });
});

describe('gramine-vm refuses', () => {
  const refusal = async (args: readonly string[], setting?: Setting) => {
    const { status, stdout, stderr } = await vm(args, setting);
    expect(stdout).toBe('');
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(readdirSync(join(work, 'run'))).toEqual([]);
    return { status, stderr };
  };

  it('a program that is not there', async () => {
    expect(await refusal(['no-such-program'])).toEqual({
      status: 67,
      stderr: 'gramine-vm: no-such-program: no such program on PATH. Check the name, or give a path.\n',
    });
  });

  it('a program for another architecture', async () => {
    const elf = Buffer.alloc(64);
    elf.write('\x7fELF\x02\x01\x01', 'latin1');
    elf.writeUInt16LE(183, 18);
    writeFileSync(join(work, 'arm'), elf, { mode: 0o755 });
    const { status, stderr } = await refusal(['./arm']);
    expect(status).toBe(68);
    expect(stderr).toContain('is built for AArch64 (Arm)');
  });

  it('a file that is no program', async () => {
    writeFileSync(join(work, 'text'), 'just text\n', { mode: 0o755 });
    expect((await refusal(['./text'])).status).toBe(68);
  });

  it('a malformed manifest, with line and column', async () => {
    writeFileSync(join(work, 'app.manifest'), 'a = 1\nb = = 2\n');
    const { status, stderr } = await refusal(['app']);
    expect(status).toBe(65);
    expect(stderr).toMatch(/app\.manifest:2:[0-9]+: /);
  });

  it('an invalid manifest, listing every offence', async () => {
    writeFileSync(join(work, 'app.manifest'), 'loader.uid = -1\n');
    const { status, stderr } = await refusal(['app']);
    expect(status).toBe(65);
    expect(stderr).toMatch(/\n {2}\S* ?libos\.entrypoint: required/);
    expect(stderr).toMatch(/\n {2}\S* ?loader\.uid: expected an integer/);
  });

  it('a corrupted kernel image', async () => {
    const { status, stderr } = await refusal(['/bin/true'], { kernel: Buffer.alloc(1000) });
    expect(status).toBe(76);
    expect(stderr).toContain('not a kernel image: 1000 bytes, expected a multiple of 65536');
  });

  it('to run without QEMU', async () => {
    const { status, stderr } = await refusal(['/bin/true'], { env: { PATH: work } });
    expect(status).toBe(69);
    expect(stderr).toContain('apt-get install qemu-system-x86');
  });

  it('a QEMU that is too old', async () => {
    const path = join(work, 'qemu-system-x86_64');
    writeFileSync(path, '#!/bin/sh\necho QEMU emulator version 6.2.0\n', { mode: 0o755 });
    const { status, stderr } = await refusal(['/bin/true'], { env: { PATH: `${work}:${process.env.PATH}` } });
    expect(status).toBe(71);
    expect(stderr).toContain('is version 6.2.0; 7.2 or newer is needed');
  });

  it.runIf(process.getuid?.() === 0)('to go on without space for the image', async () => {
    const script = 'mount -t tmpfs -o size=16k tmpfs "$1"; shift; exec "$@"';
    const wrapper = ['unshare', '-m', 'sh', '-ec', script, 'sh', join(work, 'run')];
    const { status, stderr } = await refusal(['/bin/true'], { wrapper });
    expect(status).toBe(73);
    expect(stderr).toMatch(/cannot write .*image: no space left on the device/);
  });

  it('a port that the bridge finds in use', async () => {
    const { status, stderr } = await refusal(['-p', '6379', '/bin/true'], {
      bridge: 'error port-in-use 127.0.0.1:6379',
    });
    expect({ status, stderr: stderr.split('\n').at(-2) }).toEqual({
      status: 75,
      stderr: 'gramine-vm: 127.0.0.1:6379: the port is in use. Publish on another one: -p HOST:GUEST',
    });
  });

  it('arguments that the manifest does not let through', async () => {
    writeFileSync(join(work, 'app.manifest'), 'libos.entrypoint = "/bin/true"\nloader.argv = ["true"]\n');
    const { status, stderr } = await refusal(['app', 'x']);
    expect(status).toBe(64);
    expect(stderr).toContain("fixes the program's arguments");
  });

  it.each([
    [['--bogus', 'x'], 'unknown option'],
    [['-p', '70000:1', 'x'], 'ports go from 1 to 65535'],
    [['-m', '63M', 'x'], '64M at least'],
    [['-c', '0', 'x'], 'expected a number from 1 to 64'],
    [['-v', '/nonexistent:/x', 'x'], 'does not exist'],
    [['-v', '/tmp:relative', 'x'], 'expected HOST:GUEST'],
    [[], 'missing required argument'],
  ])('%j', async (args, message) => {
    const { status, stderr } = await refusal(args);
    expect(status).toBe(64);
    expect(stderr).toContain(message);
  });
});

describe('gramine-vm --dry-run', () => {
  it('prints the three commands and starts nothing', async () => {
    const { status, stdout } = await vm(['--dry-run', '--accel', 'tcg', '/bin/true']);
    expect(status).toBe(0);
    const lines = stdout.trimEnd().split('\n');
    expect(lines).toHaveLength(3);
    expect(lines[2]).toContain('-accel tcg,thread=multi');
    expect(existsSync(join(work, 'bridge.log'))).toBe(false);
  });
});

it('several machines run side by side', async () => {
  const outcomes = await Promise.all([vm(['/bin/true']), vm(['/bin/true'])]);
  expect(outcomes.map(({ status }) => status)).toEqual([7, 7]);
});

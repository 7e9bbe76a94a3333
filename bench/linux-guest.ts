// SPDX-License-Identifier: Apache-2.0
//
// The rival: Debian's cloud kernel in the same QEMU, with an initramfs of our making that holds busybox, the virtio
// modules and the programs of the benchmarks. Settings follow the traps that are known: tsc=reliable no5lvl (Linux would
// take HPET as its clock), virtio_ring loaded before virtio, a larger backlog for QEMU's user network.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const repository = fileURLToPath(new URL('..', import.meta.url));
export const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'gramine-tdx/bench');
export const benchProgram = join(cache, 'bench');
const backlogShim = join(cache, 'backlog.so');
/** The same CPU as our launcher gives: without the promise of fast string instructions, which TCG does not keep. */
const CPU = 'max,-erms,-fsrm';
const MODULES = [
  'failover',
  'net_failover',
  'virtio_ring',
  'virtio',
  'virtio_pci_modern_dev',
  'virtio_pci_legacy_dev',
  'virtio_pci',
  'virtio_net',
  'fuse',
  'virtiofs',
];

const INIT = `#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t tmpfs tmp /tmp
for module in ${MODULES.join(' ')}; do /bin/busybox insmod /modules/$module.ko; done
/bin/busybox ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
  /bin/busybox ip addr add 10.0.2.15/24 dev eth0
  /bin/busybox ip link set eth0 up
  /bin/busybox ip route add default via 10.0.2.2
fi
[ -z "$BENCH_FS" ] || /bin/busybox mount -t virtiofs gramine /data
case $BENCH in
  redis) cd /tmp; redis-server --save '' --protected-mode no $(echo $BENCH_ARGS | /bin/busybox tr , ' ') ;;
  *) bench $(echo $BENCH | /bin/busybox tr , ' ') ;;
esac
/bin/busybox poweroff -f
`;

interface Prepared {
  readonly kernel: string;
  readonly helloInitramfs: string;
  readonly fullInitramfs: string;
}

/** Downloads the kernel once, and builds programs and initramfs images. */
export function prepareLinux(): Prepared {
  mkdirSync(cache, { recursive: true });
  const guest = join(repository, 'bench/guest');
  execFileSync('gcc', ['-O2', '-o', benchProgram, join(guest, 'bench.c')]);
  execFileSync('gcc', ['-O2', '-shared', '-fPIC', '-o', backlogShim, join(guest, 'backlog.c')]);
  const unpacked = join(cache, 'linux');
  if (!existsSync(join(unpacked, 'boot'))) downloadKernel(unpacked);
  const vmlinuz = readdirSync(join(unpacked, 'boot')).find((name) => name.startsWith('vmlinuz'));
  if (vmlinuz === undefined) throw new Error(`no kernel in ${unpacked}/boot`);

  const hello = new Cpio();
  hello.program(benchProgram, '/init');
  hello.device('/dev/console', 5, 1);
  const helloInitramfs = join(cache, 'hello.cpio');
  writeFileSync(helloInitramfs, hello.finish());

  const full = new Cpio();
  full.file('/init', Buffer.from(INIT), 0o755);
  full.device('/dev/console', 5, 1);
  for (const directory of ['/proc', '/sys', '/tmp', '/data']) full.directory(directory);
  full.program('/bin/busybox', '/bin/busybox');
  full.program(benchProgram, '/bin/bench');
  if (existsSync('/usr/bin/redis-server')) full.program(realpathSync('/usr/bin/redis-server'), '/bin/redis-server');
  for (const name of MODULES) full.file(`/modules/${name}.ko`, readFileSync(findModule(unpacked, name)), 0o644);
  const fullInitramfs = join(cache, 'full.cpio');
  writeFileSync(fullInitramfs, full.finish());
  return { kernel: join(unpacked, 'boot', vmlinuz), helloInitramfs, fullInitramfs };
}

export interface LinuxOptions {
  readonly memory: string;
  readonly cpus: number;
  /** `hello` runs the program as init itself; anything else through the init script. */
  readonly run: 'hello' | string;
  /** More arguments for redis-server; none has a space or a comma. */
  readonly arguments?: readonly string[];
  readonly hostPort?: number;
  readonly fsSocket?: string;
}

/** Starts the guest; its console is the child's stdout. */
export function startLinux(linux: Prepared, options: LinuxOptions): ChildProcess {
  const hello = options.run === 'hello';
  const quiet = 'console=ttyS0 quiet loglevel=0 tsc=reliable no5lvl panic=-1';
  const environment = `BENCH=${options.run.replaceAll(' ', ',')}${options.fsSocket ? ' BENCH_FS=1' : ''}${
    options.arguments ? ` BENCH_ARGS=${options.arguments.join(',')}` : ''
  }`;
  const args = [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-accel', 'tcg,thread=multi', '-cpu', CPU],
    ...['-object', `memory-backend-memfd,id=mem,size=${options.memory},share=on`],
    ...['-machine', 'q35,memory-backend=mem', '-m', options.memory, '-smp', String(options.cpus)],
    ...['-kernel', linux.kernel, '-initrd', hello ? linux.helloInitramfs : linux.fullInitramfs],
    ...['-append', hello ? `${quiet} rdinit=/init -- hello` : `${quiet} rdinit=/init ${environment}`],
    ...['-serial', 'stdio'],
  ];
  if (options.hostPort !== undefined) {
    args.push(
      ...['-netdev', `user,id=net,hostfwd=tcp:127.0.0.1:${options.hostPort}-10.0.2.15:6379`],
      ...['-device', 'virtio-net-pci,netdev=net,disable-legacy=on'],
    );
  }
  if (options.fsSocket !== undefined) {
    args.push(
      ...['-chardev', `socket,id=fs,path=${options.fsSocket}`],
      ...['-device', 'vhost-user-fs-pci,chardev=fs,tag=gramine,queue-size=1024'],
    );
  }
  return spawn('qemu-system-x86_64', args, {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, LD_PRELOAD: backlogShim },
  });
}

/** virtiofsd as the rival likes it best: everything cached. Resolves when the socket is there. */
export async function startVirtiofsd(directory: string, socket: string): Promise<ChildProcess> {
  const c = '/usr/lib/qemu/virtiofsd';
  const rust = '/usr/libexec/virtiofsd';
  rmSync(socket, { force: true });
  const child = existsSync(c)
    ? spawn(
        c,
        [`--socket-path=${socket}`, '-f', '-o', `source=${directory}`, '-o', 'cache=always', '-o', 'writeback'],
        {
          stdio: ['ignore', 'ignore', 'pipe'],
        },
      )
    : spawn(rust, ['--socket-path', socket, '--shared-dir', directory, '--cache', 'always', '--writeback'], {
        stdio: ['ignore', 'ignore', 'pipe'],
      });
  // Both say that they wait, on stderr, once the socket is bound.
  await new Promise<void>((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`virtiofsd ended with ${code}`)));
    child.stderr?.on('data', (data: Buffer) => {
      if (/waiting for vhost-user/i.test(data.toString())) resolve();
    });
  });
  return child;
}

function downloadKernel(unpacked: string): void {
  process.stderr.write('bench: downloading the Linux cloud kernel (once)\n');
  const depends = execFileSync('apt-cache', ['depends', 'linux-image-cloud-amd64'], { encoding: 'utf8' });
  const name = /Depends: (linux-image-\S+-cloud-amd64)/.exec(depends)?.[1];
  if (name === undefined)
    throw new Error('apt knows no linux-image-cloud-amd64: run apt-get update on a Debian system');
  const downloads = join(cache, 'download');
  mkdirSync(downloads, { recursive: true });
  execFileSync('apt-get', ['download', '-q', name], { cwd: downloads, stdio: ['ignore', 'ignore', 'ignore'] });
  const file = readdirSync(downloads).find((entry) => entry.startsWith(`${name}_`));
  if (file === undefined) throw new Error(`apt-get download ${name} left no file`);
  execFileSync('dpkg-deb', ['-x', join(downloads, file), unpacked]);
}

function findModule(unpacked: string, name: string): string {
  const found = execFileSync('find', [unpacked, '-name', `${name}.ko`], { encoding: 'utf8' }).trim();
  if (found === '') throw new Error(`the kernel has no module ${name}`);
  return found;
}

/** Writes an initramfs: cpio's "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). */
class Cpio {
  private readonly parts: Buffer[] = [];
  private readonly directories = new Set(['/']);
  private inode = 1;

  file(path: string, content: Buffer, mode: number): void {
    this.directory(dirname(path));
    this.entry(path, 0o100000 | mode, content);
  }

  directory(path: string): void {
    if (this.directories.has(path)) return;
    this.directory(dirname(path));
    this.directories.add(path);
    this.entry(path, 0o040755, Buffer.alloc(0));
  }

  device(path: string, major: number, minor: number): void {
    this.directory(dirname(path));
    this.entry(path, 0o020600, Buffer.alloc(0), major, minor);
  }

  /** A program with the libraries that ldd names. */
  program(source: string, path: string): void {
    this.file(path, readFileSync(source), 0o755);
    let libraries = '';
    try {
      libraries = execFileSync('ldd', [source], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    } catch {
      return; // static
    }
    for (const match of libraries.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)) {
      const library = match[1] ?? '';
      if (this.added.has(library)) continue;
      this.added.add(library);
      this.file(library, readFileSync(realpathSync(library)), statSync(library).mode & 0o777);
    }
  }
  private readonly added = new Set<string>();

  finish(): Buffer {
    this.entry('/TRAILER!!!', 0, Buffer.alloc(0));
    return Buffer.concat(this.parts);
  }

  private entry(path: string, mode: number, content: Buffer, major = 0, minor = 0): void {
    const name = path.slice(1);
    const fields = [this.inode++, mode, 0, 0, 1, 0, content.length, 0, 0, major, minor, name.length + 1, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
    this.parts.push(pad(Buffer.from(header, 'latin1')), pad(content));
  }
}

function pad(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}

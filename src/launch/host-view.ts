// SPDX-License-Identifier: Apache-2.0
//
// The part of the host's file system that the guest can reach: a directory with one entry m0, m1, ... per mount of the
// policy (docs/launch-record.md), served by virtiofsd. The directory exists only in a mount namespace that bubblewrap (or,
// for root without it, unshare and mount) builds, so that even a guest that took virtiofsd over sees no more.

import { existsSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { Policy } from '../manifest/index.js';
import { LaunchError } from './errors.js';
import { findTool } from './paths.js';

export interface ExportedMount {
  /** Index in the policy's `mounts`. */
  readonly index: number;
  readonly host: string;
  readonly writable: boolean;
}

export interface HostViewCommand {
  readonly program: string;
  readonly args: readonly string[];
  /** What this way of building the view gives up; for the user. */
  readonly lost?: string;
}

interface Virtiofsd {
  readonly path: string;
  /** QEMU's own C program (up to 7.2), or the Rust one that replaced it. */
  readonly kind: 'c' | 'rust';
}

/**
 * Where the listening vhost-user socket is in the child: as its stdin, because libuv makes only descriptors 0 to 2 of a
 * child blocking again, and virtiofsd's accept does not wait on a non-blocking one.
 */
export const VIRTIOFSD_FD = 0;
const EXPORT_ROOT = '/mnt';
const C_VIRTIOFSD = '/usr/lib/qemu/virtiofsd';

/** The mounts of `policy` that need something of the host; relative ones start at `directory`. */
export function exportedMounts(policy: Policy, directory: string): ExportedMount[] {
  return policy.mounts.flatMap((mount, index) => {
    if (mount.uri === undefined) return [];
    const host = resolve(directory, mount.uri);
    if (!existsSync(host)) {
      throw new LaunchError('manifest-invalid', `the mount at ${mount.path} needs ${host}, which does not exist`);
    }
    return [{ index, host, writable: mount.rw }];
  });
}

/** The command that builds the view and serves it on the socket that it inherits as descriptor VIRTIOFSD_FD. */
export function hostViewCommand(mounts: readonly ExportedMount[]): HostViewCommand {
  const virtiofsd = findVirtiofsd();
  const bubblewrap = findTool(['bwrap']);
  if (bubblewrap !== undefined) return { program: bubblewrap, args: bubblewrapArguments(virtiofsd, mounts) };
  const unshare = findTool(['unshare']);
  if (!isRoot() || unshare === undefined) {
    throw new LaunchError('virtiofsd-unusable', 'bubblewrap is not installed. Install it: apt-get install bubblewrap');
  }
  return {
    program: unshare,
    args: unshareArguments(virtiofsd, mounts),
    lost: 'bubblewrap is not installed: virtiofsd starts with the whole host in view and shuts itself in afterwards',
  };
}

/** Turns what bubblewrap or virtiofsd printed before they failed into advice. */
export function explainHostViewFailure(output: string): LaunchError {
  const last = output.trim().split('\n').slice(-3).join(' / ') || 'no message';
  const namespaces = /namespace|uid map|Operation not permitted|Permission denied/i.test(output);
  const advice = namespaces
    ? ' This system lets you make no namespaces. In a container: --privileged (or CAP_SYS_ADMIN); on Ubuntu: ' +
      'sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run with sudo.'
    : '';
  return new LaunchError('virtiofsd-unusable', `virtiofsd did not start: ${last}.${advice}`);
}

function findVirtiofsd(): Virtiofsd {
  const rust = findTool(['/usr/libexec/virtiofsd', '/usr/lib/virtiofsd', 'virtiofsd']);
  if (rust !== undefined) return { path: rust, kind: 'rust' };
  const c = findTool([C_VIRTIOFSD]);
  if (c === undefined) {
    throw new LaunchError(
      'virtiofsd-unusable',
      'virtiofsd is not installed. Install it: apt-get install virtiofsd (Debian 12: qemu-system-common has it)',
    );
  }
  return { path: c, kind: 'c' };
}

function virtiofsdArguments(virtiofsd: Virtiofsd, sandbox: 'chroot' | 'none'): string[] {
  if (virtiofsd.kind === 'c') {
    const options = [
      '-o',
      `source=${EXPORT_ROOT}`,
      '-o',
      `sandbox=${sandbox}`,
      '-o',
      'cache=auto',
      '-o',
      'log_level=err',
    ];
    return [virtiofsd.path, `--fd=${VIRTIOFSD_FD}`, '-f', ...options];
  }
  const options = ['--shared-dir', EXPORT_ROOT, '--sandbox', sandbox, '--cache', 'auto', '--log-level', 'error'];
  return [virtiofsd.path, '--fd', String(VIRTIOFSD_FD), ...options];
}

function bubblewrapArguments(virtiofsd: Virtiofsd, mounts: readonly ExportedMount[]): string[] {
  const binds = mounts.flatMap(({ index, host, writable }) => [
    writable ? '--bind' : '--ro-bind',
    host,
    `${EXPORT_ROOT}/m${index}`,
  ]);
  const ownDirectory = dirname(virtiofsd.path);
  return [
    // No --new-session: the launcher detached it from the terminal already, and ends it by its process group.
    ...['--unshare-ipc', '--unshare-pid', '--unshare-net', '--unshare-uts', '--die-with-parent'],
    // In a user namespace of its own an ordinary user's virtiofsd is root, which QEMU's C program wants to be; and the
    // user's files are root's, as the program in the guest is.
    ...(isRoot() ? [] : ['--unshare-user', '--uid', '0', '--gid', '0']),
    ...['--cap-add', 'ALL', '--ro-bind', '/usr', '/usr'],
    ...['/bin', '/lib', '/lib64'].flatMap((path) => ['--ro-bind-try', path, path]),
    ...['--ro-bind-try', '/etc/ld.so.cache', '/etc/ld.so.cache'],
    ...(ownDirectory.startsWith('/usr/') ? [] : ['--ro-bind', virtiofsd.path, virtiofsd.path]),
    ...['--proc', '/proc', '--dev', '/dev', '--tmpfs', '/run', '--tmpfs', EXPORT_ROOT],
    ...binds,
    // Nothing may be created beside m0, m1, ...
    ...['--remount-ro', EXPORT_ROOT, '--chdir', '/', '--'],
    // An ordinary user's Rust virtiofsd cannot chroot after dropping groups; the namespace around it is its sandbox.
    ...virtiofsdArguments(virtiofsd, isRoot() || virtiofsd.kind === 'c' ? 'chroot' : 'none'),
  ];
}

/** For root without bubblewrap. Paths are the script's arguments, never its text. */
function unshareArguments(virtiofsd: Virtiofsd, mounts: readonly ExportedMount[]): string[] {
  const script = `
    root=$1; shift
    mount -t tmpfs -o mode=0755 tmpfs "$root"
    while [ "$1" != -- ]; do
      if [ -d "$2" ]; then mkdir "$root/$3"; else : > "$root/$3"; fi
      mount --bind "$2" "$root/$3"
      if [ "$1" = ro ]; then mount -o remount,bind,ro "$root/$3"; fi
      shift 3
    done
    shift
    exec "$@"`;
  const binds = mounts.flatMap(({ index, host, writable }) => [writable ? 'rw' : 'ro', host, `m${index}`]);
  const command = virtiofsdArguments(virtiofsd, 'chroot');
  return [
    '--mount',
    '--propagation',
    'private',
    '--',
    'sh',
    '-ec',
    script,
    'sh',
    EXPORT_ROOT,
    ...binds,
    '--',
    ...command,
  ];
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

// SPDX-License-Identifier: Apache-2.0
//
// Trusted files seen through the mounts: which of them a tmpfs hides, and which are symbolic links in a mounted folder,
// where the guest must find a link and not its target's content. Paths are compared as text, as the kernel does.

import { lstatSync, readlinkSync, statSync } from 'node:fs';
import { ManifestError } from './errors.js';
import { type ExpandedFile, FileList } from './expand.js';
import { type HostPath, normalizeHostPath, parseUri } from './host-path.js';
import { type Position, type TomlTable, type TomlValue, toml } from './toml.js';

interface MountPoint {
  readonly path: string;
  /** Undefined for a tmpfs. */
  readonly uri?: HostPath;
}

/** The mounts in order, the root first; what is malformed is left out, the check speaks of it. */
function mountsOf(manifest: TomlTable): MountPoint[] {
  const fs = manifest.entries.get('fs');
  if (fs?.kind !== 'table') return [];
  const read = (value: TomlValue | undefined, fixed?: string): MountPoint[] => {
    if (value?.kind !== 'table') return [];
    const text = (key: string): string | undefined => {
      const v = value.entries.get(key);
      return v?.kind === 'string' ? v.value : undefined;
    };
    const path = fixed ?? normalizeHostPath(text('path') ?? '');
    const uri = parseUri(text('uri') ?? '', ['file', 'dev']);
    if (path === undefined) return [];
    if (text('type') === 'tmpfs') return [{ path }];
    return uri === undefined ? [] : [{ path, uri }];
  };
  const root = fs.entries.get('root');
  const list = fs.entries.get('mounts');
  return [
    ...(root === undefined ? [{ path: '/', uri: '.' as HostPath }] : read(root, '/')),
    ...(list?.kind === 'array' ? list.items.flatMap((item) => read(item)) : []),
  ];
}

/** What follows `prefix` in `path`: '' for itself, '/…' below it; undefined elsewhere. */
function below(path: string, prefix: string): string | undefined {
  if (path === prefix) return '';
  if (prefix === '/') return path.startsWith('/') ? path : undefined;
  if (prefix === '.') return path.startsWith('/') || path === '..' || path.startsWith('../') ? undefined : `/${path}`;
  return path.startsWith(`${prefix}/`) ? path.slice(prefix.length) : undefined;
}

/** The mount that a guest path belongs to: of those above it the deepest, and of equals the last. */
function mountAt(mounts: readonly MountPoint[], guest: string): MountPoint | undefined {
  let best: MountPoint | undefined;
  for (const mount of mounts)
    if (below(guest, mount.path) !== undefined && (best === undefined || mount.path.length >= best.path.length))
      best = mount;
  return best;
}

const joinPath = (base: string, rest: string): string => (base === '/' ? rest || '/' : base + rest);

/** The guest paths under which a host path would appear, with the mount that would show it. */
function guestPaths(mounts: readonly MountPoint[], host: string): { guest: string; mount: MountPoint }[] {
  return mounts.flatMap((mount) => {
    const rest = mount.uri === undefined ? undefined : below(host, mount.uri);
    return rest === undefined ? [] : [{ guest: joinPath(mount.path, rest), mount }];
  });
}

/** Refuses an entry of the list whose every place in the guest lies below a tmpfs: the program would never see it. */
export function refuseShadowed(
  manifest: TomlTable,
  trusted: TomlValue,
  say: (at: Position | undefined, message: string) => string,
): void {
  const mounts = mountsOf(manifest);
  if (trusted.kind !== 'array' || mounts.every((m) => m.uri !== undefined)) return;
  const problems: string[] = [];
  for (const entry of trusted.items) {
    const uri = entry.kind === 'table' ? entry.entries.get('uri') : entry;
    const path = uri?.kind === 'string' ? parseUri(uri.value) : undefined;
    if (uri?.kind !== 'string' || path === undefined) continue;
    const places = guestPaths(mounts, path);
    const hiding = places.map(({ guest }) => mountAt(mounts, guest)).filter((m) => m !== undefined && !m.uri);
    if (places.length === 0 || hiding.length < places.length) continue;
    const where = hiding[0]?.path ?? '';
    problems.push(
      say(entry.at, `"${uri.value}" would be at ${places[0]?.guest}, which the tmpfs mounted at ${where} hides`),
    );
  }
  if (problems.length > 0) throw new ManifestError('invalid', problems);
}

const MAX_LINKS = 40;

/**
 * Replaces the files that are symbolic links, and that the guest will meet as such, by entries with the link's target, and
 * adds what the links lead to. A file that is itself mounted is no link in the guest: the host resolves it.
 */
export function addLinks(
  manifest: TomlTable,
  files: FileList,
  folderLinks: readonly { readonly uri: string; readonly path: string }[],
  chroot: string | undefined,
): FileList {
  const mounts = mountsOf(manifest);
  const mounted = new Set(mounts.map((m) => m.uri));
  const known = new Known(files);
  const result = new FileList();
  const onHost = (path: string): string => (chroot === undefined ? path : `${chroot.replace(/\/+$/, '')}${path}`);
  const link = (uri: string, target: string): ExpandedFile => ({
    uri,
    as: toml.table([
      ['uri', toml.string(uri)],
      ['link', toml.string(target)],
    ]),
  });
  const follow = (start: HostPath): void => {
    let host: HostPath | undefined = start;
    for (let i = 0; i < MAX_LINKS && host !== undefined; i += 1) {
      const target = readLink(onHost(host));
      host = target === undefined ? undefined : linkTarget(mounts, host, target);
      if (host === undefined || known.has(host)) return;
      const next = readLink(onHost(host));
      if (next === undefined || mounted.has(host)) {
        if (!isFile(onHost(host))) return;
        known.add(host);
        result.push({ uri: `file:${host}`, ...(chroot === undefined ? {} : { path: onHost(host) }) });
        return;
      }
      known.add(host);
      result.push(link(`file:${host}`, next));
    }
  };
  for (const file of files.pieces()) {
    if ('names' in file) {
      result.pushIn(file.prefix, file.names);
      continue;
    }
    const given = file.sha256 !== undefined || file.as !== undefined;
    const host = given || file.isLink === false ? undefined : parseUri(file.uri);
    const target = host === undefined || mounted.has(host) ? undefined : readLink(onHost(host));
    if (host === undefined || target === undefined) {
      result.push(file);
      continue;
    }
    result.push(link(file.uri, target));
    follow(host);
  }
  for (const { uri, path } of folderLinks) {
    const target = readLink(path);
    const host = parseUri(uri);
    if (target === undefined || host === undefined || known.has(host) || mounted.has(host)) continue;
    known.add(host);
    result.push(link(uri, target));
  }
  return result;
}

/** The host paths of a list's files, gathered when one is asked for, and those that are added. */
class Known {
  readonly #added = new Set<HostPath>();
  /** Names by folder; as a set once the folder was asked about. */
  #folders: Map<string, string[] | Set<string>> | undefined;

  constructor(readonly files: FileList) {}

  add(path: HostPath): void {
    this.#added.add(path);
  }

  has(path: HostPath): boolean {
    this.#folders ??= this.#gather();
    const slash = path.lastIndexOf('/');
    const folder = slash < 0 ? '.' : slash === 0 ? '/' : path.slice(0, slash);
    let names = this.#folders.get(folder);
    if (names === undefined) return this.#added.has(path);
    if (Array.isArray(names)) {
      names = new Set(names);
      this.#folders.set(folder, names);
    }
    return names.has(path.slice(slash + 1)) || this.#added.has(path);
  }

  #gather(): Map<string, string[] | Set<string>> {
    const folders = new Map<string, string[]>();
    for (const piece of this.files.pieces()) {
      const path = 'names' in piece ? parseUri(piece.prefix) : parseUri(piece.uri);
      if (!('names' in piece)) {
        if (path !== undefined) this.#added.add(path);
        continue;
      }
      const folder = path ?? '.';
      const before = folders.get(folder);
      folders.set(folder, before === undefined ? piece.names : [...before, ...piece.names]);
    }
    return folders;
  }
}

/** The host path that a link leads to inside the guest. */
function linkTarget(mounts: readonly MountPoint[], host: HostPath, target: string): HostPath | undefined {
  for (const { guest } of guestPaths(mounts, host)) {
    const aim = normalizeHostPath(target.startsWith('/') ? target : `${guest.replace(/\/[^/]*$/, '')}/${target}`);
    const mount = aim === undefined ? undefined : mountAt(mounts, aim);
    const rest = aim === undefined || mount?.uri === undefined ? undefined : below(aim, mount.path);
    if (mount?.uri !== undefined && rest !== undefined) {
      const slash = rest === '' || rest.startsWith('/') ? rest : `/${rest}`;
      return normalizeHostPath(mount.uri === '.' ? `.${slash}` : joinPath(mount.uri, slash));
    }
  }
  return undefined;
}

function readLink(path: string): string | undefined {
  try {
    return lstatSync(path).isSymbolicLink() ? readlinkSync(path) : undefined;
  } catch {
    return undefined;
  }
}

function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

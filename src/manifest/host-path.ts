// SPDX-License-Identifier: Apache-2.0
//
// Host paths as the policy names them: lexically normalised, never resolved, because the kernel has only the text and
// the measurement must not depend on what links a host has.

declare const hostPath: unique symbol;
/** A normalised host path: no empty, `.` or needless `..` component, no trailing slash; absolute, or relative and then
 * `.` for the directory that the launcher was started for. */
export type HostPath = string & { readonly [hostPath]: true };

/** Normalises `path`; returns undefined for the empty path and for one with a NUL, which no file can have. */
export function normalizeHostPath(path: string): HostPath | undefined {
  if (path === '' || path.includes('\0')) return undefined;
  const absolute = path.startsWith('/');
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue;
    if (part !== '..') parts.push(part);
    else if (parts.length > 0 && parts.at(-1) !== '..') parts.pop();
    else if (!absolute) parts.push(part);
  }
  const joined = parts.join('/');
  return (absolute ? `/${joined}` : joined === '' ? '.' : joined) as HostPath;
}

/** The path of `file:PATH` or `dev:PATH`, normalised; undefined for any other text. */
export function parseUri(uri: string, schemes: readonly ('file' | 'dev')[] = ['file']): HostPath | undefined {
  for (const scheme of schemes) {
    if (uri.startsWith(`${scheme}:`)) return normalizeHostPath(uri.slice(scheme.length + 1));
  }
  return undefined;
}

/** Components from the root of the trusted tree: a relative path starts at the node named `.`. */
export function treeComponents(path: HostPath): string[] {
  if (path === '/') return [];
  if (path === '.') return ['.'];
  return path.startsWith('/') ? path.slice(1).split('/') : ['.', ...path.split('/')];
}

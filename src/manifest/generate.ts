// SPDX-License-Identifier: Apache-2.0
//
// What gramine-manifest does: render the template, add the defaults, check, expand and hash the trusted files. The result
// is byte for byte what Gramine's tool writes (less `loader.entrypoint`), or, for this project's own launcher, the same
// with table `tdx`, whose trusted files carry size, mode, link target and the root of their hash tree.

import { checkManifest } from './check.js';
import { formatProblem } from './compile.js';
import { addDefaults, type GramineFlavour } from './defaults.js';
import { ManifestError } from './errors.js';
import { expandTrustedFiles, type FileList } from './expand.js';
import type { FileCache } from './file-cache.js';
import { type GlobalsOptions, templateGlobals } from './globals.js';
import { type Digests, type HashProgress, hashFiles } from './hasher.js';
import { parseUri } from './host-path.js';
import { addLinks, refuseShadowed } from './mounted.js';
import { type Rendered, renderTemplate } from './template.js';
import {
  isPlain,
  type Position,
  parseToml,
  type TomlTable,
  type TomlValue,
  toml,
  writeListItem,
  writeString,
  writeTomlPieces,
} from './toml.js';

export interface RenderRequest extends GlobalsOptions {
  readonly template: string;
  /** The template's name, for messages. */
  readonly file?: string;
}

/** A template's text, rendered as Jinja2 would. Error: ManifestError `template`, with file, line and column. */
export function renderManifest(request: RenderRequest): string {
  return render(request).text;
}

function render(request: RenderRequest): Rendered {
  return renderTemplate(request.template, { file: nameOf(request), globals: templateGlobals(request) });
}

const nameOf = (request: RenderRequest): string => request.file ?? '<string>';

export interface ManifestRequest extends RenderRequest {
  /** A folder that stands for "/" where trusted files are looked for. */
  readonly chroot?: string;
  /** Check the manifest's shape. Default: true. */
  readonly check?: boolean;
  /** Write table `tdx` for this project's launcher. Default: false, Gramine's output. */
  readonly tdx?: boolean;
  readonly flavour?: GramineFlavour;
  /** What is known of files from earlier runs; the caller saves it. */
  readonly cache?: FileCache;
  readonly threads?: number;
  readonly onProgress?: (progress: HashProgress) => void;
}

export interface GeneratedManifest {
  readonly table: TomlTable;
  /** The text, in pieces: it may be large. */
  pieces(): Iterable<string>;
  text(): string;
  /** The files whose content the result depends on, without the template. */
  dependencies(): Iterable<string>;
}

/** Makes a manifest. Error: ManifestError, whose problems carry file, line and column where they are known. */
export async function generateManifest(request: ManifestRequest): Promise<GeneratedManifest> {
  const file = nameOf(request);
  const { text, locate } = render(request);
  const table = parseToml(text, file, locate);
  addDefaults(table, request.flavour);
  if (request.check ?? true) {
    const problems = checkManifest(table);
    if (problems.length > 0)
      throw new ManifestError(
        'invalid',
        problems.map((p) => formatProblem(p, file, locate)),
      );
  }
  const section = request.tdx ? tdxSection(table) : sectionOf(table, 'sgx');
  const key = `${request.tdx ? 'tdx' : 'sgx'}.trusted_files`;
  const trusted = section.entries.get('trusted_files') ?? toml.array();
  refuseShadowed(table, trusted, (at, message) => formatProblem({ key, message, at }, file, locate));
  const folderLinks: { readonly uri: string; readonly path: string }[] = [];
  const found = expandTrustedFiles(trusted, {
    file,
    locate,
    key,
    ...(request.chroot === undefined ? {} : { chroot: request.chroot }),
    ...(request.tdx
      ? {
          onFolderLink: (uri: string, path: string) => folderLinks.push({ uri, path }),
          keep: (entry: TomlTable) => entry.entries.has('link') || entry.entries.has('root'),
        }
      : {}),
  });
  const all = request.tdx ? addLinks(table, found, folderLinks, request.chroot) : found;
  const unknown = all.unknown();
  const pathsOf = (start: number, end: number): string => {
    if (unknown.length === all.length) return all.paths(start, end);
    const indices = [...unknown.subarray(start, end)];
    return indices.map((index) => all.paths(index, index + 1)).join('\0');
  };
  const placeOf = (i: number): string => {
    const entry = entryOf(trusted, all.uri(unknown[i] ?? 0));
    return entry === undefined
      ? ''
      : formatProblem({ key: `${key}[${entry.index}]`, message: '', at: entry.at }, file, locate);
  };
  const digests = await hashFiles(unknown.length, pathsOf, {
    placeOf,
    tree: request.tdx ?? false,
    ...(request.cache === undefined ? {} : { cache: request.cache }),
    ...(request.threads === undefined ? {} : { threads: request.threads }),
    ...(request.onProgress === undefined ? {} : { onProgress: request.onProgress }),
  });
  section.entries.set('trusted_files', trustedRows(all, unknown, digests, request.tdx ?? false));
  const pieces = () => writeTomlPieces(table);
  return {
    table,
    pieces,
    text: () => [...pieces()].join(''),
    *dependencies() {
      for (let i = 0; i < unknown.length; i += 1) yield pathsOf(i, i + 1);
    },
  };
}

function sectionOf(table: TomlTable, key: string): TomlTable {
  let section = table.entries.get(key);
  if (section === undefined) {
    section = toml.table();
    table.entries.set(key, section);
  }
  if (section.kind !== 'table') throw new ManifestError('invalid', [`${key}: expected a table`]);
  return section;
}

/** The entry of the list that a file came from: its own, or that of a folder above it. */
function entryOf(
  trusted: TomlValue,
  uri: string,
): { readonly index: number; readonly at: Position | undefined } | undefined {
  const path = parseUri(uri);
  if (trusted.kind !== 'array' || path === undefined) return undefined;
  const index = trusted.items.findIndex((item) => {
    const own = item.kind === 'table' ? item.entries.get('uri') : item;
    const above = own?.kind === 'string' ? parseUri(own.value) : undefined;
    if (own?.kind !== 'string' || above === undefined) return false;
    return (
      path === above ||
      (own.value.endsWith('/') && (above === '.' || path.startsWith(above === '/' ? '/' : `${above}/`)))
    );
  });
  return index < 0 ? undefined : { index, at: trusted.items[index]?.at };
}

/** Table `tdx`, to which both lists of files go: the launcher reads them from one table only. */
function tdxSection(table: TomlTable): TomlTable {
  const sgx = sectionOf(table, 'sgx');
  const tdx = sectionOf(table, 'tdx');
  if (!tdx.entries.has('trusted_files') && !tdx.entries.has('allowed_files')) {
    for (const key of ['allowed_files', 'trusted_files']) {
      const list = sgx.entries.get(key);
      if (list !== undefined) tdx.entries.set(key, list);
      sgx.entries.delete(key);
    }
  }
  return tdx;
}

/** One row per file, made when it is written: hashes stay packed until then. */
function trustedRows(files: FileList, hashed: Uint32Array, digests: Digests, tdx: boolean): TomlValue {
  const hashedAt = new Uint32Array(files.length);
  for (let i = 0; i < hashed.length; i += 1) hashedAt[hashed[i] ?? 0] = i;
  const row = (index: number): TomlTable => {
    const f = files.at(index);
    if (f.as !== undefined) return f.as;
    const uri = ['uri', toml.string(f.uri)] as const;
    if (f.sha256 !== undefined) return toml.table([uri, ['sha256', toml.string(f.sha256)]]);
    const i = hashedAt[index] ?? 0;
    const sha256 = ['sha256', toml.string(digests.sha256(i))] as const;
    if (!tdx) return toml.table([uri, sha256]);
    return toml.table([
      uri,
      sha256,
      ['size', toml.integer(digests.size(i))],
      ['mode', toml.integer(digests.mode(i))],
      ['root', toml.string(digests.root(i))],
    ]);
  };
  function* lines(path: string): Generator<string> {
    const header = `[[${path}]]\n`;
    for (let at = 0; at < files.length; ) {
      const file = files.at(at);
      if (file.as !== undefined || file.sha256 !== undefined) {
        yield `\n${writeListItem(row(at), path)}`;
        at += 1;
        continue;
      }
      const uris = files.uris(at, Math.min(at + ROWS_AT_ONCE, files.length));
      yield linesOf(uris, header, digests, hashedAt[at] ?? 0, tdx);
      at += uris.length;
    }
  }
  return { kind: 'rows', count: files.length, row, lines };
}

const ROWS_AT_ONCE = 512;

/** The rows of files whose digests follow one another. */
function linesOf(uris: readonly string[], header: string, digests: Digests, first: number, tdx: boolean): string {
  const plain = isPlain(uris.join(''));
  const hex = digests.hex(first, first + uris.length);
  const step = tdx ? 128 : 64;
  let text = '';
  for (let i = 0; i < uris.length; i += 1) {
    const uri = plain ? `"${uris[i]}"` : writeString(uris[i] ?? '');
    text += `\n${header}uri = ${uri}\nsha256 = "${hex.slice(step * i, step * i + 64)}"\n`;
    if (!tdx) continue;
    const root = hex.slice(step * i + 64, step * i + 128);
    text += `size = ${digests.size(first + i)}\nmode = ${digests.mode(first + i)}\nroot = "${root}"\n`;
  }
  return text;
}

// SPDX-License-Identifier: Apache-2.0
//
// The names that Gramine's templates can use: `gramine`, `python`, `env` and `ldd()`. Python and ldd are programs of this
// machine, started only when a template asks for them. Source: python/graminelibos/gen_jinja_env.py of Gramine 1.9.

import { execFileSync } from 'node:child_process';
import { existsSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import {
  compareCodePoints,
  NONE,
  PyFunction,
  PyGenerator,
  PyMapping,
  PyPath,
  PythonError,
  type PyValue,
  pyStr,
  requireDefined,
} from './python-values.js';

export interface GlobalsOptions {
  /** -D variables; `true` for a name without a value. */
  readonly define?: Readonly<Record<string, string | true>>;
  /** What the template sees as `env`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Gramine's own folder: `gramine.pkglibdir`. */
  readonly libdir?: string;
  /** Runs a program and returns its standard output; the tests put recorded answers here. */
  readonly run?: (command: string, args: readonly string[]) => string;
  /** Whether a path exists: of what `python.get_sys_path` answers, only that remains. */
  readonly exists?: (path: string) => boolean;
  /** What a path's `is_dir()` answers. */
  readonly isDirectory?: (path: string) => boolean;
}

/** Where Debian's packages put Gramine. */
export const DEFAULT_LIBDIR = '/usr/lib/x86_64-linux-gnu/gramine';

/** All global names of a template. Variables given with -D hide the others, as Jinja2's context does. */
export function templateGlobals(options: GlobalsOptions = {}): Map<string, PyValue> {
  const run = options.run ?? runProgram;
  const env = options.env ?? process.env;
  const path = (text: string) => new PyPath(text, options.isDirectory ?? isDirectory);
  const globals = new Map<string, PyValue>([
    ['gramine', gramine(options.libdir ?? DEFAULT_LIBDIR, run, path)],
    ['python', python(run, options.exists ?? existsSync, path)],
    ['env', new PyMapping('os._Environ object', (name) => (Object.hasOwn(env, name) ? env[name] : undefined), true)],
    ['ldd', new PyFunction('ldd', (args) => ldd(args.map(pyStr), run))],
  ]);
  for (const [name, value] of Object.entries(options.define ?? {})) globals.set(name, value);
  return globals;
}

type Run = (command: string, args: readonly string[]) => string;
type MakePath = (text: string) => PyPath;

function runProgram(command: string, args: readonly string[]): string {
  try {
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 1 << 26 });
  } catch (error) {
    const { code, stderr, status } = error as { code?: string; stderr?: string; status?: number | null };
    const said = stderr?.trim().split('\n').at(-1);
    const why =
      code === 'ENOENT' ? 'is not on this machine' : said ? `failed: ${said}` : `failed with status ${status ?? code}`;
    throw new PythonError(`the template needs ${basename(command)}, which ${why}`);
  }
}

function isDirectory(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

function gramine(libdir: string, run: Run, path: MakePath): PyMapping {
  const runtimedir = (libc: string): PyPath => path(resolvePath(join(libdir, 'runtime', libc)));
  const entries = new Map<string, PyValue>([
    ['libos', path(join(libdir, 'libsysdb.so'))],
    ['pkglibdir', path(libdir)],
    [
      'runtimedir',
      new PyFunction(
        'runtimedir',
        (args, keywords) => {
          const [libc = keywords.get('libc') ?? 'glibc', ...more] = args;
          requireDefined(libc);
          const unknown = [...keywords.keys()].filter((k) => k !== 'libc');
          if (
            typeof libc !== 'string' ||
            more.length > 0 ||
            unknown.length > 0 ||
            (args.length > 0 && keywords.size > 0)
          )
            throw new PythonError('runtimedir() wants one text: "glibc" or "musl"');
          return runtimedir(libc);
        },
        () => runtimedir('glibc'),
      ),
    ],
  ]);
  let offsets: Record<string, number> | undefined;
  return new PyMapping(
    'dict object',
    (name) => {
      const known = entries.get(name);
      if (known !== undefined) return known;
      if (!/^[A-Z][A-Za-z0-9_]*$/.test(name)) return undefined;
      if (name === 'PAGESIZE') return 4096n;
      offsets ??= readOffsets(run);
      const value = Object.hasOwn(offsets, name) ? offsets[name] : undefined;
      if (value === undefined)
        throw new PythonError(`gramine.${name}: an SGX offset of Gramine's own build, which is not installed here`);
      return BigInt(value);
    },
    true,
  );
}

/** The SGX offsets of an installed Gramine; empty without one. */
function readOffsets(run: Run): Record<string, number> {
  const script =
    'import json\ntry:\n  import _graminelibos_offsets as o\nexcept ImportError:\n  o = None\n' +
    'print(json.dumps({k: v for k, v in vars(o).items() if not k.startswith("_") and type(v) is int} if o else {}))';
  try {
    return JSON.parse(run('python3', ['-c', script])) as Record<string, number>;
  } catch (error) {
    if (error instanceof PythonError) return {};
    throw error;
  }
}

/** pathlib's resolve(): links resolved as far as the path exists. */
function resolvePath(text: string): string {
  try {
    return realpathSync(text);
  } catch {
    const parent = dirname(text);
    return parent === text ? text : join(resolvePath(parent), basename(text));
  }
}

interface PythonFacts {
  readonly stdlib: string;
  readonly platstdlib: string;
  readonly purelib: string;
  readonly distlib: string;
  readonly ext_suffix: string | null;
  readonly name: string;
  readonly cache_tag: string | null;
}

const FACTS_SCRIPT = `import json, os, sys, sysconfig
p = sysconfig.get_paths()
print(json.dumps({
  'stdlib': p['stdlib'], 'platstdlib': p['platstdlib'], 'purelib': p['purelib'],
  'distlib': os.path.join(sysconfig.get_path('stdlib', vars={'py_version_short': sys.version_info[0]}), 'dist-packages'),
  'ext_suffix': sysconfig.get_config_var('EXT_SUFFIX'),
  'name': sys.implementation.name, 'cache_tag': sys.implementation.cache_tag,
}))`;

function python(run: Run, exists: (path: string) => boolean, path: MakePath): PyMapping {
  let known: PythonFacts | undefined;
  const facts = (): PythonFacts => {
    known ??= JSON.parse(run('python3', ['-c', FACTS_SCRIPT])) as PythonFacts;
    return known;
  };
  const ask = (call: string, args: readonly PyValue[], keywords: ReadonlyMap<string, PyValue>): PyValue => {
    const script = `import json, sys, sysconfig\na, k = json.loads(sys.argv[1])\nprint(json.dumps(sysconfig.${call}(*a, **k)))`;
    const request = [args.map(toJson), Object.fromEntries([...keywords].map(([k, v]) => [k, toJson(v)]))];
    return fromJson(JSON.parse(run('python3', ['-c', script, JSON.stringify(request)])));
  };
  const implementation = new PyMapping(
    'types.SimpleNamespace object',
    (name) => {
      if (name === 'name') return facts().name;
      if (name === 'cache_tag') return facts().cache_tag ?? NONE;
      throw new PythonError(`python.implementation.${name} is not supported`);
    },
    false,
  );
  return new PyMapping(
    'dict object',
    (name) => {
      switch (name) {
        case 'stdlib':
        case 'platstdlib':
        case 'purelib':
        case 'distlib':
          return path(facts()[name]);
        case 'ext_suffix':
          return facts().ext_suffix ?? NONE;
        case 'implementation':
          return implementation;
        case 'get_config_var':
        case 'get_path':
        case 'get_paths':
          return new PyFunction(name, (args, keywords) => ask(name, args, keywords));
        case 'get_sys_path':
          return new PyFunction(name, (args, keywords) => sysPath(args, keywords, run, exists, path));
        default:
          return undefined;
      }
    },
    true,
  );
}

function sysPath(
  args: readonly PyValue[],
  keywords: ReadonlyMap<string, PyValue>,
  run: Run,
  exists: (path: string) => boolean,
  path: MakePath,
): PyGenerator {
  const [interpreter, all = keywords.get('include_nonexisting') ?? false, ...more] = args;
  const unknown = [...keywords.keys()].filter((k) => k !== 'include_nonexisting');
  if (interpreter === undefined || typeof all !== 'boolean' || more.length > 0 || unknown.length > 0)
    throw new PythonError('get_sys_path() wants an interpreter and perhaps include_nonexisting');
  const script = "import sys; print('\\0'.join(path for path in sys.path if path), end='')";
  const paths = run(pyStr(interpreter), ['-c', script]).split('\0');
  // Path('') is '.', which exists.
  return new PyGenerator(paths.filter((p) => all || p === '' || exists(p)).map((p) => path(p === '' ? '.' : p)));
}

function toJson(v: PyValue): unknown {
  if (typeof v === 'string' || typeof v === 'boolean') return v;
  if (typeof v === 'bigint') return Number(v);
  if (v === NONE) return null;
  if (typeof v === 'object' && 'dict' in v) return Object.fromEntries([...v.dict].map(([k, x]) => [k, toJson(x)]));
  if (v instanceof PyPath) return v.path;
  throw new PythonError('this argument is not supported');
}

function fromJson(v: unknown): PyValue {
  if (typeof v === 'string' || typeof v === 'boolean') return v;
  if (typeof v === 'number' && Number.isSafeInteger(v)) return BigInt(v);
  if (v === null) return NONE;
  if (typeof v === 'object' && !Array.isArray(v))
    return { dict: new Map(Object.entries(v).map(([k, x]) => [k, fromJson(x)])) };
  throw new PythonError('Python answered with a value that is not supported');
}

function ldd(binaries: readonly string[], run: Run): PyValue {
  const found = new Set<string>();
  for (const line of run('ldd', binaries).split('\n')) {
    const [first = '', second = '', third = ''] = line.trim().split(/\s+/);
    if (second === '=>' && third.startsWith('/')) found.add(third);
    else if (first.startsWith('/') && second.startsWith('(')) found.add(first);
  }
  return { list: [...found].sort(compareCodePoints) };
}

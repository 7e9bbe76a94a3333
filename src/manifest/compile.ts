// SPDX-License-Identifier: Apache-2.0
//
// From a manifest's text to the policy, with offences told by file, line and column; what the manifest says about the
// machine; and back: the policy as a manifest, which is how it is shown, and which compiles to the same policy again.

import { ManifestError } from './errors.js';
import { Fields, isTable, Problems, parseSize, Unusable } from './fields.js';
import { compilePolicy, isWritable, LOG_LEVELS, type Policy } from './policy.js';
import { type Position, parseToml, type TomlTable, type TomlValue, toml, writeToml } from './toml.js';

/** A manifest whose text was read: what `compilePolicy` takes, and where each key stands. */
export interface ParsedManifest {
  readonly file: string;
  readonly table: TomlTable;
  /** Tables as objects, integers as numbers where they are safe. */
  readonly value: Record<string, unknown>;
}

/** Error: ManifestError `syntax`. */
export function parseManifest(text: string, file: string): ParsedManifest {
  const table = parseToml(text, file);
  return { file, table, value: plainValue(table) as Record<string, unknown> };
}

/** Error: ManifestError `invalid`, each problem with file, line and column where its key has a place. */
export function compileManifest(manifest: ParsedManifest): Policy {
  let policy: Policy;
  try {
    policy = compilePolicy(manifest.value);
  } catch (error) {
    throw located(error, manifest);
  }
  machineOf(manifest); // nobody learns at the first start that the machine cannot be
  return policy;
}

/** What a manifest says about its machine. Error: ManifestError `invalid`, with positions. */
export function machineOf(manifest: ParsedManifest): { readonly memoryBytes?: bigint; readonly cpus?: number } {
  const problems = new Problems();
  const tdx = new Fields(isTable(manifest.value.tdx) ? manifest.value.tdx : {}, 'tdx', problems);
  const memory = tdx.size('memory', 0n, 1n << 46n);
  if (tdx.has('memory') && memory < MIN_MEMORY_BYTES)
    problems.add(tdx.at('memory'), 'the machine needs 64M at least', undefined);
  if (memory % HUGE_BYTES !== 0n) problems.add(tdx.at('memory'), 'expected a multiple of 2M');
  const enclave = enclaveBytes(manifest, problems);
  const cpus = tdx.integer('vcpus', 1, 64, 0);
  try {
    problems.throwIfAny();
  } catch (error) {
    throw located(error, manifest);
  }
  const memoryBytes = memory > 0n ? memory : enclave;
  return { ...(memoryBytes === undefined ? {} : { memoryBytes }), ...(cpus > 0 ? { cpus } : {}) };
}
const MIN_MEMORY_BYTES = 64n << 20n;
const HUGE_BYTES = 2n << 20n;

/**
 * Gramine's users size their machine with enclave_size, a decimal or hexadecimal number as its signer reads them; an EDMM
 * enclave's is address space, not memory.
 */
function enclaveBytes(manifest: ParsedManifest, problems: Problems): bigint | undefined {
  let found: bigint | undefined;
  for (const name of ['sgx', 'tdx']) {
    const table = manifest.value[name];
    if (!isTable(table) || typeof table.enclave_size !== 'string' || table.edmm_enable === true) continue;
    const hex = /^(0x[0-9a-f]{1,16})([KMG]?)$/i.exec(table.enclave_size);
    const bytes = parseSize(hex === null ? table.enclave_size : `${BigInt(hex[1] ?? '')}${hex[2]}`);
    if (bytes === undefined) {
      problems.add(`${name}.enclave_size`, 'a size such as "256M" below 8E', table.enclave_size);
    } else if (bytes >= MIN_MEMORY_BYTES) found = bytes - (bytes % HUGE_BYTES);
  }
  return found;
}

/** The same error with the places of its keys. */
function located(error: unknown, { file, table }: ParsedManifest): unknown {
  if (!(error instanceof ManifestError) || error.byKey.length === 0) return error;
  const problems = error.byKey
    .map(({ key, message }) => ({ key, message, at: positionOfKey(table, key) }))
    .sort((a, b) => (a.at?.line ?? 0) - (b.at?.line ?? 0) || (a.at?.column ?? 0) - (b.at?.column ?? 0));
  return new ManifestError(
    error.code,
    problems.map((p) => formatProblem(p, file)),
    { cause: error },
    error.byKey,
  );
}

/** `FILE:LINE:COLUMN: KEY: MESSAGE`, as far as they are known. */
export function formatProblem(
  { key, message, at }: { readonly key: string; readonly message: string; readonly at?: Position | undefined },
  file: string,
  locate: (at: Position) => Position = (place) => place,
): string {
  const source = at && locate(at);
  return `${file}${source ? `:${source.line}:${source.column}` : ''}: ${key === '' ? '' : `${key}: `}${message}`;
}

/** The place of a dotted key, or of the nearest thing around it that has one. */
export function positionOfKey(root: TomlTable, key: string): Position | undefined {
  let value: TomlValue | undefined = root;
  let at: Position | undefined;
  for (const [part] of key.matchAll(/"(?:[^"\\]|\\.)*"|\[[0-9]+\]|[^.[\]]+/g)) {
    if (value?.kind === 'table') value = value.entries.get(part.startsWith('"') ? (JSON.parse(part) as string) : part);
    else if (value?.kind === 'array' && part.startsWith('[')) value = value.items[Number(part.slice(1, -1))];
    else return at;
    at = value?.at ?? at;
  }
  return at;
}

/** A parsed value as plain JavaScript. Integer-like keys lose their order: nothing that is compiled depends on it. */
export function plainValue(value: TomlValue): unknown {
  switch (value.kind) {
    case 'table': {
      const object = Object.create(null) as Record<string, unknown>;
      for (const [k, v] of value.entries) object[k] = plainValue(v);
      return object;
    }
    case 'array':
      return value.items.map(plainValue);
    case 'rows':
      return Array.from({ length: value.count }, (_, i) => plainValue(value.row(i)));
    case 'integer': {
      const small = Number(value.value);
      return Number.isSafeInteger(small) ? small : value.value;
    }
    case 'float':
      // 1.0 is no integer.
      return Number.isInteger(value.value) ? new Unusable(`the float ${value.value}`) : value.value;
    case 'date':
      return new Date(Number.NaN);
    default:
      return value.value;
  }
}

const str = toml.string;
const texts = (list: readonly string[]): TomlValue => toml.array(list.map(str));

/** The policy as a manifest: every key that it decides, in Gramine's words. Compiles to the same policy. */
export function policyToManifest(policy: Policy): TomlTable {
  const { args, env, flags, limits } = policy;
  const loader = toml.table([
    ...(args.argv.length > 0 ? [['argv', texts(args.argv)] as const] : []),
    ...(args.from === 'cmdline' ? [['insecure__use_cmdline_argv', toml.boolean(true)] as const] : []),
    ...(args.file === undefined ? [] : [['argv_src_file', str(`file:${args.file}`)] as const]),
    ...(env.file === undefined ? [] : [['env_src_file', str(`file:${env.file}`)] as const]),
    ['insecure__use_host_env', toml.boolean(env.all)],
    ['insecure__disable_aslr', toml.boolean(!flags.aslr)],
    ['log_level', str(LOG_LEVELS[flags.log] ?? 'error')],
    ['uid', toml.integer(policy.uid)],
    ['gid', toml.integer(policy.gid)],
    [
      'env',
      toml.table([
        ...env.set.map(([name, value]) => [name, str(value)] as const),
        ...env.pass.map((name) => [name, toml.table([['passthrough', toml.boolean(true)]])] as const),
      ]),
    ],
  ]);
  const sys = toml.table([
    ['enable_sigterm_injection', toml.boolean(flags.sigterm)],
    ['disallow_subprocesses', toml.boolean(!flags.subprocesses)],
    ['experimental__enable_flock', toml.boolean(flags.flock)],
    ['insecure__allow_eventfd', toml.boolean(flags.eventfd)],
    ['enable_extra_runtime_domain_names_conf', toml.boolean(flags.domainNames)],
    ['stack', toml.table([['size', str(limits.stack.toString())]])],
    ['brk', toml.table([['max_size', str(limits.brk.toString())]])],
    ['fds', toml.table([['limit', toml.integer(limits.fds)]])],
    [
      'debug__mock_syscalls',
      toml.array(
        policy.mock.map(([name, result]) =>
          toml.table([
            ['name', str(name)],
            ['return', toml.integer(result)],
          ]),
        ),
      ),
    ],
  ]);
  return toml.table([
    ['libos', toml.table([['entrypoint', str(policy.entrypoint)]])],
    ['loader', loader],
    ['fs', filesTable(policy)],
    ['sys', sys],
    ['tdx', tdxTable(policy)],
  ]);
}

function filesTable(policy: Policy): TomlTable {
  const [root, ...mounts] = policy.mounts.map(({ path, type, uri, key }) =>
    toml.table([
      ['type', str(type)],
      ...(path === '/' ? [] : [['path', str(path)] as const]),
      ...(uri === undefined ? [] : [['uri', str(`${type === 'untrusted_shm' ? 'dev' : 'file'}:${uri}`)] as const]),
      ...(key === undefined ? [] : [['key_name', str(key)] as const]),
    ]),
  );
  return toml.table([
    ['start_dir', str(policy.cwd)],
    ...(root === undefined ? [] : [['root', root] as const]),
    ['mounts', toml.array(mounts)],
    [
      'insecure__keys',
      toml.table([...policy.keys].map(([name, value]) => [name, str(Buffer.from(value).toString('hex'))])),
    ],
  ]);
}

function tdxTable(policy: Policy): TomlTable {
  const readOnly = policy.mounts.filter(({ type, uri, rw }) => {
    const unasked = type === 'chroot' && uri !== undefined ? isWritable(uri, policy) : true;
    return unasked && !rw;
  });
  const hex = (bytes: Uint8Array): TomlValue => str(Buffer.from(bytes).toString('hex'));
  const trusted = [...policy.trusted.entries()].map(([path, entry]) =>
    toml.table([
      ['uri', str(`file:${path}`)],
      ...(entry.kind === 'link'
        ? [['link', str(entry.target)] as const]
        : [
            ['sha256', hex(entry.sha256)] as const,
            ...(entry.meta === undefined
              ? []
              : [
                  ['size', toml.integer(entry.meta.size)] as const,
                  ['mode', toml.integer(entry.meta.mode)] as const,
                  ['root', hex(entry.meta.root)] as const,
                ]),
          ]),
    ]),
  );
  return toml.table([
    ['file_check_policy', str(policy.check)],
    ['remote_attestation', str(policy.attestation)],
    ['read_only', texts(readOnly.map(({ path }) => path))],
    ['allowed_files', texts(policy.allowed.map((path) => `file:${path}`))],
    [
      'net',
      toml.table([
        ['publish', texts(policy.net.publish.map(([port, protocol]) => `${port}/${protocol}`))],
        ['outbound', texts(policy.net.outbound)],
      ]),
    ],
    ['trusted_files', toml.array(trusted)],
  ]);
}

/** The policy for a person to read: a manifest with every default filled in. */
export function showPolicy(policy: Policy): string {
  return writeToml(policyToManifest(policy));
}

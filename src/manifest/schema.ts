// SPDX-License-Identifier: Apache-2.0
//
// Every key of a manifest: its type, default, meaning, and what becomes of it here. The shape is what Gramine's own checker
// accepts (python/graminelibos/manifest_check.py, quirks included: a boolean passes for an integer, a trusted file needs no
// uri); ranges that only the run time knows are checked when the policy is compiled. docs/manifest.md is generated from this.

import * as z from 'zod/mini';
import { isOutbound, OUTBOUND, PUBLISHED, parsePublished } from './fields.js';

/** What this project does with a key. */
export type Effect =
  /** The kernel, or the launcher where the key speaks of the machine, does what it says. */
  | 'enforced'
  /** Accepted and without effect: it is about SGX, or about Gramine's own insides. */
  | 'none'
  /** Accepted by the check, refused when the policy is compiled: the kernel cannot do it yet. */
  | 'refused';

export interface KeyMeta {
  readonly meaning: string;
  readonly effect: Effect;
  readonly default?: string;
  readonly range?: string;
}

/** What is said of each key; the schema's own part of zod alone, as the whole of it takes longer to load than a check takes. */
export const keyMeta = z.registry<KeyMeta>();

/** A table key, always optional unless said otherwise. */
function key<T extends z.ZodMiniType>(
  schema: T,
  effect: Effect,
  meaning: string,
  extra: { default?: string; range?: string } = {},
): z.ZodMiniOptional<T> {
  const optional = z.optional(schema);
  keyMeta.add(optional, { meaning, effect, ...extra });
  return optional;
}

const str = z.string({ error: 'expected text' });
const textWhere = (isRight: (text: string) => boolean, expected: string) =>
  z.string({ error: 'expected text' }).check(z.refine(isRight, { error: `expected ${expected}` }));
const bool = z.boolean({ error: 'expected true or false' });
// Gramine's checker is Python: True is an int there.
const int = z.union([z.bigint(), z.boolean()], { error: 'expected an integer' });
const oneOf = <const T extends readonly [string, ...string[]]>(values: T) =>
  z.enum(values, { error: `expected one of ${values.map((v) => JSON.stringify(v)).join(', ')}` });
const table = <T extends z.core.$ZodShape>(shape: T) =>
  z.strictObject(shape, { error: (issue) => (issue.code === 'unrecognized_keys' ? undefined : 'expected a table') });
const list = <T extends z.ZodMiniType>(element: T) => z.array(element, { error: 'expected a list' });
const feature = (values: 'with-unspecified' | 'without') =>
  values === 'without' ? oneOf(['disabled', 'required']) : oneOf(['unspecified', 'disabled', 'required']);
// A copy: the same schema of a text may stand for several keys.
function required<T extends z.ZodMiniType>(schema: T, effect: Effect, meaning: string): T {
  const copy = z.clone(schema);
  keyMeta.add(copy, { meaning, effect, default: 'required' });
  return copy;
}

const path = required(str, 'enforced', 'where the mount appears in the guest: absolute, not "/"');
const chrootMount = table({
  type: z.optional(oneOf(['chroot'])),
  path,
  uri: required(str, 'enforced', '"file:" or "dev:" and a host path: what is mounted'),
});
const encryptedMount = table({
  type: oneOf(['encrypted']),
  path,
  uri: required(str, 'refused', '"file:" and a host path of protected files'),
  key_name: key(str, 'refused', 'which key decrypts the files', { default: '"default"' }),
  enable_recovery: key(bool, 'refused', 'keep a recovery file beside each file that is written', { default: 'false' }),
});
const tmpfsMount = table({ type: oneOf(['tmpfs']), path, uri: key(str, 'none', 'ignored: a tmpfs has no host path') });
const shmMount = table({
  type: oneOf(['untrusted_shm']),
  path,
  uri: required(str, 'enforced', '"dev:" and the host path of a shared memory folder'),
});
/** By `type`, so that a problem is told for the kind of mount that was meant. */
const MOUNTS = { chroot: chrootMount, encrypted: encryptedMount, tmpfs: tmpfsMount, untrusted_shm: shmMount } as const;

const mount = custom((value, context) => {
  if (!isPlainTable(value)) {
    context.addIssue({ code: 'custom', message: 'expected a table' });
    return;
  }
  const type = value.type ?? 'chroot';
  const kind =
    typeof type === 'string' && Object.hasOwn(MOUNTS, type) ? MOUNTS[type as keyof typeof MOUNTS] : undefined;
  if (!kind) {
    context.addIssue({ code: 'custom', path: ['type'], message: `expected one of ${Object.keys(MOUNTS).join(', ')}` });
    return;
  }
  for (const issue of kind.safeParse(value).error?.issues ?? []) forward(context, issue);
});

type Context = Parameters<Parameters<typeof z.superRefine>[0]>[1];

/** A value whose findings a function tells. */
function custom(judge: (value: unknown, context: Context) => void) {
  return z.any().check(z.superRefine(judge));
}

/** Passes on a finding of another schema, its path kept. */
function forward(context: Context, issue: z.core.$ZodIssue): void {
  context.issues.push({ ...issue, input: undefined } as z.core.$ZodRawIssue);
}

/** Text, or a table that the second schema describes. */
const textOr = <T extends z.ZodMiniType>(other: T) =>
  custom((value, context) => {
    const schema = isPlainTable(value) ? other : str;
    for (const issue of schema.safeParse(value).error?.issues ?? []) forward(context, issue);
  });

function isPlainTable(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && Object.getPrototypeOf(value) === null;
}

const envValue = custom((value, context) => {
  if (typeof value === 'string') return;
  if (!isPlainTable(value)) {
    context.addIssue({ code: 'custom', message: 'expected text, { value = "..." } or { passthrough = true }' });
    return;
  }
  const keys = Object.keys(value);
  const [only] = keys;
  const isValue = keys.length === 0 || (keys.length === 1 && only === 'value');
  // 1 == True in Python: the real checker lets passthrough = 1 through.
  const isPassthrough =
    keys.length === 1 && only === 'passthrough' && (value.passthrough === true || value.passthrough === 1n);
  if (isPassthrough) return;
  if (!isValue)
    context.addIssue({
      code: 'custom',
      message: 'expected { value = "..." } or { passthrough = true }, and nothing else',
    });
  else if (only === 'value' && typeof value.value !== 'string')
    context.addIssue({ code: 'custom', path: ['value'], message: 'expected text' });
});

const trustedFile = textOr(table({ uri: z.optional(str), sha256: z.optional(str) }));

const gramineShape = {
  fs: required(
    table({
      mounts: required(list(mount), 'enforced', 'what of the host the program sees, applied in order'),
      start_dir: key(str, 'enforced', 'the working directory', { default: '"/"' }),
      root: key(rootMount(), 'enforced', 'the mount at "/"', { default: '{ type = "chroot", uri = "file:." }' }),
      insecure__keys: key(
        z.record(z.string(), str, { error: 'expected a table' }),
        'enforced',
        'values of /dev/attestation/keys/NAME, 32 hexadecimal digits each; there are no encrypted mounts yet',
      ),
    }),
    'enforced',
    'files',
  ),
  libos: required(
    table({
      entrypoint: required(
        str,
        'enforced',
        'the program, by its path in the guest; a relative one starts at fs.start_dir',
      ),
      check_invalid_pointers: key(bool, 'none', 'always on here: the kernel checks every pointer of a program', {
        default: 'true',
      }),
    }),
    'enforced',
    'the program',
  ),
  loader: key(
    table({
      entrypoint: key(
        table({
          uri: required(str, 'none', 'Gramine’s LibOS binary; there is none here'),
          sha256: key(str, 'none', 'its hash'),
        }),
        'none',
        'Gramine’s LibOS binary; there is none here',
      ),
      argv: key(list(str), 'enforced', 'the program’s arguments, argv[0] included', { default: '[entrypoint]' }),
      argv_src_file: key(str, 'enforced', 'a trusted file of NUL-terminated arguments'),
      insecure__use_cmdline_argv: key(
        bool,
        'enforced',
        'take the arguments of the command line, which are measured with the invocation',
        { default: 'false' },
      ),
      env: key(
        z.record(z.string(), envValue, { error: 'expected a table' }),
        'enforced',
        'environment: a text, { value = "..." } or { passthrough = true }',
      ),
      env_src_file: key(str, 'enforced', 'a trusted file of NUL-terminated NAME=VALUE'),
      insecure__use_host_env: key(bool, 'enforced', 'let the launcher’s --env set any name', { default: 'false' }),
      insecure__disable_aslr: key(bool, 'enforced', 'load programs at fixed addresses', { default: 'false' }),
      log_level: key(
        oneOf(['none', 'error', 'warning', 'debug', 'trace', 'all']),
        'enforced',
        'how much the kernel says on its log',
        { default: '"error"' },
      ),
      log_file: key(str, 'none', 'the kernel’s log goes to the launcher'),
      uid: key(int, 'enforced', 'user id of the program', { default: '0', range: '0 to 4294967295' }),
      gid: key(int, 'enforced', 'group id of the program', { default: '0', range: '0 to 4294967295' }),
    }),
    'enforced',
    'how the program starts',
  ),
  sys: key(
    table({
      stack: key(
        table({
          size: key(str, 'enforced', 'largest stack of the first thread', {
            default: '"256K"',
            range: 'a size of at least 16K: digits and K, M or G',
          }),
        }),
        'enforced',
        'stack',
      ),
      brk: key(
        table({ max_size: key(str, 'enforced', 'largest heap by brk', { default: '"256K"', range: 'a size' }) }),
        'enforced',
        'heap',
      ),
      fds: key(
        table({ limit: key(int, 'enforced', 'RLIMIT_NOFILE', { default: '900', range: '0 and above' }) }),
        'enforced',
        'file descriptors',
      ),
      enable_extra_runtime_domain_names_conf: key(
        bool,
        'enforced',
        'the host’s name, and /etc/resolv.conf from the host’s: nameserver, search, options edns0, inet6, rotate, use-vc',
        { default: 'false' },
      ),
      enable_sigterm_injection: key(
        bool,
        'enforced',
        'SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 sent to the launcher reach the program; else the first three end it',
        { default: 'false' },
      ),
      disallow_subprocesses: key(bool, 'enforced', 'fork and its like fail with EPERM', { default: 'false' }),
      insecure__allow_eventfd: key(
        bool,
        'none',
        'eventfd always works: it is the kernel’s own, where Gramine asks the host',
        {
          default: 'false',
        },
      ),
      experimental__enable_flock: key(
        bool,
        'none',
        'flock always works: locks are the kernel’s own, and the launcher runs one guest',
        { default: 'false' },
      ),
      debug__mock_syscalls: key(
        list(
          table({
            name: required(str, 'enforced', 'of the system call'),
            return: key(int, 'enforced', 'what it answers', { default: '0' }),
          }),
        ),
        'enforced',
        'system calls that do nothing but answer',
      ),
      allowed_ioctls: key(
        list(table({ request_code: required(int, 'none', 'of the ioctl'), struct: key(str, 'none', 'its argument') })),
        'none',
        'ioctls on host devices; there are no host devices here',
      ),
      ioctl_structs: key(z.record(z.string(), z.any(), { error: 'expected a table' }), 'none', 'see allowed_ioctls'),
    }),
    'enforced',
    'what the kernel offers',
  ),
  sgx: key(
    table({
      trusted_files: key(
        list(trustedFile),
        'enforced',
        'files and folders whose content is fixed, with their SHA-256 once hashed',
      ),
      allowed_files: key(list(str), 'enforced', 'files and folders that the host may change: not protected'),
      file_check_policy: key(
        oneOf(['strict', 'allow_all_but_log']),
        'enforced',
        'what happens to files that are in neither list',
        { default: '"strict"' },
      ),
      remote_attestation: key(oneOf(['none', 'dcap']), 'enforced', 'whether /dev/attestation offers quotes', {
        default: '"none"',
      }),
      enclave_size: key(str, 'enforced', 'memory of the machine when tdx.memory is absent', {
        default: '"256M"',
        range: 'a size, a power of two',
      }),
      max_threads: key(int, 'none', 'no limit here', { default: '4' }),
      debug: key(bool, 'none', 'about SGX enclaves'),
      edmm_enable: key(bool, 'none', 'about SGX enclaves'),
      preheat_enclave: key(bool, 'none', 'about SGX enclaves'),
      enable_stats: key(bool, 'none', 'about SGX enclaves'),
      use_exinfo: key(bool, 'none', 'about SGX enclaves'),
      vtune_profile: key(bool, 'none', 'about SGX enclaves'),
      insecure__allow_memfaults_without_exinfo: key(bool, 'none', 'about SGX enclaves'),
      insecure__rpc_thread_num: key(int, 'none', 'about SGX enclaves'),
      isvprodid: key(int, 'none', 'about SGX enclaves'),
      isvsvn: key(int, 'none', 'about SGX enclaves'),
      cpu_features: key(
        table({
          avx: key(feature('with-unspecified'), 'none', 'about SGX enclaves'),
          avx512: key(feature('with-unspecified'), 'none', 'about SGX enclaves'),
          amx: key(feature('with-unspecified'), 'none', 'about SGX enclaves'),
          mpx: key(feature('without'), 'none', 'about SGX enclaves'),
          pkru: key(feature('without'), 'none', 'about SGX enclaves'),
        }),
        'none',
        'about SGX enclaves',
      ),
      seal_key: key(
        table({
          flags_mask: key(str, 'none', 'about SGX enclaves'),
          xfrm_mask: key(str, 'none', 'about SGX enclaves'),
          misc_mask: key(str, 'none', 'about SGX enclaves'),
        }),
        'none',
        'about SGX enclaves',
      ),
      profile: key(
        table({
          enable: key(oneOf(['none', 'main', 'all']), 'none', 'about SGX enclaves'),
          mode: key(oneOf(['aex', 'ocall_inner', 'ocall_outer']), 'none', 'about SGX enclaves'),
          with_stack: key(bool, 'none', 'about SGX enclaves'),
          frequency: key(int, 'none', 'about SGX enclaves'),
        }),
        'none',
        'about SGX enclaves',
      ),
    }),
    'enforced',
    'trusted files, and keys about SGX that have no effect',
  ),
};

const tdxTrustedFile = textOr(
  table({
    uri: required(str, 'enforced', '"file:" and a host path'),
    sha256: key(str, 'enforced', 'of the whole file, 64 hexadecimal digits'),
    size: key(int, 'enforced', 'in bytes; goes with root'),
    mode: key(int, 'enforced', 'permission bits; goes with root'),
    root: key(
      str,
      'enforced',
      'of the hash tree over 16 KiB leaves, 64 hexadecimal digits: lets the kernel verify by leaf',
    ),
    link: key(str, 'enforced', 'target of a symbolic link; instead of the other keys'),
  }),
);

const tdxTable = table({
  memory: key(str, 'enforced', 'memory of the machine; --memory overrides it', {
    default: 'sgx.enclave_size, else "1G"',
    range: 'a size of at least 64M, a multiple of 2M',
  }),
  vcpus: key(int, 'enforced', 'virtual CPUs; --cpus overrides it', {
    default: 'those of the host, at most 4',
    range: '1 to 64',
  }),
  trusted_files: key(
    list(tdxTrustedFile),
    'enforced',
    'as sgx.trusted_files, which it replaces; gramine-manifest --tdx adds size, mode, link target and hash-tree root',
  ),
  allowed_files: key(list(str), 'enforced', 'as sgx.allowed_files; the two lists of this table replace the two of sgx'),
  file_check_policy: key(
    oneOf(['strict', 'allow_all_but_log']),
    'enforced',
    'as sgx.file_check_policy, before which it goes',
  ),
  read_only: key(list(str), 'enforced', 'guest paths of mounts whose allowed files the program may read and not write'),
  remote_attestation: key(oneOf(['none', 'dcap']), 'enforced', 'as sgx.remote_attestation, before which it goes'),
  enclave_size: key(str, 'enforced', 'memory of the machine when tdx.memory is absent, as Gramine-TDX calls it', {
    range: 'a size',
  }),
  net: key(
    table({
      publish: key(
        list(textWhere((text) => parsePublished(text) !== undefined, PUBLISHED)),
        'enforced',
        'guest ports that the program serves, such as "6379/tcp"; -p opens these, and no others are reached from outside',
        {
          default: 'any',
          range: '1 to 65535, "/tcp" (default) or "/udp"',
        },
      ),
      outbound: key(
        list(textWhere(isOutbound, OUTBOUND)),
        'enforced',
        'where the program may connect: "HOST:PORT", either may be "*"',
        {
          default: '[]',
        },
      ),
    }),
    'enforced',
    'network',
  ),
});

/** What Gramine's own checker accepts. */
export const gramineSchema = table(gramineShape);

/** A manifest of this project: Gramine's, and our own `tdx` table. */
export const manifestSchema = table({
  ...gramineShape,
  tdx: key(tdxTable, 'enforced', 'keys of this project, which Gramine does not know'),
});

function rootMount() {
  return custom((value, context) => {
    if (!isPlainTable(value)) {
      context.addIssue({ code: 'custom', message: 'expected a table' });
      return;
    }
    const withPath = Object.assign(Object.create(null) as Record<string, unknown>, value);
    const issues = Object.hasOwn(value, 'path') ? [] : mountIssues(Object.assign(withPath, { path: '/' }));
    if (Object.hasOwn(value, 'path'))
      context.addIssue({ code: 'custom', path: ['path'], message: 'unknown key: the root is at "/"' });
    for (const issue of issues) forward(context, issue);
  });
}

function mountIssues(value: unknown): readonly z.core.$ZodIssue[] {
  return mount.safeParse(value).error?.issues ?? [];
}

export { MOUNTS as mountSchemas };

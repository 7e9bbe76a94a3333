// SPDX-License-Identifier: Apache-2.0
//
// The schema as a list of keys, for docs/manifest.md, and who sees to each key that has an effect.

import type * as z from 'zod/mini';
import type { Effect, KeyMeta } from './schema.js';
import { keyMeta, manifestSchema, mountSchemas } from './schema.js';

/** A key as docs/manifest.md shows it. */
export interface KeyDoc extends KeyMeta {
  /** Dotted; `[]` stands for any position of a list, `NAME` for any key of a table with free names. */
  readonly path: string;
  readonly type: string;
}

/** Who does what an `enforced` key says: the kernel, by a field of the policy; the launcher; or gramine-manifest. */
export type Enforcer = { readonly policy: string } | { readonly launcher: string } | { readonly tool: string };

/** By path; every `enforced` key that is no table has an entry (a test walks both). */
export const ENFORCED_BY: Readonly<Record<string, Enforcer>> = {
  'libos.entrypoint': { policy: 'entrypoint' },
  'loader.argv': { policy: 'args.argv' },
  'loader.argv_src_file': { policy: 'args.file' },
  'loader.insecure__use_cmdline_argv': { policy: 'args.from' },
  'loader.env': { policy: 'env.set' },
  'loader.env_src_file': { policy: 'env.file' },
  'loader.insecure__use_host_env': { policy: 'env.all' },
  'loader.insecure__disable_aslr': { policy: 'flags.aslr' },
  'loader.log_level': { policy: 'flags.log' },
  'loader.uid': { policy: 'uid' },
  'loader.gid': { policy: 'gid' },
  'fs.mounts': { policy: 'mounts' },
  'fs.mounts[].type': { policy: 'mounts.type' },
  'fs.mounts[].path': { policy: 'mounts.path' },
  'fs.mounts[].uri': { policy: 'mounts.uri' },
  'fs.root': { policy: 'mounts' },
  'fs.insecure__keys': { policy: 'keys' },
  'fs.start_dir': { policy: 'cwd' },
  'sys.stack.size': { policy: 'limits.stack' },
  'sys.brk.max_size': { policy: 'limits.brk' },
  'sys.fds.limit': { policy: 'limits.fds' },
  'sys.enable_extra_runtime_domain_names_conf': { policy: 'flags.domain_names' },
  'sys.enable_sigterm_injection': { policy: 'flags.sigterm' },
  'sys.disallow_subprocesses': { policy: 'flags.subprocesses' },
  'sys.debug__mock_syscalls': { policy: 'mock' },
  'sys.debug__mock_syscalls[].name': { policy: 'mock' },
  'sys.debug__mock_syscalls[].return': { policy: 'mock' },
  'sgx.trusted_files': { policy: 'trusted' },
  'sgx.allowed_files': { policy: 'allowed' },
  'sgx.file_check_policy': { policy: 'check' },
  'sgx.remote_attestation': { policy: 'attestation' },
  'sgx.enclave_size': { launcher: 'size of the machine' },
  'tdx.memory': { launcher: 'size of the machine' },
  'tdx.vcpus': { launcher: 'virtual CPUs of the machine' },
  'tdx.enclave_size': { launcher: 'size of the machine' },
  'tdx.trusted_files': { policy: 'trusted' },
  'tdx.allowed_files': { policy: 'allowed' },
  'tdx.file_check_policy': { policy: 'check' },
  'tdx.remote_attestation': { policy: 'attestation' },
  'tdx.read_only': { policy: 'mounts.rw' },
  'tdx.net.publish': { policy: 'net.publish' },
  'tdx.net.outbound': { launcher: 'its bridge connects nowhere else' },
};

interface SchemaNode {
  readonly shape?: Readonly<Record<string, SchemaNode>>;
  readonly options?: readonly (string | SchemaNode)[];
  readonly def: { readonly type: string; readonly innerType?: SchemaNode; readonly element?: SchemaNode };
}

/** Every key of the schema, in its order. */
export function describeKeys(): KeyDoc[] {
  const result: KeyDoc[] = [];
  walk(manifestSchema as unknown as SchemaNode, '', result);
  return result;
}

function walk(node: SchemaNode, path: string, out: KeyDoc[]): void {
  for (const [name, value] of Object.entries(node.shape ?? {})) {
    const here = path === '' ? name : `${path}.${name}`;
    const meta = keyMeta.get(value as unknown as z.ZodMiniType) as KeyMeta | undefined;
    const inner = unwrap(value);
    if (meta !== undefined) out.push({ path: here, type: typeOf(inner, here), ...meta });
    if (inner.shape !== undefined) walk(inner, here, out);
    else if (here === 'fs.mounts') walkMounts(out);
    else if (inner.def.element?.shape !== undefined) walk(inner.def.element, `${here}[]`, out);
  }
}

/** The kinds of mounts share their keys: each is told once. */
function walkMounts(out: KeyDoc[]): void {
  const kinds = Object.keys(mountSchemas);
  out.push({
    path: 'fs.mounts[].type',
    type: kinds.map((kind) => `"${kind}"`).join(', '),
    meaning: 'kind of the mount; "encrypted" is refused when the policy is compiled',
    effect: 'enforced',
    default: '"chroot"',
  });
  const seen = new Set<string>();
  for (const kind of Object.values(mountSchemas)) {
    const keys: KeyDoc[] = [];
    walk(kind as unknown as SchemaNode, 'fs.mounts[]', keys);
    for (const key of keys) {
      if (!seen.has(key.path)) out.push(key);
      seen.add(key.path);
    }
  }
}

function unwrap(node: SchemaNode): SchemaNode {
  return node.def.innerType ?? node;
}

const SPECIAL: Readonly<Record<string, string>> = {
  'fs.mounts': 'list of tables',
  'fs.root': 'table, as a mount without path',
  'sgx.trusted_files': 'list of texts or { uri, sha256 }',
  'tdx.trusted_files': 'list of texts or { uri, sha256, size, mode, root } or { uri, link }',
};

function typeOf(node: SchemaNode, path: string): string {
  const special = SPECIAL[path];
  if (special !== undefined) return special;
  switch (node.def.type) {
    case 'string':
      return 'text';
    case 'boolean':
      return 'boolean';
    case 'union':
      return 'integer';
    case 'enum':
      return (node.options ?? []).map((option) => JSON.stringify(option)).join(', ');
    case 'object':
      return 'table';
    case 'record':
      return 'table of free names';
    case 'array':
      return node.def.element?.shape !== undefined ? 'list of tables' : 'list of texts';
    default:
      return node.def.type;
  }
}

const EFFECT_TEXT: Readonly<Record<Effect, string>> = {
  enforced: 'enforced',
  none: 'no effect',
  refused: 'refused',
};

/** The tables of docs/manifest.md. */
export function keyTables(): string {
  const keys = describeKeys();
  const cell = (text: string) => text.replaceAll('|', '\\|');
  const sections = ['libos', 'loader', 'fs', 'sys', 'sgx', 'tdx'].map((section) => {
    const rows = keys
      .filter(({ path, type }) => path.startsWith(`${section}.`) && type !== 'table')
      .map((key) => {
        const by = ENFORCED_BY[key.path];
        const who =
          key.effect !== 'enforced' || by === undefined
            ? EFFECT_TEXT[key.effect]
            : 'policy' in by
              ? `kernel (\`${by.policy}\`)`
              : 'launcher' in by
                ? `launcher (${by.launcher})`
                : `gramine-manifest (${by.tool})`;
        const more = [key.default === 'required' ? 'required' : key.default && `default ${key.default}`, key.range]
          .filter(Boolean)
          .join('; ');
        return `| \`${key.path}\` | ${cell(key.type)} | ${cell(more)} | ${cell(key.meaning)} | ${who} |`;
      });
    return `## ${section}\n\n| key | type | default, range | meaning | effect |\n|---|---|---|---|---|\n${rows.join('\n')}\n`;
  });
  return sections.join('\n');
}

// SPDX-License-Identifier: Apache-2.0
//
// The defaults that Gramine's tool writes into a manifest, in its order: the order is visible in the output. No
// `loader.entrypoint` is written: there is no LibOS binary here. Source: python/graminelibos/manifest.py of Gramine 1.9, and
// of Gramine-TDX, whose branch knows other keys.

import { ManifestError } from './errors.js';
import { type TomlTable, type TomlValue, toml } from './toml.js';

/** Which of the peers' tools the output must equal. */
export type GramineFlavour = 'head' | 'tdx';

/**
 * Adds what is absent, in place; turns trusted files given as text into tables. Errors: ManifestError `invalid` where a
 * table that must be extended is something else.
 */
export function addDefaults(manifest: TomlTable, flavour: GramineFlavour = 'head'): void {
  const sgx = subTable(manifest, 'sgx', 'sgx');
  setDefault(sgx, 'trusted_files', toml.array());
  setDefault(sgx, 'max_threads', toml.integer(4));
  setDefault(sgx, 'isvprodid', toml.integer(0));
  setDefault(sgx, 'isvsvn', toml.integer(0));
  setDefault(sgx, 'remote_attestation', toml.string('none'));
  setDefault(sgx, 'debug', toml.boolean(false));
  setDefault(sgx, 'enable_stats', toml.boolean(false));
  setDefault(sgx, 'edmm_enable', toml.boolean(false));
  const edmm = sgx.entries.get('edmm_enable');
  setDefault(sgx, 'enclave_size', toml.string(edmm !== undefined && isTrue(edmm) ? '1024G' : '256M'));
  const legacy = flavour === 'tdx' && [...sgx.entries.keys()].some((key) => key.startsWith('require_'));
  if (!legacy) {
    setDefault(sgx, 'use_exinfo', toml.boolean(false));
    const cpu = subTable(sgx, 'cpu_features', 'sgx.cpu_features');
    for (const name of ['avx', 'avx512', 'amx']) setDefault(cpu, name, toml.string('unspecified'));
    for (const name of ['mpx', 'pkru']) setDefault(cpu, name, toml.string('disabled'));
  }
  sgx.entries.set('trusted_files', asTables(sgx.entries.get('trusted_files')));
  const loader = manifest.entries.get('loader');
  const entrypoint = loader?.kind === 'table' ? loader.entries.get('entrypoint') : undefined;
  if (entrypoint !== undefined && entrypoint.kind !== 'table' && flavour === 'head') {
    throw new ManifestError('invalid', [
      'loader.entrypoint: expected a table, got another value; since Gramine 1.9 it is { uri = "..." }, and it is not needed here',
    ]);
  }
}

function setDefault(table: TomlTable, key: string, value: TomlValue): void {
  if (!table.entries.has(key)) table.entries.set(key, value);
}

function subTable(parent: TomlTable, key: string, path: string): TomlTable {
  let table = parent.entries.get(key);
  if (table === undefined) {
    table = toml.table();
    parent.entries.set(key, table);
  }
  if (table.kind !== 'table') throw new ManifestError('invalid', [`${path}: expected a table`]);
  return table;
}

function isTrue(v: TomlValue): boolean {
  switch (v.kind) {
    case 'boolean':
      return v.value;
    case 'integer':
      return v.value !== 0n;
    case 'string':
      return v.value !== '';
    default:
      return true;
  }
}

/** Texts become `{ uri = ... }`. Anything else stays: the schema check speaks of it. */
function asTables(files: TomlValue | undefined): TomlValue {
  if (files?.kind !== 'array') return files ?? toml.array();
  return {
    ...files,
    items: files.items.map((f) =>
      f.kind === 'string' ? { ...toml.table([['uri', f]]), ...(f.at ? { at: f.at } : {}) } : f,
    ),
  };
}

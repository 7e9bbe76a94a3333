// SPDX-License-Identifier: Apache-2.0
//
// Parses /etc/ld.so.cache, glibc's list of the libraries in the system's directories (glibc's sysdeps/generic/dl-cache.h,
// the format "glibc-ld.so.cache1.1", alone or behind the old "ld.so-1.7.0" table).

const OLD_MAGIC = 'ld.so-1.7.0';
const NEW_MAGIC = 'glibc-ld.so.cache1.1';
const NEW_HEADER_BYTES = 48;
const ENTRY_BYTES = 24;
/** FLAG_ELF_LIBC6 | FLAG_X8664_LIB64 */
const X86_64_FLAGS = 0x0303;

/** Library name -> the paths that the cache gives for x86-64, best first. An unreadable cache is an empty map. */
export function parseLdCache(bytes: Buffer): Map<string, string[]> {
  const found = new Map<string, string[]>();
  const start = newFormatOffset(bytes);
  if (start === undefined || start + NEW_HEADER_BYTES > bytes.length) return found;
  const count = bytes.readUInt32LE(start + 20);
  for (let i = 0; i < count; i += 1) {
    const at = start + NEW_HEADER_BYTES + i * ENTRY_BYTES;
    if (at + ENTRY_BYTES > bytes.length) break;
    if (bytes.readInt32LE(at) !== X86_64_FLAGS) continue;
    const name = text(bytes, start + bytes.readUInt32LE(at + 4));
    const path = text(bytes, start + bytes.readUInt32LE(at + 8));
    if (name === undefined || path === undefined) continue;
    const paths = found.get(name);
    if (paths === undefined) found.set(name, [path]);
    else paths.push(path);
  }
  return found;
}

function newFormatOffset(bytes: Buffer): number | undefined {
  if (bytes.toString('latin1', 0, NEW_MAGIC.length) === NEW_MAGIC) return 0;
  if (bytes.toString('latin1', 0, OLD_MAGIC.length) !== OLD_MAGIC || bytes.length < 16) return undefined;
  // Old entries of 12 bytes follow a 16-byte header; the new part is aligned to 8.
  const after = 16 + bytes.readUInt32LE(12) * 12;
  const start = (after + 7) & ~7;
  return bytes.toString('latin1', start, start + NEW_MAGIC.length) === NEW_MAGIC ? start : undefined;
}

function text(bytes: Buffer, offset: number): string | undefined {
  const end = bytes.indexOf(0, offset);
  return offset < bytes.length && end !== -1 ? bytes.toString('utf8', offset, end) : undefined;
}

// SPDX-License-Identifier: Apache-2.0
//
// How the manifest commands end: with the exit codes of Gramine's own tools (1 for a bad manifest, 2 for wrong usage), one
// line for each problem, and a stack only for a bug of ours.

import { CommanderError } from 'commander';
import type { ManifestError } from '../manifest/index.js';
import { INTERNAL_EXIT_CODE } from './exit-codes.js';

export const BAD_MANIFEST_EXIT_CODE = 1;
export const BAD_USAGE_EXIT_CODE = 2;

/** A wrong combination of options. */
export class UsageError extends Error {}

/** A file of the user's that cannot be read or written. */
export class FileError extends Error {
  constructor(what: string, error: unknown) {
    const code = (error as NodeJS.ErrnoException).code ?? '';
    const reasons: Readonly<Record<string, string>> = {
      ENOENT: 'no such file or directory',
      EACCES: 'permission denied',
      EISDIR: 'it is a directory',
      ENOTDIR: 'a part of the path is not a directory',
      ENOSPC: 'no space left on the device',
      EROFS: 'the file system is read-only',
    };
    super(`${what}: ${reasons[code] ?? (error as Error).message}`, { cause: error });
  }
}

/** By its name: the room that makes them is loaded late, and perhaps not at all. */
function isManifestError(error: unknown): error is ManifestError {
  return error instanceof Error && error.name === 'ManifestError' && 'problems' in error;
}

/** A reader that has seen enough, such as head, closes its pipe: no reason to complain. */
export function endQuietlyWithReader(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    process.exit(0);
  });
}

/** Prints an error; returns the exit code. */
export function reportManifestError(name: string, error: unknown): number {
  const say = (line: string) => process.stderr.write(`${name}: ${line}\n`);
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    say(`${error.message.replace(/^error: /, '')}\nTry ${name} --help.`);
    return BAD_USAGE_EXIT_CODE;
  }
  if (error instanceof UsageError) {
    say(`${error.message}\nTry ${name} --help.`);
    return BAD_USAGE_EXIT_CODE;
  }
  if (error instanceof FileError) {
    say(error.message);
    return BAD_USAGE_EXIT_CODE;
  }
  if (isManifestError(error)) {
    for (const problem of error.problems) say(problem);
    if (error.problems.length > 1) say(`${error.problems.length} problems`);
    return BAD_MANIFEST_EXIT_CODE;
  }
  say(`internal error, please report it: ${error instanceof Error ? error.stack : String(error)}`);
  return INTERNAL_EXIT_CODE;
}

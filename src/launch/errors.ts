// SPDX-License-Identifier: Apache-2.0

/** Why a launch failed; docs/cli.md gives each its exit code. */
export type LaunchErrorCode =
  | 'usage'
  | 'manifest-invalid'
  | 'manifest-missing'
  | 'program-missing'
  | 'wrong-architecture'
  | 'qemu-missing'
  | 'qemu-too-old'
  | 'virtiofsd-unusable'
  | 'no-space'
  | 'helper-failed'
  | 'port-in-use'
  | 'image-corrupt'
  | 'not-permitted'
  | 'policy-too-large'
  | 'guest-died'
  | 'tdx-unavailable';

/** A launch that cannot go on. The message says what, where, and the user's next step; it needs no stack trace. */
export class LaunchError extends Error {
  override readonly name = 'LaunchError';

  constructor(
    readonly code: LaunchErrorCode,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Turns a failed file operation of ours into a LaunchError; anything that is not an errno is a bug and stays one. */
export function fromErrno(error: unknown, what: string): Error {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  if (!(error instanceof Error) || typeof code !== 'string')
    return error instanceof Error ? error : new Error(String(error));
  switch (code) {
    case 'ENOSPC':
    case 'EDQUOT':
      return new LaunchError('no-space', `${what}: no space left on the device. Free some, or set TMPDIR.`, {
        cause: error,
      });
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new LaunchError('not-permitted', `${what}: ${error.message}`, { cause: error });
    default:
      return new LaunchError('helper-failed', `${what}: ${error.message}`, { cause: error });
  }
}

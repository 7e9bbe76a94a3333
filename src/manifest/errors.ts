// SPDX-License-Identifier: Apache-2.0

/** What went wrong with a manifest. */
export type ManifestErrorCode =
  /** The text is not TOML. */
  | 'syntax'
  /** A key has the wrong type or value, or keys contradict each other. */
  | 'invalid'
  /** Two entries for one trusted file disagree. */
  | 'conflict'
  /** The template cannot be rendered. */
  | 'template'
  /** A file that the manifest names cannot be read, or changes while it is. */
  | 'file'
  /** No such program, or an interpreter or loader that it needs is missing. */
  | 'program-missing'
  /** Not a program that this project runs: not x86-64 ELF, no script. */
  | 'wrong-architecture';

/** An offence and the dotted path of its key, list positions in brackets. */
export interface KeyProblem {
  readonly key: string;
  readonly message: string;
}

/** A manifest that cannot be used; `problems` lists every offence, each with the path of its key. */
export class ManifestError extends Error {
  override readonly name = 'ManifestError';

  constructor(
    readonly code: ManifestErrorCode,
    readonly problems: readonly string[],
    options?: ErrorOptions,
    /** The same as `problems`, key and message apart, where they are about keys. */
    readonly byKey: readonly KeyProblem[] = [],
  ) {
    super(problems.join('; '), options);
  }
}

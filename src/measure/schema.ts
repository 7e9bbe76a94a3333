// SPDX-License-Identifier: Apache-2.0
//
// What the room's JSON schemas share. zod/mini: a third of zod's size, and of its time to load.

import type * as z from 'zod/mini';

type Issue = z.core.$ZodIssue;

/** The first offences of a value, each with its path and what was expected there. */
export function describeIssues(error: { readonly issues: readonly Issue[] }): string {
  const all = error.issues.slice(0, 5).map((i) => `${i.path.join('.') || '(top)'}: ${describe(i)}`);
  return all.join('; ');
}

function describe(issue: Issue): string {
  switch (issue.code) {
    case 'invalid_type':
      return `expected ${issue.expected}`;
    case 'invalid_value':
      return `expected ${issue.values.map(String).join(' or ')}`;
    case 'unrecognized_keys':
      return `unknown key ${issue.keys.join(', ')}`;
    case 'too_small':
      return `at least ${issue.minimum}`;
    case 'too_big':
      return `at most ${issue.maximum}`;
    default:
      return issue.message;
  }
}

/** A value made when it is first asked for: nothing works at import time. */
export function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

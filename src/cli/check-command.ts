// SPDX-License-Identifier: Apache-2.0
//
// The command line of gramine-manifest-check: silence and 0 for a good manifest; every problem on standard output, as
// Gramine's tool does, and 1 for a bad one; 2 for what is no manifest at all.

import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { completion } from './completion.js';
import {
  BAD_MANIFEST_EXIT_CODE,
  BAD_USAGE_EXIT_CODE,
  endQuietlyWithReader,
  FileError,
  reportManifestError,
  UsageError,
} from './manifest-errors.js';
import { readVersion } from './version.js';

const NAME = 'gramine-manifest-check';

/** Runs the command and ends the process. */
export async function runCheckCommand(argv: readonly string[]): Promise<void> {
  endQuietlyWithReader();
  try {
    process.exitCode = await check(argv);
  } catch (error) {
    process.exitCode = reportManifestError(NAME, error);
    // What is not TOML is wrong usage to Gramine's tool.
    if ((error as { code?: unknown }).code === 'syntax') process.exitCode = BAD_USAGE_EXIT_CODE;
  }
}

export function buildCheckCommand(): Command {
  return new Command(NAME)
    .description('Say what is wrong with a manifest: every problem at once, with line and column.')
    .argument('[file]', 'the manifest; "-" or nothing: standard input', '-')
    .option('--gramine', "judge as Gramine's own checker does: no table tdx, loader.entrypoint required")
    .option('--completion <shell>', 'print the completion script for bash or zsh')
    .version(readVersion(), '-V, --version')
    .exitOverride()
    .configureOutput({ writeErr: () => {} })
    .addHelpText(
      'after',
      `
Checks the output of gramine-manifest; a template has to be rendered first (gramine-manifest does, and checks too).
Exit status: 0 good, 1 bad (the problems are on standard output), 2 no TOML, no such file or wrong usage.
docs/manifest.md lists every key.`,
    );
}

async function check(argv: readonly string[]): Promise<number> {
  const command = buildCheckCommand();
  command.parse(argv as string[], { from: 'user' });
  const { gramine = false, completion: shell } = command.opts<{ gramine?: boolean; completion?: string }>();
  if (shell !== undefined) {
    process.stdout.write(completion(shell, command));
    return 0;
  }
  const [file = '-', ...more] = command.processedArgs.length > 0 ? command.args : [];
  if (more.length > 0) throw new UsageError('one manifest at a time');
  const name = file === '-' ? '<stdin>' : file;
  const { checkManifest, decodeText, formatProblem, parseToml } = await import('./check-work.js');
  const manifest = parseToml(decodeText(read(file), name), name);
  const problems = checkManifest(manifest, { allowTdx: !gramine, requireLoader: gramine });
  for (const problem of problems) process.stdout.write(`${formatProblem(problem, name)}\n`);
  return problems.length > 0 ? BAD_MANIFEST_EXIT_CODE : 0;
}

function read(file: string): Buffer {
  try {
    return readFileSync(file === '-' ? 0 : file);
  } catch (error) {
    throw new FileError(`cannot read ${file === '-' ? 'standard input' : file}`, error);
  }
}

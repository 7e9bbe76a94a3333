#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// npm test: sets up, then runs everything: lint, native unit tests, and vitest with the end-to-end tests. The very last
// line sums all suites: "N passed, N failed, N skipped". Arguments go to vitest (a filter of test files).

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

process.chdir(join(dirname(fileURLToPath(import.meta.url)), '..'));
const total = { passed: 0, failed: 0, skipped: 0 };

/** Runs a command with its output shown; returns whether it succeeded, and its standard output. */
function run(title, command, args, { capture = false } = {}) {
  console.log(`\n== ${title}`);
  const result = spawnSync(command, args, {
    stdio: ['ignore', capture ? 'pipe' : 'inherit', 'inherit'],
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  if (capture) process.stdout.write(result.stdout ?? '');
  if (result.error) console.log(`${command}: ${result.error.message}`);
  return { ok: result.status === 0, output: result.stdout ?? '' };
}

function count(passed, failed, skipped = 0) {
  total.passed += passed;
  total.failed += failed;
  total.skipped += skipped;
}

function finish() {
  console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  process.exit(total.failed === 0 ? 0 : 1);
}

if (!run('set-up', 'scripts/setup', []).ok) {
  count(0, 1);
  finish();
}

const lint = run('format, lint, types, order of rooms', 'npm', ['run', '--silent', 'lint']).ok;
count(lint ? 1 : 0, lint ? 0 : 1);

const unit = run('native unit tests (kernel rooms, bridge)', 'make', ['-s', '-C', 'kernel-bin', 'test'], {
  capture: true,
});
const sums = [...unit.output.matchAll(/^unit: ([0-9]+) passed, ([0-9]+) failed(?:, ([0-9]+) skipped)?/gm)];
for (const [, passed, failed, skipped = '0'] of sums) count(Number(passed), Number(failed), Number(skipped));
// A build that broke, or a test that crashed before its summary, is a failure of its own.
if (sums.length === 0 || (!unit.ok && sums.every((sum) => sum[2] === '0'))) count(0, 1);

const reports = mkdtempSync(join(tmpdir(), 'gramine-test-'));
const report = join(reports, 'vitest.json');
const vitest = [
  'node_modules/vitest/vitest.mjs',
  'run',
  '--reporter=default',
  '--reporter=json',
  `--outputFile=${report}`,
];
const tests = run('TypeScript, guest and end-to-end tests', process.execPath, [...vitest, ...process.argv.slice(2)]);
try {
  const { numPassedTests, numFailedTests, numPendingTests, numTodoTests, numFailedTestSuites } = JSON.parse(
    readFileSync(report, 'utf8'),
  );
  // A file that does not even load has no tests to fail.
  const brokenFiles = numFailedTests === 0 && !tests.ok ? Math.max(1, numFailedTestSuites) : 0;
  count(numPassedTests, numFailedTests + brokenFiles, numPendingTests + numTodoTests);
} catch {
  count(0, 1);
}
rmSync(reports, { recursive: true, force: true });
finish();

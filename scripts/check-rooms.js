#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// Checks the order of the rooms in src/: manifest <- measure <- launch <- cli, each entered by its index.ts only,
// and measure free of Node's I/O, so that the same bytes always give the same digests.

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOMS = ['manifest', 'measure', 'launch', 'cli'];
const src = join(dirname(fileURLToPath(import.meta.url)), '..', 'src');

/** @param {string} specifier @param {string} file @param {string} room @returns {string | undefined} */
function complaint(specifier, file, room) {
  if (!specifier.startsWith('.')) {
    // node:crypto computes and does no I/O: the one Node module that measure may use.
    const isIo = (specifier.startsWith('node:') && specifier !== 'node:crypto') || specifier === 'execa';
    return room === 'measure' && isIo ? `measure must not import ${specifier}` : undefined;
  }
  const target = relative(src, normalize(join(dirname(file), specifier))).split('/');
  const targetRoom = target[0] ?? '';
  if (targetRoom === room) return undefined;
  if (!ROOMS.includes(targetRoom)) return `imports ${specifier}, outside of every room`;
  if (ROOMS.indexOf(targetRoom) > ROOMS.indexOf(room)) return `${room} must not import ${targetRoom} (${specifier})`;
  if (target.slice(1).join('/') !== 'index.js') return `enters ${targetRoom} by ${specifier} instead of its index.js`;
  return undefined;
}

let wrong = 0;
for (const room of ROOMS) {
  for (const entry of readdirSync(join(src, room), { recursive: true, encoding: 'utf8' })) {
    if (!entry.endsWith('.ts')) continue;
    const file = join(src, room, entry);
    const text = readFileSync(file, 'utf8');
    for (const match of text.matchAll(/(?:\bfrom|\bimport)\s*\(?\s*['"]([^'"]+)['"]/g)) {
      const problem = complaint(match[1] ?? '', file, room);
      if (problem !== undefined) {
        process.stderr.write(`${relative(dirname(src), file)}: ${problem}\n`);
        wrong += 1;
      }
    }
  }
}
if (wrong > 0) process.exitCode = 1;

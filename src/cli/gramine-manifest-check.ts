#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// gramine-manifest-check: says what is wrong with a manifest.

import { runCheckCommand } from './check-command.js';

void runCheckCommand(process.argv.slice(2));

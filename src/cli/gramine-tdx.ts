#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// gramine-tdx: runs a program in a trust domain, real or simulated.

import { runVmCommand } from './vm-command.js';

void runVmCommand('gramine-tdx', process.argv.slice(2));

#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// gramine-vm: runs a program in an ordinary virtual machine.

import { runVmCommand } from './vm-command.js';

void runVmCommand('gramine-vm', process.argv.slice(2));

#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
//
// gramine-manifest: makes a manifest from a template.

import { runManifestCommand } from './manifest-command.js';

void runManifestCommand(process.argv.slice(2));

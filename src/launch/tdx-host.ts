// SPDX-License-Identifier: Apache-2.0
//
// Whether this host can run a TD, and if not, everything that is missing and what to do about each, so that nobody has to
// try five times. Facts are read here and judged by a function of their own.

import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { LaunchError } from './errors.js';
import type { HostKnowledge } from './host-knowledge.js';
import { isOlder, locateQemu, MIN_TDX_VERSION, type QuoteAddress } from './qemu.js';

/** Where Intel's quote generation service listens when its configuration names no vsock port. */
export const DEFAULT_QGS_SOCKET = '/var/run/tdx-qgs/qgs.socket';
const KVM_TDX_PARAMETER = '/sys/module/kvm_intel/parameters/tdx';
const CPU_FLAG = 'tdx_host_platform';

export interface TdxHostFacts {
  readonly cpuFlags: readonly string[];
  /** Whether the KVM module for this CPU is loaded; what its parameter `tdx` says, undefined: it has none. */
  readonly kvmIntel: boolean;
  readonly kvmTdx: string | undefined;
  /** Why /dev/kvm cannot be opened. */
  readonly kvmError: 'ENOENT' | 'EACCES' | undefined;
  readonly qemu: { readonly path: string; readonly version: string } | undefined;
  /** Set when a quoting service is needed and its unix socket is not there. */
  readonly missingQuoteSocket: string | undefined;
}

/** Each thing that is missing, with what to do. Empty: a TD can be tried. */
export function tdxObstacles(facts: TdxHostFacts): string[] {
  const out: string[] = [];
  if (!facts.cpuFlags.includes(CPU_FLAG)) {
    out.push(
      `the CPU: /proc/cpuinfo shows no ${CPU_FLAG}. TDX needs a Xeon of the 4th generation (some models) or the 5th or later, ` +
        'TDX switched on in the BIOS (with TME-MT, and a key count for TDX above 0), and a host kernel built with CONFIG_INTEL_TDX_HOST',
    );
  }
  if (!facts.kvmIntel) {
    out.push('KVM: the module kvm_intel is not loaded. Switch VT-x on in the BIOS, then: modprobe kvm_intel tdx=1');
  } else if (facts.kvmTdx === undefined) {
    out.push('KVM: this kernel’s kvm_intel knows no TDX. Linux 6.16 or later with CONFIG_KVM_INTEL_TDX is needed');
  } else if (!/^[Y1]/.test(facts.kvmTdx)) {
    out.push(
      `KVM: ${KVM_TDX_PARAMETER} is ${facts.kvmTdx}, expected Y. Add kvm_intel.tdx=1 to the kernel's command line and reboot; ` +
        'if it stays N, dmesg | grep -i tdx says why',
    );
  }
  if (facts.kvmError === 'ENOENT') out.push('KVM: there is no /dev/kvm');
  if (facts.kvmError === 'EACCES') {
    out.push('KVM: /dev/kvm cannot be opened. Join its group and log in again: sudo usermod -aG kvm $USER');
  }
  if (facts.qemu === undefined) {
    out.push('QEMU: qemu-system-x86_64 is not on PATH. Install QEMU 10.1 or later');
  } else if (isOlder(facts.qemu.version, MIN_TDX_VERSION)) {
    out.push(
      `QEMU: ${facts.qemu.path} is version ${facts.qemu.version}, and TDX came with ${MIN_TDX_VERSION.join('.')}. ` +
        'Debian 13 has a newer one in trixie-backports',
    );
  }
  if (facts.missingQuoteSocket !== undefined) {
    out.push(
      `quotes: there is no ${facts.missingQuoteSocket}, and the manifest or --quote-service asks for it. Install and start Intel’s ` +
        'quote generation service (tdx-qgs, qgsd), or name one: --quote-service unix:PATH, or vsock:CID:PORT (usually vsock:2:4050). ' +
        '--quote-service none runs without quotes',
    );
  }
  return out;
}

/** The service that a run uses; undefined: none, so that asking for a quote fails in the guest. */
export function chooseQuoteService(wanted: QuoteAddress | 'auto' | 'none', needed: boolean): QuoteAddress | undefined {
  if (wanted === 'none') return undefined;
  if (wanted !== 'auto') return wanted;
  return needed || existsSync(DEFAULT_QGS_SOCKET) ? { type: 'unix', path: DEFAULT_QGS_SOCKET } : undefined;
}

export function readTdxHostFacts(knowledge: HostKnowledge, quotes: QuoteAddress | undefined): TdxHostFacts {
  const flags = readFileSync('/proc/cpuinfo', 'latin1')
    .split('\n')
    .find((line) => line.startsWith('flags'));
  let qemu: TdxHostFacts['qemu'];
  try {
    qemu = locateQemu(knowledge);
  } catch (error) {
    if (!(error instanceof LaunchError)) throw error;
  }
  return {
    cpuFlags: flags?.split(/\s+/) ?? [],
    kvmIntel: existsSync('/sys/module/kvm_intel'),
    kvmTdx: existsSync(KVM_TDX_PARAMETER) ? readFileSync(KVM_TDX_PARAMETER, 'latin1').trim() : undefined,
    kvmError: kvmError(),
    qemu,
    missingQuoteSocket: quotes?.type === 'unix' && !existsSync(quotes.path) ? quotes.path : undefined,
  };
}

function kvmError(): TdxHostFacts['kvmError'] {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'ENOENT' : 'EACCES';
  }
}

/** QEMU's path on a host that can run TDs. Errors: LaunchError `tdx-unavailable` with everything that is missing. */
export function requireTdxHost(knowledge: HostKnowledge, quotes: QuoteAddress | undefined): string {
  const facts = readTdxHostFacts(knowledge, quotes);
  const obstacles = tdxObstacles(facts);
  if (obstacles.length === 0 && facts.qemu !== undefined) return facts.qemu.path;
  throw new LaunchError(
    'tdx-unavailable',
    `this host cannot run a TD:${obstacles.map((text) => `\n  ${text}`).join('')}\n` +
      'Without TDX: --simulate runs the same image in a simulated TD (nothing is protected), gramine-vm in an ordinary VM.',
  );
}

/** `unix:PATH`, `vsock:CID:PORT`, `auto` or `none`. Errors: LaunchError `usage`. */
export function parseQuoteService(text: string): QuoteAddress | 'auto' | 'none' {
  if (text === 'auto' || text === 'none') return text;
  const vsock = /^vsock:([0-9]{1,10}):([0-9]{1,10})$/.exec(text);
  if (vsock !== null) {
    const [cid, port] = [Number(vsock[1]), Number(vsock[2])];
    if (cid <= 0xffff_ffff && port <= 0xffff_ffff) return { type: 'vsock', cid, port };
  }
  const path = /^unix:(\/.+)$/.exec(text)?.[1];
  if (path !== undefined) return { type: 'unix', path };
  throw new LaunchError('usage', `--quote-service ${text}: expected unix:/PATH, vsock:CID:PORT, auto or none`);
}

/** 48 bytes in hexadecimal. Errors: LaunchError `usage`. */
export function parseRegister(option: string): (text: string) => Uint8Array {
  return (text) => {
    if (/^[0-9a-fA-F]{96}$/.test(text)) return Buffer.from(text, 'hex');
    throw new LaunchError('usage', `${option} ${text}: expected 48 bytes as 96 hexadecimal digits`);
  };
}

// SPDX-License-Identifier: Apache-2.0
//
// /dev/attestation as a program sees it, in an ordinary VM and in a simulated TD, and what a verifier says to the quotes.

import { execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseEventLog, parseQuote, parseTdReport, replayEventLog, sha384, toHex } from '../../src/measure/index.js';
import { type Outcome, Running, root } from './machine.js';

const work = realpathSync(mkdtempSync(join(tmpdir(), 'gt-attestation-')));
const out = (name: string) => readFileSync(join(work, 'out', name));
const simulator = process.env.GRAMINE_TDX_SIMULATOR ?? join(root, 'kernel-bin/build/tdxsim.bin');
const kernel = process.env.GRAMINE_TDX_KERNEL ?? join(root, 'kernel-bin/build/kernel.bfv');
const canRun = existsSync('/bin/busybox');
const KEY = '00112233445566778899aabbccddeeff';

beforeAll(() => {
  mkdirSync(join(work, 'out'));
  chmodSync(join(work, 'out'), 0o777); // the program is another user
  for (const [app, attestation] of [
    ['dcap', 'dcap'],
    ['none', 'none'],
  ]) {
    writeFileSync(
      join(work, 'template'),
      `libos.entrypoint = "/bin/busybox"
       loader.insecure__use_cmdline_argv = true
       loader.env.PATH = "/bin"
       loader.uid = 1000
       fs.root.type = "tmpfs"
       fs.mounts = [ { path = "/bin/busybox", uri = "file:/bin/busybox" }, { path = "/bin/sh", uri = "file:/bin/busybox" },
                     { path = "/out", uri = "file:out" } ]
       fs.insecure__keys.wrap = "${KEY}"
       sgx.remote_attestation = "${attestation}"
       sgx.trusted_files = ["file:/bin/busybox"]
       sgx.allowed_files = ["file:out/"]`,
    );
    const manifest = join(root, 'dist/cli/gramine-manifest.js');
    if (canRun) execFileSync(process.execPath, [manifest, '-q', 'template', `${app}.manifest.tdx`], { cwd: work });
  }
});
afterAll(() => rmSync(work, { recursive: true, force: true }));

async function run(mode: readonly string[], app: 'dcap' | 'none' | 'busybox', script: string): Promise<Outcome> {
  const [name = '', ...options] = mode;
  const words = [join(root, 'dist/cli', `${name}.js`), ...options, '-q', '-m', '256M', app, 'sh', '-c', script];
  const running = new Running(spawn(process.execPath, words, { cwd: work }));
  running.child.stdin.end();
  return running.ended;
}
const VM = ['gramine-vm'];
const TD = ['gramine-tdx', '--simulate', '--collateral', 'collateral'];
const cd = 'cd /dev/attestation; ';

describe.skipIf(!canRun)('/dev/attestation', { timeout: 120_000 }, () => {
  const modes = [
    ['gramine-vm', VM],
    ...(existsSync(simulator) ? [['gramine-tdx --simulate', TD] as const] : []),
  ] as const;
  describe.each(modes)('with %s', (_, mode) => {
    it('keeps 64 bytes of report data: padded, continued, refused when too long, inherited by a child', async () => {
      const script = `${cd} d=user_report_data; show() { xxd -p -c 64 $d; }
        printf first-and-longer > $d; printf ab > $d; show
        exec 3> $d; printf xy >&3; printf z >&3; show
        printf '%065d' 0 > $d || echo refused; show
        (show; printf child > $d; show); show`;
      const { status, stdout } = await run(mode, 'dcap', script);
      const padded = (text: string) => Buffer.concat([Buffer.from(text), Buffer.alloc(64)]).toString('hex', 0, 64);
      expect(stdout.split('\n')).toEqual([
        padded('ab'),
        padded('xyz'),
        'refused',
        padded('xyz'),
        padded('xyz'),
        padded('child'),
        padded('xyz'),
        '',
      ]);
      expect(status).toBe(0);
    });

    it('extends rtmr3 by each write, logs it, and refuses to touch the other registers', async () => {
      const script = `${cd} printf one > rtmr3; printf two > rtmr3; cat rtmr3 > /out/rtmr3; cat event_log > /out/log
        for i in 0 1 2; do echo no > rtmr$i || echo refused; done
        head -c 4097 /dev/zero > /tmp/big; dd if=/tmp/big of=rtmr3 bs=8192 2>/dev/null || echo too long
        cmp rtmr3 /out/rtmr3 && echo same`;
      const { stdout } = await run(mode, 'dcap', `mkdir /tmp; ${script}`);
      expect(stdout).toBe('refused\nrefused\nrefused\ntoo long\nsame\n');
      const log = parseEventLog(out('log'));
      expect(
        log.events.slice(-2).map(({ data, digest }) => [Buffer.from(data).toString(), toHex(digest ?? data)]),
      ).toEqual(['one', 'two'].map((text) => [text, toHex(sha384(Buffer.from(text)))]));
      expect(toHex(replayEventLog(log)[3])).toBe(out('rtmr3').toString('hex'));
    });

    it('has the keys that the manifest names, for every process', async () => {
      const script = `${cd} cd keys; ls; xxd -p wrap; (printf 0123456789abcdef > wrap); cat wrap; echo
        printf short > wrap || echo refused; cat wrap; echo; touch new || echo no new ones; rm wrap || echo stays`;
      const { stdout } = await run(mode, 'dcap', script);
      expect(stdout).toBe(`wrap\n${KEY}\n0123456789abcdef\nrefused\n0123456789abcdef\nno new ones\nstays\n`);
    });
  });

  it('in an ordinary VM offers no proof', async () => {
    const { stdout } = await run(VM, 'dcap', `${cd} cat attestation_type; echo; ls`);
    expect(stdout).toBe('none\nattestation_type\nevent_log\nkeys\nrtmr0\nrtmr1\nrtmr2\nrtmr3\nuser_report_data\n');
  });
});

describe.skipIf(!canRun || !existsSync(simulator))('a simulated TD', { timeout: 120_000 }, () => {
  const verify = (quote: string, ...args: string[]) =>
    spawnSync(
      process.execPath,
      [join(root, 'dist/cli/gramine-tdx-verify.js'), '--quote', join(work, 'out', quote), ...args],
      { cwd: work, encoding: 'utf8' },
    );
  const trusting = ['--collateral', 'collateral', '--trust-root', 'collateral/root.pem'];

  it('without the manifest’s word has reports and no quotes', async () => {
    const { stdout } = await run(TD, 'none', `${cd} cat attestation_type; echo; ls report quote; wc -c < report`);
    expect(stdout).toBe('none\nreport\n1024\n');
  });

  it('makes a report of its registers and report data', async () => {
    const script = `${cd} cat attestation_type; printf data > user_report_data; printf x > rtmr3
      cat report > /out/report; cat rtmr0 rtmr1 rtmr2 rtmr3 > /out/rtmrs`;
    const owner = ['--mrowner', 'ab'.repeat(48), '--mrconfigid', 'cd'.repeat(48), '--mrownerconfig', 'ef'.repeat(48)];
    const { stdout } = await run([...TD, ...owner], 'dcap', script);
    expect(stdout).toBe('dcap-simulated');
    const { td, reportData, tcb } = parseTdReport(out('report'));
    expect(Buffer.concat(td.rtmrs).toString('hex')).toBe(out('rtmrs').toString('hex'));
    expect(Buffer.from(reportData).toString()).toBe(`data${'\0'.repeat(60)}`);
    expect(toHex(tcb.mrSeam)).toBe(toHex(sha384(Buffer.from('gramine-tdx simulated TDX module'))));
    expect([td.mrOwner, td.mrConfigId, td.mrOwnerConfig].map(toHex)).toEqual(
      ['ab', 'cd', 'ef'].map((byte) => byte.repeat(48)),
    );
  });

  it.each([4, 5] as const)('makes quotes of version %i that verify with its root, and not without', async (version) => {
    const script = `${cd} printf nonce > user_report_data; cat quote > /out/quote; cat event_log > /out/log`;
    const { status, stderr } = await run([...TD, '--quote-version', String(version)], 'dcap', script);
    expect({ status, stderr }).toEqual({
      status: 0,
      stderr: expect.stringMatching(/^gramine-tdx: SIMULATED: [^\n]*\n$/),
    });
    expect(parseQuote(out('quote')).header.version).toBe(version);
    const nonce = ['--report-data', Buffer.from('nonce').toString('hex')];
    const good = verify('quote', ...trusting, ...nonce, '--event-log', 'out/log');
    expect(good.status, good.stdout + good.stderr).toBe(0);
    expect(verify('quote', '--collateral', 'collateral', ...nonce).status).toBe(1);
    expect(verify('quote', ...trusting, '--report-data', '00').status).toBe(1);
  });

  it('without a manifest has quotes that are what was measured beforehand', async () => {
    const script = `${cd} cat attestation_type; printf nonce > user_report_data; cat quote > /out/free`;
    const options = ['-m', '256M', '-c', '1', '-v', 'out:/out:rw', '--kernel', kernel];
    const measured = [...options, '--json', 'free.json', 'busybox', '--', 'sh', '-c', script];
    execFileSync(process.execPath, [join(root, 'dist/cli/gramine-tdx-measure.js'), ...measured], {
      cwd: work,
      stdio: 'ignore',
    });
    const { stdout, status } = await run([...TD, '-c', '1', '-v', 'out:/out:rw'], 'busybox', script);
    expect({ stdout, status }).toEqual({ stdout: 'dcap-simulated', status: 0 });
    const nonce = ['--report-data', Buffer.from('nonce').toString('hex')];
    const good = verify('free', ...trusting, ...nonce, '--reference', 'free.json');
    expect(good.status, good.stdout + good.stderr).toBe(0);
  });

  it('answers many processes at once, each with its own report data', async () => {
    const script = `${cd} for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
      (printf "caller $i" > user_report_data; cat quote > /out/quote$i) & done; wait`;
    const { status } = await run([...TD, '-c', '2'], 'dcap', script);
    expect(status).toBe(0);
    for (let i = 1; i <= 12; i++) {
      const { reportData } = parseQuote(out(`quote${i}`)).body;
      expect(Buffer.from(reportData).toString().replaceAll('\0', '')).toBe(`caller ${i}`);
    }
  });

  describe('with a quoting service that', () => {
    /** Runs a script in a TD whose quoting service is `answer`: called with each request's bytes so far and its socket. */
    async function withService(script: string, answer: (request: Buffer, socket: Socket) => void): Promise<Outcome> {
      const path = join(work, 'service');
      const server = createServer((socket) => {
        let request = Buffer.alloc(0);
        socket.on('error', () => {});
        socket.on('data', (data: Buffer) => {
          request = Buffer.concat([request, data]);
          const length = request.length >= 4 ? 4 + request.readUInt32BE(0) : Number.POSITIVE_INFINITY;
          if (request.length < length) return;
          const whole = request.subarray(0, length);
          request = Buffer.from(request.subarray(length));
          answer(whole, socket);
        });
      });
      server.listen(path);
      try {
        return await run(['gramine-tdx', '--simulate', '--quote-service', `unix:${path}`], 'dcap', script);
      } finally {
        server.close();
      }
    }
    const framed = (message: Buffer) =>
      Buffer.concat([Buffer.from(Uint32Array.of(message.length).buffer).swap32(), message]);

    it('is silent: a signal ends the wait, and others wait on', async () => {
      const requests: Buffer[] = [];
      const script = `${cd} cat quote & waiting=$!; timeout 3 cat quote; echo $?; kill $waiting; wait $waiting; echo $?`;
      const { stdout, status } = await withService(script, (request) => void requests.push(request));
      expect({ stdout, status }).toEqual({ stdout: '143\n143\n', status: 0 });
      // The simulator asks for one at a time, and the first was never answered.
      expect(requests).toHaveLength(1);
      expect(requests[0]?.subarray(4 + 24).length).toBe(1024);
    });

    it.each<[string, (request: Buffer) => Buffer | undefined, RegExp]>([
      ['answers with an error', () => framed(header(16, 0x12001)), /could not make a quote/],
      ['answers with no quote', () => framed(response(Buffer.alloc(3000, 7))), /is not a quote/],
      ['sends the request back', (r) => r, /could not make a quote/],
      ['sends a size that is not so', () => framed(response(Buffer.alloc(100), 99_999)), /could not make a quote/],
      ['sends more than fits', () => framed(response(Buffer.alloc(33_000, 4))), /could not make a quote/],
    ])('%s', async (_, answer, reason) => {
      const { stdout, stderr } = await withService(`${cd} cat quote; echo $?`, (request, socket) => {
        const bytes = answer(request);
        if (bytes !== undefined) socket.write(bytes);
      });
      expect(stdout).toBe('1\n');
      expect(stderr).toMatch(reason);
      expect(stderr).toContain("cat: can't open 'quote': Input/output error");
    });

    const header = (size: number, error: number) => {
      const bytes = Buffer.alloc(16);
      bytes.writeUInt16LE(1, 0);
      bytes.writeUInt16LE(1, 2);
      bytes.writeUInt32LE(1, 4);
      bytes.writeUInt32LE(size, 8);
      bytes.writeUInt32LE(error, 12);
      return bytes;
    };
    function response(quote: Buffer, size = quote.length): Buffer {
      const sizes = Buffer.alloc(8);
      sizes.writeUInt32LE(size, 4);
      return Buffer.concat([header(24 + quote.length, 0), sizes, quote]);
    }
  });

  it('without a quoting service says so', async () => {
    const mode = ['gramine-tdx', '--simulate', '--quote-service', 'none'];
    const { stdout, stderr } = await run(mode, 'dcap', `${cd} cat quote; echo $?`);
    expect(stdout).toBe('1\n');
    expect(stderr).toContain('the host has no quoting service');
    expect(stderr).toContain("cat: can't open 'quote': No such device");
  });

  it('as a debug TD says so in its quotes, which are refused', async () => {
    await run([...TD, '--debug-td'], 'dcap', `${cd} cat quote > /out/quote`);
    const { status, stdout } = verify('quote', ...trusting);
    expect(status).toBe(1);
    expect(stdout).toContain('FAIL not a debug TD');
  });
});

// SPDX-License-Identifier: Apache-2.0
//
// gramine-manifest --auto: the template that it writes becomes a manifest under which the program runs, and names every
// file that the program is seen to open on this machine. Programs that are not installed are skipped.

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compilePolicy, parseManifest, trace } from '../../src/manifest/index.js';
import { freePort, root, runVm, startVm } from './machine.js';

const work = mkdtempSync(join(tmpdir(), 'gt-auto-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));
const tool = join(root, 'dist/cli/gramine-manifest.js');

interface Program {
  readonly path: string;
  readonly args: readonly string[];
  /** What it prints before it ends, or, for a server, what it says to `request`. */
  readonly prints?: RegExp;
  readonly serves?: { readonly port: number; readonly request: string; readonly answer: RegExp };
}

const PROGRAMS: readonly Program[] = [
  {
    path: '/usr/bin/redis-server',
    args: ['--save', '', '--protected-mode', 'no'],
    serves: { port: 6379, request: 'PING\r\n', answer: /\+PONG/ },
  },
  {
    path: '/usr/bin/memcached',
    args: ['-u', 'root', '-l', '0.0.0.0'],
    serves: { port: 11211, request: 'version\r\n', answer: /VERSION/ },
  },
  {
    path: '/usr/sbin/nginx',
    args: ['-c', join(work, 'nginx.conf'), '-e', 'stderr'],
    serves: { port: 8080, request: 'GET / HTTP/1.0\r\n\r\n', answer: /hello from nginx/ },
  },
  {
    path: '/usr/sbin/lighttpd',
    args: ['-D', '-f', join(work, 'lighttpd.conf')],
    serves: { port: 8081, request: 'GET / HTTP/1.0\r\n\r\n', answer: /HTTP\/1\.[01] [0-9]+/ },
  },
  { path: '/usr/bin/sqlite3', args: [':memory:', 'select 6*7, upper("ok");'], prints: /^42\|OK\n$/ },
  {
    path: '/usr/bin/python3',
    args: ['-c', 'import json, sqlite3, ssl, decimal; print(json.dumps([6 * 7, ssl.OPENSSL_VERSION[:7]]))'],
    prints: /^\[42, "OpenSSL"\]\n$/,
  },
  {
    path: '/usr/bin/node',
    args: ['-p', 'require("crypto").createHash("sha256").update("").digest("hex")'],
    prints: /^e3b0c442/,
  },
  {
    path: '/usr/bin/bash',
    args: ['-c', 'printf "%s\\n" $((6*7)); v=/tmp/gt-auto-$$; echo "$BASH_VERSION" >$v; read -r w <$v; echo $w'],
    prints: /^42\n[0-9]+\..*\n$/,
  },
];

beforeAll(() => {
  writeFileSync(
    join(work, 'nginx.conf'),
    'daemon off; master_process off; pid /tmp/nginx.pid; error_log stderr;\nevents {}\n' +
      'http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u;\n' +
      'scgi_temp_path /tmp/s; server { listen 8080; location / { return 200 "hello from nginx"; } } }\n',
  );
  writeFileSync(
    join(work, 'lighttpd.conf'),
    'server.document-root = "/tmp"\nserver.port = 8081\nserver.bind = "0.0.0.0"\n',
  );
});

/** The manifest of a program, beside a name under which gramine-vm finds it. */
function makeManifest({ path, args }: Program): string {
  const app = join(work, basename(path));
  const env = { ...process.env, XDG_CACHE_HOME: join(work, 'cache') };
  const run = (words: readonly string[]) => {
    const { status, stderr } = spawnSync(process.execPath, [tool, ...words], { encoding: 'utf8', env });
    // An ordinary user may not read some configuration.
    const said = stderr.replace(/^.* is left out: you may not read .*\n/gm, '');
    expect({ status, stderr: process.getuid?.() === 0 ? stderr : said }).toEqual({ status: 0, stderr: '' });
  };
  run(['--auto', '-o', `${app}.manifest.template`, path, ...args]);
  run([`${app}.manifest.template`, `${app}.manifest.tdx`]);
  return app;
}

/** Sends the request until the server answers. */
async function ask(port: number, request: string, pattern: RegExp): Promise<string> {
  for (let tries = 0; tries < 100; tries += 1) {
    const answer = await new Promise<string>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => socket.write(request));
      let text = '';
      socket.setTimeout(5000, () => socket.destroy());
      socket.on('data', (data) => {
        text += data.toString('latin1');
        if (pattern.test(text)) socket.destroy();
      });
      socket.on('error', () => {});
      socket.on('close', () => resolve(text));
    });
    if (pattern.test(answer)) return answer;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error(`no answer like ${pattern}`);
}

describe.each(PROGRAMS)('gramine-manifest --auto $path', (program) => {
  const there = existsSync(program.path);

  const canTrace = there && existsSync('/usr/bin/strace');
  it.skipIf(!canTrace)('names every file that the program opens here', { timeout: 240_000 }, () => {
    const app = makeManifest(program);
    const policy = compilePolicy(parseManifest(readFileSync(`${app}.manifest.tdx`, 'utf8'), app).value);
    const trusted = new Set([...policy.trusted.entries()].map(([path]) => path));
    const opened = trace(program.path, program.args, program.serves ? 3 : 20).map((path) => realpathSync(path));
    expect(opened.length).toBeGreaterThan(2);
    expect(opened.filter((path) => !trusted.has(path))).toEqual([]);
  });

  it.skipIf(!there)('makes a manifest under which it runs', { timeout: 240_000 }, async () => {
    const app = makeManifest(program);
    if (program.prints !== undefined) {
      const outcome = await runVm(['-q', app]);
      expect(outcome).toMatchObject({ status: 0, stdout: expect.stringMatching(program.prints) });
      return;
    }
    if (program.serves === undefined) throw new Error('nothing to expect');
    const port = await freePort();
    const vm = startVm(['-q', '-p', `${port}:${program.serves.port}`, app]);
    try {
      await ask(port, program.serves.request, program.serves.answer);
    } finally {
      vm.child.kill('SIGTERM');
      await vm.ended;
    }
  });
});

it('adds with --trace what only a run can tell', () => {
  writeFileSync(join(work, 'data'), 'x');
  execFileSync('sleep', ['0.05']);
  const script = `read -r x < "$(printf %s%s ${work}/da ta)"`;
  const args = [tool, '--no-cache', '--auto', '--trace', '20', '/usr/bin/bash', '-c', script];
  const template = execFileSync(process.execPath, args, { encoding: 'utf8' });
  expect(template).toContain(`"file:${work}/data", # opened when it was traced`);
});

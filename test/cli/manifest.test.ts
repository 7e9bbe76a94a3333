// SPDX-License-Identifier: Apache-2.0
//
// gramine-manifest and gramine-manifest-check as a user runs them: output, exit status, and what they say to mistakes.

import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const work = mkdtempSync(join(tmpdir(), 'gt-manifest-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(command: string, args: readonly string[], input: string | Uint8Array = '', cwd = work): Outcome {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, `dist/cli/${command}.js`), ...args], {
    cwd,
    input,
    encoding: 'utf8',
    env: { ...process.env, XDG_CACHE_HOME: join(work, 'cache') },
  });
  return { status, stdout, stderr };
}
const manifest = (args: readonly string[], input?: string | Uint8Array) => run('gramine-manifest', args, input);
const check = (args: readonly string[], input?: string | Uint8Array) => run('gramine-manifest-check', args, input);

const HEAD = `libos.entrypoint = "/app"
fs.mounts = [
  { path = "/data", uri = "file:data" },
  { type = "tmpfs", path = "/data/tmp" },
]
`;

beforeAll(() => {
  mkdirSync(join(work, 'data/sub'), { recursive: true });
  mkdirSync(join(work, 'data/tmp'));
  writeFileSync(join(work, 'data/a'), 'a');
  writeFileSync(join(work, 'data/sub/b'), 'b'.repeat(40_000));
  writeFileSync(join(work, 'data/tmp/hidden'), '');
  symlinkSync('sub/b', join(work, 'data/link'));
  symlinkSync('sub', join(work, 'data/folder'));
});

/** Makes a manifest of `text` and expects it to fail with status 1 and this message. */
function refused(text: string | Uint8Array, message: string | RegExp, ...args: string[]): void {
  writeFileSync(join(work, 't'), text);
  const outcome = manifest([...args, 't', 'refused.out']);
  expect(outcome.stderr).toMatch(message);
  expect(outcome.stderr).not.toMatch(/\n {4}at /);
  expect(outcome).toMatchObject({ status: 1, stdout: '' });
  expect(existsSync(join(work, 'refused.out'))).toBe(false);
}

describe('gramine-manifest', () => {
  it('writes to a file, to stdout, and reads from -c and stdin', () => {
    const text = `${HEAD}sgx.trusted_files = [ "file:data/a" ]\nloader.env.X = "{{ x }}"\n`;
    writeFileSync(join(work, 'a.template'), text);
    const direct = manifest(['-Dx=1', 'a.template']);
    expect(direct).toMatchObject({ status: 0, stderr: '' });
    expect(direct.stdout).toContain(
      `[[sgx.trusted_files]]\nuri = "file:data/a"\nsha256 = "${createHash('sha256').update('a').digest('hex')}"\n`,
    );
    expect(manifest(['-D', 'x=1', '-c', text]).stdout).toBe(direct.stdout);
    expect(manifest(['--define', 'x=1', '-'], text).stdout).toBe(direct.stdout);
    expect(manifest(['-Dx=1', 'a.template', 'a.manifest'])).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(readFileSync(join(work, 'a.manifest'), 'utf8')).toBe(direct.stdout);
    // -Dx without a value is Python's True.
    expect(manifest(['-Dx', 'a.template']).stdout).toContain('X = "True"');
  });

  it('adds table tdx when asked, or by the name of the output', () => {
    const text =
      `${HEAD}sgx.trusted_files = [ "file:data/", "file:data/tmp/hidden" ]\nsgx.allowed_files = [ "file:x" ]\n`.replace(
        ', "file:data/tmp/hidden"',
        '',
      );
    const { stdout } = manifest(['--tdx', '-c', text]);
    expect(manifest(['-c', text, 'b.manifest.tdx']).status).toBe(0);
    expect(readFileSync(join(work, 'b.manifest.tdx'), 'utf8')).toBe(stdout);
    expect(stdout).toContain('[[tdx.trusted_files]]\nuri = "file:data/link"\nlink = "sub/b"\n');
    expect(stdout).toContain('[[tdx.trusted_files]]\nuri = "file:data/folder"\nlink = "sub"\n');
    expect(stdout).toMatch(
      /uri = "file:data\/sub\/b"\nsha256 = "[0-9a-f]{64}"\nsize = 40000\nmode = \d+\nroot = "[0-9a-f]{64}"/,
    );
    expect(stdout).not.toContain('sgx.trusted_files');
    expect(stdout).toContain('[tdx]\nallowed_files = [');
  });

  it('keeps what the cache knows, and nothing with --no-cache', () => {
    const path = join(work, 'data/a');
    execFileSync('touch', ['-d', '1 hour ago', path]);
    const text = `${HEAD}sgx.trusted_files = [ "file:/etc/passwd" ]\n`;
    const first = manifest(['-c', text, 'c.manifest']);
    expect(first.status).toBe(0);
    const known = readFileSync(join(work, 'c.manifest'), 'utf8');
    expect(manifest(['-c', text, 'c.manifest']).status).toBe(0);
    expect(readFileSync(join(work, 'c.manifest'), 'utf8')).toBe(known);
    expect(manifest(['--no-cache', '-c', text]).stdout).toBe(known);
  });

  it('writes a rule for make', () => {
    const text = `${HEAD}sgx.trusted_files = [ "file:data/sub/" ]\n`;
    writeFileSync(join(work, 'd.template'), text);
    expect(manifest(['--depfile', 'd.d', 'd.template', 'd.manifest']).status).toBe(0);
    expect(readFileSync(join(work, 'd.d'), 'utf8')).toBe('d.manifest: \\\n\td.template \\\n\tdata/sub/b\n');
  });

  it('writes names in that rule as make reads them, and leaves out those that it cannot write', () => {
    const names = ['a b', 'c:d', 'e\\ f', 'g\\h', 'i$j#k', 'end\\'];
    mkdirSync(join(work, 'odd'));
    for (const name of [...names, 'l\nm', 'n;o']) writeFileSync(join(work, 'odd', name), '');
    writeFileSync(join(work, 'o.template'), `${HEAD}sgx.trusted_files = [ "file:odd/" ]\n`);
    const made = manifest(['--depfile', 'o.d', 'o.template', 'o.manifest']);
    expect(made).toMatchObject({ status: 0, stderr: expect.stringMatching(/--depfile: 2 files left out/) });
    writeFileSync(join(work, 'o.mk'), `${readFileSync(join(work, 'o.d'), 'utf8')}\ttouch o.manifest\n`);
    for (const name of names) {
      execFileSync('make', ['-s', '-f', 'o.mk'], { cwd: work });
      const ask = () => spawnSync('make', ['-q', '-f', 'o.mk'], { cwd: work }).status;
      expect(ask()).toBe(0);
      utimesSync(join(work, 'odd', name), new Date(), new Date(Date.now() + 3_600_000));
      expect(ask(), name).toBe(1);
      utimesSync(join(work, 'odd', name), new Date(), new Date(0));
    }
    expect(manifest(['--depfile', 'o.d', 'o.template', 'o\nmanifest']).status).toBe(2);
  });

  it('makes with --auto a template that renders, whatever the program’s folder is called', () => {
    for (const name of ['a, b', 'l\nm', '{{ x }}', '{# y', '"']) {
      const folder = join(work, 'auto', name);
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, 'p'), '#!/bin/sh\n');
      chmodSync(join(folder, 'p'), 0o755);
      const { stdout } = manifest(['--auto', join(folder, 'p')]);
      const rendered = manifest(['-'], stdout);
      expect(rendered).toMatchObject({ status: 0, stderr: '' });
      expect(rendered.stdout).toContain(`entrypoint = ${JSON.stringify(join(folder, 'p'))}`);
    }
  });

  it('takes what follows --trace for the program where it is no number', () => {
    expect(manifest(['--auto', '--trace', './nonexistent'])).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/\.\/nonexistent: no such program/),
    });
    expect(manifest(['--auto', '--trace', '0', './nonexistent']).stderr).toContain('--trace 0: expected seconds');
  });

  it('shows what a manifest says, as a manifest that says the same', () => {
    writeFileSync(join(work, 'e'), `${HEAD}sgx.trusted_files = [ "file:data/" ]\nsgx.allowed_files = ["file:x"]\n`);
    expect(manifest(['--tdx', 'e', 'e.manifest']).status).toBe(0);
    const shown = manifest(['--show-policy', 'e.manifest']);
    expect(shown).toMatchObject({ status: 0, stderr: '' });
    expect(manifest(['--show-policy', '-'], shown.stdout).stdout).toBe(shown.stdout);
  });

  it('looks below --chroot', () => {
    const text = `libos.entrypoint = "/app"\nfs.mounts = []\nsgx.trusted_files = [ "file:/sub/" ]\n`;
    const { stdout, status } = manifest(['--chroot', 'data', '-c', text]);
    expect(status).toBe(0);
    expect(stdout).toContain('uri = "file:/sub/b"');
  });

  it('uses --libdir in templates, and skips the check with --no-check', () => {
    expect(manifest(['--libdir', '/opt/g', '--no-check', '-c', 'x = "{{ gramine.runtimedir() }}"']).stdout).toMatch(
      /^x = "\/opt\/g\/runtime\/glibc"\n/,
    );
  });

  it.each([
    [[], 'a template is missing'],
    [['a', 'b', 'c'], 'unexpected "c"'],
    [['-c', 'x', 'a', 'b'], 'not both'],
    [['--bogus'], "unknown option '--bogus'"],
    [['nonexistent'], 'cannot read nonexistent: no such file'],
    [
      ['-c', 'libos.entrypoint = "/a"\nfs.mounts = []', '/nonexistent/out'],
      'cannot write /nonexistent/out: no such file',
    ],
    [['--depfile', 'x', '-c', 'a'], '--depfile needs OUT'],
    [['--chroot', '/nonexistent', '-c', 'a'], '--chroot /nonexistent: no such file'],
    [['--completion', 'fish'], 'expected bash or zsh'],
    [['--auto'], '--auto needs a program'],
  ])('ends with 2 for %j', (args, message) => {
    const outcome = manifest(args);
    expect(outcome.stderr).toContain(message);
    expect(outcome).toMatchObject({ status: 2, stdout: '' });
  });

  it('prints help and completion scripts that shells accept', () => {
    const help = manifest(['--help']);
    expect(help).toMatchObject({ status: 0, stderr: '' });
    for (const option of [
      '--define',
      '--chroot',
      '--no-check',
      '--libdir',
      '--depfile',
      '--tdx',
      '--no-cache',
      '--show-policy',
      '--auto',
    ])
      expect(help.stdout).toContain(option);
    for (const command of ['gramine-manifest', 'gramine-manifest-check']) {
      const script = run(command, ['--completion', 'bash']).stdout;
      const words = (line: string) => {
        const ask = `COMP_WORDS=(${line}) COMP_CWORD=${line.split(' ').length - 1}; _${command.replaceAll('-', '_')}`;
        return execFileSync('bash', ['-c', `${script}\n${ask}; echo "\${COMPREPLY[@]}"`], { encoding: 'utf8' }).trim();
      };
      expect(words('x --he')).toBe('--help');
      expect(words('x --completion z')).toBe('zsh');
    }
  });
});

describe('gramine-manifest refuses', () => {
  it('a template’s mistake, with line and column', () => {
    refused('a = 1\nb = "{{ nope }}"\n', /^gramine-manifest: t:2:9: 'nope' is undefined; give it with -Dnope=VALUE\n$/);
  });

  it('a syntax error, placed in the template and not in what it renders to', () => {
    refused(
      '{% set x = 1 %}\n{% for i in [1,2,3] %}\n# {{ i }}\n{% endfor %}\na = [1\nb = 2\n',
      /t:6:\d+: not TOML: .*\n {2}b = 2\n/,
    );
  });

  it('invalid UTF-8, with its place', () => {
    refused(
      Buffer.concat([Buffer.from('a = "ä"\nb = "x'), Buffer.of(0xff), Buffer.from('"\n')]),
      /t:2:7: not valid UTF-8: byte 0xff/,
    );
  });

  it('every problem of the shape at once, and suggests what was meant', () => {
    refused(
      `libos.entrypont = "/a"\nfs.mounts = [ { path = "/x", type = "tmp" } ]\nsgx.debug = "yes"\n`,
      new RegExp(
        [
          't:1:\\d+: libos.entrypont: unknown key; did you mean "entrypoint"\\?',
          't:2:\\d+: fs.mounts\\[0\\].type: expected one of chroot, encrypted, tmpfs, untrusted_shm',
          't:3:\\d+: sgx.debug: expected true or false',
        ].join('[\\s\\S]*'),
      ),
    );
  });

  it('a trusted file below a tmpfs mount', () => {
    refused(
      `${HEAD}sgx.trusted_files = [\n  "file:data/a",\n  "file:data/tmp/hidden",\n]\n`,
      't:8:3: sgx.trusted_files: "file:data/tmp/hidden" would be at /data/tmp/hidden, which the tmpfs mounted at /data/tmp hides',
    );
  });

  it('a missing file, a folder without "/", a file with one', () => {
    refused(
      `${HEAD}sgx.trusted_files = [ "file:absent" ]\n`,
      /t:6:23: sgx.trusted_files\[0\]: trusted file "file:absent" does not exist/,
    );
    refused(`${HEAD}sgx.trusted_files = [ "file:data" ]\n`, /is a folder: write it with a "\/" at its end/);
    refused(`${HEAD}sgx.trusted_files = [ "file:data/a/" ]\n`, /ends with "\/" but is not a folder/);
  });

  it('a FIFO and a device, without waiting for them', () => {
    execFileSync('mkfifo', [join(work, 'fifo')]);
    for (const uri of ['file:fifo', 'file:/dev/null'])
      refused(`${HEAD}sgx.trusted_files = [ "${uri}" ]\n`, /t:6:23: .* a FIFO, socket or device cannot be trusted/);
  });

  it('a file that cannot be read, but passes it over in a folder', () => {
    // Root may read everything: become nobody.
    const user = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
    chmodSync(work, 0o755);
    mkdirSync(join(work, 'mixed'));
    writeFileSync(join(work, 'mixed/secret'), 'x', { mode: 0o200 });
    writeFileSync(join(work, 'mixed/open'), 'x');
    const ask = (uri: string) =>
      spawnSync(
        process.execPath,
        [join(root, 'dist/cli/gramine-manifest.js'), '--no-cache', '-c', `${HEAD}sgx.trusted_files = [ "${uri}" ]\n`],
        { cwd: work, encoding: 'utf8', ...user },
      );
    const explicit = ask('file:mixed/secret');
    expect(explicit.stderr).toMatch(
      /^gramine-manifest: <string>:6:23: sgx\.trusted_files\[0\]: "mixed\/secret" cannot be read: permission denied\n$/,
    );
    expect(explicit.status).toBe(1);
    const folder = ask('file:mixed/');
    expect(folder.stderr).toBe('');
    expect(folder.stdout).toContain('file:mixed/open');
    expect(folder.stdout).not.toContain('secret');
  });

  it('a file name that is not UTF-8, instead of passing it over', () => {
    mkdirSync(join(work, 'latin1'), { recursive: true });
    writeFileSync(Buffer.concat([Buffer.from(`${work}/latin1/`), Buffer.of(0xe4)]), '');
    refused(
      `${HEAD}sgx.trusted_files = [ "file:latin1/" ]\n`,
      /t:6:23: sgx\.trusted_files\[0\]: .* has a name that is not UTF-8/,
    );
  });

  it('a path that escapes the chroot, and follows its links inside of it', () => {
    refused(
      `${HEAD}sgx.trusted_files = [ "file:../../etc/passwd" ]\n`,
      /t:6:23: sgx\.trusted_files\[0\]: .*with a chroot only absolute paths can be trusted/,
      '--chroot',
      'data',
    );
    symlinkSync('/../../../../etc/passwd', join(work, 'data/out'));
    refused(
      `${HEAD}sgx.trusted_files = [ "file:/out" ]\n`,
      /t:6:23: sgx\.trusted_files\[0\]: trusted file "file:\/out" does not exist/,
      '--chroot',
      'data',
    );
    rmSync(join(work, 'data/out'));
  });

  it('two hashes for one file', () => {
    const entry = (c: string) => `{ uri = "file:x", sha256 = "${c.repeat(64)}" }`;
    refused(
      `${HEAD}sgx.trusted_files = [ ${entry('a')},\n ${entry('b')} ]\n`,
      /t:7:2: trusted file "file:x" is listed with two hashes/,
    );
  });
});

describe('--show-policy refuses what the policy cannot say', () => {
  it.each([
    ['sys.stack.size = "9223372036854775808"', 'expected a size such as "256K" below 8E, got "9223372036854775808"'],
    ['sys.stack.size = "0"', 'expected a size of at least 16K, got "0"'],
    ['sys.brk.max_size = "99999999999G"', 'expected a size such as "256K" below 8E'],
    ['sys.brk.max_size = "65537G"', 'expected a size of at most 65536G'],
    ['tdx.net.publish = ["65536/tcp"]', 'with a port from 1 to 65535'],
    ['tdx.net.publish = ["0"]', 'with a port from 1 to 65535'],
    ['tdx.net.outbound = ["example.org"]', 'expected "HOST:PORT"'],
    ['tdx.net.outbound = ["*.example.org:443"]', 'expected "HOST:PORT"'],
    ['tdx.net.outbound = ["example.org:99999"]', 'expected "HOST:PORT"'],
    ['loader.uid = 4294967296', 'expected an integer from 0 to 4294967295, got 4294967296'],
    ['loader.uid = 9223372036854775807', 'got 9223372036854775807'],
    ['loader.uid = 1.0', 'got the float 1'],
    ['fs.insecure__keys.k = "12"', 'expected 32 hex digits'],
    ['tdx.read_only = ["/nowhere"]', '/nowhere is not the path of a mount'],
  ])('%s', (line, message) => {
    const { status, stderr } = manifest(['--show-policy', '-'], `libos.entrypoint = "/a"\nfs.mounts = []\n${line}\n`);
    expect(stderr).toContain(message);
    expect(stderr).toMatch(/^gramine-manifest: <stdin>:3:\d+: /);
    expect(status).toBe(1);
  });

  it.each([
    [
      '{ path = "/x/", uri = "file:a" },\n{ path = "/x", uri = "file:b" }',
      '<stdin>:3:3: fs.mounts[1].path: /x is mounted twice',
    ],
    [
      '{ path = "/x", uri = "file:a", type = "encrypted" }',
      'fs.mounts[0].type: encrypted mounts are not supported yet',
    ],
    ['{ path = "x", uri = "file:a" }', 'fs.mounts[0].path: expected an absolute path'],
    ['{ path = "/x", uri = "a" }', 'fs.mounts[0].uri: expected "file:PATH" or "dev:PATH"'],
  ])('mounts %s', (mounts, message) => {
    const { status, stderr } = manifest(
      ['--show-policy', '-'],
      `libos.entrypoint = "/a"\nfs.mounts = [${mounts.startsWith('{ path = "/x/"') ? '\n' : ''}${mounts}]\n`,
    );
    expect(stderr).toContain(message.replace('3:3', '4:10'));
    expect(status).toBe(1);
  });
});

describe('gramine-manifest-check', () => {
  it('is silent about a good manifest', () => {
    expect(check(['-'], HEAD)).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(check([], `${HEAD}tdx.memory = "1G"\n`)).toEqual({ status: 0, stdout: '', stderr: '' });
  });

  it('judges as Gramine’s checker with --gramine', () => {
    expect(check(['--gramine'], `${HEAD}tdx.memory = "1G"\n`)).toMatchObject({
      status: 1,
      stdout: expect.stringMatching(
        /tdx: unknown key[\s\S]*loader: required key is missing|loader: required key is missing[\s\S]*tdx: unknown key/,
      ),
    });
  });

  it('lists every problem on standard output, and ends with 1', () => {
    const { status, stdout, stderr } = check(['-'], `${HEAD}sgx.debg = true\ntdx.vcpu = 1\n`);
    expect(stdout).toBe(
      '<stdin>:6:1: sgx.debg: unknown key; did you mean "debug"?\n<stdin>:7:1: tdx.vcpu: unknown key; did you mean "vcpus"?\n'.replaceAll(
        /:(6|7):1:/g,
        stdout.includes(':6:1:') ? ':$1:1:' : ':$1:12:',
      ),
    );
    expect({ status, stderr }).toEqual({ status: 1, stderr: '' });
  });

  it('ends with 2 for what is no TOML, and for what is not there', () => {
    expect(check(['-'], 'x = [\n')).toMatchObject({ status: 2, stdout: '' });
    expect(check(['nonexistent'])).toMatchObject({ status: 2, stdout: '' });
  });
});

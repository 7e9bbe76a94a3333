// SPDX-License-Identifier: Apache-2.0
//
// Templates: the recorded answers of Gramine's tool, and what this project refuses rather than render differently.

import { existsSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { ManifestError } from '../../src/manifest/errors.js';
import { templateGlobals } from '../../src/manifest/globals.js';
import { renderTemplate } from '../../src/manifest/template.js';

const CORPUS = new URL('../../../shared/corpus/', import.meta.url);
/** What the corpus calls the folders of the machine that it was recorded on, and what its outputs call them. */
const RECORDED_NAMES = [
  ['$H3/oracle/prefix', '/opt/gramine/1.9/inst'],
  ['$H3/corpus/sandbox', '/opt/gramine/1.9/sandb'],
] as const;
const RECORDED_SYS_PATH = [
  '/opt/gramine/1.9/sandb/py/lib/python3.11',
  '/opt/gramine/1.9/sandb/py/lib/python3.11/lib-dynload',
  '/opt/gramine/1.9/sandb/py/dist-packages',
  '/opt/gramine/1.9/sandb/py/some.egg',
];

interface Case {
  readonly id?: string;
  readonly template: string;
  readonly defs: Readonly<Record<string, string | true>>;
  readonly env?: string;
  readonly rendered?: string;
  readonly render_error?: string;
  readonly ok?: string;
  readonly err?: string;
}

function load(name: string): Case[] {
  const lines = gunzipSync(readFileSync(new URL(`${name}.jsonl.gz`, CORPUS))).toString('utf8');
  return lines
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Case);
}

/** The machine of the recording: its python, its ldd. */
function recordedRun(command: string, args: readonly string[]): string {
  if (command === 'ldd') return recordedLdd(args);
  const script = args[1] ?? '';
  if (script.includes('sys.path')) return RECORDED_SYS_PATH.join('\0');
  if (script.includes('EXT_SUFFIX')) {
    return JSON.stringify({
      stdlib: '/usr/lib/python3.11',
      platstdlib: '/usr/lib/python3.11',
      purelib: '/usr/local/lib/python3.11/dist-packages',
      distlib: '/usr/lib/python3/dist-packages',
      ext_suffix: '.cpython-311-x86_64-linux-gnu.so',
      name: 'cpython',
      cache_tag: 'cpython-311',
    });
  }
  return '{}';
}

function recordedLdd(args: readonly string[]): string {
  const own = args.includes('/bin/ls') ? '\tlibz.so.1 => /usr/lib/libz.so.1 (0x00007f0000000000)\n' : '';
  return `\tlinux-vdso.so.1 (0x00007ffc00000000)\n${own}\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0000000000)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f0000000000)\n`;
}

function render(c: Case): string {
  const rename = (text: string) => RECORDED_NAMES.reduce((t, [from, to]) => t.replaceAll(from, to), text);
  const define = Object.fromEntries(
    Object.entries(c.defs).map(([k, v]) => [k, v === true ? (true as const) : rename(v)]),
  );
  const env: Record<string, string> = { HOME: '/home/user' };
  for (const pair of (c.env ?? '').split(' ').filter((p) => p !== '')) {
    const [name = '', value = ''] = pair.split('=');
    env[name] = value;
  }
  const globals = templateGlobals({
    define,
    env,
    libdir: '/opt/gramine/1.9/inst/lib/x86_64-linux-gnu/gramine',
    run: recordedRun,
    exists: () => true,
    isDirectory: (path) => !path.endsWith('.egg'),
  });
  return renderTemplate(c.template, { file: c.id ?? 'case', globals }).text;
}

/** Rendered text, or the message of the refusal. */
function attempt(c: Case): { text: string } | { refused: string } {
  try {
    return { text: render(c) };
  } catch (error) {
    if (error instanceof ManifestError && error.code === 'template') return { refused: error.message };
    throw error;
  }
}

describe.skipIf(!existsSync(CORPUS))('the recorded renderings of Gramine’s tool', () => {
  it('are the same for every template, and so are the errors', () => {
    const cases = load('templates');
    expect(cases.length).toBe(458);
    const wrong = cases.flatMap((c) => {
      const got = attempt(c);
      if (c.rendered !== undefined) return 'text' in got && got.text === c.rendered ? [] : [[c.id, got]];
      return 'refused' in got ? [] : [[c.id, got]];
    });
    expect(wrong).toEqual([]);
  });

  it('name the same undefined variable', () => {
    for (const c of load('templates')) {
      const name = /'(\w+)' is undefined/.exec(c.render_error ?? '')?.[1];
      if (name !== undefined) expect(attempt(c), c.id).toEqual({ refused: expect.stringContaining(`'${name}'`) });
    }
  });

  it('are the same or refused for every construct of the language', () => {
    const cases = load('jinja');
    expect(cases.length).toBe(66);
    const different = cases.filter((c) => {
      const got = attempt(c);
      return 'text' in got && got.text !== c.ok;
    });
    expect(different.map((c) => [c.template, attempt(c), c.ok])).toEqual([]);
  });
});

const simple = (template: string, define: Readonly<Record<string, string | true>> = {}) =>
  attempt({ template, defs: define });

describe('a template', () => {
  it('is refused with line, column and a hint where it would render differently', () => {
    expect(simple('a\n{{ 7 / 2 }}\n')).toEqual({
      refused: expect.stringMatching(/^case:2:\d+: division gives a float, which is not supported; use \/\/ /),
    });
    expect(simple('{% include "x" %}')).toEqual({ refused: expect.stringMatching(/^case:1:/) });
  });

  it.each([
    `{{ ${'1 + '.repeat(30_000)}1 }}`,
    `{{ env${'.a'.repeat(30_000)} }}`,
    `{% set a = 'x' %}${'{% set a = a ~ a %}'.repeat(40)}{{ a }}`,
    `{% set a = 9999999999 %}${'{% set a = a * a %}'.repeat(40)}{{ a }}`,
  ])('is refused where it goes beyond JavaScript’s limits (%#)', (text) => {
    expect(simple(text)).toEqual({ refused: expect.stringMatching(/^case:1:1: too large or too deeply nested: /) });
  });

  it('tells the user how to define a name', () => {
    expect(simple('x = "{{ log_level }}"')).toEqual({
      refused: expect.stringMatching(/'log_level' is undefined; give it with -Dlog_level=VALUE$/),
    });
  });

  it('goes through python.get_sys_path() once, as a generator', () => {
    expect(
      simple(
        "{% set p = python.get_sys_path('x') %}{% for a in p %}1{% endfor %}{% for a in p %}2{% else %}-{% endfor %}",
      ),
    ).toEqual({ text: '1111-' });
    expect(simple("{{ python.get_sys_path('x') }}")).toHaveProperty('refused');
  });

  it('is refused, and names the program, where a program that it asks for is missing', () => {
    const globals = templateGlobals({ env: {} });
    expect(() =>
      renderTemplate("{% for p in python.get_sys_path('/nonexistent/py') %}{% endfor %}", { file: 't', globals }),
    ).toThrow('the template needs py, which is not on this machine');
  });

  it('does not take inherited properties of env for variables', () => {
    expect(simple("{{ env.get('constructor') }} {{ env.get('__proto__') }}")).toEqual({ text: 'None None' });
  });

  it('knows where each place of its output comes from', () => {
    const template = 'a = 1\n{% if true -%}\n  b = {{ "x" }} c\n  d\n{% endif %}{% set s %}\n\n{% endset %}e{{ s }}f\n';
    const { text, locate } = renderTemplate(template, { file: 't', globals: new Map() });
    expect(text).toBe('a = 1\nb = x c\n  d\ne\n\nf\n');
    const at = (needle: string) => {
      const before = text.slice(0, text.indexOf(needle));
      return locate({ line: before.split('\n').length, column: before.length - before.lastIndexOf('\n') });
    };
    expect(at('a =')).toEqual({ line: 1, column: 1 });
    expect(at('b =')).toEqual({ line: 3, column: 3 });
    expect(at('x c')).toEqual({ line: 3, column: 10 });
    expect(at(' c')).toEqual({ line: 3, column: 16 });
    expect(at('d\n')).toEqual({ line: 4, column: 3 });
    expect(at('e\n')).toEqual({ line: 7, column: 13 });
    expect(at('f')).toEqual({ line: 7, column: 21 });
  });
});

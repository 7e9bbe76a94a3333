// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import {
  parseCpus,
  parseEnv,
  parseMemory,
  parseOutbound,
  parsePublication,
  parseVolume,
} from '../../src/launch/index.js';

describe('parsePublication', () => {
  it.each([
    ['6379:80', '127.0.0.1', 6379, 80, 'tcp'],
    ['80', '127.0.0.1', 80, 80, 'tcp'],
    ['0:80/tcp', '127.0.0.1', 0, 80, 'tcp'],
    ['0.0.0.0:53:5353/udp', '0.0.0.0', 53, 5353, 'udp'],
    ['[::1]:1:2', '::1', 1, 2, 'tcp'],
  ])('reads %s', (text, address, hostPort, guestPort, protocol) => {
    expect(parsePublication(text)).toEqual({ address, hostPort, guestPort, protocol });
  });

  it.each([
    '',
    'a',
    '1:2:3',
    '65536:1',
    '1:0',
    '1:65536',
    '127.0.0.1:80',
    '1:2/sctp',
    ' 1:2',
    '-1:2',
    '0.0.0.300:1:2',
    '[1]:1:2',
  ])('refuses %j', (text) => {
    expect(() => parsePublication(text)).toThrow(/--publish/);
  });
});

describe('parseOutbound', () => {
  it.each(['*:*', 'example.com:443', '[::1]:*', '10.0.0.1:65535'])('takes %s', (text) => {
    expect(parseOutbound(text)).toBe(text);
  });

  it.each(['', 'a', 'a:', 'a:0', 'a:65536', '*.example.com:443', ':1'])('refuses %j', (text) => {
    expect(() => parseOutbound(text)).toThrow(/--net/);
  });
});

describe('parseVolume', () => {
  it('reads host path, guest path and mode', () => {
    expect(parseVolume('/tmp:/data/./x/')).toEqual({ host: '/tmp', guest: '/data/x', writable: false });
    expect(parseVolume('/tmp/..:/data:rw')).toEqual({ host: '/', guest: '/data', writable: true });
  });

  it.each(['', '/tmp', '/tmp:', '/tmp:data', '/tmp:/', '/tmp:/a/..', '/tmp:/a:wr', '/does/not/exist:/a'])(
    'refuses %j',
    (text) => {
      expect(() => parseVolume(text)).toThrow(/--volume/);
    },
  );
});

describe('parseMemory', () => {
  it('reads sizes', () => {
    expect(parseMemory('64M')).toBe(64n << 20n);
    expect(parseMemory('2g')).toBe(2n << 30n);
  });

  it.each(['', '63M', '65M', '1T', '-1G', '99999999999G', '1.5G'])('refuses %j', (text) => {
    expect(() => parseMemory(text)).toThrow(/--memory/);
  });
});

it('parseCpus takes 1 to 64', () => {
  expect([parseCpus('1'), parseCpus('64')]).toEqual([1, 64]);
  for (const text of ['0', '65', '', 'two', '1e1']) expect(() => parseCpus(text)).toThrow(/--cpus/);
});

it('parseEnv passes a variable of this process on, or sets one', () => {
  expect(parseEnv('A=b=c')).toEqual(['A', 'b=c']);
  expect(parseEnv('PATH')).toEqual(['PATH', process.env.PATH]);
  for (const text of ['', '=x', 'SURELY_NOT_SET_HERE', 'toString', '__proto__'])
    expect(() => parseEnv(text)).toThrow(/--env/);
});

// SPDX-License-Identifier: Apache-2.0
//
// Debian's redis-server saves and rewrites its log in forked children while clients write; whatever it held, it holds
// after a restart, from either file. Its clients have their real addresses.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { freePort, type Running, startVm } from './machine.js';

/** One connection that sends a command and takes its whole answer: redis ends each with PING's, which we append. */
class Client {
  private constructor(readonly socket: Socket) {}

  static async connect(port: number): Promise<Client> {
    const socket = createConnection(port, '127.0.0.1');
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    return new Client(socket);
  }

  send(...words: string[]): Promise<string> {
    const mark = `end-${Math.random()}`;
    const encode = (list: string[]) => `*${list.length}\r\n${list.map((w) => `$${w.length}\r\n${w}\r\n`).join('')}`;
    const end = `$${mark.length}\r\n${mark}\r\n`;
    return new Promise((resolve, reject) => {
      let answer = '';
      const take = (data: Buffer) => {
        answer += data.toString('latin1');
        if (!answer.endsWith(end)) return;
        this.socket.off('data', take).off('close', closed);
        resolve(answer.slice(0, -end.length));
      };
      const closed = () => reject(new Error(`connection closed during ${words.join(' ')}: ${answer}`));
      this.socket.on('data', take).once('close', closed);
      this.socket.write(encode(words) + encode(['PING', mark]));
    });
  }

  async info(field: string): Promise<string> {
    const text = await this.send('INFO');
    return new RegExp(`^${field}:(.*)\r$`, 'm').exec(text)?.[1] ?? `no ${field} in ${text}`;
  }

  /** Until INFO's field has this value; each look is a question to the server, so it paces itself. */
  async until(field: string, value: string): Promise<void> {
    while ((await this.info(field)) !== value);
  }
}

const available = ['redis-server', 'redis-benchmark'].every((name) => existsSync(`/usr/bin/${name}`));

describe.skipIf(!available)('redis-server', () => {
  let machine: Running | undefined;
  let data = '';
  afterEach(async () => {
    machine?.child.kill('SIGTERM');
    await machine?.ended;
    if (data) rmSync(data, { recursive: true, force: true });
  });

  const start = async (port: number, ...args: string[]): Promise<Client> => {
    const server = [
      'redis-server',
      '--protected-mode',
      'no',
      '--dir',
      '/data',
      '--enable-debug-command',
      'yes',
      ...args,
    ];
    machine = startVm(['-c', '2', '-m', '512M', '-v', `${data}:/data:rw`, '-p', `${port}:6379`, ...server]);
    await machine.seen(/Ready to accept connections/);
    return Client.connect(port);
  };
  const shutDown = async (client: Client): Promise<void> => {
    client.socket.write('SHUTDOWN NOSAVE\r\n');
    client.socket.on('error', () => {});
    const { status, stderr } = await (machine as Running).ended;
    expect({ status, stderr }).toMatchObject({ status: 0 });
  };

  it('keeps every key over BGSAVE and BGREWRITEAOF under load and a restart', { timeout: 600_000 }, async () => {
    data = mkdtempSync(join(tmpdir(), 'gramine-redis-'));
    const port = await freePort();
    const log = ['--save', '', '--appendonly', 'yes'];
    let client = await start(port, ...log);

    const address = client.socket.address() as { port: number };
    expect(await client.send('CLIENT', 'LIST')).toContain(`addr=127.0.0.1:${address.port} `);

    const load = [
      '-p',
      String(port),
      '-t',
      'set,incr,lpush,mset',
      '-r',
      '20000',
      '-n',
      '40000',
      '-P',
      '16',
      '-c',
      '20',
    ];
    const benchmark = spawn('redis-benchmark', [...load, '-q'], { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    for (const stream of [benchmark.stdout, benchmark.stderr]) stream.on('data', (d: Buffer) => (said += d));
    const loaded = new Promise<number | null>((resolve) => benchmark.once('close', resolve));
    let running = true;
    void loaded.then(() => (running = false));

    let saves = 0;
    do {
      expect(await client.send('BGSAVE')).toContain('Background saving started');
      await client.until('rdb_bgsave_in_progress', '0');
      expect(await client.info('rdb_last_bgsave_status')).toBe('ok');
      expect(await client.send('BGREWRITEAOF')).toContain('rewriting started');
      await client.until('aof_rewrite_in_progress', '0');
      expect(await client.info('aof_last_bgrewrite_status')).toBe('ok');
      saves += 1;
    } while (running || saves < 2);
    expect(await loaded, said).toBe(0);
    expect(said).not.toMatch(/error/i);

    const keys = await client.send('DBSIZE');
    const digest = await client.send('DEBUG', 'DIGEST');
    await shutDown(client);

    client = await start(port, ...log);
    expect(await client.send('DBSIZE')).toBe(keys);
    expect(await client.send('DEBUG', 'DIGEST')).toBe(digest);
    expect(await client.send('BGSAVE')).toContain('Background saving started');
    await client.until('rdb_bgsave_in_progress', '0');
    await shutDown(client);

    client = await start(port, '--save', '');
    expect(await client.send('DEBUG', 'DIGEST')).toBe(digest);
    await shutDown(client);
  });
});

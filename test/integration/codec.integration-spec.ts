// Encrypted data over a real Redis and real cache files. Shown to fail with the default codec.
import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NestFactory } from '@nestjs/core';
import { Redis } from 'ioredis';
import { Packr } from 'msgpackr';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { compressed, encrypted, firstOf } from '../../lib/codecs/index.js';
import {
  defaultCodec,
  FieldStore,
  SessionModule,
  SessionService,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { dumpAllKeys, RedisMonitor } from '../support/redis-monitor.js';
import { RedisServer } from '../support/redis-server.js';
import { uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { openNode, recordKey, type Fields, type SessionNode } from './session-node.js';

const KEYS = [randomBytes(32)];

describe('the option codec over Redis', () => {
  let server: RedisServer;
  beforeAll(async () => {
    server = await RedisServer.start();
  });
  afterAll(() => server.stop());

  async function open(options: SessionModuleOptions): Promise<SessionNode> {
    const node = await openNode({ redis: server.url, ...options });
    onTestFinished(() => node.close());
    return node;
  }

  it.each([
    ['encrypted(default)', encrypted(defaultCodec, { keys: KEYS })],
    [
      'encrypted(compressed(msgpackr))',
      encrypted(compressed(new Packr({ structuredClone: true }), { above: 100 }), { keys: KEYS }),
    ],
  ])(
    '%s: nothing of the data is readable in Redis, its commands, announcements or cache files',
    async (_, codec) => {
      const secret = `secret${randomBytes(8).toString('hex')}`;
      const directory = mkdtempSync(join(tmpdir(), 'sessionkit-codec-'));
      onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
      const monitor = await RedisMonitor.open(server.url);
      onTestFinished(() => monitor.close());
      const listener = new Redis(server.url);
      onTestFinished(() => listener.disconnect());
      const published: string[] = [];
      listener.on('pmessage', (...parts: string[]) => published.push(parts.join(' ')));
      await listener.psubscribe('*');

      const keyPrefix = uniquePrefix();
      const [one, two] = [
        await open({ keyPrefix, codec, cache: { directory } }),
        await open({ keyPrefix, codec, cache: { directory } }),
      ];
      const data: Fields = {
        name: secret,
        at: new Date(5),
        list: [secret, { [secret]: 1n }],
        long: `${secret} `.repeat(50),
      };
      const made = await one.sessions.create(data);
      const session = await one.sessions.login(made, 'ann');
      const { token, id } = session;
      await one.sessions.update(token, { more: secret });
      await new FieldStore(two.sessions).setField(token, secret, secret);
      expect((await two.sessions.get(token))?.data).toEqual({ ...data, more: secret, [secret]: secret });

      const files = (): string[] =>
        readdirSync(directory, { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile() && entry.name.startsWith(id))
          .map((entry) => join(entry.parentPath, entry.name));
      // A file is there before it is written to.
      const [file] = await waitFor(
        () => {
          const written = files().filter((name) => readFileSync(name, 'utf8').includes(id));
          return written.length > 0 && written;
        },
        { message: 'a cache file' },
      );
      const cached = readFileSync(file!, 'utf8');
      expect(statSync(file!).mode & 0o777).toBe(0o600);
      await waitFor(() => published.some((message) => message.includes(id)), { message: 'the announcement' });

      await monitor.sync();
      const base64 = Buffer.from(secret).toString('base64').slice(0, -4);
      const everything = [
        await dumpAllKeys(server.url),
        cached,
        published.join('\n'),
        monitor.lines.join('\n'),
      ];
      expect(everything[0]).toContain(id);
      expect(everything[3]).toContain(id);
      for (const text of everything)
        for (const trace of [secret, base64, Buffer.from(secret).toString('hex')])
          expect(text).not.toContain(trace);
    },
  );

  it('a damaged record is null with an event in every process; sessions beside it stay', async () => {
    const keyPrefix = uniquePrefix();
    const codec = encrypted(defaultCodec, { keys: KEYS });
    const node = await open({ keyPrefix, codec, cache: false });
    const [hit, other] = [
      await node.sessions.create({ a: 1 }, { userId: 'ann' }),
      await node.sessions.create({ b: 1 }, { userId: 'ann' }),
    ];
    const said: string[] = [];
    node.events.on('undecodable', ({ id }) => said.push(id));
    const redis = new Redis(server.url);
    onTestFinished(() => redis.disconnect());
    const key = recordKey(keyPrefix, hit.id);
    const whole = (await redis.get(key))!;
    for (const end of [
      whole.slice(0, -3),
      `${whole.slice(0, -6)}AAAA==`,
      whole.replace(/=.*$/s, '{"a":1}'),
    ]) {
      await redis.set(key, end, 'KEEPTTL');
      expect(await node.sessions.get(hit.token)).toBeNull();
    }
    expect(said).toEqual([hit.id, hit.id, hit.id]);
    await redis.set(key, whole, 'KEEPTTL');
    expect((await node.sessions.get(hit.token))?.data).toEqual({ a: 1 });
    expect((await node.sessions.get(other.token))?.data).toEqual({ b: 1 });
  });

  it('one process after another changes to encryption: those that know both read all sessions', async () => {
    const keyPrefix = uniquePrefix();
    const plain = await open({ keyPrefix });
    const { token } = await plain.sessions.create({ n: 1 }, { userId: 'ann' });
    const both = await open({
      keyPrefix,
      codec: firstOf(encrypted(defaultCodec, { keys: KEYS }), defaultCodec),
    });
    await both.sessions.update(token, (data: Fields) => void (data.n = Number(data.n) + 1));
    const last = await open({ keyPrefix, codec: encrypted(defaultCodec, { keys: KEYS }) });
    expect((await last.sessions.get(token))?.data).toEqual({ n: 2 });
  });

  it('FieldStore: 100 fields set at the same time through two processes are all there', async () => {
    const keyPrefix = uniquePrefix();
    const codec = encrypted(defaultCodec, { keys: KEYS });
    const nodes = [await open({ keyPrefix, codec }), await open({ keyPrefix, codec })];
    const stores = nodes.map(({ sessions }) => new FieldStore(sessions));
    const { token } = await nodes[0]!.sessions.create({});
    await Promise.all(Array.from({ length: 100 }, (_, n) => stores[n % 2]!.setField(token, `field${n}`, n)));
    const { data } = (await nodes[1]!.sessions.get(token, { fresh: true }))!;
    expect(data).toEqual(Object.fromEntries(Array.from({ length: 100 }, (_, n) => [`field${n}`, n])));
  });

  it('FieldStore is injected, and a Packr of msgpackr is a codec as it is', async () => {
    const app = await NestFactory.createApplicationContext(
      SessionModule.forRoot({ redis: server.url, codec: new Packr({ structuredClone: true }) }),
      { logger: false },
    );
    onTestFinished(() => app.close());
    const { token, id } = await app.get<SessionService<Fields>>(SessionService).create({ at: new Date(5) });
    const fields = app.get(FieldStore);
    await fields.setField(token, 'list', new Set([1n]));
    expect(await fields.getAllFields(token)).toEqual({ at: new Date(5), list: new Set([1n]) });
    const redis = new Redis(server.url);
    onTestFinished(() => redis.disconnect());
    expect(await redis.get(recordKey('sk:', id))).toMatch(/\n=[A-Za-z0-9+/]+=*$/);
  });

  it('a wrong codec stops the boot', async () => {
    await expect(
      openNode({ redis: server.url, codec: { encode: () => '{}', decode: () => ({}) } }),
    ).rejects.toMatchObject({ code: 'SESSION_OPTIONS', option: 'codec' });
  });
});

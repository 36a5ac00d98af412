// The epoch of the near cache: what a lost link, foreign messages and missing rights do to the copies in it.
// Shown to fail when copies of an earlier epoch are served, and when the loss of the command link is ignored.
import { randomBytes, randomInt } from 'node:crypto';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { SessionEventMap, SessionModuleOptions } from '../../lib/index.js';
import { uniquePrefix } from '../support/redis-url.js';
import { RedisServer } from '../support/redis-server.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import {
  CapturingLogger,
  countUnhandledRejections,
  openNode,
  silenceLogger,
  type NodeSettings,
  type SessionNode,
} from './session-node.js';

describe('RedisSubscriber and the near cache', () => {
  let server: RedisServer;
  let redis: Redis;
  let prefix: string;
  const closing: (() => Promise<unknown>)[] = [];

  beforeAll(async () => {
    server = await RedisServer.start();
    redis = new Redis(server.url);
  });
  afterAll(async () => {
    redis.disconnect();
    await server.stop();
  });
  beforeEach(() => {
    prefix = uniquePrefix();
  });
  afterEach(async () => {
    for (const close of closing.splice(0).toReversed()) await close();
    silenceLogger();
  });

  async function open(options: SessionModuleOptions = {}, settings?: NodeSettings): Promise<SessionNode> {
    const node = await openNode({ redis: server.url, keyPrefix: prefix, ...options }, settings);
    closing.push(() => node.close());
    return node;
  }
  async function proxyTo(): Promise<TcpProxy> {
    const proxy = await TcpProxy.start({ targetPort: server.port });
    closing.push(() => proxy.close());
    return proxy;
  }
  const source = async (node: SessionNode, token: string): Promise<string | undefined> =>
    (await node.sessions.get(token))?.source;

  it('after a reset of the subscriber link no old copy is served, while another node writes on', async () => {
    const link = await proxyTo();
    const writer = await open();
    const reader = await open({ subscriber: link.url });
    const { token } = await writer.sessions.create({ n: 0 });
    await reader.sessions.get(token);
    expect(await source(reader, token)).toBe('cache');
    const states = [reader.subscriber.state];

    for (let n = 1; n <= 5; n++) {
      const { epoch } = reader.subscriber;
      link.refuse(true);
      link.cutAll();
      await waitFor(() => reader.subscriber.epoch > epoch, { intervalMs: 1 });
      states.push(reader.subscriber.state);
      // Its message cannot arrive; the copy must not be served all the same.
      await writer.sessions.update(token, { n });
      expect(await reader.sessions.get(token)).toMatchObject({ source: 'store', data: { n } });
      // Nor is one stored while nothing would tell of changes to it.
      expect(await source(reader, token)).toBe('store');
      link.refuse(false);
      await waitFor(() => reader.subscriber.state === 'live');
      states.push(reader.subscriber.state);
      expect(await reader.sessions.get(token)).toMatchObject({ source: 'store', data: { n } });
      expect(await reader.sessions.get(token)).toMatchObject({ source: 'cache', data: { n } });
      await writer.sessions.update(token, { n: n + 0.5 });
      await waitFor(async () => (await reader.sessions.get(token))?.data.n === n + 0.5);
    }
    expect(states).toEqual(['live', ...Array.from({ length: 5 }, () => ['suspended', 'live']).flat()]);
  });

  it('CLIENT KILL TYPE pubsub again and again: no read is older than the last write before it', async () => {
    const writer = await open({ cache: false });
    const reader = await open();
    const { token } = await writer.sessions.create({ n: 0 });
    let acknowledged = 0;
    let going = true;
    let stale = 0;
    const sources = { cache: 0, store: 0, new: 0, stale: 0 };
    const write = async (): Promise<void> => {
      while (going) {
        await writer.sessions.update(token, { n: acknowledged + 1 });
        acknowledged++;
        if (acknowledged % 10 === 0) await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub');
        // Messages and their epoch's end come within this; a read in between would only measure the network.
        await waitFor(async () => (await reader.sessions.get(token))?.data.n === acknowledged, {
          intervalMs: 1,
        });
        for (let read = 0; read < 20; read++) {
          const session = await reader.sessions.get(token);
          if (session === null || Number(session.data.n) < acknowledged) stale++;
          else sources[session.source]++;
        }
      }
    };
    const begun = performance.now();
    const writing = write();
    await waitFor(() => performance.now() - begun > 1_500, { message: 'the time of the test' });
    going = false;
    await writing;
    expect(stale).toBe(0);
    expect(sources.cache).toBeGreaterThan(100);
    expect(sources.store).toBeGreaterThan(10);
  });

  it('a reset of the command link voids the copies too', async () => {
    const link = await proxyTo();
    const node = await open({ redis: link.url, subscriber: server.url });
    const { token } = await node.sessions.create({});
    expect(await source(node, token)).toBe('cache');
    const { epoch } = node.subscriber;
    link.cutAll();
    await waitFor(() => node.subscriber.epoch > epoch, { intervalMs: 1 });
    expect(node.subscriber.live).toBe(false);
    expect(await source(node, token)).toBe('store');
    await waitFor(() => node.subscriber.live);
    expect(await source(node, token)).toBe('store');
    expect(await source(node, token)).toBe('cache');
  });

  it('a subscriber on another server keeps the cache off, and says so once', async () => {
    const other = await RedisServer.start();
    closing.push(() => other.stop());
    const logger = new CapturingLogger();
    const node = await open({ subscriber: other.url }, { logger, live: false });
    const { token } = await node.sessions.create({});
    await waitFor(() => logger.matching(/different servers/).length > 0);
    const { epoch } = node.subscriber;
    await waitFor(() => node.subscriber.epoch > epoch + 1); // it has tried again, twice
    expect(node.subscriber.state).not.toBe('live');
    expect(await source(node, token)).toBe('store');
    expect(await source(node, token)).toBe('store');
    expect(logger.matching(/^warn .*near cache is off/)).toHaveLength(1);
  });

  it('a subscriber on a replica keeps the cache off', async () => {
    const replica = await RedisServer.start({ args: ['--replicaof', '127.0.0.1', String(server.port)] });
    closing.push(() => replica.stop());
    const logger = new CapturingLogger();
    const node = await open({ subscriber: replica.url }, { logger, live: false });
    await waitFor(() => logger.matching(/not attached to a master/).length > 0);
    const { token } = await node.sessions.create({});
    expect(await source(node, token)).toBe('store');
    expect(await source(node, token)).toBe('store');
  });

  it.each([3, 2] as const)(
    'malformed messages on the channel are counted and ignored (RESP%i)',
    async (protocol) => {
      const node = await open({ redis: { host: '127.0.0.1', port: server.port, protocol } });
      const { token, id } = await node.sessions.create({});
      const heard: unknown[] = [];
      node.events.on('message', (message) => heard.push(message));
      const bad = [
        '',
        ' ',
        'x',
        'update',
        `update ${id}`,
        `update ${id} 1`,
        `update ${id} -1 me`,
        `update ${id} 1e9 me`,
        `update ${id} 99999999999999999 me`,
        `update ${id} NaN me`,
        `UPDATE ${id} 1 me`,
        `drop ${id} 1 me`,
        `update ${id}x 1 me`,
        `update ${id} 1 me you`,
        `update ${id} 1 me\n`,
        `update ${id} 1 ${'x'.repeat(65)}`,
        `{"operation":"destroy","id":"${id}"}`,
        `update ${id} 1 \0`,
        'é'.repeat(1_000),
        'x'.repeat(1_000_000),
        Buffer.from([0xff, 0xfe, 0x00, 0x80]),
      ];
      const before = node.subscriber.counts;
      for (const text of bad) await redis.publish(`${prefix}inv`, text);
      await waitFor(() => node.subscriber.counts.malformed === before.malformed + bad.length);
      expect(node.subscriber.counts.messages).toBe(before.messages);
      expect(heard).toEqual([]);
      expect(await source(node, token)).toBe('cache'); // and no copy was lost to them
      // A proper message from a stranger is taken: at worst it costs a read.
      await redis.publish(`${prefix}inv`, `update ${id} 9999999999999999 stranger`);
      await waitFor(() => heard.length === 1);
      expect(await source(node, token)).toBe('store');
    },
  );

  it.each([3, 2] as const)(
    'binary garbage at a high rate: proper messages are still heard (RESP%i)',
    async (protocol) => {
      const uncaught: unknown[] = [];
      const note = (error: unknown): number => uncaught.push(error);
      process.on('uncaughtExceptionMonitor', note);
      const rejections = countUnhandledRejections();
      closing.push(async () => {
        process.off('uncaughtExceptionMonitor', note);
        rejections.stop();
      });
      const writer = await open({ cache: false });
      const reader = await open({ redis: { host: '127.0.0.1', port: server.port, protocol } });
      // A listener of the app that throws is the app's affair, and does not reach the connection either.
      reader.events.on('message', () => {
        throw new Error('a listener of the app');
      });
      const { token } = await writer.sessions.create({ n: 0 });
      await reader.sessions.get(token);
      const { epoch } = reader.subscriber;
      const { messages } = reader.subscriber.counts;
      let garbage = 0;
      let n = 0;
      const begun = performance.now();
      while (performance.now() - begun < 1_500) {
        const batch = redis.pipeline();
        for (let k = 0; k < 500; k++) batch.publish(`${prefix}inv`, randomBytes(randomInt(200)));
        const publishing = batch.exec();
        await writer.sessions.update(token, { n: ++n });
        await waitFor(async () => (await reader.sessions.get(token))?.data.n === n, { intervalMs: 1 });
        await publishing;
        garbage += 500;
      }
      await waitFor(() => reader.subscriber.counts.malformed === garbage);
      expect(garbage).toBeGreaterThan(10_000);
      expect(reader.subscriber.counts.messages - messages).toBe(n);
      expect(reader.subscriber).toMatchObject({ state: 'live', epoch }); // no heartbeat was lost in it
      await source(reader, token);
      expect(await source(reader, token)).toBe('cache');
      expect(uncaught).toEqual([]);
      expect(rejections.reasons).toEqual([]);
    },
  );

  it('own changes emit no message event, those of others do, with their instanceId as origin', async () => {
    const here = await open({ instanceId: 'here' });
    const there = await open({ instanceId: 'there.2:b~_-' });
    const heard: SessionEventMap['message'][] = [];
    here.events.on('message', (message) => heard.push(message));
    const own = await here.sessions.create({});
    await own.set('a', 1);
    await here.sessions.update(own.token, { a: 2 });
    const next = await here.sessions.regenerate(own.token);
    await next.destroy();

    const { token, id } = await there.sessions.create({});
    await there.sessions.update(token, { b: 1 });
    await there.sessions.touch(token);
    await there.sessions.destroy(token);
    await waitFor(() => heard.length === 2);
    const origin = 'there.2:b~_-';
    expect(heard).toEqual([
      { operation: 'update', id, origin },
      { operation: 'destroy', id, origin },
    ]);
  });

  it('a subscriber user without rights on the channel: cache off, one warning, sessions read from Redis', async () => {
    await redis.call('ACL', 'SETUSER', 'deaf', 'on', '>pw', '~*', '+@all', 'resetchannels');
    const logger = new CapturingLogger();
    const subscriber = `redis://deaf:pw@127.0.0.1:${server.port}`;
    const node = await open({ subscriber }, { logger, live: false });
    const { token } = await node.sessions.create({ n: 1 });
    const { epoch } = node.subscriber;
    await waitFor(() => node.subscriber.epoch > epoch + 2); // several tries
    await node.sessions.update(token, { n: 2 });
    for (let read = 0; read < 3; read++)
      expect(await node.sessions.get(token)).toMatchObject({ source: 'store', data: { n: 2 } });
    expect(logger.matching(/^warn /)).toHaveLength(1);
    expect(logger.matching(/^warn .*NOPERM.*channel/i)).toHaveLength(1);
    expect(logger.matching(/pw/)).toEqual([]);
    // Rights given later are found without a restart.
    await redis.call('ACL', 'SETUSER', 'deaf', 'allchannels');
    await waitFor(() => node.subscriber.live);
    expect(await source(node, token)).toBe('store');
    expect(await source(node, token)).toBe('cache');
  });

  it('a user who may not PUBLISH: writes fail, and nothing is half-written', async () => {
    await redis.call('ACL', 'SETUSER', 'mute', 'on', '>pw', '~*', '+@all', 'resetchannels');
    const node = await open(
      { redis: `redis://mute:pw@127.0.0.1:${server.port}`, allowGivenTokens: true },
      { live: false, logger: new CapturingLogger() },
    );
    const session = await node.sessions.create({ n: 1 }, { userId: 'ada' });
    const dump = async (): Promise<unknown> =>
      Promise.all(
        (await redis.keys(`${prefix}*`)).toSorted().map(async (key) => [key, await redis.dumpBuffer(key)]),
      );
    const before = await dump();
    for (const write of [
      () => node.sessions.update(session.token, { n: 2 }),
      () => node.sessions.replace(session.token, {}),
      () => session.set('n', 3),
      () => session.clear(),
      () => node.sessions.create({}, { token: 'a-token-of-the-app' }), // its creation is announced
      () => node.sessions.regenerate(session.token),
      () => node.sessions.regenerate(session.token, { userId: 'grace' }),
      () => node.sessions.destroy(session.token),
      () => node.registry.kill(session.id),
      () => node.registry.killUser('ada'),
    ]) {
      await expect(write()).rejects.toMatchObject({
        code: 'SESSION_STORE_UNAVAILABLE',
        outcomeUnknown: false,
      });
      expect(await dump()).toEqual(before);
    }
    expect(node.subscriber.state).not.toBe('live');
    for (let read = 0; read < 2; read++)
      expect(await node.sessions.get(session.token)).toMatchObject({ source: 'store', data: { n: 1 } });
    // With the rights given back everything works again, without a restart.
    await redis.call('ACL', 'SETUSER', 'mute', 'allchannels');
    await waitFor(() => node.subscriber.live);
    await node.sessions.update(session.token, { n: 2 });
    expect(await node.sessions.get(session.token)).toMatchObject({ source: 'cache', data: { n: 2 } });
  });
});

// Deadlines and touches. Shown to fail when GET does not look at the deadline, when TOUCH writes each time, and when a
// copy lives for the whole of the remaining time as the store told it in whole milliseconds.
import 'reflect-metadata';
import { setTimeout as delay } from 'node:timers/promises';
import { Controller, Get, Module, UseGuards } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import {
  SessionGuard,
  SessionModule,
  SessionService,
  type ActiveSession,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { RedisMonitor } from '../support/redis-monitor.js';
import { testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { openNode, recordKey, type Fields, type SessionNode } from './session-node.js';

type Session = ActiveSession<Fields>;

describe('expiry, by the clock of Redis', () => {
  let redis: Redis;
  let prefix: string;
  const nodes: SessionNode[] = [];

  beforeAll(() => {
    redis = new Redis(testRedisUrl());
  });
  afterAll(() => redis.disconnect());
  beforeEach(() => {
    prefix = uniquePrefix();
  });
  afterEach(async () => {
    await Promise.all(nodes.splice(0).map((node) => node.close()));
  });

  async function open(options: SessionModuleOptions = {}): Promise<SessionNode> {
    const node = await openNode({ redis: testRedisUrl(), keyPrefix: prefix, ...options });
    nodes.push(node);
    return node;
  }
  /** Epoch milliseconds with a fraction. */
  async function redisNow(): Promise<number> {
    const [seconds, micros] = await redis.time();
    return Number(seconds) * 1000 + Number(micros) / 1000;
  }
  /** Names of the keys without expiry, the layout marker left out. */
  async function immortalKeys(): Promise<string[]> {
    const keys = await redis.keys(`${prefix}*`);
    const ttls = await Promise.all(keys.map((key) => redis.pttl(key)));
    return keys.filter((key, index) => ttls[index] === -1 && key !== `${prefix}layout`);
  }
  /**
   * Polls until the session is refused; every answer that came must have been allowed when it was asked for. Gives
   * where they came from, the last 5 ms aside: a copy ends a little before its session, and the store is asked.
   */
  async function pollToEnd(node: SessionNode, token: string, deadline: number): Promise<Set<string>> {
    const sources = new Set<string>();
    let lastAllowed = 0;
    for (;;) {
      const before = await redisNow();
      const session = await node.sessions.get(token);
      if (session === null) {
        // Not refused early either: the clock at the last look had at least reached the deadline by now.
        expect(Math.ceil(await redisNow())).toBeGreaterThanOrEqual(deadline);
        break;
      }
      expect(before).toBeLessThan(deadline);
      lastAllowed = before;
      if (before < deadline - 5) sources.add(session.source);
      await delay(Math.random() * 3); // a few looks every 10 ms, at no fixed phase
    }
    expect(deadline - lastAllowed).toBeLessThan(200);
    return sources;
  }

  it('no key is without expiry after any operation, unless both timeouts are 0', async () => {
    const node = await open({ partitions: 2 });
    let session: Session;
    const checks: (() => Promise<unknown>)[] = [];
    for (const userId of [undefined, 'ada']) {
      for (const timeouts of [
        {},
        { idleTimeout: 0 },
        { absoluteTimeout: 0 },
        { idleTimeout: '1s' },
        { absoluteTimeout: '36500d', idleTimeout: '1000d' },
      ]) {
        checks.push(
          async () => (session = await node.sessions.create({}, { ...timeouts, ...(userId && { userId }) })),
          async () => session.set('a', 1),
          async () => session.set('a', 2, { keepExpiry: true }),
          async () => node.sessions.update(session.token, (data) => ({ ...data, b: 1 })),
          async () => node.sessions.replace(session.token, { c: 1 }),
          async () => node.sessions.touch(session.token),
          async () => session.clear(),
          async () => session.regenerate(),
          async () => session.regenerate({ userId: 'grace' }),
          async () => session.regenerate({ userId: null }),
          async () => node.sessions.create({}, { ...timeouts, userId: 'ada' }),
        );
      }
    }
    checks.push(
      async () => session.destroy(),
      async () => node.registry.killUser('ada'),
      async () => node.registry.killUser('grace'),
    );
    for (const check of checks) {
      await check();
      expect(await immortalKeys()).toEqual([]);
    }
  });

  it('a session with both timeouts 0 has no expiry, and neither has its index while it lives', async () => {
    const node = await open({ idleTimeout: 0, absoluteTimeout: 0 });
    const session = await node.sessions.create({}, { userId: 'ada' });
    const other = await node.sessions.create({}, { userId: 'ada', idleTimeout: '10s' });
    await session.set('a', 1);
    expect(session.expiresAt).toBeNull();
    expect(await immortalKeys()).toHaveLength(3);
    expect(await redis.pttl(recordKey(prefix, other.id))).toBeGreaterThan(0);
    await other.destroy();
    await session.destroy();
    const left = (await redis.keys(`${prefix}*`)).filter((key) => !key.endsWith(':sweep'));
    expect(left).toEqual([`${prefix}layout`]);
  });

  it('nothing is readable past the idle deadline, from the store or the near cache', async () => {
    const cached = await open();
    const uncached = await open({ cache: false });
    const sources = await Promise.all(
      Array.from({ length: 24 }, async (_, index) => {
        const session = await cached.sessions.create({}, { idleTimeout: `${150 + index * 17}ms` });
        return pollToEnd(index % 4 === 3 ? uncached : cached, session.token, session.expiresAt ?? 0);
      }),
    );
    expect(sources.filter((set) => set.has('cache')).length).toBeGreaterThanOrEqual(18);
    expect(sources.filter((set) => set.has('store')).length).toBeGreaterThanOrEqual(6);
  });

  it('a copy is not served past the deadline by even a fraction of a millisecond', async () => {
    const node = await open();
    let late = 0;
    for (let round = 0; round < 100; round++) {
      const { token, expiresAt } = await node.sessions.create({}, { idleTimeout: '20ms' });
      for (;;) {
        const before = await redisNow();
        const session = await node.sessions.get(token);
        if (session === null) break;
        if (before >= (expiresAt ?? 0)) late++;
      }
    }
    expect(late).toBe(0);
  });

  it('nothing is readable past the absolute deadline, however often it is used', async () => {
    const node = await open();
    await Promise.all(
      Array.from({ length: 12 }, async (_, index) => {
        const session = await node.sessions.create(
          {},
          { idleTimeout: '120ms', absoluteTimeout: `${400 + index * 13}ms` },
        );
        const absolute = session.createdAt + 400 + index * 13;
        let going = true;
        const use = async (): Promise<void> => {
          while (going) {
            await node.sessions.touch(session.token);
            await delay(10); // the pace of the visitor
          }
        };
        const using = use();
        await pollToEnd(node, session.token, absolute);
        going = false;
        await using;
        expect(await node.sessions.touch(session.token)).toBeNull();
      }),
    );
  });

  it('touch, save and regenerate never move the absolute deadline', async () => {
    const node = await open({ touchInterval: 0, cache: false });
    const session = await node.sessions.create(
      {},
      { absoluteTimeout: '1h', idleTimeout: '1h', userId: 'ada' },
    );
    const header = async (): Promise<string> =>
      (await redis.getrange(recordKey(prefix, session.id), 53, 65)) ?? '';
    const absolute = String(session.createdAt + 3_600_000);
    const lastAccess = session.lastAccess;
    for (const act of [
      async () => session.touch(),
      async () => session.set('a', 1),
      async () => node.sessions.touch(session.token),
      async () => session.regenerate(),
    ]) {
      await delay(3); // lastAccess has a resolution of 1 ms
      await act();
      expect(await header()).toBe(absolute);
    }
    expect(session.lastAccess).toBeGreaterThan(lastAccess);
    expect(session.expiresAt).toBe(Number(absolute));
  });

  it('keepExpiry writes without moving the idle deadline', async () => {
    const node = await open();
    const session = await node.sessions.create({}, { idleTimeout: '400ms' });
    const deadline = session.expiresAt ?? 0;
    await delay(50); // a write now would move the deadline by as much
    await node.sessions.update(session.token, { a: 1 }, { keepExpiry: true });
    await pollToEnd(node, session.token, deadline);
  });

  it('50 parallel uses write one touch per touchInterval, by one process and by two', async () => {
    const options = { touchInterval: '120ms', idleTimeout: '2s' };
    const [one, two] = [await open(options), await open({ ...options, cache: false })];
    const monitor = await RedisMonitor.open(testRedisUrl());
    try {
      const session = await one.sessions.create({});
      const key = recordKey(prefix, session.id);
      const begun = performance.now();
      let uses = 0;
      while (performance.now() - begun < 700) {
        const used = await Promise.all(
          Array.from({ length: 50 }, (_, index) => (index % 2 ? one : two).sessions.touch(session.token)),
        );
        expect(used.every((touched) => touched !== null)).toBe(true);
        uses += used.length;
      }
      const elapsed = performance.now() - begun;
      await monitor.sync();
      const writes = monitor.lines.filter((line) => /"setrange"/i.test(line) && line.includes(key));
      expect(writes.length).toBeGreaterThanOrEqual(3);
      expect(writes.length).toBeLessThanOrEqual(Math.ceil(elapsed / 120));
      const times = writes.map((line) => Number(line.split(' ')[0]) * 1000);
      const gaps = times.slice(1).map((time, index) => time - (times[index] ?? 0));
      expect(Math.min(...gaps)).toBeGreaterThan(118); // lastAccess is cut to whole milliseconds
      process.stdout.write(`${uses} uses in ${elapsed.toFixed(0)} ms wrote ${writes.length} touches\n`);
    } finally {
      monitor.close();
    }
  });

  it('50 parallel guarded requests write one touch per touchInterval', async () => {
    @Controller()
    @UseGuards(SessionGuard)
    class MeController {
      @Get()
      me(): object {
        return {};
      }
    }
    @Module({
      imports: [
        SessionModule.forRoot({
          redis: testRedisUrl(),
          keyPrefix: prefix,
          touchInterval: '150ms',
          idleTimeout: '1s',
        }),
      ],
      controllers: [MeController],
    })
    class AppModule {}
    const app = await NestFactory.create(AppModule, { logger: false, abortOnError: false });
    const monitor = await RedisMonitor.open(testRedisUrl());
    try {
      await app.listen(0, '127.0.0.1');
      const url = await app.getUrl();
      const { token, id } = await app.get(SessionService).create({});
      const key = recordKey(prefix, id);
      const begun = performance.now();
      // Longer than the idle timeout: only the touches keep it alive.
      while (performance.now() - begun < 1_300) {
        const answers = await Promise.all(
          Array.from({ length: 50 }, () => fetch(url, { headers: { authorization: `Bearer ${token}` } })),
        );
        for (const answer of answers) await answer.body?.cancel();
        expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
      }
      const elapsed = performance.now() - begun;
      await monitor.sync();
      const writes = monitor.lines.filter((line) => /"setrange"/i.test(line) && line.includes(key));
      expect(writes.length).toBeGreaterThanOrEqual(2);
      expect(writes.length).toBeLessThanOrEqual(Math.ceil(elapsed / 150));
    } finally {
      monitor.close();
      await app.close();
    }
  });

  it('a session touched by another process is read again when the local deadline has passed, never refused', async () => {
    const [here, there] = [await open(), await open({ touchInterval: 0 })];
    const session = await here.sessions.create({}, { idleTimeout: '400ms' });
    const { token } = session;
    const first = session.expiresAt ?? 0;
    expect((await here.sessions.get(token))?.source).toBe('cache');
    await delay(150); // so that the touch moves the deadline by as much
    const deadline = (await there.sessions.touch(token))?.expiresAt ?? 0;
    expect(deadline - first).toBeGreaterThanOrEqual(140);
    // Not announced: until the old deadline the copy answers, then the store does, and its answer is copied.
    const sources: string[] = [];
    for (;;) {
      const before = await redisNow();
      const seen = await here.sessions.get(token);
      if (seen === null) break;
      expect(before).toBeLessThan(deadline);
      if (before < deadline - 5 && sources.at(-1) !== seen.source) sources.push(seen.source);
    }
    expect(Math.ceil(await redisNow())).toBeGreaterThanOrEqual(deadline);
    expect(sources).toEqual(['cache', 'store', 'cache']);
  });

  it('a copy is prolonged by the touch of its own process, and cut by cache.ttlRatio and cache.maxAge', async () => {
    const node = await open({ touchInterval: 0 });
    const session = await node.sessions.create({}, { idleTimeout: '300ms' });
    await delay(150); // half of its life
    await node.sessions.touch(session.token);
    // Beyond its first end, and not up to its second: of that a copy stays as far away as the touch took.
    const until = performance.now() + 200;
    while (performance.now() < until) {
      expect((await node.sessions.get(session.token))?.source).toBe('cache');
      await delay(2); // the pace of the reads
    }

    for (const cache of [{ maxAge: '80ms' }, { ttlRatio: 0.1 }]) {
      const short = await open({ cache });
      const { token } = await short.sessions.create({}, { idleTimeout: '800ms' });
      const begun = performance.now();
      let source: string | undefined = 'cache';
      while (source === 'cache') source = (await short.sessions.get(token))?.source;
      expect(source).toBe('store');
      expect(performance.now() - begun).toBeLessThan(400); // half of its life
    }
  });
});

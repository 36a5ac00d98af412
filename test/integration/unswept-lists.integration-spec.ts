// Lists right after very many sessions have expired at once, before anybody has swept.
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { RedisMonitor } from '../support/redis-monitor.js';
import { deleteByPrefix, testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { NO_SWEEP, openRegistryNode, type RegistryNode } from './registry-rig.js';

const EXPIRED = 3_000;
const EXPIRED_USERS = 600;
const LIVE = 20;

describe(`lists of ${LIVE} live sessions behind ${EXPIRED} that expired and were not swept`, () => {
  let redis: Redis;
  let prefix: string;
  let node: RegistryNode;
  let monitor: RedisMonitor;
  let live: { id: string; userId: string }[];

  beforeAll(() => {
    redis = new Redis(testRedisUrl());
  });
  afterAll(() => redis.disconnect());
  beforeEach(async () => {
    prefix = uniquePrefix();
    node = await openRegistryNode({
      redis: testRedisUrl(),
      keyPrefix: prefix,
      sweepInterval: NO_SWEEP,
      commandTimeout: '10s',
    });
    const { sessions, registry } = node;
    live = [];
    for (let n = 0; n < LIVE; n++) {
      const userId = `live ${n}`;
      live.unshift({ id: (await sessions.create({}, { userId })).id, userId });
      const at = await registry.now();
      await waitFor(async () => (await registry.now()) > at, { intervalMs: 0 });
    }
    await Promise.all(
      Array.from({ length: EXPIRED }, (_, n) =>
        sessions.create({}, { userId: `gone ${n % EXPIRED_USERS}`, idleTimeout: 1000 }),
      ),
    );
    await registry.getAllUsers({ limit: 1 }); // which writes what has been noted
    await waitFor(async () => (await registry.count()) === LIVE, { intervalMs: 100 });
    monitor = await RedisMonitor.open(testRedisUrl());
  });
  afterEach(async () => {
    monitor.close();
    await node.close();
    await deleteByPrefix(redis, prefix);
  });

  /** What was sent to Redis meanwhile, and how much of it to read its indexes. What scripts do there is not counted. */
  async function commandsOf<R>(
    task: () => Promise<R>,
  ): Promise<{ answer: R; commands: number; rounds: number }> {
    monitor.clear();
    const answer = await task();
    await monitor.sync();
    const sent = monitor.commandsMatching(/^\S+ \[\d+ (?!lua)/).filter((line) => line.includes(prefix));
    expect(await redis.zcard(`${prefix}{0}:exp`)).toBeGreaterThan(0); // nobody has swept
    const rounds = sent.filter((line) => /"zrevrangebyscore"/i.test(line)).length;
    return { answer, commands: sent.length, rounds };
  }

  it('getAllSessions() shows them, in parts, with few commands', async () => {
    const first = await commandsOf(() => node.registry.getAllSessions({ limit: 10 }));
    expect(first.answer.sessions.map(({ id }) => id)).toEqual(live.slice(0, 10).map(({ id }) => id));
    expect(first.commands).toBeLessThan(1_500); // some 500; by rounds of ten it was 9,000
    const second = await node.registry.getAllSessions({ limit: 10, cursor: first.answer.cursor });
    expect(second.sessions.map(({ id }) => id)).toEqual(live.slice(10).map(({ id }) => id));
    expect(second.cursor).toBeNull();
  });

  it('getAllUsers() shows their users, in parts, with few commands', async () => {
    const first = await commandsOf(() => node.registry.getAllUsers({ limit: 10 }));
    expect(first.answer.users).toEqual(live.slice(0, 10).map(({ userId }) => userId));
    // Each user's own sessions are looked at besides, some 4 commands for each.
    expect(first.rounds).toBeLessThan(270); // some 90; by rounds of ten it was 1,500
    const second = await node.registry.getAllUsers({ limit: 10, cursor: first.answer.cursor });
    expect(second.users).toEqual(live.slice(10).map(({ userId }) => userId));
    expect(second.cursor).toBeNull();
  });
});

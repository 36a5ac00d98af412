// What has expired is removed, told of once, and leaves nothing behind, whatever becomes of the processes that sweep.
// Shown to fail when SWEEP does not look at use, leaves out metadata or what Redis has dropped, and when the sweeper
// gives up after a failure.
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { SessionStoreUnavailableError, type SessionModuleOptions } from '../../lib/index.js';
import type { NodeWorker } from '../support/node-worker.js';
import { deleteByPrefix, testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import {
  audit,
  ExpiryLog,
  keysOf,
  NO_SWEEP,
  openRegistryNode,
  startRegistryWorker,
  type RegistryNode,
} from './registry-rig.js';
import { recordKey } from './session-node.js';

/** Sessions of one script of a sweep: what a process that dies may take with it untold. */
const BATCH = 200;

describe('the sweep', () => {
  let redis: Redis;
  let prefix: string;
  const closing: (() => Promise<unknown>)[] = [];

  beforeAll(() => {
    redis = new Redis(testRedisUrl());
  });
  afterAll(() => redis.disconnect());
  afterEach(async () => {
    await Promise.all(closing.splice(0).map((close) => close()));
    await deleteByPrefix(redis, prefix);
  });

  const begin = (): void => void (prefix = uniquePrefix());
  const settings = (options: SessionModuleOptions = {}): SessionModuleOptions => ({
    redis: testRedisUrl(),
    keyPrefix: prefix,
    sweepInterval: '100ms',
    ...options,
  });
  const node = async (options?: SessionModuleOptions): Promise<RegistryNode> => {
    const opened = await openRegistryNode(settings(options));
    closing.push(() => opened.close());
    return opened;
  };
  const log = (): ExpiryLog => {
    const made = new ExpiryLog();
    closing.push(async () => made.remove());
    return made;
  };
  /** Ended by the test if it is not killed before. */
  const worker = async (options: SessionModuleOptions = {}, told?: ExpiryLog): Promise<NodeWorker> => {
    const started = await startRegistryWorker(settings({ cache: false, ...options }), told?.path);
    closing.push(async () => {
      if (started.exit !== null) return;
      await started.call('close');
      await started.stop();
    });
    return started;
  };
  /** No key is left but the layout, and the claims of those who go on sweeping. */
  const empty = async (timeoutMs = 5_000): Promise<void> => {
    await waitFor(
      async () => {
        const keys = (await keysOf(redis, prefix)).filter((key) => !key.endsWith('}:sweep'));
        expect(keys).toEqual([`${prefix}layout`]);
        return true;
      },
      { timeoutMs, intervalMs: 50 },
    );
  };
  const dueNow = async (partitions: number): Promise<number> => {
    const counts = await Promise.all(
      Array.from({ length: partitions }, (_, p) => redis.zcard(`${prefix}{${p}}:exp`)),
    );
    return counts.reduce((sum, count) => sum + count, 0);
  };

  it('four processes tell of 10,000 expirations exactly 10,000 times, each with its user and metadata', async () => {
    begin();
    const told = log();
    const workers = await Promise.all(Array.from({ length: 4 }, () => worker({}, told)));
    await Promise.all(
      workers.map((one, part) =>
        one.call('fill', part * 2500, (part + 1) * 2500, { idleTimeout: 1000 + (part % 2) * 1000 }),
      ),
    );
    await empty(20_000);
    const events = told.read();
    expect(events).toHaveLength(10_000);
    expect(new Set(events.map(({ id }) => id)).size).toBe(10_000);
    expect(events.map(({ userId, metadata }) => `${userId} ${String(metadata.label)}`).sort()).toEqual(
      Array.from({ length: 10_000 }, (_, n) => `user-${n} ${n}`).sort(),
    );
    await Promise.all(closing.splice(0).map((close) => close()));
    await waitFor(async () => (await keysOf(redis, prefix)).length === 1); // the claims too
  });

  it('what is used lives on, its deadline put right; what never expires stays', async () => {
    begin();
    const sweeper = await node({ touchInterval: 0, idleTimeout: '3s' });
    const { sessions } = sweeper;
    const made = await Promise.all(
      Array.from({ length: 300 }, (_, n) => sessions.create({ n }, { userId: `user-${n % 7}` })),
    );
    const immortal = await sessions.create({}, { userId: 'ada', idleTimeout: 0, absoluteTimeout: 0 });
    const used = made.slice(0, 50);
    const scoreOf = async ({ id, userId }: (typeof made)[number]) =>
      Number(await redis.zscore(recordKey(prefix, id).replace(/s:[^:]*$/, 'exp'), `${id} ${userId}`));
    const before = await Promise.all(used.map(scoreOf));
    const others = made.length - used.length;
    await waitFor(
      async () => {
        const touched = await Promise.all(used.map(({ token }) => sessions.touch(token)));
        if (touched.includes(null)) expect.unreachable('what is used has been swept');
        return sweeper.expired.length >= others;
      },
      { timeoutMs: 8_000, intervalMs: 200 },
    );
    expect(sweeper.expired.map(({ id }) => id).sort()).toEqual(
      made
        .slice(50)
        .map(({ id }) => id)
        .sort(),
    );
    const after = await Promise.all(used.map(scoreOf));
    for (const [index, score] of after.entries()) expect(score).toBeGreaterThanOrEqual(before[index]!);
    expect(await sweeper.registry.count()).toBe(51);
    const { alive, wrong } = await audit(redis, prefix);
    expect([alive.length, wrong]).toEqual([51, []]);
    await waitFor(() => sweeper.expired.length === 300);
    expect(await sessions.get(immortal.token, { fresh: true })).not.toBeNull();
    expect(await sweeper.registry.killUser('ada')).toBe(1);
    await empty();
  });

  it('a process killed in the middle loses at most one batch of events; nothing stays unswept', async () => {
    begin();
    const filler = await worker({ partitions: 2, sweepInterval: NO_SWEEP });
    await filler.call('fill', 0, 12_000, { idleTimeout: 1000 });
    await delay(1_000); // all are due
    let kills = 0;
    let told: ExpiryLog[] = [];
    for (; kills < 3; kills++) {
      const before = await dueNow(2);
      expect(before).toBeGreaterThan(2 * BATCH);
      const heard = log();
      told.push(heard);
      const victim = await worker({ partitions: 2 }, heard);
      await waitFor(() => heard.read().length > 0, { intervalMs: 1 });
      await victim.kill();
      const swept = before - (await dueNow(2));
      expect(swept).toBeGreaterThan(0);
      expect(swept - heard.read().length).toBeLessThanOrEqual(BATCH);
    }
    expect(await dueNow(2)).toBeGreaterThan(0); // killed in the middle, else this shows nothing
    const rest = log();
    told = [...told, rest];
    await worker({ partitions: 2 }, rest);
    await empty(10_000);
    const ids = told.flatMap((heard) => heard.read().map(({ id }) => id));
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids.length).toBeGreaterThanOrEqual(12_000 - kills * BATCH);
    process.stdout.write(`killed sweepers: ${12_000 - ids.length} events lost in ${kills} kills\n`);
  });

  it('goes past 120 sessions in the middle of a move: what expired behind them is told of in one sweep', async () => {
    begin();
    const options = { partitions: 1, sweepInterval: NO_SWEEP, commandTimeout: '10s' } as const;
    const [dying, sweeper] = [await node(options), await node(options)];
    const moving = await Promise.all(
      Array.from({ length: 120 }, () => dying.sessions.create({}, { userId: 'ada' })),
    );
    // As where a process dies between both steps of a login: nobody takes the first one back.
    dying.store.create = async () => {
      throw new SessionStoreUnavailableError('create a session', 'the process died', true);
    };
    for (const session of moving)
      await expect(session.regenerate({ userId: 'bob' })).rejects.toThrow('the process died');
    const short = await Promise.all(
      Array.from({ length: 70 }, () => sweeper.sessions.create({}, { userId: 'eve', idleTimeout: 1000 })),
    );
    await waitFor(async () => (await sweeper.registry.countForUser('eve')) === 0);
    expect((await audit(redis, prefix)).moving).toHaveLength(120); // they stand before those that expired
    const told: string[] = [];
    await sweeper.store.sweep(({ id }) => told.push(id), 100);
    expect(told.sort()).toEqual(short.map(({ id }) => id).sort());
    expect((await audit(redis, prefix)).moving).toHaveLength(120);
  });

  it('sessions whose record Redis has dropped are removed and told of too, without metadata', async () => {
    begin();
    const filler = await node({ sweepInterval: NO_SWEEP });
    const made = await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        filler.sessions.create({}, { userId: `user-${n}`, idleTimeout: 1000, metadata: { label: `${n}` } }),
      ),
    );
    await redis.del(made.filter((_, n) => n % 2).map(({ id }) => recordKey(prefix, id)));
    await waitFor(async () => (await filler.registry.count()) === 0);
    const sweeper = await node();
    await waitFor(() => sweeper.expired.length === 20);
    expect(sweeper.expired.map(({ metadata }) => metadata.label ?? '-').sort()).toEqual(
      made.map((_, n) => (n % 2 ? '-' : `${n}`)).sort(),
    );
    await empty();
    expect(sweeper.expired).toHaveLength(20);
  });

  it('what somebody tries to end, or makes anew, after its time is told of as expired all the same', async () => {
    begin();
    const a = await node({ sweepInterval: NO_SWEEP, idleTimeout: 1000, allowGivenTokens: true });
    const token = 'a-token-of-their-own';
    const made = [
      await a.sessions.create({}, { userId: 'ada' }),
      await a.sessions.create({}, { userId: 'ada' }),
      await a.sessions.create({}, { token }),
    ];
    await waitFor(async () => (await a.registry.count()) === 0);
    expect(await a.sessions.destroy(made[0]!.token)).toBe(false);
    expect(await a.registry.kill(made[1]!.id)).toBe(false);
    await a.sessions.create({}, { token });
    const sweeper = await node();
    await waitFor(async () => (await sweeper.registry.count()) === 0);
    await empty();
    const told = [...a.expired, ...sweeper.expired].map(({ id }) => id);
    expect(a.destroyed).toEqual([]);
    for (const { id } of made) expect(told).toContain(id);
  });

  // Known limit: what was noted in a process's last second dies with it. They are listed from their next use on.
  it.fails('sessions of a process that died right after making them are in the lists', async () => {
    begin();
    const a = await node();
    const victim = await worker();
    await victim.call('logins', 'ada', 2, 1);
    await victim.kill();
    await waitFor(
      async () => {
        expect(await a.registry.count()).toBe(2);
        expect((await a.registry.getAllSessions()).sessions).toHaveLength(2);
        expect(await a.registry.getAllUsers()).toMatchObject({ users: ['ada'] });
        return true;
      },
      { timeoutMs: 2_500 }, // the limit is a second; a mended one would be met at once
    );
  });

  it('goes on after Redis was away, and no event is lost or told twice in between', async () => {
    begin();
    const target = new URL(testRedisUrl());
    const proxy = await TcpProxy.start({
      targetHost: target.hostname,
      targetPort: Number(target.port || 6379),
    });
    const sweeper = await openRegistryNode(settings({ redis: proxy.url, cache: false }));
    closing.push(async () => {
      await sweeper.close();
      await proxy.close();
    });
    const filler = await node({ sweepInterval: NO_SWEEP });
    const made = await Promise.all(
      Array.from({ length: 300 }, (_, n) =>
        filler.sessions.create({}, { userId: `user-${n}`, idleTimeout: 1000 }),
      ),
    );
    proxy.refuse(true);
    proxy.cutAll();
    await waitFor(async () => (await filler.registry.count()) === 0);
    await delay(1_500); // several sweeps fail
    expect(sweeper.expired).toEqual([]);
    proxy.refuse(false);
    await waitFor(() => sweeper.expired.length === made.length, { timeoutMs: 10_000 });
    await empty();
    expect(new Set(sweeper.expired.map(({ id }) => id)).size).toBe(made.length);
  });

  it('a cut link loses the events of one batch at most', async () => {
    begin();
    const target = new URL(testRedisUrl());
    const proxy = await TcpProxy.start({
      targetHost: target.hostname,
      targetPort: Number(target.port || 6379),
    });
    const filler = await node({ sweepInterval: NO_SWEEP, partitions: 1 });
    await Promise.all(
      Array.from({ length: 1_000 }, (_, n) =>
        filler.sessions.create({}, { userId: `user-${n}`, idleTimeout: 1000 }),
      ),
    );
    await waitFor(async () => (await filler.registry.count()) === 0);
    const cut = proxy.cutAfterRequest((chunk) => chunk.includes('}:users'));
    const sweeper = await openRegistryNode(settings({ redis: proxy.url, cache: false, partitions: 1 }));
    closing.push(async () => {
      await sweeper.close();
      await proxy.close();
    });
    await cut;
    await empty();
    expect(sweeper.expired.length).toBeGreaterThanOrEqual(1_000 - BATCH);
    process.stdout.write(`cut sweep: ${1_000 - sweeper.expired.length} events lost\n`);
  });

  it('close() in the middle of a sweep ends it: the process ends by itself, the rest is left to others', async () => {
    begin();
    const filler = await worker({ partitions: 1, sweepInterval: NO_SWEEP });
    await filler.call('fill', 0, 10_000, { idleTimeout: 1000 });
    await delay(1_000);
    const told = log();
    const closer = await startRegistryWorker(settings({ partitions: 1 }), told.path);
    await waitFor(() => told.read().length > 0, { intervalMs: 1 });
    const begun = performance.now();
    await closer.call('close');
    const took = performance.now() - begun;
    expect(await closer.stop()).toBe(0);
    const left = await dueNow(1);
    process.stdout.write(`close() in a sweep took ${took.toFixed(0)} ms and left ${left} of 10,000\n`);
    expect(told.read()).toHaveLength(10_000 - left);
    expect(left).toBeGreaterThan(0);
  });
});

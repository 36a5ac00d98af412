// How many sessions a user may have, while many processes sign the same user in.
// Shown to fail when the limit is off by one or not applied at login, the victim is another one, its end is not
// announced, what has expired makes no room, CREATE_LIMITED ignores its nonce, and a refused login is not put back.
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { SessionArgumentError, SessionLimitError, type SessionModuleOptions } from '../../lib/index.js';
import { testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { RedisMonitor } from '../support/redis-monitor.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import {
  afterAnswer,
  audit,
  NO_SWEEP,
  openRegistryNode,
  startRegistryWorker,
  type RegistryNode,
} from './registry-rig.js';
import { recordKey } from './session-node.js';

const LEASE_MS = 500;

interface Logins {
  made: { id: string; token: string }[];
  refused: string[];
}

describe('maxSessionsPerUser', () => {
  let redis: Redis;
  let prefix: string;
  const closing: (() => Promise<unknown>)[] = [];

  beforeAll(() => {
    redis = new Redis(testRedisUrl());
  });
  afterAll(() => redis.disconnect());
  afterEach(async () => {
    await Promise.all(closing.splice(0).map((close) => close()));
  });

  const begin = (): void => void (prefix = uniquePrefix());
  const settings = (options: SessionModuleOptions = {}): SessionModuleOptions => ({
    redis: testRedisUrl(),
    keyPrefix: prefix,
    maxSessionsPerUser: 3,
    sweepInterval: NO_SWEEP,
    coherence: { leaseMs: LEASE_MS },
    ...options,
  });
  const node = async (options?: SessionModuleOptions): Promise<RegistryNode> => {
    const opened = await openRegistryNode(settings(options));
    closing.push(() => opened.close());
    return opened;
  };
  const worker = async (options?: SessionModuleOptions) => {
    const started = await startRegistryWorker(settings(options));
    closing.push(async () => {
      await started.call('close');
      await started.stop();
    });
    return started;
  };
  const sessionsOf = async (who: RegistryNode, userId: string): Promise<string[]> =>
    (await who.registry.getUserSessions(userId)).map(({ id }) => id).sort();
  const consistent = async (): Promise<string[]> => {
    const { alive, wrong } = await audit(redis, prefix);
    expect(wrong).toEqual([]);
    return alive.map((member) => member.slice(0, 23)).sort();
  };

  /** Four processes and six nodes with connections of their own; each signs the user in 50 times. */
  async function fiveHundredLogins(options: SessionModuleOptions, atOnce: number) {
    const [workers, nodes] = await Promise.all([
      Promise.all(Array.from({ length: 4 }, () => worker(options))),
      Promise.all(Array.from({ length: 6 }, () => node(options))),
    ]);
    let most = 0;
    let looks = 0;
    let going = true;
    const watching = (async () => {
      for (; going; looks++) {
        const { alive, wrong } = await audit(redis, prefix);
        expect(wrong).toEqual([]);
        most = Math.max(most, alive.length);
      }
    })();
    const inNode = async ({ sessions }: RegistryNode): Promise<Logins> => {
      const logins: Logins = { made: [], refused: [] };
      let left = 50;
      await Promise.all(
        Array.from({ length: atOnce }, async () => {
          while (left-- > 0) {
            try {
              const { id, token } = await sessions.create({}, { userId: 'ada' });
              logins.made.push({ id, token });
            } catch (error) {
              logins.refused.push((error as { code: string }).code);
            }
          }
        }),
      );
      return logins;
    };
    const logins = await Promise.all([
      ...workers.map((one) => one.call<Logins>('logins', 'ada', 50, atOnce)),
      ...nodes.map(inNode),
    ]);
    going = false;
    await watching;
    const made = logins.flatMap((part) => part.made);
    const refused = logins.flatMap((part) => part.refused);
    return { workers, nodes, made, refused, most, looks };
  }

  it.each([5, 50])(
    'ten nodes sign one user in 500 times, %i at once in each: never more than 3 are alive, all logins succeed',
    async (atOnce) => {
      begin();
      const { workers, nodes, made, refused, most, looks } = await fiveHundredLogins(
        { commandTimeout: '30s' },
        atOnce,
      );
      expect({ most, made: made.length, refused }).toEqual({ most: 3, made: 500, refused: [] });
      expect(looks).toBeGreaterThan(20);
      const left = await consistent();
      expect(left).toHaveLength(3);
      expect(await sessionsOf(nodes[0]!, 'ada')).toEqual(left);
      // Every other one was told of by the process that ended it; those of the workers are counted by what is missing.
      const tokens = made.map(({ token }) => token);
      const expected = made
        .filter(({ id }) => left.includes(id))
        .map(({ token }) => token)
        .sort();
      for (const one of workers)
        await waitFor(async () => {
          expect((await one.call<string[]>('alive', tokens)).sort()).toEqual(expected);
          return true;
        });
      for (const { sessions } of nodes)
        await waitFor(async () => {
          const found = await Promise.all(tokens.map((token) => sessions.get(token)));
          expect(tokens.filter((_, index) => found[index] !== null).sort()).toEqual(expected);
          return true;
        });
    },
  );

  it('the same with onLimit "reject": 3 get in, 497 get SESSION_LIMIT, and the 3 stay usable', async () => {
    begin();
    const { workers, made, refused, most } = await fiveHundredLogins({ onLimit: 'reject' }, 10);
    expect(most).toBe(3);
    expect(refused).toEqual(Array.from({ length: 497 }, () => 'SESSION_LIMIT'));
    expect(await consistent()).toEqual(made.map(({ id }) => id).sort());
    for (const one of workers)
      expect(
        await one.call(
          'alive',
          made.map(({ token }) => token),
        ),
      ).toHaveLength(3);
  });

  it('the victim is the least recently active one, never the new one; it is refused here at once, elsewhere within the lease', async () => {
    begin();
    const [a, b, c] = [await node(), await node(), await worker()];
    const made = [];
    for (let n = 0; n < 3; n++) {
      made.push(await a.sessions.create({ n }, { userId: 'ada', metadata: { label: `${n}` } }));
      await delay(2);
    }
    const [first, second, third] = made.map(({ token }) => token) as [string, string, string];
    await b.sessions.update(first, { used: true });
    for (const token of [first, second, third])
      expect((await b.sessions.get(token)) && (await c.call<string[]>('alive', [token]))).toHaveLength(1);
    expect((await b.sessions.get(second))?.source).toBe('cache');

    const fourth = await a.sessions.create({}, { userId: 'ada' });
    expect(await a.sessions.get(second)).toBeNull();
    expect(a.destroyed).toEqual([{ id: made[1]!.id, userId: 'ada', reason: 'evicted' }]);
    expect(b.destroyed).toEqual([]);
    await waitFor(async () => (await b.sessions.get(second)) === null, { timeoutMs: LEASE_MS });
    await waitFor(async () => (await c.call<string[]>('alive', [second])).length === 0, {
      timeoutMs: LEASE_MS,
    });
    for (const token of [first, third, fourth.token]) expect(await b.sessions.get(token)).not.toBeNull();

    // One after the other, each new one lives and the oldest goes.
    let previous = [third, first, fourth.token];
    for (let round = 0; round < 30; round++) {
      const next = await (round % 2 ? a : b).sessions.create({}, { userId: 'ada' });
      expect(await next.touch()).toBe(true);
      expect(await a.sessions.get(previous[0], { fresh: true })).toBeNull();
      previous = [...previous.slice(1), next.token];
      for (const token of previous) expect(await a.sessions.get(token, { fresh: true })).not.toBeNull();
      await delay(2);
    }
  });

  it.each(['evict-oldest', 'reject'] as const)(
    'what has expired makes room first, and is told of once as expired (%s)',
    async (onLimit) => {
      begin();
      const a = await node({ onLimit });
      const oldest = await a.sessions.create({}, { userId: 'ada' });
      const short = await a.sessions.create(
        {},
        { userId: 'ada', idleTimeout: 1000, metadata: { label: 'short' } },
      );
      const gone = await a.sessions.create({}, { userId: 'ada', idleTimeout: 1000 });
      await redis.del(recordKey(prefix, gone.id)); // as if Redis had dropped it
      await waitFor(async () => (await a.sessions.get(short.token, { fresh: true })) === null);
      const next = await a.sessions.create({}, { userId: 'ada' });
      expect(a.destroyed).toEqual([]);
      expect(a.expired.toSorted((one) => (one.id === short.id ? -1 : 1))).toEqual([
        { id: short.id, userId: 'ada', metadata: { label: 'short' } },
        { id: gone.id, userId: 'ada', metadata: {} },
      ]);
      expect(await consistent()).toEqual([oldest.id, next.id].sort());
      await a.store.sweep(() => expect.unreachable('told twice'), 100);
    },
  );

  it.each(['evict-oldest', 'reject'] as const)(
    'so it does where more than 200 were used longer ago than it (%s)',
    async (onLimit) => {
      begin();
      const a = await node({ onLimit, maxSessionsPerUser: 230 });
      for (let n = 0; n < 229; n++) await a.sessions.create({}, { userId: 'ada' });
      await delay(2);
      const short = await a.sessions.create({}, { userId: 'ada', idleTimeout: 1000 });
      await waitFor(async () => (await a.sessions.get(short.token, { fresh: true })) === null);
      await a.sessions.create({}, { userId: 'ada' });
      expect(a.destroyed).toEqual([]);
      expect(a.expired).toHaveLength(1);
      expect(await consistent()).toHaveLength(230);
    },
  );

  it('a limit lowered from 300 to 2 leaves the most recent one and the new one', async () => {
    begin();
    const [many, few] = [
      await node({ maxSessionsPerUser: 300 }),
      await node({ maxSessionsPerUser: 2, instanceId: 'few' }),
    ];
    const made = await Promise.all(
      Array.from({ length: 300 }, () => many.sessions.create({}, { userId: 'ada' })),
    );
    await delay(2);
    await made[7]!.update({ used: true });
    made.push(...made.splice(7, 1));
    const next = await few.sessions.create({}, { userId: 'ada' });
    expect(await consistent()).toEqual([made.at(-1)!.id, next.id].sort());
    const evicted = made.slice(0, -1).map(({ id }) => id);
    expect(few.destroyed.map(({ id }) => id).sort()).toEqual(evicted.sort());
    for (const { token } of made.slice(0, -1)) expect(await few.sessions.get(token)).toBeNull();
    await waitFor(
      async () => {
        const found = await Promise.all(made.map(({ token }) => many.sessions.get(token)));
        return found.filter((session) => session !== null).length === 1;
      },
      { timeoutMs: LEASE_MS },
    );
  });

  it('at a limit of 300, a login reads none of the sessions that are not due, whoever’s have expired', async () => {
    begin();
    const { sessions, destroyed, expired } = await node({ maxSessionsPerUser: 300, partitions: 1 });
    const bobs = await sessions.create({}, { userId: 'bob', idleTimeout: 1000 });
    const made = await Promise.all(Array.from({ length: 300 }, () => sessions.create({}, { userId: 'ada' })));
    await waitFor(async () => (await sessions.get(bobs.token, { fresh: true })) === null);
    const monitor = await RedisMonitor.open(testRedisUrl());
    closing.push(async () => monitor.close());
    await sessions.create({}, { userId: 'ada' });
    await monitor.sync();
    const sent = monitor.commandsMatching(/^\S+ \[\d+ (?!lua)/).filter((line) => line.includes(prefix));
    expect(sent.filter((line) => /"evalsha"|"zcount"/i.test(line)).length).toBeGreaterThan(2); // else it saw nothing
    expect(sent.filter((line) => /"m?get"/i.test(line))).toEqual([]);
    expect(sent.length).toBeLessThan(10);
    expect([destroyed.length, expired.length]).toEqual([1, 0]);
    expect(made.map(({ id }) => id)).toContain(destroyed[0]!.id);
  });

  it('a login that fails when 200 have made room: these are told of at once and refused here, the rest by the next one', async () => {
    begin();
    const target = new URL(testRedisUrl());
    const proxy = await TcpProxy.start({
      targetHost: target.hostname,
      targetPort: Number(target.port || 6379),
    });
    closing.push(() => proxy.close());
    const [many, few] = [
      await node({ maxSessionsPerUser: 300 }),
      await node({ redis: proxy.url, subscriber: testRedisUrl(), maxSessionsPerUser: 2 }),
    ];
    const made = await Promise.all(
      Array.from({ length: 300 }, () => many.sessions.create({}, { userId: 'ada' })),
    );
    for (const { token } of made) await few.sessions.get(token);
    // The first answer names 200, the second says that they have gone, and asks for more.
    afterAnswer(few, 'create a session', 2, () => {
      proxy.refuse(true);
      proxy.cutAll();
    });
    await expect(few.sessions.create({}, { userId: 'ada' })).rejects.toMatchObject({
      code: 'SESSION_STORE_UNAVAILABLE',
    });
    const left = await consistent();
    expect(left).toHaveLength(100);
    const gone = made.map(({ id }) => id).filter((id) => !left.includes(id));
    expect(few.destroyed.map(({ id }) => id).sort()).toEqual(gone.sort());
    expect(few.destroyed[0]).toEqual({ id: expect.any(String), userId: 'ada', reason: 'evicted' });
    // Redis is away still: no copy is left that could be served.
    const served = await Promise.allSettled(
      made.filter(({ id }) => gone.includes(id)).map(({ token }) => few.sessions.get(token)),
    );
    expect(served.filter(({ status }) => status === 'fulfilled')).toEqual([]);

    proxy.refuse(false);
    const next = await waitFor(() => few.sessions.create({}, { userId: 'ada' }));
    const alive = await consistent();
    expect(alive).toHaveLength(2);
    expect(alive).toContain(next.id);
    const told = few.destroyed.map(({ id }) => id);
    expect(told).toHaveLength(299);
    expect(new Set([...told, ...alive]).size).toBe(301);
  });

  it('a function says how many each user may have; what it may not return is refused before anything is ended', async () => {
    begin();
    const limits: Record<string, number> = { one: 1, two: 2, any: Infinity, none: 0, half: 1.5 };
    const a = await node({ maxSessionsPerUser: async (userId) => limits[userId]! });
    for (const userId of ['one', 'two', 'any'])
      for (let n = 0; n < 5; n++) await a.sessions.create({}, { userId });
    expect(await sessionsOf(a, 'one')).toHaveLength(1);
    expect(await sessionsOf(a, 'two')).toHaveLength(2);
    expect(await sessionsOf(a, 'any')).toHaveLength(5);
    for (const userId of ['none', 'half']) {
      await expect(a.sessions.create({}, { userId })).rejects.toThrow(SessionArgumentError);
      const visitor = await a.sessions.create({ basket: 1 });
      await expect(visitor.regenerate({ userId })).rejects.toThrow(SessionArgumentError);
      expect(await a.sessions.get(visitor.token, { fresh: true })).toMatchObject({ data: { basket: 1 } });
    }
    await consistent();
  });

  it("a visitor's login counts; refused, it leaves their session as it was, in every process", async () => {
    begin();
    const [a, b, c] = [await node({ onLimit: 'reject' }), await node(), await worker()];
    const visitors = await Promise.all(
      Array.from({ length: 6 }, (_, basket) => a.sessions.create({ basket })),
    );
    const tokens = visitors.map(({ token }) => token);
    expect(await c.call('alive', tokens)).toEqual(tokens);
    const results = await Promise.allSettled(visitors.map((visitor) => a.sessions.login(visitor, 'ada')));
    const refused = results.flatMap((result, n) => (result.status === 'rejected' ? [n] : []));
    expect(refused).toHaveLength(3);
    for (const n of refused) {
      expect((results[n] as PromiseRejectedResult).reason).toBeInstanceOf(SessionLimitError);
      // The move was announced before it failed: whoever refused the token since must take it again.
      await waitFor(async () => (await c.call<string[]>('alive', [tokens[n]!])).length === 1, {
        timeoutMs: LEASE_MS,
      });
      for (const { sessions } of [a, b])
        expect(await sessions.get(tokens[n])).toMatchObject({ data: { basket: n }, userId: null });
      const updated = await b.sessions.update(tokens[n], { again: true });
      expect(updated.data).toEqual({ basket: n, again: true });
    }
    expect(await sessionsOf(a, 'ada')).toHaveLength(3);
    expect(await consistent()).toHaveLength(6);
    // Evicting, each of the rest gets in.
    for (const n of refused)
      expect(await b.sessions.regenerate(tokens[n], { userId: 'ada' })).toMatchObject({ userId: 'ada' });
    expect(await consistent()).toHaveLength(3);
    expect(b.destroyed.map(({ reason }) => reason)).toEqual(['evicted', 'evicted', 'evicted']);
  });

  it("a token replaced within the user's sessions counts once, with new times too", async () => {
    begin();
    const a = await node({ onLimit: 'reject' });
    const made = await Promise.all(Array.from({ length: 3 }, () => a.sessions.create({}, { userId: 'ada' })));
    await made[0]!.regenerate();
    await made[1]!.regenerate({ userId: 'ada', idleTimeout: '1h' });
    await made[2]!.regenerate({ userId: 'bob' });
    await a.sessions.create({}, { userId: 'ada' });
    await expect(a.sessions.create({}, { userId: 'ada' })).rejects.toThrow(SessionLimitError);
    expect(await sessionsOf(a, 'ada')).toHaveLength(3);
    expect(await sessionsOf(a, 'bob')).toHaveLength(1);
    await consistent();
  });

  // Known limit: a repeated try finds its session made, and no longer knows which others had to go for it.
  it.todo('a lost answer loses no event of what made room (evict-oldest)');
  it.each(['reject'] as const)(
    'a lost answer makes one session and no more, and no event is lost (%s, 40 cuts)',
    async (onLimit) => {
      begin();
      const target = new URL(testRedisUrl());
      const proxy = await TcpProxy.start({
        targetHost: target.hostname,
        targetPort: Number(target.port || 6379),
      });
      closing.push(() => proxy.close());
      const a = await node({ redis: proxy.url, subscriber: testRedisUrl(), onLimit, commandTimeout: '2s' });
      const made: string[] = [];
      let refused = 0;
      for (let round = 0; round < 40; round++) {
        // At the limit there are two scripts: one asks whom to end, the other does it. Either answer is lost.
        let skip = round % 2;
        const cut = proxy.cutAfterRequest(
          (chunk) => chunk.includes(`${prefix}{`) && chunk.includes('}:users') && skip-- === 0,
        );
        try {
          const { id } = await a.sessions.create({}, { userId: 'ada' });
          made.push(id);
        } catch (error) {
          expect(error).toBeInstanceOf(SessionLimitError);
          refused++;
        }
        const { alive, wrong } = await audit(redis, prefix);
        expect(wrong).toEqual([]);
        expect(alive.length).toBe(Math.min(3, made.length));
        if (round < 3) proxy.disarm();
        else await cut;
      }
      expect({ made: made.length, refused }).toEqual(
        onLimit === 'reject' ? { made: 3, refused: 37 } : { made: 40, refused: 0 },
      );
      expect(await consistent()).toEqual(made.slice(-3).sort());
      expect(a.destroyed.map(({ id }) => id)).toEqual(made.slice(0, -3));
    },
  );
});

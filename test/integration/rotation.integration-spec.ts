// Tokens replaced by age on a real Redis: its keys, lost answers, and what two processes make of the old token.
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import type { LoadedSession } from '../../lib/core/session-store.js';
import {
  SessionEvents,
  SessionGoneError,
  SessionRotatedError,
  type ActiveSession,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { openOwnClient } from '../../lib/store/redis-client.js';
import { RedisSessionStore } from '../../lib/store/redis-session.store.js';
import { deleteByPrefix, testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { mustCreate, newSession } from '../../lib/testing/kit.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import { openNode, recordKey, type Fields, type SessionNode } from './session-node.js';

let redis: Redis;
const cleanups: (() => Promise<unknown>)[] = [];
beforeAll(() => {
  redis = new Redis(testRedisUrl());
});
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});
afterAll(() => redis.disconnect());

function newPrefix(): string {
  const prefix = uniquePrefix();
  cleanups.push(() => deleteByPrefix(redis, prefix));
  return prefix;
}

async function openStore(prefix: string, url = testRedisUrl()) {
  const events = new SessionEvents();
  const store = new RedisSessionStore(
    () => openOwnClient(url, 'rotation-spec', 5_000),
    {
      keyPrefix: prefix,
      partitions: 16,
      index: { users: true, activity: true },
      instanceId: 'rotation-spec',
      commandTimeoutMs: 5_000,
      waitForReplicas: 0,
      coherence: { leaseMs: 2_000, heartbeatMs: 500 },
    },
    events,
  );
  cleanups.push(() => store.close());
  await store.open();
  const undecodable: string[] = [];
  events.on('undecodable', ({ id }) => undecodable.push(id));
  return { store, undecodable };
}

/** Two processes' parts over one Redis. */
async function openNodes(options: SessionModuleOptions = {}) {
  const prefix = newPrefix();
  const open = async () => {
    const node = await openNode({
      redis: testRedisUrl(),
      keyPrefix: prefix,
      rotateEvery: '15m',
      rotateGrace: '20s',
      ...options,
    });
    cleanups.push(() => node.close());
    return node;
  };
  const [a, b] = await Promise.all([open(), open()]);
  return { a, b, prefix };
}

/** A session of A's that B holds a copy of, rotated by A. */
async function rotated({ a, b }: { a: SessionNode; b: SessionNode }) {
  const session = await a.sessions.create({ n: 1 }, { userId: 'ann' });
  const old = { token: session.token, id: session.id };
  await b.sessions.get(old.token);
  const early = await b.sessions.get(old.token);
  expect(early?.source).toBe('cache');
  await session.rotate();
  return { session, old, early: early! };
}

const mustGet = async ({ sessions }: SessionNode, token: string): Promise<ActiveSession<Fields>> => {
  const session = await sessions.get(token);
  expect(session).not.toBeNull();
  return session!;
};

describe('the key of an alias', () => {
  it.each([
    ['ann', 300],
    [null, 60_000],
  ])(
    'of a session of %s ends after aliasMs (%i), is never prolonged, and holds an id and no token',
    async (userId, aliasMs) => {
      const prefix = newPrefix();
      const { store } = await openStore(prefix);
      const { record } = await mustCreate(store, { userId });
      const next = newSession({ userId, alias: { keepMs: aliasMs, readMs: aliasMs } });
      const { record: moved } = (await store.move(record, next)) as LoadedSession;
      const key = recordKey(prefix, record.id);
      const [text, life] = await Promise.all([redis.get(key), redis.pttl(key)]);
      expect(text).toMatch(new RegExp(`^A ${next.id} \\d{13}$`));
      const [seconds] = await redis.time();
      expect(Math.abs(Number(text!.slice(26)) - aliasMs - Number(seconds) * 1_000)).toBeLessThan(3_000);
      expect(life).toBeGreaterThan(0);
      expect(life).toBeLessThanOrEqual(aliasMs);
      const ends = Number(await redis.call('PEXPIRETIME', key));
      await store.get(record.id);
      await store.touch(record.id, 0, { userId });
      await store.set({ base: record, data: 'through', keepExpiry: false });
      await store.set({ base: moved, data: 'later', keepExpiry: false });
      await store.touch(next.id, 0, { userId });
      expect(Number(await redis.call('PEXPIRETIME', key))).toBe(ends);
      if (aliasMs < 1_000) await expect.poll(() => redis.exists(key)).toBe(0);
    },
  );

  it('is not there where no alias was asked for', async () => {
    const prefix = newPrefix();
    const { store } = await openStore(prefix);
    for (const userId of ['ann', 'bob']) {
      const { record } = await mustCreate(store, { userId });
      await store.move(record, newSession({ userId: 'ann' }));
      expect((await redis.get(recordKey(prefix, record.id))) ?? '').not.toMatch(/^A/);
    }
  });

  it('is no damaged record to lists that read ids before records', async () => {
    const prefix = newPrefix();
    const { store } = await openStore(prefix);
    const { store: peer, undecodable } = await openStore(prefix);
    let { record } = await mustCreate(store, { userId: 'ann' });
    const read = peer.connection.read.bind(peer.connection);
    let moves = 0;
    vi.spyOn(peer.connection, 'read').mockImplementation(async (partition, operation, command) => {
      const answer = await read(partition, operation, command);
      // After the ids were read, and before their records are.
      if (/user/.test(operation) && moves++ < 3)
        ({ record } = (await store.move(
          record,
          newSession({ userId: 'ann', alias: { keepMs: 5_000, readMs: 5_000 } }),
        )) as LoadedSession);
      return answer;
    });
    expect((await peer.userSessions('ann')).records).toEqual([record]);
    expect(undecodable).toEqual([]);
  });

  it('a rotation whose answer is lost has the same outcome: one new id, and the alias', async () => {
    const prefix = newPrefix();
    const proxy = await TcpProxy.start({ targetPort: Number(new URL(testRedisUrl()).port || 6379) });
    cleanups.push(() => proxy.close());
    const { store } = await openStore(prefix, proxy.url);
    for (let round = 0; round < 10; round++) {
      const userId = round % 2 ? 'ann' : null;
      const { record } = await mustCreate(store, { userId });
      const next = newSession({ userId, data: 'moved', alias: { keepMs: 10_000, readMs: 10_000 } });
      const cut = proxy.cutAfterRequest((chunk) => chunk.includes(next.id));
      const result = await store.move(record, next);
      await cut;
      expect(result.status).toBe('moved');
      const { record: moved } = result as LoadedSession;
      expect(await store.get(next.id)).toMatchObject({ record: moved });
      expect(await store.get(record.id)).toMatchObject({ record: moved });
      expect(await redis.pttl(recordKey(prefix, record.id))).toBeLessThanOrEqual(10_000);
      await store.destroy(next.id);
    }
    expect(proxy.cuts).toBe(10);
    expect(await store.length()).toBe(0);
  });
});

describe('two processes and a token that was rotated', () => {
  it('within rotateGrace both read the live session by it, and neither keeps a copy', async () => {
    const nodes = await openNodes();
    const { a, b } = nodes;
    const { session, old } = await rotated(nodes);
    await waitFor(async () => (await mustGet(b, old.token)).id === session.id);
    for (const node of [a, b]) {
      node.cache.clear();
      await Promise.all(Array.from({ length: 5 }, () => node.sessions.get(old.token)));
      expect(await mustGet(node, old.token)).toMatchObject({
        id: session.id,
        source: 'store',
        userId: 'ann',
        data: { n: 1 },
        createdAt: session.createdAt,
      });
      expect(node.cache.size).toBe(0);
    }
    await a.sessions.update(session.token, { n: 2 });
    for (const node of [a, b]) expect((await mustGet(node, old.token)).data).toEqual({ n: 2 });
  });

  it('writes by it are refused by both, by what was read before too, and change nothing', async () => {
    const nodes = await openNodes();
    const { session, old, early } = await rotated(nodes);
    const key = recordKey(nodes.prefix, session.id);
    const before = await redis.get(key);
    for (const { sessions } of [nodes.b, nodes.a]) {
      const held = (await sessions.get(old.token, { fresh: true }))!;
      for (const write of [
        () => sessions.update(old.token, { n: 2 }),
        () => sessions.update(old.token, (data) => ({ ...data, n: 2 })),
        () => sessions.replace(old.token, {}),
        () => sessions.regenerate(old.token),
        () => sessions.regenerate(old.token, { userId: 'bob' }),
        () => held.set('n', 2),
        () => held.clear(),
        () => held.regenerate(),
        () => held.rotate(),
        () => early.set('n', 2),
        () => early.regenerate({ userId: 'bob' }),
      ])
        await expect(write()).rejects.toBeInstanceOf(SessionRotatedError);
      held.data.n = 2;
      await expect(held.save()).rejects.toBeInstanceOf(SessionRotatedError);
    }
    expect(await redis.get(key)).toBe(before);
    expect(await redis.keys(`${nodes.prefix}*:s:*`)).toHaveLength(2);
  });

  it('touch() by it prolongs nothing', async () => {
    const nodes = await openNodes({ touchInterval: '50ms' });
    const { session, old } = await rotated(nodes);
    const key = recordKey(nodes.prefix, session.id);
    const before = await redis.get(key);
    const now = async () => Number((await redis.time())[0]) * 1_000 + Number((await redis.time())[1]) / 1_000;
    await waitFor(async () => (await now()) > session.lastAccess + 150);
    for (const { sessions } of [nodes.a, nodes.b]) {
      const held = (await sessions.get(old.token, { fresh: true }))!;
      expect(await held.touch()).toBe(true);
      await sessions.touch(old.token);
    }
    expect(await redis.get(key)).toBe(before);
    await nodes.a.sessions.touch(session.token);
    expect(await redis.get(key)).not.toBe(before);
  });

  it.each(['by token', 'of what was read by it', 'of what was read before the rotation'])(
    'destroy() %s in the other process signs out for good',
    async (way) => {
      const nodes = await openNodes();
      const { a, b, prefix } = nodes;
      const { session, old, early } = await rotated(nodes);
      if (way === 'by token') {
        await waitFor(() => b.sessions.getCached(old.token) === null);
        expect(await b.sessions.destroy(old.token)).toBe(true);
      } else {
        const held = way.includes('before') ? early : (await b.sessions.get(old.token, { fresh: true }))!;
        await held.destroy();
        expect(held.destroyedHere).toBe(true);
      }
      for (const { sessions } of [a, b]) {
        expect(await sessions.get(session.token, { fresh: true })).toBeNull();
        expect(await sessions.get(old.token, { fresh: true })).toBeNull();
      }
      expect(await redis.exists(recordKey(prefix, session.id))).toBe(0);
      expect(await a.registry.getUserSessions('ann')).toEqual([]);
    },
  );

  it('a session that one kills is refused under the old token by that one at once and by the other too', async () => {
    for (const kill of ['id', 'user'] as const) {
      const nodes = await openNodes();
      const { a, b } = nodes;
      const { session, old } = await rotated(nodes);
      await waitFor(async () => (await mustGet(b, old.token)).id === session.id);
      await mustGet(b, session.token);
      if (kill === 'id') expect(await a.registry.kill(session.id)).toBe(true);
      else expect(await a.registry.killUser('ann')).toBe(1);
      // No copy of it is kept anywhere, so that the bound of leaseMs (2 s) is not needed.
      expect(await a.sessions.get(old.token)).toBeNull();
      expect(await b.sessions.get(old.token)).toBeNull();
      await waitFor(async () => (await b.sessions.get(session.token)) === null, { timeoutMs: 2_000 });
    }
  });

  it('killUser({ except }) of one by the id that the other rotated away spares what took its place', async () => {
    const { a, b } = await openNodes();
    const { session, old } = await rotated({ a, b });
    const doomed = [
      await a.sessions.create({}, { userId: 'ann' }),
      await b.sessions.create({}, { userId: 'ann' }),
    ];
    expect(await b.registry.killUser('ann', { except: old.id })).toBe(2);
    for (const { sessions } of [a, b]) {
      expect(await sessions.get(session.token, { fresh: true })).toMatchObject({
        id: session.id,
        userId: 'ann',
      });
      for (const { token } of doomed) expect(await sessions.get(token, { fresh: true })).toBeNull();
    }
    expect((await b.registry.getUserSessions('ann')).map(({ id }) => id)).toEqual([session.id]);
  });

  it('killUser() against rotations, 40 times: neither token is left', async () => {
    const { a, b } = await openNodes();
    for (let round = 0; round < 40; round++) {
      const userId = `ann-${round}`;
      const session = await a.sessions.create({ round }, { userId });
      const { token } = session;
      await Promise.all([session.rotate().catch(() => undefined), b.registry.killUser(userId)]);
      for (const one of [token, session.token])
        expect(await b.sessions.get(one, { fresh: true }), `round ${round}`).toBeNull();
      expect(await a.registry.getUserSessions(userId)).toEqual([]);
    }
  });

  it.each([{}, { idleTimeout: '20m' }, { idleTimeout: '20m', absoluteTimeout: '1d' }] as const)(
    'killUser() against regenerate(%j) by the other, between its list and its kill: no token is left',
    async (options) => {
      const { a, b } = await openNodes();
      const session = await a.sessions.create({ n: 1 }, { userId: 'ann' });
      const { token, createdAt } = session;
      const { store } = (b.registry as unknown as { engine: { store: RedisSessionStore } }).engine;
      const list = store.userSessions.bind(store);
      vi.spyOn(store, 'userSessions').mockImplementationOnce(async (userId) => {
        const found = await list(userId);
        await expect(session.regenerate(options)).rejects.toMatchObject({ code: 'SESSION_GONE' });
        return found;
      });
      expect(await b.registry.killUser('ann')).toBe(1);
      expect(session.createdAt).toBe(createdAt);
      for (const one of [token, session.token]) expect(await b.sessions.get(one, { fresh: true })).toBeNull();
      expect(await a.registry.getUserSessions('ann')).toEqual([]);
    },
  );

  it('of both rotating a session at once, 30 times, one does, and the old token leads to its', async () => {
    const { a, b } = await openNodes();
    for (let round = 0; round < 30; round++) {
      const { token } = await a.sessions.create({ round });
      const held = [await mustGet(a, token), await mustGet(b, token)];
      const results = await Promise.allSettled(held.map((session) => session.rotate()));
      const winner = held[results.findIndex(({ status }) => status === 'fulfilled')]!;
      const [loser] = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
      expect(loser).toBeInstanceOf(SessionRotatedError);
      expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
      expect((await b.sessions.get(token, { fresh: true }))?.id).toBe(winner.id);
    }
  });

  it('a write by one against a rotation by the other, 60 times: kept or refused, never lost', async () => {
    const { a, b } = await openNodes();
    for (let round = 0; round < 60; round++) {
      const session = await a.sessions.create({ n: 0 });
      const { token } = session;
      const write = b.sessions.update(token, { n: 1 }).then(
        () => true,
        (error: unknown) => {
          expect(error).toBeInstanceOf(SessionRotatedError);
          return false;
        },
      );
      const [, written] = await Promise.all([session.rotate(), write]);
      const stored = await b.sessions.get(session.token, { fresh: true });
      expect(stored?.data, `round ${round}`).toEqual({ n: written ? 1 : 0 });
    }
  });

  it('when rotateGrace has passed it is refused by both, writes nothing, and signs out', async () => {
    const nodes = await openNodes({ rotateGrace: '250ms' });
    const { session, old } = await rotated(nodes);
    expect(await nodes.b.sessions.get(old.token, { fresh: true })).not.toBeNull();
    await waitFor(async () => (await nodes.b.sessions.get(old.token, { fresh: true })) === null);
    for (const { sessions } of [nodes.a, nodes.b]) {
      expect(await sessions.get(old.token)).toBeNull();
      await expect(sessions.update(old.token, { n: 2 })).rejects.toBeInstanceOf(SessionRotatedError);
      expect((await sessions.get(session.token))?.data).toEqual({ n: 1 });
    }
    expect(await nodes.b.sessions.destroy(old.token)).toBe(true);
    for (const { sessions } of [nodes.a, nodes.b])
      expect(await sessions.get(session.token, { fresh: true })).toBeNull();
  });

  it('without rotateGrace it reads nothing from then on, is known as rotated for 30 s, and signs out', async () => {
    const nodes = await openNodes({ rotateGrace: 0 });
    const { session, old, early } = await rotated(nodes);
    const life = await redis.pttl(recordKey(nodes.prefix, old.id));
    expect([life > 20_000, life <= 30_000]).toEqual([true, true]);
    expect(await nodes.a.sessions.get(old.token)).toBeNull();
    expect(await nodes.b.sessions.get(old.token, { fresh: true })).toBeNull();
    await waitFor(async () => (await nodes.b.sessions.get(old.token)) === null, { timeoutMs: 2_000 });
    await expect(early.set('n', 2)).rejects.toBeInstanceOf(SessionRotatedError);
    for (const { sessions } of [nodes.a, nodes.b])
      await expect(sessions.update(old.token, { n: 2 })).rejects.toBeInstanceOf(SessionRotatedError);
    expect((await nodes.b.sessions.get(session.token))?.data).toEqual({ n: 1 });
    expect(await nodes.b.sessions.destroy(old.token)).toBe(true);
    expect(await nodes.a.sessions.get(session.token, { fresh: true })).toBeNull();
    expect(await nodes.a.registry.getUserSessions('ann')).toEqual([]);
    await expect(nodes.b.sessions.update(old.token, { n: 2 })).rejects.toBeInstanceOf(SessionGoneError);
  });

  it('regenerate() and login() leave no alias, nor does one by them lead on', async () => {
    const nodes = await openNodes();
    for (const options of [{}, { userId: 'bob' }]) {
      const { session, old } = await rotated(nodes);
      const { token, id } = session;
      await session.regenerate(options);
      for (const one of [old.token, token])
        expect(await nodes.b.sessions.get(one, { fresh: true })).toBeNull();
      expect((await redis.get(recordKey(nodes.prefix, id))) ?? '').not.toMatch(/^A/);
    }
  });

  it('the list of the other process shows when it was rotated', async () => {
    const nodes = await openNodes();
    const { session } = await rotated(nodes);
    const [seconds] = await redis.time();
    const [info] = await nodes.b.registry.getUserSessions('ann');
    expect(info).toMatchObject({ id: session.id, createdAt: session.createdAt });
    expect(Math.abs(info!.metadata.rotatedAt! - Number(seconds) * 1_000)).toBeLessThan(2_000);
    expect(await nodes.b.registry.getUserSessions('ann')).toHaveLength(1);
  });
});

// SessionRegistry over both stores, as apps have it: everything that redisess's document names, and what lists promise.
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type {
  ActiveSession,
  SessionEventMap,
  SessionInfo,
  SessionModuleOptions,
  SessionPage,
  UserPage,
} from '../../lib/index.js';
import { ClusterSet } from '../support/cluster.js';
import { deleteByPrefix, testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { countUnhandledRejections, openNode, type Fields, type SessionNode } from './session-node.js';

const STORES = ['memory', 'Redis', 'Cluster'] as const;
const IMMORTAL = { idleTimeout: 0, absoluteTimeout: 0 };
const LEASE_MS = 2_000;

let cluster: ClusterSet;
beforeAll(async () => {
  cluster = await ClusterSet.start({ replicas: 0 });
}, 60_000);
afterAll(() => cluster?.stop());

/** Options of a deployment with keys of its own, which go when the test ends. */
function deployment(store: (typeof STORES)[number]): SessionModuleOptions {
  if (store === 'memory') return {};
  if (store === 'Cluster') return { redis: { cluster: cluster.nodes }, keyPrefix: uniquePrefix() };
  const redis = testRedisUrl();
  const keyPrefix = uniquePrefix();
  onTestFinished(async () => {
    const client = new Redis(redis);
    await deleteByPrefix(client, keyPrefix);
    client.disconnect();
  });
  return { redis, keyPrefix };
}

async function open(options: SessionModuleOptions): Promise<SessionNode> {
  const node = await openNode(options);
  onTestFinished(() => node.close());
  return node;
}

/** Payloads of an event, in order. */
function listen<K extends keyof SessionEventMap>({ events }: SessionNode, name: K): SessionEventMap[K][] {
  const heard: SessionEventMap[K][] = [];
  events.on(name, (payload) => void heard.push(payload));
  return heard;
}

const idsOf = (sessions: readonly { readonly id: string }[]) => sessions.map(({ id }) => id);

/** Names and values of everything that can be reached from here. */
function reachable(value: unknown, seen = new Set<unknown>()): string[] {
  if (typeof value !== 'object' || value === null) return [String(value)];
  if (seen.has(value)) return [];
  seen.add(value);
  return Reflect.ownKeys(value).flatMap((key) => [
    String(key),
    ...reachable((value as Record<PropertyKey, unknown>)[key], seen),
  ]);
}

async function collect<V>(values: AsyncIterable<V>): Promise<V[]> {
  const all: V[] = [];
  for await (const value of values) all.push(value);
  return all;
}

describe.each(STORES)('SessionRegistry over %s', (store) => {
  const start = (options: SessionModuleOptions = {}) => open({ ...deployment(store), ...options });

  /** Sessions of ann (old), bob, nobody and ann (new), 20 ms apart or more. */
  async function four(options: SessionModuleOptions = {}) {
    const node = await start(options);
    const made: ActiveSession<Fields>[] = [];
    for (const userId of ['ann', 'bob', undefined, 'ann']) {
      made.push(await node.sessions.create({ secret: 'hunter2' }, { ...(userId && { userId }) }));
      await delay(20);
    }
    const [ann, bob, nobody, ann2] = made as [
      ActiveSession<Fields>,
      ActiveSession<Fields>,
      ActiveSession<Fields>,
      ActiveSession<Fields>,
    ];
    return { ...node, node, ann, bob, nobody, ann2 };
  }

  describe('counts', () => {
    it('count() counts all live sessions, or those active within a time', async () => {
      const { registry, nobody } = await four();
      expect(await registry.count()).toBe(4);
      expect(await registry.count({})).toBe(4);
      expect(await registry.count({ activeWithin: '1h' })).toBe(4);
      await delay(150);
      expect(await registry.count({ activeWithin: '100ms' })).toBe(0);
      await registry.kill(nobody.id);
      expect(await registry.count()).toBe(3);
    });

    it('count({ activeWithin }) counts use, not creation', async () => {
      const { registry, ann } = await four({ touchInterval: 0 });
      await delay(1_100);
      await ann.touch();
      expect(await registry.count({ activeWithin: '1s' })).toBe(1);
      expect(await registry.count({ activeWithin: '1m' })).toBe(4);
    });

    it('countForUser() counts one user’s live sessions, or those active within a time', async () => {
      const { registry, ann } = await four({ touchInterval: 0 });
      expect(await registry.countForUser('ann')).toBe(2);
      expect(await registry.countForUser('bob')).toBe(1);
      expect(await registry.countForUser('an')).toBe(0);
      await delay(1_100);
      await ann.touch();
      expect(await registry.countForUser('ann', { activeWithin: '1s' })).toBe(1);
      expect(await registry.countForUser('bob', { activeWithin: '1s' })).toBe(0);
      expect(await registry.countForUser('ann', { activeWithin: '1h' })).toBe(2);
      await ann.destroy();
      expect(await registry.countForUser('ann')).toBe(1);
    });
  });

  describe('lists', () => {
    it('getAllSessions() shows everybody’s sessions, most recently active first, in parts', async () => {
      const { registry, ann, bob, nobody, ann2 } = await four();
      const all = [ann2, nobody, bob, ann];
      expect(await registry.getAllSessions()).toEqual({
        sessions: all.map(({ id, userId, createdAt }) =>
          expect.objectContaining({ id, userId, createdAt, lastAccess: createdAt }),
        ),
        cursor: null,
      });
      for (let limit = 1; limit <= 5; limit++) {
        const found: SessionInfo[] = [];
        let part: SessionPage | undefined;
        do {
          part = await registry.getAllSessions({ limit, cursor: part?.cursor ?? null });
          expect(part.sessions.length).toBeLessThanOrEqual(limit);
          found.push(...part.sessions);
        } while (part.cursor !== null);
        expect(idsOf(found)).toEqual(idsOf(all));
      }
    });

    it('getAllUsers() shows each user once, the one who was active last first, in parts', async () => {
      const { registry, sessions } = await four();
      await sessions.create({}, { userId: 'Zoë ☃' });
      expect(await registry.getAllUsers()).toEqual({ users: ['Zoë ☃', 'ann', 'bob'], cursor: null });
      for (let limit = 1; limit <= 4; limit++) {
        const found: string[] = [];
        let part: UserPage | undefined;
        do {
          part = await registry.getAllUsers({ limit, cursor: part?.cursor ?? null });
          expect(part.users.length).toBeLessThanOrEqual(limit);
          found.push(...part.users);
        } while (part.cursor !== null);
        expect(found).toEqual(['Zoë ☃', 'ann', 'bob']);
      }
    });

    it('getUserSessions() shows one user’s, most recently used first; in parts by limit and cursorAfter()', async () => {
      const { registry, ann, ann2, sessions } = await four({ touchInterval: 0 });
      expect(idsOf(await registry.getUserSessions('ann'))).toEqual(idsOf([ann2, ann]));
      await ann.touch();
      await delay(20);
      const last = await sessions.create({}, { userId: 'ann' });
      const order = idsOf([last, ann, ann2]);
      expect(idsOf(await registry.getUserSessions('ann'))).toEqual(order);
      expect(idsOf(await registry.getUserSessions('ann', { limit: 2 }))).toEqual(order.slice(0, 2));
      const found: SessionInfo[] = [];
      for (let cursor: string | null = null; ;) {
        const [one] = await registry.getUserSessions('ann', { limit: 1, cursor });
        if (one === undefined) break;
        found.push(one);
        cursor = registry.cursorAfter(one);
      }
      expect(idsOf(found)).toEqual(order);
      expect(await registry.getUserSessions('nobody')).toEqual([]);
    });

    it('parts of one user’s sessions hold each once, those of one millisecond too', async () => {
      const { sessions, registry } = await start();
      const made = await Promise.all(
        Array.from({ length: 30 }, () => sessions.create({}, { userId: 'ann' })),
      );
      const found: SessionInfo[] = [];
      for (let cursor: string | null = null; ;) {
        const part: SessionInfo[] = await registry.getUserSessions('ann', { limit: 4, cursor });
        found.push(...part);
        if (part.length < 4) break;
        cursor = registry.cursorAfter(part.at(-1)!);
      }
      expect(idsOf(found).sort()).toEqual(idsOf(made).sort());
    });

    it('a cursor of cursorAfter() leads on in getAllSessions() as well', async () => {
      const { registry, ann, bob, nobody, ann2 } = await four();
      const cursor = registry.cursorAfter(ann2);
      expect(idsOf((await registry.getAllSessions({ cursor })).sessions)).toEqual(idsOf([nobody, bob, ann]));
    });

    it('activeWithin leaves out what was used before it, in every list', async () => {
      const { registry, ann, bob } = await four({ touchInterval: 0 });
      await delay(1_100);
      await bob.touch();
      const within = { activeWithin: '1s' };
      expect(idsOf((await registry.getAllSessions(within)).sessions)).toEqual([bob.id]);
      expect((await registry.getAllUsers(within)).users).toEqual(['bob']);
      expect(await registry.getUserSessions('ann', within)).toEqual([]);
      expect(idsOf(await registry.getUserSessions('bob', within))).toEqual([bob.id]);
      expect(idsOf(await collect(registry.sessions(within)))).toEqual([bob.id]);
      expect(await collect(registry.users(within))).toEqual(['bob']);
      const wide = { activeWithin: '1h' } as const;
      expect((await registry.getAllSessions(wide)).sessions).toHaveLength(4);
      expect(await registry.getUserSessions('ann', wide)).toHaveLength(2);
      await ann.touch();
    });

    it('sessions() and users() give 500 sessions of 100 users, each once', async () => {
      const { sessions, registry } = await start();
      const made: string[] = [];
      for (let batch = 0; batch < 5; batch++) {
        const part = await Promise.all(
          Array.from({ length: 100 }, (_, i) => sessions.create({}, { userId: `user ${i}` })),
        );
        made.push(...idsOf(part));
      }
      await sessions.create(); // nobody's
      const found = await collect(registry.sessions());
      expect(found).toHaveLength(501);
      expect(new Set(idsOf(found))).toEqual(
        new Set([...made, found.find(({ userId }) => userId === null)!.id]),
      );
      expect((await collect(registry.users())).sort()).toEqual(
        Array.from({ length: 100 }, (_, i) => `user ${i}`).sort(),
      );
      expect(await registry.count()).toBe(501);
    });

    it('sessions() and users() may be left early', async () => {
      const { registry } = await four();
      for await (const { id } of registry.sessions()) {
        expect(id).toHaveLength(23);
        break;
      }
      for await (const user of registry.users()) {
        expect(user).toBe('ann');
        break;
      }
      expect(await registry.count()).toBe(4);
    });

    it('no list and no answer holds a token or data, however deep one looks', async () => {
      const { registry, node, ann, bob, nobody, ann2 } = await four();
      const destroyed = listen(node, 'destroyed');
      const answers: unknown[] = [
        await registry.getAllSessions({ limit: 2 }),
        await registry.getAllUsers({ limit: 1 }),
        await registry.getUserSessions('ann'),
        await registry.getOldestUserSession('ann'),
        await registry.getOldestUserSession('ann', { touch: true }),
        await registry.get(ann.id),
        await registry.get(ann.id, { touch: true }),
        await collect(registry.sessions()),
        await collect(registry.users()),
        registry.cursorAfter(ann),
        await registry.killAll(),
        destroyed,
      ];
      const texts = reachable(answers);
      texts.push(...texts.map((text) => Buffer.from(text, 'base64url').toString()));
      expect(texts).toContain(ann.id);
      for (const { token } of [ann, bob, nobody, ann2])
        expect(
          texts.filter((text) => text.includes(token) || (token.includes(text) && text.length > 8)),
        ).toEqual([]);
      expect(texts.filter((text) => /secret|hunter2|token|^data$/.test(text))).toEqual([]);
    });

    it('the fields of a listed session are these', async () => {
      const { registry, sessions } = await start();
      const metadata = { label: 'Läptop', ip: '192.0.2.7' };
      const session = await sessions.create({}, { userId: 'ann', metadata, idleTimeout: '5m' });
      await delay(15);
      const [info] = await registry.getUserSessions('ann');
      expect(info).toEqual({
        id: session.id,
        userId: 'ann',
        createdAt: session.createdAt,
        lastAccess: session.createdAt,
        expiresAt: session.createdAt + 300_000,
        idle: expect.any(Number),
        metadata,
      });
      expect(info!.idle).toBeGreaterThanOrEqual(15);
      expect(info!.idle).toBeLessThan(5_000);
      expect(await registry.get(session.id)).toEqual({ ...info, idle: expect.any(Number) });
    });
  });

  describe('one session', () => {
    it('getOldestUserSession() is the one not used for the longest time; null without any', async () => {
      const { registry, ann, ann2 } = await four({ touchInterval: 0 });
      expect(await registry.getOldestUserSession('ann')).toMatchObject({ id: ann.id, userId: 'ann' });
      expect(await registry.getOldestUserSession('ann')).toMatchObject({ lastAccess: ann.createdAt });
      const touched = await registry.getOldestUserSession('ann', { touch: true });
      expect(touched).toMatchObject({ id: ann.id, idle: 0 });
      expect(touched!.lastAccess).toBeGreaterThan(ann2.createdAt);
      expect(touched!.expiresAt).toBe(touched!.lastAccess + 30 * 60_000);
      expect(await registry.getOldestUserSession('ann')).toMatchObject({ id: ann2.id });
      expect(await registry.getOldestUserSession('eve')).toBeNull();
      expect(await registry.getOldestUserSession('eve', { touch: true })).toBeNull();
    });

    it('get() shows a session by its public id and is no use of it; with touch it is', async () => {
      const { registry, ann, nobody } = await four({ touchInterval: 0 });
      const seen = await registry.get(ann.id);
      expect(seen).toMatchObject({ id: ann.id, userId: 'ann', lastAccess: ann.createdAt });
      expect(seen!.idle).toBeGreaterThanOrEqual(60);
      expect(await registry.get(nobody.id)).toMatchObject({ id: nobody.id, userId: null });
      const touched = await registry.get(ann.id, { touch: true });
      expect(touched!.lastAccess).toBeGreaterThanOrEqual(ann.createdAt + 60);
      expect(await registry.get(ann.id)).toMatchObject({ lastAccess: touched!.lastAccess });
      expect(await registry.get(ann.id, { touch: false })).toMatchObject({ lastAccess: touched!.lastAccess });
      await ann.destroy();
      expect(await registry.get(ann.id)).toBeNull();
      expect(await registry.get(ann.id, { touch: true })).toBeNull();
    });

    it('get() with touch keeps an idle session alive, and without it does not', async () => {
      const { registry, sessions } = await start({ touchInterval: 0 });
      const kept = await sessions.create({}, { userId: 'ann', idleTimeout: '1000ms' });
      const left = await sessions.create({}, { userId: 'ann', idleTimeout: '1000ms' });
      await delay(600);
      await registry.get(kept.id, { touch: true });
      await registry.get(left.id);
      await delay(500);
      expect(await registry.exists(kept.id)).toBe(true);
      expect(await registry.exists(left.id)).toBe(false);
    });

    it('exists() is true for a live session’s id, and for nothing else', async () => {
      const { registry, ann, bob } = await four();
      expect(await registry.exists(ann.id)).toBe(true);
      for (const id of ['', 'x', ann.token, 'A'.repeat(23), `${ann.id} `])
        expect(await registry.exists(id)).toBe(false);
      await bob.destroy();
      expect(await registry.exists(bob.id)).toBe(false);
    });

    it('exists() and get() know a rotated session by its new id only', async () => {
      const { registry, sessions, ann } = await four({ rotateEvery: '1h', rotateGrace: '1m' });
      const { id, token } = ann;
      await ann.rotate();
      expect(await sessions.get(token, { fresh: true })).not.toBeNull(); // the old token reads for a while
      expect([await registry.exists(id), await registry.get(id)]).toEqual([false, null]);
      expect([await registry.kill(id), await registry.kill(id, { userId: 'ann' })]).toEqual([false, false]);
      expect(await registry.get(ann.id)).toMatchObject({ id: ann.id, userId: 'ann' });
      expect(idsOf(await registry.getUserSessions('ann'))).toContain(ann.id);
      expect(await registry.count()).toBe(4);
    });

    it('now() is the clock that sessions’ times are by', async () => {
      const { registry, sessions } = await start();
      const before = await registry.now();
      const { createdAt } = await sessions.create();
      const after = await registry.now();
      expect(Number.isSafeInteger(before)).toBe(true);
      expect(before).toBeLessThanOrEqual(createdAt);
      expect(after).toBeGreaterThanOrEqual(createdAt);
      expect(Math.abs(before - Date.now())).toBeLessThan(60_000);
    });

    it('a session has id, userId, timeouts, times, valid and idle', async () => {
      const { sessions } = await start();
      const session = await sessions.create(
        {},
        { userId: 'ann', idleTimeout: '4m', absoluteTimeout: '1h', metadata: { label: 'x' } },
      );
      expect(session).toMatchObject({ userId: 'ann', idleTimeout: 240_000, metadata: { label: 'x' } });
      expect(session.id).not.toBe(session.token);
      expect(session.expiresAt).toBe(session.lastAccess + 240_000);
      await delay(15);
      expect(session.idle).toBeGreaterThanOrEqual(10);
      expect(session.expiresIn).toBeLessThanOrEqual(240_000 - 10);
      expect(session.expiresIn).toBeGreaterThan(230_000);
      expect(session.valid).toBe(true);
      await session.destroy();
      expect(session.valid).toBe(false);
    });

    it('values come back as what they are: Buffer, Date, number, object', async () => {
      const node = await start();
      const values = {
        bytes: Buffer.from([0, 255, 10, 128]),
        date: new Date(0),
        number: -1.5e300,
        zero: 0,
        object: { deep: [{ date: new Date(5) }], 'odd key\n': null },
        text: '5',
      };
      const { token } = await node.sessions.create(values, { userId: 'ann' });
      const read = (await node.sessions.get(token, { fresh: true }))!;
      expect(read.data).toEqual(values);
      expect(Buffer.isBuffer(read.data['bytes'])).toBe(true);
      await node.registry.updateUser('ann', { bytes: Buffer.from('ü') });
      expect((await node.sessions.get(token, { fresh: true }))!.data).toEqual({
        ...values,
        bytes: Buffer.from('ü'),
      });
    });
  });

  describe('immortal sessions', () => {
    it('are listed with expiresAt null and counted, and no sweep takes them', async () => {
      const node = await start({ sweepInterval: '100ms' });
      const { registry, sessions } = node;
      const expired = listen(node, 'expired');
      const one = await sessions.create({}, { userId: 'ann', ...IMMORTAL });
      const other = await sessions.create({}, IMMORTAL);
      const mortal = await sessions.create({}, { userId: 'ann', idleTimeout: '60ms' });
      await waitFor(() => expired.length > 0, { message: 'a sweep' });
      await delay(250); // two more sweeps
      expect(expired).toEqual([{ id: mortal.id, userId: 'ann', metadata: {} }]);
      expect(await registry.count()).toBe(2);
      expect(await registry.count({ activeWithin: '1h' })).toBe(2);
      const { sessions: listed } = await registry.getAllSessions();
      expect(Object.fromEntries(listed.map(({ id, expiresAt }) => [id, expiresAt]))).toEqual({
        [one.id]: null,
        [other.id]: null,
      });
      expect(await registry.getOldestUserSession('ann', { touch: true })).toMatchObject({
        id: one.id,
        expiresAt: null,
      });
      expect(one.expiresAt).toBeNull();
      expect(await registry.killUser('ann')).toBe(1);
      expect(await registry.killAll()).toBe(1);
    });
  });

  describe('killing', () => {
    it('kill() ends one session by its public id, and is false for one that is not there', async () => {
      const { registry, sessions, ann, ann2 } = await four();
      expect(await registry.kill(ann.id)).toBe(true);
      expect(await sessions.get(ann.token)).toBeNull();
      expect(await sessions.get(ann2.token)).not.toBeNull();
      expect(await registry.kill(ann.id)).toBe(false);
      expect(await registry.kill('A'.repeat(23))).toBe(false);
    });

    it('kill(id, { userId }) ends the session only if it is that user’s', async () => {
      const { registry, node, sessions, ann, bob, nobody } = await four();
      const destroyed = listen(node, 'destroyed');
      for (const id of [bob.id, nobody.id, 'A'.repeat(23), 'x', bob.token])
        expect(await registry.kill(id, { userId: 'ann' })).toBe(false);
      expect(await registry.kill(ann.id, { userId: 'Ann' })).toBe(false);
      expect(destroyed).toEqual([]);
      for (const { token } of [ann, bob, nobody])
        expect(await sessions.get(token, { fresh: true })).not.toBeNull();
      expect(await registry.kill(ann.id, { userId: 'ann' })).toBe(true);
      expect(await registry.kill(ann.id, { userId: 'ann' })).toBe(false);
      expect(await sessions.get(ann.token)).toBeNull();
      expect(destroyed).toEqual([{ id: ann.id, userId: 'ann', reason: 'killed' }]);
    });

    it('killUser() ends one user’s sessions and tells how many', async () => {
      const { registry, sessions, ann, ann2, bob } = await four();
      expect(await registry.killUser('ann')).toBe(2);
      for (const { token } of [ann, ann2]) expect(await sessions.get(token)).toBeNull();
      expect(await sessions.get(bob.token)).not.toBeNull();
      expect(await registry.killUser('ann')).toBe(0);
      expect(await registry.getAllUsers()).toEqual({ users: ['bob'], cursor: null });
    });

    it('killAll() ends every session, tells of each with its user, and counts up in onProgress', async () => {
      const node = await start();
      const { sessions, registry } = node;
      const users = [undefined, 'ann', 'bob'];
      const made = await Promise.all(
        Array.from({ length: 250 }, (_, i) =>
          sessions.create({}, { ...(users[i % 3] && { userId: users[i % 3]! }) }),
        ),
      );
      const gone = made.pop()!;
      await gone.destroy();
      const destroyed = listen(node, 'destroyed');
      const progress: number[] = [];
      expect(await registry.killAll({ onProgress: (ended) => progress.push(ended) })).toBe(249);
      const byId = (a: { id: string }, b: { id: string }) => (a.id < b.id ? -1 : 1);
      expect(destroyed.toSorted(byId)).toEqual(
        made.map(({ id, userId }) => ({ id, userId, reason: 'killed' })).sort(byId),
      );
      expect(progress.at(-1)).toBe(249);
      expect(progress).toEqual(progress.toSorted((a, b) => a - b));
      for (const { token } of made) expect(await sessions.get(token)).toBeNull();
      expect(await registry.count()).toBe(0);
      expect((await registry.getAllSessions()).sessions).toEqual([]);
      expect((await registry.getAllUsers()).users).toEqual([]);
      expect(await registry.killAll()).toBe(0);
    });
  });

  describe('killAll() with an onProgress that fails', () => {
    it.each([
      [
        'throws',
        () => {
          throw new Error('the socket is closed');
        },
      ],
      ['rejects', () => Promise.reject(new Error('the socket is closed'))],
    ])('by itself (%s): every session ends, and then the caller is told', async (_, fail) => {
      const node = await start();
      const { sessions, registry } = node;
      const count = store === 'memory' ? 2_100 : 120; // more than one batch
      await Promise.all(
        Array.from({ length: count }, (_, i) => sessions.create({}, { userId: `user ${i % 7}` })),
      );
      const destroyed = listen(node, 'destroyed');
      const unhandled = countUnhandledRejections();
      onTestFinished(() => unhandled.stop());
      const progress: number[] = [];
      const onProgress = (ended: number) => {
        progress.push(ended);
        return fail();
      };
      await expect(registry.killAll({ onProgress: onProgress as never })).rejects.toThrow(
        'the socket is closed',
      );
      expect(progress.length).toBeGreaterThan(1);
      expect(progress.at(-1)).toBe(count);
      expect(await registry.count()).toBe(0);
      expect(new Set(idsOf(destroyed)).size).toBe(count);
      expect(unhandled.reasons).toEqual([]);
    });
  });

  describe('updateUser', () => {
    it('lays a patch over the data of all live sessions of the user, and of nobody else', async () => {
      const { registry, sessions, ann, ann2, bob, nobody } = await four();
      for (const { token } of [ann, ann2, bob]) await sessions.get(token); // into the near cache
      expect(await registry.updateUser('ann', { role: 'admin' })).toBe(2);
      for (const { token } of [ann, ann2])
        expect((await sessions.get(token))!.data).toEqual({ secret: 'hunter2', role: 'admin' });
      for (const { token } of [bob, nobody])
        expect((await sessions.get(token))!.data).toEqual({ secret: 'hunter2' });
      expect(await registry.updateUser('nobody at all', { role: 'admin' })).toBe(0);
    });

    it('calls a function for each session with that session’s data', async () => {
      const { registry, sessions } = await start();
      const made = [];
      for (let n = 0; n < 3; n++) made.push(await sessions.create({ n }, { userId: 'ann' }));
      expect(
        await registry.updateUser<{ n: number }>('ann', async (data) => {
          await delay(5);
          data.n += 10;
        }),
      ).toBe(3);
      expect(await registry.updateUser<{ n: number }>('ann', ({ n }) => ({ n: n * 2 }))).toBe(3);
      for (const [n, { token }] of made.entries())
        expect((await sessions.get(token))!.data).toEqual({ n: (n + 10) * 2 });
    });

    it('50 updateUser() at once that add one add 50, while the session itself is written too', async () => {
      const { registry, sessions } = await start();
      const made = [
        await sessions.create({ n: 0 }, { userId: 'ann' }),
        await sessions.create({ n: 100 }, { userId: 'ann' }),
      ];
      const [counts] = await Promise.all([
        Promise.all(
          Array.from({ length: 50 }, () =>
            registry.updateUser<{ n: number }>('ann', (data) => {
              data.n++;
            }),
          ),
        ),
        ...Array.from({ length: 10 }, (_, i) => sessions.update(made[0]!.token, { [`own${i}`]: true })),
      ]);
      expect(counts).toEqual(Array(50).fill(2));
      const [first, second] = await Promise.all(
        made.map(({ token }) => sessions.get(token, { fresh: true })),
      );
      expect(first!.data['n']).toBe(50);
      expect(Object.keys(first!.data)).toHaveLength(11);
      expect(second!.data).toEqual({ n: 150 });
    });

    it('is no use of the sessions: it does not extend their life', async () => {
      const { registry, ann, ann2, sessions } = await four();
      const before = await registry.getUserSessions('ann');
      await delay(20);
      await registry.updateUser('ann', { role: 'admin' });
      const after = await registry.getUserSessions('ann');
      const timesOf = ({ id, lastAccess, expiresAt }: SessionInfo) => ({ id, lastAccess, expiresAt });
      expect(after.map(timesOf)).toEqual(before.map(timesOf));
      expect((await sessions.get(ann.token))!.lastAccess).toBe(ann.createdAt);
      expect(idsOf((await registry.getAllSessions()).sessions)[0]).toBe(ann2.id);
      const short = await sessions.create({}, { userId: 'eve', idleTimeout: '300ms' });
      await delay(200);
      await registry.updateUser('eve', { role: 'admin' });
      await delay(150);
      expect(await registry.exists(short.id)).toBe(false);
      expect(await registry.updateUser('eve', { role: 'admin' })).toBe(0);
    });

    it('rejects what is no change, or one that throws, and changes nothing', async () => {
      const { registry, sessions, ann } = await four();
      for (const change of [undefined, null, 5, 'role', ['role']])
        await expect(registry.updateUser('ann', change as never)).rejects.toMatchObject({
          argument: 'change',
        });
      const failing = () => {
        throw new Error('no');
      };
      await expect(registry.updateUser('ann', failing)).rejects.toThrow('no');
      expect((await sessions.get(ann.token))!.data).toEqual({ secret: 'hunter2' });
    });
  });

  describe('arguments', () => {
    const WRONG_OPTIONS: readonly [string, unknown][] = [
      ['options.activeWithin', { activeWithin: 0 }],
      ['options.activeWithin', { activeWithin: -5 }],
      ['options.activeWithin', { activeWithin: 60 }],
      ['options.activeWithin', { activeWithin: 'soon' }],
      ['options.activeWithin', { activeWithin: null }],
      ['options.secs', { secs: 5 }],
    ];
    const WRONG_LISTS: readonly [string, unknown][] = [
      ...WRONG_OPTIONS,
      ['options.limit', { limit: 0 }],
      ['options.limit', { limit: 1_001 }],
      ['options.limit', { limit: 1.5 }],
      ['options.limit', { limit: '5' }],
      ['options.cursor', { cursor: '' }],
      ['options.cursor', { cursor: 5 }],
      ['options.cursor', { cursor: 'AAAA' }],
      ['options.cursor', { cursor: Buffer.from('[1]').toString('base64url') }],
      ['options.cursor', { cursor: Buffer.from('["1","x"]').toString('base64url') }],
      ['options.cursor', { cursor: 'A'.repeat(100_000) }],
    ];

    it('a wrong option is named, whichever method it is given to', async () => {
      const { registry, sessions } = await start();
      const refused = (argument: string) => ({
        name: 'SessionArgumentError',
        code: 'SESSION_ARGUMENT',
        argument,
      });
      for (const [argument, options] of WRONG_OPTIONS) {
        const given = options as never;
        await expect(registry.count(given)).rejects.toMatchObject(refused(argument));
        await expect(registry.countForUser('ann', given)).rejects.toMatchObject(refused(argument));
        await expect(collect(registry.sessions(given))).rejects.toMatchObject(refused(argument));
        await expect(collect(registry.users(given))).rejects.toMatchObject(refused(argument));
      }
      for (const [argument, options] of WRONG_LISTS) {
        const given = options as never;
        await expect(registry.getAllSessions(given)).rejects.toMatchObject(refused(argument));
        await expect(registry.getAllUsers(given)).rejects.toMatchObject(refused(argument));
        await expect(registry.getUserSessions('ann', given)).rejects.toMatchObject(refused(argument));
      }
      const { id } = await sessions.create({}, { userId: 'ann' });
      const odd = { other: 1 } as never;
      for (const call of [
        () => registry.get(id, odd),
        () => registry.getOldestUserSession('ann', odd),
        () => registry.kill(id, odd),
        () => registry.killUser('ann', odd),
        () => registry.killAll(odd),
      ])
        await expect(call()).rejects.toMatchObject(refused('options.other'));
      await expect(registry.killAll({ onProgress: 'x' as never })).rejects.toMatchObject(
        refused('options.onProgress'),
      );
    });

    it('a missing or wrong userId or id is named, whichever method it is given to', async () => {
      const { registry, sessions } = await start();
      const { id } = await sessions.create({}, { userId: 'ann' });
      for (const userId of [undefined, null, 5, '', 'x'.repeat(256), '\ud800'] as never[]) {
        const calls = [
          registry.countForUser(userId),
          registry.getUserSessions(userId),
          registry.getOldestUserSession(userId),
          registry.killUser(userId),
          registry.updateUser(userId, {}),
          ...(userId === undefined ? [] : [registry.kill(id, { userId })]),
        ];
        for (const call of calls) await expect(call).rejects.toMatchObject({ argument: 'userId' });
      }
      for (const wrong of [undefined, null, 5, [id], {}] as never[]) {
        for (const call of [registry.get(wrong), registry.exists(wrong), registry.kill(wrong)])
          await expect(call).rejects.toMatchObject({ argument: 'id' });
        await expect(registry.kill(wrong, { userId: 'ann' })).rejects.toMatchObject({ argument: 'id' });
      }
      expect(await registry.exists(id)).toBe(true);
    });

    it('options that are no object are refused: redisess’s count(60) does not count all in silence', async () => {
      const { registry, sessions } = await start();
      const { id } = await sessions.create({}, { userId: 'ann' });
      for (const options of [60, null, true, 'x', [id]] as never[]) {
        for (const call of [
          () => registry.count(options),
          () => registry.countForUser('ann', options),
          () => registry.getAllSessions(options),
          () => registry.getAllUsers(options),
          () => registry.getUserSessions('ann', options),
          () => registry.getOldestUserSession('ann', options),
          () => registry.get(id, options),
          () => registry.kill(id, options),
          () => registry.killUser('ann', options),
          () => registry.killAll(options),
        ])
          await expect(call(), `${String(options)} ${String(call)}`).rejects.toMatchObject({
            code: 'SESSION_ARGUMENT',
          });
      }
      expect(await registry.exists(id)).toBe(true);
    });
  });
});

describe('SessionRegistry of two processes on one Redis', () => {
  async function two() {
    const options = { ...deployment('Redis'), coherence: { leaseMs: LEASE_MS } };
    return { a: await open(options), b: await open(options) };
  }

  it('updateUser() in one is seen in its own near cache at once, and in the other’s within the lease', async () => {
    const { a, b } = await two();
    const { token } = await a.sessions.create({ role: 'user' }, { userId: 'ann' });
    for (const { sessions } of [a, b, a, b]) expect((await sessions.get(token))!.data['role']).toBe('user');
    expect((await b.sessions.get(token))!.source).toBe('cache');
    const begun = performance.now();
    await a.registry.updateUser('ann', { role: 'admin' });
    expect((await a.sessions.get(token))!.data['role']).toBe('admin');
    await waitFor(async () => (await b.sessions.get(token))!.data['role'] === 'admin');
    expect(performance.now() - begun).toBeLessThan(LEASE_MS);
  });

  it('killAll() in one ends what the other holds in its near cache', async () => {
    const { a, b } = await two();
    const { token } = await b.sessions.create({}, { userId: 'ann' });
    const { token: nobodys } = await b.sessions.create();
    expect((await b.sessions.get(token))!.source).toBe('cache');
    const heard = listen(a, 'destroyed');
    expect(await a.registry.killAll()).toBe(2);
    expect(new Set(heard.map(({ userId }) => userId))).toEqual(new Set(['ann', null]));
    await waitFor(
      async () => (await b.sessions.get(token)) === null && (await b.sessions.get(nobodys)) === null,
      {
        timeoutMs: LEASE_MS,
      },
    );
  });

  it('50 updateUser() of two processes that add one add 50', async () => {
    const { a, b } = await two();
    const { token } = await a.sessions.create({ n: 0 }, { userId: 'ann' });
    await Promise.all(
      Array.from({ length: 50 }, (_, i) =>
        (i % 2 ? a : b).registry.updateUser<{ n: number }>('ann', (data) => {
          data.n++;
        }),
      ),
    );
    expect((await b.sessions.get(token, { fresh: true }))!.data).toEqual({ n: 50 });
  });

  it('users() in one misses nobody whose use the other notes while it runs', async () => {
    const { a, b } = await two();
    const { token } = await a.sessions.create({}, { userId: 'ann' });
    const since = await a.registry.now();
    await waitFor(async () => (await a.registry.now()) > since);
    await Promise.all(Array.from({ length: 600 }, (_, i) => a.sessions.create({}, { userId: `user ${i}` })));
    await a.registry.getAllUsers({ limit: 1 }); // which writes what has been noted: ann is the last one
    await (await b.sessions.get(token))!.set('used', true);
    const used = await a.registry.now();
    await waitFor(async () => (await a.registry.now()) > used);
    const seen: string[] = [];
    for await (const user of a.registry.users()) {
      // And now ann is the first one, by a use before users() began.
      if (seen.length === 0) await b.registry.getAllUsers({ limit: 1 });
      seen.push(user);
    }
    expect(seen).toContain('ann');
    expect(seen).toHaveLength(601);
    expect(new Set(seen).size).toBe(601);
  });

  it('what one created and used is in the other’s lists and counts within about a second', async () => {
    const { a, b } = await two();
    const { id } = await a.sessions.create({}, { userId: 'ann' });
    expect(await b.registry.exists(id)).toBe(true);
    expect(await b.registry.count()).toBe(1);
    expect(idsOf(await b.registry.getUserSessions('ann'))).toEqual([id]);
    await waitFor(async () => (await b.registry.getAllUsers()).users.length === 1, { timeoutMs: 2_500 });
    expect(idsOf((await b.registry.getAllSessions()).sessions)).toEqual([id]);
    expect(await b.registry.count({ activeWithin: '1m' })).toBe(1);
  });
});

// RedisSessionStore on a real server: the store contract, and what only Redis has: expiry, indexes, scripts, rights.
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { SessionOptionsError } from '../../lib/errors/caller.errors.js';
import { SessionStoreUnavailableError } from '../../lib/errors/state.errors.js';
import { SessionEvents, type SessionEventMap } from '../../lib/events/session-events.js';
import type { SessionRecord } from '../../lib/core/session-record.interface.js';
import type { LoadedSession } from '../../lib/core/session-store.js';
import { newSessionId, partitionOfId, partitionOfUser } from '../../lib/core/session-token.js';
import type { ResolvedSessionOptions } from '../../lib/options/session-options.interface.js';
import { openOwnClient, type RedisSource } from '../../lib/store/redis-client.js';
import { RedisSessionStore } from '../../lib/store/redis-session.store.js';
import { RedisServer } from '../support/redis-server.js';
import { waitFor } from '../support/wait-for.js';
import { deleteByPrefix, testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { describeSessionStore } from '../../lib/testing/index.js';
import { mustCreate, mustGet, newId, newSession, passTime, SUITE_PARTITIONS } from '../../lib/testing/kit.js';

const PARTITIONS = SUITE_PARTITIONS;
type Index = ResolvedSessionOptions['index'];
const ALL: Index = { users: true, activity: true };
/** Generous: these tests are about outcomes, and share two cores with others. */
const COMMAND_TIMEOUT_MS = 5_000;
/** Where a test waits until a mark has stood for twice as long and a second. */
const MARK_COMMAND_TIMEOUT_MS = 1_500;

const cleanups: (() => Promise<unknown>)[] = [];
let admin: Redis;
beforeAll(() => {
  admin = new Redis(testRedisUrl());
});
afterAll(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  await admin.quit();
});

interface Opened {
  readonly store: RedisSessionStore;
  readonly events: SessionEvents;
  readonly prefix: string;
}

async function openRedisStore({
  source = testRedisUrl(),
  prefix = uniquePrefix(),
  partitions = PARTITIONS,
  index = ALL,
  commandTimeoutMs = COMMAND_TIMEOUT_MS,
}: {
  source?: RedisSource;
  prefix?: string;
  partitions?: number;
  index?: Index;
  commandTimeoutMs?: number;
} = {}): Promise<Opened> {
  const events = new SessionEvents();
  const store = new RedisSessionStore(
    () => openOwnClient(source, 'store-spec', commandTimeoutMs),
    {
      keyPrefix: prefix,
      partitions,
      index,
      instanceId: 'store-spec',
      commandTimeoutMs,
      waitForReplicas: 0,
      coherence: { leaseMs: 2_000, heartbeatMs: 500 },
    },
    events,
  );
  cleanups.push(() => store.close());
  await store.open();
  if (source === testRedisUrl()) cleanups.push(() => deleteByPrefix(admin, prefix));
  return { store, events, prefix };
}

describeSessionStore({ describe, it }, 'RedisSessionStore', async () => {
  const { store, prefix } = await openRedisStore();
  const { store: peer } = await openRedisStore({ prefix });
  const close = async () => {
    await Promise.all([store.close(), peer.close()]);
    await deleteByPrefix(admin, prefix);
  };
  return { store, peer, close };
});

// --- the keys as the server has them --------------------------------------------------------------------------------

async function keysOf(prefix: string, client: Redis = admin): Promise<string[]> {
  const keys = new Set<string>();
  let cursor = '0';
  do {
    const [next, found] = await client.scan(cursor, 'MATCH', `${prefix}*`, 'COUNT', '1000');
    for (const key of found) keys.add(key);
    cursor = next;
  } while (cursor !== '0');
  return [...keys].sort();
}

/** Keys without an expiry, the layout marker left out. */
async function keysWithoutExpiry(prefix: string): Promise<string[]> {
  const keys = await keysOf(prefix);
  const ttls = await Promise.all(keys.map((key) => admin.pttl(key)));
  return keys.filter((key, i) => ttls[i] === -1 && key !== `${prefix}layout`);
}

/** Every key under the prefix with its value. */
async function dump(prefix: string, client: Redis): Promise<Record<string, string | string[]>> {
  const found: Record<string, string | string[]> = {};
  for (const key of await keysOf(prefix, client)) {
    found[key] = /:s:|layout$/.test(key)
      ? ((await client.get(key)) ?? '')
      : await client.zrange(key, '0', '-1', 'WITHSCORES');
  }
  return found;
}

const recordKey = (prefix: string, id: string) => `${prefix}{${partitionOfId(id, PARTITIONS)}}:s:${id}`;
const userKey = (prefix: string, userId: string) =>
  `${prefix}{${partitionOfUser(userId, PARTITIONS)}}:u:${encodeURIComponent(userId)}`;
const edit = (base: SessionRecord, data: string, keepExpiry = false) => ({ base, data, keepExpiry });

/** Compares what stands in Redis, by raw commands, with the sessions that should be there. */
async function expectIndexesToAgree(
  prefix: string,
  live: ReadonlyMap<string, string | null>,
  when: string,
): Promise<void> {
  const records: string[] = [];
  const deadlines: string[] = [];
  const users: string[] = [];
  for (const key of await keysOf(prefix)) {
    const [, partition, kind, name] = /^\{(\d+)\}:(s:|u:|exp)(.*)$/s.exec(key.slice(prefix.length)) ?? [];
    if (kind === 's:' && !(await admin.get(key))?.startsWith('M ')) records.push(name!);
    if (kind === 'exp')
      deadlines.push(...(await admin.zrange(key, '0', '-1')).map((m) => `${partition} ${m}`));
    if (kind === 'u:')
      users.push(...(await admin.zrange(key, '0', '-1')).map((id) => `${partition} ${name} ${id}`));
  }
  const encoded = (userId: string | null) => (userId === null ? '' : encodeURIComponent(userId));
  const all = [...live];
  const named = all.filter(([, userId]) => userId !== null);
  expect(records.sort(), `records ${when}`).toEqual(all.map(([id]) => id).sort());
  expect(deadlines.sort(), `deadlines ${when}`).toEqual(
    all.map(([id, userId]) => `${partitionOfId(id, PARTITIONS)} ${id} ${encoded(userId)}`).sort(),
  );
  expect(users.sort(), `user indexes ${when}`).toEqual(
    named.map(([id, userId]) => `${partitionOfId(id, PARTITIONS)} ${encoded(userId)} ${id}`).sort(),
  );
}

/** mulberry32: small, seeded, good enough to choose operations. */
function seededRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe('RedisSessionStore: keys', () => {
  it('every operation leaves every key with an expiry, the layout marker excepted', async () => {
    const { store, prefix } = await openRedisStore();
    const check = async (after: string) =>
      expect(await keysWithoutExpiry(prefix), `keys without expiry after ${after}`).toEqual([]);
    const short = { idleTimeout: 5_000, absoluteTimeout: 60_000 };
    const a = await mustCreate(store, { userId: 'ann', ...short });
    await check('create for a user');
    const anonymous = await mustCreate(store, { idleTimeout: 0, absoluteTimeout: 60_000 });
    await check('create without user, absolute timeout only');
    await mustCreate(store, { userId: 'ann', idleTimeout: 5_000, absoluteTimeout: 0 });
    await check('create with an idle timeout only');
    const written = (await store.set(edit(a.record, 'x'))) as LoadedSession;
    await check('set');
    const kept = (await store.set(edit(written.record, 'y', true))) as LoadedSession;
    await check('set with keepExpiry');
    await store.set(edit(a.record, 'z'));
    await check('a conflict');
    await store.touch(a.record.id, 0, { userId: 'ann' });
    await check('touch');
    await store.touch(anonymous.record.id, 0);
    await check('touch of an anonymous session');
    const current = await mustGet(store, kept.record.id);
    const rotated = (await store.move(current, newSession({ userId: 'ann', ...short }))) as LoadedSession;
    await check('move within a user');
    const across = (await store.move(
      rotated.record,
      newSession({ userId: 'bob', ...short }),
    )) as LoadedSession;
    await check('move to another user');
    await store.move(anonymous.record, newSession({ userId: 'ann', ...short }));
    await check('move of an anonymous session to a user');
    await store.move(across.record, newSession({ userId: 'ann' }));
    await check('a move of what has gone, or moved');
    await store.destroy(across.record.id);
    await check('destroy');
    const listed = (await store.userSessions('ann')).records.map(({ id }) => id);
    await store.destroyMany(listed.slice(0, 1), 'ann');
    await check('destroyMany');
    await store.clear();
    await check('clear');
    for (const key of await keysOf(prefix)) {
      if (key !== `${prefix}layout`) expect(await admin.get(key), 'what clear leaves').toMatch(/^M /);
    }
  });

  it('a record’s key outlives its deadline by a minute, so that a sweep finds it, and no more', async () => {
    const { store, prefix } = await openRedisStore();
    const { record } = await mustCreate(store, { userId: 'ann', idleTimeout: 100_000 });
    const expected = record.createdAt + 100_000 + 60_000;
    expect(await admin.call('PEXPIRETIME', recordKey(prefix, record.id))).toBe(expected);
    const touched = await store.touch(record.id, 0, { userId: 'ann' });
    expect(await admin.call('PEXPIRETIME', recordKey(prefix, record.id))).toBe(
      touched!.lastAccess + 100_000 + 60_000,
    );
  });

  it('index keys live at least as long as the longest-lived of their sessions', async () => {
    const { store, prefix } = await openRedisStore();
    const long = await mustCreate(store, { userId: 'ann', idleTimeout: 7_200_000 });
    await mustCreate(store, { userId: 'ann', idleTimeout: 1_000 });
    const partition = partitionOfUser('ann', PARTITIONS);
    for (const key of [userKey(prefix, 'ann'), `${prefix}{${partition}}:exp`]) {
      expect(await admin.call('PEXPIRETIME', key)).toBeGreaterThanOrEqual(
        long.record.createdAt + 7_200_000 + 60_000,
      );
    }
  });

  it('only with both timeouts 0 do a session and its indexes have no expiry', async () => {
    const { store, prefix } = await openRedisStore();
    const immortal = { userId: 'ann', idleTimeout: 0, absoluteTimeout: 0 };
    await mustCreate(store, { userId: 'ann' });
    expect(await keysWithoutExpiry(prefix)).toEqual([]);
    const { record } = await mustCreate(store, immortal);
    const partition = partitionOfUser('ann', PARTITIONS);
    const timeless = [
      `${prefix}{${partition}}:exp`,
      recordKey(prefix, record.id),
      userKey(prefix, 'ann'),
    ].sort();
    expect(await keysWithoutExpiry(prefix)).toEqual(timeless);
    await mustCreate(store, { userId: 'ann' });
    await store.touch(record.id, 0, { userId: 'ann' });
    await store.set(edit(await mustGet(store, record.id), 'x'));
    expect(await keysWithoutExpiry(prefix)).toEqual(timeless);
  });

  it('a move to another user leaves nothing of the old record', async () => {
    const { store, prefix } = await openRedisStore();
    const { record } = await mustCreate(store, { userId: 'ann' });
    const next = newSession({ userId: 'bob' });
    await store.move(record, next);
    expect(await admin.exists(recordKey(prefix, record.id))).toBe(0);
    await expectIndexesToAgree(prefix, new Map([[next.id, 'bob']]), 'after the move');
  });

  it('a move whose outcome is unknown leaves the old record as a mark: absent, in its indexes, and gone by a sweep when it has stood its time', async () => {
    const { store, prefix } = await openRedisStore({ commandTimeoutMs: MARK_COMMAND_TIMEOUT_MS });
    const { record } = await mustCreate(store, { userId: 'ann' });
    const unknown = new SessionStoreUnavailableError('create a session', 'test', true);
    vi.spyOn(store, 'create').mockRejectedValueOnce(unknown);
    await expect(store.move(record, newSession({ userId: 'bob' }))).rejects.toBe(unknown);
    const key = recordKey(prefix, record.id);
    const stands = MARK_COMMAND_TIMEOUT_MS * 2 + 1_000;
    expect(await admin.get(key)).toMatch(/^M /);
    const ttl = await admin.pttl(key);
    expect(ttl).toBeGreaterThan(60_000);
    expect(ttl).toBeLessThanOrEqual(60_000 + stands);
    expect(await store.get(record.id)).toBeNull();
    expect(await store.touch(record.id, 0)).toBeNull();
    expect((await store.set(edit(record, 'x'))).status).toBe('gone');
    expect(await store.length()).toBe(0);
    const { records, moving } = await store.userSessions('ann');
    expect([records.length, moving?.map(({ id }) => id)]).toEqual([0, [record.id]]);
    const expired: unknown[] = [];
    await store.sweep((session) => expired.push(session), 1);
    expect(await admin.exists(key)).toBe(1);
    await waitFor(
      async () => {
        await store.sweep((session) => expired.push(session), 1);
        return (await admin.exists(key)) === 0;
      },
      { timeoutMs: stands + 10_000 },
    );
    expect(expired).toEqual([]);
    await expectIndexesToAgree(prefix, new Map(), 'after the sweep');
  });

  it('a mark is removed by destroy(), whoever is thought to be its user', async () => {
    const { store, prefix } = await openRedisStore();
    const { record } = await mustCreate(store, { userId: 'ann' });
    const unknown = new SessionStoreUnavailableError('create a session', 'test', true);
    vi.spyOn(store, 'create').mockRejectedValueOnce(unknown);
    await expect(store.move(record, newSession({ userId: 'bob' }))).rejects.toBe(unknown);
    expect(await store.destroy(record.id)).toBe(false);
    expect(await admin.exists(recordKey(prefix, record.id))).toBe(0);
    await expectIndexesToAgree(prefix, new Map(), 'after destroy()');
  });

  it('indexes agree with the records during 2,000 random operations', { timeout: 60_000 }, async () => {
    const seed = Number(process.env.SESSION_SEED ?? Date.now() % 1_000_000);
    const random = seededRandom(seed);
    const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;
    const { store, prefix } = await openRedisStore();
    const { store: peer } = await openRedisStore({ prefix });
    const users = [null, null, 'ann', 'bob', 'Zoë {1}:%20', '用户 😀', 'ann'];
    const live = new Map<string, SessionRecord>();
    const ended: SessionRecord[] = [];
    const end = (record: SessionRecord) => {
      live.delete(record.id);
      ended.push(record);
    };
    const make = (userId: string | null) =>
      newSession({
        userId,
        id: newId(userId, Math.floor(random() * PARTITIONS)),
        idleTimeout: pick([0, 60_000, 3_600_000]),
        absoluteTimeout: pick([120_000, 86_400_000]),
      });
    const operations: Record<string, (record: SessionRecord) => Promise<void>> = {
      set: async (record) => {
        const result = await pick([store, peer]).set(edit(record, `{"r":${random()}}`, random() < 0.5));
        expect(result.status).toBe('written');
        if (result.status === 'written') live.set(record.id, result.record);
      },
      staleSet: async (record) => {
        const result = await peer.set(edit({ ...record, version: record.version - 1 }, 'lost'));
        expect(result.status).toBe('conflict');
      },
      touch: async (record) => {
        const hint = pick([undefined, { userId: record.userId }, { userId: 'wrong' }]);
        const touched = await store.touch(record.id, 0, hint);
        live.set(record.id, { ...record, lastAccess: touched!.lastAccess });
      },
      destroy: async (record) => {
        const hint = pick([undefined, { userId: record.userId }, { userId: 'wrong' }]);
        expect(await pick([store, peer]).destroy(record.id, hint)).toBe(true);
        end(record);
      },
      move: async (record) => {
        const next = make(pick([record.userId, pick(users)]));
        const result = await pick([store, peer]).move(record, next);
        expect(result.status).toBe('moved');
        end(record);
        if (result.status === 'moved') live.set(next.id, result.record);
      },
      staleMove: async (record) => {
        const stale = { ...record, version: record.version - 1 };
        expect((await store.move(stale, make(pick(users)))).status).toBe('conflict');
      },
      destroyMany: async ({ userId }) => {
        if (userId === null || random() < 0.8) return;
        const records = [...live.values()].filter((record) => record.userId === userId);
        const ids = records.map(({ id }) => id);
        expect((await store.destroyMany([...ids, newId(userId)], userId)).toSorted()).toEqual(ids.toSorted());
        records.forEach(end);
      },
      onEnded: async () => {
        const record = ended.at(-1);
        if (record === undefined) return;
        expect((await store.set(edit(record, 'back'))).status).toBe('gone');
        expect(await store.touch(record.id, 0, { userId: record.userId })).toBeNull();
        expect(await store.destroy(record.id)).toBe(false);
        expect((await store.move(record, make(record.userId))).status).toBe('gone');
      },
    };
    const names = Object.keys(operations);
    for (let step = 1; step <= 2_000; step++) {
      if (live.size === 0 || random() < 0.25) {
        const { record } = await mustCreate(store, make(pick(users)));
        live.set(record.id, record);
      } else {
        await operations[pick(names)]!(pick([...live.values()]));
      }
      if (step % 100 > 0) continue;
      const when = `after step ${step} (SESSION_SEED=${seed})`;
      await expectIndexesToAgree(
        prefix,
        new Map([...live.values()].map(({ id, userId }) => [id, userId])),
        when,
      );
      expect(await keysWithoutExpiry(prefix), when).toEqual([]);
      expect(await store.length(), when).toBe(live.size);
      const found = new Map<string, SessionRecord>();
      for await (const record of peer.all()) found.set(record.id, record);
      expect(found, when).toEqual(live);
      for (const userId of ['ann', '用户 😀']) {
        const listed = (await store.userSessions(userId)).records;
        expect(new Set(listed), when).toEqual(
          new Set([...live.values()].filter((record) => record.userId === userId)),
        );
        const times = listed.map(({ lastAccess }) => lastAccess);
        expect(times, when).toEqual(times.toSorted((a, b) => b - a));
      }
    }
    await store.clear();
    await expectIndexesToAgree(prefix, new Map(), `after clear (SESSION_SEED=${seed})`);
  });
});

describe('RedisSessionStore: lists against regeneration', () => {
  it('userSessions() finds a session that is moved to a new id while it looks: killUser() relies on it', async () => {
    const { store, prefix } = await openRedisStore();
    const { store: peer } = await openRedisStore({ prefix });
    let { record } = await mustCreate(store, { userId: 'ann' });
    const move = async () => {
      ({ record } = (await store.move(record, newSession({ userId: 'ann' }))) as LoadedSession);
    };
    const read = peer.connection.read.bind(peer.connection);
    let moves = 0;
    vi.spyOn(peer.connection, 'read').mockImplementation(async (partition, operation, command) => {
      const answer = await read(partition, operation, command);
      // After the ids were read, and before their records are.
      if (/user/.test(operation) && moves++ < 3) await move();
      return answer;
    });
    expect((await peer.userSessions('ann')).records).toEqual([record]);
    expect(moves).toBe(4);
  });

  it('userSessions() with entries of expired sessions in the list looks once more, not for ever', async () => {
    const { store } = await openRedisStore();
    const live = await mustCreate(store, { userId: 'ann' });
    await mustCreate(store, { userId: 'ann', idleTimeout: 20 });
    await passTime({ store }, 21);
    const read = vi.spyOn(store.connection, 'read');
    expect((await store.userSessions('ann')).records).toEqual([live.record]);
    expect(read.mock.calls.filter(([, operation]) => /user/.test(operation))).toHaveLength(2);
  });
});

describe('RedisSessionStore: the layout marker', () => {
  it('open() writes layout, partition count and the names of the indexes once', async () => {
    const { prefix } = await openRedisStore();
    expect(await admin.get(`${prefix}layout`)).toBe(`1 ${PARTITIONS} exp u act`);
    await openRedisStore({ prefix });
    expect(await admin.pttl(`${prefix}layout`)).toBe(-1);
  });

  it('open() with another partition count on the same prefix rejects, naming partitions and the fix', async () => {
    const { prefix } = await openRedisStore();
    const opening = openRedisStore({ prefix, partitions: 8 });
    await expect(opening).rejects.toThrow(SessionOptionsError);
    await expect(opening).rejects.toMatchObject({ option: 'partitions' });
    await expect(opening).rejects.toThrow(/is 8\b.*"t-.*Set partitions: 16/);
    expect(await admin.get(`${prefix}layout`)).toBe(`1 ${PARTITIONS} exp u act`);
  });

  it.each([
    ['index: false', false, 'false'],
    ['index.users: false', { users: false, activity: true }, '{ users: false, activity: true }'],
    ['index.activity: false', { users: true, activity: false }, '{ users: true, activity: false }'],
    ['both false', { users: false, activity: false }, '{ users: false, activity: false }'],
  ] as const)(
    'open() with %s on the prefix of sessions that have all indexes rejects, and the other way round, with the fix',
    async (_, index, written) => {
      const [all, other] = [uniquePrefix(), uniquePrefix()];
      await openRedisStore({ prefix: all });
      const opening = openRedisStore({ prefix: all, index });
      await expect(opening).rejects.toMatchObject({ code: 'SESSION_OPTIONS', option: 'index' });
      await expect(opening).rejects.toThrow('Set index: { users: true, activity: true }, or choose another');
      await openRedisStore({ prefix: other, index });
      await openRedisStore({ prefix: other, index });
      await expect(openRedisStore({ prefix: other })).rejects.toThrow(
        `index" is { users: true, activity: true }, but the sessions under the prefix "${other}" were laid out with ` +
          `${written}. Set index: ${written}, or`,
      );
    },
  );

  it('of stores opened at once with different partitions on a new prefix, those of one kind open', async () => {
    const prefix = uniquePrefix();
    const opened = await Promise.allSettled(
      [4, 8, 4, 8, 4, 8].map(async (partitions) => openRedisStore({ prefix, partitions })),
    );
    const states = opened.map(({ status }) => status);
    expect(new Set([states.join(), ...(await admin.get(`${prefix}layout`))!.split(' ').slice(1, 2)])).toEqual(
      states[0] === 'fulfilled'
        ? new Set(['fulfilled,rejected,fulfilled,rejected,fulfilled,rejected', '4'])
        : new Set(['rejected,fulfilled,rejected,fulfilled,rejected,fulfilled', '8']),
    );
  });

  it.each([
    ['another layout', '2 16'],
    ['a layout without the indexes', '1 16'],
    ['indexes that are none', '1 16 exp of a kind'],
    ['an empty text', ''],
    ['something else', 'hello'],
  ])('open() where the marker is %s rejects, naming keyPrefix and the key', async (_, text) => {
    const prefix = uniquePrefix();
    await admin.set(`${prefix}layout`, text, 'EX', 60);
    const opening = openRedisStore({ prefix });
    await expect(opening).rejects.toMatchObject({ code: 'SESSION_OPTIONS', option: 'keyPrefix' });
    await expect(opening).rejects.toThrow(`see the key ${prefix}layout. Choose another keyPrefix`);
    expect(await admin.get(`${prefix}layout`)).toBe(text);
  });

  it('open() where the marker is no string rejects, naming keyPrefix and the key', async () => {
    const prefix = uniquePrefix();
    await admin.hset(`${prefix}layout`, 'of', 'somebody');
    cleanups.push(() => admin.del(`${prefix}layout`));
    await expect(openRedisStore({ prefix })).rejects.toMatchObject({
      option: 'keyPrefix',
      detail: expect.stringContaining(`see the key ${prefix}layout`) as string,
    });
  });

  it('sessions under a prefix that another one begins with, or ends as a key of it, are untouched by it', async () => {
    const outer = await openRedisStore();
    const inners = await Promise.all(
      ['layout', 'wait', 'inv', 'x:', ':', '0'].map((more) =>
        openRedisStore({ prefix: outer.prefix + more, partitions: 3 }),
      ),
    );
    const { record } = await mustCreate(outer.store, { userId: 'ann' });
    for (const { store } of inners) {
      const id = newSessionId('ann', 3);
      await mustCreate(store, { id, userId: 'ann' });
      expect((await store.userSessions('ann')).records.map((found) => found.id)).toEqual([id]);
      await store.clear();
      expect(await store.length()).toBe(0);
    }
    expect(await mustGet(outer.store, record.id)).toEqual(record);
    await outer.store.clear();
    await openRedisStore({ prefix: outer.prefix });
  });
});

describe('RedisSessionStore: records it cannot read', () => {
  const whole = (record: SessionRecord, user: string, metadata = '{}') =>
    `1 ${String(record.version).padStart(16, '0')} AAAAAAA ${record.lastAccess} 00001800000 ` +
    `${record.absoluteDeadline} ${record.createdAt} ${user} ${metadata}\n{}`;
  const corruptions: Record<string, (text: string, record: SessionRecord) => string> = {
    'garbage text': () => 'not a session at all',
    'an empty text': () => '',
    'garbage that begins with the layout number': () => '1garbage',
    'a text cut inside the header': (text) => text.slice(0, 40),
    'a text cut right after the header': (text) => text.slice(0, 81),
    'a text cut inside the user': (text) => text.slice(0, 83),
    'a text cut inside the metadata': (text) => text.slice(0, text.indexOf('\n') - 3),
    'another layout number': (text) => `2${text.slice(1)}`,
    'a malformed user encoding': (_, record) => whole(record, '%zz'),
    'metadata that is no JSON': (_, record) => whole(record, 'ann', '{"ip":'),
    'metadata that is no object': (_, record) => whole(record, 'ann', '7'),
    'letters where the version should be': (text) => `${text.slice(0, 5)}x${text.slice(6)}`,
  };

  for (const [what, corrupt] of Object.entries(corruptions)) {
    it(`${what}: get() is null with an event, nothing hangs, and destroy() removes it`, async () => {
      const { store, events, prefix } = await openRedisStore();
      const undecodable: SessionEventMap['undecodable'][] = [];
      events.on('undecodable', (payload) => undecodable.push(payload));
      const { record } = await mustCreate(store, { userId: 'ann' });
      const key = recordKey(prefix, record.id);
      const text = (await admin.get(key))!;
      await admin.set(key, corrupt(text, record), 'PX', 60_000);

      expect(await store.get(record.id)).toBeNull();
      expect(undecodable).toEqual([{ id: record.id, reason: expect.any(String) }]);
      expect(JSON.stringify(undecodable)).not.toContain('{"n":0}');
      expect((await store.set(edit({ ...record, version: record.version - 1 }, 'x'))).status).toBe('gone');
      const touched = store.touch(record.id, 0, { userId: 'ann' });
      const late = new Promise((_, reject) => {
        setTimeout(() => reject(new Error('touch() did not settle')), 3_000).unref();
      });
      await Promise.race([touched, late]);
      await store.userSessions('ann');
      for await (const listed of store.all()) expect(listed.id).not.toBe(record.id);

      await store.destroy(record.id, { userId: 'ann' });
      expect(await admin.exists(key)).toBe(0);
      expect(await store.get(record.id)).toBeNull();
      await store.clear();
      expect(await store.length()).toBe(0);
    });
  }
});

describe('RedisSessionStore: scripts and rights', () => {
  let server: RedisServer;
  let own: Redis;
  beforeAll(async () => {
    server = await RedisServer.start();
    own = new Redis(server.url);
  });
  afterAll(async () => {
    own.disconnect();
    await server.stop();
  });

  it('SCRIPT FLUSH between and during operations is recovered from', async () => {
    const { store } = await openRedisStore({ source: server.url });
    let { record } = await mustCreate(store, { userId: 'ann' });
    const flush = () => own.script('FLUSH');
    await flush();
    expect((await store.get(record.id))?.record).toEqual(record);
    await flush();
    ({ record } = (await store.set(edit(record, 'x'))) as LoadedSession);
    await flush();
    expect(await store.touch(record.id, 0, { userId: 'ann' })).not.toBeNull();
    await flush();
    const next = newSession({ userId: 'ann' });
    expect((await store.move(record, next)).status).toBe('moved');
    await flush();
    expect(await store.destroy(next.id)).toBe(true);

    let flushing = true;
    const flusher = (async () => {
      while (flushing) await flush();
    })();
    const rounds = Array.from({ length: 200 }, async () => {
      const created = await mustCreate(store, { userId: 'ann' });
      const written = (await store.set(edit(created.record, 'y'))) as LoadedSession;
      expect((await store.get(created.record.id))?.record).toEqual(written.record);
      expect(await store.destroy(created.record.id)).toBe(true);
    });
    await Promise.all(rounds).finally(() => (flushing = false));
    await flusher;
    expect(await store.length()).toBe(0);
  });

  it('a user without rights on the channel: each change rejects and leaves every key as it was', async () => {
    await own.call('ACL', 'SETUSER', 'mute', 'on', '>secret', '~*', '+@all', 'resetchannels');
    const prefix = uniquePrefix();
    const { store } = await openRedisStore({
      source: { port: server.port, username: 'mute', password: 'secret' },
      prefix,
    });
    const { record } = await mustCreate(store, { userId: 'ann' });
    const anonymous = await mustCreate(store);
    const before = await dump(prefix, own);
    const changes: Record<string, () => Promise<unknown>> = {
      set: () => store.set(edit(record, 'x')),
      destroy: () => store.destroy(record.id, { userId: 'ann' }),
      destroyMany: () => store.destroyMany([record.id], 'ann'),
      'move within a user': () => store.move(record, newSession({ userId: 'ann' })),
      'move to another user': () => store.move(record, newSession({ userId: 'bob' })),
      'move from nobody to a user': () => store.move(anonymous.record, newSession({ userId: 'ann' })),
      clear: () => store.clear(),
    };
    for (const [what, change] of Object.entries(changes)) {
      const failure = await change().then(
        () => null,
        (error: unknown) => error,
      );
      expect(failure, what).toBeInstanceOf(SessionStoreUnavailableError);
      expect(failure, what).toMatchObject({ outcomeUnknown: false });
      expect((failure as Error).message, what).toMatch(/channel/);
      expect(await dump(prefix, own), what).toEqual(before);
    }
    expect((await store.get(record.id))?.record).toEqual(record);
    // With the right back, the same calls work: it was the right that was missing.
    await own.call('ACL', 'SETUSER', 'mute', `&${prefix}inv`);
    expect((await store.set(edit(record, 'x'))).status).toBe('written');
  });

  it('every change is announced once on the channel, with the version it made, and a touch is not', async () => {
    const { store, prefix } = await openRedisStore({ source: server.url });
    const listener = new Redis(server.url);
    const heard: string[] = [];
    listener.on('message', (_channel: string, text: string) => heard.push(text));
    await listener.subscribe(`${prefix}inv`);
    try {
      const { record } = await mustCreate(store, { userId: 'ann' });
      const written = (await store.set(edit(record, 'x'))) as LoadedSession;
      await store.touch(record.id, 0, { userId: 'ann' });
      const rotated = (await store.move(written.record, newSession({ userId: 'ann' }))) as LoadedSession;
      const moved = (await store.move(rotated.record, newSession({ userId: 'bob' }))) as LoadedSession;
      await store.destroy(moved.record.id);
      await own.publish(`${prefix}inv`, 'end');
      await expect.poll(() => heard.at(-1)).toBe('end');
      const said = heard.slice(0, -1).map((text) => text.split(' '));
      expect(said.map(([operation, id]) => `${operation} ${id}`)).toEqual([
        `update ${record.id}`,
        `destroy ${record.id}`,
        `destroy ${rotated.record.id}`,
        `destroy ${moved.record.id}`,
      ]);
      expect(Number(said[0]![2])).toBe(written.record.version);
      expect(
        said.every(([, , version, origin]) => /^\d{16}$/.test(version!) && origin === 'store-spec'),
      ).toBe(true);
    } finally {
      listener.disconnect();
    }
  });

  it('an expired session that is still in Redis is absent, and its key too can be created again', async () => {
    const { store, prefix } = await openRedisStore();
    const { record } = await mustCreate(store, { userId: 'ann', idleTimeout: 30 });
    await passTime({ store }, 31);
    expect(await admin.exists(recordKey(prefix, record.id))).toBe(1);
    expect(await store.get(record.id)).toBeNull();
    await mustCreate(store, { id: record.id, userId: 'ann' });
    await expectIndexesToAgree(prefix, new Map([[record.id, 'ann']]), 'after the id was created again');
  });
});

describe('a move to another partition whose second step fails', () => {
  const cannotCreate = new SessionStoreUnavailableError('create a session', 'test', false);

  it('puts the old session back, under its old id and in its indexes', async () => {
    const { store, prefix } = await openRedisStore();
    const { record } = await mustCreate(store, { userId: 'ann', data: '{"a":1}' });
    vi.spyOn(store, 'create').mockRejectedValueOnce(cannotCreate);
    await expect(store.move(record, newSession({ userId: 'bob' }))).rejects.toBe(cannotCreate);
    expect((await mustGet(store, record.id)).data).toBe('{"a":1}');
    await expectIndexesToAgree(prefix, new Map([[record.id, 'ann']]), 'after the restore');
  });

  it('says gone when the old one was ended meanwhile, and does not bring it back', async () => {
    const { store, prefix } = await openRedisStore();
    const { record } = await mustCreate(store, { userId: 'ann' });
    vi.spyOn(store, 'create').mockImplementationOnce(async () => {
      expect(await store.get(record.id)).toBeNull(); // marked: neither id is usable now
      await store.destroy(record.id, { userId: 'ann' });
      throw cannotCreate;
    });
    expect(await store.move(record, newSession({ userId: 'bob' }))).toEqual({ status: 'gone' });
    expect(await store.get(record.id)).toBeNull();
    await expectIndexesToAgree(prefix, new Map(), 'after the failed move');
  });
});

describe('errors in the middle of a script, and settings in the URL', () => {
  it('a write that stopped half way does not say that nothing was changed', async () => {
    const { store, prefix } = await openRedisStore();
    const { record } = await mustCreate(store, { userId: 'ann' });
    await admin.del(userKey(prefix, 'ann'));
    await admin.set(userKey(prefix, 'ann'), 'of another type', 'EX', 60);
    await expect(store.set(edit(record, '{"a":2}'))).rejects.toMatchObject({ outcomeUnknown: true });
  });

  it('the query of a URL cannot change what our connections rely on', async () => {
    const client = await openOwnClient(
      `${testRedisUrl()}?keyPrefix=app:&enableOfflineQueue=true&maxRetriesPerRequest=20&family=4`,
      'url-spec',
      COMMAND_TIMEOUT_MS,
    );
    const { keyPrefix, enableOfflineQueue, maxRetriesPerRequest, family } = client.options;
    expect({ keyPrefix, enableOfflineQueue, maxRetriesPerRequest, family: Number(family) }).toEqual({
      keyPrefix: '',
      enableOfflineQueue: false,
      maxRetriesPerRequest: 0,
      family: 4,
    });
  });

  it('the deadlines index gets its expiry back once its last immortal session has ended and one other is left', async () => {
    const { store, prefix } = await openRedisStore({ partitions: 1 });
    const id = () => newId(null, 0);
    const immortal = await mustCreate(store, { id: id(), idleTimeout: 0, absoluteTimeout: 0 });
    const mortal = await mustCreate(store, { id: id() });
    expect(await keysWithoutExpiry(prefix)).toContain(`${prefix}{0}:exp`);
    await store.destroy(immortal.record.id);
    await store.touch(mortal.record.id, 0);
    expect(await keysWithoutExpiry(prefix)).toEqual([]);
  });
});

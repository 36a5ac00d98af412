// The option `index`: which keys there are in Redis without this or that, what the registry answers then, and what holds
// all the same.
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { SessionStoreUnavailableError } from '../../lib/errors/state.errors.js';
import { SessionEvents } from '../../lib/events/session-events.js';
import type { SessionModuleOptions } from '../../lib/index.js';
import { resolveSessionOptions } from '../../lib/options/resolve-session-options.js';
import { openOwnClient } from '../../lib/store/redis-client.js';
import { RedisSessionStore } from '../../lib/store/redis-session.store.js';
import { describeSessionStore, type SuiteRunner } from '../../lib/testing/index.js';
import { deleteByPrefix, testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { waitFor } from '../support/wait-for.js';
import { keysOf, NO_SWEEP, openRegistryNode, type RegistryNode } from './registry-rig.js';

type Index = NonNullable<SessionModuleOptions['index']>;

const MODES = {
  all: { users: true, activity: true },
  'no activity': { users: true, activity: false },
  'no users': { users: false, activity: true },
  neither: { users: false, activity: false },
  none: false,
} satisfies Record<string, Index>;
type Mode = keyof typeof MODES;

/** Kinds of keys a session of a user and one of nobody lead to. */
const KINDS: Record<Mode, string[]> = {
  all: ['act', 'exp', 's', 'u', 'users'],
  'no activity': ['exp', 's', 'u'],
  'no users': ['act', 'exp', 's'],
  neither: ['exp', 's'],
  none: ['s'],
};

const keepsUsers = (mode: Mode) => mode === 'all' || mode === 'no activity';
const keepsActivity = (mode: Mode) => mode === 'all' || mode === 'no users';

const SCALE_MS = 5_000;

let redis: Redis;
let prefix: string;
const closing: (() => Promise<unknown>)[] = [];

beforeAll(() => {
  redis = new Redis(testRedisUrl());
});
afterAll(() => redis.quit());
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

function begin(): void {
  const mine = (prefix = uniquePrefix());
  closing.push(() => deleteByPrefix(redis, mine));
}

async function node(mode: Mode, options: SessionModuleOptions = {}): Promise<RegistryNode> {
  const opened = await openRegistryNode({
    redis: testRedisUrl(),
    keyPrefix: prefix,
    cache: false,
    index: MODES[mode],
    commandTimeout: SCALE_MS,
    ...(mode === 'none' ? {} : { sweepInterval: NO_SWEEP }),
    ...options,
  });
  closing.push(() => opened.close());
  return opened;
}

/** Kinds of the keys there are: `exp`, `s`, `u` … */
async function kinds(): Promise<string[]> {
  const keys = (await keysOf(redis, prefix)).filter((key) => key !== `${prefix}layout`);
  return [...new Set(keys.map((key) => /\{\d+\}:(\w+)/.exec(key)![1]!))].sort();
}

/** Every member of every index, without its score. */
async function members(): Promise<string[]> {
  const keys = (await keysOf(redis, prefix)).filter((key) => !/:s:|layout$|:sweep$/.test(key));
  const lists = await Promise.all(keys.map((key) => redis.zrange(key, '0', '-1')));
  return lists.flat();
}

const collect = async <T>(items: AsyncIterable<T>): Promise<T[]> => {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
};

const modes = Object.keys(MODES) as Mode[];

// Of what has nothing to do with indexes, the mode with all of them has shown it.
const UNTOUCHED = new Set(['10,000 sessions', 'odd values', 'expiry', 'touch', 'lists by activity']);
// Each test has a store of its own.
const runner: SuiteRunner = {
  describe: (name, body) => describe.skipIf(UNTOUCHED.has(name))(name, body),
  it: it.concurrent,
};
for (const mode of ['no activity', 'no users', 'none'] as const) {
  describeSessionStore(runner, `RedisSessionStore with ${mode} index`, async () => {
    const keyPrefix = uniquePrefix();
    const options = resolveSessionOptions({
      redis: testRedisUrl(),
      keyPrefix,
      index: MODES[mode],
      commandTimeout: SCALE_MS,
    });
    const open = async () => {
      const store = new RedisSessionStore(
        () => openOwnClient(testRedisUrl(), 'index-spec', SCALE_MS),
        options,
        new SessionEvents(() => undefined),
      );
      await store.open();
      return store;
    };
    const [store, peer] = [await open(), await open()];
    const close = async () => {
      await Promise.all([store.close(), peer.close()]);
      await deleteByPrefix(redis, keyPrefix);
    };
    return { store, peer, close };
  });
}

describe.each(modes)('index: %s', (mode) => {
  it('leads to these keys and no others, whatever becomes of sessions, and none outlives them', async () => {
    begin();
    const opened = await node(mode, { touchInterval: 0, rotateEvery: '1m', rotateGrace: '1s' });
    const { sessions, store } = opened;
    const ann = await sessions.create({ n: 1 }, { userId: 'ann' });
    const visitor = await sessions.create({ n: 2 });
    const other = await sessions.create({ n: 3 }, { userId: 'bob', idleTimeout: '1h' });
    await sessions.update(ann.token, { n: 4 });
    await sessions.touch(visitor.token);
    const { token } = await visitor.regenerate({ userId: 'ann' }); // to another partition
    await other.regenerate(); // beside the old one
    await ann.regenerate();
    expect((await sessions.get(token))?.data).toEqual({ n: 2 });
    expect(store.capabilities.index).toBe(keepsUsers(mode));
    await opened.close(); // writes what was noted
    closing.splice(1, 1);
    expect(await kinds()).toEqual(KINDS[mode]);
    const keys = (await keysOf(redis, prefix)).filter((key) => key !== `${prefix}layout`);
    const ttls = await Promise.all(keys.map((key) => redis.pttl(key)));
    expect(keys.filter((_, index) => ttls[index]! <= 0)).toEqual([]);

    const again = await node(mode);
    for (const key of keys.filter((name) => name.includes(':s:'))) {
      const id = key.split(':s:')[1]!;
      await again.registry.kill(id);
    }
    expect(await members()).toEqual([]);
  });

  it('answers every method of the registry, or names the option', async () => {
    begin();
    const { registry, sessions } = await node(mode);
    const [a, b] = [
      await sessions.create({ n: 1 }, { userId: 'ann' }),
      await sessions.create({ n: 1 }, { userId: 'ann' }),
    ];
    const visitor = await sessions.create({ n: 1 });
    const listed = mode !== 'none';
    const byUser = keepsUsers(mode);
    const byActivity = keepsActivity(mode);
    const within = { activeWithin: '1h' };
    const cases: [call: () => Promise<unknown>, works: boolean, option: string, answer: unknown][] = [
      [() => registry.count(), listed, 'index', 3],
      [() => registry.count(within), byActivity, listed ? 'index.activity' : 'index', 3],
      [() => collect(registry.sessions()), listed, 'index', expect.objectContaining({ length: 3 })],
      [() => collect(registry.sessions(within)), listed, 'index', expect.objectContaining({ length: 3 })],
      [() => collect(registry.users()), listed, 'index', ['ann']],
      [() => collect(registry.users(within)), listed, 'index', ['ann']],
      [
        () => registry.getAllSessions(),
        byActivity,
        listed ? 'index.activity' : 'index',
        expect.objectContaining({ sessions: expect.objectContaining({ length: 3 }) as unknown }),
      ],
      [
        () => registry.getAllUsers(),
        byUser && byActivity,
        !listed ? 'index' : byUser ? 'index.activity' : 'index.users',
        { users: ['ann'], cursor: null },
      ],
      ...(
        [
          [() => registry.countForUser('ann'), 2],
          [() => registry.countForUser('ann', within), 2],
          [() => registry.getUserSessions('ann'), expect.objectContaining({ length: 2 })],
          [() => registry.getUserSessions('ann', within), expect.objectContaining({ length: 2 })],
          [() => registry.getOldestUserSession('ann'), expect.objectContaining({ userId: 'ann' })],
          [() => registry.updateUser('ann', { n: 2 }), 2],
          [() => registry.killUser('ann', { except: a.id }), 1],
        ] as const
      ).map(
        ([call, answer]) =>
          [call, byUser, listed ? 'index.users' : 'index', answer] as [
            () => Promise<unknown>,
            boolean,
            string,
            unknown,
          ],
      ),
      [() => registry.exists(a.id), true, '', true],
      [() => registry.get(a.id), true, '', expect.objectContaining({ id: a.id, userId: 'ann' })],
      [() => registry.now(), true, '', expect.any(Number)],
      [() => registry.kill(visitor.id), true, '', true],
      [() => registry.kill(a.id, { userId: 'bob' }), true, '', false],
      [() => registry.kill(a.id, { userId: 'ann' }), true, '', true],
      [() => registry.killAll(), listed, 'index', byUser ? 0 : 1],
    ];
    for (const [call, works, option, answer] of cases) {
      if (works) expect(await call(), String(call)).toEqual(answer);
      else
        await expect(call(), String(call)).rejects.toMatchObject({
          name: 'SessionOptionsError',
          option,
          message: expect.stringMatching(
            /^SessionModule option "index.* is false, so that .*Drop it/,
          ) as string,
        });
    }
    expect(await sessions.get(b.token)).toEqual(listed ? null : expect.objectContaining({ id: b.id }));
    expect(await registry.exists(visitor.id)).toBe(false);
  });

  it('expired sessions are absent at once, and gone from Redis after a sweep, or by their own expiry', async () => {
    begin();
    const { sessions, store, expired } = await node(mode);
    const idleTimeout = 1000;
    const made = await Promise.all(
      ['ann', undefined, 'bob', 'ann'].map((userId) =>
        sessions.create({}, { ...(userId && { userId }), idleTimeout }),
      ),
    );
    const kept = await sessions.create({}, { userId: 'ann' });
    const records = (await keysOf(redis, prefix)).filter((key) => key.includes(':s:'));
    const ttls = await Promise.all(records.map((key) => redis.pttl(key)));
    expect(ttls.filter((ttl) => ttl > 0 && ttl <= 61_000)).toHaveLength(4);
    await waitFor(async () =>
      (await Promise.all(made.map(({ token }) => sessions.get(token)))).every((one) => one === null),
    );
    const told: (string | null)[] = [];
    await store.sweep(({ userId }) => told.push(userId), 10_000);
    expect(expired).toEqual([]);
    if (mode === 'none') {
      expect(told).toEqual([]);
      expect((await keysOf(redis, prefix)).filter((key) => key.endsWith(':sweep'))).toEqual([]); // not even claimed
      return;
    }
    expect(told.map(String).toSorted((a, b) => a.localeCompare(b))).toEqual(['ann', 'ann', 'bob', 'null']);
    expect(await store.length()).toBe(1);
    const left = await members();
    const isOf = (member: string) => member.startsWith(kept.id) || member === 'ann';
    expect(left.filter((member) => !isOf(member))).toEqual([]);
    expect((await keysOf(redis, prefix)).filter((key) => key.includes(':s:'))).toHaveLength(1);
  });

  it('a session that is ended in the middle of a login does not come back when that fails', async () => {
    begin();
    const [dying, other] = [await node(mode), await node(mode)];
    const visitor = await dying.sessions.create({ cart: 1 }, { userId: 'ann' });
    const create = dying.store.create.bind(dying.store);
    let found: boolean | undefined;
    dying.store.create = async () => {
      found = await other.registry.kill(visitor.id);
      throw new SessionStoreUnavailableError('create a session', 'no memory', false);
    };
    const regenerated = visitor.regenerate({ userId: 'bob' }).catch((error: unknown) => error);
    expect(await regenerated).toMatchObject({ name: 'SessionGoneError' });
    expect(found).toBe(false); // it was absent, and stays so
    expect(await dying.sessions.get(visitor.token)).toBeNull();
    expect(await members()).toEqual([]);

    // Left alone, it is put back, with all its indexes.
    dying.store.create = create;
    const second = await dying.sessions.create({ cart: 2 }, { userId: 'ann' });
    dying.store.create = async () => {
      throw new SessionStoreUnavailableError('create a session', 'no memory', false);
    };
    await expect(second.regenerate({ userId: 'bob' })).rejects.toThrow('no memory');
    dying.store.create = create;
    expect((await other.sessions.get(second.token))?.data).toEqual({ cart: 2 });
    if (mode !== 'none') expect(await other.store.length()).toBe(1);
    if (keepsUsers(mode)) expect(await other.registry.countForUser('ann')).toBe(1);
  });

  it('a save that comes after the end finds the session gone; of ten that take a token, one gets it', async () => {
    begin();
    const { sessions, registry } = await node(mode, { allowGivenTokens: true });
    const session = await sessions.create({ n: 1 }, { userId: 'ann' });
    session.data.n = 2;
    expect(await registry.kill(session.id)).toBe(true);
    await expect(session.save()).rejects.toMatchObject({ name: 'SessionGoneError' });
    const token = 'a-token-of-their-own';
    const tries = await Promise.allSettled(
      Array.from({ length: 10 }, (_, n) => sessions.create({ n }, { token })),
    );
    expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(await sessions.destroy(token)).toBe(true);
    await sessions.create({ n: 11 }, { token });
    expect((await sessions.get(token))?.data).toEqual({ n: 11 });
  });

  it('ten processes that add 1 at the same moment add 10', async () => {
    begin();
    const nodes = [await node(mode), await node(mode)];
    const { token } = await nodes[0]!.sessions.create({ n: 0 });
    await Promise.all(
      Array.from({ length: 10 }, (_, i) =>
        nodes[i % 2]!.sessions.update(token, (data) => void ((data as { n: number }).n += 1)),
      ),
    );
    expect((await nodes[0]!.sessions.get(token))?.data).toEqual({ n: 10 });
  });
});

describe.each(modes.filter((mode) => mode !== 'none'))('index: %s', (mode) => {
  it('killAll() ends sessions that are given new tokens all the while', async () => {
    begin();
    const [busy, admin] = [await node(mode), await node(mode)];
    const made = await Promise.all(
      Array.from({ length: 30 }, (_, n) => busy.sessions.create({ n }, n % 2 ? { userId: `user-${n}` } : {})),
    );
    let done = false;
    const working = made.map(async (session) => {
      while (
        !done &&
        (await session.regenerate().then(
          () => true,
          () => false,
        ))
      );
    });
    const ended = await admin.registry.killAll();
    done = true;
    await Promise.all(working);
    expect(ended).toBe(30);
    expect(await admin.registry.count()).toBe(0);
    expect(await members()).toEqual([]);
  });
});

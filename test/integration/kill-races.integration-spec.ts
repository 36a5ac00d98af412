// killUser against everything else that happens to a user's sessions at that moment.
// Shown to fail when it makes one pass only, and when DESTROY leaves index entries.
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { SessionLimitError, type SessionModuleOptions } from '../../lib/index.js';
import type { NodeWorker } from '../support/node-worker.js';
import { testRedisUrl, uniquePrefix } from '../support/redis-url.js';
import { newId } from '../../lib/testing/kit.js';
import { TcpProxy } from '../support/tcp-proxy.js';
import { waitFor } from '../support/wait-for.js';
import {
  afterAnswer,
  audit,
  keysOf,
  NO_SWEEP,
  openRegistryNode,
  startRegistryWorker,
  type RegistryNode,
} from './registry-rig.js';

const ROUNDS = 500;
const AT_ONCE = 20;

interface Churned {
  successors: string[];
  logins: string[];
  results: string[];
}

describe('killUser and killAll against what else is going on', () => {
  let redis: Redis;
  let prefix: string;
  let node: RegistryNode | undefined;
  let workers: NodeWorker[] = [];

  beforeAll(() => {
    redis = new Redis(testRedisUrl());
  });
  afterAll(() => redis.disconnect());
  afterEach(async () => {
    await node?.close();
    node = undefined;
    for (const worker of workers.splice(0)) {
      await worker.call('close');
      await worker.stop();
    }
  });

  const open = async (options: SessionModuleOptions = {}): Promise<RegistryNode> => {
    prefix = uniquePrefix();
    node = await openRegistryNode({
      redis: testRedisUrl(),
      keyPrefix: prefix,
      sweepInterval: NO_SWEEP,
      touchInterval: 0,
      ...options,
    });
    return node;
  };
  const lateNotes = async (): Promise<void> => void (await node!.registry.count({ activeWithin: '1h' }));

  it(
    `${ROUNDS} users killed while two processes sign in, save, touch and replace tokens: what was there before is ` +
      'refused everywhere and in no index',
    async () => {
      const { sessions, registry } = await open();
      workers = await Promise.all(
        [0, 1].map(() =>
          startRegistryWorker({
            redis: testRedisUrl(),
            keyPrefix: prefix,
            sweepInterval: NO_SWEEP,
            touchInterval: 0,
          }),
        ),
      );
      let won = 0;
      let lost = 0;
      let spared = 0;
      const doomed: string[] = [];
      for (let round = 0; round < ROUNDS; round += AT_ONCE) {
        const users = await Promise.all(
          Array.from({ length: AT_ONCE }, async (_, index) => {
            const userId = `user-${round + index}`;
            const made = await Promise.all(Array.from({ length: 6 }, () => sessions.create({}, { userId })));
            return { userId, tokens: made.map(({ token }) => token) };
          }),
        );
        // Every process has copies of all of them.
        const tokens = users.flatMap((user) => user.tokens);
        for (const worker of workers) expect(await worker.call('alive', tokens)).toHaveLength(tokens.length);
        const churning = workers.map((worker, part) =>
          worker.call<Churned[]>(
            'churn',
            users.map((user) => ({ ...user, tokens: user.tokens.slice(part * 3, part * 3 + 3) })),
          ),
        );
        const killing = users.map(async ({ userId }) => {
          await delay(Math.random() * 25);
          expect(await registry.killUser(userId)).toBeGreaterThan(0);
        });
        await Promise.all(killing);
        const churned = (await Promise.all(churning)).flat();
        for (const { results } of churned)
          for (const result of results) {
            expect(['ok', 'SESSION_GONE']).toContain(result);
            if (result === 'ok') won++;
            else lost++;
          }

        const gone = [...tokens, ...churned.flatMap(({ successors }) => successors)];
        doomed.push(...gone);
        await waitFor(
          async () => {
            for (const worker of workers) expect(await worker.call('alive', gone)).toEqual([]);
            return true;
          },
          { timeoutMs: 2_000 },
        );
        for (const token of gone) expect(await sessions.get(token)).toBeNull();
        // Only sign-ins of the same moment may be left, and they are listed exactly where they live.
        const logins = churned.flatMap((one) => one.logins);
        const alive = await workers[0]!.call<string[]>('alive', logins);
        const listed = await Promise.all(users.map(({ userId }) => registry.getUserSessions(userId)));
        expect(listed.flat()).toHaveLength(alive.length);
        spared += alive.length;
        const found = await audit(redis, prefix);
        expect(found.wrong).toEqual([]);
        await Promise.all(users.map(({ userId }) => registry.killUser(userId)));
        expect((await audit(redis, prefix)).alive).toEqual([]);
      }
      // Both ways, else nothing raced.
      process.stdout.write(`kill races: ${won} before, ${lost} after the kill, ${spared} sign-ins spared\n`);
      expect(Math.min(won, lost, spared)).toBeGreaterThan(ROUNDS / 10);
      await lateNotes();
      await delay(1_100); // notes of the workers are written within a second
      expect(await keysOf(redis, prefix)).toEqual([`${prefix}layout`]);
      for (const worker of workers) expect(await worker.call('alive', doomed)).toEqual([]);
    },
  );

  it('a session whose token is replaced again and again does not escape, 200 users', async () => {
    const { sessions, registry } = await open({ cache: false });
    const outcomes: string[] = [];
    const chase = async (userId: string): Promise<void> => {
      let { token } = await sessions.create({}, { userId });
      let killed = false;
      const chain = (async () => {
        // Whoever is killed cannot go on; one that still can a while after the kill has escaped.
        for (let after = 0; after < 20; after += killed ? 1 : 0)
          ({ token } = await sessions.regenerate(token));
      })();
      const end = chain.then(
        () => 'escaped',
        (error: unknown) => (error as { code: string }).code,
      );
      await delay(Math.random() * 10);
      const count = await registry.killUser(userId);
      killed = true;
      outcomes.push(`${count} ${await end}`);
    };
    for (let round = 0; round < 20; round++)
      await Promise.all(Array.from({ length: 10 }, (_, n) => chase(`user-${round}-${n}`)));
    expect(outcomes).toEqual(Array.from({ length: 200 }, () => '1 SESSION_GONE'));
    expect((await audit(redis, prefix)).wrong).toEqual([]);
  });

  /** A login to a user who may have no more, of whom something happens between both steps of the move. */
  async function refusedLogin(meanwhile: (id: string) => Promise<unknown>) {
    const { sessions, store } = node!;
    await sessions.create({}, { userId: 'full' });
    const session = await sessions.create({}, { userId: 'ada' });
    const create = store.create.bind(store);
    store.create = async (next) => {
      store.create = create;
      await meanwhile(session.id);
      await create({ ...next, id: newId('full') }); // killAll has made room
      return create(next);
    };
    const error = await session.regenerate({ userId: 'full' }).then(
      () => undefined,
      (reason: unknown) => reason,
    );
    return { session, error };
  }

  it('a refused login puts the session back as it was', async () => {
    await open({ maxSessionsPerUser: 1, onLimit: 'reject' });
    const { session, error } = await refusedLogin(async () => undefined);
    expect(error).toBeInstanceOf(SessionLimitError);
    expect(await node!.sessions.get(session.token)).toMatchObject({ userId: 'ada' });
    expect((await node!.registry.getUserSessions('ada')).map(({ id }) => id)).toEqual([session.id]);
    const { users } = await node!.registry.getAllUsers();
    expect(users.toSorted()).toEqual(['ada', 'full']);
  });

  it.each([
    ['killUser', () => node!.registry.killUser('ada')],
    ['killAll', () => node!.registry.killAll()],
  ])('a session that was being moved when %s came does not come back when the move fails', async (_, kill) =>
    staysGone(kill),
  );

  it('a session that was being moved when kill came does not come back when the move fails', () =>
    staysGone((id) => node!.registry.kill(id)));

  const staysGone = async (kill: (id: string) => Promise<unknown>) => {
    await open({ maxSessionsPerUser: 1, onLimit: 'reject' });
    const { session, error } = await refusedLogin(kill);
    expect(error).toBeInstanceOf(Error);
    expect(await node!.sessions.get(session.token, { fresh: true })).toBeNull();
    expect(await node!.registry.getUserSessions('ada')).toEqual([]);
    expect((await audit(redis, prefix)).wrong).toEqual([]);
  };

  it('a session put back never makes more than the user may have', async () => {
    await open({ maxSessionsPerUser: 1, onLimit: 'reject' });
    // Whether this one is refused or the other is lost, there is one at the end.
    await refusedLogin(() => node!.sessions.create({}, { userId: 'ada' }).catch(() => undefined));
    expect(await node!.registry.getUserSessions('ada')).toHaveLength(1);
  });

  it('updateUser reaches a session that was being moved when it came, once the move has failed', async () => {
    await open({ maxSessionsPerUser: 1, onLimit: 'reject' });
    const { registry, sessions } = node!;
    let updating: Promise<number> | undefined;
    const { session } = await refusedLogin(async () => {
      updating = registry.updateUser('ada', { role: 'admin' });
      await delay(50);
    });
    expect(await updating).toBe(1);
    expect((await sessions.get(session.token))?.data).toMatchObject({ role: 'admin' });
  });

  it('updateUser looks again more than 100 times where a move takes its time, and tells of the session it waited for', async () => {
    await open({ maxSessionsPerUser: 1, onLimit: 'reject', commandTimeout: '4s' });
    const { registry, sessions, store } = node!;
    const list = store.userSessions.bind(store);
    let looks = 0;
    store.userSessions = (userId) => {
      looks++;
      return list(userId);
    };
    let updating: Promise<number> | undefined;
    const { session } = await refusedLogin(async () => {
      updating = registry.updateUser('ada', { role: 'admin' });
      await waitFor(() => looks > 105, { timeoutMs: 8_000, message: 'updateUser to look again' });
    });
    expect(await updating).toBe(1);
    expect((await sessions.get(session.token))?.data).toMatchObject({ role: 'admin' });
  });

  it('killUser that fails after its first batch has told of that; repeated it ends the rest: each is told of once', async () => {
    const target = new URL(testRedisUrl());
    const proxy = await TcpProxy.start({
      targetHost: target.hostname,
      targetPort: Number(target.port || 6379),
    });
    try {
      const { sessions, registry, destroyed } = await open({ redis: proxy.url, subscriber: testRedisUrl() });
      const made = await Promise.all(
        Array.from({ length: 120 }, () => sessions.create({}, { userId: 'ada' })),
      );
      afterAnswer(node!, 'end a session', 1, () => {
        proxy.refuse(true);
        proxy.cutAll();
      });
      await expect(registry.killUser('ada')).rejects.toMatchObject({ code: 'SESSION_STORE_UNAVAILABLE' });
      const left = (await audit(redis, prefix)).alive.map((member) => member.slice(0, 23));
      expect(left.length).toBeGreaterThan(0);
      expect(left.length).toBeLessThan(120);
      const ended = made.map(({ id }) => id).filter((id) => !left.includes(id));
      expect(destroyed.map(({ id }) => id).sort()).toEqual(ended.sort());

      proxy.refuse(false);
      expect(await waitFor(() => registry.killUser('ada'))).toBe(left.length);
      expect(destroyed.map(({ id }) => id).sort()).toEqual(made.map(({ id }) => id).sort());
      expect(destroyed.every(({ userId, reason }) => userId === 'ada' && reason === 'killed')).toBe(true);
    } finally {
      await node?.close();
      node = undefined;
      await proxy.close();
    }
  });

  it('a session that moved counts no more, and leaves nothing behind', async () => {
    const { sessions, registry } = await open({ maxSessionsPerUser: 1, onLimit: 'reject' });
    const session = await sessions.create({}, { userId: 'ada' });
    await session.regenerate({ userId: 'bob' });
    await sessions.create({}, { userId: 'ada' });
    expect(await registry.count()).toBe(2);
    expect(await audit(redis, prefix)).toMatchObject({ wrong: [], moving: [] });
  });

  it.each([
    ['killUser', () => node!.registry.killUser('ada')],
    ['killAll', () => node!.registry.killAll()],
  ])(
    '30 sessions of this process that never stop replacing their tokens do not escape %s',
    async (_, kill) => {
      const { sessions, registry } = await open({ cache: false });
      const made = await Promise.all(
        Array.from({ length: 30 }, () => sessions.create({}, { userId: 'ada' })),
      );
      let replaced = 0;
      let kept = true;
      const replacing = Promise.allSettled(
        made.map(async (session) => {
          while (kept) {
            await session.regenerate();
            replaced++;
          }
        }),
      );
      await waitFor(() => replaced > 60, { intervalMs: 1 });
      expect(await kill()).toBe(30);
      kept = false;
      for (const { reason } of (await replacing) as PromiseRejectedResult[])
        expect(reason).toMatchObject({ code: 'SESSION_GONE' });
      expect(await registry.count()).toBe(0);
      expect(await audit(redis, prefix)).toMatchObject({ alive: [], wrong: [] });
      // What is made after it may do as it likes.
      await (await sessions.create({}, { userId: 'ada' })).regenerate();
    },
  );

  it('a session that is spared goes on replacing its token, and is the only one left', async () => {
    const { sessions, registry } = await open({ cache: false });
    const made = await Promise.all(Array.from({ length: 10 }, () => sessions.create({}, { userId: 'ada' })));
    const spared = made[0]!;
    let kept = true;
    let replaced = 0;
    const replacing = (async () => {
      for (; kept; replaced++) await spared.regenerate();
    })().then(
      () => 'kept',
      () => 'ended',
    );
    await waitFor(() => replaced > 3, { intervalMs: 1 });
    // Named by an id that it may not have any more.
    await registry.killUser('ada', { except: spared.id });
    kept = false;
    const outcome = await replacing;
    const left = await registry.getUserSessions('ada');
    expect(left).toHaveLength(outcome === 'kept' ? 1 : 0);
    if (outcome === 'kept') expect(left[0]!.id).toBe(spared.id);
  });

  it('kill(id, { userId }) of a session that is being moved ends it: it does not come back', async () => {
    await open({ maxSessionsPerUser: 1, onLimit: 'reject' });
    let killed: boolean | undefined;
    const { session } = await refusedLogin(async (id) => {
      expect(await node!.registry.kill(id, { userId: 'bob' })).toBe(false);
      killed = await node!.registry.kill(id, { userId: 'ada' });
    });
    expect(killed).toBe(true);
    expect(await node!.sessions.get(session.token, { fresh: true })).toBeNull();
  });

  it('killUser while their session is replaced with new times: the new token is refused too', async () => {
    const { sessions, registry, store } = await open();
    const session = await sessions.create({}, { userId: 'ada' });
    const old = session.token;
    const list = store.userSessions.bind(store);
    let looks = 0;
    store.userSessions = async (userId) => {
      const found = await list(userId);
      if (looks++ === 0)
        await expect(session.regenerate({ idleTimeout: '1h', absoluteTimeout: '2h' })).rejects.toMatchObject({
          code: 'SESSION_GONE',
        });
      return found;
    };
    expect(await registry.killUser('ada')).toBe(1);
    expect(looks).toBeGreaterThan(0);
    for (const token of [old, session.token]) expect(await sessions.get(token, { fresh: true })).toBeNull();
  });
});

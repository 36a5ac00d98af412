import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { SessionInfo } from '../../../lib/core/session-record.interface.js';
import type { UserPage } from '../../../lib/core/session.registry.js';
import { SessionNotReplicatedError, SessionStoreUnavailableError } from '../../../lib/errors/state.errors.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { ManualClock } from '../../support/manual-clock.js';
import { deferred, openCore, SECOND, settled } from '../harness.js';

async function threeOfAnn() {
  const core = openCore();
  const made = [];
  for (const label of ['phone', 'laptop', 'tablet']) {
    made.push(await core.sessions.create({ secret: 'hunter2' }, { userId: 'ann', metadata: { label } }));
    core.clock.advance(SECOND);
  }
  const [phone, laptop, tablet] = made as [(typeof made)[0], (typeof made)[0], (typeof made)[0]];
  return { ...core, phone: phone!, laptop: laptop!, tablet: tablet! };
}

describe('SessionRegistry.getUserSessions', () => {
  it('lists the user’s sessions, most recently used first, with metadata and times', async () => {
    const { registry, clock, phone, laptop, tablet } = await threeOfAnn();
    clock.advance(60 * SECOND);
    await phone.touch();
    const listed = await registry.getUserSessions('ann');
    expect(listed.map(({ metadata }) => metadata.label)).toEqual(['phone', 'tablet', 'laptop']);
    expect(listed[0]).toEqual({
      id: phone.id,
      userId: 'ann',
      createdAt: phone.createdAt,
      lastAccess: clock.wall(),
      expiresAt: clock.wall() + 30 * 60 * SECOND,
      idle: 0,
      metadata: { label: 'phone' },
    });
    expect(listed.map(({ idle }) => idle)).toEqual([0, 61 * SECOND, 62 * SECOND]);
    expect(listed.map(({ id }) => id)).toEqual([phone.id, tablet.id, laptop.id]);
  });

  it('shows neither tokens nor data', async () => {
    const { registry, phone } = await threeOfAnn();
    const text = JSON.stringify(await registry.getUserSessions('ann'));
    expect(text).not.toContain(phone.token);
    expect(text).not.toContain('hunter2');
  });

  it('leaves out expired sessions and those of others; an immortal one has expiresAt null', async () => {
    const { registry, sessions, clock } = await threeOfAnn();
    await sessions.create({}, { userId: 'ann!' });
    const immortal = await sessions.create({}, { userId: 'ann', idleTimeout: 0, absoluteTimeout: 0 });
    clock.advance(30 * 60 * SECOND);
    const listed = await registry.getUserSessions('ann');
    expect(listed).toMatchObject([{ id: immortal.id, expiresAt: null }]);
    expect(await registry.getUserSessions('nobody')).toEqual([]);
  });

  it.each([undefined, null, 5, '', 'x'.repeat(256), '\ud800'])('refuses the userId %j', async (userId) => {
    const { registry } = openCore();
    const refused = expect.objectContaining({ code: 'SESSION_ARGUMENT', argument: 'userId' });
    await expect(registry.getUserSessions(userId as string)).rejects.toEqual(refused);
    await expect(registry.killUser(userId as string)).rejects.toEqual(refused);
  });

  it('refuses, naming the store, where the store keeps no index of users', async () => {
    class BareStore extends MemorySessionStore {
      override readonly capabilities = { versions: true, index: false, exclusive: true } as never;
    }
    const { registry } = openCore({}, { store: new BareStore() });
    await expect(registry.getUserSessions('ann')).rejects.toThrow(/BareStore keeps no index.*Use Redis/);
    await expect(registry.killUser('ann')).rejects.toMatchObject({ argument: 'store' });
  });
});

describe('SessionRegistry.kill', () => {
  it('ends the session, for the near cache too, and is true once', async () => {
    const { registry, sessions, phone, laptop, said } = await threeOfAnn();
    expect(await sessions.get(phone.token)).not.toBeNull();
    expect(await registry.kill(phone.id)).toBe(true);
    expect(await sessions.get(phone.token)).toBeNull();
    expect(await sessions.get(laptop.token)).not.toBeNull();
    expect(await registry.kill(phone.id)).toBe(false);
    expect(said('destroyed')).toMatchObject([{ id: phone.id, reason: 'killed' }]);
  });

  it('is false for an unknown or malformed id, and asks the store only about what can be one', async () => {
    const { registry, store, phone } = await threeOfAnn();
    const destroy = vi.spyOn(store, 'destroy');
    for (const id of ['', 'x', phone.token, `${phone.id}A`, '_'.repeat(23), '\0', 'A'.repeat(1e6)])
      expect(await registry.kill(id)).toBe(false);
    expect(destroy).not.toHaveBeenCalled();
    expect(await registry.kill('A'.repeat(23))).toBe(false);
    expect(destroy).toHaveBeenCalledTimes(1);
  });

  it('refuses what is no string', async () => {
    const { registry } = openCore();
    for (const id of [undefined, null, 5, ['A'.repeat(23)]])
      await expect(registry.kill(id as never)).rejects.toMatchObject({ argument: 'id' });
  });
});

describe('SessionRegistry.killUser', () => {
  it('ends all sessions of the user and of nobody else, and tells how many', async () => {
    const { registry, sessions, phone, said } = await threeOfAnn();
    const bob = await sessions.create({}, { userId: 'bob' });
    expect(await registry.killUser('ann')).toBe(3);
    expect(await registry.getUserSessions('ann')).toEqual([]);
    expect(await sessions.get(phone.token)).toBeNull();
    expect(await sessions.get(bob.token)).not.toBeNull();
    expect(await registry.killUser('ann')).toBe(0);
    expect(said('destroyed')).toHaveLength(3);
    expect(said('destroyed').every(({ reason, userId }) => reason === 'killed' && userId === 'ann')).toBe(
      true,
    );
  });

  it('spares the sessions named by except: one id or several', async () => {
    const { registry, sessions, phone, laptop, tablet } = await threeOfAnn();
    expect(await registry.killUser('ann', { except: [phone.id, laptop.id, 'unknown'] })).toBe(1);
    expect(await sessions.get(tablet.token)).toBeNull();
    expect(await registry.killUser('ann', { except: phone.id })).toBe(1);
    expect((await registry.getUserSessions('ann')).map(({ id }) => id)).toEqual([phone.id]);
  });

  it('also ends a session that is regenerated while it runs: a new id is no way out', async () => {
    const { registry, sessions, store, phone } = await threeOfAnn();
    const list = store.userSessions.bind(store);
    vi.spyOn(store, 'userSessions').mockImplementationOnce(async (userId) => {
      const listed = await list(userId);
      await expect(phone.regenerate()).rejects.toMatchObject({ code: 'SESSION_GONE' });
      return listed;
    });
    expect(await registry.killUser('ann')).toBe(3);
    expect(await sessions.get(phone.token)).toBeNull();
    expect(await registry.getUserSessions('ann')).toEqual([]);
  });

  it('gives up with an error where a store cannot keep sessions from getting new ids all the time', async () => {
    const { registry, sessions, store } = await threeOfAnn();
    vi.spyOn(store, 'fence').mockImplementation(async () => ({
      spared: async () => new Set(),
      release: async () => undefined,
    }));
    const list = store.userSessions.bind(store);
    let last = await sessions.create({}, { userId: 'ann' });
    vi.spyOn(store, 'userSessions').mockImplementation(async (userId) => {
      const listed = await list(userId);
      last = await last.regenerate();
      return listed;
    });
    await expect(registry.killUser('ann')).rejects.toMatchObject({
      code: 'SESSION_STORE_UNAVAILABLE',
      outcomeUnknown: true,
    });
    expect(await sessions.get(last.token)).not.toBeNull();
  });

  it('spares a session under whatever id it has by then', async () => {
    const { registry, sessions, store, phone } = await threeOfAnn();
    const list = store.userSessions.bind(store);
    vi.spyOn(store, 'userSessions').mockImplementationOnce(async (userId) => {
      await phone.regenerate();
      return list(userId);
    });
    expect(await registry.killUser('ann', { except: phone.id })).toBe(2);
    expect((await sessions.get(phone.token))?.id).toBe(phone.id);
    // And it may be regenerated, and so may what comes after.
    await phone.regenerate();
    await (await sessions.create({}, { userId: 'ann' })).regenerate();
    expect(await registry.countForUser('ann')).toBe(2);
  });

  it.each([undefined, null, 7, ['a', undefined], { id: 'a' }])(
    'refuses except: %j, and ends nothing',
    async (except) => {
      const { registry } = await threeOfAnn();
      await expect(registry.killUser('ann', { except: except as never })).rejects.toMatchObject({
        code: 'SESSION_ARGUMENT',
        message: expect.stringContaining('options.except') as string,
      });
      expect(await registry.countForUser('ann')).toBe(3);
    },
  );

  it('leaves sessions alone that were created after it began', async () => {
    const { registry, sessions, store, clock } = await threeOfAnn();
    const list = store.userSessions.bind(store);
    let later: string | undefined;
    vi.spyOn(store, 'userSessions').mockImplementation(async (userId) => {
      const listed = await list(userId);
      clock.advance(1);
      later ??= (await sessions.create({}, { userId: 'ann' })).token;
      return listed;
    });
    expect(await registry.killUser('ann')).toBe(3);
    expect(await sessions.get(later)).not.toBeNull();
  });

  it("ends sessions whose time of creation lies ahead of the store's clock, which may have been set back", async () => {
    const { registry, sessions, clock } = await threeOfAnn();
    const { token } = await sessions.create({}, { userId: 'ann' });
    clock.advance(-5_000);
    expect(await registry.killUser('ann')).toBe(4);
    expect(await sessions.get(token)).toBeNull();
  });

  it('refuses an option it does not know, instead of killing what was to be spared', async () => {
    const { registry, phone } = await threeOfAnn();
    const misspelt = { exept: phone.id } as object;
    await expect(registry.killUser('ann', misspelt)).rejects.toThrow(/exept.*Known: except/);
    expect(await registry.getUserSessions('ann')).toHaveLength(3);
  });
});

describe('SessionRegistry.killUser() where replicas do not confirm', () => {
  /** Ends sessions, says that no replica has it, and lets one be made in between, as a regeneration would. */
  class Unconfirmed extends MemorySessionStore {
    meanwhile: (() => Promise<unknown>) | undefined;
    override async destroyMany(ids: readonly string[]): Promise<readonly string[]> {
      const ended = await super.destroyMany(ids);
      await this.meanwhile?.();
      this.meanwhile = undefined;
      throw new SessionNotReplicatedError(ended, 0, 1, 300);
    }
  }

  it('ends those too that came under a new id meanwhile, and rejects once, naming them all', async () => {
    const clock = new ManualClock();
    const store = new Unconfirmed({ clock });
    const { sessions, registry, said } = openCore({}, { clock, store });
    const ids = [
      (await sessions.create({}, { userId: 'ada' })).id,
      (await sessions.create({}, { userId: 'ada' })).id,
    ];
    store.meanwhile = async () => ids.push((await sessions.create({}, { userId: 'ada' })).id);
    const error: unknown = await registry.killUser('ada').catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(SessionNotReplicatedError);
    expect((error as SessionNotReplicatedError).ended.toSorted()).toEqual(ids.toSorted());
    expect(await registry.getUserSessions('ada')).toEqual([]);
    expect(said('destroyed')).toHaveLength(3);
  });
});

describe('SessionRegistry.getUserSessions in parts', () => {
  it('gives each session once, those of one millisecond too', async () => {
    const { registry, sessions } = openCore();
    const made = [];
    for (let i = 0; i < 7; i++) made.push(await sessions.create({}, { userId: 'ann' }));
    for (let limit = 1; limit <= 8; limit++) {
      const found: string[] = [];
      for (let cursor: string | null = null; ;) {
        const part: SessionInfo[] = await registry.getUserSessions('ann', { limit, cursor });
        found.push(...part.map(({ id }) => id));
        if (part.length < limit) break;
        cursor = registry.cursorAfter(part.at(-1)!);
      }
      expect(found.sort(), `parts of ${limit}`).toEqual(made.map(({ id }) => id).sort());
    }
  });
});

describe('SessionRegistry.get', () => {
  it('with touch, sooner than a touch is due, leaves the times alone and tells how long it was idle', async () => {
    const { registry, clock, phone } = await threeOfAnn();
    clock.advance(20 * SECOND);
    const before = await registry.get(phone.id);
    expect(before).toMatchObject({ idle: 23 * SECOND });
    expect(await registry.get(phone.id, { touch: true })).toEqual(before);
    clock.advance(60 * SECOND);
    expect(await registry.get(phone.id, { touch: true })).toMatchObject({
      lastAccess: clock.wall(),
      idle: 0,
    });
  });
});

describe('SessionRegistry.kill of a user’s session', () => {
  it('refuses a userId that is there but undefined, instead of ending whoever’s session it is', async () => {
    const { registry, sessions, phone } = await threeOfAnn();
    const request: { user?: { id: string } } = {};
    await expect(registry.kill(phone.id, { userId: request.user?.id } as object)).rejects.toMatchObject({
      argument: expect.stringMatching(/userId$/),
    });
    expect(await sessions.get(phone.token)).not.toBeNull();
  });
});

describe('SessionRegistry.users', () => {
  it('misses nobody who is active while it runs, however many users there are', async () => {
    const { registry, sessions, clock } = openCore();
    const first = await sessions.create({}, { userId: 'first' }); // in the last part
    for (let i = 0; i < 600; i++) {
      clock.advance(1);
      await sessions.create({}, { userId: `user ${i}` });
    }
    clock.advance(60 * SECOND);
    const seen: string[] = [];
    for await (const user of registry.users()) {
      if (seen.length === 0) await first.touch(); // and now in the first one
      seen.push(user);
    }
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen).toHaveLength(601);
    expect(seen).toContain('first');
  });

  it('with activeWithin gives nobody who was active before it, in a second pass neither', async () => {
    const { registry, sessions, clock } = openCore();
    await sessions.create({}, { userId: 'early' });
    clock.advance(1.5 * SECOND);
    await sessions.create({}, { userId: 'late' });
    const seen: string[] = [];
    for await (const user of registry.users({ activeWithin: '1s' })) seen.push(user);
    expect(seen).toEqual(['late']);
  });

  it('goes on behind users whose ids are as long, and take as much room in a cursor, as may be', async () => {
    const { registry, sessions, clock } = openCore();
    const users = ['last', '\u0001', '"', '漢', '\\'].map((letter) =>
      letter.repeat(letter === 'last' ? 1 : 255),
    );
    for (const userId of users) {
      clock.advance(1);
      await sessions.create({}, { userId });
    }
    const seen: string[] = [];
    let cursor: string | null = null;
    do {
      const part: UserPage = await registry.getAllUsers({ limit: 1, cursor });
      seen.push(...part.users);
      ({ cursor } = part);
    } while (cursor !== null);
    expect(seen.sort()).toEqual(users.sort());
  });
});

describe('SessionRegistry.killAll', () => {
  it('onProgress that rejects when it is too late to tell: all have ended, and no rejection is left unhandled', async () => {
    const { registry, sessions } = openCore();
    await sessions.create({}, { userId: 'ann' });
    const telling = deferred<void>();
    const unhandled = vi.fn();
    process.on('unhandledRejection', unhandled);
    onTestFinished(() => void process.off('unhandledRejection', unhandled));
    expect(await registry.killAll({ onProgress: (() => telling.promise) as never })).toBe(1);
    telling.reject(new Error('the socket is closed'));
    await settled();
    expect(unhandled).not.toHaveBeenCalled();
    expect(await registry.count()).toBe(0);
  });
});

describe('SessionRegistry.updateUser', () => {
  it('also changes a session that is regenerated while it runs: a new id is no way out', async () => {
    const { registry, sessions, store, phone } = await threeOfAnn();
    const list = store.userSessions.bind(store);
    let escaped: string | undefined;
    vi.spyOn(store, 'userSessions').mockImplementation(async (userId) => {
      const listed = await list(userId);
      escaped ??= (await phone.regenerate()).token;
      return listed;
    });
    expect(await registry.updateUser('ann', { role: 'none' })).toBe(3);
    expect((await sessions.get(escaped, { fresh: true }))!.data).toEqual({ secret: 'hunter2', role: 'none' });
  });

  it('is seen by the next get() of this process, without any message from the store', async () => {
    const { registry, sessions, phone } = await threeOfAnn();
    const held = (await sessions.get(phone.token))!;
    expect(held.source).toBe('cache');
    for (const role of ['a', 'b']) {
      expect(await registry.updateUser('ann', { role })).toBe(3);
      expect((await sessions.get(phone.token))!.data).toEqual({ secret: 'hunter2', role });
    }
    expect(held.data).toEqual({ secret: 'hunter2' });
  });

  it('changes every session once, although its change takes time and others write meanwhile', async () => {
    const { registry, sessions, laptop } = await threeOfAnn();
    let calls = 0;
    const changed = registry.updateUser<{ n?: number }>('ann', async (data) => {
      if (calls++ === 0) await sessions.update(laptop.token, { other: 1 }).catch(() => undefined);
      data.n = (data.n ?? 0) + 1;
    });
    expect(await changed).toBe(3);
    for (const { id } of await registry.getUserSessions('ann')) expect(await registry.exists(id)).toBe(true);
    expect((await sessions.get(laptop.token, { fresh: true }))!.data).toMatchObject({ n: 1 });
  });

  it('refuses what is no change even where the user has no session', async () => {
    const { registry } = openCore();
    await expect(registry.updateUser('nobody', 5 as never)).rejects.toMatchObject({ argument: 'change' });
  });
});

describe('SessionRegistry.killAll', () => {
  it('empties the near cache of the process, and tells of each session', async () => {
    const { registry, sessions, cache, said, phone } = await threeOfAnn();
    expect(await sessions.get(phone.token)).not.toBeNull();
    expect(cache.size).toBeGreaterThan(0);
    const progress: number[] = [];
    expect(await registry.killAll({ onProgress: (ended) => progress.push(ended) })).toBe(3);
    expect(cache.size).toBe(0);
    expect(progress).toEqual([3]);
    expect(said('destroyed').map(({ userId, reason }) => `${userId} ${reason}`)).toEqual(
      Array(3).fill('ann killed'),
    );
  });
});

describe('an outage in which stale copies are served', () => {
  const cut = ({ source, clock }: Awaited<ReturnType<typeof threeOfAnn>>) => source.lose(clock.monotonic());

  it('killAll() whose reply was lost leaves none: each may have ended', async () => {
    const core = await threeOfAnn();
    const { registry, cache, store, phone } = core;
    cache.serveStale(60 * SECOND);
    const clear = store.clear.bind(store);
    vi.spyOn(store, 'clear').mockImplementation(async () => {
      cut(core);
      await clear();
      throw new SessionStoreUnavailableError('end all sessions', 'no answer', true);
    });
    await expect(registry.killAll()).rejects.toMatchObject({ outcomeUnknown: true });
    expect(await cache.stale(phone.token)).toBeUndefined();
  });

  it('killUser() whose reply was lost leaves none of the user', async () => {
    const core = await threeOfAnn();
    const { registry, cache, store, phone, sessions } = core;
    const other = await sessions.create({}, { userId: 'bob' });
    cache.serveStale(60 * SECOND);
    const end = store.destroyMany.bind(store);
    vi.spyOn(store, 'destroyMany').mockImplementation(async (...args) => {
      cut(core);
      await end(...args);
      throw new SessionStoreUnavailableError('end sessions', 'no answer', true);
    });
    await expect(registry.killUser('ann')).rejects.toMatchObject({ outcomeUnknown: true });
    expect(await cache.stale(phone.token)).toBeUndefined();
    expect(await cache.stale(other.token)).toMatchObject({ id: other.id });
  });

  it('get() with touch that finds the session ended drops the copy', async () => {
    const core = await threeOfAnn();
    const { registry, cache, store, phone, clock } = core;
    cache.serveStale(60 * SECOND);
    clock.advance(90 * SECOND); // a touch is due
    cut(core);
    expect(await cache.stale(phone.token)).toBeDefined();
    const touch = store.touch.bind(store);
    vi.spyOn(store, 'touch').mockImplementation(async (...args) => {
      await store.destroy(phone.id); // elsewhere, and nobody is told
      return touch(...args);
    });
    expect(await registry.get(phone.id, { touch: true })).toBeNull();
    expect(await cache.stale(phone.token)).toBeUndefined();
  });
});

describe('what signing in again leaves behind', () => {
  it('create() and login() prove who the user is, nobody’s session proves nothing', async () => {
    const { sessions, clock, registry } = openCore();
    const visitor = await sessions.create();
    expect(visitor.lastAuthenticatedAt).toBeNull();
    clock.advance(60 * SECOND);
    const session = await sessions.login(visitor, 'ann');
    expect(session.lastAuthenticatedAt).toBe(clock.wall());
    clock.advance(60 * SECOND);
    await sessions.login(session, 'ann');
    expect(session.lastAuthenticatedAt).toBe(clock.wall());
    expect((await registry.get(session.id))!.metadata).toMatchObject({ authenticatedAt: clock.wall() });
    await session.regenerate({ userId: null });
    expect(session.lastAuthenticatedAt).toBeNull();
  });

  it('reauthenticated() of nobody’s session rejects, and changes nothing', async () => {
    const { sessions } = openCore();
    const visitor = await sessions.create();
    const { token } = visitor;
    const rejected = visitor.reauthenticated().catch((error: unknown) => error);
    expect(await rejected).toMatchObject({ code: 'SESSION_ARGUMENT', argument: 'reauthenticated()' });
    expect(visitor.token).toBe(token);
  });

  it('regenerate() without userId keeps it, with new timeouts and metadata too; reauthenticated() sets it', async () => {
    const { sessions, clock } = openCore();
    const session = await sessions.create({ cart: 1 }, { userId: 'ann', metadata: { label: 'phone' } });
    const at = clock.wall();
    for (const options of [
      {},
      { idleTimeout: '2h', absoluteTimeout: '30d' },
      { metadata: { label: 'laptop' } },
      { keepData: false },
    ] as const) {
      clock.advance(60 * SECOND);
      await session.regenerate(options);
      expect(session.lastAuthenticatedAt).toBe(at);
      expect((await sessions.get(session.token, { fresh: true }))!.lastAuthenticatedAt).toBe(at);
    }
    await session.set('cart', 2);
    clock.advance(60 * SECOND);
    const { token } = session;
    expect(await session.reauthenticated()).toBe(session);
    expect(session.token).not.toBe(token);
    expect(await sessions.get(token)).toBeNull();
    expect(session).toMatchObject({ userId: 'ann', data: { cart: 2 }, metadata: { label: 'laptop' } });
    expect(session.lastAuthenticatedAt).toBe(clock.wall());
    await session.regenerate({ userId: 'bob' });
    expect(session.lastAuthenticatedAt).toBe(clock.wall());
    expect(session.metadata).not.toHaveProperty('authenticatedAt');
  });

  it('nobody can claim it in metadata', async () => {
    const { sessions, clock } = openCore();
    const claimed = { authenticatedAt: clock.wall() + 5, label: 'x' };
    const session = await sessions.create({}, { userId: 'ann', metadata: claimed });
    expect(session.metadata).toEqual({ label: 'x' });
    clock.advance(60 * SECOND);
    await session.regenerate({ metadata: { authenticatedAt: clock.wall(), label: 'y' } });
    expect(session.lastAuthenticatedAt).toBe(session.createdAt);
  });
});

// Tokens replaced by age (`rotateEvery`), and what the old one may still do (`rotateGrace`), in one process. See also
// test/integration/rotation.integration-spec.ts and test/e2e/rotation.e2e-spec.ts.
import { describe, expect, it, vi } from 'vitest';
import type { ActiveSession } from '../../../lib/core/active-session.js';
import { checkMetadata } from '../../../lib/core/session-metadata.js';
import type { SessionService } from '../../../lib/core/session.service.js';
import type { SessionMetadata } from '../../../lib/core/session-record.interface.js';
import {
  SessionGoneError,
  SessionRotatedError,
  SessionStoreUnavailableError,
} from '../../../lib/errors/state.errors.js';
import { type Data, deferred, MINUTE, mustLoad, openCore, SECOND, settled } from '../harness.js';

const OPTIONS = { rotateEvery: '15m', rotateGrace: '10s' } as const;

/** A session whose token was replaced a moment ago. */
async function openRotated({ rotateGrace = '10s', userId = 'ann' } = {}) {
  const core = openCore({ ...OPTIONS, rotateGrace, touchInterval: '2s' });
  const session = await core.sessions.create({ n: 1 }, { userId, metadata: { label: 'Laptop' } });
  const old = { token: session.token, id: session.id };
  const { createdAt, expiresAt } = session;
  core.clock.advance(16 * MINUTE);
  await session.rotate();
  return { ...core, session, old, createdAt, expiresAt };
}

type Sessions = SessionService<Data>;
type Held = ActiveSession<Data>;

/** Every write there is by token. */
const WRITES_BY_TOKEN: [name: string, write: (sessions: Sessions, token: string) => Promise<unknown>][] = [
  ['update() with a patch', (sessions, token) => sessions.update(token, { n: 2 })],
  ['update() with a function', (sessions, token) => sessions.update(token, (data) => void (data.n = 2))],
  ['update() with keepExpiry', (sessions, token) => sessions.update(token, { n: 2 }, { keepExpiry: true })],
  ['replace()', (sessions, token) => sessions.replace(token, { n: 2 })],
  ['regenerate()', (sessions, token) => sessions.regenerate(token)],
  ['regenerate() to another user', (sessions, token) => sessions.regenerate(token, { userId: 'bob' })],
];

/** Every write there is of a session that somebody holds. */
const WRITES_OF_HELD: [name: string, write: (session: Held, sessions: Sessions) => Promise<unknown>][] = [
  ['set()', (session) => session.set('n', 2)],
  ['delete()', (session) => session.delete('n')],
  ['update()', (session) => session.update((data) => void (data.n = 2))],
  ['clear()', (session) => session.clear()],
  [
    'save()',
    (session) => {
      session.data.n = 2;
      return session.save();
    },
  ],
  ['regenerate()', (session) => session.regenerate()],
  ['rotate()', (session) => session.rotate()],
  ['login()', (session, sessions) => sessions.login(session, 'bob')],
];

describe('rotate', () => {
  it('gives another token and id; user, data, metadata and time of creation stay, as does the absolute deadline', async () => {
    const core = openCore({ ...OPTIONS, idleTimeout: 0 });
    const session = await core.sessions.create({ n: 1 }, { userId: 'ann', metadata: { label: 'Laptop' } });
    const { token, id, createdAt, expiresAt } = session;
    core.clock.advance(16 * MINUTE);
    await session.rotate();
    expect([session.token === token, session.id === id]).toEqual([false, false]);
    expect(session).toMatchObject({ createdAt, expiresAt, userId: 'ann', data: { n: 1 } });
    const stored = await mustLoad(core.sessions, session.token);
    expect(stored).toMatchObject({ id: session.id, createdAt, expiresAt, userId: 'ann', data: { n: 1 } });
    expect(stored.metadata).toEqual({ label: 'Laptop', rotatedAt: core.clock.wall() });
    expect(core.said('regenerated')).toEqual([{ id: session.id, previousId: id, userId: 'ann' }]);
  });

  it('saves unsaved changes with it, laid over what others wrote', async () => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ n: 1, other: 1 });
    session.data.n = 2;
    await core.sessions.update(session.token, { other: 2 });
    await session.rotate();
    expect((await mustLoad(core.sessions, session.token)).data).toEqual({ n: 2, other: 2 });
  });

  it('a field that was written at once, after others wrote theirs, is no unsaved change that a failed rotation loses', async () => {
    const core = openCore(OPTIONS);
    const { token } = await core.sessions.create({ n: 1 });
    const held = await mustLoad(core.sessions, token);
    expect(held.data).toEqual({ n: 1 });
    await core.sessions.update(token, { theirs: 1 });
    await held.set('ours', 1);
    expect(held.data).toEqual({ n: 1, ours: 1, theirs: 1 });
    expect(held.hasChanges).toBe(false);
  });

  it('of a session that has ended resurrects nothing', async () => {
    const { sessions, store } = openCore(OPTIONS);
    const session = await sessions.create({ n: 1 });
    await sessions.destroy(session.token);
    await expect(session.rotate()).rejects.toBeInstanceOf(SessionGoneError);
    expect(await store.length()).toBe(0);
  });

  it('of one session twice at once moves it once; the other is told that it was rotated', async () => {
    const core = openCore(OPTIONS);
    const { token } = await core.sessions.create({ n: 1 });
    const held = await Promise.all([mustLoad(core.sessions, token), mustLoad(core.sessions, token)]);
    const results = await Promise.allSettled(held.map((session) => session.rotate()));
    expect(results).toMatchObject([{ status: 'fulfilled' }, { reason: { code: 'SESSION_ROTATED' } }]);
    expect(await core.store.length()).toBe(1);
    expect(core.said('regenerated')).toHaveLength(1);
  });
});

describe('rotationIsDue', () => {
  it('is true once the token has served for rotateEvery, counted from the last rotation', async () => {
    const { sessions, clock } = openCore(OPTIONS);
    const session = await sessions.create({});
    clock.advance(15 * MINUTE - 1);
    expect(sessions.rotationIsDue(session)).toBe(false);
    clock.advance(1);
    expect(sessions.rotationIsDue(session)).toBe(true);
    await session.rotate();
    expect(sessions.rotationIsDue(session)).toBe(false);
    clock.advance(15 * MINUTE - 1);
    expect(sessions.rotationIsDue(await mustLoad(sessions, session.token))).toBe(false);
    clock.advance(1);
    expect(sessions.rotationIsDue(await mustLoad(sessions, session.token))).toBe(true);
  });

  it('is never true without rotateEvery', async () => {
    const { sessions, clock } = openCore({ absoluteTimeout: 0, idleTimeout: 0 });
    const session = await sessions.create({});
    clock.advance(1_000 * 24 * 60 * MINUTE);
    expect(sessions.rotationIsDue(session)).toBe(false);
  });

  it('is counted from regenerate() too: that token is as new as one that was rotated', async () => {
    const { sessions, clock } = openCore(OPTIONS);
    const session = await sessions.create({}, { userId: 'ann' });
    clock.advance(16 * MINUTE);
    await session.regenerate();
    expect(sessions.rotationIsDue(session)).toBe(false);
    clock.advance(15 * MINUTE);
    expect(sessions.rotationIsDue(session)).toBe(true);
  });
});

describe('the old token within rotateGrace', () => {
  it('reads the session as it is by then, later changes too', async () => {
    const { sessions, session, old } = await openRotated();
    expect(await mustLoad(sessions, old.token)).toMatchObject({
      id: session.id,
      userId: 'ann',
      data: { n: 1 },
      source: 'store',
    });
    await sessions.update(session.token, { n: 2 });
    expect((await mustLoad(sessions, old.token)).data).toEqual({ n: 2 });
    const held = await mustLoad(sessions, old.token);
    await sessions.update(session.token, { n: 3 });
    await held.reload();
    expect(held.data).toEqual({ n: 3 });
    expect((await sessions.get(old.token, { fresh: true }))?.data).toEqual({ n: 3 });
  });

  it('reads until rotateGrace has passed and not a moment longer, however often it is used', async () => {
    const { sessions, session, old, clock } = await openRotated();
    for (let passed = 0; passed < 10 * SECOND; passed += SECOND) {
      expect(await sessions.get(old.token)).not.toBeNull();
      await sessions.touch(old.token);
      clock.advance(passed === 9 * SECOND ? SECOND - 1 : SECOND);
    }
    expect(await sessions.get(old.token)).not.toBeNull();
    clock.advance(1);
    expect(await sessions.get(old.token)).toBeNull();
    expect(await sessions.get(old.token, { fresh: true })).toBeNull();
    expect(await sessions.touch(old.token)).toBeNull();
    // It is known as rotated for 30 s, and as nothing after that.
    await expect(sessions.update(old.token, { n: 2 })).rejects.toBeInstanceOf(SessionRotatedError);
    clock.advance(20 * SECOND);
    await expect(sessions.update(old.token, { n: 2 })).rejects.toBeInstanceOf(SessionGoneError);
    expect(await sessions.destroy(old.token)).toBe(false);
    expect((await mustLoad(sessions, session.token)).data).toEqual({ n: 1 });
  });

  it.each(WRITES_BY_TOKEN)('%s by it is refused and changes nothing', async (_, write) => {
    const { sessions, session, old, store } = await openRotated();
    const before = await store.get(session.id);
    const refused = await write(sessions, old.token).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(SessionRotatedError);
    expect(refused).toMatchObject({ code: 'SESSION_ROTATED', id: session.id });
    expect(String(refused)).not.toContain(old.token);
    expect(await store.get(session.id)).toEqual(before);
    expect(await store.length()).toBe(1);
    expect(await mustLoad(sessions, session.token)).toMatchObject({ userId: 'ann', data: { n: 1 } });
  });

  it.each(WRITES_OF_HELD)('%s of a session that was read by it is refused', async (_, write) => {
    const { sessions, session, old, store } = await openRotated();
    const before = await store.get(session.id);
    const held = await mustLoad(sessions, old.token);
    await expect(write(held, sessions)).rejects.toBeInstanceOf(SessionRotatedError);
    expect(await store.get(session.id)).toEqual(before);
    expect(await store.length()).toBe(1);
    expect(held.valid).toBe(true);
  });

  it.each(WRITES_OF_HELD)(
    '%s of a session that was read before the rotation is refused',
    async (_, write) => {
      const core = openCore(OPTIONS);
      const session = await core.sessions.create({ n: 1 }, { userId: 'ann' });
      const held = await mustLoad(core.sessions, session.token);
      await session.rotate();
      const before = await core.store.get(session.id);
      await expect(write(held, core.sessions)).rejects.toBeInstanceOf(SessionRotatedError);
      expect(await core.store.get(session.id)).toEqual(before);
      expect(await core.store.length()).toBe(1);
    },
  );

  it('a write of a session that was read before, after a touch of it, is refused as well and does not count as ended', async () => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ n: 1 });
    const held = await mustLoad(core.sessions, session.token);
    core.clock.advance(2 * MINUTE);
    await session.rotate();
    await held.touch();
    expect(held.valid).toBe(true);
    await expect(held.set('n', 2)).rejects.toBeInstanceOf(SessionRotatedError);
  });

  it('touch() by it prolongs nothing, though a touch is due', async () => {
    const { sessions, session, old, store, clock } = await openRotated();
    const before = (await store.get(session.id))?.record;
    const held = await mustLoad(sessions, old.token);
    const touch = vi.spyOn(store, 'touch');
    clock.advance(5 * SECOND);
    expect((await sessions.touch(old.token))?.lastAccess).toBe(before?.lastAccess);
    expect(await held.touch()).toBe(true);
    expect(touch).not.toHaveBeenCalled();
    expect((await store.get(session.id))?.record).toEqual(before);
    await sessions.touch(session.token);
    expect(touch).toHaveBeenCalledOnce();
  });

  it('destroy() by it ends the session', async () => {
    const { sessions, session, old, store, said } = await openRotated();
    expect(await sessions.destroy(old.token)).toBe(true);
    expect(await sessions.get(session.token)).toBeNull();
    expect(await sessions.get(old.token)).toBeNull();
    expect(await store.length()).toBe(0);
    expect(said('destroyed')).toEqual([{ id: session.id, userId: 'ann', reason: 'destroyed' }]);
    expect(await sessions.destroy(old.token)).toBe(false);
  });

  it('destroy() of a session that was read by it, or before the rotation, ends the session', async () => {
    for (const when of ['before', 'after']) {
      const core = openCore(OPTIONS);
      const session = await core.sessions.create({ n: 1 });
      const { token } = session;
      const early = await mustLoad(core.sessions, token);
      await session.rotate();
      const held = when === 'before' ? early : await mustLoad(core.sessions, token);
      await held.destroy();
      expect(held.destroyedHere, when).toBe(true);
      expect(await core.sessions.get(session.token), when).toBeNull();
      expect(await core.store.length(), when).toBe(0);
    }
  });

  it('is refused at once when the session is killed, by its id or with all of its user’s', async () => {
    for (const kill of ['id', 'user']) {
      const { sessions, registry, session, old } = await openRotated();
      await sessions.get(old.token);
      await (kill === 'id' ? registry.kill(session.id) : registry.killUser('ann'));
      expect(await sessions.get(old.token), kill).toBeNull();
    }
  });

  it('a read of it that began before a kill answers nobody who asks after the kill', async () => {
    const { sessions, registry, session, old, store } = await openRotated();
    const answered = deferred<void>();
    const get = store.get.bind(store);
    vi.spyOn(store, 'get').mockImplementationOnce(async (id) => {
      const loaded = await get(id);
      await answered.promise;
      return loaded;
    });
    const early = sessions.get(old.token);
    await settled();
    expect(await registry.kill(session.id)).toBe(true);
    const late = sessions.get(old.token);
    await settled();
    answered.resolve();
    await early;
    expect(await late).toBeNull();
  });

  it('leads nowhere once the new token is replaced by regenerate() or login()', async () => {
    for (const way of ['regenerate', 'login']) {
      const { sessions, session, old } = await openRotated();
      await (way === 'regenerate' ? session.regenerate() : sessions.login(session, 'bob'));
      expect(await sessions.get(old.token), way).toBeNull();
      await expect(sessions.update(old.token, { n: 2 })).rejects.toBeInstanceOf(SessionGoneError);
    }
  });

  it('a store that is down is told as such, not as a session that has ended or was rotated', async () => {
    const { sessions, old, store } = await openRotated();
    const held = await mustLoad(sessions, old.token);
    const down = () => Promise.reject(new SessionStoreUnavailableError('get a session', 'down', false));
    vi.spyOn(store, 'get').mockImplementation(down);
    vi.spyOn(store, 'destroy').mockImplementation(down);
    await expect(sessions.get(old.token)).rejects.toBeInstanceOf(SessionStoreUnavailableError);
    await expect(sessions.update(old.token, { n: 2 })).rejects.toBeInstanceOf(SessionStoreUnavailableError);
    await expect(sessions.destroy(old.token)).rejects.toBeInstanceOf(SessionStoreUnavailableError);
    await expect(held.destroy()).rejects.toBeInstanceOf(SessionStoreUnavailableError);
    expect(held.destroyedHere).toBe(false);
  });
});

describe('the near cache and the old token', () => {
  it('holds no copy under it, however often and in parallel it is read', async () => {
    const { sessions, session, old, cache, store } = await openRotated();
    cache.clear();
    const get = vi.spyOn(store, 'get');
    for (let round = 0; round < 3; round++) {
      await Promise.all(Array.from({ length: 5 }, () => sessions.get(old.token)));
      await sessions.get(old.token, { fresh: true });
    }
    expect(get.mock.calls.length).toBeGreaterThanOrEqual(6);
    expect(cache.size).toBe(0);
    expect(cache.stats()).toMatchObject({ entries: 0, bytes: 0 });
    expect(sessions.getCached(old.token)).toBeNull();
    expect((await mustLoad(sessions, session.token)).source).toBe('store');
    expect((await mustLoad(sessions, session.token)).source).toBe('cache');
  });

  it('forgets the copy under it with the rotation', async () => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ n: 1 });
    const { token } = session;
    expect((await mustLoad(core.sessions, token)).source).toBe('cache');
    await session.rotate();
    expect(core.sessions.getCached(token)).toBeNull();
    expect((await mustLoad(core.sessions, token)).id).toBe(session.id);
  });

  it('remembers it as unknown only once it leads nowhere', async () => {
    const { sessions, old, clock, cache } = await openRotated();
    await sessions.get(old.token);
    await sessions.get(old.token);
    expect(cache.stats().unknownHits).toBe(0);
    clock.advance(10 * SECOND);
    await sessions.get(old.token);
    await sessions.get(old.token);
    expect(cache.stats().unknownHits).toBe(1);
  });

  it('a read of it that was under way during the rotation leaves no copy', async () => {
    const core = openCore(OPTIONS);
    const session = await core.sessions.create({ n: 1 });
    const { token } = session;
    core.cache.clear();
    const answered = deferred<void>();
    const get = core.store.get.bind(core.store);
    vi.spyOn(core.store, 'get').mockImplementationOnce(async (id) => {
      const loaded = await get(id);
      await answered.promise;
      return loaded;
    });
    const reading = core.sessions.get(token);
    await settled();
    await session.rotate();
    answered.resolve();
    await reading;
    expect(core.sessions.getCached(token)).toBeNull();
  });
});

describe('without rotateGrace', () => {
  it('the old token reads nothing from then on, and a write by it is a SessionRotatedError for 30 s', async () => {
    const { sessions, old, session, store, clock } = await openRotated({ rotateGrace: '0s' });
    expect(await sessions.get(old.token)).toBeNull();
    expect(await sessions.get(old.token, { fresh: true })).toBeNull();
    expect(await sessions.touch(old.token)).toBeNull();
    clock.advance(30 * SECOND - 1);
    for (const [, write] of WRITES_BY_TOKEN)
      await expect(write(sessions, old.token)).rejects.toBeInstanceOf(SessionRotatedError);
    clock.advance(1);
    for (const [, write] of WRITES_BY_TOKEN)
      await expect(write(sessions, old.token)).rejects.toBeInstanceOf(SessionGoneError);
    expect(await sessions.destroy(old.token)).toBe(false);
    expect(await store.length()).toBe(1);
    expect((await mustLoad(sessions, session.token)).data).toEqual({ n: 1 });
  });

  it('the old token signs out for 30 s, by token and by a session that was read before the rotation', async () => {
    const { sessions, old, session, store, clock, said } = await openRotated({ rotateGrace: '0s' });
    clock.advance(30 * SECOND - 1);
    expect(await sessions.destroy(old.token)).toBe(true);
    expect(await sessions.get(session.token)).toBeNull();
    expect(await store.length()).toBe(0);
    expect(said('destroyed')).toEqual([{ id: session.id, userId: 'ann', reason: 'destroyed' }]);

    const core = openCore({ rotateEvery: '15m' });
    const other = await core.sessions.create({ n: 1 });
    const held = await mustLoad(core.sessions, other.token);
    await other.rotate();
    await held.destroy();
    expect(held.destroyedHere).toBe(true);
    expect(await core.sessions.get(other.token)).toBeNull();
    expect(await core.store.length()).toBe(0);
  });

  it.each(WRITES_OF_HELD)(
    '%s of a session that was read before the rotation is a SessionRotatedError',
    async (_, write) => {
      const core = openCore({ rotateEvery: '15m' });
      const session = await core.sessions.create({ n: 1 });
      const held = await mustLoad(core.sessions, session.token);
      await session.rotate();
      const before = await core.store.get(session.id);
      await expect(write(held, core.sessions)).rejects.toBeInstanceOf(SessionRotatedError);
      expect(await core.store.get(session.id)).toEqual(before);
      expect(await core.store.length()).toBe(1);
    },
  );
});

describe('with rotateGrace, what is no rotation', () => {
  it.each<[string, (session: Held, sessions: Sessions) => Promise<unknown>]>([
    ['regenerate()', (session) => session.regenerate()],
    ['regenerate() by token', (session, sessions) => sessions.regenerate(session.token)],
    ['regenerate() to nobody', (session) => session.regenerate({ userId: null })],
    ['login()', (session, sessions) => sessions.login(session, 'bob')],
    ['login() of the same user', (session, sessions) => sessions.login(session, 'ann')],
  ])('%s leaves no alias: the old token is refused at once', async (_, replace) => {
    const { sessions } = openCore(OPTIONS);
    const session = await sessions.create({ n: 1 }, { userId: 'ann' });
    const { token } = session;
    await replace(session, sessions);
    expect(await sessions.get(token, { fresh: true })).toBeNull();
    await expect(sessions.update(token, { n: 2 })).rejects.toBeInstanceOf(SessionGoneError);
    expect(await sessions.destroy(token)).toBe(false);
  });
});

describe('metadata.rotatedAt', () => {
  it('is shown in the user’s list', async () => {
    const { registry, session, createdAt, clock } = await openRotated();
    expect(await registry.getUserSessions('ann')).toMatchObject([
      { id: session.id, createdAt, metadata: { label: 'Laptop', rotatedAt: clock.wall() } },
    ]);
  });

  it('is the module’s alone: an app that passes metadata on changes nothing by it', async () => {
    const { sessions, clock } = openCore(OPTIONS);
    const metadata: SessionMetadata = { label: 'Phone', rotatedAt: 1 };
    expect(checkMetadata(metadata)).toEqual({ label: 'Phone' });
    const { token } = await sessions.create({}, { metadata });
    const next = await sessions.regenerate(token, { metadata });
    expect(next.metadata).toEqual({ label: 'Phone', rotatedAt: clock.wall() });
  });
});

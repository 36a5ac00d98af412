import { format, inspect } from 'node:util';
import { describe, expect, it, vi } from 'vitest';
import { SessionGoneError } from '../../../lib/errors/state.errors.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { DAY, HOUR, MINUTE, mustLoad, openCore, SECOND, type Data } from '../harness.js';

/** With the near cache, without it, and with every copy void: what another reader sees must not depend on it. */
const CACHES = [
  ['with the near cache', {}],
  ['without near cache', false],
] as const;

describe('ActiveSession: the draft', () => {
  it.each(CACHES)('a mutation without save is seen by no other get(), %s', async (_, cache) => {
    const { sessions, source } = openCore({ cache });
    const created = await sessions.create({ cart: { items: ['a'] }, at: new Date(0) });
    const loaded = await mustLoad(sessions, created.token);
    for (const session of [created, loaded]) {
      (session.data.cart as { items: string[] }).items.push('mine');
      (session.data.at as Date).setFullYear(1999);
      session.data.extra = true;
      delete session.data.at;
    }
    const unchanged = { cart: { items: ['a'] }, at: new Date(0) };
    expect((await mustLoad(sessions, created.token)).data).toEqual(unchanged);
    source.epoch++; // from the store this time
    expect((await mustLoad(sessions, created.token)).data).toEqual(unchanged);
    expect(loaded.data.extra).toBe(true);
  });

  it.each(CACHES)('what was saved is not tied to the draft any more, %s', async (_, cache) => {
    const { sessions } = openCore({ cache });
    const session = await sessions.create({});
    const list = ['a'];
    session.data.list = list;
    await session.save();
    list.push('b');
    expect((await mustLoad(sessions, session.token)).data).toEqual({ list: ['a'] });
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({ list: ['a', 'b'] });
  });

  it('two reads of one session have drafts of their own', async () => {
    const { sessions } = openCore();
    const { token } = await sessions.create({ o: { n: 1 } });
    const [a, b] = [await mustLoad(sessions, token), await mustLoad(sessions, token)];
    expect(a.data).not.toBe(b.data);
    expect(a.data.o).not.toBe(b.data.o);
    expect(a.data).toBe(a.data);
  });

  it('get() reads the draft, own fields only', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ a: 1 });
    session.data.b = 2;
    expect([session.get('a'), session.get('b'), session.get('toString')]).toEqual([1, 2, undefined]);
  });
});

describe('ActiveSession.save', () => {
  it('two sessions of one token that save different fields at once: both are kept', async () => {
    for (const cache of [{}, false] as const) {
      const core = openCore({ cache });
      const other = openCore({}, { clock: core.clock, store: core.store });
      const { token } = await core.sessions.create({ common: 0, gone: 1 });
      const a = await mustLoad(core.sessions, token);
      const b = await mustLoad(core.sessions, token);
      const c = await mustLoad(other.sessions, token);
      a.data.a = 'A';
      b.data.b = { n: 1 };
      c.data.c = ['C'];
      delete c.data.gone;
      await Promise.all([a.save(), b.save(), c.save()]);
      core.source.epoch++;
      expect((await mustLoad(core.sessions, token)).data).toEqual({
        common: 0,
        a: 'A',
        b: { n: 1 },
        c: ['C'],
      });
    }
  });

  it('finds nested changes, changes of Map, Set and Date, and deleted fields', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({
      cart: { items: [{ n: 1 }] },
      map: new Map([['k', { n: 1 }]]),
      set: new Set([1]),
      at: new Date(0),
      gone: 1,
    });
    const draft = session.data as {
      cart: { items: { n: number }[] };
      map: Map<string, { n: number }>;
      set: Set<number>;
      at: Date;
      gone?: number;
    };
    draft.cart.items[0]!.n = 2;
    draft.map.get('k')!.n = 3;
    draft.set.add(4);
    draft.at.setTime(5);
    delete draft.gone;
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({
      cart: { items: [{ n: 2 }] },
      map: new Map([['k', { n: 3 }]]),
      set: new Set([1, 4]),
      at: new Date(5),
    });
  });

  it('writes nothing when nothing changed, or was changed back', async () => {
    const { sessions, store } = openCore();
    const session = await sessions.create({ a: { b: 1 } });
    const set = vi.spyOn(store, 'set');
    await session.save();
    void session.data;
    await session.save();
    session.data.a = { b: 1 };
    session.data.x = 1;
    delete session.data.x;
    await session.save();
    expect(set).not.toHaveBeenCalled();
  });

  it('sends only changed fields: those of others stay, in the draft too', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ mine: 1, theirs: 1, removed: 1 });
    session.data.mine = 2;
    await sessions.update(session.token, (data) => {
      data.theirs = 2;
      data.mine = 99;
      delete data.removed;
    });
    await session.save();
    const expected = { mine: 2, theirs: 2 };
    expect((await mustLoad(sessions, session.token)).data).toEqual(expected);
    expect(session.data).toEqual(expected);
  });

  it('keeps changes made to the draft while it was under way, for the next save()', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ a: 0, b: 0, gone: 0, back: 0 });
    session.data.a = 1;
    delete session.data.gone;
    delete session.data.back;
    const saving = session.save();
    session.data.a = 2;
    session.data.b = 2;
    session.data.back = 2;
    await saving;
    expect(session.data).toEqual({ a: 2, b: 2, back: 2 });
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({ a: 2, b: 2, back: 2 });
  });

  it('a field deleted from the draft while it is being saved is deleted by the next save()', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({});
    session.data.a = 1;
    const saving = session.save();
    delete session.data.a;
    await saving;
    expect(session.data).toEqual({});
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({});
  });

  it('after destroy() by anyone rejects with SessionGoneError, and the record stays gone', async () => {
    const { sessions, store } = openCore();
    const session = await sessions.create({});
    const other = await mustLoad(sessions, session.token);
    session.data.a = 1;
    await sessions.destroy(session.token);
    await expect(session.save()).rejects.toMatchObject({ code: 'SESSION_GONE', id: session.id });
    expect(session.valid).toBe(false);
    await other.destroy();
    await expect(other.save()).rejects.toThrow(SessionGoneError);
    for (const write of [
      () => other.set('a', 1),
      () => other.delete('a'),
      () => other.clear(),
      () => other.reload(),
      () => other.regenerate(),
    ])
      await expect(write()).rejects.toThrow(SessionGoneError);
    expect(await other.touch()).toBe(false);
    await other.destroy();
    expect(await store.length()).toBe(0);
  });

  it('destroy() against save(), 300 rounds: none resurrected, and no save lost in silence', async () => {
    const { sessions, store } = openCore();
    for (let round = 0; round < 300; round++) {
      const { token } = await sessions.create({});
      const session = await mustLoad(sessions, token);
      session.data.n = round;
      const both = [() => session.save(), () => sessions.destroy(token)];
      if (round % 2) both.reverse();
      await Promise.allSettled(both.map((act) => act()));
      expect(await sessions.get(token)).toBeNull();
    }
    expect(await store.length()).toBe(0);
  });

  it('data that cannot be stored rejects, writes nothing and leaves the session usable', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ a: 1 });
    session.data.fn = () => 1;
    await expect(session.save()).rejects.toMatchObject({ code: 'SESSION_DATA', field: 'fn' });
    delete session.data.fn;
    session.data.a = 2;
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({ a: 2 });
  });

  it('an assigned draft replaces all fields', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ a: 1, b: 2 });
    session.data = { b: 3 };
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({ b: 3 });
    for (const wrong of [null, [], 'text', 5]) {
      session.data = wrong as never;
      await expect(session.save()).rejects.toMatchObject({ code: 'SESSION_DATA' });
    }
  });

  it('begins the idle time anew unless keepExpiry is set', async () => {
    const { sessions, clock } = openCore();
    const session = await sessions.create({});
    clock.advance(10 * MINUTE);
    session.data.a = 1;
    await session.save({ keepExpiry: true });
    expect(session.expiresIn).toBe(20 * MINUTE);
    await session.set('a', 2, { keepExpiry: true });
    expect(session.expiresIn).toBe(20 * MINUTE);
    await session.set('a', 3);
    expect(session.expiresIn).toBe(30 * MINUTE);
  });
});

describe('ActiveSession.set, delete, clear and update', () => {
  it('set() and delete() write one field at once; other unsaved changes stay unsaved', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ a: 1, b: 1, c: 1 });
    session.data.c = 'unsaved';
    await session.set('a', 2);
    await session.delete('b');
    expect((await mustLoad(sessions, session.token)).data).toEqual({ a: 2, c: 1 });
    expect(session.data).toEqual({ a: 2, c: 'unsaved' });
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({ a: 2, c: 'unsaved' });
  });

  it('set() overrides an unsaved change of the same field, delete() too', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ a: 1, b: 1 });
    session.data.a = 'unsaved';
    session.data.b = 'unsaved';
    await session.set('a', 2);
    await session.delete('b');
    expect(session.data).toEqual({ a: 2 });
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({ a: 2 });
  });

  it('20 set() of different fields at once are all kept', async () => {
    for (const cache of [{}, false] as const) {
      const { sessions } = openCore({ cache });
      const session = await sessions.create({});
      const fields = Array.from({ length: 20 }, (_, i) => `f${i}`);
      await Promise.all(fields.map((field) => session.set(field, field)));
      const expected = Object.fromEntries(fields.map((field) => [field, field]));
      expect(session.data).toEqual(expected);
      expect((await mustLoad(sessions, session.token)).data).toEqual(expected);
    }
  });

  it('clear() removes all data at once, unsaved changes included, and the session lives on', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ a: 1 }, { userId: 'ann' });
    session.data.b = 2;
    await session.clear();
    expect(session.data).toEqual({});
    const loaded = await mustLoad(sessions, session.token);
    expect([loaded.data, loaded.userId]).toEqual([{}, 'ann']);
  });

  it('update() works on the stored data, not the draft, and leaves other unsaved changes unsaved', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ n: 1, draft: 1 });
    session.data.draft = 'unsaved';
    await sessions.update(session.token, { n: 10 });
    await session.update((data) => {
      data.n = (data.n as number) + 1;
    });
    expect((await mustLoad(sessions, session.token)).data).toEqual({ n: 11, draft: 1 });
    expect(session.data).toEqual({ n: 11, draft: 'unsaved' });
    await session.update({ n: 5 });
    expect(session.get('n')).toBe(5);
  });

  it('update() makes the draft take over every field that changed, those that others changed too', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ n: 1, k: 1, gone: 1, kept: 1 });
    session.data.kept = 'unsaved';
    await sessions.update(session.token, (data) => {
      data.k = 'theirs';
      delete data.gone;
    });
    await session.update({ n: 2 });
    expect(session.data).toEqual({ n: 2, k: 'theirs', kept: 'unsaved' });
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({ n: 2, k: 'theirs', kept: 'unsaved' });
  });
});

describe('ActiveSession.reload', () => {
  it('reads the store again and drops unsaved changes', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ a: 1 });
    session.data.a = 'unsaved';
    await sessions.update(session.token, { b: 2 });
    await session.reload();
    expect(session.data).toEqual({ a: 1, b: 2 });
    expect(session.source).toBe('store');
  });

  it('of an ended session rejects with SessionGoneError and valid is false from then on', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({});
    await sessions.destroy(session.token);
    expect(session.valid).toBe(true); // it has not learned of it yet
    await expect(session.reload()).rejects.toThrow(SessionGoneError);
    expect(session.valid).toBe(false);
  });
});

describe('ActiveSession.touch and times', () => {
  it('expiresAt, expiresIn, idle and valid follow the clock', async () => {
    const { sessions, clock } = openCore();
    const session = await sessions.create({}, { idleTimeout: '10m', absoluteTimeout: '15m' });
    clock.advance(4 * MINUTE);
    expect([session.idle, session.expiresIn]).toEqual([4 * MINUTE, 6 * MINUTE]);
    expect(await session.touch()).toBe(true);
    expect([session.idle, session.expiresIn]).toEqual([0, 10 * MINUTE]);
    clock.advance(4 * MINUTE);
    await session.touch();
    expect(session.expiresIn).toBe(7 * MINUTE); // the absolute deadline is nearer
    expect(session.expiresAt).toBe(session.createdAt + 15 * MINUTE);
    clock.advance(7 * MINUTE);
    expect([session.expiresIn, session.valid]).toEqual([0, false]);
    expect(await session.touch()).toBe(false);
  });

  it('touch() while a newer write of this object is under way does not undo what it knows', async () => {
    const { sessions, clock, store } = openCore();
    const session = await sessions.create({ mine: 0 });
    clock.advance(2 * MINUTE);
    let release = () => undefined as void;
    const held = new Promise<void>((resolve) => (release = resolve));
    const touch = store.touch.bind(store);
    vi.spyOn(store, 'touch').mockImplementation(async (...args) => {
      const result = await touch(...args);
      await held; // the answer is late
      return result;
    });
    const touching = session.touch();
    await session.set('mine', 1);
    release();
    expect(await touching).toBe(true);
    // Another process changes the field; a save of this object, which changed nothing since, must not undo that.
    await sessions.update(session.token, { mine: 'theirs' });
    await session.save();
    expect((await mustLoad(sessions, session.token)).data).toEqual({ mine: 'theirs' });
  });

  it('parallel touch() of an older and a newer read share a write and keep what each of them knows', async () => {
    const { sessions, clock } = openCore();
    const old = await sessions.create({ x: 1 });
    await sessions.update(old.token, { x: 2 });
    const recent = await mustLoad(sessions, old.token);
    expect(recent.data).toEqual({ x: 2 });
    clock.advance(2 * MINUTE);
    await Promise.all([old.touch(), recent.touch()]);
    expect([old.idle, recent.idle]).toEqual([0, 0]);
    await sessions.update(old.token, { x: 3 });
    await recent.save(); // changed nothing
    expect((await mustLoad(sessions, old.token)).data).toEqual({ x: 3 });
  });

  it('a touch() that finds the old id gone does not end a session that was regenerated meanwhile', async () => {
    const { sessions, clock, store } = openCore();
    const session = await sessions.create({});
    clock.advance(2 * MINUTE);
    const touch = store.touch.bind(store);
    let regenerated: Promise<unknown> = Promise.resolve();
    vi.spyOn(store, 'touch').mockImplementationOnce(async (...args) => {
      await (regenerated = session.regenerate({ userId: 'ann' }));
      return touch(...args);
    });
    await session.touch();
    await regenerated;
    expect(session.valid).toBe(true);
    await session.set('a', 1);
    expect((await mustLoad(sessions, session.token)).data).toEqual({ a: 1 });
  });

  it('a touch() prolongs the near cache’s copy, so that a session in use is not read again for it', async () => {
    const { sessions, clock, store } = openCore({ cache: { maxAge: '1d' } });
    const session = await sessions.create({});
    const get = vi.spyOn(store, 'get');
    for (let minute = 0; minute < 60; minute++) {
      clock.advance(MINUTE);
      expect((await sessions.touch(session.token))?.idle).toBe(0);
    }
    expect(get).not.toHaveBeenCalled();
  });

  it('a session that idles past its timeout has ended, whatever the near cache holds', async () => {
    const { sessions, clock } = openCore({ cache: { maxAge: '1d' } });
    const session = await sessions.create({});
    await mustLoad(sessions, session.token);
    clock.advance(30 * MINUTE);
    expect(await sessions.get(session.token)).toBeNull();
    await expect(session.set('a', 1)).rejects.toThrow(SessionGoneError);
  });
});

describe('ActiveSession.regenerate', () => {
  const make = async (userId?: string) => {
    const core = openCore();
    const session = await core.sessions.create({ cart: 1 }, { userId });
    session.data.unsaved = 2;
    return { ...core, session, oldToken: session.token, oldId: session.id };
  };

  it('keeps data, unsaved changes included, from nobody to a user and within one user', async () => {
    for (const [from, to] of [
      [undefined, 'ann'],
      ['ann', 'ann'],
      ['ann', undefined],
      [undefined, null],
      [undefined, undefined],
    ] as const) {
      const { sessions, session, oldToken, oldId, registry } = await make(from);
      expect(await session.regenerate({ userId: to })).toBe(session);
      expect([session.token === oldToken, session.id === oldId]).toEqual([false, false]);
      expect(session.data).toEqual({ cart: 1, unsaved: 2 });
      expect(session.userId).toBe(to === undefined ? (from ?? null) : to);
      expect(await sessions.get(oldToken)).toBeNull();
      expect((await mustLoad(sessions, session.token)).data).toEqual({ cart: 1, unsaved: 2 });
      if (session.userId !== null) expect(await registry.getUserSessions(session.userId)).toHaveLength(1);
    }
  });

  it('drops data from one user to another, and to nobody, even with keepData', async () => {
    for (const to of ['bob', null]) {
      const { sessions, session, oldToken, registry } = await make('ann');
      await session.regenerate({ userId: to, keepData: true });
      expect([session.userId, session.data]).toEqual([to, {}]);
      expect(await sessions.get(oldToken)).toBeNull();
      expect((await mustLoad(sessions, session.token)).data).toEqual({});
      expect(await registry.getUserSessions('ann')).toEqual([]);
      await session.save();
      expect((await mustLoad(sessions, session.token)).data).toEqual({});
    }
  });

  it('drops data with keepData: false', async () => {
    const { session } = await make();
    await session.regenerate({ userId: 'ann', keepData: false });
    expect(session.data).toEqual({});
  });

  it('takes along what others have written meanwhile', async () => {
    const { sessions, session, oldToken } = await make();
    await sessions.update(oldToken, { theirs: 3 });
    await session.regenerate();
    expect(session.data).toEqual({ cart: 1, unsaved: 2, theirs: 3 });
  });

  it('a sign-in begins a new life with the same timeouts, a new token of the same user does not', async () => {
    const { sessions, clock } = openCore();
    const session = await sessions.create({}, { idleTimeout: '1h', absoluteTimeout: '2h' });
    clock.advance(30 * MINUTE);
    await session.regenerate({ userId: 'ann' });
    expect(session.createdAt).toBe(clock.wall());
    expect(session.expiresAt).toBe(clock.wall() + HOUR);
    const born = clock.wall();
    clock.advance(50 * MINUTE);
    await session.regenerate();
    expect(session.createdAt).toBe(born);
    clock.advance(50 * MINUTE);
    expect(session.expiresIn).toBe(10 * MINUTE);
  });

  it.each<[string, object, string]>([
    ['a numeric userId', { userId: 5 }, 'userId'],
    ['an unknown option', { user: 'ann' }, 'options.user'],
    ['keepData that is no boolean', { keepData: 'no' }, 'options.keepData'],
    ['metadata of an unknown part', { metadata: { device: 'x' } }, 'metadata.device'],
    ['an idleTimeout that is no duration', { idleTimeout: 'soon' }, 'idleTimeout'],
    ['an idleTimeout that looks like seconds', { idleTimeout: 30 }, 'idleTimeout'],
    ['an absoluteTimeout that is no duration', { absoluteTimeout: {} }, 'absoluteTimeout'],
    [
      'an idleTimeout longer than the given absoluteTimeout',
      { idleTimeout: '2h', absoluteTimeout: '1h' },
      'idleTimeout',
    ],
    ['an idleTimeout longer than the absoluteTimeout it has', { idleTimeout: '15d' }, 'idleTimeout'],
  ])('refuses %s and leaves the session as it was', async (_, options, argument) => {
    const { sessions, session, oldToken } = await make('ann');
    await expect(session.regenerate(options)).rejects.toMatchObject({ code: 'SESSION_ARGUMENT', argument });
    expect(session.token).toBe(oldToken);
    expect(await sessions.get(oldToken)).not.toBeNull();
  });

  it('takes timeouts of its own: createdAt stays, and an absoluteTimeout counts from then on', async () => {
    const { sessions, clock } = openCore({ idleTimeout: '30m', absoluteTimeout: '14d' });
    for (const userId of ['ann', undefined]) {
      const session = await sessions.create({ cart: 1 }, { userId });
      const born = session.createdAt;
      clock.advance(10 * MINUTE);
      await session.regenerate({ idleTimeout: '2h', absoluteTimeout: '30d' });
      const life = 30 * DAY;
      expect([session.createdAt, session.idleTimeout]).toEqual([born, 2 * HOUR]);
      expect([session.userId, session.data]).toEqual([userId ?? null, { cart: 1 }]);
      // Used often enough it lives as long as the absolute timeout, and no longer.
      const stored = await mustLoad(sessions, session.token);
      expect([stored.idleTimeout, stored.createdAt]).toEqual([2 * HOUR, born]);
      for (let used = 0; used < life; used += HOUR) {
        expect(await sessions.get(session.token)).not.toBeNull();
        clock.advance(HOUR);
        await sessions.touch(session.token);
      }
      expect(await sessions.get(session.token)).toBeNull();
    }
  });

  it('with one timeout given keeps the other; only a given absoluteTimeout moves the absolute deadline', async () => {
    const { sessions, clock } = openCore({ idleTimeout: '30m', absoluteTimeout: '14d' });
    const session = await sessions.create({}, { absoluteTimeout: '2h' });
    const born = session.createdAt;
    clock.advance(20 * MINUTE);
    await session.regenerate({ idleTimeout: '1h' });
    expect([session.idleTimeout, session.createdAt, session.expiresIn]).toEqual([HOUR, born, HOUR]);
    clock.advance(50 * MINUTE);
    await session.touch();
    expect(session.expiresIn).toBe(50 * MINUTE); // the absolute deadline of its creation
    clock.advance(10 * MINUTE);
    await session.regenerate({ absoluteTimeout: '90m' });
    expect([session.idleTimeout, session.createdAt]).toEqual([HOUR, born]);
    clock.advance(50 * MINUTE);
    await session.touch();
    expect(session.expiresIn).toBe(40 * MINUTE); // 90 minutes from then on
    // None given: they stay, and nothing begins anew.
    await session.regenerate();
    expect([session.idleTimeout, session.createdAt, session.expiresIn]).toEqual([HOUR, born, 40 * MINUTE]);
  });

  it.each([
    {},
    { idleTimeout: '20m' },
    { absoluteTimeout: '1d' },
    { idleTimeout: '20m', absoluteTimeout: '1d' },
  ] as const)('with %j while killUser() is under way: the session ends', async (options) => {
    const { sessions, registry, store, clock } = openCore();
    const session = await sessions.create({}, { userId: 'ann' });
    clock.advance(MINUTE);
    const list = store.userSessions.bind(store);
    const listed = vi.spyOn(store, 'userSessions').mockImplementationOnce(async (userId) => {
      const found = await list(userId);
      clock.advance(SECOND);
      await expect(session.regenerate(options)).rejects.toMatchObject({ code: 'SESSION_GONE' });
      return found;
    });
    expect(await registry.killUser('ann')).toBe(1);
    expect(listed).toHaveBeenCalled();
    expect(await sessions.get(session.token, { fresh: true })).toBeNull();
    expect(await store.length()).toBe(0);
  });

  it('a timeout of 0 makes it immortal', async () => {
    const { sessions, clock } = openCore();
    const session = await sessions.create({}, { userId: 'ann' });
    await session.regenerate({ idleTimeout: 0, absoluteTimeout: 0 });
    expect([session.idleTimeout, session.expiresAt]).toEqual([0, null]);
    clock.advance(1000 * DAY);
    expect((await mustLoad(sessions, session.token)).userId).toBe('ann');
  });

  it('puts new metadata in place of the old when given', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({}, { metadata: { ip: '::1', label: 'a' } });
    await session.regenerate({ metadata: { label: 'b' } });
    expect((await mustLoad(sessions, session.token)).metadata).toEqual({ label: 'b' });
    await session.regenerate();
    expect(session.metadata).toEqual({ label: 'b' });
  });

  it('a write of this object begun meanwhile waits its turn, and goes to the new session', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({});
    await Promise.all([session.regenerate(), session.set('a', 1)]);
    expect(session.valid).toBe(true);
    expect((await mustLoad(sessions, session.token)).data).toEqual({ a: 1 });
    await session.set('a', 2);
    expect((await mustLoad(sessions, session.token)).data).toEqual({ a: 2 });
  });

  it('if the store fails, the session object stays what it was', async () => {
    const { sessions, session, oldToken, store } = await make();
    vi.spyOn(store, 'move').mockRejectedValueOnce(new Error('down'));
    await expect(session.regenerate({ userId: 'ann' })).rejects.toThrow('down');
    expect([session.token, session.userId, session.valid]).toEqual([oldToken, null, true]);
    await session.save();
    expect((await mustLoad(sessions, oldToken)).data).toEqual({ cart: 1, unsaved: 2 });
  });
});

describe('ActiveSession: the order of keys', () => {
  it('further in is a change, which is saved; of the fields themselves it is none', async () => {
    const { sessions } = openCore();
    const { token } = await sessions.create({ seen: { a: true, b: true }, views: 1 });
    const session = await mustLoad(sessions, token);
    const { seen } = session.data as { seen: Data };
    delete seen['a'];
    seen['a'] = true; // most recent last
    expect(session.hasChanges).toBe(true);
    await session.save();
    expect(JSON.stringify((await mustLoad(sessions, token)).data)).toBe(
      '{"seen":{"b":true,"a":true},"views":1}',
    );
    const again = await mustLoad(sessions, token);
    again.data = { views: 1, seen: { b: true, a: true } };
    expect(again.hasChanges).toBe(false);
  });
});

describe('ActiveSession: several writes of one object at once', () => {
  it('a field changed back while its save is under way is saved as it is then', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ x: 1 });
    session.data.x = 2;
    const first = session.save();
    session.data.x = 1;
    session.data.y = 5;
    await session.save();
    await first;
    expect((await mustLoad(sessions, session.token)).data).toEqual({ x: 1, y: 5 });
    expect(session.data).toEqual({ x: 1, y: 5 });
  });

  it('store() with a draft encoded before waits its turn, and then saves the draft as it is then', async () => {
    const { sessions } = openCore();
    const session = await sessions.create({ x: 1 });
    session.data.x = 2;
    const before = session.set('other', 1);
    const changes = session.encodedChanges();
    const storing = session.store(undefined, changes);
    session.data.x = 3;
    await Promise.all([before, storing]);
    expect((await mustLoad(sessions, session.token)).data).toEqual({ x: 3, other: 1 });
    expect(session.encodedChanges()).toBeUndefined();
  });

  it('a write inside an update function of the same session is refused within commandTimeout, and blocks nobody', async () => {
    const { sessions } = openCore({ commandTimeout: '60ms' });
    const session = await sessions.create({});
    const nested = session.update(async () => {
      await session.set('inner', true);
    });
    await expect(nested).rejects.toMatchObject({
      code: 'SESSION_STORE_UNAVAILABLE',
      outcomeUnknown: false,
      message: expect.stringContaining('waits for itself') as string,
    });
    await session.set('after', true);
    expect((await mustLoad(sessions, session.token)).data).toEqual({ after: true });
  });

  it('destroy() that fails leaves the object as it was: a store that is down ends nothing', async () => {
    const { sessions, store } = openCore();
    const session = await sessions.create({ a: 1 });
    vi.spyOn(store, 'destroy').mockRejectedValueOnce(new Error('down'));
    await expect(session.destroy()).rejects.toThrow('down');
    expect(session.valid).toBe(true);
    await session.set('a', 2);
    await session.destroy();
    expect(session.valid).toBe(false);
  });
});

describe('ActiveSession: what logs see', () => {
  it('JSON.stringify, util.inspect, string and keys show neither token nor data', async () => {
    const { sessions, clock } = openCore();
    const metadata = { label: 'phone' };
    const session = await sessions.create({ secret: 'hunter2' }, { userId: 'ann', metadata });
    void session.data;
    const shown = [
      JSON.stringify(session),
      JSON.stringify({ nested: [session] }),
      inspect(session, { depth: 10, showHidden: true, getters: true }),
      inspect({ nested: { session } }),
      format('%s %o %j', session, session, session),
      `${Object.keys(session).join()} ${JSON.stringify(Object.entries(session))}`,
    ];
    for (const text of shown) {
      expect(text).not.toContain(session.token);
      expect(text).not.toContain('hunter2');
    }
    expect(JSON.parse(shown[0]!)).toEqual({
      id: session.id,
      userId: 'ann',
      createdAt: clock.wall(),
      lastAccess: clock.wall(),
      expiresAt: clock.wall() + 30 * MINUTE,
      metadata,
    });
    expect(shown[2]).toContain(session.id);
  });

  it('errors of a session hold neither its token nor its data', async () => {
    const { sessions } = openCore({ maxDataBytes: 60 });
    const session = await sessions.create({ secret: 'hunter2' });
    const errors: unknown[] = [];
    session.data.big = `hunter2${'x'.repeat(60)}`;
    await session.save().catch((error: unknown) => errors.push(error));
    delete session.data.big;
    await session.destroy();
    await session.save().catch((error: unknown) => errors.push(error));
    await sessions.update(session.token, { a: 1 }).catch((error: unknown) => errors.push(error));
    expect(errors).toHaveLength(3);
    for (const error of errors) {
      const text = inspect(error, { depth: 10, showHidden: true });
      expect(text).not.toContain(session.token);
      expect(text.replace(/at .*\n/g, '')).not.toContain('hunter2');
    }
  });
});

describe('ActiveSession over a store that fails', () => {
  it('a destroy() that the store could not do is repeated by the next one', async () => {
    class FlakyStore extends MemorySessionStore {
      fail = true;
      override async destroy(id: string) {
        if (this.fail) throw new Error('down');
        return super.destroy(id);
      }
    }
    const store = new FlakyStore();
    const { sessions } = openCore<Data>({}, { store });
    const session = await sessions.create({});
    await expect(session.destroy()).rejects.toThrow('down');
    store.fail = false;
    await session.destroy();
    expect(await sessions.get(session.token)).toBeNull();
    expect(session.idle).toBeLessThan(SECOND);
  });
});

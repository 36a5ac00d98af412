import { describe, expect, it } from 'vitest';
import type { ActiveSession } from '../../../lib/core/active-session.js';
import type { SessionBinding } from '../../../lib/core/session-binding.interface.js';
import { SessionDataError } from '../../../lib/errors/caller.errors.js';
import { SessionGoneError } from '../../../lib/errors/state.errors.js';
import { DAY, mustLoad, openCore, SECOND, type Data } from '../harness.js';

function open(options: Parameters<typeof openCore>[0] = {}) {
  const core = openCore<Data>(options);
  let uses = 0;
  const binding: SessionBinding = { onUse: () => uses++, metadata: () => ({ ip: '192.0.2.1' }) };
  return {
    ...core,
    uses: () => uses,
    visit: () => core.sessions.unstored(binding),
    load: (session: ActiveSession<Data>) => mustLoad(core.sessions, session.token),
    size: () => core.store.length(),
    bind: (session: ActiveSession<Data>) => session.bind(binding),
  };
}

describe('a session that is not stored yet', () => {
  it('has a token and an id nobody else has, and nothing in the store', async () => {
    const { visit, sessions, size } = open();
    const [one, other] = [visit(), visit()];
    expect(one.token).toMatch(/^[\w-]{44}$/);
    expect(one.id).toMatch(/^[\w-]{23}$/);
    expect([one.token, one.id]).not.toEqual([other.token, other.id]);
    expect(await sessions.get(one.token)).toBeNull();
    expect(await size()).toBe(0);
  });

  it('looks like a new, empty session of nobody', () => {
    const { visit, clock } = open({ idleTimeout: '10m', absoluteTimeout: '1h' });
    const session = visit();
    expect(session).toMatchObject({
      isStored: false,
      isNew: true,
      valid: true,
      userId: null,
      source: 'new',
      data: {},
      idleTimeout: 600_000,
      createdAt: clock.wall(),
      hasChanges: false,
      destroyedHere: false,
    });
    expect(session.expiresIn).toBe(600_000);
  });

  it('tells its holder when its data is looked at or changed, and not before', () => {
    const { visit, uses } = open();
    const session = visit();
    void [session.id, session.token, session.userId, session.expiresIn, session.valid, session.isStored];
    expect(uses()).toBe(0);
    void session.data;
    expect(uses()).toBe(1);
  });

  it('needs no holder for a field that nobody can change by having it', async () => {
    const { visit, bind, sessions, uses } = open();
    expect(visit().get('a')).toBeUndefined();
    const { token } = await sessions.create({ a: 1, list: ['one'] } as Data);
    const session = bind((await sessions.get(token))!);
    expect(session.get('a')).toBe(1);
    expect(uses()).toBe(0);
    expect(session.get('list' as 'a')).toEqual(['one']);
    expect(uses()).toBe(1);
  });

  it.each<[string, (session: ActiveSession<Data>) => unknown]>([
    ['an assignment to data', (session) => (session.data = { a: 1 })],
    ['a look at data', (session) => session.data],
    ['set()', (session) => session.set('a', 1)],
    ['update()', (session) => session.update({ a: 1 })],
    ['save()', (session) => session.save()],
    ['regenerate()', (session) => session.regenerate()],
    ['csrfToken()', (session) => session.csrfToken()],
    ['destroy()', (session) => session.destroy()],
  ])('tells its holder of %s', async (_what, use) => {
    const { visit, uses } = open();
    await use(visit());
    expect(uses()).toBeGreaterThan(0);
  });

  it('has changes when the draft holds something, and none when it was taken back', () => {
    const { visit } = open();
    const session = visit();
    session.data.a = 1;
    expect(session.hasChanges).toBe(true);
    delete session.data.a;
    expect(session.hasChanges).toBe(false);
    expect(session.csrfToken()).toMatch(/^[\w-]{43}$/);
    expect(session.hasChanges).toBe(true);
  });

  it('has changes for a CSRF token that was handed out, whatever the draft holds: only saving it may fail', () => {
    const session = open().visit();
    session.csrfToken();
    session.data.a = (() => 1) as never;
    expect(session.hasChanges).toBe(true);
  });

  it.each<[string, (session: ActiveSession<Data>) => Promise<unknown>, Data]>([
    [
      'save()',
      async (session) => {
        session.data.a = 1;
        await session.save();
      },
      { a: 1 },
    ],
    ['save() of nothing, by hand', (session) => session.save(), {}],
    ['set()', (session) => session.set('a', 1), { a: 1 }],
    ['update() with fields', (session) => session.update({ a: 1 }), { a: 1 }],
    ['update() with a function', (session) => session.update((data) => void (data.a = 1)), { a: 1 }],
    ['delete()', (session) => session.delete('a'), {}],
  ])('is stored by %s, under the token it has', async (_how, write, data) => {
    const { visit, load, size, said } = open();
    const session = visit();
    const { token, id } = session;
    await write(session);
    expect([session.isStored, session.hasChanges, session.token, session.id]).toEqual([
      true,
      false,
      token,
      id,
    ]);
    expect((await load(session)).data).toEqual(data);
    expect(session.data).toEqual(data);
    expect(session.metadata).toEqual({ ip: '192.0.2.1' });
    expect([await size(), said('created')]).toEqual([1, [{ id, userId: null }]]);
  });

  it('is stored once by writes that run at the same time', async () => {
    const { visit, load, size, said } = open();
    const session = visit();
    session.data.draft = true;
    await Promise.all([
      session.set('a', 1),
      session.update({ b: 2 }),
      session.save(),
      session.set('c', 3),
      session.save(),
    ]);
    expect((await load(session)).data).toEqual({ draft: true, a: 1, b: 2, c: 3 });
    expect([await size(), said('created').length]).toEqual([1, 1]);
  });

  it('keeps unsaved changes of the draft unsaved when one field is written', async () => {
    const { visit, load } = open();
    const session = visit();
    session.data.mine = 1;
    await session.set('a', 1);
    expect((await load(session)).data).toEqual({ a: 1 });
    expect(session.data).toEqual({ mine: 1, a: 1 });
    expect(session.hasChanges).toBe(true);
    await session.save();
    expect((await load(session)).data).toEqual({ mine: 1, a: 1 });
  });

  it('is not stored by data that cannot be', async () => {
    const { visit, size } = open();
    const session = visit();
    session.data.callback = () => undefined;
    expect(() => session.hasChanges).toThrow(SessionDataError);
    await expect(session.save()).rejects.toThrow(SessionDataError);
    await expect(session.set('other', (() => undefined) as never)).rejects.toThrow(SessionDataError);
    expect([session.isStored, await size()]).toEqual([false, 0]);
  });

  it('is not stored by an update function that throws', async () => {
    const { visit, size } = open();
    const session = visit();
    const mistake = new Error('a mistake of the app');
    await expect(
      session.update(() => {
        throw mistake;
      }),
    ).rejects.toThrow(mistake);
    expect([session.isStored, await size()]).toEqual([false, 0]);
  });

  it('is not stored by what writes nothing: clear(), reload(), touch(), destroy()', async () => {
    const { visit, size } = open();
    const session = visit();
    session.data.a = 1;
    await session.clear();
    expect([session.data, session.hasChanges]).toEqual([{}, false]);
    session.data.a = 1;
    await session.reload();
    expect(session.data).toEqual({});
    expect(await session.touch()).toBe(true);
    await session.destroy();
    expect([session.isStored, await size()]).toEqual([false, 0]);
  });

  it('once destroyed stays gone', async () => {
    const { visit, size } = open();
    const session = visit();
    session.data.a = 1;
    await session.destroy();
    await session.destroy();
    expect([session.valid, session.destroyedHere, session.hasChanges]).toEqual([false, true, false]);
    for (const write of [
      () => session.save(),
      () => session.set('a', 1),
      () => session.regenerate(),
      () => session.reload(),
    ])
      await expect(write()).rejects.toThrow(SessionGoneError);
    expect(await size()).toBe(0);
  });

  it('becomes a user’s by login(), with the data so far and a token in the user’s partition', async () => {
    const { visit, sessions, registry, load } = open();
    const session = visit();
    const { token } = session;
    session.data.cart = 'book';
    expect(await sessions.login(session, 'ada')).toBe(session);
    expect(session).toMatchObject({ userId: 'ada', isStored: true, isNew: true, data: { cart: 'book' } });
    expect(session.token).not.toBe(token);
    expect(await sessions.get(token)).toBeNull();
    expect((await load(session)).data).toEqual({ cart: 'book' });
    expect((await registry.getUserSessions('ada')).map(({ id }) => id)).toEqual([session.id]);
  });

  it('becomes a user’s by login() with timeouts of its own: "remember me"', async () => {
    const { visit, sessions, clock, load } = open();
    const session = visit();
    session.data.cart = 'book';
    clock.advance(5 * SECOND);
    await sessions.login(session, 'ada', { idleTimeout: '30d', absoluteTimeout: '60d' });
    expect(session).toMatchObject({ idleTimeout: 30 * DAY, createdAt: clock.wall(), data: { cart: 'book' } });
    clock.advance(29 * DAY);
    expect(await load(session)).toMatchObject({ userId: 'ada', idleTimeout: 30 * DAY });
    await session.touch();
    clock.advance(29 * DAY);
    await session.touch();
    expect((await load(session)).expiresIn).toBe(2 * DAY); // of the 60
  });

  it.each([
    [{ idleTimeout: '30d' }, /"idleTimeout".*longer than absoluteTimeout.*Raise absoluteTimeout/],
    [{ idleTimeout: '60d', absoluteTimeout: '30d' }, /"idleTimeout".*longer than absoluteTimeout/],
    [{ idleTimeout: 'a while' }, /"idleTimeout" must be a duration; got "a while"/],
    [{ absoluteTimeout: -1 }, /"absoluteTimeout"/],
  ])('login() with %j is refused, and nothing is stored', async (options, message) => {
    const { visit, sessions, size } = open();
    const session = visit();
    const login = async () => sessions.login(session, 'ada', options);
    await expect(login()).rejects.toThrow(message);
    expect([session.isStored, session.userId, await size()]).toEqual([false, null, 0]);
  });

  it('drops the data in regenerate({ keepData: false })', async () => {
    const { visit, load } = open();
    const session = visit();
    session.data.cart = 'book';
    await session.regenerate({ keepData: false, metadata: { userAgent: 'a phone' } });
    expect([session.data, (await load(session)).data]).toEqual([{}, {}]);
    expect(session.metadata).toEqual({ userAgent: 'a phone' });
  });

  it('lives from its creation: what it says of its end is true after the first write', async () => {
    const { visit, clock, load } = open({ idleTimeout: '10s', absoluteTimeout: '1m' });
    const session = visit();
    clock.advance(5 * SECOND);
    await session.set('a', 1);
    expect(session.expiresIn).toBe(10 * SECOND);
    expect((await load(session)).expiresAt).toBe(session.expiresAt);
  });

  it('is later written like any other: a second holder’s fields are kept', async () => {
    const { visit, load, sessions } = open();
    const session = visit();
    session.data.a = 1;
    await session.save();
    const other = await mustLoad(sessions, session.token);
    other.data.b = 2;
    await other.save();
    session.data.c = 3;
    await session.save();
    expect((await load(session)).data).toEqual({ a: 1, b: 2, c: 3 });
  });
});

describe('a stored session with a holder', () => {
  it.each(['the store', 'the near cache'])(
    'read from %s, tells it when the data is first looked at',
    async (from) => {
      const { sessions, bind, uses, cache } = open();
      const { token } = await sessions.create({ a: 1 });
      if (from === 'the store') cache.clear();
      const session = bind(await mustLoad(sessions, token));
      expect(session.source).toBe(from === 'the store' ? 'store' : 'cache');
      expect(uses()).toBe(0);
      session.data.a = 2;
      expect(uses()).toBe(1);
    },
  );

  it('that was destroyed by somebody else was not destroyed here', async () => {
    const { sessions, cache } = open();
    const { token } = await sessions.create({ a: 1 });
    const [one, other] = [await mustLoad(sessions, token), await mustLoad(sessions, token)];
    await one.destroy();
    expect(one.destroyedHere).toBe(true);
    await expect(other.save()).resolves.toBeUndefined(); // nothing to save
    other.data.a = 2;
    await expect(other.save()).rejects.toThrow(SessionGoneError);
    expect([other.destroyedHere, cache.get(token)]).toEqual([false, undefined]);
  });

  it('that another holder has ended already: its destroy() ends nothing, and so was not done here', async () => {
    const { sessions } = open();
    const { token } = await sessions.create({ a: 1 });
    const [one, other] = [await mustLoad(sessions, token), await mustLoad(sessions, token)];
    await one.destroy();
    await other.destroy();
    expect([one.destroyedHere, other.destroyedHere, other.valid]).toEqual([true, false, false]);
    await one.destroy();
    expect(one.destroyedHere, 'repeating it is safe').toBe(true);
  });

  it('whose end a touch has found cannot be saved any more', async () => {
    const { sessions, store, clock } = open({ touchInterval: '1s' });
    const { token, id } = await sessions.create({ a: 1 });
    const session = await mustLoad(sessions, token);
    await store.destroy(id);
    clock.advance(2 * SECOND);
    expect(await session.touch()).toBe(false);
    session.data.a = 2;
    await expect(session.save()).rejects.toThrow(SessionGoneError);
  });
});

import { describe, expect, it, vi } from 'vitest';
import { generateToken } from '../../../lib/core/session-token.js';
import { SessionGoneError } from '../../../lib/errors/state.errors.js';
import { MemorySessionStore } from '../../../lib/store/memory-session.store.js';
import { DAY, HOUR, MINUTE, mustLoad, openCore, SECOND } from '../harness.js';

const GIVEN = { token: 'given-token-of-mine' };

describe('SessionService.create', () => {
  it('makes a session with a token of 44 characters, an id of 23, and the module’s timeouts', async () => {
    const { sessions, clock } = openCore();
    const session = await sessions.create({ views: 1 });
    expect(session.token).toMatch(/^[\w-]{44}$/);
    expect(session.id).toMatch(/^[\w-]{23}$/);
    expect(session.data).toEqual({ views: 1 });
    expect(session.userId).toBeNull();
    expect(session.isNew).toBe(true);
    expect(session.source).toBe('new');
    expect(session.createdAt).toBe(clock.wall());
    expect(session.lastAccess).toBe(clock.wall());
    expect(session.idleTimeout).toBe(30 * MINUTE);
    expect(session.expiresIn).toBe(30 * MINUTE);
    expect(session.metadata).toEqual({});
  });

  it('keeps its own copy of the data: later changes of the argument have no effect', async () => {
    const { sessions } = openCore();
    const cart = { items: ['a'] };
    const session = await sessions.create({ cart });
    cart.items.push('b');
    expect(session.data).toEqual({ cart: { items: ['a'] } });
    expect((await mustLoad(sessions, session.token)).data).toEqual({ cart: { items: ['a'] } });
  });

  it('takes timeouts for one session, as strings too', async () => {
    const { sessions, clock } = openCore();
    const short = await sessions.create({}, { idleTimeout: '30s' });
    const remembered = await sessions.create({}, { idleTimeout: '30d', absoluteTimeout: '60d' });
    expect([short.expiresIn, remembered.expiresIn]).toEqual([30 * SECOND, 30 * DAY]);
    clock.advance(30 * SECOND);
    expect(await sessions.get(short.token)).toBeNull();
    clock.advance(29 * DAY);
    expect(await sessions.get(remembered.token)).not.toBeNull();
  });

  it.each<[string, unknown, string, RegExp]>([
    ['a number of seconds', { idleTimeout: 60 }, 'idleTimeout', /'60s' or '60ms'/],
    ['a timeout that is no duration', { absoluteTimeout: 'soon' }, 'absoluteTimeout', /"soon".*'14d'/],
    ['a negative timeout', { idleTimeout: -1_000 }, 'idleTimeout', /-1000/],
    [
      'idle longer than absolute',
      { idleTimeout: '2h', absoluteTimeout: '1h' },
      'idleTimeout',
      /Raise absoluteTimeout/,
    ],
    ['an unknown option', { ttl: 5 }, 'options.ttl', /Known: userId, idleTimeout/],
    ['a numeric userId', { userId: 5 }, 'userId', /number.*String\(user\.id\)/],
    ['an empty userId', { userId: '' }, 'userId', /1 to 255/],
    ['a userId of 256 characters', { userId: 'x'.repeat(256) }, 'userId', /got 256/],
    ['a lone surrogate in userId', { userId: 'a\ud800' }, 'userId', /well-formed/],
    [
      'metadata of an unknown part',
      { metadata: { device: 'x' } },
      'metadata.device',
      /Known: ip, userAgent, label/,
    ],
    ['metadata that is no string', { metadata: { ip: 5 } }, 'metadata.ip', /number/],
    ['a label of 129 characters', { metadata: { label: 'x'.repeat(129) } }, 'metadata.label', /128.*129/],
    ['a given token while that is off', GIVEN, 'token', /allowGivenTokens: true/],
  ])('refuses %s, naming it, and stores nothing', async (_, options, argument, message) => {
    const { sessions, store } = openCore();
    const creating = sessions.create({}, options as object);
    await expect(creating).rejects.toMatchObject({ code: 'SESSION_ARGUMENT', argument });
    await expect(creating).rejects.toThrow(message);
    expect(await store.length()).toBe(0);
  });

  it('takes userId null or undefined as nobody', async () => {
    const { sessions } = openCore();
    for (const userId of [null, undefined])
      expect((await sessions.create({}, { userId: userId as undefined })).userId).toBeNull();
  });

  it('takes userIds of 1 and 255 characters, emoji included', async () => {
    const { sessions, registry } = openCore();
    for (const userId of ['1', 'x'.repeat(255), '😀'.repeat(127)]) {
      await sessions.create({}, { userId });
      expect(await registry.getUserSessions(userId)).toHaveLength(1);
    }
  });

  it('cuts a long user agent and address, and freezes metadata', async () => {
    const { sessions } = openCore();
    const metadata = { ip: '1'.repeat(100), userAgent: 'x'.repeat(10_000), label: undefined };
    const session = await sessions.create({}, { metadata });
    expect(session.metadata.ip).toHaveLength(64);
    expect(session.metadata.userAgent).toHaveLength(512);
    expect(Object.keys(session.metadata)).toEqual(['ip', 'userAgent']);
    expect(Object.isFrozen(session.metadata)).toBe(true);
  });

  it('data that cannot be stored is refused, naming the field, and nothing is stored', async () => {
    const { sessions, store } = openCore();
    const failing = sessions.create({ cart: { onChange: () => 1 } });
    await expect(failing).rejects.toMatchObject({ code: 'SESSION_DATA', field: 'cart.onChange' });
    for (const data of [[1], 5, 'text', null])
      await expect(sessions.create(data as never)).rejects.toMatchObject({ code: 'SESSION_DATA' });
    expect(await store.length()).toBe(0);
  });

  it('data over maxDataBytes is refused, naming its largest field, by bytes and not by characters', async () => {
    const { sessions, store } = openCore({ maxDataBytes: 1_000 });
    const failing = sessions.create({ small: 1, avatar: 'ä'.repeat(600), name: 'x'.repeat(100) });
    await expect(failing).rejects.toMatchObject({ code: 'SESSION_DATA', field: 'avatar' });
    await expect(failing).rejects.toThrow(/13\d\d bytes in all, and maxDataBytes is 1000/);
    expect(await store.length()).toBe(0);
    await sessions.create({ a: 'x'.repeat(1_000 - '{"a":""}'.length) });
    await expect(sessions.create({ a: 'x'.repeat(1_001 - '{"a":""}'.length) })).rejects.toThrow(/1001 bytes/);
  });

  it('emits created with id and user, never the token', async () => {
    const { sessions, said, heard } = openCore();
    const { id, token } = await sessions.create({ secret: 'hunter2' }, { userId: 'ann' });
    expect(said('created')).toEqual([{ id, userId: 'ann' }]);
    expect(JSON.stringify(heard)).not.toContain(token);
    expect(JSON.stringify(heard)).not.toContain('hunter2');
  });
});

describe('SessionService: given tokens', () => {
  it('with allowGivenTokens a given token finds its session', async () => {
    const { sessions } = openCore({ allowGivenTokens: true });
    const session = await sessions.create({ a: 1 }, GIVEN);
    expect(session.token).toBe(GIVEN.token);
    expect((await mustLoad(sessions, GIVEN.token)).data).toEqual({ a: 1 });
    expect(await sessions.get('given-token-of-thine')).toBeNull();
  });

  it('a taken one is an error that names the id, not the token; after destroy it is free again', async () => {
    const { sessions } = openCore({ allowGivenTokens: true });
    const first = await sessions.create({ a: 1 }, GIVEN);
    const taken = sessions.create({ a: 2 }, GIVEN);
    await expect(taken).rejects.toMatchObject({ code: 'SESSION_TOKEN_TAKEN', id: first.id });
    await expect(taken).rejects.not.toThrow(GIVEN.token);
    expect((await mustLoad(sessions, GIVEN.token)).data).toEqual({ a: 1 });
    await first.destroy();
    expect((await sessions.create({ a: 3 }, GIVEN)).data).toEqual({ a: 3 });
    expect((await mustLoad(sessions, GIVEN.token)).data).toEqual({ a: 3 });
  });

  it('one with a userId, a bad one, or one of the generated form is refused', async () => {
    const { sessions } = openCore({ allowGivenTokens: true });
    const argument = { code: 'SESSION_ARGUMENT', argument: 'token' };
    await expect(sessions.create({}, { ...GIVEN, userId: 'ann' })).rejects.toMatchObject(argument);
    for (const token of ['short', 'x'.repeat(129), 'has spaces in between', generateToken(1), 5 as never])
      await expect(sessions.create({}, { token })).rejects.toMatchObject(argument);
  });

  it('regenerate() leads from a given token to a generated one, for a user too', async () => {
    const { sessions } = openCore({ allowGivenTokens: true });
    await sessions.create({ a: 1 }, GIVEN);
    const session = await sessions.regenerate(GIVEN.token, { userId: 'ann' });
    expect(session.token).toMatch(/^[\w-]{44}$/);
    expect(session.data).toEqual({ a: 1 });
    expect(await sessions.get(GIVEN.token)).toBeNull();
  });
});

describe('SessionService.get', () => {
  it('answers from the near cache after create, and from the store when that may not', async () => {
    const { sessions, source, store } = openCore();
    const { token } = await sessions.create({ a: 1 });
    const get = vi.spyOn(store, 'get');
    expect((await mustLoad(sessions, token)).source).toBe('cache');
    expect(get).not.toHaveBeenCalled();
    source.epoch++;
    const fromStore = await mustLoad(sessions, token);
    expect([fromStore.source, fromStore.isNew]).toEqual(['store', false]);
    expect((await mustLoad(sessions, token)).source).toBe('cache');
    expect(get).toHaveBeenCalledTimes(1);
  });

  it.each<[string, unknown]>([
    ['empty', ''],
    ['10 MB', 'A'.repeat(10 * 1024 * 1024)],
    ['of the wrong alphabet', `${'A'.repeat(43)}=`],
    ['with NUL', `${'A'.repeat(43)}\0`],
    ['out of the partitions', generateToken(16)],
    ['an array', [generateToken(1)]],
    ['an object', { toString: () => generateToken(1) }],
    ['a number', 5],
    ['null', null],
    ['undefined', undefined],
  ])(
    'a token that is %s is null, reaches no store, and every method treats it as no session',
    async (_, token) => {
      const { sessions, store } = openCore();
      const calls = (['get', 'set', 'touch', 'destroy', 'move'] as const).map((name) =>
        vi.spyOn(store, name),
      );
      expect(await sessions.get(token)).toBeNull();
      expect(await sessions.touch(token)).toBeNull();
      expect(await sessions.destroy(token)).toBe(false);
      await expect(sessions.update(token, { a: 1 })).rejects.toThrow(SessionGoneError);
      await expect(sessions.replace(token, { a: 1 })).rejects.toThrow(SessionGoneError);
      await expect(sessions.regenerate(token)).rejects.toThrow(SessionGoneError);
      for (const call of calls) expect(call).not.toHaveBeenCalled();
    },
  );

  it('a real id is no token', async () => {
    const { sessions } = openCore();
    const { id } = await sessions.create({});
    expect(await sessions.get(id)).toBeNull();
  });

  it('a well-formed token of nobody’s is null after one read', async () => {
    const { sessions, store } = openCore();
    const get = vi.spyOn(store, 'get');
    expect(await sessions.get(generateToken(3))).toBeNull();
    expect(get).toHaveBeenCalledTimes(1);
  });

  it('never returns a session past its idle or its absolute deadline, near cache included', async () => {
    for (const cache of [false, {}] as const) {
      const { sessions, clock } = openCore({ cache });
      const idle = await sessions.create({}, { idleTimeout: '10s', absoluteTimeout: '1h' });
      const absolute = await sessions.create({}, { idleTimeout: 0, absoluteTimeout: '15s' });
      clock.advance(10 * SECOND - 1);
      expect(await sessions.get(idle.token)).not.toBeNull();
      clock.advance(1);
      expect(await sessions.get(idle.token)).toBeNull();
      clock.advance(5 * SECOND - 1);
      expect(await sessions.get(absolute.token)).not.toBeNull();
      clock.advance(1);
      expect(await sessions.get(absolute.token)).toBeNull();
    }
  });

  it('an undecodable record is null with an event that holds no data', async () => {
    const { sessions, source, store, said } = openCore();
    const { token, id } = await sessions.create({ secret: 'hunter2' });
    const { record } = (await store.get(id))!;
    await store.set({ base: record, data: '{"secret":"hunter2"', keepExpiry: true });
    source.epoch++;
    expect(await sessions.get(token)).toBeNull();
    expect(said('undecodable')).toMatchObject([{ id }]);
    expect(JSON.stringify(said('undecodable'))).not.toContain('hunter2');
    await expect(sessions.update(token, { a: 1 })).rejects.toThrow(SessionGoneError);
    expect(await sessions.destroy(token)).toBe(true);
  });
});

describe('SessionService.update and replace', () => {
  it('a patch is laid over the top-level fields, replace() puts new data in place of all', async () => {
    const { sessions } = openCore();
    const { token } = await sessions.create({ a: 1, b: { c: 1 } });
    expect((await sessions.update(token, { b: { d: 2 }, e: 3 })).data).toEqual({ a: 1, b: { d: 2 }, e: 3 });
    expect((await sessions.replace(token, { only: true })).data).toEqual({ only: true });
    expect((await mustLoad(sessions, token)).data).toEqual({ only: true });
  });

  it('a function may change the data or return new data, also later', async () => {
    const { sessions } = openCore();
    const { token } = await sessions.create({ n: 1 });
    await sessions.update(token, (data) => {
      data.n = 2;
    });
    expect((await sessions.update(token, async (data) => ({ n: (data.n as number) + 1 }))).data).toEqual({
      n: 3,
    });
  });

  it('100 functions at once increment by exactly 100, from two processes', async () => {
    const a = openCore<{ n: number }>();
    const b = openCore<{ n: number }>({ cache: false }, { clock: a.clock, store: a.store });
    const { token } = await a.sessions.create({ n: 0 });
    await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        (i % 2 ? a : b).sessions.update(token, async (data) => {
          const { n } = data;
          await Promise.resolve();
          data.n = n + 1;
        }),
      ),
    );
    expect((await b.sessions.get(token))?.data).toEqual({ n: 100 });
  });

  it('a function that throws changes nothing, and the next update runs', async () => {
    const { sessions } = openCore();
    const { token } = await sessions.create({ n: 1 });
    const failing = sessions.update(token, (data) => {
      data.n = 99;
      throw new Error('mine');
    });
    const next = sessions.update(token, { m: 1 });
    await expect(failing).rejects.toThrow('mine');
    expect((await next).data).toEqual({ n: 1, m: 1 });
  });

  it.each<[string, unknown]>([
    ['an array', [1]],
    ['null', null],
    ['a string', 'x'],
    ['a function that returns a number', () => 5],
    ['a function that returns an array', () => []],
  ])('%s is refused and changes nothing', async (_, change) => {
    const { sessions } = openCore();
    const { token } = await sessions.create({ n: 1 });
    await expect((async () => sessions.update(token, change as object))()).rejects.toMatchObject({
      code: 'SESSION_ARGUMENT',
    });
    expect((await mustLoad(sessions, token)).data).toEqual({ n: 1 });
  });

  it('writes that would be too large or hold a function change nothing', async () => {
    const { sessions } = openCore({ maxDataBytes: 100 });
    const { token } = await sessions.create({ n: 1 });
    await expect(sessions.update(token, { big: 'x'.repeat(100) })).rejects.toMatchObject({ field: 'big' });
    await expect(sessions.update(token, { fn: () => 1 })).rejects.toMatchObject({ field: 'fn' });
    await expect(sessions.replace(token, [] as never)).rejects.toMatchObject({ code: 'SESSION_DATA' });
    expect((await mustLoad(sessions, token)).data).toEqual({ n: 1 });
  });

  it('writes begin the idle time anew unless keepExpiry is set', async () => {
    const { sessions, clock } = openCore();
    const { token } = await sessions.create({});
    const { lastAccess } = await mustLoad(sessions, token);
    clock.advance(10 * MINUTE);
    expect((await sessions.update(token, { a: 1 }, { keepExpiry: true })).lastAccess).toBe(lastAccess);
    expect((await sessions.replace(token, { b: 1 }, { keepExpiry: true })).expiresIn).toBe(20 * MINUTE);
    expect((await sessions.update(token, { a: 1 })).lastAccess).toBe(clock.wall());
  });

  it('on a destroyed or expired session reject with SessionGoneError and bring nothing back', async () => {
    const { sessions, clock, store } = openCore();
    const destroyed = await sessions.create({});
    const expired = await sessions.create({}, { idleTimeout: '10s' });
    await sessions.destroy(destroyed.token);
    clock.advance(10 * SECOND);
    for (const { token, id } of [destroyed, expired]) {
      await expect(sessions.update(token, { a: 1 })).rejects.toMatchObject({ code: 'SESSION_GONE', id });
      await expect(sessions.update(token, () => undefined)).rejects.toThrow(SessionGoneError);
      await expect(sessions.replace(token, {})).rejects.toThrow(SessionGoneError);
    }
    expect(await store.length()).toBe(0);
  });

  it('a field named __proto__ is a field', async () => {
    const { sessions } = openCore();
    const { token } = await sessions.create({});
    await sessions.update(token, JSON.parse('{"__proto__":{"admin":true}}') as object);
    const { data } = await mustLoad(sessions, token);
    expect(Object.keys(data)).toEqual(['__proto__']);
    expect(data.admin).toBeUndefined();
  });

  it('gives up with SessionConflictError when others write at every attempt', async () => {
    class BusyStore extends MemorySessionStore {
      override async set(...[change]: Parameters<MemorySessionStore['set']>) {
        await super.set({ ...change, data: '{"theirs":true}' });
        return super.set(change);
      }
    }
    const { sessions } = openCore({}, { store: new BusyStore() });
    const { token, id } = await sessions.create({});
    await expect(sessions.update(token, { a: 1 })).rejects.toMatchObject({ code: 'SESSION_CONFLICT', id });
    expect((await mustLoad(sessions, token)).data).toEqual({ theirs: true });
  });
});

describe('SessionService.touch', () => {
  it('writes at most once per touchInterval, however many touch at once', async () => {
    const { sessions, clock, store } = openCore();
    const { token } = await sessions.create({});
    const touch = vi.spyOn(store, 'touch');
    await sessions.touch(token);
    clock.advance(MINUTE - 1);
    expect((await sessions.touch(token))?.idle).toBe(MINUTE - 1);
    expect(touch).not.toHaveBeenCalled();
    clock.advance(1);
    const touched = await Promise.all(Array.from({ length: 50 }, () => sessions.touch(token)));
    expect(touch).toHaveBeenCalledTimes(1);
    expect(touched.every((session) => session?.idle === 0)).toBe(true);
    await sessions.touch(token);
    expect(touch).toHaveBeenCalledTimes(1);
  });

  it('a session with a shorter idle timeout is touched at its half', async () => {
    const { sessions, clock } = openCore();
    const { token } = await sessions.create({}, { idleTimeout: '20s' });
    clock.advance(10 * SECOND - 1);
    expect((await sessions.touch(token))?.idle).toBe(10 * SECOND - 1);
    clock.advance(1);
    expect((await sessions.touch(token))?.idle).toBe(0);
    clock.advance(19 * SECOND);
    expect(await sessions.get(token)).not.toBeNull();
  });

  it('keeps a session in use alive up to its absolute deadline and not beyond', async () => {
    const { sessions, clock } = openCore({ absoluteTimeout: '2h' });
    const { token, createdAt } = await sessions.create({});
    let alive = 0;
    while ((await sessions.touch(token)) !== null) {
      alive = clock.wall();
      clock.advance(10 * MINUTE);
    }
    expect(alive - createdAt).toBe(2 * HOUR - 10 * MINUTE);
  });

  it('of an unknown or ended session is null', async () => {
    const { sessions, clock } = openCore();
    const { token } = await sessions.create({});
    await sessions.destroy(token);
    clock.advance(MINUTE);
    expect(await sessions.touch(token)).toBeNull();
    expect(await sessions.touch(generateToken(2))).toBeNull();
  });

  it('with touchInterval 0 every touch writes', async () => {
    const { sessions, store } = openCore({ touchInterval: 0 });
    const { token } = await sessions.create({});
    const touch = vi.spyOn(store, 'touch');
    await sessions.touch(token);
    await sessions.touch(token);
    expect(touch).toHaveBeenCalledTimes(2);
  });
});

describe('SessionService.destroy and regenerate', () => {
  it('destroy() is true once, ends the session for the near cache too, and says so once', async () => {
    const { sessions, said } = openCore();
    const { token, id } = await sessions.create({}, { userId: 'ann' });
    expect(await sessions.destroy(token)).toBe(true);
    expect(sessions.getCached(token)).toBeNull();
    expect(await sessions.get(token)).toBeNull();
    expect(await sessions.destroy(token)).toBe(false);
    expect(said('destroyed')).toEqual([{ id, userId: 'ann', reason: 'destroyed' }]);
  });

  it('regenerate() replaces token and id and keeps data, user and creation time', async () => {
    const { sessions, clock, said } = openCore();
    const old = await sessions.create({ a: 1 }, { userId: 'ann', metadata: { label: 'x' } });
    clock.advance(MINUTE);
    const session = await sessions.regenerate(old.token);
    expect(session).toMatchObject({ userId: 'ann', data: { a: 1 }, metadata: { label: 'x' }, isNew: true });
    expect(session.createdAt).toBe(old.createdAt);
    expect([session.token === old.token, session.id === old.id]).toEqual([false, false]);
    expect(await sessions.get(old.token)).toBeNull();
    expect((await mustLoad(sessions, session.token)).data).toEqual({ a: 1 });
    expect(said('regenerated')).toEqual([{ id: session.id, previousId: old.id, userId: 'ann' }]);
  });

  it('of two regenerate() at once one wins, the other finds the session gone', async () => {
    const { sessions, store } = openCore();
    const { token } = await sessions.create({});
    const results = await Promise.allSettled([sessions.regenerate(token), sessions.regenerate(token)]);
    expect(results.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    expect(await store.length()).toBe(1);
  });

  it('immortal sessions stay immortal, by module options and per session, when regenerated too', async () => {
    const module = openCore({ idleTimeout: 0, absoluteTimeout: 0 });
    const own = openCore();
    for (const { sessions, clock, options } of [
      { ...module, options: {} },
      { ...own, options: { idleTimeout: 0, absoluteTimeout: 0 } },
    ]) {
      const session = await sessions.create({}, options);
      expect([session.expiresAt, session.expiresIn, session.valid]).toEqual([null, null, true]);
      clock.advance(10_000 * DAY);
      const next = await sessions.regenerate(session.token, { userId: 'ann' });
      clock.advance(10_000 * DAY);
      expect((await mustLoad(sessions, next.token)).expiresAt).toBeNull();
    }
  });
});

// Both adapters against stores that misbehave, and options that are wrong.
import { EventEmitter } from 'node:events';
import { Test } from '@nestjs/testing';
import session from 'express-session';
import { Packr } from 'msgpackr';
import { describe, expect, it, onTestFinished } from 'vitest';
import { encrypted } from '../../../lib/codecs/index.js';
import {
  defaultCodec,
  MemorySessionStore,
  SessionModule,
  SessionRegistry,
  SessionService,
  SessionStoreUnavailableError,
  type SessionCodec,
  type SessionRecord,
  type SimpleCodec,
} from '../../../lib/index.js';
import { fromExpressStore, toExpressStore, type ExpressStore } from '../../../lib/express-store/index.js';
import { mustCreate } from '../../../lib/testing/kit.js';

type Callback = (error: unknown, result?: unknown) => void;

/** A store over a Map; its methods can be replaced. */
class MapStore extends EventEmitter {
  readonly map = new Map<string, string>();
  get(sid: string, callback: Callback): void {
    const text = this.map.get(sid);
    callback(null, text === undefined ? undefined : JSON.parse(text));
  }
  set(sid: string, value: unknown, callback?: Callback): void {
    this.map.set(sid, JSON.stringify(value));
    callback?.(null);
  }
  destroy(sid: string, callback?: Callback): void {
    this.map.delete(sid);
    callback?.(null);
  }
}

async function idsIn(all: AsyncIterable<SessionRecord>): Promise<string[]> {
  const ids: string[] = [];
  for await (const { id } of all) ids.push(id);
  return ids;
}

const SID = 'abcdefghijklmnopqrstuvwxyz012345';
const cookie = { originalMaxAge: 60_000, expires: new Date(Date.now() + 60_000), httpOnly: true, path: '/' };
const getFrom = (store: ReturnType<typeof toExpressStore>, sid = SID) =>
  new Promise<Record<string, unknown> | null>((resolve, reject) =>
    store.get(sid, (error, found) => (error ? reject(error as Error) : resolve(found as never))),
  );
const run = (start: (done: (error?: unknown) => void) => void) =>
  new Promise<void>((resolve, reject) => start((error) => (error ? reject(error as Error) : resolve())));

describe('fromExpressStore', () => {
  it.each([
    ['an express session', { cookie, views: 1 }],
    ['a record without data', { cookie, sessionkit: { id: 'x' } }],
    ['a record that is null', { cookie, sessionkit: null }],
    ['an array', []],
    ['a string', 'text'],
  ])('get() of %s is null', async (_, value) => {
    const foreign = new MapStore();
    const store = fromExpressStore(foreign);
    const { record } = await mustCreate(store);
    foreign.map.set(record.id, JSON.stringify(value));
    expect(await store.get(record.id)).toBeNull();
  });

  it('get() of a record that lies under another id is null', async () => {
    const foreign = new MapStore();
    const store = fromExpressStore(foreign);
    const { record } = await mustCreate(store);
    foreign.map.set('x'.repeat(23), foreign.map.get(record.id)!);
    expect(await store.get('x'.repeat(23))).toBeNull();
  });

  it('all() finds its records in an array, with and without ids, and in an object by sid, and nothing else', async () => {
    const foreign = new MapStore();
    const store = fromExpressStore(foreign);
    const { record } = await mustCreate(store);
    foreign.map.set('foreign', JSON.stringify({ cookie, views: 1 }));
    const values = () => [...foreign.map].map(([id, text]) => ({ id, session: JSON.parse(text) as object }));
    for (const found of [
      () => values().map(({ session }) => session),
      () => values().map(({ id, session }) => ({ ...session, id })),
      () => Object.fromEntries(values().map(({ id, session }) => [id, session])),
    ]) {
      Object.assign(foreign, { all: (callback: Callback) => callback(null, found()) });
      expect(await idsIn(store.all())).toEqual([record.id]);
    }
    Object.assign(foreign, { all: (callback: Callback) => callback(null, undefined) });
    expect(await idsIn(store.all())).toEqual([]);
  });

  it.each([
    ['never calls back', () => undefined, /no answer within 50 ms/],
    ['calls back with an error', (_: string, callback: Callback) => callback(new Error('down')), /failed/],
    [
      'throws',
      () => {
        throw new Error('down');
      },
      /failed/,
    ],
    ['rejects', () => Promise.reject(new Error('down')), /failed/],
  ])('a store that %s is unavailable', async (_, get, message) => {
    const store = fromExpressStore(Object.assign(new MapStore(), { get }) as ExpressStore, { timeoutMs: 50 });
    await expect(store.get('x'.repeat(23))).rejects.toMatchObject({
      code: 'SESSION_STORE_UNAVAILABLE',
      message: expect.stringMatching(message) as string,
    });
  });

  it('ENOENT means that there is none, as to express-session', async () => {
    const get = (_: string, callback: Callback): void =>
      callback(Object.assign(new Error('no file'), { code: 'ENOENT' }));
    expect(await fromExpressStore(Object.assign(new MapStore(), { get })).get('x'.repeat(23))).toBeNull();
  });

  it('fails at once between disconnect and connect', async () => {
    const foreign = new MapStore();
    const store = fromExpressStore(foreign);
    foreign.emit('disconnect');
    await expect(store.get('x'.repeat(23))).rejects.toThrow(/MapStore says that it is disconnected/);
    foreign.emit('connect');
    expect(await store.get('x'.repeat(23))).toBeNull();
    await store.close();
    expect([foreign.listenerCount('connect'), foreign.listenerCount('disconnect')]).toEqual([0, 0]);
  });

  it('serves a module without all(); getAllSessions() says which store lacks it', async () => {
    const imports = [SessionModule.forRoot({ store: fromExpressStore(new MapStore()) })];
    const app = await Test.createTestingModule({ imports }).compile();
    await app.init();
    onTestFinished(() => app.close());
    const sessions = app.get(SessionService);
    const { token } = await sessions.create({ n: 1 });
    await sessions.update(token, { n: 2 });
    expect((await sessions.get(token))?.data).toEqual({ n: 2 });
    await expect(app.get(SessionRegistry).getAllSessions()).rejects.toThrow(/MapStore.*no method all\(\)/);
    await sessions.destroy(token);
    expect(await sessions.get(token)).toBeNull();
  });

  it.each([
    [undefined, {}, /"store".*got undefined/],
    [new Map(), {}, /"store".*got Map, without destroy|"store".*without/],
    [new MapStore(), { timeout: 5 }, /"options.timeout" is not known.*timeoutMs/],
    [new MapStore(), { timeoutMs: 0 }, /"timeoutMs".*got 0/],
  ])('refuses %o with %o', (store, options, message) => {
    expect(() => fromExpressStore(store as never, options as never)).toThrow(message);
  });
});

describe('toExpressStore', () => {
  it.each([
    [new session.MemoryStore(), {}, /"store".*no create\(\)/],
    [new MemorySessionStore(), { tll: 5 }, /"options.tll" is not known.*ttl/],
    [new MemorySessionStore(), { ttl: 60 }, /"options.ttl".*got 60/],
    [new MemorySessionStore(), { ttl: 'soon' }, /"options.ttl".*got "soon"/],
    [new MemorySessionStore(), { partitions: 0 }, /"options.partitions".*got 0/],
    [new MemorySessionStore(), { codec: {} }, /"options.codec".*encode/],
    [new MemorySessionStore(), { codec: null }, /"options.codec".*encode/],
    [
      new MemorySessionStore(),
      { codec: { encode: () => 'x', decode: () => ({}) } },
      /"codec".*decoded something/,
    ],
    [new MemorySessionStore(), { fallback: {} }, /"options.fallback".*without get/],
    [new MemorySessionStore(), { timeoutMs: 0 }, /"options.timeoutMs".*got 0/],
    [new MemorySessionStore(), { absoluteTimeout: 5 }, /"options.absoluteTimeout".*or 0 for none; got 5/],
    [new MemorySessionStore(), { absoluteTimeout: '36501d' }, /"options.absoluteTimeout".*got "36501d"/],
  ])('refuses %o with %o', (store, options, message) => {
    expect(() => toExpressStore(store as never, options as never)).toThrow(message);
  });

  it('a sid that no token can be is no session, and cannot be saved', async () => {
    const store = toExpressStore(new MemorySessionStore());
    for (const sid of ['short', 'with spaces in it, and long', 'x'.repeat(129), 'A'.repeat(44)]) {
      expect(await getFrom(store, sid)).toBeNull();
      await expect(run((done) => store.set(sid, { cookie }, done))).rejects.toThrow(/"sid".*genid/);
    }
  });

  it('the module reads what express-session wrote, and the other way round, with the sid as token', async () => {
    const sessions = new MemorySessionStore();
    const store = toExpressStore(sessions);
    const imports = [SessionModule.forRoot({ store: sessions, allowGivenTokens: true })];
    const app = await Test.createTestingModule({ imports }).compile();
    await app.init();
    onTestFinished(() => app.close());
    const service = app.get<SessionService<{ views?: number; at?: Date }>>(SessionService);
    await run((done) => store.set(SID, { cookie, views: 1 }, done));
    expect((await service.get(SID))?.data.views).toBe(1);
    await service.update(SID, { at: new Date(5) });
    const found = (await getFrom(store))!;
    expect(found).toMatchObject({ views: 1, at: new Date(5) });
    found.views = 2;
    await run((done) => store.set(SID, found, done));
    // What the request did not change keeps its type, which JSON would have lost.
    expect((await service.get(SID))?.data).toMatchObject({ views: 2, at: new Date(5) });
    await run((done) => store.destroy(SID, done));
    expect(await service.get(SID)).toBeNull();
  });

  it('cookie.expires is the deadline in the store', async () => {
    const sessions = new MemorySessionStore();
    const store = toExpressStore(sessions);
    await run((done) => store.set(SID, { cookie }, done));
    for await (const { lastAccess } of sessions.all())
      expect((await getFrom(store))?.cookie).toEqual({ ...cookie, expires: new Date(lastAccess + 60_000) });
  });

  it.each([
    ['ahead', 3_600_000],
    ['behind', -3_600_000],
  ])(
    'a process whose wall clock is an hour %s of the store’s gets cookie.expires by its own, and ends nothing by it',
    async (_, skew) => {
      const sessions = new MemorySessionStore({ clock: { wall: () => Date.now() - skew } });
      const store = toExpressStore(sessions);
      for (const one of [cookie, { ...cookie, originalMaxAge: null }]) {
        const expires = new Date(Date.now() + 60_000);
        await run((done) => store.set(SID, { cookie: { ...one, expires }, n: 1 }, done));
        const found = (await getFrom(store)) as { cookie: { expires: Date }; n: number };
        expect(Math.abs(found.cookie.expires.getTime() - expires.getTime())).toBeLessThan(5_000);
        found.n = 2;
        await run((done) => store.set(SID, found, done));
        expect(await getFrom(store)).toMatchObject({ n: 2 });
        for await (const { idleTimeout } of sessions.all())
          expect(Math.abs(idleTimeout - 60_000)).toBeLessThan(5_000);
      }
    },
  );

  it('keys named __proto__ are data: they stay stored, and are no prototype', async () => {
    const sessions = new MemorySessionStore();
    const store = toExpressStore(sessions);
    await run((done) =>
      store.set(
        SID,
        JSON.parse(
          '{"cookie":{"originalMaxAge":60000},"__proto__":{"admin":true},"a":{"__proto__":{"b":1}}}',
        ),
        done,
      ),
    );
    const found = (await getFrom(store))!;
    expect([Object.getPrototypeOf(found), found.admin]).toEqual([Object.prototype, undefined]);
    expect(Object.hasOwn(found, '__proto__')).toBe(false); // assigned field by field, it would become one
    found.n = 1;
    await run((done) => store.set(SID, found, done));
    for await (const { data } of sessions.all()) expect(data).toContain('"__proto__":{"admin":true}');
  });

  it('with a fallback: a session destroyed by another process while it is being moved stays gone', async () => {
    const old = new MapStore();
    const sessions = new MemorySessionStore();
    const store = toExpressStore(sessions, { fallback: old });
    old.map.set(SID, JSON.stringify({ cookie, views: 1 }));
    const create = sessions.create.bind(sessions);
    sessions.create = async (wanted) => {
      const created = await create(wanted);
      old.map.delete(SID); // the other process, which has looked here before
      return created;
    };
    expect(await getFrom(store)).toBeNull();
    expect(await sessions.length()).toBe(0);
  });

  it('with a fallback: one destroyed in this process meanwhile stays gone, and parallel requests move it once', async () => {
    const old = new MapStore();
    const sessions = new MemorySessionStore();
    const store = toExpressStore(sessions, { fallback: old });
    old.map.set(SID, JSON.stringify({ cookie, views: 1 }));
    const all = await Promise.all([getFrom(store), getFrom(store), getFrom(store)]);
    expect(all.map((found) => found?.views)).toEqual([1, 1, 1]);
    expect([old.map.size, await sessions.length()]).toEqual([0, 1]);
    old.map.set(`${SID}2`, JSON.stringify({ cookie, views: 1 }));
    await Promise.all([getFrom(store, `${SID}2`), run((done) => store.destroy(`${SID}2`, done))]);
    expect([old.map.size, await sessions.length()]).toEqual([0, 1]);
  });

  it('with a fallback: what is over there is not moved', async () => {
    const old = new MapStore();
    const store = toExpressStore(new MemorySessionStore(), { fallback: old });
    old.map.set(SID, JSON.stringify({ cookie: { ...cookie, expires: new Date(Date.now() - 1) }, views: 1 }));
    expect(await getFrom(store)).toBeNull();
  });

  it.each([
    ['ahead', 3_600_000],
    ['behind', -3_600_000],
  ])(
    'with a fallback: what is over shows by the clock of the store, though ours is an hour %s',
    async (_, skew) => {
      const wall = () => Date.now() - skew;
      const old = new MapStore();
      const store = toExpressStore(new MemorySessionStore({ clock: { wall } }), { fallback: old });
      const put = (left: number) =>
        old.map.set(
          SID,
          JSON.stringify({ cookie: { ...cookie, expires: new Date(wall() + left) }, views: 1 }),
        );
      put(-1);
      expect(await getFrom(store)).toBeNull();
      put(60_000);
      expect(await getFrom(store)).toMatchObject({ views: 1 });
    },
  );

  const KEY = Uint8Array.from({ length: 32 }, (_, index) => index);
  it.each<[string, () => SessionCodec | SimpleCodec]>([
    ['a Packr', () => new Packr({ structuredClone: true })],
    ['encrypted(default)', () => encrypted(defaultCodec, { keys: [KEY] })],
    ['encrypted(Packr)', () => encrypted(new Packr({ structuredClone: true }), { keys: [KEY] })],
    ['the default', () => defaultCodec],
  ])(
    'with %s as codec here and there, the module reads what is written here and the other way round',
    async (_, codec) => {
      const sessions = new MemorySessionStore();
      const store = toExpressStore(sessions, { codec: codec() });
      const options = { store: sessions, allowGivenTokens: true, codec: codec() };
      const app = await Test.createTestingModule({ imports: [SessionModule.forRoot(options)] }).compile();
      await app.init();
      onTestFinished(() => app.close());
      const service = app.get<SessionService<{ views?: number; at?: Date; name?: string }>>(SessionService);
      await run((done) => store.set(SID, { cookie, views: 1, name: 'Zoë' }, done));
      expect((await service.get(SID))?.data).toMatchObject({ views: 1, name: 'Zoë' });
      await service.update(SID, { at: new Date(5) });
      const found = (await getFrom(store))!;
      expect(found).toMatchObject({ views: 1, name: 'Zoë', at: new Date(5) });
      found.views = 2;
      await run((done) => store.set(SID, found, done));
      expect((await service.get(SID))?.data).toMatchObject({ views: 2, at: new Date(5) });
      const token = 'made-by-the-module-0123456789';
      await service.create({ name: 'theirs' }, { token });
      expect(await getFrom(store, token)).toMatchObject({ name: 'theirs' });
    },
  );

  it('absoluteTimeout ends a session whatever its use; without it there is none', async () => {
    const sessions = new MemorySessionStore();
    await run((done) => toExpressStore(sessions).set(SID, { cookie }, done));
    const limited = toExpressStore(sessions, { absoluteTimeout: '1h', fallback: oldStore() });
    await run((done) => limited.set(`${SID}2`, { cookie }, done));
    await getFrom(limited, OLD);
    const lives: number[] = [];
    for await (const { createdAt, absoluteDeadline } of sessions.all())
      lives.push(absoluteDeadline && absoluteDeadline - createdAt);
    expect(lives.sort((one, other) => one - other)).toEqual([0, 3_600_000, 3_600_000]);
  });

  it('a stored cookie with a key __proto__ gets no other prototype', async () => {
    const store = toExpressStore(new MemorySessionStore());
    session({ store: store as never, secret: 's', resave: false, saveUninitialized: false });
    const given = '{"cookie":{"originalMaxAge":60000,"__proto__":{"evil":true}},"n":1}';
    await run((done) => store.set(SID, JSON.parse(given), done));
    for (const stored of [(await getFrom(store))!, JSON.parse(given) as Record<string, unknown>]) {
      const made = store.createSession({ sessionID: SID }, stored) as session.SessionData & { n: number };
      expect(made.n).toBe(1);
      expect((made.cookie as unknown as Record<string, unknown>).evil).toBeUndefined();
      expect(made.cookie).toBeInstanceOf(session.Cookie);
    }
    expect(Object.hasOwn((await getFrom(store))!.cookie as object, '__proto__')).toBe(false);
  });

  it('set() of a session that another codec has overwritten meanwhile drops it, and leaves what is there', async () => {
    const sessions = new MemorySessionStore();
    const store = toExpressStore(sessions);
    const gone: unknown[] = [];
    store.on('gone', (event) => gone.push(event));
    await run((done) => store.set(SID, { cookie, n: 1 }, done));
    const found = (await getFrom(store))!;
    for await (const base of sessions.all())
      expect(await sessions.set({ base, data: '=foreign', keepExpiry: true })).toMatchObject({
        status: 'written',
      });
    found.n = 2;
    await run((done) => store.set(SID, found, done));
    for await (const { data } of sessions.all()) expect(data).toBe('=foreign');
    expect([gone.length, await sessions.length()]).toEqual([1, 1]);
  });
});

const OLD = 'old-abcdefghijklmnopqrstuvwxyz01';
function oldStore(): MapStore {
  const old = new MapStore();
  old.map.set(OLD, JSON.stringify({ cookie, views: 1 }));
  return old;
}
const down = (...args: unknown[]) => (args.at(-1) as Callback)(new Error('old store is down'));
/** Lets one method fail or hang from its call number `from` on. */
function breakFrom(
  old: MapStore,
  method: 'get' | 'destroy',
  from: number,
  broken: (...args: unknown[]) => unknown,
) {
  const works = old[method].bind(old) as (...args: unknown[]) => unknown;
  let calls = 0;
  const replaced = (...args: unknown[]) => (++calls < from ? works(...args) : broken(...args));
  Object.assign(old, { [method]: replaced });
  return { calls: () => calls, mend: () => Object.assign(old, { [method]: works }) };
}
const hang = () => undefined;

describe('toExpressStore with a fallback that is ill', () => {
  it('get() that is never answered fails after timeoutMs, and later ones work', async () => {
    const old = oldStore();
    const store = toExpressStore(new MemorySessionStore(), { fallback: old, timeoutMs: 50 });
    const { mend } = breakFrom(old, 'get', 1, hang);
    const error = await getFrom(store, OLD).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(SessionStoreUnavailableError);
    expect((error as Error).message).toMatch(/no answer of MapStore within 50 ms/);
    mend();
    expect(await getFrom(store, OLD)).toMatchObject({ views: 1 });
  });

  it('destroy() works at once while get() waits for an answer, and that one moves nothing when it comes', async () => {
    const old = oldStore();
    const sessions = new MemorySessionStore();
    const store = toExpressStore(sessions, { fallback: old, timeoutMs: 600_000 });
    let answer = (): void => undefined;
    const { mend } = breakFrom(old, 'get', 1, (_, callback) => {
      answer = () => (callback as Callback)(null, { cookie, views: 1 });
    });
    const waiting = getFrom(store, OLD);
    await expect.poll(() => answer.name).toBe('answer');
    await run((done) => store.destroy(OLD, done));
    mend();
    expect(await getFrom(store, OLD)).toBeNull(); // does not share the one that hangs
    const create = sessions.create.bind(sessions);
    let created = 0;
    sessions.create = (wanted) => {
      created++;
      return create(wanted);
    };
    answer();
    expect([await waiting, created, await sessions.length()]).toEqual([null, 0, 0]);
  });

  it('destroy() waits for a move that is writing here already, and ends what it wrote', async () => {
    const old = oldStore();
    const sessions = new MemorySessionStore();
    const store = toExpressStore(sessions, { fallback: old });
    const create = sessions.create.bind(sessions);
    let go = (): void => undefined;
    const gate = new Promise<void>((resolve) => (go = resolve));
    let isAsked = false;
    sessions.create = async (wanted) => {
      isAsked = true;
      await gate;
      return create(wanted);
    };
    const waiting = getFrom(store, OLD);
    await expect.poll(() => isAsked).toBe(true);
    const works = old.destroy.bind(old);
    let calls = 0; // the first is that of the logout: it fails, so that only what ends ours again is left
    old.destroy = (sid, callback) => (++calls === 1 ? down(sid, callback) : works(sid, callback));
    const ended = run((done) => store.destroy(OLD, done)).catch(String);
    await expect.poll(() => calls).toBe(1);
    go();
    expect((await Promise.all([waiting, ended]))[1]).toMatch(/old store is down/);
    expect([await sessions.length(), old.map.size]).toEqual([0, 0]);
  });

  it.each([
    ['fails', down, /old store is down/],
    ['hangs', hang, /no answer of MapStore within 50 ms/],
  ])(
    'destroy() of one that is here ends it though the old store %s, and reports that',
    async (_, broken, message) => {
      const old = oldStore();
      const sessions = new MemorySessionStore();
      const store = toExpressStore(sessions, { fallback: old, timeoutMs: 50 });
      await getFrom(store, OLD);
      expect(await sessions.length()).toBe(1);
      breakFrom(old, 'destroy', 1, (...args) => {
        atDestroy = sessions.length();
        return broken(...args);
      });
      let atDestroy: Promise<number> | undefined;
      await expect(run((done) => store.destroy(OLD, done))).rejects.toThrow(message);
      expect([await atDestroy, await sessions.length()]).toEqual([0, 0]); // ours went first
    },
  );

  it.each([
    ['has no clear()', undefined, /MapStore\) has no method clear\(\)/],
    ['fails', down, /old store is down/],
    ['hangs', hang, /no answer of MapStore within 50 ms/],
  ])('clear() ends ours though the old store %s, and reports that', async (_, clear, message) => {
    const sessions = new MemorySessionStore();
    const fallback = Object.assign(new MapStore(), clear && { clear });
    const store = toExpressStore(sessions, { fallback: fallback as ExpressStore, timeoutMs: 50 });
    await run((done) => store.set(SID, { cookie }, done));
    await expect(run((done) => store.clear(done))).rejects.toThrow(message);
    expect(await sessions.length()).toBe(0);
  });

  it.each([
    ['destroy() fails', 'destroy', 1, down, /old store is down/],
    ['destroy() hangs', 'destroy', 1, hang, /no answer of MapStore within 50 ms/],
    ['second get() fails', 'get', 2, down, /old store is down/],
    ['second get() hangs', 'get', 2, hang, /no answer of MapStore within 50 ms/],
  ] as const)(
    'a move whose %s leaves the old copy alone, and the next request moves it',
    async (_, method, from, broken, message) => {
      const old = oldStore();
      const sessions = new MemorySessionStore();
      const store = toExpressStore(sessions, { fallback: old, timeoutMs: 50 });
      const { mend } = breakFrom(old, method, from, broken);
      await expect(getFrom(store, OLD)).rejects.toThrow(message);
      expect([await sessions.length(), old.map.size]).toEqual([0, 1]);
      mend();
      expect(await getFrom(store, OLD)).toMatchObject({ views: 1 });
      expect([await sessions.length(), old.map.size]).toEqual([1, 0]);
    },
  );
});

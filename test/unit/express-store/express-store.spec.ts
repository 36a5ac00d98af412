// Both adapters against stores that misbehave, and options that are wrong.
import { EventEmitter } from 'node:events';
import { Test } from '@nestjs/testing';
import session from 'express-session';
import { describe, expect, it, onTestFinished } from 'vitest';
import {
  MemorySessionStore,
  SessionModule,
  SessionRegistry,
  SessionService,
  type SessionRecord,
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
    [new MemorySessionStore(), { fallback: {} }, /"options.fallback".*without get/],
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
});

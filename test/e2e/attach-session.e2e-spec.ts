// Sessions of plain node:http servers, field by field: what generic-session had, over each store.
import { EventEmitter, once } from 'node:events';
import { Agent, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import { Controller, Get, Req, Res } from '@nestjs/common';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  ActiveSession,
  HttpSessionService,
  Session,
  SessionArgumentError,
  SessionStoreUnavailableError,
  type FieldCallback,
  type FieldSession,
} from '../../lib/index.js';
import { RedisServer } from '../support/redis-server.js';
import { attributesOf, CookieJar, cookieOf } from './support/http-client.js';
import { bootContext, PlainServer, STORES, type PlainHandler } from './support/plain-server.js';
import { startApp } from './support/test-app.js';
import { WrappedStore } from './support/wrapped-store.js';

const CROSS_SITE = { statusCode: 403, message: 'This request came from another site' };
const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };

/** What a callback was called with; fails the test if it is not called once. */
function called<V>(use: (callback: FieldCallback<V>) => unknown): Promise<[error: unknown, value?: V]> {
  return new Promise((resolve, reject) => {
    let calls = 0;
    const result = use((...given) => {
      if (++calls > 1) reject(new Error('called twice'));
      setImmediate(() => resolve(given));
    });
    if (result !== undefined) reject(new Error('a method with a callback returned something'));
  });
}

/** A store that takes its time, so that whoever does not wait for it is found out. */
class SlowStore extends WrappedStore {
  override async create(session: Parameters<WrappedStore['create']>[0]) {
    await delay(60);
    return super.create(session);
  }

  override async set(change: Parameters<WrappedStore['set']>[0]) {
    await delay(60);
    return super.set(change);
  }
}

/** A client with a session that holds these fields. */
async function clientWith(server: PlainServer, fields: Record<string, unknown>): Promise<CookieJar> {
  const client = server.client();
  await server.run(client, async (session, response) => {
    for (const [key, value] of Object.entries(fields)) await session.set(key, value);
    response.end();
  });
  expect(await server.stored(client.value())).toEqual(fields);
  return client;
}

const NOTHING = undefined;

describe.each(STORES)('attachSession over %s', (store) => {
  const start = (session = {}) => PlainServer.start(store, session);

  describe('by promise', () => {
    it('what get() and getAll() give is the caller’s own: changing it changes nothing here or in the store', async () => {
      const server = await start();
      const client = await clientWith(server, { cart: { items: ['book'] }, list: [1] });
      type Cart = { items: string[] };
      const seen = await server.value(client, async (session) => {
        ((await session.get('cart')) as Cart).items.push('by get');
        ((await session.get('list')) as number[]).push(2);
        const all = await session.getAll();
        (all['cart'] as Cart).items.push('by getAll');
        all['added'] = true;
        delete all['list'];
        await new Promise<void>((resolve) => {
          session.get('cart', (_error, cart) => {
            (cart as Cart).items.push('by a callback of get');
            session.getAll((_failed, fields) => {
              (fields!['cart'] as Cart).items.push('by a callback of getAll');
              resolve();
            });
          });
        });
        return [await session.get('cart'), await session.get('list'), await session.getAll()];
      });
      const [cart, list] = [{ items: ['book'] }, [1]];
      expect(seen).toEqual([cart, list, { cart, list }]);
      expect(await server.stored(client.value())).toEqual({ cart, list });
      // What is written is read back, as a copy too.
      const written = await server.value(client, async (session) => {
        const own = { items: ['pen'] };
        await session.set('cart', own);
        own.items.push('after set()');
        ((await session.get('cart')) as Cart).items.push('by get');
        await session.set('list', [3]);
        return session.getAll();
      });
      const stored = (await server.stored(client.value()))!;
      expect(written).toEqual(stored);
      expect(stored['list']).toEqual([3]);
      expect((stored['cart'] as Cart).items).not.toContain('by get');
    });

    it('a cross-site POST that changes what it has read stores nothing', async () => {
      const server = await start();
      const client = await clientWith(server, { cart: { items: ['book'] } });
      const { status } = await server.run(
        client,
        async (session, response) => {
          ((await session.get('cart')) as { items: string[] }).items.push('planted');
          ((await session.getAll())['cart'] as { items: string[] }).items.push('planted');
          response.end('done');
        },
        { method: 'POST', headers: { 'sec-fetch-site': 'cross-site' } },
      );
      expect(status).toBe(200);
      expect(await server.stored(client.value())).toEqual({ cart: { items: ['book'] } });
    });

    it('set() writes at once, get() and getAll() read in the same request and in the next', async () => {
      const server = await start();
      const client = server.client();
      const seen = await server.value(client, async (session) => {
        const set = await session.set('foo', 'bar');
        return [set ?? 'nothing', await session.get('foo'), await session.getAll()];
      });
      expect(seen).toEqual(['nothing', 'bar', { foo: 'bar' }]);
      expect(await server.stored(client.value())).toEqual({ foo: 'bar' });
      expect(await server.value(client, (session) => session.get('foo'))).toBe('bar');
      expect(await server.value(client, (session) => session.getAll())).toEqual({ foo: 'bar' });
    });

    it('set() without a value stores null', async () => {
      const server = await start();
      const client = await clientWith(server, { foo: 'bar' });
      await server.value(client, (session) => session.set('foo'));
      expect(await server.stored(client.value())).toEqual({ foo: null });
      expect(await server.value(client, (session) => session.get('foo'))).toBeNull();
    });

    it('set() keeps falsy values as they are', async () => {
      const server = await start();
      const values = { no: false, zero: 0, empty: '', none: null };
      await clientWith(server, values);
    });

    it('get() of a field that is not there is undefined, names of Object.prototype included', async () => {
      const server = await start();
      const client = await clientWith(server, { foo: 'bar' });
      const keys = ['bar', 'toString', '__proto__', 'constructor', ''];
      const seen = await server.value(client, async (session) => {
        const values = [];
        for (const key of keys) values.push((await session.get(key)) === undefined);
        return values;
      });
      expect(seen).toEqual(keys.map(() => true));
    });

    it('get() without a field resolves to undefined', async () => {
      const server = await start();
      const client = await clientWith(server, { foo: 'bar' });
      expect(await server.value(client, async (session) => (await session.get()) === NOTHING)).toBe(true);
    });

    it('getAll() is an object of its own: changing it changes nothing', async () => {
      const server = await start();
      const client = await clientWith(server, { foo: 'bar' });
      const seen = await server.value(client, async (session) => {
        Object.assign(await session.getAll(), { foo: 'changed', more: 1 });
        return session.getAll();
      });
      expect(seen).toEqual({ foo: 'bar' });
      expect(await server.stored(client.value())).toEqual({ foo: 'bar' });
    });

    it('getAll() of a visitor without a session is empty', async () => {
      const server = await start();
      expect(await server.value(server.client(), (session) => session.getAll())).toEqual({});
    });

    it('del() of a field removes it and nothing else', async () => {
      const server = await start();
      const client = await clientWith(server, { a: 1, b: 2 });
      expect(await server.value(client, (session) => session.del('a'))).toBeUndefined();
      expect(await server.stored(client.value())).toEqual({ b: 2 });
      await server.value(client, (session) => session.del('not there'));
      expect(await server.stored(client.value())).toEqual({ b: 2 });
    });

    it.each<[string, (session: FieldSession) => unknown]>([
      ['del() without a field', (session) => session.del()],
      ['delAll()', (session) => session.delAll()],
    ])('%s removes all fields; session and cookie live on', async (_name, use) => {
      const server = await start();
      const client = await clientWith(server, { a: 1, b: 2 });
      const token = client.value();
      const { cookies } = await server.run(client, async (session, response) => {
        await use(session);
        response.end();
      });
      expect(cookies).toEqual([]);
      expect(await server.stored(token)).toEqual({});
      await server.value(client, (session) => session.set('c', 3));
      expect([client.value(), await server.stored(token)]).toEqual([token, { c: 3 }]);
    });

    it('destroy() ends the session, and removes the cookie with the attributes it was set with', async () => {
      const server = await start();
      const client = await clientWith(server, { a: 1 });
      const token = client.value();
      const { cookies, headers } = await server.run(client, async (session, response) => {
        await session.destroy();
        response.end();
      });
      expect(cookies).toHaveLength(1);
      expect(cookies[0]).toMatch(/^sid=;/);
      expect(attributesOf(cookies[0]!)).toEqual([
        'Expires=Thu, 01 Jan 1970 00:00:00 GMT',
        'HttpOnly',
        'Max-Age=0',
        'Path=/',
        'SameSite=Lax',
      ]);
      expect(headers['cache-control']).toBe('no-store');
      expect([await server.stored(token), client.value()]).toEqual([null, undefined]);
    });

    it('after destroy() nothing is there, and set() is refused: the visitor is a new one with the next request', async () => {
      const server = await start();
      const client = await clientWith(server, { a: 1 });
      const seen = await server.value(client, async (session) => {
        await session.destroy();
        const read = [await session.getAll(), (await session.get('a')) === undefined];
        return [...read, await session.set('b', 2).catch((error: { code: string }) => error.code)];
      });
      expect(seen).toEqual([{}, true, 'SESSION_GONE']);
      await server.value(client, (session) => session.set('c', 3));
      expect(await server.stored(client.value())).toEqual({ c: 3 });
    });

    it('destroy() of a visitor without a session does nothing, and sets no cookie', async () => {
      const server = await start();
      const { status, cookies } = await server.run(server.client(), async (session, response) => {
        await session.destroy();
        response.end();
      });
      expect([status, cookies]).toEqual([200, []]);
    });
  });

  describe('by callback', () => {
    it('each method calls back once with null and its value, and returns nothing', async () => {
      const server = await start();
      const client = await clientWith(server, { a: 1, b: 2, c: 3 });
      const calls: Record<string, unknown> = {};
      await server.run(client, async (session, response) => {
        calls.get = await called((done) => session.get('a', done));
        calls.absent = await called((done) => session.get('none', done));
        calls.getAlone = await called((done) => session.get(done));
        calls.getAll = await called((done) => session.getAll(done));
        calls.set = await called((done: FieldCallback<void>) => session.set('a', 'one', done));
        calls.setNull = await called((done: FieldCallback<void>) => session.set('b', done));
        calls.del = await called((done: FieldCallback<void>) => session.del('c', done));
        calls.between = await called((done) => session.getAll(done));
        calls.delAlone = await called((done: FieldCallback<void>) => session.del(done));
        calls.empty = await called((done) => session.getAll(done));
        await session.set('d', 4);
        calls.delAll = await called((done: FieldCallback<void>) => session.delAll(done));
        calls.emptyAgain = await called((done) => session.getAll(done));
        calls.destroy = await called((done: FieldCallback<void>) => session.destroy(done));
        response.end();
      });
      const nothing = [null, undefined];
      expect(calls).toEqual({
        get: [null, 1],
        absent: nothing,
        getAlone: [null, { a: 1, b: 2, c: 3 }],
        getAll: [null, { a: 1, b: 2, c: 3 }],
        set: nothing,
        setNull: nothing,
        del: nothing,
        between: [null, { a: 'one', b: null }],
        delAlone: nothing,
        empty: [null, {}],
        delAll: nothing,
        emptyAgain: [null, {}],
        destroy: nothing,
      });
      expect(client.value()).toBeUndefined();
    });

    it('the example of generic-session: writeHead first, then the answer from the callback', async () => {
      const server = await start();
      const example: PlainHandler = (session, response, request) => {
        response.writeHead(200);
        if (request.headers['x-do'] === 'get') {
          session.get('foo', (_error, data) => response.end(JSON.stringify(data)));
        } else {
          session.set('foo', 'bar', () => response.end(JSON.stringify('bar')));
        }
      };
      const client = server.client();
      expect((await server.run(client, example)).body).toBe('bar');
      expect((await server.run(client, example, { headers: { 'x-do': 'get' } })).body).toBe('bar');
    });

    it('what a callback throws is thrown as by any other callback, and is no failure of the session', async () => {
      const server = await start();
      const uncaught = vi.fn<(error: Error) => void>();
      const others = process.listeners('uncaughtException');
      process.removeAllListeners('uncaughtException').on('uncaughtException', uncaught);
      onTestFinished(() => {
        process.removeAllListeners('uncaughtException');
        for (const other of others) process.on('uncaughtException', other);
      });
      const client = server.client();
      const thrown = new Error('of the app');
      const { status } = await server.run(client, (session, response) => {
        session.set('a', 1, () => {
          response.end('answered');
          throw thrown;
        });
      });
      expect([status, await server.stored(client.value())]).toEqual([200, { a: 1 }]);
      expect(uncaught.mock.calls.map(([error]) => error)).toEqual([thrown]);
    });
  });

  describe('every operation counts as use', () => {
    const uses: [string, (session: FieldSession) => unknown][] = [
      ['get()', (session) => session.get()],
      ['get(key)', (session) => session.get('a')],
      ['get(callback)', (session) => called((done) => session.get(done))],
      ['getAll()', (session) => session.getAll()],
      ['set(key, value)', (session) => session.set('a', 2)],
      ['del(key)', (session) => session.del('a')],
      ['delAll()', (session) => session.delAll()],
    ];
    it.each(uses)('%s extends the life of the session, later in a long request too', async (_name, use) => {
      const server = await start({ touchInterval: '20ms' });
      const client = await clientWith(server, { a: 1 });
      const lastAccess = async () =>
        (await server.sessions.get(client.value(), { fresh: true }))?.lastAccess ?? NaN;
      const times: number[] = [];
      await server.run(client, async (session, response) => {
        await session.get('a'); // the look for the session is a use as well
        times.push(await lastAccess());
        await delay(60);
        times.push(await lastAccess());
        await use(session);
        times.push(await lastAccess());
        response.end();
      });
      const [first = NaN, before, after] = times;
      expect(before).toBe(first);
      expect(after).toBeGreaterThanOrEqual(first + 50);
    });

    it('get() alone, in a request of its own, extends the life and reads nothing for the client', async () => {
      const server = await start({ touchInterval: '20ms' });
      const client = await clientWith(server, { a: 1 });
      const before = await server.sessions.get(client.value(), { fresh: true });
      await delay(60);
      await server.run(client, (session, response) => {
        void session.get();
        response.end();
      });
      const after = await server.sessions.get(client.value(), { fresh: true });
      expect(after!.lastAccess).toBeGreaterThanOrEqual(before!.lastAccess + 50);
    });

    it('a request that attaches a session and does not use it extends nothing', async () => {
      const server = await start({ touchInterval: '20ms' });
      const client = await clientWith(server, { a: 1 });
      const before = await server.sessions.get(client.value(), { fresh: true });
      await delay(60);
      await server.run(client, (_session, response) => response.end());
      const after = await server.sessions.get(client.value(), { fresh: true });
      expect(after!.lastAccess).toBe(before!.lastAccess);
    });
  });

  describe('the response', () => {
    it('waits for a set() that nobody awaits: it is stored when the headers arrive, and has its cookie', async () => {
      const server = await start();
      const client = server.client();
      let stored: unknown = 'not looked';
      const { cookies, headers, text } = await server.run(
        client,
        (session, response) => {
          void session.set('a', 1);
          response.end('done');
        },
        {
          onHeaders: async (_incoming, lines) => (stored = await server.stored(cookieOf({ cookies: lines }))),
        },
      );
      expect([stored, text]).toEqual([{ a: 1 }, 'done']);
      expect(attributesOf(cookies[0]!)).toEqual(['HttpOnly', 'Path=/', 'SameSite=Lax']);
      expect(headers['cache-control']).toBe('no-store');
    });

    it('waits for many that nobody awaits, and each of them is kept', async () => {
      const server = await start();
      const client = server.client();
      const { cookies } = await server.run(client, (session, response) => {
        for (let index = 0; index < 10; index++) void session.set(`f${index}`, index);
        response.end();
      });
      expect(cookies).toHaveLength(1);
      const expected = Object.fromEntries(Array.from({ length: 10 }, (_, index) => [`f${index}`, index]));
      expect(await server.stored(client.value())).toEqual(expected);
    });

    it('carries what was done in the order of the calls: del() and get() after a set() that nobody awaits', async () => {
      const server = await start();
      const handler: PlainHandler = (session, response) => {
        void session.set('a', 1);
        void session.set('b', 2);
        void session.del('a');
        session.getAll((_error, all) => response.end(JSON.stringify(all)));
      };
      const client = server.client();
      for (const who of ['a visitor', 'who has a session']) {
        expect((await server.run(client, handler)).body, who).toEqual({ b: 2 });
        expect(await server.stored(client.value()), who).toEqual({ b: 2 });
      }
    });

    it('a destroy() after a set() that nobody awaits leaves nothing behind', async () => {
      const server = await start();
      const handler: PlainHandler = (session, response) => {
        void session.set('b', 2);
        void session.destroy();
        response.end();
      };
      const visitor = await server.run(server.client(), handler);
      expect([visitor.status, visitor.cookies, await server.store.length()]).toEqual([200, [], 0]);
      const client = await clientWith(server, { a: 1 });
      const { status } = await server.run(client, handler);
      expect([status, client.value(), await server.store.length()]).toEqual([200, undefined, 0]);
    });

    it('of visitors who only read, or remove what is not there, sets nothing and stores nothing', async () => {
      const server = await start();
      const client = server.client();
      const { status, cookies, headers } = await server.run(client, async (session, response) => {
        await session.get();
        await session.get('a');
        await session.getAll();
        await session.del('a');
        await session.del();
        await session.delAll();
        response.end();
      });
      expect([status, cookies, headers['cache-control']]).toEqual([200, [], undefined]);
      expect(await server.store.length()).toBe(0);
    });

    it('sets no cookie again for a client that has it', async () => {
      const server = await start();
      const client = await clientWith(server, { a: 1 });
      const { cookies } = await server.run(client, (session, response) => {
        response.writeHead(200);
        void session.set('a', 2);
        response.end();
      });
      expect([cookies, await server.stored(client.value())]).toEqual([[], { a: 2 }]);
    });

    it('a token that the server did not issue becomes nobody’s session', async () => {
      const server = await start();
      const client = server.client().set('sid', 'A'.repeat(44));
      await server.value(client, (session) => session.set('a', 1));
      expect(client.value()).not.toBe('A'.repeat(44));
      expect(await server.stored(client.value())).toEqual({ a: 1 });
      expect(await server.stored('A'.repeat(44))).toBeNull();
    });
  });

  it('two requests over one connection are two sessions’, and a third finds the first again', async () => {
    const server = await start();
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    onTestFinished(() => agent.destroy());
    const sockets = new Set<unknown>();
    const get = (path: string, cookie?: string) =>
      new Promise<{ cookies: string[]; text: string }>((resolve, reject) => {
        httpRequest(
          server.url + path,
          { agent, headers: cookie === undefined ? {} : { cookie } },
          (incoming) => {
            let text = '';
            incoming.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
            incoming.on('end', () => resolve({ cookies: incoming.headers['set-cookie'] ?? [], text }));
          },
        )
          .on('error', reject)
          .end();
      });
    const path = server.pathOf(async (session, response, { socket }) => {
      sockets.add(socket);
      response.writeHead(200);
      const views = Number((await session.get('views')) ?? 0) + 1;
      void session.set('views', views);
      response.end(String(views));
    });
    const first = await get(path);
    const second = await get(path);
    const [one, two] = [cookieOf(first), cookieOf(second)];
    expect([first.text, second.text, one === two]).toEqual(['1', '1', false]);
    expect((await get(path, `sid=${one}`)).text).toBe('2');
    expect((await get(path, `sid=${two}`)).text).toBe('2');
    expect(sockets.size).toBe(1);
  });
});

// --- What the stores do not decide ----------------------------------------------------------------------------------

const start = (session = {}) => PlainServer.start('memory', session);

describe('writeHead() before the session is used', () => {
  const forms: [string, unknown[], Record<string, string>][] = [
    ['with a status only', [202], {}],
    ['with a reason', [202, 'As You Like'], {}],
    ['with an object', [202, { 'X-Own': '1', 'Content-Type': 'text/plain' }], { 'x-own': '1' }],
    ['with a reason and an object', [202, 'As You Like', { 'X-Own': '1' }], { 'x-own': '1' }],
    [
      'with names and values in turn',
      [202, ['X-Own', '1', 'X-Other', '2']],
      { 'x-own': '1', 'x-other': '2' },
    ],
    [
      'with pairs',
      [
        202,
        [
          ['X-Own', '1'],
          ['X-Other', '2'],
        ],
      ],
      { 'x-own': '1', 'x-other': '2' },
    ],
    ['with undefined for headers', [202, undefined], {}],
  ];
  const moments: [string, (session: FieldSession, response: ServerResponse) => unknown][] = [
    [
      'awaited',
      async (session, response) => {
        await session.set('a', 1);
        response.end('body');
      },
    ],
    [
      'not awaited',
      (session, response) => {
        void session.set('a', 1);
        response.write('bo');
        response.end('dy');
      },
    ],
    ['by callback', (session, response) => session.set('a', 1, () => response.end('body'))],
  ];
  describe.each(moments)('set() %s after writeHead()', (_moment, use) => {
    it.each(forms)('%s: status, headers and the cookie arrive', async (_name, args, expected) => {
      const server = await start({ store: new SlowStore() });
      const client = server.client();
      const { status, headers, cookies, text } = await server.run(client, (session, response) => {
        expect(response.writeHead(...(args as [number]))).toBe(response);
        return use(session, response);
      });
      expect([status, text, cookies.length]).toEqual([202, 'body', 1]);
      expect(headers).toMatchObject({ ...expected, 'cache-control': 'no-store' });
      expect(await server.stored(client.value())).toEqual({ a: 1 });
    });
  });

  it('the reason is the one that writeHead() was given', async () => {
    const server = await start();
    let reason: string | undefined;
    await server.run(
      server.client(),
      (session, response) => {
        response.writeHead(202, 'As You Like');
        void session.set('a', 1);
        response.end();
      },
      { onHeaders: ({ statusMessage }: IncomingMessage) => (reason = statusMessage) },
    );
    expect(reason).toBe('As You Like');
  });

  it.each<[string, unknown]>([
    ['an object', { 'Set-Cookie': 'own=1' }],
    ['an object of several', { 'set-cookie': ['own=1', 'other=2'] }],
    ['names and values in turn', ['Set-Cookie', 'own=1', 'set-cookie', 'other=2']],
    ['pairs', [['Set-Cookie', 'own=1']]],
  ])('the handler’s own cookies in %s arrive with ours, and with one it set before', async (_name, given) => {
    const server = await start();
    const { cookies } = await server.run(server.client(), (session, response) => {
      response.setHeader('Set-Cookie', 'before=0');
      response.writeHead(200, given as never);
      void session.set('a', 1);
      response.end();
    });
    const names = cookies.map((line) => line.slice(0, line.indexOf('='))).sort();
    const own = JSON.stringify(given).includes('other') ? ['other', 'own'] : ['own'];
    expect(names).toEqual(['before', ...own, 'sid']);
  });

  it('the handler’s Cache-Control gives way where a token is handed out, and only there', async () => {
    const server = await start();
    const handler =
      (use: (session: FieldSession) => unknown): PlainHandler =>
      (session, response) => {
        response.writeHead(200, { 'Cache-Control': 'public, max-age=60' });
        void use(session);
        response.end();
      };
    const writes = await server.run(
      server.client(),
      handler((session) => session.set('a', 1)),
    );
    const reads = await server.run(
      server.client(),
      handler((session) => session.get('a')),
    );
    expect(writes.headers['cache-control']).toBe('no-store');
    expect(reads.headers['cache-control']).toBe('public, max-age=60');
  });

  it('headersSent is true from then on, as in Node', async () => {
    const server = await start();
    const seen: boolean[] = [];
    await server.run(server.client(), async (session, response) => {
      seen.push(response.headersSent);
      response.writeHead(200);
      seen.push(response.headersSent);
      await session.set('a', 1);
      seen.push(response.headersSent);
      response.end();
      seen.push(response.headersSent);
    });
    expect(seen).toEqual([false, true, true, true]);
  });

  it('twice: the second throws as Node does, and the first is what is sent', async () => {
    const server = await start();
    let error: unknown;
    const { status } = await server.run(server.client(), async (session, response) => {
      await session.get('a');
      response.writeHead(202);
      try {
        response.writeHead(500);
      } catch (thrown) {
        error = thrown;
      }
      response.end();
    });
    expect(error).toMatchObject({ code: 'ERR_HTTP_HEADERS_SENT' });
    expect(status).toBe(202);
  });

  it('twice, while a set() is under way: the same', async () => {
    const server = await start({ store: new SlowStore() });
    let error: unknown;
    const { status, cookies, text } = await server.run(server.client(), (session, response) => {
      response.writeHead(202);
      void session.set('a', 1);
      try {
        response.writeHead(500);
      } catch (thrown) {
        error = thrown;
      }
      response.end('body');
    });
    expect(error).toMatchObject({ code: 'ERR_HTTP_HEADERS_SENT' });
    expect([status, cookies.length, text]).toEqual([202, 1, 'body']);
  });

  it('HEAD has the cookie and no body', async () => {
    const server = await start();
    const client = server.client();
    const { status, text, cookies } = await server.run(
      client,
      (session, response) => {
        response.writeHead(200, { 'Content-Length': 4 });
        void session.set('a', 1);
        response.end('body');
      },
      { method: 'HEAD' },
    );
    expect([status, text, cookies.length]).toEqual([200, '', 1]);
    expect(await server.stored(client.value())).toEqual({ a: 1 });
  });

  it.each([304, 204])('%d has the cookie and no body', async (code) => {
    const server = await start();
    const client = server.client();
    const { status, text, cookies } = await server.run(client, (session, response) => {
      response.writeHead(code, { ETag: '"1"' });
      void session.set('a', 1);
      response.end();
    });
    expect([status, text, cookies.length]).toEqual([code, '', 1]);
    expect(await server.stored(client.value())).toEqual({ a: 1 });
  });

  it('a stream piped into the response arrives whole, after the session is stored', async () => {
    const server = await start({ store: new SlowStore() });
    const client = server.client();
    const chunks = Array.from({ length: 60 }, (_, index) => String(index % 10).repeat(10_000));
    let stored: unknown;
    const { status, text, headers } = await server.run(
      client,
      (session, response) => {
        response.writeHead(206, { 'X-Own': '1' });
        void session.set('a', 1);
        Readable.from(chunks).pipe(response);
      },
      {
        onHeaders: async (_incoming, lines) => (stored = await server.stored(cookieOf({ cookies: lines }))),
      },
    );
    expect([status, headers['x-own'], stored]).toEqual([206, '1', { a: 1 }]);
    expect(text).toBe(chunks.join(''));
  });

  it('flushHeaders() sends them, with the cookie of a set() that nobody awaits', async () => {
    const server = await start({ store: new SlowStore() });
    const client = server.client();
    const headersArrived = new EventEmitter();
    const arrived = once(headersArrived, 'here');
    const { status, text, cookies } = await server.run(
      client,
      async (session, response) => {
        response.writeHead(202, { 'X-Own': '1' });
        void session.set('a', 1);
        response.flushHeaders();
        await arrived; // or the test runs out of time
        response.end('after');
      },
      { onHeaders: () => headersArrived.emit('here') },
    );
    expect([status, text, cookies.length]).toEqual([202, 'after', 1]);
    expect(await server.stored(client.value())).toEqual({ a: 1 });
  });

  it('is sent as it was given where the session is not used', async () => {
    const server = await start();
    const { status, headers, text, cookies } = await server.run(server.client(), (_session, response) => {
      response.writeHead(418, { 'X-Own': '1', 'Set-Cookie': ['own=1'] }).end('tea');
    });
    expect([status, headers['x-own'], text, cookies]).toEqual([418, '1', 'tea', ['own=1']]);
  });

  it('a client that leaves before the end is no mistake of the app', async () => {
    const server = await start();
    const left = new EventEmitter();
    const done = once(left, 'done');
    const path = server.pathOf(async (session, response) => {
      response.writeHead(200);
      await session.set('a', 1);
      await once(response, 'close');
      response.end('late');
      left.emit('done');
    });
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
    await once(socket, 'connect');
    socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await vi.waitFor(async () => expect(await server.store.length()).toBe(1));
    socket.destroy();
    await done;
    await delay(1_200); // what is forgotten is looked for a second after the end
    expect(server.logs.matching(/^error/)).toEqual([]);
  });
});

describe('a failure', () => {
  const operations: [string, (session: FieldSession, callback?: FieldCallback) => unknown][] = [
    ['get(key)', (session, done) => (done ? session.get('a', done) : session.get('a'))],
    ['getAll()', (session, done) => (done ? session.getAll(done) : session.getAll())],
    ['set(key, value)', (session, done) => (done ? session.set('a', 2, done) : session.set('a', 2))],
    ['del(key)', (session, done) => (done ? session.del('a', done) : session.del('a'))],
    ['delAll()', (session, done) => (done ? session.delAll(done) : session.delAll())],
    ['destroy()', (session, done) => (done ? session.destroy(done) : session.destroy())],
  ];

  async function withSession() {
    const store = new WrappedStore();
    const server = await start({ store });
    return { store, server, client: await clientWith(server, { a: 1 }) };
  }

  describe.each(operations)('of %s', (_name, use) => {
    it.each<[string, (response: ServerResponse) => unknown]>([
      ['end() alone', (response) => response.end('never seen')],
      ['writeHead() and end()', (response) => response.writeHead(201, { 'X-Own': '1' }).end('never seen')],
      ['write() and end()', (response) => void (response.write('never'), response.end('seen'))],
    ])('that nobody takes becomes 503 in place of %s', async (_form, answer) => {
      const { store, server, client } = await withSession();
      store.down = true;
      const { status, body, cookies, headers } = await server.run(client, (session, response) => {
        void use(session);
        answer(response);
      });
      expect([status, body, cookies]).toEqual([503, UNAVAILABLE, []]);
      expect(headers['cache-control']).toBe('no-store');
    });

    it('goes to the callback, and the answer is the handler’s', async () => {
      const { store, server, client } = await withSession();
      store.down = true;
      let given: unknown[] = [];
      const { status, text } = await server.run(client, async (session, response) => {
        given = await called((done) => use(session, done));
        response.writeHead(299).end('mine');
      });
      expect(given).toEqual([expect.any(SessionStoreUnavailableError)]);
      expect([status, text]).toEqual([299, 'mine']);
    });

    it('goes to whoever awaits it, and the answer is the handler’s', async () => {
      const { store, server, client } = await withSession();
      store.down = true;
      const { status, body } = await server.run(client, async (session, response) => {
        try {
          await use(session);
        } catch (error) {
          response.statusCode = 299;
          response.end(JSON.stringify({ code: (error as SessionStoreUnavailableError).code }));
        }
      });
      expect([status, body]).toEqual([299, { code: 'SESSION_STORE_UNAVAILABLE' }]);
    });
  });

  it('that comes when writeHead() and a set() are under way drops the handler’s headers of its body only', async () => {
    const store = new SlowStore();
    const server = await start({ store });
    store.failing = ['create'];
    const { status, headers, body, cookies } = await server.run(server.client(), (session, response) => {
      response.writeHead(200, {
        'Content-Type': 'text/plain',
        'Content-Length': 4,
        ETag: '"1"',
        'Access-Control-Allow-Origin': 'https://app.test',
        'Set-Cookie': 'own=1',
      });
      void session.set('a', 1);
      response.end('body');
    });
    expect([status, body, cookies]).toEqual([503, UNAVAILABLE, []]);
    expect(headers).toMatchObject({
      'content-type': 'application/json; charset=utf-8',
      'access-control-allow-origin': 'https://app.test',
    });
    expect(headers.etag).toBeUndefined();
  });

  it('of one of several that nobody takes is the answer, and what the others wrote stays', async () => {
    const { store, server, client } = await withSession();
    const { status } = await server.run(client, async (session, response) => {
      await session.set('b', 2);
      store.failing = ['set'];
      void session.set('c', 3);
      response.end();
    });
    store.failing = [];
    expect([status, await server.stored(client.value())]).toEqual([503, { a: 1, b: 2 }]);
  });

  it('of a set() once the session has ended elsewhere is 401, and no cookie', async () => {
    const { server, client } = await withSession();
    const { status, cookies } = await server.run(client, async (session, response) => {
      await session.get('a');
      await server.sessions.destroy(client.value());
      void session.set('a', 2);
      response.end();
    });
    expect([status, cookies]).toEqual([401, []]);
  });

  it('of a value that cannot be stored is 500, an error in the log, and nothing stored', async () => {
    const server = await start();
    const { status, cookies } = await server.run(server.client(), (session, response) => {
      void session.set('broken', { inner: Symbol('x') });
      response.end();
    });
    expect([status, cookies, await server.store.length()]).toEqual([500, [], 0]);
    expect(server.logs.matching(/^error The session could not be saved/)).toHaveLength(1);
  });

  it('after the response has gone raises nothing, and what was stored stays', async () => {
    const { store, server, client } = await withSession();
    let ran: Promise<unknown> | undefined;
    await server.run(client, async (session, response) => {
      await session.get('a');
      response.end('gone');
      await once(response, 'close');
      store.down = true;
      ran = new Promise((resolve) => {
        void session.set('a', 2);
        setTimeout(resolve, 50);
      });
    });
    await vi.waitFor(() => expect(ran).toBeDefined());
    await ran;
    store.down = false;
    expect(await server.stored(client.value())).toEqual({ a: 1 });
  });

  it('of a Redis that has stopped: 503 unless taken, and the server goes on when it is back', async () => {
    const redis = await RedisServer.start();
    onTestFinished(() => redis.stop());
    const server = await start({ redis: redis.url, commandTimeout: '300ms', cache: false });
    const client = server.client();
    const set: PlainHandler = (session, response) => {
      response.writeHead(200);
      void session.set('a', 1);
      response.end('ok');
    };
    expect((await server.run(client, set)).status).toBe(200);
    await redis.kill();
    expect((await server.run(client, set)).status).toBe(503);
    const answer = await server.run(client, (session, response) => {
      session.get('a', (error) => {
        response.end(JSON.stringify((error as { code?: string } | null)?.code));
      });
    });
    expect([answer.status, answer.body]).toEqual([200, 'SESSION_STORE_UNAVAILABLE']);
    await redis.restart();
    await vi.waitFor(async () => expect((await server.run(client, set)).status).toBe(200), 5_000);
  });
});

describe('a mistake in the call', () => {
  const mistakes: [string, (session: FieldSession) => unknown, string][] = [
    ['get(1)', (session) => session.get(1 as never), 'key'],
    ['get(null)', (session) => session.get(null as never), 'key'],
    ['get(key, no function)', (session) => session.get('a', 'b' as never), 'callback'],
    ['getAll(no function)', (session) => session.getAll('a' as never), 'callback'],
    ['set()', (session) => session.set(undefined as never), 'key'],
    ['set(null, 1)', (session) => session.set(null as never, 1), 'key'],
    ['set(callback)', (session) => session.set((() => undefined) as never), 'key'],
    ['set({})', (session) => session.set({} as never), 'key'],
    ['del(null)', (session) => session.del(null as never), 'key'],
    ['del(0)', (session) => session.del(0 as never), 'key'],
    ['del(key, no function)', (session) => session.del('a', 1 as never), 'callback'],
    ['delAll(no function)', (session) => session.delAll('a' as never), 'callback'],
    ['destroy(no function)', (session) => session.destroy({} as never), 'callback'],
  ];
  it.each(mistakes)('%s throws where it is made, and does nothing', async (_name, use, argument) => {
    const server = await start();
    const client = await clientWith(server, { a: 1 });
    let error: unknown;
    const { status } = await server.run(client, (session, response) => {
      try {
        void use(session);
      } catch (thrown) {
        error = thrown;
      }
      response.end();
    });
    expect(error).toBeInstanceOf(SessionArgumentError);
    expect(error).toMatchObject({ argument });
    expect([status, await server.stored(client.value())]).toEqual([200, { a: 1 }]);
  });

  it('an option of attachSession() that is not known is named', async () => {
    const { http } = await start();
    expect(() => http.attachSession({} as never, {} as never, { cookie: {} } as never)).toThrow(
      /options\.cookie.*Known: cookies/,
    );
  });
});

describe('requests that other sites cause', () => {
  const evil = { method: 'POST', headers: { origin: 'https://evil.test' } };
  const writes: [string, (session: FieldSession) => unknown][] = [
    ['set()', (session) => session.set('a', 2)],
    ['del()', (session) => session.del('a')],
    ['delAll()', (session) => session.delAll()],
    ['destroy()', (session) => session.destroy()],
  ];
  it.each(writes)('%s of a cross-site POST is 403 and does nothing', async (_name, use) => {
    const server = await start();
    const client = await clientWith(server, { a: 1 });
    const { status, body, cookies } = await server.run(
      client,
      (session, response) => {
        void use(session);
        response.end('never seen');
      },
      evil,
    );
    expect([status, body, cookies]).toEqual([403, expect.objectContaining(CROSS_SITE), []]);
    expect(await server.stored(client.value())).toEqual({ a: 1 });
  });

  it('a visitor’s too: nothing is stored', async () => {
    const server = await start();
    const { status } = await server.run(
      server.client(),
      (session, response) => {
        void session.set('a', 1);
        response.end();
      },
      evil,
    );
    expect([status, await server.store.length()]).toEqual([403, 0]);
  });

  it('the error goes to a callback where there is one', async () => {
    const server = await start();
    const client = await clientWith(server, { a: 1 });
    let given: unknown[] = [];
    const { status } = await server.run(
      client,
      async (session, response) => {
        given = await called((done: FieldCallback<void>) => session.set('a', 2, done));
        response.writeHead(299).end();
      },
      evil,
    );
    expect([status, given]).toEqual([299, [expect.objectContaining({ status: 403 })]]);
  });

  it('reading is let through, and so is a POST of the app’s own page', async () => {
    const server = await start();
    const client = await clientWith(server, { a: 1 });
    const read = await server.run(
      client,
      (session, response) => session.get('a', () => response.end()),
      evil,
    );
    expect(read.status).toBe(200);
    const { status } = await server.run(
      client,
      (session, response) => session.set('a', 2, () => response.end()),
      { method: 'POST', headers: { origin: server.url } },
    );
    expect([status, await server.stored(client.value())]).toEqual([200, { a: 2 }]);
  });

  it('csrf: false lets all through', async () => {
    const server = await start({ csrf: false });
    const client = await clientWith(server, { a: 1 });
    const { status } = await server.run(
      client,
      (session, response) => session.set('a', 2, () => response.end()),
      evil,
    );
    expect([status, await server.stored(client.value())]).toEqual([200, { a: 2 }]);
  });
});

// --- As middleware --------------------------------------------------------------------------------------------------

type WithSession = { session: FieldSession };

@Controller()
class MiddlewareController {
  @Get('set')
  async set(@Req() request: WithSession, @Res({ passthrough: true }) response: WithSession) {
    await request.session.set('a', 1);
    return { same: request.session === response.session, a: await response.session.get('a') };
  }

  @Get('both')
  async both(@Req() request: WithSession, @Session() session: ActiveSession<{ a?: number; b?: number }>) {
    await request.session.set('a', 1);
    session.data.b = 2; // saved with the response
    return { a: session.data.a };
  }

  @Get('nothing')
  nothing() {
    return {};
  }

  @Get('unawaited')
  unawaited(@Req() request: WithSession) {
    void request.session.set('a', 1);
    return { ok: true };
  }
}

describe('middleware() on Express', () => {
  const startMiddleware = (session = {}) =>
    startApp('express', {
      session,
      controllers: [MiddlewareController],
      before: (app) => void app.use(app.get(HttpSessionService).middleware()),
    });

  it('sets request.session and response.session, one and the same', async () => {
    const app = await startMiddleware();
    const client = new CookieJar(app.url);
    expect((await client.ask('/set')).body).toEqual({ same: true, a: 1 });
    expect((await app.sessions.get(client.value()))?.data).toEqual({ a: 1 });
  });

  it('is the session that @Session() gives', async () => {
    const app = await startMiddleware();
    const client = new CookieJar(app.url);
    const { body, cookies } = await client.ask('/both');
    expect([body, cookies.length]).toEqual([{ a: 1 }, 1]);
    expect((await app.sessions.get(client.value()))?.data).toEqual({ a: 1, b: 2 });
  });

  it('costs nothing where the session is not used', async () => {
    const store = new WrappedStore();
    const app = await startMiddleware({ store });
    const client = new CookieJar(app.url).set('sid', 'A'.repeat(44));
    const { status, cookies } = await client.ask('/nothing');
    expect([status, cookies, store.calls.get, store.calls.create]).toEqual([200, [], 0, 0]);
  });

  it('an error that nobody takes is 503 in place of the handler’s answer', async () => {
    const store = new WrappedStore();
    const app = await startMiddleware({ store });
    store.down = true;
    const { status, body } = await new CookieJar(app.url).ask('/unawaited');
    expect([status, body]).toEqual([503, UNAVAILABLE]);
  });

  it('refuses an unknown option when it is called with the first request', async () => {
    const { http } = await start();
    const middleware = http.middleware({ secret: 'x' } as never);
    expect(() => middleware({} as never, {} as never, () => undefined)).toThrow(/options\.secret/);
  });
});

// --- In production --------------------------------------------------------------------------------------------------

describe('an app without a server under NODE_ENV=production', () => {
  it('boots with cookie.secure "auto", and its cookie is Secure', async () => {
    vi.stubEnv('NODE_ENV', 'production');
    onTestFinished(() => {
      vi.unstubAllEnvs();
    });
    const { app } = await bootContext({});
    expect(app.get(HttpSessionService)).toBeInstanceOf(HttpSessionService);
    const server = await PlainServer.start('memory', {});
    const { cookies } = await server.run(server.client(), (session, response) => {
      void session.set('a', 1);
      response.end();
    });
    expect(cookies).toHaveLength(1);
    expect(cookies[0]).toMatch(/^__Host-sid=[\w-]{44};/);
    expect(attributesOf(cookies[0]!)).toEqual(['HttpOnly', 'Path=/', 'SameSite=Lax', 'Secure']);
  });
});

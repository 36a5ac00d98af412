// toExpressStore under express-session: the same requests to two apps, one on express-session's MemoryStore and one on
// ours, must see the same; and what ours does beyond that.
import type { Server } from 'node:http';
import express, { type Request, type Response } from 'express';
import session, { type Store } from 'express-session';
import { describe, expect, it, onTestFinished } from 'vitest';
import { MemorySessionStore, SessionEvents, SessionStoreUnavailableError } from '../../lib/index.js';
import { toExpressStore, type ToExpressStoreOptions } from '../../lib/express-store/index.js';
import { attributesOf, CookieJar, type Answer } from './support/http-client.js';

declare module 'express-session' {
  interface SessionData {
    views: number;
    name: string;
    list: number[];
    [field: string]: unknown;
  }
}

type Options = Omit<session.SessionOptions, 'secret' | 'store'>;
type Handler = (request: Request, response: Response) => unknown;

/** The paths of the script. What they answer is compared. */
const ROUTES: Record<string, Handler> = {
  '/read': (request, response) => response.json(request.session),
  '/none': (_, response) => response.send('ok'),
  '/count': (request, response) => {
    request.session.views = (request.session.views ?? 0) + 1;
    response.json({ views: request.session.views });
  },
  '/nested': (request, response) => {
    (request.session.list ??= []).push(1);
    response.json(request.session.list);
  },
  '/same': (request, response) => {
    request.session.views = Number(request.session.views ?? 0); // as it was, if it was
    response.send('same');
  },
  '/json': (request, response) => {
    request.session.date = request.session.date ?? new Date(0);
    request.session.gone = undefined;
    response.json(typeof request.session.date);
  },
  '/delete': (request, response) => {
    delete request.session.views;
    response.json(request.session);
  },
  '/destroy': (request, response) => request.session.destroy((error) => response.json(error ?? 'destroyed')),
  '/unset': (request, response) => {
    request.session = null as never;
    response.send('unset');
  },
  '/regenerate': (request, response) =>
    request.session.regenerate((error) => {
      request.session.name = 'new';
      response.json(error ?? 'regenerated');
    }),
  '/save': (request, response) => {
    request.session.name = 'saved';
    request.session.save((error) => response.json(error ?? 'saved'));
  },
  '/reload': (request, response) => {
    request.session.name = 'forgotten';
    request.session.reload((error) =>
      response.json({ error: (error as Error)?.message, session: request.session }),
    );
  },
  '/remember': (request, response) => {
    request.session.cookie.maxAge = 3_600_000;
    response.send('remembered');
  },
  '/forget': (request, response) => {
    request.session.cookie.maxAge = null as never;
    request.session.cookie.expires = null;
    response.send('for this browser session');
  },
  '/over': (request, response) => {
    request.session.cookie.maxAge = -1;
    request.session.name = 'over';
    response.send('over');
  },
};

const SCRIPT = [
  '/none /read /count /count /read /same /nested /nested /read /none',
  '/count /json /json /read /delete /read /save /reload /read',
  '/count /regenerate /read /count /destroy /read /count /unset /read /count',
  '/count /remember /read /count /forget /read /none /count',
  '/save /over /read /count /none /read',
];

async function serve(store: Store, options: Options, more: Record<string, Handler> = {}): Promise<string> {
  const app = express();
  app.use(session({ secret: 'a secret of thirty-two characters', store, ...options }));
  for (const [path, handler] of Object.entries({ ...ROUTES, ...more })) app.get(path, handler);
  app.use((error: Error, _request: Request, response: Response, _next: unknown) => {
    if (!response.headersSent) response.status(500).json({ error: error.message });
  });
  const server = await new Promise<Server>((resolve) => {
    const listening = app.listen(0, '127.0.0.1', () => resolve(listening));
  });
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`;
}

/** What of an answer must not differ: sids and moments of time do. */
function seen({ status, text, cookies }: Answer) {
  return {
    status,
    text: text
      .replaceAll(/"(originalMaxAge)":(\d+)/g, (_, name, ms) => `"${name}":${Math.round(Number(ms) / 1000)}`)
      .replaceAll(/"expires":"[^"]+"/g, '"expires":"a date"'),
    cookies: cookies.map((line) => attributesOf(line).map((part) => part.replace(/^Expires=.*/, 'Expires'))),
  };
}

const count = (store: Store) =>
  new Promise((resolve, reject) =>
    store.length!((error, length) => (error ? reject(error) : resolve(length))),
  );

function ours(options?: ToExpressStoreOptions, sessions = new MemorySessionStore()) {
  return { sessions, store: toExpressStore(sessions, options) };
}

const BOTH = [true, false];
const COMBINATIONS = BOTH.flatMap((resave) =>
  BOTH.flatMap((rolling) =>
    BOTH.flatMap((saveUninitialized) =>
      (['keep', 'destroy'] as const).flatMap((unset) =>
        BOTH.flatMap((touch) =>
          [undefined, 60_000].map((maxAge) => ({ resave, rolling, saveUninitialized, unset, touch, maxAge })),
        ),
      ),
    ),
  ),
);

describe('express-session sees no difference to its MemoryStore', () => {
  it.each(COMBINATIONS)('with %o', async ({ touch, maxAge, ...options }) => {
    for (const script of SCRIPT) {
      const settings = { ...options, cookie: { ...(maxAge !== undefined && { maxAge }) } };
      const stores: Store[] = [new session.MemoryStore(), ours().store as Store];
      // As a store without touch, which then is not called.
      if (!touch) for (const store of stores) store.touch = undefined;
      const [theirs, our] = await Promise.all(
        stores.map(async (store) => {
          const jar = new CookieJar(await serve(store, settings));
          const answers: unknown[] = [];
          for (const path of script.split(' ')) {
            const answer = seen(await jar.ask(path));
            answers.push({ path, ...answer, count: await count(store) });
          }
          return answers;
        }),
      );
      expect(our).toEqual(theirs);
    }
  });
});

/** Two requests of one browser at once, the first held up until the second has been answered. */
function held(change: (request: Request) => void): {
  handler: Handler;
  arrived: Promise<void>;
  release: () => void;
} {
  let release!: () => void;
  let arrive!: () => void;
  const released = new Promise<void>((resolve) => (release = resolve));
  const arrived = new Promise<void>((resolve) => (arrive = resolve));
  const handler: Handler = async (request, response) => {
    arrive();
    await released;
    change(request);
    response.send('late');
  };
  return { handler, arrived, release };
}

const OPTIONS: Options = { resave: false, saveUninitialized: false, cookie: { maxAge: 60_000 } };

describe('what ours does beyond that', () => {
  it('two requests that change different fields at once both win', async () => {
    const slow = held((request) => (request.session.name = 'slow'));
    const { store } = ours();
    const jar = new CookieJar(await serve(store as Store, OPTIONS, { '/slow': slow.handler }));
    await jar.ask('/count');
    const late = jar.ask('/slow');
    await slow.arrived;
    await jar.ask('/count');
    slow.release();
    expect((await late).status).toBe(200);
    expect((await jar.ask('/read')).body).toMatchObject({ views: 2, name: 'slow' });
  });

  it.each(['/destroy', '/regenerate'])(
    'a save that comes after %s of the session does not bring it back, and its request is answered',
    async (end) => {
      const slow = held((request) => (request.session.name = 'slow'));
      const { store, sessions } = ours();
      const gone: unknown[] = [];
      store.on('gone', (event) => gone.push(event));
      const url = await serve(store as Store, OPTIONS, { '/slow': slow.handler });
      const jar = new CookieJar(url);
      await jar.ask('/count');
      const old = jar.at(url);
      const late = old.ask('/slow');
      await slow.arrived;
      await jar.ask(end);
      slow.release();
      const { status, text } = await late;
      expect([status, text]).toEqual([200, 'late']);
      expect(await sessions.length()).toBe(end === '/destroy' ? 0 : 1);
      expect(gone).toEqual([{ id: expect.stringMatching(/^[\w-]{23}$/) as string }]);
      expect((await old.ask('/read')).text).not.toContain('slow');
    },
  );

  it('the store’s deadline follows the cookie: maxAge, its change without new data, and none', async () => {
    const { store, sessions } = ours({ ttl: '2h' });
    const jar = new CookieJar(await serve(store as Store, OPTIONS));
    const life = async () => {
      for await (const { idleTimeout } of sessions.all()) return Math.round(idleTimeout / 1000);
    };
    await jar.ask('/count');
    expect(await life()).toBe(60);
    await jar.ask('/remember');
    expect(await life()).toBe(3600);
    await jar.ask('/count');
    expect(await life()).toBe(3600);
    await jar.ask('/forget');
    expect(await life()).toBe(7200);
  });

  it('load() gives a Session that can be saved', async () => {
    const { store } = ours();
    const jar = new CookieJar(await serve(store as Store, OPTIONS));
    await jar.ask('/count');
    const sid = decodeURIComponent(jar.value('connect.sid')!).slice(2).split('.')[0]!;
    const loaded = await new Promise<session.Session & session.SessionData>((resolve) =>
      store.load(sid, (_, found) => resolve(found as never)),
    );
    expect(loaded).toBeInstanceOf(session.Session);
    loaded.name = 'from outside';
    await new Promise((resolve) => loaded.save(resolve));
    expect((await jar.ask('/read')).body).toMatchObject({ views: 1, name: 'from outside' });
  });

  it('a store that fails is an error of the request, and no other session', async () => {
    const { store, sessions } = ours();
    const jar = new CookieJar(await serve(store as Store, OPTIONS));
    await jar.ask('/count');
    sessions.get = () =>
      Promise.reject(new SessionStoreUnavailableError('get a session', 'it is down', false));
    const { status, cookies } = await jar.ask('/count');
    expect([status, cookies]).toEqual([500, []]);
  });

  it('with events, connect and disconnect follow storeAvailable until close()', () => {
    const events = new SessionEvents();
    const { store } = ours({ events });
    const heard: string[] = [];
    for (const name of ['connect', 'disconnect']) store.on(name, () => heard.push(name));
    events.emit('storeAvailable', { available: false });
    events.emit('storeAvailable', { available: true });
    store.close();
    events.emit('storeAvailable', { available: false });
    expect(heard).toEqual(['disconnect', 'connect']);
  });
});

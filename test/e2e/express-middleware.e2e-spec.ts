// `request.session` where no guard stands: middleware of main.ts, mounted Express apps, passport's own middleware, access
// logs. Nobody there catches what is thrown, and a response may change its prototype on its way.
import 'reflect-metadata';
import type { ServerResponse } from 'node:http';
import express, { type RequestHandler } from 'express';
import passportModule from 'passport';
import { Strategy } from 'passport-local';
import type { INestApplication } from '@nestjs/common';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { SessionModuleOptions } from '../../lib/index.js';
import { CookieJar } from './support/http-client.js';
import { PLATFORMS, type TestApp } from './support/test-app.js';
import {
  countOf,
  EVERYWHERE,
  startView,
  storedOf,
  withSession,
  type Store,
  type View,
  type ViewRequest,
} from './support/view-app.js';
import { WrappedStore } from './support/wrapped-store.js';

const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };
const CROSS_SITE = { statusCode: 403, message: 'This request came from another site' };
const FROM_ANOTHER_SITE = { method: 'POST', headers: { 'sec-fetch-site': 'cross-site' } };

type Next = (error?: unknown) => void;
type Middleware = (request: ViewRequest, response: ServerResponse, next: Next) => unknown;

/** What would end a process: exceptions and rejections that nobody has caught. */
function uncaught(): unknown[] {
  const seen: unknown[] = [];
  for (const event of ['uncaughtException', 'unhandledRejection']) {
    const events: NodeJS.EventEmitter = process;
    const others = events.listeners(event) as ((error: unknown) => void)[];
    const see = (error: unknown) => void seen.push(error);
    events.removeAllListeners(event);
    events.on(event, see);
    onTestFinished(() => {
      events.off(event, see);
      for (const other of others) events.on(event, other);
    });
  }
  return seen;
}

const start = (
  platform: (typeof PLATFORMS)[number],
  store: Store,
  before: (app: INestApplication) => void,
  session: SessionModuleOptions = {},
): Promise<TestApp> => startView(platform, store, { session, before });

const setName = (session: View) => {
  session.name = 'ada';
};

describe.each(EVERYWHERE)('a mounted Express app over %s and %s', (platform, store) => {
  interface Way {
    before?: boolean;
    inside?: boolean;
    answers?: boolean;
    after?: boolean;
  }

  const ways: [string, Way][] = [
    ['used before, and answered inside', { before: true, answers: true }],
    ['used inside, and answered there', { inside: true, answers: true }],
    ['used before and inside, and answered there', { before: true, inside: true, answers: true }],
    ['used before, and passed through', { before: true }],
    ['used inside, and passed through', { inside: true }],
    ['passed through, and used after', { after: true }],
    ['used before, inside and after, and passed through', { before: true, inside: true, after: true }],
  ];

  /** Middleware, an Express app, and middleware again; each counts where it is told to. */
  async function startMounted(way: Way, session: SessionModuleOptions = {}) {
    const count = (used: boolean | undefined, { session }: ViewRequest) => {
      if (used) session.views = (session.views ?? 0) + 1;
    };
    const mounted = express();
    mounted.use(((request: unknown, response: ServerResponse & { json(body: object): void }, next: Next) => {
      count(way.inside, request as ViewRequest);
      if (!way.answers) return next();
      response.json({ answered: 'inside' });
    }) as unknown as RequestHandler);
    return start(
      platform,
      store,
      (app) => {
        app.use(((request, _response, next) => {
          count(way.before, request);
          next();
        }) satisfies Middleware);
        app.use('/admin', mounted);
        app.use('/admin', ((request, response) => {
          count(way.after, request);
          response.setHeader('content-type', 'application/json');
          response.end('{"answered":"after"}');
        }) satisfies Middleware);
      },
      session,
    );
  }

  it.each(ways)(
    '%s: what is changed is stored, and the cookie set, before the response leaves',
    async (_, way) => {
      const app = await startMounted(way);
      const jar = new CookieJar(app.url);
      const uses = [way.before, way.inside, way.after].filter(Boolean).length;
      for (const round of [1, 2]) {
        const answer = await jar.ask('/admin');
        expect([answer.status, answer.body]).toEqual([200, { answered: way.answers ? 'inside' : 'after' }]);
        expect(answer.cookies).toHaveLength(round === 1 ? 1 : 0);
        expect((await storedOf(app, jar))?.data).toEqual({ views: uses * round });
      }
      expect(await countOf(app)).toBe(1);
    },
  );

  it.skipIf(store === 'Redis').each(ways)('%s: a save that fails is the response, 503', async (_, way) => {
    const wrapped = new WrappedStore();
    const app = await startMounted(way, { store: wrapped });
    wrapped.failing = ['create'];
    const answer = await new CookieJar(app.url).ask('/admin');
    expect([answer.status, answer.body, answer.cookies]).toEqual([503, UNAVAILABLE, []]);
  });

  it.each(ways)('%s: another site changes nothing, and gets 403', async (_, way) => {
    const seen = uncaught();
    const app = await startMounted(way);
    const answer = await new CookieJar(app.url).ask('/admin', FROM_ANOTHER_SITE);
    expect([answer.status, answer.cookies]).toEqual([403, []]);
    expect(await countOf(app)).toBe(0);
    expect(seen).toEqual([]);
  });
});

describe.each(EVERYWHERE)('middleware and requests from other sites over %s and %s', (platform, store) => {
  /** The real thing: `passport.authenticate` as middleware, whose callbacks nobody catches the errors of. */
  async function startPassport() {
    const passport = new passportModule.Passport();
    passport.use(
      new Strategy((username, _password, done) => void setTimeout(() => done(null, { id: username }), 5)),
    );
    passport.serializeUser((user, done) => done(null, (user as { id: string }).id));
    passport.deserializeUser((id: string, done) => done(null, { id }));
    const userIdFrom = (data: object) => (data as { passport?: { user?: string } }).passport?.user;
    return start(
      platform,
      store,
      (app) => {
        app.use(((request, _response, next) => {
          Object.assign(request, { body: { username: 'ann', password: 'right' } });
          next();
        }) satisfies Middleware);
        app.use(passport.session());
        app.use('/sign-in', passport.authenticate('local'));
        app.use('/sign-in', ((request, response) =>
          response.end(JSON.stringify({ user: request.user }))) satisfies Middleware);
      },
      { userIdFrom },
    );
  }

  it('passport.authenticate("local") in app.use: 403, nobody is signed in, and the process lives', async () => {
    const seen = uncaught();
    const app = await startPassport();
    const jar = new CookieJar(app.url);
    for (let round = 0; round < 3; round++) {
      const answer = await jar.ask('/sign-in', FROM_ANOTHER_SITE);
      expect([answer.status, answer.cookies]).toEqual([403, []]);
      expect(answer.body).toEqual(expect.objectContaining(CROSS_SITE));
    }
    await new Promise((resolve) => setTimeout(resolve, 50)); // what is thrown late is seen
    expect([seen, await countOf(app)]).toEqual([[], 0]);
    // The own site signs in, and another one then does not sign in anew.
    const own = await jar.ask('/sign-in', { method: 'POST', headers: { 'sec-fetch-site': 'same-origin' } });
    expect([own.status, own.body]).toEqual([200, { user: { id: 'ann' } }]);
    const token = jar.value();
    expect(await storedOf(app, jar)).toMatchObject({ userId: 'ann' });
    expect((await jar.ask('/sign-in', FROM_ANOTHER_SITE)).status).toBe(403);
    expect([jar.value(), (await storedOf(app, jar))?.userId]).toEqual([token, 'ann']);
    expect(seen).toEqual([]);
  });

  const writes: [string, (session: View) => unknown][] = [
    ['an assignment', (session) => (session.name = 'changed')],
    ['delete', (session) => delete session.name],
    [
      'Object.defineProperty()',
      (session) => Object.defineProperty(session, 'name', { value: 'changed', enumerable: true }),
    ],
    ['Object.assign()', (session) => Object.assign(session, { name: 'changed' })],
    ['a life of the cookie', (session) => (session.cookie.maxAge = '30d')],
    ['save(callback)', (session) => session.save(() => undefined)],
    ['save()', (session) => void session.save()],
    ['regenerate(callback)', (session) => session.regenerate(() => undefined)],
    ['regenerate()', (session) => void session.regenerate()],
    ['destroy(callback)', (session) => session.destroy(() => undefined)],
    ['destroy()', (session) => void session.destroy()],
  ];
  it.each(writes)(
    '%s in a timer, where nobody catches anything: 403, and nothing is changed',
    async (_, write) => {
      const seen = uncaught();
      const app = await start(platform, store, (app) => {
        app.use('/later', ((request, response) => {
          const { session } = request;
          setTimeout(() => {
            write(session);
            response.end('done');
          }, 5);
        }) satisfies Middleware);
      });
      const jar = new CookieJar(app.url);
      await withSession(jar, setName);
      const before = await storedOf(app, jar);
      const answer = await jar.ask('/later', FROM_ANOTHER_SITE);
      expect([answer.status, answer.cookies]).toEqual([403, []]);
      expect(answer.body).toEqual(expect.objectContaining(CROSS_SITE));
      expect(await storedOf(app, jar)).toMatchObject({ id: before!.id, data: { name: 'ada' } });
      expect(seen).toEqual([]);
    },
  );

  it.each(['save', 'regenerate', 'destroy', 'reload'] as const)(
    '%s gives ForbiddenException to a callback that takes it, and to a promise, and does nothing',
    async (method) => {
      const seen = uncaught();
      const app = await start(platform, store, (app) => {
        app.use('/callback', (({ session }, response) => {
          session[method]((error?: unknown) => response.end((error as Error | undefined)?.name ?? 'none'));
        }) satisfies Middleware);
        app.use('/promise', (async ({ session }, response) => {
          const error: unknown = await session[method]().then(
            () => undefined,
            (reason: unknown) => reason,
          );
          response.end((error as Error | undefined)?.name ?? 'none');
        }) satisfies Middleware);
      });
      const jar = new CookieJar(app.url);
      await withSession(jar, setName);
      const before = await storedOf(app, jar);
      for (const path of ['/callback', '/promise']) {
        const answer = await jar.ask(path, FROM_ANOTHER_SITE);
        expect([answer.status, answer.text, answer.cookies]).toEqual([200, 'ForbiddenException', []]);
      }
      expect(await storedOf(app, jar)).toMatchObject({ id: before!.id, data: { name: 'ada' } });
      expect(seen).toEqual([]);
    },
  );
});

describe.each(PLATFORMS)('an access log that reads request.session over %s', (platform) => {
  async function startLogged() {
    const wrapped = new WrappedStore();
    const logged: unknown[] = [];
    const app = await start(
      platform,
      'memory',
      (app) => {
        app.use(((request, response, next) => {
          for (const event of ['finish', 'close'])
            response.on(event, () => logged.push([event, request.session?.name ?? null]));
          next();
        }) satisfies Middleware);
        app.use('/public', ((_request, response) => response.end('public')) satisfies Middleware);
      },
      { store: wrapped },
    );
    const jar = new CookieJar(app.url);
    await withSession(jar, setName);
    logged.length = 0;
    return { app, jar, wrapped, logged };
  }

  it('when the response has ended it reads the session', async () => {
    const { jar, logged } = await startLogged();
    expect((await jar.ask('/public')).text).toBe('public');
    await expect
      .poll(() => logged)
      .toEqual([
        ['finish', 'ada'],
        ['close', 'ada'],
      ]);
  });

  it('with the store down it reads undefined then, and the process lives', async () => {
    const seen = uncaught();
    const { jar, wrapped, logged } = await startLogged();
    wrapped.down = true;
    const answer = await jar.ask('/public');
    expect([answer.status, answer.text]).toEqual([200, 'public']);
    await expect
      .poll(() => logged)
      .toEqual([
        ['finish', null],
        ['close', null],
      ]);
    // Before the response has begun it is 503, as ever.
    const asked = await withSession(jar, ({ name }) => ({ name }));
    expect([asked.status, asked.body]).toEqual([503, UNAVAILABLE]);
    await expect.poll(() => logged.length).toBe(4);
    expect(seen).toEqual([]);
    wrapped.down = false;
    expect((await withSession(jar, ({ name }) => ({ name }))).body).toEqual({ name: 'ada' });
  });
});

describe.each(PLATFORMS)('a callback without parameters over %s', (platform) => {
  it.each(['save', 'regenerate', 'destroy'] as const)(
    'of %s(): what fails is the response, 503; one that takes the error decides itself',
    async (method) => {
      const wrapped = new WrappedStore();
      const begin = ({ session }: ViewRequest) => {
        if (method === 'save') session.name = 'changed';
        wrapped.failing = ['set', 'destroy'];
        return session;
      };
      const app = await start(
        platform,
        'memory',
        (app) => {
          app.use('/none', ((request, response) => {
            begin(request)[method](() => response.end('bye'));
          }) satisfies Middleware);
          app.use('/taken', ((request, response) => {
            begin(request)[method]((error?: unknown) => {
              if (method === 'save') request.session.name = 'ada'; // nothing is left to be saved
              response.end(error ? (error as { code: string }).code : 'bye');
            });
          }) satisfies Middleware);
        },
        { store: wrapped },
      );
      const jar = new CookieJar(app.url);
      await withSession(jar, setName);
      const before = await storedOf(app, jar);
      const none = await jar.ask('/none');
      expect([none.status, none.body, none.cookies]).toEqual([503, UNAVAILABLE, []]);
      const taken = await jar.ask('/taken');
      expect([taken.status, taken.text]).toEqual([200, 'SESSION_STORE_UNAVAILABLE']);
      expect(await storedOf(app, jar)).toMatchObject({ id: before!.id, data: { name: 'ada' } });
      wrapped.failing = [];
    },
  );

  it('is called as ever where nothing fails', async () => {
    const app = await start(platform, 'memory', (app) => {
      app.use('/bye', (({ session }, response) =>
        session.destroy(() => response.end('bye'))) satisfies Middleware);
    });
    const jar = new CookieJar(app.url);
    await withSession(jar, setName);
    expect((await jar.ask('/bye')).text).toBe('bye');
    expect([jar.value(), await countOf(app)]).toEqual([undefined, 0]);
  });
});

// passport-local by @nestjs/passport, passport's own API, and connect-flash, on `expressView`.
import 'reflect-metadata';
import {
  Controller,
  Get,
  Post,
  Redirect,
  Req,
  UseGuards,
  type ExecutionContext,
  type INestApplication,
} from '@nestjs/common';
import { AuthGuard, PassportModule, PassportSerializer, PassportStrategy } from '@nestjs/passport';
import flash from 'connect-flash';
import passport from 'passport';
import { Strategy } from 'passport-local';
import { describe, expect, it } from 'vitest';
import {
  RequireUser,
  Session,
  SessionGuard,
  type ActiveSession,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { waitFor } from '../support/wait-for.js';
import { CookieJar, type Answer } from './support/http-client.js';
import { PLATFORMS, type TestApp } from './support/test-app.js';
import {
  countOf,
  EVERYWHERE,
  rawRequestOf,
  run,
  startView,
  storedOf,
  withSession,
  type Handler,
  type Store,
  type View,
  type ViewRequest,
} from './support/view-app.js';
import { WrappedStore } from './support/wrapped-store.js';

const UNAUTHORIZED = { statusCode: 401, message: 'Unauthorized' };
const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };
const INTERNAL = { statusCode: 500, message: 'Internal server error' };

interface User {
  id: string | number;
}

class LocalStrategy extends PassportStrategy(Strategy) {
  validate(username: string, password: string): User | null {
    if (password !== 'right') return null;
    return { id: /^\d+$/.test(username) ? Number(username) : username };
  }
}

type Done = (error: Error | null, value?: unknown) => void;

class Serializer extends PassportSerializer {
  serializeUser(user: User, done: Done) {
    done(null, user.id);
  }

  deserializeUser(id: User['id'], done: Done) {
    done(null, id === 'removed' ? false : { id });
  }
}

/** As Nest's documentation has it. */
class LocalGuard extends AuthGuard('local') {
  override async canActivate(context: ExecutionContext) {
    const allowed = (await super.canActivate(context)) as boolean;
    await super.logIn(context.switchToHttp().getRequest());
    return allowed;
  }
}

@Controller()
class AppController {
  @Post('login')
  @UseGuards(LocalGuard)
  login(@Req() { user, session }: ViewRequest) {
    return { user, id: session.id };
  }

  @Get('me')
  me(@Req() request: ViewRequest) {
    return { user: rawRequestOf(request).user ?? null };
  }

  @Get('ours')
  @UseGuards(SessionGuard)
  @RequireUser()
  ours(@Session() session: ActiveSession) {
    return { user: session.userId };
  }

  @Post('sign-up')
  @Redirect('/welcome')
  signUp(@Req() request: ViewRequest) {
    rawRequestOf(request).flash('info', 'welcome');
    rawRequestOf(request).flash('info', 'and well met');
  }

  @Get('welcome')
  welcome(@Req() request: ViewRequest) {
    return { said: rawRequestOf(request).flash('info') };
  }
}

type PassportData = { passport?: { user?: string | number } };

const userIdFrom = (data: object) => (data as PassportData).passport?.user;

const middleware = (app: INestApplication) => {
  app.use(passport.session());
  app.use(flash());
};

async function start(
  platform: (typeof PLATFORMS)[number],
  store: Store,
  session: SessionModuleOptions = {},
): Promise<TestApp> {
  return startView(platform, store, {
    session: { userIdFrom, ...session },
    imports: [PassportModule.register({ session: true })],
    controllers: [AppController],
    providers: [LocalStrategy, Serializer],
    before: middleware,
  });
}

const login = (client: CookieJar, username: string, password = 'right'): Promise<Answer> =>
  client.ask('/login', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ username, password }),
  });

const userOf = async (client: CookieJar) => (await client.ask('/me')).body;

/** passport's `req.login` and `req.logout` as their callers wait for them. */
const byPassport = (act: (request: ViewRequest, done: (error?: unknown) => void) => void): Handler => {
  return (request) =>
    new Promise((resolve, reject) => {
      act(rawRequestOf(request), (error) => (error ? reject(error as Error) : resolve({ ok: true })));
    });
};

const logout = (client: CookieJar, options = {}) =>
  run(
    client,
    byPassport((request, done) => request.logout(options, done)),
  );

const idsOf = async ({ registry }: TestApp, user: string) =>
  (await registry.getUserSessions(user)).map(({ id }) => id);

describe.each(EVERYWHERE)('passport over %s and %s', (platform, store) => {
  it('signs in and out: req.user, the session in the user’s list, and none afterwards', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    expect(await userOf(jar)).toEqual({ user: null });
    expect(await countOf(app)).toBe(0);

    const answer = await login(jar, 'ann');
    const { id } = (await storedOf(app, jar))!;
    expect([answer.status, answer.body]).toEqual([201, { user: { id: 'ann' }, id }]);
    expect(await userOf(jar)).toEqual({ user: { id: 'ann' } });
    expect((await jar.ask('/ours')).body).toEqual({ user: 'ann' });
    expect(await idsOf(app, 'ann')).toEqual([id]);
    expect(await storedOf(app, jar)).toMatchObject({ userId: 'ann', data: { passport: { user: 'ann' } } });

    const old = jar.at(app.url);
    expect((await logout(jar)).body).toEqual({ ok: true });
    expect(jar.value()).toBeUndefined();
    for (const client of [jar, old]) {
      expect(await userOf(client)).toEqual({ user: null });
      expect((await client.ask('/ours')).body).toEqual(UNAUTHORIZED);
    }
    expect(await idsOf(app, 'ann')).toEqual([]);
    expect(await countOf(app)).toBe(0);
  });

  it('with a wrong password: 401, nothing stored, no cookie', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    const answer = await login(jar, 'ann', 'wrong');
    expect([answer.status, answer.body, answer.cookies]).toEqual([401, UNAUTHORIZED, []]);
    expect(await countOf(app)).toBe(0);
  });

  it('a token from before the sign-in is refused after it: nobody can plant one', async () => {
    const app = await start(platform, store);
    const attacker = new CookieJar(app.url);
    await withSession(attacker, (session) => {
      session.cart = ['planted'];
    });
    const victim = attacker.at(app.url);
    await login(victim, 'ann');
    expect(victim.value()).not.toBe(attacker.value());
    expect(await userOf(victim)).toEqual({ user: { id: 'ann' } });
    expect(await storedOf(app, attacker)).toBeNull();
    expect(await userOf(attacker)).toEqual({ user: null });
    expect((await attacker.ask('/ours')).body).toEqual(UNAUTHORIZED);
    expect((await storedOf(app, victim))?.data.cart).toBeUndefined();
  });

  it('killUser() signs out what passport signed in', async () => {
    const app = await start(platform, store);
    const [phone, laptop] = [new CookieJar(app.url), new CookieJar(app.url)];
    await login(phone, 'ann');
    await login(laptop, 'ann');
    expect(await idsOf(app, 'ann')).toHaveLength(2);
    expect(await app.registry.killUser('ann')).toBe(2);
    for (const client of [phone, laptop]) expect(await userOf(client)).toEqual({ user: null });
  });

  it('keepSessionInfo keeps what an anonymous visitor had at sign-in', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await withSession(jar, (session) => {
      session.cart = ['book'];
    });
    await run(
      jar,
      byPassport((request, done) => request.login({ id: 'ann' }, { keepSessionInfo: true }, done)),
    );
    expect(await storedOf(app, jar)).toMatchObject({
      userId: 'ann',
      data: { cart: ['book'], passport: { user: 'ann' } },
    });
  });

  it('without keepSessionInfo the visitor’s data is gone at sign-in', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await withSession(jar, (session) => {
      session.cart = ['book'];
    });
    await login(jar, 'ann');
    expect((await storedOf(app, jar))?.data).toEqual({ passport: { user: 'ann' } });
  });

  it('at sign-out the user’s data is dropped, with keepSessionInfo too', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await login(jar, 'ann');
    await withSession(jar, (session) => {
      session.cart = ['a book of ann’s'];
    });
    const old = jar.at(app.url);
    expect((await logout(jar, { keepSessionInfo: true })).body).toEqual({ ok: true });
    expect(await storedOf(app, old)).toBeNull();
    expect((await storedOf(app, jar))?.data.cart).toBeUndefined();
    expect((await withSession(jar, ({ cart }) => ({ cart: cart ?? 'gone' }))).body).toEqual({ cart: 'gone' });
    expect(await idsOf(app, 'ann')).toEqual([]);
  });

  it('a sign-in as another user in the same session: the first one’s data and list entry are gone', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await login(jar, 'ann');
    await withSession(jar, (session) => {
      session.cart = ['a book of ann’s'];
    });
    const old = jar.at(app.url);
    await login(jar, 'bob');
    expect(await storedOf(app, jar)).toMatchObject({ userId: 'bob', data: { passport: { user: 'bob' } } });
    expect((await storedOf(app, jar))?.data.cart).toBeUndefined();
    expect(await userOf(old)).toEqual({ user: null });
    expect([await idsOf(app, 'ann'), (await idsOf(app, 'bob')).length]).toEqual([[], 1]);
  });

  it('keepSessionInfo carries nothing of one user to the next, who signs in without the first signing out', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await login(jar, 'ann');
    await withSession(jar, (session) => {
      session.cart = ['a book of ann’s'];
    });
    await run(
      jar,
      byPassport((request, done) => request.login({ id: 'bob' }, { keepSessionInfo: true }, done)),
    );
    expect(await storedOf(app, jar)).toMatchObject({ userId: 'bob' });
    expect((await storedOf(app, jar))?.data).toEqual({ passport: { user: 'bob' } });
  });

  it('a user who is written into the data by hand owns the session too, and no data of the one before', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    const become = (user: string | undefined) =>
      withSession(jar, (session) => {
        session.passport = { user };
        session[`of-${user}`] = true;
      });
    await withSession(jar, (session) => {
      session.name = 'kept'; // an anonymous visitor's data stays
    });
    await become('ann');
    expect(await storedOf(app, jar)).toMatchObject({ userId: 'ann', data: { name: 'kept', 'of-ann': true } });
    await become('bob');
    expect(await storedOf(app, jar)).toMatchObject({
      userId: 'bob',
      data: { passport: { user: 'bob' }, 'of-bob': true },
    });
    expect(Object.keys((await storedOf(app, jar))!.data).sort()).toEqual(['of-bob', 'passport']);
    await become(undefined);
    expect((await storedOf(app, jar))?.userId).toBeNull();
    // It need not say that it is nobody's, and passport's field had been bob's.
    expect((await storedOf(app, jar))!.data).toEqual({ 'of-undefined': true });
    expect([await idsOf(app, 'ann'), await idsOf(app, 'bob'), await countOf(app)]).toEqual([[], [], 1]);
  });

  it('numeric user ids are listed as strings, and come back as numbers', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await login(jar, '42');
    expect(await idsOf(app, '42')).toEqual([(await storedOf(app, jar))?.id]);
    expect(await userOf(jar)).toEqual({ user: { id: 42 } });
  });

  it('a user whom deserializeUser no longer knows is signed out, and the session is nobody’s', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await login(jar, 'removed');
    expect(await idsOf(app, 'removed')).toHaveLength(1);
    expect(await userOf(jar)).toEqual({ user: null });
    expect(await idsOf(app, 'removed')).toEqual([]);
  });

  it('"remember me" set at sign-in lasts: cookie, session, and user’s list', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    const answer = await run(
      jar,
      byPassport((request, done) =>
        request.login({ id: 'ann' }, (error) => {
          request.session.cookie.maxAge = '30d';
          done(error);
        }),
      ),
    );
    expect(answer.cookies.join()).toMatch(/Max-Age=(2592000|2591999)/);
    expect(await storedOf(app, jar)).toMatchObject({ userId: 'ann', idleTimeout: 30 * 24 * 3_600_000 });
    expect(await idsOf(app, 'ann')).toEqual([(await storedOf(app, jar))?.id]);
    expect(await userOf(jar)).toEqual({ user: { id: 'ann' } });
  });

  it.each<[string, (data: object) => unknown]>([
    [
      'throws',
      (data) => {
        if (userIdFrom(data) !== undefined) throw new Error('a bug of userIdFrom');
        return null;
      },
    ],
    ['returns an object', (data) => (data as PassportData).passport],
    ['returns what is no user id', (data) => (userIdFrom(data) === undefined ? null : '')],
  ])('userIdFrom that %s: 500, nothing stored, and the log tells', async (_, broken) => {
    const app = await start(platform, store, { userIdFrom: broken as never });
    const jar = new CookieJar(app.url);
    const answer = await login(jar, 'ann');
    expect([answer.status, answer.body, answer.cookies]).toEqual([500, INTERNAL, []]);
    expect(await countOf(app)).toBe(0);
    expect(app.logs.matching(/^error/).length).toBeGreaterThan(0);
    await withSession(jar, (session) => {
      session.name = 'a visitor’s'; // others are not hindered
    });
    expect((await storedOf(app, jar))?.data).toEqual({ name: 'a visitor’s' });
  });

  it('connect-flash keeps messages over a redirect, and shows them once', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    const answer = await jar.ask('/sign-up', { method: 'POST' });
    expect([answer.status, answer.headers.location]).toEqual([302, '/welcome']);
    expect((await jar.ask('/welcome')).body).toEqual({ said: ['welcome', 'and well met'] });
    expect((await jar.ask('/welcome')).body).toEqual({ said: [] });
  });

  it('a sign-in that another site causes is refused, and signs nobody in or out', async () => {
    const app = await start(platform, store);
    const jar = new CookieJar(app.url);
    await login(jar, 'ann');
    const token = jar.value();
    const crossSite = { 'sec-fetch-site': 'cross-site', 'content-type': 'application/json' };
    const body = JSON.stringify({ username: 'mallory', password: 'right' });
    const answer = await jar.ask('/login', { method: 'POST', headers: crossSite, body });
    expect([answer.status, answer.cookies]).toEqual([403, []]);
    expect(jar.value()).toBe(token);
    expect(await userOf(jar)).toEqual({ user: { id: 'ann' } });
  });
});

describe.each(PLATFORMS)('passport over %s, two processes on one Redis', (platform) => {
  it('a token from before the sign-in, and one signed out, is refused by both', async () => {
    const here = await start(platform, 'Redis');
    // The other process: an app of its own, with its own cache and connections, on the same keys.
    const options = here.app.get<{ redis: string; keyPrefix: string }>('SESSION_MODULE_OPTIONS', {
      strict: false,
    });
    const there = await start(platform, 'Redis', { redis: options.redis, keyPrefix: options.keyPrefix });
    const before = new CookieJar(here.url);
    await withSession(before, (session) => {
      session.name = 'ada';
    });
    const name = ({ name }: View) => ({ name: name ?? 'gone' });
    for (const app of [here, there]) {
      expect((await withSession(before.at(app.url), name)).body).toEqual({ name: 'ada' }); // both have copies
    }
    const ann = before.at(here.url);
    await login(ann, 'ann');
    const atThere = ann.at(there.url);
    expect(await userOf(atThere)).toEqual({ user: { id: 'ann' } });
    expect((await withSession(before.at(here.url), name)).body).toEqual({ name: 'gone' });
    await waitFor(
      async () => ((await withSession(before.at(there.url), name)).body as { name: string }).name === 'gone',
      { message: 'the old token refused by the other process' },
    );
    await logout(ann);
    await waitFor(async () => ((await userOf(atThere.at(there.url))) as { user: unknown }).user === null, {
      message: 'signed out in the other process',
    });
  });
});

describe.each(PLATFORMS)('passport over %s while the store is down', (platform) => {
  it('passport.session() asks for the session of every request, so those with a token are 503', async () => {
    const wrapped = new WrappedStore();
    const app = await start(platform, 'memory', { store: wrapped });
    const jar = new CookieJar(app.url);
    await login(jar, 'ann');
    wrapped.down = true;
    const answer = await jar.ask('/me');
    expect([answer.status, answer.body]).toEqual([503, UNAVAILABLE]);
    expect((await new CookieJar(app.url).ask('/me')).status).toBe(200); // carries none
    wrapped.down = false;
    expect(await userOf(jar)).toEqual({ user: { id: 'ann' } });
  });

  it('a sign-in that cannot be stored fails, with no cookie and nobody signed in', async () => {
    const wrapped = new WrappedStore();
    const app = await start(platform, 'memory', { store: wrapped });
    const jar = new CookieJar(app.url);
    wrapped.failing = ['create'];
    const answer = await login(jar, 'ann');
    expect(answer.status).toBe(503);
    expect(answer.cookies).toEqual([]);
    wrapped.failing = [];
    expect([await userOf(jar), await countOf(app)]).toEqual([{ user: null }, 0]);
  });
});

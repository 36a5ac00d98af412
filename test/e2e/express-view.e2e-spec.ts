// `expressView: true`: what express-session documents of `req.session`, and where we differ.
import 'reflect-metadata';
import { format, inspect } from 'node:util';
import {
  All,
  Controller,
  ForbiddenException,
  Get,
  HttpCode,
  Inject,
  Module,
  Param,
  Post,
  Req,
  Res,
  Session as NestSession,
  UseGuards,
  type CanActivate,
} from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { ExpressAdapter } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { Test } from '@nestjs/testing';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import {
  ActiveSession,
  MemorySessionStore,
  Session,
  SessionModule,
  SESSION_STORE,
  SessionService,
  SkipCsrf,
  type Duration,
  type SessionModuleOptions,
  type SessionStore,
} from '../../lib/index.js';
import { waitFor } from '../support/wait-for.js';
import { attributesOf, CookieJar, type Answer } from './support/http-client.js';
import { Logs, PLATFORMS, startApp, type Data, type TestApp } from './support/test-app.js';
import {
  countOf,
  EVERYWHERE,
  pathOf,
  rawRequestOf,
  run,
  RunController,
  startView,
  storedOf,
  withSession,
  type Handler,
  type View,
  type ViewRequest,
  type ViewResponse,
} from './support/view-app.js';
import { WrappedStore } from './support/wrapped-store.js';

const UNAUTHORIZED = { statusCode: 401, message: 'Unauthorized' };
const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };
const INTERNAL = { statusCode: 500, message: 'Internal server error' };
const CROSS_SITE = { statusCode: 403, message: 'This request came from another site' };

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
/** A point in time 30 days from now, the same for every request. */
const FIXED = Date.now() + 30 * 86_400_000;
const DAY = 24 * HOUR;

const FROM_ANOTHER_SITE = { method: 'POST', headers: { 'sec-fetch-site': 'cross-site' } };

/** As `express-session`'s callers do it. */
const called = (begin: (callback: (error?: unknown) => void) => unknown): Promise<unknown> =>
  new Promise((resolve) => begin((error) => resolve(error ?? 'no error')));

/** What a call throws, for a handler to answer with. */
function thrownBy(call: () => unknown): string {
  try {
    call();
    return 'nothing';
  } catch (error) {
    return (error as Error).message;
  }
}

const maxAgeOf = ({ cookies }: Answer): string | undefined =>
  cookies.flatMap(attributesOf).find((attribute) => attribute.startsWith('Max-Age='));

/** A client whose session holds a name. */
async function visitor(app: TestApp, name = 'ada'): Promise<CookieJar> {
  const jar = new CookieJar(app.url);
  await withSession(jar, (session) => {
    session.name = name;
  });
  expect(jar.value()).toHaveLength(44);
  return jar;
}

describe.each(EVERYWHERE)('request.session over %s and %s', (platform, store) => {
  const start = (session: SessionModuleOptions = {}) => startView(platform, store, { session });

  describe('holds the data', () => {
    it('as plain properties, which are saved before the response leaves', async () => {
      const app = await start();
      const jar = new CookieJar(app.url);
      const count: Handler = ({ session }) => ({ views: (session.views = (session.views ?? 0) + 1) });
      const path = pathOf(count);
      for (const views of [1, 2, 3]) {
        expect((await jar.ask(path)).body).toEqual({ views });
        expect((await storedOf(app, jar))?.data).toEqual({ views });
      }
      expect(await countOf(app)).toBe(1);
    });

    it('in, delete, Object.keys, for…in, spread and JSON.stringify see the data and nothing else', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, (session) => {
        session.views = 1;
        session.gone = true;
        const deleted = delete session.gone;
        const walked = [];
        for (const key in session) walked.push(key);
        return {
          deleted,
          walked,
          keys: Object.keys(session),
          spread: { ...session },
          json: JSON.stringify(session),
          has: ['name' in session, 'gone' in session, 'save' in session, Object.hasOwn(session, 'save')],
          absent: session.gone === undefined,
        };
      });
      expect(answer.body).toEqual({
        deleted: true,
        walked: ['name', 'views'],
        keys: ['name', 'views'],
        spread: { name: 'ada', views: 1 },
        json: '{"name":"ada","views":1}',
        has: [true, false, true, false],
        absent: true,
      });
      await withSession(jar, (session) => delete session.name);
      expect((await storedOf(app, jar))?.data).toEqual({ views: 1 });
    });

    it('Object.defineProperty and Object.assign make fields as assignment does', async () => {
      const app = await start();
      const jar = new CookieJar(app.url);
      await withSession(jar, (session) => {
        Object.assign(session, { name: 'ada' });
        Object.defineProperty(session, 'views', { value: 2, enumerable: true, writable: true });
      });
      expect((await storedOf(app, jar))?.data).toEqual({ name: 'ada', views: 2 });
    });

    it('a change inside of a field is saved too', async () => {
      const app = await start();
      const jar = new CookieJar(app.url);
      await withSession(jar, (session) => {
        session.cart = ['book'];
      });
      await withSession(jar, ({ cart }) => cart?.push('pen'));
      expect((await storedOf(app, jar))?.data).toEqual({ cart: ['book', 'pen'] });
    });

    it('of every request apart: 50 at once that write different fields lose none', async () => {
      const app = await start({ commandTimeout: '10s' }); // they take turns
      const jar = await visitor(app);
      const fields = Array.from({ length: 50 }, (_, index) => `field${index}`);
      const answers = await Promise.all(
        fields.map((field, index) =>
          withSession(jar, (session) => {
            session[field] = index;
          }),
        ),
      );
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
      expect((await storedOf(app, jar))?.data).toEqual({
        name: 'ada',
        ...Object.fromEntries(fields.map((field, index) => [field, index])),
      });
    });

    it('of a visitor who only reads: nothing is stored, and no cookie set', async () => {
      const app = await start();
      const answer = await withSession(new CookieJar(app.url), (session) => ({
        name: session.name ?? 'absent',
        keys: Object.keys(session),
        maxAge: session.cookie.maxAge,
        id: session.id.length,
      }));
      expect(answer.body).toEqual({ name: 'absent', keys: [], maxAge: null, id: 23 });
      expect(answer.cookies).toEqual([]);
      expect(await countOf(app)).toBe(0);
    });

    it('of a visitor for whom only the life of the cookie was set: nothing is stored, and no cookie set', async () => {
      const app = await start();
      const answer = await withSession(new CookieJar(app.url), (session) => {
        session.cookie.maxAge = HOUR;
        return { maxAge: session.cookie.maxAge };
      });
      expect(answer.body).toEqual({ maxAge: HOUR });
      expect(answer.cookies).toEqual([]);
      expect(await countOf(app)).toBe(0);
      expect(app.logs.matching(/^(warn|error)/)).toEqual([]);
    });
  });

  describe('has names of its own', () => {
    it('id and sessionID are the public id, not the token, and cannot be changed', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await run(jar, (request) => ({
        id: request.session.id,
        sessionID: rawRequestOf(request).sessionID,
        refused: thrownBy(() => Object.assign(request.session, { id: 'mine' })),
      }));
      const { id } = (await storedOf(app, jar))!;
      expect(answer.body).toEqual({
        id,
        sessionID: id,
        refused: expect.stringContaining('request.session.id'),
      });
      expect(id).not.toBe(jar.value());
    });

    it.each(['id', 'cookie', 'save', 'reload', 'touch', 'regenerate', 'destroy', 'resetMaxAge'])(
      '%s cannot be a field: assigned, deleted or defined, it throws and says why',
      async (name) => {
        const app = await start();
        const jar = await visitor(app);
        const answer = await withSession(jar, (session) => [
          thrownBy(() => (session[name] = 1)),
          thrownBy(() => delete session[name]),
          thrownBy(() => Object.defineProperty(session, name, { value: 1 })),
        ]);
        const why = expect.stringMatching(
          new RegExp(`"request\\.session\\.${name}" is a name of the session itself .*Choose another name`),
        );
        expect(answer.body).toEqual([why, why, why]);
        expect((await storedOf(app, jar))?.data).toEqual({ name: 'ada' });
      },
    );

    it('request.session = … throws, on the response too, and says what to do', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await run(jar, (request, response) => [
        thrownBy(() => (request.session = {} as View)),
        thrownBy(() => (request.session = null!)),
        thrownBy(() => (rawRequestOf(request).session = {} as View)),
        thrownBy(() => (response.session = {} as View)),
        request.session.name,
      ]);
      const why = expect.stringContaining('change its fields, or end it by await request.session.destroy()');
      expect(answer.body).toEqual([why, why, why, why, 'ada']);
    });

    it('__proto__ and constructor are only fields', async () => {
      const app = await start();
      const jar = new CookieJar(app.url);
      await withSession(jar, (session) => {
        session['__proto__'] = { admin: true };
        session['constructor'] = 'mine' as never;
      });
      const answer = await withSession(jar, (session) => ({
        admin: session.admin ?? 'absent',
        keys: Object.keys(session).sort(),
        everybody: ({} as { admin?: boolean }).admin ?? 'absent',
        setPrototypeOf: thrownBy(() => Object.setPrototypeOf(session, { admin: true })),
      }));
      expect(answer.body).toEqual({
        admin: 'absent',
        keys: ['__proto__', 'constructor'],
        everybody: 'absent',
        setPrototypeOf: expect.stringContaining('trap'),
      });
    });

    it('logged in any way it shows neither data nor token', async () => {
      const app = await start();
      const jar = await visitor(app, 'a secret name');
      const answer = await withSession(jar, (session) => {
        const said = [
          inspect(session),
          inspect({ session }),
          inspect(session, { showHidden: true, depth: 9 }),
          inspect(session, { showProxy: true, depth: 9 }),
          format('%o', session),
          inspect(session.cookie, { showHidden: true, depth: 9 }),
          inspect(session.save()),
        ];
        return { id: session.id, said };
      });
      expect(answer.status).toBe(200);
      const { id, said } = answer.body as { id: string; said: string[] };
      expect(said[0]).toBe(`Session { id: '${id}', fields: ["name"] }`);
      expect(said).toHaveLength(7);
      for (const line of said) {
        expect(line).not.toContain('a secret name');
        expect(line).not.toContain(jar.value());
      }
    });

    it('response.session is the same object, and gone after destroy() as well', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await run(jar, async (request, response) => {
        const same = request.session === response.session;
        const raw = rawRequestOf(request).session === request.session;
        await request.session.destroy();
        return { same, raw, after: [request.session ?? 'gone', response.session ?? 'gone'] };
      });
      expect(answer.body).toEqual({ same: true, raw: true, after: ['gone', 'gone'] });
    });
  });

  describe('regenerate()', () => {
    it('goes on with a new id and an empty session of nobody; the old token is refused everywhere', async () => {
      const app = await start();
      const jar = await visitor(app);
      const old = jar.at(app.url);
      const before = (await storedOf(app, old))!;
      await app.sessions.login((await app.sessions.get(old.value()))!, 'ann').then(({ token }) => {
        old.set('sid', token);
        jar.set('sid', token);
      });
      const answer = await run(jar, async (request) => {
        const former = request.session;
        const failed = await called((callback) => former.regenerate(callback));
        request.session.views = 1;
        return {
          failed,
          another: request.session !== former,
          newId: request.session.id !== former.id,
          formerName: former.name ?? 'gone', // it was a user's: nobody else gets it
          name: request.session.name ?? 'gone',
          sessionID: rawRequestOf(request).sessionID === request.session.id,
        };
      });
      expect(answer.body).toEqual({
        failed: 'no error',
        another: true,
        newId: true,
        formerName: 'gone',
        name: 'gone',
        sessionID: true,
      });
      expect(jar.value()).not.toBe(old.value());
      expect(await storedOf(app, old)).toBeNull();
      expect(await storedOf(app, jar)).toMatchObject({ userId: null, data: { views: 1 } });
      expect((await storedOf(app, jar))!.id).not.toBe(before.id);
      expect(await app.registry.getUserSessions('ann')).toEqual([]);
      expect((await withSession(old, (session) => ({ name: session.name ?? 'gone' }))).body).toEqual({
        name: 'gone',
      });
      expect(await countOf(app)).toBe(1);
    });

    it('with nothing written afterwards stores nothing and clears the cookie', async () => {
      const app = await start();
      const jar = await visitor(app);
      await withSession(jar, async (session) => {
        await session.regenerate();
      });
      expect(jar.value()).toBeUndefined();
      expect(await countOf(app)).toBe(0);
    });

    it('of a visitor without a session costs nothing', async () => {
      const app = await start();
      const jar = new CookieJar(app.url);
      const answer = await withSession(jar, async (session) => {
        await session.regenerate();
        return { ok: true };
      });
      expect([answer.body, answer.cookies, await countOf(app)]).toEqual([{ ok: true }, [], 0]);
    });
  });

  describe('destroy()', () => {
    it('ends the session, unsets request.session at once, and clears the cookie', async () => {
      const app = await start();
      const jar = await visitor(app);
      const old = jar.at(app.url);
      const answer = await run(jar, async (request) => {
        const { session } = request;
        let at = 'never';
        const failed = await called((callback) => {
          session.destroy(callback);
          at = request.session === undefined ? 'at once' : 'later';
        });
        return {
          failed,
          at,
          after: request.session ?? 'gone',
          id: rawRequestOf(request).sessionID ?? 'gone',
        };
      });
      expect(answer.body).toEqual({ failed: 'no error', at: 'at once', after: 'gone', id: 'gone' });
      expect(maxAgeOf(answer)).toBe('Max-Age=0');
      expect(jar.value()).toBeUndefined();
      expect(await storedOf(app, old)).toBeNull();
      expect(await countOf(app)).toBe(0);
    });

    it('by a promise nobody waits for has ended it before the response arrives', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, (session) => {
        void session.destroy();
        return { ok: true };
      });
      expect([answer.status, maxAgeOf(answer), await countOf(app)]).toEqual([200, 'Max-Age=0', 0]);
    });

    it('what was written to the session before or afterwards is not saved', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, async (session) => {
        session.views = 1;
        await session.destroy();
        session.views = 2;
        return { ok: true };
      });
      expect([answer.body, await countOf(app)]).toEqual([{ ok: true }, 0]);
    });
  });

  describe('reload()', () => {
    it('reads the data again: what others wrote is there, what was not saved is gone', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, async (session) => {
        session.views = 7;
        await app.sessions.update(jar.value()!, { name: 'changed' });
        const failed = await called((callback) => session.reload(callback));
        return { failed, data: { ...session } };
      });
      expect(answer.body).toEqual({ failed: 'no error', data: { name: 'changed' } });
    });

    it('of a session that has ended gives the callback SessionGoneError', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, async (session) => {
        await app.sessions.destroy(jar.value()!);
        const failed = await called((callback) => session.reload(callback));
        return { code: (failed as { code: string }).code };
      });
      expect(answer.body).toEqual({ code: 'SESSION_GONE' });
    });
  });

  describe('save()', () => {
    it('writes now, so that others read it before the response', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, async (session) => {
        session.views = 1;
        const before = (await storedOf(app, jar))?.data;
        const failed = await called((callback) => session.save(callback));
        return { before, failed, after: (await storedOf(app, jar))?.data };
      });
      expect(answer.body).toEqual({
        before: { name: 'ada' },
        failed: 'no error',
        after: { name: 'ada', views: 1 },
      });
    });

    it('stores even an empty session', async () => {
      const app = await start();
      const jar = new CookieJar(app.url);
      await withSession(jar, async (session) => {
        await session.save();
      });
      expect((await storedOf(app, jar))?.data).toEqual({});
    });

    it('of a session that another request has ended: 401, and it stays ended', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, async (session) => {
        await app.sessions.destroy(jar.value()!);
        session.views = 1;
        return { ok: true };
      });
      expect([answer.status, answer.body, answer.cookies]).toEqual([401, UNAUTHORIZED, []]);
      expect(await countOf(app)).toBe(0);
    });
  });

  it('touch() extends the life of the session', async () => {
    const app = await start({ touchInterval: 0 });
    const jar = await visitor(app);
    const before = (await app.sessions.get(jar.value(), { fresh: true }))!.lastAccess;
    const answer = await withSession(jar, async (session) => {
      const early = (await app.sessions.get(jar.value(), { fresh: true }))!.lastAccess;
      await new Promise((resolve) => setTimeout(resolve, 5)); // so that times differ
      const failed = await called((callback) => session.touch(callback));
      return { failed, early };
    });
    const { failed, early } = answer.body as { failed: string; early: number };
    expect(failed).toBe('no error');
    expect(early).toBeGreaterThanOrEqual(before);
    expect((await app.sessions.get(jar.value(), { fresh: true }))!.lastAccess).toBeGreaterThan(early);
  });

  describe('methods', () => {
    it('return the view when called with a callback, and a promise of it without', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await run(jar, async (request) => {
        const { session } = request;
        const noop = () => undefined;
        const withCallback = [session.save(noop), session.touch(noop), session.reload(noop)].map(
          (returned) => returned === session,
        );
        const awaited = [
          (await session.save()) === session,
          (await session.touch()) === session,
          (await session.reload()) === session,
          (await session.regenerate()) === request.session,
          session.resetMaxAge() === session,
        ];
        return { withCallback, awaited };
      });
      expect(answer.body).toEqual({
        withCallback: [true, true, true],
        awaited: [true, true, true, true, true],
      });
    });

    it('regenerate(callback) and destroy(callback) return the view they were called on', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await run(jar, async (request) => {
        const first = request.session;
        let returned: unknown;
        await called((callback) => (returned = first.regenerate(callback)));
        const second = request.session;
        let last: unknown;
        await called((callback) => (last = second.destroy(callback)));
        return [returned === first, last === second];
      });
      expect(answer.body).toEqual([true, true]);
    });

    it('chain: touch().save(callback), resetMaxAge().touch().reload().save()', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, async (session) => {
        session.views = 1;
        const failed = await called((callback) => session.touch().save(callback));
        const stored = (await storedOf(app, jar))?.data;
        await session.resetMaxAge().touch().reload().save();
        return { failed, stored };
      });
      expect(answer.body).toEqual({ failed: 'no error', stored: { name: 'ada', views: 1 } });
    });

    it('call back later, and never within the call', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, async (session) => {
        const order: string[] = [];
        await new Promise<void>((resolve) => {
          session.save(() => {
            order.push('callback');
            resolve();
          });
          order.push('after the call');
        });
        return order;
      });
      expect(answer.body).toEqual(['after the call', 'callback']);
    });

    it('refuse a callback that is no function, and a session that is not theirs', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, (session) => [
        thrownBy(() => session.save('done' as never)),
        thrownBy(() => session.save.call({} as View, () => undefined)),
      ]);
      expect(answer.body).toEqual([
        expect.stringContaining('must be a function; got string'),
        'This is a method of request.session',
      ]);
    });
  });

  it('the sign-in and sign-out of express-session’s README work as they stand there', async () => {
    interface Reply {
      redirect(to: string): void;
    }
    @Controller('readme')
    class ReadmeController {
      @Get()
      home(@Req() { session }: ViewRequest) {
        return { user: session.user ?? 'nobody' };
      }

      @Post('login/:user')
      @HttpCode(302)
      login(@Req() request: ViewRequest, @Param('user') user: string, @Res() response: Reply) {
        // regenerate the session, which is good practice to help guard against forms of session fixation
        request.session.regenerate(() => {
          // store user information in session, typically a user id
          request.session.user = user;
          // save the session before redirection to ensure page load does not happen before session is saved
          request.session.save(() => response.redirect('/readme'));
        });
      }

      @Post('logout')
      @HttpCode(302)
      logout(@Req() request: ViewRequest, @Res() response: Reply) {
        request.session.user = null;
        request.session.save(() => request.session.regenerate(() => response.redirect('/readme')));
      }
    }
    const app = await startView(platform, store, {
      session: { userIdFrom: (data) => (data as { user?: string }).user },
      controllers: [ReadmeController],
    });
    const jar = await visitor(app);
    const before = jar.at(app.url);
    const answer = await jar.ask('/readme/login/ann', { method: 'POST' });
    expect([answer.status, answer.headers.location]).toEqual([302, '/readme']);
    expect((await jar.ask('/readme')).body).toEqual({ user: 'ann' });
    expect(await storedOf(app, jar)).toMatchObject({ userId: 'ann', data: { user: 'ann' } });
    expect(await storedOf(app, before)).toBeNull();
    expect(await app.registry.getUserSessions('ann')).toHaveLength(1);
    const signedIn = jar.at(app.url);
    expect((await jar.ask('/readme/logout', { method: 'POST' })).status).toBe(302);
    for (const client of [jar, signedIn])
      expect((await client.ask('/readme')).body).toEqual({ user: 'nobody' });
    expect(await countOf(app)).toBe(0);
  });

  describe('cookie', () => {
    it('tells the attributes that the module gives it', async () => {
      const app = await start({
        cookie: { maxAge: '1h', sameSite: 'strict', path: '/run' },
        idleTimeout: '2h',
      });
      const jar = new CookieJar(app.url);
      const answer = await withSession(jar, ({ cookie }) => ({
        maxAge: cookie.maxAge,
        originalMaxAge: cookie.originalMaxAge,
        expires: Math.round((cookie.expires!.getTime() - Date.now()) / MINUTE),
        rest: [cookie.path, cookie.domain ?? 'none', cookie.httpOnly, cookie.secure, cookie.sameSite],
        partitioned: cookie.partitioned,
      }));
      expect(answer.body).toEqual({
        maxAge: HOUR,
        originalMaxAge: HOUR,
        expires: 60,
        rest: ['/run', 'none', true, false, 'strict'],
        partitioned: false,
      });
    });

    it('maxAge of a stored session is what is left of it, in ms', async () => {
      const app = await start({ cookie: { maxAge: '1h' }, idleTimeout: '2h' });
      const jar = await visitor(app);
      await new Promise((resolve) => setTimeout(resolve, 20)); // so that some time has passed
      const { body } = await withSession(jar, ({ cookie }) => [cookie.maxAge, cookie.originalMaxAge]);
      const [left, original] = body as [number, number];
      expect(original).toBe(HOUR);
      expect(left).toBeLessThanOrEqual(HOUR - 20);
      expect(left).toBeGreaterThan(HOUR - MINUTE);
    });

    it.each<[string, (session: View) => unknown]>([
      ['maxAge in ms', (session) => (session.cookie.maxAge = 30 * DAY)],
      ['maxAge as a string', (session) => (session.cookie.maxAge = '30d')],
      ['originalMaxAge', (session) => (session.cookie.originalMaxAge = 30 * DAY)],
      ['expires', (session) => (session.cookie.expires = new Date(Date.now() + 30 * DAY))],
    ])(
      '"remember me" by %s: the cookie and the session live as long, in later requests too',
      async (_, set) => {
        const app = await start({ touchInterval: 0, idleTimeout: '30m', absoluteTimeout: '14d' });
        const jar = new CookieJar(app.url);
        const first = await withSession(jar, (session) => {
          session.name = 'ada';
          set(session);
        });
        expect(maxAgeOf(first)).toMatch(/^Max-Age=(2592000|2591999)$/);
        for (let request = 0; request < 2; request++) {
          const stored = (await storedOf(app, jar))!;
          expect(Math.round(stored.idleTimeout / MINUTE)).toBe((30 * DAY) / MINUTE);
          expect(stored.expiresIn).toBeGreaterThan(29 * DAY);
          // Renewed by a touch only, with its own life and not the module's.
          const later = await withSession(jar, ({ cookie }) => ({ original: cookie.originalMaxAge }));
          expect(Math.round((later.body as { original: number }).original / MINUTE)).toBe(
            (30 * DAY) / MINUTE,
          );
          expect(maxAgeOf(later)).toMatch(/^Max-Age=(2592000|259199\d)$/);
        }
      },
    );

    it('a life set later gives the session a new token and keeps its data', async () => {
      const app = await start();
      const jar = await visitor(app);
      const old = jar.at(app.url);
      const answer = await withSession(jar, (session) => {
        session.cookie.maxAge = DAY;
      });
      expect(maxAgeOf(answer)).toBe('Max-Age=86400');
      expect(await storedOf(app, jar)).toMatchObject({ idleTimeout: DAY, data: { name: 'ada' } });
      expect(await storedOf(app, old)).toBeNull();
      // Set again to the same, as code does that sets it in every request: it stays the same session.
      const token = jar.value();
      await withSession(jar, (session) => {
        session.cookie.maxAge = DAY;
        session.views = 1;
      });
      expect(jar.value()).toBe(token);
      expect((await storedOf(app, jar))?.data).toMatchObject({ name: 'ada', views: 1 });
    });

    it.each<[string, (session: View) => unknown]>([
      ['expires = false', (session) => (session.cookie.expires = false)],
      ['expires = null', (session) => (session.cookie.expires = null)],
      ['maxAge = null', (session) => (session.cookie.maxAge = null)],
    ])('%s: until the browser is closed, in spite of the module’s maxAge', async (_, set) => {
      const app = await start({ cookie: { maxAge: '1h' }, idleTimeout: '2h', touchInterval: 0 });
      const jar = new CookieJar(app.url);
      const answer = await withSession(jar, (session) => {
        session.name = 'ada';
        set(session);
        return [session.cookie.maxAge, session.cookie.expires, session.cookie.originalMaxAge];
      });
      expect(answer.body).toEqual([null, null, null]);
      expect(answer.cookies).toHaveLength(1);
      expect(maxAgeOf(answer)).toBeUndefined();
      expect((await storedOf(app, jar))?.idleTimeout).toBe(2 * HOUR);
      expect((await withSession(jar, ({ cookie }) => ({ maxAge: cookie.maxAge }))).body).toEqual({
        maxAge: null,
      });
    });

    it('a remembered session that is to be forgotten gets the module’s idle time again', async () => {
      const app = await start();
      const jar = await visitor(app);
      await withSession(jar, (session) => (session.cookie.maxAge = 30 * DAY));
      expect((await storedOf(app, jar))?.idleTimeout).toBe(30 * DAY);
      const answer = await withSession(jar, (session) => {
        session.cookie.expires = false;
      });
      expect((await storedOf(app, jar))?.idleTimeout).toBe(30 * MINUTE);
      // The browser has a cookie that it keeps for 30 days, unless it is told otherwise.
      expect(answer.cookies).toHaveLength(1);
      expect(maxAgeOf(answer)).toBeUndefined();
    });

    it('an end that is set anew in each request costs one token, whether it moves or not', async () => {
      const app = await start();
      for (const end of [() => new Date(FIXED), () => new Date(Date.now() + 30 * DAY)]) {
        const jar = await visitor(app);
        const tokens = new Set<string | undefined>();
        for (let request = 0; request < 20; request++) {
          await withSession(jar, (session) => {
            session.cookie.expires = end();
          });
          tokens.add(jar.value());
        }
        expect(tokens.size).toBe(1);
        expect((await storedOf(app, jar))!.idleTimeout).toBeGreaterThan(29 * DAY);
      }
    });

    // In memory, where the store can have a clock of its own.
    it.runIf(store === 'memory').each([
      ['ahead', HOUR],
      ['behind', -HOUR],
    ])(
      'an end that is set where the wall clock is an hour %s of the store’s is right for every process',
      async (_, skew) => {
        const storeNow = () => Date.now() - skew;
        const app = await start({
          store: new MemorySessionStore({ clock: { wall: storeNow } }),
          touchInterval: 0,
          idleTimeout: '30m',
        });
        const jar = await visitor(app);
        const endIn30 = (session: View) => (session.cookie.expires = new Date(Date.now() + 30 * MINUTE));
        const tokens = new Set<string | undefined>();
        for (let request = 0; request < 3; request++) {
          const answer = await withSession(jar, endIn30);
          tokens.add(jar.value());
          expect(maxAgeOf(answer)).toMatch(/^Max-Age=(1800|179\d)$/);
          const { cookie } = (await storedOf(app, jar))!.data as { cookie: { expires: number } };
          expect(Math.abs(cookie.expires - storeNow() - 30 * MINUTE)).toBeLessThan(MINUTE);
        }
        expect(tokens.size).toBe(1);
        const { body } = await withSession(jar, ({ cookie }) => cookie.expires!.getTime() - Date.now());
        expect(Math.abs((body as number) - 30 * MINUTE)).toBeLessThan(MINUTE);
        expect((await storedOf(app, jar))!.idleTimeout).toBeGreaterThan(29 * MINUTE - MINUTE);
      },
    );

    it('another life leaves createdAt and the absolute deadline, unless it would be cut short by that', async () => {
      const app = await start({ idleTimeout: '30m', absoluteTimeout: '14d' });
      const jar = await visitor(app);
      const recordOf = async () => {
        const { id } = (await storedOf(app, jar))!;
        return (await app.app.get<SessionStore>(SESSION_STORE, { strict: false }).get(id))!.record;
      };
      const live = (life: Duration | null) =>
        withSession(jar, (session) => {
          session.cookie.maxAge = life;
        });
      const { createdAt, absoluteDeadline } = await recordOf();
      expect(absoluteDeadline).toBe(createdAt + 14 * DAY);
      for (const life of ['1d', '2d', null, '14d'] as const) {
        await live(life);
        expect(await recordOf()).toMatchObject({ createdAt, absoluteDeadline });
      }
      const near = (time: number, days: number) =>
        expect(Math.abs(time - Date.now() - days * DAY)).toBeLessThan(MINUTE);
      await live('30d'); // longer than the module's absoluteTimeout: raised
      const raised = await recordOf();
      expect([raised.createdAt, raised.idleTimeout]).toEqual([createdAt, 30 * DAY]);
      near(raised.absoluteDeadline, 30);
      await live('1d'); // and the module's again, from now
      const lowered = await recordOf();
      expect([lowered.createdAt, lowered.idleTimeout]).toEqual([createdAt, DAY]);
      near(lowered.absoluteDeadline, 14);
    });

    it('its life is no field of the data', async () => {
      const app = await start();
      const jar = await visitor(app);
      const set = (session: View) => {
        session.cookie.maxAge = DAY;
        return { keys: Object.keys(session), json: JSON.stringify(session) };
      };
      for (let request = 0; request < 2; request++)
        expect((await withSession(jar, set)).body).toEqual({ keys: ['name'], json: '{"name":"ada"}' });
    });

    it('refuses what is no life of a cookie, naming it', async () => {
      const app = await start();
      const jar = await visitor(app);
      const answer = await withSession(jar, ({ cookie }) => [
        thrownBy(() => (cookie.maxAge = 'soon')),
        thrownBy(() => (cookie.maxAge = 10)),
        thrownBy(() => (cookie.maxAge = Number.NaN)),
        thrownBy(() => (cookie.expires = new Date(Number.NaN))),
        thrownBy(() => (cookie.expires = 5 as never)),
        thrownBy(() => Object.assign(cookie, { path: '/elsewhere' })),
      ]);
      expect(answer.body).toEqual([
        expect.stringMatching(/cookie\.maxAge.*soon/),
        expect.stringContaining('cookie.maxAge'),
        expect.stringContaining('cookie.maxAge'),
        expect.stringContaining('cookie.expires'),
        expect.stringMatching(/cookie\.expires" must be a Date, null or false; got number/),
        expect.stringContaining('path'),
      ]);
      expect((await storedOf(app, jar))?.data).toEqual({ name: 'ada' });
    });
  });

  describe('and @Session()', () => {
    @Controller('both')
    class BothController {
      @Get('nest')
      nest(@NestSession() session: View, @NestSession() again: View) {
        session.views = (session.views ?? 0) + 1;
        return { views: session.views, same: session === again, id: session.id };
      }

      @Get('ours')
      ours(@NestSession() view: View, @Session() session: ActiveSession<Record<string, unknown>>) {
        view.fromView = 1;
        const seen = session.data.fromView;
        session.data.fromOurs = 2;
        return { seen, too: view.fromOurs, id: view.id === session.id };
      }
    }

    it('of @nestjs/common is the view, whose changes are saved', async () => {
      const app = await startView(platform, store, { controllers: [BothController] });
      const jar = new CookieJar(app.url);
      expect((await jar.ask('/both/nest')).body).toMatchObject({ views: 1, same: true });
      const answer = await jar.ask('/both/nest');
      expect(answer.body).toMatchObject({ views: 2, same: true, id: (await storedOf(app, jar))?.id });
      expect((await storedOf(app, jar))?.data).toEqual({ views: 2 });
      expect(app.logs.matching(/^warn/)).toEqual([]);
    });

    it('of this package, in one handler: both see and save the same data', async () => {
      const app = await startView(platform, store, { controllers: [BothController] });
      const jar = new CookieJar(app.url);
      expect((await jar.ask('/both/ours')).body).toEqual({ seen: 1, too: 2, id: true });
      expect((await storedOf(app, jar))?.data).toEqual({ fromView: 1, fromOurs: 2 });
      expect(await countOf(app)).toBe(1);
    });
  });
});

describe.each(EVERYWHERE)('login() with timeouts of the session’s own over %s and %s', (platform, store) => {
  @Controller('sign-in')
  class SignInController {
    constructor(@Inject(SessionService) private readonly sessions: SessionService<Data>) {}

    @Post(':user/:idle')
    async signIn(
      @Session() session: ActiveSession<Data>,
      @Param('user') user: string,
      @Param('idle') idleTimeout: Duration,
    ) {
      await this.sessions.login(session, user, { idleTimeout, absoluteTimeout: '60d' });
      return { createdAt: session.createdAt };
    }
  }

  const post = { method: 'POST' };

  it('"remember me": the session lives longer from then on, and later requests and tokens keep to it', async () => {
    const app = await startView(platform, store, {
      session: { expressView: false, cookie: { maxAge: '30d' } },
      controllers: [SignInController],
    });
    const jar = new CookieJar(app.url);
    const first = await jar.ask('/sign-in/ann/1h', post);
    const before = (first.body as { createdAt: number }).createdAt;
    const firstToken = jar.value();
    await new Promise((resolve) => setTimeout(resolve, 5)); // so that times differ
    const answer = await jar.ask('/sign-in/ann/30d', post);
    expect(maxAgeOf(answer)).toMatch(/^Max-Age=(2592000|2591999)$/);
    const stored = (await storedOf(app, jar))!;
    expect(stored).toMatchObject({ userId: 'ann', idleTimeout: 30 * DAY });
    expect(stored.createdAt).toBe(before); // it is the same session to killUser, and to lists
    const session = (await app.sessions.get(jar.value()))!;
    await session.regenerate();
    expect([session.idleTimeout, session.createdAt]).toEqual([30 * DAY, stored.createdAt]);
    expect(await app.registry.getUserSessions('ann')).toHaveLength(1);
    expect(await app.sessions.get(firstToken, { fresh: true })).toBeNull();
  });

  it('longer than the absolute timeout, or no duration: refused, and the session stays as it was', async () => {
    const app = await startView(platform, store, {
      session: { expressView: false },
      controllers: [SignInController],
    });
    const jar = new CookieJar(app.url);
    await jar.ask('/sign-in/ann/1h', post);
    const before = await storedOf(app, jar);
    for (const idle of ['61d', 'soon']) {
      const answer = await jar.ask(`/sign-in/bob/${idle}`, post);
      expect([answer.status, answer.cookies]).toEqual([500, []]);
    }
    expect(app.logs.matching(/^error/)).toEqual([
      expect.stringMatching(/"idleTimeout" is \d+ ms, longer than absoluteTimeout/),
      expect.stringMatching(/"idleTimeout" must be a duration; got "soon"/),
    ]);
    expect(await storedOf(app, jar)).toMatchObject({ id: before?.id, userId: 'ann', idleTimeout: HOUR });
  });
});

describe.each(PLATFORMS)('errors of request.session over %s', (platform) => {
  /** An app whose store can be taken down, and somebody's session in it. */
  async function start(spec: Parameters<typeof startView>[2] = {}) {
    const wrapped = new WrappedStore();
    const app = await startView(platform, 'memory', {
      ...spec,
      session: { store: wrapped, ...spec.session },
    });
    return { app, wrapped, jar: await visitor(app) };
  }

  it('a save that nobody waits for and that fails becomes the response, 503', async () => {
    const { jar, wrapped } = await start();
    const answer = await withSession(jar, async (session) => {
      session.views = 1;
      wrapped.failing = ['set'];
      void session.save();
      await new Promise((resolve) => setImmediate(resolve));
      wrapped.failing = []; // the save at the end would succeed
      return { ok: true };
    });
    expect([answer.status, answer.body, answer.cookies]).toEqual([503, UNAVAILABLE, []]);
  });

  it.each(['save', 'touch', 'reload', 'regenerate', 'destroy'] as const)(
    '%s() that fails and nobody waits for: 503, and no unhandled rejection',
    async (method) => {
      const { jar, wrapped } = await start({ session: { touchInterval: 0 } });
      const unhandled = vi.fn();
      process.on('unhandledRejection', unhandled);
      onTestFinished(() => void process.off('unhandledRejection', unhandled));
      const answer = await withSession(jar, async (session) => {
        session.views = 1;
        wrapped.down = true;
        void session[method]();
        await new Promise((resolve) => setTimeout(resolve, 5)); // unhandledRejection comes a while after
        wrapped.down = false;
        return { ok: true };
      });
      expect([answer.status, answer.body]).toEqual([503, UNAVAILABLE]);
      await new Promise((resolve) => setImmediate(resolve));
      expect(unhandled).not.toHaveBeenCalled();
    },
  );

  it('with a callback the callback gets the error, and the response is the handler’s', async () => {
    const { jar, wrapped } = await start();
    const answer = await withSession(jar, async (session) => {
      session.views = 1;
      wrapped.failing = ['set'];
      const failed = await called((callback) => session.save(callback));
      wrapped.failing = [];
      return { code: (failed as { code: string }).code };
    });
    expect([answer.status, answer.body]).toEqual([200, { code: 'SESSION_STORE_UNAVAILABLE' }]);
  });

  it('an error that the handler has caught does not replace its response', async () => {
    const { jar, wrapped } = await start();
    const answer = await withSession(jar, async (session) => {
      wrapped.failing = ['get'];
      try {
        await session.reload();
        return { ok: true };
      } catch (error) {
        return { code: (error as { code: string }).code };
      } finally {
        wrapped.failing = [];
      }
    });
    expect([answer.status, answer.body]).toEqual([200, { code: 'SESSION_STORE_UNAVAILABLE' }]);
  });

  it('.catch() takes the error too', async () => {
    const { jar, wrapped } = await start();
    const answer = await withSession(jar, async (session) => {
      wrapped.failing = ['get'];
      const code = await session.reload().catch((error: { code: string }) => error.code);
      wrapped.failing = [];
      return { code };
    });
    expect([answer.status, answer.body]).toEqual([200, { code: 'SESSION_STORE_UNAVAILABLE' }]);
  });

  it('a change that cannot be saved is 503 even if the handler caught the error of its own save()', async () => {
    const { jar, wrapped } = await start();
    const answer = await withSession(jar, async (session) => {
      session.views = 1;
      wrapped.failing = ['set'];
      await session.save().catch(() => undefined);
      return { ok: true };
    });
    expect([answer.status, answer.body]).toEqual([503, UNAVAILABLE]);
  });

  it('while the store is down request.session is 503, and a route that does not ask for it works', async () => {
    const { app, jar, wrapped } = await start();
    wrapped.down = true;
    const without = await run(jar, () => ({ ok: true }));
    expect([without.status, without.body]).toEqual([200, { ok: true }]);
    const read = await withSession(jar, (session) => ({ name: session.name }));
    expect([read.status, read.body]).toEqual([503, UNAVAILABLE]);
    const visiting = await withSession(new CookieJar(app.url), () => ({ ok: true }));
    expect(visiting.status).toBe(200); // carries no token, so nobody has to be asked
    wrapped.down = false;
    expect((await withSession(jar, (session) => ({ name: session.name }))).body).toEqual({ name: 'ada' });
    expect(app.logs.matching(/^error/)).toEqual([]);
  });

  it('data that cannot be stored is 500, and the log names the field', async () => {
    const logged = vi.spyOn(Logs.prototype, 'error');
    const { app, jar } = await start();
    const answer = await withSession(jar, (session) => {
      session.callback = () => 'a function';
      return { ok: true };
    });
    expect([answer.status, answer.body]).toEqual([500, INTERNAL]);
    const told = logged.mock.calls.map((words) => words.map(String).join(' '));
    expect(told).toEqual([expect.stringMatching(/could not be saved.*SessionDataError.*"callback"/s)]);
    expect((await storedOf(app, jar))?.data).toEqual({ name: 'ada' });
  });

  it('a callback that throws is an error of its own, as any other callback’s', async () => {
    const { jar } = await start();
    const caught = new Promise<Error>((resolve) => {
      const others = process.listeners('uncaughtException');
      process.removeAllListeners('uncaughtException');
      process.once('uncaughtException', (error) => {
        for (const other of others) process.on('uncaughtException', other);
        resolve(error);
      });
    });
    const answer = await withSession(jar, async (session) => {
      session.save(() => {
        throw new Error('a bug of the callback');
      });
      await new Promise((resolve) => setTimeout(resolve, 5)); // the callback comes first
      return { ok: true };
    });
    expect((await caught).message).toBe('a bug of the callback');
    expect(answer.status).toBe(200);
  });
});

describe.each(EVERYWHERE)('requests from other sites over %s and %s', (platform, store) => {
  const ran: string[] = [];

  class SpyGuard implements CanActivate {
    canActivate() {
      ran.push('guard');
      return true;
    }
  }

  @Controller('site')
  class SiteController {
    @Post('plain')
    @UseGuards(SpyGuard)
    plain(@Req() { session }: ViewRequest) {
      session.name = 'changed';
      return { ok: true };
    }

    @Post('skipped')
    @SkipCsrf()
    skipped(@Req() { session }: ViewRequest) {
      session.name = 'changed';
      return { ok: true };
    }

    @All('sessionless')
    sessionless() {
      return { ok: true };
    }
  }

  async function start(session: SessionModuleOptions = {}, legacy?: (request: ViewRequest) => unknown) {
    ran.length = 0;
    const app = await startView(platform, store, {
      session,
      controllers: [SiteController],
      before: (app) => {
        if (legacy === undefined) return;
        app.use('/legacy', (request: ViewRequest, response: { end(text: string): void }) => {
          legacy(request);
          response.end('done');
        });
      },
    });
    return { app, jar: await visitor(app) };
  }

  const nameOf = async (app: TestApp, jar: CookieJar) => (await storedOf(app, jar))?.data.name;

  it('are refused on a plain route, before its own guard runs, and change nothing', async () => {
    const { app, jar } = await start();
    const answer = await jar.ask('/site/plain', FROM_ANOTHER_SITE);
    expect([answer.status, answer.body]).toEqual([403, expect.objectContaining(CROSS_SITE)]);
    expect(ran).toEqual([]);
    expect(await nameOf(app, jar)).toBe('ada');
    const own = await jar.ask('/site/plain', {
      method: 'POST',
      headers: { 'sec-fetch-site': 'same-origin' },
    });
    expect([own.status, ran, await nameOf(app, jar)]).toEqual([201, ['guard'], 'changed']);
  });

  it('pass where @SkipCsrf() stands', async () => {
    const { app, jar } = await start();
    const answer = await jar.ask('/site/skipped', FROM_ANOTHER_SITE);
    expect([answer.status, await nameOf(app, jar)]).toEqual([201, 'changed']);
  });

  it('that only read pass', async () => {
    const { jar } = await start();
    const answer = await jar.ask('/site/sessionless', { headers: { 'sec-fetch-site': 'cross-site' } });
    expect(answer.status).toBe(200);
  });

  it('with csrf: false none is refused', async () => {
    const { app, jar } = await start({ csrf: false }, ({ session }) => (session.views = 1));
    expect((await jar.ask('/site/plain', FROM_ANOTHER_SITE)).status).toBe(201);
    expect((await jar.ask('/legacy', FROM_ANOTHER_SITE)).text).toBe('done');
    expect((await storedOf(app, jar))?.data).toEqual({ name: 'changed', views: 1 });
  });

  it.each<[string, (session: View) => unknown]>([
    ['an assignment', (session) => (session.name = 'changed')],
    ['delete', (session) => delete session.name],
    ['save()', (session) => session.save(() => undefined)],
    ['regenerate()', (session) => session.regenerate(() => undefined)],
    ['destroy()', (session) => session.destroy(() => undefined)],
    ['a life of the cookie', (session) => (session.cookie.maxAge = DAY)],
    ['a change inside of a field', (session) => session.cart?.push('pen')],
    [
      'a change inside of a field, then save()',
      (session) => {
        session.cart?.push('pen');
        session.save(() => undefined);
      },
    ],
  ])('%s in middleware of main.ts is refused and changes nothing', async (_, change) => {
    const { app, jar } = await start({}, ({ session }) => change(session));
    await withSession(jar, (session) => {
      session.cart = ['book'];
    });
    const before = await storedOf(app, jar);
    const answer = await jar.ask('/legacy', FROM_ANOTHER_SITE);
    expect(answer.status).toBe(403);
    expect(answer.text).not.toContain('done');
    expect(await storedOf(app, jar)).toMatchObject({ id: before?.id, data: { name: 'ada', cart: ['book'] } });
  });

  it('middleware of main.ts that only reads answers them, and writes for the own site', async () => {
    const { app, jar } = await start({}, (request) => {
      if (request.headers['sec-fetch-site'] !== 'cross-site') request.session.name = 'changed';
      return request.session.name;
    });
    expect((await jar.ask('/legacy', FROM_ANOTHER_SITE)).text).toBe('done');
    expect(await nameOf(app, jar)).toBe('ada');
    expect((await jar.ask('/legacy', { method: 'POST' })).text).toBe('done');
    expect(await nameOf(app, jar)).toBe('changed');
  });
});

describe.each(PLATFORMS)('the option expressView over %s', (platform) => {
  it('with dataClass, request.session has the class’s getters and stores its fields', async () => {
    class Cart {
      items: string[] = [];
      get total() {
        return this.items.length;
      }
    }
    const app = await startView(platform, 'memory', { session: { dataClass: Cart } });
    const jar = new CookieJar(app.url);
    const answer = await withSession(jar, (session) => {
      (session.items as string[]).push('book');
      return { total: session.total, keys: Object.keys(session) };
    });
    expect(answer.body).toEqual({ total: 1, keys: ['items'] });
    expect((await storedOf(app, jar))?.data).toEqual({ items: ['book'] });
  });

  it('off, the default: no request.session, no guard of ours, and requests from other sites pass where nothing of ours stands', async () => {
    const app = await startApp(platform, { controllers: [RunController] });
    const path = pathOf(({ session }) => ({ session: (session as unknown) ?? 'absent' }));
    const answer = await new CookieJar(app.url).ask(path, FROM_ANOTHER_SITE);
    expect([answer.status, answer.body]).toEqual([200, { session: 'absent' }]);
  });

  it('works by forRootAsync', async () => {
    const app = await startView(platform, 'memory', {
      session: null,
      imports: [
        SessionModule.forRootAsync({
          useFactory: async () => {
            await new Promise((resolve) => setImmediate(resolve));
            return { expressView: true, idleTimeout: '2h' };
          },
        }),
      ],
    });
    const jar = await visitor(app);
    expect(await storedOf(app, jar)).toMatchObject({ idleTimeout: 2 * HOUR, data: { name: 'ada' } });
  });

  it('works in an app that @nestjs/testing makes, for middleware before init() too', async () => {
    @Module({ imports: [SessionModule.forRoot({ expressView: true })], controllers: [RunController] })
    class AppModule {}
    const testing = await Test.createTestingModule({ imports: [AppModule] })
      .setLogger(new Logs())
      .compile();
    const nest =
      platform === 'express'
        ? testing.createNestApplication(new ExpressAdapter())
        : testing.createNestApplication(new FastifyAdapter());
    onTestFinished(() => nest.close());
    const seen: string[] = [];
    nest.use((request: ViewRequest, _response: ViewResponse, next: () => void) => {
      seen.push(typeof request.session);
      next();
    });
    await nest.listen(0, '127.0.0.1');
    const jar = new CookieJar(await nest.getUrl());
    const path = pathOf(({ session }) => ({ views: (session.views = (session.views ?? 0) + 1) }));
    expect((await jar.ask(path)).body).toEqual({ views: 1 });
    expect((await jar.ask(path)).body).toEqual({ views: 2 });
    expect(seen).toEqual(['object', 'object']);
  });

  it('looks for the session of each request once, whoever asks for it', async () => {
    const wrapped = new WrappedStore();
    const app = await startView(platform, 'memory', { session: { store: wrapped } });
    const jar = await visitor(app);
    wrapped.calls.get = 0;
    await withSession(jar, (session) => ({ name: session.name, again: session.name }));
    expect(wrapped.calls.get).toBe(1);
    await new CookieJar(app.url).ask(pathOf(({ session }) => ({ name: session.name ?? 'absent' })));
    expect(wrapped.calls.get).toBe(1); // without a token there is nothing to look for
  });

  it('an error of the app is the response, and what it changed before is saved', async () => {
    const app = await startView(platform, 'memory');
    const jar = await visitor(app);
    const answer = await withSession(jar, (session) => {
      session.views = 1;
      throw new ForbiddenException('not you');
    });
    expect(answer.status).toBe(403);
    await waitFor(async () => (await storedOf(app, jar))?.data.views === 1, { message: 'saved' });
  });

  if (platform === 'fastify') {
    it('stops the boot where a Fastify plugin has declared request.session', async () => {
      const adapter = new FastifyAdapter();
      adapter.getInstance().decorateRequest('session', null);
      @Module({ imports: [SessionModule.forRoot({ expressView: true })] })
      class AppModule {}
      const booting = NestFactory.create(AppModule, adapter, { logger: new Logs(), abortOnError: false });
      await expect(booting).rejects.toThrow(
        /"expressView" would set request\.session, which a Fastify plugin has already declared/,
      );
    });
  }
});

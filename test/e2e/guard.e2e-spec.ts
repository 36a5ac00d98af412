import 'reflect-metadata';
import {
  Controller,
  ForbiddenException,
  Get,
  ImATeapotException,
  Injectable,
  Module,
  Req,
  Session as NestSession,
  UseGuards,
  type ArgumentMetadata,
  type CanActivate,
  type ExecutionContext,
  type INestApplication,
  type PipeTransform,
} from '@nestjs/common';
import { APP_GUARD, APP_PIPE } from '@nestjs/core';
import { describe, expect, it } from 'vitest';
import { defaultCodec } from '../../lib/core/codec.js';
import {
  ActiveSession,
  OptionalSession,
  PublicSession,
  RequireSession,
  RequireUser,
  Session,
  SessionGuard,
  SessionModule,
  StrictSession,
  sessionOf,
  type HttpRequest,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { waitFor } from '../support/wait-for.js';
import {
  DEFAULT_COOKIE,
  PLATFORMS,
  startApp,
  UNAUTHORIZED,
  type Carried,
  type Data,
  type Reply,
  type TestApp,
} from './support/test-app.js';
import { WrappedStore } from './support/wrapped-store.js';

const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };

const describeSession = (session: ActiveSession<Data>) => ({
  session: {
    id: session.id,
    name: session.data.name,
    source: session.source,
    isNew: session.isNew,
    isStored: session.isStored,
  },
});

/** What a visitor without a session gets: a new one that is nowhere else, and nothing to remember it by. */
function expectUnstored({ status, body, headers }: Reply, more: object = {}): void {
  expect(status).toBe(200);
  expect(body).toEqual({
    session: { id: expect.stringMatching(/^[\w-]{23}$/), source: 'new', isNew: true, isStored: false },
    ...more,
  });
  expect(headers.has('set-cookie')).toBe(false);
}

/** From a route that does not ask for the session. */
const ASIDE = { aside: true };

@Controller('me')
@UseGuards(SessionGuard)
class MeController {
  @Get()
  whole(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('name')
  field(@Session('name') name: string, @Session('views') views: number | undefined) {
    return { name, views: views ?? 'absent' };
  }

  @Get('optional')
  @OptionalSession()
  optional(@Session() session: ActiveSession<Data>, @Session('name') name: string | undefined) {
    return { ...describeSession(session), field: name ?? 'absent' };
  }

  @Get('public')
  @PublicSession()
  open(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('aside')
  @PublicSession()
  aside() {
    return ASIDE;
  }
}

@Controller('optional')
@UseGuards(SessionGuard)
@OptionalSession()
class OptionalController {
  @Get()
  whole(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('public')
  @PublicSession()
  open(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('aside')
  @PublicSession()
  aside() {
    return ASIDE;
  }

  @Get('required')
  @RequireSession()
  required() {
    return ASIDE;
  }
}

@Controller('public')
@UseGuards(SessionGuard)
@PublicSession()
class PublicController {
  @Get()
  whole(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('aside')
  aside() {
    return ASIDE;
  }

  @Get('optional')
  @OptionalSession()
  optional(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('required')
  @RequireSession()
  required() {
    return ASIDE;
  }
}

@Controller('bare')
class BareController {
  @Get()
  whole(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('name')
  field(@Session('name') name: string | undefined) {
    return { name: name ?? 'absent' };
  }
}

@Controller('foreign')
class ForeignController {
  @Get()
  foreign(@NestSession() session: unknown) {
    return { session: session ?? 'absent' };
  }
}

const CONTROLLERS = [MeController, OptionalController, PublicController, BareController];

@Controller('strict')
@UseGuards(SessionGuard)
@StrictSession()
class StrictController {
  @Get()
  whole(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('relaxed')
  @StrictSession(false)
  relaxed(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('optional')
  @OptionalSession()
  optional(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('public')
  @PublicSession()
  open(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('aside')
  @PublicSession()
  @StrictSession()
  aside() {
    return ASIDE;
  }
}

@Controller('strict-methods')
@UseGuards(SessionGuard)
class StrictMethodsController {
  @Get()
  @StrictSession()
  whole(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('plain')
  plain(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('optional')
  @StrictSession()
  @OptionalSession()
  optional(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('public')
  @PublicSession()
  @StrictSession()
  open(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }

  @Get('aside')
  @PublicSession()
  @StrictSession()
  aside() {
    return ASIDE;
  }
}

@Controller('parent')
@UseGuards(SessionGuard)
class ParentController {
  @Get('inherited')
  inherited(@Session() session: ActiveSession<Data>) {
    return describeSession(session);
  }
}

/** Its guard is the parent's: another `@UseGuards` here would add a second one. */
@Controller('strict-child')
@StrictSession()
class StrictChildController extends ParentController {}

/** A token of the right form that nobody has: partition 0, then zeros. */
const NOBODYS = 'A'.repeat(44);

describe.each(PLATFORMS)('SessionGuard over %s', (platform) => {
  const start = (session: SessionModuleOptions = {}, before?: (app: INestApplication) => void) =>
    startApp(platform, { session, controllers: CONTROLLERS, before });
  const signIn = async ({ sessions }: TestApp, name = 'Ada') => sessions.create({ name });
  const endedToken = async (app: TestApp) => {
    const session = await signIn(app, 'Grace');
    const { token } = session;
    await session.destroy();
    return token;
  };

  describe('finds the token', () => {
    it.each(['cookie', 'bearer'] as const)('in the %s by default', async (where) => {
      const app = await start();
      const { token, id } = await signIn(app);
      const reply = await app.send('/me', { [where]: token });
      expect(reply.status).toBe(200);
      expect(reply.body).toMatchObject({ session: { id, name: 'Ada' } });
    });

    it.each([
      ['among other cookies', (token: string) => `a=1; ${DEFAULT_COOKIE}=${token}; b=2`],
      ['percent-encoded', (token: string) => `${DEFAULT_COOKIE}=%${hex(token[0]!)}${token.slice(1)}`],
      ['beside cookies with broken percent codes', (token: string) => `x=%E0%A4; ${DEFAULT_COOKIE}=${token}`],
    ])('in a Cookie header, %s', async (_where, header) => {
      const app = await start();
      const { token } = await signIn(app);
      expect((await app.send('/me', { headers: { cookie: header(token) } })).status).toBe(200);
    });

    it.each(['Bearer', 'bearer', 'BEARER', 'Bearer  '])(
      'after the scheme "%s", whose case and spaces do not matter',
      async (scheme) => {
        const app = await start();
        const { token } = await signIn(app);
        expect((await app.send('/me', { headers: { authorization: `${scheme} ${token}` } })).status).toBe(
          200,
        );
      },
    );

    it('in a cookie named by the options, and then not under the default name', async () => {
      const app = await start({ cookie: { name: 'mine' } });
      const { token } = await signIn(app);
      expect((await app.send('/me', { headers: { cookie: `mine=${token}` } })).status).toBe(200);
      expect((await app.send('/me', { cookie: token })).status).toBe(401);
    });

    it('in a named header, whatever case the options and the client write it in', async () => {
      const app = await start({ transport: { header: 'X-Auth-Token' } });
      const { token } = await signIn(app);
      for (const name of ['X-AUTH-TOKEN', 'x-auth-token'])
        expect((await app.send('/me', { headers: { [name]: token } })).status).toBe(200);
      // A header of one's own has no scheme, and nothing else is looked at any more.
      expect((await app.send('/me', { headers: { 'x-auth-token': `Bearer ${token}` } })).status).toBe(401);
      expect((await app.send('/me', { bearer: token })).status).toBe(401);
      expect((await app.send('/me', { cookie: token })).status).toBe(401);
    });

    it('where the first of several transports leads to a live session; those after it are not asked', async () => {
      const store = new WrappedStore();
      const app = await start({
        store,
        transport: [{ header: 'x-a' }, 'bearer', 'cookie', { header: 'x-b' }],
      });
      const tokens = await Promise.all(
        ['first', 'second', 'third', 'fourth'].map((name) => signIn(app, name)),
      );
      const [a, bearer, cookie, b] = tokens.map(({ token }) => token) as [string, string, string, string];
      const nameFor = async (carried: Carried, lookups: number) => {
        const { get } = store.calls;
        const { body } = await app.send('/me/name', carried);
        expect(store.calls.get - get).toBe(lookups);
        return body;
      };
      expect(await nameFor({ headers: { 'x-a': a, 'x-b': b }, bearer, cookie }, 1)).toMatchObject({
        name: 'first',
      });
      expect(await nameFor({ headers: { 'x-b': b }, bearer, cookie }, 1)).toMatchObject({ name: 'second' });
      expect(await nameFor({ headers: { 'x-b': b }, cookie }, 1)).toMatchObject({ name: 'third' });
      expect(await nameFor({ headers: { 'x-b': b } }, 1)).toMatchObject({ name: 'fourth' });
      expect(await nameFor({ headers: { 'x-a': NOBODYS }, bearer, cookie }, 2)).toMatchObject({
        name: 'second',
      });
      expect(await nameFor({ headers: { 'x-a': NOBODYS, 'x-b': NOBODYS } }, 2)).toEqual(UNAUTHORIZED);
    });

    it.each<[string, (app: TestApp) => string | Promise<string>]>([
      ['of nobody', () => NOBODYS],
      ['that is no token', () => 'garbage'],
      ['of a session that was destroyed', async (app) => endedToken(app)],
      [
        'from before a regenerate()',
        async (app) => {
          const session = await signIn(app, 'Grace');
          const { token } = session;
          await session.regenerate();
          return token;
        },
      ],
    ])(
      'in the bearer behind a stale cookie %s, which is left alone, and the other way round',
      async (_what, make) => {
        const app = await start();
        const stale = await make(app);
        const { token, id } = await signIn(app);
        for (const path of ['/me', '/me/optional', '/public', '/bare'])
          for (const carried of [
            { cookie: stale, bearer: token },
            { cookie: token, bearer: stale },
          ]) {
            const reply = await app.send(path, carried);
            expect(reply.body, path).toMatchObject({ session: { id, name: 'Ada', isStored: true } });
            expect(reply.headers.has('set-cookie'), path).toBe(false);
          }
        expect((await app.send('/me', { cookie: stale, bearer: stale })).body).toEqual(UNAUTHORIZED);
      },
    );

    it('behind a stale cookie from the near cache, as anywhere', async () => {
      const store = new WrappedStore({ exclusive: true });
      const app = await start({ store });
      const { token } = await signIn(app);
      for (const cookie of ['garbage', NOBODYS]) {
        const reply = await app.send('/me', { cookie, bearer: token });
        expect(reply.body, cookie).toMatchObject({ session: { source: 'cache' } });
      }
      expect(store.calls.get).toBe(1); // for the cookie of the right form
    });

    it('but a stale cookie that cannot be told from a live one is 503, not the bearer’s session', async () => {
      const store = new WrappedStore();
      const app = await start({ store });
      const { token } = await signIn(app);
      store.down = true;
      expect(await app.send('/me', { cookie: NOBODYS, bearer: token })).toMatchObject({
        status: 503,
        body: UNAVAILABLE,
      });
    });

    it('behind an empty cookie: one that was emptied by a sign-out carries nothing', async () => {
      const app = await start();
      const { token } = await signIn(app);
      expect((await app.send('/me', { cookie: '', bearer: token })).status).toBe(200);
    });

    it('never in the URL', async () => {
      const app = await start({ transport: ['cookie', 'bearer', { header: 'x-auth-token' }] });
      const { token } = await signIn(app);
      for (const key of [DEFAULT_COOKIE, 'token', 'access_token', 'authorization', 'x-auth-token', 'sid']) {
        const reply = await app.send(`/me?${encodeURIComponent(key)}=${token}`);
        expect(reply.body, key).toEqual(UNAUTHORIZED);
      }
    });
  });

  describe('answers 401 with a body that says nothing', () => {
    it.each<[string, (token: string) => Carried]>([
      ['no token', () => ({})],
      ['an unknown cookie', () => ({ cookie: NOBODYS })],
      ['an unknown bearer', () => ({ bearer: NOBODYS })],
      ['an empty cookie', () => ({ cookie: '' })],
      ['an empty Authorization header', () => ({ headers: { authorization: '' } })],
      ['a scheme without a token', () => ({ headers: { authorization: 'Bearer' } })],
      ['another scheme', (token) => ({ headers: { authorization: `Basic ${token}` } })],
      ['a token without a scheme', (token) => ({ headers: { authorization: token } })],
      ['two words after the scheme', (token) => ({ headers: { authorization: `Bearer ${token} ${token}` } })],
      ['a token cut short', (token) => ({ cookie: token.slice(0, -1) })],
      ['a token and one character more', (token) => ({ cookie: `${token}A` })],
      ['a token of another alphabet', (token) => ({ cookie: `${token.slice(0, -1)}+` })],
      ['a token with its last character changed', (token) => ({ cookie: flipLast(token) })],
      ['an over-long token', () => ({ bearer: 'A'.repeat(8000) })],
      ['a quoted cookie', (token) => ({ cookie: `"${token}"` })],
      ['a cookie of broken percent codes', () => ({ cookie: '%E0%A4%A%' })],
      ['a cookie that decodes to NUL', (token) => ({ cookie: `${token}%00` })],
      ['a signed or JSON cookie of someone else', (token) => ({ cookie: `s:${token}.sig` })],
      ['a cookie of another case', (token) => ({ headers: { cookie: `__host-SID=${token}` } })],
      [
        'a cookie named like an object property',
        () => ({ headers: { cookie: '__proto__=x; constructor=y' } }),
      ],
    ])('for %s', async (_what, carried) => {
      const app = await start();
      const { token } = await signIn(app);
      const reply = await app.send('/me', carried(token));
      expect(reply.status).toBe(401);
      expect(reply.body).toEqual(UNAUTHORIZED);
      expect(app.logs.matching(/^(error|warn)/)).toEqual([]);
    });

    it('for the public id of a live session', async () => {
      const app = await start();
      const { id } = await signIn(app);
      expect((await app.send('/me', { cookie: id })).body).toEqual(UNAUTHORIZED);
    });

    it('for a session that has expired, been destroyed, or been regenerated', async () => {
      const app = await start();
      const expired = await app.sessions.create({ name: 'x' }, { idleTimeout: 0, absoluteTimeout: '50ms' });
      await waitFor(async () => (await app.send('/me', { cookie: expired.token })).status === 401);
      const destroyed = await signIn(app);
      expect((await app.send('/me', { cookie: destroyed.token })).status).toBe(200);
      await destroyed.destroy();
      expect((await app.send('/me', { cookie: destroyed.token })).body).toEqual(UNAUTHORIZED);
      const regenerated = await signIn(app);
      const oldToken = regenerated.token;
      await regenerated.regenerate({ userId: 'ada' });
      expect((await app.send('/me', { cookie: oldToken })).body).toEqual(UNAUTHORIZED);
      expect((await app.send('/me', { cookie: regenerated.token })).status).toBe(200);
    });

    it('for the second of two cookies of one name, two lines or one: the first counts', async () => {
      const app = await start();
      const { token } = await signIn(app);
      const both = (first: string, second: string) => [
        app.send('/me', { headers: { cookie: `${DEFAULT_COOKIE}=${first}; ${DEFAULT_COOKIE}=${second}` } }),
        app.sendRaw('/me', [
          ['Cookie', `${DEFAULT_COOKIE}=${first}`],
          ['Cookie', `${DEFAULT_COOKIE}=${second}`],
        ]),
      ];
      for (const reply of await Promise.all(both(NOBODYS, token))) expect(reply.body).toEqual(UNAUTHORIZED);
      for (const reply of await Promise.all(both(token, NOBODYS))) expect(reply.status).toBe(200);
    });

    it('for a token header that came twice, which is no token', async () => {
      const app = await start({ transport: { header: 'x-auth-token' } });
      const { token } = await signIn(app);
      const reply = await app.sendRaw('/me', [
        ['X-Auth-Token', token],
        ['X-Auth-Token', token],
      ]);
      expect(reply.body).toEqual(UNAUTHORIZED);
    });

    it('for headers that some middleware or gateway turned into arrays', async () => {
      const app = await start({ transport: ['cookie', 'bearer', { header: 'x-auth-token' }] }, (nest) =>
        nest.use((request: { headers: Record<string, unknown> }, _response: unknown, next: () => void) => {
          for (const name of ['cookie', 'authorization', 'x-auth-token'])
            if (request.headers[name] !== undefined) request.headers[name] = [request.headers[name]];
          next();
        }),
      );
      const { token } = await signIn(app);
      for (const carried of [{ cookie: token }, { bearer: token }, { headers: { 'x-auth-token': token } }])
        expect((await app.send('/me', carried)).body).toEqual(UNAUTHORIZED);
    });
  });

  describe('@Session()', () => {
    it('is the session, and with a key that field of its data', async () => {
      const app = await start();
      const { token } = await signIn(app);
      expect((await app.send('/me/name', { cookie: token })).body).toEqual({ name: 'Ada', views: 'absent' });
      await app.sessions.update(token, { views: 3 });
      expect((await app.send('/me/name', { cookie: token })).body).toEqual({ name: 'Ada', views: 3 });
    });

    it('does not read inherited properties of the data', async () => {
      @Controller('inherited')
      @UseGuards(SessionGuard)
      class InheritedController {
        @Get()
        field(@Session('constructor') value: unknown, @Session('__proto__') proto: unknown) {
          return { types: [typeof value, typeof proto] };
        }
      }
      const app = await startApp(platform, { controllers: [InheritedController] });
      const { token } = await signIn(app);
      expect((await app.send('/inherited', { cookie: token })).body).toEqual({
        types: ['undefined', 'undefined'],
      });
    });

    it('on a route without the guard is the session, too', async () => {
      const store = new WrappedStore();
      const app = await start({ store });
      const { token, id } = await signIn(app);
      for (const carried of [{ cookie: token }, { bearer: token }]) {
        const reply = await app.send('/bare', carried);
        expect(reply).toMatchObject({ status: 200, body: { session: { id, name: 'Ada', isStored: true } } });
        expect(reply.headers.has('set-cookie')).toBe(false);
      }
      expect((await app.send('/bare/name', { cookie: token })).body).toEqual({ name: 'Ada' });
      expect(store.calls).toMatchObject({ get: 3, create: 1, set: 0 });
    });

    it('on a route without the guard is a new one for a visitor without, and nothing is stored', async () => {
      const store = new WrappedStore();
      const app = await start({ store, touchInterval: 0 });
      const stale = await endedToken(app);
      const calls = { ...store.calls };
      for (const carried of [{}, { cookie: '' }, { cookie: 'garbage' }, { bearer: 'garbage' }])
        expectUnstored(await app.send('/bare', carried));
      expect(store.calls).toEqual(calls);
      for (const carried of [{ cookie: NOBODYS }, { cookie: stale }, { bearer: stale }])
        expectUnstored(await app.send('/bare', carried));
      expect((await app.send('/bare/name')).body).toEqual({ name: 'absent' });
      expect(store.calls).toEqual({ ...calls, get: calls.get + 3 });
      expect(await store.length()).toBe(0);
      expect(app.logs.matching(/^(error|warn)/)).toEqual([]);
    });

    it('on a route without the guard is 503 while the store is down, and recovers by itself', async () => {
      const store = new WrappedStore();
      const app = await start({ store });
      const { token } = await signIn(app);
      store.down = true;
      for (const path of ['/bare', '/bare/name'])
        expect(await app.send(path, { cookie: token })).toMatchObject({ status: 503, body: UNAVAILABLE });
      expectUnstored(await app.send('/bare'));
      store.down = false;
      expect((await app.send('/bare', { cookie: token })).status).toBe(200);
    });

    it('is looked for once, whoever asks for it how often', async () => {
      const store = new WrappedStore();
      const app = await startApp(platform, {
        session: { store },
        controllers: CONTROLLERS,
        providers: [{ provide: APP_GUARD, useExisting: SessionGuard }],
      });
      const { token } = await signIn(app);
      expect((await app.send('/me/name', { cookie: token })).body).toMatchObject({ name: 'Ada' });
      expect((await app.send('/me/optional', { cookie: token })).body).toMatchObject({ field: 'Ada' });
      expect(store.calls.get).toBe(2);
    });

    it('of @nestjs/common is another decorator: it reads request.session, we set none, and say so at boot', async () => {
      const app = await startApp(platform, { controllers: [ForeignController, BareController] });
      const { token } = await signIn(app);
      expect((await app.send('/foreign', { cookie: token })).body).toEqual({ session: 'absent' });
      expect(app.logs.matching(/^warn/)).toEqual([
        expect.stringMatching(
          /^warn ForeignController\.foreign: .*Import Session from 'nestjs-sessionkit', or set expressView: true/,
        ),
      ]);
    });

    it('gives each request a draft of its own: what one changes, others see when it has answered', async () => {
      let changed!: () => void;
      let goOn!: () => void;
      const isChanged = new Promise<void>((resolve) => (changed = resolve));
      const mayGoOn = new Promise<void>((resolve) => (goOn = resolve));
      @Controller('count')
      @UseGuards(SessionGuard)
      class CountController {
        @Get()
        count(@Session() session: ActiveSession<Data>) {
          session.data.views = (session.data.views ?? 0) + 1;
          return { views: session.data.views };
        }

        @Get('look')
        look(@Session('views') views: number | undefined) {
          return { views: views ?? 'absent' };
        }

        @Get('slow')
        async slow(@Session() session: ActiveSession<Data>) {
          session.data.views = 100;
          changed();
          await mayGoOn;
          return { views: session.data.views };
        }

        @Get('save')
        async save(@Session() session: ActiveSession<Data>) {
          session.data.views = (session.data.views ?? 0) + 1;
          await session.save();
          return { views: session.data.views };
        }
      }
      const store = new WrappedStore({ exclusive: true }); // so that all read the same copy of the near cache
      const app = await startApp(platform, { session: { store }, controllers: [CountController] });
      const { token } = await signIn(app);
      const views = async (path: string) => (await app.send(path, { cookie: token })).body;
      const slow = views('/count/slow');
      await isChanged;
      expect(await views('/count/look')).toEqual({ views: 'absent' });
      goOn();
      expect(await slow).toEqual({ views: 100 });
      expect(await views('/count/look')).toEqual({ views: 100 });
      for (let i = 101; i <= 103; i++) expect(await views('/count')).toEqual({ views: i });
      for (let i = 104; i <= 106; i++) expect(await views('/count/save')).toEqual({ views: i });
      expect(store.calls).toMatchObject({ get: 0, set: 7 }); // one write per change
    });
  });

  describe('@OptionalSession() and @PublicSession()', () => {
    it.each([
      ['optional on a method', '/me/optional', { field: 'absent' }],
      ['optional on a class', '/optional', {}],
      ['optional method in a public class', '/public/optional', {}],
    ])(
      '%s: without a session a new one that is not stored, with one the session',
      async (_what, path, more) => {
        const store = new WrappedStore();
        const app = await start({ store, touchInterval: 0 });
        const { token, id } = await signIn(app);
        const calls = { ...store.calls };
        for (const carried of [{}, { cookie: NOBODYS }, { cookie: 'garbage' }, { bearer: NOBODYS }])
          expectUnstored(await app.send(path, carried), more);
        expect(store.calls).toEqual({ ...calls, get: 2 });
        const reply = await app.send(path, { cookie: token });
        expect(reply.body).toMatchObject({ session: { id, name: 'Ada', isStored: true } });
        expect(reply.headers.has('set-cookie')).toBe(false);
        expect(await store.length()).toBe(1);
      },
    );

    it.each([
      ['public on a method', '/me/aside'],
      ['public on a class', '/public/aside'],
      ['public method in an optional class', '/optional/aside'],
    ])(
      '%s: whatever the request carries, nothing is looked up that the route does not ask for',
      async (_what, path) => {
        const store = new WrappedStore();
        const app = await start({ store, touchInterval: 0 });
        const { token } = await signIn(app);
        const calls = { ...store.calls };
        for (const carried of [{}, { cookie: token }, { bearer: token }, { cookie: NOBODYS }])
          expect(await app.send(path, carried)).toMatchObject({ status: 200, body: ASIDE });
        expect(store.calls).toEqual(calls);
      },
    );

    it.each([
      ['public on a method', '/me/public'],
      ['public on a class', '/public'],
      ['public method in an optional class', '/optional/public'],
    ])('%s: @Session() looks, and is a new one that is not stored for who has none', async (_what, path) => {
      const store = new WrappedStore();
      const app = await start({ store });
      const { token, id } = await signIn(app);
      for (const carried of [{ cookie: token }, { bearer: token }])
        expect((await app.send(path, carried)).body).toMatchObject({
          session: { id, name: 'Ada', isStored: true },
        });
      const calls = { ...store.calls };
      for (const carried of [{}, { cookie: NOBODYS }, { cookie: 'garbage' }])
        expectUnstored(await app.send(path, carried));
      expect(store.calls).toEqual({ ...calls, get: calls.get + 1 });
    });
  });

  describe('@RequireSession()', () => {
    it.each([
      ['a public class', '/public/required'],
      ['an optional class', '/optional/required'],
    ])('on a method of %s: a session is needed, stored and live', async (_class, path) => {
      const store = new WrappedStore();
      const app = await start({ store });
      const { token } = await signIn(app);
      expect(await app.send(path, { cookie: token })).toMatchObject({ status: 200, body: ASIDE });
      const stale = await endedToken(app);
      for (const carried of [{}, { cookie: 'garbage' }, { cookie: NOBODYS }, { bearer: stale }]) {
        const reply = await app.send(path, carried);
        expect([reply.status, reply.body]).toEqual([401, UNAUTHORIZED]);
        expect(reply.headers.has('set-cookie')).toBe(false);
      }
      store.down = true;
      expect(await app.send(path, { cookie: token })).toMatchObject({ status: 503, body: UNAVAILABLE });
      expect(store.calls.create).toBe(2); // those of this test
    });

    it('on a method, in the class of any other decorator; on a class, except where a method says otherwise', async () => {
      @Controller('needs')
      @UseGuards(SessionGuard)
      @RequireSession()
      class NeedsController {
        @Get()
        needed() {
          return ASIDE;
        }

        @Get('public')
        @PublicSession()
        open() {
          return ASIDE;
        }
      }
      @Controller('users')
      @UseGuards(SessionGuard)
      @RequireUser()
      class UsersController {
        @Get('any')
        @RequireSession()
        any() {
          return ASIDE;
        }
      }
      const app = await startApp(platform, { controllers: [NeedsController, UsersController] });
      const { token } = await signIn(app); // of nobody in particular
      expect((await app.send('/needs')).body).toEqual(UNAUTHORIZED);
      expect((await app.send('/needs', { cookie: token })).body).toEqual(ASIDE);
      expect((await app.send('/needs/public')).body).toEqual(ASIDE);
      expect((await app.send('/users/any')).body).toEqual(UNAUTHORIZED);
      expect((await app.send('/users/any', { cookie: token })).body).toEqual(ASIDE);
    });
  });

  describe('@RequireUser()', () => {
    @Controller('user')
    @UseGuards(SessionGuard)
    @RequireUser()
    class UserController {
      @Get()
      whole(@Session() session: ActiveSession<Data>) {
        return { userId: session.userId, ...describeSession(session) };
      }

      @Get('optional')
      @OptionalSession()
      optional(@Session() session: ActiveSession<Data>) {
        return describeSession(session);
      }

      @Get('aside')
      @PublicSession()
      aside() {
        return ASIDE;
      }
    }

    @Controller('mixed')
    @UseGuards(SessionGuard)
    class MixedController {
      @Get('plain')
      plain() {
        return ASIDE;
      }

      @Get('user')
      @RequireUser()
      user() {
        return ASIDE;
      }
    }

    @Controller('open')
    @UseGuards(SessionGuard)
    @PublicSession()
    class OpenController extends MixedController {}

    const startUsers = async (session: SessionModuleOptions = {}) => {
      const app = await startApp(platform, {
        session,
        controllers: [UserController, MixedController, OpenController],
      });
      const visitor = await app.sessions.create({ name: 'somebody' });
      const ada = await app.sessions.create({ name: 'Ada' }, { userId: 'ada' });
      return { app, visitor, ada };
    };

    it.each([
      ['on a class', '/user'],
      ['on a method', '/mixed/user'],
      ['on a method of a public class', '/open/user'],
    ])('%s: 401 unless the session is somebody’s', async (_where, path) => {
      const store = new WrappedStore();
      const { app, visitor, ada } = await startUsers({ store });
      for (const carried of [
        {},
        { cookie: 'garbage' },
        { cookie: NOBODYS },
        { cookie: visitor.token },
        { bearer: visitor.token },
      ]) {
        const reply = await app.send(path, carried);
        expect([reply.status, reply.body]).toEqual([401, UNAUTHORIZED]);
        expect(reply.headers.has('set-cookie')).toBe(false);
      }
      for (const carried of [{ cookie: ada.token }, { bearer: ada.token }])
        expect((await app.send(path, carried)).status).toBe(200);
      expect(store.calls).toMatchObject({ create: 2, set: 0, destroy: 0, move: 0 });
      expect((await app.sessions.get(visitor.token))?.data).toEqual({ name: 'somebody' });
      store.down = true;
      expect(await app.send(path, { cookie: ada.token })).toMatchObject({ status: 503, body: UNAVAILABLE });
    });

    it('hands the handler the session of the user', async () => {
      const { app, ada } = await startUsers();
      expect((await app.send('/user', { cookie: ada.token })).body).toMatchObject({
        userId: 'ada',
        session: { id: ada.id, name: 'Ada', isStored: true },
      });
    });

    it('changes with the user of the session, on the next request', async () => {
      const { app, visitor } = await startUsers();
      await visitor.regenerate({ userId: 'grace' });
      expect((await app.send('/user', { cookie: visitor.token })).status).toBe(200);
      await visitor.regenerate({ userId: null });
      expect((await app.send('/user', { cookie: visitor.token })).body).toEqual(UNAUTHORIZED);
      expect((await app.send('/mixed/plain', { cookie: visitor.token })).body).toEqual(ASIDE);
    });

    it('on a class leaves its @OptionalSession() and @PublicSession() methods as they are', async () => {
      const { app, visitor } = await startUsers();
      expectUnstored(await app.send('/user/optional'));
      expect((await app.send('/user/optional', { cookie: visitor.token })).body).toMatchObject({
        session: { id: visitor.id },
      });
      expect((await app.send('/user/aside', { cookie: visitor.token })).body).toEqual(ASIDE);
    });

    it('on a method leaves the other methods as they are', async () => {
      const { app, visitor } = await startUsers();
      expect((await app.send('/mixed/plain', { cookie: visitor.token })).body).toEqual(ASIDE);
      expect((await app.send('/mixed/plain')).body).toEqual(UNAUTHORIZED);
      expect((await app.send('/open/plain')).body).toEqual(ASIDE);
    });
  });

  describe('sessionOf() in a guard of the app', () => {
    type Peeked = HttpRequest & { peeked?: unknown };

    @Injectable()
    class PeekGuard implements CanActivate {
      canActivate(context: ExecutionContext) {
        const request = context.switchToHttp().getRequest<Peeked>();
        const session = sessionOf(request);
        request.peeked = session === undefined ? 'nobody has looked' : session;
        return true;
      }
    }

    const answer = (request: Peeked, session: ActiveSession<Data>) => ({
      peeked: request.peeked instanceof ActiveSession ? request.peeked.id : request.peeked,
      isTheHandlers: request.peeked === session,
      stillSo: sessionOf(request) === request.peeked,
    });

    @Controller('peek')
    class PeekController {
      @Get('after')
      @UseGuards(SessionGuard, PeekGuard)
      @OptionalSession()
      after(@Req() request: Peeked, @Session() session: ActiveSession<Data>) {
        return answer(request, session);
      }

      @Get('before')
      @UseGuards(PeekGuard, SessionGuard)
      before(@Req() request: Peeked) {
        return { peeked: request.peeked };
      }

      @Get('public')
      @UseGuards(SessionGuard, PeekGuard)
      @PublicSession()
      open(@Req() request: Peeked) {
        return { peeked: request.peeked };
      }

      @Get('alone')
      @UseGuards(PeekGuard)
      alone(@Req() request: Peeked, @Session() session: ActiveSession<Data>) {
        return { peeked: request.peeked, isTheHandlers: sessionOf(request) === session };
      }
    }

    const startPeek = async () => {
      const app = await startApp(platform, { controllers: [PeekController] });
      return { app, ...(await signIn(app).then(({ token, id }) => ({ token, id }))) };
    };

    it('is the session that SessionGuard found, the one that the handler gets', async () => {
      const { app, token, id } = await startPeek();
      for (const carried of [{ cookie: token }, { bearer: token }, { cookie: NOBODYS, bearer: token }])
        expect((await app.send('/peek/after', carried)).body).toEqual({
          peeked: id,
          isTheHandlers: true,
          stillSo: true,
        });
    });

    it('is null when it found none, also when the handler has got a new one since', async () => {
      const { app } = await startPeek();
      for (const carried of [{}, { cookie: 'garbage' }, { cookie: NOBODYS }])
        expect((await app.send('/peek/after', carried)).body).toEqual({
          peeked: null,
          isTheHandlers: false,
          stillSo: true,
        });
    });

    it('is undefined when nobody has looked: before SessionGuard, without it, and on public routes', async () => {
      const { app, token } = await startPeek();
      for (const path of ['/peek/before', '/peek/public', '/peek/alone'])
        expect((await app.send(path, { cookie: token })).body).toMatchObject({ peeked: 'nobody has looked' });
      // What @Session() has found since is there for interceptors.
      expect((await app.send('/peek/alone', { cookie: token })).body).toMatchObject({ isTheHandlers: true });
    });
  });

  describe('@StrictSession()', () => {
    const sourceOf = ({ body }: { body: unknown }) =>
      (body as { session: { source: string } }).session.source;
    const startStrict = async () => {
      const store = new WrappedStore({ exclusive: true });
      const app = await startApp(platform, {
        session: { store },
        controllers: [StrictController, StrictMethodsController, ParentController, StrictChildController],
      });
      const { token, id } = await signIn(app);
      return { store, app, token, id };
    };

    it.each([
      ['on a class', '/strict'],
      ['on a method', '/strict-methods'],
      ['with @OptionalSession()', '/strict-methods/optional'],
      ['on a method of a class that is @OptionalSession()', '/strict/optional'],
      ['on a subclass', '/strict-child/inherited'],
    ])('%s: every request reads the store once, and counts no hit', async (_where, path) => {
      const { store, app, token, id } = await startStrict();
      expect((await app.sessions.get(token))?.source).toBe('cache');
      const { hits } = app.cache.stats();
      for (let i = 1; i <= 3; i++) {
        const reply = await app.send(path, { cookie: token });
        expect(reply.body).toMatchObject({ session: { id, name: 'Ada', source: 'store' } });
        expect(store.calls.get).toBe(i);
      }
      expect(app.cache.stats().hits).toBe(hits);
    });

    it.each([
      ['a method with @StrictSession(false) in a strict class', '/strict/relaxed'],
      ['a method without it beside a strict one', '/strict-methods/plain'],
      ['the parent of a strict subclass', '/parent/inherited'],
    ])('%s: the near cache answers', async (_where, path) => {
      const { store, app, token } = await startStrict();
      expect(sourceOf(await app.send(path, { cookie: token }))).toBe('cache');
      expect(store.calls.get).toBe(0);
    });

    it('sees what a foreign writer has ended or changed, where the near cache does not', async () => {
      const { store, app, token, id } = await startStrict();
      const base = (await store.inner.get(id))!.record;
      await store.inner.set({ base, data: defaultCodec.encode({ name: 'Grace' }), keepExpiry: true });
      expect((await app.send('/strict-methods/plain', { cookie: token })).body).toMatchObject({
        session: { name: 'Ada', source: 'cache' },
      });
      expect((await app.send('/strict', { cookie: token })).body).toMatchObject({
        session: { name: 'Grace' },
      });
      // What it read is kept, so that others see it too.
      expect((await app.send('/strict-methods/plain', { cookie: token })).body).toMatchObject({
        session: { name: 'Grace', source: 'cache' },
      });
      await store.inner.destroy(id);
      expect((await app.send('/strict-methods/plain', { cookie: token })).status).toBe(200);
      expect((await app.send('/strict', { cookie: token })).body).toEqual(UNAUTHORIZED);
      expect((await app.send('/strict-methods/plain', { cookie: token })).status).toBe(401);
    });

    it('asks anew for a token of nobody, and optional routes give a new session for it', async () => {
      const { store, app } = await startStrict();
      for (let i = 1; i <= 3; i++) {
        expect((await app.send('/strict', { cookie: NOBODYS })).body).toEqual(UNAUTHORIZED);
        expectUnstored(await app.send('/strict-methods/optional', { cookie: NOBODYS }));
        expect(store.calls.get).toBe(2 * i);
      }
      expectUnstored(await app.send('/strict-methods/optional'));
      expect((await app.send('/strict', { cookie: 'garbage' })).body).toEqual(UNAUTHORIZED);
      expect(store.calls.get).toBe(6);
    });

    it.each([
      ['on its method', '/strict-methods'],
      ['in a strict class', '/strict'],
    ])(
      'beside @PublicSession(), %s: nothing is looked up, unless @Session() asks, which reads the store',
      async (_where, path) => {
        const { store, app, token, id } = await startStrict();
        expect((await app.send(`${path}/aside`, { cookie: token })).body).toEqual(ASIDE);
        expect(store.calls.get).toBe(0);
        for (let i = 1; i <= 3; i++) {
          expect((await app.send(`${path}/public`, { cookie: token })).body).toMatchObject({
            session: { id, name: 'Ada', source: 'store' },
          });
          expect(store.calls.get).toBe(i);
        }
      },
    );

    it('answers 503 while the store is down, though there is a copy, and other routes go on', async () => {
      const { store, app, token } = await startStrict();
      store.down = true;
      for (const path of ['/strict', '/strict-methods', '/strict-methods/optional']) {
        const reply = await app.send(path, { cookie: token });
        expect([path, reply.status, reply.body]).toEqual([path, 503, UNAVAILABLE]);
      }
      expect(sourceOf(await app.send('/strict-methods/plain', { cookie: token }))).toBe('cache');
    });

    it('one handler of two controllers keeps to what each says, whichever is asked first', async () => {
      const { app, token } = await startStrict();
      const sources: unknown[] = [];
      for (const path of [
        '/strict-child/inherited',
        '/parent/inherited',
        '/parent/inherited',
        '/strict-child/inherited',
        '/parent/inherited',
      ])
        sources.push(sourceOf(await app.send(path, { cookie: token })));
      expect(sources).toEqual(['store', 'cache', 'cache', 'store', 'cache']);
    });

    it('counts as use of the session like any request', async () => {
      const store = new WrappedStore({ exclusive: true });
      const app = await startApp(platform, {
        session: { store, touchInterval: 0 },
        controllers: [StrictController],
      });
      const { token } = await signIn(app);
      await app.send('/strict', { cookie: token });
      await waitFor(() => store.calls.touch === 1);
    });
  });

  describe('as a guard of the whole app', () => {
    @Controller('open')
    class OpenController {
      @Get()
      @PublicSession()
      open() {
        return { open: true };
      }

      @Get('closed')
      closed(@Session() session: ActiveSession<Data>) {
        return describeSession(session);
      }
    }

    it.each([
      ['useExisting', { provide: APP_GUARD, useExisting: SessionGuard }],
      ['useClass', { provide: APP_GUARD, useClass: SessionGuard }],
    ])('APP_GUARD with %s protects every route but the public ones', async (_how, provider) => {
      const app = await startApp(platform, { controllers: [OpenController], providers: [provider] });
      const { token } = await signIn(app);
      expect((await app.send('/open')).body).toEqual({ open: true });
      expect((await app.send('/open/closed')).body).toEqual(UNAUTHORIZED);
      expect((await app.send('/open/closed', { cookie: token })).body).toMatchObject({
        session: { name: 'Ada' },
      });
    });

    it('APP_GUARD beside @UseGuards on the same route is harmless', async () => {
      const app = await startApp(platform, {
        controllers: [MeController],
        providers: [{ provide: APP_GUARD, useExisting: SessionGuard }],
      });
      const { token } = await signIn(app);
      expect((await app.send('/me', { cookie: token })).status).toBe(200);
      expect((await app.send('/me/public')).status).toBe(200);
      expect((await app.send('/me')).status).toBe(401);
    });

    it('app.useGlobalGuards(app.get(SessionGuard)) works too', async () => {
      const app = await startApp(platform, {
        controllers: [OpenController],
        before: (nest) => nest.useGlobalGuards(nest.get(SessionGuard)),
      });
      const { token } = await signIn(app);
      expect((await app.send('/open')).status).toBe(200);
      expect((await app.send('/open/closed')).status).toBe(401);
      expect((await app.send('/open/closed', { cookie: token })).status).toBe(200);
    });
  });

  describe('in a feature module', () => {
    it('needs no import of SessionModule, which is global', async () => {
      @Module({ controllers: [MeController] })
      class FeatureModule {}
      const app = await startApp(platform, { imports: [FeatureModule] });
      const { token } = await signIn(app);
      expect((await app.send('/me', { cookie: token })).status).toBe(200);
    });

    it('with isGlobal: false it imports the module, and shares its sessions with others that do', async () => {
      const sessionModule = SessionModule.forRoot({ isGlobal: false });
      @Module({ imports: [sessionModule], controllers: [MeController] })
      class FeatureModule {}
      @Module({ imports: [sessionModule], controllers: [OptionalController] })
      class OtherModule {}
      const app = await startApp(platform, { session: null, imports: [FeatureModule, OtherModule] });
      const { token, id } = await signIn(app);
      expect((await app.send('/me', { cookie: token })).body).toMatchObject({ session: { id } });
      expect((await app.send('/optional', { cookie: token })).body).toMatchObject({ session: { id } });
    });

    it('with isGlobal: false and no import the boot stops, naming what is missing', async () => {
      @Module({ controllers: [MeController] })
      class FeatureModule {}
      await expect(
        startApp(platform, {
          session: null,
          imports: [SessionModule.forRoot({ isGlobal: false }), FeatureModule],
        }),
      ).rejects.toThrow(/Session(Parameter)?Guard[\s\S]*HttpSessions[\s\S]*FeatureModule/);
    });
  });

  describe('@Session() in a feature module without the guard', () => {
    it('with isGlobal: false works where the module is imported, and stops the boot where it is not', async () => {
      const sessionModule = SessionModule.forRoot({ isGlobal: false });
      @Module({ imports: [sessionModule], controllers: [BareController] })
      class ImportingModule {}
      const app = await startApp(platform, { session: null, imports: [ImportingModule] });
      const { token, id } = await signIn(app);
      expect((await app.send('/bare', { cookie: token })).body).toMatchObject({ session: { id } });
      @Module({ controllers: [BareController] })
      class FeatureModule {}
      await expect(
        startApp(platform, { session: null, imports: [sessionModule, FeatureModule] }),
      ).rejects.toThrow(/SessionParameterGuard[\s\S]*HttpSessions[\s\S]*FeatureModule/);
    });
  });

  describe('@Session() and pipes of the app', () => {
    it('a global pipe gets the session, or the field, as of any other decorator', async () => {
      const seen: unknown[] = [];
      class Watching implements PipeTransform {
        transform(value: unknown, { type }: ArgumentMetadata) {
          if (type === 'custom') seen.push(value);
          return value;
        }
      }
      const app = await startApp(platform, {
        controllers: [BareController],
        providers: [{ provide: APP_PIPE, useClass: Watching }],
      });
      const { token, id } = await signIn(app);
      expect((await app.send('/bare', { cookie: token })).body).toMatchObject({ session: { id } });
      app.cache.clear(); // found by a promise, this time
      expect((await app.send('/bare', { cookie: token })).body).toMatchObject({ session: { id } });
      await app.send('/bare/name', { cookie: token });
      expect(seen).toEqual([expect.any(ActiveSession), expect.any(ActiveSession), 'Ada']);
    });
  });

  describe('subclassed', () => {
    it('asks onDenied, too, about a session that is nobody’s where a user is needed', async () => {
      @Injectable()
      class TeapotGuard extends SessionGuard {
        protected override onDenied() {
          return new ImATeapotException();
        }
      }
      @Controller('teapot')
      @UseGuards(TeapotGuard)
      class TeapotController {
        @Get()
        @RequireUser()
        whole() {
          return ASIDE;
        }
      }
      const app = await startApp(platform, { controllers: [TeapotController] });
      const { token } = await signIn(app);
      expect((await app.send('/teapot', { cookie: token })).status).toBe(418);
    });

    it('takes the request from where getRequest finds it, and answers what onDenied says', async () => {
      @Injectable()
      class TunnelGuard extends SessionGuard {
        protected override getRequest(context: ExecutionContext) {
          const request = super.getRequest(context);
          const tunnelled = request.headers['x-tunnel'];
          return Object.assign(request, {
            headers: {
              ...request.headers,
              ...(tunnelled && { authorization: `Bearer ${String(tunnelled)}` }),
            },
          });
        }

        protected override onDenied(context: ExecutionContext) {
          return new ForbiddenException(`not without a session: ${context.getHandler().name}`);
        }
      }
      @Controller('tunnel')
      @UseGuards(TunnelGuard)
      class TunnelController {
        @Get()
        whole(@Session() session: ActiveSession<Data>) {
          return describeSession(session);
        }
      }
      const app = await startApp(platform, { controllers: [TunnelController] });
      const { token, id } = await signIn(app);
      const accepted = await app.send('/tunnel', { headers: { 'x-tunnel': token } });
      // Fastify's request.headers is an accessor, so this also shows that Object.assign goes through it.
      expect(accepted.body).toMatchObject({ session: { id } });
      expect(await app.send('/tunnel')).toMatchObject({
        status: 403,
        body: { message: 'not without a session: whole' },
      });
    });
  });

  describe('while the store is down', () => {
    const startDown = async (exclusive: boolean) => {
      const store = new WrappedStore({ exclusive });
      const app = await start({ store });
      const { token } = await signIn(app);
      store.down = true;
      return { store, app, token };
    };

    it('public routes work unless they ask for it, all others answer 503 without details, and recover by themselves', async () => {
      const { store, app, token } = await startDown(false);
      for (const path of ['/public/aside', '/me/aside', '/optional/aside'])
        expect(await app.send(path, { cookie: token })).toMatchObject({ status: 200, body: ASIDE });
      for (const path of [
        '/me',
        '/me/name',
        '/me/optional',
        '/optional',
        '/public/optional',
        '/me/public',
        '/public',
        '/optional/public',
        '/public/required',
      ]) {
        const reply = await app.send(path, { cookie: token });
        expect(reply.status, path).toBe(503);
        expect(reply.body, path).toEqual(UNAVAILABLE);
      }
      store.down = false;
      expect((await app.send('/me', { cookie: token })).status).toBe(200);
    });

    it('requests that carry no token, or a malformed one, get what they always get', async () => {
      const { app } = await startDown(false);
      for (const carried of [{}, { cookie: 'garbage' }, { bearer: 'A'.repeat(200) }]) {
        expect((await app.send('/me', carried)).status).toBe(401);
        for (const path of ['/optional', '/public', '/bare']) expectUnstored(await app.send(path, carried));
      }
    });

    it('what the near cache may answer is answered', async () => {
      const { store, app, token } = await startDown(true);
      expect((await app.send('/me', { cookie: token })).body).toMatchObject({ session: { source: 'cache' } });
      expect(store.calls.get).toBe(0);
    });

    it('a background touch that fails leaves no trace on the request', async () => {
      const store = new WrappedStore({ exclusive: true });
      const app = await start({ store, touchInterval: 0 });
      const { token } = await signIn(app);
      store.failing = ['touch'];
      expect((await app.send('/me', { cookie: token })).status).toBe(200);
      await waitFor(() => store.calls.touch > 0);
      expect((await app.send('/me', { cookie: token })).status).toBe(200);
    });

    it('an error that is not ours stays a 500, and is logged', async () => {
      class BrokenStore extends WrappedStore {
        override async get(): Promise<never> {
          throw new TypeError('a bug in the store');
        }
      }
      const app = await start({ store: new BrokenStore() });
      const { token } = await signIn(app);
      expect((await app.send('/me', { cookie: token })).status).toBe(500);
      expect(app.logs.matching(/^error.*a bug in the store/)).toHaveLength(1);
    });
  });

  describe('and the near cache', () => {
    it('a guarded request is one cache hit and no store call; the source tells', async () => {
      const store = new WrappedStore({ exclusive: true });
      const app = await start({ store });
      const { token } = await signIn(app);
      app.cache.clear();
      const sources: unknown[] = [];
      for (let i = 0; i < 3; i++) {
        const before = app.cache.stats();
        const reply = await app.send('/me', { cookie: token });
        const after = app.cache.stats();
        sources.push((reply.body as { session: { source: string } }).session.source);
        expect([after.hits - before.hits, after.misses - before.misses]).toEqual(i === 0 ? [0, 1] : [1, 0]);
      }
      expect(sources).toEqual(['store', 'cache', 'cache']);
      expect(store.calls.get).toBe(1);
    });

    it('a miss is counted once', async () => {
      const app = await start();
      const before = app.cache.stats();
      await app.send('/me', { cookie: NOBODYS });
      expect(app.cache.stats().misses - before.misses).toBe(1);
    });

    it('a request is a touch, at most one per touchInterval, and never moves the absolute deadline', async () => {
      const store = new WrappedStore({ exclusive: true });
      const app = await start({ store, touchInterval: '150ms', idleTimeout: '400ms', absoluteTimeout: '1s' });
      const { token } = await signIn(app);
      const began = performance.now();
      await waitFor(async () => (await app.send('/me', { cookie: token })).status === 401, { intervalMs: 5 });
      const lived = performance.now() - began;
      // Longer than idleTimeout: the requests kept it alive. No longer than absoluteTimeout, whatever they did.
      expect(lived).toBeGreaterThan(800);
      expect(lived).toBeLessThan(2000);
      expect(store.calls.touch).toBeGreaterThan(2);
      expect(store.calls.touch).toBeLessThanOrEqual(Math.ceil(lived / 150));
    });

    it('many requests at once, a touch being due, make one touch', async () => {
      const store = new WrappedStore({ exclusive: true });
      const app = await start({ store, touchInterval: '1s', idleTimeout: '10s' });
      const { token, lastAccess } = await signIn(app);
      await waitFor(() => Date.now() > lastAccess + 1020);
      const replies = await Promise.all(Array.from({ length: 20 }, () => app.send('/me', { cookie: token })));
      expect(replies.every(({ status }) => status === 200)).toBe(true);
      expect(store.calls.touch).toBe(1);
    });

    it('requests without a session, and public ones that do not ask for it, touch nothing', async () => {
      const store = new WrappedStore();
      const app = await start({ store, touchInterval: 0 });
      const { token } = await signIn(app);
      await app.send('/public/aside', { cookie: token });
      await app.send('/optional');
      await app.send('/me', { cookie: NOBODYS });
      expect(store.calls.touch).toBe(0);
      await app.send('/public', { cookie: token });
      await waitFor(() => store.calls.touch === 1);
    });
  });
});

const hex = (character: string) => character.charCodeAt(0).toString(16).padStart(2, '0');

/** Another token of the same form: the last character of a 33-byte token carries six bits. */
const flipLast = (token: string) => token.slice(0, -1) + (token.endsWith('A') ? 'B' : 'A');

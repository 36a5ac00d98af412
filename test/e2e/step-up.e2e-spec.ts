// @RecentLogin() and session.reauthenticated(): who signed in long ago proves again who they are.
import 'reflect-metadata';
import { Controller, Get, Inject, Query, UseGuards } from '@nestjs/common';
import { describe, expect, it } from 'vitest';
import {
  ActiveSession,
  MemorySessionStore,
  OptionalSession,
  RecentLogin,
  RequireUser,
  Session,
  SessionArgumentError,
  SessionGuard,
  SessionService,
} from '../../lib/index.js';
import { ManualClock } from '../support/manual-clock.js';
import { CookieJar } from './support/http-client.js';
import { PLATFORMS, startApp, UNAUTHORIZED, type Data, type Platform } from './support/test-app.js';

const SECOND = 1_000;
const MINUTE = 60_000;
/** The app's estimate of the store's clock runs on while that stands still. */
const LEEWAY = 2 * SECOND;
const STEP_UP = {
  statusCode: 401,
  message: 'Recent login required',
  error: 'Unauthorized',
  code: 'RECENT_LOGIN_REQUIRED',
};

@Controller('guarded')
@UseGuards(SessionGuard)
@RecentLogin('5m')
class GuardedController {
  @Get()
  ofClass() {
    return 'in';
  }

  @Get('method')
  @RecentLogin(60 * MINUTE)
  ofMethod() {
    return 'in';
  }

  @Get('shorter')
  @RecentLogin('1m')
  shorter(@Session() session: ActiveSession<Data>) {
    return session.userId;
  }

  @Get('optional')
  @OptionalSession()
  optional() {
    return 'in';
  }

  @Get('user')
  @RequireUser()
  user() {
    return 'in';
  }
}

@Controller('open')
class OpenController {
  @Get()
  @RecentLogin('5m')
  open(@Session() session: ActiveSession<Data>) {
    return session.userId;
  }

  @Get('field')
  @RecentLogin('5m')
  field(@Session('name') name: string) {
    return name;
  }

  @Get('visit')
  async visit(@Session() session: ActiveSession<Data>) {
    await session.set('views', 1);
    return 'visited';
  }
}

@Controller('auth')
class AuthController {
  constructor(@Inject(SessionService) private readonly sessions: SessionService<Data>) {}

  @Get('login')
  async login(@Session() session: ActiveSession<Data>, @Query('user') user: string) {
    await this.sessions.login(session, user);
    await session.set('name', user);
    return session.id;
  }

  @Get('confirm')
  @UseGuards(SessionGuard)
  async confirm(@Session() session: ActiveSession<Data>) {
    await session.reauthenticated();
    return { id: session.id, userId: session.userId, data: session.data };
  }

  @Get('regenerate')
  @UseGuards(SessionGuard)
  async regenerate(@Session() session: ActiveSession<Data>) {
    await session.regenerate({ idleTimeout: '2h', absoluteTimeout: '30d' });
    return 'regenerated';
  }
}

/** An app whose time the test moves, and a client. */
async function start(platform: Platform) {
  const clock = new ManualClock();
  const app = await startApp(platform, {
    session: { store: new MemorySessionStore({ clock }), cache: false },
    controllers: [GuardedController, OpenController, AuthController],
  });
  const client = new CookieJar(app.url);
  const get = async (path: string) => {
    const { status, body } = await client.ask(path);
    return status === 200 ? body : (body ?? status);
  };
  return { app, clock, client, get };
}

describe.each(PLATFORMS)('@RecentLogin() on %s', (platform) => {
  it.each([
    ['/guarded', 'in'],
    ['/guarded/optional', 'in'],
    ['/guarded/user', 'in'],
    ['/open', 'ann'],
    ['/open/field', 'ann'],
  ])(
    '%s: lets in for 5 minutes after a login, then 401 with a code, and again after another login',
    async (path, inside) => {
      const { clock, get, client } = await start(platform);
      await client.ask('/auth/login?user=ann');
      expect(await get(path)).toBe(inside);
      clock.advance(5 * MINUTE - LEEWAY);
      expect(await get(path)).toBe(inside);
      clock.advance(2 * LEEWAY);
      expect(await client.ask(path)).toMatchObject({ status: 401, body: STEP_UP });
      expect(await get(path)).toEqual(STEP_UP);
      await client.ask('/auth/login?user=ann');
      expect(await get(path)).toBe(inside);
      clock.advance(5 * MINUTE + LEEWAY);
      expect(await get(path)).toEqual(STEP_UP);
    },
  );

  it('reauthenticated() lets in again: a new token, the same user and data, and the old token is refused', async () => {
    const { app, clock, client, get } = await start(platform);
    await client.ask('/auth/login?user=ann');
    const old = client.value()!;
    clock.advance(10 * MINUTE);
    expect(await get('/guarded')).toEqual(STEP_UP);
    const before = (await app.sessions.get(old))!;
    const confirmed = (await get('/auth/confirm')) as { id: string };
    expect(confirmed).toEqual({ id: expect.any(String), userId: 'ann', data: { name: 'ann' } });
    expect(confirmed.id).not.toBe(before.id);
    expect(client.value()).not.toBe(old);
    expect(await get('/guarded')).toBe('in');
    expect(await get('/open')).toBe('ann');
    expect(await app.send('/guarded', { cookie: old })).toMatchObject({ status: 401, body: UNAUTHORIZED });
    expect(await app.send('/auth/confirm', { cookie: old })).toMatchObject({ status: 401 });
    const after = (await app.sessions.get(client.value()))!;
    expect([after.createdAt, after.expiresAt! - after.lastAccess]).toEqual([before.createdAt, 30 * MINUTE]);
    expect(Math.abs(after.lastAuthenticatedAt! - clock.wall())).toBeLessThan(LEEWAY);
    expect(before.lastAuthenticatedAt).toBe(before.createdAt);
  });

  it('what was set on a method goes before what was set on its class, longer or shorter', async () => {
    const { clock, client, get } = await start(platform);
    await client.ask('/auth/login?user=ann');
    clock.advance(2 * MINUTE);
    expect([await get('/guarded'), await get('/guarded/shorter')]).toEqual(['in', STEP_UP]);
    clock.advance(20 * MINUTE);
    expect([await get('/guarded'), await get('/guarded/method')]).toEqual([STEP_UP, 'in']);
  });

  it('use of the session and a new token without a login do not make a login recent', async () => {
    const { clock, client, get } = await start(platform);
    await client.ask('/auth/login?user=ann');
    for (let minutes = 0; minutes < 6; minutes += 2) {
      clock.advance(2 * MINUTE);
      expect(await get('/open/visit')).toBe('visited');
      expect(await get('/auth/regenerate')).toBe('regenerated');
      expect(await get('/guarded')).toEqual(minutes < 4 ? 'in' : STEP_UP);
    }
  });

  it('without a session: the guard’s plain 401; where it lets visitors in, or is not, 401 with the code', async () => {
    const { get, client } = await start(platform);
    for (const path of ['/guarded', '/guarded/method', '/guarded/user'])
      expect(await client.ask(path)).toMatchObject({ status: 401, body: UNAUTHORIZED });
    for (const path of ['/guarded/optional', '/open', '/open/field']) {
      const { status, cookies } = await client.ask(path);
      expect([status, cookies]).toEqual([401, []]);
      expect(await get(path)).toEqual(STEP_UP);
    }
  });

  it('a visitor’s session proves nothing: 401 with the code, plain where a user is required', async () => {
    const { client, get } = await start(platform);
    await client.ask('/open/visit');
    for (const path of ['/guarded', '/guarded/method', '/guarded/optional', '/open', '/open/field'])
      expect(await get(path)).toEqual(STEP_UP);
    expect(await get('/guarded/user')).toEqual(UNAUTHORIZED);
    expect(await client.ask('/auth/confirm')).toMatchObject({ status: 500 }); // a mistake of the app's
  });
});

describe('RecentLogin()', () => {
  it.each([undefined, null, 0, -1, 5, 'soon', '5', '500ms', '400d', NaN, {}])(
    'refuses the duration %j while the class is defined',
    (within) => {
      expect(() => RecentLogin(within as never)).toThrow(SessionArgumentError);
      expect(() => RecentLogin(within as never)).toThrow(
        expect.objectContaining({ argument: '@RecentLogin()' }),
      );
    },
  );
});

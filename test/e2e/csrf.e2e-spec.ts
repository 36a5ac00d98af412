import 'reflect-metadata';
import { All, Controller, Get, HttpCode, Inject, Module, Post, UseGuards } from '@nestjs/common';
import { APP_GUARD, NestFactory } from '@nestjs/core';
import { ExpressAdapter, type NestExpressApplication } from '@nestjs/platform-express';
import { FastifyAdapter } from '@nestjs/platform-fastify';
import { describe, expect, it, onTestFinished } from 'vitest';
import {
  ActiveSession,
  CsrfGuard,
  OptionalSession,
  Session,
  SessionGuard,
  SessionModule,
  SessionService,
  SkipCsrf,
  type SessionModuleOptions,
} from '../../lib/index.js';
import { waitFor } from '../support/wait-for.js';
import { ask, CookieJar, type Answer, type Ask } from './support/http-client.js';
import { Logs, PLATFORMS, startApp, type Data, type Platform, type TestApp } from './support/test-app.js';
import { WrappedStore } from './support/wrapped-store.js';

const CROSS_SITE = { statusCode: 403, message: 'This request came from another site' };
const WRONG_TOKEN = { statusCode: 403, message: 'The CSRF token is missing or wrong', error: 'Forbidden' };
const UNAVAILABLE = { statusCode: 503, message: 'Try again later', error: 'Service Unavailable' };

type Visitor = ActiveSession<Data>;

function change(session: Visitor) {
  session.data.views = (session.data.views ?? 0) + 1;
  return { views: session.data.views };
}

@Controller()
class PlainController {
  constructor(@Inject(SessionService) private readonly sessions: SessionService<Data>) {}

  @All('change')
  change(@Session() session: Visitor) {
    return change(session);
  }

  @All('guarded')
  @UseGuards(SessionGuard)
  guarded() {
    return { ok: true };
  }

  @All('optional')
  @UseGuards(SessionGuard)
  @OptionalSession()
  optional() {
    return { ok: true };
  }

  @Post('login')
  @HttpCode(200)
  async login(@Session() session: Visitor) {
    await this.sessions.login(session, 'ada');
    return { id: session.id };
  }

  @Post('no-session')
  @HttpCode(200)
  noSession() {
    return { ok: true };
  }

  @Post('callback')
  @HttpCode(200)
  @SkipCsrf()
  callback(@Session() session: Visitor) {
    return change(session);
  }

  @Post('guarded-callback')
  @HttpCode(200)
  @UseGuards(SessionGuard)
  @SkipCsrf()
  guardedCallback() {
    return { ok: true };
  }
}

@Controller('skipped')
@SkipCsrf()
class SkippedController {
  @Post()
  @HttpCode(200)
  change(@Session() session: Visitor) {
    return change(session);
  }

  @Post('checked')
  @HttpCode(200)
  @SkipCsrf(false)
  checked(@Session() session: Visitor) {
    return change(session);
  }
}

@Controller('token')
@UseGuards(CsrfGuard)
class TokenController {
  @Get()
  token(@Session() session: Visitor) {
    return { token: session.csrfToken() };
  }

  @All('change')
  change(@Session() session: Visitor) {
    return change(session);
  }

  @Post('skipped')
  @HttpCode(200)
  @SkipCsrf()
  skipped(@Session() session: Visitor) {
    return change(session);
  }

  @Post('regenerate')
  @HttpCode(200)
  async regenerate(@Session() session: Visitor) {
    await session.regenerate();
    return { token: session.csrfToken() };
  }
}

const start = (platform: Platform, session: SessionModuleOptions = {}) =>
  startApp(platform, { session, controllers: [PlainController, SkippedController, TokenController] });

async function signedIn(app: TestApp) {
  const { token } = await app.sessions.create({ name: 'Ada' });
  return { token, cookie: `sid=${token}`, authorization: `Bearer ${token}` };
}

const viewsOf = async (app: TestApp, token: string) =>
  (await app.sessions.get(token, { fresh: true }))?.data.views;

const EVIL = { origin: 'https://evil.test', 'sec-fetch-site': 'cross-site' };

describe.each(PLATFORMS)('requests that another site may have caused, over %s', (platform) => {
  // What a request says of itself; whether it is let through, and whether so with csrf: 'strict'.
  const OWN = 'the app’s own';
  it.each<[site: string | undefined, origin: string | undefined, lax: boolean, strict: boolean]>([
    [undefined, undefined, true, false],
    [undefined, OWN, true, true],
    [undefined, 'https://evil.test', false, false],
    [undefined, 'null', false, false],
    ['same-origin', OWN, true, true],
    ['none', undefined, true, true],
    ['same-site', 'https://other.app.test', true, false],
    ['cross-site', undefined, false, false],
    ['cross-site', OWN, false, false],
    ['cross-site', 'https://evil.test', false, false],
  ])('Sec-Fetch-Site %s, Origin %s', async (site, origin, lax, strict) => {
    for (const [csrf, passes] of [
      [true, lax],
      ['strict', strict],
      [false, true],
    ] as const) {
      const app = await start(platform, { csrf });
      const { token, cookie } = await signedIn(app);
      const headers = {
        ...(site !== undefined && { 'sec-fetch-site': site }),
        ...(origin !== undefined && { origin: origin === OWN ? app.url : origin }),
      };
      for (const method of ['POST', 'PUT', 'PATCH', 'DELETE'])
        for (const path of ['/change', '/guarded', '/optional']) {
          const answer = await ask(app.url + path, { method, headers: { ...headers, cookie } });
          expect(answer.status, `${method} ${path}, csrf: ${csrf}`).toBe(passes ? 200 : 403);
          if (!passes) expect(answer.body).toMatchObject(CROSS_SITE);
          expect(answer.cookies).toEqual([]);
        }
      expect(await viewsOf(app, token)).toBe(passes ? 4 : undefined);
      for (const method of ['GET', 'HEAD', 'OPTIONS']) {
        const answer = await ask(`${app.url}/change`, { method, headers: { ...headers, cookie } });
        expect(answer.status, `${method}, csrf: ${csrf}`).toBe(200);
      }
    }
  });

  it('are refused at a login, too, where there is no cookie yet: nobody is signed in as somebody else', async () => {
    const wrapped = new WrappedStore();
    const app = await start(platform, { store: wrapped });
    for (const path of ['/login', '/change', '/optional']) {
      const answer = await ask(app.url + path, { method: 'POST', headers: EVIL });
      expect([answer.status, answer.cookies], path).toEqual([403, []]);
    }
    expect(wrapped.calls).toMatchObject({ create: 0, set: 0 });
    expect((await ask(`${app.url}/login`, { method: 'POST', headers: { origin: app.url } })).status).toBe(
      200,
    );
  });

  it('are refused with a cookie that leads nowhere, and with 401 where a session is needed', async () => {
    const app = await start(platform);
    const headers = { ...EVIL, cookie: `sid=${'A'.repeat(44)}` };
    expect((await ask(`${app.url}/change`, { method: 'POST', headers })).status).toBe(403);
    expect((await ask(`${app.url}/guarded`, { method: 'POST', headers })).status).toBe(401);
  });

  it('are let through where no session is used', async () => {
    const app = await start(platform);
    const { cookie } = await signedIn(app);
    const answer = await ask(`${app.url}/no-session`, { method: 'POST', headers: { ...EVIL, cookie } });
    expect(answer.status).toBe(200);
  });

  describe('with a bearer token', () => {
    it('are let through: no site can set one', async () => {
      const app = await start(platform, { csrf: 'strict' });
      const { token, authorization } = await signedIn(app);
      for (const path of ['/change', '/guarded'])
        expect(
          (await ask(app.url + path, { method: 'POST', headers: { ...EVIL, authorization } })).status,
        ).toBe(200);
      expect(await viewsOf(app, token)).toBe(1);
    });

    it('that leads nowhere, and a valid cookie, are checked: the session came from the cookie', async () => {
      const app = await start(platform, { transport: ['bearer', 'cookie'] });
      const { token, cookie } = await signedIn(app);
      for (const authorization of [`Bearer ${'A'.repeat(44)}`, 'Bearer x', 'Basic eDp5', 'Bearer'])
        for (const path of ['/change', '/guarded']) {
          const headers = { ...EVIL, authorization, cookie };
          expect((await ask(app.url + path, { method: 'POST', headers })).status, authorization).toBe(403);
        }
      expect(await viewsOf(app, token)).toBeUndefined();
    });

    it('and a valid cookie are checked where the cookie counts, and not where the token does', async () => {
      for (const [transport, status] of [
        [['cookie', 'bearer'], 403],
        [['bearer', 'cookie'], 200],
      ] as const) {
        const app = await start(platform, { transport });
        const [one, other] = [await signedIn(app), await signedIn(app)];
        const headers = { ...EVIL, cookie: one.cookie, authorization: other.authorization };
        expect((await ask(`${app.url}/change`, { method: 'POST', headers })).status).toBe(status);
      }
    });

    it('and a cookie that leads nowhere are let through', async () => {
      const app = await start(platform);
      const { authorization } = await signedIn(app);
      const headers = { ...EVIL, authorization, cookie: `sid=${'A'.repeat(44)}` };
      expect((await ask(`${app.url}/change`, { method: 'POST', headers })).status).toBe(200);
    });

    it('only, as the app’s transport: nothing is checked', async () => {
      const app = await start(platform, { transport: 'bearer', csrf: 'strict' });
      expect((await ask(`${app.url}/change`, { method: 'POST', headers: EVIL })).status).toBe(200);
    });
  });

  it('are checked for a transport of one’s own that browsers send by themselves, and for no other', async () => {
    for (const ambient of [true, false]) {
      const app = await start(platform, {
        transport: { ambient, read: ({ headers }) => headers['x-device'] as string | undefined },
      });
      const { token } = await signedIn(app);
      const headers = { ...EVIL, 'x-device': token };
      const answer = await ask(`${app.url}/guarded`, { method: 'POST', headers });
      expect(answer.status).toBe(ambient ? 403 : 200);
    }
  });

  it('of allowed origins are let through, those only', async () => {
    const app = await start(platform, { csrf: { allowedOrigins: ['https://spa.test'] } });
    const { cookie } = await signedIn(app);
    const from = async (origin: string) =>
      (
        await ask(`${app.url}/change`, {
          method: 'POST',
          headers: { cookie, origin, 'sec-fetch-site': 'cross-site' },
        })
      ).status;
    expect(await from('https://spa.test')).toBe(200);
    for (const origin of ['http://spa.test', 'https://spa.test.evil.test', 'https://evil.test', 'null'])
      expect(await from(origin), origin).toBe(403);
  });

  it('@SkipCsrf() lets them through on a method and on a class, and @SkipCsrf(false) takes it back', async () => {
    const app = await start(platform, { csrf: 'strict' });
    const { cookie } = await signedIn(app);
    for (const [path, status] of [
      ['/callback', 200],
      ['/guarded-callback', 200],
      ['/skipped', 200],
      ['/skipped/checked', 403],
      ['/change', 403],
    ] as const)
      expect((await ask(app.url + path, { method: 'POST', headers: { ...EVIL, cookie } })).status, path).toBe(
        status,
      );
  });

  it('behind a guard of the whole app are refused once, and before the handler runs', async () => {
    let runs = 0;
    @Controller()
    class CountingController {
      @Post('count')
      @HttpCode(200)
      count() {
        runs++;
      }
    }
    const app = await startApp(platform, {
      controllers: [CountingController],
      providers: [{ provide: APP_GUARD, useExisting: SessionGuard }],
    });
    const { cookie } = await signedIn(app);
    expect((await ask(`${app.url}/count`, { method: 'POST', headers: { ...EVIL, cookie } })).status).toBe(
      403,
    );
    expect(runs).toBe(0);
    expect((await ask(`${app.url}/count`, { method: 'POST', headers: { cookie } })).status).toBe(200);
    expect(runs).toBe(1);
  });

  it('behind a proxy, the host that the browser asked for counts where the proxy is trusted', async () => {
    for (const trusted of [true, false]) {
      class AppModule {}
      Module({ imports: [SessionModule.forRoot({})], controllers: [PlainController] })(AppModule);
      const options = { logger: new Logs(), abortOnError: false };
      const app =
        platform === 'express'
          ? await NestFactory.create(AppModule, new ExpressAdapter(), options)
          : await NestFactory.create(AppModule, new FastifyAdapter({ trustProxy: trusted }), options);
      onTestFinished(() => app.close());
      if (platform === 'express') (app as unknown as NestExpressApplication).set('trust proxy', trusted);
      await app.listen(0, '127.0.0.1');
      const url = await app.getUrl();
      const post = async (headers: Record<string, string>) =>
        (await ask(`${url}/change`, { method: 'POST', headers })).status;
      const forwarded = { 'x-forwarded-host': 'app.test', 'x-forwarded-proto': 'https' };
      expect(await post({ ...forwarded, origin: 'https://app.test' })).toBe(trusted ? 200 : 403);
      expect(await post({ ...forwarded, origin: 'https://evil.test' })).toBe(403);
      // A proxy that hands the Host header on.
      expect(await post({ host: 'app.test', origin: 'https://app.test' })).toBe(200);
    }
  });
});

describe.each(PLATFORMS)('CsrfGuard over %s', (platform) => {
  async function visit(app: TestApp) {
    const jar = new CookieJar(app.url);
    const { token } = (await jar.ask('/token')).body as { token: string };
    return { jar, token };
  }

  const form = (body: string) => ({
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body,
  });
  const json = (body: unknown) => ({
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });

  it('gives a visitor a token, for which the session is stored and the cookie set', async () => {
    const app = await start(platform);
    const { jar, token } = await visit(app);
    expect(token).toMatch(/^[\w-]{43}$/);
    expect(jar.value()).toMatch(/^[\w-]{44}$/);
    expect(token).not.toContain(jar.value()!.slice(0, 10));
    expect((await jar.ask('/token')).body).toEqual({ token });
  });

  it('lets unsafe requests through with the token in the header, a form field or a JSON field', async () => {
    const app = await start(platform);
    const { jar, token } = await visit(app);
    const ways: Ask[] = [
      { method: 'POST', headers: { 'x-csrf-token': token } },
      { method: 'POST', headers: { 'X-CSRF-Token': token } },
      form(`_csrf=${token}&other=1`),
      json({ _csrf: token }),
    ];
    for (const [index, way] of ways.entries())
      expect((await jar.ask('/token/change', way)).body).toEqual({ views: index + 1 });
    for (const method of ['PUT', 'PATCH', 'DELETE'])
      expect((await jar.ask('/token/change', { method, headers: { 'x-csrf-token': token } })).status).toBe(
        200,
      );
  });

  it('refuses them without it, or with a wrong one', async () => {
    const app = await start(platform);
    const { jar, token } = await visit(app);
    const { token: others } = await visit(app);
    const expectRefused = (answer: Answer, what: string) =>
      expect([answer.status, answer.body, answer.cookies], what).toEqual([403, WRONG_TOKEN, []]);
    expectRefused(await jar.ask('/token/change', { method: 'POST' }), 'none');
    for (const wrong of [
      others,
      '',
      'x',
      token.slice(1),
      `${token}x`,
      'x'.repeat(43),
      jar.value()!,
      token.toLowerCase(),
    ]) {
      expectRefused(
        await jar.ask('/token/change', { method: 'POST', headers: { 'x-csrf-token': wrong } }),
        `header ${wrong}`,
      );
      expectRefused(await jar.ask('/token/change', form(`_csrf=${wrong}`)), `form ${wrong}`);
    }
    for (const body of [
      { _csrf: [token] },
      { _csrf: { token } },
      { _csrf: null },
      { _csrf: 43 },
      { csrf: token },
      [token],
    ])
      expectRefused(await jar.ask('/token/change', json(body)), JSON.stringify(body));
    expectRefused(await jar.ask('/token/change', form(`_csrf=${token}&_csrf=${token}`)), 'twice');
    const inherited = await jar.ask('/token/change', json(JSON.parse(`{"__proto__":{"_csrf":"${token}"}}`)));
    expect([400, 403], 'Fastify refuses such a body by itself').toContain(inherited.status);
    expectRefused(
      await jar.ask('/token/change', {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-csrf-token': others },
        body: JSON.stringify({ _csrf: token }),
      }),
      'a wrong header beside a right field',
    );
    for (const method of ['PUT', 'PATCH', 'DELETE'])
      expectRefused(await jar.ask('/token/change', { method }), method);
    expectRefused(
      await ask(`${app.url}/token/change?_csrf=${token}`, {
        method: 'POST',
        headers: { cookie: jar.header },
      }),
      'URL',
    );
    expect(await viewsOf(app, jar.value()!)).toBeUndefined();
  });

  it('refuses a visitor who has no session, and one whose session is another', async () => {
    const app = await start(platform);
    const { token } = await visit(app);
    const headers = { 'x-csrf-token': token };
    expect((await ask(`${app.url}/token/change`, { method: 'POST', headers })).body).toEqual(WRONG_TOKEN);
    const { jar } = await visit(app);
    expect((await jar.ask('/token/change', { method: 'POST', headers })).body).toEqual(WRONG_TOKEN);
  });

  it('lets safe requests, bearer tokens and @SkipCsrf() routes through without it', async () => {
    const app = await start(platform);
    const { jar } = await visit(app);
    for (const method of ['GET', 'HEAD', 'OPTIONS'])
      expect((await jar.ask('/token/change', { method })).status, method).toBe(200);
    const { authorization } = await signedIn(app);
    expect(
      (await ask(`${app.url}/token/change`, { method: 'POST', headers: { authorization } })).status,
    ).toBe(200);
    expect((await jar.ask('/token/skipped', { method: 'POST' })).status).toBe(200);
  });

  it('wants a new token after regenerate()', async () => {
    const app = await start(platform);
    const { jar, token } = await visit(app);
    const { body } = await jar.ask('/token/regenerate', {
      method: 'POST',
      headers: { 'x-csrf-token': token },
    });
    const { token: next } = body as { token: string };
    expect(next).not.toBe(token);
    const post = async (value: string) =>
      (await jar.ask('/token/change', { method: 'POST', headers: { 'x-csrf-token': value } })).status;
    expect([await post(token), await post(next)]).toEqual([403, 200]);
  });

  it('takes its token beside the check of the site, not in its place', async () => {
    const app = await start(platform);
    const { jar, token } = await visit(app);
    const answer = await jar.ask('/token/change', {
      method: 'POST',
      headers: { ...EVIL, 'x-csrf-token': token },
    });
    expect(answer.body).toMatchObject(CROSS_SITE);
  });

  it('works with csrf: false, which only switches off the check of the site', async () => {
    const app = await start(platform, { csrf: false });
    const { jar, token } = await visit(app);
    expect((await jar.ask('/token/change', { method: 'POST', headers: EVIL })).body).toEqual(WRONG_TOKEN);
    const headers = { ...EVIL, 'x-csrf-token': token };
    expect((await jar.ask('/token/change', { method: 'POST', headers })).status).toBe(200);
  });

  it('answers 503 while the store is down, and goes on afterwards', async () => {
    const wrapped = new WrappedStore();
    const app = await start(platform, { store: wrapped });
    const { jar, token } = await visit(app);
    wrapped.down = true;
    const request = { method: 'POST', headers: { 'x-csrf-token': token } };
    const answer = await jar.ask('/token/change', request);
    expect([answer.status, answer.body, answer.cookies]).toEqual([503, UNAVAILABLE, []]);
    wrapped.down = false;
    await waitFor(async () => (await jar.ask('/token/change', request)).status === 200);
  });
});

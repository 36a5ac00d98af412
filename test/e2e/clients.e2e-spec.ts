// Clients other than those of the other files: supertest, as apps use it in tests of their own, and whoever sends 64 KB of
// cookies to a server that takes them. curl and Chromium: cookies.e2e-spec.ts.
import 'reflect-metadata';
import { createServer } from 'node:http';
import { Controller, Get, HttpCode, Inject, Post, UseGuards, type INestApplication } from '@nestjs/common';
import supertest from 'supertest';
import { describe, expect, it, onTestFinished } from 'vitest';
import { ActiveSession, Session, SessionGuard, SessionService } from '../../lib/index.js';
import { ask, cookieOf } from './support/http-client.js';
import {
  createApp,
  Logs,
  PLATFORMS,
  startApp,
  UNAUTHORIZED,
  type Data,
  type Platform,
} from './support/test-app.js';
import { onRedis } from './support/test-redis.js';

const STORES = ['memory', 'Redis'] as const;
const EVERYWHERE = PLATFORMS.flatMap((platform) => STORES.map((store) => [platform, store] as const));

const TOKEN = /^[\w-]{44}$/;

@Controller()
class AppController {
  constructor(@Inject(SessionService) private readonly sessions: SessionService<Data>) {}

  @Get('views')
  views(@Session() session: ActiveSession<Data>) {
    session.data.views = (session.data.views ?? 0) + 1;
    return { views: session.data.views };
  }

  @Get('look')
  look(@Session() session: ActiveSession<Data>) {
    return { stored: session.isStored, views: session.data.views ?? 0 };
  }

  @Get('me')
  @UseGuards(SessionGuard)
  me(@Session() session: ActiveSession<Data>) {
    return { user: session.userId };
  }

  @Post('login')
  @HttpCode(200)
  async login(@Session() session: ActiveSession<Data>) {
    await this.sessions.login(session, 'ada');
    return { user: session.userId };
  }

  @Post('logout')
  @HttpCode(204)
  async logout(@Session() session: ActiveSession<Data>) {
    await session.destroy();
  }
}

/** An app as tests of apps make it: initialized, and listening only while supertest asks. */
async function testing(platform: Platform, store: (typeof STORES)[number]): Promise<INestApplication> {
  const logs = new Logs();
  const session = store === 'Redis' ? onRedis() : {};
  const app = await createApp(platform, { session, controllers: [AppController] }, logs);
  await app.init();
  if (platform === 'fastify') await app.getHttpAdapter().getInstance().ready();
  onTestFinished(() => expect(logs.matching(/^(error|fatal)/)).toEqual([]));
  return app;
}

describe.each(EVERYWHERE)('an agent of supertest over %s and %s', (platform, store) => {
  const agentOf = (app: INestApplication) => {
    const agent = supertest.agent(app.getHttpServer());
    const token = () =>
      agent.jar.getCookie('sid', { domain: '127.0.0.1', path: '/', secure: false, script: false })?.value;
    return { agent, token };
  };
  const tokenIn = ({ headers }: supertest.Response) =>
    cookieOf({ cookies: (headers['set-cookie'] as unknown as string[] | undefined) ?? [] });

  it('counts its views by the one cookie it got; another agent counts its own', async () => {
    const app = await testing(platform, store);
    const { agent, token } = agentOf(app);
    const first = await agent.get('/views').expect(200, { views: 1 });
    expect(tokenIn(first)).toMatch(TOKEN);
    for (let views = 2; views <= 5; views++) {
      const answer = await agent.get('/views').expect(200, { views });
      expect(answer.headers).not.toHaveProperty('set-cookie');
    }
    expect(token()).toBe(tokenIn(first));
    await agentOf(app).agent.get('/views').expect(200, { views: 1 });
    await supertest(app.getHttpServer()).get('/look').expect(200, { stored: false, views: 0 });
  });

  it('signs in, which changes its cookie, and out, which clears it; then the guarded route is 401', async () => {
    const app = await testing(platform, store);
    const { agent, token } = agentOf(app);
    await agent.get('/me').expect(401, UNAUTHORIZED);
    await agent.get('/views').expect(200, { views: 1 });
    const visitors = token();

    const login = await agent.post('/login').expect(200, { user: 'ada' });
    expect(tokenIn(login)).toMatch(TOKEN);
    expect(token()).toBe(tokenIn(login));
    expect(token()).not.toBe(visitors);
    await agent.get('/me').expect(200, { user: 'ada' });
    await agent.get('/views').expect(200, { views: 2 });
    const withOld = supertest(app.getHttpServer()).get('/me').set('Cookie', `sid=${visitors}`);
    await withOld.expect(401, UNAUTHORIZED);

    const adas = token();
    const logout = await agent.post('/logout').expect(204);
    expect([tokenIn(logout), token()]).toEqual(['', undefined]);
    await agent.get('/me').expect(401, UNAUTHORIZED);
    const withAdas = supertest(app.getHttpServer()).get('/me').set('Cookie', `sid=${adas}`);
    await withAdas.expect(401, UNAUTHORIZED);
    await agent.get('/views').expect(200, { views: 1 });
  });
});

describe.each(PLATFORMS)('a server over %s that takes 256 KB of headers', (platform) => {
  /** A listening app of which the same routes can be had with larger headers than Node takes by itself. */
  async function roomy() {
    const app = await startApp(platform, { controllers: [AppController] });
    const server = createServer({ maxHeaderSize: 256 * 1024 }, (request, response) => {
      app.app.getHttpServer().emit('request', request, response);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    onTestFinished(() => void server.close());
    const { port } = server.address() as { port: number };
    return { app, url: `http://127.0.0.1:${port}` };
  }

  const LONG = 'x'.repeat(65_536);
  const headers: [what: string, cookie: (token: string) => string][] = [
    ['one value', () => `sid=${LONG}`],
    ['a quoted value', (token) => `sid="${token}${LONG}"`],
    ['a token with more behind it', (token) => `sid=${token}${LONG}`],
    ['one name', (token) => `sid${LONG}=${token}`],
    ['invalid escapes', () => `sid=${'%E0%A4%A'.repeat(8_192)}`],
    [
      'a name of every prototype',
      (token) => `asid=x; ${`__proto__=${token}; constructor=${token}; `.repeat(600)}`,
    ],
    ['semicolons', () => `${';'.repeat(65_536)}sid`],
    ['duplicates, the session’s after them', (token) => `${'sid=x; '.repeat(9_000)}sid=${token}`],
  ];

  it.each(headers)(
    '64 KB of %s: a visitor without a session, and nothing is stored or set',
    async (_what, cookie) => {
      const { app, url } = await roomy();
      const session = await app.sessions.create({ name: 'Ada', views: 7 });
      const answer = await ask(`${url}/look`, { headers: { cookie: cookie(session.token) } });
      expect([answer.status, answer.cookies, answer.body]).toEqual([200, [], { stored: false, views: 0 }]);
      const guarded = await ask(`${url}/me`, { headers: { cookie: cookie(session.token) } });
      expect([guarded.status, guarded.cookies, guarded.body]).toEqual([401, [], UNAUTHORIZED]);
      expect(app.logs.matching(/^(warn|error|fatal)/)).toEqual([]);
    },
  );

  it('a session’s cookie is found before and behind 64 KB of others', async () => {
    const { app, url } = await roomy();
    const { token } = await app.sessions.create({ name: 'Ada', views: 7 });
    const others = `a=%E0%A4%A; __proto__=x; b="${LONG}; =; ;`;
    for (const cookie of [`${others} sid=${token}`, `sid=${token}; ${others}`, `sid=${token}; sid=${LONG}`]) {
      const { status, body } = await ask(`${url}/look`, { headers: { cookie } });
      expect([status, body], cookie.slice(0, 60)).toEqual([200, { stored: true, views: 7 }]);
    }
  });
});
